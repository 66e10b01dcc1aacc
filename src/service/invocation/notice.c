/*
 * What queues and streams are to be told: a row, written with the end of the invocation, that is
 * gone when the destination has accepted it.  So it is told at least once, whoever dies between.
 * (A function is told by an invocation of its own.)
 *
 * A destination that takes none is left alone for a while, longer each time: what others are to be
 * told does not wait for it.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/cluster/cluster.h"
#include "service/destination/destination.h"
#include "service/event/event.h"
#include "service/invocation/parts.h"

enum {
    AT_ONCE_MAX = 32,
    GIVEN_UP_MS = 24 * 3600 * 1000,
    HELD_OFF_FIRST_MS = 4000,
    HELD_OFF_MOST_MS = 60000,
};

struct held_off {
    uint64_t wait_ms;
    uint64_t until_ms; /* on the loop's clock */
};

struct notice {
    struct invocation_service *service;
    char id[INVOCATION_ID_SIZE];
    char invocation[INVOCATION_ID_SIZE]; /* whose end it is */
    char project[64];
    char destination[INVOCATION_TEXT_SIZE];
    char *event;
    uint64_t created_ms;
};

void notice_add(struct store_command *command, const char *id, const char *project,
                const char *destination, const char *event, uint64_t now_ms)
{
    store_command_add(command,
                      "INSERT INTO invocation_notice (key, project, destination, event, "
                      "created_ms) VALUES (?, ?, ?, ?, ?)",
                      "ttttu", id, project, destination, event, now_ms);
}

static void notice_free(struct notice *notice)
{
    map_remove(&notice->service->notices, notice->id);
    notice->service->notice_count--;
    if (notice->service->has_more_notices) {
        pass_soon(notice->service);
    }
    free(notice->event);
    free(notice);
}

/* ---- Destinations that take none ---- */

static bool is_held_off(const struct invocation_service *service, const char *project,
                        const char *destination)
{
    MEMORY_OWNED char *key = memory_format("%s %s", project, destination);
    const struct held_off *held = map_get(&service->held_off, key);
    return held != NULL && loop_now_ms(service->options.loop) < held->until_ms;
}

/* True: it took them until now. */
static bool hold_off(const struct notice *notice)
{
    struct invocation_service *service = notice->service;
    uint64_t now_ms = loop_now_ms(service->options.loop);
    MEMORY_OWNED char *key = memory_format("%s %s", notice->project, notice->destination);
    struct held_off *held = map_get(&service->held_off, key);
    bool is_new = held == NULL;
    if (is_new) {
        held = NEW(struct held_off);
        map_set(&service->held_off, key, held);
    }
    if (now_ms >= held->until_ms) { /* not once for each that was on its way */
        uint64_t doubled_ms = is_new ? HELD_OFF_FIRST_MS : 2 * held->wait_ms;
        held->wait_ms = doubled_ms < HELD_OFF_MOST_MS ? doubled_ms : HELD_OFF_MOST_MS;
        held->until_ms = now_ms + held->wait_ms;
    }
    return is_new;
}

static void hold_off_no_more(const struct notice *notice)
{
    MEMORY_OWNED char *key = memory_format("%s %s", notice->project, notice->destination);
    free(map_remove(&notice->service->held_off, key));
}

static void free_held_off(const char *key, void *value, void *context)
{
    (void)key;
    (void)context;
    free(value);
}

void notice_end(struct invocation_service *service)
{
    map_each(&service->held_off, free_held_off, NULL);
    map_done(&service->held_off);
    map_done(&service->notices);
}

/* ---- Telling ---- */

static void on_removed(const struct error *error, uint64_t index, void *context)
{
    (void)error; /* it is sent again */
    (void)index;
    notice_free(context);
}

/* What is known of it where its owner looks: once, not with each attempt.  `why` NULL: it is told.
 */
static bool note(const struct notice *notice, const char *why, bool is_over,
                 struct store_command *command)
{
    struct store *store = notice->service->options.store;
    struct error ignored = {0};
    uint64_t count = 0;
    if (!invocation_keeps_destination_error(notice->service)) {
        return false;
    }
    store_query(store, &ignored, store_take_u64, &count,
                "SELECT count(*) FROM invocation WHERE key = ? AND (destination_error IS NULL) = ?",
                "tu", notice->invocation, (uint64_t)(why != NULL));
    if (count == 0 && !(why != NULL && is_over)) {
        return false;
    }
    MEMORY_OWNED char *text = why != NULL
        ? memory_format("%s %s: %.300s", notice->destination,
                        is_over ? "was not told within a day, and is not any more"
                                : "is not told yet, for a day it is tried",
                        why)
        : NULL;
    store_command_add(command,
                      "UPDATE invocation SET destination_error = ?, updated_ms = ?, revision = ? "
                      "WHERE key = ?",
                      "turt", text, clock_real_ms(), notice->invocation);
    return true;
}

static void on_sent(const struct error *error, void *context)
{
    struct notice *notice = context;
    struct invocation_service *service = notice->service;
    bool is_over = error == NULL || clock_real_ms() > notice->created_ms + GIVEN_UP_MS;
    bool is_news = is_over || hold_off(notice);
    if (is_over) {
        hold_off_no_more(notice);
    }
    if (error != NULL && is_news) {
        log_warn("invocation: %s cannot be told of an end%s: %s", notice->destination,
                 is_over ? ", and is not any more" : "", error->text);
    }
    struct store_command *command = store_command_new();
    bool is_noted = note(notice, error != NULL ? error->text : NULL, is_over, command);
    if ((!is_over && !is_noted) || service->is_stopping) {
        store_command_free(command);
        notice_free(notice); /* the next sweep tries again */
        return;
    }
    if (is_over) {
        store_command_add(command, "DELETE FROM invocation_notice WHERE key = ?", "t", notice->id);
    }
    store_propose(service->options.store, command, on_removed, notice);
}

static void notice_send(struct notice *notice)
{
    EVENT_OWNED struct event event = {0};
    struct error err = {0};
    if (event_read(notice->event, strlen(notice->event), &event, &err) < 0) {
        notice->created_ms = 0; /* nobody will ever read it */
        on_sent(&err, notice);
        return;
    }
    const char *subject = event_get(&event, "subject");
    snprintf(notice->invocation, sizeof(notice->invocation), "%s", subject != NULL ? subject : "");
    destination_send(notice->service->options.destinations, notice->project, notice->destination,
                     &event, on_sent, notice);
}

struct found {
    struct invocation_service *service;
    struct notice *notices[AT_ONCE_MAX];
    size_t count;
    size_t room;
};

static bool take_notice(sqlite3_stmt *row, void *context)
{
    struct found *found = context;
    struct invocation_service *service = found->service;
    struct cluster *cluster = service->options.cluster;
    const char *id = (const char *)sqlite3_column_text(row, 0);
    char key[64];
    snprintf(key, sizeof(key), "invocation/%.32s", id);
    if (map_get(&service->notices, id) != NULL ||
        (cluster != NULL && !cluster_owns(cluster, key)) ||
        is_held_off(service, (const char *)sqlite3_column_text(row, 1),
                    (const char *)sqlite3_column_text(row, 2))) {
        return true;
    }
    if (found->count == found->room) {
        service->has_more_notices = true;
        return false;
    }
    struct notice *notice = NEW(struct notice);
    notice->service = service;
    snprintf(notice->id, sizeof(notice->id), "%s", id);
    snprintf(notice->project, sizeof(notice->project), "%s",
             (const char *)sqlite3_column_text(row, 1));
    snprintf(notice->destination, sizeof(notice->destination), "%s",
             (const char *)sqlite3_column_text(row, 2));
    notice->event = memory_copy_string((const char *)sqlite3_column_text(row, 3));
    notice->created_ms = (uint64_t)sqlite3_column_int64(row, 4);
    found->notices[found->count++] = notice;
    return true;
}

void notice_pass(struct invocation_service *service)
{
    struct error ignored = {0};
    struct found found = {.service = service, .room = AT_ONCE_MAX - service->notice_count};
    if (service->is_stopping || service->options.destinations == NULL) {
        return;
    }
    service->has_more_notices = found.room == 0;
    if (found.room == 0) {
        return;
    }
    store_query(service->options.store, &ignored, take_notice, &found,
                "SELECT key, project, destination, event, created_ms FROM invocation_notice ORDER "
                "BY created_ms",
                "");
    for (size_t i = 0; i < found.count; i++) {
        map_set(&service->notices, found.notices[i]->id, found.notices[i]);
        service->notice_count++;
    }
    for (size_t i = 0; i < found.count; i++) {
        notice_send(found.notices[i]);
    }
}
