/* What functions are called now, and what is foreseen: service/forecast's side of the instances. */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/instance/project.h"

/* ---- What is foreseen ---- */

struct expect {
    struct instance_service *service;
    struct instance_target *target;
    bool is_known;
    unsigned count;
};

static void expect_now(void *argument)
{
    struct expect *expect = argument;
    struct instance_service *service = expect->service;
    struct instance_target *target = expect->target;
    if (!service->is_over) {
        struct project *project =
            project_find(service, target->project, target->linux_settings != NULL);
        struct pool_request request;
        project_fill_request(target, &request);
        project_note_image(pool_expect(project->pool, &request, expect->is_known, expect->count,
                                       clock_monotonic_ms()),
                           target);
        project_pump(project);
    }
    instance_target_unref(target);
    instance_service_unref(service);
    free(expect);
}

void instance_expect(struct instance_service *service, struct instance_target *target,
                     bool is_known, unsigned count)
{
    struct expect *expect = NEW(struct expect);
    expect->service = instance_service_ref(service);
    expect->target = instance_target_ref(target);
    expect->is_known = is_known;
    expect->count = count;
    loop_post(service->loop, expect_now, expect);
}

/* ---- What was called ---- */

struct take {
    struct instance_service *service;
    struct loop *loop;
    void (*done)(const struct instance_load *loads, size_t count, void *context);
    void *context;
    const struct project *project; /* that is being looked at */
    struct instance_load *loads;
    size_t count;
    size_t size;
};

static void take_tell(void *argument)
{
    struct take *take = argument;
    take->done(take->loads, take->count, take->context);
    for (size_t i = 0; i < take->count; i++) {
        free(take->loads[i].project);
        free(take->loads[i].function);
    }
    free(take->loads);
    free(take);
}

static void take_function(const char *function, unsigned peak, uint64_t calls, void *context)
{
    struct take *take = context;
    if (take->count == take->size) {
        take->size = take->size > 0 ? 2 * take->size : 16;
        take->loads = memory_resize(take->loads, take->size * sizeof(*take->loads));
    }
    take->loads[take->count++] = (struct instance_load){
        .project = memory_copy_string(take->project->name),
        .function = memory_copy_string(function),
        .peak = peak,
        .calls = calls,
    };
}

static void take_project(const char *key, void *value, void *context)
{
    struct take *take = context;
    (void)key; /* of two pools */
    take->project = value;
    pool_take_load(take->project->pool, take_function, take);
}

static void take_now(void *argument)
{
    struct take *take = argument;
    if (!take->service->is_over) {
        map_each(&take->service->projects, take_project, take);
    }
    instance_service_unref(take->service);
    loop_post(take->loop, take_tell, take);
}

void instance_take_load(struct instance_service *service, struct loop *loop,
                        void (*done)(const struct instance_load *loads, size_t count,
                                     void *context),
                        void *context)
{
    struct take *take = NEW(struct take);
    take->service = instance_service_ref(service);
    take->loop = loop;
    take->done = done;
    take->context = context;
    loop_post(service->loop, take_now, take);
}

void instance_count_calls(const struct instance_service *service, uint64_t *ret_running,
                          uint64_t *ret_waiting)
{
    *ret_running = atomic_load_explicit(&service->busy, memory_order_relaxed);
    *ret_waiting = atomic_load_explicit(&service->waiting, memory_order_relaxed);
}
