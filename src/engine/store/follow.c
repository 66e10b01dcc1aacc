/*
 * Following the log of others: a worker's state, and that of a server that cannot write its log.
 *
 * The nearest server is asked; one that is silent, or does not know a leader, is left for the next.
 * FOLDER/replica has the state as it was some time ago, so that a node which starts while nobody
 * answers has something to go on with.
 */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/command.h"
#include "engine/store/private.h"

enum {
    SILENT_MS = 2500, /* signs of life come twice a second */
    SAVE_EVERY_MS = 300000,
};
static const uint64_t state_max = UINT64_C(4) << 30;

/* ---- The file ---- */

static char *replica_path(const struct store *store)
{
    return memory_format("%s/replica", store->folder.path);
}

int follow_load(struct store *store, struct error *err)
{
    BUFFER_OWNED struct buffer bytes = {0};
    MEMORY_OWNED char *path = replica_path(store);
    bool is_restored = false;
    int r = file_read(path, (size_t)state_max, &bytes, err);
    if (r == -ERROR_NOT_FOUND) {
        return 0;
    }
    r = r < 0 ? r : machine_restore(store->machine, bytes.data, bytes.used, &is_restored, err);
    if (r == -ERROR_CORRUPT) {
        log_warn("store: %s: %s; the state is fetched anew", path, err->text);
        *err = (struct error){0};
        return 0;
    }
    store->restored = machine_index(store->machine);
    store->follow.saved = store->restored;
    return r;
}

int follow_save(struct store *store, struct error *err)
{
    BUFFER_OWNED struct buffer bytes = {0};
    MEMORY_OWNED char *path = replica_path(store);
    uint64_t index = machine_index(store->machine);
    store->follow.saved_ms = store_now_ms(store);
    if (index == store->follow.saved) {
        return 0;
    }
    int r = machine_snapshot(store->machine, &bytes, err);
    r = r < 0 ? r : file_write(path, bytes.data, bytes.used, 0600, err);
    store->follow.saved = r < 0 ? store->follow.saved : index;
    return r;
}

/* ---- Whom ---- */

static void ask(struct link *link)
{
    struct store *store = link->store;
    struct follow *follow = &store->follow;
    BUFFER_OWNED struct buffer frame = {0};
    size_t begun = wire_begin(&frame, FRAME_FOLLOW);
    buffer_append_u64(&frame, store_index(store));
    buffer_append_u32(&frame, machine_incarnation(store->machine));
    wire_end(&frame, begun);
    follow->current = link->id;
    follow->heard_ms = store_now_ms(store);
    follow->led_ms = follow->heard_ms;
    follow->state_size = 0;
    stream_write(link->stream, frame.data, frame.used);
}

/* Try the next one; its end of dialing comes back here. */
static void try_next(struct store *store)
{
    struct follow *follow = &store->follow;
    for (size_t i = 0; i < follow->count && follow->current == 0; i++) {
        uint64_t id = follow->servers[follow->next % follow->count];
        if (id != store->folder.node_id && link_to(store, id, 0) != NULL) {
            ask(link_find(store, id, 0));
        } else {
            follow->next++;
        }
    }
}

void follow_on_up(struct link *link)
{
    struct follow *follow = &link->store->follow;
    bool is_one = false;
    for (size_t i = 0; i < follow->count; i++) {
        is_one |= follow->servers[i] == link->id;
    }
    if (follow->is_on && follow->current == 0 && is_one) {
        ask(link);
    }
}

void follow_on_down(struct store *store, uint64_t id)
{
    struct follow *follow = &store->follow;
    if (follow->is_on && follow->current == id) {
        follow->current = 0;
        follow->next++;
        follow->state_size = 0;
        buffer_done(&follow->state);
    }
}

void store_set_servers(struct store *store, const uint64_t *ids, size_t count)
{
    struct follow *follow = &store->follow;
    follow->count = count < STORE_FOLLOWED_MAX ? count : STORE_FOLLOWED_MAX;
    memcpy(follow->servers, ids, follow->count * sizeof(*ids));
    follow->next = 0;
    if (follow->is_on) {
        try_next(store);
    }
}

void follow_begin(struct store *store)
{
    struct follow *follow = &store->follow;
    follow->is_on = true;
    follow->current = 0;
    follow->is_wanted = false;
    follow->is_current = false;
    follow->saved_ms = store_now_ms(store);
    try_next(store);
}

void follow_end(struct store *store)
{
    struct follow *follow = &store->follow;
    struct link *link = link_find(store, follow->current, 0);
    follow->is_on = false;
    follow->current = 0;
    buffer_done(&follow->state);
    if (link != NULL) {
        link_close(link); /* what is on its way would be taken for answers to a server */
    }
}

static void leave(struct store *store, const char *why)
{
    uint64_t id = store->follow.current;
    struct link *link = link_find(store, id, 0);
    log_info("store: node %" PRIu64 " is followed no more: %s", id, why);
    if (link != NULL && link->stream != NULL) {
        link_close(link);
    }
    follow_on_down(store, id);
}

void follow_tick(struct store *store)
{
    struct follow *follow = &store->follow;
    uint64_t now_ms = store_now_ms(store);
    if (!follow->is_on) {
        return;
    }
    if (follow->current != 0 && now_ms - follow->heard_ms > SILENT_MS) {
        leave(store, "it is silent");
    } else if (follow->current != 0 && now_ms - follow->led_ms > SILENT_MS && follow->count > 1) {
        leave(store, "it knows no leader");
    }
    if (store->leader_id != 0 && now_ms - follow->led_ms > SILENT_MS) {
        store_set_leader(store, 0, store->leader_term); /* nobody has confirmed it since */
    }
    if (follow->current == 0) {
        try_next(store);
    }
    if (now_ms - follow->saved_ms > SAVE_EVERY_MS) {
        struct error err = {0};
        if (follow_save(store, &err) < 0) {
            log_warn("store: the copy of the state was not saved: %s", err.text);
        }
    }
}

/* ---- What it says ---- */

static void take_state_piece(struct store *store, const uint8_t *body, size_t length,
                             struct error *err)
{
    struct follow *follow = &store->follow;
    if (follow->state_size == 0 || length > follow->state_size - follow->state.used) {
        error_set(err, ERROR_PROTOCOL, "a piece of no state");
        return;
    }
    buffer_append(&follow->state, body, length);
    if (follow->state.used < follow->state_size) {
        return;
    }
    bool is_restored = false;
    struct buffer state = follow->state;
    follow->state = (struct buffer){0};
    follow->state_size = 0;
    int r = machine_restore(store->machine, state.data, state.used, &is_restored, err);
    buffer_done(&state);
    if (r == 0 && is_restored) {
        store_on_restored(store);
    }
}

static void take_state(struct store *store, const uint8_t *body, size_t length, struct error *err)
{
    struct follow *follow = &store->follow;
    struct command_reader reader = {.at = body, .end = body + length};
    uint64_t size = command_read_u64(&reader);
    if (reader.is_bad || size == 0 || size > state_max) {
        error_set(err, ERROR_PROTOCOL, "a state of %" PRIu64 " bytes", size);
        return;
    }
    follow->state.used = 0;
    follow->state_size = (size_t)size;
}

static void take_head(struct store *store, const uint8_t *body, size_t length, struct error *err)
{
    struct follow *follow = &store->follow;
    struct command_reader reader = {.at = body, .end = body + length};
    uint64_t index = command_read_u64(&reader);
    uint64_t leader = command_read_u64(&reader);
    uint64_t term = command_read_u64(&reader);
    if (reader.is_bad) {
        error_set(err, ERROR_PROTOCOL, "a sign of life that is malformed");
        return;
    }
    if (leader != 0) {
        follow->led_ms = follow->heard_ms;
        follow->wanted = follow->is_wanted ? follow->wanted : index;
        follow->is_wanted = true;
    }
    if (term > store->leader_term || (term == store->leader_term && leader != 0)) {
        store_set_leader(store, leader, term);
    }
}

static void look_whether_current(struct store *store)
{
    struct follow *follow = &store->follow;
    if (!follow->is_current && follow->is_wanted && store_index(store) >= follow->wanted) {
        follow->is_current = true;
        store_stir(store); /* store_wait() looks */
    }
}

void follow_take(struct link *link, enum frame_kind kind, const uint8_t *body, size_t length,
                 struct error *err)
{
    struct store *store = link->store;
    struct follow *follow = &store->follow;
    if (!follow->is_on || follow->current != link->id) {
        return;
    }
    struct machine_entry entry = {0};
    follow->heard_ms = store_now_ms(store);
    if (kind == FRAME_STATE) {
        take_state(store, body, length, err);
    } else if (kind == FRAME_SNAPSHOT_DATA) {
        take_state_piece(store, body, length, err);
    } else if (kind == FRAME_HEAD) {
        take_head(store, body, length, err);
    } else if (store_apply(store, body, length, &entry) < 0) {
        *err = store->failure; /* the connection is cut, and another node asked */
        store->failure = (struct error){0};
    }
    if (err->kind == ERROR_UNSUPPORTED) {
        store->failure = *err; /* no other node says anything else */
        store_fail_writes(store, err);
    }
    look_whether_current(store);
}
