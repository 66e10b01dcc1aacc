/* Verbs about placement: where machines run, and why; rules of `vm create` and `vm set`. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/payload.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const char nothing[] = "none";

/* ---- Rules ---- */

static void take_list(const struct arguments *arguments, const char *flag, const char *field,
                      json_t *body)
{
    JSON_OWNED json_t *list = json_array();
    bool is_said = false;
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        const char *value = arguments->flags[i].value;
        bool is_it = strcmp(arguments->flags[i].name, flag) == 0;
        is_said = is_said || is_it;
        if (is_it && strcmp(value, nothing) != 0) {
            json_array_append_new(list, json_string(value));
        }
    }
    if (is_said) {
        json_object_set(body, field, list);
    }
}

void placement_take_rules(const struct arguments *arguments, json_t *body)
{
    static const char *const lists[][2] = {{"constraint", "constraints"},
                                           {"affinity", "affinities"},
                                           {"spread", "spreads"},
                                           {"toleration", "tolerations"}};
    static const char *const texts[] = {"placement_group", "node_pool", "reservation",
                                        "huge_pages"};
    const char *dedicated = flag_value(arguments, "dedicated-cpus");
    for (size_t i = 0; i < COUNT(lists); i++) {
        take_list(arguments, lists[i][0], lists[i][1], body);
    }
    for (size_t i = 0; i < COUNT(texts); i++) {
        const char *text = json_string_value(json_object_get(body, texts[i]));
        if (text != NULL && strcmp(text, nothing) == 0) {
            json_object_set_new(body, texts[i], json_string(""));
        }
    }
    if (dedicated != NULL) {
        json_object_set_new(body, "dedicated_cpus", json_boolean(strcmp(dedicated, "yes") == 0));
    }
}

/* ---- Where, and why ---- */

static const struct column decision_columns[] = {
    {"AT", "at", AS_TEXT},     {"MACHINE", "machine", AS_TEXT}, {"WHAT", "kind", AS_TEXT},
    {"NODE", "node", AS_TEXT}, {"WHY", "text", AS_TEXT},
};

/* One line of a node: "image 1.00x2, spread 0.50x1". */
static void describe_parts(json_t *node)
{
    BUFFER_OWNED struct buffer text = {0};
    size_t index = 0;
    json_t *part = NULL;
    const json_t *score = json_object_get(node, "score");
    json_array_foreach(json_object_get(node, "parts"), index, part)
    {
        buffer_append_format(&text, "%s%s %.2f", index > 0 ? ", " : "", json_text(part, "name"),
                             json_number_value(json_object_get(part, "score")));
    }
    if (!json_is_true(json_object_get(node, "fits"))) {
        buffer_append_format(&text, "%s: %s", json_text(node, "filter"), json_text(node, "reason"));
    }
    json_object_set_new(node, "why", json_string(buffer_string(&text)));
    if (score != NULL && !json_is_null(score)) {
        char number[32];
        snprintf(number, sizeof(number), "%.3f", json_number_value(score));
        json_object_set_new(node, "points", json_string(number));
    }
}

/* Whom it exchanges data with, of a Machine, Function or PlacementExplanation. */
void print_accesses(const json_t *document)
{
    static const struct column columns[] = {
        {"TALKS WITH", "name", AS_TEXT}, {"KIND", "kind", AS_TEXT},
        {"NODE", "node", AS_TEXT},       {"BYTES/S", "bytes_per_second", AS_BYTES},
        {"LOCAL", "local", AS_TEXT},
    };
    const json_t *accesses = json_object_get(document, "accesses");
    if (json_array_size(accesses) == 0) {
        char text[] = "nothing learnt yet";
        print_fact("talks with", text);
        return;
    }
    putchar('\n');
    print_table(accesses, columns, COUNT(columns));
}

int verb_placement_explain(const struct arguments *arguments, struct error *err)
{
    static const struct column facts[] = {
        {"machine", "machine", AS_TEXT},    {"state", "state", AS_TEXT},
        {"node", "node", AS_TEXT},          {"leaves", "leaves_at", AS_TEXT},
        {"reason", "reason", AS_TEXT},      {"since", "pending_since", AS_TEXT},
        {"held for it", "holds", AS_TEXT},  {"strategy", "strategy", AS_TEXT},
        {"now it gets", "choice", AS_TEXT},
    };
    static const struct column columns[] = {
        {"NODE", "name", AS_TEXT},    {"FITS", "fits", AS_TEXT}, {"IS THERE", "has_it", AS_TEXT},
        {"SCORE", "points", AS_TEXT}, {"WHY", "why", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("placement/explain", arguments->words[0], "");
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        print_document(document, output);
        return 0;
    }
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(json_object_get(document, "nodes"), index, node)
    {
        describe_parts(node);
    }
    print_facts(document, facts, COUNT(facts));
    print_accesses(document);
    putchar('\n');
    print_table(json_object_get(document, "nodes"), columns, COUNT(columns));
    if (json_array_size(json_object_get(document, "decisions")) > 0) {
        putchar('\n');
        print_table(json_object_get(document, "decisions"), decision_columns,
                    COUNT(decision_columns));
    }
    return 0;
}

static const struct column reservation_columns[] = {
    {"NAME", "name", AS_TEXT},
    {"NODE", "node", AS_TEXT},
    {"CPUS", "cpus", AS_TEXT},
    {"MEMORY", "memory_bytes", AS_BYTES},
    {"HUGE PAGES", "huge_pages", AS_TEXT},
    {"DISK", "disk_bytes", AS_BYTES},
    {"EXPIRES", "expires_at", AS_TEXT},
};

int verb_placement_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"MACHINE", "name", AS_TEXT},      {"PROJECT", "project", AS_TEXT},
        {"PRIORITY", "priority", AS_TEXT}, {"SINCE", "pending_since", AS_TEXT},
        {"DISK ON", "node", AS_TEXT},      {"HOLDS", "holds", AS_TEXT},
        {"REASON", "reason", AS_TEXT},
    };
    if (flag_value(arguments, "decisions") != NULL) {
        return print_target(arguments, "/v1/placement", "decisions", decision_columns,
                            COUNT(decision_columns), err);
    }
    if (flag_value(arguments, "reservations") != NULL) {
        return print_target(arguments, "/v1/placement", "reservations", reservation_columns,
                            COUNT(reservation_columns), err);
    }
    return print_target(arguments, "/v1/placement", "pending", columns, COUNT(columns), err);
}

/* ---- Room that is kept ---- */

int verb_placement_reserve(const struct arguments *arguments, struct error *err)
{
    static const struct payload_flag settings[] = {
        {"cpus", "cpus", FLAG_COUNT},
        {"memory", "memory_bytes", FLAG_SIZE},
        {"disk", "disk_bytes", FLAG_SIZE},
        {"node", "node", FLAG_TEXT},
        {"huge-pages", "huge_pages", FLAG_TEXT},
        {"ttl", "ttl_ms", FLAG_DURATION},
    };
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[0]);
    JSON_OWNED json_t *made = NULL;
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    take_list(arguments, "constraint", "constraints", body);
    r = r < 0 ? r : request_send("POST", "/v1/placement/reservations", body, &made, err);
    return r < 0
        ? r
        : print_done(arguments, made, err, "%s is kept on node %s until %s", arguments->words[0],
                     json_text(made, "node"), json_text(made, "expires_at"));
}

int verb_placement_release(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *gone = json_pack("{s:s}", "released", arguments->words[0]);
    MEMORY_OWNED char *target = request_target("placement/reservations", arguments->words[0], "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    return r < 0 ? r : print_done(arguments, gone, err, "%s is kept no more", arguments->words[0]);
}

/* ---- How nodes are scored ---- */

static int take_weights(const struct arguments *arguments, json_t *body, struct error *err)
{
    JSON_OWNED json_t *weights = json_object();
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        const char *value = arguments->flags[i].value;
        if (strcmp(arguments->flags[i].name, "weight") != 0) {
            continue;
        }
        size_t name = strcspn(value, "=");
        if (value[name] != '=') {
            return error_set(err, ERROR_INVALID, "--weight %.60s is not PART=PERCENT", value);
        }
        MEMORY_OWNED char *part = memory_copy_text(value, name);
        json_object_set_new(weights, part, json_string(value + name + 1));
    }
    if (json_object_size(weights) > 0) {
        json_object_set(body, "weights", weights);
    }
    return 0;
}

int verb_placement_strategy(const struct arguments *arguments, struct error *err)
{
    static const struct column facts[] = {
        {"strategy", "strategy", AS_TEXT},
        {"weights", "weights", AS_TEXT},
        {"said by", "source", AS_TEXT},
    };
    bool is_cluster = flag_value(arguments, "cluster") != NULL;
    bool is_said = arguments->word_count > 0;
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *answer = NULL;
    int r = take_weights(arguments, body, err);
    if (r == 0 && !is_said && json_object_size(body) > 0) {
        return error_set(err, ERROR_INVALID,
                         "say the strategy too: blixard placement strategy "
                         "binpack --weight PART=PERCENT");
    }
    if (r < 0 || !is_said) {
        return r < 0
            ? r
            : print_target(arguments, "/v1/placement/strategy", NULL, facts, COUNT(facts), err);
    }
    const char *strategy = arguments->words[0];
    json_object_set_new(body, "strategy",
                        json_string(strcmp(strategy, nothing) == 0 ? "" : strategy));
    r = request_send("PUT", is_cluster ? "/v1/cluster/placement" : "/v1/placement/strategy", body,
                     &answer, err);
    return r < 0 ? r
                 : print_done(arguments, answer, err, "nodes are scored by %s (%s)",
                              json_text(answer, "strategy"), json_text(answer, "source"));
}

/* ---- Groups ---- */

static const struct column group_facts[] = {
    {"name", "name", AS_TEXT},          {"policy", "policy", AS_TEXT},
    {"rigor", "rigor", AS_TEXT},        {"machines", "machines", AS_TEXT},
    {"created", "created_at", AS_TEXT},
};

int verb_placement_group_create(const struct arguments *arguments, struct error *err)
{
    static const struct payload_flag settings[] = {{"policy", "policy", FLAG_TEXT},
                                                   {"rigor", "rigor", FLAG_TEXT}};
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[0]);
    JSON_OWNED json_t *made = NULL;
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    r = r < 0 ? r : request_send("POST", "/v1/placement-groups", body, &made, err);
    return r < 0
        ? r
        : print_done(arguments, made, err, "placement group %s: %s, %s", arguments->words[0],
                     json_text(made, "policy"), json_text(made, "rigor"));
}

int verb_placement_group_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},
        {"POLICY", "policy", AS_TEXT},
        {"RIGOR", "rigor", AS_TEXT},
        {"MACHINES", "machines", AS_TEXT},
    };
    return print_target(arguments, "/v1/placement-groups", "placement_groups", columns,
                        COUNT(columns), err);
}

int verb_placement_group_show(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *target = request_target("placement-groups", arguments->words[0], "");
    return print_target(arguments, target, NULL, group_facts, COUNT(group_facts), err);
}

int verb_placement_group_delete(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *gone = json_pack("{s:s}", "deleted", arguments->words[0]);
    MEMORY_OWNED char *target = request_target("placement-groups", arguments->words[0], "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    return r < 0
        ? r
        : print_done(arguments, gone, err, "placement group %s is deleted", arguments->words[0]);
}
