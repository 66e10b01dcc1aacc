/*
 * What a module exports, with its types: for who calls any of it (`blixard fn run --invoke`), and
 * for the glue that does.
 */
#ifndef ENGINE_WASM_EXPORTS_H
#define ENGINE_WASM_EXPORTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;

/* Of one export at most, parameters and results each. */
enum { WASM_VALUES_MAX = 1000 };

enum wasm_export_kind {
    WASM_EXPORT_FUNCTION,
    WASM_EXPORT_TABLE,
    WASM_EXPORT_MEMORY,
    WASM_EXPORT_GLOBAL,
};

/* Types as letters: i (i32), I (i64), f (f32), F (f64), r (funcref), e (externref). */
struct wasm_export {
    enum wasm_export_kind kind;
    char *name; /* any bytes of UTF-8, with a NUL behind them; NULs inside are possible */
    size_t name_length;
    uint32_t place;   /* in the module's export section */
    char *parameters; /* "" of others than functions */
    char *results;    /* of a global its type, of a table that of its elements */
    bool is_mutable;  /* of a global */
    uint32_t least;   /* of a table or memory */
    uint32_t most;    /* UINT32_MAX: it has no limit */
};

struct wasm_exports {
    struct wasm_export *items; /* in the module's order */
    size_t count;
};

/*
 * Read them of a module.  Fails as wasm_inspect(), but
 * that a module need export nothing; and what it may import is, besides, what the specification's
 * test-suite has in its module `spectest`.
 */
int wasm_exports_read(const void *bytes, size_t length, struct wasm_exports *ret_exports,
                      struct error *err);

/* Of modules that import from one another, into as many places; as wasm_compile_linked(). */
struct wasm_linked;
int wasm_linked_exports(const struct wasm_linked *modules, size_t count,
                        struct wasm_exports *ret_exports, struct error *err);
void wasm_exports_done(struct wasm_exports *exports);
#define WASM_EXPORTS_OWNED __attribute__((cleanup(wasm_exports_done)))

#endif
