/* See cluster.h. */
#include "test/unit/engine/placement/cluster.h"

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "test/lib/test.h"

struct placement_decision last;

struct placement_node make_node(const char *id)
{
    return (struct placement_node){
        .id = id,
        .name = id,
        .capacity = {.of = {8000, 32 * GIB, 100 * GIB, 0, 0, 1000, 0}},
        .is_ready = true,
        .is_eligible = true,
    };
}

void add_node(struct placement_cluster *cluster, const struct placement_node *node)
{
    struct error err = {0};
    int r = placement_cluster_set_node(cluster, node, NULL, &err);
    if (r < 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    EXPECT(r == 0);
}

void add_nodes(struct placement_cluster *cluster, size_t count)
{
    static const char *const zones[] = {"a", "b", "c"};
    for (size_t i = 0; i < count; i++) {
        char id[32], rack[32];
        snprintf(id, sizeof(id), "n%zu", i);
        snprintf(rack, sizeof(rack), "r%zu", i / 4);
        struct placement_node node = make_node(id);
        node.zone = zones[i % 3];
        node.rack = rack;
        add_node(cluster, &node);
    }
}

struct placement_request make_request(const char *id)
{
    return (struct placement_request){
        .id = id,
        .demand = {.amounts = {.of = {1000, 2 * GIB, 0, 0, 0, 0, 0}}},
        .priority = PLACEMENT_PRIORITY_DEFAULT,
        .may_displace = true,
        .is_displaceable = true,
        .may_be_moved = true,
    };
}

struct placement_rules *make_rules(const char *json)
{
    struct error err = {0};
    JSON_OWNED json_t *value = NULL;
    EXPECT(json_read(json, strlen(json), &value, &err) == 0);
    struct placement_rules *rules = NULL;
    int r = placement_rules_read(value, &rules, &err);
    if (r < 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    EXPECT(r == 0);
    return rules;
}

const char *refused_rules(const char *json)
{
    static struct error err;
    JSON_OWNED json_t *value = NULL;
    err = (struct error){0};
    EXPECT(json_read(json, strlen(json), &value, &err) == 0);
    struct placement_rules *rules = NULL;
    int r = placement_rules_read(value, &rules, &err);
    if (r == 0) {
        fprintf(stderr, "not refused: %s\n", json);
    }
    EXPECT(r == -ERROR_INVALID || r == -ERROR_LIMIT);
    EXPECT(rules == NULL);
    return err.text;
}

struct placement_options make_options(enum placement_strategy strategy)
{
    struct placement_options options;
    placement_options_init(&options, strategy);
    options.sample_max = 0;
    options.band_percent = 0;
    return options;
}

const char *place_by(struct placement_cluster *cluster, const struct placement_request *request,
                     const struct placement_options *options)
{
    struct error err = {0};
    placement_decision_done(&last);
    int r = placement_decide(cluster, request, options, 0, &last, &err);
    if (r < 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    EXPECT(r == 0);
    if (!last.is_placed) {
        return "";
    }
    r = placement_commit(cluster, request, &last, 0, &err);
    if (r < 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    EXPECT(r == 0);
    EXPECT_STRING(placement_cluster_where(cluster, request->id), last.node);
    return last.node;
}

const char *place(struct placement_cluster *cluster, const struct placement_request *request)
{
    struct placement_options options = make_options(PLACEMENT_BINPACK);
    return place_by(cluster, request, &options);
}

static void complain(const char *text, void *context)
{
    fprintf(stderr, "%s\n", text);
    *(bool *)context = true;
}

void expect_sound(const struct placement_cluster *cluster)
{
    bool is_wrong = false;
    placement_cluster_audit(cluster, complain, &is_wrong);
    EXPECT(!is_wrong);
}
