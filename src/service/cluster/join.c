/*
 * A new node, before its store opens: it asks the addresses of its token in turn, believing only
 * whom the authority with the token's fingerprint has certified, and writes its identity.
 *
 * The key is made once: whoever sends the same request again, because the answer was lost, is the
 * same node (authority_id_of()) and not a second one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/certificate.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/stream/stream.h"
#include "base/stream/tls.h"
#include "base/text.h"

#include "service/cluster/parts.h"

enum { ANSWER_TIMEOUT_MS = 15000, PAUSE_MS = 500, GIVE_UP_MS = 120000, SAY_EVERY_MS = 10000 };

struct joining {
    struct cluster *cluster;
    struct cluster_token token;
    struct tls_context *tls;
    struct http_client *client;
    struct loop_timer *timer;
    struct buffer request;
    struct buffer key;
    struct buffer body;
    unsigned attempt;
    uint64_t begun_ms;
    uint64_t said_ms;
    bool is_over;
    int status;
    struct error error;
    struct error refused; /* of the first address that said no */
};

static void finish(struct joining *joining, int status, const struct error *error)
{
    joining->status = status;
    if (error != NULL) {
        joining->error = *error;
    }
    joining->is_over = true;
    uv_stop(loop_uv(joining->cluster->loop));
}

/* ---- What the cluster gives ---- */

static int take_peers(struct identity *identity, const json_t *list, struct error *err)
{
    size_t count = json_array_size(list);
    if (count == 0 || count > CLUSTER_PEERS_MAX) {
        return error_set(err, ERROR_PROTOCOL, "the cluster's answer names no nodes");
    }
    identity->peers = memory_new(count, sizeof(struct identity_peer));
    for (size_t i = 0; i < count; i++) {
        struct identity_peer *peer = &identity->peers[identity->peer_count];
        const json_t *object = json_array_get(list, i);
        if (!message_take_id(object, "id", &peer->id) ||
            !message_copy(object, "name", peer->name, sizeof(peer->name)) ||
            !message_copy(object, "address", peer->address, sizeof(peer->address))) {
            return error_set(err, ERROR_PROTOCOL, "the cluster's answer has a node of no kind");
        }
        peer->is_server = json_is_true(json_object_get(object, "server"));
        identity->peer_count++;
    }
    return 0;
}

/* It comes from a node that the token's authority certified; still every field is checked. */
static int take_identity(struct joining *joining, const json_t *answer, struct error *err)
{
    struct identity *identity = &joining->cluster->identity;
    struct certificate_info authority;
    struct certificate_info own;
    const char *pem = json_text(answer, "authority");
    const char *certificate = json_text(answer, "certificate");
    uint64_t id = 0;
    int r = certificate_read(pem, &authority, err);
    r = r < 0 ? r : certificate_read(certificate, &own, err);
    if (r < 0) {
        return r;
    }
    snprintf(identity->cluster, sizeof(identity->cluster), "%s", joining->token.cluster);
    snprintf(identity->name, sizeof(identity->name), "%s", joining->cluster->node_name);
    if (strcmp(authority.fingerprint, joining->token.fingerprint) != 0 ||
        strcmp(json_text(answer, "cluster"), identity->cluster) != 0 ||
        !message_copy(answer, "cluster_name", identity->cluster_name,
                      sizeof(identity->cluster_name)) ||
        !message_take_id(answer, "id", &id) ||
        !identity_parse_uri(identity->cluster, own.uri, &identity->id) || id != identity->id) {
        return error_set(err, ERROR_PROTOCOL, "the cluster's answer is not of the token's cluster");
    }
    identity->authority = memory_copy_string(pem);
    identity->certificate = memory_copy_string(certificate);
    identity->key = memory_copy_string(buffer_string(&joining->key));
    return take_peers(identity, json_object_get(answer, "peers"), err);
}

/* ---- Asking ---- */

static void try_next(struct joining *joining);

static void on_pause(void *context)
{
    try_next(context);
}

static bool may_pass(const struct error *error)
{
    return error_kind_retry(error->kind) && error->kind != ERROR_LIMIT;
}

/* Somebody else may be there now: the other addresses are still asked, once. */
static void note_refusal(struct joining *joining, const char *address, const struct error *error)
{
    if (joining->refused.kind == ERROR_NONE) {
        joining->refused = *error;
        if (!text_starts_with(error->text, address)) {
            error_wrap(&joining->refused, "%s", address);
        }
    }
    if (joining->attempt % joining->token.address_count == 0) {
        finish(joining, -(int)joining->refused.kind, &joining->refused);
    } else {
        loop_timer_start(joining->timer, 0);
    }
}

static void on_answer(const json_t *answer, const struct error *error, void *context)
{
    struct joining *joining = context;
    struct error err = {0};
    uint64_t now_ms = clock_monotonic_ms();
    const char *address =
        joining->token.addresses[(joining->attempt - 1) % joining->token.address_count];
    if (error == NULL) {
        int r = take_identity(joining, answer, &err);
        finish(joining, r, r < 0 ? &err : NULL);
    } else if (!may_pass(error) || joining->refused.kind != ERROR_NONE ||
               now_ms - joining->begun_ms > GIVE_UP_MS) {
        note_refusal(joining, address, error);
    } else {
        if (joining->said_ms == 0 || now_ms - joining->said_ms > SAY_EVERY_MS) {
            joining->said_ms = now_ms;
            log_warn("joining: %s: %s; trying on", address, error->text);
        }
        loop_timer_start(joining->timer, PAUSE_MS);
    }
}

static void try_next(struct joining *joining)
{
    const char *address =
        joining->token.addresses[joining->attempt++ % joining->token.address_count];
    const struct http_client_options options = {.tls = joining->tls,
                                                .answer_timeout_ms = ANSWER_TIMEOUT_MS};
    struct error err = {0};
    http_client_free(joining->client);
    joining->client = NULL;
    if (http_client_new(joining->cluster->loop, address, &options, &joining->client, &err) < 0) {
        finish(joining, -(int)err.kind, &err);
        return;
    }
    log_debug("joining: asking %s", address);
    call_send(joining->client, "POST", "/v1/join", &joining->body, on_answer, joining);
}

static void write_body(struct joining *joining)
{
    const struct cluster *cluster = joining->cluster;
    struct json_writer writer = json_writer_to(&joining->body);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "token", joining->token.id);
    json_write_field_string(&writer, "secret", joining->token.secret);
    json_write_field_string(&writer, "request", buffer_string(&joining->request));
    json_write_field_string(&writer, "name", cluster->node_name);
    json_write_field_string(&writer, "address", cluster->own_address);
    json_write_field_string(&writer, "gateway", cluster->gateway);
    json_write_field_string(&writer, "failure_domain", cluster->failure_domain);
    json_write_field_string(&writer, "version", cluster->version);
    json_write_field_u64(&writer, "schema", store_schema_version());
    json_write_end_object(&writer);
}

static void on_nobody(struct stream *stream, void *context)
{
    (void)context;
    stream_close(stream);
}

/* Before the token is used up: a node that cannot listen is of no use to the cluster. */
static int try_listening(const struct cluster *cluster, struct error *err)
{
    struct stream_listener *listener = NULL;
    int r = stream_listen(cluster->loop, cluster->address, NULL, NULL, on_nobody, NULL, &listener,
                          NULL, err);
    if (r < 0) {
        return error_wrap(err, "cluster_address");
    }
    stream_listener_close(listener);
    return 0;
}

/* Of who knows better than the token where the others are: "HOST:PORT,HOST:PORT". */
static int take_addresses(const char *text, struct cluster_token *token, struct error *err)
{
    size_t count = 0;
    while (*text != '\0') {
        size_t length = strcspn(text, ",");
        struct text word = text_trim(text_of(text, length));
        if (count == CLUSTER_TOKEN_ADDRESSES_MAX || word.length >= CLUSTER_TOKEN_ADDRESS_SIZE) {
            return error_set(err, ERROR_INVALID,
                             "join_addresses: at most %d, of at most %d characters",
                             CLUSTER_TOKEN_ADDRESSES_MAX, CLUSTER_TOKEN_ADDRESS_SIZE - 1);
        }
        char *address = token->addresses[count++];
        memcpy(address, word.data, word.length);
        address[word.length] = '\0';
        if (!cluster_token_is_address(address)) {
            return error_set(err, ERROR_INVALID, "join_addresses: \"%s\" is no HOST:PORT", address);
        }
        text += length + (text[length] == ',' ? 1 : 0);
    }
    token->address_count = count > 0 ? count : token->address_count;
    return 0;
}

static int prepare(struct joining *joining, const char *text, struct error *err)
{
    struct cluster *cluster = joining->cluster;
    int r = cluster_token_read(text, &joining->token, err);
    if (r < 0) {
        return r;
    }
    if (joining->token.id[0] == '\0') {
        return error_set(err, ERROR_INVALID,
                         "this token is for `blixard login`; a node joins with one of `blixard "
                         "node token create`");
    }
    r = take_addresses(cluster->join_addresses, &joining->token, err);
    if (r < 0) {
        return r;
    }
    const struct tls_context_options tls = {.verify = TLS_VERIFY_PIN,
                                            .pin = joining->token.fingerprint};
    r = try_listening(cluster, err);
    r = r < 0 ? r : network_own_address(cluster, cluster->advertise, 0, cluster->own_address, err);
    r = r < 0 ? r : tls_context_new(&tls, &joining->tls, err);
    r = r < 0 ? r : certificate_make_request(&joining->request, &joining->key, err);
    if (r == 0) {
        write_body(joining);
    }
    return r;
}

int join_cluster(struct cluster *cluster, const char *token, struct error *err)
{
    struct joining joining = {.cluster = cluster, .begun_ms = clock_monotonic_ms()};
    int r = prepare(&joining, token, err);
    if (r == 0) {
        log_info("joining the cluster as node %s at %s", cluster->node_name, cluster->own_address);
        joining.timer = loop_timer_new(cluster->loop, on_pause, &joining);
        try_next(&joining);
        while (!joining.is_over) {
            loop_run(cluster->loop);
        }
        r = joining.status;
        if (r < 0) {
            *err = joining.error;
            error_wrap(err, "joining the cluster");
        }
    }
    http_client_free(joining.client);
    loop_timer_free(joining.timer);
    tls_context_unref(joining.tls);
    buffer_done(&joining.request);
    buffer_wipe(&joining.key);
    buffer_wipe(&joining.body);
    explicit_bzero(&joining.token, sizeof(joining.token));
    r = r < 0 ? r : identity_create(cluster->folder, &cluster->identity, err);
    if (r == 0) {
        log_info("joined the cluster %s as node %s (%" PRIu64 ")", cluster->identity.cluster_name,
                 cluster->identity.name, cluster->identity.id);
    }
    return r;
}

int join_check_token(struct cluster *cluster, const char *text, struct error *err)
{
    struct cluster_token token;
    if (text[strspn(text, " \t\r\n")] == '\0') {
        return 0; /* its file may have been emptied since: it was used once */
    }
    int r = cluster_token_read(text, &token, err);
    if (r < 0) {
        return r;
    }
    bool is_same = strcmp(token.cluster, cluster->identity.cluster) == 0;
    explicit_bzero(&token, sizeof(token));
    if (!is_same) {
        return error_set(err, ERROR_EXISTS,
                         "this node is in the cluster %s and the token is for another: give it an "
                         "empty data folder",
                         cluster->identity.cluster_name);
    }
    log_info("this node has joined the cluster %s before: the token is not used",
             cluster->identity.cluster_name);
    return 0;
}
