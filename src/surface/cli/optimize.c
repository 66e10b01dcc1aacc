/* `fn optimize`: what becomes of a module on its way to code, its sizes and how fast it runs. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/image.h"
#include "engine/vmm/vmm.h"
#include "engine/wasm/wasm.h"

#include "surface/cli/private.h"
#include "surface/cli/run.h"

enum {
    CALLS_DEFAULT = 50,
    CALLS_MAX = 10000,
    INPUT_MAX = 32 << 20,
    IMAGE_BYTES_MAX = 512 << 20,
    CALL_TIMEOUT_MS = 60000,
    SPENT_MS = 20000, /* on the calls of one tier */
};

struct optimizing {
    struct image_store *images;
    struct wasm *wasm;
    struct vmm *vmm;
    struct buffer module;
    struct buffer input;
    struct buffer environment;
    unsigned calls;
    json_t *report;
};

static void done(struct optimizing *optimizing)
{
    vmm_close(optimizing->vmm);
    wasm_close(optimizing->wasm);
    if (optimizing->images != NULL) {
        image_store_close(optimizing->images);
    }
    buffer_done(&optimizing->module);
    buffer_done(&optimizing->input);
    buffer_wipe(&optimizing->environment);
    json_decref(optimizing->report);
}

/* ---- What is looked at ---- */

static int fetch(struct optimizing *optimizing, const char *name, struct error *err)
{
    JSON_OWNED json_t *function = NULL;
    ANSWER_OWNED struct answer answer = {0};
    MEMORY_OWNED char *target = request_target("functions", name, "");
    int r = request_json("GET", target, NULL, &function, err);
    if (r < 0) {
        return r;
    }
    const json_t *version = json_object_get(function, "version");
    const char *runtime = json_string_value(json_object_get(version, "runtime"));
    const char *module = json_string_value(json_object_get(version, "module"));
    if (module == NULL || runtime == NULL || strcmp(runtime, "wasm") != 0) {
        return error_set(err, ERROR_UNSUPPORTED, "%.64s is no WebAssembly: its runtime is %.20s",
                         name, runtime != NULL ? runtime : "not known");
    }
    MEMORY_OWNED char *blob = request_target("blobs", module, "");
    r = request("GET", blob, NULL, NULL, 0, &answer, err);
    if (r == 0) {
        buffer_append(&optimizing->module, answer.body.data, answer.body.used);
        json_object_set(optimizing->report, "version", json_object_get(version, "number"));
    }
    return r;
}

static int take_input(struct optimizing *optimizing, const struct arguments *arguments,
                      struct error *err)
{
    const char *data = flag_value(arguments, "data");
    const char *file = flag_value(arguments, "file");
    const char *calls = flag_value(arguments, "calls");
    uint64_t count = CALLS_DEFAULT;
    if (data != NULL && file != NULL) {
        return error_set(err, ERROR_INVALID, "--data and --file exclude each other");
    }
    if (calls != NULL &&
        (!text_parse_u64(text_of(calls, strlen(calls)), &count) || count < 1 ||
         count > CALLS_MAX)) {
        return error_set(err, ERROR_INVALID, "--calls is a number from 1 to %d", CALLS_MAX);
    }
    optimizing->calls = (unsigned)count;
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        int r = strcmp(arguments->flags[i].name, "env") == 0
            ? run_add_variable(&optimizing->environment, arguments->flags[i].value, err)
            : 0;
        if (r < 0) {
            return r;
        }
    }
    if (optimizing->environment.used > VMM_ENV_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "variables may have 64 KiB together");
    }
    if (data != NULL) {
        buffer_append_string(&optimizing->input, data);
    }
    return file != NULL ? file_read(file, INPUT_MAX, &optimizing->input, err) : 0;
}

/* A file is what looks like one, anything else the name of a function that is deployed. */
static int take_module(struct optimizing *optimizing, const char *what, struct error *err)
{
    bool is_file = strchr(what, '/') != NULL || text_ends_with(what, ".wasm");
    json_object_set_new(optimizing->report, "name", json_string(what));
    return is_file ? file_read(what, RUN_MODULE_MAX, &optimizing->module, err)
                   : fetch(optimizing, what, err);
}

/* ---- Sizes ---- */

static json_t *stage(const char *name, uint64_t bytes, const uint32_t *functions_or_null)
{
    json_t *row = json_object();
    json_object_set_new(row, "stage", json_string(name));
    json_object_set_new(row, "bytes", json_integer((json_int_t)bytes));
    if (functions_or_null != NULL) {
        json_object_set_new(row, "functions", json_integer(*functions_or_null));
    }
    return row;
}

static int measure_module(struct optimizing *optimizing, struct error *err)
{
    const struct buffer *module = &optimizing->module;
    json_t *stages = json_array();
    struct wasm_shrunk shrunk;
    json_object_set_new(optimizing->report, "module", stages);
    int r = wasm_shrink(optimizing->wasm, module->data, module->used, &shrunk, err);
    if (r < 0) {
        return r;
    }
    json_array_append_new(stages, stage("as it is", module->used, NULL));
    json_array_append_new(stages,
                          stage("without names", shrunk.bare_bytes, &shrunk.bare_functions));
    if (shrunk.is_optimized) {
        json_array_append_new(
            stages, stage("optimized", shrunk.optimized_bytes, &shrunk.optimized_functions));
    }
    return 0;
}

/* ---- Speed ---- */

static bool take_output(const void *bytes, size_t length, void *context)
{
    (void)bytes;
    (void)length;
    (void)context;
    return true;
}

static void take_log(const void *bytes, size_t length, void *context)
{
    (void)bytes;
    (void)length;
    (void)context;
}

static int compare_times(const void *a, const void *b)
{
    uint64_t one = *(const uint64_t *)a;
    uint64_t other = *(const uint64_t *)b;
    return one < other ? -1 : one > other;
}

/* Calls, each with fresh memory: the median of how long they ran.  What goes wrong is told in the
 * row: a function may need what only a node gives it. */
static int time_calls(const struct optimizing *optimizing, struct vmm_shell *shell, json_t *row,
                      struct error *err)
{
    MEMORY_OWNED uint64_t *times = memory_new(optimizing->calls, sizeof(*times));
    const struct vmm_call call = {.environment = (const char *)optimizing->environment.data,
                                  .environment_length = optimizing->environment.used,
                                  .input = optimizing->input.data,
                                  .input_length = optimizing->input.used,
                                  .sink = {.output = take_output, .log = take_log}};
    uint64_t end_ms = clock_monotonic_ms() + SPENT_MS;
    unsigned count = 0;
    int r = 0;
    while (count < optimizing->calls && r == 0 && (count == 0 || clock_monotonic_ms() < end_ms)) {
        struct vmm_outcome outcome = {0};
        vmm_shell_run(shell, &call, &outcome);
        if (outcome.end != VMM_END_EXIT || outcome.exit_code != 0) {
            MEMORY_OWNED char *problem = outcome.end == VMM_END_EXIT
                ? memory_format("ended with status %u", outcome.exit_code)
                : memory_copy_string(outcome.reason);
            json_object_set_new(row, "problem", json_string(problem));
            return 0;
        }
        times[count++] = outcome.run_ns;
        r = vmm_shell_reset(shell, NULL, err);
    }
    qsort(times, count, sizeof(*times), compare_times);
    json_object_set_new(row, "calls", json_integer(count));
    uint64_t median_ns = times[count / 2];
    json_object_set_new(row, "call_us", json_real((double)median_ns / 1000));
    return r;
}

static int run_code(struct optimizing *optimizing, const struct buffer *elf, json_t *row,
                    struct error *err)
{
    const struct vmm_limits limits = {.memory_bytes = RUN_MEMORY_BYTES,
                                      .files_bytes = UINT64_C(512) << 20,
                                      .timeout_ms = CALL_TIMEOUT_MS,
                                      .output_bytes_max = UINT64_MAX,
                                      .log_bytes_max = UINT64_MAX};
    const struct vmm_sink sink = {.log = take_log};
    struct vmm_image *image = NULL;
    struct vmm_shell *shell = NULL;
    struct vmm_image_info info;
    struct error refused = {0};
    if (vmm_image_new(optimizing->vmm, elf->data, elf->used, &limits, &sink, &image, &refused) <
        0) {
        json_object_set_new(row, "problem", json_string(refused.text));
        return 0;
    }
    vmm_image_info(image, &info);
    json_object_set_new(row, "text_bytes", json_integer((json_int_t)info.text_bytes));
    json_object_set_new(row, "snapshot_bytes", json_integer((json_int_t)info.snapshot_bytes));
    int r = vmm_shell_new(optimizing->vmm, info.class_bytes, &shell, err);
    r = r < 0 ? r : vmm_shell_attach(shell, image, err);
    r = r < 0 ? r : time_calls(optimizing, shell, row, err);
    vmm_shell_free(shell);
    vmm_image_unref(image);
    return r;
}

static int measure_tier(struct optimizing *optimizing, enum wasm_tier tier, struct error *err)
{
    const struct buffer *module = &optimizing->module;
    BUFFER_OWNED struct buffer elf = {0};
    struct wasm_result result;
    int r = wasm_compile(optimizing->wasm, module->data, module->used, tier, NULL, &result, err);
    r = r < 0 ? r : image_read(optimizing->images, result.image_id, IMAGE_BYTES_MAX, &elf, err);
    if (r < 0) {
        return r;
    }
    json_t *row = json_object();
    json_array_append_new(json_object_get(optimizing->report, "code"), row);
    json_object_set_new(row, "tier", json_string(wasm_tier_text(tier)));
    json_object_set_new(row, "image", json_string(result.image_id));
    json_object_set_new(row, "image_bytes", json_integer((json_int_t)result.elf_bytes));
    json_object_set_new(row, "compile_ms", json_integer((json_int_t)result.wall_ms));
    return run_code(optimizing, &elf, row, err);
}

/* ---- The report ---- */

static void add_ratio(json_t *report)
{
    const json_t *code = json_object_get(report, "code");
    double fast =
        json_number_value(json_object_get(json_array_get(code, WASM_TIER_FAST), "call_us"));
    double optimized =
        json_number_value(json_object_get(json_array_get(code, WASM_TIER_OPTIMIZED), "call_us"));
    if (fast > 0 && optimized > 0) {
        json_object_set_new(report, "speedup", json_real(fast / optimized));
    }
}

static void print_report(const json_t *report)
{
    static const struct column stages[] = {
        {"MODULE", "stage", AS_TEXT},
        {"SIZE", "bytes", AS_BYTES},
        {"FUNCTIONS", "functions", AS_TEXT},
    };
    static const struct column code[] = {
        {"CODE", "tier", AS_TEXT},
        {"IMAGE", "image_bytes", AS_BYTES},
        {"TEXT", "text_bytes", AS_BYTES},
        {"SNAPSHOT", "snapshot_bytes", AS_BYTES},
        {"COMPILED IN", "compile_ms", AS_TIME},
        {"CALL", "call", AS_TEXT},
    };
    JSON_OWNED json_t *rows = json_deep_copy(json_object_get(report, "code"));
    size_t index = 0;
    json_t *row = NULL;
    json_array_foreach(rows, index, row)
    {
        const char *problem = json_string_value(json_object_get(row, "problem"));
        MEMORY_OWNED char *call = problem != NULL
            ? memory_format("not measured: %s", problem)
            : memory_format("%.3f ms", json_number_value(json_object_get(row, "call_us")) / 1000);
        json_object_set_new(row, "call", json_string(call));
    }
    print_table(json_object_get(report, "module"), stages, sizeof(stages) / sizeof(stages[0]));
    printf("\n");
    print_table(rows, code, sizeof(code) / sizeof(code[0]));
    const json_t *speedup = json_object_get(report, "speedup");
    if (speedup != NULL) {
        printf("\nOptimized code runs %.1f times as fast (median of %lld calls, %s).\n",
               json_number_value(speedup),
               (long long)json_integer_value(
                   json_object_get(json_array_get(rows, WASM_TIER_OPTIMIZED), "calls")),
               json_string_value(json_object_get(report, "isolation")));
    }
}

static int measure(struct optimizing *optimizing, struct error *err)
{
    json_object_set_new(optimizing->report, "isolation",
                        json_string(vmm_isolation_text(vmm_isolation(optimizing->vmm))));
    int r = measure_module(optimizing, err);
    json_object_set_new(optimizing->report, "code", json_array());
    for (unsigned tier = 0; tier < WASM_TIER_COUNT && r == 0; tier++) {
        r = measure_tier(optimizing, tier, err);
    }
    add_ratio(optimizing->report);
    return r;
}

int verb_fn_optimize(const struct arguments *arguments, struct error *err)
{
    struct optimizing optimizing = {.report = json_object()};
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : take_input(&optimizing, arguments, err);
    r = r < 0 ? r : take_module(&optimizing, arguments->words[0], err);
    r = r < 0 ? r : run_open_pipeline(&optimizing.images, &optimizing.wasm, err);
    r = r < 0 ? r : run_open_vmm(flag_value(arguments, "isolation"), false, &optimizing.vmm, err);
    r = r < 0 ? r : measure(&optimizing, err);
    if (r == 0 && output == OUTPUT_TABLE) {
        print_report(optimizing.report);
    } else if (r == 0) {
        print_document(optimizing.report, output);
    }
    done(&optimizing);
    return r;
}
