/*
 * Speaking to the agent inside a Linux machine: connected to again and again until it is closed,
 * with calls whose answers come by callback.
 *
 * One `struct agent` per machine, on one loop, whose thread it is used on.  No callback comes from
 * inside a call of this door, with one exception that is named (agent_close).  Texts and bytes that
 * are given are copied; those that are handed to callbacks are lent until they return.
 *
 * A call that is made while the agent is not up fails, later, with UNAVAILABLE.  Calls that run
 * when the connection is lost, or when the guest begins anew, end with UNAVAILABLE: whether it was
 * done is not known; the agent has killed what it was running for them.  Nothing is sent twice.
 *
 * All that comes from the guest is input: bounded, checked, and never believed further than it has
 * to be.  A guest that breaks the protocol loses the session (calls end with PROTOCOL) and gets a
 * new one, not more often than every AGENT_RETRY_MS.  The formats are in protocol.h.
 */
#ifndef ENGINE_AGENT_AGENT_H
#define ENGINE_AGENT_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#include "engine/agent/protocol.h"

struct agent;
struct agent_call;
struct loop;

enum { AGENT_RETRY_MS = 1000, AGENT_CALL_TIMEOUT_MS = 30000 };

/* ---- The connection ---- */

/* What the agent says of its machine; any of it may be a lie.  Texts are printable UTF-8. */
struct agent_info {
    unsigned version; /* of the protocol */
    char program[32]; /* the agent's version */
    char kernel[128];
    char machine[32];
    char hostname[256];
    char boot_id[40]; /* another one: the machine was booted again */
    enum agent_init init;
    char problem[512]; /* "": none; else why it is in rescue */
    uint64_t uptime_ms;
    int64_t time_ns; /* the guest's clock, since 1970 */
};

struct agent_event {
    enum agent_event_kind kind;
    int pid;       /* of ENTRYPOINT_STARTED */
    int exit_code; /* of ENTRYPOINT_ENDED; -1 with a signal */
    int signal;
    enum agent_power power;
};

struct agent_events {
    /* A session has begun; calls work from here on. */
    void (*on_up)(const struct agent_info *info, void *context);
    /* It is over, and its calls have ended.  Another one is tried for at once.  Without on_up
     * before it: UNSUPPORTED, the agent is of a release that we cannot speak to. */
    void (*on_down)(const struct error *error, void *context);
    void (*on_event)(const struct agent_event *event, void *context); /* may be NULL */
};

struct agent_options {
    const char *path; /* of the unix socket: the chardev of QEMU's virtio-serial port */
    /* Not 0: the socket is that of a hybrid vsock (Firecracker, Cloud Hypervisor), which is told
     * "CONNECT PORT" first. */
    uint32_t vsock_port;
    uint64_t
        retry_ms; /* between attempts to connect at first, doubled up to AGENT_RETRY_MS; 0: 20 */
};

/* Begin to connect.  INVALID: the path is too long for a socket. */
int agent_open(struct loop *loop, const struct agent_options *options,
               const struct agent_events *events, void *context, struct agent **ret_agent,
               struct error *err);

/* Calls that run end with CANCELLED, from inside this call; nothing else comes.  Accepts NULL. */
void agent_close(struct agent *agent);

/* It is believed to say nothing any more: its session ends, with its calls (UNAVAILABLE) and
 * on_down, from inside this call; another one begins when it speaks again.  It is up. */
void agent_forsake(struct agent *agent);

bool agent_is_up(const struct agent *agent);

/* NULL while it is not up.  As of HELLO, or of the last agent_info(). */
const struct agent_info *agent_last_info(const struct agent *agent);

/* ---- Answers ---- */

struct agent_exit {
    int exit_code; /* 0..255; -1 when a signal ended it */
    int signal;    /* 0: none */
    bool timed_out;
};

struct agent_stat {
    uint32_t kind; /* S_IFMT bits of stat(2) */
    uint32_t mode; /* 07777 */
    uint32_t user;
    uint32_t group;
    uint64_t size_bytes;
    int64_t mtime_ns;
    char target[4096]; /* of a symbolic link */
};

enum { AGENT_DISKS_MAX = 32, AGENT_MOUNTED_MAX = 32, AGENT_LINKS_MAX = 32 };

struct agent_disk {
    char name[32];   /* "vda" */
    char serial[64]; /* of a virtio disk, as the host has named it */
    uint64_t size_bytes;
    uint64_t read_bytes;
    uint64_t read_operations;
    uint64_t write_bytes;
    uint64_t write_operations;
};

struct agent_mounted {
    char path[256];
    char source[128];
    char file_system[32];
    uint64_t size_bytes;
    uint64_t available_bytes;
    uint64_t inodes;
    uint64_t inodes_available;
};

struct agent_link {
    char name[32];
    uint8_t mac[6];
    uint64_t received_bytes;
    uint64_t received_packets;
    uint64_t received_dropped;
    uint64_t sent_bytes;
    uint64_t sent_packets;
    uint64_t sent_dropped;
};

/* Since boot, but for memory, load, processes and sizes, which are of now. */
struct agent_metrics {
    uint64_t uptime_ms;
    unsigned cpu_count;
    struct {
        uint64_t user, nice, system, idle, iowait, irq, softirq, steal;
    } cpu_ms; /* of all CPUs together */
    struct {
        uint64_t total, free, available, cached, swap_total, swap_free;
    } memory_bytes;
    unsigned load_1, load_5, load_15; /* thousandths */
    unsigned processes;
    unsigned disk_count;
    unsigned mounted_count;
    unsigned link_count;
    struct agent_disk disks[AGENT_DISKS_MAX];
    struct agent_mounted mounted[AGENT_MOUNTED_MAX];
    struct agent_link links[AGENT_LINKS_MAX];
};

/* What a call has brought; the parts its operation has are set, the rest is 0. */
struct agent_result {
    struct agent_exit exit;              /* agent_exec() */
    const struct agent_stat *stat;       /* agent_stat() */
    const struct agent_metrics *metrics; /* agent_metrics() */
    const struct agent_info *info;       /* agent_info() */
    uint64_t size_bytes;                 /* put, get, pack, unpack, grow */
    uint64_t count;                      /* pack, unpack, freeze, thaw */
    unsigned http_status;                /* agent_check(), functions */
    /* Functions, with http_status 500 behind a streamed answer: the error's type, a NUL, base64 of
     * its JSON, as the guest says them; NULL: not so. */
    const uint8_t *failure;
    size_t failure_length;
    uint64_t round_trip_us; /* all */
};

/*
 * The end of a call, once, last: an error or a result.  Of the guest's errors the kind is the one
 * it gives (NOT_FOUND, DENIED, FULL, INVALID, UNSUPPORTED...), the text begins with what was asked.
 */
typedef void agent_done(const struct error *error, const struct agent_result *result,
                        void *context);

/* ---- Calls without streams ---- */

/*
 * All of these: `timeout_ms` 0 is AGENT_CALL_TIMEOUT_MS; afterwards the call is cancelled and ends
 * with TIMEOUT.  What is returned serves to cancel, and is gone once `done` was called.
 */
struct agent_call *agent_ping(struct agent *agent, uint64_t timeout_ms, agent_done *done,
                              void *context);
struct agent_call *agent_info(struct agent *agent, uint64_t timeout_ms, agent_done *done,
                              void *context);
struct agent_call *agent_metrics(struct agent *agent, uint64_t timeout_ms, agent_done *done,
                                 void *context);
/* Of the link itself unless `follows`. */
struct agent_call *agent_stat(struct agent *agent, const char *path, bool follows, agent_done *done,
                              void *context);

/* Set the guest's clock; for a machine that was paused, restored or cloned.  0: the host's now. */
struct agent_call *agent_set_time(struct agent *agent, uint64_t time_ns, agent_done *done,
                                  void *context);

/* Mix 64 bytes of the host's into the guest's random numbers, and count them as entropy: two
 * clones of one snapshot would otherwise draw the same keys. */
struct agent_call *agent_reseed(struct agent *agent, agent_done *done, void *context);

/*
 * For a clone, which believes to be what it was made of: `agent_done` comes once, when the clock is
 * the host's, random numbers are reseeded, /etc/machine-id (32 hex digits; NULL: left alone) is
 * written and `network` (may be NULL) is set up; with the first error, if there was one.  No part
 * is waited for longer than AGENT_CALL_TIMEOUT_MS.  Keys that programs have drawn before, those of
 * sshd among them, are the clone's too.
 */
struct agent_network;
void agent_renew(struct agent *agent, const char *machine_id, const struct agent_network *network,
                 agent_done *done, void *context);

/* Lists end with NULL, or are NULL: then that is left as it is. */
struct agent_interface {
    uint8_t mac[6];               /* which one is meant */
    const uint8_t *new_mac;       /* 6 bytes that it is to have as its address; NULL: as it is */
    const char *name;             /* it is to be called so; NULL: as it is */
    unsigned mtu;                 /* 0: as it is */
    const char *const *addresses; /* "10.0.0.5/24" */
    const char *const *routes;    /* "default via 10.0.0.1", "10.1.0.0/16 via 10.0.0.1" */
};
struct agent_network {
    const char *hostname;
    const char *const *nameservers; /* to /etc/resolv.conf, with `searches` */
    const char *const *searches;
    const char *const *hosts; /* lines of /etc/hosts, beside that of localhost: "10.0.0.7 db" */
    const struct agent_interface *interfaces;
    size_t interface_count;
};
/* The interfaces come up with exactly these addresses and routes.  May be repeated. */
struct agent_call *agent_network(struct agent *agent, const struct agent_network *network,
                                 agent_done *done, void *context);

struct agent_mount {
    const char *source;      /* "serial:data", "tag:share", "tmpfs", "/dev/vdb" */
    const char *path;        /* made when it is not there */
    const char *file_system; /* NULL: found out from what is on the disk */
    const char *options;     /* for mount(2), "size=64m"; NULL: none */
    bool is_read_only;
};
/* The same source at the same path again is success. */
struct agent_call *agent_mount(struct agent *agent, const struct agent_mount *mount,
                               agent_done *done, void *context);
struct agent_call *agent_unmount(struct agent *agent, const char *path, bool is_lazy,
                                 agent_done *done, void *context);

/* After the disk has grown: ext4.  "/" of an overlaid root is its writable disk. */
struct agent_call *agent_grow(struct agent *agent, const char *path, agent_done *done,
                              void *context);
/* As soon as the guest sees that its disk has `at_least` bytes. */
struct agent_call *agent_grow_to(struct agent *agent, const char *path, uint64_t at_least,
                                 agent_done *done, void *context);

struct agent_call *agent_sync(struct agent *agent, uint64_t timeout_ms, agent_done *done,
                              void *context);

/* Hold still for a snapshot of the disks.  The guest thaws itself after `thaw_after_ms` (1 to
 * 600000): a daemon that dies in between leaves no dead machine behind.  Until then it is waited
 * for, as what it has in memory is written first. */
struct agent_call *agent_freeze(struct agent *agent, uint64_t thaw_after_ms, agent_done *done,
                                void *context);
struct agent_call *agent_thaw(struct agent *agent, agent_done *done, void *context);

/*
 * Begin to go down in order: the end itself is the VMM's to tell.  `patience_ms` (0: 10 s) is what
 * programs get between SIGTERM and SIGKILL where the init is ours; a distribution's has its own.
 */
struct agent_call *agent_shutdown(struct agent *agent, enum agent_power power, uint64_t patience_ms,
                                  agent_done *done, void *context);

struct agent_check {
    enum agent_check_kind kind;
    uint16_t port;
    const char *address; /* NULL: 127.0.0.1; LISTEN looks at all */
    const char *path;    /* of HTTP; NULL: "/" */
    uint64_t timeout_ms; /* 0: 5 s */
};
/* A service that does not answer well is UNAVAILABLE or TIMEOUT. */
struct agent_call *agent_check(struct agent *agent, const struct agent_check *check,
                               agent_done *done, void *context);

/* ---- Calls with streams ---- */

struct agent_call_events {
    /* The program runs. */
    void (*on_started)(int pid, void *context); /* may be NULL */
    /* agent_get(): what the file is, before its content. */
    void (*on_stat)(const struct agent_stat *stat, void *context); /* may be NULL */
    /* agent_function_invoke(): the answer comes as the handler makes it.  May be NULL. */
    void (*on_streamed)(const char *content_type, void *context);
    /* agent_function_tunnel() */
    void (*on_tunnel)(const char *target, void *context);
    void (*on_output)(enum agent_stream stream, const void *bytes, size_t length, void *context);
    /* Nothing more comes by that stream.  May be NULL. */
    void (*on_output_end)(enum agent_stream stream, void *context);
    void (*on_writable)(void *context); /* after agent_call_write() returned false; may be NULL */
    agent_done *on_end;
};

struct agent_exec {
    const char *const *arguments;   /* arguments[0] is looked up in the guest's PATH */
    const char *const *environment; /* "NAME=VALUE"; NULL: PATH, HOME, and TERM with a terminal */
    const char *folder;             /* NULL: the user's home, or / */
    const char *user;               /* name, or number[:number]; NULL: root */
    bool has_input;                 /* else it reads /dev/null */
    bool has_terminal;
    unsigned rows; /* of the terminal; 0: 24 and 80 */
    unsigned columns;
    uint64_t timeout_ms; /* killed afterwards; 0: never */
};
/* TOO_LARGE (by on_end): arguments and environment are above AGENT_FRAME_MAX.  NOT_FOUND: there is
 * no such program, folder or user. */
struct agent_call *agent_exec(struct agent *agent, const struct agent_exec *exec,
                              const struct agent_call_events *events, void *context);

struct agent_put {
    const char *path;
    uint32_t mode; /* 07777 */
    uint32_t user;
    uint32_t group;
    int64_t mtime_ns; /* 0: now */
    bool makes_folders;
    bool replaces_nothing;
    uint64_t timeout_ms; /* 0: as long as it takes */
};
/* The file's content is written to the call.  It is there, whole, when the call has ended well. */
struct agent_call *agent_put(struct agent *agent, const struct agent_put *put,
                             const struct agent_call_events *events, void *context);
struct agent_call *agent_get(struct agent *agent, const char *path,
                             const struct agent_call_events *events, void *context);

/* Trees, as tar archives.  One that comes from a guest may hold any name, "../x" and links out of
 * the tree too: who unpacks it takes care. */
struct agent_call *agent_unpack(struct agent *agent, const char *folder, bool is_owned,
                                uint32_t user, uint32_t group,
                                const struct agent_call_events *events, void *context);
struct agent_call *agent_pack(struct agent *agent, const char *path,
                              const struct agent_call_events *events, void *context);

/* ---- Functions ---- */

/*
 * Begin the machine's function host: it runs `program` (no terminal, no input), which speaks the
 * AWS Lambda Runtime API with it (AWS_LAMBDA_RUNTIME_API is the caller's to set:
 * AGENT_RUNTIME_API). ERR brings what it says; the end comes when it is ready for its first
 * invocation (http_status 200), or has said why not (500; OUT: its JSON), or ended (UNAVAILABLE),
 * or `timeout_ms` is over. It stays when the session ends, in clones too.
 */
#define AGENT_RUNTIME_API "127.0.0.1:9001"
/* `ports` (may be NULL): connections to them are agent_function_tunnel()'s, and names resolve. */
struct agent_call *agent_function_begin(struct agent *agent, const struct agent_exec *program,
                                        const uint16_t *ports, size_t port_count,
                                        const struct agent_call_events *events, void *context);

struct agent_invocation {
    const char *request_id;
    uint64_t deadline_ms; /* since 1970 */
    const char *trace;    /* of X-Amzn-Trace-Id; NULL: none */
    const char *arn;
};
/* One at a time.  The payload is written to the call.  OUT: the answer, or with http_status 500 the
 * error's JSON; ERR: what the handler says. */
struct agent_call *agent_function_invoke(struct agent *agent,
                                         const struct agent_invocation *invocation,
                                         const struct agent_call_events *events, void *context);

/*
 * The next connection that the program makes to one of these ports: on_tunnel says where it is to
 * lead (input: a name or an IPv4 address, and a port).  OUT: what the program sends; what is
 * written to the call it gets.  One at a time waits for a connection.
 */
struct agent_call *agent_function_tunnel(struct agent *agent,
                                         const struct agent_call_events *events, void *context);

/* To the IN stream; false: wait for on_writable before more (these bytes were taken). */
bool agent_call_write(struct agent_call *call, const void *bytes, size_t length);
void agent_call_finish_input(struct agent_call *call);

/* Back-pressure: nothing more by on_output until resumed.  At most AGENT_WINDOW is held. */
void agent_call_pause(struct agent_call *call);
void agent_call_resume(struct agent_call *call);

/* For a program that runs. */
void agent_call_signal(struct agent_call *call, int signal);
void agent_call_resize(struct agent_call *call, unsigned rows, unsigned columns);

/* Break off: the program is killed with its process group; `done` follows, with CANCELLED at the
 * latest after AGENT_RETRY_MS, or with how it has ended meanwhile. */
void agent_call_cancel(struct agent_call *call);

/* ---- What a machine runs by itself ---- */

/* Append the content of the image's file /etc/blixard/entrypoint, which the agent runs when it is
 * the machine's init.  INVALID: no arguments; TOO_LARGE. */
int agent_entrypoint_encode(const struct agent_exec *exec, struct buffer *out, struct error *err);

#endif
