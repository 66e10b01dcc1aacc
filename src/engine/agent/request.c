/* The calls, one by one: what they say to the agent. */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/agent/private.h"

enum {
    SEED_BYTES = 64,
    FREEZE_MAX_MS = 600000,
    CHECK_MS = 5000,
    PATIENCE_MS = 10000,
    MARGIN_MS = 5000
};

static uint64_t or_else(uint64_t value, uint64_t otherwise)
{
    return value != 0 ? value : otherwise;
}

static void put_text_or_null(struct buffer *body, enum agent_tag tag, const char *text)
{
    if (text != NULL) {
        agent_put_text(body, tag, text);
    }
}

/* A list ends with NULL, or is NULL.  One that is there and empty says so with an empty text. */
static void put_list(struct buffer *body, enum agent_tag tag, const char *const *list)
{
    if (list != NULL && list[0] == NULL) {
        agent_put_text(body, tag, "");
    }
    for (; list != NULL && *list != NULL; list++) {
        agent_put_text(body, tag, *list);
    }
}

#define PLAIN(operation_, timeout_ms_)                                                        \
    (struct agent_call_terms)                                                                 \
    {                                                                                         \
        .operation = (operation_), .timeout_ms = or_else(timeout_ms_, AGENT_CALL_TIMEOUT_MS), \
        .done = done, .context = context                                                      \
    }

struct agent_call *agent_ping(struct agent *agent, uint64_t timeout_ms, agent_done *done,
                              void *context)
{
    const struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_PING, timeout_ms);
    return agent_call_begin(agent, &terms, &body, NULL, "ping");
}

struct agent_call *agent_info(struct agent *agent, uint64_t timeout_ms, agent_done *done,
                              void *context)
{
    const struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_INFO, timeout_ms);
    return agent_call_begin(agent, &terms, &body, NULL, "asking the agent");
}

struct agent_call *agent_metrics(struct agent *agent, uint64_t timeout_ms, agent_done *done,
                                 void *context)
{
    const struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_METRICS, timeout_ms);
    return agent_call_begin(agent, &terms, &body, NULL, "metrics");
}

struct agent_call *agent_stat(struct agent *agent, const char *path, bool follows, agent_done *done,
                              void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_STAT, 0);
    agent_put_text(&body, AGENT_PATH, path);
    agent_put_number(&body, AGENT_FLAGS, follows ? AGENT_FLAG_FOLLOW : 0);
    return agent_call_begin(agent, &terms, &body, NULL, "examining %s", path);
}

struct agent_call *agent_set_time(struct agent *agent, uint64_t time_ns, agent_done *done,
                                  void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_TIME, 0);
    agent_put_number(&body, AGENT_TIME_NS, or_else(time_ns, clock_real_ns()));
    return agent_call_begin(agent, &terms, &body, NULL, "setting the clock");
}

struct agent_call *agent_reseed(struct agent *agent, agent_done *done, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_RESEED, 0);
    uint8_t seed[SEED_BYTES];
    random_bytes(seed, sizeof(seed));
    agent_put_bytes(&body, AGENT_BYTES, seed, sizeof(seed));
    return agent_call_begin(agent, &terms, &body, NULL, "reseeding");
}

struct agent_call *agent_network(struct agent *agent, const struct agent_network *network,
                                 agent_done *done, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_NETWORK, 0);
    put_text_or_null(&body, AGENT_HOSTNAME, network->hostname);
    put_list(&body, AGENT_NAMESERVER, network->nameservers);
    put_list(&body, AGENT_SEARCH, network->searches);
    put_list(&body, AGENT_HOST, network->hosts);
    for (size_t i = 0; i < network->interface_count; i++) {
        const struct agent_interface *interface = &network->interfaces[i];
        size_t begin = agent_put_begin(&body, AGENT_INTERFACE);
        agent_put_bytes(&body, AGENT_MAC, interface->mac, sizeof(interface->mac));
        if (interface->new_mac != NULL) {
            agent_put_bytes(&body, AGENT_NEW_MAC, interface->new_mac, sizeof(interface->mac));
        }
        put_text_or_null(&body, AGENT_NAME, interface->name);
        agent_put_number(&body, AGENT_MTU, interface->mtu);
        put_list(&body, AGENT_ADDRESS, interface->addresses);
        put_list(&body, AGENT_ROUTE, interface->routes);
        agent_put_end(&body, begin);
    }
    return agent_call_begin(agent, &terms, &body, NULL, "setting the network up");
}

struct agent_call *agent_mount(struct agent *agent, const struct agent_mount *mount,
                               agent_done *done, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_MOUNT, 0);
    unsigned flags = AGENT_FLAG_MAKE_FOLDERS | (mount->is_read_only ? AGENT_FLAG_READ_ONLY : 0);
    agent_put_text(&body, AGENT_SOURCE, mount->source);
    agent_put_text(&body, AGENT_PATH, mount->path);
    put_text_or_null(&body, AGENT_FILE_SYSTEM, mount->file_system);
    put_text_or_null(&body, AGENT_OPTIONS, mount->options);
    agent_put_number(&body, AGENT_FLAGS, flags);
    return agent_call_begin(agent, &terms, &body, NULL, "mounting %s at %s", mount->source,
                            mount->path);
}

struct agent_call *agent_unmount(struct agent *agent, const char *path, bool is_lazy,
                                 agent_done *done, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_UNMOUNT, 0);
    agent_put_text(&body, AGENT_PATH, path);
    agent_put_number(&body, AGENT_FLAGS, is_lazy ? AGENT_FLAG_LAZY : 0);
    return agent_call_begin(agent, &terms, &body, NULL, "unmounting %s", path);
}

struct agent_call *agent_grow(struct agent *agent, const char *path, agent_done *done,
                              void *context)
{
    return agent_grow_to(agent, path, 0, done, context);
}

struct agent_call *agent_grow_to(struct agent *agent, const char *path, uint64_t at_least,
                                 agent_done *done, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_GROW, 0);
    agent_put_text(&body, AGENT_PATH, path);
    if (at_least > 0) {
        agent_put_number(&body, AGENT_SIZE, at_least);
    }
    return agent_call_begin(agent, &terms, &body, NULL, "growing %s", path);
}

struct agent_call *agent_sync(struct agent *agent, uint64_t timeout_ms, agent_done *done,
                              void *context)
{
    const struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_SYNC, timeout_ms);
    return agent_call_begin(agent, &terms, &body, NULL, "sync");
}

struct agent_call *agent_freeze(struct agent *agent, uint64_t thaw_after_ms, agent_done *done,
                                void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_FREEZE, thaw_after_ms);
    struct error early = {0};
    int r = error_check_range("thaw_after_ms", thaw_after_ms, 1, FREEZE_MAX_MS, &early);
    agent_put_number(&body, AGENT_TIMEOUT_MS, thaw_after_ms);
    return agent_call_begin(agent, &terms, &body, r < 0 ? &early : NULL, "freezing the disks");
}

struct agent_call *agent_thaw(struct agent *agent, agent_done *done, void *context)
{
    const struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_THAW, 0);
    return agent_call_begin(agent, &terms, &body, NULL, "thawing the disks");
}

struct agent_call *agent_shutdown(struct agent *agent, enum agent_power power, uint64_t patience_ms,
                                  agent_done *done, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = PLAIN(AGENT_SHUTDOWN, 0);
    agent_put_number(&body, AGENT_POWER, power);
    agent_put_number(&body, AGENT_TIMEOUT_MS, or_else(patience_ms, PATIENCE_MS));
    return agent_call_begin(agent, &terms, &body, NULL,
                            power == AGENT_POWER_REBOOT ? "reboot" : "shutdown");
}

struct agent_call *agent_check(struct agent *agent, const struct agent_check *check,
                               agent_done *done, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    uint64_t timeout_ms = or_else(check->timeout_ms, CHECK_MS);
    const struct agent_call_terms terms = PLAIN(AGENT_CHECK, timeout_ms + MARGIN_MS);
    agent_put_number(&body, AGENT_CHECK_KIND, check->kind);
    agent_put_number(&body, AGENT_PORT_NUMBER, check->port);
    put_text_or_null(&body, AGENT_ADDRESS, check->address);
    put_text_or_null(&body, AGENT_PATH, check->path);
    agent_put_number(&body, AGENT_TIMEOUT_MS, timeout_ms);
    return agent_call_begin(agent, &terms, &body, NULL, "checking port %u", check->port);
}

/* ---- With streams ---- */

/* "www-data", "1000" or "1000:100". */
static int put_user(struct buffer *body, const char *user, struct error *err)
{
    const char *colon = strchr(user, ':');
    size_t length = colon != NULL ? (size_t)(colon - user) : strlen(user);
    uint64_t uid = 0;
    uint64_t gid = 0;
    bool is_number = text_parse_u64(text_of(user, length), &uid);
    if (!is_number && colon == NULL && length > 0) {
        agent_put_text(body, AGENT_USER_NAME, user);
        return 0;
    }
    gid = uid;
    if (!is_number || uid > UINT32_MAX - 1 ||
        (colon != NULL &&
         (!text_parse_u64(text_of(colon + 1, strlen(colon + 1)), &gid) || gid > UINT32_MAX - 1))) {
        return error_set(err, ERROR_INVALID,
                         "\"%s\" is no user: give a name, a number, or NUMBER:NUMBER", user);
    }
    agent_put_number(body, AGENT_USER, uid);
    agent_put_number(body, AGENT_GROUP, gid);
    return 0;
}

static int put_exec(struct buffer *body, const struct agent_exec *exec, struct error *err)
{
    if (exec->arguments == NULL || exec->arguments[0] == NULL || exec->arguments[0][0] == '\0') {
        return error_set(err, ERROR_INVALID, "no program is named");
    }
    put_list(body, AGENT_ARGUMENT, exec->arguments);
    put_list(body, AGENT_ENVIRONMENT, exec->environment);
    put_text_or_null(body, AGENT_FOLDER, exec->folder);
    if (exec->user != NULL) {
        int r = put_user(body, exec->user, err);
        if (r < 0) {
            return r;
        }
    }
    if (exec->has_terminal) {
        agent_put_number(body, AGENT_TTY, 1);
        agent_put_number(body, AGENT_ROWS, exec->rows);
        agent_put_number(body, AGENT_COLUMNS, exec->columns);
    }
    if (exec->has_input) {
        agent_put_number(body, AGENT_INPUT, 1);
    }
    if (exec->timeout_ms > 0) {
        agent_put_number(body, AGENT_TIMEOUT_MS, exec->timeout_ms);
    }
    return 0;
}

int agent_entrypoint_encode(const struct agent_exec *exec, struct buffer *out, struct error *err)
{
    BUFFER_OWNED struct buffer body = {0};
    int r = put_exec(&body, exec, err);
    if (r == 0 && body.used > AGENT_FRAME_MAX) {
        r = error_set(err, ERROR_TOO_LARGE,
                      "the entrypoint's arguments and environment are %zu "
                      "bytes, more than %d",
                      body.used, AGENT_FRAME_MAX);
    }
    if (r == 0) {
        buffer_append(out, body.data, body.used);
    }
    return r;
}

struct agent_call *agent_exec(struct agent *agent, const struct agent_exec *exec,
                              const struct agent_call_events *events, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error early = {0};
    int r = put_exec(&body, exec, &early);
    bool is_named = exec->arguments != NULL && exec->arguments[0] != NULL;
    const struct agent_call_terms terms = {
        .operation = AGENT_EXEC,
        .timeout_ms = exec->timeout_ms > 0 ? exec->timeout_ms + MARGIN_MS : 0,
        .has_input = exec->has_input,
        .events = events,
        .context = context};
    return agent_call_begin(agent, &terms, &body, r < 0 ? &early : NULL, "running %s",
                            is_named ? exec->arguments[0] : "nothing");
}

struct agent_call *agent_put(struct agent *agent, const struct agent_put *put,
                             const struct agent_call_events *events, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = {.operation = AGENT_PUT,
                                           .timeout_ms = put->timeout_ms,
                                           .has_input = true,
                                           .events = events,
                                           .context = context};
    agent_put_text(&body, AGENT_PATH, put->path);
    agent_put_number(&body, AGENT_MODE, put->mode);
    agent_put_number(&body, AGENT_USER, put->user);
    agent_put_number(&body, AGENT_GROUP, put->group);
    if (put->mtime_ns != 0) {
        agent_put_number(&body, AGENT_MTIME_NS, (uint64_t)put->mtime_ns);
    }
    agent_put_number(&body, AGENT_FLAGS,
                     (put->makes_folders ? AGENT_FLAG_MAKE_FOLDERS : 0U) |
                         (put->replaces_nothing ? AGENT_FLAG_NO_REPLACE : 0U));
    return agent_call_begin(agent, &terms, &body, NULL, "writing %s", put->path);
}

struct agent_call *agent_get(struct agent *agent, const char *path,
                             const struct agent_call_events *events, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = {
        .operation = AGENT_GET, .events = events, .context = context};
    agent_put_text(&body, AGENT_PATH, path);
    return agent_call_begin(agent, &terms, &body, NULL, "reading %s", path);
}

struct agent_call *agent_unpack(struct agent *agent, const char *folder, bool is_owned,
                                uint32_t user, uint32_t group,
                                const struct agent_call_events *events, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = {
        .operation = AGENT_UNPACK, .has_input = true, .events = events, .context = context};
    agent_put_text(&body, AGENT_PATH, folder);
    agent_put_number(&body, AGENT_USER, user);
    agent_put_number(&body, AGENT_GROUP, group);
    agent_put_number(&body, AGENT_FLAGS, is_owned ? AGENT_FLAG_OWN : 0);
    return agent_call_begin(agent, &terms, &body, NULL, "unpacking to %s", folder);
}

struct agent_call *agent_pack(struct agent *agent, const char *path,
                              const struct agent_call_events *events, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = {
        .operation = AGENT_PACK, .events = events, .context = context};
    agent_put_text(&body, AGENT_PATH, path);
    return agent_call_begin(agent, &terms, &body, NULL, "packing %s", path);
}

/* ---- Functions ---- */

struct agent_call *agent_function_begin(struct agent *agent, const struct agent_exec *program,
                                        const uint16_t *ports, size_t port_count,
                                        const struct agent_call_events *events, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error early = {0};
    int r = put_exec(&body, program, &early);
    for (size_t i = 0; i < port_count; i++) {
        agent_put_number(&body, AGENT_PORT_NUMBER, ports[i]);
    }
    const struct agent_call_terms terms = {
        .operation = AGENT_FUNCTION_BEGIN,
        .timeout_ms = program->timeout_ms > 0 ? program->timeout_ms + MARGIN_MS : 0,
        .events = events,
        .context = context};
    return agent_call_begin(agent, &terms, &body, r < 0 ? &early : NULL, "starting the handler");
}

struct agent_call *agent_function_invoke(struct agent *agent,
                                         const struct agent_invocation *invocation,
                                         const struct agent_call_events *events, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = {.operation = AGENT_FUNCTION_INVOKE,
                                           .has_input = true,
                                           .events = events,
                                           .context = context};
    agent_put_text(&body, AGENT_REQUEST_ID, invocation->request_id);
    agent_put_number(&body, AGENT_DEADLINE_MS, invocation->deadline_ms);
    put_text_or_null(&body, AGENT_TRACE, invocation->trace);
    put_text_or_null(&body, AGENT_ARN, invocation->arn);
    return agent_call_begin(agent, &terms, &body, NULL, "the invocation");
}

struct agent_call *agent_function_tunnel(struct agent *agent,
                                         const struct agent_call_events *events, void *context)
{
    BUFFER_OWNED struct buffer body = {0};
    const struct agent_call_terms terms = {.operation = AGENT_FUNCTION_TUNNEL,
                                           .has_input = true,
                                           .events = events,
                                           .context = context};
    return agent_call_begin(agent, &terms, &body, NULL, "the connection");
}
