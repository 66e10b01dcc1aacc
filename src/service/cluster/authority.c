/*
 * The cluster's own authority.  Its key lies in the state, sealed with the servers' key; it is
 * opened for one signature and wiped.  Certificates are renewed at two thirds of their life, with a
 * new key, without a restart.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/certificate.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/stream/tls.h"

#include "service/cluster/parts.h"

enum { BACKDATED_MS = 3600 * 1000, RETRY_MS = 10000 };

/* ---- Signing ---- */

static bool take_sealed(sqlite3_stmt *row, void *context)
{
    buffer_append(context, sqlite3_column_blob(row, 0), (size_t)sqlite3_column_bytes(row, 0));
    return false;
}

static int open_key(struct cluster *cluster, struct buffer *ret_key, struct error *err)
{
    BUFFER_OWNED struct buffer sealed = {0};
    if (!cluster->identity.has_servers_key) {
        return error_set(err, ERROR_UNAVAILABLE, "this node is no server and signs nothing");
    }
    int r =
        store_query(cluster->store, err, take_sealed, &sealed, "SELECT ca_key FROM cluster", "");
    if (r == 0 && sealed.used == 0) {
        r = error_set(err, ERROR_UNAVAILABLE, "the state of the cluster is not here yet");
    }
    return r < 0 ? r
                 : seal_open(cluster->identity.servers_key, AUTHORITY_SEAL, sealed.data,
                             sealed.used, ret_key, err);
}

int authority_sign(struct cluster *cluster, const struct authority_subject *subject,
                   struct buffer *ret_certificate, struct error *err)
{
    BUFFER_WIPED struct buffer key = {0};
    char host[CLUSTER_ADDRESS_SIZE] = "";
    if (subject->address != NULL) {
        const char *colon = strrchr(subject->address, ':');
        size_t length = colon != NULL ? (size_t)(colon - subject->address) : 0;
        bool is_bracketed = length > 1 && subject->address[0] == '[';
        snprintf(host, sizeof(host), "%.*s", (int)(is_bracketed ? length - 2 : length),
                 subject->address + is_bracketed);
    }
    const char *const names[] = {host, NULL};
    const struct certificate_terms terms = {
        .common_name = subject->common_name,
        .uri = subject->uri,
        .names = host[0] != '\0' ? names : NULL,
        .now_ms = clock_real_ms(),
        .lifetime_ms = subject->lifetime_ms,
        .is_server = subject->address != NULL,
    };
    int r = open_key(cluster, &key, err);
    return r < 0 ? r
                 : certificate_sign(subject->request, cluster->identity.authority,
                                    buffer_string(&key), &terms, ret_certificate, err);
}

uint64_t authority_id_of(const char *request)
{
    char digest[HASH_TEXT_SIZE];
    hash_bytes(request, strlen(request), digest);
    uint64_t id = 0;
    for (int i = 0; i < 15; i++) { /* 60 bits: what JSON and SQLite hold, and nobody hits twice */
        id = id << 4 | (uint64_t)(digest[i] <= '9' ? digest[i] - '0' : digest[i] - 'a' + 10);
    }
    return id != 0 ? id : 1;
}

/* ---- Renewing: at a server ---- */

struct renewal {
    struct cluster *cluster;
    struct cluster_reply reply;
    struct buffer answer;
};

static void on_renewed(const struct error *error, uint64_t index, void *context)
{
    struct renewal *renewal = context;
    (void)index;
    if (error != NULL) {
        reply_error(renewal->cluster, renewal->reply, error);
    } else {
        reply_with(renewal->cluster, renewal->reply, &renewal->answer);
    }
    buffer_done(&renewal->answer);
    free(renewal);
}

static void write_certificate(struct cluster *cluster, uint64_t id, const char *certificate,
                              struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    describe_id(&writer, "id", id);
    json_write_field_string(&writer, "certificate", certificate);
    json_write_field_string(&writer, "authority", cluster->identity.authority);
    json_write_end_object(&writer);
}

static int renew(struct cluster *cluster, uint64_t caller, const char *request, bool renumber,
                 struct cluster_reply reply, struct error *err)
{
    const struct member *member = member_find(cluster, caller);
    if (member == NULL) {
        return error_set(err, ERROR_UNAVAILABLE, "the state of this node does not have you yet");
    }
    uint64_t id = renumber ? authority_id_of(request) : member->id;
    char uri[128];
    identity_format_uri(cluster->identity.cluster, id, uri, sizeof(uri));
    const struct authority_subject subject = {.request = request,
                                              .common_name = member->name,
                                              .uri = uri,
                                              .address = member->address,
                                              .lifetime_ms = cluster->certificate_lifetime_ms};
    BUFFER_OWNED struct buffer certificate = {0};
    struct certificate_info info;
    int r = authority_sign(cluster, &subject, &certificate, err);
    r = r < 0 ? r : certificate_read(buffer_string(&certificate), &info, err);
    if (r < 0) {
        return r;
    }
    struct renewal *renewal = NEW(struct renewal);
    renewal->cluster = cluster;
    renewal->reply = reply;
    write_certificate(cluster, id, buffer_string(&certificate), &renewal->answer);
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_CONFLICT, "the node was changed meanwhile",
                                "UPDATE node SET id = ?, fingerprint = ?, expires_ms = ?, "
                                "revision = ? WHERE key = ? AND id = ?",
                                "uturtu", id, info.fingerprint, info.not_after_ms, member->name,
                                member->id);
    store_propose(cluster->store, command, on_renewed, renewal);
    return 0;
}

void cluster_renew_certificate(struct cluster *cluster, uint64_t node, const json_t *request,
                               struct cluster_reply reply)
{
    struct error err = {0};
    if (renew(cluster, node, json_text(request, "request"),
              json_is_true(json_object_get(request, "renumber")), reply, &err) < 0) {
        reply_error(cluster, reply, &err);
    }
}

void cluster_give_key(struct cluster *cluster, uint64_t node, struct cluster_reply reply)
{
    struct error err = {0};
    const struct member *member = member_find(cluster, node);
    if (member == NULL || !member->wanted_server) {
        error_set(&err, ERROR_DENIED, "only a node that is to be a server gets this key");
    } else if (!cluster->identity.has_servers_key) {
        error_set(&err, ERROR_UNAVAILABLE, "this node is no server");
    }
    if (err.kind != ERROR_NONE) {
        reply_error(cluster, reply, &err);
        return;
    }
    BUFFER_WIPED struct buffer answer = {0};
    struct json_writer writer = json_writer_to(&answer);
    json_write_begin_object(&writer);
    authority_write_key(cluster, &writer, "key");
    json_write_end_object(&writer);
    reply_with(cluster, reply, &answer);
}

void authority_write_key(struct cluster *cluster, struct json_writer *writer, const char *key)
{
    char text[2 * SEAL_KEY_SIZE + 1];
    for (int i = 0; i < SEAL_KEY_SIZE; i++) {
        snprintf(text + (size_t)(2 * i), 3, "%02x", cluster->identity.servers_key[i]);
    }
    json_write_field_string(writer, key, text);
    explicit_bzero(text, sizeof(text));
}

bool authority_take_key(const char *text, uint8_t ret_key[SEAL_KEY_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < SEAL_KEY_SIZE; i++) {
        const char *high = text[2 * i] != '\0' ? strchr(digits, text[2 * i]) : NULL;
        const char *low =
            high != NULL && text[2 * i + 1] != '\0' ? strchr(digits, text[2 * i + 1]) : NULL;
        if (low == NULL) {
            return false;
        }
        ret_key[i] = (uint8_t)((high - digits) << 4 | (low - digits));
    }
    return text[(size_t)(2 * SEAL_KEY_SIZE)] == '\0';
}

/* ---- Renewing: the node itself ---- */

struct own_renewal {
    struct cluster *cluster;
    char *key;
    void (*done)(const struct error *error, void *context);
    void *context;
};

static void end_own(struct own_renewal *own, const struct error *error)
{
    own->cluster->renews = false;
    own->done(error, own->context);
    if (own->key != NULL) {
        explicit_bzero(own->key, strlen(own->key));
    }
    free(own->key);
    free(own);
}

/* From now on this is shown; what was before goes on in connections that stand. */
static int exchange_pair(struct own_renewal *own, const json_t *answer, struct error *err)
{
    struct cluster *cluster = own->cluster;
    struct identity *identity = &cluster->identity;
    struct certificate_info info;
    uint64_t id = 0;
    const char *certificate = json_text(answer, "certificate");
    if (certificate_read(certificate, &info, err) < 0) {
        return -(int)err->kind;
    }
    if (!identity_parse_uri(identity->cluster, info.uri, &id)) {
        return error_set(err, ERROR_PROTOCOL, "the new certificate is of nobody in this cluster");
    }
    free(identity->certificate);
    free(identity->key);
    identity->certificate = memory_copy_string(certificate);
    identity->key = own->key;
    own->key = NULL;
    if (id != identity->id) {
        log_info("cluster: this node has the id %" PRIu64 " from now on", id);
        identity->id = id;
        identity->has_voted = false;
        liveness_node_init(&cluster->liveness, id);
    }
    cluster->certificate_starts_ms = clock_real_ms();
    cluster->certificate_ends_ms = info.not_after_ms;
    int r = identity_write_certificate(cluster->folder, identity, err);
    r = r < 0 ? r : identity_write_facts(cluster->folder, identity, err);
    r = r < 0 ? r : network_update_tls(cluster, err);
    call_forget(cluster);
    return r;
}

static void on_certified(const json_t *answer, const struct error *error, void *context)
{
    struct own_renewal *own = context;
    struct error err = {0};
    if (error != NULL) {
        err = *error;
    } else if (!own->cluster->is_stopping) {
        exchange_pair(own, answer, &err);
    }
    end_own(own, err.kind == ERROR_NONE ? NULL : &err);
}

/* This node signs for itself. */
static void on_self_certified(const struct error *error, struct buffer *answer, void *context)
{
    JSON_OWNED json_t *value = NULL;
    struct error err = {0};
    if (error == NULL && json_read(answer->data, answer->used, &value, &err) < 0) {
        error = &err;
    }
    on_certified(value, error, context);
}

void authority_renew(struct cluster *cluster, bool renumber,
                     void (*done)(const struct error *error, void *context), void *context)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer request = {0};
    BUFFER_OWNED struct buffer body = {0};
    BUFFER_WIPED struct buffer key = {0};
    uint64_t signer = member_signer(cluster, cluster->renew_attempts++);
    CHECK(!cluster->renews);
    cluster->renews = true;
    struct own_renewal *own = NEW(struct own_renewal);
    *own = (struct own_renewal){.cluster = cluster, .done = done, .context = context};
    if (certificate_make_request(&request, &key, &err) < 0) {
        end_own(own, &err);
        return;
    }
    own->key = memory_copy_string(buffer_string(&key));
    if (signer == cluster->identity.id) {
        const struct cluster_reply reply = {on_self_certified, own};
        if (renew(cluster, signer, buffer_string(&request), renumber, reply, &err) < 0) {
            end_own(own, &err);
        }
        return;
    }
    struct json_writer writer = json_writer_to(&body);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "request", buffer_string(&request));
    json_write_field_bool(&writer, "renumber", renumber);
    json_write_end_object(&writer);
    call_node(cluster, signer, "POST", "/v1/peer/certificate", &body, on_certified, own);
}

static void on_due_renewed(const struct error *error, void *context)
{
    struct cluster *cluster = context;
    if (error != NULL) {
        log_warn("cluster: the certificate could not be renewed: %s", error->text);
        return;
    }
    char text[CLOCK_TEXT_SIZE];
    clock_format_ms(cluster->certificate_ends_ms, text);
    log_info("cluster: the certificate was renewed; it ends %s", text);
}

/* When it began is not what it says: it is dated back. */
int authority_note_life(struct cluster *cluster, struct error *err)
{
    struct certificate_info info;
    int r = certificate_read(cluster->identity.certificate, &info, err);
    if (r < 0) {
        return r;
    }
    cluster->certificate_starts_ms = info.not_before_ms + BACKDATED_MS;
    cluster->certificate_ends_ms = info.not_after_ms;
    return 0;
}

bool authority_is_early(const struct cluster *cluster)
{
    return clock_real_ms() + BACKDATED_MS < cluster->certificate_starts_ms;
}

void authority_tick(struct cluster *cluster)
{
    uint64_t now_ms = clock_real_ms();
    uint64_t life_ms = cluster->certificate_ends_ms - cluster->certificate_starts_ms;
    uint64_t boot_ms = clock_boot_ms();
    if (cluster->renews || now_ms + life_ms / 3 < cluster->certificate_ends_ms ||
        boot_ms < cluster->renew_retry_ms) {
        return;
    }
    cluster->renew_retry_ms = boot_ms + RETRY_MS;
    authority_renew(cluster, false, on_due_renewed, cluster);
}
