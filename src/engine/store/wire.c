#include "engine/store/wire.h"

#include <string.h>

#include "base/check.h"
#include "base/error.h"

#include "engine/store/command.h"

enum {
    SERVERS_MAX = 64,
    ADDRESS_MAX = 128,
    ENTRIES_MAX = 65536,
    ENTRY_HEAD = 14, /* u64 term, u16 type, u32 length */
};
static const uint64_t snapshot_max = UINT64_C(4) << 30;

/* ---- Frames ---- */

long wire_next(const uint8_t *bytes, size_t length, enum frame_kind *ret_kind,
               const uint8_t **ret_body, size_t *ret_length, struct error *err)
{
    uint32_t size = 0;
    if (length < FRAME_HEAD_SIZE) {
        return 0;
    }
    memcpy(&size, bytes, sizeof(size));
    if (size == 0 || size > FRAME_BYTES_MAX) {
        return error_set(err, ERROR_PROTOCOL, "a frame of %u bytes", size);
    }
    if (bytes[4] == 0 || bytes[4] >= FRAME_KIND_COUNT) {
        return error_set(err, ERROR_PROTOCOL, "a frame of the unknown kind %u", bytes[4]);
    }
    if (length - 4 < size) {
        return 0;
    }
    *ret_kind = (enum frame_kind)bytes[4];
    *ret_body = bytes + FRAME_HEAD_SIZE;
    *ret_length = size - 1;
    return 4 + (long)size;
}

size_t wire_begin(struct buffer *out, enum frame_kind kind)
{
    size_t begun = out->used;
    buffer_append_u32(out, 0);
    buffer_append_byte(out, (uint8_t)kind);
    return begun;
}

void wire_end(struct buffer *out, size_t begun)
{
    CHECK(out->used >= begun + FRAME_HEAD_SIZE);
    uint32_t size = (uint32_t)(out->used - begun - 4);
    memcpy(out->data + begun, &size, sizeof(size));
}

uint32_t wire_common(uint32_t oldest, uint32_t newest)
{
    uint32_t common = newest < WIRE_NEWEST ? newest : WIRE_NEWEST;
    return common >= oldest && common >= WIRE_OLDEST ? common : 0;
}

void wire_put(struct buffer *out, enum frame_kind kind, const void *body, size_t length)
{
    size_t begun = wire_begin(out, kind);
    buffer_append(out, body, length);
    wire_end(out, begun);
}

/* ---- Writing messages ---- */

static enum frame_kind kind_of(unsigned short type)
{
    switch (type) {
    case RAFT_IO_REQUEST_VOTE:
        return FRAME_VOTE;
    case RAFT_IO_REQUEST_VOTE_RESULT:
        return FRAME_VOTE_RESULT;
    case RAFT_IO_APPEND_ENTRIES:
        return FRAME_APPEND;
    case RAFT_IO_APPEND_ENTRIES_RESULT:
        return FRAME_APPEND_RESULT;
    case RAFT_IO_TIMEOUT_NOW:
        return FRAME_TIMEOUT_NOW;
    default:
        CHECK_UNREACHABLE();
    }
}

static void put_entries(struct buffer *out, const struct raft_append_entries *append)
{
    buffer_append_u32(out, append->n_entries);
    for (unsigned i = 0; i < append->n_entries; i++) {
        const struct raft_entry *entry = &append->entries[i];
        buffer_append_u64(out, entry->term);
        buffer_append_byte(out, (uint8_t)entry->type);
        buffer_append_byte(out, 0);
        buffer_append_u32(out, (uint32_t)entry->buf.len);
    }
    for (unsigned i = 0; i < append->n_entries; i++) {
        buffer_append(out, append->entries[i].buf.base, append->entries[i].buf.len);
    }
}

void wire_put_message(struct buffer *out, const struct raft_message *message)
{
    size_t begun = wire_begin(out, kind_of(message->type));
    if (message->type == RAFT_IO_REQUEST_VOTE) {
        const struct raft_request_vote *vote = &message->request_vote;
        buffer_append_u64(out, vote->term);
        buffer_append_u64(out, vote->candidate_id);
        buffer_append_u64(out, vote->last_log_index);
        buffer_append_u64(out, vote->last_log_term);
        buffer_append_byte(out, vote->disrupt_leader);
        buffer_append_byte(out, vote->pre_vote);
    } else if (message->type == RAFT_IO_REQUEST_VOTE_RESULT) {
        const struct raft_request_vote_result *result = &message->request_vote_result;
        buffer_append_u64(out, result->term);
        buffer_append_byte(out, result->vote_granted);
        buffer_append_byte(out, (uint8_t)result->pre_vote);
    } else if (message->type == RAFT_IO_APPEND_ENTRIES) {
        const struct raft_append_entries *append = &message->append_entries;
        buffer_append_u64(out, append->term);
        buffer_append_u64(out, append->prev_log_index);
        buffer_append_u64(out, append->prev_log_term);
        buffer_append_u64(out, append->leader_commit);
        put_entries(out, append);
    } else if (message->type == RAFT_IO_APPEND_ENTRIES_RESULT) {
        const struct raft_append_entries_result *result = &message->append_entries_result;
        buffer_append_u64(out, result->term);
        buffer_append_u64(out, result->rejected);
        buffer_append_u64(out, result->last_log_index);
    } else {
        const struct raft_timeout_now *now = &message->timeout_now;
        buffer_append_u64(out, now->term);
        buffer_append_u64(out, now->last_log_index);
        buffer_append_u64(out, now->last_log_term);
    }
    wire_end(out, begun);
}

void wire_put_snapshot(struct buffer *out, const struct raft_install_snapshot *snapshot)
{
    size_t begun = wire_begin(out, FRAME_SNAPSHOT);
    buffer_append_u64(out, snapshot->term);
    buffer_append_u64(out, snapshot->last_index);
    buffer_append_u64(out, snapshot->last_term);
    buffer_append_u64(out, snapshot->conf_index);
    buffer_append_u64(out, snapshot->data.len);
    buffer_append_u32(out, snapshot->conf.n);
    for (unsigned i = 0; i < snapshot->conf.n; i++) {
        const struct raft_server *server = &snapshot->conf.servers[i];
        buffer_append_u64(out, server->id);
        buffer_append_byte(out, (uint8_t)server->role);
        buffer_append_byte(out, (uint8_t)strlen(server->address));
        buffer_append(out, server->address, strlen(server->address));
    }
    wire_end(out, begun);
}

/* ---- Reading messages ---- */

static int malformed(struct error *err, const char *what)
{
    return error_set(err, ERROR_PROTOCOL, "%s is malformed", what);
}

static void read_vote(struct command_reader *reader, struct raft_request_vote *ret)
{
    ret->term = command_read_u64(reader);
    ret->candidate_id = command_read_u64(reader);
    ret->last_log_index = command_read_u64(reader);
    ret->last_log_term = command_read_u64(reader);
    ret->disrupt_leader = command_read_u8(reader) != 0;
    ret->pre_vote = command_read_u8(reader) != 0;
}

static void read_vote_result(struct command_reader *reader, struct raft_request_vote_result *ret)
{
    ret->term = command_read_u64(reader);
    ret->vote_granted = command_read_u8(reader) != 0;
    uint8_t pre_vote = command_read_u8(reader);
    reader->is_bad |= pre_vote > raft_tribool_false;
    ret->pre_vote = (raft_tribool)pre_vote;
}

/* Of all entries; or the reader is bad. */
static size_t read_entry_heads(struct command_reader *reader, struct raft_append_entries *ret)
{
    size_t total = 0;
    for (unsigned i = 0; i < ret->n_entries && !reader->is_bad; i++) {
        struct raft_entry *entry = &ret->entries[i];
        entry->term = command_read_u64(reader);
        entry->type = command_read_u8(reader);
        command_read_u8(reader);
        entry->buf.len = command_read_u32(reader);
        reader->is_bad |= entry->type < RAFT_COMMAND || entry->type > RAFT_CHANGE ||
            entry->buf.len > FRAME_BYTES_MAX || entry->buf.len % 8 != 0;
        total += entry->buf.len;
    }
    return total;
}

/* libraft wants the entries as one array and their bytes as one batch, and frees both. */
static int read_append(struct command_reader *reader, struct raft_append_entries *ret,
                       struct error *err)
{
    ret->term = command_read_u64(reader);
    ret->prev_log_index = command_read_u64(reader);
    ret->prev_log_term = command_read_u64(reader);
    ret->leader_commit = command_read_u64(reader);
    ret->n_entries = command_read_u32(reader);
    size_t left = (size_t)(reader->end - reader->at);
    if (reader->is_bad || ret->n_entries > ENTRIES_MAX || ret->n_entries > left / ENTRY_HEAD) {
        return malformed(err, "a list of entries");
    }
    if (ret->n_entries == 0) {
        return 0;
    }
    ret->entries = raft_calloc(ret->n_entries, sizeof(*ret->entries));
    if (ret->entries == NULL) {
        return error_set(err, ERROR_LIMIT, "no memory for entries of the log");
    }
    size_t total = read_entry_heads(reader, ret);
    if (reader->is_bad || total != (size_t)(reader->end - reader->at)) {
        raft_free(ret->entries);
        return malformed(err, "a list of entries");
    }
    uint8_t *batch = raft_malloc(total > 0 ? total : 1);
    if (batch == NULL) {
        raft_free(ret->entries);
        return error_set(err, ERROR_LIMIT, "no memory for entries of the log");
    }
    memcpy(batch, reader->at, total);
    reader->at = reader->end;
    size_t at = 0;
    for (unsigned i = 0; i < ret->n_entries; i++) {
        ret->entries[i].buf.base = batch + at;
        ret->entries[i].batch = batch;
        at += ret->entries[i].buf.len;
    }
    return 0;
}

static int read_server(struct command_reader *reader, struct raft_configuration *configuration,
                       struct error *err)
{
    char address[ADDRESS_MAX + 1];
    uint64_t id = command_read_u64(reader);
    int role = command_read_u8(reader);
    uint8_t length = command_read_u8(reader);
    const uint8_t *text = command_read_bytes(reader, length);
    if (reader->is_bad || id == 0 || length == 0 || length > ADDRESS_MAX || role > RAFT_SPARE ||
        memchr(text, '\0', length) != NULL) {
        return malformed(err, "a configuration");
    }
    memcpy(address, text, length);
    address[length] = '\0';
    return raft_configuration_add(configuration, id, address, role) == 0
        ? 0
        : malformed(err, "a configuration");
}

static int read_snapshot(struct command_reader *reader, struct raft_install_snapshot *ret,
                         struct error *err)
{
    ret->term = command_read_u64(reader);
    ret->last_index = command_read_u64(reader);
    ret->last_term = command_read_u64(reader);
    ret->conf_index = command_read_u64(reader);
    uint64_t size = command_read_u64(reader);
    uint32_t servers = command_read_u32(reader);
    if (reader->is_bad || size == 0 || size > snapshot_max || servers == 0 ||
        servers > SERVERS_MAX) {
        return malformed(err, "the head of a snapshot");
    }
    ret->data.len = (size_t)size;
    raft_configuration_init(&ret->conf);
    int r = 0;
    for (uint32_t i = 0; i < servers && r == 0; i++) {
        r = read_server(reader, &ret->conf, err);
    }
    if (r < 0) {
        raft_configuration_close(&ret->conf);
    }
    return r;
}

static int read_other(enum frame_kind kind, struct command_reader *reader,
                      struct raft_message *message, struct error *err)
{
    switch ((int)kind) {
    case FRAME_VOTE:
        message->type = RAFT_IO_REQUEST_VOTE;
        read_vote(reader, &message->request_vote);
        break;
    case FRAME_VOTE_RESULT:
        message->type = RAFT_IO_REQUEST_VOTE_RESULT;
        read_vote_result(reader, &message->request_vote_result);
        break;
    case FRAME_APPEND_RESULT:
        message->type = RAFT_IO_APPEND_ENTRIES_RESULT;
        message->append_entries_result.term = command_read_u64(reader);
        message->append_entries_result.rejected = command_read_u64(reader);
        message->append_entries_result.last_log_index = command_read_u64(reader);
        break;
    case FRAME_TIMEOUT_NOW:
        message->type = RAFT_IO_TIMEOUT_NOW;
        message->timeout_now.term = command_read_u64(reader);
        message->timeout_now.last_log_index = command_read_u64(reader);
        message->timeout_now.last_log_term = command_read_u64(reader);
        break;
    default:
        return error_set(err, ERROR_PROTOCOL, "a frame of kind %d is no message", (int)kind);
    }
    return 0;
}

int wire_read_message(enum frame_kind kind, const uint8_t *body, size_t length,
                      struct raft_message *ret_message, struct error *err)
{
    struct command_reader reader = {.at = body, .end = body + length};
    struct raft_message message = {0};
    int r = 0;
    if (kind == FRAME_APPEND) {
        message.type = RAFT_IO_APPEND_ENTRIES;
        r = read_append(&reader, &message.append_entries, err);
    } else if (kind == FRAME_SNAPSHOT) {
        message.type = RAFT_IO_INSTALL_SNAPSHOT;
        r = read_snapshot(&reader, &message.install_snapshot, err);
    } else {
        r = read_other(kind, &reader, &message, err);
    }
    if (r < 0) {
        return r;
    }
    if (reader.is_bad || reader.at != reader.end) {
        wire_message_done(&message);
        return malformed(err, "a message");
    }
    *ret_message = message;
    return 0;
}

void wire_message_done(struct raft_message *message)
{
    if (message->type == RAFT_IO_APPEND_ENTRIES) {
        if (message->append_entries.n_entries > 0) {
            raft_free(message->append_entries.entries[0].batch);
        }
        raft_free(message->append_entries.entries);
    } else if (message->type == RAFT_IO_INSTALL_SNAPSHOT) {
        raft_free(message->install_snapshot.data.base);
        raft_configuration_close(&message->install_snapshot.conf);
    }
}
