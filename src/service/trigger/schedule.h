/* Settings of the kind `cron`, read and checked; private to this room. */
#ifndef SERVICE_TRIGGER_SCHEDULE_H
#define SERVICE_TRIGGER_SCHEDULE_H

#include <jansson.h>
#include <stdint.h>

#include "service/cron/cron.h"

struct error;
struct json_writer;
struct store_command;
struct trigger_plan;

enum overlap { OVERLAP_ALLOW, OVERLAP_FORBID, OVERLAP_REPLACE };

struct schedule {
    struct cron_zone *zone;
    struct cron *cron;
    struct cron_policy policy;
    enum overlap overlap;
};

/* INVALID names the key; NOT_FOUND: no such zone. */
int schedule_read(const json_t *settings, struct schedule *ret_schedule, struct error *err);
void schedule_done(struct schedule *schedule);

/* A text among the settings, or `otherwise`. */
const char *schedule_setting(const json_t *settings, const char *key, const char *otherwise);

/* For the driver's table (driver.h). */
int schedule_check(const json_t *settings, struct error *err);
int schedule_plan(const struct trigger_plan *plan, struct store_command *command, void *context,
                  struct error *err);

/* The slots from `slot_ms` (0: none) on as an array, by the clocks of the zone; some of them. */
enum { SCHEDULE_SHOWN = 5 };
void schedule_write_next(const json_t *settings, uint64_t slot_ms, uint64_t since_ms,
                         struct json_writer *writer);

#endif
