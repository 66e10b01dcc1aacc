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
    TELEMETRY_BUCKETS = 20, /* of durations; the last one has no bound */
    TELEMETRY_MEMORY_BUCKETS = 8,
    TELEMETRY_ERRORS_MAX = 24,      /* kinds of errors; beyond them "other" */
    TELEMETRY_FUNCTIONS_MAX = 1000, /* beyond them the one not called for longest is forgotten */
    TELEMETRY_GONE_MAX = 1000,      /* beyond them all are taken for forgotten */
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

/* Counters of one function. */
struct function_metrics {
    struct list_node link; /* in recent_functions, the last called one first */
    char project[64];
    char function[64];
    uint64_t successes[TELEMETRY_TRIGGERS];
    uint64_t timeouts;
    uint64_t cold_starts;
    struct {
        char type[24];
        uint64_t count;
    } errors[TELEMETRY_ERRORS_MAX + 1];
    unsigned error_count;
    struct duration_histogram whole; /* request to end */
    struct duration_histogram run;
    struct duration_histogram queue;
    struct duration_histogram init;
    struct exemplar exemplars[TELEMETRY_BUCKETS]; /* of `whole` */
    uint64_t memory_buckets[TELEMETRY_MEMORY_BUCKETS];
    uint64_t memory_count;
    uint64_t memory_sum;
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
    struct map gone; /* PROJECT/FUNCTION of those that are no more */
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

/* metrics.c */
void telemetry_metrics_remove(struct telemetry *telemetry, const char *key);
bool telemetry_is_gone(struct telemetry *telemetry, const char *project, const char *function);
void telemetry_metrics_done(struct telemetry *telemetry);

#endif
