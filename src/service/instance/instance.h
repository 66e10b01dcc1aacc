/*
 * Instances: which runner and slot serves which call; the pool policy of this node.
 *
 * One runner (sometimes more) per project, started when first needed; slots are handed out warm
 * first (the most recently used slot that holds the image), then empty, then the least recently
 * used idle one.  Beyond a function's concurrency calls wait in its queue, which is bounded: beyond
 * that OVERLOADED.  A runner that dies fails the calls it was running with UNAVAILABLE, is counted
 * and replaced; calls that had not started go to the next one.  One that dies again and again is
 * started ever more slowly, and calls are refused meanwhile (OVERLOADED).  pool.h has the rules.
 *
 * One loop owns all of it (instance_loop()); instance_invoke() and the calls on a call are for that
 * loop's thread.  With several gateway threads the others post to it.
 */
#ifndef SERVICE_INSTANCE_INSTANCE_H
#define SERVICE_INSTANCE_INSTANCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/text.h"

#include "engine/runner/runner.h"
#include "engine/vmm/vmm.h"

#include "service/telemetry/trace.h"

struct buffer;
struct error;
struct image_store;
struct instance_call;
struct instance_service;
struct clone_service;
struct loop;
struct telemetry;

struct instance_options {
    enum vmm_isolation isolation; /* decided at start from the probe and the option */
    const char *runner_program;   /* NULL: found beside the daemon */
    unsigned slots_per_runner;    /* 1..64 */
    unsigned runners_max;         /* per project */
    struct image_store *images;
    struct telemetry *telemetry;
    struct clone_service *clones; /* runs Linux functions; NULL: there are none */
};

int instance_service_new(struct loop *loop, const struct instance_options *options,
                         struct instance_service **ret_service, struct error *err);
void instance_service_free(struct instance_service *service); /* ends runners; loop thread */
struct loop *instance_loop(const struct instance_service *service);
enum vmm_isolation instance_isolation(const struct instance_service *service);

/*
 * What to run: immutable, shared between threads, counted.  Made by service/function per version
 * and tier with NEW(struct instance_target), one reference, an allocated environment, an allocated
 * list and allocated secrets; the last unref frees all of it.
 */
struct instance_target {
    _Atomic unsigned references;
    char image_id[HASH_TEXT_SIZE];
    char project[64];
    char function[64];
    uint64_t version;
    bool is_handler;
    char tier[16]; /* "fast", "optimized" */
    struct vmm_limits limits;
    unsigned concurrency_max; /* calls at once on this node; 0: what the slots give */
    unsigned queue_max;       /* calls waiting */
    bool is_sticky;           /* memory is kept between the calls of an instance (handlers only) */
    unsigned instances_min;   /* there before anybody calls */
    unsigned instances_max;   /* 0: what the slots give */
    uint64_t idle_ms;         /* without a call for so long, instances go; 0: never */
    uint64_t recycle_calls;   /* an instance begins anew after so many; 0: never */
    uint64_t recycle_ms;      /* or after so long; 0: never */
    char *environment;        /* "NAME=value\0..." of the function's configuration */
    size_t environment_length;
    char *fetch_allow; /* "ENTRY\0...": whom it may fetch from (service/fetch) */
    size_t fetch_allow_length;
    char *linux_settings;         /* of engine/clone; NULL: it is WebAssembly */
    char code_id[HASH_TEXT_SIZE]; /* then: the archive with its code.  "": image_id names it */
    char *secrets; /* "NAME=secret\0...": variables whose values are secrets of the project */
    size_t secrets_length;
};

/* ---- Quotas ---- */

/* How many instances a project may have on this node; 0: any number.  Loop thread, as all of this.
 */
struct instance_quota {
    unsigned (*most)(const char *project, void *context);
    void *context;
};
void instance_set_quota(struct instance_service *service, const struct instance_quota *quota);
/* It says something else from now on. */
void instance_quota_changed(struct instance_service *service);
/* Any thread: calls that run, and that wait for an instance. */
void instance_count_calls(const struct instance_service *service, uint64_t *ret_running,
                          uint64_t *ret_waiting);
/* How many a project has here. */
uint64_t instance_count(const struct instance_service *service, const char *project);

/* Does the function's configuration name this secret? */
bool instance_target_names_secret(const struct instance_target *target, struct text secret);

/* ---- Questions of functions ---- */

/* The request's field by which functions that call functions are counted. */
#define INSTANCE_DEPTH_FIELD    "Blixard-Depth"
#define INSTANCE_DEPTH_VARIABLE "HTTP_BLIXARD_DEPTH="

/* What this side knows of a call that asks; lent for `open`. */
struct instance_caller {
    const struct instance_target *target;
    const char *request_id;
    struct trace_context trace; /* that the call's spans are below; or none */
    unsigned depth;             /* of functions that called it: INSTANCE_DEPTH_FIELD */
    uint64_t deadline_ns;       /* monotonic: no answer is waited for longer */
};

/*
 * Who answers the questions of functions (engine/vmm/hostcall.h): service/host.  A call that asks
 * for the first time gets a session by `open`; each question is told by `ask`, one at a time, and
 * answered by instance_host_answer(), at once or later; `close` when the call is over, after which
 * nothing may be answered.  Loop thread.
 */
struct instance_host {
    void *(*open)(const struct instance_caller *caller, struct instance_call *call, void *context);
    void (*ask)(void *session, const void *request, size_t length);
    void (*close)(void *session);
    void *context;
};

/* Loop thread.  NULL, as at the beginning: every answer is empty (hostcall.h: nobody answers). */
void instance_set_host(struct instance_service *service, const struct instance_host *host);

/*
 * Where the values of secrets come from: service/secret.  Each call of a target with secrets gets
 * them as they are when it comes, behind its other variables; they are in no snapshot, and what
 * held them here is wiped.  A call whose secrets cannot be had (there is none of that name, the
 * node does not have their key) is refused with UNAVAILABLE, which names the secret, before any
 * function has seen it; so is one with a value that holds a NUL.  TOO_LARGE: VMM_ENV_MAX.
 */
struct instance_secrets {
    /* Appends to an empty buffer, which is wiped afterwards. */
    int (*read)(void *context, const char *project, const char *name, struct buffer *ret_value,
                struct error *err);
    void *context;
};

/* Loop thread.  NULL, as at the beginning: there are none. */
void instance_set_secrets(struct instance_service *service, const struct instance_secrets *secrets);

/* Copied; at most ABI_HOST_BYTES_MAX. */
void instance_host_answer(struct instance_call *call, const void *reply, size_t length);

struct instance_target *instance_target_ref(struct instance_target *target);
void instance_target_unref(struct instance_target *target);

struct instance_invocation {
    struct instance_target *target; /* a reference is taken */
    const char *request_id;
    struct trace_context trace; /* for the log; or none */
    const char *environment;    /* CGI variables; lent */
    size_t environment_length;
    const void *input;
    size_t input_length;
    bool input_continues;
    uint64_t timeout_ms; /* of the run, and of the wait before it; 0: the target's */
};

enum { INSTANCE_NAME_SIZE = 40 };

struct instance_result {
    struct runner_result run;
    uint64_t queue_ns;
    char instance[INSTANCE_NAME_SIZE]; /* "RUNNERPID-SLOT", for people */
};

struct instance_events {
    void (*on_output)(const void *bytes, size_t length, void *context);
    void (*on_writable)(void *context); /* after instance_call_write() returned false */
    /*
     * Exactly once, last; never from inside a call of this door.  Standard error has gone to
     * telemetry.  `error` NULL: see result->run for how it ended.  Otherwise the call did not run
     * to an end: TIMEOUT (no instance became free), what loading the image failed with, UNAVAILABLE
     * (the runner died), CANCELLED.
     */
    void (*on_end)(const struct error *error, const struct instance_result *result, void *context);
};

/* Start a call (loop thread).  NULL with *err filled when it is refused at once (OVERLOADED). */
struct instance_call *instance_invoke(struct instance_service *service,
                                      const struct instance_invocation *invocation,
                                      const struct instance_events *events, void *context,
                                      struct error *err);

/* More input (the bytes are taken); false: wait for on_writable before more. */
bool instance_call_write(struct instance_call *call, const void *bytes, size_t length);
void instance_call_finish_input(struct instance_call *call);

/* Back-pressure for on_output. */
void instance_call_pause(struct instance_call *call);
void instance_call_resume(struct instance_call *call);

/* Break off; on_end follows, with CANCELLED or a result that says so. */
void instance_call_cancel(struct instance_call *call);

/* How long a call waited and where it runs, before its end is known.  False: it has not started. */
bool instance_call_place(const struct instance_call *call, uint64_t *ret_queue_ns,
                         char ret_instance[INSTANCE_NAME_SIZE]);

/* Any thread: load `target`'s image into a runner of its project and report, without a call: deploy
 * uses it to find out whether initialisation works, before a version becomes live.  `done` runs on
 * `loop`. */
void instance_prepare(struct instance_service *service, struct instance_target *target,
                      struct loop *loop,
                      void (*done)(const struct error *error, const struct vmm_image_info *info,
                                   void *context),
                      void *context);

/* Any thread: `target` is what an alias points to (its instances_min are made, and kept), or not
 * any more. */
void instance_want(struct instance_service *service, struct instance_target *target,
                   bool is_wanted);

/*
 * Any thread: so many calls of `target` at once are foreseen (service/forecast).  Instances are
 * kept for them, and not for what was learnt from the last hour, until something else is said;
 * `is_known` false takes it back.
 */
void instance_expect(struct instance_service *service, struct instance_target *target,
                     bool is_known, unsigned count);

/* What a version of a function had since this was asked before. */
struct instance_load {
    char *project;
    char *function;
    unsigned peak; /* calls at once, waiting and running */
    uint64_t calls;
};

/* Any thread: `done` gets those of all functions that were called here, lent, on `loop`. */
void instance_take_load(struct instance_service *service, struct loop *loop,
                        void (*done)(const struct instance_load *loads, size_t count,
                                     void *context),
                        void *context);

/* How it stands with a version of a function, on this node. */
struct instance_census {
    unsigned running; /* calls */
    unsigned waiting; /* for an instance */
    unsigned idle;    /* instances that its next calls find */
    /* The first target of the same function whose instances these are, too; or its own place. */
    size_t same_as;
};

/* Any thread: of each target (references are taken), those of a function beside each other; `done`
 * gets as many, lent, on `loop`. */
void instance_take_census(struct instance_service *service, struct instance_target *const *targets,
                          size_t count, struct loop *loop,
                          void (*done)(const struct instance_census *census, size_t count,
                                       void *context),
                          void *context);

/* Any thread: nobody has `target` any more (its version was deleted, or its tier replaced), nor one
 * that shares its instances: they go. */
void instance_forget(struct instance_service *service, struct instance_target *target);

/* Any thread: are both served by the same instances? */
bool instance_targets_share(const struct instance_target *a, const struct instance_target *b);

/* Any thread: the runners as JSON, an array of type Runner; `done` gets the text, lent, on `loop`.
 */
void instance_describe(struct instance_service *service, struct loop *loop,
                       void (*done)(const char *json, void *context), void *context);

#endif
