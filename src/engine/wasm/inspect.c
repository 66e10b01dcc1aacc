/*
 * Reading a module without running it: what it is, and every feature of it that cannot run here, by
 * name.
 *
 * This is not a validator (wasm-validate is): it walks the binary format (core specification,
 * chapter 5) completely, code included, so that nothing unsupported reaches wasm2c, which would
 * abort without a word.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/wasm/assets.h"
#include "engine/wasm/opcode.h"
#include "engine/wasm/private.h"
#include "engine/wasm/reader.h"

enum {
    MODULE_BYTES_MAX = 64 << 20,
    ITEMS_MAX = 1000000, /* functions, types, imports, ... of one module */
    LOCALS_MAX = 50000,
    PAGES_MAX = 65536,
    SIGNATURE_SIZE = 24,
};

enum section {
    SECTION_CUSTOM,
    SECTION_TYPE,
    SECTION_IMPORT,
    SECTION_FUNCTION,
    SECTION_TABLE,
    SECTION_MEMORY,
    SECTION_GLOBAL,
    SECTION_EXPORT,
    SECTION_START,
    SECTION_ELEMENT,
    SECTION_CODE,
    SECTION_DATA,
    SECTION_DATA_COUNT,
    SECTION_TAG,
    SECTION_COUNT,
};

/* The functions that are called from outside, when a module exports them. */
enum entry { ENTRY_START, ENTRY_HANDLE, ENTRY_INITIALIZE, ENTRY_WIZER_INITIALIZE, ENTRY_COUNT };

static const char *const entry_names[ENTRY_COUNT] = {"_start", "handle", "_initialize",
                                                     "wizer.initialize"};

struct inspection {
    enum wasm_form form;
    struct wasm_module_info info;
    uint32_t memories;
    uint32_t imported;        /* functions; they have the first indexes */
    uint32_t declared;        /* functions of the function section */
    uint32_t *type_offsets;   /* from the module's beginning */
    uint32_t *function_types; /* of declared functions */
    uint32_t type_count;
    uint8_t *table_types; /* in the order of the tables' indexes */
    uint32_t table_count;
    bool has_data_count;
    uint32_t data_count; /* as said before the code */
    uint32_t data_segments;
    uint32_t entries[ENTRY_COUNT]; /* indexes of functions, or NOBODY */
};

#define NOBODY UINT32_MAX

static uint32_t read_count(struct reader *reader)
{
    uint32_t count = reader_u32(reader);
    if (count > ITEMS_MAX) {
        if (reader->failed == 0) {
            reader->failed = error_set(reader->err, ERROR_LIMIT,
                                       "the module has more than %d items of one kind", ITEMS_MAX);
        }
        return 0;
    }
    return count;
}

/* min, optional max; bit 1 shared, bit 2 64-bit. */
static void read_limits(struct reader *reader, bool is_memory, uint32_t *ret_min, uint32_t *ret_max)
{
    uint8_t flags = reader_byte(reader);
    if (flags & 2) {
        reader_unsupported(reader, "threads (shared memory)");
    }
    if (flags & 4) {
        reader_unsupported(reader, "memory64");
    }
    if (flags > 7) {
        reader_malformed(reader, "malformed limits flags");
    }
    *ret_min = reader_u32(reader);
    *ret_max = flags & 1 ? reader_u32(reader) : UINT32_MAX;
    if (is_memory && *ret_min > PAGES_MAX) {
        reader_malformed(reader, "memory size must be at most 65536 pages (4GiB)");
    }
}

static void read_memory(struct reader *reader, struct inspection *inspection, uint32_t *ret_min,
                        uint32_t *ret_max)
{
    uint32_t min = 0;
    uint32_t max = 0;
    read_limits(reader, true, &min, &max);
    *ret_min = min;
    *ret_max = max;
    if (++inspection->memories > 1) {
        reader_unsupported(reader, "several memories");
    }
    inspection->info.memory_bytes_initial = (uint64_t)min * 65536;
    inspection->info.memory_bytes_max = (uint64_t)(max > 65536 ? 65536 : max) * 65536;
}

static void add_table(struct inspection *inspection, uint8_t type)
{
    uint32_t count = ++inspection->table_count;
    inspection->table_types = memory_resize(inspection->table_types, count);
    inspection->table_types[count - 1] = type;
}

static void read_table(struct reader *reader, struct inspection *inspection)
{
    uint32_t min = 0;
    uint32_t max = 0;
    add_table(inspection, reader->at != reader->end ? *reader->at : 0);
    opcode_read_type(reader);
    read_limits(reader, false, &min, &max);
}

/* ---- Imports and exports ---- */

static const struct known_import {
    const char *module;
    const char *name;
    const char *signature;
} known_imports[] = {
#define WASI(name, signature) {"wasi_snapshot_preview1", #name, signature},
#define HOST(name, signature) {"blixard_v1", #name, signature},
#include "engine/wasm/imports.def"
#undef WASI
#undef HOST
    {"env", "abort", "iiii>"}, /* AssemblyScript's own */
    {"env", "seed", ">F"},
    {"env", "emscripten_notify_memory_growth", "i>"}, /* Emscripten's, where memory may grow */
};

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const struct known_import *find_import(struct text module, struct text name)
{
    for (size_t i = 0; i < COUNT(known_imports); i++) {
        if (text_equal(module, known_imports[i].module) &&
            text_equal(name, known_imports[i].name)) {
            return &known_imports[i];
        }
    }
    return NULL;
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
    default:
        return '?';
    }
}

/* "iI>i"; what is longer, or is no type, is nobody's. */
static void describe_type(const struct reader *module, const struct inspection *inspection,
                          uint32_t index, char ret_text[SIGNATURE_SIZE])
{
    size_t used = 0;
    snprintf(ret_text, SIGNATURE_SIZE, "?");
    if (index >= inspection->type_count) {
        return;
    }
    struct error ignored = {0};
    struct reader type = {.start = module->start,
                          .at = module->start + inspection->type_offsets[index] + 1,
                          .end = module->end,
                          .err = &ignored};
    for (int part = 0; part < 2; part++) {
        uint32_t count = reader_u32(&type);
        for (uint32_t i = 0; i < count && used < SIGNATURE_SIZE - 2; i++) {
            ret_text[used++] = letter_of(reader_byte(&type));
        }
        if (part == 0) {
            ret_text[used++] = '>';
        }
    }
    ret_text[used] = '\0';
}

static void check_signature(struct reader *reader, const struct inspection *inspection,
                            const struct known_import *known, uint32_t type)
{
    char signature[SIGNATURE_SIZE];
    describe_type(reader, inspection, type, signature);
    if (reader->failed == 0 && strcmp(signature, known->signature) != 0) {
        reader->failed =
            error_set(reader->err, ERROR_INVALID,
                      "the module imports %s.%s with other parameters or results than it has "
                      "(%s instead of %s; i is i32, I i64, f f32, F f64)",
                      known->module, known->name, signature, known->signature);
    }
}

/* A table, a memory or a global of it; its functions are known imports like others. */
static void read_spectest(struct reader *reader, struct inspection *inspection, struct text name,
                          uint8_t kind)
{
    enum { TABLE = 1, MEMORY = 2 };
    uint32_t least = 0;
    uint32_t most = 0;
    int r = 0;
    if (kind == TABLE) {
        uint8_t type = reader_byte(reader);
        add_table(inspection, type);
        read_limits(reader, false, &least, &most);
        r = spectest_check_table(name, type, least, most, reader->err);
    } else if (kind == MEMORY) {
        read_memory(reader, inspection, &least, &most);
        r = spectest_check_memory(name, least, most, reader->err);
    } else {
        uint8_t type = reader_byte(reader);
        r = spectest_check_global(name, type, reader_byte(reader), reader->err);
    }
    if (reader->failed == 0) {
        reader->failed = r;
    }
}

/* What another module gives: link.c compares the types. */
static void read_linked(struct reader *reader, struct inspection *inspection, uint8_t kind)
{
    uint32_t least = 0;
    uint32_t most = 0;
    switch (kind) {
    case 0:
        if (reader_u32(reader) >= inspection->type_count) {
            reader_malformed(reader, "unknown type");
        }
        inspection->imported++;
        return;
    case 1:
        read_table(reader, inspection);
        return;
    case 2:
        read_memory(reader, inspection, &least, &most);
        return;
    case 3:
        opcode_read_type(reader);
        reader_byte(reader);
        return;
    default:
        reader_unsupported(reader, "exceptions");
    }
}

static void read_import(struct reader *reader, struct inspection *inspection)
{
    static const char *const kinds[] = {"function", "table", "memory", "global", "tag"};
    struct text module;
    struct text name;
    reader_name(reader, &module);
    reader_name(reader, &name);
    uint8_t kind = reader_byte(reader);
    if (kind >= COUNT(kinds)) {
        reader_malformed(reader, "malformed import kind");
    }
    if (reader->failed < 0) {
        return;
    }
    const struct known_import *known = kind == 0 ? find_import(module, name) : NULL;
    bool is_spectest = inspection->form != WASM_FORM_FUNCTION && text_equal(module, "spectest");
    if (inspection->form == WASM_FORM_LINKED && !is_spectest) {
        read_linked(reader, inspection, kind);
        return;
    }
    if (is_spectest && spectest_has(name, kind)) {
        read_spectest(reader, inspection, name, kind);
        return;
    }
    struct known_import of_spectest = {"spectest", "function", NULL};
    if (is_spectest && kind == 0) {
        of_spectest.signature = spectest_function(name);
        known = of_spectest.signature != NULL ? &of_spectest : NULL;
    }
    if (known == NULL) {
        reader->failed = error_set(
            reader->err, ERROR_UNSUPPORTED,
            "the module imports the %s %.*s.%.*s, which nobody here provides; functions may import "
            "from wasi_snapshot_preview1 and blixard_v1",
            kinds[kind], (int)(module.length < 64 ? module.length : 64), module.data,
            (int)(name.length < 64 ? name.length : 64), name.data);
        return;
    }
    check_signature(reader, inspection, known, reader_u32(reader));
    inspection->info.uses_paths |=
        text_starts_with(known->name, "path_") || text_starts_with(known->name, "fd_prestat_");
    inspection->imported++;
}

static void read_export(struct reader *reader, struct inspection *inspection)
{
    struct text name;
    reader_name(reader, &name);
    uint8_t kind = reader_byte(reader);
    uint32_t index = reader_u32(reader);
    if (kind > 4) {
        reader_malformed(reader, "malformed export kind");
    }
    for (int entry = 0; entry < ENTRY_COUNT; entry++) {
        if (kind == 0 && text_equal(name, entry_names[entry])) {
            inspection->entries[entry] = index;
        }
    }
}

/* ---- The other sections ---- */

static void read_type(struct reader *reader, struct inspection *inspection)
{
    inspection->type_offsets[inspection->type_count++] = (uint32_t)(reader->at - reader->start);
    uint8_t form = reader_byte(reader);
    if (form == 0x5e || form == 0x5f || form == 0x50 || form == 0x4e || form == 0x4f) {
        reader_unsupported(reader, "garbage-collected types");
    }
    if (form != 0x60 && reader->failed == 0) {
        reader_malformed(reader, "malformed type");
    }
    for (int part = 0; part < 2 && reader->failed == 0; part++) {
        uint32_t count = read_count(reader);
        for (uint32_t i = 0; i < count && reader->failed == 0; i++) {
            opcode_read_type(reader);
        }
    }
}

static void read_global(struct reader *reader)
{
    opcode_read_type(reader);
    if (reader_byte(reader) > 1) {
        reader_malformed(reader, "malformed mutability");
    }
    opcode_read_constant(reader);
}

static void read_element_item(struct reader *reader, bool is_expression)
{
    enum { GLOBAL_GET = 0x23 };
    if (!is_expression) {
        reader_u32(reader);
        return;
    }
    if (reader->at != reader->end && *reader->at == GLOBAL_GET) {
        reader_unsupported(reader, "globals as elements of tables");
    }
    opcode_read_constant(reader);
}

/* Core specification 5.5.12: eight forms told by three bits. */
static void read_element(struct reader *reader, struct inspection *inspection)
{
    uint32_t flags = reader_u32(reader);
    if (flags > 7) {
        reader_malformed(reader, "malformed element segment");
    }
    bool is_active = (flags & 1) == 0;
    bool has_expressions = (flags & 4) != 0;
    if (is_active && (flags & 2)) {
        reader_u32(reader);
    }
    if (is_active) {
        opcode_read_constant(reader);
    }
    if (flags & 3) {
        if (has_expressions) {
            opcode_read_type(reader);
        } else if (reader_byte(reader) != 0) {
            reader_malformed(reader, "malformed element kind");
        }
    }
    uint32_t count = read_count(reader);
    inspection->info.has_empty_segment |= is_active && count == 0;
    for (uint32_t i = 0; i < count && reader->failed == 0; i++) {
        read_element_item(reader, has_expressions);
    }
}

static void read_data(struct reader *reader)
{
    uint32_t flags = reader_u32(reader);
    if (flags > 2) {
        reader_malformed(reader, "malformed data segment kind");
    }
    if (flags == 2) {
        reader_u32(reader);
    }
    if (flags != 1) {
        opcode_read_constant(reader);
    }
    reader_skip(reader, reader_u32(reader));
}

static void read_code(struct reader *reader, struct inspection *inspection)
{
    struct reader body = reader_part(reader, reader_u32(reader));
    body.table_types = inspection->table_types;
    body.table_count = inspection->table_count;
    uint64_t locals = 0;
    uint32_t groups = read_count(&body);
    for (uint32_t i = 0; i < groups && body.failed == 0; i++) {
        locals += reader_u32(&body);
        opcode_read_type(&body);
    }
    if (locals > LOCALS_MAX && body.failed == 0) {
        body.failed =
            error_set(body.err, ERROR_LIMIT, "a function has more than %d variables", LOCALS_MAX);
    }
    if (body.failed == 0) {
        opcode_read_expression(&body);
    }
    if (body.failed == 0 && body.at != body.end) {
        reader_malformed(&body, "END opcode expected: a function goes on after it");
    }
    inspection->info.has_typed_loop |= body.has_typed_loop;
    if (reader->failed == 0) {
        reader->failed = body.failed;
    }
}

static void read_item(struct reader *reader, enum section section, struct inspection *inspection)
{
    switch (section) {
    case SECTION_TYPE:
        read_type(reader, inspection);
        break;
    case SECTION_IMPORT:
        read_import(reader, inspection);
        break;
    case SECTION_FUNCTION:
        inspection->function_types[inspection->declared++] = reader_u32(reader);
        break;
    case SECTION_TABLE:
        read_table(reader, inspection);
        break;
    case SECTION_MEMORY: {
        uint32_t ignored;
        read_memory(reader, inspection, &ignored, &ignored);
        break;
    }
    case SECTION_GLOBAL:
        read_global(reader);
        break;
    case SECTION_EXPORT:
        read_export(reader, inspection);
        break;
    case SECTION_ELEMENT:
        read_element(reader, inspection);
        break;
    case SECTION_CODE:
        read_code(reader, inspection);
        inspection->info.function_count++;
        break;
    case SECTION_DATA:
        read_data(reader);
        inspection->data_segments++;
        break;
    case SECTION_CUSTOM:
    case SECTION_START:
    case SECTION_DATA_COUNT:
    case SECTION_TAG:
    case SECTION_COUNT:
        CHECK_UNREACHABLE();
    }
}

/* Once each: a section comes once. */
static void make_room(struct inspection *inspection, enum section section, uint32_t count)
{
    if (section == SECTION_TYPE) {
        inspection->type_offsets = memory_new(count, sizeof(uint32_t));
    } else if (section == SECTION_FUNCTION) {
        inspection->function_types = memory_new(count, sizeof(uint32_t));
    }
}

static void read_section(struct reader *reader, enum section section, struct inspection *inspection)
{
    if (section == SECTION_TAG) {
        reader_unsupported(reader, "exceptions");
        return;
    }
    if (section == SECTION_START) {
        reader_u32(reader);
    } else if (section == SECTION_DATA_COUNT) {
        inspection->has_data_count = true;
        inspection->data_count = reader_u32(reader);
    } else {
        uint32_t count = read_count(reader);
        make_room(inspection, section, count);
        for (uint32_t i = 0; i < count && reader->failed == 0; i++) {
            read_item(reader, section, inspection);
        }
    }
    if (reader->failed == 0 && reader->at != reader->end) {
        reader_malformed(reader, "section size mismatch");
    }
}

/* The order sections must come in; the data count stands before the code. */
static unsigned rank(enum section section)
{
    static const unsigned ranks[SECTION_COUNT] = {
        [SECTION_TYPE] = 1,     [SECTION_IMPORT] = 2,      [SECTION_FUNCTION] = 3,
        [SECTION_TABLE] = 4,    [SECTION_MEMORY] = 5,      [SECTION_TAG] = 6,
        [SECTION_GLOBAL] = 7,   [SECTION_EXPORT] = 8,      [SECTION_START] = 9,
        [SECTION_ELEMENT] = 10, [SECTION_DATA_COUNT] = 11, [SECTION_CODE] = 12,
        [SECTION_DATA] = 13,
    };
    return ranks[section];
}

static void read_custom(struct reader *reader, struct inspection *inspection)
{
    struct text name;
    reader_name(reader, &name);
    if (reader->failed < 0 || !text_equal(name, ASSETS_SECTION)) {
        return;
    }
    size_t length = (size_t)(reader->end - reader->at);
    if (inspection->info.assets_bytes > 0) {
        reader_malformed(reader, "a second section " ASSETS_SECTION);
        return;
    }
    inspection->info.assets_bytes = length;
    reader->failed = wasm_assets_check(reader->at, length, reader->err);
}

static void read_sections(struct reader *reader, struct inspection *inspection)
{
    unsigned before = 0;
    while (reader->failed == 0 && reader->at != reader->end) {
        uint8_t id = reader_byte(reader);
        if (id >= SECTION_COUNT) {
            reader_malformed(reader, "malformed section id");
            return;
        }
        struct reader part = reader_part(reader, reader_u32(reader));
        if (reader->failed < 0) {
            return;
        }
        enum section section = (enum section)id;
        if (section == SECTION_CUSTOM) {
            read_custom(&part, inspection);
        } else if (rank(section) <= before) {
            reader_malformed(&part, "unexpected content after last section");
        } else {
            before = rank(section);
            read_section(&part, section, inspection);
        }
        reader->failed = part.failed;
    }
}

static int check_head(const uint8_t *bytes, size_t length, struct error *err)
{
    static const uint8_t magic[4] = {0, 'a', 's', 'm'};
    if (length > MODULE_BYTES_MAX) {
        return error_set(err, ERROR_LIMIT, "the module is larger than %d MiB",
                         MODULE_BYTES_MAX >> 20);
    }
    if (length < 8 || memcmp(bytes, magic, sizeof(magic)) != 0) {
        return error_set(err, ERROR_INVALID,
                         "not a WebAssembly module: magic header not detected (\\0asm)");
    }
    if (bytes[6] == 1 && bytes[7] == 0) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "this is a WebAssembly component; core modules are supported "
                         "(target wasm32-wasi, preview 1)");
    }
    if (bytes[4] != 1 || bytes[5] != 0 || bytes[6] != 0 || bytes[7] != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "unknown binary version: the module's is not 1");
    }
    return 0;
}

/* What is called from outside takes nothing and gives nothing. */
static int check_entry(const struct reader *module, const struct inspection *inspection,
                       const char *name, uint32_t index, struct error *err)
{
    char signature[SIGNATURE_SIZE] = "?";
    if (index == NOBODY) {
        return 0;
    }
    if (index >= inspection->imported && index - inspection->imported < inspection->declared) {
        describe_type(module, inspection, inspection->function_types[index - inspection->imported],
                      signature);
    }
    return strcmp(signature, ">") == 0
        ? 0
        : error_set(err, ERROR_INVALID,
                    "the module's %s must be a function of its own, without parameters and results",
                    name);
}

static int check_whole(const struct reader *module, const struct inspection *inspection,
                       struct error *err)
{
    if (inspection->declared != inspection->info.function_count) {
        return error_set(err, ERROR_INVALID,
                         "not a valid WebAssembly module: function and code section have "
                         "inconsistent lengths (%" PRIu32 " and %" PRIu32 ")",
                         inspection->declared, inspection->info.function_count);
    }
    if (inspection->has_data_count && inspection->data_count != inspection->data_segments) {
        return error_set(err, ERROR_INVALID,
                         "not a valid WebAssembly module: data count and data section have "
                         "inconsistent lengths (%" PRIu32 " and %" PRIu32 ")",
                         inspection->data_count, inspection->data_segments);
    }
    const uint32_t *entries = inspection->entries;
    if (inspection->form != WASM_FORM_FUNCTION) {
        return 0;
    }
    if (entries[ENTRY_START] == NOBODY && entries[ENTRY_HANDLE] == NOBODY) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "the module exports neither _start (a command) nor handle (a handler)");
    }
    int r = 0;
    for (int entry = 0; entry < ENTRY_COUNT && r == 0; entry++) {
        r = check_entry(module, inspection, entry_names[entry], entries[entry], err);
    }
    return r;
}

int wasm_inspect(const void *bytes, size_t length, struct wasm_module_info *ret_info,
                 struct error *err)
{
    return inspect_form(bytes, length, WASM_FORM_FUNCTION, ret_info, err);
}

int inspect_form(const void *bytes, size_t length, enum wasm_form form,
                 struct wasm_module_info *ret_info, struct error *err)
{
    int r = check_head(bytes, length, err);
    if (r < 0) {
        return r;
    }
    const uint8_t *start = bytes;
    struct reader reader = {.start = start, .at = start + 8, .end = start + length, .err = err};
    struct inspection inspection = {.form = form, .info = {.size_bytes = length}};
    memset(inspection.entries, 0xff, sizeof(inspection.entries)); /* NOBODY */
    read_sections(&reader, &inspection);
    r = reader.failed < 0 ? reader.failed : check_whole(&reader, &inspection, err);
    free(inspection.type_offsets);
    free(inspection.function_types);
    free(inspection.table_types);
    if (r < 0) {
        return r;
    }
    const uint32_t *entries = inspection.entries;
    inspection.info.abi = entries[ENTRY_HANDLE] != NOBODY ? WASM_ABI_HANDLER : WASM_ABI_COMMAND;
    if (form != WASM_FORM_FUNCTION) {
        inspection.info.abi = WASM_ABI_EXPORTS;
    }
    inspection.info.has_initialize = entries[ENTRY_INITIALIZE] != NOBODY;
    inspection.info.has_wizer_initialize = entries[ENTRY_WIZER_INITIALIZE] != NOBODY;
    *ret_info = inspection.info;
    return 0;
}
