/*
 * CPUs of machines' own (dedicated_cpus).  The engine says which cores of its node a machine gets;
 * that node alone writes it down (machine_cpus), so that a machine keeps them when the daemon
 * begins anew, and tells its machines: who has its own runs on these, all others on the rest.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/machine/machine.h"
#include "service/placement/parts.h"

/* ---- The engine's cores and the node's CPUs ---- */

/* The engine numbers cores through all of a node's NUMA nodes. */
void cpus_take(struct placement_service *service, const char *node, const json_t *attributes,
               bool has_numa)
{
    BUFFER_OWNED struct buffer list = {0};
    size_t index = 0;
    json_t *numa = NULL;
    if (has_numa) {
        json_array_foreach(json_object_get(attributes, "numa"), index, numa)
        {
            const char *cpus = json_text(numa, "cpus");
            if (index < PLACEMENT_NUMA_MAX && cpus[0] != '\0') {
                buffer_append_format(&list, "%s%.1000s", list.used > 0 ? "," : "", cpus);
            }
        }
    } else if (json_u64(attributes, "cpus") > 0) {
        buffer_append_format(&list, "0-%" PRIu64, json_u64(attributes, "cpus") - 1);
    }
    free(map_set(&service->cpus, node, memory_copy_string(buffer_string(&list))));
}

/* "0-3,8" as numbers, at most PLACEMENT_CORES_MAX; what is no list ends it. */
static size_t read_list(const char *list, uint16_t *ret_cpus)
{
    size_t count = 0;
    while (*list != '\0') {
        char *end = NULL;
        unsigned long first = strtoul(list, &end, 10);
        if (end == list) {
            return count;
        }
        unsigned long last = *end == '-' ? strtoul(end + 1, &end, 10) : first;
        for (unsigned long cpu = first;
             cpu <= last && cpu <= UINT16_MAX && count < PLACEMENT_CORES_MAX; cpu++) {
            ret_cpus[count++] = (uint16_t)cpu;
        }
        list = *end == ',' ? end + 1 : end;
        if (*list != '\0' && (*list < '0' || *list > '9')) {
            return count;
        }
    }
    return count;
}

static size_t list_of(const struct placement_service *service, const char *node, uint16_t *ret_cpus)
{
    const char *list = map_get(&service->cpus, node);
    return list != NULL ? read_list(list, ret_cpus) : 0;
}

static int by_number(const void *left, const void *right)
{
    return (int)*(const uint16_t *)left - (int)*(const uint16_t *)right;
}

/* One whose CPUs are not the node's any more, or are too few, has none: it is given others. */
void cpus_grant(const struct placement_service *service, const char *node, const char *cpus,
                uint32_t count, uint16_t *cores, struct placement_grant *ret_grant)
{
    uint16_t all[PLACEMENT_CORES_MAX];
    uint16_t own[PLACEMENT_CORES_MAX];
    *ret_grant = (struct placement_grant){.numa = -1};
    if (count == 0 || cpus[0] == '\0') {
        return;
    }
    size_t all_count = list_of(service, node, all);
    size_t own_count = read_list(cpus, own);
    size_t found = 0;
    for (size_t i = 0; i < own_count; i++) {
        for (size_t core = 0; core < all_count; core++) {
            if (all[core] == own[i]) {
                cores[found++] = (uint16_t)core;
                break;
            }
        }
    }
    if (found == count && own_count == count) {
        qsort(cores, found, sizeof(cores[0]), by_number);
        ret_grant->cores = cores;
        ret_grant->core_count = found;
    }
}

/* ---- Of this node ---- */

struct looking {
    struct placement_service *service;
    struct store_command *command; /* NULL: nothing is to be written */
    uint16_t all[PLACEMENT_CORES_MAX];
    size_t all_count;
    bool is_taken[PLACEMENT_CORES_MAX]; /* by the engine's number */
    size_t owners;
    char *rest; /* for whom has none of its own */
};

static char *text_of_cores(const struct looking *looking, const uint16_t *cores, size_t count)
{
    BUFFER_OWNED struct buffer text = {0};
    uint16_t cpus[PLACEMENT_CORES_MAX];
    for (size_t i = 0; i < count; i++) {
        cpus[i] = looking->all[cores[i]];
    }
    if (count > 0) {
        qsort(cpus, count, sizeof(cpus[0]), by_number);
    }
    for (size_t i = 0; i < count; i++) {
        buffer_append_format(&text, "%s%u", i > 0 ? "," : "", (unsigned)cpus[i]);
    }
    return memory_copy_string(buffer_string(&text));
}

static bool are_free(const struct looking *looking, const uint16_t *cores, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (cores[i] >= looking->all_count || looking->is_taken[cores[i]]) {
            return false;
        }
    }
    return true;
}

static void pin(struct looking *looking, const struct known *known, const char *cpus, bool is_own)
{
    struct placement_service *service = looking->service;
    if (!machine_pin(service->options.machines, known->id, cpus, is_own)) {
        service->pins_stale = true; /* its row was not seen there yet: at the next change */
    }
}

static struct store_command *command_of(struct looking *looking)
{
    if (looking->command == NULL) {
        looking->command = store_command_new();
        store_command_add(looking->command,
                          "DELETE FROM machine_cpus WHERE NOT EXISTS (SELECT 1 FROM machine m "
                          "WHERE m.id = machine_cpus.key AND m.node = machine_cpus.node)",
                          "");
    }
    return looking->command;
}

/* Of two that the state has on the same one, who comes second is given others when it is read
 * again. */
static void give_up(struct looking *looking, const struct known *known)
{
    store_command_add(command_of(looking), "DELETE FROM machine_cpus WHERE key = ? AND node = ?",
                      "tt", known->id, looking->service->node_name);
}

static void keep(struct looking *looking, const struct known *known, const char *cpus)
{
    store_command_add(command_of(looking),
                      "INSERT INTO machine_cpus (key, node, cpus, revision) SELECT id, node, ?1, "
                      "?2 FROM machine WHERE id = ?3 AND node = ?4 ON CONFLICT (key) DO UPDATE SET "
                      "node = excluded.node, cpus = excluded.cpus, revision = excluded.revision",
                      "trtt", cpus, known->id, looking->service->node_name);
}

static void look_at_owner(const char *key, void *value, void *context)
{
    struct looking *looking = context;
    struct placement_service *service = looking->service;
    const struct known *known = value;
    const uint16_t *cores = NULL;
    size_t count = 0;
    struct error err = {0};
    if (!known->is_here || known->own_cpus == 0) {
        return;
    }
    if (placement_cluster_give_cores(service->cluster, known->id, &cores, &count, &err) < 0) {
        log_warn("placement: machine %s has no CPUs of its own: %s", key, err.text);
        return;
    }
    if (!are_free(looking, cores, count)) {
        give_up(looking, known);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        looking->is_taken[cores[i]] = true;
    }
    looking->owners++;
    MEMORY_OWNED char *cpus = text_of_cores(looking, cores, count);
    pin(looking, known, cpus, true);
    if (strcmp(known->cpus, cpus) != 0) {
        keep(looking, known, cpus);
    }
}

static void look_at_other(const char *key, void *value, void *context)
{
    struct looking *looking = context;
    const struct known *known = value;
    (void)key;
    if (known->is_here && known->own_cpus == 0) {
        pin(looking, known, looking->rest, false);
    }
}

/* Where all CPUs are somebody's, whoever is there besides has to run somewhere. */
static char *rest_of(const struct looking *looking)
{
    uint16_t cores[PLACEMENT_CORES_MAX] = {0};
    size_t free_count = 0;
    size_t count = 0;
    for (size_t i = 0; i < looking->all_count; i++) {
        free_count += !looking->is_taken[i];
    }
    for (size_t i = 0; i < looking->all_count; i++) {
        if (!looking->is_taken[i] || free_count == 0) {
            cores[count++] = (uint16_t)i;
        }
    }
    return text_of_cores(looking, cores, count);
}

void cpus_look(struct placement_service *service)
{
    struct looking *looking = NEW(struct looking);
    looking->service = service;
    looking->all_count = list_of(service, service->node_name, looking->all);
    if (looking->all_count > 0 && picture_knows_cpus(service)) {
        map_each(&service->machines, look_at_owner, looking);
        if (looking->owners > 0 || service->has_pins) {
            looking->rest = rest_of(looking);
            map_each(&service->machines, look_at_other, looking);
        }
        service->has_pins = looking->owners > 0;
    }
    if (looking->command != NULL) {
        store_propose(service->options.store, looking->command, NULL, NULL);
    }
    free(looking->rest);
    free(looking);
}
