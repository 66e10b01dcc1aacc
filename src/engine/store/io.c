/*
 * libraft's I/O, with ours around it: its files, and messages over the links.
 *
 * libraft's own transport is not used.  What it sends goes over the links, and what comes is given
 * to it, so that snapshots have a lane of their own and its faults can be guarded against
 * (measured: libraft 0.15.0 of Debian 12):
 *
 *   - It commits entries of an earlier term by counting replicas (dissertation 3.6.2, figure 3.7).
 *     A leader here begins its term with a mark and hears no answers before the mark is stored.
 *   - It answers the current leader when a write that an earlier one asked for completes: that
 *     answer is held back.
 *   - Where the disk has no asynchronous writes (tmpfs) it may tell the end of its I/O twice.
 *   - It writes nothing more after a failed write, and goes on voting: a server that cannot write
 *     leaves libraft, and follows the others.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/private.h"

static struct quorum *of_io(struct raft_io *io)
{
    return LIST_ITEM(io, struct quorum, io);
}

/* ---- Loading: what was acknowledged is applied before the others are heard ---- */

static void note_end(struct quorum *quorum, const struct raft_entry *entries, size_t count)
{
    quorum->loaded = machine_index(quorum->store->machine);
    for (size_t i = 0; i < count; i++) {
        struct machine_entry entry = {0};
        struct error ignored = {0};
        if (entries[i].type == RAFT_COMMAND &&
            machine_read_entry(entries[i].buf.base, entries[i].buf.len, &entry, &ignored) == 0 &&
            entry.base + entry.count > quorum->loaded) {
            quorum->loaded = entry.base + entry.count;
        }
    }
}

static int apply_known(struct quorum *quorum, const struct raft_entry *entries, size_t count)
{
    struct store *store = quorum->store;
    for (size_t i = 0; i < count; i++) {
        const struct raft_buffer *bytes = &entries[i].buf;
        struct machine_entry entry = {0};
        if (entries[i].type != RAFT_COMMAND) {
            continue;
        }
        if (machine_read_entry(bytes->base, bytes->len, &entry, &store->failure) < 0) {
            return RAFT_CORRUPT;
        }
        if (entry.count > 0 && entry.base + entry.count > store->folder.marked) {
            break;
        }
        if (store_apply(store, bytes->base, bytes->len, &entry) < 0) {
            return RAFT_CORRUPT;
        }
    }
    return 0;
}

/* libraft takes what was loaded only when all of loading went well.  A batch is a file's entries.
 */
static void free_loaded(struct raft_snapshot *snapshot, struct raft_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (entries[i].batch == NULL) {
            raft_free(entries[i].buf.base);
        } else if (i == 0 || entries[i].batch != entries[i - 1].batch) {
            raft_free(entries[i].batch);
        }
    }
    raft_free(entries);
    if (snapshot != NULL) {
        for (unsigned i = 0; i < snapshot->n_bufs; i++) {
            raft_free(snapshot->bufs[i].base);
        }
        raft_configuration_close(&snapshot->configuration);
        raft_free(snapshot->bufs);
        raft_free(snapshot);
    }
}

static int on_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                   struct raft_snapshot **snapshot, raft_index *start_index,
                   struct raft_entry *entries[], size_t *n_entries)
{
    struct quorum *quorum = of_io(io);
    struct store *store = quorum->store;
    int r = quorum->load(io, term, voted_for, snapshot, start_index, entries, n_entries);
    bool is_restored = false;
    if (r != 0) {
        return r;
    }
    if (*snapshot != NULL &&
        machine_restore(store->machine, (*snapshot)->bufs[0].base, (*snapshot)->bufs[0].len,
                        &is_restored, &store->failure) < 0) {
        r = RAFT_CORRUPT;
    }
    if (is_restored) {
        store->restored = machine_index(store->machine);
    }
    if (r == 0) {
        note_end(quorum, *entries, *n_entries);
        r = apply_known(quorum, *entries, *n_entries);
    }
    if (r != 0) {
        free_loaded(*snapshot, *entries, *n_entries);
        *snapshot = NULL;
        *entries = NULL;
        *n_entries = 0;
    }
    return r;
}

/* ---- Writing the log ---- */

struct append {
    struct raft_io_append request;
    struct raft_io_append *original;
    raft_io_append_cb done;
    struct quorum *quorum;
    raft_term term;
};

static void on_appended(struct raft_io_append *request, int status)
{
    struct append *append = (struct append *)request;
    struct quorum *quorum = append->quorum;
    quorum->appends--;
    quorum_note(quorum, status);
    quorum->is_stale = append->term != quorum->raft.current_term;
    append->done(append->original, status);
    quorum->is_stale = false;
    free(append);
    quorum_watch(quorum);
    if (quorum->closed != NULL && quorum->appends == 0) {
        loop_post(quorum->store->loop, quorum_end, quorum); /* libraft still uses its writer */
    }
}

static int on_append(struct raft_io *io, struct raft_io_append *request,
                     const struct raft_entry entries[], unsigned count, raft_io_append_cb done)
{
    struct quorum *quorum = of_io(io);
    if (quorum->closed != NULL) {
        return RAFT_CANCELED;
    }
    struct append *append = NEW(struct append);
    append->original = request;
    append->done = done;
    append->quorum = quorum;
    append->term = quorum->raft.current_term;
    request->cb = done;
    int r = quorum->append(io, &append->request, entries, count, on_appended);
    if (r != 0) {
        free(append);
        quorum_note(quorum, r);
        return r;
    }
    quorum->appends++;
    return 0;
}

/* ---- Messages ---- */

struct sent {
    struct list_node link;
    struct raft_io_send *request;
    int status;
};

static void tell_sent(void *argument)
{
    struct quorum *quorum = argument;
    quorum->sent_posted = false;
    LIST_EACH(node, &quorum->sent)
    {
        struct sent *sent = LIST_ITEM(node, struct sent, link);
        list_remove(node);
        if (sent->request->cb != NULL) {
            sent->request->cb(sent->request, sent->status);
        }
        free(sent);
    }
    quorum_release(quorum);
}

/* libraft expects the end of a message after send() has returned. */
void quorum_tell(struct quorum *quorum, struct raft_io_send *request, int status)
{
    struct sent *sent = NEW(struct sent);
    sent->request = request;
    sent->status = status;
    list_push_back(&quorum->sent, &sent->link);
    if (!quorum->sent_posted) {
        quorum->sent_posted = true;
        loop_post(quorum->store->loop, tell_sent, quorum);
    }
}

/*
 * What cannot be sent is told later, never returned: 0.15 frees the entries that it answers, and
 * once more when sending the answer fails at once.
 */
static int on_send(struct raft_io *io, struct raft_io_send *request,
                   const struct raft_message *message, raft_io_send_cb done)
{
    struct quorum *quorum = of_io(io);
    request->cb = done;
    if (message->type == RAFT_IO_INSTALL_SNAPSHOT) {
        return snapshot_send(quorum, request, message);
    }
    bool is_void = quorum->is_stale && message->type == RAFT_IO_APPEND_ENTRIES_RESULT;
    struct stream *stream = is_void ? NULL : link_to(quorum->store, message->server_id, 0);
    if (stream != NULL) {
        quorum->scratch.used = 0;
        wire_put_message(&quorum->scratch, message);
    }
    if (stream == NULL || quorum->scratch.used > FRAME_BYTES_MAX) {
        quorum_tell(quorum, request, RAFT_NOCONNECTION);
        return 0;
    }
    stream_write(stream, quorum->scratch.data, quorum->scratch.used);
    quorum_tell(quorum, request, 0);
    return 0;
}

static bool must_not_hear(const struct quorum *quorum, const struct raft_message *message)
{
    const struct raft *raft = &quorum->raft;
    return message->type == RAFT_IO_APPEND_ENTRIES_RESULT && raft->state == RAFT_LEADER &&
        quorum->mark_runs && raft->last_stored < quorum->mark_index &&
        raft->commit_index + 1 < quorum->mark_index;
}

/* That the mark of a term is applied says nothing of a replica that begins with an old log: the
 * commands of the same term come after it. */
static void hear_commit(struct quorum *quorum, const struct raft_message *message)
{
    if (message->type == RAFT_IO_APPEND_ENTRIES &&
        message->append_entries.term > quorum->heard_term) {
        quorum->heard_term = message->append_entries.term;
        quorum->heard_commit = message->append_entries.leader_commit;
    }
    if (message->type == RAFT_IO_INSTALL_SNAPSHOT) {
        quorum->snapshot_term = message->install_snapshot.last_term;
        quorum->snapshot_index = message->install_snapshot.last_index;
    }
}

void quorum_receive(struct quorum *quorum, uint64_t from, struct raft_message *owned_message)
{
    char address[24];
    snprintf(address, sizeof(address), "%" PRIu64, from);
    owned_message->server_id = from;
    owned_message->server_address = address;
    if (must_not_hear(quorum, owned_message)) {
        return; /* it holds no memory */
    }
    hear_commit(quorum, owned_message);
    bool is_answer = owned_message->type == RAFT_IO_APPEND_ENTRIES_RESULT;
    quorum->receive(&quorum->io, owned_message);
    quorum_watch(quorum);
    if (is_answer) {
        quorum_tell_commit(quorum); /* to one that was behind when it was committed */
    }
}

static void on_tick(struct raft_io *io)
{
    struct quorum *quorum = of_io(io);
    if (quorum->closed == NULL) {
        quorum->tick(io);
        quorum_watch(quorum);
    }
}

static int on_start(struct raft_io *io, unsigned period_ms, raft_io_tick_cb tick,
                    raft_io_recv_cb receive)
{
    struct quorum *quorum = of_io(io);
    quorum->tick = tick;
    quorum->receive = receive;
    return quorum->start(io, period_ms, on_tick, receive);
}

/* ---- Closing, and all of it ---- */

static void on_io_closed(struct raft_io *io)
{
    struct quorum *quorum = of_io(io);
    raft_io_close_cb tell = quorum->io_closed;
    quorum->io_closed = NULL;
    if (tell != NULL) {
        tell(io);
    }
}

static void on_close(struct raft_io *io, raft_io_close_cb done)
{
    struct quorum *quorum = of_io(io);
    quorum->io_closed = done;
    quorum->close(io, on_io_closed);
}

void quorum_wrap(struct quorum *quorum)
{
    quorum->load = quorum->io.load;
    quorum->start = quorum->io.start;
    quorum->append = quorum->io.append;
    quorum->close = quorum->io.close;
    quorum->io.close = on_close;
    quorum->io.load = on_load;
    quorum->io.start = on_start;
    quorum->io.append = on_append;
    quorum->io.send = on_send;
}
