/*
 * The function VM: a virtual machine without a kernel, or, where there is no usable KVM, a process
 * sandbox; one door for both.
 *
 * An *image* is compiled code with the snapshot of its memory and registers after initialisation. A
 * *shell* is a VM (or sandbox) that can take any image of its size class; attached to an image it
 * is an instance.  Every call starts from the snapshot, and no byte of one call is seen by the
 * next, unless vmm_shell_keep() says otherwise.
 *
 * Threads: a struct vmm and its images may be used from several threads.  A shell belongs to the
 * thread that made it (KVM vCPUs are slow to move); only vmm_shell_interrupt() may come from
 * outside.
 */
#ifndef ENGINE_VMM_VMM_H
#define ENGINE_VMM_VMM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct vmm;
struct vmm_image;
struct vmm_shell;

enum vmm_isolation { VMM_ISOLATION_MICROVM, VMM_ISOLATION_PROCESS };

/* "microvm" or "process". */
const char *vmm_isolation_text(enum vmm_isolation isolation);

/* ---- What this machine can do ---- */

struct vmm_probe {
    bool kvm_exists;      /* /dev/kvm is there */
    bool kvm_accessible;  /* and may be opened */
    bool kvm_usable;      /* and a tiny guest ran to its answer */
    bool kvm_paravirtual; /* no VMX/SVM: PVM or the like */
    bool pagemap_scan;    /* PAGEMAP_SCAN ioctl, Linux 6.7 */
    char kvm_reason[256]; /* why not usable, or "" */
};

/* Try it for real (makes and runs one VM, a few ms).  Never fails. */
void vmm_probe(struct vmm_probe *ret_probe);

/* ---- Set-up ---- */

struct vmm_options {
    enum vmm_isolation isolation;
    int kvm_fd;          /* /dev/kvm opened by the caller, who keeps it; -1: open it here */
    int pagemap_fd;      /* /proc/self/pagemap, where /proc is gone; taken over.  0: open it here */
    unsigned shells_max; /* PROCESS: how many children may exist */
    bool begins_late;    /* modules are instantiated in their first call, of who has but one */
};

/* Fails with UNSUPPORTED when the isolation asked for cannot be had here. */
int vmm_open(const struct vmm_options *options, struct vmm **ret_vmm, struct error *err);
void vmm_close(struct vmm *vmm); /* after all its images and shells */
enum vmm_isolation vmm_isolation(const struct vmm *vmm);

/* ---- Images ---- */

struct vmm_limits {
    uint64_t memory_bytes;     /* linear memory may grow to this; at most 4 GiB - 64 KiB */
    uint64_t files_bytes;      /* what files in memory (/tmp) may take; at most 512 MiB */
    uint64_t timeout_ms;       /* wall clock of one call (and of initialisation) */
    uint64_t output_bytes_max; /* standard output of one call */
    uint64_t log_bytes_max;    /* standard error of one call; the rest is dropped, with a note */
};

/* Receives what the code writes; called on the shell's thread.  Return false to break the call off
 * (the outcome is CANCELLED). */
struct vmm_sink {
    bool (*output)(const void *bytes, size_t length, void *context);
    void (*log)(const void *bytes, size_t length, void *context);
    /* The code is about to sleep: somebody may wait for what it wrote.  May be NULL. */
    void (*waits)(void *context);
    void *context;
};

struct vmm_image_info {
    uint64_t text_bytes;
    uint64_t snapshot_bytes; /* non-zero pages: what attaching copies */
    uint64_t memory_bytes;   /* linear memory at the snapshot */
    uint64_t files_bytes;    /* of files' memory, at the snapshot */
    uint64_t class_bytes;    /* memory a shell must have */
    uint64_t init_ns;
    bool is_handler; /* exports `handle`; otherwise a command with `_start` */
};

/*
 * Make an image from an ELF file linked by engine/wasm (the bytes are input: checked, not trusted):
 * lay it out, run its initialisation in a shell of its own, take the snapshot.  What initialisation
 * writes to standard error goes to sink->log.  Fails with INVALID (not such an ELF), LIMIT (too big
 * for `limits`), TRAP or TIMEOUT (initialisation failed, with the reason), UNSUPPORTED, OS.
 */
int vmm_image_new(struct vmm *vmm, const void *elf, size_t length, const struct vmm_limits *limits,
                  const struct vmm_sink *sink, struct vmm_image **ret_image, struct error *err);
struct vmm_image *vmm_image_ref(struct vmm_image *image);
void vmm_image_unref(struct vmm_image *image);
void vmm_image_info(const struct vmm_image *image, struct vmm_image_info *ret_info);

/* ---- Shells ---- */

/*
 * A shell for images of up to `class_bytes` (vmm_image_info), to be attached at once: nothing is
 * done beforehand that its image does not need.  0: for a pool: of the class that fits a memory
 * limit of 128 MiB, and run once, so that its first image starts without page faults.
 */
int vmm_shell_new(struct vmm *vmm, uint64_t class_bytes, struct vmm_shell **ret_shell,
                  struct error *err);
void vmm_shell_free(struct vmm_shell *shell);

/* Does this image fit this shell without making it anew? */
bool vmm_shell_fits(const struct vmm_shell *shell, const struct vmm_image *image);

/* Make the shell an instance of `image` (a reference is taken), washing out what was there.  A
 * change of tenant also clears every register.  NULL detaches and washes. */
int vmm_shell_attach(struct vmm_shell *shell, struct vmm_image *image, struct error *err);

/* ---- One call ---- */

/* The specification's name of a trap (enum abi_trap). */
const char *vmm_trap_text(uint32_t trap);

struct vmm_call {
    /* "NAME=value" strings, each with its NUL, one after the other. */
    const char *environment;
    size_t environment_length;
    /* argv, the same way; empty: {"function"}.  Both together at most VMM_TEXT_MAX bytes. */
    const char *arguments;
    size_t arguments_length;
    /* Standard input: first `input`, then what read() gives until it returns 0.  read may be NULL;
     * it may block, until the call's deadline (monotonic) and no longer; -1 breaks the call off
     * (CANCELLED, or TIMEOUT). */
    const void *input;
    size_t input_length;
    long (*read)(void *bytes, size_t length, uint64_t deadline_ns, void *context);
    void *read_context;
    struct vmm_sink sink;
    /*
     * Answer a question of the function (hostcall.h): append to `reply`, which is empty, at most
     * ABI_HOST_BYTES_MAX.  `request` is lent, and input.  It may block, at most until deadline_ns
     * (monotonic).  -1 breaks the call off (CANCELLED, or TIMEOUT when it is late).  NULL: the
     * function is told that nobody answers.
     */
    int (*host)(const void *request, size_t length, uint64_t deadline_ns, struct buffer *reply,
                void *context);
    void *host_context;
    uint32_t folder_count; /* of the host that `host` answers for (hostfiles.h) */
    /* ABI_FOLDER_*: folders of the guest's own that a command does not get (a libc that ran before
     * the snapshot would know them already). */
    uint32_t folders_hidden;
    uint32_t streams_piped; /* 1 << 0 to 2: no terminal, whose programs write line by line */
    uint64_t timeout_ms;    /* 0: the image's limit; never more than it */
    /* May be NULL.  Who sets it and then calls vmm_shell_interrupt() ends the call, however early
     * he comes. */
    const atomic_bool *cancelled;
};

/* Of a function's environment; and of what a program of somebody at a terminal gets. */
enum { VMM_ENV_MAX = 65536, VMM_TEXT_MAX = 1 << 20 };

enum vmm_end {
    VMM_END_EXIT, /* the program ended; see exit_code */
    VMM_END_TRAP, /* see reason */
    VMM_END_TIMEOUT,
    VMM_END_OUTPUT,    /* output_bytes_max reached */
    VMM_END_CANCELLED, /* interrupted, or a callback said so */
    VMM_END_BROKEN,    /* the shell itself failed: free it; see reason */
};

struct vmm_outcome {
    enum vmm_end end;
    uint32_t exit_code;
    char reason[160];      /* "trap: out of bounds memory access", "" on EXIT */
    uint64_t run_ns;       /* guest entered to verdict */
    uint64_t exits;        /* times the guest left to the host */
    uint64_t memory_bytes; /* linear memory at the end */
    uint64_t output_bytes;
};

/*
 * Run one call to its end.  The shell must be attached, and fresh (attached or reset since its last
 * call).  Whatever the guest does, this returns.
 */
void vmm_shell_run(struct vmm_shell *shell, const struct vmm_call *call,
                   struct vmm_outcome *ret_outcome);

/* Back to the snapshot: memory and registers.  After the answer has gone, before the next call.
 * *ret_pages (may be NULL): pages that had been changed.  A failure means: free the shell. */
int vmm_shell_reset(struct vmm_shell *shell, uint64_t *ret_pages, struct error *err);

/* In place of a reset: the next call begins with the memory that this one left, but with registers
 * and stack as ever.  False: this isolation cannot, and nothing was done. */
bool vmm_shell_keep(struct vmm_shell *shell);

/* The shell, reset, will wait for its next call: memory that only made that one faster is given
 * back.  A failure means: free the shell. */
int vmm_shell_rest(struct vmm_shell *shell, struct error *err);

/* Any thread: the call that runs now (if one does) ends with CANCELLED. */
void vmm_shell_interrupt(struct vmm_shell *shell);

#endif
