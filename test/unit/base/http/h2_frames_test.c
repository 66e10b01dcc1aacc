/*
 * What no client of good will sends to a server of HTTP/2: frames put together by hand.  Each
 * attack ends with the connection, after as many frames as the header says and not many more.
 */
#include <nghttp2/nghttp2.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/connection.h"
#include "base/http/h2.h"
#include "base/loop/loop.h"

#include "test/lib/test.h"

enum { NOW = 1000 };

static struct loop *loop;
static struct http_server *server;
static struct h2_server *h2;
static struct buffer sent;
static bool finished;
static unsigned handled;

static void serve(struct http_exchange *exchange, void *context)
{
    (void)context;
    handled++;
    if (text_equal(http_exchange_path(exchange), "/hold")) {
        http_exchange_unref(exchange);
        return;
    }
    http_exchange_respond(exchange, 200, "x", 1);
    http_exchange_unref(exchange);
}

static void wire_write(const void *bytes, size_t length, void *context)
{
    (void)context;
    buffer_append(&sent, bytes, length);
}

static size_t wire_waiting(void *context)
{
    (void)context;
    return 0;
}

static void wire_finish(void *context)
{
    (void)context;
    finished = true;
}

/* ---- Frames ---- */

static void add_frame(struct buffer *out, uint8_t type, uint8_t flags, uint32_t stream,
                      const void *payload, size_t length)
{
    const uint8_t head[] = {(uint8_t)(length >> 16),
                            (uint8_t)(length >> 8),
                            (uint8_t)length,
                            type,
                            flags,
                            (uint8_t)(stream >> 24),
                            (uint8_t)(stream >> 16),
                            (uint8_t)(stream >> 8),
                            (uint8_t)stream};
    buffer_append(out, head, sizeof(head));
    buffer_append(out, payload, length);
}

static void send_frame(uint8_t type, uint8_t flags, uint32_t stream, const void *payload,
                       size_t length)
{
    BUFFER_OWNED struct buffer frame = {0};
    add_frame(&frame, type, flags, stream, payload, length);
    h2_server_receive(h2, frame.data, frame.used, NOW);
}

/* An integer with a prefix of 7 bits (RFC 7541, 5.1). */
static void add_length(struct buffer *block, size_t length)
{
    if (length < 127) {
        buffer_append_byte(block, (uint8_t)length);
        return;
    }
    buffer_append_byte(block, 127);
    for (length -= 127; length >= 128; length /= 128) {
        buffer_append_byte(block, (uint8_t)(128 + length % 128));
    }
    buffer_append_byte(block, (uint8_t)length);
}

/* A literal field without indexing, not squeezed (RFC 7541, 6.2.2). */
static void add_field(struct buffer *block, const char *name, const char *value)
{
    buffer_append_byte(block, 0);
    add_length(block, strlen(name));
    buffer_append_string(block, name);
    add_length(block, strlen(value));
    buffer_append_string(block, value);
}

static void add_request(struct buffer *block, const char *path)
{
    add_field(block, ":method", "GET");
    add_field(block, ":scheme", "http");
    add_field(block, ":authority", "one.example");
    add_field(block, ":path", path);
}

/* The last frame of a type that the server sent; its payload, or NULL. */
static const uint8_t *sent_frame(uint8_t type)
{
    const uint8_t *found = NULL;
    size_t at = 0;
    while (at < sent.used) {
        EXPECT(sent.used - at >= 9);
        size_t length =
            ((size_t)sent.data[at] << 16) + ((size_t)sent.data[at + 1] << 8) + sent.data[at + 2];
        EXPECT(sent.used - at >= 9 + length);
        if (sent.data[at + 3] == type) {
            found = sent.data + at + 9;
        }
        at += 9 + length;
    }
    return found;
}

static uint32_t code_at(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static bool was_calmed(void)
{
    const uint8_t *goaway = sent_frame(NGHTTP2_GOAWAY);
    return finished && goaway != NULL && code_at(goaway + 4) == NGHTTP2_ENHANCE_YOUR_CALM;
}

static void begin(void)
{
    static const struct http_wire wire = {wire_write, wire_waiting, wire_finish, NULL};
    struct error err = {0};
    struct http_server_options options = http_server_defaults();
    finished = false;
    handled = 0;
    EXPECT(loop_new("h2", &loop, &err) == 0);
    EXPECT(http_server_new(loop, &options, serve, NULL, &server, &err) == 0);
    h2 = h2_server_new(server, &wire, NULL, "10.0.0.1:1", NULL, NOW);
    h2_server_receive(h2, h2_preface, H2_PREFACE_LENGTH, NOW);
    send_frame(NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    send_frame(NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, NULL, 0);
    EXPECT(!finished);
}

static void end(void)
{
    h2_server_free(h2);
    http_server_free(server);
    loop_free(loop);
    buffer_done(&sent);
}

/* ---- Requests that are none ---- */

/* Each in the place of a good request; NULL ends the fields.  `code` of RST_STREAM, or a status. */
struct bad {
    const char *fields[16];
    unsigned status;
};

static const struct bad bad_requests[] = {
    {{":scheme", "http", ":authority", "a", ":path", "/"}, 0},     /* no method */
    {{":method", "GET", ":authority", "a", ":path", "/"}, 0},      /* no scheme */
    {{":method", "GET", ":scheme", "http", ":authority", "a"}, 0}, /* no path */
    {{":method", "GET", ":scheme", "http", ":path", "/"}, 0},      /* no host */
    {{":method", "GET", ":scheme", "http", ":authority", "", ":path", "/"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a@b", ":path", "/"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "host", "b"}, 0},
    {{":method", "GET", ":scheme", "http", "host", "a", "host", "a", ":path", "/"}, 0},
    {{":method", "GET", ":scheme", "http", ":path", "/", "host", "a", "host", "a"}, 0},
    {{":method", "GET", ":scheme", "ftp", ":authority", "a", ":path", "/"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", ""}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "http://a/"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "*"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/a b"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/a#b"}, 0},
    {{":method", "G T", ":scheme", "http", ":authority", "a", ":path", "/"}, 0},
    {{":method", "GET", ":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", "x", "y", ":path", "/"},
     0}, /* order */
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", ":status", "200"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", ":other", "1"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "X", "1"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "x y", "1"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "", "1"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "x", "a\r\nb: c"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "x", "a\x01"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "x", " a"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "connection", "x"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "te", "gzip"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "upgrade", "h2c"}, 0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "transfer-encoding",
      "chunked"},
     0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "content-length", "1"},
     0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "content-length", "+0"},
     0},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "content-length", "0",
      "content-length", "0"},
     0},
    {{":method", "CONNECT", ":authority", "a:1"}, 400},
    {{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", "expect", "x"}, 417},
};

/* The status of the last answer, which is a literal or of the static table (RFC 7541, A). */
static unsigned sent_status(void)
{
    const uint8_t *block = sent_frame(NGHTTP2_HEADERS);
    nghttp2_hd_inflater *inflater;
    nghttp2_nv field;
    int flags = 0;
    EXPECT(block != NULL && nghttp2_hd_inflate_new(&inflater) == 0);
    size_t length = ((size_t)block[-9] << 16) + ((size_t)block[-8] << 8) + block[-7];
    EXPECT(nghttp2_hd_inflate_hd2(inflater, &field, &flags, block, length, 1) > 0);
    EXPECT((flags & NGHTTP2_HD_INFLATE_EMIT) != 0 && field.valuelen == 3);
    unsigned status = (unsigned)strtoul((const char *)field.value, NULL, 10);
    nghttp2_hd_inflate_del(inflater);
    return status;
}

TEST(h2_frames, refuses_what_is_no_request)
{
    for (size_t i = 0; i < sizeof(bad_requests) / sizeof(bad_requests[0]); i++) {
        const struct bad *bad = &bad_requests[i];
        BUFFER_OWNED struct buffer block = {0};
        begin();
        for (size_t at = 0; bad->fields[at] != NULL; at += 2) {
            add_field(&block, bad->fields[at], bad->fields[at + 1]);
        }
        send_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1,
                   block.data, block.used);
        const uint8_t *reset = sent_frame(NGHTTP2_RST_STREAM);
        bool is_good = bad->status != 0 ? sent_status() == bad->status
                                        : reset != NULL && code_at(reset) == NGHTTP2_PROTOCOL_ERROR;
        if (!is_good || handled != 0) {
            fprintf(stderr, "bad request %zu\n", i);
        }
        EXPECT(is_good && handled == 0 && !finished);
        EXPECT(server->counters.requests_refused == 1);
        end();
    }
}

TEST(h2_frames, refuses_data_that_is_not_as_long_as_was_said)
{
    static const size_t lengths[] = {1, 3};
    for (size_t i = 0; i < 2; i++) {
        BUFFER_OWNED struct buffer block = {0};
        begin();
        add_request(&block, "/hold");
        add_field(&block, "content-length", "2");
        send_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, block.data, block.used);
        send_frame(NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, 1, "xyz", lengths[i]);
        const uint8_t *reset = sent_frame(NGHTTP2_RST_STREAM);
        EXPECT(reset != NULL && code_at(reset) == NGHTTP2_PROTOCOL_ERROR);
        EXPECT(h2_server_streams(h2) == 0);
        end();
    }
}

/* Send a head of `count` fields of `length` bytes; returns the status that came, or 0. */
static unsigned status_of_head(size_t count, size_t length, size_t path_length)
{
    BUFFER_OWNED struct buffer block = {0};
    char *value = calloc(1, length + 1);
    char *path = calloc(1, path_length + 1);
    EXPECT(value != NULL && path != NULL);
    memset(value, 'v', length);
    memset(path, '/', path_length);
    begin();
    add_request(&block, path);
    for (size_t i = 0; i < count; i++) {
        add_field(&block, "x", value);
    }
    for (size_t at = 0; at < block.used; at += 16384) {
        size_t part = block.used - at < 16384 ? block.used - at : 16384;
        uint8_t flags = at + part == block.used ? NGHTTP2_FLAG_END_HEADERS : 0;
        send_frame(at == 0 ? NGHTTP2_HEADERS : NGHTTP2_CONTINUATION,
                   at == 0 ? flags | NGHTTP2_FLAG_END_STREAM : flags, 1, block.data + at, part);
    }
    unsigned status = finished ? 0 : sent_status();
    end();
    free(value);
    free(path);
    return status;
}

TEST(h2_frames, refuses_heads_beyond_the_limits)
{
    EXPECT(status_of_head(90, 10, 1) == 200);
    EXPECT(status_of_head(100, 10, 1) == 200);
    EXPECT(status_of_head(101, 10, 1) == 431);
    EXPECT(status_of_head(1, 65000, 1) == 200);
    EXPECT(status_of_head(2, 33000, 1) == 431);
    EXPECT(status_of_head(1, 10, 8192) == 200);
    EXPECT(status_of_head(1, 10, 8193) == 414);
    EXPECT(status_of_head(2, 100000, 1) == 0); /* this is no head any more */
}

/* A small block that unpacks to a large one: a field of the table, named again and again. */
TEST(h2_frames, a_block_that_unpacks_to_much_is_refused)
{
    BUFFER_OWNED struct buffer block = {0};
    char value[3001] = {0};
    begin();
    add_request(&block, "/");
    memset(value, 'v', sizeof(value) - 1);
    buffer_append_byte(&block, 0x40); /* literal, with indexing */
    add_length(&block, 1);
    buffer_append_string(&block, "x");
    add_length(&block, sizeof(value) - 1);
    buffer_append_string(&block, value);
    for (int i = 0; i < 10000; i++) {
        buffer_append_byte(&block, 0x80 | 62);
    }
    send_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 1, block.data,
               block.used);
    EXPECT(sent_status() == 431 && !finished);
    end();
}

/* ---- Floods ---- */

/* CVE-2023-44487: requests that are reset at once cost the server, and not the client. */
TEST(h2_frames, rapid_resets_end_the_connection)
{
    static const uint8_t cancel[] = {0, 0, 0, NGHTTP2_CANCEL};
    begin();
    unsigned count = 0;
    for (; count < 2000 && !finished; count++) {
        BUFFER_OWNED struct buffer block = {0};
        add_request(&block, "/hold");
        send_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM,
                   2 * count + 1, block.data, block.used);
        send_frame(NGHTTP2_RST_STREAM, 0, 2 * count + 1, cancel, sizeof(cancel));
    }
    EXPECT(count == 501 && was_calmed());
    end();
}

/* Those that come in one piece are not even begun. */
TEST(h2_frames, requests_reset_in_the_same_breath_reach_no_handler)
{
    static const uint8_t cancel[] = {0, 0, 0, NGHTTP2_CANCEL};
    BUFFER_OWNED struct buffer block = {0};
    BUFFER_OWNED struct buffer frames = {0};
    begin();
    add_request(&block, "/hold");
    for (unsigned i = 0; i < 100; i++) {
        add_frame(&frames, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 2 * i + 1, block.data,
                  block.used);
        add_frame(&frames, NGHTTP2_RST_STREAM, 0, 2 * i + 1, cancel, sizeof(cancel));
    }
    h2_server_receive(h2, frames.data, frames.used, NOW);
    EXPECT(handled == 0 && !finished && h2_server_streams(h2) == 0);
    end();
}

/* CVE-2025-8671: the same, with the server made to reset them. */
TEST(h2_frames, resets_that_the_client_provokes_count_as_its_own)
{
    static const uint8_t none[] = {0, 0, 0, 0};
    begin();
    unsigned count = 0;
    for (; count < 2000 && !finished; count++) {
        BUFFER_OWNED struct buffer block = {0};
        add_request(&block, "/hold");
        send_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM,
                   2 * count + 1, block.data, block.used);
        send_frame(NGHTTP2_WINDOW_UPDATE, 0, 2 * count + 1, none, sizeof(none));
    }
    EXPECT(count <= 501 && finished);
    end();
}

/* After a while, a few resets are as good as none. */
TEST(h2_frames, few_resets_at_a_time_are_no_attack)
{
    static const uint8_t cancel[] = {0, 0, 0, NGHTTP2_CANCEL};
    begin();
    for (unsigned i = 0; i < 900; i++) {
        BUFFER_OWNED struct buffer block = {0};
        add_request(&block, "/hold");
        send_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS | NGHTTP2_FLAG_END_STREAM, 2 * i + 1,
                   block.data, block.used);
        send_frame(NGHTTP2_RST_STREAM, 0, 2 * i + 1, cancel, sizeof(cancel));
        if (i == 450) {
            h2_server_tick(h2, NOW + 10000);
        }
    }
    EXPECT(!finished && handled == 900);
    end();
}

/* CVE-2024-27316: a head that never ends. */
TEST(h2_frames, a_head_without_end_ends_the_connection)
{
    BUFFER_OWNED struct buffer block = {0};
    begin();
    add_request(&block, "/");
    send_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM, 1, block.data, block.used);
    block.used = 0;
    add_field(&block, "x", "y");
    unsigned count = 0;
    for (; count < 100 && !finished; count++) {
        send_frame(NGHTTP2_CONTINUATION, 0, 1, block.data, block.used);
    }
    EXPECT(count <= 9 && was_calmed() && handled == 0);
    end();
}

TEST(h2_frames, a_head_that_stops_in_the_middle_is_not_waited_for)
{
    BUFFER_OWNED struct buffer block = {0};
    begin();
    add_request(&block, "/");
    send_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM, 1, block.data, block.used);
    h2_server_tick(h2, NOW + server->options.head_timeout_ms - 1);
    EXPECT(!finished);
    h2_server_tick(h2, NOW + server->options.head_timeout_ms);
    EXPECT(finished);
    end();
}

/* Send one frame again and again; returns how many the server took. */
static unsigned flood(uint8_t type, uint8_t flags, uint32_t stream, const void *payload,
                      size_t length)
{
    unsigned count = 0;
    while (count < 20000 && !finished) {
        send_frame(type, flags, stream, payload, length);
        count++;
    }
    return count;
}

TEST(h2_frames, floods_end_the_connection)
{
    static const uint8_t eight[8] = {0};
    static const uint8_t one[4] = {0, 0, 0, 1};
    static const uint8_t setting[6] = {0, 4, 0, 0, 255, 255};
    static const uint8_t priority[5] = {0, 0, 0, 0, 1};
    static const struct {
        uint8_t type;
        uint8_t flags;
        uint32_t stream;
        const uint8_t *payload;
        size_t length;
    } frames[] = {
        {NGHTTP2_PING, 0, 0, eight, 8},        {NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, eight, 8},
        {NGHTTP2_SETTINGS, 0, 0, setting, 6},  {NGHTTP2_SETTINGS, 0, 0, NULL, 0},
        {NGHTTP2_PRIORITY, 0, 3, priority, 5}, {NGHTTP2_WINDOW_UPDATE, 0, 0, one, 4},
        {NGHTTP2_DATA, 0, 1, NULL, 0},         {NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 1, eight, 1},
    };
    for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
        BUFFER_OWNED struct buffer block = {0};
        begin();
        add_request(&block, "/hold");
        send_frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, block.data, block.used);
        unsigned count = flood(frames[i].type, frames[i].flags, frames[i].stream, frames[i].payload,
                               frames[i].length);
        if (count > 2001 || !was_calmed()) {
            fprintf(stderr, "flood %zu: %u\n", i, count);
        }
        EXPECT(count <= 2001 && was_calmed());
        end();
    }
}

TEST(h2_frames, what_is_no_http2_is_left)
{
    static const char *const beginnings[] = {"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                                             "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nno frame at all"};
    for (size_t i = 0; i < 2; i++) {
        static const struct http_wire wire = {wire_write, wire_waiting, wire_finish, NULL};
        begin();
        h2_server_free(h2);
        h2 = h2_server_new(server, &wire, NULL, "10.0.0.1:1", NULL, NOW);
        h2_server_receive(h2, beginnings[i], strlen(beginnings[i]), NOW);
        EXPECT(finished && sent_frame(NGHTTP2_GOAWAY) != NULL && handled == 0);
        end();
    }
}

/*
 * Goal: what is said once does not take the place of what will be said again.
 * Method: the table of an encoder before and after.
 */
TEST(h2_frames, a_value_that_is_another_one_each_time_is_not_kept_in_the_table)
{
    struct h2_fields fields = {0};
    nghttp2_hd_deflater *deflater = NULL;
    uint8_t block[256];
    EXPECT(nghttp2_hd_deflate_new(&deflater, 4096) == 0);
    size_t empty = nghttp2_hd_deflate_get_dynamic_table_size(deflater);
    h2_fields_add(&fields, text_of("Traceparent", 11), text_of("00-1-2-01", 9));
    h2_fields_add(&fields, text_of("x-request-id", 12), text_of("7", 1));
    EXPECT(nghttp2_hd_deflate_hd(deflater, block, sizeof(block), fields.at, fields.count) > 0);
    EXPECT(nghttp2_hd_deflate_get_dynamic_table_size(deflater) == empty);
    fields.count = 0;
    h2_fields_add(&fields, text_of("x-request-ids", 13), text_of("7", 1));
    EXPECT(nghttp2_hd_deflate_hd(deflater, block, sizeof(block), fields.at, fields.count) > 0);
    EXPECT(nghttp2_hd_deflate_get_dynamic_table_size(deflater) > empty);
    nghttp2_hd_deflate_del(deflater);
    free(fields.at);
}
