/*
 * The first node of a cluster: it makes the authority, certifies itself, listens, and writes the
 * rows; all of that, or nothing of it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/certificate.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/stream/tls.h"
#include "base/text.h"

#include "service/cluster/parts.h"

enum { SERVERS_DEFAULT = 3, AUTHORITY_DAYS = 3650 };

struct founding {
    struct cluster *cluster;
    struct cluster_reply reply;
    struct buffer ca_key;
    struct buffer sealed;
    unsigned servers;
};

static void founding_free(struct founding *founding)
{
    buffer_wipe(&founding->ca_key);
    buffer_done(&founding->sealed);
    founding->cluster->is_founding = false;
    free(founding);
}

/* As if nothing had been. */
static void undo(struct cluster *cluster)
{
    struct error ignored = {0};
    cluster->is_member = false;
    network_close_listener(cluster);
    tls_context_unref(cluster->listen_tls);
    tls_context_unref(cluster->dial_tls);
    cluster->listen_tls = NULL;
    cluster->dial_tls = NULL;
    identity_done(&cluster->identity);
    identity_remove(cluster->folder, &ignored);
}

static int check(const struct cluster *cluster, const char *name, unsigned servers,
                 struct error *err)
{
    if (cluster->is_founding || cluster->is_member) {
        return error_set(err, ERROR_EXISTS, "this node is in the cluster %s already",
                         cluster->identity.cluster_name);
    }
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "$.name: \"%.64s\" is no name: a letter, then letters, digits and '-'",
                         name);
    }
    if (servers != 1 && servers != 3 && servers != 5) {
        return error_set(err, ERROR_INVALID, "$.servers is 1, 3 or 5");
    }
    if (!text_is_name(cluster->node_name)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.64s\" is no name for a node: set the option node_name",
                         cluster->node_name);
    }
    return 0;
}

static int make_authority(struct founding *founding, const char *name, struct error *err)
{
    struct identity *identity = &founding->cluster->identity;
    struct store_status status;
    char uri[64];
    BUFFER_OWNED struct buffer certificate = {0};
    MEMORY_OWNED char *common_name = memory_format("%.40s authority", name);
    store_status(founding->cluster->store, &status);
    identity->id = status.node_id;
    identity->is_server = true;
    identity->has_voted = true;
    identity->has_log = true;
    random_hex(identity->cluster, CLUSTER_ID_SIZE - 1);
    snprintf(identity->cluster_name, sizeof(identity->cluster_name), "%s", name);
    snprintf(identity->name, sizeof(identity->name), "%s", founding->cluster->node_name);
    snprintf(uri, sizeof(uri), "spiffe://%s", identity->cluster);
    int r = certificate_make_authority(common_name, uri, AUTHORITY_DAYS, &certificate,
                                       &founding->ca_key, err);
    if (r < 0) {
        return r;
    }
    identity->authority = memory_copy_string(buffer_string(&certificate));
    seal_key_make(identity->servers_key);
    identity->has_servers_key = true;
    seal_close(identity->servers_key, AUTHORITY_SEAL, founding->ca_key.data, founding->ca_key.used,
               &founding->sealed);
    return 0;
}

static int certify_self(struct founding *founding, struct error *err)
{
    struct cluster *cluster = founding->cluster;
    struct identity *identity = &cluster->identity;
    char uri[128];
    char host[CLUSTER_ADDRESS_SIZE];
    struct buffer request = {0};
    struct buffer key = {0};
    struct buffer certificate = {0};
    const char *colon = strrchr(cluster->own_address, ':');
    bool is_bracketed = cluster->own_address[0] == '[';
    snprintf(host, sizeof(host), "%.*s",
             (int)(colon - cluster->own_address) - (is_bracketed ? 2 : 0),
             cluster->own_address + is_bracketed);
    const char *const names[] = {host, NULL};
    identity_format_uri(identity->cluster, identity->id, uri, sizeof(uri));
    const struct certificate_terms terms = {.common_name = identity->name,
                                            .uri = uri,
                                            .names = names,
                                            .now_ms = clock_real_ms(),
                                            .lifetime_ms = cluster->certificate_lifetime_ms,
                                            .is_server = true};
    int r = certificate_make_request(&request, &key, err);
    r = r < 0 ? r
              : certificate_sign(buffer_string(&request), identity->authority,
                                 buffer_string(&founding->ca_key), &terms, &certificate, err);
    if (r == 0) {
        identity->certificate = memory_copy_string(buffer_string(&certificate));
        identity->key = memory_copy_string(buffer_string(&key));
    }
    buffer_done(&request);
    buffer_done(&certificate);
    buffer_wipe(&key);
    return r;
}

static void on_founded(const struct error *error, uint64_t index, void *context)
{
    struct founding *founding = context;
    struct cluster *cluster = founding->cluster;
    BUFFER_OWNED struct buffer answer = {0};
    struct error err = {0};
    (void)index;
    if (error != NULL) {
        undo(cluster);
        reply_error(cluster, founding->reply, error);
    } else {
        log_info("cluster: %s is there (%s), node %s at %s", cluster->identity.cluster_name,
                 cluster->identity.cluster, cluster->identity.name, cluster->own_address);
        cluster->is_announced = true; /* its row says what is so */
        member_reload(cluster);
        cluster_tick(cluster);
        cluster_write(cluster, &answer, &err);
        reply_with(cluster, founding->reply, &answer);
    }
    founding_free(founding);
}

static void write_rows(struct founding *founding)
{
    struct cluster *cluster = founding->cluster;
    const struct identity *identity = &cluster->identity;
    struct certificate_info info = {0};
    struct error ignored = {0};
    uint64_t now_ms = clock_real_ms();
    certificate_read(identity->certificate, &info, &ignored);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_EXISTS, "there is a cluster already",
        "INSERT INTO cluster (key, id, name, servers, ca_certificate, ca_key, created_ms, "
        "revision) SELECT 'cluster', ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE NOT EXISTS (SELECT 1 FROM "
        "cluster)",
        "ttutbur", identity->cluster, identity->cluster_name, (uint64_t)founding->servers,
        identity->authority, founding->sealed.data, founding->sealed.used, now_ms);
    store_command_add(command,
                      "INSERT INTO node (key, id, address, gateway, role, eligible, "
                      "failure_domain, labels, version, schema, fingerprint, expires_ms, "
                      "joined_ms, revision) VALUES (?, ?, ?, ?, 'server', 1, ?, '{}', ?, ?, ?, ?, "
                      "?, ?)",
                      "tuttttutuur", identity->name, identity->id, cluster->own_address,
                      cluster->gateway, cluster->failure_domain, cluster->version,
                      (uint64_t)store_schema_version(), info.fingerprint, info.not_after_ms,
                      now_ms);
    store_propose(cluster->store, command, on_founded, founding);
}

void cluster_init(struct cluster *cluster, const char *name, unsigned servers, const char *address,
                  struct cluster_reply reply)
{
    struct error err = {0};
    unsigned wanted = servers != 0 ? servers : SERVERS_DEFAULT;
    int r = check(cluster, name, wanted, &err);
    if (r < 0) {
        reply_error(cluster, reply, &err);
        return;
    }
    cluster->is_founding = true;
    struct founding *founding = NEW(struct founding);
    founding->cluster = cluster;
    founding->reply = reply;
    founding->servers = wanted;
    r = network_own_address(cluster, address != NULL ? address : cluster->advertise, 0,
                            cluster->own_address, &err);
    r = r < 0 ? r : make_authority(founding, name, &err);
    r = r < 0 ? r : certify_self(founding, &err);
    r = r < 0 ? r : cluster_begin(cluster, &err);
    r = r < 0 ? r
              : network_own_address(cluster, address != NULL ? address : cluster->advertise,
                                    cluster->port, cluster->own_address, &err);
    r = r < 0 ? r : identity_create(cluster->folder, &cluster->identity, &err);
    if (r < 0) {
        undo(cluster);
        reply_error(cluster, reply, &err);
        founding_free(founding);
        return;
    }
    write_rows(founding);
}
