/* Frames, windows and streams: what both ends of the protocol between nodes are made of. */
#include "base/http/mux.h"

#include <endian.h>
#include <string.h>

#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"

/* What may wait for a peer that reads nothing: more, and the connection ends. */
enum { OUT_MAX = 32 << 20, OUT_SLACK = 65536 };

/* What is kept for streams to come: so many, each with a buffer of so much. */
enum { SPARE_STREAMS = 64, SPARE_BYTES = 8192 };

/* ---- Streams ---- */

static struct mux_stream **slot_of(struct mux *mux, uint32_t id)
{
    return &mux->slots[id % MUX_STREAMS_MAX];
}

static struct mux_stream *find(struct mux *mux, uint32_t id)
{
    struct mux_stream *stream = *slot_of(mux, id);
    while (stream != NULL && stream->id != id) {
        stream = stream->next;
    }
    return stream;
}

static void free_stream(struct mux_stream *stream)
{
    buffer_done(&stream->out);
    free(stream);
}

static struct mux_stream *take_memory(struct mux *mux, size_t size)
{
    struct mux_stream *stream = LIST_FIRST(&mux->spare, struct mux_stream, link);
    if (stream == NULL) {
        return memory_new(1, size);
    }
    list_remove(&stream->link);
    mux->spare_count--;
    struct buffer out = stream->out;
    memset(stream, 0, size);
    stream->out = out;
    stream->out.used = 0;
    return stream;
}

void *mux_stream_new(struct mux *mux, size_t size, uint32_t id)
{
    struct mux_stream *stream = take_memory(mux, size);
    struct mux_stream **slot = slot_of(mux, id);
    stream->mux = mux;
    stream->id = id;
    stream->in_left = UINT64_MAX;
    stream->window_out = stream->window_in = MUX_STREAM_WINDOW;
    stream->next = *slot;
    *slot = stream;
    list_push_back(&mux->streams, &stream->link);
    mux->stream_count++;
    return stream;
}

static void free_gone(struct mux *mux)
{
    while (mux->depth == 0 && !list_is_empty(&mux->gone)) {
        struct mux_stream *stream = LIST_FIRST(&mux->gone, struct mux_stream, link);
        list_remove(&stream->link);
        buffer_done(&stream->in);
        if (mux->spare_count < SPARE_STREAMS && stream->out.size <= SPARE_BYTES) {
            mux->spare_count++;
            list_push_front(&mux->spare, &stream->link);
        } else {
            free_stream(stream);
        }
    }
}

void mux_stream_free(struct mux_stream *stream)
{
    struct mux *mux = stream->mux;
    CHECK(stream->is_closed);
    list_remove(&stream->link);
    list_remove(&stream->event);
    list_push_back(&mux->gone, &stream->link);
    mux->stream_count--;
    free_gone(mux);
}

void mux_mark(struct mux_stream *stream)
{
    if (!list_contains_node(&stream->event)) {
        list_push_back(&stream->mux->dirty, &stream->event);
    }
}

static void give_back(struct mux *mux, size_t length);

void mux_close(struct mux_stream *stream, enum mux_code code)
{
    struct mux *mux = stream->mux;
    if (stream->is_closed) {
        return;
    }
    struct mux_stream **at = slot_of(mux, stream->id);
    while (*at != stream) {
        at = &(*at)->next;
    }
    *at = stream->next;
    stream->is_closed = true;
    stream->code = code;
    mux->out_bytes -= mux_left(stream);
    list_remove(&stream->ready);
    give_back(mux, stream->in.used); /* it may be read later */
    mux_mark(stream);
}

void mux_reset(struct mux_stream *stream, enum mux_code code)
{
    bool is_known = stream->mux->is_server || stream->head_sent;
    if (!stream->is_closed && is_known) {
        mux_send_number(stream->mux, MUX_RESET, stream->id, code);
    }
    mux_close(stream, code);
}

static void close_if_over(struct mux_stream *stream)
{
    if (stream->end_sent && stream->in_ended) {
        mux_close(stream, MUX_UNWANTED);
    } else if (stream->end_sent && stream->mux->is_server) {
        mux_reset(stream, MUX_UNWANTED);
    }
}

/* ---- Frames on their way out ---- */

static void put_header(struct mux *mux, enum mux_kind kind, uint8_t flags, uint32_t id,
                       size_t length)
{
    const uint32_t numbers[] = {htole32((uint32_t)length), htole32(id)};
    uint8_t *at = buffer_reserve(&mux->out, MUX_HEADER_BYTES);
    memcpy(at, numbers, sizeof(numbers));
    at[8] = (uint8_t)kind;
    at[9] = flags;
    at[10] = at[11] = 0;
    mux->out.used += MUX_HEADER_BYTES;
}

void mux_send(struct mux *mux, enum mux_kind kind, uint8_t flags, uint32_t id, const void *payload,
              size_t length)
{
    if (!mux->is_dead) {
        put_header(mux, kind, flags, id, length);
        buffer_append(&mux->out, payload, length);
    }
}

void mux_send_number(struct mux *mux, enum mux_kind kind, uint32_t id, uint32_t number)
{
    const uint32_t payload = htole32(number);
    mux_send(mux, kind, 0, id, &payload, sizeof(payload));
}

size_t mux_left(const struct mux_stream *stream)
{
    return stream->out.used - stream->out_at;
}

static size_t smaller(size_t one, size_t other)
{
    return one < other ? one : other;
}

/* How much of a body's piece may go into a frame now. */
static size_t allowed(const struct mux_stream *stream, size_t length)
{
    size_t window = smaller(stream->window_out, stream->mux->window_out);
    return smaller(smaller(length, window), MUX_FRAME_BYTES);
}

static void put_data_header(struct mux_stream *stream, size_t length, bool is_end)
{
    struct mux *mux = stream->mux;
    put_header(mux, MUX_DATA, is_end ? MUX_END : 0, stream->id, length);
    stream->window_out -= length;
    mux->window_out -= length;
    stream->end_sent = is_end;
}

static void put_head(struct mux_stream *stream)
{
    struct mux *mux = stream->mux;
    bool is_end = stream->out_ended && mux_left(stream) == stream->head_left;
    put_header(mux, MUX_HEAD, is_end ? MUX_END : 0, stream->id, stream->head_left);
    buffer_append(&mux->out, stream->out.data + stream->out_at, stream->head_left);
    stream->out_at += stream->head_left;
    mux->out_bytes -= stream->head_left;
    stream->head_left = 0;
    stream->head_sent = true;
    stream->end_sent = is_end;
}

/* A head and a frame of its body.  False: all is sent, or no more may be. */
static bool put_some(struct mux_stream *stream)
{
    struct mux *mux = stream->mux;
    if (stream->head_left > 0) {
        put_head(stream);
    }
    size_t left = mux_left(stream);
    size_t part = allowed(stream, left);
    if (part > 0 || (left == 0 && stream->out_ended && !stream->end_sent)) {
        put_data_header(stream, part, stream->out_ended && part == left);
        buffer_append(&mux->out, part > 0 ? stream->out.data + stream->out_at : NULL, part);
        stream->out_at += part;
        mux->out_bytes -= part;
    }
    if (mux_left(stream) == 0) {
        stream->out.used = stream->out_at = 0;
    }
    mux_mark(stream); /* there is more room */
    close_if_over(stream);
    return !stream->is_closed && mux_left(stream) > 0 && allowed(stream, 1) > 0;
}

static void send_out(struct mux *mux)
{
    if (mux->out.used + mux->appended > 0) {
        mux->wire.write(mux->out.data, mux->out.used, mux->context);
    }
    mux->out.used = mux->appended = 0;
}

static bool has_room(const struct mux *mux)
{
    return !mux->is_dead && mux->wire.waiting(mux->context) < WIRE_HIGH;
}

/* From the streams to the wire, in turns, as much as that takes without piling up. */
void mux_pump(struct mux *mux)
{
    while (!list_is_empty(&mux->ready) && has_room(mux)) {
        struct mux_stream *stream = LIST_FIRST(&mux->ready, struct mux_stream, ready);
        list_remove(&stream->ready);
        if (put_some(stream)) {
            list_push_back(&mux->ready, &stream->ready);
        }
        if (mux->out.used >= WIRE_PIECE) {
            send_out(mux);
        }
    }
    if (has_room(mux)) {
        send_out(mux);
    } else if (mux->out.used > OUT_MAX) {
        mux_die(mux);
    }
}

static void make_ready(struct mux_stream *stream)
{
    if (!list_contains_node(&stream->ready) && !stream->is_closed) {
        list_push_back(&stream->mux->ready, &stream->ready);
    }
}

void mux_write_head(struct mux_stream *stream, const void *bytes, size_t length)
{
    CHECK(stream->out.used == 0 && !stream->head_sent && length <= MUX_HEAD_BYTES);
    buffer_append(&stream->out, bytes, length);
    stream->head_left = length;
    stream->mux->out_bytes += stream->is_closed ? 0 : length;
    make_ready(stream);
}

/* A big piece goes into its frames from where it is, as far as the windows let it.  How much. */
static size_t put_lent(struct mux_stream *stream, const uint8_t *bytes, size_t length, bool is_last)
{
    struct mux *mux = stream->mux;
    size_t at = 0;
    make_ready(stream);
    mux_pump(mux);
    while (mux_left(stream) == 0 && !stream->is_closed && has_room(mux)) {
        size_t part = allowed(stream, length - at);
        if (part == 0) {
            break;
        }
        put_data_header(stream, part, is_last && at + part == length);
        if (mux->wire.append != NULL && part >= WIRE_LENT_LEAST) {
            mux->appended += mux->out.used + part;
            mux->wire.append(mux->out.data, mux->out.used, mux->context);
            mux->out.used = 0;
            mux->wire.append(bytes + at, part, mux->context);
        } else {
            buffer_append(&mux->out, bytes + at, part);
        }
        at += part;
        send_out(mux);
    }
    return at;
}

void mux_write(struct mux_stream *stream, const void *bytes, size_t length, bool is_last)
{
    CHECK(!stream->out_ended);
    if (stream->is_closed) {
        stream->out_ended = is_last;
        return;
    }
    size_t gone = length >= WIRE_LENT_LEAST ? put_lent(stream, bytes, length, is_last) : 0;
    stream->out_ended = is_last;
    if (stream->is_closed) {
        /* with the connection, which had too much to send */
    } else if (gone > 0 && gone == length) {
        mux_mark(stream); /* there is room again */
        close_if_over(stream);
    } else {
        if (stream->out_at >= OUT_SLACK) {
            buffer_consume(&stream->out, stream->out_at);
            stream->out_at = 0;
        }
        if (length > 0) {
            buffer_append(&stream->out, (const uint8_t *)bytes + gone, length - gone);
            stream->mux->out_bytes += length - gone;
        }
        make_ready(stream);
    }
    mux_touch(stream->mux);
}

/* ---- Windows ---- */

static void give_back(struct mux *mux, size_t length)
{
    mux->unreturned += length;
    if (mux->unreturned >= MUX_WINDOW / 2) {
        mux_send_number(mux, MUX_CREDIT, 0, (uint32_t)mux->unreturned);
        mux->window_in += mux->unreturned;
        mux->unreturned = 0;
    }
}

static void give_back_of(struct mux_stream *stream, size_t length)
{
    give_back(stream->mux, length);
    if (stream->is_closed || stream->is_cut || stream->in_ended) {
        return;
    }
    stream->unreturned += length;
    if (stream->unreturned >= MUX_STREAM_WINDOW / 2) {
        mux_send_number(stream->mux, MUX_CREDIT, stream->id, (uint32_t)stream->unreturned);
        stream->window_in += stream->unreturned;
        stream->unreturned = 0;
    }
}

void mux_feed(struct mux_stream *stream)
{
    if (stream->in.used == 0 || !stream->mux->end->takes(stream)) {
        return;
    }
    bool is_returned = stream->is_closed;
    BUFFER_OWNED struct buffer bytes = stream->in;
    stream->in = (struct buffer){0};
    stream->mux->end->on_data(stream, bytes.data, bytes.used);
    if (!is_returned) {
        give_back_of(stream, bytes.used);
    }
}

/* ---- Frames on their way in ---- */

struct frame {
    size_t length;
    uint32_t id;
    uint8_t kind;
    uint8_t flags;
};

static struct frame frame_of(const struct mux *mux)
{
    uint32_t numbers[2];
    memcpy(numbers, mux->header, sizeof(numbers));
    return (struct frame){le32toh(numbers[0]), le32toh(numbers[1]), mux->header[8], mux->header[9]};
}

/* Of a frame whose header has come: may it be? */
static bool is_sound(const struct mux *mux, const struct frame *frame)
{
    if (mux->header[10] != 0 || mux->header[11] != 0) {
        return false;
    }
    switch (frame->kind) {
    case MUX_HEAD:
        return frame->id > 0 && frame->flags <= MUX_END && frame->length > 0 &&
            frame->length <= MUX_HEAD_BYTES;
    case MUX_DATA: /* a body needs no empty pieces: an end may be one */
        return frame->id > 0 && frame->id <= mux->last_id && frame->flags <= MUX_END &&
            frame->length <= MUX_FRAME_BYTES && (frame->length > 0 || frame->flags == MUX_END);
    case MUX_CREDIT:
        return frame->id <= mux->last_id && frame->flags == 0 && frame->length == 4;
    case MUX_RESET:
        return frame->id > 0 && frame->id <= mux->last_id && frame->flags == 0 &&
            frame->length == 4;
    case MUX_PING:
    case MUX_PONG:
        return frame->id == 0 && frame->flags == 0 && frame->length == 0;
    case MUX_GOAWAY:
        return !mux->is_server && frame->id == 0 && frame->flags == 0 && frame->length == 0;
    default:
        return false;
    }
}

/* Nothing more comes.  False: it is not all that was to come, and the stream was reset. */
static bool is_whole(struct mux_stream *stream)
{
    if (stream->in_left > 0 && stream->in_left != UINT64_MAX) {
        mux_reset(stream, MUX_MALFORMED);
        return false;
    }
    return true;
}

bool mux_expect(struct mux_stream *stream, uint64_t length, bool is_end)
{
    stream->has_head = true;
    stream->in_left = length;
    if (is_end && !is_whole(stream)) {
        return false;
    }
    stream->in_ended = is_end; /* who is told of the head may answer at once */
    return true;
}

static void take_end(struct mux_stream *stream)
{
    if (!is_whole(stream)) {
        return;
    }
    stream->in_ended = true;
    mux_mark(stream);
    close_if_over(stream);
}

static void take_head(struct mux *mux, const struct frame *frame, const uint8_t *bytes)
{
    struct mux_stream *stream = find(mux, frame->id);
    bool is_due = mux->is_server ? frame->id > mux->last_id
        : stream != NULL         ? stream->head_sent && !stream->in_ended
                                 : frame->id <= mux->last_id;
    if (!is_due) {
        mux_die(mux); /* a server's are new, a client's are answers */
        return;
    }
    mux->last_id = mux->is_server ? frame->id : mux->last_id;
    bool is_end = frame->flags == MUX_END;
    mux->end->on_head(mux, stream, frame->id, bytes, frame->length, is_end);
    stream = is_end ? find(mux, frame->id) : NULL;
    if (stream != NULL) {
        take_end(stream);
    }
}

/* A piece of a frame of a body, as it came. */
static void take_data(struct mux *mux, const struct frame *frame, const uint8_t *bytes,
                      size_t length, bool is_last)
{
    struct mux_stream *stream = find(mux, frame->id);
    if (length > mux->window_in ||
        (stream != NULL && (length > stream->window_in || stream->in_ended))) {
        mux_die(mux);
        return;
    }
    mux->window_in -= length;
    if (stream == NULL) {
        give_back(mux, length); /* it was on its way when the stream was closed */
        return;
    }
    stream->window_in -= length;
    if (!stream->has_head || (stream->in_left != UINT64_MAX && length > stream->in_left)) {
        give_back(mux, length);
        mux_reset(stream, MUX_MALFORMED);
        return;
    }
    stream->in_left -= stream->in_left != UINT64_MAX ? length : 0;
    if (stream->in.used == 0 && length > 0 && mux->end->takes(stream)) {
        mux->end->on_data(stream, bytes, length);
        give_back_of(stream, length);
    } else {
        buffer_append(&stream->in, bytes, length);
        mux_mark(stream);
    }
    if (is_last && frame->flags == MUX_END && !stream->is_closed) {
        take_end(stream);
    }
}

static void go_on(struct mux_stream *stream)
{
    if (mux_left(stream) > 0) {
        make_ready(stream);
    }
}

/* What was given back is not more than what was taken. */
static void take_credit(struct mux *mux, const struct frame *frame, uint32_t length)
{
    struct mux_stream *stream = frame->id > 0 ? find(mux, frame->id) : NULL;
    if (frame->id == 0) {
        if (length > MUX_WINDOW - mux->window_out) {
            mux_die(mux);
            return;
        }
        mux->window_out += length;
        LIST_EACH(node, &mux->streams)
        {
            go_on(LIST_ITEM(node, struct mux_stream, link));
        }
    } else if (stream != NULL) {
        if (length > MUX_STREAM_WINDOW - stream->window_out) {
            mux_die(mux);
            return;
        }
        stream->window_out += length;
        go_on(stream);
    }
}

static void take_reset(struct mux *mux, const struct frame *frame, uint32_t code)
{
    struct mux_stream *stream = find(mux, frame->id);
    if (code >= MUX_CODES) {
        mux_die(mux);
    } else if (stream != NULL) {
        mux_close(stream, (enum mux_code)code);
    }
}

static void take_frame(struct mux *mux, const struct frame *frame, const uint8_t *payload)
{
    uint32_t number = 0;
    if (frame->length == sizeof(number)) {
        memcpy(&number, payload, sizeof(number));
    }
    switch ((enum mux_kind)frame->kind) {
    case MUX_HEAD:
        take_head(mux, frame, payload);
        return;
    case MUX_CREDIT:
        take_credit(mux, frame, le32toh(number));
        return;
    case MUX_RESET:
        take_reset(mux, frame, le32toh(number));
        return;
    case MUX_PING:
        mux_send(mux, MUX_PONG, 0, 0, NULL, 0);
        return;
    case MUX_PONG:
    case MUX_GOAWAY:
        mux->end->on_control(mux, (enum mux_kind)frame->kind);
        return;
    case MUX_DATA:
        break;
    }
    CHECK_UNREACHABLE();
}

/* Of what came, the header's part.  How much it was. */
static size_t gather_header(struct mux *mux, const uint8_t *bytes, size_t length)
{
    size_t part = smaller(length, MUX_HEADER_BYTES - mux->header_used);
    memcpy(mux->header + mux->header_used, bytes, part);
    mux->header_used += part;
    if (mux->header_used == MUX_HEADER_BYTES) {
        struct frame frame = frame_of(mux);
        mux->frame_left = frame.length;
        if (!is_sound(mux, &frame)) {
            mux_die(mux);
        }
    }
    return part;
}

/* Bodies are told as they come, all else when it is whole.  How much was taken. */
static size_t take_payload(struct mux *mux, const uint8_t *bytes, size_t length)
{
    struct frame frame = frame_of(mux);
    size_t part = smaller(length, mux->frame_left);
    mux->frame_left -= part;
    bool is_last = mux->frame_left == 0;
    mux->header_used = is_last ? 0 : mux->header_used;
    if (frame.kind == MUX_DATA) {
        take_data(mux, &frame, bytes, part, is_last);
    } else if (is_last && part == frame.length) {
        take_frame(mux, &frame, bytes);
    } else {
        buffer_append(&mux->payload, bytes, part);
        if (is_last) {
            take_frame(mux, &frame, mux->payload.data);
            mux->payload.used = 0;
        }
    }
    return part;
}

static void note_life(struct mux *mux, uint64_t now_ms)
{
    mux->now_ms = mux->alive_ms = now_ms;
    mux->asked_ms = 0;
}

void mux_receive(struct mux *mux, const void *bytes, size_t length, uint64_t now_ms)
{
    const uint8_t *at = bytes;
    const uint8_t *end = at + length;
    CHECK(mux->depth == 0);
    note_life(mux, now_ms);
    mux->depth++;
    while (at < end && !mux->is_dead) {
        if (mux->header_used < MUX_HEADER_BYTES) {
            at += gather_header(mux, at, (size_t)(end - at));
        }
        if (mux->header_used == MUX_HEADER_BYTES && !mux->is_dead) { /* a payload may be empty */
            at += take_payload(mux, at, (size_t)(end - at));
        }
    }
    mux->depth--;
    mux_run(mux);
}

/* ---- Acting on it ---- */

static void act_on_all(struct mux *mux)
{
    while (!list_is_empty(&mux->dirty)) {
        struct mux_stream *stream = LIST_FIRST(&mux->dirty, struct mux_stream, event);
        list_remove(&stream->event);
        mux->end->on_event(stream);
    }
}

void mux_die(struct mux *mux)
{
    if (mux->is_dead) {
        return;
    }
    mux->is_dead = true;
    mux->end->on_dead(mux);
    LIST_EACH(node, &mux->streams)
    {
        struct mux_stream *stream = LIST_ITEM(node, struct mux_stream, link);
        mux_close(stream, MUX_FAILED);
        mux_mark(stream);
    }
}

static void work(struct mux *mux)
{
    do {
        act_on_all(mux);
        mux->end->on_turn(mux);
        mux_pump(mux);
    } while (!list_is_empty(&mux->dirty));
}

void mux_run(struct mux *mux)
{
    if (mux->depth > 0) {
        return;
    }
    mux->depth++;
    work(mux);
    bool is_over =
        mux->is_dead || (mux->ends_when_idle && mux->stream_count == 0 && mux->out.used == 0);
    if (!mux->is_freed && !mux->is_finished && is_over) {
        mux_die(mux);
        work(mux);
        if (!mux->is_freed && mux->stream_count == 0) {
            mux->is_finished = true;
            mux->wire.finish(mux->context);
        }
    }
    mux->depth--;
    free_gone(mux);
    if (mux->is_freed && !mux->is_posted) {
        mux->end->free(mux);
    }
}

static void run_posted(void *argument)
{
    struct mux *mux = argument;
    mux->is_posted = false;
    mux_run(mux);
}

void mux_touch(struct mux *mux)
{
    if (mux->depth == 0 && !mux->is_posted) { /* else mux_run() sees to it */
        mux->is_posted = true;
        loop_post(mux->loop, run_posted, mux);
    }
}

void mux_flush(struct mux *mux, uint64_t now_ms)
{
    note_life(mux, now_ms);
    mux_run(mux);
}

size_t mux_stream_count(const struct mux *mux)
{
    return mux->stream_count;
}

/* ---- Life ---- */

void mux_begin(struct mux *mux, const struct mux_end *end, struct loop *loop,
               const struct http_wire *wire, void *context, uint64_t now_ms)
{
    mux->end = end;
    mux->loop = loop;
    mux->wire = *wire;
    mux->context = context;
    mux->window_out = mux->window_in = MUX_WINDOW;
    mux->now_ms = mux->alive_ms = now_ms;
    list_init(&mux->streams);
    list_init(&mux->dirty);
    list_init(&mux->ready);
    list_init(&mux->gone);
    list_init(&mux->spare);
}

void mux_done(struct mux *mux)
{
    CHECK(list_is_empty(&mux->streams) && list_is_empty(&mux->gone));
    while (!list_is_empty(&mux->spare)) {
        struct mux_stream *stream = LIST_FIRST(&mux->spare, struct mux_stream, link);
        list_remove(&stream->link);
        free_stream(stream);
    }
    buffer_done(&mux->out);
    buffer_done(&mux->payload);
}
