/* What a module exports and imports: names and types, of a module that is known to be well-formed.
 */
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
    SECTION_TABLE = 4,
    SECTION_MEMORY = 5,
    SECTION_GLOBAL = 6,
    SECTION_EXPORT = 7,
    KIND_FUNCTION = 0,
    KIND_TABLE = 1,
    KIND_MEMORY = 2,
    KIND_GLOBAL = 3,
};

_Static_assert(KIND_TABLE == (int)WASM_EXPORT_TABLE && KIND_GLOBAL == (int)WASM_EXPORT_GLOBAL,
               "numbered alike");

struct signature {
    char *parameters;
    char *results;
};

/* Lists that grow: of the module's types, and of each kind of item, imported ones first. */
struct walk {
    struct signature *types;
    size_t type_count;
    struct wasm_export *items[WASM_EXPORT_GLOBAL + 1]; /* their types, without names */
    size_t item_counts[WASM_EXPORT_GLOBAL + 1];
    struct wasm_exports exports;
    struct wasm_imports imports;
};

static void item_done(struct wasm_export *item)
{
    free(item->name);
    free(item->parameters);
    free(item->results);
}

static void walk_done(struct walk *walk)
{
    for (size_t i = 0; i < walk->type_count; i++) {
        free(walk->types[i].parameters);
        free(walk->types[i].results);
    }
    free(walk->types);
    for (size_t kind = 0; kind <= WASM_EXPORT_GLOBAL; kind++) {
        for (size_t i = 0; i < walk->item_counts[kind]; i++) {
            item_done(&walk->items[kind][i]);
        }
        free(walk->items[kind]);
    }
    wasm_exports_done(&walk->exports);
    imports_done(&walk->imports);
}

void wasm_exports_done(struct wasm_exports *exports)
{
    for (size_t i = 0; i < exports->count; i++) {
        item_done(&exports->items[i]);
    }
    free(exports->items);
    *exports = (struct wasm_exports){0};
}

void imports_done(struct wasm_imports *imports)
{
    for (size_t i = 0; i < imports->count; i++) {
        item_done(&imports->items[i].item);
    }
    free(imports->items);
    *imports = (struct wasm_imports){0};
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

/* ---- Items: their types ---- */

static void add_item(struct walk *walk, const struct wasm_export *item)
{
    size_t count = walk->item_counts[item->kind]++;
    walk->items[item->kind] =
        memory_resize(walk->items[item->kind], (count + 1) * sizeof(struct wasm_export));
    walk->items[item->kind][count] = *item;
}

static struct wasm_export item_of(enum wasm_export_kind kind, const char *parameters,
                                  const char *results)
{
    return (struct wasm_export){.kind = kind,
                                .parameters = memory_copy_string(parameters),
                                .results = memory_copy_string(results)};
}

static void add_function(struct reader *reader, struct walk *walk)
{
    uint32_t index = reader_u32(reader);
    if (index >= walk->type_count) {
        reader_malformed(reader, "unknown type");
        return;
    }
    const struct signature *type = &walk->types[index];
    const struct wasm_export item = item_of(WASM_EXPORT_FUNCTION, type->parameters, type->results);
    add_item(walk, &item);
}

static void read_limits(struct reader *reader, struct wasm_export *item)
{
    bool has_most = (reader_byte(reader) & 1) != 0;
    item->least = reader_u32(reader);
    item->most = has_most ? reader_u32(reader) : UINT32_MAX;
}

static void add_table(struct reader *reader, struct walk *walk)
{
    const char type[2] = {letter_of(reader_byte(reader)), '\0'};
    struct wasm_export item = item_of(WASM_EXPORT_TABLE, "", type);
    read_limits(reader, &item);
    add_item(walk, &item);
}

static void add_memory(struct reader *reader, struct walk *walk)
{
    struct wasm_export item = item_of(WASM_EXPORT_MEMORY, "", "");
    read_limits(reader, &item);
    add_item(walk, &item);
}

static void add_global(struct reader *reader, struct walk *walk)
{
    const char type[2] = {letter_of(reader_byte(reader)), '\0'};
    struct wasm_export item = item_of(WASM_EXPORT_GLOBAL, "", type);
    item.is_mutable = reader_byte(reader) == 1;
    add_item(walk, &item);
}

static void (*const adders[])(struct reader *reader, struct walk *walk) = {
    [KIND_FUNCTION] = add_function,
    [KIND_TABLE] = add_table,
    [KIND_MEMORY] = add_memory,
    [KIND_GLOBAL] = add_global,
};

static struct wasm_export item_copy(const struct wasm_export *item)
{
    struct wasm_export copy = *item;
    copy.name = NULL;
    copy.parameters = memory_copy_string(item->parameters);
    copy.results = memory_copy_string(item->results);
    return copy;
}

/* ---- Imports and exports ---- */

static void read_import(struct reader *reader, struct walk *walk)
{
    struct wasm_import import;
    reader_name(reader, &import.module);
    reader_name(reader, &import.name);
    uint8_t kind = reader_byte(reader);
    if (kind > KIND_GLOBAL) {
        reader_malformed(reader, "malformed import kind");
        return;
    }
    adders[kind](reader, walk);
    if (reader->failed < 0) {
        return;
    }
    import.item = item_copy(&walk->items[kind][walk->item_counts[kind] - 1]);
    struct wasm_imports *imports = &walk->imports;
    imports->items =
        memory_resize(imports->items, (imports->count + 1) * sizeof(struct wasm_import));
    imports->items[imports->count++] = import;
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
    static const char *const unknown[] = {"unknown function", "unknown table", "unknown memory",
                                          "unknown global"};
    if (kind > KIND_GLOBAL || index >= walk->item_counts[kind]) {
        reader_malformed(reader, kind > KIND_GLOBAL ? "malformed export kind" : unknown[kind]);
        return;
    }
    struct wasm_export export = item_copy(&walk->items[kind][index]);
    export.place = place;
    add_export(walk, name, &export);
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
    case SECTION_TABLE:
        add_table(reader, walk);
        break;
    case SECTION_MEMORY:
        add_memory(reader, walk);
        break;
    case SECTION_GLOBAL:
        add_global(reader, walk);
        opcode_read_constant(reader);
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
        bool is_wanted = section >= SECTION_TYPE && section <= SECTION_EXPORT;
        uint32_t count = is_wanted ? reader_u32(&part) : 0;
        for (uint32_t i = 0; i < count && part.failed == 0; i++) {
            read_item(&part, section, i, walk);
        }
        if (reader->failed == 0) {
            reader->failed = part.failed;
        }
    }
}

int imports_read(const void *bytes, size_t length, struct wasm_imports *ret_imports,
                 struct wasm_exports *ret_exports, struct error *err)
{
    const uint8_t *start = bytes;
    struct reader reader = {.start = start, .at = start + 8, .end = start + length, .err = err};
    struct walk walk = {0};
    read_sections(&reader, &walk);
    if (reader.failed == 0) {
        *ret_imports = walk.imports;
        *ret_exports = walk.exports;
        walk.imports = (struct wasm_imports){0};
        walk.exports = (struct wasm_exports){0};
    }
    walk_done(&walk);
    return reader.failed;
}

int wasm_exports_read(const void *bytes, size_t length, struct wasm_exports *ret_exports,
                      struct error *err)
{
    IMPORTS_OWNED struct wasm_imports ignored = {0};
    struct wasm_module_info info;
    int r = inspect_form(bytes, length, WASM_FORM_EXPORTS, &info, err);
    return r < 0 ? r : imports_read(bytes, length, &ignored, ret_exports, err);
}
