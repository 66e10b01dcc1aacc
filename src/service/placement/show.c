/* What waits for room, what was decided, and what is kept, as JSON. */
#include <string.h>

#include "service/placement/parts.h"

enum { MILLI = 1000 };

static bool write_pending(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", store_text(row, 0));
    json_write_field_string(writer, "project", store_text(row, 1));
    json_write_field_u64(writer, "priority", (uint64_t)sqlite3_column_int64(row, 2));
    json_write_field_string(writer, "node", (const char *)sqlite3_column_text(row, 3));
    json_write_field_string(writer, "reason", store_text(row, 4));
    json_write_field_time_ms(writer, "pending_since", (uint64_t)sqlite3_column_int64(row, 5));
    if (sqlite3_column_type(row, 6) != SQLITE_NULL) {
        json_write_field_string(writer, "holds", store_text(row, 6));
    }
    json_write_end_object(writer);
    return true;
}

static bool write_reservation(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    uint64_t page = (uint64_t)sqlite3_column_int64(row, 8);
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", store_text(row, 0));
    json_write_field_string(writer, "project", store_text(row, 1));
    json_write_field_string(writer, "node", store_text(row, 2));
    json_write_field_u64(writer, "cpus", (uint64_t)sqlite3_column_int64(row, 3) / MILLI);
    json_write_field_u64(writer, "memory_bytes", (uint64_t)sqlite3_column_int64(row, 4));
    if (page > 0) {
        json_write_field_string(writer, "huge_pages", page == PLACEMENT_PAGE_2M ? "2MiB" : "1GiB");
    }
    json_write_field_u64(writer, "disk_bytes", (uint64_t)sqlite3_column_int64(row, 5));
    json_write_field_time_ms(writer, "expires_at", (uint64_t)sqlite3_column_int64(row, 6));
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 7));
    json_write_end_object(writer);
    return true;
}

static int each_reservation(struct placement_service *service, const char *where, const char *value,
                            bool (*take)(sqlite3_stmt *row, void *context), void *context,
                            struct error *err)
{
    MEMORY_OWNED char *sql = memory_format(
        "SELECT name, project, node, cpu_millis, memory_bytes, disk_bytes, expires_ms, created_ms, "
        "%s FROM placement_reservation WHERE %s = ? AND expires_ms > ? ORDER BY name",
        picture_page_column(service), where);
    return store_query(service->options.store, err, take, context, sql, "tu", value,
                       clock_real_ms());
}

int placement_service_write_list(struct placement_service *service, const char *project,
                                 struct buffer *out, struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    bool is_known = service_is_known(service);
    int r = 0;
    json_write_begin_object(&writer);
    json_write_key(&writer, "pending");
    json_write_begin_array(&writer);
    if (is_known) {
        MEMORY_OWNED char *sql = memory_format(
            "SELECT name, project, coalesce(config ->> '$.priority', 50) AS priority, nullif(node, "
            "''), pending_reason, pending_ms, %s FROM machine WHERE pending_ms IS NOT NULL AND "
            "project = ? ORDER BY priority DESC, pending_ms, id",
            hold_columns(service));
        r = store_query(service->options.store, err, write_pending, &writer, sql, "t", project);
    }
    json_write_end_array(&writer);
    decisions_write(service, project, NULL, &writer);
    json_write_key(&writer, "reservations");
    json_write_begin_array(&writer);
    if (is_known && r == 0) {
        r = each_reservation(service, "project", project, write_reservation, &writer, err);
    }
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    return r;
}

struct counting {
    struct json_writer *writer;
    size_t count;
};

static bool write_counted(sqlite3_stmt *row, void *context)
{
    struct counting *counting = context;
    counting->count++;
    return write_reservation(row, counting->writer);
}

int placement_service_reservation_write(struct placement_service *service, const char *project,
                                        const char *name, struct buffer *out, struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    struct counting counting = {&writer, 0};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = each_reservation(service, "key", key, write_counted, &counting, err);
    return r < 0 || counting.count > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND, "there is no reservation %.64s in project %s", name,
                    project);
}

int placement_service_reservation_write_list(struct placement_service *service, const char *project,
                                             struct buffer *out, struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    int r = 0;
    json_write_begin_object(&writer);
    json_write_key(&writer, "reservations");
    json_write_begin_array(&writer);
    if (service_is_known(service)) {
        r = each_reservation(service, "project", project, write_reservation, &writer, err);
    }
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    return r;
}
