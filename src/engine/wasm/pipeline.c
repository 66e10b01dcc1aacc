/*
 * fn.wasm -> wasm-validate -> fn-named.wasm -> [wasm-opt] -> wasm2c -> C with a constant memory
 * base -> gcc -> image.elf
 *
 * The flags are not taste: -ffp-contract=off (or fused multiply-adds change results), no strict
 * aliasing games (wasm memory is bytes), -fpie (all addresses are relative to the instruction: the
 * image lies above 4 GiB), -fno-math-errno (one instruction for sqrt), -fsignaling-nans (x * 1
 * makes a NaN quiet), no sibling calls made jumps (endless recursion exhausts the stack, it does
 * not hang), no stack protector (there is no thread-local storage in the guest), large frames
 * touched page by page (none steps over the hole below the stack), no removal of dead stores in RTL
 * (gcc 12 takes accesses at two constant addresses for ones that never overlap; memory has such).
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

/* A module on its way; its files are named after it. */
struct unit {
    const char *name;
    const void *bytes;
    size_t length;
    const struct link_place *imports; /* of WASM_FORM_LINKED */
};

static char *unit_path(const struct job *job, const struct unit *unit, const char *ending)
{
    return memory_format("%s/%s%s", job->folder, unit->name, ending);
}

static int validate(struct job *job, const struct unit *unit, struct error *err)
{
    static const char what[] = "validating the module";
    MEMORY_OWNED char *name = memory_format("%s.wasm", unit->name);
    MEMORY_OWNED char *path = job_path(job, name);
    const char *const argv[] = {job->wasm->toolchain.path[TOOL_VALIDATE], name, NULL};
    BUFFER_OWNED struct buffer bare = {0};
    rewrite_bare(unit->bytes, unit->length, &bare);
    int r = file_write(path, bare.data, bare.used, 0644, err);
    r = r < 0 ? r : job_run(job, what, argv, err);
    const char *term = r == -ERROR_INVALID ? terms_find(err->text) : NULL;
    if (term != NULL) {
        const struct error said = *err;
        error_set(err, ERROR_INVALID, "%s failed: %s (%s)", what, term,
                  said.text + strlen(what) + strlen(" failed: "));
    }
    return r;
}

/* Names that are no names in C are valid, so this is for after the validation. */
static int rename_items(struct job *job, const struct unit *unit, struct error *err)
{
    MEMORY_OWNED char *path = unit_path(job, unit, "-named.wasm");
    BUFFER_OWNED struct buffer named = {0};
    if (job->form == WASM_FORM_LINKED) {
        rewrite_linked(unit->bytes, unit->length, unit->imports, &named);
    } else {
        rewrite_names(unit->bytes, unit->length, job->form, &named);
    }
    return file_write(path, named.data, named.used, 0644, err);
}

/* An optimiser that fails costs speed, not the deploy: false. */
static bool optimise(struct job *job, const char *module, const char *optimised)
{
    const char *path = job->wasm->toolchain.path[TOOL_OPTIMIZE];
    const char *const argv[] = {path,
                                module,
                                "-O2",
                                "--enable-bulk-memory",
                                "--enable-sign-ext",
                                "--enable-nontrapping-float-to-int",
                                "--enable-mutable-globals",
                                "--enable-multivalue",
                                "--enable-reference-types",
                                "--output",
                                optimised,
                                NULL};
    struct error ignored = {0};
    return path != NULL && job_run(job, "optimising the module", argv, &ignored) == 0;
}

/*
 * Binaryen 108 knows no loops that take values: it refuses most, and of others loses what each turn
 * but the first is given.  It drops segments of no elements, which trap where they lie beyond the
 * table.  And of two traps it keeps either, so that nothing is for it of which every call tells how
 * it ended.
 */
static bool is_optimisable(const struct job *job, const struct unit *unit)
{
    struct wasm_module_info info;
    struct error ignored = {0};
    return job->form == WASM_FORM_FUNCTION &&
        wasm_inspect(unit->bytes, unit->length, &info, &ignored) == 0 && !info.has_typed_loop &&
        !info.has_empty_segment;
}

static int to_c_of(struct job *job, const struct unit *unit, const char *ending, struct error *err)
{
    MEMORY_OWNED char *input = memory_format("%s%s", unit->name, ending);
    MEMORY_OWNED char *output = memory_format("%s.c", unit->name);
    const char *const argv[] = {
        job->wasm->toolchain.path[TOOL_TRANSLATE], "-n", unit->name, input, "-o", output, NULL};
    return job_run(job, "translating the module", argv, err);
}

/* The optimiser may make types of references that only it knows: then without it. */
static int to_c(struct job *job, const struct unit *unit, struct error *err)
{
    MEMORY_OWNED char *named = memory_format("%s-named.wasm", unit->name);
    MEMORY_OWNED char *optimised = memory_format("%s-optimised.wasm", unit->name);
    struct error ignored = {0};
    bool is_done = job->tier == WASM_TIER_OPTIMIZED && is_optimisable(job, unit) &&
        optimise(job, named, optimised) && to_c_of(job, unit, "-optimised.wasm", &ignored) == 0;
    return is_done ? 0 : to_c_of(job, unit, "-named.wasm", err);
}

int pipeline_optimise(struct job *job, char **ret_path, struct error *err)
{
    const struct unit unit = {.name = "fn", .bytes = job->bytes, .length = job->length};
    int r = validate(job, &unit, err);
    r = r < 0 ? r : rename_items(job, &unit, err);
    *ret_path =
        r == 0 && is_optimisable(job, &unit) && optimise(job, "fn-named.wasm", "fn-optimised.wasm")
        ? unit_path(job, &unit, "-optimised.wasm")
        : NULL;
    return r;
}

/* The unit's C, as it is compiled. */
static int translate(struct job *job, const struct unit *unit, struct error *err)
{
    BUFFER_OWNED struct buffer source = {0};
    MEMORY_OWNED char *path = unit_path(job, unit, ".c");
    int r = validate(job, unit, err);
    r = r < 0 ? r : rename_items(job, unit, err);
    r = r < 0 ? r : to_c(job, unit, err);
    r = r < 0 ? r : file_read(path, SOURCE_BYTES_MAX, &source, err);
    if (r < 0) {
        return r;
    }
    translate_memory_size(&source);
    if (job->form == WASM_FORM_LINKED) {
        translate_memory_checks(&source);
    } else {
        translate_memory_base(&source);
    }
    if (job->form != WASM_FORM_FUNCTION) {
        translate_order(&source);
    }
    translate_traps(&source);
    return file_write(path, source.data, source.used, 0644, err);
}

/* ---- Compiling ---- */

static int compile(struct job *job, const char *source, const char *object, struct error *err)
{
    const char *level = job->tier == WASM_TIER_OPTIMIZED ? "-O2" : "-O0";
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
                                "-fno-dse",
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
                                source,
                                "-o",
                                object,
                                NULL};
    return job_run(job, "compiling", argv, err);
}

static int link_image(struct job *job, const char *const *objects, size_t count, struct error *err)
{
    enum { WORDS = 13, WORDS_MAX = WORDS + WASM_LINKED_MAX + 2 };
    const struct toolchain *toolchain = &job->wasm->toolchain;
    MEMORY_OWNED char *script = memory_format("%s/link.ld", toolchain->folder);
    MEMORY_OWNED char *runtime = memory_format("%s/guest-runtime.o", toolchain->folder);
    const char *argv[WORDS_MAX] = {toolchain->path[TOOL_LINK],
                                   "-static",
                                   "-nostdlib",
                                   "--gc-sections",
                                   "-z",
                                   "noexecstack",
                                   "--no-warn-rwx-segments",
                                   "--no-relax", /* it would make addresses 32 bits */
                                   "-o",
                                   "image.elf",
                                   "-T",
                                   script,
                                   runtime};
    CHECK(count < WORDS_MAX - WORDS);
    memcpy(argv + WORDS, objects, count * sizeof(objects[0]));
    return job_run(job, "linking", argv, err);
}

/* ---- One module, compiled with its glue in one go ---- */

static int write_glue(const struct job *job, struct buffer *ret_glue, struct error *err)
{
    if (job->form == WASM_FORM_FUNCTION) {
        translate_glue(job->info, ret_glue);
        return 0;
    }
    WASM_EXPORTS_OWNED struct wasm_exports exports = {0};
    int r = wasm_exports_read(job->bytes, job->length, &exports, err);
    if (r == 0) {
        const struct glue_unit unit = {.name = "fn", .exports = &exports};
        glue_exports(&unit, 1, ret_glue);
    }
    return r;
}

static int run_one(struct job *job, struct error *err)
{
    static const char *const objects[] = {"fn.o"};
    const struct unit unit = {.name = "fn", .bytes = job->bytes, .length = job->length};
    MEMORY_OWNED char *path = job_path(job, "all.c");
    BUFFER_OWNED struct buffer all = {0};
    int r = translate(job, &unit, err);
    if (r < 0) {
        return r;
    }
    buffer_append_string(&all, "#include \"fn.c\"\n");
    r = write_glue(job, &all, err);
    r = r < 0 ? r : file_write(path, all.data, all.used, 0644, err);
    r = r < 0 ? r : compile(job, "all.c", objects[0], err);
    return r < 0 ? r : link_image(job, objects, 1, err);
}

/* ---- Several, each by itself, with the glue behind them ---- */

static int compile_unit(struct job *job, size_t number, struct buffer *ret_header,
                        struct error *err)
{
    const struct link_unit *linked = &job->link->units[number];
    const struct unit unit = {.name = linked->name,
                              .bytes = job->modules[number].bytes,
                              .length = job->modules[number].length,
                              .imports = linked->imports};
    MEMORY_OWNED char *source = memory_format("%s.c", unit.name);
    MEMORY_OWNED char *object = memory_format("%s.o", unit.name);
    MEMORY_OWNED char *header = unit_path(job, &unit, ".h");
    int r = translate(job, &unit, err);
    r = r < 0 ? r : compile(job, source, object, err);
    return r < 0 ? r : file_read(header, SOURCE_BYTES_MAX, ret_header, err);
}

static int compile_linked_glue(struct job *job, struct buffer *headers, struct error *err)
{
    struct glue_unit units[WASM_LINKED_MAX];
    MEMORY_OWNED char *path = job_path(job, "glue.c");
    BUFFER_OWNED struct buffer glue = {0};
    for (size_t i = 0; i < job->link->count; i++) {
        units[i] = (struct glue_unit){.name = job->link->units[i].name,
                                      .header = buffer_string(&headers[i]),
                                      .exports = &job->link->units[i].exports,
                                      .imports = job->link->units[i].imports,
                                      .import_count = job->link->units[i].import_count};
        buffer_append_format(&glue, "#include \"%s.h\"\n", units[i].name);
    }
    glue_exports(units, job->link->count, &glue);
    int r = file_write(path, glue.data, glue.used, 0644, err);
    return r < 0 ? r : compile(job, "glue.c", "glue.o", err);
}

static int run_linked(struct job *job, struct error *err)
{
    struct buffer headers[WASM_LINKED_MAX] = {0};
    char names[WASM_LINKED_MAX][16];
    const char *objects[WASM_LINKED_MAX + 1];
    size_t count = job->link->count;
    int r = 0;
    for (size_t i = 0; i < count && r == 0; i++) {
        snprintf(names[i], sizeof(names[i]), "%s.o", job->link->units[i].name);
        objects[i] = names[i];
        r = compile_unit(job, i, &headers[i], err);
    }
    objects[count] = "glue.o";
    r = r < 0 ? r : compile_linked_glue(job, headers, err);
    r = r < 0 ? r : link_image(job, objects, count + 1, err);
    for (size_t i = 0; i < count; i++) {
        buffer_done(&headers[i]);
    }
    return r;
}

int pipeline_run(struct job *job, struct error *err)
{
    CHECK(job->tier < WASM_TIER_COUNT);
    CHECK((job->form == WASM_FORM_LINKED) == (job->link != NULL));

    return job->form == WASM_FORM_LINKED ? run_linked(job, err) : run_one(job, err);
}
