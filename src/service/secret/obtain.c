/* The key from another node: all of them in turn, the nearest first, round after round. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "service/cluster/cluster.h"
#include "service/peer/peer.h"
#include "service/secret/private.h"

enum { ANSWER_MAX = 4096, ANSWER_TIMEOUT_MS = 5000, ROUND_MS = 1000 };

static void note(struct secret_service *service, const char *why)
{
    snprintf(
        service->problem, sizeof(service->problem),
        "this node does not have the key of the secrets yet: it asks the other nodes (%s: %.160s), "
        "and looks for the file %.120s",
        service->asked_name, why, service->path);
}

/* A problem document (RFC 9457) says why. */
static void note_answer(struct secret_service *service, int status, const struct buffer *answer)
{
    JSON_OWNED json_t *problem = NULL;
    struct error ignored = {0};
    MEMORY_OWNED char *otherwise = memory_format("it answered %d", status);
    const char *detail = NULL;
    if (json_read(answer->data, answer->used, &problem, &ignored) == 0) {
        detail = json_string_value(json_object_get(problem, "detail"));
    }
    note(service, detail != NULL ? detail : otherwise);
}

static void on_answer(const struct error *error, int status, struct buffer *answer, void *context)
{
    struct secret_service *service = context;
    struct error err = {0};
    service->ask = NULL;
    if (error != NULL) {
        note(service, error->text);
    } else if (status != 200) {
        note_answer(service, status, answer);
    } else if (answer->used != SEAL_KEY_SIZE) {
        note(service, "what it gave is no key");
    } else if (key_install(service, answer->data, &err) < 0) {
        log_warn("secrets: node %s: %s", service->asked_name, err.text);
        note(service, err.text);
    }
    if (answer->data != NULL) {
        explicit_bzero(answer->data, answer->size);
    }
    key_later(service, 0);
}

void obtain_step(struct secret_service *service)
{
    uint64_t now_ms = clock_monotonic_ms();
    if (service->ask != NULL || service->is_over || !key_has_others(service) ||
        (service->asked == 0 && now_ms < service->round_ms)) {
        return;
    }
    struct cluster_view *view = cluster_view_ref(service->cluster);
    while (service->asked < view->count &&
           (view->nodes[service->asked].is_self ||
            view->nodes[service->asked].health == CLUSTER_LOST)) {
        service->asked++;
    }
    if (service->asked < view->count) {
        const struct cluster_node *node = &view->nodes[service->asked++];
        snprintf(service->asked_name, sizeof(service->asked_name), "%s", node->name);
        const struct peer_request request = {.node = node->id,
                                             .method = "GET",
                                             .target = "/v1/peer/secrets-key",
                                             .answer_bytes_max = ANSWER_MAX,
                                             .timeout_ms = ANSWER_TIMEOUT_MS};
        service->ask = peer_call_new(service->peers, &request, on_answer, service);
    } else {
        service->asked = 0;
        service->round_ms = now_ms + ROUND_MS;
    }
    cluster_view_unref(view);
}

void obtain_stop(struct secret_service *service)
{
    peer_call_free(service->ask);
    service->ask = NULL;
    service->asked = 0;
}
