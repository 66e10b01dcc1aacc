/* What a machine that was paused, restored or cloned lacks: the time, and randomness of its own. */
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "guest/agent/private.h"

int clock_set(struct agent_reader request, struct error *err)
{
    uint64_t time_ns = request_number(request, AGENT_TIME_NS, 0);
    const struct timespec time = {.tv_sec = (time_t)(time_ns / 1000000000),
                                  .tv_nsec = (long)(time_ns % 1000000000)};
    if (time_ns == 0) {
        return error_set(err, ERROR_INVALID, "no time is given");
    }
    return clock_settime(CLOCK_REALTIME, &time) == 0 ? 0 : fail_os(err, errno, "setting the clock");
}

int entropy_add(struct agent_reader request, struct error *err)
{
    enum { SEED_MAX = 4096 };
    uint32_t pool[2 + SEED_MAX / 4]; /* struct rand_pool_info */
    struct rand_pool_info *info = (struct rand_pool_info *)pool;
    struct agent_field field = {0};
    while (agent_next(&request, &field) && field.tag != AGENT_BYTES) {
    }
    if (field.tag != AGENT_BYTES || field.length == 0 || field.length > SEED_MAX) {
        return error_set(err, ERROR_INVALID, "entropy is 1 to %d bytes", SEED_MAX);
    }
    info->entropy_count = (int)field.length * 8;
    info->buf_size = (int)field.length;
    memcpy(info->buf, field.bytes, field.length);
    int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
    bool is_done = fd >= 0 && ioctl(fd, RNDADDENTROPY, pool) == 0 &&
        ioctl(fd, RNDRESEEDCRNG) == 0; /* not only when the next minute begins */
    int number = errno;
    if (fd >= 0) {
        close(fd);
    }
    return is_done ? 0 : fail_os(err, number, "adding entropy");
}
