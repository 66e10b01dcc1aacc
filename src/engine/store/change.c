/* Changes: a ring of the last ones, and who wants to hear of new ones. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#include "engine/store/private.h"

static void keep_event(struct store *store, const struct store_event *event)
{
    struct kept_event *kept = &store->events[store->event_count++ % STORE_EVENTS_KEPT];
    kept->event = *event;
    snprintf(kept->table, sizeof(kept->table), "%s", event->table);
    snprintf(kept->key, sizeof(kept->key), "%s", event->key);
    kept->event.table = kept->table;
    kept->event.key = kept->key;
}

void store_on_changed(const struct store_event *event, void *context)
{
    struct store *store = context;
    keep_event(store, event);
    LIST_EACH(node, &store->watches)
    {
        struct store_watch *watch = LIST_ITEM(node, struct store_watch, link);
        if (watch->table[0] == '\0' || strcmp(watch->table, event->table) == 0) {
            watch->changed(event, watch->context);
        }
    }
}

void store_tell_replaced(struct store *store)
{
    const struct store_event event = {
        .index = machine_index(store->machine), .table = "", .operation = 'R', .key = ""};
    LIST_EACH(node, &store->watches)
    {
        struct store_watch *watch = LIST_ITEM(node, struct store_watch, link);
        watch->changed(&event, watch->context);
    }
}

struct store_watch *store_watch_new(struct store *store, const char *table_or_null,
                                    void (*changed)(const struct store_event *event, void *context),
                                    void *context)
{
    struct store_watch *watch = NEW(struct store_watch);
    snprintf(watch->table, sizeof(watch->table), "%s", table_or_null != NULL ? table_or_null : "");
    watch->changed = changed;
    watch->context = context;
    list_push_back(&store->watches, &watch->link);
    return watch;
}

void store_watch_free(struct store_watch *watch)
{
    if (watch != NULL) {
        list_remove(&watch->link);
        free(watch);
    }
}

bool store_events_since(struct store *store, uint64_t after,
                        void (*visit)(const struct store_event *event, void *context),
                        void *context)
{
    uint64_t first =
        store->event_count > STORE_EVENTS_KEPT ? store->event_count - STORE_EVENTS_KEPT : 0;
    /* The oldest kept command may have lost its first rows to the ring. */
    uint64_t whole_after =
        first > 0 ? store->events[first % STORE_EVENTS_KEPT].event.index : store->restored;
    if (after < whole_after) {
        return false;
    }
    for (uint64_t i = first; i < store->event_count; i++) {
        const struct store_event *event = &store->events[i % STORE_EVENTS_KEPT].event;
        if (event->index > after) {
            visit(event, context);
        }
    }
    return true;
}
