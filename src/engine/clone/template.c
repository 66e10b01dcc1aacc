/*
 * Making a template: boot, unpack the code, start the handler, wait for its first "next", save.
 * What fails on the way is the image's error, with what the handler has said.
 */
#include "engine/hypervisor/template.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/embed.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/clone/event.h"
#include "engine/clone/parts.h"
#include "engine/image/image.h"
#include "engine/image/initrd.h"

EMBED_LIST(clone_bootstraps); /* sdk/lambda */

enum {
    CODE_BYTES_MAX = 64 << 20,
    INITRD_BYTES_MAX = 256 << 20,
    AGENT_BYTES_MAX = 16 << 20,
    LOG_BYTES_MAX = 65536,
    WORDS_MAX = 64,
    PORTS_MAX = 66, /* an entry each, and two */
};

static const char *setting(const struct template *template, const char *key)
{
    const char *text = json_string_value(json_object_get(template->settings, key));
    return text != NULL ? text : "";
}

struct template *template_find(struct clone_runner *runner, const char *id)
{
    LIST_EACH(node, &runner->templates)
    {
        struct template *template = LIST_ITEM(node, struct template, link);
        if (strcmp(template->id, id) == 0 && !template->is_forgotten) {
            return template;
        }
    }
    return NULL;
}

/* ---- The end ---- */

static void template_free(struct template *template)
{
    CHECK(template->users == 0 && template->machine == NULL);
    struct clone_runner *runner = template->runner;
    struct clone_service *service = runner->service;
    list_remove(&template->link);
    if (template->folder != NULL && (!template->is_kept || template->is_dropped)) {
        folder_remove(service, template->folder);
    } else {
        free(template->folder);
    }
    list_remove(&template->kept_link);
    json_decref(template->settings);
    free(template->kernel);
    free(template->root);
    free(template->initrd);
    buffer_done(&template->code);
    buffer_done(&template->log);
    buffer_done(&template->said);
    free(template);
    runner_release(runner);
}

void template_unuse(struct template *template)
{
    CHECK(template->users > 0);
    template->users--;
    if (template->is_forgotten && template->users == 0) {
        template_free(template);
    }
}

/* What is being made is broken off: its `done` hears of it, later. */
static void tell(struct template *template)
{
    struct vmm_image_info info = {
        .memory_bytes = template->memory_bytes,
        .class_bytes = template->memory_bytes,
        .init_ns = (clock_monotonic_ms() - template->began_ms) * 1000000,
        .is_handler = true,
    };
    bool is_good = template->error.kind == ERROR_NONE;
    struct stat status;
    MEMORY_OWNED char *memory =
        template->folder != NULL ? memory_format("%s/" TEMPLATE_MEMORY, template->folder) : NULL;
    if (memory != NULL && stat(memory, &status) == 0) {
        info.snapshot_bytes = (uint64_t)status.st_blocks * 512;
    }
    template->is_ready = is_good;
    template->done(is_good ? NULL : &template->error, is_good ? &info : NULL,
                   (const char *)template->log.data, template->log.used, template->context);
    template->done = NULL;
    buffer_done(&template->log);
    buffer_done(&template->code);
}

static void tell_later(void *argument)
{
    struct template *template = argument;
    if (template->done != NULL) {
        tell(template);
    }
    template_unuse(template);
}

static void finish(struct template *template, const struct error *error)
{
    struct clone_machine *machine = template->machine;
    if (error != NULL && template->error.kind == ERROR_NONE) {
        template->error = *error;
    }
    template->machine = NULL;
    machine_end(machine);
    loop_post(template->runner->service->options.loop, tell_later, template);
}

void template_forget(struct template *template)
{
    if (template->is_forgotten) {
        return;
    }
    template->is_forgotten = true;
    template->users++;
    if (template->machine != NULL) {
        struct error error;
        error_set(&error, ERROR_CANCELLED, "the function is not wanted any more");
        finish(template, &error);
    }
    template_unuse(template);
}

/* ---- Saving ---- */

struct keeping {
    struct template *template;
    char *folder; /* where it is */
    struct error error;
};

static void keep_work(void *context)
{
    struct keeping *keeping = context;
    keep_put(keeping->template, keeping->folder, &keeping->error);
}

/* One that could not be kept is as good as any until the daemon ends. */
static void keep_done(void *context)
{
    struct keeping *keeping = context;
    struct template *template = keeping->template;
    template->runner->service->at_work--;
    if (keeping->error.kind == ERROR_NONE) {
        free(template->folder);
        template->folder = keep_folder(template);
        free(template->initrd);
        template->initrd = memory_format("%s/initrd", template->folder);
        template->is_kept = true;
    } else {
        log_warn("clone: a template is not kept: %s", keeping->error.text);
    }
    free(keeping->folder);
    free(keeping);
    tell_later(template);
}

/* Nothing writes its memory any more. */
static void on_gone(void *context)
{
    struct template *template = context;
    struct clone_service *service = template->runner->service;
    MEMORY_OWNED char *place = keep_folder(template);
    if (place == NULL || template->is_forgotten) {
        loop_post(service->options.loop, tell_later, template);
        return;
    }
    struct keeping *keeping = NEW(struct keeping);
    keeping->template = template;
    keeping->folder = memory_copy_string(template->folder);
    service->at_work++;
    loop_work(service->options.loop, keep_work, keep_done, keeping);
}

static void on_saved(const struct error *error, void *context)
{
    struct template *template = context;
    struct clone_machine *machine = template->machine;
    template_unuse(template);
    if (machine == NULL) {
        return; /* broken off */
    }
    if (error != NULL) {
        finish(template, error);
        return;
    }
    template->machine = NULL;
    template->folder = memory_copy_string(machine->folder);
    machine_end_keeping(machine, on_gone, template);
}

static void save(struct template *template)
{
    struct clone_machine *machine = template->machine;
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/" TEMPLATE_STATE, machine->folder);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        error_os(&err, errno, "making %s", path);
        finish(template, &err);
        return;
    }
    agent_close(machine->agent); /* its session is not to be part of what is kept */
    machine->agent = NULL;
    template->users++;
    hypervisor_save(machine->vm, fd, true, on_saved, template);
}

/* ---- The handler ---- */

static void on_said(enum agent_stream stream, const void *bytes, size_t length, void *context)
{
    struct template *template = context;
    struct buffer *to = stream == AGENT_STREAM_ERR ? &template->log : &template->said;
    size_t room = LOG_BYTES_MAX - to->used;
    buffer_append(to, bytes, length < room ? length : room);
}

static void on_begun(const struct error *error, const struct agent_result *result, void *context)
{
    struct template *template = context;
    struct error err = {0};
    char text[384];
    if (template->machine == NULL) {
        return;
    }
    if (error != NULL) {
        size_t length = template->log.used < 300 ? template->log.used : 300;
        const char *last = (const char *)template->log.data + template->log.used - length;
        snprintf(text, sizeof(text), "%.*s", (int)length, length > 0 ? last : "");
        text_make_printable(text, false);
        error_set(&err, error->kind == ERROR_TIMEOUT ? ERROR_TIMEOUT : ERROR_INVALID,
                  "the handler did not start: %.120s%s%s", error->text,
                  length > 0 ? "; it said: " : "", text);
        finish(template, &err);
    } else if (result->http_status != 200) {
        clone_event_error_text(template->said.data, template->said.used, text, sizeof(text));
        error_set(&err, ERROR_INVALID, "the handler did not start: %s", text);
        finish(template, &err);
    } else {
        save(template);
    }
}

static size_t add_command(struct template *template, const char **words)
{
    static const struct {
        const char *language;
        const char *words[3];
    } ours[] = {
        {"python", {"python3", "/var/runtime/bootstrap.py", NULL}},
        {"javascript", {"node", "/var/runtime/bootstrap.mjs", NULL}},
    };
    const json_t *command = json_object_get(template->settings, "command");
    size_t count = 0;
    for (size_t i = 0; i < json_array_size(command) && count < WORDS_MAX; i++) {
        words[count++] = json_string_value(json_array_get(command, i));
    }
    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]) && count == 0; i++) {
        if (strcmp(setting(template, "language"), ours[i].language) == 0 &&
            setting(template, "handler")[0] != '\0') {
            words[count++] = ours[i].words[0];
            words[count++] = ours[i].words[1];
        }
    }
    if (count == 0) {
        words[count++] = "/var/task/bootstrap";
    }
    words[count] = NULL;
    return count;
}

static size_t read_ports(const struct template *template, uint16_t ports[PORTS_MAX])
{
    const json_t *outside = json_object_get(template->settings, "outside");
    const json_t *port;
    size_t count = 0;
    size_t i;
    json_array_foreach(json_object_get(outside, "ports"), i, port)
    {
        if (count < PORTS_MAX) {
            ports[count++] = (uint16_t)json_integer_value(port);
        }
    }
    return count;
}

static void begin_handler(struct template *template)
{
    static const struct agent_call_events events = {.on_output = on_said, .on_end = on_begun};
    const char *words[WORDS_MAX + 1];
    const json_t *variables = json_object_get(template->settings, "environment");
    const char **environment = memory_new(json_object_size(variables) + 16, sizeof(*environment));
    char *owned[16];
    size_t made = 0;
    size_t count = 0;
    const char *name;
    const json_t *value;
    add_command(template, words);
    owned[made++] = memory_format("_HANDLER=%s", setting(template, "handler"));
    owned[made++] = memory_format("AWS_LAMBDA_FUNCTION_NAME=%s", setting(template, "function"));
    owned[made++] = memory_format("AWS_LAMBDA_FUNCTION_VERSION=%s", setting(template, "version"));
    owned[made++] =
        memory_format("AWS_LAMBDA_FUNCTION_MEMORY_SIZE=%" PRIu64, template->memory_bytes >> 20);
    owned[made++] = memory_copy_string("AWS_LAMBDA_RUNTIME_API=" AGENT_RUNTIME_API);
    owned[made++] = memory_copy_string("AWS_LAMBDA_INITIALIZATION_TYPE=snap-start");
    owned[made++] = memory_copy_string("LAMBDA_TASK_ROOT=/var/task");
    owned[made++] = memory_copy_string("LAMBDA_RUNTIME_DIR=/var/runtime");
    owned[made++] = memory_copy_string("TZ=:UTC");
    owned[made++] = memory_copy_string("LANG=C.UTF-8");
    for (size_t i = 0; i < made; i++) {
        environment[count++] = owned[i];
    }
    json_object_foreach((json_t *)(uintptr_t)variables, name, value)
    {
        environment[count++] = memory_format("%s=%s", name, json_string_value(value));
    }
    const struct agent_exec program = {.arguments = words,
                                       .environment = environment,
                                       .folder = "/var/task",
                                       .timeout_ms = CLONE_MAKE_MS};
    uint16_t ports[PORTS_MAX];
    size_t port_count = read_ports(template, ports);
    machine_ready(template->machine); /* the program has its own time */
    agent_function_begin(template->machine->agent, &program, ports, port_count, &events, template);
    for (size_t i = 0; i < count; i++) {
        free((char *)(uintptr_t)environment[i]);
    }
    free(environment);
}

/* ---- The code ---- */

static void put_next(struct template *template, size_t index);

struct putting {
    struct template *template;
    size_t index;
};

static void on_put(const struct error *error, const struct agent_result *result, void *context)
{
    struct putting *putting = context;
    struct template *template = putting->template;
    size_t index = putting->index;
    (void)result;
    free(putting);
    if (template->machine == NULL) {
        template_unuse(template);
        return;
    }
    template_unuse(template);
    if (error != NULL) {
        finish(template, error);
        return;
    }
    put_next(template, index + 1);
}

static void put_next(struct template *template, size_t index)
{
    static const struct agent_call_events events = {.on_end = on_put};
    if (index == clone_bootstraps_count) {
        begin_handler(template);
        return;
    }
    const struct embed_file *file = &clone_bootstraps[index];
    MEMORY_OWNED char *path = memory_format("/var/runtime/%s", file->name);
    const struct agent_put put = {.path = path, .mode = 0644, .makes_folders = true};
    struct putting *putting = NEW(struct putting);
    putting->template = template;
    putting->index = index;
    template->users++;
    struct agent_call *call = agent_put(template->machine->agent, &put, &events, putting);
    agent_call_write(call, file->data, file->length);
    agent_call_finish_input(call);
}

static void on_unpacked(const struct error *error, const struct agent_result *result, void *context)
{
    struct template *template = context;
    struct error err = {0};
    (void)result;
    if (template->machine == NULL) {
        return;
    }
    if (error != NULL) {
        error_set(&err, error->kind, "the code: %.300s", error->text);
        finish(template, &err);
        return;
    }
    buffer_done(&template->code);
    put_next(template, 0);
}

static void on_up(void *context)
{
    static const struct agent_call_events events = {.on_end = on_unpacked};
    struct template *template = context;
    struct agent *agent = template->machine->agent;
    struct agent_call *call = agent_unpack(agent, "/var/task", true, 0, 0, &events, template);
    agent_call_write(call, template->code.data, template->code.used);
    agent_call_finish_input(call);
}

static void on_failed(const struct error *error, void *context)
{
    struct template *template = context;
    struct error told = *error;
    if (template->brings_agent && error->kind == ERROR_TIMEOUT) {
        error_set(&told, ERROR_TIMEOUT,
                  "its machine was not up in time: it has to begin blixard-agent when it is "
                  "(services.blixard-agent.enable of the flake's nixosModules.agent)");
    }
    finish(template, &told);
}

/* ---- The machine ---- */

/* For its kernel. */
static const char *words_of(const struct template *template)
{
    if (template->brings_agent) {
        return setting(template, "cmdline");
    }
    return template->root != NULL
        ? "blixard.root=serial:root blixard.overlay=tmpfs blixard.init=agent"
        : "blixard.init=agent";
}

void template_describe(const struct template *template, struct template_spec *ret_spec)
{
    const char *folder = template->machine != NULL ? template->machine->folder : template->folder;
    *ret_spec = (struct template_spec){
        .memory_file = memory_format("%s/" TEMPLATE_MEMORY, folder),
        .state_file = memory_format("%s/" TEMPLATE_STATE, folder),
        .disk = {.path = template->root, .format = "raw", .read_only = true, .serial = "root"},
    };
    ret_spec->spec = (struct hypervisor_spec){
        .driver = "qemu",
        .cpus = 1,
        .memory_bytes = template->memory_bytes,
        .memory_file = ret_spec->memory_file,
        .kernel = template->kernel,
        .initrd = template->initrd,
        .cmdline = words_of(template),
        .disks = &ret_spec->disk,
        .disk_count = template->root != NULL ? 1 : 0,
    };
}

void template_spec_done(struct template_spec *spec)
{
    free(spec->memory_file);
    free(spec->state_file);
}

struct making {
    struct template *template;
    int fd;
    bool is_kept; /* out: there is nothing to make */
    char *initrd; /* where it goes */
    struct error error;
};

/* What functions are cloned over is never what the disk has made of it. */
static int verify_blobs(const struct template *template, struct error *err)
{
    static const char *const keys[] = {"kernel", "initrd", "root"};
    int r = 0;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]) && r == 0; i++) {
        const char *id = setting(template, keys[i]);
        if (id[0] != '\0' &&
            (r = image_verify(template->runner->service->options.images, id, err)) < 0) {
            return error_wrap(err,
                              "its machine image's %s, which is to be had anew (image import, "
                              "image pull)",
                              keys[i]);
        }
    }
    return r;
}

/* On a thread: unless all is there, the code is read, the initrd written, the memory's file made.
 */
static int make_files(struct making *making, struct error *err)
{
    const struct template *template = making->template;
    const struct clone_service *service = template->runner->service;
    BUFFER_OWNED struct buffer agent = {0};
    BUFFER_OWNED struct buffer initrd = {0};
    MEMORY_OWNED char *code = memory_format("/proc/self/fd/%d", making->fd);
    const char *modules = setting(template, "initrd");
    int r = verify_blobs(template, err);
    r = r < 0 ? r : file_read(service->agent, AGENT_BYTES_MAX, &agent, err);
    if (r < 0) {
        return r;
    }
    keep_describe(making->template, agent.data, agent.used);
    making->is_kept = keep_find(template);
    if (making->is_kept) {
        return 0;
    }
    r = file_read(code, CODE_BYTES_MAX, &making->template->code, err);
    if (r == 0 && !template->brings_agent) {
        r = initrd_add_agent(&initrd, agent.data, agent.used, err);
    }
    if (r == 0 && modules[0] != '\0') {
        r = image_read(service->options.images, modules, INITRD_BYTES_MAX, &initrd, err);
    }
    r = r < 0 ? r : file_write(making->initrd, initrd.data, initrd.used, 0644, err);
    if (r == 0 && chmod(making->initrd, 0644) < 0) {
        r = error_os(err, errno, "%s", making->initrd);
    }
    return r < 0 ? r : template_make_memory(template->machine->folder, template->memory_bytes, err);
}

static void make_work(void *context)
{
    struct making *making = context;
    make_files(making, &making->error);
}

static void use_kept(struct template *template)
{
    template->folder = keep_folder(template);
    free(template->initrd);
    template->initrd = memory_format("%s/initrd", template->folder);
    template->is_kept = true;
    finish(template, NULL); /* its machine was not begun */
}

static void make_done(void *context)
{
    struct making *making = context;
    struct template *template = making->template;
    struct error error = making->error;
    bool is_kept = making->is_kept;
    close(making->fd);
    template->initrd = making->initrd;
    free(making);
    template->runner->service->at_work--;
    if (template->machine == NULL) {
        template_unuse(template);
        return;
    }
    template_unuse(template);
    if (is_kept) {
        use_kept(template);
        return;
    }
    struct template_spec parts;
    template_describe(template, &parts);
    parts.spec.memory = HYPERVISOR_MEMORY_SHARED;
    parts.spec.name = "function";
    parts.spec.folder = template->machine->folder;
    parts.spec.uid = template->machine->uid;
    if (error.kind == ERROR_NONE &&
        hypervisor_check(template->runner->service->options.hypervisor, &parts.spec, &error) == 0) {
        machine_start(template->machine, &parts.spec, CLONE_MAKE_MS);
    } else {
        finish(template, &error);
    }
    template_spec_done(&parts);
}

static int find_blobs(struct template *template, struct error *err)
{
    static const char *const keys[] = {"kernel", "initrd", "root"};
    struct image_store *images = template->runner->service->options.images;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const char *id = setting(template, keys[i]);
        if (id[0] != '\0' && !image_exists(images, id)) {
            return error_set(err, ERROR_NOT_FOUND, "the machine image's %s is not on this node",
                             keys[i]);
        }
    }
    if (setting(template, "kernel")[0] == '\0') {
        return error_set(err, ERROR_INVALID, "the machine image has no kernel");
    }
    template->brings_agent = json_is_true(json_object_get(template->settings, "brings_agent"));
    template->kernel = image_path(images, setting(template, "kernel"));
    template->root =
        setting(template, "root")[0] != '\0' ? image_path(images, setting(template, "root")) : NULL;
    return 0;
}

void template_make(struct clone_runner *runner, const char *id, int fd,
                   const struct vmm_limits *limits, const char *settings,
                   void (*done)(const struct error *error, const struct vmm_image_info *info,
                                const char *log, size_t log_length, void *context),
                   void *context)
{
    static const struct machine_events events = {on_up, on_failed};
    struct error err = {0};
    struct template *template = NEW(struct template);
    template->runner = runner;
    template->users = 1; /* the making */
    template->memory_bytes = limits->memory_bytes & ~((UINT64_C(1) << 20) - 1);
    template->init_ms = limits->timeout_ms;
    template->output_max = limits->output_bytes_max;
    template->log_max = limits->log_bytes_max;
    template->began_ms = clock_monotonic_ms();
    template->done = done;
    template->context = context;
    snprintf(template->id, sizeof(template->id), "%s", id);
    list_push_back(&runner->templates, &template->link);
    int r = json_read(settings, strlen(settings), &template->settings, &err);
    r = r < 0 ? r : find_blobs(template, &err);
    if (json_is_string(json_object_get(template->settings, "keep"))) {
        list_push_back(&runner->service->kept, &template->kept_link);
    }
    if (r == 0) {
        template->machine = machine_new(runner->service, &events, template, &err);
    }
    if (template->machine == NULL) {
        finish(template, &err);
        return;
    }
    struct making *making = NEW(struct making);
    making->template = template;
    making->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    making->initrd = memory_format("%s/initrd", template->machine->folder);
    template->users++;
    runner->service->at_work++;
    loop_work(runner->service->options.loop, make_work, make_done, making);
}
