/*
 * What queues and streams are to be told: a row, written with the end of the invocation, that is
 * gone when the destination has accepted it.  So it is told at least once, whoever dies between.
 * (A function is told by an invocation of its own.)
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

enum { AT_ONCE_MAX = 32, GIVEN_UP_MS = 24 * 3600 * 1000 };

struct notice {
    struct invocation_service *service;
    char id[INVOCATION_ID_SIZE];
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
    free(notice->event);
    free(notice);
}

static void on_removed(const struct error *error, uint64_t index, void *context)
{
    (void)error; /* it is sent again */
    (void)index;
    notice_free(context);
}

static void on_sent(const struct error *error, void *context)
{
    struct notice *notice = context;
    struct invocation_service *service = notice->service;
    bool is_over = error == NULL || clock_real_ms() > notice->created_ms + GIVEN_UP_MS;
    if (error != NULL) {
        log_warn("invocation: %s cannot be told of an end%s: %s", notice->destination,
                 is_over ? ", and is not any more" : "", error->text);
    }
    if (!is_over || service->is_stopping) {
        notice_free(notice); /* the next sweep tries again */
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(command, "DELETE FROM invocation_notice WHERE key = ?", "t", notice->id);
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
        (cluster != NULL && !cluster_owns(cluster, key))) {
        return true;
    }
    if (found->count == found->room) {
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
    if (service->is_stopping || service->options.destinations == NULL || found.room == 0) {
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
