/*
 * The same commands make the same database, byte for byte, on every replica: on one that applied
 * them all, on one that went through a snapshot, on one that got them in other entries.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/store/machine.h"
#include "engine/store/private.h"

#include "test/lib/test.h"

enum { REPLICAS = 3, SEEDS = 12, ENTRIES = 60, COMMANDS_MAX = 5 };

static void ignore_result(const struct machine_result *result, void *context)
{
    uint64_t *refused = context;
    *refused += result->error != NULL;
}

static void ignore_change(const struct store_event *event, void *context)
{
    (void)event, (void)context;
}

static struct machine *open_machine(uint64_t *refused)
{
    const struct machine_listener listener = {ignore_result, ignore_change, refused};
    struct machine *machine = NULL;
    struct error err = {0};
    static char *schema;
    if (schema == NULL) {
        schema = schema_initial();
    }
    EXPECT(machine_open(schema, &listener, &machine, &err) == 0);
    return machine;
}

/* xorshift64*: the same everywhere, from a seed. */
static uint64_t draw(uint64_t *state, uint64_t below)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (*state * UINT64_C(2685821657736338717)) % below;
}

/* One statement of many kinds; some break a rule, which undoes their command. */
static void add_statement(struct store_command *command, uint64_t *state)
{
    char key[16];
    char function[40];
    uint64_t number = draw(state, 12);
    snprintf(key, sizeof(key), "p%" PRIu64, number);
    snprintf(function, sizeof(function), "%s/f%" PRIu64, key, draw(state, 4));
    switch (draw(state, 8)) {
    case 0:
        store_command_add(command, "INSERT INTO project (key, created_ms) VALUES (?, ?)", "tu", key,
                          number);
        break;
    case 1:
        store_command_add(
            command,
            "INSERT INTO project (key, created_ms) VALUES (?, ?) ON CONFLICT (key) DO "
            "UPDATE SET created_ms = created_ms + 1",
            "tr", key);
        break;
    case 2:
        store_command_add(command, "INSERT INTO function VALUES (?, ?, ?, ?, ?, ?)", "tttuur",
                          function, key, function + strlen(key) + 1, number, number);
        break;
    case 3:
        store_command_add_expecting(command, ERROR_CONFLICT, "not so",
                                    "UPDATE function SET last_version = last_version + 1, revision "
                                    "= ? WHERE key = ? AND last_version < 9",
                                    "rt", function);
        break;
    case 4:
        store_command_add(command, "DELETE FROM function WHERE project = ?", "t", key);
        break;
    case 5:
        store_command_add(command, "DELETE FROM project WHERE key = ?", "t", key);
        break;
    case 6:
        store_command_add(command,
                          "INSERT INTO alias (key, function, name, version, revision) VALUES (? || "
                          "'/live', ?, 'live', ?, ?) ON CONFLICT "
                          "(key) DO UPDATE SET version = excluded.version",
                          "ttur", function, function, number);
        break;
    default:
        store_command_add(command, "UPDATE project SET created_ms = ?", "d", (double)number / 3);
        break;
    }
}

static struct store_command *make_command(uint64_t *state)
{
    struct store_command *command = store_command_new();
    for (uint64_t count = draw(state, 3) + 1; count > 0; count--) {
        add_statement(command, state);
    }
    return command;
}

static void apply(struct machine *machine, struct store_command *const *commands, unsigned count)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer entry = {0};
    struct machine_entry head = {.origin = 1, .base = machine_index(machine), .count = count};
    bool is_applied = false;
    machine_encode_entry(&head, (const struct store_command *const *)commands, &entry);
    EXPECT(machine_apply(machine, entry.data, entry.used, &head, &is_applied, &err) == 0);
    EXPECT(is_applied);
}

/*
 * SQLite counts changes of the file in its header (at 24, and 92 to 99; file format, 1.3), but not
 * in a database that never came from a file: that is no part of the state.
 */
static void drop_counters(struct buffer *snapshot)
{
    enum { HEAD = 24, COUNTER = 24, VALID_FOR = 92, SNAPSHOT_CRC = 16 };
    memset(snapshot->data + SNAPSHOT_CRC, 0, 4);
    memset(snapshot->data + HEAD + COUNTER, 0, 4);
    memset(snapshot->data + HEAD + VALID_FOR, 0, 8);
}

static void expect_same(struct machine *a, struct machine *b)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer one = {0};
    BUFFER_OWNED struct buffer other = {0};
    EXPECT(machine_snapshot(a, &one, &err) == 0 && machine_snapshot(b, &other, &err) == 0);
    drop_counters(&one);
    drop_counters(&other);
    EXPECT(one.used == other.used && memcmp(one.data, other.data, one.used) == 0);
}

static void go_through_snapshot(const struct machine *from, struct machine *to)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer bytes = {0};
    EXPECT(machine_snapshot((struct machine *)(uintptr_t)from, &bytes, &err) == 0);
    bool is_restored = false;
    EXPECT(machine_restore(to, bytes.data, bytes.used, &is_restored, &err) == 0 && is_restored);
}

/* Returns how many commands were refused: the test is nothing without any. */
static uint64_t run(uint64_t seed)
{
    struct machine *machines[REPLICAS];
    uint64_t refused[REPLICAS] = {0};
    uint64_t state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    uint64_t restore_at = draw(&state, ENTRIES);
    for (int i = 0; i < REPLICAS; i++) {
        machines[i] = open_machine(&refused[i]);
    }
    for (unsigned entry = 0; entry < ENTRIES; entry++) {
        struct store_command *commands[COMMANDS_MAX];
        unsigned count = (unsigned)draw(&state, COMMANDS_MAX) + 1;
        for (unsigned i = 0; i < count; i++) {
            commands[i] = entry == 3 && i == 0 ? schema_step(2) : make_command(&state);
        }
        apply(machines[0], commands, count);
        if (entry < restore_at) {
            apply(machines[1], commands, count);
        } else if (entry == restore_at) {
            go_through_snapshot(machines[0], machines[1]); /* what it has is thrown away */
        } else {
            apply(machines[1], commands, count);
        }
        for (unsigned i = 0; i < count; i++) {
            apply(machines[2], &commands[i], 1);
            store_command_free(commands[i]);
        }
    }
    expect_same(machines[0], machines[1]);
    expect_same(machines[0], machines[2]);
    EXPECT(refused[0] == refused[2]);
    for (int i = 0; i < REPLICAS; i++) {
        machine_close(machines[i]);
    }
    return refused[0];
}

TEST(store_replica, the_same_commands_make_the_same_bytes)
{
    uint64_t refused = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        refused += run(seed);
    }
    EXPECT(refused > SEEDS);
}

/*
 * Goal: what is broken off is broken off everywhere, at the same command.
 * Method: entries whose last commands have no steps left; one replica has run each of the
 * statements before, another has not.
 */
TEST(store_replica, the_same_commands_run_out_of_steps)
{
    enum { COMMANDS = 40 };
    static const char long_one[] =
        "WITH d (i) AS (VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)) UPDATE project SET "
        "created_ms = created_ms + (SELECT count(*) FROM d a, d b, d c, d d, d e, d f WHERE a.i + "
        "b.i + c.i + d.i + e.i + f.i < project.created_ms)";
    uint64_t refused[2] = {0};
    struct machine *one = open_machine(&refused[0]);
    struct machine *other = open_machine(&refused[1]);
    struct store_command *commands[COMMANDS];
    struct store_command *first = store_command_new();
    struct store_command *warm = store_command_new();
    store_command_add(first, "INSERT INTO project VALUES ('a', 1)", "");
    store_command_add(warm, long_one, "");
    apply(one, &first, 1);
    apply(one, &warm, 1);
    go_through_snapshot(one, other);
    uint64_t before = refused[0];
    for (int i = 0; i < COMMANDS; i++) {
        commands[i] = store_command_new();
        store_command_add(commands[i], long_one, "");
    }
    apply(one, commands, COMMANDS);
    apply(other, commands, COMMANDS);
    expect_same(one, other);
    EXPECT(refused[0] - before == refused[1]);
    EXPECT(refused[1] > 0 && refused[1] < COMMANDS);
    for (int i = 0; i < COMMANDS; i++) {
        store_command_free(commands[i]);
    }
    store_command_free(first);
    store_command_free(warm);
    machine_close(one);
    machine_close(other);
}

static void apply_one(struct machine *machine, struct store_command *command)
{
    struct store_command *const commands[] = {command};
    apply(machine, commands, 1);
    store_command_free(command);
}

static int64_t number_of(struct machine *machine, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    EXPECT(sqlite3_prepare_v2(machine_database(machine), sql, -1, &statement, NULL) == SQLITE_OK);
    EXPECT(sqlite3_step(statement) == SQLITE_ROW);
    int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return number;
}

/* Quotas and placement count columns that came with version 8: a machine of before has in them what
 * its settings say, though nobody has changed it since. */
TEST(store_replica, machines_of_before_version_8_take_what_their_settings_say)
{
    enum { BEFORE = 7, WITH_COLUMNS = 8 };
    uint64_t refused = 0;
    struct machine *machine = open_machine(&refused);
    for (unsigned version = 2; version <= BEFORE; version++) {
        apply_one(machine, schema_step(version));
    }
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO machine (key, project, name, id, node, config, desired, state, "
                      "restarts, created_ms, revision) VALUES ('p/old', 'p', 'old', 'a', 'n', ?, "
                      "'stopped', 'stopped', 0, 0, 0)",
                      "t", "{\"cpus\":3,\"memory_bytes\":1024,\"disk_bytes\":2048}");
    apply_one(machine, command);
    apply_one(machine, schema_step(WITH_COLUMNS));
    EXPECT(refused == 0);
    EXPECT(number_of(machine, "SELECT cpu_millis FROM machine") == 3000);
    EXPECT(number_of(machine, "SELECT cores FROM machine") == 0);
    EXPECT(number_of(machine, "SELECT memory_bytes FROM machine") == 1024);
    EXPECT(number_of(machine, "SELECT disk_bytes FROM machine") == 2048);
    machine_close(machine);
}
