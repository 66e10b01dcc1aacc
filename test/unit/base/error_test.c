#include "base/error.h"

#include <errno.h>

#include "test/lib/test.h"

TEST(error, wrap_puts_context_in_front_and_keeps_the_kind)
{
    struct error err = {0};
    EXPECT(error_set(&err, ERROR_NOT_FOUND, "image %s", "web") == -ERROR_NOT_FOUND);
    EXPECT(error_wrap(&err, "starting machine %d", 7) == -ERROR_NOT_FOUND);
    EXPECT_STRING(err.text, "starting machine 7: image web");
}

TEST(error, errno_values_that_callers_must_tell_apart_have_their_kind)
{
    struct error err = {0};
    EXPECT(error_os(&err, ENOSPC, "writing") == -ERROR_FULL);
    EXPECT(error_os(&err, EACCES, "opening") == -ERROR_DENIED);
    EXPECT(error_os(&err, EIO, "reading x") == -ERROR_OS);
    EXPECT_STRING(err.text, "reading x: Input/output error");
    EXPECT(err.os_errno == EIO);
}

TEST(error, every_kind_is_found_by_its_name_and_has_sensible_codes)
{
    for (int kind = ERROR_NONE + 1; kind < ERROR_KIND_COUNT; kind++) {
        enum error_kind k = (enum error_kind)kind;
        EXPECT(error_kind_parse(error_kind_name(k)) == k);
        EXPECT(error_kind_http(k) >= 400 && error_kind_http(k) < 600);
        EXPECT(error_kind_exit(k) > 0 && error_kind_exit(k) < 126);
        EXPECT(error_kind_grpc(k) > 0 && error_kind_grpc(k) <= 16);
    }
    EXPECT(error_kind_parse("no_such_kind") == ERROR_NONE);
}

TEST(error, a_text_that_is_too_long_is_cut_and_ended)
{
    struct error err = {0};
    char text[2 * ERROR_TEXT_MAX];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    error_set(&err, ERROR_INVALID, "%s", text);
    EXPECT(strlen(err.text) == ERROR_TEXT_MAX - 1);
    error_wrap(&err, "%s", text);
    EXPECT(strlen(err.text) == ERROR_TEXT_MAX - 1);
}

/* In the units that people write: what is a byte too little is not rounded to what fits. */
TEST(error, a_number_out_of_range_is_told_in_its_unit)
{
    struct error err = {0};
    EXPECT(error_check_range("timeout_ms", 900000, 1, 900000, &err) == 0);
    EXPECT(error_check_range("timeout_ms", 900001, 1, 900000, &err) == -ERROR_INVALID);
    EXPECT_STRING(err.text, "timeout_ms is 900001 ms; it must be from 1 ms to 15 min");
    EXPECT(error_check_range("memory_bytes", 65535, 65536, 1 << 30, &err) == -ERROR_INVALID);
    EXPECT_STRING(err.text, "memory_bytes is 65535 bytes; it must be from 64 KiB to 1 GiB");
    EXPECT(error_check_range("tmp_bytes_max", 2ul << 30, 0, 512ul << 20, &err) == -ERROR_INVALID);
    EXPECT_STRING(err.text, "tmp_bytes_max is 2 GiB; it must be from 0 bytes to 512 MiB");
    EXPECT(error_check_range("retries", 9, 0, 5, &err) == -ERROR_INVALID);
    EXPECT_STRING(err.text, "retries is 9; it must be from 0 to 5");
}
