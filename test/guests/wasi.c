/* Claims about WASI as a program sees it; prints what fails, or "fine". */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <wasi/api.h>

static int failures;

static void claim(int holds, const char *what)
{
    if (!holds) {
        printf("not so: %s\n", what);
        failures++;
    }
}

static void streams(void)
{
    claim(lseek(0, 0, SEEK_SET) == -1 && errno == ESPIPE, "input cannot seek");
    claim(lseek(7, 0, SEEK_SET) == -1 && errno == EBADF, "7 is not open");
    claim(write(0, "x", 1) == -1 && errno == EBADF, "input is not for writing");
    char byte;
    claim(read(1, &byte, 1) == -1 && errno == EBADF, "output is not for reading");
    claim(open("/etc/passwd", O_RDONLY) == -1 && errno == ENOENT, "nothing of the host is there");
    struct stat status;
    claim(fstat(1, &status) == 0 && S_ISCHR(status.st_mode), "output is a device");
    __wasi_prestat_t prestat;
    claim(__wasi_fd_prestat_get(3, &prestat) == 0, "/ is open");
    claim(__wasi_fd_prestat_get(5, &prestat) == __WASI_ERRNO_BADF, "/ and /tmp are all");
}

static void clocks(void)
{
    struct timespec before;
    struct timespec after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    struct timespec pause = {0, 2000000};
    claim(nanosleep(&pause, NULL) == 0, "nanosleep");
    clock_gettime(CLOCK_MONOTONIC, &after);
    long long passed =
        (after.tv_sec - before.tv_sec) * 1000000000ll + after.tv_nsec - before.tv_nsec;
    claim(passed >= 2000000 && passed < 5000000000ll, "sleeping takes its time");
    claim(time(NULL) > 1600000000, "it is after 2020");
    __wasi_timestamp_t now;
    claim(__wasi_clock_time_get(99, 0, &now) == __WASI_ERRNO_INVAL, "clock 99");
}

static void vectors(void)
{
    __wasi_size_t count = 0;
    __wasi_ciovec_t two[2] = {{(const uint8_t *)"", 0xffffffffu},
                              {(const uint8_t *)"", 0xffffffffu}};
    (void)two;
    claim(__wasi_fd_write(1, two, 1u << 30, &count) == __WASI_ERRNO_INVAL, "2^30 vectors");
    claim(__wasi_fd_write(1, two, 0, &count) == 0 && count == 0, "no vector");
}

int main(int argument_count, char **arguments)
{
    claim(argument_count == 2 && strcmp(arguments[1], "one") == 0, "arguments");
    claim(getenv("NAME") != NULL && strcmp(getenv("NAME"), "value") == 0, "environment");
    claim(getenv("LONG") != NULL && strlen(getenv("LONG")) == 60000, "a long variable");
    streams();
    clocks();
    vectors();
    if (failures == 0) {
        printf("fine\n");
    }
    return failures;
}
