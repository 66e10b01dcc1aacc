/* How it stands with versions of functions: calls that run and wait, instances that are idle. */
#include <stdlib.h>
#include <string.h>

#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/instance/project.h"

struct census {
    struct instance_service *service;
    struct loop *loop;
    void (*done)(const struct instance_census *census, size_t count, void *context);
    void *context;
    struct instance_target **targets;
    struct instance_census *rows;
    size_t count;
};

static void tell(void *argument)
{
    struct census *census = argument;
    census->done(census->rows, census->count, census->context);
    for (size_t i = 0; i < census->count; i++) {
        instance_target_unref(census->targets[i]);
    }
    free(census->targets);
    free(census->rows);
    free(census);
}

static const struct pool_image *look_at(const struct census *census, size_t place)
{
    const struct instance_target *target = census->targets[place];
    struct instance_census *row = &census->rows[place];
    MEMORY_OWNED char *key = project_key(target->project, target->linux_settings != NULL);
    const struct project *project = map_get(&census->service->projects, key);
    struct pool_look look = {0};
    if (project != NULL) {
        struct pool_request request;
        project_fill_request(target, &request);
        pool_look(project->pool, &request, &look);
    }
    *row = (struct instance_census){look.running, look.waiting, look.idle, place};
    return look.image;
}

/* Those of a function are beside each other: only these are compared. */
static void take_now(void *argument)
{
    struct census *census = argument;
    struct instance_service *service = census->service;
    const struct pool_image **images = memory_new(census->count + 1, sizeof(struct pool_image *));
    size_t first = 0; /* of the function */
    for (size_t i = 0; i < census->count && !service->is_over; i++) {
        if (strcmp(census->targets[i]->function, census->targets[first]->function) != 0) {
            first = i;
        }
        images[i] = look_at(census, i);
        for (size_t j = first; j < i && images[i] != NULL; j++) {
            if (images[j] == images[i]) {
                census->rows[i].same_as = j;
                break;
            }
        }
    }
    free(images);
    instance_service_unref(service);
    loop_post(census->loop, tell, census);
}

void instance_take_census(struct instance_service *service, struct instance_target *const *targets,
                          size_t count, struct loop *loop,
                          void (*done)(const struct instance_census *census, size_t count,
                                       void *context),
                          void *context)
{
    struct census *census = NEW(struct census);
    census->service = instance_service_ref(service);
    census->loop = loop;
    census->done = done;
    census->context = context;
    census->count = count;
    census->targets = memory_new(count + 1, sizeof(struct instance_target *));
    census->rows = memory_new(count + 1, sizeof(*census->rows));
    for (size_t i = 0; i < count; i++) {
        census->targets[i] = instance_target_ref(targets[i]);
    }
    loop_post(service->loop, take_now, census);
}
