/*
 * placement-sim [--nodes N] [--machines N] [--seed N] [--seeds COUNT] [--trace]
 *
 * A cluster of thousands of nodes in virtual time, on the placement engine of the daemon: machines
 * come and go, nodes die and return, labels change, a zone fails and heals, nodes are drained one
 * batch after the other, and two deciders work at a time.  The simulation keeps books of its own,
 * and after every step holds against them: no node gives more than it has, no constraint is broken,
 * no machine is at two nodes, no node that is down or drained gets anything, and nobody who could
 * run waits (and small machines that come later do not pass a large one for ever): a blocked
 * machine is asked again on the changes that can help it alone, and at the end of each phase those
 * that still wait are decided once more, to see that no wake-up was lost.
 */
#include "engine/placement/placement.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

enum {
    ZONES = 3,
    RULE_KINDS = 5,
    JOB_MEMBERS = 12,
    CHANGES_MAX = 4096,
    DECIDERS = 2,
    STEP_MS = 1000,
    WAIT_STEPS_MAX = 3, /* what could run runs after so many steps */
    HOLD_AFTER_STEPS = 15,
    LIFE_STEPS_MAX = 30,      /* of a small machine, in the run with a large one that waits */
    CROWDED_HOSTS_MAX = 1000, /* where everybody who waits is asked in every step */
    LARGE_WAITS_STEPS_MAX = 8 * LIFE_STEPS_MAX,
    NOWHERE = -1,
};

#define MIB (1ULL << 20)

enum machine_state { MACHINE_GONE, MACHINE_PENDING, MACHINE_BLOCKED, MACHINE_RUNNING };

struct machine {
    char id[24];
    enum machine_state state;
    uint32_t job, kind; /* rules */
    uint32_t priority;
    uint64_t cpu, memory;
    int node;
    uint64_t since_step; /* it waits */
    uint32_t wakes;      /* what can help, when it is blocked */
    uint64_t end_step;   /* of a small one, in the run with a large one that waits */
    struct placement_hold hold;
};

struct host {
    char id[24];
    unsigned zone;
    bool is_ready, is_eligible, has_ssd;
    uint64_t cpu, memory, cpu_used, memory_used;
    size_t count;
};

struct world {
    uint64_t seed, random, step;
    bool is_traced;
    size_t host_count, machine_most, machine_count; /* slots, and those in use */
    struct host *hosts;
    struct machine *machines;
    uint32_t (*by_zone)[ZONES]; /* running members of a job in each zone */
    struct placement_cluster *cluster;
    struct placement_rules *rules[RULE_KINDS];
    struct placement_change changes[CHANGES_MAX];
    size_t change_count;
    uint32_t next_job;
    size_t *queue; /* pending */
    size_t queue_count;
    /* For the verdict. */
    uint64_t decisions, conflicts, displaced, woken, moved;
};

static const char *const rule_texts[RULE_KINDS] = {
    "{}",
    "{\"constraints\": [\"label.disk = ssd\"]}",
    "{\"constraints\": [\"distinct_hosts\"], \"spread\": [\"zone\"]}",
    "{\"affinities\": [\"60 zone = z1\", \"-20 label.disk = ssd\"]}",
    "{\"constraints\": [\"zone distinct_property 6\"]}",
};

static uint64_t draw(struct world *world, uint64_t below)
{
    world->random += 0x9e3779b97f4a7c15ULL;
    uint64_t value = world->random;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
    value ^= value >> 31;
    return below > 0 ? value % below : value;
}

static void violated(const struct world *world, const char *what, const char *who)
{
    printf("seed %llu, step %llu: %s: %s\n", (unsigned long long)world->seed,
           (unsigned long long)world->step, who, what);
    fflush(stdout);
    _exit(1);
}

static void must(const struct world *world, int r, const struct error *err)
{
    if (r < 0) {
        violated(world, err->text, "error");
    }
}

static struct placement_change *next_change(struct world *world)
{
    /* More than are remembered: everybody is asked again. */
    if (world->change_count == CHANGES_MAX) {
        world->change_count = 0;
        for (size_t i = 0; i < world->machine_most; i++) {
            if (world->machines[i].state == MACHINE_BLOCKED) {
                world->machines[i].state = MACHINE_PENDING;
                world->queue[world->queue_count++] = i;
            }
        }
    }
    return &world->changes[world->change_count++];
}

/* ---- Nodes ---- */

static void tell_host(struct world *world, size_t number)
{
    struct host *host = &world->hosts[number];
    char zone[16], rack[24];
    snprintf(zone, sizeof(zone), "z%u", host->zone);
    snprintf(rack, sizeof(rack), "r%zu", number / 40);
    struct placement_attribute disk = {"label.disk", host->has_ssd ? "ssd" : "hdd"};
    struct placement_node node = {
        .id = host->id,
        .name = host->id,
        .zone = zone,
        .rack = rack,
        .attributes = &disk,
        .attribute_count = 1,
        .capacity = {.of = {host->cpu, host->memory, 0, 0, 0, 0, 0}},
        .overcommit = {150},
        .is_ready = host->is_ready,
        .is_eligible = host->is_eligible,
    };
    struct error err = {0};
    must(world, placement_cluster_set_node(world->cluster, &node, next_change(world), &err), &err);
}

static void set_host(struct world *world, size_t number, bool is_ready, bool is_eligible)
{
    struct host *host = &world->hosts[number];
    struct error err = {0};
    host->is_ready = is_ready;
    host->is_eligible = is_eligible;
    must(world,
         placement_cluster_set_state(world->cluster, host->id, is_ready, is_eligible,
                                     next_change(world), &err),
         &err);
}

/* ---- Machines, in our own books ---- */

static void book(struct world *world, struct machine *machine, int by)
{
    struct host *host = &world->hosts[machine->node];
    uint64_t sign = by > 0 ? 1 : UINT64_MAX;
    host->cpu_used += sign * machine->cpu;
    host->memory_used += sign * machine->memory;
    host->count += (size_t)sign;
    world->by_zone[machine->job][host->zone] += (uint32_t)by;
}

static void check_placed(const struct world *world, const struct machine *machine)
{
    const struct host *host = &world->hosts[machine->node];
    if (!host->is_ready || !host->is_eligible) {
        violated(world, "was placed on a node that is down or drained", machine->id);
    }
    if (host->cpu_used > host->cpu * 3 / 2 || host->memory_used > host->memory) {
        violated(world, "its node gives more than it has", machine->id);
    }
    if (machine->kind == 1 && !host->has_ssd) {
        violated(world, "needs an ssd", machine->id);
    }
    if (machine->kind == 4 && world->by_zone[machine->job][host->zone] > 6) {
        violated(world, "more than 6 of its job are in the zone", machine->id);
    }
    for (size_t i = 0; machine->kind == 2 && i < JOB_MEMBERS; i++) {
        const struct machine *other = &world->machines[machine->job * JOB_MEMBERS + i];
        if (other != machine && other->state == MACHINE_RUNNING && other->node == machine->node) {
            violated(world, "another one of its job is at the node", machine->id);
        }
    }
    struct placement_usage usage;
    struct error err = {0};
    must(world, placement_cluster_usage(world->cluster, host->id, &usage, &err), &err);
    if (usage.used.of[PLACEMENT_CPU_MILLI] != host->cpu_used ||
        usage.used.of[PLACEMENT_MEMORY] != host->memory_used ||
        usage.allocation_count != host->count) {
        violated(world, "the engine and the simulation count differently", host->id);
    }
}

static void enqueue(struct world *world, size_t number)
{
    struct machine *machine = &world->machines[number];
    machine->state = MACHINE_PENDING;
    machine->node = NOWHERE;
    machine->since_step = world->step;
    world->queue[world->queue_count++] = number;
}

/* It stops where it runs. */
static void stop(struct world *world, size_t number)
{
    struct machine *machine = &world->machines[number];
    struct error err = {0};
    CHECK(machine->state == MACHINE_RUNNING);
    must(world, placement_cluster_remove(world->cluster, machine->id, next_change(world), &err),
         &err);
    book(world, machine, -1);
    machine->node = NOWHERE;
    machine->state = MACHINE_GONE;
}

/* Jobs have slots for all of their members, so that a member's number tells its job. */
static void new_job(struct world *world)
{
    static const uint64_t cpus[] = {250, 500, 1000, 2000}, memories[] = {1024, 2048, 3072, 6144};
    uint32_t job = world->next_job++ % (uint32_t)(world->machine_most / JOB_MEMBERS);
    uint32_t kind = (uint32_t)draw(world, RULE_KINDS), priority = (uint32_t)draw(world, 4) * 20;
    for (size_t i = 0; i < JOB_MEMBERS; i++) {
        struct machine *machine = &world->machines[job * JOB_MEMBERS + i];
        if (machine->state != MACHINE_GONE) {
            return; /* the slots go around; this one is still in use */
        }
    }
    for (size_t i = 0; i < JOB_MEMBERS; i++) {
        size_t number = job * JOB_MEMBERS + i;
        struct machine *machine = &world->machines[number];
        *machine = (struct machine){
            .job = job,
            .kind = kind,
            .priority = priority,
            .cpu = cpus[draw(world, 4)],
            .memory = memories[draw(world, 4)] * MIB,
        };
        snprintf(machine->id, sizeof(machine->id), "m%zu", number);
        enqueue(world, number);
        world->machine_count++;
    }
}

static void end_job(struct world *world, uint32_t job)
{
    for (size_t i = 0; i < JOB_MEMBERS; i++) {
        struct machine *machine = &world->machines[job * JOB_MEMBERS + i];
        if (machine->state == MACHINE_RUNNING) {
            stop(world, job * JOB_MEMBERS + i);
        }
        world->machine_count -= machine->state != MACHINE_GONE || machine->id[0] != 0;
        machine->state = MACHINE_GONE;
        machine->id[0] = 0;
    }
}

/* ---- Deciding ---- */

struct asked {
    struct placement_request request;
    char job[16];
};

static void ask(const struct world *world, const struct machine *machine, struct asked *ret_asked)
{
    snprintf(ret_asked->job, sizeof(ret_asked->job), "j%u", machine->job);
    ret_asked->request = (struct placement_request){
        .id = machine->id,
        .job = ret_asked->job,
        .rules = world->rules[machine->kind],
        .demand = {.amounts = {.of = {machine->cpu, machine->memory, 0, 0, 0, 0, 0}}},
        .priority = machine->priority,
        .since_ms = machine->since_step * STEP_MS,
        .may_displace = true,
        .is_displaceable = true,
        .may_be_moved = true,
    };
}

static size_t number_of(const char *id)
{
    return (size_t)strtoull(id + 1, NULL, 10);
}

static void commit(struct world *world, size_t number, const struct asked *asked,
                   const struct placement_decision *decision)
{
    struct machine *machine = &world->machines[number];
    struct error err = {0};
    for (size_t i = 0; i < decision->victim_count; i++) {
        const struct machine *victim = &world->machines[number_of(decision->victims[i].id)];
        if (victim->priority + 10 > machine->priority) {
            violated(world, "displaced one that is as important", machine->id);
        }
    }
    int r =
        placement_commit(world->cluster, &asked->request, decision, world->step * STEP_MS, &err);
    if (r == -ERROR_CONFLICT) {
        world->conflicts++;
        world->queue[world->queue_count++] = number;
        return;
    }
    must(world, r, &err);
    for (size_t i = 0; i < decision->victim_count; i++) {
        size_t victim = number_of(decision->victims[i].id);
        /* One that another decider displaced already is pending by now. */
        if (world->machines[victim].state == MACHINE_RUNNING) {
            book(world, &world->machines[victim], -1);
            enqueue(world, victim);
            world->displaced++;
        }
    }
    machine->node = (int)number_of(decision->node);
    machine->state = MACHINE_RUNNING;
    book(world, machine, 1);
    check_placed(world, machine);
}

/* Two deciders look at the same cluster, and commit one after the other. */
static void decide_pair(struct world *world, const size_t numbers[DECIDERS], size_t count)
{
    struct asked asked[DECIDERS];
    struct placement_decision decisions[DECIDERS] = {0};
    struct placement_options options;
    struct error err = {0};
    placement_options_init(&options, PLACEMENT_BINPACK);
    for (size_t i = 0; i < count; i++) {
        ask(world, &world->machines[numbers[i]], &asked[i]);
        options.seed = draw(world, 0);
        must(world,
             placement_decide(world->cluster, &asked[i].request, &options, world->step * STEP_MS,
                              &decisions[i], &err),
             &err);
        world->decisions++;
    }
    for (size_t i = 0; i < count; i++) {
        struct machine *machine = &world->machines[numbers[i]];
        if (decisions[i].is_placed) {
            commit(world, numbers[i], &asked[i], &decisions[i]);
        } else {
            machine->state = MACHINE_BLOCKED;
            machine->wakes = decisions[i].wakes;
        }
        placement_decision_done(&decisions[i]);
    }
}

static int by_priority(const void *left, const void *right, void *context)
{
    const struct machine *machines = context;
    size_t a = *(const size_t *)left, b = *(const size_t *)right;
    if (machines[a].priority != machines[b].priority) {
        return machines[a].priority > machines[b].priority ? -1 : 1;
    }
    if (machines[a].since_step != machines[b].since_step) {
        return machines[a].since_step < machines[b].since_step ? -1 : 1;
    }
    return a < b ? -1 : 1;
}

/* Ask whoever the changes of this step can help. */
static void wake(struct world *world)
{
    for (size_t i = 0; i < world->machine_most; i++) {
        struct machine *machine = &world->machines[i];
        if (machine->state != MACHINE_BLOCKED) {
            continue;
        }
        struct asked asked;
        struct placement_decision blocked = {.wakes = machine->wakes};
        ask(world, machine, &asked);
        for (size_t k = 0; k < world->change_count; k++) {
            if (placement_helps(world->cluster, &asked.request, &blocked, &world->changes[k])) {
                world->woken++;
                machine->state = MACHINE_PENDING;
                world->queue[world->queue_count++] = i;
                break;
            }
        }
    }
    world->change_count = 0;
}

/* Decide all that is pending, until nothing is; displaced ones join the end. */
static void work_off(struct world *world)
{
    wake(world);
    for (int round = 0; world->queue_count > 0 && round < WAIT_STEPS_MAX; round++) {
        size_t count = world->queue_count, pair[DECIDERS], filled = 0;
        size_t *now = memory_new(count, sizeof(*now));
        memcpy(now, world->queue, count * sizeof(*now));
        world->queue_count = 0;
        qsort_r(now, count, sizeof(*now), by_priority, world->machines);
        for (size_t i = 0; i < count; i++) {
            if (world->machines[now[i]].state == MACHINE_PENDING) {
                pair[filled++] = now[i];
            }
            if (filled == DECIDERS || (i + 1 == count && filled > 0)) {
                decide_pair(world, pair, filled);
                filled = 0;
            }
        }
        free(now);
    }
}

/* ---- What must be so ---- */

static void complain(const char *text, void *context)
{
    violated(context, text, "audit");
}

/* Does everything that is not told apart by steps: the engine's own books, and who waits. */
static void check_all(struct world *world, const char *when)
{
    size_t running = 0, blocked = 0, waiting = 0;
    placement_cluster_audit(world->cluster, complain, world);
    struct placement_options options;
    placement_options_init(&options, PLACEMENT_BINPACK);
    for (size_t i = 0; i < world->machine_most; i++) {
        struct machine *machine = &world->machines[i];
        const char *where = placement_cluster_where(world->cluster, machine->id);
        running += machine->state == MACHINE_RUNNING;
        waiting += machine->state == MACHINE_PENDING;
        if (machine->state == MACHINE_RUNNING &&
            (where == NULL || strcmp(where, world->hosts[machine->node].id) != 0)) {
            violated(world, "is not where it was placed", machine->id);
        }
        if (machine->state != MACHINE_BLOCKED) {
            continue;
        }
        struct asked asked;
        struct placement_decision decision = {0};
        struct error err = {0};
        ask(world, machine, &asked);
        must(world,
             placement_decide(world->cluster, &asked.request, &options, world->step * STEP_MS,
                              &decision, &err),
             &err);
        if (decision.is_placed) {
            violated(world, "could run, and was not woken", machine->id);
        }
        placement_decision_done(&decision);
        blocked++;
    }
    if (running != placement_cluster_allocation_count(world->cluster)) {
        violated(world, "more runs than was placed", "cluster");
    }
    if (world->is_traced) {
        printf("%-28s step %5llu: %6zu running, %5zu blocked, %5zu pending; %llu decisions, %llu "
               "conflicts, %llu displaced, %llu woken\n",
               when, (unsigned long long)world->step, running, blocked, waiting,
               (unsigned long long)world->decisions, (unsigned long long)world->conflicts,
               (unsigned long long)world->displaced, (unsigned long long)world->woken);
        fflush(stdout);
    }
}

/* ---- What happens ---- */

/* Everything that runs at a node has to run elsewhere. */
static void evacuate(struct world *world, size_t first, size_t end)
{
    for (size_t i = 0; i < world->machine_most; i++) {
        struct machine *machine = &world->machines[i];
        if (machine->state == MACHINE_RUNNING && (size_t)machine->node >= first &&
            (size_t)machine->node < end) {
            const struct host *host = &world->hosts[machine->node];
            if (!host->is_ready || !host->is_eligible) {
                stop(world, i);
                enqueue(world, i);
                world->moved++;
            }
        }
    }
}

static void churn(struct world *world, size_t steps)
{
    for (size_t i = 0; i < steps; i++) {
        world->step++;
        size_t jobs = world->machine_most / JOB_MEMBERS;
        for (size_t k = 0; k < jobs / 400 + 1; k++) {
            end_job(world, (uint32_t)draw(world, jobs));
            new_job(world);
        }
        size_t failing = draw(world, world->host_count);
        set_host(world, failing, false, true);
        evacuate(world, failing, failing + 1);
        size_t labelled = draw(world, world->host_count);
        if (world->hosts[labelled].count == 0) {
            world->hosts[labelled].has_ssd = !world->hosts[labelled].has_ssd;
            tell_host(world, labelled);
        }
        work_off(world);
        set_host(world, failing, true, true);
    }
    world->step++;
    work_off(world);
}

static void populate(struct world *world, size_t machines)
{
    while (world->machine_count < machines) {
        world->step++;
        for (size_t i = 0; i < 200 && world->machine_count < machines; i++) {
            new_job(world);
        }
        work_off(world);
    }
}

static void fail_zone(struct world *world)
{
    for (size_t i = 0; i < world->host_count; i++) {
        if (world->hosts[i].zone == 2) {
            set_host(world, i, false, true);
        }
    }
    world->step++;
    evacuate(world, 0, world->host_count);
    work_off(world);
    world->step++;
    work_off(world);
}

static void heal_zone(struct world *world)
{
    for (size_t i = 0; i < world->host_count; i++) {
        if (!world->hosts[i].is_ready) {
            set_host(world, i, true, true);
        }
    }
    for (int i = 0; i < WAIT_STEPS_MAX; i++) {
        world->step++;
        work_off(world);
    }
}

/* A tenth of the nodes, in twenty batches: cordon, move away, open again. */
static void drain(struct world *world)
{
    size_t batch = world->host_count / 200 + 1;
    for (size_t first = 0; first < world->host_count / 10; first += batch) {
        size_t end = first + batch;
        for (size_t i = first; i < end; i++) {
            set_host(world, i, true, false);
        }
        world->step++;
        evacuate(world, first, end);
        work_off(world);
        for (size_t i = first; i < end; i++) {
            if (world->hosts[i].count > 0) {
                violated(world, "is drained, and something runs there", world->hosts[i].id);
            }
            set_host(world, i, true, true);
        }
    }
    world->step++;
    work_off(world);
}

static void rebalance(struct world *world)
{
    struct placement_rebalance_options options = {
        .threshold_percent = 10, .batch_max = 4, .gain_min_percent = 1};
    struct placement_rebalance plan = {0};
    struct error err = {0};
    placement_options_init(&options.options, PLACEMENT_SPREAD);
    must(world, placement_rebalance(world->cluster, &options, world->step * STEP_MS, &plan, &err),
         &err);
    if (plan.spread_after > plan.spread_before) {
        violated(world, "a plan makes it worse", "rebalance");
    }
    free(plan.moves);
}

/* With everything healed and half of the jobs gone, nobody waits. */
static void settle(struct world *world)
{
    size_t jobs = world->machine_most / JOB_MEMBERS;
    for (uint32_t i = 0; i < jobs; i += 2) {
        end_job(world, i);
    }
    for (int i = 0; i < WAIT_STEPS_MAX; i++) {
        world->step++;
        work_off(world);
    }
    for (size_t i = 0; i < world->machine_most; i++) {
        if (world->machines[i].state == MACHINE_PENDING ||
            world->machines[i].state == MACHINE_BLOCKED) {
            violated(world, "starves", world->machines[i].id);
        }
    }
}

/* ---- A large one that waits, while small ones come and go ---- */

/* It holds a node, by the engine's own steps. */
static void hold(struct world *world, struct machine *machine)
{
    const struct placement_hold_options options = {.after_ms = HOLD_AFTER_STEPS * STEP_MS,
                                                   .holds_max = 4};
    struct placement_change *change = NULL;
    struct asked asked;
    struct error err = {0};
    ask(world, machine, &asked);
    int r = placement_hold_step(world->cluster, &asked.request, &options, world->step * STEP_MS,
                                &machine->hold, &err);
    must(world, r, &err);
    if (r == 1) {
        change = next_change(world);
        placement_cluster_let_go(world->cluster, machine->id, change);
    }
    if (r == 1 && machine->hold.node[0] != 0) {
        must(world,
             placement_cluster_hold(world->cluster, &asked.request, machine->hold.node,
                                    next_change(world), &err),
             &err);
    }
}

/* One that fits any node, lives for a while, and comes again as a new one as soon as it is gone. */
static void renew(struct world *world, size_t number)
{
    struct machine *machine = &world->machines[number];
    *machine = (struct machine){
        .job = (uint32_t)(number / JOB_MEMBERS),
        .priority = 40,
        .cpu = 500,
        .memory = (1 + draw(world, 7)) * 1024 * MIB,
        .end_step = world->step + 1 + draw(world, LIFE_STEPS_MAX),
    };
    snprintf(machine->id, sizeof(machine->id), "m%zu", number);
    enqueue(world, number);
}

/* Every node is full of small ones, and more wait than fit; some never leave. */
static void crowd(struct world *world)
{
    for (size_t i = 1; i < world->machine_most; i++) {
        if (world->machines[i].state == MACHINE_RUNNING) {
            stop(world, i);
        }
        renew(world, i);
        if (draw(world, 10) == 0 && i % 3 == 0) {
            world->machines[i].end_step = UINT64_MAX;
        }
    }
    world->step++;
    work_off(world);
}

static void age(struct world *world)
{
    world->step++;
    for (size_t i = 1; i < world->machine_most; i++) {
        if (world->machines[i].state == MACHINE_RUNNING &&
            world->machines[i].end_step <= world->step) {
            stop(world, i);
            renew(world, i);
        }
    }
}

/* Priorities are equal, so that it displaces nobody: it has to be waited for. */
static void wait_large(struct world *world)
{
    struct machine *large = &world->machines[0];
    if (large->state == MACHINE_RUNNING) {
        stop(world, 0);
    }
    world->queue_count = 0;
    crowd(world);
    *large = (struct machine){.priority = 40, .cpu = 8000, .memory = 60ULL * 1024 * MIB};
    snprintf(large->id, sizeof(large->id), "m0");
    enqueue(world, 0);
    for (uint64_t waited = 0; large->state != MACHINE_RUNNING; waited++) {
        if (waited == LARGE_WAITS_STEPS_MAX) {
            violated(world, "starves, while small ones come and go", large->id);
        }
        age(world);
        hold(world, large);
        work_off(world);
    }
    if (placement_cluster_hold_count(world->cluster) != 0) {
        violated(world, "is placed, and a node is held for it", large->id);
    }
}

static void world_init(struct world *world, size_t hosts, size_t machines, uint64_t seed)
{
    static const uint64_t sizes[] = {8, 16, 32};
    world->seed = world->random = seed;
    world->host_count = hosts;
    world->machine_most = (machines / JOB_MEMBERS + 1) * JOB_MEMBERS * 5 / 4;
    world->machine_most -= world->machine_most % JOB_MEMBERS;
    world->hosts = memory_new(hosts, sizeof(*world->hosts));
    world->machines = memory_new(world->machine_most, sizeof(*world->machines));
    world->by_zone = memory_new(world->machine_most, sizeof(*world->by_zone));
    world->queue = memory_new(world->machine_most * 2, sizeof(*world->queue));
    world->cluster = placement_cluster_new();
    for (size_t i = 0; i < RULE_KINDS; i++) {
        struct error err = {0};
        JSON_OWNED json_t *value = NULL;
        must(world, json_read(rule_texts[i], strlen(rule_texts[i]), &value, &err), &err);
        must(world, placement_rules_read(value, &world->rules[i], &err), &err);
    }
    for (size_t i = 0; i < hosts; i++) {
        struct host *host = &world->hosts[i];
        *host = (struct host){
            .zone = (unsigned)(i / 40 % ZONES),
            .is_ready = true,
            .is_eligible = true,
            .has_ssd = draw(world, 2) == 0,
            .cpu = sizes[draw(world, 3)] * 1000,
        };
        host->memory = host->cpu / 1000 * 2048 * MIB;
        snprintf(host->id, sizeof(host->id), "n%zu", i);
        tell_host(world, i);
    }
    world->change_count = 0;
}

static void world_done(struct world *world)
{
    placement_cluster_free(world->cluster);
    for (size_t i = 0; i < RULE_KINDS; i++) {
        placement_rules_unref(world->rules[i]);
    }
    free(world->hosts);
    free(world->machines);
    free(world->by_zone);
    free(world->queue);
}

static void simulate(size_t hosts, size_t machines, uint64_t seed, bool is_traced)
{
    struct world *world = NEW(struct world);
    world->is_traced = is_traced;
    world_init(world, hosts, machines, seed);
    populate(world, machines);
    check_all(world, "populated");
    churn(world, 20);
    check_all(world, "after churn");
    fail_zone(world);
    check_all(world, "a zone is down");
    churn(world, 5);
    check_all(world, "churn without the zone");
    heal_zone(world);
    check_all(world, "the zone is back");
    drain(world);
    check_all(world, "after a rolling drain");
    rebalance(world);
    settle(world);
    check_all(world, "settled");
    if (hosts <= CROWDED_HOSTS_MAX) {
        wait_large(world);
        check_all(world, "a large one has waited");
    }
    world_done(world);
    free(world);
}

int main(int argc, char **argv)
{
    size_t hosts = 400, machines = 4000;
    uint64_t first = 1, count = 8;
    bool is_traced = false;
    for (int i = 1; i < argc; i++) {
        uint64_t value = i + 1 < argc ? strtoull(argv[i + 1], NULL, 10) : 0;
        if (strcmp(argv[i], "--trace") == 0) {
            is_traced = true;
        } else if (strcmp(argv[i], "--nodes") == 0 && value >= 200) {
            hosts = value, i++;
        } else if (strcmp(argv[i], "--machines") == 0 && value > 0) {
            machines = value, i++;
        } else if (strcmp(argv[i], "--seed") == 0) {
            first = value, count = 1, i++;
        } else if (strcmp(argv[i], "--seeds") == 0 && value > 0) {
            count = value, i++;
        } else {
            fprintf(stderr,
                    "usage: placement-sim [--nodes N (from 200)] [--machines N] [--seed N] "
                    "[--seeds COUNT] [--trace]\n");
            return 64;
        }
    }
    int failed = 0;
    for (uint64_t seed = first; seed < first + count; seed++) {
        pid_t child = fork();
        if (child == 0) {
            simulate(hosts, machines, seed, is_traced);
            _exit(0);
        }
        int status = 1;
        waitpid(child, &status, 0);
        bool is_good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
        failed += !is_good;
        printf("%s placement.a_cluster_of_%zu_nodes_and_%zu_machines_seed_%llu\n",
               is_good ? "ok" : "not ok", hosts, machines, (unsigned long long)seed);
        fflush(stdout);
    }
    printf("%llu passed, %d failed, 0 skipped\n", (unsigned long long)count - (unsigned)failed,
           failed);
    return failed > 0;
}
