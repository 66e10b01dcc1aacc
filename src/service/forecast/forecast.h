/*
 * Demand that is foreseen: what functions (and machines) wanted, step by step, and instances that
 * are there before they are called.
 *
 * Each node has its own series, of what it was asked itself: of a function the most calls at once,
 * waiting and running, in each step (a minute, unless it is set); of a machine, and of the node as
 * a whole, the cores it used. A series begins with the first call and ends with its function, or
 * when nothing was seen for FORECAST_FORGET_DAYS.  After each step engine/forecast says how much is
 * wanted in the next one; as long as looking ahead beats looking back, the function's instances are
 * kept for that (instance_expect()), a moment before the step begins; else they are kept as they
 * were.
 *
 * What the node will use at most in the day that comes is a row of the state (node_peak), written
 * when it has changed by much: placement likes nodes less that will be busy (PLACEMENT_PART_LOAD).
 *
 * What was learnt is kept in FOLDER/forecasts, written now and then and at the end.  It is a cache:
 * without it, or when it is damaged, learning begins anew.
 *
 * Main loop thread.
 */
#ifndef SERVICE_FORECAST_FORECAST_H
#define SERVICE_FORECAST_FORECAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct forecast_service;
struct function_service;
struct instance_service;
struct json_writer;
struct loop;
struct machine_service;
struct store;

enum {
    FORECAST_SERIES_MAX =
        2000, /* of a node, some 25 KB each; beyond it the one seen longest ago goes */
    FORECAST_FORGET_DAYS = 15,
    FORECAST_HOURS_MAX = 168,
    FORECAST_STEP_MIN_MS = 10000,
    FORECAST_STEP_MAX_MS = 3600000,
};

struct forecast_service_options {
    struct loop *loop;
    struct instance_service *instances;
    struct function_service *functions;
    struct machine_service *machines;
    struct store *store;
    const char *path;      /* of the file; copied */
    const char *node_name; /* lent for good */
    uint64_t step_ms;      /* FORECAST_STEP_MIN_MS .. FORECAST_STEP_MAX_MS, a divisor of a day */
};

/* What is said of a step that cannot be; NULL: it can. */
const char *forecast_step_refused(uint64_t step_ms);

/* Reads the file. */
struct forecast_service *forecast_service_new(const struct forecast_service_options *options);
/* Writes it.  While the instances live. */
void forecast_service_free(struct forecast_service *service);

/* Type Forecast of spec/types.def, with the last and the next `hours` (at most FORECAST_HOURS_MAX);
 * NOT_FOUND: it was not called here since its series began. */
int forecast_write_function(struct forecast_service *service, const char *project, const char *name,
                            uint64_t hours, struct json_writer *writer, struct error *err);
/* The same of a machine that was seen running here, and of this node. */
int forecast_write_machine(struct forecast_service *service, const char *project, const char *name,
                           uint64_t hours, struct json_writer *writer, struct error *err);
int forecast_write_node(struct forecast_service *service, uint64_t hours,
                        struct json_writer *writer, struct error *err);

/* Of functions, as Prometheus text: what is foreseen, what was, and how far off that was. */
void forecast_write_metrics(struct forecast_service *service, struct buffer *out);

#endif
