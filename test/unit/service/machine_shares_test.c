/* Which folders of the host a machine may see. */
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "service/machine/parts.h"

#include "test/lib/test.h"

static int complete(const char *allowed, const char *share, char **ret_share)
{
    struct error err = {0};
    JSON_OWNED json_t *config = json_pack("{s:[s]}", "shares", share);
    int r = shares_complete(allowed, config, &err);
    if (r == 0 && ret_share != NULL) {
        const json_t *list = json_object_get(config, "shares");
        *ret_share = memory_copy_string(json_string_value(json_array_get(list, 0)));
    }
    return r;
}

TEST(machine_shares, only_what_is_named_and_below_by_its_real_path)
{
    struct error err = {0};
    MEMORY_OWNED char *root = realpath(test_folder(), NULL);
    MEMORY_OWNED char *inner = memory_format("%s/a/b", root);
    MEMORY_OWNED char *other = memory_format("%s/ab", root);
    MEMORY_OWNED char *allowed = memory_format("/nowhere, %s/a/", root);
    MEMORY_OWNED char *link = memory_format("%s/a/out", root);
    MEMORY_OWNED char *good = memory_format("%s/a/../a/b:/srv/x:ro", root);
    MEMORY_OWNED char *result = memory_format("%s:/srv/x:ro", inner);
    MEMORY_OWNED char *beside = memory_format("%s:/x", other);
    MEMORY_OWNED char *by_link = memory_format("%s:/x", link);
    MEMORY_OWNED char *missing = memory_format("%s/a/c:/x", root);
    MEMORY_OWNED char *real = NULL;
    EXPECT(file_make_folder(inner, 0755, &err) == 0 && file_make_folder(other, 0755, &err) == 0);
    EXPECT(symlink("/etc", link) == 0);
    EXPECT(complete(allowed, good, &real) == 0);
    EXPECT_STRING(real, result);
    EXPECT(complete(allowed, beside, NULL) == -ERROR_DENIED);
    EXPECT(complete(allowed, by_link, NULL) == -ERROR_DENIED);
    EXPECT(complete(allowed, missing, NULL) == -ERROR_NOT_FOUND);
    EXPECT(complete("", good, NULL) == -ERROR_DENIED);
    EXPECT(complete("/", by_link, NULL) == 0);
}

TEST(machine_shares, what_would_be_another_word_of_the_kernel_is_refused)
{
    static const char *const bad[] = {
        "",         "/a",       "a:/b",        "/a:b", "/a:/b c", "/a:/b,c",
        "/a:/../b", "/a:/b:rw", "/a:/b:ro:ro", ":/b",  "/a:/",    "/a:/b blixard.init=/x"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(complete("/", bad[i], NULL) == -ERROR_INVALID);
    }
}

TEST(machine_shares, a_machine_with_one_is_not_kept_with_its_memory)
{
    struct error err = {0};
    JSON_OWNED json_t *with = json_pack("{s:[s]}", "shares", "/a:/b");
    JSON_OWNED json_t *without = json_object();
    EXPECT(shares_refuse(with, "moved", &err) == -ERROR_UNSUPPORTED);
    EXPECT(shares_refuse(without, "moved", &err) == 0);
}
