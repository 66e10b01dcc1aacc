/* A network namespace of the test's own: nothing of the host is touched. */
#ifndef TEST_UNIT_ENGINE_NET_WORLD_H
#define TEST_UNIT_ENGINE_NET_WORLD_H

#include <stdbool.h>

struct buffer;

/* Enter it; skips the test where this needs more than we are. */
void world_enter(void);

/* Run a program with the words of `line`, which are parted by single blanks; its exit status.
 * Skips the test when there is no such program. */
int world_run(const char *line);

/* The same; what it said is appended. */
int world_ask(const char *line, struct buffer *output);

/* Does what it says contain this? */
bool world_says(const char *line, const char *part);

#endif
