/*
 * Machines: long-lived Linux microVMs, and the images they start from.
 *
 * A machine is a row of the state.  Its node runs it, and alone writes what becomes of it; what is
 * wanted of it (running, paused, stopped, deleted) anyone may write, on any node.  The node acts on
 * the difference (decide.h) until there is none.  VMMs outlive the daemon: after a start it finds
 * them again, and those that have ended meanwhile tell how.
 *
 * On disk: FOLDER/ID holds the monitor's files (engine/hypervisor/monitor.h), disk.raw (what the
 * machine writes over its read-only root) and initrd.
 *
 * Main loop thread.  Every `done` is called once, later.
 */
#ifndef SERVICE_MACHINE_MACHINE_H
#define SERVICE_MACHINE_MACHINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct agent;
struct buffer;
struct cluster;
struct error;
struct hypervisor;
struct image_store;
struct loop;
struct machine_service;
struct network_service;
struct nix_service;
struct operation_service;
struct peer_blobs;
struct peer_clients;
struct store;
struct store_command;
struct volume_service;
struct volume_use;

struct machine_options {
    struct loop *loop;
    struct store *store;
    struct operation_service *operations;
    struct image_store *images;
    struct peer_blobs *blobs;
    struct peer_clients *peers;
    struct hypervisor *hypervisor;
    struct volume_service *volumes;
    struct network_service *networks;
    struct nix_service *nix; /* who has the paths of runners; NULL: nobody */
    struct cluster *cluster; /* NULL: there is none */
    const char *folder;      /* made when missing */
    const char *agent;       /* path of blixard-agent; NULL: found beside this program */
    const char *node_name;
    const char
        *share_folders; /* with commas: what machines may share; lent for the service's life */
    const char *runner_folders; /* the same: where runners may be */
    const char
        *devices; /* what of this node's they may have: device_list() of engine/device; lent */
    const char *macvtap_links; /* the same: links of the node that these may have macvtaps on */
    uint64_t memory_percent;   /* of the node's, that machines may have together; 0: any */
    uint64_t stop_ms;          /* a guest may take to go down in order */
};

int machine_service_new(const struct machine_options *options, struct machine_service **ret_service,
                        struct error *err);
/* Machines go on. */
void machine_service_free(struct machine_service *service);

/* ---- Images ---- */

/* May a blob that no image names any more not be removed here: because a machine, a version of a
 * Linux function, a snapshot or a disk that was put away needs it, or something is under way that
 * could?  Reads files. */
bool machine_needs_blob(struct machine_service *service, const char *blob);

typedef void machine_done(const struct error *error, uint64_t index, void *context);

/* Name what was uploaded to this node: a body of type ImageCreate.  INVALID, NOT_FOUND (a blob). An
 * image of that name is replaced; machines that were made from it keep what they had. */
void machine_image_set(struct machine_service *service, const char *project, const char *name,
                       const json_t *image, machine_done *done, void *context);
/* CONFLICT: a machine was made from it. */
void machine_image_delete(struct machine_service *service, const char *project, const char *name,
                          machine_done *done, void *context);
int machine_image_write(struct machine_service *service, const char *project, const char *name,
                        struct buffer *out, struct error *err);
int machine_image_write_list(struct machine_service *service, const char *project,
                             struct buffer *out, struct error *err);

/* ---- Machines ---- */

/* With the id of the operation that ends when it is so, or an error. */
typedef void machine_begun(const struct error *error, const char *operation, void *context);

/*
 * Read what this node has of an image, or of all of the project's, again; a body of type
 * ImageVerify.  The operation's result is {"node", "parts": [{"image", "part", "blob", "state",
 * "size_bytes", "reason"}]}; a state is good, damaged (it is put aside), repaired (it came anew
 * from another node) or absent (it was never here).  NOT_FOUND, LIMIT.
 */
void machine_image_verify(struct machine_service *service, const char *project, const json_t *body,
                          machine_begun *done, void *context);

/*
 * Pull an image's blobs from an OCI registry to this node, by HTTPS, with the login that `logins`
 * (the value of a secret, as `docker login` writes it) has for it: who asks does not see it.  The
 * operation's result is {"digest", "config", "layers": [...]}, ids of blobs that are read by the
 * operation's id, of the same project, until they are deleted, or an hour later.  All are copied.
 * INVALID, NOT_FOUND (it has no such login), LIMIT; NOT_FOUND: there is nothing (any more).
 */
struct machine_pull {
    const char *reference;
    const char *secret; /* its name, for errors */
    const void *logins;
    size_t logins_length;
    const char *mirror;    /* or "" */
    const char *authority; /* certificates (PEM) to trust instead of the system's, or "" */
};
void machine_pull_begin(struct machine_service *service, const char *project,
                        const struct machine_pull *what, machine_begun *done, void *context);
int machine_pulled_open(const struct machine_service *service, const char *project, const char *id,
                        const char *blob, int *ret_fd, uint64_t *ret_size, struct error *err);
void machine_pulled_delete(struct machine_service *service, const char *project, const char *id,
                           machine_done *done, void *context);

/* Make one on this node (service/placement has chosen it); a body of type MachineCreate.  INVALID
 * names the setting, EXISTS, NOT_FOUND (no such image, no such network), CONFLICT (a published
 * port, or the address, is another machine's), LIMIT (its network has no address left),
 * UNSUPPORTED. */
void machine_create(struct machine_service *service, const char *project, const json_t *create,
                    machine_begun *done, void *context);

/*
 * Machines that are made by a command of somebody who places them; see service/placement.  A draft
 * has its id and its settings, checked but for what its node alone knows.  As machine_create();
 * UNSUPPORTED: it has something that is its node's alone.
 */
/* The settings alone, complete and checked; a new reference. */
int machine_complete(const json_t *create, json_t **ret_config, struct error *err);
/* Where no node runs machines from runners, such a one would wait for ever: NOT_FOUND, INVALID or
 * DENIED, what this node says of its runner.  0: one does, one has not yet said, or there is no
 * runner in these settings.  Blocks. */
int machine_runner_check(const struct machine_service *service, const json_t *config,
                         struct error *err);
struct machine_draft {
    char id[17];
    json_t *config;
};
int machine_draft(struct machine_service *service, const char *project, const json_t *create,
                  struct machine_draft *ret_draft, struct error *err);
void machine_draft_done(struct machine_draft *draft);
/* Its row: at a node, which it starts on, or (NULL) pending for that reason.  The command fails
 * with CONFLICT when the node has no room for it. */
int machine_draft_add(struct machine_service *service, const char *project,
                      const struct machine_draft *draft, const char *node_or_null,
                      const char *reason, struct store_command *command, struct error *err);
/* What a machine of that config asks of its node, as placement_rules_read() takes it; a new
 * reference. */
json_t *machine_config_rules(const json_t *config);
/* Of which huge pages its memory is to be; 0: of none. */
uint64_t machine_config_page_bytes(const json_t *config);
/* INVALID: its memory is not of such pages. */
int machine_config_check_pages(const json_t *config, struct error *err);
/* A pending one without a node gets one; the same CONFLICT. */
void machine_add_assignment(struct machine_service *service, struct store_command *command,
                            const char *project, const char *id, const json_t *config,
                            const char *node);
/* A displaced one goes on at its node. */
void machine_add_return(struct machine_service *service, struct store_command *command,
                        const char *project, const char *id, const json_t *config,
                        const char *node);
/* Devices of the node that it is put at by this command, where it asks for some and has none there;
 * what it had elsewhere is free.  The command fails with CONFLICT when another machine has them by
 * then. */
void machine_add_devices(const struct machine_service *service, struct store_command *command,
                         const char *id, const json_t *config, const char *node);
/* One that runs is stopped, and pending. */
struct machine_displaced {
    const char *project;
    const char *name;
    const char *id;
    const char *node;
    const char *reason;
};
void machine_add_displacement(struct machine_service *service, struct store_command *command,
                              const struct machine_displaced *displaced);
/* The node of the reservation with this key takes it, by the rows: CONFLICT. */
void machine_add_reservation_check(const struct machine_service *service,
                                   struct store_command *command, const char *key);

/* The CPUs of this node that a machine's VMM runs on, from now on and whenever it starts.  False:
 * this node has no such machine. */
struct machine_place {
    const char *cpus;   /* "2,3" */
    bool is_own;        /* no other machine runs on them: each vCPU has one */
    const char *others; /* of one with its own: for the rest of its VMM; "": the same ones */
    const char *nodes;  /* NUMA nodes that its memory is to be of; "": any */
};
bool machine_pin(struct machine_service *service, const char *id,
                 const struct machine_place *place);

/*
 * "start", "stop", "restart", "pause", "resume", "kill", "delete"; at the machine's node.  A stop
 * or restart with `stop_ms` is given that long, not the node's stop_ms (MACHINE_STOP_MS_NODE): one
 * that is under way, too.  It is not written down: a daemon that ends meanwhile goes on with the
 * node's. NOT_FOUND, INVALID (`stop_ms` where nothing is stopped, or too long), CONFLICT when its
 * state does not allow it.
 */
#define MACHINE_STOP_MS_NODE UINT64_MAX
void machine_act(struct machine_service *service, const char *project, const char *name,
                 const char *action, uint64_t stop_ms, machine_begun *done, void *context);

/*
 * Delete one whose node is lost, or was removed from the cluster: at the leader.  What still runs
 * of it there is ended when that node is back, and its disk kept aside.  NOT_FOUND, UNAVAILABLE
 * (that its node is lost is not for this node to say, or not so), CONFLICT (it is back).
 */
void machine_give_up(struct machine_service *service, const char *project, const char *name,
                     machine_begun *done, void *context);
/* Its node is lost, says *err: what is to be done about it is added. */
void machine_explain_lost(struct machine_service *service, const char *project, const char *name,
                          struct error *err);

/* What it is called now, the operation that ends when what can change at once has changed, and
 * which settings come with its next start.  May be called before machine_update() returns. */
typedef void machine_changed(const struct error *error, const char *name, const char *operation,
                             const json_t *at_next_start, void *context);

/* A body of type MachineUpdate; at the machine's node.  NOT_FOUND; INVALID names the setting;
 * EXISTS (the name is taken); CONFLICT: its state does not allow it, a disk would become smaller, a
 * port is another machine's. */
void machine_update(struct machine_service *service, const char *project, const char *name,
                    const json_t *update, machine_changed *done, void *context);

/* What this node's machines of the project have used: a MachineUsageList, lent.  Waits for agents
 * for a second at most. */
typedef void machine_used(const json_t *usage, void *context);
void machine_usage(struct machine_service *service, const char *project, machine_used *done,
                   void *context);

/* What has to be asked for of the machines of this node that run, their agents and their taps among
 * it, as metrics in text, lent.  Called once, later: within some more than a second. */
typedef void machine_measured(const char *text, void *context);
void machine_measure(struct machine_service *service, bool is_openmetrics, machine_measured *done,
                     void *context);

/* What became of machines of a project, newest last; of the last 10000 events of all machines. */
struct machine_event_query {
    const char *project;
    const char *machine; /* "": all */
    uint64_t after;      /* sequence number; 0: from the first that is there */
    uint64_t count_max;  /* the last of them */
};
/* `event` is a MachineEvent as JSON without newlines, lent. */
typedef void machine_event_taken(uint64_t sequence, const char *type, const char *event,
                                 void *context);
int machine_events_read(struct machine_service *service, const struct machine_event_query *query,
                        machine_event_taken *take, void *context, struct error *err);

/* Give it a volume, or take one away; while it runs, too.  At the machine's node.  NOT_FOUND;
 * CONFLICT: another machine has it, it is on another node, or (not forced) something in the machine
 * uses it.
 */
void machine_volume_attach(struct machine_service *service, const char *project, const char *name,
                           const struct volume_use *use, machine_begun *done, void *context);
void machine_volume_detach(struct machine_service *service, const char *project, const char *name,
                           const char *volume, bool is_forced, machine_begun *done, void *context);

/* `silence_or_null`: why its node does not tell it itself; its reason says so. */
int machine_write(struct machine_service *service, const char *project, const char *name,
                  const char *silence_or_null, struct buffer *out, struct error *err);
int machine_write_list(struct machine_service *service, const char *project, struct buffer *out,
                       struct error *err);

/* Name of the node that has it, or "": it waits for one; the caller's.  NOT_FOUND. */
int machine_node(struct machine_service *service, const char *project, const char *name,
                 char **ret_node, struct error *err);

/* ---- Snapshots: at the machine's node, which has their files ---- */

/* A body of type SnapshotCreate.  CONFLICT: the machine's state does not allow it; EXISTS, LIMIT.
 */
void machine_snapshot_create(struct machine_service *service, const char *project, const char *name,
                             const json_t *create, machine_begun *done, void *context);
void machine_snapshot_delete(struct machine_service *service, const char *project, const char *name,
                             const char *snapshot, machine_done *done, void *context);
int machine_snapshot_write(struct machine_service *service, const char *project, const char *name,
                           const char *snapshot, struct buffer *out, struct error *err);
int machine_snapshot_write_list(struct machine_service *service, const char *project,
                                const char *name, struct buffer *out, struct error *err);

/* A body of type MachineRestore: the operation ends when the machine is as it was. */
void machine_snapshot_restore(struct machine_service *service, const char *project,
                              const char *name, const json_t *body, machine_begun *done,
                              void *context);

/* A body of type MachineClone; each clone has an operation of its own, in the order of names. */
typedef void machine_cloned(const struct error *error, const char *const *names,
                            const char *const *operations, size_t count, void *context);
void machine_clone(struct machine_service *service, const char *project, const char *source,
                   const json_t *body, machine_cloned *done, void *context);

/*
 * The machine as one file (package.h), its disk held still by its agent; `done` is called later, or
 * at once with an error.  machine_export_step(): any thread, one at a time; 1: there is more.
 * machine_export_free() on the loop, whether it has come to its end or not.
 */
struct machine_export;
typedef void machine_exported(const struct error *error, struct machine_export *export,
                              void *context);
void machine_export(struct machine_service *service, const char *project, const char *name,
                    bool with_snapshots, bool with_volumes, machine_exported *done, void *context);
int machine_export_step(struct machine_export *export, struct buffer *out, struct error *err);
void machine_export_free(struct machine_export *export);

/* A body of type MachineImport, with an archive that was uploaded to this node; it is removed.  The
 * machine is stopped when the operation has ended. */
void machine_import(struct machine_service *service, const char *project, const json_t *body,
                    machine_begun *done, void *context);

/* ---- Machines that move to another node ---- */

/*
 * A body of type MachineMigrate, at the node that has it.  The operation ends when the machine is
 * the other node's, and runs there if it ran; it can be cancelled until that is decided.  CONFLICT:
 * its state, or what is wanted of it, does not allow it; INVALID, NOT_FOUND: the node.
 */
void machine_migrate(struct machine_service *service, const char *project, const char *name,
                     const json_t *body, machine_begun *done, void *context);

/*
 * Between nodes: get ready for a machine of node `from`; a body of type MachineArrival.  `done`
 * when its disk is here, verified and on disk: the row may say now that it is this node's.  After
 * machine_arrival_cancel(), which is for before `done`, it is CANCELLED.
 */
struct machine_arrival;
struct machine_arrival *machine_arrive(struct machine_service *service, const char *project,
                                       const char *name, uint64_t from, const json_t *body,
                                       machine_done *done, void *context);
void machine_arrival_cancel(struct machine_arrival *arrival);

/*
 * Between nodes, of one that runs: with `disk_bytes` in the MachineArrival.  `done` when a VMM
 * waits for it; then the streams are taken (peer_stream of service/peer), each once: "disk",
 * "state" and "news", on which this node says '1' when all is here, and '2' when it runs.
 * machine_visit_cancel() is for before `done`.
 */
struct machine_visit;
struct machine_visit *machine_visit(struct machine_service *service, const char *project,
                                    const char *name, uint64_t from, const json_t *body,
                                    machine_done *done, void *context);
void machine_visit_cancel(struct machine_visit *visit);
int machine_visit_stream(struct machine_service *service, const char *project, const char *name,
                         uint64_t from, const char *stream, int *ret_fd, struct error *err);

/* ---- At its node ---- */

/* The CPU time that each machine's VMM has used here since it began, for service/forecast; those
 * that do not run are left out. */
void machine_each_cpu(struct machine_service *service,
                      void (*visit)(const char *id, uint64_t cpu_ms, void *context), void *context);

/* How many huge pages of a size those that run here have, or are about to take. */
uint64_t machine_huge_pages(const struct machine_service *service, uint64_t page_bytes);

/* Its agent, lent for the call (a call of it that runs when the machine ends is ended); CONFLICT:
 * it does not run; UNAVAILABLE: the agent does not answer. */
int machine_agent(struct machine_service *service, const char *project, const char *name,
                  struct agent **ret_agent, struct error *err);
/* Its agent is spoken to anew, after the machine has come from another node or its node was
 * started: `done` when it answers, or after some seconds; machine_agent() says how it is then.
 * NULL: there is nothing to wait for.  machine_waiting_cancel() is for before `done`. */
struct machine_waiting;
struct machine_waiting *machine_agent_await(struct machine_service *service, const char *project,
                                            const char *name, void (*done)(void *context),
                                            void *context);
void machine_waiting_cancel(struct machine_waiting *waiting);
/* The folder of hypervisor_console() and the like; the caller's. */
int machine_folder(struct machine_service *service, const char *project, const char *name,
                   char **ret_folder, struct error *err);

/* ---- Facts ---- */

/* This node's machines as Prometheus text, or as OpenMetrics, where a counter's family has a name
 * without "_total". */
void machine_write_metrics(struct machine_service *service, bool is_openmetrics,
                           struct buffer *out);
/* The drivers of this node as JSON (type HypervisorList). */
void machine_write_drivers(struct machine_service *service, struct buffer *out);

#endif
