/*
 * The agent inside a Linux machine; private to the room.
 *
 * One small static program in three roles, which are processes of it:
 *
 *   init (init.c, boot.c)   PID 1 in the initrd.  Loads modules, puts the root together, begins the
 *                           server, and either becomes the distribution's init or runs the image's
 *                           entrypoint and stays.
 *   server (serve.c)        speaks to the host.  One thread, poll(2); it never blocks on anything
 *                           but poll.  If it dies, its parent begins it again.
 *   children (job.c)        of the server: the programs it runs, and for everything that may block
 *                           (files, mounts, connections) a fork of itself.
 *
 * The host is who owns the machine, and is believed; what it sends is checked all the same, because
 * an agent that falls over takes the machine's only door with it.
 */
#ifndef GUEST_AGENT_PRIVATE_H
#define GUEST_AGENT_PRIVATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"

#include "engine/agent/protocol.h"

enum { TEXT_MAX = 4096 };

/* ---- What init and server know of each other: a page that both have mapped ---- */

struct shared {
    atomic_uint init;        /* enum agent_init */
    atomic_uint power;       /* 1 + enum agent_power: it has been asked for */
    atomic_uint patience_ms; /* between SIGTERM and SIGKILL */
    atomic_int entry_pid;    /* 0: none was started */
    atomic_int entry_status; /* of wait(2) */
    atomic_uint entry_ended; /* 1 */
    atomic_uint news;        /* counts what init has noted; the last to be written */
    atomic_uint told;        /* `news` when every host had been told all of it */
    char problem[512];       /* set before the server begins */
};

extern struct shared *shared;

void shared_make(void);

/* ---- link.c: a connection to the host ---- */

struct link {
    struct list_node node;
    struct list jobs;
    unsigned job_count;
    int fd; /* -1: a port that could not be opened yet */
    const char
        *port;       /* its device, opened again and again; NULL: a connection, gone when it ends */
    bool is_hung_up; /* nobody is at the other end of the port */
    uint64_t hung_up_at_ms;
    bool is_gone; /* to be freed */
    bool has_session;
    unsigned unheard;     /* events that the host has not acknowledged */
    bool has_lost;        /* a session has ended before it had acknowledged all of them */
    uint64_t retry_at_ms; /* of a port: when it is looked at again */
    unsigned retry_ms;
    struct agent_receiver receiver;
    struct buffer out;
};

/* A port (device path, lent) or a connection (fd, owned). */
struct link *link_new(const char *port, int fd);
void link_free(struct link *link);

void link_send(struct link *link, enum agent_frame_type type, enum agent_stream stream, uint32_t id,
               const void *payload, size_t length);

/* An ANSWER: the error if there is one, the fields otherwise. */
void link_answer(struct link *link, uint32_t id, const struct error *error,
                 const struct buffer *fields);

/* The host sends faster than it listens: nothing more is produced for it, or read. */
bool link_is_full(const struct link *link);

/* What poll(2) is to wait for; 0: the descriptor is left out. */
short link_wants(const struct link *link, uint64_t now_ms);
void link_ready(struct link *link, short events, uint64_t now_ms);

/* An EVENT to every host that listens; false: none does. */
bool link_event(struct list *links, const struct buffer *fields);

/* ---- job.c: requests that take a while ---- */

struct flow {
    int fd;
    uint64_t window; /* OUT, ERR: what may still be sent.  IN: what may still come */
    uint64_t credit; /* IN: written to the child and not given back yet */
    bool is_over;    /* END was sent, or came */
};

struct job {
    struct list_node node;
    struct link *link;
    uint32_t id;
    unsigned operation;
    pid_t pid;
    bool is_reaped;
    int status;    /* of wait(2), once reaped */
    int result_fd; /* messages of the child about itself; -1: it has no more to say */
    int terminal;  /* the master, -1 */
    struct flow flows[AGENT_STREAMS];
    struct buffer queue; /* for the child's standard input */
    uint64_t deadline_ms;
    bool is_cancelled;
    bool is_late;
    bool is_forked; /* a fork of ours: its messages are the answer */
    bool has_error;
    struct buffer answer;
};

/* In the child: what its work is. */
struct work {
    struct agent_reader request;
    int in;  /* the IN stream, or /dev/null */
    int out; /* the OUT stream */
    int result;
};

typedef int work_run(struct work *work, struct buffer *answer, struct error *err);

/* Fork, and run `run` there; its answer becomes the request's. */
int job_begin_work(struct link *link, uint32_t id, unsigned operation, work_run *run,
                   struct agent_reader request, struct error *err);
int job_begin_exec(struct link *link, uint32_t id, struct agent_reader request, struct error *err);

/* In the child: a NOTE. */
void work_note(struct work *work, const struct buffer *fields);

struct job *job_find(struct link *link, uint32_t id);
void job_take_data(struct job *job, const struct agent_frame *frame);
void job_take_credit(struct job *job, const struct agent_frame *frame);
void job_control(struct job *job, struct agent_reader request);
void job_cancel(struct job *job);
/* Its link has another session: killed, and nobody is told. */
void job_abandon(struct job *job);
void job_reaped(struct job *job, int status);

enum { JOB_POLLS = AGENT_STREAMS + 1 };
/* Descriptors and events for poll(2), at most JOB_POLLS. */
unsigned job_wants(const struct job *job, int *fds, short *events);
void job_ready(struct job *job, int fd, short events);
/* What is due without any descriptor.  True: it is over and freed. */
bool job_step(struct job *job, uint64_t now_ms);
bool job_is_hurried(const struct job *job);

/* ---- exec.c: running a program ---- */

/* In the child, standard descriptors in place: become the program, or fail. */
int exec_become(struct agent_reader request, bool has_terminal, struct error *err);

/* In a child: signals, priority and session as a program expects them. */
void exec_begin_child(void);

/* ---- request.c: what is asked for ---- */

void request_begin(struct link *link, const struct agent_frame *frame);

/* The first field of this tag; a text of TEXT_MAX bytes with its NUL, INVALID when it has one
 * inside or is missing (unless `otherwise` is given). */
int request_text(struct agent_reader request, enum agent_tag tag, const char *otherwise,
                 char ret_text[TEXT_MAX], struct error *err);
uint64_t request_number(struct agent_reader request, enum agent_tag tag, uint64_t otherwise);
/* A field's bytes as a text; false: too long, or with a NUL inside. */
bool request_copy(const struct agent_field *field, char *ret_text, size_t size);

/* error_os(), with the kind that callers at the other end can tell apart. */
int fail_os(struct error *err, int os_errno, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* As it, where the host knows what was tried: it has named it. */
int fail_plain(struct error *err, int os_errno);

/* ---- What the operations do ---- */

int info_put(struct buffer *answer, uint64_t nonce, unsigned spoken);
int metrics_put(struct buffer *answer);
int clock_set(struct agent_reader request, struct error *err);
int entropy_add(struct agent_reader request, struct error *err);
int network_set(struct agent_reader request, struct error *err);
int network_lo_up(struct error *err);
/* Every IPv4 address is this machine's, and names are asked for at 127.0.0.1. */
int network_all_local(struct error *err);
int host_name_set(const char *name, struct error *err);
int power_begin(struct agent_reader request, struct error *err);

work_run file_put;
work_run file_get;
work_run file_stat;
work_run tar_pack;
work_run tar_unpack;
work_run disk_mount;
work_run disk_unmount;
work_run disk_grow;
work_run disk_sync;
work_run disk_freeze;
work_run check_service;
work_run function_begin;
work_run function_invoke;
work_run function_tunnel;

/* ---- outside.c ---- */

#define OUTSIDE_SOCKET "/run/blixard/outside.sock"
/* In a child, before the program begins: connections to the ports that the request names can be
 * taken by function_tunnel().  Nothing is done when it names none. */
int outside_begin(struct agent_reader request, struct error *err);
/* The program waits for its first invocation. */
void outside_note_begun(void);

/* ---- function_host.c ---- */

/* What the host says to who waits at its socket: one of these, a length (4 bytes, little-endian),
 * bytes.  SAYS_READY, _ANSWER, _ERROR, _BROKEN and _ENDED are last. */
enum {
    HOST_SAYS_LOG = 'L',
    HOST_SAYS_STREAM = 'S', /* the answer comes in pieces; its content type */
    HOST_SAYS_PIECE = 'P',
    HOST_SAYS_BROKEN = 'B', /* an error behind pieces: its type, a NUL, base64 of its JSON */
    HOST_SAYS_READY = 'I',
    HOST_SAYS_ANSWER = 'R',
    HOST_SAYS_ERROR = 'E', /* JSON of the handler's */
    HOST_SAYS_ENDED = 'X', /* the program is no more: a text */
};
enum { HOST_PORT = 9001, HOST_PIECE_MAX = 6 << 20 };
#define HOST_SOCKET "/run/blixard/function.sock"

/* In a child: serve `tcp` and `local` (listening), run the program that `request` names, and tell
 * `first` how it has begun. */
_Noreturn void host_run(int tcp, int local, int first, struct agent_reader request);

/* A whole small file (of /proc or /sys) as a text without the last newline; "" if there is none. */
void read_line(const char *path, char *ret_text, size_t size);
/* The whole file, or nothing. */
void read_file(const char *path, struct buffer *ret_bytes);

/* ---- disk.c ---- */

struct mounted {
    char source[256];
    char path[TEXT_MAX];
    char file_system[64];
    bool is_disk; /* its source is a block device */
};
/* Each line of /proc/self/mountinfo, in order. */
void mounted_each(bool (*visit)(const struct mounted *mounted, void *context), void *context);

/* "serial:X", "tag:X", "tmpfs" or a path: what mount(2) wants.  NOT_FOUND. */
struct disk_source {
    char device[256];
    char file_system[64]; /* "": to be found out */
};
int disk_find(const char *source, struct disk_source *ret_source, struct error *err);
int disk_mount_at(const char *source, const char *path, const char *file_system,
                  const char *options, bool is_read_only, struct error *err);
/* Disks come when their drivers have found them, which may be a moment later: it waits for 5 s. */
int disk_mount_when_there(const char *source, const char *path, const char *file_system,
                          const char *options, bool is_read_only, struct error *err);

/* Where the writable disk of an overlaid root is. */
#define ROOT_WRITABLE "/run/blixard/rw"
#define ROOT_IMAGE    "/run/blixard/ro"

/* When the file systems that were frozen are thawed whatever happens; 0: none are. */
extern uint64_t disk_thaw_at_ms;
uint64_t disk_thaw_now(void); /* how many */

/* ---- serve.c, init.c, boot.c ---- */

struct serve_options {
    const char *port_name; /* of a virtio-serial port; NULL: none */
    const char *port;      /* a device in its place; NULL: none */
    const char *listen;    /* unix socket; NULL: none */
    bool has_vsock;
};
int serve(const struct serve_options *options);

/* Begin the server in a child; its process. */
pid_t serve_begin(const struct serve_options *options);

/* PID 1. */
int init_main(char **argv);

/* Put the machine together; what went wrong is in shared->problem.  Returns the init to become, or
 * NULL to stay. */
const char *boot(void);

/* The kernel's command line: the value of `blixard.NAME=`, or NULL. */
const char *boot_option(const char *name);
/* The file that says what is run instead of an init; it may be missing. */
const char *entrypoint_path(void);

/* A line on the console. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t now_ms(void);

#endif
