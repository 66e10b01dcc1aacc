#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"

#include "service/host/private.h"

#include "test/lib/test.h"

static void begin(struct buffer *bytes, uint32_t operation, uint32_t count)
{
    buffer_clear(bytes);
    buffer_append_u32(bytes, operation);
    buffer_append_u32(bytes, count);
}

static int read_request(const struct buffer *bytes, struct host_request *ret_request)
{
    struct error err = {0};
    return host_request_read(bytes->data, bytes->used, ret_request, &err);
}

/* A key and a value, and how long it lives. */
static void write_set(struct buffer *bytes, uint32_t key_length, uint32_t number_length)
{
    begin(bytes, HOSTCALL_KV_SET, 3);
    buffer_append_u32(bytes, key_length);
    buffer_append_u32(bytes, 0);
    buffer_append_u32(bytes, number_length);
    buffer_append(bytes, "key", 3);
    buffer_append_u64(bytes, 60000);
}

TEST(host_request, has_the_parts_of_its_operation)
{
    BUFFER_OWNED struct buffer bytes = {0};
    struct host_request request;
    write_set(&bytes, 3, 8);
    EXPECT(read_request(&bytes, &request) == 0);
    EXPECT(request.operation == HOSTCALL_KV_SET && request.count == 3);
    EXPECT(request.parts[0].length == 3 && memcmp(request.parts[0].data, "key", 3) == 0);
    EXPECT(request.parts[1].length == 0);
    EXPECT(request.numbers[2] == 60000);
}

/* Goal: each byte less, each byte more and each wrong number is refused. */
TEST(host_request, is_refused_when_anything_is_off)
{
    BUFFER_OWNED struct buffer bytes = {0};
    struct host_request request;
    write_set(&bytes, 3, 8);
    for (size_t length = 0; length < bytes.used; length++) {
        struct buffer shorter = {.data = bytes.data, .used = length};
        EXPECT(read_request(&shorter, &request) == -ERROR_INVALID);
    }
    buffer_append_byte(&bytes, 0);
    EXPECT(read_request(&bytes, &request) == -ERROR_INVALID);
    write_set(&bytes, 4, 7);
    EXPECT(read_request(&bytes, &request) == -ERROR_INVALID);
    write_set(&bytes, UINT32_MAX, 8);
    EXPECT(read_request(&bytes, &request) == -ERROR_INVALID);
    begin(&bytes, HOSTCALL_FLUSH, UINT32_MAX);
    EXPECT(read_request(&bytes, &request) == -ERROR_INVALID);
    begin(&bytes, HOSTCALL_NONE, 0);
    EXPECT(read_request(&bytes, &request) == -ERROR_UNSUPPORTED);
    begin(&bytes, HOSTCALL_COUNT, 0);
    EXPECT(read_request(&bytes, &request) == -ERROR_UNSUPPORTED);
    begin(&bytes, HOSTCALL_FILES, 0);
    EXPECT(read_request(&bytes, &request) == -ERROR_UNSUPPORTED);
}

TEST(host_request, gives_strings_that_are_ones)
{
    BUFFER_OWNED struct buffer bytes = {0};
    struct host_request request;
    struct error err = {0};
    MEMORY_OWNED char *key = NULL;
    write_set(&bytes, 3, 8);
    EXPECT(read_request(&bytes, &request) == 0);
    EXPECT(host_request_string(&request, 0, 2, "key", &key, &err) == -ERROR_INVALID);
    EXPECT(key == NULL);
    EXPECT(host_request_string(&request, 0, 3, "key", &key, &err) == 0);
    EXPECT_STRING(key, "key");
    bytes.data[21] = '\0';
    MEMORY_OWNED char *other = NULL;
    EXPECT(host_request_string(&request, 0, 3, "key", &other, &err) == -ERROR_INVALID);
    EXPECT_STRING(err.text, "the key has a NUL in it");
}

TEST(host_request, every_kind_of_error_has_a_number)
{
    for (int kind = ERROR_NONE + 1; kind < ERROR_KIND_COUNT; kind++) {
        EXPECT(host_status((enum error_kind)kind) < 0);
    }
    EXPECT(host_status(ERROR_NOT_FOUND) == HOSTCALL_ENOENT);
    EXPECT(host_status(ERROR_CONFLICT) == HOSTCALL_EBUSY);
}
