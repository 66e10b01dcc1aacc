/*
 * What the C that wasm2c writes expects of its runtime: traps, memories, tables, function types.
 * The interface is wabt's wasm-rt.h; one module with at most one memory, or several modules, whose
 * memories share the space (and are not told from each other by holes: accesses are checked).
 */
#include <stdarg.h>
#include <string.h>

#include "glue.h"
#include "guest.h"
/* wasm-rt.h comes by -include: it is not in a folder of ours. */

enum { PAGE_BYTES = 65536, PAGES_MAX = 65536 };

_Static_assert((int)WASM_RT_TRAP_OOB == (int)ABI_TRAP_OUT_OF_BOUNDS, "numbered alike");
_Static_assert((int)WASM_RT_TRAP_INT_OVERFLOW == (int)ABI_TRAP_INTEGER_OVERFLOW, "");
_Static_assert((int)WASM_RT_TRAP_DIV_BY_ZERO == (int)ABI_TRAP_DIVIDE_BY_ZERO, "");
_Static_assert((int)WASM_RT_TRAP_INVALID_CONVERSION == (int)ABI_TRAP_INVALID_CONVERSION, "");
_Static_assert((int)WASM_RT_TRAP_UNREACHABLE == (int)ABI_TRAP_UNREACHABLE, "");
_Static_assert((int)WASM_RT_TRAP_CALL_INDIRECT == (int)ABI_TRAP_INDIRECT_CALL, "");
_Static_assert((int)WASM_RT_TRAP_UNCAUGHT_EXCEPTION == (int)ABI_TRAP_UNCAUGHT_EXCEPTION, "");
_Static_assert((int)WASM_RT_TRAP_EXHAUSTION == (int)ABI_TRAP_EXHAUSTION, "");

void wasm_rt_trap(wasm_rt_trap_t trap)
{
    guest_trap((enum abi_trap)trap);
}

void abort(void);
void abort(void)
{
    guest_trap(ABI_TRAP_ABORT);
}

void wasm_rt_init(void)
{
}

bool wasm_rt_is_initialized(void)
{
    return true;
}

void wasm_rt_free(void)
{
}

/* ---- Memory ---- */

/* `size` has room for less than 4 GiB and is not used: see engine/wasm/translate.c. */

enum { SHARE_PAGES = 4096 }; /* of several memories: 256 MiB each */

static uint32_t memories;
static uint64_t pages_there; /* from the beginning of the space */

/* `pages` of the memory that begins at `first`; all that lie before it are there then, too. */
static bool provide(uint64_t first, uint64_t pages)
{
    bool is_alone = glue_modules == 1;
    if (pages > (is_alone ? (uint64_t)PAGES_MAX : (uint64_t)SHARE_PAGES)) {
        return false;
    }
    if (is_alone || first + pages > pages_there) {
        if (host_call(ABI_CALL_GROW, first + pages, 0, 0) != 0) {
            return false;
        }
        pages_there = first + pages;
    }
    return true;
}

static uint64_t first_page(const wasm_rt_memory_t *memory)
{
    return (uint64_t)(memory->data - MEMORY) / PAGE_BYTES;
}

void wasm_rt_allocate_memory(wasm_rt_memory_t *memory, uint32_t pages, uint32_t pages_max)
{
    memory->data = MEMORY + (uint64_t)memories * SHARE_PAGES * PAGE_BYTES;
    memory->pages = pages;
    memory->max_pages = pages_max;
    memory->size = pages * (uint32_t)PAGE_BYTES;
    memories++;
    if (!provide(first_page(memory), pages)) {
        guest_trap(ABI_TRAP_MEMORY);
    }
}

uint32_t wasm_rt_grow_memory(wasm_rt_memory_t *memory, uint32_t delta)
{
    uint32_t before = memory->pages;
    uint64_t wanted = (uint64_t)before + delta;
    if (delta == 0) {
        return before;
    }
    if (wanted > memory->max_pages || !provide(first_page(memory), wanted)) {
        return UINT32_MAX;
    }
    memory->pages = (uint32_t)wanted;
    memory->size = (uint32_t)wanted * PAGE_BYTES;
    return before;
}

void wasm_rt_free_memory(wasm_rt_memory_t *memory)
{
    (void)memory;
}

/* ---- Tables: from one pool, never given back ---- */

/* Before the other large ones: its first page is used by most modules. */
static uint8_t pool[2 << 20] __attribute__((section(".bss..tables"), aligned(64)));
static size_t pool_used;

static void *pool_take(size_t count, size_t item_bytes)
{
    size_t bytes = (count * item_bytes + 63) & ~(size_t)63;
    if (count > sizeof(pool) || bytes > sizeof(pool) - pool_used) {
        return NULL;
    }
    void *taken = pool + pool_used;
    pool_used += bytes;
    return taken;
}

/* What was taken last grows where it is. */
static void *pool_grow(void *taken, size_t count, size_t more, size_t item_bytes)
{
    size_t before = (count * item_bytes + 63) & ~(size_t)63;
    bool is_last = (uint8_t *)taken + before == pool + pool_used;
    if (is_last) {
        pool_used -= before;
    }
    void *grown = more <= sizeof(pool) ? pool_take(count + more, item_bytes) : NULL;
    if (grown == NULL && is_last) {
        pool_used += before;
    } else if (grown != NULL && grown != taken) {
        memcpy(grown, taken, count * item_bytes);
    }
    return grown;
}

#define TABLE(kind)                                                                          \
    void wasm_rt_allocate_##kind##_table(wasm_rt_##kind##_table_t *table, uint32_t elements, \
                                         uint32_t elements_max)                              \
    {                                                                                        \
        table->data = pool_take(elements, sizeof(*table->data));                             \
        if (table->data == NULL) {                                                           \
            guest_trap(ABI_TRAP_TABLE_MEMORY);                                               \
        }                                                                                    \
        table->size = elements;                                                              \
        table->max_size = elements_max;                                                      \
    }                                                                                        \
    void wasm_rt_free_##kind##_table(wasm_rt_##kind##_table_t *table)                        \
    {                                                                                        \
        (void)table;                                                                         \
    }                                                                                        \
    uint32_t wasm_rt_grow_##kind##_table(wasm_rt_##kind##_table_t *table, uint32_t delta,    \
                                         wasm_rt_##kind##_t value)                           \
    {                                                                                        \
        uint32_t before = table->size;                                                       \
        if (delta == 0) {                                                                    \
            return before;                                                                   \
        }                                                                                    \
        if (delta > table->max_size - before) {                                              \
            return UINT32_MAX;                                                               \
        }                                                                                    \
        void *data = pool_grow(table->data, before, delta, sizeof(*table->data));            \
        if (data == NULL) {                                                                  \
            return UINT32_MAX;                                                               \
        }                                                                                    \
        table->data = data;                                                                  \
        for (uint32_t i = 0; i < delta; i++) {                                               \
            table->data[before + i] = value;                                                 \
        }                                                                                    \
        table->size = before + delta;                                                        \
        return before;                                                                       \
    }

TABLE(funcref)
TABLE(externref)

/* ---- Function types: equal signatures get equal numbers, while the module is instantiated ---- */

enum { TYPES_MAX = 4096, TYPE_BYTES_MAX = 65536 };

static struct {
    uint16_t parameters;
    uint16_t results;
    uint32_t at;
} types[TYPES_MAX] LARGE;
static uint8_t type_bytes[TYPE_BYTES_MAX] LARGE;
static uint32_t type_count;
static uint32_t type_bytes_used;

uint32_t wasm_rt_register_func_type(uint32_t parameters, uint32_t results, ...)
{
    uint32_t length = parameters + results;
    if (type_count == TYPES_MAX || length > TYPE_BYTES_MAX - type_bytes_used) {
        guest_trap(ABI_TRAP_TABLE_MEMORY);
    }
    va_list arguments;
    va_start(arguments, results);
    for (uint32_t i = 0; i < length; i++) {
        type_bytes[type_bytes_used + i] = (uint8_t)va_arg(arguments, int);
    }
    va_end(arguments);
    for (uint32_t i = 0; i < type_count; i++) {
        if (types[i].parameters == parameters && types[i].results == results &&
            memcmp(type_bytes + types[i].at, type_bytes + type_bytes_used, length) == 0) {
            return i + 1;
        }
    }
    types[type_count].parameters = (uint16_t)parameters;
    types[type_count].results = (uint16_t)results;
    types[type_count].at = type_bytes_used;
    type_bytes_used += length;
    return ++type_count;
}

/* What is zero is no part of the snapshot. */
void types_forget(void)
{
    memset(types, 0, type_count * sizeof(types[0]));
    memset(type_bytes, 0, sizeof(type_bytes));
}
