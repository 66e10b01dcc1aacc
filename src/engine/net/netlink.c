/* Requests to the kernel about links: see netlink.h. */
#include "engine/net/netlink.h"

#include <errno.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

static int keep_number(struct sockaddr_nl *who, struct nlmsgerr *answer, void *context)
{
    struct netlink *netlink = context;
    (void)who;
    netlink->number = answer->error;
    return NL_STOP;
}

int netlink_open(struct netlink *netlink, struct error *err)
{
    netlink->number = 0;
    netlink->socket = nl_socket_alloc();
    CHECK(netlink->socket != NULL);
    int r = nl_connect(netlink->socket, NETLINK_ROUTE);
    if (r < 0) {
        nl_socket_free(netlink->socket);
        netlink->socket = NULL;
        return error_set(err, ERROR_OS, "rtnetlink: %s", nl_geterror(r));
    }
    nl_socket_set_msg_buf_size(netlink->socket, 64 << 10);
    nl_socket_modify_err_cb(netlink->socket, NL_CB_CUSTOM, keep_number, netlink);
    return 0;
}

void netlink_close(struct netlink *netlink)
{
    if (netlink->socket != NULL) {
        nl_socket_free(netlink->socket);
        netlink->socket = NULL;
    }
}

struct nl_msg *netlink_message(int type, int flags, const void *head, size_t head_size)
{
    struct nl_msg *message = nlmsg_alloc_simple(type, flags);
    CHECK(message != NULL);
    CHECK(nlmsg_append(message, (void *)(uintptr_t)head, head_size, NLMSG_ALIGNTO) == 0);
    return message;
}

/* What the library says of itself has no errno: an answer that cannot be read, memory. */
static int finish(struct netlink *netlink, int r)
{
    return netlink->number != 0 ? netlink->number : r < 0 ? -EPROTO : 0;
}

int netlink_send(struct netlink *netlink, struct nl_msg *owned_message)
{
    netlink->number = 0;
    return finish(netlink, nl_send_sync(netlink->socket, owned_message));
}

struct asking {
    void (*visit)(struct nlmsghdr *message, void *context);
    void *context;
};

static int visit_one(struct nl_msg *message, void *context)
{
    const struct asking *asking = context;
    asking->visit(nlmsg_hdr(message), asking->context);
    return NL_OK;
}

int netlink_ask(struct netlink *netlink, struct nl_msg *owned_message,
                void (*visit)(struct nlmsghdr *message, void *context), void *context)
{
    struct asking asking = {visit, context};
    bool is_dump = (nlmsg_hdr(owned_message)->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
    netlink->number = 0;
    nl_socket_modify_cb(netlink->socket, NL_CB_VALID, NL_CB_CUSTOM, visit_one, &asking);
    int r = nl_send_auto(netlink->socket, owned_message);
    r = r < 0 ? r : nl_recvmsgs_default(netlink->socket);
    if (r >= 0 && netlink->number == 0 && !is_dump) { /* the end of a dump is its acknowledgement */
        r = nl_wait_for_ack(netlink->socket);
    }
    nl_socket_modify_cb(netlink->socket, NL_CB_VALID, NL_CB_DEFAULT, NULL, NULL);
    nlmsg_free(owned_message);
    return finish(netlink, r);
}

int netlink_error(int number, struct error *err, const char *format, ...)
{
    char what[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof(what), format, arguments);
    va_end(arguments);
    number = number < 0 ? -number : number;
    switch (number) {
    case EPERM:
    case EACCES:
        return error_set(err, ERROR_DENIED,
                         "%s: networks of machines need root (CAP_NET_ADMIN); without it there is "
                         "user-mode networking",
                         what);
    case EOPNOTSUPP:
        return error_set(err, ERROR_UNSUPPORTED, "%s: this kernel does not have it", what);
    case ENODEV:
        return error_set(err, ERROR_NOT_FOUND, "%s: there is no such link", what);
    case EEXIST:
        return error_set(err, ERROR_EXISTS, "%s: there is one already", what);
    default:
        return error_os(err, number, "%s", what);
    }
}

/* ---- Links ---- */

static const struct nla_policy link_policy[IFLA_MAX + 1] = {
    [IFLA_IFNAME] = {.type = NLA_STRING}, [IFLA_IFALIAS] = {.type = NLA_STRING},
    [IFLA_MTU] = {.type = NLA_U32},       [IFLA_MASTER] = {.type = NLA_U32},
    [IFLA_GROUP] = {.type = NLA_U32},     [IFLA_LINKINFO] = {.type = NLA_NESTED},
    [IFLA_STATS64] = {.minlen = 64},
};

static void parse_vxlan(struct nlattr *data, struct link_seen *seen)
{
    struct nlattr *fields[IFLA_VXLAN_MAX + 1] = {0};
    if (nla_parse_nested(fields, IFLA_VXLAN_MAX, data, NULL) < 0) {
        return;
    }
    if (fields[IFLA_VXLAN_ID] != NULL) {
        seen->vni = nla_get_u32(fields[IFLA_VXLAN_ID]);
    }
    if (fields[IFLA_VXLAN_LOCAL] != NULL) {
        seen->local = __builtin_bswap32(nla_get_u32(fields[IFLA_VXLAN_LOCAL]));
    }
    if (fields[IFLA_VXLAN_PORT] != NULL) {
        seen->port = __builtin_bswap16(nla_get_u16(fields[IFLA_VXLAN_PORT]));
    }
}

static void parse_kind(struct nlattr *info, struct link_seen *seen)
{
    struct nlattr *fields[IFLA_INFO_MAX + 1] = {0};
    if (nla_parse_nested(fields, IFLA_INFO_MAX, info, NULL) < 0 || fields[IFLA_INFO_KIND] == NULL) {
        return;
    }
    nla_strlcpy(seen->kind, fields[IFLA_INFO_KIND], sizeof(seen->kind));
    if (strcmp(seen->kind, "vxlan") == 0 && fields[IFLA_INFO_DATA] != NULL) {
        parse_vxlan(fields[IFLA_INFO_DATA], seen);
    }
}

void netlink_parse_link(struct nlmsghdr *message, struct link_seen *ret_seen)
{
    struct nlattr *fields[IFLA_MAX + 1] = {0};
    const struct ifinfomsg *head = nlmsg_data(message);
    *ret_seen = (struct link_seen){0};
    if (message->nlmsg_type != RTM_NEWLINK ||
        nlmsg_parse(message, sizeof(*head), fields, IFLA_MAX,
                    (struct nla_policy *)(uintptr_t)link_policy) < 0) {
        return;
    }
    ret_seen->index = (unsigned)head->ifi_index;
    ret_seen->flags = head->ifi_flags;
    if (fields[IFLA_IFNAME] != NULL) {
        nla_strlcpy(ret_seen->name, fields[IFLA_IFNAME], sizeof(ret_seen->name));
    }
    if (fields[IFLA_IFALIAS] != NULL) {
        nla_strlcpy(ret_seen->alias, fields[IFLA_IFALIAS], sizeof(ret_seen->alias));
    }
    if (fields[IFLA_MTU] != NULL) {
        ret_seen->mtu = nla_get_u32(fields[IFLA_MTU]);
    }
    if (fields[IFLA_GROUP] != NULL) {
        ret_seen->group = nla_get_u32(fields[IFLA_GROUP]);
    }
    if (fields[IFLA_MASTER] != NULL) {
        ret_seen->master = nla_get_u32(fields[IFLA_MASTER]);
    }
    if (fields[IFLA_ADDRESS] != NULL && nla_len(fields[IFLA_ADDRESS]) == NET_MAC_SIZE) {
        memcpy(ret_seen->mac, nla_data(fields[IFLA_ADDRESS]), NET_MAC_SIZE);
    }
    if (fields[IFLA_LINKINFO] != NULL) {
        parse_kind(fields[IFLA_LINKINFO], ret_seen);
    }
    if (fields[IFLA_STATS64] != NULL) {
        struct rtnl_link_stats64 stats;
        memcpy(&stats, nla_data(fields[IFLA_STATS64]), 8 * sizeof(uint64_t));
        const uint64_t counters[6] = {stats.rx_bytes, stats.rx_packets, stats.rx_dropped,
                                      stats.tx_bytes, stats.tx_packets, stats.tx_dropped};
        memcpy(ret_seen->counters, counters, sizeof(counters));
    }
}

bool netlink_is_own(const struct link_seen *seen, const char *owner)
{
    return strcmp(seen->alias, owner) == 0 || (seen->alias[0] == '\0' && seen->group == LINK_GROUP);
}

struct nl_msg *netlink_begin(int flags, const char *name)
{
    struct ifinfomsg head = {.ifi_family = AF_UNSPEC};
    struct nl_msg *message = netlink_message(RTM_NEWLINK, flags, &head, sizeof(head));
    nla_put_string(message, IFLA_IFNAME, name);
    if ((flags & NLM_F_CREATE) != 0) {
        nla_put_u32(message, IFLA_GROUP, LINK_GROUP);
    }
    return message;
}

static void take_link(struct nlmsghdr *message, void *context)
{
    netlink_parse_link(message, context);
}

int netlink_find(struct netlink *netlink, const char *name, struct link_seen *ret_seen,
                 struct error *err)
{
    struct ifinfomsg head = {.ifi_family = AF_UNSPEC};
    struct link_seen seen = {0};
    struct nl_msg *message = netlink_message(RTM_GETLINK, 0, &head, sizeof(head));
    nla_put_string(message, IFLA_IFNAME, name);
    int number = netlink_ask(netlink, message, take_link, &seen);
    if (number < 0 && number != -ENODEV) {
        return netlink_error(number, err, "looking for the link %s", name);
    }
    *ret_seen = seen;
    return 0;
}

int netlink_find_own(struct netlink *netlink, const char *owner, const char *name, const char *kind,
                     struct link_seen *ret_seen, struct error *err)
{
    struct link_seen seen = {0};
    int r = netlink_find(netlink, name, &seen, err);
    if (r < 0) {
        return r;
    }
    if (seen.index != 0 && !netlink_is_own(&seen, owner)) {
        return error_set(err, ERROR_EXISTS,
                         "the link %s is not one of %s's (its alias is \"%s\"): it is left alone",
                         name, owner, seen.alias);
    }
    if (seen.index != 0 && kind != NULL && strcmp(seen.kind, kind) != 0) {
        return error_set(err, ERROR_EXISTS, "the link %s is a %s, not a %s", name, seen.kind, kind);
    }
    *ret_seen = seen;
    return 0;
}

int netlink_find_bridge(struct netlink *netlink, const char *owner, const char *name,
                        struct link_seen *ret_seen, struct error *err)
{
    struct link_seen seen = {0};
    int r = netlink_find_own(netlink, owner, name, "bridge", &seen, err);
    if (r < 0) {
        return r;
    }
    if (seen.index == 0) {
        return error_set(err, ERROR_NOT_FOUND, "there is no bridge %s", name);
    }
    *ret_seen = seen;
    return 0;
}

int netlink_settle(struct netlink *netlink, unsigned index, const struct link_wanted *wanted,
                   struct error *err)
{
    struct ifinfomsg head = {.ifi_family = AF_UNSPEC,
                             .ifi_index = (int)index,
                             .ifi_flags = IFF_UP,
                             .ifi_change = IFF_UP};
    struct nl_msg *message = netlink_message(RTM_NEWLINK, 0, &head, sizeof(head));
    nla_put_string(message, IFLA_IFALIAS, wanted->owner);
    nla_put_u32(message, IFLA_MTU, wanted->mtu);
    nla_put_u32(message, IFLA_MASTER, wanted->master);
    if (wanted->mac != NULL) {
        nla_put(message, IFLA_ADDRESS, NET_MAC_SIZE, wanted->mac);
    }
    int number = netlink_send(netlink, message);
    return number < 0 ? netlink_error(number, err, "setting up a link") : 0;
}

int netlink_set_port(struct netlink *netlink, unsigned index, bool is_isolated, struct error *err)
{
    struct ifinfomsg head = {.ifi_family = AF_BRIDGE, .ifi_index = (int)index};
    struct nl_msg *message = netlink_message(RTM_SETLINK, 0, &head, sizeof(head));
    struct nlattr *port = nla_nest_start(message, IFLA_PROTINFO | NLA_F_NESTED);
    CHECK(port != NULL);
    nla_put_u8(message, IFLA_BRPORT_ISOLATED, is_isolated);
    /* Hairpin: a machine reaches its own published port by way of the host, and of this port. */
    nla_put_u8(message, IFLA_BRPORT_MODE, 1);
    nla_nest_end(message, port);
    int number = netlink_send(netlink, message);
    return number < 0 ? netlink_error(number, err, "setting up a port of a bridge") : 0;
}
