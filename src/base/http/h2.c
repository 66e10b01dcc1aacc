/*
 * What a server's end of HTTP/2 is made of: blocks of fields, counts of what costs and moves
 * nothing, bodies on their way out.
 *
 * libnghttp2 has looked at names, values, the order of pseudo-fields, fields of the connection and
 * the length against the data; what it lets through and the parser of 1.1 would not, stops here.
 */
#include "base/http/h2.h"

#include <string.h>
#include <strings.h>

#include "base/check.h"
#include "base/memory.h"

const char h2_preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/* Per SPAN_MS.  A WINDOW_UPDATE for a connection and a stream follows as little as 4 KiB of DATA.
 */
/* Frames of kinds nobody knows are skipped by the library: they cost no more than their bytes. */
enum {
    SPAN_MS = 10000,
    IDLE_FRAMES_MAX = 2000,
    WINDOWS_MAX = 2000,
    WINDOWS_PER_DATA = 16,
    FAULTS_MAX = 500,
    CONTINUATIONS_MAX = 8,
    FIELD_OVERHEAD = 32, /* RFC 9113, 6.5.2 */
    BODY_SLACK = 65536,
    FRAME_HEADER_BYTES = 9,
};

/* ---- Blocks of fields ---- */

void h2_head_clear(struct h2_head *head)
{
    head->bytes.used = head->cookie.used = 0;
    head->field_count = head->list_bytes = 0;
    head->method = head->path = head->authority = head->scheme = head->status = head->protocol =
        (struct h2_span){0};
    head->refusal = 0;
}

void h2_head_done(struct h2_head *head)
{
    buffer_done(&head->bytes);
    buffer_done(&head->cookie);
}

/* Offsets, not pointers: the bytes move while they grow. */
static struct h2_span keep(struct h2_head *head, struct text name, struct text value)
{
    struct h2_span span = {head->bytes.used, name.length, head->bytes.used + name.length,
                           value.length};
    buffer_append(&head->bytes, name.data, name.length);
    buffer_append(&head->bytes, value.data, value.length);
    return span;
}

static void keep_field(struct h2_head *head, struct text name, struct text value,
                       size_t field_count_max)
{
    if (head->field_count == field_count_max || head->field_count == PARSE_FIELDS_MAX) {
        head->refusal = 431;
        return;
    }
    head->fields[head->field_count++] = keep(head, name, value);
}

static struct h2_span *pseudo(struct h2_head *head, struct text name)
{
    const struct {
        const char *name;
        struct h2_span *span;
    } known[] = {{":method", &head->method},       {":path", &head->path},
                 {":authority", &head->authority}, {":scheme", &head->scheme},
                 {":status", &head->status},       {":protocol", &head->protocol}};
    if (name.length == 0 || name.data[0] != ':') {
        return NULL;
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (text_equal(name, known[i].name)) {
            return known[i].span;
        }
    }
    return NULL;
}

void h2_head_add(struct h2_head *head, struct text name, struct text value,
                 const struct parse_limits *limits)
{
    head->list_bytes += name.length + value.length + FIELD_OVERHEAD;
    if (head->list_bytes > limits->head_bytes_max) {
        head->refusal = 431;
    }
    if (head->refusal != 0) {
        return; /* it is taken off the wire all the same: both ends must know the same table */
    }
    struct h2_span *span = pseudo(head, name);
    if (span != NULL) {
        *span = keep(head, name, value);
    } else if (text_equal(name, "cookie")) {
        buffer_append(&head->cookie, "; ", head->cookie.used > 0 ? 2 : 0);
        buffer_append(&head->cookie, value.data, value.length);
    } else {
        keep_field(head, name, value, limits->field_count_max);
    }
}

int h2_refuse_field(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                    size_t name_length, const uint8_t *value, size_t value_length, uint8_t flags,
                    void *context)
{
    (void)name;
    (void)name_length;
    (void)value;
    (void)value_length;
    (void)flags;
    (void)context;
    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                              NGHTTP2_PROTOCOL_ERROR);
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static struct text name_of(const struct h2_head *head, struct h2_span span)
{
    return text_of((const char *)head->bytes.data + span.name, span.name_length);
}

static struct text value_of(const struct h2_head *head, struct h2_span span)
{
    return span.name_length > 0
        ? text_of((const char *)head->bytes.data + span.value, span.value_length)
        : text_of(NULL, 0);
}

/* What must not be in one kind of head: RFC 9113, 8.2.2; the parser of 1.1 would act on it. */
bool h2_is_of_connection(struct text name)
{
    static const struct text names[] = {
        TEXT_LITERAL("connection"),       TEXT_LITERAL("keep-alive"),
        TEXT_LITERAL("proxy-connection"), TEXT_LITERAL("transfer-encoding"),
        TEXT_LITERAL("upgrade"),
    };
    return text_is_among_ignoring_case(name, names, sizeof(names) / sizeof(names[0]));
}

static int show_fields(struct h2_head *head, bool has_body, size_t field_count_max,
                       struct parse_head *ret_head)
{
    for (size_t i = 0; i < head->field_count; i++) {
        struct text name = name_of(head, head->fields[i]);
        if (h2_is_of_connection(name)) {
            return -1;
        }
        int r = parse_add_field(ret_head, name, value_of(head, head->fields[i]), field_count_max);
        if (r < 0) {
            return r == -400 ? -1 : r;
        }
    }
    ret_head->minor = 1;
    ret_head->is_chunked = has_body && !ret_head->has_length; /* its end is told by a flag */
    return 0;
}

/* The authority is what Host was: one of them is there, and two are the same. */
static int settle_host(struct h2_head *head)
{
    struct text authority = value_of(head, head->authority);
    struct text host = text_of(NULL, 0);
    for (size_t i = 0; i < head->field_count; i++) {
        if (text_equal(name_of(head, head->fields[i]), "host")) {
            if (host.data != NULL) {
                return -1;
            }
            host = value_of(head, head->fields[i]);
        }
    }
    if (authority.data == NULL) {
        return host.length > 0 && parse_is_host(host) ? 0 : -1;
    }
    bool differs = host.data != NULL &&
        (host.length != authority.length ||
         strncasecmp(host.data, authority.data, host.length) != 0);
    if (differs || authority.length == 0 || !parse_is_host(authority)) {
        return -1;
    }
    if (host.data == NULL) {
        MEMORY_OWNED char *copy = memory_copy_text(authority.data, authority.length);
        keep_field(head, text_of("host", 4), text_of(copy, authority.length), PARSE_FIELDS_MAX);
    }
    return -head->refusal;
}

static int check_target(const struct h2_head *head, size_t target_bytes_max)
{
    struct text method = value_of(head, head->method);
    struct text path = value_of(head, head->path);
    struct text scheme = value_of(head, head->scheme);
    if (method.length == 0 || method.length > 32 || !parse_is_token(method)) {
        return -1;
    }
    /* A tunnel is never made; one that names its protocol is a request for a conversation. */
    bool is_connect = text_equal(method, "CONNECT");
    if (is_connect != (value_of(head, head->protocol).length > 0)) {
        return is_connect ? -400 : -1;
    }
    if (!text_equal_ignoring_case(scheme, "http") && !text_equal_ignoring_case(scheme, "https")) {
        return -1;
    }
    if (path.length == 0 || (path.data[0] != '/' && path.data[0] != '*') ||
        !parse_is_target(path, is_connect ? text_of("GET", 3) : method)) {
        return -1;
    }
    return path.length > target_bytes_max ? -414 : 0;
}

int h2_head_request(struct h2_head *head, bool has_body, const struct parse_limits *limits,
                    struct parse_head *ret_head)
{
    parse_clear(ret_head);
    if (head->cookie.used > 0 && head->refusal == 0) {
        keep_field(head, text_of("cookie", 6),
                   text_of((const char *)head->cookie.data, head->cookie.used),
                   limits->field_count_max);
    }
    if (head->refusal != 0) {
        return -head->refusal;
    }
    int r = check_target(head, limits->target_bytes_max);
    if (r == 0) {
        r = settle_host(head);
    }
    if (r == 0) {
        r = show_fields(head, has_body, PARSE_FIELDS_MAX, ret_head);
    }
    ret_head->method = value_of(head, head->method);
    ret_head->target = value_of(head, head->path);
    ret_head->protocol = value_of(head, head->protocol);
    return r;
}

/* ---- Counting ---- */

void h2_guard_tick(struct h2_guard *guard, uint64_t now_ms)
{
    if (now_ms - guard->since_ms >= SPAN_MS) {
        guard->since_ms = now_ms;
        guard->idle_frames = guard->windows = guard->faults = guard->data_sent = 0;
    }
}

bool h2_guard_frame(struct h2_guard *guard, const nghttp2_frame_hd *frame, size_t head_bytes_max)
{
    switch (frame->type) {
    case NGHTTP2_DATA:
    case NGHTTP2_RST_STREAM: /* counted by what it ends */
        return true;
    case NGHTTP2_HEADERS:
        guard->block_bytes = frame->length;
        guard->block_frames = 0;
        break;
    case NGHTTP2_CONTINUATION:
        guard->block_bytes += frame->length;
        guard->block_frames++;
        break;
    case NGHTTP2_WINDOW_UPDATE:
        return ++guard->windows <= WINDOWS_MAX + guard->data_sent * WINDOWS_PER_DATA;
    default:
        return ++guard->idle_frames <= IDLE_FRAMES_MAX;
    }
    /* As much as is read of a head that is too large, to say so; not more. */
    return guard->block_bytes <= 2 * head_bytes_max && guard->block_frames <= CONTINUATIONS_MAX;
}

bool h2_guard_empty(struct h2_guard *guard)
{
    return ++guard->idle_frames <= IDLE_FRAMES_MAX;
}

bool h2_guard_fault(struct h2_guard *guard)
{
    return ++guard->faults <= FAULTS_MAX;
}

/* ---- Fields on their way out ---- */

/* The value is another one each time: in the table of what was said before (RFC 7541, 2.3.2) it
 * would only push out what will be said again, at both ends. */
static bool is_said_once(struct text name)
{
    return text_equal_ignoring_case(name, "traceparent") ||
        text_equal_ignoring_case(name, "traceresponse") ||
        text_equal_ignoring_case(name, "x-request-id") ||
        text_equal_ignoring_case(name, "server-timing");
}

void h2_fields_add(struct h2_fields *fields, struct text name, struct text value)
{
    if (fields->count == fields->size) {
        fields->size = fields->size * 2 + 16;
        fields->at = memory_resize(fields->at, fields->size * sizeof(nghttp2_nv));
    }
    /* The library takes pointers that are not const, and copies. */
    fields->at[fields->count++] = (nghttp2_nv){
        .name = (uint8_t *)(uintptr_t)name.data,
        .namelen = name.length,
        .value = (uint8_t *)(uintptr_t)value.data,
        .valuelen = value.length,
        .flags = is_said_once(name) ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE,
    };
}

void h2_fields_add_lines(struct h2_fields *fields, struct buffer *lines)
{
    char *at = (char *)lines->data;
    size_t left = lines->used;
    while (left > 0) {
        char *stop = memchr(at, '\n', left);
        CHECK(stop != NULL && stop > at && stop[-1] == '\r');
        char *colon = memchr(at, ':', (size_t)(stop - at));
        CHECK(colon != NULL);
        struct text name = text_of(at, (size_t)(colon - at));
        for (char *letter = at; letter < colon; letter++) {
            if (*letter >= 'A' && *letter <= 'Z') {
                *letter = (char)(*letter - 'A' + 'a');
            }
        }
        if (!h2_is_of_connection(name) && !text_equal_ignoring_case(name, "te")) {
            h2_fields_add(fields, name, text_trim(text_of(colon + 1, (size_t)(stop - colon) - 2)));
        }
        left -= (size_t)(stop + 1 - at);
        at = stop + 1;
    }
}

/* ---- Bodies on their way out ---- */

size_t h2_body_left(const struct h2_body *body)
{
    return body->lent_length + body->bytes.used - body->at;
}

void h2_body_append(struct h2_body *body, const void *bytes, size_t length)
{
    if (body->at >= BODY_SLACK) {
        buffer_consume(&body->bytes, body->at);
        body->at = 0;
    }
    buffer_append(&body->bytes, bytes, length);
}

void h2_body_lend(struct h2_body *body, const void *bytes, size_t length)
{
    CHECK(h2_body_left(body) == 0);
    body->lent = bytes;
    body->lent_length = length;
}

void h2_body_keep(struct h2_body *body)
{
    buffer_append(&body->bytes, body->lent, body->lent_length);
    body->lent = NULL;
    body->lent_length = 0;
}

void h2_body_done(struct h2_body *body)
{
    buffer_done(&body->bytes);
}

/* Behind what goes before it. */
static void put_lent(struct h2_link *link, const void *bytes, size_t length)
{
    if (link->wire.append == NULL || length < WIRE_LENT_LEAST) {
        buffer_append(&link->out, bytes, length);
        return;
    }
    link->appended += link->out.used + length;
    link->wire.append(link->out.data, link->out.used, link->context);
    link->out.used = 0;
    link->wire.append(bytes, length, link->context);
}

/* A frame is as long as its reader said; the library waits when there is enough for one write. */
static int on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header,
                        size_t length, nghttp2_data_source *source, void *context)
{
    struct h2_body *body = source->ptr;
    (void)session;
    (void)context;
    CHECK(frame->data.padlen == 0 && length <= h2_body_left(body));
    buffer_append(&body->link->out, header, FRAME_HEADER_BYTES);
    if (body->lent != NULL) {
        put_lent(body->link, body->lent, length);
        body->lent += length;
        body->lent_length -= length;
    } else if (length > 0) { /* an empty end of a body that never had bytes has no place, either */
        buffer_append(&body->link->out, body->bytes.data + body->at, length);
        body->at += length;
    }
    if (body->at == body->bytes.used) {
        body->bytes.used = body->at = 0;
    }
    return body->link->out.used + body->link->appended < WIRE_PIECE ? 0 : NGHTTP2_ERR_PAUSE;
}

static ssize_t on_frame_length(nghttp2_session *session, uint8_t type, int32_t id,
                               int32_t connection_window, int32_t stream_window,
                               uint32_t frame_bytes_max, void *context)
{
    (void)session;
    (void)type;
    (void)id;
    (void)connection_window; /* the library keeps to both */
    (void)stream_window;
    (void)context;
    return frame_bytes_max < H2_FRAME_BYTES ? (ssize_t)frame_bytes_max : H2_FRAME_BYTES;
}

void h2_body_set_callbacks(nghttp2_session_callbacks *callbacks)
{
    nghttp2_session_callbacks_set_send_data_callback(callbacks, on_send_data);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, on_frame_length);
}

/* ---- The end ---- */

static void append_u32(struct buffer *out, uint32_t value)
{
    for (int shift = 24; shift >= 0; shift -= 8) {
        buffer_append_byte(out, (uint8_t)(value >> shift));
    }
}

/* By hand: the session cannot any more. */
static void append_goaway(struct buffer *out, int32_t last_stream, uint32_t code)
{
    static const uint8_t frame[] = {0, 0, 8, NGHTTP2_GOAWAY, 0, 0, 0, 0, 0};
    buffer_append(out, frame, sizeof(frame));
    append_u32(out, (uint32_t)last_stream);
    append_u32(out, code);
}

static void send_out(struct h2_link *link)
{
    if (link->out.used + link->appended > 0) {
        link->wire.write(link->out.data, link->out.used, link->context);
    }
    link->out.used = link->appended = 0;
}

int h2_link_pull(struct h2_link *link)
{
    ssize_t length = 0;
    while (!link->is_dead && length >= 0 && link->wire.waiting(link->context) < WIRE_HIGH) {
        const uint8_t *bytes = NULL;
        while (link->out.used + link->appended < WIRE_PIECE &&
               (length = nghttp2_session_mem_send(link->session, &bytes)) > 0) {
            buffer_append(&link->out, bytes, (size_t)length);
        }
        if (link->out.used + link->appended == 0) {
            break;
        }
        send_out(link);
    }
    return length < 0 ? (int)length : 0;
}

void h2_link_die(struct h2_link *link, uint32_t code)
{
    if (!link->is_dead) {
        link->is_dead = true;
        append_goaway(&link->out, nghttp2_session_get_last_proc_stream_id(link->session), code);
        send_out(link);
    }
}

void h2_link_done(struct h2_link *link)
{
    nghttp2_session_del(link->session);
    buffer_done(&link->out);
}

uint32_t h2_code_of(int library_error)
{
    switch (library_error) {
    case NGHTTP2_ERR_FLOODED:
    case NGHTTP2_ERR_CALLBACK_FAILURE: /* ours fail when the guard has had enough */
    case NGHTTP2_ERR_TOO_MANY_CONTINUATIONS:
        return NGHTTP2_ENHANCE_YOUR_CALM;
    default:
        return NGHTTP2_PROTOCOL_ERROR;
    }
}
