/* Volumes of a VMM that is to go on from a state.  See plug.h. */
#include "engine/hypervisor/plug.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/fd.h"
#include "base/memory.h"

enum { ID_SIZE = 64 };

struct one {
    struct hypervisor_volume volume;
    struct hypervisor_layer layers[HYPERVISOR_LAYERS_MAX];
    char ids[HYPERVISOR_LAYERS_MAX][ID_SIZE];
    char id[ID_SIZE];
    uint8_t *key;
};

struct plug {
    struct one *list;
    size_t count;
    size_t at;
    struct hypervisor_vm *vm;
    hypervisor_done done;
    void *context;
};

static int copy_fd(int fd)
{
    return fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
}

static void copy(struct one *one, const struct hypervisor_volume *volume)
{
    CHECK(volume->layer_count <= HYPERVISOR_LAYERS_MAX);
    one->volume = *volume;
    snprintf(one->id, sizeof(one->id), "%s", volume->id);
    one->volume.id = one->id;
    one->volume.layers = one->layers;
    for (size_t i = 0; i < volume->layer_count; i++) {
        snprintf(one->ids[i], sizeof(one->ids[i]), "%s", volume->layers[i].id);
        one->layers[i] = volume->layers[i];
        one->layers[i].id = one->ids[i];
        one->layers[i].fd = copy_fd(volume->layers[i].fd);
        one->layers[i].read_fd = copy_fd(volume->layers[i].read_fd);
    }
    if (volume->key != NULL) {
        one->key = memory_new(1, volume->key_length);
        memcpy(one->key, volume->key, volume->key_length);
        one->volume.key = one->key;
    }
}

struct plug *plug_new(const struct hypervisor_spec *spec)
{
    CHECK(spec->volume_count <= HYPERVISOR_VOLUMES_MAX);
    struct plug *plug = NEW(struct plug);
    plug->count = spec->volume_count;
    plug->list = memory_new(plug->count, sizeof(*plug->list));
    for (size_t i = 0; i < plug->count; i++) {
        copy(&plug->list[i], &spec->volumes[i]);
    }
    return plug;
}

void plug_free(struct plug *plug)
{
    if (plug == NULL) {
        return;
    }
    for (size_t i = 0; i < plug->count; i++) {
        struct one *one = &plug->list[i];
        for (size_t j = 0; j < one->volume.layer_count; j++) {
            fd_close_slot(&one->layers[j].fd);
            fd_close_slot(&one->layers[j].read_fd);
        }
        if (one->key != NULL) {
            explicit_bzero(one->key, one->volume.key_length);
            free(one->key);
        }
    }
    free(plug->list);
    free(plug);
}

static void on_plugged(const struct error *error, void *context)
{
    struct plug *plug = context;
    if (error == NULL) {
        plug->at++;
    }
    if (error != NULL || plug->at == plug->count) {
        plug->done(error, plug->context);
    } else {
        hypervisor_attach_volume(plug->vm, &plug->list[plug->at].volume, on_plugged, plug);
    }
}

void plug_all(struct plug *plug, struct hypervisor_vm *vm, hypervisor_done done, void *context)
{
    CHECK(plug->count > 0 && plug->at == 0);
    plug->vm = vm;
    plug->done = done;
    plug->context = context;
    hypervisor_attach_volume(vm, &plug->list[0].volume, on_plugged, plug);
}
