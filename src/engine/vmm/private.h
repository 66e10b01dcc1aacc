/*
 * What the files of this room share: images as runs of pages, and the table that a back end fills.
 */
#ifndef ENGINE_VMM_PRIVATE_H
#define ENGINE_VMM_PRIVATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

#include "engine/vmm/abi.h"
#include "engine/vmm/vmm.h"

enum { PAGE_BYTES = 4096, RUNS_MAX = 4096 };

#define MIB(n) ((uint64_t)(n) << 20)

/* The parts of a guest's address space that have content. */
enum window { WINDOW_TEXT, WINDOW_DATA, WINDOW_STACK, WINDOW_MEMORY, WINDOW_FILES, WINDOW_COUNT };

extern const uint64_t window_base[WINDOW_COUNT];

/*
 * A size class: how large each window of a shell is.  Few, so that shells can be reused; encoded in
 * one number, the sum, for the door.
 */
struct size_class {
    uint64_t bytes[WINDOW_COUNT];
};

/* The smallest class that holds these; false when there is none. */
bool class_for(uint64_t text_bytes, uint64_t data_bytes, uint64_t memory_bytes,
               struct size_class *ret_class);
uint64_t class_total(const struct size_class *class);
bool class_from_total(uint64_t total, struct size_class *ret_class);

/* Registers at the snapshot, as KVM names them (struct kvm_regs has the same order). */
struct registers {
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t rip, rflags;
};

/* Pages that are not all zero. */
struct run {
    enum window window;
    uint64_t offset; /* in the window */
    uint64_t length;
    const uint8_t *bytes; /* in vmm_image.content */
};

struct vmm_image {
    atomic_uint references;
    struct vmm *vmm;
    struct vmm_limits limits;
    struct vmm_image_info info;
    struct size_class class;
    struct registers registers;
    struct run *runs;
    size_t run_count;
    uint8_t *content;
    size_t content_bytes;
    void *backend; /* what the back end keeps with it */
};

/* What an ELF file says, after checking. */
struct elf_view {
    const uint8_t *text;
    uint64_t text_bytes;
    const uint8_t *data; /* at ABI_IMAGE_DATA */
    uint64_t data_bytes;
    uint64_t data_end; /* behind .bss, as offset in the data window */
    uint64_t entry;
    uint64_t files_at; /* in the text: from here to its end are files; 0: there are none, or the
                        * image does not say */
};

int elf_read(const void *bytes, size_t length, struct elf_view *ret_view, struct error *err);

/* Collect the non-zero pages of a window into the image being made. */
void image_add_pages(struct vmm_image *image, enum window window, uint64_t offset,
                     const uint8_t *bytes, uint64_t length);

/* Which of WebAssembly's traps the CPU's is, or NONE: then the guest did what no module does. */
enum abi_trap trap_of_fault(unsigned vector, uint64_t address);

/* The text of a trap, from the runtime's number or the CPU's vector. */
const char *trap_text(uint64_t trap);
void trap_describe_fault(unsigned vector, uint64_t address, uint64_t rip, char *ret_text,
                         size_t size);

/* One call while it runs; shared by the back ends. */
struct call_state {
    const struct vmm_call *call;
    const struct vmm_limits *limits;
    size_t input_taken;
    uint64_t deadline_ns;
    uint64_t log_bytes;
    bool log_full;
    bool is_building;        /* initialisation: there is nobody to ask yet */
    bool begins_late;        /* which there is not: it is part of the call */
    struct buffer host_sent; /* the running question, and the answer to the last one */
    struct buffer host_reply;
    struct vmm_outcome *outcome;
};

/* Fill the call block for a call.  `block` is zeroed but for what is set here. */
void block_fill(struct abi_block *block, const struct call_state *state);

/* Pass output and log on within the limits; false: the call is over (outcome->end is set). */
bool call_output(struct call_state *state, const void *bytes, uint64_t length);
void call_log(struct call_state *state, const void *bytes, uint64_t length);
/* What lies in the guest's block: log, and output if wanted.  False: the call is over. */
bool call_inline(struct call_state *state, const struct abi_block *block, bool with_output);

/* It sleeps for so long: what it wrote is passed on before, unless it is but a moment. */
void call_waits(struct call_state *state, uint64_t ns);

/* Input beyond the block's: -1 when the call is over (outcome->end is set). */
long call_input(struct call_state *state, void *bytes, uint64_t length);

/*
 * A question to the host, and more of the last answer.  `translate` gives the host's address of a
 * range of the guest's memory, or NULL.  False: the call is over (outcome->end is set).
 */
struct guest_memory {
    uint8_t *(*translate)(const void *shell, uint64_t address, uint64_t length);
    const void *shell;
};
/* Of `all` bytes, what the guest asks for: arguments are address, length, where in them.  False,
 * with the call ended: its room there is not the guest's. */
struct call_window {
    uint8_t *room; /* NULL: nothing is asked for, or is left */
    size_t from;
    size_t count;
};
bool call_window(struct call_state *state, const struct guest_memory *memory,
                 const uint64_t arguments[3], uint64_t all, struct call_window *ret_window);
bool call_host(struct call_state *state, const struct guest_memory *memory, uint64_t address,
               uint64_t *ret_result);
bool call_host_more(struct call_state *state, const struct guest_memory *memory,
                    const uint64_t arguments[3], uint64_t *ret_result);
/* The same of its environment and arguments. */
bool call_text(struct call_state *state, const struct guest_memory *memory,
               const uint64_t arguments[3], uint64_t *ret_result);

/* What a call left in `state`, when it is over. */
void call_done(struct call_state *state);

/* Asked once a shell can be interrupted: has the call been cancelled before?  (outcome->end is set)
 */
bool call_is_cancelled(struct call_state *state);

void call_end(struct call_state *state, enum vmm_end end, const char *reason);

/* ---- Back ends ---- */

struct backend {
    int (*open)(struct vmm *vmm, const struct vmm_options *options, struct error *err);
    void (*close)(struct vmm *vmm);
    /* Run initialisation up to READY and fill image->runs, registers and info. */
    int (*snapshot)(struct vmm_image *image, const struct elf_view *elf,
                    const struct vmm_sink *sink, struct error *err);
    void (*forget)(struct vmm_image *image); /* image->backend, if any */
    int (*shell_new)(struct vmm *vmm, const struct size_class *class, struct vmm_shell **ret_shell,
                     struct error *err);
    void (*shell_free)(struct vmm_shell *shell);
    int (*attach)(struct vmm_shell *shell, struct vmm_image *image, struct error *err);
    void (*run)(struct vmm_shell *shell, struct call_state *state);
    int (*reset)(struct vmm_shell *shell, uint64_t *ret_pages, struct error *err);
    int (*rest)(struct vmm_shell *shell, struct error *err); /* may be NULL */
    void (*keep)(struct vmm_shell *shell);                   /* may be NULL: it cannot */
    void (*interrupt)(struct vmm_shell *shell);
};

extern const struct backend backend_microvm;
extern const struct backend backend_process;

struct vmm {
    enum vmm_isolation isolation;
    const struct backend *backend;
    void *state; /* the back end's */
    bool begins_late;
};

/* Each back end's shell begins with this. */
struct vmm_shell {
    struct vmm *vmm;
    struct size_class class;
    struct vmm_image *image; /* NULL: empty */
    bool fresh;
};

#endif
