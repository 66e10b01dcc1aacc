/* What the files of this room share. */
#ifndef SERVICE_FETCH_PRIVATE_H
#define SERVICE_FETCH_PRIVATE_H

#include <curl/curl.h>
#include <openssl/types.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/map.h"
#include "base/stream/stream.h"

#include "service/fetch/allow.h"
#include "service/fetch/fetch.h"
#include "service/fetch/fields.h"

enum {
    CLIENTS_IDLE_MAX = 64,
    CLIENT_IDLE_MS = 60000,
    CLIENT_CONNECTIONS_MAX = 16, /* kept */
    LOOKUPS_PER_CLIENT = 16,     /* at once, those nobody waits for any more included */
    ADDRESSES_MAX = 16,          /* of a name that are tried */
    CONNECT_MS = 10000,
    OWN_PORTS_MAX = 8,
    REFUSED_MAX = 64,
    SKIPPED_BYTES_MAX = 262144, /* of a redirect's body, before the connection is given up */
};

struct fetch_service {
    unsigned references; /* the owner's, one per fetch, client and lookup */
    bool is_over;
    struct loop *loop;
    struct telemetry *telemetry;
    X509_STORE *authorities;
    uint64_t fetches_max;
    uint64_t function_max;
    uint64_t body_bytes_max;
    uint16_t own_ports[OWN_PORTS_MAX];
    size_t own_port_count;
    struct fetch_network refused[REFUSED_MAX];
    size_t refused_count;

    struct map clients;
    struct list idle_clients; /* the one idle for longest first */
    size_t idle_count;
    struct list lookups;
    struct loop_timer *sweep; /* of them; runs while there are some */

    struct list fetches;
    size_t running;
    struct list changed; /* to be told */
    bool is_telling;     /* a post is under way */

    uint64_t begun;
    uint64_t received_bytes;
    struct map reached; /* by function: reached.c */
    uint64_t failed[FETCH_REASON_COUNT];
};

struct fetch_service *service_ref(struct fetch_service *service);
void service_unref(struct fetch_service *service);

/* ---- Clients: curl on the loop, for one version of a function (client.c) ---- */

struct client {
    struct list_node link; /* in idle_clients */
    struct fetch_service *service;
    char *key;
    struct fetch_rule *rules;
    size_t rule_count;
    size_t users; /* fetches and lookups */
    size_t running;
    size_t lookups;
    uint64_t idle_since_ms;
    CURLM *multi;
    struct loop_timer *timer;
};

/* The one of a request's version, made when it is not there; a user of it. */
struct client *client_use(struct fetch_service *service, const struct fetch_request *request);
void client_unuse(struct client *client);
/* Those nobody uses; at the end of the service. */
void client_free_idle(struct fetch_service *service);

/* Give it a transfer to do, and take it back, done or not. */
void client_add(struct client *client, CURL *easy);
void client_remove(struct client *client, CURL *easy);

/* ---- Names (resolve.c) ---- */

struct lookup;

/* What a name leads to: `done` gets a status of getaddrinfo() and the addresses, lent, later. */
struct lookup *resolve_begin(struct client *client, const char *host,
                             void (*done)(int status, const struct fetch_address *addresses,
                                          size_t count, void *context),
                             void *context);
/* Nobody waits any more; the thread goes on until the system's resolver gives up. */
void resolve_abandon(struct lookup *lookup);
/* Nor does the service: what its threads find is thrown away there. */
void resolve_leave_all(struct fetch_service *service);

/* ---- A fetch (fetch.c) ---- */

struct fetch {
    struct list_node link;
    struct list_node change; /* in `changed` */
    struct fetch_service *service;
    struct client *client;
    void (*on_change)(void *context);
    void *context;
    struct loop_timer *deadline;
    enum fetch_redirects redirects;
    struct trace_span span;

    /* The request; a redirect changes it. */
    char method[FETCH_METHOD_MAX + 1];
    struct fetch_url url;
    struct buffer fields; /* "Name: value\0" each */
    struct buffer body;
    unsigned hops;

    /* A hop: the name is resolved, then curl is at it. */
    struct lookup *lookup;
    CURL *easy;
    CURLSH *share; /* its names, for this hop alone */
    struct curl_slist *lines;
    struct curl_slist *addresses;
    char curl_text[CURL_ERROR_SIZE];
    bool decodes;
    bool is_redirect;
    struct fetch_url next;
    size_t skipped_bytes;
    bool is_broken_off; /* from inside curl, for this: */
    enum fetch_reason reason;
    char why[256];

    /* A tunnel (tunnel.c): in curl's place. */
    bool is_tunnel;
    struct fetch_address tried[ADDRESSES_MAX];
    size_t tried_count;
    size_t tried_next;
    struct stream_dial *dial;
    struct stream *stream;
    struct buffer early; /* to be written when it is connected */
    bool is_finished;

    /* The response. */
    bool has_head;
    int head_status; /* while it comes */
    int status;
    size_t head_bytes;
    struct buffer head;
    struct buffer received;
    uint64_t received_bytes;
    uint64_t uncounted_bytes; /* exchanged with `address` */
    uint32_t address;         /* IPv4 that it is connected to; 0: none */
    uint16_t address_port;
    bool is_paused;
    bool is_over;
    struct error error; /* NONE: it has not failed */
};

/* On the loop, out of curl: what curl says of a transfer that is done. */
void fetch_on_done(struct fetch *fetch, CURLcode code);

/* The end of a fetch, as a failure; the first one is it. */
void fetch_fail(struct fetch *fetch, enum fetch_reason reason, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The end of one whose answer is whole. */
void fetch_end_well(struct fetch *fetch);

/* The transfer of the URL there is, from one of these addresses (transfer.c); and its end, at
 * whatever it is. */
void transfer_begin(struct fetch *fetch, const struct fetch_address *addresses, size_t count);
void transfer_end(struct fetch *fetch);

/* The same of a tunnel (tunnel.c). */
void tunnel_begin(struct fetch *fetch, const struct fetch_address *addresses, size_t count);
void tunnel_end(struct fetch *fetch);

/* A line of an answer's head, with its end; false: it is broken off, and says why. */
bool transfer_take_line(struct fetch *fetch, const char *bytes, size_t length);

/* What is exchanged with whom (reached.c): connected; bytes have come or gone; no more. */
void reached_begin(struct fetch *fetch, const struct fetch_address *address, uint16_t port);
void reached_count(struct fetch *fetch, size_t bytes);
void reached_end(struct fetch *fetch);

void fetch_note_change(struct fetch *fetch);

/* May the fetch connect there?  NULL, or what it is that it may not. */
const char *fetch_refusal(const struct fetch *fetch, const struct fetch_address *address,
                          uint16_t port);

#endif
