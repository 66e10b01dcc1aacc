/*
 * What a peer's store may say: frames, and the messages of raft inside.
 *
 * Claims: no byte outside is read; what is refused is PROTOCOL and leaves nothing behind; what was
 * read is within its limits, and written again it gives the same bytes, that can be read.
 */
#include <stdint.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"

#include "engine/store/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_again(const struct raft_message *message, struct buffer *out)
{
    if (message->type == RAFT_IO_INSTALL_SNAPSHOT) {
        CHECK(message->install_snapshot.data.base == NULL);
        wire_put_snapshot(out, &message->install_snapshot);
    } else {
        wire_put_message(out, message);
    }
}

/* Every byte of what was read is there, and aligned as libraft needs it. */
static uint64_t look_through(const struct raft_message *message)
{
    uint64_t sum = 0;
    if (message->type != RAFT_IO_APPEND_ENTRIES) {
        return sum;
    }
    const struct raft_append_entries *append = &message->append_entries;
    for (unsigned i = 0; i < append->n_entries; i++) {
        const uint8_t *bytes = append->entries[i].buf.base;
        CHECK(append->entries[i].buf.len % 8 == 0);
        for (size_t at = 0; at < append->entries[i].buf.len; at++) {
            sum += bytes[at];
        }
    }
    return sum;
}

/* Written once, a message reads as it was written: the second and the third time are the same. */
static void check_message(const struct raft_message *message)
{
    BUFFER_OWNED struct buffer second = {0};
    BUFFER_OWNED struct buffer third = {0};
    struct raft_message back = {0};
    struct error err = {0};
    enum frame_kind kind = FRAME_KIND_COUNT;
    const uint8_t *body = NULL;
    size_t length = 0;
    (void)look_through(message);
    write_again(message, &second);
    long whole = wire_next(second.data, second.used, &kind, &body, &length, &err);
    CHECK(whole == (long)second.used);
    CHECK(wire_read_message(kind, body, length, &back, &err) == 0);
    write_again(&back, &third);
    CHECK(third.used == second.used && memcmp(third.data, second.data, third.used) == 0);
    wire_message_done(&back);
}

static bool is_message(enum frame_kind kind)
{
    return (kind >= FRAME_VOTE && kind <= FRAME_TIMEOUT_NOW) || kind == FRAME_SNAPSHOT;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    while (size > 0) {
        enum frame_kind kind = FRAME_KIND_COUNT;
        const uint8_t *body = NULL;
        size_t length = 0;
        struct error err = {0};
        struct raft_message message = {0};
        long whole = wire_next(data, size, &kind, &body, &length, &err);
        if (whole <= 0) {
            CHECK(whole == 0 || (whole == -ERROR_PROTOCOL && err.kind == ERROR_PROTOCOL));
            return 0;
        }
        CHECK((size_t)whole <= size && body >= data && body + length <= data + whole);
        int r = wire_read_message(kind, body, length, &message, &err);
        CHECK(r == 0 ? is_message(kind) : r == -ERROR_PROTOCOL || r == -ERROR_LIMIT);
        if (r == 0) {
            check_message(&message);
            wire_message_done(&message);
        }
        data += whole;
        size -= (size_t)whole;
    }
    return 0;
}
