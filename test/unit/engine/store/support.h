/* A store of its own loop, driven step by step by a test in one thread. */
#ifndef TEST_UNIT_ENGINE_STORE_SUPPORT_H
#define TEST_UNIT_ENGINE_STORE_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#include "engine/store/store.h"

struct loop;

/* Commands a new store begins with: one per version of the schema after the first. */
#define SCHEMA_STEPS (store_schema_version() - 1)

struct node {
    struct loop *loop;
    struct store *store;
};

/* The store's options but the folder; NULL: all defaults.  On failure nothing is left open. */
int node_open(struct node *node, const char *folder, const struct store_options *options_or_null,
              struct error *err);
void node_close(struct node *node);

/* Run `act(context)` on the loop, then the loop until node_stop(). */
void node_run(struct node *node, void (*act)(void *context), void *context);
void node_stop(struct node *node);

/* Propose and wait for the answer.  On success *ret_index (may be NULL) is what `done` was given.
 */
int node_write(struct node *node, struct store_command *owned_command, uint64_t *ret_index,
               struct error *err);

/* Until all that was acknowledged is marked so on disk. */
void node_wait_marked(struct node *node);

/* A project called "p<number>" in the table `project`. */
struct store_command *project_command(uint64_t number);
int node_write_project(struct node *node, uint64_t number, struct error *err);

/* The first column of the first row; 0 when there is none. */
int64_t node_integer(struct node *node, const char *sql);

/* A hash of every row of the tables that tests write: equal states have equal values. */
uint64_t node_digest(struct node *node);

#endif
