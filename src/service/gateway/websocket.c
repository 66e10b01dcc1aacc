/* See websocket.h. */
#include "service/gateway/websocket.h"

#include <stdio.h>
#include <string.h>

#include "base/base64.h"
#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/http/http.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/gateway/deflate.h"
#include "service/gateway/frame.h"
#include "service/gateway/lane.h"

enum { KEY_BYTES = 16, KEY_TEXT = 24 };

struct websocket {
    struct list_node link; /* in the lane's websockets */
    struct call *call;
    struct frame_reader in;
    struct record_reader out;
    struct buffer records; /* of what came at once, for the function */
    struct buffer frames;  /* scratch, for the client */
    bool is_held;          /* the function does not read: the client is not read, either */
    bool is_blocked;       /* the client does not read */
    bool was_told;         /* the function: that it has ended */
    uint64_t heard_ms;     /* when the client said something last */
    uint64_t told_ms;
};

/* ---- To the function ---- */

static void send_records(struct websocket *websocket)
{
    struct call *call = websocket->call;
    if (websocket->records.used == 0 || !call->is_running || websocket->was_told) {
        websocket->records.used = 0;
        return;
    }
    if (!relay_write(&call->relay, websocket->records.data, websocket->records.used)) {
        websocket->is_held = true;
        http_exchange_pause(call->exchange);
    }
    call_forget_bytes(&websocket->records);
}

/* It has ended, this is why, and no more will come. */
static void tell_end(struct websocket *websocket, unsigned code, const void *reason, size_t length)
{
    uint8_t payload[FRAME_CONTROL_MAX] = {(uint8_t)code, (uint8_t)(code >> 8)};
    struct call *call = websocket->call;
    if (websocket->was_told) {
        return;
    }
    CHECK(length <= FRAME_CONTROL_MAX - 2);
    if (length > 0) {
        memcpy(payload + 2, reason, length);
    }
    record_write(&websocket->records, FRAME_CLOSE, payload,
                 code == FRAME_CODE_NONE ? 0 : 2 + length);
    send_records(websocket);
    websocket->was_told = true;
    websocket->told_ms = loop_now_ms(call->lane->loop);
    if (call->is_running) {
        relay_finish_input(&call->relay);
    }
}

/* ---- To the client ---- */

static void send_frames(struct websocket *websocket)
{
    struct call *call = websocket->call;
    if (!http_exchange_write(call->exchange, websocket->frames.data, websocket->frames.used)) {
        websocket->is_blocked = true;
        if (call->is_running) {
            relay_pause(&call->relay);
        }
    }
    call_forget_bytes(&websocket->frames);
}

/* The last that it hears. */
static void close_client(struct websocket *websocket, unsigned code, const char *reason,
                         size_t length)
{
    struct call *call = websocket->call;
    if (!call->is_answering) {
        return;
    }
    call->is_answering = false;
    frame_write_close(&websocket->frames, code, reason, length);
    http_exchange_write(call->exchange, websocket->frames.data, websocket->frames.used);
    call_forget_bytes(&websocket->frames);
    http_exchange_end(call->exchange);
}

static void close_both(struct websocket *websocket, unsigned code, const char *reason)
{
    tell_end(websocket, code, reason, strlen(reason));
    close_client(websocket, code, reason, strlen(reason));
}

/* ---- From the client ---- */

static bool on_frame(enum frame_kind kind, const uint8_t *bytes, size_t length, void *context)
{
    struct websocket *websocket = context;
    switch (kind) {
    case FRAME_TEXT:
    case FRAME_BINARY:
        record_write(&websocket->records, kind, bytes, length);
        break;
    case FRAME_PING:
        if (!websocket->is_blocked) { /* one that reads no answers needs none */
            frame_write(&websocket->frames, FRAME_PONG, bytes, length);
            send_frames(websocket);
        }
        break;
    case FRAME_CLOSE: {
        unsigned code = length >= 2 ? (unsigned)bytes[0] << 8 | bytes[1] : FRAME_CODE_NONE;
        tell_end(websocket, code, length > 2 ? bytes + 2 : NULL, length > 2 ? length - 2 : 0);
        close_client(websocket, code, NULL, 0);
        return false;
    }
    case FRAME_PONG:
    case FRAME_CONTINUATION:
        break;
    }
    return websocket->call->is_answering;
}

static const char *fault_text(int code)
{
    return code == FRAME_CODE_LARGE ? "the message is larger than this route takes"
        : code == FRAME_CODE_DATA   ? "a text is not UTF-8"
                                    : "a frame that cannot be";
}

void websocket_received(struct call *call, const void *bytes, size_t length)
{
    struct websocket *websocket = call->websocket;
    if (!call->is_answering) {
        return;
    }
    websocket->heard_ms = loop_now_ms(call->lane->loop);
    int code = frame_reader_take(&websocket->in, bytes, length, on_frame, websocket);
    if (code != 0) {
        close_both(websocket, (unsigned)code, fault_text(code));
    }
    send_records(websocket);
}

/* The connection is gone, or was ended: a function that was not told of a close is broken off. */
void websocket_body_ended(struct call *call)
{
    if (!call->websocket->was_told && call->is_running) {
        relay_cancel(&call->relay);
    }
}

void websocket_writable(struct call *call)
{
    call->websocket->is_held = false;
    call->websocket->heard_ms = loop_now_ms(call->lane->loop);
}

void websocket_drained(struct call *call)
{
    call->websocket->is_blocked = false;
}

/* ---- From the function ---- */

static bool on_record(enum frame_kind kind, const uint8_t *bytes, size_t length, void *context)
{
    struct websocket *websocket = context;
    if (kind != FRAME_CLOSE) {
        frame_write_message(&websocket->frames, kind, bytes, length, websocket->in.deflater);
        return true;
    }
    unsigned code = length >= 2 ? bytes[0] | (unsigned)bytes[1] << 8 : FRAME_CODE_NORMAL;
    tell_end(websocket, code, NULL, 0);
    close_client(websocket, code, length > 2 ? (const char *)bytes + 2 : NULL,
                 length > 2 ? length - 2 : 0);
    return false;
}

void websocket_output(struct call *call, const void *bytes, size_t length)
{
    struct websocket *websocket = call->websocket;
    if (!record_reader_take(&websocket->out, bytes, length, on_record, websocket)) {
        answer_log_failure(call,
                           "the function wrote what is no message of a WebSocket, or one too "
                           "large: see blixard_websocket_send()");
        close_both(websocket, FRAME_CODE_INTERNAL, "the function wrote what is no message");
        if (call->is_running) {
            relay_cancel(&call->relay);
        }
    }
    if (call->is_answering && websocket->frames.used > 0) {
        send_frames(websocket);
    }
}

void websocket_run_ended(struct call *call, const struct error *error)
{
    struct websocket *websocket = call->websocket;
    websocket->was_told = true;
    if (error == NULL) {
        close_client(websocket, FRAME_CODE_NORMAL, NULL, 0);
        return;
    }
    bool is_later = error->kind == ERROR_OVERLOADED || error->kind == ERROR_UNAVAILABLE;
    answer_log_failure(call, error->text);
    close_client(websocket, is_later ? FRAME_CODE_LATER : FRAME_CODE_INTERNAL, error->text,
                 strlen(error->text));
}

/* ---- The handshake (4.2) ---- */

/* A list in any of the fields of that name has the token. */
static bool has_token(const struct http_exchange *exchange, const char *field, const char *token)
{
    for (size_t i = 0; i < http_exchange_field_count(exchange); i++) {
        struct text name;
        struct text list;
        http_exchange_field_at(exchange, i, &name, &list);
        if (!text_equal_ignoring_case(name, field)) {
            continue;
        }
        while (list.length > 0) {
            const char *comma = memchr(list.data, ',', list.length);
            size_t length = comma != NULL ? (size_t)(comma - list.data) : list.length;
            if (text_equal_ignoring_case(text_trim(text_of(list.data, length)), token)) {
                return true;
            }
            size_t skip = length + (comma != NULL);
            list = text_of(list.data + skip, list.length - skip);
        }
    }
    return false;
}

static bool key_is_good(struct text key)
{
    BUFFER_OWNED struct buffer bytes = {0};
    return key.length == KEY_TEXT && base64_read(key.data, key.length, &bytes) &&
        bytes.used == KEY_BYTES;
}

/* By HTTP/1.1's Upgrade, or HTTP/2's CONNECT (RFC 8441, 5), which has no key. */
static bool is_handshake(const struct http_exchange *exchange)
{
    bool is_asked = http_exchange_protocol(exchange).length > 0
        ? text_equal_ignoring_case(http_exchange_protocol(exchange), "websocket")
        : http_exchange_method(exchange) == HTTP_GET &&
            has_token(exchange, "Upgrade", "websocket") &&
            has_token(exchange, "Connection", "upgrade");
    return is_asked && http_exchange_can_upgrade(exchange) &&
        text_equal_ignoring_case(http_exchange_field(exchange, "Sec-WebSocket-Version"), "13");
}

/* True: it is one, and may be.  Otherwise it is answered. */
static bool check_handshake(struct call *call)
{
    struct http_exchange *exchange = call->exchange;
    struct text origin = http_exchange_field(exchange, "Origin");
    struct error err = {0};
    if (!is_handshake(exchange)) {
        static const char text[] = "this route is for WebSocket, version 13\n";
        call->is_answering = false;
        traced_note_status(call, 426);
        http_exchange_add_field(exchange, "Upgrade", "websocket"); /* HTTP/2 leaves it out */
        http_exchange_add_field(exchange, "Sec-WebSocket-Version", "13");
        http_exchange_add_field(exchange, "Content-Type", "text/plain");
        http_exchange_respond(exchange, 426, text, sizeof(text) - 1);
        return false;
    }
    if (http_exchange_protocol(exchange).length == 0 &&
        !key_is_good(http_exchange_field(exchange, "Sec-WebSocket-Key"))) {
        error_set(&err, ERROR_INVALID, "Sec-WebSocket-Key is not 16 bytes in base64");
        answer_error(call, &err, NULL);
        return false;
    }
    if (origin.length > 0 && call->route->has_cors &&
        !http_route_allows_origin(call->route, origin)) {
        error_set(&err, ERROR_DENIED, "this route's cors does not have this origin");
        answer_error(call, &err, NULL);
        return false;
    }
    return true;
}

static size_t message_max(const struct call *call)
{
    uint64_t own = call->route->body_bytes_max;
    return own == 0                   ? (size_t)WEBSOCKET_MESSAGE_DEFAULT
        : own < WEBSOCKET_MESSAGE_MAX ? (size_t)own
                                      : (size_t)WEBSOCKET_MESSAGE_MAX;
}

static bool has_protocol(const struct call *call, struct text protocol)
{
    for (char **at = call->route->subprotocols; *at != NULL; at++) {
        if (text_equal(protocol, *at) && protocol.length < WEBSOCKET_PROTOCOL_SIZE) {
            return true;
        }
    }
    return false;
}

/* The first of the client's, in its order, that the route has (RFC 6455, 1.9). */
static void choose_protocol(const struct call *call, char ret_protocol[WEBSOCKET_PROTOCOL_SIZE])
{
    for (size_t i = 0; i < http_exchange_field_count(call->exchange); i++) {
        struct text name, list;
        http_exchange_field_at(call->exchange, i, &name, &list);
        while (text_equal_ignoring_case(name, "Sec-WebSocket-Protocol") && list.length > 0) {
            const char *comma = memchr(list.data, ',', list.length);
            size_t length = comma != NULL ? (size_t)(comma - list.data) : list.length;
            struct text one = text_trim(text_of(list.data, length));
            if (has_protocol(call, one)) {
                snprintf(ret_protocol, WEBSOCKET_PROTOCOL_SIZE, "%.*s", (int)one.length, one.data);
                return;
            }
            size_t skip = length + (comma != NULL);
            list = text_of(list.data + skip, list.length - skip);
        }
    }
}

bool websocket_agree(struct call *call)
{
    if (!check_handshake(call)) {
        return false;
    }
    struct websocket_terms *terms = &call->terms;
    *terms = (struct websocket_terms){.message_max = message_max(call)};
    choose_protocol(call, terms->protocol);
    for (size_t i = 0; i < http_exchange_field_count(call->exchange) && !terms->packs; i++) {
        struct text name, list;
        http_exchange_field_at(call->exchange, i, &name, &list);
        terms->packs = text_equal_ignoring_case(name, "Sec-WebSocket-Extensions") &&
            deflate_is_offered(list, &terms->tells_window);
    }
    return true;
}

void websocket_write_terms(const struct websocket_terms *terms, char ret_text[WEBSOCKET_TERMS_SIZE])
{
    snprintf(ret_text, WEBSOCKET_TERMS_SIZE, "%zu %d %s", terms->message_max, terms->packs,
             terms->protocol);
}

bool websocket_read_terms(struct text text, struct websocket_terms *ret_terms)
{
    char copy[WEBSOCKET_TERMS_SIZE];
    int packs = 0;
    struct websocket_terms terms = {0};
    if (text.length == 0 || text.length >= sizeof(copy)) {
        return false;
    }
    snprintf(copy, sizeof(copy), "%.*s", (int)text.length, text.data);
    int count = sscanf(copy, "%zu %d %63s", &terms.message_max, &packs, terms.protocol);
    terms.packs = packs == 1;
    *ret_terms = terms;
    return count >= 2 && terms.message_max > 0 && terms.message_max <= WEBSOCKET_MESSAGE_MAX;
}

static void write_accept(const struct http_exchange *exchange, struct buffer *out)
{
    static const char suffix[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    struct text key = http_exchange_field(exchange, "Sec-WebSocket-Key");
    uint8_t digest[HASH_SHA1_BYTES];
    MEMORY_OWNED char *text = memory_format("%.*s%s", (int)key.length, key.data, suffix);
    hash_sha1(text, digest);
    base64_write(out, digest, sizeof(digest));
}

void websocket_add_fields(struct call *call)
{
    struct http_exchange *exchange = call->exchange;
    const struct websocket_terms *terms = &call->terms;
    BUFFER_OWNED struct buffer accept = {0};
    if (http_exchange_protocol(exchange).length == 0) {
        write_accept(exchange, &accept);
        http_exchange_add_field(exchange, "Sec-WebSocket-Accept", buffer_string(&accept));
    }
    if (terms->protocol[0] != '\0') {
        http_exchange_add_field(exchange, "Sec-WebSocket-Protocol", terms->protocol);
    }
    if (terms->packs) {
        http_exchange_add_field(exchange, "Sec-WebSocket-Extensions",
                                terms->tells_window ? DEFLATE_ANSWER_WINDOW : DEFLATE_ANSWER);
    }
}

static void begin(struct call *call)
{
    struct lane *lane = call->lane;
    struct websocket *websocket = call->websocket;
    if (!call->is_hop) {
        websocket_add_fields(call);
    }
    answer_own_fields(call);
    traced_note_status(call, call->is_hop ? 200 : 101);
    call->is_streaming = true;
    if (list_is_empty(&lane->websockets)) {
        loop_timer_start(lane->websocket_timer, WEBSOCKET_TICK_MS);
    }
    list_push_back(&lane->websockets, &websocket->link);
    if (call->is_hop) {
        http_exchange_converse(call->exchange, 200);
    } else {
        http_exchange_upgrade(call->exchange, "websocket");
    }
    call_read(call);
}

void websocket_serve(struct call *call)
{
    struct lane *lane = call->lane;
    struct websocket *websocket = NEW(struct websocket);
    websocket->call = call;
    websocket->in.message_max = websocket->out.message_max = call->terms.message_max;
    if (call->terms.packs) {
        lane->deflater = lane->deflater != NULL ? lane->deflater : deflater_new();
        websocket->in.deflater = lane->deflater;
    }
    websocket->heard_ms = loop_now_ms(call->lane->loop);
    call->websocket = websocket;
    call_begin_run(call, true);
    if (call->is_answering) {
        begin(call);
    }
    call_settle(call);
}

void websocket_free(struct call *call)
{
    struct websocket *websocket = call->websocket;
    if (websocket == NULL) {
        return;
    }
    list_remove(&websocket->link);
    frame_reader_done(&websocket->in);
    record_reader_done(&websocket->out);
    buffer_done(&websocket->records);
    buffer_done(&websocket->frames);
    free(websocket);
    call->websocket = NULL;
}

/* ---- All of a lane ---- */

void websocket_drain(struct lane *lane)
{
    LIST_EACH(node, &lane->websockets)
    {
        close_both(LIST_ITEM(node, struct websocket, link), FRAME_CODE_GOING,
                   "the node is stopping");
    }
    LIST_EACH(node, &lane->passed)
    {
        /* Where its frames end is the other node's to know: broken off, and not closed. */
        struct call *call = LIST_ITEM(node, struct call, passed_link);
        if (call->pass != NULL && http_exchange_has_begun(call->exchange)) {
            peer_pass_cancel(call->pass);
        }
    }
}

static void send_ping(struct websocket *websocket)
{
    if (!websocket->is_blocked) {
        frame_write(&websocket->frames, FRAME_PING, NULL, 0);
        send_frames(websocket);
    }
}

static void look_after(struct websocket *websocket, uint64_t now_ms)
{
    struct call *call = websocket->call;
    uint64_t silent_ms = now_ms - websocket->heard_ms;
    if (!call->is_answering) {
        if (call->is_running && now_ms - websocket->told_ms > WEBSOCKET_GRACE_MS) {
            relay_cancel(&call->relay);
        }
    } else if (websocket->is_held) {
        send_ping(websocket); /* what it says is not read: that it is gone shows by writing */
    } else if (silent_ms > WEBSOCKET_SILENCE_MS) {
        call->is_answering = false;
        http_exchange_abort(call->exchange); /* websocket_body_ended() */
    } else if (silent_ms > WEBSOCKET_PING_MS) {
        send_ping(websocket);
    }
}

void websocket_tick(void *context)
{
    struct lane *lane = context;
    uint64_t now_ms = loop_now_ms(lane->loop);
    LIST_EACH(node, &lane->websockets)
    {
        look_after(LIST_ITEM(node, struct websocket, link), now_ms);
    }
    if (!list_is_empty(&lane->websockets)) {
        loop_timer_start(lane->websocket_timer, WEBSOCKET_TICK_MS);
    }
}
