#include "test/unit/service/peer/support.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/cluster/cluster.h"

#include "test/lib/test.h"

/* ---- The cluster, in place of the real one ---- */

static struct cluster_view *view;

struct cluster_view *cluster_view_ref(struct cluster *cluster)
{
    (void)cluster;
    view->references++;
    return view;
}

void cluster_view_unref(struct cluster_view *unwanted)
{
    EXPECT(unwanted->references > 1);
    unwanted->references--;
}

const struct cluster_node *cluster_view_find(const struct cluster_view *seen, uint64_t id)
{
    for (size_t i = 0; i < seen->count; i++) {
        if (seen->nodes[i].id == id) {
            return &seen->nodes[i];
        }
    }
    return NULL;
}

int cluster_client_new(struct loop *loop, const struct cluster_view *seen,
                       const struct cluster_node *node, uint64_t answer_timeout_ms,
                       struct http_client **ret_client, struct error *err)
{
    (void)seen;
    const struct http_client_options options = {.answer_timeout_ms = answer_timeout_ms};
    return http_client_new(loop, node->address, &options, ret_client, err);
}

/* ---- Nodes ---- */

static void answer_blob(struct other *other, struct http_exchange *exchange)
{
    struct text range = http_exchange_field(exchange, "Range");
    uint64_t from = 0;
    snprintf(other->last_range, sizeof(other->last_range), "%.*s", (int)range.length,
             range.length > 0 ? range.data : "");
    if (other->blob == NULL) {
        http_exchange_respond(exchange, 404, NULL, 0);
        http_exchange_unref(exchange);
        return;
    }
    if (range.length > 7 && !other->knows_no_range) {
        EXPECT(text_parse_u64(text_of(range.data + 6, range.length - 7), &from));
    }
    if (from > 0 && from >= other->blob_length) {
        http_exchange_respond(exchange, 416, NULL, 0);
        http_exchange_unref(exchange);
        return;
    }
    if (from > 0) {
        char text[80];
        snprintf(text, sizeof(text), "bytes %" PRIu64 "-%zu/%zu", from, other->blob_length - 1,
                 other->blob_length);
        http_exchange_add_field(exchange, "Content-Range", text);
    }
    http_exchange_begin(exchange, from > 0 ? 206 : 200, other->blob_length - from);
    bool breaks = other->break_at > 0 && other->break_at < other->blob_length - from;
    http_exchange_write(exchange, other->blob + from,
                        breaks ? other->break_at : other->blob_length - from);
    if (breaks) {
        http_exchange_abort(exchange);
    } else {
        http_exchange_end(exchange);
    }
    http_exchange_unref(exchange);
}

static void on_request(struct http_exchange *exchange, void *context)
{
    struct other *other = context;
    other->requests++;
    if (!text_equal(http_exchange_method_text(exchange), "GET") || other->handler != NULL) {
        other->handler(exchange, other);
    } else if (other->holds) {
        other->held = exchange;
    } else {
        answer_blob(other, exchange);
    }
}

static void other_start(struct scene *scene, struct other *other, uint64_t id)
{
    struct error err = {0};
    uint16_t port = 0;
    const struct http_server_options options = http_server_defaults();
    other->id = id;
    EXPECT(http_server_new(scene->loop, &options, on_request, other, &other->server, &err) == 0);
    EXPECT(http_server_listen(other->server, "127.0.0.1:0", &port, &err) == 0);
    snprintf(other->address, sizeof(other->address), "127.0.0.1:%u", port);
}

void other_stop(struct other *other)
{
    http_server_free(other->server);
    other->server = NULL;
}

/* ---- The scene ---- */

static void make_view(const struct scene *scene)
{
    static char tls;
    view = memory_new(1, sizeof(*view) + (OTHERS_MAX + 1) * sizeof(view->nodes[0]));
    view->references = 1;
    view->tls = (struct tls_context *)&tls;
    view->self_id = 1;
    view->count = OTHERS_MAX + 1;
    view->nodes[0] = (struct cluster_node){.id = 1, .name = "a", .is_self = true};
    for (unsigned i = 0; i < OTHERS_MAX; i++) {
        struct cluster_node *node = &view->nodes[i + 1];
        node->id = scene->others[i].id;
        snprintf(node->name, sizeof(node->name), "%c", 'b' + (int)i);
        snprintf(node->address, sizeof(node->address), "%s", scene->others[i].address);
    }
}

void scene_open(struct scene *scene)
{
    struct error err = {0};
    MEMORY_OWNED char *folder = memory_format("%s/blobs", test_folder());
    *scene = (struct scene){0};
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    EXPECT(image_store_open(folder, &scene->images, &err) == 0);
    for (unsigned i = 0; i < OTHERS_MAX; i++) {
        other_start(scene, &scene->others[i], 2 + i);
    }
    make_view(scene);
    scene->clients = peer_clients_new(scene->loop, (struct cluster *)view);
    scene->blobs = peer_blobs_new(scene->clients, scene->images);
}

void scene_close(struct scene *scene)
{
    peer_blobs_free(scene->blobs);
    peer_clients_free(scene->clients);
    for (unsigned i = 0; i < OTHERS_MAX; i++) {
        if (scene->others[i].server != NULL) {
            other_stop(&scene->others[i]);
        }
    }
    loop_free(scene->loop);
    image_store_close(scene->images);
    EXPECT(view->references == 1);
    free(view);
}

void scene_wake(struct scene *scene)
{
    loop_stop(scene->loop);
}

void run_until(struct scene *scene, const unsigned *counter, unsigned wanted)
{
    while (*counter < wanted) {
        loop_run(scene->loop);
    }
}
