/* Private to the room: the store from inside.  opening.c begins and ends it, store.c proposes and
 * reads, replica.c is what libraft calls, change.c keeps and tells changes. */
#ifndef ENGINE_STORE_PRIVATE_H
#define ENGINE_STORE_PRIVATE_H

#include <raft.h>
#include <raft/uv.h>

#include "base/error.h"
#include "base/list.h"

#include "engine/store/folder.h"
#include "engine/store/machine.h"
#include "engine/store/store.h"

enum {
    STORE_PROPOSALS_MAX = 4096,
    STORE_SNAPSHOT_ENTRIES = 4096,
    STORE_SNAPSHOT_BYTES = 8 << 20,
    STORE_TRAILING_ENTRIES = 1024,
    STORE_EVENTS_KEPT = 8192,
};

struct proposal {
    struct list_node link;
    struct store_command *command;
    void (*done)(const struct error *error, uint64_t index, void *context);
    void *context;
    struct error error; /* kind NONE until refused */
    uint64_t index;     /* 0 until applied */
};

struct entry {
    struct raft_apply request;
    struct list_node link;
    struct store *store;
    uint64_t sequence;
    struct proposal **proposals;
    unsigned count;
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

struct store {
    struct loop *loop;
    struct store_options options;
    struct folder folder;
    struct raft raft;
    struct raft_io io;
    struct raft_fsm fsm;
    struct raft_uv_transport transport;
    struct machine *machine;
    struct raft_barrier barrier;
    bool barrier_runs;
    bool ready;
    bool closed;
    bool closing;
    bool flush_posted;
    bool raft_is_open;
    struct error failure;       /* of the state machine: it cannot go on */
    struct error write_failure; /* of the disk: no write is taken any more */

    struct list waiting; /* proposals */
    unsigned waiting_count;
    unsigned late_count; /* refused, to be told in a later turn */
    bool settling;
    struct list in_flight; /* entries */
    unsigned in_flight_count;
    uint64_t origin;
    uint64_t sequence;
    uint64_t base; /* commands in the log, applied or not */

    struct list reads;      /* that wait for the next barrier */
    struct list confirming; /* that the barrier under way is for */
    struct raft_barrier read_barrier;
    bool read_barrier_runs;
    bool reads_posted;

    struct loop_timer *mark_timer;
    uint64_t marked;
    uint64_t mark_index; /* being written */
    struct error mark_error;
    bool mark_timer_runs;
    bool mark_runs;

    uint64_t log_bytes; /* applied since the last snapshot */
    uint64_t log_entries;

    struct list watches;
    struct kept_event *events; /* a ring */
    uint64_t event_count;      /* ever kept */
    uint64_t restored;         /* index of the snapshot: no event before it */
    uint64_t snapshots;
};

/* store.c */
void store_fail_waiting(struct store *store, const struct error *error);
void store_mark_now(void *context); /* of the timer */

/* replica.c */
extern const struct raft_fsm store_fsm;
void store_on_applied(const struct machine_result *result, void *context);

/* change.c */
void store_on_changed(const struct store_event *event, void *context);

/* schema.c */

/* The version of the schema that this program knows; the first is 1. */
unsigned schema_version(void);

/* The first version's SQL; the caller frees it. */
char *schema_first(void);

/* What makes version `version` of the one before it, as a command. */
struct store_command *schema_step(unsigned version);

#endif
