/*
 * Where what is to be would go: decided one after the other as if each had come, against the
 * picture of now, and undone again.  What displaces others is not put in: those after it are
 * judged by what is there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/machine/machine.h"
#include "service/placement/parts.h"

enum { NODES_SHOWN_MAX = 16 };

struct preview {
    struct placement_service *service;
    const char *project;
    struct placement_options options;
    char **kept; /* the engine's ids */
    size_t kept_count;
    struct json_writer writer;
};

struct subject {
    bool is_there;
    char id[PLACEMENT_MACHINE_ID_SIZE];
    char node[64];
    json_t *config;
};

/* ---- What is said of one ---- */

static void write_head(struct preview *preview, const char *kind, const char *name)
{
    json_write_begin_object(&preview->writer);
    json_write_field_string(&preview->writer, "kind", kind);
    json_write_field_string(&preview->writer, "name", name);
}

/* Whether it fits, where it goes and why; then every node, as far as there is room for that. */
static void write_verdicts(struct preview *preview, struct verdicts *verdicts, const char *node)
{
    struct json_writer *writer = &preview->writer;
    json_write_field_u64(writer, "nodes_total", verdicts->count);
    json_write_key(writer, "nodes");
    json_write_begin_array(writer);
    for (size_t i = 0; i < verdicts->count && i < NODES_SHOWN_MAX; i++) {
        struct verdict *verdict = &verdicts->all[i];
        bool fits = verdict->filter == PLACEMENT_PASSED;
        verdict_find_reason(preview->service, verdict);
        json_write_begin_object(writer);
        json_write_field_string(writer, "name", verdict->name);
        json_write_field_bool(writer, "fits", fits);
        json_write_field_bool(writer, "has_it", strcmp(verdict->name, node) == 0);
        if (fits) {
            json_write_field_double(writer, "score", verdict->score);
        } else {
            json_write_field_string(writer, "filter", placement_filter_name(verdict->filter));
            json_write_field_string(writer, "reason", verdict->reason);
        }
        json_write_end_object(writer);
    }
    json_write_end_array(writer);
}

/* What nobody can tell yet. */
static void write_unknown(struct preview *preview, const char *why)
{
    struct json_writer *writer = &preview->writer;
    json_write_field_bool(writer, "fits", false);
    json_write_field_bool(writer, "is_known", false);
    json_write_field_string(writer, "node", "");
    json_write_field_string(writer, "reason", why);
    json_write_field_u64(writer, "nodes_total", 0);
    json_write_key(writer, "nodes");
    json_write_raw(writer, "[]", 2);
}

static void write_answer(struct preview *preview, bool fits, const char *node, const char *reason)
{
    struct json_writer *writer = &preview->writer;
    json_write_field_bool(writer, "fits", fits);
    json_write_field_bool(writer, "is_known", true);
    json_write_field_string(writer, "node", node);
    json_write_field_string(writer, "reason", reason);
}

/* ---- Machines ---- */

static bool take_subject(sqlite3_stmt *row, void *context)
{
    struct subject *subject = context;
    struct error ignored = {0};
    const char *config = store_text(row, 2);
    subject->is_there = true;
    snprintf(subject->id, sizeof(subject->id), "%s", store_text(row, 0));
    snprintf(subject->node, sizeof(subject->node), "%s", store_text(row, 1));
    json_read(config, strlen(config), &subject->config, &ignored);
    return false;
}

/* What is asked for, over what it has. */
static int config_of(const json_t *machine, const struct subject *subject, json_t **ret_config,
                     struct error *err)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_t *config = NULL;
    int r = machine_complete(machine, &config, err);
    if (r == 0 && subject->config != NULL) {
        json_t *changed = json_deep_copy(subject->config);
        json_object_foreach(config, key, value)
        {
            if (json_object_get(machine, key) != NULL) {
                json_object_set(changed, key, value);
            }
        }
        json_decref(config);
        config = changed;
    }
    *ret_config = r == 0 ? config : NULL;
    return r;
}

/* It is there, and changes in place: may it stay where it is? */
static int write_staying(struct preview *preview, const struct asked *asked, const char *node,
                         struct error *err)
{
    struct verdicts verdicts = {0};
    int r = verdicts_of(preview->service, &asked->request, &preview->options, &verdicts, err);
    for (size_t i = 0; r == 0 && i < verdicts.count; i++) {
        struct verdict *verdict = &verdicts.all[i];
        if (strcmp(verdict->name, node) == 0) {
            bool fits = verdict->filter == PLACEMENT_PASSED;
            verdict_find_reason(preview->service, verdict);
            write_answer(preview, fits, node, fits ? "it stays there" : verdict->reason);
            write_verdicts(preview, &verdicts, node);
            verdicts_done(&verdicts);
            return 0;
        }
    }
    verdicts_done(&verdicts);
    return r < 0 ? r : error_set(err, ERROR_UNAVAILABLE, "node %s is not known here", node);
}

static void put_in(struct preview *preview, struct asked *asked,
                   const struct placement_decision *decision)
{
    char *kept = decision->is_placed && decision->victim_count == 0
        ? picture_keep(preview->service, preview->project, asked, decision)
        : NULL;
    if (kept != NULL) {
        preview->kept =
            memory_resize(preview->kept, (preview->kept_count + 1) * sizeof(*preview->kept));
        preview->kept[preview->kept_count++] = kept;
    }
}

static int write_coming(struct preview *preview, struct asked *asked, struct error *err)
{
    struct verdicts verdicts = {0};
    struct placement_decision decision = {0};
    int r = verdicts_of(preview->service, &asked->request, &preview->options, &verdicts, err);
    r = r < 0 ? r
              : placement_decide(preview->service->cluster, &asked->request, &preview->options,
                                 clock_real_ms(), &decision, err);
    if (r == 0) {
        MEMORY_OWNED char *reason = decision.victim_count > 0
            ? memory_format("displaces %zu of lower priority; %s", decision.victim_count,
                            decision.reason)
            : memory_copy_string(decision.reason);
        write_answer(preview, decision.is_placed, decision.is_placed ? decision.node_name : "",
                     reason);
        write_verdicts(preview, &verdicts, "");
        put_in(preview, asked, &decision);
    }
    placement_decision_done(&decision);
    verdicts_done(&verdicts);
    return r;
}

static int judge_machine(struct preview *preview, const json_t *item, const char *name,
                         struct error *err)
{
    struct placement_service *service = preview->service;
    const json_t *machine = json_object_get(item, "machine");
    bool is_replaced = json_is_true(json_object_get(item, "replaces"));
    struct subject subject = {0};
    JSON_OWNED json_t *config = NULL;
    MEMORY_OWNED char *key = memory_format("%s/%s", preview->project, name);
    int r = store_query(service->options.store, err, take_subject, &subject,
                        "SELECT id, node, config FROM machine WHERE key = ?", "t", key);
    if (r == 0 && is_replaced && subject.is_there) {
        picture_take_out(service, key);
        json_decref(subject.config);
        subject = (struct subject){0};
    }
    r = r < 0 ? r : config_of(machine, &subject, &config, err);
    if (r == 0) {
        bool has_shares = json_array_size(json_object_get(config, "shares")) > 0;
        const char *named = json_text(machine, "node");
        struct asked *asked = NEW(struct asked);
        const struct asked_of of = {.project = preview->project,
                                    .name = name,
                                    .id = subject.is_there ? subject.id : NULL,
                                    .config = config,
                                    .bound = !has_shares   ? NULL
                                        : named[0] != '\0' ? named
                                                           : service->node_name};
        r = asked_init(asked, service, &of, err);
        if (r == 0) {
            r = subject.node[0] != '\0' ? write_staying(preview, asked, subject.node, err)
                                        : write_coming(preview, asked, err);
            asked_done(asked);
        }
        free(asked);
    }
    json_decref(subject.config);
    return r;
}

/* ---- All of them ---- */

static int judge_function(struct preview *preview, const json_t *item, const char *name,
                          struct error *err)
{
    const json_t *placement = json_object_get(item, "placement");
    uint64_t copies = json_u64(placement, "copies");
    MEMORY_OWNED char *version =
        memory_format("%s/%s/%s", preview->project, name, json_text(item, "version"));
    char nodes[PLACEMENT_REASON_MAX];
    struct verdicts verdicts = {0};
    int r = functions_preview(preview->service, version, placement, &verdicts, nodes, err);
    if (r == 0) {
        bool fits = verdicts.count > 0 && verdicts.all[0].filter == PLACEMENT_PASSED;
        MEMORY_OWNED char *reason = !fits
            ? memory_copy_string("no node may have it")
            : memory_copy_string(copies > 0 ? "on these at first, on others when they are called"
                                            : "on every node that its placement allows");
        write_answer(preview, fits, nodes, reason);
        write_verdicts(preview, &verdicts, "");
    }
    verdicts_done(&verdicts);
    return r;
}

static void judge(struct preview *preview, const json_t *item)
{
    const json_t *machine = json_object_get(item, "machine");
    const char *name = machine != NULL ? json_text(machine, "name") : json_text(item, "function");
    struct error err = {0};
    write_head(preview, machine != NULL ? "Machine" : "Function", name);
    int r = machine != NULL ? judge_machine(preview, item, name, &err)
                            : judge_function(preview, item, name, &err);
    if (r < 0) {
        write_unknown(preview, err.text);
    }
    json_write_end_object(&preview->writer);
}

static void put_back(struct preview *preview)
{
    struct placement_change ignored_change = {0};
    struct error ignored = {0};
    for (size_t i = 0; i < preview->kept_count; i++) {
        placement_cluster_remove(preview->service->cluster, preview->kept[i], &ignored_change,
                                 &ignored);
        free(preview->kept[i]);
    }
    free(preview->kept);
    picture_update(preview->service); /* what was taken out is there again */
}

int placement_service_preview(struct placement_service *service, const char *project,
                              const json_t *ask, struct buffer *out, struct error *err)
{
    struct preview preview = {
        .service = service, .project = project, .writer = json_writer_to(out)};
    const json_t *items = json_object_get(ask, "items");
    size_t index = 0;
    json_t *item = NULL;
    if (!service_is_known(service)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "not all nodes know placement: upgrade them first");
    }
    if (json_array_size(items) > PLACEMENT_PREVIEW_MAX) {
        return error_set(err, ERROR_LIMIT, "at most %d objects are placed at once in thought",
                         (int)PLACEMENT_PREVIEW_MAX);
    }
    picture_update(service);
    strategy_of(service, project, &preview.options, NULL);
    preview.options.band_percent = 0;
    json_write_begin_object(&preview.writer);
    json_write_key(&preview.writer, "items");
    json_write_begin_array(&preview.writer);
    json_array_foreach(items, index, item)
    {
        judge(&preview, item);
    }
    json_write_end_array(&preview.writer);
    json_write_end_object(&preview.writer);
    put_back(&preview);
    return 0;
}
