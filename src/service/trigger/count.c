/* Counters, added to the state's now and then: one command for all triggers. */
#include <stdio.h>
#include <string.h>

#include "service/trigger/parts.h"

enum { FLUSH_MS = 2000, ROWS_MAX = 200 };

void trigger_count_soon(struct trigger_source *source)
{
    struct trigger_service *service = source->service;
    bool is_first = !source->counts_changed;
    source->counts_changed = true;
    if (is_first && service->flush != NULL && !service->is_stopping) {
        loop_timer_start(service->flush, FLUSH_MS);
    }
}

void trigger_note_error(struct trigger_source *source, const struct error *error)
{
    snprintf(source->last_error, sizeof(source->last_error), "%.255s", error->text);
    trigger_count_soon(source);
}

struct flush {
    struct trigger_service *service;
    struct store_command *command;
    unsigned rows;
};

static void propose(struct flush *flush)
{
    if (flush->rows > 0) {
        store_propose(flush->service->options.store, flush->command, NULL, NULL);
    } else {
        store_command_free(flush->command);
    }
    flush->command = NULL;
    flush->rows = 0;
}

static void add_source(struct flush *flush, struct trigger_source *source)
{
    struct trigger_counts *counts = &source->counts;
    if (!source->counts_changed) {
        return;
    }
    if (flush->command == NULL) {
        flush->command = store_command_new();
    }
    store_command_add(
        flush->command,
        "UPDATE trigger_count SET seen = seen + ?, matched = matched + ?, delivered = delivered + "
        "?, failed = failed + ?, dead = dead + ?, skipped = skipped + ?, last_ms = max(?, "
        "coalesce(last_ms, 0)), last_error = coalesce(?, last_error) WHERE trigger = ?",
        "uuuuuuutt", counts->seen, counts->matched, counts->delivered, counts->failed, counts->dead,
        counts->skipped, counts->last_ms, source->last_error[0] != '\0' ? source->last_error : NULL,
        source->key);
    *counts = (struct trigger_counts){0};
    source->counts_changed = false;
    if (++flush->rows >= ROWS_MAX) {
        propose(flush);
    }
}

static void visit(const char *key, void *value, void *context)
{
    (void)key;
    add_source(context, value);
}

void trigger_counts_flush(struct trigger_service *service)
{
    struct flush flush = {.service = service};
    map_each(&service->sources, visit, &flush);
    LIST_EACH(node, &service->dying)
    {
        add_source(&flush, LIST_ITEM(node, struct trigger_source, link));
    }
    if (flush.command != NULL) {
        propose(&flush);
    }
}
