/*
 * wasm_assets_check(): whatever the bytes, it ends; and what it accepts can be walked as a function
 * does it, without leaving the archive.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#include "engine/vmm/assets.h"
#include "engine/wasm/assets.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void walk(const uint8_t *bytes, size_t length)
{
    struct assets_head head;
    memcpy(&head, bytes, sizeof(head));
    size_t names_at = sizeof(head) + head.node_count * sizeof(struct assets_node);
    uint32_t seen = 1;
    for (uint32_t i = 0; i < head.node_count; i++) {
        struct assets_node node;
        memcpy(&node, bytes + sizeof(head) + i * sizeof(node), sizeof(node));
        must(names_at + node.name_at + node.name_length <= length);
        must(node.kind == ASSETS_FILE || node.kind == ASSETS_FOLDER);
        if (node.kind == ASSETS_FOLDER) {
            must(node.first == seen);
            seen += node.count;
        } else {
            must(node.at + node.length <= length);
        }
    }
    must(seen == head.node_count);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct error err = {0};
    if (wasm_assets_check(bytes, length, &err) < 0) {
        must(err.kind == ERROR_INVALID && err.text[0] != '\0');
        return 0;
    }
    walk(bytes, length);
    return 0;
}
