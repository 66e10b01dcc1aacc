/*
 * Nodes: what is known of them, and their place in the orders of their class.
 *
 * A node that may get something new (ready, eligible, not over its limits) is in both orders; an
 * order's bucket says how much is free, from 0 (nothing) to BUCKETS - 1 (nearly all).
 */
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

/* ---- Orders ---- */

double node_free_share(const struct node *node)
{
    double least = 1;
    for (enum placement_resource i = PLACEMENT_CPU_MILLI; i <= PLACEMENT_MEMORY; i++) {
        uint64_t limit = node->class->limit.of[i], used = node->used.of[i];
        double share =
            limit == 0 ? 1 : (used >= limit ? 0 : (double)(limit - used) / (double)limit);
        least = share < least ? share : least;
    }
    return least;
}

static uint8_t bucket_of(double share)
{
    int bucket = (int)(share * BUCKETS);
    return (uint8_t)(bucket < BUCKETS ? bucket : BUCKETS - 1);
}

static void bucket_add(struct node *node, size_t which, uint8_t number)
{
    struct order *order = &node->class->orders[which];
    struct bucket *bucket = &order->buckets[number];
    if (bucket->count == bucket->room) {
        bucket->room = bucket->room != 0 ? bucket->room * 2 : 4;
        bucket->items = memory_resize(bucket->items, bucket->room * sizeof(struct node *));
    }
    node->bucket[which] = number;
    node->slot[which] = bucket->count;
    bucket->items[bucket->count++] = node;
    order->filled |= 1ULL << number;
}

static void bucket_remove(struct node *node, size_t which)
{
    struct order *order = &node->class->orders[which];
    struct bucket *bucket = &order->buckets[node->bucket[which]];
    CHECK(bucket->items[node->slot[which]] == node);
    struct node *last = bucket->items[--bucket->count];
    bucket->items[node->slot[which]] = last;
    last->slot[which] = node->slot[which];
    if (bucket->count == 0) {
        order->filled &= ~(1ULL << node->bucket[which]);
    }
}

void node_disorder(struct node *node)
{
    if (node->is_ordered) {
        for (size_t i = 0; i < ORDERS; i++) {
            bucket_remove(node, i);
        }
        node->class->ordered_count--;
        node->is_ordered = false;
    }
}

static bool is_over(const struct node *node)
{
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        if (node->used.of[i] > node->class->limit.of[i]) {
            return true;
        }
    }
    return false;
}

void node_order(struct node *node)
{
    node->is_over = is_over(node);
    if (!node->is_ready || !node->is_eligible) {
        node_disorder(node);
        return;
    }
    uint32_t devices = node->class->devices;
    uint32_t free_devices = devices > node->devices_used ? devices - node->devices_used : 0;
    uint8_t now[ORDERS] = {
        node->is_over ? 0 : bucket_of(node_free_share(node)),
        bucket_of(devices == 0 ? 0 : (double)free_devices / devices),
    };
    for (size_t i = 0; i < ORDERS; i++) {
        if (!node->is_ordered) {
            bucket_add(node, i, now[i]);
        } else if (node->bucket[i] != now[i]) {
            bucket_remove(node, i);
            bucket_add(node, i, now[i]);
        }
    }
    node->class->ordered_count += !node->is_ordered;
    node->is_ordered = true;
}

/* ---- What is known ---- */

struct node *node_by_id(const struct placement_cluster *cluster, const char *id)
{
    return id != NULL ? map_get(&cluster->nodes_by_id, id) : NULL;
}

struct word *node_value(const struct placement_cluster *cluster, const struct node *node,
                        const struct word *name)
{
    if (name == cluster->name_name) {
        return node->name;
    }
    if (name == cluster->id_name) {
        return node->id;
    }
    return name != NULL ? class_value(node->class, name) : NULL;
}

const char *node_attribute(const struct placement_cluster *cluster, const struct node *node,
                           const struct word *name)
{
    const struct word *value = node_value(cluster, node, name);
    return value != NULL ? value->text : NULL;
}

/* The empty parts of a node of this class. */
static void parts_make(struct node *node, const struct placement_node *from)
{
    const struct class *class = node->class;
    node->numa = memory_new(from->numa_count + 1, sizeof(*node->numa));
    node->numa_count = from->numa_count;
    uint32_t core = 0;
    for (size_t i = 0; i < from->numa_count; i++) {
        node->numa[i] = (struct numa){
            .core_first = core,
            .core_count = from->numa[i].cores,
            .cores_free = from->numa[i].cores,
            .memory = from->numa[i].memory_bytes,
            .huge_2m = from->numa[i].huge_2m,
            .huge_1g = from->numa[i].huge_1g,
        };
        core += from->numa[i].cores;
    }
    memset(node->core_used, 0, sizeof(node->core_used));
    node->cores_free = class->core_count;
    /* The system has the first ones, for which nothing is pinned by us. */
    for (uint32_t i = 0; i < class->cores_reserved && i < class->core_count; i++) {
        node->core_used[i / 64] |= 1ULL << (i % 64);
        node->cores_free--;
        for (size_t k = 0; k < node->numa_count; k++) {
            struct numa *numa = &node->numa[k];
            numa->cores_free -= i >= numa->core_first && i < numa->core_first + numa->core_count;
        }
    }
    node->kinds = memory_new(class->kind_count + 1, sizeof(*node->kinds));
    node->kind_count = class->kind_count;
    for (size_t i = 0; i < class->kind_count; i++) {
        struct kind *kind = &node->kinds[i];
        *kind = class->kinds[i];
        word_ref(kind->class_name);
        word_ref(kind->model);
        kind->whole = kind->count;
        kind->used_of = memory_new(kind->count + 1U, sizeof(*kind->used_of));
    }
}

static void parts_done(struct placement_cluster *cluster, struct node *node)
{
    for (size_t i = 0; i < node->kind_count; i++) {
        word_unref(cluster, node->kinds[i].class_name);
        word_unref(cluster, node->kinds[i].model);
        free(node->kinds[i].used_of);
    }
    free(node->kinds);
    free(node->numa);
    node->kinds = NULL;
    node->numa = NULL;
}

static void node_free(struct placement_cluster *cluster, struct node *node)
{
    parts_done(cluster, node);
    word_unref(cluster, node->id);
    word_unref(cluster, node->name);
    free(node->ports);
    free(node);
}

/* ---- Coming and changing ---- */

static struct node *node_new(struct placement_cluster *cluster, const struct placement_node *from)
{
    struct node *node = NEW(struct node);
    node->id = word_get(cluster, from->id);
    list_init(&node->allocations);
    node->lowest = UINT8_MAX;
    node->index = (uint32_t)cluster->node_count;
    if (cluster->node_count == cluster->node_room) {
        cluster->node_room = cluster->node_room != 0 ? cluster->node_room * 2 : 64;
        cluster->nodes = memory_resize(cluster->nodes, cluster->node_room * sizeof(struct node *));
    }
    cluster->nodes[cluster->node_count++] = node;
    map_set(&cluster->nodes_by_id, from->id, node);
    return node;
}

static void name_set(struct placement_cluster *cluster, struct node *node, const char *name)
{
    if (node->name != NULL) {
        map_remove(&cluster->nodes_by_name, node->name->text);
        word_unref(cluster, node->name);
    }
    node->name = word_get(cluster, name);
    map_set(&cluster->nodes_by_name, name, node);
}

static bool grew(const struct class *before, const struct class *after)
{
    for (size_t i = 0; i < PLACEMENT_RESOURCE_COUNT; i++) {
        if (after->limit.of[i] > before->limit.of[i]) {
            return true;
        }
    }
    return after->devices > before->devices || after->core_count > before->core_count ||
        after->kind_count != before->kind_count || after->port_first < before->port_first ||
        after->port_last > before->port_last;
}

static bool lost_taint(const struct class *before, const struct class *after)
{
    for (size_t i = 0; i < before->taint_count; i++) {
        bool is_there = false;
        for (size_t k = 0; k < after->taint_count; k++) {
            is_there = is_there ||
                (strcmp(before->taints[i].key, after->taints[k].key) == 0 &&
                 strcmp(before->taints[i].value, after->taints[k].value) == 0 &&
                 before->taints[i].effect == after->taints[k].effect);
        }
        if (!is_there) {
            return true;
        }
    }
    return false;
}

static bool attributes_differ(const struct class *before, const struct class *after)
{
    return before->attribute_count != after->attribute_count ||
        memcmp(before->attributes, after->attributes,
               before->attribute_count * sizeof(struct attribute)) != 0;
}

static uint32_t wakes_between(const struct class *before, const struct class *after)
{
    uint32_t wakes = grew(before, after) ? PLACEMENT_WAKE_RESOURCES : 0;
    wakes |= lost_taint(before, after) ? PLACEMENT_WAKE_TAINTS : 0;
    if (attributes_differ(before, after)) {
        wakes |= PLACEMENT_WAKE_ATTRIBUTES | PLACEMENT_WAKE_DISTINCT | PLACEMENT_WAKE_GROUP;
    }
    return wakes;
}

static void change_set(struct placement_change *ret_change, uint32_t wakes, const char *node)
{
    if (ret_change != NULL) {
        *ret_change = (struct placement_change){.wakes = wakes};
        snprintf(ret_change->node, sizeof(ret_change->node), "%s", node);
    }
}

/* Replace class and parts, and let what runs there count again. */
static void node_become(struct placement_cluster *cluster, struct node *node, struct class *class,
                        const struct placement_node *from)
{
    struct list moved;
    list_init(&moved);
    LIST_EACH(link, &node->allocations)
    {
        struct allocation *allocation = LIST_ITEM(link, struct allocation, at_node);
        allocation_detach(cluster, allocation);
        list_push_back(&moved, &allocation->at_node);
    }
    node_disorder(node);
    if (node->class != NULL) {
        class_unref(cluster, node->class);
        parts_done(cluster, node);
    }
    node->class = class;
    node->is_ready = from->is_ready;
    node->is_eligible = from->is_eligible;
    node->devices_used = 0;
    parts_make(node, from);
    if (node->name == NULL || strcmp(node->name->text, from->name) != 0) {
        name_set(cluster, node, from->name);
    }
    node_order(node);
    LIST_EACH(link, &moved)
    {
        list_remove(link);
        allocation_attach(cluster, LIST_ITEM(link, struct allocation, at_node));
    }
}

int placement_cluster_set_node(struct placement_cluster *cluster, const struct placement_node *from,
                               struct placement_change *ret_change, struct error *err)
{
    int r = check_node(from, err);
    if (r < 0) {
        return r;
    }
    struct node *node = node_by_id(cluster, from->id);
    struct node *named = map_get(&cluster->nodes_by_name, from->name);
    if (named != NULL && named != node) {
        return error_set(err, ERROR_EXISTS, "another node is called %s", from->name);
    }
    if (node == NULL && cluster->node_count == PLACEMENT_NODES_MAX) {
        return error_set(err, ERROR_LIMIT, "a cluster has at most %d nodes", PLACEMENT_NODES_MAX);
    }
    struct class *class;
    r = class_obtain(cluster, from, &class, err);
    if (r < 0) {
        return r;
    }
    uint32_t wakes = PLACEMENT_WAKE_NODE;
    if (node == NULL) {
        node = node_new(cluster, from);
    } else {
        bool opened = from->is_ready && from->is_eligible && !(node->is_ready && node->is_eligible);
        bool renamed = strcmp(node->name->text, from->name) != 0;
        wakes = wakes_between(node->class, class) | (opened ? PLACEMENT_WAKE_NODE : 0) |
            (renamed ? PLACEMENT_WAKE_ATTRIBUTES : 0);
    }
    bool is_open = from->is_ready && from->is_eligible;
    if (node->class == class && strcmp(node->name->text, from->name) == 0) {
        class->node_count--; /* it had a reference already, and nothing is to be made anew */
        node->is_ready = from->is_ready;
        node->is_eligible = from->is_eligible;
        node_order(node);
    } else {
        node_become(cluster, node, class, from);
    }
    change_set(ret_change, is_open ? wakes : 0, from->id);
    return 0;
}

int placement_cluster_set_state(struct placement_cluster *cluster, const char *id, bool is_ready,
                                bool is_eligible, struct placement_change *ret_change,
                                struct error *err)
{
    struct node *node = node_by_id(cluster, id);
    if (node == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "node %s", id);
    }
    bool opens = is_ready && is_eligible && !(node->is_ready && node->is_eligible);
    node->is_ready = is_ready;
    node->is_eligible = is_eligible;
    node_order(node);
    change_set(ret_change, opens ? PLACEMENT_WAKE_NODE : 0, id);
    return 0;
}

int placement_cluster_set_load(struct placement_cluster *cluster, const char *id,
                               uint64_t cpu_milli, uint64_t memory_bytes, struct error *err)
{
    struct node *node = node_by_id(cluster, id);
    if (node == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "node %s", id);
    }
    node->load_cpu = cpu_milli;
    node->load_memory = memory_bytes;
    return 0;
}

int placement_cluster_remove_node(struct placement_cluster *cluster, const char *id,
                                  struct error *err)
{
    struct node *node = node_by_id(cluster, id);
    if (node == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "node %s", id);
    }
    hold_end(cluster, node);
    LIST_EACH(link, &node->allocations)
    {
        struct allocation *allocation = LIST_ITEM(link, struct allocation, at_node);
        allocation_detach(cluster, allocation);
        map_remove(&cluster->allocations, allocation->id);
        cluster->allocation_count--;
        allocation_free(cluster, allocation);
    }
    LIST_EACH(link, &cluster->reservations) /* and those that lapsed, which nobody heard of yet */
    {
        struct allocation *allocation = LIST_ITEM(link, struct allocation, in_reservations);
        if (allocation->node == node) {
            map_remove(&cluster->allocations, allocation->id);
            cluster->allocation_count--;
            allocation_free(cluster, allocation);
        }
    }
    node_disorder(node);
    class_unref(cluster, node->class);
    map_remove(&cluster->nodes_by_id, node->id->text);
    map_remove(&cluster->nodes_by_name, node->name->text);
    memmove(cluster->nodes + node->index, cluster->nodes + node->index + 1,
            (cluster->node_count - node->index - 1) * sizeof(struct node *));
    cluster->node_count--;
    for (size_t i = node->index; i < cluster->node_count; i++) {
        cluster->nodes[i]->index = (uint32_t)i;
    }
    node_free(cluster, node);
    return 0;
}
