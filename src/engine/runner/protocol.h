/*
 * What daemon and runner say to each other.
 *
 * Both ends are of one build on one machine: frames are structs as they lie in memory, and the
 * first message checks that the builds agree.  All sockets are SOCK_SEQPACKET, so a frame is a
 * message.
 *
 *   control   daemon: LOAD (+ one file descriptor), UNLOAD, CANCEL      runner: HELLO, LOADED
 *   slot      daemon: WARM, INVOKE, INPUT, INPUT_END, HOST_REPLY, WAKE
 *             runner: OUTPUT, LOG, HOST, END
 *
 * Every frame of a call carries its sequence number; frames of earlier calls are dropped.  A call
 * with little input and output is one frame each way: INVOKE with the input, END with the output.
 *
 * A question of a function (HOST) and its answer (HOST_REPLY) are as many frames as they need; a
 * call has at most one question open, and gets no INPUT meanwhile.  WAKE goes with CANCEL, to a
 * slot that may be waiting on its socket.
 *
 * Everything a runner says is input to the daemon: lengths are checked against the message.
 */
#ifndef ENGINE_RUNNER_PROTOCOL_H
#define ENGINE_RUNNER_PROTOCOL_H

#include <stdint.h>

#include "base/hash.h"

#include "engine/runner/runner.h"

enum {
    PROTOCOL_VERSION = 2,
    PROTOCOL_PIECE = 65536, /* most input, output or log in one frame */
    PROTOCOL_FRAME = 2 * PROTOCOL_PIECE + 4096,
    PROTOCOL_SOCKET_BUFFER = 1 << 20,
    /* Where the runner finds its inherited descriptors. */
    PROTOCOL_CONTROL_FD = 3,
    PROTOCOL_KVM_FD = 4, /* /dev/null when there is none */
    PROTOCOL_SLOT_FD = 5,
};

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_LOAD,
    FRAME_UNLOAD,
    FRAME_LOADED,
    FRAME_CANCEL,
    FRAME_INVOKE,
    FRAME_INPUT,
    FRAME_INPUT_END,
    FRAME_OUTPUT,
    FRAME_LOG,
    FRAME_END,
    FRAME_WARM,
    FRAME_HOST,
    FRAME_HOST_REPLY,
    FRAME_WAKE,
};

struct frame {
    uint32_t type;
    uint32_t sequence;
};

struct frame_hello {
    struct frame frame;
    uint32_t version;
    uint32_t size; /* of struct frame_end: tells builds apart */
    uint32_t jail; /* JAIL_* achieved */
};

struct frame_load {
    struct frame frame;
    char image_id[HASH_TEXT_SIZE];
    struct vmm_limits limits;
};

struct frame_unload {
    struct frame frame;
    char image_id[HASH_TEXT_SIZE];
};

/* Followed by `log_length` bytes. */
struct frame_loaded {
    struct frame frame;
    char image_id[HASH_TEXT_SIZE];
    struct error error; /* kind NONE: loaded */
    struct vmm_image_info info;
    uint32_t log_length;
};

struct frame_cancel {
    struct frame frame;
    uint32_t slot;
};

/* Followed by the environment, then the first part of the input. */
struct frame_invoke {
    struct frame frame;
    char image_id[HASH_TEXT_SIZE];
    uint64_t timeout_ms;
    uint32_t environment_length;
    uint32_t input_length;
    uint32_t input_continues;
    uint32_t keeps_memory;
    uint32_t is_last;
};

/* No answer comes. */
struct frame_warm {
    struct frame frame;
    char image_id[HASH_TEXT_SIZE]; /* "": hold nothing */
};

/* Followed by a piece of the question, or of its answer. */
struct frame_host {
    struct frame frame;
    uint32_t number; /* of the question, in this call */
    uint32_t length; /* of all pieces */
};

/* Followed by output, then log. */
struct frame_end {
    struct frame frame;
    struct runner_result result;
    uint32_t output_length;
    uint32_t log_length;
};

#endif
