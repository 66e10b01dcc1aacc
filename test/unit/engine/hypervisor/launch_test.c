/* A monitor and what it gives to its VMM: here a shell, which says what it finds open. */
#include "engine/hypervisor/launch.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/hypervisor/monitor.h"
#include "engine/net/net.h"

#include "test/lib/test.h"

static const uint8_t gateway[NET_MAC_SIZE] = {2, 0, 0, 0, 0, 1};

static void make_tap(void)
{
    struct error err = {0};
    const struct net_bridge bridge = {.owner = NET_OWNER, .name = "bx0", .mac = gateway};
    const struct net_tap tap = {.owner = NET_OWNER, .name = "bxt0", .bridge = "bx0"};
    if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0 || access("/dev/net/tun", R_OK | W_OK) < 0) {
        SKIP("needs root and /dev/net/tun");
    }
    if (net_bridge_ensure(&bridge, &err) < 0 || net_tap_ensure(&tap, &err) < 0) {
        SKIP(err.text);
    }
}

/* The daemon writes it; that the monitor is another program here starts nothing. */
static void write_order(const char *const *taps)
{
    static const char *const argv[] = {
        "/bin/sh", "-c",
        "cd /proc/self/fd; for n in *; do [ -e $n ] && echo \"fd $n=$(readlink $n)\"; done", NULL};
    static const char *const sockets[] = {"a.sock", NULL};
    static const struct launch_mount mounts[] = {{"/usr", false, NULL},
                                                 {"/bin", false, NULL},
                                                 {"/lib", false, NULL},
                                                 {"/lib64", false, NULL},
                                                 {"/proc", false, NULL}};
    struct error err = {0};
    const struct launch_order order = {.folder = test_folder(),
                                       .monitor = "/bin/true",
                                       .argv = argv,
                                       .sockets = sockets,
                                       .taps = taps,
                                       .mounts = mounts,
                                       .mount_count = 5};
    EXPECT(launch_start(&order, &err) == 0);
}

static int run_monitor(void)
{
    MEMORY_OWNED char *folder = memory_copy_string(test_folder());
    char name[] = "blixard-monitor";
    char *argv[] = {name, folder, NULL};
    return monitor_main(2, argv);
}

/* The monitor holds it as long as it lives. */
static void wait_for_end(void)
{
    MEMORY_OWNED char *path = memory_format("%s/" LAUNCH_LOCK, test_folder());
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    EXPECT(fd >= 0 && flock(fd, LOCK_SH) == 0);
}

TEST(launch, a_tap_is_open_for_the_vmm_and_nothing_else_of_the_monitor)
{
    static const char *const taps[] = {"bxt0", NULL};
    struct error err = {0};
    BUFFER_OWNED struct buffer said = {0};
    make_tap();
    write_order(taps);
    EXPECT(run_monitor() == 0);
    wait_for_end();
    MEMORY_OWNED char *log = memory_format("%s/" LAUNCH_CONSOLE, test_folder());
    EXPECT(!file_exists(log));
    MEMORY_OWNED char *path = memory_format("%s/console.log", test_folder());
    EXPECT(file_read(path, 4096, &said, &err) == 0);
    EXPECT(strstr(buffer_string(&said), "fd 3=socket:") != NULL);
    EXPECT(strstr(buffer_string(&said), "fd 7=/dev/net/tun") != NULL);
    EXPECT(strstr(buffer_string(&said), "fd 4=") == NULL);
    EXPECT(strstr(buffer_string(&said), "fd 8=") == NULL);
    EXPECT(strstr(buffer_string(&said), "fd 11=") == NULL);
    /* And it is free again. */
    FD_OWNED int fd = -1;
    EXPECT(net_tap_open("bxt0", &fd, &err) == 0);
}

TEST(launch, a_tap_that_is_not_there_is_the_reason)
{
    static const char *const taps[] = {"bxt9", NULL};
    make_tap();
    write_order(taps);
    EXPECT(run_monitor() == 1);
}
