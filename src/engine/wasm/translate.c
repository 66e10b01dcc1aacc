/* Changing what wasm2c wrote: as text, where its output is regular. */
#include <string.h>

#include "base/buffer.h"

#include "engine/wasm/private.h"

/*
 * Every load and store goes through `mem->data`, a pointer in memory that never changes here: the
 * base is the same for all functions (engine/vmm/abi.h).  As a constant it costs nothing.
 */
void translate_memory_base(struct buffer *source)
{
    static const char from[] = "&mem->data[";
    static const char to[] = "&((u8*)0x2000000000ull)[";
    BUFFER_OWNED struct buffer out = {0};
    const char *at = buffer_string(source);
    for (const char *found = strstr(at, from); found != NULL; found = strstr(at, from)) {
        buffer_append(&out, at, (size_t)(found - at));
        buffer_append(&out, to, sizeof(to) - 1);
        at = found + sizeof(from) - 1;
    }
    buffer_append_string(&out, at);
    struct buffer before = *source;
    *source = out;
    out = before;
}

/* The interface is src/guest/function/glue.h; exported names are mangled by wasm2c. */
void translate_glue(const struct wasm_module_info *info, struct buffer *ret_glue)
{
    bool is_handler = info->abi == WASM_ABI_HANDLER;
    buffer_append_string(ret_glue,
                         "static Z_fn_instance_t glue_instance;\n"
                         "const unsigned glue_is_handler = ");
    buffer_append_string(ret_glue, is_handler ? "1;\n" : "0;\n");
    /* One parameter per imported module; the instances of imports are not used. */
    buffer_append_string(
        ret_glue,
        "void glue_instantiate(void)\n{\n"
        "    Z_fn_init_module();\n"
        "    ((void (*)(void *, void *, void *, void *, void *))(void (*)(void))Z_fn_instantiate)"
        "(&glue_instance, 0, 0, 0, 0);\n}\n"
        "void glue_initialize(void)\n{\n");
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
