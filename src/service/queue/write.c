/* How queues are doing: for people, programs and Prometheus. */
#include <inttypes.h>
#include <string.h>

#include "base/json.h"

#include "service/queue/parts.h"

/* Every count walks an index, and only what is in flight, delayed or dead. */
static int read_status(struct queue_service *service, const struct queue_row *row,
                       struct queue_status *ret, struct error *err)
{
    struct store *store = service->options.store;
    uint64_t now_ms = queue_now_ms(service);
    uint64_t hidden = 0;
    uint64_t heads = row->depth;
    uint64_t oldest_ms = 0;
    *ret = (struct queue_status){.depth = row->depth,
                                 .bytes = row->bytes,
                                 .sent = row->sent,
                                 .acked = row->acked,
                                 .expired = row->expired,
                                 .died = row->died};
    int r = store_query(store, err, store_take_u64, &ret->in_flight,
                        "SELECT count(*) FROM queue_message WHERE queue = ? AND claimed > 0 AND "
                        "visible_ms > ?",
                        "uu", row->number, now_ms);
    for (int64_t priority = 0; r == 0 && priority <= QUEUE_PRIORITY_MAX; priority++) {
        uint64_t count = 0;
        r = store_query(store, err, store_take_u64, &count,
                        "SELECT count(*) FROM queue_message WHERE queue = ? AND blocked = 0 AND "
                        "priority = ? AND visible_ms > ?",
                        "uiu", row->number, priority, now_ms);
        hidden += count;
    }
    if (r == 0 && row->settings.is_fifo) {
        r = store_query(store, err, store_take_u64, &heads,
                        "SELECT count(*) FROM queue_message WHERE queue = ? AND blocked = 0", "u",
                        row->number);
    }
    r = r < 0
        ? r
        : store_query(store, err, store_take_u64, &ret->dead,
                      "SELECT count(*) FROM queue_message WHERE source = ?", "u", row->number);
    r = r < 0 ? r
              : store_query(store, err, store_take_u64, &oldest_ms,
                            "SELECT min(entered_ms) FROM queue_message WHERE queue = ?", "u",
                            row->number);
    ret->delayed = hidden > ret->in_flight ? hidden - ret->in_flight : 0;
    ret->blocked = row->depth > heads ? row->depth - heads : 0;
    ret->ready = row->depth > hidden + ret->blocked ? row->depth - hidden - ret->blocked : 0;
    ret->oldest_ms = oldest_ms > 0 && now_ms > oldest_ms ? now_ms - oldest_ms : 0;
    return r;
}

int queue_read_status(struct queue_service *service, const char *project, const char *name,
                      struct queue_status *ret_status, struct error *err)
{
    struct queue_row row = {0};
    int r = queue_find(service, project, name, &row, err);
    return r < 0 ? r : read_status(service, &row, ret_status, err);
}

/* ---- JSON ---- */

struct writing {
    struct queue_service *service;
    struct json_writer writer;
    int r;
    struct error *err;
};

static void write_queue(const struct queue_row *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *w = &writing->writer;
    struct queue_status status;
    struct queue_row dead = {0};
    if (writing->r < 0) {
        return;
    }
    writing->r = read_status(writing->service, row, &status, writing->err);
    bool has_dead = queue_find_number(writing->service, row->dead_letter, &dead);
    json_write_begin_object(w);
    json_write_field_string(w, "name", row->name);
    json_write_field_bool(w, "fifo", row->settings.is_fifo);
    json_write_field_u64(w, "depth", status.depth);
    json_write_field_u64(w, "ready", status.ready);
    json_write_field_u64(w, "in_flight", status.in_flight);
    json_write_field_u64(w, "delayed", status.delayed);
    json_write_field_u64(w, "blocked", status.blocked);
    json_write_field_u64(w, "bytes", status.bytes);
    json_write_field_u64(w, "oldest_age_ms", status.oldest_ms);
    json_write_field_u64(w, "dead", status.dead);
    json_write_field_u64(w, "sent", status.sent);
    json_write_field_u64(w, "acked", status.acked);
    json_write_field_u64(w, "expired", status.expired);
    json_write_field_u64(w, "died", status.died);
    json_write_field_u64(w, "visibility_ms", row->settings.visibility_ms);
    json_write_field_u64(w, "retention_ms", row->settings.retention_ms);
    json_write_field_u64(w, "delay_ms", row->settings.delay_ms);
    json_write_field_u64(w, "dedup_ms", row->settings.dedup_ms);
    json_write_field_u64(w, "max_depth", row->settings.depth_max);
    json_write_field_u64(w, "max_bytes", row->settings.bytes_max);
    json_write_field_u64(w, "max_receives", row->settings.receives_max);
    json_write_field_string(w, "dead_letter", has_dead ? dead.name : NULL);
    json_write_field_time_ms(w, "created_at", row->created_ms);
    json_write_end_object(w);
}

int queue_write(struct queue_service *service, const char *project, const char *name,
                struct buffer *out, struct error *err)
{
    struct queue_row row = {0};
    struct writing writing = {.service = service, .writer = json_writer_to(out), .err = err};
    int r = queue_find(service, project, name, &row, err);
    if (r < 0) {
        return r;
    }
    write_queue(&row, &writing);
    return writing.r;
}

int queue_write_list(struct queue_service *service, const char *project, struct buffer *out,
                     struct error *err)
{
    struct writing writing = {.service = service, .writer = json_writer_to(out), .err = err};
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "queues");
    json_write_begin_array(&writing.writer);
    int r = queue_each(service, project, write_queue, &writing, err);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r < 0 ? r : writing.r;
}

/* ---- Prometheus ---- */

static const struct metric {
    const char *name;
    const char *type;
    const char *help;
    size_t offset;
    double scale;
} metrics[] = {
#define METRIC(name, type, help, field, scale)                                         \
    {                                                                                  \
        "blixard_queue_" name, type, help, offsetof(struct queue_status, field), scale \
    }
    METRIC("messages", "gauge", "Messages in a queue.", depth, 1),
    METRIC("messages_ready", "gauge", "Messages that can be received now.", ready, 1),
    METRIC("messages_in_flight", "gauge", "Messages received and not settled.", in_flight, 1),
    METRIC("messages_delayed", "gauge", "Messages that are not due yet.", delayed, 1),
    METRIC("bytes", "gauge", "Bytes of bodies and attributes in a queue.", bytes, 1),
    METRIC("oldest_age_seconds", "gauge", "Age of the oldest message.", oldest_ms, 0.001),
    METRIC("dead_letters", "gauge", "Its messages in the dead-letter queue.", dead, 1),
    METRIC("sent_total", "counter", "Messages accepted.", sent, 1),
    METRIC("acked_total", "counter", "Messages acknowledged.", acked, 1),
    METRIC("expired_total", "counter", "Messages removed after the retention.", expired, 1),
    METRIC("died_total", "counter", "Messages moved to the dead-letter queue.", died, 1),
#undef METRIC
};

struct sample {
    char key[QUEUE_KEY_SIZE];
    struct queue_status status;
};

struct samples {
    struct queue_service *service;
    struct sample *items;
    size_t count;
};

static void take_sample(const struct queue_row *row, void *context)
{
    struct samples *samples = context;
    struct error err = {0};
    samples->items = memory_resize(samples->items, (samples->count + 1) * sizeof(struct sample));
    struct sample *sample = &samples->items[samples->count++];
    memcpy(sample->key, row->key, sizeof(row->key));
    read_status(samples->service, row, &sample->status, &err);
}

void queue_write_metrics(struct queue_service *service, struct buffer *out)
{
    struct samples samples = {.service = service};
    struct error err = {0};
    queue_each(service, NULL, take_sample, &samples, &err);
    buffer_append_format(out,
                         "# HELP blixard_queue_refused_total Messages that this node was asked to "
                         "take, and whose queue was full or that were too large.\n"
                         "# TYPE blixard_queue_refused_total counter\n"
                         "blixard_queue_refused_total %" PRIu64 "\n",
                         service->refused);
    for (size_t i = 0; samples.count > 0 && i < sizeof(metrics) / sizeof(metrics[0]); i++) {
        const struct metric *metric = &metrics[i];
        buffer_append_format(out, "# HELP %s %s\n# TYPE %s %s\n", metric->name, metric->help,
                             metric->name, metric->type);
        for (size_t k = 0; k < samples.count; k++) {
            const struct sample *sample = &samples.items[k];
            uint64_t value = 0;
            memcpy(&value, (const char *)&sample->status + metric->offset, sizeof(value));
            const char *slash = strchr(sample->key, '/');
            buffer_append_format(out, "%s{project=\"%.*s\",queue=\"%s\"} %.15g\n", metric->name,
                                 (int)(slash - sample->key), sample->key, slash + 1,
                                 (double)value * metric->scale);
        }
    }
    free(samples.items);
}
