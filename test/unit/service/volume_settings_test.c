/* What a volume may be, and what a machine may say about one. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"

#include "service/volume/parts.h"

#include "test/lib/test.h"

TEST(volume_settings, names_of_states_lead_back_to_them)
{
    for (int i = 0; i < VOLUME_STATES; i++) {
        enum volume_state state = VOLUME_STATES;
        EXPECT(volume_state_parse(volume_state_text((enum volume_state)i), &state));
        EXPECT(state == (enum volume_state)i);
    }
}

/* The JSON of a VolumeCreate; the error's kind, or 0. */
static int complete(const char *text, json_t **ret_config)
{
    struct error err = {0};
    JSON_OWNED json_t *create = NULL;
    EXPECT(json_read(text, strlen(text), &create, &err) == 0);
    return -volume_config_complete(create, ret_config, &err);
}

TEST(volume_settings, what_is_not_said_is_filled_in)
{
    JSON_OWNED json_t *config = NULL;
    EXPECT(complete("{\"name\":\"data\"}", &config) == 0);
    EXPECT(volume_config_format(config) == VOLUME_QCOW2);
    EXPECT(volume_config_has_file_system(config));
    EXPECT(json_u64(config, "size_bytes") == UINT64_C(10) << 30);
}

TEST(volume_settings, what_cannot_be_is_refused)
{
    static const char *const texts[] = {
        "{\"name\":\"Data\"}",
        "{\"name\":\"\"}",
        "{\"name\":\"d\",\"format\":\"vmdk\"}",
        "{\"name\":\"d\",\"filesystem\":\"xfs\"}",
        "{\"name\":\"d\",\"format\":\"raw\",\"encrypt\":true}",
        "{\"name\":\"d\",\"format\":\"raw\",\"secret\":\"s\"}",
        "{\"name\":\"d\",\"from_volume\":\"a\"}",
        "{\"name\":\"d\",\"from_snapshot\":\"a\"}",
        "{\"name\":\"d\",\"from_volume\":\"a\",\"from_snapshot\":\"b\",\"format\":\"raw\"}",
        "{\"name\":\"d\",\"from_volume\":\"a\",\"from_snapshot\":\"b\",\"encrypt\":true}",
        "{\"name\":\"d\",\"iops\":1099511627777}",
        "{\"name\":\"d\",\"iops\":1,\"read_iops\":1}",
        "{\"name\":\"d\",\"bandwidth\":1,\"write_bandwidth\":1}",
        "{\"name\":\"d\",\"write_iops\":1099511627777}",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        JSON_OWNED json_t *config = NULL;
        if (complete(texts[i], &config) != ERROR_INVALID) {
            fprintf(stderr, "%s\n", texts[i]);
        }
        EXPECT(complete(texts[i], &config) == ERROR_INVALID && config == NULL);
    }
}

/* Of each kind by itself; 0 is no limit, and stands beside any other. */
TEST(volume_settings, rates_are_of_both_or_of_each)
{
    JSON_OWNED json_t *config = NULL;
    EXPECT(complete("{\"name\":\"d\",\"iops\":7,\"bandwidth\":0,\"read_bandwidth\":8,"
                    "\"write_bandwidth\":9,\"write_iops\":0}",
                    &config) == 0);
    const struct hypervisor_rates rates = volume_rates_of(config, "");
    EXPECT(rates.iops.both == 7 && rates.iops.reads == 0 && rates.iops.writes == 0);
    EXPECT(rates.bytes.both == 0 && rates.bytes.reads == 8 && rates.bytes.writes == 9);
    EXPECT(!hypervisor_rates_are_set(&(struct hypervisor_rates){0}));
    EXPECT(hypervisor_rates_are_set(&rates));
}

TEST(volume_settings, a_use_has_a_name_a_path_and_a_mode)
{
    struct volume_use use;
    struct error err = {0};
    EXPECT(volume_use_parse("data", &use, &err) == 0);
    EXPECT_STRING(use.name, "data");
    EXPECT(use.path[0] == '\0' && !use.is_read_only);
    EXPECT(volume_use_parse("data:ro", &use, &err) == 0);
    EXPECT(use.path[0] == '\0' && use.is_read_only);
    EXPECT(volume_use_parse("data:/var/lib/x:ro", &use, &err) == 0);
    EXPECT_STRING(use.path, "/var/lib/x");
    EXPECT(use.is_read_only);
    EXPECT(volume_use_parse("data:/srv:rw", &use, &err) == 0 && !use.is_read_only);
}

/* A path becomes a word of the kernel's command line, and a mount. */
TEST(volume_settings, a_use_that_is_none_is_refused)
{
    static const char *const texts[] = {
        "",          ":/srv",        "data:",          "data::ro",      "data:srv",
        "data:/",    "data:/a b",    "data:/a//b",     "data:/a/../b",  "data:/a/..",
        "data:/./a", "data:/a/",     "data:/dev",      "data:/dev/sda", "data:/proc/x",
        "data:/sys", "data:/run",    "data:/a\"b",     "data:/a=b\tc",  "Data:/srv",
        "-d:/srv",   "data:/a:b:ro", "data:/srv:ro:x",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct volume_use use;
        struct error err = {0};
        if (volume_use_parse(texts[i], &use, &err) != -ERROR_INVALID) {
            fprintf(stderr, "%s\n", texts[i]);
        }
        EXPECT(err.kind == ERROR_INVALID);
    }
    char longest[VOLUME_PATH_MAX + 16];
    struct volume_use use;
    struct error err = {0};
    memset(longest, 'a', sizeof(longest));
    memcpy(longest, "d:/", 3);
    longest[2 + VOLUME_PATH_MAX] = '\0';
    EXPECT(volume_use_parse(longest, &use, &err) == 0 && strlen(use.path) == VOLUME_PATH_MAX);
    longest[2 + VOLUME_PATH_MAX] = 'a';
    longest[3 + VOLUME_PATH_MAX] = '\0';
    EXPECT(volume_use_parse(longest, &use, &err) == -ERROR_INVALID);
    EXPECT_STRING(volume_use_parse("data:/devices", &use, &err) == 0 ? use.path : "", "/devices");
}
