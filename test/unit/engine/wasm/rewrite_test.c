/* Modules as the tools are given them. */
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"

#include "engine/wasm/private.h"

#include "support.h"
#include "test/lib/test.h"

static bool has(const struct buffer *bytes, const char *what)
{
    return memmem(bytes->data, bytes->used, what, strlen(what)) != NULL;
}

TEST(wasm_rewrite, takes_custom_sections_out_wherever_they_stand)
{
    static const uint8_t custom[] = {0, 6, 4, 'n', 'a', 'm', 'e', 0xff};
    BUFFER_OWNED struct buffer with = {0};
    BUFFER_OWNED struct buffer without = {0};
    buffer_append(&with, module, 8);
    buffer_append(&with, custom, sizeof(custom));
    buffer_append(&with, module + 8, MODULE_BYTES - 8);
    buffer_append(&with, custom, sizeof(custom));
    rewrite_bare(with.data, with.used, &without);
    EXPECT(without.used == MODULE_BYTES && memcmp(without.data, module, MODULE_BYTES) == 0);
}

TEST(wasm_rewrite, gives_exports_names_by_their_place)
{
    BUFFER_OWNED struct buffer function = {0};
    BUFFER_OWNED struct buffer exports = {0};
    struct wasm_module_info info;
    struct error err = {0};
    rewrite_names(module, MODULE_BYTES, WASM_FORM_FUNCTION, &function);
    EXPECT(has(&function, "\x02x0\x02") && has(&function, "\x06_start"));
    EXPECT(!has(&function, "memory"));
    EXPECT(wasm_inspect(function.data, function.used, &info, &err) == 0);

    rewrite_names(module, MODULE_BYTES, WASM_FORM_EXPORTS, &exports);
    EXPECT(has(&exports, "\x02x0\x02") && has(&exports, "\x02x1") && !has(&exports, "_start"));
}

TEST(wasm_rewrite, writes_numbers_as_they_are_read)
{
    static const struct {
        uint64_t value;
        const char *bytes;
    } cases[] = {
        {0, "\0"},           {127, "\x7f"},           {128, "\x80\x01"},
        {16383, "\xff\x7f"}, {16384, "\x80\x80\x01"}, {UINT32_MAX, "\xff\xff\xff\xff\x0f"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        BUFFER_OWNED struct buffer out = {0};
        rewrite_append_leb(&out, cases[i].value);
        size_t length = cases[i].value == 0 ? 1 : strlen(cases[i].bytes);
        EXPECT(out.used == length && memcmp(out.data, cases[i].bytes, length) == 0);
    }
}
