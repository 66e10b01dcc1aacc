/*
 * Schedules: which moments they name.  Pure, but for the time-zone files that are read once.
 *
 *     MINUTE HOUR DAY MONTH WEEKDAY            0-59 0-23 1-31 1-12|JAN-DEC 0-7|SUN-SAT
 *     SECOND MINUTE HOUR DAY MONTH WEEKDAY     with seconds
 *     each a list of  *  a  a-b  a-b/STEP  a/STEP  and * with a step;  ? is *
 *     DAY also: L (the last), L-n, LW (the last weekday), nW (the weekday nearest to n)
 *     WEEKDAY also: nL (the last one of the month), n#k (the k-th)
 *     @yearly @annually @monthly @weekly @daily @midnight @hourly
 *     @every DURATION     from when the schedule was made on; at least 1 s
 *     @at RFC3339         once; without an offset it is a time of the zone
 *
 * DAY and WEEKDAY together, neither of them beginning with *: either one is enough (as Vixie's cron
 * has it).
 *
 * Wall clocks.  A time that a change of the zone's offset skips is named by the moment of the
 * change, once; one that occurs twice is named the first time.  Where every hour is named ("30 * *
 * *
 * *") the schedule follows elapsed time instead: it runs in both hours, and in no skipped one.
 *
 * Zones are names of IANA's data base, read from $TZDIR or /usr/share/zoneinfo (TZif, RFC 8536); ""
 * and "UTC" need no file.  Time is POSIX's, which has no leap seconds: a zone that counts them
 * ("right/...") is refused.
 *
 * Sources: crontab(5) of Vixie cron and Debian; Quartz CronExpression (L, W, #); RFC 8536.
 */
#ifndef SERVICE_CRON_CRON_H
#define SERVICE_CRON_CRON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

/* ---- Zones ---- */

struct cron_zone;

/* NOT_FOUND (INVALID: no such name, or leap seconds), CORRUPT.  End it with cron_zone_free(). */
int cron_zone_open(const char *name, struct cron_zone **ret_zone, struct error *err);
/* From the bytes of a TZif file. */
int cron_zone_read(const void *bytes, size_t length, struct cron_zone **ret_zone,
                   struct error *err);
void cron_zone_free(struct cron_zone *zone); /* accepts NULL */

/* Seconds east of UTC at a moment (seconds since 1970). */
int32_t cron_zone_offset(const struct cron_zone *zone, int64_t time);

/* The first moment after `time` at which the offset is another; false: there is none. */
bool cron_zone_next_change(const struct cron_zone *zone, int64_t time, int64_t *ret_time);

/* ---- Schedules ---- */

struct cron;

/* INVALID says which field and what is wrong with it.  The zone is lent for cron's life. */
int cron_parse(const char *text, const struct cron_zone *zone, struct cron **ret_cron,
               struct error *err);
void cron_free(struct cron *cron); /* accepts NULL */

/* For one that is being written: the same, and a step that leaves its field is INVALID.  Those that
 * were stored before that was looked at go on as they did. */
int cron_check(const char *text, const struct cron_zone *zone, struct error *err);

/*
 * The first moment after `after_ms` (milliseconds since 1970), or 0: there is none (any more; in
 * the 100 years that are searched).  `since_ms`: where @every counts from; backwards, too, where it
 * was taken from a clock that was ahead.
 */
uint64_t cron_next(const struct cron *cron, uint64_t after_ms, uint64_t since_ms);

bool cron_is_once(const struct cron *cron); /* @at */

/*
 * Windows: each moment of a schedule opens one, for `duration_ms`.  When the window that is open at
 * `now_ms`, or will be next, opens (it closes after `now_ms`); 0: there is none any more.  None
 * that opens before `since_ms` is one, but for @at.
 */
uint64_t cron_window(const struct cron *cron, uint64_t duration_ms, uint64_t since_ms,
                     uint64_t now_ms);

/* ---- Policies ---- */

enum cron_misfire {
    CRON_MISFIRE_ONCE, /* the last one that was missed */
    CRON_MISFIRE_SKIP,
    CRON_MISFIRE_ALL, /* the last `misfire_max` of them */
};

struct cron_policy {
    enum cron_misfire misfire;
    uint64_t misfire_max;      /* of ALL */
    uint64_t misfire_after_ms; /* a slot that is later than this was missed */
    uint64_t jitter_ms;        /* runs begin up to so long after their slot */
    const char *key;           /* whose they are, for the jitter: lent; NULL: nobody's */
};

struct cron_decision {
    uint64_t slots[64]; /* to take now, oldest first */
    size_t count;
    uint64_t skipped; /* that are passed over */
    bool has_more;    /* ask again at once */
    uint64_t next_ms; /* the slot to wait for; 0: none */
};

/*
 * At `now_ms`, with `slot_ms` the next one that was not decided about: which are taken, which are
 * passed over, what comes next.  A slot far in the future, because a clock was wrong when it was
 * computed, is computed anew.
 */
void cron_decide(const struct cron *cron, const struct cron_policy *policy, uint64_t slot_ms,
                 uint64_t since_ms, uint64_t now_ms, struct cron_decision *ret_decision);

/* When the run of a slot begins: the same at every node. */
uint64_t cron_start_of(const struct cron_policy *policy, uint64_t slot_ms);

#endif
