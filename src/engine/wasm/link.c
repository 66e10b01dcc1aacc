/*
 * Modules that import from one another: which import is which export of a module before it, and
 * whether their types agree (core specification 3.2 and 4.5.4; of tables and memories what is
 * declared counts, not what they have grown to).
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "engine/wasm/private.h"

static const char *const kind_texts[] = {"function", "table", "memory", "global"};

void link_done(struct link *link)
{
    for (size_t i = 0; i < link->count; i++) {
        wasm_exports_done(&link->units[i].exports);
        free(link->units[i].imports);
    }
}

static int refuse_import(const struct wasm_linked *module, const struct wasm_import *import,
                         const char *why, struct error *err)
{
    return error_set(
        err, ERROR_INVALID, "%.60s imports the %s %.*s.%.*s, %s",
        module->name[0] != '\0' ? module->name : "the module", kind_texts[import->item.kind],
        (int)(import->module.length < 60 ? import->module.length : 60), import->module.data,
        (int)(import->name.length < 60 ? import->name.length : 60), import->name.data, why);
}

static const struct wasm_export *find_export(const struct wasm_exports *exports, struct text name)
{
    for (size_t i = 0; i < exports->count; i++) {
        const struct wasm_export *export = &exports->items[i];
        if (export->name_length == name.length &&
            memcmp(export->name, name.data, name.length) == 0) {
            return export;
        }
    }
    return NULL;
}

/* Of what can grow the size counts that it has when it is imported. */
static bool is_compatible(const struct wasm_export *given, const struct wasm_export *wanted)
{
    return given->kind == wanted->kind && strcmp(given->parameters, wanted->parameters) == 0 &&
        strcmp(given->results, wanted->results) == 0 && given->is_mutable == wanted->is_mutable &&
        wanted->least <= given->most && given->most <= wanted->most;
}

/* Of the modules before the one that asks; the last of that name. */
static int find_module(const struct wasm_linked *modules, size_t count, struct text name)
{
    for (size_t i = count; i-- > 0;) {
        if (text_equal(name, modules[i].name)) {
            return (int)i;
        }
    }
    return -1;
}

static int resolve_import(const struct wasm_linked *modules, size_t number,
                          const struct wasm_import *import, const struct link *link,
                          struct link_place *ret_place, struct error *err)
{
    const struct wasm_linked *module = &modules[number];
    int from = find_module(modules, number, import->module);
    *ret_place = (struct link_place){.unit = from};
    if (from < 0 && text_equal(import->module, "spectest")) {
        return 0; /* it was inspected */
    }
    if (from < 0) {
        return refuse_import(module, import, "and no module before it has that name", err);
    }
    const struct wasm_export *export = find_export(&link->units[from].exports, import->name);
    if (export == NULL) {
        return refuse_import(module, import, "which that one does not export", err);
    }
    ret_place->place = export->place;
    ret_place->least = import->item.least > export->least ? import->item.least : 0;
    ret_place->is_table = import->item.kind == WASM_EXPORT_TABLE;
    return is_compatible(export, &import->item)
        ? 0
        : refuse_import(module, import, "which that one exports with another type", err);
}

static int read_unit(const struct wasm_linked *modules, size_t number, struct link *link,
                     struct error *err)
{
    const struct wasm_linked *module = &modules[number];
    struct link_unit *unit = &link->units[number];
    IMPORTS_OWNED struct wasm_imports imports = {0};
    struct wasm_module_info ignored;
    int r = inspect_form(module->bytes, module->length, WASM_FORM_LINKED, &ignored, err);
    if (r == 0) {
        r = imports_read(module->bytes, module->length, &imports, &unit->exports, err);
    }
    unit->imports = memory_new(imports.count + 1, sizeof(struct link_place));
    unit->import_count = imports.count;
    for (size_t i = 0; i < imports.count && r == 0; i++) {
        r = resolve_import(modules, number, &imports.items[i], link, &unit->imports[i], err);
    }
    return r;
}

int link_read(const struct wasm_linked *modules, size_t count, struct link *link, struct error *err)
{
    CHECK(link->count == 0);

    if (count > WASM_LINKED_MAX) {
        return error_set(err, ERROR_LIMIT, "more than %d modules together", WASM_LINKED_MAX);
    }
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        link->count = i + 1;
        snprintf(link->units[i].name, sizeof(link->units[i].name), "m%zu", i);
        r = read_unit(modules, i, link, err);
    }
    return r;
}

int wasm_linked_exports(const struct wasm_linked *modules, size_t count,
                        struct wasm_exports *ret_exports, struct error *err)
{
    struct link link = {0};
    int r = link_read(modules, count, &link, err);
    for (size_t i = 0; i < count && r == 0; i++) {
        ret_exports[i] = link.units[i].exports;
        link.units[i].exports = (struct wasm_exports){0};
    }
    link_done(&link);
    return r;
}
