/*
 * Decisions.
 *
 * A small cluster is looked at whole.  In a large one the classes that rules let pass are ranked by
 * what all their nodes have in common (affinity, spread, cost) and by their best bucket; the most
 * promising ones give some nodes each, from the best bucket on, beginning at a random one.  Where
 * that finds nothing, every node is looked at, and each refusal is counted.
 */
#include <math.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

enum {
    SAMPLE_DEFAULT = 96,
    RANKED_MAX = 24,
    QUOTA_LEAST = 4,
    LOOKS_PER_QUOTA = 4,
    MEMBERS_LOOKED_MAX = 64,
    PARTS_TOLD = 3,
};

struct ranked {
    struct class *class;
    double estimate;
    unsigned first; /* bucket */
};

struct search {
    struct probe *probe;
    struct placement_decision *decision;
    struct choice *choices; /* cluster's */
    size_t count, most;
    uint64_t random;
    bool is_complete; /* every node was looked at */
    struct node *displaceable[DISPLACE_NODES_MAX];
    size_t displaceable_count;
};

/* splitmix64 (Steele, 2014). */
uint64_t mix_bits(uint64_t value)
{
    value += 0x9e3779b97f4a7c15ULL;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
    return value ^ (value >> 31);
}

static size_t draw(struct search *search, size_t below)
{
    search->random = mix_bits(search->random);
    return below > 0 ? (size_t)(search->random % below) : 0;
}

void placement_options_init(struct placement_options *options, enum placement_strategy strategy)
{
    CHECK(strategy < PLACEMENT_STRATEGY_COUNT);
    *options = (struct placement_options){
        .strategy = strategy,
        .weights =
            {
                [PLACEMENT_PART_FIT] = 100,
                [PLACEMENT_PART_SHAPE] = 200,
                [PLACEMENT_PART_AFFINITY] = 100,
                [PLACEMENT_PART_SPREAD] = 100,
                [PLACEMENT_PART_GROUP] = 200,
                [PLACEMENT_PART_LOCAL] = 50,
                [PLACEMENT_PART_TRAFFIC] = 100,
                [PLACEMENT_PART_COST] = 0,
                [PLACEMENT_PART_TAINT] = 200,
                [PLACEMENT_PART_LOAD] = 50,
                [PLACEMENT_PART_AVOID] = 200,
                [PLACEMENT_PART_NUMA] = 100,
            },
        .sample_max = SAMPLE_DEFAULT,
        .band_percent = 1,
        .may_displace = true,
        .displaced_max = 8,
        .priority_gap = 10,
    };
    if (strategy == PLACEMENT_LEAST_COST) {
        options->weights[PLACEMENT_PART_COST] = 400;
    } else if (strategy == PLACEMENT_DATA_LOCAL) {
        options->weights[PLACEMENT_PART_LOCAL] = 400;
        options->weights[PLACEMENT_PART_TRAFFIC] = 400;
    } else if (strategy != PLACEMENT_BINPACK) {
        options->weights[PLACEMENT_PART_SHAPE] = 0;
    }
}

int check_options(const struct placement_options *options, struct error *err)
{
    for (enum placement_part i = 0; i < PLACEMENT_PART_COUNT; i++) {
        if (options->weights[i] > 1000) {
            return error_set(err, ERROR_INVALID, "the weight of %s is 0 to 1000 percent, not %u",
                             placement_part_name(i), options->weights[i]);
        }
    }
    if (options->strategy >= PLACEMENT_STRATEGY_COUNT || options->band_percent > 100 ||
        options->displaced_max > PLACEMENT_VICTIMS_MAX) {
        return error_set(err, ERROR_INVALID,
                         "placement options: a band of 0 to 100 percent and at most %d displaced",
                         PLACEMENT_VICTIMS_MAX);
    }
    return 0;
}

void placement_decision_done(struct placement_decision *decision)
{
    grant_done(&decision->grant);
    free(decision->victims);
    decision->victims = NULL;
    decision->victim_count = 0;
}

/* ---- Looking at nodes ---- */

/* Its class passed.  True: it is a candidate now. */
static bool consider(struct search *search, struct node *node)
{
    struct probe *probe = search->probe;
    if (node->mark == probe->cluster->mark || search->count == search->most) {
        return false;
    }
    node->mark = probe->cluster->mark;
    search->decision->nodes_looked++;
    if (filter_rules(probe, node).filter != PLACEMENT_PASSED ||
        filter_room(probe, node).filter != PLACEMENT_PASSED) {
        return false;
    }
    struct choice *choice = &search->choices[search->count++];
    choice->node = node;
    choice->score = score_node(probe, node, choice->parts);
    return true;
}

static void consider_any(struct search *search, struct node *node)
{
    if (node != NULL && filter_state(node).filter == PLACEMENT_PASSED &&
        filter_class(search->probe, node->class).filter == PLACEMENT_PASSED) {
        consider(search, node);
    }
}

/* Nodes that the index of free room does not know to be good: where data is, and where those are
 * that it is to be together with. */
static void search_named(struct search *search)
{
    const struct probe *probe = search->probe;
    const struct placement_request *request = probe->request;
    for (size_t i = 0; i < request->hint_count; i++) {
        consider_any(search, node_by_id(probe->cluster, request->hints[i].node));
    }
    for (size_t i = 0; i < probe->tie_count; i++) {
        consider_any(search, (struct node *)(uintptr_t)probe->ties[i].node);
    }
    if (probe->group == NULL || request->group.policy != PLACEMENT_GROUP_COMPACT) {
        return;
    }
    size_t looked = 0;
    LIST_EACH(link, &probe->group->members)
    {
        if (looked++ == MEMBERS_LOOKED_MAX) {
            return;
        }
        consider_any(search, LIST_ITEM(link, struct member, link)->of->node);
    }
}

static void may_displace(struct search *search, struct node *node, enum placement_filter filter)
{
    const struct probe *probe = search->probe;
    if (filter >= PLACEMENT_RESOURCE && probe->request->may_displace &&
        probe->options->may_displace && node->lowest != UINT8_MAX &&
        node->lowest + probe->options->priority_gap <= probe->request->priority &&
        search->displaceable_count < DISPLACE_NODES_MAX &&
        class_may_have_room(probe, node->class)) {
        search->displaceable[search->displaceable_count++] = node;
    }
}

static void search_all(struct search *search)
{
    struct placement_cluster *cluster = search->probe->cluster;
    size_t start = draw(search, cluster->node_count);
    cluster->mark++;
    search->count = 0;
    memset(search->decision->refused, 0, sizeof(search->decision->refused));
    memset(search->decision->lacking, 0, sizeof(search->decision->lacking));
    for (size_t i = 0; i < cluster->node_count && search->count < search->most; i++) {
        struct node *node = cluster->nodes[(start + i) % cluster->node_count];
        struct refusal refusal = filter_node(search->probe, node);
        search->decision->nodes_looked++;
        search->decision->refused[refusal.filter]++;
        if (refusal.filter == PLACEMENT_RESOURCE) {
            search->decision->lacking[refusal.which]++;
        }
        if (refusal.filter != PLACEMENT_PASSED) {
            may_displace(search, node, refusal.filter);
            continue;
        }
        struct choice *choice = &search->choices[search->count++];
        choice->node = node;
        choice->score = score_node(search->probe, node, choice->parts);
    }
    search->is_complete = true;
}

/* `=` of a name or id: there is one node to look at. */
static void search_pinned(struct search *search, const struct rule *pin)
{
    struct placement_cluster *cluster = search->probe->cluster;
    bool is_id = strcmp(pin->attribute, "node.id") == 0;
    struct node *node =
        map_get(is_id ? &cluster->nodes_by_id : &cluster->nodes_by_name, pin->value);
    consider_any(search, node);
}

/* ---- Classes ---- */

static size_t order_for(const struct probe *probe)
{
    return probe->devices > 0 ? 1 : 0;
}

/* The share of an empty node that is needed, of what the order is by. */
static double needed_share(const struct probe *probe, const struct class *class)
{
    if (probe->devices > 0) {
        return (double)probe->devices / class->devices;
    }
    double most = 0;
    for (enum placement_resource i = PLACEMENT_CPU_MILLI; i <= PLACEMENT_MEMORY; i++) {
        double limit = (double)class->limit.of[i];
        uint64_t cores = i == PLACEMENT_CPU_MILLI ? cores_cost(class, probe->cores) : 0;
        double share = limit > 0 ? (double)(probe->need.of[i] + cores) / limit : 0;
        most = share > most ? share : most;
    }
    return most;
}

static bool is_from_empty(const struct probe *probe)
{
    return probe->options->strategy == PLACEMENT_SPREAD ||
        probe->options->strategy == PLACEMENT_BALANCED;
}

/* False: no node of the class is sure to have room. */
static bool rank(const struct probe *probe, struct class *class, struct ranked *ret_ranked)
{
    if (class->ordered_count == 0 || !class_may_have_room(probe, class)) {
        return false;
    }
    double share = needed_share(probe, class);
    unsigned first = share < 1 ? (unsigned)(share * BUCKETS) : BUCKETS - 1;
    uint64_t enough = class->orders[order_for(probe)].filled >> first;
    if (enough == 0) {
        return false;
    }
    unsigned lowest = first + (unsigned)__builtin_ctzll(enough);
    unsigned highest = first + 63 - (unsigned)__builtin_clzll(enough);
    double fit = is_from_empty(probe) ? (double)highest / BUCKETS : 1 - (double)lowest / BUCKETS;
    *ret_ranked = (struct ranked){
        .class = class,
        .estimate = fit * probe->options->weights[PLACEMENT_PART_FIT] / 100,
        .first = first,
    };
    return true;
}

/* What spreads without targets compare with: the least count where there is room. */
static void find_least(struct probe *probe, const struct ranked *ranked, size_t count)
{
    for (size_t i = 0; i < probe->leaning_count; i++) {
        struct leaning *leaning = &probe->leanings[i];
        size_t members = probe->job != NULL ? probe->job->count : 0;
        leaning->least = leaning->is_unique && probe->cluster->node_count > 0
            ? (uint32_t)(members / probe->cluster->node_count)
            : UINT32_MAX;
        for (size_t k = 0; k < count && !leaning->is_unique && leaning->rule->target_count == 0;
             k++) {
            const struct word *value = class_value(ranked[k].class, leaning->attribute);
            uint32_t here = tally_of(leaning->tally, value);
            if (value != NULL && here < leaning->least) {
                leaning->least = here;
            }
        }
        leaning->least = leaning->least == UINT32_MAX ? 0 : leaning->least;
    }
}

/* Keep the best, the best one first; of equals the one that came first (from a random start). */
static size_t keep_best(struct ranked *best, size_t count, const struct ranked *one)
{
    if (count == RANKED_MAX && one->estimate <= best[count - 1].estimate) {
        return count;
    }
    size_t at = count < RANKED_MAX ? count : RANKED_MAX - 1;
    while (at > 0 && best[at - 1].estimate < one->estimate) {
        best[at] = best[at - 1];
        at--;
    }
    best[at] = *one;
    return count < RANKED_MAX ? count + 1 : count;
}

static size_t rank_classes(struct search *search, struct ranked *best)
{
    struct probe *probe = search->probe;
    const struct shape *shape = probe->shape;
    struct ranked all[CLASSES_SCANNED_MAX];
    all[0] = (struct ranked){0};
    size_t start = draw(search, shape->passed_count), count = 0, kept = 0;
    for (size_t i = 0; i < shape->passed_count && count < CLASSES_SCANNED_MAX; i++) {
        struct class *class = shape->passed[(start + i) % shape->passed_count];
        count += rank(probe, class, &all[count]);
    }
    find_least(probe, all, count);
    for (size_t i = 0; i < count; i++) {
        all[i].estimate += score_class(probe, all[i].class);
        kept = keep_best(best, kept, &all[i]);
    }
    return kept;
}

/* Look at a bucket from a random place on; false: there was enough looking. */
static bool scan_bucket(struct search *search, const struct bucket *bucket, size_t *looks,
                        size_t *quota)
{
    size_t start = draw(search, bucket->count);
    for (size_t i = 0; i < bucket->count; i++) {
        if (*looks == 0 || *quota == 0) {
            return false;
        }
        (*looks)--;
        *quota -= consider(search, bucket->items[(start + i) % bucket->count]);
    }
    return *looks > 0 && *quota > 0;
}

static void scan_class(struct search *search, const struct ranked *ranked, size_t quota)
{
    const struct order *order = &ranked->class->orders[order_for(search->probe)];
    size_t looks = quota * LOOKS_PER_QUOTA;
    if (is_from_empty(search->probe)) {
        for (int i = BUCKETS - 1; i >= 0; i--) {
            if (!scan_bucket(search, &order->buckets[i], &looks, &quota)) {
                return;
            }
        }
        return;
    }
    for (unsigned i = ranked->first; i < BUCKETS; i++) {
        if (!scan_bucket(search, &order->buckets[i], &looks, &quota)) {
            return;
        }
    }
    /* What is scarce at these may not be what is wanted. */
    for (int i = (int)ranked->first - 1; i >= 0; i--) {
        if (!scan_bucket(search, &order->buckets[i], &looks, &quota)) {
            return;
        }
    }
}

void compare_spreads(struct probe *probe)
{
    struct ranked best[RANKED_MAX];
    struct search search = {.probe = probe};
    find_least(probe, NULL, 0);
    rank_classes(&search, best);
}

static void search_classes(struct search *search)
{
    struct ranked best[RANKED_MAX];
    size_t count = rank_classes(search, best);
    size_t quota = count > 0 ? search->most / count : 0;
    quota = quota < QUOTA_LEAST ? QUOTA_LEAST : quota;
    for (size_t i = 0; i < count && search->count < search->most; i++) {
        scan_class(search, &best[i], quota);
    }
}

/* ---- Choosing ---- */

static const struct choice *choose(struct search *search)
{
    double best = -INFINITY;
    for (size_t i = 0; i < search->count; i++) {
        best = search->choices[i].score > best ? search->choices[i].score : best;
    }
    double least = best - search->probe->options->band_percent / 100.0;
    size_t in_band = 0;
    for (size_t i = 0; i < search->count; i++) {
        in_band += search->choices[i].score >= least;
    }
    size_t chosen = draw(search, in_band);
    for (size_t i = 0;; i++) {
        CHECK(i < search->count);
        if (search->choices[i].score >= least && chosen-- == 0) {
            return &search->choices[i];
        }
    }
}

/* The parts that weigh most, in words. */
static void tell_choice(const struct search *search, const struct choice *choice, const char *how)
{
    struct placement_decision *decision = search->decision;
    const uint32_t *weights = search->probe->options->weights;
    int length = snprintf(decision->reason, sizeof(decision->reason), "%s %u nodes with room", how,
                          decision->nodes_passed);
    bool told[PLACEMENT_PART_COUNT] = {false};
    for (size_t i = 0; i < PARTS_TOLD; i++) {
        size_t most = PLACEMENT_PART_COUNT;
        double value = 0.0005;
        for (size_t k = 0; k < PLACEMENT_PART_COUNT; k++) {
            double weighed = fabs(choice->parts[k] * weights[k] / 100);
            if (!told[k] && weighed > value) {
                most = k;
                value = weighed;
            }
        }
        if (most == PLACEMENT_PART_COUNT) {
            return;
        }
        told[most] = true;
        length += snprintf(decision->reason + length, sizeof(decision->reason) - (size_t)length,
                           "%s%s %+.2f", i == 0 ? ": " : ", ",
                           placement_part_name((enum placement_part)most),
                           choice->parts[most] * weights[most] / 100);
    }
}

/* Who has cores of its own reads of which NUMA node, or of how many. */
static void tell_numa(const struct search *search, const struct node *node)
{
    struct placement_decision *decision = search->decision;
    const struct placement_grant *grant = &decision->grant;
    size_t length = strlen(decision->reason);
    uint32_t nodes = 0;
    if (grant->core_count == 0 || node->numa_count < 2) {
        return;
    }
    for (size_t i = 0; i < node->numa_count; i++) {
        const struct numa *numa = &node->numa[i];
        bool is_of = false;
        for (size_t k = 0; k < grant->core_count; k++) {
            is_of = is_of || grant->cores[k] - numa->core_first < numa->core_count;
        }
        nodes += is_of;
    }
    if (grant->numa >= 0) {
        snprintf(decision->reason + length, sizeof(decision->reason) - length,
                 "; all of it is of one NUMA node");
    } else if (nodes == 1) {
        snprintf(decision->reason + length, sizeof(decision->reason) - length,
                 "; its cores are of one NUMA node, which has too little memory for it");
    } else {
        snprintf(decision->reason + length, sizeof(decision->reason) - length,
                 "; no NUMA node has all of it: its cores are of %u", nodes);
    }
}

static void set_node(struct placement_decision *decision, const struct node *node)
{
    decision->is_placed = true;
    snprintf(decision->node, sizeof(decision->node), "%s", node->id->text);
    snprintf(decision->node_name, sizeof(decision->node_name), "%s", node->name->text);
}

static void settle(struct search *search, const struct choice *choice, const char *how)
{
    struct placement_decision *decision = search->decision;
    enum placement_filter lacking;
    unsigned which;
    set_node(decision, choice->node);
    decision->score = choice->score;
    memcpy(decision->parts, choice->parts, sizeof(decision->parts));
    decision->nodes_passed = (uint32_t)search->count;
    bool found = grant_find(search->probe, choice->node, &decision->grant, &lacking, &which);
    CHECK(found);
    tell_choice(search, choice, how);
    tell_numa(search, choice->node);
}

/* "no node has 2 gpu, 1 network": free, or at all; each node's reason says which. */
static void tell_devices(const struct placement_demand *demand, struct placement_decision *decision)
{
    int length = snprintf(decision->reason, sizeof(decision->reason), "no node has");
    for (size_t i = 0; i < demand->device_count && (size_t)length < sizeof(decision->reason); i++) {
        const struct placement_device_demand *device = &demand->devices[i];
        bool any = device->models == NULL || device->models[0] == 0;
        length += snprintf(decision->reason + length, sizeof(decision->reason) - (size_t)length,
                           "%s %u free device%s %.40s%s%.60s", i > 0 ? "," : "", device->count,
                           device->count > 1 ? "s" : "", device->class_name, any ? "" : " ",
                           any ? "" : device->models);
    }
}

/* Another number of nodes and what they lack. */
static void tell_count(struct placement_decision *decision, uint32_t nodes, const char *what,
                       const char **between)
{
    size_t length = strlen(decision->reason);
    if (nodes > 0) {
        snprintf(decision->reason + length, sizeof(decision->reason) - length, "%s%u %s", *between,
                 nodes, what);
        *between = ", ";
    }
}

static void tell_refusals(const struct placement_demand *demand,
                          struct placement_decision *decision, size_t nodes)
{
    if (nodes > 0 && decision->refused[PLACEMENT_DEVICE] == nodes) {
        tell_devices(demand, decision);
        return;
    }
    snprintf(decision->reason, sizeof(decision->reason),
             nodes == 0 ? "there are no nodes" : "none of %zu nodes", nodes);
    const char *between = ": ";
    for (enum placement_filter i = PLACEMENT_NOT_READY; i < PLACEMENT_FILTER_COUNT; i++) {
        if (i != PLACEMENT_RESOURCE) {
            tell_count(decision, decision->refused[i], placement_filter_name(i), &between);
        }
        for (enum placement_resource k = 0; i == PLACEMENT_RESOURCE && k < PLACEMENT_RESOURCE_COUNT;
             k++) {
            tell_count(decision, decision->lacking[k], placement_resource_name(k), &between);
        }
    }
}

static void refuse(struct search *search, uint64_t next_ms)
{
    struct placement_decision *decision = search->decision;
    decision->wakes = PLACEMENT_WAKE_NODE;
    for (enum placement_filter i = PLACEMENT_PASSED; i < PLACEMENT_FILTER_COUNT; i++) {
        decision->wakes |= decision->refused[i] > 0 ? refusal_wakes(i) : 0;
    }
    uint32_t by_going = PLACEMENT_WAKE_RESOURCES | PLACEMENT_WAKE_DISTINCT | PLACEMENT_WAKE_GROUP;
    if ((decision->wakes & by_going) != 0 && next_ms != 0) {
        decision->wakes |= PLACEMENT_WAKE_RESERVATION;
        decision->wake_ms = next_ms;
    }
    tell_refusals(&search->probe->request->demand, decision, search->probe->cluster->node_count);
}

/* ---- Reservations ---- */

/* The request's own reservation makes room for it: there, if the node still passes. */
static bool take_reservation(struct search *search)
{
    struct probe *probe = search->probe;
    struct allocation *reservation = allocation_find(probe->cluster, probe->request->reservation);
    if (reservation == NULL || reservation->expires_ms == 0 || !reservation->is_attached) {
        return false;
    }
    allocation_detach(probe->cluster, reservation);
    consider_any(search, reservation->node);
    bool found = search->count > 0;
    if (found) {
        settle(search, &search->choices[0], "its reservation is there; of");
        search->decision->takes_reservation = true;
    }
    allocation_attach(probe->cluster, reservation);
    return found;
}

/* ---- All ---- */

static void choices_reserve(struct placement_cluster *cluster, size_t most)
{
    if (cluster->choice_room < most) {
        cluster->choices = memory_resize(cluster->choices, most * sizeof(struct choice));
        cluster->choice_room = most;
    }
}

static void find_candidates(struct search *search)
{
    struct probe *probe = search->probe;
    const struct placement_options *options = probe->options;
    compare_spreads(probe);
    if (probe->shape->pin != NULL) {
        search_pinned(search, probe->shape->pin);
    } else if (options->sample_max != 0 && probe->cluster->node_count > options->sample_max) {
        search_named(search);
        search_classes(search);
    }
    if (search->count == 0) {
        search_all(search);
    }
}

static void run(struct search *search, uint64_t next_ms)
{
    struct probe *probe = search->probe;
    if (probe->request->reservation != NULL && take_reservation(search)) {
        return;
    }
    probe->cluster->mark++;
    search->count = 0;
    find_candidates(search);
    if (search->count > 0) {
        settle(search, choose(search),
               search->is_complete ? "the best of" : "the best of a sample of");
        return;
    }
    struct node *node = find_displaceable(probe, search->displaceable, search->displaceable_count,
                                          search->decision);
    if (node != NULL) {
        set_node(search->decision, node);
        search->decision->score = score_node(probe, node, search->decision->parts);
        return;
    }
    refuse(search, next_ms);
}

int decide_one(struct placement_cluster *cluster, const struct placement_request *request,
               const struct placement_options *options, uint64_t now_ms,
               struct placement_decision *ret_decision, struct error *err)
{
    uint64_t next_ms = reservations_lapse(cluster, now_ms);
    struct probe probe;
    int r = probe_init(&probe, cluster, request, options, err);
    if (r < 0) {
        return r;
    }
    *ret_decision = (struct placement_decision){.grant.numa = -1};
    bool is_sampled = options->sample_max != 0 && options->sample_max < cluster->node_count;
    struct search search = {
        .probe = &probe,
        .decision = ret_decision,
        .most = is_sampled ? options->sample_max : cluster->node_count + 1,
        .random = mix_bits(options->seed) ^ hash_stable(request->id),
    };
    choices_reserve(cluster, search.most);
    search.choices = cluster->choices;
    cluster->mark++;
    run(&search, next_ms);
    probe_done(&probe);
    return 0;
}

int placement_decide(struct placement_cluster *cluster, const struct placement_request *request,
                     const struct placement_options *options, uint64_t now_ms,
                     struct placement_decision *ret_decision, struct error *err)
{
    int r = check_options(options, err);
    return r < 0 ? r : decide_one(cluster, request, options, now_ms, ret_decision, err);
}
