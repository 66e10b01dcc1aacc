/*
 * Private to the room: what the SQL of a command may do.
 *
 * A command may come from any node.  Nodes are trusted with what the rows say, but no command may
 * end the replicas, part them or hold them up, for then nobody could remove the node any more.  So
 * commands read and change rows, with functions whose result is the same everywhere and small; all
 * else is refused, but for texts that this program's schema consists of.  And an entry has so many
 * steps of SQLite's virtual machine: at the same one every replica refuses.
 *
 * What is allowed here is so on replicas of every version of Blixard in a cluster, or they part: it
 * changes only with the version of the schema.  What a replica cannot judge, because it is a step
 * to a version that it does not know, ends it (UNSUPPORTED): see docs/developer-guide/cluster.md.
 */
#ifndef ENGINE_STORE_RIGHTS_H
#define ENGINE_STORE_RIGHTS_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum rights_kind {
    RIGHTS_OWN,     /* what this program does by itself, and reads */
    RIGHTS_COMMAND, /* rows */
    RIGHTS_STORE,   /* what a command may say about the store: texts of private.h */
    RIGHTS_STEP,    /* that the schema is of its next version */
    RIGHTS_SCHEMA,  /* a statement of the schema's history, word for word; in a step only */
};

enum { RIGHTS_STEPS_MAX = 32000000, RIGHTS_STEPS_AT_ONCE = 1000 };

struct rights {
    enum rights_kind kind;
    bool counts;    /* a statement of a command is running */
    bool is_over;   /* break it off: it changes too much */
    int steps_left; /* of the entry */
};

/* Of a statement in a command. */
enum rights_kind rights_of(const char *sql, size_t length);

/* From now on `rights` (lent) says what statements may. */
void rights_install(struct rights *rights, sqlite3 *database);

/* Around the steps of a statement in a command; where it was run before does not count. */
void rights_begin(struct rights *rights, sqlite3_stmt *statement);
void rights_end(struct rights *rights);

#endif
