/* What the files of this room share. */
#ifndef SERVICE_TELEMETRY_PRIVATE_H
#define SERVICE_TELEMETRY_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/buffer.h"
#include "base/list.h"
#include "base/map.h"

#include "service/telemetry/telemetry.h"

enum { BUCKETS = 14 };

/* Counters of one function. */
struct function_metrics {
    char project[64];
    char function[64];
    struct map ends; /* "ok" -> uint64_t * */
    uint64_t cold_starts;
    uint64_t buckets[BUCKETS + 1];
    uint64_t duration_ns;
    uint64_t calls;
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
    uint64_t dropped;
    bool stop;
    bool busy;        /* the writer holds something */
    struct map files; /* PROJECT/FUNCTION -> log_file; the writer's alone while busy */
    struct list follows;
    pthread_t writer;

    pthread_mutex_t metrics_lock;
    struct map functions; /* PROJECT/FUNCTION -> function_metrics */
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

#endif
