/*
 * A project's pool with the runners it has, and the calls on them: performs what pool.h decides.
 * Private to the room; everything on the service's loop.
 */
#ifndef SERVICE_INSTANCE_PROJECT_H
#define SERVICE_INSTANCE_PROJECT_H

#include "base/buffer.h"
#include "base/map.h"

#include "service/instance/instance.h"
#include "service/instance/pool.h"

enum { REQUEST_ID_SIZE = 129, CALLS_KEPT_MAX = 256, INPUT_KEPT_BYTES_MAX = 65536 };

struct instance_service {
    _Atomic unsigned references; /* the owner's, and one per post on its way to the loop */
    bool is_over;                /* the owner has let go: posts that come now find nothing */
    struct loop *loop;
    struct instance_options options;
    char *runner_program;
    struct instance_host host;       /* open NULL: nobody answers */
    struct instance_secrets secrets; /* read NULL: there are none */
    struct instance_quota quota;     /* most NULL: there is none */
    struct map projects;
    struct list free_calls; /* kept for the next ones */
    unsigned free_call_count;
    struct list ending_calls;          /* their end is posted */
    struct loop_timer *pressure_timer; /* runs while there are runners */
    bool pressure_timer_runs;
    bool was_pressed;
    unsigned runners;
    uint64_t instances;    /* sums over the projects, for the gauges */
    _Atomic uint64_t busy; /* the gateway's other threads look at these two */
    _Atomic uint64_t waiting;
};

/* Where a runner sits. */
struct seat {
    struct project *project;
    unsigned index;
    struct runner *runner;
    struct list loads; /* under way */
};

struct project {
    struct instance_service *service;
    char *name;
    bool is_linux; /* its runners are of engine/clone: beside the project's others */
    struct pool *pool;
    struct loop_timer *timer;
    uint64_t wake_ms;
    struct seat seats[POOL_RUNNERS_MAX];
    bool is_pumping;
    bool is_ending;
    struct pool_counts told;           /* to telemetry */
    uint64_t instances, busy, waiting; /* as counted in the service's sums */
};

/* What is known of an image: pool_image.user. */
struct image_facts {
    char name[HASH_TEXT_SIZE]; /* for the runner */
    struct instance_target *target;
    struct vmm_image_info info;
};

struct instance_call {
    struct pool_call pool;
    struct list_node link; /* in the service's free_calls or ending_calls */
    struct project *project;
    struct instance_target *target;
    struct instance_events events;
    void *context;
    struct runner_call *runner_call;        /* NULL: waiting */
    const struct instance_invocation *lent; /* while instance_invoke() runs */
    struct buffer environment;              /* copies, made when the call must wait, */
    struct buffer input;
    bool has_secrets; /* or the whole environment with what must be wiped */
    bool input_continues;
    bool is_paused;
    bool awaits_writable; /* told to wait, before there was a runner to say when */
    uint64_t timeout_ms;
    uint64_t arrived_ns;
    uint64_t started_ns;
    char request_id[REQUEST_ID_SIZE];
    struct trace_context trace;
    char instance[INSTANCE_NAME_SIZE];
    unsigned depth;
    void *session;      /* with the host, once it has asked */
    bool is_over;       /* its end was told before the post that was to do it */
    struct error error; /* for an end that is posted */
};

/* A call of instance_prepare(). */
struct prepare {
    struct pool_call pool;
    struct instance_service *service;
    struct instance_target *target;
    struct loop *loop;
    void (*done)(const struct error *error, const struct vmm_image_info *info, void *context);
    void *context;
    struct vmm_image_info info;
    struct error error;
};

/* For what is posted to the loop. */
struct instance_service *instance_service_ref(struct instance_service *service);
void instance_service_unref(struct instance_service *service);

/* Made when it is first needed. */
char *project_key(const char *name, bool is_linux);
struct project *project_find(struct instance_service *service, const char *name, bool is_linux);

enum { PRESSURE_MS = 2000 };

/* Look at memory soon, as long as there are runners: what they have loaded takes memory, too. */
void instance_watch_pressure(struct instance_service *service);

/* Do what the pool wants, until it wants nothing more. */
void project_pump(struct project *project);

unsigned project_slots(const struct project *project);

/* What a call of this target asks of the pool; wait_ms_max is the caller's. */
void project_fill_request(const struct instance_target *target, struct pool_request *ret_request);

/* The image is now known to the pool (or none is: NULL): keep what loading it needs. */
void project_note_image(struct pool_image *image, struct instance_target *target);

/* Fail what waits, end its runners (which ends what runs), and free it. */
void project_free(struct project *project);

/* secrets.c: the environment that was lent and the target's secrets become the call's own. */
int call_add_secrets(struct instance_call *call, struct error *err);

/* Run a call on a slot, now. */
void call_start(struct instance_call *call, struct runner *runner, unsigned slot, bool is_last);

/* End a call that has not started; its on_end follows. */
void call_fail(struct instance_call *call, const struct error *error);

/* Tell the calls whose end is posted that it has come, and free those kept. */
void call_flush(struct instance_service *service);

void prepare_end(struct prepare *prepare, const struct error *error,
                 const struct vmm_image_info *info);

#endif
