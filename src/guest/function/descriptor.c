#include "descriptor.h"

#include "engine/vmm/abi.h"

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
        .file_kind = WASI_KIND_FOLDER,
        .rights = WASI_RIGHTS_FOLDER,
        .rights_inheriting = WASI_RIGHTS_INHERITED,
    };
    for (uint32_t i = 0; i < DESCRIPTORS_MAX && at(i)->kind != DESCRIPTOR_FREE; i++) {
        *at(i) = (struct descriptor){0};
    }
    first[0] = (struct descriptor){.kind = DESCRIPTOR_INPUT,
                                   .file_kind = WASI_KIND_STREAM,
                                   .rights = stream | WASI_RIGHT_READ};
    first[1] = (struct descriptor){.kind = DESCRIPTOR_OUTPUT,
                                   .file_kind = WASI_KIND_STREAM,
                                   .rights = stream | WASI_RIGHT_WRITE};
    first[2] = (struct descriptor){
        .kind = DESCRIPTOR_LOG, .file_kind = WASI_KIND_STREAM, .rights = stream | WASI_RIGHT_WRITE};
    first[3] = folder;
    first[3].node = ROOT_NODE;
    first[3].preopen = "/";
    first[4] = folder;
    first[4].node = TMP_NODE;
    first[4].preopen = "/tmp";
    lowest_free = 5;
}

void descriptors_hide(uint32_t folders)
{
    bool keeps_tmp = (folders & ABI_FOLDER_TMP) == 0;
    if ((folders & ABI_FOLDER_ROOT) == 0) {
        lowest_free = keeps_tmp ? 5 : 4;
    } else {
        first[3] = first[4];
        lowest_free = keeps_tmp ? 4 : 3;
    }
    for (uint32_t i = lowest_free; i < 5; i++) {
        first[i] = (struct descriptor){0};
    }
}

void descriptors_pipe(uint32_t streams)
{
    for (uint32_t i = 0; i < 3; i++) {
        if (streams & 1u << i) {
            first[i].file_kind = WASI_KIND_UNKNOWN;
        }
    }
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

static bool same(const char *a, const char *b)
{
    while (*a != '\0' && *a == *b) {
        a++;
        b++;
    }
    return *a == *b;
}

uint32_t descriptor_add_preopen(uint32_t handle, const char *path)
{
    const struct descriptor folder = {
        .kind = DESCRIPTOR_HOST,
        .file_kind = WASI_KIND_FOLDER,
        .node = handle,
        .rights = WASI_RIGHTS_FOLDER,
        .rights_inheriting = WASI_RIGHTS_INHERITED,
        .preopen = path,
    };
    for (uint32_t i = 3; i < 5; i++) {
        if (at(i)->preopen != NULL && same(at(i)->preopen, path)) {
            *at(i) = folder;
            return WASI_OK;
        }
    }
    uint32_t ignored;
    return descriptor_add(&folder, &ignored);
}

void descriptors_set_aside(struct descriptor ret_own[DESCRIPTORS_OWN])
{
    for (uint32_t i = 0; i < DESCRIPTORS_OWN; i++) {
        ret_own[i] = first[3 + i];
        first[3 + i] = (struct descriptor){0};
    }
    lowest_free = 3;
}

static bool is_preopened(const char *path)
{
    for (uint32_t i = 3; i < DESCRIPTORS_MAX && at(i)->preopen != NULL; i++) {
        if (same(at(i)->preopen, path)) {
            return true;
        }
    }
    return false;
}

void descriptors_put_behind(const struct descriptor own[DESCRIPTORS_OWN])
{
    uint32_t number = 0;
    for (uint32_t i = 0; i < DESCRIPTORS_OWN; i++) {
        if (own[i].preopen != NULL && !is_preopened(own[i].preopen)) {
            descriptor_add(&own[i], &number);
        }
    }
}

uint32_t descriptor_close(uint32_t number)
{
    struct descriptor *descriptor = descriptor_get(number);
    if (descriptor == NULL) {
        return WASI_EBADF;
    }
    if (descriptor->kind == DESCRIPTOR_HOST) {
        files_host_close(descriptor->node);
    } else if (descriptor->kind == DESCRIPTOR_NODE && descriptor->preopen == NULL) {
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
    return descriptor != NULL && descriptor->preopen != NULL ? descriptor->preopen : "";
}
