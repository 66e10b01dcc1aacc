/* Private to the room: the connection (agent.c), calls and their streams (call.c), what requests
 * and answers look like (request.c, answer.c).
 *
 * Nothing is freed while somebody may be standing on it: an agent or a call that is over is freed
 * by a post, behind every post that was made for it before. */
#ifndef ENGINE_AGENT_PRIVATE_H
#define ENGINE_AGENT_PRIVATE_H

#include "base/buffer.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/stream/stream.h"

#include "engine/agent/agent.h"

enum agent_state {
    AGENT_CONNECTING, /* or waiting to try again */
    AGENT_GREETING,   /* connected to a hybrid vsock, which has not said OK yet */
    AGENT_RESETTING,  /* RESET was sent, HELLO has not come */
    AGENT_UP,
};

struct agent {
    struct loop *loop;
    struct agent_events events;
    void *context;
    char *address; /* "unix:PATH" */
    uint32_t vsock_port;
    uint64_t first_retry_ms;
    uint64_t retry_ms;
    struct loop_timer *retry; /* to connect, or to begin a session, again */
    struct stream_dial *dial;
    struct stream *stream;
    enum agent_state state;
    bool is_closed;
    struct buffer greeting;
    struct agent_receiver receiver;
    uint64_t nonce;
    bool is_awaited;          /* its answer, though the guest has begun anew since it was sent */
    uint64_t patience_ms;     /* until a RESET that is not answered is repeated */
    uint64_t resets_since_ms; /* these two: not too many sessions */
    unsigned resets;
    uint32_t last_id;
    struct list calls;
    struct list failing; /* calls that are about to be told */
    struct agent_info info;
};

struct agent_flow {
    uint64_t window; /* what the guest may still send */
    uint64_t credit; /* consumed, and not given back yet */
    bool has_ended;
    bool is_end_told;
    struct buffer held; /* while the call is paused */
};

struct agent_call {
    struct list_node link;
    struct agent *agent;
    uint32_t id;
    enum agent_operation operation;
    char what[160]; /* "exec /bin/true", for errors */
    struct agent_call_events events;
    agent_done *done;
    void *context;
    struct loop_timer *timer;
    uint64_t began_ns;
    bool is_over;
    bool is_cancelled;
    bool is_late; /* cancelled because its time was over */
    bool is_paused;
    bool is_posted;     /* an on_posted() is on its way */
    struct error early; /* it could not even begin */

    /* IN */
    bool has_input;
    bool is_input_finished;
    bool is_input_over; /* END was sent, or the guest wants no more */
    bool wants_writable;
    uint64_t window; /* what we may still send */
    struct buffer queue;

    struct agent_flow flows[AGENT_STREAMS]; /* OUT and ERR */
    bool has_answer;                        /* which waits for what is held to be taken */
    struct buffer answer;
};

/* agent.c */

/* Send a frame of an agent that is up, or is being reset. */
void agent_send(struct agent *agent, enum agent_frame_type type, enum agent_stream stream,
                uint16_t operation, uint32_t id, const void *payload, size_t length);

/* The guest has said what no agent of ours says: the session is over, and the connection. */
void agent_break(struct agent *agent, const char *what);

/* call.c */

struct agent_call_terms {
    enum agent_operation operation;
    uint64_t timeout_ms; /* 0: none */
    bool has_input;
    const struct agent_call_events *events; /* or */
    agent_done *done;
    void *context;
};

/* A call with this body, which is sent at once if the agent is up.  `early`: why it cannot be, or
 * NULL.  `what` names it in errors. */
struct agent_call *agent_call_begin(struct agent *agent, const struct agent_call_terms *terms,
                                    const struct buffer *body, const struct error *early,
                                    const char *what, ...) __attribute__((format(printf, 5, 6)));

/* A frame about a call. */
void agent_call_take(struct agent *agent, const struct agent_frame *frame);

/* All end with a copy of this error. */
void agent_calls_fail(struct agent *agent, const struct error *error);

/* The socket has taken what there was: those that have input go on. */
void agent_calls_go_on(struct agent *agent);

/* answer.c; all of them are bounded and set every part of what they return. */

/* A text of the guest's, cut to fit, without what a terminal would obey. */
void agent_read_text(const struct agent_field *field, char *ret_text, size_t size);

/* False: that is no HELLO. */
bool agent_read_info(struct agent_reader reader, struct agent_info *ret_info, uint64_t *ret_nonce);
bool agent_read_event(struct agent_reader reader, struct agent_event *ret_event);
bool agent_read_stat(struct agent_reader reader, struct agent_stat *ret_stat);
bool agent_read_metrics(struct agent_reader reader, struct agent_metrics *ret_metrics);

/* An answer: 0 and the plain parts of *ret_result, or the guest's error, or PROTOCOL. */
int agent_read_answer(struct agent_reader reader, struct agent_result *ret_result,
                      struct error *err);

#endif
