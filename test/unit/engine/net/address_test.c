/* Addresses as text. */
#include "engine/net/net.h"

#include "../../../lib/test.h"

TEST(net_address, reads_only_what_is_one)
{
    static const char *const wrong[] = {"",          "1",        "1.2.3",    "1.2.3.4.5",
                                        "256.1.1.1", "01.2.3.4", " 1.2.3.4", "1.2.3.4 ",
                                        "1.2.3.x",   "1.2.3."};
    char text[NET_ADDRESS_TEXT_SIZE];
    uint32_t address = 7;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        EXPECT(!net_address_parse(wrong[i], &address));
        EXPECT(address == 7);
    }
    EXPECT(net_address_parse("255.255.255.255", &address) && address == UINT32_MAX);
    EXPECT(net_address_parse("10.1.2.3", &address) && address == 0x0a010203);
    EXPECT_STRING(net_address_format(address, text), "10.1.2.3");
    EXPECT_STRING(net_address_format(UINT32_MAX, text), "255.255.255.255");
}

TEST(net_address, a_subnet_has_no_bits_beyond_its_prefix)
{
    static const char *const wrong[] = {"10.0.0.0",     "10.0.0.0/",  "10.0.0.0/33", "10.0.0.1/24",
                                        "10.0.0.0/24x", "/24",        "10.0.0.0/-1", "10.0.0.0/+8",
                                        "1.0.0.0/0",    "10.0.0.0 /8"};
    uint32_t address = 7;
    unsigned prefix = 7;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        EXPECT(!net_subnet_parse(wrong[i], &address, &prefix));
    }
    EXPECT(address == 7 && prefix == 7);
    EXPECT(net_subnet_parse("0.0.0.0/0", &address, &prefix) && address == 0 && prefix == 0);
    EXPECT(net_subnet_parse("10.1.0.0/16", &address, &prefix) && address == 0x0a010000);
    EXPECT(net_subnet_parse("10.1.0.9/32", &address, &prefix) && prefix == 32);
    EXPECT(net_mask(0) == 0 && net_mask(1) == UINT32_C(1) << 31 && net_mask(32) == UINT32_MAX);
}

TEST(net_address, a_mac_is_one_machines)
{
    static const char *const wrong[] = {"",
                                        "52:54:00:12:34",
                                        "52:54:00:12:34:5",
                                        "52:54:00:12:34:567",
                                        "52-54-00-12-34-56",
                                        "52:54:00:12:34:5g",
                                        "00:00:00:00:00:00",
                                        "53:54:00:12:34:56",
                                        "ff:ff:ff:ff:ff:ff"};
    char text[NET_MAC_TEXT_SIZE];
    uint8_t mac[NET_MAC_SIZE] = {7};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        EXPECT(!net_mac_parse(wrong[i], mac));
    }
    EXPECT(mac[0] == 7);
    EXPECT(net_mac_parse("52:54:00:aB:Cd:ef", mac));
    EXPECT_STRING(net_mac_format(mac, text), "52:54:00:ab:cd:ef");
}

TEST(net_address, a_link_has_a_name_that_fits)
{
    EXPECT(net_name_is_valid("bx-0123456789ab") && net_name_is_valid("a"));
    EXPECT(!net_name_is_valid("") && !net_name_is_valid("0123456789abcdef"));
    EXPECT(!net_name_is_valid(".") && !net_name_is_valid("..") && !net_name_is_valid("a/b"));
    EXPECT(!net_name_is_valid("a b") && !net_name_is_valid("a\"b") && !net_name_is_valid("a%d"));
}
