/*
 * Which invocations are begun here: always the next one of the project that runs the fewest, so
 * that no project waits until another one's thousands are done.  And one alone does not take all
 * the room there is (policy_may_run()): what another project brings is to be begun at once, however
 * long the runs are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/cluster/cluster.h"
#include "service/invocation/parts.h"

enum { PASS_MAX_MS = 60000 };

struct due {
    char id[INVOCATION_ID_SIZE];
    uint64_t revision;
    bool is_expired;
};

/* A project's part. */
struct share {
    char project[64];
    unsigned runs; /* that it has here */
    bool is_read;
    struct due *due; /* oldest first */
    size_t count;
    size_t next;
};

struct pass {
    struct invocation_service *service;
    struct share *shares;
    size_t count;
    struct share *reading;
    unsigned runs; /* of all projects */
    uint64_t now_ms;
};

struct counting {
    const char *project;
    unsigned count;
};

static void count_run(const char *key, void *value, void *context)
{
    const struct run *run = value;
    struct counting *counting = context;
    (void)key;
    counting->count += strcmp(run->project, counting->project) == 0;
}

unsigned run_count_of(struct invocation_service *service, const char *project)
{
    struct counting counting = {.project = project};
    map_each(&service->runs, count_run, &counting);
    return counting.count;
}

static bool take_project(sqlite3_stmt *row, void *context)
{
    struct pass *pass = context;
    if ((pass->count & (pass->count - 1)) == 0) {
        pass->shares = memory_resize(pass->shares, (pass->count * 2 + 1) * sizeof(*pass->shares));
    }
    struct share *share = &pass->shares[pass->count++];
    *share = (struct share){0};
    snprintf(share->project, sizeof(share->project), "%s",
             (const char *)sqlite3_column_text(row, 0));
    share->runs = run_count_of(pass->service, share->project);
    return true;
}

static bool take_due(sqlite3_stmt *row, void *context)
{
    struct pass *pass = context;
    struct share *share = pass->reading;
    const struct invocation_service *service = pass->service;
    const char *id = (const char *)sqlite3_column_text(row, 0);
    char key[64];
    snprintf(key, sizeof(key), "invocation/%.32s", id);
    if (map_get(&service->runs, id) != NULL ||
        (service->options.cluster != NULL && !cluster_owns(service->options.cluster, key))) {
        return true;
    }
    struct due *due = &share->due[share->count++];
    snprintf(due->id, sizeof(due->id), "%s", id);
    due->revision = (uint64_t)sqlite3_column_int64(row, 1);
    due->is_expired = (uint64_t)sqlite3_column_int64(row, 2) <= pass->now_ms;
    return share->count < INVOCATION_RUNS_MAX;
}

static bool has_due(struct pass *pass, struct share *share)
{
    struct error ignored = {0};
    if (!share->is_read) {
        share->is_read = true;
        share->due = memory_new(INVOCATION_RUNS_MAX, sizeof(*share->due));
        pass->reading = share;
        store_query(pass->service->options.store, &ignored, take_due, pass,
                    "SELECT key, revision, deadline_ms FROM invocation WHERE state = 'pending' AND "
                    "project = ? AND due_ms <= ? ORDER BY due_ms",
                    "tu", share->project, pass->now_ms);
    }
    return share->next < share->count;
}

/* Whose turn it is; NULL: nobody's.  Of those that run as many the first from `begin` on. */
static struct share *choose(struct pass *pass, size_t begin)
{
    struct share *best = NULL;
    for (size_t i = 0; i < pass->count; i++) {
        struct share *share = &pass->shares[(begin + i) % pass->count];
        if (best != NULL && share->runs >= best->runs) {
            continue;
        }
        if (!policy_may_run(share->runs, pass->runs)) {
            pass->service->has_backlog = pass->service->has_backlog || has_due(pass, share);
        } else if (has_due(pass, share)) {
            best = share;
        }
    }
    return best;
}

static void begin_due(struct pass *pass, struct share *share)
{
    const struct due *due = &share->due[share->next++];
    if (due->is_expired) {
        run_expire(pass->service, due->id, due->revision);
        return;
    }
    share->runs++;
    pass->runs++;
    run_claim(pass->service, share->project, due->id, due->revision);
}

static void wait_for_next(const struct pass *pass)
{
    struct error ignored = {0};
    uint64_t next_ms = 0;
    store_query(pass->service->options.store, &ignored, store_take_u64, &next_ms,
                "SELECT due_ms FROM invocation WHERE state = 'pending' AND due_ms > ? ORDER BY "
                "due_ms LIMIT 1",
                "u", pass->now_ms);
    if (next_ms > 0) {
        uint64_t wait_ms = next_ms - pass->now_ms;
        loop_timer_start(pass->service->timer, wait_ms < PASS_MAX_MS ? wait_ms : PASS_MAX_MS);
    }
}

void run_pass(struct invocation_service *service)
{
    struct error ignored = {0};
    struct pass pass = {.service = service, .runs = service->run_count, .now_ms = clock_real_ms()};
    bool is_owner = service->options.cluster == NULL || cluster_is_owner(service->options.cluster);
    if (service->is_stopping || !is_owner) {
        return;
    }
    store_query(service->options.store, &ignored, take_project, &pass,
                "SELECT project FROM invocation_load WHERE live > 0", "");
    service->has_backlog = false;
    struct share *share = NULL;
    while ((share = choose(&pass, service->turn)) != NULL) {
        begin_due(&pass, share);
        service->turn = (size_t)(share - pass.shares) + 1;
    }
    for (size_t i = 0; i < pass.count; i++) {
        free(pass.shares[i].due);
    }
    free(pass.shares);
    wait_for_next(&pass);
}
