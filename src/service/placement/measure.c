/* What placement does, in figures. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "service/placement/parts.h"

enum { NS_PER_US = 1000 };

static const uint64_t limits_us[PLACEMENT_BUCKETS] = {50, 100, 250, 500, 1000, 5000, 25000, 100000};

static uint64_t now_ns(void)
{
    return clock_monotonic_ns();
}

int measured_decide(struct placement_service *service, const struct asked *asked,
                    const char *project, struct placement_decision *ret_decision, struct error *err)
{
    struct placement_options options;
    size_t bucket = 0;
    strategy_of(service, project, &options, NULL);
    options.seed = service->decisions;
    uint64_t began_ns = now_ns();
    int r = placement_decide(service->cluster, &asked->request, &options, clock_real_ms(),
                             ret_decision, err);
    uint64_t took_ns = now_ns() - began_ns;
    while (bucket < PLACEMENT_BUCKETS && took_ns > limits_us[bucket] * NS_PER_US) {
        bucket++;
    }
    service->buckets[bucket]++;
    service->decision_ns += took_ns;
    service->decisions++;
    for (size_t i = 0; r == 0 && !ret_decision->is_placed && i < PLACEMENT_FILTER_COUNT; i++) {
        service->refused[i] += ret_decision->refused[i] > 0;
    }
    return r;
}

/* ---- As text ---- */

static void write_counter_head(const char *name, const char *help, bool is_openmetrics,
                               struct buffer *out)
{
    const char *ending = is_openmetrics ? "" : "_total";
    buffer_append_format(out, "# HELP %s%s %s\n# TYPE %s%s counter\n", name, ending, help, name,
                         ending);
}

static void write_histogram(const struct placement_service *service, struct buffer *out)
{
    static const char name[] = "blixard_placement_decision_seconds";
    uint64_t sum = 0;
    buffer_append_format(out, "# HELP %s How long deciding took.\n# TYPE %s histogram\n", name,
                         name);
    for (size_t i = 0; i < PLACEMENT_BUCKETS; i++) {
        sum += service->buckets[i];
        buffer_append_format(out, "%s_bucket{le=\"%g\"} %" PRIu64 "\n", name,
                             (double)limits_us[i] / 1e6, sum);
    }
    sum += service->buckets[PLACEMENT_BUCKETS];
    buffer_append_format(out,
                         "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n%s_sum %.9f\n%s_count %" PRIu64 "\n",
                         name, sum, name, (double)service->decision_ns / 1e9, name, sum);
}

static void write_waiting(struct placement_service *service, struct buffer *out)
{
    uint64_t now_ms = clock_real_ms();
    uint64_t oldest_ms = 0;
    uint64_t count = 0;
    LIST_EACH(node, &service->waiting)
    {
        const struct waiting *waiting = LIST_ITEM(node, struct waiting, link);
        uint64_t age_ms = now_ms > waiting->since_ms ? now_ms - waiting->since_ms : 0;
        oldest_ms = age_ms > oldest_ms ? age_ms : oldest_ms;
        count++;
    }
    buffer_append_format(out,
                         "# HELP blixard_placement_pending Machines that wait for room.\n"
                         "# TYPE blixard_placement_pending gauge\n"
                         "blixard_placement_pending %" PRIu64 "\n"
                         "# HELP blixard_placement_pending_oldest_seconds How long the one waits "
                         "that has waited longest.\n"
                         "# TYPE blixard_placement_pending_oldest_seconds gauge\n"
                         "blixard_placement_pending_oldest_seconds %.3f\n",
                         count, (double)oldest_ms / 1000);
    buffer_append_format(out,
                         "# HELP blixard_placement_holds Nodes that are held for machines that "
                         "wait.\n"
                         "# TYPE blixard_placement_holds gauge\n"
                         "blixard_placement_holds %zu\n",
                         placement_cluster_hold_count(service->cluster));
}

void placement_service_write_metrics(struct placement_service *service, bool is_openmetrics,
                                     struct buffer *out)
{
    static const char *const kinds[] = {"placed", "pending", "displaced", "moved"};
    write_counter_head("blixard_placements", "Decisions about machines that this node has made.",
                       is_openmetrics, out);
    for (size_t i = 0; i < 4; i++) {
        buffer_append_format(out, "blixard_placements_total{result=\"%s\"} %" PRIu64 "\n", kinds[i],
                             service->decided[i]);
    }
    write_counter_head("blixard_placement_refusals",
                       "Decisions that found no node, by the filters that refused one.",
                       is_openmetrics, out);
    for (int i = PLACEMENT_PASSED + 1; i < PLACEMENT_FILTER_COUNT; i++) {
        buffer_append_format(out, "blixard_placement_refusals_total{filter=\"%s\"} %" PRIu64 "\n",
                             placement_filter_name((enum placement_filter)i), service->refused[i]);
    }
    write_counter_head("blixard_placement_conflicts", "Decisions that another one had come before.",
                       is_openmetrics, out);
    buffer_append_format(out, "blixard_placement_conflicts_total %" PRIu64 "\n",
                         service->conflicts);
    write_counter_head("blixard_placement_retries", "Decisions that were made once more.",
                       is_openmetrics, out);
    buffer_append_format(out, "blixard_placement_retries_total %" PRIu64 "\n", service->retries);
    write_histogram(service, out);
    write_waiting(service, out);
}
