/* Files of templates: what QEMU's own tool says of an overlay, and what is refused. */
#include "engine/hypervisor/template.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/process.h"

#include "test/lib/test.h"

static int run(const char *const *argv, struct buffer *out)
{
    struct error err = {0};
    struct process_result result = {0};
    const struct process_options options = {.argv = argv, .output_max = 65536, .timeout_ms = 60000};
    return process_run(&options, out, NULL, &result, &err) < 0 ? -1 : result.exit_code;
}

/*
 * Goal: an overlay is a qcow2 file that QEMU accepts, of the size of what is below it.
 * Method: write one over a sparse file of 5 GiB and a bit, and have qemu-img check and compare it.
 */
TEST(template, an_overlay_shows_what_is_below_it)
{
    char folder[] = "/tmp/blixard-template-XXXXXX";
    struct error err = {0};
    BUFFER_OWNED struct buffer said = {0};
    EXPECT(mkdtemp(folder) != NULL);
    MEMORY_OWNED char *base = memory_format("%s/base.raw", folder);
    MEMORY_OWNED char *path = memory_format("%s/disk.qcow2", folder);
    uint64_t size = (UINT64_C(5) << 30) + 512;
    FD_OWNED int fd = open(base, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT(fd >= 0 && pwrite(fd, "below", 5, 1 << 20) == 5 && ftruncate(fd, (off_t)size) == 0);
    EXPECT(template_make_overlay(path, "base.raw", "raw", size, &err) == 0);
    EXPECT(template_make_overlay(path, "base.raw", "raw", size, &err) == -ERROR_EXISTS);

    MEMORY_OWNED char *tool = file_find_program("qemu-img");
    if (tool != NULL) {
        const char *check[] = {tool, "check", "-q", path, NULL};
        const char *info[] = {tool, "info", "--output=json", path, NULL};
        const char *compare[] = {tool, "compare", "-q", base, path, NULL};
        EXPECT(run(check, NULL) == 0);
        EXPECT(run(info, &said) == 0);
        EXPECT(strstr(buffer_string(&said), "\"virtual-size\": 5368709632") != NULL);
        EXPECT(strstr(buffer_string(&said), "\"backing-filename-format\": \"raw\"") != NULL);
        EXPECT(run(compare, NULL) == 0);
    }
    EXPECT(file_remove_tree(folder, &err) == 0);
}

/* The one below has another name where a machine has moved to. */
TEST(template, an_overlay_is_laid_over_what_has_moved)
{
    char folder[] = "/tmp/blixard-template-XXXXXX";
    struct error err = {0};
    BUFFER_OWNED struct buffer said = {0};
    EXPECT(mkdtemp(folder) != NULL);
    MEMORY_OWNED char *path = memory_format("%s/disk.qcow2", folder);
    MEMORY_OWNED char *base = memory_format("%s/a-longer-name-than-before.raw", folder);
    EXPECT(template_make_overlay(path, "base.raw", "raw", 1 << 20, &err) == 0);
    EXPECT(template_rebase(path, base, &err) == 0);
    EXPECT(file_write(base, "below", 5, 0600, &err) == 0 && truncate(base, 1 << 20) == 0);

    MEMORY_OWNED char *tool = file_find_program("qemu-img");
    if (tool != NULL) {
        const char *check[] = {tool, "check", "-q", path, NULL};
        const char *compare[] = {tool, "compare", "-q", base, path, NULL};
        const char *info[] = {tool, "info", "--output=json", path, NULL};
        EXPECT(run(check, NULL) == 0 && run(compare, NULL) == 0);
        EXPECT(run(info, &said) == 0 && strstr(buffer_string(&said), base) != NULL);
    }
    EXPECT(template_rebase(base, "other.raw", &err) == -ERROR_CORRUPT);
    EXPECT(file_remove_tree(folder, &err) == 0);
}

TEST(template, disks_that_qcow2_cannot_be_laid_over_are_refused)
{
    struct error err = {0};
    EXPECT(template_make_overlay("/tmp/blixard-none.qcow2", "b", "raw", 0, &err) == -ERROR_INVALID);
    EXPECT(template_make_overlay("/tmp/blixard-none.qcow2", "b", "raw", 513, &err) ==
           -ERROR_INVALID);
    EXPECT(!file_exists("/tmp/blixard-none.qcow2"));
}

TEST(template, memory_is_made_once_and_takes_no_space)
{
    char folder[] = "/tmp/blixard-template-XXXXXX";
    struct error err = {0};
    struct stat status;
    EXPECT(mkdtemp(folder) != NULL);
    MEMORY_OWNED char *path = memory_format("%s/" TEMPLATE_MEMORY, folder);
    EXPECT(template_make_memory(folder, UINT64_C(256) << 20, &err) == 0);
    EXPECT(stat(path, &status) == 0 && status.st_size == 256 << 20 && status.st_blocks == 0);
    EXPECT(template_make_memory(folder, UINT64_C(256) << 20, &err) == -ERROR_EXISTS);
    EXPECT(file_remove_tree(folder, &err) == 0);
}
