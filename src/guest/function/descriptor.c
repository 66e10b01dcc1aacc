#include "descriptor.h"

enum { FIRST = 8 };

static struct descriptor first[FIRST];
static struct descriptor others[DESCRIPTORS_MAX - FIRST] __attribute__((section(".bss..large")));
static uint32_t lowest_free; /* none below it is free */

static struct descriptor *at(uint32_t number)
{
    return number < FIRST ? &first[number] : &others[number - FIRST];
}

void descriptors_begin(void)
{
    const uint32_t stream = WASI_RIGHT_POLL | WASI_RIGHT_STATUS | WASI_RIGHT_SET_FLAGS;
    const struct descriptor folder = {
        .kind = DESCRIPTOR_NODE,
        .is_preopen = 1,
        .rights = WASI_RIGHTS_FOLDER,
        .rights_inheriting = WASI_RIGHTS_INHERITED,
    };
    for (uint32_t i = 0; i < DESCRIPTORS_MAX && at(i)->kind != DESCRIPTOR_FREE; i++) {
        *at(i) = (struct descriptor){0};
    }
    first[0] = (struct descriptor){.kind = DESCRIPTOR_INPUT, .rights = stream | WASI_RIGHT_READ};
    first[1] = (struct descriptor){.kind = DESCRIPTOR_OUTPUT, .rights = stream | WASI_RIGHT_WRITE};
    first[2] = (struct descriptor){.kind = DESCRIPTOR_LOG, .rights = stream | WASI_RIGHT_WRITE};
    first[3] = folder;
    first[3].node = ROOT_NODE;
    first[4] = folder;
    first[4].node = TMP_NODE;
    lowest_free = 5;
}

struct descriptor *descriptor_get(uint32_t number)
{
    return number < DESCRIPTORS_MAX && at(number)->kind != DESCRIPTOR_FREE ? at(number) : NULL;
}

uint32_t descriptor_check(uint32_t number, uint32_t rights, struct descriptor **ret_descriptor)
{
    *ret_descriptor = descriptor_get(number);
    if (*ret_descriptor == NULL) {
        return WASI_EBADF;
    }
    return ((*ret_descriptor)->rights & rights) == rights ? WASI_OK : WASI_ENOTCAPABLE;
}

uint32_t descriptor_add(const struct descriptor *from, uint32_t *ret_number)
{
    while (lowest_free < DESCRIPTORS_MAX && at(lowest_free)->kind != DESCRIPTOR_FREE) {
        lowest_free++;
    }
    if (lowest_free == DESCRIPTORS_MAX) {
        return WASI_EMFILE;
    }
    *ret_number = lowest_free;
    *at(lowest_free) = *from;
    if (from->kind == DESCRIPTOR_NODE) {
        node_hold(from->node);
    }
    return WASI_OK;
}

uint32_t descriptor_close(uint32_t number)
{
    struct descriptor *descriptor = descriptor_get(number);
    if (descriptor == NULL) {
        return WASI_EBADF;
    }
    if (descriptor->kind == DESCRIPTOR_NODE && !descriptor->is_preopen) {
        node_release(descriptor->node);
    }
    *descriptor = (struct descriptor){0};
    lowest_free = number < lowest_free ? number : lowest_free;
    return WASI_OK;
}

uint32_t descriptor_renumber(uint32_t from, uint32_t to)
{
    struct descriptor *source = descriptor_get(from);
    if (source == NULL || descriptor_get(to) == NULL) {
        return WASI_EBADF;
    }
    if (from == to) {
        return WASI_OK;
    }
    struct descriptor moved = *source;
    *source = (struct descriptor){0};
    descriptor_close(to);
    *at(to) = moved;
    lowest_free = from < lowest_free ? from : lowest_free;
    return WASI_OK;
}

const char *descriptor_preopen(uint32_t number)
{
    const struct descriptor *descriptor = descriptor_get(number);
    if (descriptor == NULL || !descriptor->is_preopen) {
        return "";
    }
    return descriptor->node == ROOT_NODE ? "/" : "/tmp";
}
