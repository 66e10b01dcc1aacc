/*
 * First the servers are chosen that there should be (choose_target), from nothing but what is seen;
 * then one step is made towards them.  The choice has no memory and prefers whoever is a server
 * already, so that it stays what it is while the nodes stay what they are.
 */
#include "service/cluster/membership.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"

enum { TARGET_MAX = 5 };

struct target {
    const struct membership_node *nodes[TARGET_MAX];
    size_t count;
};

const char *membership_action_text(enum membership_action action)
{
    switch (action) {
    case MEMBERSHIP_NONE:
        return "none";
    case MEMBERSHIP_ENLIST:
        return "enlist";
    case MEMBERSHIP_ADD:
        return "add";
    case MEMBERSHIP_REMOVE:
        return "remove";
    case MEMBERSHIP_TRANSFER:
        return "transfer";
    case MEMBERSHIP_DISMISS:
        return "dismiss";
    }
    CHECK_UNREACHABLE();
}

/* ---- What is seen of one node ---- */

static bool is_voter(const struct membership_node *node)
{
    return node->role == MEMBERSHIP_VOTER;
}

static bool wants_out(const struct membership_node *node)
{
    return node->is_leaving || node->wish == MEMBERSHIP_WANTED_WORKER;
}

static bool is_healthy_for(const struct membership_input *input, const struct membership_node *node,
                           uint64_t duration_ms)
{
    return node->health == CLUSTER_HEALTHY && input->now_ms >= node->health_since_ms &&
        input->now_ms - node->health_since_ms >= duration_ms;
}

/* Its place may be taken. */
static bool is_given_up(const struct membership_input *input, const struct membership_node *node)
{
    bool is_past_grace = node->health == CLUSTER_LOST && input->now_ms >= node->health_since_ms &&
        input->now_ms - node->health_since_ms >= input->lost_grace_ms;
    return is_past_grace || node->is_unfit;
}

static bool is_live_voter(const struct membership_node *node)
{
    return is_voter(node) && node->health == CLUSTER_HEALTHY;
}

static bool may_become_voter(const struct membership_input *input,
                             const struct membership_node *node)
{
    bool is_stuck = node->role == MEMBERSHIP_ENLISTED && input->now_ms >= node->role_since_ms &&
        input->now_ms - node->role_since_ms >= MEMBERSHIP_ENLIST_MS;
    return !is_stuck && !node->is_unfit && node->schema >= input->schema &&
        is_healthy_for(input, node, MEMBERSHIP_STABLE_MS);
}

static bool is_in_pool(const struct membership_input *input, const struct membership_node *node)
{
    return !wants_out(node) && (is_voter(node) || may_become_voter(input, node));
}

/* ---- Who should be a server ---- */

static bool has(const struct target *target, const struct membership_node *node)
{
    for (size_t i = 0; i < target->count; i++) {
        if (target->nodes[i] == node) {
            return true;
        }
    }
    return false;
}

static unsigned neighbours(const struct target *target, const struct membership_node *node)
{
    unsigned count = 0;
    for (size_t i = 0; i < target->count && node->failure_domain[0] != '\0'; i++) {
        count += strcmp(target->nodes[i]->failure_domain, node->failure_domain) == 0;
    }
    return count;
}

/* Is `a` to be taken before `b`, after those in `target`?  `b` NULL: yes. */
static bool is_better(const struct membership_input *input, const struct target *target,
                      const struct membership_node *a, const struct membership_node *b)
{
    if (b == NULL) {
        return true;
    }
    if (is_given_up(input, a) != is_given_up(input, b)) {
        return is_given_up(input, b);
    }
    if (a->wish != b->wish) { /* of the pool none is to be a worker */
        return a->wish == MEMBERSHIP_WANTED_SERVER;
    }
    if (neighbours(target, a) != neighbours(target, b)) {
        return neighbours(target, a) < neighbours(target, b);
    }
    if (a->role != b->role) { /* in the order of how far they have come */
        return a->role > b->role;
    }
    if (a->is_leader != b->is_leader) {
        return a->is_leader;
    }
    return a->id < b->id;
}

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

static unsigned most(unsigned a, unsigned b)
{
    return a > b ? a : b;
}

static unsigned target_size(const struct membership_input *input)
{
    unsigned pool = 0;
    unsigned staying = 0;
    unsigned asked_for = 0;
    for (size_t i = 0; i < input->count; i++) {
        const struct membership_node *node = &input->nodes[i];
        if (is_in_pool(input, node)) {
            pool++;
            staying += is_voter(node);
            asked_for += node->wish == MEMBERSHIP_WANTED_SERVER;
        }
    }
    unsigned size = least(pool, input->wanted);
    if (size == 0 || size % 2 == 1) {
        return size;
    }
    /* An even number only where it is so already, or where a person asked for it. */
    return most(size - 1, most(least(staying, input->wanted), least(asked_for, input->wanted)));
}

static void choose_target(const struct membership_input *input, struct target *ret_target)
{
    unsigned size = target_size(input);
    CHECK(size <= TARGET_MAX);
    *ret_target = (struct target){0};
    while (ret_target->count < size) {
        const struct membership_node *best = NULL;
        for (size_t i = 0; i < input->count; i++) {
            const struct membership_node *node = &input->nodes[i];
            if (is_in_pool(input, node) && !has(ret_target, node) &&
                is_better(input, ret_target, node, best)) {
                best = node;
            }
        }
        CHECK(best != NULL); /* the size is at most that of the pool */
        ret_target->nodes[ret_target->count++] = best;
    }
}

/* ---- Is it a time for it? ---- */

struct census {
    unsigned voters;
    unsigned live;    /* voters, healthy */
    unsigned staying; /* voters that are neither given up nor want out */
    const struct membership_node *leader;
};

static struct census take_census(const struct membership_input *input)
{
    struct census census = {0};
    for (size_t i = 0; i < input->count; i++) {
        const struct membership_node *node = &input->nodes[i];
        census.voters += is_voter(node);
        census.live += is_live_voter(node);
        census.staying += is_voter(node) && !wants_out(node) && !is_given_up(input, node);
        if (node->is_leader && is_voter(node)) {
            census.leader = node;
        }
    }
    CHECK(census.live <= census.voters);
    return census;
}

static bool is_majority(unsigned live, unsigned voters)
{
    return live >= voters / 2 + 1;
}

static bool is_calm(const struct membership_input *input)
{
    return input->now_ms >= input->changed_ms &&
        input->now_ms - input->changed_ms >= MEMBERSHIP_CALM_MS;
}

/* What is not urgent may be done. */
static bool is_leisure(const struct membership_input *input, const struct census *census)
{
    return census->live == census->voters && is_calm(input);
}

/* ---- One step ---- */

__attribute__((format(printf, 4, 5))) static bool decide(struct membership_decision *decision,
                                                         enum membership_action action, uint64_t id,
                                                         const char *format, ...)
{
    decision->action = action;
    decision->id = id;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(decision->reason, sizeof(decision->reason), format, arguments);
    va_end(arguments);
    return true;
}

/* The first of the target that is no voter yet, or NULL; in the order in which they were chosen. */
static const struct membership_node *missing(const struct target *target)
{
    for (size_t i = 0; i < target->count; i++) {
        if (!is_voter(target->nodes[i])) {
            return target->nodes[i];
        }
    }
    return NULL;
}

static bool grow(const struct membership_input *input, const struct target *target,
                 const struct census *census, struct membership_decision *decision)
{
    const struct membership_node *node = missing(target);
    if (node == NULL || census->voters > target->count) {
        return false; /* nobody, or first the number must come down */
    }
    bool is_urgent = census->staying < target->count || node->wish == MEMBERSHIP_WANTED_SERVER;
    if (!is_urgent &&
        !(is_leisure(input, census) && is_healthy_for(input, node, MEMBERSHIP_SPREAD_MS))) {
        return decide(decision, MEMBERSHIP_NONE, 0, "%s will spread the servers better, later",
                      node->name);
    }
    if (!is_majority(census->live, census->voters) ||
        !is_majority(census->live + 1, census->voters + 1)) {
        return decide(decision, MEMBERSHIP_NONE, 0,
                      "%s is to be a server, but only %u of %u servers are well", node->name,
                      census->live, census->voters);
    }
    const char *why = is_urgent ? "is needed as a server" : "spreads the servers better";
    switch (node->role) {
    case MEMBERSHIP_WORKER:
        return decide(decision, MEMBERSHIP_ENLIST, node->id, "%s %s", node->name, why);
    case MEMBERSHIP_ENLISTED:
        return decide(decision, MEMBERSHIP_NONE, 0, "%s is about to become a server", node->name);
    case MEMBERSHIP_WAITING:
    case MEMBERSHIP_STANDBY:
        return decide(decision, MEMBERSHIP_ADD, node->id, "%s %s", node->name, why);
    case MEMBERSHIP_VOTER:
        break;
    }
    CHECK_UNREACHABLE();
}

/* Is `a` to go before `b`? */
static bool goes_first(const struct membership_input *input, const struct membership_node *a,
                       const struct membership_node *b)
{
    if (b == NULL) {
        return true;
    }
    if (is_given_up(input, a) != is_given_up(input, b)) {
        return is_given_up(input, a);
    }
    if (wants_out(a) != wants_out(b)) {
        return wants_out(a);
    }
    if (a->is_leader != b->is_leader) {
        return b->is_leader;
    }
    return a->id > b->id;
}

static const struct membership_node *surplus(const struct membership_input *input,
                                             const struct target *target)
{
    const struct membership_node *first = NULL;
    for (size_t i = 0; i < input->count; i++) {
        const struct membership_node *node = &input->nodes[i];
        if (is_voter(node) && !has(target, node) && goes_first(input, node, first)) {
            first = node;
        }
    }
    return first;
}

/* How well it would lead: it stays, and can write. */
static unsigned suits(const struct target *target, const struct membership_node *node)
{
    return (has(target, node) ? 2U : 0U) + (node->is_unfit ? 0U : 1U);
}

/*
 * Who leads instead of one that goes: of those that stay the one that is furthest, else of those
 * that are there now (those that shall stay may be none of the servers yet).
 */
static const struct membership_node *successor(const struct membership_input *input,
                                               const struct target *target)
{
    const struct membership_node *best = NULL;
    for (size_t i = 0; i < input->count; i++) {
        const struct membership_node *node = &input->nodes[i];
        if (!is_live_voter(node) || wants_out(node) || node->is_leader) {
            continue;
        }
        if (best == NULL || suits(target, node) > suits(target, best) ||
            (suits(target, node) == suits(target, best) && node->lag < best->lag)) {
            best = node;
        }
    }
    return best;
}

static bool hand_over(const struct membership_input *input, const struct target *target,
                      const struct membership_node *leader, struct membership_decision *decision)
{
    const struct membership_node *next = successor(input, target);
    if (next == NULL) {
        return decide(decision, MEMBERSHIP_NONE, 0, "%s leads, and nobody can lead instead",
                      leader->name);
    }
    return decide(decision, MEMBERSHIP_TRANSFER, next->id, "%s leads, and is to be no server",
                  leader->name);
}

static bool shrink(const struct membership_input *input, const struct target *target,
                   const struct census *census, struct membership_decision *decision)
{
    const struct membership_node *node = surplus(input, target);
    if (node == NULL) {
        return false;
    }
    if (target->count == 0) {
        return decide(decision, MEMBERSHIP_NONE, 0, "%s is to be no server, and nobody else can be",
                      node->name);
    }
    bool is_urgent = is_given_up(input, node) || wants_out(node);
    if (!is_urgent && !is_leisure(input, census)) {
        return decide(decision, MEMBERSHIP_NONE, 0, "%s is one server too many, later", node->name);
    }
    unsigned left = census->live - is_live_voter(node);
    if (!is_majority(census->live, census->voters) || !is_majority(left, census->voters - 1)) {
        return decide(decision, MEMBERSHIP_NONE, 0,
                      "%s is to be no server, but only %u of %u others are well", node->name, left,
                      census->voters - 1);
    }
    if (node->is_leader) {
        return hand_over(input, target, node, decision);
    }
    const char *why = node->is_leaving           ? "is leaving"
        : node->wish == MEMBERSHIP_WANTED_WORKER ? "is to be a worker"
        : node->is_unfit                         ? "cannot write"
        : is_given_up(input, node)               ? "is lost"
                                                 : "is one server too many";
    return decide(decision, MEMBERSHIP_REMOVE, node->id, "%s %s", node->name, why);
}

/* What changes left behind: nodes that are half a server, and not needed. */
static bool tidy_up(const struct membership_input *input, const struct target *target,
                    const struct census *census, struct membership_decision *decision)
{
    for (size_t i = 0; i < input->count; i++) {
        const struct membership_node *node = &input->nodes[i];
        if (has(target, node)) {
            continue;
        }
        bool is_left_over = node->role == MEMBERSHIP_STANDBY && is_calm(input) &&
            is_majority(census->live, census->voters);
        if (is_left_over) {
            return decide(decision, MEMBERSHIP_REMOVE, node->id, "%s was never added completely",
                          node->name);
        }
        bool is_idle = node->role == MEMBERSHIP_WAITING && node->wish == MEMBERSHIP_AUTO &&
            !node->is_leaving && node->health == CLUSTER_HEALTHY &&
            input->now_ms >= node->role_since_ms &&
            input->now_ms - node->role_since_ms >= MEMBERSHIP_WAITING_MS;
        if (is_idle) {
            return decide(decision, MEMBERSHIP_DISMISS, node->id, "%s is not needed as a server",
                          node->name);
        }
    }
    return false;
}

void membership_decide(const struct membership_input *input,
                       struct membership_decision *ret_decision)
{
    CHECK(input->wanted == 1 || input->wanted == 3 || input->wanted == 5);
    CHECK(input->count <= MEMBERSHIP_NODES_MAX);

    struct membership_decision *decision = ret_decision;
    decide(decision, MEMBERSHIP_NONE, 0, "%s", "");
    if (input->is_changing) {
        decide(decision, MEMBERSHIP_NONE, 0, "a change is under way");
        return;
    }
    if (input->now_ms < input->begun_ms + MEMBERSHIP_LOOK_MS) {
        decide(decision, MEMBERSHIP_NONE, 0, "the leader is new, and looks around");
        return;
    }
    struct census census = take_census(input);
    if (census.leader == NULL) {
        decide(decision, MEMBERSHIP_NONE, 0, "nobody leads");
        return;
    }
    struct target target;
    choose_target(input, &target);
    if (!grow(input, &target, &census, decision) && !shrink(input, &target, &census, decision)) {
        tidy_up(input, &target, &census, decision);
    }
    CHECK_IMPLIES(decision->action != MEMBERSHIP_NONE, decision->id != 0);
}

unsigned membership_schema(const struct membership_node *nodes, size_t count, unsigned now,
                           unsigned known, uint64_t *ret_holding)
{
    unsigned lowest = known;
    *ret_holding = 0;
    for (size_t i = 0; i < count; i++) {
        /* A voter that is leaving applies what is committed before it is gone. */
        bool counts = is_voter(&nodes[i]) || !nodes[i].is_leaving;
        if (counts && nodes[i].schema < lowest) {
            lowest = nodes[i].schema;
            *ret_holding = nodes[i].id;
        }
    }
    return most(lowest, now);
}
