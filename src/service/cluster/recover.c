#include "service/cluster/recover.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/stream/tls.h"

#include "service/cluster/parts.h"

enum { ANSWER_TIMEOUT_MS = 3000 };

/* ---- The folder ---- */

static int open_store(struct loop *loop, const char *data_folder, const struct identity *identity,
                      bool recovers, struct store **ret_store, struct error *err)
{
    MEMORY_OWNED char *folder = memory_format("%s/store", data_folder);
    const struct store_options options = {
        .folder = folder,
        .node_id = identity->id,
        .joins = true,
        .exists = true,
        .recovers = recovers,
    };
    return store_open(loop, &options, ret_store, err);
}

static int read_identity(const char *data_folder, struct identity *ret_identity, struct error *err)
{
    MEMORY_OWNED char *folder = memory_format("%s/cluster", data_folder);
    int r = identity_read(folder, ret_identity, err);
    if (r == -ERROR_NOT_FOUND) {
        return error_set(err, ERROR_NOT_FOUND, "%s is in no cluster: there is nothing to recover",
                         data_folder);
    }
    if (r == 0 && !ret_identity->is_server) {
        identity_done(ret_identity);
        return error_set(err, ERROR_INVALID,
                         "%s is a worker's, which keeps no log: recover on a server that is left",
                         data_folder);
    }
    return r;
}

/* ---- The others ---- */

struct question {
    struct loop *loop;
    struct cluster_recovery_node *node;
    bool is_over;
};

static void on_answer(const json_t *answer, const struct error *error, void *context)
{
    struct question *question = context;
    struct cluster_recovery_node *node = question->node;
    question->is_over = true;
    if (error != NULL) {
        snprintf(node->problem, sizeof(node->problem), "%.120s", error->text);
    } else {
        node->answers = true;
        node->index = (uint64_t)json_integer_value(json_object_get(answer, "index"));
        node->has_leader = json_text(answer, "leader")[0] != '\0';
    }
    uv_stop(loop_uv(question->loop));
}

static void ask(struct loop *loop, struct tls_context *tls, const char *identity,
                struct cluster_recovery_node *node)
{
    struct error err = {0};
    struct http_client *client = NULL;
    const struct http_client_options options = {.tls = tls,
                                                .identity = identity,
                                                .is_to_node = true,
                                                .answer_timeout_ms = ANSWER_TIMEOUT_MS};
    struct question question = {.loop = loop, .node = node};
    if (http_client_new(loop, node->address, &options, &client, &err) < 0) {
        snprintf(node->problem, sizeof(node->problem), "%.120s", err.text);
        return;
    }
    call_send(client, "GET", "/v1/cluster", NULL, on_answer, &question);
    while (!question.is_over) {
        loop_run(loop);
    }
    http_client_free(client);
}

static int ask_others(struct loop *loop, const struct identity *identity,
                      struct cluster_recovery *recovery, struct error *err)
{
    const struct tls_context_options options = {.certificate = identity->certificate,
                                                .key = identity->key,
                                                .authority = identity->authority};
    struct tls_context *tls = NULL;
    int r = tls_context_new(&options, &tls, err);
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; i < identity->peer_count; i++) {
        const struct identity_peer *peer = &identity->peers[i];
        char uri[256];
        if (peer->id == identity->id || recovery->other_count == CLUSTER_RECOVERY_NODES_MAX) {
            continue;
        }
        struct cluster_recovery_node *node = &recovery->others[recovery->other_count++];
        snprintf(node->name, sizeof(node->name), "%s", peer->name);
        snprintf(node->address, sizeof(node->address), "%s", peer->address);
        node->is_server = peer->is_server;
        identity_format_uri(identity->cluster, peer->id, uri, sizeof(uri));
        ask(loop, tls, uri, node);
    }
    tls_context_unref(tls);
    return 0;
}

int cluster_recovery_look(struct loop *loop, const char *data_folder,
                          struct cluster_recovery *ret_recovery, struct error *err)
{
    struct identity identity = {0};
    struct store *store = NULL;
    struct store_status status;
    *ret_recovery = (struct cluster_recovery){0};
    int r = read_identity(data_folder, &identity, err);
    if (r < 0) {
        return r;
    }
    snprintf(ret_recovery->cluster, sizeof(ret_recovery->cluster), "%s", identity.cluster_name);
    snprintf(ret_recovery->node, sizeof(ret_recovery->node), "%s", identity.name);
    r = open_store(loop, data_folder, &identity, false, &store, err);
    if (r == 0) {
        store_status(store, &status);
        ret_recovery->end = status.log_end;
        store_close(store);
        r = ask_others(loop, &identity, ret_recovery, err);
    }
    identity_done(&identity);
    return r;
}

int cluster_recovery_judge(const struct cluster_recovery *recovery, struct error *err)
{
    for (size_t i = 0; i < recovery->other_count; i++) {
        const struct cluster_recovery_node *node = &recovery->others[i];
        if (node->has_leader) {
            return error_set(err, ERROR_CONFLICT,
                             "the cluster is not lost: %s knows a leader; start this node instead",
                             node->name);
        }
        if (node->answers && node->index > recovery->end) {
            return error_set(err, ERROR_CONFLICT,
                             "%s has index %" PRIu64 ", this node's log ends at %" PRIu64
                             ": what lies between was acknowledged and would be lost; recover on "
                             "a server whose log is longer",
                             node->name, node->index, recovery->end);
        }
    }
    return 0;
}

/* ---- Going on alone ---- */

static int write_down(struct store *store, uint64_t own_id, struct error *err)
{
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO removed_node (key, name, removed_ms) SELECT CAST(id AS TEXT), "
                      "key, ? FROM node WHERE role = 'server' AND id <> ? ON CONFLICT (key) DO "
                      "NOTHING",
                      "uu", clock_real_ms(), own_id);
    store_command_add(command, "DELETE FROM node WHERE role = 'server' AND id <> ?", "u", own_id);
    store_command_add_incarnation(command);
    return store_write(store, command, err);
}

int cluster_recovery_carry_out(struct loop *loop, const char *data_folder,
                               struct cluster_recovery *recovery, struct error *err)
{
    struct identity identity = {0};
    struct store *store = NULL;
    int r = read_identity(data_folder, &identity, err);
    if (r < 0) {
        return r;
    }
    r = open_store(loop, data_folder, &identity, true, &store, err);
    if (r == 0) {
        recovery->end = store_index(store);
        r = write_down(store, identity.id, err);
        store_close(store);
    }
    identity_done(&identity);
    return r;
}
