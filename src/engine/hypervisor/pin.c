/* On which CPUs a VMM runs: see hypervisor.h. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"

#include "engine/hypervisor/driver.h"
#include "engine/hypervisor/launch.h"

enum { STATUS_BYTES_MAX = 16384 };

int hypervisor_pin(const char *folder, const char *cpus, const char **ret_how, struct error *err)
{
    enum jail_pin how = JAIL_PIN_THREADS;
    pid_t pid = 0;
    const char *name = strrchr(folder, '/');
    if (!launch_is_alive(folder, NULL, &pid) || pid <= 1) {
        return error_set(err, ERROR_NOT_FOUND, "no VMM runs in %s", folder);
    }
    int r = jail_pin(name != NULL ? name + 1 : folder, pid, cpus, &how, err);
    if (r == 0) {
        *ret_how = how == JAIL_PIN_GROUP ? "cpuset" : "affinity";
    }
    return r;
}

bool hypervisor_read_cpus(const char *folder, char *ret_cpus, size_t size)
{
    static const char key[] = "Cpus_allowed_list:";
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    char path[64];
    pid_t pid = 0;
    if (!launch_is_alive(folder, NULL, &pid) || pid <= 0) {
        return false;
    }
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    if (file_read(path, STATUS_BYTES_MAX, &text, &ignored) < 0) {
        return false;
    }
    const char *line = strstr(buffer_string(&text), key);
    if (line == NULL) {
        return false;
    }
    line += strlen(key);
    line += strspn(line, " \t");
    snprintf(ret_cpus, size, "%.*s", (int)strcspn(line, "\n"), line);
    return true;
}
