/*
 * The binary cache: what clients of Nix read over HTTP, each path on demand.
 *
 *     /nix-cache-info                     which store
 *     /HASH.narinfo                       what is known of a path, signed by the cluster's key
 *     /nar/HASH-NARHASH.nar.zst           its archive; ranges (RFC 9110, 14)
 *
 * What is not valid is not there: 404.  A path is packed when it is first asked for, and sent when
 * its hash was found to be right.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/check.h"
#include "base/file.h"
#include "base/http/http.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/secure.h"
#include "base/text.h"

#include "engine/image/image.h"

#include "service/nix/parts.h"

enum { PIECE_BYTES = 1 << 18, TOKEN_FILE_MAX = 4096, PRIORITY = 30, AUTHORIZATION_MAX = 2048 };

/* ---- One request ---- */

static void dispose(struct serving *serving)
{
    list_remove(&serving->link);
    http_exchange_unref(serving->exchange);
    nix_narinfo_done(&serving->info);
    explicit_bzero(&serving->key, sizeof(serving->key));
    buffer_done(&serving->piece);
    buffer_done(&serving->body);
    if (serving->fd >= 0) {
        close(serving->fd);
    }
    free(serving->path);
    free(serving->folder);
    free(serving->keys);
    free(serving);
}

void serving_end(struct serving *serving)
{
    http_exchange_on(serving->exchange, NULL, NULL, NULL);
    dispose(serving);
}

static void on_close(void *context)
{
    struct serving *serving = context;
    serving->is_over = true;
    nix_key_wait_free(serving->key_wait);
    pack_free(serving->pack_wait);
    serving->key_wait = NULL;
    serving->pack_wait = NULL;
    if (serving->job != NULL) {
        serving->job->cancel = true; /* its end ends this */
    } else if (!serving->is_busy) {
        serving_end(serving);
    }
}

static void count(struct serving *serving, enum nix_answered answered)
{
    serving->service->counts.requests[serving->asked][answered]++;
}

void serving_error(struct serving *serving, const struct error *error)
{
    count(serving, NIX_REFUSED);
    http_exchange_respond_error(serving->exchange, error, NULL);
    serving_end(serving);
}

void serving_text(struct serving *serving, int status, const char *type, const char *text)
{
    count(serving, status < 400 ? NIX_SERVED : status == 404 ? NIX_ABSENT : NIX_REFUSED);
    http_exchange_add_field(serving->exchange, "Content-Type", type);
    http_exchange_respond(serving->exchange, status, text, strlen(text));
    serving_end(serving);
}

static void not_there(struct serving *serving)
{
    serving_text(serving, 404, "text/plain", "404\n");
}

/* What does not exist is no problem that clients tell of. */
static void refuse(struct serving *serving, const struct error *error)
{
    if (error->kind == ERROR_NOT_FOUND) {
        not_there(serving);
        return;
    }
    log_warn("nix: %s", error->text);
    serving_error(serving, error);
}

static bool back_from_job(struct serving *serving)
{
    serving->job = NULL;
    if (serving->is_over) {
        serving_end(serving);
        return false;
    }
    return true;
}

/* ---- Tokens: the password of netrc, or a bearer's ---- */

static bool is_token(const char *file, struct text shown)
{
    BUFFER_WIPED struct buffer token = {0};
    struct error err = {0};
    char wanted[HASH_TEXT_SIZE];
    char got[HASH_TEXT_SIZE];
    buffer_reserve(&token, TOKEN_FILE_MAX + 1);
    if (file_read(file, TOKEN_FILE_MAX, &token, &err) < 0) {
        log_warn("nix: %s", err.text);
        return false;
    }
    while (token.used > 0 && strchr(" \t\r\n", token.data[token.used - 1]) != NULL) {
        token.used--;
    }
    hash_bytes(token.data, token.used, wanted);
    hash_bytes(shown.data, shown.length, got);
    return token.used > 0 && CRYPTO_memcmp(wanted, got, HASH_TEXT_SIZE) == 0;
}

static bool shows_token(struct http_exchange *exchange, const char *file)
{
    static const char bearer[] = "Bearer ";
    static const char basic[] = "Basic ";
    struct text field = http_exchange_field(exchange, "Authorization");
    BUFFER_WIPED struct buffer pair = {0};
    if (field.data == NULL || field.length > AUTHORIZATION_MAX) {
        return false;
    }
    if (field.length > sizeof(bearer) && memcmp(field.data, bearer, sizeof(bearer) - 1) == 0) {
        return is_token(
            file, text_of(field.data + sizeof(bearer) - 1, field.length - sizeof(bearer) + 1));
    }
    buffer_reserve(&pair, AUTHORIZATION_MAX);
    if (field.length < sizeof(basic) || memcmp(field.data, basic, sizeof(basic) - 1) != 0 ||
        !base64_read(field.data + sizeof(basic) - 1, field.length - sizeof(basic) + 1, &pair)) {
        return false;
    }
    const char *colon = memchr(pair.data, ':', pair.used);
    return colon != NULL &&
        is_token(file, text_of(colon + 1, pair.used - (size_t)(colon + 1 - (char *)pair.data)));
}

static bool is_allowed(struct serving *serving, bool uploads)
{
    const struct nix_service_options *options = &serving->service->options;
    const char *file = uploads ? options->upload_token_file : options->read_token_file;
    struct error err;
    if (file[0] == '\0') {
        if (uploads) {
            error_set(&err, ERROR_DENIED,
                      "this node takes no uploads: it has no nix_upload_token_file");
            serving_error(serving, &err);
        }
        return !uploads;
    }
    if (shows_token(serving->exchange, file)) {
        return true;
    }
    error_set(&err, ERROR_UNAUTHENTICATED, "this needs a token: password of a line of netrc");
    http_exchange_add_field(serving->exchange, "WWW-Authenticate", "Basic realm=\"nix\"");
    serving_error(serving, &err);
    return false;
}

/* ---- Narinfos ---- */

static int describe_work(struct job *job, struct error *err)
{
    struct serving *serving = job->context;
    return nix_describe(&job->store, &serving->key, serving->hash, &serving->info, err);
}

static void on_described(struct job *job, const struct error *error)
{
    struct serving *serving = job->context;
    BUFFER_OWNED struct buffer text = {0};
    if (!back_from_job(serving)) {
        return;
    }
    if (error != NULL) {
        refuse(serving, error);
        return;
    }
    const struct packed *packed =
        packed_find(serving->service, serving->hash, serving->info.info.nar_hash);
    if (packed != NULL) {
        nix_set_file(&serving->info, packed);
    }
    nix_narinfo_write(&serving->info, serving->service->store.folder, &text);
    serving_text(serving, 200, "text/x-nix-narinfo", buffer_string(&text));
}

static void on_key(const struct error *error, void *context)
{
    struct serving *serving = context;
    serving->key_wait = NULL;
    if (error != NULL) {
        refuse(serving, error);
        return;
    }
    serving->key = serving->service->key;
    serving->job = job_start(serving->service, false, describe_work, on_described, serving);
}

/* ---- Archives ---- */

static int read_work(struct job *job, struct error *err)
{
    struct serving *serving = job->context;
    uint64_t left = serving->end - serving->at;
    size_t wanted = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
    ssize_t got = 0;
    do {
        got =
            pread(serving->fd, buffer_reserve(&serving->piece, wanted), wanted, (off_t)serving->at);
    } while (got < 0 && errno == EINTR);
    if (got <= 0) {
        return error_os(err, got < 0 ? errno : EIO, "reading a packed path");
    }
    serving->piece.used = (size_t)got;
    serving->at += (uint64_t)got;
    return 0;
}

static void read_on(struct serving *serving);

static void on_read(struct job *job, const struct error *error)
{
    struct serving *serving = job->context;
    if (!back_from_job(serving)) {
        return;
    }
    if (error != NULL) {
        log_error("nix: %s", error->text);
        http_exchange_abort(serving->exchange);
        serving_end(serving);
        return;
    }
    serving->service->counts.sent_bytes += serving->piece.used;
    serving->is_busy = true;
    bool has_room =
        http_exchange_write(serving->exchange, serving->piece.data, serving->piece.used);
    serving->is_busy = false;
    buffer_clear(&serving->piece);
    if (serving->is_over) {
        serving_end(serving);
    } else if (serving->at == serving->end) {
        http_exchange_end(serving->exchange);
        serving_end(serving);
    } else if (has_room) {
        read_on(serving);
    } else {
        serving->waits_for_client = true;
    }
}

static void on_drain(void *context)
{
    struct serving *serving = context;
    if (serving->waits_for_client && !serving->is_over) {
        serving->waits_for_client = false;
        read_on(serving);
    }
}

static void read_on(struct serving *serving)
{
    serving->job = job_start(serving->service, false, read_work, on_read, serving);
}

/* "bytes=5-", "bytes=5-9", "bytes=-5"; false: there is none, or none that is understood. */
static bool take_range(struct text field, uint64_t size, uint64_t *ret_from, uint64_t *ret_end)
{
    static const char unit[] = "bytes=";
    size_t skip = sizeof(unit) - 1;
    if (field.length <= skip || memcmp(field.data, unit, skip) != 0) {
        return false;
    }
    const char *text = field.data + skip;
    size_t length = field.length - skip;
    const char *dash = memchr(text, '-', length);
    uint64_t first = 0;
    uint64_t last = 0;
    if (dash == NULL) {
        return false;
    }
    bool has_last = text_parse_u64(text_of(dash + 1, length - (size_t)(dash - text) - 1), &last);
    if (dash == text) {
        *ret_from = !has_last || last == 0 ? size : last < size ? size - last : 0;
        *ret_end = size;
        return has_last;
    }
    bool is_open = dash + 1 == text + length;
    *ret_from = first;
    if (!text_parse_u64(text_of(text, (size_t)(dash - text)), &first) || (!is_open && !has_last) ||
        (has_last && last < first)) {
        return false;
    }
    *ret_from = first;
    *ret_end = has_last && last < size - 1 ? last + 1 : size;
    return true;
}

static void send_file(struct serving *serving, uint64_t size)
{
    struct http_exchange *exchange = serving->exchange;
    uint64_t from = 0;
    uint64_t end = size;
    char range[80];
    bool is_part = take_range(http_exchange_field(exchange, "Range"), size, &from, &end);
    http_exchange_add_field(exchange, "Content-Type", "application/x-nix-nar");
    http_exchange_add_field(exchange, "Accept-Ranges", "bytes");
    if (is_part && from >= size) {
        snprintf(range, sizeof(range), "bytes */%" PRIu64, size);
        http_exchange_add_field(exchange, "Content-Range", range);
        count(serving, NIX_REFUSED);
        http_exchange_respond(exchange, 416, NULL, 0);
        serving_end(serving);
        return;
    }
    if (is_part) {
        snprintf(range, sizeof(range), "bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, from, end - 1,
                 size);
        http_exchange_add_field(exchange, "Content-Range", range);
    }
    count(serving, NIX_SERVED);
    serving->at = from;
    serving->end = end;
    serving->is_busy = true;
    http_exchange_begin(exchange, is_part ? 206 : 200, end - from);
    serving->is_busy = false;
    if (serving->is_over) {
        serving_end(serving);
    } else if (http_exchange_method(exchange) == HTTP_HEAD || from == end) {
        http_exchange_end(exchange);
        serving_end(serving);
    } else {
        read_on(serving);
    }
}

static void on_packed(const struct error *error, const struct packed *packed, void *context)
{
    struct serving *serving = context;
    struct error err = {0};
    uint64_t size = 0;
    serving->pack_wait = NULL;
    if (error == NULL &&
        image_open(serving->service->options.images, packed->blob, &serving->fd, &size, &err) < 0) {
        error = &err;
    }
    if (error != NULL) {
        refuse(serving, error);
    } else {
        send_file(serving, size);
    }
}

static void serve_nar(struct serving *serving)
{
    const struct packed *packed = packed_find(serving->service, serving->hash, serving->nar_hash);
    if (packed != NULL) {
        on_packed(NULL, packed, serving);
    } else {
        serving->pack_wait =
            pack_new(serving->service, serving->hash, serving->nar_hash, on_packed, serving);
    }
}

/* ---- Which of them ---- */

/* "HASH-NARHASH.nar.zst" */
static bool take_nar_name(struct serving *serving, const char *name)
{
    enum { NAR_CHARS = NIX_HASH_TEXT_SIZE - 1 };
    char text[sizeof("sha256:") + NIX_HASH_TEXT_SIZE];
    if (strlen(name) != NIX_HASH_CHARS + 1 + NAR_CHARS + sizeof(".nar.zst") - 1 ||
        !nix_hash_is_good(name, NIX_HASH_CHARS) || name[NIX_HASH_CHARS] != '-' ||
        strcmp(name + NIX_HASH_CHARS + 1 + NAR_CHARS, ".nar.zst") != 0) {
        return false;
    }
    memcpy(serving->hash, name, NIX_HASH_CHARS);
    snprintf(text, sizeof(text), "sha256:%.*s", (int)NAR_CHARS, name + NIX_HASH_CHARS + 1);
    return nix_sha256_read(text, strlen(text), serving->nar_hash);
}

static void serve_info(struct serving *serving)
{
    char text[NIX_FOLDER_MAX + 80];
    struct nix_store store;
    struct error err = {0};
    if (nix_service_store(serving->service, &store, &err) < 0) {
        serving_error(serving, &err);
        return;
    }
    snprintf(text, sizeof(text), "StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", store.folder,
             PRIORITY);
    serving_text(serving, 200, "text/x-nix-cache-info", text);
}

static void serve_read(struct serving *serving, const char *name)
{
    static const char suffix[] = ".narinfo";
    if (strcmp(name, "nix-cache-info") == 0) {
        serving->asked = NIX_ASKED_INFO;
        serve_info(serving);
    } else if (strlen(name) == NIX_HASH_CHARS + sizeof(suffix) - 1 &&
               nix_hash_is_good(name, NIX_HASH_CHARS) && text_ends_with(name, suffix)) {
        serving->asked = NIX_ASKED_NARINFO;
        memcpy(serving->hash, name, NIX_HASH_CHARS);
        serving->key_wait = nix_key_wait(serving->service, on_key, serving);
    } else if (text_starts_with(name, "nar/") && take_nar_name(serving, name + 4)) {
        serving->asked = NIX_ASKED_NAR;
        serve_nar(serving);
    } else if (text_starts_with(name, "nar/") && upload_has(serving->service, name + 4)) {
        serving_text(serving, 200, "application/x-nix-nar", "");
    } else {
        not_there(serving);
    }
}

static void on_request(struct http_exchange *exchange, void *context)
{
    struct nix_service *service = context;
    struct text path = http_exchange_path(exchange);
    enum http_method method = http_exchange_method(exchange);
    char name[NIX_URL_MAX] = "";
    struct serving *serving = NEW(struct serving);
    serving->service = service;
    serving->exchange = exchange;
    serving->fd = -1;
    list_push_back(&service->servings, &serving->link);
    http_exchange_on(exchange, on_drain, on_close, serving);
    bool uploads = method == HTTP_PUT;
    serving->asked = uploads ? NIX_ASKED_UPLOAD : NIX_ASKED_OTHER;
    if (!uploads && method != HTTP_GET && method != HTTP_HEAD) {
        http_exchange_add_field(exchange, "Allow", "GET, HEAD, PUT");
        serving_text(serving, 405, "text/plain", "405\n");
    } else if (!http_percent_decode(text_of(path.data + 1, path.length - 1), name, sizeof(name))) {
        not_there(serving);
    } else if (!is_allowed(serving, uploads)) {
        return;
    } else if (uploads) {
        upload_begin(serving, name);
    } else {
        serve_read(serving, name);
    }
}

/* ---- Life ---- */

static int listen_clear(struct nix_service *service, struct error *err)
{
    int r = http_server_listen(service->server, service->options.http_address, &service->port, err);
    return r < 0 ? error_wrap(err, "nix_cache_address") : 0;
}

static int listen_secure(struct nix_service *service, struct error *err)
{
    const struct secure_options secure = {.certificate_file = service->options.tls_certificate,
                                          .key_file = service->options.tls_key,
                                          .who = "nix"};
    int r = secure_new(service->options.loop, &secure, &service->secure, err);
    if (r < 0) {
        return error_wrap(err, "nix_cache_tls_certificate, nix_cache_tls_key");
    }
    r = http_server_listen_tls(service->server, service->options.http_address,
                               secure_context(service->secure), NULL, NULL, NULL, &service->port,
                               err);
    return r < 0 ? error_wrap(err, "nix_cache_address") : 0;
}

int serve_start(struct nix_service *service, struct error *err)
{
    struct http_server_options options = http_server_defaults();
    bool has_certificate = service->options.tls_certificate[0] != '\0';
    if (has_certificate != (service->options.tls_key[0] != '\0')) {
        return error_set(err, ERROR_INVALID,
                         "HTTPS needs both nix_cache_tls_certificate and nix_cache_tls_key");
    }
    if (service->options.http_address[0] == '\0') {
        return !has_certificate
            ? 0
            : error_set(err, ERROR_INVALID,
                        "nix_cache_tls_certificate has no effect without nix_cache_address");
    }
    int r = http_server_new(service->options.loop, &options, on_request, service, &service->server,
                            err);
    if (r == 0) {
        r = has_certificate ? listen_secure(service, err) : listen_clear(service, err);
    }
    if (r < 0) {
        serve_stop(service);
        return r;
    }
    log_info("nix: the store is a binary cache at http%s://%s", has_certificate ? "s" : "",
             service->options.http_address);
    return 0;
}

void nix_reload(struct nix_service *service)
{
    if (service->secure != NULL) {
        secure_reload(service->secure);
    }
}

void serve_stop(struct nix_service *service)
{
    http_server_free(service->server);
    secure_free(service->secure);
    service->server = NULL;
    service->secure = NULL;
}
