/* A VMM's command line, word by word. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "engine/hypervisor/driver.h"

#define PINNED_BESIDE (UINT64_C(1) << 30)

static void take(struct order *order, char *owned_word)
{
    CHECK(order->word_count < ORDER_WORDS_MAX);
    order->words[order->word_count++] = owned_word;
}

void order_add(struct order *order, const char *word)
{
    take(order, memory_copy_string(word));
}

void order_add_format(struct order *order, const char *format, ...)
{
    va_list arguments;
    char *text = NULL;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    CHECK(length >= 0);
    take(order, text);
}

/* The monitor leaves standard input, output and error below them. */
int order_add_socket(struct order *order, const char *name)
{
    CHECK(order->socket_count < LAUNCH_SOCKETS_MAX);
    order->sockets[order->socket_count] = name;
    return LAUNCH_FD_SOCKETS + (int)order->socket_count++;
}

int order_add_tap(struct order *order, const char *name)
{
    CHECK(order->tap_count < LAUNCH_TAPS_MAX);
    order->taps[order->tap_count] = memory_copy_string(name);
    return LAUNCH_FD_TAPS + (int)order->tap_count++;
}

void order_add_mount(struct order *order, const char *path, bool writable)
{
    for (size_t i = 0; i < order->mount_count; i++) {
        if (strcmp(order->mounts[i].path, path) == 0) { /* once is enough, and twice is refused */
            order->mounts[i].writable = order->mounts[i].writable || writable;
            return;
        }
    }
    CHECK(order->mount_count < LAUNCH_MOUNTS_MAX);
    order->mounts[order->mount_count++] =
        (struct launch_mount){memory_copy_string(path), writable, NULL};
}

void order_add_mount_at(struct order *order, const char *path, const char *at, bool writable)
{
    CHECK(order->mount_count < LAUNCH_MOUNTS_MAX);
    order->mounts[order->mount_count++] =
        (struct launch_mount){memory_copy_string(path), writable, memory_copy_string(at)};
}

void order_add_device(struct order *order, const char *path)
{
    for (size_t i = 0; i < order->device_count; i++) {
        if (strcmp(order->devices[i], path) == 0) {
            return;
        }
    }
    CHECK(order->device_count < LAUNCH_DEVICES_MAX);
    order->devices[order->device_count++] = memory_copy_string(path);
}

/* A VMM finds a device's group by a link in sysfs, and opens the group by its number.  Beyond the
 * guest's memory what it maps for itself is pinned, too: firmware, memory of emulated devices. */
void order_add_passed(struct order *order, const struct hypervisor_spec *spec)
{
    for (size_t i = 0; i < spec->device_count; i++) {
        const struct hypervisor_device *device = &spec->devices[i];
        MEMORY_OWNED char *group = memory_format("/dev/vfio/%s", device->group);
        MEMORY_OWNED char *folder = memory_format("/sys/bus/pci/devices/%s", device->address);
        order_add_device(order, "/dev/vfio/vfio");
        order_add_device(order, group);
        order_add_mount(order, folder, false);
        order->locked_bytes_max = spec->memory_bytes + PINNED_BESIDE;
    }
}

int order_add_share(struct order *order, const struct hypervisor_share *share)
{
    CHECK(order->share_count < LAUNCH_SHARES_MAX);
    order->shares[order->share_count] =
        (struct launch_share){.path = memory_copy_string(share->path),
                              .tag = memory_copy_string(share->tag),
                              .read_only = share->read_only};
    return LAUNCH_FD_SHARES + (int)order->share_count++;
}

void order_done(struct order *order)
{
    for (size_t i = 0; i < order->share_count; i++) {
        free((void *)(uintptr_t)order->shares[i].path);
        free((void *)(uintptr_t)order->shares[i].tag);
        free((void *)(uintptr_t)order->shares[i].socket);
    }
    for (size_t i = 0; i < order->runner.tap_count; i++) {
        free((void *)(uintptr_t)order->runner.taps[i].tap);
        free((void *)(uintptr_t)order->runner.taps[i].name);
    }
    free((void *)(uintptr_t)order->runner.state);
    free((void *)(uintptr_t)order->runner.shut_down);
    free(order->share_program);
    for (size_t i = 0; i < order->device_count; i++) {
        free((void *)(uintptr_t)order->devices[i]);
    }
    for (size_t i = 0; i < order->word_count; i++) {
        free(order->words[i]);
    }
    for (size_t i = 0; i < order->mount_count; i++) {
        free((void *)(uintptr_t)order->mounts[i].path);
        free((void *)(uintptr_t)order->mounts[i].at);
    }
    for (size_t i = 0; i < order->tap_count; i++) {
        free((void *)(uintptr_t)order->taps[i]);
    }
    json_decref(order->plan);
    json_decref(order->incoming);
    *order = (struct order){0};
}
