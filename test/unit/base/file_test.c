#include "base/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"

#include "test/lib/test.h"

TEST(file, write_replaces_whole_and_leaves_nothing_beside)
{
    MEMORY_OWNED char *path = memory_format("%s/value", test_folder());
    BUFFER_OWNED struct buffer buffer = {0};
    struct error err = {0};

    EXPECT(file_write(path, "old", 3, 0600, &err) == 0);
    EXPECT(file_write(path, "newer", 5, 0600, &err) == 0);
    EXPECT(file_read(path, 5, &buffer, &err) == 0);
    EXPECT_STRING(buffer_string(&buffer), "newer");
    EXPECT(unlink(path) == 0);
    EXPECT(rmdir(test_folder()) == 0); /* nothing else was in it */
    EXPECT(mkdir(test_folder(), 0700) == 0);
}

TEST(file, write_into_a_missing_folder_fails_and_says_where)
{
    MEMORY_OWNED char *path = memory_format("%s/none/value", test_folder());
    struct error err = {0};

    EXPECT(file_write(path, "x", 1, 0600, &err) == -ERROR_OS);
    EXPECT(strstr(err.text, path) != NULL);
}

TEST(file, read_tells_missing_from_too_large)
{
    MEMORY_OWNED char *path = memory_format("%s/value", test_folder());
    BUFFER_OWNED struct buffer buffer = {0};
    struct error err = {0};

    EXPECT(file_read(path, 10, &buffer, &err) == -ERROR_NOT_FOUND);
    EXPECT(file_write(path, "12345678901", 11, 0600, &err) == 0);
    EXPECT(file_read(path, 10, &buffer, &err) == -ERROR_TOO_LARGE);
}

TEST(file, make_folder_makes_what_is_missing_and_refuses_a_file_in_the_way)
{
    MEMORY_OWNED char *deep = memory_format("%s/a/b/c", test_folder());
    MEMORY_OWNED char *file = memory_format("%s/a/f", test_folder());
    struct error err = {0};

    EXPECT(file_make_folder(deep, 0700, &err) == 0);
    EXPECT(file_make_folder(deep, 0700, &err) == 0);
    EXPECT(file_write(file, "", 0, 0600, &err) == 0);
    EXPECT(file_make_folder(file, 0700, &err) == -ERROR_INVALID);
    EXPECT(file_make_folder("", 0700, &err) == -ERROR_INVALID);
}

/*
 * Goal: removing a tree does not leave it through a symbolic link.
 * Method: a link inside the tree to a folder outside, whose file must survive.
 */
TEST(file, remove_tree_does_not_follow_links)
{
    MEMORY_OWNED char *inside = memory_format("%s/tree/sub", test_folder());
    MEMORY_OWNED char *outside = memory_format("%s/outside", test_folder());
    MEMORY_OWNED char *kept = memory_format("%s/outside/kept", test_folder());
    MEMORY_OWNED char *link = memory_format("%s/tree/link", test_folder());
    MEMORY_OWNED char *tree = memory_format("%s/tree", test_folder());
    struct error err = {0};

    EXPECT(file_make_folder(inside, 0700, &err) == 0);
    EXPECT(file_make_folder(outside, 0700, &err) == 0);
    EXPECT(file_write(kept, "", 0, 0600, &err) == 0);
    EXPECT(symlink(outside, link) == 0);
    EXPECT(file_remove_tree(tree, &err) == 0);
    EXPECT(!file_exists(tree));
    EXPECT(file_exists(kept));
    EXPECT(file_remove_tree(tree, &err) == 0); /* missing is success */
}

TEST(file, finds_programs_by_path_and_only_those_that_can_run)
{
    MEMORY_OWNED char *plain = memory_format("%s/prog", test_folder());
    struct error err = {0};
    EXPECT(setenv("PATH", test_folder(), 1) == 0);
    EXPECT(file_write(plain, "", 0, 0600, &err) == 0);
    EXPECT(file_find_program("prog") == NULL || geteuid() == 0);
    EXPECT(chmod(plain, 0700) == 0);
    MEMORY_OWNED char *found = file_find_program("prog");
    EXPECT_STRING(found, plain);
    EXPECT(file_find_program("prog2") == NULL);
    MEMORY_OWNED char *folder = memory_format("%s/prog3", test_folder());
    EXPECT(file_make_folder(folder, 0700, &err) == 0);
    EXPECT(file_find_program("prog3") == NULL);
    if (access("/usr/sbin/mke2fs", X_OK) == 0) { /* nobody's PATH has that folder in Debian */
        MEMORY_OWNED char *beside = file_find_program("mke2fs");
        EXPECT(beside != NULL && strcmp(beside, "/usr/sbin/mke2fs") == 0);
    }
}
