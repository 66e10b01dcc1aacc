/*
 * What function VMs cost, as a table and, with --json FILE, as JSON:
 *
 *     vmm-bench [--json FILE] [--iterations N] [--instances N]
 *
 * Every figure stands beside the bare round trip (enter the guest, one call to the host, back)
 * measured in the same run: that is the floor the machine sets.
 */
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/vmm/vmm.h"

enum { ITERATIONS = 300, INSTANCES = 1000, WARM_UP = 10 };

struct figure {
    const char *name;
    const char *meaning;
    double median_us;
    double p99_us;
};

struct report {
    unsigned iterations;
    unsigned instances;
    struct vmm *vmm;
    struct vmm_image *echo;
    struct vmm_image *hostile;
    struct figure figures[16];
    size_t figure_count;
    double idle_kib;
};

static void stop_if(int failed, const struct error *err)
{
    if (failed != 0) {
        fprintf(stderr, "vmm-bench: %s\n", err->text);
        exit(error_kind_exit(err->kind));
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void add_figure(struct report *report, const char *name, const char *meaning,
                       uint64_t *samples_ns, size_t count)
{
    qsort(samples_ns, count, sizeof(samples_ns[0]), compare);
    report->figures[report->figure_count++] = (struct figure){
        .name = name,
        .meaning = meaning,
        .median_us = (double)samples_ns[count / 2] / 1000,
        .p99_us = (double)samples_ns[count * 99 / 100] / 1000,
    };
}

static struct vmm_image *load(struct vmm *vmm, const char *name, uint64_t memory_bytes)
{
    char self[PATH_MAX] = "";
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char path[PATH_MAX + 64];
    snprintf(path, sizeof(path), "%s/../guests/%s.elf", length > 0 ? dirname(self) : ".", name);
    BUFFER_OWNED struct buffer elf = {0};
    struct error err = {0};
    stop_if(file_read(path, 64 << 20, &elf, &err), &err);
    struct vmm_limits limits = {
        .memory_bytes = memory_bytes,
        .timeout_ms = 10000,
        .output_bytes_max = 1 << 20,
        .log_bytes_max = 1 << 16,
    };
    struct vmm_image *image = NULL;
    stop_if(vmm_image_new(vmm, elf.data, elf.used, &limits, NULL, &image, &err), &err);
    return image;
}

static struct vmm_shell *shell_for(struct vmm *vmm, struct vmm_image *image)
{
    struct vmm_image_info info;
    vmm_image_info(image, &info);
    struct vmm_shell *shell = NULL;
    struct error err = {0};
    stop_if(vmm_shell_new(vmm, info.class_bytes, &shell, &err), &err);
    return shell;
}

static void attach(struct vmm_shell *shell, struct vmm_image *image)
{
    struct error err = {0};
    stop_if(vmm_shell_attach(shell, image, &err), &err);
}

static void reset(struct vmm_shell *shell)
{
    struct error err = {0};
    stop_if(vmm_shell_reset(shell, NULL, &err), &err);
}

static bool take_output(const void *bytes, size_t length, void *context)
{
    (void)bytes;
    *(size_t *)context += length;
    return true;
}

static uint64_t call_echo(struct vmm_shell *shell)
{
    static const char request[] = "a request of forty bytes, more or less..";
    size_t answered = 0;
    struct vmm_call call = {
        .input = request,
        .input_length = sizeof(request) - 1,
        .sink = {.output = take_output, .context = &answered},
    };
    struct vmm_outcome outcome;
    vmm_shell_run(shell, &call, &outcome);
    if (outcome.end != VMM_END_EXIT || answered != sizeof(request) - 1) {
        fprintf(stderr, "vmm-bench: a call failed: %s\n", outcome.reason);
        exit(EXIT_FAILURE);
    }
    return outcome.run_ns;
}

/* ---- The measurements ---- */

/*
 * The floor: a guest that does nothing but call the host, many times in one run; a run's
 * beginning and end are in the difference to the same guest making none.
 */
static uint64_t run_round_trips(struct vmm_shell *shell, const char *input, uint64_t *ret_exits)
{
    size_t answered = 0;
    struct vmm_call call = {
        .input = input,
        .input_length = strlen(input),
        .sink = {.output = take_output, .context = &answered},
    };
    struct vmm_outcome outcome;
    vmm_shell_run(shell, &call, &outcome);
    *ret_exits = outcome.exits;
    return outcome.run_ns;
}

static void measure_floor(struct report *report)
{
    struct vmm_shell *shell = shell_for(report->vmm, report->hostile);
    uint64_t *samples = memory_new(report->iterations, sizeof(uint64_t));
    attach(shell, report->hostile);
    for (unsigned i = 0; i < report->iterations; i++) {
        uint64_t none_exits = 0;
        uint64_t many_exits = 0;
        uint64_t none_ns = run_round_trips(shell, "!", &none_exits);
        reset(shell);
        uint64_t many_ns = run_round_trips(shell, "T", &many_exits);
        reset(shell);
        uint64_t trips = many_exits - none_exits;
        samples[i] = many_ns > none_ns && trips > 0 ? (many_ns - none_ns) / trips : 0;
    }
    add_figure(report, "round_trip", "bare KVM_RUN round trip (the floor)", samples,
               report->iterations);
    free(samples);
    vmm_shell_free(shell);
}

static void measure_warm(struct report *report)
{
    struct vmm_shell *shell = shell_for(report->vmm, report->echo);
    uint64_t *calls = memory_new(report->iterations, sizeof(uint64_t));
    uint64_t *resets = memory_new(report->iterations, sizeof(uint64_t));
    uint64_t *both = memory_new(report->iterations, sizeof(uint64_t));
    attach(shell, report->echo);
    for (unsigned i = 0; i < WARM_UP; i++) {
        call_echo(shell);
        reset(shell);
    }
    for (unsigned i = 0; i < report->iterations; i++) {
        uint64_t begin_ns = clock_monotonic_ns();
        call_echo(shell);
        uint64_t called_ns = clock_monotonic_ns();
        reset(shell);
        uint64_t end_ns = clock_monotonic_ns();
        calls[i] = called_ns - begin_ns;
        resets[i] = end_ns - called_ns;
        both[i] = end_ns - begin_ns;
    }
    add_figure(report, "warm_call", "warm call", calls, report->iterations);
    add_figure(report, "reset", "reset (after the answer)", resets, report->iterations);
    add_figure(report, "warm_call_reset", "warm call + reset", both, report->iterations);
    free(calls);
    free(resets);
    free(both);
    vmm_shell_free(shell);
}

/* A washed shell from the pool takes an image and answers its first call. */
static void measure_pooled(struct report *report)
{
    struct vmm_shell *shell = shell_for(report->vmm, report->echo);
    uint64_t *samples = memory_new(report->iterations, sizeof(uint64_t));
    for (unsigned i = 0; i < report->iterations; i++) {
        uint64_t begin_ns = clock_monotonic_ns();
        attach(shell, report->echo);
        call_echo(shell);
        samples[i] = clock_monotonic_ns() - begin_ns;
        attach(shell, NULL);
    }
    add_figure(report, "cold_pooled", "cold start, recycled shell from the pool", samples,
               report->iterations);
    free(samples);
    vmm_shell_free(shell);
}

/* The same with shells the pool has just made: nothing of this image was ever in them. */
static void measure_new_from_pool(struct report *report)
{
    unsigned count = report->iterations < 100 ? report->iterations : 100;
    uint64_t *samples = memory_new(count, sizeof(uint64_t));
    for (unsigned i = 0; i < count; i++) {
        struct vmm_shell *shell = NULL;
        struct error err = {0};
        stop_if(vmm_shell_new(report->vmm, 0, &shell, &err), &err);
        uint64_t begin_ns = clock_monotonic_ns();
        attach(shell, report->echo);
        call_echo(shell);
        samples[i] = clock_monotonic_ns() - begin_ns;
        vmm_shell_free(shell);
    }
    add_figure(report, "cold_pooled_new", "cold start, new shell from the pool", samples, count);
    free(samples);
}

static void measure_from_nothing(struct report *report)
{
    unsigned count = report->iterations < 100 ? report->iterations : 100;
    uint64_t *samples = memory_new(count, sizeof(uint64_t));
    for (unsigned i = 0; i < count; i++) {
        uint64_t begin_ns = clock_monotonic_ns();
        struct vmm_shell *shell = shell_for(report->vmm, report->echo);
        attach(shell, report->echo);
        call_echo(shell);
        samples[i] = clock_monotonic_ns() - begin_ns;
        vmm_shell_free(shell);
    }
    add_figure(report, "cold_from_nothing", "cold start, from nothing", samples, count);
    free(samples);
}

static double available_kib(void)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    stop_if(file_read("/proc/meminfo", 1 << 20, &text, &err), &err);
    const char *line = strstr(buffer_string(&text), "MemAvailable:");
    return line != NULL ? strtod(line + strlen("MemAvailable:"), NULL) : 0;
}

/* Instances that have answered one call each, and wait. */
static double measure_idle(const struct report *report, struct vmm_image *image)
{
    struct vmm_shell **shells = memory_new(report->instances, sizeof(shells[0]));
    double before_kib = available_kib();
    for (unsigned i = 0; i < report->instances; i++) {
        shells[i] = shell_for(report->vmm, image);
        attach(shells[i], image);
        call_echo(shells[i]);
        reset(shells[i]);
    }
    double used_kib = before_kib - available_kib();
    for (unsigned i = 0; i < report->instances; i++) {
        vmm_shell_free(shells[i]);
    }
    free(shells);
    return used_kib / report->instances;
}

/* ---- The report ---- */

static void print_table(const struct report *report)
{
    double floor_us = report->figures[0].median_us;
    printf("%-40s %10s %10s %8s\n", "", "median us", "p99 us", "x floor");
    for (size_t i = 0; i < report->figure_count; i++) {
        const struct figure *figure = &report->figures[i];
        printf("%-40s %10.1f %10.1f %8.2f\n", figure->meaning, figure->median_us, figure->p99_us,
               figure->median_us / floor_us);
    }
    printf("%-40s %10.0f KiB (of %u, up to 128 MiB each)\n", "idle instance", report->idle_kib,
           report->instances);
}

static int write_json(const struct report *report, const char *path, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    double floor_us = report->figures[0].median_us;
    buffer_append_string(&text, "{\n  \"figures\": [\n");
    for (size_t i = 0; i < report->figure_count; i++) {
        const struct figure *figure = &report->figures[i];
        buffer_append_format(&text,
                             "    {\"name\": \"%s\", \"median_us\": %.2f, \"p99_us\": %.2f, "
                             "\"ratio_to_round_trip\": %.3f}%s\n",
                             figure->name, figure->median_us, figure->p99_us,
                             figure->median_us / floor_us, i + 1 < report->figure_count ? "," : "");
    }
    buffer_append_format(&text,
                         "  ],\n  \"iterations\": %u,\n  \"instances\": %u,\n"
                         "  \"idle_instance_kib\": %.0f\n}\n",
                         report->iterations, report->instances, report->idle_kib);
    return file_write(path, text.data, text.used, 0644, err);
}

static unsigned number(const char *text)
{
    unsigned long value = text != NULL ? strtoul(text, NULL, 10) : 0;
    if (value == 0 || value > 100000) {
        fprintf(stderr, "usage: vmm-bench [--json FILE] [--iterations N] [--instances N]\n");
        exit(64);
    }
    return (unsigned)value;
}

int main(int argc, char **argv)
{
    struct report report = {.iterations = ITERATIONS, .instances = INSTANCES};
    const char *json_path = NULL;
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
            json_path = argv[i + 1];
        } else if (strcmp(argv[i], "--iterations") == 0) {
            report.iterations = number(argv[i + 1]);
        } else if (strcmp(argv[i], "--instances") == 0) {
            report.instances = number(argv[i + 1]);
        } else {
            number(NULL);
        }
    }
    struct error err = {0};
    struct vmm_options options = {.isolation = VMM_ISOLATION_MICROVM, .kvm_fd = -1};
    stop_if(vmm_open(&options, &report.vmm, &err), &err);
    report.echo = load(report.vmm, "echo", 128 << 20);
    report.hostile = load(report.vmm, "hostile", 16 << 20);

    /* First: the kernel frees VMs a while after they have ended. */
    report.idle_kib = measure_idle(&report, report.echo);
    measure_floor(&report);
    measure_warm(&report);
    measure_pooled(&report);
    measure_new_from_pool(&report);
    measure_from_nothing(&report);
    print_table(&report);

    vmm_image_unref(report.echo);
    vmm_image_unref(report.hostile);
    vmm_close(report.vmm);
    if (json_path != NULL) {
        stop_if(write_json(&report, json_path, &err), &err);
    }
    return EXIT_SUCCESS;
}
