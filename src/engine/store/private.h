/*
 * Private to the room: the store from inside.
 *
 *   opening.c   begins and ends it          propose.c   writes, wherever the leader is
 *   store.c     applies, reads, facts       barrier.c   reads that are linearizable
 *   quorum.c    libraft: a server's part    io.c        its files and messages
 *   voters.c    who votes, who leads        snapshot.c  snapshots between servers
 *   link.c      connections with others     feed.c      the log for followers
 *   follow.c    the log of others           change.c    changes, kept and told
 *   schema.c    versions of the schema
 */
#ifndef ENGINE_STORE_PRIVATE_H
#define ENGINE_STORE_PRIVATE_H

#include <raft.h>
#include <raft/uv.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"

#include "engine/store/folder.h"
#include "engine/store/machine.h"
#include "engine/store/store.h"
#include "engine/store/wire.h"

enum {
    STORE_PROPOSALS_MAX = 4096,
    STORE_SNAPSHOT_ENTRIES = 4096,
    STORE_SNAPSHOT_BYTES = 8 << 20,
    STORE_TRAILING_ENTRIES = 1024,
    STORE_EVENTS_KEPT = 8192,
    STORE_RECENT_BYTES = 8 << 20, /* of applied entries kept for followers */
    STORE_TICK_MS = 100,
    STORE_DEADLINE_MS = 30000, /* of a proposal or a read without an answer */
    STORE_LANES = 2,
    STORE_ORIGINS_MAX = 4096,
    STORE_FOLLOWED_MAX = 64,
};

struct proposal {
    struct list_node link;
    struct store_command *command;
    void (*done)(const struct error *error, uint64_t index, void *context);
    void *context;
    struct error error; /* kind NONE until refused */
    uint64_t index;     /* 0 until applied */
    uint64_t deadline_ms;
};

/* Proposals that share an entry of the log, until it is known what became of it. */
struct entry {
    struct list_node link;
    uint64_t sequence;
    uint64_t term;       /* of the leader that was asked: it can be in the log with no other */
    struct buffer bytes; /* when another node leads: kept, to be sent again */
    struct proposal **proposals;
    unsigned count; /* 0: nobody waits any more */
    bool is_applied;
    bool is_repeated; /* sent again: its leader may have it from before */
    uint64_t deadline_ms;
};

struct kept_event {
    struct store_event event;
    char table[64];
    char key[256];
};

struct store_watch {
    struct list_node link;
    char table[64]; /* "": all */
    void (*changed)(const struct store_event *event, void *context);
    void *context;
};

/* ---- Links: one stream each ---- */

struct feed;
struct outgoing;

struct link {
    struct list_node link; /* in links */
    struct store *store;
    uint64_t id;
    unsigned lane;
    bool is_inbound;
    bool has_hello;   /* inbound: the lane is known */
    bool is_refused;  /* inbound: nothing is read any more; outbound: the other has said so */
    bool is_unheard;  /* it speaks as a server, which it is not: said once */
    uint32_t version; /* of wire.h: what may be said on it */
    bool is_dialing;
    struct stream *stream; /* NULL: not connected */
    struct buffer in;
    uint64_t retry_ms; /* do not dial before */
    unsigned failures;
    size_t waiting_seen; /* bytes; since when nothing of them went out */
    uint64_t stalled_ms;
    struct raft_message arriving; /* a snapshot on an inbound lane 1 */
    size_t arrived;
    bool is_arriving;
    struct outgoing *outgoing; /* the snapshot on an outbound lane 1 */
    struct feed *feed;         /* a follower, on an inbound lane 0 */
};

/* ---- A server's part ---- */

struct origin {
    uint64_t origin;
    uint64_t sequence; /* the last one taken in this term */
};

struct quorum {
    struct store *store;
    struct raft raft;
    struct raft_io io;
    struct raft_fsm fsm;
    struct raft_uv_transport transport;
    bool raft_is_open;
    bool is_closed;
    void (*closed)(void *context); /* when it was closed */
    void *context;

    /* What libraft's I/O does itself, and whom it tells. */
    int (*load)(struct raft_io *, raft_term *, raft_id *, struct raft_snapshot **, raft_index *,
                struct raft_entry *[], size_t *);
    int (*start)(struct raft_io *, unsigned, raft_io_tick_cb, raft_io_recv_cb);
    int (*append)(struct raft_io *, struct raft_io_append *, const struct raft_entry[], unsigned,
                  raft_io_append_cb);
    void (*close)(struct raft_io *, raft_io_close_cb);
    raft_io_close_cb io_closed; /* to be told, once */
    raft_io_tick_cb tick;
    raft_io_recv_cb receive;
    unsigned appends; /* being written */
    bool is_stale;    /* an answer is being made for a write of an earlier term */
    int failure;      /* of the disk */

    bool leads;
    uint64_t term; /* while it leads */
    bool mark_runs;
    uint64_t mark_index; /* of the log */
    bool is_ready;       /* the mark of this term is applied */
    uint64_t heard_term; /* of the leader that spoke last, and how far the log was certain then */
    uint64_t heard_commit;
    uint64_t snapshot_term; /* that came last: its end, in the log */
    uint64_t snapshot_index;
    bool is_current; /* all of that has been applied here, once */
    struct origin *origins;
    size_t origin_count;

    struct list sent; /* messages whose senders are to be told */
    bool sent_posted;
    bool commit_posted;
    struct told {
        uint64_t id;
        uint64_t index; /* the last commit that this server was told by itself */
    } told[STORE_SERVERS_MAX];
    struct buffer scratch;
    uint64_t logged; /* index of the state that this log has reached */
    uint64_t loaded; /* and the one that all that was loaded of it leads to */
};

/* ---- Following the log of others ---- */

struct follow {
    bool is_on;
    uint64_t servers[STORE_FOLLOWED_MAX];
    size_t count;
    size_t next;
    uint64_t current; /* id; 0: none */
    uint64_t heard_ms;
    uint64_t led_ms; /* the followed one knew a leader */
    uint64_t wanted; /* index that it had when we came */
    bool is_wanted;  /* that is known */
    bool is_current; /* and reached */
    struct buffer state;
    size_t state_size;
    uint64_t saved; /* index of the state in the file `replica` */
    uint64_t saved_ms;
};

/* An applied entry, kept for followers. */
struct recent {
    struct list_node link;
    uint64_t base;
    uint32_t count;
    size_t length;
    uint8_t bytes[];
};

struct store {
    struct loop *loop;
    struct store_options options;
    struct folder folder;
    struct machine *machine;
    struct quorum *quorum; /* NULL: it follows */
    struct follow follow;
    bool is_open;
    bool closing;
    bool leaving;               /* a quorum is being closed */
    struct error failure;       /* of the state machine: it cannot go on */
    struct error write_failure; /* of the disk, alone: no write is taken any more */
    struct loop_timer *tick_timer;

    uint64_t leader_id; /* 0: none is known */
    uint64_t leader_term;
    uint64_t leader_since_ms;
    uint64_t leaderless_since_ms; /* while leader_id is 0; 0: since the start */
    uint64_t mark_term;           /* of the last mark that was applied */

    struct list waiting; /* proposals */
    unsigned waiting_count;
    unsigned late_count; /* refused, to be told in a later turn */
    bool expects_end;
    bool settling;
    uint64_t settle_limit_ms; /* in a cluster: when what is asked has its answer; 0: it does not
                                 settle */
    bool is_awaited;          /* the loop runs for something of this store: store_stir() ends it */
    bool flush_posted;
    bool finish_posted;
    struct list in_flight; /* entries by sequence */
    unsigned in_flight_count;
    uint64_t origin;
    uint64_t sequence;
    uint64_t base; /* on the leader: commands in the log, applied or not */

    struct list reads;      /* that wait for the next barrier */
    struct list confirming; /* that the barrier under way is for */
    struct list reached;    /* to be told */
    struct raft_barrier read_barrier;
    bool read_barrier_runs;
    bool reads_posted;
    uint64_t read_asked; /* id of the question to the leader; 0: none is under way */
    uint64_t read_count;
    uint64_t read_index;   /* the leader's answer: what `confirming` waits for */
    struct list questions; /* of other nodes */

    struct loop_timer *mark_timer;
    uint64_t marked;
    uint64_t mark_index; /* being written */
    struct error mark_error;
    bool mark_timer_runs;
    bool mark_runs;

    uint64_t log_bytes; /* applied since the last snapshot */
    uint64_t log_entries;

    struct list links;
    struct list recent;
    size_t recent_bytes;
    bool pump_posted;
    struct list handover; /* those that wait for another leader */
    unsigned changes;     /* membership, running */

    struct list watches;
    struct kept_event *events; /* a ring */
    uint64_t event_count;      /* ever kept */
    uint64_t restored;         /* index of the snapshot: no event before it */
    uint64_t snapshots;
};

/* store.c */

/* Apply an entry of the log, from wherever it came: *ret_entry is its head.  Fails when this
 * replica cannot go on. */
int store_apply(struct store *store, const uint8_t *bytes, size_t length,
                struct machine_entry *ret_entry);

/* The state was replaced by a snapshot. */
void store_on_restored(struct store *store);

/* Who leads was learnt; id 0: nobody is known to. */
void store_set_leader(struct store *store, uint64_t id, uint64_t term);

/* May this node put entries into the log? */
bool store_leads(const struct store *store);
bool store_is_alone(const struct store *store);
uint64_t store_now_ms(const struct store *store);

/* propose.c */
void store_fail_waiting(struct store *store, const struct error *error);
int store_folder_error(const struct store *store, struct error *err); /* why it failed */
void store_fail_writes(struct store *store, const struct error *error);
void store_flush(struct store *store);
void store_flush_soon(struct store *store);
void store_finish_soon(struct store *store);
void store_note_result(const struct machine_result *result, void *context);
void store_on_mark(struct store *store, uint64_t term);
void store_give_up(struct store *store, bool all); /* all, or what is beyond its deadline */
void store_give_up_unseen(struct store *store);    /* entries that a snapshot may hide */
void store_send_again(struct store *store);        /* to the leader: there is a new link */
void store_take_forward(struct link *link, const uint8_t *body, size_t length);
void store_take_refused(struct store *store, const uint8_t *body, size_t length);
void store_drop_entry(struct store *store, struct entry *entry); /* nobody waits for it */
void store_look_whether_settled(struct store *store);
bool store_settles_late(struct store *store);

/* barrier.c */
void store_ask_reads(struct store *store);
void store_reads_tick(struct store *store);
uint64_t store_deadline(const struct store *store);             /* of what is asked now */
void store_reads_hurry(struct store *store, uint64_t limit_ms); /* no answer later than this */
void store_take_read(struct link *link, const uint8_t *body, size_t length);
void store_take_read_done(struct store *store, const uint8_t *body, size_t length);
void store_on_reached(struct store *store); /* the index has grown */
void store_drop_questions(struct store *store, const struct link *link_or_null);
void store_end_reads(struct store *store, const struct error *error);

/* opening.c */
void store_run(struct store *store);  /* the loop, until store_stir() */
void store_stir(struct store *store); /* something has happened that may be waited for */
/* End this node's part in the quorum, and follow the others; `done` may be NULL. */
void store_leave_quorum(struct store *store, void (*done)(void *context), void *context);
bool store_is_ready(const struct store *store);
void store_mark_soon(struct store *store);
void store_mark_now(void *context); /* of the timer */

/* quorum.c */
int quorum_open(struct store *store, struct error *err);
/* `closed` when nothing of it runs any more; it is freed then. */
void quorum_close(struct quorum *quorum, void (*closed)(void *context), void *context);
void quorum_fail(struct quorum *quorum, int status);       /* it cannot go on, told later */
void quorum_tell_commit(struct quorum *quorum);            /* soon, to who waits for nothing else */
bool quorum_has(const struct quorum *quorum, uint64_t id); /* in its configuration */
bool quorum_is_only(const struct quorum *quorum);          /* one server, and this is it */
int quorum_append(struct quorum *quorum, const uint8_t *bytes, size_t length);
void quorum_watch(struct quorum *quorum); /* after anything that libraft did */
struct origin *quorum_origin(struct quorum *quorum, uint64_t origin);
void quorum_note(struct quorum *quorum, int status); /* what a write came to: it may fail of it */
void quorum_release(struct quorum *quorum); /* freed, if it is over and nothing is posted */
void quorum_end(void *argument);            /* a closed one, posted: when its writes have arrived */

/* io.c */
void quorum_wrap(struct quorum *quorum); /* after raft_init(), before raft_start() */
void quorum_receive(struct quorum *quorum, uint64_t from, struct raft_message *owned_message);
void quorum_tell(struct quorum *quorum, struct raft_io_send *request, int status); /* later */

/* voters.c */
void store_take_transfer(struct link *link, const uint8_t *body, size_t length);
void store_look_at_handover(struct store *store);
void store_end_handover(struct store *store, const struct error *error);

/* link.c */
struct stream *link_to(struct store *store, uint64_t id, unsigned lane); /* NULL: not now */
struct link *link_find(struct store *store, uint64_t id, unsigned lane);
void link_say(struct stream *stream, enum frame_kind kind, const void *body, size_t length);
void link_close(struct link *link);
void links_close(struct store *store, uint64_t id_or_0);
void links_tick(struct store *store);

/* snapshot.c */
int snapshot_send(struct quorum *quorum, struct raft_io_send *request,
                  const struct raft_message *message);
void snapshot_go_on(struct link *link);
void snapshot_lose(struct link *link);
void snapshot_take(struct link *link, enum frame_kind kind, const uint8_t *body, size_t length,
                   struct error *err);

/* feed.c */
void feed_keep(struct store *store, const struct machine_entry *entry, const uint8_t *bytes,
               size_t length);
void feed_begin(struct link *link, const uint8_t *body, size_t length);
void feed_end(struct link *link);
void feed_pump(struct link *link);
void feeds_forget(struct store *store); /* kept entries, after a snapshot */
void feeds_tick(struct store *store);

/* follow.c */
void follow_begin(struct store *store);
void follow_end(struct store *store);
void follow_tick(struct store *store);
void follow_on_up(struct link *link);
void follow_on_down(struct store *store, uint64_t id);
void follow_take(struct link *link, enum frame_kind kind, const uint8_t *body, size_t length,
                 struct error *err);
int follow_load(struct store *store, struct error *err);
int follow_save(struct store *store, struct error *err);

/* change.c */
void store_on_changed(const struct store_event *event, void *context);
void store_tell_replaced(struct store *store);

/* schema.c */

/* The version of the schema that this program knows; the first is 1. */
unsigned schema_version(void);

/* The first version's SQL; the caller frees it. */
char *schema_initial(void);

/* What makes version `version` of the one before it, as a command. */
struct store_command *schema_step(unsigned version);

/* Is it, word for word, a statement of a later version than the first? */
bool schema_has(const char *sql, size_t length);

/* Versions up to this one are made by SCHEMA_SET_VERSION, later ones by SCHEMA_RAISE. */
enum { SCHEMA_LAST_OF_ONE = 3 };

/* What else commands may say about the store itself: see rights.h.  Logs have these texts. */
#define SCHEMA_SET_VERSION                                                                       \
    "INSERT INTO store_meta (key, value) VALUES ('schema', ?1) ON CONFLICT (key) DO UPDATE SET " \
    "value = excluded.value WHERE value = excluded.value - 1"
#define SCHEMA_RAISE                                                                              \
    "INSERT INTO store_meta (key, value) VALUES ('schema', ?1) ON CONFLICT (key) DO UPDATE SET "  \
    "value = excluded.value WHERE value = excluded.value - 1 AND NOT EXISTS (SELECT 1 FROM node " \
    "WHERE schema < ?1)"
#define SCHEMA_LIMIT                                                                            \
    "INSERT INTO store_meta (key, value) VALUES ('schema', 1) ON CONFLICT (key) DO UPDATE SET " \
    "value = value WHERE value <= ?1"
#define SCHEMA_SET_INCARNATION                                                                   \
    "INSERT INTO store_meta (key, value) VALUES ('incarnation', ?) ON CONFLICT (key) DO UPDATE " \
    "SET value = excluded.value"
#define SCHEMA_SET_SEEDED                                                                       \
    "INSERT INTO store_meta (key, value) VALUES ('seeded', 1) ON CONFLICT (key) DO UPDATE SET " \
    "value = value + 1"

#endif
