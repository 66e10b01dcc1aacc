/* What networks of machines can be had here: tried out, where nobody sees it.  See net.h. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/process.h"

#include "engine/net/netlink.h"
#include "engine/net/rules.h"

enum { MODPROBE_MS_MAX = 10000 };

static const uint8_t gateway[NET_MAC_SIZE] = {2, 0, 0, 0, 0, 1};

/* The first that fails is the one that is told. */
static bool succeeded(struct net_probe *probe, int r, const struct error *err)
{
    if (r < 0 && probe->problem[0] == '\0') {
        snprintf(probe->problem, sizeof(probe->problem), "%.250s", err->text);
    }
    return r == 0;
}

/* Only whether it could be loaded: that is done when it is needed. */
static bool could_load_filter(void)
{
    struct error err = {0};
    struct process_result result = {0};
    static const char *const argv[] = {"modprobe", "--dry-run", "br_netfilter", NULL};
    const struct process_options options = {.argv = argv, .timeout_ms = MODPROBE_MS_MAX};
    return file_exists("/proc/sys/net/bridge/bridge-nf-call-iptables") ||
        (process_run(&options, NULL, NULL, &result, &err) == 0 && result.exit_code == 0);
}

static void try_all(struct net_probe *probe)
{
    struct error err = {0};
    const struct net_bridge bridge = {
        .owner = NET_OWNER, .name = "bx", .mac = gateway, .address = 0x0a000001, .prefix = 24};
    const struct net_tap tap = {.owner = NET_OWNER, .name = "bxt", .bridge = "bx"};
    const struct net_vxlan vxlan = {
        .owner = NET_OWNER, .name = "bxv", .bridge = "bx", .vni = 1, .local = 0x0a000001};
    const struct net_segment segment = {
        .bridge = "bx", .vxlan = "bxv", .mac = gateway, .address = 0x0a000001, .prefix = 24};
    const struct net_port port = {
        .tap = "bxt", .mac = {2, 0, 0, 0, 0, 2}, .address = 0x0a000002, .has_ingress = true};
    const struct net_published published = {.host_port = 80, .address = 0x0a000002, .port = 80};
    const struct net_rules rules = {.owner = NET_OWNER,
                                    .segments = &segment,
                                    .segment_count = 1,
                                    .ports = &port,
                                    .port_count = 1,
                                    .published = &published,
                                    .published_count = 1};
    probe->can_link = succeeded(probe, net_bridge_ensure(&bridge, &err), &err);
    probe->can_tap = succeeded(probe, net_tap_ensure(&tap, &err), &err);
    probe->can_rules = succeeded(probe, net_rules_apply(&rules, &err), &err);
    probe->can_vxlan = succeeded(probe, net_vxlan_ensure(&vxlan, &err), &err);
}

static void *in_a_thread(void *context)
{
    struct net_probe *probe = context;
    struct error err = {0};
    if (unshare(CLONE_NEWNET) < 0) {
        succeeded(probe, netlink_error(errno, &err, "a network namespace"), &err);
        return NULL;
    }
    try_all(probe);
    return NULL;
}

void net_probe(struct net_probe *ret_probe)
{
    pthread_t thread;
    struct error err = {0};
    *ret_probe = (struct net_probe){.has_vhost = access("/dev/vhost-net", R_OK | W_OK) == 0};
    int number = pthread_create(&thread, NULL, in_a_thread, ret_probe);
    if (number != 0) {
        succeeded(ret_probe, error_os(&err, number, "starting a thread"), &err);
        return;
    }
    pthread_join(thread, NULL);
    if (ret_probe->can_rules) {
        net_rules_find_foreign(ret_probe->conflict, sizeof(ret_probe->conflict));
    }
    if (ret_probe->can_link) {
        ret_probe->can_filter = could_load_filter();
        if (!ret_probe->can_filter) {
            succeeded(ret_probe,
                      error_set(&err, ERROR_UNSUPPORTED,
                                "rules between machines of one network need the kernel module "
                                "br_netfilter, which is not here"),
                      &err);
        }
    }
}
