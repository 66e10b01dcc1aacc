/* What the machine is, and how it is: from /proc, /sys and statvfs(3). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/version.h"

#include "guest/agent/private.h"

enum { FILE_MAX = 1 << 20, SECTOR = 512, DISKS_MAX = 32, MOUNTED_MAX = 32, LINKS_MAX = 32 };

void read_file(const char *path, struct buffer *ret_bytes)
{
    struct error error = {0};
    if (file_read(path, FILE_MAX, ret_bytes, &error) < 0) {
        buffer_clear(ret_bytes);
    }
}

void read_line(const char *path, char *ret_text, size_t size)
{
    ret_text[0] = '\0';
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, ret_text, size - 1) : 0;
    ret_text[got > 0 ? got : 0] = '\0';
    ret_text[strcspn(ret_text, "\n")] = '\0';
}

static uint64_t read_number(const char *path)
{
    char text[64];
    read_line(path, text, sizeof(text));
    return strtoull(text, NULL, 10);
}

static uint64_t uptime_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int info_put(struct buffer *answer, uint64_t nonce, unsigned spoken)
{
    struct utsname names = {0};
    struct timespec now;
    char boot_id[64];
    uname(&names);
    clock_gettime(CLOCK_REALTIME, &now);
    read_line("/proc/sys/kernel/random/boot_id", boot_id, sizeof(boot_id));
    agent_put_number(answer, AGENT_NONCE, nonce);
    agent_put_number(answer, AGENT_SPOKEN, spoken);
    agent_put_text(answer, AGENT_PROGRAM, blixard_version);
    agent_put_text(answer, AGENT_KERNEL, names.release);
    agent_put_text(answer, AGENT_MACHINE, names.machine);
    agent_put_text(answer, AGENT_HOSTNAME, names.nodename);
    agent_put_text(answer, AGENT_BOOT_ID, boot_id);
    agent_put_number(answer, AGENT_INIT, atomic_load(&shared->init));
    agent_put_text(answer, AGENT_PROBLEM, shared->problem);
    agent_put_number(answer, AGENT_UPTIME_MS, uptime_ms());
    agent_put_number(answer, AGENT_TIME_NS,
                     (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
    return 0;
}

/* ---- Metrics ---- */

static void put_cpu(struct buffer *answer)
{
    static const enum agent_tag tags[] = {AGENT_CPU_USER,    AGENT_CPU_NICE,   AGENT_CPU_SYSTEM,
                                          AGENT_CPU_IDLE,    AGENT_CPU_IOWAIT, AGENT_CPU_IRQ,
                                          AGENT_CPU_SOFTIRQ, AGENT_CPU_STEAL};
    char line[512];
    long ticks = sysconf(_SC_CLK_TCK);
    read_line("/proc/stat", line, sizeof(line));
    size_t begin = agent_put_begin(answer, AGENT_CPU);
    char *at = line + strcspn(line, " ");
    for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]) && *at != '\0'; i++) {
        uint64_t value = strtoull(at, &at, 10);
        agent_put_number(answer, tags[i], value * 1000 / (uint64_t)(ticks > 0 ? ticks : 100));
    }
    agent_put_number(answer, AGENT_CPU_COUNT, (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
    agent_put_end(answer, begin);
}

static void put_memory(struct buffer *answer)
{
    static const struct {
        const char *name;
        enum agent_tag tag;
    } rows[] = {{"MemTotal:", AGENT_MEMORY_TOTAL},         {"MemFree:", AGENT_MEMORY_FREE},
                {"MemAvailable:", AGENT_MEMORY_AVAILABLE}, {"Cached:", AGENT_MEMORY_CACHED},
                {"SwapTotal:", AGENT_SWAP_TOTAL},          {"SwapFree:", AGENT_SWAP_FREE}};
    BUFFER_OWNED struct buffer bytes = {0};
    char *rest = NULL;
    read_file("/proc/meminfo", &bytes);
    buffer_append_byte(&bytes, 0);
    for (char *line = strtok_r((char *)bytes.data, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            size_t length = strlen(rows[i].name);
            if (strncmp(line, rows[i].name, length) == 0) {
                agent_put_number(answer, rows[i].tag, strtoull(line + length, NULL, 10) * 1024);
            }
        }
    }
}

static void put_disks(struct buffer *answer)
{
    BUFFER_OWNED struct buffer bytes = {0};
    char *rest = NULL;
    unsigned count = 0;
    read_file("/proc/diskstats", &bytes);
    buffer_append_byte(&bytes, 0);
    for (char *line = strtok_r((char *)bytes.data, "\n", &rest); line != NULL && count < DISKS_MAX;
         line = strtok_r(NULL, "\n", &rest)) {
        unsigned long long reads = 0, read_sectors = 0, writes = 0, write_sectors = 0;
        char name[32];
        char path[128];
        char serial[64];
        if (sscanf(line, "%*u %*u %31s %llu %*u %llu %*u %llu %*u %llu", name, &reads,
                   &read_sectors, &writes, &write_sectors) != 5) {
            continue;
        }
        snprintf(path, sizeof(path), "/sys/block/%s/size", name);
        uint64_t size = read_number(path) * SECTOR;
        if (size == 0) { /* a partition, an empty loop device */
            continue;
        }
        snprintf(path, sizeof(path), "/sys/block/%s/serial", name);
        read_line(path, serial, sizeof(serial));
        size_t begin = agent_put_begin(answer, AGENT_DISK);
        agent_put_text(answer, AGENT_NAME, name);
        agent_put_text(answer, AGENT_SERIAL, serial);
        agent_put_number(answer, AGENT_SIZE, size);
        agent_put_number(answer, AGENT_READ_OPERATIONS, reads);
        agent_put_number(answer, AGENT_READ_BYTES, read_sectors * SECTOR);
        agent_put_number(answer, AGENT_WRITE_OPERATIONS, writes);
        agent_put_number(answer, AGENT_WRITE_BYTES, write_sectors * SECTOR);
        agent_put_end(answer, begin);
        count++;
    }
}

struct mounts {
    struct buffer *answer;
    unsigned count;
};

/* Those of disks, and what is made of them; a network's file system that hangs would hang us. */
static bool put_mounted(const struct mounted *mounted, void *context)
{
    struct mounts *mounts = context;
    bool is_root = strcmp(mounted->path, "/") == 0;
    struct statvfs status;
    if (!(mounted->is_disk || is_root) || statvfs(mounted->path, &status) < 0) {
        return true;
    }
    size_t begin = agent_put_begin(mounts->answer, AGENT_MOUNTED);
    agent_put_text(mounts->answer, AGENT_PATH, mounted->path);
    agent_put_text(mounts->answer, AGENT_SOURCE, mounted->source);
    agent_put_text(mounts->answer, AGENT_FILE_SYSTEM, mounted->file_system);
    agent_put_number(mounts->answer, AGENT_SIZE, (uint64_t)status.f_blocks * status.f_frsize);
    agent_put_number(mounts->answer, AGENT_SIZE_AVAILABLE,
                     (uint64_t)status.f_bavail * status.f_frsize);
    agent_put_number(mounts->answer, AGENT_INODES, status.f_files);
    agent_put_number(mounts->answer, AGENT_INODES_AVAILABLE, status.f_favail);
    agent_put_end(mounts->answer, begin);
    return ++mounts->count < MOUNTED_MAX;
}

static uint64_t statistic(const char *link, const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "/sys/class/net/%s/statistics/%s", link, name);
    return read_number(path);
}

static void put_link(struct buffer *answer, const char *name)
{
    static const struct {
        const char *name;
        enum agent_tag tag;
    } rows[] = {{"rx_bytes", AGENT_RECEIVED_BYTES},     {"rx_packets", AGENT_RECEIVED_PACKETS},
                {"rx_dropped", AGENT_RECEIVED_DROPPED}, {"tx_bytes", AGENT_SENT_BYTES},
                {"tx_packets", AGENT_SENT_PACKETS},     {"tx_dropped", AGENT_SENT_DROPPED}};
    char path[512];
    char text[64];
    unsigned mac[6] = {0};
    uint8_t bytes[6];
    snprintf(path, sizeof(path), "/sys/class/net/%s/address", name);
    read_line(path, text, sizeof(text));
    sscanf(text, "%x:%x:%x:%x:%x:%x", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]);
    for (int i = 0; i < 6; i++) {
        bytes[i] = (uint8_t)mac[i];
    }
    size_t begin = agent_put_begin(answer, AGENT_LINK);
    agent_put_text(answer, AGENT_NAME, name);
    agent_put_bytes(answer, AGENT_MAC, bytes, sizeof(bytes));
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        agent_put_number(answer, rows[i].tag, statistic(name, rows[i].name));
    }
    agent_put_end(answer, begin);
}

static void put_links(struct buffer *answer)
{
    DIR *folder = opendir("/sys/class/net");
    unsigned count = 0;
    const struct dirent *entry = NULL;
    while (folder != NULL && count < LINKS_MAX && (entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] != '.') {
            put_link(answer, entry->d_name);
            count++;
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

int metrics_put(struct buffer *answer)
{
    struct sysinfo info = {0};
    struct mounts mounts = {.answer = answer};
    sysinfo(&info);
    agent_put_number(answer, AGENT_UPTIME_MS, uptime_ms());
    agent_put_number(answer, AGENT_PROCESSES, info.procs);
    agent_put_number(answer, AGENT_LOAD_1, info.loads[0] * 1000 >> SI_LOAD_SHIFT);
    agent_put_number(answer, AGENT_LOAD_5, info.loads[1] * 1000 >> SI_LOAD_SHIFT);
    agent_put_number(answer, AGENT_LOAD_15, info.loads[2] * 1000 >> SI_LOAD_SHIFT);
    put_cpu(answer);
    put_memory(answer);
    put_disks(answer);
    mounted_each(put_mounted, &mounts);
    put_links(answer);
    return 0;
}
