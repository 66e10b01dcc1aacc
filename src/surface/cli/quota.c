/* Verbs about quotas of projects. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const struct resource {
    const char *flag;
    const char *field;
    bool is_size;
} resources[] = {
    {"cpus", "cpus", false},
    {"memory", "memory_bytes", true},
    {"disk", "disk_bytes", true},
    {"machines", "machines", false},
    {"functions", "functions", false},
    {"devices", "devices", false},
    {"requests-per-second", "requests_per_second", false},
    {"instances", "instances", false},
};

/* What is not given stays as it was; "none" is no limit. */
static int take_flag(const struct arguments *arguments, const struct resource *resource,
                     json_t *body, struct error *err)
{
    const char *text = flag_value(arguments, resource->flag);
    uint64_t value = 0;
    if (text == NULL) {
        return 0;
    }
    if (strcmp(text, "none") == 0) {
        json_object_set_new(body, resource->field, json_null());
        return 0;
    }
    bool is_good = resource->is_size ? text_parse_size(text, &value)
                                     : text_parse_u64(text_of(text, strlen(text)), &value);
    if (!is_good || value > INT64_MAX) {
        return error_set(err, ERROR_INVALID, "--%s %.40s is no %s, and not none", resource->flag,
                         text, resource->is_size ? "size, as 16GiB" : "number");
    }
    json_object_set_new(body, resource->field, json_integer((json_int_t)value));
    return 0;
}

int verb_quota_set(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *quota = NULL;
    MEMORY_OWNED char *target = request_target("quotas", arguments->words[0], "");
    int r = 0;
    for (size_t i = 0; i < COUNT(resources) && r == 0; i++) {
        r = take_flag(arguments, &resources[i], body, err);
    }
    r = r < 0 ? r : request_send("PATCH", target, body, &quota, err);
    return r < 0 ? r
                 : print_done(arguments, quota, err,
                              "project %s has its quota: blixard quota show "
                              "%s",
                              arguments->words[0], arguments->words[0]);
}

static void print_amount(const struct resource *resource, const json_t *value, const char *none)
{
    uint64_t amount = (uint64_t)json_integer_value(value);
    if (!json_is_integer(value)) {
        printf("  %14s", none);
    } else if (resource->is_size) {
        char size[TEXT_SIZE_MAX];
        printf("  %14s", text_write_size(amount, size));
    } else {
        printf("  %14" PRIu64, amount);
    }
}

int verb_quota_show(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *quota = NULL;
    enum output output = OUTPUT_TABLE;
    MEMORY_OWNED char *target = request_target("quotas", arguments->words[0], "");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &quota, err);
    if (r < 0 || output != OUTPUT_TABLE) {
        if (r == 0) {
            print_document(quota, output);
        }
        return r;
    }
    static const char here[] = "instances_here"; /* the last row's, of the node that answers */
    const json_t *used = json_object_get(quota, "used");
    printf("%-20s  %14s  %14s\n", "RESOURCE", "USED", "LIMIT");
    for (size_t i = 0; i < COUNT(resources); i++) {
        const json_t *amount = json_object_get(used, resources[i].field);
        printf("%-20s", resources[i].flag);
        print_amount(&resources[i], amount, "-");
        print_amount(&resources[i], json_object_get(quota, resources[i].field), "none");
        putchar('\n');
    }
    printf("%-20s", "  on this node");
    print_amount(&resources[COUNT(resources) - 1], json_object_get(used, here), "-");
    print_amount(&resources[COUNT(resources) - 1], json_object_get(quota, here), "none");
    putchar('\n');
    return 0;
}

int verb_quota_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"PROJECT", "name", AS_TEXT},         {"CPUS", "cpus", AS_TEXT},
        {"MEMORY", "memory_bytes", AS_BYTES}, {"DISK", "disk_bytes", AS_BYTES},
        {"MACHINES", "machines", AS_TEXT},    {"FUNCTIONS", "functions", AS_TEXT},
        {"DEVICES", "devices", AS_TEXT},      {"REQUESTS/S", "requests_per_second", AS_TEXT},
        {"INSTANCES", "instances", AS_TEXT},
    };
    return print_target(arguments, "/v1/quotas", "quotas", columns, COUNT(columns), err);
}

int verb_quota_delete(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *target = request_target("quotas", arguments->words[0], "");
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", arguments->words[0]);
    int r = request_json("DELETE", target, NULL, NULL, err);
    return r < 0 ? r
                 : print_done(arguments, document, err, "project %s has no quota any more",
                              arguments->words[0]);
}
