/*
 * The replicated store: libraft + SQLite.
 *
 * State is an in-memory SQLite database that every server builds by applying the same commands in
 * the same order.  A command is a batch of parameterised SQL statements with every result decided
 * before (no random(), no clock: SQL that is not deterministic is refused).  Here there is one
 * voter; the rest is as the cluster will use it.
 *
 * All calls on the store's loop thread.  Writes: store_propose().  Reads: store_query().
 *
 * Sources: Ongaro, "Consensus: Bridging Theory and Practice", 2014; sqlite3_update_hook().
 */
#ifndef ENGINE_STORE_STORE_H
#define ENGINE_STORE_STORE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct loop;
struct store;
struct stream;

/* How a node has its part in the state. */
enum store_role {
    STORE_SERVER, /* votes, keeps the log: one of 1, 3 or 5 */
    STORE_WORKER, /* follows the log of a server; no voice, no log of its own */
};

/* ALPN name of what stores say to each other, and what a stream that speaks it is given to. */
#define STORE_PROTOCOL "blixard-store/1"

/*
 * The way to other nodes, which the store does not know.  `dial` begins a connection to node `id`
 * that speaks STORE_PROTOCOL and is authenticated on both sides; it ends with store_dialed(), later
 * and once, whatever happens.  At most one runs per (id, lane).
 */
struct store_network {
    void (*dial)(uint64_t id, unsigned lane, void *context);
    /* May node `id`, which is not in the configuration of this server, vote and lead?  One that is
     * about to be added says so to the others first.  NULL: any may. */
    bool (*may_lead)(uint64_t id, void *context);
    void *context;
};

struct store_options {
    const char *folder;      /* made when missing, mode 0700; locked while open */
    unsigned proposals_max;  /* in flight and waiting; beyond: OVERLOADED.  0: 4096 */
    uint64_t snapshot_bytes; /* of log since the last snapshot; 0: 8 MiB */
    /* Once, when this node can no longer write its log (FULL, UNKNOWN_OUTCOME) or the mark of what
     * was acknowledged, or the others are at a schema that it does not know (UNSUPPORTED): from
     * then on every write is refused with this error, until a new start. */
    void (*on_failed)(const struct error *error, void *context);
    void *context;

    enum store_role role;
    uint64_t node_id; /* of a new folder; 0: a random one.  Never of a node that was before */
    bool joins;       /* a new folder is a server without a configuration: the leader adds it */
    bool exists;      /* this server had a log: a new folder is CORRUPT (it may vote twice) */
    /* Of a server whose majority is gone for good, which no other node may believe any more: it is
     * the only one of its configuration from now on, with what its log has. */
    bool recovers;
    struct store_network network; /* `dial` NULL: alone */
    /* Who leads, whether this node can write, or its role has changed; may be NULL. */
    void (*on_leader)(void *context);
};

/*
 * Open, recover, elect, apply.  What was acknowledged is there, or the folder is CORRUPT: commands
 * are marked as acknowledged within 100 ms, on disk; only damage that reaches the last commands of
 * a process which died before it marked them can pass for a write torn by the crash.  Blocks by
 * running the loop until the node is ready.  Fails with EXISTS (another daemon has the folder: its
 * pid), CORRUPT (which file, what to do), UNSUPPORTED (a folder of a newer version), FULL, DENIED,
 * OS.
 */
int store_open(struct loop *loop, const struct store_options *options, struct store **ret_store,
               struct error *err);

/*
 * One of many does not wait for the others in store_open(): it has what it had.  This runs the loop
 * until the state is as new as when the node ended, or, on a new one, as the others have it; the
 * network is to be there.  TIMEOUT; CANCELLED when the loop was stopped; UNSUPPORTED when that
 * state is of a newer version.
 */
int store_wait(struct store *store, uint64_t timeout_ms, struct error *err);

/*
 * Run the loop until what any node acknowledged before this call is here.  UNAVAILABLE when nobody
 * leads for `leaderless_ms`, or who leads gives no answer in time: what is here may be old then.
 * CANCELLED when the loop was stopped; otherwise the failure of the state.
 */
int store_catch_up(struct store *store, uint64_t leaderless_ms, struct error *err);
void store_close(struct store *store); /* waits for what is being written */

/*
 * Run the loop until every write proposed so far, and every one that these lead to, was answered:
 * what a service does before it frees the contexts of its own.  In a cluster this is at most some
 * three seconds: what has no answer then fails, barriers that were asked for before it as well.
 */
void store_settle(struct store *store);

/*
 * The end is near: nobody waits long for the other nodes any more.  In a cluster what was asked,
 * and what still will be, has its answer within some three seconds; where nobody leads, that long
 * after somebody did.
 */
void store_expect_end(struct store *store);

/* ---- Commands ---- */

struct store_command;

struct store_command *store_command_new(void);
void store_command_free(struct store_command *command);

/*
 * Add a statement; `types` has one letter per parameter that follows: i (int64_t), u (uint64_t),
 * t (const char *, NULL is SQL NULL), d (double), b (const void *, size_t), r (no argument: the
 * index of this very entry, for revision columns).
 */
void store_command_add(struct store_command *command, const char *sql, const char *types, ...);

/* A statement that must change at least one row, or the whole command is undone and fails with
 * `kind` and `text` (CONFLICT, NOT_FOUND, EXISTS: a compare-and-set). */
void store_command_add_expecting(struct store_command *command, int kind, const char *text,
                                 const char *sql, const char *types, ...);

/*
 * Propose (the command is taken).  `done` is called later, once: error NULL and the index after
 * which the change is visible; or CONFLICT and the like, INVALID (SQL error: constraint),
 * OVERLOADED, UNAVAILABLE (no leader within 30 s: it will not come to be), FULL, UNKNOWN_OUTCOME
 * (it may or may not come to be).  `done` may be NULL.  On any node: where it is not the leader the
 * command goes there, once, and `done` is called when the change is visible here.
 */
void store_propose(struct store *store, struct store_command *owned_command,
                   void (*done)(const struct error *error, uint64_t index, void *context),
                   void *context);

/* Propose, and run the loop until it was answered: for starts, and for programs that have nothing
 * else to do. */
int store_write(struct store *store, struct store_command *owned_command, struct error *err);

/* ---- Reads ---- */

/*
 * Call `done` later, once: with NULL when everything that any node acknowledged before this call is
 * visible here, so that a read in `done` is linearizable; or NOT_LEADER, UNAVAILABLE, FULL.  Costs
 * one entry of the log for all that ask meanwhile (dissertation 6.4).
 */
void store_barrier(struct store *store, void (*done)(const struct error *error, void *context),
                   void *context);

/* Give the state another history: those who followed the old one fetch all of it again. */
void store_command_add_incarnation(struct store_command *command);

/* Index of the last applied command; what every answer carries in X-Blixard-Index. */
uint64_t store_index(const struct store *store);

/* Prepare (cached by text), bind as store_command_add(), step through the rows. */
int store_query(struct store *store, struct error *err,
                bool (*row)(sqlite3_stmt *row, void *context), void *context, const char *sql,
                const char *types, ...);

/* Ready callbacks, of the first row alone.  `context`: a uint64_t, its first column; a bool, that
 * there is a row; a char *, a copy of its first column, "" for NULL, the caller's. */
bool store_take_u64(sqlite3_stmt *row, void *context);
bool store_take_any(sqlite3_stmt *row, void *context);
bool store_take_text(sqlite3_stmt *row, void *context);

/* In such a callback: a text, "" for NULL; lent until it returns. */
static inline const char *store_text(sqlite3_stmt *row, int column)
{
    const char *text = (const char *)sqlite3_column_text(row, column);
    return text != NULL ? text : "";
}

/* ---- Many nodes ---- */

/* An authenticated connection from node `id`, which dialed; the stream is taken. */
void store_accept(struct store *store, uint64_t id, struct stream *owned_stream);

/* The end of `dial`: a stream, which is taken, or NULL. */
void store_dialed(struct store *store, uint64_t id, unsigned lane, struct stream *owned_stream);

/* Which servers a worker may follow, nearest first; at most 64.  The store cuts connections with
 * nodes that are told to be gone. */
void store_set_servers(struct store *store, const uint64_t *ids, size_t count);
void store_forget_node(struct store *store, uint64_t id);

/*
 * Membership: on the leader, one change at a time; others answer NOT_LEADER, a change under way
 * CONFLICT.  Adding: the node gets the state first, and votes when it has caught up (done is called
 * then).  Removing the leader makes it transfer the leadership before.
 */
void store_add_server(struct store *store, uint64_t id,
                      void (*done)(const struct error *error, void *context), void *context);
void store_remove_server(struct store *store, uint64_t id,
                         void (*done)(const struct error *error, void *context), void *context);

/* On any node: ask that node `id` (0: the one that is furthest) leads; `done` when this node sees
 * another leader, or TIMEOUT, UNAVAILABLE, INVALID (no server); it may be called before this
 * returns. */
void store_transfer_leadership(struct store *store, uint64_t id,
                               void (*done)(const struct error *error, void *context),
                               void *context);

/* Become the other: a worker keeps no log, a server begins with none and waits to be added.  Reads,
 * watches and proposals go on.  `node_id`: for a server one that was never a server before. */
void store_change_role(struct store *store, enum store_role role, uint64_t node_id,
                       void (*done)(const struct error *error, void *context), void *context);

unsigned store_schema_version(void);            /* the newest that this program knows */
unsigned store_schema_now(struct store *store); /* of the state */

/*
 * The next versions of the schema, up to `version`, each a command.  CONFLICT while a row of table
 * `node` says that its node does not know the version.
 */
void store_upgrade(struct store *store, unsigned version,
                   void (*done)(const struct error *error, void *context), void *context);

/* The command is UNSUPPORTED when the schema is newer than `version` by then. */
void store_command_add_schema_limit(struct store_command *command, unsigned version);

/* ---- Copies ---- */

/* The whole state at *ret_index, as a SQLite database file. */
int store_dump(struct store *store, struct buffer *ret_database, uint64_t *ret_index,
               struct error *err);

/*
 * Make a store in a folder that is new, with this state, which was at `index`: what is opened there
 * afterwards goes on from a later index (and refuses a state of a newer Blixard).  Blocks by
 * running the loop.  Fails with CORRUPT (no such database), or as store_open().  A folder in which
 * it failed is of no use.
 */
int store_seed(struct loop *loop, const char *folder, const void *database, size_t length,
               uint64_t index, struct error *err);

/* ---- Changes ---- */

struct store_event {
    uint64_t index; /* of the command; several events may share one */
    const char *table;
    char operation; /* 'I'nsert, 'U'pdate, 'D'elete; 'R': all was replaced (a snapshot), table "" */
    int64_t rowid;
    const char *key; /* value of the table's `key` column, or "" */
};

/* Called after each applied command, per changed row, on the loop thread; 'R' goes to everybody. */
struct store_watch;
struct store_watch *store_watch_new(struct store *store, const char *table_or_null,
                                    void (*changed)(const struct store_event *event, void *context),
                                    void *context);
void store_watch_free(struct store_watch *watch);

/* Replay kept events with index > after (a ring of the last 8192).  False when they are compacted.
 */
bool store_events_since(struct store *store, uint64_t after,
                        void (*visit)(const struct store_event *event, void *context),
                        void *context);

/* ---- Facts for `node` and /metrics ---- */

enum { STORE_SERVERS_MAX = 16 };

struct store_server {
    uint64_t id;
    bool votes;
    bool is_connected; /* from here */
    uint64_t match;    /* on the leader: index of its log; else 0 */
};

struct store_status {
    bool ready; /* the state is as new as what was acknowledged before the start */
    enum store_role role;
    bool is_leader;
    uint64_t leader_id;   /* 0: none is known */
    uint64_t followed_id; /* of a worker: whose log it reads now; 0: nobody's */
    uint64_t node_id;
    uint64_t term;
    uint64_t index;
    uint64_t log_index; /* of libraft's entries */
    uint64_t log_end;   /* of a server at its start: the index that all of its log leads to */
    uint64_t database_bytes;
    uint64_t snapshots;
    uint64_t commands;
    uint64_t commands_failed;
    uint64_t
        marked_index; /* damage that loses any command up to here is noticed at the next start */
    struct store_server servers[STORE_SERVERS_MAX]; /* of a server: the configuration */
    size_t server_count;
};
void store_status(const struct store *store, struct store_status *ret_status);

#endif
