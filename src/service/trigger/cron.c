/*
 * The kind `cron`: schedules as a source of events.
 *
 * cron_next has each trigger's next slot.  Taking a slot is one command: the row of the run is
 * inserted and the slot moves on, both only while the slot is the one that this node has seen.  So
 * a slot is taken once, whoever thinks to own the trigger.  The run then belongs to the node in its
 * row, and is deleted when it was answered; a run whose node is lost, or that its node does not
 * know any more (it was killed), is given to the trigger's owner by the same kind of command.  A
 * slot is therefore neither lost nor begun twice, but a run that was under way when its node was
 * killed runs again: the event's id is made of the slot, for those who must not do a thing twice.
 *
 * All schedules of a node are in one heap by the time they are due, with one timer.  The clock is
 * looked at every 30 s at least, so that a jump is noticed: forward, by what is due then; back, by
 * a time that was seen before, upon which every slot is looked at again.
 */

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/cluster/cluster.h"
#include "service/trigger/parts.h"
#include "service/trigger/schedule.h"

enum {
    LOOK_MS = 30000,
    SCAN_MS = 5000,
    CLAIM_MAX = 64,          /* triggers of one command */
    FUTURE_MS = 3600 * 1000, /* further ahead than what cron_decide lets stand */
    RUN_KEY_SIZE = 200,
    RUNS_MAX = 1000, /* of one trigger */
};

struct job {
    struct trigger_cron *owner;
    struct trigger_source *source;
    char key[TRIGGER_KEY_SIZE];
    struct schedule schedule;
    uint64_t slot_ms; /* next; 0: none */
    uint64_t since_ms;
    uint64_t due_ms;
    size_t place; /* in the heap, from 1; 0: not in it */
    bool is_claiming;
    size_t run_count;
};

struct run {
    struct list_node link;
    struct trigger_cron *cron;
    struct job *job; /* NULL: it was stopped */
    char key[RUN_KEY_SIZE];
    uint64_t slot_ms;
    uint64_t epoch;
    bool is_over; /* only its row is to be deleted still */
    bool is_deleting;
};

struct trigger_cron {
    struct trigger_service *service;
    struct map jobs;   /* key -> struct job */
    struct map runs;   /* key -> struct run */
    struct job **heap; /* [0] is not used */
    size_t count;
    size_t size;
    struct loop_timer *tick;
    struct loop_timer *scan;
    uint64_t seen_ms; /* the clock, when it was looked at last */
    bool is_scanning; /* rows are being given to this node */
};

/* ---- The heap ---- */

static void put(struct trigger_cron *cron, size_t place, struct job *job)
{
    cron->heap[place] = job;
    job->place = place;
}

static void sift_up(struct trigger_cron *cron, size_t place)
{
    struct job *job = cron->heap[place];
    while (place > 1 && cron->heap[place / 2]->due_ms > job->due_ms) {
        put(cron, place, cron->heap[place / 2]);
        place /= 2;
    }
    put(cron, place, job);
}

static void sift_down(struct trigger_cron *cron, size_t place)
{
    struct job *job = cron->heap[place];
    while (place * 2 <= cron->count) {
        size_t child = place * 2;
        if (child < cron->count && cron->heap[child + 1]->due_ms < cron->heap[child]->due_ms) {
            child++;
        }
        if (cron->heap[child]->due_ms >= job->due_ms) {
            break;
        }
        put(cron, place, cron->heap[child]);
        place = child;
    }
    put(cron, place, job);
}

static void heap_add(struct trigger_cron *cron, struct job *job)
{
    CHECK(job->place == 0);
    if (cron->count + 2 > cron->size) {
        cron->size = cron->size * 2 + 16;
        cron->heap = memory_resize(cron->heap, cron->size * sizeof(void *));
    }
    put(cron, ++cron->count, job);
    sift_up(cron, job->place);
}

static void heap_remove(struct trigger_cron *cron, struct job *job)
{
    size_t place = job->place;
    if (place == 0) {
        return;
    }
    job->place = 0;
    struct job *last = cron->heap[cron->count--];
    if (last != job) {
        put(cron, place, last);
        sift_up(cron, place);
        sift_down(cron, last->place);
    }
}

static void arm(struct trigger_cron *cron)
{
    if (cron->count == 0) {
        loop_timer_stop(cron->tick);
        return;
    }
    uint64_t now_ms = trigger_now_ms(cron->service);
    uint64_t due_ms = cron->heap[1]->due_ms;
    uint64_t delay_ms = due_ms > now_ms ? due_ms - now_ms : 0;
    loop_timer_start(cron->tick, delay_ms < LOOK_MS ? delay_ms : LOOK_MS);
}

static void wait_for_slot(struct job *job)
{
    heap_remove(job->owner, job);
    if (job->slot_ms != 0 && !job->is_claiming) {
        job->due_ms = cron_start_of(&job->schedule.policy, job->slot_ms);
        heap_add(job->owner, job);
    }
}

/* ---- Who this node is ---- */

static uint64_t self_id(const struct trigger_cron *cron)
{
    const struct trigger_options *options = &cron->service->options;
    uint64_t id = 0;
    if (options->cluster != NULL) {
        struct cluster_view *view = cluster_view_ref(options->cluster);
        id = view->self_id;
        cluster_view_unref(view);
    }
    if (id == 0) {
        struct store_status status = {0};
        store_status(options->store, &status);
        id = status.node_id;
    }
    return id;
}

/* Does it live, and know its own runs? */
static bool is_live(const struct trigger_cron *cron, uint64_t id)
{
    bool lives = false;
    if (cron->service->options.cluster != NULL && id != 0) {
        struct cluster_view *view = cluster_view_ref(cron->service->options.cluster);
        const struct cluster_node *node = cluster_view_find(view, id);
        lives = node != NULL && (node->is_self || node->health != CLUSTER_LOST);
        cluster_view_unref(view);
    }
    return lives;
}

/* ---- Runs ---- */

static void run_forget(struct run *run)
{
    map_remove(&run->cron->runs, run->key);
    free(run);
}

static void on_deleted(const struct error *error, uint64_t index, void *context)
{
    struct run *run = context;
    (void)index;
    run->is_deleting = false;
    if (error == NULL) {
        run_forget(run); /* otherwise the scan tries again */
    }
}

static void delete_row(struct run *run)
{
    struct store_command *command = store_command_new();
    store_command_add(command, "DELETE FROM cron_run WHERE key = ? AND epoch = ?", "tu", run->key,
                      run->epoch);
    run->is_deleting = true;
    store_propose(run->cron->service->options.store, command, on_deleted, run);
}

static void run_leave_job(struct run *run)
{
    if (run->job != NULL) {
        run->job->run_count--;
        run->job = NULL;
    }
}

static void on_answered(enum trigger_outcome outcome, const struct error *reason, void *context)
{
    struct run *run = context;
    (void)reason;
    run_leave_job(run);
    if (outcome == TRIGGER_RETURNED) {
        run_forget(run); /* its row stays: the next one to own the trigger runs it */
        return;
    }
    run->is_over = true;
    delete_row(run);
}

static void make_event(const struct job *job, uint64_t slot_ms, struct event *event)
{
    const json_t *settings = trigger_source_settings(job->source);
    const char *name = trigger_source_name(job->source);
    const json_t *data = json_object_get(settings, "data");
    char slot[CLOCK_TEXT_SIZE];
    clock_format_ms(slot_ms, slot);
    MEMORY_OWNED char *id = memory_format("%s/%s", name, slot);
    MEMORY_OWNED char *source = memory_format("/triggers/%s", name);
    JSON_OWNED json_t *own = json_pack("{s:s,s:s,s:s}", "trigger", name, "scheduled_time", slot,
                                       "schedule", schedule_setting(settings, "schedule", ""));
    char *text = json_dumps(data != NULL ? data : own, JSON_COMPACT | JSON_ENCODE_ANY);
    event_init(event, id, source, "blixard.cron.run", "application/json",
               text != NULL ? text : "null", text != NULL ? strlen(text) : 4);
    event_set_time(event, slot_ms);
    free(text);
}

static void run_start(struct job *job, const char *key, uint64_t slot_ms, uint64_t epoch)
{
    struct trigger_cron *cron = job->owner;
    struct event event = {0};
    if (map_get(&cron->runs, key) != NULL) {
        return;
    }
    struct run *run = NEW(struct run);
    run->cron = cron;
    run->job = job;
    run->slot_ms = slot_ms;
    run->epoch = epoch;
    snprintf(run->key, sizeof(run->key), "%s", key);
    map_set(&cron->runs, key, run);
    job->run_count++;
    make_event(job, slot_ms, &event);
    trigger_push(job->source,
                 &(struct trigger_push){.event = &event, .done = on_answered, .context = run});
}

/* ---- Taking slots ---- */

struct claim {
    struct trigger_cron *cron;
    char *keys[CLAIM_MAX];
    size_t count;
    struct store_command *command;
    uint64_t node;
};

static bool take_run(sqlite3_stmt *row, void *context)
{
    struct trigger_cron *cron = context;
    struct job *job = map_get(&cron->jobs, (const char *)sqlite3_column_text(row, 1));
    if (job != NULL) {
        run_start(job, (const char *)sqlite3_column_text(row, 0),
                  (uint64_t)sqlite3_column_int64(row, 2), (uint64_t)sqlite3_column_int64(row, 3));
    }
    return true;
}

static bool take_slot(sqlite3_stmt *row, void *context)
{
    struct job *job = context;
    job->slot_ms = (uint64_t)sqlite3_column_int64(row, 0);
    job->since_ms = (uint64_t)sqlite3_column_int64(row, 1);
    return false;
}

static void read_slot(struct job *job)
{
    struct error err = {0};
    job->slot_ms = 0;
    store_query(job->owner->service->options.store, &err, take_slot, job,
                "SELECT coalesce(slot_ms, 0), since_ms FROM cron_next WHERE trigger = ?", "t",
                job->key);
}

struct still_there {
    struct trigger_cron *cron;
    const char *key;
    uint64_t epoch;
    bool is_there;
};

static bool take_there(sqlite3_stmt *row, void *context)
{
    ((struct still_there *)context)->is_there = sqlite3_column_int64(row, 0) > 0;
    return false;
}

static void find_replaced(const char *key, void *value, void *context)
{
    struct run *run = value;
    struct map *replaced = context;
    struct still_there there = {.key = key};
    struct error err = {0};
    if (run->job == NULL || run->job->schedule.overlap != OVERLAP_REPLACE || run->is_over) {
        return;
    }
    int r = store_query(run->cron->service->options.store, &err, take_there, &there,
                        "SELECT count(*) FROM cron_run WHERE key = ? AND epoch = ?", "tu", key,
                        run->epoch);
    if (r == 0 && !there.is_there) {
        map_set(replaced, key, run);
    }
}

static void break_off(const char *key, void *value, void *context)
{
    struct run *run = value;
    (void)key;
    (void)context;
    trigger_cancel(run->job->source, run);
    run_leave_job(run);
    run_forget(run);
}

/* Those whose rows have given way to a new run. */
static void break_off_replaced(struct trigger_cron *cron)
{
    struct map replaced = {0};
    map_each(&cron->runs, find_replaced, &replaced);
    map_each(&replaced, break_off, NULL);
    map_done(&replaced);
}

static void on_claimed(const struct error *error, uint64_t index, void *context)
{
    struct claim *claim = context;
    struct trigger_cron *cron = claim->cron;
    struct error err = {0};
    for (size_t i = 0; i < claim->count; i++) {
        struct job *job = map_get(&cron->jobs, claim->keys[i]);
        if (job != NULL) {
            job->is_claiming = false;
            read_slot(job);
            wait_for_slot(job);
            if (error != NULL && job->place != 0) {
                heap_remove(cron, job); /* not at once again */
                job->due_ms = trigger_now_ms(cron->service) + 1000;
                heap_add(cron, job);
            }
        }
        free(claim->keys[i]);
    }
    if (error != NULL) {
        log_warn("slots of schedules could not be taken, again in 1 s: %s", error->text);
    } else if (!cron->service->is_stopping) {
        break_off_replaced(cron);
        store_query(
            cron->service->options.store, &err, take_run, cron,
            "SELECT key, trigger, slot_ms, epoch FROM cron_run WHERE node = ? AND epoch = ?", "uu",
            claim->node, index);
    }
    free(claim);
    if (!cron->service->is_stopping) {
        arm(cron);
    }
}

/* Statements for one trigger; each is of use only while the slot is still `job->slot_ms`.  Of the
 * slots that it is about, those that became no run were passed over: counted here and not beside
 * the command, which may fail and be tried again, or find that another node was first. */
static void add_job(struct claim *claim, struct job *job, const struct cron_decision *decision,
                    uint64_t slots)
{
#define WHILE_SLOT " FROM cron_next WHERE trigger = ? AND slot_ms = ?"
    for (size_t i = 0; i < decision->count; i++) {
        uint64_t slot_ms = decision->slots[i];
        MEMORY_OWNED char *key = memory_format("%s/%" PRIu64, job->key, slot_ms);
        if (job->schedule.overlap == OVERLAP_REPLACE) {
            store_command_add(
                claim->command,
                "DELETE FROM cron_run WHERE trigger = ? AND EXISTS (SELECT 1" WHILE_SLOT ")", "ttu",
                job->key, job->key, job->slot_ms);
        }
        store_command_add(claim->command,
                          job->schedule.overlap == OVERLAP_FORBID
                              ? "INSERT OR IGNORE INTO cron_run (key, trigger, slot_ms, node, "
                                "epoch) SELECT ?, trigger, ?, ?, ?" WHILE_SLOT
                                " AND NOT EXISTS (SELECT 1 FROM cron_run r WHERE r.trigger = "
                                "cron_next.trigger)"
                              : "INSERT OR IGNORE INTO cron_run (key, trigger, slot_ms, node, "
                                "epoch) SELECT ?, trigger, ?, ?, ?" WHILE_SLOT,
                          "tuurtu", key, slot_ms, claim->node, job->key, job->slot_ms);
    }
    store_command_add(claim->command,
                      "UPDATE trigger_count SET skipped = skipped + ? - (SELECT count(*) FROM "
                      "cron_run r WHERE r.trigger = trigger_count.trigger AND r.epoch = ?) WHERE "
                      "trigger = ? AND EXISTS (SELECT 1" WHILE_SLOT ")",
                      "urttu", slots, job->key, job->key, job->slot_ms);
    store_command_add(claim->command,
                      "UPDATE cron_next SET slot_ms = nullif(?, 0) WHERE trigger = ? AND slot_ms "
                      "= ?",
                      "utu", decision->next_ms, job->key, job->slot_ms);
#undef WHILE_SLOT
    claim->keys[claim->count++] = memory_copy_string(job->key);
    job->is_claiming = true;
    heap_remove(job->owner, job);
}

static void send_claim(struct claim *claim)
{
    if (claim->count == 0) {
        store_command_free(claim->command);
        free(claim);
        return;
    }
    store_propose(claim->cron->service->options.store, claim->command, on_claimed, claim);
}

static struct claim *claim_new(struct trigger_cron *cron)
{
    struct claim *claim = NEW(struct claim);
    claim->cron = cron;
    claim->command = store_command_new();
    claim->node = self_id(cron);
    return claim;
}

/* True: the claim has statements for it. */
static void take_job(struct claim *claim, struct job *job, uint64_t now_ms)
{
    struct cron_decision decision;
    cron_decide(job->schedule.cron, &job->schedule.policy, job->slot_ms, job->since_ms, now_ms,
                &decision);
    if (decision.count == 0 && decision.skipped == 0 && decision.next_ms == job->slot_ms) {
        heap_remove(job->owner, job); /* its time was another one: the clock was set back */
        job->due_ms = cron_start_of(&job->schedule.policy, job->slot_ms);
        job->due_ms = job->due_ms > now_ms ? job->due_ms : now_ms + 1000;
        heap_add(job->owner, job);
        return;
    }
    uint64_t slots = decision.skipped + decision.count;
    bool is_forbidden = job->schedule.overlap == OVERLAP_FORBID && job->run_count > 0;
    bool is_full = job->run_count >= RUNS_MAX;
    if (is_forbidden || is_full) {
        decision.count = 0;
    }
    add_job(claim, job, &decision, slots);
}

/* Every slot may have been taken by a clock that was ahead. */
static void look_at_all(struct trigger_cron *cron, uint64_t now_ms)
{
    for (size_t i = 1; i <= cron->count; i++) {
        cron->heap[i]->due_ms = now_ms;
    }
}

static void on_tick(void *context)
{
    struct trigger_cron *cron = context;
    uint64_t now_ms = trigger_now_ms(cron->service);
    struct claim *claim = claim_new(cron);
    if (now_ms < cron->seen_ms) {
        look_at_all(cron, now_ms);
    }
    cron->seen_ms = now_ms;
    while (cron->count > 0) {
        struct job *job = cron->heap[1];
        if (job->due_ms > now_ms) {
            break;
        }
        if (claim->count == CLAIM_MAX) {
            send_claim(claim);
            claim = claim_new(cron);
        }
        take_job(claim, job, now_ms);
    }
    send_claim(claim);
    arm(cron);
}

/* ---- Runs that nobody knows any more ---- */

struct stray {
    char key[RUN_KEY_SIZE];
    char trigger[TRIGGER_KEY_SIZE];
    uint64_t node;
    uint64_t epoch;
};

struct strays {
    struct trigger_cron *cron;
    struct stray *list;
    size_t count;
};

static bool collect_stray(sqlite3_stmt *row, void *context)
{
    struct strays *strays = context;
    if ((strays->count & (strays->count - 1)) == 0) {
        strays->list = memory_resize(strays->list, (strays->count * 2 + 1) * sizeof(*strays->list));
    }
    struct stray *stray = &strays->list[strays->count++];
    snprintf(stray->key, sizeof(stray->key), "%s", (const char *)sqlite3_column_text(row, 0));
    snprintf(stray->trigger, sizeof(stray->trigger), "%s",
             (const char *)sqlite3_column_text(row, 1));
    stray->node = (uint64_t)sqlite3_column_int64(row, 2);
    stray->epoch = (uint64_t)sqlite3_column_int64(row, 3);
    return true;
}

struct adoption {
    struct trigger_cron *cron;
    uint64_t node;
};

static void on_adopted(const struct error *error, uint64_t index, void *context)
{
    struct adoption *adoption = context;
    struct trigger_cron *cron = adoption->cron;
    struct error err = {0};
    cron->is_scanning = false;
    if (error == NULL && !cron->service->is_stopping) {
        store_query(
            cron->service->options.store, &err, take_run, cron,
            "SELECT key, trigger, slot_ms, epoch FROM cron_run WHERE node = ? AND epoch = ?", "uu",
            adoption->node, index);
    }
    free(adoption);
}

/* To whom is it to be given: this node (adopt), nobody (release), or is it well where it is? */
static bool adopts(const struct trigger_cron *cron, const struct stray *stray, uint64_t self,
                   uint64_t *ret_node)
{
    const struct job *job = map_get(&cron->jobs, stray->trigger);
    if (map_get(&cron->runs, stray->key) != NULL || (job != NULL && job->is_claiming)) {
        return false;
    }
    bool is_own = stray->node == self;
    bool is_free = stray->node == 0 || !is_live(cron, stray->node);
    *ret_node = job != NULL ? self : 0;
    return job != NULL ? is_own || is_free : is_own;
}

static void retry_deletion(const char *key, void *value, void *context)
{
    struct run *run = value;
    (void)key;
    (void)context;
    if (run->is_over && !run->is_deleting) {
        delete_row(run);
    }
}

static void on_scan(void *context)
{
    struct trigger_cron *cron = context;
    struct strays strays = {.cron = cron};
    struct error err = {0};
    uint64_t self = self_id(cron);
    uint64_t now_for = 0;
    unsigned count = 0;
    loop_timer_start(cron->scan, SCAN_MS);
    if (cron->is_scanning) {
        return;
    }
    map_each(&cron->runs, retry_deletion, NULL);
    store_query(cron->service->options.store, &err, collect_stray, &strays,
                "SELECT key, trigger, node, epoch FROM cron_run LIMIT 10000", "");
    struct store_command *command = store_command_new();
    for (size_t i = 0; i < strays.count && count < 256; i++) {
        const struct stray *stray = &strays.list[i];
        if (adopts(cron, stray, self, &now_for)) {
            store_command_add(command,
                              "UPDATE cron_run SET node = ?, epoch = ? WHERE key = ? AND epoch = ?",
                              "urtu", now_for, stray->key, stray->epoch);
            count++;
        }
    }
    free(strays.list);
    if (count == 0) {
        store_command_free(command);
        return;
    }
    struct adoption *adoption = NEW(struct adoption);
    adoption->cron = cron;
    adoption->node = self;
    cron->is_scanning = true;
    store_propose(cron->service->options.store, command, on_adopted, adoption);
}

/* ---- The driver ---- */

static int start(struct trigger_source *source, void *context, void **ret_state, struct error *err)
{
    struct trigger_cron *cron = context;
    struct job *job = NEW(struct job);
    int r = schedule_read(trigger_source_settings(source), &job->schedule, err);
    if (r < 0) {
        free(job);
        return r;
    }
    job->owner = cron;
    job->source = source;
    snprintf(job->key, sizeof(job->key), "%s/%s", trigger_source_project(source),
             trigger_source_name(source));
    job->schedule.policy.key = job->key;
    map_set(&cron->jobs, job->key, job);
    read_slot(job);
    wait_for_slot(job);
    uint64_t now_ms = trigger_now_ms(cron->service);
    if (job->place != 0 && job->due_ms > now_ms + FUTURE_MS) {
        heap_remove(cron, job); /* is it so far because another node's clock was ahead? */
        job->due_ms = now_ms;
        heap_add(cron, job);
    }
    arm(cron);
    loop_timer_start(cron->scan, 0);
    *ret_state = job;
    return 0;
}

struct stopping {
    struct job *job;
    struct map runs;
};

static void find_runs(const char *key, void *value, void *context)
{
    struct stopping *stopping = context;
    struct run *run = value;
    if (run->job == stopping->job) {
        map_set(&stopping->runs, key, run);
    }
}

static void abandon(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    run_forget(value);
}

static void stop(void *state)
{
    struct job *job = state;
    struct stopping stopping = {.job = job};
    heap_remove(job->owner, job);
    map_remove(&job->owner->jobs, job->key);
    map_each(&job->owner->runs, find_runs, &stopping);
    map_each(&stopping.runs, abandon, NULL);
    map_done(&stopping.runs);
    schedule_done(&job->schedule);
    free(job);
}

static const struct trigger_driver driver = {
    .kind = "cron", .check = schedule_check, .plan = schedule_plan, .start = start, .stop = stop};

struct trigger_cron *trigger_cron_new(struct trigger_service *service)
{
    struct trigger_cron *cron = NEW(struct trigger_cron);
    cron->service = service;
    cron->tick = loop_timer_new(service->options.loop, on_tick, cron);
    cron->scan = loop_timer_new(service->options.loop, on_scan, cron);
    trigger_driver_add(service, &driver, cron);
    return cron;
}

static void free_run(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

void trigger_cron_free(struct trigger_cron *cron)
{
    CHECK(cron->jobs.count == 0);
    map_each(&cron->runs, free_run, NULL);
    map_done(&cron->runs);
    map_done(&cron->jobs);
    loop_timer_free(cron->tick);
    loop_timer_free(cron->scan);
    free(cron->heap);
    free(cron);
}
