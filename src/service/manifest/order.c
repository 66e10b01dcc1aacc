/*
 * Which object comes before which: by the rank of its kind; among those of one kind, what another
 * one names comes first.  Names are looked for in texts as they are, and behind "function:",
 * "queue:", "stream:" and "group:".  In a circle the order is that of the documents.
 */
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/memory.h"

#include "service/manifest/parts.h"

struct ordering {
    struct action *actions;
    size_t count;
    struct map by_name; /* KIND/PROJECT/NAME: index + 1 */
    bool *is_placed;
    struct action *ordered;
    size_t used;
};

static char *identity(const struct action *action, const char *name, size_t length)
{
    return memory_format("%s/%s/%.*s", action->kind->name, action->project, (int)length, name);
}

static void place(struct ordering *ordering, size_t index);

/* A text that may name another object of this kind: "NAME", "group:NAME", "NAME:/path:ro". */
static void place_named(struct ordering *ordering, const struct action *from, const char *text)
{
    static const char *const prefixes[] = {"function:", "queue:", "stream:", "group:"};
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        size_t length = strlen(prefixes[i]);
        text += strncmp(text, prefixes[i], length) == 0 ? length : 0;
    }
    MEMORY_OWNED char *key = identity(from, text, strcspn(text, ":@"));
    uintptr_t found = (uintptr_t)map_get(&ordering->by_name, key);
    if (found > 0) {
        place(ordering, (size_t)found - 1);
    }
}

static void place_all_named(struct ordering *ordering, const struct action *from,
                            const json_t *value)
{
    const char *key = NULL;
    size_t index = 0;
    json_t *member = NULL;
    if (json_is_string(value) && json_string_length(value) < 128) {
        place_named(ordering, from, json_string_value(value));
    }
    json_array_foreach(value, index, member)
    {
        place_all_named(ordering, from, member);
    }
    json_object_foreach((json_t *)(uintptr_t)value, key, member)
    {
        place_all_named(ordering, from, member);
    }
}

static void place(struct ordering *ordering, size_t index)
{
    struct action *action = &ordering->actions[index];
    if (ordering->is_placed[index]) {
        return;
    }
    ordering->is_placed[index] = true;
    place_all_named(ordering, action, action->spec != NULL ? action->spec : action->observed);
    ordering->ordered[ordering->used++] = *action;
}

static void place_ranks(struct ordering *ordering, bool goes, unsigned rank)
{
    for (size_t i = 0; i < ordering->count; i++) {
        const struct action *action = &ordering->actions[i];
        if (action->kind->rank == rank && (action->spec == NULL) == goes) {
            place(ordering, i);
        }
    }
}

void order_actions(struct action *actions, size_t count)
{
    struct ordering ordering = {.actions = actions, .count = count};
    if (count == 0) {
        return;
    }
    ordering.is_placed = memory_new(count, sizeof(bool));
    ordering.ordered = memory_new(count, sizeof(struct action));
    for (size_t i = 0; i < count; i++) {
        MEMORY_OWNED char *key = identity(&actions[i], actions[i].name, strlen(actions[i].name));
        map_set(&ordering.by_name, key, (void *)(uintptr_t)(i + 1));
    }
    unsigned ranks = 0;
    for (size_t i = 0; i < kind_count(); i++) {
        ranks = kind_at(i)->rank >= ranks ? kind_at(i)->rank + 1 : ranks;
    }
    for (unsigned rank = 0; rank < ranks; rank++) {
        place_ranks(&ordering, false, rank);
    }
    size_t first_gone = ordering.used;
    for (unsigned rank = 0; rank < ranks; rank++) {
        place_ranks(&ordering, true, rank);
    }
    for (size_t i = 0; i < first_gone; i++) {
        actions[i] = ordering.ordered[i];
    }
    for (size_t i = first_gone; i < count; i++) {
        actions[i] = ordering.ordered[count - 1 - (i - first_gone)];
    }
    map_done(&ordering.by_name);
    free(ordering.is_placed);
    free(ordering.ordered);
}
