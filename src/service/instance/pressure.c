/* See pressure.h. */
#include "service/instance/pressure.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"

enum { FILE_MAX = 65536 };

enum pool_pressure pressure_judge(const struct pressure_facts *facts)
{
    uint64_t left =
        facts->total_bytes > 0 ? facts->available_bytes / (facts->total_bytes / 1000 + 1) : 1000;
    if (left < 50) {
        return POOL_PRESSURE_HIGH;
    }
    bool is_stalled = facts->stalled_permille >= 200 && left < 250;
    return left < 100 || is_stalled ? POOL_PRESSURE_SOME : POOL_PRESSURE_NONE;
}

static uint64_t kibibytes_of(const char *text, const char *name)
{
    const char *at = strstr(text, name);
    uint64_t value = 0;
    return at != NULL && sscanf(at + strlen(name), " %" SCNu64, &value) == 1 ? value : 0;
}

/* A limit of the cgroup is as good as the machine's end. */
static void read_cgroup(struct pressure_facts *facts)
{
    BUFFER_OWNED struct buffer max = {0};
    BUFFER_OWNED struct buffer now = {0};
    struct error ignored = {0};
    uint64_t limit = 0;
    uint64_t used = 0;
    if (file_read("/sys/fs/cgroup/memory.max", FILE_MAX, &max, &ignored) == 0 &&
        file_read("/sys/fs/cgroup/memory.current", FILE_MAX, &now, &ignored) == 0 &&
        sscanf(buffer_string(&max), "%" SCNu64, &limit) == 1 &&
        sscanf(buffer_string(&now), "%" SCNu64, &used) == 1 && limit < facts->total_bytes) {
        facts->total_bytes = limit;
        uint64_t left = used < limit ? limit - used : 0;
        facts->available_bytes = left < facts->available_bytes ? left : facts->available_bytes;
    }
}

void pressure_read(struct pressure_facts *ret_facts)
{
    BUFFER_OWNED struct buffer memory = {0};
    BUFFER_OWNED struct buffer stalls = {0};
    struct error ignored = {0};
    unsigned whole = 0;
    unsigned hundredths = 0;
    *ret_facts = (struct pressure_facts){0};
    if (file_read("/proc/meminfo", FILE_MAX, &memory, &ignored) < 0) {
        return;
    }
    ret_facts->total_bytes = kibibytes_of(buffer_string(&memory), "MemTotal:") << 10;
    ret_facts->available_bytes = kibibytes_of(buffer_string(&memory), "MemAvailable:") << 10;
    if (file_read("/proc/pressure/memory", FILE_MAX, &stalls, &ignored) == 0 &&
        sscanf(buffer_string(&stalls), "some avg10=%u.%u", &whole, &hundredths) == 2) {
        ret_facts->stalled_permille = (uint64_t)whole * 10 + hundredths / 10;
    }
    read_cgroup(ret_facts);
}
