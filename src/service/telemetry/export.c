/*
 * Kept spans on their way to a collector: OTLP over HTTP.
 *
 * The thread that takes spans in appends them, encoded, to a queue of bounded size; beyond it they
 * are dropped and counted.  The main loop sends what has gathered, one request at a time, and
 * tries again what a collector cannot take now (429, 502, 503, 504, or no answer at all), later
 * each time and not for ever.  What it refuses otherwise is counted, and said once.  When the node
 * ends all that waits is sent, for a short time.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/http/http.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/stream/tls.h"

#include "service/telemetry/otlp.h"
#include "service/telemetry/private.h"
#include "service/telemetry/trace_parts.h"

enum {
    QUEUE_BYTES_MAX = 8 << 20,
    BATCH_SPANS_MAX = 1024,
    BATCH_BYTES_MAX = 1 << 20,
    GATHER_MS = 1000,
    ANSWER_MS = 10000,
    BACKOFF_MS = 500,
    BACKOFF_MS_MAX = 30000,
    TRIES_MAX = 8,
    ANSWER_BYTES_MAX = 65536,
    HEADERS_FILE_MAX = 16384,
    HEADERS_MAX = 16,
    SAID_MAX = 160,
    AUTHORITY_FILE_MAX = 4 << 20,
    LAST_WORDS_MS = 2000,
};

static const char content_type[] = "application/x-protobuf";
static const char default_authority[] = "/etc/ssl/certs/ca-certificates.crt";

struct trace_export {
    struct telemetry *telemetry;
    struct loop *loop;
    struct http_client *client;
    struct loop_timer *timer;
    char *endpoint; /* for people */
    char *target;
    char *headers[HEADERS_MAX + 3];
    bool packs;

    pthread_mutex_t lock; /* guards what comes from the other thread */
    struct buffer spans;  /* encoded */
    struct buffer sizes;  /* of each, uint32_t */
    bool is_told;         /* the loop knows that there are some */

    /* The loop's. */
    struct buffer batch; /* a request, until it is taken or given up */
    size_t batch_spans;
    unsigned tries;
    struct http_call *call;
    int status;
    bool is_protobuf; /* what it answers */
    uint64_t retry_after_ms;
    struct buffer answer;
    char said[SAID_MAX]; /* by the collector, and so in the log already */
    bool is_failing;     /* it was said */
    bool is_ending;
};

static void begin_batch(struct trace_export *export);

static void count(const struct trace_export *export, enum telemetry_metric metric, size_t spans)
{
    telemetry_add(export->telemetry, metric, spans);
}

/* ---- In: the thread that takes spans in ---- */

static void on_told(void *argument)
{
    struct trace_export *export = argument;
    if (export->call == NULL && export->batch.used == 0) {
        loop_timer_start(export->timer, GATHER_MS);
    }
}

void trace_export_add(struct trace_export *export, const struct trace_record *record)
{
    pthread_mutex_lock(&export->lock);
    if (export->spans.used >= QUEUE_BYTES_MAX) {
        count(export, TELEMETRY_SPANS_EXPORT_DROPPED, 1);
        pthread_mutex_unlock(&export->lock);
        return;
    }
    size_t before = export->spans.used;
    otlp_append_span(record, &export->spans);
    buffer_append_u32(&export->sizes, (uint32_t)(export->spans.used - before));
    bool tells = !export->is_told;
    export->is_told = true;
    pthread_mutex_unlock(&export->lock);
    if (tells) {
        loop_post(export->loop, on_told, export);
    }
}

/* ---- Out: the loop ---- */

/* As many as make a request. */
static size_t take_spans(struct trace_export *export, struct buffer *out)
{
    pthread_mutex_lock(&export->lock);
    size_t bytes = 0;
    size_t spans = 0;
    size_t waiting = export->sizes.used / sizeof(uint32_t);
    while (spans < waiting && spans < BATCH_SPANS_MAX && bytes < BATCH_BYTES_MAX) {
        uint32_t size;
        memcpy(&size, export->sizes.data + spans * sizeof(size), sizeof(size));
        bytes += size;
        spans++;
    }
    buffer_append(out, export->spans.data, bytes);
    buffer_consume(&export->spans, bytes);
    buffer_consume(&export->sizes, spans * sizeof(uint32_t));
    export->is_told = export->sizes.used > 0;
    pthread_mutex_unlock(&export->lock);
    return spans;
}

static bool has_more(struct trace_export *export)
{
    pthread_mutex_lock(&export->lock);
    bool has = export->sizes.used > 0;
    pthread_mutex_unlock(&export->lock);
    return has;
}

static void on_head(struct http_call *call, int status, void *context)
{
    struct trace_export *export = context;
    struct text after = http_call_field(call, "Retry-After");
    struct text type = http_call_field(call, "Content-Type");
    export->status = status;
    export->is_protobuf = text_equal_ignoring_case(type, content_type);
    export->retry_after_ms = 1000 * otlp_retry_after_s(after, clock_real_ms() / 1000);
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct trace_export *export = context;
    (void)call;
    if (export->answer.used + length <= ANSWER_BYTES_MAX) {
        buffer_append(&export->answer, bytes, length);
    }
}

/* Doubled each time, and a half of it by chance, so that nodes do not come all at once. */
static uint64_t backoff_ms(const struct trace_export *export)
{
    uint64_t ms = (uint64_t)BACKOFF_MS << (export->tries < 8 ? export->tries : 8);
    ms = ms < BACKOFF_MS_MAX ? ms : BACKOFF_MS_MAX;
    ms = ms / 2 + random_u64() % (ms / 2 + 1);
    return ms > export->retry_after_ms ? ms : export->retry_after_ms;
}

static void batch_is_over(struct trace_export *export)
{
    buffer_clear(&export->batch);
    export->batch_spans = 0;
    export->tries = 0;
    if (has_more(export)) {
        loop_timer_start(export->timer, 0);
    } else if (export->is_ending) {
        loop_stop(export->loop);
    }
}

/* A collector may say something about spans that it has taken, too: once, until it is another. */
static void tell_what_it_says(struct trace_export *export, uint64_t rejected, const char *text)
{
    bool is_news = strcmp(export->said, text) != 0;
    snprintf(export->said, sizeof(export->said), "%s", text);
    if (rejected > 0 && (is_news || text[0] == '\0')) {
        log_warn("traces: %s refused %" PRIu64 " spans: %s", export->endpoint, rejected,
                 text[0] != '\0' ? text : "it does not say why");
    } else if (is_news && text[0] != '\0') {
        log_warn("traces: %s took the spans and says: %s", export->endpoint, text);
    }
}

static void take_success(struct trace_export *export)
{
    uint64_t rejected = 0;
    char text[SAID_MAX];
    if (!otlp_read_response(export->answer.data, export->answer.used, &rejected, text,
                            sizeof(text))) {
        rejected = 0; /* an answer in another language, but a good one */
        text[0] = '\0';
    }
    rejected = rejected < export->batch_spans ? rejected : export->batch_spans;
    count(export, TELEMETRY_SPANS_EXPORTED, export->batch_spans - rejected);
    count(export, TELEMETRY_SPANS_EXPORT_DROPPED, rejected);
    tell_what_it_says(export, rejected, text);
    if (export->is_failing) {
        log_info("traces: %s takes spans again", export->endpoint);
    }
    export->is_failing = false;
    batch_is_over(export);
}

static void take_failure(struct trace_export *export, const char *why, bool may_work_later)
{
    if (!export->is_failing) {
        log_warn("traces: %s does not take spans: %s", export->endpoint, why);
    }
    export->is_failing = true;
    export->tries++;
    if (export->is_ending) {
        loop_stop(export->loop); /* with it and the others left, which is said */
        return;
    }
    if (may_work_later && export->tries < TRIES_MAX) {
        loop_timer_start(export->timer, backoff_ms(export));
        return;
    }
    count(export, TELEMETRY_SPANS_EXPORT_DROPPED, export->batch_spans);
    batch_is_over(export);
}

static void on_end(struct http_call *call, const struct error *error, void *context)
{
    struct trace_export *export = context;
    char why[64 + SAID_MAX];
    char text[SAID_MAX] = "";
    (void)call;
    export->call = NULL;
    if (error != NULL && error->kind == ERROR_CANCELLED) {
        return; /* the client is being freed */
    }
    if (error != NULL) {
        take_failure(export, error->text, true);
        return;
    }
    int status = export->status;
    if (status >= 200 && status < 300) {
        take_success(export);
        return;
    }
    if (export->is_protobuf &&
        !otlp_read_status(export->answer.data, export->answer.used, text, sizeof(text))) {
        text[0] = '\0';
    }
    snprintf(why, sizeof(why), "it answers %d %s%s%s", status, http_status_text(status),
             text[0] != '\0' ? ": " : "", text);
    take_failure(export, why, status == 429 || status == 502 || status == 503 || status == 504);
}

static void send_batch(struct trace_export *export)
{
    static const struct http_call_events events = {on_head, on_data, on_end};
    buffer_clear(&export->answer);
    export->status = 0;
    export->retry_after_ms = 0;
    export->call = http_client_call(export->client, "POST", export->target,
                                    (const char *const *)export->headers, export->batch.data,
                                    export->batch.used, &events, export);
}

static void begin_batch(struct trace_export *export)
{
    BUFFER_OWNED struct buffer spans = {0};
    export->batch_spans = take_spans(export, &spans);
    if (export->batch_spans > 0) {
        BUFFER_OWNED struct buffer request = {0};
        otlp_append_request(export->telemetry->tracer->node, spans.data, spans.used, &request);
        if (export->packs) {
            otlp_append_packed(request.data, request.used, &export->batch);
        } else {
            buffer_append(&export->batch, request.data, request.used);
        }
        send_batch(export);
    }
}

static void on_timer(void *context)
{
    struct trace_export *export = context;
    if (export->call != NULL) {
        return;
    }
    if (export->batch.used > 0) {
        send_batch(export);
    } else {
        begin_batch(export);
    }
}

/* ---- Beginning ---- */

struct url {
    bool is_tls;
    char address[300]; /* HOST:PORT */
    char host[254];
    char path[512];
};

/* "http://HOST[:PORT][/PATH]" */
static int read_url(const char *text, struct url *ret_url, struct error *err)
{
    struct url url = {.is_tls = text_starts_with(text, "https://")};
    if (!url.is_tls && !text_starts_with(text, "http://")) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" does not begin with http:// or https://",
                         text);
    }
    const char *host = strstr(text, "://") + 3;
    size_t length = strcspn(host, "/");
    const char *path = host + length;
    size_t path_length = strlen(path);
    const char *close = memchr(host, ']', length);
    const char *colon = memchr(close != NULL ? close : host, ':',
                               length - (close != NULL ? (size_t)(close - host) : 0));
    size_t name = colon != NULL ? (size_t)(colon - host) : length;
    while (path_length > 0 && path[path_length - 1] == '/') {
        path_length--;
    }
    if (name == 0 || name >= sizeof(url.host) || path_length + 16 >= sizeof(url.path) ||
        strpbrk(text, " \r\n\t@?#") != NULL) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is not http://HOST:PORT", text);
    }
    bool has_brackets = host[0] == '[' && close != NULL;
    snprintf(url.host, sizeof(url.host), "%.*s", (int)(has_brackets ? name - 2 : name),
             has_brackets ? host + 1 : host);
    snprintf(url.address, sizeof(url.address), "%.*s%s", (int)length, host,
             colon != NULL    ? ""
                 : url.is_tls ? ":443"
                              : ":80");
    snprintf(url.path, sizeof(url.path), "%.*s/v1/traces", (int)path_length, path);
    *ret_url = url;
    return 0;
}

static bool is_field(const char *line)
{
    size_t name = strspn(line, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_");
    return name > 0 && line[name] == ':' && text_is_printable(line);
}

/* Lines "Name: value"; they hold secrets, and are not shown. */
static int read_headers(struct trace_export *export, const char *path, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    size_t count = 0;
    export->headers[count++] = memory_format("Content-Type: %s", content_type);
    if (export->packs) {
        export->headers[count++] = memory_copy_string("Content-Encoding: gzip");
    }
    size_t most = count + HEADERS_MAX;
    if (path == NULL || path[0] == '\0') {
        return 0;
    }
    if (file_read(path, HEADERS_FILE_MAX, &text, err) < 0) {
        return error_wrap(err, "otlp_headers_file");
    }
    unsigned number = 0;
    char *at = (char *)(uintptr_t)buffer_string(&text);
    for (char *line = strsep(&at, "\n"); line != NULL; line = strsep(&at, "\n")) {
        struct text trimmed = text_trim(text_of(line, strcspn(line, "\r")));
        MEMORY_OWNED char *copy = memory_copy_text(trimmed.data, trimmed.length);
        number++;
        if (copy[0] == '\0' || copy[0] == '#') {
            continue;
        }
        if (!is_field(copy)) {
            return error_set(err, ERROR_INVALID,
                             "otlp_headers_file: line %u is not \"Name: value\"", number);
        }
        if (count == most) {
            return error_set(err, ERROR_LIMIT, "otlp_headers_file: more than %d lines",
                             HEADERS_MAX);
        }
        export->headers[count++] = memory_copy_string(copy);
    }
    explicit_bzero(text.data, text.used);
    return 0;
}

static int read_compression(const char *text, bool *ret_packs, struct error *err)
{
    *ret_packs = text != NULL && strcmp(text, "gzip") == 0;
    return *ret_packs || text == NULL || strcmp(text, "none") == 0
        ? 0
        : error_set(err, ERROR_INVALID, "otlp_compression: \"%.40s\" is neither none nor gzip",
                    text);
}

static int make_tls(const struct telemetry_export_options *options, struct tls_context **ret_tls,
                    struct error *err)
{
    BUFFER_OWNED struct buffer authority = {0};
    const char *path = options->authority_file != NULL && options->authority_file[0] != '\0'
        ? options->authority_file
        : default_authority;
    if (file_read(path, AUTHORITY_FILE_MAX, &authority, err) < 0) {
        return error_wrap(err, "otlp_authority_file");
    }
    const struct tls_context_options tls = {.authority = buffer_string(&authority),
                                            .verify = TLS_VERIFY_REQUIRED};
    return tls_context_new(&tls, ret_tls, err) < 0 ? error_wrap(err, "%s", path) : 0;
}

static int make_client(struct trace_export *export, const struct telemetry_export_options *options,
                       const struct url *url, struct error *err)
{
    struct tls_context *tls = NULL;
    int r = url->is_tls ? make_tls(options, &tls, err) : 0;
    const struct http_client_options client = {.tls = tls,
                                               .server_name = url->is_tls ? url->host : NULL,
                                               .answer_timeout_ms = ANSWER_MS,
                                               .connections_max = 1};
    r = r < 0 ? r : http_client_new(export->loop, url->address, &client, &export->client, err);
    if (tls != NULL) {
        tls_context_unref(tls);
    }
    return r;
}

static void export_free(struct trace_export *export)
{
    if (export->client != NULL) {
        http_client_free(export->client);
    }
    for (size_t i = 0; export->headers[i] != NULL; i++) {
        explicit_bzero(export->headers[i], strlen(export->headers[i]));
        free(export->headers[i]);
    }
    loop_timer_free(export->timer);
    buffer_done(&export->spans);
    buffer_done(&export->sizes);
    buffer_done(&export->batch);
    buffer_done(&export->answer);
    pthread_mutex_destroy(&export->lock);
    free(export->endpoint);
    free(export->target);
    free(export);
}

int telemetry_export_start(struct telemetry *telemetry, struct loop *loop,
                           const struct telemetry_export_options *options, struct error *err)
{
    struct url url;
    struct tracer *tracer = telemetry->tracer;
    CHECK(tracer->export == NULL);
    if (read_url(options->endpoint, &url, err) < 0) {
        return error_wrap(err, "otlp_endpoint");
    }
    struct trace_export *export = NEW(struct trace_export);
    export->telemetry = telemetry;
    export->loop = loop;
    export->endpoint = memory_copy_string(options->endpoint);
    export->target = memory_copy_string(url.path);
    pthread_mutex_init(&export->lock, NULL);
    int r = read_compression(options->compression, &export->packs, err);
    r = r < 0 ? r : read_headers(export, options->headers_file, err);
    r = r < 0 ? r : make_client(export, options, &url, err);
    if (r < 0) {
        export_free(export);
        return r;
    }
    export->timer = loop_timer_new(loop, on_timer, export);
    pthread_mutex_lock(&tracer->lock);
    tracer->export = export;
    pthread_mutex_unlock(&tracer->lock);
    return 0;
}

/* ---- The end ---- */

static void on_too_long(void *context)
{
    struct trace_export *export = context;
    loop_stop(export->loop);
}

/* What is left is sent, for a short time and without a second try. */
static void say_last_words(struct trace_export *export)
{
    struct loop_timer *timer = loop_timer_new(export->loop, on_too_long, export);
    loop_timer_start(timer, LAST_WORDS_MS);
    export->is_ending = true;
    if (export->call == NULL) {
        loop_timer_start(export->timer, 0);
    }
    if (export->call != NULL || export->batch.used > 0 || has_more(export)) {
        loop_run(export->loop);
    }
    loop_timer_free(timer);
    size_t left = export->batch_spans + export->sizes.used / sizeof(uint32_t);
    if (left > 0) {
        log_warn("traces: %zu spans did not reach %s before the end", left, export->endpoint);
    }
}

void telemetry_export_stop(struct telemetry *telemetry)
{
    struct tracer *tracer = telemetry->tracer;
    pthread_mutex_lock(&tracer->lock);
    trace_collect(tracer);
    struct trace_export *export = tracer->export;
    tracer->export = NULL;
    pthread_mutex_unlock(&tracer->lock);
    if (export == NULL) {
        return;
    }
    loop_flush(export->loop); /* nothing that was posted comes later */
    say_last_words(export);
    export_free(export);
}
