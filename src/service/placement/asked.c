/* A machine's settings as a request to the engine. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/machine/machine.h"
#include "service/placement/parts.h"
#include "service/replica/replica.h"

enum { MILLI = 1000 };
#define IMAGE_BYTES (UINT64_C(256) << 20) /* of one whose size is not known */

void asked_base_name(const char *name, char out[64])
{
    size_t length = strlen(name);
    size_t end = length;
    while (end > 0 && isdigit((unsigned char)name[end - 1])) {
        end--;
    }
    bool is_numbered = end < length && end > 1 && name[end - 1] == '-';
    snprintf(out, 64, "%.*s", (int)(is_numbered ? end - 1 : length), name);
}

char *asked_reservation_id(const char *project, const char *name)
{
    return memory_format("reservation/%s/%s", project, name);
}

/* ---- What it asks of its node ---- */

static void add_line(json_t *rules, const char *format, const char *value)
{
    json_t *constraints = json_object_get(rules, "constraints");
    MEMORY_OWNED char *line = memory_format("%s%s", format, value);
    if (constraints == NULL) {
        constraints = json_array();
        json_object_set_new(rules, "constraints", constraints);
    }
    json_array_append_new(constraints, json_string(line));
}

/* A machine runs where its volumes are. */
static int add_volumes(struct placement_service *service, const struct asked_of *of, json_t *rules,
                       struct error *err)
{
    size_t index = 0;
    json_t *text = NULL;
    json_array_foreach(json_object_get(of->config, "volumes"), index, text)
    {
        MEMORY_OWNED char *node = NULL;
        const char *use = json_string_value(text);
        MEMORY_OWNED char *name = memory_copy_text(use, strcspn(use, ":"));
        MEMORY_OWNED char *key = memory_format("%s/%s", of->project, name);
        int r = store_query(service->options.store, err, store_take_text, &node,
                            "SELECT node FROM volume WHERE key = ?", "t", key);
        if (r < 0) {
            return r;
        }
        if (node == NULL) {
            return error_set(err, ERROR_NOT_FOUND,
                             "there is no volume %.64s in project %s; see `blixard volume list`",
                             name, of->project);
        }
        add_line(rules, "${node.name} = ", node);
    }
    return 0;
}

static int add_attached(struct placement_service *service, const struct asked_of *of, json_t *rules,
                        struct error *err)
{
    MEMORY_OWNED char *node = NULL;
    int r = store_query(service->options.store, err, store_take_text, &node,
                        "SELECT node FROM volume WHERE project = ? AND machine = ? LIMIT 1", "tt",
                        of->project, of->name);
    if (r == 0 && node != NULL) {
        add_line(rules, "${node.name} = ", node);
    }
    return r;
}

/* That it was made for the very node which it has to leave, or has left and goes back to some day,
 * is no reason to stop there. */
static void drop_own_node(json_t *rules, const char *node)
{
    json_t *constraints = json_object_get(rules, "constraints");
    MEMORY_OWNED char *line = memory_format("${node.name} = %s", node);
    for (size_t i = json_array_size(constraints); i > 0; i--) {
        if (strcmp(json_string_value(json_array_get(constraints, i - 1)), line) == 0) {
            json_array_remove(constraints, i - 1);
        }
    }
}

static int read_rules(struct asked *asked, struct placement_service *service,
                      const struct asked_of *of, struct error *err)
{
    JSON_OWNED json_t *rules = machine_config_rules(of->config);
    const char *driver = json_text(of->config, "driver");
    devices_ask(asked, service, of, of->is_only_counted ? NULL : rules);
    if (of->is_only_counted) {
        return placement_rules_read(rules, &asked->request.rules, err);
    }
    if (of->bound != NULL) {
        add_line(rules, "${node.name} = ", of->bound);
    }
    if (driver[0] != '\0') {
        add_line(rules, "${attr.drivers} set_contains ", driver);
    } else {
        add_line(rules, "${attr.drivers} != ", "none");
    }
    if (of->leaves != NULL) {
        drop_own_node(rules, of->leaves);
        drop_own_node(rules, of->home);
        add_line(rules, "${node.name} != ", of->leaves);
        return placement_rules_read(rules, &asked->request.rules, err);
    }
    int r = add_volumes(service, of, rules, err);
    r = r < 0 || of->id == NULL ? r : add_attached(service, of, rules, err);
    return r < 0 ? r : placement_rules_read(rules, &asked->request.rules, err);
}

/* ---- What it takes of it ---- */

static uint16_t port_of(const char *publish)
{
    const char *last = strrchr(publish, ':');
    const char *first = last;
    while (first != NULL && first > publish && first[-1] != ':') {
        first--;
    }
    return first != NULL ? (uint16_t)strtoul(first, NULL, 10) : 0;
}

static void take_demand(struct asked *asked, const struct asked_of *of)
{
    struct placement_demand *demand = &asked->request.demand;
    uint64_t cpus = json_u64(of->config, "cpus");
    size_t index = 0;
    json_t *publish = NULL;
    demand->amounts.of[PLACEMENT_DISK] = json_u64(of->config, "disk_bytes");
    if (of->is_idle) { /* its devices are its own as well */
        return;
    }
    uint64_t memory_bytes = json_u64(of->config, "memory_bytes");
    uint64_t page_bytes = machine_config_page_bytes(of->config);
    if (page_bytes == 0) {
        demand->amounts.of[PLACEMENT_MEMORY] = memory_bytes;
    } else if (page_bytes == PLACEMENT_PAGE_2M) {
        demand->amounts.of[PLACEMENT_HUGE_2M] = memory_bytes / page_bytes;
    } else {
        demand->amounts.of[PLACEMENT_HUGE_1G] = memory_bytes / page_bytes;
    }
    if (json_is_true(json_object_get(of->config, "dedicated_cpus"))) {
        demand->dedicated_cores = (uint32_t)cpus;
        demand->numa = PLACEMENT_NUMA_PREFERRED;
    } else {
        demand->amounts.of[PLACEMENT_CPU_MILLI] = cpus * MILLI;
    }
    json_array_foreach(json_object_get(of->config, "publish"), index, publish)
    {
        uint16_t port = port_of(json_string_value(publish));
        for (size_t i = 0; i < demand->port_count; i++) {
            port = asked->ports[i] == port ? 0 : port; /* TCP and UDP, or two addresses */
        }
        if (port != 0 && demand->port_count < PLACEMENT_PORTS_MAX) {
            asked->ports[demand->port_count++] = port;
        }
    }
    demand->ports = asked->ports;
}

/* ---- Where its data is ---- */

struct hinting {
    struct placement_service *service;
    struct asked *asked;
    uint64_t bytes;
    char *first; /* who has it, of those that say so */
    bool is_reached;
};

/* Enough is known when there is no room for more, and one of them answers. */
static bool add_hint(const char *node, void *context)
{
    struct hinting *hinting = context;
    struct placement_request *request = &hinting->asked->request;
    size_t at = request->hint_count;
    struct placement_usage usage;
    struct error ignored;
    bool is_there = placement_cluster_usage(hinting->service->cluster, node, &usage, &ignored) == 0;
    hinting->is_reached = hinting->is_reached || (is_there && usage.is_ready);
    if (hinting->first == NULL) {
        hinting->first = memory_copy_string(node);
    }
    if (is_there && at < PLACEMENT_HINTED_MAX) {
        snprintf(hinting->asked->hinted[at], sizeof(hinting->asked->hinted[at]), "%s", node);
        hinting->asked->hints[at] =
            (struct placement_hint){.node = hinting->asked->hinted[at], .bytes = hinting->bytes};
        request->hint_count++;
    }
    return request->hint_count < PLACEMENT_HINTED_MAX || !hinting->is_reached;
}

/* Of an image that was imported a moment ago nobody has said yet that he has it: who imported it
 * does.  One that only nodes have which do not answer can start nowhere. */
static int take_hints(struct asked *asked, struct placement_service *service,
                      const struct asked_of *of, struct error *err)
{
    uint64_t bytes = json_u64(of->config, "disk_size_bytes");
    const char *name = json_text(of->config, "image");
    const char *blob = replica_main(of->config);
    struct hinting hinting = {service, asked, bytes > 0 ? bytes : IMAGE_BYTES, NULL, false};
    int r = 0;
    asked->request.hints = asked->hints;
    replica_each(service->options.store, blob, add_hint, &hinting);
    if (hinting.first == NULL && name[0] != '\0') {
        MEMORY_OWNED char *key = memory_format("%s/%s", of->project, name);
        MEMORY_OWNED char *importer = NULL;
        r = store_query(service->options.store, err, store_take_text, &importer,
                        "SELECT node FROM machine_image WHERE key = ?", "t", key);
        if (importer != NULL) {
            add_hint(importer, &hinting);
        }
    }
    if (r == 0 && hinting.first != NULL && !hinting.is_reached && of->bound == NULL) {
        snprintf(asked->away, sizeof(asked->away),
                 "its image %.64s is on no node that answers: node %.64s has it, and is away", name,
                 hinting.first);
        r = of->is_explained ? 0 : error_set(err, ERROR_UNAVAILABLE, "%s", asked->away);
    }
    free(hinting.first);
    return r;
}

/* ---- Whom it is together with ---- */

static int take_group(struct asked *asked, struct placement_service *service,
                      const struct asked_of *of, struct error *err)
{
    const char *group = json_text(of->config, "placement_group");
    char base[64];
    asked_base_name(of->name, base);
    snprintf(asked->job, sizeof(asked->job), "%s/%s%s", of->project,
             group[0] != '\0' ? "group/" : "", group[0] != '\0' ? group : base);
    asked->request.job = asked->job;
    if (group[0] == '\0') {
        return 0;
    }
    snprintf(asked->group, sizeof(asked->group), "%s/%s", of->project, group);
    int r = group_find(service, of->project, group, &asked->request.group, err);
    asked->request.group.name = asked->group;
    return r;
}

static int take_reservation(struct asked *asked, struct placement_service *service,
                            const struct asked_of *of, struct error *err)
{
    const char *name = json_text(of->config, "reservation");
    MEMORY_OWNED char *node = NULL;
    MEMORY_OWNED char *key = memory_format("%s/%s", of->project, name);
    if (name[0] == '\0') {
        return 0;
    }
    int r = store_query(service->options.store, err, store_take_text, &node,
                        "SELECT node FROM placement_reservation WHERE key = ? AND expires_ms > ?",
                        "tu", key, clock_real_ms());
    if (r == 0 && node != NULL) {
        snprintf(asked->reservation, sizeof(asked->reservation), "reservation/%s", key);
        asked->request.reservation = asked->reservation;
    }
    return r; /* one that has expired keeps nothing */
}

void asked_talks(const struct traffic_peer *peers, size_t count, struct placement_talk *ret_talks)
{
    for (size_t i = 0; i < count; i++) {
        ret_talks[i] = (struct placement_talk){
            .with = peers[i].kind == TRAFFIC_MACHINE ? peers[i].id : NULL,
            .node = peers[i].kind == TRAFFIC_NODE ? peers[i].id : NULL,
            .bytes_per_second = peers[i].bytes_per_second,
        };
    }
}

static void take_talks(struct asked *asked, struct placement_service *service, const char *id)
{
    size_t count = traffic_of_machine(service->options.store, id, asked->peers);
    asked_talks(asked->peers, count, asked->talks);
    asked->request.talks = asked->talks;
    asked->request.talk_count = count;
}

int asked_init(struct asked *asked, struct placement_service *service, const struct asked_of *of,
               struct error *err)
{
    *asked = (struct asked){0};
    const json_t *priority = json_object_get(of->config, "priority");
    snprintf(asked->id, sizeof(asked->id), "%s", of->id != NULL ? of->id : of->name);
    asked->request.id = asked->id;
    asked->request.priority =
        priority != NULL ? (uint32_t)json_integer_value(priority) : PLACEMENT_PRIORITY_DEFAULT;
    asked->request.may_displace = service->options.displaced_max > 0;
    asked->request.is_displaceable = !of->is_idle;
    asked->request.may_be_moved = true;
    take_demand(asked, of);
    if (of->id != NULL) {
        take_talks(asked, service, of->id);
    }
    int r = read_rules(asked, service, of, err);
    if (r == 0 && service_is_known(service)) {
        r = take_group(asked, service, of, err);
        if (r < 0 && of->is_only_counted) { /* a group that is gone holds nobody */
            *err = (struct error){0};
            r = 0;
        }
        r = r < 0 || of->is_only_counted ? r : take_reservation(asked, service, of, err);
    }
    r = r < 0 || of->is_only_counted ? r : take_hints(asked, service, of, err);
    if (r < 0) {
        asked_done(asked);
    }
    return r;
}

void asked_done(struct asked *asked)
{
    placement_rules_unref(asked->request.rules);
    asked->request.rules = NULL;
}
