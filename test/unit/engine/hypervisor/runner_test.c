/* What runners say of themselves: the texts; the files are test/integration/runner_test.py's. */
#include "engine/hypervisor/runner.h"

#include <string.h>

#include "base/error.h"

#include "engine/hypervisor/hypervisor.h"

#include "test/lib/test.h"

static int parse_taps(const char *text, struct hypervisor_runner *runner)
{
    struct error err = {0};
    return runner_parse_taps(text, strlen(text), runner, &err);
}

TEST(runner, taps_are_between_blanks_and_newlines)
{
    struct hypervisor_runner runner = {0};
    EXPECT(parse_taps("", &runner) == 0 && runner.tap_count == 0);
    EXPECT(parse_taps(" \n\n", &runner) == 0 && runner.tap_count == 0);
    EXPECT(parse_taps("vm-a\n", &runner) == 0 && runner.tap_count == 1);
    EXPECT(strcmp(runner.taps[0], "vm-a") == 0);
    EXPECT(parse_taps("a b\nc\td", &runner) == 0 && runner.tap_count == 4);
    EXPECT(strcmp(runner.taps[3], "d") == 0);
    EXPECT(parse_taps("fifteen-letters", &runner) == 0 && runner.tap_count == 1);
}

TEST(runner, taps_that_are_none_are_refused)
{
    struct hypervisor_runner runner = {0};
    struct error err = {0};
    EXPECT(parse_taps("sixteen--letters", &runner) == -ERROR_INVALID);
    EXPECT(parse_taps("a/b", &runner) == -ERROR_INVALID);
    EXPECT(parse_taps("..", &runner) == -ERROR_INVALID);
    EXPECT(parse_taps("a%d", &runner) == -ERROR_INVALID);
    EXPECT(parse_taps("a\rb", &runner) == -ERROR_INVALID);
    EXPECT(parse_taps("a b a", &runner) == -ERROR_INVALID);
    EXPECT(parse_taps("a b c d e", &runner) == -ERROR_UNSUPPORTED);
    EXPECT(runner_parse_taps("a\0b", 3, &runner, &err) == -ERROR_INVALID);
}

TEST(runner, queues_are_a_word)
{
    EXPECT(runner_has_queues("vnet_hdr\nmulti_queue\n", 21));
    EXPECT(!runner_has_queues("vnet_hdr\n", 9));
    EXPECT(!runner_has_queues("multi_queues", 12));
    EXPECT(!runner_has_queues("", 0));
}

TEST(runner, a_vsock_address_is_a_guests)
{
    struct hypervisor_runner runner = {0};
    struct error err = {0};
    EXPECT(runner_parse_cid("", 0, &runner, &err) == 0 && runner.vsock_cid == 0);
    EXPECT(runner_parse_cid("3\n", 2, &runner, &err) == 0 && runner.vsock_cid == 3);
    EXPECT(runner_parse_cid("4294967294", 10, &runner, &err) == 0);
    EXPECT(runner_parse_cid("4294967295", 10, &runner, &err) == -ERROR_INVALID);
    EXPECT(runner_parse_cid("2", 1, &runner, &err) == -ERROR_INVALID);
    EXPECT(runner_parse_cid("-3", 2, &runner, &err) == -ERROR_INVALID);
}

TEST(runner, a_line_is_one)
{
    char line[8];
    struct error err = {0};
    EXPECT(runner_parse_line("a.sock\n", 7, "x", line, sizeof(line), &err) == 0);
    EXPECT(strcmp(line, "a.sock") == 0);
    EXPECT(runner_parse_line("1234567", 7, "x", line, sizeof(line), &err) == 0);
    EXPECT(runner_parse_line("12345678", 8, "x", line, sizeof(line), &err) == -ERROR_INVALID);
    EXPECT(runner_parse_line("", 0, "x", line, sizeof(line), &err) == -ERROR_INVALID);
    EXPECT(runner_parse_line("\n", 1, "x", line, sizeof(line), &err) == -ERROR_INVALID);
    EXPECT(runner_parse_line("a\nb", 3, "x", line, sizeof(line), &err) == -ERROR_INVALID);
    EXPECT(runner_parse_line("a\n\n", 3, "x", line, sizeof(line), &err) == -ERROR_INVALID);
    EXPECT(runner_parse_line("a\0b", 3, "x", line, sizeof(line), &err) == -ERROR_INVALID);
    EXPECT(runner_parse_line("a b", 3, "x", line, sizeof(line), &err) == -ERROR_INVALID);
}

static int parse_macvtaps(const char *text, struct hypervisor_runner *runner)
{
    struct error err = {0};
    return runner_parse_macvtaps(text, strlen(text), runner, &err);
}

TEST(runner, a_macvtap_is_a_line_of_four_words)
{
    struct hypervisor_runner runner = {0};
    EXPECT(parse_macvtaps("", &runner) == 0 && runner.macvtap_count == 0);
    EXPECT(parse_macvtaps("\n \n", &runner) == 0 && runner.macvtap_count == 0);
    EXPECT(parse_macvtaps("a 02:00:00:00:00:01 eth0 bridge\nb 02:00:00:00:00:02 eth0 vepa",
                          &runner) == 0);
    EXPECT(runner.macvtap_count == 2);
    EXPECT(strcmp(runner.macvtaps[0].name, "a") == 0 &&
           strcmp(runner.macvtaps[0].link, "eth0") == 0);
    EXPECT(strcmp(runner.macvtaps[1].mac, "02:00:00:00:00:02") == 0);
    EXPECT(strcmp(runner.macvtaps[1].mode, "vepa") == 0);
}

TEST(runner, macvtaps_that_are_none_are_refused)
{
    struct hypervisor_runner runner = {0};
    EXPECT(parse_macvtaps("a", &runner) == -ERROR_INVALID);
    EXPECT(parse_macvtaps("a 02:00:00:00:00:01 eth0", &runner) == -ERROR_INVALID);
    EXPECT(parse_macvtaps("a 02:00:00:00:00:01 eth0 bridge more", &runner) == -ERROR_INVALID);
    EXPECT(parse_macvtaps("a 02:00:00:00:00:01 eth0 source", &runner) == -ERROR_INVALID);
    EXPECT(parse_macvtaps("a 01:00:00:00:00:01 eth0 bridge", &runner) == -ERROR_INVALID);
    EXPECT(parse_macvtaps("a/b 02:00:00:00:00:01 eth0 bridge", &runner) == -ERROR_INVALID);
    EXPECT(parse_macvtaps("a 02:00:00:00:00:01 ../eth0 bridge", &runner) == -ERROR_INVALID);
#define LINE(name) name " 02:00:00:00:00:01 eth0 bridge\n"
    EXPECT(parse_macvtaps(LINE("a") LINE("a"), &runner) == -ERROR_INVALID);
    EXPECT(parse_macvtaps(LINE("a") LINE("b") LINE("c") LINE("d"), &runner) == 0);
    EXPECT(parse_macvtaps(LINE("a") LINE("b") LINE("c") LINE("d") LINE("e"), &runner) ==
           -ERROR_UNSUPPORTED);
}
