/* What the files of this room share. */
#ifndef SERVICE_TELEMETRY_PRIVATE_H
#define SERVICE_TELEMETRY_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/buffer.h"
#include "base/list.h"
#include "base/map.h"

#include "service/telemetry/telemetry.h"

enum {
    TELEMETRY_MEMORY_BUCKETS = 8,
    TELEMETRY_FUNCTIONS_MAX = 1000, /* beyond them the one not called for longest is forgotten */
    TELEMETRY_VERSIONS_MAX = 12,    /* of a function; an alias splits calls between eight at most */
    TELEMETRY_GONE_MAX = 1000,      /* beyond them all are taken for forgotten */
    TELEMETRY_MOMENTS = TELEMETRY_WINDOW_MINUTES + 1,
};

/* A call that fell into a bucket, and whose trace is kept. */
struct exemplar {
    uint64_t time_ms; /* 0: none */
    double value;
    uint8_t trace[16];
};

struct duration_histogram {
    uint64_t buckets[TELEMETRY_BUCKETS];
    uint64_t count;
    uint64_t sum_ns;
};

/* What is counted of calls. */
struct counters {
    uint64_t successes[TELEMETRY_TRIGGERS];
    uint64_t timeouts;
    uint64_t cold_starts;
    /* The last one is what all further kinds are. */
    struct telemetry_error_count errors[TELEMETRY_ERRORS_MAX + 1];
    unsigned error_count;
    struct duration_histogram whole; /* request to end */
    struct duration_histogram run;
    struct duration_histogram queue;
    struct duration_histogram init;
    uint64_t memory_buckets[TELEMETRY_MEMORY_BUCKETS];
    uint64_t memory_count;
    uint64_t memory_sum;
};

/* What the recent time is measured from: counters as they were when the first call of a minute had
 * ended, without it. */
struct moment {
    uint64_t minute; /* and 1; 0: none */
    uint64_t successes;
    uint64_t cold_starts;
    uint64_t errors[TELEMETRY_ERRORS_MAX + 1]; /* by the counters' own places */
    uint64_t whole[TELEMETRY_BUCKETS];
    uint64_t run[TELEMETRY_BUCKETS];
    uint64_t memory_count;
    uint64_t memory_sum;
};

struct version_metrics {
    struct list_node link; /* in versions, the last called one first */
    uint64_t version;      /* 0: older ones, together */
    uint64_t minute;       /* of the newest moment, and 1 */
    struct counters counters;
    struct moment moments[TELEMETRY_MOMENTS]; /* by the minute */
};

/* Counters of one function: the sum of its versions'. */
struct function_metrics {
    struct list_node link; /* in recent_functions, the last called one first */
    char project[64];
    char function[64];
    uint64_t since_ns; /* calls before this are forgotten; 0: none is */
    struct list versions;
    unsigned version_count;
    struct version_metrics *older; /* versions for which there is no room; NULL: none */
    struct exemplar exemplars[TELEMETRY_BUCKETS]; /* of the durations of all */
};

/* Standard error of one call, waiting to be written. */
struct pending {
    struct list_node link;
    char project[64];
    char function[64];
    char request_id[136];
    char trace[33];
    uint64_t version;
    uint64_t time_ms;
    uint64_t tells_dropped; /* of so many pieces it says that they were dropped */
    size_t length;
    char text[];
};

/* One function's files. */
struct log_file {
    char *folder;
    uint64_t next_sequence;
    uint64_t segment; /* number of the one that is written */
    int fd;           /* of it, or -1 */
    uint64_t bytes;   /* in it */
};

struct telemetry {
    struct tracer *tracer;
    char *folder;
    uint64_t segment_bytes;

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t wake;
    pthread_cond_t written;
    struct list queue; /* pending */
    size_t queue_bytes;
    uint64_t queued_count;
    uint64_t written_count;
    unsigned removing; /* those who wait for the writer to stand still */
    uint64_t dropped;
    bool stop;
    bool busy;        /* the writer holds something */
    struct map files; /* PROJECT/FUNCTION -> log_file; the writer's alone while busy */
    struct list follows;
    pthread_t writer;

    pthread_mutex_t metrics_lock;
    struct map functions; /* PROJECT/FUNCTION -> function_metrics */
    struct list recent_functions;
    uint64_t opened_ns;
    uint64_t forgot_ns; /* when there was no room for a function last; 0: never */
    struct map gone;    /* PROJECT/FUNCTION of those that are no more */
    _Atomic size_t gone_count;
    _Atomic uint64_t metrics[TELEMETRY_METRIC_COUNT];
};

struct telemetry_follow {
    struct list_node link;
    struct telemetry *telemetry;
    char key[132];
    struct loop *loop;
    void (*changed)(void *context);
    void *context;
    bool posted;
    bool freed;
};

/* log.c */
void *telemetry_writer(void *argument);
void telemetry_files_done(struct telemetry *telemetry);

/* counters.c; with the lock held. */

/* Where a version's calls are counted; `minute` is that of the call. */
struct version_metrics *version_metrics_find(struct function_metrics *metrics, uint64_t version,
                                             uint64_t minute);
/* The index of the bucket of its duration. */
size_t counters_note(struct counters *counters, const struct telemetry_call *call);
/* What a version's counters were when that minute began, one of the last. */
void version_metrics_at(const struct version_metrics *version, uint64_t minute,
                        struct moment *ret_moment);
/* All that was ever counted of a function. */
void function_metrics_sum(const struct function_metrics *metrics, struct counters *ret_sum);
void function_metrics_free(struct function_metrics *metrics);
double telemetry_bound(size_t bucket); /* of durations, in seconds */
uint64_t telemetry_memory_bound(size_t bucket);

/* metrics.c */
#define TELEMETRY_MINUTE_NS (UINT64_C(60) * 1000000000)
uint64_t telemetry_minute(uint64_t now_ns); /* never 0 */
/* With the lock held; NULL: it was not called. */
const struct function_metrics *telemetry_look(struct telemetry *telemetry, const char *project,
                                              const char *function);
void telemetry_metrics_remove(struct telemetry *telemetry, const char *key);
bool telemetry_is_gone(struct telemetry *telemetry, const char *project, const char *function);
void telemetry_metrics_done(struct telemetry *telemetry);

#endif
