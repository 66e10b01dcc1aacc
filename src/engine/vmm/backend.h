/*
 * Inside the room: what is common (image.c, elf.c, call.c, stop.c, vmm.c) and what a back end
 * brings (microvm.c on KVM, process.c without).
 *
 * An image is a memfd in the layout of its size class: text, data, stack, linear memory, each at
 * its offset.  The common part checks the ELF file and writes its segments there; the back end's
 * `image_build` runs the initialisation and leaves the snapshot in the same memfd, and the
 * registers in `backend_image`.
 *
 * One call, in the common part: vmm_shell_run() arms the deadline (stop.c), calls the back end's
 * `run`, and disarms it.  The back end fills the call block with call_begin(), lets the guest run
 * until it calls the host, answers with call_serve(), and ends with call_finish().
 */
#ifndef ENGINE_VMM_BACKEND_H
#define ENGINE_VMM_BACKEND_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/error.h"
#include "base/list.h"

#include "engine/vmm/abi.h"
#include "engine/vmm/vmm.h"

enum { VMM_PAGE = 4096 };

#define VMM_MIB (1ull << 20)

/* ---- Layout (image.c) ---- */

/* Offsets in the memfd and in a shell's arena, the same; multiples of 2 MiB.  What is before
 * text_at belongs to the back end. */
struct vmm_layout {
    uint64_t text_at;
    uint64_t text_size;
    uint64_t data_at;
    uint64_t data_size;
    uint64_t stack_at; /* ABI_STACK_SIZE bytes */
    uint64_t memory_at;
    uint64_t memory_size; /* = class_bytes */
    uint64_t end;
};

/* The layout of the smallest class of at least `class_bytes`, or NULL when that is too much. */
const struct vmm_layout *layout_of_class(uint64_t class_bytes);

/* ---- Objects ---- */

struct vmm_backend;

struct vmm {
    const struct vmm_backend *backend;
    enum vmm_isolation isolation;
    void *backend_vmm;

    /* stop.c: calls in progress, and the thread that watches their deadlines */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t watchdog;
    bool closing;
    struct list running;
    _Atomic uint64_t wake_at_ns;
};

/* Pages that are not zero, in the order of offsets. */
struct image_run {
    uint64_t at;
    uint64_t length;
};

struct vmm_image {
    struct vmm *vmm;
    atomic_uint references;
    struct vmm_limits limits;
    const struct vmm_layout *layout;
    int memfd; /* layout->end bytes, sparse */
    const uint8_t
        *view; /* all of it, shared, read-only; reading a hole allocates: see image_page() */
    uint64_t text_bytes; /* used parts of the windows, whole pages */
    uint64_t data_bytes;
    uint64_t memory_bytes; /* linear memory at the snapshot */
    uint64_t entry;
    bool is_handler;
    uint64_t init_ns;
    struct image_run *runs;
    size_t run_count;
    uint64_t snapshot_bytes;
    uint64_t *page_bits; /* one per page of [0, layout->end): not zero */
    void *backend_image;
};

struct vmm_shell {
    struct vmm *vmm;
    const struct vmm_layout *layout;
    struct vmm_image *image; /* a reference, or NULL */
    bool is_fresh;           /* attached or reset since the last call */

    /* stop.c */
    struct list_node link;
    _Atomic uint64_t deadline_ns; /* 0: not running, or stopped already */
    _Atomic int stop_reason;      /* enum vmm_end: TIMEOUT or CANCELLED; 0: none */
    pthread_t thread;
};

/* ---- A back end ---- */

struct vmm_backend {
    /* Fills vmm->backend_vmm; UNSUPPORTED (with the reason) when this machine cannot. */
    int (*open)(struct vmm *vmm, const struct vmm_options *options, struct error *err);
    void (*close)(struct vmm *vmm);

    /*
     * Run the initialisation of `image`: memfd and view hold the ELF's segments, all else is zero;
     * start at image->entry with the stack at ABI_STACK_BASE + ABI_STACK_SIZE - 64 until ABI_READY
     * (then call_serve() returns CALL_READY), within limits.timeout_ms.  Leave memory in the memfd,
     * set memory_bytes, is_handler and backend_image.  The caller finds the runs afterwards.
     * Fails with TRAP, TIMEOUT, LIMIT or OS.
     */
    int (*image_build)(struct vmm_image *image, const struct vmm_sink *sink, struct error *err);
    void (*image_done)(struct vmm_image *image);

    /* Storage is the back end's: its struct begins with struct vmm_shell, zeroed; vmm and layout
     * are set by the caller on return. */
    int (*shell_new)(struct vmm *vmm, const struct vmm_layout *layout, struct vmm_shell **ret_shell,
                     struct error *err);
    void (*shell_free)(struct vmm_shell *shell);

    /* shell->image is the old one (or NULL); the caller moves the references after success. Nothing
     * of the old image may stay.  NULL: wash, ready for the next. */
    int (*attach)(struct vmm_shell *shell, struct vmm_image *image, struct error *err);

    /*
     * Run to the end, whatever it is; fills the whole outcome but run_ns.  While the guest runs, or
     * the back end waits for it, shell_stop() may come from another thread.
     */
    void (*run)(struct vmm_shell *shell, const struct vmm_call *call,
                struct vmm_outcome *ret_outcome);

    int (*reset)(struct vmm_shell *shell, uint64_t *ret_pages, struct error *err);

    /*
     * Another thread, vmm->lock held: make `run` notice that shell->stop_reason is set.  The
     * thread of the shell is also sent SIGUSR2 afterwards (an empty handler without SA_RESTART,
     * installed by stop.c), so system calls it waits in return EINTR.  Must be harmless when the
     * guest happens not to run right now.
     */
    void (*kick)(struct vmm_shell *shell);

    /* On the shell's thread, once no kick can come any more: forget the last one. */
    void (*unkick)(struct vmm_shell *shell);
};

extern const struct vmm_backend microvm_backend;
extern const struct vmm_backend process_backend;

/* ---- Images: image.c and elf.c ---- */

/* Check an ELF file and lay it out: fills layout, memfd, view, text_bytes, data_bytes, entry.
 * INVALID says what is wrong with it; LIMIT: the windows are too small. */
int elf_load(const void *elf, size_t length, struct vmm_image *image, struct error *err);

/* The checks of elf_load() alone; no image is made. */
struct elf_plan {
    uint64_t entry;
    uint64_t text_bytes;
    uint64_t data_bytes; /* from ABI_DATA_BASE, call block included */
    struct elf_segment {
        uint64_t file_at;
        uint64_t file_bytes;
        uint64_t address;
        uint64_t memory_bytes;
        bool is_text;
    } segments[8];
    size_t segment_count;
};
int elf_check(const void *elf, size_t length, struct elf_plan *ret_plan, struct error *err);

/* The snapshot's page at `offset` of the layout; a page of zeros where it has none. */
const uint8_t *image_page(const struct vmm_image *image, uint64_t offset);

/* After image_build: find runs, page_bits, snapshot_bytes. */
int image_find_runs(struct vmm_image *image, struct error *err);

/* ---- One call: call.c ---- */

enum call_next {
    CALL_CONTINUE, /* answered: let the guest go on */
    CALL_READY,    /* the snapshot moment (only when building) */
    CALL_OVER,     /* see outcome */
};

/* The back end lends the call's state and the guest's memory. */
struct call_state {
    struct vmm_shell *shell;
    const struct vmm_image *image;
    const struct vmm_call *call; /* NULL: building */
    const struct vmm_sink *sink;
    struct vmm_outcome *outcome;
    struct abi_call *block;
    uint64_t memory_bytes; /* linear memory now */
    uint64_t input_given;
    uint64_t log_bytes;
    bool log_is_cut;
    uint64_t tick_ns_fixed; /* the back end's: 0 when rdtsc is of no use */
    uint64_t gate;          /* the back end's: 0 in a VM */
    bool is_handler;        /* from ABI_READY */

    /* Host address of guest offset `at` of the layout for `length` bytes, all of which lie in one
     * window and in its used part; may be NULL if the back end cannot (the call is refused). */
    uint8_t *(*reach)(struct call_state *state, uint64_t at, uint64_t length);
    /* Make linear memory `bytes` big (more than memory_bytes, at most the limit and the class). */
    bool (*grow)(struct call_state *state, uint64_t bytes);
};

/* Fill the block for a new call (or for initialisation). */
void call_begin(struct call_state *state);

/* The guest called: do what block->number says.  Counts an exit. */
enum call_next call_serve(struct call_state *state);

/* Set the end, unless the call was stopped: then TIMEOUT or CANCELLED stand. */
void call_end(struct call_state *state, enum vmm_end end, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Reason for an exception `vector` (0..31) whose faulting address, if any, is `address`. */
const char *call_exception_text(unsigned vector, uint64_t address);

/* The call is over, however: hand on what is left in the block; outcome's figures. */
void call_finish(struct call_state *state);

/* ---- Deadlines and interruption: stop.c ---- */

int stop_open(struct vmm *vmm, struct error *err);
void stop_close(struct vmm *vmm);

/* Around a call, on the shell's thread. */
void stop_arm(struct vmm_shell *shell, uint64_t timeout_ms);
void stop_disarm(struct vmm_shell *shell);

/* Has this call been stopped?  0, VMM_END_TIMEOUT or VMM_END_CANCELLED. */
static inline enum vmm_end stop_reason(struct vmm_shell *shell)
{
    return (enum vmm_end)atomic_load(&shell->stop_reason);
}

/* Any thread: stop the call that runs, if one does. */
void shell_stop(struct vmm_shell *shell, enum vmm_end reason);

#endif
