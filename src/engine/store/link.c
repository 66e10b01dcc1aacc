/*
 * Connections with other nodes: one stream per (node, lane) that this node dialed, for what it
 * says, and those that the others dialed, for what they say and what answers it.
 *
 * A connection is made when something is to be said, and again after ever longer pauses, or when
 * the other has come by itself.  One on which nothing moves is given up, here and in the kernel:
 * behind a partition TCP itself would take minutes, and as long again when that is over.
 */
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/command.h"
#include "engine/store/private.h"

enum {
    RETRY_LEAST_MS = 50,
    RETRY_MOST_MS = 2000,
    STALL_MS = 2000,
    WAITING_MAX = 64 << 20, /* bytes that a peer does not take */
};

/* ---- Their life ---- */

static struct link *link_new(struct store *store, uint64_t id, unsigned lane, bool is_inbound)
{
    struct link *link = NEW(struct link);
    link->store = store;
    link->id = id;
    link->lane = lane;
    link->is_inbound = is_inbound;
    list_push_back(&store->links, &link->link);
    return link;
}

void link_say(struct stream *stream, enum frame_kind kind, const void *body, size_t length)
{
    BUFFER_OWNED struct buffer frame = {0};
    wire_put(&frame, kind, body, length);
    stream_write(stream, frame.data, frame.used);
}

struct link *link_find(struct store *store, uint64_t id, unsigned lane)
{
    LIST_EACH(node, &store->links)
    {
        struct link *link = LIST_ITEM(node, struct link, link);
        if (link->id == id && link->lane == lane && !link->is_inbound) {
            return link;
        }
    }
    return NULL;
}

static void free_link(struct link *link)
{
    list_remove(&link->link);
    buffer_done(&link->in);
    free(link);
}

/* Freed later: what closes it may be in the middle of its frames. */
static void free_posted(void *argument)
{
    free_link(argument);
}

/* An outbound one stays, without its stream, for the next try. */
void link_close(struct link *link)
{
    struct store *store = link->store;
    struct stream *stream = link->stream;
    if (stream == NULL) {
        return;
    }
    link->stream = NULL;
    link->in.used = 0;
    stream_close(stream);
    snapshot_lose(link);
    feed_end(link);
    store_drop_questions(store, link);
    if (link->is_inbound) {
        list_remove(&link->link);
        loop_post(store->loop, free_posted, link);
        return;
    }
    link->failures++;
    link->retry_ms = store_now_ms(store) + RETRY_LEAST_MS;
    if (link->lane == 0) {
        if (store->read_asked != 0 && link->id == store->leader_id) {
            store->read_asked = 0; /* the tick asks again */
        }
        follow_on_down(store, link->id);
    }
}

void links_close(struct store *store, uint64_t id_or_0)
{
    LIST_EACH(node, &store->links)
    {
        struct link *link = LIST_ITEM(node, struct link, link);
        if (id_or_0 != 0 && link->id != id_or_0) {
            continue;
        }
        bool stays = !link->is_inbound;
        link_close(link);
        if (stays && !link->is_dialing) {
            free_link(link);
        }
    }
}

/* ---- Frames ---- */

static void put_versions(struct buffer *frame)
{
    buffer_append_u32(frame, WIRE_OLDEST);
    buffer_append_u32(frame, WIRE_NEWEST);
}

static void answer_hello(struct link *link)
{
    BUFFER_OWNED struct buffer frame = {0};
    size_t begun = wire_begin(&frame, FRAME_HELLO);
    buffer_append_u32(&frame, link->version);
    put_versions(&frame);
    wire_end(&frame, begun);
    stream_write(link->stream, frame.data, frame.used);
}

/* Of another version there may be more in it: that is for who knows what it means. */
static void take_hello(struct link *link, const uint8_t *body, size_t length, struct error *err)
{
    struct store *store = link->store;
    struct command_reader reader = {.at = body, .end = body + length};
    unsigned lane = command_read_u8(&reader);
    uint32_t oldest = command_read_u32(&reader);
    uint32_t newest = command_read_u32(&reader);
    if (reader.is_bad || lane >= STORE_LANES || link->has_hello) {
        error_set(err, ERROR_PROTOCOL, "a greeting that is none");
        return;
    }
    link->version = wire_common(oldest, newest);
    answer_hello(link);
    if (link->version == 0) {
        link->is_refused = true; /* it closes, when it has read why */
        return;
    }
    link->lane = lane;
    link->has_hello = true;
    /* What the node said on an older connection and was not read is void: it says it again here. */
    LIST_EACH(node, &store->links)
    {
        struct link *other = LIST_ITEM(node, struct link, link);
        if (other != link && other->is_inbound && other->has_hello && other->id == link->id &&
            other->lane == lane) {
            link_close(other);
        }
    }
}

static void take_hello_answer(struct link *link, const uint8_t *body, size_t length,
                              struct error *err)
{
    struct command_reader reader = {.at = body, .end = body + length};
    uint32_t version = command_read_u32(&reader);
    uint32_t oldest = command_read_u32(&reader);
    uint32_t newest = command_read_u32(&reader);
    if (reader.is_bad || version > WIRE_NEWEST || (version != 0 && version < WIRE_OLDEST)) {
        error_set(err, ERROR_PROTOCOL, "an answer to our greeting that is none");
        return;
    }
    link->version = version;
    if (version == 0) {
        link_close(link);
        link->retry_ms = store_now_ms(link->store) + RETRY_MOST_MS;
        if (!link->is_refused) {
            log_warn("store: node %llu speaks versions %u to %u of the nodes' protocol, this one "
                     "%d to %d: bring the older of the two to the release between",
                     (unsigned long long)link->id, oldest, newest, WIRE_OLDEST, WIRE_NEWEST);
        }
    }
    link->is_refused = version == 0; /* said once */
}

static void take_message(struct link *link, enum frame_kind kind, const uint8_t *body,
                         size_t length, struct error *err)
{
    struct store *store = link->store;
    struct raft_message message = {0};
    if (wire_read_message(kind, body, length, &message, err) < 0) {
        return;
    }
    if (store->quorum == NULL || !store->quorum->raft_is_open) {
        wire_message_done(&message);
        return;
    }
    quorum_receive(store->quorum, link->id, &message);
}

/*
 * Raft believes whoever speaks it: any node could depose the leader, or pass for one and have the
 * others throw away what they acknowledged.
 */
static bool is_heard(struct link *link)
{
    const struct store *store = link->store;
    const struct store_network *network = &store->options.network;
    bool is_heard = network->may_lead == NULL ||
        (store->quorum != NULL && quorum_has(store->quorum, link->id)) ||
        network->may_lead(link->id, network->context);
    if (!is_heard && !link->is_unheard) {
        log_warn("store: node %llu is no server and speaks like one: it is not heard",
                 (unsigned long long)link->id);
    }
    link->is_unheard = !is_heard;
    return is_heard;
}

/* What servers say to each other. */
static void take_raft(struct link *link, enum frame_kind kind, const uint8_t *body, size_t length,
                      struct error *err)
{
    if (!is_heard(link)) {
        return;
    }
    if (kind == FRAME_SNAPSHOT || kind == FRAME_SNAPSHOT_DATA) {
        snapshot_take(link, kind, body, length, err);
    } else {
        take_message(link, kind, body, length, err);
    }
}

/* What whoever dialed says. */
static void take_asked(struct link *link, enum frame_kind kind, const uint8_t *body, size_t length,
                       struct error *err)
{
    switch ((int)kind) {
    case FRAME_VOTE:
    case FRAME_VOTE_RESULT:
    case FRAME_APPEND:
    case FRAME_APPEND_RESULT:
    case FRAME_TIMEOUT_NOW:
    case FRAME_SNAPSHOT:
    case FRAME_SNAPSHOT_DATA:
        take_raft(link, kind, body, length, err);
        break;
    case FRAME_FORWARD:
        store_take_forward(link, body, length);
        break;
    case FRAME_READ:
        store_take_read(link, body, length);
        break;
    case FRAME_TRANSFER:
        store_take_transfer(link, body, length);
        break;
    case FRAME_FOLLOW:
        feed_begin(link, body, length);
        break;
    default:
        error_set(err, ERROR_PROTOCOL, "a frame of kind %d from who dialed", (int)kind);
    }
}

/* What answers us. */
static void take_answer(struct link *link, enum frame_kind kind, const uint8_t *body, size_t length,
                        struct error *err)
{
    switch ((int)kind) {
    case FRAME_HELLO:
        take_hello_answer(link, body, length, err);
        break;
    case FRAME_REFUSED:
        store_take_refused(link->store, body, length);
        break;
    case FRAME_READ_DONE:
        store_take_read_done(link->store, body, length);
        break;
    case FRAME_STATE:
    case FRAME_SNAPSHOT_DATA:
    case FRAME_ENTRY:
    case FRAME_HEAD:
        follow_take(link, kind, body, length, err);
        break;
    default:
        error_set(err, ERROR_PROTOCOL, "a frame of kind %d from who was dialed", (int)kind);
    }
}

static void take_frame(struct link *link, enum frame_kind kind, const uint8_t *body, size_t length,
                       struct error *err)
{
    if (!link->is_inbound) {
        take_answer(link, kind, body, length, err);
    } else if (link->is_refused) {
        return; /* of another protocol: nothing of it means anything here */
    } else if (kind == FRAME_HELLO || !link->has_hello) {
        take_hello(link, body, kind == FRAME_HELLO ? length : 0, err);
    } else {
        take_asked(link, kind, body, length, err);
    }
}

static void on_data(const void *bytes, size_t length, void *context)
{
    struct link *link = context;
    struct error err = {0};
    size_t used = 0;
    buffer_append(&link->in, bytes, length);
    while (link->stream != NULL) {
        enum frame_kind kind = FRAME_KIND_COUNT;
        const uint8_t *body = NULL;
        size_t size = 0;
        long whole =
            wire_next(link->in.data + used, link->in.used - used, &kind, &body, &size, &err);
        if (whole > 0) {
            used += (size_t)whole;
            take_frame(link, kind, body, size, &err);
        }
        if (err.kind != ERROR_NONE) {
            log_warn("store: node %llu is cut off: %s", (unsigned long long)link->id, err.text);
            link_close(link);
        }
        if (whole <= 0) {
            break;
        }
    }
    if (link->stream != NULL) {
        buffer_consume(&link->in, used);
    }
}

static void on_drained(void *context)
{
    struct link *link = context;
    if (link->feed != NULL) {
        feed_pump(link);
    } else if (link->outgoing != NULL) {
        snapshot_go_on(link);
    }
}

static void on_end(const struct error *error, void *context)
{
    struct link *link = context;
    (void)error; /* a node that goes is no news here: its heartbeats stop */
    link_close(link);
}

static const struct stream_events events = {on_data, on_drained, on_end};

/* ---- Dialing ---- */

static void say_hello(struct link *link)
{
    BUFFER_OWNED struct buffer frame = {0};
    size_t begun = wire_begin(&frame, FRAME_HELLO);
    buffer_append_byte(&frame, (uint8_t)link->lane);
    put_versions(&frame);
    wire_end(&frame, begun);
    stream_write(link->stream, frame.data, frame.used);
}

static void begin_dial(struct link *link)
{
    struct store *store = link->store;
    link->is_dialing = true;
    store->options.network.dial(link->id, link->lane, store->options.network.context);
}

struct stream *link_to(struct store *store, uint64_t id, unsigned lane)
{
    if (store_is_alone(store) || store->closing || id == store->folder.node_id || id == 0) {
        return NULL;
    }
    struct link *link = link_find(store, id, lane);
    if (link == NULL) {
        link = link_new(store, id, lane, false);
    }
    if (link->stream == NULL) {
        if (!link->is_dialing && store_now_ms(store) >= link->retry_ms) {
            begin_dial(link);
        }
        return NULL;
    }
    return stream_waiting(link->stream) < WAITING_MAX ? link->stream : NULL;
}

void store_dialed(struct store *store, uint64_t id, unsigned lane, struct stream *owned_stream)
{
    CHECK(loop_is_mine(store->loop));
    struct link *link = link_find(store, id, lane);
    CHECK(link != NULL && link->is_dialing);
    link->is_dialing = false;
    if (owned_stream == NULL || store->closing) {
        stream_close(owned_stream);
        uint64_t delay_ms = (uint64_t)RETRY_LEAST_MS << (link->failures < 6 ? link->failures : 6);
        link->failures++;
        link->retry_ms =
            store_now_ms(store) + (delay_ms < RETRY_MOST_MS ? delay_ms : RETRY_MOST_MS);
        snapshot_lose(link);
        if (lane == 0) {
            follow_on_down(store, id);
        }
        return;
    }
    link->failures = 0;
    link->stalled_ms = 0;
    link->stream = owned_stream;
    stream_set_dead(owned_stream, STALL_MS);
    link->version = WIRE_OLDEST; /* until the other has answered */
    stream_start(owned_stream, &events, link);
    say_hello(link);
    if (link->outgoing != NULL) {
        snapshot_go_on(link);
    }
    if (lane == 0) {
        follow_on_up(link);
        if (id == store->leader_id) {
            store_send_again(store);
            store_ask_reads(store);
            store_look_at_handover(store);
        }
    }
}

/* Who reaches this node is reached from here: no pause before the next dial. */
static void expect_reached(struct store *store, uint64_t id)
{
    LIST_EACH(node, &store->links)
    {
        struct link *link = LIST_ITEM(node, struct link, link);
        if (link->id == id && !link->is_inbound && link->stream == NULL && !link->is_refused) {
            link->failures = 0;
            link->retry_ms = 0;
        }
    }
}

void store_accept(struct store *store, uint64_t id, struct stream *owned_stream)
{
    CHECK(loop_is_mine(store->loop));
    if (store->closing || store_is_alone(store)) {
        stream_close(owned_stream);
        return;
    }
    expect_reached(store, id);
    struct link *link = link_new(store, id, 0, true);
    link->stream = owned_stream;
    stream_set_dead(owned_stream, STALL_MS);
    stream_start(owned_stream, &events, link);
}

void store_forget_node(struct store *store, uint64_t id)
{
    CHECK(id != 0);
    links_close(store, id);
}

/* ---- Time ---- */

static void look_whether_stalled(struct link *link)
{
    size_t waiting = stream_waiting(link->stream);
    uint64_t now_ms = store_now_ms(link->store);
    if (waiting == 0 || waiting != link->waiting_seen) {
        link->waiting_seen = waiting;
        link->stalled_ms = now_ms;
    } else if (now_ms - link->stalled_ms > STALL_MS) {
        link_close(link);
    }
}

void links_tick(struct store *store)
{
    LIST_EACH(node, &store->links)
    {
        struct link *link = LIST_ITEM(node, struct link, link);
        if (link->stream != NULL) {
            look_whether_stalled(link);
        }
    }
}
