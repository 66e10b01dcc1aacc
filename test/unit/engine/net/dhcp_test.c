/* What is answered to DHCP requests. */
#include <string.h>

#include "engine/net/dhcp_message.h"

#include "../../../lib/test.h"

enum { SERVER = 0x0a4d0001, ADDRESS = 0x0a4d0007 };

static const uint8_t known[NET_MAC_SIZE] = {0x52, 0x54, 0, 0, 0, 7};

static bool find(const uint8_t mac[NET_MAC_SIZE], struct net_lease *ret_lease, void *context)
{
    (void)context;
    if (memcmp(mac, known, NET_MAC_SIZE) != 0) {
        return false;
    }
    *ret_lease = (struct net_lease){.address = ADDRESS,
                                    .prefix = 24,
                                    .router = SERVER,
                                    .dns = SERVER,
                                    .mtu = 1450,
                                    .hostname = "web",
                                    .domain = "blue.vm.internal"};
    return true;
}

static const struct net_dhcp_options options = {.bridge = "bx0", .address = SERVER, .find = find};

struct message {
    uint8_t bytes[600];
    size_t length;
};

static struct message request(unsigned type)
{
    struct message message = {.length = 240};
    const uint8_t head[] = {1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef};
    const uint8_t tail[] = {99, 130, 83, 99, 53, 1, (uint8_t)type};
    memcpy(message.bytes, head, sizeof(head));
    memcpy(message.bytes + 28, known, sizeof(known));
    memcpy(message.bytes + 236, tail, sizeof(tail));
    message.length += 3;
    return message;
}

static void add_option(struct message *message, unsigned code, uint32_t value)
{
    const uint8_t option[] = {(uint8_t)code,          4,
                              (uint8_t)(value >> 24), (uint8_t)(value >> 16),
                              (uint8_t)(value >> 8),  (uint8_t)value};
    memcpy(message->bytes + message->length, option, sizeof(option));
    message->length += sizeof(option);
}

static void put(struct message *message, size_t at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        message->bytes[at + (size_t)i] = (uint8_t)(value >> (24 - 8 * i));
    }
}

static bool ask(const struct message *message, struct dhcp_answer *answer)
{
    return dhcp_answer(&options, message->bytes, message->length, answer);
}

/* The value of an option, with its length in front; NULL: it is not there. */
static const uint8_t *option_of(const struct dhcp_answer *answer, unsigned code)
{
    for (size_t at = 240; answer->bytes[at] != 255; at += 2U + answer->bytes[at + 1]) {
        EXPECT(at < answer->length);
        if (answer->bytes[at] == code) {
            return answer->bytes + at + 1;
        }
    }
    return NULL;
}

static bool has(const struct dhcp_answer *answer, unsigned code, const void *value, size_t length)
{
    const uint8_t *at = option_of(answer, code);
    return at != NULL && at[0] == length && memcmp(at + 1, value, length) == 0;
}

TEST(net_dhcp, an_offer_is_all_that_a_machine_needs)
{
    struct dhcp_answer answer;
    struct message message = request(1);
    EXPECT(ask(&message, &answer));
    EXPECT(answer.bytes[0] == 2 && memcmp(answer.bytes + 4, "\xde\xad\xbe\xef", 4) == 0);
    EXPECT(memcmp(answer.bytes + 16, "\x0a\x4d\x00\x07", 4) == 0);
    EXPECT(answer.to == ADDRESS && answer.needs_entry);
    EXPECT(memcmp(answer.mac, known, NET_MAC_SIZE) == 0);
    EXPECT(answer.length >= 300);
    EXPECT(has(&answer, 53, "\x02", 1));
    EXPECT(has(&answer, 54, "\x0a\x4d\x00\x01", 4));
    EXPECT(has(&answer, 1, "\xff\xff\xff\x00", 4));
    EXPECT(has(&answer, 3, "\x0a\x4d\x00\x01", 4));
    EXPECT(has(&answer, 6, "\x0a\x4d\x00\x01", 4));
    EXPECT(has(&answer, 28, "\x0a\x4d\x00\xff", 4));
    EXPECT(has(&answer, 26, "\x05\xaa", 2));
    EXPECT(has(&answer, 12, "web", 3));
    EXPECT(has(&answer, 15, "blue.vm.internal", 16));
    EXPECT(has(&answer, 51, "\x00\x01\x51\x80", 4));
}

TEST(net_dhcp, one_that_cannot_take_it_otherwise_hears_it_with_all)
{
    struct dhcp_answer answer;
    struct message message = request(1);
    message.bytes[10] = 0x80;
    EXPECT(ask(&message, &answer));
    EXPECT(answer.to == UINT32_MAX && !answer.needs_entry);
}

TEST(net_dhcp, its_own_address_is_granted_and_no_other)
{
    struct dhcp_answer answer;
    struct message message = request(3); /* it has chosen us */
    add_option(&message, 54, SERVER);
    add_option(&message, 50, ADDRESS);
    EXPECT(ask(&message, &answer) && has(&answer, 53, "\x05", 1));
    message = request(3);
    add_option(&message, 54, SERVER);
    add_option(&message, 50, ADDRESS + 1);
    EXPECT(ask(&message, &answer) && has(&answer, 53, "\x06", 1));
    EXPECT(answer.to == UINT32_MAX && memcmp(answer.bytes + 16, "\0\0\0", 4) == 0);
    EXPECT(option_of(&answer, 51) == NULL);
    message = request(3); /* it has chosen another server */
    add_option(&message, 54, SERVER + 1);
    add_option(&message, 50, ADDRESS);
    EXPECT(!ask(&message, &answer));
    message = request(3); /* it has rebooted, and was elsewhere before */
    add_option(&message, 50, 0xc0a80005);
    EXPECT(ask(&message, &answer) && has(&answer, 53, "\x06", 1));
    message = request(3); /* it renews */
    put(&message, 12, ADDRESS);
    EXPECT(ask(&message, &answer) && has(&answer, 53, "\x05", 1));
    EXPECT(answer.to == ADDRESS && !answer.needs_entry);
}

TEST(net_dhcp, nobody_is_made_to_hear_what_another_asked)
{
    struct dhcp_answer answer;
    struct message message = request(8); /* inform */
    put(&message, 12, ADDRESS);
    EXPECT(ask(&message, &answer) && answer.to == ADDRESS && option_of(&answer, 51) == NULL);
    put(&message, 12, ADDRESS + 1);
    EXPECT(!ask(&message, &answer));
    message = request(3);
    put(&message, 12, ADDRESS + 1);
    add_option(&message, 50, ADDRESS);
    EXPECT(!ask(&message, &answer));
    message = request(1);
    put(&message, 12, ADDRESS + 1);
    EXPECT(ask(&message, &answer) && answer.to == ADDRESS);
}

TEST(net_dhcp, what_is_not_for_us_is_not_answered)
{
    struct dhcp_answer answer;
    struct message message;
    for (size_t length = 0; length < 243; length++) {
        message = request(1);
        message.length = length;
        EXPECT(!ask(&message, &answer));
    }
    static const struct {
        size_t at;
        uint8_t value;
    } changes[] = {{0, 2}, {1, 6}, {2, 16}, {24, 10}, {33, 8}, {236, 0}, {242, 0}};
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        message = request(1);
        message.bytes[changes[i].at] = changes[i].value;
        EXPECT(!ask(&message, &answer));
    }
    for (unsigned type = 4; type < 8; type++) { /* decline, and what servers say; release */
        message = request(type);
        EXPECT(!ask(&message, &answer));
    }
    message = request(1); /* an option that is longer than the message */
    message.bytes[message.length] = 12;
    message.bytes[message.length + 1] = 200;
    message.length += 100;
    EXPECT(!ask(&message, &answer));
}
