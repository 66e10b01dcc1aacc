/* Roots that somebody makes who is not root. */
#include "engine/image/rootfs.h"

#include <fcntl.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "test/lib/test.h"

static void make(const char *archive, const char *path, struct buffer *ret_content)
{
    struct error err = {0};
    EXPECT(rootfs_make_squashfs(archive, path, &err) == 0);
    MEMORY_OWNED char *plain = memory_format("%s.tar", path);
    EXPECT(!file_exists(plain));
    EXPECT(file_read(path, 1 << 20, ret_content, &err) == 0);
}

TEST(rootfs, an_archive_becomes_the_same_squashfs_each_time)
{
    MEMORY_OWNED char *program = file_find_program("sqfstar");
    MEMORY_OWNED char *folder = memory_format("%s/root", test_folder());
    MEMORY_OWNED char *inside = memory_format("%s/root/etc", test_folder());
    MEMORY_OWNED char *name = memory_format("%s/root/etc/hostname", test_folder());
    MEMORY_OWNED char *archive = memory_format("%s/root.tar", test_folder());
    MEMORY_OWNED char *first = memory_format("%s/a", test_folder());
    MEMORY_OWNED char *second = memory_format("%s/b", test_folder());
    BUFFER_OWNED struct buffer one = {0};
    BUFFER_OWNED struct buffer two = {0};
    struct error err = {0};
    if (program == NULL) {
        SKIP("there is no sqfstar");
    }
    FD_OWNED int fd = open(archive, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    EXPECT(file_make_folder(folder, 0755, &err) == 0 && file_make_folder(inside, 0755, &err) == 0);
    EXPECT(file_write(name, "web\n", 4, 0644, &err) == 0);
    EXPECT(fd >= 0 && rootfs_archive(folder, fd, &err) == 0);
    make(archive, first, &one);
    make(archive, second, &two);
    EXPECT(one.used > 4 && memcmp(buffer_string(&one), "hsqs", 4) == 0);
    EXPECT(one.used == two.used && memcmp(buffer_string(&one), buffer_string(&two), one.used) == 0);
}

TEST(rootfs, what_is_no_archive_becomes_no_root)
{
    MEMORY_OWNED char *program = file_find_program("sqfstar");
    MEMORY_OWNED char *archive = memory_format("%s/none.tgz", test_folder());
    MEMORY_OWNED char *path = memory_format("%s/none", test_folder());
    struct error err = {0};
    if (program == NULL) {
        SKIP("there is no sqfstar");
    }
    EXPECT(file_write(archive, "hello", 5, 0600, &err) == 0);
    EXPECT(rootfs_make_squashfs(archive, path, &err) < 0);
    EXPECT(strstr(err.text, "sqfstar: ") != NULL);
}
