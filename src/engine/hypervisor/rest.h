/*
 * VMMs that are told what to do by HTTP over a unix socket (Firecracker, Cloud Hypervisor): what
 * their drivers share.
 *
 * The VMM makes its sockets in its scratch folder (launch.h); they are taken over, and then its
 * state is asked for.  While its machine is not started, what the plan says is told to it, one
 * request after the other.  Whoever finds the VMM again in the middle of it begins anew, or with
 * the last one, where the VMM says that its machine is made.
 *
 * What the VMM answers is input: a guest may have taken it over.  Loop thread; no callback comes
 * from inside a call of this door.
 */
#ifndef ENGINE_HYPERVISOR_REST_H
#define ENGINE_HYPERVISOR_REST_H

#include <jansson.h>

#include "engine/hypervisor/driver.h"

enum { REST_ANSWER_MAX = 1 << 20, REST_FILES_MAX = 4 };
#define REST_SOCKET "api.sock"

enum rest_state {
    REST_NOT_STARTED, /* what the plan says may be said, again too */
    REST_MADE,        /* all of the plan was taken but its last order */
    REST_RUNNING,
    REST_PAUSED,
};

struct rest_dialect {
    const char *status; /* path */
    /* Of what is answered to it (NULL: no JSON).  PROTOCOL. */
    int (*read_state)(int status, const json_t *answer, enum rest_state *ret_state,
                      struct error *err);
    /* The VMM's words in an answer that says no; NULL: there are none. */
    const char *(*read_fault)(const json_t *answer);
};

/* A driver's control of one VMM. */
struct rest;

/* driver->connect() and ->disconnect(). */
struct rest *rest_open(struct loop *loop, const char *folder, const struct rest_dialect *dialect,
                       const struct driver_events *events, void *context, struct error *err);
void rest_close(struct rest *rest);

/* `answer` is lent, and may be NULL. */
typedef void rest_done(const struct error *error, const json_t *answer, void *context);

/*
 * One request; `body` (NULL: none) is taken.  The error is the VMM's: CONFLICT with its words for
 * 4xx and 5xx, UNSUPPORTED for 404 and 405 of a path that it does not know, UNAVAILABLE, PROTOCOL.
 */
void rest_send(struct rest *rest, const char *method, const char *path, json_t *owned_body,
               rest_done *done, void *context);

/* The same for a driver's order that only wants to know whether it was done. */
void rest_order(struct rest *rest, const char *method, const char *path, json_t *owned_body,
                hypervisor_done done, void *context);

/* As rest_order(); the machine is paused, or not any more, when it was done. */
void rest_order_pause(struct rest *rest, bool is_paused, const char *method, const char *path,
                      json_t *owned_body, hypervisor_done done, void *context);

/*
 * Files of the scratch folder as one stream, and back: what these VMMs write a state into.  On a
 * thread of the pool; `names` (NULL at the end) are static.  Packing removes them.
 */
void rest_pack(struct rest *rest, const char *const *names, int owned_fd, hypervisor_done done,
               void *context);

/* `prepare` (may be NULL) is called there when they have come, with the folder that they are in, to
 * make them fit the machine that is to read them: `incoming`, of its launch (see launch.h). */
typedef int rest_prepare(const char *scratch, const json_t *incoming, struct error *err);
struct rest_unpacking {
    const char *const *names;
    int owned_fd;
    rest_prepare *prepare;
    json_t *incoming; /* lent; NULL: nothing */
};
void rest_unpack(struct rest *rest, const struct rest_unpacking *unpacking, hypervisor_done done,
                 void *context);

/* They were read, and go. */
void rest_forget(struct rest *rest, const char *const *names);

#endif
