/* Machines and drivers as JSON, and as metrics. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/devices.h"
#include "service/machine/parts.h"
#include "service/machine/volumes.h"
#include "service/traffic/traffic.h"

/* What is shown of the settings. */
#define SETTINGS                                                                                  \
    "json_remove(config, '$.name', '$.kernel', '$.initrd', '$.root', '$.root_format', '$.disk', " \
    "'$.disk_format', '$.disk_size_bytes', '$.without_agent', '$.networks', '$.cells')"

/* A state that is to be upgraded yet tells nothing of health. */
#define COLUMNS                                                                                    \
    "SELECT name, project, id, node, " SETTINGS ", desired, state, reason, restarts, started_ms, " \
    "created_ms"
#define SELECT(where)                                                                    \
    (state_has_runners(service) ? COLUMNS                                                \
         ", health, health_reason, pending_ms, pending_reason, booted_runner, config "   \
         "->> '$.runner' FROM machine " where                                            \
         : draft_is_known(service) ? COLUMNS                                             \
         ", health, health_reason, pending_ms, pending_reason, NULL, NULL FROM "         \
         "machine " where                                                                \
         : state_has_health(service)                                                     \
         ? COLUMNS ", health, health_reason, NULL, NULL, NULL, NULL FROM machine " where \
         : COLUMNS ", NULL, NULL, NULL, NULL, NULL, NULL FROM machine " where)

/* Of a machine that runs here: what its VMM and its agent say now. */
static void write_live(struct json_writer *writer, struct machine_service *service,
                       const char *project, const char *name)
{
    struct machine *machine = state_find(service, project, name);
    struct hypervisor_usage usage;
    if (machine == NULL || !machine_state_is_alive(machine->state)) {
        return;
    }
    if (hypervisor_read_usage(machine->folder, &usage)) {
        json_write_field_u64(writer, "vmm_pid", (uint64_t)usage.pid);
        json_write_field_u64(writer, "cpu_ms", usage.cpu_user_ms + usage.cpu_system_ms);
        json_write_field_u64(writer, "resident_bytes", usage.memory_bytes);
    }
    pin_write(writer, machine);
    cells_write(writer, machine);
    JSON_OWNED json_t *waiting = json_pack("{s:o}", "at_next_start", change_of(machine));
    if (json_array_size(json_object_get(waiting, "at_next_start")) > 0) {
        json_write_members(writer, waiting);
    }
    const struct agent_info *info = machine->agent != NULL ? agent_last_info(machine->agent) : NULL;
    json_write_field_string(writer, "agent", info != NULL ? info->program : NULL);
    if (info != NULL) {
        json_write_field_string(writer, "kernel", info->kernel);
    }
}

struct writing {
    struct machine_service *service;
    struct json_writer writer;
    const char *silence; /* why its node does not tell it; NULL: nothing is amiss */
    bool is_live;
    bool is_plain; /* of a list: no machine has volumes or networks */
    size_t count;
};

/* One that was displaced is pending when its node has stopped it. */
static void write_state(struct json_writer *writer, sqlite3_stmt *row, const char *silence)
{
    const char *state = (const char *)sqlite3_column_text(row, 6);
    bool waits = sqlite3_column_type(row, 13) != SQLITE_NULL &&
        (strcmp(state, "pending") == 0 || strcmp(state, "stopped") == 0 ||
         strcmp(state, "failed") == 0);
    json_write_field_string(writer, "state", waits ? "pending" : state);
    MEMORY_OWNED char *told =
        silence != NULL ? memory_format("so it was when it was last heard of: %s", silence) : NULL;
    json_write_field_string(writer, "reason",
                            told != NULL ? told
                                         : (const char *)sqlite3_column_text(row, waits ? 14 : 7));
    if (waits) {
        json_write_field_time_ms(writer, "pending_since", (uint64_t)sqlite3_column_int64(row, 13));
    }
}

/* What it runs with, and whether that is what it would be started with now. */
static void write_runner(struct json_writer *writer, sqlite3_stmt *row)
{
    const char *booted = (const char *)sqlite3_column_text(row, 15);
    const char *runner = (const char *)sqlite3_column_text(row, 16);
    if (booted != NULL && runner != NULL) {
        json_write_field_string(writer, "booted_runner", booted);
        json_write_field_bool(writer, "outdated", strcmp(booted, runner) != 0);
    }
}

static bool write_row(sqlite3_stmt *row, void *context)
{
    struct writing *writing = context;
    struct json_writer *writer = &writing->writer;
    const char *project = (const char *)sqlite3_column_text(row, 1);
    const char *name = (const char *)sqlite3_column_text(row, 0);
    const char *config = (const char *)sqlite3_column_text(row, 4);
    writing->count++;
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", name);
    json_write_field_string(writer, "project", project);
    json_write_field_string(writer, "id", (const char *)sqlite3_column_text(row, 2));
    json_write_field_string(writer, "node", (const char *)sqlite3_column_text(row, 3));
    json_write_field_string(writer, "desired", (const char *)sqlite3_column_text(row, 5));
    write_state(writer, row, writing->silence);
    if (strlen(config) > 2) { /* SQLite has taken out what is not shown: "{...}" */
        json_write_raw(writer, config + 1, strlen(config) - 2);
    }
    json_write_field_string(writer, "health_state", (const char *)sqlite3_column_text(row, 11));
    json_write_field_string(writer, "health_reason", (const char *)sqlite3_column_text(row, 12));
    write_runner(writer, row);
    if (!writing->is_plain) {
        machine_volumes_write(writing->service, project, name, writer);
        network_write_machine(writing->service->options.networks,
                              (const char *)sqlite3_column_text(row, 2), writer);
    }
    if (writing->is_live) {
        devices_write(writing->service, (const char *)sqlite3_column_text(row, 2), writer);
    }
    json_write_field_u64(writer, "restarts", (uint64_t)sqlite3_column_int64(row, 8));
    json_write_field_time_ms(writer, "started_at", (uint64_t)sqlite3_column_int64(row, 9));
    json_write_field_time_ms(writer, "created_at", (uint64_t)sqlite3_column_int64(row, 10));
    if (writing->is_live) {
        traffic_write_machine(writing->service->options.store,
                              (const char *)sqlite3_column_text(row, 2), project,
                              (const char *)sqlite3_column_text(row, 3), writer);
        write_live(writer, writing->service, project, name);
    }
    json_write_end_object(writer);
    return true;
}

int machine_write(struct machine_service *service, const char *project, const char *name,
                  const char *silence_or_null, struct buffer *out, struct error *err)
{
    struct writing writing = {.service = service,
                              .writer = json_writer_to(out),
                              .silence = silence_or_null,
                              .is_live = true};
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = store_query(service->options.store, err, write_row, &writing, SELECT("WHERE key = ?"),
                        "t", key);
    return r < 0 || writing.count > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "there is no machine %.64s in project %s; see `blixard vm list`", name,
                    project);
}

/* Has any machine a volume, or an interface in a network?  Asked once, not of each. */
static bool has_parts(struct machine_service *service)
{
    bool has = false;
    struct error ignored = {0};
    if (state_has_health(service)) {
        store_query(service->options.store, &ignored, store_take_any, &has,
                    "SELECT 1 WHERE EXISTS (SELECT 1 FROM volume WHERE machine IS NOT NULL) OR "
                    "EXISTS (SELECT 1 FROM network_lease)",
                    "");
    }
    return has;
}

int machine_write_list(struct machine_service *service, const char *project, struct buffer *out,
                       struct error *err)
{
    struct writing writing = {.service = service, .writer = json_writer_to(out)};
    writing.is_plain = !has_parts(service);
    json_write_begin_object(&writing.writer);
    json_write_key(&writing.writer, "machines");
    json_write_begin_array(&writing.writer);
    int r = store_query(service->options.store, err, write_row, &writing,
                        SELECT("WHERE project = ? ORDER BY name"), "t", project);
    json_write_end_array(&writing.writer);
    json_write_end_object(&writing.writer);
    return r;
}

/* ---- Drivers ---- */

void machine_write_drivers(struct machine_service *service, struct buffer *out)
{
    const struct hypervisor *hypervisor = service->options.hypervisor;
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_key(&writer, "hypervisors");
    json_write_begin_array(&writer);
    for (size_t i = 0; i < hypervisor_driver_count(hypervisor); i++) {
        const struct hypervisor_driver_info *info = hypervisor_driver_at(hypervisor, i);
        json_write_begin_object(&writer);
        json_write_field_string(&writer, "name", info->name);
        json_write_field_bool(&writer, "usable", info->is_usable);
        json_write_field_string(&writer, "version", info->version);
        json_write_field_string(&writer, "accelerator", info->accelerator);
        json_write_field_string(&writer, "problem", info->problem);
        json_write_field_bool(&writer, "snapshot", info->can_snapshot);
        json_write_field_bool(&writer, "clone",
                              info->can_snapshot && info->clone_problem[0] == '\0');
        json_write_field_bool(&writer, "shared_memory", info->can_clone);
        json_write_field_bool(&writer, "separate_rates", info->can_rate_each);
        json_write_field_bool(&writer, "live_migration", info->can_migrate);
        json_write_field_bool(&writer, "hotplug", info->can_hotplug);
        json_write_field_bool(&writer, "shares", info->can_share);
        json_write_field_bool(&writer, "vsock", info->can_vsock);
        json_write_field_bool(&writer, "user_network", info->has_user_network);
        json_write_field_string(&writer, "limits", info->limits);
        json_write_end_object(&writer);
    }
    json_write_end_array(&writer);
    json_write_end_object(&writer);
}

/* ---- Metrics ---- */

static void write_states(struct machine_service *service, struct buffer *out)
{
    uint64_t counts[MACHINE_STATES] = {0};
    LIST_EACH(node, &service->machines)
    {
        counts[LIST_ITEM(node, struct machine, link)->state]++;
    }
    buffer_append_string(out,
                         "# HELP blixard_machines Machines of this node by state.\n"
                         "# TYPE blixard_machines gauge\n");
    for (int i = 0; i < MACHINE_STATES; i++) {
        buffer_append_format(out, "blixard_machines{state=\"%s\"} %" PRIu64 "\n",
                             machine_state_text((enum machine_state)i), counts[i]);
    }
}

struct sample {
    const struct machine *machine;
    struct hypervisor_usage usage;
};

static void write_usage(const struct sample *samples, size_t count, bool is_openmetrics,
                        struct buffer *out)
{
    static const struct {
        const char *name;
        const char *kind;
        const char *help;
    } metrics[] = {
        {"blixard_machine_cpu_seconds_total", "counter", "CPU time of a machine's VMM by mode."},
        {"blixard_machine_resident_bytes", "gauge", "Memory that a machine's VMM has."},
        {"blixard_machine_disk_read_bytes_total", "counter", "Bytes read from disks."},
        {"blixard_machine_disk_written_bytes_total", "counter", "Bytes written to disks."},
        {"blixard_machine_restarts_total", "counter", "How often it was started again."},
    };
    for (size_t m = 0; m < sizeof(metrics) / sizeof(metrics[0]); m++) {
        bool is_counter = strcmp(metrics[m].kind, "counter") == 0;
        int family = (int)(strlen(metrics[m].name) -
                           (is_openmetrics && is_counter ? sizeof("_total") - 1 : 0));
        buffer_append_format(out, "# HELP %.*s %s\n# TYPE %.*s %s\n", family, metrics[m].name,
                             metrics[m].help, family, metrics[m].name, metrics[m].kind);
        for (size_t i = 0; i < count; i++) {
            const struct machine *machine = samples[i].machine;
            const struct hypervisor_usage *usage = &samples[i].usage;
            MEMORY_OWNED char *labels =
                memory_format("project=\"%s\",machine=\"%s\"", machine->project, machine->name);
            if (m == 0) {
                buffer_append_format(out, "%s{%s,mode=\"user\"} %.3f\n", metrics[m].name, labels,
                                     (double)usage->cpu_user_ms / 1000);
                buffer_append_format(out, "%s{%s,mode=\"system\"} %.3f\n", metrics[m].name, labels,
                                     (double)usage->cpu_system_ms / 1000);
                continue;
            }
            const uint64_t values[] = {0, usage->memory_bytes, usage->read_bytes,
                                       usage->write_bytes, machine->restarts};
            buffer_append_format(out, "%s{%s} %" PRIu64 "\n", metrics[m].name, labels, values[m]);
        }
    }
}

void machine_write_metrics(struct machine_service *service, bool is_openmetrics, struct buffer *out)
{
    size_t count = 0;
    size_t most = 0;
    LIST_EACH(node, &service->machines)
    {
        most++;
    }
    write_states(service, out);
    health_write_metrics(service, is_openmetrics, out);
    limits_write_metrics(service, is_openmetrics, out);
    migration_write_metrics(service, is_openmetrics, out);
    struct sample *samples = memory_new(most + 1, sizeof(*samples));
    LIST_EACH(node, &service->machines)
    {
        struct machine *machine = LIST_ITEM(node, struct machine, link);
        samples[count].machine = machine;
        if (machine_state_is_alive(machine->state) &&
            hypervisor_read_usage(machine->folder, &samples[count].usage)) {
            count++;
        }
    }
    write_usage(samples, count, is_openmetrics, out);
    free(samples);
}
