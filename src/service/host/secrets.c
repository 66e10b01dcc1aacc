/* Secrets: those that the configuration of the function's version names, and no others. */
#include "base/buffer.h"
#include "base/memory.h"

#include "service/host/private.h"
#include "service/secret/secret.h"

enum { NAME_MAX_BYTES = 63 };

static int read_secret(struct session *session, const struct host_request *request,
                       struct buffer *ret_value, struct error *err)
{
    MEMORY_OWNED char *name = NULL;
    int r = host_request_string(request, 0, NAME_MAX_BYTES, "secret's name", &name, err);
    if (r == 0 && !instance_target_names_secret(session->target, request->parts[0])) {
        r = error_set(err, ERROR_DENIED,
                      "function %s does not name the secret %s in its configuration (secrets)",
                      session->target->function, name);
    }
    return r < 0
        ? r
        : secret_read(session->service->secrets, session->target->project, name, ret_value, err);
}

void host_secret_get(struct session *session, const struct host_request *request)
{
    struct error err = {0};
    BUFFER_WIPED struct buffer value = {0};
    if (read_secret(session, request, &value, &err) < 0) {
        session_refuse(session, &err);
    } else {
        session_answer(session, 0, value.data, value.used);
    }
}
