/*
 * Fetching images from registries: the pulling half of the OCI distribution-spec, and Docker's
 * token authentication (distribution, docs/spec/auth/token.md), by libcurl.
 *
 * A password goes to the registry, or to where the registry says that tokens are given out, by
 * HTTPS; never along with a redirection to another host.
 */
#include <curl/curl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/base64.h"
#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/version.h"

#include "engine/image/image.h"
#include "engine/image/oci.h"

enum {
    ATTEMPTS_MAX = 4, /* in a row that bring nothing */
    PROGRESS_BYTES = 64 << 10,
    INDEXES_MAX = 4,
    REDIRECTIONS_MAX = 8,
    CONNECT_S = 30,
    SILENT_S = 60, /* without a byte: the connection is given up */
    TOKEN_BYTES_MAX = 64 << 10,
    COMPLAINT_BYTES_MAX = 8 << 10,
};

static const char manifest_types[] =
    "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json";

struct client {
    CURL *curl;
    const struct oci_reference *reference;
    const struct oci_registry_options *options;
    const char *host;
    bool is_mirror;
    char *authorization; /* a field, or NULL */
};

/* ---- One exchange ---- */

struct exchange {
    struct client *client;
    long status;
    char challenge[2048];
    struct buffer body; /* of a failure, or where there is no writer */
    size_t body_max;
    struct image_writer *writer;
    uint64_t at;   /* bytes of the blob that have come before this one */
    uint64_t have; /* that the writer had */
    uint64_t size; /* that it is to have */
    struct error *err;
    bool has_failed; /* err says why */
};

static bool takes_content(const struct exchange *exchange)
{
    return exchange->writer != NULL && (exchange->status == 200 || exchange->status == 206);
}

/* A server that does not know ranges begins at the beginning: what there is is passed over. */
static int take_content(struct exchange *exchange, const uint8_t *bytes, size_t length)
{
    uint64_t skip = exchange->at < exchange->have ? exchange->have - exchange->at : 0;
    skip = skip < length ? skip : length;
    exchange->at += length;
    if (exchange->at > exchange->size) {
        return error_set(exchange->err, ERROR_CORRUPT, "a layer is larger than its manifest says");
    }
    return image_writer_add(exchange->writer, bytes + skip, length - (size_t)skip, exchange->err);
}

static size_t on_bytes(char *bytes, size_t one, size_t length, void *context)
{
    struct exchange *exchange = context;
    (void)one;
    curl_easy_getinfo(exchange->client->curl, CURLINFO_RESPONSE_CODE, &exchange->status);
    if (takes_content(exchange)) {
        if (exchange->at == 0 && exchange->status == 206) {
            exchange->at = exchange->have;
        }
        exchange->has_failed = take_content(exchange, (const uint8_t *)bytes, length) < 0;
        return exchange->has_failed ? 0 : length;
    }
    bool is_success = exchange->status < 300;
    size_t most = is_success ? exchange->body_max : COMPLAINT_BYTES_MAX;
    if (length > most - exchange->body.used && is_success) {
        exchange->has_failed = true;
        error_set(exchange->err, ERROR_TOO_LARGE, "an answer of more than %zu bytes", most);
        return 0;
    }
    size_t room = most - exchange->body.used;
    buffer_append(&exchange->body, bytes, length < room ? length : room);
    return length;
}

static size_t on_field(char *bytes, size_t one, size_t length, void *context)
{
    static const char name[] = "www-authenticate:";
    struct exchange *exchange = context;
    size_t skip = sizeof(name) - 1;
    (void)one;
    if (length > skip && strncasecmp(bytes, name, skip) == 0) {
        size_t end = length;
        while (end > skip && (bytes[end - 1] == '\r' || bytes[end - 1] == '\n')) {
            end--;
        }
        snprintf(exchange->challenge, sizeof(exchange->challenge), "%.*s", (int)(end - skip),
                 bytes + skip);
    }
    return length;
}

static int on_progress(void *context, curl_off_t total, curl_off_t now, curl_off_t up_total,
                       curl_off_t up_now)
{
    const struct client *client = context;
    (void)total;
    (void)now;
    (void)up_total;
    (void)up_now;
    return atomic_load(client->options->is_cancelled) ? 1 : 0;
}

static void set_options(struct client *client, const char *url, struct exchange *exchange)
{
    const struct oci_registry_options *options = client->options;
    CURL *curl = client->curl;
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, options->is_insecure ? "http,https" : "https");
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR,
                     options->is_insecure ? "http,https" : "https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, (long)REDIRECTIONS_MAX);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)SILENT_S);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, exchange);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_field);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, exchange);
    if (options->is_cancelled != NULL) {
        curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
        curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(curl, CURLOPT_XFERINFODATA, client);
    }
    if (options->authority != NULL) {
        curl_easy_setopt(curl, CURLOPT_CAINFO, options->authority);
    }
    if (options->is_insecure) {
        curl_easy_setopt(curl, CURLOPT_NOPROXY, "*"); /* it is on this machine */
    }
}

static int explain(const struct client *client, CURLcode code, struct error *err)
{
    const char *authority = client->options->authority;
    const char *why = curl_easy_strerror(code);
    if (code == CURLE_ABORTED_BY_CALLBACK) {
        return error_set(err, ERROR_CANCELLED, "it was cancelled");
    }
    if (code == CURLE_PEER_FAILED_VERIFICATION) {
        return error_set(err, ERROR_DENIED,
                         "%.200s has a certificate of nobody who is trusted here: --ca names the "
                         "certificate (PEM) of who has signed it (%.100s)",
                         client->host, why);
    }
    if (code == CURLE_SSL_CACERT_BADFILE && authority != NULL) {
        return error_set(err, ERROR_INVALID, "--ca %.200s: no certificates in PEM are there",
                         authority);
    }
    return error_set(err, ERROR_UNAVAILABLE, "%.200s: %.200s", client->host, why);
}

/* Status in exchange->status; a failure is one of the connection, or exchange->err's. */
static int perform(struct client *client, const char *url, const char *accept,
                   const char *authorization, struct exchange *exchange)
{
    char agent[64];
    struct curl_slist *fields = curl_slist_append(NULL, accept);
    snprintf(agent, sizeof(agent), "User-Agent: blixard/%.40s", blixard_version);
    fields = curl_slist_append(fields, agent);
    if (authorization != NULL) {
        fields = curl_slist_append(fields, authorization);
    }
    exchange->client = client;
    set_options(client, url, exchange);
    curl_easy_setopt(client->curl, CURLOPT_HTTPHEADER, fields);
    if (exchange->have > 0) {
        char range[32];
        snprintf(range, sizeof(range), "%" PRIu64 "-", exchange->have);
        curl_easy_setopt(client->curl, CURLOPT_RANGE, range);
    }
    CURLcode code = curl_easy_perform(client->curl);
    curl_slist_free_all(fields);
    curl_easy_getinfo(client->curl, CURLINFO_RESPONSE_CODE, &exchange->status);
    if (exchange->has_failed) {
        return -(int)exchange->err->kind;
    }
    if (code == CURLE_OK) {
        return 0;
    }
    return explain(client, code, exchange->err);
}

/* What a registry says of a failure: {"errors": [{"code": ..., "message": ...}]}. */
static int complain(const struct client *client, const struct exchange *exchange, const char *what,
                    struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    struct error ignored = {0};
    MEMORY_OWNED char *text = NULL;
    if (exchange->body.used > 0 &&
        json_read(exchange->body.data, exchange->body.used, &document, &ignored) == 0) {
        const json_t *first = json_array_get(json_object_get(document, "errors"), 0);
        const char *message = json_string_value(json_object_get(first, "message"));
        text =
            message != NULL ? text_make_printable(memory_format(": %.120s", message), false) : NULL;
    }
    const char *more = text != NULL ? text : "";
    const char *username = client->is_mirror ? NULL : client->options->username;
    switch (exchange->status) {
    case 401:
        if (username != NULL) {
            return error_set(err, ERROR_UNAUTHENTICATED,
                             "%.100s does not take this password of %.100s, or he may not have "
                             "%.200s%s",
                             client->host, username, what, more);
        }
        return error_set(err, ERROR_UNAUTHENTICATED,
                         "%.100s wants to know who asks for %.200s%s: give --username and "
                         "--password-stdin (what does not exist may be answered so, too)",
                         client->host, what, more);
    case 403:
        return error_set(err, ERROR_DENIED, "%.100s refuses %.200s%s", client->host, what, more);
    case 404:
        return error_set(err, ERROR_NOT_FOUND, "%.100s has no %.200s%s", client->host, what, more);
    default:
        return error_set(
            err,
            exchange->status == 429 || exchange->status >= 500 ? ERROR_UNAVAILABLE : ERROR_PROTOCOL,
            "%.100s answers %ld for %.200s%s", client->host, exchange->status, what, more);
    }
}

/* ---- Who asks ---- */

static char *basic_field(const struct client *client)
{
    if (client->options->username == NULL || client->is_mirror) {
        return NULL;
    }
    BUFFER_WIPED struct buffer plain = {0};
    BUFFER_OWNED struct buffer field = {0};
    buffer_reserve(&plain,
                   strlen(client->options->username) + strlen(client->options->password) + 2);
    buffer_append_format(&plain, "%s:%s", client->options->username, client->options->password);
    buffer_append_string(&field, "Authorization: Basic ");
    base64_write(&field, plain.data, plain.used);
    return buffer_take(&field);
}

static void add_parameter(struct client *client, struct buffer *url, const char *name,
                          const char *value)
{
    char *encoded = curl_easy_escape(client->curl, value, 0);
    bool is_first = memchr(url->data, '?', url->used) == NULL;
    buffer_append_format(url, "%c%s=%s", is_first ? '?' : '&', name,
                         encoded != NULL ? encoded : "");
    curl_free(encoded);
}

static bool is_token(const char *text)
{
    size_t length = strlen(text);
    for (size_t i = 0; i < length; i++) {
        if (text[i] <= ' ' || text[i] > '~') {
            return false;
        }
    }
    return length > 0;
}

static int fetch_token(struct client *client, const struct oci_challenge *challenge,
                       struct error *err)
{
    BUFFER_OWNED struct buffer url = {0};
    MEMORY_OWNED char *basic = basic_field(client);
    MEMORY_OWNED char *scope = memory_format("repository:%s:pull", client->reference->repository);
    struct exchange exchange = {.body_max = TOKEN_BYTES_MAX, .err = err};
    JSON_OWNED json_t *document = NULL;
    buffer_append_string(&url, challenge->realm);
    if (challenge->service[0] != '\0') {
        add_parameter(client, &url, "service", challenge->service);
    }
    add_parameter(client, &url, "scope", challenge->scope[0] != '\0' ? challenge->scope : scope);
    int r = perform(client, buffer_string(&url), "Accept: application/json", basic, &exchange);
    if (r == 0 && exchange.status != 200) {
        r = complain(client, &exchange, "a token", err);
    }
    r = r < 0 ? r : json_read(exchange.body.data, exchange.body.used, &document, err);
    buffer_wipe(&exchange.body);
    if (r < 0) {
        return r;
    }
    const char *token = json_string_value(json_object_get(document, "token"));
    token = token != NULL ? token : json_string_value(json_object_get(document, "access_token"));
    if (token == NULL || !is_token(token)) {
        return error_set(err, ERROR_PROTOCOL, "%s gives no token", client->host);
    }
    free(client->authorization);
    client->authorization = memory_format("Authorization: Bearer %s", token);
    return 0;
}

/* After a 401: false, there is nothing more to be said. */
static int identify(struct client *client, const struct exchange *exchange, bool *ret_is_new,
                    struct error *err)
{
    struct oci_challenge challenge;
    *ret_is_new = true;
    if (oci_parse_challenge(exchange->challenge, &challenge)) {
        return fetch_token(client, &challenge, err);
    }
    char *basic = basic_field(client);
    *ret_is_new = basic != NULL;
    free(client->authorization);
    client->authorization = basic;
    return 0;
}

/* ---- Asking, again where it helps ---- */

static bool is_worth_retrying(const struct error *err)
{
    return err->kind == ERROR_UNAVAILABLE || err->kind == ERROR_CORRUPT;
}

/* One attempt, and another with a token when the registry asks for one. */
static int ask(struct client *client, const char *path, const char *what, struct exchange *exchange)
{
    MEMORY_OWNED char *url =
        memory_format("%s://%s/v2/%s/%s", client->options->is_insecure ? "http" : "https",
                      client->host, client->reference->repository, path);
    struct error *err = exchange->err;
    int r = perform(client, url, manifest_types, client->authorization, exchange);
    if (r == 0 && exchange->status == 401) {
        bool is_new = false;
        r = identify(client, exchange, &is_new, err);
        if (r == 0 && is_new) {
            buffer_clear(&exchange->body);
            r = perform(client, url, manifest_types, client->authorization, exchange);
        }
    }
    if (r < 0 || exchange->status == 200 || exchange->status == 206) {
        return r;
    }
    return complain(client, exchange, what, err);
}

static int fetch_manifest(struct client *client, const char *name, const char *id,
                          struct buffer *out, char ret_id[HASH_TEXT_SIZE], struct error *err)
{
    MEMORY_OWNED char *path =
        memory_format("manifests/%s%s", id[0] != '\0' ? "sha256:" : "", id[0] != '\0' ? id : name);
    MEMORY_OWNED char *what =
        memory_format("%s:%.80s", client->reference->repository, id[0] != '\0' ? id : name);
    int r = -ERROR_UNAVAILABLE;
    for (int attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
        struct exchange exchange = {.body_max = OCI_DOCUMENT_BYTES_MAX, .err = err};
        r = ask(client, path, what, &exchange);
        if (r == 0) {
            hash_bytes(exchange.body.data, exchange.body.used, ret_id);
            buffer_clear(out);
            buffer_append(out, exchange.body.data, exchange.body.used);
            if (id[0] != '\0' && strcmp(id, ret_id) != 0) {
                r = error_set(err, ERROR_CORRUPT, "%.100s gives another manifest than %.12s...",
                              client->host, id);
            }
        }
        buffer_done(&exchange.body);
        if (r == 0 || !is_worth_retrying(err)) {
            break;
        }
    }
    return r;
}

static int fetch_once(struct client *client, struct image_store *store,
                      const struct oci_descriptor *blob, uint64_t *ret_got, struct error *err)
{
    char id[HASH_TEXT_SIZE];
    MEMORY_OWNED char *path = memory_format("blobs/sha256:%s", blob->id);
    MEMORY_OWNED char *what = memory_format("blob %.12s...", blob->id);
    struct exchange exchange = {.size = blob->size_bytes, .err = err};
    int r = image_writer_resume(store, blob->id, &exchange.writer, &exchange.have, err);
    if (r < 0) {
        return r;
    }
    if (exchange.have > blob->size_bytes) {
        image_writer_abort(exchange.writer);
        return error_set(err, ERROR_CORRUPT, "what there is of a layer is too much of it");
    }
    r = exchange.have == blob->size_bytes ? 0 : ask(client, path, what, &exchange);
    buffer_done(&exchange.body);
    uint64_t got = exchange.at > exchange.have ? exchange.at : exchange.have;
    *ret_got = got;
    if (r == 0 && got == blob->size_bytes) {
        return image_writer_finish(exchange.writer, id, NULL, err);
    }
    if (r < 0 && err->kind == ERROR_CORRUPT) {
        *ret_got = 0;
        image_writer_abort(exchange.writer);
        return r;
    }
    image_writer_suspend(exchange.writer);
    return r < 0
        ? r
        : error_set(err, ERROR_UNAVAILABLE, "%.100s gives only part of %s", client->host, what);
}

static int fetch_blob(struct client *client, struct image_store *store,
                      const struct oci_descriptor *blob, struct error *err)
{
    int r = 0;
    uint64_t most = 0;
    for (int attempt = 0; attempt < ATTEMPTS_MAX && !image_exists(store, blob->id); attempt++) {
        uint64_t got = 0;
        r = fetch_once(client, store, blob, &got, err);
        if (r < 0 && !is_worth_retrying(err)) {
            break;
        }
        if (got > most + PROGRESS_BYTES) { /* a bad line, but it gets there */
            most = got;
            attempt = -1;
        }
    }
    return image_exists(store, blob->id) ? 0 : r;
}

/* ---- An image ---- */

static int fetch_all(struct client *client, struct image_store *store,
                     const struct oci_manifest *manifest, struct oci_image *image,
                     struct error *err)
{
    const struct oci_registry_options *options = client->options;
    BUFFER_OWNED struct buffer bytes = {0};
    int r = manifest->config.size_bytes <= OCI_DOCUMENT_BYTES_MAX
        ? fetch_blob(client, store, &manifest->config, err)
        : error_set(err, ERROR_TOO_LARGE, "the image's configuration is too large");
    r = r < 0 ? r : image_read(store, manifest->config.id, OCI_DOCUMENT_BYTES_MAX, &bytes, err);
    r = r < 0 ? r : oci_parse_config(bytes.data, bytes.used, &image->config, err);
    for (size_t i = 0; r == 0 && i < manifest->layer_count; i++) {
        const struct oci_descriptor *layer = &manifest->layers[i];
        if (options->on_layer != NULL && !image_exists(store, layer->id)) {
            options->on_layer(i, manifest->layer_count, layer->size_bytes, options->context);
        }
        r = fetch_blob(client, store, layer, err);
        if (r == 0) {
            image->layers[image->layer_count++] = image_path(store, layer->id);
        }
    }
    return r;
}

static int pull(struct client *client, struct image_store *store, struct oci_image *image,
                struct error *err)
{
    const struct oci_reference *reference = client->reference;
    BUFFER_OWNED struct buffer bytes = {0};
    struct oci_manifest manifest = {0};
    struct oci_descriptor next = {0};
    char id[HASH_TEXT_SIZE];
    bool is_index = true;
    snprintf(next.id, sizeof(next.id), "%s", reference->id);
    int r = 0;
    for (int i = 0; r == 0 && is_index && i < INDEXES_MAX; i++) {
        r = fetch_manifest(client, reference->tag, next.id, &bytes, id, err);
        r = r < 0
            ? r
            : oci_parse_manifest(bytes.data, bytes.used, NULL, &is_index, &next, &manifest, err);
    }
    if (r == 0 && is_index) {
        r = error_set(err, ERROR_INVALID, "its indexes lead to each other, and to no image");
    }
    if (r == 0) {
        snprintf(image->digest, sizeof(image->digest), "sha256:%s", id);
        snprintf(image->config_id, sizeof(image->config_id), "%s", manifest.config.id);
        r = fetch_all(client, store, &manifest, image, err);
    }
    return r;
}

static int pull_from(const char *host, bool is_mirror, const struct oci_reference *reference,
                     const struct oci_registry_options *options, struct image_store *store,
                     struct oci_image *ret_image, struct error *err)
{
    struct oci_image image = {0};
    struct client client = {.curl = curl_easy_init(),
                            .reference = reference,
                            .options = options,
                            .host = host,
                            .is_mirror = is_mirror};
    int r = client.curl != NULL ? pull(&client, store, &image, err)
                                : error_set(err, ERROR_OS, "libcurl does not start");
    curl_easy_cleanup(client.curl);
    free(client.authorization);
    if (r < 0) {
        oci_image_done(&image);
        return r;
    }
    *ret_image = image;
    return 0;
}

static bool is_on_this_machine(const char *host)
{
    size_t length = strcspn(host, ":");
    bool is_number = strspn(host, "0123456789.") == length && strncmp(host, "127.", 4) == 0;
    return is_number || strncmp(host, "[::1]", 5) == 0 ||
        text_equal(text_of(host, length), "localhost");
}

int oci_pull(const struct oci_reference *reference, const struct oci_registry_options *options,
             struct image_store *store, struct oci_image *ret_image, struct error *err)
{
    struct error ignored = {0};
    bool is_here = is_on_this_machine(reference->registry) &&
        (options->mirror == NULL || is_on_this_machine(options->mirror));
    if (options->is_insecure && !is_here) {
        return error_set(err, ERROR_DENIED,
                         "--insecure is for a registry on this machine; %.200s is spoken to by "
                         "HTTPS (--ca names a certificate to trust)",
                         reference->registry);
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int r = -ERROR_UNAVAILABLE;
    if (options->mirror != NULL) {
        r = pull_from(options->mirror, true, reference, options, store, ret_image, &ignored);
    }
    if (r < 0) {
        r = pull_from(reference->registry, false, reference, options, store, ret_image, err);
    }
    curl_global_cleanup();
    return r;
}
