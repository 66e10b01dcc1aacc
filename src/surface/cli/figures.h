/* Calls that have ended, as several nodes have counted them: sums, percentiles.  Inside
 * surface/cli.
 */
#ifndef SURFACE_CLI_FIGURES_H
#define SURFACE_CLI_FIGURES_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FIGURES_BUCKETS_MAX = 64, FIGURES_TEXT_SIZE = 32 };

struct figures {
    uint64_t calls;
    uint64_t errors;
    uint64_t cold_starts;
    uint64_t warm_starts;
    uint64_t memory_sum;
    uint64_t memory_calls;
    json_t *reasons; /* REASON: how many; NULL: none */
    /* The shortest first. */
    struct {
        uint64_t above_us;
        uint64_t at_most_us; /* UINT64_MAX: any time */
        uint64_t calls;
        uint64_t runs;
    } buckets[FIGURES_BUCKETS_MAX];
    size_t bucket_count;
};

void figures_done(struct figures *figures);
#define FIGURES_OWNED __attribute__((cleanup(figures_done)))

/* Add a FunctionFigures of the API (NULL: nothing). */
void figures_add(struct figures *figures, const json_t *added);
/* Add what came between two looks at a node, each a list of FunctionFigures: all of `now` where the
 * node has begun anew. */
void figures_add_between(struct figures *figures, const json_t *before, const json_t *now);

/* Within its bucket a call is taken to be anywhere with the same likelihood, as Prometheus does.
 * False: there is none.  *ret_is_more: it took longer than that. */
bool figures_percentile(const struct figures *figures, double part, bool is_of_runs,
                        uint64_t *ret_us, bool *ret_is_more);

/* As members of a row: calls, errors ([{reason, calls}]), cold_starts, warm_starts, p50_us, p99_us,
 * run_p50_us, run_p99_us, memory_bytes; what is not known is left out. */
void figures_write(const struct figures *figures, json_t *row);

/* "850 us", "1.25 ms", "2.40 s"; of the member NAME_us of a row, ">10 s" where it took longer; "-".
 */
const char *figures_write_time(const json_t *row, const char *name,
                               char ret_text[FIGURES_TEXT_SIZE]);

#endif
