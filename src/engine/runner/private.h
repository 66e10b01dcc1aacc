/* Private to the room: the daemon's side of a runner, shared by runner.c (the process, its control
 * socket, its images) and call.c (slots and calls). */
#ifndef ENGINE_RUNNER_PRIVATE_H
#define ENGINE_RUNNER_PRIVATE_H

#include "base/buffer.h"
#include "base/list.h"
#include "base/loop/loop.h"

#include "engine/runner/protocol.h"
#include "engine/runner/runner.h"

struct runner_call {
    const struct runner_driver *driver; /* NULL: of this room; first, as in every call */
    struct runner *runner;
    unsigned slot;
    uint32_t sequence;
    struct runner_call_events events;
    void *context;
    struct buffer queue;    /* input that the socket did not take: length-prefixed frames */
    struct buffer replies;  /* the same, of answers: they go first */
    struct buffer question; /* what has come of it */
    uint32_t question_number;
    bool is_asking; /* a whole question waits for its answer: input is held back */
    bool wants_writable;
    bool paused;
    uint64_t answer_by_ms; /* of the loop's clock; 0: never */
};

struct slot {
    struct runner *runner;
    unsigned index;
    int fd;
    uv_poll_t poll;
    uint32_t sequence;
    struct runner_call *call;
};

struct runner {
    const struct runner_driver *driver; /* NULL: of this room; first, as in every runner */
    struct loop *loop;
    struct runner_events events;
    enum vmm_isolation isolation;
    pid_t pid; /* -1: none, or reaped */
    int control_fd;
    uv_poll_t control_poll;
    unsigned slot_count;
    struct slot slots[RUNNER_SLOTS_MAX];
    struct list loadings;
    struct list outbox; /* control messages the socket did not take */
    struct loop_timer *reaper;
    struct loop_timer *watchdog;
    uint64_t patience_ms;
    unsigned waited_ms;
    char jail[160];
    bool has_greeted;
    bool is_over;  /* the process is gone or given up */
    bool is_freed; /* by its owner: no more on_exit */
    bool is_told;  /* on_exit is running: not the moment to go */
    unsigned open_handles;
    uint8_t *frame; /* PROTOCOL_FRAME bytes: what is being read */
};

/* runner.c */

/* A runner whose process is somebody else's: the other ends of these sockets say what they like,
 * which is what tests of the protocol need.  All is as after runner_start(), but for the process.
 */
struct runner *runner_adopt(struct loop *loop, const struct runner_options *options,
                            const struct runner_events *events, int owned_control_fd,
                            const int *owned_slot_fds);

/* The process died by itself; it sent what no runner of ours sends.  Everything in flight fails. */
void runner_end_dead(struct runner *runner);
void runner_end_broken(struct runner *runner, const char *what);

/* In order; what does not go now goes when the socket can take it.  `fd` is duplicated if kept. */
void runner_post(struct runner *runner, const void *bytes, size_t length, int fd);

/* call.c */

/* Listen to what a slot's socket has to say now. */
void runner_slot_watch(struct slot *slot);

/* The end of a slot's call, if it runs one: exactly one of `error` and `result`. */
void runner_slot_finish(struct slot *slot, const struct error *error,
                        const struct runner_result *result);

#endif
