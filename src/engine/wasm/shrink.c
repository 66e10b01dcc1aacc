/* What the optimiser leaves of a module, told. */
#include "base/buffer.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/wasm/private.h"
#include "engine/wasm/reader.h"

enum { HEADER_SIZE = 8, SECTION_FUNCTIONS = 3, OPTIMISED_BYTES_MAX = 256 << 20 };

/* Functions that a module defines; its sections were checked before. */
static uint32_t count_functions(const struct buffer *module)
{
    struct error ignored = {0};
    struct reader reader = {.start = module->data,
                            .at = module->data,
                            .end = module->data + module->used,
                            .err = &ignored};
    reader_skip(&reader, HEADER_SIZE);
    while (reader.at < reader.end && reader.failed == 0) {
        uint8_t id = reader_byte(&reader);
        struct reader section = reader_part(&reader, reader_u32(&reader));
        if (id == SECTION_FUNCTIONS) {
            return reader_u32(&section);
        }
    }
    return 0;
}

static int run(struct job *job, struct wasm_shrunk *ret_shrunk, struct error *err)
{
    MEMORY_OWNED char *path = NULL;
    BUFFER_OWNED struct buffer bare = {0};
    BUFFER_OWNED struct buffer optimised = {0};
    rewrite_bare(job->bytes, job->length, &bare);
    *ret_shrunk = (struct wasm_shrunk){
        .bare_bytes = bare.used,
        .bare_functions = count_functions(&bare),
    };
    int r = pipeline_optimise(job, &path, err);
    if (r < 0 || path == NULL) {
        return r;
    }
    r = file_read(path, OPTIMISED_BYTES_MAX, &optimised, err);
    if (r == 0) {
        ret_shrunk->is_optimized = true;
        ret_shrunk->optimized_bytes = optimised.used;
        ret_shrunk->optimized_functions = count_functions(&optimised);
    }
    return r;
}

int wasm_shrink(struct wasm *wasm, const void *bytes, size_t length, struct wasm_shrunk *ret_shrunk,
                struct error *err)
{
    struct wasm_module_info info;
    int r = wasm_inspect(bytes, length, &info, err);
    if (r < 0) {
        return r;
    }
    if (wasm->problem.kind != ERROR_NONE) {
        *err = wasm->problem;
        return -(int)err->kind;
    }
    struct job job = {
        .wasm = wasm, .info = &info, .bytes = bytes, .length = length, .tier = WASM_TIER_OPTIMIZED};
    r = job_begin(&job, err);
    if (r == 0) {
        r = run(&job, ret_shrunk, err);
    }
    job_end(&job);
    return r;
}
