/* Inside engine/hypervisor: a machine that runs, as vm.c (its life) and orders.c (what it is told)
 * have it. */
#ifndef ENGINE_HYPERVISOR_VM_H
#define ENGINE_HYPERVISOR_VM_H

#include <uv.h>

#include "base/error.h"

#include "engine/hypervisor/driver.h"
#include "engine/hypervisor/panic.h"

struct hypervisor_vm {
    struct hypervisor *hypervisor;
    const struct found *found;
    char *folder;
    struct order order;
    struct jail_group_limits limits;
    uid_t uid;
    struct hypervisor_events events;
    void *context;
    struct error error; /* of the start */
    void *control;      /* of the driver; NULL: not connected */
    int watch_fd;
    uv_poll_t watch;
    bool is_watching;
    bool is_ready;
    bool is_starting; /* a thread has it */
    bool is_full;     /* see hypervisor_is_full() */
    bool is_freed;
    bool has_ending;
    bool was_killed;
    bool is_transferring;
    enum hypervisor_end ending;
    struct panic_mark boot; /* where it begins in the console's log */
    bool has_panicked;      /* the boot that has just ended */
    char panic[PANIC_SIZE]; /* of what */
    unsigned posts;
    hypervisor_done transfer_done;
    void *transfer_context;
    char *state_file; /* it is to begin with, or NULL */
    bool uses_state_up;
    bool is_resuming; /* it does not run yet */
    bool without_memory;
    struct plug *plug;        /* volumes that it has before it goes on, or NULL */
    struct loop_timer *again; /* its connection was lost, and is to be made anew */
    uint64_t lost_ms;         /* when it was lost last */
    unsigned losses;          /* of late */
    bool is_deaf;             /* it is ended because it does not listen any more */
};

/* It is freed, and nothing of it is under way any more. */
void vm_release(struct hypervisor_vm *vm);

/* The folder's name: its control group is called so. */
const char *vm_group_of(const char *folder);

#endif
