/*
 * Receiving.  Who waits for a queue on this node stands in its lane; one pass finds messages for
 * all of them and claims these with one command, and while that is under way the next ones gather.
 * A claim hides a message only if it still is as it was seen: of two nodes that reach for it, one
 * gets it.
 *
 * A pass is made when the queue's row changes, when a message becomes visible, and when somebody
 * has waited long enough.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "service/queue/parts.h"

enum {
    DUE_MAX_MS = 5000,     /* look again then: the clock may have been set */
    DEATH_RETRY_MS = 1000, /* when the store takes none: it has no leader, or too much to do */
};

struct lane {
    struct queue_service *service;
    char key[QUEUE_KEY_SIZE];
    struct list receives;
    struct loop_timer *due;
    bool is_posted;
    bool is_claiming;
    unsigned deaths; /* on their way to the dead letters */
    bool has_failed; /* one of them */
};

struct queue_receive {
    struct list_node link;
    struct lane *lane;
    struct loop_timer *deadline;
    size_t max;
    uint64_t visibility_ms;
    bool is_late; /* it has waited long enough */
    struct claim *claim;
    void (*done)(const struct error *error, const struct queue_message *messages, size_t count,
                 void *context);
    void *context;
};

struct candidate {
    uint64_t id;
    uint64_t claimed;
    uint64_t visible_ms;
    uint64_t receives;
    uint64_t size;
    struct queue_receive *receive; /* whom it is for; NULL: nobody (any more) */
    bool is_given;
};

struct candidates {
    struct candidate items[QUEUE_BATCH_MAX];
    size_t count;
};

struct claim {
    struct list_node link;
    struct lane *lane;
    uint64_t number;
    struct candidates messages;
};

static void post(struct lane *lane);

/* ---- Lanes ---- */

static void on_due(void *context)
{
    post(context);
}

static struct lane *lane_of(struct queue_service *service, const char *key)
{
    struct lane *lane = map_get(&service->lanes, key);
    if (lane == NULL) {
        lane = NEW(struct lane);
        lane->service = service;
        snprintf(lane->key, sizeof(lane->key), "%s", key);
        list_init(&lane->receives);
        lane->due = loop_timer_new(service->options.loop, on_due, lane);
        map_set(&service->lanes, key, lane);
    }
    return lane;
}

static void lane_release(struct lane *lane)
{
    if (list_is_empty(&lane->receives) && !lane->is_posted && !lane->is_claiming &&
        lane->deaths == 0) {
        map_remove(&lane->service->lanes, lane->key);
        loop_timer_free(lane->due);
        free(lane);
    }
}

/* ---- The end of receives ---- */

static void receive_unlink(struct queue_receive *receive)
{
    if (receive->claim != NULL) {
        for (size_t i = 0; i < receive->claim->messages.count; i++) {
            struct candidate *candidate = &receive->claim->messages.items[i];
            candidate->receive = candidate->receive == receive ? NULL : candidate->receive;
        }
    }
    list_remove(&receive->link);
    loop_timer_free(receive->deadline);
}

static void finish(struct queue_receive *receive, const struct error *error,
                   const struct queue_message *messages, size_t count)
{
    struct queue_receive ended = *receive;
    receive_unlink(receive);
    free(receive);
    ended.done(error, messages, count, ended.context);
}

void queue_receive_free(struct queue_receive *receive)
{
    if (receive != NULL) {
        struct lane *lane = receive->lane;
        receive_unlink(receive);
        free(receive);
        lane_release(lane);
    }
}

static void finish_all(struct lane *lane, const struct error *error)
{
    while (!list_is_empty(&lane->receives)) {
        finish(LIST_FIRST(&lane->receives, struct queue_receive, link), error, NULL, 0);
    }
}

/* ---- What there is ---- */

static bool take_candidate(sqlite3_stmt *row, void *context)
{
    struct candidates *found = context;
    found->items[found->count++] = (struct candidate){
        .id = (uint64_t)sqlite3_column_int64(row, 0),
        .claimed = (uint64_t)sqlite3_column_int64(row, 1),
        .visible_ms = (uint64_t)sqlite3_column_int64(row, 2),
        .receives = (uint64_t)sqlite3_column_int64(row, 3),
        .size = (uint64_t)sqlite3_column_int64(row, 4),
    };
    return found->count < QUEUE_BATCH_MAX;
}

static bool take_integer(sqlite3_stmt *row, void *context)
{
    if (sqlite3_column_type(row, 0) != SQLITE_NULL) {
        *(int64_t *)context = sqlite3_column_int64(row, 0);
    }
    return false;
}

/* The highest priority below one; -1: none. */
static int64_t next_priority(struct queue_service *service, uint64_t number, int64_t below)
{
    struct error err = {0};
    int64_t priority = -1;
    store_query(service->options.store, &err, take_integer, &priority,
                "SELECT max(priority) FROM queue_message WHERE queue = ? AND blocked = 0 AND "
                "priority < ?",
                "ui", number, below);
    return priority;
}

static int find(struct queue_service *service, uint64_t number, uint64_t now_ms, size_t want,
                struct candidates *found, struct error *err)
{
    int r = 0;
    int64_t priority = next_priority(service, number, QUEUE_PRIORITY_MAX + 1);
    while (r == 0 && priority >= 0 && found->count < want) {
        r = store_query(service->options.store, err, take_candidate, found,
                        "SELECT id, claimed, visible_ms, receives, size FROM queue_message WHERE "
                        "queue = ? AND blocked = 0 AND priority = ? AND visible_ms <= ? ORDER BY "
                        "visible_ms, id LIMIT ?",
                        "uiuu", number, priority, now_ms, (uint64_t)(want - found->count));
        priority = next_priority(service, number, priority);
    }
    return r;
}

/* When the next hidden one becomes visible; 0: none does. */
static uint64_t next_due(struct queue_service *service, uint64_t number, uint64_t now_ms)
{
    struct error err = {0};
    uint64_t due_ms = 0;
    int64_t priority = next_priority(service, number, QUEUE_PRIORITY_MAX + 1);
    for (; priority >= 0; priority = next_priority(service, number, priority)) {
        int64_t at_ms = 0;
        store_query(service->options.store, &err, take_integer, &at_ms,
                    "SELECT min(visible_ms) FROM queue_message WHERE queue = ? AND blocked = 0 AND "
                    "priority = ? AND visible_ms > ?",
                    "uiu", number, priority, now_ms);
        if (at_ms > 0 && (due_ms == 0 || (uint64_t)at_ms < due_ms)) {
            due_ms = (uint64_t)at_ms;
        }
    }
    return due_ms;
}

/* ---- Poison ---- */

static void on_dead(const struct error *error, uint64_t index, void *context)
{
    struct lane *lane = context;
    (void)index;
    lane->deaths--;
    lane->has_failed |= error != NULL && error->kind != ERROR_CONFLICT; /* that: somebody had it */
    if (lane->deaths > 0) {
        return;
    }
    if (lane->has_failed && !list_is_empty(&lane->receives)) {
        loop_timer_start(lane->due, DEATH_RETRY_MS);
    } else {
        post(lane);
    }
    lane->has_failed = false;
}

/* What was received too often is nobody's any more.  While some are on their way to the dead
 * letters nothing is sent after them: each look would send the same ones again. */
static void bury(struct lane *lane, const struct queue_row *row, struct candidates *found,
                 uint64_t now_ms)
{
    size_t kept = 0;
    bool is_busy = lane->deaths > 0;
    for (size_t i = 0; i < found->count; i++) {
        const struct candidate *candidate = &found->items[i];
        if (row->settings.receives_max == 0 || row->dead_letter == 0 ||
            candidate->receives < row->settings.receives_max) {
            found->items[kept++] = *candidate;
            continue;
        }
        if (is_busy) {
            continue;
        }
        lane->deaths++;
        store_propose(lane->service->options.store,
                      queue_death(row, candidate->id, candidate->claimed, now_ms), on_dead, lane);
    }
    found->count = kept;
}

/* ---- Claiming ---- */

/* A message with the memory it lends. */
struct held {
    struct queue_message message;
    void *memory;
};

static const char *keep(char **at, const char *text)
{
    if (text == NULL) {
        return NULL;
    }
    size_t length = strlen(text) + 1;
    memcpy(*at, text, length);
    *at += length;
    return *at - length;
}

static size_t room_for(const char *text)
{
    return text != NULL ? strlen(text) + 1 : 0;
}

static bool take_held(sqlite3_stmt *row, void *context)
{
    struct held *held = context;
    struct queue_message *m = &held->message;
    queue_take_message(row, m);
    size_t size = m->length + room_for(m->content_type) + room_for(m->attributes) +
        room_for(m->group) + room_for(m->dedup) + room_for(m->source);
    held->memory = memory_new(1, size + 1);
    char *at = held->memory;
    m->content_type = keep(&at, m->content_type);
    m->attributes = keep(&at, m->attributes);
    m->group = keep(&at, m->group);
    m->dedup = keep(&at, m->dedup);
    m->source = keep(&at, m->source);
    memcpy(at, m->body, m->length);
    m->body = at;
    return false;
}

static void give_back(struct claim *claim, uint64_t id, uint64_t index)
{
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "UPDATE queue_message SET claimed = 0, visible_ms = 0, receives = receives - "
                      "1 WHERE id = ? AND claimed = ?",
                      "uu", id, index);
    store_command_add(command, "UPDATE queue SET depth = depth WHERE number = ?", "u",
                      claim->number);
    store_propose(claim->lane->service->options.store, command, NULL, NULL);
}

/* What of the claim is really this receiver's. */
static void answer(struct claim *claim, struct queue_receive *receive, uint64_t index)
{
    struct held held[QUEUE_BATCH_MAX];
    struct queue_message messages[QUEUE_BATCH_MAX];
    size_t count = 0;
    for (size_t i = 0; i < claim->messages.count; i++) {
        struct candidate *candidate = &claim->messages.items[i];
        struct error err = {0};
        if (candidate->receive != receive) {
            continue;
        }
        candidate->receive = NULL;
        candidate->is_given = true;
        held[count] = (struct held){0};
        store_query(claim->lane->service->options.store, &err, take_held, &held[count],
                    "SELECT " QUEUE_MESSAGE_COLUMNS " FROM queue_message m WHERE m.id = ? AND "
                    "m.claimed = ?",
                    "uu", candidate->id, index);
        if (held[count].memory != NULL) {
            messages[count] = held[count].message;
            count++;
        }
    }
    receive->claim = NULL;
    if (count > 0) {
        finish(receive, NULL, messages, count);
    }
    for (size_t i = 0; i < count; i++) {
        free(held[i].memory);
    }
}

static void on_claimed(const struct error *error, uint64_t index, void *context)
{
    struct claim *claim = context;
    struct lane *lane = claim->lane;
    for (size_t i = 0; i < claim->messages.count; i++) {
        struct candidate *candidate = &claim->messages.items[i];
        if (candidate->receive == NULL && !candidate->is_given && error == NULL) {
            give_back(claim, candidate->id, index);
        } else if (candidate->receive != NULL && error != NULL) {
            finish(candidate->receive, error, NULL, 0);
        } else if (candidate->receive != NULL) {
            answer(claim, candidate->receive, index);
        }
    }
    list_remove(&claim->link);
    lane->is_claiming = false;
    free(claim);
    post(lane);
}

/* Messages to those that wait, in their order. */
static size_t share(struct lane *lane, struct claim *claim, const struct candidates *found)
{
    size_t next = 0;
    LIST_EACH(node, &lane->receives)
    {
        struct queue_receive *receive = LIST_ITEM(node, struct queue_receive, link);
        uint64_t bytes = 0;
        for (size_t taken = 0; taken < receive->max && next < found->count; taken++, next++) {
            bytes += found->items[next].size;
            if (taken > 0 && bytes > QUEUE_BATCH_BYTES) {
                break;
            }
            claim->messages.items[next] = found->items[next];
            claim->messages.items[next].receive = receive;
            receive->claim = claim;
        }
    }
    claim->messages.count = next;
    return next;
}

static void propose(struct lane *lane, const struct queue_row *row, struct claim *claim,
                    uint64_t now_ms)
{
    struct store_command *command = store_command_new();
    for (size_t i = 0; i < claim->messages.count; i++) {
        const struct candidate *candidate = &claim->messages.items[i];
        uint64_t hidden_ms = candidate->receive->visibility_ms == QUEUE_DEFAULT
            ? row->settings.visibility_ms
            : candidate->receive->visibility_ms;
        store_command_add(command,
                          "UPDATE queue_message SET claimed = ?, receives = receives + 1, "
                          "visible_ms = ? WHERE id = ? AND queue = ? AND claimed = ? AND "
                          "visible_ms = ? AND blocked = 0",
                          "ruuuuu", now_ms + hidden_ms, candidate->id, row->number,
                          candidate->claimed, candidate->visible_ms);
    }
    lane->is_claiming = true;
    store_propose(lane->service->options.store, command, on_claimed, claim);
}

static size_t wanted(struct lane *lane)
{
    size_t want = 0;
    LIST_EACH(node, &lane->receives)
    {
        want += LIST_ITEM(node, struct queue_receive, link)->max;
    }
    return want < QUEUE_BATCH_MAX ? want : QUEUE_BATCH_MAX;
}

static void claim_found(struct lane *lane, const struct queue_row *row,
                        const struct candidates *found, uint64_t now_ms)
{
    struct claim *claim = NEW(struct claim);
    claim->lane = lane;
    claim->number = row->number;
    if (share(lane, claim, found) == 0) {
        free(claim);
        return;
    }
    list_push_back(&lane->service->claims, &claim->link);
    propose(lane, row, claim, now_ms);
}

static void send_home(struct lane *lane)
{
    LIST_EACH(node, &lane->receives)
    {
        struct queue_receive *receive = LIST_ITEM(node, struct queue_receive, link);
        if (receive->is_late && receive->claim == NULL) {
            finish(receive, NULL, NULL, 0);
        }
    }
}

static void pass(struct lane *lane)
{
    struct queue_service *service = lane->service;
    struct candidates found = {.count = 0};
    struct queue_row row = {0};
    struct error err = {0};
    uint64_t now_ms = queue_now_ms(service);
    int r = queue_find_key(service, lane->key, &row, &err);
    r = r < 0 ? r : find(service, row.number, now_ms, wanted(lane), &found, &err);
    if (r < 0) {
        finish_all(lane, &err);
        return;
    }
    bury(lane, &row, &found, now_ms);
    claim_found(lane, &row, &found, now_ms);
    if (lane->deaths == 0) {
        send_home(lane);
    }
    uint64_t due_ms = list_is_empty(&lane->receives) ? 0 : next_due(service, row.number, now_ms);
    loop_timer_stop(lane->due);
    if (due_ms > 0) {
        loop_timer_start(lane->due, due_ms - now_ms < DUE_MAX_MS ? due_ms - now_ms : DUE_MAX_MS);
    }
}

static void on_posted(void *argument)
{
    struct lane *lane = argument;
    lane->is_posted = false;
    if (!lane->is_claiming && !list_is_empty(&lane->receives)) {
        pass(lane);
    }
    lane_release(lane);
}

static void post(struct lane *lane)
{
    if (!lane->is_posted) {
        lane->is_posted = true;
        loop_post(lane->service->options.loop, on_posted, lane);
    }
}

/* ---- From outside ---- */

static void wake_one(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    post(value);
}

void queue_wake(struct queue_service *service, const char *key_or_null)
{
    struct lane *lane = key_or_null != NULL ? map_get(&service->lanes, key_or_null) : NULL;
    if (lane != NULL) {
        post(lane);
    }
    if (key_or_null == NULL) {
        map_each(&service->lanes, wake_one, NULL);
    }
}

static void end_one(const char *key, void *value, void *context)
{
    (void)key;
    finish_all(value, context);
    post(value); /* where nothing is under way it goes then */
}

void queue_end_lanes(struct queue_service *service)
{
    struct error err = {0};
    error_set(&err, ERROR_UNAVAILABLE, "the node is shutting down");
    map_each(&service->lanes, end_one, &err);
}

static void on_deadline(void *context)
{
    struct queue_receive *receive = context;
    receive->is_late = true;
    post(receive->lane);
}

struct queue_receive *
queue_receive_new(struct queue_service *service, const char *project, const char *name,
                  const struct queue_receive_options *options,
                  void (*done)(const struct error *error, const struct queue_message *messages,
                               size_t count, void *context),
                  void *context)
{
    char key[QUEUE_KEY_SIZE];
    struct queue_receive *receive = NEW(struct queue_receive);
    snprintf(key, sizeof(key), "%.63s/%.63s", project, name);
    receive->lane = lane_of(service, key);
    receive->max = options->max < 1      ? 1
        : options->max < QUEUE_BATCH_MAX ? options->max
                                         : QUEUE_BATCH_MAX;
    receive->visibility_ms = options->visibility_ms;
    receive->is_late = options->wait_ms == 0 || service->is_stopping;
    receive->done = done;
    receive->context = context;
    receive->deadline = loop_timer_new(service->options.loop, on_deadline, receive);
    if (!receive->is_late) {
        loop_timer_start(receive->deadline, options->wait_ms);
    }
    list_push_back(&receive->lane->receives, &receive->link);
    post(receive->lane);
    return receive;
}
