/* Nodes as one, wherever they are kept. */
#include "engine/vmm/assets.h"

#include "files_memory.h"

enum { DEVICE_ASSETS = 1, DEVICE_TMP = 2 };

static const struct assets_node *asset_at(uint32_t node)
{
    return (const struct assets_node *)(files.assets + 1) + node;
}

bool node_is_fixed(uint32_t node)
{
    return node < TMP_NODE;
}

uint8_t node_kind(uint32_t node)
{
    if (node == ROOT_NODE) {
        return WASI_KIND_FOLDER;
    }
    return node < TMP_NODE ? asset_at(node)->kind : file_at(node)->kind;
}

void node_status(uint32_t node, struct file_status *ret_status)
{
    *ret_status = (struct file_status){.number = (uint64_t)node + 1, .kind = node_kind(node)};
    if (node < TMP_NODE) {
        ret_status->device = DEVICE_ASSETS;
        ret_status->links = 1;
        ret_status->size = node != ROOT_NODE ? asset_at(node)->length : 0;
        return;
    }
    const struct file *file = file_at(node);
    ret_status->device = DEVICE_TMP;
    ret_status->links = file->links;
    ret_status->size = file->size;
    ret_status->accessed_ns = file->accessed_ns;
    ret_status->modified_ns = file->modified_ns;
    ret_status->changed_ns = file->changed_ns;
}

uint32_t node_set_times(uint32_t node, uint64_t accessed_ns, uint64_t modified_ns)
{
    if (node_is_fixed(node)) {
        return WASI_EROFS;
    }
    struct file *file = file_at(node);
    file->accessed_ns = accessed_ns;
    file->modified_ns = modified_ns;
    file->changed_ns = files_now_ns();
    return WASI_OK;
}

void node_hold(uint32_t node)
{
    if (!node_is_fixed(node)) {
        file_at(node)->holds++;
    }
}

void node_release(uint32_t node)
{
    if (node_is_fixed(node)) {
        return;
    }
    struct file *file = file_at(node);
    file->holds--;
    if (file->holds == 0 && file->is_gone) {
        if (file->kind != WASI_KIND_FOLDER) {
            content_free(file);
        }
        units_give(node - TMP_NODE, 2);
    }
}
