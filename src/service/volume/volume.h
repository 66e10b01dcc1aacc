/*
 * Volumes: disks that machines are given, which outlive them.
 *
 * A volume is a row of the state, and layers (engine/volume): the newest is written, those below
 * never again, each of them a row of its own.  A snapshot names a layer; a clone is a volume whose
 * first layer lies over a snapshot's.  A volume lives on one node, in FOLDER, and its machine with
 * it; what is done to it is done there, and alone that node writes its state.
 *
 * Whatever takes time has a state (creating, growing, laying, restoring): a node that comes back
 * finds it and goes on from the rows.  A layer without a row is never removed: that may be what a
 * restored state does not know any more, and is somebody's data; one with a row that nothing names
 * is, file first.  (docs/developer-guide/decisions/0016.)
 *
 * A volume of a running machine is changed by its VMM, another one by qemu-img.  Machines are the
 * business of the room above, which tells what there is by struct volume_machines.
 *
 * Main loop thread.  Every `done` is called once, later.
 */
#ifndef SERVICE_VOLUME_VOLUME_H
#define SERVICE_VOLUME_VOLUME_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/hypervisor/hypervisor.h"

struct agent;
struct buffer;
struct error;
struct loop;
struct operation_service;
struct secret_service;
struct store;
struct store_command;
struct volume_service;

enum { VOLUME_ID_SIZE = 17, VOLUME_PATH_MAX = 96 };

/*
 * What a disk may do in a second, as members of settings: iops, read_iops, write_iops, bandwidth,
 * read_bandwidth, write_bandwidth; of a machine's own disk with "disk_" before each (`prefix`).
 * volume_rates_check(): INVALID for one that is too large, or limits reading and writing both
 * together and each.
 */
enum { VOLUME_RATES = 6 };
const char *volume_rate_name(size_t index);
int volume_rates_check(const json_t *config, const char *prefix, struct error *err);
struct hypervisor_rates volume_rates_of(const json_t *config, const char *prefix);

struct volume_options {
    struct loop *loop;
    struct store *store;
    struct operation_service *operations;
    struct secret_service *secrets;
    const char *folder; /* made when missing; copied, as the next */
    const char *node_name;
};

int volume_service_new(const struct volume_options *options, struct volume_service **ret_service,
                       struct error *err);
/* What a thread does is waited for (it runs the loop). */
void volume_service_free(struct volume_service *service);

/* ---- What people ask for ---- */

/* With the id of the operation that ends when it is so, or an error. */
typedef void volume_begun(const struct error *error, const char *operation, void *context);

/* On this node; a body of type VolumeCreate.  INVALID names the setting; EXISTS, NOT_FOUND (a
 * snapshot, a secret), FULL, LIMIT. */
void volume_create(struct volume_service *service, const char *project, const json_t *create,
                   volume_begun *done, void *context);

/* The others at the volume's node: see volume_node().  NOT_FOUND; CONFLICT when its state does not
 * allow it. */

/* A body of type VolumeUpdate.  INVALID: it would become smaller. */
void volume_update(struct volume_service *service, const char *project, const char *name,
                   const json_t *update, volume_begun *done, void *context);
/* CONFLICT: a machine has it, or it has snapshots; both are named. */
void volume_delete(struct volume_service *service, const char *project, const char *name,
                   volume_begun *done, void *context);
/* As it is at one moment; a running machine's file systems are held still for it.  EXISTS, LIMIT.
 */
void volume_snapshot_create(struct volume_service *service, const char *project, const char *name,
                            const char *snapshot, volume_begun *done, void *context);
/* CONFLICT names its clones. */
void volume_snapshot_delete(struct volume_service *service, const char *project, const char *name,
                            const char *snapshot, volume_begun *done, void *context);
/* What was written since is gone.  CONFLICT: a machine runs with it. */
void volume_snapshot_restore(struct volume_service *service, const char *project, const char *name,
                             const char *snapshot, volume_begun *done, void *context);

/* Of this node's replica, as JSON (types Volume, VolumeList, VolumeSnapshotList).  NOT_FOUND. */
int volume_write(struct volume_service *service, const char *project, const char *name,
                 struct buffer *out, struct error *err);
int volume_write_list(struct volume_service *service, const char *project, struct buffer *out,
                      struct error *err);
int volume_snapshot_write_list(struct volume_service *service, const char *project,
                               const char *name, struct buffer *out, struct error *err);
/* Name of the node that has it; the caller's. */
int volume_node(struct volume_service *service, const char *project, const char *name,
                char **ret_node, struct error *err);
/* This node's volumes as Prometheus text. */
void volume_write_metrics(struct volume_service *service, struct buffer *out);

/* ---- Machines that have volumes ---- */

/* "NAME[:PATH][:ro]". */
struct volume_use {
    char name[64];
    char path[VOLUME_PATH_MAX + 1]; /* where it is mounted; "": it is not */
    bool is_read_only;
};
/* INVALID says what is wrong. */
int volume_use_parse(const char *text, struct volume_use *ret_use, struct error *err);
/* The parts by themselves. */
int volume_use_check(const struct volume_use *use, struct error *err);

/*
 * Add to a command that the machine gets it; the command fails with CONFLICT when another one has
 * it by then.  NOT_FOUND; CONFLICT: it is on another node, or a machine's, or not usable; LIMIT.
 * `slot_at_least`: for several in one command, one after the last one's.
 */
int volume_add_attachment(struct volume_service *service, const char *project, const char *machine,
                          const struct volume_use *use, unsigned *slot_at_least,
                          struct store_command *command, struct error *err);
/* Of one, or (NULL) of all that the machine has. */
void volume_add_detachment(struct volume_service *service, const char *project, const char *machine,
                           const char *name_or_null, struct store_command *command);

/* What a machine has, by slot. */
struct volume_attachment {
    char id[VOLUME_ID_SIZE];
    struct volume_use use;
    unsigned slot;
    bool has_file_system;
};
/* At most HYPERVISOR_VOLUMES_MAX; returns how many. */
size_t volume_of_machine(struct volume_service *service, const char *project, const char *machine,
                         struct volume_attachment *ret_attachments);

/*
 * Kept with their machine: snapshots of all volumes that a machine has, by one name, while it
 * stands still (volume_machines.look says ON without an agent, or OFF).  At the machine's node.
 * Snapshots that belong to one of the machine's are named VOLUME_KEPT_PREFIX and its id, and are
 * deleted with it alone.
 *
 * volume_keep(): `made` once, later, when only the machine has to stand still any more, whose owner
 * sees to that and calls volume_keep_now(); then `done` once; an error: none of them is there.
 */
struct volume_keeping;
#define VOLUME_KEPT_PREFIX "machine-"
typedef void volume_kept(const struct error *error, void *context);
int volume_check_keep(struct volume_service *service, const char *project, const char *machine,
                      const char *snapshot, struct error *err);
struct volume_keeping *volume_keep(struct volume_service *service, const char *project,
                                   const char *machine, const char *snapshot, volume_kept *made,
                                   volume_kept *done, void *context);
void volume_keep_now(struct volume_keeping *keeping);
/* Those of the machine's volumes go, but for those that have clones; then the files that nothing
 * names any more. */
void volume_forget_kept(struct volume_service *service, const char *project, const char *machine,
                        const char *snapshot);
/* The same within `command`, by a name that nobody else can have chosen. */
void volume_add_forget_kept(struct volume_service *service, const char *snapshot,
                            struct store_command *command);
void volume_tidy(struct volume_service *service);

/*
 * A list of what was kept: [{"name", "id", "slot", "path", "read_only", "size_bytes", "snapshot"}].
 * Each entry gets a "layer" (VOLUME_ID_SIZE - 1 hex digits) that is to be written by whoever begins
 * from it.
 */
void volume_describe_kept(struct volume_service *service, const char *project, const char *machine,
                          const char *snapshot, json_t *list);
/* The same volumes of the same machine, which has no VMM: what they held then.  CONFLICT, NOT_FOUND
 * say what to do. */
int volume_check_return(struct volume_service *service, const char *project, const char *machine,
                        const json_t *list, struct error *err);
int volume_add_return(struct volume_service *service, const char *project, const char *machine,
                      const json_t *list, struct store_command *command, struct error *err);
/* Clones of them, which `machine` has.  An entry's "name" becomes that of the clone, VOLUME-MACHINE
 * ("of": the other one's).  INVALID: it is too long; EXISTS (`service` is NULL: not looked at, any
 * thread).  Entries have an "id" of their own by then. */
int volume_name_clone(struct volume_service *service, const char *project, const char *machine,
                      json_t *entry, struct error *err);
int volume_add_clones(struct volume_service *service, const char *project, const char *machine,
                      const json_t *list, struct store_command *command, struct error *err);

/*
 * Volumes in archives.  volume_carry_check(): UNSUPPORTED, one is encrypted, and would be there in
 * the clear.  volume_carry_new(): what the entries of a list (volume_describe_kept()) name, each of
 * which gets a "config"; on the loop.  volume_carry_write(): FOLDER/volume-SLOT.raw of each, while
 * its snapshots stay; blocks, any thread.
 */
struct volume_carry;
int volume_carry_check(struct volume_service *service, const char *project, const char *machine,
                       struct error *err);
int volume_carry_new(struct volume_service *service, const char *project, json_t *list,
                     struct volume_carry **ret_carry, struct error *err);
int volume_carry_write(const struct volume_carry *carry, const char *folder, struct error *err);
void volume_carry_free(struct volume_carry *carry); /* accepts NULL */

/*
 * The way back, from a list that may be anybody's.  volume_carried_read(): a new one of what makes
 * sense, each entry with an "id" and a "layer" of its own; `sizes` are those of the files, by slot
 * (0: none).  CORRUPT; any thread.  Their files become raw layers by volume_move_take().
 * volume_carried_add() adds their rows: of `machine`, whose name is part of theirs with
 * `is_renamed`.  INVALID, EXISTS.
 */
int volume_carried_read(const json_t *list, const uint64_t sizes[HYPERVISOR_VOLUMES_MAX],
                        json_t **ret_list, struct error *err);
int volume_carried_add(struct volume_service *service, const char *project, const char *machine,
                       bool is_renamed, json_t *list, struct store_command *command,
                       struct error *err);

/* Open for a VMM.  CONFLICT, CORRUPT (a file is missing), and what secret_read() says. */
struct volume_open {
    struct hypervisor_volume volume;
    struct hypervisor_layer layers[HYPERVISOR_LAYERS_MAX];
    char ids[HYPERVISOR_LAYERS_MAX][VOLUME_ID_SIZE];
    char id[VOLUME_ID_SIZE];
    char key[1024];
    bool is_read_only;
};
int volume_open(struct volume_service *service, const char *project, const char *name,
                struct volume_open *ret_open, struct error *err);
/* Closes and wipes. */
void volume_close(struct volume_open *open);

/* The ids of its layers, newest first; at most HYPERVISOR_LAYERS_MAX. */
size_t volume_layers(struct volume_service *service, const char *project, const char *name,
                     char ret_ids[HYPERVISOR_LAYERS_MAX][VOLUME_ID_SIZE]);

/* Is something being done to a volume of this machine, by a thread?  Then it is not started. */
bool volume_is_busy(struct volume_service *service, const char *project, const char *machine);

/*
 * Volumes that go to another node with their machine, with all that they lie on and their
 * snapshots.  Their rows say so in the very command that says it of the machine.
 */

/* CONFLICT: something is being done to one; LIMIT: too many files. */
int volume_move_check(struct volume_service *service, const char *project, const char *machine,
                      struct error *err);
/* Nothing else is done to them from now on; or again. */
void volume_move_hold(struct volume_service *service, const char *project, const char *machine,
                      bool is_held);

/* Its files. */
struct volume_file {
    char id[VOLUME_ID_SIZE];
    char below[VOLUME_ID_SIZE]; /* "": none */
    char copy[VOLUME_ID_SIZE];  /* it stays, as others need it, and there it is called so; or "" */
    char format[8];
    bool is_written; /* a VMM may write in it: the newest of a volume that is not read-only */
};
enum { VOLUME_FILES_MAX = 512 };
/* Of all volumes of a machine, each once; *ret_files is the caller's.  LIMIT. */
int volume_move_files(struct volume_service *service, const char *project, const char *machine,
                      struct volume_file **ret_files, size_t *ret_count, struct error *err);
/* Those that others need as well (a clone, or what was cloned) get the name of a copy. */
int volume_move_divide(struct volume_service *service, const char *project, const char *machine,
                       struct volume_file *files, size_t count, struct error *err);
/* What it is called on the other node. */
const char *volume_move_name(const struct volume_file *file);
/* Where such a file is on this node; the caller's.  Any thread, as the next two. */
char *volume_move_path(const struct volume_service *service, const char *id, const char *format);
/* `from` becomes that file, and is on disk; one that is there already is of an earlier attempt. */
int volume_move_take(const struct volume_service *service, const char *id, const char *format,
                     const char *from, struct error *err);
void volume_move_remove(const struct volume_service *service, const char *id, const char *format);
/* Add that they are node `to`'s; the command fails with CONFLICT when they are not what was moved.
 */
void volume_move_add(struct volume_service *service, const char *project, const char *machine,
                     const char *to, const struct volume_file *files, size_t count,
                     struct store_command *command);

/*
 * A volume of a machine that comes from another node while it runs: its newest file is made here,
 * empty, for the VMM that waits.  volume_visit_new() on the loop, with what the rows say
 * (NOT_FOUND, and what secret_read() says of its key), volume_visit_make() on any thread,
 * volume_visit_open() as volume_open(), on the loop.  `files` (as they are called here) stay the
 * caller's, and as they are.
 */
struct volume_visit;
int volume_visit_new(struct volume_service *service, const char *project, const char *name,
                     const struct volume_file *files, size_t count, struct volume_visit **ret_visit,
                     struct error *err);
int volume_visit_make(struct volume_visit *visit, struct error *err);
int volume_visit_open(struct volume_visit *visit, struct volume_open *ret_open, struct error *err);
void volume_visit_free(struct volume_visit *visit); /* accepts NULL */

enum volume_machine_state {
    VOLUME_MACHINE_OFF,     /* no VMM has its volumes open, and none will before on_free */
    VOLUME_MACHINE_BETWEEN, /* it is starting or ending */
    VOLUME_MACHINE_ON,      /* its VMM has them */
};

struct volume_machines {
    /* *ret_vm and *ret_agent (NULL: it does not answer) with ON alone. */
    enum volume_machine_state (*look)(const char *project, const char *machine,
                                      struct hypervisor_vm **ret_vm, struct agent **ret_agent,
                                      void *context);
    /* Nothing is being done to its volumes any more. */
    void (*on_free)(const char *project, const char *machine, void *context);
    void *context;
};
/* Before it, nothing is done to volumes that machines have.  NULL: no more. */
void volume_set_machines(struct volume_service *service, const struct volume_machines *machines);
/* It has become ON or OFF; what its VMM was doing to volumes is not answered any more. */
void volume_machine_changed(struct volume_service *service, const char *project,
                            const char *machine);

#endif
