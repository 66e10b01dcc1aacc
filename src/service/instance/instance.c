/* The service: what any thread may ask of it.  See instance.h. */
#include "service/instance/instance.h"

#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/clone/clone.h"

#include "service/instance/pressure.h"
#include "service/instance/project.h"

static void on_pressure_timer(void *context);

int instance_service_new(struct loop *loop, const struct instance_options *options,
                         struct instance_service **ret_service, struct error *err)
{
    if (options->slots_per_runner < 1 || options->slots_per_runner > RUNNER_SLOTS_MAX) {
        return error_set(err, ERROR_INVALID, "%u slots per runner: 1 to %u are possible",
                         options->slots_per_runner, (unsigned)RUNNER_SLOTS_MAX);
    }
    if (options->runners_max < 1 || options->runners_max > POOL_RUNNERS_MAX) {
        return error_set(err, ERROR_INVALID, "%u runners per project: 1 to %u are possible",
                         options->runners_max, (unsigned)POOL_RUNNERS_MAX);
    }
    struct instance_service *service = NEW(struct instance_service);
    service->references = 1;
    service->loop = loop;
    service->options = *options;
    if (options->runner_program != NULL) {
        service->runner_program = memory_copy_string(options->runner_program);
    }
    list_init(&service->free_calls);
    list_init(&service->ending_calls);
    service->pressure_timer = loop_timer_new(loop, on_pressure_timer, service);
    *ret_service = service;
    return 0;
}

void instance_set_host(struct instance_service *service, const struct instance_host *host)
{
    service->host = host != NULL ? *host : (struct instance_host){0};
}

void instance_set_secrets(struct instance_service *service, const struct instance_secrets *secrets)
{
    service->secrets = secrets != NULL ? *secrets : (struct instance_secrets){0};
}

/* ---- Quotas ---- */

void instance_set_quota(struct instance_service *service, const struct instance_quota *quota)
{
    service->quota = quota != NULL ? *quota : (struct instance_quota){0};
}

static void pump(const char *name, void *value, void *context)
{
    (void)name;
    (void)context;
    project_pump(value);
}

void instance_quota_changed(struct instance_service *service)
{
    map_each(&service->projects, pump, NULL);
}

uint64_t instance_count(const struct instance_service *service, const char *project)
{
    uint64_t count = 0;
    for (int is_linux = 0; is_linux < 2; is_linux++) {
        MEMORY_OWNED char *key = project_key(project, is_linux == 1);
        const struct project *pool = map_get(&service->projects, key);
        count += pool != NULL ? pool_instances(pool->pool) : 0;
    }
    return count;
}

static void tell_pressure(const char *name, void *value, void *context)
{
    struct project *project = value;
    (void)name;
    pool_set_pressure(project->pool, *(const enum pool_pressure *)context);
    project_pump(project);
}

static void on_pressure_timer(void *context)
{
    struct instance_service *service = context;
    struct pressure_facts facts;
    pressure_read(&facts);
    enum pool_pressure pressure = pressure_judge(&facts);
    service->pressure_timer_runs = false;
    if (pressure != POOL_PRESSURE_NONE || service->was_pressed) {
        map_each(&service->projects, tell_pressure, &pressure);
    }
    service->was_pressed = pressure != POOL_PRESSURE_NONE;
    instance_watch_pressure(service);
}

void instance_watch_pressure(struct instance_service *service)
{
    bool is_needed = service->runners > 0 || service->was_pressed;
    if (is_needed && !service->pressure_timer_runs && service->pressure_timer != NULL) {
        service->pressure_timer_runs = true;
        loop_timer_start(service->pressure_timer, PRESSURE_MS);
    }
}

struct instance_service *instance_service_ref(struct instance_service *service)
{
    service->references++;
    return service;
}

void instance_service_unref(struct instance_service *service)
{
    if (--service->references == 0) {
        free(service);
    }
}

static void free_project(const char *name, void *value, void *context)
{
    (void)name;
    (void)context;
    project_free(value);
}

void instance_service_free(struct instance_service *service)
{
    if (service == NULL) {
        return;
    }
    loop_timer_free(service->pressure_timer);
    service->pressure_timer = NULL;
    map_each(&service->projects, free_project, NULL);
    map_done(&service->projects);
    call_flush(service);
    free(service->runner_program);
    service->is_over = true;
    instance_service_unref(service);
}

struct loop *instance_loop(const struct instance_service *service)
{
    return service->loop;
}

enum vmm_isolation instance_isolation(const struct instance_service *service)
{
    return service->options.isolation;
}

struct instance_target *instance_target_ref(struct instance_target *target)
{
    target->references++;
    return target;
}

void instance_target_unref(struct instance_target *target)
{
    if (target != NULL && --target->references == 0) {
        free(target->environment);
        free(target->fetch_allow);
        free(target->secrets);
        free(target->linux_settings);
        free(target);
    }
}

/* ---- Preparing ---- */

static void prepare_tell(void *argument)
{
    struct prepare *prepare = argument;
    bool failed = prepare->error.kind != ERROR_NONE;
    prepare->done(failed ? &prepare->error : NULL, failed ? NULL : &prepare->info,
                  prepare->context);
    instance_target_unref(prepare->target);
    free(prepare);
}

void prepare_end(struct prepare *prepare, const struct error *error,
                 const struct vmm_image_info *info)
{
    if (error != NULL) {
        prepare->error = *error;
    }
    if (info != NULL) {
        prepare->info = *info;
    }
    loop_post(prepare->loop, prepare_tell, prepare);
}

static void prepare_begin(void *argument)
{
    struct prepare *prepare = argument;
    struct instance_service *service = prepare->service;
    if (service->is_over) {
        struct error error;
        error_set(&error, ERROR_CANCELLED, "the node is stopping");
        prepare_end(prepare, &error, NULL);
        instance_service_unref(service);
        return;
    }
    struct project *project =
        project_find(service, prepare->target->project, prepare->target->linux_settings != NULL);
    struct pool_request request;
    project_fill_request(prepare->target, &request);
    pool_prepare(project->pool, &prepare->pool, &request);
    project_note_image(prepare->pool.image, prepare->target);
    project_pump(project);
    instance_service_unref(service);
}

void instance_prepare(struct instance_service *service, struct instance_target *target,
                      struct loop *loop,
                      void (*done)(const struct error *error, const struct vmm_image_info *info,
                                   void *context),
                      void *context)
{
    struct prepare *prepare = NEW(struct prepare);
    prepare->service = instance_service_ref(service);
    prepare->target = instance_target_ref(target);
    prepare->loop = loop;
    prepare->done = done;
    prepare->context = context;
    loop_post(service->loop, prepare_begin, prepare);
}

/* ---- Wanting ---- */

struct want {
    struct instance_service *service;
    struct instance_target *target;
    bool is_wanted;
};

static void want_now(void *argument)
{
    struct want *want = argument;
    struct instance_service *service = want->service;
    if (!service->is_over) {
        struct project *project =
            project_find(service, want->target->project, want->target->linux_settings != NULL);
        struct pool_request request;
        project_fill_request(want->target, &request);
        project_note_image(
            pool_want(project->pool, &request, want->is_wanted, clock_monotonic_ms()),
            want->target);
        project_pump(project);
    }
    instance_target_unref(want->target);
    instance_service_unref(service);
    free(want);
}

void instance_want(struct instance_service *service, struct instance_target *target, bool is_wanted)
{
    struct want *want = NEW(struct want);
    want->service = instance_service_ref(service);
    want->target = instance_target_ref(target);
    want->is_wanted = is_wanted;
    loop_post(service->loop, want_now, want);
}

/* ---- Forgetting ---- */

bool instance_targets_share(const struct instance_target *a, const struct instance_target *b)
{
    struct pool_request request_a;
    struct pool_request request_b;
    project_fill_request(a, &request_a);
    project_fill_request(b, &request_b);
    return strcmp(a->project, b->project) == 0 && pool_requests_share(&request_a, &request_b);
}

struct forget {
    struct instance_service *service;
    struct instance_target *target;
};

static void forget_now(void *argument)
{
    struct forget *forget = argument;
    struct instance_service *service = forget->service;
    struct instance_target *target = forget->target;
    bool is_linux = target->linux_settings != NULL;
    MEMORY_OWNED char *key = project_key(target->project, is_linux);
    struct project *project = map_get(&service->projects, key);
    if (project != NULL) {
        struct pool_request request;
        project_fill_request(target, &request);
        pool_forget(project->pool, &request);
        project_pump(project);
    }
    if (is_linux && service->options.clones != NULL) {
        clone_forget(service->options.clones, target->image_id);
    }
    instance_target_unref(target);
    instance_service_unref(service);
    free(forget);
}

void instance_forget(struct instance_service *service, struct instance_target *target)
{
    struct forget *forget = NEW(struct forget);
    forget->service = instance_service_ref(service);
    forget->target = instance_target_ref(target);
    loop_post(service->loop, forget_now, forget);
}

/* ---- Describing ---- */

struct describe {
    struct instance_service *service;
    struct loop *loop;
    void (*done)(const char *json, void *context);
    void *context;
    struct buffer json;
};

static void describe_tell(void *argument)
{
    struct describe *describe = argument;
    describe->done(buffer_string(&describe->json), describe->context);
    buffer_done(&describe->json);
    free(describe);
}

static void describe_project(const char *name, void *value, void *context)
{
    const struct project *project = value;
    struct json_writer *writer = context;
    (void)name; /* of two pools */
    for (unsigned i = 0; i < project->service->options.runners_max; i++) {
        const struct runner *runner = project->seats[i].runner;
        if (runner == NULL) {
            continue;
        }
        json_write_begin_object(writer);
        json_write_field_u64(writer, "pid", (uint64_t)runner_pid(runner));
        json_write_field_string(writer, "project", project->name);
        json_write_field_string(writer, "isolation", vmm_isolation_text(runner_isolation(runner)));
        json_write_field_string(writer, "jail", runner_jail_text(runner));
        json_write_field_u64(writer, "slots", project_slots(project));
        json_write_field_u64(writer, "busy", pool_runner_busy(project->pool, i));
        json_write_field_u64(writer, "images", pool_runner_images(project->pool, i));
        json_write_end_object(writer);
    }
}

static void describe_now(void *argument)
{
    struct describe *describe = argument;
    struct json_writer writer = json_writer_to(&describe->json);
    json_write_begin_array(&writer);
    map_each(&describe->service->projects, describe_project, &writer);
    json_write_end_array(&writer);
    instance_service_unref(describe->service);
    loop_post(describe->loop, describe_tell, describe);
}

void instance_describe(struct instance_service *service, struct loop *loop,
                       void (*done)(const char *json, void *context), void *context)
{
    struct describe *describe = NEW(struct describe);
    describe->service = instance_service_ref(service);
    describe->loop = loop;
    describe->done = done;
    describe->context = context;
    loop_post(service->loop, describe_now, describe);
}
