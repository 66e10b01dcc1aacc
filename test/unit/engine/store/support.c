#include "test/unit/engine/store/support.h"

#include <inttypes.h>

#include "base/loop/loop.h"

#include "test/lib/test.h"

int node_open(struct node *node, const char *folder, const struct store_options *options_or_null,
              struct error *err)
{
    struct store_options options = {0};
    if (options_or_null != NULL) {
        options = *options_or_null;
    }
    options.folder = folder;
    *node = (struct node){0};
    EXPECT(loop_new("store-test", &node->loop, err) == 0);
    int r = store_open(node->loop, &options, &node->store, err);
    if (r < 0) {
        EXPECT(r == -(int)err->kind);
        loop_free(node->loop);
        node->loop = NULL;
    }
    return r;
}

void node_close(struct node *node)
{
    store_close(node->store);
    loop_free(node->loop);
    *node = (struct node){0};
}

void node_run(struct node *node, void (*act)(void *context), void *context)
{
    loop_post(node->loop, act, context);
    loop_run(node->loop);
}

void node_stop(struct node *node)
{
    /* Not loop_stop(): that one is for good, and the loop runs again with the next step. */
    uv_stop(loop_uv(node->loop));
}

struct write {
    struct node *node;
    struct store_command *command;
    struct error error;
    uint64_t index;
    bool is_inside; /* store_propose() has not returned */
};

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct write *write = context;
    EXPECT(!write->is_inside);
    if (error != NULL) {
        write->error = *error;
    }
    write->index = index;
    node_stop(write->node);
}

static void propose(void *context)
{
    struct write *write = context;
    write->is_inside = true;
    store_propose(write->node->store, write->command, on_written, write);
    write->is_inside = false;
}

int node_write(struct node *node, struct store_command *owned_command, uint64_t *ret_index,
               struct error *err)
{
    struct write write = {.node = node, .command = owned_command};
    node_run(node, propose, &write);
    if (write.error.kind != ERROR_NONE) {
        *err = write.error;
        return -(int)err->kind;
    }
    EXPECT(write.index > 0);
    if (ret_index != NULL) {
        *ret_index = write.index;
    }
    return 0;
}

struct marking {
    struct node *node;
    struct loop_timer *timer;
};

/* The store tells nobody when it has marked, so look every few milliseconds. */
static void look_at_mark(void *context)
{
    struct marking *marking = context;
    struct store_status status;
    store_status(marking->node->store, &status);
    if (status.marked_index >= status.index) {
        node_stop(marking->node);
    } else {
        loop_timer_start(marking->timer, 5);
    }
}

void node_wait_marked(struct node *node)
{
    struct marking marking = {.node = node};
    marking.timer = loop_timer_new(node->loop, look_at_mark, &marking);
    node_run(node, look_at_mark, &marking);
    loop_timer_free(marking.timer);
}

struct store_command *project_command(uint64_t number)
{
    char key[32];
    snprintf(key, sizeof(key), "p%" PRIu64, number);
    struct store_command *command = store_command_new();
    store_command_add(command, "INSERT INTO project (key, created_ms) VALUES (?, ?)", "tu", key,
                      number);
    return command;
}

int node_write_project(struct node *node, uint64_t number, struct error *err)
{
    return node_write(node, project_command(number), NULL, err);
}

static bool take_first(sqlite3_stmt *row, void *context)
{
    *(int64_t *)context = sqlite3_column_int64(row, 0);
    return false;
}

int64_t node_integer(struct node *node, const char *sql)
{
    struct error err = {0};
    int64_t value = 0;
    EXPECT(store_query(node->store, &err, take_first, &value, sql, "") == 0);
    return value;
}

static bool mix_row(sqlite3_stmt *row, void *context)
{
    uint64_t *digest = context;
    for (int i = 0; i < sqlite3_column_count(row); i++) {
        const char *text = (const char *)sqlite3_column_text(row, i);
        for (const char *at = text != NULL ? text : "\1"; *at != '\0'; at++) {
            *digest = (*digest ^ (uint8_t)*at) * 0x100000001b3; /* FNV-1a */
        }
        *digest = (*digest ^ 0xff) * 0x100000001b3;
    }
    return true;
}

uint64_t node_digest(struct node *node)
{
    static const char *const queries[] = {
        "SELECT * FROM project ORDER BY key",
        "SELECT * FROM function ORDER BY key",
        "SELECT * FROM operation ORDER BY key",
    };
    struct error err = {0};
    uint64_t digest = 0xcbf29ce484222325;
    for (size_t i = 0; i < sizeof(queries) / sizeof(queries[0]); i++) {
        EXPECT(store_query(node->store, &err, mix_row, &digest, queries[i], "") == 0);
    }
    return digest;
}
