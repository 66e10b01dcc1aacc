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

enum {
    HEAD_BYTES = 8,
    SECTION_CUSTOM = 0,
    SECTION_IMPORT = 2,
    SECTION_EXPORT = 7,
    PLAIN_NAME_SIZE = 16,
};

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

static void append_name(struct buffer *out, struct text name)
{
    rewrite_append_leb(out, name.length);
    buffer_append(out, name.data, name.length);
}

/* What is to change. */
struct rewriting {
    bool names; /* those of exports */
    enum wasm_form form;
    const struct link_place *imports; /* NULL: they stay */
};

static void rename_exports(struct reader *section, const struct rewriting *rewriting,
                           struct buffer *ret_content)
{
    uint32_t count = reader_u32(section);
    rewrite_append_leb(ret_content, count);
    for (uint32_t i = 0; i < count && section->failed == 0; i++) {
        char plain[PLAIN_NAME_SIZE];
        struct text name;
        reader_name(section, &name);
        if (rewriting->form != WASM_FORM_FUNCTION || !is_called(name)) {
            snprintf(plain, sizeof(plain), REWRITE_NAME, i);
            name = text_of(plain, strlen(plain));
        }
        append_name(ret_content, name);
        buffer_append_byte(ret_content, reader_byte(section)); /* what kind it is */
        rewrite_append_leb(ret_content, reader_u32(section));
    }
}

static void skip_type(struct reader *section)
{
    enum { FUNCTION, TABLE, MEMORY, GLOBAL };
    uint8_t kind = reader_byte(section);
    if (kind == FUNCTION) {
        reader_u32(section);
        return;
    }
    if (kind == TABLE || kind == GLOBAL) {
        reader_byte(section); /* of the elements, of the value */
    }
    if (kind == GLOBAL) {
        reader_byte(section);
        return;
    }
    bool has_most = (reader_byte(section) & 1) != 0;
    reader_u32(section);
    if (has_most) {
        reader_u32(section);
    }
}

static void rename_imports(struct reader *section, const struct rewriting *rewriting,
                           struct buffer *ret_content)
{
    uint32_t count = reader_u32(section);
    rewrite_append_leb(ret_content, count);
    for (uint32_t i = 0; i < count && section->failed == 0; i++) {
        const struct link_place *place = &rewriting->imports[i];
        char plain_module[PLAIN_NAME_SIZE];
        char plain_name[PLAIN_NAME_SIZE];
        struct text module;
        struct text name;
        reader_name(section, &module);
        reader_name(section, &name);
        if (place->unit >= 0) {
            snprintf(plain_module, sizeof(plain_module), "m%d", place->unit);
            snprintf(plain_name, sizeof(plain_name), REWRITE_NAME, place->place);
            module = text_of(plain_module, strlen(plain_module));
            name = text_of(plain_name, strlen(plain_name));
        }
        append_name(ret_content, module);
        append_name(ret_content, name);
        const uint8_t *type = section->at;
        skip_type(section);
        buffer_append(ret_content, type, (size_t)(section->at - type));
    }
}

static void copy_section(struct reader *part, uint8_t id, const struct rewriting *rewriting,
                         struct buffer *ret_module)
{
    BUFFER_OWNED struct buffer renamed = {0};
    if (id == SECTION_EXPORT && rewriting->names) {
        rename_exports(part, rewriting, &renamed);
        append_section(ret_module, id, renamed.data, renamed.used);
    } else if (id == SECTION_IMPORT && rewriting->imports != NULL) {
        rename_imports(part, rewriting, &renamed);
        append_section(ret_module, id, renamed.data, renamed.used);
    } else if (id != SECTION_CUSTOM) {
        append_section(ret_module, id, part->at, (size_t)(part->end - part->at));
    }
}

static void copy_sections(const void *module, size_t length, const struct rewriting *rewriting,
                          struct buffer *ret_module)
{
    CHECK(length >= HEAD_BYTES);

    struct error ignored = {0};
    const uint8_t *start = module;
    struct reader reader = {
        .start = start, .at = start + HEAD_BYTES, .end = start + length, .err = &ignored};
    buffer_append(ret_module, module, HEAD_BYTES);
    while (reader.failed == 0 && reader.at != reader.end) {
        uint8_t id = reader_byte(&reader);
        struct reader part = reader_part(&reader, reader_u32(&reader));
        copy_section(&part, id, rewriting, ret_module);
        CHECK(part.failed == 0); /* it was inspected */
    }
    CHECK(reader.failed == 0);
}

void rewrite_bare(const void *module, size_t length, struct buffer *ret_module)
{
    const struct rewriting nothing = {0};
    copy_sections(module, length, &nothing, ret_module);
}

void rewrite_names(const void *module, size_t length, enum wasm_form form,
                   struct buffer *ret_module)
{
    const struct rewriting rewriting = {.names = true, .form = form};
    copy_sections(module, length, &rewriting, ret_module);
}

void rewrite_linked(const void *module, size_t length, const struct link_place *imports,
                    struct buffer *ret_module)
{
    const struct rewriting rewriting = {
        .names = true, .form = WASM_FORM_LINKED, .imports = imports};
    copy_sections(module, length, &rewriting, ret_module);
}
