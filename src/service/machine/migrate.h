/* Inside service/machine: what migrate.c, cold.c (machines that are stopped for it) and live.c
 * (those that run) share. */
#ifndef SERVICE_MACHINE_MIGRATE_H
#define SERVICE_MACHINE_MIGRATE_H

#include <stdatomic.h>

#include "service/machine/parts.h"

struct live;
struct volume_file;
struct machine_export;
struct image_writer;
struct peer_call;

struct migration {
    struct machine_service *service;
    struct machine *machine; /* held */
    uint64_t node;
    char target[64]; /* its name */
    char operation[OPERATION_ID_SIZE];
    struct loop_timer *timer;
    uint64_t timeout_ms;
    struct machine_export *export;
    struct image_writer *writer;
    bool is_live;     /* it runs */
    bool runs_after;  /* it does not move so, but ran, and is to run again */
    bool is_stopping; /* for that */
    bool is_marking;  /* a thread has it */
    bool is_snapshot; /* and goes as a state that is written down: its VMM knows no other way */
    bool is_marked;   /* FOLDER/leaving */
    struct volume_file *files; /* of its volumes, which are held */
    size_t file_count;
    bool holds_volumes;
    void (*on_packed)(struct migration *migration); /* or migration->error, or it is given up */
    uint64_t downtime_ms;                           /* at most, as asked */
    uint64_t bytes_per_second;
    char blob[HASH_TEXT_SIZE];
    uint64_t blob_bytes;
    uint64_t file_bytes; /* of what is in it, on disk */
    uint64_t bytes;      /* sent */
    bool is_packed;
    bool is_packing;
    bool is_switching;  /* it cannot be taken back any more */
    bool was_announced; /* the other node may have something of it */
    struct peer_call *call;
    _Atomic bool is_given_up;
    struct live *live;                /* while it runs: live.c; or NULL */
    char reason[MACHINE_REASON_SIZE]; /* of its row, while it moves */
    struct store_watch *watch;        /* of one that is to run there */
    bool has_started;
    void (*on_welcome)(struct migration *migration);
    char *result; /* of the operation, when it went well: JSON, or NULL */
    struct error error;
    machine_begun *done;
    void *context;
};

/* Say it to the other node: with `owned_more` get ready, without it forget. */
void migration_tell_target(struct migration *migration, json_t *owned_more, uint64_t timeout_ms,
                           void (*done)(const struct error *error, int status,
                                        struct buffer *answer, void *context));
/* Would the other node take it?  Then `done`; else it ends. */
void migration_ask(struct migration *migration, void (*done)(struct migration *migration));
/* What goes as an archive becomes migration->blob; then `done`, later or at once: all is there, or
 * migration->error says what failed, or it is given up. */
void migration_pack(struct migration *migration, void (*done)(struct migration *migration));
/* Blocks: FOLDER/leaving, for who starts this node again. */
int migration_write_mark(const struct migration *migration, struct error *err);
/* Add that the other node has what belongs to it: snapshots, volumes. */
void migration_add_belongings(const struct migration *migration, struct store_command *command);
/* CONFLICT: something else is being done to it; and what volume_move_check() says. */
int migration_check_busy(const struct machine *machine, struct error *err);
/* What its answer says was wrong. */
void migration_take_problem(const struct migration *migration, int status,
                            const struct buffer *answer, struct error *err);
/* FULL: which node is. */
void migration_name_full(const struct migration *migration, const char *node, struct error *err);
/* Everything that was begun has ended; by migration->error it went well or not. */
void migration_end(struct migration *migration);
/* The end of that. */
void migration_finish(struct migration *migration);
/* That it is on the target, in this state, once the command is carried out. */
void migration_add_event(const struct migration *migration, struct store_command *command,
                         enum machine_state state);
/* As migration_end(), in any state before the switch; with what is under way ended first. */
void migration_give_up(struct migration *migration, int kind, const char *text);
/* Blocks: move it away, then remove it. */
void migration_remove_folder(const struct machine_service *service, const char *path);

/* ---- transfer.c ---- */
/* In the folder of a machine that is on its way as a state: that. */
#define MIGRATION_STATE "moving.state"

enum transfer_kind {
    TRANSFER_STOPPED,
    TRANSFER_RUNNING, /* without what its VMM writes in */
    TRANSFER_STILL,   /* with that, and the state that was written down */
};
/* As machine_export(), of its files as they lie there, which nobody writes in meanwhile: of its
 * folder what another node needs, its snapshots, these files of volumes.  Calls back at once. */
void transfer_pack(struct machine *machine, enum transfer_kind kind,
                   const struct volume_file *files, size_t count, machine_exported *done,
                   void *context);
/* What that takes on disk. */
uint64_t machine_export_usage(const struct machine_export *export);

/* ---- cold.c ---- */
int cold_check(const struct machine *machine, struct error *err);
void cold_begin(struct migration *migration);
/* The VMM has ended because it is being moved: what follows is its affair. */
bool cold_takes_end(struct machine *machine);
/* It is given up: migration_end() follows now, or when the machine is down. */
void cold_give_up(struct migration *migration);
/* It is the other node's, and nothing of it is left here: migration_finish() when it runs there. */
void cold_await(struct migration *migration);
/* Not any longer. */
void cold_wait_no_more(struct migration *migration);

/* ---- live.c ---- */
/* Who runs it, as another node is told; a new reference. */
json_t *live_vmm(const struct machine *machine);
int live_check(const struct machine *machine, bool is_snapshot, struct error *err);
void live_begin(struct migration *migration);
/* Whatever became of its leaving, its VMM runs on, of any driver. */
void live_stay(const struct machine *machine,
               void (*done)(const struct error *error, void *context), void *context);
/* It waits for nothing any more: migration_end() follows, once the machine runs on. */
void live_give_up(struct migration *migration);

#endif
