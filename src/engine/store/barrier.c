/*
 * Linearizable reads: one barrier of the leader for all that came before it (dissertation 6.4).
 *
 * Where another node leads it is asked, and answers with the index that its barrier reached; the
 * read goes on when this replica has reached it too.
 */
#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/command.h"
#include "engine/store/private.h"

struct read {
    struct list_node link;
    void (*done)(const struct error *error, void *context);
    void *context;
    uint64_t deadline_ms;
};

/* Another node's: answered when the barrier under way has ended. */
struct question {
    struct list_node link_node;
    struct link *link; /* NULL: it is gone */
    uint64_t id;
    struct store *store;
};

static void end_reads(struct list *reads, const struct error *error)
{
    LIST_EACH(node, reads)
    {
        struct read *read = LIST_ITEM(node, struct read, link);
        list_remove(node);
        read->done(error, read->context);
        free(read);
    }
}

static void move_all(struct list *from, struct list *to)
{
    LIST_EACH(node, from)
    {
        list_remove(node);
        list_push_back(to, node);
    }
}

static void say_no_leader(struct error *err)
{
    error_set(err, ERROR_UNAVAILABLE,
              "the cluster has no leader that answers: read without "
              "consistency=linearizable, or later");
}

void store_end_reads(struct store *store, const struct error *error)
{
    end_reads(&store->reached, NULL);
    end_reads(&store->confirming, error);
    end_reads(&store->reads, error);
}

/* ---- On the leader ---- */

static void on_read_barrier(struct raft_barrier *barrier, int status)
{
    struct store *store = barrier->data;
    store->read_barrier_runs = false;
    if (status == 0) {
        quorum_tell_commit(store->quorum);
        end_reads(&store->confirming, NULL);
    } else if (store_is_alone(store) || store->closing) {
        struct error error = {0};
        error_set(&error, status == RAFT_NOSPACE ? ERROR_FULL : ERROR_UNAVAILABLE,
                  "this node cannot answer for its state now: %s", raft_strerror(status));
        store_end_reads(store, &error);
    } else {
        move_all(&store->confirming, &store->reads); /* the next leader is asked */
    }
    if (status == 0) {
        store_ask_reads(store);
    }
    store_look_whether_settled(store);
}

static void begin_barrier(struct store *store)
{
    if (store->read_barrier_runs) {
        return; /* its end begins the next */
    }
    move_all(&store->reads, &store->confirming);
    store->read_barrier.data = store;
    store->read_barrier_runs = true;
    int r = raft_barrier(&store->quorum->raft, &store->read_barrier, on_read_barrier);
    if (r != 0) {
        on_read_barrier(&store->read_barrier, r);
    }
}

static void answer(struct link *link, uint64_t id, uint64_t index)
{
    const uint64_t body[] = {id, index};
    link_say(link->stream, FRAME_READ_DONE, body, sizeof(body));
}

static void on_question(const struct error *error, void *context)
{
    struct question *question = context;
    list_remove(&question->link_node);
    if (question->link != NULL && question->link->stream != NULL) {
        uint64_t index = error == NULL ? store_index(question->store) + 1 : 0;
        answer(question->link, question->id, index);
    }
    free(question);
}

void store_take_read(struct link *link, const uint8_t *body, size_t length)
{
    struct store *store = link->store;
    struct command_reader reader = {.at = body, .end = body + length};
    uint64_t id = command_read_u64(&reader);
    if (reader.is_bad || !store_leads(store)) {
        answer(link, id, 0);
        return;
    }
    struct question *question = NEW(struct question);
    *question = (struct question){.link = link, .id = id, .store = store};
    list_push_back(&store->questions, &question->link_node);
    store_barrier(store, on_question, question);
}

void store_drop_questions(struct store *store, const struct link *link_or_null)
{
    LIST_EACH(node, &store->questions)
    {
        struct question *question = LIST_ITEM(node, struct question, link_node);
        if (link_or_null == NULL || question->link == link_or_null) {
            question->link = NULL;
        }
    }
}

/* ---- Elsewhere ---- */

static void ask_leader(struct store *store)
{
    struct stream *stream = store->leader_id != 0 && store->leader_id != store->folder.node_id
        ? link_to(store, store->leader_id, 0)
        : NULL;
    if (stream == NULL || store->read_asked != 0) {
        return;
    }
    move_all(&store->reads, &store->confirming);
    store->read_asked = ++store->read_count;
    store->read_index = 0;
    link_say(stream, FRAME_READ, &store->read_asked, sizeof(store->read_asked));
}

void store_take_read_done(struct store *store, const uint8_t *body, size_t length)
{
    struct command_reader reader = {.at = body, .end = body + length};
    uint64_t id = command_read_u64(&reader);
    uint64_t index = command_read_u64(&reader);
    if (reader.is_bad || id != store->read_asked) {
        return;
    }
    if (index == 0) {
        store->read_asked = 0; /* the tick asks again */
        return;
    }
    store->read_index = index;
    store_on_reached(store);
}

static void post_reads(struct store *store);

/* What runs now may be inside of applying: they are told in a later turn. */
void store_on_reached(struct store *store)
{
    if (store->read_asked != 0 && store->read_index != 0 &&
        store_index(store) + 1 >= store->read_index) {
        move_all(&store->confirming, &store->reached);
        store->read_asked = 0;
        post_reads(store);
    }
}

/* ---- Both ---- */

static void on_reads_posted(void *argument)
{
    struct store *store = argument;
    store->reads_posted = false;
    end_reads(&store->reached, NULL);
    store_ask_reads(store);
    store_look_whether_settled(store);
}

static void post_reads(struct store *store)
{
    if (!store->reads_posted) {
        store->reads_posted = true;
        loop_post(store->loop, on_reads_posted, store);
    }
}

void store_barrier(struct store *store, void (*done)(const struct error *error, void *context),
                   void *context)
{
    CHECK(loop_is_mine(store->loop));
    struct read *read = NEW(struct read);
    read->done = done;
    read->context = context;
    read->deadline_ms = store_deadline(store);
    list_push_back(&store->reads, &read->link);
    post_reads(store);
}

static void give_up_late(struct store *store, struct list *reads)
{
    struct error late = {0};
    say_no_leader(&late);
    LIST_EACH(node, reads)
    {
        struct read *read = LIST_ITEM(node, struct read, link);
        if (store_now_ms(store) >= read->deadline_ms) {
            list_remove(node);
            read->done(&late, read->context);
            free(read);
        }
    }
}

static void hurry(struct list *reads, uint64_t limit_ms)
{
    LIST_EACH(node, reads)
    {
        struct read *read = LIST_ITEM(node, struct read, link);
        read->deadline_ms = read->deadline_ms < limit_ms ? read->deadline_ms : limit_ms;
    }
}

void store_reads_hurry(struct store *store, uint64_t limit_ms)
{
    hurry(&store->reads, limit_ms);
    hurry(&store->confirming, limit_ms);
}

void store_reads_tick(struct store *store)
{
    give_up_late(store, &store->reads);
    give_up_late(store, &store->confirming);
    store_ask_reads(store);
}

void store_ask_reads(struct store *store)
{
    if (store->closing) {
        return;
    }
    if (store->read_asked == 0 && !store->read_barrier_runs && !list_is_empty(&store->confirming)) {
        move_all(&store->confirming, &store->reads); /* who was asked is no leader any more */
    }
    if (list_is_empty(&store->reads)) {
        return;
    }
    if (store_leads(store)) {
        begin_barrier(store);
    } else if (store_is_alone(store)) {
        struct error error = {0};
        error_set(&error, ERROR_UNAVAILABLE, "this node cannot answer for its state now");
        store_end_reads(store, &error);
    } else {
        ask_leader(store);
    }
}
