/* Which import is which export, and whether their types agree. */
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"

#include "engine/wasm/private.h"

#include "test/lib/test.h"

/*
 * (module (func (export "f") (param i32 f64) (result i64) (i64.const 1))
 *   (table (export "t") 2 9 funcref) (memory (export "m") 1 3)
 *   (global (export "g") (mut i32) (i32.const 7)))
 */
static const uint8_t gives[] = {
    0,   'a',  's', 'm',  1,   0,    0,    0,    1, 7, 1,   0x60, 2,    0x7f, 0x7c, 1, 0x7e, 3,
    2,   1,    0,   4,    5,   1,    0x70, 1,    2, 9, 5,   4,    1,    1,    1,    3, 6,    6,
    1,   0x7f, 1,   0x41, 7,   0x0b, 7,    0x11, 4, 1, 'f', 0,    0,    1,    't',  1, 0,    1,
    'm', 2,    0,   1,    'g', 3,    0,    0x0a, 6, 1, 4,   0,    0x42, 1,    0x0b};

/*
 * (module (import "a" "f" (func (param i32 f64) (result i64))) (import "a" "t" (table 2 9 funcref))
 *   (import "a" "m" (memory 1 3)) (import "a" "g" (global (mut i32))))
 */
static const uint8_t takes[] = {0,    'a',  's', 'm',  1, 0,    0, 0,   1,   7,    1,   0x60, 2,
                                0x7f, 0x7c, 1,   0x7e, 2, 0x1f, 4, 1,   'a', 1,    'f', 0,    0,
                                1,    'a',  1,   't',  1, 0x70, 1, 2,   9,   1,    'a', 1,    'm',
                                2,    1,    1,   3,    1, 'a',  1, 'g', 3,   0x7f, 1};

enum { TABLE_LEAST = 33, TABLE_MOST = 34, MEMORY_LEAST = 41, MEMORY_MOST = 42, MUTABLE = 49 };

static const struct wasm_linked pair[] = {{"a", gives, sizeof(gives)}, {"", takes, sizeof(takes)}};

TEST(wasm_link, finds_what_is_imported)
{
    struct link link = {0};
    struct error err = {0};
    EXPECT(link_read(pair, 2, &link, &err) == 0);
    EXPECT(link.count == 2 && strcmp(link.units[1].name, "m1") == 0);
    for (uint32_t i = 0; i < 4; i++) {
        EXPECT(link.units[1].imports[i].unit == 0 && link.units[1].imports[i].place == i);
    }
    BUFFER_OWNED struct buffer renamed = {0};
    struct wasm_module_info info;
    rewrite_linked(takes, sizeof(takes), link.units[1].imports, &renamed);
    EXPECT(memmem(renamed.data, renamed.used, "\x02m0\x02x3\x03\x7f\x01", 9) != NULL);
    EXPECT(inspect_form(renamed.data, renamed.used, WASM_FORM_LINKED, &info, &err) == 0);
    link_done(&link);
}

/* What is wrong with the pair when the importing module has another byte there. */
static void change(size_t at, uint8_t byte, const char *problem)
{
    struct link link = {0};
    struct error err = {0};
    uint8_t changed[sizeof(takes)];
    const struct wasm_linked modules[] = {pair[0], {"", changed, sizeof(changed)}};
    memcpy(changed, takes, sizeof(takes));
    changed[at] = byte;
    int r = link_read(modules, 2, &link, &err);
    EXPECT(problem == NULL ? r == 0 : r == -ERROR_INVALID && strstr(err.text, problem) != NULL);
    link_done(&link);
}

TEST(wasm_link, compares_types)
{
    static const char other[] = "which that one exports with another type";
    change(13, 0x7e, other); /* a parameter */
    change(16, 0x7f, other); /* the result */
    change(TABLE_LEAST, 1, NULL);
    change(TABLE_LEAST, 3, NULL); /* it may have grown */
    change(TABLE_MOST, 10, NULL);
    change(TABLE_MOST, 8, other);
    change(MEMORY_LEAST, 2, NULL);
    change(MEMORY_MOST, 2, other);
    change(MUTABLE, 0, other);
    change(29, 'm', other); /* a memory for a table */
    change(29, 'x', "which that one does not export");
    change(21, 'b', "and no module before it has that name");
}

TEST(wasm_link, takes_only_what_comes_before)
{
    struct link link = {0};
    struct error err = {0};
    const struct wasm_linked reversed[] = {{"b", takes, sizeof(takes)}, pair[0]};
    EXPECT(link_read(reversed, 2, &link, &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "b imports the function a.f, and no module before it") != NULL);
    link_done(&link);
}

TEST(wasm_link, has_a_limit)
{
    struct wasm_linked many[WASM_LINKED_MAX + 1];
    struct link link = {0};
    struct error err = {0};
    for (size_t i = 0; i <= WASM_LINKED_MAX; i++) {
        many[i] = pair[0];
    }
    EXPECT(link_read(many, WASM_LINKED_MAX + 1, &link, &err) == -ERROR_LIMIT);
    EXPECT(link_read(many, WASM_LINKED_MAX, &link, &err) == 0);
    link_done(&link);
}

TEST(wasm_link, gives_instances_as_the_header_wants_them)
{
    static const char header[] =
        "void Z_m1_init_module(void);\n"
        "void Z_m1_instantiate(Z_m1_instance_t*, struct Z_m0_instance_t*, "
        "struct Z_spectest_instance_t*);\nvoid Z_m1_free(Z_m1_instance_t*);";
    struct wasm_exports none = {0};
    const struct link_place wants = {.unit = 0, .place = 3, .least = 2};
    const struct glue_unit units[] = {
        {.name = "m0", .header = "void Z_m0_instantiate(Z_m0_instance_t*);", .exports = &none},
        {.name = "m1", .header = header, .exports = &none, .imports = &wants, .import_count = 1}};
    BUFFER_OWNED struct buffer glue = {0};
    glue_exports(units, 2, &glue);
    const char *text = buffer_string(&glue);
    EXPECT(strstr(text, "Z_m0_instantiate(&glue_m0);") != NULL);
    EXPECT(strstr(text, "Z_m1_instantiate(&glue_m1, &glue_m0, 0);") != NULL);
    EXPECT(strstr(text, "if (Z_m0Z_x3(&glue_m0)->pages < 2u) wasm_rt_trap(") != NULL);
    EXPECT(strstr(text, "glue_modules = 2;") != NULL);
}
