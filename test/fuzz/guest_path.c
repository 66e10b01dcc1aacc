/*
 * The guest's paths: whatever is made, moved and removed below /tmp and below a folder in it, no
 * path leads out of where it starts, and everything stays whole.
 *
 * The bytes are a program: an operation, then paths of a few parts each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/lib/guest_files.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

enum { MEMORY_MAX = 1 << 20, TEXT_MAX = 512 };

static const char *const parts[] = {"a", "b",  "c",   "..", ".", "/", "//", "../..",
                                    "",  "a/", "/..", "d",  "e", "f", "g",  "..a"};

struct program {
    const uint8_t *at;
    const uint8_t *end;
    uint32_t inner; /* a folder that is held open */
    char text[2][TEXT_MAX];
};

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static uint8_t next(struct program *program)
{
    return program->at < program->end ? *program->at++ : 0;
}

static struct path next_path(struct program *program, int which)
{
    uint8_t head = next(program);
    char *text = program->text[which];
    size_t used = 0;
    for (int i = 0; i < (head & 7) + 1; i++) {
        used += (size_t)snprintf(text + used, TEXT_MAX - used, "%s%s", parts[next(program) % 16],
                                 i < (head & 7) ? "/" : "");
    }
    return guest_path(head & 0x80 ? program->inner : TMP_NODE, text);
}

static void look(struct path path, bool follows)
{
    struct place place;
    enum last_link last = follows ? LAST_LINK_FOLLOWED : LAST_LINK_ASKED;
    if (path_find(path.start, path.bytes, path.length, last, &place) != WASI_OK) {
        return;
    }
    must(place.folder != NODE_NONE || place.node != NODE_NONE);
    must(guest_files_is_below(place.folder != NODE_NONE ? place.folder : place.node, path.start));
    if (place.folder != NODE_NONE) {
        must(place.name.length > 0 && memchr(place.name.bytes, '/', place.name.length) == NULL);
        must(folder_find(place.folder, place.name) == place.node);
    }
}

static void step(struct program *program)
{
    uint8_t operation = next(program);
    struct path one = next_path(program, 0);
    struct path two = next_path(program, 1);
    uint32_t node = NODE_NONE;
    size_t written = 0;
    switch (operation % 9) {
    case 0:
        path_make_folder(one);
        break;
    case 1:
        path_make_link(two.bytes, two.length, one);
        break;
    case 2:
        if (path_open(one, operation & 0x80, operation >> 3 & 15, true, &node) == WASI_OK &&
            node_kind(node) == WASI_KIND_FILE) {
            content_write(node, (uint64_t)operation * 1000, program->text, sizeof(program->text),
                          &written);
        }
        break;
    case 3:
        path_link(one, two);
        break;
    case 4:
        path_rename(one, two);
        break;
    case 5:
        path_remove_folder(one);
        break;
    case 6:
        path_unlink(one);
        break;
    default:
        look(one, operation & 0x80);
        look(two, !(operation & 0x80));
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct program program = {.at = bytes, .end = bytes + length};
    guest_files_begin(NULL, MEMORY_MAX);
    must(path_make_folder(guest_path(TMP_NODE, "a")) == WASI_OK);
    must(path_make_folder(guest_path(TMP_NODE, "a/b")) == WASI_OK);
    program.inner = folder_find(TMP_NODE, (struct name){"a", 1});
    node_hold(program.inner);
    while (program.at < program.end) {
        step(&program);
    }
    must(guest_files_fault() == NULL);
    node_release(program.inner);
    return 0;
}
