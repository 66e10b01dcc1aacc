/*
 * Rust: with cargo where the project has a Cargo.toml, else with rustc alone.
 *
 * The SDK, the crate `blixard`, comes with this program and is written to build/sdk/rust.  A
 * Cargo.toml names it by that path; for rustc it is compiled beside.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/process.h"

#include "surface/cli/build_parts.h"

enum { MODULE_BYTES_MAX = 64 << 20, MESSAGES_MAX = 64 << 20 };

#define SDK_FILES "sdk/rust/"

struct rust {
    char *rustc;
    const char *target;
};

static void rust_done(struct rust *rust)
{
    free(rust->rustc);
}

static bool has_target(const char *rustc, const char *target, const char *folder)
{
    BUFFER_OWNED struct buffer library = {0};
    const char *const argv[] = {rustc, "--print", "target-libdir", "--target", target, NULL};
    struct process_options options = {
        .argv = argv, .folder = folder, .output_max = 4096, .timeout_ms = 20000};
    struct process_result result;
    struct error ignored = {0};
    if (interrupt_run(options, &library, NULL, &result, &ignored) < 0 || result.exit_code != 0) {
        return false;
    }
    buffer_string(&library);
    library.used = strcspn((const char *)library.data, "\n");
    return file_exists(buffer_string(&library));
}

/* A rustc that has the standard library for WASI: Debian's, or the one on the path.  Newer ones
 * call the target wasm32-wasip1. */
static int find_rust(const char *folder, struct rust *ret_rust, struct error *err)
{
    static const char *const targets[] = {"wasm32-wasi", "wasm32-wasip1"};
    MEMORY_OWNED char *on_path = file_find_program("rustc");
    const char *const compilers[] = {on_path, "/usr/bin/rustc"};
    for (size_t i = 0; i < 4; i++) {
        const char *rustc = compilers[i / 2];
        if (rustc != NULL && file_exists(rustc) && has_target(rustc, targets[i % 2], folder)) {
            *ret_rust = (struct rust){memory_copy_string(rustc), targets[i % 2]};
            return 0;
        }
    }
    return build_missing("a Rust compiler with the wasm32-wasi target",
                         "rustc libstd-rust-dev-wasm32", err);
}

/* ---- rustc ---- */

/* Of the crate as this compiler makes it; another compiler cannot read it. */
static char *library_name(const struct rust *rust)
{
    char digest[HASH_TEXT_SIZE];
    struct stat status = {0};
    struct hash *hash = hash_new();
    stat(rust->rustc, &status);
    MEMORY_OWNED char *compiler =
        memory_format("%s %s %lld %lld", rust->rustc, rust->target, (long long)status.st_size,
                      (long long)status.st_mtime);
    hash_add(hash, compiler, strlen(compiler));
    build_hash_files(SDK_FILES, hash);
    hash_finish(hash, digest);
    return memory_format("libblixard-%.16s.rlib", digest);
}

/* The SDK as a library, once per project and compiler; *ret_path is the caller's. */
static int compile_sdk(const struct project *project, const struct rust *rust, const char *sdk,
                       char **ret_path, struct error *err)
{
    MEMORY_OWNED char *name = library_name(rust);
    MEMORY_OWNED char *library = memory_format("%s/build/sdk/%s", project->folder, name);
    MEMORY_OWNED char *beside = memory_format("%s.new", library);
    MEMORY_OWNED char *source = memory_format("%s/src/lib.rs", sdk);
    struct command command = {.argv = {rust->rustc, "--edition=2021", "--target", rust->target,
                                       "-O", "-C", "panic=abort", "--crate-type", "rlib",
                                       "--crate-name", "blixard", "-o", beside, source},
                              .count = 14};
    int r = file_exists(library) ? 0 : command_run(&command, project->folder, err);
    if (r == 0 && !file_exists(library) && rename(beside, library) < 0) {
        r = error_os(err, errno, "moving the crate blixard to %s", library);
    }
    if (r == 0) {
        *ret_path = library;
        library = NULL;
    }
    return r;
}

static int run_rustc(const struct project *project, const struct rust *rust, const char *sdk,
                     const char *module, struct error *err)
{
    MEMORY_OWNED char *library = NULL;
    MEMORY_OWNED char *source = memory_format(
        "%s/%s", project->folder, project->source != NULL ? project->source : "src/main.rs");
    if (!file_exists(source)) {
        return error_set(err, ERROR_NOT_FOUND, "%s does not exist", source);
    }
    int r = compile_sdk(project, rust, sdk, &library, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *external = memory_format("blixard=%s", library);
    struct command command = {.argv = {rust->rustc, "--edition=2021", "--target", rust->target,
                                       "-O", "-C", "strip=symbols", "-C", "panic=abort", "--extern",
                                       external, "-o", module, source},
                              .count = 14};
    return command_run(&command, project->folder, err);
}

/* ---- cargo ---- */

/* The cargo of this rustc, or any. */
static int find_cargo(const struct rust *rust, char **ret_cargo, struct error *err)
{
    MEMORY_OWNED char *beside =
        memory_format("%.*scargo", (int)(strrchr(rust->rustc, '/') + 1 - rust->rustc), rust->rustc);
    if (file_exists(beside)) {
        *ret_cargo = beside;
        beside = NULL;
        return 0;
    }
    *ret_cargo = file_find_program("cargo");
    return *ret_cargo != NULL
        ? 0
        : build_missing("cargo, which builds projects with a Cargo.toml,", "cargo", err);
}

struct program {
    char *path;
    unsigned count;
    bool is_named; /* like the project, which tells it from others */
};

/* Of a message of cargo's, one line of JSON: the program it made, if that is what it tells. */
static void take_program(const json_t *message, const char *wanted, struct program *program)
{
    const json_t *target = json_object_get(message, "target");
    const char *path = json_string_value(json_object_get(message, "executable"));
    const char *name = json_string_value(json_object_get(target, "name"));
    if (path == NULL || name == NULL || program->is_named) {
        return;
    }
    free(program->path);
    program->path = memory_copy_string(path);
    program->count++;
    program->is_named = strcmp(name, wanted) == 0;
}

/* The program among what cargo says it made: the only one, or the one named like the project. */
static int find_program(const struct project *project, struct buffer *messages, char **ret_program,
                        struct error *err)
{
    struct program program = {0};
    char *rest = NULL;
    buffer_append_byte(messages, '\0');
    for (char *line = strtok_r((char *)messages->data, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        JSON_OWNED json_t *message = NULL;
        struct error ignored = {0};
        if (json_read(line, strlen(line), &message, &ignored) == 0) {
            take_program(message, project->name, &program);
        }
    }
    if (program.count != 1 && !program.is_named) {
        free(program.path);
        return error_set(err, ERROR_INVALID,
                         "cargo made %u programs, and none is named \"%s\": name one so in "
                         "Cargo.toml ([[bin]], name)",
                         program.count, project->name);
    }
    *ret_program = program.path;
    return 0;
}

static int run_cargo(const struct project *project, const struct rust *rust, const char *module,
                     struct error *err)
{
    MEMORY_OWNED char *cargo = NULL;
    MEMORY_OWNED char *program = NULL;
    MEMORY_OWNED char *compiler = memory_format("build.rustc=\"%s\"", rust->rustc);
    BUFFER_OWNED struct buffer messages = {0};
    BUFFER_OWNED struct buffer said = {0};
    BUFFER_OWNED struct buffer bytes = {0};
    struct process_result result;
    int r = find_cargo(rust, &cargo, err);
    if (r < 0) {
        return r;
    }
    const char *const argv[] = {cargo,
                                "build",
                                "--quiet",
                                "--release",
                                "--config",
                                compiler,
                                "--target",
                                rust->target,
                                "--target-dir",
                                "build/cargo",
                                "--message-format",
                                "json-render-diagnostics",
                                NULL};
    struct process_options options = {.argv = argv,
                                      .folder = project->folder,
                                      .output_max = MESSAGES_MAX,
                                      .timeout_ms = BUILD_TIMEOUT_MS};
    r = interrupt_run(options, &messages, &said, &result, err);
    if (said.used > 0) {
        fwrite(said.data, 1, said.used, stderr);
    }
    if (r == 0 && result.timed_out) {
        r = error_set(err, ERROR_TIMEOUT, "cargo did not end");
    } else if (r == 0 && result.exit_code != 0) {
        r = error_set(err, ERROR_INVALID, "building failed: cargo ended with status %d",
                      result.exit_code);
    }
    r = r < 0 ? r : find_program(project, &messages, &program, err);
    r = r < 0 ? r : file_read(program, MODULE_BYTES_MAX, &bytes, err);
    return r < 0 ? r : file_write(module, bytes.data, bytes.used, 0644, err);
}

/* ---- Both ---- */

int build_rust(const struct project *project, const char *module, struct error *err)
{
    struct rust rust = {0};
    MEMORY_OWNED char *sdk = memory_format("%s/build/" SDK_FILES, project->folder);
    MEMORY_OWNED char *manifest = memory_format("%s/Cargo.toml", project->folder);
    sdk[strlen(sdk) - 1] = '\0';
    int r = find_rust(project->folder, &rust, err);
    r = r < 0 ? r : build_write_files(SDK_FILES, sdk, err);
    if (r == 0 && project->source == NULL && file_exists(manifest)) {
        r = run_cargo(project, &rust, module, err);
    } else if (r == 0) {
        r = run_rustc(project, &rust, sdk, module, err);
    }
    rust_done(&rust);
    return r;
}
