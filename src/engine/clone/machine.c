/* One VMM, from its folder to its end.  See parts.h. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"

#include "engine/clone/parts.h"

/* Beyond those of other machines (service/machine). */
enum { UID_FIRST = 2140000000, UID_COUNT = 7000000 };

struct removal {
    struct clone_service *service;
    char *path;
    struct error error;
};

static void remove_work(void *context)
{
    struct removal *removal = context;
    file_remove_tree(removal->path, &removal->error);
}

static void remove_done(void *context)
{
    struct removal *removal = context;
    if (removal->error.kind != ERROR_NONE && removal->error.kind != ERROR_NOT_FOUND) {
        log_warn("clone: %s", removal->error.text);
    }
    removal->service->at_work--;
    free(removal->path);
    free(removal);
}

void folder_remove(struct clone_service *service, char *owned_path)
{
    struct removal *removal = NEW(struct removal);
    removal->service = service;
    removal->path = owned_path;
    service->at_work++;
    loop_work(service->options.loop, remove_work, remove_done, removal);
}

struct clone_machine *machine_new(struct clone_service *service,
                                  const struct machine_events *events, void *context,
                                  struct error *err)
{
    uint64_t number = ++service->last_number;
    char *folder =
        memory_format("%s/%" PRIx64 "-%" PRIu64, service->options.folder, service->run, number);
    if (file_make_folder(folder, 0711, err) < 0) {
        free(folder);
        return NULL;
    }
    struct clone_machine *machine = NEW(struct clone_machine);
    machine->service = service;
    machine->folder = folder;
    machine->uid = UID_FIRST + (uid_t)(number % UID_COUNT);
    machine->events = *events;
    machine->context = context;
    list_push_back(&service->machines, &machine->link);
    return machine;
}

static void machine_free(struct clone_machine *machine)
{
    struct clone_service *service = machine->service;
    agent_close(machine->agent);
    hypervisor_free(machine->vm);
    loop_timer_free(machine->timer);
    list_remove(&machine->link);
    if (machine->on_gone != NULL) {
        machine->on_gone(machine->context);
    }
    if (machine->keeps_folder) {
        free(machine->folder);
    } else {
        folder_remove(service, machine->folder);
    }
    free(machine);
}

static void free_later(void *argument)
{
    machine_free(argument);
}

/* The owner is told once, and has ended it when it comes back. */
static void fail(struct clone_machine *machine, const struct error *error)
{
    if (!machine->is_ending) {
        struct error copy = *error;
        machine->events.on_failed(&copy, machine->context);
        CHECK(machine->is_ending);
    }
}

static void on_up(const struct agent_info *info, void *context)
{
    struct clone_machine *machine = context;
    struct error error = {0};
    if (machine->is_ending) {
        return;
    }
    machine->is_up = true;
    if (info->init == AGENT_INIT_RESCUE) {
        error_set(&error, ERROR_UNAVAILABLE, "the machine did not boot: %s", info->problem);
        fail(machine, &error);
    } else {
        machine->events.on_up(machine->context);
    }
}

/* Calls have ended with their errors.  An agent that an image has brought may be of a release that
 * nobody here can speak to. */
static void on_down(const struct error *error, void *context)
{
    struct clone_machine *machine = context;
    if (error != NULL && error->kind == ERROR_UNSUPPORTED) {
        fail(machine, error);
    }
}

static void on_started(void *context)
{
    static const struct agent_events events = {.on_up = on_up, .on_down = on_down};
    struct clone_machine *machine = context;
    struct error err = {0};
    if (machine->is_ending) {
        hypervisor_kill(machine->vm);
        return;
    }
    if (machine->agent != NULL) { /* it is only its VMM that was connected to anew */
        return;
    }
    MEMORY_OWNED char *path = memory_format("%s/" HYPERVISOR_AGENT_SOCKET, machine->folder);
    const struct agent_options options = {.path = path, .retry_ms = 2};
    if (agent_open(machine->service->options.loop, &options, &events, machine, &machine->agent,
                   &err) < 0) {
        fail(machine, &err);
    }
}

static void on_paused(bool is_paused, void *context)
{
    (void)is_paused;
    (void)context;
}

static void on_reboot(void *context)
{
    struct clone_machine *machine = context;
    struct error error = {0};
    error_set(&error, ERROR_UNAVAILABLE, "the function's machine has rebooted");
    fail(machine, &error);
}

static void on_vmm_exit(const struct hypervisor_exit *exit, void *context)
{
    struct clone_machine *machine = context;
    struct error error = {0};
    error_set(&error, ERROR_UNAVAILABLE, "the function's machine has ended: %.300s", exit->text);
    fail(machine, &error);
    loop_post(machine->service->options.loop, free_later, machine);
}

static const struct hypervisor_events vm_events = {on_started, on_paused, on_reboot, on_vmm_exit};

static void on_late(void *context)
{
    struct clone_machine *machine = context;
    struct error error = {0};
    error_set(&error, machine->is_up ? ERROR_UNAVAILABLE : ERROR_TIMEOUT, "%s",
              machine->is_up ? "the function's machine started, and was not made ready in time"
                             : "the function's machine did not start in time");
    fail(machine, &error);
}

void machine_ready(struct clone_machine *machine)
{
    loop_timer_stop(machine->timer);
}

static void fail_later(void *argument)
{
    struct clone_machine *machine = argument;
    struct error error = {0};
    error_set(&error, ERROR_OS, "the function's machine could not be started");
    if (!machine->is_ending) {
        fail(machine, &error);
    }
    machine_free(machine);
}

void machine_start(struct clone_machine *machine, struct hypervisor_spec *spec,
                   uint64_t patience_ms)
{
    struct clone_service *service = machine->service;
    spec->name = "function";
    spec->folder = machine->folder;
    spec->uid = machine->uid;
    machine->timer = loop_timer_new(service->options.loop, on_late, machine);
    loop_timer_start(machine->timer, patience_ms);
    machine->vm = hypervisor_start(service->options.hypervisor, spec, &vm_events, machine);
    if (machine->vm == NULL) {
        loop_post(service->options.loop, fail_later, machine);
    }
}

void machine_end(struct clone_machine *machine)
{
    if (machine == NULL || machine->is_ending) {
        return;
    }
    machine->is_ending = true;
    if (machine->timer != NULL) {
        loop_timer_stop(machine->timer);
    }
    agent_close(machine->agent);
    machine->agent = NULL;
    if (machine->vm != NULL) {
        hypervisor_kill(machine->vm); /* on_vmm_exit follows */
    } else if (machine->timer == NULL) {
        loop_post(machine->service->options.loop, free_later, machine); /* it was never started */
    }
}

void machine_end_keeping(struct clone_machine *machine, void (*on_gone)(void *context),
                         void *context)
{
    machine->keeps_folder = true;
    machine->on_gone = on_gone;
    machine->context = context;
    machine_end(machine);
}

/* ---- What was left ---- */

static void on_nothing(void *context)
{
    (void)context;
}

static void on_nothing_failed(const struct error *error, void *context)
{
    (void)error;
    (void)context;
}

static void sweep(struct clone_service *service, const char *name)
{
    static const struct machine_events events = {on_nothing, on_nothing_failed};
    struct clone_machine *machine = NEW(struct clone_machine);
    machine->service = service;
    machine->folder = memory_format("%s/%s", service->options.folder, name);
    machine->events = events;
    machine->is_ending = true; /* killed as soon as it is found, then its folder goes */
    list_push_back(&service->machines, &machine->link);
    machine->timer = loop_timer_new(service->options.loop, on_nothing, machine);
    machine->vm = hypervisor_attach(service->options.hypervisor, "qemu", machine->folder,
                                    &vm_events, machine);
}

void machines_sweep(struct clone_service *service)
{
    DIR *folder = opendir(service->options.folder);
    const struct dirent *entry = NULL;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (strncmp(entry->d_name, KEEP_PREFIX, strlen(KEEP_PREFIX)) == 0) {
            if (keep_is_stale(service, entry->d_name)) {
                folder_remove(service,
                              memory_format("%s/%s", service->options.folder, entry->d_name));
            }
        } else if (entry->d_name[0] != '.') {
            sweep(service, entry->d_name);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}
