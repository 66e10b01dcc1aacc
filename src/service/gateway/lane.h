/*
 * A lane: one loop of the gateway with its server and the calls that live on it.  Private to the
 * room.
 *
 * A call lives from gateway_serve() until three things are over: the request's body (reading), the
 * function's run (running) and the answer (answering).  They end in any order.
 */
#ifndef SERVICE_GATEWAY_LANE_H
#define SERVICE_GATEWAY_LANE_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"
#include "base/stream/secure.h"

#include "service/function/function.h"
#include "service/gateway/cache.h"
#include "service/gateway/cgi.h"
#include "service/gateway/gateway.h"
#include "service/gateway/relay.h"
#include "service/gateway/websocket.h"
#include "service/peer/peer.h"
#include "service/route/route.h"
#include "service/telemetry/telemetry.h"
#include "service/telemetry/trace.h"

enum {
    GATEWAY_REQUEST_ID_MAX = 128,
    GATEWAY_COLLECT_BYTES_MAX = 65536, /* a body up to this is given to the function in one piece */
    GATEWAY_HOLD_BYTES_MAX = 65536,    /* output beyond this goes out before its end is known */
    GATEWAY_HOLD_MS = 2,               /* and so does output that is older */
    GATEWAY_CALLS_KEPT_MAX = 256,
    GATEWAY_CANCEL_MS = 2000, /* a cancelled call ends within this */
    GATEWAY_REQUEST_FIELDS_MAX = 256,
    GATEWAY_NODE_NAME_SIZE = 256,
    GATEWAY_CLIENT_SIZE = 80,
    FORWARD_TRIES_MAX = 2,
    FORWARD_GRACE_MS = 1000, /* the node tells of a timeout itself, if it can */
    GATEWAY_DEADLINE_MAX_MS = 24 * 60 * 60 * 1000,
};

struct lane {
    struct gateway *gateway;
    struct loop *loop;
    struct http_server *server;
    struct peer_clients *peers;
    struct list free_calls;
    unsigned free_call_count;
    unsigned live;    /* calls */
    struct list held; /* calls with output that waits for its end */
    struct loop_timer *hold_timer;
    bool hold_timer_runs;
    struct list websockets;
    struct list passed;        /* WebSockets that other nodes run */
    struct deflater *deflater; /* of all of them; NULL: not needed yet */
    struct loop_timer *websocket_timer;
    uint64_t id_seeds[2]; /* random: request ids do not meet those of other lanes and starts */
    uint64_t id_count;
    bool is_closing; /* its server is gone; the last call reports it */
};

struct gateway {
    struct gateway_options options;
    struct loop *loop; /* the instances' */
    char *address;
    char *node_name; /* or NULL */
    uint16_t port;
    struct secure *secure; /* NULL: no HTTPS */
    uint16_t tls_port;
    unsigned lane_count;
    unsigned lanes_open; /* while stopping, as the next two */
    uint64_t drain_timeout_ms;
    const char *isolation;             /* for X-Blixard-Isolation */
    struct cluster_listener *listener; /* or NULL */
    _Atomic bool passes_on; /* this node takes nothing new: calls go to others that can run them */
    bool gives_up;
    gateway_take_later *take_later;
    void *later_context;
    struct response_cache *cache;
    struct lane *lanes; /* the first one on the instances' loop */
};

/* What is to be told of a call when it is over: its span, and those below it. */
struct call_trace {
    struct trace_span span;
    struct trace_context inner; /* what runs the call is told to be below this one */
    uint64_t asked_ns;          /* when the function was asked to run; 0: it was not */
    bool has_parent;            /* the client was in a trace already */
    bool has_result;
    bool is_cold;
    uint64_t queue_ns;
    uint64_t attach_ns;
    uint64_t run_ns;
    int status;   /* of the answer; 0: not known */
    char end[24]; /* "ok", "trap", ... */
};

enum head_state { HEAD_UNKNOWN, HEAD_FOUND, HEAD_ABSENT };

struct call {
    struct list_node link;      /* in the lane's free_calls */
    struct list_node held_link; /* in the lane's held */
    struct lane *lane;
    struct http_exchange *exchange;
    struct instance_target *target; /* NULL until it is found */
    struct relay relay;
    size_t script_length;                /* of the path: the rest is PATH_INFO */
    struct http_route *route;            /* that led here, or NULL: a reference */
    char pattern[PATTERN_BYTES_MAX + 1]; /* of the route, also one of a hop; or "" */
    struct gateway_caller caller;
    bool is_secure;                   /* the client speaks HTTPS */
    bool is_hop;                      /* another node passed it on */
    char client[GATEWAY_CLIENT_SIZE]; /* of a hop: who asked that node; or "" */
    uint64_t deadline_ms;             /* on the loop's clock; 0: none but the function's own */

    struct websocket *websocket; /* what is asked for, and given; or NULL */
    bool is_websocket;           /* it is to be one, and this was agreed upon: */
    struct websocket_terms terms;
    struct list_node passed_link; /* in the lane's passed */

    /* On its way to another node. */
    struct peer_pass *pass;
    struct function_holders holders;
    char function[128]; /* NAME:VERSION */
    char project[64];
    unsigned tries;
    uint64_t passed_to;
    uint64_t passed_ns;

    bool is_reading;         /* the request's body has not ended */
    bool streams;            /* the function is to run before the body is there */
    bool is_started;         /* the function was asked to run */
    bool is_running;         /* and has not ended */
    bool is_related;         /* and something may still refer to the relay */
    bool is_answering;       /* the answer has not ended */
    bool is_streaming;       /* its head is out */
    bool discards;           /* the rest of the body is of no interest */
    bool is_head;            /* the method is HEAD */
    struct error body_error; /* kind NONE: none */

    struct buffer environment;
    struct buffer input;
    struct buffer output; /* what has not gone out yet */
    enum head_state head_state;
    struct cgi_head head; /* points into output */
    uint64_t body_sent;
    uint64_t started_ns;
    struct call_trace trace;
    uint64_t held_ms;
    char request_id[GATEWAY_REQUEST_ID_MAX + 1];
};

struct call *lane_take_call(struct lane *lane);
void lane_give_back_call(struct call *call);

/* Empty a buffer, and keep its memory if that is not much. */
void call_forget_bytes(struct buffer *buffer);

/* A request id that was never before. */
void lane_make_id(struct lane *lane, char ret_id[GATEWAY_REQUEST_ID_MAX + 1]);

/* One call less; the last one of a lane whose server has gone reports it. */
void lane_leave(struct lane *lane);

/* A number that nobody can foretell. */
uint64_t lane_random(struct lane *lane);

/* Let go what is over. */
void call_settle(struct call *call);

/* Run the function with the input collected so far; when it cannot be, the call is answered. */
void call_begin_run(struct call *call, bool input_continues);

/* Its target is here; it was to be passed on, and no other node took it. */
void call_run_after_all(struct call *call);

/* Read the body of the request, for the function. */
void call_read(struct call *call);

/* Milliseconds that are left; UINT64_MAX: no deadline was set. */
uint64_t call_time_left(const struct call *call);

/* The lane's last call has gone after its server. */
void lane_report_closed(struct lane *lane);

/* Serve a request as a call of a route, both of which are taken. */
void call_serve_route(struct gateway *gateway, struct http_exchange *owned_exchange,
                      struct http_route *owned_route, const struct gateway_caller *caller);

/* routed.c: true when the request is a route's, and was taken. */
bool routed_serve(struct gateway *gateway, struct http_exchange *exchange);
void routed_add_cors(struct http_exchange *exchange, const struct http_route *route);
/* Is it a field that the route says in place of the function? */
bool routed_is_cors(const struct http_route *route, struct text name);

/* answer.c: what the function writes, and how it ended, as an HTTP answer. */
void answer_own_fields(struct call *call);
/* Into the function's own log, where its author looks. */
void answer_log_failure(const struct call *call, const char *text);
void answer_output(struct call *call, const void *bytes, size_t length);
void answer_flush_held(struct call *call);
void answer_end(struct call *call, const struct error *error, const struct instance_result *result);
void answer_error(struct call *call, const struct error *error,
                  const struct instance_result *result_or_null);

/* traced.c: the request as a span, and what it waited for as spans below it. */
void traced_begin(struct call *call);
/* How a run ended ("ok", "trap", ...), for the metrics, too; `result` NULL: there was none. */
void traced_note_run(struct telemetry *telemetry, struct call_trace *trace,
                     const struct instance_target *target, enum telemetry_trigger trigger,
                     const char *end, const struct instance_result *result);
/* The spans below it of a run that has a result: in the queue, a cold start, running. */
void traced_write_parts(struct telemetry *telemetry, const struct call_trace *trace);
void traced_note_status(struct call *call, int status);
/* It was, or should have been, answered with `error`. */
void traced_note_error(struct call *call, const struct error *error);
/* Another node had it, from `started_ns` until now; NULL: it answered. */
void traced_forwarded(struct call *call, uint64_t node, uint64_t started_ns,
                      const struct error *error_or_null);
void traced_end(struct call *call);

/* Why a run that ended badly is no answer (*err stays as it was: it is one); the word for the
 * metrics. */
const char *answer_judge_run(const struct instance_target *target, const struct runner_result *run,
                             bool has_output, struct error *err);
/* Why a call did not run, as the gateway says it. */
void answer_take_instance_error(const struct error *error, struct error *err);

/* Are calls of this function, which can run here, for others: because this node takes nothing new,
 * or has many calls waiting while they have none?  Those are written to ret_holders. */
bool forward_is_for_others(struct lane *lane, const char *project, struct text name,
                           struct function_holders *ret_holders);
/* forward.c: to one of call->holders, which are tried in turn; the exchange is the pass's until it
 * has ended.  call->function and call->project say what is asked for. */
void forward_begin(struct call *call);
/* One of those that are left, which is taken out of them; 0: none. */
uint64_t forward_take_node(struct lane *lane, struct function_holders *holders);
/* Of the node with that name; false: there is none. */
bool forward_find_node(const struct gateway *gateway, const char *name, uint64_t *ret_node,
                       bool *ret_is_self);
/* This node's name, or "". */
void forward_own_name(const struct gateway *gateway, char ret_name[GATEWAY_NODE_NAME_SIZE]);

#endif
