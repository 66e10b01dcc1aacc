/* The documents of OCI images: see oci.h. */
#include "engine/image/oci.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/image.h"

#define LAYER_BYTES_MAX (UINT64_C(64) << 30)

enum { TEXT_BYTES_MAX = 64 << 10 };

/* ---- Small parts ---- */

static int read_object(const void *bytes, size_t length, json_t **ret_object, struct error *err)
{
    if (length > OCI_DOCUMENT_BYTES_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "a document of more than %d bytes",
                         OCI_DOCUMENT_BYTES_MAX);
    }
    int r = json_read(bytes, length, ret_object, err);
    if (r == 0 && !json_is_object(*ret_object)) {
        json_decref(*ret_object);
        *ret_object = NULL;
        return error_set(err, ERROR_INVALID, "it is no object");
    }
    return r;
}

int oci_parse_digest(const char *text, char ret_id[HASH_TEXT_SIZE], struct error *err)
{
    static const char prefix[] = "sha256:";
    const char *digits = text_starts_with(text, prefix) ? text + strlen(prefix) : "";
    if (!image_id_is_good(digits)) {
        return error_set(err, ERROR_INVALID, "\"%.80s\" is no digest: sha256: and 64 digits", text);
    }
    snprintf(ret_id, HASH_TEXT_SIZE, "%.64s", digits);
    return 0;
}

static int parse_descriptor(const json_t *object, struct oci_descriptor *ret_descriptor,
                            struct error *err)
{
    const json_t *size = json_object_get(object, "size");
    struct oci_descriptor descriptor = {0};
    if (!json_is_integer(size) || json_integer_value(size) < 0 ||
        (uint64_t)json_integer_value(size) > LAYER_BYTES_MAX) {
        return error_set(err, ERROR_INVALID, "a size is missing, or no size");
    }
    int r = oci_parse_digest(json_text(object, "digest"), descriptor.id, err);
    descriptor.size_bytes = (uint64_t)json_integer_value(size);
    if (r == 0) {
        *ret_descriptor = descriptor;
    }
    return r;
}

/* ---- Manifests ---- */

/* Layers that are no tar archives: foreign ones (elsewhere to be had), encrypted ones, wasm. */
static bool is_layer(const char *type)
{
    static const char *const types[] = {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    };
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (strcmp(type, types[i]) == 0) {
            return true;
        }
    }
    return false;
}

static int parse_layers(const json_t *layers, struct oci_manifest *manifest, struct error *err)
{
    size_t index = 0;
    json_t *layer = NULL;
    if (!json_is_array(layers) || json_array_size(layers) > OCI_LAYERS_MAX) {
        return error_set(err, ERROR_INVALID, "it has no list of at most %d layers", OCI_LAYERS_MAX);
    }
    json_array_foreach(layers, index, layer)
    {
        const char *type = json_text(layer, "mediaType");
        if (!is_layer(type)) {
            return error_set(err, ERROR_UNSUPPORTED,
                             "a layer is of type \"%.100s\", which is no file system", type);
        }
        if (parse_descriptor(layer, &manifest->layers[manifest->layer_count], err) < 0) {
            return -(int)err->kind;
        }
        manifest->layer_count++;
    }
    return 0;
}

static bool is_tagged(const json_t *entry, const char *tag)
{
    const json_t *annotations = json_object_get(entry, "annotations");
    const char *name = json_text(annotations, "org.opencontainers.image.ref.name");
    const char *colon = strrchr(name, ':'); /* some write the whole reference */
    return strcmp(name, tag) == 0 || (colon != NULL && strcmp(colon + 1, tag) == 0);
}

/* An attestation has the platform "unknown"; where none is said there is nothing to choose. */
static bool is_for_us(const json_t *entry)
{
    const json_t *platform = json_object_get(entry, "platform");
    return platform == NULL ||
        (strcmp(json_text(platform, "os"), "linux") == 0 &&
         strcmp(json_text(platform, "architecture"), "amd64") == 0);
}

static int choose(const json_t *entries, const char *tag, struct oci_descriptor *ret_next,
                  struct error *err)
{
    size_t index = 0;
    json_t *entry = NULL;
    const json_t *chosen = NULL;
    bool is_one_tagged = tag == NULL;
    json_array_foreach(entries, index, entry)
    {
        bool is_meant = tag == NULL || is_tagged(entry, tag);
        is_one_tagged = is_one_tagged || is_meant;
        if (chosen == NULL && is_meant && is_for_us(entry)) {
            chosen = entry;
        }
    }
    if (!is_one_tagged) {
        return error_set(err, ERROR_NOT_FOUND, "there is no image of the tag \"%.100s\" in it",
                         tag);
    }
    return chosen != NULL ? parse_descriptor(chosen, ret_next, err)
                          : error_set(err, ERROR_NOT_FOUND, "it has no image for linux/amd64");
}

int oci_parse_manifest(const void *bytes, size_t length, const char *tag, bool *ret_is_index,
                       struct oci_descriptor *ret_next, struct oci_manifest *ret_manifest,
                       struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    int r = read_object(bytes, length, &document, err);
    if (r < 0) {
        return error_wrap(err, "the manifest");
    }
    const json_t *entries = json_object_get(document, "manifests");
    json_int_t version = json_integer_value(json_object_get(document, "schemaVersion"));
    *ret_manifest = (struct oci_manifest){0};
    *ret_is_index = json_is_array(entries);
    if (version != 2) {
        r = error_set(err, ERROR_UNSUPPORTED, "schemaVersion %lld is not 2", (long long)version);
    } else if (*ret_is_index) {
        r = choose(entries, tag, ret_next, err);
    } else {
        r = parse_descriptor(json_object_get(document, "config"), &ret_manifest->config, err);
        r = r < 0 ? r : parse_layers(json_object_get(document, "layers"), ret_manifest, err);
    }
    return r < 0 ? error_wrap(err, "the manifest") : 0;
}

/* ---- The configuration ---- */

static void list_free(char **list)
{
    for (size_t i = 0; list != NULL && list[i] != NULL; i++) {
        free(list[i]);
    }
    free(list);
}

void oci_config_done(struct oci_config *config)
{
    list_free(config->arguments);
    list_free(config->entrypoint);
    list_free(config->command);
    list_free(config->environment);
    list_free(config->ports);
    list_free(config->volumes);
    free(config->folder);
    free(config->user);
    free(config->stop_signal);
    *config = (struct oci_config){0};
}

static size_t count_of(char *const *list)
{
    size_t count = 0;
    while (list[count] != NULL) {
        count++;
    }
    return count;
}

/* A missing list, or null, is an empty one. */
static int take_list(const json_t *config, const char *key, char ***ret_list, struct error *err)
{
    const json_t *values = json_object_get(config, key);
    size_t size = json_array_size(values);
    if (values != NULL && !json_is_null(values) && !json_is_array(values)) {
        return error_set(err, ERROR_INVALID, "%s is no list", key);
    }
    if (size > OCI_WORDS_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "%s has more than %d texts", key, OCI_WORDS_MAX);
    }
    char **list = memory_new(size + 1, sizeof(char *));
    *ret_list = list;
    for (size_t i = 0; i < size; i++) {
        const json_t *value = json_array_get(values, i);
        if (!json_is_string(value) || json_string_length(value) > TEXT_BYTES_MAX) {
            return error_set(err, ERROR_INVALID, "%s has something in it that is no short text",
                             key);
        }
        list[i] = memory_copy_string(json_string_value(value));
    }
    return 0;
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sets are objects with empty values. */
static int take_set(const json_t *config, const char *key, char ***ret_list, struct error *err)
{
    const json_t *set = json_object_get(config, key);
    size_t size = json_object_size(set);
    size_t count = 0;
    const char *name = NULL;
    json_t *value = NULL;
    if (size > OCI_WORDS_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "%s has more than %d names", key, OCI_WORDS_MAX);
    }
    char **list = memory_new(size + 1, sizeof(char *));
    *ret_list = list;
    json_object_foreach((json_t *)(uintptr_t)set, name, value)
    {
        list[count++] = memory_copy_string(name);
    }
    if (count > 1) {
        qsort(list, count, sizeof(char *), compare);
    }
    return 0;
}

static int take_text(const json_t *config, const char *key, char **ret_text, struct error *err)
{
    const char *text = json_text(config, key);
    if (strlen(text) > TEXT_BYTES_MAX || !text_is_printable(text)) {
        return error_set(err, ERROR_INVALID, "%s is no short, printable text", key);
    }
    *ret_text = memory_copy_string(text);
    return 0;
}

static int take_diffs(const json_t *root, struct oci_config *config, struct error *err)
{
    const json_t *list = json_object_get(root, "diff_ids");
    size_t size = json_array_size(list);
    if (size > OCI_LAYERS_MAX) {
        return error_set(err, ERROR_INVALID, "more than %d layers", OCI_LAYERS_MAX);
    }
    for (size_t i = 0; i < size; i++) {
        const char *digest = json_string_value(json_array_get(list, i));
        if (oci_parse_digest(digest != NULL ? digest : "", config->diff_ids[i], err) < 0) {
            return -(int)err->kind;
        }
        config->diff_count++;
    }
    return 0;
}

static char **joined(char *const *first, char *const *second)
{
    size_t count = count_of(first);
    size_t more = count_of(second);
    char **list = memory_new(count + more + 1, sizeof(char *));
    for (size_t i = 0; i < count + more; i++) {
        list[i] = memory_copy_string(i < count ? first[i] : second[i - count]);
    }
    return list;
}

static int take_config(const json_t *document, struct oci_config *config, struct error *err)
{
    const json_t *run = json_object_get(document, "config");
    const char *architecture = json_text(document, "architecture");
    const char *os = json_text(document, "os");
    if (strcmp(architecture, "amd64") != 0 || strcmp(os, "linux") != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "the image is for %.32s/%.32s, not linux/amd64",
                         os, architecture);
    }
    int r = take_list(run, "Entrypoint", &config->entrypoint, err);
    r = r < 0 ? r : take_list(run, "Cmd", &config->command, err);
    r = r < 0 ? r : take_list(run, "Env", &config->environment, err);
    r = r < 0 ? r : take_set(run, "ExposedPorts", &config->ports, err);
    r = r < 0 ? r : take_set(run, "Volumes", &config->volumes, err);
    r = r < 0 ? r : take_text(run, "WorkingDir", &config->folder, err);
    r = r < 0 ? r : take_text(run, "User", &config->user, err);
    r = r < 0 ? r : take_text(run, "StopSignal", &config->stop_signal, err);
    r = r < 0 ? r : take_diffs(json_object_get(document, "rootfs"), config, err);
    if (r == 0) {
        config->arguments = joined(config->entrypoint, config->command);
    }
    return r;
}

int oci_parse_config(const void *bytes, size_t length, struct oci_config *ret_config,
                     struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    struct oci_config config = {0};
    int r = read_object(bytes, length, &document, err);
    r = r < 0 ? r : take_config(document, &config, err);
    if (r < 0) {
        oci_config_done(&config);
        return error_wrap(err, "the image's configuration");
    }
    *ret_config = config;
    return 0;
}

void oci_image_done(struct oci_image *image)
{
    oci_config_done(&image->config);
    for (size_t i = 0; i < image->layer_count; i++) {
        free(image->layers[i]);
    }
    *image = (struct oci_image){0};
}

/* ---- References ---- */

static bool is_made_of(struct text text, const char *more)
{
    for (size_t i = 0; i < text.length; i++) {
        char c = text.data[i];
        bool is_one = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!is_one && (c == '\0' || strchr(more, c) == NULL)) {
            return false;
        }
    }
    return text.length > 0;
}

/* distribution-spec: words of a-z, 0-9, with . _ - between, and slashes. */
static bool is_repository(struct text text)
{
    if (!is_made_of(text, "._-/") || text.data[0] == '/' || text.data[text.length - 1] == '/') {
        return false;
    }
    for (size_t i = 1; i < text.length; i++) {
        bool is_slash = text.data[i - 1] == '/';
        if (is_slash && (text.data[i] == '/' || text.data[i] == '.')) {
            return false;
        }
    }
    return text.data[0] != '.';
}

/* The first word is a registry when it looks like a host: with a dot or a port, or "localhost". */
static bool names_registry(struct text word)
{
    return memchr(word.data, '.', word.length) != NULL ||
        memchr(word.data, ':', word.length) != NULL || text_equal(word, "localhost");
}

static int take_ends(struct text *rest, struct oci_reference *reference, struct error *err)
{
    const char *at = memchr(rest->data, '@', rest->length);
    if (at != NULL) {
        MEMORY_OWNED char *digest =
            memory_copy_text(at + 1, rest->length - (size_t)(at + 1 - rest->data));
        rest->length = (size_t)(at - rest->data);
        if (oci_parse_digest(digest, reference->id, err) < 0) {
            return -(int)err->kind;
        }
    }
    const char *slash = memrchr(rest->data, '/', rest->length);
    size_t skip = slash != NULL ? (size_t)(slash - rest->data) : 0;
    const char *colon = memchr(rest->data + skip, ':', rest->length - skip);
    if (colon == NULL) {
        snprintf(reference->tag, sizeof(reference->tag), "%s",
                 reference->id[0] == '\0' ? "latest" : "");
        return 0;
    }
    struct text tag = text_of(colon + 1, rest->length - (size_t)(colon + 1 - rest->data));
    static const char more[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ_.-";
    if (!is_made_of(tag, more) || tag.length >= OCI_TAG_SIZE || tag.data[0] == '.' ||
        tag.data[0] == '-') {
        return error_set(err, ERROR_INVALID, "\"%.*s\" is no tag",
                         (int)(tag.length < 100 ? tag.length : 100), tag.data);
    }
    snprintf(reference->tag, sizeof(reference->tag), "%.*s", (int)tag.length, tag.data);
    rest->length = (size_t)(colon - rest->data);
    return 0;
}

int oci_parse_reference(const char *text, struct oci_reference *ret_reference, struct error *err)
{
    static const char scheme[] = "docker://";
    struct oci_reference reference = {0};
    const char *begin = text + (text_starts_with(text, scheme) ? sizeof(scheme) - 1 : 0);
    struct text rest = text_of(begin, strlen(begin));
    const char *slash = strchr(begin, '/');
    struct text host = text_of(begin, slash != NULL ? (size_t)(slash - begin) : 0);
    bool has_registry = slash != NULL && names_registry(host);
    if (has_registry) {
        rest = text_of(slash + 1, strlen(slash + 1));
    }
    int r = take_ends(&rest, &reference, err);
    if (r < 0) {
        return r;
    }
    static const char capitals[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ.-:[]";
    if (!is_repository(rest) || rest.length > OCI_NAME_SIZE - 16 ||
        (has_registry &&
         (!is_made_of(host, capitals) || host.data[0] == '.' || host.length >= OCI_NAME_SIZE))) {
        return error_set(err, ERROR_INVALID,
                         "\"%.200s\" is no image: [docker://][REGISTRY/]NAME[:TAG][@sha256:...]",
                         text);
    }
    bool is_short = !has_registry && memchr(rest.data, '/', rest.length) == NULL;
    bool is_hub = !has_registry || text_equal(host, "docker.io");
    snprintf(reference.registry, sizeof(reference.registry), "%.*s",
             is_hub ? (int)(sizeof("registry-1.docker.io") - 1) : (int)host.length,
             is_hub ? "registry-1.docker.io" : host.data);
    snprintf(reference.repository, sizeof(reference.repository), "%s%.*s",
             is_short ? "library/" : "", (int)rest.length, rest.data);
    *ret_reference = reference;
    return 0;
}

/* ---- Challenges ---- */

static char *parameter(struct oci_challenge *challenge, struct text name, size_t *ret_size)
{
    static const char *const names[] = {"realm", "service", "scope"};
    char *const places[] = {challenge->realm, challenge->service, challenge->scope};
    const size_t sizes[] = {sizeof(challenge->realm), sizeof(challenge->service),
                            sizeof(challenge->scope)};
    for (size_t i = 0; i < 3; i++) {
        if (text_equal_ignoring_case(name, names[i])) {
            *ret_size = sizes[i];
            return places[i];
        }
    }
    return NULL;
}

/* One value, quoted or not; returns what comes behind it, or NULL: it does not end. */
static const char *take_value(const char *at, char *place, size_t size)
{
    bool is_quoted = *at == '"';
    size_t used = 0;
    at += is_quoted ? 1 : 0;
    while (*at != '\0' && (is_quoted ? *at != '"' : *at != ',' && *at != ' ')) {
        if (is_quoted && *at == '\\' && at[1] != '\0') {
            at++;
        }
        if (place != NULL && used + 1 < size) {
            place[used++] = *at;
        }
        at++;
    }
    if (place != NULL && size > 0) {
        place[used] = '\0';
    }
    if (is_quoted) {
        return *at == '"' ? at + 1 : NULL;
    }
    return at;
}

bool oci_parse_challenge(const char *field, struct oci_challenge *ret_challenge)
{
    static const char scheme[] = "Bearer";
    struct oci_challenge challenge = {0};
    const char *at = field + strspn(field, " \t");
    struct text word = text_of(at, strcspn(at, " \t"));
    if (!text_equal_ignoring_case(word, scheme)) {
        return false;
    }
    at += word.length;
    while (at != NULL) {
        at += strspn(at, " \t,");
        struct text name = text_of(at, strcspn(at, "= \t,"));
        if (name.length == 0 || at[name.length] != '=') {
            break;
        }
        size_t size = 0;
        char *place = parameter(&challenge, name, &size);
        at = take_value(at + name.length + 1, place, size);
    }
    *ret_challenge = challenge;
    return challenge.realm[0] != '\0';
}
