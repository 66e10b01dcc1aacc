/*
 * Health of machines: checked at intervals by their agents, from inside.
 *
 *   agent             the agent answers
 *   tcp://:PORT       a connection is taken
 *   http://:PORT/PATH GET is answered with 200 to 399
 *   exec:COMMAND      /bin/sh -c COMMAND ends with 0
 *
 * A check begins anew with each boot.  While a machine stands still it is not checked; an agent
 * that does not answer is a check that failed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/machine/parts.h"

enum {
    INTERVAL_MS = 30000,
    TIMEOUT_MS = 5000,
    RETRIES = 3,
    START_PERIOD_MS = 60000,
    EAGER_MS = 1000, /* between checks until the first that is good */
    TIME_MIN_MS = 100,
    TIME_MAX_MS = 86400000,
    RETRIES_MAX = 1000,
    TEXT_BYTES_MAX = 4096,
};

enum kind { KIND_AGENT, KIND_TCP, KIND_HTTP, KIND_EXEC };

struct health {
    struct machine *machine;
    struct loop_timer *timer;
    struct agent_call *call;
    enum kind kind;
    uint16_t port;
    char *argument; /* path or command */
    uint64_t interval_ms;
    uint64_t timeout_ms;
    struct machine_health_rule rule;
    bool restarts;
    enum machine_health state;
    char reason[256];
    unsigned failures; /* in a row */
    uint64_t began_ms;
};

/* ---- What is to be checked ---- */

/* "[127.0.0.1|localhost]:PORT[/PATH]": a check is made inside the machine, of its own loopback. */
static bool parse_place(const char *text, bool has_path, uint16_t *ret_port, const char **ret_path)
{
    static const char *const hosts[] = {"127.0.0.1", "localhost", ""};
    const char *colon = strchr(text, ':');
    uint64_t port = 0;
    if (colon == NULL) {
        return false;
    }
    const char *slash = strchr(colon, '/');
    size_t digits = slash != NULL ? (size_t)(slash - colon - 1) : strlen(colon + 1);
    bool is_here = false;
    for (size_t i = 0; i < sizeof(hosts) / sizeof(hosts[0]); i++) {
        is_here = is_here || text_equal(text_of(text, (size_t)(colon - text)), hosts[i]);
    }
    if (!is_here || !text_parse_u64(text_of(colon + 1, digits), &port) || port == 0 ||
        port > UINT16_MAX || (slash != NULL && !has_path)) {
        return false;
    }
    *ret_port = (uint16_t)port;
    *ret_path = slash != NULL ? slash : "/";
    return true;
}

static bool parse(const char *text, enum kind *ret_kind, uint16_t *ret_port, const char **ret_rest)
{
    *ret_rest = "";
    if (strlen(text) > TEXT_BYTES_MAX) {
        return false;
    }
    if (strcmp(text, "agent") == 0) {
        *ret_kind = KIND_AGENT;
        return true;
    }
    if (text_starts_with(text, "exec:")) {
        *ret_kind = KIND_EXEC;
        *ret_rest = text + 5;
        return text[5] != '\0';
    }
    if (text_starts_with(text, "tcp://")) {
        *ret_kind = KIND_TCP;
        return parse_place(text + 6, false, ret_port, ret_rest);
    }
    *ret_kind = KIND_HTTP;
    return text_starts_with(text, "http://") && parse_place(text + 7, true, ret_port, ret_rest) &&
        text_is_printable(*ret_rest);
}

static int check_range(const json_t *config, const char *key, uint64_t least, uint64_t most,
                       struct error *err)
{
    return json_object_get(config, key) == NULL
        ? 0
        : error_check_range(key, json_u64(config, key), least, most, err);
}

int health_check(const json_t *config, struct error *err)
{
    static const char *const others[] = {"health_interval_ms", "health_timeout_ms",
                                         "health_start_period_ms", "health_retries",
                                         "health_action"};
    enum kind kind;
    uint16_t port = 0;
    const char *rest = NULL;
    const char *text = json_text(config, "health");
    const char *action = json_text(config, "health_action");
    for (size_t i = 0; text[0] == '\0' && i < sizeof(others) / sizeof(others[0]); i++) {
        if (json_object_get(config, others[i]) != NULL) {
            return error_set(err, ERROR_INVALID, "%s has no effect without health", others[i]);
        }
    }
    if (text[0] != '\0' && !parse(text, &kind, &port, &rest)) {
        return error_set(
            err, ERROR_INVALID,
            "health \"%.80s\" is none of http://:PORT/PATH, tcp://:PORT, exec:COMMAND, "
            "agent",
            text);
    }
    if (action[0] != '\0' && strcmp(action, "restart") != 0 && strcmp(action, "none") != 0) {
        return error_set(err, ERROR_INVALID, "health_action \"%.20s\" is neither restart nor none",
                         action);
    }
    int r = check_range(config, "health_interval_ms", TIME_MIN_MS, TIME_MAX_MS, err);
    r = r < 0 ? r : check_range(config, "health_timeout_ms", TIME_MIN_MS, TIME_MAX_MS, err);
    r = r < 0 ? r : check_range(config, "health_start_period_ms", 0, TIME_MAX_MS, err);
    return r < 0 ? r : check_range(config, "health_retries", 1, RETRIES_MAX, err);
}

static uint64_t setting(const json_t *config, const char *key, uint64_t otherwise)
{
    return json_object_get(config, key) != NULL ? json_u64(config, key) : otherwise;
}

static struct health *health_new(struct machine *machine)
{
    struct health *health = NEW(struct health);
    const json_t *config = machine->config;
    const char *rest = "";
    parse(json_text(config, "health"), &health->kind, &health->port, &rest);
    health->machine = machine;
    health->argument = memory_copy_string(rest);
    health->interval_ms = setting(config, "health_interval_ms", INTERVAL_MS);
    health->timeout_ms = setting(config, "health_timeout_ms", TIMEOUT_MS);
    health->rule.retries = (unsigned)setting(config, "health_retries", RETRIES);
    health->rule.start_period_ms = setting(config, "health_start_period_ms", START_PERIOD_MS);
    health->restarts = strcmp(json_text(config, "health_action"), "none") != 0;
    health->state = MACHINE_HEALTH_STARTING;
    health->began_ms = clock_monotonic_ms();
    return health;
}

/* ---- A check ---- */

static void wait_for_next(struct health *health)
{
    bool is_eager = health->state == MACHINE_HEALTH_STARTING && health->interval_ms > EAGER_MS;
    loop_timer_start(health->timer, is_eager ? EAGER_MS : health->interval_ms);
}

static void set_state(struct health *health, enum machine_health state)
{
    struct machine *machine = health->machine;
    if (health->state == state) {
        return;
    }
    health->state = state;
    log_info("machine %s: %s%s%s", machine->key, machine_health_text(state),
             health->reason[0] != '\0' ? ": " : "", health->reason);
    MEMORY_OWNED char *reason =
        memory_format("%s%s%s", machine_health_text(state), health->reason[0] != '\0' ? ": " : "",
                      health->reason);
    events_note(machine, "vm.health-changed", reason);
    state_publish(machine);
    machine_tell_others(machine);
}

/* May end the machine, and with it the health. */
static void judge(struct health *health, const char *problem)
{
    struct machine *machine = health->machine;
    bool is_good = problem == NULL;
    health->failures = is_good ? 0 : health->failures + 1;
    machine->health_failures += is_good ? 0 : 1;
    snprintf(health->reason, sizeof(health->reason), "%.250s", is_good ? "" : problem);
    text_make_printable(health->reason, false);
    set_state(health,
              machine_health_after(health->state, is_good, health->failures,
                                   clock_monotonic_ms() - health->began_ms, &health->rule));
    wait_for_next(health);
    if (health->state == MACHINE_HEALTH_UNHEALTHY && health->restarts &&
        machine->state == MACHINE_RUNNING && !machine->is_busy && machine->held == 0) {
        machine->is_unhealthy = true;
        machine_run_shut_down(machine);
    }
}

static void on_checked(const struct error *error, const struct agent_result *result, void *context)
{
    struct health *health = context;
    char text[64];
    health->call = NULL;
    if (error != NULL && error->kind == ERROR_CANCELLED) {
        return; /* it is over */
    }
    if (error == NULL && health->kind == KIND_EXEC && result->exit.exit_code != 0) {
        snprintf(text, sizeof(text), "the command ended with %d%s", result->exit.exit_code,
                 result->exit.timed_out ? ", after too long a time" : "");
        judge(health, text);
        return;
    }
    judge(health, error != NULL ? error->text : NULL);
}

static void on_output(enum agent_stream stream, const void *bytes, size_t length, void *context)
{
    (void)stream, (void)bytes, (void)length, (void)context;
}

static struct agent_call *begin_exec(struct health *health, struct agent *agent)
{
    static const struct agent_call_events events = {.on_output = on_output, .on_end = on_checked};
    const char *const arguments[] = {"/bin/sh", "-c", health->argument, NULL};
    const struct agent_exec exec = {
        .arguments = arguments, .folder = "/", .timeout_ms = health->timeout_ms};
    return agent_exec(agent, &exec, &events, health);
}

static struct agent_call *begin(struct health *health, struct agent *agent)
{
    const struct agent_check check = {
        .kind = health->kind == KIND_TCP ? AGENT_CHECK_TCP : AGENT_CHECK_HTTP,
        .port = health->port,
        .path = health->argument,
        .timeout_ms = health->timeout_ms,
    };
    switch (health->kind) {
    case KIND_AGENT:
        return agent_ping(agent, health->timeout_ms, on_checked, health);
    case KIND_EXEC:
        return begin_exec(health, agent);
    case KIND_TCP:
    case KIND_HTTP:
        break;
    }
    return agent_check(agent, &check, on_checked, health);
}

static void on_timer(void *context)
{
    struct health *health = context;
    struct machine *machine = health->machine;
    if (machine->state != MACHINE_RUNNING || machine->is_busy || machine->agent == NULL ||
        health->call != NULL) {
        wait_for_next(health);
        return;
    }
    health->call = begin(health, machine->agent);
}

/* ---- For the rest of the room ---- */

void health_begin(struct machine *machine)
{
    if (machine->health != NULL || json_text(machine->config, "health")[0] == '\0') {
        return;
    }
    machine->health = health_new(machine);
    machine->health->timer =
        loop_timer_new(machine->service->options.loop, on_timer, machine->health);
    loop_timer_start(machine->health->timer, 0);
}

/* The agent is closed before: no call comes back. */
void health_end(struct machine *machine)
{
    struct health *health = machine->health;
    if (health != NULL) {
        loop_timer_free(health->timer);
        free(health->argument);
        free(health);
        machine->health = NULL;
    }
}

enum machine_health health_of(const struct machine *machine)
{
    return machine->health != NULL ? machine->health->state : MACHINE_HEALTH_NONE;
}

const char *health_reason(const struct machine *machine)
{
    return machine->health != NULL ? machine->health->reason : "";
}

void health_write_metrics(struct machine_service *service, bool is_openmetrics, struct buffer *out)
{
    buffer_append_string(out,
                         "# HELP blixard_machine_healthy Whether a machine that is checked is "
                         "healthy.\n# TYPE blixard_machine_healthy gauge\n");
    LIST_EACH(node, &service->machines)
    {
        const struct machine *machine = LIST_ITEM(node, struct machine, link);
        if (machine->health != NULL) {
            buffer_append_format(out, "blixard_machine_healthy{project=\"%s\",machine=\"%s\"} %d\n",
                                 machine->project, machine->name,
                                 machine->health->state == MACHINE_HEALTH_HEALTHY ? 1 : 0);
        }
    }
    buffer_append_format(out,
                         "# HELP blixard_machine_health_failures%s Checks that failed.\n"
                         "# TYPE blixard_machine_health_failures%s counter\n",
                         is_openmetrics ? "" : "_total", is_openmetrics ? "" : "_total");
    LIST_EACH(node, &service->machines)
    {
        const struct machine *machine = LIST_ITEM(node, struct machine, link);
        if (json_text(machine->config, "health")[0] != '\0') {
            buffer_append_format(
                out,
                "blixard_machine_health_failures_total{project=\"%s\",machine=\"%s\"} %" PRIu64
                "\n",
                machine->project, machine->name, machine->health_failures);
        }
    }
}
