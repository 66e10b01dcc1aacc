/*
 * `fn run`: one module, once, here, in the same VM and by the same pipeline as on a node, without
 * one.
 */
#include "surface/cli/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/image.h"
#include "engine/vmm/abi.h"
#include "engine/vmm/hostcall.h"
#include "engine/vmm/vmm.h"
#include "engine/wasm/wasm.h"

#include "surface/cli/private.h"
#include "surface/cli/run_folders.h"
#include "surface/cli/run_invoke.h"

enum { IMAGE_BYTES_MAX = 256 << 20, RUN_TIMEOUT_MS = 3600000 };

struct run {
    struct image_store *images;
    struct wasm *wasm;
    struct vmm *vmm;
    struct vmm_image *image;
    struct vmm_shell *shell;
    struct run_folders *folders;
    struct buffer environment;
    struct buffer arguments;
    struct buffer preloads[WASM_LINKED_MAX - 1]; /* the modules' bytes */
    struct run_modules modules;
    struct run_invoke invoke;
    struct wasm_module_info module;
    enum wasm_form form;
    FILE *script; /* of invocations, or NULL */
    int input_fd;
    const char *words[WORDS_MAX];
};

static void run_done(struct run *run)
{
    vmm_shell_free(run->shell);
    vmm_image_unref(run->image);
    vmm_close(run->vmm);
    wasm_close(run->wasm);
    if (run->images != NULL) {
        image_store_close(run->images);
    }
    run_folders_free(run->folders);
    for (size_t i = 0; i < WASM_LINKED_MAX; i++) {
        wasm_exports_done(&run->modules.exports[i]);
        free((char *)(uintptr_t)run->modules.names[i]);
    }
    for (size_t i = 0; i < WASM_LINKED_MAX - 1; i++) {
        buffer_done(&run->preloads[i]);
    }
    if (run->script != NULL && run->script != stdin) {
        fclose(run->script);
    }
    if (run->input_fd > STDIN_FILENO) {
        close(run->input_fd);
    }
    buffer_wipe(&run->environment);
    buffer_done(&run->arguments);
    buffer_done(&run->invoke.call);
}

static bool write_output(const void *bytes, size_t length, void *context)
{
    (void)context;
    return file_write_all(STDOUT_FILENO, bytes, length) == 0;
}

static void write_log(const void *bytes, size_t length, void *context)
{
    (void)context;
    if (file_write_all(STDERR_FILENO, bytes, length) < 0) {
        return; /* nobody reads it */
    }
}

/* A terminal or a pipe may say nothing for longer than the call may take. */
static bool wait_for_input(int fd, uint64_t deadline_ns)
{
    struct pollfd item = {.fd = fd, .events = POLLIN};
    uint64_t now_ns = clock_monotonic_ns();
    int ready = 0;
    while (ready <= 0 && now_ns < deadline_ns) {
        uint64_t left_ns = deadline_ns - now_ns;
        const struct timespec left = {.tv_sec = (time_t)(left_ns / 1000000000),
                                      .tv_nsec = (long)(left_ns % 1000000000)};
        ready = ppoll(&item, 1, &left, NULL);
        now_ns = clock_monotonic_ns();
    }
    return ready > 0;
}

static long read_input(void *bytes, size_t length, uint64_t deadline_ns, void *context)
{
    const struct run *run = context;
    ssize_t got;
    if (run->input_fd < 0) {
        return 0; /* what comes there is the script */
    }
    if (!wait_for_input(run->input_fd, deadline_ns)) {
        return -1;
    }
    do {
        got = read(run->input_fd, bytes, length);
    } while (got < 0 && errno == EINTR);
    return got;
}

/* ---- Getting ready ---- */

static int cache_folder(char **ret_folder, struct error *err)
{
    const char *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    bool has_cache = cache != NULL && cache[0] == '/';
    if (!has_cache && (home == NULL || home[0] != '/')) {
        return error_set(err, ERROR_INVALID,
                         "there is no place for compiled code: set HOME or XDG_CACHE_HOME");
    }
    *ret_folder =
        memory_format("%s%s/blixard/run", has_cache ? cache : home, has_cache ? "" : "/.cache");
    return file_make_folder(*ret_folder, 0711, err);
}

/* A large module takes its time: what at, on a terminal. */
static void show_tool(const char *what)
{
    fprintf(stderr, "\r\033[K%s", what != NULL ? what : "");
}

int run_open_pipeline(struct image_store **ret_images, struct wasm **ret_wasm, struct error *err)
{
    MEMORY_OWNED char *folder = NULL;
    int r = cache_folder(&folder, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *blobs = memory_format("%s/blobs", folder);
    r = image_store_open_shared(blobs, ret_images, err);
    struct wasm_options options = {.work_folder = folder,
                                   .images = *ret_images,
                                   .shares_folder = true,
                                   .on_tool = isatty(STDERR_FILENO) ? show_tool : NULL};
    return r < 0 ? r : wasm_open(&options, ret_wasm, err);
}

/* Of what is compiled already the faster code, else what is there sooner; or what was asked for. */
static enum wasm_tier choose_tier(const struct run *run, const struct arguments *arguments,
                                  const struct buffer *module)
{
    const char *wanted = flag_value(arguments, "tier");
    struct wasm_image ignored;
    char id[HASH_TEXT_SIZE];
    if (wanted != NULL) {
        return strcmp(wanted, "fast") == 0 ? WASM_TIER_FAST : WASM_TIER_OPTIMIZED;
    }
    hash_bytes(module->data, module->used, id);
    return run->form == WASM_FORM_FUNCTION &&
            wasm_find(run->wasm, id, WASM_TIER_OPTIMIZED, &ignored)
        ? WASM_TIER_OPTIMIZED
        : WASM_TIER_FAST;
}

/* ---- Several modules ---- */

static int add_preload(struct run *run, const char *text, struct error *err)
{
    struct run_modules *modules = &run->modules;
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text || equals[1] == '\0') {
        return error_set(err, ERROR_INVALID, "--preload %.100s is not NAME=FILE", text);
    }
    if (modules->count == WASM_LINKED_MAX - 1) {
        return error_set(err, ERROR_LIMIT, "more than %d --preload", WASM_LINKED_MAX - 1);
    }
    char *name = memory_copy_text(text, (size_t)(equals - text));
    for (size_t i = 0; i < modules->count; i++) {
        if (strcmp(modules->names[i], name) == 0) {
            free(name);
            return error_set(err, ERROR_INVALID, "two --preload are called %.60s",
                             modules->names[i]);
        }
    }
    modules->names[modules->count] = name;
    return file_read(equals + 1, RUN_MODULE_MAX, &run->preloads[modules->count++], err);
}

static int take_preloads(struct run *run, const struct arguments *arguments, struct error *err)
{
    int r = 0;
    for (unsigned i = 0; i < arguments->flag_count && r == 0; i++) {
        if (strcmp(arguments->flags[i].name, "preload") == 0) {
            r = add_preload(run, arguments->flags[i].value, err);
        }
    }
    if (r == 0 && run->modules.count > 0 && run->form == WASM_FORM_FUNCTION) {
        r = error_set(err, ERROR_INVALID, "--preload is for --invoke and --script");
    }
    if (r == 0 && run->modules.count > 0) {
        run->form = WASM_FORM_LINKED;
    }
    return r;
}

/* All of them, the module itself last. */
static size_t list_modules(struct run *run, const struct buffer *module,
                           struct wasm_linked ret_list[WASM_LINKED_MAX])
{
    size_t count = run->modules.count;
    for (size_t i = 0; i + 1 < count; i++) {
        ret_list[i] = (struct wasm_linked){run->modules.names[i], run->preloads[i].data,
                                           run->preloads[i].used};
    }
    ret_list[count - 1] = (struct wasm_linked){"", module->data, module->used};
    return count;
}

static int read_module(struct run *run, const struct buffer *module, struct error *err)
{
    struct wasm_linked list[WASM_LINKED_MAX];
    if (run->form == WASM_FORM_FUNCTION) {
        return wasm_inspect(module->data, module->used, &run->module, err);
    }
    run->modules.names[run->modules.count++] = memory_copy_string("");
    run->invoke.modules = &run->modules;
    int r = run->form == WASM_FORM_LINKED
        ? wasm_linked_exports(list, list_modules(run, module, list), run->modules.exports, err)
        : wasm_exports_read(module->data, module->used, &run->modules.exports[0], err);
    return r < 0 ? r : run_invoke_check(&run->invoke, err);
}

static int compile_module(struct run *run, const struct buffer *module, enum wasm_tier tier,
                          struct wasm_result *ret_result, struct error *err)
{
    struct wasm_linked list[WASM_LINKED_MAX];
    return run->form == WASM_FORM_LINKED
        ? wasm_compile_linked(run->wasm, list, list_modules(run, module, list), tier, ret_result,
                              err)
        : wasm_compile_form(run->wasm, module->data, module->used, run->form, tier, ret_result,
                            err);
}

static int compile(struct run *run, const struct arguments *arguments, struct buffer *ret_elf,
                   struct error *err)
{
    const char *path = arguments->words[0];
    BUFFER_OWNED struct buffer module = {0};
    struct wasm_result result;
    int r = file_read(path, RUN_MODULE_MAX, &module, err);
    if (r == 0) {
        r = read_module(run, &module, err);
    }
    if (r < 0) {
        return r;
    }
    r = run_open_pipeline(&run->images, &run->wasm, err);
    if (r == 0) {
        r = compile_module(run, &module, choose_tier(run, arguments, &module), &result, err);
    }
    return r < 0 ? r : image_read(run->images, result.image_id, IMAGE_BYTES_MAX, ret_elf, err);
}

int run_open_vmm(const char *wanted, bool begins_late, struct vmm **ret_vmm, struct error *err)
{
    struct vmm_options options = {.kvm_fd = -1, .shells_max = 1, .begins_late = begins_late};
    struct error ignored = {0};
    bool is_process = wanted != NULL && strcmp(wanted, "process") == 0;
    options.isolation = is_process ? VMM_ISOLATION_PROCESS : VMM_ISOLATION_MICROVM;
    if (wanted != NULL) {
        return vmm_open(&options, ret_vmm, err);
    }
    if (vmm_open(&options, ret_vmm, &ignored) == 0) {
        return 0;
    }
    options.isolation = VMM_ISOLATION_PROCESS;
    return vmm_open(&options, ret_vmm, err);
}

static int take_limits(const struct arguments *arguments, struct vmm_limits *limits,
                       struct error *err)
{
    const char *timeout = flag_value(arguments, "timeout");
    const char *memory = flag_value(arguments, "memory");
    if (timeout != NULL &&
        (!text_parse_duration_ms(timeout, &limits->timeout_ms) || limits->timeout_ms == 0)) {
        return error_set(err, ERROR_INVALID, "--timeout %.40s is not a duration such as 10s",
                         timeout);
    }
    if (memory != NULL && !text_parse_size(memory, &limits->memory_bytes)) {
        return error_set(err, ERROR_INVALID, "--memory %.40s is not a size such as 64MiB", memory);
    }
    return 0;
}

static int prepare(struct run *run, const struct arguments *arguments, struct error *err)
{
    struct vmm_limits limits = {.memory_bytes = RUN_MEMORY_BYTES,
                                .files_bytes = UINT64_C(512) << 20,
                                .timeout_ms = RUN_TIMEOUT_MS,
                                .output_bytes_max = UINT64_MAX,
                                .log_bytes_max = UINT64_MAX};
    const struct vmm_sink sink = {.log = write_log};
    struct vmm_image_info info;
    BUFFER_OWNED struct buffer elf = {0};
    int r = take_limits(arguments, &limits, err);
    if (r < 0) {
        return r;
    }
    r = compile(run, arguments, &elf, err);
    if (r == 0) {
        r = run_open_vmm(flag_value(arguments, "isolation"), true, &run->vmm, err);
    }
    if (r == 0) {
        r = vmm_image_new(run->vmm, elf.data, elf.used, &limits, &sink, &run->image, err);
    }
    if (r < 0) {
        return r;
    }
    vmm_image_info(run->image, &info);
    r = vmm_shell_new(run->vmm, info.class_bytes, &run->shell, err);
    return r < 0 ? r : vmm_shell_attach(run->shell, run->image, err);
}

/* --invoke, --script, --stdin: what is called, and with which input. */
static int take_calls(struct run *run, const struct arguments *arguments, struct error *err)
{
    const char *name = flag_value(arguments, "invoke");
    const char *script = flag_value(arguments, "script");
    const char *input = flag_value(arguments, "stdin");
    const char *output = flag_value(arguments, "output");
    if (name != NULL && script != NULL) {
        return error_set(err, ERROR_INVALID, "--invoke and --script exclude each other");
    }
    run->form = name != NULL || script != NULL ? WASM_FORM_EXPORTS : WASM_FORM_FUNCTION;
    run->invoke.is_json = output != NULL && strcmp(output, "json") == 0;
    if (name != NULL) {
        run->words[0] = name;
        for (unsigned i = 1; i < arguments->word_count; i++) {
            run->words[i] = arguments->words[i];
        }
        run->invoke.words = run->words;
        run->invoke.word_count = arguments->word_count;
    }
    if (script != NULL) {
        run->script = strcmp(script, "-") == 0 ? stdin : fopen(script, "re");
        if (run->script == NULL) {
            return error_os(err, errno, "opening %s", script);
        }
        run->invoke.script = run->script;
        run->input_fd = run->script == stdin ? -1 : STDIN_FILENO;
    }
    if (input != NULL) {
        run->input_fd = open(input, O_RDONLY | O_CLOEXEC);
        if (run->input_fd < 0) {
            return error_os(err, errno, "opening %s", input);
        }
    }
    return 0;
}

static int answer_guest(const void *request, size_t length, uint64_t deadline_ns,
                        struct buffer *reply, void *context)
{
    struct run *run = context;
    uint32_t operation = 0;
    memcpy(&operation, request, length < sizeof(operation) ? length : sizeof(operation));
    return operation == HOSTCALL_NEXT && run->form != WASM_FORM_FUNCTION
        ? run_invoke_answer(request, length, reply, &run->invoke)
        : run_folders_answer(request, length, deadline_ns, reply, run->folders);
}

/* A value that no other user of the machine reads among the arguments of a process. */
static int take_secret(struct run *run, const char *pair, struct error *err)
{
    const char *equals = strchr(pair, '=');
    BUFFER_WIPED struct buffer value = {0};
    if (equals == NULL || equals == pair) {
        return error_set(err, ERROR_INVALID, "--secret %.60s is not NAME=FILE", pair);
    }
    buffer_reserve(&value, VMM_ENV_MAX);
    int r = file_read(equals + 1, VMM_ENV_MAX, &value, err);
    if (r == 0 && value.used > 0 && memchr(value.data, '\0', value.used) != NULL) {
        r = error_set(err, ERROR_INVALID, "%s holds a NUL and cannot be a variable", equals + 1);
    }
    if (r == 0) {
        buffer_append(&run->environment, pair, (size_t)(equals + 1 - pair));
        buffer_append(&run->environment, value.data, value.used);
        buffer_append_byte(&run->environment, '\0');
    }
    return r;
}

int run_add_variable(struct buffer *environment, const char *pair, struct error *err)
{
    if (strchr(pair, '=') == NULL || pair[0] == '=') {
        return error_set(err, ERROR_INVALID, "--env %.60s is not NAME=VALUE", pair);
    }
    buffer_append(environment, pair, strlen(pair) + 1);
    return 0;
}

static int take_flag(struct run *run, const char *name, const char *value, struct error *err)
{
    if (strcmp(name, "dir") == 0) {
        return run_folders_add(run->folders, value, err);
    }
    if (strcmp(name, "secret") == 0) {
        return take_secret(run, value, err);
    }
    return strcmp(name, "env") == 0 ? run_add_variable(&run->environment, value, err) : 0;
}

static int take_arguments(struct run *run, const struct arguments *arguments, struct error *err)
{
    for (unsigned i = 0; i < arguments->word_count; i++) {
        buffer_append(&run->arguments, arguments->words[i], strlen(arguments->words[i]) + 1);
    }
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        int r = take_flag(run, arguments->flags[i].name, arguments->flags[i].value, err);
        if (r < 0) {
            return r;
        }
    }
    size_t length = run->environment.used + run->arguments.used;
    return length <= VMM_TEXT_MAX
        ? 0
        : error_set(err, ERROR_TOO_LARGE,
                    "arguments and variables have %zu bytes, and may have "
                    "%d together",
                    length, VMM_TEXT_MAX);
}

/* ---- Running ---- */

/*
 * A program of another runtime is not to meet folders that nobody gave it: "/" is there when the
 * module brings files, "/tmp" when the module can ask for it at all.
 */
static uint32_t hidden_folders(const struct run *run)
{
    const struct wasm_module_info *module = &run->module;
    if (run->form != WASM_FORM_FUNCTION) {
        return ABI_FOLDER_ROOT; /* its files are left out */
    }
    return (module->assets_bytes == 0 ? ABI_FOLDER_ROOT : 0) |
        (module->uses_paths ? 0 : ABI_FOLDER_TMP);
}

/* Programs ask and answer line by line, and in colours, where there is a terminal. */
static uint32_t piped_streams(const struct run *run)
{
    const int fds[3] = {run->input_fd, STDOUT_FILENO, STDERR_FILENO};
    uint32_t piped = 0;
    for (unsigned i = 0; i < 3; i++) {
        piped |= (uint32_t)(fds[i] < 0 || isatty(fds[i]) == 0) << i;
    }
    return piped;
}

static int finish(const struct vmm_outcome *outcome, struct error *err)
{
    switch (outcome->end) {
    case VMM_END_EXIT:
        return 0;
    case VMM_END_TIMEOUT:
        return error_set(err, ERROR_TIMEOUT, "%s", outcome->reason);
    case VMM_END_TRAP:
    case VMM_END_OUTPUT:
    case VMM_END_CANCELLED:
    case VMM_END_BROKEN:
        break;
    }
    return error_set(err, ERROR_TRAP, "%s", outcome->reason);
}

/* Linux hands on the lowest byte; a program that ended with 256 has not ended well for all that. */
static int exit_status(uint32_t code)
{
    return (code & 0xff) != 0 ? (int)(code & 0xff) : 255;
}

int verb_fn_run(const struct arguments *arguments, struct error *err)
{
    struct run run = {.folders = run_folders_new()};
    struct vmm_outcome outcome = {0};
    int r = take_arguments(&run, arguments, err);
    run.invoke.err = err;
    r = r < 0 ? r : take_calls(&run, arguments, err);
    r = r < 0 ? r : take_preloads(&run, arguments, err);
    if (r == 0) {
        r = prepare(&run, arguments, err);
    }
    if (r == 0) {
        const struct vmm_call call = {
            .environment = (const char *)run.environment.data,
            .environment_length = run.environment.used,
            .arguments = (const char *)run.arguments.data,
            .arguments_length = run.arguments.used,
            .read = read_input,
            .sink = {.output = write_output, .log = write_log},
            .read_context = &run,
            .host = answer_guest,
            .host_context = &run,
            .folder_count = run_folders_count(run.folders),
            .folders_hidden = hidden_folders(&run),
            .streams_piped = piped_streams(&run),
        };
        vmm_shell_run(run.shell, &call, &outcome);
        r = run.invoke.result < 0 ? run.invoke.result : finish(&outcome, err);
    }
    run_done(&run);
    if (r == 0 && outcome.exit_code != 0) {
        print_flush();
        _exit(exit_status(outcome.exit_code));
    }
    return r;
}
