/* Finding the tools, and unpacking what modules are linked with. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/random.h"
#include "base/version.h"

#include "engine/wasm/private.h"

static const struct {
    const char *program;
    const char *package;
    bool required;
} tools[TOOL_COUNT] = {
    [TOOL_VALIDATE] = {"wasm-validate", "wabt", true},
    [TOOL_OPTIMIZE] = {"wasm-opt", "binaryen", false},
    [TOOL_TRANSLATE] = {"wasm2c", "wabt", true},
    [TOOL_GCC] = {"gcc", "gcc", true},
    [TOOL_LINK] = {"ld", "binutils", true},
};

void wasm_tools_each(void (*visit)(const char *tool, const char *path_or_null, const char *package,
                                   bool required, void *context),
                     void *context)
{
    for (int tool = 0; tool < TOOL_COUNT; tool++) {
        MEMORY_OWNED char *path = file_find_program(tools[tool].program);
        visit(tools[tool].program, path, tools[tool].package, tools[tool].required, context);
    }
}

static int find_tools(struct toolchain *toolchain, struct error *err)
{
    for (int tool = 0; tool < TOOL_COUNT; tool++) {
        toolchain->path[tool] = file_find_program(tools[tool].program);
        if (toolchain->path[tool] == NULL && tools[tool].required) {
            return error_set(
                err, ERROR_UNSUPPORTED,
                "%s is not installed, and without it no function can be built: install "
                "the package %s",
                tools[tool].program, tools[tool].package);
        }
    }
    return 0;
}

/* First line of what a program prints, or "". */
static void ask(const char *const *argv, struct buffer *line)
{
    struct error err = {0};
    struct process_options options = {.argv = argv, .output_max = 4096, .timeout_ms = 10000};
    struct process_result result;
    if (process_run(&options, line, NULL, &result, &err) < 0 || result.exit_code != 0) {
        buffer_clear(line);
    }
    buffer_string(line);
    line->used = strcspn((const char *)line->data, "\n");
}

static char *ask_string(const char *program, const char *argument)
{
    BUFFER_OWNED struct buffer line = {0};
    const char *const argv[] = {program, argument, NULL};
    ask(argv, &line);
    return buffer_take(&line);
}

static void add_guest_files(struct hash *hash)
{
    for (size_t i = 0; i < guest_files_count; i++) {
        hash_add(hash, guest_files[i].name, strlen(guest_files[i].name) + 1);
        hash_add(hash, guest_files[i].data, guest_files[i].length);
    }
}

void toolchain_runtime(char ret_digest[HASH_TEXT_SIZE])
{
    struct hash *hash = hash_new();
    add_guest_files(hash);
    hash_finish(hash, ret_digest);
}

/*
 * All that decides what comes out: what is linked with it, the versions of the programs, and how
 * they are called: the sources of this room, since nobody remembers to count a number up.
 */
static void take_fingerprint(struct toolchain *toolchain)
{
    struct hash *hash = hash_new();
    add_guest_files(hash);
    for (int tool = 0; tool < TOOL_COUNT; tool++) {
        if (toolchain->path[tool] == NULL) {
            hash_add(hash, "-", 1);
            continue;
        }
        MEMORY_OWNED char *version = ask_string(toolchain->path[tool], "--version");
        hash_add(hash, version, strlen(version) + 1);
    }
    hash_add(hash, wasm_sources, strlen(wasm_sources) + 1);
    hash_add(hash, blixard_version, strlen(blixard_version) + 1);
    hash_finish(hash, toolchain->fingerprint);
}

static int unpack_into(const char *folder, struct error *err)
{
    MEMORY_OWNED char *include = memory_format("%s/include", folder);
    int r = file_make_folder(include, 0755, err);
    for (size_t i = 0; i < guest_files_count && r == 0; i++) {
        MEMORY_OWNED char *path = memory_format("%s/%s", folder, guest_files[i].name);
        r = file_write(path, guest_files[i].data, guest_files[i].length, 0644, err);
    }
    return r;
}

/* Whole or not at all: unpacked beside, then renamed. */
static int unpack(const char *work_folder, struct toolchain *toolchain, struct error *err)
{
    char suffix[9];
    random_hex(suffix, 8);
    toolchain->folder = memory_format("%s/toolchain-%.16s", work_folder, toolchain->fingerprint);
    if (file_exists(toolchain->folder)) {
        return 0;
    }
    MEMORY_OWNED char *beside = memory_format("%s.%s", toolchain->folder, suffix);
    int r = unpack_into(beside, err);
    if (r == 0 && rename(beside, toolchain->folder) < 0 && errno != ENOTEMPTY && errno != EEXIST) {
        r = error_os(err, errno, "unpacking the toolchain into %s", toolchain->folder);
    }
    struct error ignored = {0};
    file_remove_tree(beside, &ignored);
    return r;
}

int toolchain_open(const char *work_folder, struct toolchain *ret_toolchain, struct error *err)
{
    struct toolchain toolchain = {0};
    int r = find_tools(&toolchain, err);
    if (r == 0) {
        toolchain.builtin_headers =
            ask_string(toolchain.path[TOOL_GCC], "-print-file-name=include");
        take_fingerprint(&toolchain);
        r = unpack(work_folder, &toolchain, err);
    }
    if (r < 0) {
        toolchain_done(&toolchain);
        return r;
    }
    *ret_toolchain = toolchain;
    return 0;
}

void toolchain_done(struct toolchain *toolchain)
{
    for (int tool = 0; tool < TOOL_COUNT; tool++) {
        free(toolchain->path[tool]);
    }
    free(toolchain->builtin_headers);
    free(toolchain->folder);
    *toolchain = (struct toolchain){0};
}
