/* Debian and nixpkgs build SQLite with it; the header hides it unless asked. */
#define SQLITE_ENABLE_PREUPDATE_HOOK

#include "engine/store/machine.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/store/private.h"
#include "engine/store/rights.h"

enum { STATEMENTS_CACHED = 128, QUERIES_NESTED_MAX = 8, KEY_MAX = 256, EVENTS_MAX = 4096 };

static const uint32_t entry_magic = 0x31584c42;    /* "BLX1" */
static const uint32_t snapshot_magic = 0x53584c42; /* "BLXS" */
enum { ENTRY_HEAD = 36, ENTRY_BASE = 24, ENTRY_CRC = 32, SNAPSHOT_CRC = 16, SNAPSHOT_VERSION = 1 };

struct cached {
    char *sql;
    sqlite3_stmt *statement;
    bool is_of_command; /* prepared with the rights of one */
    enum rights_kind kind;
};

struct change {
    char table[64];
    char key[KEY_MAX];
    char operation;
    int64_t rowid;
};

struct machine {
    sqlite3 *database;
    const char *schema;
    struct machine_listener listener;
    struct cached cache[STATEMENTS_CACHED];
    struct rights rights;
    bool changed_schema; /* the command being applied did */
    bool has_stepped;    /* it said that the schema is of its next version */
    bool is_beyond;      /* which this program does not know */
    uint64_t index;
    uint64_t failures;
    struct change *changes; /* of the command being applied */
    size_t change_count;
    size_t change_size;
    bool is_too_wide; /* it changed more rows than events are kept for */
};

/* ---- What changes ---- */

/* Before each change of a row: the first column is the key by our schema's rule.  Where it is no
 * text, nobody watches the rows: they are no events, and there may be many of them. */
static void note_change(void *context, sqlite3 *database, int operation, const char *schema,
                        const char *table, sqlite3_int64 old_rowid, sqlite3_int64 new_rowid)
{
    struct machine *machine = context;
    (void)schema;
    if (strncmp(table, "store_", 6) == 0) {
        return;
    }
    sqlite3_value *key = NULL;
    int r = operation == SQLITE_DELETE ? sqlite3_preupdate_old(database, 0, &key)
                                       : sqlite3_preupdate_new(database, 0, &key);
    if (r == SQLITE_OK && sqlite3_value_type(key) == SQLITE_INTEGER) {
        return;
    }
    if (machine->change_count == EVENTS_MAX) {
        machine->is_too_wide = true;
        machine->rights.is_over = true;
        return;
    }
    if (machine->change_count == machine->change_size) {
        machine->change_size = machine->change_size * 2 + 16;
        machine->changes =
            memory_resize(machine->changes, machine->change_size * sizeof(struct change));
    }
    struct change *change = &machine->changes[machine->change_count++];
    const char *text = r == SQLITE_OK ? (const char *)sqlite3_value_text(key) : NULL;
    snprintf(change->table, sizeof(change->table), "%s", table);
    snprintf(change->key, sizeof(change->key), "%s", text != NULL ? text : "");
    change->operation = operation == SQLITE_INSERT ? 'I' : operation == SQLITE_DELETE ? 'D' : 'U';
    change->rowid = operation == SQLITE_DELETE ? old_rowid : new_rowid;
}

static int execute(struct machine *machine, const char *sql, struct error *err)
{
    char *problem = NULL;
    int r = sqlite3_exec(machine->database, sql, NULL, NULL, &problem);
    if (r != SQLITE_OK) {
        error_set(err, ERROR_CORRUPT, "the state database: %s",
                  problem != NULL ? problem : sqlite3_errstr(r));
        sqlite3_free(problem);
        return -(int)ERROR_CORRUPT;
    }
    return 0;
}

/* ---- Statements ---- */

static void drop(struct cached *cached)
{
    sqlite3_finalize(cached->statement);
    free(cached->sql);
    *cached = (struct cached){0};
}

static void drop_statements(struct machine *machine)
{
    for (size_t i = 0; i < STATEMENTS_CACHED; i++) {
        drop(&machine->cache[i]);
    }
}

static bool is_busy(const struct cached *cached)
{
    return cached->statement != NULL && sqlite3_stmt_busy(cached->statement);
}

static bool is_it(const struct cached *cached, const char *sql, size_t length, bool is_of_command)
{
    return cached->sql != NULL && cached->is_of_command == is_of_command &&
        strlen(cached->sql) == length && memcmp(cached->sql, sql, length) == 0;
}

/*
 * The cached statement of this text, or else one that may be replaced.  One whose rows are being
 * visited is neither: queries may be made while the rows of another are visited, even of its twin.
 */
static struct cached *find_cached(struct machine *machine, const char *sql, size_t length,
                                  bool is_of_command)
{
    uint32_t hash = (uint32_t)crc32(0, (const Bytef *)sql, (uInt)length);
    struct cached *spare = NULL;
    for (unsigned i = 0; i < QUERIES_NESTED_MAX; i++) {
        struct cached *cached = &machine->cache[(hash + i) % STATEMENTS_CACHED];
        if (is_busy(cached)) {
            continue;
        }
        if (is_it(cached, sql, length, is_of_command)) {
            return cached;
        }
        spare = spare != NULL ? spare : cached;
    }
    CHECK(spare != NULL); /* queries inside queries, too deep */
    return spare;
}

static bool is_blank(const char *text, const char *end)
{
    while (text < end && strchr("; \t\n", *text) != NULL) {
        text++;
    }
    return text >= end;
}

/* A command uses no virtual tables: some show what only this replica has. */
static sqlite3_stmt *prepare(struct machine *machine, const char *sql, size_t length,
                             bool is_of_command, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    const char *rest = NULL;
    unsigned flags = SQLITE_PREPARE_PERSISTENT | (is_of_command ? SQLITE_PREPARE_NO_VTAB : 0);
    int r = sqlite3_prepare_v3(machine->database, sql, (int)length, flags, &statement, &rest);
    if (r != SQLITE_OK || statement == NULL) {
        error_set(err, ERROR_INVALID, "SQL: %s",
                  r != SQLITE_OK ? sqlite3_errmsg(machine->database) : "no statement");
        return NULL;
    }
    if (!is_blank(rest, sql + length)) {
        sqlite3_finalize(statement);
        error_set(err, ERROR_INVALID, "SQL: more than one statement");
        return NULL;
    }
    return statement;
}

/* With the rights of the statement, until somebody sets others. */
static sqlite3_stmt *find_statement(struct machine *machine, const char *sql, size_t length,
                                    bool is_of_command, struct error *err)
{
    struct cached *cached = find_cached(machine, sql, length, is_of_command);
    if (is_it(cached, sql, length, is_of_command)) {
        machine->rights.kind = cached->kind;
        sqlite3_reset(cached->statement);
        sqlite3_clear_bindings(cached->statement);
        return cached->statement;
    }
    machine->rights.kind = is_of_command ? rights_of(sql, length) : RIGHTS_OWN;
    sqlite3_stmt *statement = prepare(machine, sql, length, is_of_command, err);
    if (statement == NULL) {
        return NULL;
    }
    drop(cached);
    *cached = (struct cached){.sql = memory_copy_text(sql, length),
                              .statement = statement,
                              .is_of_command = is_of_command,
                              .kind = machine->rights.kind};
    return statement;
}

sqlite3_stmt *machine_statement(struct machine *machine, const char *sql, size_t length,
                                struct error *err)
{
    return find_statement(machine, sql, length, false, err);
}

/* ---- Opening ---- */

static void set_up(struct machine *machine)
{
    sqlite3_extended_result_codes(machine->database, 1);
    sqlite3_exec(machine->database, "PRAGMA foreign_keys=ON; PRAGMA recursive_triggers=ON", NULL,
                 NULL, NULL);
    sqlite3_preupdate_hook(machine->database, note_change, machine);
    rights_install(&machine->rights, machine->database);
}

static int create(struct machine *machine, struct error *err)
{
    static const char own[] =
        "CREATE TABLE store_meta (key TEXT PRIMARY KEY NOT NULL, value INTEGER "
        "NOT NULL) STRICT";
    int r = execute(machine, own, err);
    return r < 0 ? r : execute(machine, machine->schema, err);
}

int machine_open(const char *schema, const struct machine_listener *listener,
                 struct machine **ret_machine, struct error *err)
{
    struct machine *machine = NEW(struct machine);
    machine->schema = schema;
    machine->listener = *listener;
    int r = sqlite3_open(":memory:", &machine->database);
    CHECK(r == SQLITE_OK);
    set_up(machine);
    r = create(machine, err);
    if (r < 0) {
        machine_close(machine);
        return r;
    }
    machine->change_count = 0;
    *ret_machine = machine;
    return 0;
}

void machine_close(struct machine *machine)
{
    if (machine == NULL) {
        return;
    }
    drop_statements(machine);
    int r = sqlite3_close(machine->database);
    CHECK(r == SQLITE_OK); /* a statement of somebody else is still there */
    free(machine->changes);
    free(machine);
}

sqlite3 *machine_database(const struct machine *machine)
{
    return machine->database;
}

uint64_t machine_index(const struct machine *machine)
{
    return machine->index;
}

uint32_t machine_incarnation(struct machine *machine)
{
    static const char sql[] = "SELECT value FROM store_meta WHERE key = 'incarnation'";
    struct error ignored = {0};
    sqlite3_stmt *statement = machine_statement(machine, sql, sizeof(sql) - 1, &ignored);
    if (statement == NULL) {
        return 0;
    }
    uint32_t incarnation =
        sqlite3_step(statement) == SQLITE_ROW ? (uint32_t)sqlite3_column_int64(statement, 0) : 0;
    sqlite3_reset(statement);
    return incarnation;
}

uint64_t machine_failures(const struct machine *machine)
{
    return machine->failures;
}

/* ---- Applying ---- */

/* Of everything but the CRC itself, whose place is `at`. */
static uint32_t checksum(const uint8_t *bytes, size_t length, size_t at)
{
    uLong crc = crc32(0, bytes, (uInt)at);
    at += sizeof(uint32_t);
    return (uint32_t)crc32(crc, bytes + at, (uInt)(length - at));
}

void machine_encode_entry(const struct machine_entry *entry,
                          const struct store_command *const *commands, struct buffer *ret_entry)
{
    CHECK(ret_entry->used == 0);
    buffer_append_u32(ret_entry, entry_magic);
    buffer_append_u32(ret_entry, entry->count);
    buffer_append_u64(ret_entry, entry->origin);
    buffer_append_u64(ret_entry, entry->sequence);
    buffer_append_u64(ret_entry, 0);
    buffer_append_u32(ret_entry, 0);
    for (unsigned i = 0; i < entry->count; i++) {
        buffer_append_u32(ret_entry, (uint32_t)(commands[i]->bytes.used + 4));
        buffer_append_u32(ret_entry, commands[i]->statements);
        buffer_append(ret_entry, commands[i]->bytes.data, commands[i]->bytes.used);
    }
    while (ret_entry->used % 8 != 0) {
        buffer_append_byte(ret_entry, 0); /* libraft 0.15 wants multiples and does not check */
    }
    machine_place_entry(ret_entry->data, ret_entry->used, entry->base);
}

void machine_place_entry(uint8_t *bytes, size_t length, uint64_t base)
{
    CHECK(length >= ENTRY_HEAD);
    memcpy(bytes + ENTRY_BASE, &base, sizeof(base));
    uint32_t crc = checksum(bytes, length, ENTRY_CRC);
    memcpy(bytes + ENTRY_CRC, &crc, sizeof(crc));
}

int machine_read_entry(const uint8_t *bytes, size_t length, struct machine_entry *ret_entry,
                       struct error *err)
{
    struct command_reader reader = {.at = bytes, .end = bytes + length};
    struct machine_entry entry = {0};
    uint32_t magic = command_read_u32(&reader);
    entry.count = command_read_u32(&reader);
    entry.origin = command_read_u64(&reader);
    entry.sequence = command_read_u64(&reader);
    entry.base = command_read_u64(&reader);
    uint32_t crc = command_read_u32(&reader);
    if (reader.is_bad || magic != entry_magic || crc != checksum(bytes, length, ENTRY_CRC)) {
        return error_set(err, ERROR_CORRUPT, "an entry of the log is damaged");
    }
    *ret_entry = entry;
    return 0;
}

int machine_check_entry(const uint8_t *bytes, size_t length, struct machine_entry *ret_entry,
                        struct error *err)
{
    struct error damage = {0};
    if (length % 8 != 0 || machine_read_entry(bytes, length, ret_entry, &damage) < 0) {
        return error_set(err, ERROR_INVALID, "no entry of a log");
    }
    struct command_reader reader = {.at = bytes + ENTRY_HEAD, .end = bytes + length};
    for (uint32_t i = 0; i < ret_entry->count; i++) {
        uint32_t size = command_read_u32(&reader);
        const uint8_t *command = command_read_bytes(&reader, size);
        if (reader.is_bad || !command_is_whole(command, size)) {
            return error_set(err, ERROR_INVALID, "an entry whose commands are malformed");
        }
    }
    if (ret_entry->count == 0 || reader.end - reader.at >= 8) {
        return error_set(err, ERROR_INVALID, "an entry of %u commands and more", ret_entry->count);
    }
    return 0;
}

static void bind_from(struct command_reader *reader, sqlite3_stmt *statement, uint64_t index)
{
    unsigned count = command_read_u8(reader);
    for (int i = 1; i <= (int)count && !reader->is_bad; i++) {
        uint8_t type = command_read_u8(reader);
        uint64_t bits = type == 'i' || type == 'd' ? command_read_u64(reader) : 0;
        uint32_t length = type == 't' || type == 'b' ? command_read_u32(reader) : 0;
        const uint8_t *bytes = command_read_bytes(reader, length);
        double number;
        memcpy(&number, &bits, sizeof(number));
        switch (type) {
        case 'i':
            sqlite3_bind_int64(statement, i, (sqlite3_int64)bits);
            break;
        case 'd':
            sqlite3_bind_double(statement, i, number);
            break;
        case 't':
            sqlite3_bind_text(statement, i, (const char *)bytes, (int)length, SQLITE_STATIC);
            break;
        case 'b':
            sqlite3_bind_blob(statement, i, bytes, (int)length, SQLITE_STATIC);
            break;
        case 'r':
            sqlite3_bind_int64(statement, i, (sqlite3_int64)index);
            break;
        case 'n':
            break;
        default:
            reader->is_bad = true;
        }
    }
}

static int judge(struct machine *machine, int r, struct error *err)
{
    const char *text = sqlite3_errmsg(machine->database);
    switch (r & 0xff) {
    case SQLITE_CONSTRAINT:
        return error_set(err,
                         r == SQLITE_CONSTRAINT_UNIQUE || r == SQLITE_CONSTRAINT_PRIMARYKEY
                             ? ERROR_EXISTS
                             : ERROR_INVALID,
                         "%s", text);
    case SQLITE_NOMEM:
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_CORRUPT:
        return error_set(err, ERROR_CORRUPT, "the state database: %s", text);
    case SQLITE_INTERRUPT:
        return error_set(err, ERROR_LIMIT, "the change takes too long: make several of it");
    default:
        return error_set(err, ERROR_INVALID, "SQL: %s", text);
    }
}

/*
 * A node of a newer Blixard may expect with a kind that this one does not know; and that a replica
 * is damaged is said by what it finds, never by a command.  It matters to who waits, and that is
 * the node which made the command.
 */
static enum error_kind expected_kind(uint8_t kind)
{
    return kind >= ERROR_KIND_COUNT || kind == ERROR_CORRUPT ? ERROR_CONFLICT
                                                             : (enum error_kind)kind;
}

static bool take_version(struct machine *machine, uint64_t *ret_version, struct error *err)
{
    static const char sql[] = "SELECT value FROM store_meta WHERE key = 'schema'";
    sqlite3_stmt *statement = machine_statement(machine, sql, sizeof(sql) - 1, err);
    bool is_there = statement != NULL && sqlite3_step(statement) == SQLITE_ROW;
    *ret_version = is_there ? (uint64_t)sqlite3_column_int64(statement, 0) : 1;
    sqlite3_reset(statement);
    return statement != NULL;
}

/*
 * The schema is of its next version from here on.  A program that does not know it can neither
 * carry the step out nor refuse it: other replicas do not.
 */
static int take_step(struct machine *machine, bool is_judged, struct error *err)
{
    uint64_t version = 0;
    if (!take_version(machine, &version, err)) {
        return -(int)err->kind;
    }
    if (version > SCHEMA_LAST_OF_ONE && !is_judged) {
        return error_set(err, ERROR_INVALID, "this step of the schema is one that nodes agree on");
    }
    machine->has_stepped = true;
    machine->is_beyond = version > schema_version();
    return machine->is_beyond
        ? error_set(err, ERROR_UNSUPPORTED,
                    "the state is of schema %" PRIu64 " from index %" PRIu64 " on, and this "
                    "Blixard knows %u: start a newer one",
                    version, machine->index + 1, schema_version())
        : 0;
}

static int run_statement(struct machine *machine, struct command_reader *reader, uint64_t index,
                         struct error *err)
{
    enum error_kind kind = expected_kind(command_read_u8(reader));
    uint32_t text_length = command_read_u32(reader);
    const char *text = (const char *)command_read_bytes(reader, text_length);
    uint32_t sql_length = command_read_u32(reader);
    const char *sql = (const char *)command_read_bytes(reader, sql_length);
    if (reader->is_bad) {
        return error_set(err, ERROR_CORRUPT, "a command of the log is damaged");
    }
    sqlite3_stmt *statement = find_statement(machine, sql, sql_length, true, err);
    if (statement == NULL) {
        return -(int)err->kind;
    }
    bool is_step = machine->rights.kind == RIGHTS_STEP;
    machine->changed_schema = machine->changed_schema || machine->rights.kind == RIGHTS_SCHEMA;
    bind_from(reader, statement, index);
    if (reader->is_bad) {
        sqlite3_clear_bindings(statement);
        return error_set(err, ERROR_CORRUPT, "a command of the log is damaged");
    }
    int before = sqlite3_total_changes(machine->database);
    int r = SQLITE_ROW;
    rights_begin(&machine->rights, statement);
    while (r == SQLITE_ROW) {
        r = sqlite3_step(statement);
    }
    rights_end(&machine->rights);
    int result = r == SQLITE_DONE ? 0 : judge(machine, r, err);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    bool is_changed = sqlite3_total_changes(machine->database) != before;
    if (result == 0 && kind != ERROR_NONE && !is_changed) {
        return error_set(err, kind, "%.*s", (int)text_length, text);
    }
    if (result == 0 && is_step && is_changed) {
        return take_step(machine, sql_length == sizeof(SCHEMA_RAISE) - 1, err);
    }
    return result;
}

static int run_command(struct machine *machine, const uint8_t *bytes, uint32_t length,
                       uint64_t index, struct error *err)
{
    struct command_reader reader = {.at = bytes, .end = bytes + length};
    uint32_t statements = command_read_u32(&reader);
    int r = 0;
    for (uint32_t i = 0; i < statements && r == 0; i++) {
        r = run_statement(machine, &reader, index, err);
    }
    if (r != -ERROR_CORRUPT && machine->is_too_wide) {
        return error_set(err, ERROR_TOO_LARGE,
                         "the change touches more than %d rows: make several of it", EVENTS_MAX);
    }
    if (r == 0 && machine->changed_schema && !machine->has_stepped) {
        return error_set(err, ERROR_INVALID, "the schema changes with its version only");
    }
    return r;
}

static void tell_changes(struct machine *machine)
{
    for (size_t i = 0; i < machine->change_count; i++) {
        const struct change *change = &machine->changes[i];
        struct store_event event = {
            .index = machine->index,
            .table = change->table,
            .operation = change->operation,
            .rowid = change->rowid,
            .key = change->key,
        };
        machine->listener.changed(&event, machine->listener.context);
    }
    machine->change_count = 0;
}

/* What was prepared for the old schema is prepared again while steps are counted, or was not there
 * to be: replicas would count differently. */
static void drop_idle_statements(struct machine *machine)
{
    for (size_t i = 0; i < STATEMENTS_CACHED; i++) {
        if (!is_busy(&machine->cache[i])) {
            drop(&machine->cache[i]);
        }
    }
}

/* Keep it, or undo it: "OR ROLLBACK" has done that, with the savepoint. */
static int end_command(struct machine *machine, bool is_good, struct error *err)
{
    int r = 0;
    if (!is_good) {
        machine->failures++;
        bool is_undone = sqlite3_get_autocommit(machine->database) != 0;
        r = is_undone ? 0 : execute(machine, "ROLLBACK TO command", err);
        machine->change_count = 0;
    }
    if (r == 0 && sqlite3_get_autocommit(machine->database) == 0) {
        r = execute(machine, "RELEASE command", err);
    }
    if (machine->changed_schema) {
        drop_idle_statements(machine);
    }
    return r;
}

/* One command: all of it or nothing of it. */
static int apply_command(struct machine *machine, const uint8_t *bytes, uint32_t length,
                         struct machine_result *result, struct error *err)
{
    machine->change_count = 0;
    machine->is_too_wide = false;
    machine->rights.is_over = false;
    machine->changed_schema = false;
    machine->has_stepped = false;
    int r = execute(machine, "SAVEPOINT command", err);
    if (r < 0) {
        return r;
    }
    struct error refused = {0};
    r = run_command(machine, bytes, length, machine->index + 1, &refused);
    machine->rights.kind = RIGHTS_OWN;
    if (r == -ERROR_CORRUPT) {
        *err = refused;
        return r;
    }
    if (end_command(machine, r == 0, err) < 0) {
        return -(int)err->kind;
    }
    if (machine->is_beyond) {
        *err = refused;
        return r;
    }
    machine->index++;
    result->index = machine->index;
    result->error = r < 0 ? &refused : NULL;
    machine->listener.applied(result, machine->listener.context);
    result->error = NULL;
    tell_changes(machine);
    return 0;
}

/* Where the entry belongs: after what is applied, or inside it. */
static int find_place(const struct machine *machine, const struct machine_entry *entry,
                      bool *ret_applied, struct error *err)
{
    *ret_applied = entry->base == machine->index && entry->count > 0;
    if (*ret_applied || entry->base + entry->count <= machine->index) {
        return 0;
    }
    return error_set(err, ERROR_CORRUPT,
                     "the log goes on at index %" PRIu64 " after %" PRIu64
                     ": a part of it is missing",
                     entry->base, machine->index);
}

int machine_apply(struct machine *machine, const uint8_t *bytes, size_t length,
                  struct machine_entry *ret_entry, bool *ret_applied, struct error *err)
{
    struct machine_entry entry = {0};
    int r = machine_read_entry(bytes, length, &entry, err);
    r = r < 0 ? r : find_place(machine, &entry, ret_applied, err);
    if (r < 0) {
        return r;
    }
    struct command_reader reader = {.at = bytes + ENTRY_HEAD, .end = bytes + length};
    struct machine_result result = {.origin = entry.origin, .sequence = entry.sequence};
    machine->rights.steps_left = RIGHTS_STEPS_MAX;
    for (uint32_t i = 0; *ret_applied && i < entry.count && r == 0; i++) {
        uint32_t command_length = command_read_u32(&reader);
        const uint8_t *command = command_read_bytes(&reader, command_length);
        if (reader.is_bad) {
            return error_set(err, ERROR_CORRUPT, "an entry of the log is damaged");
        }
        result.position = i;
        r = apply_command(machine, command, command_length, &result, err);
    }
    *ret_entry = entry;
    return r;
}

/* ---- Snapshots ---- */

int machine_dump(struct machine *machine, struct buffer *ret_database, struct error *err)
{
    sqlite3_int64 size = 0;
    unsigned char *image = sqlite3_serialize(machine->database, "main", &size, 0);
    if (image == NULL) {
        return error_set(err, ERROR_LIMIT, "no memory for a copy of the state");
    }
    buffer_append(ret_database, image, (size_t)size);
    sqlite3_free(image);
    return 0;
}

int machine_snapshot(struct machine *machine, struct buffer *ret_bytes, struct error *err)
{
    CHECK(ret_bytes->used == 0);
    buffer_append_u32(ret_bytes, snapshot_magic);
    buffer_append_u32(ret_bytes, SNAPSHOT_VERSION);
    buffer_append_u64(ret_bytes, machine->index);
    buffer_append_u32(ret_bytes, 0);
    buffer_append_u32(ret_bytes, machine_incarnation(machine));
    int r = machine_dump(machine, ret_bytes, err);
    if (r < 0) {
        return r;
    }
    uint32_t crc = checksum(ret_bytes->data, ret_bytes->used, SNAPSHOT_CRC);
    memcpy(ret_bytes->data + SNAPSHOT_CRC, &crc, sizeof(crc));
    return 0;
}

static int deserialize(struct machine *machine, const uint8_t *image, size_t size,
                       struct error *err)
{
    unsigned char *copy = sqlite3_malloc64(size);
    sqlite3 *database = NULL;
    CHECK(copy != NULL);
    memcpy(copy, image, size);
    int r = sqlite3_open(":memory:", &database);
    CHECK(r == SQLITE_OK);
    r = sqlite3_deserialize(database, "main", copy, (sqlite3_int64)size, (sqlite3_int64)size,
                            SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_RESIZEABLE);
    sqlite3_int64 no_limit = INT64_MAX / 2; /* as on replicas that were never restored */
    sqlite3_file_control(database, "main", SQLITE_FCNTL_SIZE_LIMIT, &no_limit);
    if (r != SQLITE_OK) {
        sqlite3_close(database);
        return error_set(err, ERROR_CORRUPT, "the snapshot is not a database: %s",
                         sqlite3_errstr(r));
    }
    drop_statements(machine);
    r = sqlite3_close(machine->database);
    CHECK(r == SQLITE_OK);
    machine->database = database;
    set_up(machine);
    return 0;
}

static bool take_verdict(const char *text)
{
    return text != NULL && strcmp(text, "ok") == 0;
}

int machine_replace(struct machine *machine, const uint8_t *database, size_t length, uint64_t index,
                    struct error *err)
{
    sqlite3_stmt *check = NULL;
    int r = deserialize(machine, database, length, err);
    if (r < 0) {
        return r;
    }
    bool is_sound = sqlite3_prepare_v2(machine->database, "PRAGMA integrity_check", -1, &check,
                                       NULL) == SQLITE_OK &&
        sqlite3_step(check) == SQLITE_ROW &&
        take_verdict((const char *)sqlite3_column_text(check, 0));
    sqlite3_finalize(check);
    if (!is_sound) {
        return error_set(err, ERROR_CORRUPT, "the database is damaged: %s",
                         sqlite3_errmsg(machine->database));
    }
    machine->index = index;
    return 0;
}

static int check_known(struct machine *machine, struct error *err)
{
    uint64_t version = 0;
    if (!take_version(machine, &version, err)) {
        return -(int)err->kind;
    }
    return version <= schema_version()
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "the state is of schema %" PRIu64 ", and this Blixard knows %u: start a newer "
                    "one",
                    version, schema_version());
}

int machine_restore(struct machine *machine, const uint8_t *bytes, size_t length,
                    bool *ret_restored, struct error *err)
{
    struct command_reader reader = {.at = bytes, .end = bytes + length};
    uint32_t magic = command_read_u32(&reader);
    uint32_t version = command_read_u32(&reader);
    uint64_t index = command_read_u64(&reader);
    uint32_t crc = command_read_u32(&reader);
    uint32_t incarnation = command_read_u32(&reader);
    size_t size = (size_t)(reader.end - reader.at);
    if (reader.is_bad || magic != snapshot_magic || crc != checksum(bytes, length, SNAPSHOT_CRC)) {
        return error_set(err, ERROR_CORRUPT, "the snapshot of the state is damaged");
    }
    if (version > SNAPSHOT_VERSION) {
        return error_set(err, ERROR_UNSUPPORTED, "the snapshot was made by a newer Blixard");
    }
    *ret_restored = index > machine->index || incarnation != machine_incarnation(machine);
    int r = *ret_restored ? deserialize(machine, reader.at, size, err) : 0;
    if (r == 0 && *ret_restored) {
        machine->index = index;
        r = check_known(machine, err);
    }
    return r;
}
