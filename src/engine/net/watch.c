/*
 * Noticing that somebody has thrown the rules away: see rules.h.
 *
 * The kernel tells of each table that is deleted (nfnetlink, group NFTABLES).  Ours is deleted by
 * ourselves, too, in the transaction that makes it anew: so a deletion only makes us look, once it
 * is quiet again.
 */
#include <errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/net/datagram.h"
#include "engine/net/rules.h"

enum { QUIET_MS = 200, EVENT_BYTES = 32 << 10, PER_TURN_MAX = 64 };

struct net_rules_watch {
    struct loop *loop;
    struct datagram_watch *watch;
    struct loop_timer *timer;
    char owner[NET_OWNER_SIZE];
    char table[NET_OWNER_SIZE];
    void (*on_lost)(void *context);
    void *context;
    bool is_looking; /* on a thread of the pool */
    bool is_there;
    bool is_closed; /* while it looked */
};

static void look(void *context)
{
    struct net_rules_watch *watch = context;
    watch->is_there = net_rules_are_there(watch->owner);
}

static void on_looked(void *context)
{
    struct net_rules_watch *watch = context;
    watch->is_looking = false;
    if (watch->is_closed) {
        free(watch);
    } else if (!watch->is_there) {
        watch->on_lost(watch->context);
    }
}

static void on_quiet(void *context)
{
    struct net_rules_watch *watch = context;
    if (watch->is_looking) {
        loop_timer_start(watch->timer, QUIET_MS);
        return;
    }
    watch->is_looking = true;
    loop_work(watch->loop, look, on_looked, watch);
}

static bool is_deletion(const struct net_rules_watch *watch, struct nlmsghdr *message)
{
    struct nlattr *fields[NFTA_TABLE_MAX + 1] = {0};
    return message->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_DELTABLE) &&
        nlmsg_parse(message, sizeof(struct nfgenmsg), fields, NFTA_TABLE_MAX, NULL) >= 0 &&
        fields[NFTA_TABLE_NAME] != NULL && nla_strcmp(fields[NFTA_TABLE_NAME], watch->table) == 0;
}

static bool has_deletion(const struct net_rules_watch *watch, void *bytes, int length)
{
    struct nlmsghdr *message = bytes;
    for (; nlmsg_ok(message, length); message = nlmsg_next(message, &length)) {
        if (is_deletion(watch, message)) {
            return true;
        }
    }
    return false;
}

static void on_readable(int fd, void *context)
{
    struct net_rules_watch *watch = context;
    _Alignas(struct nlmsghdr) static uint8_t bytes[EVENT_BYTES]; /* of the loop's thread */
    for (int i = 0; i < PER_TURN_MAX; i++) {
        ssize_t got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        bool was_missed = got < 0 && errno == ENOBUFS; /* more than the socket could hold */
        if (got < 0 && !was_missed) {
            return;
        }
        if (was_missed || has_deletion(watch, bytes, (int)got)) {
            loop_timer_start(watch->timer, QUIET_MS);
        }
    }
}

int net_rules_watch(struct loop *loop, const char *owner, void (*on_lost)(void *context),
                    void *context, struct net_rules_watch **ret_watch, struct error *err)
{
    const struct sockaddr_nl at = {.nl_family = AF_NETLINK,
                                   .nl_groups = 1U << (NFNLGRP_NFTABLES - 1)};
    FD_OWNED int fd =
        socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_NETFILTER);
    if (fd < 0 || bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0) {
        return error_os(err, errno, "watching the packet filter");
    }
    struct net_rules_watch *watch = NEW(struct net_rules_watch);
    watch->loop = loop;
    watch->on_lost = on_lost;
    watch->context = context;
    snprintf(watch->owner, sizeof(watch->owner), "%s", owner);
    net_rules_table_name(owner, watch->table);
    watch->timer = loop_timer_new(loop, on_quiet, watch);
    watch->watch = datagram_watch(loop, fd_take(&fd), on_readable, watch);
    *ret_watch = watch;
    return 0;
}

void net_rules_unwatch(struct net_rules_watch *watch)
{
    if (watch == NULL) {
        return;
    }
    datagram_unwatch(watch->watch);
    loop_timer_free(watch->timer);
    watch->is_closed = true;
    if (!watch->is_looking) {
        free(watch);
    }
}
