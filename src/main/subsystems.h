/* The daemon's parts: each is started after those before it, and stopped before them. */
#ifndef MAIN_SUBSYSTEMS_H
#define MAIN_SUBSYSTEMS_H

#include <stddef.h>

#include "service/function/function.h"

#include "main/daemon.h"

struct subsystem {
    const char *name;
    int (*start)(struct node *node, struct error *err);
    void (*stop)(struct node *node); /* NULL: there is nothing to stop */
};

extern const struct subsystem subsystems[];
extern const size_t subsystem_count;

/* ---- state.c ---- */
int state_start_cluster(struct node *node, struct error *err);
void state_stop_cluster(struct node *node);
int state_start_store(struct node *node, struct error *err);
void state_stop_store(struct node *node);

/* ---- places.c ---- */
int places_start_node_life(struct node *node, struct error *err);
void places_stop_node_life(struct node *node);
int places_start_placement(struct node *node, struct error *err);
void places_stop_placement(struct node *node);
enum function_place places_function(const char *version, const char *placement, void *context);
bool places_suit_others(const char *placement, void *context);

/* ---- daemon.c ---- */

/* A line for systemd, where it has started us. */
void daemon_notify(const char *state);
/* What people want to know of a node that is ready. */
void daemon_greet(const struct node *node);

#endif
