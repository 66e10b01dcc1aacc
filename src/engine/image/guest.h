/*
 * What a runner of microvm.nix boots: its guest, apart from the VMM that it would become.
 *
 * A runner is a folder whose bin/microvm-run ends in `exec ... qemu-system-x86_64 ...`, words in
 * single quotes as nixpkgs' escapeShellArgs writes them.  Nothing of it is run: the words are read.
 * What they say besides a kernel, an initrd, words for it and one disk that is only read is
 * refused: a guest that would miss it is not what was described.
 */
#ifndef ENGINE_IMAGE_GUEST_H
#define ENGINE_IMAGE_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

enum { GUEST_WORDS_MAX = 1024 };

struct guest {
    char *kernel;
    char *initrd;
    char *words; /* for the kernel: at most GUEST_WORDS_MAX printable letters */
    char *root;  /* its disk, or NULL */
    uint64_t memory_bytes;
};

/* Of a program's text.  INVALID: it starts no QEMU that boots a kernel; UNSUPPORTED: it wants what
 * is not there for it, with what to do. */
int guest_parse(const char *text, size_t length, struct guest *ret_guest, struct error *err);
/* Of a runner at `path`; NOT_FOUND: it is none. */
int guest_read(const char *path, struct guest *ret_guest, struct error *err);
void guest_done(struct guest *guest);

/* Images that deploys make of runners are called by what is in them: this and 32 digits. */
#define GUEST_IMAGE_PREFIX "runner-"
enum { GUEST_IMAGE_DIGITS = 32 };
bool guest_image_is_made(const char *name);

#endif
