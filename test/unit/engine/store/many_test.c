/* Several stores on one loop, joined by real streams on loopback: servers, workers, their life. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/store.h"

#include "test/lib/test.h"
#include "test/unit/engine/store/support.h"

enum { NODES = 5, PATIENCE_MS = 20000 };

struct many;

/* Node `to` as node `from` sees it: a listener of its own says who dials. */
struct way {
    struct many *many;
    unsigned from;
    unsigned to;
    uint16_t port;
    struct stream_listener *listener;
    bool is_cut;
};

struct dial {
    struct many *many;
    struct way *way;
    unsigned lane;
};

struct member {
    struct many *many;
    unsigned number; /* its id less 1 */
    struct store *store;
    struct error failed;
};

struct many {
    struct loop *loop;
    struct member members[NODES];
    struct way ways[NODES][NODES];
    unsigned dials;
    bool is_late;
};

static uint64_t id_of(unsigned number)
{
    return number + 1;
}

static void on_stream(struct stream *owned_stream, void *context)
{
    struct way *way = context;
    struct store *store = way->many->members[way->to].store;
    if (store == NULL || way->is_cut) {
        stream_close(owned_stream);
        return;
    }
    store_accept(store, id_of(way->from), owned_stream);
}

static void on_dialed(struct stream *owned_stream, const struct error *error, void *context)
{
    struct dial *dial = context;
    struct store *store = dial->many->members[dial->way->from].store;
    (void)error;
    dial->many->dials--;
    if (store == NULL) {
        stream_close(owned_stream);
    } else {
        store_dialed(store, id_of(dial->way->to), dial->lane, owned_stream);
    }
    free(dial);
}

static void fail_dial(void *argument)
{
    on_dialed(NULL, NULL, argument);
}

static void dial(uint64_t id, unsigned lane, void *context)
{
    struct member *member = context;
    struct many *many = member->many;
    CHECK(id >= 1 && id <= NODES);
    struct way *way = &many->ways[member->number][id - 1];
    struct dial *dial = NEW(struct dial);
    *dial = (struct dial){many, way, lane};
    many->dials++;
    if (way->is_cut || many->members[way->to].store == NULL) {
        loop_post(many->loop, fail_dial, dial);
        return;
    }
    MEMORY_OWNED char *address = memory_format("127.0.0.1:%u", way->port);
    const struct stream_dial_options options = {.timeout_ms = 2000};
    stream_dial(many->loop, address, &options, on_dialed, dial);
}

static void on_failed(const struct error *error, void *context)
{
    ((struct member *)context)->failed = *error;
}

static void begin(struct many *many)
{
    struct error err = {0};
    memset(many, 0, sizeof(*many));
    signal(SIGPIPE, SIG_IGN); /* as the daemon does */
    EXPECT(loop_new("many", &many->loop, &err) == 0);
    for (unsigned from = 0; from < NODES; from++) {
        many->members[from] = (struct member){.many = many, .number = from};
        for (unsigned to = 0; to < NODES; to++) {
            struct way *way = &many->ways[from][to];
            *way = (struct way){.many = many, .from = from, .to = to};
            EXPECT(stream_listen(many->loop, "127.0.0.1:0", NULL, NULL, on_stream, way,
                                 &way->listener, &way->port, &err) == 0);
        }
    }
}

static struct store *open_member(struct many *many, unsigned number, enum store_role role,
                                 bool joins)
{
    struct member *member = &many->members[number];
    struct error err = {0};
    MEMORY_OWNED char *folder = memory_format("%s/%u", test_folder(), number);
    const struct store_options options = {
        .folder = folder,
        .role = role,
        .node_id = id_of(number),
        .joins = joins,
        .network = {.dial = dial, .context = member},
        .on_failed = on_failed,
        .context = member,
    };
    struct store *store = NULL;
    EXPECT(store_open(many->loop, &options, &store, &err) == 0);
    member->store = store;
    uint64_t servers[NODES];
    for (unsigned i = 0; i < NODES; i++) {
        servers[i] = id_of(i);
    }
    store_set_servers(store, servers, 3);
    return store;
}

static void close_member(struct many *many, unsigned number)
{
    struct store *store = many->members[number].store;
    many->members[number].store = NULL;
    store_close(store);
}

static void on_late(void *context)
{
    struct many *many = context;
    many->is_late = true;
    uv_stop(loop_uv(many->loop));
}

static void on_look(uv_timer_t *timer)
{
    uv_stop((uv_loop_t *)timer->data);
}

/* Run until it is so; looked at often, because a store tells nobody of most of it. */
static void wait_until(struct many *many, bool (*is_so)(struct many *many, void *context),
                       void *context)
{
    struct loop_timer *late = loop_timer_new(many->loop, on_late, many);
    uv_timer_t look;
    uv_timer_init(loop_uv(many->loop), &look);
    look.data = loop_uv(many->loop);
    uv_timer_start(&look, on_look, 2, 2);
    loop_timer_start(late, PATIENCE_MS);
    while (!is_so(many, context) && !many->is_late) {
        loop_run(many->loop);
    }
    EXPECT(is_so(many, context));
    loop_timer_free(late);
    uv_close((uv_handle_t *)&look, NULL);
    uv_run(loop_uv(many->loop), UV_RUN_NOWAIT);
}

static bool no_dials(struct many *many, void *context)
{
    (void)context;
    return many->dials == 0;
}

static void end(struct many *many)
{
    for (unsigned i = 0; i < NODES; i++) {
        if (many->members[i].store != NULL) {
            close_member(many, i);
        }
    }
    wait_until(many, no_dials, NULL);
    for (unsigned from = 0; from < NODES; from++) {
        for (unsigned to = 0; to < NODES; to++) {
            stream_listener_close(many->ways[from][to].listener);
        }
    }
    loop_free(many->loop);
}

/* ---- What is waited for ---- */

static unsigned leader_of(struct many *many)
{
    for (unsigned i = 0; i < NODES; i++) {
        struct store_status status;
        if (many->members[i].store != NULL) {
            store_status(many->members[i].store, &status);
            if (status.is_leader) {
                return i;
            }
        }
    }
    return NODES;
}

static bool is_led(struct many *many, void *context)
{
    (void)context;
    return leader_of(many) < NODES;
}

/* All that are open have the same index, and it is at least this. */
static bool is_even(struct many *many, void *context)
{
    uint64_t least = *(uint64_t *)context;
    for (unsigned i = 0; i < NODES; i++) {
        struct store *store = many->members[i].store;
        if (store != NULL && store_index(store) < least) {
            return false;
        }
    }
    return true;
}

struct ending {
    bool is_over;
    struct error error;
    uint64_t index;
};

static bool is_over(struct many *many, void *context)
{
    (void)many;
    return ((struct ending *)context)->is_over;
}

static void on_changed(const struct error *error, void *context)
{
    struct ending *ending = context;
    ending->is_over = true;
    if (error != NULL) {
        ending->error = *error;
    }
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct ending *ending = context;
    ending->index = index;
    on_changed(error, context);
}

static void add_server(struct many *many, unsigned number)
{
    struct ending ending = {0};
    wait_until(many, is_led, NULL);
    store_add_server(many->members[leader_of(many)].store, id_of(number), on_changed, &ending);
    wait_until(many, is_over, &ending);
    EXPECT_STRING(ending.error.text, "");
}

static void begin_three(struct many *many)
{
    begin(many);
    open_member(many, 0, STORE_SERVER, false);
    for (unsigned i = 1; i < 3; i++) {
        open_member(many, i, STORE_SERVER, true);
        add_server(many, i);
    }
}

static uint64_t write_at(struct many *many, unsigned number, uint64_t project)
{
    struct ending ending = {0};
    store_propose(many->members[number].store, project_command(project), on_written, &ending);
    wait_until(many, is_over, &ending);
    EXPECT_STRING(ending.error.text, "");
    EXPECT(ending.index > 0 && store_index(many->members[number].store) >= ending.index);
    return ending.index;
}

static int64_t count_at(struct many *many, unsigned number)
{
    struct node node = {.loop = many->loop, .store = many->members[number].store};
    return node_integer(&node, "SELECT count(*) FROM project");
}

static uint64_t digest_at(struct many *many, unsigned number)
{
    struct node node = {.loop = many->loop, .store = many->members[number].store};
    return node_digest(&node);
}

static void cut(struct many *many, unsigned number, bool is_cut)
{
    for (unsigned i = 0; i < NODES; i++) {
        many->ways[number][i].is_cut = is_cut;
        many->ways[i][number].is_cut = is_cut;
        if (is_cut && i != number && many->members[i].store != NULL) {
            store_forget_node(many->members[i].store, id_of(number));
            store_forget_node(many->members[number].store, id_of(i));
        }
    }
}

/* ---- Tests ---- */

TEST(store_many, three_servers_take_writes_at_each_of_them)
{
    struct many many;
    begin_three(&many);
    uint64_t last = 0;
    for (unsigned i = 0; i < 30; i++) {
        last = write_at(&many, i % 3, i);
    }
    wait_until(&many, is_even, &last);
    for (unsigned i = 0; i < 3; i++) {
        EXPECT(count_at(&many, i) == 30);
        EXPECT(digest_at(&many, i) == digest_at(&many, 0));
    }
    end(&many);
}

TEST(store_many, writes_go_on_when_the_leader_is_gone)
{
    struct many many;
    begin_three(&many);
    write_at(&many, 0, 1);
    unsigned leader = leader_of(&many);
    close_member(&many, leader);
    unsigned other = leader == 0 ? 1 : 0;
    uint64_t last = write_at(&many, other, 2);
    open_member(&many, leader, STORE_SERVER, true);
    wait_until(&many, is_even, &last);
    EXPECT(count_at(&many, leader) == 2);
    end(&many);
}

TEST(store_many, a_worker_has_the_state_and_writes_through_the_leader)
{
    struct many many;
    begin_three(&many);
    write_at(&many, 0, 1);
    open_member(&many, 3, STORE_WORKER, true);
    struct error err = {0};
    store_wait(many.members[3].store, PATIENCE_MS, &err);
    EXPECT_STRING(err.text, "");
    EXPECT(count_at(&many, 3) == 1);
    uint64_t last = write_at(&many, 3, 2);
    wait_until(&many, is_even, &last);
    EXPECT(count_at(&many, 3) == 2 && count_at(&many, 1) == 2);

    /* Its server goes; the next one is followed. */
    struct store_status status;
    store_status(many.members[3].store, &status);
    EXPECT(status.followed_id > 0);
    close_member(&many, (unsigned)status.followed_id - 1);
    last = write_at(&many, 3, 3);
    EXPECT(count_at(&many, 3) == 3);

    /* It comes back with what it had. */
    close_member(&many, 3);
    open_member(&many, 3, STORE_WORKER, true);
    EXPECT(count_at(&many, 3) == 3);
    end(&many);
}

TEST(store_many, a_cut_off_leader_loses_nothing_that_was_acknowledged)
{
    struct many many;
    begin_three(&many);
    write_at(&many, 0, 1);
    unsigned leader = leader_of(&many);
    struct ending alone = {0};
    cut(&many, leader, true);
    store_propose(many.members[leader].store, project_command(2), on_written, &alone);
    unsigned other = leader == 0 ? 1 : 0;
    uint64_t last = write_at(&many, other, 3);
    EXPECT(!alone.is_over);
    cut(&many, leader, false);
    wait_until(&many, is_over, &alone); /* it was asked again of the next leader */
    EXPECT_STRING(alone.error.text, "");
    last = alone.index > last ? alone.index : last;
    wait_until(&many, is_even, &last);
    for (unsigned i = 0; i < 3; i++) {
        EXPECT(count_at(&many, i) == 3);
        EXPECT(digest_at(&many, i) == digest_at(&many, 0));
    }
    end(&many);
}

TEST(store_many, a_worker_becomes_a_server_and_a_server_a_worker)
{
    struct many many;
    begin_three(&many);
    open_member(&many, 3, STORE_WORKER, true);
    struct error err = {0};
    store_wait(many.members[3].store, PATIENCE_MS, &err);
    EXPECT_STRING(err.text, "");
    write_at(&many, 3, 1);
    struct ending ending = {0};
    store_change_role(many.members[3].store, STORE_SERVER, id_of(3), on_changed, &ending);
    wait_until(&many, is_over, &ending);
    EXPECT_STRING(ending.error.text, "");
    add_server(&many, 3);
    write_at(&many, 3, 2);

    unsigned leaving = leader_of(&many) == 1 ? 2 : 1;
    ending = (struct ending){0};
    store_remove_server(many.members[leader_of(&many)].store, id_of(leaving), on_changed, &ending);
    wait_until(&many, is_over, &ending);
    EXPECT_STRING(ending.error.text, "");
    ending = (struct ending){0};
    store_change_role(many.members[leaving].store, STORE_WORKER, id_of(leaving), on_changed,
                      &ending);
    wait_until(&many, is_over, &ending);
    EXPECT_STRING(ending.error.text, "");
    uint64_t last = write_at(&many, leaving, 3);
    wait_until(&many, is_even, &last);
    for (unsigned i = 0; i < 4; i++) {
        EXPECT(count_at(&many, i) == 3);
    }
    end(&many);
}

/* Two of three are gone for good: the third goes on alone, and a worker of before follows it. */
TEST(store_many, a_server_goes_on_alone_when_it_is_told_so)
{
    struct many many;
    struct error err = {0};
    begin_three(&many);
    open_member(&many, 3, STORE_WORKER, true);
    store_wait(many.members[3].store, PATIENCE_MS, &err);
    EXPECT_STRING(err.text, "");
    uint64_t last = write_at(&many, 0, 1);
    wait_until(&many, is_even, &last);
    for (unsigned i = 0; i < 4; i++) {
        close_member(&many, i);
    }
    MEMORY_OWNED char *folder = memory_format("%s/1", test_folder());
    const struct store_options options = {.folder = folder, .joins = true, .recovers = true};
    struct store *store = NULL;
    EXPECT(store_open(many.loop, &options, &store, &err) == 0);
    struct store_command *command = project_command(2);
    store_command_add_incarnation(command);
    many.members[1].store = store;
    struct ending ending = {0};
    store_propose(store, command, on_written, &ending);
    wait_until(&many, is_over, &ending);
    EXPECT_STRING(ending.error.text, "");
    close_member(&many, 1);

    open_member(&many, 1, STORE_SERVER, true);
    EXPECT(count_at(&many, 1) == 2);
    open_member(&many, 3, STORE_WORKER, true);
    last = write_at(&many, 3, 3);
    wait_until(&many, is_even, &last);
    EXPECT(count_at(&many, 3) == 3 && digest_at(&many, 3) == digest_at(&many, 1));
    end(&many);
}

TEST(store_many, leadership_is_handed_over_from_anywhere)
{
    struct many many;
    begin_three(&many);
    write_at(&many, 0, 1);
    unsigned leader = leader_of(&many);
    unsigned wanted = (leader + 1) % 3;
    struct ending ending = {0};
    store_transfer_leadership(many.members[(leader + 2) % 3].store, id_of(wanted), on_changed,
                              &ending);
    wait_until(&many, is_over, &ending);
    EXPECT_STRING(ending.error.text, "");
    wait_until(&many, is_led, NULL);
    EXPECT(leader_of(&many) == wanted);
    write_at(&many, leader, 2);
    end(&many);
}

TEST(store_many, a_read_barrier_sees_what_was_acknowledged_elsewhere)
{
    struct many many;
    begin_three(&many);
    open_member(&many, 3, STORE_WORKER, true);
    struct error err = {0};
    store_wait(many.members[3].store, PATIENCE_MS, &err);
    EXPECT_STRING(err.text, "");
    for (unsigned i = 0; i < 8; i++) {
        uint64_t index = write_at(&many, i % 4, i);
        unsigned reader = (i + 1) % 4;
        struct ending ending = {0};
        store_barrier(many.members[reader].store, on_changed, &ending);
        wait_until(&many, is_over, &ending);
        EXPECT_STRING(ending.error.text, "");
        EXPECT(store_index(many.members[reader].store) >= index);
    }
    end(&many);
}

/*
 * Goal: a node that comes back has what was acknowledged meanwhile before it is asked.  Method: a
 * server and a worker end, others write, and both are opened again: what they had is a state to go
 * on with, and not the one that they end up with.
 */
TEST(store_many, who_comes_back_catches_up_before_it_serves)
{
    struct many many;
    struct error err = {0};
    begin_three(&many);
    open_member(&many, 3, STORE_WORKER, true);
    EXPECT(store_wait(many.members[3].store, PATIENCE_MS, &err) == 0);
    uint64_t last = write_at(&many, 0, 1);
    wait_until(&many, is_even, &last);
    unsigned away = leader_of(&many) == 1 ? 2 : 1;
    close_member(&many, away);
    close_member(&many, 3);
    for (unsigned i = 0; i < 20; i++) {
        last = write_at(&many, 0, 2 + i);
    }
    open_member(&many, away, STORE_SERVER, true);
    EXPECT(store_wait(many.members[away].store, PATIENCE_MS, &err) == 0);
    EXPECT(store_index(many.members[away].store) < last);
    EXPECT(store_catch_up(many.members[away].store, PATIENCE_MS, &err) == 0);
    EXPECT(store_index(many.members[away].store) >= last);
    open_member(&many, 3, STORE_WORKER, true);
    EXPECT(store_wait(many.members[3].store, PATIENCE_MS, &err) == 0);
    EXPECT(store_catch_up(many.members[3].store, PATIENCE_MS, &err) == 0);
    EXPECT(store_index(many.members[3].store) >= last);
    EXPECT_STRING(err.text, "");
    end(&many);
}

/* Nobody leads: whoever would catch up is told so, and has what it had. */
TEST(store_many, who_comes_back_alone_does_not_wait_for_a_leader)
{
    struct many many;
    struct error err = {0};
    begin_three(&many);
    uint64_t last = write_at(&many, 0, 1);
    wait_until(&many, is_even, &last);
    for (unsigned i = 0; i < 3; i++) {
        close_member(&many, i);
    }
    open_member(&many, 1, STORE_SERVER, true);
    EXPECT(store_catch_up(many.members[1].store, 1000, &err) == -ERROR_UNAVAILABLE);
    EXPECT(count_at(&many, 1) == 1);
    end(&many);
}

/*
 * Goal: a node that ends is not held up by a leader that nobody is any more.  Method: of three
 * servers two are gone; what was asked before the end was expected, and what is asked after it, is
 * answered while whoever expects no end still waits.
 */
TEST(store_many, who_expects_its_end_waits_for_no_leader)
{
    struct many many;
    struct ending write = {0};
    struct ending read = {0};
    struct ending last = {0};
    begin_three(&many);
    write_at(&many, 0, 1);
    close_member(&many, 1);
    close_member(&many, 2);
    struct store *store = many.members[0].store;
    store_propose(store, project_command(2), on_written, &write);
    store_barrier(store, on_changed, &read);
    store_expect_end(store);
    wait_until(&many, is_over, &write);
    EXPECT(write.error.kind == ERROR_UNAVAILABLE || write.error.kind == ERROR_UNKNOWN_OUTCOME);
    wait_until(&many, is_over, &read);
    EXPECT(read.error.kind == ERROR_UNAVAILABLE);
    store_propose(store, project_command(3), on_written, &last);
    wait_until(&many, is_over, &last);
    EXPECT(last.error.kind == ERROR_UNAVAILABLE || last.error.kind == ERROR_UNKNOWN_OUTCOME);
    end(&many);
}

TEST(store_many, a_server_far_behind_gets_a_snapshot)
{
    enum { WRITES = 3000 };
    struct many many;
    begin_three(&many);
    unsigned behind = leader_of(&many) == 1 ? 2 : 1;
    close_member(&many, behind);
    unsigned leader = leader_of(&many);
    struct ending endings[16] = {0};
    uint64_t last = 0;
    for (unsigned i = 0; i < WRITES; i += 16) {
        memset(endings, 0, sizeof(endings));
        for (unsigned k = 0; k < 16; k++) {
            struct store_command *command = project_command(i + k);
            char filler[6000];
            memset(filler, 'x', sizeof(filler) - 1);
            filler[sizeof(filler) - 1] = '\0';
            store_command_add(command, "UPDATE project SET created_ms = length(?) WHERE key = 'p0'",
                              "t", filler);
            store_propose(many.members[leader].store, command, on_written, &endings[k]);
        }
        for (unsigned k = 0; k < 16; k++) {
            wait_until(&many, is_over, &endings[k]);
            last = endings[k].index;
        }
    }
    open_member(&many, behind, STORE_SERVER, true);
    wait_until(&many, is_even, &last);
    EXPECT(digest_at(&many, behind) == digest_at(&many, leader));
    end(&many);
}
