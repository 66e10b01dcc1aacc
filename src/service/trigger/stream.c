/* Streams as sources of events: see queues.h. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/event/event.h"
#include "service/eventstream/eventstream.h"
#include "service/trigger/driver.h"
#include "service/trigger/message.h"
#include "service/trigger/queues.h"

enum { WAIT_MS = 60000, RETRY_MS = 1000, READ_MAX = 256 };

struct trigger_streams {
    struct trigger_driver driver;
    struct loop *loop;
    struct eventstream_service *streams;
};

struct feed;

struct shard {
    struct feed *feed;
    unsigned partition;
    uint64_t next;       /* sequence to be read */
    uint64_t checkpoint; /* as the state has it */
    uint64_t reached;    /* all up to here are answered */
    struct list items;   /* that were read, in order; answered ones wait for those before them */
    struct eventstream_wait *wait;
    struct saving *saving; /* a checkpoint on its way */
};

struct item {
    struct list_node link;
    struct shard *shard;
    uint64_t sequence;
    bool is_answered;
};

/* Outlives its feed. */
struct saving {
    struct shard *shard; /* NULL: the feed is gone */
    uint64_t sequence;
};

struct feed {
    struct trigger_streams *owner;
    struct trigger_source *source;
    struct loop_timer *retry;
    unsigned count;
    struct shard *shards;
};

static const char *setting(const struct feed *feed, const char *key)
{
    return json_string_value(json_object_get(trigger_source_settings(feed->source), key));
}

static const char *group_of(const struct feed *feed)
{
    const char *group = setting(feed, "group");
    return group != NULL ? group : trigger_source_name(feed->source);
}

/* ---- Checkpoints ---- */

static void save(struct shard *shard);
static int begin_again(struct shard *shard, struct error *err);
static void fetch(struct feed *feed);
static int attach(struct feed *feed, struct error *err);

static void forget_items(struct shard *shard)
{
    LIST_EACH(node, &shard->items)
    {
        struct item *item = LIST_ITEM(node, struct item, link);
        list_remove(node);
        if (!item->is_answered) {
            trigger_cancel(shard->feed->source, item);
        }
        free(item);
    }
}

static void on_saved(const struct error *error, void *context)
{
    struct saving *saving = context;
    struct shard *shard = saving->shard;
    uint64_t sequence = saving->sequence;
    free(saving);
    if (shard == NULL) {
        return;
    }
    shard->saving = NULL;
    if (error == NULL) {
        shard->checkpoint = sequence;
        save(shard);
    } else if (error->kind == ERROR_CONFLICT) {
        /* Another node has gone on with it meanwhile: from where it is now. */
        struct error err = {0};
        forget_items(shard);
        if (begin_again(shard, &err) < 0) {
            trigger_source_problem(shard->feed->source, err.text);
        }
        fetch(shard->feed);
    } else {
        trigger_source_problem(shard->feed->source, error->text);
        loop_timer_start(shard->feed->retry, RETRY_MS);
    }
}

static void save(struct shard *shard)
{
    const struct feed *feed = shard->feed;
    if (shard->saving != NULL || shard->reached <= shard->checkpoint) {
        return;
    }
    struct saving *saving = NEW(struct saving);
    *saving = (struct saving){shard, shard->reached};
    shard->saving = saving;
    eventstream_set_checkpoint(feed->owner->streams, trigger_source_project(feed->source),
                               setting(feed, "stream"), group_of(feed), shard->partition,
                               shard->reached, shard->checkpoint,
                               (struct eventstream_reply){on_saved, saving});
}

/* ---- Records ---- */

static void on_done(enum trigger_outcome outcome, const struct error *reason, void *context)
{
    (void)reason;
    struct item *item = context;
    struct shard *shard = item->shard;
    if (outcome == TRIGGER_RETURNED) {
        return; /* the trigger is to end: who goes on with it begins here */
    }
    item->is_answered = true; /* what was given up is at its destination */
    while (!list_is_empty(&shard->items)) {
        struct item *first = LIST_FIRST(&shard->items, struct item, link);
        if (!first->is_answered) {
            break;
        }
        shard->reached = first->sequence;
        list_remove(&first->link);
        free(first);
    }
    save(shard);
}

static void push(const struct eventstream_record *record, void *context)
{
    struct shard *shard = context;
    struct feed *feed = shard->feed;
    struct error ignored = {0};
    EVENT_OWNED struct event event = {0};
    JSON_OWNED json_t *attributes = NULL;
    const char *stream = setting(feed, "stream");
    MEMORY_OWNED char *id =
        memory_format("%s-%u-%" PRIu64, stream, shard->partition, record->sequence);
    MEMORY_OWNED char *source = memory_format("/streams/%s", stream);
    MEMORY_OWNED char *order = record->key != NULL ? memory_format("k%s", record->key)
                                                   : memory_format("p%u", shard->partition);
    if (record->attributes != NULL) {
        json_read(record->attributes, strlen(record->attributes), &attributes, &ignored);
    }
    const struct message_event whole = {
        .id = id,
        .source = source,
        .type = "blixard.stream.record",
        .subject = record->key,
        .content_type = record->content_type,
        .body = record->body,
        .length = record->length,
        .time_ms = record->time_ms,
        .attributes = attributes,
    };
    message_to_event(&whole, &event);
    struct item *item = NEW(struct item);
    *item = (struct item){.shard = shard, .sequence = record->sequence};
    list_push_back(&shard->items, &item->link);
    shard->next = record->sequence + 1;
    const struct trigger_push pushed = {
        .event = &event,
        .order = order,
        .done = on_done,
        .context = item,
    };
    trigger_push(feed->source, &pushed);
}

static void on_waited(void *context)
{
    struct shard *shard = context;
    shard->wait = NULL;
    fetch(shard->feed);
}

/* The stream is gone; one that is made under its name begins anew. */
static void detach(struct feed *feed)
{
    for (unsigned i = 0; i < feed->count; i++) {
        struct shard *shard = &feed->shards[i];
        forget_items(shard);
        eventstream_wait_free(shard->wait);
        if (shard->saving != NULL) {
            shard->saving->shard = NULL;
        }
    }
    free(feed->shards);
    feed->shards = NULL;
    feed->count = 0;
}

static struct eventstream_cursor cursor_of(const struct shard *shard)
{
    return (struct eventstream_cursor){
        .first = shard->partition, .count = 1, .next = {shard->next}};
}

static int find_end(const struct shard *shard, uint64_t *ret_next, struct error *err)
{
    const struct feed *feed = shard->feed;
    struct eventstream_cursor end = cursor_of(shard);
    int r = eventstream_begin(feed->owner->streams, trigger_source_project(feed->source),
                              setting(feed, "stream"), EVENTSTREAM_LATEST, 0, &end, err);
    *ret_next = end.next[0];
    return r;
}

/* As much of the partition as there is room for.  NOT_FOUND also where what was read is beyond its
 * end: it is another stream's. */
static int read_shard(struct shard *shard, uint64_t most, struct error *err)
{
    const struct feed *feed = shard->feed;
    const char *stream = setting(feed, "stream");
    struct eventstream_cursor cursor = cursor_of(shard);
    uint64_t end = 0;
    int r = find_end(shard, &end, err);
    if (r == 0 && shard->next > end) {
        r = error_set(err, ERROR_NOT_FOUND, "the stream %s was made anew", stream);
    }
    r = r < 0 ? r
              : eventstream_read(feed->owner->streams, trigger_source_project(feed->source), stream,
                                 &cursor, most < READ_MAX ? most : READ_MAX, push, shard, err);
    shard->next = r == 0 ? cursor.next[0] : shard->next; /* also beyond what was trimmed */
    return r;
}

/* As much of each partition as there is room for; then wait for more of those that had none. */
static void fetch(struct feed *feed)
{
    for (unsigned i = 0; i < feed->count; i++) {
        struct shard *shard = &feed->shards[i];
        struct error err = {0};
        uint64_t room = trigger_room(feed->source);
        uint64_t share = room / (feed->count - i) + (room > 0);
        uint64_t before = shard->next;
        if (room == 0) {
            return;
        }
        if (shard->wait != NULL) {
            continue;
        }
        if (read_shard(shard, share, &err) < 0) {
            trigger_source_problem(feed->source, err.text);
            if (err.kind == ERROR_NOT_FOUND) {
                detach(feed);
            }
            loop_timer_start(feed->retry, RETRY_MS);
            return;
        }
        trigger_source_problem(feed->source, NULL);
        const struct eventstream_cursor cursor = cursor_of(shard);
        shard->wait = eventstream_wait_new(
            feed->owner->streams, trigger_source_project(feed->source), setting(feed, "stream"),
            &cursor, shard->next > before ? 0 : WAIT_MS, on_waited, shard);
    }
}

static void on_retry_timer(void *context)
{
    struct feed *feed = context;
    struct error err = {0};
    if (feed->shards == NULL && attach(feed, &err) < 0) {
        trigger_source_problem(feed->source, err.text);
        loop_timer_start(feed->retry, RETRY_MS);
        return;
    }
    for (unsigned i = 0; i < feed->count; i++) {
        save(&feed->shards[i]);
    }
    fetch(feed);
}

/* ---- The driver ---- */

static int check(const json_t *settings, struct error *err)
{
    static const char *const known[] = {"stream", "group", "start"};
    const char *start = json_string_value(json_object_get(settings, "start"));
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)settings, key, value)
    {
        bool is_known = false;
        for (size_t i = 0; i < 3; i++) {
            is_known = is_known || strcmp(key, known[i]) == 0;
        }
        if (!is_known || !json_is_string(value)) {
            return error_set(
                err, ERROR_INVALID,
                "a stream trigger has the settings stream, group and start, which are texts: not "
                "\"%.40s\"",
                key);
        }
    }
    if (json_object_get(settings, "stream") == NULL) {
        return error_set(err, ERROR_INVALID,
                         "a stream trigger needs the setting \"stream\": its name");
    }
    return start == NULL || strcmp(start, "new") == 0 || strcmp(start, "all") == 0
        ? 0
        : error_set(err, ERROR_INVALID, "start must be new or all");
}

/* `start` "new", or not given: of a group that is new, what comes from now on. */
static bool begins_behind(const json_t *settings)
{
    const char *start = json_string_value(json_object_get(settings, "start"));
    return start == NULL || strcmp(start, "new") == 0;
}

/*
 * Where a new group begins is written together with the trigger's row: whichever node runs it, and
 * however often that one is killed before its first checkpoint, nothing that came later is passed
 * over.
 */
static int plan(const struct trigger_plan *plan, struct store_command *command, void *context,
                struct error *err)
{
    const json_t *settings = plan->settings;
    const char *key = plan->key;
    const struct trigger_streams *owner = context;
    const char *name = strchr(key, '/') + 1;
    const char *group = json_string_value(json_object_get(settings, "group"));
    MEMORY_OWNED char *project = memory_copy_text(key, (size_t)(name - 1 - key));
    return begins_behind(settings)
        ? eventstream_add_group(owner->streams, project,
                                json_string_value(json_object_get(settings, "stream")),
                                group != NULL ? group : name, command, err)
        : 0;
}

/* Where the group is.  One without a checkpoint begins with the stream: it was to have all, or the
 * stream is younger than the trigger. */
static int begin(struct shard *shard, struct error *err)
{
    const struct feed *feed = shard->feed;
    int r = eventstream_checkpoint(feed->owner->streams, trigger_source_project(feed->source),
                                   setting(feed, "stream"), group_of(feed), shard->partition,
                                   &shard->checkpoint, err);
    shard->reached = shard->checkpoint;
    shard->next = shard->checkpoint + 1;
    return r;
}

/* The checkpoint is not what it was.  If there is none any more, the group was forgotten while the
 * trigger ran. */
static int begin_again(struct shard *shard, struct error *err)
{
    const struct feed *feed = shard->feed;
    int r = begin(shard, err);
    if (r == 0 && shard->checkpoint == 0 && begins_behind(trigger_source_settings(feed->source))) {
        r = find_end(shard, &shard->next, err);
        shard->reached = r == 0 && shard->next > 0 ? shard->next - 1 : 0;
        save(shard);
    }
    return r;
}

static void stop(void *state)
{
    struct feed *feed = state;
    for (unsigned i = 0; i < feed->count; i++) {
        struct shard *shard = &feed->shards[i];
        eventstream_wait_free(shard->wait);
        if (shard->saving != NULL) {
            shard->saving->shard = NULL;
        }
        LIST_EACH(node, &shard->items)
        {
            free(LIST_ITEM(node, struct item, link)); /* no answer comes after this */
        }
    }
    loop_timer_free(feed->retry);
    free(feed->shards);
    free(feed);
}

/* Its partitions, each from where the group is. */
static int attach(struct feed *feed, struct error *err)
{
    struct eventstream_settings settings;
    int r = eventstream_read_settings(feed->owner->streams, trigger_source_project(feed->source),
                                      setting(feed, "stream"), &settings, err);
    if (r < 0) {
        return r;
    }
    feed->count = settings.partitions;
    feed->shards = memory_new(settings.partitions, sizeof(struct shard));
    for (unsigned i = 0; i < feed->count; i++) {
        struct shard *shard = &feed->shards[i];
        shard->feed = feed;
        shard->partition = i;
        list_init(&shard->items);
    }
    for (unsigned i = 0; r == 0 && i < feed->count; i++) {
        r = begin(&feed->shards[i], err);
    }
    if (r < 0) {
        detach(feed);
    }
    return r;
}

static int start(struct trigger_source *source, void *context, void **ret_state, struct error *err)
{
    struct trigger_streams *owner = context;
    struct feed *feed = NEW(struct feed);
    feed->owner = owner;
    feed->source = source;
    feed->retry = loop_timer_new(owner->loop, on_retry_timer, feed);
    int r = attach(feed, err);
    if (r < 0) {
        stop(feed);
        return r;
    }
    fetch(feed);
    *ret_state = feed;
    return 0;
}

static void resume(void *state)
{
    fetch(state);
}

static bool lag(void *state, uint64_t *ret_lag)
{
    const struct feed *feed = state;
    struct error ignored = {0};
    return eventstream_lag(feed->owner->streams, trigger_source_project(feed->source),
                           setting(feed, "stream"), group_of(feed), ret_lag, &ignored) == 0;
}

struct trigger_streams *trigger_streams_add(struct trigger_service *service, struct loop *loop,
                                            struct eventstream_service *streams)
{
    struct trigger_streams *owner = NEW(struct trigger_streams);
    owner->loop = loop;
    owner->streams = streams;
    owner->driver = (struct trigger_driver){
        .kind = "stream",
        .check = check,
        .plan = plan,
        .start = start,
        .stop = stop,
        .resume = resume,
        .lag = lag,
    };
    trigger_driver_add(service, &owner->driver, owner);
    return owner;
}

void trigger_streams_free(struct trigger_streams *streams)
{
    free(streams);
}
