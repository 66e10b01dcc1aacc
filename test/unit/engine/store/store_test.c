/* The store through its door: what is acknowledged is there, what is refused left nothing. */
#include "engine/store/store.h"

#include <inttypes.h>
#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/private.h"

#include "test/lib/test.h"
#include "test/unit/engine/store/support.h"

static struct node open_node(const struct store_options *options)
{
    struct node node;
    struct error err = {0};
    if (node_open(&node, test_folder(), options, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return node;
}

static struct store_command *statement(const char *sql)
{
    struct store_command *command = store_command_new();
    store_command_add(command, sql, "");
    return command;
}

/* Refused with `kind`; what was there before is there after. */
static void expect_refused(struct node *node, struct store_command *owned_command,
                           enum error_kind kind)
{
    struct error err = {0};
    uint64_t digest = node_digest(node);
    EXPECT(node_write(node, owned_command, NULL, &err) == -(int)kind);
    EXPECT(err.text[0] != '\0');
    EXPECT(node_digest(node) == digest);
}

TEST(store, a_change_is_visible_when_it_is_acknowledged)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    uint64_t index = 0;
    EXPECT(store_index(node.store) == SCHEMA_STEPS);
    for (uint64_t number = 1; number <= 3; number++) {
        EXPECT(node_write(&node, project_command(number), &index, &err) == 0);
        EXPECT(index == SCHEMA_STEPS + number);
        EXPECT(store_index(node.store) == SCHEMA_STEPS + number);
        EXPECT(node_integer(&node, "SELECT count(*) FROM project") == (int64_t)number);
    }
    node_close(&node);
}

/* Goal: state, index and identity go on.  Method: five lives, each with refused commands too. */
TEST(store, goes_on_after_restarts_where_it_ended)
{
    struct error err = {0};
    uint64_t node_id = 0;
    uint64_t term = 0;
    uint64_t digest = 0;
    for (uint64_t life = 0; life < 5; life++) {
        struct node node = open_node(NULL);
        struct store_status status;
        store_status(node.store, &status);
        EXPECT(status.ready && status.index == SCHEMA_STEPS + life * 2);
        EXPECT(life == 0 || (status.node_id == node_id && node_digest(&node) == digest));
        EXPECT(status.term >= term);
        node_id = status.node_id;
        term = status.term;
        EXPECT(node_write_project(&node, life, &err) == 0);
        EXPECT(node_write_project(&node, life, &err) == -ERROR_EXISTS);
        digest = node_digest(&node);
        node_close(&node);
    }
}

/* The last values of each type, and those one step further, as SQL shows them. */
TEST(store, parameters_keep_their_value)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    uint64_t index = 0;
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "they are others",
        "INSERT INTO project SELECT ?9, ?8 WHERE ?1 = -9223372036854775807 - 1 AND ?2 = "
        "9223372036854775807 AND ?3 = -9e999 AND ?4 = '' AND ?5 IS NULL AND ?6 = x'007800' AND "
        "typeof(?7) = 'blob' AND length(?7) = 0",
        "iudttbbrt", INT64_MIN, (uint64_t)INT64_MAX, -INFINITY, "", NULL, "\0x\0", (size_t)3, "",
        (size_t)0, "gr\xc3\xbc\xc3\x9f");
    EXPECT(node_write(&node, command, &index, &err) == 0);
    EXPECT(node_integer(&node, "SELECT created_ms FROM project WHERE key = 'grüß'") ==
           (int64_t)index);
    node_close(&node);
}

TEST(store, a_command_happens_wholly_or_not_at_all)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    EXPECT(node_write_project(&node, 1, &err) == 0);

    struct store_command *command = project_command(2);
    store_command_add_expecting(command, ERROR_CONFLICT, "project p9 has changed",
                                "UPDATE project SET created_ms = 7 WHERE key = ?", "t", "p9");
    expect_refused(&node, command, ERROR_CONFLICT);

    command = project_command(2);
    store_command_add(command, "INSERT INTO project (key, created_ms) VALUES (?, ?)", "ti", "p1",
                      (int64_t)1);
    expect_refused(&node, command, ERROR_EXISTS);

    command = project_command(2);
    store_command_add(command, "INSERT INTO nowhere VALUES (1)", "");
    expect_refused(&node, command, ERROR_INVALID);
    EXPECT(node_integer(&node, "SELECT count(*) FROM project") == 1);

    struct store_status status;
    store_status(node.store, &status);
    EXPECT(status.commands_failed == 3);
    node_close(&node);
}

TEST(store, an_expectation_answers_with_its_own_words)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "project %s is not there",
                                "DELETE FROM project WHERE key = ?", "t", "p1");
    EXPECT(node_write(&node, command, NULL, &err) == -ERROR_NOT_FOUND);
    EXPECT_STRING(err.text, "project %s is not there");
    node_close(&node);
}

TEST(store, constraints_of_the_schema_refuse)
{
    static const char *const refused[] = {
        "INSERT INTO project VALUES ('a', 'not a number')", /* STRICT */
        "INSERT INTO project VALUES (NULL, 1)",
        "INSERT INTO function VALUES ('a/f', 'a', 'f', 1, 1, 1)", /* no such project */
    };
    struct node node = open_node(NULL);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        expect_refused(&node, statement(refused[i]), ERROR_INVALID);
    }
    node_close(&node);
}

/* What replicas could answer differently, and what would break the command's own transaction. */
TEST(store, sql_that_replicas_could_disagree_about_is_refused)
{
    static const char *const refused[] = {
        "INSERT INTO project VALUES ('a', random())",
        "INSERT INTO project VALUES ('a', abs(RANDOM()))",
        "INSERT INTO project VALUES (hex(randomblob(4)), 1)",
        "INSERT INTO project VALUES (date('now'), 1)",
        "INSERT INTO project VALUES (CURRENT_TIMESTAMP, 1)",
        "INSERT INTO project SELECT strftime('%s', 'now'), 1",
        "INSERT INTO project VALUES ('a', unixepoch())",
        "INSERT INTO project VALUES (printf('%d', last_insert_rowid()), 1)",
        "INSERT INTO project VALUES ('a', total_changes())",
        "ATTACH ':memory:' AS other",
        "PRAGMA foreign_keys = OFF",
        "COMMIT",
        "ROLLBACK",
        "BEGIN",
        "SAVEPOINT mine",
        "RELEASE command",
        "CREATE TEMP TABLE mine (a)",
        "CREATE TABLE mine (a)",
        "CREATE VIEW mine AS SELECT 1",
        "CREATE TRIGGER mine AFTER INSERT ON project BEGIN DELETE FROM project; END",
        "CREATE VIRTUAL TABLE mine USING fts5(a)",
        "CREATE INDEX mine ON project (created_ms)",
        "ALTER TABLE project ADD COLUMN mine TEXT",
        "DROP TABLE holder",
        "DROP INDEX operation_request",
        "ANALYZE",
        "REINDEX",
        "VACUUM",
        "VACUUM INTO '/tmp/mine'",
        "UPDATE sqlite_master SET sql = ''",
        "UPDATE store_meta SET value = 99",
        "DELETE FROM store_meta",
        "INSERT INTO store_meta VALUES ('schema', 99)",
        "INSERT INTO project SELECT name, 1 FROM pragma_table_info('project')",
        "INSERT INTO project SELECT value, 1 FROM json_each('[1]')",
        "INSERT INTO project VALUES (sqlite_source_id(), 1)",
        "INSERT INTO project VALUES (zeroblob(900000000), 1)",
        "INSERT INTO project VALUES ('a', 'b' LIKE '%b')",
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n",
    };
    struct node node = open_node(NULL);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        expect_refused(&node, statement(refused[i]), ERROR_INVALID);
    }
    struct error err = {0};
    EXPECT(node_write_project(&node, 1, &err) == 0); /* and the store goes on */
    node_close(&node);
}

/* Its conflict clause ends the transaction that the command is in. */
TEST(store, a_command_that_rolls_back_ends_itself_alone)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    EXPECT(node_write_project(&node, 1, &err) == 0);
    struct store_command *command = project_command(2);
    store_command_add(command, "INSERT OR ROLLBACK INTO project VALUES ('p1', 1)", "");
    expect_refused(&node, command, ERROR_EXISTS);
    EXPECT(node_write_project(&node, 2, &err) == 0);
    node_close(&node);
}

/* Ten to the twelfth rows, none of which is changed. */
TEST(store, a_command_that_would_never_end_is_broken_off)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    expect_refused(&node,
                   statement("WITH d (i) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)) "
                             "SELECT count(*) FROM d a, d b, d c, d d, d e, d f, d g, d h, d i, d "
                             "j, d k, d l"),
                   ERROR_LIMIT);
    expect_refused(&node,
                   statement("WITH d (i) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)) "
                             "INSERT INTO project SELECT a.i || b.i || c.i || d.i || e.i || f.i || "
                             "g.i || h.i, 1 FROM d a, d b, d c, d d, d e, d f, d g, d h"),
                   ERROR_TOO_LARGE);
    EXPECT(node_write_project(&node, 1, &err) == 0);
    node_close(&node);
}

/* A reader has prepared the very text; the cache must not let it through for a command. */
TEST(store, the_cache_of_statements_does_not_launder_sql)
{
    struct node node = open_node(NULL);
    node_integer(&node, "SELECT random()");
    expect_refused(&node, statement("SELECT random()"), ERROR_INVALID);
    node_close(&node);
}

static int write_sized(struct node *node, size_t text_bytes, struct error *err)
{
    MEMORY_OWNED char *text = memory_new(1, text_bytes + 1);
    memset(text, 'x', text_bytes);
    struct store_command *command = store_command_new();
    store_command_add(command, "DELETE FROM project WHERE key = ?", "t", text);
    return node_write(node, command, NULL, err);
}

TEST(store, a_command_is_at_most_a_mebibyte)
{
    enum { OVERHEAD = 1 + 4 + 4 + 33 + 1 + 1 + 4 }; /* command.h; 33: the SQL */
    struct node node = open_node(NULL);
    struct error err = {0};
    EXPECT(write_sized(&node, (1 << 20) - OVERHEAD, &err) == 0);
    EXPECT(write_sized(&node, (1 << 20) - OVERHEAD + 1, &err) == -ERROR_TOO_LARGE);
    node_close(&node);
}

struct nested {
    unsigned depth;
    struct store *store;
};

static bool ask_again(sqlite3_stmt *row, void *context)
{
    struct nested *nested = context;
    struct error err = {0};
    (void)row;
    if (++nested->depth < 8) {
        EXPECT(store_query(nested->store, &err, ask_again, context, "SELECT 1 UNION SELECT 2",
                           "") == 0);
    }
    return false;
}

TEST(store, queries_may_be_made_while_rows_of_the_same_are_visited)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    struct nested context = {.store = node.store};
    EXPECT(store_query(node.store, &err, ask_again, &context, "SELECT 1 UNION SELECT 2", "") == 0);
    EXPECT(context.depth == 8);
    node_close(&node);
}

TEST(store, a_text_with_two_statements_is_refused)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    expect_refused(&node, statement("DELETE FROM alias; DELETE FROM project"), ERROR_INVALID);
    expect_refused(&node, statement(" -- nothing"), ERROR_INVALID);
    EXPECT(node_write(&node, statement("DELETE FROM project; "), NULL, &err) == 0);
    node_close(&node);
}

/* ---- Many at once ---- */

enum { MANY = 500 };

struct burst {
    struct node *node;
    uint64_t count;
    uint64_t answered;
    uint64_t good;
    uint64_t last_index;
    unsigned kinds[ERROR_KIND_COUNT];
    bool is_inside;
    bool close_at_once;
};

static void on_burst(const struct error *error, uint64_t index, void *context)
{
    struct burst *burst = context;
    EXPECT(!burst->is_inside);
    burst->answered++;
    burst->kinds[error != NULL ? error->kind : ERROR_NONE]++;
    if (error == NULL) {
        EXPECT(index > burst->last_index); /* in the order of proposing */
        burst->last_index = index;
        burst->good++;
    }
    if (burst->answered == burst->count) {
        node_stop(burst->node);
    }
}

static void propose_burst(void *context)
{
    struct burst *burst = context;
    burst->is_inside = true;
    for (uint64_t i = 0; i < burst->count; i++) {
        store_propose(burst->node->store, project_command(i), on_burst, burst);
    }
    burst->is_inside = false;
    if (burst->close_at_once) {
        node_stop(burst->node);
    }
}

TEST(store, writes_of_one_turn_share_entries_and_are_answered_in_order)
{
    struct node node = open_node(NULL);
    struct store_status before;
    struct store_status after;
    store_status(node.store, &before);
    struct burst burst = {.node = &node, .count = MANY};
    node_run(&node, propose_burst, &burst);
    store_status(node.store, &after);
    EXPECT(burst.good == MANY);
    EXPECT(after.log_index - before.log_index == 1);
    EXPECT(node_integer(&node, "SELECT count(*) FROM project") == MANY);
    node_close(&node);
}

TEST(store, refuses_the_first_write_beyond_its_bound)
{
    struct node node = open_node(&(struct store_options){.proposals_max = 4});
    struct burst burst = {.node = &node, .count = 5};
    node_run(&node, propose_burst, &burst);
    EXPECT(burst.good == 4 && burst.kinds[ERROR_OVERLOADED] == 1);
    EXPECT(node_integer(&node, "SELECT count(*) FROM project") == 4);

    struct error err = {0};
    EXPECT(node_write_project(&node, 4, &err) == 0); /* there is room again */
    node_close(&node);
}

/*
 * Goal: whoever settles the store may free what its writes refer to.  Method: writes that lead to
 * further ones, and refused ones; after store_settle() each was answered, and none comes later.
 */
struct chain {
    struct node *node;
    unsigned links;
    unsigned answered;
    unsigned refused;
};

static void on_link(const struct error *error, uint64_t index, void *context)
{
    struct chain *chain = context;
    (void)index;
    chain->answered++;
    chain->refused += error != NULL;
    if (error == NULL && chain->links > 0) {
        chain->links--;
        store_propose(chain->node->store, project_command(chain->links), on_link, chain);
    }
}

TEST(store, settling_answers_every_write_and_what_it_leads_to)
{
    struct node node = open_node(&(struct store_options){.proposals_max = 4});
    struct chain chain = {.node = &node, .links = 20};
    for (unsigned i = 0; i < 6; i++) {
        store_propose(node.store, project_command(100 + i), on_link, &chain);
    }
    store_settle(node.store);
    EXPECT(chain.answered == 6 + 20 && chain.refused == 2);
    store_settle(node.store); /* nothing to wait for */
    EXPECT(node_integer(&node, "SELECT count(*) FROM project") == 4 + 20);
    node_close(&node);
}

/*
 * Goal: closing answers each write once, says "failed" only of what did not happen, and leaves a
 * folder that opens.  Method: close in the turn of the writes; the next life looks.
 */
TEST(store, closing_answers_every_write_once_and_leaves_a_good_folder)
{
    struct node node = open_node(NULL);
    struct burst burst = {.node = &node, .count = MANY, .close_at_once = true};
    node_run(&node, propose_burst, &burst);
    node_close(&node);
    EXPECT(burst.answered == MANY);
    EXPECT(burst.good + burst.kinds[ERROR_UNAVAILABLE] + burst.kinds[ERROR_UNKNOWN_OUTCOME] ==
           MANY);

    node = open_node(NULL);
    uint64_t there = (uint64_t)node_integer(&node, "SELECT count(*) FROM project");
    EXPECT(there >= burst.good && there <= burst.good + burst.kinds[ERROR_UNKNOWN_OUTCOME]);
    node_close(&node);
}

/* As above, with entries on their way to the disk. */
struct turn {
    struct burst burst;
    unsigned turns;
};

static void propose_in_turns(void *context)
{
    struct turn *turn = context;
    for (int i = 0; i < 50; i++) {
        turn->burst.count++;
        store_propose(turn->burst.node->store, project_command(turn->burst.count), on_burst,
                      &turn->burst);
    }
    if (++turn->turns < 10) {
        loop_post(turn->burst.node->loop, propose_in_turns, turn);
    } else {
        node_stop(turn->burst.node);
    }
}

TEST(store, closing_with_entries_under_way_leaves_a_good_folder)
{
    for (int life = 0; life < 8; life++) {
        MEMORY_OWNED char *folder = memory_format("%s/%d", test_folder(), life);
        struct node node;
        struct error err = {0};
        EXPECT(node_open(&node, folder, NULL, &err) == 0);
        struct turn turn = {.burst.node = &node};
        turn.burst.count = 1000000; /* not reached: the turns stop the loop */
        node_run(&node, propose_in_turns, &turn);
        uint64_t asked = turn.burst.count - 1000000;
        node_close(&node);
        EXPECT(turn.burst.answered == asked);

        int r = node_open(&node, folder, NULL, &err);
        if (r < 0) {
            fprintf(stderr, "%s\n", err.text);
        }
        EXPECT(r == 0);
        uint64_t there = (uint64_t)node_integer(&node, "SELECT count(*) FROM project");
        EXPECT(there >= turn.burst.good);
        EXPECT(there <= turn.burst.good + turn.burst.kinds[ERROR_UNKNOWN_OUTCOME]);
        node_close(&node);
    }
}

/* ---- Changes ---- */

struct seen {
    char text[4096];
    size_t used;
    uint64_t count;
    uint64_t last_index;
    struct store_watch *free_in_callback;
};

static void see(const struct store_event *event, void *context)
{
    struct seen *seen = context;
    EXPECT(event->index >= seen->last_index);
    seen->last_index = event->index;
    seen->count++;
    if (seen->used < sizeof(seen->text) - 300) {
        seen->used += (size_t)snprintf(seen->text + seen->used, sizeof(seen->text) - seen->used,
                                       "%" PRIu64 "%c %s %s\n", event->index - SCHEMA_STEPS,
                                       event->operation, event->table, event->key);
    }
    store_watch_free(seen->free_in_callback);
    seen->free_in_callback = NULL;
}

static void write_history(struct node *node)
{
    struct error err = {0};
    EXPECT(node_write_project(node, 1, &err) == 0);
    EXPECT(node_write_project(node, 1, &err) == -ERROR_EXISTS);
    EXPECT(node_write(node, statement("INSERT INTO function VALUES ('p1/f', 'p1', 'f', 1, 1, 1)"),
                      NULL, &err) == 0);
    EXPECT(node_write(node,
                      statement("INSERT INTO alias (key, function, name, version, revision) VALUES "
                                "('p1/f/live', 'p1/f', 'live', 1, 1)"),
                      NULL, &err) == 0);
    EXPECT(node_write(node, statement("UPDATE function SET last_version = 2"), NULL, &err) == 0);
    EXPECT(node_write(node, statement("DELETE FROM function"), NULL, &err) == 0);
}

/* Indices begin behind the schema.  Refused commands change nothing and are not told; a cascade is;
 * so is DELETE without WHERE. */
static const char history[] = "1I project p1\n"
                              "3I function p1/f\n"
                              "4I alias p1/f/live\n"
                              "5U function p1/f\n"
                              "6D function p1/f\n"
                              "6D alias p1/f/live\n";

TEST(store, watchers_are_told_of_each_changed_row)
{
    struct node node = open_node(NULL);
    struct seen all = {0};
    struct seen functions = {0};
    struct store_watch *watch_all = store_watch_new(node.store, NULL, see, &all);
    struct store_watch *watch_functions = store_watch_new(node.store, "function", see, &functions);
    write_history(&node);
    EXPECT_STRING(all.text, history);
    EXPECT_STRING(functions.text, "3I function p1/f\n5U function p1/f\n6D function p1/f\n");
    store_watch_free(watch_all);
    store_watch_free(watch_functions);
    node_close(&node);
}

TEST(store, events_can_be_read_again_from_any_index)
{
    struct node node = open_node(NULL);
    write_history(&node);
    struct seen seen = {0};
    EXPECT(store_events_since(node.store, 0, see, &seen));
    EXPECT_STRING(seen.text, history);
    seen = (struct seen){0};
    EXPECT(store_events_since(node.store, SCHEMA_STEPS + 4, see, &seen));
    EXPECT_STRING(seen.text, strstr(history, "5U"));
    seen = (struct seen){0};
    EXPECT(store_events_since(node.store, SCHEMA_STEPS + 6, see, &seen) && seen.count == 0);
    node_close(&node);
}

/* Commands that change no row, the first ones even, leave no gap. */
TEST(store, events_are_whole_from_the_beginning)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    struct seen seen = {0};
    EXPECT(node_write(&node, statement("UPDATE project SET created_ms = 0"), NULL, &err) == 0);
    EXPECT(store_events_since(node.store, 0, see, &seen) && seen.count == 0);
    EXPECT(node_write_project(&node, 1, &err) == 0);
    EXPECT(store_events_since(node.store, 0, see, &seen) && seen.count == 1);
    node_close(&node);
    node = open_node(NULL); /* from the log */
    seen = (struct seen){0};
    EXPECT(store_events_since(node.store, 0, see, &seen) && seen.count == 1);
    node_close(&node);
}

/* The table n of the numbers 0 to 9999. */
#define NUMBERS                                                                                    \
    "WITH d (i) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)), n (i) AS (SELECT a.i + 10 * " \
    "b.i + 100 * c.i + 1000 * d.i FROM d a, d b, d c, d d) "

/* Goal: a gap is said, never hidden.  Method: one row more than the ring holds. */
TEST(store, says_when_kept_events_do_not_reach_back)
{
    enum { RING = 8192 };
    struct node node = open_node(&(struct store_options){.proposals_max = 4096});
    struct error err = {0};
    struct store_command *command = store_command_new();
    store_command_add(command,
                      NUMBERS "INSERT INTO project SELECT 'n' || i, i FROM n WHERE i < 4096", "");
    EXPECT(node_write(&node, command, NULL, &err) == 0);
    EXPECT(node_write(&node, statement("UPDATE project SET created_ms = 0"), NULL, &err) == 0);

    struct seen seen = {0};
    EXPECT(store_events_since(node.store, 0, see, &seen) && seen.count == RING);
    EXPECT(node_write_project(&node, 1, &err) == 0);
    seen = (struct seen){0};
    EXPECT(!store_events_since(node.store, 0, see, &seen) && seen.count == 0);
    EXPECT(store_events_since(node.store, SCHEMA_STEPS + 1, see, &seen) &&
           seen.count == RING / 2 + 1);
    node_close(&node);
}

/* Goal: a watcher that lives on the events alone never misses a row.  Method: more in one command.
 */
TEST(store, a_command_too_wide_for_the_events_does_not_pass_silently)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    struct seen seen = {0};
    struct store_watch *watch = store_watch_new(node.store, NULL, see, &seen);
    struct store_command *command = store_command_new();
    store_command_add(command,
                      NUMBERS "INSERT INTO project SELECT 'n' || i, i FROM n WHERE i < 4097", "");
    int r = node_write(&node, command, NULL, &err);
    int64_t rows = node_integer(&node, "SELECT count(*) FROM project");
    EXPECT(r < 0 ? rows == 0 && seen.count == 0 : (uint64_t)rows == seen.count);
    store_watch_free(watch);
    node_close(&node);
}

TEST(store, a_watch_may_end_itself_while_it_is_told)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    struct seen once = {0};
    struct seen always = {0};
    once.free_in_callback = store_watch_new(node.store, NULL, see, &once);
    struct store_watch *watch = store_watch_new(node.store, NULL, see, &always);
    EXPECT(node_write_project(&node, 1, &err) == 0);
    EXPECT(node_write_project(&node, 2, &err) == 0);
    EXPECT(once.count == 1 && always.count == 2);
    store_watch_free(watch);
    node_close(&node);
}

/* ---- Snapshots ---- */

TEST(store, a_snapshot_carries_the_state_over_a_restart)
{
    enum { WRITES = 5000 }; /* above the entries between two snapshots */
    struct node node = open_node(NULL);
    struct error err = {0};
    for (uint64_t i = 0; i < WRITES; i++) {
        EXPECT(node_write_project(&node, i, &err) == 0);
    }
    struct store_status status;
    store_status(node.store, &status);
    EXPECT(status.snapshots > 0);
    uint64_t digest = node_digest(&node);
    node_close(&node);

    node = open_node(NULL);
    EXPECT(store_index(node.store) == SCHEMA_STEPS + WRITES && node_digest(&node) == digest);
    struct seen seen = {0};
    EXPECT(!store_events_since(node.store, 0, see, &seen)); /* they went into the snapshot */
    EXPECT(store_events_since(node.store, SCHEMA_STEPS + WRITES, see, &seen) && seen.count == 0);
    EXPECT(node_write_project(&node, WRITES, &err) == 0);
    node_close(&node);
}

TEST(store, a_log_of_snapshot_bytes_is_made_a_snapshot)
{
    struct node node = open_node(&(struct store_options){.snapshot_bytes = 64 << 10});
    struct error err = {0};
    struct store_status status = {0};
    for (int i = 0; i < 40; i++) {
        EXPECT(write_sized(&node, 8 << 10, &err) == 0);
    }
    store_status(node.store, &status);
    EXPECT(status.snapshots > 0);
    node_close(&node);
}

/* ---- The folder ---- */

TEST(store, a_folder_in_use_is_refused_and_names_the_process)
{
    struct node node = open_node(NULL);
    struct node second;
    struct error err = {0};
    EXPECT(node_open(&second, test_folder(), NULL, &err) == -ERROR_EXISTS);
    char pid[32];
    snprintf(pid, sizeof(pid), "process %ld)", (long)getpid());
    EXPECT(strstr(err.text, pid) != NULL && strstr(err.text, test_folder()) != NULL);

    EXPECT(node_write_project(&node, 1, &err) == 0); /* the first is none the worse */
    node_close(&node);
    node = open_node(NULL); /* the lock ends with the store */
    node_close(&node);
}

static void write_format(const char *text)
{
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/format", test_folder());
    EXPECT(file_write(path, text, strlen(text), 0600, &err) == 0);
}

TEST(store, a_folder_of_a_newer_version_is_refused)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    node_close(&node);
    write_format("{\"format\": 2, \"node\": \"0000000000000001\", \"last_index\": 0}\n");
    EXPECT(node_open(&node, test_folder(), NULL, &err) == -ERROR_UNSUPPORTED);
    EXPECT(strstr(err.text, "upgrade") != NULL);
}

TEST(store, a_folder_that_cannot_be_made_is_an_error)
{
    struct node node;
    struct error err = {0};
    EXPECT(node_open(&node, "/proc/blixard", NULL, &err) < 0);
    EXPECT(strstr(err.text, "/proc/blixard") != NULL);
}

/* ---- The schema ---- */

TEST(store, begins_with_the_newest_schema_and_refuses_a_newer_one)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    EXPECT(node_integer(&node, "SELECT value FROM store_meta WHERE key = 'schema'") ==
           SCHEMA_STEPS + 1);
    struct store_command *command = store_command_new();
    store_command_add(command, SCHEMA_RAISE, "u", (uint64_t)SCHEMA_STEPS + 2);
    EXPECT(node_write(&node, command, NULL, &err) == -ERROR_UNSUPPORTED);
    node_close(&node);
    EXPECT(node_open(&node, test_folder(), NULL, &err) == -ERROR_UNSUPPORTED);
    EXPECT(strstr(err.text, "start a newer one") != NULL &&
           strstr(err.text, test_folder()) != NULL);
}

/* ---- Linearizable reads ---- */

struct reading {
    struct node *node;
    uint64_t number;
    int64_t seen;
    unsigned ends;
    unsigned wanted;
    bool is_inside;
    struct error error;
};

static void on_barrier_passed(const struct error *error, void *context)
{
    struct reading *reading = context;
    EXPECT(!reading->is_inside);
    if (error != NULL) {
        reading->error = *error;
    } else {
        reading->seen = node_integer(reading->node, "SELECT count(*) FROM project");
    }
    if (++reading->ends == reading->wanted) {
        node_stop(reading->node);
    }
}

/* Writes that were proposed before are seen, whoever waits for them. */
static void write_then_read(void *context)
{
    struct reading *reading = context;
    reading->is_inside = true;
    for (unsigned i = 0; i < reading->wanted; i++) {
        store_propose(reading->node->store, project_command(++reading->number), NULL, NULL);
        store_barrier(reading->node->store, on_barrier_passed, reading);
    }
    reading->is_inside = false;
}

TEST(store, a_barrier_comes_after_what_was_written_before_it)
{
    struct node node = open_node(NULL);
    struct reading reading = {.node = &node, .wanted = 7};
    for (int turn = 1; turn <= 5; turn++) {
        struct store_status before;
        struct store_status after;
        reading.ends = 0;
        store_status(node.store, &before);
        node_run(&node, write_then_read, &reading);
        store_status(node.store, &after);
        EXPECT(reading.error.kind == ERROR_NONE && reading.seen == turn * 7);
        EXPECT(after.log_index - before.log_index == 2); /* one entry, and one barrier for all */
    }
    node_close(&node);
}

static void read_only(void *context)
{
    struct reading *reading = context;
    store_barrier(reading->node->store, on_barrier_passed, reading);
    uv_stop(loop_uv(reading->node->loop)); /* before it can pass */
}

TEST(store, a_barrier_ends_when_the_store_does)
{
    struct node node = open_node(NULL);
    struct reading reading = {.node = &node, .wanted = 2};
    node_run(&node, read_only, &reading);
    EXPECT(reading.ends == 0);
    node_close(&node);
    EXPECT(reading.ends == 1);
}

/* ---- Copies ---- */

static void dump(struct node *node, struct buffer *database, uint64_t *index)
{
    struct error err = {0};
    EXPECT(store_dump(node->store, database, index, &err) == 0);
    EXPECT(*index == store_index(node->store));
}

static int seed(const char *folder, const void *bytes, size_t length, uint64_t index,
                struct error *err)
{
    struct loop *loop = NULL;
    EXPECT(loop_new("seed", &loop, err) == 0);
    int r = store_seed(loop, folder, bytes, length, index, err);
    loop_free(loop);
    return r;
}

TEST(store, a_copy_of_the_state_begins_a_new_store)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    BUFFER_OWNED struct buffer database = {0};
    uint64_t index = 0;
    MEMORY_OWNED char *folder = memory_format("%s/new", test_folder());
    for (uint64_t i = 0; i < 20; i++) {
        EXPECT(node_write_project(&node, i, &err) == 0);
    }
    dump(&node, &database, &index);
    uint64_t digest = node_digest(&node);
    EXPECT(node_write_project(&node, 99, &err) == 0); /* after the copy */
    node_close(&node);

    EXPECT(seed(folder, database.data, database.used, index, &err) == 0);
    uint64_t last = index;
    for (uint64_t life = 0; life < 3; life++) {
        struct seen seen = {0};
        EXPECT(node_open(&node, folder, NULL, &err) == 0);
        EXPECT(life > 0 || node_digest(&node) == digest);
        EXPECT(store_index(node.store) > last || life > 0);
        EXPECT(!store_events_since(node.store, index - 1, see, &seen));
        last = store_index(node.store);
        EXPECT(node_write_project(&node, 100 + life, &err) == 0);
        EXPECT(node_integer(&node, "SELECT count(*) FROM project") == 21 + (int64_t)life);
        node_close(&node);
    }
}

TEST(store, a_copy_that_is_no_database_begins_nothing)
{
    struct node node = open_node(NULL);
    struct error err = {0};
    BUFFER_OWNED struct buffer database = {0};
    uint64_t index = 0;
    dump(&node, &database, &index);
    node_close(&node);
    MEMORY_OWNED char *folder = memory_format("%s/new", test_folder());
    EXPECT(seed(folder, "no database", 11, 5, &err) == -ERROR_CORRUPT);
    memset(database.data + 4096, 0x5a, 4096);
    EXPECT(file_remove_tree(folder, &err) == 0);
    EXPECT(seed(folder, database.data, database.used, 5, &err) == -ERROR_CORRUPT);
    EXPECT(strstr(err.text, "database") != NULL);
}
