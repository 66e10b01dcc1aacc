/* A backup as a stream: the next piece is made, on another thread, when the last one has gone. */
#include "service/backup/backup.h"

#include "base/memory.h"

#include "service/peer/peer.h"

#include "surface/api/parts.h"

static int step(void *context, struct buffer *out, struct error *err)
{
    return backup_writer_step(context, out, err);
}

static void end(void *context)
{
    backup_writer_free(context);
}

static void begin(struct request *request)
{
    struct error err = {0};
    struct backup_writer *writer = NULL;
    if (backup_writer_new(request->api->options.store, request->api->options.images, &writer,
                          &err) < 0) {
        api_answer_error(request, &err);
        return;
    }
    const struct api_pieces pieces = {.step = step,
                                      .end = end,
                                      .context = writer,
                                      .type = "application/x-tar",
                                      .file_name = "blixard-backup.tar",
                                      .what = "a backup"};
    api_pieces_send(request, &pieces);
}

/* ---- Modules that only other nodes have ---- */

struct gathering {
    struct request *request;
    struct list fetches;
    struct loop_timer *timer; /* when all are here, or it is over */
    struct error error;
};

struct gathered {
    struct list_node link;
    struct gathering *gathering;
    struct peer_fetch *fetch;
};

static void gathering_end(void *context)
{
    struct gathering *gathering = context;
    struct request *request = gathering->request;
    struct error error = gathering->error;
    LIST_EACH(node, &gathering->fetches)
    {
        struct gathered *gathered = LIST_ITEM(node, struct gathered, link);
        peer_fetch_free(gathered->fetch);
        free(gathered);
    }
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    loop_timer_free(gathering->timer);
    free(gathering);
    if (error.kind != ERROR_NONE) {
        api_answer_error(request, &error);
    } else {
        begin(request);
    }
}

static void on_fetched(const struct error *error, void *context)
{
    struct gathered *gathered = context;
    struct gathering *gathering = gathered->gathering;
    list_remove(&gathered->link);
    free(gathered);
    if (error != NULL && gathering->error.kind == ERROR_NONE) {
        gathering->error = *error;
        if (error->kind == ERROR_NOT_FOUND) {
            gathering->error.kind = ERROR_CORRUPT;
        }
        error_wrap(&gathering->error, "a module that the state names is missing on this node");
        loop_timer_start(gathering->timer, 0);
    } else if (list_is_empty(&gathering->fetches)) {
        loop_timer_start(gathering->timer, 0);
    }
}

static void fetch(const char *module, void *context)
{
    struct gathering *gathering = context;
    struct gathered *gathered = NEW(struct gathered);
    gathered->gathering = gathering;
    list_push_back(&gathering->fetches, &gathered->link);
    const struct peer_wanted wanted = {.id = module};
    gathered->fetch =
        peer_fetch_new(gathering->request->api->options.blobs, &wanted, on_fetched, gathered);
}

static void give_up(struct gathering *gathering, const char *why)
{
    if (gathering->error.kind == ERROR_NONE) {
        error_set(&gathering->error, ERROR_UNAVAILABLE, "%s", why);
    }
    loop_timer_start(gathering->timer, 0);
}

static void on_gathering_close(void *context)
{
    give_up(context, "the client went away");
}

static void on_gathering_stop(struct request *request)
{
    give_up(request->state, "the node is stopping");
}

/* What is missing comes first; what is deleted meanwhile is not missing any more. */
void api_cluster_backup(struct request *request)
{
    struct gathering *gathering = NEW(struct gathering);
    gathering->request = request;
    list_init(&gathering->fetches);
    gathering->timer = loop_timer_new(request->api->options.loop, gathering_end, gathering);
    request->state = gathering;
    request->stop = on_gathering_stop;
    http_exchange_on(request->exchange, NULL, on_gathering_close, gathering);
    struct error err = {0};
    if (backup_missing_each(request->api->options.store, request->api->options.images, fetch,
                            gathering, &err) < 0) {
        gathering->error = err;
    }
    if (list_is_empty(&gathering->fetches) || gathering->error.kind != ERROR_NONE) {
        loop_timer_start(gathering->timer, 0);
    }
}
