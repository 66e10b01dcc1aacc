/* Documents: who and what each is, and whether that can be. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/yaml.h"

#include "service/manifest/parts.h"

enum { NAME_SIZE = 128, TIMEOUT_MS = 3600000 };

/* ---- Labels ---- */

static bool is_label(const char *text)
{
    return strlen(text) < MANIFEST_LABEL_SIZE && text_is_printable(text);
}

static int check_labels(const json_t *labels, const struct origin *origin, struct error *err)
{
    const char *name = NULL;
    json_t *value = NULL;
    if (labels != NULL && !json_is_object(labels)) {
        return origin_refuse(origin, "labels", err, "labels must be a mapping of texts");
    }
    if (json_object_size(labels) > MANIFEST_LABELS_MAX) {
        return origin_refuse(origin, "labels", err, "labels: at most %d", MANIFEST_LABELS_MAX);
    }
    json_object_foreach((json_t *)(uintptr_t)labels, name, value)
    {
        if (name[0] == '\0' || !is_label(name) || !json_is_string(value) ||
            !is_label(json_string_value(value))) {
            return origin_refuse(origin, "labels", err,
                                 "labels: names and values are texts of less than %d printable "
                                 "characters",
                                 MANIFEST_LABEL_SIZE);
        }
    }
    return 0;
}

/* ---- One document ---- */

static int check_keys(const json_t *document, const struct origin *origin, struct error *err)
{
    static const char *const keys[] = {"kind", "name", "project", "labels", "spec"};
    const size_t count = sizeof(keys) / sizeof(keys[0]);
    const char *key = NULL;
    json_t *value = NULL;
    if (!json_is_object(document)) {
        return origin_refuse(origin, "", err, "a document is a mapping with kind, name and spec");
    }
    json_object_foreach((json_t *)(uintptr_t)document, key, value)
    {
        size_t i = 0;
        while (i < count && strcmp(keys[i], key) != 0) {
            i++;
        }
        if (i == count) {
            const char *nearest = text_nearest(key, keys, count);
            return origin_refuse(origin, key, err, "%.80s is not known; %s%s", key,
                                 nearest != NULL ? "did you mean "
                                                 : "a document has kind, name, project, labels "
                                                   "and spec",
                                 nearest != NULL ? nearest : "");
        }
    }
    return 0;
}

/* An alias is one of a function: FUNCTION:ALIAS. */
static bool is_object_name(const struct manifest_kind *kind, const char *name)
{
    const char *colon = strchr(name, ':');
    if (kind->way == WAY_ALIAS) {
        MEMORY_OWNED char *function =
            memory_copy_text(name, colon != NULL ? (size_t)(colon - name) : 0);
        return colon != NULL && text_is_name(function) && text_is_name(colon + 1);
    }
    return name[0] != '\0' && strlen(name) < NAME_SIZE && text_is_printable(name) &&
        strchr(name, '/') == NULL;
}

static int check_identity(const json_t *document, const struct origin *origin,
                          const struct manifest_kind **ret_kind, struct error *err)
{
    struct error inner = {0};
    const char *kind = json_string_value(json_object_get(document, "kind"));
    const char *name = json_string_value(json_object_get(document, "name"));
    const json_t *project = json_object_get(document, "project");
    if (kind == NULL) {
        return origin_refuse(origin, "kind", err, "kind is missing: Machine, Network, Route, ...");
    }
    *ret_kind = kind_find(kind, &inner);
    if (*ret_kind == NULL) {
        return origin_refuse(origin, "kind", err, "%s", inner.text);
    }
    if (name == NULL) {
        return origin_refuse(origin, "name", err, "name is missing");
    }
    if (!is_object_name(*ret_kind, name)) {
        return origin_refuse(origin, "name", err, "\"%.80s\" is no name of a kind %s%s", name, kind,
                             (*ret_kind)->way == WAY_ALIAS ? ": it is FUNCTION:ALIAS" : "");
    }
    return project == NULL || (json_is_string(project) && text_is_name(json_string_value(project)))
        ? 0
        : origin_refuse(origin, "project", err, "project is not the name of a project");
}

static int check_twice(const struct manifest_set *set, const struct manifest *manifest,
                       struct error *err)
{
    for (size_t i = 0; i < set->count; i++) {
        const struct manifest *other = &set->items[i];
        if (other->kind == manifest->kind && strcmp(other->name, manifest->name) == 0 &&
            strcmp(other->project, manifest->project) == 0) {
            return error_set(err, ERROR_INVALID, "%s: %s %.80s stands at %s already",
                             manifest->place, manifest->kind->name, manifest->name, other->place);
        }
    }
    return 0;
}

static void manifest_done(struct manifest *manifest)
{
    free(manifest->name);
    free(manifest->project);
    free(manifest->place);
    json_decref(manifest->labels);
    json_decref(manifest->spec);
}

static int add_document(struct manifest_set *set, json_t *document, const struct origin *origin,
                        struct error *err)
{
    struct manifest manifest = {0};
    json_t *spec = json_object_get(document, "spec");
    int r = check_keys(document, origin, err);
    r = r < 0 ? r : check_identity(document, origin, &manifest.kind, err);
    r = r < 0 ? r : check_labels(json_object_get(document, "labels"), origin, err);
    if (r == 0 && spec != NULL && !json_is_object(spec) && !json_is_null(spec)) {
        r = origin_refuse(origin, "spec", err, "spec must be a mapping");
    }
    if (r < 0) {
        return r;
    }
    const char *project = json_string_value(json_object_get(document, "project"));
    manifest.name = memory_copy_string(json_text(document, "name"));
    manifest.project = memory_copy_string(project != NULL ? project : set->project);
    manifest.place = memory_format("%s:%u", origin->file, origin_line(origin, ""));
    manifest.labels = json_is_object(json_object_get(document, "labels"))
        ? json_incref(json_object_get(document, "labels"))
        : json_object();
    manifest.spec = json_is_object(spec) ? json_incref(spec) : json_object();
    r = spec_check(manifest.kind, manifest.spec, origin, err);
    r = r < 0 ? r : check_twice(set, &manifest, err);
    if (r == 0 && set->count == MANIFEST_OBJECTS_MAX) {
        r = error_set(err, ERROR_LIMIT, "%s: more than %d objects", manifest.place,
                      MANIFEST_OBJECTS_MAX);
    }
    if (r < 0) {
        manifest_done(&manifest);
        return r;
    }
    set->items = memory_resize(set->items, (set->count + 1) * sizeof(*set->items));
    set->items[set->count++] = manifest;
    return 0;
}

int read_documents(struct manifest_set *set, const char *file, const char *text, struct error *err)
{
    JSON_OWNED json_t *documents = NULL;
    JSON_OWNED json_t *lines = NULL;
    int r = yaml_read_all(text, strlen(text), &documents, &lines, err);
    if (r < 0) {
        return error_wrap(err, "%.200s", file);
    }
    for (size_t i = 0; i < json_array_size(documents); i++) {
        const struct origin origin = {file, json_array_get(lines, i)};
        r = r < 0 ? r : add_document(set, json_array_get(documents, i), &origin, err);
    }
    return r;
}

/* ---- A set ---- */

/* A Linux function's machine, and its code, if only that there is none. */
static void put_guest(json_t *spec, const json_t *blobs)
{
    const char *runner = json_text(spec, "runner");
    MEMORY_OWNED char *key =
        memory_format("guest:%s", runner[0] != '\0' ? runner : json_text(spec, "flake"));
    json_t *image = json_object_get(blobs, key);
    json_t *code = json_object_get(blobs, json_text(spec, "module"));
    if (image != NULL && json_object_get(spec, "image") == NULL) {
        json_object_set(spec, "image", image);
    }
    if (code != NULL) {
        json_object_set(spec, "module", code);
    }
}

/* Modules that a document names by a file were uploaded, or are known by what is in them; what is
 * built of a flake was built by who asks. */
static void put_blobs(struct manifest_set *set, const json_t *blobs)
{
    for (size_t i = 0; i < set->count; i++) {
        json_t *spec = set->items[i].spec;
        const char *module = json_string_value(json_object_get(spec, "module"));
        json_t *blob = module != NULL ? json_object_get(blobs, module) : NULL;
        const char *flake = json_string_value(json_object_get(spec, "flake"));
        json_t *built = flake != NULL ? json_object_get(blobs, flake) : NULL;
        bool is_linux = set->items[i].kind->way == WAY_FUNCTION &&
            strcmp(json_text(spec, "runtime"), "linux") == 0;
        if (is_linux) {
            put_guest(spec, blobs);
        } else if (set->items[i].kind->way == WAY_FUNCTION && blob != NULL) {
            json_object_set(spec, "module", blob);
        } else if (set->items[i].kind->way == WAY_FUNCTION && built != NULL && module == NULL) {
            json_object_set(spec, "module", built);
        } else if (strcmp(set->items[i].kind->name, "Machine") == 0 && built != NULL &&
                   json_object_get(spec, "runner") == NULL) {
            json_object_set(spec, "runner", built);
        }
    }
}

static bool is_set(const json_t *body, const char *key)
{
    return json_is_true(json_object_get(body, key));
}

static int take_wishes(struct manifest_set *set, const json_t *body, struct error *err)
{
    static const struct origin nowhere = {"labels", NULL};
    const char *owner = json_text(body, "owner");
    const char *wait = json_text(body, "wait");
    json_t *labels = json_object_get(body, "labels");
    set->owner = memory_copy_string(owner[0] != '\0' ? owner : "cli");
    set->labels = json_is_object(labels) ? json_incref(labels) : json_object();
    set->plan_digest = memory_copy_string(json_text(body, "plan"));
    set->prunes = is_set(body, "prune");
    set->forces = is_set(body, "force_conflicts");
    set->replaces = is_set(body, "replace");
    set->deletes = is_set(body, "delete");
    set->if_index = json_u64(body, "if_index");
    set->timeout_ms = json_u64(body, "timeout_ms");
    set->timeout_ms = set->timeout_ms > 0 ? set->timeout_ms : TIMEOUT_MS;
    set->wants_healthy = strcmp(wait, "healthy") == 0;
    if (!text_is_name(set->owner)) {
        return error_set(err, ERROR_INVALID, "owner: \"%.80s\" is no name", owner);
    }
    if (wait[0] != '\0' && strcmp(wait, "done") != 0 && !set->wants_healthy) {
        return error_set(err, ERROR_INVALID, "wait: \"%.40s\" is not done or healthy", wait);
    }
    if (set->prunes && (set->deletes || json_object_size(set->labels) == 0)) {
        return error_set(err, ERROR_INVALID,
                         "prune needs labels, which say what it is about, and no delete");
    }
    return check_labels(set->labels, &nowhere, err);
}

static int take_documents(struct manifest_set *set, const json_t *body, struct error *err)
{
    size_t index = 0;
    json_t *document = NULL;
    json_array_foreach(json_object_get(body, "documents"), index, document)
    {
        const char *file = json_text(document, "file");
        const char *text = json_string_value(json_object_get(document, "text"));
        if (text == NULL || !text_is_printable(file)) {
            return error_set(err, ERROR_INVALID, "$.documents[%zu] is no ManifestFile", index);
        }
        int r = read_documents(set, file[0] != '\0' ? file : "document", text, err);
        if (r < 0) {
            return r;
        }
    }
    if (set->count == 0 && !set->prunes) {
        return error_set(err, ERROR_INVALID, "there is no document in what was given");
    }
    put_blobs(set, json_object_get(body, "blobs"));
    return 0;
}

int manifest_set_read(const char *project, const json_t *body, struct manifest_set **ret_set,
                      struct error *err)
{
    struct manifest_set *set = NEW(struct manifest_set);
    set->project = memory_copy_string(project);
    int r = take_wishes(set, body, err);
    r = r < 0 ? r : take_documents(set, body, err);
    if (r < 0) {
        manifest_set_free(set);
        return r;
    }
    *ret_set = set;
    return 0;
}

void manifest_set_free(struct manifest_set *set)
{
    if (set == NULL) {
        return;
    }
    for (size_t i = 0; i < set->count; i++) {
        manifest_done(&set->items[i]);
    }
    free(set->items);
    free(set->project);
    free(set->owner);
    free(set->plan_digest);
    json_decref(set->labels);
    free(set);
}

size_t manifest_set_count(const struct manifest_set *set)
{
    return set->count;
}

const char *manifest_set_permission(const struct manifest_set *set, size_t index)
{
    return set->items[index].kind->read;
}
