/* `vm top`: what machines use, as rates between two looks. */
#include <string.h>

#include "base/json.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static json_t *machine_of(const json_t *answer, const char *name)
{
    size_t index = 0;
    json_t *machine = NULL;
    json_array_foreach(json_object_get(answer, "machines"), index, machine)
    {
        if (strcmp(json_text(machine, "name"), name) == 0) {
            return machine;
        }
    }
    return NULL;
}

static json_int_t number(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

/* A counter that became smaller is of another VMM, or another boot. */
static void add_rate(json_t *row, const char *field, const json_t *before, const json_t *now,
                     const char *key, json_int_t elapsed_ms, json_int_t factor)
{
    json_int_t change = number(now, key) - number(before, key);
    if (json_object_get(now, key) != NULL && json_object_get(before, key) != NULL && change >= 0 &&
        elapsed_ms > 0) {
        json_object_set_new(
            row, field,
            json_integer((json_int_t)((double)change * (double)factor / (double)elapsed_ms)));
    }
}

/* By name. */
static void insert(json_t *rows, json_t *owned_row)
{
    const char *name = json_string_value(json_object_get(owned_row, "name"));
    size_t place = json_array_size(rows);
    while (place > 0 &&
           strcmp(json_string_value(json_object_get(json_array_get(rows, place - 1), "name")),
                  name) > 0) {
        place--;
    }
    json_array_insert_new(rows, place, owned_row);
}

static json_t *row_of(const char *node, const char *name, const json_t *was, const json_t *is,
                      json_int_t elapsed_ms)
{
    static const char *const kept[] = {"state", "cpus", "memory_bytes", "resident_bytes"};
    json_t *row = json_pack("{s:s, s:s}", "name", name, "node", node);
    for (size_t i = 0; i < COUNT(kept); i++) {
        json_t *value = json_object_get(is, kept[i]);
        if (value != NULL) {
            json_object_set(row, kept[i], value);
        }
    }
    add_rate(row, "cpu_percent", was, is, "cpu_ms", elapsed_ms, 100);
    add_rate(row, "read_bytes_per_second", was, is, "read_bytes", elapsed_ms, 1000);
    add_rate(row, "written_bytes_per_second", was, is, "written_bytes", elapsed_ms, 1000);
    add_rate(row, "received_bytes_per_second", was, is, "received_bytes", elapsed_ms, 1000);
    add_rate(row, "sent_bytes_per_second", was, is, "sent_bytes", elapsed_ms, 1000);
    return row;
}

static json_t *compare(const json_t *before, const json_t *now, const void *context)
{
    json_t *rows = json_array();
    const char *node = NULL;
    json_t *seen = NULL;
    (void)context;
    json_object_foreach((json_t *)(uintptr_t)now, node, seen)
    {
        const json_t *then = json_object_get(before, node);
        json_int_t elapsed_ms = number(seen, "measured_ms") - number(then, "measured_ms");
        size_t index = 0;
        json_t *machine = NULL;
        json_array_foreach(json_object_get(seen, "machines"), index, machine)
        {
            const char *name = json_text(machine, "name");
            insert(rows, row_of(node, name, machine_of(then, name), machine, elapsed_ms));
        }
    }
    return rows;
}

int verb_vm_top(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},
        {"NODE", "node", AS_TEXT},
        {"STATE", "state", AS_TEXT},
        {"CPUS", "cpus", AS_TEXT},
        {"CPU %", "cpu_percent", AS_TEXT},
        {"RESIDENT", "resident_bytes", AS_BYTES},
        {"MEMORY", "memory_bytes", AS_BYTES},
        {"READ/S", "read_bytes_per_second", AS_BYTES},
        {"WRITTEN/S", "written_bytes_per_second", AS_BYTES},
        {"RECEIVED/S", "received_bytes_per_second", AS_BYTES},
        {"SENT/S", "sent_bytes_per_second", AS_BYTES},
    };
    static const struct top_order orders[] = {
        {"name", NULL},
        {"cpu", "cpu_percent"},
        {"memory", "resident_bytes"},
        {"read", "read_bytes_per_second"},
        {"written", "written_bytes_per_second"},
        {"received", "received_bytes_per_second"},
        {"sent", "sent_bytes_per_second"},
        {NULL, NULL},
    };
    static const struct top top = {
        .path = "/v1/machine-usage",
        .member = "machines",
        .compare = compare,
        .columns = columns,
        .column_count = COUNT(columns),
        .orders = orders,
    };
    return top_run(arguments, &top, err);
}
