/*
 * What a running machine is told: each order goes to its driver, or is refused, later, where that
 * cannot do it or its VMM does not listen.
 */
#include <stdio.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/hypervisor/vm.h"

/* ---- Refusing ---- */

struct refusal {
    struct hypervisor_vm *vm;
    struct error error;
    hypervisor_done done;
    void *context;
};

static void on_refusal(void *argument)
{
    struct refusal *refusal = argument;
    struct hypervisor_vm *vm = refusal->vm;
    vm->posts--;
    if (!vm->is_freed) {
        refusal->done(&refusal->error, refusal->context);
    }
    free(refusal);
    vm_release(vm);
}

static void refuse(struct hypervisor_vm *vm, enum error_kind kind, const char *text,
                   hypervisor_done done, void *context)
{
    struct refusal *refusal = NEW(struct refusal);
    *refusal = (struct refusal){.vm = vm, .done = done, .context = context};
    error_set(&refusal->error, kind, "%s", text);
    vm->posts++;
    loop_post(vm->hypervisor->loop, on_refusal, refusal);
}

static bool is_there(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (vm->control == NULL) {
        refuse(vm, ERROR_UNAVAILABLE, "the machine does not run, or its VMM does not listen", done,
               context);
    }
    return vm->control != NULL;
}

void hypervisor_pause(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (is_there(vm, done, context)) {
        vm->found->driver->pause(vm->control, done, context);
    }
}

bool hypervisor_is_full(const struct hypervisor_vm *vm)
{
    return vm->is_full;
}

void hypervisor_resume(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (is_there(vm, done, context)) {
        vm->found->driver->resume(vm->control, done, context);
    }
}

static bool can(struct hypervisor_vm *vm, bool has, hypervisor_done done, void *context)
{
    char text[96];
    if (!has) {
        snprintf(text, sizeof(text), "the driver %.40s cannot do that", vm->found->info.name);
        refuse(vm, ERROR_UNSUPPORTED, text, done, context);
    }
    return has;
}

void hypervisor_reset(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (can(vm, vm->found->driver->reset != NULL, done, context) && is_there(vm, done, context)) {
        vm->found->driver->reset(vm->control, done, context);
    }
}

void hypervisor_power_down(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (is_there(vm, done, context)) {
        vm->found->driver->power_down(vm->control, done, context);
    }
}

void hypervisor_resize_disk(struct hypervisor_vm *vm, size_t index, uint64_t bytes,
                            hypervisor_done done, void *context)
{
    if (can(vm, vm->found->driver->resize_disk != NULL, done, context) &&
        is_there(vm, done, context)) {
        vm->found->driver->resize_disk(vm->control, index, bytes, done, context);
    }
}

void hypervisor_throttle_disk(struct hypervisor_vm *vm, size_t index,
                              const struct hypervisor_rates *rates, hypervisor_done done,
                              void *context)
{
    if (can(vm, vm->found->driver->throttle_disk != NULL, done, context) &&
        is_there(vm, done, context)) {
        vm->found->driver->throttle_disk(vm->control, index, rates, done, context);
    }
}

static void on_transferred(const struct error *error, void *context)
{
    struct hypervisor_vm *vm = context;
    vm->is_transferring = false;
    vm->transfer_done(error, vm->transfer_context);
}

static bool begin_transfer(struct hypervisor_vm *vm, int owned_fd, hypervisor_done done,
                           void *context)
{
    if (vm->is_transferring) {
        refuse(vm, ERROR_CONFLICT, "something else is being done to the machine", done, context);
    } else if (is_there(vm, done, context)) {
        vm->is_transferring = true;
        vm->transfer_done = done;
        vm->transfer_context = context;
        return true;
    }
    if (owned_fd >= 0) {
        close(owned_fd);
    }
    return false;
}

void hypervisor_balloon(struct hypervisor_vm *vm, uint64_t bytes, hypervisor_done done,
                        void *context)
{
    if (begin_transfer(vm, -1, done, context)) {
        vm->found->driver->balloon(vm->control, bytes, on_transferred, vm);
    }
}

/* Memory that is a file of its own is the template's of clones. */
static bool can_transfer(struct hypervisor_vm *vm, int owned_fd, bool without_memory,
                         hypervisor_done done, void *context)
{
    const struct hypervisor_driver_info *info = &vm->found->info;
    bool has = without_memory ? info->can_clone : info->can_snapshot;
    if (!can(vm, has, done, context)) {
        close(owned_fd);
        return false;
    }
    return begin_transfer(vm, owned_fd, done, context);
}

void hypervisor_save(struct hypervisor_vm *vm, int owned_fd, bool without_memory,
                     hypervisor_done done, void *context)
{
    if (without_memory && !can(vm, vm->found->driver->stamp == NULL, done, context)) {
        close(owned_fd);
    } else if (can_transfer(vm, owned_fd, without_memory, done, context)) {
        vm->found->driver->save(vm->control, owned_fd, without_memory, on_transferred, vm);
    }
}

void hypervisor_load(struct hypervisor_vm *vm, int owned_fd, bool without_memory,
                     hypervisor_done done, void *context)
{
    if (can_transfer(vm, owned_fd, without_memory, done, context)) {
        vm->found->driver->load(vm->control, owned_fd, without_memory, on_transferred, vm);
    }
}

/* ---- To another VMM ---- */

void hypervisor_leave(struct hypervisor_vm *vm, const struct hypervisor_leaving *leaving,
                      const struct hypervisor_leaving_events *events, void *context)
{
    if (can(vm, vm->found->info.can_migrate, events->on_end, context) &&
        is_there(vm, events->on_end, context)) {
        vm->found->driver->leave(vm->control, leaving, events, context);
        return;
    }
    for (size_t i = 0; i < leaving->disk_count; i++) {
        close(leaving->disk_fds[i]);
    }
    close(leaving->state_fd);
}

void hypervisor_stay(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (can(vm, vm->found->info.can_migrate, done, context) && is_there(vm, done, context)) {
        vm->found->driver->stay(vm->control, done, context);
    }
}

void hypervisor_receive(struct hypervisor_vm *vm, const struct hypervisor_moving *disks,
                        size_t disk_count, int disk_listener, int state_fd,
                        const struct hypervisor_receiving_events *events, void *context)
{
    if (can(vm, vm->found->info.can_migrate, events->on_end, context) &&
        is_there(vm, events->on_end, context)) {
        vm->found->driver->receive(vm->control, disks, disk_count, disk_listener, state_fd, events,
                                   context);
        return;
    }
    close(disk_listener);
    close(state_fd);
}

void hypervisor_announce(struct hypervisor_vm *vm)
{
    if (vm->control != NULL && vm->found->driver->announce != NULL) {
        vm->found->driver->announce(vm->control);
    }
}

/* ---- Volumes ---- */

void hypervisor_set_usb(struct hypervisor_vm *vm, const struct hypervisor_usb *devices,
                        size_t count, struct hypervisor_usb_set *ret_set, hypervisor_done done,
                        void *context)
{
    if (can(vm, vm->found->info.can_pass_usb, done, context) && is_there(vm, done, context)) {
        vm->found->driver->set_usb(vm->control, devices, count, ret_set, done, context);
    }
}

static bool takes_volumes(struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    if (!vm->found->info.can_hotplug) {
        refuse(vm, ERROR_UNSUPPORTED, "this driver does not know volumes", done, context);
        return false;
    }
    return is_there(vm, done, context);
}

void hypervisor_attach_volume(struct hypervisor_vm *vm, const struct hypervisor_volume *volume,
                              hypervisor_done done, void *context)
{
    if (takes_volumes(vm, done, context)) {
        vm->found->driver->attach_volume(vm->control, volume, done, context);
    }
}

void hypervisor_detach_volume(struct hypervisor_vm *vm, const char *id, const char *const *layers,
                              size_t layer_count, hypervisor_done done, void *context)
{
    if (takes_volumes(vm, done, context)) {
        vm->found->driver->detach_volume(vm->control, id, layers, layer_count, done, context);
    }
}

void hypervisor_resize_volume(struct hypervisor_vm *vm, const char *id, uint64_t bytes,
                              hypervisor_done done, void *context)
{
    if (takes_volumes(vm, done, context)) {
        vm->found->driver->resize_volume(vm->control, id, bytes, done, context);
    }
}

void hypervisor_throttle_volume(struct hypervisor_vm *vm, const char *id,
                                const struct hypervisor_rates *rates, hypervisor_done done,
                                void *context)
{
    if (takes_volumes(vm, done, context)) {
        vm->found->driver->throttle_volume(vm->control, id, rates, done, context);
    }
}

void hypervisor_lay_over(struct hypervisor_vm *vm, const char *id, const char *below,
                         const struct hypervisor_layer *layer, hypervisor_done done, void *context)
{
    if (takes_volumes(vm, done, context)) {
        vm->found->driver->lay_over(vm->control, id, below, layer, done, context);
    }
}
