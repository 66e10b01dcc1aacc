/* Nix stores of the nodes, and what nodes ask each other about them. */
#include "service/nix/nix.h"

#include <stdio.h>
#include <string.h>

#include "surface/api/parts.h"

enum { LIST_LIMIT = 100, LIST_MAX = 10000, MATCH_SIZE = 128 };

static struct nix_service *service_of(const struct request *request)
{
    return request->api->options.nix;
}

/* The API ends: what takes long is given up. */
static void hurry(struct request *request)
{
    nix_service_hurry(service_of(request));
}

static void on_answer(const struct error *error, struct buffer *json, void *context)
{
    struct request *request = context;
    request->stop = NULL;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        api_answer_json(request, request->status, json);
    }
}

static void on_text(const struct error *error, struct buffer *text, void *context)
{
    struct request *request = context;
    request->stop = NULL;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        api_answer_text(request, request->status, "text/x-nix-narinfo", buffer_string(text));
    }
}

static void on_done(const struct error *error, void *context)
{
    struct request *request = context;
    request->stop = NULL;
    api_answer_done(error, 0, request);
}

/* ---- Looking ---- */

void api_store_path_list(struct request *request)
{
    struct text query = http_exchange_query(request->exchange);
    char after[NIX_HASH_CHARS + 1] = "";
    char match[MATCH_SIZE] = "";
    uint64_t limit = api_query_u64(request, "limit", LIST_LIMIT);
    struct error err = {0};
    int r = error_check_range("?limit=", limit, 1, LIST_MAX, &err);
    if (r < 0) {
        api_answer_error(request, &err);
        return;
    }
    bool has_after = http_query_get(query, "after", after, sizeof(after));
    bool has_match = http_query_get(query, "match", match, sizeof(match));
    request->stop = hurry;
    nix_list(service_of(request), has_after ? after : NULL, limit, has_match ? match : NULL,
             on_answer, request);
}

void api_store_path_get(struct request *request)
{
    request->stop = hurry;
    nix_show(service_of(request), request->parameters[0], on_answer, request);
}

void api_store_root_list(struct request *request)
{
    request->stop = hurry;
    nix_roots(service_of(request), on_answer, request);
}

void api_store_key_get(struct request *request)
{
    request->stop = hurry;
    nix_key(service_of(request), on_answer, request);
}

/* ---- Pins ---- */

static bool take_pin(struct request *request, char ret_root[NIX_ROOT_NAME_MAX + 8])
{
    struct error err = {0};
    int length = snprintf(ret_root, NIX_ROOT_NAME_MAX + 8, "pin-%s", request->parameters[0]);
    if (length <= NIX_ROOT_NAME_MAX) {
        return true;
    }
    error_set(&err, ERROR_INVALID, "the name of a pin has at most %d bytes",
              NIX_ROOT_NAME_MAX - (int)sizeof("pin"));
    api_answer_error(request, &err);
    return false;
}

static void pin(struct request *request, const json_t *body)
{
    char root[NIX_ROOT_NAME_MAX + 8];
    if (take_pin(request, root)) {
        request->stop = hurry;
        nix_keep(service_of(request), root, api_body_text(body, "path"), on_done, request);
    }
}

void api_store_pin(struct request *request)
{
    api_body_read(request, "StorePin", pin);
}

void api_store_unpin(struct request *request)
{
    char root[NIX_ROOT_NAME_MAX + 8];
    struct error err = {0};
    if (!take_pin(request, root)) {
        return;
    }
    bool is_kept = nix_is_kept(service_of(request), root);
    int r = nix_release(service_of(request), root, &err);
    if (r == 0 && !is_kept) {
        r = error_set(&err, ERROR_NOT_FOUND,
                      "there is no pin %.100s on this node; see `blixard store roots`",
                      request->parameters[0]);
    }
    if (r < 0) {
        api_answer_error(request, &err);
    } else {
        api_answer_nothing(request);
    }
}

/* ---- Operations ---- */

static void collect(struct request *request, const json_t *body)
{
    nix_begin_gc(service_of(request), request->project, json_u64(body, "bytes_max"),
                 json_is_true(json_object_get(body, "dry_run")), api_answer_begun,
                 api_begin(request, NULL));
}

void api_store_gc(struct request *request)
{
    api_body_read(request, "StoreGc", collect);
}

static void verify(struct request *request, const json_t *body)
{
    nix_begin_verify(service_of(request), request->project, api_body_text(body, "path"),
                     api_answer_begun, api_begin(request, NULL));
}

void api_store_verify(struct request *request)
{
    api_body_read(request, "StoreVerify", verify);
}

static void copy(struct request *request, const json_t *body)
{
    nix_begin_copy(service_of(request), request->project, api_body_text(body, "path"),
                   api_body_text(body, "from"), api_answer_begun, api_begin(request, NULL));
}

void api_store_copy(struct request *request)
{
    api_body_read(request, "StoreCopy", copy);
}

/* ---- Between nodes ---- */

void api_nix_closure_get(struct request *request)
{
    request->stop = hurry;
    nix_give_closure(service_of(request), request->parameters[0], on_text, request);
}

void api_nix_packed_get(struct request *request)
{
    request->stop = hurry;
    nix_give_packed(service_of(request), request->parameters[0], on_text, request);
}
