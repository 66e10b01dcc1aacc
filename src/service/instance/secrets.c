/*
 * Secrets of a call: read when it comes, put behind its environment, and wiped when the runner has
 * them.  That some cannot be had is told in the function's own log, too, where its author looks.
 */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#include "service/instance/project.h"
#include "service/telemetry/telemetry.h"

bool instance_target_names_secret(const struct instance_target *target, struct text secret)
{
    for (size_t at = 0; at < target->secrets_length;) {
        const char *pair = target->secrets + at;
        const char *name = strchr(pair, '=') + 1;
        if (text_equal(secret, name)) {
            return true;
        }
        at += strlen(pair) + 1;
    }
    return false;
}

/* Room for all was made before: nothing is left behind where the buffer grows. */
static int add_variable(struct buffer *environment, struct text variable, const char *secret,
                        const struct buffer *value, struct error *err)
{
    if (memchr(value->data, '\0', value->used) != NULL) {
        return error_set(err, ERROR_UNAVAILABLE,
                         "secret %s holds a NUL and cannot be the variable %.*s; functions read "
                         "such a value with secret_get",
                         secret, (int)variable.length, variable.data);
    }
    if (variable.length + 1 + value->used + 1 > VMM_ENV_MAX - environment->used) {
        return error_set(err, ERROR_TOO_LARGE,
                         "the environment with secret %s has more than %d bytes", secret,
                         VMM_ENV_MAX);
    }
    buffer_append(environment, variable.data, variable.length);
    buffer_append_byte(environment, '=');
    buffer_append(environment, value->data, value->used);
    buffer_append_byte(environment, '\0');
    return 0;
}

static int read_secret(struct instance_call *call, const char *name, struct buffer *ret_value,
                       struct error *err)
{
    const struct instance_secrets *secrets = &call->project->service->secrets;
    int r = secrets->read != NULL
        ? secrets->read(secrets->context, call->target->project, name, ret_value, err)
        : error_set(err, ERROR_UNAVAILABLE, "there are no secrets where this function runs");
    if (r < 0) {
        err->kind = ERROR_UNAVAILABLE; /* nothing is wrong with the call: it can come again */
        r = -ERROR_UNAVAILABLE;
    }
    return r;
}

static int add_all(struct instance_call *call, struct error *err)
{
    const struct instance_target *target = call->target;
    for (size_t at = 0; at < target->secrets_length;) {
        BUFFER_WIPED struct buffer value = {0};
        const char *pair = target->secrets + at;
        const char *equals = strchr(pair, '=');
        int r = read_secret(call, equals + 1, &value, err);
        r = r < 0 ? r
                  : add_variable(&call->environment, text_of(pair, (size_t)(equals - pair)),
                                 equals + 1, &value, err);
        if (r < 0) {
            return r;
        }
        at += strlen(pair) + 1;
    }
    return 0;
}

static void log_refusal(const struct instance_call *call, const struct error *error)
{
    char line[ERROR_TEXT_MAX + 16];
    const struct instance_target *target = call->target;
    int length = snprintf(line, sizeof(line), "<3>%s\n", error->text);
    telemetry_log(call->project->service->options.telemetry, target->project, target->function,
                  target->version, call->request_id, &call->trace, line,
                  (size_t)length < sizeof(line) ? (size_t)length : sizeof(line) - 1);
}

int call_add_secrets(struct instance_call *call, struct error *err)
{
    const struct instance_invocation *lent = call->lent;
    buffer_reserve(&call->environment, VMM_ENV_MAX);
    call->has_secrets = true;
    buffer_append(&call->environment, lent->environment, lent->environment_length);
    int r = add_all(call, err);
    if (r < 0) {
        log_refusal(call, err);
    }
    return r;
}
