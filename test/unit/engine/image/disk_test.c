/* Disks that somebody uploads, and the small ones that we write. */
#include "engine/image/disk.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"

#include "engine/image/iso.h"

#include "test/lib/test.h"

enum { HEAD = 104, SIZE_AT = 24, BACKING_AT = 8, CRYPT_AT = 32, INCOMPATIBLE_AT = 72 };

/* A qcow2 head of version 3 for a disk of 1 GiB. */
static void make_head(uint8_t head[HEAD])
{
    memset(head, 0, HEAD);
    memcpy(head, "QFI\xfb", 4);
    head[7] = 3;
    head[SIZE_AT + 4] = 0x40;
}

static int parse(const uint8_t *head, size_t length)
{
    struct disk_image image = {0};
    struct error err = {0};
    return disk_image_parse(head, length, length, &image, &err);
}

TEST(disk_image, a_qcow2_file_that_stands_alone_is_taken)
{
    uint8_t head[HEAD];
    struct disk_image image = {0};
    struct error err = {0};
    make_head(head);
    EXPECT(disk_image_parse(head, HEAD, 1000, &image, &err) == 0);
    EXPECT(strcmp(image.format, "qcow2") == 0);
    EXPECT(image.size_bytes == UINT64_C(1) << 30);
    EXPECT(parse(head, HEAD - 1) == -ERROR_INVALID);
}

/* Otherwise a guest would read the host's files by what the head names. */
TEST(disk_image, a_qcow2_file_that_names_others_is_refused)
{
    uint8_t head[HEAD];
    make_head(head);
    head[BACKING_AT + 7] = 1;
    EXPECT(parse(head, HEAD) == -ERROR_UNSUPPORTED);
    make_head(head);
    head[BACKING_AT] = 1;
    EXPECT(parse(head, HEAD) == -ERROR_UNSUPPORTED);
    make_head(head);
    head[INCOMPATIBLE_AT + 7] = 4;
    EXPECT(parse(head, HEAD) == -ERROR_UNSUPPORTED);
    make_head(head);
    head[CRYPT_AT + 3] = 2;
    EXPECT(parse(head, HEAD) == -ERROR_UNSUPPORTED);
}

TEST(disk_image, a_qcow2_file_that_is_damaged_or_new_is_refused)
{
    static const uint8_t bits[] = {1, 2, 32};
    uint8_t head[HEAD];
    for (size_t i = 0; i < sizeof(bits); i++) {
        make_head(head);
        head[INCOMPATIBLE_AT + 7] = bits[i];
        EXPECT(parse(head, HEAD) == -ERROR_INVALID);
    }
    make_head(head);
    head[7] = 4;
    EXPECT(parse(head, HEAD) == -ERROR_UNSUPPORTED);
    make_head(head);
    head[SIZE_AT + 4] = 0;
    EXPECT(parse(head, HEAD) == -ERROR_INVALID);
    make_head(head);
    head[SIZE_AT] = 0x80;
    EXPECT(parse(head, HEAD) == -ERROR_INVALID);
}

static int check_overlay(const uint8_t *head, size_t length)
{
    char path[] = "/tmp/blixard-overlay-XXXXXX";
    struct error err = {0};
    FD_OWNED int fd = mkstemp(path);
    EXPECT(fd >= 0 && write(fd, head, length) == (ssize_t)length);
    int r = disk_overlay_check(path, &err);
    unlink(path);
    return r;
}

TEST(disk_image, what_lies_over_a_disk_has_its_data_in_itself)
{
    uint8_t head[HEAD];
    make_head(head);
    head[BACKING_AT + 7] = 128; /* whatever it says lies below */
    EXPECT(check_overlay(head, HEAD) == 0);
    EXPECT(check_overlay(head, HEAD - 1) == -ERROR_CORRUPT);
    head[INCOMPATIBLE_AT + 7] = 4;
    EXPECT(check_overlay(head, HEAD) == -ERROR_CORRUPT);
    head[INCOMPATIBLE_AT + 7] = 0;
    head[CRYPT_AT + 3] = 2;
    EXPECT(check_overlay(head, HEAD) == -ERROR_CORRUPT);
    head[CRYPT_AT + 3] = 0;
    head[3] = 0;
    EXPECT(check_overlay(head, HEAD) == -ERROR_CORRUPT);
}

TEST(disk_image, a_raw_file_has_a_boot_sector)
{
    uint8_t head[512] = {0};
    struct disk_image image = {0};
    struct error err = {0};
    EXPECT(parse(head, sizeof(head)) == -ERROR_INVALID);
    head[510] = 0x55;
    head[511] = 0xaa;
    EXPECT(parse(head, sizeof(head) - 1) == -ERROR_INVALID);
    EXPECT(disk_image_parse(head, sizeof(head), 1025, &image, &err) == 0);
    EXPECT(strcmp(image.format, "raw") == 0);
    EXPECT(image.size_bytes == 1024);
    memcpy(head, "vhdxfile", 8);
    EXPECT(parse(head, sizeof(head)) == -ERROR_UNSUPPORTED);
}

TEST(disk_image, files_of_an_iso_image_are_found_by_its_label)
{
    enum { VOLUME_AT = 16 * 2048 };
    const struct iso_file files[] = {{"meta-data", "{}", 2, 0644}, {"user-data", "", 0, 0644}};
    BUFFER_OWNED struct buffer iso = {0};
    struct error err = {0};
    EXPECT(iso_write("cidata", files, 2, &iso, &err) == 0);
    EXPECT(iso.used > VOLUME_AT + 2048 && iso.used % 2048 == 0);
    EXPECT(memcmp(iso.data + VOLUME_AT + 1, "CD001", 5) == 0);
    /* In capitals, as ISO 9660 has it; Joliet has it as it is.  cloud-init looks for both. */
    EXPECT(memcmp(iso.data + VOLUME_AT + 40, "CIDATA", 6) == 0);
    EXPECT(memmem(iso.data, iso.used, "meta-data", 9) != NULL); /* by Rock Ridge, as it is */
}

TEST(disk_image, what_is_not_packed_is_not_unpacked)
{
    char from[] = "/tmp/blixard-disk-XXXXXX";
    bool is_packed = true;
    struct error err = {0};
    int fd = mkstemp(from);
    EXPECT(fd >= 0 && write(fd, "plain", 5) == 5);
    close(fd);
    MEMORY_OWNED char *to = memory_format("%s.out", from);
    EXPECT(disk_image_unpack(from, to, 1000, &is_packed, &err) == 0);
    EXPECT(!is_packed && access(to, F_OK) < 0);
    unlink(from);
}
