/*
 * Who may speak.  To the TCP listener without TLS: programs on this machine, not web pages.  A page
 * of another site reaches 127.0.0.1 by DNS rebinding (then Host is its name) or by a cross-site
 * request (then Origin is).  With TLS: who shows a certificate or a token, for what it may.
 */
#include <string.h>

#include "base/clock.h"

#include "service/peer/peer.h"

#include "surface/api/parts.h"

/* Without the port. */
static struct text host_of(struct text authority)
{
    const char *end = authority.length > 0 && authority.data[0] == '['
        ? memchr(authority.data, ']', authority.length)
        : memchr(authority.data, ':', authority.length);
    if (end == NULL) {
        return authority;
    }
    return text_of(authority.data, (size_t)(end - authority.data) + (*end == ']'));
}

static bool is_loopback_name(struct text host)
{
    return text_equal_ignoring_case(host, "localhost") || text_equal(host, "127.0.0.1") ||
        text_equal(host, "[::1]");
}

bool api_address_is_loopback(const char *address)
{
    return is_loopback_name(host_of(text_of(address, strlen(address))));
}

/* Without the scheme it is the very Host: a page of this API's own. */
static bool is_own_origin(struct text host, struct text origin, const char *scheme)
{
    size_t skip = strlen(scheme);
    return origin.length == skip + host.length && memcmp(origin.data, scheme, skip) == 0 &&
        memcmp(origin.data + skip, host.data, host.length) == 0;
}

static int refuse_origin(struct error *err)
{
    return error_set(err, ERROR_DENIED, "a request of another site's page (Origin) is refused");
}

int api_access_check(struct text host, struct text origin, const char *own_host, struct error *err)
{
    struct text name = host.length > 0 ? host_of(host) : host;
    if (!is_loopback_name(name) && (own_host == NULL || !text_equal(name, own_host))) {
        return error_set(err, ERROR_DENIED,
                         "Host is %.*s; this API answers to localhost, 127.0.0.1 and [::1] only",
                         (int)(host.length < 80 ? host.length : 80),
                         host.length > 0 ? host.data : "");
    }
    return origin.length == 0 || is_own_origin(host, origin, "http://") ? 0 : refuse_origin(err);
}

/* ---- Who asks ---- */

/* Of "Authorization: Bearer TOKEN" (RFC 6750, 2.1); false: something else, or none. */
static bool take_bearer(const struct http_exchange *exchange, struct buffer *ret_token)
{
    static const char scheme[] = "Bearer ";
    size_t skip = sizeof(scheme) - 1;
    struct text value = http_exchange_field(exchange, "Authorization");
    if (value.length <= skip || !text_equal_ignoring_case(text_of(value.data, skip), scheme)) {
        return false;
    }
    struct text token = text_trim(text_of(value.data + skip, value.length - skip));
    buffer_append(ret_token, token.data, token.length);
    return true;
}

/* Then the request is one that a node passes on, and its Authorization that of whoever asked there:
 * perhaps for the function that is called. */
static bool says_it_is_passed_on(const struct http_exchange *exchange)
{
    return http_exchange_field(exchange, PEER_FIELD_HOP).data != NULL ||
        http_exchange_field(exchange, PEER_FIELD_FUNCTION).data != NULL;
}

/* A token that was sent on purpose goes before the certificate of the connection. */
static int find_remote(const struct request *request, struct caller *ret_caller, struct error *err)
{
    const struct http_exchange *exchange = request->exchange;
    struct store *store = request->api->options.store;
    const struct tls_peer *peer = http_exchange_certificate(exchange);
    BUFFER_OWNED struct buffer token = {0};
    if (peer != NULL && says_it_is_passed_on(exchange)) {
        return caller_by_certificate(store, peer, clock_real_ms(), ret_caller, err);
    }
    if (take_bearer(exchange, &token)) {
        return caller_by_secret(store, buffer_string(&token), clock_real_ms(), ret_caller, err);
    }
    if (peer != NULL) {
        return caller_by_certificate(store, peer, clock_real_ms(), ret_caller, err);
    }
    *ret_caller = (struct caller){.kind = CALLER_NOBODY};
    return 0;
}

int api_access_judge(struct request *request, const char *permission, struct error *err)
{
    if (!http_exchange_is_tls(request->exchange)) {
        request->caller.kind = CALLER_LOCAL; /* loopback and the unix socket: see api.h */
    } else if (strcmp(permission, "public") != 0) {
        int r = find_remote(request, &request->caller, err);
        if (r < 0) {
            return r;
        }
    }
    return caller_may(&request->caller, permission, err);
}

void api_access_recheck(struct api *api)
{
    LIST_EACH(node, &api->requests)
    {
        struct request *request = LIST_ITEM(node, struct request, link);
        struct caller caller = {0};
        struct error err = {0};
        bool is_remote =
            request->caller.kind == CALLER_CLIENT || request->caller.kind == CALLER_NODE;
        if (is_remote && request->stop != NULL && find_remote(request, &caller, &err) < 0) {
            request->stop(request);
        }
    }
}

int api_access_begin(const struct request *request, struct error *err)
{
    const struct http_exchange *exchange = request->exchange;
    struct text host = http_exchange_field(exchange, "Host");
    struct text origin = http_exchange_field(exchange, "Origin");
    if (strcmp(http_exchange_peer(exchange), "unix") == 0) {
        return 0;
    }
    if (!http_exchange_is_tls(exchange)) {
        return api_access_check(host, origin, NULL, err);
    }
    /* A browser may have a client's certificate, and shows it for whatever page asks. */
    return origin.length == 0 || is_own_origin(host, origin, "https://") ? 0 : refuse_origin(err);
}
