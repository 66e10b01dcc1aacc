/*
 * What machines of this node exchange with whom: the kernel's counters, as differences.
 *
 * Counters are read by a thread, and made anew with the ports of this node by the thread that a
 * pass has (which hands out what they were).  What is read while a pass runs could be of before or
 * after, so it is not used: it is read the next time.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/network/parts.h"

enum { KEPT_MAX = 65536 };

struct reading {
    struct network_service *service;
    struct net_flow *flows;
    size_t count;
    struct error error;
    uint64_t epoch;
    network_flowed *done;
    void *context;
};

/* ---- Differences ---- */

static void keep(struct network_service *service, const struct net_flow *flow, uint64_t bytes)
{
    const struct network_flow kept = {flow->address, flow->peer, bytes};
    if (bytes > 0 && service->flowed.used < KEPT_MAX * sizeof(kept)) {
        buffer_append(&service->flowed, &kept, sizeof(kept));
    }
}

/* Less than before: it was silent so long that it began anew. */
static void take(struct network_service *service, const struct net_flow *flows, size_t count,
                 struct map *ret_marks)
{
    for (size_t i = 0; i < count; i++) {
        char key[20];
        snprintf(key, sizeof(key), "%08x %08x", flows[i].address, flows[i].peer);
        uint64_t before = (uint64_t)(uintptr_t)map_get(&service->flow_marks, key);
        uint64_t bytes = flows[i].bytes;
        keep(service, &flows[i], bytes >= before ? bytes - before : bytes);
        map_set(ret_marks, key, (void *)(uintptr_t)bytes);
    }
}

static void set_marks(struct network_service *service, struct map marks)
{
    map_done(&service->flow_marks);
    service->flow_marks = marks;
}

void flows_take_plan(struct network_service *service, struct plan *plan)
{
    if (plan->flows_problem.kind != ERROR_NONE &&
        strncmp(service->flows_problem, plan->flows_problem.text,
                sizeof(service->flows_problem) - 1) != 0) {
        log_warn("network: who exchanges data with whom is not learnt: %s",
                 plan->flows_problem.text);
    }
    snprintf(service->flows_problem, sizeof(service->flows_problem), "%.199s",
             plan->flows_problem.text);
    service->flows_digest = plan->flows_digest;
    if (plan->are_flows_new) {
        struct map ignored = {0};
        take(service, plan->flows, plan->flow_count, &ignored);
        map_done(&ignored);
        set_marks(service, (struct map){0});
        service->flow_epoch++;
    }
    free(plan->flows);
    plan->flows = NULL;
}

/* ---- Who asks ---- */

static void answer(struct reading *reading)
{
    struct network_service *service = reading->service;
    struct buffer flowed = service->flowed;
    service->flowed = (struct buffer){0};
    service->pending--;
    reading->done((const struct network_flow *)(const void *)flowed.data,
                  flowed.used / sizeof(struct network_flow), reading->context);
    buffer_done(&flowed);
    free(reading->flows);
    free(reading);
}

static void on_posted(void *context)
{
    answer(context);
}

static void look(void *context)
{
    struct reading *reading = context;
    net_flows_read(reading->service->owner, &reading->flows, &reading->count, &reading->error);
}

static void on_looked(void *context)
{
    struct reading *reading = context;
    struct network_service *service = reading->service;
    if (service->running == NULL && service->flow_epoch == reading->epoch &&
        reading->error.kind == ERROR_NONE) {
        struct map marks = {0};
        take(service, reading->flows, reading->count, &marks);
        set_marks(service, marks);
    }
    answer(reading);
}

void network_read_flows(struct network_service *service, network_flowed *done, void *context)
{
    struct reading *reading = NEW(struct reading);
    bool can_look = service->running == NULL && !service->is_over && service->applied != NULL &&
        service->applied->port_count > 0;
    *reading = (struct reading){
        .service = service, .epoch = service->flow_epoch, .done = done, .context = context};
    service->pending++;
    if (can_look) {
        loop_work(service->options.loop, look, on_looked, reading);
    } else {
        loop_post(service->options.loop, on_posted, reading);
    }
}
