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

/* Rows of such mounts: where a system's programs are, and what these load.  (NixOS has both in the
 * last two.) */
/* clang-format off */
#define JAIL_PROGRAM_MOUNTS                                     \
    {"/usr", "/usr", false, false},                             \
    {"/bin", "/bin", false, true},                              \
    {"/lib", "/lib", false, true},                              \
    {"/lib64", "/lib64", false, true},                          \
    {"/etc/ld.so.cache", "/etc/ld.so.cache", false, true},      \
    {"/nix/store", "/nix/store", false, true},                  \
    {"/run/current-system", "/run/current-system", false, true}
/* clang-format on */

enum jail_filter {
    JAIL_FILTER_NONE,
    JAIL_FILTER_TOOL,   /* compilers: files, processes; no network, no ptrace, no mount, no bpf */
    JAIL_FILTER_RUNNER, /* blixard-runner: KVM, memory, its sockets, threads; see filter.c */
    JAIL_FILTER_RUNNER_FORK, /* the same and processes, for the process sandbox */
    JAIL_FILTER_NO_HOLES, /* fallocate(2) fails: a file that others read as well keeps its bytes */
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
    uint64_t locked_bytes_max; /* RLIMIT_MEMLOCK: raised to it where this is root */
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

/* ---- Control groups ---- */

struct jail_group_limits {
    unsigned cpu_percent;  /* of one CPU: 150 is one and a half; 0: not limited, as the next ones */
    uint64_t memory_bytes; /* beyond it something in the group is killed */
    unsigned processes;    /* threads count */
    bool bounds_huge_pages; /* to these, which may be 0 */
    uint64_t huge_2m_bytes, huge_1g_bytes;
};

struct jail_group_usage {
    uint64_t throttled_ms; /* it would have run, and was not let */
    uint64_t memory_bytes; /* with what the kernel keeps of files for it */
    uint64_t memory_bytes_max;
    uint64_t kills; /* for want of memory */
    uint64_t processes;
};

enum {
    JAIL_GROUP_CPU = 1,
    JAIL_GROUP_MEMORY = 2,
    JAIL_GROUP_PROCESSES = 4,
    JAIL_GROUP_HUGE_PAGES = 8
};

/*
 * Make the group `name` (a-z, 0-9, '-') with these limits, below one that all of ours are in, and
 * put the calling process, which has one thread, into it, before it executes what is to be limited:
 * memory is counted where it was first touched.  Returns what holds; the rest could not be had.
 */
unsigned jail_group_enter(const char *name, const struct jail_group_limits *limits);
/* As fork(2), of a process that has one thread: the child is in it, and sooner than by entering. */
pid_t jail_group_fork(const char *name, const struct jail_group_limits *limits);
void jail_group_kill(const char *name); /* all that is in it; the caller is not */
/* When nothing is in it any more, or will be in a moment: waits for two seconds at most. */
void jail_group_remove(const char *name);
bool jail_group_read(const char *name, struct jail_group_usage *ret_usage); /* false: none */

/* Where in a machine a process is: its CPUs, and the NUMA nodes that its memory comes from. */
struct jail_place {
    const char *cpus;  /* "0-3,8" */
    const char *nodes; /* "0", "0-1"; NULL: any */
};

/* Put a process into its group's cpuset.  False: it cannot be had.  *ret_is_bound: its memory is of
 * these nodes, and what it had of others has moved there. */
bool jail_group_set_place(const char *name, pid_t pid, const struct jail_place *place,
                          bool *ret_is_bound);

/*
 * Let a process, all of its threads and what they make from now on, run on some CPUs alone: by the
 * cpuset of its group, which nothing in it can leave, or else by sched_setaffinity(2) for each
 * thread; then its memory is not bound.  A few milliseconds, at times more (memory moves): on a
 * thread of the pool.  INVALID (a list), OS.
 */
enum jail_pin { JAIL_PIN_GROUP, JAIL_PIN_THREADS };
struct jail_pinned {
    enum jail_pin how;
    bool is_bound;
};
int jail_pin(const char *group, pid_t pid, const struct jail_place *place,
             struct jail_pinned *ret_pinned, struct error *err);

/* One thread of it alone, within these.  One that has ended is no error.  INVALID, OS. */
int jail_pin_thread(pid_t thread, const char *cpus, struct error *err);

/*
 * The NUMA nodes of a machine, ascending, at most `max`; `sys`: "/sys", or a tree of its form.
 * Free is what nobody has, and what the kernel keeps of files.
 */
enum { JAIL_NUMA_MAX = 64, JAIL_NUMA_NUMBER_MAX = 1024 };
struct jail_numa {
    unsigned number;
    char cpus[256]; /* "0-3,8"; "": memory alone */
    uint64_t memory_bytes, free_bytes;
    uint64_t huge_2m, huge_1g; /* pages that were set aside there */
    uint64_t huge_2m_free, huge_1g_free;
};
size_t jail_read_numa(const char *sys, struct jail_numa *ret_nodes, size_t max);

/* The huge pages of one size, of the whole machine; all 0 where the kernel has none of that size.
 */
struct jail_huge {
    uint64_t count; /* that were set aside */
    uint64_t free;  /* of these, that nobody has, or is promised */
};
struct jail_huge jail_read_huge(const char *sys, uint64_t page_bytes);

/* What can be limited here, as bits and for people: "cpu, memory, pids (cgroup v2)". */
unsigned jail_group_probe(char *ret_text, size_t size);

#endif
