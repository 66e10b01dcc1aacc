/* Cores that machines and the node use, from what the kernel has counted; and what the node will
 * use. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/forecast/parts.h"
#include "service/machine/machine.h"

enum {
    DAY_MS = 86400000,
    PUBLISH_EVERY_MS = 600000,
    PUBLISH_RISE_MILLIS = 250, /* of a CPU */
    PUBLISH_PARTS = 10, /* a change by less than a tenth of what was said is not worth a command */
};

static void note_cpu(struct forecast_service *service, const char *key, uint64_t cpu_ms)
{
    struct series *series = series_find(service, key, true);
    uint64_t now_ms = clock_monotonic_ms();
    if (series == NULL) {
        return;
    }
    if (series->cpu_at_ms > 0 && cpu_ms >= series->cpu_ms && now_ms > series->cpu_at_ms) {
        double cores = (double)(cpu_ms - series->cpu_ms) / (double)(now_ms - series->cpu_at_ms);
        series->noted = cores > series->noted ? cores : series->noted;
    }
    series->cpu_ms = cpu_ms; /* that of a VMM that was started anew begins at 0 */
    series->cpu_at_ms = now_ms;
}

static void note_machine(const char *id, uint64_t cpu_ms, void *context)
{
    char key[SERIES_KEY_MAX];
    snprintf(key, sizeof(key), "m/%s", id);
    note_cpu(context, key, cpu_ms);
}

/* The first line of /proc/stat, in ticks: user nice system idle iowait irq softirq steal; proc(5).
 * What the hypervisor below stole is no use of this machine's. */
static bool read_node(uint64_t *ret_cpu_ms)
{
    char line[256] = "";
    uint64_t user, nice, system, irq, softirq;
    FILE *file = fopen("/proc/stat", "re");
    if (file == NULL) {
        return false;
    }
    bool is_read = fgets(line, sizeof(line), file) != NULL;
    fclose(file);
    if (!is_read ||
        sscanf(line, "cpu %" SCNu64 " %" SCNu64 " %" SCNu64 " %*u %*u %" SCNu64 " %" SCNu64, &user,
               &nice, &system, &irq, &softirq) != 5) {
        return false;
    }
    *ret_cpu_ms = (user + nice + system + irq + softirq) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
    return true;
}

void cpu_sample(struct forecast_service *service)
{
    uint64_t cpu_ms = 0;
    if (read_node(&cpu_ms)) {
        note_cpu(service, "n/", cpu_ms);
    }
    if (service->options.machines != NULL) {
        machine_each_cpu(service->options.machines, note_machine, service);
    }
}

/* The highest of a day: what is foreseen, or while nothing is, what was.  False: neither is known.
 */
static bool node_peak(struct forecast_service *service, double *ret_peak)
{
    const struct series *series = series_find(service, "n/", false);
    struct forecast_point next = {0};
    double peak = 0;
    size_t count = (size_t)(DAY_MS / service->options.step_ms);
    size_t known = 1;
    if (series == NULL) {
        return false;
    }
    if (forecaster_next(series->forecaster, &next)) {
        struct forecast_point *ahead = memory_new(count, sizeof(*ahead));
        forecaster_ahead(series->forecaster, count, ahead);
        for (size_t i = 0; i < count; i++) {
            peak = ahead[i].high > peak ? ahead[i].high : peak;
        }
        free(ahead);
    } else {
        double *past = memory_new(count, sizeof(*past));
        known = forecaster_past(series->forecaster, count, past);
        for (size_t i = 0; i < known; i++) {
            peak = past[i] > peak ? past[i] : peak;
        }
        free(past);
    }
    *ret_peak = peak > next.high ? peak : next.high;
    return known > 0;
}

void cpu_publish(struct forecast_service *service)
{
    uint64_t now_ms = clock_monotonic_ms();
    double peak = 0;
    bool is_known = node_peak(service, &peak);
    uint64_t millis = (uint64_t)(peak * 1000);
    uint64_t said = service->peak_millis;
    uint64_t change = millis > said ? millis - said : said - millis;
    /* A rise is told with the step that has it: the first one may have seen but a moment. */
    bool is_rise = millis > said + PUBLISH_RISE_MILLIS && change * PUBLISH_PARTS >= said;
    bool is_due = service->peak_at_ms == 0 || is_rise ||
        (now_ms - service->peak_at_ms >= PUBLISH_EVERY_MS && change * PUBLISH_PARTS >= said);
    if (service->options.store == NULL || !is_known || !is_due) {
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO node_peak (key, cpu_millis, revision) VALUES (?1, ?2, ?3) ON "
                      "CONFLICT (key) DO UPDATE SET cpu_millis = excluded.cpu_millis, revision = "
                      "excluded.revision",
                      "tur", service->options.node_name, millis);
    service->peak_millis = millis;
    service->peak_at_ms = now_ms;
    store_propose(service->options.store, command, NULL, NULL);
}
