/*
 * Crowds: what belongs together, counted.  A tally is made when somebody asks for it the first
 * time, and is kept right from then on, so that asking costs the same for ten members and for ten
 * thousand.
 */
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

enum { TALLY_ROOM_LEAST = 8 };

/* ---- Tallies: a table by address, with linear probing; zeros stay until it grows ---- */

static size_t place_of(const struct word *value, size_t room)
{
    return (size_t)((((uintptr_t)value >> 4) * 0x9e3779b97f4a7c15ULL) >> 32) & (room - 1);
}

static struct tally_slot *slot_of(const struct tally *tally, const struct word *value)
{
    size_t at = place_of(value, tally->room);
    while (tally->slots[at].value != NULL && tally->slots[at].value != value) {
        at = (at + 1) & (tally->room - 1);
    }
    return &tally->slots[at];
}

uint32_t tally_of(const struct tally *tally, const struct word *value)
{
    if (tally == NULL || value == NULL || tally->room == 0) {
        return 0;
    }
    const struct tally_slot *slot = slot_of(tally, value);
    return slot->value != NULL ? slot->number : 0;
}

static void tally_grow(struct placement_cluster *cluster, struct tally *tally)
{
    struct tally old = *tally;
    size_t alive = 0;
    for (size_t i = 0; i < old.room; i++) {
        alive += old.slots[i].value != NULL && old.slots[i].number > 0;
    }
    tally->room = TALLY_ROOM_LEAST;
    while (tally->room < (alive + 1) * 4) {
        tally->room *= 2;
    }
    tally->slots = memory_new(tally->room, sizeof(*tally->slots));
    tally->count = 0;
    for (size_t i = 0; i < old.room; i++) {
        if (old.slots[i].value == NULL) {
            continue;
        }
        if (old.slots[i].number == 0) {
            word_unref(cluster, old.slots[i].value);
            continue;
        }
        *slot_of(tally, old.slots[i].value) = old.slots[i];
        tally->count++;
    }
    free(old.slots);
}

static void tally_add(struct placement_cluster *cluster, struct tally *tally, struct word *value,
                      int by)
{
    if (value == NULL) {
        return;
    }
    if ((tally->count + 1) * 2 > tally->room) {
        tally_grow(cluster, tally);
    }
    struct tally_slot *slot = slot_of(tally, value);
    if (slot->value == NULL) {
        slot->value = word_ref(value);
        tally->count++;
    }
    CHECK(by > 0 || slot->number > 0);
    slot->number += (uint32_t)by;
}

static void tally_done(struct placement_cluster *cluster, struct tally *tally)
{
    for (size_t i = 0; i < tally->room; i++) {
        word_unref(cluster, tally->slots[i].value);
    }
    free(tally->slots);
    word_unref(cluster, tally->attribute);
}

/* ---- Crowds ---- */

struct crowd *crowd_find(const struct map *crowds, const char *name)
{
    return name != NULL && name[0] != 0 ? map_get(crowds, name) : NULL;
}

struct crowd *crowd_get(struct map *crowds, const char *name)
{
    if (name == NULL || name[0] == 0) {
        return NULL;
    }
    struct crowd *crowd = map_get(crowds, name);
    if (crowd == NULL) {
        crowd = NEW(struct crowd);
        crowd->name = memory_copy_string(name);
        list_init(&crowd->members);
        map_set(crowds, name, crowd);
    }
    crowd->refs++;
    return crowd;
}

void crowd_unref(struct placement_cluster *cluster, struct map *crowds, struct crowd *crowd)
{
    if (crowd == NULL || --crowd->refs > 0) {
        return;
    }
    CHECK(list_is_empty(&crowd->members));
    map_remove(crowds, crowd->name);
    for (size_t i = 0; i < crowd->tally_count; i++) {
        tally_done(cluster, crowd->tallies[i]);
        free(crowd->tallies[i]);
    }
    free(crowd->tallies);
    free(crowd->name);
    free(crowd);
}

static void count(struct placement_cluster *cluster, struct tally *tally,
                  const struct member *member, int by)
{
    tally_add(cluster, tally, node_value(cluster, member->of->node, tally->attribute), by);
}

void crowd_join(struct placement_cluster *cluster, struct crowd *crowd, struct member *member)
{
    if (crowd == NULL) {
        return;
    }
    list_push_back(&crowd->members, &member->link);
    crowd->count++;
    for (size_t i = 0; i < crowd->tally_count; i++) {
        count(cluster, crowd->tallies[i], member, 1);
    }
}

void crowd_leave(struct placement_cluster *cluster, struct crowd *crowd, struct member *member)
{
    if (crowd == NULL) {
        return;
    }
    CHECK(crowd->count > 0);
    list_remove(&member->link);
    crowd->count--;
    for (size_t i = 0; i < crowd->tally_count; i++) {
        count(cluster, crowd->tallies[i], member, -1);
    }
}

struct tally *crowd_tally(struct placement_cluster *cluster, struct crowd *crowd,
                          struct word *attribute)
{
    for (size_t i = 0; i < crowd->tally_count; i++) {
        if (crowd->tallies[i]->attribute == attribute) {
            return crowd->tallies[i];
        }
    }
    struct tally *tally = NEW(struct tally);
    tally->attribute = word_ref(attribute);
    LIST_EACH(link, &crowd->members)
    {
        count(cluster, tally, LIST_ITEM(link, struct member, link), 1);
    }
    crowd->tallies =
        memory_resize(crowd->tallies, (crowd->tally_count + 1) * sizeof(struct tally *));
    crowd->tallies[crowd->tally_count++] = tally;
    return tally;
}
