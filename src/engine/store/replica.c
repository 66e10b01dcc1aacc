/* What libraft calls: apply an entry, take a snapshot, go back to one. */
#include <string.h>

#include "base/buffer.h"
#include "base/memory.h"

#include "engine/store/private.h"

static int on_apply(struct raft_fsm *fsm, const struct raft_buffer *bytes, void **result)
{
    struct store *store = fsm->data;
    *result = NULL;
    if (machine_apply(store->machine, bytes->base, bytes->len, &store->failure) < 0) {
        return RAFT_CORRUPT;
    }
    store->log_bytes += bytes->len;
    store->log_entries++;
    if (store->log_bytes >= store->options.snapshot_bytes) {
        /* libraft counts entries only: let it take one now, and keep about as many bytes. */
        raft_set_snapshot_threshold(&store->raft, 1);
        raft_set_snapshot_trailing(&store->raft,
                                   store->log_entries < STORE_TRAILING_ENTRIES
                                       ? (unsigned)store->log_entries
                                       : STORE_TRAILING_ENTRIES);
    }
    return 0;
}

static int on_snapshot(struct raft_fsm *fsm, struct raft_buffer *ret_buffers[], unsigned *ret_count)
{
    struct store *store = fsm->data;
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
    raft_set_snapshot_threshold(&store->raft, STORE_SNAPSHOT_ENTRIES);
    return 0;
}

static int on_restore(struct raft_fsm *fsm, struct raft_buffer *bytes)
{
    struct store *store = fsm->data;
    if (machine_restore(store->machine, bytes->base, bytes->len, &store->failure) < 0) {
        return RAFT_CORRUPT;
    }
    raft_free(bytes->base);
    store->restored = machine_index(store->machine);
    store->event_count = 0;
    return 0;
}

void store_on_applied(const struct machine_result *result, void *context)
{
    struct store *store = context;
    if (result->origin != store->origin) {
        return;
    }
    LIST_EACH(node, &store->in_flight)
    {
        struct entry *entry = LIST_ITEM(node, struct entry, link);
        if (entry->sequence == result->sequence && result->position < entry->count) {
            struct proposal *proposal = entry->proposals[result->position];
            proposal->index = result->index;
            if (result->error != NULL) {
                proposal->error = *result->error;
            }
            return;
        }
    }
}

const struct raft_fsm store_fsm = {
    .version = 1,
    .apply = on_apply,
    .snapshot = on_snapshot,
    .restore = on_restore,
};
