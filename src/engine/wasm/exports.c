/* What a module exports: its names and types, of a module that is known to be well-formed. */
#include "engine/wasm/exports.h"

#include <inttypes.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/wasm/opcode.h"
#include "engine/wasm/private.h"
#include "engine/wasm/reader.h"

enum {
    SECTION_CUSTOM = 0,
    SECTION_TYPE = 1,
    SECTION_IMPORT = 2,
    SECTION_FUNCTION = 3,
    SECTION_GLOBAL = 6,
    SECTION_EXPORT = 7,
    KIND_FUNCTION = 0,
    KIND_TABLE = 1,
    KIND_MEMORY = 2,
    KIND_GLOBAL = 3,
};

struct signature {
    char *parameters;
    char *results;
};

/* A list that grows: of the module's types, functions and globals, imported ones first. */
struct walk {
    struct signature *types;
    size_t type_count;
    uint32_t *functions; /* the index of each one's type */
    size_t function_count;
    char *globals; /* the letter of each one's type */
    size_t global_count;
    struct wasm_exports exports;
};

static void walk_done(struct walk *walk)
{
    for (size_t i = 0; i < walk->type_count; i++) {
        free(walk->types[i].parameters);
        free(walk->types[i].results);
    }
    free(walk->types);
    free(walk->functions);
    free(walk->globals);
    wasm_exports_done(&walk->exports);
}

void wasm_exports_done(struct wasm_exports *exports)
{
    for (size_t i = 0; i < exports->count; i++) {
        free(exports->items[i].name);
        free(exports->items[i].parameters);
        free(exports->items[i].results);
    }
    free(exports->items);
    *exports = (struct wasm_exports){0};
}

static char letter_of(uint8_t type)
{
    switch (type) {
    case 0x7f:
        return 'i';
    case 0x7e:
        return 'I';
    case 0x7d:
        return 'f';
    case 0x7c:
        return 'F';
    case 0x70:
        return 'r';
    default:
        return 'e';
    }
}

static char *read_types(struct reader *reader)
{
    uint32_t count = reader_u32(reader);
    if (count > WASM_VALUES_MAX && reader->failed == 0) {
        reader->failed =
            error_set(reader->err, ERROR_LIMIT, "a function has more than %d parameters or results",
                      WASM_VALUES_MAX);
    }
    char *letters = memory_new(WASM_VALUES_MAX + 1, 1);
    for (uint32_t i = 0; i < count && reader->failed == 0; i++) {
        letters[i] = letter_of(reader_byte(reader));
    }
    char *exact = memory_copy_string(letters);
    free(letters);
    return exact;
}

static void read_type(struct reader *reader, struct walk *walk)
{
    reader_byte(reader); /* a function's */
    walk->types = memory_resize(walk->types, (walk->type_count + 1) * sizeof(struct signature));
    struct signature *type = &walk->types[walk->type_count++];
    type->parameters = read_types(reader);
    type->results = read_types(reader);
}

static void add_function(struct reader *reader, struct walk *walk)
{
    uint32_t type = reader_u32(reader);
    if (type >= walk->type_count) {
        reader_malformed(reader, "a function of no type");
        return;
    }
    walk->functions = memory_resize(walk->functions, (walk->function_count + 1) * sizeof(uint32_t));
    walk->functions[walk->function_count++] = type;
}

static void add_global(struct reader *reader, struct walk *walk)
{
    walk->globals = memory_resize(walk->globals, walk->global_count + 1);
    walk->globals[walk->global_count++] = letter_of(reader_byte(reader));
    reader_byte(reader); /* its mutability */
}

static void skip_limits(struct reader *reader)
{
    bool has_most = (reader_byte(reader) & 1) != 0;
    reader_u32(reader);
    if (has_most) {
        reader_u32(reader);
    }
}

static void read_import(struct reader *reader, struct walk *walk)
{
    struct text ignored;
    reader_name(reader, &ignored);
    reader_name(reader, &ignored);
    switch (reader_byte(reader)) {
    case KIND_FUNCTION:
        add_function(reader, walk);
        break;
    case KIND_TABLE:
        reader_byte(reader);
        skip_limits(reader);
        break;
    case KIND_MEMORY:
        skip_limits(reader);
        break;
    case KIND_GLOBAL:
        add_global(reader, walk);
        break;
    default:
        reader_malformed(reader, "unknown kind of import");
        break;
    }
}

static void add_export(struct walk *walk, struct text name, const struct wasm_export *export)
{
    struct wasm_exports *exports = &walk->exports;
    exports->items =
        memory_resize(exports->items, (exports->count + 1) * sizeof(struct wasm_export));
    struct wasm_export *item = &exports->items[exports->count++];
    *item = *export;
    item->name = memory_new(name.length + 1, 1);
    if (name.length > 0) {
        memcpy(item->name, name.data, name.length);
    }
    item->name_length = name.length;
}

static void read_export(struct reader *reader, uint32_t place, struct walk *walk)
{
    struct text name;
    reader_name(reader, &name);
    uint8_t kind = reader_byte(reader);
    uint32_t index = reader_u32(reader);
    if (reader->failed < 0) {
        return;
    }
    if ((kind == KIND_FUNCTION && index >= walk->function_count) ||
        (kind == KIND_GLOBAL && index >= walk->global_count)) {
        reader_malformed(reader, "an export of what is not there");
    } else if (kind == KIND_FUNCTION) {
        const struct signature *type = &walk->types[walk->functions[index]];
        const struct wasm_export export = {.kind = WASM_EXPORT_FUNCTION,
                                           .place = place,
                                           .parameters = memory_copy_string(type->parameters),
                                           .results = memory_copy_string(type->results)};
        add_export(walk, name, &export);
    } else if (kind == KIND_GLOBAL) {
        const char type[2] = {walk->globals[index], '\0'};
        const struct wasm_export export = {.kind = WASM_EXPORT_GLOBAL,
                                           .place = place,
                                           .parameters = memory_copy_string(""),
                                           .results = memory_copy_string(type)};
        add_export(walk, name, &export);
    }
}

static void read_item(struct reader *reader, uint8_t section, uint32_t place, struct walk *walk)
{
    switch (section) {
    case SECTION_TYPE:
        read_type(reader, walk);
        break;
    case SECTION_IMPORT:
        read_import(reader, walk);
        break;
    case SECTION_FUNCTION:
        add_function(reader, walk);
        break;
    case SECTION_GLOBAL:
        add_global(reader, walk);
        opcode_read_expression(reader);
        break;
    case SECTION_EXPORT:
        read_export(reader, place, walk);
        break;
    default:
        CHECK_UNREACHABLE();
    }
}

static void read_sections(struct reader *reader, struct walk *walk)
{
    while (reader->failed == 0 && reader->at != reader->end) {
        uint8_t section = reader_byte(reader);
        struct reader part = reader_part(reader, reader_u32(reader));
        bool is_wanted = section == SECTION_TYPE || section == SECTION_IMPORT ||
            section == SECTION_FUNCTION || section == SECTION_GLOBAL || section == SECTION_EXPORT;
        uint32_t count = is_wanted ? reader_u32(&part) : 0;
        for (uint32_t i = 0; i < count && part.failed == 0; i++) {
            read_item(&part, section, i, walk);
        }
        if (reader->failed == 0) {
            reader->failed = part.failed;
        }
    }
}

int wasm_exports_read(const void *bytes, size_t length, struct wasm_exports *ret_exports,
                      struct error *err)
{
    struct wasm_module_info ignored;
    int r = inspect_form(bytes, length, WASM_FORM_EXPORTS, &ignored, err);
    if (r < 0) {
        return r;
    }
    const uint8_t *start = bytes;
    struct reader reader = {.start = start, .at = start + 8, .end = start + length, .err = err};
    struct walk walk = {0};
    read_sections(&reader, &walk);
    if (reader.failed == 0) {
        *ret_exports = walk.exports;
        walk.exports = (struct wasm_exports){0};
    }
    walk_done(&walk);
    return reader.failed;
}
