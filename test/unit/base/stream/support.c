#include "test/unit/base/stream/support.h"

#include <signal.h>

#include "base/certificate.h"
#include "base/clock.h"
#include "base/memory.h"

enum { HOUR_MS = 60 * 60 * 1000, DAY_MS = 24 * HOUR_MS };

void authority_make(struct authority *authority)
{
    struct error err = {0};
    struct certificate_info info;
    *authority = (struct authority){0};
    EXPECT(certificate_make_authority("Test", "spiffe://test", 10, &authority->certificate,
                                      &authority->key, &err) == 0);
    EXPECT(certificate_read(buffer_string(&authority->certificate), &info, &err) == 0);
    memcpy(authority->fingerprint, info.fingerprint, sizeof(authority->fingerprint));
}

void authority_done(struct authority *authority)
{
    buffer_done(&authority->certificate);
    buffer_done(&authority->key);
}

void holder_make(struct holder *holder, struct authority *authority, const char *name,
                 bool is_server, bool is_valid)
{
    static const char *const names[] = {"localhost", "127.0.0.1", NULL};
    struct error err = {0};
    BUFFER_OWNED struct buffer request = {0};
    MEMORY_OWNED char *uri = memory_format("spiffe://test/%s", name);
    const struct certificate_terms terms = {.common_name = name,
                                            .uri = uri,
                                            .names = names,
                                            .now_ms = clock_real_ms() - (is_valid ? 0 : 2 * DAY_MS),
                                            .lifetime_ms = DAY_MS,
                                            .is_server = is_server};
    *holder = (struct holder){0};
    EXPECT(certificate_make_request(&request, &holder->key, &err) == 0);
    EXPECT(certificate_sign(buffer_string(&request), buffer_string(&authority->certificate),
                            buffer_string(&authority->key), &terms, &holder->certificate,
                            &err) == 0);
}

void holder_done(struct holder *holder)
{
    buffer_done(&holder->certificate);
    buffer_done(&holder->key);
}

struct tls_context_options context_options(struct holder *holder, struct authority *authority,
                                           enum tls_verify verify)
{
    struct tls_context_options options = {.verify = verify};
    if (holder != NULL) {
        options.certificate = buffer_string(&holder->certificate);
        options.key = buffer_string(&holder->key);
    }
    if (authority != NULL && verify == TLS_VERIFY_PIN) {
        options.pin = authority->fingerprint;
    } else if (authority != NULL) {
        options.authority = buffer_string(&authority->certificate);
    }
    return options;
}

struct tls_context *context_make(struct holder *holder, struct authority *authority,
                                 enum tls_verify verify)
{
    struct error err = {0};
    struct tls_context *context = NULL;
    const struct tls_context_options options = context_options(holder, authority, verify);
    EXPECT(tls_context_new(&options, &context, &err) == 0);
    return context;
}

/* ---- Ends ---- */

static void on_data(const void *bytes, size_t length, void *context)
{
    struct end *end = context;
    EXPECT(!end->ended && length > 0);
    end->heard_bytes += length;
    if (end->keeps) {
        buffer_append(&end->heard, bytes, length);
    }
    if (end->pause_after > 0 && end->heard_bytes >= end->pause_after) {
        end->pause_after = 0;
        stream_pause(end->stream);
    }
}

static void on_drained(void *context)
{
    struct end *end = context;
    end->drained++;
}

static void on_end(const struct error *error, void *context)
{
    struct end *end = context;
    EXPECT(!end->ended);
    end->ended = true;
    if (error != NULL) {
        end->error = *error;
    }
}

static const struct stream_events events = {on_data, on_drained, on_end};

static void on_stream(struct stream *stream, void *context)
{
    struct pair *pair = context;
    EXPECT(pair->server.stream == NULL);
    pair->accepted++;
    pair->server.stream = stream;
    stream_start(stream, &events, &pair->server);
}

static void on_dialled(struct stream *stream, const struct error *error, void *context)
{
    struct pair *pair = context;
    EXPECT((stream == NULL) == (error != NULL));
    pair->client.done = true;
    pair->client.stream = stream;
    if (error != NULL) {
        pair->client.error = *error;
    } else {
        stream_start(stream, &events, &pair->client);
    }
}

void end_done(struct end *end)
{
    stream_close(end->stream);
    buffer_done(&end->heard);
    *end = (struct end){.keeps = true};
}

void pair_begin(struct pair *pair, struct tls_context *server, const char *protocols)
{
    struct error err = {0};
    signal(SIGPIPE, SIG_IGN);
    *pair = (struct pair){.server = {.keeps = true}, .client = {.keeps = true}};
    EXPECT(loop_new("pair", &pair->loop, &err) == 0);
    EXPECT(stream_listen(pair->loop, "127.0.0.1:0", server, protocols, on_stream, pair,
                         &pair->listener, &pair->port, &err) == 0);
    snprintf(pair->address, sizeof(pair->address), "127.0.0.1:%u", pair->port);
}

void pair_dial(struct pair *pair, const struct stream_dial_options *options)
{
    stream_dial(pair->loop, pair->address, options, on_dialled, pair);
}

void pair_connect(struct pair *pair, const struct stream_dial_options *options)
{
    size_t before = pair->accepted;
    pair_dial(pair, options);
    RUN_UNTIL(pair, pair->client.done);
    if (pair->client.stream != NULL) {
        RUN_UNTIL(pair, pair->accepted > before || pair->client.ended);
    }
}

void pair_hang_up(struct pair *pair)
{
    end_done(&pair->server);
    end_done(&pair->client);
}

void pair_end(struct pair *pair)
{
    pair_hang_up(pair);
    stream_listener_close(pair->listener);
    loop_free(pair->loop);
}
