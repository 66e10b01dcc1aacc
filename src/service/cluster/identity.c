#include "service/cluster/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/certificate.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/stream/tls.h"
#include "base/text.h"

enum { FILE_MAX = 1 << 20, SCHEMA_MAX = 1000000 };

void identity_done(struct identity *identity)
{
    free(identity->authority);
    free(identity->certificate);
    free(identity->key);
    free(identity->peers);
    explicit_bzero(identity->servers_key, sizeof(identity->servers_key));
    *identity = (struct identity){0};
}

/* ---- Names ---- */

void identity_format_uri(const char *cluster, uint64_t id, char *ret_uri, size_t size)
{
    snprintf(ret_uri, size, "spiffe://%s/node/%" PRIu64, cluster, id);
}

bool identity_parse_uri(const char *cluster, const char *uri, uint64_t *ret_id)
{
    char prefix[64];
    snprintf(prefix, sizeof(prefix), "spiffe://%s/node/", cluster);
    size_t length = strlen(prefix);
    return text_starts_with(uri, prefix) && uri[length] != '0' &&
        text_parse_u64(text_of(uri + length, strlen(uri + length)), ret_id);
}

/* ---- Reading ---- */

static int damaged(const char *folder, const char *name, const char *why, struct error *err)
{
    return error_set(err, ERROR_CORRUPT,
                     "%s/%s: %s; restore it from a copy, or let the node join anew in an empty "
                     "data folder",
                     folder, name, why);
}

static int read_text(const char *folder, const char *name, char **ret_text, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    BUFFER_OWNED struct buffer text = {0};
    int r = file_read(path, FILE_MAX, &text, err);
    if (r == -ERROR_NOT_FOUND) {
        return damaged(folder, name, "it is missing", err);
    }
    if (r == 0) {
        *ret_text = buffer_take(&text);
    }
    return r;
}

static bool take_string(const json_t *object, const char *key, char *ret_text, size_t size)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (text == NULL || strlen(text) >= size) {
        return false;
    }
    memcpy(ret_text, text, strlen(text) + 1);
    return true;
}

static bool take_id(const json_t *object, const char *key, uint64_t *ret_id)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL && text_parse_u64(text_of(text, strlen(text)), ret_id) && *ret_id != 0;
}

static bool take_peers(const json_t *list, struct identity *identity)
{
    size_t count = json_array_size(list);
    if (count > CLUSTER_PEERS_MAX) {
        return false;
    }
    identity->peers = memory_new(count + 1, sizeof(struct identity_peer));
    identity->peer_count = count;
    for (size_t i = 0; i < count; i++) {
        struct identity_peer *peer = &identity->peers[i];
        const json_t *object = json_array_get(list, i);
        if (!take_id(object, "id", &peer->id) ||
            !take_string(object, "name", peer->name, sizeof(peer->name)) ||
            !take_string(object, "address", peer->address, sizeof(peer->address))) {
            return false;
        }
        peer->is_server = json_is_true(json_object_get(object, "server"));
    }
    return true;
}

static int read_facts(const char *folder, struct identity *identity, struct error *err)
{
    static const char name[] = "node.json";
    MEMORY_OWNED char *text = NULL;
    JSON_OWNED json_t *facts = NULL;
    char role[16];
    int r = read_text(folder, name, &text, err);
    if (r < 0) {
        return r;
    }
    if (json_read(text, strlen(text), &facts, err) < 0 ||
        !take_string(facts, "cluster", identity->cluster, sizeof(identity->cluster)) ||
        !take_string(facts, "cluster_name", identity->cluster_name,
                     sizeof(identity->cluster_name)) ||
        !take_id(facts, "id", &identity->id) ||
        !take_string(facts, "name", identity->name, sizeof(identity->name)) ||
        !take_string(facts, "role", role, sizeof(role)) ||
        !take_peers(json_object_get(facts, "peers"), identity)) {
        return damaged(folder, name, "it is not as this node writes it", err);
    }
    identity->is_server = strcmp(role, "server") == 0;
    identity->has_voted = json_is_true(json_object_get(facts, "voted"));
    identity->has_log = json_is_true(json_object_get(facts, "log"));
    json_int_t schema = json_integer_value(json_object_get(facts, "schema"));
    identity->schema = schema > 0 && schema <= SCHEMA_MAX ? (unsigned)schema : 0;
    return 0;
}

static int read_servers_key(const char *folder, struct identity *identity, struct error *err)
{
    static const char name[] = "servers.key";
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    BUFFER_OWNED struct buffer key = {0};
    int r = file_read(path, FILE_MAX, &key, err);
    if (r == -ERROR_NOT_FOUND) {
        return 0;
    }
    if (r < 0) {
        return r;
    }
    if (key.used != SEAL_KEY_SIZE) {
        return damaged(folder, name, "it has not 32 bytes", err);
    }
    memcpy(identity->servers_key, key.data, SEAL_KEY_SIZE);
    explicit_bzero(key.data, key.used);
    identity->has_servers_key = true;
    return 0;
}

static bool is_pair(const struct identity *identity, const char *key)
{
    struct error ignored = {0};
    struct tls_context *tls = NULL;
    const struct tls_context_options options = {.certificate = identity->certificate,
                                                .key = key,
                                                .authority = identity->authority,
                                                .verify = TLS_VERIFY_REQUIRED};
    if (tls_context_new(&options, &tls, &ignored) < 0) {
        return false;
    }
    tls_context_unref(tls);
    return true;
}

/* Between the certificate and its key an exchange may have been broken off: node.key.new. */
static int read_pair(const char *folder, struct identity *identity, struct error *err)
{
    int r = read_text(folder, "node.pem", &identity->certificate, err);
    r = r < 0 ? r : read_text(folder, "node.key", &identity->key, err);
    if (r < 0 || is_pair(identity, identity->key)) {
        return r;
    }
    char *newer = NULL;
    struct error ignored = {0};
    if (read_text(folder, "node.key.new", &newer, &ignored) == 0 && is_pair(identity, newer)) {
        free(identity->key);
        identity->key = newer;
        return identity_write_certificate(folder, identity, err);
    }
    free(newer);
    return damaged(folder, "node.key", "it does not belong to node.pem", err);
}

/* A node that was given another id may have died between writing the one and the other. */
static int take_certified_id(const char *folder, struct identity *identity, struct error *err)
{
    struct certificate_info info;
    uint64_t id = 0;
    int r = certificate_read(identity->certificate, &info, err);
    if (r < 0 || !identity_parse_uri(identity->cluster, info.uri, &id)) {
        return damaged(folder, "node.pem", "it is not of this cluster", err);
    }
    identity->has_voted = identity->has_voted && id == identity->id;
    identity->id = id;
    return 0;
}

int identity_read(const char *folder, struct identity *ret_identity, struct error *err)
{
    if (!file_exists(folder)) {
        return error_set(err, ERROR_NOT_FOUND, "%s is not there", folder);
    }
    struct identity identity = {0};
    int r = read_facts(folder, &identity, err);
    r = r < 0 ? r : read_text(folder, "ca.pem", &identity.authority, err);
    r = r < 0 ? r : read_pair(folder, &identity, err);
    r = r < 0 ? r : read_servers_key(folder, &identity, err);
    r = r < 0 ? r : take_certified_id(folder, &identity, err);
    if (r < 0) {
        identity_done(&identity);
        return r;
    }
    *ret_identity = identity;
    return 0;
}

/* ---- Writing ---- */

static int write_file(const char *folder, const char *name, const void *bytes, size_t length,
                      struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    return file_write(path, bytes, length, 0600, err);
}

static void write_id(struct json_writer *writer, const char *key, uint64_t id)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, id);
    json_write_field_string(writer, key, text);
}

int identity_write_facts(const char *folder, const struct identity *identity, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    struct json_writer writer = json_writer_to(&text);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "cluster", identity->cluster);
    json_write_field_string(&writer, "cluster_name", identity->cluster_name);
    write_id(&writer, "id", identity->id);
    json_write_field_string(&writer, "name", identity->name);
    json_write_field_string(&writer, "role", identity->is_server ? "server" : "worker");
    json_write_field_bool(&writer, "voted", identity->has_voted);
    json_write_field_bool(&writer, "log", identity->has_log);
    json_write_field_u64(&writer, "schema", identity->schema);
    json_write_key(&writer, "peers");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < identity->peer_count; i++) {
        const struct identity_peer *peer = &identity->peers[i];
        json_write_begin_object(&writer);
        write_id(&writer, "id", peer->id);
        json_write_field_string(&writer, "name", peer->name);
        json_write_field_string(&writer, "address", peer->address);
        json_write_field_bool(&writer, "server", peer->is_server);
        json_write_end_object(&writer);
    }
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    buffer_append_byte(&text, '\n');
    return write_file(folder, "node.json", text.data, text.used, err);
}

int identity_write_certificate(const char *folder, const struct identity *identity,
                               struct error *err)
{
    int r = write_file(folder, "node.key.new", identity->key, strlen(identity->key), err);
    r = r < 0
        ? r
        : write_file(folder, "node.pem", identity->certificate, strlen(identity->certificate), err);
    MEMORY_OWNED char *from = memory_format("%s/node.key.new", folder);
    MEMORY_OWNED char *to = memory_format("%s/node.key", folder);
    if (r == 0 && rename(from, to) < 0) {
        r = error_os(err, errno, "renaming %s", from);
    }
    return r;
}

int identity_write_servers_key(const char *folder, const struct identity *identity,
                               struct error *err)
{
    if (identity->has_servers_key) {
        return write_file(folder, "servers.key", identity->servers_key, SEAL_KEY_SIZE, err);
    }
    MEMORY_OWNED char *path = memory_format("%s/servers.key", folder);
    return unlink(path) == 0 || errno == ENOENT ? 0 : error_os(err, errno, "removing %s", path);
}

static int write_all(const char *folder, const struct identity *identity, struct error *err)
{
    int r = file_make_folder(folder, 0700, err);
    r = r < 0 ? r : identity_write_facts(folder, identity, err);
    r = r < 0 ? r
              : write_file(folder, "ca.pem", identity->authority, strlen(identity->authority), err);
    r = r < 0 ? r : identity_write_certificate(folder, identity, err);
    return r < 0 ? r : identity_write_servers_key(folder, identity, err);
}

/* A token is used up for it: it must be there after a power cut. */
static int write_through(const char *folder, struct error *err)
{
    MEMORY_OWNED char *above = memory_copy_string(folder);
    char *slash = strrchr(above, '/');
    if (slash == NULL || slash == above) {
        return 0;
    }
    *slash = '\0';
    FD_OWNED int fd = open(above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 && fsync(fd) == 0 ? 0 : error_os(err, errno, "writing %s", above);
}

int identity_create(const char *folder, const struct identity *identity, struct error *err)
{
    if (file_exists(folder)) {
        return error_set(err, ERROR_EXISTS, "%s is there already: this node is in a cluster",
                         folder);
    }
    MEMORY_OWNED char *making = memory_format("%s.new", folder);
    struct error ignored = {0};
    int r = file_remove_tree(making, err);
    r = r < 0 ? r : write_all(making, identity, err);
    if (r == 0 && rename(making, folder) < 0) {
        r = error_os(err, errno, "renaming %s", making);
    }
    r = r < 0 ? r : write_through(folder, err);
    if (r < 0) {
        file_remove_tree(making, &ignored);
    }
    return r;
}

int identity_remove(const char *folder, struct error *err)
{
    return file_remove_tree(folder, err);
}
