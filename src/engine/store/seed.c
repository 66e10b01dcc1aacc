/*
 * A new store with a given state.
 *
 * The state goes into the log's place: it is given to the state machine, and libraft takes a
 * snapshot of it.  libraft does not tell when a snapshot has reached the disk, but begins no other
 * before that; so a second one that begins says that the first is safe.
 */
#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/loop/loop.h"
#include "base/random.h"

#include "engine/store/private.h"

enum { SNAPSHOTS_WANTED = 2, LIMIT_MS = 120000 };

int store_dump(struct store *store, struct buffer *ret_database, uint64_t *ret_index,
               struct error *err)
{
    CHECK(loop_is_mine(store->loop));
    *ret_index = machine_index(store->machine);
    return machine_dump(store->machine, ret_database, err);
}

void store_command_add_incarnation(struct store_command *command)
{
    store_command_add(command, SCHEMA_SET_INCARNATION, "i", (int64_t)(random_u64() & UINT32_MAX));
}

/* A command that counts itself: its entry is what libraft takes a snapshot after. */
static int write_mark(struct store *store, struct error *err)
{
    struct store_command *command = store_command_new();
    store_command_add(command, SCHEMA_SET_SEEDED, "");
    store_command_add_incarnation(command);
    return store_write(store, command, err);
}

static int keep(struct store *store, struct error *err)
{
    uint64_t before = store->snapshots;
    uint64_t limit_ms = clock_monotonic_ms() + LIMIT_MS;
    int r = 0;
    store->options.snapshot_bytes = 1;
    while (r == 0 && store->snapshots < before + SNAPSHOTS_WANTED) {
        r = write_mark(store, err);
        if (r == 0 && clock_monotonic_ms() > limit_ms) {
            r = error_set(err, ERROR_TIMEOUT, "the state was not on disk within %d s",
                          LIMIT_MS / 1000);
        }
    }
    return r;
}

int store_seed(struct loop *loop, const char *folder, const void *database, size_t length,
               uint64_t index, struct error *err)
{
    struct store *store = NULL;
    const struct store_options options = {.folder = folder};
    int r = store_open(loop, &options, &store, err);
    if (r < 0) {
        return r;
    }
    r = machine_replace(store->machine, database, length, index, err);
    if (r == 0) {
        store->base = index;
        store->restored = index;
        store->event_count = 0;
        r = keep(store, err);
    }
    store_close(store);
    return r;
}
