/* The service: options, whom to believe, metrics, and telling of changes.  See fetch.h. */
#include <inttypes.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

#include "service/fetch/private.h"

enum { AUTHORITY_FILE_MAX = 4 << 20 };

static const char system_authorities[] = "/etc/ssl/certs/ca-certificates.crt";

/* ---- Life ---- */

struct fetch_service *service_ref(struct fetch_service *service)
{
    service->references++;
    return service;
}

void service_unref(struct fetch_service *service)
{
    CHECK(service->references > 0);
    service->references--;
    if (service->references == 0) {
        X509_STORE_free(service->authorities);
        map_done(&service->clients);
        free(service);
    }
}

/* All certificates of a file: parsed once, not for each connection. */
static int read_authorities(const char *path, X509_STORE *store, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    int r = file_read(path, AUTHORITY_FILE_MAX, &text, err);
    if (r < 0) {
        return r;
    }
    BIO *bio = BIO_new_mem_buf(text.data, (int)text.used);
    size_t count = 0;
    for (X509 *one; (one = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL; count++) {
        X509_STORE_add_cert(store, one);
        X509_free(one);
    }
    BIO_free(bio);
    ERR_clear_error(); /* of the end of the text */
    return count > 0 ? 0 : error_set(err, ERROR_INVALID, "%s has no certificates in PEM", path);
}

static int take_authorities(struct fetch_service *service, const char *file, struct error *err)
{
    bool is_given = file != NULL && file[0] != '\0';
    struct error why = {0};
    service->authorities = X509_STORE_new();
    CHECK(service->authorities != NULL);
    int r = read_authorities(is_given ? file : system_authorities, service->authorities, &why);
    if (r < 0 && is_given) {
        *err = why;
        return error_wrap(err, "fetch_authority_file");
    }
    if (r < 0) {
        log_warn("functions can fetch nothing by https, for want of certificates to believe: %s "
                 "(install ca-certificates, or set fetch_authority_file)",
                 why.text);
    }
    return 0;
}

/* "ADDRESS,NETWORK,..." with or without blanks. */
static int take_refused(struct fetch_service *service, const char *list, struct error *err)
{
    const char *at = list != NULL ? list : "";
    while (*at != '\0') {
        size_t length = strcspn(at, ",");
        struct text one = text_trim(text_of(at, length));
        if (service->refused_count == REFUSED_MAX) {
            return error_set(err, ERROR_INVALID, "fetch_refused has more than %d entries",
                             (int)REFUSED_MAX);
        }
        if (!fetch_network_parse(one, &service->refused[service->refused_count])) {
            return error_set(err, ERROR_INVALID,
                             "fetch_refused: \"%.*s\" is no address and no network such as "
                             "10.0.0.0/8",
                             (int)(one.length < 80 ? one.length : 80), one.data);
        }
        service->refused_count++;
        at += length + (at[length] == ',');
    }
    return 0;
}

int fetch_service_new(const struct fetch_options *options, struct fetch_service **ret_service,
                      struct error *err)
{
    struct fetch_service *service = NEW(struct fetch_service);
    service->references = 1;
    service->loop = options->loop;
    service->telemetry = options->telemetry;
    service->fetches_max = options->fetches_max;
    service->function_max = options->function_max;
    service->body_bytes_max = options->body_bytes_max;
    list_init(&service->idle_clients);
    list_init(&service->lookups);
    list_init(&service->fetches);
    list_init(&service->changed);
    int r = take_authorities(service, options->authority_file, err);
    r = r < 0 ? r : take_refused(service, options->refused, err);
    if (r == 0 && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        r = error_set(err, ERROR_OS, "libcurl cannot be used");
    }
    if (r < 0) {
        service_unref(service);
        return r;
    }
    *ret_service = service;
    return 0;
}

void fetch_service_free(struct fetch_service *service)
{
    if (service == NULL) {
        return;
    }
    service->is_over = true;
    LIST_EACH(node, &service->fetches)
    {
        fetch_fail(LIST_ITEM(node, struct fetch, link), FETCH_CANCELLED, "the node is stopping");
    }
    resolve_leave_all(service);
    loop_flush(service->loop); /* those that have been found, and those to be told */
    client_free_idle(service);
    CHECK(service->clients.count == 0);
    fetch_take_reached(service, NULL, NULL);
    curl_global_cleanup();
    service_unref(service);
}

void fetch_forbid_own_port(struct fetch_service *service, uint16_t port)
{
    CHECK(service->own_port_count < OWN_PORTS_MAX);
    service->own_ports[service->own_port_count++] = port;
}

/* ---- Allow-lists ---- */

int fetch_allow_check(const char *entry, struct error *err)
{
    struct fetch_rule rule;
    size_t length = strlen(entry);
    if (length > FETCH_ENTRY_MAX) {
        return error_set(err, ERROR_INVALID, "fetch.allow: an entry is longer than %d bytes",
                         (int)FETCH_ENTRY_MAX);
    }
    return fetch_rule_parse(text_of(entry, length), &rule, err);
}

size_t fetch_allow_ports(const char *allow, size_t length, uint16_t *ret_ports, size_t max)
{
    static const uint16_t usual[] = {80, 443};
    size_t count = 0;
    struct error ignored = {0};
    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]) && count < max; i++) {
        ret_ports[count++] = usual[i];
    }
    for (size_t at = 0; at < length; at += strlen(allow + at) + 1) {
        struct fetch_rule rule;
        bool is_known =
            fetch_rule_parse(text_of(allow + at, strlen(allow + at)), &rule, &ignored) < 0 ||
            rule.port == 0;
        for (size_t i = 0; i < count && !is_known; i++) {
            is_known = ret_ports[i] == rule.port;
        }
        if (!is_known && count < max) {
            ret_ports[count++] = rule.port;
        }
    }
    return count;
}

/* ---- Telling of changes: never from inside curl, nor from inside a call of the door ---- */

static void tell(void *argument)
{
    struct fetch_service *service = argument;
    struct list now;
    service->is_telling = false;
    list_init(&now);
    while (!list_is_empty(&service->changed)) {
        struct fetch *fetch = LIST_FIRST(&service->changed, struct fetch, change);
        list_remove(&fetch->change);
        list_push_back(&now, &fetch->change);
    }
    while (!list_is_empty(&now)) { /* who is told may free any of them */
        struct fetch *fetch = LIST_FIRST(&now, struct fetch, change);
        list_remove(&fetch->change);
        fetch->on_change(fetch->context);
    }
    service_unref(service);
}

void fetch_note_change(struct fetch *fetch)
{
    struct fetch_service *service = fetch->service;
    if (!list_contains_node(&fetch->change)) {
        list_push_back(&service->changed, &fetch->change);
    }
    if (!service->is_telling) {
        service->is_telling = true;
        loop_post(service->loop, tell, service_ref(service));
    }
}

/* ---- Metrics ---- */

void fetch_write_metrics(const struct fetch_service *service, enum telemetry_format format,
                         struct buffer *out)
{
    static const char *const names[] = {
#define REASON(name, text, kind) text,
        FETCH_REASONS(REASON)
#undef REASON
    };
    telemetry_write_head(format, "blixard_fetches_total", "counter",
                         "Requests of functions to elsewhere.", out);
    buffer_append_format(out, "blixard_fetches_total %" PRIu64 "\n", service->begun);
    telemetry_write_head(format, "blixard_fetches_failed_total", "counter",
                         "Of those, without a response, by why.", out);
    for (size_t i = 0; i < FETCH_REASON_COUNT; i++) {
        buffer_append_format(out, "blixard_fetches_failed_total{reason=\"%s\"} %" PRIu64 "\n",
                             names[i], service->failed[i]);
    }
    telemetry_write_head(format, "blixard_fetches_running", "gauge",
                         "Requests of functions to elsewhere that are under way.", out);
    buffer_append_format(out, "blixard_fetches_running %zu\n", service->running);
    telemetry_write_head(format, "blixard_fetch_received_bytes_total", "counter",
                         "Bodies that came, decoded.", out);
    buffer_append_format(out, "blixard_fetch_received_bytes_total %" PRIu64 "\n",
                         service->received_bytes);
}
