/* What the files of this room share. */
#ifndef ENGINE_WASM_PRIVATE_H
#define ENGINE_WASM_PRIVATE_H

#include <inttypes.h>
#include <pthread.h>

#include "base/embed.h"
#include "base/error.h"
#include "base/map.h"
#include "base/text.h"

#include "engine/wasm/exports.h"
#include "engine/wasm/wasm.h"

struct buffer;

/* The programs of the pipeline, found once. */
enum tool {
    TOOL_VALIDATE,
    TOOL_OPTIMIZE,
    TOOL_TRANSLATE,
    TOOL_GCC,
    TOOL_LINK,
    TOOL_COUNT,
};

struct toolchain {
    char *path[TOOL_COUNT];           /* NULL: not installed */
    char *builtin_headers;            /* gcc's own: stddef.h and the like */
    char *folder;                     /* the guest runtime, link script and headers, unpacked */
    char fingerprint[HASH_TEXT_SIZE]; /* of all that decides what comes out */
};

/* The digest of this room's sources: tools/digest. */
extern const char wasm_sources[];

/* The digest of what images are linked with, by which nodes know each other's. */
void toolchain_runtime(char ret_digest[HASH_TEXT_SIZE]);

/* Fails with UNSUPPORTED (what is missing), or as the files it unpacks. */
int toolchain_open(const char *work_folder, struct toolchain *ret_toolchain, struct error *err);
void toolchain_done(struct toolchain *toolchain);

struct wasm {
    struct toolchain toolchain;
    char runtime[HASH_TEXT_SIZE]; /* of the guest files: what images call */
    struct error problem;         /* of kind NONE: there is a toolchain */
    char *work_folder;
    char *cache_folder;
    struct image_store *images;
    uint64_t cpu_seconds_max;
    uint64_t timeout_ms;
    uint64_t memory_bytes_max;
    void (*on_tool)(const char *what);
    pthread_mutex_t lock; /* guards `building`, `held` and `evictions` */
    pthread_cond_t built;
    struct map building; /* cache keys somebody is at work on */
    struct map held;     /* recency.c: key -> what the cache has of it */
    uint64_t evictions;
};

/* As wasm_inspect(), for a form. */
int inspect_form(const void *bytes, size_t length, enum wasm_form form,
                 struct wasm_module_info *ret_info, struct error *err);

/* spectest.c: the signature of a function of it, or NULL; and its other items.  Each check fails
 * with INVALID when it is imported with another type. */
const char *spectest_function(struct text name);
bool spectest_has(struct text name, uint8_t kind);
int spectest_check_table(struct text name, uint8_t type, uint32_t least, uint32_t most,
                         struct error *err);
int spectest_check_memory(struct text name, uint32_t least, uint32_t most, struct error *err);
int spectest_check_global(struct text name, uint8_t type, uint8_t is_mutable, struct error *err);

/* ---- Imports ---- */

struct wasm_import {
    struct text module; /* lent, of the module's bytes */
    struct text name;
    struct wasm_export item; /* its type; it has no name */
};

struct wasm_imports {
    struct wasm_import *items; /* in the module's order */
    size_t count;
};

/* Both of a module that was inspected.  INVALID, LIMIT (a function's parameters). */
int imports_read(const void *bytes, size_t length, struct wasm_imports *ret_imports,
                 struct wasm_exports *ret_exports, struct error *err);
void imports_done(struct wasm_imports *imports);
#define IMPORTS_OWNED __attribute__((cleanup(imports_done)))

/* ---- Linking ---- */

/* What an import is: an export of an earlier unit, by its place, or the runtime's (unit < 0). */
struct link_place {
    int unit;
    uint32_t place;
    uint32_t least; /* of a memory or table that is smaller than the import wants, and may have
                       grown when the module is instantiated: how large it has to be then */
    bool is_table;
};

struct link_unit {
    char name[8]; /* wasm2c's for it: "m0" */
    struct wasm_exports exports;
    struct link_place *imports; /* of each import, in the module's order */
    size_t import_count;
};

struct link {
    struct link_unit units[WASM_LINKED_MAX];
    size_t count;
};

/* Read the modules and find their imports; link_done() also after a failure.  As wasm_inspect(),
 * and INVALID: nobody gives what is imported, or with another type. */
int link_read(const struct wasm_linked *modules, size_t count, struct link *link,
              struct error *err);
void link_done(struct link *link);

/* One compilation. */
struct job {
    const struct wasm *wasm;
    const struct wasm_module_info *info;
    const void *bytes; /* the module */
    size_t length;
    enum wasm_tier tier;
    enum wasm_form form;
    const struct wasm_linked *modules; /* of WASM_FORM_LINKED; else NULL */
    const struct link *link;
    const struct wasm_watch *watch; /* may be NULL */
    char *folder;
    uint64_t max_rss_kib;
};

/* Make the job's folder; job_end() removes it, also after a failure. */
int job_begin(struct job *job, struct error *err);
void job_end(struct job *job);

/* Path of a file in the job's folder; the caller frees it. */
char *job_path(const struct job *job, const char *name);

/* Run one tool; `what` is for people ("translating the module").  Fails with INVALID and the tool's
 * words when it refuses its input, TIMEOUT, LIMIT, FULL, CANCELLED. */
int job_run(struct job *job, const char *what, const char *const *argv, struct error *err);

/* The module as the optimised tier translates it: its path, which the caller frees; NULL when the
 * optimiser is not there or fails. */
int pipeline_optimise(struct job *job, char **ret_path, struct error *err);

/* The specification's term for what the validator says; NULL: it has said it, or there is none. */
const char *terms_find(const char *words);

/* The module, or modules, to image.elf, in the job's folder. */
int pipeline_run(struct job *job, struct error *err);

/* ---- What the tools are given ---- */

/* Append the module, which was inspected, without its custom sections. */
void rewrite_bare(const void *module, size_t length, struct buffer *ret_module);

/*
 * Append that with other names of its exports, by their place in the export section; of a function
 * those that the glue calls (`_start`, `handle`, `_initialize`, `wizer.initialize`) stay.
 */
#define REWRITE_NAME "x%" PRIu32
void rewrite_names(const void *module, size_t length, enum wasm_form form,
                   struct buffer *ret_module);

struct link_place;

/* Append that of a module that is linked: its imports get the names of what they are, too. */
void rewrite_linked(const void *module, size_t length, const struct link_place *imports,
                    struct buffer *ret_module);

/* An unsigned number as LEB128. */
void rewrite_append_leb(struct buffer *out, uint64_t value);

/* The C that wasm2c wrote, with the memory's base as a constant. */
void translate_memory_base(struct buffer *source);

/* The same, with the specification's traps where wasm2c has fewer. */
void translate_traps(struct buffer *source);

/* Accesses to memory in the order they were written in: where somebody sees what a trap left. */
void translate_order(struct buffer *source);

/* glue.c for a module. */
void translate_glue(const struct wasm_module_info *info, struct buffer *ret_glue);

/* Sizes of memories by their pages: 4 GiB is one more than 32 bits hold. */
void translate_memory_size(struct buffer *source);

/* Each access to memory checked by itself: where there are several memories. */
void translate_memory_checks(struct buffer *source);

/* A module of which anything may be called: wasm2c's name for it; what it declares, where it has
 * other units' instances, else NULL. */
struct glue_unit {
    const char *name;
    const char *header;
    const struct wasm_exports *exports;
    const struct link_place *imports;
    size_t import_count;
};

/* glue.c for such modules, which are instantiated in this order.  Their exports are numbered
 * through. */
void glue_exports(const struct glue_unit *units, size_t count, struct buffer *ret_glue);

/* ---- Assets ---- */

#define ASSETS_SECTION "blixard.assets"

/* A custom section of a module; of length 0: there is none. */
struct section_view {
    size_t at; /* of all of it, in the module */
    size_t length;
    const uint8_t *content; /* lent, of the module */
    size_t content_length;
};

/* The module's assets, unchecked.  INVALID: no module, or two of them. */
int assets_find(const void *module, size_t length, struct section_view *ret_view,
                struct error *err);

/* Append the module without that section to *ret_code. */
void assets_remove(const void *module, size_t length, const struct section_view *view,
                   struct buffer *ret_code);

/* Append the image with the archive in it to *ret_elf.  LIMIT: too large; INVALID: no such image.
 */
int assets_link(const struct buffer *elf, const void *archive, size_t length,
                struct buffer *ret_elf, struct error *err);

/* Results by key: what was made, and whether it is still there and whole. */
void cache_key(const char *module_id, enum wasm_tier tier, char ret_key[HASH_TEXT_SIZE]);
bool cache_get(struct wasm *wasm, const char *key, struct wasm_image *ret_image);
/* What the entry says, of whatever toolchain; the image was not looked at. */
bool cache_look(const struct wasm *wasm, const char *key, struct wasm_image *ret_image);

/* recency.c: entries by when they were used last.  Any thread, but for open and close. */
void recency_open(struct wasm *wasm); /* reads the entries that are there */
void recency_close(struct wasm *wasm);
void recency_used(struct wasm *wasm, const char *key, const char *image, uint64_t bytes);
void recency_gone(struct wasm *wasm, const char *key);

/* Who has the entry, each "" when there is none: the module, and what it is without its assets. */
struct cache_names {
    char module[HASH_TEXT_SIZE];
    char code[HASH_TEXT_SIZE];
};

int cache_put(struct wasm *wasm, const char *key, const struct cache_names *names,
              const struct wasm_image *image, struct error *err);
void cache_names(const struct wasm *wasm, const char *key, struct cache_names *ret_names);
bool cache_code_is_used(const struct wasm *wasm, const char *code_id);

/* Remove the entry; true and its image when there was one. */
bool cache_take(struct wasm *wasm, const char *key, char ret_image[HASH_TEXT_SIZE]);

EMBED_LIST(guest_files);

#endif
