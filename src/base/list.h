/*
 * Intrusive doubly linked list.  A zeroed `struct list` is NOT a list: call list_init().
 * A node that is in no list is zeroed or was removed by list_remove().
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/check.h"

struct list_node {
    struct list_node *next;
    struct list_node *previous;
};

struct list {
    struct list_node head;
};

static inline void list_init(struct list *list)
{
    list->head.next = list->head.previous = &list->head;
}

static inline bool list_is_empty(const struct list *list)
{
    return list->head.next == &list->head;
}

static inline bool list_contains_node(const struct list_node *node)
{
    return node->next != NULL;
}

static inline void list_insert_between(struct list_node *node, struct list_node *before,
                                       struct list_node *after)
{
    CHECK(node->next == NULL);
    node->previous = before;
    node->next = after;
    before->next = node;
    after->previous = node;
}

static inline void list_push_back(struct list *list, struct list_node *node)
{
    list_insert_between(node, list->head.previous, &list->head);
}

static inline void list_push_front(struct list *list, struct list_node *node)
{
    list_insert_between(node, &list->head, list->head.next);
}

/* Harmless on a node that is in no list. */
static inline void list_remove(struct list_node *node)
{
    if (node->next != NULL) {
        node->previous->next = node->next;
        node->next->previous = node->previous;
        node->next = node->previous = NULL;
    }
}

/* The struct around a node, e.g. LIST_ITEM(node, struct route, link). */
#define LIST_ITEM(node, type, member) ((type *)((char *)(node)-offsetof(type, member)))

/* First item or NULL. */
#define LIST_FIRST(list, type, member) \
    (list_is_empty(list) ? NULL : LIST_ITEM((list)->head.next, type, member))

/* Walk; the current item may be removed and freed. */
/* NOLINTBEGIN(bugprone-macro-parentheses): a declared name cannot stand in parentheses. */
#define LIST_EACH(node, list)                                                   \
    for (struct list_node *node = (list)->head.next, *node##_next = node->next; \
         node != &(list)->head; node = node##_next, node##_next = node->next)
/* NOLINTEND(bugprone-macro-parentheses) */

#endif
