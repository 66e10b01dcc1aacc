/*
 * What is acknowledged is there after a restart, or the start says what is damaged: never a third
 * thing.  A folder is made with a snapshot, closed segments and the open segment of a process that
 * died; then it is damaged, one way at a time.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "test/lib/test.h"
#include "test/unit/engine/store/support.h"

enum { LIVES = 3, WRITES = 40, FILES_MAX = 64, DIES = 42, SOUND = 0, LOST = 50 };

static const struct store_options small = {.snapshot_bytes = 4 << 10};

/* A life ends orderly but the last, which ends as by kill -9. */
static void live(const char *folder, int life)
{
    struct node node;
    struct error err = {0};
    EXPECT(node_open(&node, folder, &small, &err) == 0);
    for (uint64_t i = 0; i < WRITES; i++) {
        EXPECT(node_write_project(&node, (uint64_t)life * WRITES + i, &err) == 0);
    }
    if (life == LIVES - 1) {
        node_wait_marked(&node);
        _exit(DIES);
    }
    node_close(&node);
    _exit(0);
}

static int in_child(void (*act)(const char *folder, int number), const char *folder, int number)
{
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) {
        alarm(20);
        act(folder, number);
        _exit(0);
    }
    int status = 0;
    EXPECT(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

/* Ends with SOUND, LOST, or the kind of the error, which must say where. */
static void judge(const char *folder, int number)
{
    struct node node;
    struct error err = {0};
    (void)number;
    int r = node_open(&node, folder, &small, &err);
    if (r < 0) {
        if (getenv("BLIXARD_TEST_TALK") != NULL) {
            fprintf(stderr, "  %s\n", err.text);
        }
        EXPECT(strstr(err.text, folder) != NULL);
        _exit(-r);
    }
    int64_t count = node_integer(&node, "SELECT count(*) FROM project");
    int64_t sum = node_integer(&node, "SELECT sum(created_ms) FROM project");
    bool is_whole = count == LIVES * WRITES && sum == (LIVES * WRITES - 1) * LIVES * WRITES / 2;
    node_close(&node);
    _exit(is_whole ? SOUND : LOST);
}

/* ---- Folders ---- */

struct files {
    char names[FILES_MAX][64];
    size_t count;
};

static int by_name(const void *left, const void *right)
{
    return strcmp(left, right);
}

static struct files list_files(const char *folder)
{
    struct files files = {0};
    DIR *list = opendir(folder);
    EXPECT(list != NULL);
    for (struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
        if (entry->d_name[0] != '.' && strcmp(entry->d_name, "lock") != 0) {
            EXPECT(files.count < FILES_MAX);
            snprintf(files.names[files.count++], sizeof(files.names[0]), "%.63s", entry->d_name);
        }
    }
    closedir(list);
    qsort(files.names, files.count, sizeof(files.names[0]), by_name);
    return files;
}

static void copy_file(const char *from, const char *to)
{
    FD_OWNED int source = open(from, O_RDONLY | O_CLOEXEC);
    FD_OWNED int target = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    EXPECT(source >= 0 && target >= 0);
    ssize_t moved = 1;
    while (moved > 0) {
        moved = copy_file_range(source, NULL, target, NULL, 1 << 30, 0);
        EXPECT(moved >= 0);
    }
}

static void copy_folder(const char *from, const char *to)
{
    struct error err = {0};
    EXPECT(file_remove_tree(to, &err) == 0);
    EXPECT(file_make_folder(to, 0700, &err) == 0);
    struct files files = list_files(from);
    for (size_t i = 0; i < files.count; i++) {
        MEMORY_OWNED char *source = memory_format("%s/%s", from, files.names[i]);
        MEMORY_OWNED char *target = memory_format("%s/%s", to, files.names[i]);
        copy_file(source, target);
    }
}

struct place {
    char *good;
    char *bad;
};

static struct place make_place(void)
{
    struct place place = {.good = memory_format("%s/good", test_folder()),
                          .bad = memory_format("%s/bad", test_folder())};
    for (int life = 0; life < LIVES; life++) {
        EXPECT(in_child(live, place.good, life) == (life == LIVES - 1 ? DIES : 0));
    }
    copy_folder(place.good, place.bad);
    EXPECT(in_child(judge, place.bad, 0) == SOUND);
    return place;
}

static void free_place(struct place *place)
{
    free(place->good);
    free(place->bad);
}

static void expect_sound_or_told(struct place *place, const char *file, const char *what, off_t at)
{
    int verdict = in_child(judge, place->bad, 0);
    if (getenv("BLIXARD_TEST_TALK") != NULL) {
        fprintf(stderr, "%s %s %jd: %d\n", what, file, (intmax_t)at, verdict);
        return;
    }
    if (verdict != SOUND && verdict != ERROR_CORRUPT && verdict != ERROR_UNSUPPORTED) {
        fprintf(stderr, "%s %s %jd: verdict %d\n", what, file, (intmax_t)at, verdict);
        abort();
    }
}

/* Of each file: the first 64 bytes, then ever fewer, and the last. */
static off_t next_position(off_t at, off_t size)
{
    off_t next = at < 64 ? at + 17 : at * 2;
    return at < size - 1 && next >= size ? size - 1 : next;
}

TEST(store_damage, a_flipped_bit_is_harmless_or_told)
{
    struct place place = make_place();
    struct files files = list_files(place.good);
    for (size_t i = 0; i < files.count; i++) {
        MEMORY_OWNED char *path = memory_format("%s/%s", place.bad, files.names[i]);
        struct stat status;
        copy_folder(place.good, place.bad);
        EXPECT(stat(path, &status) == 0);
        off_t used = status.st_size < 65536 ? status.st_size : 65536;
        for (off_t at = 0; at < used; at = next_position(at, used)) {
            copy_folder(place.good, place.bad);
            FD_OWNED int fd = open(path, O_RDWR | O_CLOEXEC);
            uint8_t byte = 0;
            EXPECT(pread(fd, &byte, 1, at) == 1);
            byte ^= (uint8_t)(1 << (at % 8));
            EXPECT(pwrite(fd, &byte, 1, at) == 1);
            expect_sound_or_told(&place, files.names[i], "flip", at);
        }
    }
    free_place(&place);
}

TEST(store_damage, a_missing_file_is_harmless_or_told)
{
    struct place place = make_place();
    struct files files = list_files(place.good);
    for (size_t i = 0; i < files.count; i++) {
        copy_folder(place.good, place.bad);
        MEMORY_OWNED char *path = memory_format("%s/%s", place.bad, files.names[i]);
        EXPECT(unlink(path) == 0);
        expect_sound_or_told(&place, files.names[i], "remove", 0);
    }
    free_place(&place);
}

TEST(store_damage, a_cut_file_is_harmless_or_told)
{
    struct place place = make_place();
    struct files files = list_files(place.good);
    for (size_t i = 0; i < files.count; i++) {
        MEMORY_OWNED char *path = memory_format("%s/%s", place.bad, files.names[i]);
        static const off_t sizes[] = {0, 1, 8, 9, 64, 512, 4096};
        for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++) {
            copy_folder(place.good, place.bad);
            struct stat status;
            EXPECT(stat(path, &status) == 0);
            if (sizes[j] < status.st_size) {
                EXPECT(truncate(path, sizes[j]) == 0);
                expect_sound_or_told(&place, files.names[i], "cut", sizes[j]);
            }
        }
    }
    free_place(&place);
}
