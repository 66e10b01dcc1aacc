/* Parts of placement-bench. */
#ifndef TEST_BENCH_PLACEMENT_BENCH_H
#define TEST_BENCH_PLACEMENT_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"

#define GIB (1ULL << 30)
#define MIB (1ULL << 20)

/* splitmix64 */
uint64_t draw(uint64_t *state, uint64_t below);

/* placement_trace.c: false, and why, when the trace is not there. */
bool trace_measure(const char *folder, bool is_quick, struct json_writer *out,
                   const char **ret_why);

/* placement_traffic.c */
void traffic_measure(bool is_quick, struct json_writer *out);

#endif
