/* A backup as a stream: the next piece is made, on another thread, when the last one has gone. */
#include "service/backup/backup.h"

#include "base/log.h"
#include "base/memory.h"

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

void api_cluster_backup(struct request *request)
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
