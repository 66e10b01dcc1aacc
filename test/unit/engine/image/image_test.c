/* The promises of image.h: whole or not at all, never changed, damage is seen. */
#include "engine/image/image.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "test/lib/test.h"

/* printf abc | sha256sum */
static const char abc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static const char nobody[] = "00000000000000000000000000000000000000000000000000000000000000ff";

static struct image_store *open_store(void)
{
    struct image_store *store = NULL;
    struct error err = {0};
    MEMORY_OWNED char *folder = memory_format("%s/blobs", test_folder());
    EXPECT(image_store_open(folder, &store, &err) == 0);
    return store;
}

static char *path_of(const char *id)
{
    return memory_format("%s/blobs/%.2s/%s", test_folder(), id, id);
}

static bool count_one(const char *id, uint64_t size_bytes, void *context)
{
    unsigned *count = context;
    EXPECT(strlen(id) == HASH_TEXT_SIZE - 1 && size_bytes == 3);
    ++*count;
    return true;
}

static bool count_and_stop(const char *id, uint64_t size_bytes, void *context)
{
    count_one(id, size_bytes, context);
    return false;
}

static unsigned count_of(struct image_store *store)
{
    unsigned count = 0;
    struct error err = {0};
    EXPECT(image_each(store, count_one, &count, &err) == 0);
    return count;
}

/* Files right under the store: what a writer in the middle leaves is there. */
static bool has_leftovers(void)
{
    MEMORY_OWNED char *path = memory_format("%s/blobs", test_folder());
    DIR *folder = opendir(path);
    bool found = false;
    EXPECT(folder != NULL);
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        found |= entry->d_type == DT_REG;
    }
    closedir(folder);
    return found;
}

TEST(image, keeps_bytes_under_their_digest)
{
    struct image_store *store = open_store();
    struct error err = {0};
    BUFFER_OWNED struct buffer read = {0};
    char id[HASH_TEXT_SIZE];
    EXPECT(!image_exists(store, abc));
    EXPECT(image_put(store, "abc", 3, id, &err) == 0);
    EXPECT_STRING(id, abc);
    EXPECT(image_put(store, "abc", 3, id, &err) == 0); /* again: the same */
    EXPECT(image_exists(store, abc) && count_of(store) == 1);
    EXPECT(image_read(store, abc, 3, &read, &err) == 0);
    EXPECT_STRING(buffer_string(&read), "abc");
    image_store_close(store);

    store = open_store();
    EXPECT(image_exists(store, abc));
    EXPECT(image_remove(store, abc, &err) == 0 && !image_exists(store, abc));
    EXPECT(image_remove(store, abc, &err) == 0); /* gone is gone */
    image_store_close(store);
}

TEST(image, takes_pieces)
{
    struct image_store *store = open_store();
    struct image_writer *writer = NULL;
    struct error err = {0};
    char id[HASH_TEXT_SIZE];
    uint64_t size = 0;
    EXPECT(image_writer_new(store, &writer, &err) == 0);
    EXPECT(image_writer_add(writer, "a", 1, &err) == 0);
    EXPECT(image_writer_add(writer, "", 0, &err) == 0);
    EXPECT(image_writer_add(writer, "bc", 2, &err) == 0);
    EXPECT(!image_exists(store, abc)); /* not before it is whole */
    EXPECT(image_writer_finish(writer, id, &size, &err) == 0);
    EXPECT_STRING(id, abc);
    EXPECT(size == 3 && !has_leftovers());
    image_store_close(store);
}

TEST(image, leaves_nothing_of_a_writer_that_gave_up)
{
    struct image_store *store = open_store();
    struct image_writer *writer = NULL;
    struct error err = {0};
    EXPECT(image_writer_new(store, &writer, &err) == 0);
    EXPECT(image_writer_add(writer, "abc", 3, &err) == 0);
    EXPECT(has_leftovers());
    image_writer_abort(writer);
    EXPECT(!has_leftovers() && count_of(store) == 0);

    /* One that died in the middle: the next to open cleans up. */
    EXPECT(image_writer_new(store, &writer, &err) == 0);
    image_store_close(open_store());
    EXPECT(!has_leftovers());
    image_writer_abort(writer);
    image_store_close(store);
}

/*
 * Goal: a blob that comes from elsewhere goes on where it was broken off, over a restart, too; and
 * what is not what it was said to be is not kept.
 */
TEST(image, goes_on_with_what_was_suspended)
{
    struct image_store *store = open_store();
    struct image_writer *writer = NULL;
    struct error err = {0};
    char id[HASH_TEXT_SIZE];
    uint64_t have = 1;
    EXPECT(image_writer_resume(store, "../x", &writer, &have, &err) == -ERROR_INVALID);
    EXPECT(image_writer_resume(store, abc, &writer, &have, &err) == 0 && have == 0);
    EXPECT(image_writer_add(writer, "ab", 2, &err) == 0);
    image_writer_suspend(writer);
    image_store_close(store);
    store = open_store();
    EXPECT(image_writer_resume(store, abc, &writer, &have, &err) == 0 && have == 2);
    EXPECT(image_writer_add(writer, "c", 1, &err) == 0);
    EXPECT(!image_exists(store, abc));
    EXPECT(image_writer_finish(writer, id, NULL, &err) == 0);
    EXPECT_STRING(id, abc);
    EXPECT(image_exists(store, abc) && !has_leftovers());

    EXPECT(image_writer_resume(store, nobody, &writer, &have, &err) == 0 && have == 0);
    EXPECT(image_writer_add(writer, "abd", 3, &err) == 0);
    EXPECT(image_writer_finish(writer, id, NULL, &err) == -ERROR_CORRUPT);
    EXPECT(count_of(store) == 1 && !has_leftovers());
    image_store_close(store);
}

TEST(image, forgets_what_nobody_went_on_with_for_days)
{
    struct image_store *store = open_store();
    struct image_writer *writer = NULL;
    struct error err = {0};
    uint64_t have = 0;
    EXPECT(image_writer_resume(store, abc, &writer, &have, &err) == 0);
    image_writer_suspend(writer);
    image_store_close(store);
    MEMORY_OWNED char *path = memory_format("%s/blobs/fetch-%s", test_folder(), abc);
    const struct timespec times[2] = {{.tv_sec = 1000000}, {.tv_sec = 1000000}};
    EXPECT(utimensat(AT_FDCWD, path, times, 0) == 0);
    image_store_close(open_store());
    EXPECT(!has_leftovers());
}

TEST(image, sees_damage_and_names_the_file)
{
    struct image_store *store = open_store();
    struct error err = {0};
    BUFFER_OWNED struct buffer read = {0};
    char id[HASH_TEXT_SIZE];
    MEMORY_OWNED char *path = path_of(abc);
    static const char *const damages[] = {"abd", "ab", "abcd", ""};
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        EXPECT(image_put(store, "abc", 3, id, &err) == 0);
        EXPECT(file_write(path, damages[i], strlen(damages[i]), 0600, &err) == 0);
        EXPECT(image_read(store, abc, 100, &read, &err) == -ERROR_CORRUPT);
        EXPECT(strstr(err.text, path) != NULL && read.used == 0);
        EXPECT(image_remove(store, abc, &err) == 0);
    }
    image_store_close(store);
}

/* One byte of a stored file becomes another one. */
static void flip(const char *id, bool hides_time)
{
    MEMORY_OWNED char *path = path_of(id);
    struct stat status;
    EXPECT(stat(path, &status) == 0);
    EXPECT(chmod(path, 0600) == 0);
    FD_OWNED int fd = open(path, O_WRONLY | O_CLOEXEC);
    EXPECT(fd >= 0 && pwrite(fd, "X", 1, 1) == 1);
    const struct timespec times[] = {status.st_atim, status.st_mtim};
    EXPECT(!hides_time || futimens(fd, times) == 0);
}

TEST(image, verifies_what_may_have_changed_and_puts_damage_aside)
{
    char id[HASH_TEXT_SIZE];
    struct error err = {0};
    struct image_store *store = open_store();
    MEMORY_OWNED char *path = path_of(abc);
    MEMORY_OWNED char *aside = memory_format("%s.damaged", path);
    EXPECT(image_verify(store, abc, &err) == -ERROR_NOT_FOUND);
    EXPECT(image_put(store, "abc", 3, id, &err) == 0);
    EXPECT(image_verify(store, abc, &err) == 0);
    /* While the store is open: its file has changed, whatever time it shows. */
    flip(abc, true);
    EXPECT(image_verify(store, abc, &err) == -ERROR_CORRUPT);
    EXPECT(!image_exists(store, abc) && file_exists(aside) && count_of(store) == 0);
    EXPECT(image_verify(store, abc, &err) == -ERROR_NOT_FOUND);
    EXPECT(image_put(store, "abc", 3, id, &err) == 0);
    EXPECT(image_verify(store, abc, &err) == 0 && !file_exists(aside));
    /* While nobody looks. */
    image_store_close(store);
    flip(abc, false);
    store = open_store();
    EXPECT(image_verify(store, abc, &err) == -ERROR_CORRUPT);
    image_store_close(store);
}

TEST(image, replaces_what_may_be_damaged_by_what_is_stored_again)
{
    char id[HASH_TEXT_SIZE];
    struct error err = {0};
    struct image_store *store = open_store();
    EXPECT(image_put(store, "abc", 3, id, &err) == 0);
    flip(abc, false);
    EXPECT(image_put(store, "abc", 3, id, &err) == 0);
    EXPECT(image_verify(store, abc, &err) == 0 && count_of(store) == 1 && !has_leftovers());
    image_store_close(store);
}

TEST(image, refuses_what_is_no_name)
{
    struct image_store *store = open_store();
    struct error err = {0};
    BUFFER_OWNED struct buffer read = {0};
    static const char *const names[] = {
        "", "abc", "../../../../../../../../../../../../../../../../../../../etc/hostname",
        "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad0"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        EXPECT(image_read(store, names[i], 100, &read, &err) == -ERROR_INVALID);
        EXPECT(image_remove(store, names[i], &err) == -ERROR_INVALID);
        EXPECT(!image_exists(store, names[i]));
    }
    EXPECT(image_read(store, nobody, 100, &read, &err) == -ERROR_NOT_FOUND);
    EXPECT(strstr(err.text, nobody) != NULL);
    image_store_close(store);
}

TEST(image, bounds_what_it_reads_and_follows_no_link)
{
    struct image_store *store = open_store();
    struct error err = {0};
    BUFFER_OWNED struct buffer read = {0};
    char id[HASH_TEXT_SIZE];
    MEMORY_OWNED char *path = path_of(abc);
    EXPECT(image_put(store, "abc", 3, id, &err) == 0);
    EXPECT(image_read(store, abc, 2, &read, &err) == -ERROR_TOO_LARGE && read.used == 0);
    EXPECT(unlink(path) == 0 && symlink("/etc/hostname", path) == 0);
    EXPECT(image_read(store, abc, 1 << 20, &read, &err) < 0 && read.used == 0);
    image_store_close(store);
}

TEST(image, visits_until_told_to_stop)
{
    struct image_store *store = open_store();
    struct error err = {0};
    char id[HASH_TEXT_SIZE];
    unsigned count = 0;
    EXPECT(image_put(store, "abc", 3, id, &err) == 0);
    EXPECT(image_put(store, "abd", 3, id, &err) == 0);
    EXPECT(image_put(store, "abe", 3, id, &err) == 0);
    EXPECT(count_of(store) == 3);
    EXPECT(image_each(store, count_and_stop, &count, &err) == 0 && count == 1);
    image_store_close(store);
}
