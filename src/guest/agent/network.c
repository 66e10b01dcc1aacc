/*
 * The network, as the host has planned it: through rtnetlink(7), and three files of /etc.
 *
 * An interface that is named gets exactly the addresses and routes it is named with: what the
 * kernel has besides (but for link-local addresses, and routes the kernel made of addresses) is
 * taken away.  So a clone, or a machine that has moved to another network, keeps nothing.
 */
/* The macros of netlink cast `const` away. */
#pragma GCC diagnostic ignored "-Wcast-qual"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/text.h"

#include "guest/agent/private.h"

enum { ADDRESSES_MAX = 32, ROUTES_MAX = 64, MESSAGE_MAX = 1024, ANSWER_MAX = 32768 };

struct address {
    int family;
    uint8_t bytes[16];
    uint8_t prefix;
};

struct route {
    struct address to;
    struct address via; /* family 0: on the link */
};

struct plan {
    struct address addresses[ADDRESSES_MAX];
    size_t address_count;
    struct route routes[ROUTES_MAX];
    size_t route_count;
};

struct message {
    struct nlmsghdr head;
    uint8_t body[MESSAGE_MAX];
};

static size_t length_of(int family)
{
    return family == AF_INET ? 4 : 16;
}

/* ---- Netlink ---- */

static void begin_message(struct message *message, unsigned short type, unsigned short flags,
                          const void *body, size_t length)
{
    memset(message, 0, sizeof(*message));
    message->head.nlmsg_type = type;
    message->head.nlmsg_flags = (unsigned short)(NLM_F_REQUEST | flags);
    message->head.nlmsg_len = (uint32_t)NLMSG_LENGTH(length);
    memcpy(NLMSG_DATA(&message->head), body, length);
}

static void add_attribute(struct message *message, unsigned short type, const void *bytes,
                          size_t length)
{
    struct rtattr *at =
        (struct rtattr *)(void *)((uint8_t *)message + NLMSG_ALIGN(message->head.nlmsg_len));
    at->rta_type = type;
    at->rta_len = (unsigned short)RTA_LENGTH(length);
    memcpy(RTA_DATA(at), bytes, length);
    message->head.nlmsg_len = NLMSG_ALIGN(message->head.nlmsg_len) + RTA_ALIGN(at->rta_len);
}

/* Send, and wait for the kernel's verdict: 0 or a negative errno. */
static int ask(int fd, struct message *message)
{
    static uint8_t answer[ANSWER_MAX];
    message->head.nlmsg_flags |= NLM_F_ACK;
    if (send(fd, message, message->head.nlmsg_len, 0) < 0) {
        return -errno;
    }
    for (;;) {
        ssize_t got = recv(fd, answer, sizeof(answer), 0);
        if (got < 0 && errno != EINTR) {
            return -errno;
        }
        const struct nlmsghdr *head = (const struct nlmsghdr *)(const void *)answer;
        if (got >= (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) &&
            head->nlmsg_type == NLMSG_ERROR) {
            return ((const struct nlmsgerr *)NLMSG_DATA(head))->error;
        }
    }
}

/* Everything of a kind, message by message. */
static int each(int fd, unsigned short type,
                void (*take)(const struct nlmsghdr *head, void *context), void *context)
{
    static uint8_t answer[ANSWER_MAX];
    struct message message;
    const struct rtgenmsg body = {.rtgen_family = AF_UNSPEC};
    begin_message(&message, type, NLM_F_DUMP, &body, sizeof(body));
    if (send(fd, &message, message.head.nlmsg_len, 0) < 0) {
        return -errno;
    }
    for (;;) {
        ssize_t got = recv(fd, answer, sizeof(answer), 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? -errno : -EIO;
        }
        unsigned left = (unsigned)got;
        for (const struct nlmsghdr *head = (const struct nlmsghdr *)(const void *)answer;
             NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
            if (head->nlmsg_type == NLMSG_DONE || head->nlmsg_type == NLMSG_ERROR) {
                return 0;
            }
            take(head, context);
        }
    }
}

static int open_netlink(struct error *err)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    return fd >= 0 ? fd : fail_os(err, errno, "opening netlink");
}

static int set_link(int fd, int index, bool is_up, unsigned mtu, const char *name)
{
    struct message message;
    const struct ifinfomsg body = {.ifi_family = AF_UNSPEC,
                                   .ifi_index = index,
                                   .ifi_flags = is_up ? IFF_UP : 0,
                                   .ifi_change = IFF_UP};
    begin_message(&message, RTM_NEWLINK, 0, &body, sizeof(body));
    if (mtu != 0) {
        add_attribute(&message, IFLA_MTU, &mtu, sizeof(mtu));
    }
    if (name != NULL) {
        add_attribute(&message, IFLA_IFNAME, name, strlen(name) + 1);
    }
    return ask(fd, &message);
}

static int set_mac(int fd, int index, const uint8_t mac[6])
{
    struct message message;
    const struct ifinfomsg body = {.ifi_family = AF_UNSPEC, .ifi_index = index};
    begin_message(&message, RTM_NEWLINK, 0, &body, sizeof(body));
    add_attribute(&message, IFLA_ADDRESS, mac, 6);
    return ask(fd, &message);
}

static int change_address(int fd, int index, const struct address *address, bool is_new)
{
    struct message message;
    const struct ifaddrmsg body = {.ifa_family = (uint8_t)address->family,
                                   .ifa_prefixlen = address->prefix,
                                   .ifa_index = (unsigned)index,
                                   /* Nobody else has it: the host gives each out once. */
                                   .ifa_flags = address->family == AF_INET6 ? IFA_F_NODAD : 0};
    begin_message(&message, is_new ? RTM_NEWADDR : RTM_DELADDR,
                  is_new ? NLM_F_CREATE | NLM_F_REPLACE : 0, &body, sizeof(body));
    add_attribute(&message, IFA_LOCAL, address->bytes, length_of(address->family));
    add_attribute(&message, IFA_ADDRESS, address->bytes, length_of(address->family));
    return ask(fd, &message);
}

static int change_route(int fd, int index, const struct route *route, bool is_new)
{
    struct message message;
    bool is_direct = route->via.family == 0;
    const struct rtmsg body = {.rtm_family = (uint8_t)route->to.family,
                               .rtm_dst_len = route->to.prefix,
                               .rtm_table = RT_TABLE_MAIN,
                               .rtm_protocol = RTPROT_STATIC,
                               .rtm_scope = is_direct && is_new && route->to.family == AF_INET
                                   ? RT_SCOPE_LINK
                                   : is_new ? RT_SCOPE_UNIVERSE
                                            : RT_SCOPE_NOWHERE,
                               .rtm_type = RTN_UNICAST};
    const struct rtmsg any = {.rtm_family = body.rtm_family,
                              .rtm_dst_len = body.rtm_dst_len,
                              .rtm_table = RT_TABLE_MAIN,
                              .rtm_scope = RT_SCOPE_NOWHERE};
    begin_message(&message, is_new ? RTM_NEWROUTE : RTM_DELROUTE,
                  is_new ? NLM_F_CREATE | NLM_F_REPLACE : 0, is_new ? &body : &any, sizeof(body));
    if (route->to.prefix > 0) {
        add_attribute(&message, RTA_DST, route->to.bytes, length_of(route->to.family));
    }
    if (!is_direct) {
        add_attribute(&message, RTA_GATEWAY, route->via.bytes, length_of(route->to.family));
    }
    add_attribute(&message, RTA_OIF, &index, sizeof(index));
    return ask(fd, &message);
}

/* ---- What is there and was not planned ---- */

struct sweep {
    int index;
    const struct plan *plan;
    struct route stale[ROUTES_MAX];
    size_t stale_count;
};

static bool is_same(const struct address *a, const struct address *b)
{
    return a->family == b->family && a->prefix == b->prefix &&
        memcmp(a->bytes, b->bytes, a->family == 0 ? 0 : length_of(a->family)) == 0;
}

static void add_stale(struct sweep *sweep, const struct route *route)
{
    if (sweep->stale_count < ROUTES_MAX) {
        sweep->stale[sweep->stale_count++] = *route;
    }
}

static void copy_bytes(struct address *address, const struct rtattr *attribute)
{
    size_t length = length_of(address->family);
    if (RTA_PAYLOAD(attribute) >= length) {
        memcpy(address->bytes, RTA_DATA(attribute), length);
    }
}

static void take_address(const struct nlmsghdr *head, void *context)
{
    struct sweep *sweep = context;
    const struct ifaddrmsg *body = NLMSG_DATA(head);
    struct route found = {.to = {.family = body->ifa_family, .prefix = body->ifa_prefixlen}};
    unsigned left = (unsigned)IFA_PAYLOAD(head);
    bool is_inet = body->ifa_family == AF_INET || body->ifa_family == AF_INET6;
    if (head->nlmsg_type != RTM_NEWADDR || (int)body->ifa_index != sweep->index || !is_inet ||
        (body->ifa_family == AF_INET6 && body->ifa_scope == RT_SCOPE_LINK)) {
        return;
    }
    bool has_local = false;
    for (const struct rtattr *at = IFA_RTA(body); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if (at->rta_type == IFA_LOCAL || (at->rta_type == IFA_ADDRESS && !has_local)) {
            has_local = has_local || at->rta_type == IFA_LOCAL;
            copy_bytes(&found.to, at);
        }
    }
    for (size_t i = 0; i < sweep->plan->address_count; i++) {
        if (is_same(&found.to, &sweep->plan->addresses[i])) {
            return;
        }
    }
    add_stale(sweep, &found);
}

static void take_route(const struct nlmsghdr *head, void *context)
{
    struct sweep *sweep = context;
    const struct rtmsg *body = NLMSG_DATA(head);
    struct route found = {.to = {.family = body->rtm_family, .prefix = body->rtm_dst_len}};
    unsigned left = (unsigned)RTM_PAYLOAD(head);
    int index = 0;
    bool is_inet = body->rtm_family == AF_INET || body->rtm_family == AF_INET6;
    if (head->nlmsg_type != RTM_NEWROUTE || body->rtm_table != RT_TABLE_MAIN || !is_inet ||
        body->rtm_protocol == RTPROT_KERNEL || body->rtm_type != RTN_UNICAST) {
        return;
    }
    for (const struct rtattr *at = RTM_RTA(body); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if (at->rta_type == RTA_DST) {
            copy_bytes(&found.to, at);
        } else if (at->rta_type == RTA_GATEWAY) {
            found.via.family = body->rtm_family;
            copy_bytes(&found.via, at);
        } else if (at->rta_type == RTA_OIF) {
            memcpy(&index, RTA_DATA(at), sizeof(index));
        }
    }
    if (index != sweep->index) {
        return;
    }
    for (size_t i = 0; i < sweep->plan->route_count; i++) {
        if (is_same(&found.to, &sweep->plan->routes[i].to) &&
            is_same(&found.via, &sweep->plan->routes[i].via)) {
            return;
        }
    }
    add_stale(sweep, &found);
}

/* ---- Reading the plan ---- */

/* "10.0.0.5/24", or without the prefix: the whole address. */
static int parse_address(const char *text, struct address *address, struct error *err)
{
    char copy[64];
    snprintf(copy, sizeof(copy), "%s", text);
    char *slash = strchr(copy, '/');
    uint64_t prefix = 0;
    if (slash != NULL) {
        *slash++ = '\0';
    }
    *address = (struct address){.family = strchr(copy, ':') != NULL ? AF_INET6 : AF_INET};
    uint64_t most = length_of(address->family) * 8;
    bool has_prefix = slash == NULL || text_parse_u64(text_of(slash, strlen(slash)), &prefix);
    prefix = slash == NULL ? most : prefix;
    if (inet_pton(address->family, copy, address->bytes) != 1 || !has_prefix || prefix > most) {
        return error_set(err, ERROR_INVALID, "\"%s\" is no address", text);
    }
    address->prefix = (uint8_t)prefix;
    return 0;
}

/* The kernel wants no bits beyond the prefix. */
static void mask(struct address *address)
{
    for (size_t bit = address->prefix; bit < length_of(address->family) * 8; bit++) {
        address->bytes[bit / 8] &= (uint8_t) ~(0x80U >> (bit % 8));
    }
}

/* "default via 10.0.0.1", "10.1.0.0/16 via 10.0.0.1", "10.2.0.0/16". */
static int parse_route(const char *text, struct route *route, struct error *err)
{
    char copy[160];
    char *rest = NULL;
    snprintf(copy, sizeof(copy), "%s", text);
    const char *to = strtok_r(copy, " ", &rest);
    const char *word = strtok_r(NULL, " ", &rest);
    const char *via = strtok_r(NULL, " ", &rest);
    bool is_good = to != NULL && strtok_r(NULL, " ", &rest) == NULL &&
        (word == NULL || (strcmp(word, "via") == 0 && via != NULL));
    if (!is_good) {
        return error_set(err, ERROR_INVALID, "\"%s\" is no route", text);
    }
    *route = (struct route){0};
    int r = via != NULL ? parse_address(via, &route->via, err) : 0;
    if (r == 0 && strcmp(to, "default") == 0) {
        route->to.family = via != NULL ? route->via.family : AF_INET;
    } else if (r == 0) {
        r = parse_address(to, &route->to, err);
    }
    if (r == 0 && via != NULL && route->via.family != route->to.family) {
        r = error_set(err, ERROR_INVALID, "\"%s\" mixes IPv4 and IPv6", text);
    }
    if (r == 0) {
        route->via.prefix = 0; /* as it is read back */
        mask(&route->to);
    }
    return r;
}

static int read_plan(struct agent_reader reader, struct plan *plan, struct error *err)
{
    struct agent_field field;
    char text[160];
    int r = 0;
    while (r == 0 && agent_next(&reader, &field)) {
        bool is_one = (field.tag == AGENT_ADDRESS || field.tag == AGENT_ROUTE) && field.length > 0;
        if (!is_one) {
            continue;
        }
        if (!request_copy(&field, text, sizeof(text))) {
            r = error_set(err, ERROR_INVALID, "an address or route is too long");
        } else if (field.tag == AGENT_ADDRESS && plan->address_count < ADDRESSES_MAX) {
            r = parse_address(text, &plan->addresses[plan->address_count++], err);
        } else if (field.tag == AGENT_ROUTE && plan->route_count < ROUTES_MAX) {
            r = parse_route(text, &plan->routes[plan->route_count++], err);
        } else {
            r = error_set(err, ERROR_LIMIT, "an interface has too many addresses or routes");
        }
    }
    return r;
}

struct link_search {
    uint8_t mac[6];
    uint8_t new_mac[6]; /* it has this already when the request is repeated */
    bool has_new_mac;
    bool is_renewed;
    int index; /* 0: not found */
    char name[IF_NAMESIZE];
};

static void take_link(const struct nlmsghdr *head, void *context)
{
    struct link_search *search = context;
    const struct ifinfomsg *body = NLMSG_DATA(head);
    unsigned left = (unsigned)IFLA_PAYLOAD(head);
    char name[IF_NAMESIZE] = "";
    bool is_it = false;
    if (head->nlmsg_type != RTM_NEWLINK) {
        return;
    }
    for (const struct rtattr *at = IFLA_RTA(body); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if (at->rta_type == IFLA_ADDRESS && RTA_PAYLOAD(at) == sizeof(search->mac)) {
            bool is_renewed = search->has_new_mac &&
                memcmp(RTA_DATA(at), search->new_mac, sizeof(search->new_mac)) == 0;
            is_it = is_renewed || memcmp(RTA_DATA(at), search->mac, sizeof(search->mac)) == 0;
            search->is_renewed = search->is_renewed || is_renewed;
        } else if (at->rta_type == IFLA_IFNAME) {
            snprintf(name, sizeof(name), "%.*s", (int)RTA_PAYLOAD(at), (const char *)RTA_DATA(at));
        }
    }
    if (is_it && search->index == 0) {
        search->index = body->ifi_index;
        memcpy(search->name, name, sizeof(name));
    }
}

/* ---- Making it so ---- */

/* As many as the table holds; how many went, or -errno. */
static int sweep_once(int fd, struct sweep *sweep, bool is_of_routes)
{
    int gone = 0;
    sweep->stale_count = 0;
    int r = each(fd, is_of_routes ? RTM_GETROUTE : RTM_GETADDR,
                 is_of_routes ? take_route : take_address, sweep);
    for (size_t i = 0; r == 0 && i < sweep->stale_count; i++) {
        const struct route *stale = &sweep->stale[i];
        int failed = is_of_routes ? change_route(fd, sweep->index, stale, false)
                                  : change_address(fd, sweep->index, &stale->to, false);
        gone += failed == 0;
    }
    return r < 0 ? r : gone;
}

/* Until none is left, or only such as do not go. */
static int sweep_all(int fd, struct sweep *sweep, bool is_of_routes)
{
    int gone = 0;
    do {
        gone = sweep_once(fd, sweep, is_of_routes);
    } while (gone > 0);
    return gone;
}

static int sweep_stale(int fd, int index, const struct plan *plan)
{
    static struct sweep sweep;
    sweep = (struct sweep){.index = index, .plan = plan};
    int r = sweep_all(fd, &sweep, true);
    return r < 0 ? r : sweep_all(fd, &sweep, false);
}

static int set_interface(int fd, struct agent_reader reader, struct error *err)
{
    static struct plan plan;
    struct link_search search = {0};
    char name[TEXT_MAX] = "";
    struct agent_field field;
    struct agent_reader again = reader;
    plan = (struct plan){0};
    while (agent_next(&again, &field)) {
        if (field.tag == AGENT_MAC && field.length == sizeof(search.mac)) {
            memcpy(search.mac, field.bytes, sizeof(search.mac));
        } else if (field.tag == AGENT_NEW_MAC && field.length == sizeof(search.new_mac)) {
            memcpy(search.new_mac, field.bytes, sizeof(search.new_mac));
            search.has_new_mac = true;
        }
    }
    int r = read_plan(reader, &plan, err);
    if (r == 0) {
        r = request_text(reader, AGENT_NAME, "", name, err);
    }
    if (r < 0) {
        return r;
    }
    int failed = each(fd, RTM_GETLINK, take_link, &search);
    const uint8_t *mac = search.mac;
    int index = search.index;
    if (failed < 0) {
        return fail_os(err, -failed, "looking at the interfaces");
    }
    if (index == 0) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no interface with address %02x:%02x:%02x:%02x:%02x:%02x", mac[0],
                         mac[1], mac[2], mac[3], mac[4], mac[5]);
    }
    bool is_renamed = name[0] != '\0' && strcmp(name, search.name) != 0;
    if (strlen(name) >= IF_NAMESIZE || strpbrk(name, "/ \t\n") != NULL) {
        return error_set(err, ERROR_INVALID, "\"%s\" is no name of an interface", name);
    }
    failed = is_renamed ? set_link(fd, index, false, 0, name) : 0;
    if (failed == 0 && search.has_new_mac && !search.is_renewed) {
        set_link(fd, index, false, 0, NULL); /* its fe80:: address is made of the other one */
        failed = set_mac(fd, index, search.new_mac);
    }
    if (failed == 0) {
        failed = set_link(fd, index, true, (unsigned)request_number(reader, AGENT_MTU, 0), NULL);
    }
    failed = failed == 0 ? sweep_stale(fd, index, &plan) : failed;
    if (failed < 0) {
        return fail_os(err, -failed, "setting up %s", search.name);
    }
    for (size_t i = 0; i < plan.address_count && failed == 0; i++) {
        failed = change_address(fd, index, &plan.addresses[i], true);
    }
    for (size_t i = 0; i < plan.route_count && failed == 0; i++) {
        failed = change_route(fd, index, &plan.routes[i], true);
        if (failed < 0) {
            return fail_os(err, -failed, "adding route %zu of %s", i + 1, search.name);
        }
    }
    return failed < 0 ? fail_os(err, -failed, "adding an address to %s", search.name) : 0;
}

int network_lo_up(struct error *err)
{
    FD_OWNED int fd = open_netlink(err);
    if (fd < 0) {
        return fd;
    }
    int r = set_link(fd, (int)if_nametoindex("lo"), true, 0, NULL);
    return r < 0 ? fail_os(err, -r, "setting up lo") : 0;
}

/* ---- Names ---- */

int host_name_set(const char *name, struct error *err)
{
    size_t length = strlen(name);
    if (length == 0 || length > 64 || name[0] == '-' ||
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.") !=
            length) {
        return error_set(err, ERROR_INVALID, "\"%s\" is no host name", name);
    }
    if (sethostname(name, length) < 0) {
        return fail_os(err, errno, "setting the host name");
    }
    char line[80];
    int written = snprintf(line, sizeof(line), "%s\n", name);
    struct error ignored = {0}; /* a root that is read-only has its name until the next boot */
    file_write("/etc/hostname", line, (size_t)written, 0644, &ignored);
    return 0;
}

/* Lines may not end early: what is behind would be a line of its own. */
static int add_lines(struct agent_reader request, enum agent_tag tag, const char *before,
                     struct buffer *text, bool *ret_is_there, struct error *err)
{
    struct agent_field field;
    while (agent_next(&request, &field)) {
        char line[512];
        if (field.tag != (unsigned)tag) {
            continue;
        }
        *ret_is_there = true;
        if (!request_copy(&field, line, sizeof(line)) || !text_is_printable(line)) {
            return error_set(err, ERROR_INVALID, "a name server, domain or host is no line");
        }
        if (line[0] != '\0') {
            buffer_append_format(text, "%s%s\n", before, line);
        }
    }
    return 0;
}

/* Replaced, where it is a symbolic link too: what it points at is a resolver's that is not asked
 * any more. */
static int write_file(const char *path, const struct buffer *text, struct error *err)
{
    struct stat status;
    if (lstat(path, &status) == 0 && S_ISLNK(status.st_mode)) {
        unlink(path);
    }
    file_make_folder("/etc", 0755, err);
    return file_write(path, text->data, text->used, 0644, err);
}

static int set_names(struct agent_reader request, struct error *err)
{
    BUFFER_OWNED struct buffer resolv = {0};
    BUFFER_OWNED struct buffer hosts = {0};
    char name[TEXT_MAX];
    bool has_resolv = false;
    bool has_hosts = false;
    int r = request_text(request, AGENT_HOSTNAME, "", name, err);
    if (r == 0 && name[0] != '\0') {
        r = host_name_set(name, err);
    }
    if (r == 0) {
        r = add_lines(request, AGENT_NAMESERVER, "nameserver ", &resolv, &has_resolv, err);
    }
    if (r == 0) {
        r = add_lines(request, AGENT_SEARCH, "search ", &resolv, &has_resolv, err);
    }
    buffer_append_string(&hosts, "127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
    if (name[0] != '\0') {
        buffer_append_format(&hosts, "127.0.1.1 %s\n", name);
    }
    if (r == 0) {
        r = add_lines(request, AGENT_HOST, "", &hosts, &has_hosts, err);
    }
    if (r == 0 && has_resolv) {
        r = write_file("/etc/resolv.conf", &resolv, err);
    }
    if (r == 0 && has_hosts) {
        r = write_file("/etc/hosts", &hosts, err);
    }
    return r;
}

int network_all_local(struct error *err)
{
    static const char resolv[] = "nameserver 127.0.0.1\noptions timeout:5 attempts:2\n";
    const struct rtmsg body = {.rtm_family = AF_INET,
                               .rtm_table = RT_TABLE_MAIN,
                               .rtm_protocol = RTPROT_STATIC,
                               .rtm_scope = RT_SCOPE_HOST,
                               .rtm_type = RTN_LOCAL};
    BUFFER_OWNED struct buffer text = {0};
    struct message message;
    int index = (int)if_nametoindex("lo");
    FD_OWNED int fd = open_netlink(err);
    int r = fd < 0 ? fd : network_lo_up(err);
    if (r < 0) {
        return r;
    }
    begin_message(&message, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body, sizeof(body));
    add_attribute(&message, RTA_OIF, &index, sizeof(index));
    r = ask(fd, &message);
    if (r < 0) {
        return fail_os(err, -r, "making all addresses local");
    }
    buffer_append(&text, resolv, sizeof(resolv) - 1);
    return write_file("/etc/resolv.conf", &text, err);
}

int network_set(struct agent_reader request, struct error *err)
{
    struct agent_field field;
    FD_OWNED int fd = open_netlink(err);
    if (fd < 0) {
        return fd;
    }
    int r = network_lo_up(err);
    struct agent_reader again = request;
    while (r == 0 && agent_next(&again, &field)) {
        if (field.tag == AGENT_INTERFACE) {
            r = set_interface(fd, agent_reader_in(&field), err);
        }
    }
    return r < 0 ? r : set_names(request, err);
}
