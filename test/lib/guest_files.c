#include "guest_files.h"

#include <string.h>

#include "guest/function/descriptor.h"
#include "guest/function/files_memory.h"

enum { MEMORY_BYTES = 8 << 20, DEPTH_MAX = 2000 };

static uint8_t memory[MEMORY_BYTES] __attribute__((aligned(4096)));
static uint64_t memory_max;
uint64_t guest_files_now_ns;

bool files_provide(uint64_t bytes)
{
    return bytes <= memory_max;
}

void files_host_close(uint32_t handle)
{
    (void)handle;
}

uint64_t files_now_ns(void)
{
    return ++guest_files_now_ns;
}

void guest_files_begin(const struct assets_head *assets, uint64_t bytes)
{
    memset(memory, 0,
           (size_t)files.provided < sizeof(memory) ? (size_t)files.provided : sizeof(memory));
    memory_max = bytes < sizeof(memory) ? bytes : sizeof(memory);
    files_begin(assets, memory);
    descriptors_begin();
}

bool guest_files_is_below(uint32_t node, uint32_t above)
{
    for (int i = 0; i < DEPTH_MAX && node != above && node != ROOT_NODE; i++) {
        node = folder_parent(node);
    }
    return node == above;
}

static const char *fault_in(uint32_t folder, int depth)
{
    struct folder_entry entry;
    struct file_status status;
    uint32_t count = 0;
    uint32_t folders = 0;
    if (depth == DEPTH_MAX) {
        return "folders in a circle";
    }
    for (uint64_t cookie = 2; folder_next(folder, cookie, &entry); cookie = entry.cookie_after) {
        uint8_t kind = node_kind(entry.node);
        node_status(entry.node, &status);
        if (entry.cookie_after <= cookie) {
            return "a cookie goes backwards";
        }
        if (folder_find(folder, entry.name) != entry.node) {
            return "a name is not found";
        }
        if (status.links == 0 || file_at(entry.node)->is_gone) {
            return "a name of what is gone";
        }
        if (kind == WASI_KIND_FOLDER) {
            const char *fault = file_at(entry.node)->parent != folder
                ? "another parent"
                : fault_in(entry.node, depth + 1);
            if (fault != NULL) {
                return fault;
            }
        } else if (kind != WASI_KIND_FILE && kind != WASI_KIND_LINK) {
            return "an unknown kind";
        }
        count++;
        folders += kind == WASI_KIND_FOLDER;
    }
    node_status(folder, &status);
    if (count != file_at(folder)->folder.count) {
        return "a wrong count";
    }
    return status.links == folders + 2 ? NULL : "wrong links of a folder";
}

const char *guest_files_fault(void)
{
    return fault_in(TMP_NODE, 0);
}
