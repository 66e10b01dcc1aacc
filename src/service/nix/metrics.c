/* What clients of the store have asked for, and what came from other nodes, for /metrics. */
#include <inttypes.h>
#include <string.h>

#include "base/check.h"

#include "service/nix/parts.h"

static void begin(struct buffer *out, const char *name, const char *type, const char *help,
                  bool is_openmetrics)
{
    bool is_short = is_openmetrics && strcmp(type, "counter") == 0;
    int family = (int)(strlen(name) - (is_short ? strlen("_total") : 0));
    buffer_append_format(out, "# HELP %.*s %s\n# TYPE %.*s %s\n", family, name, help, family, name,
                         type);
}

static void write_requests(const struct nix_counts *counts, struct buffer *out)
{
    static const char *const asked[NIX_ASKED_COUNT] = {[NIX_ASKED_OTHER] = "other",
                                                       [NIX_ASKED_INFO] = "info",
                                                       [NIX_ASKED_NARINFO] = "narinfo",
                                                       [NIX_ASKED_NAR] = "nar",
                                                       [NIX_ASKED_UPLOAD] = "upload"};
    static const char *const answered[NIX_ANSWERED_COUNT] = {
        [NIX_SERVED] = "served", [NIX_ABSENT] = "absent", [NIX_REFUSED] = "refused"};
    for (int i = 0; i < NIX_ASKED_COUNT; i++) {
        for (int j = 0; j < NIX_ANSWERED_COUNT; j++) {
            buffer_append_format(
                out, "blixard_nix_cache_requests_total{asked=\"%s\",answered=\"%s\"} %" PRIu64 "\n",
                asked[i], answered[j], counts->requests[i][j]);
        }
    }
}

void nix_write_metrics(struct nix_service *service, bool is_openmetrics, struct buffer *out)
{
    const struct nix_counts *counts = &service->counts;
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } rows[] = {
        {"blixard_nix_cache_sent_bytes_total", "counter", "Of archives, to clients of Nix.",
         counts->sent_bytes},
        {"blixard_nix_cache_received_bytes_total", "counter", "Of archives that clients uploaded.",
         counts->received_bytes},
        {"blixard_nix_fetched_paths_total", "counter", "Store paths taken from other nodes.",
         counts->fetched_paths},
        {"blixard_nix_fetched_bytes_total", "counter", "Of them, packed.", counts->fetched_bytes},
        {"blixard_nix_distrusted_total", "counter",
         "Nodes left for the next, as what they gave was damaged or signed by nobody trusted.",
         counts->distrusted},
        {"blixard_nix_packed_bytes", "gauge", "Store paths that lie packed for others.",
         service->packed_bytes},
    };
    begin(out, "blixard_nix_cache_requests_total", "counter", "Of clients of Nix.", is_openmetrics);
    write_requests(counts, out);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        begin(out, rows[i].name, rows[i].type, rows[i].help, is_openmetrics);
        buffer_append_format(out, "%s %" PRIu64 "\n", rows[i].name, rows[i].value);
    }
}
