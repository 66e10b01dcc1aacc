/* The guest's files, with no guest around them. */
#include <string.h>

#include "engine/vmm/assets.h"

#include "guest/function/descriptor.h"
#include "test/lib/guest_files.h"
#include "test/lib/test.h"

enum { PLENTY = 4 << 20 };

static uint32_t make_file(uint32_t start, const char *path)
{
    uint32_t node = NODE_NONE;
    EXPECT(path_open(guest_path(start, path), false, WASI_OPEN_CREATE, true, &node) == WASI_OK);
    return node;
}

static uint32_t find(uint32_t start, const char *path, bool follows)
{
    struct place place;
    enum last_link last = follows ? LAST_LINK_FOLLOWED : LAST_LINK_ASKED;
    uint32_t error = path_find(start, path, strlen(path), last, &place);
    EXPECT(error != WASI_OK || place.node == NODE_NONE ||
           guest_files_is_below(place.folder == NODE_NONE ? place.node : place.folder, start));
    return error != WASI_OK ? error : place.node == NODE_NONE ? WASI_ENOENT : WASI_OK;
}

static uint32_t make_link(const char *target, const char *path)
{
    return path_make_link(target, strlen(target), guest_path(TMP_NODE, path));
}

TEST(guest_files, paths_stay_below_their_folder)
{
    guest_files_begin(NULL, PLENTY);
    EXPECT(path_make_folder(guest_path(TMP_NODE, "a")) == WASI_OK);
    EXPECT(path_make_folder(guest_path(TMP_NODE, "a/b/")) == WASI_OK);
    make_file(TMP_NODE, "secret");
    uint32_t a = folder_find(TMP_NODE, (struct name){"a", 1});
    EXPECT(make_link("../secret", "a/up") == WASI_OK);
    EXPECT(make_link("b/../../secret", "a/around") == WASI_OK);
    EXPECT(make_link("..", "a/dots") == WASI_OK);
    EXPECT(make_link("/secret", "a/absolute") == WASI_EPERM);
    static const char *const out[] = {"..", "../a", "b/../..", "b/../../a", "./../secret",
                                      "up", "up/",  "around",  "dots",      "dots/a",
                                      "/",  "/a",   "//",      "b/..//..//"};
    for (size_t i = 0; i < sizeof(out) / sizeof(out[0]); i++) {
        EXPECT(find(a, out[i], true) == WASI_EPERM);
    }
    EXPECT(find(TMP_NODE, "a/up", true) == WASI_OK);
    EXPECT(find(TMP_NODE, "a/dots/secret", true) == WASI_OK);
    EXPECT(find(a, "b/../b/.././.", true) == WASI_OK);
    EXPECT(find(ROOT_NODE, "tmp/a/up", true) == WASI_OK);
    EXPECT(find(ROOT_NODE, "..", true) == WASI_EPERM);
    EXPECT(guest_files_fault() == NULL);
}

TEST(guest_files, links_end)
{
    char name[32];
    guest_files_begin(NULL, PLENTY);
    make_file(TMP_NODE, "end");
    for (int i = 0; i < 50; i++) {
        char target[32];
        snprintf(name, sizeof(name), "l%d", i);
        snprintf(target, sizeof(target), "l%d", i - 1);
        EXPECT(make_link(i == 0 ? "end" : target, name) == WASI_OK);
    }
    EXPECT(find(TMP_NODE, "l39", true) == WASI_OK);
    EXPECT(find(TMP_NODE, "l40", true) == WASI_ELOOP);
    EXPECT(find(TMP_NODE, "l40", false) == WASI_OK);
    EXPECT(make_link("self/x", "self") == WASI_OK);
    EXPECT(find(TMP_NODE, "self/x", false) == WASI_ELOOP);
}

TEST(guest_files, names_have_limits)
{
    char name[300];
    static char path[5000];
    guest_files_begin(NULL, PLENTY);
    memset(name, 'n', sizeof(name));
    name[255] = '\0';
    make_file(TMP_NODE, name);
    EXPECT(find(TMP_NODE, name, true) == WASI_OK);
    name[255] = 'n';
    name[256] = '\0';
    EXPECT(find(TMP_NODE, name, true) == WASI_ENAMETOOLONG);
    memset(path, '/', sizeof(path) - 1);
    path[0] = '.';
    EXPECT(find(TMP_NODE, path, true) == WASI_ENAMETOOLONG);
    path[4096] = '\0';
    EXPECT(find(TMP_NODE, path, true) == WASI_OK);
    EXPECT(find(TMP_NODE, "", true) == WASI_ENOENT);
    struct place place;
    EXPECT(path_find(TMP_NODE, "a\0b", 3, LAST_LINK_FOLLOWED, &place) == WASI_EINVAL);
    static const char *const broken[] = {"\x80",         "\xc0\x80",         "\xe0\x80\x80",
                                         "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5",
                                         "a\xe2\x82"};
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
        EXPECT(find(TMP_NODE, broken[i], true) == WASI_EILSEQ);
    }
    make_file(TMP_NODE, "\xe2\x82\xac");
}

/* What is made, moved or removed is the link, not the folder behind it, as Linux has it. */
TEST(guest_files, a_slash_behind_a_link_changes_nothing_of_what_it_leads_to)
{
    guest_files_begin(NULL, PLENTY);
    struct path link = guest_path(TMP_NODE, "to_d/");
    struct path gone = guest_path(TMP_NODE, "to_gone/");
    make_file(TMP_NODE, "f");
    EXPECT(path_make_folder(guest_path(TMP_NODE, "d")) == WASI_OK);
    EXPECT(path_make_folder(guest_path(TMP_NODE, "e//")) == WASI_OK);
    EXPECT(make_link("d", "to_d") == WASI_OK && make_link("gone", "to_gone") == WASI_OK);
    EXPECT(path_remove_folder(link) == WASI_ENOTDIR);
    EXPECT(path_unlink(link) == WASI_ENOTDIR);
    EXPECT(path_rename(link, guest_path(TMP_NODE, "x")) == WASI_ENOTDIR);
    EXPECT(path_rename(guest_path(TMP_NODE, "e"), link) == WASI_ENOTDIR);
    EXPECT(path_make_folder(link) == WASI_EEXIST);
    EXPECT(path_make_folder(gone) == WASI_EEXIST);
    EXPECT(path_make_folder(guest_path(TMP_NODE, "f/")) == WASI_EEXIST);
    EXPECT(find(TMP_NODE, "d", false) == WASI_OK && find(TMP_NODE, "e", false) == WASI_OK);
    EXPECT(find(TMP_NODE, "to_d/", false) == WASI_OK);
    EXPECT(find(TMP_NODE, "gone", false) == WASI_ENOENT);
    EXPECT(guest_files_fault() == NULL);
}

TEST(guest_files, opening_and_linking_are_refused_in_the_order_of_linux)
{
    guest_files_begin(NULL, PLENTY);
    uint32_t node;
    make_file(TMP_NODE, "f");
    EXPECT(path_make_folder(guest_path(TMP_NODE, "d")) == WASI_OK);
    EXPECT(make_link("d", "to_d") == WASI_OK);
    EXPECT(path_open(guest_path(TMP_NODE, "d"), false, WASI_OPEN_CREATE | WASI_OPEN_DIRECTORY,
                     false, &node) == WASI_EINVAL);
    EXPECT(path_open(guest_path(TMP_NODE, "to_d"), false, WASI_OPEN_DIRECTORY, false, &node) ==
           WASI_ENOTDIR);
    EXPECT(path_link(guest_path(TMP_NODE, "d"), guest_path(TMP_NODE, "f")) == WASI_EEXIST);
    EXPECT(path_link(guest_path(TMP_NODE, "d"), guest_path(TMP_NODE, "x")) == WASI_EPERM);
}

TEST(guest_files, slashes_behind_want_folders)
{
    guest_files_begin(NULL, PLENTY);
    make_file(TMP_NODE, "f");
    EXPECT(path_make_folder(guest_path(TMP_NODE, "d")) == WASI_OK);
    EXPECT(make_link("d", "to_d") == WASI_OK && make_link("f", "to_f") == WASI_OK &&
           make_link("d/", "slash") == WASI_OK);
    uint32_t node;
    EXPECT(find(TMP_NODE, "f/", false) == WASI_ENOTDIR);
    EXPECT(find(TMP_NODE, "to_f/", false) == WASI_ENOTDIR);
    EXPECT(find(TMP_NODE, "to_d/", false) == WASI_OK);
    EXPECT(find(TMP_NODE, "slash", true) == WASI_OK);
    EXPECT(path_open(guest_path(TMP_NODE, "new/"), false, WASI_OPEN_CREATE, true, &node) ==
           WASI_EISDIR);
    EXPECT(make_link("x", "d/") == WASI_EEXIST);
    EXPECT(make_link("x", "new/") == WASI_ENOENT);
    EXPECT(path_link(guest_path(TMP_NODE, "f"), guest_path(TMP_NODE, "new/")) == WASI_ENOENT);
    EXPECT(path_rename(guest_path(TMP_NODE, "f"), guest_path(TMP_NODE, "new/")) == WASI_ENOTDIR);
    EXPECT(path_rename(guest_path(TMP_NODE, "d/"), guest_path(TMP_NODE, "e/")) == WASI_OK);
    EXPECT(path_unlink(guest_path(TMP_NODE, "e/")) == WASI_EISDIR);
    EXPECT(path_remove_folder(guest_path(TMP_NODE, "e/")) == WASI_OK);
    EXPECT(path_remove_folder(guest_path(TMP_NODE, ".")) == WASI_EINVAL);
    EXPECT(path_rename(guest_path(TMP_NODE, "."), guest_path(TMP_NODE, "x")) == WASI_EBUSY);
    EXPECT(guest_files_fault() == NULL);
}

/* Goal: memory that ends, at whatever point, leaves everything whole, and what is removed comes
 * back. */
TEST(guest_files, running_out_of_memory_breaks_nothing)
{
    static uint8_t bytes[10000];
    for (uint64_t limit = 0; limit <= 1 << 20; limit += 64 << 10) {
        guest_files_begin(NULL, limit);
        unsigned made = 0;
        uint32_t error = WASI_OK;
        for (; error == WASI_OK && made < 100000; made++) {
            char name[64];
            uint32_t node = NODE_NONE;
            size_t written = 0;
            snprintf(name, sizeof(name), "file %u", made);
            error = path_open(guest_path(TMP_NODE, name), false, WASI_OPEN_CREATE, true, &node);
            if (error == WASI_OK) {
                error = content_write(node, 0, bytes, sizeof(bytes), &written);
            }
        }
        EXPECT(error == WASI_ENOSPC);
        EXPECT(guest_files_fault() == NULL);
        for (unsigned i = 0; i < made; i++) {
            char name[64];
            snprintf(name, sizeof(name), "file %u", i);
            error = path_unlink(guest_path(TMP_NODE, name));
            EXPECT(error == WASI_OK || i == made - 1);
        }
        EXPECT(folder_is_empty(TMP_NODE) && guest_files_fault() == NULL);
        if (made > 2) {
            uint32_t node = make_file(TMP_NODE, "again");
            size_t written = 0;
            EXPECT(content_write(node, 0, bytes, sizeof(bytes), &written) == WASI_OK &&
                   written == sizeof(bytes));
        }
    }
}

TEST(guest_files, files_have_holes_and_ends)
{
    guest_files_begin(NULL, PLENTY);
    uint32_t node = make_file(TMP_NODE, "f");
    struct file_status status;
    size_t written = 0;
    char byte = 0;
    /* In each of the three levels of blocks, and around their borders. */
    static const uint64_t places[] = {
        0, 40959, 40960, 4235263, 4235264, 1 << 30, FILE_BYTES_MAX - 1};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        EXPECT(content_write(node, places[i], "xy", 2, &written) == WASI_OK);
        EXPECT(written == (places[i] == FILE_BYTES_MAX - 1 ? 1 : 2));
        EXPECT(content_read(node, places[i], &byte, 1) == 1 && byte == 'x');
    }
    EXPECT(content_read(node, 1 << 29, &byte, 1) == 1 && byte == 0);
    EXPECT(content_write(node, FILE_BYTES_MAX, "x", 1, &written) == WASI_EFBIG);
    EXPECT(content_resize(node, FILE_BYTES_MAX + 1) == WASI_EFBIG);
    EXPECT(content_allocate(node, 0, 0) == WASI_EINVAL);
    EXPECT(content_allocate(node, UINT64_MAX, UINT64_MAX) == WASI_EFBIG);
    EXPECT(content_resize(node, 40960) == WASI_OK &&
           content_resize(node, FILE_BYTES_MAX) == WASI_OK);
    EXPECT(content_read(node, 40959, &byte, 1) == 1 && byte == 'x');
    for (size_t i = 2; i < sizeof(places) / sizeof(places[0]); i++) {
        EXPECT(content_read(node, places[i], &byte, 1) == 1 && byte == 0);
    }
    node_status(node, &status);
    EXPECT(status.size == FILE_BYTES_MAX && content_read(node, FILE_BYTES_MAX, &byte, 1) == 0);
}

TEST(guest_files, descriptors_have_limits_and_hold_what_they_stand_for)
{
    guest_files_begin(NULL, PLENTY);
    uint32_t node = make_file(TMP_NODE, "f");
    const struct descriptor opened = {
        .kind = DESCRIPTOR_NODE, .node = node, .rights = WASI_RIGHT_READ};
    struct descriptor *got;
    uint32_t number = 0;
    for (uint32_t i = 5; i < DESCRIPTORS_MAX; i++) {
        EXPECT(descriptor_add(&opened, &number) == WASI_OK && number == i);
    }
    EXPECT(descriptor_add(&opened, &number) == WASI_EMFILE);
    EXPECT(descriptor_close(9) == WASI_OK && descriptor_close(9) == WASI_EBADF);
    EXPECT(descriptor_add(&opened, &number) == WASI_OK && number == 9);
    EXPECT(descriptor_check(9, WASI_RIGHT_WRITE, &got) == WASI_ENOTCAPABLE);
    EXPECT(descriptor_check(DESCRIPTORS_MAX, 0, &got) == WASI_EBADF);
    EXPECT(descriptor_renumber(9, 9) == WASI_OK &&
           descriptor_renumber(9, DESCRIPTORS_MAX) == WASI_EBADF);
    EXPECT(path_unlink(guest_path(TMP_NODE, "f")) == WASI_OK);
    EXPECT(descriptor_renumber(9, 3) == WASI_OK && descriptor_get(9) == NULL);
    EXPECT_STRING(descriptor_preopen(3), "");
    EXPECT_STRING(descriptor_preopen(4), "/tmp");
    for (uint32_t i = 3; i < DESCRIPTORS_MAX; i++) {
        EXPECT(descriptor_close(i) == (i == 9 ? WASI_EBADF : WASI_OK));
    }
    /* Its memory is free: the next one gets it. */
    EXPECT(make_file(TMP_NODE, "g") == node);
}

TEST(guest_files, what_is_removed_while_open_takes_nothing_new)
{
    guest_files_begin(NULL, PLENTY);
    EXPECT(path_make_folder(guest_path(TMP_NODE, "d")) == WASI_OK);
    uint32_t folder = folder_find(TMP_NODE, (struct name){"d", 1});
    uint32_t ignored;
    node_hold(folder);
    EXPECT(path_remove_folder(guest_path(TMP_NODE, "d")) == WASI_OK);
    EXPECT(path_open(guest_path(folder, "x"), false, WASI_OPEN_CREATE, true, &ignored) ==
           WASI_ENOENT);
    EXPECT(path_make_folder(guest_path(folder, "x")) == WASI_ENOENT);
    make_file(TMP_NODE, "f");
    EXPECT(path_rename(guest_path(TMP_NODE, "f"), guest_path(folder, "f")) == WASI_ENOENT);
    node_release(folder);
    EXPECT(guest_files_fault() == NULL);
}

/* Goal: a folder that is held and has no name is not looked for in what was above it, and is other
 * things by now. */
TEST(guest_files, what_is_above_may_end_before_what_is_removed_and_held)
{
    guest_files_begin(NULL, PLENTY);
    EXPECT(path_make_folder(guest_path(TMP_NODE, "above")) == WASI_OK);
    EXPECT(path_make_folder(guest_path(TMP_NODE, "above/below")) == WASI_OK);
    uint32_t above = folder_find(TMP_NODE, (struct name){"above", 5});
    uint32_t below = folder_find(above, (struct name){"below", 5});
    node_hold(below);
    EXPECT(path_remove_folder(guest_path(TMP_NODE, "above/below")) == WASI_OK);
    EXPECT(path_remove_folder(guest_path(TMP_NODE, "above")) == WASI_OK);
    EXPECT(path_make_folder(guest_path(TMP_NODE, "other")) == WASI_OK);
    EXPECT(folder_parent(below) == ROOT_NODE);
    EXPECT(path_rename(guest_path(TMP_NODE, "other"), guest_path(below, "x")) == WASI_ENOENT);
    node_release(below);
    EXPECT(guest_files_fault() == NULL);
}

TEST(guest_files, assets_do_not_change)
{
    static const struct {
        struct assets_head head;
        struct assets_node nodes[4];
        char names[16];
        char content[16];
    } archive = {
        .head = {ASSETS_MAGIC, 4, 6, 0, sizeof(archive), 0},
        .nodes = {{0, 0, ASSETS_FOLDER, 0, 1, 2, 0, 0},
                  {0, 1, ASSETS_FILE, 0, 0, 0, sizeof(archive) - 16, 5},
                  {1, 3, ASSETS_FOLDER, 0, 3, 1, 0, 0},
                  {4, 2, ASSETS_FILE, 0, 0, 0, sizeof(archive) - 16, 0}},
        .names = "asubxy",
        .content = "hello",
    };
    guest_files_begin(&archive.head, PLENTY);
    char bytes[8] = "";
    size_t written;
    uint32_t node;
    struct folder_entry entry;
    EXPECT(find(ROOT_NODE, "sub/xy", true) == WASI_OK &&
           find(ROOT_NODE, "sub/../a", true) == WASI_OK);
    EXPECT(find(ROOT_NODE, "sub/x", true) == WASI_ENOENT &&
           find(ROOT_NODE, "a/x", true) == WASI_ENOTDIR);
    EXPECT(find(2, "..", true) == WASI_EPERM && folder_parent(3) == 2 &&
           folder_parent(2) == ROOT_NODE);
    EXPECT(content_read(1, 1, bytes, 8) == 4 && memcmp(bytes, "ello", 4) == 0);
    EXPECT(content_write(1, 0, "x", 1, &written) == WASI_EROFS &&
           content_resize(1, 0) == WASI_EROFS);
    EXPECT(path_open(guest_path(ROOT_NODE, "a"), true, 0, true, &node) == WASI_EROFS);
    EXPECT(path_open(guest_path(ROOT_NODE, "a"), true, WASI_OPEN_TRUNCATE, false, &node) ==
           WASI_EROFS);
    EXPECT(path_open(guest_path(ROOT_NODE, "b"), true, WASI_OPEN_CREATE, false, &node) ==
           WASI_EROFS);
    EXPECT(path_unlink(guest_path(ROOT_NODE, "a")) == WASI_EROFS);
    EXPECT(path_remove_folder(guest_path(ROOT_NODE, "sub")) == WASI_EROFS);
    EXPECT(path_remove_folder(guest_path(ROOT_NODE, "tmp")) == WASI_EROFS);
    EXPECT(path_rename(guest_path(ROOT_NODE, "tmp"), guest_path(ROOT_NODE, "x")) == WASI_EROFS);
    EXPECT(path_rename(guest_path(ROOT_NODE, "a"), guest_path(TMP_NODE, "x")) == WASI_EROFS);
    EXPECT(path_link(guest_path(ROOT_NODE, "a"), guest_path(TMP_NODE, "x")) == WASI_EXDEV);
    EXPECT(node_set_times(1, 0, 0) == WASI_EROFS);
    unsigned names = 0;
    for (uint64_t cookie = 0; folder_next(ROOT_NODE, cookie, &entry); cookie = entry.cookie_after) {
        names++;
    }
    EXPECT(names == 5); /* . .. a sub tmp */
}
