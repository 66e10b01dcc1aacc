/* Layers, made by the real qemu-img and mke2fs in their jail. */
#include "engine/volume/volume.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "test/lib/test.h"

#define MIB (UINT64_C(1) << 20)

static void need_tools(void)
{
    MEMORY_OWNED char *image = file_find_program("qemu-img");
    if (image == NULL || !file_exists("/usr/sbin/mke2fs")) {
        SKIP("needs qemu-img and mke2fs");
    }
}

static struct volume_layer layer_of(const char *id, enum volume_format format)
{
    return (struct volume_layer){
        .folder = test_folder(), .id = id, .format = format, .size_bytes = 16 * MIB};
}

static void expect_made(const struct volume_layer *layer)
{
    struct error err = {0};
    if (volume_make(layer, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    EXPECT(err.kind == ERROR_NONE);
}

static bool has_at(const char *id, enum volume_format format, off_t offset, const void *bytes,
                   size_t length)
{
    char got[64];
    MEMORY_OWNED char *path = volume_path(test_folder(), id, format);
    FD_OWNED int fd = open(path, O_RDONLY);
    EXPECT(fd >= 0 && length <= sizeof(got));
    return pread(fd, got, length, offset) == (ssize_t)length && memcmp(got, bytes, length) == 0;
}

TEST(volume, names_of_formats_lead_back_to_them)
{
    enum volume_format format = VOLUME_RAW;
    EXPECT(volume_format_parse(volume_format_text(VOLUME_QCOW2), &format));
    EXPECT(format == VOLUME_QCOW2);
    EXPECT(!volume_format_parse("vmdk", &format));
}

TEST(volume, sizes_have_bounds_and_fit_the_disk)
{
    struct error err = {0};
    EXPECT(volume_check_size(test_folder(), 1 * MIB, &err) == 0);
    EXPECT(volume_check_size(test_folder(), 1 * MIB - 4096, &err) == -ERROR_INVALID);
    EXPECT(volume_check_size(test_folder(), 1 * MIB + 1, &err) == -ERROR_INVALID);
    EXPECT(volume_check_size(test_folder(), UINT64_MAX - 4095, &err) == -ERROR_INVALID);
    EXPECT(volume_check_size(test_folder(), VOLUME_BYTES_MAX, &err) == -ERROR_FULL);
}

/* A sparse file with an ext4, which says the label; a second making changes nothing. */
TEST(volume, a_raw_layer_is_sparse_and_has_its_file_system)
{
    need_tools();
    struct volume_layer layer = layer_of("aa", VOLUME_RAW);
    layer.label = "a-name-longer-than-sixteen";
    expect_made(&layer);
    EXPECT(has_at("aa", VOLUME_RAW, 1080, "\x53\xef", 2));
    EXPECT(has_at("aa", VOLUME_RAW, 1024 + 120, "a-name-longer-th", 16));
    uint64_t used = volume_used_bytes(test_folder(), "aa", VOLUME_RAW);
    EXPECT(used > 0 && used < 8 * MIB);
    layer.size_bytes = 32 * MIB;
    expect_made(&layer);
    struct error err = {0};
    EXPECT(volume_grow(&layer, &err) == 0 && volume_grow(&layer, &err) == 0);
    layer.size_bytes = 16 * MIB;
    EXPECT(volume_grow(&layer, &err) == -ERROR_INVALID);
    EXPECT(volume_remove(test_folder(), "aa", VOLUME_RAW, &err) == 0);
    EXPECT(volume_remove(test_folder(), "aa", VOLUME_RAW, &err) == 0);
    EXPECT(volume_used_bytes(test_folder(), "aa", VOLUME_RAW) == 0);
}

/* Encrypted: nothing of the file system is to be read in it; laid over, grown and merged with its
 * key; another key opens nothing. */
TEST(volume, an_encrypted_layer_needs_its_key)
{
    need_tools();
    struct error err = {0};
    struct volume_layer layer = layer_of("bb", VOLUME_QCOW2);
    layer.label = "secret";
    layer.key = "correct horse battery";
    layer.key_length = strlen(layer.key);
    expect_made(&layer);
    EXPECT(has_at("bb", VOLUME_QCOW2, 0, "QFI\xfb", 4));
    struct volume_layer over = layer_of("cc", VOLUME_QCOW2);
    over.below_id = "bb";
    over.below_format = VOLUME_QCOW2;
    over.key = layer.key;
    over.key_length = layer.key_length;
    expect_made(&over);
    over.size_bytes = 24 * MIB;
    EXPECT(volume_grow(&over, &err) == 0);
    const struct volume_below below = {"bb", VOLUME_QCOW2};
    if (volume_commit(&over, &below, 1, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    EXPECT(err.kind == ERROR_NONE);
    layer.key = "wrong";
    layer.key_length = 5;
    layer.size_bytes = 48 * MIB;
    EXPECT(volume_grow(&layer, &err) == -ERROR_OS);
    EXPECT(strstr(err.text, "password") != NULL);
}

/* What was written over a raw layer is in it after a merge, which grows it. */
TEST(volume, a_commit_grows_the_layer_below)
{
    need_tools();
    struct error err = {0};
    struct stat status;
    struct volume_layer base = layer_of("dd", VOLUME_RAW);
    expect_made(&base);
    struct volume_layer over = layer_of("ee", VOLUME_QCOW2);
    over.below_id = "dd";
    over.size_bytes = 20 * MIB;
    expect_made(&over);
    const struct volume_below below = {"dd", VOLUME_RAW};
    EXPECT(volume_commit(&over, &below, 1, &err) == 0);
    MEMORY_OWNED char *path = volume_path(test_folder(), "dd", VOLUME_RAW);
    EXPECT(stat(path, &status) == 0 && status.st_size == (off_t)(20 * MIB));
}

static void count(const char *id, void *context)
{
    unsigned *seen = context;
    *seen += strcmp(id, "ff") == 0 ? 1 : 100;
}

TEST(volume, what_was_never_finished_is_swept_and_nothing_else)
{
    struct error err = {0};
    unsigned seen = 0;
    struct volume_layer layer = layer_of("ff", VOLUME_RAW);
    expect_made(&layer);
    MEMORY_OWNED char *partial = memory_format("%s/gg.qcow2.partial", test_folder());
    MEMORY_OWNED char *other = memory_format("%s/notes.txt", test_folder());
    EXPECT(file_write(partial, "x", 1, 0600, &err) == 0);
    EXPECT(file_write(other, "x", 1, 0600, &err) == 0);
    EXPECT(volume_sweep(test_folder(), count, &seen, &err) == 0);
    EXPECT(seen == 1 && !file_exists(partial) && file_exists(other));
}
