/* Counters, added to the state's now and then: one command for all triggers. */
#include <stdio.h>
#include <string.h>

#include "service/trigger/parts.h"

enum { FLUSH_MS = 2000, ROWS_MAX = 200 };

void trigger_count_soon(struct trigger_source *source)
{
    struct trigger_service *service = source->service;
    source->counts_changed = true;
    if (!service->flush_is_due && !service->is_stopping) {
        service->flush_is_due = true; /* others that change meanwhile put it off no further */
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

static void add_counts(struct store_command *command, struct trigger_source *source)
{
    struct trigger_counts *counts = &source->counts;
    store_command_add(
        command,
        "UPDATE trigger_count SET seen = seen + ?, matched = matched + ?, delivered = delivered + "
        "?, failed = failed + ?, dead = dead + ?, last_ms = max(?, coalesce(last_ms, 0)), "
        "last_error = coalesce(?, last_error) WHERE trigger = ?",
        "uuuuuutt", counts->seen, counts->matched, counts->delivered, counts->failed, counts->dead,
        counts->last_ms, source->last_error[0] != '\0' ? source->last_error : NULL, source->key);
    *counts = (struct trigger_counts){0};
    source->counts_changed = false;
}

void trigger_counts_write(struct trigger_source *source)
{
    if (source->counts_changed) {
        struct store_command *command = store_command_new();
        add_counts(command, source);
        store_propose(source->service->options.store, command, NULL, NULL);
    }
}

static void add_source(struct flush *flush, struct trigger_source *source)
{
    if (!source->counts_changed) {
        return;
    }
    if (flush->command == NULL) {
        flush->command = store_command_new();
    }
    add_counts(flush->command, source);
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
    service->flush_is_due = false;
    map_each(&service->sources, visit, &flush);
    LIST_EACH(node, &service->dying)
    {
        add_source(&flush, LIST_ITEM(node, struct trigger_source, link));
    }
    if (flush.command != NULL) {
        propose(&flush);
    }
}
