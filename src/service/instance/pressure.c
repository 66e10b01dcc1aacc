/* See pressure.h. */
#include "service/instance/pressure.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

enum { FILE_MAX = 65536 };

static uint64_t permille_of(uint64_t available_bytes, uint64_t total_bytes)
{
    return total_bytes > 0 ? available_bytes / (total_bytes / 1000 + 1) : 1000;
}

enum pool_pressure pressure_judge(const struct pressure_facts *facts)
{
    uint64_t left = permille_of(facts->available_bytes, facts->total_bytes);
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

/* What a version of control groups calls it. */
struct names {
    const char *limit;
    const char *used;
    const char *reclaimable; /* of memory.stat: counted as used, and given back when it is wanted */
};

static bool read_number(const char *folder, const char *name, uint64_t *ret_value)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, name);
    return file_read(path, FILE_MAX, &text, &ignored) == 0 &&
        sscanf(buffer_string(&text), "%" SCNu64, ret_value) == 1;
}

static uint64_t read_reclaimable(const char *folder, const char *name)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    uint64_t value = 0;
    MEMORY_OWNED char *path = memory_format("%s/memory.stat", folder);
    if (file_read(path, FILE_MAX, &text, &ignored) < 0) {
        return 0;
    }
    for (const char *line = buffer_string(&text); line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (text_starts_with(line, name) && sscanf(line + strlen(name), " %" SCNu64, &value) == 1) {
            return value;
        }
    }
    return 0;
}

/* A limit of the group is as good as the machine's end. */
static void read_group(const char *folder, const struct names *names, uint64_t all_bytes,
                       struct pressure_facts *facts)
{
    uint64_t limit = 0;
    uint64_t used = 0;
    if (read_number(folder, names->limit, &limit) && read_number(folder, names->used, &used) &&
        limit < all_bytes) {
        uint64_t reclaimable = read_reclaimable(folder, names->reclaimable);
        used -= reclaimable < used ? reclaimable : used;
        uint64_t left = used < limit ? limit - used : 0;
        left = left < facts->available_bytes ? left : facts->available_bytes;
        if (permille_of(left, limit) < permille_of(facts->available_bytes, facts->total_bytes)) {
            facts->total_bytes = limit;
            facts->available_bytes = left;
        }
    }
}

void pressure_read_groups(const char *mounts, const char *own, struct pressure_facts *facts)
{
    static const struct names unified = {"memory.max", "memory.current", "inactive_file"};
    static const struct names legacy = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                        "total_inactive_file"};
    MEMORY_OWNED char *text = memory_copy_string(own);
    uint64_t all_bytes = facts->total_bytes;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        char *controllers = strchr(line, ':');
        char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL || path[1] != '/') {
            continue;
        }
        bool is_unified = path == controllers + 1;
        if (!is_unified && strncmp(controllers, ":memory:", 8) != 0) {
            continue;
        }
        const char *below = is_unified ? "" : "/memory";
        for (char *end = path + strlen(path); end != NULL; end = strrchr(path + 1, '/')) {
            *end = '\0';
            MEMORY_OWNED char *folder = memory_format("%s%s%s", mounts, below, path + 1);
            read_group(folder, is_unified ? &unified : &legacy, all_bytes, facts);
        }
    }
}

void pressure_read(struct pressure_facts *ret_facts)
{
    BUFFER_OWNED struct buffer memory = {0};
    BUFFER_OWNED struct buffer stalls = {0};
    BUFFER_OWNED struct buffer groups = {0};
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
    if (file_read("/proc/self/cgroup", FILE_MAX, &groups, &ignored) == 0) {
        pressure_read_groups("/sys/fs/cgroup", buffer_string(&groups), ret_facts);
    }
}
