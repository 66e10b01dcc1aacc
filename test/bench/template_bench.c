/*
 * template-bench KERNEL INITRD FOLDER [CLONES]: boot one machine whose init is the agent, make a
 * template of it in both ways, and start clones.  Prints one JSON object: milliseconds of the boot,
 * of the save, of the stamping, and of each clone from its start to its agent's first answer; bytes
 * of memory that each has for itself (proportional set size) while all of them run.
 *
 * With `boot` in place of CLONES: that boot alone, by a daemon that has been there for a while,
 * until the VMM obeys and until the agent has said hello; the CPU time until then, of the VMM and
 * of what is ours beside it; and what one more session with that agent takes.  With `start`: until
 * the VMM obeys alone, which is where it is ended.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/agent/agent.h"
#include "engine/hypervisor/hypervisor.h"
#include "engine/hypervisor/template.h"

enum { CLONES_MAX = 64, STATE_MODE = 0600, SETTLE_US = 60000 };

struct vm {
    char *folder;
    struct hypervisor_vm *vm;
    struct agent *agent;
    uint64_t begin_us;
    uint64_t obeys_us;
    uint64_t up_us;    /* the agent has said hello */
    uint64_t renew_us; /* it is itself */
    uint64_t cpu_ms;   /* of its VMM, until then */
    uint64_t vmm_us;   /* the same, of its threads */
    uint64_t own_us;   /* of its monitor, and of this process since the start */
    uint64_t self_us;  /* of this process before it */
    uint64_t pss_bytes;
    bool has_ended;
};

static struct loop *loop;
static struct hypervisor *hypervisor;
static struct vm source;
static struct vm clones[CLONES_MAX];
static unsigned clone_count = 5;
static const char *folder;
static struct hypervisor_spec spec;
static bool is_waiting;
static uint64_t save_us;
static uint64_t stamp_us;
static uint64_t again_us;
static bool starts_only;

static uint64_t now_us(void)
{
    return clock_monotonic_ns() / 1000;
}

static void must(const struct error *error)
{
    if (error != NULL) {
        fprintf(stderr, "template-bench: %s\n", error->text);
        exit(EXIT_FAILURE);
    }
}

static void wait_for_it(void)
{
    while (is_waiting) {
        uv_run(loop_uv(loop), UV_RUN_ONCE);
    }
}

static void on_done(const struct error *error, void *context)
{
    (void)context;
    must(error);
    is_waiting = false;
}

static void on_renewed(const struct error *error, const struct agent_result *result, void *context)
{
    struct vm *vm = context;
    (void)result;
    if (error != NULL && error->kind == ERROR_CANCELLED) {
        return;
    }
    must(error);
    vm->renew_us = now_us();
    is_waiting = false;
}

/* ---- CPU time ---- */

/* The kernel's own count (schedstat: nanoseconds first), of all threads that live. */
static uint64_t cpu_us_of(int pid)
{
    uint64_t sum_ns = 0;
    MEMORY_OWNED char *path = memory_format("/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    const struct dirent *entry = NULL;
    while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
        BUFFER_OWNED struct buffer text = {0};
        struct error ignored = {0};
        MEMORY_OWNED char *one = memory_format("%s/%s/schedstat", path, entry->d_name);
        if (entry->d_name[0] != '.' && file_read(one, 256, &text, &ignored) == 0) {
            sum_ns += strtoull(buffer_string(&text), NULL, 10);
        }
    }
    if (tasks != NULL) {
        closedir(tasks);
    }
    return sum_ns / 1000;
}

static uint64_t self_us(void)
{
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 +
        (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

/* "MONITOR VMM": the pids in its lock. */
static void read_cpu(struct vm *vm)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *lock = memory_format("%s/lock", vm->folder);
    int monitor = 0;
    int vmm = 0;
    if (file_read(lock, 64, &text, &ignored) == 0 &&
        sscanf(buffer_string(&text), "%d %d", &monitor, &vmm) == 2) {
        vm->vmm_us = cpu_us_of(vmm);
        vm->own_us = cpu_us_of(monitor) + self_us() - vm->self_us;
    }
}

static void on_up(const struct agent_info *info, void *context)
{
    struct vm *vm = context;
    (void)info;
    struct hypervisor_usage usage = {0};
    if (vm->up_us != 0) { /* once more */
        again_us = now_us();
        is_waiting = false;
        return;
    }
    vm->up_us = now_us();
    if (hypervisor_read_usage(vm->folder, &usage)) {
        vm->cpu_ms = usage.cpu_user_ms + usage.cpu_system_ms;
    }
    if (vm == &source) {
        read_cpu(vm);
        is_waiting = false;
    } else {
        const struct agent_network network = {.hostname = "clone"};
        agent_renew(vm->agent, "0123456789abcdef0123456789abcdef", &network, on_renewed, vm);
    }
}

static void on_down(const struct error *error, void *context)
{
    (void)error;
    (void)context;
}

static void greet(struct vm *vm)
{
    static const struct agent_events events = {.on_up = on_up, .on_down = on_down};
    MEMORY_OWNED char *path = memory_format("%s/" HYPERVISOR_AGENT_SOCKET, vm->folder);
    const struct agent_options options = {.path = path};
    struct error err = {0};
    if (agent_open(loop, &options, &events, vm, &vm->agent, &err) < 0) {
        must(&err);
    }
}

static void on_started(void *context)
{
    struct vm *vm = context;
    vm->obeys_us = now_us();
    if (starts_only) {
        is_waiting = false;
    } else {
        greet(vm);
    }
}

static void on_paused(bool is_paused, void *context)
{
    (void)is_paused;
    (void)context;
}

static void on_reboot(void *context)
{
    (void)context;
}

static void on_exit_told(const struct hypervisor_exit *exit, void *context)
{
    struct vm *vm = context;
    vm->has_ended = true;
    if (exit->end != HYPERVISOR_END_KILLED) {
        fprintf(stderr, "template-bench: %s: %s\n", vm->folder, exit->text);
    }
    is_waiting = false;
}

static void start(struct vm *vm, const char *name, const struct hypervisor_spec *what)
{
    static const struct hypervisor_events events = {on_started, on_paused, on_reboot, on_exit_told};
    struct hypervisor_spec copy = *what;
    struct error err = {0};
    vm->folder = memory_format("%s/%s", folder, name);
    if (file_make_folder(vm->folder, 0711, &err) < 0) {
        must(&err);
    }
    copy.folder = vm->folder;
    copy.name = name;
    vm->self_us = self_us();
    vm->begin_us = now_us();
    if (hypervisor_check(hypervisor, &copy, &err) < 0) {
        must(&err);
    }
    is_waiting = true;
    vm->vm = hypervisor_start(hypervisor, &copy, &events, vm);
    wait_for_it();
}

static void end(struct vm *vm)
{
    if (vm->agent != NULL) {
        agent_close(vm->agent);
    }
    is_waiting = !vm->has_ended;
    if (is_waiting) {
        hypervisor_kill(vm->vm);
    }
    wait_for_it();
    hypervisor_free(vm->vm);
}

static uint64_t read_pss(const char *place)
{
    BUFFER_OWNED struct buffer text = {0};
    struct hypervisor_usage usage;
    struct error err = {0};
    char path[64];
    if (!hypervisor_read_usage(place, &usage)) {
        return 0;
    }
    snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)usage.pid);
    if (file_read(path, 8192, &text, &err) < 0) {
        return 0;
    }
    const char *at = strstr(buffer_string(&text), "\nPss: ");
    return at != NULL ? strtoull(at + 6, NULL, 10) << 10 : 0;
}

static void make_template(const char *place)
{
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/whole", place);
    if (file_make_folder(place, 0711, &err) < 0) {
        must(&err);
    }
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, STATE_MODE);
    CHECK(fd >= 0);
    uint64_t begin_us = now_us();
    is_waiting = true;
    hypervisor_save(source.vm, dup(fd), false, on_done, NULL);
    wait_for_it();
    save_us = now_us() - begin_us;
    is_waiting = true;
    hypervisor_resume(source.vm, on_done, NULL);
    wait_for_it();
    begin_us = now_us();
    is_waiting = true;
    template_stamp(hypervisor, &spec, fd, place, on_done, NULL);
    wait_for_it();
    stamp_us = now_us() - begin_us;
    close(fd);
}

static void print(void)
{
    printf("{\"boot_ms\": %.1f, \"boot_cpu_ms\": %" PRIu64
           ", \"save_ms\": %.1f, \"stamp_ms\": %.1f, \"clones\": [",
           (double)(source.up_us - source.begin_us) / 1000, source.cpu_ms, (double)save_us / 1000,
           (double)stamp_us / 1000);
    for (unsigned i = 0; i < clone_count; i++) {
        const struct vm *clone = &clones[i];
        printf("%s{\"up_ms\": %.1f, \"renewed_ms\": %.1f, \"cpu_ms\": %" PRIu64
               ", \"pss_bytes\": %" PRIu64 "}",
               i > 0 ? ", " : "", (double)(clone->up_us - clone->begin_us) / 1000,
               (double)(clone->renew_us - clone->begin_us) / 1000, clone->cpu_ms, clone->pss_bytes);
    }
    printf("], \"source_pss_bytes\": %" PRIu64 "}\n", source.pss_bytes);
}

static double ms_between(uint64_t from_us, uint64_t to_us)
{
    return (double)(to_us - from_us) / 1000;
}

static void print_boot(void)
{
    agent_close(source.agent);
    uint64_t begin_us = now_us();
    is_waiting = true;
    greet(&source);
    wait_for_it();
    printf("{\"boot_ms\": %.1f, \"obeys_ms\": %.1f, \"session_ms\": %.1f, \"vmm_cpu_ms\": %.1f, "
           "\"own_cpu_ms\": %.1f}\n",
           ms_between(source.begin_us, source.up_us), ms_between(source.begin_us, source.obeys_us),
           ms_between(begin_us, again_us), (double)source.vmm_us / 1000,
           (double)source.own_us / 1000);
}

/* The clock of the processor is measured over the first 50 ms of a daemon's life: only a machine
 * that is started in them waits for it. */
static void settle(void)
{
    uint64_t until_us = now_us() + SETTLE_US;
    while (now_us() < until_us) {
        struct timespec rest = {.tv_nsec = 1000000};
        nanosleep(&rest, NULL);
    }
}

int main(int argc, char **argv)
{
    struct error err = {0};
    bool boots_only = argc > 4 && strcmp(argv[4], "boot") == 0;
    starts_only = argc > 4 && strcmp(argv[4], "start") == 0;
    if (argc < 4) {
        fprintf(stderr, "usage: template-bench KERNEL INITRD FOLDER [CLONES|boot|start]\n");
        return EXIT_FAILURE;
    }
    folder = argv[3];
    if (argc > 4 && !boots_only && !starts_only) {
        clone_count = (unsigned)strtoul(argv[4], NULL, 10);
    }
    CHECK(clone_count > 0 && clone_count <= CLONES_MAX);
    CHECK(loop_new("bench", &loop, &err) == 0);
    const struct hypervisor_options options = {.kvm_reason = "not looked for",
                                               .monitor = getenv("BLIXARD_MONITOR")};
    hypervisor = hypervisor_open(loop, &options);
    spec = (struct hypervisor_spec){.cpus = 1,
                                    .memory_bytes = UINT64_C(128) << 20,
                                    .uid = 2100000123,
                                    .kernel = argv[1],
                                    .initrd = argv[2],
                                    .name = "bench",
                                    .cmdline = ""};
    settle();
    start(&source, "source", &spec);
    CHECK(!source.has_ended);
    if (boots_only || starts_only) {
        if (boots_only) {
            print_boot();
        } else {
            printf("{\"obeys_ms\": %.1f}\n", ms_between(source.begin_us, source.obeys_us));
        }
        end(&source);
        hypervisor_close(hypervisor);
        loop_free(loop);
        return EXIT_SUCCESS;
    }
    MEMORY_OWNED char *place = memory_format("%s/template", folder);
    make_template(place);
    MEMORY_OWNED char *memory = memory_format("%s/" TEMPLATE_MEMORY, place);
    MEMORY_OWNED char *state = memory_format("%s/" TEMPLATE_STATE, place);
    struct hypervisor_spec copy = spec;
    copy.memory = HYPERVISOR_MEMORY_COPY;
    copy.memory_file = memory;
    copy.is_incoming = true;
    copy.state_file = state;
    for (unsigned i = 0; i < clone_count; i++) {
        char name[32];
        snprintf(name, sizeof(name), "clone%u", i);
        start(&clones[i], name, &copy);
        CHECK(!clones[i].has_ended);
    }
    source.pss_bytes = read_pss(source.folder);
    for (unsigned i = 0; i < clone_count; i++) {
        clones[i].pss_bytes = read_pss(clones[i].folder);
    }
    for (unsigned i = 0; i < clone_count; i++) {
        end(&clones[i]);
    }
    end(&source);
    print();
    hypervisor_close(hypervisor);
    loop_free(loop);
    return EXIT_SUCCESS;
}
