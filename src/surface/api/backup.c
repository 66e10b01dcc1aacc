/* A backup as a stream: the next piece is made, on another thread, when the last one has gone. */
#include "service/backup/backup.h"

#include "base/log.h"
#include "base/memory.h"

#include "service/peer/peer.h"

#include "surface/api/parts.h"

struct saving {
    struct request *request;
    struct backup_writer *writer;
    struct buffer piece;
    struct error err;
    int status;
    bool at_work; /* false: waiting for the client to take what there is */
    bool is_over; /* the client is gone, or the node stops */
};

static void end(struct saving *saving)
{
    struct request *request = saving->request;
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    backup_writer_free(saving->writer);
    buffer_done(&saving->piece);
    free(saving);
    api_request_end(request);
}

static void work(void *context)
{
    struct saving *saving = context;
    saving->status = backup_writer_step(saving->writer, &saving->piece, &saving->err);
}

static void on_worked(void *context);

static void go_on(struct saving *saving)
{
    saving->at_work = true;
    loop_work(saving->request->api->options.loop, work, on_worked, saving);
}

static void on_worked(void *context)
{
    struct saving *saving = context;
    struct http_exchange *exchange = saving->request->exchange;
    if (saving->status < 0) {
        log_error("api: a backup was broken off: %s", saving->err.text);
    }
    if (saving->is_over || saving->status < 0) {
        http_exchange_abort(exchange);
        end(saving);
        return;
    }
    bool has_room = http_exchange_write(exchange, saving->piece.data, saving->piece.used);
    buffer_clear(&saving->piece);
    if (saving->status == 0) {
        http_exchange_end(exchange);
        end(saving);
    } else if (has_room || saving->is_over) {
        go_on(saving);
    } else {
        saving->at_work = false;
    }
}

static void on_drain(void *context)
{
    struct saving *saving = context;
    if (!saving->at_work) {
        go_on(saving);
    }
}

/* May come from inside a call on the exchange: then on_worked() sees it. */
static void break_off(struct saving *saving)
{
    saving->is_over = true;
    if (!saving->at_work) {
        saving->at_work = true;
        loop_post(saving->request->api->options.loop, on_worked, saving);
    }
}

static void on_close(void *context)
{
    break_off(context);
}

static void on_stop(struct request *request)
{
    break_off(request->state);
}

static void begin(struct request *request)
{
    struct error err = {0};
    struct saving *saving = NEW(struct saving);
    saving->request = request;
    if (backup_writer_new(request->api->options.store, request->api->options.images,
                          &saving->writer, &err) < 0) {
        free(saving);
        api_answer_error(request, &err);
        return;
    }
    request->state = saving;
    request->stop = on_stop;
    api_add_fields(request);
    http_exchange_add_field(request->exchange, "Content-Type", "application/x-tar");
    http_exchange_add_field(request->exchange, "Content-Disposition",
                            "attachment; filename=\"blixard-backup.tar\"");
    http_exchange_begin(request->exchange, request->status, UINT64_MAX);
    http_exchange_on(request->exchange, on_drain, on_close, saving);
    go_on(saving);
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
    gathered->fetch = peer_fetch_new(gathering->request->api->options.blobs, module, NULL, 0,
                                     on_fetched, gathered);
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
