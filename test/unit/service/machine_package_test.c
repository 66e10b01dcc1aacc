/* Machines as files: there and back, and archives that somebody else has made. */
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/machine/content.h"
#include "service/machine/package.h"

#include "test/lib/test.h"

struct scene {
    char folder[64];
    char *content;
    struct image_store *images; /* where it goes out */
    struct image_store *others; /* where it comes in */
    char kernel[HASH_TEXT_SIZE];
    json_t *manifest;
    struct buffer archive;
    struct error err;
};

static void write_file(const char *folder, const char *name, const char *text, off_t at, off_t size)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    FD_OWNED int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT(fd >= 0 && pwrite(fd, text, strlen(text), at) == (ssize_t)strlen(text));
    EXPECT(size == 0 || ftruncate(fd, size) == 0);
}

static struct image_store *open_store(struct scene *scene, const char *name)
{
    struct image_store *store = NULL;
    MEMORY_OWNED char *path = memory_format("%s/%s", scene->folder, name);
    EXPECT(image_store_open(path, &store, &scene->err) == 0);
    return store;
}

static void begin(struct scene *scene)
{
    JSON_OWNED json_t *about =
        json_pack("{s:s, s:{s:i}}", "machine_id", "0123456789abcdef", "config", "cpus", 1);
    uint64_t bytes = 0;
    *scene = (struct scene){.folder = "/tmp/blixard-package-XXXXXX"};
    EXPECT(mkdtemp(scene->folder) != NULL);
    scene->images = open_store(scene, "images");
    scene->others = open_store(scene, "others");
    scene->content = memory_format("%s/c", scene->folder);
    EXPECT(file_make_folder(scene->content, 0700, &scene->err) == 0);
    write_file(scene->content, "disk.raw", "on disk", 3 << 20, 64 << 20);
    EXPECT(content_seal(scene->content, about, &bytes, &scene->err) == 0);
    EXPECT(image_put(scene->images, "a kernel", 8, scene->kernel, &scene->err) == 0);
    scene->manifest = json_pack("{s:s, s:i, s:s, s:{s:s}, s:[s], s:[{s:s}]}", "format",
                                "blixard-machine", "version", 1, "name", "web", "config", "kernel",
                                scene->kernel, "blobs", scene->kernel, "snapshots", "name", "one");
}

static void end(struct scene *scene)
{
    image_store_close(scene->images);
    image_store_close(scene->others);
    EXPECT(file_remove_tree(scene->folder, &scene->err) == 0);
    free(scene->content);
    json_decref(scene->manifest);
    buffer_done(&scene->archive);
}

static void write_all(struct scene *scene)
{
    struct package_writer *writer = NULL;
    const char *snapshots[] = {scene->content};
    EXPECT(package_writer_new(scene->manifest, scene->content, snapshots, scene->images, &writer,
                              &scene->err) == 0);
    int r = 1;
    while (r == 1) {
        r = package_writer_step(writer, &scene->archive, &scene->err);
    }
    EXPECT(r == 0);
    package_writer_free(writer);
}

static int read_bytes(struct scene *scene, const void *bytes, size_t length)
{
    static unsigned count;
    json_t *manifest = NULL;
    MEMORY_OWNED char *path = memory_format("%s/archive", scene->folder);
    MEMORY_OWNED char *folder = memory_format("%s/in%u", scene->folder, count++);
    EXPECT(file_write(path, bytes, length, 0600, &scene->err) == 0);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    int r = package_read(fd, folder, scene->others, 0, &manifest, &scene->err);
    json_decref(manifest);
    return r;
}

/* 64 MiB of disk, most of it a hole, are some kilobytes: and the hole is one again. */
TEST(package, what_goes_out_comes_in)
{
    struct scene scene;
    struct stat status;
    json_t *manifest = NULL;
    begin(&scene);
    write_all(&scene);
    EXPECT(scene.archive.used > 0 && scene.archive.used < 256 << 10);
    MEMORY_OWNED char *path = memory_format("%s/archive", scene.folder);
    MEMORY_OWNED char *folder = memory_format("%s/in", scene.folder);
    MEMORY_OWNED char *disk = memory_format("%s/content/disk.raw", folder);
    EXPECT(file_write(path, scene.archive.data, scene.archive.used, 0600, &scene.err) == 0);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    EXPECT(package_read(fd, folder, scene.others, 0, &manifest, &scene.err) == 0);
    EXPECT(json_equal(manifest, scene.manifest));
    json_decref(manifest);
    EXPECT(stat(disk, &status) == 0 && status.st_size == 64 << 20 && status.st_blocks < 1024);
    EXPECT(image_exists(scene.others, scene.kernel));
    end(&scene);
}

/* Method: cut it at many places, and change bytes at many. */
TEST(package, one_that_is_cut_or_damaged_is_refused)
{
    struct scene scene;
    begin(&scene);
    write_all(&scene);
    size_t used = scene.archive.used;
    for (size_t i = 1; i < 16; i++) {
        EXPECT(read_bytes(&scene, scene.archive.data, used * i / 16) < 0);
    }
    unsigned refused = 0;
    for (size_t i = 0; i < 16; i++) {
        scene.archive.data[used * i / 16 + 7] ^= 0x55;
        int r = read_bytes(&scene, scene.archive.data, used);
        refused += r < 0;
        scene.archive.data[used * i / 16 + 7] ^= 0x55;
    }
    EXPECT(refused >= 14); /* a date of the archive may change without harm */
    EXPECT(read_bytes(&scene, scene.archive.data, used) == 0);
    end(&scene);
}

/* ---- Archives of another maker ---- */

static la_ssize_t on_bytes(struct archive *archive, void *context, const void *bytes, size_t length)
{
    (void)archive;
    buffer_append(context, bytes, length);
    return (la_ssize_t)length;
}

struct maker {
    struct archive *archive;
    struct buffer out;
};

static void add(struct maker *maker, const char *name, unsigned kind, const void *bytes,
                size_t size)
{
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_pathname(entry, name);
    archive_entry_set_mode(entry, kind | 0644);
    archive_entry_set_size(entry, (la_int64_t)size);
    if (kind == S_IFLNK) {
        archive_entry_set_symlink(entry, "/etc/passwd");
        archive_entry_set_size(entry, 0);
    }
    archive_write_header(maker->archive, entry);
    if (kind == S_IFREG) {
        archive_write_data(maker->archive, bytes, size);
    }
    archive_entry_free(entry);
}

static void make(struct maker *maker, const struct scene *scene, bool is_packed)
{
    MEMORY_OWNED char *text = json_dumps(scene->manifest, 0);
    *maker = (struct maker){.archive = archive_write_new()};
    archive_write_set_format_pax(maker->archive);
    archive_write_set_bytes_per_block(maker->archive, 0);
    if (is_packed) {
        archive_write_add_filter_zstd(maker->archive);
    }
    archive_write_open(maker->archive, &maker->out, NULL, on_bytes, NULL);
    add(maker, "manifest.json", S_IFREG, text, strlen(text));
}

static int try_it(struct maker *maker, struct scene *scene)
{
    archive_write_close(maker->archive);
    archive_write_free(maker->archive);
    int r = read_bytes(scene, maker->out.data, maker->out.used);
    buffer_done(&maker->out);
    return r;
}

TEST(package, names_that_no_machine_has_are_refused)
{
    static const char *const names[] = {
        "content/../../escaped", "/etc/cron.d/x",    "content/",
        "content/launch.json",   "../escaped",       "snapshots/two/memory",
        "snapshots/../memory",   "blobs/../escaped", "content/disk.raw/x",
        "manifest.json",         "snapshots/one/",   "content/resume/state",
    };
    struct scene scene;
    begin(&scene);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct maker maker;
        make(&maker, &scene, false);
        add(&maker, names[i], S_IFREG, "evil", 4);
        EXPECT(try_it(&maker, &scene) == -ERROR_CORRUPT);
    }
    MEMORY_OWNED char *escaped = memory_format("%s/escaped", scene.folder);
    EXPECT(!file_exists(escaped));
    end(&scene);
}

TEST(package, only_plain_files_once_each_are_taken)
{
    struct scene scene;
    struct maker maker;
    begin(&scene);
    make(&maker, &scene, false);
    add(&maker, "content/disk.raw", S_IFLNK, NULL, 0);
    EXPECT(try_it(&maker, &scene) == -ERROR_CORRUPT);
    make(&maker, &scene, false);
    add(&maker, "content", S_IFDIR, NULL, 0);
    EXPECT(try_it(&maker, &scene) == -ERROR_CORRUPT);
    make(&maker, &scene, false);
    add(&maker, "content/disk.raw", S_IFREG, "one", 3);
    add(&maker, "content/disk.raw", S_IFREG, "two", 3);
    EXPECT(try_it(&maker, &scene) == -ERROR_CORRUPT);
    MEMORY_OWNED char *blob = memory_format("blobs/%s", scene.kernel);
    make(&maker, &scene, false);
    add(&maker, blob, S_IFREG, "not the kernel", 14);
    EXPECT(try_it(&maker, &scene) == -ERROR_CORRUPT);
    EXPECT(!image_exists(scene.others, scene.kernel));
    char other[HASH_TEXT_SIZE]; /* somebody's, whose content it is by another name */
    EXPECT(image_put(scene.others, "not the kernel", 14, other, &scene.err) == 0);
    make(&maker, &scene, false);
    add(&maker, blob, S_IFREG, "not the kernel", 14);
    EXPECT(try_it(&maker, &scene) == -ERROR_CORRUPT);
    EXPECT(image_exists(scene.others, other));
    make(&maker, &scene, false); /* and nothing else */
    EXPECT(try_it(&maker, &scene) == -ERROR_CORRUPT);
    end(&scene);
}

/* 256 MiB of one byte are 30 KB packed. */
TEST(package, an_archive_that_swells_is_refused)
{
    struct scene scene;
    struct maker maker;
    begin(&scene);
    make(&maker, &scene, true);
    MEMORY_OWNED char *bomb = memory_new(256, 1 << 20);
    memset(bomb, 'x', (size_t)256 << 20);
    add(&maker, "content/disk.raw", S_IFREG, bomb, (size_t)256 << 20);
    EXPECT(try_it(&maker, &scene) == -ERROR_TOO_LARGE);
    end(&scene);
}

/* Goal: a disk that its guest has filled with zeros, or with one byte, moves and comes in. */
TEST(package, what_packs_well_is_no_bomb)
{
    struct scene scene;
    struct maker maker;
    struct stat status;
    json_t *manifest = NULL;
    begin(&scene);
    json_object_set_new(scene.manifest, "is_part", json_true());
    json_object_set_new(scene.manifest, "snapshots", json_array());
    json_object_set_new(scene.manifest, "blobs", json_array());
    json_object_set_new(scene.manifest, "own", json_pack("[s]", "disk.raw"));
    MEMORY_OWNED char *zeros = memory_new(256, 1 << 20);
    make(&maker, &scene, true);
    add(&maker, "own/disk.raw", S_IFREG, zeros, (size_t)256 << 20);
    EXPECT(try_it(&maker, &scene) == 0);

    memset(zeros, 'x', (size_t)128 << 20);
    make(&maker, &scene, true);
    add(&maker, "own/disk.raw", S_IFREG, zeros, (size_t)256 << 20);
    EXPECT(try_it(&maker, &scene) == -ERROR_TOO_LARGE);
    MEMORY_OWNED char *path = memory_format("%s/archive", scene.folder);
    for (unsigned i = 0; i < 2; i++) { /* a node has made it: what there is room for counts */
        MEMORY_OWNED char *folder = memory_format("%s/room%u", scene.folder, i);
        MEMORY_OWNED char *disk = memory_format("%s/own/disk.raw", folder);
        uint64_t room_bytes = (uint64_t)(129 - 2 * i) << 20;
        FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
        int r = package_read(fd, folder, scene.others, room_bytes, &manifest, &scene.err);
        EXPECT(r == (i == 0 ? 0 : -ERROR_FULL));
        EXPECT(i > 0 ||
               (stat(disk, &status) == 0 && status.st_size == 256 << 20 &&
                status.st_blocks < (140 << 20) / 512));
    }
    json_decref(manifest);
    end(&scene);
}

TEST(package, a_manifest_that_is_none_is_refused)
{
    static const char *const texts[] = {
        "{}",
        "[]",
        "{\"format\": \"blixard-machine\", \"version\": 1, \"name\": \"../x\", \"config\": {}, "
        "\"blobs\": []}",
        "{\"format\": \"blixard-machine\", \"version\": 1, \"name\": \"x\", \"config\": [], "
        "\"blobs\": []}",
        "{\"format\": \"blixard-machine\", \"version\": 1, \"name\": \"x\", \"config\": {}, "
        "\"blobs\": [\"1\", \"2\", \"3\", \"4\"]}",
        "{\"format\": \"blixard-machine\", \"version\": 1, \"name\": \"x\", \"config\": {}, "
        "\"blobs\": [], \"snapshots\": [{\"name\": \"..\"}]}",
    };
    struct scene scene;
    begin(&scene);
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        json_decref(scene.manifest);
        scene.manifest = json_loads(texts[i], 0, NULL);
        struct maker maker;
        make(&maker, &scene, false);
        EXPECT(try_it(&maker, &scene) == -ERROR_CORRUPT);
    }
    json_object_set_new(scene.manifest, "snapshots", json_array());
    json_object_set_new(scene.manifest, "version", json_integer(2));
    struct maker maker;
    make(&maker, &scene, false);
    EXPECT(try_it(&maker, &scene) == -ERROR_UNSUPPORTED);
    end(&scene);
}

/* What goes to another node beside its content: only what the manifest names, and can be. */
TEST(package, parts_of_a_machine_that_moves)
{
    struct scene scene;
    struct package_writer *writer = NULL;
    json_t *manifest = NULL;
    const char *snapshots[] = {NULL};
    int more = 1;
    begin(&scene);
    json_decref(scene.manifest);
    scene.manifest =
        json_pack("{s:s, s:i, s:s, s:{}, s:[], s:b, s:[{s:s, s:s}], s:[s]}", "format",
                  "blixard-machine", "version", 1, "name", "web", "config", "blobs", "is_part", 1,
                  "layers", "id", "0123456789abcdef", "format", "qcow2", "own", CONTENT_USER);
    MEMORY_OWNED char *disk = memory_format("%s/disk.raw", scene.content);
    EXPECT(package_writer_new(scene.manifest, NULL, snapshots, scene.images, &writer, &scene.err) ==
           0);
    package_writer_add(writer, "layers/0123456789abcdef", disk);
    package_writer_add(writer, "own/" CONTENT_USER, disk);
    while (more == 1) {
        more = package_writer_step(writer, &scene.archive, &scene.err);
    }
    package_writer_free(writer);
    MEMORY_OWNED char *path = memory_format("%s/archive", scene.folder);
    MEMORY_OWNED char *folder = memory_format("%s/parts", scene.folder);
    MEMORY_OWNED char *layer = memory_format("%s/layers/0123456789abcdef", folder);
    EXPECT(file_write(path, scene.archive.data, scene.archive.used, 0600, &scene.err) == 0);
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    EXPECT(package_read(fd, folder, scene.others, 0, &manifest, &scene.err) == 0);
    EXPECT(file_exists(layer));
    json_decref(manifest);

    /* One that is named and is not there; names that lead elsewhere. */
    static const char *const bad[] = {
        "{\"layers\": [{\"id\": \"../../../etc/pass\", \"format\": \"raw\"}]}",
        "{\"layers\": [{\"id\": \"0123456789abcdef\"}]}", "{\"own\": [\"../lock\"]}",
        "{\"own\": [\"grow\"]}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        JSON_OWNED json_t *change = json_loads(bad[i], 0, NULL);
        JSON_OWNED json_t *base = json_deep_copy(scene.manifest);
        json_object_del(scene.manifest, "layers");
        json_object_del(scene.manifest, "own");
        json_object_update(scene.manifest, change);
        EXPECT(package_writer_new(scene.manifest, NULL, snapshots, scene.images, &writer,
                                  &scene.err) == 0);
        scene.archive.used = 0;
        more = 1;
        while (more == 1) {
            more = package_writer_step(writer, &scene.archive, &scene.err);
        }
        package_writer_free(writer);
        EXPECT(read_bytes(&scene, scene.archive.data, scene.archive.used) == -ERROR_CORRUPT);
        json_object_clear(scene.manifest);
        json_object_update(scene.manifest, base);
    }
    end(&scene);
}
