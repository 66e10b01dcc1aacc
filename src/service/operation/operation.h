/*
 * Operations: long-running changes that can be looked at and waited for.
 *
 * Kept in the store (table `operation`), so that every node shows them and a restart does not
 * forget them.  Each is carried out by one node, which alone writes its progress and its end: every
 * such write expects the row to name this node still.  What was running when the node died is
 * marked failed ("interrupted by a restart of the node") when it comes back, or by the leader when
 * it does not; what another node goes on with instead is that one's from then on
 * (operation_adopt()).  Finished operations are kept for a day, at most 1,000.  Main loop thread.
 */
#ifndef SERVICE_OPERATION_OPERATION_H
#define SERVICE_OPERATION_OPERATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct buffer;
struct loop;
struct operation;
struct operation_service;
struct store;
struct store_command;

enum operation_state {
    OPERATION_PENDING,
    OPERATION_RUNNING,
    OPERATION_SUCCEEDED,
    OPERATION_FAILED,
    OPERATION_CANCELLED,
};

const char *operation_state_text(enum operation_state state);

int operation_service_new(struct loop *loop, struct store *store,
                          struct operation_service **ret_service, struct error *err);
void operation_service_free(struct operation_service *service);

enum { OPERATION_ID_SIZE = 33 };

/* What an operation is of: `kind` is like "function.deploy", `resource` like
 * "functions/hello/versions/3". */
struct operation_start {
    const char *kind;
    const char *project;
    const char *resource;
    const char *request;        /* the client's idempotency key, or NULL */
    const char *request_digest; /* of what it was a key of; NULL without one */
};

/*
 * Add an operation's beginning to a command, which changes what it is about as well: both are
 * there, or neither.  The command fails with EXISTS when the project has an operation of this
 * request.  When the command failed: operation_drop().
 */
void operation_add(struct operation_service *service, struct store_command *command,
                   const struct operation_start *start, char ret_id[OPERATION_ID_SIZE]);
void operation_drop(struct operation_service *service, const char *id);

/*
 * The end of the command that an operation was added to: it is dropped when the command failed, and
 * whoever asked is told the one or the other.  False: it failed.
 */
typedef void operation_begun(const struct error *error, const char *id, void *context);
bool operation_tell(struct operation_service *service, const char *id, const struct error *error,
                    operation_begun *begun, void *context);

enum { OPERATION_RESOURCE_SIZE = 192 };

/*
 * The operation that an earlier request with this key began: *ret_id is "" when there is none (any
 * more: see above).  Fails with INVALID when the key was one of something else (another digest).
 */
int operation_find(struct operation_service *service, const struct operation_start *start,
                   char ret_id[OPERATION_ID_SIZE], char ret_resource[OPERATION_RESOURCE_SIZE],
                   struct error *err);

/*
 * Go on here with what node `from` carried out and does no more: the command fails with CONFLICT
 * when it is over or another's by now.  When the command failed: operation_drop().
 */
void operation_adopt(struct operation_service *service, struct store_command *command,
                     const char *id, uint64_t from);

/* Progress is shown to people; not every step is written. */
void operation_progress(struct operation_service *service, const char *id, unsigned percent,
                        const char *text);

/* The end.  `result_json` (may be NULL) is kept with it. */
void operation_succeed(struct operation_service *service, const char *id, const char *result_json);
void operation_fail(struct operation_service *service, const char *id, const struct error *error);

/* Add the end to a command, which is undone with CONFLICT when the operation is not running here
 * any more: it was cancelled, or is another node's. */
void operation_add_success(struct operation_service *service, struct store_command *command,
                           const char *id, const char *result_json);

/* On the leader: node `id` does not carry out anything any more.  What it ran is failed with
 * `reason`, but for operations of `kind`, which somebody else takes care of (NULL: none). */
void operation_fail_all_of(struct operation_service *service, uint64_t node, const char *reason,
                           const char *kind);

/* Which node carries it out, or did; NOT_FOUND. */
int operation_node(struct operation_service *service, const char *id, uint64_t *ret_node,
                   struct error *err);

/* Ask for cancellation, at the node that carries it out: calls the function given by
 * operation_on_cancel(), CONFLICT when it is over, another node's or cannot be cancelled. */
int operation_cancel(struct operation_service *service, const char *id, struct error *err);
/* `cancel` is also called when another node goes on with the operation. */
void operation_on_cancel(struct operation_service *service, const char *id,
                         void (*cancel)(void *context), void *context);

/* The operation as JSON (type Operation); NOT_FOUND. */
int operation_write(struct operation_service *service, const char *id, struct buffer *out,
                    struct error *err);
int operation_write_list(struct operation_service *service, struct buffer *out, struct error *err);

/* Call `done` when it has ended, wherever, or after timeout_ms; on this loop.  Cancelled by the
 * handle. */
struct operation_wait;
struct operation_wait *operation_wait_new(struct operation_service *service, const char *id,
                                          uint64_t timeout_ms, void (*done)(void *context),
                                          void *context);
void operation_wait_free(struct operation_wait *wait);

#endif
