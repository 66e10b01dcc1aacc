#include "base/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "test/lib/test.h"

TEST(text, parses_decimals_up_to_the_last_u64_and_nothing_else)
{
    uint64_t value = 0;
    EXPECT(text_parse_u64(text_of("18446744073709551615", 20), &value) && value == UINT64_MAX);
    EXPECT(!text_parse_u64(text_of("18446744073709551616", 20), &value));
    EXPECT(!text_parse_u64(text_of("", 0), &value));
    EXPECT(!text_parse_u64(text_of("+1", 2), &value));
    EXPECT(!text_parse_u64(text_of("1 ", 2), &value));
}

TEST(text, writes_decimals_as_printf_does)
{
    static const uint64_t values[] = {0, 9, 10, 200, 65536, UINT64_MAX / 10, UINT64_MAX};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        char written[TEXT_U64_SIZE];
        char printed[TEXT_U64_SIZE + 1];
        size_t length = text_write_u64(values[i], written);
        int expected = snprintf(printed, sizeof(printed), "%" PRIu64, values[i]);
        EXPECT(length == (size_t)expected && memcmp(written, printed, length) == 0);
    }
}

TEST(text, is_equal_to_a_string_only_to_its_last_byte)
{
    EXPECT(text_equal(text_of("Host", 4), "Host") && text_equal(text_of("", 0), ""));
    EXPECT(!text_equal(text_of("Host", 4), "Hos") && !text_equal(text_of("Hos", 3), "Host"));
    EXPECT(!text_equal(text_of("Host", 4), "host") && !text_equal(text_of("a\0b", 3), "a"));
    EXPECT(text_equal_ignoring_case(text_of("x-OWN", 5), "X-Own"));
    EXPECT(!text_equal_ignoring_case(text_of("x-owns", 6), "X-Own"));
    EXPECT(!text_equal_ignoring_case(text_of("x-ow", 4), "X-Own"));
    EXPECT(!text_equal_ignoring_case(text_of("a\0", 2), "A"));
    EXPECT(!text_equal_ignoring_case(text_of("@`", 2), "`@")); /* not letters */
    EXPECT(text_equal_ignoring_case(text_of("", 0), ""));
    EXPECT(!text_equal_ignoring_case(text_of("", 0), "a"));
    EXPECT(!text_equal_ignoring_case(text_of(" ", 1), "") &&
           !text_equal_ignoring_case(text_of("\0", 1), " "));
}

TEST(text, one_of_several_names_is_found_whatever_its_case)
{
    static const struct text names[] = {TEXT_LITERAL("TE"), TEXT_LITERAL("Trailer"),
                                        TEXT_LITERAL("X-Own")};
    EXPECT(text_is_among_ignoring_case(text_of("te", 2), names, 3));
    EXPECT(text_is_among_ignoring_case(text_of("x-OWN", 5), names, 3));
    EXPECT(!text_is_among_ignoring_case(text_of("x-OWN", 5), names, 2));
    EXPECT(!text_is_among_ignoring_case(text_of("trail", 5), names, 3));
    EXPECT(!text_is_among_ignoring_case(text_of("trailers", 8), names, 3));
    EXPECT(!text_is_among_ignoring_case(text_of("", 0), names, 3));
}

/* Where the length of what is compared with is not known beforehand. */
TEST(text, a_host_is_without_its_port)
{
    static const char *const hosts[][2] = {
        {"a.example:80", "a.example"},
        {"a.example", "a.example"},
        {"127.0.0.1:1", "127.0.0.1"},
        {"[::1]:80", "[::1]"},
        {"[::1]", "[::1]"},
        {"[::1", "["},
        {":80", ""},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
        struct text host = text_without_port(text_of(hosts[i][0], strlen(hosts[i][0])));
        EXPECT(text_equal(host, hosts[i][1]));
    }
    EXPECT(text_equal(text_address("[2001:db8::1]:4711"), "2001:db8::1"));
    EXPECT(text_equal(text_address("127.0.0.1:4711"), "127.0.0.1"));
    EXPECT(text_equal(text_address("unix"), "unix") && text_equal(text_address("[]"), "[]"));
}

TEST(text, strings_are_compared_to_their_ends)
{
    const char *volatile own = "X-Own";
    EXPECT(text_equal_ignoring_case(text_of("x-OWN", 5), own));
    EXPECT(!text_equal_ignoring_case(text_of("x-owns", 6), own));
    EXPECT(!text_equal_ignoring_case(text_of("x-ow", 4), own));
    EXPECT(!text_equal_ignoring_case(text_of("x-own\0", 6), own));
}

TEST(text, sizes_are_written_for_people)
{
    char text[TEXT_SIZE_MAX];
    EXPECT_STRING(text_write_size(0, text), "0 B");
    EXPECT_STRING(text_write_size(1023, text), "1023 B");
    EXPECT_STRING(text_write_size(UINT64_C(512) << 20, text), "512 MiB");
    EXPECT_STRING(text_write_size(UINT64_C(1536) << 20, text), "1.5 GiB");
    EXPECT_STRING(text_write_size((UINT64_C(3) << 40) + 1, text), "3.0 TiB");
    EXPECT_STRING(text_write_size(UINT64_MAX, text), "16777216.0 TiB");
    EXPECT_STRING(text_write_size_exactly(0, text), "0 bytes");
    EXPECT_STRING(text_write_size_exactly(1025, text), "1025 bytes");
    EXPECT_STRING(text_write_size_exactly(UINT64_C(1536) << 20, text), "1536 MiB");
    EXPECT_STRING(text_write_size_exactly(UINT64_C(8) << 30, text), "8 GiB");
    EXPECT_STRING(text_write_size_exactly(UINT64_C(2048) << 40, text), "2048 TiB");
}

TEST(text, durations_are_written_for_people)
{
    char text[TEXT_SIZE_MAX];
    EXPECT_STRING(text_write_duration_ms(0, text), "0 ms");
    EXPECT_STRING(text_write_duration_ms(1500, text), "1500 ms");
    EXPECT_STRING(text_write_duration_ms(30000, text), "30 s");
    EXPECT_STRING(text_write_duration_ms(90000, text), "90 s");
    EXPECT_STRING(text_write_duration_ms(300000, text), "5 min");
    EXPECT_STRING(text_write_duration_ms(86400000, text), "24 h");
    EXPECT_STRING(text_write_duration_ms(UINT64_C(14) * 86400000, text), "14 days");
    EXPECT_STRING(text_write_duration_ms(UINT64_MAX, text), "18446744073709551615 ms");
}

TEST(text, times_that_were_measured_are_written_in_two_units)
{
    static const struct {
        uint64_t ms;
        const char *text;
    } times[] = {
        {0, "0 ms"},
        {9999, "9999 ms"},
        {10000, "10 s"},
        {119999, "119 s"},
        {120000, "2 min"},
        {1138570, "18 min 58 s"},
        {7199999, "119 min 59 s"},
        {7260000, "2 h 1 min"},
        {172799999, "47 h 59 min"},
        {172800000, "2 days"},
        {UINT64_C(277200000), "3 days 5 h"},
        {UINT64_MAX, "213503982334 days 14 h"},
    };
    char text[TEXT_SIZE_MAX];
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        EXPECT_STRING(text_write_time_ms(times[i].ms, text), times[i].text);
    }
}

TEST(text, sizes_and_durations_take_units)
{
    uint64_t value = 0;
    EXPECT(text_parse_size("128MiB", &value) && value == UINT64_C(128) << 20);
    EXPECT(text_parse_size("2 GB", &value) && value == UINT64_C(2000000000));
    EXPECT(text_parse_size("16TiB", &value) && value == UINT64_C(16) << 40);
    EXPECT(text_parse_size("1.5GiB", &value) && value == UINT64_C(1536) << 20);
    EXPECT(text_parse_size("0.000001TB", &value) && value == 1000000);
    EXPECT(text_parse_duration_ms("1.25", &value) && value == 1250);
    EXPECT(!text_parse_size("1.5", &value) && !text_parse_duration_ms("1.5ms", &value));
    EXPECT(!text_parse_size("1.GiB", &value) && !text_parse_size(".5GiB", &value));
    EXPECT(!text_parse_size("1.0000001GiB", &value) && !text_parse_size("1.5.5GiB", &value));
    EXPECT(text_parse_size("16777215.999999TiB", &value) && value > UINT64_C(16777215) << 40);
    EXPECT(!text_parse_size("16777216.5TiB", &value));
    EXPECT(!text_parse_size("5 parsecs", &value));
    EXPECT(text_parse_rate("20MiB/s", &value) && value == UINT64_C(20) << 20);
    EXPECT(text_parse_rate("7", &value) && value == 7);
    EXPECT(!text_parse_rate("/s", &value) && !text_parse_rate("7/s/s", &value));
    EXPECT(!text_parse_size("99999999999999999999G", &value));
    EXPECT(text_parse_duration_ms("250ms", &value) && value == 250);
    EXPECT(text_parse_duration_ms("2m", &value) && value == 120000);
    EXPECT(text_parse_duration_ms("30d", &value) && value == UINT64_C(2592000000));
    EXPECT(text_parse_duration_ms("3", &value) && value == 3000);
}

TEST(text, ranges_are_taken_one_by_one)
{
    const char *list = "0-3,8,x";
    unsigned long first = 9;
    unsigned long last = 9;
    EXPECT(text_take_range(&list, &first, &last) && first == 0 && last == 3);
    EXPECT(text_take_range(&list, &first, &last) && first == 8 && last == 8);
    EXPECT(!text_take_range(&list, &first, &last) && strcmp(list, "x") == 0);
    list = "5-";
    EXPECT(text_take_range(&list, &first, &last) && first == 5 && last == 0 && *list == 0);
    EXPECT(!text_take_range(&list, &first, &last));
}

TEST(text, utf8_follows_rfc_3629)
{
    EXPECT(text_is_utf8("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 10));
    EXPECT(!text_is_utf8("\xc0\x80", 2));         /* overlong */
    EXPECT(!text_is_utf8("\xed\xa0\x80", 3));     /* surrogate */
    EXPECT(!text_is_utf8("\xf4\x90\x80\x80", 4)); /* beyond U+10FFFF */
    EXPECT(!text_is_utf8("\xe2\x82", 2));         /* cut off */

    char long_text[100]; /* wherever in it a byte stands that is none, or a character of two */
    for (size_t at = 0; at + 1 < sizeof(long_text); at++) {
        memset(long_text, 'x', sizeof(long_text));
        long_text[at] = '\xc3';
        EXPECT(!text_is_utf8(long_text, sizeof(long_text)));
        long_text[at + 1] = '\xa9';
        EXPECT(text_is_utf8(long_text, sizeof(long_text)));
        EXPECT(text_is_utf8(long_text, at) && !text_is_utf8(long_text, at + 1));
    }
}

TEST(text, names_are_dns_labels)
{
    EXPECT(text_is_name("hello-2"));
    EXPECT(!text_is_name(""));
    EXPECT(!text_is_name("2hello"));
    EXPECT(!text_is_name("Hello"));
    EXPECT(!text_is_name("hello-"));
    EXPECT(!text_is_name("a/b"));
    EXPECT(text_is_name("a23456789-123456789-123456789-123456789-123456789-123456789-123"));
    EXPECT(!text_is_name("a23456789-123456789-123456789-123456789-123456789-123456789-1234"));
}

TEST(text, keys_are_what_a_rule_can_name)
{
    EXPECT(text_is_key("disk.kind/A_1-b"));
    EXPECT(!text_is_key(""));
    EXPECT(!text_is_key("my key"));
    EXPECT(!text_is_key("a\n"));
    EXPECT(!text_is_key("gr\xc3\xbcn"));
    EXPECT(text_is_key("a23456789-123456789-123456789-123456789-123456789-123456789-123"));
    EXPECT(!text_is_key("a23456789-123456789-123456789-123456789-123456789-123456789-1234"));
}

TEST(text, finds_what_was_probably_meant)
{
    static const char *const verbs[] = {"deploy", "delete", "invoke", "list"};
    EXPECT_STRING(text_nearest("delpoy", verbs, 4), "deploy");
    EXPECT(text_nearest("xyzzy", verbs, 4) == NULL);
    static const char *const options[] = {"data_folder", "node_name", "join_token_file",
                                          "join_addresses"};
    EXPECT_STRING(text_nearest("data", options, 4), "data_folder");
    EXPECT(text_nearest("join", options, 4) == NULL);
    EXPECT(text_nearest("no", options, 4) == NULL);
}

TEST(text, what_a_terminal_would_obey_is_not_printable)
{
    static const char *const good[] = {"", "rack 1", "gr\xc3\xbc\xc3\x9f", "\xc2\xa0", "~"};
    static const char *const bad[] = {"\x1b[2J",  "a\n",        "\t",   "\x7f",
                                      "\xc2\x80", "x\xc2\x9bm", "\xc2", "\xff"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        EXPECT(text_is_printable(good[i]));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(!text_is_printable(bad[i]));
    }
    char text[] = "a\x1b[2J\nb\tc\xc2\x9b\xc3\xbc\xc2";
    EXPECT_STRING(text_make_printable(text, true), "a?[2J\nb\tc??\xc3\xbc\xc2");
    EXPECT_STRING(text_make_printable(text, false), "a?[2J?b?c??\xc3\xbc\xc2");
}
