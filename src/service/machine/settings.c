/* What a machine is to be: defaults, limits, published ports. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/placement/placement.h"

#include "service/machine/devices.h"
#include "service/machine/parts.h"
#include "service/network/network.h"
#include "service/quota/quota.h"
#include "service/volume/volume.h"

#define MIB            (UINT64_C(1) << 20)
#define MEMORY_DEFAULT (256 * MIB)
#define DISK_DEFAULT   (8192 * MIB)
#define DISK_MIN       (16 * MIB)
#define BOOT_MIN_MS    1000
#define BOOT_MAX_MS    86400000
#define DISK_MAX       (UINT64_C(64) << 40)

/* Locally administered, and as many as there are ids of 40 bits. */
void settings_mac(const char *id, char ret_mac[18])
{
    snprintf(ret_mac, 18, "02:%.2s:%.2s:%.2s:%.2s:%.2s", id, id + 2, id + 4, id + 6, id + 8);
}

void settings_mac_bytes(const char *id, uint8_t ret_mac[6])
{
    char text[18];
    unsigned bytes[6] = {0};
    settings_mac(id, text);
    sscanf(text, "%x:%x:%x:%x:%x:%x", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4],
           &bytes[5]);
    for (int i = 0; i < 6; i++) {
        ret_mac[i] = (uint8_t)bytes[i];
    }
}

int settings_parse_publish(const char *text, struct hypervisor_forward *ret_forward,
                           char ret_address[64], struct error *err)
{
    struct network_publish publish;
    int r = network_publish_parse(text, &publish, err);
    if (r == 0) {
        snprintf(ret_address, 64, "%s", publish.address);
        *ret_forward = (struct hypervisor_forward){.address = ret_address,
                                                   .host_port = publish.host_port,
                                                   .guest_port = publish.guest_port,
                                                   .is_udp = publish.is_udp};
    }
    return r;
}

bool settings_is_firmware(const char *text)
{
    return text[0] == '\0' || strcmp(text, "bios") == 0 || strcmp(text, "uefi") == 0;
}

/* What becomes of each.  Where several are named to people, it is in this order. */
const struct machine_setting machine_settings[] = {
    {"image", SETTING_TRAVELS | SETTING_RUNNERS},
    {"cpus", SETTING_CHANGES | SETTING_AT_START | SETTING_TRAVELS},
    {"memory_bytes", SETTING_CHANGES | SETTING_AT_START | SETTING_TRAVELS},
    {"huge_pages", SETTING_CHANGES | SETTING_AT_START | SETTING_TRAVELS | SETTING_RUNNERS},
    {"disk_bytes", SETTING_CHANGES | SETTING_TRAVELS},
    {"publish", SETTING_CHANGES | SETTING_AT_START},
    {"strategy", SETTING_CHANGES | SETTING_TRAVELS},
    {"cpu_limit_percent", SETTING_CHANGES | SETTING_AT_START | SETTING_TRAVELS},
    {"boot_timeout_ms", SETTING_CHANGES | SETTING_TRAVELS | SETTING_OURS},
    {"health", SETTING_CHANGES | SETTING_TRAVELS | SETTING_OURS},
    {"health_action", SETTING_CHANGES | SETTING_TRAVELS},
    {"health_start_period_ms", SETTING_CHANGES | SETTING_TRAVELS},
    {"health_interval_ms", SETTING_CHANGES | SETTING_TRAVELS},
    {"health_timeout_ms", SETTING_CHANGES | SETTING_TRAVELS},
    {"health_retries", SETTING_CHANGES | SETTING_TRAVELS},
    {"disk_iops", SETTING_CHANGES | SETTING_AT_START | SETTING_TRAVELS | SETTING_OURS},
    {"disk_bandwidth", SETTING_CHANGES | SETTING_AT_START | SETTING_TRAVELS | SETTING_OURS},
    {"disk_read_iops", SETTING_CHANGES | SETTING_AT_START | SETTING_TRAVELS | SETTING_OURS},
    {"disk_write_iops", SETTING_CHANGES | SETTING_AT_START | SETTING_TRAVELS | SETTING_OURS},
    {"disk_read_bandwidth", SETTING_CHANGES | SETTING_AT_START | SETTING_TRAVELS | SETTING_OURS},
    {"disk_write_bandwidth", SETTING_CHANGES | SETTING_AT_START | SETTING_TRAVELS | SETTING_OURS},
    {"constraints", SETTING_CHANGES},
    {"affinities", SETTING_CHANGES},
    {"spreads", SETTING_CHANGES},
    {"tolerations", SETTING_CHANGES},
    {"placement_group", SETTING_CHANGES},
    {"node_pool", SETTING_CHANGES},
    {"reservation", SETTING_CHANGES},
    {"priority", SETTING_CHANGES},
    {"dedicated_cpus", SETTING_CHANGES},
    {"eviction_strategy", SETTING_CHANGES},
    {"node_loss", SETTING_CHANGES},
    {"rebalance", SETTING_CHANGES},
    {"runner", SETTING_CHANGES | SETTING_AT_START},
    {"flake", SETTING_CHANGES},
    {"cmdline", SETTING_TRAVELS | SETTING_RUNNERS},
    {"machine_type", SETTING_TRAVELS | SETTING_RUNNERS},
    {"firmware", SETTING_TRAVELS | SETTING_RUNNERS},
    {"ssh_keys", SETTING_TRAVELS | SETTING_RUNNERS},
    {"user_data", SETTING_RUNNERS},
    {"entrypoint", SETTING_RUNNERS},
    {"command", SETTING_RUNNERS},
    {"environment", SETTING_TRAVELS | SETTING_RUNNERS},
    {"shares", SETTING_RUNNERS},
    {"devices", 0},
    {"volumes", SETTING_OURS},
    {"driver", SETTING_TRAVELS},
    {"kernel", SETTING_TRAVELS},
    {"initrd", SETTING_TRAVELS},
    {"root", SETTING_TRAVELS},
    {"root_format", SETTING_TRAVELS},
    {"disk", SETTING_TRAVELS},
    {"disk_format", SETTING_TRAVELS},
    {"without_agent", SETTING_TRAVELS},
    {"arguments", SETTING_TRAVELS},
    {"folder", SETTING_TRAVELS},
    {"user", SETTING_TRAVELS},
    {"user_data_digest", SETTING_TRAVELS},
    {"user_data_bytes", SETTING_TRAVELS},
    {"cells", SETTING_TRAVELS},
    {NULL, 0},
};

enum hypervisor_board settings_board(const json_t *config)
{
    return strcmp(json_text(config, "machine_type"), "q35") == 0 ? HYPERVISOR_Q35
                                                                 : HYPERVISOR_MICROVM;
}

/* ---- Completing ---- */

static void fill_u64(json_t *config, const char *key, uint64_t otherwise)
{
    const json_t *value = json_object_get(config, key);
    if (value == NULL || json_is_null(value)) {
        json_object_set_new(config, key, json_integer((json_int_t)otherwise));
    }
}

static void fill_text(json_t *config, const char *key, const char *otherwise)
{
    if (json_text(config, key)[0] == '\0') {
        json_object_set_new(config, key, json_string(otherwise));
    }
}

static int check_published(const json_t *list, struct error *err)
{
    size_t index = 0;
    json_t *value = NULL;
    if (json_array_size(list) > MACHINE_PUBLISHED_MAX) {
        return error_set(err, ERROR_INVALID, "publish: at most %d ports", MACHINE_PUBLISHED_MAX);
    }
    json_array_foreach(list, index, value)
    {
        struct hypervisor_forward forward;
        char address[64];
        if (settings_parse_publish(json_string_value(value), &forward, address, err) < 0) {
            return -(int)err->kind;
        }
    }
    return 0;
}

static int check_strategy(const json_t *config, struct error *err)
{
    enum machine_strategy strategy;
    const char *text = json_text(config, "strategy");
    return machine_strategy_parse(text, &strategy)
        ? 0
        : error_set(err, ERROR_INVALID,
                    "strategy \"%.40s\" is none of Always, RerunOnFailure, Once, Manual, Halted",
                    text);
}

/* What becomes of it when its node is drained or lost, or another one has more room. */
static int check_node_life(const json_t *config, struct error *err)
{
    static const struct {
        const char *key;
        const char *choices[4];
    } settings[] = {
        {"eviction_strategy", {"migrate", "restart", "none", NULL}},
        {"node_loss", {"wait", "restart-fresh", NULL}},
        {"rebalance", {"allow", "never", NULL}},
    };
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        const char *text = json_text(config, settings[i].key);
        bool is_one = text[0] == '\0';
        for (const char *const *choice = settings[i].choices; *choice != NULL; choice++) {
            is_one = is_one || strcmp(*choice, text) == 0;
        }
        if (!is_one) {
            return error_set(err, ERROR_INVALID, "%s \"%.40s\" is none of %s, %s%s%s",
                             settings[i].key, text, settings[i].choices[0], settings[i].choices[1],
                             settings[i].choices[2] != NULL ? ", " : "",
                             settings[i].choices[2] != NULL ? settings[i].choices[2] : "");
        }
    }
    return 0;
}

static int check_machine_type(const json_t *config, struct error *err)
{
    const char *type = json_text(config, "machine_type");
    if (type[0] != '\0' && strcmp(type, "microvm") != 0 && strcmp(type, "q35") != 0) {
        return error_set(err, ERROR_INVALID, "machine_type is microvm or q35, not %.32s", type);
    }
    return settings_is_firmware(json_text(config, "firmware"))
        ? 0
        : error_set(err, ERROR_INVALID, "firmware is bios or uefi, not %.32s",
                    json_text(config, "firmware"));
}

uint64_t machine_config_page_bytes(const json_t *config)
{
    const char *size = json_text(config, "huge_pages");
    return strcmp(size, "2MiB") == 0 ? HYPERVISOR_PAGE_2M
        : strcmp(size, "1GiB") == 0  ? HYPERVISOR_PAGE_1G
                                     : 0;
}

int machine_config_check_pages(const json_t *config, struct error *err)
{
    const char *size = json_text(config, "huge_pages");
    uint64_t page = machine_config_page_bytes(config);
    uint64_t memory = json_u64(config, "memory_bytes");
    if (size[0] != '\0' && page == 0) {
        return error_set(err, ERROR_INVALID, "huge_pages is 2MiB or 1GiB, not \"%.32s\"", size);
    }
    if (page == 0 || memory % page == 0) {
        return 0;
    }
    uint64_t below = memory - memory % page;
    return below < HYPERVISOR_MEMORY_MIN
        ? error_set(err, ERROR_INVALID,
                    "huge pages of %s: memory_bytes is to be a multiple of that, and %" PRIu64
                    " MiB is not: say %" PRIu64 " MiB",
                    size, memory / MIB, (below + page) / MIB)
        : error_set(err, ERROR_INVALID,
                    "huge pages of %s: memory_bytes is to be a multiple of that, and %" PRIu64
                    " MiB is not: say %" PRIu64 " or %" PRIu64 " MiB",
                    size, memory / MIB, below / MIB, (below + page) / MIB);
}

static int check_limits(const json_t *config, struct error *err)
{
    uint64_t memory = json_u64(config, "memory_bytes");
    int r = error_check_range("cpus", json_u64(config, "cpus"), 1, HYPERVISOR_CPUS_MAX, err);
    r = r < 0 ? r
              : error_check_range("memory_bytes", memory, HYPERVISOR_MEMORY_MIN,
                                  HYPERVISOR_MEMORY_MAX, err);
    r = r < 0
        ? r
        : error_check_range("disk_bytes", json_u64(config, "disk_bytes"), DISK_MIN, DISK_MAX, err);
    if (r == 0 && json_object_get(config, "cpu_limit_percent") != NULL) {
        r = error_check_range("cpu_limit_percent", json_u64(config, "cpu_limit_percent"), 1,
                              HYPERVISOR_CPUS_MAX * 100, err);
    }
    r = r < 0 ? r : volume_rates_check(config, "disk_", err);
    if (r == 0 && memory % MIB != 0) {
        return error_set(err, ERROR_INVALID, "memory_bytes is to be whole MiB");
    }
    return r < 0 ? r : machine_config_check_pages(config, err);
}

/* ---- Where it may be ---- */

json_t *machine_config_rules(const json_t *config)
{
    static const char *const members[][2] = {{"constraints", "constraints"},
                                             {"affinities", "affinities"},
                                             {"spreads", "spread"},
                                             {"tolerations", "tolerations"},
                                             {"node_pool", "pool"}};
    json_t *rules = json_object();
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        const json_t *value = json_object_get(config, members[i][0]);
        if (value != NULL && !json_is_null(value)) {
            json_object_set_new(rules, members[i][1], json_deep_copy(value));
        }
    }
    return rules;
}

/* --node is a constraint: what is one is refused together with what contradicts it. */
static void take_node(json_t *config)
{
    const char *node = json_text(config, "node");
    json_t *constraints = json_object_get(config, "constraints");
    if (node[0] != '\0') {
        MEMORY_OWNED char *line = memory_format("${node.name} = %s", node);
        if (constraints == NULL) {
            constraints = json_array();
            json_object_set_new(config, "constraints", constraints);
        }
        json_array_append_new(constraints, json_string(line));
    }
    json_object_del(config, "node");
    json_object_del(config, "wait_for_room");
}

static int check_rules(json_t *config, struct error *err)
{
    JSON_OWNED json_t *rules = machine_config_rules(config);
    struct placement_rules *read = NULL;
    int r = placement_rules_read(rules, &read, err);
    placement_rules_unref(read);
    if (r == 0 && json_object_get(config, "priority") != NULL &&
        json_u64(config, "priority") > PLACEMENT_PRIORITY_MAX) {
        r = error_set(err, ERROR_INVALID, "priority is 0 to %d", PLACEMENT_PRIORITY_MAX);
    }
    return r;
}

int settings_complete(const json_t *create, json_t **ret_config, struct error *err)
{
    JSON_OWNED json_t *config = json_deep_copy(create);
    const char *name = json_text(config, "name");
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.64s\" is no name: 1 to 63 of a-z, 0-9 and '-', beginning with a "
                         "letter",
                         name);
    }
    int r = runner_complete(config, err);
    if (r < 0) {
        return r;
    }
    fill_u64(config, "cpus", 1);
    fill_u64(config, "memory_bytes", MEMORY_DEFAULT);
    fill_u64(config, "disk_bytes", DISK_DEFAULT);
    fill_text(config, "strategy", "RerunOnFailure");
    fill_text(config, "hostname", name);
    take_node(config);
    r = check_limits(config, err);
    r = r < 0 ? r : check_rules(config, err);
    r = r < 0 ? r : check_strategy(config, err);
    r = r < 0 ? r : check_machine_type(config, err);
    r = r < 0 ? r : devices_complete(config, err);
    r = r < 0 ? r : check_node_life(config, err);
    r = r < 0 ? r : check_published(json_object_get(config, "publish"), err);
    r = r < 0 ? r : program_check(config, err);
    r = r < 0 ? r : health_check(config, err);
    if (r == 0 && json_object_get(config, "boot_timeout_ms") != NULL) {
        r = error_check_range("boot_timeout_ms", json_u64(config, "boot_timeout_ms"), BOOT_MIN_MS,
                              BOOT_MAX_MS, err);
    }
    if (r == 0 && !text_is_name(json_text(config, "hostname"))) {
        r = error_set(err, ERROR_INVALID, "hostname is no host name");
    }
    if (r == 0) {
        *ret_config = config;
        config = NULL;
    }
    return r;
}

/* ---- Quotas ---- */

static uint64_t more_of(const json_t *before, const json_t *config, const char *key)
{
    uint64_t had = json_u64(before, key);
    uint64_t has = json_u64(config, key);
    return has > had ? has - had : 0;
}

void settings_add_quota(const struct machine_service *service, struct store_command *command,
                        const char *project, const json_t *before, const json_t *config)
{
    uint64_t had = devices_count(before);
    uint64_t has = devices_count(config);
    const struct quota_ask ask = {
        .cpus = more_of(before, config, "cpus"),
        .memory_bytes = more_of(before, config, "memory_bytes"),
        .disk_bytes = more_of(before, config, "disk_bytes"),
        .machines = before == NULL ? 1 : 0,
        .devices = has > had ? has - had : 0,
    };
    if (ask.cpus + ask.memory_bytes + ask.disk_bytes + ask.machines + ask.devices > 0) {
        quota_add_check(service->options.store, command, project, &ask);
    }
}
