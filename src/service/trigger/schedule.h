/* Settings of the kind `cron`, read and checked; private to this room. */
#ifndef SERVICE_TRIGGER_SCHEDULE_H
#define SERVICE_TRIGGER_SCHEDULE_H

#include <jansson.h>
#include <stdint.h>

#include "service/cron/cron.h"

struct error;
struct store_command;

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
int schedule_plan(const json_t *settings, const char *key, uint64_t now_ms,
                  struct store_command *command, void *context, struct error *err);

#endif
