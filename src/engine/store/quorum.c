/*
 * A server's part: libraft's state machine, who leads, and how it begins and ends.  Its files and
 * messages: io.c.
 *
 * A leader serves nothing before the mark of its term is applied (dissertation 6.4).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/private.h"
#include "engine/store/transport.h"

enum {
    ELECTION_MS = 300, /* a follower waits one to two of it */
    HEARTBEAT_MS = 30,
    INSTALL_MS = 10000, /* then it is asked again; one that is under way goes on */
    CATCH_UP_ROUNDS = 20,
    CATCH_UP_ROUND_MS = 60000,
};

/* ---- The state machine, as libraft sees it ---- */

static int on_apply(struct raft_fsm *fsm, const struct raft_buffer *bytes, void **result)
{
    struct quorum *quorum = fsm->data;
    struct store *store = quorum->store;
    *result = NULL;
    struct machine_entry entry = {0};
    if (store_apply(store, bytes->base, bytes->len, &entry) < 0) {
        return RAFT_CORRUPT;
    }
    if (entry.count > 0) {
        quorum->logged = entry.base + entry.count;
        quorum_tell_commit(quorum);
    }
    if (store->log_bytes >= store->options.snapshot_bytes) {
        /* libraft counts entries only: let it take one now, and keep about as many bytes. */
        raft_set_snapshot_threshold(&quorum->raft, 1);
        raft_set_snapshot_trailing(&quorum->raft,
                                   store->log_entries < STORE_TRAILING_ENTRIES
                                       ? (unsigned)store->log_entries
                                       : STORE_TRAILING_ENTRIES);
    }
    return 0;
}

static int on_snapshot(struct raft_fsm *fsm, struct raft_buffer *ret_buffers[], unsigned *ret_count)
{
    struct quorum *quorum = fsm->data;
    struct store *store = quorum->store;
    struct error err = {0};
    BUFFER_OWNED struct buffer bytes = {0};
    if (machine_snapshot(store->machine, &bytes, &err) < 0) {
        return RAFT_NOMEM;
    }
    /* libraft frees what it gets with raft_free(). */
    struct raft_buffer *buffers = raft_malloc(sizeof(*buffers));
    void *base = raft_malloc(bytes.used);
    if (buffers == NULL || base == NULL) {
        raft_free(buffers);
        raft_free(base);
        return RAFT_NOMEM;
    }
    memcpy(base, bytes.data, bytes.used);
    buffers[0] = (struct raft_buffer){.base = base, .len = bytes.used};
    *ret_buffers = buffers;
    *ret_count = 1;
    store->snapshots++;
    store->log_bytes = 0;
    store->log_entries = 0;
    raft_set_snapshot_threshold(&quorum->raft, STORE_SNAPSHOT_ENTRIES);
    return 0;
}

static int on_restore(struct raft_fsm *fsm, struct raft_buffer *bytes)
{
    struct quorum *quorum = fsm->data;
    struct store *store = quorum->store;
    bool is_restored = false;
    if (machine_restore(store->machine, bytes->base, bytes->len, &is_restored, &store->failure) <
        0) {
        return RAFT_CORRUPT;
    }
    raft_free(bytes->base);
    quorum->logged = machine_index(store->machine);
    if (is_restored) {
        store_on_restored(store);
    }
    return 0;
}

/* ---- A disk that fails ---- */

static void on_failed(void *argument)
{
    struct store *store = argument;
    struct quorum *quorum = store->quorum;
    if (quorum == NULL || quorum->failure == 0 || store->closing) {
        return;
    }
    if (store->failure.kind == ERROR_UNSUPPORTED) {
        store_fail_writes(store, &store->failure);
        return;
    }
    struct error error = {0};
    bool is_full = quorum->failure == RAFT_NOSPACE;
    error_set(&error, is_full ? ERROR_FULL : ERROR_OS,
              is_full ? "no space left on the disk of the data folder: make room, then start this "
                        "node again"
                      : "the log cannot be written (%s): look at the disk, then start this node "
                        "again",
              raft_strerror(quorum->failure));
    if (store_is_alone(store)) {
        store_fail_writes(store, &error);
        return;
    }
    if (store->options.on_failed != NULL) {
        store->options.on_failed(&error, store->options.context);
    }
    store_leave_quorum(store, NULL, NULL);
}

void quorum_fail(struct quorum *quorum, int status)
{
    if (quorum->failure == 0) {
        quorum->failure = status;
        loop_post(quorum->store->loop, on_failed, quorum->store);
        store_stir(quorum->store); /* store_open() may wait */
    }
}

void quorum_note(struct quorum *quorum, int status)
{
    if (status == RAFT_NOSPACE || status == RAFT_IOERR || status == RAFT_CORRUPT) {
        quorum_fail(quorum, status);
    }
}

/* ---- What is committed, told at once ---- */

static void tell_commit(struct quorum *quorum, uint64_t id)
{
    struct stream *stream = link_to(quorum->store, id, 0);
    if (stream == NULL) {
        return;
    }
    /* The last entry is of this term: the mark is, and all after it. */
    const struct raft_message message = {
        .type = RAFT_IO_APPEND_ENTRIES,
        .append_entries = {.term = quorum->term,
                           .prev_log_index = quorum->raft.commit_index,
                           .prev_log_term = quorum->term,
                           .leader_commit = quorum->raft.commit_index},
    };
    quorum->scratch.used = 0;
    wire_put_message(&quorum->scratch, &message);
    stream_write(stream, quorum->scratch.data, quorum->scratch.used);
}

static void on_commit_posted(void *argument)
{
    struct quorum *quorum = argument;
    const struct raft *raft = &quorum->raft;
    quorum->commit_posted = false;
    if (quorum->closed != NULL) {
        quorum_release(quorum);
        return;
    }
    if (!quorum->is_ready || raft->commit_index != raft_last_index(&quorum->raft)) {
        return; /* what is under way tells it */
    }
    for (unsigned i = 0; i < raft->configuration.n && i < STORE_SERVERS_MAX; i++) {
        uint64_t id = raft->configuration.servers[i].id;
        struct told *told = &quorum->told[i];
        bool knows = told->id == id && told->index >= raft->commit_index;
        if (id != raft->id && !knows &&
            raft->leader_state.progress[i].match_index == raft->commit_index) {
            *told = (struct told){id, raft->commit_index};
            tell_commit(quorum, id);
        }
    }
}

/*
 * A follower learns what is committed from the next message.  Where no other write follows, that is
 * the next heartbeat: a write through a follower, which is answered when the follower has applied
 * it, would wait for it.
 */
void quorum_tell_commit(struct quorum *quorum)
{
    if (quorum->is_ready && !quorum->commit_posted && quorum->closed == NULL &&
        quorum->raft.configuration.n > 1) {
        quorum->commit_posted = true;
        loop_post(quorum->store->loop, on_commit_posted, quorum);
    }
}

/* ---- Leading ---- */

struct submission {
    struct raft_apply request;
    struct quorum *quorum;
    bool is_mark;
};

static void on_submitted(struct raft_apply *request, int status, void *result)
{
    struct submission *submission = (struct submission *)request;
    struct quorum *quorum = submission->quorum;
    (void)result;
    if (submission->is_mark) {
        quorum->mark_runs = false;
    }
    quorum_note(quorum, status);
    free(submission);
}

static int submit(struct quorum *quorum, const uint8_t *bytes, size_t length, bool is_mark)
{
    struct raft_buffer buffer = {.base = raft_malloc(length), .len = length};
    if (buffer.base == NULL) {
        return RAFT_NOMEM;
    }
    memcpy(buffer.base, bytes, length);
    struct submission *submission = NEW(struct submission);
    submission->quorum = quorum;
    submission->is_mark = is_mark;
    if (is_mark) {
        /* It is the next entry; single servers apply it before raft_apply() returns. */
        quorum->mark_runs = true;
        quorum->mark_index = raft_last_index(&quorum->raft) + 1;
    }
    int r = raft_apply(&quorum->raft, &submission->request, &buffer, 1, on_submitted);
    if (r != 0) {
        if (r == RAFT_NOTLEADER) {
            raft_free(buffer.base); /* other failures may have freed it: better a leak than twice */
        }
        quorum->mark_runs = quorum->mark_runs && !is_mark;
        free(submission);
        quorum_note(quorum, r);
    }
    return r;
}

int quorum_append(struct quorum *quorum, const uint8_t *bytes, size_t length)
{
    CHECK(quorum->is_ready);
    return submit(quorum, bytes, length, false);
}

struct origin *quorum_origin(struct quorum *quorum, uint64_t origin)
{
    for (size_t i = 0; i < quorum->origin_count; i++) {
        if (quorum->origins[i].origin == origin) {
            return &quorum->origins[i];
        }
    }
    if (quorum->origin_count == STORE_ORIGINS_MAX) {
        quorum->origin_count--; /* of so many starts of nodes in one term, the first are over */
        memmove(quorum->origins, quorum->origins + 1,
                quorum->origin_count * sizeof(*quorum->origins));
    }
    quorum->origins =
        memory_resize(quorum->origins, (quorum->origin_count + 1) * sizeof(*quorum->origins));
    struct origin *new = &quorum->origins[quorum->origin_count++];
    *new = (struct origin){.origin = origin};
    return new;
}

/* The first entry of a term; what it tells: machine.h. */
static void begin_to_lead(struct quorum *quorum)
{
    quorum->leads = true;
    quorum->is_ready = false;
    quorum->term = quorum->raft.current_term;
    quorum->origin_count = 0;
    memset(quorum->told, 0, sizeof(quorum->told));
    BUFFER_OWNED struct buffer mark = {0};
    const struct machine_entry head = {.sequence = quorum->term};
    machine_encode_entry(&head, NULL, &mark);
    int r = submit(quorum, mark.data, mark.used, true);
    if (r != 0) {
        log_error("store: a term could not be begun: %s", raft_strerror(r));
    }
}

static void look_whether_ready(struct quorum *quorum)
{
    struct store *store = quorum->store;
    if (quorum->leads && !quorum->is_ready && store->mark_term == quorum->term) {
        quorum->is_ready = true;
        store->base = machine_index(store->machine);
        store_flush_soon(store);
        store_ask_reads(store);
        if (store->options.on_leader != NULL && store->is_open) {
            store->options.on_leader(store->options.context);
        }
    }
}

static void look_whether_current(struct quorum *quorum)
{
    uint64_t applied = quorum->raft.last_applied;
    uint64_t term = quorum->heard_term;
    bool has_mark = quorum->store->mark_term == term ||
        (quorum->snapshot_term == term && applied >= quorum->snapshot_index);
    if (term > 0 && has_mark && applied >= quorum->heard_commit) {
        quorum->is_current = true;
    }
}

void quorum_watch(struct quorum *quorum)
{
    struct store *store = quorum->store;
    if (!quorum->raft_is_open || quorum->closed != NULL || store->quorum != quorum) {
        return;
    }
    bool leads = raft_state(&quorum->raft) == RAFT_LEADER;
    if (leads && (!quorum->leads || quorum->term != quorum->raft.current_term)) {
        begin_to_lead(quorum);
    } else if (!leads && quorum->leads) {
        quorum->leads = false;
        quorum->is_ready = false;
        quorum->mark_runs = false;
        store_ask_reads(store);
    }
    raft_id leader = 0;
    const char *address = NULL;
    raft_leader(&quorum->raft, &leader, &address);
    store_set_leader(store, leader, quorum->raft.current_term);
    look_whether_ready(quorum);
    look_whether_current(quorum);
    if (store->failure.kind != ERROR_NONE) {
        quorum_fail(quorum, RAFT_CORRUPT);
    }
}

/* ---- Beginning and ending ---- */

bool quorum_has(const struct quorum *quorum, uint64_t id)
{
    const struct raft_configuration *configuration = &quorum->raft.configuration;
    for (unsigned i = 0; quorum->raft_is_open && i < configuration->n; i++) {
        if (configuration->servers[i].id == id) {
            return true;
        }
    }
    return false;
}

bool quorum_is_only(const struct quorum *quorum)
{
    const struct raft_configuration *configuration = &quorum->raft.configuration;
    return configuration->n == 1 && configuration->servers[0].id == quorum->store->folder.node_id;
}

/* Why libraft could not start. */
static int log_error_of(struct quorum *quorum, int status, struct error *err)
{
    struct store *store = quorum->store;
    const char *text = raft_errmsg(&quorum->raft);
    text = text[0] != '\0' ? text : raft_strerror(status);
    if (store->failure.kind != ERROR_NONE) {
        return store_folder_error(store, err);
    }
    switch (status) {
    case RAFT_NOSPACE:
        return error_set(err, ERROR_FULL, "no space left on the disk of %s: make room",
                         store->folder.path);
    case RAFT_NOMEM:
        return error_set(err, ERROR_LIMIT, "no memory to read the log in %s", store->folder.path);
    default:
        return error_set(err, ERROR_CORRUPT, "the log in %s cannot be read: %s; restore a backup",
                         store->folder.path, text);
    }
}

/* This server alone: the beginning of a new log, or the rest of one whose other servers are gone.
 */
static int configure(struct quorum *quorum, const char *address)
{
    const struct store_options *options = &quorum->store->options;
    struct raft_configuration configuration;
    if (options->joins && !options->recovers) {
        return 0;
    }
    raft_configuration_init(&configuration);
    int r =
        raft_configuration_add(&configuration, quorum->store->folder.node_id, address, RAFT_VOTER);
    CHECK(r == 0);
    r = options->recovers ? raft_recover(&quorum->raft, &configuration)
                          : raft_bootstrap(&quorum->raft, &configuration);
    raft_configuration_close(&configuration);
    return r == RAFT_CANTBOOTSTRAP ? 0 : r;
}

/*
 * A server alone is the leader at its start, without an election, in the term that it had: but a
 * term is to have one leader's life in it (propose.c counts on it).
 */
static int begin_own_term(struct quorum *quorum)
{
    struct raft *raft = &quorum->raft;
    if (!quorum_is_only(quorum) || raft_state(raft) != RAFT_LEADER) {
        return 0;
    }
    int r = quorum->io.set_term(&quorum->io, raft->current_term + 1);
    if (r == 0) {
        raft->current_term++;
        r = quorum->io.set_vote(&quorum->io, raft->id);
        raft->voted_for = raft->id;
    }
    return r;
}

static int start_raft(struct quorum *quorum, struct error *err)
{
    struct store *store = quorum->store;
    char address[24];
    snprintf(address, sizeof(address), "%" PRIu64, store->folder.node_id);
    transport_to_nobody(&quorum->transport);
    int r = raft_uv_init(&quorum->io, loop_uv(store->loop), store->folder.path, &quorum->transport);
    if (r != 0) {
        return error_set(err, ERROR_OS, "opening the log in %s: %s", store->folder.path,
                         quorum->io.errmsg);
    }
    /* Damage is told to people, not repaired behind their back. */
    raft_uv_set_auto_recovery(&quorum->io, false);
    /* libraft 0.15 never ends when it decompresses a snapshot that was cut; ours has a CRC. */
    raft_uv_set_snapshot_compression(&quorum->io, false);
    quorum->fsm = (struct raft_fsm){.version = 1,
                                    .data = quorum,
                                    .apply = on_apply,
                                    .snapshot = on_snapshot,
                                    .restore = on_restore};
    r = raft_init(&quorum->raft, &quorum->io, &quorum->fsm, store->folder.node_id, address);
    if (r != 0) {
        return log_error_of(quorum, r, err);
    }
    quorum->raft_is_open = true;
    quorum_wrap(quorum);
    raft_set_election_timeout(&quorum->raft, ELECTION_MS);
    raft_set_heartbeat_timeout(&quorum->raft, HEARTBEAT_MS);
    raft_set_install_snapshot_timeout(&quorum->raft, INSTALL_MS);
    raft_set_max_catch_up_rounds(&quorum->raft, CATCH_UP_ROUNDS);
    raft_set_max_catch_up_round_duration(&quorum->raft, CATCH_UP_ROUND_MS);
    raft_set_snapshot_threshold(&quorum->raft, STORE_SNAPSHOT_ENTRIES);
    raft_set_snapshot_trailing(&quorum->raft, STORE_TRAILING_ENTRIES);
    raft_set_pre_vote(&quorum->raft, true);
    r = configure(quorum, address);
    r = r != 0 ? r : raft_start(&quorum->raft);
    r = r != 0 ? r : begin_own_term(quorum);
    return r == 0 ? 0 : log_error_of(quorum, r, err);
}

int quorum_open(struct store *store, struct error *err)
{
    struct quorum *quorum = NEW(struct quorum);
    quorum->store = store;
    list_init(&quorum->sent);
    store->quorum = quorum;
    int r = start_raft(quorum, err);
    if (r == 0) {
        quorum_watch(quorum);
    }
    return r;
}

/* What still refers to it: calls that are posted. */
void quorum_release(struct quorum *quorum)
{
    if (!quorum->is_closed || quorum->sent_posted || quorum->commit_posted) {
        return;
    }
    void (*closed)(void *context) = quorum->closed;
    void *context = quorum->context;
    raft_uv_close(&quorum->io);
    buffer_done(&quorum->scratch);
    free(quorum->origins);
    free(quorum);
    closed(context);
}

static void closed_posted(void *argument)
{
    struct quorum *quorum = argument;
    quorum->is_closed = true;
    quorum_release(quorum);
}

/* libraft still looks at itself after this. */
static void on_closed(struct raft *raft)
{
    struct quorum *quorum = LIST_ITEM(raft, struct quorum, raft);
    loop_post(quorum->store->loop, closed_posted, quorum);
}

/*
 * What is on its way to the disk arrives first.  libraft 0.15 forgets that it leads when it is
 * closed, and then reads through a null pointer when such a write comes back.
 */
void quorum_end(void *argument)
{
    struct quorum *quorum = argument;
    if (quorum->closed != NULL && quorum->raft_is_open && quorum->appends == 0) {
        quorum->raft_is_open = false;
        raft_close(&quorum->raft, on_closed);
    }
}

void quorum_close(struct quorum *quorum, void (*closed)(void *context), void *context)
{
    CHECK(quorum->closed == NULL && closed != NULL);
    quorum->closed = closed;
    quorum->context = context;
    quorum->leads = false;
    quorum->is_ready = false;
    LIST_EACH(node, &quorum->store->links)
    {
        struct link *link = LIST_ITEM(node, struct link, link);
        if (link->outgoing != NULL) {
            snapshot_lose(link); /* what it lends ends with it */
        }
    }
    if (quorum->raft_is_open) { /* a raft_init() that failed has freed what it made */
        loop_post(quorum->store->loop, quorum_end, quorum);
    } else {
        loop_post(quorum->store->loop, closed_posted, quorum);
    }
}
