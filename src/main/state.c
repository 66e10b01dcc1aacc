/* Of the subsystems: the node's part in its cluster, which is there before the store and
 * after it, and the store. */
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/version.h"

#include "engine/store/store.h"

#include "service/cluster/cluster.h"

#include "surface/api/api.h"

#include "main/subsystems.h"

enum {
    WAIT_SAID_EVERY_MS = 10000,
    LEADERLESS_MS =
        5000, /* longer than an election, and than others pause before they dial again */
};

static void end(struct node *node, const struct error *error)
{
    node->end = *error;
    node->stopping = true;
    loop_stop(node->loop);
}

/* The log cannot be written any more: say it where people look, and refuse traffic.  A program that
 * is too old for what the others do now is of no use at all. */
static void on_store_failed(const struct error *error, void *context)
{
    struct node *node = context;
    log_error("store: %s", error->text);
    if (error->kind == ERROR_UNSUPPORTED) {
        end(node, error);
        return;
    }
    cluster_set_problem(node->cluster, error->text);
    if (node->api != NULL) {
        api_set_ready(node->api, error->text);
    }
}

static void on_cluster_end(const struct error *error, void *context)
{
    end(context, error);
}

/* A node that ran alone has a state of its own, which no cluster takes over. */
static int check_new(const struct node *node, const char *folder, struct error *err)
{
    MEMORY_OWNED char *store = memory_format("%s/store", node->folder);
    if (node->join_token == NULL || file_exists(folder) || !file_exists(store)) {
        return 0;
    }
    return error_set(err, ERROR_EXISTS,
                     "%s holds the state of a node that ran alone: a node joins a cluster with an "
                     "empty data folder",
                     node->folder);
}

int state_start_cluster(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = memory_format("%s/cluster", node->folder);
    const struct cluster_options options = {
        .loop = node->loop,
        .folder = folder,
        .node_name = node->name,
        .address = node->options.cluster_address,
        .advertise = node->options.advertise_address,
        .join_addresses = node->options.join_addresses,
        .failure_domain = node->options.failure_domain,
        .version = blixard_version,
        .isolation = vmm_isolation_text(node->isolation),
        .gateway = node->options.gateway_address,
        .certificate_lifetime_ms = node->options.certificate_lifetime_ms,
        .on_end = on_cluster_end,
        .context = node,
    };
    int r = check_new(node, folder, err);
    return r < 0 ? r : cluster_open(&options, node->join_token, &node->cluster, err);
}

void state_stop_cluster(struct node *node)
{
    cluster_close(node->cluster);
}

/* As long as the others are not there, this one is not, either; it says so, and waits on. */
static int wait_until_current(struct node *node, struct error *err)
{
    int r = -ERROR_TIMEOUT;
    while (r == -ERROR_TIMEOUT) {
        daemon_notify("EXTEND_TIMEOUT_USEC=120000000");
        r = store_wait(node->store, WAIT_SAID_EVERY_MS, err);
        if (r == -ERROR_TIMEOUT) {
            log_warn("the state is not current yet: %s; waiting for the other nodes", err->text);
        }
    }
    return r;
}

/*
 * The others went on while this node was away: before anybody asks it, it has what they
 * acknowledged.  Where nobody leads there is nothing to wait for: it serves what it has, as those
 * do that were there all the time.
 */
static int catch_up(struct node *node, struct error *err)
{
    struct error late = {0};
    daemon_notify("EXTEND_TIMEOUT_USEC=120000000");
    int r = store_catch_up(node->store, LEADERLESS_MS, &late);
    if (r == -ERROR_UNAVAILABLE) {
        log_warn(
            "the state may be older than that of the others: %s; this node serves what it has, "
            "and catches up when somebody leads",
            late.text);
        return 0;
    }
    *err = r < 0 ? late : *err;
    return r;
}

struct upgrade {
    struct node *node;
    struct error error;
    bool is_over;
};

static void on_upgraded(const struct error *error, void *context)
{
    struct upgrade *upgrade = context;
    upgrade->error = error != NULL ? *error : (struct error){0};
    upgrade->is_over = true;
    uv_stop(loop_uv(upgrade->node->loop));
}

/* A node that is alone asks nobody; in a cluster the leader does it when every node knows how. */
static int bring_up_to_date(struct node *node, struct error *err)
{
    struct upgrade upgrade = {.node = node};
    unsigned version = store_schema_version();
    if (store_schema_now(node->store) >= version) {
        return 0;
    }
    store_upgrade(node->store, version, on_upgraded, &upgrade);
    while (!upgrade.is_over) {
        loop_run(node->loop);
    }
    *err = upgrade.error;
    return -(int)err->kind;
}

static void on_leader(void *context)
{
    struct node *node = context;
    if (node->cluster != NULL) {
        cluster_leader_changed(node->cluster);
    }
}

int state_start_store(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = memory_format("%s/store", node->folder);
    struct store_options options = {
        .folder = folder, .on_failed = on_store_failed, .on_leader = on_leader, .context = node};
    cluster_fill_store_options(node->cluster, &options);
    int r = store_open(node->loop, &options, &node->store, err);
    if (r < 0) {
        cluster_stop(node->cluster);
        return r;
    }
    cluster_attach(node->cluster, node->store);
    if (cluster_is_member(node->cluster)) {
        r = wait_until_current(node, err);
        r = r < 0 ? r : catch_up(node, err);
    } else {
        r = bring_up_to_date(node, err);
    }
    if (r < 0) {
        cluster_stop(node->cluster);
        store_close(node->store);
        node->store = NULL; /* who ends what has begun looks whether there is one */
    }
    return r;
}

void state_stop_store(struct node *node)
{
    cluster_stop(node->cluster);
    store_close(node->store);
}
