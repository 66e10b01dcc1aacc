/*
 * Images that the node pulls, because it has the password and whoever asks has not: its blobs are
 * fetched from there, verified, and forgotten there.
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/image/oci.h"

#include "surface/cli/image.h"
#include "surface/cli/private.h"

enum { AUTHORITY_BYTES_MAX = 256 << 10 };

/* ---- What is asked ---- */

static int make_body(const struct arguments *arguments, json_t **ret_body, struct error *err)
{
    static const char *const others[] = {"username", "password-stdin", "auth-file", "insecure"};
    BUFFER_OWNED struct buffer authority = {0};
    const char *mirror = flag_value(arguments, "mirror");
    const char *path = flag_value(arguments, "ca");
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        if (flag_value(arguments, others[i]) != NULL) {
            return error_set(err, ERROR_INVALID, "--credentials or --%s, not both", others[i]);
        }
    }
    if (path != NULL && file_read(path, AUTHORITY_BYTES_MAX, &authority, err) < 0) {
        return error_wrap(err, "--ca");
    }
    *ret_body = json_pack("{s:s, s:s, s:s*, s:s*}", "reference", arguments->words[0], "credentials",
                          flag_value(arguments, "credentials"), "mirror", mirror, "authority",
                          path != NULL ? buffer_string(&authority) : NULL);
    return *ret_body != NULL
        ? 0
        : error_set(err, ERROR_INVALID, "the reference, or a flag, is no UTF-8");
}

static int ask(const struct arguments *arguments, char **ret_operation, json_t **ret_result,
               struct error *err)
{
    JSON_OWNED json_t *body = NULL;
    JSON_OWNED json_t *reference = NULL;
    JSON_OWNED json_t *ended = NULL;
    int r = make_body(arguments, &body, err);
    if (r == 0) {
        workshop_say("the node fetches its layers");
    }
    r = r < 0 ? r : request_send("POST", "/v1/pulls", body, &reference, err);
    const char *operation = json_text(reference, "operation");
    if (r == 0 && operation[0] == '\0') {
        return error_set(err, ERROR_PROTOCOL, "the answer names no operation");
    }
    r = r < 0 ? r : operation_wait_for(operation, &ended, err);
    if (r == 0) {
        *ret_operation = memory_copy_string(operation);
        *ret_result = json_incref(json_object_get(ended, "result"));
    }
    return r;
}

/* ---- Blobs ---- */

struct receiving {
    struct image_writer *writer;
    struct error error;
};

static bool on_bytes(const void *bytes, size_t length, void *context)
{
    struct receiving *receiving = context;
    return image_writer_add(receiving->writer, bytes, length, &receiving->error) == 0;
}

static int fetch_blob(const char *operation, const char *id, struct image_store *store,
                      struct error *err)
{
    char found[HASH_TEXT_SIZE];
    struct receiving receiving = {0};
    if (!image_id_is_good(id)) {
        return error_set(err, ERROR_PROTOCOL, "the node names a blob that cannot be");
    }
    if (image_exists(store, id)) {
        return 0;
    }
    MEMORY_OWNED char *target = memory_format("/v1/pulls/%s/%s", operation, id);
    int r = image_writer_new(store, &receiving.writer, err);
    if (r < 0) {
        return r;
    }
    ANSWER_OWNED struct answer answer = {.on_data = on_bytes, .context = &receiving};
    r = request("GET", target, NULL, NULL, 0, &answer, err);
    if (receiving.error.kind != ERROR_NONE) {
        *err = receiving.error;
        r = -(int)err->kind;
    }
    if (r < 0) {
        image_writer_abort(receiving.writer);
        return r;
    }
    r = image_writer_finish(receiving.writer, found, NULL, err);
    return r < 0 || strcmp(found, id) == 0
        ? r
        : error_set(err, ERROR_CORRUPT, "blob %.12s... is something else", id);
}

static int fetch_all(const char *operation, const json_t *result, struct image_store *store,
                     void (*on_layer)(size_t index, size_t count, uint64_t size_bytes,
                                      void *context),
                     struct oci_image *image, struct error *err)
{
    BUFFER_OWNED struct buffer bytes = {0};
    const json_t *layers = json_object_get(result, "layers");
    const char *config = json_text(result, "config");
    size_t count = json_array_size(layers);
    if (count > OCI_LAYERS_MAX) {
        return error_set(err, ERROR_PROTOCOL, "the node names %zu layers", count);
    }
    int r = fetch_blob(operation, config, store, err);
    r = r < 0 ? r : image_read(store, config, OCI_DOCUMENT_BYTES_MAX, &bytes, err);
    r = r < 0 ? r : oci_parse_config(bytes.data, bytes.used, &image->config, err);
    for (size_t i = 0; r == 0 && i < count; i++) {
        const char *layer = json_string_value(json_array_get(layers, i));
        on_layer(i, count, 0, NULL);
        r = fetch_blob(operation, layer != NULL ? layer : "", store, err);
        if (r == 0) {
            image->layers[image->layer_count++] = image_path(store, layer);
        }
    }
    return r;
}

int image_pull_by_node(const struct arguments *arguments, struct image_store *store,
                       void (*on_layer)(size_t index, size_t count, uint64_t size_bytes,
                                        void *context),
                       struct oci_image *ret_oci, struct error *err)
{
    JSON_OWNED json_t *result = NULL;
    MEMORY_OWNED char *operation = NULL;
    struct oci_image image = {0};
    struct error ignored = {0};
    int r = ask(arguments, &operation, &result, err);
    if (r < 0) {
        return r;
    }
    snprintf(image.digest, sizeof(image.digest), "%s", json_text(result, "digest"));
    r = fetch_all(operation, result, store, on_layer, &image, err);
    MEMORY_OWNED char *target = memory_format("/v1/pulls/%s", operation);
    request_json("DELETE", target, NULL, NULL, &ignored);
    if (r < 0) {
        oci_image_done(&image);
    } else {
        *ret_oci = image;
    }
    return r;
}
