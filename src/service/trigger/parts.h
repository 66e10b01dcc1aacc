/* Inside service/trigger: the service, one running trigger, one batch on its way. */
#ifndef SERVICE_TRIGGER_PARTS_H
#define SERVICE_TRIGGER_PARTS_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/map.h"

#include "engine/store/store.h"

#include "service/event/event.h"
#include "service/trigger/driver.h"
#include "service/trigger/trigger.h"

struct gateway_result;
struct gateway_invoke;

enum { TRIGGER_DRIVERS_MAX = 16, TRIGGER_KEY_SIZE = 160, TRIGGER_ROOM_MAX = 10000 };

/* ---- config.c: a TriggerSpec, read and checked ---- */

struct trigger_config {
    json_t *document; /* owns the texts */
    const json_t *settings;
    const char *kind;
    const char *function;
    const char *path;       /* NULL: none */
    const char *method;     /* of kind http; NULL: POST */
    const char *pattern;    /* of kind http: the route's path; NULL: none */
    const char *on_success; /* NULL: none */
    const char *on_failure;
    struct event_filter *filter; /* NULL: all */
    struct event_template *transform;
    uint64_t batch_size;
    uint64_t batch_window_ms;
    uint64_t concurrency_max;
    uint64_t retries;
    uint64_t retry_delay_ms;
    uint64_t retry_delay_max_ms;
    uint64_t event_age_max_ms; /* 0: none */
    uint64_t timeout_ms;       /* 0: the function's */
    bool bisects;
};

int trigger_config_read(const json_t *document, struct trigger_config *ret_config,
                        struct error *err);
void trigger_config_done(struct trigger_config *config);
/* Numbers that it does not say: the ones that are in force, where that is not none (0). */
void trigger_config_complete(json_t *document);
/* The whole check of a new row, with the driver's part. */
int trigger_config_check(struct trigger_service *service, const struct trigger_config *config,
                         struct error *err);

/* ---- The service ---- */

struct added_driver {
    const struct trigger_driver *driver;
    void *context;
};

struct trigger_service {
    struct trigger_options options;
    struct added_driver drivers[TRIGGER_DRIVERS_MAX];
    unsigned driver_count;
    struct map sources; /* key -> struct trigger_source */
    struct list dying;  /* sources that were removed from it and still deliver */
    struct list tests;
    struct store_watch *watch;
    struct cluster_listener *listener;
    struct loop_timer *reconcile; /* soon */
    struct map changed;           /* keys to look at; value: any */
    bool looks_at_all;
    struct loop_timer *flush; /* counters */
    bool flush_is_due;
    struct trigger_cron *cron;
    bool is_started;
    bool is_stopping;
};

const struct added_driver *trigger_driver_find(const struct trigger_service *service,
                                               const char *kind);
uint64_t trigger_now_ms(const struct trigger_service *service);
/* Look at this row again (NULL: all), soon. */
void trigger_touch(struct trigger_service *service, const char *key_or_null);

/* ---- source.c: one running trigger ---- */

struct trigger_counts {
    uint64_t seen, matched, delivered, failed, dead;
    uint64_t last_ms;
};

struct item {
    struct list_node link;
    struct event event;
    char *order;
    unsigned attempts;
    uint64_t first_ms; /* on the loop's clock */
    bool is_cancelled;
    void (*done)(enum trigger_outcome outcome, const struct error *reason, void *context);
    void *context;
    enum trigger_outcome outcome; /* of one that is answered */
    struct error reason;
};

struct trigger_source {
    struct list_node link; /* in dying */
    struct trigger_service *service;
    char *key;
    char project[64];
    char name[64];
    uint64_t revision;
    struct trigger_config config;
    const struct trigger_driver *driver;
    void *driver_context;
    void *driver_state;
    bool is_running;
    bool is_draining;    /* no new deliveries; stops when those under way have ended */
    struct list pending; /* items */
    size_t pending_count;
    struct list answers; /* items whose answer is to be told */
    struct list batches;
    size_t batch_count;
    size_t flying; /* items in batches */
    struct loop_timer *answer_timer;
    struct loop_timer *window_timer;
    struct loop_timer *start_timer; /* after a failed start */
    unsigned start_failures;
    bool was_full;
    char problem[256];
    char last_error[256];
    struct trigger_counts counts; /* not yet written */
    bool counts_changed;
};

struct trigger_source *trigger_source_new(struct trigger_service *service, const char *key,
                                          const char *project, const char *name, uint64_t revision,
                                          struct trigger_config *owned_config,
                                          const struct added_driver *driver);
void trigger_source_start(struct trigger_source *source);
/* Let what is under way end, then stop the driver; it is in service->dying, and is freed then. */
void trigger_source_drain(struct trigger_source *source);
/* At once. */
void trigger_source_free(struct trigger_source *source);
void trigger_source_schedule(struct trigger_source *source);
/* Later, on the loop; the item is freed then. */
void trigger_answer(struct trigger_source *source, struct item *owned_item,
                    enum trigger_outcome outcome, const struct error *reason);
void trigger_item_free(struct item *item);
void trigger_note_error(struct trigger_source *source, const struct error *error);

/* ---- deliver.c: a batch, from its first attempt to its answers ---- */

struct outgoing { /* to a destination */
    struct list_node link;
    const char *destination;
    struct event event;
};

struct batch {
    struct list_node link;
    struct trigger_source *source;
    char *order; /* NULL: none */
    struct list items;
    size_t count;
    size_t chunk;      /* how many are delivered at once: halved by bisecting */
    size_t delivering; /* the first ones of items */
    struct gateway_invoke *invoke;
    struct loop_timer *timer; /* of a retry */
    unsigned pushed_back;     /* times that there was no room */
    uint64_t pushed_back_ms;  /* since */
    struct list ended;        /* items that are to be answered when the outbox is empty */
    uint64_t retry_delay_ms;  /* to wait then */
    struct list outbox;
    bool is_sending;
    bool is_dropped; /* freed when the destination has answered */
    unsigned send_failures;
};

/* The items are the batch's. */
void batch_start(struct trigger_source *source, struct list *items, size_t count);
void batch_drop(struct batch *batch); /* without answers */
/* Its source is to end: a call that is under way ends, and nothing is waited for after it. */
void batch_hurry(struct batch *batch);
/* One that is not delivered at all: to the destination of failures, then it is answered. */
void batch_give_up(struct trigger_source *source, struct item *owned_item,
                   const struct error *reason);

/* The request of a delivery, and what its answer says. */
struct delivery {
    char *lines[65];
    size_t line_count;
    struct buffer body;
};
void delivery_fill(struct delivery *delivery, const struct event *const *events, size_t count,
                   bool is_batch);
void delivery_done(struct delivery *delivery);
struct delivery_from {
    const char *project;
    const char *name; /* of the trigger */
    const struct trigger_config *config;
};
struct gateway_invoke *delivery_send(
    const struct trigger_service *service, const struct delivery_from *from,
    const struct event *const *events, size_t count,
    void (*done)(const struct error *error, const struct gateway_result *result, void *context),
    void *context);
/* Those that a good answer says have failed: its batchItemFailures, where a batch was sent; NULL:
 * none.  Where they name what was not sent, `reason` is set.  The caller ends them. */
json_t *delivery_failures(const struct trigger_config *config, const struct event *const *events,
                          size_t count, const struct gateway_result *result, struct error *reason);
bool delivery_has_failed(const json_t *failures, const struct event *event);
#define DELIVERY_LISTED "the function listed it in batchItemFailures"
bool delivery_is_batch(const struct trigger_config *config, size_t count);
/* No room, not a failure? */
bool delivery_is_pushed_back(const struct error *error, const struct gateway_result *result);

/* ---- count.c ---- */
void trigger_count_soon(struct trigger_source *source);
void trigger_counts_write(struct trigger_source *source); /* those of one, now */
void trigger_counts_flush(struct trigger_service *service);

/* ---- cron.c ---- */
struct trigger_cron;
struct trigger_cron *trigger_cron_new(struct trigger_service *service);
void trigger_cron_free(struct trigger_cron *cron);

#endif
