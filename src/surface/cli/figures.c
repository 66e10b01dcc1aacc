/*
 * Sums and percentiles of what nodes have counted.  Percentiles of nodes cannot be added; counts
 * between bounds can, also those of a node of another release, whose bounds are others.
 */
#include "surface/cli/figures.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

void figures_done(struct figures *figures)
{
    json_decref(figures->reasons);
    *figures = (struct figures){0};
}

/* ---- Sums ---- */

static void add_duration(struct figures *figures, const json_t *added, bool is_taken_away)
{
    uint64_t above_us = json_u64(added, "above_us");
    uint64_t at_most_us =
        json_object_get(added, "at_most_us") != NULL ? json_u64(added, "at_most_us") : UINT64_MAX;
    size_t at = 0;
    while (at < figures->bucket_count &&
           (figures->buckets[at].above_us < above_us ||
            (figures->buckets[at].above_us == above_us &&
             figures->buckets[at].at_most_us < at_most_us))) {
        at++;
    }
    bool is_known = at < figures->bucket_count && figures->buckets[at].above_us == above_us &&
        figures->buckets[at].at_most_us == at_most_us;
    if (!is_known && figures->bucket_count == FIGURES_BUCKETS_MAX) {
        return;
    }
    if (!is_known) {
        memmove(&figures->buckets[at + 1], &figures->buckets[at],
                (figures->bucket_count - at) * sizeof(figures->buckets[0]));
        memset(&figures->buckets[at], 0, sizeof(figures->buckets[at]));
        figures->buckets[at].above_us = above_us;
        figures->buckets[at].at_most_us = at_most_us;
        figures->bucket_count++;
    }
    uint64_t calls = json_u64(added, "calls");
    uint64_t runs = json_u64(added, "runs");
    figures->buckets[at].calls += is_taken_away ? -calls : calls;
    figures->buckets[at].runs += is_taken_away ? -runs : runs;
}

static void add_error(struct figures *figures, const json_t *error, bool is_taken_away)
{
    const char *reason = json_text(error, "reason");
    json_int_t calls = (json_int_t)json_u64(error, "calls");
    if (figures->reasons == NULL) {
        figures->reasons = json_object();
    }
    json_int_t sum = (json_int_t)json_u64(figures->reasons, reason);
    sum += is_taken_away ? -calls : calls;
    figures->errors += (uint64_t)(is_taken_away ? -calls : calls);
    if (sum > 0) {
        json_object_set_new(figures->reasons, reason, json_integer(sum));
    } else {
        json_object_del(figures->reasons, reason);
    }
}

/* What is taken away was added before: nothing becomes less than nothing. */
static void add(struct figures *figures, const json_t *added, bool is_taken_away)
{
    static const struct {
        const char *name;
        size_t offset;
    } counts[] = {
        {"calls", offsetof(struct figures, calls)},
        {"cold_starts", offsetof(struct figures, cold_starts)},
        {"warm_starts", offsetof(struct figures, warm_starts)},
        {"memory_bytes_sum", offsetof(struct figures, memory_sum)},
        {"memory_calls", offsetof(struct figures, memory_calls)},
    };
    size_t index = 0;
    const json_t *item = NULL;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        uint64_t *count = (uint64_t *)((char *)figures + counts[i].offset);
        uint64_t value = json_u64(added, counts[i].name);
        *count += is_taken_away ? -value : value;
    }
    json_array_foreach(json_object_get(added, "errors"), index, item)
    {
        add_error(figures, item, is_taken_away);
    }
    json_array_foreach(json_object_get(added, "durations"), index, item)
    {
        add_duration(figures, item, is_taken_away);
    }
}

void figures_add(struct figures *figures, const json_t *added)
{
    if (added != NULL) {
        add(figures, added, false);
    }
}

static uint64_t calls_in(const json_t *list)
{
    uint64_t calls = 0;
    size_t index = 0;
    const json_t *item = NULL;
    json_array_foreach(list, index, item)
    {
        calls += json_u64(item, "calls");
    }
    return calls;
}

void figures_add_between(struct figures *figures, const json_t *before, const json_t *now)
{
    size_t index = 0;
    const json_t *item = NULL;
    bool has_begun_anew = calls_in(before) > calls_in(now);
    json_array_foreach(now, index, item)
    {
        add(figures, item, false);
    }
    json_array_foreach(before, index, item)
    {
        if (!has_begun_anew) {
            add(figures, item, true);
        }
    }
}

/* ---- Percentiles ---- */

bool figures_percentile(const struct figures *figures, double part, bool is_of_runs,
                        uint64_t *ret_us, bool *ret_is_more)
{
    uint64_t total = 0;
    for (size_t i = 0; i < figures->bucket_count; i++) {
        total += is_of_runs ? figures->buckets[i].runs : figures->buckets[i].calls;
    }
    double rank = part * (double)total;
    double below = 0;
    for (size_t i = 0; i < figures->bucket_count; i++) {
        uint64_t above_us = figures->buckets[i].above_us;
        uint64_t at_most_us = figures->buckets[i].at_most_us;
        double count = (double)(is_of_runs ? figures->buckets[i].runs : figures->buckets[i].calls);
        if (count > 0 && below + count >= rank) {
            *ret_is_more = at_most_us == UINT64_MAX;
            *ret_us = *ret_is_more
                ? above_us
                : above_us + (uint64_t)((double)(at_most_us - above_us) * (rank - below) / count);
            return true;
        }
        below += count;
    }
    return false;
}

/* ---- Rows ---- */

void figures_write(const struct figures *figures, json_t *row)
{
    static const struct {
        const char *name;
        double part;
        bool is_of_runs;
    } percentiles[] = {
        {"p50_us", 0.5, false},
        {"p99_us", 0.99, false},
        {"run_p50_us", 0.5, true},
        {"run_p99_us", 0.99, true},
    };
    json_t *errors = json_array();
    const char *reason = NULL;
    json_t *calls = NULL;
    json_object_foreach(figures->reasons, reason, calls)
    {
        json_array_append_new(errors, json_pack("{s:s, s:O}", "reason", reason, "calls", calls));
    }
    json_set_u64(row, "calls", figures->calls);
    json_object_set_new(row, "errors", errors);
    json_set_u64(row, "cold_starts", figures->cold_starts);
    json_set_u64(row, "warm_starts", figures->warm_starts);
    for (size_t i = 0; i < sizeof(percentiles) / sizeof(percentiles[0]); i++) {
        uint64_t us = 0;
        bool is_more = false;
        if (figures_percentile(figures, percentiles[i].part, percentiles[i].is_of_runs, &us,
                               &is_more)) {
            MEMORY_OWNED char *more = memory_format("%s_is_more", percentiles[i].name);
            json_set_u64(row, percentiles[i].name, us);
            if (is_more) {
                json_object_set_new(row, more, json_true());
            }
        }
    }
    if (figures->memory_calls > 0) {
        json_set_u64(row, "memory_bytes", figures->memory_sum / figures->memory_calls);
    }
}

const char *figures_write_time(const json_t *row, const char *name,
                               char ret_text[FIGURES_TEXT_SIZE])
{
    MEMORY_OWNED char *field = memory_format("%s_us", name);
    MEMORY_OWNED char *more = memory_format("%s_us_is_more", name);
    uint64_t us = json_u64(row, field);
    const char *sign = json_is_true(json_object_get(row, more)) ? ">" : "";
    if (json_object_get(row, field) == NULL) {
        snprintf(ret_text, FIGURES_TEXT_SIZE, "-");
    } else if (us < 1000) {
        snprintf(ret_text, FIGURES_TEXT_SIZE, "%s%" PRIu64 " us", sign, us);
    } else if (us < 1000000) {
        snprintf(ret_text, FIGURES_TEXT_SIZE, "%s%.3g ms", sign, (double)us / 1e3);
    } else {
        snprintf(ret_text, FIGURES_TEXT_SIZE, "%s%.3g s", sign, (double)us / 1e6);
    }
    return ret_text;
}
