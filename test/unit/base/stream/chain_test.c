/* Certificates that are taken at the handshake and judged afterwards. */
#include "base/stream/inside.h"

#include "test/unit/base/stream/support.h"

struct scene {
    struct authority ours;
    struct authority other;
    struct holder server;
    struct tls_context *context;
    struct pair pair;
    char name[64];
    bool asks;
};

static bool asks(const char *name, void *context)
{
    struct scene *scene = context;
    snprintf(scene->name, sizeof(scene->name), "%s", name);
    return scene->asks;
}

static void begin(struct scene *scene)
{
    struct error err = {0};
    authority_make(&scene->ours);
    authority_make(&scene->other);
    holder_make(&scene->server, &scene->ours, "node/1", true, true);
    struct tls_context_options options = context_options(&scene->server, NULL, TLS_VERIFY_LATER);
    options.asks = asks;
    options.context = scene;
    EXPECT(tls_context_new(&options, &scene->context, &err) == 0);
    scene->asks = true;
}

static void end(struct scene *scene)
{
    tls_context_unref(scene->context);
    holder_done(&scene->server);
    authority_done(&scene->ours);
    authority_done(&scene->other);
}

/* What a client with this certificate has shown, and whether it was asked; NULL: nothing. */
static struct tls_chain *shown_by(struct scene *scene, struct holder *holder, bool *ret_asked)
{
    struct tls_context *client = context_make(holder, &scene->ours, TLS_VERIFY_REQUIRED);
    pair_begin(&scene->pair, scene->context, "h2 http/1.1");
    pair_connect(&scene->pair,
                 &(struct stream_dial_options){.tls = client, .server_name = "localhost"});
    const struct tls_peer *peer = stream_peer(scene->pair.server.stream);
    EXPECT((peer == NULL) == (holder == NULL || !scene->asks));
    EXPECT(peer == NULL || strlen(peer->fingerprint) == 64);
    struct tls_chain *chain = tls_chain_ref(peer != NULL ? peer->chain : NULL);
    *ret_asked = stream_asked(scene->pair.server.stream);
    pair_end(&scene->pair);
    tls_context_unref(client);
    return chain;
}

static enum error_kind judged(struct scene *scene, const struct authority *authority,
                              struct holder *owned_holder, char ret_subject[TLS_SUBJECT_SIZE])
{
    struct error err = {0};
    struct tls_authority *trusted = NULL;
    bool was_asked = false;
    struct buffer text = authority->certificate;
    EXPECT(tls_authority_new(buffer_string(&text), &trusted, &err) == 0);
    struct tls_chain *chain = shown_by(scene, owned_holder, &was_asked);
    EXPECT(chain != NULL && was_asked);
    int r = tls_authority_judge(trusted, chain, ret_subject, &err);
    EXPECT(r == -(int)err.kind);
    tls_chain_unref(chain);
    tls_authority_free(trusted);
    holder_done(owned_holder);
    return err.kind;
}

TEST(chain, is_taken_from_anybody_and_judged_by_who_knows)
{
    struct scene scene = {0};
    struct holder holder;
    char subject[TLS_SUBJECT_SIZE] = "";
    begin(&scene);
    holder_make(&holder, &scene.ours, "ann+x", false, true);
    EXPECT(judged(&scene, &scene.ours, &holder, subject) == ERROR_NONE);
    EXPECT_STRING(subject, "CN=ann\\+x");
    EXPECT_STRING(scene.name, "localhost");
    holder_make(&holder, &scene.ours, "ann", false, true);
    EXPECT(judged(&scene, &scene.other, &holder, subject) == ERROR_DENIED);
    holder_make(&holder, &scene.other, "ann", false, true);
    EXPECT(judged(&scene, &scene.ours, &holder, subject) == ERROR_DENIED);
    holder_make(&holder, &scene.ours, "ann", false, false);
    EXPECT(judged(&scene, &scene.ours, &holder, subject) == ERROR_DENIED);
    end(&scene);
}

TEST(chain, is_asked_for_only_where_somebody_wants_it)
{
    struct scene scene = {0};
    struct holder holder;
    bool was_asked = false;
    begin(&scene);
    EXPECT(shown_by(&scene, NULL, &was_asked) == NULL && was_asked);
    scene.asks = false;
    holder_make(&holder, &scene.ours, "ann", false, true);
    EXPECT(shown_by(&scene, &holder, &was_asked) == NULL && !was_asked);
    holder_done(&holder);
    end(&scene);
}

TEST(chain, authorities_are_certificates_and_nothing_else)
{
    struct scene scene = {0};
    struct tls_authority *authority = NULL;
    struct error err = {0};
    BUFFER_OWNED struct buffer text = {0};
    begin(&scene);
    EXPECT(tls_authority_new("", &authority, &err) == -ERROR_INVALID);
    EXPECT(tls_authority_new("hello", &authority, &err) == -ERROR_INVALID);
    EXPECT(tls_authority_new("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                             &authority, &err) == -ERROR_INVALID);
    const char *certificate = buffer_string(&scene.ours.certificate);
    buffer_append_string(&text, certificate);
    buffer_append_string(&text, buffer_string(&scene.ours.key));
    EXPECT(tls_authority_new(buffer_string(&text), &authority, &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "private key") != NULL);
    text.used = 0;
    for (int i = 0; i < TLS_AUTHORITIES_MAX; i++) {
        buffer_append_string(&text, certificate);
    }
    EXPECT(tls_authority_new(buffer_string(&text), &authority, &err) == 0);
    tls_authority_free(authority);
    authority = NULL;
    buffer_append_string(&text, certificate);
    EXPECT(tls_authority_new(buffer_string(&text), &authority, &err) == -ERROR_INVALID);
    EXPECT(authority == NULL);
    end(&scene);
}
