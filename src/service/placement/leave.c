/* Where a machine goes that has to leave its node, and who had better leave a full one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/placement/parts.h"

/* How long room is kept for one that is on its way, and has not come. */
enum { CLAIM_MS = 120000 };

struct leaving {
    char *project;
    char *name;
    json_t *config;
    char home[64]; /* "": it is there */
    bool is_idle;
};

static bool take_leaving(sqlite3_stmt *row, void *context)
{
    struct leaving *leaving = context;
    struct error ignored = {0};
    leaving->project = memory_copy_string(store_text(row, 0));
    leaving->name = memory_copy_string(store_text(row, 1));
    leaving->is_idle =
        strcmp(store_text(row, 3), "stopped") == 0 && sqlite3_column_int(row, 4) == 0;
    snprintf(leaving->home, sizeof(leaving->home), "%.63s", store_text(row, 5));
    json_read(store_text(row, 2), strlen(store_text(row, 2)), &leaving->config, &ignored);
    return false;
}

static void leaving_done(struct leaving *leaving)
{
    free(leaving->project);
    free(leaving->name);
    json_decref(leaving->config);
}

/* What is decided before it has come counts there. */
static void claim(struct placement_service *service, const struct asked *asked,
                  const struct placement_decision *decision)
{
    struct error ignored = {0};
    struct placement_allocation allocation = {
        .request = asked->request,
        .node = decision->node,
        .grant = decision->grant,
        .expires_ms = clock_real_ms() + CLAIM_MS,
    };
    placement_cluster_add(service->cluster, &allocation, &ignored);
}

void leave_forget(struct placement_service *service, const char *machine_id)
{
    char id[PLACEMENT_ID_MAX + 1];
    struct placement_change change = {0};
    struct error ignored = {0};
    snprintf(id, sizeof(id), "leave/%.200s", machine_id);
    if (placement_cluster_remove(service->cluster, id, &change, &ignored) == 0) {
        picture_tell(service, &change);
    }
}

static int decide(struct placement_service *service, struct asked *asked, const char *project,
                  char ret_node[64], struct error *err)
{
    struct placement_decision decision = {0};
    asked->request.may_displace = false;
    int r = measured_decide(service, asked, project, &decision, err);
    if (r == 0 && !decision.is_placed) {
        r = error_set(err, ERROR_UNAVAILABLE, "no node takes it: %.400s", decision.reason);
    }
    if (r == 0) {
        snprintf(ret_node, 64, "%.63s", decision.node_name);
        claim(service, asked, &decision);
    }
    placement_decision_done(&decision);
    return r;
}

int placement_service_find_other(struct placement_service *service, const char *machine_id,
                                 const char *but, char ret_node[64], struct error *err)
{
    struct leaving leaving = {0};
    struct asked *asked = NULL;
    picture_update(service);
    if (!service_is_known(service)) {
        return error_set(err, ERROR_UNAVAILABLE, "the nodes are not known yet");
    }
    int r = store_query(service->options.store, err, take_leaving, &leaving,
                        "SELECT m.project, m.name, m.config, m.desired, (SELECT v.runs_after FROM "
                        "machine_move v WHERE v.key = m.id), m.home FROM machine m WHERE m.id = ?",
                        "t", machine_id);
    if (r == 0 && leaving.config == NULL) {
        r = error_set(err, ERROR_NOT_FOUND, "there is no such machine any more");
    }
    if (r == 0) {
        const struct asked_of of = {.project = leaving.project,
                                    .name = leaving.name,
                                    .id = machine_id,
                                    .config = leaving.config,
                                    .leaves = but,
                                    .home = leaving.home,
                                    .is_idle = leaving.is_idle};
        asked = NEW(struct asked);
        leave_forget(service, machine_id);
        r = asked_init(asked, service, &of, err);
        if (r == 0) {
            snprintf(asked->id, sizeof(asked->id), "leave/%.200s", machine_id);
            asked->request.since_ms = 1; /* it has been there before who waits, and has to go */
            r = decide(service, asked, leaving.project, ret_node, err);
            asked_done(asked);
        }
    }
    free(asked);
    leaving_done(&leaving);
    return r;
}

int placement_service_plan_moves(struct placement_service *service,
                                 const struct placement_rebalance_options *options,
                                 struct placement_rebalance *ret_plan, struct error *err)
{
    picture_update(service);
    return service_is_known(service)
        ? placement_rebalance(service->cluster, options, clock_real_ms(), ret_plan, err)
        : error_set(err, ERROR_UNAVAILABLE, "the nodes are not known yet");
}
