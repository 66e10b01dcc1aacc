/*
 * Writes, wherever the leader is.
 *
 * All proposals that wait become one entry, and at most ENTRIES_IN_FLIGHT entries are under way:
 * that is what makes many writers cheap.  An entry has its maker's (origin, sequence); the leader
 * only gives it its place in the log.  Its result is learnt on its maker's own replica when it is
 * applied there, whoever was leader, so an answer that is lost on the way costs nothing.
 *
 * Exactly once: an entry is given to the leader of one term and is valid in no other.  Lost with a
 * connection, it is sent again to the same leader, which takes each sequence of an origin once per
 * term.  Lost with its leader, it is decided by the mark that the next leader's log begins with
 * (machine.h): what was not applied before a mark of a later term never will be, and is asked again
 * under a new sequence.  Only a snapshot that hides what was applied leaves the outcome unknown.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/private.h"

enum {
    ENTRIES_IN_FLIGHT = 4,
    ENTRY_BYTES = 256 << 10,
    COMMAND_BYTES_MAX = 1 << 20,
    SETTLE_MS = 3000,
    MARK_WAIT_MS = 300, /* for the mark of a new leader; it may be in a snapshot */
};

/* ---- The end of proposals ---- */

static void finish(struct proposal *proposal, const struct error *error)
{
    if (proposal->done != NULL) {
        proposal->done(error, proposal->index, proposal->context);
    }
    store_command_free(proposal->command);
    free(proposal);
}

void store_fail_waiting(struct store *store, const struct error *error)
{
    LIST_EACH(node, &store->waiting)
    {
        struct proposal *proposal = LIST_ITEM(node, struct proposal, link);
        list_remove(node);
        store->waiting_count--;
        finish(proposal, error);
    }
}

static void entry_free(struct entry *entry)
{
    buffer_done(&entry->bytes);
    free(entry->proposals);
    free(entry);
}

/* Tell all of an entry; error NULL: each has its own result. */
static void finish_entry(struct entry *entry, const struct error *error)
{
    unsigned count = entry->count;
    entry->count = 0;
    for (unsigned i = 0; i < count; i++) {
        struct proposal *proposal = entry->proposals[i];
        finish(proposal,
               error != NULL                            ? error
                   : proposal->error.kind != ERROR_NONE ? &proposal->error
                                                        : NULL);
    }
}

static void entry_end(struct store *store, struct entry *entry, const struct error *error)
{
    list_remove(&entry->link);
    store->in_flight_count--;
    finish_entry(entry, error);
    entry_free(entry);
}

void store_drop_entry(struct store *store, struct entry *entry)
{
    CHECK(entry->count == 0);
    entry_end(store, entry, NULL);
}

static void finish_applied(void *argument)
{
    struct store *store = argument;
    store->finish_posted = false;
    LIST_EACH(node, &store->in_flight)
    {
        struct entry *entry = LIST_ITEM(node, struct entry, link);
        if (entry->is_applied) {
            entry_end(store, entry, NULL);
        }
    }
    store_flush(store);
    store_look_whether_settled(store);
}

void store_finish_soon(struct store *store)
{
    if (!store->finish_posted) {
        store->finish_posted = true;
        loop_post(store->loop, finish_applied, store);
    }
}

static struct entry *find_entry(struct store *store, uint64_t sequence)
{
    LIST_EACH(node, &store->in_flight)
    {
        struct entry *entry = LIST_ITEM(node, struct entry, link);
        if (entry->sequence == sequence) {
            return entry;
        }
    }
    return NULL;
}

void store_note_result(const struct machine_result *result, void *context)
{
    struct store *store = context;
    struct entry *entry =
        result->origin == store->origin ? find_entry(store, result->sequence) : NULL;
    if (entry == NULL) {
        return;
    }
    entry->is_applied = true;
    if (result->position < entry->count) {
        struct proposal *proposal = entry->proposals[result->position];
        proposal->index = result->index;
        if (result->error != NULL) {
            proposal->error = *result->error;
        }
    }
    store_finish_soon(store);
}

/* ---- What did not come to be ---- */

/* Back to those that wait, before them, in order. */
static void ask_again(struct store *store, struct entry *entry)
{
    list_remove(&entry->link);
    store->in_flight_count--;
    for (unsigned i = entry->count; i > 0; i--) {
        struct proposal *proposal = entry->proposals[i - 1];
        list_push_front(&store->waiting, &proposal->link);
        store->waiting_count++;
    }
    entry_free(entry);
}

static void ask_again_before(struct store *store, uint64_t term)
{
    for (struct list_node *node = store->in_flight.head.previous; node != &store->in_flight.head;) {
        struct entry *entry = LIST_ITEM(node, struct entry, link);
        node = node->previous;
        if (!entry->is_applied && entry->term < term) {
            ask_again(store, entry);
        }
    }
}

void store_on_mark(struct store *store, uint64_t term)
{
    if (term <= store->mark_term) {
        return;
    }
    store->mark_term = term;
    ask_again_before(store, term);
    store_flush_soon(store);
    store_ask_reads(store);
}

/* The entries stay: they may still be applied. */
static void give_up_in_flight(struct store *store, uint64_t deadline_ms)
{
    struct error unknown = {0};
    error_set(&unknown, ERROR_UNKNOWN_OUTCOME,
              "the write may or may not have happened: the leader did not say; look, or repeat it "
              "with the same idempotency key");
    LIST_EACH(node, &store->in_flight)
    {
        struct entry *entry = LIST_ITEM(node, struct entry, link);
        if (!entry->is_applied && entry->deadline_ms <= deadline_ms) {
            finish_entry(entry, &unknown);
        }
    }
}

void store_give_up_unseen(struct store *store)
{
    give_up_in_flight(store, UINT64_MAX);
}

void store_give_up(struct store *store, bool all)
{
    uint64_t now_ms = store_now_ms(store);
    struct error late = {0};
    error_set(&late, ERROR_UNAVAILABLE,
              "the cluster has no leader that answers: nothing was written");
    give_up_in_flight(store, all ? UINT64_MAX : now_ms);
    LIST_EACH(waiting, &store->waiting)
    {
        struct proposal *proposal = LIST_ITEM(waiting, struct proposal, link);
        if (all || now_ms >= proposal->deadline_ms) {
            list_remove(waiting);
            store->waiting_count--;
            finish(proposal, &late);
        }
    }
    store_look_whether_settled(store);
}

/* Alone: the log may have lost or kept what was asked, and only a new start can tell. */
void store_fail_writes(struct store *store, const struct error *error)
{
    if (store->write_failure.kind != ERROR_NONE || store->closing) {
        return;
    }
    store->write_failure = *error;
    LIST_EACH(node, &store->in_flight)
    {
        struct entry *entry = LIST_ITEM(node, struct entry, link);
        if (!entry->is_applied) {
            entry_end(store, entry, error);
        }
    }
    store_fail_waiting(store, error);
    if (store->options.on_failed != NULL) {
        store->options.on_failed(error, store->options.context);
    }
    store_look_whether_settled(store);
}

/* Whoever ends waits for an election at most: one that began when the last leader was lost. */
static uint64_t patience_end(const struct store *store)
{
    uint64_t now_ms = store_now_ms(store);
    uint64_t limit_ms = store->leaderless_since_ms + SETTLE_MS;
    bool is_led = store->leader_id != 0 || !store->expects_end;
    return is_led ? now_ms + SETTLE_MS : limit_ms > now_ms ? limit_ms : now_ms;
}

uint64_t store_deadline(const struct store *store)
{
    if (store->settle_limit_ms > 0) {
        return store->settle_limit_ms;
    }
    return store->expects_end && !store_is_alone(store) ? patience_end(store)
                                                        : store_now_ms(store) + STORE_DEADLINE_MS;
}

/* ---- On their way ---- */

/* As many of the waiting proposals as one entry takes. */
static struct entry *collect(struct store *store)
{
    struct entry *entry = NEW(struct entry);
    const struct store_command *commands[STORE_PROPOSALS_MAX];
    size_t size = 0;
    entry->sequence = ++store->sequence;
    entry->term = store->leader_term;
    entry->deadline_ms = store_deadline(store);
    entry->proposals = memory_new(store->waiting_count, sizeof(struct proposal *));
    LIST_EACH(node, &store->waiting)
    {
        struct proposal *proposal = LIST_ITEM(node, struct proposal, link);
        size += proposal->command->bytes.used;
        if (entry->count > 0 && (size > ENTRY_BYTES || entry->count == STORE_PROPOSALS_MAX)) {
            break;
        }
        list_remove(node);
        store->waiting_count--;
        commands[entry->count] = proposal->command;
        entry->proposals[entry->count++] = proposal;
    }
    const struct machine_entry head = {.origin = store->origin,
                                       .sequence = entry->sequence,
                                       .base = store->base,
                                       .count = entry->count};
    machine_encode_entry(&head, commands, &entry->bytes);
    list_push_back(&store->in_flight, &entry->link);
    store->in_flight_count++;
    return entry;
}

/* True: it is in this node's log, and what becomes of it will be seen. */
static bool submit(struct store *store, struct entry *entry)
{
    entry->term = store->quorum->term;
    int r = quorum_append(store->quorum, entry->bytes.data, entry->bytes.used);
    if (r == 0) {
        store->base += entry->count;
        buffer_done(&entry->bytes);
        return true;
    }
    ask_again(store, entry); /* until there is a leader again, or a failure of the disk is told */
    return false;
}

static void forward(struct stream *stream, const struct entry *entry)
{
    BUFFER_OWNED struct buffer frame = {0};
    size_t begun = wire_begin(&frame, FRAME_FORWARD);
    buffer_append_u64(&frame, entry->term);
    buffer_append(&frame, entry->bytes.data, entry->bytes.used);
    wire_end(&frame, begun);
    stream_write(stream, frame.data, frame.used);
}

/* A leader takes entries once its mark is applied; a mark inside a snapshot is not seen. */
static bool may_be_ready(const struct store *store)
{
    return store->mark_term >= store->leader_term ||
        store_now_ms(store) - store->leader_since_ms >= MARK_WAIT_MS;
}

void store_flush(struct store *store)
{
    bool goes_on = !store->closing;
    while (goes_on && !list_is_empty(&store->waiting) &&
           store->in_flight_count < ENTRIES_IN_FLIGHT) {
        if (store_leads(store)) {
            goes_on = submit(store, collect(store));
            continue;
        }
        bool knows = store->leader_id != 0 && store->leader_id != store->folder.node_id;
        struct stream *stream =
            knows && may_be_ready(store) ? link_to(store, store->leader_id, 0) : NULL;
        goes_on = stream != NULL;
        if (goes_on) {
            forward(stream, collect(store));
        }
    }
}

void store_send_again(struct store *store)
{
    struct stream *stream = link_to(store, store->leader_id, 0);
    LIST_EACH(node, &store->in_flight)
    {
        struct entry *entry = LIST_ITEM(node, struct entry, link);
        if (stream != NULL && !entry->is_applied && entry->bytes.used > 0 &&
            entry->term == store->leader_term) {
            entry->is_repeated = true;
            forward(stream, entry);
        }
    }
    store_flush(store);
}

void store_take_refused(struct store *store, const uint8_t *body, size_t length)
{
    struct command_reader reader = {.at = body, .end = body + length};
    uint64_t term = command_read_u64(&reader);
    struct entry *entry = find_entry(store, command_read_u64(&reader));
    /* One that was sent twice may have been taken the first time, by a leader that no longer is one
     * and so refuses the second: then the next leader's mark decides. */
    if (entry != NULL && entry->term == term && !entry->is_applied && !entry->is_repeated) {
        ask_again(store, entry); /* with the next tick, or when who leads has changed */
    }
}

/* ---- On the leader: entries of others ---- */

static void refuse_forward(struct link *link, uint64_t term, uint64_t sequence)
{
    const uint64_t body[] = {term, sequence};
    link_say(link->stream, FRAME_REFUSED, body, sizeof(body));
}

void store_take_forward(struct link *link, const uint8_t *body, size_t length)
{
    struct store *store = link->store;
    struct command_reader reader = {.at = body, .end = body + length};
    struct machine_entry head = {0};
    struct error err = {0};
    uint64_t term = command_read_u64(&reader);
    size_t size = (size_t)(reader.end - reader.at);
    if (reader.is_bad || machine_check_entry(reader.at, size, &head, &err) < 0 ||
        head.count > STORE_PROPOSALS_MAX) {
        link_close(link);
        return;
    }
    if (!store_leads(store) || store->quorum->term != term) {
        refuse_forward(link, term, head.sequence);
        return;
    }
    struct origin *origin = quorum_origin(store->quorum, head.origin);
    if (origin->sequence >= head.sequence) {
        return; /* sent again, and here already */
    }
    BUFFER_OWNED struct buffer entry = {0};
    buffer_append(&entry, reader.at, size);
    machine_place_entry(entry.data, entry.used, store->base);
    if (quorum_append(store->quorum, entry.data, entry.used) != 0) {
        refuse_forward(link, term, head.sequence);
        return;
    }
    origin->sequence = head.sequence;
    store->base += head.count;
}

/* ---- Proposing ---- */

static bool is_settled(struct store *store)
{
    bool somebody_waits = store->waiting_count > 0 || store->late_count > 0;
    LIST_EACH(node, &store->in_flight)
    {
        somebody_waits |= LIST_ITEM(node, struct entry, link)->count > 0;
    }
    return !somebody_waits && !store->flush_posted && !store->finish_posted &&
        !store->reads_posted && !store->read_barrier_runs;
}

void store_look_whether_settled(struct store *store)
{
    if (store->closing || (store->settling && is_settled(store))) {
        store_stir(store); /* store_settle() or store_close() waits */
    }
}

static void flush_posted(void *argument)
{
    struct store *store = argument;
    store->flush_posted = false;
    store_flush(store);
    store_look_whether_settled(store);
}

void store_flush_soon(struct store *store)
{
    if (!store->flush_posted) {
        /* At the end of this turn of the loop: what comes until then shares the entry. */
        store->flush_posted = true;
        loop_post(store->loop, flush_posted, store);
    }
}

struct late {
    struct store *store;
    struct proposal *proposal;
    struct error error;
};

static void finish_late(void *argument)
{
    struct late *late = argument;
    late->store->late_count--;
    finish(late->proposal, &late->error);
    store_look_whether_settled(late->store);
    free(late);
}

/* Never from inside store_propose(): callers rely on it. */
static void refuse(struct store *store, struct proposal *proposal, enum error_kind kind,
                   const char *text)
{
    struct late *late = NEW(struct late);
    late->store = store;
    late->proposal = proposal;
    store->late_count++;
    error_set(&late->error, kind, "%s", text);
    loop_post(store->loop, finish_late, late);
}

void store_propose(struct store *store, struct store_command *owned_command,
                   void (*done)(const struct error *error, uint64_t index, void *context),
                   void *context)
{
    CHECK(loop_is_mine(store->loop));
    CHECK(owned_command->statements > 0);

    struct proposal *proposal = NEW(struct proposal);
    proposal->command = owned_command;
    proposal->done = done;
    proposal->context = context;
    proposal->deadline_ms = store_deadline(store);
    if (store->closing) {
        refuse(store, proposal, ERROR_UNAVAILABLE, "the node is shutting down");
    } else if (store->write_failure.kind != ERROR_NONE) {
        refuse(store, proposal, store->write_failure.kind, store->write_failure.text);
    } else if (owned_command->bytes.used > COMMAND_BYTES_MAX) {
        refuse(store, proposal, ERROR_TOO_LARGE, "the change is larger than 1 MiB");
    } else if (store->waiting_count >= store->options.proposals_max) {
        refuse(store, proposal, ERROR_OVERLOADED, "too many changes are waiting");
    } else {
        list_push_back(&store->waiting, &proposal->link);
        store->waiting_count++;
        store_flush_soon(store);
    }
}

/* At an end, nobody waits long for a leader: what is asked has its answer at `limit_ms`. */
static void hurry(struct store *store, uint64_t limit_ms)
{
    LIST_EACH(node, &store->in_flight)
    {
        struct entry *entry = LIST_ITEM(node, struct entry, link);
        entry->deadline_ms = entry->deadline_ms < limit_ms ? entry->deadline_ms : limit_ms;
    }
    LIST_EACH(waiting, &store->waiting)
    {
        struct proposal *proposal = LIST_ITEM(waiting, struct proposal, link);
        proposal->deadline_ms = proposal->deadline_ms < limit_ms ? proposal->deadline_ms : limit_ms;
    }
    store_reads_hurry(store, limit_ms);
}

/* All that was asked before the limit has been answered by now. */
bool store_settles_late(struct store *store)
{
    return store->settle_limit_ms > 0 &&
        store_now_ms(store) > store->settle_limit_ms + 2 * STORE_TICK_MS;
}

void store_settle(struct store *store)
{
    CHECK(loop_is_mine(store->loop) && !store->settling);
    store->settling = true;
    if (!store_is_alone(store)) {
        store->settle_limit_ms = patience_end(store);
        hurry(store, store->settle_limit_ms);
    }
    /* Who asks again and again, of a cluster that this node is not in any more, holds up nobody:
     * its own end waits for its own. */
    while (!is_settled(store) && !store_settles_late(store)) {
        store_run(store);
    }
    store->settle_limit_ms = 0;
    store->settling = false;
}

void store_expect_end(struct store *store)
{
    store->expects_end = true;
    if (!store_is_alone(store)) {
        hurry(store, patience_end(store));
    }
}

struct waiting {
    struct store *store;
    struct error error;
    bool is_over;
};

static void on_write(const struct error *error, uint64_t index, void *context)
{
    struct waiting *waiting = context;
    (void)index;
    if (error != NULL) {
        waiting->error = *error;
    }
    waiting->is_over = true;
    store_stir(waiting->store);
}

int store_write(struct store *store, struct store_command *owned_command, struct error *err)
{
    struct waiting waiting = {.store = store};
    store_propose(store, owned_command, on_write, &waiting);
    while (!waiting.is_over) {
        store_run(store);
    }
    if (waiting.error.kind != ERROR_NONE) {
        *err = waiting.error;
        return -(int)err->kind;
    }
    return 0;
}
