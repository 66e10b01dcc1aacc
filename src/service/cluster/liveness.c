#include "service/cluster/liveness.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

_Static_assert(LIVENESS_KEPT_MAX *LIVENESS_BEAT_MS > LIVENESS_HOLD_MS,
               "a beat is remembered for as long as a lease could be counted from it");

/* ---- The leader ---- */

static struct liveness_seen *find(const struct liveness_leader *leader, uint64_t id)
{
    for (size_t i = 0; i < leader->seen_count; i++) {
        if (leader->seen[i].id == id) {
            return (struct liveness_seen *)(uintptr_t)&leader->seen[i];
        }
    }
    return NULL;
}

/* NULL: there is no room for another. */
static struct liveness_seen *find_or_add(struct liveness_leader *leader, uint64_t id,
                                         uint64_t now_ms)
{
    struct liveness_seen *seen = find(leader, id);
    if (seen != NULL || leader->seen_count == LIVENESS_NODES_MAX) {
        return seen;
    }
    seen = &leader->seen[leader->seen_count++];
    *seen = (struct liveness_seen){.id = id, .heard_ms = now_ms};
    return seen;
}

static void become(struct liveness_seen *seen, enum cluster_health health, uint64_t now_ms)
{
    if (seen->health != health || seen->since_ms == 0) {
        seen->health = health;
        seen->since_ms = now_ms;
    }
}

void liveness_leader_begin(struct liveness_leader *leader, uint64_t reign, uint64_t now_ms)
{
    CHECK(reign > 0);
    CHECK(now_ms > 0); /* 0 is "never" in stamps */

    leader->reign = reign;
    leader->begun_ms = now_ms;
    leader->is_ready = false;
    leader->is_over = false;
    leader->voter_count = 0;
    leader->seen_count = 0;
    /* `tickets` goes on: one of an earlier reign must not pass for one of this. */
}

void liveness_leader_ready(struct liveness_leader *leader, uint64_t reign)
{
    /* The answer of a write can come when another reign has begun meanwhile. */
    if (reign == leader->reign) {
        leader->is_ready = true;
    }
}

void liveness_leader_end(struct liveness_leader *leader)
{
    leader->reign = 0;
    leader->is_ready = false;
    leader->voter_count = 0;
    leader->seen_count = 0;
}

void liveness_leader_voters(struct liveness_leader *leader, uint64_t term, const uint64_t *ids,
                            size_t count)
{
    CHECK(count <= LIVENESS_VOTERS_MAX);
    if (term != leader->reign) {
        /* The next leader may have changed who votes: its majorities prove nothing of this one. */
        leader->is_over = true;
        return;
    }
    memcpy(leader->voters, ids, count * sizeof(*ids));
    leader->voter_count = count;
}

static bool is_voter(const struct liveness_leader *leader, uint64_t id)
{
    for (size_t i = 0; i < leader->voter_count; i++) {
        if (leader->voters[i] == id) {
            return true;
        }
    }
    return false;
}

static int descending(const void *a, const void *b)
{
    uint64_t one = *(const uint64_t *)a;
    uint64_t other = *(const uint64_t *)b;
    return (one < other) - (one > other);
}

uint64_t liveness_proven(const struct liveness_leader *leader)
{
    if (leader->reign == 0 || leader->is_over || leader->voter_count == 0) {
        return 0;
    }
    uint64_t echoes[LIVENESS_VOTERS_MAX] = {0};
    for (size_t i = 0; i < leader->voter_count; i++) {
        const struct liveness_seen *seen = find(leader, leader->voters[i]);
        echoes[i] = seen != NULL ? seen->echo_ms : 0;
    }
    qsort(echoes, leader->voter_count, sizeof(echoes[0]), descending);
    return echoes[leader->voter_count / 2]; /* a majority sent this one or a later one */
}

/*
 * What a voter's beat says about whether the leader is one still.  One in a later term says
 * nothing: it may have stood for an election in vain.
 */
static void weigh(struct liveness_leader *leader, struct liveness_seen *seen,
                  const struct liveness_beat *beat, uint64_t now_ms)
{
    if (!is_voter(leader, beat->node)) {
        return;
    }
    bool is_ours = beat->term == leader->reign && beat->reign == leader->reign;
    if (is_ours && beat->echo_ms <= now_ms && beat->echo_ms > seen->echo_ms) {
        seen->echo_ms = beat->echo_ms;
    }
}

/* It got an answer of this reign, not long ago: then it hears the leader as the leader hears it. */
static bool hears(const struct liveness_leader *leader, const struct liveness_beat *beat,
                  uint64_t now_ms)
{
    return beat->reign == leader->reign && beat->echo_ms >= leader->begun_ms &&
        beat->echo_ms <= now_ms && now_ms - beat->echo_ms < LIVENESS_SUSPECT_MS;
}

void liveness_hear(struct liveness_leader *leader, const struct liveness_beat *beat, uint64_t index,
                   uint64_t now_ms, struct liveness_answer *ret_answer)
{
    *ret_answer = (struct liveness_answer){.sequence = beat->sequence};
    if (leader->reign == 0) {
        return;
    }
    CHECK(now_ms >= leader->begun_ms);

    ret_answer->reign = leader->reign;
    ret_answer->stamp_ms = now_ms;
    ret_answer->index = index;
    struct liveness_seen *seen = find_or_add(leader, beat->node, now_ms);
    if (seen == NULL) {
        return;
    }
    weigh(leader, seen, beat, now_ms);
    ret_answer->proven_ms = liveness_proven(leader);
    if (!hears(leader, beat, now_ms)) {
        return;
    }
    seen->heard_ms = now_ms;
    seen->is_known = true;
    become(seen, CLUSTER_HEALTHY, now_ms);
    if (seen->is_barred && seen->ticket == 0) {
        seen->ticket = ++leader->tickets;
        ret_answer->ticket = seen->ticket;
    }
    ret_answer->granted = leader->is_ready && !seen->is_barred && ret_answer->proven_ms > 0;
}

/* The readmission that is under way with this ticket, or NULL. */
static struct liveness_seen *find_ticket(struct liveness_leader *leader, uint64_t id,
                                         uint64_t ticket)
{
    CHECK(ticket > 0);
    struct liveness_seen *seen = find(leader, id);
    return seen != NULL && seen->ticket == ticket ? seen : NULL;
}

void liveness_readmit(struct liveness_leader *leader, uint64_t id, uint64_t ticket)
{
    struct liveness_seen *seen = find_ticket(leader, id, ticket);
    if (seen != NULL) {
        CHECK(seen->is_barred);
        seen->is_barred = false;
        seen->ticket = 0;
    }
}

void liveness_readmit_failed(struct liveness_leader *leader, uint64_t id, uint64_t ticket)
{
    struct liveness_seen *seen = find_ticket(leader, id, ticket);
    if (seen != NULL) {
        seen->ticket = 0; /* its next beat gets another */
    }
}

enum cluster_health liveness_judge(struct liveness_leader *leader, uint64_t id, uint64_t now_ms)
{
    CHECK(leader->reign > 0);
    struct liveness_seen *seen = find_or_add(leader, id, now_ms);
    if (seen == NULL) {
        return CLUSTER_SUSPECT; /* nothing is known, so nothing may be done about it */
    }
    CHECK(now_ms >= seen->heard_ms);

    uint64_t silent_ms = now_ms - seen->heard_ms;
    if (silent_ms < LIVENESS_SUSPECT_MS) {
        become(seen, CLUSTER_HEALTHY, now_ms);
    } else if (silent_ms < LIVENESS_LOST_MS) {
        become(seen, CLUSTER_SUSPECT, now_ms);
    } else {
        become(seen, CLUSTER_LOST, now_ms);
        seen->is_barred = true;
        seen->ticket = 0; /* moves are possible again: a barrier begun before is not enough */
    }
    return seen->health;
}

uint64_t liveness_since(const struct liveness_leader *leader, uint64_t id)
{
    const struct liveness_seen *seen = find(leader, id);
    return seen != NULL ? seen->since_ms : 0;
}

uint64_t liveness_silent(const struct liveness_leader *leader, uint64_t id, uint64_t now_ms)
{
    const struct liveness_seen *seen = find(leader, id);
    return seen != NULL && seen->is_known ? now_ms - seen->heard_ms : UINT64_MAX;
}

bool liveness_may_move(const struct liveness_leader *leader, uint64_t id)
{
    const struct liveness_seen *seen = find(leader, id);
    return seen != NULL && leader->is_ready && !leader->is_over && seen->is_barred &&
        seen->health == CLUSTER_LOST;
}

void liveness_forget(struct liveness_leader *leader, uint64_t id)
{
    struct liveness_seen *seen = find(leader, id);
    if (seen != NULL) {
        *seen = leader->seen[--leader->seen_count];
    }
}

/* ---- Every node ---- */

void liveness_node_init(struct liveness_node *node, uint64_t self)
{
    *node = (struct liveness_node){.self = self};
}

void liveness_beat(struct liveness_node *node, uint64_t term, uint64_t now_ms,
                   struct liveness_beat *ret_beat)
{
    node->sequence++;
    node->kept[node->sequence % LIVENESS_KEPT_MAX] =
        (struct liveness_kept){.sequence = node->sequence, .sent_ms = now_ms};
    *ret_beat = (struct liveness_beat){
        .node = node->self,
        .sequence = node->sequence,
        .term = term,
        .reign = node->reign,
        .echo_ms = node->stamp_ms,
    };
}

static void extend(struct liveness_node *node, uint64_t until_ms)
{
    if (until_ms > node->until_ms) {
        node->until_ms = until_ms;
    }
}

void liveness_applied(struct liveness_node *node, uint64_t index)
{
    while (node->next.until_ms > 0 && index >= node->next.index) {
        extend(node, node->next.until_ms);
        node->next = node->newest;
        node->newest = (struct liveness_grant){0};
    }
}

static void grant(struct liveness_node *node, uint64_t until_ms, uint64_t required, uint64_t index)
{
    const struct liveness_grant grant = {.until_ms = until_ms, .index = required};
    if (index >= required) {
        extend(node, until_ms);
    } else if (node->next.until_ms == 0) {
        node->next = grant;
    } else if (until_ms > node->newest.until_ms) {
        node->newest = grant;
    }
}

/* Remember when the leader answered.  False: nothing that was asked, or asked in this reign. */
static bool remember(struct liveness_node *node, const struct liveness_answer *answer)
{
    struct liveness_kept *kept = &node->kept[answer->sequence % LIVENESS_KEPT_MAX];
    if (answer->reign == 0 || answer->reign < node->reign || answer->stamp_ms == 0 ||
        kept->sequence != answer->sequence || answer->sequence == 0) {
        return false;
    }
    if (answer->reign > node->reign) {
        /* Another leader has another clock: stamps of the last one say nothing here. */
        for (size_t i = 0; i < LIVENESS_KEPT_MAX; i++) {
            node->kept[i].stamp_ms = 0;
        }
        node->reign = answer->reign;
        node->stamp_ms = 0;
    }
    if (kept->stamp_ms != 0) {
        return false;
    }
    kept->stamp_ms = answer->stamp_ms;
    if (answer->stamp_ms > node->stamp_ms) {
        node->stamp_ms = answer->stamp_ms;
    }
    return true;
}

void liveness_answered(struct liveness_node *node, const struct liveness_answer *answer,
                       uint64_t index)
{
    liveness_applied(node, index);
    if (!remember(node, answer) || !answer->granted) {
        return;
    }
    uint64_t sent_ms = 0;
    for (size_t i = 0; i < LIVENESS_KEPT_MAX; i++) {
        const struct liveness_kept *kept = &node->kept[i];
        bool is_proven = kept->stamp_ms != 0 && kept->stamp_ms <= answer->proven_ms;
        if (is_proven && kept->sent_ms > sent_ms) {
            sent_ms = kept->sent_ms;
        }
    }
    if (sent_ms > 0) {
        grant(node, sent_ms + LIVENESS_HOLD_MS, answer->index, index);
    }
}

bool liveness_holds(const struct liveness_node *node, uint64_t now_ms)
{
    return now_ms < node->until_ms;
}

uint64_t liveness_left(const struct liveness_node *node, uint64_t now_ms)
{
    return liveness_holds(node, now_ms) ? node->until_ms - now_ms : 0;
}

/* ---- Wall clocks ---- */

struct liveness_clock liveness_clock_estimate(uint64_t own_real_ms, uint64_t leader_real_ms,
                                              uint64_t round_trip_ms)
{
    /* What the leader says is input; nobody lives in the year 100,000. */
    const int64_t far = INT64_C(1) << 52;
    uint64_t half_ms = round_trip_ms / 2;
    __extension__ __int128 offset = own_real_ms;
    offset -= leader_real_ms;
    offset -= half_ms;
    if (offset > far) {
        offset = far;
    } else if (offset < -far) {
        offset = -far;
    }
    return (struct liveness_clock){
        .is_known = true,
        .offset_ms = (int64_t)offset,
        .error_ms = round_trip_ms - half_ms,
    };
}

static int ascending_offset(const void *a, const void *b)
{
    int64_t one = *(const int64_t *)a;
    int64_t other = *(const int64_t *)b;
    return (one > other) - (one < other);
}

static int64_t median(const struct liveness_clock *clocks, size_t count)
{
    int64_t offsets[LIVENESS_NODES_MAX];
    size_t known = 0;
    for (size_t i = 0; i < count && known < LIVENESS_NODES_MAX; i++) {
        if (clocks[i].is_known) {
            offsets[known++] = clocks[i].offset_ms;
        }
    }
    if (known < 3) {
        return 0; /* of two, the leader's counts */
    }
    qsort(offsets, known, sizeof(offsets[0]), ascending_offset);
    int64_t upper = offsets[known / 2];
    if (known % 2 == 1) {
        return upper;
    }
    /* Where the halves differ, no node has the time in their middle: again the leader's counts. */
    int64_t lower = offsets[known / 2 - 1];
    bool is_split = (uint64_t)upper - (uint64_t)lower > LIVENESS_CLOCK_LIMIT_MS;
    return is_split ? 0 : lower / 2 + upper / 2;
}

int64_t liveness_clock_wrong(const struct liveness_clock *clocks, size_t count, size_t which)
{
    CHECK(which < count);
    if (!clocks[which].is_known) {
        return 0;
    }
    int64_t distance = clocks[which].offset_ms - median(clocks, count);
    uint64_t size = (uint64_t)(distance < 0 ? -distance : distance);
    uint64_t error_ms = clocks[which].error_ms;
    return size > error_ms && size - error_ms > LIVENESS_CLOCK_LIMIT_MS ? distance : 0;
}
