/* What nodes of different versions are to each other: greetings, commands, raising the schema. */
#include <string.h>

#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"

#include "engine/store/command.h"
#include "engine/store/private.h"
#include "engine/store/wire.h"

#include "test/lib/test.h"
#include "test/unit/engine/store/support.h"

/* ---- Greetings ---- */

TEST(store_upgrade, the_newest_version_that_both_know_is_spoken)
{
    EXPECT(wire_common(WIRE_OLDEST, WIRE_NEWEST) == WIRE_NEWEST);
    EXPECT(wire_common(WIRE_OLDEST, WIRE_NEWEST + 1) == WIRE_NEWEST);
    EXPECT(wire_common(WIRE_NEWEST, WIRE_NEWEST + 7) == WIRE_NEWEST);
    EXPECT(wire_common(WIRE_NEWEST + 1, WIRE_NEWEST + 2) == 0);
    EXPECT(wire_common(0, WIRE_OLDEST - 1) == 0);
    EXPECT(wire_common(WIRE_NEWEST, 0) == 0);
}

/* A peer that says its greeting, and hears what comes. */
struct stranger {
    struct node *node;
    uint16_t port;
    uint32_t oldest;
    uint32_t newest;
    struct stream *stream;
    struct buffer heard;
    bool is_cut;
};

static void never_dial(uint64_t id, unsigned lane, void *context)
{
    (void)id;
    (void)lane;
    (void)context;
    EXPECT(false);
}

static void on_stream(struct stream *owned_stream, void *context)
{
    struct stranger *stranger = context;
    store_accept(stranger->node->store, 2, owned_stream);
}

static void on_data(const void *bytes, size_t length, void *context)
{
    struct stranger *stranger = context;
    buffer_append(&stranger->heard, bytes, length);
    node_stop(stranger->node);
}

static void on_end(const struct error *error, void *context)
{
    struct stranger *stranger = context;
    (void)error;
    stranger->is_cut = true;
    node_stop(stranger->node);
}

static void on_dialed(struct stream *owned_stream, const struct error *error, void *context)
{
    static const struct stream_events events = {on_data, NULL, on_end};
    struct stranger *stranger = context;
    BUFFER_OWNED struct buffer frame = {0};
    EXPECT(error == NULL);
    stranger->stream = owned_stream;
    stream_start(owned_stream, &events, stranger);
    size_t begun = wire_begin(&frame, FRAME_HELLO);
    buffer_append_byte(&frame, 0);
    buffer_append_u32(&frame, stranger->oldest);
    buffer_append_u32(&frame, stranger->newest);
    buffer_append_u64(&frame, 0x6d6f7265); /* of a version to come */
    wire_end(&frame, begun);
    stream_write(owned_stream, frame.data, frame.used);
}

static void dial(void *context)
{
    struct stranger *stranger = context;
    MEMORY_OWNED char *address = memory_format("127.0.0.1:%u", stranger->port);
    const struct stream_dial_options options = {0};
    stream_dial(stranger->node->loop, address, &options, on_dialed, stranger);
}

/* The version that a store answers to a greeting with this range. */
static uint32_t greet(uint32_t oldest, uint32_t newest)
{
    struct error err = {0};
    struct node node;
    struct stream_listener *listener = NULL;
    const struct store_options options = {.network = {.dial = never_dial}};
    EXPECT(node_open(&node, test_folder(), &options, &err) == 0);
    struct stranger stranger = {.node = &node, .oldest = oldest, .newest = newest};
    EXPECT(stream_listen(node.loop, "127.0.0.1:0", NULL, NULL, on_stream, &stranger, &listener,
                         &stranger.port, &err) == 0);
    node_run(&node, dial, &stranger);
    enum frame_kind kind = FRAME_KIND_COUNT;
    const uint8_t *body = NULL;
    size_t length = 0;
    EXPECT(wire_next(stranger.heard.data, stranger.heard.used, &kind, &body, &length, &err) > 0);
    struct command_reader reader = {.at = body, .end = body + length};
    uint32_t version = command_read_u32(&reader);
    EXPECT(kind == FRAME_HELLO && !stranger.is_cut);
    EXPECT(command_read_u32(&reader) == WIRE_OLDEST && command_read_u32(&reader) == WIRE_NEWEST);
    EXPECT(!reader.is_bad);
    stream_close(stranger.stream);
    buffer_done(&stranger.heard);
    stream_listener_close(listener);
    node_close(&node);
    return version;
}

TEST(store_upgrade, a_newer_node_is_answered_in_a_version_it_knows)
{
    EXPECT(greet(WIRE_OLDEST, WIRE_NEWEST + 1) == WIRE_NEWEST);
}

TEST(store_upgrade, a_node_that_is_too_new_is_told_so)
{
    EXPECT(greet(WIRE_NEWEST + 1, WIRE_NEWEST + 2) == 0);
}

/* ---- Commands ---- */

static struct store_command *expecting(uint8_t kind)
{
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "there is none",
                                "UPDATE project SET created_ms = 1 WHERE key = 'none'", "");
    command->bytes.data[0] = kind;
    return command;
}

/* A newer node may say with a number what we have no name for; a replica must not end by it. */
TEST(store_upgrade, a_kind_of_error_that_is_not_known_undoes_the_command_and_no_more)
{
    static const uint8_t kinds[] = {ERROR_KIND_COUNT, 255, ERROR_CORRUPT};
    struct error err = {0};
    struct node node;
    EXPECT(node_open(&node, test_folder(), NULL, &err) == 0);
    for (size_t i = 0; i < sizeof(kinds); i++) {
        EXPECT(node_write(&node, expecting(kinds[i]), NULL, &err) == -ERROR_CONFLICT);
        EXPECT_STRING(err.text, "there is none");
        EXPECT(node_write_project(&node, i, &err) == 0);
    }
    node_close(&node);
    EXPECT(node_open(&node, test_folder(), NULL, &err) == 0);
    EXPECT(node_integer(&node, "SELECT count(*) FROM project") == sizeof(kinds));
    node_close(&node);
}

/* ---- The schema ---- */

static int write_limited(struct node *node, unsigned version, struct error *err)
{
    struct store_command *command = project_command(version);
    store_command_add_schema_limit(command, version);
    return node_write(node, command, NULL, err);
}

TEST(store_upgrade, a_command_can_say_with_which_schema_it_is_void)
{
    struct error err = {0};
    struct node node;
    EXPECT(node_open(&node, test_folder(), NULL, &err) == 0);
    EXPECT(write_limited(&node, store_schema_version() - 1, &err) == -ERROR_UNSUPPORTED);
    EXPECT(write_limited(&node, store_schema_version(), &err) == 0);
    EXPECT(write_limited(&node, store_schema_version() + 1, &err) == 0);
    EXPECT(node_integer(&node, "SELECT count(*) FROM project") == 2);
    node_close(&node);
}

static struct store_command *step_to(unsigned version, const char *sql)
{
    struct store_command *command = project_command(version);
    store_command_add_expecting(command, ERROR_CONFLICT, "not now", sql, "u", (uint64_t)version);
    return command;
}

static struct store_command *add_node(unsigned schema)
{
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO node (key, id, address, gateway, role, eligible, "
                      "failure_domain, labels, version, schema, fingerprint, expires_ms, "
                      "joined_ms, revision) VALUES ('n', 1, '', '', 'server', 1, '', '{}', '1', ?, "
                      "'', 0, 0, 0)",
                      "u", (uint64_t)schema);
    return command;
}

static void on_failed(const struct error *error, void *context)
{
    *(struct error *)context = *error;
}

/*
 * Goal: a replica that does not know the next version neither carries the step out nor refuses it.
 * Method: a step to it, first while a node does not know it, then when all say they do.
 */
TEST(store_upgrade, a_step_that_is_not_known_ends_the_replica_and_not_its_state)
{
    unsigned next = store_schema_version() + 1;
    struct error failed = {0};
    struct error err = {0};
    struct node node;
    const struct store_options options = {.on_failed = on_failed, .context = &failed};
    EXPECT(node_open(&node, test_folder(), &options, &err) == 0);
    EXPECT(node_write(&node, add_node(next - 1), NULL, &err) == 0);
    EXPECT(node_write(&node, step_to(next, SCHEMA_RAISE), NULL, &err) == -ERROR_CONFLICT);
    EXPECT(node_write(&node, step_to(next, SCHEMA_SET_VERSION), NULL, &err) == -ERROR_INVALID);
    EXPECT(store_schema_now(node.store) == next - 1 && failed.kind == ERROR_NONE);
    struct store_command *knows = store_command_new();
    store_command_add(knows, "UPDATE node SET schema = ?", "u", (uint64_t)next);
    EXPECT(node_write(&node, knows, NULL, &err) == 0);

    EXPECT(node_write(&node, step_to(next, SCHEMA_RAISE), NULL, &err) == -ERROR_UNSUPPORTED);
    EXPECT(failed.kind == ERROR_UNSUPPORTED && strstr(failed.text, "start a newer one") != NULL);
    EXPECT(store_schema_now(node.store) == next - 1);
    EXPECT(node_integer(&node, "SELECT count(*) FROM project") == 0);
    node_close(&node);
    EXPECT(node_open(&node, test_folder(), &options, &err) == -ERROR_UNSUPPORTED);
    EXPECT(strstr(err.text, "start a newer one") != NULL && strstr(err.text, "backup") == NULL);
}

/* The words of the schema are for its steps: elsewhere only some replicas may know them. */
TEST(store_upgrade, what_a_schema_consists_of_is_refused_outside_of_a_step)
{
    struct error err = {0};
    struct node node;
    const struct store_options options = {.network = {.dial = never_dial}};
    EXPECT(node_open(&node, test_folder(), &options, &err) == 0);
    EXPECT(store_schema_now(node.store) == 1);
    struct store_command *step = schema_step(2);
    struct store_command *part = store_command_new();
    struct command_reader reader = {.at = step->bytes.data,
                                    .end = step->bytes.data + step->bytes.used};
    command_read_u8(&reader);
    command_read_bytes(&reader, command_read_u32(&reader));
    command_read_bytes(&reader, command_read_u32(&reader));
    EXPECT(command_read_u8(&reader) == 1 && command_read_u8(&reader) == 'i');
    command_read_u64(&reader);
    buffer_append(&part->bytes, reader.at, (size_t)(reader.end - reader.at));
    part->statements = step->statements - 1;
    EXPECT(node_write(&node, part, NULL, &err) == -ERROR_INVALID);
    EXPECT(node_write(&node, step, NULL, &err) == 0);
    EXPECT(store_schema_now(node.store) == 2);
    node_close(&node);
}
