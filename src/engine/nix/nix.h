/*
 * The Nix store of this node: its paths, what they refer to, what keeps them, builds of flakes.
 *
 * Paths and what is known of them are read from Nix's own database (SQLite, read only); all that
 * changes a store is done by Nix's programs, which are children without a shell.  They inherit this
 * process's environment, and this room heeds the same variables: NIX_STORE_DIR, NIX_STATE_DIR (and,
 * through the programs, NIX_CONF_DIR, NIX_REMOTE and the like): so a store of one's own is one in
 * tests.
 *
 * All of it blocks, but nix_path_*(): any thread but a loop's (see nix_task_new() for that).
 * What Nix is asked to fetch or build can take hours: `cancel` (may be NULL) ends it soon.
 */
#ifndef ENGINE_NIX_NIX_H
#define ENGINE_NIX_NIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;
struct loop;

enum {
    NIX_HASH_CHARS = 32,     /* of a store path: what its base name begins with */
    NIX_NAME_MAX = 211,      /* what follows the '-' */
    NIX_FOLDER_MAX = 256,    /* a store's folder, with its NUL */
    NIX_CLOSURE_MAX = 65536, /* paths; LIMIT beyond */
    NIX_TEXT_SIZE = NIX_FOLDER_MAX + NIX_HASH_CHARS + NIX_NAME_MAX + 3,
};

/* ---- Which store ---- */

struct nix_store {
    char folder[NIX_FOLDER_MAX]; /* "/nix/store" */
    char state[NIX_FOLDER_MAX];  /* "/nix/var/nix" */
    char version[32];            /* "2.8.0" */
};

/* UNSUPPORTED: Nix is not on this node (the text says what to install). */
int nix_open(struct nix_store *ret_store, struct error *err);

/* ---- Store paths (pure) ---- */

struct nix_path {
    char hash[NIX_HASH_CHARS + 1];
    char name[NIX_NAME_MAX + 1];
};

/*
 * "FOLDER/HASH-NAME", or "HASH-NAME" alone.  What is below a path, or anything else, is INVALID;
 * `folder` NULL: only the short form is taken.
 */
int nix_path_parse(const char *text, const char *folder, struct nix_path *ret_path,
                   struct error *err);
/* As "FOLDER/HASH-NAME". */
void nix_path_text(const struct nix_path *path, const char *folder, char ret_text[NIX_TEXT_SIZE]);
int nix_path_compare(const struct nix_path *a, const struct nix_path *b);
/* Are these the 32 characters of a path's hash? */
bool nix_hash_is_good(const char *text, size_t length);

struct nix_paths {
    struct nix_path *items;
    size_t count;
};
/* A zeroed struct has none; add copies. */
void nix_paths_add(struct nix_paths *paths, const struct nix_path *path);
void nix_paths_sort(struct nix_paths *paths);
void nix_paths_done(struct nix_paths *paths);
#define NIX_PATHS_OWNED __attribute__((cleanup(nix_paths_done)))

/* ---- What is in the store ---- */

enum { NIX_NAR_HASH_BYTES = 32 };

struct nix_info {
    struct nix_path path;
    uint8_t nar_hash[NIX_NAR_HASH_BYTES]; /* SHA-256 of it as an archive (NAR) */
    uint64_t nar_size_bytes;
    uint64_t registered_s;       /* since 1970 */
    struct nix_paths references; /* sorted; may have itself */
    char *deriver;               /* base name, or "" */
    char *signatures;            /* with blanks between them, or "" */
    char *content_address;       /* or "" */
};
void nix_info_done(struct nix_info *info);
#define NIX_INFO_OWNED __attribute__((cleanup(nix_info_done)))

/* Of the valid path that has this hash; *ret_info is empty or was ended.  NOT_FOUND; CORRUPT: the
 * database says what cannot be; UNAVAILABLE: it cannot be read. */
int nix_info_of(const struct nix_store *store, const char *hash, struct nix_info *ret_info,
                struct error *err);

/* Is it valid, that is, there with all that it refers to?  By its whole name. */
int nix_is_valid(const struct nix_store *store, const struct nix_path *path, bool *ret_valid,
                 struct error *err);

/* A path and all that it refers to, sorted; *ret_bytes (may be NULL): their NARs together.
 * NOT_FOUND, LIMIT, and as nix_info_of(). */
int nix_closure(const struct nix_store *store, const struct nix_path *path,
                struct nix_paths *ret_paths, uint64_t *ret_bytes, struct error *err);

/* One of a list: without references. */
struct nix_entry {
    struct nix_path path;
    uint64_t nar_size_bytes;
    uint64_t registered_s;
};
/* Visit valid paths in the order of their hashes, behind `after` (NULL: from the first); stops when
 * visit returns false. */
int nix_each(const struct nix_store *store, const char *after,
             bool (*visit)(const struct nix_entry *entry, void *context), void *context,
             struct error *err);

/* ---- What keeps paths: roots of the garbage collector ---- */

/*
 * Make `link` a symbolic link to a valid path, and a root (an indirect one: Nix knows the link and
 * forgets it when it is gone).  One that is there is replaced.  `link` is absolute; its folder is
 * made.  NOT_FOUND: the path is not valid.
 */
int nix_root_add(const struct nix_store *store, const char *link, const struct nix_path *path,
                 struct error *err);
/* One that is not there is success. */
int nix_root_remove(const char *link, struct error *err);
/* Where a root points.  NOT_FOUND; INVALID: to no path of this store. */
int nix_root_read(const struct nix_store *store, const char *link, struct nix_path *ret_path,
                  struct error *err);

/* ---- Builds and other work of Nix's programs ---- */

struct nix_build {
    const char *installable;    /* ".#name", "/path#attribute", "/nix/store/...": not "-..." */
    const char *folder;         /* where relative flakes are; NULL: here */
    const char *const *options; /* further ones of `nix build`, NULL at the end; NULL: none */
    uint64_t timeout_ms;        /* 0: none */
    bool may_change_lock;       /* flake.lock; false: it is what it says, or the build fails */
    const volatile bool *cancel;
};
/*
 * Build a flake's output.  Its store paths (of all outputs) are appended, and what Nix said to
 * *ret_log (may be NULL; the last 64 KiB or so).  Nothing keeps them: add a root at once.
 * INVALID: Nix refused it, with its last words; TIMEOUT, CANCELLED, UNSUPPORTED.
 */
int nix_build(const struct nix_build *build, const struct nix_store *store,
              struct nix_paths *ret_outputs, struct buffer *ret_log, struct error *err);

/* Evaluate an installable to JSON text, appended: `nix eval --json`.  As nix_build(). */
int nix_eval(const struct nix_build *build, struct buffer *ret_json, struct error *err);

/* Have Nix make a path valid by what it is configured with (its substituters). */
int nix_realise(const struct nix_store *store, const struct nix_path *path,
                const volatile bool *cancel, struct error *err);

/*
 * Take a path from a folder that is a binary cache: HASH.narinfo and what those name.  With
 * `is_closure`, what it refers to as well, of which all must have their narinfo there.  Nix checks
 * signatures by `keys` ("NAME:BASE64" with blanks between them), and hashes.  INVALID with its last
 * words.
 */
int nix_import(const struct nix_store *store, const char *cache_folder, const struct nix_path *path,
               bool is_closure, const char *keys, const volatile bool *cancel, struct error *err);

struct nix_gc {
    uint64_t bytes_max; /* stop when so much was freed; 0: all that nothing keeps */
    bool is_trial;      /* only say what would go */
    const volatile bool *cancel;
};
struct nix_gc_result {
    uint64_t paths;
    uint64_t freed_bytes; /* of a trial: of their NARs */
};
int nix_gc(const struct nix_store *store, const struct nix_gc *gc, struct nix_gc_result *ret_result,
           struct error *err);

/* Read all paths (or `only`) again and compare with their hashes; what is wrong is appended, a path
 * in a line. */
int nix_verify(const struct nix_store *store, const struct nix_path *only,
               const volatile bool *cancel, struct buffer *ret_wrong, uint64_t *ret_wrong_count,
               struct error *err);

/* ---- For loops ---- */

/*
 * Run `work(context)` in a thread of its own and `done(context)` on the loop afterwards: for what
 * takes long, so that the threads of loop_work() stay free.  LIMIT: NIX_TASKS_MAX are running.
 * `done` comes exactly once, unless this fails; whoever ends before it sets what `work` has as its
 * `cancel`, and runs the loop until `done`.
 */
enum { NIX_TASKS_MAX = 16 };
int nix_task_new(struct loop *loop, void (*work)(void *context), void (*done)(void *context),
                 void *context, struct error *err);

#endif
