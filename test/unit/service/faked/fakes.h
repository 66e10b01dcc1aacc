/*
 * Stand-ins for the rooms below the instances and the gateway, so that a test decides what an HTTP
 * client, a runner and a function do, and in which order.  Linked in place of the real ones.
 */
#ifndef TEST_UNIT_SERVICE_FAKED_FAKES_H
#define TEST_UNIT_SERVICE_FAKED_FAKES_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/http.h"
#include "base/loop/loop.h"

#include "engine/runner/runner.h"

#include "service/gateway/gateway.h"
#include "service/instance/instance.h"
#include "service/peer/peer.h"

/* ---- Clients ---- */

struct fake_request {
    const char *method; /* NULL: GET */
    const char *path;
    const char *query;
    const char *const *fields; /* name, value, name, value, NULL */
    bool has_body;
    uint64_t body_length; /* UINT64_MAX: chunked */
};

struct http_exchange {
    unsigned references;
    struct loop *loop;
    struct fake_request request;
    /* The body, as far as it is asked for. */
    void (*on_data)(const void *bytes, size_t length, void *context);
    void (*on_body_end)(const struct error *error, void *context);
    void *body_context;
    bool is_paused;
    uint64_t body_max;
    /* The answer. */
    void (*on_drain)(void *context);
    void (*on_close)(void *context);
    void *context;
    int status;
    uint64_t length;
    struct buffer head; /* "Name: value\n" ... */
    struct buffer body;
    bool has_begun, has_ended, was_aborted, is_closed;
    bool is_slow; /* write says wait */
    unsigned writes;
    struct error error; /* of respond_error */
};

/* A request comes to the gateway's first server (or straight to a lane's, by its loop).  The test
 * keeps a reference. */
struct http_exchange *fake_request(const struct fake_request *request);
struct http_exchange *fake_get(const char *path);
extern void (*fake_handler)(struct http_exchange *owned_exchange); /* in place of the gateway's */
void fake_body(struct http_exchange *exchange, const void *bytes, size_t length);
void fake_body_end(struct http_exchange *exchange, const struct error *error);
void fake_hang_up(struct http_exchange *exchange);
void fake_drain(struct http_exchange *exchange);
/* Value of a field of the answer, or "". */
const char *fake_field(const struct http_exchange *exchange, const char *name);
const char *fake_answer(struct http_exchange *exchange);
struct loop *fake_other_loop(void); /* of the gateway, not the instances' */

/* ---- Runners ---- */

enum { FAKE_RUNNERS = 16, FAKE_SLOTS = 8 };

struct runner_call {
    struct runner *runner;
    unsigned slot;
    bool is_active;
    struct runner_call_events events;
    void *context;
    struct buffer environment;
    struct buffer input;
    struct buffer answer; /* to its last question */
    unsigned answers;
    bool input_is_whole;
    bool input_is_slow; /* write says wait */
    bool is_paused;
    bool is_cancelled;
    char image[65];
};

struct runner {
    bool is_alive;
    bool is_freed;
    pid_t pid;
    unsigned unloads;
    unsigned loads;
    struct runner_events events;
    struct runner_call calls[FAKE_SLOTS];
    bool load_is_pending;
    void (*load_done)(const struct error *error, const struct vmm_image_info *info, const char *log,
                      size_t log_length, void *context);
    void *load_context;
};

extern struct runner *fake_runners[FAKE_RUNNERS];
extern unsigned fake_runner_count;
extern bool fake_holds_loads;
extern bool fake_answers_cancel;       /* by the end of the call, later */
extern bool fake_echoes;               /* calls answer by themselves with their input */
extern const char *fake_start_problem; /* runner_start() fails with it */

/* The call that runs on a slot of the newest living runner; NULL: none. */
struct runner_call *fake_call(unsigned slot);
const char *fake_variable(const struct runner_call *call, const char *name);
void fake_output(struct runner_call *call, const char *text);
void fake_end(struct runner_call *call, enum vmm_end end, uint32_t exit_code, const char *reason);
void fake_die(struct runner *runner);
void fake_loaded(struct runner *runner, const struct error *error);

/* ---- Other nodes: 2 ("b") and 3 ("c"), 1 ("a") is this one ---- */

/* What was passed on last, until its end is told. */
struct peer_pass {
    struct http_exchange *exchange;
    uint64_t node;
    char target[256];
    char fields[1024]; /* "Name: value\n" ... */
    uint64_t timeout_ms;
    bool takes_refusal;
    struct peer_pass_events events;
    void *context;
};
extern struct peer_pass *fake_pass;
extern unsigned fake_calls_of[4];   /* by node id */
void fake_cordon(bool is_cordoned); /* this node */
extern bool fake_has_others;        /* false: there are none */

void fake_pass_end(const struct error *error, bool is_untouched);
/* It is answered: 200, "passed". */
void fake_pass_answer(void);

/* What another node was asked by the gateway itself, until it was answered. */
struct peer_call {
    struct peer_request request;
    char target[256];
    char fields[1024];
    char body[256];
    bool was_sent;
    void (*done)(const struct error *error, int status, struct buffer *answer, void *context);
    void *context;
};
extern struct peer_call *fake_asked;
/* `failed`: a kind of error, the answer is not a function's; NULL: it is. */
void fake_asked_answer(int status, const char *failed, bool is_refused, const char *body);
void fake_asked_fail(const struct error *error, bool was_sent);

/* ---- The world ---- */

extern struct instance_service *fake_instances;
extern struct gateway *fake_gateway;
extern struct loop *fake_loop;
extern struct instance_target fake_target; /* what "hello" leads to */
extern char fake_log[4096];                /* what went to telemetry_log() */
extern char fake_last_end[32];             /* of telemetry_call() */

/* Run `body` on the instances' loop, with a gateway when it has threads; then stop everything. */
void fake_world_run(unsigned slots, unsigned gateway_threads, void (*body)(void));

/* In the body: do what is posted. */
void fake_turn(void);
void fake_run_until(bool (*is_true)(const void *argument), const void *argument);

/* Between fakes: exchanges that nobody refers to any more. */
void fake_http_sweep(void);

#endif
