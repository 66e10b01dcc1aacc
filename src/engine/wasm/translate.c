/* Changing what wasm2c wrote: as text, where its output is regular. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"

#include "engine/vmm/abi.h"
#include "engine/wasm/private.h"

/* Every `from` behind the first `begin` and before the next `end`; NULL: everywhere. */
static void replace_between(struct buffer *source, const char *from, const char *to,
                            const char *begin, const char *end)
{
    BUFFER_OWNED struct buffer out = {0};
    const char *at = buffer_string(source);
    const char *found = begin != NULL ? strstr(at, begin) : at;
    const char *last = found != NULL && end != NULL ? strstr(found, end) : NULL;
    found = found != NULL ? strstr(found, from) : NULL;
    while (found != NULL && (last == NULL || found < last)) {
        buffer_append(&out, at, (size_t)(found - at));
        buffer_append_string(&out, to);
        at = found + strlen(from);
        found = strstr(at, from);
    }
    buffer_append_string(&out, at);
    struct buffer before = *source;
    *source = out;
    out = before;
}

/*
 * Every load and store goes through `mem->data`, a pointer in memory that never changes here: the
 * base is the same for all functions (engine/vmm/abi.h).  As a constant it costs nothing.
 */
void translate_memory_base(struct buffer *source)
{
    replace_between(source, "&mem->data[", "&((u8*)0x2000000000ull)[", NULL, NULL);
}

/*
 * wasm2c knows one trap for each of: a call to nothing, to beyond the table, and to another type;
 * an access beyond memory and one beyond a table.  The specification tells them apart.
 */
void translate_traps(struct buffer *source)
{
    static const struct {
        const char *from;
        const char *to;
        const char *begin; /* where in the source it holds */
        const char *end;
    } changes[] = {
        {"       TRAP(CALL_INDIRECT),                             \\\n",
         "       (wasm_rt_trap((x) >= table.size ? 13 : table.data[x].func ? 6 : 14), 0), \\\n",
         "#define CALL_INDIRECT(", "#define RANGE_CHECK("},
        {"TRAP(OOB)", "(wasm_rt_trap(12), 0)", "static inline void funcref_table_init(",
         "static bool s_module_initialized"},
    };
    _Static_assert(ABI_TRAP_INDIRECT_CALL == 6 && ABI_TRAP_TABLE_BOUNDS == 12 &&
                       ABI_TRAP_UNDEFINED_ELEMENT == 13 && ABI_TRAP_UNINITIALIZED_ELEMENT == 14,
                   "as they stand above");
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        replace_between(source, changes[i].from, changes[i].to, changes[i].begin, changes[i].end);
    }
}

/* One parameter per imported module; the instances of imports are not used. */
static const char instantiate[] =
    "void glue_instantiate(void)\n{\n"
    "    Z_fn_init_module();\n"
    "    ((void (*)(void *, void *, void *, void *, void *))(void (*)(void))Z_fn_instantiate)"
    "(&glue_instance, 0, 0, 0, 0);\n}\n";

/* The interface is src/guest/function/glue.h; wasm2c mangles the names it calls by. */
void translate_glue(const struct wasm_module_info *info, struct buffer *ret_glue)
{
    bool is_handler = info->abi == WASM_ABI_HANDLER;
    buffer_append_string(ret_glue,
                         "static Z_fn_instance_t glue_instance;\n"
                         "const unsigned glue_is_handler = ");
    buffer_append_string(ret_glue, is_handler ? "1;\n" : "0;\n");
    buffer_append_string(ret_glue, instantiate);
    buffer_append_string(ret_glue, "void glue_initialize(void)\n{\n");
    if (info->has_initialize) {
        buffer_append_string(ret_glue, "    Z_fnZ__initialize(&glue_instance);\n");
    }
    if (info->has_wizer_initialize) {
        buffer_append_string(ret_glue, "    Z_fnZ_wizerZ2Einitialize(&glue_instance);\n");
    }
    buffer_append_string(ret_glue, "}\nvoid glue_run(void)\n{\n    Z_fnZ_");
    buffer_append_string(ret_glue, is_handler ? "handle" : "_start");
    buffer_append_string(ret_glue, "(&glue_instance);\n}\n");
}

/* ---- Everything that a module exports ---- */

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

/* What wasm2c calls it in C, after rewrite_names(). */
static void append_name(struct buffer *glue, const struct wasm_export *export)
{
    buffer_append_format(glue, "Z_fnZ_" REWRITE_NAME, export->place);
}

/* A function can be given no function but none. */
static void append_call(struct buffer *glue, const struct wasm_export *export)
{
    append_name(glue, export);
    buffer_append_string(glue, "(&glue_instance");
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

static void append_function(struct buffer *glue, size_t index, const struct wasm_export *export)
{
    buffer_append_format(glue, "static void x%zu(const V *a, V *r)\n{\n    ", index);
    if (export->kind == WASM_EXPORT_GLOBAL) {
        buffer_append_string(glue, "__typeof__(*");
        append_name(glue, export);
        buffer_append_string(glue, "(&glue_instance)) v = *");
    } else if (export->results[0] != '\0') {
        buffer_append_string(glue, "__typeof__(");
        append_call(glue, export);
        buffer_append_string(glue, ") v = ");
    }
    append_call(glue, export);
    buffer_append_string(glue, ";\n");
    append_results(glue, export);
    buffer_append_string(glue, "}\n");
}

void translate_glue_exports(const struct wasm_exports *exports, struct buffer *ret_glue)
{
    buffer_append_string(ret_glue,
                         "typedef union { u64 l; u32 i; f32 f; f64 d; void *e; } V;\n"
                         "static Z_fn_instance_t glue_instance;\n"
                         "static wasm_rt_funcref_t glue_nothing;\n"
                         "const unsigned glue_is_handler = 0;\n"
                         "const unsigned glue_is_exports = 1;\n"
                         "void glue_initialize(void)\n{\n}\nvoid glue_run(void)\n{\n}\n");
    buffer_append_string(ret_glue, instantiate);
    for (size_t i = 0; i < exports->count; i++) {
        append_function(ret_glue, i, &exports->items[i]);
    }
    buffer_append_string(ret_glue,
                         "void glue_call(unsigned which, const void *a, void *r)\n{\n"
                         "    switch (which) {\n");
    for (size_t i = 0; i < exports->count; i++) {
        buffer_append_format(ret_glue, "    case %zu: x%zu(a, r); break;\n", i, i);
    }
    buffer_append_string(ret_glue,
                         "    }\n}\n"
                         "unsigned glue_results(unsigned which)\n{\n"
                         "    switch (which) {\n");
    for (size_t i = 0; i < exports->count; i++) {
        buffer_append_format(ret_glue, "    case %zu: return %zu;\n", i,
                             strlen(exports->items[i].results));
    }
    buffer_append_string(ret_glue, "    }\n    return 0;\n}\n");
}
