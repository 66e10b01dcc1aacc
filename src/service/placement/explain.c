/* Why a machine is where it is, or nowhere: what the engine says of every node. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/placement/parts.h"

struct explaining {
    struct placement_service *service;
    const char *project;
    struct verdicts verdicts;
    char away[PLACEMENT_REASON_MAX]; /* as of struct asked: then no node fits */
};

struct subject {
    bool is_there;
    char id[PLACEMENT_MACHINE_ID_SIZE];
    char node[64];
    char state[16];
    char desired[16];
    json_t *config;
    uint64_t pending_ms;
    char *reason;
    char holds[64];
};

static bool take_subject(sqlite3_stmt *row, void *context)
{
    struct subject *subject = context;
    struct error ignored = {0};
    const char *config = store_text(row, 3);
    subject->is_there = true;
    snprintf(subject->id, sizeof(subject->id), "%s", store_text(row, 0));
    snprintf(subject->node, sizeof(subject->node), "%s", store_text(row, 1));
    snprintf(subject->state, sizeof(subject->state), "%s", store_text(row, 2));
    json_read(config, strlen(config), &subject->config, &ignored);
    snprintf(subject->desired, sizeof(subject->desired), "%s", store_text(row, 4));
    subject->pending_ms = (uint64_t)sqlite3_column_int64(row, 5);
    subject->reason = memory_copy_string(store_text(row, 6));
    snprintf(subject->holds, sizeof(subject->holds), "%s", store_text(row, 7));
    return false;
}

/* ---- Every node ---- */

static void on_verdict(const struct placement_verdict *verdict, void *context)
{
    struct verdicts *verdicts = context;
    if (verdicts->count == verdicts->room) {
        return;
    }
    struct verdict *kept = &verdicts->all[verdicts->count++];
    snprintf(kept->name, sizeof(kept->name), "%s", verdict->node_name);
    snprintf(kept->reason, sizeof(kept->reason), "%s", verdict->reason);
    kept->filter = verdict->filter;
    kept->score = verdict->score;
    memcpy(kept->parts, verdict->parts, sizeof(kept->parts));
}

static int compare(const void *a, const void *b)
{
    const struct verdict *x = a;
    const struct verdict *y = b;
    bool fits_x = x->filter == PLACEMENT_PASSED;
    bool fits_y = y->filter == PLACEMENT_PASSED;
    if (fits_x != fits_y) {
        return fits_x ? -1 : 1;
    }
    if (x->score < y->score || x->score > y->score) {
        return x->score > y->score ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

static bool take_drain(sqlite3_stmt *row, void *context)
{
    char *reason = context;
    JSON_OWNED json_t *drain = NULL;
    struct error ignored = {0};
    const char *text = store_text(row, 1);
    json_read(text, strlen(text), &drain, &ignored);
    const char *window = json_text(drain, "window");
    if (window[0] != '\0') {
        snprintf(reason, PLACEMENT_REASON_MAX, "the node is %s for its maintenance window %.63s",
                 store_text(row, 0), window);
    }
    return false;
}

void verdict_find_reason(struct placement_service *service, struct verdict *verdict)
{
    struct error ignored = {0};
    if (verdict->filter == PLACEMENT_NOT_ELIGIBLE) {
        store_query(service->options.store, &ignored, take_drain, verdict->reason,
                    "SELECT duty, drain FROM node WHERE key = ? AND drain IS NOT NULL", "t",
                    verdict->name);
    }
    if (verdict->filter == PLACEMENT_HELD) {
        hold_find_reason(service, verdict->name, verdict->reason);
    }
}

int verdicts_of(struct placement_service *service, const struct placement_request *request,
                const struct placement_options *options, struct verdicts *ret_verdicts,
                struct error *err)
{
    ret_verdicts->count = 0;
    ret_verdicts->room = placement_cluster_node_count(service->cluster);
    ret_verdicts->all = memory_new(ret_verdicts->room + 1, sizeof(struct verdict));
    int r = placement_explain(service->cluster, request, options, clock_real_ms(), on_verdict,
                              ret_verdicts, err);
    if (r == 0) {
        qsort(ret_verdicts->all, ret_verdicts->count, sizeof(struct verdict), compare);
    }
    return r;
}

void verdicts_done(struct verdicts *verdicts)
{
    free(verdicts->all);
    *verdicts = (struct verdicts){0};
}

/* ---- As JSON ---- */

static void write_parts(struct json_writer *writer, const struct verdict *verdict,
                        const struct placement_options *options)
{
    json_write_key(writer, "parts");
    json_write_begin_array(writer);
    for (int i = 0; i < PLACEMENT_PART_COUNT; i++) {
        json_write_begin_object(writer);
        json_write_field_string(writer, "name", placement_part_name((enum placement_part)i));
        json_write_field_double(writer, "score", verdict->parts[i]);
        json_write_field_double(writer, "weight", (double)options->weights[i] / 100);
        json_write_end_object(writer);
    }
    json_write_end_array(writer);
}

static void write_nodes(struct json_writer *writer, const struct explaining *explaining,
                        const struct subject *subject, const struct placement_options *options)
{
    json_write_key(writer, "nodes");
    json_write_begin_array(writer);
    for (size_t i = 0; i < explaining->verdicts.count; i++) {
        const struct verdict *verdict = &explaining->verdicts.all[i];
        bool passes = verdict->filter == PLACEMENT_PASSED;
        bool fits = passes && explaining->away[0] == '\0';
        json_write_begin_object(writer);
        json_write_field_string(writer, "name", verdict->name);
        json_write_field_bool(writer, "fits", fits);
        json_write_field_bool(writer, "has_it", strcmp(verdict->name, subject->node) == 0);
        if (fits) {
            json_write_field_double(writer, "score", verdict->score);
            write_parts(writer, verdict, options);
        } else {
            json_write_field_string(writer, "filter",
                                    passes ? "image" : placement_filter_name(verdict->filter));
            json_write_field_string(writer, "reason", passes ? explaining->away : verdict->reason);
        }
        json_write_end_object(writer);
    }
    json_write_end_array(writer);
}

static bool write_decision(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    static const char *const keys[] = {"machine", "project", "kind", "node", "text"};
    json_write_begin_object(writer);
    for (int i = 0; i < 5; i++) {
        json_write_field_string(writer, keys[i], store_text(row, i));
    }
    json_write_field_time_ms(writer, "at", (uint64_t)sqlite3_column_int64(row, 5));
    json_write_end_object(writer);
    return true;
}

#define DECISIONS                                                                     \
    "SELECT machine, project, kind, node, text, at_ms FROM placement_decision WHERE " \
    "project = ?1 "

void decisions_write(struct placement_service *service, const char *project,
                     const char *machine_or_null, struct json_writer *writer)
{
    struct error ignored = {0};
    json_write_key(writer, "decisions");
    json_write_begin_array(writer);
    if (machine_or_null != NULL) {
        store_query(service->options.store, &ignored, write_decision, writer,
                    DECISIONS "AND machine = ?2 ORDER BY at_ms DESC, key LIMIT 10", "tt", project,
                    machine_or_null);
    } else {
        store_query(service->options.store, &ignored, write_decision, writer,
                    DECISIONS "ORDER BY at_ms DESC, key LIMIT 100", "t", project);
    }
    json_write_end_array(writer);
}

static void write_all(struct explaining *explaining, const char *name,
                      const struct subject *subject, const struct placement_options *options,
                      struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    bool waits = subject->pending_ms != 0;
    const struct verdict *best =
        explaining->verdicts.count > 0 ? &explaining->verdicts.all[0] : NULL;
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "machine", name);
    json_write_field_string(&writer, "node", subject->node);
    json_write_field_string(&writer, "state", waits ? "pending" : subject->state);
    if (waits) {
        json_write_field_string(&writer, "reason", subject->reason);
        json_write_field_time_ms(&writer, "pending_since", subject->pending_ms);
    }
    if (waits && subject->holds[0] != '\0') {
        json_write_field_string(&writer, "holds", subject->holds);
    }
    uint64_t leaves_ms = evict_when(explaining->service, subject->id);
    if (leaves_ms != 0) {
        json_write_field_time_ms(&writer, "leaves_at", leaves_ms);
    }
    json_write_field_string(&writer, "strategy", placement_strategy_name(options->strategy));
    if (best != NULL && best->filter == PLACEMENT_PASSED && explaining->away[0] == '\0') {
        json_write_field_string(&writer, "choice", best->name);
    }
    traffic_write_machine(explaining->service->options.store, subject->id, explaining->project,
                          subject->node, &writer);
    write_nodes(&writer, explaining, subject, options);
    decisions_write(explaining->service, explaining->project, name, &writer);
    json_write_end_object(&writer);
}

static int explain(struct explaining *explaining, const char *name, const struct subject *subject,
                   const struct placement_options *options, struct error *err)
{
    struct placement_service *service = explaining->service;
    struct asked *asked = NEW(struct asked);
    const struct asked_of of = {.project = explaining->project,
                                .name = name,
                                .id = subject->id,
                                .config = subject->config,
                                .is_explained = true};
    int r = asked_init(asked, service, &of, err);
    if (r == 0) { /* what is there came before all who wait */
        snprintf(explaining->away, sizeof(explaining->away), "%s", asked->away);
        asked->request.since_ms = subject->pending_ms != 0 ? subject->pending_ms : 1;
        r = verdicts_of(service, &asked->request, options, &explaining->verdicts, err);
        for (size_t i = 0; r == 0 && i < explaining->verdicts.count; i++) {
            verdict_find_reason(service, &explaining->verdicts.all[i]);
        }
        asked_done(asked);
    }
    free(asked);
    return r;
}

int placement_service_explain(struct placement_service *service, const char *project,
                              const char *name, struct buffer *out, struct error *err)
{
    struct subject subject = {0};
    struct placement_options options;
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    if (!service_is_known(service)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "not all nodes know placement: upgrade them first");
    }
    picture_update(service);
    struct explaining explaining = {.service = service, .project = project};
    MEMORY_OWNED char *sql =
        memory_format("SELECT id, node, state, config, desired, pending_ms, pending_reason, %s "
                      "FROM machine WHERE key = ?",
                      hold_columns(service));
    int r = store_query(service->options.store, err, take_subject, &subject, sql, "t", key);
    if (r == 0 && !subject.is_there) {
        r = error_set(err, ERROR_NOT_FOUND,
                      "there is no machine %.64s in project %s; see `blixard vm list`", name,
                      project);
    }
    strategy_of(service, project, &options, NULL);
    r = r < 0 ? r : explain(&explaining, name, &subject, &options, err);
    if (r == 0) {
        write_all(&explaining, name, &subject, &options, out);
    }
    json_decref(subject.config);
    free(subject.reason);
    verdicts_done(&explaining.verdicts);
    return r;
}
