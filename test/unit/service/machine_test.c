/* What is decided about machines, and what a setting may say. */
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"

#include "service/machine/decide.h"
#include "service/machine/parts.h"

#include "test/lib/test.h"

/* Goal: each change of a state has a name, and what is no change has none. */
TEST(machine_events, every_change_of_a_state_is_called_something)
{
    for (int before = 0; before < MACHINE_STATES; before++) {
        for (int state = 0; state < MACHINE_STATES; state++) {
            const char *type =
                machine_event_type((enum machine_state)before, (enum machine_state)state, false);
            EXPECT((type == NULL) == (before == state));
            EXPECT(type == NULL || strncmp(type, "vm.", 3) == 0);
        }
    }
    EXPECT_STRING(machine_event_type(MACHINE_STARTING, MACHINE_RUNNING, false), "vm.started");
    EXPECT_STRING(machine_event_type(MACHINE_STARTING, MACHINE_RUNNING, true), "vm.recovered");
    EXPECT_STRING(machine_event_type(MACHINE_PAUSED, MACHINE_RUNNING, true), "vm.resumed");
    EXPECT_STRING(machine_event_type(MACHINE_PREPARING, MACHINE_STOPPED, false), "vm.prepared");
    EXPECT_STRING(machine_event_type(MACHINE_BACKOFF, MACHINE_STOPPED, false), "vm.stopped");
}

TEST(machine, names_of_states_lead_back_to_them)
{
    for (int i = 0; i < MACHINE_STATES; i++) {
        enum machine_state state = MACHINE_FAILED;
        EXPECT(machine_state_parse(machine_state_text((enum machine_state)i), &state));
        EXPECT(state == (enum machine_state)i);
    }
    for (int i = 0; i < MACHINE_DESIREDS; i++) {
        enum machine_desired desired = MACHINE_DESIRED_DELETED;
        EXPECT(machine_desired_parse(machine_desired_text((enum machine_desired)i), &desired));
        EXPECT(desired == (enum machine_desired)i);
    }
    enum machine_strategy strategy = MACHINE_ONCE;
    EXPECT(!machine_strategy_parse("Sometimes", &strategy));
}

/* What an action makes of a state, if it succeeds. */
static enum machine_state after(enum machine_action action, enum machine_state state)
{
    switch (action) {
    case MACHINE_DO_PREPARE:
    case MACHINE_DO_KILL:
    case MACHINE_DO_SHUT_DOWN:
    case MACHINE_DO_SETTLE:
        return MACHINE_STOPPED;
    case MACHINE_DO_START:
    case MACHINE_DO_RESUME:
        return MACHINE_RUNNING;
    case MACHINE_DO_PAUSE:
        return MACHINE_PAUSED;
    case MACHINE_DO_NOTHING:
    case MACHINE_DO_REMOVE:
        break;
    }
    return state;
}

/* From any state in which nothing is under way, what is wanted comes about in a few steps. */
TEST(machine, what_is_wanted_is_reached_from_everywhere)
{
    static const enum machine_state starts[] = {MACHINE_CREATING, MACHINE_STOPPED, MACHINE_RUNNING,
                                                MACHINE_PAUSED};
    static const enum machine_desired wanted[] = {MACHINE_DESIRED_RUNNING, MACHINE_DESIRED_PAUSED,
                                                  MACHINE_DESIRED_STOPPED};
    for (size_t s = 0; s < 4; s++) {
        for (size_t w = 0; w < 3; w++) {
            enum machine_state state = starts[s];
            for (int i = 0; i < 4 && !machine_is_settled(wanted[w], state); i++) {
                state = after(machine_decide(wanted[w], state), state);
            }
            EXPECT(machine_is_settled(wanted[w], state));
            EXPECT(machine_decide(wanted[w], state) == MACHINE_DO_NOTHING);
        }
    }
}

TEST(machine, nothing_is_removed_while_it_lives)
{
    for (int i = 0; i < MACHINE_STATES; i++) {
        enum machine_state state = (enum machine_state)i;
        enum machine_action action = machine_decide(MACHINE_DESIRED_DELETED, state);
        EXPECT(action != MACHINE_DO_REMOVE || !machine_state_is_alive(state));
        EXPECT(action != MACHINE_DO_KILL || machine_state_is_alive(state));
    }
}

TEST(machine, strategies_say_what_runs_again)
{
    EXPECT(machine_runs_again(MACHINE_ALWAYS, MACHINE_DESIRED_RUNNING, false));
    EXPECT(machine_runs_again(MACHINE_RERUN_ON_FAILURE, MACHINE_DESIRED_RUNNING, true));
    EXPECT(!machine_runs_again(MACHINE_RERUN_ON_FAILURE, MACHINE_DESIRED_RUNNING, false));
    EXPECT(!machine_runs_again(MACHINE_ONCE, MACHINE_DESIRED_RUNNING, true));
    EXPECT(!machine_runs_again(MACHINE_MANUAL, MACHINE_DESIRED_RUNNING, true));
    EXPECT(!machine_runs_again(MACHINE_ALWAYS, MACHINE_DESIRED_STOPPED, true));
    EXPECT(machine_backoff_ms(1) == 1000);
    EXPECT(machine_backoff_ms(4) == 8000);
    EXPECT(machine_backoff_ms(1000) == 60000);
}

TEST(machine, published_ports_are_read_strictly)
{
    static const char *const bad[] = {"",
                                      "80",
                                      ":80",
                                      "80:",
                                      "0:80",
                                      "80:65536",
                                      "1.2.3:80:80",
                                      "host:80:80",
                                      "1.2.3.4.5:1:2",
                                      "80:80/sctp",
                                      "1.2.3.4:80:80:80",
                                      "-1:80",
                                      "[::1]:80:80",
                                      "1.2.3.400:80:80",
                                      "80:80 "};
    struct hypervisor_forward forward;
    char address[64];
    struct error err = {0};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(settings_parse_publish(bad[i], &forward, address, &err) == -ERROR_INVALID);
    }
    EXPECT(settings_parse_publish("8080:80", &forward, address, &err) == 0);
    EXPECT(forward.host_port == 8080 && forward.guest_port == 80 && !forward.is_udp);
    EXPECT(address[0] == '\0');
    EXPECT(settings_parse_publish("127.0.0.1:5353:53/udp", &forward, address, &err) == 0);
    EXPECT(forward.host_port == 5353 && forward.guest_port == 53 && forward.is_udp);
    EXPECT(strcmp(forward.address, "127.0.0.1") == 0);
}

TEST(machine, settings_are_completed_and_bounded)
{
    struct error err = {0};
    json_t *config = NULL;
    json_t *create = json_pack("{s:s, s:s}", "name", "web", "image", "debian");
    EXPECT(settings_complete(create, &config, &err) == 0);
    EXPECT(json_u64(config, "cpus") == 1);
    EXPECT(json_u64(config, "memory_bytes") == UINT64_C(256) << 20);
    EXPECT(strcmp(json_text(config, "hostname"), "web") == 0);
    json_decref(config);
    json_object_set_new(create, "memory_bytes", json_integer((128 << 20) + 1));
    EXPECT(settings_complete(create, &config, &err) == -ERROR_INVALID);
    json_object_set_new(create, "memory_bytes", json_integer(128 << 20));
    json_object_set_new(create, "strategy", json_string("Often"));
    EXPECT(settings_complete(create, &config, &err) == -ERROR_INVALID);
    json_decref(create);
}

/* A multiple is said that is near; nothing below what a machine has at least. */
TEST(machine, memory_of_huge_pages_is_a_multiple_of_them)
{
    static const struct {
        const char *size;
        uint64_t mib;
        const char *said; /* NULL: it is good */
    } rows[] = {{"2MiB", 64, NULL},
                {"2MiB", 65, "say 64 or 66 MiB"},
                {"1GiB", 2048, NULL},
                {"1GiB", 512, "say 1024 MiB"},
                {"1GiB", 1500, "say 1024 or 2048 MiB"},
                {"4KiB", 64, "2MiB or 1GiB"},
                {"2M", 64, "2MiB or 1GiB"},
                {"", 65, NULL}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct error err = {0};
        JSON_OWNED json_t *config = NULL;
        JSON_OWNED json_t *create =
            json_pack("{s:s, s:s, s:s, s:I}", "name", "web", "image", "debian", "huge_pages",
                      rows[i].size, "memory_bytes", (json_int_t)(rows[i].mib << 20));
        int r = settings_complete(create, &config, &err);
        EXPECT(r == (rows[i].said == NULL ? 0 : -ERROR_INVALID));
        EXPECT(rows[i].said == NULL || strstr(err.text, rows[i].said) != NULL);
    }
    JSON_OWNED json_t *huge = json_pack("{s:s}", "huge_pages", "1GiB");
    EXPECT(machine_config_page_bytes(huge) == UINT64_C(1) << 30);
}

/* No balloon takes what could not be given back: less memory waits for the next start, too. */
TEST(machine, memory_of_huge_pages_changes_with_the_next_start)
{
    JSON_OWNED json_t *then =
        json_pack("{s:I, s:s}", "memory_bytes", (json_int_t)128 << 20, "huge_pages", "2MiB");
    JSON_OWNED json_t *plain =
        json_pack("{s:I, s:n}", "memory_bytes", (json_int_t)128 << 20, "huge_pages");
    JSON_OWNED json_t *less =
        json_pack("{s:I, s:s}", "memory_bytes", (json_int_t)64 << 20, "huge_pages", "2MiB");
    JSON_OWNED json_t *small = json_pack("{s:I}", "memory_bytes", (json_int_t)64 << 20);
    JSON_OWNED json_t *waits = change_waiting(then, less);
    JSON_OWNED json_t *other = change_waiting(then, small);
    JSON_OWNED json_t *at_once = change_waiting(plain, small);
    EXPECT(json_array_size(waits) == 1);
    EXPECT(json_array_size(other) == 2);
    EXPECT(json_array_size(at_once) == 0);
}

/* What may hold passwords goes neither into the state nor into what is shown. */
TEST(machine, user_data_leaves_its_digest_in_the_settings)
{
    struct error err = {0};
    char *user_data = NULL;
    json_t *config = json_pack("{s:s, s:[s]}", "user_data", "#cloud-config\npassword: x\n",
                               "ssh_keys", "ssh-ed25519 AAAA me");
    EXPECT(seed_take_settings(config, &user_data, &err) == 0);
    EXPECT(strcmp(user_data, "#cloud-config\npassword: x\n") == 0);
    EXPECT(json_object_get(config, "user_data") == NULL);
    EXPECT(json_u64(config, "user_data_bytes") == 26);
    EXPECT(strlen(json_text(config, "user_data_digest")) == 64);
    EXPECT(seed_is_wanted(config));
    seed_wipe(&user_data);
    EXPECT(user_data == NULL);
    json_object_set_new(config, "user_data", json_string("root:x:0:0"));
    EXPECT(seed_take_settings(config, &user_data, &err) == -ERROR_INVALID);
    json_object_del(config, "user_data");
    json_object_set_new(config, "ssh_keys", json_pack("[s]", "ssh-rsa A\nssh-rsa B"));
    EXPECT(seed_take_settings(config, &user_data, &err) == -ERROR_INVALID);
    json_object_set_new(config, "ssh_keys", json_pack("[s]", "command=\"x\" ssh-rsa A"));
    EXPECT(seed_take_settings(config, &user_data, &err) == -ERROR_INVALID);
    EXPECT(user_data == NULL);
    json_decref(config);
}

TEST(machine, keys_are_added_once)
{
    struct buffer text = {0};
    json_t *keys = json_pack("[s, s]", "ssh-rsa A a", "ssh-rsa B b");
    buffer_append_string(&text, "ssh-rsa B b");
    EXPECT(keys_merge(keys, &text));
    EXPECT(strcmp(buffer_string(&text), "ssh-rsa B b\nssh-rsa A a\n") == 0);
    EXPECT(!keys_merge(keys, &text));
    buffer_done(&text);
    json_decref(keys);
}

static json_t *config_of(const char *text)
{
    json_error_t error;
    json_t *config = json_loads(text, 0, &error);
    EXPECT(config != NULL);
    return config;
}

#define WEB                                                                                   \
    "{\"name\":\"web\",\"image\":\"i\",\"cpus\":1,\"memory_bytes\":268435456,\"disk_bytes\":" \
    "67108864,\"publish\":[\"8080:80\"],\"health\":\"agent\",\"health_retries\":5}"

static int merge(const char *update, json_t **ret_config, struct error *err)
{
    json_t *config = config_of(WEB);
    json_t *said = config_of(update);
    *ret_config = NULL;
    int r = change_merge(config, said, ret_config, err);
    json_decref(config);
    json_decref(said);
    return r;
}

TEST(machine, a_change_keeps_what_it_does_not_say)
{
    struct error err = {0};
    json_t *config = NULL;
    EXPECT(merge("{\"strategy\":\"Always\",\"disk_bytes\":67108865}", &config, &err) == 0);
    EXPECT_STRING(json_text(config, "strategy"), "Always");
    EXPECT(json_u64(config, "disk_bytes") == UINT64_C(65) << 20);
    EXPECT(json_u64(config, "health_retries") == 5);
    EXPECT(json_array_size(json_object_get(config, "publish")) == 1);
    json_decref(config);
    EXPECT(merge("{\"health\":\"\",\"publish\":[]}", &config, &err) == 0);
    EXPECT(json_object_get(config, "health") == NULL);
    EXPECT(json_object_get(config, "health_retries") == NULL);
    EXPECT(json_object_get(config, "publish") == NULL);
    json_decref(config);
}

TEST(machine, a_change_that_cannot_be_is_refused)
{
    static const struct {
        const char *update;
        enum error_kind kind;
    } cases[] = {
        {"{}", ERROR_INVALID},
        {"{\"disk_bytes\":33554432}", ERROR_CONFLICT},
        {"{\"memory_bytes\":1}", ERROR_INVALID},
        {"{\"memory_bytes\":268435457}", ERROR_INVALID},
        {"{\"cpus\":1000000}", ERROR_INVALID},
        {"{\"strategy\":\"Sometimes\"}", ERROR_INVALID},
        {"{\"publish\":[\"80\"]}", ERROR_INVALID},
        {"{\"health\":\"ftp://:1\"}", ERROR_INVALID},
        {"{\"boot_timeout_ms\":1}", ERROR_INVALID},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct error err = {0};
        json_t *config = NULL;
        EXPECT(merge(cases[i].update, &config, &err) < 0);
        EXPECT(err.kind == cases[i].kind);
        EXPECT(config == NULL);
    }
}

static void expect_waiting(const char *booted, const char *config, const char *expected)
{
    json_t *then = config_of(booted);
    json_t *now = config_of(config);
    json_t *waiting = change_waiting(then, now);
    char *text = json_dumps(waiting, JSON_COMPACT);
    EXPECT_STRING(text, expected);
    free(text);
    json_decref(waiting);
    json_decref(now);
    json_decref(then);
}

TEST(machine, what_its_vmm_cannot_take_waits_for_the_next_start)
{
    expect_waiting("{}", WEB, "[]"); /* it does not run, or nothing was changed */
    expect_waiting("{\"cpus\":1,\"memory_bytes\":268435456,\"publish\":[\"8080:80\"],"
                   "\"cpu_limit_percent\":null}",
                   WEB, "[]");
    expect_waiting("{\"cpus\":2,\"memory_bytes\":134217728,\"publish\":null}", WEB,
                   "[\"cpus\",\"memory_bytes\",\"publish\"]");
    expect_waiting("{\"memory_bytes\":536870912}", WEB, "[]"); /* the balloon's */
    expect_waiting("{\"cpu_limit_percent\":50}", WEB, "[\"cpu_limit_percent\"]");
    expect_waiting("{\"publish\":null}", "{\"publish\":[\"1:1\"],\"networks\":[{}]}", "[]");
    expect_waiting("{\"publish\":null}", "{\"publish\":[]}", "[]");
}

TEST(machine, memory_of_all_has_a_limit_where_it_is_set)
{
    struct error err = {0};
    EXPECT(limits_admit(1000 << 20, 0, UINT64_C(1) << 50, 1, &err) == 0);
    EXPECT(limits_admit(1000 << 20, 50, 400 << 20, 100 << 20, &err) == 0);
    EXPECT(limits_admit(1000 << 20, 150, 1400 << 20, 100 << 20, &err) == 0);
    EXPECT(limits_admit(1000 << 20, 50, 400 << 20, 101 << 20, &err) < 0);
    EXPECT(err.kind == ERROR_LIMIT);
    EXPECT(strstr(err.text, "101 MiB") != NULL && strstr(err.text, "500 MiB") != NULL);
    EXPECT(limits_admit(1000 << 20, 50, UINT64_C(1) << 40, 1 << 20, &err) < 0); /* lowered since */
}
