/* Addresses as text, read strictly: see net.h. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"

#include "engine/net/net.h"

/* inet_pton() takes four decimal numbers without leading zeros, and nothing else. */
bool net_address_parse(const char *text, uint32_t *ret_address)
{
    struct in_addr address;
    if (inet_pton(AF_INET, text, &address) != 1) {
        return false;
    }
    *ret_address = ntohl(address.s_addr);
    return true;
}

const char *net_address_format(uint32_t address, char ret_text[NET_ADDRESS_TEXT_SIZE])
{
    snprintf(ret_text, NET_ADDRESS_TEXT_SIZE, "%u.%u.%u.%u", address >> 24, address >> 16 & 255,
             address >> 8 & 255, address & 255);
    return ret_text;
}

uint32_t net_mask(unsigned prefix)
{
    CHECK(prefix <= 32);
    return prefix == 0 ? 0 : UINT32_MAX << (32 - prefix);
}

bool net_subnet_parse(const char *text, uint32_t *ret_address, unsigned *ret_prefix)
{
    char head[NET_ADDRESS_TEXT_SIZE];
    uint32_t address = 0;
    uint64_t prefix = 0;
    const char *slash = strchr(text, '/');
    if (slash == NULL || slash - text >= (ptrdiff_t)sizeof(head)) {
        return false;
    }
    memcpy(head, text, (size_t)(slash - text));
    head[slash - text] = '\0';
    if (!net_address_parse(head, &address) ||
        !text_parse_u64(text_of(slash + 1, strlen(slash + 1)), &prefix) || prefix > 32 ||
        (address & ~net_mask((unsigned)prefix)) != 0) {
        return false;
    }
    *ret_address = address;
    *ret_prefix = (unsigned)prefix;
    return true;
}

static int hex_digit(char letter)
{
    return letter >= '0' && letter <= '9' ? letter - '0'
        : letter >= 'a' && letter <= 'f'  ? letter - 'a' + 10
        : letter >= 'A' && letter <= 'F'  ? letter - 'A' + 10
                                          : -1;
}

bool net_mac_parse(const char *text, uint8_t ret_mac[NET_MAC_SIZE])
{
    static const uint8_t zero[NET_MAC_SIZE];
    uint8_t mac[NET_MAC_SIZE];
    if (strlen(text) != NET_MAC_TEXT_SIZE - 1) {
        return false;
    }
    for (size_t i = 0; i < NET_MAC_SIZE; i++) {
        int high = hex_digit(text[3 * i]);
        int low = hex_digit(text[3 * i + 1]);
        if (high < 0 || low < 0 || text[3 * i + 2] != (i + 1 < NET_MAC_SIZE ? ':' : '\0')) {
            return false;
        }
        mac[i] = (uint8_t)(high << 4 | low);
    }
    if ((mac[0] & 1) != 0 || memcmp(mac, zero, sizeof(mac)) == 0) {
        return false;
    }
    memcpy(ret_mac, mac, sizeof(mac));
    return true;
}

const char *net_mac_format(const uint8_t mac[NET_MAC_SIZE], char ret_text[NET_MAC_TEXT_SIZE])
{
    snprintf(ret_text, NET_MAC_TEXT_SIZE, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
             mac[3], mac[4], mac[5]);
    return ret_text;
}

bool net_name_is_valid(const char *name)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    size_t length = strlen(name);
    return length > 0 && length < NET_NAME_SIZE && strspn(name, letters) == length &&
        strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}
