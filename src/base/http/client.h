/* Private to the room: a client's connections and calls from inside. */
#ifndef BASE_HTTP_CLIENT_H
#define BASE_HTTP_CLIENT_H

#include "base/buffer.h"
#include "base/http/connection.h"
#include "base/http/http.h"
#include "base/list.h"

struct mux_call;
struct mux;

struct client_connection {
    struct list_node link; /* in idle or shared */
    struct http_client *client;
    struct stream_dial *dial; /* until there is a stream */
    struct stream *stream;
    struct mux *mux;        /* shared by many calls; `call` is NULL then */
    struct http_call *call; /* NULL: idle, or closing */
    struct buffer in;
    struct buffer out;
    bool closing;
    bool processing;
    bool is_cut;     /* shared: the server is gone */
    bool tells_room; /* a post is under way */
    unsigned holds;  /* posts */
    unsigned uses;
};

struct http_call {
    struct list_node link; /* in fresh, waiting or running */
    struct http_client *client;
    struct client_connection *connection;
    struct mux_call *stream; /* on a shared connection */
    struct buffer request;   /* head and, when whole, body: kept for a second try */
    struct buffer streamed;  /* written before there is a connection */
    bool is_streaming;
    bool is_chunked;
    bool is_finished; /* the streamed body */
    bool is_head;
    bool may_retry;
    bool retried;
    unsigned refusals; /* how often no server has processed it */
    void (*on_writable)(struct http_call *call, void *context);
    struct http_call_events events;
    void *context;
    struct loop_timer *timer;
    bool has_head;
    bool paused;
    bool is_bad; /* the target is none */
    bool ended;
    bool was_sent;
    enum body_kind body;
    bool until_close;
    uint64_t left;
    bool wants_close;
    struct parse_chunks chunks;
    struct buffer head_bytes;
    struct parse_head head; /* last: its fields are not cleared */
};

struct http_client {
    struct loop *loop;
    char *address;
    bool is_unix;
    char *server_name;
    char *identity;
    struct http_client_options options; /* its texts are the two above */
    struct list idle;
    struct list shared; /* connections */
    bool offers_mux;
    bool lacks_mux; /* the server chose HTTP/1.1 */
    size_t dialling;
    struct loop_timer *tick; /* of the shared connections, or NULL */
    struct list fresh;       /* calls made in this turn of the loop */
    struct list waiting;     /* calls */
    struct list running;     /* calls */
    struct list spare;       /* calls that were: their memory is the next ones' */
    size_t spare_count;
    size_t connections;
    size_t holds; /* posts under way, and ourselves while freeing */
    bool freed;
};

/* client.c */
void client_finish_call(struct http_call *call, const struct error *error);
void client_repeat_call(struct http_call *call); /* it is not on a connection any more */
void client_drop(struct client_connection *connection);
/* The call is over; the connection is kept if it can be. */
void client_release(struct client_connection *connection, bool keep, const struct error *error);
/* The connection failed under its call: once more, or the end. */
void client_fail(struct client_connection *connection, const struct error *error);
void client_start_waiting(struct http_client *client);
/* Of a connection that is closing, when no post of it is under way. */
void client_free_memory(struct client_connection *connection);

/* client_h1.c: connections that carry one call at a time */
enum { CLIENT_WRITE_HIGH = 262144 };
void client_start_alone(struct client_connection *connection); /* which has a stream now */
void client_send(struct client_connection *connection);        /* its call */
bool client_write(struct client_connection *connection, const void *bytes, size_t length);
void client_finish_body(struct client_connection *connection);
void client_watch(struct client_connection *connection);   /* its call has paused, or goes on */
void client_process(struct client_connection *connection); /* what was received */

/* client_mux.c: connections that calls share */
void client_share(struct client_connection *connection); /* whose stream speaks it */
void client_unshare(struct client_connection *connection);
struct client_connection *client_shared_with_room(struct http_client *client); /* or NULL */
void client_send_shared(struct client_connection *connection, struct http_call *call);

#endif
