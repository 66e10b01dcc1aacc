/*
 * The log for followers: what this node has applied, as it was, from any index on that it still
 * has; a whole state before it where it has not.  Only what is committed is ever applied, so a
 * follower may take it from any node, and go on with another one from the same index.
 */
#include <string.h>

#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/command.h"
#include "engine/store/private.h"

enum { WAITING_HIGH = 1 << 20, SIGN_MS = 500 };

struct feed {
    uint64_t index;      /* the follower has, or is on its way to, this much */
    struct buffer state; /* being sent */
    size_t state_sent;
    bool sends_state;
    uint64_t told_leader;
    uint64_t told_term;
    uint64_t told_ms;
    struct list_node *after; /* the last kept entry that was sent, or NULL: find the place */
};

/* ---- What is kept ---- */

static void drop_oldest(struct store *store)
{
    struct recent *oldest = LIST_FIRST(&store->recent, struct recent, link);
    LIST_EACH(node, &store->links)
    {
        struct feed *feed = LIST_ITEM(node, struct link, link)->feed;
        if (feed != NULL && feed->after == &oldest->link) {
            feed->after = NULL;
        }
    }
    list_remove(&oldest->link);
    store->recent_bytes -= oldest->length;
    free(oldest);
}

static void pump_posted(void *argument)
{
    struct store *store = argument;
    store->pump_posted = false;
    LIST_EACH(node, &store->links)
    {
        struct link *link = LIST_ITEM(node, struct link, link);
        if (link->feed != NULL && link->stream != NULL) {
            feed_pump(link);
        }
    }
    store_look_whether_settled(store);
}

void feed_keep(struct store *store, const struct machine_entry *entry, const uint8_t *bytes,
               size_t length)
{
    if (store_is_alone(store)) {
        return;
    }
    struct recent *recent = memory_new(1, sizeof(*recent) + length);
    recent->base = entry->count > 0 ? entry->base : machine_index(store->machine);
    recent->count = entry->count;
    recent->length = length;
    memcpy(recent->bytes, bytes, length);
    list_push_back(&store->recent, &recent->link);
    store->recent_bytes += length;
    while (store->recent_bytes > STORE_RECENT_BYTES) {
        drop_oldest(store);
    }
    if (!store->pump_posted) {
        store->pump_posted = true;
        loop_post(store->loop, pump_posted, store);
    }
}

void feeds_forget(struct store *store)
{
    while (!list_is_empty(&store->recent)) {
        drop_oldest(store);
    }
}

/* ---- One follower ---- */

/* A node that follows itself does not know by itself who leads: two could tell each other. */
static uint64_t leader_to_tell(const struct store *store)
{
    return store->quorum != NULL ? store->leader_id : 0;
}

static void tell_head(struct link *link)
{
    struct store *store = link->store;
    struct feed *feed = link->feed;
    const uint64_t leader = leader_to_tell(store);
    const uint64_t body[] = {store_index(store), leader, store->leader_term};
    link_say(link->stream, FRAME_HEAD, body, sizeof(body));
    feed->told_leader = leader;
    feed->told_term = store->leader_term;
    feed->told_ms = store_now_ms(store);
}

static void begin_state(struct link *link)
{
    struct store *store = link->store;
    struct feed *feed = link->feed;
    struct error ignored = {0};
    feed->state.used = 0;
    if (machine_snapshot(store->machine, &feed->state, &ignored) < 0) {
        link_close(link);
        return;
    }
    feed->index = store_index(store);
    feed->state_sent = 0;
    feed->sends_state = true;
    feed->after = list_is_empty(&store->recent) ? NULL : store->recent.head.previous;
    const uint64_t size = feed->state.used;
    link_say(link->stream, FRAME_STATE, &size, sizeof(size));
}

static void send_state(struct link *link)
{
    struct feed *feed = link->feed;
    size_t left = feed->state.used - feed->state_sent;
    size_t piece = left < FRAME_PIECE ? left : FRAME_PIECE;
    link_say(link->stream, FRAME_SNAPSHOT_DATA, feed->state.data + feed->state_sent, piece);
    feed->state_sent += piece;
    if (feed->state_sent == feed->state.used) {
        feed->sends_state = false;
        buffer_done(&feed->state);
        tell_head(link);
    }
}

/* The first kept entry that the follower does not have; NULL: none, or none that it can use. */
static struct list_node *find_next(struct store *store, const struct feed *feed, bool *ret_is_gap)
{
    *ret_is_gap = false;
    if (feed->after != NULL) {
        return feed->after->next != &store->recent.head ? feed->after->next : NULL;
    }
    LIST_EACH(node, &store->recent)
    {
        const struct recent *recent = LIST_ITEM(node, struct recent, link);
        if (recent->base + recent->count > feed->index ||
            (recent->count == 0 && recent->base >= feed->index)) {
            *ret_is_gap = recent->base > feed->index;
            return node;
        }
    }
    *ret_is_gap = store_index(store) > feed->index;
    return NULL;
}

static void send_entry(struct link *link, struct list_node *node)
{
    const struct recent *recent = LIST_ITEM(node, struct recent, link);
    struct feed *feed = link->feed;
    link_say(link->stream, FRAME_ENTRY, recent->bytes, recent->length);
    feed->after = node;
    feed->index = recent->base + recent->count;
}

void feed_pump(struct link *link)
{
    struct store *store = link->store;
    while (link->stream != NULL && link->feed != NULL &&
           stream_waiting(link->stream) < WAITING_HIGH) {
        struct feed *feed = link->feed;
        if (feed->sends_state) {
            send_state(link);
            continue;
        }
        bool is_gap = false;
        struct list_node *next = find_next(store, feed, &is_gap);
        if (is_gap) {
            begin_state(link);
        } else if (next != NULL) {
            send_entry(link, next);
        } else {
            break;
        }
    }
}

void feed_begin(struct link *link, const uint8_t *body, size_t length)
{
    struct store *store = link->store;
    struct command_reader reader = {.at = body, .end = body + length};
    uint64_t index = command_read_u64(&reader);
    uint32_t incarnation = command_read_u32(&reader);
    if (reader.is_bad) {
        link_close(link);
        return;
    }
    feed_end(link);
    link->feed = NEW(struct feed);
    link->feed->index = index;
    tell_head(link);
    if (incarnation != machine_incarnation(store->machine) && index > 0) {
        begin_state(link);
    }
    feed_pump(link);
}

void feed_end(struct link *link)
{
    if (link->feed != NULL) {
        buffer_done(&link->feed->state);
        free(link->feed);
        link->feed = NULL;
    }
}

void feeds_tick(struct store *store)
{
    LIST_EACH(node, &store->links)
    {
        struct link *link = LIST_ITEM(node, struct link, link);
        struct feed *feed = link->feed;
        if (feed == NULL || link->stream == NULL || feed->sends_state) {
            continue;
        }
        if (feed->told_leader != leader_to_tell(store) || feed->told_term != store->leader_term ||
            store_now_ms(store) - feed->told_ms >= SIGN_MS) {
            tell_head(link);
        }
    }
}
