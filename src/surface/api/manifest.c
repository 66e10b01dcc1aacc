/* Manifests: plans, applying, and what is there as documents. */
#include "service/manifest/manifest.h"

#include "base/json.h"
#include "base/memory.h"

#include "surface/api/parts.h"

/* Who may do the whole may not do more with the parts: each takes the permission of its kind. */
static int judge_set(struct request *request, const struct manifest_set *set, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < manifest_set_count(set) && r == 0; i++) {
        r = api_access_judge(request, manifest_set_permission(set, i), err);
    }
    return r;
}

static int judge_plan(struct request *request, const struct manifest_plan *plan, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < manifest_plan_count(plan) && r == 0; i++) {
        const char *permission = manifest_plan_permission(plan, i);
        r = permission != NULL ? api_access_judge(request, permission, err) : 0;
    }
    return r;
}

static void plan(struct request *request, const json_t *body, manifest_planned *done)
{
    struct error err = {0};
    struct manifest_set *set = NULL;
    int r = manifest_set_read(request->project, body, &set, &err);
    r = r < 0 ? r : judge_set(request, set, &err);
    if (r < 0) {
        manifest_set_free(set);
        api_answer_error(request, &err);
        return;
    }
    manifest_plan_make(request->api->manifests, set, done, request);
}

/* ---- Plans ---- */

static void on_planned(const struct error *error, struct manifest_plan *plan, void *context)
{
    struct request *request = context;
    BUFFER_OWNED struct buffer body = {0};
    if (error != NULL) {
        api_answer_error(request, error);
        return;
    }
    manifest_plan_write(plan, &body);
    manifest_plan_free(plan);
    api_answer_json(request, request->status, &body);
}

static void make_plan(struct request *request, const json_t *body)
{
    plan(request, body, on_planned);
}

void api_plan_create(struct request *request)
{
    api_body_read(request, "ManifestSet", make_plan);
}

/* ---- Applying ---- */

static void on_ready(const struct error *error, struct manifest_plan *plan, void *context)
{
    struct request *request = context;
    struct error err = {0};
    if (error != NULL) {
        api_answer_error(request, error);
    } else if (judge_plan(request, plan, &err) < 0) {
        manifest_plan_free(plan);
        api_answer_error(request, &err);
    } else {
        manifest_apply(request->api->manifests, plan, api_answer_begun, api_begin(request, NULL));
    }
}

static void apply(struct request *request, const json_t *body)
{
    plan(request, body, on_ready);
}

void api_apply_create(struct request *request)
{
    api_body_read(request, "ManifestSet", apply);
}

/* ---- What is there ---- */

static void on_exported(const struct error *error, const json_t *manifests, void *context)
{
    struct request *request = context;
    BUFFER_OWNED struct buffer body = {0};
    if (error != NULL) {
        api_answer_error(request, error);
        return;
    }
    MEMORY_OWNED char *text = json_dumps(manifests, JSON_COMPACT);
    buffer_append_format(&body, "{\"manifests\":%s}", text);
    api_answer_json(request, request->status, &body);
}

void api_manifest_list(struct request *request)
{
    char kind[64] = "";
    char name[API_PARAMETER_SIZE] = "";
    struct error err = {0};
    struct text query = http_exchange_query(request->exchange);
    bool has_kind = http_query_get(query, "kind", kind, sizeof(kind));
    bool has_name = http_query_get(query, "name", name, sizeof(name));
    if (has_name && !has_kind) {
        error_set(&err, ERROR_INVALID, "?name= is that of a ?kind=");
        api_answer_error(request, &err);
        return;
    }
    manifest_export(request->api->manifests, request->project, has_kind ? kind : NULL,
                    has_name ? name : NULL, on_exported, request);
}
