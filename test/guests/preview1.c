/*
 * Claims about WASI preview 1 call by call, in the order of the interface's own suite (descriptors,
 * files, folders, links, times, clocks): what test/guests/files.c does not say through a libc.
 *
 * The argument is a folder that was given, in memory or of the host: each claim holds in both.
 * Prints what is not so, or "fine"; leaves the folder empty.
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <wasi/api.h>

#define E(name) __WASI_ERRNO_##name
#define READ    __WASI_RIGHTS_FD_READ
#define WRITE   __WASI_RIGHTS_FD_WRITE
#define ALL     (~(__wasi_rights_t)0)

static int failures;
static __wasi_fd_t given;  /* the folder that was given */
static __wasi_fd_t folder; /* one in it, for the claims */
static __wasi_rights_t folder_rights, file_rights;

#define CLAIM(holds)    claim((holds), #holds, __LINE__)
#define IS(call, error) is((call), (error), #call, __LINE__)
#define GOES(call)      IS(call, 0)

static void claim(bool holds, const char *what, int line)
{
    if (!holds) {
        printf("%d: not so: %s\n", line, what);
        failures++;
    }
}

static void is(unsigned got, unsigned wanted, const char *what, int line)
{
    if (got != wanted) {
        printf("%d: %s: %u instead of %u\n", line, what, got, wanted);
        failures++;
    }
}

/* ---- What each claim begins with ---- */

static unsigned open_in(__wasi_fd_t at, const char *path, __wasi_oflags_t how,
                        __wasi_rights_t rights, __wasi_fdflags_t flags, __wasi_fd_t *ret)
{
    return __wasi_path_open(at, 0, path, how, rights & file_rights, 0, flags, ret);
}

static unsigned cannot_open(const char *path, __wasi_lookupflags_t lookup, __wasi_oflags_t how)
{
    __wasi_fd_t fd;
    unsigned error = __wasi_path_open(folder, lookup, path, how, 0, 0, 0, &fd);
    if (error == 0) {
        (void)!__wasi_fd_close(fd);
    }
    return error;
}

static __wasi_fd_t make(const char *path)
{
    __wasi_fd_t fd = 0;
    GOES(open_in(folder, path, __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL, ALL, 0, &fd));
    CLAIM(fd > 2);
    return fd;
}

static void put(const char *path)
{
    GOES(__wasi_fd_close(make(path)));
}

static size_t write_at(__wasi_fd_t fd, const char *text, __wasi_filesize_t offset)
{
    size_t written = 0;
    __wasi_ciovec_t part = {(const uint8_t *)text, strlen(text)};
    GOES(__wasi_fd_pwrite(fd, &part, 1, offset, &written));
    return written;
}

static bool reads(__wasi_fd_t fd, __wasi_filesize_t offset, const char *text)
{
    char bytes[64];
    size_t got = 0;
    __wasi_iovec_t part = {(uint8_t *)bytes, sizeof(bytes)};
    GOES(__wasi_fd_pread(fd, &part, 1, offset, &got));
    return got == strlen(text) && memcmp(bytes, text, got) == 0;
}

static __wasi_filestat_t status_of(__wasi_fd_t fd)
{
    __wasi_filestat_t status = {0};
    GOES(__wasi_fd_filestat_get(fd, &status));
    return status;
}

static void find_folder(const char *path)
{
    __wasi_prestat_t prestat;
    for (given = 3; __wasi_fd_prestat_get(given, &prestat) == 0; given++) {
        char name[64] = "";
        if (prestat.u.dir.pr_name_len < sizeof(name)) {
            /* More room than it takes is no mistake. */
            GOES(__wasi_fd_prestat_dir_name(given, (uint8_t *)name, sizeof(name)));
        }
        if (strcmp(name, path) == 0) {
            return;
        }
    }
    CLAIM(!"the folder was given");
}

static void open_folder(void)
{
    __wasi_fdstat_t stat;
    GOES(__wasi_path_create_directory(given, "work"));
    GOES(__wasi_fd_fdstat_get(given, &stat));
    folder_rights = stat.fs_rights_base;
    file_rights = stat.fs_rights_inheriting;
    GOES(__wasi_path_open(given, 0, "work", __WASI_OFLAGS_DIRECTORY, folder_rights, file_rights, 0,
                          &folder));
}

/* ---- Descriptors ---- */

static void rights_of_a_folder(void)
{
    const __wasi_rights_t both =
        __WASI_RIGHTS_FD_FILESTAT_GET | __WASI_RIGHTS_FD_FILESTAT_SET_TIMES;
    const __wasi_rights_t base = both | __WASI_RIGHTS_PATH_CREATE_DIRECTORY |
        __WASI_RIGHTS_PATH_CREATE_FILE | __WASI_RIGHTS_PATH_LINK_SOURCE |
        __WASI_RIGHTS_PATH_LINK_TARGET | __WASI_RIGHTS_PATH_OPEN | __WASI_RIGHTS_FD_READDIR |
        __WASI_RIGHTS_PATH_READLINK | __WASI_RIGHTS_PATH_RENAME_SOURCE |
        __WASI_RIGHTS_PATH_RENAME_TARGET | __WASI_RIGHTS_PATH_SYMLINK |
        __WASI_RIGHTS_PATH_REMOVE_DIRECTORY | __WASI_RIGHTS_PATH_UNLINK_FILE |
        __WASI_RIGHTS_PATH_FILESTAT_GET | __WASI_RIGHTS_PATH_FILESTAT_SET_TIMES;
    const __wasi_rights_t files = both | READ | WRITE | __WASI_RIGHTS_FD_SEEK |
        __WASI_RIGHTS_FD_TELL | __WASI_RIGHTS_FD_DATASYNC | __WASI_RIGHTS_FD_SYNC |
        __WASI_RIGHTS_FD_FDSTAT_SET_FLAGS | __WASI_RIGHTS_FD_ADVISE | __WASI_RIGHTS_FD_ALLOCATE |
        __WASI_RIGHTS_FD_FILESTAT_SET_SIZE | __WASI_RIGHTS_POLL_FD_READWRITE;
    __wasi_fd_t fd = 0;
    CLAIM((folder_rights & base) == base);
    CLAIM((file_rights & (base | files)) == (base | files));
    CLAIM((folder_rights & (__WASI_RIGHTS_FD_SEEK | __WASI_RIGHTS_FD_FILESTAT_SET_SIZE)) == 0);
    GOES(__wasi_path_open(given, 0, ".", 0, folder_rights, file_rights, 0, &fd));
    GOES(__wasi_fd_close(fd));
    GOES(__wasi_path_open(given, 0, ".", __WASI_OFLAGS_DIRECTORY, READ, 0, 0, &fd));
    GOES(__wasi_fd_close(fd));
    GOES(cannot_open(".", 0, 0));
    IS(__wasi_path_open(given, 0, ".", __WASI_OFLAGS_DIRECTORY, READ | WRITE, 0, 0, &fd), E(ISDIR));
}

static void a_folder_is_no_file(void)
{
    uint8_t bytes[8] = {0};
    size_t count;
    __wasi_filesize_t position;
    __wasi_iovec_t in = {bytes, sizeof(bytes)};
    __wasi_ciovec_t out = {bytes, sizeof(bytes)};
    IS(__wasi_fd_prestat_dir_name(given, bytes, 0), E(NAMETOOLONG));
    IS(__wasi_fd_read(folder, &in, 1, &count), E(ISDIR));
    IS(__wasi_fd_pread(folder, &in, 1, 0, &count), E(ISDIR));
    IS(__wasi_fd_write(folder, &out, 1, &count), E(ISDIR));
    IS(__wasi_fd_pwrite(folder, &out, 1, 0, &count), E(ISDIR));
    for (__wasi_whence_t whence = 0; whence < 3; whence++) {
        IS(__wasi_fd_seek(folder, 0, whence, &position), E(BADF));
    }
    IS(__wasi_fd_tell(folder, &position), E(BADF));
    unsigned error = __wasi_fd_allocate(folder, 0, 0);
    CLAIM(error == E(ISDIR) || error == E(BADF) || error == E(NOTCAPABLE));
    error = __wasi_fd_filestat_set_size(folder, 0);
    CLAIM(error == E(ISDIR) || error == E(INVAL) || error == E(BADF) || error == E(NOTCAPABLE));
    CLAIM(status_of(folder).filetype == __WASI_FILETYPE_DIRECTORY);
}

static void descriptors_are_renumbered(void)
{
    __wasi_fdstat_t before, after;
    __wasi_fd_t one = make("one"), two = make("two");
    GOES(__wasi_fd_fdstat_get(one, &before));
    GOES(__wasi_fd_renumber(one, two));
    IS(__wasi_fd_close(one), E(BADF));
    GOES(__wasi_fd_fdstat_get(two, &after));
    CLAIM(memcmp(&before, &after, sizeof(before)) == 0);
    GOES(__wasi_fd_close(two));
    GOES(__wasi_path_unlink_file(folder, "one"));
    GOES(__wasi_path_unlink_file(folder, "two"));
    IS(__wasi_fd_renumber(folder, one), E(BADF)); /* that is closed */
}

/* An open file or folder is there after its name is gone, and the name can be another's. */
static void what_is_open_stays(void)
{
    __wasi_fd_t again = 0;
    for (int i = 0; i < 2; i++) {
        __wasi_fd_t fd = make("file");
        GOES(__wasi_path_unlink_file(folder, "file"));
        __wasi_fd_t other = make("file");
        CLAIM(status_of(fd).ino != status_of(other).ino);
        GOES(__wasi_fd_close(other));
        GOES(__wasi_path_unlink_file(folder, "file"));
        CLAIM(write_at(fd, "alive", 0) == 5 && reads(fd, 0, "alive"));
        GOES(__wasi_fd_close(fd));

        GOES(__wasi_path_create_directory(folder, "sub"));
        GOES(__wasi_path_open(folder, 0, "sub", __WASI_OFLAGS_DIRECTORY, folder_rights, file_rights,
                              0, &fd));
        GOES(__wasi_path_remove_directory(folder, "sub"));
        IS(open_in(fd, "file", __WASI_OFLAGS_CREAT, READ, 0, &again), E(NOENT));
        GOES(__wasi_fd_close(fd));
    }
}

/* ---- Files ---- */

static void sizes(void)
{
    __wasi_fd_t fd = make("file"), again;
    CLAIM(status_of(fd).size == 0 && status_of(fd).filetype == __WASI_FILETYPE_REGULAR_FILE);
    GOES(__wasi_fd_filestat_set_size(fd, 100));
    GOES(__wasi_fd_advise(fd, 10, 50, __WASI_ADVICE_NORMAL));
    CLAIM(status_of(fd).size == 100);
    GOES(__wasi_fd_allocate(fd, 10, 10)); /* inside: changes nothing */
    CLAIM(status_of(fd).size == 100);
    GOES(__wasi_fd_allocate(fd, 90, 20));
    CLAIM(status_of(fd).size == 110);
    IS(__wasi_fd_allocate(fd, 0, 0), E(INVAL));
    GOES(open_in(folder, "file", __WASI_OFLAGS_TRUNC, READ | WRITE, 0, &again));
    CLAIM(status_of(fd).size == 0);
    GOES(__wasi_fd_close(again));
    GOES(__wasi_fd_fdstat_set_rights(folder, folder_rights & ~__WASI_RIGHTS_PATH_FILESTAT_SET_SIZE,
                                     file_rights));
    IS(cannot_open("file", 0, __WASI_OFLAGS_TRUNC), E(PERM));
    IS(__wasi_fd_fdstat_set_rights(folder, folder_rights, file_rights), E(NOTCAPABLE));
    GOES(__wasi_fd_close(fd));
    GOES(__wasi_path_unlink_file(folder, "file"));
    GOES(__wasi_fd_close(folder)); /* with fewer rights now */
    GOES(__wasi_path_open(given, 0, "work", __WASI_OFLAGS_DIRECTORY, folder_rights, file_rights, 0,
                          &folder));
}

static void bytes_at_their_places(void)
{
    __wasi_fd_t fd = make("file"), other;
    char first[4] = "", second[8] = "";
    size_t count = 0;
    const __wasi_ciovec_t out[] = {
        {(const uint8_t *)"abc", 3}, {NULL, 0}, {(const uint8_t *)"defg", 4}};
    const __wasi_iovec_t in[] = {{(uint8_t *)first, 3}, {(uint8_t *)second, 7}};
    GOES(__wasi_fd_pwrite(fd, out, 3, 1, &count));
    CLAIM(count == 7 && status_of(fd).size == 8);
    GOES(__wasi_fd_pread(fd, in, 2, 1, &count));
    CLAIM(count == 7 && strcmp(first, "abc") == 0 && strcmp(second, "defg") == 0);
    GOES(__wasi_fd_pread(fd, in, 2, 8, &count));
    CLAIM(count == 0);
    GOES(open_in(folder, "file", 0, READ | __WASI_RIGHTS_FD_SEEK, 0, &other));
    CLAIM(write_at(fd, "XY", 4) == 2 && reads(other, 3, "cXYfg")); /* without a buffer */
    IS(__wasi_fd_pwrite(other, out, 1, 0, &count), E(BADF));
    GOES(__wasi_fd_close(other));
    IS(__wasi_fd_pread(fd, in, 2, UINT64_MAX, &count), E(INVAL));
    IS(__wasi_fd_pwrite(fd, out, 3, INT64_MAX - 6, &count), E(INVAL));
    GOES(__wasi_fd_close(fd));
    GOES(__wasi_path_unlink_file(folder, "file"));
}

static void positions(void)
{
    __wasi_fd_t fd = make("file");
    __wasi_filesize_t position = 9;
    size_t count = 9;
    char byte;
    const __wasi_iovec_t in = {(uint8_t *)&byte, 1};
    GOES(__wasi_fd_tell(fd, &position));
    CLAIM(position == 0);
    CLAIM(write_at(fd, "0123456789", 0) == 10);
    GOES(__wasi_fd_tell(fd, &position));
    CLAIM(position == 0);
    GOES(__wasi_fd_seek(fd, -4, __WASI_WHENCE_END, &position));
    CLAIM(position == 6);
    GOES(__wasi_fd_seek(fd, 2, __WASI_WHENCE_CUR, &position));
    GOES(__wasi_fd_read(fd, &in, 1, &count));
    CLAIM(count == 1 && byte == '8');
    IS(__wasi_fd_seek(fd, -10, __WASI_WHENCE_CUR, &position), E(INVAL));
    IS(__wasi_fd_seek(fd, INT64_MAX, __WASI_WHENCE_CUR, &position), E(INVAL));
    GOES(__wasi_fd_seek(fd, 1000, __WASI_WHENCE_CUR, &position));
    CLAIM(position == 1009);
    GOES(__wasi_fd_read(fd, &in, 1, &count));
    CLAIM(count == 0 && status_of(fd).size == 10);
    GOES(__wasi_fd_close(fd));
    GOES(__wasi_path_unlink_file(folder, "file"));
}

static void flags(void)
{
    __wasi_fd_t fd;
    __wasi_fdstat_t stat;
    GOES(open_in(folder, "file", __WASI_OFLAGS_CREAT,
                 READ | WRITE | __WASI_RIGHTS_PATH_FILESTAT_GET,
                 __WASI_FDFLAGS_APPEND | __WASI_FDFLAGS_SYNC, &fd));
    GOES(__wasi_fd_fdstat_get(fd, &stat));
    CLAIM(stat.fs_flags == (__WASI_FDFLAGS_APPEND | __WASI_FDFLAGS_SYNC));
    CLAIM((stat.fs_rights_base & __WASI_RIGHTS_PATH_FILESTAT_GET) == 0); /* of folders alone */
    CLAIM((stat.fs_rights_inheriting & __WASI_RIGHTS_PATH_FILESTAT_GET) == 0);
    GOES(__wasi_fd_close(fd));
    GOES(open_in(folder, "file", 0, READ | __WASI_RIGHTS_FD_FDSTAT_SET_FLAGS,
                 __WASI_FDFLAGS_NONBLOCK, &fd));
    GOES(__wasi_fd_fdstat_set_flags(fd, __WASI_FDFLAGS_APPEND | __WASI_FDFLAGS_NONBLOCK));
    GOES(__wasi_fd_fdstat_get(fd, &stat));
    CLAIM(stat.fs_flags == (__WASI_FDFLAGS_APPEND | __WASI_FDFLAGS_NONBLOCK));
    GOES(__wasi_fd_fdstat_set_flags(fd, 0));
    GOES(__wasi_fd_close(fd));
    GOES(__wasi_path_unlink_file(folder, "file"));
}

static void times(void)
{
    const unsigned both[] = {__WASI_FSTFLAGS_MTIM | __WASI_FSTFLAGS_MTIM_NOW,
                             __WASI_FSTFLAGS_ATIM | __WASI_FSTFLAGS_ATIM_NOW};
    __wasi_fd_t fd = make("file");
    __wasi_filestat_t before = status_of(fd), after;
    GOES(__wasi_fd_filestat_set_times(fd, 5, before.mtim - 100, __WASI_FSTFLAGS_MTIM));
    after = status_of(fd);
    CLAIM(after.mtim == before.mtim - 100 && after.atim == before.atim);
    for (int i = 0; i < 2; i++) {
        IS(__wasi_fd_filestat_set_times(fd, 100, 200, (__wasi_fstflags_t)both[i]), E(INVAL));
        IS(__wasi_path_filestat_set_times(folder, 0, "file", 100, 200, (__wasi_fstflags_t)both[i]),
           E(INVAL));
    }
    GOES(__wasi_path_filestat_set_times(folder, 0, "file", 1000000007, 0, __WASI_FSTFLAGS_ATIM));
    after = status_of(fd);
    CLAIM(after.mtim == before.mtim - 100 && after.atim == 1000000007);
    GOES(__wasi_path_symlink("file", folder, "link"));
    GOES(__wasi_path_filestat_set_times(folder, 0, "link", 0, 3000000000, __WASI_FSTFLAGS_MTIM));
    GOES(__wasi_path_filestat_get(folder, 0, "link", &after));
    CLAIM(after.mtim == 3000000000 && after.filetype == __WASI_FILETYPE_SYMBOLIC_LINK &&
          after.size == 4);
    GOES(__wasi_path_filestat_get(folder, __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, "link", &after));
    CLAIM(after.mtim == before.mtim - 100 && after.ino == before.ino && after.dev == before.dev);
    GOES(__wasi_fd_close(fd));
    GOES(__wasi_path_unlink_file(folder, "link"));
    GOES(__wasi_path_unlink_file(folder, "file"));
}

/* ---- Names ---- */

static void paths(void)
{
    __wasi_fd_t fd;
    GOES(__wasi_path_create_directory(folder, "dir"));
    GOES(__wasi_path_create_directory(folder, "dir/nested"));
    put("dir/nested/file");
    IS(cannot_open("/dir/nested/file", 0, 0), E(PERM));
    GOES(cannot_open("dir/.//nested/../../dir/nested/../nested///./file", 0, 0));
    IS(cannot_open("dir/nested/file/", 0, 0), E(NOTDIR));
    IS(cannot_open("dir/nested/file///", 0, 0), E(NOTDIR));
    IS(cannot_open("dir/nested/file", 0, __WASI_OFLAGS_DIRECTORY), E(NOTDIR));
    IS(cannot_open("dir/nested/file", 0, __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL), E(EXIST));
    IS(cannot_open("none", 0, 0), E(NOENT));
    GOES(cannot_open("dir/nested/", 0, 0));
    GOES(cannot_open("dir/nested///", 0, 0));
    IS(cannot_open("dir/nested/../../../work/dir/nested/file", 0, 0), E(PERM));
    IS(__wasi_path_unlink_file(folder, "dir"), E(ISDIR));
    IS(__wasi_path_unlink_file(folder, "dir/"), E(ISDIR));
    IS(__wasi_path_unlink_file(folder, "dir/nested/file/"), E(NOTDIR));
    IS(__wasi_path_remove_directory(folder, "dir/nested/file"), E(NOTDIR));
    IS(__wasi_path_remove_directory(folder, "dir/nested/file/"), E(NOTDIR));
    IS(__wasi_path_remove_directory(folder, "dir"), E(NOTEMPTY));
    IS(cannot_open("dir/nested/file/", 0, __WASI_OFLAGS_CREAT), E(ISDIR));
    IS(cannot_open("dir/", 0, __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL), E(ISDIR));
    GOES(open_in(folder, "dir/nested/file", 0, 0, 0, &fd));
    IS(__wasi_path_open(fd, 0, "foo", __WASI_OFLAGS_CREAT, 0, 0, 0, &fd), E(NOTDIR));
    GOES(__wasi_fd_close(fd));
    GOES(__wasi_path_rename(folder, "dir/nested/", folder, "dir/moved/"));
    IS(__wasi_path_rename(folder, "dir/moved/file/", folder, "x"), E(NOTDIR));
    IS(__wasi_path_rename(folder, "dir/moved/file", folder, "x/"), E(NOTDIR));
    GOES(__wasi_path_unlink_file(folder, "dir/moved/file"));
    GOES(__wasi_path_remove_directory(folder, "dir/moved/"));
    GOES(__wasi_path_remove_directory(folder, "dir"));
}

/* A path that ends with ".." or "." is one of a folder, but not the name of one. */
static void no_names(void)
{
    uint8_t text[16];
    size_t used;
    GOES(__wasi_path_create_directory(folder, "dir"));
    IS(__wasi_path_create_directory(folder, "dir/.."), E(EXIST));
    IS(__wasi_path_create_directory(folder, "dir/."), E(EXIST));
    IS(__wasi_path_symlink("x", folder, "dir/.."), E(EXIST));
    IS(__wasi_path_readlink(folder, "dir/..", text, sizeof(text), &used), E(INVAL));
    IS(__wasi_path_link(folder, 0, "dir/..", folder, "x"), E(PERM));
    IS(__wasi_path_link(folder, 0, "dir/", folder, "x"), E(PERM));
    IS(__wasi_path_link(folder, 0, "dir/", folder, "dir"), E(EXIST));
    IS(__wasi_path_unlink_file(folder, "dir/.."), E(ISDIR));
    IS(__wasi_path_rename(folder, "dir/.", folder, "x"), E(BUSY));
    IS(__wasi_path_rename(folder, "dir", folder, "dir/.."), E(BUSY));
    IS(__wasi_path_rename(folder, "none", folder, "."), E(BUSY));
    IS(__wasi_path_rename(folder, "..", folder, "x"), E(PERM));
    IS(__wasi_path_create_directory(folder, "dir/../.."), E(PERM));
    GOES(__wasi_path_remove_directory(folder, "dir"));
}

static void links(void)
{
    uint8_t text[16];
    size_t used = 0;
    GOES(__wasi_path_symlink("target", folder, "link"));
    IS(cannot_open("link", 0, 0), E(LOOP));
    IS(cannot_open("link", 0, __WASI_OFLAGS_DIRECTORY), E(NOTDIR));
    IS(cannot_open("link", __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, 0), E(NOENT));
    GOES(__wasi_path_create_directory(folder, "target"));
    IS(cannot_open("link", 0, 0), E(LOOP));
    GOES(cannot_open("link", __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, 0));
    GOES(cannot_open("link", __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, __WASI_OFLAGS_DIRECTORY));
    IS(__wasi_path_symlink("source", folder, "target/"), E(EXIST));
    GOES(__wasi_path_remove_directory(folder, "target"));
    IS(__wasi_path_symlink("source", folder, "target/"), E(NOENT));
    put("target");
    IS(cannot_open("link", __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, __WASI_OFLAGS_DIRECTORY), E(NOTDIR));
    IS(__wasi_path_symlink("source", folder, "target/"), E(NOTDIR));
    IS(__wasi_path_symlink("source", folder, "target"), E(EXIST));
    GOES(__wasi_path_readlink(folder, "link", text, sizeof(text), &used));
    CLAIM(used == 6 && memcmp(text, "target", 6) == 0);
    GOES(__wasi_path_readlink(folder, "link", text, 3, &used)); /* as much as there is room for */
    CLAIM(used == 3);
    IS(__wasi_path_link(folder, __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, "link", folder, "hard"),
       E(INVAL));
    GOES(__wasi_path_link(folder, 0, "link", folder, "hard"));
    GOES(__wasi_path_unlink_file(folder, "hard"));
    IS(__wasi_path_link(folder, 0, "target", folder, "target"), E(EXIST));
    IS(__wasi_path_link(folder, 0, "target", folder, "hard/"), E(NOENT));
    IS(__wasi_path_link(folder, 0, ".", folder, "hard"), E(PERM));
    GOES(__wasi_path_unlink_file(folder, "link"));
    GOES(__wasi_path_unlink_file(folder, "target"));
}

static void a_link_is_the_file(void)
{
    __wasi_fd_t one = make("file"), two;
    __wasi_filestat_t first, second;
    GOES(__wasi_path_create_directory(folder, "sub"));
    GOES(__wasi_path_link(folder, 0, "file", folder, "sub/link"));
    GOES(open_in(folder, "sub/link", 0, ALL, 0, &two));
    first = status_of(one);
    second = status_of(two);
    CLAIM(memcmp(&first, &second, sizeof(first)) == 0 && first.nlink == 2);
    GOES(__wasi_fd_close(two));
    two = make("other");
    second = status_of(two);
    CLAIM(first.dev == second.dev && first.ino != second.ino);
    GOES(__wasi_fd_close(two));
    GOES(__wasi_fd_close(one));
    GOES(__wasi_path_unlink_file(folder, "other"));
    GOES(__wasi_path_unlink_file(folder, "sub/link"));
    GOES(__wasi_path_remove_directory(folder, "sub"));
    GOES(__wasi_path_unlink_file(folder, "file"));
}

/* ---- Reading folders ---- */

/* Entries from `cookie` on through a small buffer: how many; the names, numbers and cookies of the
 * first three. */
static int list(__wasi_dircookie_t cookie, char names[3][8], __wasi_dirent_t entries[3])
{
    uint8_t room[256];
    size_t used = sizeof(room);
    int count = 0;
    while (used == sizeof(room)) {
        GOES(__wasi_fd_readdir(folder, room, sizeof(room), cookie, &used));
        for (size_t at = 0; at + sizeof(__wasi_dirent_t) <= used;) {
            __wasi_dirent_t entry;
            memcpy(&entry, room + at, sizeof(entry));
            at += sizeof(entry) + entry.d_namlen;
            if (at > used) {
                break;
            }
            if (count < 3 && entry.d_namlen < 8) {
                memset(names[count], 0, 8);
                memcpy(names[count], room + at - entry.d_namlen, entry.d_namlen);
                entries[count] = entry;
            }
            cookie = entry.d_next;
            count++;
        }
    }
    return count;
}

static void entries(void)
{
    enum { MANY = 200 };
    char names[3][8], again[3][8], name[8];
    __wasi_dirent_t found[3], last[3];
    CLAIM(list(0, names, found) == 2);
    CLAIM(strcmp(names[0], ".") == 0 && strcmp(names[1], "..") == 0);
    CLAIM(found[0].d_ino == status_of(folder).ino && found[0].d_type == __WASI_FILETYPE_DIRECTORY);
    __wasi_fd_t fd = make("file");
    CLAIM(list(0, names, found) == 3);
    for (int i = 0; i < 3; i++) {
        CLAIM(strcmp(names[i], "file") != 0 || found[i].d_ino == status_of(fd).ino);
    }
    CLAIM(list(found[1].d_next, again, last) == 1 && strcmp(again[0], names[2]) == 0);
    GOES(__wasi_fd_close(fd));
    GOES(__wasi_path_unlink_file(folder, "file"));
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        put(name);
    }
    CLAIM(list(0, names, found) == MANY + 2);
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        GOES(__wasi_path_unlink_file(folder, name));
    }
}

/* ---- The rest of the world ---- */

static void clocks_and_chance(void)
{
    enum { BYTES = 1 << 18 };
    static uint8_t bytes[BYTES];
    __wasi_timestamp_t first, second, resolution;
    for (unsigned clock = 0; clock < 2; clock++) {
        GOES(__wasi_clock_res_get((__wasi_clockid_t){clock}, &resolution));
        CLAIM(resolution > 0 && resolution <= 1000000000);
        GOES(__wasi_clock_time_get((__wasi_clockid_t){clock}, 1, &first));
        GOES(__wasi_clock_time_get((__wasi_clockid_t){clock}, 0, &second));
        CLAIM(first > 0 && second >= first);
    }
    GOES(__wasi_sched_yield());
    GOES(__wasi_random_get(bytes, 0));
    CLAIM(bytes[0] == 0);
    GOES(__wasi_random_get(bytes, BYTES));
    unsigned seen[256] = {0};
    for (int i = 0; i < BYTES; i++) {
        seen[bytes[i]]++;
    }
    for (int i = 0; i < 256; i++) {
        CLAIM(seen[i] > BYTES / 256 / 2);
    }
}

static void readiness(void)
{
    const __wasi_subscription_t wanted[] = {
        {.userdata = 1, .u = {.tag = __WASI_EVENTTYPE_FD_WRITE, .u.fd_write.file_descriptor = 1}},
        {.userdata = 2, .u = {.tag = __WASI_EVENTTYPE_FD_READ, .u.fd_read.file_descriptor = 99}},
        {.userdata = 3,
         .u = {.tag = __WASI_EVENTTYPE_CLOCK,
               .u.clock = {.id = __WASI_CLOCKID_MONOTONIC, .timeout = 1000}}},
    };
    __wasi_event_t events[3];
    size_t count = 0;
    GOES(__wasi_poll_oneoff(wanted, events, 2, &count));
    CLAIM(count == 2);
    for (size_t i = 0; i < count; i++) {
        CLAIM(events[i].error == (events[i].userdata == 1 ? 0 : E(BADF)));
    }
    GOES(__wasi_poll_oneoff(wanted + 2, events, 1, &count));
    CLAIM(count == 1 && events[0].userdata == 3 && events[0].error == 0 &&
          events[0].type == __WASI_EVENTTYPE_CLOCK);
    IS(__wasi_poll_oneoff(wanted, events, 0, &count), E(INVAL));
}

/* From here on descriptors are closed that others would miss. */
static void streams_move(void)
{
    const __wasi_fd_t streams[] = {0, 2};
    const __wasi_fd_t files[] = {make("one"), make("two")};
    for (int i = 0; i < 2; i++) {
        __wasi_fdstat_t stat;
        GOES(__wasi_fd_renumber(streams[i], files[i]));
        GOES(__wasi_fd_fdstat_get(files[i], &stat));
        IS(__wasi_fd_fdstat_get(streams[i], &stat), E(BADF));
    }
    GOES(__wasi_path_unlink_file(folder, "one"));
    GOES(__wasi_path_unlink_file(folder, "two"));
}

static void the_given_folder_moves(void)
{
    __wasi_prestat_t prestat;
    __wasi_fdstat_t stat;
    const __wasi_filesize_t ino = status_of(folder).ino;
    GOES(__wasi_fd_renumber(folder, given));
    CLAIM(status_of(given).ino == ino);
    IS(__wasi_fd_fdstat_get(folder, &stat), E(BADF));
    GOES(__wasi_fd_close(given));
    IS(__wasi_fd_prestat_get(given, &prestat), E(BADF));
}

int main(int argument_count, char **arguments)
{
    find_folder(argument_count == 2 ? arguments[1] : "/tmp");
    open_folder();
    rights_of_a_folder();
    a_folder_is_no_file();
    descriptors_are_renumbered();
    what_is_open_stays();
    sizes();
    bytes_at_their_places();
    positions();
    flags();
    times();
    paths();
    no_names();
    links();
    a_link_is_the_file();
    entries();
    clocks_and_chance();
    readiness();
    streams_move();
    GOES(__wasi_path_remove_directory(given, "work"));
    the_given_folder_moves();
    if (failures == 0) {
        printf("fine\n");
    }
    return failures;
}
