/* An answer that is made while it is sent: the next piece, on another thread, when the last one has
 * gone. */
#include "base/log.h"
#include "base/memory.h"

#include "surface/api/parts.h"

struct sending {
    struct request *request;
    struct api_pieces pieces;
    struct buffer piece;
    struct error err;
    int status;
    bool at_work; /* false: waiting for the client to take what there is */
    bool is_over; /* the client is gone, or the node stops */
};

static void end(struct sending *sending)
{
    struct request *request = sending->request;
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    sending->pieces.end(sending->pieces.context);
    buffer_done(&sending->piece);
    free(sending);
    api_request_end(request);
}

static void work(void *context)
{
    struct sending *sending = context;
    sending->status = sending->pieces.step(sending->pieces.context, &sending->piece, &sending->err);
}

static void on_worked(void *context);

static void go_on(struct sending *sending)
{
    sending->at_work = true;
    loop_work(sending->request->api->options.loop, work, on_worked, sending);
}

static void on_worked(void *context)
{
    struct sending *sending = context;
    struct http_exchange *exchange = sending->request->exchange;
    if (sending->status < 0) {
        log_error("api: %s was broken off: %s", sending->pieces.what, sending->err.text);
    }
    if (sending->is_over || sending->status < 0) {
        http_exchange_abort(exchange);
        end(sending);
        return;
    }
    bool has_room = sending->piece.used == 0 ||
        http_exchange_write(exchange, sending->piece.data, sending->piece.used);
    buffer_clear(&sending->piece);
    if (sending->status == 0) {
        http_exchange_end(exchange);
        end(sending);
    } else if (has_room || sending->is_over) {
        go_on(sending);
    } else {
        sending->at_work = false;
    }
}

static void on_drain(void *context)
{
    struct sending *sending = context;
    if (!sending->at_work) {
        go_on(sending);
    }
}

/* May come from inside a call on the exchange: then on_worked() sees it. */
static void break_off(struct sending *sending)
{
    sending->is_over = true;
    if (!sending->at_work) {
        sending->at_work = true;
        loop_post(sending->request->api->options.loop, on_worked, sending);
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

static void begin_head(struct request *request, const struct api_pieces *pieces)
{
    MEMORY_OWNED char *disposition =
        memory_format("attachment; filename=\"%s\"", pieces->file_name);
    api_add_fields(request);
    http_exchange_add_field(request->exchange, "Content-Type", pieces->type);
    http_exchange_add_field(request->exchange, "Content-Disposition", disposition);
    http_exchange_begin(request->exchange, request->status, UINT64_MAX);
}

void api_pieces_send(struct request *request, const struct api_pieces *pieces)
{
    struct sending *sending = NEW(struct sending);
    *sending = (struct sending){.request = request, .pieces = *pieces};
    request->state = sending;
    request->stop = on_stop;
    if (pieces->type != NULL) {
        begin_head(request, pieces);
    }
    http_exchange_on(request->exchange, on_drain, on_close, sending);
    go_on(sending);
}
