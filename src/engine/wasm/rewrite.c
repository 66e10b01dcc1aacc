/*
 * A module as the tools are given it.  What other programs would only trip over is taken out or
 * replaced: custom sections, which must not matter whatever is in them (core specification 5.5.3)
 * but which the tools read some of, and exported names, which are any bytes while wasm2c writes
 * them into comments and names of C.
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/text.h"

#include "engine/wasm/private.h"
#include "engine/wasm/reader.h"

enum { HEAD_BYTES = 8, SECTION_CUSTOM = 0, SECTION_EXPORT = 7, PLAIN_NAME_SIZE = 16 };

static const char *const called_names[] = {"_start", "handle", "_initialize", "wizer.initialize"};

void rewrite_append_leb(struct buffer *out, uint64_t value)
{
    do {
        uint8_t byte = value & 0x7f;
        value >>= 7;
        buffer_append_byte(out, byte | (value > 0 ? 0x80 : 0));
    } while (value > 0);
}

static void append_section(struct buffer *out, uint8_t id, const void *content, size_t length)
{
    buffer_append_byte(out, id);
    rewrite_append_leb(out, length);
    buffer_append(out, content, length);
}

static bool is_called(struct text name)
{
    for (size_t i = 0; i < sizeof(called_names) / sizeof(called_names[0]); i++) {
        if (text_equal(name, called_names[i])) {
            return true;
        }
    }
    return false;
}

static void rename_exports(struct reader *section, enum wasm_form form, struct buffer *ret_content)
{
    uint32_t count = reader_u32(section);
    rewrite_append_leb(ret_content, count);
    for (uint32_t i = 0; i < count && section->failed == 0; i++) {
        char plain[PLAIN_NAME_SIZE];
        struct text name;
        reader_name(section, &name);
        if (form == WASM_FORM_EXPORTS || !is_called(name)) {
            snprintf(plain, sizeof(plain), REWRITE_NAME, i);
            name = text_of(plain, strlen(plain));
        }
        rewrite_append_leb(ret_content, name.length);
        buffer_append(ret_content, name.data, name.length);
        buffer_append_byte(ret_content, reader_byte(section)); /* what kind it is */
        rewrite_append_leb(ret_content, reader_u32(section));
    }
}

typedef void append_exports(struct reader *section, enum wasm_form form,
                            struct buffer *ret_content);

static void copy_exports(struct reader *section, enum wasm_form form, struct buffer *ret_content)
{
    (void)form;
    size_t length = (size_t)(section->end - section->at);
    buffer_append(ret_content, section->at, length);
    reader_skip(section, length);
}

static void copy_sections(const void *module, size_t length, append_exports *exports,
                          enum wasm_form form, struct buffer *ret_module)
{
    CHECK(length >= HEAD_BYTES);

    struct error ignored = {0};
    const uint8_t *start = module;
    struct reader reader = {
        .start = start, .at = start + HEAD_BYTES, .end = start + length, .err = &ignored};
    buffer_append(ret_module, module, HEAD_BYTES);
    while (reader.failed == 0 && reader.at != reader.end) {
        BUFFER_OWNED struct buffer renamed = {0};
        uint8_t id = reader_byte(&reader);
        struct reader part = reader_part(&reader, reader_u32(&reader));
        if (id == SECTION_EXPORT) {
            exports(&part, form, &renamed);
            append_section(ret_module, id, renamed.data, renamed.used);
        } else if (id != SECTION_CUSTOM) {
            append_section(ret_module, id, part.at, (size_t)(part.end - part.at));
        }
        CHECK(part.failed == 0); /* it was inspected */
    }
    CHECK(reader.failed == 0);
}

void rewrite_bare(const void *module, size_t length, struct buffer *ret_module)
{
    copy_sections(module, length, copy_exports, WASM_FORM_EXPORTS, ret_module);
}

void rewrite_names(const void *module, size_t length, enum wasm_form form,
                   struct buffer *ret_module)
{
    copy_sections(module, length, rename_exports, form, ret_module);
}
