/* Keys and values: the project's own, by service/kv.  Reads are of this node's replica. */
#include <string.h>

#include "base/buffer.h"
#include "base/memory.h"

#include "service/host/private.h"
#include "service/kv/kv.h"

/* ---- Reading ---- */

static void answer_entry(const struct kv_entry *entry, void *context)
{
    session_answer(context, entry->revision, entry->value, entry->length);
}

void host_kv_get(struct session *session, const struct host_request *request)
{
    struct error err = {0};
    MEMORY_OWNED char *key = NULL;
    int r = host_request_string(request, 0, KV_KEY_MAX, "key", &key, &err);
    r = r < 0
        ? r
        : kv_read(session->service->kv, session->target->project, key, answer_entry, session, &err);
    if (r < 0) {
        session_refuse(session, &err);
    }
}

static void list_key(const struct kv_entry *entry, void *context)
{
    struct buffer *list = context;
    size_t length = strlen(entry->key);
    buffer_append_u32(list, (uint32_t)length);
    buffer_append(list, entry->key, length);
}

void host_kv_list(struct session *session, const struct host_request *request)
{
    struct error err = {0};
    MEMORY_OWNED char *prefix = NULL;
    MEMORY_OWNED char *after = NULL;
    BUFFER_OWNED struct buffer list = {0};
    bool has_more = false;
    int r = host_request_string(request, 0, KV_KEY_MAX, "prefix", &prefix, &err);
    r = r < 0 ? r : host_request_string(request, 1, KV_KEY_MAX, "key", &after, &err);
    if (r == 0) {
        uint64_t max = request->numbers[2];
        const struct kv_listing listing = {
            .prefix = prefix,
            .after = after,
            .max = max > 0 && max < KV_LIST_MAX ? (size_t)max : KV_LIST_MAX,
        };
        r = kv_list(session->service->kv, session->target->project, &listing, list_key, &list,
                    &has_more, &err);
    }
    if (r < 0) {
        session_refuse(session, &err);
    } else {
        session_answer(session, has_more, list.data, list.used);
    }
}

/* ---- Writing ---- */

static void on_written(const struct error *error, uint64_t revision, void *context)
{
    if (error != NULL) {
        question_refuse(context, error);
    } else {
        question_answer(context, revision, NULL, 0);
    }
}

static void set(struct session *session, const struct host_request *request,
                enum kv_condition condition, uint64_t revision)
{
    struct error err = {0};
    MEMORY_OWNED char *key = NULL;
    if (host_request_string(request, 0, KV_KEY_MAX, "key", &key, &err) < 0) {
        session_refuse(session, &err);
        return;
    }
    const struct kv_write write = {
        .key = key,
        .value = request->parts[1].data,
        .length = request->parts[1].length,
        .ttl_ms = request->numbers[2],
        .condition = condition,
        .revision = revision,
    };
    kv_set(session->service->kv, session->target->project, &write, on_written,
           question_new(session));
}

void host_kv_set(struct session *session, const struct host_request *request)
{
    set(session, request, KV_ALWAYS, 0);
}

void host_kv_cas(struct session *session, const struct host_request *request)
{
    uint64_t revision = request->numbers[3];
    set(session, request, revision == 0 ? KV_IF_ABSENT : KV_IF_REVISION, revision);
}

void host_kv_delete(struct session *session, const struct host_request *request)
{
    struct error err = {0};
    MEMORY_OWNED char *key = NULL;
    if (host_request_string(request, 0, KV_KEY_MAX, "key", &key, &err) < 0) {
        session_refuse(session, &err);
        return;
    }
    kv_delete(session->service->kv, session->target->project, key, request->numbers[1], on_written,
              question_new(session));
}
