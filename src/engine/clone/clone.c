/* The service and its runners.  See clone.h. */
#include "engine/clone/clone.h"

#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/clone/parts.h"

int clone_service_new(const struct clone_options *options, struct clone_service **ret_service,
                      struct error *err)
{
    int r = file_make_folder(options->folder, 0711, err);
    if (r < 0) {
        return r;
    }
    struct clone_service *service = NEW(struct clone_service);
    service->options = *options;
    service->options.folder = memory_copy_string(options->folder);
    service->agent = file_find_companion("blixard-agent");
    service->run = clock_real_ms();
    list_init(&service->machines);
    list_init(&service->kept);
    machines_sweep(service);
    *ret_service = service;
    return 0;
}

/* Kills have been ordered; the loop goes on for a moment so that they are carried out. */
void clone_service_free(struct clone_service *service)
{
    if (service == NULL) {
        return;
    }
    enum { TURNS_MAX = 1000 };
    for (int turns = 0; turns < 3 || (service->at_work > 0 && turns < TURNS_MAX); turns++) {
        loop_flush(service->options.loop);
    }
    LIST_EACH(node, &service->machines)
    {
        struct clone_machine *machine = LIST_ITEM(node, struct clone_machine, link);
        list_remove(node);
        agent_close(machine->agent);
        hypervisor_free(machine->vm);
        loop_timer_free(machine->timer);
        free(machine->folder);
        free(machine);
    }
    free(service->agent);
    free((char *)(uintptr_t)service->options.folder);
    free(service);
}

static bool can_make_templates(const struct hypervisor *hypervisor)
{
    for (size_t i = 0; i < hypervisor_driver_count(hypervisor); i++) {
        const struct hypervisor_driver_info *info = hypervisor_driver_at(hypervisor, i);
        if (info->is_usable && info->can_snapshot && strcmp(info->name, "qemu") == 0) {
            return true;
        }
    }
    return false;
}

int clone_runner_start(struct clone_service *service, unsigned slot_count,
                       struct runner **ret_runner, struct error *err)
{
    CHECK(slot_count >= 1 && slot_count <= RUNNER_SLOTS_MAX);
    if (service->agent == NULL) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "Linux functions need blixard-agent, which is not beside blixard, in "
                         "../libexec/blixard or in PATH");
    }
    if (!can_make_templates(service->options.hypervisor)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "Linux functions need QEMU on this node (Debian: qemu-system-x86): see "
                         "blixard doctor");
    }
    struct clone_runner *runner = NEW(struct clone_runner);
    runner->driver = &clone_driver;
    runner->service = service;
    runner->slot_count = slot_count;
    list_init(&runner->templates);
    for (unsigned i = 0; i < slot_count; i++) {
        runner->slots[i] = (struct slot){.runner = runner, .index = i};
    }
    *ret_runner = (struct runner *)runner;
    return 0;
}

void runner_release(struct clone_runner *runner)
{
    if (runner->is_over && list_is_empty(&runner->templates)) {
        free(runner);
    }
}

/* It goes when the last of its templates does, which something may hold for a moment. */
static void runner_end(struct runner *base)
{
    struct clone_runner *runner = (struct clone_runner *)base;
    LIST_EACH(node, &runner->templates)
    {
        template_forget(LIST_ITEM(node, struct template, link)); /* nothing new is begun of it */
    }
    for (unsigned i = 0; i < runner->slot_count; i++) {
        struct slot *slot = &runner->slots[i];
        if (slot->call != NULL) {
            clone_call_cancel(slot->call);
        }
        slot_end(slot);
    }
    runner->is_over = true;
    runner_release(runner);
}

static void load(struct runner *base, const char *image_id, int fd, const struct vmm_limits *limits,
                 const char *settings,
                 void (*done)(const struct error *error, const struct vmm_image_info *info,
                              const char *log, size_t log_length, void *context),
                 void *context)
{
    template_make((struct clone_runner *)base, image_id, fd, limits, settings, done, context);
}

static void unload(struct runner *base, const char *image_id)
{
    struct clone_runner *runner = (struct clone_runner *)base;
    struct template *template = template_find(runner, image_id);
    if (template == NULL) {
        return;
    }
    /* Clones that wait for a call of it wait for nothing any more. */
    for (unsigned i = 0; i < runner->slot_count; i++) {
        if (runner->slots[i].template == template && runner->slots[i].call == NULL) {
            slot_end(&runner->slots[i]);
        }
    }
    template_forget(template);
}

static void warm(struct runner *base, unsigned index, const char *image_id)
{
    struct clone_runner *runner = (struct clone_runner *)base;
    struct slot *slot = &runner->slots[index];
    struct template *template = image_id != NULL ? template_find(runner, image_id) : NULL;
    CHECK(slot->call == NULL);
    if (template != slot->template || slot->machine == NULL) {
        slot_end(slot);
        if (template != NULL) {
            slot_begin(slot, template);
        }
    }
}

const struct runner_driver clone_driver = {
    .name = "Linux machines",
    .isolation = VMM_ISOLATION_MICROVM,
    .free = runner_end,
    .load = load,
    .unload = unload,
    .invoke = clone_invoke,
    .warm = warm,
    .write = clone_call_write,
    .finish_input = clone_call_finish_input,
    .pause = clone_call_pause,
    .resume = clone_call_resume,
    .cancel = clone_call_cancel,
};
