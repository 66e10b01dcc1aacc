/*
 * store-replay FOLDER: what a daemon wrote into its log makes the same state on every replica.
 *
 * The daemon has ended.  Its log is read as libraft reads it, and applied by three state machines:
 * one from the first to the last entry; one that becomes another through a snapshot after each
 * tenth; one that lies a while behind and then gets a snapshot of the first.  Compared are the
 * serialised databases, byte by byte.  Prints how many commands there were and how many of them
 * were refused.
 */
#include <inttypes.h>
#include <raft.h>
#include <raft/uv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "base/buffer.h"
#include "base/error.h"

#include "engine/store/private.h"

enum { REPLICAS = 3, SNAPSHOT_EVERY = 10 };

struct replica {
    struct machine *machine;
    uint64_t applied;
    uint64_t refused;
};

static struct error err;

static void must(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "store-replay: %s: %s\n", what, err.text);
        exit(EXIT_FAILURE);
    }
}

static void on_result(const struct machine_result *result, void *context)
{
    struct replica *replica = context;
    replica->applied++;
    replica->refused += result->error != NULL;
}

static void on_change(const struct store_event *event, void *context)
{
    (void)event, (void)context;
}

static void replica_open(struct replica *replica)
{
    const struct machine_listener listener = {on_result, on_change, replica};
    char *schema = schema_initial();
    must(machine_open(schema, &listener, &replica->machine, &err) == 0, "opening");
    free(schema);
}

static void replica_apply(struct replica *replica, const struct raft_entry *entry)
{
    struct machine_entry head = {0};
    bool is_applied = false;
    must(machine_apply(replica->machine, entry->buf.base, entry->buf.len, &head, &is_applied,
                       &err) == 0,
         "applying");
}

/* Everything it is goes through a snapshot into `to`, which has applied nothing. */
static void replica_become(const struct replica *from, struct replica *to)
{
    BUFFER_OWNED struct buffer bytes = {0};
    bool is_restored = false;
    must(machine_snapshot(from->machine, &bytes, &err) == 0, "taking a snapshot");
    must(machine_restore(to->machine, bytes.data, bytes.used, &is_restored, &err) == 0 &&
             is_restored,
         "restoring a snapshot");
}

static void replica_renew(struct replica *replica)
{
    struct replica next = {.applied = replica->applied, .refused = replica->refused};
    struct replica *moved = malloc(sizeof(*moved));
    must(moved != NULL, "memory");
    *moved = *replica;
    *replica = next;
    replica_open(replica);
    replica_become(moved, replica);
    machine_close(moved->machine);
    free(moved);
}

/* SQLite counts changes of the file in its header, which are no part of the state: see the unit
 * test of replicas. */
static void drop_counters(struct buffer *snapshot)
{
    enum { HEAD = 24, COUNTER = 24, VALID_FOR = 92, SNAPSHOT_CRC = 16 };
    memset(snapshot->data + SNAPSHOT_CRC, 0, 4);
    memset(snapshot->data + HEAD + COUNTER, 0, 4);
    memset(snapshot->data + HEAD + VALID_FOR, 0, 8);
}

static void compare(const struct replica *a, const struct replica *b)
{
    BUFFER_OWNED struct buffer one = {0};
    BUFFER_OWNED struct buffer other = {0};
    must(machine_snapshot(a->machine, &one, &err) == 0, "taking a snapshot");
    must(machine_snapshot(b->machine, &other, &err) == 0, "taking a snapshot");
    drop_counters(&one);
    drop_counters(&other);
    must(one.used == other.used && memcmp(one.data, other.data, one.used) == 0,
         "replicas are not the same");
}

/* ---- The log, as libraft reads it ---- */

struct reading {
    uv_loop_t loop;
    struct raft_uv_transport transport;
    struct raft_io io;
    raft_term term;
    raft_id voted_for;
    struct raft_snapshot *snapshot;
    raft_index first;
    struct raft_entry *entries;
    size_t count;
};

static void on_closed(struct raft_io *io)
{
    (void)io;
}

static void read_log(const char *folder, struct reading *reading)
{
    must(uv_loop_init(&reading->loop) == 0, "libuv");
    must(raft_uv_tcp_init(&reading->transport, &reading->loop) == 0, "libraft");
    must(raft_uv_init(&reading->io, &reading->loop, folder, &reading->transport) == 0, "libraft");
    must(reading->io.init(&reading->io, 1, "127.0.0.1:1") == 0, reading->io.errmsg);
    must(reading->io.load(&reading->io, &reading->term, &reading->voted_for, &reading->snapshot,
                          &reading->first, &reading->entries, &reading->count) == 0,
         reading->io.errmsg);
    reading->io.close(&reading->io, on_closed);
    uv_run(&reading->loop, UV_RUN_DEFAULT);
    raft_uv_close(&reading->io);
    raft_uv_tcp_close(&reading->transport);
    uv_loop_close(&reading->loop);
}

int main(int argc, char **argv)
{
    static struct reading reading;
    struct replica replicas[REPLICAS] = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: store-replay FOLDER\n");
        return 64;
    }
    read_log(argv[1], &reading);
    must(reading.snapshot == NULL, "the log does not begin with the beginning");
    for (int i = 0; i < REPLICAS; i++) {
        replica_open(&replicas[i]);
    }
    size_t behind = reading.count / 2;
    for (size_t i = 0; i < reading.count; i++) {
        bool is_command = reading.entries[i].type == RAFT_COMMAND;
        if (is_command) {
            replica_apply(&replicas[0], &reading.entries[i]);
            replica_apply(&replicas[1], &reading.entries[i]);
        }
        if (i % SNAPSHOT_EVERY == 0 && machine_index(replicas[1].machine) > 0) {
            replica_renew(&replicas[1]);
        }
        if (is_command && i > behind) {
            replica_apply(&replicas[2], &reading.entries[i]);
        } else if (i == behind) {
            replica_become(&replicas[0], &replicas[2]);
        }
    }
    compare(&replicas[0], &replicas[1]);
    if (machine_index(replicas[2].machine) == machine_index(replicas[0].machine)) {
        compare(&replicas[0], &replicas[2]);
    } else {
        must(false, "a replica is behind");
    }
    printf("%" PRIu64 " commands, %" PRIu64 " refused\n", replicas[0].applied, replicas[0].refused);
    for (int i = 0; i < REPLICAS; i++) {
        machine_close(replicas[i].machine);
    }
    return EXIT_SUCCESS;
}
