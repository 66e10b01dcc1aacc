/* The daemon's life: its parts start, it runs until it is told to end, they stop. */
#include "main/daemon.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/version.h"

#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/gateway/gateway.h"
#include "service/nix/nix.h"

#include "surface/api/api.h"

#include "main/subsystems.h"

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

void daemon_notify(const char *state)
{
#ifdef HAVE_SYSTEMD
    sd_notify(0, state);
#else
    (void)state;
#endif
}

/*
 * The loop says that it goes round, twice in the time after which systemd takes it for hung
 * (sd_watchdog_enabled(3)).  Before it goes round nobody expects that: the time runs from READY=1.
 */
static void on_round(void *context)
{
    struct node *node = context;
    daemon_notify("WATCHDOG=1");
    loop_timer_start(node->watchdog, node->watchdog_ms);
}

static void watch_rounds(struct node *node)
{
#ifdef HAVE_SYSTEMD
    uint64_t usec = 0;
    if (sd_watchdog_enabled(0, &usec) > 0) {
        node->watchdog_ms = usec / 2000 > 0 ? usec / 2000 : 1;
        node->watchdog = loop_timer_new(node->loop, on_round, node);
        on_round(node);
    }
#else
    (void)on_round;
    (void)node;
#endif
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct node *node = signal->data;
    if (node->stopping) {
        log_warn("a second signal: ending at once");
        _exit(128 + number);
    }
    node->stopping = true;
    log_info("stopping (%s)",
             number == SIGINT       ? "interrupt"
                 : number == SIGHUP ? "the terminal is gone"
                                    : "terminate");
    if (node->store == NULL) {
        _exit(128 + number); /* nothing has begun: there is nothing to bring to its end */
    }
    daemon_notify("STOPPING=1");
    if (node->api != NULL) {
        api_set_ready(node->api, "the node is shutting down");
    }
    loop_stop(node->loop);
}

static void on_hang_up(uv_signal_t *signal, int number)
{
    struct node *node = signal->data;
    (void)number;
    if (node->is_running) {
        gateway_reload(node->gateway);
        nix_reload(node->nix);
    }
}

/* A daemon reads its certificate anew when it is told SIGHUP; a node in a terminal ends with it. */
static void watch_signals(struct node *node)
{
    static const int numbers[3] = {SIGTERM, SIGINT, SIGHUP};
    for (int i = 0; i < 3; i++) {
        bool is_reload = numbers[i] == SIGHUP && !node->is_dev;
        uv_signal_init(loop_uv(node->loop), &node->signals[i]);
        node->signals[i].data = node;
        uv_signal_start(&node->signals[i], is_reload ? on_hang_up : on_signal, numbers[i]);
    }
}

static void unwatch_signals(struct node *node)
{
    for (int i = 0; i < 3; i++) {
        uv_close((uv_handle_t *)&node->signals[i], NULL);
    }
}

void daemon_greet(const struct node *node)
{
    bool is_secure = node->secure_text[0] != '\0';
    if (!node->is_dev) {
        bool is_member = cluster_is_member(node->cluster);
        log_info("node %s is ready: API http://%s, gateway http://%s%s%s, isolation %s%s%s",
                 node->name, node->api_text, node->gateway_text, is_secure ? " and https://" : "",
                 node->secure_text, vmm_isolation_text(node->isolation),
                 is_member ? ", cluster " : "", is_member ? cluster_name(node->cluster) : "");
        return;
    }
    printf("Blixard %s is ready.\n\n"
           "  API        http://%s\n"
           "  functions  http://%s/fn/NAME\n"
           "%s%s%s"
           "  isolation  %s%s%s\n"
           "  data       %s\n\n"
           "In another terminal:\n\n"
           "  blixard fn new hello --lang c\n"
           "  blixard fn deploy hello hello\n"
           "  blixard fn invoke hello --data world\n\n"
           "Ctrl-C stops the node.\n",
           blixard_version, node->api_text, node->gateway_text,
           is_secure ? "             https://" : "", node->secure_text,
           is_secure ? "/fn/NAME\n" : "", vmm_isolation_text(node->isolation),
           node->isolation == VMM_ISOLATION_MICROVM ? "" : ": ",
           node->isolation == VMM_ISOLATION_MICROVM ? "" : node->probe.kvm_reason, node->folder);
    fflush(stdout);
}

/* What makes it stop says why; whoever told it to need not be told. */
static int outcome(const struct node *node, int r, struct error *err)
{
    if (node->end.kind != ERROR_NONE) {
        *err = node->end;
        return -(int)err->kind;
    }
    return node->stopping ? 0 : r;
}

int daemon_run(struct node *node, struct error *err)
{
    size_t started = 0;
    int r = 0;
    watch_signals(node);
    watch_rounds(node);
    while (r == 0 && started < subsystem_count && !node->stopping) {
        r = subsystems[started].start(node, err);
        started += r == 0;
    }
    if (r == 0 && !node->stopping) {
        node->is_running = true;
        while (!node->stopping) {
            loop_run(node->loop); /* a stop that was meant for a wait before is none */
        }
        node->is_running = false;
        cluster_step_down(node->cluster);
    }
    if (node->store != NULL) {
        store_expect_end(node->store); /* what was asked, and has no leader, would hold it up */
    }
    while (started > 0) {
        started--;
        if (subsystems[started].stop != NULL) {
            subsystems[started].stop(node);
        }
    }
    unwatch_signals(node);
    loop_timer_free(node->watchdog);
    return outcome(node, r, err);
}
