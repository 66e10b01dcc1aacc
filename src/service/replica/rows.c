/* The rows of `blob_replica`, for those who want to know who has what. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/replica/replica.h"

const char *const replica_parts[REPLICA_PARTS] = {"kernel", "initrd", "root", "disk"};

const char *replica_main(const json_t *config)
{
    const char *disk = json_text(config, "disk");
    const char *root = json_text(config, "root");
    return disk[0] != '\0' ? disk : root[0] != '\0' ? root : json_text(config, "kernel");
}

struct visiting {
    bool (*visit)(const char *node, void *context);
    void *context;
};

static bool visit_row(sqlite3_stmt *row, void *context)
{
    const struct visiting *visiting = context;
    return visiting->visit(store_text(row, 0), visiting->context);
}

void replica_each(struct store *store, const char *blob,
                  bool (*visit)(const char *node, void *context), void *context)
{
    struct error ignored = {0};
    struct visiting visiting = {visit, context};
    if (store_schema_now(store) >= REPLICA_SCHEMA) {
        store_query(store, &ignored, visit_row, &visiting,
                    "SELECT node FROM blob_replica WHERE blob = ? AND problem = '' ORDER BY node",
                    "t", blob);
    }
}

struct writing {
    struct json_writer *writer;
    uint64_t parts;
};

static bool write_node(sqlite3_stmt *row, void *context)
{
    const struct writing *writing = context;
    if ((uint64_t)sqlite3_column_int64(row, 1) == writing->parts) {
        json_write_string(writing->writer, store_text(row, 0));
    }
    return true;
}

static bool write_problem(sqlite3_stmt *row, void *context)
{
    const struct writing *writing = context;
    MEMORY_OWNED char *text = memory_format("%s: %s", store_text(row, 0), store_text(row, 1));
    json_write_string(writing->writer, text);
    return true;
}

static uint64_t count_parts(const char *const ids[REPLICA_PARTS])
{
    uint64_t count = 0;
    for (size_t i = 0; i < REPLICA_PARTS; i++) {
        bool is_new = ids[i][0] != '\0';
        for (size_t k = 0; k < i; k++) {
            is_new = is_new && strcmp(ids[i], ids[k]) != 0;
        }
        count += is_new;
    }
    return count;
}

#define OF "FROM blob_replica WHERE blob IN (?, ?, ?, ?) "

void replica_write(struct store *store, const json_t *config, struct json_writer *writer)
{
    struct error ignored = {0};
    const char *ids[REPLICA_PARTS];
    bool is_known = store_schema_now(store) >= REPLICA_SCHEMA;
    for (size_t i = 0; i < REPLICA_PARTS; i++) {
        ids[i] = json_text(config, replica_parts[i]);
    }
    struct writing writing = {writer, count_parts(ids)};
    json_write_key(writer, "nodes");
    json_write_begin_array(writer);
    if (is_known) {
        store_query(store, &ignored, write_node, &writing,
                    "SELECT node, sum(problem = '') " OF "GROUP BY node ORDER BY node", "tttt",
                    ids[0], ids[1], ids[2], ids[3]);
    }
    json_write_end_array(writer);
    json_write_key(writer, "node_problems");
    json_write_begin_array(writer);
    if (is_known) {
        store_query(store, &ignored, write_problem, &writing,
                    "SELECT node, max(problem) " OF "AND problem != '' GROUP BY node ORDER BY node",
                    "tttt", ids[0], ids[1], ids[2], ids[3]);
    }
    json_write_end_array(writer);
}
