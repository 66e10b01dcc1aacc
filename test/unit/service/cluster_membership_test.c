/*
 * Nodes are written as words: a name, whose letter is the failure domain (x: none), a colon, a role
 * (Voter, Worker, Enlisted, Ready and waiting, Standby) and what else is so:
 *   *  leads                     p  a person made it a server    y  healthy for 1 s
 *   ?  suspect                   w  a person made it a worker    m  healthy for 5 s
 *   ~  lost, within its grace    l  leaving                      o  knows the old schema only
 *   !  lost for long             u  unfit                        t  has its role for long
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "service/cluster/membership.h"

#include "test/lib/test.h"

enum { NOW = 1000000, LONG = 500000, WORDS_MAX = 16 };

struct cast {
    struct membership_node nodes[WORDS_MAX];
    char names[WORDS_MAX][8];
    char domains[WORDS_MAX][8];
    size_t count;
};

static enum membership_role role_of(char letter)
{
    switch (letter) {
    case 'V':
        return MEMBERSHIP_VOTER;
    case 'E':
        return MEMBERSHIP_ENLISTED;
    case 'R':
        return MEMBERSHIP_WAITING;
    case 'S':
        return MEMBERSHIP_STANDBY;
    default:
        EXPECT(letter == 'W');
        return MEMBERSHIP_WORKER;
    }
}

static void set_flag(struct membership_node *node, char flag)
{
    switch (flag) {
    case '*':
        node->is_leader = true;
        break;
    case '?':
        node->health = CLUSTER_SUSPECT;
        break;
    case '~':
        node->health = CLUSTER_LOST;
        node->health_since_ms = NOW - MEMBERSHIP_LOST_GRACE_MS + 1;
        break;
    case '!':
        node->health = CLUSTER_LOST;
        node->health_since_ms = NOW - MEMBERSHIP_LOST_GRACE_MS;
        break;
    case 'p':
        node->wish = MEMBERSHIP_WANTED_SERVER;
        break;
    case 'w':
        node->wish = MEMBERSHIP_WANTED_WORKER;
        break;
    case 'l':
        node->is_leaving = true;
        break;
    case 'u':
        node->is_unfit = true;
        break;
    case 'y':
        node->health_since_ms = NOW - MEMBERSHIP_STABLE_MS + 1;
        break;
    case 'm':
        node->health_since_ms = NOW - MEMBERSHIP_SPREAD_MS + 1;
        break;
    case 'o':
        node->schema = 2;
        break;
    default:
        EXPECT(flag == 't');
        node->role_since_ms = NOW - LONG;
        break;
    }
}

static void add_word(struct cast *cast, const char *word, size_t length)
{
    EXPECT(cast->count < WORDS_MAX && length >= 4 && word[2] == ':');
    size_t i = cast->count++;
    memcpy(cast->names[i], word, 2);
    cast->domains[i][0] = (char)(word[0] == 'x' ? '\0' : word[0]);
    cast->nodes[i] = (struct membership_node){
        .id = (uint64_t)(word[0] - 'a') * 20 + (uint64_t)(word[1] - '0') + 1,
        .name = cast->names[i],
        .failure_domain = cast->domains[i],
        .role = role_of(word[3]),
        .health_since_ms = NOW - LONG,
        .role_since_ms = NOW - 1000,
        .schema = 3,
        .lag = i,
    };
    for (size_t at = 4; at < length; at++) {
        set_flag(&cast->nodes[i], word[at]);
    }
}

static void make_cast(struct cast *cast, const char *text)
{
    memset(cast, 0, sizeof(*cast));
    while (*text != '\0') {
        size_t length = strcspn(text, " ");
        add_word(cast, text, length);
        text += length;
        text += strspn(text, " ");
    }
}

static struct membership_input input_of(const struct cast *cast, unsigned wanted)
{
    return (struct membership_input){
        .nodes = cast->nodes,
        .count = cast->count,
        .wanted = wanted,
        .begun_ms = NOW - LONG,
        .changed_ms = NOW - LONG,
        .schema = 3,
        .lost_grace_ms = MEMBERSHIP_LOST_GRACE_MS,
        .now_ms = NOW,
    };
}

static const char *decision_text(const struct cast *cast,
                                 const struct membership_decision *decision)
{
    static char text[32];
    const char *name = "";
    for (size_t i = 0; i < cast->count; i++) {
        if (cast->nodes[i].id == decision->id && decision->id != 0) {
            name = cast->names[i];
        }
    }
    snprintf(text, sizeof(text), "%s%s%s", membership_action_text(decision->action),
             name[0] != '\0' ? " " : "", name);
    return text;
}

struct membership_case {
    const char *nodes;
    unsigned wanted;
    const char *expected;
};

static void check(const struct membership_case *cases, size_t count,
                  void (*change)(struct membership_input *input))
{
    for (size_t i = 0; i < count; i++) {
        struct cast cast;
        make_cast(&cast, cases[i].nodes);
        struct membership_input input = input_of(&cast, cases[i].wanted);
        if (change != NULL) {
            change(&input);
        }
        struct membership_decision decision;
        membership_decide(&input, &decision);
        if (strcmp(decision_text(&cast, &decision), cases[i].expected) != 0) {
            fprintf(stderr, "%s, %u wanted: %s\n", cases[i].nodes, cases[i].wanted,
                    decision.reason);
        }
        EXPECT_STRING(decision_text(&cast, &decision), cases[i].expected);
    }
}
#define CHECK_CASES(cases, change) check(cases, sizeof(cases) / sizeof((cases)[0]), change)

TEST(cluster_membership, servers_are_added_up_to_the_wanted_number)
{
    static const struct membership_case cases[] = {
        {"a1:V* b1:R c1:R", 3, "add b1"},
        {"a1:V* b1:V c1:R", 3, "add c1"},
        {"a1:V* b1:V c1:V", 3, "none"},
        {"a1:V* b1:V c1:V d1:W e1:W", 3, "none"},
        {"a9:V b9:V* c9:V a1:W b1:R c1:W d1:W", 3, "none"}, /* who is one stays one */
        {"a1:V* b1:V c1:V d1:R e1:R", 5, "add d1"},
        {"a1:V* b1:W c1:W", 3, "enlist b1"},
        {"a1:V* b1:E c1:W", 3, "none"},
        {"a1:V* b1:Et c1:W d1:W", 3, "enlist c1"}, /* b1 does not manage to become one */
        {"a1:V* b1:R c1:R", 1, "none"},
        {"a1:V* b1:S c1:R", 3, "add b1"},
        {"a1:V* b1:Ry c1:R d1:R", 3, "add c1"},
        {"a1:V* b1:R? c1:R d1:R", 3, "add c1"},
        {"a1:V* b1:Ru c1:R d1:R", 3, "add c1"},
        {"a1:V* b1:Ro c1:R d1:R", 3, "add c1"},
        {"a1:V* b1:Rw c1:R d1:R", 3, "add c1"},
        {"a1:V* b1:Rl c1:R d1:R", 3, "add c1"},
    };
    CHECK_CASES(cases, NULL);
}

TEST(cluster_membership, numbers_are_odd_unless_a_person_asked)
{
    static const struct membership_case cases[] = {
        {"a1:V* b1:R", 3, "none"},
        {"a1:V* b1:Rp", 3, "add b1"},
        {"a1:V*p b1:Rp", 3, "add b1"},
        {"a1:V* b1:V", 3, "none"},
        {"a1:V* b1:V c1:V d1:R", 5, "none"},
        {"a1:V* b1:V c1:V d1:V", 5, "none"},
        {"a1:V* b1:V c1:V d1:V", 3, "remove d1"},
        {"a1:V* b1:V", 1, "remove b1"},
    };
    CHECK_CASES(cases, NULL);
}

TEST(cluster_membership, servers_stand_in_different_failure_domains)
{
    static const struct membership_case cases[] = {
        {"a1:V* a2:R a3:R b1:R c1:R", 3, "add b1"},
        {"a1:V* a2:R b1:V c1:R", 3, "add c1"},
        {"a1:V* a2:V b1:V c1:W", 3, "enlist c1"},
        {"a1:V* a2:V b1:V c1:R", 3, "add c1"},
        {"a1:V* a2:V b1:V c1:V", 3, "remove a2"},
        {"a1:V a2:V* b1:V c1:V", 3, "remove a1"},
        {"a1:V* a2:V b1:V b2:W", 3, "none"},
        {"a1:V* a2:V a3:V", 3, "none"},
        {"x1:V* x2:V x3:V x4:W", 3, "none"}, /* each without one has one of its own */
        {"a1:V* a2:V x1:V x2:R", 3, "add x2"},
        {"a1:V* a2:V b1:V b2:V c1:V c2:W", 5, "none"},
        {"a1:V* a2:V a3:V b1:V c1:V c2:R", 5, "add c2"},
        /* Better spread is not urgent. */
        {"a1:V* a2:V b1:V c1:Rm", 3, "none"},
        {"a1:V* a2:V b1:V? c1:R", 3, "none"},
        {"a1:V* a2:V b1:V~ c1:R", 3, "none"},
        {"a1:V* a2:V b1:V? c1:V", 3, "none"},
    };
    CHECK_CASES(cases, NULL);
}

TEST(cluster_membership, a_lost_server_is_replaced_after_its_grace_when_it_can_be)
{
    static const struct membership_case cases[] = {
        {"a1:V* b1:V c1:V~ d1:R", 3, "none"},
        {"a1:V* b1:V c1:V? d1:R", 3, "none"},
        {"a1:V* b1:V c1:V! d1:R", 3, "add d1"},
        {"a1:V* b1:V c1:V! d1:Ry", 3, "none"},
        {"a1:V* b1:V c1:V! d1:V", 3, "remove c1"},
        {"a1:V* b1:V c1:V!", 3, "none"},
        {"a1:V* b1:V c1:V! d1:Ww", 3, "none"},
        {"a1:V* b1:V c1:V! d1:R!", 3, "none"},
        {"a1:V* b1:V c1:Vu d1:W", 3, "enlist d1"},
        {"a1:Vu* b1:Vu c1:Vu d1:W", 3, "enlist d1"}, /* they are there still */
        {"a1:Vu* b1:Vu c1:Vu d1:Wu", 3, "none"},
        {"a1:V* b1:V c1:Vp! d1:R", 3, "add d1"},
        /* Two of five: one after the other, and never below a majority of live ones. */
        {"a1:V* b1:V c1:V d1:V! e1:V! f1:R g1:R", 5, "add f1"},
        {"a1:V* b1:V c1:V d1:V! e1:V! f1:V g1:R", 5, "remove e1"},
        {"a1:V* b1:V c1:V d1:V! f1:V g1:R", 5, "add g1"},
        {"a1:V* b1:V c1:V d1:V! f1:V g1:V", 5, "remove d1"},
        {"a1:V* b1:V? c1:V! d1:R", 3, "none"},
        {"a1:V* b1:V! d1:R", 3, "none"}, /* nobody would acknowledge it */
    };
    CHECK_CASES(cases, NULL);
}

TEST(cluster_membership, who_is_to_go_goes_and_hands_over_first)
{
    static const struct membership_case cases[] = {
        {"a1:V* b1:V c1:Vw d1:R", 3, "add d1"},
        {"a1:V* b1:V c1:Vw d1:V", 3, "remove c1"},
        {"a1:V* b1:V c1:Vl", 3, "remove c1"},
        {"a1:V* b1:V c1:Vl!", 3, "remove c1"},
        {"a1:V*w b1:V c1:V d1:V", 3, "transfer b1"}, /* that lags least */
        {"a1:V*w b1:V? c1:V d1:V", 3, "transfer c1"},
        {"a1:V*l b1:V c1:V", 3, "transfer b1"},
        {"a1:V*l b1:Vu c1:V", 3, "transfer c1"},
        {"a1:V*l b1:V", 3, "transfer b1"},
        {"a1:Vl b1:V*", 3, "remove a1"},
        {"a1:V*l", 3, "none"}, /* nobody else can be */
        {"a1:V*l b1:W", 1, "enlist b1"},
        {"a1:V*l b1:R", 1, "add b1"},
        {"a1:V*l b1:V", 1, "transfer b1"},
        {"a1:V*l b1:V c1:Wp", 1, "transfer b1"}, /* though it is c1 that shall stay */
        {"a1:V*l b1:V c1:Vp", 1, "transfer c1"},
        {"a1:V* b1:V? c1:Vl", 3, "none"}, /* two with one live are no majority */
        {"a1:V* b1:V! c1:Vl", 3, "none"},
        {"a1:V* b1:V c1:V d1:Vw e1:Vl", 3, "remove e1"},
    };
    CHECK_CASES(cases, NULL);
}

TEST(cluster_membership, whom_a_person_made_a_server_comes_first)
{
    static const struct membership_case cases[] = {
        {"a1:V* b1:V c1:V d1:Rp", 3, "add d1"},      {"a1:V* a2:V b1:V a3:Wp", 3, "enlist a3"},
        {"a1:V* b1:V c1:V a2:Vp", 3, "transfer b1"}, /* a1 is in the domain of one that is asked for
                                                      */
        {"a1:V b1:V* c1:V a2:Vp", 3, "remove a1"},   {"a1:Vp* a2:Vp a3:Vp b1:W c1:W", 3, "none"},
        {"a1:Vp* a2:Vp a3:Vp a4:Wp", 3, "none"}, /* more than wanted */
    };
    CHECK_CASES(cases, NULL);
}

TEST(cluster_membership, what_changes_left_behind_is_cleared_away)
{
    static const struct membership_case cases[] = {
        {"a1:V* b1:V c1:V d1:S", 3, "remove d1"},  {"a1:V* b1:V c1:V d1:S!", 3, "remove d1"},
        {"a1:V* b1:V c1:V d1:Sl", 3, "remove d1"}, {"a1:V* b1:V c1:V d1:Rt", 3, "dismiss d1"},
        {"a1:V* b1:V c1:V d1:R", 3, "none"},       {"a1:V* b1:V c1:V d1:Rt!", 3, "none"},
        {"a1:V* b1:V c1:V d1:Rtw", 3, "none"}, /* it knows */
    };
    CHECK_CASES(cases, NULL);
}

static void be_changing(struct membership_input *input)
{
    input->is_changing = true;
}

static void be_restless(struct membership_input *input)
{
    input->changed_ms = NOW - MEMBERSHIP_CALM_MS + 1;
}

static void be_new(struct membership_input *input)
{
    input->begun_ms = NOW - MEMBERSHIP_LOOK_MS + 1;
}

TEST(cluster_membership, a_new_leader_looks_around_first)
{
    static const struct membership_case cases[] = {
        {"a1:V* b1:R c1:R", 3, "none"},
        {"a1:V* b1:V c1:V! d1:V", 3, "none"},
    };
    CHECK_CASES(cases, be_new);
}

TEST(cluster_membership, one_change_at_a_time_and_calm_between)
{
    static const struct membership_case changing[] = {
        {"a1:V* b1:R c1:R", 3, "none"},
        {"a1:V* b1:V c1:V! d1:V", 3, "none"},
        {"a1:V*l b1:V c1:V", 3, "none"},
    };
    CHECK_CASES(changing, be_changing);

    static const struct membership_case restless[] = {
        {"a1:V* b1:R c1:R", 3, "add b1"}, /* that is urgent */
        {"a1:V* b1:V c1:V! d1:V", 3, "remove c1"},
        {"a1:V* b1:V c1:V d1:Vl", 3, "remove d1"},
        {"a1:V* b1:V c1:V d1:Rp", 3, "add d1"},
        {"a1:V* b1:V c1:V d1:V", 3, "none"}, /* and this is not */
        {"a1:V* a2:V b1:V c1:R", 3, "none"},
        {"a1:V* b1:V c1:V d1:S", 3, "none"},
    };
    CHECK_CASES(restless, be_restless);

    static const struct membership_case leaderless[] = {
        {"a1:V b1:R c1:R", 3, "none"},
        {"", 3, "none"},
    };
    CHECK_CASES(leaderless, NULL);
}

/* ---- Whatever there is, it comes to rest ---- */

static uint64_t draw(uint64_t *state, uint64_t below)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (*state * UINT64_C(2685821657736338717) >> 16) % below;
}

static void perform(struct cast *cast, const struct membership_decision *decision)
{
    for (size_t i = 0; i < cast->count; i++) {
        struct membership_node *node = &cast->nodes[i];
        bool is_it = node->id == decision->id;
        if (decision->action == MEMBERSHIP_TRANSFER) {
            EXPECT(!is_it || node->role == MEMBERSHIP_VOTER);
            node->is_leader = is_it;
        } else if (is_it && decision->action == MEMBERSHIP_ENLIST) {
            EXPECT(node->role == MEMBERSHIP_WORKER);
            node->role = MEMBERSHIP_WAITING;
            node->role_since_ms = NOW - 1000;
        } else if (is_it && decision->action == MEMBERSHIP_ADD) {
            EXPECT(node->role == MEMBERSHIP_WAITING || node->role == MEMBERSHIP_STANDBY);
            node->role = MEMBERSHIP_VOTER;
        } else if (is_it && decision->action == MEMBERSHIP_REMOVE) {
            EXPECT(!node->is_leader);
            EXPECT(node->role == MEMBERSHIP_VOTER || node->role == MEMBERSHIP_STANDBY);
            node->role = MEMBERSHIP_WAITING;
            node->role_since_ms = NOW - LONG;
        } else if (is_it) {
            EXPECT(decision->action == MEMBERSHIP_DISMISS && node->role == MEMBERSHIP_WAITING);
            node->role = MEMBERSHIP_WORKER;
        }
    }
}

static void make_random_cast(struct cast *cast, uint64_t *state)
{
    memset(cast, 0, sizeof(*cast));
    size_t count = draw(state, WORDS_MAX) + 1;
    size_t domains = draw(state, 4) + 1;
    for (size_t i = 0; i < count; i++) {
        static const char roles[] = "VWWRS";
        static const char flags[] = "pwlu!";
        char word[8];
        uint64_t flag = draw(state, 30);
        snprintf(word, sizeof(word), "%c%c:%c%c", (int)('a' + draw(state, domains)), (int)('0' + i),
                 i == 0 ? 'V' : roles[draw(state, 5)],
                 i == 0         ? '*'
                     : flag < 5 ? flags[flag]
                                : 't');
        add_word(cast, word, 5);
    }
}

static unsigned count_voters(const struct cast *cast, unsigned *ret_live)
{
    unsigned voters = 0;
    *ret_live = 0;
    for (size_t i = 0; i < cast->count; i++) {
        const struct membership_node *node = &cast->nodes[i];
        voters += node->role == MEMBERSHIP_VOTER;
        *ret_live +=
            node->role == MEMBERSHIP_VOTER && node->health == CLUSTER_HEALTHY && !node->is_unfit;
    }
    return voters;
}

static bool could_vote(const struct membership_node *node)
{
    return !node->is_leaving && node->wish != MEMBERSHIP_WANTED_WORKER && !node->is_unfit &&
        node->health == CLUSTER_HEALTHY;
}

/* All voters are well: then nobody votes who should not, unless nobody else could. */
static bool is_at_its_best(const struct cast *cast, unsigned wanted)
{
    unsigned able = 0;
    unsigned voters = 0;
    unsigned unwanted = 0;
    for (size_t i = 0; i < cast->count; i++) {
        const struct membership_node *node = &cast->nodes[i];
        bool votes = node->role == MEMBERSHIP_VOTER;
        able += could_vote(node);
        voters += votes;
        unwanted += votes && (node->is_leaving || node->wish == MEMBERSHIP_WANTED_WORKER);
    }
    bool is_full = able < wanted || voters == wanted;
    return voters <= wanted && is_full && (unwanted == 0 || able == 0);
}

TEST(cluster_membership, it_comes_to_rest_and_never_loses_the_majority)
{
    enum { SEEDS = 3000, STEPS_MAX = 40 };
    static const unsigned wanted[] = {1, 3, 5};
    uint64_t state = 4711;
    for (unsigned seed = 0; seed < SEEDS; seed++) {
        struct cast cast;
        make_random_cast(&cast, &state);
        struct membership_input input = input_of(&cast, wanted[draw(&state, 3)]);
        unsigned live;
        unsigned voters = count_voters(&cast, &live);
        bool had_majority = live >= voters / 2 + 1;
        struct membership_decision decision;
        unsigned steps = 0;
        for (; steps < STEPS_MAX; steps++) {
            membership_decide(&input, &decision);
            if (decision.action == MEMBERSHIP_NONE) {
                break;
            }
            perform(&cast, &decision);
            voters = count_voters(&cast, &live);
            EXPECT(live >= voters / 2 + 1 || !had_majority);
        }
        EXPECT(steps < STEPS_MAX);
        EXPECT(!had_majority || voters <= input.wanted || decision.reason[0] != '\0');
        EXPECT(live < voters || is_at_its_best(&cast, input.wanted));
    }
}

TEST(cluster_membership, the_schema_is_raised_when_every_node_knows_it)
{
    struct cast cast;
    uint64_t holding = 0;
    make_cast(&cast, "a1:V* b1:V c1:V! d1:W");
    EXPECT(membership_schema(cast.nodes, cast.count, 2, 3, &holding) == 3 && holding == 0);
    EXPECT(membership_schema(cast.nodes, cast.count, 2, 2, &holding) == 2 && holding == 0);
    cast.nodes[2].schema = 2; /* lost, and it will come back */
    EXPECT(membership_schema(cast.nodes, cast.count, 2, 3, &holding) == 2 &&
           holding == cast.nodes[2].id);
    cast.nodes[2].is_leaving = true; /* it has a vote still */
    EXPECT(membership_schema(cast.nodes, cast.count, 2, 3, &holding) == 2 && holding != 0);
    cast.nodes[2].role = MEMBERSHIP_WAITING;
    EXPECT(membership_schema(cast.nodes, cast.count, 2, 3, &holding) == 3 && holding == 0);
    cast.nodes[3].schema = 1; /* never below what is */
    EXPECT(membership_schema(cast.nodes, cast.count, 2, 3, &holding) == 2);
}
