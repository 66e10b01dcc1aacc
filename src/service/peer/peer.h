/*
 * Speaking to other nodes: clients that are kept, exchanges that are passed on, blobs that are
 * fetched.
 *
 * All goes to a node's API over its TLS listener, as this node.  What other nodes answer is input:
 * bounded, and a blob is believed by its digest alone.  Everything is called on the loop that the
 * clients were made for, and no callback comes from inside a call of this door.
 */
#ifndef SERVICE_PEER_PEER_H
#define SERVICE_PEER_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

struct buffer;
struct cluster;
struct cluster_view;
struct error;
struct http_call;
struct http_exchange;
struct image_store;
struct loop;

/* ---- Clients: one per node, kept ---- */

struct peer_clients;

/* `cluster` NULL: there are no other nodes. */
struct peer_clients *peer_clients_new(struct loop *loop, struct cluster *cluster);

/* What is under way ends with CANCELLED first; the blobs and passes that use them are gone. */
void peer_clients_free(struct peer_clients *clients);

/* The nodes as they are now (never NULL); the caller ends it with cluster_view_unref().  `clients`
 * of a node without a cluster: NULL is returned. */
struct cluster_view *peer_view(const struct peer_clients *clients);

/* Calls under way to a node, of these clients. */
unsigned peer_calls_of(const struct peer_clients *clients, uint64_t node);

/*
 * Call a node; `done` gets the whole answer, lent, at most `answer_bytes_max` of it (TOO_LARGE), or
 * why there is none.  An answer that is no success is no error: see its status.
 */
struct peer_request {
    uint64_t node;
    const char *method;
    const char *target;
    const void *body; /* copied */
    size_t body_length;
    size_t answer_bytes_max;
    uint64_t timeout_ms;       /* for all of it */
    const char *const *fields; /* "Name: value" lines, NULL at the end; copied; or NULL */
    /* The head of the answer, whose fields may be read; `context` is that of `done`.  Or NULL. */
    void (*on_head)(struct http_call *http, int status, void *context);
};
struct peer_call;
struct peer_call *peer_call_new(struct peer_clients *clients, const struct peer_request *request,
                                void (*done)(const struct error *error, int status,
                                             struct buffer *answer, void *context),
                                void *context);
/* In `done`: false, no node has seen anything of it. */
bool peer_call_was_sent(const struct peer_call *call);
void peer_call_free(struct peer_call *call); /* before `done`, which is not called then */

/* ---- Passing an exchange on ---- */

/* Fields that nodes say to each other; those that a client sends are not passed on. */
#define PEER_FIELD_OURS      "X-Blixard-"          /* all begin so */
#define PEER_FIELD_HOP       "X-Blixard-Hop"       /* "1": from a node; "2": passed on twice */
#define PEER_FIELD_FUNCTION  "X-Blixard-Function"  /* PROJECT/NAME[:VERSION] */
#define PEER_FIELD_SCRIPT    "X-Blixard-Script"    /* bytes of the path that led to it */
#define PEER_FIELD_HOST      "X-Blixard-Host"      /* Host, as the client sent it */
#define PEER_FIELD_PATTERN   "X-Blixard-Pattern"   /* path of the route that led to it */
#define PEER_FIELD_USER      "X-Blixard-User"      /* client whose token it showed */
#define PEER_FIELD_STREAMS   "X-Blixard-Streams"   /* the function runs before the body is there */
#define PEER_FIELD_SCHEME    "X-Blixard-Scheme"    /* "https": so the client spoke to that node */
#define PEER_FIELD_WEBSOCKET "X-Blixard-Websocket" /* what was agreed upon, see gateway */
#define PEER_FIELD_SUBJECT                                                 \
    "X-Blixard-Subject" /* of the client's certificate, which was believed \
                         */
#define PEER_FIELD_FINGERPRINT "X-Blixard-Fingerprint" /* its SHA-256 */
#define PEER_FIELD_CLIENT      "X-Blixard-Client"      /* HOST:PORT of the client */
#define PEER_FIELD_DEADLINE    "X-Blixard-Deadline-Ms" /* milliseconds that are left */
#define PEER_FIELD_REFUSED     "X-Blixard-Refused"     /* of an answer: nothing was run */
#define PEER_FIELD_FAILED      "X-Blixard-Failed" /* of an answer: not a function's; error kind */
#define PEER_FIELD_NODE        "X-Blixard-Node"   /* of an answer: the name of who gave it */

/* Is it one of those (but PEER_FIELD_NODE)? */
bool peer_field_is_ours(struct text name);

struct peer_passing {
    uint64_t node;
    const char *target; /* path and query */
    const char *const
        *fields;         /* "Name: value", NULL at the end, in place of the client's; or NULL */
    uint64_t timeout_ms; /* until the head of the answer; 0: none */
    const char *upgrade; /* the exchange becomes such a connection when the node answers 200, and
                          * its bytes are the bodies of a POST; NULL: it is a request */
    bool takes_refusal;  /* an answer with PEER_FIELD_REFUSED is an end, not the answer */
};

struct peer_pass_events {
    /* The head is about to go out: add fields of one's own.  May be NULL. */
    void (*on_head)(int status, void *context);
    /*
     * Once, last.  NULL: it was answered.  Otherwise, when the exchange has not begun, the owner
     * answers it, or passes it on to another node where `is_untouched`: no function has seen the
     * request, and its body is still to be read.  One that had begun was broken off.  CANCELLED:
     * the client is gone.
     */
    void (*on_end)(const struct error *error, bool is_untouched, void *context);
};

/*
 * Send the request of an exchange to a node and give its client the answer, both as they come.  The
 * exchange is the pass's (http_exchange_read(), http_exchange_on()) until on_end; a reference of
 * the owner's keeps it.
 */
struct peer_pass;
struct peer_pass *peer_pass_new(struct peer_clients *clients, struct http_exchange *exchange,
                                const struct peer_passing *passing,
                                const struct peer_pass_events *events, void *context);
void peer_pass_cancel(struct peer_pass *pass); /* on_end follows */

/* ---- Streams ---- */

/*
 * A connected socket here goes on at a node: what it says is the body of a POST to `target`, what
 * is answered is said to it.  The body has frames: four bytes of length (big endian), and its
 * bytes; none: a sign of life.  Each side's end ends the other's half.
 */
enum { PEER_FRAME_HEAD = 4, PEER_FRAME_MAX = 256 << 10 };
struct peer_stream;
struct peer_stream_events {
    void (*on_open)(void *context);                           /* the node takes it */
    void (*on_end)(const struct error *error, void *context); /* once, last; NULL: in order */
};
struct peer_stream *peer_stream_new(struct peer_clients *clients, uint64_t node, const char *target,
                                    int owned_fd, const struct peer_stream_events *events,
                                    void *context);
/* No callback comes afterwards; after on_end, too.  Accepts NULL. */
void peer_stream_free(struct peer_stream *stream);

/* ---- Blobs ---- */

enum {
    PEER_FETCHES_MAX = 4,  /* at once; the others wait */
    PEER_STALL_MS = 15000, /* without a byte: the next node is asked */
};

/* Of which nobody knows more: modules are small; root file systems of machines are not. */
#define PEER_BLOB_BYTES_MAX (UINT64_C(16) << 30)

struct peer_blobs;
struct peer_blobs *peer_blobs_new(struct peer_clients *clients, struct image_store *images);
void peer_blobs_free(struct peer_blobs *blobs); /* nobody waits any more */

/*
 * Have a blob in the image store: asked of the nearest nodes first, those of `first` before them;
 * one fetch per blob, whoever waits for it; gone on with where an earlier one was broken off.  A
 * node that sends more than it can have is not heard any longer, and the next one is asked.
 * `done`: NULL, NOT_FOUND (no node has it), UNAVAILABLE (none of those that may have it answered),
 * CORRUPT (only something else was sent), TOO_LARGE (the same), or what the disk says.
 */
struct peer_wanted {
    const char *id;
    uint64_t bytes_max; /* it has no more; 0: who knows, PEER_BLOB_BYTES_MAX */
    const uint64_t *first;
    size_t first_count;
};
struct peer_fetch;
struct peer_fetch *peer_fetch_new(struct peer_blobs *blobs, const struct peer_wanted *wanted,
                                  void (*done)(const struct error *error, void *context),
                                  void *context);
void peer_fetch_free(struct peer_fetch *fetch); /* before `done`: the blob goes on being fetched */

#endif
