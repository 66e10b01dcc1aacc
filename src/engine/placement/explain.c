/* Explaining: every node, with what refused it or with its score. */
#include <string.h>

#include "base/check.h"
#include "base/error.h"

#include "engine/placement/parts.h"

static void explain_node(const struct probe *probe, const struct node *node,
                         void (*visit)(const struct placement_verdict *verdict, void *context),
                         void *context)
{
    char reason[PLACEMENT_REASON_MAX] = "";
    struct refusal refusal = filter_node(probe, node);
    struct placement_verdict verdict = {
        .node = node->id->text,
        .node_name = node->name->text,
        .filter = refusal.filter,
        .reason = reason,
    };
    if (refusal.filter == PLACEMENT_PASSED) {
        verdict.score = score_node(probe, node, verdict.parts);
    } else {
        refusal_text(probe, node, refusal, reason);
    }
    visit(&verdict, context);
}

int placement_explain(struct placement_cluster *cluster, const struct placement_request *request,
                      const struct placement_options *options, uint64_t now_ms,
                      void (*visit)(const struct placement_verdict *verdict, void *context),
                      void *context, struct error *err)
{
    int r = check_options(options, err);
    if (r < 0) {
        return r;
    }
    reservations_lapse(cluster, now_ms);
    struct allocation *own = allocation_find(cluster, request->id);
    own = own != NULL && own->is_attached ? own : NULL;
    if (own != NULL) {
        allocation_detach(cluster, own);
    }
    struct probe probe;
    r = probe_init(&probe, cluster, request, options, err);
    if (r == 0) {
        compare_spreads(&probe);
        for (size_t i = 0; i < cluster->node_count; i++) {
            explain_node(&probe, cluster->nodes[i], visit, context);
        }
        probe_done(&probe);
    }
    if (own != NULL) {
        allocation_attach(cluster, own);
    }
    return r;
}

/* ---- What runs ---- */

/* Taints that drive away what runs; how long it may stay. */
static struct refusal judge_taints(const struct probe *probe, const struct node *node,
                                   uint32_t *ret_leave_s)
{
    *ret_leave_s = UINT32_MAX;
    for (size_t i = 0; i < node->class->taint_count; i++) {
        const struct placement_taint *taint = &node->class->taints[i];
        uint32_t limit_s;
        if (taint->effect != PLACEMENT_NO_EXECUTE) {
            continue;
        }
        if (!placement_rules_tolerate(probe->request->rules, taint, &limit_s)) {
            *ret_leave_s = 0;
            return (struct refusal){PLACEMENT_TAINT, (unsigned)i};
        }
        *ret_leave_s = limit_s < *ret_leave_s ? limit_s : *ret_leave_s;
    }
    return (struct refusal){PLACEMENT_PASSED, 0};
}

static struct refusal judge_constraints(const struct probe *probe, const struct node *node)
{
    const struct placement_rules *rules = probe->request->rules;
    const char *pool = placement_rules_pool(rules);
    if (strcmp(pool[0] != 0 ? pool : PLACEMENT_POOL_DEFAULT, node->class->pool->text) != 0) {
        return (struct refusal){PLACEMENT_POOL, 0};
    }
    for (size_t i = 0; rules != NULL && i < rules->constraint_count; i++) {
        const struct rule *rule = &rules->constraints[i];
        const struct word *name =
            word_find(probe->cluster, rule->attribute, strlen(rule->attribute));
        if (!rule_is_distinct(rule->op) &&
            !rule_holds(rule, node_attribute(probe->cluster, node, name))) {
            return (struct refusal){PLACEMENT_CONSTRAINT, (unsigned)i};
        }
    }
    return filter_rules(probe, node);
}

int placement_may_stay(struct placement_cluster *cluster, const char *id,
                       enum placement_filter *ret_filter, uint32_t *ret_leave_s,
                       char ret_reason[PLACEMENT_REASON_MAX], struct error *err)
{
    struct allocation *own = allocation_find(cluster, id);
    if (own == NULL || !own->is_attached) {
        return error_set(err, ERROR_NOT_FOUND, "%s is not placed", id);
    }
    allocation_detach(cluster, own);
    struct probe probe;
    int r = probe_init(&probe, cluster, &own->request, NULL, err);
    if (r == 0) {
        struct refusal refusal = judge_taints(&probe, own->node, ret_leave_s);
        if (refusal.filter == PLACEMENT_PASSED) {
            refusal = judge_constraints(&probe, own->node);
        }
        *ret_filter = refusal.filter;
        refusal_text(&probe, own->node, refusal, ret_reason);
        probe_done(&probe);
    }
    allocation_attach(cluster, own);
    return r;
}
