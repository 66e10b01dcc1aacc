/*
 * Claims about the files of a function, through a libc and through WASI itself; prints what fails,
 * or "fine".  With the argument "full": fills /tmp, and says how much went in.  With "rootless": as
 * a program to which nobody gave "/".
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wasi/api.h>

static bool has_root;
static int tmp; /* the number of its descriptor */
static int failures;

static void claim(int holds, const char *what)
{
    if (!holds) {
        printf("not so: %s (errno %d)\n", what, errno);
        failures++;
    }
}

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    claim(file != NULL, path);
    if (file != NULL) {
        claim(fputs(text, file) >= 0, "written");
        claim(fclose(file) == 0, "closed");
    }
}

static int holds(const char *path, const char *text)
{
    char bytes[64] = "";
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return 0;
    }
    size_t length = fread(bytes, 1, sizeof(bytes) - 1, file);
    fclose(file);
    return length == strlen(text) && memcmp(bytes, text, length) == 0;
}

static int names_in(const char *path)
{
    DIR *folder = opendir(path);
    int count = 0;
    for (struct dirent *entry = folder != NULL ? readdir(folder) : NULL; entry != NULL;
         entry = readdir(folder)) {
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return folder != NULL ? count : -1;
}

static void beginnings(void)
{
    struct stat status;
    claim(names_in("/tmp") == 0, "/tmp begins empty");
    claim(rmdir("/tmp") == -1, "/tmp stays");
    if (!has_root) {
        claim(stat("/", &status) == -1 && open("/new", O_CREAT | O_WRONLY, 0666) == -1, "no /");
        return;
    }
    claim(names_in("/") == 1, "/ holds tmp");
    claim(stat("/", &status) == 0 && S_ISDIR(status.st_mode), "/ is a folder");
    claim(mkdir("/new", 0777) == -1 && errno == EROFS, "/ cannot be written");
    claim(open("/new", O_CREAT | O_WRONLY, 0666) == -1 && errno == EROFS, "no file in /");
}

static void plain_files(void)
{
    struct stat status;
    char byte;
    put("/tmp/a", "hello");
    claim(holds("/tmp/a", "hello"), "a file keeps what was written");
    claim(stat("/tmp/a", &status) == 0 && status.st_size == 5 && S_ISREG(status.st_mode), "stat");
    claim(status.st_mtim.tv_sec > 1600000000, "it has a time");
    int fd = open("/tmp/a", O_WRONLY | O_APPEND);
    claim(fd > tmp && write(fd, "!!", 2) == 2, "appended");
    claim(read(fd, &byte, 1) == -1 && errno == EBADF, "not opened for reading");
    claim(close(fd) == 0 && close(fd) == -1 && errno == EBADF, "closed once");
    claim(holds("/tmp/a", "hello!!"), "appended to");
    claim(open("/tmp/a", O_CREAT | O_EXCL | O_RDWR, 0666) == -1 && errno == EEXIST, "exclusive");
    claim(open("/tmp/none", O_RDONLY) == -1 && errno == ENOENT, "what is not there");
    claim(open("/tmp/a/b", O_RDONLY) == -1 && errno == ENOTDIR, "below a file");
    fd = open("/tmp/a", O_RDWR);
    claim(lseek(fd, 100000, SEEK_SET) == 100000 && write(fd, "z", 1) == 1, "a hole");
    claim(pread(fd, &byte, 1, 50000) == 1 && byte == 0, "a hole reads as zero");
    claim(ftruncate(fd, 3) == 0 && ftruncate(fd, 8) == 0, "cut and made longer");
    char bytes[8] = "xxxxxxx";
    claim(pread(fd, bytes, 8, 0) == 8 && memcmp(bytes, "hel\0\0\0\0\0", 8) == 0,
          "zero behind a cut");
    claim(pwrite(fd, "p", 1, 1) == 1 && lseek(fd, 0, SEEK_CUR) == 100001, "pwrite moves nothing");
    claim(lseek(fd, -1, SEEK_SET) == -1 && errno == EINVAL, "before the start");
    claim(fsync(fd) == 0 && close(fd) == 0, "fsync");
    claim(truncate("/tmp/a", 0) == 0 && stat("/tmp/a", &status) == 0 && status.st_size == 0,
          "emptied");
    claim(unlink("/tmp/a") == 0 && unlink("/tmp/a") == -1 && errno == ENOENT, "unlink");
}

static void large_file(void)
{
    char block[1000];
    long long sum = 0;
    FILE *file = fopen("/tmp/large", "w+");
    for (int i = 0; i < 600; i++) {
        memset(block, i % 251, sizeof(block));
        claim(fwrite(block, 1, sizeof(block), file) == sizeof(block), "a large file");
    }
    rewind(file);
    for (int i = 0; i < 600; i++) {
        claim(fread(block, 1, sizeof(block), file) == sizeof(block), "read again");
        sum += block[0] == (char)(i % 251) && block[999] == (char)(i % 251);
    }
    claim(sum == 600, "as it was written");
    fclose(file);
    unlink("/tmp/large");
}

/* Appending holds for writes at the position, and for one descriptor. */
static void appending(void)
{
    struct stat status;
    int appends = open("/tmp/a", O_RDWR | O_CREAT | O_APPEND | O_SYNC, 0666);
    int writes = open("/tmp/a", O_RDWR);
    claim((fcntl(appends, F_GETFL) & (O_APPEND | O_SYNC)) == (O_APPEND | O_SYNC), "its flags");
    claim(write(appends, "abc", 3) == 3 && write(writes, "A", 1) == 1, "both write");
    claim(lseek(appends, 0, SEEK_SET) == 0 && write(appends, "def", 3) == 3, "at the end");
    claim(lseek(appends, 0, SEEK_CUR) == 6, "and there it is");
    claim(pwrite(appends, "B", 1, 1) == 1 && holds("/tmp/a", "ABcdef"), "an offset counts");
    claim(fcntl(appends, F_SETFL, 0) == 0 && lseek(appends, 0, SEEK_SET) == 0, "no more");
    claim(write(appends, "xyz", 3) == 3 && holds("/tmp/a", "xyzdef"), "over what was there");
    claim(fstat(writes, &status) == 0 && status.st_size == 6, "not a byte more");
    claim(close(appends) == 0 && close(writes) == 0 && unlink("/tmp/a") == 0, "removed");
}

static void folders(void)
{
    claim(mkdir("/tmp/d", 0777) == 0 && mkdir("/tmp/d", 0777) == -1 && errno == EEXIST, "mkdir");
    put("/tmp/d/x", "x");
    claim(rmdir("/tmp/d") == -1 && errno == ENOTEMPTY, "a folder with something in it");
    claim(unlink("/tmp/d") == -1 && errno == EISDIR, "unlink of a folder");
    claim(rmdir("/tmp/d/x") == -1 && errno == ENOTDIR, "rmdir of a file");
    claim(mkdir("/tmp/d/e", 0777) == 0 && rename("/tmp/d/x", "/tmp/d/e/y") == 0, "moved across");
    claim(holds("/tmp/d/e/y", "x"), "moved whole");
    claim(rename("/tmp/d", "/tmp/d/e/f") == -1 && errno == EINVAL, "into itself");
    claim(mkdir("/tmp/g", 0777) == 0 && rename("/tmp/d", "/tmp/g") == 0, "over an empty folder");
    claim(mkdir("/tmp/h", 0777) == 0 && rename("/tmp/g/e/y", "/tmp/h") == -1 && errno == EISDIR,
          "a file over a folder");
    claim(rename("/tmp/h", "/tmp/g") == -1 && errno == ENOTEMPTY, "over a full folder");
    claim(rename("/tmp/h", "/tmp/g/e/y") == -1 && errno == ENOTDIR, "a folder over a file");
    claim(unlink("/tmp/g/e/y") == 0 && rmdir("/tmp/g/e/") == 0 && rmdir("/tmp/g") == 0 &&
              rmdir("/tmp/h") == 0,
          "all removed");
    for (int i = 0; i < 300; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/tmp/file-%d", i);
        put(path, "");
    }
    claim(names_in("/tmp") == 300, "300 names");
    for (int i = 0; i < 300; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/tmp/file-%d", i);
        claim(unlink(path) == 0, path);
    }
    claim(names_in("/tmp") == 0, "no name");
}

/* What telldir() says fits a `long`, of 32 bits. */
static void places(void)
{
    char path[32];
    char name[256] = "";
    claim(mkdir("/tmp/many", 0777) == 0, "a folder of many");
    for (int i = 0; i < 40; i++) {
        snprintf(path, sizeof(path), "/tmp/many/%d", i);
        put(path, "x");
    }
    DIR *folder = opendir("/tmp/many");
    long place = 0;
    int count = 0;
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        if (++count == 20) {
            place = telldir(folder);
        } else if (count == 21) {
            snprintf(name, sizeof(name), "%s", entry->d_name);
        }
    }
    claim(count == 42, "each once");
    for (int i = 0; i < 2; i++) {
        seekdir(folder, place);
        struct dirent *entry = readdir(folder);
        claim(entry != NULL && strcmp(entry->d_name, name) == 0, "back to a place");
        rewinddir(folder);
        claim(readdir(folder) != NULL, "and to the beginning");
    }
    closedir(folder);
    for (int i = 0; i < 40; i++) {
        snprintf(path, sizeof(path), "/tmp/many/%d", i);
        claim(unlink(path) == 0, path);
    }
    claim(rmdir("/tmp/many") == 0, "nothing is left");
}

static void links(void)
{
    struct stat status;
    char target[16] = "";
    put("/tmp/a", "a");
    claim(link("/tmp/a", "/tmp/b") == 0 && stat("/tmp/b", &status) == 0 && status.st_nlink == 2,
          "a second name");
    claim(unlink("/tmp/a") == 0 && holds("/tmp/b", "a"), "the first one goes");
    claim(symlink("b", "/tmp/s") == 0 && holds("/tmp/s", "a"), "a link is followed");
    claim(readlink("/tmp/s", target, sizeof(target)) == 1 && target[0] == 'b', "readlink");
    claim(lstat("/tmp/s", &status) == 0 && S_ISLNK(status.st_mode), "lstat");
    claim(open("/tmp/s", O_RDONLY | O_NOFOLLOW) == -1 && errno == ELOOP, "nofollow");
    claim(symlink("loop", "/tmp/loop") == 0 && open("/tmp/loop", O_RDONLY) == -1 && errno == ELOOP,
          "a loop");
    claim(symlink("../x", "/tmp/out") == 0 && open("/tmp/out", O_RDONLY) == -1 && errno == EPERM,
          "a link out");
    claim(symlink("/tmp/b", "/tmp/abs") == -1 && errno == EPERM, "an absolute link");
    claim(symlink("new", "/tmp/dangling") == 0, "a dangling link");
    put("/tmp/dangling", "n");
    claim(holds("/tmp/new", "n"), "made through a link");
    const char *all[] = {"b", "s", "loop", "out", "dangling", "new"};
    for (int i = 0; i < 6; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/tmp/%s", all[i]);
        claim(unlink(path) == 0, path);
    }
}

/* With a '/' behind it a link to a folder is asked as that, but moved or removed it is a link. */
static void slashes(void)
{
    uint8_t bytes[16];
    __wasi_size_t used = 0;
    __wasi_filestat_t status;
    claim(__wasi_path_create_directory(tmp, "d//") == 0, "slashes behind a new folder");
    claim(__wasi_path_symlink("d", tmp, "s") == 0, "a link to it");
    claim(__wasi_path_filestat_get(tmp, 0, "s/", &status) == 0 &&
              status.filetype == __WASI_FILETYPE_DIRECTORY,
          "asked as a folder");
    claim(__wasi_path_readlink(tmp, "s/", bytes, sizeof(bytes), &used) == __WASI_ERRNO_INVAL,
          "which is no link");
    claim(__wasi_path_remove_directory(tmp, "s/") == __WASI_ERRNO_NOTDIR, "not removed");
    claim(__wasi_path_unlink_file(tmp, "s/") == __WASI_ERRNO_NOTDIR, "not unlinked");
    claim(__wasi_path_rename(tmp, "s/", tmp, "x") == __WASI_ERRNO_NOTDIR, "not moved");
    claim(__wasi_path_create_directory(tmp, "s/") == __WASI_ERRNO_EXIST, "not made again");
    claim(__wasi_path_link(tmp, 0, "none/", tmp, "x") == __WASI_ERRNO_NOENT, "nothing to link");
    claim(__wasi_path_link(tmp, 0, "d", tmp, "s") == __WASI_ERRNO_EXIST, "a name that is taken");
    claim(__wasi_path_unlink_file(tmp, "s") == 0 && __wasi_path_remove_directory(tmp, "d") == 0,
          "both were left");
}

static __wasi_errno_t open_at(int fd, const char *path, __wasi_oflags_t flags, uint64_t base,
                              uint64_t inheriting, __wasi_fd_t *ret)
{
    return __wasi_path_open(fd, 0, path, flags, base, inheriting, 0, ret);
}

static void rights(void)
{
    __wasi_fd_t fd;
    __wasi_fd_t file;
    __wasi_fdstat_t stat;
    __wasi_filesize_t position;
    const uint64_t folder_rights = __WASI_RIGHTS_PATH_OPEN | __WASI_RIGHTS_PATH_CREATE_FILE;
    claim(mkdir("/tmp/r", 0777) == 0, "mkdir");
    claim(open_at(tmp, "r", __WASI_OFLAGS_DIRECTORY, folder_rights, __WASI_RIGHTS_FD_READ, &fd) ==
              0,
          "narrow");
    claim(open_at(fd, "f", __WASI_OFLAGS_CREAT, __WASI_RIGHTS_FD_READ, 0, &file) == 0,
          "with the right");
    claim(__wasi_fd_fdstat_get(file, &stat) == 0 && stat.fs_rights_base == __WASI_RIGHTS_FD_READ,
          "only it");
    claim(__wasi_fd_seek(file, 0, __WASI_WHENCE_SET, &position) == __WASI_ERRNO_NOTCAPABLE,
          "no seek");
    claim(__wasi_fd_fdstat_set_rights(file, __WASI_RIGHTS_FD_WRITE, 0) == __WASI_ERRNO_NOTCAPABLE,
          "no more");
    claim(__wasi_fd_fdstat_set_rights(file, 0, 0) == 0, "less");
    claim(__wasi_fd_close(file) == 0, "close");
    claim(open_at(fd, "f", 0, __WASI_RIGHTS_FD_WRITE, 0, &file) == __WASI_ERRNO_NOTCAPABLE,
          "not inherited");
    claim(__wasi_path_unlink_file(fd, "f") == __WASI_ERRNO_NOTCAPABLE, "not its right");
    claim(open_at(fd, "../x", 0, 0, 0, &file) == __WASI_ERRNO_PERM, "above");
    claim(open_at(fd, "/tmp/r/f", 0, 0, 0, &file) == __WASI_ERRNO_PERM, "absolute");
    claim(open_at(fd, "f/", 0, 0, 0, &file) == __WASI_ERRNO_NOTDIR, "a slash behind");
    claim(open_at(fd, "", 0, 0, 0, &file) == __WASI_ERRNO_NOENT, "no path");
    claim(open_at(99, "f", 0, 0, 0, &file) == __WASI_ERRNO_BADF, "no descriptor");
    claim(open_at(1, "f", 0, 0, 0, &file) == __WASI_ERRNO_NOTDIR, "below a stream");
    claim(open_at(fd, "f", __WASI_OFLAGS_TRUNC, 0, 0, &file) == __WASI_ERRNO_PERM, "no truncating");
    claim(__wasi_fd_seek(fd, 0, __WASI_WHENCE_CUR, &position) == __WASI_ERRNO_BADF &&
              __wasi_fd_tell(fd, &position) == __WASI_ERRNO_BADF,
          "a folder has no position");
    claim(open_at(tmp, "r", __WASI_OFLAGS_DIRECTORY, __WASI_RIGHTS_FD_WRITE, 0, &file) ==
              __WASI_ERRNO_ISDIR,
          "no folder is opened for writing");
    claim(open_at(fd, "f", 0, __WASI_RIGHTS_FD_READ, 0, &file) == 0, "open");
    claim(__wasi_fd_renumber(file, fd) == 0 && __wasi_fd_close(file) == __WASI_ERRNO_BADF,
          "renumber");
    claim(__wasi_fd_renumber(fd, 500) == __WASI_ERRNO_BADF && __wasi_fd_close(fd) == 0,
          "to what is open");
    claim(unlink("/tmp/r/f") == 0 && rmdir("/tmp/r") == 0, "removed");
    char name[300];
    memset(name, 'n', sizeof(name) - 1);
    name[299] = '\0';
    claim(open_at(tmp, name, __WASI_OFLAGS_CREAT, 0, 0, &file) == __WASI_ERRNO_NAMETOOLONG,
          "a long name");
    claim(open_at(tmp, "\xff", __WASI_OFLAGS_CREAT, 0, 0, &file) == __WASI_ERRNO_ILSEQ,
          "not UTF-8");
    __wasi_prestat_t prestat;
    claim(__wasi_fd_prestat_get(tmp, &prestat) == 0 && prestat.u.dir.pr_name_len == 4, "preopened");
    uint8_t small[2];
    claim(__wasi_fd_prestat_dir_name(tmp, small, 2) == __WASI_ERRNO_NAMETOOLONG, "no room for it");
    claim(__wasi_path_filestat_set_times(tmp, 0, ".", 0, 0, 3) == __WASI_ERRNO_INVAL,
          "two times at once");
    __wasi_iovec_t room = {small, sizeof(small)};
    __wasi_ciovec_t bytes = {small, sizeof(small)};
    __wasi_size_t count;
    __wasi_roflags_t flags;
    claim(__wasi_sock_shutdown(1, 1) == __WASI_ERRNO_NOTSOCK &&
              __wasi_sock_recv(0, &room, 1, 0, &count, &flags) == __WASI_ERRNO_NOTSOCK &&
              __wasi_sock_send(1, &bytes, 1, 0, &count) == __WASI_ERRNO_NOTSOCK,
          "no socket");
    claim(__wasi_sock_shutdown(99, 1) == __WASI_ERRNO_BADF &&
              __wasi_sock_send(99, &bytes, 1, 0, &count) == __WASI_ERRNO_BADF,
          "no descriptor to shut down");
}

static void held(void)
{
    char bytes[4] = "";
    int fd = open("/tmp/held", O_CREAT | O_RDWR, 0666);
    claim(write(fd, "abc", 3) == 3 && unlink("/tmp/held") == 0, "unlinked while open");
    claim(pread(fd, bytes, 3, 0) == 3 && memcmp(bytes, "abc", 3) == 0, "it lives on");
    claim(close(fd) == 0 && names_in("/tmp") == 0, "and goes");
}

static int fill(void)
{
    static char block[65536];
    long long total = 0;
    int fd = open("/tmp/full", O_CREAT | O_WRONLY, 0666);
    memset(block, 1, sizeof(block));
    for (;;) {
        ssize_t count = write(fd, block, sizeof(block));
        if (count <= 0) {
            break;
        }
        total += count;
    }
    printf("%lld KiB, %s\n", total / 1024, errno == ENOSPC ? "full" : strerror(errno));
    return 0;
}

int main(int argument_count, char **arguments)
{
    if (argument_count == 2 && strcmp(arguments[1], "full") == 0) {
        return fill();
    }
    has_root = argument_count != 2 || strcmp(arguments[1], "rootless") != 0;
    tmp = has_root ? 4 : 3;
    beginnings();
    plain_files();
    appending();
    large_file();
    folders();
    places();
    links();
    slashes();
    rights();
    held();
    put("/tmp/left", "for the next request?");
    if (failures == 0) {
        printf("fine\n");
    }
    return failures;
}
