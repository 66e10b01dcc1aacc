/*
 * The process sandbox: what its two sides, the host's (process.c) and the children's
 * (process_child.c), say to each other.
 *
 * Each struct vmm has a *zygote*, a process forked before anything else was there, which forks a
 * child per call.  A child's memory is one memfd, shared with the shell that asked for it and used
 * for this one call; over its socket go only short notes, and the child waits for each answer.
 */
#ifndef ENGINE_VMM_PROCESS_H
#define ENGINE_VMM_PROCESS_H

#include "engine/vmm/private.h"

enum zygote_wish { ZYGOTE_SPAWN, ZYGOTE_END };

/* To the zygote; with SPAWN go two descriptors: the memfd, then the child's socket. */
struct zygote_request {
    uint32_t wish;                /* enum zygote_wish */
    int32_t pid;                  /* END: a child that is to be killed and reaped */
    uint64_t bytes[WINDOW_COUNT]; /* how long each window is; one behind the other in the memfd */
    uint64_t memory_accessible;   /* of linear memory */
    struct registers registers;   /* where it begins */
};

struct zygote_reply {
    int32_t pid; /* or -errno */
};

enum note_kind { NOTE_CALL, NOTE_FAULT };

/* From a child.  Hostile code can write anything here. */
struct child_note {
    uint64_t kind;
    uint64_t vector;
    uint64_t address;
    struct registers registers; /* CALL: what the System V ABI preserves; FAULT: rip */
};

/* To a child: begin, or go on behind the call. */
struct child_answer {
    uint64_t memory_accessible; /* linear memory is to be this long from now on */
    struct registers recovery;  /* after a fault: where to go on; rip 0: nowhere */
};

/* The zygote's whole life.  Called right after fork. */
_Noreturn void zygote_main(int socket);

/* What struct abi_block.gate is to be.  At one address in all children: they are forks. */
void process_gate(void);

#endif
