/*
 * USB devices of the host in a running QEMU: usb-host at its controller (qdev of QEMU 7.2).
 *
 * A device NAME is "host-NAME" for QEMU, which is asked what it has; the difference is plugged in
 * and out.  QEMU opens no node of usbfs by itself, and is shown none: a descriptor is passed, as a
 * set of its own, which libusb wraps.  It takes the interfaces from the host's drivers then.
 */
#include "engine/hypervisor/qemu_usb.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/hypervisor/qmp.h"

#define MARK "host-"

struct setting {
    struct hypervisor_usb devices[HYPERVISOR_USB_MAX];
    size_t count;
    struct hypervisor_usb_set *ret_set;
    unsigned asked; /* without an answer yet */
    struct error error;
    hypervisor_done done;
    void *context;
};

struct qemu_usb {
    struct qmp *qmp;
    struct setting *setting; /* under way, or NULL */
};

static void free_setting(struct qemu_usb *usb)
{
    for (size_t i = 0; usb->setting != NULL && i < usb->setting->count; i++) {
        fd_close_slot(&usb->setting->devices[i].fd);
    }
    free(usb->setting);
    usb->setting = NULL;
}

static void finish_if_answered(struct qemu_usb *usb)
{
    struct setting *setting = usb->setting;
    if (setting->asked > 0) {
        return;
    }
    struct error error = setting->error;
    hypervisor_done done = setting->done;
    void *context = setting->context;
    free_setting(usb);
    done(error.kind != ERROR_NONE ? &error : NULL, context);
}

/* ---- Out ---- */

static void on_removed(const struct error *error, const json_t *result, void *context)
{
    struct qemu_usb *usb = context;
    (void)result;
    if (error != NULL && usb->setting->error.kind == ERROR_NONE) {
        usb->setting->error = *error;
    }
    usb->setting->asked--;
    finish_if_answered(usb);
}

static bool is_wanted(const struct setting *setting, const char *name)
{
    bool is = false;
    for (size_t i = 0; i < setting->count; i++) {
        is = is || strcmp(setting->devices[i].name, name) == 0;
    }
    return is;
}

static void remove_others(struct qemu_usb *usb, const json_t *list)
{
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(list, index, item)
    {
        const char *id = json_text(item, "name");
        if (text_starts_with(id, MARK) && !is_wanted(usb->setting, id + strlen(MARK))) {
            usb->setting->asked++;
            qmp_execute(usb->qmp, "device_del", json_pack("{s:s}", "id", id), -1, on_removed, usb);
        }
    }
}

/* ---- In ---- */

struct adding {
    struct qemu_usb *usb;
    size_t index;
};

static void on_added(const struct error *error, const json_t *result, void *context)
{
    const struct adding *adding = context;
    struct setting *setting = adding->usb->setting;
    (void)result;
    if (error == NULL) {
        setting->ret_set->added |= UINT32_C(1) << adding->index;
    } else if (setting->error.kind == ERROR_NONE) {
        setting->error = *error;
    }
    setting->asked--;
    finish_if_answered(adding->usb);
}

static bool is_listed(const json_t *list, const char *id)
{
    bool is = false;
    size_t index = 0;
    json_t *item = NULL;
    json_array_foreach(list, index, item)
    {
        is = is || strcmp(json_text(item, "name"), id) == 0;
    }
    return is;
}

/* QEMU obeys in order.  The device has a descriptor of its own once it is there: the set goes. */
static void add(struct qemu_usb *usb, size_t index, const char *id)
{
    struct setting *setting = usb->setting;
    json_int_t set = (json_int_t)((uint32_t)random_u64() >> 1);
    struct adding *adding = NEW(struct adding);
    *adding = (struct adding){usb, index};
    setting->asked++;
    qmp_execute(usb->qmp, "add-fd", json_pack("{s:I}", "fdset-id", set), setting->devices[index].fd,
                NULL, NULL);
    qmp_ask(usb->qmp, "device_add",
            json_pack("{s:s, s:s, s:s, s:o}", "driver", "usb-host", "id", id, "bus",
                      QEMU_USB_CONTROLLER ".0", "hostdevice",
                      json_sprintf("/dev/fdset/%lld", (long long)set)),
            -1, on_added, adding);
    qmp_execute(usb->qmp, "remove-fd", json_pack("{s:I}", "fdset-id", set), -1, NULL, NULL);
}

static void on_listed(const struct error *error, const json_t *result, void *context)
{
    struct qemu_usb *usb = context;
    struct setting *setting = usb->setting;
    setting->asked--;
    if (error != NULL) {
        setting->error = *error;
    } else {
        remove_others(usb, result);
        for (size_t i = 0; i < setting->count; i++) {
            MEMORY_OWNED char *id = memory_format(MARK "%s", setting->devices[i].name);
            if (is_listed(result, id)) {
                setting->ret_set->had |= UINT32_C(1) << i;
            } else {
                add(usb, i, id);
            }
        }
    }
    finish_if_answered(usb);
}

/* ---- The door ---- */

void qemu_usb_set(struct qemu_usb *usb, const struct hypervisor_usb *devices, size_t count,
                  struct hypervisor_usb_set *ret_set, hypervisor_done done, void *context)
{
    CHECK(usb->setting == NULL);
    CHECK(count <= HYPERVISOR_USB_MAX);
    struct setting *setting = NEW(struct setting);
    setting->count = count;
    setting->ret_set = ret_set;
    setting->done = done;
    setting->context = context;
    setting->asked = 1;
    for (size_t i = 0; i < count; i++) {
        setting->devices[i] = devices[i];
        setting->devices[i].fd = fcntl(devices[i].fd, F_DUPFD_CLOEXEC, 3);
    }
    usb->setting = setting;
    *ret_set = (struct hypervisor_usb_set){0};
    qmp_execute(usb->qmp, "qom-list", json_pack("{s:s}", "path", "/machine/peripheral"), -1,
                on_listed, usb);
}

struct qemu_usb *qemu_usb_new(struct qmp *qmp)
{
    struct qemu_usb *usb = NEW(struct qemu_usb);
    usb->qmp = qmp;
    return usb;
}

void qemu_usb_free(struct qemu_usb *usb)
{
    if (usb != NULL) {
        free_setting(usb);
        free(usb);
    }
}
