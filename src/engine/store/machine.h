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
 *
 * An entry without commands is a mark: the first of a leader's term, which is its `sequence`.  Once
 * it is applied, no entry of an earlier term that was not applied ever will be.
 */
struct machine_entry {
    uint64_t origin;
    uint64_t sequence;
    uint64_t base;
    uint32_t count;
};
void machine_encode_entry(const struct machine_entry *entry,
                          const struct store_command *const *commands, struct buffer *ret_entry);

/* Its head, when the CRC is right; CORRUPT. */
int machine_read_entry(const uint8_t *bytes, size_t length, struct machine_entry *ret_entry,
                       struct error *err);

/* Whether an entry that another node made may be put into the log: what applying it finds damaged
 * would end every replica.  INVALID. */
int machine_check_entry(const uint8_t *bytes, size_t length, struct machine_entry *ret_entry,
                        struct error *err);

/* Give an entry its place in the log. */
void machine_place_entry(uint8_t *bytes, size_t length, uint64_t base);

/*
 * Apply an entry; fails only when this replica cannot go on (out of memory, damaged).  One whose
 * commands are all applied already is skipped: *ret_applied says false.  (A node that becomes a
 * server has the state before it has the log.)
 */
int machine_apply(struct machine *machine, const uint8_t *bytes, size_t length,
                  struct machine_entry *ret_entry, bool *ret_applied, struct error *err);

/* Which history this state is of: another one after a restored backup or a forced recovery, whose
 * indexes say nothing about those of before. */
uint32_t machine_incarnation(struct machine *machine);

/* The database as the bytes of a SQLite file; and the state from such, which are checked. */
int machine_dump(struct machine *machine, struct buffer *ret_database, struct error *err);
int machine_replace(struct machine *machine, const uint8_t *database, size_t length, uint64_t index,
                    struct error *err);

/* A snapshot: u32 magic, u32 version, u64 index, u32 CRC of all the rest, u32 incarnation, the
 * serialised database.  One of this state's past is not restored: *ret_restored says false. */
int machine_snapshot(struct machine *machine, struct buffer *ret_bytes, struct error *err);
int machine_restore(struct machine *machine, const uint8_t *bytes, size_t length,
                    bool *ret_restored, struct error *err);

#endif
