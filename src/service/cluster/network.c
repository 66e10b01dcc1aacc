/*
 * The listener with mutual TLS, and the streams of the store.
 *
 * One port: HTTP of peers and remote clients goes to the API, STORE_PROTOCOL to the store.  Who
 * shows no certificate is let in for /v1/join and /v1/login, which the API sees to; a stream of the
 * store without the certificate of a known node is closed.
 */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/stream/stream.h"
#include "base/stream/tls.h"
#include "base/text.h"

#include "service/cluster/parts.h"

enum { DIAL_TIMEOUT_MS = 3000, DRAIN_MS = 1000, DRAIN_MOST_MS = 900000, PORT_DEFAULT = 7421 };

/* ---- What is shown, and who is believed ---- */

static struct tls_context_options tls_options(const struct cluster *cluster, enum tls_verify verify)
{
    return (struct tls_context_options){.certificate = cluster->identity.certificate,
                                        .key = cluster->identity.key,
                                        .authority = cluster->identity.authority,
                                        .verify = verify};
}

int network_make_tls(struct cluster *cluster, struct error *err)
{
    const struct tls_context_options listen = tls_options(cluster, TLS_VERIFY_OPTIONAL);
    const struct tls_context_options dial = tls_options(cluster, TLS_VERIFY_REQUIRED);
    int r = tls_context_new(&listen, &cluster->listen_tls, err);
    return r < 0 ? r : tls_context_new(&dial, &cluster->dial_tls, err);
}

int network_update_tls(struct cluster *cluster, struct error *err)
{
    const struct tls_context_options listen = tls_options(cluster, TLS_VERIFY_OPTIONAL);
    const struct tls_context_options dial = tls_options(cluster, TLS_VERIFY_REQUIRED);
    int r = tls_context_update(cluster->listen_tls, &listen, err);
    return r < 0 ? r : tls_context_update(cluster->dial_tls, &dial, err);
}

/* ---- Listening ---- */

static void on_request(struct http_exchange *exchange, void *context)
{
    struct cluster *cluster = context;
    if (cluster->handler != NULL) {
        cluster->handler(exchange, cluster->handler_context);
        return;
    }
    struct error err = {0};
    error_set(&err, ERROR_UNAVAILABLE, "the node is starting or ending");
    /* Nothing was run of it: who passes a call on may ask another (service/peer). */
    http_exchange_add_field(exchange, "X-Blixard-Refused", "1");
    http_exchange_respond_error(exchange, &err, NULL);
    http_exchange_unref(exchange);
}

static void on_store_stream(struct stream *stream, void *context)
{
    struct cluster *cluster = context;
    const struct tls_peer *peer = stream_peer(stream);
    uint64_t id = 0;
    if (peer == NULL || !identity_parse_uri(cluster->identity.cluster, peer->identity, &id)) {
        log_warn("cluster: %s, which is no node of this cluster, asked for the state and was "
                 "refused",
                 stream_address(stream));
    } else if (cluster->store == NULL || cluster->is_stopping) {
        log_debug("cluster: node %" PRIu64 " comes too early", id);
    } else if (!member_is_known(cluster, id)) {
        log_warn("cluster: node %" PRIu64 " at %s is not, or no more, in the cluster: refused", id,
                 stream_address(stream));
    } else {
        store_accept(cluster->store, id, stream);
        return;
    }
    stream_close(stream);
}

int network_listen(struct cluster *cluster, struct error *err)
{
    struct http_server_options options = http_server_defaults();
    options.requests_per_connection_max = 0;
    options.is_for_nodes = true;
    int r = http_server_new(cluster->loop, &options, on_request, cluster, &cluster->server, err);
    if (r == 0) {
        r = http_server_listen_tls(cluster->server, cluster->address, cluster->listen_tls,
                                   STORE_PROTOCOL, on_store_stream, cluster, &cluster->port, err);
    }
    return r < 0 ? error_wrap(err, "cluster_address") : 0;
}

static void on_drained(void *context)
{
    struct cluster *cluster = context;
    cluster->is_drained = true;
    uv_stop(loop_uv(cluster->loop));
}

/*
 * No more requests: connections are told so (GOAWAY), and new ones are refused, so that who passes
 * calls on asks another node and has lost none.  What is under way ends in its own time.
 */
void network_begin_drain(struct cluster *cluster)
{
    if (cluster->server != NULL && !cluster->is_draining) {
        cluster->is_draining = true;
        cluster->is_drained = false;
        http_server_drain(cluster->server, DRAIN_MOST_MS, on_drained, cluster);
    }
}

void network_drain(struct cluster *cluster)
{
    network_begin_drain(cluster);
    if (!cluster->is_draining || cluster->is_drained) {
        return;
    }
    struct loop_timer *late = loop_timer_new(cluster->loop, on_drained, cluster);
    loop_timer_start(late, DRAIN_MS);
    while (!cluster->is_drained) {
        loop_run(cluster->loop);
    }
    loop_timer_free(late);
}

void network_close_listener(struct cluster *cluster)
{
    if (cluster->server != NULL) {
        http_server_free(cluster->server);
        cluster->server = NULL;
        cluster->is_draining = false;
        cluster->port = 0;
    }
}

/* ---- Dialing for the store ---- */

struct dial {
    struct list_node link;
    struct cluster *cluster;
    uint64_t id;
    unsigned lane;
    struct stream_dial *stream; /* NULL: there was no way to begin */
};

static void on_dialed(struct stream *stream, const struct error *error, void *context)
{
    struct dial *dial = context;
    struct cluster *cluster = dial->cluster;
    if (error != NULL) {
        log_debug("cluster: node %s (%" PRIu64 ") is not reached: %s",
                  member_name(cluster, dial->id), dial->id, error->text);
    }
    list_remove(&dial->link);
    if (cluster->store != NULL) {
        store_dialed(cluster->store, dial->id, dial->lane, stream);
    } else if (stream != NULL) {
        stream_close(stream);
    }
    free(dial);
}

static void on_no_way(void *context)
{
    struct dial *dial = context;
    if (dial->cluster->store != NULL) {
        store_dialed(dial->cluster->store, dial->id, dial->lane, NULL);
    }
    free(dial);
}

/* Who is to be a server; while the rows may be old ones, anybody that is let in. */
bool network_may_lead(uint64_t id, void *context)
{
    struct cluster *cluster = context;
    struct store_status status = {0};
    const struct member *member = member_find(cluster, id);
    if (cluster->store != NULL) {
        store_status(cluster->store, &status);
    }
    return !status.ready || (member != NULL && member->wanted_server);
}

void network_dial(uint64_t id, unsigned lane, void *context)
{
    struct cluster *cluster = context;
    struct dial *dial = NEW(struct dial);
    dial->cluster = cluster;
    dial->id = id;
    dial->lane = lane;
    const char *address = member_address(cluster, id);
    if (address == NULL || cluster->dial_tls == NULL || cluster->is_stopping) {
        loop_post(cluster->loop, on_no_way, dial);
        return;
    }
    char identity[128];
    identity_format_uri(cluster->identity.cluster, id, identity, sizeof(identity));
    const struct stream_dial_options options = {.tls = cluster->dial_tls,
                                                .protocols = STORE_PROTOCOL,
                                                .identity = identity,
                                                .timeout_ms = DIAL_TIMEOUT_MS};
    list_push_back(&cluster->dials, &dial->link);
    dial->stream = stream_dial(cluster->loop, address, &options, on_dialed, dial);
}

void network_close(struct cluster *cluster)
{
    LIST_EACH(node, &cluster->dials)
    {
        struct dial *dial = LIST_ITEM(node, struct dial, link);
        list_remove(&dial->link);
        stream_dial_cancel(dial->stream);
        if (cluster->store != NULL) {
            store_dialed(cluster->store, dial->id, dial->lane, NULL);
        }
        free(dial);
    }
    network_close_listener(cluster);
}

/* ---- Where this node is ---- */

static void split(const char *address, char *ret_host, size_t size, uint16_t *port)
{
    const char *colon = strrchr(address, ':');
    const char *bracket = strrchr(address, ']');
    bool has_port = colon != NULL && (bracket == NULL || colon > bracket) &&
        (bracket != NULL || strchr(address, ':') == colon);
    uint64_t number = 0;
    if (has_port && text_parse_u64(text_of(colon + 1, strlen(colon + 1)), &number) &&
        number <= UINT16_MAX) {
        *port = (uint16_t)number;
    }
    snprintf(ret_host, size, "%.*s", (int)(has_port ? colon - address : (long)strlen(address)),
             address);
}

/* The address that the kernel would send from, to somewhere far away; nothing is sent. */
static bool find_by_route(char *ret_host, size_t size)
{
    FD_OWNED int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in far = {.sin_family = AF_INET, .sin_port = htons(9)};
    struct sockaddr_in own = {0};
    socklen_t length = sizeof(own);
    inet_pton(AF_INET, "192.0.2.1", &far.sin_addr); /* RFC 5737: for documents */
    return fd >= 0 && connect(fd, (struct sockaddr *)&far, sizeof(far)) == 0 &&
        getsockname(fd, (struct sockaddr *)&own, &length) == 0 &&
        own.sin_addr.s_addr != htonl(INADDR_LOOPBACK) &&
        inet_ntop(AF_INET, &own.sin_addr, ret_host, (socklen_t)size) != NULL;
}

static bool find_by_interface(char *ret_host, size_t size)
{
    struct ifaddrs *all = NULL;
    bool found = false;
    if (getifaddrs(&all) < 0) {
        return false;
    }
    for (const struct ifaddrs *at = all; at != NULL && !found; at = at->ifa_next) {
        if (at->ifa_addr != NULL && at->ifa_addr->sa_family == AF_INET &&
            (at->ifa_flags & IFF_LOOPBACK) == 0 && (at->ifa_flags & IFF_UP) != 0) {
            const struct sockaddr_in *address = (const struct sockaddr_in *)(void *)at->ifa_addr;
            found = inet_ntop(AF_INET, &address->sin_addr, ret_host, (socklen_t)size) != NULL;
        }
    }
    freeifaddrs(all);
    return found;
}

int network_own_address(struct cluster *cluster, const char *advertise, uint16_t port,
                        char ret_address[CLUSTER_ADDRESS_SIZE], struct error *err)
{
    char host[100] = "";
    uint16_t listened = PORT_DEFAULT;
    split(cluster->address, host, sizeof(host), &listened);
    uint16_t reached = port != 0 ? port : listened;
    if (advertise != NULL && advertise[0] != '\0') {
        split(advertise, host, sizeof(host), &reached);
    } else if ((strcmp(host, "0.0.0.0") == 0 || strcmp(host, "[::]") == 0) &&
               !find_by_route(host, sizeof(host)) && !find_by_interface(host, sizeof(host))) {
        return error_set(err, ERROR_INVALID,
                         "this host has no address but loopback: say advertise_address");
    }
    char address[CLUSTER_ADDRESS_SIZE];
    snprintf(address, sizeof(address), "%s:%u", host, reached);
    if (!cluster_token_is_address(address)) {
        return error_set(err, ERROR_INVALID,
                         "advertise_address: \"%.100s\" is no HOST or HOST:PORT at which others "
                         "could reach this node",
                         advertise != NULL ? advertise : "");
    }
    memcpy(ret_address, address, sizeof(address));
    return 0;
}
