/* wasm_inspect() on modules that are broken in small ways, and at its limits. */
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/wasm/private.h"

#include "support.h"
#include "test/lib/test.h"

static int inspect(const void *bytes, size_t length, struct error *err)
{
    struct wasm_module_info info = {0};
    /* A copy of the exact size: the sanitizer sees a read past the end. */
    uint8_t *copy = memory_new(length > 0 ? length : 1, 1);
    memcpy(copy, bytes, length);
    *err = (struct error){0};
    int r = wasm_inspect(copy, length, &info, err);
    free(copy);
    return r;
}

TEST(wasm_inspect, tells_what_a_module_is)
{
    struct wasm_module_info info = {0};
    struct error err = {0};
    EXPECT(wasm_inspect(module, sizeof(module), &info, &err) == 0);
    EXPECT(info.abi == WASM_ABI_COMMAND && !info.has_initialize && !info.has_wizer_initialize);
    EXPECT(info.size_bytes == sizeof(module) && info.function_count == 2);
    EXPECT(info.memory_bytes_initial == 65536 && info.memory_bytes_max == UINT64_C(3) * 65536);
}

TEST(wasm_inspect, refuses_a_module_cut_anywhere)
{
    for (size_t length = 0; length < sizeof(module); length++) {
        struct error err;
        int r = inspect(module, length, &err);
        if (length == MODULE_DATA_SECTION) { /* without its data it is another module */
            EXPECT(r == 0);
            continue;
        }
        EXPECT(r == -ERROR_INVALID || r == -ERROR_UNSUPPORTED);
        EXPECT(err.text[0] != '\0');
    }
}

TEST(wasm_inspect, survives_every_changed_byte)
{
    uint8_t changed[sizeof(module)];
    memcpy(changed, module, sizeof(module));
    unsigned refused = 0;
    for (size_t at = 0; at < sizeof(module); at++) {
        for (unsigned value = 0; value < 256; value++) {
            struct error err;
            changed[at] = (uint8_t)value;
            int r = inspect(changed, sizeof(changed), &err);
            EXPECT(r == 0 || r == -ERROR_INVALID || r == -ERROR_UNSUPPORTED || r == -ERROR_LIMIT);
            EXPECT(r == 0 || err.text[0] != '\0');
            refused += r < 0;
        }
        changed[at] = module[at];
    }
    EXPECT(refused > sizeof(module) * 64);
}

/* ---- Limits ---- */

static void add_number(struct buffer *bytes, uint32_t value)
{
    do {
        uint8_t part = (value & 0x7f) | (value > 0x7f ? 0x80 : 0);
        buffer_append(bytes, &part, 1);
        value >>= 7;
    } while (value > 0);
}

static void add_section(struct buffer *bytes, uint8_t id, const struct buffer *content)
{
    buffer_append(bytes, &id, 1);
    add_number(bytes, (uint32_t)content->used);
    buffer_append(bytes, content->data, content->used);
}

/* A module of one function with this body, and perhaps a global of this constant. */
static int inspect_code(const struct buffer *code, const char *constant, size_t constant_length,
                        struct error *err)
{
    BUFFER_OWNED struct buffer bytes = {0};
    BUFFER_OWNED struct buffer part = {0};
    buffer_append(&bytes, "\0asm\1\0\0", 8);
    buffer_append(&part, "\1\x60\0\0", 4);
    add_section(&bytes, 1, &part);
    buffer_clear(&part);
    buffer_append(&part, "\1\0", 2);
    add_section(&bytes, 3, &part);
    buffer_clear(&part);
    buffer_append(&part, "\1\x7f\0", 3);
    buffer_append(&part, constant, constant_length);
    add_section(&bytes, 6, &part);
    buffer_clear(&part);
    buffer_append(&part, "\1\6_start\0\0", 10);
    add_section(&bytes, 7, &part);
    buffer_clear(&part);
    add_number(&part, 1);
    add_number(&part, (uint32_t)code->used);
    buffer_append(&part, code->data, code->used);
    add_section(&bytes, 10, &part);
    return inspect(bytes.data, bytes.used, err);
}

static int inspect_nested(uint32_t depth, struct error *err)
{
    BUFFER_OWNED struct buffer code = {0};
    add_number(&code, 0);
    for (uint32_t i = 1; i < depth; i++) {
        buffer_append(&code, "\x02\x40", 2);
    }
    for (uint32_t i = 0; i < depth; i++) {
        buffer_append(&code, "\x0b", 1);
    }
    return inspect_code(&code, "\x41\1\x0b", 3, err);
}

/* A switch of 10,000 cases is 10,000 blocks, each in the next. */
TEST(wasm_inspect, takes_blocks_in_blocks_up_to_a_limit)
{
    struct error err;
    EXPECT(inspect_nested(10001, &err) == 0);
    EXPECT(inspect_nested(12000, &err) == 0);
    EXPECT(inspect_nested(12001, &err) == -ERROR_LIMIT);
    EXPECT(strstr(err.text, "nested more than 12000 deep") != NULL);
}

TEST(wasm_inspect, names_calculated_constants)
{
    struct error err;
    BUFFER_OWNED struct buffer code = {0};
    buffer_append(&code, "\0\x0b", 2);
    EXPECT(inspect_code(&code, "\x41\xea\0\x0b", 4, &err) == 0); /* 0x6a, of a number */
    EXPECT(inspect_code(&code, "\x41\1\x41\2\x6a\x0b", 6, &err) == -ERROR_UNSUPPORTED);
    EXPECT(strstr(err.text, "extended-const") != NULL);
}

/* A module with a given type section, memory pages and first function's local variables. */
static int inspect_with(uint32_t types, uint32_t pages, uint32_t locals, struct error *err)
{
    static const uint8_t type[] = {0x60, 0, 0};
    static const uint8_t export[] = {1, 6, '_', 's', 't', 'a', 'r', 't', 0, 0};
    BUFFER_OWNED struct buffer bytes = {0};
    BUFFER_OWNED struct buffer part = {0};
    buffer_append(&bytes, "\0asm\1\0\0", 8);
    add_number(&part, types);
    for (uint32_t i = 0; i < types; i++) {
        buffer_append(&part, type, sizeof(type));
    }
    add_section(&bytes, 1, &part);
    buffer_clear(&part);
    buffer_append(&part, "\1\0", 2);
    add_section(&bytes, 3, &part);
    buffer_clear(&part);
    buffer_append(&part, "\1\0", 2);
    add_number(&part, pages);
    add_section(&bytes, 5, &part);
    buffer_clear(&part);
    buffer_append(&part, export, sizeof(export));
    add_section(&bytes, 7, &part);
    buffer_clear(&part);
    BUFFER_OWNED struct buffer body = {0};
    add_number(&body, 1);
    add_number(&body, locals);
    buffer_append(&body, "\x7f\x0b", 2);
    add_number(&part, 1);
    add_number(&part, (uint32_t)body.used);
    buffer_append(&part, body.data, body.used);
    add_section(&bytes, 10, &part);
    return inspect(bytes.data, bytes.used, err);
}

TEST(wasm_inspect, has_limits)
{
    struct error err;
    EXPECT(inspect_with(1, 1, 1, &err) == 0);
    EXPECT(inspect_with(1, 1, 50000, &err) == 0);
    EXPECT(inspect_with(1, 1, 50001, &err) == -ERROR_LIMIT);
    EXPECT(inspect_with(1, 1, UINT32_MAX, &err) == -ERROR_LIMIT);
    EXPECT(inspect_with(1, 65536, 1, &err) == 0);
    EXPECT(inspect_with(1, 65537, 1, &err) == -ERROR_INVALID);
    EXPECT(inspect_with(1000000, 1, 1, &err) == 0);
    EXPECT(inspect_with(1000001, 1, 1, &err) == -ERROR_LIMIT);
    EXPECT(strstr(err.text, "1000000") != NULL);

    const size_t large = (64U << 20) + 1;
    uint8_t *bytes = memory_new(large, 1);
    memcpy(bytes, module, sizeof(module));
    struct wasm_module_info info;
    EXPECT(wasm_inspect(bytes, large, &info, &err) == -ERROR_LIMIT);
    free(bytes);
}
