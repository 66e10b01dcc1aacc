/*
 * wasm -> native image: validate, optimise (wasm-opt), translate (wasm2c), compile, link.
 *
 * The module is an attacker's.  Every tool runs in engine/jail with rlimits, a timeout and an empty
 * network; its output is data for the VM, never code for us.  Results are kept in a cache by
 * content: (module, tier) -> ELF blob in the image store, made again by another toolchain.
 * Assets (assets.h) are no part of that key: code is compiled once, whatever files go with it.
 *
 * Blocking calls, for worker threads; a struct wasm may be used from several.
 */
#ifndef ENGINE_WASM_WASM_H
#define ENGINE_WASM_WASM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"

struct error;
struct image_store;
struct wasm;

enum wasm_tier {
    WASM_TIER_FAST,      /* -O0: soon, slow code */
    WASM_TIER_OPTIMIZED, /* -O2 */
    WASM_TIER_COUNT,
};

/* What an image is for. */
enum wasm_form {
    WASM_FORM_FUNCTION, /* its entry is called: a command or a handler */
    WASM_FORM_EXPORTS,  /* whatever it exports is called, by name (exports.h) */
    WASM_FORM_LINKED,   /* the same of several modules, which import from one another */
};

const char *wasm_tier_text(enum wasm_tier tier); /* "fast", "optimized" */

enum wasm_abi {
    WASM_ABI_COMMAND, /* exports _start */
    WASM_ABI_HANDLER, /* exports handle */
    WASM_ABI_EXPORTS, /* may export anything: of WASM_FORM_EXPORTS only */
};

const char *wasm_abi_text(enum wasm_abi abi); /* "command", "handler", "exports" */

/* What a module is, read without running anything. */
struct wasm_module_info {
    enum wasm_abi abi;
    bool has_initialize;       /* exports _initialize */
    bool has_wizer_initialize; /* exports wizer.initialize */
    bool has_empty_segment;    /* of elements: nor is it for those */
    bool has_typed_loop;       /* a loop that may take values: wasm-opt is not for it */
    bool uses_paths;           /* imports what opens, asks about or changes files by path */
    uint64_t size_bytes;
    uint64_t assets_bytes; /* of its archive of files; 0: it has none */
    uint32_t function_count;
    uint64_t memory_bytes_initial;
    uint64_t memory_bytes_max; /* 4 GiB when it declares none */
};

/*
 * Read a module.  Fails with INVALID (not wasm, malformed: where), UNSUPPORTED (SIMD, threads,
 * exceptions, tail calls, memory64, several memories, a component, an unknown import, no _start and
 * no handle: each by name), LIMIT (sizes).
 */
int wasm_inspect(const void *bytes, size_t length, struct wasm_module_info *ret_info,
                 struct error *err);

struct wasm_options {
    const char *work_folder;    /* scratch and unpacked toolchain */
    struct image_store *images; /* where results go */
    uint64_t cpu_seconds_max;   /* per process of a tool; 0: 120 s */
    uint64_t timeout_ms;        /* per tool, on a machine that is busy, too; 0: half an hour */
    uint64_t memory_bytes_max;  /* per tool; 0: 2 GiB */
    bool shares_folder;         /* others open it at the same time */
    /* Told what is begun ("compiling"), by who compiles; NULL: that has ended.  May be NULL. */
    void (*on_tool)(const char *what);
};

int wasm_open(const struct wasm_options *options, struct wasm **ret_wasm, struct error *err);
void wasm_close(struct wasm *wasm);

/*
 * Why nothing can be compiled: UNSUPPORTED, naming what is missing and the package that brings it;
 * NULL when all is there.  What was compiled before is still found.
 */
const struct error *wasm_problem(const struct wasm *wasm);

struct wasm_result {
    char image_id[HASH_TEXT_SIZE]; /* the ELF in the image store */
    enum wasm_tier tier;
    bool from_cache;
    uint64_t elf_bytes;
    uint64_t wall_ms;
    uint64_t max_rss_kib;
};

/* Who waits for it. */
struct wasm_watch {
    const volatile bool *cancelled; /* set by another thread: it is broken off with CANCELLED */
    /* On the thread that compiles, as wasm_options.on_tool; the text is constant.  May be NULL. */
    void (*on_tool)(const char *what, void *context);
    void *context;
};

/*
 * Compile.  Fails as wasm_inspect(), or TIMEOUT / LIMIT (the compiler hit its limits), or OS.
 * `watch` may be NULL.
 */
int wasm_compile(struct wasm *wasm, const void *bytes, size_t length, enum wasm_tier tier,
                 const struct wasm_watch *watch, struct wasm_result *ret_result, struct error *err);

/* The same in another form; of WASM_FORM_EXPORTS the module's assets are left out. */
int wasm_compile_form(struct wasm *wasm, const void *bytes, size_t length, enum wasm_form form,
                      enum wasm_tier tier, struct wasm_result *ret_result, struct error *err);

/* One of several modules, which may import from those before it by their names. */
struct wasm_linked {
    const char *name;
    const void *bytes;
    size_t length;
};

enum { WASM_LINKED_MAX = 15, WASM_IMAGE_BYTES_MAX = 256 << 20 };

/* Compile modules together, of which anything may be called: WASM_FORM_LINKED.  Each can have a
 * memory of 256 MiB.  Fails as wasm_compile(), and INVALID: an import is not there. */
int wasm_compile_linked(struct wasm *wasm, const struct wasm_linked *modules, size_t count,
                        enum wasm_tier tier, struct wasm_result *ret_result, struct error *err);

/* What is left of a module before it is translated for WASM_TIER_OPTIMIZED. */
struct wasm_shrunk {
    uint64_t bare_bytes;      /* without names, debugging information and files */
    uint32_t bare_functions;  /* that it defines */
    bool is_optimized;        /* false: there is no wasm-opt, or it would not have this module */
    uint64_t optimized_bytes; /* without what nobody calls, by wasm-opt */
    uint32_t optimized_functions;
};

/* Measure that; nothing is compiled or kept.  Fails as wasm_compile(). */
int wasm_shrink(struct wasm *wasm, const void *bytes, size_t length, struct wasm_shrunk *ret_shrunk,
                struct error *err);

/*
 * What can be told of a compiled image to another node, and taken from one.  `runtime` names what
 * the code calls in its VM, `toolchain` all that decides what comes out of a module.
 */
struct wasm_image {
    char image_id[HASH_TEXT_SIZE];
    char toolchain[HASH_TEXT_SIZE];
    char runtime[HASH_TEXT_SIZE];
    uint64_t elf_bytes;
    uint64_t wall_ms;
    uint64_t max_rss_kib;
};

/* What is there of a module, as wasm_compile() would find it; false: nothing. */
bool wasm_find(struct wasm *wasm, const char *module_id, enum wasm_tier tier,
               struct wasm_image *ret_image);

/* Would the image be as good as one made here?  The same toolchain made it, or there is none here
 * and its runtime is ours. */
bool wasm_accepts(const struct wasm *wasm, const struct wasm_image *image);

/* Take an image that another node has compiled of a module, and that is in the image store by now:
 * wasm_compile() finds it.  INVALID when it is not acceptable. */
int wasm_adopt(struct wasm *wasm, const char *module_id, enum wasm_tier tier,
               const struct wasm_image *image, struct error *err);

/* Of a module with assets: what its code is called without them, by which wasm_find() knows it, and
 * other nodes do.  "" when it has none.  INVALID as wasm_inspect(). */
int wasm_code_id(const void *bytes, size_t length, char ret_id[HASH_TEXT_SIZE], struct error *err);
/* wasm_adopt() of code: whatever module has it, wasm_compile() puts the assets to it. */
int wasm_adopt_code(struct wasm *wasm, const char *code_id, enum wasm_tier tier,
                    const struct wasm_image *image, struct error *err);

/* Visit each module of which something was compiled or taken, by a program that notes it; some more
 * than once. */
void wasm_each_module(struct wasm *wasm, void (*visit)(const char *module_id, void *context),
                      void *context);

/*
 * Forget what was compiled of a module that nobody has any more: its cache entries, and its images
 * but for those `keep` (another module's code may be the same).  Nobody may be compiling it.
 */
void wasm_forget(struct wasm *wasm, const char *module_id,
                 bool (*keep)(const char *image_id, void *context), void *context);

/* What the cache holds: images that were compiled or taken. */
struct wasm_cache_status {
    uint64_t bytes;
    uint64_t images;
    uint64_t evictions; /* since wasm_open() */
};
void wasm_cache_status(struct wasm *wasm, struct wasm_cache_status *ret_status);

/*
 * Make the cache no larger than that, by what was not used for longest; never what `keep` is true
 * of, even if that is more.  What it evicts is compiled, or fetched, again when it is needed.
 * `keep` is called under a lock: not into this room.  Not of a folder that is shared.
 */
void wasm_trim(struct wasm *wasm, uint64_t bytes_max,
               bool (*keep)(const char *image_id, void *context), void *context);

/* What is installed, for doctor: walks every tool the pipeline uses. */
void wasm_tools_each(void (*visit)(const char *tool, const char *path_or_null, const char *package,
                                   bool required, void *context),
                     void *context);

#endif
