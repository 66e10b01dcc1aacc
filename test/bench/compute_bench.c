/*
 * compute-bench [--json FILE] [--rounds N]: the kernels natively (gcc -O2), in a function VM
 * through the whole pipeline, and in node, round by round in turn; prints the least time of each
 * and its ratio to native.  Checksums must agree.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/process.h"

#include "engine/image/image.h"
#include "engine/vmm/vmm.h"
#include "engine/wasm/wasm.h"

enum { KERNELS_MAX = 16, WAY_COUNT = 3 };

enum way { NATIVE, VM, NODE };

static const char *const way_names[WAY_COUNT] = {"native", "vm", "node"};

struct kernel {
    char name[32];
    char checksum[32];
    double least_ms[WAY_COUNT];
};

struct bench {
    struct kernel kernels[KERNELS_MAX];
    size_t kernel_count;
    struct vmm *vmm;
    struct vmm_shell *shell;
    bool has_node;
};

static void fail(const struct error *err)
{
    fprintf(stderr, "compute-bench: %s\n", err->text);
    exit(EXIT_FAILURE);
}

static struct kernel *find_kernel(struct bench *bench, const char *name, const char *checksum)
{
    for (size_t i = 0; i < bench->kernel_count; i++) {
        if (strcmp(bench->kernels[i].name, name) == 0) {
            if (strcmp(bench->kernels[i].checksum, checksum) != 0) {
                fprintf(stderr, "compute-bench: %s: checksums %s and %s differ\n", name,
                        bench->kernels[i].checksum, checksum);
                exit(EXIT_FAILURE);
            }
            return &bench->kernels[i];
        }
    }
    if (bench->kernel_count == KERNELS_MAX) {
        fprintf(stderr, "compute-bench: too many kernels\n");
        exit(EXIT_FAILURE);
    }
    struct kernel *kernel = &bench->kernels[bench->kernel_count++];
    snprintf(kernel->name, sizeof(kernel->name), "%s", name);
    snprintf(kernel->checksum, sizeof(kernel->checksum), "%s", checksum);
    return kernel;
}

/* "NAME CHECKSUM NANOSECONDS" lines. */
static void take_lines(struct bench *bench, enum way way, struct buffer *output)
{
    char *save = NULL;
    char *text = buffer_take(output);
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char name[32];
        char checksum[32];
        uint64_t ns = 0;
        if (sscanf(line, "%31s %31s %" SCNu64, name, checksum, &ns) == 3) {
            struct kernel *kernel = find_kernel(bench, name, checksum);
            double ms = (double)ns / 1e6;
            if (kernel->least_ms[way] == 0 || ms < kernel->least_ms[way]) {
                kernel->least_ms[way] = ms;
            }
        }
    }
    free(text);
}

static void run_program(struct bench *bench, enum way way, const char *const *argv)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer output = {0};
    struct process_options options = {.argv = argv, .output_max = 65536, .timeout_ms = 120000};
    struct process_result result;
    if (process_run(&options, &output, NULL, &result, &err) < 0) {
        fail(&err);
    }
    take_lines(bench, way, &output);
}

static bool append_output(const void *bytes, size_t length, void *context)
{
    buffer_append(context, bytes, length);
    return true;
}

static void drop_log(const void *bytes, size_t length, void *context)
{
    (void)context;
    fprintf(stderr, "%.*s", (int)length, (const char *)bytes);
}

static void run_in_vm(struct bench *bench)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer output = {0};
    struct vmm_call call = {
        .sink = {.output = append_output, .log = drop_log, .context = &output},
    };
    struct vmm_outcome outcome;
    vmm_shell_run(bench->shell, &call, &outcome);
    if (outcome.end != VMM_END_EXIT) {
        fprintf(stderr, "compute-bench: in the VM: %s\n", outcome.reason);
        exit(EXIT_FAILURE);
    }
    take_lines(bench, VM, &output);
    if (vmm_shell_reset(bench->shell, NULL, &err) < 0) {
        fail(&err);
    }
}

/* Through the pipeline: module, image, shell. */
static void prepare_vm(struct bench *bench, const char *folder)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer module = {0};
    BUFFER_OWNED struct buffer elf = {0};
    MEMORY_OWNED char *images_folder = memory_format("%s/images", folder);
    MEMORY_OWNED char *work_folder = memory_format("%s/work", folder);
    struct image_store *images = NULL;
    struct wasm *wasm = NULL;
    struct wasm_result result;
    struct vmm_image *image = NULL;
    struct vmm_image_info info;
    struct vmm_options vmm_options = {.isolation = VMM_ISOLATION_MICROVM, .kvm_fd = -1};
    struct vmm_limits limits = {.memory_bytes = UINT64_C(128) << 20,
                                .timeout_ms = 120000,
                                .output_bytes_max = 1 << 20,
                                .log_bytes_max = 1 << 20};
    struct vmm_sink sink = {.output = append_output, .log = drop_log, .context = &elf};

    if (file_read(KERNELS_WASM, 16 << 20, &module, &err) < 0 ||
        file_make_folder(images_folder, 0700, &err) < 0 ||
        file_make_folder(work_folder, 0700, &err) < 0 ||
        image_store_open(images_folder, &images, &err) < 0) {
        fail(&err);
    }
    struct wasm_options options = {.work_folder = work_folder, .images = images};
    if (wasm_open(&options, &wasm, &err) < 0 ||
        wasm_compile(wasm, module.data, module.used, WASM_TIER_OPTIMIZED, NULL, &result, &err) <
            0 ||
        image_read(images, result.image_id, 64 << 20, &elf, &err) < 0) {
        fail(&err);
    }
    if (vmm_open(&vmm_options, &bench->vmm, &err) < 0) {
        fprintf(stderr, "compute-bench: %s; measuring the process sandbox\n", err.text);
        vmm_options.isolation = VMM_ISOLATION_PROCESS;
        vmm_options.shells_max = 1;
        if (vmm_open(&vmm_options, &bench->vmm, &err) < 0) {
            fail(&err);
        }
    }
    if (vmm_image_new(bench->vmm, elf.data, elf.used, &limits, &sink, &image, &err) < 0) {
        fail(&err);
    }
    vmm_image_info(image, &info);
    if (vmm_shell_new(bench->vmm, info.class_bytes, &bench->shell, &err) < 0 ||
        vmm_shell_attach(bench->shell, image, &err) < 0) {
        fail(&err);
    }
    vmm_image_unref(image);
    wasm_close(wasm);
    image_store_close(images);
}

static double geomean(const struct bench *bench, enum way way)
{
    double sum = 0;
    for (size_t i = 0; i < bench->kernel_count; i++) {
        sum += log(bench->kernels[i].least_ms[way] / bench->kernels[i].least_ms[NATIVE]);
    }
    return exp(sum / (double)bench->kernel_count);
}

static void report(const struct bench *bench, const char *json_path)
{
    BUFFER_OWNED struct buffer json = {0};
    struct json_writer writer = json_writer_to(&json);
    json_write_begin_object(&writer);
    printf("\nCompute kernels, least of all rounds in ms, ratio to native gcc -O2\n");
    printf("%-8s %10s %10s %7s %10s %7s\n", "kernel", "native", "vm", "ratio", "node", "ratio");
    for (size_t i = 0; i < bench->kernel_count; i++) {
        const struct kernel *k = &bench->kernels[i];
        double native = k->least_ms[NATIVE];
        printf("%-8s %10.2f %10.2f %7.2f %10.2f %7.2f\n", k->name, native, k->least_ms[VM],
               k->least_ms[VM] / native, k->least_ms[NODE], k->least_ms[NODE] / native);
        json_write_key(&writer, k->name);
        json_write_begin_object(&writer);
        for (int way = 0; way < WAY_COUNT; way++) {
            json_write_field_double(&writer, way_names[way], k->least_ms[way]);
        }
        json_write_end_object(&writer);
    }
    double vm = geomean(bench, VM);
    double node = bench->has_node ? geomean(bench, NODE) : 0;
    printf("%-8s %10s %10s %7.2f %10s %7.2f\n", "geomean", "", "", vm, "", node);
    json_write_field_double(&writer, "geomean_vm", vm);
    json_write_field_double(&writer, "geomean_node", node);
    json_write_end_object(&writer);

    struct error err = {0};
    if (json_path != NULL && file_write(json_path, json.data, json.used, 0644, &err) < 0) {
        fail(&err);
    }
}

int main(int argc, char **argv)
{
    struct bench bench = {0};
    const char *json_path = NULL;
    int rounds = 5;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--json") == 0) {
            json_path = argv[i + 1];
        } else if (strcmp(argv[i], "--rounds") == 0) {
            rounds = (int)strtol(argv[i + 1], NULL, 10);
        }
    }
    char folder[] = "/tmp/blixard-bench-XXXXXX";
    if (mkdtemp(folder) == NULL) {
        perror("compute-bench");
        return EXIT_FAILURE;
    }
    const char *const native[] = {KERNELS_NATIVE, NULL};
    const char *const node[] = {"node", "--no-warnings", NODE_RUN, KERNELS_WASM, NULL};
    MEMORY_OWNED char *node_path = file_find_program("node");
    bench.has_node = node_path != NULL;

    prepare_vm(&bench, folder);
    for (int round = 0; round < rounds; round++) {
        run_program(&bench, NATIVE, native);
        run_in_vm(&bench);
        if (bench.has_node) {
            run_program(&bench, NODE, node);
        }
    }
    report(&bench, json_path);

    vmm_shell_free(bench.shell);
    vmm_close(bench.vmm);
    struct error err = {0};
    file_remove_tree(folder, &err);
    return EXIT_SUCCESS;
}
