/*
 * Runners: jailed processes that own function VMs, and the daemon's way to talk to them.
 *
 * The daemon starts a runner with a control socket, and one socketpair per *slot*.  A slot is a
 * thread of the runner with one shell; it runs one call at a time.  Images travel as file
 * descriptors over the control socket.  Everything that comes from a runner is input (it runs
 * tenants' code next door): bounded and checked.  The formats are in protocol.h.
 *
 * If a runner dies, each call in flight ends with UNAVAILABLE and `on_exit` is called once.  If the
 * daemon dies, the runner sees its control socket close (and PR_SET_PDEATHSIG) and ends itself.
 *
 * Daemon side: everything on the loop's thread.
 */
#ifndef ENGINE_RUNNER_RUNNER_H
#define ENGINE_RUNNER_RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#include "engine/vmm/vmm.h"

struct loop;
struct runner;
struct runner_call;

enum { RUNNER_SLOTS_MAX = 64 };

struct runner_options {
    const char *program; /* path of blixard-runner; NULL: beside /proc/self/exe, then in PATH */
    const char *project; /* shown in its process title */
    enum vmm_isolation isolation;
    unsigned slot_count;       /* 1..RUNNER_SLOTS_MAX */
    uid_t uid;                 /* taken on when root; 0: a uid is chosen from the project's name */
    uint64_t memory_bytes_max; /* cgroup/rlimit for the whole runner; 0: none */
    uint64_t patience_ms;      /* a call or a load so long beyond its timeout: killed.  0: 10000 */
};

struct runner_events {
    /* The process is gone: `reason` for people ("killed by signal 9").  Calls have ended already.
     */
    void (*on_exit)(struct runner *runner, const char *reason, void *context);
    void *context;
};

/* Start the process; it is usable at once (messages queue).  Fails with NOT_FOUND (no program) or
 * OS. */
int runner_start(struct loop *loop, const struct runner_options *options,
                 const struct runner_events *events, struct runner **ret_runner, struct error *err);

/* End it: calls in flight end with CANCELLED; the process gets SIGTERM, later SIGKILL.  No on_exit.
 */
void runner_free(struct runner *runner);

pid_t runner_pid(const struct runner *runner);
enum vmm_isolation runner_isolation(const struct runner *runner);

/* How well it is jailed: "full" (namespaces, seccomp, own uid), or what is missing. */
const char *runner_jail_text(const struct runner *runner);

/*
 * Hand an image over, once per runner; `image_id` names it afterwards.  `elf_fd` is the caller's.
 * `log` gets what initialisation writes to standard error (lent; may be NULL).  `done`: err NULL
 * and info, or the failure of vmm_image_new().
 */
void runner_load(struct runner *runner, const char *image_id, int elf_fd,
                 const struct vmm_limits *limits,
                 void (*done)(const struct error *error, const struct vmm_image_info *info,
                              const char *log, size_t log_length, void *context),
                 void *context);
void runner_unload(struct runner *runner, const char *image_id);

struct runner_invocation {
    const char *image_id; /* loaded before */
    const char *environment;
    size_t environment_length; /* as struct vmm_call */
    const void *input;         /* the first (often only) part of standard input */
    size_t input_length;
    bool input_continues; /* more by runner_call_write() */
    uint64_t timeout_ms;  /* 0: the image's, and no call of a stuck runner ends by itself */
    bool keeps_memory;    /* the next call on this slot finds what this one left, if it ends well */
    bool is_last;         /* the slot is to hold nothing afterwards */
};

struct runner_result {
    enum vmm_end end;
    uint32_t exit_code;
    char reason[160];
    bool cold; /* the slot's shell was attached for this call */
    uint64_t attach_ns;
    uint64_t run_ns;
    uint64_t reset_ns; /* of the reset after the call before this one */
    uint64_t reset_pages;
    uint64_t exits;
    uint64_t memory_bytes;
    uint64_t output_bytes;
};

struct runner_call_events {
    void (*on_output)(const void *bytes, size_t length, void *context);
    void (*on_log)(const void *bytes, size_t length, void *context);
    void (*on_writable)(void *context); /* after runner_call_write() returned false */
    /*
     * The function asks its host (engine/vmm/hostcall.h; input, lent, at most ABI_HOST_BYTES_MAX):
     * answer by runner_call_answer(), now or later, once.  A call that ends meanwhile needs no
     * answer any more.  NULL: every answer is empty.
     */
    void (*on_host)(const void *request, size_t length, void *context);
    /* Exactly once, last.  error (UNAVAILABLE: the runner died or is stuck; PROTOCOL) or result. */
    void (*on_end)(const struct error *error, const struct runner_result *result, void *context);
};

/* Run on slot `slot`, which must be idle.  Ends by on_end, later. */
struct runner_call *runner_invoke(struct runner *runner, unsigned slot,
                                  const struct runner_invocation *invocation,
                                  const struct runner_call_events *events, void *context);
/* Make an idle slot an instance of an image before it is called, or (NULL) let it hold nothing and
 * give its memory back.  What fails is tried again by the next call. */
void runner_warm(struct runner *runner, unsigned slot, const char *image_id_or_null);
bool runner_slot_is_idle(const struct runner *runner, unsigned slot);

/* More input; false when the socket is full: wait for on_writable (the bytes were taken). */
bool runner_call_write(struct runner_call *call, const void *bytes, size_t length);
void runner_call_finish_input(struct runner_call *call);

/* The answer to on_host; copied; at most ABI_HOST_BYTES_MAX. */
void runner_call_answer(struct runner_call *call, const void *reply, size_t length);

/* Back-pressure for on_output. */
void runner_call_pause(struct runner_call *call);
void runner_call_resume(struct runner_call *call);

/* Break off; on_end follows with VMM_END_CANCELLED. */
void runner_call_cancel(struct runner_call *call);

/* ---- Runners of another kind ---- */

/*
 * What stands behind the calls above when the runner is not a process of blixard-runner but, say,
 * slots that are Linux machines (engine/clone).  Such a runner, and each of its calls, begins with
 * a pointer to its driver; the terms are those above, for the driver to keep.  `settings`: what
 * runner_load_with() was given.  There are no questions for the host.
 */
struct runner_driver {
    const char *name; /* in the place of how well it is jailed */
    enum vmm_isolation isolation;
    void (*free)(struct runner *runner);
    void (*load)(struct runner *runner, const char *image_id, int fd,
                 const struct vmm_limits *limits, const char *settings,
                 void (*done)(const struct error *error, const struct vmm_image_info *info,
                              const char *log, size_t log_length, void *context),
                 void *context);
    void (*unload)(struct runner *runner, const char *image_id);
    struct runner_call *(*invoke)(struct runner *runner, unsigned slot,
                                  const struct runner_invocation *invocation,
                                  const struct runner_call_events *events, void *context);
    void (*warm)(struct runner *runner, unsigned slot, const char *image_id_or_null);
    bool (*write)(struct runner_call *call, const void *bytes, size_t length);
    void (*finish_input)(struct runner_call *call);
    void (*pause)(struct runner_call *call);
    void (*resume)(struct runner_call *call);
    void (*cancel)(struct runner_call *call);
};

/* As runner_load(), with what an image of a driver's needs beside its bytes; lent, may be NULL. */
void runner_load_with(struct runner *runner, const char *image_id, int fd,
                      const struct vmm_limits *limits, const char *settings,
                      void (*done)(const struct error *error, const struct vmm_image_info *info,
                                   const char *log, size_t log_length, void *context),
                      void *context);

/* ---- The runner's own main ---- */

/* Serve on the inherited sockets until the daemon goes away; returns the exit status. */
int runner_serve(int argc, char **argv);

#endif
