/* The KVM back end's own structures, shared by its three files. */
#ifndef ENGINE_VMM_MICROVM_H
#define ENGINE_VMM_MICROVM_H

#include <linux/kvm.h>
#include <pthread.h>

#include "base/list.h"

#include "engine/vmm/private.h"
#include "engine/vmm/watchdog.h"

/* Where the CPU leaves the state of a trapped guest, in the arena. */
enum { MICROVM_TRAP_STACK = 0xb000 };

/* Linear memory that a shell without an image keeps mapped, and has touched: what small C programs
 * begin with. */
enum { MICROVM_WARM_MEMORY = 2 * 65536 };

/* Per struct vmm. */
struct microvm_host {
    int kvm_fd;
    bool owns_kvm_fd;
    int pagemap_fd;
    bool has_pagemap_scan;
    size_t run_bytes;       /* of a vCPU's shared page(s) */
    struct kvm_sregs sregs; /* what every call begins with */
    uint32_t cpu;           /* ABI_CPU_* */
    uint64_t tsc_khz;
    struct watchdog *watchdog;
};

struct microvm_shell {
    struct vmm_shell base;
    struct microvm_host *host;
    int vm_fd;
    int vcpu_fd;
    struct kvm_run *run;
    uint8_t *arena;
    uint64_t arena_bytes;
    uint64_t offset[WINDOW_COUNT]; /* of each window in the arena = its guest-physical address */
    uint32_t slot_count;           /* of KVM's */
    uint64_t memory_given;         /* bytes of linear memory KVM knows of */
    uint64_t memory_accessible;    /* bytes of linear memory that are mapped for the guest now */
    uint64_t memory_now;           /* linear memory of the running call */
    uint64_t files_given;      /* bytes of files' memory that KVM and the guest's tables know of */
    uint64_t files_accessible; /* bytes of it that the guest reaches: never above its limit */
    uint64_t shared_id;        /* of what is mapped at the end of the text; 0: nothing is */
    uint64_t shared_offset;
    uint64_t shared_bytes;
    uint64_t resets;
    bool has_more; /* pages than an idle instance keeps */
    bool is_warm;  /* has touched what functions use: see microvm_warm_up() */
    bool building; /* running initialisation for a snapshot */
    struct watchdog_timer timer;
};

/* An image's files: its `backend`. */
struct microvm_shared {
    uint64_t id; /* of all of this process's */
    int fd;
    uint64_t offset; /* in the text window, at a page; to its end */
    uint64_t bytes;
};

/* Where a window's content is on the host. */
static inline uint8_t *microvm_window(const struct microvm_shell *shell, enum window window)
{
    return shell->arena + shell->offset[window];
}

/* microvm.c */
int microvm_shell_make(struct vmm *vmm, const struct size_class *class,
                       struct microvm_shell **ret_shell, struct error *err);
void microvm_shell_end(struct microvm_shell *shell);

/* Let the guest reach exactly `bytes` of linear memory. */
int microvm_set_memory(struct microvm_shell *shell, uint64_t bytes);

/* Let the guest reach at least `bytes` of files' memory, and nothing above `bytes_max`: memory is
 * given in steps that double, and what an image before this one was given stays with the shell. */
int microvm_set_files(struct microvm_shell *shell, uint64_t bytes, uint64_t bytes_max);

/* On a shell that is empty: touch, from inside, the pages that functions use. */
int microvm_warm_up(struct microvm_shell *shell, struct error *err);

/* microvm_run.c: run from these registers until the call is over, or READY while building. */
enum microvm_end { MICROVM_OVER, MICROVM_READY };
enum microvm_end microvm_enter(struct microvm_shell *shell, const struct registers *registers,
                               struct call_state *state);

/* microvm_share.c: an image's files become one object (where that is worth it, else they are as all
 * text is); an arena gets what its image has.  -1: errno. */
void microvm_share(struct vmm_image *image, const struct elf_view *elf);
void microvm_forget(struct vmm_image *image);
int microvm_map_shared(struct microvm_shell *shell, const struct vmm_image *image_or_null);

/* microvm_reset.c */
int microvm_attach(struct vmm_shell *shell, struct vmm_image *image, struct error *err);
int microvm_reset(struct vmm_shell *shell, uint64_t *ret_pages, struct error *err);
int microvm_rest(struct vmm_shell *base, struct error *err);
void microvm_keep(struct vmm_shell *base);

#endif
