/*
 * What the daemon tells a monitor, and how it finds it again: the files of a machine's folder.
 *
 * launch.json: {"argv": [...], "sockets": ["qmp.sock"], "taps": ["bxt0"], "vhost": BOOL,
 * "mounts": [["/usr", false], ...], "uid": N, "gid": N, "limits": [CPU-PERCENT, BYTES, PROCESSES,
 * and, where huge pages are bounded, BYTES of 2 MiB, BYTES of 1 GiB], "shares": [["/srv", "share0",
 * READ-ONLY]], "share_program": PATH, "network": BOOL, "plan": [["PUT", "/path", {...}], ...],
 * "incoming": {...}}.  A mount is at the same place inside; `true`: writable.  The plan is what a
 * VMM with an HTTP API is told until its machine runs; whoever finds it again tells it the rest.
 *
 * A program of Nix that becomes a VMM (driver_runner) has a member more: "runner": {"state": PATH,
 * "shut_down": PATH, "file_bytes_max": N, "queues": BOOL, "devices": ["/dev/kvm"], "taps":
 * [["bxt0", "vm-a"]], "macvtaps": [["vm-b", MAC, "eth0", "bridge"]], "queue_count": N}, and each of
 * its shares has a socket, "shares": [["/srv", "share0", READ-ONLY, "vm-a-virtiofs-srv.sock"]],
 * which its VMM connects to.
 *
 * Such VMMs make their sockets themselves, in the one folder of theirs (FOLDER/LAUNCH_SCRATCH).
 * What lies there is what a guest that has taken its VMM over wants to lie there.
 */
#ifndef ENGINE_HYPERVISOR_LAUNCH_H
#define ENGINE_HYPERVISOR_LAUNCH_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "engine/hypervisor/hypervisor.h"
#include "engine/jail/jail.h"

struct error;

#define LAUNCH_FILE    "launch.json"
#define LAUNCH_LOCK    "lock"
#define LAUNCH_EXIT    "exit.json"
#define LAUNCH_CONSOLE "console.sock"
#define LAUNCH_SCRATCH "vmm"
#define LAUNCH_LEASE   "lease"

enum {
    LAUNCH_SOCKETS_MAX = 4,
    LAUNCH_TAPS_MAX = 4,
    LAUNCH_SHARES_MAX = 4,
    LAUNCH_DEVICES_MAX = 40,
    LAUNCH_MOUNTS_MAX = 100,
    LAUNCH_BYTES_MAX = 64 << 10,
};

/* What the VMM finds open, beyond standard input, output and error. */
enum {
    LAUNCH_FD_SOCKETS = 3,
    LAUNCH_FD_TAPS = LAUNCH_FD_SOCKETS + LAUNCH_SOCKETS_MAX,
    LAUNCH_FD_VHOST = LAUNCH_FD_TAPS + LAUNCH_TAPS_MAX, /* one for each tap */
    LAUNCH_FD_SHARES = LAUNCH_FD_VHOST + LAUNCH_TAPS_MAX,
    LAUNCH_FD_END = LAUNCH_FD_SHARES + LAUNCH_SHARES_MAX,
};

/* ---- The daemon's side ---- */

struct launch_mount {
    const char *path;
    bool writable;
    const char *at; /* where the VMM finds it; NULL: there */
};

struct launch_share {
    const char *path; /* on the host */
    const char *tag;  /* "share0": what the guest finds it by */
    bool read_only;
    const char *group;  /* control group that it is in; the monitor's to set */
    const char *socket; /* in the runner's folder, where its VMM connects; NULL: it is given one */
};

/* What is more about one that is a program of Nix. */
struct launch_tap {
    const char *tap;  /* ours */
    const char *name; /* what the program opens */
};

struct launch_runner {
    const char *state;     /* the folder that it is in, and may write in; NULL: it is none */
    const char *shut_down; /* a program that asks the guest to end; "": there is none */
    uint64_t file_bytes_max;
    struct launch_tap taps[LAUNCH_TAPS_MAX];
    size_t tap_count;
    bool has_queues;                                            /* each of them */
    struct hypervisor_runner_macvtap macvtaps[LAUNCH_TAPS_MAX]; /* made for it alone */
    size_t macvtap_count;
    unsigned queue_count; /* of each of these */
};

struct launch_order {
    const char *folder;  /* of the machine: root's (or the user's), 0700 */
    const char *monitor; /* path of blixard-monitor */
    const char *const *argv;
    const char *const *sockets; /* NULL at the end */
    const char *const *taps;    /* the same */
    bool vhost;                 /* the kernel moves the taps' packets (vhost-net) */
    const struct launch_mount *mounts;
    size_t mount_count;
    const char *const *devices; /* "/dev/vfio/7": which it opens, by that name */
    size_t device_count;
    uint64_t locked_bytes_max; /* that it, or the kernel for its devices, may pin; 0: as here */
    const struct launch_share *shares;
    size_t share_count;
    const char *share_program;       /* virtiofsd */
    uid_t uid;                       /* of the VMM, where the daemon is root */
    struct jail_group_limits limits; /* of the control group, which is called as the folder is */
    gid_t gid;
    bool network;
    bool keeps_files;       /* it punches no holes in them: others read them, too */
    bool has_scratch;       /* made anew, empty */
    const json_t *plan;     /* NULL: none */
    const json_t *incoming; /* what its driver has to know when it reads a state; NULL: nothing */
    const struct launch_runner *runner; /* NULL: none */
};

/* Write launch.json and start the monitor; returns when the VMM was executed.  Blocks for some
 * milliseconds: on a thread of the pool.  EXISTS: one runs there; else its reason. */
int launch_start(const struct launch_order *order, struct error *err);

/* Does a monitor live in this folder?  *ret_monitor and *ret_vmm (may be NULL): its pids. */
bool launch_is_alive(const char *folder, pid_t *ret_monitor, pid_t *ret_vmm);

/* Kill the VMM, by its monitor; the end comes by the console's "watch". */
void launch_kill(const char *folder);

/* Have a runner's monitor ask the guest to end.  UNAVAILABLE. */
int launch_shut_down(const char *folder, struct error *err);

/*
 * Until when a VMM may run, by the boot clock; LAUNCH_NO_LEASE: for as long as it likes.  Its
 * monitor ends it then, whether a daemon is there or not; whoever wants it to go on writes a later
 * time before.  FOLDER/LAUNCH_LEASE: the milliseconds, and all of their bits turned, so that what
 * is half written is not believed.  launch_has_lease(): does the monitor there look at it?
 */
#define LAUNCH_NO_LEASE UINT64_MAX
int launch_write_lease(const char *folder, uint64_t until_ms, struct error *err);
bool launch_has_lease(const char *folder);

/* How the last VMM ended; NOT_FOUND: it has not, or its monitor was killed. */
struct launch_exit {
    int code;
    int signal;
    uint64_t at_ms;
    char text[512]; /* the last it said on standard error */
};
int launch_read_exit(const char *folder, struct launch_exit *ret_exit, struct error *err);

/* Connect to one of the sockets there; non-blocking, the caller's.  UNAVAILABLE. */
int launch_connect(const char *folder, const char *socket, int *ret_fd, struct error *err);

/* A socket that the VMM made in its scratch folder becomes FOLDER/`name`, which nobody but us can
 * replace.  NOT_FOUND: it is not there yet; CORRUPT: it is no socket, or not the VMM's. */
int launch_adopt(const char *folder, const char *name, struct error *err);

/* The plan, or what goes with a state; the caller's.  NULL: there was none. */
int launch_read_plan(const char *folder, json_t **ret_plan, struct error *err);
int launch_read_incoming(const char *folder, json_t **ret_incoming, struct error *err);

/* ---- The monitor's side ---- */

struct launch {
    char *argv[352];
    const char *sockets[LAUNCH_SOCKETS_MAX];
    size_t socket_count;
    const char *taps[LAUNCH_TAPS_MAX];
    size_t tap_count;
    bool vhost;
    struct launch_share shares[LAUNCH_SHARES_MAX];
    size_t share_count;
    const char *share_program;
    const char *devices[LAUNCH_DEVICES_MAX];
    size_t device_count;
    struct jail_mount mounts[LAUNCH_MOUNTS_MAX];
    struct jail_options jail;
    struct jail_group_limits limits;
    struct launch_runner runner; /* its `state` is NULL where it is none */
};

/* Open it, or make one that never ends.  launch_read_lease(): false: it is half written. */
int launch_open_lease(int folder, int *ret_fd, struct error *err);
bool launch_read_lease(int fd, uint64_t *ret_until_ms);

/* Read launch.json in a folder; what *ret_launch points to is kept for the life of the process. */
int launch_read(int folder, struct launch *ret_launch, struct error *err);

#endif
