/* Languages whose compiler or engine comes from npm: AssemblyScript, JavaScript. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/embed.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "surface/cli/build_parts.h"

enum { ENGINE_BYTES_MAX = 64 << 20 };

/* ---- npm ---- */

/* Of this user. */
static int cache_folder(char **ret_folder, struct error *err)
{
    const char *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    if (cache != NULL && cache[0] == '/') {
        *ret_folder = memory_format("%s/blixard", cache);
    } else if (home != NULL && home[0] == '/') {
        *ret_folder = memory_format("%s/.cache/blixard", home);
    } else {
        return error_set(err, ERROR_INVALID,
                         "there is no place for what npm brings: set HOME or XDG_CACHE_HOME");
    }
    return 0;
}

struct package {
    const char *title;    /* for people */
    const char *folder;   /* in the cache */
    const char *names[3]; /* for npm; NULL at the end */
};

static int npm_install(const struct package *package, const char *folder, struct error *err)
{
    MEMORY_OWNED char *npm = file_find_program("npm");
    if (npm == NULL) {
        MEMORY_OWNED char *what = memory_format("npm, which brings %s,", package->title);
        return build_missing(what, "npm", err);
    }
    struct command command = {.argv = {npm, "install", "--silent", "--no-audit", "--no-fund",
                                       "--no-save", "--ignore-scripts", "--prefix", folder},
                              .count = 9};
    for (size_t i = 0; package->names[i] != NULL; i++) {
        command_add(&command, package->names[i]);
    }
    return command_run(&command, folder, err);
}

/* Installed once for this user, beside and then renamed: two builds may do so at once. */
static int install(const struct package *package, const char *cache, const char *target,
                   struct error *err)
{
    char suffix[9];
    random_hex(suffix, 8);
    MEMORY_OWNED char *beside = memory_format("%s/new-%s", cache, suffix);
    fprintf(stderr, "installing %s from npm into %s (once)\n", package->title, target);
    int r = file_make_folder(beside, 0755, err);
    if (r == 0) {
        r = npm_install(package, beside, err);
    }
    if (r == 0 && rename(beside, target) < 0 && errno != ENOTEMPTY && errno != EEXIST) {
        r = error_os(err, errno, "installing %s into %s", package->title, target);
    }
    struct error ignored = {0};
    file_remove_tree(beside, &ignored);
    return r;
}

/* The node_modules of a package in the cache; `is_complete` tells a whole installation. */
static int find_package(const struct package *package, bool (*is_complete)(const char *modules),
                        char **ret_modules, struct error *err)
{
    MEMORY_OWNED char *cache = NULL;
    int r = cache_folder(&cache, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *installed = memory_format("%s/%s", cache, package->folder);
    MEMORY_OWNED char *modules = memory_format("%s/node_modules", installed);
    if (!is_complete(modules)) {
        struct error ignored = {0};
        file_remove_tree(installed, &ignored);
        r = install(package, cache, installed, err);
    }
    if (r == 0 && !is_complete(modules)) {
        r = error_set(err, ERROR_CORRUPT, "npm brought %s without what is wanted of it, into %s",
                      package->title, modules);
    }
    if (r == 0) {
        *ret_modules = modules;
        modules = NULL;
    }
    return r;
}

/* ---- AssemblyScript ---- */

static const struct package assemblyscript = {
    .title = "AssemblyScript",
    .folder = "assemblyscript",
    .names = {"assemblyscript@0.28", "@assemblyscript/wasi-shim@0.1"},
};

/* The compiler and its WASI library; half an installation is none. */
static bool is_assemblyscript(const char *modules)
{
    MEMORY_OWNED char *compiler = memory_format("%s/assemblyscript/bin/asc.js", modules);
    MEMORY_OWNED char *shim = memory_format("%s/@assemblyscript/wasi-shim/asconfig.json", modules);
    return file_exists(compiler) && file_exists(shim);
}

/* The project's own node_modules, or those of the cache. */
static int find_assemblyscript(const struct project *project, char **ret_modules, struct error *err)
{
    MEMORY_OWNED char *own = memory_format("%s/node_modules", project->folder);
    if (is_assemblyscript(own)) {
        *ret_modules = own;
        own = NULL;
        return 0;
    }
    return find_package(&assemblyscript, is_assemblyscript, ret_modules, err);
}

/* "../../" for "/a/b": the compiler joins all paths to the folder it runs in, absolute ones too. */
static char *path_to_root(const char *folder)
{
    BUFFER_OWNED struct buffer path = {0};
    for (const char *at = folder; *at != '\0'; at++) {
        if (*at == '/' && at[1] != '\0') {
            buffer_append_string(&path, "../");
        }
    }
    return buffer_take(&path);
}

/* Where the compiler finds "@blixard/sdk", unless the project's own node_modules has it. */
#define ASSEMBLYSCRIPT_SDK "build/sdk/node_modules"

int build_assemblyscript(const struct project *project, struct error *err)
{
    MEMORY_OWNED char *node = file_find_program("node");
    MEMORY_OWNED char *modules = NULL;
    const char *relative = project->source != NULL ? project->source : "assembly/index.ts";
    MEMORY_OWNED char *source = memory_format("%s/%s", project->folder, relative);
    if (!file_exists(source)) {
        return error_set(err, ERROR_NOT_FOUND, "%s does not exist", source);
    }
    if (node == NULL) {
        return build_missing("node, which runs the AssemblyScript compiler,", "nodejs npm", err);
    }
    MEMORY_OWNED char *sdk =
        memory_format("%s/" ASSEMBLYSCRIPT_SDK "/@blixard/sdk", project->folder);
    int r = find_assemblyscript(project, &modules, err);
    r = r < 0 ? r : build_write_files("sdk/assemblyscript/", sdk, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *compiler = memory_format("%s/assemblyscript/bin/asc.js", modules);
    MEMORY_OWNED char *up = path_to_root(project->folder);
    MEMORY_OWNED char *config =
        memory_format("%s%s/@assemblyscript/wasi-shim/asconfig.json", up, modules + 1);
    MEMORY_OWNED char *out = memory_format("build/%s.wasm", project->name);
    struct command command = {.argv = {node, compiler, relative, "--config", config, "--outFile",
                                       out, "-O3", "--runtime", "incremental", "--path",
                                       ASSEMBLYSCRIPT_SDK},
                              .count = 12};
    return command_run(&command, project->folder, err);
}

/* ---- JavaScript ---- */

/*
 * The engine: QuickJS, whose C sources this package has beside an addon for node that is not built.
 * It is compiled once, with engine.c and the scripts of the SDK.
 */
static const struct package quickjs = {
    .title = "QuickJS",
    .folder = "quickjs",
    .names = {"qjsc@0.3.0"},
};

#define QUICKJS_SOURCES "qjsc/deps/quickjs_2021_03_27"

static bool is_quickjs(const char *modules)
{
    MEMORY_OWNED char *path = memory_format("%s/" QUICKJS_SOURCES "/quickjs.c", modules);
    return file_exists(path);
}

/* The scripts of the SDK as C arrays: NAME.js as NAME_js[]. */
static int write_scripts(const char *folder, struct error *err)
{
    static const char prefix[] = "sdk/javascript/";
    MEMORY_OWNED char *path = memory_format("%s/scripts.h", folder);
    BUFFER_OWNED struct buffer text = {0};
    for (size_t i = 0; i < cli_files_count; i++) {
        const struct embed_file *script = &cli_files[i];
        if (!text_starts_with(script->name, prefix) || !text_ends_with(script->name, ".js")) {
            continue;
        }
        const char *name = script->name + strlen(prefix);
        buffer_append_format(&text, "static const char %.*s_js[] = {\n", (int)(strlen(name) - 3),
                             name);
        for (size_t k = 0; k < script->length; k++) {
            buffer_append_format(&text, "%d,%s", (int8_t)script->data[k], k % 24 == 23 ? "\n" : "");
        }
        buffer_append_string(&text, "0};\n");
    }
    return file_write(path, text.data, text.used, 0644, err);
}

/* Where the engine's check of its stack looks: the frame's address is none here. */
static const char stack_header[] =
    "static __attribute__((noinline, unused)) unsigned char *stack_here(void)\n"
    "{\n"
    "    volatile unsigned char here;\n"
    "    return (unsigned char *)&here;\n"
    "}\n"
    "#define __builtin_frame_address(level) stack_here()\n";

static int write_engine_sources(const char *folder, struct error *err)
{
    MEMORY_OWNED char *stack = memory_format("%s/stack.h", folder);
    int r = write_scripts(folder, err);
    r = r < 0 ? r : file_write(stack, stack_header, sizeof(stack_header) - 1, 0644, err);
    r = r < 0 ? r : build_write_files("sdk/c/", folder, err);
    return r < 0 ? r : build_write_files("sdk/javascript/", folder, err);
}

static int compile_engine(const char *modules, const char *folder, const char *module,
                          struct error *err)
{
    static const char *const parts[] = {"quickjs", "libregexp", "libunicode", "cutils", "libbf"};
    enum { PARTS = sizeof(parts) / sizeof(parts[0]) };
    MEMORY_OWNED char *clang = NULL;
    MEMORY_OWNED char *include = memory_format("-I%s/" QUICKJS_SOURCES, modules);
    char *sources[PARTS] = {0};
    int r = build_find_clang(false, &clang, err);
    if (r < 0) {
        return r;
    }
    /* EMSCRIPTEN: neither threads nor computed jumps, of which WebAssembly 1.0 has none.  There are
     * no rounding modes to choose from either. */
    struct command command = {.argv = {clang,
                                       "--target=wasm32-wasi",
                                       "-mexec-model=reactor",
                                       "-O2",
                                       "-ffp-contract=off",
                                       "-w",
                                       "-D_GNU_SOURCE",
                                       "-DEMSCRIPTEN",
                                       "-DCONFIG_STACK_CHECK",
                                       "-include",
                                       "stack.h",
                                       "-DCONFIG_BIGNUM",
                                       "-DCONFIG_VERSION=\"2021-03-27\"",
                                       "-DFE_DOWNWARD=0",
                                       "-DFE_UPWARD=0",
                                       "-Wl,-z,stack-size=1048576",
                                       "-I.",
                                       include,
                                       "engine.c",
                                       "host.c",
                                       "-o",
                                       module},
                              .count = 22};
    for (size_t i = 0; i < PARTS; i++) {
        sources[i] = memory_format("%s/" QUICKJS_SOURCES "/%s.c", modules, parts[i]);
        command_add(&command, sources[i]);
    }
    r = command_run(&command, folder, err);
    for (size_t i = 0; i < PARTS; i++) {
        free(sources[i]);
    }
    return r;
}

/* Made beside and then renamed, as installations are. */
static int make_engine(const char *cache, const char *engine, struct error *err)
{
    char suffix[9];
    random_hex(suffix, 8);
    MEMORY_OWNED char *modules = NULL;
    MEMORY_OWNED char *beside = memory_format("%s/new-%s", cache, suffix);
    MEMORY_OWNED char *module = memory_format("%s/engine.wasm", beside);
    int r = find_package(&quickjs, is_quickjs, &modules, err);
    if (r < 0) {
        return r;
    }
    fprintf(stderr, "compiling QuickJS into %s (once)\n", engine);
    r = file_make_folder(beside, 0755, err);
    r = r < 0 ? r : write_engine_sources(beside, err);
    r = r < 0 ? r : compile_engine(modules, beside, module, err);
    if (r == 0 && rename(module, engine) < 0) {
        r = error_os(err, errno, "moving the engine to %s", engine);
    }
    struct error ignored = {0};
    file_remove_tree(beside, &ignored);
    return r;
}

/* The engine of this program's SDK; *ret_path is the caller's. */
static int find_engine(char **ret_path, struct error *err)
{
    MEMORY_OWNED char *cache = NULL;
    char digest[HASH_TEXT_SIZE];
    int r = cache_folder(&cache, err);
    if (r < 0) {
        return r;
    }
    struct hash *hash = hash_new();
    hash_add(hash, quickjs.names[0], strlen(quickjs.names[0]));
    hash_add(hash, stack_header, sizeof(stack_header));
    build_hash_files("sdk/c/", hash);
    build_hash_files("sdk/javascript/", hash);
    hash_finish(hash, digest);
    *ret_path = memory_format("%s/javascript-%.16s.wasm", cache, digest);
    return file_exists(*ret_path) ? 0 : make_engine(cache, *ret_path, err);
}

int build_javascript(const struct project *project, const char *module, struct error *err)
{
    MEMORY_OWNED char *engine = NULL;
    BUFFER_OWNED struct buffer bytes = {0};
    int r = find_engine(&engine, err);
    r = r < 0 ? r : file_read(engine, ENGINE_BYTES_MAX, &bytes, err);
    (void)project;
    return r < 0 ? r : file_write(module, bytes.data, bytes.used, 0644, err);
}
