/*
 * Who votes and who leads: membership one server at a time (dissertation 4.1), and handing over the
 * leadership (3.10).
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/command.h"
#include "engine/store/private.h"

enum { HANDOVER_MS = 5000 };

/* ---- Membership ---- */

struct change {
    struct raft_change request;
    struct store *store;
    uint64_t id;
    void (*done)(const struct error *error, void *context);
    void *context;
};

static void end_change(struct change *change, int status)
{
    struct error error = {0};
    change->store->changes--;
    if (status != 0) {
        error_set(&error, status == RAFT_NOTLEADER ? ERROR_NOT_LEADER : ERROR_UNAVAILABLE,
                  "node %" PRIu64 ": %s", change->id, raft_strerror(status));
    }
    if (change->done != NULL) {
        change->done(status != 0 ? &error : NULL, change->context);
    }
    free(change);
}

static void on_changed(struct raft_change *request, int status)
{
    end_change(request->data, status);
}

static const struct raft_server *find_server(const struct quorum *quorum, uint64_t id)
{
    for (unsigned i = 0; i < quorum->raft.configuration.n; i++) {
        if (quorum->raft.configuration.servers[i].id == id) {
            return &quorum->raft.configuration.servers[i];
        }
    }
    return NULL;
}

static void assign(struct change *change)
{
    struct store *store = change->store;
    int r = store_leads(store)
        ? raft_assign(&store->quorum->raft, &change->request, change->id, RAFT_VOTER, on_changed)
        : RAFT_NOTLEADER;
    if (r != 0) {
        end_change(change, r);
    }
}

static void on_added(struct raft_change *request, int status)
{
    struct change *change = request->data;
    if (status != 0) {
        end_change(change, status);
        return;
    }
    assign(change);
}

/* One at a time: why not now, told at once. */
static bool may_change(struct store *store, void (*done)(const struct error *error, void *context),
                       void *context)
{
    struct error error = {0};
    if (!store_leads(store)) {
        error_set(&error, ERROR_NOT_LEADER, "servers are added and removed by the leader");
    } else if (store->changes > 0) {
        error_set(&error, ERROR_CONFLICT, "another server is being added or removed");
    } else {
        return true;
    }
    if (done != NULL) {
        done(&error, context);
    }
    return false;
}

static struct change *change_new(struct store *store, uint64_t id,
                                 void (*done)(const struct error *error, void *context),
                                 void *context)
{
    struct change *change = NEW(struct change);
    change->request.data = change;
    change->store = store;
    change->id = id;
    change->done = done;
    change->context = context;
    store->changes++;
    return change;
}

void store_add_server(struct store *store, uint64_t id,
                      void (*done)(const struct error *error, void *context), void *context)
{
    CHECK(loop_is_mine(store->loop) && id != 0);
    if (!may_change(store, done, context)) {
        return;
    }
    struct change *change = change_new(store, id, done, context);
    const struct raft_server *server = find_server(store->quorum, id);
    if (server != NULL) {
        if (server->role == RAFT_VOTER) {
            end_change(change, 0);
        } else {
            assign(change);
        }
        return;
    }
    char address[24];
    snprintf(address, sizeof(address), "%" PRIu64, id);
    int r = raft_add(&store->quorum->raft, &change->request, id, address, on_added);
    if (r != 0) {
        end_change(change, r);
    }
}

void store_remove_server(struct store *store, uint64_t id,
                         void (*done)(const struct error *error, void *context), void *context)
{
    CHECK(loop_is_mine(store->loop) && id != 0);
    if (!may_change(store, done, context)) {
        return;
    }
    if (id == store->folder.node_id && !quorum_is_only(store->quorum)) {
        store_transfer_leadership(store, 0, done, context);
        return; /* the next leader removes it */
    }
    struct change *change = change_new(store, id, done, context);
    bool is_there = find_server(store->quorum, id) != NULL;
    int r = is_there ? raft_remove(&store->quorum->raft, &change->request, id, on_changed) : 0;
    if (r != 0 || !is_there) {
        end_change(change, r);
    }
}

/* ---- Leadership ---- */

/* Somebody waits until another one leads. */
struct handover {
    struct list_node link;
    uint64_t from; /* who led */
    uint64_t wanted;
    uint64_t deadline_ms;
    bool is_asked;
    void (*done)(const struct error *error, void *context);
    void *context;
};

static void on_transferred(struct raft_transfer *transfer)
{
    free(transfer); /* who leads is seen by itself */
}

/* On the leader; what fails is seen by its not happening. */
static int transfer(struct store *store, uint64_t id)
{
    if (id == store->folder.node_id) {
        return 0;
    }
    struct raft_transfer *request = NEW(struct raft_transfer);
    int r = raft_transfer(&store->quorum->raft, request, id, on_transferred);
    if (r != 0) {
        free(request);
    }
    return r;
}

void store_take_transfer(struct link *link, const uint8_t *body, size_t length)
{
    struct store *store = link->store;
    struct command_reader reader = {.at = body, .end = body + length};
    uint64_t id = command_read_u64(&reader);
    if (reader.is_bad) {
        link_close(link);
    } else if (store_leads(store) && (id == 0 || find_server(store->quorum, id) != NULL)) {
        transfer(store, id);
    }
}

static void end_handover(struct handover *handover, const struct error *error)
{
    list_remove(&handover->link);
    if (handover->done != NULL) {
        handover->done(error, handover->context);
    }
    free(handover);
}

void store_end_handover(struct store *store, const struct error *error)
{
    LIST_EACH(node, &store->handover)
    {
        end_handover(LIST_ITEM(node, struct handover, link), error);
    }
}

static void ask_handover(struct store *store, struct handover *handover)
{
    struct stream *stream = link_to(store, store->leader_id, 0);
    if (store_leads(store)) {
        handover->is_asked = transfer(store, handover->wanted) == 0;
    } else if (stream != NULL) {
        link_say(stream, FRAME_TRANSFER, &handover->wanted, sizeof(handover->wanted));
        handover->is_asked = true;
    }
}

static bool has_happened(const struct store *store, const struct handover *handover)
{
    return handover->wanted != 0 ? store->leader_id == handover->wanted
                                 : store->leader_id != 0 && store->leader_id != handover->from;
}

/* After each change of the leader, and with each tick. */
void store_look_at_handover(struct store *store)
{
    struct error late = {0};
    LIST_EACH(node, &store->handover)
    {
        struct handover *handover = LIST_ITEM(node, struct handover, link);
        if (has_happened(store, handover)) {
            end_handover(handover, NULL);
        } else if (store_now_ms(store) >= handover->deadline_ms) {
            error_set(&late, ERROR_TIMEOUT,
                      "the leadership was not handed over within %d s: the server is not connected "
                      "or has not caught up",
                      HANDOVER_MS / 1000);
            end_handover(handover, &late);
        } else if (!handover->is_asked) {
            ask_handover(store, handover);
        }
    }
}

void store_transfer_leadership(struct store *store, uint64_t id,
                               void (*done)(const struct error *error, void *context),
                               void *context)
{
    CHECK(loop_is_mine(store->loop));
    struct error error = {0};
    if (store->leader_id == 0) {
        error_set(&error, ERROR_UNAVAILABLE, "the cluster has no leader now");
    } else if (store->quorum != NULL && id != 0 && find_server(store->quorum, id) == NULL) {
        error_set(&error, ERROR_INVALID, "node %" PRIu64 " is no server", id);
    } else if (store->quorum != NULL && quorum_is_only(store->quorum) && id == 0) {
        error_set(&error, ERROR_INVALID, "there is no other server that could lead");
    }
    if (error.kind != ERROR_NONE || (id != 0 && id == store->leader_id)) {
        if (done != NULL) {
            done(error.kind != ERROR_NONE ? &error : NULL, context);
        }
        return;
    }
    struct handover *handover = NEW(struct handover);
    *handover = (struct handover){.from = store->leader_id,
                                  .wanted = id,
                                  .deadline_ms = store_now_ms(store) + HANDOVER_MS,
                                  .done = done,
                                  .context = context};
    list_push_back(&store->handover, &handover->link);
    store_look_at_handover(store);
}
