/* Walking a path: one part after the other, links in the place of their names. */
#include "path.h"

#include <string.h>

/* What is left of a path, or of a link's target. */
struct rest {
    const char *at;
    const char *end;
};

struct walk {
    struct rest rests[LINKS_MAX + 1]; /* the innermost link last */
    unsigned rest_count;
    unsigned links;
    uint32_t folders[HEIGHT_MAX]; /* from the start down to here */
    unsigned height;
};

/* RFC 3629, without overlong forms and surrogates. */
static bool is_utf8(const uint8_t *at, const uint8_t *end)
{
    while (at < end) {
        uint8_t first = *at++;
        unsigned more = first < 0x80 ? 0
            : first < 0xc2           ? 4
            : first < 0xe0           ? 1
            : first < 0xf0           ? 2
                                     : 3;
        if (more > 3 || first > 0xf4 || (size_t)(end - at) < more) {
            return false;
        }
        uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
        for (unsigned i = 0; i < more; i++, at++) {
            if (*at < low || *at > high) {
                return false;
            }
            low = 0x80;
            high = 0xbf;
        }
    }
    return true;
}

static uint32_t check_text(const char *path, size_t length)
{
    if (length == 0) {
        return WASI_ENOENT;
    }
    if (length > PATH_MAX_BYTES) {
        return WASI_ENAMETOOLONG;
    }
    for (size_t i = 0; i < length; i++) {
        if (path[i] == '\0') {
            return WASI_EINVAL;
        }
    }
    if (!is_utf8((const uint8_t *)path, (const uint8_t *)path + length)) {
        return WASI_EILSEQ;
    }
    return path[0] == '/' ? WASI_EPERM : WASI_OK;
}

/* Past slashes and ended rests; true when there were slashes. */
static bool skip_slashes(struct walk *walk)
{
    bool found = false;
    while (walk->rest_count > 0) {
        struct rest *rest = &walk->rests[walk->rest_count - 1];
        if (rest->at == rest->end) {
            walk->rest_count--;
        } else if (*rest->at == '/') {
            rest->at++;
            found = true;
        } else {
            break;
        }
    }
    return found;
}

static struct name take_part(struct walk *walk)
{
    struct rest *rest = &walk->rests[walk->rest_count - 1];
    struct name part = {.bytes = rest->at};
    while (rest->at < rest->end && *rest->at != '/') {
        rest->at++;
    }
    part.length = (size_t)(rest->at - part.bytes);
    return part;
}

static bool is_dots(struct name part, size_t count)
{
    return part.length == count && part.bytes[0] == '.' && part.bytes[count - 1] == '.';
}

static uint32_t enter_link(struct walk *walk, uint32_t link)
{
    size_t length = 0;
    const char *target = link_target(link, &length);
    if (++walk->links > LINKS_MAX) {
        return WASI_ELOOP;
    }
    if (length == 0) {
        return WASI_ENOENT;
    }
    if (target[0] == '/') {
        return WASI_EPERM;
    }
    walk->rests[walk->rest_count++] = (struct rest){target, target + length};
    return WASI_OK;
}

static void take_name(struct place *place, uint32_t folder, struct name name, uint32_t node)
{
    place->node = node;
    place->folder = folder;
    memcpy(place->name_bytes, name.bytes, name.length);
    place->name = (struct name){place->name_bytes, name.length};
}

/* One part that is a name.  `is_last`: nothing but slashes follows. */
static uint32_t step(struct walk *walk, struct name part, bool is_last, enum last_link last_link,
                     struct place *place)
{
    uint32_t folder = walk->folders[walk->height];
    if (part.length > NAME_MAX_BYTES) {
        return WASI_ENAMETOOLONG;
    }
    uint32_t node = folder_find(folder, part);
    if (node == NODE_NONE && !is_last) {
        return WASI_ENOENT;
    }
    uint8_t kind = node != NODE_NONE ? node_kind(node) : WASI_KIND_UNKNOWN;
    bool enters = !is_last || last_link == LAST_LINK_FOLLOWED ||
        (last_link == LAST_LINK_ASKED && place->wants_folder);
    if (kind == WASI_KIND_LINK && enters) {
        return enter_link(walk, node);
    }
    if (kind != WASI_KIND_FOLDER && kind != WASI_KIND_UNKNOWN &&
        (!is_last || place->wants_folder)) {
        return WASI_ENOTDIR;
    }
    take_name(place, folder, part, node);
    if (kind == WASI_KIND_FOLDER) {
        if (walk->height + 1 == HEIGHT_MAX) {
            return WASI_ENAMETOOLONG;
        }
        walk->folders[++walk->height] = node;
    }
    return WASI_OK;
}

/* "." and "..": the folder where we are then has no name any more. */
static uint32_t step_dots(struct walk *walk, bool is_up, struct place *place)
{
    if (is_up && walk->height == 0) {
        return WASI_EPERM;
    }
    walk->height -= is_up;
    place->node = walk->folders[walk->height];
    place->folder = NODE_NONE;
    return WASI_OK;
}

uint32_t path_find(uint32_t start, const char *path, size_t length, enum last_link last_link,
                   struct place *ret_place)
{
    struct walk walk;
    uint32_t error = check_text(path, length);
    if (error != WASI_OK) {
        return error;
    }
    walk.rests[0] = (struct rest){path, path + length};
    walk.rest_count = 1;
    walk.links = 0;
    walk.folders[0] = start;
    walk.height = 0;
    ret_place->node = start;
    ret_place->folder = NODE_NONE;
    bool ends_with_slash = false;
    while (error == WASI_OK && walk.rest_count > 0) {
        struct name part = take_part(&walk);
        bool has_slash = skip_slashes(&walk);
        bool is_last = walk.rest_count == 0;
        ends_with_slash = ends_with_slash || (is_last && has_slash); /* also of a link's target */
        ret_place->wants_folder = is_last && ends_with_slash;
        if (is_dots(part, 1) || is_dots(part, 2)) {
            error = step_dots(&walk, part.length == 2, ret_place);
        } else {
            error = step(&walk, part, is_last, last_link, ret_place);
        }
    }
    return error;
}
