/*
 * The simulator: a cluster in virtual time, from a seed.
 *
 * The production code of liveness and membership runs on nodes whose clocks drift, that are
 * stopped, killed and cut off, over a network that delays, loses and reorders.  A small Raft of the
 * simulator's own (raft.c) takes the place of the store: it promises what Raft promises, and no
 * more; a leader that was deposed goes on believing for as long as it hears nothing.
 *
 *   world.c    time, events, the network, what must be true at every moment
 *   raft.c     the log
 *   node.c     a node: beats, leases, the leader's judgements and steps, acting as an owner
 *   chaos.c    what happens to them
 *   main.c     scenarios, seeds, the verdict
 */
#ifndef TEST_SIM_SIM_H
#define TEST_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/cluster/liveness.h"
#include "service/cluster/membership.h"

enum {
    SIM_NODES = 8,
    SIM_RESOURCES = 6, /* those with an odd number are machines: monitors end them */
    SIM_MEMBERS_MAX = 8,
    SIM_LOG_MAX = 6000,
    SIM_BATCH_MAX = 64,
    SIM_TICK_MS = 50,
    SIM_ELECTION_MS = 500,
    SIM_HEARTBEAT_MS = 100,
    SIM_NOWHERE = -1,
};

/* ---- The log and the state that it makes ---- */

struct config {
    uint64_t voters[SIM_MEMBERS_MAX];
    size_t count;
    uint64_t standby; /* 0: none */
};

enum entry_kind {
    ENTRY_NOTHING, /* a write that concerns nobody here, or a barrier */
    ENTRY_CONFIG,
    ENTRY_REIGN,    /* a: term */
    ENTRY_MOVE,     /* a: resource, b: from, c: to; expects reign */
    ENTRY_ROLE,     /* a: node, b: 1 server; expects reign */
    ENTRY_IDENTITY, /* a: node, b: old id, c: new id */
    ENTRY_JOIN,     /* a: node, b: id */
    ENTRY_WISH,     /* a: node, b: enum membership_wish */
    ENTRY_LEAVE,    /* a: node */
    ENTRY_GONE,     /* a: node, b: id; expects reign */
    ENTRY_WANTED,   /* a: number of servers */
};

struct entry {
    enum entry_kind kind;
    uint64_t term;
    uint64_t reign; /* expected; 0: any */
    uint64_t a, b, c;
    struct config config;
};

struct row {
    bool is_there;
    uint64_t id;
    bool is_server;
    enum membership_wish wish;
    bool is_leaving;
};

struct state {
    uint64_t index;
    uint64_t reign;
    unsigned wanted;
    struct row rows[SIM_NODES];
    uint64_t owners[SIM_RESOURCES]; /* ids */
    uint64_t joined[SIM_NODES];     /* the last id of each */
    struct config config;           /* the latest that is committed */
};

/* ---- Messages ---- */

enum message_kind {
    MESSAGE_VOTE_ASKED,
    MESSAGE_VOTE,
    MESSAGE_APPEND,
    MESSAGE_APPENDED,
    MESSAGE_LEAD_NOW,
    MESSAGE_PROPOSE,
    MESSAGE_FETCH,
    MESSAGE_FETCHED,
    MESSAGE_BEAT,
    MESSAGE_ANSWER,
};

struct message {
    enum message_kind kind;
    uint64_t from; /* id */
    uint64_t to;
    uint64_t term;
    uint64_t index, index_term, commit; /* of the log */
    bool yes;                           /* granted, matches, must not be ignored */
    uint64_t leader;                    /* hint */
    struct liveness_beat beat;
    struct liveness_answer answer;
    struct liveness_clock clock; /* what the node found of its own */
    bool is_server;              /* its store is a server's */
    uint64_t real_ms;            /* wall clock of the leader */
    size_t count;
    struct entry *entries; /* owned */
};

/* ---- A node ---- */

enum raft_role { RAFT_FOLLOWER, RAFT_CANDIDATE, RAFT_LEADER };

struct peer {
    uint64_t id, next, match, heard_ms;
};

struct raft {
    /* On disk. */
    uint64_t term, voted_for;
    struct entry *log; /* log[0] is index 1 */
    size_t length;
    /* In memory. */
    enum raft_role role;
    uint64_t leader, commit, contact_ms, deadline_ms, heartbeat_ms;
    size_t votes;
    uint64_t voted[SIM_MEMBERS_MAX];
    struct peer peers[SIM_MEMBERS_MAX + 1];
    size_t peer_count;
};

/* A change that the leader makes; one at a time. */
struct change {
    enum membership_action action; /* NONE: none is under way */
    uint64_t id;
    uint64_t index; /* of the entry that ends it; 0: not there yet */
    uint64_t deadline_ms;
};

/* What the leader remembers of a node between two decisions. */
struct fact {
    uint64_t id;
    bool is_server;
    enum membership_role role;
    uint64_t role_since_ms;
    uint64_t move_ms; /* when its resources were moved last */
    uint64_t ticket, barrier;
    bool is_lost;
    struct liveness_clock clock;
};

struct sim_node {
    int slot;
    char name[4];
    char domain[4];
    bool is_up;
    bool is_used; /* it is, was or will be of the cluster */
    bool is_dead; /* for good */
    bool is_removed, has_joined;
    uint64_t start_us;   /* when it is down: until then */
    uint64_t lazy_us;    /* until then it applies nothing */
    uint64_t disk_us;    /* until then it has nothing new on disk */
    uint64_t disk_index; /* but what it had before */
    uint64_t stopped_us; /* until then nothing happens in it */
    uint64_t generation; /* of the process */
    uint64_t broken_us;  /* since when it is down or stopped; 0: it is not */
    double rate;         /* of its clock */
    uint64_t clock_us;   /* of its clock when the simulation was at clock_at_us */
    uint64_t clock_at_us;
    int64_t wall_ms; /* of its wall clock, off from true */
    uint64_t id, old_id;
    bool is_server;
    struct raft raft;
    struct state state;
    struct liveness_node lease;
    struct liveness_leader *leader;
    uint64_t reign_begun; /* the term for which a reign was begun; 0: none */
    uint64_t reign_index; /* of the entry that writes it */
    uint64_t end_ms;      /* when it will notice that it does not lead any more; 0: it does */
    struct change change;
    uint64_t begun_ms, changed_ms, decided_ms;
    char reason[MEMBERSHIP_REASON_MAX]; /* why nothing is done, for the trace */
    struct fact facts[SIM_NODES * 2];
    size_t fact_count;
    struct liveness_clock clock;
    uint64_t beat_ms, fetch_ms, identity_ms, join_ms, hint;
};

/* ---- The world ---- */

struct params {
    uint64_t delay_us, delay_rare_us; /* most messages; one of a hundred */
    unsigned loss_permille;
    double drift;
    uint64_t chaos_us;  /* for so long things happen */
    uint64_t mishap_us; /* on average between two of them */
    unsigned wanted;
    bool steps_down; /* a leader without a majority notices, as long as it runs */
    bool may_die, may_stop, may_cut, may_ask, may_reboot;
    bool may_lag;   /* nodes apply late, disks are slow */
    bool is_narrow; /* what happens lasts about as long as it takes to be LOST */
};

struct event;

struct world {
    uint64_t seed, random, now_us, sequence, next_id;
    bool is_traced, is_failed;
    char failure[512];
    struct params params;
    struct sim_node nodes[SIM_NODES];
    uint64_t cut_us[SIM_NODES][SIM_NODES]; /* [from][to]: since when nothing passes; 0: it does */
    uint64_t join_us[SIM_NODES][SIM_NODES];
    uint64_t mishap_us; /* the next */
    struct event *events;
    size_t event_count, event_room;
    bool is_calm; /* after the chaos */

    /* The truth. */
    struct entry *committed;
    size_t committed_count;
    uint64_t leader_of_term[SIM_LOG_MAX];
    uint64_t act_end_us[SIM_RESOURCES];
    uint64_t actor[SIM_RESOURCES];
    uint64_t vmm_end_us[SIM_RESOURCES][SIM_NODES]; /* what runs of a machine has ended by then */

    /* For the verdict, and to see that a run was worth something. */
    uint64_t acts, moves, moves_refused, grants, elections, actions, lost, readmitted, expired;
    uint64_t expired_seen;
    struct sim_node *flapping;
    uint64_t last_action_us;
    char last_action[64];
};

/* world.c */
uint64_t draw(struct world *world, uint64_t below);
bool chance(struct world *world, unsigned permille);
void trace(struct world *world, const struct sim_node *node, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void violated(struct world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));
uint64_t boot_ms(const struct world *world, const struct sim_node *node);
uint64_t wall_ms(const struct world *world, const struct sim_node *node);
void world_init(struct world *world, uint64_t seed, const struct params *params, bool is_traced);
void world_done(struct world *world);
bool world_step(struct world *world, uint64_t until_us); /* false: nothing before then, or failed */
void send_message(struct world *world, const struct sim_node *from, const struct message *message);
void schedule_tick(struct world *world, struct sim_node *node);
struct sim_node *node_with(struct world *world, uint64_t id);
void note_committed(struct world *world, const struct sim_node *node, uint64_t index,
                    const struct entry *entry);
void note_elected(struct world *world, const struct sim_node *node, uint64_t term);
void note_act(struct world *world, const struct sim_node *node, size_t resource);
/* Machines go on without a daemon, until their monitors end them. */
static inline bool is_machine(size_t resource)
{
    return resource % 2 == 1;
}
void note_machine(struct world *world, const struct sim_node *node, size_t resource);
void note_reconciled(struct world *world, const struct sim_node *node, size_t resource);
void note_step(struct world *world, const struct sim_node *leader,
               const struct membership_decision *decision, const struct config *after);
bool can_pass(const struct world *world, int from, int to);

/* raft.c */
void raft_forget(struct raft *raft); /* as a new server: an empty disk */
void raft_restart(struct world *world, struct sim_node *node);
void raft_tick(struct world *world, struct sim_node *node);
void raft_receive(struct world *world, struct sim_node *node, const struct message *message);
uint64_t raft_append(struct world *world, struct sim_node *node,
                     const struct entry *entry); /* 0: no */
void raft_hand_over(struct world *world, struct sim_node *node, uint64_t id);
const struct config *raft_config(const struct raft *raft, uint64_t *ret_index); /* the latest */
bool config_has(const struct config *config, uint64_t id);
uint64_t raft_match(const struct raft *raft, uint64_t id);

/* node.c */
void node_start(struct world *world, struct sim_node *node);
void node_tick(struct world *world, struct sim_node *node);
void node_receive(struct world *world, struct sim_node *node, const struct message *message);
void node_advance(struct world *world, struct sim_node *node, const struct entry *log, uint64_t to);

/* leader.c */
void leader_tick(struct world *world, struct sim_node *node);
void leader_hear(struct world *world, struct sim_node *node, const struct message *message);
void leader_applied(struct world *world, struct sim_node *node, uint64_t index);
void propose(struct world *world, struct sim_node *node, const struct entry *entry);

/* chaos.c */
void chaos_begin(struct world *world);
void chaos_step(struct world *world); /* often */
void chaos_heal(struct world *world);
void node_kill(struct world *world, struct sim_node *node);

#endif
