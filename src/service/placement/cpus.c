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
struct cpus {
    size_t numa_count; /* 0: they are not known */
    struct {
        unsigned number; /* the kernel's */
        size_t cores;
    } numa[PLACEMENT_NUMA_MAX];
    bool is_memory_overcommitted; /* who is bound to a part of it would be the first to lack it */
    char list[];                  /* "0-3,8-11" */
};

static size_t read_list(const char *list, uint16_t *ret_cpus);

static void take_numa(struct cpus *cpus, const json_t *list)
{
    uint16_t numbers[PLACEMENT_CORES_MAX];
    size_t index = 0;
    json_t *numa = NULL;
    json_array_foreach(list, index, numa)
    {
        const json_t *number = json_object_get(numa, "number");
        if (index < PLACEMENT_NUMA_MAX) {
            cpus->numa[index].number =
                json_is_integer(number) ? (unsigned)json_integer_value(number) : (unsigned)index;
            cpus->numa[index].cores = read_list(json_text(numa, "cpus"), numbers);
            cpus->numa_count = index + 1;
        }
    }
}

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
                buffer_append_format(&list, "%s%s", list.used > 0 ? "," : "", cpus);
            }
        }
    } else if (json_u64(attributes, "cpus") > 0) {
        buffer_append_format(&list, "0-%" PRIu64, json_u64(attributes, "cpus") - 1);
    }
    size_t size = strlen(buffer_string(&list)) + 1;
    struct cpus *cpus = memory_new(1, sizeof(*cpus) + size);
    memcpy(cpus->list, buffer_string(&list), size);
    cpus->is_memory_overcommitted =
        json_u64(json_object_get(attributes, "overcommit"), "memory_percent") > 100;
    if (has_numa) {
        take_numa(cpus, json_object_get(attributes, "numa"));
    }
    free(map_set(&service->cpus, node, cpus));
}

/* "0-3,8" as numbers, at most PLACEMENT_CORES_MAX; what is no list ends it. */
static size_t read_list(const char *list, uint16_t *ret_cpus)
{
    size_t count = 0;
    unsigned long first = 0;
    unsigned long last = 0;
    while (text_take_range(&list, &first, &last)) {
        for (unsigned long cpu = first;
             cpu <= last && cpu <= UINT16_MAX && count < PLACEMENT_CORES_MAX; cpu++) {
            ret_cpus[count++] = (uint16_t)cpu;
        }
    }
    return count;
}

static size_t list_of(const struct placement_service *service, const char *node, uint16_t *ret_cpus)
{
    const struct cpus *cpus = map_get(&service->cpus, node);
    return cpus != NULL ? read_list(cpus->list, ret_cpus) : 0;
}

/* The index of its NUMA node; numa_count: none is known. */
static size_t numa_of(const struct cpus *cpus, size_t core)
{
    size_t end = 0;
    for (size_t i = 0; i < cpus->numa_count; i++) {
        end += cpus->numa[i].cores;
        if (core < end) {
            return i;
        }
    }
    return cpus->numa_count;
}

/* -1: they are of several. */
static int32_t common_numa(const struct placement_service *service, const char *node,
                           const uint16_t *cores, size_t count)
{
    const struct cpus *cpus = map_get(&service->cpus, node);
    size_t numa = cpus != NULL && count > 0 ? numa_of(cpus, cores[0]) : 0;
    for (size_t i = 1; i < count; i++) {
        if (numa_of(cpus, cores[i]) != numa) {
            return -1;
        }
    }
    return cpus != NULL && numa < cpus->numa_count ? (int32_t)numa : -1;
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
        ret_grant->numa = common_numa(service, node, cores, found);
    }
}

/* ---- Of this node ---- */

/* A machine here that has CPUs of its own. */
struct owner {
    const struct known *known;
    uint16_t *cores;
    size_t count;
};

struct looking {
    struct placement_service *service;
    struct store_command *command; /* NULL: nothing is to be written */
    uint16_t all[PLACEMENT_CORES_MAX];
    size_t all_count;
    bool is_taken[PLACEMENT_CORES_MAX]; /* by the engine's number */
    struct owner owners[PLACEMENT_CORES_MAX];
    size_t owner_count;
    char *rest; /* for whom has none of its own */
};

static char *text_of_cores(const uint16_t *numbers, const uint16_t *cores, size_t count)
{
    BUFFER_OWNED struct buffer text = {0};
    uint16_t cpus[PLACEMENT_CORES_MAX];
    for (size_t i = 0; i < count; i++) {
        cpus[i] = numbers[cores[i]];
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

static void pin(struct looking *looking, const struct known *known,
                const struct machine_place *place)
{
    struct placement_service *service = looking->service;
    if (!machine_pin(service->options.machines, known->id, place)) {
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
    if (!are_free(looking, cores, count) || looking->owner_count == PLACEMENT_CORES_MAX) {
        give_up(looking, known);
        return;
    }
    struct owner *owner = &looking->owners[looking->owner_count++];
    *owner = (struct owner){known, memory_new(count, sizeof(*cores)), count};
    for (size_t i = 0; i < count; i++) {
        looking->is_taken[cores[i]] = true;
        owner->cores[i] = cores[i];
    }
    MEMORY_OWNED char *cpus = text_of_cores(looking->all, cores, count);
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
        const struct machine_place place = {.cpus = looking->rest, .others = "", .nodes = ""};
        pin(looking, known, &place);
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
    return text_of_cores(looking->all, cores, count);
}

/* ---- Of an owner: its NUMA nodes, and where the rest of its VMM runs ---- */

static uint64_t numa_bits(const struct cpus *cpus, const uint16_t *cores, size_t count)
{
    uint64_t bits = 0;
    for (size_t i = 0; i < count; i++) {
        bits |= UINT64_C(1) << numa_of(cpus, cores[i]);
    }
    return bits;
}

/* "0", or "0,1". */
static char *nodes_of(const struct cpus *cpus, uint64_t bits)
{
    BUFFER_OWNED struct buffer text = {0};
    for (size_t i = 0; i < cpus->numa_count && !cpus->is_memory_overcommitted; i++) {
        if ((bits >> i & 1) != 0) {
            buffer_append_format(&text, "%s%u", text.used > 0 ? "," : "", cpus->numa[i].number);
        }
    }
    return memory_copy_string(buffer_string(&text));
}

struct cpus_beside cpus_beside(const struct placement_service *service, const char *node,
                               const uint16_t *cores, size_t count, const bool *is_taken)
{
    uint16_t numbers[PLACEMENT_CORES_MAX];
    uint16_t near[PLACEMENT_CORES_MAX];
    uint16_t all[PLACEMENT_CORES_MAX];
    size_t near_count = 0;
    size_t all_count = 0;
    const struct cpus *cpus = map_get(&service->cpus, node);
    size_t number_count = list_of(service, node, numbers);
    uint64_t bits = numa_bits(cpus, cores, count);
    for (size_t i = 0; i < number_count; i++) {
        if (!is_taken[i]) {
            all[all_count++] = (uint16_t)i;
            if ((bits >> numa_of(cpus, i) & 1) != 0) {
                near[near_count++] = (uint16_t)i;
            }
        }
    }
    return (struct cpus_beside){.others = near_count > 0 ? text_of_cores(numbers, near, near_count)
                                                         : text_of_cores(numbers, all, all_count),
                                .nodes = nodes_of(cpus, bits)};
}

static void pin_owner(struct looking *looking, const struct owner *owner)
{
    const struct placement_service *service = looking->service;
    MEMORY_OWNED char *cpus = text_of_cores(looking->all, owner->cores, owner->count);
    struct cpus_beside beside =
        cpus_beside(service, service->node_name, owner->cores, owner->count, looking->is_taken);
    const struct machine_place place = {
        .cpus = cpus, .is_own = true, .others = beside.others, .nodes = beside.nodes};
    pin(looking, owner->known, &place);
    free(beside.others);
    free(beside.nodes);
}

void cpus_look(struct placement_service *service)
{
    struct looking *looking = NEW(struct looking);
    looking->service = service;
    looking->all_count = list_of(service, service->node_name, looking->all);
    if (looking->all_count > 0 && picture_knows_cpus(service)) {
        map_each(&service->machines, look_at_owner, looking);
        for (size_t i = 0; i < looking->owner_count; i++) {
            pin_owner(looking, &looking->owners[i]);
            free(looking->owners[i].cores);
        }
        if (looking->owner_count > 0 || service->has_pins) {
            looking->rest = rest_of(looking);
            map_each(&service->machines, look_at_other, looking);
        }
        service->has_pins = looking->owner_count > 0;
    }
    if (looking->command != NULL) {
        service_write(service, looking->command, &service->pins_stale);
    }
    free(looking->rest);
    free(looking);
}
