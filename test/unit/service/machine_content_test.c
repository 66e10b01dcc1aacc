/* The content of machines as folders: what is damaged is told, what is interrupted made good. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/hypervisor/template.h"

#include "service/machine/content.h"
#include "service/machine/sparse.h"

#include "test/lib/test.h"

struct scene {
    char folder[64];
    char *machine;
    char *content;
    struct error err;
};

static void write_at(const char *folder, const char *name, const char *text, off_t at, off_t size)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    FD_OWNED int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT(fd >= 0);
    EXPECT(pwrite(fd, text, strlen(text), at) == (ssize_t)strlen(text));
    EXPECT(size == 0 || ftruncate(fd, size) == 0);
}

static bool is_there(const char *folder, const char *name)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    return file_exists(path);
}

static void begin(struct scene *scene)
{
    *scene = (struct scene){.folder = "/tmp/blixard-content-XXXXXX"};
    EXPECT(mkdtemp(scene->folder) != NULL);
    scene->machine = memory_format("%s/machine", scene->folder);
    scene->content = memory_format("%s/content", scene->folder);
    EXPECT(file_make_folder(scene->machine, 0700, &scene->err) == 0);
    EXPECT(file_make_folder(scene->content, 0700, &scene->err) == 0);
    write_at(scene->machine, "disk.raw", "on disk", 1 << 20, 8 << 20);
    write_at(scene->machine, "initrd", "initrd", 0, 0);
}

static void end(struct scene *scene)
{
    EXPECT(file_remove_tree(scene->folder, &scene->err) == 0);
    free(scene->machine);
    free(scene->content);
}

static json_t *about(void)
{
    return json_pack("{s:s, s:{s:i}}", "machine_id", "0123456789abcdef", "config", "cpus", 1);
}

static void seal(struct scene *scene)
{
    JSON_OWNED json_t *what = about();
    uint64_t bytes = 0;
    EXPECT(content_copy_disks(scene->machine, scene->content, &scene->err) == 0);
    EXPECT(content_seal(scene->content, what, &bytes, &scene->err) == 0);
    EXPECT(bytes > 0 && bytes < 8 << 20); /* holes are no content */
}

TEST(content, a_digest_does_not_depend_on_holes)
{
    char digests[2][HASH_TEXT_SIZE];
    struct scene scene;
    begin(&scene);
    write_at(scene.folder, "full", "on disk", 1 << 20, 8 << 20);
    MEMORY_OWNED char *full = memory_format("%s/full", scene.folder);
    MEMORY_OWNED char *holes = memory_format("%s/disk.raw", scene.machine);
    FD_OWNED int fd = open(full, O_RDWR | O_CLOEXEC);
    FD_OWNED int other = open(holes, O_RDONLY | O_CLOEXEC);
    MEMORY_OWNED char *zeros = memory_new(1, 1 << 20);
    EXPECT(pwrite(fd, zeros, 1 << 20, 4 << 20) == 1 << 20);
    EXPECT(sparse_usage(fd) > sparse_usage(other));
    EXPECT(sparse_digest(fd, digests[0], &scene.err) == 0);
    EXPECT(sparse_digest(other, digests[1], &scene.err) == 0);
    EXPECT(strcmp(digests[0], digests[1]) == 0);
    EXPECT(ftruncate(fd, (8 << 20) + 1) == 0);
    EXPECT(sparse_digest(fd, digests[0], &scene.err) == 0);
    EXPECT(strcmp(digests[0], digests[1]) != 0); /* the size counts */
    end(&scene);
}

TEST(content, what_was_damaged_is_not_taken)
{
    struct scene scene;
    JSON_OWNED json_t *manifest = NULL;
    begin(&scene);
    seal(&scene);
    EXPECT(content_open(scene.content, true, &manifest, &scene.err) == 0);
    EXPECT(!content_has_memory(manifest));
    MEMORY_OWNED char *disk = memory_format("%s/disk.raw", scene.content);
    EXPECT(chmod(disk, 0600) == 0);
    write_at(scene.content, "disk.raw", "on dusk", 1 << 20, 0);
    json_t *unused = NULL;
    EXPECT(content_open(scene.content, false, &unused, &scene.err) == 0);
    json_decref(unused);
    EXPECT(content_open(scene.content, true, &unused, &scene.err) == -ERROR_CORRUPT);
    EXPECT(strstr(scene.err.text, "damaged") != NULL);
    EXPECT(truncate(disk, 7 << 20) == 0);
    EXPECT(content_open(scene.content, false, &unused, &scene.err) == -ERROR_CORRUPT);
    EXPECT(unlink(disk) == 0);
    EXPECT(content_open(scene.content, false, &unused, &scene.err) == -ERROR_CORRUPT);
    MEMORY_OWNED char *path = memory_format("%s/" CONTENT_MANIFEST, scene.content);
    EXPECT(file_write(path, "{", 1, 0600, &scene.err) == 0);
    EXPECT(content_open(scene.content, false, &unused, &scene.err) == -ERROR_CORRUPT);
    EXPECT(file_write(path, "{\"format\": 2}", 13, 0600, &scene.err) == 0);
    EXPECT(content_open(scene.content, false, &unused, &scene.err) == -ERROR_UNSUPPORTED);
    end(&scene);
}

TEST(content, a_manifest_names_only_files_that_a_content_has)
{
    EXPECT(content_is_file("disk.raw") && content_is_file("memory"));
    EXPECT(!content_is_file("../disk.raw") && !content_is_file("manifest.json"));
    EXPECT(!content_is_file("") && !content_is_file("resume/state"));
}

/* The machine goes on from a disk that others share; what it had is gone. */
static void check_taken(struct scene *scene)
{
    EXPECT(!is_there(scene->machine, "disk.raw"));
    EXPECT(is_there(scene->machine, "disk.qcow2") && is_there(scene->machine, "base.raw"));
    EXPECT(is_there(scene->machine, "resume/state") && is_there(scene->machine, "resume/memory"));
    EXPECT(!is_there(scene->machine, CONTENT_INCOMING));
    EXPECT(is_there(scene->machine, "initrd"));
}

/*
 * Goal: an interrupted restore is finished by the next start, wherever it was interrupted.
 * Method: do by hand the first n of its renames, then call it.
 */
TEST(content, what_is_incoming_is_taken_wherever_it_was_interrupted)
{
    static const char *const names[] = {"disk.qcow2", "base.raw", CONTENT_RESUME};
    for (int done = 0; done <= 5; done++) {
        const struct content_use use = {.with_memory = true, .origin = "0123456789abcdef"};
        struct scene scene;
        begin(&scene);
        write_at(scene.content, "state", "state", 0, 0);
        write_at(scene.content, "memory", "memory", 0, 1 << 20);
        seal(&scene);
        MEMORY_OWNED char *incoming = memory_format("%s/" CONTENT_INCOMING, scene.machine);
        EXPECT(content_lay_out(scene.content, incoming, &use, &scene.err) == 0);
        MEMORY_OWNED char *disk = memory_format("%s/disk.raw", scene.machine);
        if (done > 0) {
            EXPECT(unlink(disk) == 0);
        }
        for (int i = 0; i < done - 1 && i < 3; i++) {
            MEMORY_OWNED char *from = memory_format("%s/%s", incoming, names[i]);
            MEMORY_OWNED char *to = memory_format("%s/%s", scene.machine, names[i]);
            EXPECT(rename(from, to) == 0);
        }
        if (done == 5) {
            MEMORY_OWNED char *manifest = memory_format("%s/" CONTENT_MANIFEST, incoming);
            EXPECT(unlink(manifest) == 0);
        }
        EXPECT(content_take_incoming(scene.machine, &scene.err) == 0);
        check_taken(&scene);
        EXPECT(content_take_incoming(scene.machine, &scene.err) == 0);
        check_taken(&scene);
        end(&scene);
    }
}

TEST(content, a_content_of_an_overlaid_disk_shares_what_is_below)
{
    const struct content_use use = {.with_memory = false};
    struct scene scene;
    JSON_OWNED json_t *manifest = NULL;
    struct stat status;
    begin(&scene);
    seal(&scene);
    MEMORY_OWNED char *clone = memory_format("%s/clone", scene.folder);
    MEMORY_OWNED char *second = memory_format("%s/second", scene.folder);
    MEMORY_OWNED char *third = memory_format("%s/third", scene.folder);
    MEMORY_OWNED char *base = memory_format("%s/base.raw", third);
    EXPECT(content_lay_out(scene.content, clone, &use, &scene.err) == 0);
    EXPECT(!is_there(clone, CONTENT_RESUME) && !is_there(clone, "initrd"));
    EXPECT(file_make_folder(second, 0700, &scene.err) == 0);
    JSON_OWNED json_t *what = about();
    uint64_t bytes = 0;
    EXPECT(content_copy_disks(clone, second, &scene.err) == 0);
    EXPECT(content_seal(second, what, &bytes, &scene.err) == 0);
    EXPECT(content_open(second, true, &manifest, &scene.err) == 0);
    EXPECT(content_lay_out(second, third, &use, &scene.err) == 0);
    EXPECT(stat(base, &status) == 0 && status.st_nlink == 4);
    EXPECT(file_remove_tree(scene.content, &scene.err) == 0); /* nobody misses it */
    EXPECT(stat(base, &status) == 0 && status.st_size == 8 << 20);
    end(&scene);
}

/*
 * Goal: a machine whose image is a whole disk has the variables of its firmware and its user-data
 * with it, and what was kept before there was user-data in it leaves that alone.
 */
static void write_whole_disk(struct scene *scene)
{
    MEMORY_OWNED char *path = memory_format("%s/disk.qcow2", scene->machine);
    EXPECT(template_make_overlay(path, "/images/blob", "qcow2", 8 << 20, &scene->err) == 0);
}

static ino_t inode_of(const char *folder, const char *name)
{
    struct stat status = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    EXPECT(stat(path, &status) == 0);
    return status.st_ino;
}

/*
 * Goal: who begins from a whole disk is laid over it, and who begins from that copies what was
 * written since alone.
 * Method: a content of one, one laid out from it, its content, and one laid out from that.
 */
TEST(content, a_whole_disk_is_laid_over_and_copied_once)
{
    const struct content_use use = {.uid = 0};
    struct scene scene;
    begin(&scene);
    MEMORY_OWNED char *raw = memory_format("%s/disk.raw", scene.machine);
    MEMORY_OWNED char *clone = memory_format("%s/clone", scene.folder);
    MEMORY_OWNED char *second = memory_format("%s/second", scene.folder);
    MEMORY_OWNED char *third = memory_format("%s/third", scene.folder);
    EXPECT(unlink(raw) == 0);
    write_whole_disk(&scene);
    EXPECT(content_copy_disks(scene.machine, scene.content, &scene.err) == 0);
    EXPECT(content_lay_out(scene.content, clone, &use, &scene.err) == 0);
    ino_t base = inode_of(scene.content, "disk.qcow2");
    EXPECT(inode_of(clone, CONTENT_BASE) == base && inode_of(clone, "disk.qcow2") != base);

    EXPECT(file_make_folder(second, 0700, &scene.err) == 0);
    EXPECT(content_copy_disks(clone, second, &scene.err) == 0);
    EXPECT(content_lay_out(second, third, &use, &scene.err) == 0);
    EXPECT(inode_of(second, CONTENT_BASE) == base && inode_of(third, CONTENT_BASE) == base);
    EXPECT(inode_of(third, "disk.qcow2") != inode_of(second, "disk.qcow2"));
    end(&scene);
}

TEST(content, firmware_and_user_data_go_with_the_disk)
{
    const struct content_use use = {.with_memory = false};
    struct scene scene;
    struct stat status;
    begin(&scene);
    MEMORY_OWNED char *raw = memory_format("%s/disk.raw", scene.machine);
    MEMORY_OWNED char *incoming = memory_format("%s/" CONTENT_INCOMING, scene.machine);
    MEMORY_OWNED char *kept = memory_format("%s/" CONTENT_USER, scene.content);
    EXPECT(unlink(raw) == 0);
    write_whole_disk(&scene);
    write_at(scene.machine, CONTENT_FIRMWARE, "variables", 0, 0);
    write_at(scene.machine, CONTENT_USER, "#cloud-config", 0, 0);
    JSON_OWNED json_t *what = about();
    uint64_t bytes = 0;
    EXPECT(content_copy_disks(scene.machine, scene.content, &scene.err) == 0);
    EXPECT(content_seal(scene.content, what, &bytes, &scene.err) == 0);
    EXPECT(stat(kept, &status) == 0 && (status.st_mode & 0777) == 0400); /* it is a secret */
    write_at(scene.machine, CONTENT_FIRMWARE, "something", 0, 0);
    EXPECT(content_lay_out(scene.content, incoming, &use, &scene.err) == 0);
    EXPECT(content_take_incoming(scene.machine, &scene.err) == 0);
    BUFFER_OWNED struct buffer text = {0};
    MEMORY_OWNED char *firmware = memory_format("%s/" CONTENT_FIRMWARE, scene.machine);
    EXPECT(file_read(firmware, 100, &text, &scene.err) == 0);
    EXPECT(strcmp(buffer_string(&text), "variables") == 0);
    EXPECT(is_there(scene.machine, "disk.qcow2") && is_there(scene.machine, CONTENT_USER));

    EXPECT(unlink(kept) == 0);
    EXPECT(content_seal(scene.content, what, &bytes, &scene.err) == 0);
    EXPECT(content_lay_out(scene.content, incoming, &use, &scene.err) == 0);
    EXPECT(content_take_incoming(scene.machine, &scene.err) == 0);
    EXPECT(is_there(scene.machine, CONTENT_USER));
    end(&scene);
}

TEST(content, a_copy_that_fails_leaves_nothing)
{
    struct scene scene;
    begin(&scene);
    MEMORY_OWNED char *from = memory_format("%s/disk.raw", scene.machine);
    MEMORY_OWNED char *to = memory_format("%s/there", scene.folder);
    EXPECT(sparse_copy("/nowhere/at-all", to, 0400, &scene.err) < 0);
    EXPECT(!file_exists(to));
    EXPECT(sparse_copy(from, to, 0400, &scene.err) == 0);
    EXPECT(sparse_copy(from, to, 0400, &scene.err) < 0); /* and what is there stays */
    EXPECT(file_exists(to));
    end(&scene);
}
