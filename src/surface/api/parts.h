/* Inside surface/api: one request on its way, and the tables of spec/. */
#ifndef SURFACE_API_PARTS_H
#define SURFACE_API_PARTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/text.h"

#include "service/cluster/caller.h"

#include "surface/api/api.h"

enum {
    API_PARAMETERS_MAX = 2,
    API_PARAMETER_SIZE = 520,
    API_BODY_MAX = 1 << 20,
    API_REQUEST_ID_SIZE = 65,
};

struct api {
    struct api_options options;
    char *node_name;
    char *gateway_address;
    char *data_folder;
    char *isolation_reason;
    char *own_host; /* what was configured, as a Host */
    char *not_ready;
    uint64_t started_ms;
    struct http_server *server;
    uint16_t port;
    struct list requests;
    struct store_watch *rights; /* rows of clients and nodes */
    struct loop_timer *recheck;
    struct manifest_service *manifests; /* which asks this very API */
    bool stopping;
    bool drained;
    bool gives_up;
};

struct request {
    struct list_node link;
    struct api *api;
    struct http_exchange *exchange;
    int status; /* of success */
    struct caller caller;
    char id[API_REQUEST_ID_SIZE];
    char project[64];
    char parameters[API_PARAMETERS_MAX][API_PARAMETER_SIZE]; /* of the path, decoded, in order */
    void (*handle)(struct request *request);                 /* of its route */
    bool is_current;    /* handled again: see api_looks_again() */
    uint64_t passed_to; /* the node */
    /* What to do when that is lost and does not answer is added to the error; may be NULL. */
    void (*explain_lost)(struct request *request, struct error *err);
    /* Where the state tells enough: answers in place of a node that does not; may be NULL. */
    void (*answer_without)(struct request *request, const struct error *silence);
    void (*stop)(struct request *request); /* the API ends: finish soon; may be NULL */
    void *state;
};

/* ---- routes.c ---- */

struct api_route {
    const char *id;
    const char *path;
    const char *permission;
    const char *request;
    const char *reply;
    const char *summary;
    void (*handle)(struct request *request);
    enum http_method method;
    int status;
};

size_t api_route_count(void);
const struct api_route *api_route_at(size_t index);

struct api_match {
    const struct api_route *route;              /* NULL: see allowed */
    unsigned allowed;                           /* bits by enum http_method; 0: no such path */
    struct text parameters[API_PARAMETERS_MAX]; /* as sent */
};
void api_route_match(enum http_method method, struct text path, struct api_match *ret_match);
const char *api_route_nearest(const char *path);

#define OPERATION(id, method, path, permission, body, reply, status, summary) \
    void api_##id(struct request *request);
#include "operations.def"
#undef OPERATION

/* ---- query.c ---- */

enum api_query_kind {
    API_QUERY_NODE,
    API_QUERY_NAME,
    API_QUERY_TEXT,
    API_QUERY_LONG,
    API_QUERY_WHOLE,
    API_QUERY_FLAG,
    API_QUERY_DURATION,
    API_QUERY_OTHERS,
};

struct api_query {
    const char *operation;
    const char *name;
    enum api_query_kind kind;
    const char *text; /* what it means, for people */
};

/* What an operation knows, one by one; `place` is 0 at first.  NULL: that was all. */
const struct api_query *api_query_next(const struct api_route *route, size_t *place);
/* ?node=NAME passes it on to that node. */
bool api_query_passes(const struct api_route *route);
/* Is the query what the operation knows, each value of its kind?  INVALID.  Other paths than those
 * below /v1 pass over what they do not know. */
int api_query_check(const struct request *request, const struct api_route *route,
                    struct error *err);
/* Of what was checked so, a FLAG, a WHOLE, a DURATION; absent: `otherwise`. */
bool api_query_flag(const struct request *request, const char *name, bool otherwise);
uint64_t api_query_u64(const struct request *request, const char *name, uint64_t otherwise);
uint64_t api_query_ms(const struct request *request, const char *name, uint64_t otherwise);

/* ---- types.c ---- */

/* Is `value` a `type` of spec/types.def, with all that is in it?  INVALID names the place
 * ($.rules[3].peer). */
int api_type_check(const json_t *value, const char *type, struct error *err);
/* Is it one, as a program of any version writes it?  Then what is not known in it is no error. */
int api_type_check_message(const json_t *value, const char *type, struct error *err);

/* ---- access.c ---- */
bool api_address_is_loopback(const char *address);
/* Host and Origin as sent (empty: absent); `own_host` may be NULL.  DENIED. */
int api_access_check(struct text host, struct text origin, const char *own_host, struct error *err);
/* Before anything else is looked at: may such a request be made at all?  DENIED. */
int api_access_begin(const struct request *request, struct error *err);
/* Who asks (request->caller), and may it?  DENIED, UNAUTHENTICATED.  Every operation passes here.
 */
int api_access_judge(struct request *request, const char *permission, struct error *err);
/* Who was revoked meanwhile hears no more of what it asked for: streams and waits end. */
void api_access_recheck(struct api *api);

/* ---- body.c ---- */

/* Read a body of a type of spec/types.def, then `handle`; or answer what is wrong with it. */
void api_body_read(struct request *request, const char *type,
                   void (*handle)(struct request *request, const json_t *body));
/* The same; `too_large` (static) is said of a body beyond the bound of all. */
void api_body_read_saying(struct request *request, const char *type, const char *too_large,
                          void (*handle)(struct request *request, const json_t *body));
/* The same for a body that another program has written by itself, not a person: a node or a client
 * of a newer Blixard may say more than this one knows. */
void api_message_read(struct request *request, const char *type,
                      void (*handle)(struct request *request, const json_t *body));
const char *api_body_text(const json_t *body, const char *key); /* NULL: absent or null */
/* 0 when absent. */
int api_body_duration(const json_t *body, const char *key, uint64_t *ret_ms, struct error *err);

/* ---- bytes.c: bodies of messages ---- */
/* The field `body`, or `body_base64` where it is no text. */
void api_write_bytes(struct json_writer *writer, const void *bytes, size_t length);
/* One of them, or none; appended.  INVALID. */
int api_take_bytes(const json_t *value, struct buffer *ret_bytes, struct error *err);

/* ---- blob.c ---- */
/* Answer with that file, or the part of it that was asked for. */
void api_blob_send(struct request *request, int owned_fd, uint64_t size);

/* ---- pass.c: requests that are another node's ---- */
/* Another node has sent it on: it is answered here, or refused. */
bool api_is_passed_on(const struct request *request);
void api_pass_on(struct request *request, uint64_t node);
/* UNAVAILABLE: node `name` is lost, and since when, or is none any more. */
int api_check_reach(const struct api *api, const char *name, struct error *err);
/* True: ?node= names another node, or none, and the request is answered by pass.c. */
bool api_pass_to_named(struct request *request, const struct api_route *route);
/* Another node believes that what the request names is here, and it is not, or not yet: its handler
 * is called once more when all that was acknowledged before is here.  False: that has been done, or
 * nobody has passed it on. */
bool api_looks_again(struct request *request);
/* The same of a node that something is on; false: it is this one.  Handlers ask before they do
 * anything else, since they may be called again. */
bool api_pass_to_node(struct request *request, const char *name);

/* ---- pieces.c: answers that are made while they are sent ---- */
struct api_pieces {
    /* On another thread, one at a time: append the next piece.  1: there is more. */
    int (*step)(void *context, struct buffer *out, struct error *err);
    void (*end)(void *context); /* once, on the loop */
    void *context;
    const char *type; /* NULL: the head has been begun */
    const char *file_name;
    const char *what; /* of a literal: for the log */
};
void api_pieces_send(struct request *request, const struct api_pieces *pieces);

/* ---- upload.c ---- */
/* The body becomes a blob of at most `most` bytes; answered with its name.  With `replicas` it is
 * kept for whoever is about to name it (replica_expect()). */
void api_blob_upload(struct request *request, uint64_t most, const char *what,
                     struct replica_service *replicas);

/* ---- machine.c ---- */
/* The machine of the path is another node's, or there is none: the request is answered elsewhere.
 */
bool api_machine_is_elsewhere(struct request *request);
/* Several machines, each with an operation of its own; the context is the request. */
void api_answer_machines_begun(const struct error *error, const char *const *names,
                               const char *const *operations, size_t count, void *request);
/* At its node: `then` when its agent answers, or will not; at once where that is known. */
void api_machine_with_agent(struct request *request, void (*then)(struct request *request));

/* ---- answer.c: each ends the request ---- */
void api_answer_json(struct request *request, int status, struct buffer *body);
void api_answer_text(struct request *request, int status, const char *type, const char *text);
void api_answer_object(const json_t *object, void *request); /* lent */
void api_answer_nothing(struct request *request);
/* The end of a change whose answer has no body; the context is the request. */
void api_answer_done(const struct error *error_or_null, uint64_t index, void *request);
/* The end of a change that an operation goes on with: {"name", "operation"}, or without the name
 * where it has none.  The context is what api_begin() gave, and goes with it. */
struct beginning;
struct beginning *api_begin(struct request *request, const char *name_or_null);
void api_answer_begun(const struct error *error_or_null, const char *operation, void *beginning);
void api_answer_error(struct request *request, const struct error *error);
void api_answer_written(struct request *request, int r, struct buffer *body, struct error *err);
void api_add_fields(struct request *request);
void api_request_end(struct request *request);

/* ---- read.c: ?index=N&wait=60s and ?consistency=linearizable, then `handle` ---- */
void api_read_begin(struct request *request, void (*handle)(struct request *request));

/* May reads of this route wait?  Those of the state, but for the ones that wait by themselves. */
bool api_route_waits(const struct api_route *route);

/* ---- stream.c: server-sent events ---- */
struct stream;
struct stream *api_stream_begin(struct request *request, void (*on_end)(void *context),
                                void *context);
/* False: the reader is gone or too slow; the stream ends by itself soon. */
bool api_stream_send(struct stream *stream, const char *event_or_null, const char *id_or_null,
                     const char *data);

/* ---- openapi.c ---- */
void api_write_openapi(struct buffer *out);

#endif
