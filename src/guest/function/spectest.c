/*
 * The module `spectest`, as the specification's test-suite has it.  What is printed goes to
 * standard error; floats as their bits.
 */
#include "guest.h"
/* wasm-rt.h comes by -include: it is not in a folder of ours. */

static uint32_t global_i32 = 666;
static uint64_t global_i64 = 666;
static float global_f32 = 666.6f;
static double global_f64 = 666.6;
static wasm_rt_memory_t memory;
static wasm_rt_funcref_table_t table;

static void print(const char *text)
{
    size_t length = 0;
    while (text[length] != '\0') {
        length++;
    }
    io_write_log((const uint8_t *)text, length);
}

static void print_number(const char *type, uint64_t number, uint32_t base)
{
    char digits[24];
    size_t at = sizeof(digits) - 1;
    digits[at] = '\0';
    do {
        digits[--at] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number > 0);
    print(type);
    print(digits + at);
    print("\n");
}

static void print_bits(const char *type, const void *value, size_t bytes)
{
    uint64_t bits = 0;
    __builtin_memcpy(&bits, value, bytes);
    print_number(type, bits, 16);
}

#define NAMED(name) Z_spectestZ_##name

void NAMED(print)(void *i);
void NAMED(print)(void *i)
{
    (void)i;
    print("print\n");
}

void NAMED(print_i32)(void *i, uint32_t a);
void NAMED(print_i32)(void *i, uint32_t a)
{
    (void)i;
    print_number("i32:", a, 10);
}

void NAMED(print_i64)(void *i, uint64_t a);
void NAMED(print_i64)(void *i, uint64_t a)
{
    (void)i;
    print_number("i64:", a, 10);
}

void NAMED(print_f32)(void *i, float a);
void NAMED(print_f32)(void *i, float a)
{
    (void)i;
    print_bits("f32:bits:0x", &a, sizeof(a));
}

void NAMED(print_f64)(void *i, double a);
void NAMED(print_f64)(void *i, double a)
{
    (void)i;
    print_bits("f64:bits:0x", &a, sizeof(a));
}

void NAMED(print_i32_f32)(void *i, uint32_t a, float b);
void NAMED(print_i32_f32)(void *i, uint32_t a, float b)
{
    NAMED(print_i32)(i, a);
    NAMED(print_f32)(i, b);
}

void NAMED(print_f64_f64)(void *i, double a, double b);
void NAMED(print_f64_f64)(void *i, double a, double b)
{
    NAMED(print_f64)(i, a);
    NAMED(print_f64)(i, b);
}

#define GLOBAL(type, name)      \
    type *NAMED(name)(void *i); \
    type *NAMED(name)(void *i)  \
    {                           \
        (void)i;                \
        return &name;           \
    }

GLOBAL(uint32_t, global_i32)
GLOBAL(uint64_t, global_i64)
GLOBAL(float, global_f32)
GLOBAL(double, global_f64)

wasm_rt_memory_t *NAMED(memory)(void *i);
wasm_rt_memory_t *NAMED(memory)(void *i)
{
    (void)i;
    if (memory.max_pages == 0) {
        wasm_rt_allocate_memory(&memory, 1, 2);
    }
    return &memory;
}

wasm_rt_funcref_table_t *NAMED(table)(void *i);
wasm_rt_funcref_table_t *NAMED(table)(void *i)
{
    (void)i;
    if (table.max_size == 0) {
        wasm_rt_allocate_funcref_table(&table, 10, 20);
    }
    return &table;
}
