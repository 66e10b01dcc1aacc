#include "test/unit/service/faked/fakes.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"

#include "engine/clone/clone.h"
#include "engine/image/image.h"

#include "service/function/function.h"
#include "service/telemetry/telemetry.h"

#include "test/lib/test.h"

/* ---- Runners ---- */

const char *vmm_isolation_text(enum vmm_isolation isolation)
{
    return isolation == VMM_ISOLATION_PROCESS ? "process" : "microvm";
}

struct runner *fake_runners[FAKE_RUNNERS];
unsigned fake_runner_count;
bool fake_holds_loads;
const char *fake_start_problem;

int runner_start(struct loop *loop, const struct runner_options *options,
                 const struct runner_events *events, struct runner **ret_runner, struct error *err)
{
    (void)loop;
    (void)options;
    if (fake_start_problem != NULL) {
        return error_set(err, ERROR_NOT_FOUND, "%s", fake_start_problem);
    }
    EXPECT(fake_runner_count < FAKE_RUNNERS);
    struct runner *runner = NEW(struct runner);
    runner->is_alive = true;
    runner->events = *events;
    runner->pid = 1000 + (pid_t)fake_runner_count;
    fake_runners[fake_runner_count++] = runner;
    *ret_runner = runner;
    return 0;
}

static void end_calls(struct runner *runner, const struct error *error)
{
    for (unsigned i = 0; i < FAKE_SLOTS; i++) {
        struct runner_call *call = &runner->calls[i];
        if (call->is_active) {
            call->is_active = false;
            call->events.on_end(error, NULL, call->context);
        }
    }
    if (runner->load_is_pending) {
        runner->load_is_pending = false;
        runner->load_done(error, NULL, NULL, 0, runner->load_context);
    }
}

void runner_free(struct runner *runner)
{
    struct error error;
    error_set(&error, ERROR_CANCELLED, "ended");
    end_calls(runner, &error);
    for (unsigned i = 0; i < FAKE_SLOTS; i++) {
        buffer_done(&runner->calls[i].environment);
        buffer_done(&runner->calls[i].input);
    }
    runner->is_alive = false;
    runner->is_freed = true;
}

pid_t runner_pid(const struct runner *runner)
{
    return runner->pid;
}

enum vmm_isolation runner_isolation(const struct runner *runner)
{
    (void)runner;
    return VMM_ISOLATION_PROCESS;
}

const char *runner_jail_text(const struct runner *runner)
{
    (void)runner;
    return "full";
}

void fake_loaded(struct runner *runner, const struct error *error)
{
    EXPECT(runner->load_is_pending);
    struct vmm_image_info info = {.text_bytes = 4096};
    runner->load_is_pending = false;
    runner->load_done(error, error == NULL ? &info : NULL, "starting\n", 9, runner->load_context);
}

static void loaded_later(void *argument)
{
    struct runner *runner = argument;
    if (runner->load_is_pending) {
        fake_loaded(runner, NULL);
    }
}

void runner_load(struct runner *runner, const char *image_id, int elf_fd,
                 const struct vmm_limits *limits,
                 void (*done)(const struct error *error, const struct vmm_image_info *info,
                              const char *log, size_t log_length, void *context),
                 void *context)
{
    (void)limits;
    EXPECT(elf_fd >= 0 && strlen(image_id) == 64 && !runner->load_is_pending);
    runner->loads++;
    runner->load_is_pending = true;
    runner->load_done = done;
    runner->load_context = context;
    if (!fake_holds_loads) {
        loop_post(fake_loop, loaded_later, runner);
    }
}

void runner_load_with(struct runner *runner, const char *image_id, int fd,
                      const struct vmm_limits *limits, const char *settings,
                      void (*done)(const struct error *error, const struct vmm_image_info *info,
                                   const char *log, size_t log_length, void *context),
                      void *context)
{
    EXPECT(settings == fake_target.linux_settings);
    runner_load(runner, image_id, fd, limits, done, context);
}

void clone_forget(struct clone_service *service, const char *keep)
{
    (void)service;
    (void)keep;
}

int clone_runner_start(struct clone_service *service, unsigned slot_count,
                       struct runner **ret_runner, struct error *err)
{
    static const struct runner_events none = {0};
    (void)service;
    (void)slot_count;
    return runner_start(fake_loop, NULL, &none, ret_runner, err);
}

void runner_unload(struct runner *runner, const char *image_id)
{
    EXPECT(runner->is_alive && strlen(image_id) == 64);
    runner->unloads++;
}

void runner_warm(struct runner *runner, unsigned slot, const char *image_id_or_null)
{
    EXPECT(runner->is_alive);
    (void)slot;
    (void)image_id_or_null;
}

bool fake_echoes;

/* What came so far goes back; the end when all has come. */
static void echo(void *argument)
{
    struct runner_call *call = argument;
    if (!call->is_active) {
        return;
    }
    if (call->input.used > 0 && !call->is_paused) {
        call->events.on_output(call->input.data, call->input.used, call->context);
        buffer_clear(&call->input);
        call->events.on_writable(call->context);
    }
    if (call->input_is_whole && call->input.used == 0) {
        fake_end(call, VMM_END_EXIT, 0, "");
    } else {
        loop_post(fake_loop, echo, call);
    }
}

struct runner_call *runner_invoke(struct runner *runner, unsigned slot,
                                  const struct runner_invocation *invocation,
                                  const struct runner_call_events *events, void *context)
{
    struct runner_call *call = &runner->calls[slot];
    EXPECT(runner->is_alive && slot < FAKE_SLOTS && !call->is_active);
    buffer_clear(&call->environment);
    buffer_clear(&call->input);
    call->runner = runner;
    call->slot = slot;
    call->is_active = true;
    call->is_paused = call->is_cancelled = call->input_is_slow = false;
    call->events = *events;
    call->context = context;
    buffer_append(&call->environment, invocation->environment, invocation->environment_length);
    buffer_append(&call->input, invocation->input, invocation->input_length);
    call->input_is_whole = !invocation->input_continues;
    if (fake_echoes) {
        loop_post(fake_loop, echo, call);
    }
    snprintf(call->image, sizeof(call->image), "%s", invocation->image_id);
    return call;
}

bool runner_call_write(struct runner_call *call, const void *bytes, size_t length)
{
    EXPECT(call->is_active && !call->input_is_whole);
    buffer_append(&call->input, bytes, length);
    return !call->input_is_slow;
}

void runner_call_finish_input(struct runner_call *call)
{
    EXPECT(call->is_active);
    call->input_is_whole = true;
}

void runner_call_answer(struct runner_call *call, const void *reply, size_t length)
{
    EXPECT(call->is_active);
    buffer_clear(&call->answer);
    if (length > 0) {
        buffer_append(&call->answer, reply, length);
    }
    call->answers++;
}

void runner_call_pause(struct runner_call *call)
{
    EXPECT(call->is_active);
    call->is_paused = true;
}

void runner_call_resume(struct runner_call *call)
{
    EXPECT(call->is_active);
    call->is_paused = false;
}

bool fake_answers_cancel = true;

static void end_cancelled(void *argument)
{
    struct runner_call *call = argument;
    if (call->is_active && call->is_cancelled) {
        fake_end(call, VMM_END_CANCELLED, 0, "");
    }
}

void runner_call_cancel(struct runner_call *call)
{
    EXPECT(call->is_active);
    call->is_cancelled = true;
    if (fake_answers_cancel) {
        loop_post(fake_loop, end_cancelled, call);
    }
}

struct runner_call *fake_call(unsigned slot)
{
    for (unsigned i = fake_runner_count; i > 0; i--) {
        struct runner *runner = fake_runners[i - 1];
        if (runner->is_alive) {
            return runner->calls[slot].is_active ? &runner->calls[slot] : NULL;
        }
    }
    return NULL;
}

const char *fake_variable(const struct runner_call *call, const char *name)
{
    size_t length = strlen(name);
    const char *at = (const char *)call->environment.data;
    const char *end = at + call->environment.used;
    for (; at < end; at += strlen(at) + 1) {
        if (strncmp(at, name, length) == 0 && at[length] == '=') {
            return at + length + 1;
        }
    }
    return NULL;
}

void fake_output(struct runner_call *call, const char *text)
{
    EXPECT(call->is_active && !call->is_paused);
    call->events.on_output(text, strlen(text), call->context);
}

void fake_end(struct runner_call *call, enum vmm_end end, uint32_t exit_code, const char *reason)
{
    EXPECT(call->is_active);
    struct runner_result result = {.end = end, .exit_code = exit_code, .run_ns = 5000};
    snprintf(result.reason, sizeof(result.reason), "%s", reason);
    call->is_active = false;
    call->events.on_end(NULL, &result, call->context);
}

void fake_die(struct runner *runner)
{
    struct error error;
    error_set(&error, ERROR_UNAVAILABLE, "the runner died: killed by signal 9");
    end_calls(runner, &error);
    runner->is_alive = false;
    runner->events.on_exit(runner, "killed by signal 9", runner->events.context);
}

/* ---- Functions, images, telemetry ---- */

struct instance_target fake_target;
char fake_log[4096];
char fake_last_end[32];
static pthread_mutex_t telemetry_lock = PTHREAD_MUTEX_INITIALIZER;

struct text function_route_pick(struct function_service *service, const char *project,
                                struct text name, const struct function_pick *pick,
                                char ret_name[FUNCTION_PICKED_SIZE])
{
    (void)service;
    (void)project;
    (void)pick;
    (void)ret_name;
    return name;
}

int function_route_find(struct function_service *service, const char *project, struct text name,
                        struct instance_target **ret_target, struct error *err)
{
    (void)service;
    EXPECT(strcmp(project, "default") == 0);
    if (text_equal(name, "away") || text_equal(name, "away:7")) {
        return error_set(err, ERROR_UNAVAILABLE, "function away is not ready here");
    }
    if (!text_equal(name, "hello")) {
        return error_set(err, ERROR_NOT_FOUND, "function %.*s", (int)name.length, name.data);
    }
    *ret_target = instance_target_ref(&fake_target);
    return 0;
}

int image_open(struct image_store *store, const char *id, int *ret_fd, uint64_t *ret_size_bytes,
               struct error *err)
{
    (void)store;
    if (strcmp(id, "missing") == 0) {
        return error_set(err, ERROR_NOT_FOUND, "image %s", id);
    }
    *ret_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    *ret_size_bytes = 0;
    return 0;
}

void telemetry_log(struct telemetry *telemetry, const char *project, const char *function,
                   uint64_t version, const char *request_id,
                   const struct trace_context *trace_or_null, const void *bytes, size_t length)
{
    (void)telemetry;
    (void)trace_or_null;
    (void)project;
    (void)version;
    pthread_mutex_lock(&telemetry_lock);
    size_t used = strlen(fake_log);
    snprintf(fake_log + used, sizeof(fake_log) - used, "%s %s %.*s", function, request_id,
             (int)length, (const char *)bytes);
    pthread_mutex_unlock(&telemetry_lock);
}

const char *telemetry_trigger_text(enum telemetry_trigger trigger)
{
    return trigger == TELEMETRY_TRIGGER_PUBSUB ? "pubsub" : "other";
}

void telemetry_add(struct telemetry *telemetry, enum telemetry_metric metric, uint64_t amount)
{
    (void)telemetry;
    (void)metric;
    (void)amount;
}

void telemetry_set(struct telemetry *telemetry, enum telemetry_metric metric, uint64_t value)
{
    (void)telemetry;
    (void)metric;
    (void)value;
}

void telemetry_call(struct telemetry *telemetry, const struct telemetry_call *call)
{
    (void)telemetry;
    pthread_mutex_lock(&telemetry_lock);
    snprintf(fake_last_end, sizeof(fake_last_end), "%s", call->end);
    pthread_mutex_unlock(&telemetry_lock);
}

/* ---- The world ---- */

struct instance_service *fake_instances;
struct gateway *fake_gateway;
struct loop *fake_loop;

static void fake_world_begin(unsigned slots, unsigned gateway_threads)
{
    struct error err = {0};
    EXPECT(loop_new("test", &fake_loop, &err) == 0);
    struct instance_options options = {
        .isolation = VMM_ISOLATION_PROCESS,
        .slots_per_runner = slots,
        .runners_max = 1,
        .clones = (struct clone_service *)&fake_loop}; /* never looked into */
    EXPECT(instance_service_new(fake_loop, &options, &fake_instances, &err) == 0);
    fake_target = (struct instance_target){
        .references = 1,
        .project = "default",
        .function = "hello",
        .version = 3,
        .limits = {.memory_bytes = 1 << 20, .timeout_ms = 30000, .output_bytes_max = 1 << 20},
        .queue_max = 4,
    };
    snprintf(fake_target.image_id, sizeof(fake_target.image_id), "image");
    if (gateway_threads > 0) {
        struct gateway_options gateway = {
            .address = "127.0.0.1:0",
            .threads = gateway_threads,
            .body_bytes_max = 1 << 20,
            .instances = fake_instances,
            .cluster = (struct cluster *)&fake_gateway,
        };
        EXPECT(gateway_start(&gateway, &fake_gateway, &err) == 0);
    }
}

static void fake_world_end(void)
{
    if (fake_gateway != NULL) {
        gateway_stop(fake_gateway, 0);
    }
    instance_service_free(fake_instances);
    loop_free(fake_loop);
    EXPECT(fake_target.references == 1);
    for (unsigned i = 0; i < fake_runner_count; i++) {
        EXPECT(fake_runners[i]->is_freed);
        free(fake_runners[i]);
    }
}

static void (*world_body)(void);

static void run_body(void *argument)
{
    (void)argument;
    world_body();
    uv_stop(loop_uv(fake_loop));
}

void fake_world_run(unsigned slots, unsigned gateway_threads, void (*body)(void))
{
    fake_world_begin(slots, gateway_threads);
    world_body = body;
    loop_post(fake_loop, run_body, NULL);
    loop_run(fake_loop);
    fake_world_end();
}

/* Posts that posts make are done in the turns after. */
void fake_turn(void)
{
    for (unsigned i = 0; i < 8; i++) {
        uv_run(loop_uv(fake_loop), UV_RUN_NOWAIT);
        fake_http_sweep();
    }
}

void fake_run_until(bool (*is_true)(const void *argument), const void *argument)
{
    while (!is_true(argument)) {
        uv_run(loop_uv(fake_loop), UV_RUN_ONCE);
    }
}
