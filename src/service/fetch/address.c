/* Addresses, networks and the special ones among them.  See address.h. */
#include "service/fetch/address.h"

#include <arpa/inet.h>
#include <string.h>

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

bool fetch_address_is_v4(const struct fetch_address *address)
{
    return memcmp(address->bytes, mapped, sizeof(mapped)) == 0;
}

bool fetch_address_parse(struct text text, struct fetch_address *ret_address)
{
    char string[FETCH_ADDRESS_TEXT_SIZE];
    struct fetch_address address;
    if (text.length == 0 || text.length >= sizeof(string) ||
        memchr(text.data, '\0', text.length) != NULL) {
        return false;
    }
    memcpy(string, text.data, text.length);
    string[text.length] = '\0';
    memcpy(address.bytes, mapped, sizeof(mapped));
    if (inet_pton(AF_INET, string, address.bytes + sizeof(mapped)) != 1 &&
        inet_pton(AF_INET6, string, address.bytes) != 1) {
        return false;
    }
    *ret_address = address;
    return true;
}

static bool bit_of(const struct fetch_address *address, unsigned bit)
{
    return (address->bytes[bit / 8] >> (7 - bit % 8) & 1) != 0;
}

bool fetch_network_parse(struct text text, struct fetch_network *ret_network)
{
    struct fetch_network network = {.bits = 128};
    const char *slash = text.length > 0 ? memchr(text.data, '/', text.length) : NULL;
    size_t length = slash != NULL ? (size_t)(slash - text.data) : text.length;
    uint64_t bits = 0;
    if (!fetch_address_parse(text_of(text.data, length), &network.address)) {
        return false;
    }
    bool is_v4 = fetch_address_is_v4(&network.address);
    if (is_v4 && memchr(text.data, ':', length) != NULL) {
        return false;
    }
    if (slash != NULL) {
        unsigned most = is_v4 ? 32 : 128;
        if (!text_parse_u64(text_of(slash + 1, text.length - length - 1), &bits) || bits > most) {
            return false;
        }
        network.bits = (unsigned)bits + (128 - most);
    }
    for (unsigned bit = network.bits; bit < 128; bit++) {
        if (bit_of(&network.address, bit)) {
            return false;
        }
    }
    *ret_network = network;
    return true;
}

bool fetch_address_of(const struct sockaddr *address, struct fetch_address *ret_address,
                      uint16_t *ret_port)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, address, sizeof(v4));
        memcpy(ret_address->bytes, mapped, sizeof(mapped));
        memcpy(ret_address->bytes + sizeof(mapped), &v4.sin_addr, 4);
        *ret_port = ntohs(v4.sin_port);
        return true;
    }
    if (address->sa_family == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, address, sizeof(v6));
        memcpy(ret_address->bytes, &v6.sin6_addr, 16);
        *ret_port = ntohs(v6.sin6_port);
        return true;
    }
    return false;
}

/* ::/0 is all of IPv6, and not the IPv4 that is mapped into it. */
bool fetch_network_has(const struct fetch_network *network, const struct fetch_address *address)
{
    if (fetch_address_is_v4(&network->address) != fetch_address_is_v4(address)) {
        return false;
    }
    for (unsigned bit = 0; bit < network->bits; bit++) {
        if (bit_of(&network->address, bit) != bit_of(address, bit)) {
            return false;
        }
    }
    return true;
}

void fetch_address_write(const struct fetch_address *address,
                         char ret_text[FETCH_ADDRESS_TEXT_SIZE])
{
    if (fetch_address_is_v4(address)) {
        inet_ntop(AF_INET, address->bytes + sizeof(mapped), ret_text, FETCH_ADDRESS_TEXT_SIZE);
    } else {
        inet_ntop(AF_INET6, address->bytes, ret_text, FETCH_ADDRESS_TEXT_SIZE);
    }
}

static const struct {
    const char *network;
    const char *what;
} specials[] = {
    {"0.0.0.0/8", "this host"},
    {"10.0.0.0/8", "private"},
    {"100.64.0.0/10", "shared by a carrier"},
    {"127.0.0.0/8", "loopback"},
    {"169.254.0.0/16", "link-local"},
    {"172.16.0.0/12", "private"},
    {"192.0.0.0/24", "of protocols"},
    {"192.0.2.0/24", "for documentation"},
    {"192.88.99.0/24", "of 6to4"},
    {"192.168.0.0/16", "private"},
    {"198.18.0.0/15", "for benchmarks"},
    {"198.51.100.0/24", "for documentation"},
    {"203.0.113.0/24", "for documentation"},
    {"224.0.0.0/4", "multicast"},
    {"240.0.0.0/4", "reserved"},
    {"::/128", "this host"},
    {"::1/128", "loopback"},
    {"fc00::/7", "private"},
    {"fe80::/10", "link-local"},
    {"fec0::/10", "private"},
    {"ff00::/8", "multicast"},
    {"2001::/23", "of protocols"},
    {"2001:db8::/32", "for documentation"},
    {"2002::/16", "of 6to4"},
    {"3fff::/20", "for documentation"},
};

static bool is_in(const char *network, const struct fetch_address *address)
{
    struct fetch_network parsed;
    return fetch_network_parse(text_of(network, strlen(network)), &parsed) &&
        fetch_network_has(&parsed, address);
}

const char *fetch_address_special(const struct fetch_address *address)
{
    struct fetch_address inside = *address;
    if (is_in("64:ff9b::/96", address)) {
        memcpy(inside.bytes, mapped, sizeof(mapped));
    }
    for (size_t i = 0; i < sizeof(specials) / sizeof(specials[0]); i++) {
        if (is_in(specials[i].network, &inside)) {
            return specials[i].what;
        }
    }
    return fetch_address_is_v4(&inside) || is_in("2000::/3", &inside) ? NULL : "reserved";
}
