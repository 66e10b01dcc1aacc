/*
 * What somebody on the way may do to a TLS connection, and what a peer may say instead of TLS.
 *
 * The first byte chooses: the input is said to a server, or to a client, as it is; or it is a row
 * of harms (4 bytes each: where, how, what with) to the bytes of two ends that speak to each other.
 * Claims: no byte outside is read; an end that is not given what its peer said, in order, fails or
 * waits and lends nothing else; a stream that is cut is never one that has ended; what an end keeps
 * and what it answers stay small.
 */
#include <stdint.h>
#include <string.h>

#include "base/certificate.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/stream/inside.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ANSWER_MAX = 65536, KEPT_MAX = 65536, TURNS_MAX = 16, HARMS_MAX = 8 };

static const char said[] = "what the client said";

static struct tls_context *server_context;
static struct tls_context *client_context;

static void prepare(void)
{
    static const char uri[] = "spiffe://fuzz/node/1";
    struct buffer authority = {0};
    struct buffer authority_key = {0};
    struct buffer request = {0};
    struct buffer key = {0};
    struct buffer certificate = {0};
    struct error err = {0};
    const struct certificate_terms terms = {.common_name = "fuzz",
                                            .uri = uri,
                                            .now_ms = clock_real_ms(),
                                            .lifetime_ms = UINT64_C(864000000),
                                            .is_server = true};
    CHECK(certificate_make_authority("Fuzz", "spiffe://fuzz", 30, &authority, &authority_key,
                                     &err) == 0);
    CHECK(certificate_make_request(&request, &key, &err) == 0);
    CHECK(certificate_sign(buffer_string(&request), buffer_string(&authority),
                           buffer_string(&authority_key), &terms, &certificate, &err) == 0);
    const struct tls_context_options options = {.certificate = buffer_string(&certificate),
                                                .key = buffer_string(&key),
                                                .authority = buffer_string(&authority),
                                                .verify = TLS_VERIFY_REQUIRED};
    CHECK(tls_context_new(&options, &server_context, &err) == 0);
    CHECK(tls_context_new(&options, &client_context, &err) == 0);
    struct buffer *const texts[] = {&authority, &authority_key, &request, &key, &certificate};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        buffer_done(texts[i]);
    }
}

/* One end, and what has become of it. */
struct end {
    struct tls_session *session;
    struct buffer heard;
    bool failed;
    bool ended;
    bool has_said;
};

static struct end end_new(bool is_server)
{
    struct end end = {0};
    struct error err = {0};
    const struct tls_session_terms terms = {.is_server = is_server,
                                            .protocols = "h2 http/1.1",
                                            .identity = is_server ? NULL : "spiffe://fuzz/node/1"};
    CHECK(tls_session_new(is_server ? server_context : client_context, &terms, &end.session,
                          &err) == 0);
    return end;
}

static void end_done(struct end *end)
{
    tls_session_free(end->session);
    buffer_done(&end->heard);
}

/* As a stream does with what it has received. */
static void turn(struct end *end)
{
    uint8_t bytes[16384];
    struct error err = {0};
    if (!end->failed && !end->session->is_shaken) {
        end->failed = tls_session_shake(end->session, &err) < 0;
    }
    while (!end->failed && !end->ended && end->session->is_shaken) {
        int r = tls_session_read(end->session, bytes, sizeof(bytes), &err);
        if (r == TLS_SESSION_WAITS) {
            break;
        }
        end->ended = r == TLS_SESSION_ENDED;
        end->failed = r < 0;
        if (r > 0) {
            buffer_append(&end->heard, bytes, (size_t)r);
        }
    }
    CHECK(!end->failed || err.kind == ERROR_PROTOCOL || err.kind == ERROR_DENIED ||
          err.kind == ERROR_NONE);
    tls_session_tidy(end->session);
    if (end->failed) {
        end->session->in.used = end->session->taken = 0;
    }
    CHECK(end->session->out.used <= ANSWER_MAX && end->session->in.used <= KEPT_MAX);
}

static void say_alone(bool is_server, const uint8_t *data, size_t size)
{
    struct end end = end_new(is_server);
    turn(&end);
    while (size > 0) {
        size_t part = size > 1 ? (size_t)data[0] * 16 + 1 : 1;
        part = part < size ? part : size;
        buffer_append(&end.session->in, data, part);
        data += part;
        size -= part;
        turn(&end);
        end.session->out.used = 0;
    }
    CHECK(end.heard.used == 0 && !end.ended && !end.session->has_peer);
    end_done(&end);
}

/* One harm to the bytes on their way; false: they are as they were. */
static bool harm(struct buffer *bytes, const uint8_t *how)
{
    size_t at = (size_t)(how[0] | how[1] << 8);
    if (at >= bytes->used) {
        return false;
    }
    switch (how[2] % 4) {
    case 0:
        bytes->data[at] ^= how[3];
        return how[3] != 0;
    case 1:
        bytes->used = at; /* cut */
        return true;
    case 2:
        buffer_reserve(bytes, 1);
        memmove(bytes->data + at + 1, bytes->data + at, bytes->used - at);
        bytes->data[at] = how[3];
        bytes->used++;
        return true;
    default: /* twice */
        buffer_reserve(bytes, bytes->used - at);
        memcpy(bytes->data + bytes->used, bytes->data + at, bytes->used - at);
        bytes->used += bytes->used - at;
        return true;
    }
}

static void carry(struct end *from, struct end *to)
{
    buffer_append(&to->session->in, from->session->out.data, from->session->out.used);
    from->session->out.used = 0;
}

static void say_to_each_other(const uint8_t *data, size_t size)
{
    struct end server = end_new(true);
    struct end client = end_new(false);
    size_t harms = size / 5 < HARMS_MAX ? size / 5 : HARMS_MAX;
    bool harmed = false;
    for (uint8_t i = 0; i < TURNS_MAX; i++) {
        struct end *from = i % 2 == 0 ? &client : &server;
        struct end *to = i % 2 == 0 ? &server : &client;
        struct error err = {0};
        turn(from);
        if (from == &client && !client.failed && client.session->is_shaken && !client.has_said) {
            client.has_said = true;
            client.failed = tls_session_write(client.session, said, sizeof(said), &err) < 0;
            tls_session_end(client.session);
        }
        for (size_t j = 0; j < harms; j++) {
            if (data[j * 5] % TURNS_MAX == i) {
                harmed = harm(&from->session->out, data + j * 5 + 1) || harmed;
            }
        }
        carry(from, to);
    }
    CHECK(server.heard.used <= sizeof(said));
    CHECK(server.heard.used == 0 || memcmp(server.heard.data, said, server.heard.used) == 0);
    CHECK(!server.ended || server.heard.used == sizeof(said));
    CHECK(harmed || (server.ended && server.session->has_peer && client.session->has_peer));
    CHECK(client.heard.used == 0 && !client.ended);
    end_done(&server);
    end_done(&client);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (server_context == NULL) {
        prepare();
    }
    if (size < 1 || size > 1 << 20) {
        return 0;
    }
    if (data[0] % 3 == 2) {
        say_to_each_other(data + 1, size - 1);
    } else {
        say_alone(data[0] % 3 == 0, data + 1, size - 1);
    }
    return 0;
}
