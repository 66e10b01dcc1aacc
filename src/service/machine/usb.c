/*
 * USB devices of running machines: plugged into a VMM when they are plugged into the node.
 *
 * A device is its machine's by its port, whatever becomes of it (devices.c).  What is at the port
 * is looked at now and then: the kernel numbers a device anew when it is plugged in, or begins anew
 * by itself, and by port and number a VMM tells what it has.  A machine starts without what is not
 * there, and gets it when it comes, if it is one that the machine asks for.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/devices.h"

enum { LOOK_MS = 2000 };

/* A device of the machine's, as it was at the last look. */
struct plugged {
    char address[DEVICE_ADDRESS_SIZE];
    struct device device;                   /* its `number` is 0: it is not there */
    char problem[DEVICE_PROBLEM_SIZE + 64]; /* why */
    size_t at;                              /* in what the VMM is told */
};

struct machine_usb {
    struct machine *machine;
    struct loop_timer *timer;
    struct plugged list[MACHINE_DEVICES_MAX];
    size_t count;
    struct plugged before[MACHINE_DEVICES_MAX]; /* of which the VMM was told */
    size_t count_before;
    bool has_told;
    bool is_telling;
    struct hypervisor_usb_set set;
};

/* ---- Looking ---- */

static bool take_address(sqlite3_stmt *row, void *context)
{
    struct machine_usb *usb = context;
    if (usb->count < MACHINE_DEVICES_MAX && device_is_usb(store_text(row, 0))) {
        struct plugged *plugged = &usb->list[usb->count++];
        *plugged = (struct plugged){0};
        snprintf(plugged->address, sizeof(plugged->address), "%s", store_text(row, 0));
    }
    return true;
}

static void find(const struct machine_usb *usb, const struct device *all, size_t count,
                 struct plugged *plugged)
{
    const struct machine *machine = usb->machine;
    snprintf(plugged->problem, sizeof(plugged->problem),
             "it is not plugged in at node %.63s: the machine gets it when it is, at the same port",
             machine->service->node_name);
    for (size_t i = 0; i < count; i++) {
        const struct device *device = &all[i];
        if (strcmp(device->address, plugged->address) != 0) {
            continue;
        }
        if (device->problem[0] != '\0') {
            snprintf(plugged->problem, sizeof(plugged->problem), "%s", device->problem);
        } else if (!devices_fit(machine->config, device->class_name, device->model,
                                device->address)) {
            snprintf(plugged->problem, sizeof(plugged->problem),
                     "another one is at its port (%s), which the machine does not ask for",
                     device->model);
        } else {
            plugged->device = *device;
            plugged->problem[0] = '\0';
        }
    }
}

static int look_at_all(struct machine_usb *usb, struct error *err)
{
    const struct machine_service *service = usb->machine->service;
    usb->count = 0;
    int r = store_query(service->options.store, err, take_address, usb,
                        "SELECT address FROM machine_device WHERE machine = ? AND node = ? ORDER "
                        "BY address",
                        "tt", usb->machine->id, service->node_name);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED struct device *all = memory_new(DEVICE_LIST_MAX, sizeof(*all));
    size_t count = device_list_usb("/sys", devices_offered(service), all, DEVICE_LIST_MAX);
    for (size_t i = 0; i < usb->count; i++) {
        find(usb, all, count, &usb->list[i]);
    }
    return 0;
}

/* ---- Telling ---- */

static const struct plugged *find_before(const struct machine_usb *usb, const char *address)
{
    for (size_t i = 0; i < usb->count_before; i++) {
        if (strcmp(usb->before[i].address, address) == 0) {
            return &usb->before[i];
        }
    }
    return NULL;
}

static bool is_as_before(const struct machine_usb *usb)
{
    bool is = usb->has_told && usb->count == usb->count_before;
    for (size_t i = 0; i < usb->count && is; i++) {
        const struct plugged *before = find_before(usb, usb->list[i].address);
        is = before != NULL && before->device.number == usb->list[i].device.number &&
            strcmp(before->problem, usb->list[i].problem) == 0;
    }
    return is;
}

static void note(struct machine_usb *usb, const struct plugged *plugged, const char *type,
                 const char *text)
{
    MEMORY_OWNED char *reason = memory_format("%s: %s", plugged->address, text);
    log_info("machine %s: %s %s", usb->machine->key, type, reason);
    events_note(usb->machine, type, reason);
}

static bool is_in(uint32_t bits, const struct plugged *plugged)
{
    return (bits & (UINT32_C(1) << plugged->at)) != 0;
}

/* What it has it may have had before this daemon: only what came is told. */
static void note_all(struct machine_usb *usb)
{
    for (size_t i = 0; i < usb->count; i++) {
        const struct plugged *plugged = &usb->list[i];
        const struct plugged *before = find_before(usb, plugged->address);
        bool is_there = plugged->problem[0] == '\0';
        if (!is_there && (before == NULL || strcmp(before->problem, plugged->problem) != 0)) {
            note(usb, plugged, "vm.device-missing", plugged->problem);
        } else if (is_there && is_in(usb->set.added, plugged)) {
            MEMORY_OWNED char *what =
                memory_format("%s %s", plugged->device.model, plugged->device.name);
            note(usb, plugged, "vm.device-attached", what);
        }
    }
    if (usb->machine->news_count > 0) {
        state_publish(usb->machine);
    }
}

static void again(struct machine_usb *usb, bool has_told)
{
    note_all(usb);
    memcpy(usb->before, usb->list, sizeof(usb->before));
    usb->count_before = usb->count;
    usb->has_told = has_told;
    loop_timer_start(usb->timer, LOOK_MS);
}

/* One that it did not take is told of, and tried again. */
static void on_told(const struct error *error, void *context)
{
    struct machine_usb *usb = context;
    usb->is_telling = false;
    for (size_t i = 0; i < usb->count && error != NULL; i++) {
        struct plugged *plugged = &usb->list[i];
        if (plugged->problem[0] == '\0' && !is_in(usb->set.had | usb->set.added, plugged)) {
            snprintf(plugged->problem, sizeof(plugged->problem), "%.200s", error->text);
        }
    }
    again(usb, error == NULL);
}

static void tell(struct machine_usb *usb)
{
    struct hypervisor_usb devices[HYPERVISOR_USB_MAX];
    size_t count = 0;
    for (size_t i = 0; i < usb->count && count < HYPERVISOR_USB_MAX; i++) {
        struct plugged *plugged = &usb->list[i];
        struct error error = {0};
        if (plugged->problem[0] != '\0') {
            continue;
        }
        if (device_open_usb("/dev", &plugged->device, &devices[count].fd, &error) < 0) {
            snprintf(plugged->problem, sizeof(plugged->problem), "%.200s", error.text);
            continue;
        }
        snprintf(devices[count].name, sizeof(devices[count].name), "%s-%u",
                 plugged->address + strlen("usb:"), plugged->device.number);
        plugged->at = count++;
    }
    usb->set = (struct hypervisor_usb_set){0};
    usb->is_telling = true;
    hypervisor_set_usb(usb->machine->vm, devices, count, &usb->set, on_told, usb);
    for (size_t i = 0; i < count; i++) {
        fd_close_slot(&devices[i].fd);
    }
}

static void look(void *context)
{
    struct machine_usb *usb = context;
    struct error error = {0};
    if (usb->is_telling) {
        return; /* on_told() goes on */
    }
    if (look_at_all(usb, &error) < 0) {
        log_warn("machine %s: its USB devices: %s", usb->machine->key, error.text);
        loop_timer_start(usb->timer, LOOK_MS);
    } else if (is_as_before(usb)) {
        loop_timer_start(usb->timer, LOOK_MS);
    } else {
        tell(usb);
    }
}

void usb_watch(struct machine *machine)
{
    if (!devices_want_usb(machine->config)) {
        return;
    }
    if (machine->usb == NULL) {
        machine->usb = NEW(struct machine_usb);
        machine->usb->machine = machine;
        machine->usb->timer = loop_timer_new(machine->service->options.loop, look, machine->usb);
    }
    machine->usb->has_told = false;
    loop_timer_start(machine->usb->timer, 0);
}

void usb_end(struct machine *machine)
{
    if (machine->usb != NULL) {
        loop_timer_free(machine->usb->timer);
        free(machine->usb);
        machine->usb = NULL;
    }
}

static bool release(sqlite3_stmt *row, void *context)
{
    (void)context;
    if (device_is_usb(store_text(row, 0))) {
        device_release_usb("/sys", store_text(row, 0));
    }
    return true;
}

void usb_release(struct machine *machine)
{
    struct error ignored = {0};
    if (devices_want_usb(machine->config)) {
        store_query(machine->service->options.store, &ignored, release, NULL,
                    "SELECT address FROM machine_device WHERE machine = ? AND node = ?", "tt",
                    machine->id, machine->service->node_name);
    }
}
