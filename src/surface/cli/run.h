/* What runs modules here, without a node: the compilers, with a cache of the user's, and a VM. */
#ifndef SURFACE_CLI_RUN_H
#define SURFACE_CLI_RUN_H

#include <stdbool.h>
#include <stdint.h>

struct buffer;
struct error;
struct image_store;
struct vmm;
struct wasm;

enum { RUN_MODULE_MAX = 64 << 20 };

/* What a module may have when nothing is said: all that it can address, but for a page. */
#define RUN_MEMORY_BYTES (UINT64_C(4) << 30)

/* Both are the caller's, also after a failure (NULL: not opened).  INVALID: there is no place. */
int run_open_pipeline(struct image_store **ret_images, struct wasm **ret_wasm, struct error *err);

/* For one shell.  "microvm", "process", or NULL: the better of those that work.  `begins_late` as
 * in struct vmm_options. */
int run_open_vmm(const char *isolation_or_null, bool begins_late, struct vmm **ret_vmm,
                 struct error *err);

/* Append "NAME=VALUE" of --env, with its NUL.  INVALID. */
int run_add_variable(struct buffer *environment, const char *pair, struct error *err);

#endif
