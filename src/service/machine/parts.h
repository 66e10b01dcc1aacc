/* What the files of this room share. */
#ifndef SERVICE_MACHINE_PARTS_H
#define SERVICE_MACHINE_PARTS_H

#include <sqlite3.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/list.h"

#include "engine/agent/agent.h"
#include "engine/hypervisor/hypervisor.h"

#include "service/machine/decide.h"
#include "service/machine/machine.h"
#include "service/network/network.h"
#include "service/operation/operation.h"

struct buffer;
struct capture;
struct fence;
struct health;
struct machine_plugging;
struct machine_usb;
struct migration;
struct nix_fetch;
struct peer_fetch;
struct restore;

enum {
    MACHINE_ID_SIZE = 17,
    MACHINE_REASON_SIZE = 384,
    MACHINE_PUBLISHED_MAX = HYPERVISOR_FORWARDS_MAX,
    MACHINE_BOOT_MS = 180000,  /* until the agent speaks; then the machine is started anew:
                                  boot_timeout_ms of its settings */
    MACHINE_STEADY_MS = 60000, /* it runs so long: the failures before do not count any more */
    MACHINE_STOP_MS_MAX = 24 * 60 * 60 * 1000,
};

enum machine_timer {
    TIMER_NONE,
    TIMER_BOOT,
    TIMER_STOP,
    TIMER_BACKOFF,
    TIMER_STEADY,
    TIMER_ROOM,
    TIMER_PREPARE,
};

/* A machine of this node. */
struct machine {
    struct list_node link;
    struct machine_service *service;
    char *key; /* PROJECT/NAME */
    char *project;
    char *name;
    char id[MACHINE_ID_SIZE];
    char *folder;
    json_t *config;
    enum machine_strategy strategy;
    enum machine_desired desired;
    enum machine_state state;
    char reason[MACHINE_REASON_SIZE];
    uint64_t restarts;
    uint64_t started_ms;
    unsigned failures;        /* in a row */
    struct peer_fetch *fetch; /* of a blob, while it is prepared */
    size_t fetched;
    struct nix_fetch *runner_fetch; /* of its runner, the same */
    struct hypervisor_vm *vm;
    struct agent *agent;
    struct loop_timer *timer;
    enum machine_timer timer_for;
    uint64_t stop_ms; /* it may take to go down, as who stops it says; MACHINE_STOP_MS_NODE */
    struct machine_usb *usb;                   /* while its VMM has a controller, or NULL */
    struct machine_plugging *plugging;         /* volumes, into a VMM that has just come */
    struct list changes;                       /* of volumes, that somebody waits for */
    char volumes_problem[MACHINE_REASON_SIZE]; /* why the VMM is being ended; "" */
    bool volumes_on;                           /* the VMM has them */
    bool is_restarting;                        /* what ends it is to be followed by a start */
    bool was_found; /* alive when the node started: a silent agent is no reason to end it */
    bool is_busy;   /* a thread, or its VMM, does something to it */
    unsigned tries; /* to get what it is made of, since it was asked for */
    bool is_publishing;
    bool is_dirty;
    bool has_program_ended;      /* the program that it runs instead of an init, in this boot */
    int program_status;          /* with this exit code, or 128 + signal */
    unsigned held;               /* by who reads its files, besides is_busy */
    struct capture *capture;     /* of its content, under way, or NULL */
    struct restore *restore;     /* waits for its VMM to end, or NULL */
    struct changing *changing;   /* its VMM is asked for a change, or NULL */
    struct migration *migration; /* to another node, under way: nothing else is done to it */
    struct health *health;       /* while it is checked */
    struct loop_timer *silence;  /* while its agent is spoken to: silence.c */
    unsigned stills;             /* how often it began to stand still */
    unsigned stills_asked;       /* when its agent was asked last */
    uint64_t health_failures;    /* checks, since the node started */
    bool is_unhealthy;           /* and goes down for it */
    bool is_boot_late;           /* and was killed for it */
    char *panic;                 /* its kernel panicked as it booted, of this, and it was killed */
    bool was_leaving;            /* when its node ended: what is left of that is taken back */
    bool is_coming;              /* from another node, and is to be resumed */
    bool is_new;                 /* its row has just been read */
    bool is_waiting;             /* for others to run, before it starts */
    bool is_fenced_ahead;        /* its row is about to say that it is fenced */
    uint64_t lease_ms;           /* as its monitor was told last; 0: not yet */
    struct pin *pin;             /* where its VMM runs; NULL: anywhere (pin.c) */
    bool is_without_room;        /* and has failed for it: the node's disk is full */
    bool is_gone;                /* its row is: freed when nothing is under way */
    json_t *booted;              /* settings that its VMM began with and that are others now */
    char *damage;     /* which part of its image was damaged here, until it is here anew */
    struct list news; /* what became of it, not written yet: events.c */
    unsigned news_count;
    bool is_found_again;               /* it is starting because its node was */
    char operation[OPERATION_ID_SIZE]; /* that waits for what is wanted, or "" */
};

struct machine_service {
    struct machine_options options;
    char *folder;
    char *agent;
    char *node_name;
    struct list machines;
    struct list visits;    /* of running machines from other nodes: arrive_live.c */
    struct list arrivals;  /* of machines from other nodes: arrive.c */
    struct list waiting;   /* for agents: waiting.c */
    struct list leftovers; /* of those that may still come: arrive_files.c */
    struct store_watch *leftover_watch;
    uint64_t migrations[2]; /* that went well, that did not */
    uint64_t migrated_bytes;
    struct store_watch *watch;
    struct loop_timer *retry; /* of writes that failed */
    struct fence *fence;
    struct list pulls; /* struct pull */
    struct list verifications;
    unsigned pending; /* answers on their way */
    bool is_over;
};

/* ---- needed.c: who needs a blob ---- */

/* Is the blob a part of an image, a machine, or a version of a function? */
int needed_by_rows(const struct machine_service *service, const char *blob, bool *ret_is_needed,
                   struct error *err);

/* ---- state.c: rows ---- */

/* Read this node's row of that key, or all of them, into service->machines. */
void state_load(struct machine_service *service, const char *key_or_null);
/* Write what the machine is now; again, later, when it cannot be written. */
void state_publish(struct machine *machine);
/* Write what is wanted from now on. */
void state_want(struct machine *machine, enum machine_desired desired);
/* Has the state what tells of health (version 7)? */
bool state_has_health(const struct machine_service *service);
/* And what tells of runners (version 9)? */
bool state_has_runners(const struct machine_service *service);
struct machine *state_find(struct machine_service *service, const char *project, const char *name);
struct machine *state_find_id(struct machine_service *service, const char *id);

/* ---- events.c: what became of machines ---- */

struct machine_event {
    const char *project;
    const char *machine;
    const char *machine_id;
    const char *node;
    const char *type;  /* "vm.created" */
    const char *state; /* of the machine, after it */
    const char *reason;
};
/* An event that is true when the command is carried out. */
void events_add(struct machine_service *service, struct store_command *command,
                const struct machine_event *event);
/* The same, of one of this node's. */
void events_add_of(const struct machine *machine, struct store_command *command, const char *type,
                   const char *reason);
/* What the change of a state is called; NULL: it is none. */
const char *machine_event_type(enum machine_state before, enum machine_state state,
                               bool is_found_again);
/* To be written with what state_publish() writes next. */
void events_note(struct machine *machine, const char *type, const char *reason);
void events_note_state(struct machine *machine, enum machine_state before);
void events_add_news(struct machine *machine, struct store_command *command);
/* They are written, or will never be. */
void events_forget(struct machine *machine, bool only_sent);

/* ---- machine.c ---- */
void machine_set_state(struct machine *machine, enum machine_state state, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* It has failed, as `what` ("", or words before it) and the error say. */
void machine_fail(struct machine *machine, const char *what, const struct error *error);
/* Do what is to be done next; may be called whenever something has changed. */
void machine_step(struct machine *machine);
/* Those that start after it look again. */
void machine_tell_others(struct machine *machine);
/* Tell the operation that waits how it has come. */
void machine_tell_operation(struct machine *machine);
/* Another one waits from now on. */
void machine_take_operation(struct machine *machine, const char *id);
/* It does not come to what is wanted; it is not this node's any more. */
void machine_fail_operation(struct machine *machine, const struct error *error);
void machine_leave_operation(struct machine *machine);
void machine_unref(struct machine *machine); /* it may be gone, and nothing be under way */
/* Answer later. */
void machine_answer(struct machine_service *service, const struct error *error,
                    machine_begun *begun, machine_done *done, void *context);

/* ---- request.c ---- */

/* One of this node; NOT_FOUND, UNAVAILABLE. */
int request_find(struct machine_service *service, const char *project, const char *name,
                 struct machine **ret_machine, struct error *err);
/* Would this node take one of that config?  What its driver says; CONFLICT: a port is taken. */
int request_check_fit(const struct machine_service *service, const json_t *config,
                      struct error *err);

/* What its image has, as settings.  NOT_FOUND, INVALID. */
int request_take_image(struct machine_service *service, const char *project, json_t *config,
                       struct error *err);
int request_check_free(struct machine_service *service, const char *project, const char *name,
                       struct error *err); /* EXISTS */
/* Would it take that config instead of its own? */
int request_check_change(const struct machine *machine, const json_t *config, struct error *err);

/* ---- draft.c: rows of machines that are placed ---- */
/* Has the state what tells of placement (version 8)? */
bool draft_is_known(const struct machine_service *service);
void draft_add_row(struct machine_service *service, struct store_command *command,
                   const char *project, const char *id, const json_t *config, const char *node);
/* The command fails with CONFLICT when the machine's node has no room for it. */
void draft_add_check(const struct machine_service *service, struct store_command *command,
                     const char *project, const char *id, const json_t *config);
/* Has whoever is displaced for it not ended yet? */
bool draft_waits(const struct machine *machine, char *ret_reason, size_t size);
/* UNSUPPORTED: it asks for huge pages, and not all nodes know them. */
int draft_check_pages(const struct machine_service *service, const json_t *config,
                      struct error *err);
/* Its settings are others: what it takes of its node. */
void draft_add_claim(const struct machine_service *service, struct store_command *command,
                     const char *id, const json_t *config);

/* ---- unplaced.c: what is asked of machines that have no node yet ---- */
/* True: it has none, and the request is answered. */
bool unplaced_act(struct machine_service *service, const char *project, const char *name,
                  const char *action, machine_begun *done, void *context);
bool unplaced_update(struct machine_service *service, const char *project, const char *name,
                     const json_t *update, machine_changed *done, void *context);

/* ---- change.c: of a machine that is there ---- */

/* What a MachineUpdate makes of a config, which is complete; a new reference.  INVALID; CONFLICT:
 * a disk does not become smaller. */
int change_merge(const json_t *config, const json_t *update, json_t **ret_config,
                 struct error *err);
/* Which settings of a VMM that began with `booted` are others in `config`: it has them when it is
 * started again.  Memory below what it began with is no such: the balloon takes it.  A new
 * reference. */
json_t *change_waiting(const json_t *booted, const json_t *config);
/* What its VMM began with of `config`; a new reference. */
json_t *change_booted_config(const struct machine *machine);
/* What waits for its next start; NULL: it does not run.  A new reference. */
json_t *change_of(const struct machine *machine);
/* Its VMM was found: what did that begin with? */
void change_recall(struct machine *machine);
/* A VMM begins with what is set now, and these cells (NULL: none).  change_prepare(): in the
 * folder; blocks. */
void change_begin(struct machine *machine, json_t *cells);
/* What it may have of memory now, with what its balloon leaves it. */
uint64_t change_memory(const struct machine *machine);
int change_prepare(const char *folder, const json_t *config, bool goes_on, const json_t *cells,
                   struct error *err);
/* Its VMM is there; its agent is: disk and memory become what they are to be. */
void change_settle_vm(struct machine *machine);
/* It is not there any more: what it was asked for is over. */
void change_lose_vm(struct machine *machine);
/* What its own disk may do, as the VMM began with it or is to begin. */
struct hypervisor_rates change_disk_rates(const struct machine *machine);
void change_settle_guest(struct machine *machine, bool has_gone_on);
/* Is nothing under way that a change would meet?  CONFLICT. */
int change_check(const struct machine *machine, struct error *err);

/* ---- run.c: starting and ending ---- */
/* From a state that was not read yet. */
bool machine_run_goes_on(const struct machine *machine);
void machine_run_start(struct machine *machine);
void machine_run_attach(struct machine *machine);
void machine_run_detach(struct machine *machine);
void machine_run_shut_down(struct machine *machine);
/* How long it may take to go down from now on, or (MACHINE_STOP_MS_NODE) as its node says. */
void machine_run_take_patience(struct machine *machine, uint64_t stop_ms);
void machine_run_kill(struct machine *machine);
void machine_run_pause(struct machine *machine);
void machine_run_resume(struct machine *machine);
/* Does it stand still because the node's disk is full?  Then that is its state, and it is resumed
 * when there is room. */
bool machine_run_note_full(struct machine *machine);
/* It is being created still, and prepared again in a while, as `why` may pass. */
void machine_run_prepare_later(struct machine *machine, const char *what, const char *why);
bool machine_run_waits_to_prepare(const struct machine *machine);
/* It is stopped, and stepped again in a while, as `why` may pass. */
void machine_run_remove_later(struct machine *machine, const char *why);

/* ---- full.c ---- */
enum { MACHINE_ROOM_MS = 5000 }; /* how often there is looked for room */
bool full_note(struct machine *machine);
bool full_has_room(const struct machine *machine);

/* ---- boot.c: from settings to a VMM ---- */
/* What every VMM of such settings has. */
struct hypervisor_spec boot_spec(const json_t *config, const char *name, const char *folder);
/* Of its image or its runner, or from where it is to go on; NULL: why not. */
struct hypervisor_vm *boot_start(struct machine *machine, const struct hypervisor_events *events,
                                 struct error *err);
/* Make a template of its state, with the disks that are in `folder`: see template_stamp(). */
struct stamping {
    int fd; /* lent */
    const char *folder;
    const json_t *volumes; /* of the manifest */
};
void boot_stamp(struct machine *machine, const struct stamping *stamping, hypervisor_done done,
                void *context);

/* A VMM of it that waits in its folder for what another node sends; *ret_disk: which of its disks
 * it writes.  NULL: why not. */
struct hypervisor_vm *boot_await(const struct machine *machine,
                                 const struct hypervisor_events *events, void *context,
                                 size_t *ret_disk, struct error *err);

/* Would the VMM take that content's state?  It is tried with one that never runs. */
void boot_try(struct machine *machine, const char *content, const json_t *manifest,
              hypervisor_done done, void *context);

/* ---- restore.c, clone.c ---- */

/* The VMM has ended because it is being restored: what follows is its affair. */
bool restore_takes_end(struct machine *machine);
/* UNSUPPORTED: another program or version wrote the memory of this content. */
int restore_check_driver(const struct machine_service *service, const json_t *manifest,
                         struct error *err);
/* Does the VMM of a machine with this content take raw disks alone? */
bool restore_has_raw_disks(const struct machine_service *service, const json_t *manifest);
/* At a start: what was interrupted long ago goes. */
void clone_sweep(struct machine_service *service);
/* What was laid out for machines that did not come to be; once all that was written before this
 * start is in the state. */
void clone_sweep_new(struct machine_service *service);

/* ---- migrate.c, arrive.c ---- */

/* Its node ends, or it is another one's: what waits for other nodes waits no more. */
void migration_abandon(struct machine *machine);
/* Something else is wanted of it than to be stopped: it stays, and is stepped again soon. */
void migration_yield(struct machine *machine);
void migration_write_metrics(struct machine_service *service, bool is_openmetrics,
                             struct buffer *out);
/* In the folder of a machine that is about to be another node's, or is. */
#define MIGRATION_MARK "leaving"
/* At the start: those that are another node's go.  Blocks. */
void migration_sweep_left(struct machine_service *service);
/* The machine is this node's, and nothing from before can take it away any more: then `done`, with
 * NULL; else CONFLICT, or CANCELLED when the node ends. */
void migration_settle(struct machine *machine,
                      void (*done)(const struct error *error, void *context), void *context);

/* ---- arrive_live.c: machines that arrive while they run ---- */
/* It is this node's by now: what waits for it is moved to its place, and to be attached. */
void visit_adopt(struct machine *machine);
void visit_resumed(const struct machine *machine);
/* The node that has it gives up, or sends it anew. */
bool visit_forget(struct machine_service *service, const char *id); /* was there one? */
void visits_abandon(struct machine_service *service);

/* Archives of migrations that were interrupted by the end of the daemon go. */
void migration_sweep(struct machine_service *service);
/* An archive that is to go, whatever becomes of the daemon; the caller's path.  Blocks. */
char *migration_mark(const struct machine_service *service, const char *blob);
/* It and its mark.  Blocks. */
void migration_remove_archive(const struct machine_service *service, const char *blob);
/* Where a machine that arrives is, until its row says that it is here; the caller's. */
char *arrival_folder(const struct machine_service *service, const char *id);
void arrivals_abandon(struct machine_service *service);

/* ---- waiting.c ---- */
/* Its agent answers, or will not: those who wait for it look again. */
void waiting_look(const struct machine *machine);
void waiting_end(struct machine_service *service);

/* ---- identity.c: of a machine that goes on from another one's memory ---- */

/* Does it believe to be another one? */
bool identity_is_borrowed(const struct machine *machine);
/* Its agent is up: give it an identity of its own, then call `done`. */
void identity_renew(struct machine *machine, void (*done)(struct machine *machine));

/* ---- nics.c: interfaces ---- */

struct nics { /* what hypervisor_spec.nics points into */
    char mac[18];
    struct hypervisor_forward forwards[MACHINE_PUBLISHED_MAX];
    char addresses[MACHINE_PUBLISHED_MAX][64];
    struct network_nic taps[NETWORK_NICS_MAX];
    struct hypervisor_nic list[NETWORK_NICS_MAX];
    size_t count;
};
int nics_describe(const struct machine *machine, struct nics *ret_nics, struct error *err);

struct nics_guest { /* what `network` points into */
    struct network_nic nics[NETWORK_NICS_MAX];
    struct agent_interface interfaces[NETWORK_NICS_MAX];
    const char *addresses[NETWORK_NICS_MAX][2];
    char route[40];
    const char *routes[2];
    const char *servers[2];
    const char *searches[2];
    char search[80];
    struct agent_network network;
};
/* What the agent is to set up: addresses that DHCP would tell, too. */
int nics_describe_guest(const struct machine *machine, struct nics_guest *ret_guest,
                        struct error *err);

/* ---- pull.c: images from registries ---- */
void pulls_abandon(struct machine_service *service);
void pulls_sweep(struct machine_service *service); /* at a start; blocks */

/* ---- silence.c: agents that say nothing ---- */
void silence_watch(struct machine *machine); /* its agent has said something */
void silence_end(struct machine *machine);   /* it is closed */

/* ---- verify.c: images read again ---- */
void verifications_abandon(struct machine_service *service);

/* ---- disk.c: what a machine has on disk ---- */
uid_t disk_uid(const struct machine *machine);
uid_t disk_uid_of(const char *id);
void disk_prepare(struct machine *machine);
void disk_remove(struct machine *machine);
/* Give a file to the VMM's user, where there is one. */
int disk_give(const struct machine *machine, const char *path, struct error *err);
/* Is what it has of its image here, and what its digests say?  CORRUPT: damage was put aside;
 * NOT_FOUND.  Blocks. */
int disk_verify_image(const struct machine_service *service, const json_t *config,
                      struct error *err);
/* It was not: have it fetched from another node, or say that it is to be had anew. */
void disk_replace_image(struct machine *machine, const struct error *error);
/* Append the agent of this very release.  Blocks. */
int disk_read_agent(const struct machine_service *service, struct buffer *out, struct error *err);
/* The initrd of a start: the image's (a blob; "": it has none), and the agent of this very release.
 * Blocks: of the machine it reads what never changes. */
int disk_write_initrd(const struct machine *machine, const char *modules,
                      const struct buffer *program, struct error *err);

/* ---- health.c ---- */
int health_check(const json_t *config, struct error *err); /* INVALID */
/* Its agent answers: it is checked from now on, where it is to be. */
void health_begin(struct machine *machine);
void health_end(struct machine *machine);
enum machine_health health_of(const struct machine *machine);
const char *health_reason(const struct machine *machine); /* of the last bad check, or "" */
void health_write_metrics(struct machine_service *service, bool is_openmetrics, struct buffer *out);

/* ---- shares.c: folders of the host in machines ---- */
const char *shares_folders(const struct machine_service *service);
/* Is this real path one of `folders` (with commas), or below one? */
bool shares_are_allowed(const char *folders, const char *path);
/* Check them against those folders; their paths become real ones.  INVALID, NOT_FOUND, DENIED. */
int shares_complete(const char *folders, json_t *config, struct error *err);
struct shares {
    struct hypervisor_share items[HYPERVISOR_SHARES_MAX];
    size_t count;
    char *paths[HYPERVISOR_SHARES_MAX];
    char tags[HYPERVISOR_SHARES_MAX][16];
    char *word; /* of the kernel's command line, or "" */
};
int shares_describe(const struct machine *machine, struct shares *ret_shares, struct error *err);
void shares_done(struct shares *shares);
/* Of a machine that is to come: are its folders there, and shared by this node, too? */
int shares_check_here(const struct machine_service *service, const json_t *config,
                      struct error *err);
/* UNSUPPORTED, when it has some. */
int shares_refuse(const json_t *config, const char *what, struct error *err);

/* ---- limits.c ---- */
/* May a machine that wants so much memory be started besides the others, on a node that has `total`
 * and lets machines have `percent` of it (0: any)?  LIMIT, with these figures. */
int limits_admit(uint64_t total, uint64_t percent, uint64_t others, uint64_t wanted,
                 struct error *err);
int limits_check_memory(const struct machine *machine, struct error *err);
/* Are there enough huge pages free at this node for a machine that asks for some?  LIMIT. */
int limits_check_pages(const struct machine_service *service, const json_t *config,
                       struct error *err);
void limits_write_metrics(struct machine_service *service, bool is_openmetrics, struct buffer *out);

/* ---- pin.c: its VMM is told where it runs ---- */
void pin_apply(struct machine *machine);
void pin_write(struct json_writer *writer, const struct machine *machine);
const char *pin_nodes(const struct machine *machine); /* "": its memory may be of any */
/* "": it has none of its own, or it is not known yet which. */
const char *pin_own_cpus(const struct machine *machine);

/* ---- cells.c: NUMA nodes that its guest sees ---- */
/* Of one that is to boot; a new reference, or NULL: it sees one. */
json_t *cells_lay_out(const struct machine *machine);
/* Those of its config (as it was booted: see change_booted_config()), and where they are now. */
size_t cells_describe(const struct machine *machine,
                      struct hypervisor_cell ret_cells[HYPERVISOR_CELLS_MAX]);
void cells_write(struct json_writer *writer, const struct machine *machine);
void pin_free(struct machine *machine);

/* ---- fence.c: what may start elsewhere when its node is lost ---- */
int fence_open(struct machine_service *service, struct error *err);
void fence_close(struct machine_service *service);
/* Is it ended by its monitor when this node has no lease? */
bool fence_is_on(const json_t *config);
/* May it not be started now? */
bool fence_waits(const struct machine *machine, char *ret_reason, size_t size);
/* It is about to be started, or is not this node's any more. */
void fence_prepare(struct machine *machine);
void fence_leave(struct machine *machine);
/* CONFLICT: what runs cannot be fenced before it is started again. */
int fence_check_change(struct machine *machine, const json_t *config, struct error *err);

/* ---- after.c: the order of starts ---- */
/* NOT_FOUND: there is none of these; CONFLICT: they would wait for each other. */
int after_check(struct machine_service *service, const char *project, const json_t *config,
                struct error *err);
/* Does it wait for another one now? */
bool after_waits(struct machine *machine, char *ret_reason, size_t size);

/* ---- program.c: what is run instead of an init ---- */

/* Of a MachineCreate or an ImageSet.  INVALID. */
int program_check(const json_t *object, struct error *err);
/* What is to be run, of both: "arguments", "environment", "folder" and "user" of the config.
 * INVALID: there is an environment, and no program. */
int program_merge(const json_t *image, json_t *config, struct error *err);
/* Append it for the agent; nothing when there is none.  TOO_LARGE. */
int program_encode(const json_t *config, struct buffer *out, struct error *err);
void program_note_end(struct machine *machine, const struct agent_event *event);
/* It has ended, and the machine with it: was that a failure? */
bool program_judge(const struct machine *machine, char *ret_text, size_t size);

/* ---- runner.c: machines that are programs of Nix ---- */

bool runner_is(const json_t *config);
/* Fill in what is not said, of settings with a runner.  INVALID names what it does not go with. */
int runner_complete(json_t *config, struct error *err);
/* What a MachineUpdate makes of its generations; `changed` has the other settings by now. */
int runner_take_update(const json_t *config, const json_t *update, json_t *changed,
                       struct error *err);
/* See hypervisor_read_runner(); DENIED: it shares what this node does not.  Blocks. */
int runner_read(const struct machine_service *service, const json_t *config,
                struct hypervisor_runner *ret_runner, struct error *err);
/* Would its driver run it here? */
int runner_check(const struct machine_service *service, const json_t *config, struct error *err);
/* The same as runner_read(), and the path in the settings becomes the real one; nothing without a
 * runner. */
int runner_settle(const struct machine_service *service, json_t *config, struct error *err);
/* Not here, and a path of a Nix store: it is fetched when the machine is prepared. */
bool runner_can_come(const struct machine_service *service, const json_t *config);
/* Have it here, and keep it from the collector; false: it is in no Nix store. */
bool runner_fetch(struct machine *machine, void (*done)(const struct error *error, void *context));
/* Its settings are others: what of its generations is kept from the collector.  False: nothing more
 * than before, and `done` does not come. */
bool runner_keep(const struct machine *machine, const json_t *before, const json_t *config,
                 void (*done)(const struct error *error, void *context), void *context);
/* It is no more: none of them. */
void runner_let_go(const struct machine *machine);
/* What its VMM began with; "": it does not run, or has none. */
const char *runner_booted(const struct machine *machine);
/* Its VMM; NULL: why not. */
struct hypervisor_vm *runner_boot(struct machine *machine, const struct hypervisor_events *events,
                                  struct error *err);
/* Its folder.  Blocks. */
int runner_prepare(const struct machine *machine, struct error *err);
/* UNSUPPORTED, when it has a runner: "be kept in a snapshot". */
int runner_refuse(const json_t *config, const char *what, struct error *err);

/* ---- seed.c: what cloud-init reads (NoCloud) ---- */

#define SEED_FILE "seed.iso"
/* Take user_data out of the settings, which go into the state and may be seen: its digest and size
 * stay.  *ret_user_data (NULL: there is none) is the caller's.  INVALID, TOO_LARGE. */
int seed_take_settings(json_t *config, char **ret_user_data, struct error *err);
void seed_wipe(char **user_data);
/* At the start: what was kept for machines that did not come to be. */
void seed_sweep(struct machine_service *service);
/* Keep it for a machine whose row is still to come.  Blocks. */
int seed_keep(const struct machine_service *service, const char *id, const char *user_data,
              struct error *err);
/* Of one whose image brings its own kernel: it gets the agent by its seed. */
bool seed_is_wanted(const json_t *config);
/* Write FOLDER/seed.iso, readable by its VMM alone.  Blocks, as disk_write_initrd() does. */
int seed_write(const struct machine *machine, const json_t *config, struct error *err);

/* ---- keys.c: who may log in ---- */

/* Its agent is up: add ssh_keys to those that root has. */
void keys_add(struct machine *machine);
/* Append those that are not in an authorized_keys file; false: all are there. */
bool keys_merge(const json_t *keys, struct buffer *text);

/* ---- settings.c: a MachineCreate ---- */

/* With what is not said filled in; INVALID names what is wrong.  A new reference. */
/* Add to a command what a machine with this config takes of its project's quota, beyond one that it
 * had before (NULL: it is new). */
void settings_add_quota(const struct machine_service *service, struct store_command *command,
                        const char *project, const json_t *before_or_null, const json_t *config);
int settings_complete(const json_t *create, json_t **ret_config, struct error *err);
/* "8080:80", "127.0.0.1:8080:80", "5353:53/udp". */
int settings_parse_publish(const char *text, struct hypervisor_forward *ret_forward,
                           char ret_address[64], struct error *err);
bool settings_is_firmware(const char *text); /* or "" */
enum {
    SETTING_CHANGES = 1, /* may become another one */
    SETTING_AT_START =
        2, /* a VMM begins with it: a change comes with the next start, at the latest */
    SETTING_TRAVELS = 4, /* is taken from an archive */
    SETTING_RUNNERS = 8, /* a runner has it itself */
    SETTING_OURS = 16,   /* of a disk, or for an agent, of ours: not of a machine with a runner */
};
struct machine_setting {
    const char *key; /* NULL: it was the last one */
    unsigned flags;
};
extern const struct machine_setting machine_settings[];
enum hypervisor_board settings_board(const json_t *config);
/* "52:54:00:..." of the machine's id. */
void settings_mac(const char *id, char ret_mac[18]);
void settings_mac_bytes(const char *id, uint8_t ret_mac[6]);

#endif
