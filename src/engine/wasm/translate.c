/* Changing what wasm2c wrote, as text, where its output is regular; and glue for a function. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/memory.h"

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

/* The size of a memory has 32 bits there, one too few where it is as large as can be. */
void translate_memory_size(struct buffer *source)
{
    replace_between(source, "mem->size", "((u64)mem->pages << 16)", "#define RANGE_CHECK(",
                    "#if WASM_RT_MEMCHECK_SIGNAL_HANDLER");
}

/* With several memories every access is checked: only the first one lies before a hole. */
void translate_memory_checks(struct buffer *source)
{
    replace_between(source, "#if WASM_RT_MEMCHECK_SIGNAL_HANDLER\n#define MEMCHECK",
                    "#if 0\n#define MEMCHECK", NULL, NULL);
}

/*
 * Where an instance outlives its traps, what stood before the access that trapped has happened, and
 * nothing behind it has: the compiler knows of no access that may be the last one.
 */
void translate_order(struct buffer *source)
{
#define ORDER " wasm_asm(\"\" ::: \"memory\");"
    static const char *const accesses[] = {
        "MEMCHECK(mem, addr, t1);", "wasm_asm(\"\" ::\"r\"(result));", "&wrapped, sizeof(t1));"};
    for (size_t i = 0; i < sizeof(accesses) / sizeof(accesses[0]); i++) {
        MEMORY_OWNED char *ordered = memory_format("%s%s", accesses[i], ORDER);
        replace_between(source, accesses[i], ordered, "#define DEFINE_LOAD(",
                        "DEFINE_LOAD(i32_load,");
    }
#undef ORDER
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
