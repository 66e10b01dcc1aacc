/*
 * glue.c for modules of which anything may be called: a function of C for each export, one that
 * calls them by number; behind the exports' numbers are those that instantiate a module.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"

#include "engine/vmm/abi.h"
#include "engine/wasm/private.h"

/* The member of the glue's union for a type. */
static const char *member_of(char letter)
{
    switch (letter) {
    case 'i':
        return "i";
    case 'I':
        return "l";
    case 'f':
        return "f";
    case 'F':
        return "d";
    default:
        return "e";
    }
}

/* A function can be given no function but none. */
static void append_call(struct buffer *glue, const char *unit, const struct wasm_export *export)
{
    buffer_append_format(glue, "Z_%sZ_" REWRITE_NAME "(&glue_%s", unit, export->place, unit);
    for (size_t i = 0; export->parameters[i] != '\0'; i++) {
        if (export->parameters[i] == 'r') {
            buffer_append_string(glue, ", glue_nothing");
        } else {
            buffer_append_format(glue, ", a[%zu].%s", i, member_of(export->parameters[i]));
        }
    }
    buffer_append_string(glue, ")");
}

/* Of a function the caller learns whether there is one. */
static void append_result(struct buffer *glue, size_t index, char letter, const char *value)
{
    if (letter == 'r') {
        buffer_append_format(glue, "    r[%zu].l = %s.func != 0;\n", index, value);
    } else {
        buffer_append_format(glue, "    r[%zu].%s = %s;\n", index, member_of(letter), value);
    }
}

/* Several results come as a struct, its members named by type and place. */
static void append_results(struct buffer *glue, const struct wasm_export *export)
{
    size_t count = strlen(export->results);
    char value[32] = "v";
    for (size_t i = 0; i < count; i++) {
        static const char letters[] = "iIfFre";
        static const char members[] = "ijfdre";
        if (count > 1) {
            const char *at = strchr(letters, export->results[i]);
            snprintf(value, sizeof(value), "v.%c%zu", members[at - letters], i);
        }
        append_result(glue, i, export->results[i], value);
    }
}

static bool is_callable(const struct wasm_export *export)
{
    return export->kind == WASM_EXPORT_FUNCTION || export->kind == WASM_EXPORT_GLOBAL;
}

static void append_function(struct buffer *glue, size_t number, const char *unit,
                            const struct wasm_export *export)
{
    const char *star = export->kind == WASM_EXPORT_GLOBAL ? "*" : "";
    buffer_append_format(glue, "static void x%zu(const V *a, V *r)\n{\n    ", number);
    if (export->results[0] != '\0') {
        buffer_append_format(glue, "__typeof__(%s", star);
        append_call(glue, unit, export);
        buffer_append_format(glue, ") v = %s", star);
    }
    append_call(glue, unit, export);
    buffer_append_string(glue, ";\n");
    append_results(glue, export);
    buffer_append_string(glue, "}\n");
}

/* One line per export that can be called: its call, or how many results it has. */
static void append_cases(struct buffer *glue, const struct glue_unit *units, size_t count,
                         bool is_results)
{
    size_t number = 0;
    for (size_t k = 0; k < count; k++) {
        for (size_t i = 0; i < units[k].exports->count; i++, number++) {
            const struct wasm_export *export = &units[k].exports->items[i];
            if (is_callable(export) && is_results) {
                buffer_append_format(glue, "    case %zu: return %zu;\n", number,
                                     strlen(export->results));
            } else if (is_callable(export)) {
                buffer_append_format(glue, "    case %zu: x%zu(a, r); break;\n", number, number);
            }
        }
    }
}

/* What was not large enough when the modules were linked is now, or this one does not fit. */
static void append_sizes(struct buffer *glue, const struct glue_unit *unit)
{
    for (size_t i = 0; i < unit->import_count; i++) {
        const struct link_place *import = &unit->imports[i];
        if (import->unit >= 0 && import->least > 0) {
            buffer_append_format(glue,
                                 "    if (Z_m%dZ_" REWRITE_NAME "(&glue_m%d)->%s < %" PRIu32
                                 "u) wasm_rt_trap((wasm_rt_trap_t)%d);\n",
                                 import->unit, import->place, import->unit,
                                 import->is_table ? "size" : "pages", import->least,
                                 (int)ABI_TRAP_UNLINKABLE);
        }
    }
}

/*
 * The other instances as it wants them: its header declares
 *
 *     void Z_m2_instantiate(Z_m2_instance_t*, struct Z_m0_instance_t*, ...);
 */
static void append_instantiation(struct buffer *glue, const struct glue_unit *unit)
{
    static const char parameter[] = "struct Z_";
    char declared[64];
    buffer_append_format(glue, "static void begin_%s(void)\n{\n", unit->name);
    snprintf(declared, sizeof(declared), "void Z_%s_instantiate(", unit->name);
    const char *at = unit->header != NULL ? strstr(unit->header, declared) : NULL;
    const char *end = at != NULL ? strchr(at, ';') : NULL;
    buffer_append_format(glue, "    Z_%s_init_module();\n", unit->name);
    if (end == NULL) {
        /* Alone: the instances of what it imports from are not used. */
        buffer_append_format(glue,
                             "    ((void (*)(void *, void *, void *, void *, void *))"
                             "(void (*)(void))Z_%s_instantiate)(&glue_%s, 0, 0, 0, 0);\n",
                             unit->name, unit->name);
        buffer_append_string(glue, "}\n");
        return;
    }
    append_sizes(glue, unit);
    buffer_append_format(glue, "    Z_%s_instantiate(&glue_%s", unit->name, unit->name);
    for (at = strstr(at, parameter); at != NULL && at < end; at = strstr(at, parameter)) {
        at += strlen(parameter);
        bool is_unit = at[0] == 'm' && at[1] >= '0' && at[1] <= '9';
        if (is_unit) {
            buffer_append_format(glue, ", &glue_%.*s", (int)strcspn(at, "_"), at);
        } else {
            buffer_append_string(glue, ", 0");
        }
    }
    buffer_append_string(glue, ");\n}\n");
}

void glue_exports(const struct glue_unit *units, size_t count, struct buffer *ret_glue)
{
    size_t number = 0;
    buffer_append_string(ret_glue,
                         "typedef union { u64 l; u32 i; f32 f; f64 d; void *e; } V;\n"
                         "static wasm_rt_funcref_t glue_nothing;\n"
                         "const unsigned glue_is_handler = 0;\n"
                         "const unsigned glue_is_exports = 1;\n"
                         "void glue_initialize(void)\n{\n}\nvoid glue_run(void)\n{\n}\n");
    buffer_append_format(ret_glue, "const unsigned glue_modules = %zu;\n", count);
    for (size_t k = 0; k < count; k++) {
        buffer_append_format(ret_glue, "static Z_%s_instance_t glue_%s;\n", units[k].name,
                             units[k].name);
    }
    for (size_t k = 0; k < count; k++) {
        for (size_t i = 0; i < units[k].exports->count; i++, number++) {
            if (is_callable(&units[k].exports->items[i])) {
                append_function(ret_glue, number, units[k].name, &units[k].exports->items[i]);
            }
        }
    }
    for (size_t k = 0; k < count; k++) {
        append_instantiation(ret_glue, &units[k]);
    }
    buffer_append_string(ret_glue,
                         "void glue_instantiate(void)\n{\n}\n"
                         "void glue_call(unsigned which, const void *a, void *r)\n{\n"
                         "    switch (which) {\n");
    append_cases(ret_glue, units, count, false);
    for (size_t k = 0; k < count; k++) {
        buffer_append_format(ret_glue, "    case %zu: begin_%s(); break;\n", number + k,
                             units[k].name);
    }
    buffer_append_string(ret_glue,
                         "    }\n}\nunsigned glue_results(unsigned which)\n{\n"
                         "    switch (which) {\n");
    append_cases(ret_glue, units, count, true);
    buffer_append_string(ret_glue, "    }\n    return 0;\n}\n");
}
