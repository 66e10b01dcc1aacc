/* Health of machines as it is decided and said, and the program that one runs. */
#include <jansson.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "service/machine/parts.h"

#include "test/lib/test.h"

TEST(machine_health, is_lost_after_so_many_bad_checks_in_a_row)
{
    const struct machine_health_rule rule = {.retries = 3, .start_period_ms = 1000};
    enum machine_health starting = MACHINE_HEALTH_STARTING;
    enum machine_health healthy = MACHINE_HEALTH_HEALTHY;
    EXPECT(machine_health_after(starting, true, 0, 0, &rule) == MACHINE_HEALTH_HEALTHY);
    EXPECT(machine_health_after(healthy, false, 2, 0, &rule) == MACHINE_HEALTH_HEALTHY);
    EXPECT(machine_health_after(healthy, false, 3, 0, &rule) == MACHINE_HEALTH_UNHEALTHY);
    EXPECT(machine_health_after(MACHINE_HEALTH_UNHEALTHY, false, 9, 0, &rule) ==
           MACHINE_HEALTH_UNHEALTHY);
    EXPECT(machine_health_after(MACHINE_HEALTH_UNHEALTHY, true, 0, 0, &rule) ==
           MACHINE_HEALTH_HEALTHY);
}

TEST(machine_health, bad_checks_do_not_count_while_it_starts)
{
    const struct machine_health_rule rule = {.retries = 1, .start_period_ms = 1000};
    EXPECT(machine_health_after(MACHINE_HEALTH_STARTING, false, 50, 999, &rule) ==
           MACHINE_HEALTH_STARTING);
    EXPECT(machine_health_after(MACHINE_HEALTH_STARTING, false, 51, 1000, &rule) ==
           MACHINE_HEALTH_UNHEALTHY);
    /* It was good once: it does count. */
    EXPECT(machine_health_after(MACHINE_HEALTH_HEALTHY, false, 1, 10, &rule) ==
           MACHINE_HEALTH_UNHEALTHY);
}

static int check(const char *health)
{
    struct error err = {0};
    JSON_OWNED json_t *config = json_pack("{s:s}", "health", health);
    return health_check(config, &err);
}

TEST(machine_health, checks_are_of_the_machine_itself)
{
    static const char *const good[] = {"agent",
                                       "tcp://:5432",
                                       "http://:80/healthz",
                                       "http://localhost:8080",
                                       "http://127.0.0.1:1/a?b=c",
                                       "exec:test -e /ok"};
    static const char *const bad[] = {
        "agents",    "tcp://:0", "tcp://:65536", "tcp://:80/x",   "http://example.com:80/",
        "http://:/", "exec:",    "http://80",    "https://:443/", "tcp://"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        EXPECT(check(good[i]) == 0);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        EXPECT(check(bad[i]) == -ERROR_INVALID);
    }
}

TEST(machine_health, what_has_no_effect_is_refused)
{
    struct error err = {0};
    JSON_OWNED json_t *alone = json_pack("{s:i}", "health_retries", 3);
    JSON_OWNED json_t *odd = json_pack("{s:s, s:s}", "health", "agent", "health_action", "pray");
    JSON_OWNED json_t *never = json_pack("{s:s, s:i}", "health", "agent", "health_retries", 0);
    EXPECT(health_check(alone, &err) == -ERROR_INVALID);
    EXPECT(health_check(odd, &err) == -ERROR_INVALID);
    EXPECT(health_check(never, &err) == -ERROR_INVALID);
}

static char *merged(const char *image, const char *create)
{
    struct error err = {0};
    JSON_OWNED json_t *from = json_loads(image, 0, NULL);
    JSON_OWNED json_t *config = json_loads(create, 0, NULL);
    EXPECT(from != NULL && config != NULL);
    return program_merge(from, config, &err) < 0
        ? NULL
        : json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
}

TEST(machine_program, is_merged_as_docker_does)
{
    static const char image[] = "{\"entrypoint\":[\"/e\"],\"command\":[\"c\"],\"environment\":["
                                "\"A=1\",\"AB=2\",\"odd\"],\"user\":\"u\",\"folder\":\"/w\"}";
    static const struct {
        const char *create;
        const char *result;
    } rows[] = {
        {"{}",
         "{\"arguments\":[\"/e\",\"c\"],\"environment\":[\"A=1\",\"AB=2\"],\"folder\":\"/w\","
         "\"user\":\"u\"}"},
        {"{\"command\":[\"x\"],\"environment\":[\"A=3\"]}",
         "{\"arguments\":[\"/e\",\"x\"],\"environment\":[\"AB=2\",\"A=3\"],\"folder\":\"/w\","
         "\"user\":\"u\"}"},
        {"{\"entrypoint\":[\"/o\"]}",
         "{\"arguments\":[\"/o\"],\"environment\":[\"A=1\",\"AB=2\"],\"folder\":\"/w\","
         "\"user\":\"u\"}"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        MEMORY_OWNED char *text = merged(image, rows[i].create);
        EXPECT_STRING(text, rows[i].result);
    }
    MEMORY_OWNED char *plain = merged("{}", "{}");
    EXPECT_STRING(plain, "{}");
    EXPECT(merged("{}", "{\"environment\":[\"A=1\"]}") == NULL);
}
