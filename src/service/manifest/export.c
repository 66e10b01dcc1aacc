/* What is there, as manifests. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "service/manifest/parts.h"

struct exporting {
    struct manifest_service *service;
    char *project;
    char *name; /* NULL: all */
    const struct manifest_kind *only;
    size_t kind_at;
    json_t *names; /* of this kind */
    size_t name_at;
    json_t *manifests;
    manifest_exported *done;
    void *context;
};

static void next_kind(struct exporting *exporting);
static void next_name(struct exporting *exporting);

static void finish(struct exporting *exporting, const struct error *error)
{
    exporting->done(error, error == NULL ? exporting->manifests : NULL, exporting->context);
    free(exporting->project);
    free(exporting->name);
    json_decref(exporting->names);
    json_decref(exporting->manifests);
    free(exporting);
}

static void add(struct exporting *exporting, const struct manifest_kind *kind, const char *name,
                const json_t *answer)
{
    json_t *manifest = json_pack("{s:s,s:s}", "kind", kind->name, "name", name);
    if (kind->way != WAY_NODE) {
        json_object_set_new(manifest, "project", json_string(exporting->project));
    }
    json_t *spec = observe_spec(kind, name, answer);
    json_object_del(spec, "user_data"); /* its digest alone is known here */
    json_object_set_new(manifest, "spec", spec);
    json_array_append_new(exporting->manifests, manifest);
}

/* Aliases but `live`, which follows the versions. */
static void add_aliases(struct exporting *exporting, const char *name, const json_t *answer)
{
    struct error ignored = {0};
    const struct manifest_kind *kind = kind_find("Alias", &ignored);
    const char *alias = NULL;
    json_t *target = NULL;
    json_object_foreach(json_object_get(answer, "aliases"), alias, target)
    {
        if (strcmp(alias, "live") != 0) {
            MEMORY_OWNED char *whole = memory_format("%s:%s", name, alias);
            add(exporting, kind, whole, answer);
        }
    }
}

static void on_one(int status, const json_t *answer, const struct error *error, void *context)
{
    struct exporting *exporting = context;
    const struct manifest_kind *kind = kind_at(exporting->kind_at);
    const char *name = json_string_value(json_array_get(exporting->names, exporting->name_at));
    (void)status;
    if (error != NULL && error->kind != ERROR_NOT_FOUND) {
        finish(exporting, error);
        return;
    }
    if (error == NULL && kind->way != WAY_ALIAS) {
        add(exporting, kind, name, answer);
    }
    if (error == NULL &&
        (kind->way == WAY_ALIAS || (kind->way == WAY_FUNCTION && exporting->only == NULL))) {
        add_aliases(exporting, name, answer);
    }
    exporting->name_at++;
    next_name(exporting);
}

static void next_name(struct exporting *exporting)
{
    const struct manifest_kind *kind = kind_at(exporting->kind_at);
    if (exporting->name_at == json_array_size(exporting->names)) {
        exporting->kind_at++;
        next_kind(exporting);
        return;
    }
    const char *name = json_string_value(json_array_get(exporting->names, exporting->name_at));
    MEMORY_OWNED char *target = ask_target(kind, exporting->project, name);
    ask(exporting->service, "GET", target, NULL, on_one, exporting);
}

/* The list is the only one that such an answer has. */
static void take_names(struct exporting *exporting, const json_t *answer)
{
    const char *key = NULL;
    size_t index = 0;
    json_t *member = NULL;
    json_t *item = NULL;
    json_object_foreach((json_t *)(uintptr_t)answer, key, member)
    {
        json_array_foreach(member, index, item)
        {
            const char *name = json_text(item, "name");
            if (name[0] != '\0' &&
                (exporting->name == NULL || strcmp(exporting->name, name) == 0)) {
                json_array_append_new(exporting->names, json_string(name));
            }
        }
    }
}

static void on_list(int status, const json_t *answer, const struct error *error, void *context)
{
    struct exporting *exporting = context;
    struct error err = {0};
    (void)status;
    if (error != NULL) {
        finish(exporting, error);
        return;
    }
    take_names(exporting, answer);
    if (exporting->name != NULL && json_array_size(exporting->names) == 0) {
        error_set(&err, ERROR_NOT_FOUND, "there is no %s %.80s", exporting->only->name,
                  exporting->name);
        finish(exporting, &err);
        return;
    }
    next_name(exporting);
}

/* Of a project is what nobody else has; nodes are everybody's, and are asked for. */
static bool is_wanted(const struct exporting *exporting, const struct manifest_kind *kind)
{
    return exporting->only != NULL
        ? exporting->only == kind
        : kind->way != WAY_NODE && kind->way != WAY_ALIAS && strcmp(kind->name, "Quota") != 0;
}

static void next_kind(struct exporting *exporting)
{
    while (exporting->kind_at < kind_count() &&
           !is_wanted(exporting, kind_at(exporting->kind_at))) {
        exporting->kind_at++;
    }
    if (exporting->kind_at == kind_count()) {
        finish(exporting, NULL);
        return;
    }
    MEMORY_OWNED char *target = memory_format(
        "/v1/%s?project=%s", kind_at(exporting->kind_at)->collection, exporting->project);
    json_decref(exporting->names);
    exporting->names = json_array();
    exporting->name_at = 0;
    ask(exporting->service, "GET", target, NULL, on_list, exporting);
}

void manifest_export(struct manifest_service *service, const char *project, const char *kind,
                     const char *name, manifest_exported *done, void *context)
{
    struct error err = {0};
    const struct manifest_kind *only = kind != NULL ? kind_find(kind, &err) : NULL;
    if (kind != NULL && only == NULL) {
        done(&err, NULL, context);
        return;
    }
    struct exporting *exporting = NEW(struct exporting);
    exporting->service = service;
    exporting->project = memory_copy_string(project);
    exporting->name = name != NULL ? memory_copy_string(name) : NULL;
    exporting->only = only;
    exporting->manifests = json_array();
    exporting->done = done;
    exporting->context = context;
    next_kind(exporting);
}
