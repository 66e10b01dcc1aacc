/*
 * What is known of running machines by asking: their agents, and the kernel about their taps.
 *
 * All of it is asked for when /metrics is, at once, and waits a second for agents at most.  What an
 * agent says is a guest's word: names are made printable, and one that comes twice is told once, as
 * a series that is there twice would spoil the whole answer.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/machine/parts.h"

enum { AGENT_MS = 1000 };

struct sample {
    char *labels;
    bool has_agent; /* it has one, which should answer */
    bool is_up;     /* it has */
    uint64_t memory_bytes;
    uint64_t balloon_bytes;
    struct network_nic nics[NETWORK_NICS_MAX];
    size_t nic_count;
    struct agent_metrics *metrics; /* NULL: not told */
};

struct gathering {
    struct machine_service *service;
    bool is_openmetrics;
    struct sample *samples;
    size_t count;
    size_t pending;
    const struct network_count *links; /* while all of it is written */
    size_t link_count;
    struct buffer text;
    machine_measured *done;
    void *context;
};

/* ---- Families ---- */

static void begin(struct gathering *gathering, const char *name, const char *kind, const char *help)
{
    size_t length = strlen(name);
    if (gathering->is_openmetrics && strcmp(kind, "counter") == 0) {
        length -= sizeof("_total") - 1;
    }
    buffer_append_format(&gathering->text, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)length, name,
                         help, (int)length, name, kind);
}

static void add(struct gathering *gathering, const char *name, const struct sample *sample,
                const char *more, uint64_t value)
{
    buffer_append_format(&gathering->text, "%s{%s%s} %" PRIu64 "\n", name, sample->labels, more,
                         value);
}

/* ,KEY="VALUE", of what a guest has named. */
static const char *label_of(const char *key, const char *value, char *ret_text, size_t size)
{
    char plain[160];
    snprintf(plain, sizeof(plain), "%.150s", value);
    text_make_printable(plain, false);
    for (char *at = plain; *at != '\0'; at++) {
        *at = *at == '"' || *at == '\\' || (unsigned char)*at >= 0x80 ? '?' : *at;
    }
    snprintf(ret_text, size, ",%s=\"%s\"", key, plain);
    return ret_text;
}

/* ---- The host's side ---- */

static void write_memory(struct gathering *gathering)
{
    begin(gathering, "blixard_machine_agent_up", "gauge",
          "Whether the agent of a machine that runs answers.");
    for (size_t i = 0; i < gathering->count; i++) {
        if (gathering->samples[i].has_agent) {
            add(gathering, "blixard_machine_agent_up", &gathering->samples[i], "",
                gathering->samples[i].is_up ? 1 : 0);
        }
    }
    begin(gathering, "blixard_machine_memory_bytes", "gauge", "Memory that a machine is to have.");
    for (size_t i = 0; i < gathering->count; i++) {
        add(gathering, "blixard_machine_memory_bytes", &gathering->samples[i], "",
            gathering->samples[i].memory_bytes);
    }
    begin(gathering, "blixard_machine_balloon_bytes", "gauge",
          "What its balloon is to take of the memory that a machine began with.");
    for (size_t i = 0; i < gathering->count; i++) {
        add(gathering, "blixard_machine_balloon_bytes", &gathering->samples[i], "",
            gathering->samples[i].balloon_bytes);
    }
}

static const struct network_count *find_link(const struct gathering *gathering, const char *tap)
{
    for (size_t i = 0; i < gathering->link_count; i++) {
        if (strcmp(gathering->links[i].tap, tap) == 0) {
            return &gathering->links[i];
        }
    }
    return NULL;
}

static void write_tap(struct gathering *gathering, const char *metric, size_t offset,
                      const struct sample *sample, size_t nic)
{
    char label[192];
    uint64_t value = 0;
    const struct network_count *link = find_link(gathering, sample->nics[nic].tap);
    if (link != NULL) {
        memcpy(&value, (const char *)link + offset, sizeof(value));
        add(gathering, metric, sample,
            label_of("network", sample->nics[nic].network, label, sizeof(label)), value);
    }
}

/* What a tap receives its machine has sent. */
static void write_taps(struct gathering *gathering)
{
    static const struct {
        const char *name;
        const char *help;
        size_t offset;
    } metrics[] = {
        {"blixard_machine_network_received_bytes_total",
         "Bytes that came to a machine by a network.", offsetof(struct network_count, send_bytes)},
        {"blixard_machine_network_sent_bytes_total", "Bytes that a machine has sent to a network.",
         offsetof(struct network_count, receive_bytes)},
        {"blixard_machine_network_received_packets_total",
         "Packets that came to a machine by a network.",
         offsetof(struct network_count, send_packets)},
        {"blixard_machine_network_sent_packets_total",
         "Packets that a machine has sent to a network.",
         offsetof(struct network_count, receive_packets)},
        {"blixard_machine_network_dropped_packets_total",
         "Packets that were for a machine and that its queue had no room for.",
         offsetof(struct network_count, send_dropped)},
    };
    for (size_t m = 0; m < sizeof(metrics) / sizeof(metrics[0]); m++) {
        begin(gathering, metrics[m].name, "counter", metrics[m].help);
        for (size_t i = 0; i < gathering->count; i++) {
            const struct sample *sample = &gathering->samples[i];
            for (size_t n = 0; n < sample->nic_count; n++) {
                write_tap(gathering, metrics[m].name, metrics[m].offset, sample, n);
            }
        }
    }
}

/* ---- The guest's word ---- */

static void write_cpu(struct gathering *gathering)
{
    static const char name[] = "blixard_machine_guest_cpu_seconds_total";
    static const char *const modes[] = {"user",   "nice", "system",  "idle",
                                        "iowait", "irq",  "softirq", "steal"};
    begin(gathering, name, "counter", "CPU time as the guest counts it, by mode.");
    for (size_t i = 0; i < gathering->count; i++) {
        const struct sample *sample = &gathering->samples[i];
        if (sample->metrics == NULL) {
            continue;
        }
        const uint64_t values[] = {sample->metrics->cpu_ms.user,    sample->metrics->cpu_ms.nice,
                                   sample->metrics->cpu_ms.system,  sample->metrics->cpu_ms.idle,
                                   sample->metrics->cpu_ms.iowait,  sample->metrics->cpu_ms.irq,
                                   sample->metrics->cpu_ms.softirq, sample->metrics->cpu_ms.steal};
        for (size_t m = 0; m < sizeof(modes) / sizeof(modes[0]); m++) {
            buffer_append_format(&gathering->text, "%s{%s,mode=\"%s\"} %" PRIu64 ".%03u\n", name,
                                 sample->labels, modes[m], values[m] / 1000,
                                 (unsigned)(values[m] % 1000));
        }
    }
}

static void write_gauges(struct gathering *gathering)
{
    static const struct {
        const char *name;
        const char *help;
    } gauges[] = {
        {"blixard_machine_guest_memory_total_bytes", "Memory that the guest sees."},
        {"blixard_machine_guest_memory_available_bytes", "Memory that its programs could have."},
        {"blixard_machine_guest_swap_free_bytes", "Swap that is free in the guest."},
        {"blixard_machine_guest_processes", "Processes in the guest."},
        {"blixard_machine_guest_uptime_seconds", "How long ago the guest has booted."},
    };
    for (size_t g = 0; g < sizeof(gauges) / sizeof(gauges[0]); g++) {
        begin(gathering, gauges[g].name, "gauge", gauges[g].help);
        for (size_t i = 0; i < gathering->count; i++) {
            const struct agent_metrics *metrics = gathering->samples[i].metrics;
            if (metrics != NULL) {
                const uint64_t values[] = {
                    metrics->memory_bytes.total, metrics->memory_bytes.available,
                    metrics->memory_bytes.swap_free, metrics->processes, metrics->uptime_ms / 1000};
                add(gathering, gauges[g].name, &gathering->samples[i], "", values[g]);
            }
        }
    }
}

static bool was_before(const struct agent_metrics *metrics, unsigned index)
{
    char label[192];
    char other[192];
    label_of("mount", metrics->mounted[index].path, label, sizeof(label));
    for (unsigned i = 0; i < index; i++) {
        label_of("mount", metrics->mounted[i].path, other, sizeof(other));
        if (strcmp(label, other) == 0) {
            return true;
        }
    }
    return false;
}

static void write_mounted_of(struct gathering *gathering, const char *metric, bool is_size,
                             const struct sample *sample)
{
    unsigned count = sample->metrics != NULL ? sample->metrics->mounted_count : 0;
    for (unsigned i = 0; i < count; i++) {
        char label[192];
        const struct agent_mounted *mounted = &sample->metrics->mounted[i];
        if (!was_before(sample->metrics, i)) {
            add(gathering, metric, sample, label_of("mount", mounted->path, label, sizeof(label)),
                is_size ? mounted->size_bytes : mounted->available_bytes);
        }
    }
}

static void write_mounted(struct gathering *gathering)
{
    static const char *const names[] = {"blixard_machine_guest_filesystem_size_bytes",
                                        "blixard_machine_guest_filesystem_available_bytes"};
    for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++) {
        begin(gathering, names[n], "gauge",
              n == 0 ? "Size of a file system of the guest." : "What is free in it.");
        for (size_t i = 0; i < gathering->count; i++) {
            write_mounted_of(gathering, names[n], n == 0, &gathering->samples[i]);
        }
    }
}

/* ---- Gathering ---- */

static void release(struct gathering *gathering)
{
    struct machine_service *service = gathering->service;
    if (--gathering->pending > 0) {
        return;
    }
    write_memory(gathering);
    write_taps(gathering);
    write_cpu(gathering);
    write_gauges(gathering);
    write_mounted(gathering);
    service->pending--;
    gathering->done(buffer_string(&gathering->text), gathering->context);
    for (size_t i = 0; i < gathering->count; i++) {
        free(gathering->samples[i].labels);
        free(gathering->samples[i].metrics);
    }
    network_counts_free(gathering->links);
    free(gathering->samples);
    buffer_done(&gathering->text);
    free(gathering);
}

struct asking {
    struct gathering *gathering;
    size_t index;
};

static void on_metrics(const struct error *error, const struct agent_result *result, void *context)
{
    struct asking *asking = context;
    struct sample *sample = &asking->gathering->samples[asking->index];
    if (error == NULL) {
        sample->is_up = true;
        sample->metrics = NEW(struct agent_metrics);
        *sample->metrics = *result->metrics;
    }
    release(asking->gathering);
    free(asking);
}

static void on_links(const struct network_count *owned_links, size_t count, void *context)
{
    struct gathering *gathering = context;
    gathering->links = owned_links;
    gathering->link_count = count;
    release(gathering);
}

static void look_at(struct gathering *gathering, const struct machine *machine)
{
    struct error ignored = {0};
    size_t index = gathering->count++;
    struct sample *sample = &gathering->samples[index];
    uint64_t had = json_u64(machine->booted, "memory_bytes");
    sample->labels =
        memory_format("project=\"%s\",machine=\"%s\"", machine->project, machine->name);
    sample->memory_bytes = change_memory(machine);
    sample->balloon_bytes = had > sample->memory_bytes ? had - sample->memory_bytes : 0;
    network_nics(machine->service->options.networks, machine->id, sample->nics, &sample->nic_count,
                 &ignored);
    sample->has_agent = machine->state == MACHINE_RUNNING && machine->agent != NULL;
    if (sample->has_agent && agent_is_up(machine->agent)) {
        struct asking *asking = NEW(struct asking);
        *asking = (struct asking){gathering, index};
        gathering->pending++;
        agent_metrics(machine->agent, AGENT_MS, on_metrics, asking);
    }
}

void machine_measure(struct machine_service *service, bool is_openmetrics, machine_measured *done,
                     void *context)
{
    size_t most = 0;
    LIST_EACH(node, &service->machines)
    {
        most++;
    }
    struct gathering *gathering = NEW(struct gathering);
    *gathering = (struct gathering){.service = service,
                                    .is_openmetrics = is_openmetrics,
                                    .samples = memory_new(most + 1, sizeof(struct sample)),
                                    .pending = 1,
                                    .done = done,
                                    .context = context};
    service->pending++;
    LIST_EACH(node, &service->machines)
    {
        const struct machine *machine = LIST_ITEM(node, struct machine, link);
        if (!machine->is_gone && machine_state_is_alive(machine->state)) {
            look_at(gathering, machine);
        }
    }
    network_count_links(service->options.networks, on_links, gathering);
}
