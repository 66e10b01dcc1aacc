/* Verbs about what becomes of nodes: cordons, taints, pools; and what a node has. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

/* ---- What it has ---- */

static uint64_t number(const json_t *node, const char *part, const char *field)
{
    return json_u64(json_object_get(node, part), field);
}

void node_add_use(const json_t *node, json_t *row)
{
    uint64_t cpus = number(node, "attributes", "cpus");
    uint64_t memory = number(node, "attributes", "memory_bytes");
    MEMORY_OWNED char *cpu = cpus == 0
        ? memory_copy_string("-")
        : memory_format("%" PRIu64 "/%" PRIu64, number(node, "allocated", "cpus"), cpus);
    MEMORY_OWNED char *use = memory == 0
        ? memory_copy_string("-")
        : memory_format("%.1f/%.1f GiB",
                        (double)number(node, "allocated", "memory_bytes") / (1 << 30),
                        (double)memory / (1 << 30));
    json_object_set_new(row, "cpu_use", json_string(cpu));
    json_object_set_new(row, "memory_use", json_string(use));
    json_object_set_new(row, "machines",
                        json_integer((json_int_t)number(node, "allocated", "machines")));
}

static void print_line(const char *name, const char *owned_text)
{
    MEMORY_OWNED char *text = (char *)(uintptr_t)owned_text;
    print_fact(name, text);
}

static uint64_t count_of(const json_t *counts, const char *name)
{
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(counts, index, item)
    {
        if (strcmp(json_text(item, "name"), name) == 0) {
            return json_u64(item, "count");
        }
    }
    return 0;
}

static void print_counts(const char *name, const json_t *counts)
{
    BUFFER_OWNED struct buffer text = {0};
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(counts, index, item)
    {
        if (json_u64(item, "count") > 0) {
            buffer_append_format(&text, "%s%s %" PRIu64, text.used > 0 ? ", " : "",
                                 json_text(item, "name"), json_u64(item, "count"));
        }
    }
    if (text.used > 0) {
        print_line(name, memory_copy_string(buffer_string(&text)));
    }
}

/* "2048kB 64, 3 of others, 32 allocated" */
static void print_pages(const char *name, const json_t *pages, const json_t *allocated)
{
    BUFFER_OWNED struct buffer text = {0};
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(pages, index, item)
    {
        uint64_t count = json_u64(item, "count");
        uint64_t others = json_u64(item, "others");
        uint64_t given = count_of(allocated, json_text(item, "name"));
        if (count > 0 || given > 0) {
            buffer_append_format(&text, "%s%s %" PRIu64, text.used > 0 ? "; " : "",
                                 json_text(item, "name"), count);
        }
        if (others > 0) {
            buffer_append_format(&text, ", %" PRIu64 " of others", others);
        }
        if (given > 0) {
            buffer_append_format(&text, ", %" PRIu64 " allocated", given);
        }
    }
    if (text.used > 0) {
        print_line(name, memory_copy_string(buffer_string(&text)));
    }
}

static void print_size(const char *name, const json_t *node, const char *field)
{
    uint64_t has = number(node, "attributes", field);
    const json_t *reserved = json_object_get(json_object_get(node, "attributes"), "reserved");
    if (has > 0) {
        print_line(name,
                   memory_format("%.1f GiB, %.1f reserved, %.1f allocated", (double)has / (1 << 30),
                                 (double)json_u64(reserved, field) / (1 << 30),
                                 (double)number(node, "allocated", field) / (1 << 30)));
    }
}

static void print_drivers(const json_t *drivers)
{
    size_t index = 0;
    json_t *driver = NULL;
    json_array_foreach(drivers, index, driver)
    {
        print_line("driver",
                   memory_format("%s %s, %s%s", json_text(driver, "name"),
                                 json_text(driver, "version"), json_text(driver, "accelerator"),
                                 json_is_true(json_object_get(driver, "live_migration"))
                                     ? ", machines move while they run"
                                     : ""));
    }
}

/* A label goes before the option. */
static void print_topology(const json_t *node)
{
    static const char *const parts[] = {"region", "zone", "rack"};
    const json_t *topology = json_object_get(json_object_get(node, "attributes"), "topology");
    BUFFER_OWNED struct buffer text = {0};
    for (size_t i = 0; i < 3; i++) {
        const char *label = json_text(json_object_get(node, "labels"), parts[i]);
        const char *value = label[0] != '\0' ? label : json_text(topology, parts[i]);
        if (value[0] != '\0') {
            buffer_append_format(&text, "%s%s %s", text.used > 0 ? ", " : "", parts[i], value);
        }
    }
    if (text.used > 0) {
        print_line("topology", memory_copy_string(buffer_string(&text)));
    }
}

static void print_taints(const json_t *taints)
{
    size_t index = 0;
    json_t *taint = NULL;
    json_array_foreach(taints, index, taint)
    {
        const char *value = json_text(taint, "value");
        print_line("taint",
                   memory_format("%s%s%s:%s", json_text(taint, "key"), value[0] != '\0' ? "=" : "",
                                 value, json_text(taint, "effect")));
    }
}

/* "kernel: opens 2026-11-29T02:00:00.000Z, closes ..., 0 2 * * SUN Europe/Berlin" */
static void print_windows(const json_t *node)
{
    const json_t *drain = json_object_get(node, "drain");
    size_t index = 0;
    json_t *window = NULL;
    json_array_foreach(json_object_get(node, "windows"), index, window)
    {
        const char *problem = json_text(window, "problem");
        print_line("maintenance",
                   memory_format("%s: %s, opens %s, closes %s, %s %s%s%s",
                                 json_text(window, "name"), json_text(window, "state"),
                                 json_text(window, "opens_at"), json_text(window, "closes_at"),
                                 json_text(window, "schedule"), json_text(window, "zone"),
                                 problem[0] != '\0' ? "; " : "", problem));
    }
    if (json_text(drain, "window")[0] != '\0') {
        print_line("drained for", memory_format("window %s", json_text(drain, "window")));
    }
}

static void print_load(const json_t *load)
{
    if (load != NULL) {
        print_line("calls",
                   memory_format("%" PRIu64 " run, %" PRIu64 " wait", json_u64(load, "running"),
                                 json_u64(load, "waiting")));
    }
}

/* "0: CPUs 0-3, of which 2-3 are nobody's own; 16.0 GiB, of which 12.0 are not bound" */
static void print_numa(const json_t *node)
{
    const json_t *free_of = json_object_get(json_object_get(node, "allocated"), "numa");
    size_t index = 0;
    json_t *numa = NULL;
    json_array_foreach(json_object_get(json_object_get(node, "attributes"), "numa"), index, numa)
    {
        const json_t *left = json_array_get(free_of, index);
        const char *cpus = json_text(left, "cpus");
        MEMORY_OWNED char *name = memory_format("numa %" PRIu64, json_u64(numa, "number"));
        print_line(
            name,
            memory_format("CPUs %s, free %s; memory %.1f GiB, free %.1f",
                          json_text(numa, "cpus")[0] != '\0' ? json_text(numa, "cpus") : "none",
                          cpus[0] != '\0' ? cpus : "none",
                          (double)json_u64(numa, "memory_bytes") / (1 << 30),
                          (double)json_u64(left, "memory_bytes") / (1 << 30)));
        print_counts("  hugepages", json_object_get(numa, "hugepages"));
    }
}

static const char *owner_of(const json_t *node, const char *address)
{
    size_t index = 0;
    json_t *device = NULL;
    json_array_foreach(json_object_get(json_object_get(node, "allocated"), "devices"), index,
                       device)
    {
        if (strcmp(json_text(device, "address"), address) == 0) {
            return json_text(device, "machine");
        }
    }
    return NULL;
}

static void append_pci(const json_t *device, struct buffer *text)
{
    const json_t *together = json_object_get(device, "together");
    const char *parent = json_text(device, "function_of");
    buffer_append_format(text, ", IOMMU group %s", json_text(device, "iommu_group"));
    if (json_object_get(device, "numa") != NULL) {
        buffer_append_format(text, ", NUMA node %" PRIu64, json_u64(device, "numa"));
    }
    if (parent[0] != '\0') {
        buffer_append_format(text, ", function of %s", parent);
    }
    for (size_t i = 0; i < json_array_size(together); i++) {
        buffer_append_format(text, "%s%s", i == 0 ? ", with " : " ",
                             json_string_value(json_array_get(together, i)));
    }
}

static void append_usb(const json_t *device, struct buffer *text)
{
    const char *name = json_text(device, "name");
    const char *serial = json_text(device, "serial");
    buffer_append_format(text, "%s%s%s%s", name[0] != '\0' ? ", " : "", name,
                         serial[0] != '\0' ? ", serial number " : "", serial);
}

/* "0000:01:00.0  gpu 10de:2204, IOMMU group 7, NUMA node 0, with 0000:01:00.1: free"
 * "usb:1-2.3  usb:serial usb:0403:6001, FTDI FT232R, serial number A50285BI: free" */
static void print_passed(const json_t *node, const json_t *device)
{
    BUFFER_OWNED struct buffer text = {0};
    const char *problem = json_text(device, "problem");
    const char *owner = owner_of(node, json_text(device, "address"));
    bool is_pci = json_object_get(device, "iommu_group") != NULL;
    buffer_append_format(&text, "%s %s", json_text(device, "class"), json_text(device, "model"));
    (is_pci ? append_pci : append_usb)(device, &text);
    buffer_append_format(&text, ": %s%s", owner != NULL ? "of machine " : "",
                         owner != NULL            ? owner
                             : problem[0] != '\0' ? problem
                                                  : "free");
    if (owner != NULL && problem[0] != '\0') {
        buffer_append_format(&text, ", which %s: %s",
                             is_pci ? "cannot start with it" : "does not get it", problem);
    }
    print_line(json_text(device, "address"), memory_copy_string(buffer_string(&text)));
}

static bool has_passed(const json_t *node, const char *address)
{
    bool has = false;
    size_t index = 0;
    json_t *device = NULL;
    json_array_foreach(json_object_get(json_object_get(node, "attributes"), "passthrough"), index,
                       device)
    {
        has = has || strcmp(json_text(device, "address"), address) == 0;
    }
    return has;
}

/* What a machine has and that was taken out is its own still. */
static void print_passthrough(const json_t *node)
{
    size_t index = 0;
    json_t *device = NULL;
    json_array_foreach(json_object_get(json_object_get(node, "attributes"), "passthrough"), index,
                       device)
    {
        print_passed(node, device);
    }
    json_array_foreach(json_object_get(json_object_get(node, "allocated"), "devices"), index,
                       device)
    {
        if (!has_passed(node, json_text(device, "address"))) {
            print_line(
                json_text(device, "address"),
                memory_format("of machine %s, and not there now", json_text(device, "machine")));
        }
    }
}

void node_print_attributes(const json_t *node)
{
    const json_t *has = json_object_get(node, "attributes");
    const json_t *over = json_object_get(has, "overcommit");
    if (json_text(node, "held_for")[0] != '\0') {
        print_line("held for",
                   memory_format("machine %s, which waits", json_text(node, "held_for")));
    }
    print_taints(json_object_get(node, "taints"));
    print_topology(node);
    print_windows(node);
    print_load(json_object_get(node, "load"));
    if (json_u64(has, "cpus") == 0) {
        return;
    }
    print_line("cpus",
               memory_format("%" PRIu64 ", %zu NUMA node%s, %" PRIu64 " allocated",
                             json_u64(has, "cpus"), json_array_size(json_object_get(has, "numa")),
                             json_array_size(json_object_get(has, "numa")) == 1 ? "" : "s",
                             number(node, "allocated", "cpus")));
    print_numa(node);
    print_size("memory", node, "memory_bytes");
    print_size("disk", node, "disk_bytes");
    print_line("overcommit",
               memory_format("cpu %" PRIu64 " %%, memory %" PRIu64 " %%, disk %" PRIu64 " %%",
                             json_u64(over, "cpu_percent"), json_u64(over, "memory_percent"),
                             json_u64(over, "disk_percent")));
    print_pages("hugepages", json_object_get(has, "hugepages"),
                json_object_get(json_object_get(node, "allocated"), "hugepages"));
    print_counts("devices", json_object_get(has, "devices"));
    print_passthrough(node);
    print_line("system",
               memory_format("%s, Linux %s, KVM %s", json_text(has, "architecture"),
                             json_text(has, "kernel"), json_text(has, "kvm")));
    print_drivers(json_object_get(has, "drivers"));
    print_line("machines",
               memory_format("%" PRIu64 ", %" PRIu64 " of them are to run",
                             number(node, "allocated", "machines"),
                             number(node, "allocated", "running")));
}

/* ---- Verbs ---- */

int verb_node_pool(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    MEMORY_OWNED char *target = request_target("nodes", name, "");
    JSON_OWNED json_t *body = json_pack("{s:s}", "pool", arguments->words[1]);
    JSON_OWNED json_t *node = NULL;
    int r = request_send("PATCH", target, body, &node, err);
    return r < 0
        ? r
        : print_done(arguments, node, err, "%s is in pool %s", name, json_text(node, "pool"));
}

static int act(const struct arguments *arguments, const char *what, const char *text,
               struct error *err)
{
    const char *name = arguments->words[0];
    MEMORY_OWNED char *target = request_target("nodes", name, what);
    JSON_OWNED json_t *node = NULL;
    int r = request_json("POST", target, NULL, &node, err);
    return r < 0 ? r : print_done(arguments, node, err, "%s %s", name, text);
}

int verb_node_cordon(const struct arguments *arguments, struct error *err)
{
    return act(arguments, "/cordon", "takes nothing new; what it has stays", err);
}

int verb_node_uncordon(const struct arguments *arguments, struct error *err)
{
    return act(arguments, "/uncordon", "takes new work again", err);
}

/* KEY[=VALUE]:EFFECT, or KEY-. */
struct taint {
    char *key;
    char *value;        /* "" */
    const char *effect; /* NULL: take it off */
};

static void taint_done(struct taint *taint)
{
    free(taint->key);
    free(taint->value);
}

static int split_taint(const char *word, struct taint *taint, struct error *err)
{
    size_t length = strlen(word);
    const char *colon = strrchr(word, ':');
    const char *equals = colon != NULL ? memchr(word, '=', (size_t)(colon - word)) : NULL;
    const char *end = equals != NULL ? equals : colon;
    if (colon == NULL && length > 1 && word[length - 1] == '-') {
        end = word + length - 1;
    }
    if (end == NULL || end == word) {
        return error_set(err, ERROR_INVALID,
                         "\"%.60s\" is neither KEY[=VALUE]:EFFECT (put on) nor KEY- (take off)",
                         word);
    }
    taint->key = memory_copy_text(word, (size_t)(end - word));
    taint->value = memory_copy_text(equals != NULL ? equals + 1 : "",
                                    equals != NULL ? (size_t)(colon - equals) - 1 : 0);
    taint->effect = colon != NULL ? colon + 1 : NULL;
    return 0;
}

static int change_taint(const char *name, const char *word, bool is_try, struct error *err)
{
    struct taint taint = {0};
    int r = split_taint(word, &taint, err);
    if (r == 0 && !is_try) {
        BUFFER_OWNED struct buffer rest = {0};
        buffer_append_string(&rest, "/taints/");
        http_percent_encode(&rest, text_of(taint.key, strlen(taint.key)));
        MEMORY_OWNED char *target = request_target("nodes", name, buffer_string(&rest));
        JSON_OWNED json_t *body = taint.effect == NULL
            ? NULL
            : json_pack("{s:s, s:s}", "value", taint.value, "effect", taint.effect);
        r = body == NULL ? request_json("DELETE", target, NULL, NULL, err)
                         : request_send("PUT", target, body, NULL, err);
    }
    taint_done(&taint);
    return r;
}

int verb_node_taint(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    int r = 0;
    for (unsigned i = 1; i < arguments->word_count && r == 0; i++) {
        r = change_taint(name, arguments->words[i], true, err); /* before any is changed */
    }
    for (unsigned i = 1; i < arguments->word_count && r == 0; i++) {
        r = change_taint(name, arguments->words[i], false, err);
    }
    JSON_OWNED json_t *node = NULL;
    MEMORY_OWNED char *target = request_target("nodes", name, "");
    r = r < 0 ? r : request_json("GET", target, NULL, &node, err);
    return r < 0 ? r : print_done(arguments, node, err, "taints of %s are changed", name);
}

/* ---- Drains ---- */

static int make_drain(const struct arguments *arguments, json_t *body, struct error *err)
{
    const char *deadline = flag_value(arguments, "deadline");
    const char *parallel = flag_value(arguments, "parallel");
    uint64_t number = 0;
    json_t *ignore = json_array();
    json_object_set_new(body, "ignore", ignore);
    if (deadline != NULL && (!text_parse_duration_ms(deadline, &number) || number == 0)) {
        return error_set(err, ERROR_INVALID, "--deadline is a time such as 10m, not \"%.40s\"",
                         deadline);
    }
    if (deadline != NULL) {
        json_object_set_new(body, "deadline_ms", json_integer((json_int_t)number));
    }
    if (parallel != NULL &&
        (!text_parse_u64(text_of(parallel, strlen(parallel)), &number) || number == 0 ||
         number > INT64_MAX)) {
        return error_set(err, ERROR_INVALID, "--parallel is a number, not \"%.40s\"", parallel);
    }
    if (parallel != NULL) {
        json_object_set_new(body, "parallel", json_integer((json_int_t)number));
    }
    if (flag_value(arguments, "force") != NULL) {
        json_object_set_new(body, "force", json_true());
    }
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        if (strcmp(arguments->flags[i].name, "ignore") == 0) {
            json_array_append_new(ignore, json_string(arguments->flags[i].value));
        }
    }
    return 0;
}

/* Until its operation has ended, unless --no-wait; then the node as it is. */
static int begin(const struct arguments *arguments, const char *what, const json_t *body,
                 const char *text, struct error *err)
{
    const char *name = arguments->words[0];
    JSON_OWNED json_t *reference = NULL;
    JSON_OWNED json_t *node = NULL;
    JSON_OWNED json_t *ended = NULL;
    MEMORY_OWNED char *target = request_target("nodes", name, what);
    MEMORY_OWNED char *one = request_target("nodes", name, "");
    int r = request_send("POST", target, body, &reference, err);
    const char *operation = json_string_value(json_object_get(reference, "operation"));
    if (r == 0 && operation == NULL) {
        return error_set(err, ERROR_PROTOCOL, "the answer names no operation");
    }
    if (r == 0 && flag_value(arguments, "no-wait") != NULL) {
        return print_done(arguments, reference, err, "%s", operation);
    }
    r = r < 0 ? r : operation_wait_for(operation, &ended, err);
    r = r < 0 ? r : request_json("GET", one, NULL, &node, err);
    return r < 0 ? r : print_done(arguments, node, err, "node %s %s", name, text);
}

static int restore(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    if (flag_value(arguments, "stay") != NULL) {
        json_object_set_new(body, "stay", json_true());
    }
    return begin(arguments, "/restore", body, "takes work again", err);
}

int verb_node_drain(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    if (flag_value(arguments, "disable") != NULL) {
        return restore(arguments, err);
    }
    int r = make_drain(arguments, body, err);
    return r < 0 ? r
                 : begin(arguments, "/drain", body,
                         "is drained: blixard node restore brings back what has left", err);
}

int verb_node_restore(const struct arguments *arguments, struct error *err)
{
    return restore(arguments, err);
}

/* ---- Rebalancing ---- */

static int take_count(const struct arguments *arguments, const char *flag, const char *field,
                      json_t *body, struct error *err)
{
    const char *text = flag_value(arguments, flag);
    uint64_t number = 0;
    if (text != NULL &&
        (!text_parse_u64(text_of(text, strlen(text)), &number) || number == 0 ||
         number > INT32_MAX)) {
        return error_set(err, ERROR_INVALID, "--%s is a number, not \"%.40s\"", flag, text);
    }
    if (text != NULL) {
        json_object_set_new(body, field, json_integer((json_int_t)number));
    }
    return 0;
}

static void print_plan(const json_t *plan)
{
    static const struct column columns[] = {
        {"MACHINE", "machine", AS_TEXT},
        {"FROM", "from", AS_TEXT},
        {"TO", "to", AS_TEXT},
        {"WHY", "reason", AS_TEXT},
    };
    if (json_array_size(json_object_get(plan, "moves")) > 0) {
        print_table(json_object_get(plan, "moves"), columns,
                    (unsigned)(sizeof(columns) / sizeof(columns[0])));
    }
    printf("%s", json_text(plan, "reason"));
    if (json_array_size(json_object_get(plan, "moves")) > 0) {
        printf(" (the fullest and the emptiest node differ by %.0f %%, then by %.0f %%)",
               100 * json_number_value(json_object_get(plan, "spread_before")),
               100 * json_number_value(json_object_get(plan, "spread_after")));
    }
    printf("\n");
    size_t index = 0;
    json_t *rest = NULL;
    json_array_foreach(json_object_get(plan, "resting"), index, rest)
    {
        printf("%s moved at %s, and rests until %s\n", json_text(rest, "machine"),
               json_text(rest, "moved_at"), json_text(rest, "rests_until"));
    }
}

int verb_cluster_rebalance(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *plan = NULL;
    enum output output = OUTPUT_TABLE;
    if (flag_value(arguments, "dry-run") != NULL) {
        json_object_set_new(body, "dry_run", json_true());
    }
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : take_count(arguments, "threshold", "threshold_percent", body, err);
    r = r < 0 ? r : take_count(arguments, "batch", "batch", body, err);
    r = r < 0 ? r : request_send("POST", "/v1/cluster/rebalance", body, &plan, err);
    if (r < 0) {
        return r;
    }
    if (output == OUTPUT_TABLE) {
        print_plan(plan);
        print_flush();
    } else {
        print_document(plan, output);
    }
    const char *operation = json_text(plan, "operation");
    return operation[0] == '\0' || flag_value(arguments, "no-wait") != NULL
        ? 0
        : operation_wait_for(operation, NULL, err);
}
