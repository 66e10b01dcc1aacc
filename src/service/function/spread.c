/*
 * Copies of a module on other nodes, before its version is ready: a deploy that was acknowledged
 * survives the death of the node that made it.
 *
 * The nearest servers first.  A node that has the module already is asked, not sent it again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/function/parts.h"

enum { NODES_MAX = 16, HEAD_TIMEOUT_MS = 3000, SEND_TIMEOUT_MS = 20000, ANSWER_BYTES_MAX = 65536 };

struct spread {
    struct function_service *service;
    struct build *build; /* NULL: it does not wait any more */
    char module[HASH_TEXT_SIZE];
    uint64_t nodes[NODES_MAX];
    size_t count;
    size_t at;
    unsigned copies;
    unsigned wanted;
    bool is_sending; /* this node has said that it has none */
    bool at_work;
    bool is_over;
    int status;
    struct error err; /* why, or the last node's */
    struct buffer bytes;
    struct peer_call *call;
};

static void next(struct spread *spread);

static void spread_free(struct spread *spread)
{
    peer_call_free(spread->call);
    buffer_done(&spread->bytes);
    free(spread);
}

static void tell(void *argument)
{
    struct spread *spread = argument;
    struct build *build = spread->build;
    struct function_service *service = spread->service;
    spread->at_work = false;
    service->at_work--;
    if (service->stopping) {
        loop_stop(service->options.loop);
    }
    if (build == NULL) {
        spread_free(spread);
    } else {
        spread_ended(build);
    }
}

/* Told later: whoever asked for the end may be above us. */
static void finish(struct spread *spread)
{
    if (!spread->is_over) {
        spread->is_over = true;
        buffer_done(&spread->bytes);
        spread->at_work = true;
        spread->service->at_work++;
        loop_post(spread->service->options.loop, tell, spread);
    }
}

/* ---- One node ---- */

static void on_answer(const struct error *error, int status, struct buffer *answer, void *context)
{
    struct spread *spread = context;
    (void)answer;
    spread->call = NULL;
    if (error == NULL && status / 100 == 2) {
        spread->copies++;
    } else if (error == NULL && status == 404 && !spread->is_sending) {
        spread->is_sending = true;
        next(spread);
        return;
    } else if (error != NULL) {
        spread->err = *error;
    } else {
        error_set(&spread->err, ERROR_UNAVAILABLE, "a node answered %d", status);
    }
    spread->is_sending = false;
    spread->at++;
    next(spread);
}

static void next(struct spread *spread)
{
    char target[sizeof("/v1/blobs/") + HASH_TEXT_SIZE];
    if (spread->copies >= spread->wanted || spread->at >= spread->count) {
        spread->status = spread->copies > 0
            ? 0
            : error_set(&spread->err, ERROR_UNAVAILABLE,
                        "no other node could take a copy of the module: %.300s", spread->err.text);
        finish(spread);
        return;
    }
    snprintf(target, sizeof(target), "/v1/blobs/%s", spread->module);
    const struct peer_request request = {
        .node = spread->nodes[spread->at],
        .method = spread->is_sending ? "POST" : "HEAD",
        .target = spread->is_sending ? "/v1/blobs" : target,
        .body = spread->is_sending ? spread->bytes.data : NULL,
        .body_length = spread->is_sending ? spread->bytes.used : 0,
        .answer_bytes_max = ANSWER_BYTES_MAX,
        .timeout_ms = spread->is_sending ? SEND_TIMEOUT_MS : HEAD_TIMEOUT_MS,
    };
    spread->call = peer_call_new(spread->service->options.peers, &request, on_answer, spread);
}

/* ---- Beginning ---- */

static void read_work(void *context)
{
    struct spread *spread = context;
    spread->status = image_read(spread->service->options.images, spread->module,
                                FUNCTION_MODULE_MAX, &spread->bytes, &spread->err);
}

static void on_read(void *context)
{
    struct spread *spread = context;
    struct function_service *service = spread->service;
    spread->at_work = false;
    service->at_work--;
    if (service->stopping) {
        loop_stop(service->options.loop); /* it is waited for */
    }
    if (spread->build == NULL) {
        spread_free(spread);
    } else if (spread->status < 0 || spread->is_over) {
        spread->is_over = false;
        finish(spread);
    } else {
        next(spread);
    }
}

static void choose_nodes(struct spread *spread, const struct cluster_view *view)
{
    for (int workers = 0; workers < 2; workers++) {
        for (size_t i = 0; i < view->count && spread->count < NODES_MAX; i++) {
            const struct cluster_node *node = &view->nodes[i];
            if (!node->is_self && node->health == CLUSTER_HEALTHY &&
                node->is_server == (workers == 0)) {
                spread->nodes[spread->count++] = node->id;
            }
        }
    }
    spread->wanted = spread->count < FUNCTION_COPIES ? (unsigned)spread->count : FUNCTION_COPIES;
}

void spread_begin(struct build *build)
{
    struct cluster_view *view = peer_view(build->service->options.peers);
    if (view == NULL) {
        return;
    }
    struct spread *spread = NEW(struct spread);
    spread->service = build->service;
    spread->build = build;
    memcpy(spread->module, build->module, sizeof(spread->module));
    choose_nodes(spread, view);
    cluster_view_unref(view);
    if (spread->wanted == 0) {
        free(spread); /* there is nobody: this node is all there is now */
        return;
    }
    build->spread = spread;
    spread->at_work = true;
    spread->service->at_work++;
    loop_work(spread->service->options.loop, read_work, on_read, spread);
}

int spread_status(const struct build *build, struct error *err)
{
    const struct spread *spread = build->spread;
    if (spread == NULL) {
        return 0;
    }
    if (!spread->is_over || spread->at_work) {
        return 1;
    }
    if (spread->status < 0) {
        *err = spread->err;
    }
    return spread->status;
}

void spread_cancel(struct build *build)
{
    struct spread *spread = build->spread;
    if (spread == NULL || spread->is_over) {
        return;
    }
    spread->status = error_set(&spread->err, ERROR_CANCELLED, "cancelled");
    peer_call_free(spread->call);
    spread->call = NULL;
    if (spread->at_work) {
        spread->is_over = true; /* on_read() tells */
    } else {
        finish(spread);
    }
}

void spread_stop(struct build *build)
{
    struct spread *spread = build->spread;
    build->spread = NULL;
    if (spread == NULL) {
        return;
    }
    spread->build = NULL;
    if (!spread->at_work) {
        spread_free(spread);
    }
}
