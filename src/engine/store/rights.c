#include "engine/store/rights.h"

#include <string.h>
#include <strings.h>

#include "engine/store/private.h"

/* ---- Statements of our own ---- */

enum rights_kind rights_of(const char *sql, size_t length)
{
    static const struct {
        const char *text;
        enum rights_kind kind;
    } own[] = {
        {SCHEMA_SET_VERSION, RIGHTS_STEP}, {SCHEMA_RAISE, RIGHTS_STEP},
        {SCHEMA_LIMIT, RIGHTS_STORE},      {SCHEMA_SET_INCARNATION, RIGHTS_STORE},
        {SCHEMA_SET_SEEDED, RIGHTS_STORE},
    };
    for (size_t i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        if (strlen(own[i].text) == length && memcmp(own[i].text, sql, length) == 0) {
            return own[i].kind;
        }
    }
    return schema_has(sql, length) ? RIGHTS_SCHEMA : RIGHTS_COMMAND;
}

/* ---- What a statement is made of ---- */

/* Not those that read a clock, chance, the connection or the version of SQLite, nor those that make
 * much out of little. */
static bool is_function_allowed(const char *name)
{
    static const char *const allowed[] = {
        "abs", "coalesce", "count",  "ifnull", "iif", "instr", "length", "lower",
        "max", "min",      "nullif", "substr", "sum", "total", "typeof", "upper",
    };
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++) {
        if (name != NULL && strcasecmp(name, allowed[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* Of the store itself, or of SQLite. */
static bool is_table_ours(const char *name)
{
    return name == NULL || strncasecmp(name, "store_", 6) == 0 ||
        strncasecmp(name, "sqlite_", 7) == 0;
}

static int authorize(void *context, int action, const char *first, const char *second,
                     const char *database, const char *trigger)
{
    const struct rights *rights = context;
    (void)database;
    (void)trigger;
    if (rights->kind != RIGHTS_COMMAND) {
        return SQLITE_OK;
    }
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_READ:
        return SQLITE_OK;
    case SQLITE_INSERT:
    case SQLITE_UPDATE:
    case SQLITE_DELETE:
        return is_table_ours(first) ? SQLITE_DENY : SQLITE_OK;
    case SQLITE_FUNCTION:
        return is_function_allowed(second) ? SQLITE_OK : SQLITE_DENY;
    default: /* there are thirty more, and each new one is to be refused */
        return SQLITE_DENY;
    }
}

/* ---- How long it may run ---- */

static int on_steps(void *context)
{
    struct rights *rights = context;
    if (!rights->counts) {
        return 0;
    }
    rights->steps_left -= RIGHTS_STEPS_AT_ONCE;
    return rights->is_over || rights->steps_left <= 0;
}

void rights_install(struct rights *rights, sqlite3 *database)
{
    sqlite3_set_authorizer(database, authorize, rights);
    sqlite3_progress_handler(database, RIGHTS_STEPS_AT_ONCE, on_steps, rights);
}

/* SQLite calls on_steps() by a counter of the statement, which must stand where it stands on every
 * other replica. */
void rights_begin(struct rights *rights, sqlite3_stmt *statement)
{
    sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_VM_STEP, 1);
    rights->counts = true;
}

void rights_end(struct rights *rights)
{
    rights->counts = false;
}
