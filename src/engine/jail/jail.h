/*
 * Confinement: namespaces, an empty root, rlimits, seccomp, privilege drop.
 *
 * A jail is described by a value and entered by the process that is to be confined, between fork
 * and exec or at its start.  What cannot be had (no user namespaces for an ordinary user, say) is
 * left out and reported, unless it is required.  Sources: namespaces(7), user_namespaces(7),
 * pivot_root(2), seccomp(2), capabilities(7).
 */
#ifndef ENGINE_JAIL_JAIL_H
#define ENGINE_JAIL_JAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct error;

struct jail_mount {
    const char *source; /* on the host */
    const char *target; /* inside, absolute */
    bool writable;
    bool optional; /* skip when the source does not exist */
};

enum jail_filter {
    JAIL_FILTER_NONE,
    JAIL_FILTER_TOOL,   /* compilers: files, processes; no network, no ptrace, no mount, no bpf */
    JAIL_FILTER_RUNNER, /* blixard-runner: KVM, memory, its sockets, threads; see filter.c */
    JAIL_FILTER_RUNNER_FORK, /* the same and processes, for the process sandbox */
};

struct jail_options {
    const struct jail_mount *mounts; /* the whole file system it will see; NULL: an empty one */
    size_t mount_count;
    bool keep_filesystem; /* no mount namespace at all */
    bool network;         /* keep the network */
    bool new_pid;         /* own pid namespace (takes effect for its children) */
    uid_t uid;            /* taken on when root; 0: stay (in a user namespace: mapped) */
    gid_t gid;
    enum jail_filter filter;
    uint64_t cpu_seconds_max;  /* 0: unlimited, as the next ones */
    uint64_t memory_bytes_max; /* RLIMIT_AS */
    uint64_t file_bytes_max;
    uint64_t process_max;
};

/* Bits of what was achieved. */
enum {
    JAIL_NAMESPACES = 1,
    JAIL_ROOT = 2,
    JAIL_UID = 4,
    JAIL_CAPABILITIES = 8,
    JAIL_FILTER = 16,
    JAIL_LIMITS = 32,
    JAIL_FULL = 63,
};

/* Confine the calling process (single-threaded, or the filter misses the others).  *ret_achieved
 * says what holds.  Fails only when the process is left in a half-way state and must not go on. */
int jail_enter(const struct jail_options *options, unsigned *ret_achieved, struct error *err);

/* In the parent, before processes with jail_prepare() are started by several threads. */
void jail_open(void);

/* For process_options.prepare: jail_enter() with a struct jail_options; complains on fd 2. */
int jail_prepare(void *options);

/* "full", or "no namespaces, no uid". */
void jail_describe(unsigned achieved, char *ret_text, size_t size);

/* What this machine and user can have, found by trying in a child. */
unsigned jail_probe(void);

#endif
