/*
 * Requests that are a route's: what is asked of them before the function is, and what is added to
 * its answer.  See service/route/route.h.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/http/http.h"
#include "base/json.h"

#include "service/event/event.h"
#include "service/gateway/lane.h"
#include "service/quota/quota.h"

enum { TOKEN_MAX = 4096, SECONDS_SIZE = 24 };

/* ---- CORS (WHATWG Fetch, 3.2) ---- */

void routed_add_cors(struct http_exchange *exchange, const struct http_route *route)
{
    struct text origin = http_exchange_field(exchange, "Origin");
    if (!route->has_cors) {
        return;
    }
    /* What is for everybody says so to everybody: without Vary, a browser's cache gives what it got
     * for an <img> to a script as well ("CORS protocol and HTTP caches"). */
    bool is_every = strcmp(route->cors_origins[0], "*") == 0 && route->cors_origins[1] == NULL;
    if (!is_every) {
        http_exchange_add_field(exchange, "Vary", "Origin");
    }
    if (!is_every && (origin.length == 0 || !http_route_allows_origin(route, origin))) {
        return;
    }
    http_exchange_add_field_text(exchange, text_of("Access-Control-Allow-Origin", 27),
                                 is_every ? text_of("*", 1) : origin);
    if (route->cors_credentials) {
        http_exchange_add_field(exchange, "Access-Control-Allow-Credentials", "true");
    }
    if (route->cors_exposed[0] != '\0') {
        http_exchange_add_field(exchange, "Access-Control-Expose-Headers", route->cors_exposed);
    }
}

/* What the function itself says of it is left out where the route does. */
bool routed_is_cors(const struct http_route *route, struct text name)
{
    static const char prefix[] = "access-control-";
    return route != NULL && route->has_cors && name.length >= sizeof(prefix) - 1 &&
        text_equal_ignoring_case(text_of(name.data, sizeof(prefix) - 1), prefix);
}

/* The method that a browser asks about; empty: it is no preflight. */
static struct text asked_method(struct http_exchange *exchange)
{
    bool is_preflight = http_exchange_method(exchange) == HTTP_OPTIONS &&
        http_exchange_field(exchange, "Origin").length > 0;
    return is_preflight ? http_exchange_field(exchange, "Access-Control-Request-Method")
                        : text_of("", 0);
}

static void answer_preflight(struct http_exchange *exchange, const struct http_route *route)
{
    char seconds[SECONDS_SIZE];
    struct text asked = http_exchange_field(exchange, "Access-Control-Request-Headers");
    snprintf(seconds, sizeof(seconds), "%" PRIu64, route->cors_max_age_s);
    routed_add_cors(exchange, route);
    if (http_route_allows_origin(route, http_exchange_field(exchange, "Origin"))) {
        http_exchange_add_field(exchange, "Access-Control-Allow-Methods", route->cors_methods);
        if (asked.length > 0 && route->cors_fields[0] != '\0') {
            http_exchange_add_field(exchange, "Access-Control-Allow-Headers", route->cors_fields);
        } else if (asked.length > 0) { /* a list that names none: those that are wanted */
            http_exchange_add_field(exchange, "Vary", "Access-Control-Request-Headers");
            http_exchange_add_field_text(exchange, text_of("Access-Control-Allow-Headers", 28),
                                         asked);
        }
        http_exchange_add_field(exchange, "Access-Control-Max-Age", seconds);
    }
    http_exchange_respond(exchange, 204, NULL, 0);
}

/* ---- Who may ---- */

static void refuse(struct http_exchange *exchange, const struct http_route *route, int kind,
                   const char *text)
{
    struct error err;
    error_set(&err, kind, "%s", text);
    routed_add_cors(exchange, route); /* or a browser's script does not see why */
    http_exchange_respond_error(exchange, &err, NULL);
}

/* "Authorization: Bearer TOKEN" (RFC 6750) of a client. */
static bool find_client(struct gateway *gateway, struct http_exchange *exchange, char ret_name[64])
{
    static const char scheme[] = "Bearer ";
    struct text field = http_exchange_field(exchange, "Authorization");
    size_t skip = sizeof(scheme) - 1;
    char token[TOKEN_MAX];
    if (field.length <= skip || field.length - skip >= sizeof(token) ||
        !text_equal_ignoring_case(text_of(field.data, skip), scheme)) {
        return false;
    }
    snprintf(token, sizeof(token), "%.*s", (int)(field.length - skip), field.data + skip);
    bool is_known = route_find_client(gateway->options.routes, token, clock_real_ms(), ret_name);
    explicit_bzero(token, sizeof(token));
    return is_known;
}

/* The certificate of a client leads to the route's authority; or the exchange is answered. */
static bool find_certificate(struct http_exchange *exchange, const struct http_route *route,
                             struct gateway_caller *caller)
{
    struct error err = {0};
    const struct tls_peer *peer = http_exchange_certificate(exchange);
    if (!http_exchange_is_tls(exchange)) {
        refuse(exchange, route, ERROR_DENIED,
               "this route is for HTTPS with a client's certificate; this is HTTP");
    } else if (peer == NULL && !http_exchange_was_asked(exchange)) {
        /* For another host, or made before the route was: the next connection is asked. */
        static const char text[] =
            "this connection was not asked for a certificate, which this route wants: make a new "
            "one, with the name of this host\n";
        routed_add_cors(exchange, route);
        http_exchange_add_field(exchange, "Content-Type", "text/plain");
        http_exchange_respond(exchange, 421, text, sizeof(text) - 1);
    } else if (peer == NULL || peer->chain == NULL) {
        refuse(exchange, route, ERROR_DENIED,
               "this route wants a client's certificate, and none was shown (curl --cert, --key)");
    } else if (http_route_judge(route, peer->chain, caller->subject, &err) < 0) {
        refuse(exchange, route, (int)err.kind, err.text);
    } else {
        memcpy(caller->fingerprint, peer->fingerprint, sizeof(caller->fingerprint));
        return true;
    }
    return false;
}

static bool find_token(struct gateway *gateway, struct http_exchange *exchange,
                       const struct http_route *route, struct gateway_caller *caller)
{
    if (find_client(gateway, exchange, caller->user)) {
        return true;
    }
    http_exchange_add_field(exchange, "WWW-Authenticate", "Bearer");
    refuse(exchange, route, ERROR_UNAUTHENTICATED,
           "this route wants a bearer token of a client: blixard client create NAME --token");
    return false;
}

/* Is it somebody that may call?  Otherwise the exchange is answered. */
static bool authenticate(struct gateway *gateway, struct http_exchange *exchange,
                         const struct http_route *route, struct gateway_caller *caller)
{
    switch (route->auth) {
    case ROUTE_AUTH_NONE:
        return true;
    case ROUTE_AUTH_TOKEN:
        return find_token(gateway, exchange, route, caller);
    case ROUTE_AUTH_MTLS:
        return find_certificate(exchange, route, caller);
    }
    CHECK_UNREACHABLE();
}

/* "127.0.0.1:4711" -> "127.0.0.1" */
static void address_of(const char *peer, char ret_address[GATEWAY_CLIENT_SIZE])
{
    const char *colon = strrchr(peer, ':');
    size_t length = colon != NULL ? (size_t)(colon - peer) : strlen(peer);
    snprintf(ret_address, GATEWAY_CLIENT_SIZE, "%.*s", (int)length, peer);
}

static bool admit(struct http_exchange *exchange, struct http_route *route,
                  const struct gateway_caller *caller)
{
    char client[GATEWAY_CLIENT_SIZE];
    char text[96];
    uint64_t wait_ms = 0;
    address_of(http_exchange_peer(exchange), client);
    const char *who = caller->user[0] != '\0' ? caller->user
        : caller->fingerprint[0] != '\0'      ? caller->fingerprint
                                              : client;
    if (http_route_admit(route, who, clock_monotonic_ms(), &wait_ms)) {
        return true;
    }
    char seconds[SECONDS_SIZE];
    snprintf(seconds, sizeof(seconds), "%" PRIu64, (wait_ms + 999) / 1000);
    http_exchange_add_field(exchange, "Retry-After", seconds);
    snprintf(text, sizeof(text), "too many requests; the next one is taken in %" PRIu64 " ms",
             wait_ms);
    refuse(exchange, route, ERROR_LIMIT, text);
    return false;
}

static bool is_within_quota(struct gateway *gateway, struct http_exchange *exchange,
                            const struct http_route *route)
{
    struct error err = {0};
    int r = quota_take_request(gateway->options.quotas, route->project, clock_monotonic_ms(), &err);
    if (r < 0) {
        refuse(exchange, route, (int)err.kind, err.text);
    }
    return r == 0;
}

static bool body_fits(struct http_exchange *exchange, const struct http_route *route)
{
    uint64_t length = http_exchange_body_length(exchange);
    char text[96];
    if (route->body_bytes_max == 0 || !http_exchange_has_body(exchange) || length == UINT64_MAX ||
        length <= route->body_bytes_max) {
        return true;
    }
    snprintf(text, sizeof(text), "the body has %" PRIu64 " bytes; this route takes %" PRIu64,
             length, route->body_bytes_max);
    refuse(exchange, route, ERROR_TOO_LARGE, text);
    return false;
}

/* ---- The filter: of the head alone, so that a body never waits for it ---- */

static void set_text(json_t *document, const char *name, struct text value)
{
    json_t *text = json_stringn(value.length > 0 ? value.data : "", value.length);
    json_object_set_new(document, name, text != NULL ? text : json_string("")); /* no UTF-8 */
}

/* "X-GitHub-Event: push" is headers["x-github-event"]; of several of a name, the first. */
static void add_header(json_t *headers, struct text name, struct text value)
{
    char lower[128];
    if (name.length >= sizeof(lower)) {
        return;
    }
    for (size_t i = 0; i < name.length; i++) {
        lower[i] =
            (char)(name.data[i] >= 'A' && name.data[i] <= 'Z' ? name.data[i] | 0x20 : name.data[i]);
    }
    lower[name.length] = '\0';
    if (json_object_get(headers, lower) == NULL) {
        set_text(headers, lower, value);
    }
}

/* A request as an event: one in CloudEvents' binary mode is that event; any other is one of type
 * http.request. */
static json_t *document_of(struct http_exchange *exchange)
{
    EVENT_OWNED struct event event = {0};
    struct error ignored = {0};
    json_t *headers = json_object();
    event_init(&event, "", "", "http.request", NULL, NULL, 0);
    size_t count = http_exchange_field_count(exchange);
    for (size_t i = 0; i < count && i < GATEWAY_REQUEST_FIELDS_MAX; i++) {
        struct text name, value;
        http_exchange_field_at(exchange, i, &name, &value);
        add_header(headers, name, value);
        (void)event_read_field(&event, name, value, &ignored); /* what is none stays a header */
    }
    json_t *document = event_document(&event);
    json_object_set_new(document, "headers", headers);
    set_text(document, "method", http_exchange_method_text(exchange));
    set_text(document, "path", http_exchange_path(exchange));
    set_text(document, "query", http_exchange_query(exchange));
    set_text(document, "host", http_exchange_field(exchange, "Host"));
    return document;
}

/* Does the route want it?  Otherwise it is answered: as an event, it was taken and passed over. */
static bool is_wanted(struct http_exchange *exchange, struct http_route *route)
{
    JSON_OWNED json_t *document = route->filter != NULL ? document_of(exchange) : NULL;
    if (http_route_wants(route, document)) {
        return true;
    }
    routed_add_cors(exchange, route);
    http_exchange_add_field(exchange, "X-Blixard-Filter", "passed-over");
    http_exchange_respond(exchange, 204, NULL, 0);
    return false;
}

static bool enter(struct http_exchange *exchange, struct http_route *route)
{
    if (http_route_enter(route)) {
        return true;
    }
    refuse(exchange, route, ERROR_OVERLOADED,
           "this route has as many calls under way as it may have (concurrency_max)");
    return false;
}

/* Prefer: respond-async.  True: it is accepted or refused, and the exchange was taken. */
static bool is_for_later(struct gateway *gateway, struct http_exchange *exchange,
                         const struct http_route *route, const struct gateway_caller *caller)
{
    struct gateway_origin origin = {.is_secure = http_exchange_is_tls(exchange), .caller = *caller};
    snprintf(origin.pattern, sizeof(origin.pattern), "%s", route->path);
    return gateway->take_later != NULL && !route->is_websocket &&
        gateway->take_later(exchange, route->project,
                            text_of(route->function, strlen(route->function)),
                            http_exchange_path(exchange), &origin, gateway->later_context);
}

static void serve(struct gateway *gateway, struct http_exchange *owned_exchange,
                  struct http_route *owned_route)
{
    struct gateway_caller caller = {0};
    bool is_done = true;
    if (owned_route->is_paused) {
        refuse(owned_exchange, owned_route, ERROR_UNAVAILABLE, "this route is paused");
    } else if (authenticate(gateway, owned_exchange, owned_route, &caller) &&
               admit(owned_exchange, owned_route, &caller) &&
               is_within_quota(gateway, owned_exchange, owned_route) &&
               body_fits(owned_exchange, owned_route) && is_wanted(owned_exchange, owned_route)) {
        is_done = false;
    }
    if (is_done) {
        http_exchange_unref(owned_exchange);
        http_route_unref(owned_route);
    } else if (is_for_later(gateway, owned_exchange, owned_route, &caller)) {
        http_route_accept(owned_route);
        http_route_unref(owned_route);
    } else if (!enter(owned_exchange, owned_route)) {
        http_exchange_unref(owned_exchange);
        http_route_unref(owned_route);
    } else {
        call_serve_route(gateway, owned_exchange, owned_route, &caller);
    }
}

/* Of HTTP/2's handshake, what it is of HTTP/1.1's. */
static struct text method_of(const struct http_exchange *exchange)
{
    return http_exchange_protocol(exchange).length > 0 ? text_of("GET", 3)
                                                       : http_exchange_method_text(exchange);
}

/* CONNECT with a :protocol is for a WebSocket's route, and nothing else. */
static bool is_refused(struct http_exchange *exchange, const struct http_route *route_or_null)
{
    struct text protocol = http_exchange_protocol(exchange);
    struct error err;
    if (protocol.length == 0 || (route_or_null != NULL && route_or_null->is_websocket)) {
        return false;
    }
    error_set(&err, ERROR_INVALID, "CONNECT is for routes of WebSocket; this is none");
    http_exchange_respond_error(exchange, &err, NULL);
    http_exchange_unref(exchange);
    return true;
}

bool routed_serve(struct gateway *gateway, struct http_exchange *exchange)
{
    struct route_match match;
    struct text asked = asked_method(exchange);
    if (gateway->options.routes == NULL) {
        return is_refused(exchange, NULL);
    }
    route_find(gateway->options.routes, http_exchange_field(exchange, "Host"),
               http_exchange_path(exchange), asked.length > 0 ? asked : method_of(exchange),
               &match);
    if (match.route != NULL && asked.length > 0 && match.route->has_cors) {
        answer_preflight(exchange, match.route);
        http_exchange_unref(exchange);
        http_route_unref(match.route);
        return true;
    }
    if (match.route != NULL && asked.length > 0) { /* no preflight then: as any OPTIONS */
        http_route_unref(match.route);
        route_find(gateway->options.routes, http_exchange_field(exchange, "Host"),
                   http_exchange_path(exchange), http_exchange_method_text(exchange), &match);
    }
    if (is_refused(exchange, match.route)) {
        http_route_unref(match.route);
        return true;
    }
    if (match.route != NULL) {
        serve(gateway, exchange, match.route);
        return true;
    }
    if (match.is_other_method) {
        http_exchange_add_field(exchange, "Allow", match.allowed);
        http_exchange_respond(exchange, 405, NULL, 0);
        http_exchange_unref(exchange);
        return true;
    }
    return false;
}
