/*
 * Triggers: what calls functions besides people.
 *
 * A trigger is a row: a kind (cron, queue, stream, mqtt, ...; those of kind http are the routes of
 * service/route, and not here), the function NAME or NAME:ALIAS, the kind's settings, and what all
 * kinds have: filter, transform, batch, concurrency, retries, destinations.  It runs on the one
 * live node that owns "trigger/PROJECT/NAME" (cluster_owns()); when the row, the picture of the
 * cluster or the lease changes, drivers (driver.h) are started and stopped accordingly.  Two nodes
 * may run a trigger for as long as their pictures differ: sources make it safe (epochs,
 * checkpoints, recorded slots).
 *
 * Delivery.  A POST to the function; one event in CloudEvents binary mode, several (or when the
 * batch size is more than 1) as a batch.  2xx is success; a 2xx answer to a batch with JSON
 * {"batchItemFailures":[{"itemIdentifier":"ID"}]} fails those alone.  503 and OVERLOADED are
 * back-pressure: tried again, more slowly, and no attempt is counted.
 *
 * Counters (seen, matched, delivered, failed, dead, dropped) are kept in the state, written at most
 * every 2 s while they change: after a kill the last seconds are not counted.
 *
 * Main loop thread.  Every `done` is called later, once.
 */
#ifndef SERVICE_TRIGGER_TRIGGER_H
#define SERVICE_TRIGGER_TRIGGER_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cluster;
struct destination_service;
struct error;
struct event;
struct event_filter;
struct event_template;
struct gateway;
struct json_writer;
struct loop;
struct store;
struct trigger_service;

enum {
    TRIGGER_CONFIG_MAX = 128 << 10, /* bytes of a trigger's JSON */
    TRIGGER_COUNT_MAX = 20000,      /* per project */
    TRIGGER_BATCH_MAX = 1000,
    TRIGGER_CONCURRENCY_MAX = 1000,
};

/* ---- Life ---- */

struct trigger_options {
    struct loop *loop;
    struct store *store;
    struct cluster *cluster; /* NULL: this node is alone */
    struct gateway *gateway;
    struct destination_service *destinations;
    uint64_t (*now_ms)(void); /* NULL: clock_real_ms() */
};

int trigger_service_new(const struct trigger_options *options, struct trigger_service **ret_service,
                        struct error *err);
/* After all drivers were added: triggers run from now on. */
void trigger_service_start(struct trigger_service *service);
/* Drivers are stopped; what is being delivered is waited for by trigger_service_free(). */
void trigger_service_stop(struct trigger_service *service);
void trigger_service_free(struct trigger_service *service);

/* ---- Rows: a Trigger of spec/types.def ---- */

struct trigger_reply {
    void (*done)(const struct error *error, void *context);
    void *context;
};

/*
 * `document` is a TriggerSpec (lent).  INVALID names the key, and the position in a filter.  With
 * `replaces` an existing one is changed (a changed schedule begins anew), else it is EXISTS.
 * LIMIT; NOT_FOUND for a function that does not exist.
 */
void trigger_put(struct trigger_service *service, const char *project, const char *name,
                 const json_t *document, bool replaces, struct trigger_reply reply);
/* Could it be made or changed so, once its function is there? */
int trigger_check(struct trigger_service *service, const char *project, const char *name,
                  const json_t *document, struct error *err);
/* NOT_FOUND.  What was pushed already is still delivered. */
void trigger_pause(struct trigger_service *service, const char *project, const char *name,
                   bool is_paused, struct trigger_reply reply);
void trigger_delete(struct trigger_service *service, const char *project, const char *name,
                    struct trigger_reply reply);

int trigger_write(struct trigger_service *service, const char *project, const char *name,
                  struct buffer *out, struct error *err);
/* All of a project, by name: elements of an array that was begun. */
int trigger_write_all(struct trigger_service *service, const char *project,
                      struct json_writer *writer, struct error *err);
bool trigger_exists(struct trigger_service *service, const char *project, const char *name);
void trigger_write_metrics(struct trigger_service *service, struct buffer *out);

/* Filter, transform and deliver one event (moved out of), once, and tell each stage as a
 * TriggerTest (JSON).  `delivers` false: stop before the function.  `done` later, once; freed
 * before it, never.  `spec`: a TriggerSpec (lent) in place of a row; NULL: that of the row.  Of
 * kind http: path is the request's, and in settings are its method and the route's pattern. */
struct trigger_test;
struct trigger_test *
trigger_test_new(struct trigger_service *service, const char *project, const char *name,
                 const json_t *spec, struct event *event, bool delivers,
                 void (*done)(const struct error *error, struct buffer *document, void *context),
                 void *context);
void trigger_test_free(struct trigger_test *test);

#endif
