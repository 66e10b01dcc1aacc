/*
 * Snapshots between servers: one at a time to each, in pieces, on a lane of its own, so that the
 * heartbeats of the other lane go on meanwhile.
 */
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/private.h"

enum { WAITING_HIGH = 1 << 20 };

/* What libraft lends until it is told the end. */
struct outgoing {
    struct quorum *quorum;
    struct raft_io_send *request;
    struct buffer head; /* until it was sent */
    const uint8_t *data;
    size_t length;
    size_t sent;
};

static void end_outgoing(struct link *link, int status)
{
    struct outgoing *outgoing = link->outgoing;
    link->outgoing = NULL;
    quorum_tell(outgoing->quorum, outgoing->request, status);
    buffer_done(&outgoing->head);
    free(outgoing);
}

static void send_piece(struct link *link)
{
    struct outgoing *outgoing = link->outgoing;
    size_t left = outgoing->length - outgoing->sent;
    size_t piece = left < FRAME_PIECE ? left : FRAME_PIECE;
    link_say(link->stream, FRAME_SNAPSHOT_DATA, outgoing->data + outgoing->sent, piece);
    outgoing->sent += piece;
}

/* As much as the stream takes; again when it is drained. */
void snapshot_go_on(struct link *link)
{
    struct outgoing *outgoing = link->outgoing;
    if (outgoing->head.used > 0) {
        stream_write(link->stream, outgoing->head.data, outgoing->head.used);
        outgoing->head.used = 0;
    }
    while (outgoing->sent < outgoing->length && stream_waiting(link->stream) < WAITING_HIGH) {
        send_piece(link);
    }
    if (outgoing->sent == outgoing->length) {
        end_outgoing(link, 0);
    }
}

int snapshot_send(struct quorum *quorum, struct raft_io_send *request,
                  const struct raft_message *message)
{
    const struct raft_install_snapshot *snapshot = &message->install_snapshot;
    struct stream *stream = link_to(quorum->store, message->server_id, 1);
    struct link *link = link_find(quorum->store, message->server_id, 1);
    if (link == NULL || link->outgoing != NULL || (stream == NULL && !link->is_dialing)) {
        bool is_busy = link != NULL && link->outgoing != NULL;
        quorum_tell(quorum, request, is_busy ? RAFT_BUSY : RAFT_NOCONNECTION);
        return 0;
    }
    struct outgoing *outgoing = NEW(struct outgoing);
    *outgoing = (struct outgoing){
        .quorum = quorum,
        .request = request,
        .data = snapshot->data.base,
        .length = snapshot->data.len,
    };
    wire_put_snapshot(&outgoing->head, snapshot);
    link->outgoing = outgoing;
    if (stream != NULL) {
        snapshot_go_on(link);
    }
    return 0;
}

static void drop_arriving(struct link *link)
{
    if (link->is_arriving) {
        link->is_arriving = false;
        wire_message_done(&link->arriving);
    }
}

void snapshot_lose(struct link *link)
{
    drop_arriving(link);
    if (link->outgoing != NULL) {
        end_outgoing(link, RAFT_NOCONNECTION);
    }
}

static void deliver(struct link *link)
{
    struct store *store = link->store;
    struct raft_message message = link->arriving;
    link->is_arriving = false;
    if (store->quorum == NULL || !store->quorum->raft_is_open) {
        wire_message_done(&message);
        return;
    }
    quorum_receive(store->quorum, link->id, &message);
}

static int begin_arriving(struct link *link, const uint8_t *body, size_t length, struct error *err)
{
    drop_arriving(link);
    int r = wire_read_message(FRAME_SNAPSHOT, body, length, &link->arriving, err);
    if (r < 0) {
        return r;
    }
    link->is_arriving = true;
    link->arrived = 0;
    struct raft_buffer *data = &link->arriving.install_snapshot.data;
    data->base = raft_malloc(data->len);
    return data->base != NULL ? 0 : error_set(err, ERROR_LIMIT, "no memory for a snapshot");
}

void snapshot_take(struct link *link, enum frame_kind kind, const uint8_t *body, size_t length,
                   struct error *err)
{
    if (kind == FRAME_SNAPSHOT) {
        begin_arriving(link, body, length, err);
        return;
    }
    struct raft_buffer *data = &link->arriving.install_snapshot.data;
    if (!link->is_arriving || length > data->len - link->arrived) {
        error_set(err, ERROR_PROTOCOL, "a piece of no snapshot");
        return;
    }
    memcpy((uint8_t *)data->base + link->arrived, body, length);
    link->arrived += length;
    if (link->arrived == data->len) {
        deliver(link);
    }
}
