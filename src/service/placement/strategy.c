/* How nodes are scored: of a project, of the cluster, or by default. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"

#include "service/placement/parts.h"

enum { WEIGHT_MAX = 1000 };
#define STRATEGY_DEFAULT PLACEMENT_BALANCED

static bool parse_strategy(const char *text, enum placement_strategy *ret_strategy)
{
    for (int i = 0; i < PLACEMENT_STRATEGY_COUNT; i++) {
        if (strcmp(placement_strategy_name((enum placement_strategy)i), text) == 0) {
            *ret_strategy = (enum placement_strategy)i;
            return true;
        }
    }
    return false;
}

static int find_part(const char *name)
{
    for (int i = 0; i < PLACEMENT_PART_COUNT; i++) {
        if (strcmp(placement_part_name((enum placement_part)i), name) == 0) {
            return i;
        }
    }
    return -1;
}

/* A weight as the API has it: percent, as text. */
static int take_weight(const char *name, const char *text, uint32_t *weights, struct error *err)
{
    uint64_t weight = 0;
    int part = find_part(name);
    if (part < 0) {
        BUFFER_OWNED struct buffer names = {0};
        for (int i = 0; i < PLACEMENT_PART_COUNT; i++) {
            buffer_append_format(&names, "%s%s", i > 0 ? ", " : "",
                                 placement_part_name((enum placement_part)i));
        }
        return error_set(err, ERROR_INVALID, "weights: \"%.40s\" is none of %s", name,
                         buffer_string(&names));
    }
    if (text == NULL || !text_parse_u64(text_of(text, strlen(text)), &weight) ||
        weight > WEIGHT_MAX) {
        return error_set(err, ERROR_INVALID, "weights: %s is 0 to %d percent", name, WEIGHT_MAX);
    }
    weights[part] = (uint32_t)weight;
    return 0;
}

static int take_weights(const json_t *object, uint32_t *weights, struct error *err)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)object, name, value)
    {
        if (take_weight(name, json_string_value(value), weights, err) < 0) {
            return -(int)err->kind;
        }
    }
    return 0;
}

struct found {
    char *strategy;
    char *weights;
    bool is_projects;
};

static bool take_row(sqlite3_stmt *row, void *context)
{
    struct found *found = context;
    found->is_projects = store_text(row, 0)[0] != '\0';
    found->strategy = memory_copy_string(store_text(row, 1));
    found->weights = memory_copy_string(store_text(row, 2));
    return false;
}

void strategy_of(struct placement_service *service, const char *project,
                 struct placement_options *ret_options, const char **ret_source)
{
    struct found found = {0};
    struct error ignored = {0};
    JSON_OWNED json_t *weights = NULL;
    enum placement_strategy strategy = STRATEGY_DEFAULT;
    if (service_is_known(service)) {
        store_query(service->options.store, &ignored, take_row, &found,
                    "SELECT key, strategy, weights FROM placement_strategy WHERE key = ?1 OR key = "
                    "'' ORDER BY key DESC LIMIT 1",
                    "t", project);
    }
    if (found.strategy != NULL) {
        parse_strategy(found.strategy, &strategy);
    }
    placement_options_init(ret_options, strategy);
    if (found.weights != NULL &&
        json_read(found.weights, strlen(found.weights), &weights, &ignored) == 0) {
        take_weights(weights, ret_options->weights, &ignored);
    }
    ret_options->may_displace = service->options.displaced_max > 0;
    ret_options->displaced_max = (uint32_t)service->options.displaced_max;
    if (ret_source != NULL) {
        *ret_source = found.strategy == NULL ? "default"
            : found.is_projects              ? "project"
                                             : "cluster";
    }
    free(found.strategy);
    free(found.weights);
}

void placement_service_set_strategy(struct placement_service *service, const char *project,
                                    const json_t *strategy, placement_done *done, void *context)
{
    uint32_t weights[PLACEMENT_PART_COUNT];
    enum placement_strategy parsed;
    struct error err = {0};
    const char *text = json_text(strategy, "strategy");
    json_t *said = json_object_get(strategy, "weights");
    JSON_OWNED json_t *kept = json_is_object(said) ? json_incref(said) : json_object();
    int r = service_is_known(service)
        ? take_weights(kept, weights, &err)
        : error_set(&err, ERROR_UNSUPPORTED, "not all nodes know placement: upgrade them first");
    if (r == 0 && text[0] != '\0' && !parse_strategy(text, &parsed)) {
        r = error_set(&err, ERROR_INVALID,
                      "strategy \"%.40s\" is none of binpack, spread, balanced, least-cost, "
                      "data-local",
                      text);
    }
    if (r == 0 && text[0] == '\0' && json_object_size(kept) > 0) {
        r = error_set(&err, ERROR_INVALID, "weights are of a strategy: say which");
    }
    if (r < 0) {
        answer_later(service, &err, done, context);
        return;
    }
    MEMORY_OWNED char *json = json_dumps(kept, JSON_COMPACT | JSON_SORT_KEYS);
    struct store_command *command = store_command_new();
    if (text[0] == '\0') {
        store_command_add(command, "DELETE FROM placement_strategy WHERE key = ?", "t", project);
    } else {
        store_command_add(command,
                          "INSERT INTO placement_strategy (key, strategy, weights, revision) "
                          "VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) DO UPDATE SET strategy = "
                          "excluded.strategy, weights = excluded.weights, revision = "
                          "excluded.revision",
                          "tttr", project, text, json);
    }
    store_propose(service->options.store, command, done, context);
}

int placement_service_write_strategy(struct placement_service *service, const char *project,
                                     struct buffer *out, struct error *err)
{
    struct placement_options options;
    struct json_writer writer = json_writer_to(out);
    const char *source = NULL;
    (void)err;
    strategy_of(service, project, &options, &source);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "strategy", placement_strategy_name(options.strategy));
    json_write_key(&writer, "weights");
    json_write_begin_object(&writer);
    for (int i = 0; i < PLACEMENT_PART_COUNT; i++) {
        char text[16];
        snprintf(text, sizeof(text), "%" PRIu32, options.weights[i]);
        json_write_field_string(&writer, placement_part_name((enum placement_part)i), text);
    }
    json_write_end_object(&writer);
    json_write_field_string(&writer, "source", source);
    json_write_end_object(&writer);
    return 0;
}

/* ---- What a project says itself ---- */

static bool write_named(sqlite3_stmt *row, void *context)
{
    struct json_writer *writer = context;
    const char *weights = store_text(row, 2);
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", store_text(row, 0));
    json_write_field_string(writer, "strategy", store_text(row, 1));
    json_write_key(writer, "weights");
    json_write_raw(writer, weights, strlen(weights));
    json_write_end_object(writer);
    return true;
}

#define NAMED "SELECT key, strategy, weights FROM placement_strategy WHERE key = ? AND key <> ''"

int placement_service_strategy_write(struct placement_service *service, const char *project,
                                     const char *name, struct buffer *out, struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    (void)project;
    int r = service_is_known(service)
        ? store_query(service->options.store, err, write_named, &writer, NAMED, "t", name)
        : 0;
    return r < 0 || out->used > 0
        ? r
        : error_set(err, ERROR_NOT_FOUND,
                    "project %.64s says nothing of how nodes are scored; see `blixard placement "
                    "strategy`",
                    name);
}

int placement_service_strategy_write_list(struct placement_service *service, const char *project,
                                          struct buffer *out, struct error *err)
{
    struct json_writer writer = json_writer_to(out);
    int r = 0;
    json_write_begin_object(&writer);
    json_write_key(&writer, "strategies");
    json_write_begin_array(&writer);
    if (service_is_known(service)) {
        r = store_query(service->options.store, err, write_named, &writer, NAMED, "t", project);
    }
    json_write_end_array(&writer);
    json_write_end_object(&writer);
    return r;
}

void placement_service_strategy_delete(struct placement_service *service, const char *project,
                                       placement_done *done, void *context)
{
    struct error err = {0};
    if (!service_is_known(service)) {
        error_set(&err, ERROR_UNSUPPORTED, "not all nodes know placement: upgrade them first");
        answer_later(service, &err, done, context);
        return;
    }
    MEMORY_OWNED char *missing =
        memory_format("project %.64s says nothing of how nodes are scored", project);
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, missing,
                                "DELETE FROM placement_strategy WHERE key = ?", "t", project);
    store_propose(service->options.store, command, done, context);
}
