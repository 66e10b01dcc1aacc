/*
 * Files that travel inside a module: the custom section "blixard.assets", an archive
 * (engine/vmm/assets.h) that becomes a part of the native image.  The code is compiled without it,
 * so that another script does not mean another compilation.
 */
#ifndef ENGINE_WASM_ASSETS_H
#define ENGINE_WASM_ASSETS_H

#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct wasm_assets;

/* What is being packed; wasm_assets_free() ends it. */
struct wasm_assets *wasm_assets_new(void);
void wasm_assets_free(struct wasm_assets *assets);

/*
 * Add a file at a path of the guest: "/www/index.html", the leading '/' may be missing.  The
 * folders above come with it.  Fails with INVALID (no such path can be: "..", an empty or a very
 * long name, below /tmp, below a file), EXISTS, LIMIT.
 */
int wasm_assets_add(struct wasm_assets *assets, const char *path, const void *bytes, size_t length,
                    struct error *err);

size_t wasm_assets_count(const struct wasm_assets *assets); /* files */

/* Append the module with the files in it, in the place of those it had, to *ret_module.  The same
 * files give the same bytes, in whatever order they were added.  INVALID: it is no module. */
int wasm_assets_attach(const struct wasm_assets *assets, const void *module, size_t length,
                       struct buffer *ret_module, struct error *err);

/* Is it a whole archive?  INVALID says what is wrong with it. */
int wasm_assets_check(const void *bytes, size_t length, struct error *err);

#endif
