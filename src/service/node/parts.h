/* What the files of this room share. */
#ifndef SERVICE_NODE_PARTS_H
#define SERVICE_NODE_PARTS_H

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/node/node.h"

struct node_service {
    struct node_options options;
    char *node_name;
    struct loop_timer *look; /* at what this node has */
    bool is_over;
};

/* ---- attributes.c: what this node has; reads /proc and /sys, some hundred microseconds ---- */

/* Folders that are read, so that a test has its own; "" at the end of neither. */
struct attributes_roots {
    const char *proc; /* "/proc" */
    const char *sys;  /* "/sys" */
};
void attributes_write(const struct node_options *options, const struct attributes_roots *roots,
                      struct buffer *out);

#endif
