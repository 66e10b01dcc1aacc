/* What the files of this room share. */
#ifndef ENGINE_CLONE_PARTS_H
#define ENGINE_CLONE_PARTS_H

#include <jansson.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/loop/loop.h"

#include "engine/agent/agent.h"
#include "engine/clone/clone.h"
#include "engine/hypervisor/hypervisor.h"

enum {
    CLONE_MAKE_MS = 300000, /* until a template is there, its boot and the handler's start */
    CLONE_START_MS = 60000, /* until a clone is itself */
    CLONE_INPUT_MAX = 6 << 20,
};

struct clone_service {
    struct clone_options options;
    char *agent;          /* path of blixard-agent; NULL: there is none */
    struct list machines; /* of all runners, and those that are ending */
    struct list kept;     /* templates in use that are to stay on disk */
    uint64_t last_number;
    uint64_t run;     /* of the daemon: folders of another one are not this one's */
    unsigned at_work; /* on the pool's threads */
};

/* ---- machine.c: one VMM with its folder ---- */

struct machine_events {
    void (*on_up)(void *context); /* its agent speaks; again after a session was lost */
    void (*on_failed)(const struct error *error, void *context); /* once: it is being ended */
};

struct clone_machine {
    struct list_node link;
    struct clone_service *service;
    char *folder;
    uid_t uid;
    struct hypervisor_vm *vm;
    struct agent *agent;
    struct loop_timer *timer;
    bool is_up; /* its agent has spoken */
    bool is_ending;
    bool keeps_folder; /* it is a template's */
    void (*on_gone)(void *context);
    struct machine_events events;
    void *context;
};

/* A folder of its own; nothing runs yet.  NULL: it could not be made. */
struct clone_machine *machine_new(struct clone_service *service,
                                  const struct machine_events *events, void *context,
                                  struct error *err);
/* `spec` with its name, folder and user filled in; on_up or on_failed follows.  Fails as TIMEOUT
 * when machine_ready() has not been called by then. */
void machine_start(struct clone_machine *machine, struct hypervisor_spec *spec,
                   uint64_t patience_ms);
/* It is what it was to become; it may be silent from now on. */
void machine_ready(struct clone_machine *machine);
/* No event comes any more; it is killed, then freed, and its folder removed.  Accepts NULL. */
void machine_end(struct clone_machine *machine);
/* As it, but the folder stays, and `on_gone` is called when the VMM is no more. */
void machine_end_keeping(struct clone_machine *machine, void (*on_gone)(void *context),
                         void *context);
/* End what an earlier daemon left. */
void machines_sweep(struct clone_service *service);
/* Remove a folder on a thread. */
void folder_remove(struct clone_service *service, char *owned_path);

/* ---- template.c ---- */

struct template
{
    struct list_node link;
    struct list_node kept_link; /* with a name to be kept by */
    struct clone_runner *runner;
    char id[HASH_TEXT_SIZE];
    json_t *settings;
    uint64_t memory_bytes;
    uint64_t init_ms; /* the handler may take */
    uint64_t output_max;
    uint64_t log_max;
    char *kernel;
    char *root; /* NULL: none */
    char *initrd;
    bool brings_agent; /* its initrd is the image's, with the image's words for the kernel */
    char *folder;      /* of memory and state */
    char made_of[HASH_TEXT_SIZE];  /* keep.c; "" until that is known */
    bool is_kept;                  /* its folder stays when it is freed... */
    bool is_dropped;               /* ...or not */
    struct clone_machine *machine; /* while it is made */
    struct buffer code;
    struct buffer log;
    struct buffer said; /* the error's JSON */
    unsigned users;     /* slots */
    bool is_ready;
    bool is_forgotten;
    uint64_t began_ms;
    struct error error;
    void (*done)(const struct error *error, const struct vmm_image_info *info, const char *log,
                 size_t log_length, void *context);
    void *context;
};

void template_make(struct clone_runner *runner, const char *id, int fd,
                   const struct vmm_limits *limits, const char *settings,
                   void (*done)(const struct error *error, const struct vmm_image_info *info,
                                const char *log, size_t log_length, void *context),
                   void *context);
struct template *template_find(struct clone_runner *runner, const char *id);
/* What a machine of it is; the caller fills in what is of the machine alone. */
struct template_spec {
    struct hypervisor_spec spec;
    struct hypervisor_disk disk;
    char *memory_file;
    char *state_file;
};
void template_describe(const struct template *template, struct template_spec *ret_spec);
void template_spec_done(struct template_spec *spec);
void template_forget(struct template *template);
void template_unuse(struct template *template);

/*
 * ---- keep.c: templates on disk, in folders of their own beside those of machines ----
 *
 * One is good for what it was made of: the same boot of the host (so nothing has to be synced, and
 * the CPU is the same), release of Blixard, VMM, agent, bootstraps and memory.  Its name says the
 * rest.
 */

#define KEEP_PREFIX "kept-"

/* The folder it is kept in, or is to be; NULL: it is not kept.  The caller's. */
char *keep_folder(const struct template *template);
/* Set made_of.  Blocks, as do the next three. */
void keep_describe(struct template *template, const void *agent, size_t length);
/* Is it there, of the same?  What is there and is not goes. */
bool keep_find(const struct template *template);
/* The folder it was made in becomes that one. */
int keep_put(const struct template *template, const char *folder, struct error *err);
/* Does a folder of that name in the service's come from another boot of the host? */
bool keep_is_stale(const struct clone_service *service, const char *name);

/* ---- slot.c, call.c ---- */

struct slot {
    struct clone_runner *runner;
    unsigned index;
    struct template *template;
    struct clone_machine *machine; /* NULL: none */
    bool is_ready;                 /* its agent has been told that it is a clone */
    struct runner_call *call;
};

struct clone_runner {
    const struct runner_driver *driver; /* first: runner.h */
    struct clone_service *service;
    struct list templates;
    unsigned slot_count;
    bool is_over;
    struct slot slots[RUNNER_SLOTS_MAX];
};

struct runner_call {
    const struct runner_driver *driver; /* first: runner.h */
    struct slot *slot;                  /* NULL: its machine is no more */
    struct loop *loop;
    struct runner_call_events events;
    void *context;
    struct buffer environment;
    struct buffer input;
    struct buffer output;
    struct buffer answer; /* CGI */
    uint64_t passed_on;   /* bytes of an answer that comes in pieces */
    struct agent_call *asked;
    struct list tunnels;
    struct loop_timer *timer;
    uint64_t timeout_ms;
    uint64_t began_ns;
    uint64_t run_ns;
    uint64_t attach_ns;
    uint64_t output_max;
    uint64_t log_left;
    size_t secret_at; /* which of the template's comes next */
    bool input_is_whole;
    bool is_too_large;
    bool is_streamed; /* its answer comes in pieces... */
    bool has_prelude; /* ...of which the first are said not to be its body */
    bool keeps_memory;
    bool is_last;
    bool is_paused;
    bool is_held; /* its end waits for it to be resumed */
    bool is_over; /* the end is known, and posted */
    bool was_cold;
    struct runner_result result;
};

void runner_release(struct clone_runner *runner);
void slot_begin(struct slot *slot, struct template *template);
void slot_end(struct slot *slot);

extern const struct runner_driver clone_driver;
struct runner_call *clone_invoke(struct runner *runner, unsigned slot,
                                 const struct runner_invocation *invocation,
                                 const struct runner_call_events *events, void *context);
bool clone_call_write(struct runner_call *call, const void *bytes, size_t length);
void clone_call_finish_input(struct runner_call *call);
void clone_call_pause(struct runner_call *call);
void clone_call_resume(struct runner_call *call);
void clone_call_cancel(struct runner_call *call);

/* ---- tunnel.c: what the handler connects to ---- */

/* While the call runs connections are taken; at its end there are none. */
void tunnels_begin(struct runner_call *call);
void tunnels_end(struct runner_call *call);

/* The slot's machine is ready: send what waits for that. */
void call_go_on(struct runner_call *call);
/* Its machine has failed. */
void call_failed(struct runner_call *call, const char *reason);

#endif
