/*
 * A node that is to be another: a worker becomes a server, a server a worker.
 *
 * A server gets the servers' key first.  It must come under an id that never voted (a node which
 * lost its log could vote twice in a term): a worker that never was a server keeps its id, one that
 * returns to being one is given another, with a certificate for it.
 */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"

#include "service/cluster/parts.h"

enum { RETRY_MS = 3000 };

static void end_change(struct cluster *cluster, const struct error *error)
{
    cluster->changes_role = false;
    if (error != NULL) {
        cluster->role_retry_ms = clock_boot_ms() + RETRY_MS;
        log_warn("cluster: this node could not become a %s: %s",
                 cluster->wanted_server ? "server" : "worker", error->text);
    }
}

/* ---- To a server ---- */

static void on_server(const struct error *error, void *context)
{
    struct cluster *cluster = context;
    struct error err = {0};
    if (error == NULL) {
        log_info("cluster: this node is a server from now on");
        cluster->identity.has_log = true;
        error = identity_write_facts(cluster->folder, &cluster->identity, &err) < 0 ? &err : NULL;
    }
    end_change(cluster, error);
}

/* Written before: whoever dies in between comes back as a server that waits to be added. */
static void become_server(struct cluster *cluster)
{
    struct error err = {0};
    cluster->identity.is_server = true;
    cluster->identity.has_voted = true;
    if (identity_write_facts(cluster->folder, &cluster->identity, &err) < 0) {
        cluster->identity.is_server = false;
        end_change(cluster, &err);
        return;
    }
    store_change_role(cluster->store, STORE_SERVER, cluster->identity.id, on_server, cluster);
}

static void on_key(const json_t *answer, const struct error *error, void *context)
{
    struct cluster *cluster = context;
    struct identity *identity = &cluster->identity;
    struct error err = {0};
    if (error != NULL) {
        err = *error;
    } else if (cluster->is_stopping) {
        error_set(&err, ERROR_CANCELLED, "the node ends");
    } else if (!authority_take_key(json_text(answer, "key"), identity->servers_key)) {
        error_set(&err, ERROR_PROTOCOL, "what the server gave is no key");
    } else {
        identity->has_servers_key = true;
        if (identity_write_servers_key(cluster->folder, identity, &err) < 0) {
            identity->has_servers_key = false;
        }
    }
    if (err.kind != ERROR_NONE) {
        end_change(cluster, &err);
    } else {
        become_server(cluster);
    }
}

static void on_renumbered(const struct error *error, void *context)
{
    end_change(context, error); /* and again, under the other id, when its row is here */
}

static void to_server(struct cluster *cluster)
{
    if (cluster->identity.has_voted) {
        if (cluster->renews) {
            end_change(cluster, NULL);
            return;
        }
        authority_renew(cluster, true, on_renumbered, cluster);
    } else if (cluster->identity.has_servers_key) {
        become_server(cluster);
    } else {
        call_node(cluster, member_signer(cluster, cluster->renew_attempts++), "GET",
                  "/v1/peer/servers-key", NULL, on_key, cluster);
    }
}

/* ---- To a worker ---- */

static void on_worker(const struct error *error, void *context)
{
    struct cluster *cluster = context;
    struct identity *identity = &cluster->identity;
    struct error err = {0};
    if (error == NULL) {
        identity->is_server = false;
        identity->has_log = false;
        identity->has_servers_key = false;
        explicit_bzero(identity->servers_key, sizeof(identity->servers_key));
        if (identity_write_facts(cluster->folder, identity, &err) < 0 ||
            identity_write_servers_key(cluster->folder, identity, &err) < 0) {
            error = &err;
        } else {
            log_info("cluster: this node is a worker from now on");
        }
    }
    end_change(cluster, error);
}

void role_tick(struct cluster *cluster)
{
    struct store_status status;
    store_status(cluster->store, &status);
    uint64_t now_ms = clock_boot_ms();
    if (!cluster->wish_is_known || cluster->changes_role || now_ms < cluster->role_retry_ms ||
        !status.ready || member_self(cluster) == NULL) {
        return;
    }
    if (cluster->wanted_server && status.role == STORE_WORKER) {
        cluster->changes_role = true;
        to_server(cluster);
    } else if (!cluster->wanted_server && status.role == STORE_SERVER && !cluster->votes &&
               !status.is_leader) {
        cluster->changes_role = true;
        store_change_role(cluster->store, STORE_WORKER, cluster->identity.id, on_worker, cluster);
    }
}
