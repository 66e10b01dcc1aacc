/* Private to the room: the runner's own side, shared by serve.c (slots, images, control) and
 * serve_host.c (questions of functions). */
#ifndef ENGINE_RUNNER_SERVE_H
#define ENGINE_RUNNER_SERVE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/uio.h>

#include "base/buffer.h"
#include "base/map.h"

#include "engine/runner/protocol.h"

struct slot {
    struct server *server;
    unsigned index;
    int fd;
    pthread_t thread;
    struct vmm_shell *shell;
    struct vmm_image *image; /* what the shell holds; a reference */
    uint64_t reset_ns;       /* of the last reset */
    uint64_t reset_pages;
    bool is_awake; /* its shell has not rested since the last call */

    pthread_mutex_t lock;      /* guards the next three */
    uint32_t sequence;         /* of the running call; 0: none */
    uint32_t cancel_sequence;  /* of the last cancellation, which may come before its call */
    struct vmm_shell *running; /* what a cancellation interrupts */
    atomic_bool cancelled;

    /* The running call. */
    const struct frame_invoke *invoke;
    bool input_ended;
    size_t piece_used; /* of `piece`, already given to the guest */
    size_t piece_length;
    size_t output_length;
    size_t log_length;
    uint8_t *received;   /* PROTOCOL_FRAME bytes: the INVOKE */
    uint8_t *piece;      /* PROTOCOL_FRAME bytes: one INPUT */
    uint8_t *heard;      /* PROTOCOL_FRAME bytes: what came while an answer was awaited */
    struct buffer early; /* INPUT among that: u32 length, frame, each */
    uint32_t question_number;
    uint8_t *answer; /* struct frame_end, then PROTOCOL_PIECE of output */
    uint8_t *log;    /* PROTOCOL_PIECE */
};

struct server {
    struct vmm *vmm;
    unsigned slot_count;
    struct slot slots[RUNNER_SLOTS_MAX];
    pthread_mutex_t lock; /* guards images, and sending on the control socket */
    struct map images;    /* id -> struct vmm_image, a reference */
};

/* The daemon is gone, or the socket says nonsense: there is nothing left to live for. */
void leave(int status) __attribute__((noreturn));

/* Whole messages; a signal (the watchdog's) breaks it off with EINTR. */
ssize_t send_frame(int fd, const struct iovec *parts, size_t count);

/* Send what was collected; false: the call ends. */
bool flush_piece(struct slot *slot, enum frame_type type, const uint8_t *bytes, size_t *length);

/* vmm_call.host: pass a question to the daemon and wait for its answer. */
int serve_host(const void *request, size_t length, uint64_t deadline_ns, struct buffer *reply,
               void *context);

/* The running call is: cancelled, or late. */
bool serve_host_is_over(struct slot *slot, uint64_t deadline_ns);
/* Until there is something to hear from the daemon, a signal comes, or it is late. */
void serve_host_wait(const struct slot *slot, uint64_t deadline_ns);

/* Input that came while an answer was awaited becomes the slot's piece; false: there is none. */
bool serve_host_took(struct slot *slot);

#endif
