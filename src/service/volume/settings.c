/* What a volume is to be: defaults, limits; and what a machine says about one. */
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/volume/parts.h"

#define SIZE_DEFAULT (UINT64_C(10) << 30)
#define RATE_MAX     (UINT64_C(1) << 40)

enum volume_format volume_config_format(const json_t *config)
{
    enum volume_format format = VOLUME_QCOW2;
    volume_format_parse(json_text(config, "format"), &format);
    return format;
}

bool volume_config_has_file_system(const json_t *config)
{
    return strcmp(json_text(config, "filesystem"), "none") != 0;
}

static int check_words(const json_t *config, struct error *err)
{
    enum volume_format format;
    const char *file_system = json_text(config, "filesystem");
    const char *from = json_text(config, "from_volume");
    bool is_encrypted =
        json_text(config, "secret")[0] != '\0' || json_is_true(json_object_get(config, "encrypt"));
    if (json_text(config, "format")[0] != '\0' &&
        !volume_format_parse(json_text(config, "format"), &format)) {
        return error_set(err, ERROR_INVALID, "format \"%.40s\" is neither qcow2 nor raw",
                         json_text(config, "format"));
    }
    if (file_system[0] != '\0' && strcmp(file_system, "ext4") != 0 &&
        strcmp(file_system, "none") != 0) {
        return error_set(err, ERROR_INVALID, "filesystem \"%.40s\" is neither ext4 nor none",
                         file_system);
    }
    if (is_encrypted && volume_config_format(config) == VOLUME_RAW) {
        return error_set(err, ERROR_INVALID, "an encrypted volume is of format qcow2, not raw");
    }
    if ((json_text(config, "from_snapshot")[0] != '\0') != (from[0] != '\0')) {
        return error_set(err, ERROR_INVALID,
                         "a clone is of a snapshot: from_volume and from_snapshot together");
    }
    if (from[0] != '\0' &&
        (is_encrypted || file_system[0] != '\0' || json_text(config, "format")[0] != '\0')) {
        return error_set(err, ERROR_INVALID,
                         "a clone has the format, the file system and the key of what it is a "
                         "clone of: do not say them");
    }
    return 0;
}

/* ---- Rates ---- */

static const char *const rate_names[VOLUME_RATES] = {
    "iops", "read_iops", "write_iops", "bandwidth", "read_bandwidth", "write_bandwidth"};

const char *volume_rate_name(size_t index)
{
    return rate_names[index];
}

/* Of each kind, together or each by itself: QEMU's throttle groups know no other way. */
int volume_rates_check(const json_t *config, const char *prefix, struct error *err)
{
    uint64_t rates[VOLUME_RATES] = {0};
    for (size_t i = 0; i < VOLUME_RATES; i++) {
        MEMORY_OWNED char *name = memory_format("%s%s", prefix, rate_names[i]);
        rates[i] = json_u64(config, name);
        int r = error_check_range(name, rates[i], 0, RATE_MAX, err);
        if (r < 0) {
            return r;
        }
    }
    for (size_t i = 0; i < VOLUME_RATES; i += VOLUME_RATES / 2) {
        if (rates[i] > 0 && (rates[i + 1] > 0 || rates[i + 2] > 0)) {
            return error_set(err, ERROR_INVALID,
                             "%s%s limits reading and writing together: either that, or %s%s and "
                             "%s%s (0: not limited)",
                             prefix, rate_names[i], prefix, rate_names[i + 1], prefix,
                             rate_names[i + 2]);
        }
    }
    return 0;
}

struct hypervisor_rates volume_rates_of(const json_t *config, const char *prefix)
{
    uint64_t rates[VOLUME_RATES] = {0};
    for (size_t i = 0; i < VOLUME_RATES; i++) {
        MEMORY_OWNED char *name = memory_format("%s%s", prefix, rate_names[i]);
        rates[i] = json_u64(config, name);
    }
    return (struct hypervisor_rates){.iops = {rates[0], rates[1], rates[2]},
                                     .bytes = {rates[3], rates[4], rates[5]}};
}

int volume_config_complete(const json_t *create, json_t **ret_config, struct error *err)
{
    JSON_OWNED json_t *config = json_deep_copy(create);
    const char *name = json_text(config, "name");
    bool is_clone = json_text(config, "from_volume")[0] != '\0';
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.64s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a "
                         "letter",
                         name);
    }
    int r = check_words(config, err);
    r = r < 0 ? r : volume_rates_check(config, "", err);
    if (r < 0) {
        return r;
    }
    if (!is_clone) {
        json_object_set_new(config, "format",
                            json_string(volume_format_text(volume_config_format(config))));
        if (json_text(config, "filesystem")[0] == '\0') {
            json_object_set_new(config, "filesystem", json_string("ext4"));
        }
        if (json_u64(config, "size_bytes") == 0) {
            json_object_set_new(config, "size_bytes", json_integer((json_int_t)SIZE_DEFAULT));
        }
    }
    *ret_config = config;
    config = NULL;
    return 0;
}

/* ---- What a machine says ---- */

/* It becomes a word of a kernel's command line. */
static bool is_path(const char *path)
{
    size_t length = strlen(path);
    return path[0] == '/' && length > 1 && length <= VOLUME_PATH_MAX && path[length - 1] != '/' &&
        strspn(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+") ==
        length &&
        strstr(path, "//") == NULL && strstr(path, "/../") == NULL && strstr(path, "/./") == NULL &&
        !text_ends_with(path, "/..") && !text_ends_with(path, "/.");
}

int volume_use_check(const struct volume_use *use, struct error *err)
{
    static const char *const taken[] = {"/dev", "/proc", "/sys", "/run"};
    if (!text_is_name(use->name)) {
        return error_set(err, ERROR_INVALID, "\"%.64s\" is no name of a volume", use->name);
    }
    if (use->path[0] == '\0') {
        return 0;
    }
    if (!is_path(use->path)) {
        return error_set(err, ERROR_INVALID,
                         "volume %s: \"%.96s\" is no path to mount at: /NAME/..., at most %d "
                         "letters, digits, '.', '_', '-' and '+'",
                         use->name, use->path, VOLUME_PATH_MAX);
    }
    for (size_t i = 0; i < sizeof(taken) / sizeof(taken[0]); i++) {
        size_t length = strlen(taken[i]);
        if (strncmp(use->path, taken[i], length) == 0 &&
            (use->path[length] == '/' || use->path[length] == '\0')) {
            return error_set(err, ERROR_INVALID, "volume %s: %s is the system's", use->name,
                             taken[i]);
        }
    }
    return 0;
}

int volume_use_parse(const char *text, struct volume_use *ret_use, struct error *err)
{
    struct volume_use use = {0};
    size_t length = strlen(text);
    if (text_ends_with(text, ":ro")) {
        use.is_read_only = true;
        length -= 3;
    } else if (text_ends_with(text, ":rw")) {
        length -= 3;
    }
    const char *colon = memchr(text, ':', length);
    size_t name = colon != NULL ? (size_t)(colon - text) : length;
    size_t path = colon != NULL ? length - name - 1 : 0;
    if (name == 0 || name >= sizeof(use.name) || path >= sizeof(use.path) ||
        (colon != NULL && path == 0)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.120s\" is not NAME[:PATH][:ro], as in data:/var/lib/postgresql",
                         text);
    }
    memcpy(use.name, text, name);
    if (path > 0) {
        memcpy(use.path, colon + 1, path);
    }
    int r = volume_use_check(&use, err);
    if (r == 0) {
        *ret_use = use;
    }
    return r;
}
