/*
 * Private to the room: the state machine.  An in-memory SQLite database that changes by applying
 * entries of the log, and by nothing else; the same entries give the same database on every server.
 */
#ifndef ENGINE_STORE_MACHINE_H
#define ENGINE_STORE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"

#include "engine/store/command.h"

struct error;
struct machine;

/* One command of an entry was applied, or refused. */
struct machine_result {
    uint64_t origin;
    uint64_t sequence;
    unsigned position; /* in the entry */
    uint64_t index;
    const struct error *error; /* NULL: applied */
};

struct machine_listener {
    void (*applied)(const struct machine_result *result, void *context);
    void (*changed)(const struct store_event *event, void *context);
    void *context;
};

/* Fails with CORRUPT or OS.  `schema` is the SQL of a new database. */
int machine_open(const char *schema, const struct machine_listener *listener,
                 struct machine **ret_machine, struct error *err);
void machine_close(struct machine *machine);

sqlite3 *machine_database(const struct machine *machine);
uint64_t machine_index(const struct machine *machine); /* commands applied since the beginning */
uint64_t machine_failures(const struct machine *machine);

/* A cached prepared statement, reset and unbound; NULL with *err when the SQL is bad. */
sqlite3_stmt *machine_statement(struct machine *machine, const char *sql, size_t length,
                                struct error *err);

/*
 * Entry: u32 magic, u32 count, u64 origin, u64 sequence, u64 base, u32 CRC of all the rest, then
 * per command u32 length and the command (u32 count of statements + command.h); zeros up to a
 * multiple of 8.  `base` is how many commands the log has before this entry: a log that lost a
 * piece of its middle is noticed by it, because libraft's open segments do not say where they
 * belong.
 */
struct machine_origin {
    uint64_t origin;
    uint64_t sequence;
    uint64_t base;
};
void machine_encode_entry(const struct machine_origin *origin,
                          const struct store_command *const *commands, unsigned count,
                          struct buffer *ret_entry);

/* Apply an entry; fails only when this replica cannot go on (out of memory, damaged). */
int machine_apply(struct machine *machine, const uint8_t *bytes, size_t length, struct error *err);

/* The database as the bytes of a SQLite file; and the state from such, which are checked. */
int machine_dump(struct machine *machine, struct buffer *ret_database, struct error *err);
int machine_replace(struct machine *machine, const uint8_t *database, size_t length, uint64_t index,
                    struct error *err);

/* A snapshot: u32 magic, u32 version, u64 index, u32 CRC of all the rest, u32 0, the serialised
 * database. */
int machine_snapshot(struct machine *machine, struct buffer *ret_bytes, struct error *err);
int machine_restore(struct machine *machine, const uint8_t *bytes, size_t length,
                    struct error *err);

#endif
