/*
 * From source to a WebAssembly module, with the compilers of Debian: C and C++ here, Rust in
 * build_rust.c; what comes from npm is in build_npm.c.
 *
 * Here the compilers are the user's own, run on his own code, so they are not jailed: that is for
 * the node, which compiles what others send.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/text.h"

#include "surface/cli/build_parts.h"

enum { SOURCES_MAX = 256, SOURCE_MAX = 16 << 20 };
_Static_assert(SOURCES_MAX + 32 <= COMMAND_ARGUMENTS_MAX, "all sources fit one command");

/* ---- Running compilers ---- */

void command_add(struct command *command, const char *argument)
{
    command->argv[command->count++] = argument;
}

int command_run(struct command *command, const char *folder, struct error *err)
{
    BUFFER_OWNED struct buffer output = {0};
    struct process_result result;
    struct process_options options = {
        .argv = command->argv,
        .folder = folder,
        .output_max = BUILD_OUTPUT_MAX,
        .timeout_ms = BUILD_TIMEOUT_MS,
    };
    int r = interrupt_run(options, &output, &output, &result, err);
    if (r < 0) {
        return r;
    }
    if (output.used > 0) {
        fwrite(output.data, 1, output.used, stderr);
    }
    if (result.timed_out) {
        return error_set(err, ERROR_TIMEOUT, "%s did not end", command->argv[0]);
    }
    return result.exit_code == 0
        ? 0
        : error_set(err, ERROR_INVALID, "building failed: %s ended with status %d",
                    command->argv[0], result.exit_code);
}

int build_missing(const char *what, const char *package, struct error *err)
{
    return error_set(err, ERROR_UNSUPPORTED, "%s is missing: apt-get install %s", what, package);
}

/* The first of these programs that is there; the caller's. */
static char *find_one(const char *const *names)
{
    for (; *names != NULL; names++) {
        char *path = file_find_program(*names);
        if (path != NULL) {
            return path;
        }
    }
    return NULL;
}

/* ---- C and C++ ---- */

static bool has_ending(const char *name, bool is_cpp)
{
    return is_cpp ? text_ends_with(name, ".cpp") || text_ends_with(name, ".cc") ||
            text_ends_with(name, ".cxx")
                  : text_ends_with(name, ".c");
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

struct sources {
    char *paths[SOURCES_MAX];
    size_t count;
};

static void sources_done(struct sources *sources)
{
    for (size_t i = 0; i < sources->count; i++) {
        free(sources->paths[i]);
    }
}

static int list_sources(const char *folder, bool is_cpp, struct sources *sources, struct error *err)
{
    DIR *entries = opendir(folder);
    if (entries == NULL) {
        return error_os(err, errno, "reading %s", folder);
    }
    struct dirent *entry = NULL;
    bool is_full = false;
    while ((entry = readdir(entries)) != NULL && !is_full) {
        if (entry->d_name[0] == '.' || !has_ending(entry->d_name, is_cpp)) {
            continue;
        }
        is_full = sources->count == SOURCES_MAX;
        if (!is_full) {
            sources->paths[sources->count++] = memory_format("%s/%s", folder, entry->d_name);
        }
    }
    closedir(entries);
    if (is_full) {
        return error_set(err, ERROR_LIMIT, "%s holds more than %d source files", folder,
                         SOURCES_MAX);
    }
    qsort(sources->paths, sources->count, sizeof(char *), compare);
    if (sources->count == 0) {
        return error_set(err, ERROR_INVALID, "%s holds no %s files", folder,
                         is_cpp ? ".cpp" : ".c");
    }
    return 0;
}

/* One file, or those of a folder (default: the project's). */
static int find_sources(const struct project *project, bool is_cpp, struct sources *sources,
                        struct error *err)
{
    struct stat status;
    MEMORY_OWNED char *path = project->source != NULL
        ? memory_format("%s/%s", project->folder, project->source)
        : memory_copy_string(project->folder);
    if (stat(path, &status) < 0) {
        return error_set(err, ERROR_NOT_FOUND, "%s does not exist", path);
    }
    if (S_ISDIR(status.st_mode)) {
        return list_sources(path, is_cpp, sources, err);
    }
    sources->paths[sources->count++] = memory_copy_string(path);
    return 0;
}

/* A handler is a reactor: initialised once, then called. */
static int is_handler(const struct sources *sources, bool *ret_is, struct error *err)
{
    *ret_is = false;
    for (size_t i = 0; i < sources->count; i++) {
        BUFFER_OWNED struct buffer text = {0};
        int r = file_read(sources->paths[i], SOURCE_MAX, &text, err);
        if (r < 0) {
            return r;
        }
        const char *code = buffer_string(&text);
        *ret_is = *ret_is || strstr(code, "BLIXARD_HANDLER") != NULL ||
            strstr(code, "BLIXARD_SERVE") != NULL ||
            strstr(code, "export_name(\"handle\")") != NULL;
    }
    return 0;
}

/* What is there already stays as it is: compilers go by the time of their inputs. */
static int write_changed(const char *path, const struct embed_file *file, struct error *err)
{
    BUFFER_OWNED struct buffer there = {0};
    struct error ignored = {0};
    if (file_read(path, file->length, &there, &ignored) == 0 && there.used == file->length &&
        memcmp(there.data, file->data, file->length) == 0) {
        return 0;
    }
    MEMORY_OWNED char *parent = memory_copy_text(path, (size_t)(strrchr(path, '/') - path));
    int r = file_make_folder(parent, 0755, err);
    return r < 0 ? r : file_write(path, file->data, file->length, 0644, err);
}

int build_write_files(const char *prefix, const char *folder, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < cli_files_count && r == 0; i++) {
        if (text_starts_with(cli_files[i].name, prefix)) {
            MEMORY_OWNED char *path =
                memory_format("%s/%s", folder, cli_files[i].name + strlen(prefix));
            r = write_changed(path, &cli_files[i], err);
        }
    }
    return r;
}

void build_hash_files(const char *prefix, struct hash *hash)
{
    for (size_t i = 0; i < cli_files_count; i++) {
        if (text_starts_with(cli_files[i].name, prefix)) {
            hash_add(hash, cli_files[i].data, cli_files[i].length);
        }
    }
}

const struct embed_file *build_find_file(const char *name)
{
    for (size_t i = 0; i < cli_files_count; i++) {
        if (strcmp(cli_files[i].name, name) == 0) {
            return &cli_files[i];
        }
    }
    CHECK(false); /* it is linked in */
    return NULL;
}

int build_find_clang(bool is_cpp, char **ret_clang, struct error *err)
{
    static const char *const c[] = {"clang-14", "clang", NULL};
    static const char *const cpp[] = {"clang++-14", "clang++", NULL};
    static const char *const linker[] = {"wasm-ld-14", "wasm-ld", NULL};
    MEMORY_OWNED char *clang = find_one(is_cpp ? cpp : c);
    MEMORY_OWNED char *lld = find_one(linker);
    if (clang == NULL) {
        return build_missing(is_cpp ? "clang++" : "clang", "clang-14", err);
    }
    if (lld == NULL) {
        return build_missing("wasm-ld", "lld-14", err);
    }
    if (!file_exists("/usr/include/wasm32-wasi/stdio.h") && getenv("WASI_SYSROOT") == NULL) {
        return build_missing("the WASI C library", "wasi-libc libclang-rt-14-dev-wasm32", err);
    }
    if (is_cpp && !file_exists("/usr/lib/wasm32-wasi/libc++.a") && getenv("WASI_SYSROOT") == NULL) {
        return build_missing("libc++ for WASI", "libc++-14-dev-wasm32 libc++abi-14-dev-wasm32",
                             err);
    }
    *ret_clang = clang;
    clang = NULL;
    return 0;
}

static int compile_c(const struct project *project, const struct sources *sources, bool is_cpp,
                     const char *module, struct error *err)
{
    MEMORY_OWNED char *clang = NULL;
    MEMORY_OWNED char *sdk = memory_format("%s/build/include", project->folder);
    MEMORY_OWNED char *sdk_flag = memory_format("-I%s", sdk);
    const char *sysroot = getenv("WASI_SYSROOT");
    MEMORY_OWNED char *sysroot_flag = memory_format("--sysroot=%s", sysroot != NULL ? sysroot : "");
    bool handler = false;
    if (build_find_clang(is_cpp, &clang, err) < 0 || build_write_files("sdk/c/", sdk, err) < 0 ||
        is_handler(sources, &handler, err) < 0) {
        return -(int)err->kind;
    }
    struct command command = {
        .argv = {clang, "--target=wasm32-wasi", "-O2", "-ffp-contract=off", "-Wall"}, .count = 5};
    if (sysroot != NULL) {
        command_add(&command, sysroot_flag);
    }
    if (is_cpp) {
        command_add(&command, "-std=c++17");
        command_add(&command, "-fno-exceptions");
    }
    if (handler) {
        command_add(&command, "-mexec-model=reactor");
    }
    command_add(&command, sdk_flag);
    command_add(&command, "-o");
    command_add(&command, module);
    for (size_t i = 0; i < sources->count; i++) {
        command_add(&command, sources->paths[i]);
    }
    return command_run(&command, project->folder, err);
}

static int build_c(const struct project *project, bool is_cpp, const char *module,
                   struct error *err)
{
    struct sources sources = {0};
    int r = find_sources(project, is_cpp, &sources, err);
    if (r == 0) {
        r = compile_c(project, &sources, is_cpp, module, err);
    }
    sources_done(&sources);
    return r;
}

/* ---- All ---- */

int project_build(const struct project *project, char **ret_path, struct error *err)
{
    MEMORY_OWNED char *folder = memory_format("%s/build", project->folder);
    MEMORY_OWNED char *module = memory_format("%s/%s.wasm", folder, project->name);
    int r = file_make_folder(folder, 0755, err);
    if (r < 0) {
        return r;
    }
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "building %s (%s)\n", project->name, project->language);
    }
    if (strcmp(project->language, "rust") == 0) {
        r = build_rust(project, module, err);
    } else if (strcmp(project->language, "assemblyscript") == 0) {
        r = build_assemblyscript(project, err);
    } else if (strcmp(project->language, "javascript") == 0) {
        r = build_javascript(project, module, err);
    } else {
        r = build_c(project, strcmp(project->language, "cpp") == 0, module, err);
    }
    if (r == 0) {
        r = project_add_assets(project, module, err);
    }
    if (r == 0) {
        *ret_path = module;
        module = NULL;
    }
    return r;
}
