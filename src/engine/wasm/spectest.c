/*
 * The module `spectest`, which the specification's test-suite imports from; guest/function has it
 * (spectest.c).  Only for WASM_FORM_EXPORTS.
 */
#include <string.h>

#include "base/error.h"
#include "base/text.h"

#include "engine/wasm/private.h"
#include "engine/wasm/reader.h"

enum { FUNCREF = 0x70 };

const char *spectest_function(struct text name)
{
    static const struct {
        const char *name;
        const char *signature;
    } functions[] = {
        {"print", ">"},           {"print_i32", "i>"}, {"print_i64", "I>"},
        {"print_f32", "f>"},      {"print_f64", "F>"}, {"print_i32_f32", "if>"},
        {"print_f64_f64", "FF>"},
    };
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        if (text_equal(name, functions[i].name)) {
            return functions[i].signature;
        }
    }
    return NULL;
}

static int incompatible(struct text name, struct error *err)
{
    return error_set(err, ERROR_INVALID,
                     "the module imports spectest.%.*s with another type than it has",
                     (int)name.length, name.data);
}

/* Has spectest anything of this name and kind: 1 table, 2 memory, 3 global? */
bool spectest_has(struct text name, uint8_t kind)
{
    static const char *const globals[] = {"global_i32", "global_i64", "global_f32", "global_f64"};
    if (kind == 1) {
        return text_equal(name, "table");
    }
    if (kind == 2) {
        return text_equal(name, "memory");
    }
    for (size_t i = 0; i < sizeof(globals) / sizeof(globals[0]) && kind == 3; i++) {
        if (text_equal(name, globals[i])) {
            return true;
        }
    }
    return false;
}

static int check_limits(struct text name, uint32_t least, uint32_t most, uint32_t wanted_least,
                        uint32_t wanted_most, struct error *err)
{
    return wanted_least > least || wanted_most < most ? incompatible(name, err) : 0;
}

int spectest_check_table(struct text name, uint8_t type, uint32_t least, uint32_t most,
                         struct error *err)
{
    return type != FUNCREF ? incompatible(name, err) : check_limits(name, 10, 20, least, most, err);
}

int spectest_check_memory(struct text name, uint32_t least, uint32_t most, struct error *err)
{
    return check_limits(name, 1, 2, least, most, err);
}

int spectest_check_global(struct text name, uint8_t type, uint8_t is_mutable, struct error *err)
{
    static const struct {
        const char *name;
        uint8_t type;
    } globals[] = {
        {"global_i32", 0x7f}, {"global_i64", 0x7e}, {"global_f32", 0x7d}, {"global_f64", 0x7c}};
    for (size_t i = 0; i < sizeof(globals) / sizeof(globals[0]); i++) {
        if (text_equal(name, globals[i].name) && type == globals[i].type && is_mutable == 0) {
            return 0;
        }
    }
    return incompatible(name, err);
}
