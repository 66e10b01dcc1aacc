/*
 * What happened: logs of functions, counters for /metrics.
 *
 * Function logs are lines with time, request id, level, function and version, kept per function in
 * bounded segments on this node (FOLDER/PROJECT/FUNCTION/N.log, JSON lines): the oldest segment
 * goes when the bound is reached.  Any thread.
 *
 * Sources: sd-daemon(3) (levels of lines); OpenTelemetry semantic conventions for FaaS; Prometheus
 * text format 0.0.4, OpenMetrics 1.0.0; OTLP 1 over HTTP.
 */
#ifndef SERVICE_TELEMETRY_TELEMETRY_H
#define SERVICE_TELEMETRY_TELEMETRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"

struct buffer;
struct error;
struct loop;
struct telemetry;
struct trace_context;

struct telemetry_options {
    const char *folder;
    uint64_t bytes_max_per_function; /* 0: 8 MiB */
    /* Traces, see trace.h. */
    const char *node_name;         /* in spans; copied */
    uint64_t traces_max;           /* 0: 1000 */
    uint64_t trace_bytes_max;      /* 0: 32 MiB */
    uint64_t trace_slow_ms;        /* 0: 1000 */
    uint64_t traces_per_second;    /* sampled for sure */
    uint64_t trace_sample_percent; /* of the others */
};

int telemetry_open(const struct telemetry_options *options, struct telemetry **ret_telemetry,
                   struct error *err);
void telemetry_close(struct telemetry *telemetry);

struct telemetry_line {
    uint64_t sequence; /* per function, increasing, survives restarts */
    uint64_t time_ms;
    enum log_level level;
    const char *project;
    const char *function;
    uint64_t version;
    const char *request_id;
    const char *trace; /* 32 hex digits, or "" */
    const char *text;
    size_t text_length;
};

/* Raw standard error of one call: cut into lines here (at most 8 KiB each).  A line that begins
 * with "<0>" to "<7>" (sd-daemon(3)) has that level; others are info. */
void telemetry_log(struct telemetry *telemetry, const char *project, const char *function,
                   uint64_t version, const char *request_id,
                   const struct trace_context *trace_or_null, const void *bytes, size_t length);

/* Visit kept lines with sequence > after, oldest first, at most `lines_max` newest ones; of one
 * trace, where its id is given.  Lines are lent for the call.  Reading files may fail: OS. */
int telemetry_read(struct telemetry *telemetry, const char *project, const char *function,
                   uint64_t after, size_t lines_max, const char *trace_or_null,
                   void (*visit)(const struct telemetry_line *line, void *context), void *context,
                   struct error *err);

/* Follow: `changed` is posted to `loop` after new lines (coalesced); read with telemetry_read(). */
struct telemetry_follow;
struct telemetry_follow *telemetry_follow_new(struct telemetry *telemetry, const char *project,
                                              const char *function, struct loop *loop,
                                              void (*changed)(void *context), void *context);
void telemetry_follow_free(struct telemetry_follow *follow); /* on `loop` */

/* A function is no more: neither are its log and its metrics.  What its last calls have to say is
 * not taken, until telemetry_expect(). */
int telemetry_remove(struct telemetry *telemetry, const char *project, const char *function,
                     struct error *err);
/* There is a function of this name: what is said of it is taken. */
void telemetry_expect(struct telemetry *telemetry, const char *project, const char *function);

/* Visit each function of which there is a log here. */
void telemetry_each_log(struct telemetry *telemetry,
                        void (*visit)(const char *project, const char *function, void *context),
                        void *context);

/* ---- Sending traces on ---- */

/*
 * Kept spans go to a collector, by OTLP over HTTP in protobuf: ENDPOINT/v1/traces.  The loop's
 * thread; telemetry_export_stop() is called when the loop does not run any more, and runs it until
 * the last spans are out, for a short time.  INVALID: the endpoint is no URL, the compression none
 * that is known; what reading the files failed with.
 */
struct telemetry_export_options {
    const char *endpoint;       /* "http://HOST:PORT", "https://HOST" */
    const char *compression;    /* "none", "gzip"; NULL: none */
    const char *headers_file;   /* lines "Name: value", for example Authorization; NULL, "": none */
    const char *authority_file; /* for https: whom to believe, PEM; NULL, "": the system's */
};
int telemetry_export_start(struct telemetry *telemetry, struct loop *loop,
                           const struct telemetry_export_options *options, struct error *err);
void telemetry_export_stop(struct telemetry *telemetry);

/* ---- Counters ---- */

/*
 * Metrics have fixed names (blixard_...) declared once in metrics.def; values are atomics, labels
 * are few and bounded (function names are bounded by the number of functions).
 */
enum telemetry_metric {
#define METRIC(name, kind, help) TELEMETRY_##name,
#include "service/telemetry/metrics.def"
#undef METRIC
    TELEMETRY_METRIC_COUNT,
};

void telemetry_add(struct telemetry *telemetry, enum telemetry_metric metric, uint64_t amount);
void telemetry_set(struct telemetry *telemetry, enum telemetry_metric metric, uint64_t value);
uint64_t telemetry_get(const struct telemetry *telemetry, enum telemetry_metric metric);

/* What made a function run, by OpenTelemetry's faas.trigger. */
enum telemetry_trigger {
    TELEMETRY_TRIGGER_HTTP,
    TELEMETRY_TRIGGER_PUBSUB,
    TELEMETRY_TRIGGER_DATASOURCE,
    TELEMETRY_TRIGGER_TIMER,
    TELEMETRY_TRIGGER_OTHER,
    TELEMETRY_TRIGGERS,
};
const char *telemetry_trigger_text(enum telemetry_trigger trigger);

/* A call that has ended. */
struct telemetry_call {
    const char *project;
    const char *function;
    uint64_t version;
    uint64_t ended_ns; /* by clock_monotonic_ns() */
    enum telemetry_trigger trigger;
    const char *end;      /* "ok", "error", "trap", "timeout", ...: one of few */
    uint64_t duration_ns; /* from the request to its end */
    bool has_run;         /* what follows is known */
    bool is_cold;
    uint64_t queue_ns;
    uint64_t init_ns;
    uint64_t run_ns;
    uint64_t memory_bytes;
    const struct trace_context *trace; /* an exemplar, when it is sampled; NULL: none */
};
void telemetry_call(struct telemetry *telemetry, const struct telemetry_call *call);

/*
 * Figures of functions, by version: since the node started, and of the last minutes.  A call costs
 * nothing for them: its counters are the versions' own, and what they were is written down by the
 * first call of a minute.
 */
enum {
    TELEMETRY_BUCKETS = 20,       /* of durations; the last one has no bound */
    TELEMETRY_ERRORS_MAX = 24,    /* kinds of errors; beyond them "other" */
    TELEMETRY_WINDOW_MINUTES = 5, /* the recent time: so many, and what there is of this one */
};

struct telemetry_error_count {
    char type[24]; /* "": none */
    uint64_t count;
};

struct telemetry_counts {
    uint64_t successes;
    uint64_t cold_starts;
    struct telemetry_error_count errors[TELEMETRY_ERRORS_MAX + 1];
    uint64_t durations[TELEMETRY_BUCKETS]; /* of all calls, from the request to the end */
    uint64_t runs[TELEMETRY_BUCKETS];      /* of those that ran: their own code */
    uint64_t memory_sum;                   /* linear memory at the end, */
    uint64_t memory_count;                 /* of so many */
};

struct telemetry_figures {
    const char *function;
    uint64_t version;   /* 0: those that were called longest ago, and for which there is no room */
    uint64_t window_ms; /* how far back `recent` goes */
    struct telemetry_counts total;
    struct telemetry_counts recent;
};

/* Visit the versions of a project's functions that were called on this node, or of one function.
 * Lent for the call; no lock is held in it. */
void telemetry_each_figures(struct telemetry *telemetry, const char *project,
                            const char *function_or_null, uint64_t now_ns,
                            void (*visit)(const struct telemetry_figures *figures, void *context),
                            void *context);
/* How far back the recent time of a function goes that was not called. */
uint64_t telemetry_window_ms(struct telemetry *telemetry, uint64_t now_ns);
/* The upper bound of a bucket of durations, which has it itself; 0: it has none. */
uint64_t telemetry_bound_us(size_t bucket);

/* Prometheus text format, version 0.0.4, or OpenMetrics 1.0.0 with exemplars.  Whoever has more to
 * tell appends it; telemetry_write_end() is last. */
enum telemetry_format { TELEMETRY_PROMETHEUS, TELEMETRY_OPENMETRICS };
void telemetry_write_metrics(struct telemetry *telemetry, enum telemetry_format format,
                             struct buffer *out);
/* For those who add to it: the head of a family. */
void telemetry_write_head(enum telemetry_format format, const char *name, const char *kind,
                          const char *help, struct buffer *out);
void telemetry_write_end(enum telemetry_format format, struct buffer *out);

#endif
