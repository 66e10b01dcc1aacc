/* Who is believed: authorities, pins, names, identities, expiry; and protocols. */
#include <pthread.h>
#include <stdatomic.h>

#include "base/stream/inside.h"

#include "test/unit/base/stream/support.h"

static struct authority ours;
static struct authority other;
static struct holder node1;

static void begin(void)
{
    authority_make(&ours);
    authority_make(&other);
    holder_make(&node1, &ours, "node/1", true, true);
}

static void end(void)
{
    holder_done(&node1);
    authority_done(&ours);
    authority_done(&other);
}

TEST(tls, tells_each_end_who_the_other_is)
{
    struct pair pair;
    struct holder visitor;
    begin();
    holder_make(&visitor, &ours, "client/ann", false, true);
    struct tls_context *server = context_make(&node1, &ours, TLS_VERIFY_REQUIRED);
    struct tls_context *client = context_make(&visitor, &ours, TLS_VERIFY_REQUIRED);
    pair_begin(&pair, server, "h2 http/1.1");
    pair_connect(&pair,
                 &(struct stream_dial_options){.tls = client,
                                               .protocols = "other http/1.1 h2",
                                               .server_name = "localhost",
                                               .identity = "spiffe://test/node/1"});
    EXPECT_STRING(stream_peer(pair.client.stream)->identity, "spiffe://test/node/1");
    EXPECT_STRING(stream_peer(pair.server.stream)->identity, "spiffe://test/client/ann");
    EXPECT(strlen(stream_peer(pair.server.stream)->fingerprint) == 64);
    EXPECT(stream_peer(pair.server.stream)->expires_ms > 0);
    EXPECT_STRING(stream_protocol(pair.client.stream), "h2"); /* the server's preference */
    EXPECT_STRING(stream_protocol(pair.server.stream), "h2");
    pair_end(&pair);
    tls_context_unref(server);
    tls_context_unref(client);
    holder_done(&visitor);
    end();
}

/* What the client expects of a server that shows node1. */
static enum error_kind dial_with(struct tls_context *server, struct tls_context *client,
                                 const struct stream_dial_options *more)
{
    struct pair pair;
    struct stream_dial_options options = *more;
    options.tls = client;
    pair_begin(&pair, server, "h2");
    pair_connect(&pair, &options);
    if (pair.client.stream != NULL && pair.server.stream == NULL) {
        RUN_UNTIL(&pair, pair.client.ended);
    }
    enum error_kind kind = pair.client.error.kind;
    EXPECT(server == NULL || (pair.accepted == 1) == (kind == ERROR_NONE));
    pair_end(&pair);
    return kind;
}

TEST(tls, believes_no_server_but_the_one_it_wants)
{
    begin();
    struct holder guest;
    struct holder late;
    holder_make(&guest, &ours, "client/bob", false, true);
    holder_make(&late, &ours, "node/1", true, false);
    struct tls_context *server = context_make(&node1, &ours, TLS_VERIFY_REQUIRED);
    struct tls_context *client = context_make(&node1, &ours, TLS_VERIFY_REQUIRED);
    struct tls_context *foreign = context_make(&node1, &other, TLS_VERIFY_REQUIRED);
    struct tls_context *not_server = context_make(&guest, &ours, TLS_VERIFY_OPTIONAL);
    struct tls_context *expired = context_make(&late, &ours, TLS_VERIFY_OPTIONAL);
#define DIAL(server, client, ...) \
    dial_with(server, client, &(struct stream_dial_options){__VA_ARGS__})
    EXPECT(DIAL(server, client, .identity = "spiffe://test/node/1") == ERROR_NONE);
    EXPECT(DIAL(server, client, .server_name = "127.0.0.1") == ERROR_NONE);
    EXPECT(DIAL(server, client, .protocols = "h2") == ERROR_NONE);
    EXPECT(DIAL(server, client, .identity = "spiffe://test/node/11") == ERROR_DENIED);
    EXPECT(DIAL(server, client, .identity = "") == ERROR_DENIED);
    EXPECT(DIAL(server, client, .server_name = "elsewhere") == ERROR_DENIED);
    EXPECT(DIAL(server, client, .server_name = "127.0.0.2") == ERROR_DENIED);
    EXPECT(DIAL(server, client, .server_name = "Test") == ERROR_DENIED);
    EXPECT(DIAL(server, client, .protocols = "http/1.1") == ERROR_PROTOCOL);
    EXPECT(DIAL(server, client, .protocols = "a  b") == ERROR_INVALID);
    EXPECT(DIAL(server, foreign, .identity = NULL) == ERROR_DENIED);
    EXPECT(DIAL(not_server, client, .identity = NULL) == ERROR_DENIED);
    EXPECT(DIAL(expired, client, .identity = NULL) == ERROR_DENIED);
    EXPECT(DIAL(NULL, client, .timeout_ms = 50) == ERROR_TIMEOUT);
    struct tls_context *const contexts[] = {server, client, foreign, not_server, expired};
    for (size_t i = 0; i < sizeof(contexts) / sizeof(contexts[0]); i++) {
        tls_context_unref(contexts[i]);
    }
    holder_done(&guest);
    holder_done(&late);
    end();
}

/* Whoever reads it is to look at the clock first. */
TEST(tls, a_certificate_out_of_its_time_is_told_with_the_time)
{
    begin();
    struct pair pair;
    struct holder late;
    holder_make(&late, &ours, "node/1", true, false);
    struct tls_context *expired = context_make(&late, &ours, TLS_VERIFY_OPTIONAL);
    struct tls_context *client = context_make(&node1, &ours, TLS_VERIFY_REQUIRED);
    pair_begin(&pair, expired, NULL);
    pair_connect(&pair, &(struct stream_dial_options){.tls = client});
    EXPECT(pair.client.error.kind == ERROR_DENIED);
    EXPECT(strstr(pair.client.error.text, "has expired (by the clock of this machine") != NULL);
    pair_end(&pair);
    tls_context_unref(expired);
    tls_context_unref(client);
    holder_done(&late);
    end();
}

TEST(tls, lets_in_only_clients_that_the_authority_signed)
{
    begin();
    struct holder stranger;
    struct holder late;
    holder_make(&stranger, &other, "node/1", true, true);
    holder_make(&late, &ours, "node/2", true, false);
    struct tls_context *required = context_make(&node1, &ours, TLS_VERIFY_REQUIRED);
    struct tls_context *optional = context_make(&node1, &ours, TLS_VERIFY_OPTIONAL);
    struct tls_context *good = context_make(&node1, &ours, TLS_VERIFY_REQUIRED);
    struct tls_context *bare = context_make(NULL, &ours, TLS_VERIFY_REQUIRED);
    struct tls_context *foreign = context_make(&stranger, &ours, TLS_VERIFY_REQUIRED);
    struct tls_context *expired = context_make(&late, &ours, TLS_VERIFY_REQUIRED);
    EXPECT(DIAL(required, good, .identity = NULL) == ERROR_NONE);
    EXPECT(DIAL(required, bare, .identity = NULL) == ERROR_DENIED);
    EXPECT(DIAL(required, foreign, .identity = NULL) == ERROR_DENIED);
    EXPECT(DIAL(required, expired, .identity = NULL) == ERROR_DENIED);
    EXPECT(DIAL(optional, good, .identity = NULL) == ERROR_NONE);
    EXPECT(DIAL(optional, bare, .identity = NULL) == ERROR_NONE);
    EXPECT(DIAL(optional, foreign, .identity = NULL) == ERROR_DENIED);
    struct pair pair;
    pair_begin(&pair, optional, NULL);
    pair_connect(&pair, &(struct stream_dial_options){.tls = bare});
    EXPECT(stream_peer(pair.server.stream) == NULL && stream_peer(pair.client.stream) != NULL);
    pair_end(&pair);
    struct tls_context *const contexts[] = {required, optional, good, bare, foreign, expired};
    for (size_t i = 0; i < sizeof(contexts) / sizeof(contexts[0]); i++) {
        tls_context_unref(contexts[i]);
    }
    holder_done(&stranger);
    holder_done(&late);
    end();
}

/* Goal: who joins knows the authority by its fingerprint alone. */
TEST(tls, believes_the_authority_that_is_pinned)
{
    begin();
    struct holder late;
    holder_make(&late, &ours, "node/1", true, false);
    struct tls_context *server = context_make(&node1, &ours, TLS_VERIFY_OPTIONAL);
    struct tls_context *expired = context_make(&late, &ours, TLS_VERIFY_OPTIONAL);
    struct tls_context *pinned = context_make(NULL, &ours, TLS_VERIFY_PIN);
    struct tls_context *mistaken = context_make(NULL, &other, TLS_VERIFY_PIN);
    struct tls_context *impostor = NULL;
    struct error err = {0};
    /* The leaf of another authority, with ours shown behind it. */
    struct holder forged;
    holder_make(&forged, &other, "node/1", true, true);
    impostor = context_make(&forged, &ours, TLS_VERIFY_OPTIONAL);
    EXPECT(DIAL(server, pinned, .identity = "spiffe://test/node/1") == ERROR_NONE);
    EXPECT(DIAL(server, pinned, .identity = "spiffe://test/node/2") == ERROR_DENIED);
    EXPECT(DIAL(server, mistaken, .identity = NULL) == ERROR_DENIED);
    EXPECT(DIAL(expired, pinned, .identity = NULL) == ERROR_DENIED);
    EXPECT(DIAL(impostor, pinned, .identity = NULL) == ERROR_DENIED);
    struct tls_context *none = NULL;
    struct tls_context_options bad = {.verify = TLS_VERIFY_PIN, .pin = "abc"};
    EXPECT(tls_context_new(&bad, &none, &err) == -ERROR_INVALID && none == NULL);
    bad.pin = NULL;
    EXPECT(tls_context_new(&bad, &none, &err) == -ERROR_INVALID);
    struct tls_context *const contexts[] = {server, expired, pinned, mistaken, impostor};
    for (size_t i = 0; i < sizeof(contexts) / sizeof(contexts[0]); i++) {
        tls_context_unref(contexts[i]);
    }
    holder_done(&forged);
    holder_done(&late);
    end();
}

TEST(tls, takes_only_certificates_with_their_keys)
{
    begin();
    struct holder second;
    struct error err = {0};
    struct tls_context *context = NULL;
    holder_make(&second, &ours, "node/2", true, true);
    struct tls_context_options options = context_options(&node1, &ours, TLS_VERIFY_REQUIRED);
    options.key = buffer_string(&second.key);
    EXPECT(tls_context_new(&options, &context, &err) == -ERROR_INVALID);
    options.key = "no key";
    EXPECT(tls_context_new(&options, &context, &err) == -ERROR_INVALID);
    options.key = NULL;
    EXPECT(tls_context_new(&options, &context, &err) == -ERROR_INVALID);
    options = context_options(&node1, &ours, TLS_VERIFY_REQUIRED);
    options.certificate = buffer_string(&node1.key);
    EXPECT(tls_context_new(&options, &context, &err) == -ERROR_INVALID);
    options = context_options(&node1, &ours, TLS_VERIFY_REQUIRED);
    options.authority = "";
    EXPECT(tls_context_new(&options, &context, &err) == -ERROR_INVALID && context == NULL);
    holder_done(&second);
    end();
}

/* Goal: a new certificate is shown to who comes next; who is connected notices nothing. */
TEST(tls, updates_while_connected)
{
    struct pair pair;
    struct holder second;
    struct error err = {0};
    begin();
    holder_make(&second, &ours, "node/2", true, true);
    struct tls_context *server = context_make(&node1, &ours, TLS_VERIFY_REQUIRED);
    struct tls_context *client = context_make(&node1, &ours, TLS_VERIFY_REQUIRED);
    const struct stream_dial_options options = {.tls = client};
    pair_begin(&pair, server, NULL);
    pair_connect(&pair, &options);
    EXPECT_STRING(stream_peer(pair.client.stream)->identity, "spiffe://test/node/1");
    const struct tls_context_options bad = {.certificate = "", .key = "", .authority = ""};
    EXPECT(tls_context_update(server, &bad, &err) == -ERROR_INVALID);
    const struct tls_context_options next = context_options(&second, &ours, TLS_VERIFY_REQUIRED);
    EXPECT(tls_context_update(server, &next, &err) == 0);
    stream_write(pair.client.stream, "still", 5);
    RUN_UNTIL(&pair, pair.server.heard_bytes == 5);
    pair_hang_up(&pair);
    pair_connect(&pair, &options);
    EXPECT_STRING(stream_peer(pair.client.stream)->identity, "spiffe://test/node/2");
    pair_end(&pair);
    tls_context_unref(server);
    tls_context_unref(client);
    holder_done(&second);
    end();
}

/* ---- Threads ---- */

enum { SHAKERS = 3, UPDATES = 50 };

static struct tls_context *shared;
static atomic_int shaken;

static void carry(struct tls_session *from, struct tls_session *to)
{
    buffer_append(&to->in, from->out.data, from->out.used);
    from->out.used = 0;
}

/* Hands shaken in memory, again and again, with whatever the context shows just now. */
static void *shake_hands(void *argument)
{
    struct error err = {0};
    while (atomic_load(&shaken) < UPDATES) {
        struct tls_session *ends[2];
        for (int i = 0; i < 2; i++) {
            const struct tls_session_terms terms = {.is_server = i == 1, .protocols = "h2"};
            EXPECT(tls_session_new(shared, &terms, &ends[i], &err) == 0);
        }
        for (int i = 0; !ends[0]->is_shaken || !ends[1]->is_shaken; i ^= 1) {
            EXPECT(ends[i]->is_shaken || tls_session_shake(ends[i], &err) >= 0);
            tls_session_tidy(ends[i]);
            carry(ends[i], ends[i ^ 1]);
        }
        EXPECT(ends[0]->has_peer && ends[1]->has_peer);
        tls_session_free(ends[0]);
        tls_session_free(ends[1]);
        atomic_fetch_add(&shaken, 1);
    }
    return argument;
}

TEST(tls, is_shared_by_threads_while_it_is_updated)
{
    struct error err = {0};
    struct holder second;
    pthread_t threads[SHAKERS];
    begin();
    holder_make(&second, &ours, "node/2", true, true);
    const struct tls_context_options one = context_options(&node1, &ours, TLS_VERIFY_REQUIRED);
    const struct tls_context_options two = context_options(&second, &ours, TLS_VERIFY_REQUIRED);
    shared = context_make(&node1, &ours, TLS_VERIFY_REQUIRED);
    for (int i = 0; i < SHAKERS; i++) {
        EXPECT(pthread_create(&threads[i], NULL, shake_hands, NULL) == 0);
    }
    for (int i = 0; i < UPDATES || atomic_load(&shaken) < UPDATES; i++) {
        EXPECT(tls_context_update(shared, i % 2 == 0 ? &two : &one, &err) == 0);
    }
    for (int i = 0; i < SHAKERS; i++) {
        pthread_join(threads[i], NULL);
    }
    tls_context_unref(shared);
    holder_done(&second);
    end();
}
