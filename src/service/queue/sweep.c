/*
 * What goes by itself: messages beyond their retention, what deleted queues have left, dedup ids
 * that are forgotten.  The leader looks once a second and removes QUEUE_SWEEP rows at a time; while
 * there are more it goes on at once, one command after the other.
 */
#include "service/queue/parts.h"

enum { TICK_MS = 1000, DEDUP_AT_ONCE = 1000 };

struct look {
    struct queue_service *service;
    struct store_command *command; /* the first thing there is to do */
    uint64_t now_ms;
};

static void look_at(const struct queue_row *row, void *context)
{
    struct look *look = context;
    size_t count = 0;
    uint64_t retention_ms = row->settings.retention_ms;
    if (look->command == NULL && look->now_ms > retention_ms) {
        look->command = queue_removal(look->service, row->number, row->settings.is_fifo,
                                      look->now_ms - retention_ms, true, &count);
    }
}

static void look_at_trash(struct look *look)
{
    struct error err = {0};
    size_t count = 0;
    uint64_t number = 0;
    store_query(look->service->options.store, &err, store_take_u64, &number,
                "SELECT number FROM queue_trash ORDER BY number LIMIT 1", "");
    if (number == 0) {
        return;
    }
    look->command = queue_removal(look->service, number, false, INT64_MAX, false, &count);
    if (look->command == NULL) {
        look->command = store_command_new();
        store_command_add(look->command, "DELETE FROM queue_trash WHERE number = ?", "u", number);
    }
}

static void look_at_dedups(struct look *look)
{
    struct error err = {0};
    uint64_t found = 0;
    store_query(look->service->options.store, &err, store_take_u64, &found,
                "SELECT 1 FROM queue_dedup WHERE expires_ms <= ? LIMIT 1", "u", look->now_ms);
    if (found != 0) {
        look->command = store_command_new();
        store_command_add(
            look->command,
            "DELETE FROM queue_dedup WHERE (queue, dedup) IN (SELECT queue, dedup "
            "FROM queue_dedup WHERE expires_ms <= ? ORDER BY expires_ms, queue, dedup "
            "LIMIT ?)",
            "uu", look->now_ms, (uint64_t)DEDUP_AT_ONCE);
    }
}

static void sweep(struct queue_service *service);

static void on_swept(const struct error *error, uint64_t index, void *context)
{
    struct queue_service *service = context;
    (void)index;
    service->is_sweeping = false;
    if (service->is_stopping) {
        return;
    }
    if (error != NULL) {
        loop_timer_start(service->tick, TICK_MS);
    } else {
        sweep(service);
    }
}

static void sweep(struct queue_service *service)
{
    struct look look = {.service = service, .now_ms = queue_now_ms(service)};
    struct store_status status;
    struct error err = {0};
    store_status(service->options.store, &status);
    if (status.is_leader && status.ready && queue_each(service, NULL, look_at, &look, &err) == 0 &&
        look.command == NULL) {
        look_at_trash(&look);
    }
    if (status.is_leader && status.ready && err.kind == ERROR_NONE && look.command == NULL) {
        look_at_dedups(&look);
    }
    if (look.command == NULL) {
        loop_timer_start(service->tick, TICK_MS);
        return;
    }
    service->is_sweeping = true;
    store_propose(service->options.store, look.command, on_swept, service);
}

static void on_tick(void *context)
{
    struct queue_service *service = context;
    if (!service->is_sweeping) {
        sweep(service);
    }
}

void queue_sweep_start(struct queue_service *service)
{
    service->tick = loop_timer_new(service->options.loop, on_tick, service);
    loop_timer_start(service->tick, TICK_MS);
}
