/*
 * module.wasm -> wasm-validate -> named.wasm -> [wasm-opt] -> wasm2c -> C with a constant memory
 * base -> tcc or gcc -> image.elf
 *
 * The flags are not taste: -ffp-contract=off (or fused multiply-adds change results), no strict
 * aliasing games (wasm memory is bytes), -fpie (all addresses are relative to the instruction: the
 * image lies above 4 GiB), -fno-math-errno (one instruction for sqrt), -fsignaling-nans (x * 1
 * makes a NaN quiet), no sibling calls made jumps (endless recursion exhausts the stack, it does
 * not hang), no stack protector (there is no thread-local storage in the guest), large frames
 * touched page by page (none steps over the hole below the stack).
 */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/wasm/private.h"

enum { SOURCE_BYTES_MAX = 256 << 20 };

static int validate(struct job *job, struct error *err)
{
    const char *const argv[] = {job->wasm->toolchain.path[TOOL_VALIDATE], "module.wasm", NULL};
    return job_run(job, "validating the module", argv, err);
}

/* Names that are no names in C are valid, so this is for after the validation. */
static int rename_exports(struct job *job, struct error *err)
{
    MEMORY_OWNED char *path = job_path(job, "named.wasm");
    BUFFER_OWNED struct buffer named = {0};
    rewrite_names(job->bytes, job->length, job->form, &named);
    return file_write(path, named.data, named.used, 0644, err);
}

/* Returns the file to go on with: an optimiser that fails costs speed, not the deploy. */
static const char *optimise(struct job *job)
{
    const char *path = job->wasm->toolchain.path[TOOL_OPTIMIZE];
    const char *const argv[] = {path,
                                "named.wasm",
                                "-O2",
                                "--enable-bulk-memory",
                                "--enable-sign-ext",
                                "--enable-nontrapping-float-to-int",
                                "--enable-mutable-globals",
                                "--enable-multivalue",
                                "--enable-reference-types",
                                "--output",
                                "optimised.wasm",
                                NULL};
    struct error ignored = {0};
    bool good = path != NULL && job_run(job, "optimising the module", argv, &ignored) == 0;
    return good ? "optimised.wasm" : "named.wasm";
}

static int write_glue(const struct job *job, struct buffer *ret_glue, struct error *err)
{
    if (job->form == WASM_FORM_FUNCTION) {
        translate_glue(job->info, ret_glue);
        return 0;
    }
    WASM_EXPORTS_OWNED struct wasm_exports exports = {0};
    int r = wasm_exports_read(job->bytes, job->length, &exports, err);
    if (r == 0) {
        translate_glue_exports(&exports, ret_glue);
    }
    return r;
}

static int translate(struct job *job, const char *module, struct error *err)
{
    const char *const argv[] = {
        job->wasm->toolchain.path[TOOL_TRANSLATE], "-n", "fn", module, "-o", "fn.c", NULL};
    int r = job_run(job, "translating the module", argv, err);
    if (r < 0) {
        return r;
    }
    BUFFER_OWNED struct buffer source = {0};
    BUFFER_OWNED struct buffer glue = {0};
    MEMORY_OWNED char *source_path = job_path(job, "fn.c");
    MEMORY_OWNED char *glue_path = job_path(job, "glue.c");
    r = file_read(source_path, SOURCE_BYTES_MAX, &source, err);
    if (r < 0) {
        return r;
    }
    translate_memory_base(&source);
    translate_traps(&source);
    r = write_glue(job, &glue, err);
    if (r < 0) {
        return r;
    }
    r = file_write(source_path, source.data, source.used, 0644, err);
    return r < 0 ? r : file_write(glue_path, glue.data, glue.used, 0644, err);
}

static int compile_fast(struct job *job, struct error *err)
{
    const struct toolchain *toolchain = &job->wasm->toolchain;
    MEMORY_OWNED char *include = memory_format("-I%s/include", toolchain->folder);
    MEMORY_OWNED char *own = memory_format("-I%s", toolchain->tcc_headers);
    const char *const argv[] = {toolchain->path[TOOL_TCC],
                                "-nostdinc",
                                "-w",
                                include,
                                own,
                                "-c",
                                "all.c",
                                "-o",
                                "fn.o",
                                NULL};
    return job_run(job, "compiling (fast)", argv, err);
}

static int compile_gcc(struct job *job, const char *level, struct error *err)
{
    const struct toolchain *toolchain = &job->wasm->toolchain;
    MEMORY_OWNED char *include = memory_format("-I%s/include", toolchain->folder);
    const char *const argv[] = {toolchain->path[TOOL_GCC],
                                level,
                                "-w",
                                "-march=x86-64-v2",
                                "-ffreestanding",
                                "-ffp-contract=off",
                                "-fno-math-errno",
                                "-fsignaling-nans",
                                "-fno-optimize-sibling-calls",
                                "-fno-delete-null-pointer-checks",
                                "-fno-strict-aliasing",
                                "-fpie",
                                "-fno-stack-protector",
                                "-fstack-clash-protection",
                                "-fcf-protection=none",
                                "-fno-asynchronous-unwind-tables",
                                "-ffunction-sections",
                                "-fdata-sections",
                                "-nostdinc",
                                "-isystem",
                                toolchain->builtin_headers,
                                include,
                                "-c",
                                "all.c",
                                "-o",
                                "fn.o",
                                NULL};
    return job_run(job, "compiling", argv, err);
}

static int compile(struct job *job, struct error *err)
{
    static const char all[] = "#include \"fn.c\"\n#include \"glue.c\"\n";
    MEMORY_OWNED char *path = job_path(job, "all.c");
    int r = file_write(path, all, sizeof(all) - 1, 0644, err);
    if (r < 0) {
        return r;
    }
    if (job->tier == WASM_TIER_OPTIMIZED) {
        return compile_gcc(job, "-O2", err);
    }
    struct error ignored = {0};
    if (job->wasm->toolchain.path[TOOL_TCC] != NULL && compile_fast(job, &ignored) == 0) {
        return 0;
    }
    return compile_gcc(job, "-O0", err);
}

static int link_image(struct job *job, struct error *err)
{
    const struct toolchain *toolchain = &job->wasm->toolchain;
    MEMORY_OWNED char *script = memory_format("%s/link.ld", toolchain->folder);
    MEMORY_OWNED char *runtime = memory_format("%s/guest-runtime.o", toolchain->folder);
    const char *const argv[] = {toolchain->path[TOOL_LINK],
                                "-static",
                                "-nostdlib",
                                "--gc-sections",
                                "-z",
                                "noexecstack",
                                "--no-warn-rwx-segments",
                                "-T",
                                script,
                                runtime,
                                "fn.o",
                                "-o",
                                "image.elf",
                                NULL};
    return job_run(job, "linking", argv, err);
}

int pipeline_run(struct job *job, struct error *err)
{
    CHECK(job->tier < WASM_TIER_COUNT);

    int r = validate(job, err);
    if (r == 0) {
        r = rename_exports(job, err);
    }
    if (r < 0) {
        return r;
    }
    const char *module = job->tier == WASM_TIER_OPTIMIZED ? optimise(job) : "named.wasm";
    r = translate(job, module, err);
    if (r == 0) {
        r = compile(job, err);
    }
    return r < 0 ? r : link_image(job, err);
}
