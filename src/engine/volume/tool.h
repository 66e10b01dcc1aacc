/* Inside engine/volume: other people's programs. */
#ifndef ENGINE_VOLUME_TOOL_H
#define ENGINE_VOLUME_TOOL_H

#include <stddef.h>

struct buffer;
struct error;

/* Where a program in the jail finds what was given as `input`. */
#define TOOL_INPUT "/dev/stdin"

/*
 * Run argv in a jail that sees `folder` and may write in it.  `package`: where Debian has the
 * program.  UNSUPPORTED: it is missing; FULL; OS with its last words.
 */
int tool_run(const char *const *argv, const char *package, const char *folder, const void *input,
             size_t input_length, struct error *err);

#endif
