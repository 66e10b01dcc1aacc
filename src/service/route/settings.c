/* The settings of a route: checked when it is made, compiled when the table is. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/http/http.h"
#include "base/log.h"
#include "base/memory.h"

#include "service/event/event.h"
#include "service/route/limiter.h"
#include "service/route/meter.h"
#include "service/route/parts.h"

enum {
    METHOD_MAX = 32,
    LIST_MAX = 32,
    HOST_MAX = 253,
    ORIGIN_MAX = 300,
    CLIENT_CA_BYTES_MAX = 64 << 10
};
enum { TIMEOUT_MS_MAX = 24 * 3600 * 1000, CONCURRENCY_MAX = 1000000 };

/* ---- Checking ---- */

static const char a_method[] = "method (such as GET; case counts)";

/* As RFC 5952 writes it and clients send it: one address is not two hosts. */
static bool is_address(const char *host)
{
    struct in6_addr address;
    char text[INET6_ADDRSTRLEN] = "";
    char plain[sizeof(text) + 2];
    snprintf(plain, sizeof(plain), "%.*s", (int)strcspn(host + 1, "]"), host + 1);
    if (inet_pton(AF_INET6, plain, &address) != 1) {
        return false;
    }
    inet_ntop(AF_INET6, &address, text, sizeof(text));
    snprintf(plain, sizeof(plain), "[%s]", text);
    return strcmp(plain, host) == 0;
}

static bool is_host(const char *host)
{
    size_t length = strlen(host);
    if (host[0] == '[') {
        return is_address(host);
    }
    const char *at = strncmp(host, "*.", 2) == 0 ? host + 2 : host;
    if (length == 0 || length > HOST_MAX || *at == '\0' || *at == '.') {
        return false;
    }
    for (; *at != '\0'; at++) {
        bool is_fine =
            (*at >= 'a' && *at <= 'z') || (*at >= '0' && *at <= '9') || *at == '-' || *at == '.';
        if (!is_fine) {
            return false;
        }
    }
    return true;
}

/* A token (RFC 9110, 9.1), whose case counts: "get" would never be asked for, nor is there one that
 * is called *. */
static bool is_method(const char *method)
{
    static const char *const usual[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++) {
        if (strcasecmp(method, usual[i]) == 0 && strcmp(method, usual[i]) != 0) {
            return false;
        }
    }
    return http_field_is_clean(text_of(method, strlen(method)), text_of("", 0)) &&
        strcmp(method, "*") != 0 && strlen(method) <= METHOD_MAX;
}

/* SCHEME://HOST[:PORT], or *. */
static bool is_origin(const char *origin)
{
    const char *rest = strstr(origin, "://");
    return strcmp(origin, "*") == 0 ||
        (rest != NULL && rest > origin && rest[3] != '\0' && strchr(rest + 3, '/') == NULL &&
         strlen(origin) <= ORIGIN_MAX && strpbrk(origin, " \t\r\n,\"") == NULL);
}

static bool is_field(const char *name)
{
    return http_field_is_clean(text_of(name, strlen(name)), text_of("", 0)) && strlen(name) <= 64;
}

/* A token (RFC 6455, 4.1). */
static bool is_subprotocol(const char *name)
{
    return is_field(name) && strlen(name) < 64;
}

static int check_list(const json_t *owner, const char *key, bool (*is_good)(const char *text),
                      const char *what, struct error *err)
{
    const json_t *list = json_object_get(owner, key);
    size_t i = 0;
    json_t *item = NULL;
    if (json_array_size(list) > LIST_MAX) {
        return error_set(err, ERROR_INVALID, "%s: at most %d", key, LIST_MAX);
    }
    json_array_foreach((json_t *)(uintptr_t)list, i, item)
    {
        if (!json_is_string(item) || !is_good(json_string_value(item))) {
            return error_set(err, ERROR_INVALID, "%s: \"%.80s\" is no %s", key,
                             json_is_string(item) ? json_string_value(item) : "?", what);
        }
    }
    return 0;
}

static int check_cors(const json_t *cors, struct error *err)
{
    if (!json_is_object(cors)) {
        return 0;
    }
    const json_t *origins = json_object_get(cors, "origins");
    int r = check_list(cors, "origins", is_origin, "origin such as https://app.example.org", err);
    r = r < 0 ? r : check_list(cors, "methods", is_method, a_method, err);
    r = r < 0 ? r : check_list(cors, "headers", is_field, "header's name", err);
    r = r < 0 ? r : check_list(cors, "expose", is_field, "header's name", err);
    if (r == 0 && json_array_size(origins) == 0) {
        r = error_set(err, ERROR_INVALID, "cors needs origins: a list of them, or *");
    }
    for (size_t i = 0; r == 0 && i < json_array_size(origins); i++) {
        if (json_is_true(json_object_get(cors, "credentials")) &&
            strcmp(json_string_value(json_array_get(origins, i)), "*") == 0) {
            r = error_set(
                err, ERROR_INVALID,
                "cors: credentials for every origin would be for every site: name the origins");
        }
    }
    return r;
}

static int check_limit(const json_t *limit, struct error *err)
{
    if (!json_is_object(limit)) {
        return 0;
    }
    double per_second = json_number_value(json_object_get(limit, "requests_per_second"));
    json_int_t burst = json_integer_value(json_object_get(limit, "burst"));
    const char *by = json_string_value(json_object_get(limit, "by"));
    if (!(per_second > 0.001 && per_second <= 1e6)) {
        return error_set(err, ERROR_INVALID,
                         "rate_limit: requests_per_second is from 0.001 to 1000000");
    }
    if (burst < 0 || burst > 1000000) {
        return error_set(err, ERROR_INVALID, "rate_limit: burst is from 1 to 1000000");
    }
    return by == NULL || strcmp(by, "client") == 0 || strcmp(by, "route") == 0
        ? 0
        : error_set(err, ERROR_INVALID, "rate_limit: by is client or route");
}

static int check_authority(const char *text, struct error *err)
{
    struct tls_authority *authority = NULL;
    if (strlen(text) > CLIENT_CA_BYTES_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "client_ca: at most %d bytes",
                         (int)CLIENT_CA_BYTES_MAX);
    }
    int r = tls_authority_new(text, &authority, err);
    tls_authority_free(authority);
    return r < 0 ? error_wrap(err, "client_ca") : 0;
}

static int check_auth(const json_t *settings, struct error *err)
{
    const char *auth = json_string_value(json_object_get(settings, "auth"));
    const char *authority = json_string_value(json_object_get(settings, "client_ca"));
    bool is_mtls = auth != NULL && strcmp(auth, "mtls") == 0;
    if (auth != NULL && !is_mtls && strcmp(auth, "none") != 0 && strcmp(auth, "token") != 0) {
        return error_set(err, ERROR_INVALID, "auth is none, token or mtls");
    }
    if (is_mtls && authority == NULL) {
        return error_set(err, ERROR_INVALID,
                         "auth: mtls needs client_ca: the certificates of those who sign clients "
                         "(--client-ca FILE)");
    }
    if (!is_mtls && authority != NULL) {
        return error_set(err, ERROR_INVALID, "client_ca is for auth: mtls");
    }
    return is_mtls ? check_authority(authority, err) : 0;
}

/* What a call may not take, and how many there may be. */
static int check_number(const json_t *settings, const char *key, json_int_t most, struct error *err)
{
    const json_t *value = json_object_get(settings, key);
    json_int_t number = json_integer_value(value);
    return !json_is_integer(value) || (number >= 0 && number <= most)
        ? 0
        : error_set(err, ERROR_INVALID, "%s is from 0 (none) to %lld", key, (long long)most);
}

static int check_filter(const json_t *settings, struct error *err)
{
    struct event_filter *filter = NULL;
    const char *text = json_string_value(json_object_get(settings, "filter"));
    int r = text != NULL && text[0] != '\0' ? event_filter_parse(text, &filter, err) : 0;
    event_filter_free(filter);
    return r < 0 ? error_wrap(err, "filter") : 0;
}

int settings_check(const json_t *settings, struct error *err)
{
    int r = pattern_check(json_string_value(json_object_get(settings, "path")), err);
    r = r < 0
        ? r
        : check_list(settings, "hosts", is_host,
                     "host name (a-z, 0-9, -, *.NAME, or an address such as [2001:db8::1])", err);
    r = r < 0 ? r : check_list(settings, "methods", is_method, a_method, err);
    r = r < 0 ? r : check_list(settings, "subprotocols", is_subprotocol, "subprotocol", err);
    if (r == 0 && json_array_size(json_object_get(settings, "subprotocols")) > 0 &&
        !json_is_true(json_object_get(settings, "websocket"))) {
        r = error_set(err, ERROR_INVALID, "subprotocols are of a WebSocket: websocket: true");
    }
    r = r < 0 ? r : check_cors(json_object_get(settings, "cors"), err);
    r = r < 0 ? r : check_limit(json_object_get(settings, "rate_limit"), err);
    r = r < 0 ? r : check_number(settings, "timeout_ms", TIMEOUT_MS_MAX, err);
    r = r < 0 ? r : check_number(settings, "concurrency_max", CONCURRENCY_MAX, err);
    r = r < 0 ? r : check_filter(settings, err);
    return r < 0 ? r : check_auth(settings, err);
}

/* ---- Compiling ---- */

static char **texts_of(const json_t *list)
{
    size_t count = json_array_size(list);
    char **texts = memory_new(count + 1, sizeof(char *));
    for (size_t i = 0; i < count; i++) {
        texts[i] = memory_copy_string(json_string_value(json_array_get(list, i)));
    }
    return texts;
}

static void free_texts(char **texts)
{
    for (char **at = texts; at != NULL && *at != NULL; at++) {
        free(*at);
    }
    free(texts);
}

static char *joined(const json_t *list)
{
    BUFFER_OWNED struct buffer text = {0};
    for (size_t i = 0; i < json_array_size(list); i++) {
        buffer_append_format(&text, "%s%s", i > 0 ? ", " : "",
                             json_string_value(json_array_get(list, i)));
    }
    buffer_string(&text);
    return buffer_take(&text);
}

static void compile_cors(struct http_route *route, const json_t *cors)
{
    static const char usual[] = "GET, HEAD, POST, PUT, PATCH, DELETE";
    const json_t *age = json_object_get(cors, "max_age_s");
    route->has_cors = json_is_object(cors);
    route->cors_origins = texts_of(json_object_get(cors, "origins"));
    route->cors_methods = joined(json_object_get(cors, "methods"));
    if (route->cors_methods[0] == '\0') {
        free(route->cors_methods);
        route->cors_methods = route->methods[0] != NULL
            ? joined(json_object_get(route->settings, "methods"))
            : memory_copy_string(usual);
    }
    route->cors_fields = joined(json_object_get(cors, "headers"));
    route->cors_exposed = joined(json_object_get(cors, "expose"));
    route->cors_credentials = json_is_true(json_object_get(cors, "credentials"));
    route->cors_max_age_s = json_is_integer(age) ? (uint64_t)json_integer_value(age) : 600;
}

/* The one that there is goes on counting, if it counts the same. */
static struct route_limiter *limiter_of(struct route_service *service, const char *key,
                                        const json_t *limit)
{
    if (!json_is_object(limit)) {
        limiter_unref(map_remove(&service->limiters, key));
        return NULL;
    }
    double per_second = json_number_value(json_object_get(limit, "requests_per_second"));
    double burst = (double)json_integer_value(json_object_get(limit, "burst"));
    const char *by = json_string_value(json_object_get(limit, "by"));
    bool is_by_client = by == NULL || strcmp(by, "client") == 0;
    burst = burst >= 1 ? burst : per_second > 1 ? per_second : 1;
    struct route_limiter *limiter = map_get(&service->limiters, key);
    if (limiter == NULL || !limiter_is(limiter, per_second, burst, is_by_client)) {
        limiter_unref(map_remove(&service->limiters, key));
        limiter = limiter_new(per_second, burst, is_by_client);
        map_set(&service->limiters, key, limiter);
    }
    return limiter_ref(limiter);
}

/* It is good: the table has just checked it. */
static void compile_filter(struct http_route *route)
{
    struct error err = {0};
    const char *text = json_string_value(json_object_get(route->settings, "filter"));
    if (text != NULL && text[0] != '\0' && event_filter_parse(text, &route->filter, &err) < 0) {
        log_error("route %s/%s: filter: %s", route->project, route->name, err.text);
    }
}

static struct route_meter *meter_of(struct route_service *service, const char *key)
{
    struct route_meter *meter = map_get(&service->meters, key);
    if (meter == NULL) {
        meter = meter_new();
        map_set(&service->meters, key, meter);
    }
    return meter_ref(meter);
}

/* Without its authority, which was good when it was set, a route lets nobody in. */
static void compile_auth(struct http_route *route)
{
    const char *auth = json_string_value(json_object_get(route->settings, "auth"));
    const char *authority = json_string_value(json_object_get(route->settings, "client_ca"));
    struct error err = {0};
    if (auth != NULL && strcmp(auth, "token") == 0) {
        route->auth = ROUTE_AUTH_TOKEN;
    } else if (auth != NULL && strcmp(auth, "mtls") == 0) {
        route->auth = ROUTE_AUTH_MTLS;
        if (authority == NULL || tls_authority_new(authority, &route->authority, &err) < 0) {
            log_error("route %s/%s: client_ca: %s", route->project, route->name, err.text);
        }
    }
}

int http_route_judge(const struct http_route *route, const struct tls_chain *chain,
                     char ret_subject[TLS_SUBJECT_SIZE], struct error *err)
{
    return route->authority != NULL
        ? tls_authority_judge(route->authority, chain, ret_subject, err)
        : error_set(err, ERROR_DENIED, "this route's authority of clients cannot be read");
}

struct http_route *settings_compile(struct route_service *service, const char *key,
                                    const char *project, const char *name, const char *function,
                                    const json_t *settings, bool is_paused, uint64_t revision)
{
    struct http_route *route = NEW(struct http_route);
    route->references = 1;
    route->project = memory_copy_string(project);
    route->name = memory_copy_string(name);
    route->function = memory_copy_string(function);
    route->path = memory_copy_string(json_string_value(json_object_get(settings, "path")));
    route->settings = json_deep_copy(settings);
    route->hosts = texts_of(json_object_get(settings, "hosts"));
    route->methods = texts_of(json_object_get(settings, "methods"));
    route->is_paused = is_paused;
    compile_auth(route);
    route->caches = json_is_true(json_object_get(settings, "cache"));
    route->is_websocket = json_is_true(json_object_get(settings, "websocket"));
    route->subprotocols = texts_of(json_object_get(settings, "subprotocols"));
    route->streams = json_is_true(json_object_get(settings, "stream"));
    route->body_bytes_max =
        (uint64_t)json_integer_value(json_object_get(settings, "body_bytes_max"));
    route->limiter = limiter_of(service, key, json_object_get(settings, "rate_limit"));
    route->timeout_ms = (uint64_t)json_integer_value(json_object_get(settings, "timeout_ms"));
    route->concurrency_max =
        (uint64_t)json_integer_value(json_object_get(settings, "concurrency_max"));
    route->meter = meter_of(service, key);
    compile_filter(route);
    compile_cors(route, json_object_get(settings, "cors"));
    route->revision = revision;
    return route;
}

void http_route_unref(struct http_route *route)
{
    if (route == NULL || atomic_fetch_sub(&route->references, 1) != 1) {
        return;
    }
    limiter_unref(route->limiter);
    meter_unref(route->meter);
    event_filter_free(route->filter);
    tls_authority_free(route->authority);
    json_decref(route->settings);
    free_texts(route->hosts);
    free_texts(route->methods);
    free_texts(route->subprotocols);
    free_texts(route->cors_origins);
    free(route->cors_methods);
    free(route->cors_fields);
    free(route->cors_exposed);
    free(route->project);
    free(route->name);
    free(route->function);
    free(route->path);
    free(route);
}

bool http_route_admit(struct http_route *route, const char *client, uint64_t now_ms,
                      uint64_t *ret_wait_ms)
{
    return route->limiter == NULL || limiter_admit(route->limiter, client, now_ms, ret_wait_ms);
}

bool http_route_allows_origin(const struct http_route *route, struct text origin)
{
    for (char **at = route->cors_origins; route->has_cors && *at != NULL; at++) {
        if (strcmp(*at, "*") == 0 || text_equal_ignoring_case(origin, *at)) {
            return true;
        }
    }
    return false;
}

bool http_route_wants(struct http_route *route, const json_t *document)
{
    struct error ignored = {0};
    bool is_wanted = route->filter == NULL || event_filter_match(route->filter, document, &ignored);
    meter_see(route->meter, is_wanted);
    return is_wanted;
}

bool http_route_enter(struct http_route *route)
{
    return meter_enter(route->meter, route->concurrency_max);
}

void http_route_leave(struct http_route *route, int status)
{
    meter_leave(route->meter, status, clock_real_ms());
}

void http_route_accept(struct http_route *route)
{
    meter_accept(route->meter, clock_real_ms());
}
