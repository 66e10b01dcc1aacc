/* A fetch from its URL to its end: what is allowed, hop by hop.  See fetch.h. */
#include "service/fetch/fetch.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/fetch/private.h"

static const struct {
    const char *name;
    enum error_kind kind;
} reasons[FETCH_REASON_COUNT] = {
#define REASON(name, text, kind) [FETCH_##name] = {text, ERROR_##kind},
    FETCH_REASONS(REASON)
#undef REASON
};

/* ---- What may be connected to ---- */

static bool is_own_address(const struct fetch_address *address)
{
    struct ifaddrs *list = NULL;
    bool is_own = false;
    const char *special = fetch_address_special(address);
    if (special != NULL &&
        (strcmp(special, "loopback") == 0 || strcmp(special, "this host") == 0)) {
        return true;
    }
    if (getifaddrs(&list) < 0) {
        return true; /* not known: rather not */
    }
    for (const struct ifaddrs *at = list; at != NULL && !is_own; at = at->ifa_next) {
        struct fetch_address one;
        uint16_t port = 0;
        is_own = at->ifa_addr != NULL && fetch_address_of(at->ifa_addr, &one, &port) &&
            memcmp(one.bytes, address->bytes, sizeof(one.bytes)) == 0;
    }
    freeifaddrs(list);
    return is_own;
}

const char *fetch_refusal(const struct fetch *fetch, const struct fetch_address *address,
                          uint16_t port)
{
    const struct fetch_service *service = fetch->service;
    const struct client *client = fetch->client;
    for (size_t i = 0; i < service->refused_count; i++) {
        if (fetch_network_has(&service->refused[i], address)) {
            return "refused by this node (fetch_refused)";
        }
    }
    for (size_t i = 0; i < service->own_port_count; i++) {
        if (service->own_ports[i] == port && is_own_address(address)) {
            return "this node's own API, which functions do not reach";
        }
    }
    bool is_allowed =
        fetch_rules_have_address(client->rules, client->rule_count, &fetch->url, address);
    if (!is_allowed && fetch->is_tunnel) {
        struct fetch_url other = fetch->url; /* it may be for either scheme, as its name */
        other.is_https = !other.is_https;
        is_allowed = fetch_rules_have_address(client->rules, client->rule_count, &other, address);
    }
    return is_allowed ? NULL : fetch_address_special(address);
}

/* ---- Ends ---- */

static void end(struct fetch *fetch)
{
    struct fetch_service *service = fetch->service;
    reached_end(fetch);
    transfer_end(fetch);
    tunnel_end(fetch);
    loop_timer_free(fetch->deadline);
    fetch->deadline = NULL;
    fetch->is_over = true;
    buffer_done(&fetch->body);
    if (fetch->status > 0) {
        trace_number(&fetch->span, "http.response.status_code", fetch->status);
        trace_number(&fetch->span, "http.response.body.size", (int64_t)fetch->received_bytes);
    }
    if (fetch->hops > 0) {
        trace_number(&fetch->span, "http.request.resend_count", fetch->hops);
    }
    trace_end(service->telemetry, &fetch->span);
    CHECK(service->running > 0 && fetch->client->running > 0);
    service->running--;
    fetch->client->running--;
    client_unuse(fetch->client);
    fetch->client = NULL;
}

/* "NAME: sentence", one line that can be shown. */
static void write_error(struct error *error, enum fetch_reason reason, const char *sentence)
{
    error_set(error, reasons[reason].kind, "%s: %s", reasons[reason].name, sentence);
    text_make_printable(error->text, false);
}

void fetch_fail(struct fetch *fetch, enum fetch_reason reason, const char *format, ...)
{
    char sentence[ERROR_TEXT_MAX - 32];
    va_list arguments;
    if (fetch->is_over) {
        return;
    }
    va_start(arguments, format);
    vsnprintf(sentence, sizeof(sentence), format, arguments);
    va_end(arguments);
    write_error(&fetch->error, reason, sentence);
    fetch->service->failed[reason]++;
    trace_fail(&fetch->span, reasons[reason].name, fetch->error.text);
    end(fetch);
    fetch_note_change(fetch);
}

/* ---- Hops ---- */

static void reach(struct fetch *fetch, const struct fetch_address *addresses, size_t count)
{
    if (fetch->is_tunnel) {
        tunnel_begin(fetch, addresses, count);
    } else {
        transfer_begin(fetch, addresses, count);
    }
}

static void on_resolved(int status, const struct fetch_address *addresses, size_t count,
                        void *context)
{
    struct fetch *fetch = context;
    struct fetch_address good[ADDRESSES_MAX];
    size_t good_count = 0;
    char text[FETCH_ADDRESS_TEXT_SIZE] = "";
    const char *refusal = NULL;
    fetch->lookup = NULL;
    if (status != 0 || count == 0) {
        fetch_fail(fetch, FETCH_RESOLVE, "%s: %s", fetch->url.host,
                   status != 0 ? gai_strerror(status) : "it has no address");
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const char *why = fetch_refusal(fetch, &addresses[i], fetch->url.port);
        if (why == NULL) {
            good[good_count++] = addresses[i];
        } else if (refusal == NULL) {
            refusal = why;
            fetch_address_write(&addresses[i], text);
        }
    }
    if (good_count == 0) {
        fetch_fail(fetch, FETCH_NOT_ALLOWED,
                   "%s leads to %s, which is %s: only an entry of fetch.allow that is this "
                   "address, or a network with it, allows an address that is not public",
                   fetch->url.host, text, refusal);
        return;
    }
    reach(fetch, good, good_count);
}

static void hop(struct fetch *fetch)
{
    const struct client *client = fetch->client;
    bool is_allowed = fetch_rules_have_url(client->rules, client->rule_count, &fetch->url);
    if (!is_allowed && fetch->is_tunnel) { /* nobody knows what it will be */
        fetch->url.is_https = false;
        is_allowed = fetch_rules_have_url(client->rules, client->rule_count, &fetch->url);
    }
    if (!is_allowed) {
        BUFFER_OWNED struct buffer origin = {0};
        fetch_url_write_authority(&fetch->url, &origin);
        fetch_fail(fetch, FETCH_NOT_ALLOWED,
                   "%s%s is not on the function's list: fetch.allow in blixard.yaml, or fn "
                   "deploy --allow",
                   fetch->is_tunnel          ? ""
                       : fetch->url.is_https ? "https://"
                                             : "http://",
                   buffer_string(&origin));
        return;
    }
    if (fetch->url.is_address) {
        const char *refusal = fetch_refusal(fetch, &fetch->url.address, fetch->url.port);
        if (refusal != NULL) {
            fetch_fail(fetch, FETCH_NOT_ALLOWED, "%s is %s", fetch->url.host, refusal);
        } else {
            reach(fetch, NULL, 0);
        }
        return;
    }
    if (client->lookups >= LOOKUPS_PER_CLIENT) {
        fetch_fail(fetch, FETCH_BUSY, "%d names are being resolved for this function already",
                   (int)LOOKUPS_PER_CLIENT);
        return;
    }
    fetch->lookup = resolve_begin(fetch->client, fetch->url.host, on_resolved, fetch);
}

/* Leave out fields whose name begins or is so. */
static void remove_fields(struct fetch *fetch, bool (*is_removed)(struct text name))
{
    struct buffer kept = {0};
    for (size_t at = 0; at < fetch->fields.used;) {
        const char *line = (const char *)fetch->fields.data + at;
        size_t size = strlen(line) + 1;
        if (!is_removed(text_of(line, strcspn(line, ":")))) {
            buffer_append(&kept, line, size);
        }
        at += size;
    }
    buffer_done(&fetch->fields);
    fetch->fields = kept;
}

static bool is_of_body(struct text name)
{
    return name.length > 8 && text_equal_ignoring_case(text_of(name.data, 8), "Content-");
}

static bool is_credential(struct text name)
{
    return text_equal_ignoring_case(name, "Authorization") ||
        text_equal_ignoring_case(name, "Cookie");
}

/* As the Fetch standard has it (HTTP-redirect fetch): methods, bodies, and who gets credentials. */
static void follow(struct fetch *fetch)
{
    int status = fetch->head_status;
    bool is_post = strcmp(fetch->method, "POST") == 0;
    bool is_plain = strcmp(fetch->method, "GET") == 0 || strcmp(fetch->method, "HEAD") == 0;
    if ((status == 303 && !is_plain) || ((status == 301 || status == 302) && is_post)) {
        snprintf(fetch->method, sizeof(fetch->method), "GET");
        buffer_clear(&fetch->body);
        remove_fields(fetch, is_of_body);
    }
    if (!fetch_url_is_same_origin(&fetch->url, &fetch->next)) {
        remove_fields(fetch, is_credential);
    }
    fetch_url_done(&fetch->url);
    fetch->url = fetch->next;
    fetch->next = (struct fetch_url){0};
    fetch->is_redirect = false;
    fetch->skipped_bytes = 0;
    fetch->head_status = 0;
    fetch->head_bytes = 0;
    buffer_clear(&fetch->head);
    fetch->hops++;
    hop(fetch);
}

/* ---- What curl says at its end ---- */

static enum fetch_reason reason_of(CURLcode code)
{
    switch ((int)code) { /* of some hundred, those that have a name here */
    case CURLE_COULDNT_RESOLVE_HOST:
        return FETCH_RESOLVE;
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT: /* CONNECT_MS: the only time that curl knows */
        return FETCH_CONNECT;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CACERT_BADFILE:
        return FETCH_TLS;
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
        return FETCH_CLOSED;
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return FETCH_PROTOCOL;
    default:
        return FETCH_FAILED;
    }
}

void fetch_end_well(struct fetch *fetch)
{
    end(fetch);
    fetch_note_change(fetch);
}

void fetch_on_done(struct fetch *fetch, CURLcode code)
{
    transfer_end(fetch);
    if (fetch->is_redirect && (code == CURLE_OK || code == CURLE_WRITE_ERROR)) {
        follow(fetch);
    } else if (code != CURLE_OK && fetch->is_broken_off) {
        fetch_fail(fetch, fetch->reason, "%s", fetch->why);
    } else if (code != CURLE_OK) {
        fetch_fail(fetch, reason_of(code), "%s: %s", fetch->url.host,
                   fetch->curl_text[0] != '\0' ? fetch->curl_text : curl_easy_strerror(code));
    } else if (!fetch->has_head) {
        fetch_fail(fetch, FETCH_PROTOCOL, "%s: the answer has no head", fetch->url.host);
    } else {
        fetch_end_well(fetch);
    }
}

static void on_deadline(void *context)
{
    struct fetch *fetch = context;
    fetch_fail(fetch, FETCH_TIMEOUT, "%s: %s", fetch->url.host,
               fetch->lookup != NULL ? "resolving its name took too long"
                   : fetch->has_head ? "its answer took too long"
                                     : "it has not answered in time");
}

/* ---- The door ---- */

int fetch_refuse(struct fetch_service *service, enum fetch_reason reason, const char *sentence,
                 struct error *err)
{
    service->failed[reason]++;
    write_error(err, reason, sentence);
    return -(int)err->kind;
}

static int admit(struct fetch_service *service, const struct fetch_request *request,
                 struct error *err)
{
    if (service->is_over) {
        return fetch_refuse(service, FETCH_CANCELLED, "the node is stopping", err);
    }
    if (request->allow_length == 0) {
        return fetch_refuse(
            service, FETCH_NOT_ALLOWED,
            "this function may fetch nothing: list whom in fetch.allow of blixard.yaml, "
            "or with fn deploy --allow",
            err);
    }
    if (service->fetches_max == 0) {
        return fetch_refuse(service, FETCH_NOT_ALLOWED,
                            "functions fetch nothing on this node (fetch_max)", err);
    }
    if (service->running >= service->fetches_max) {
        return fetch_refuse(service, FETCH_BUSY,
                            "too many requests at once on this node (fetch_max)", err);
    }
    return 0;
}

/* What a guest chose, read into a fetch that is not known to anybody yet. */
static int take_request(struct fetch *fetch, const struct fetch_request *request, struct error *err)
{
    struct text method = request->method.length > 0 ? request->method : text_of("GET", 3);
    int r = fields_check_method(method, err);
    r = r < 0 ? r : fetch_url_parse(request->url, NULL, &fetch->url, err);
    r = r < 0 ? r : fields_read(request->fields, &fetch->fields, err);
    if (r == 0) {
        memcpy(fetch->method, method.data, method.length);
        if (fetch->is_tunnel) {
            snprintf(fetch->method, sizeof(fetch->method), "CONNECT");
        }
        if (request->body.length > 0) {
            buffer_append(&fetch->body, request->body.data, request->body.length);
        }
    }
    return r;
}

static void begin_span(struct fetch *fetch, const struct fetch_request *request)
{
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"};
    char name[16] = "HTTP";
    BUFFER_OWNED struct buffer url = {0};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        if (strcmp(known[i], fetch->method) == 0) {
            snprintf(name, sizeof(name), "HTTP %s", known[i]);
        }
    }
    trace_begin(
        fetch->service->telemetry, &fetch->span,
        &(struct trace_start){.name = name, .kind = TRACE_CLIENT, .parent = request->trace});
    fetch_url_write(&fetch->url, &url);
    url.used -= strlen(fetch->url.target) - strcspn(fetch->url.target, "?"); /* may hold secrets */
    trace_text(&fetch->span, "blixard.project", request->project);
    trace_text(&fetch->span, "faas.name", request->function);
    trace_text(&fetch->span, "http.request.method", fetch->method);
    trace_bytes(&fetch->span, "url.full", text_of((const char *)url.data, url.used));
    trace_text(&fetch->span, "server.address", fetch->url.host);
    trace_number(&fetch->span, "server.port", fetch->url.port);
}

static void fetch_done(struct fetch *fetch)
{
    struct fetch_service *service = fetch->service;
    list_remove(&fetch->link);
    list_remove(&fetch->change);
    fetch_url_done(&fetch->url);
    fetch_url_done(&fetch->next);
    buffer_done(&fetch->fields);
    buffer_done(&fetch->body);
    buffer_done(&fetch->head);
    buffer_done(&fetch->received);
    buffer_done(&fetch->early);
    free(fetch);
    service_unref(service);
}

static void begin(struct fetch *fetch, const struct fetch_request *request)
{
    struct fetch_service *service = fetch->service;
    service->running++;
    fetch->client->running++;
    fetch->redirects = request->redirects;
    begin_span(fetch, request);
    fetch->deadline = loop_timer_new(service->loop, on_deadline, fetch);
    loop_timer_start(fetch->deadline, request->timeout_ms);
    hop(fetch);
}

static struct fetch *new_one(struct fetch_service *service, const struct fetch_request *request,
                             bool is_tunnel, void (*changed)(void *context), void *context,
                             struct error *err)
{
    struct error why = {0};
    service->begun++;
    if (admit(service, request, err) < 0) {
        return NULL;
    }
    struct fetch *fetch = NEW(struct fetch);
    fetch->service = service_ref(service);
    fetch->is_tunnel = is_tunnel;
    fetch->on_change = changed;
    fetch->context = context;
    list_push_back(&service->fetches, &fetch->link);
    if (take_request(fetch, request, &why) < 0) {
        fetch_refuse(service, FETCH_INVALID, why.text, err);
        fetch_done(fetch);
        return NULL;
    }
    fetch->client = client_use(service, request);
    if (fetch->client->running >= service->function_max) {
        fetch_refuse(service, FETCH_BUSY,
                     "too many requests of this function at once (fetch_function_max)", err);
        client_unuse(fetch->client);
        fetch_done(fetch);
        return NULL;
    }
    begin(fetch, request);
    if (fetch->is_over) {
        *err = fetch->error;
        fetch_done(fetch);
        return NULL;
    }
    return fetch;
}

struct fetch *fetch_new(struct fetch_service *service, const struct fetch_request *request,
                        void (*changed)(void *context), void *context, struct error *err)
{
    return new_one(service, request, false, changed, context, err);
}

struct fetch *fetch_tunnel_new(struct fetch_service *service, const struct fetch_request *request,
                               void (*changed)(void *context), void *context, struct error *err)
{
    return new_one(service, request, true, changed, context, err);
}

void fetch_free(struct fetch *fetch)
{
    if (!fetch->is_over) {
        end(fetch);
    }
    fetch_done(fetch);
}

const struct error *fetch_error(const struct fetch *fetch)
{
    return fetch->error.kind != ERROR_NONE ? &fetch->error : NULL;
}

bool fetch_is_over(const struct fetch *fetch)
{
    return fetch->is_over;
}

int fetch_status(const struct fetch *fetch)
{
    return fetch->status;
}

struct text fetch_fields(const struct fetch *fetch)
{
    return text_of((const char *)fetch->head.data, fetch->head.used);
}

size_t fetch_waiting(const struct fetch *fetch)
{
    return fetch->received.used;
}

bool fetch_is_full(const struct fetch *fetch)
{
    return fetch->received.used >= FETCH_BUFFER_BYTES;
}

void fetch_take(struct fetch *fetch, size_t most, struct buffer *out)
{
    size_t length = fetch->received.used < most ? fetch->received.used : most;
    if (length > 0) {
        buffer_append(out, fetch->received.data, length);
        buffer_consume(&fetch->received, length);
    }
    if (fetch->is_paused && !fetch_is_full(fetch)) {
        fetch->is_paused = false;
        if (fetch->stream != NULL) {
            stream_resume(fetch->stream);
        } else {
            curl_easy_pause(fetch->easy, CURLPAUSE_CONT);
        }
    }
}
