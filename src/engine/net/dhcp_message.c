/*
 * Reading a DHCP request and writing the answer (RFC 2131, figure 1):
 *
 *     0 op  1 htype  2 hlen  3 hops  4 xid  8 secs  10 flags  12 ciaddr  16 yiaddr  20 siaddr
 *     24 giaddr  28 chaddr[16]  44 sname[64]  108 file[128]  236 cookie  240 options
 *
 * Of a request only the fixed fields and four options matter; options in sname and file
 * (overload) are those of servers.
 */
#include "engine/net/dhcp_message.h"

#include <string.h>

#include "base/check.h"

enum {
    AT_FLAGS = 10,
    AT_CIADDR = 12,
    AT_YIADDR = 16,
    AT_SIADDR = 20,
    AT_GIADDR = 24,
    AT_CHADDR = 28,
    AT_COOKIE = 236,
    AT_OPTIONS = 240,
    LENGTH_MIN = 300, /* of BOOTP (RFC 1542, 2.1): some clients drop less */
};

enum {
    TYPE_DISCOVER = 1,
    TYPE_OFFER,
    TYPE_REQUEST,
    TYPE_DECLINE,
    TYPE_ACK,
    TYPE_NAK,
    TYPE_RELEASE,
    TYPE_INFORM
};

enum {
    OPTION_PAD = 0,
    OPTION_MASK = 1,
    OPTION_ROUTER = 3,
    OPTION_DNS = 6,
    OPTION_HOSTNAME = 12,
    OPTION_DOMAIN = 15,
    OPTION_MTU = 26,
    OPTION_BROADCAST = 28,
    OPTION_REQUESTED = 50,
    OPTION_LEASE = 51,
    OPTION_TYPE = 53,
    OPTION_SERVER = 54,
    OPTION_RENEW = 58,
    OPTION_REBIND = 59,
    OPTION_END = 255,
};

static const uint8_t cookie[4] = {99, 130, 83, 99};

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void put_u32(uint8_t *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (uint8_t)(value >> (24 - 8 * i));
    }
}

/* ---- The request ---- */

struct request {
    unsigned type;
    uint32_t client;    /* the address that it has and uses */
    uint32_t requested; /* that it would like */
    uint32_t server;    /* that it has chosen; 0: none */
    bool wants_all;     /* cannot take what is sent to its address yet */
};

static void take_option(unsigned code, const uint8_t *value, size_t length, struct request *request)
{
    if (code == OPTION_TYPE && length == 1) {
        request->type = value[0];
    } else if (code == OPTION_REQUESTED && length == 4) {
        request->requested = get_u32(value);
    } else if (code == OPTION_SERVER && length == 4) {
        request->server = get_u32(value);
    }
}

static bool read_options(const uint8_t *bytes, size_t length, struct request *request)
{
    size_t at = 0;
    while (at < length && bytes[at] != OPTION_END) {
        if (bytes[at] == OPTION_PAD) {
            at++;
            continue;
        }
        if (length - at < 2 || length - at - 2 < bytes[at + 1]) {
            return false;
        }
        take_option(bytes[at], bytes + at + 2, bytes[at + 1], request);
        at += 2U + bytes[at + 1];
    }
    return request->type != 0;
}

/* From a client (1) on Ethernet (1), not by way of a relay. */
static bool read_request(const uint8_t *bytes, size_t length, struct request *ret_request)
{
    *ret_request = (struct request){0};
    if (length < AT_OPTIONS || bytes[0] != 1 || bytes[1] != 1 || bytes[2] != NET_MAC_SIZE ||
        memcmp(bytes + AT_COOKIE, cookie, sizeof(cookie)) != 0 || get_u32(bytes + AT_GIADDR) != 0) {
        return false;
    }
    ret_request->client = get_u32(bytes + AT_CIADDR);
    ret_request->wants_all = (bytes[AT_FLAGS] & 0x80) != 0;
    bool is_good = read_options(bytes + AT_OPTIONS, length - AT_OPTIONS, ret_request);
    if (ret_request->type == TYPE_DISCOVER) {
        ret_request->client = 0; /* it has none, whatever it says */
    }
    return is_good;
}

/* ---- What to answer (RFC 2131, 4.3) ---- */

/* 0: nothing. */
static unsigned choose_answer(const struct request *request, uint32_t server, uint32_t address)
{
    switch (request->type) {
    case TYPE_DISCOVER:
        return TYPE_OFFER;
    case TYPE_INFORM:
        return TYPE_ACK;
    case TYPE_REQUEST:
        break;
    default: /* what is given back or declined is its own all the same */
        return 0;
    }
    if (request->server != 0 && request->server != server) {
        return 0; /* it has chosen another */
    }
    uint32_t wanted = request->requested != 0 ? request->requested : request->client;
    return wanted == address ? TYPE_ACK : TYPE_NAK;
}

/* ---- The answer ---- */

static void put_option(struct dhcp_answer *answer, unsigned code, const void *value, size_t length)
{
    CHECK(length < 256 && answer->length + length + 2 < sizeof(answer->bytes));
    if (length == 0) {
        return;
    }
    answer->bytes[answer->length++] = (uint8_t)code;
    answer->bytes[answer->length++] = (uint8_t)length;
    memcpy(answer->bytes + answer->length, value, length);
    answer->length += length;
}

static void put_option_u32(struct dhcp_answer *answer, unsigned code, uint32_t value)
{
    uint8_t bytes[4];
    put_u32(bytes, value);
    put_option(answer, code, bytes, sizeof(bytes));
}

static void put_lease(struct dhcp_answer *answer, const struct net_lease *lease)
{
    put_option_u32(answer, OPTION_MASK, net_mask(lease->prefix));
    put_option_u32(answer, OPTION_BROADCAST, lease->address | ~net_mask(lease->prefix));
    if (lease->router != 0) {
        put_option_u32(answer, OPTION_ROUTER, lease->router);
    }
    if (lease->dns != 0) {
        put_option_u32(answer, OPTION_DNS, lease->dns);
    }
    if (lease->mtu != 0) {
        const uint8_t mtu[2] = {(uint8_t)(lease->mtu >> 8), (uint8_t)lease->mtu};
        put_option(answer, OPTION_MTU, mtu, sizeof(mtu));
    }
    put_option(answer, OPTION_HOSTNAME, lease->hostname,
               strnlen(lease->hostname, sizeof(lease->hostname)));
    put_option(answer, OPTION_DOMAIN, lease->domain, strnlen(lease->domain, sizeof(lease->domain)));
}

/* Half of the time, and seven eighths of it, are what clients do anyway; some only when told. */
static void put_times(struct dhcp_answer *answer, uint32_t lease_s)
{
    put_option_u32(answer, OPTION_LEASE, lease_s);
    put_option_u32(answer, OPTION_RENEW, lease_s / 2);
    put_option_u32(answer, OPTION_REBIND, lease_s / 8 * 7);
}

/* RFC 2131, 4.1: to the address that it uses; else to the one that it gets, if it can take that. */
static void address_answer(const struct request *request, unsigned type, uint32_t address,
                           struct dhcp_answer *answer)
{
    if (type == TYPE_NAK) {
        answer->to = UINT32_MAX;
    } else if (request->client != 0) {
        answer->to = request->client;
    } else if (request->wants_all) {
        answer->to = UINT32_MAX;
    } else {
        answer->to = address;
        answer->needs_entry = true;
    }
}

static void begin_answer(const uint8_t *request, uint32_t server, unsigned type,
                         struct dhcp_answer *answer)
{
    const uint8_t message = (uint8_t)type;
    memset(answer, 0, sizeof(*answer));
    answer->bytes[0] = 2;                      /* of a server */
    memcpy(answer->bytes + 1, request + 1, 2); /* htype, hlen */
    memcpy(answer->bytes + 4, request + 4, 4); /* xid */
    memcpy(answer->bytes + AT_FLAGS, request + AT_FLAGS, 2);
    memcpy(answer->bytes + AT_CHADDR, request + AT_CHADDR, 16);
    memcpy(answer->bytes + AT_COOKIE, cookie, sizeof(cookie));
    memcpy(answer->mac, request + AT_CHADDR, NET_MAC_SIZE);
    answer->length = AT_OPTIONS;
    put_option(answer, OPTION_TYPE, &message, 1);
    put_option_u32(answer, OPTION_SERVER, server);
}

static void end_answer(struct dhcp_answer *answer)
{
    CHECK(answer->length < sizeof(answer->bytes));
    answer->bytes[answer->length++] = OPTION_END;
    if (answer->length < LENGTH_MIN) {
        answer->length = LENGTH_MIN; /* what follows the end is zero: padding */
    }
}

bool dhcp_answer(const struct net_dhcp_options *options, const uint8_t *bytes, size_t length,
                 struct dhcp_answer *ret_answer)
{
    struct request request;
    struct net_lease lease = {0};
    if (!read_request(bytes, length, &request) ||
        !options->find(bytes + AT_CHADDR, &lease, options->context)) {
        return false;
    }
    unsigned type = choose_answer(&request, options->address, lease.address);
    /* The answer goes to the address that it says it uses, which had better be its own. */
    if (type == 0 || (type == TYPE_ACK && request.client != 0 && request.client != lease.address)) {
        return false;
    }
    begin_answer(bytes, options->address, type, ret_answer);
    if (type != TYPE_NAK) {
        put_lease(ret_answer, &lease);
        memcpy(ret_answer->bytes + AT_CIADDR, bytes + AT_CIADDR, 4);
    }
    if (type != TYPE_NAK && request.type != TYPE_INFORM) {
        put_u32(ret_answer->bytes + AT_YIADDR, lease.address);
        put_u32(ret_answer->bytes + AT_SIADDR, options->address);
        put_times(ret_answer, lease.lease_s != 0 ? lease.lease_s : NET_LEASE_S);
    }
    end_answer(ret_answer);
    address_answer(&request, type, lease.address, ret_answer);
    return true;
}
