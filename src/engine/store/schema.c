/*
 * The schema's history.  spec/schema.sql holds all of it: what stands before the first line
 * "-- version N: ..." is version 1, what follows such a line makes version N of the one before.
 * Lines that were released never change, because logs and snapshots were written with them.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/embed.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/private.h"

EMBED_LIST(store_schema);

static const char marker[] = "\n-- version ";

/* The text of one version, without its marker's line. */
static struct text part_of(unsigned version)
{
    const char *whole = (const char *)store_schema[0].data;
    const char *end = whole + store_schema[0].length;
    const char *at = whole;
    for (unsigned i = 1; i < version && at != NULL; i++) {
        at = memmem(at, (size_t)(end - at), marker, sizeof(marker) - 1);
        at = at != NULL ? at + 1 : NULL;
    }
    if (at == NULL) {
        return (struct text){0};
    }
    const char *next = memmem(at, (size_t)(end - at), marker, sizeof(marker) - 1);
    return text_of(at, (size_t)((next != NULL ? next : end) - at));
}

/* The text is the program's: what it says is found once, though it is asked for at each beat. */
unsigned schema_version(void)
{
    static _Atomic unsigned known;
    unsigned version = known;
    if (version == 0) {
        version = 1;
        while (part_of(version + 1).data != NULL) {
            version++;
        }
        known = version;
    }
    return version;
}

char *schema_initial(void)
{
    struct text part = part_of(1);
    return memory_copy_text(part.data, part.length);
}

bool schema_has(const char *sql, size_t length)
{
    struct text first = part_of(1);
    const char *begin = first.data + first.length;
    const char *end = (const char *)store_schema[0].data + store_schema[0].length;
    const char *at = length > 0 && sql[length - 1] == ';'
        ? memmem(begin, (size_t)(end - begin), sql, length)
        : NULL;
    while (at != NULL && at != begin && at[-1] != ';' && strncmp(at, marker + 1, 10) != 0) {
        at = memmem(at + 1, (size_t)(end - at - 1), sql, length);
    }
    return at != NULL;
}

/*
 * That it is a step comes first, so that a replica which does not know the version learns it before
 * there is a statement that it would refuse while others do not.
 */
struct store_command *schema_step(unsigned version)
{
    struct text part = part_of(version);
    CHECK(version > 1 && part.data != NULL);

    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT,
        "the schema was raised at the same moment, or not every node knows the next version",
        version > SCHEMA_LAST_OF_ONE ? SCHEMA_RAISE : SCHEMA_SET_VERSION, "u", (uint64_t)version);
    MEMORY_OWNED char *text = memory_copy_text(part.data, part.length);
    char *begin = text;
    for (char *at = strchr(begin, ';'); at != NULL; at = strchr(at + 1, ';')) {
        char after = at[1];
        at[1] = '\0';
        if (sqlite3_complete(begin)) {
            store_command_add(command, begin, "");
            begin = at + 1;
        }
        at[1] = after;
    }
    return command;
}

void store_command_add_schema_limit(struct store_command *command, unsigned version)
{
    store_command_add_expecting(command, ERROR_UNSUPPORTED,
                                "the schema was raised meanwhile: a newer Blixard is needed",
                                SCHEMA_LIMIT, "u", (uint64_t)version);
}
