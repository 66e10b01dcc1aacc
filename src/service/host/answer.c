/* Answers: see engine/vmm/hostcall.h. */
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"

#include "engine/vmm/abi.h"

#include "service/host/private.h"
#include "service/telemetry/telemetry.h"

int32_t host_status(enum error_kind kind)
{
    switch (kind) {
    case ERROR_INVALID:
        return HOSTCALL_EINVAL;
    case ERROR_UNAUTHENTICATED:
    case ERROR_DENIED:
        return HOSTCALL_EACCES;
    case ERROR_NOT_FOUND:
        return HOSTCALL_ENOENT;
    case ERROR_TIMEOUT:
        return HOSTCALL_ETIMEDOUT;
    case ERROR_EXISTS:
        return HOSTCALL_EEXIST;
    case ERROR_CONFLICT:
        return HOSTCALL_EBUSY;
    case ERROR_TOO_LARGE:
        return HOSTCALL_EMSGSIZE;
    case ERROR_UNSUPPORTED:
        return HOSTCALL_ENOTSUP;
    case ERROR_LIMIT:
    case ERROR_QUOTA_EXCEEDED:
        return HOSTCALL_EDQUOT;
    case ERROR_OVERLOADED:
    case ERROR_UNAVAILABLE:
    case ERROR_NOT_LEADER:
        return HOSTCALL_EAGAIN;
    case ERROR_PROTOCOL:
        return HOSTCALL_EPROTO;
    case ERROR_CANCELLED:
        return HOSTCALL_ECANCELED;
    case ERROR_FULL:
        return HOSTCALL_ENOSPC;
    case ERROR_NONE:
    case ERROR_UNKNOWN_OUTCOME:
    case ERROR_TRAP:
    case ERROR_CORRUPT:
    case ERROR_OS:
    case ERROR_KIND_COUNT:
        break;
    }
    return HOSTCALL_EIO;
}

static void send_reply(struct session *session, const struct hostcall_reply *head,
                       const void *bytes, size_t length)
{
    BUFFER_WIPED struct buffer reply = {0}; /* of a secret, perhaps */
    buffer_reserve(&reply, sizeof(*head) + length);
    buffer_append(&reply, head, sizeof(*head));
    if (length > 0) {
        buffer_append(&reply, bytes, length);
    }
    instance_host_answer(session->call, reply.data, reply.used);
}

void session_refuse(struct session *session, const struct error *error)
{
    const struct hostcall_reply head = {.status = host_status(error->kind)};
    CHECK(head.status < 0);
    telemetry_add(session->service->telemetry, TELEMETRY_HOST_CALLS_FAILED, 1);
    send_reply(session, &head, error->text, strlen(error->text));
}

void session_answer(struct session *session, uint64_t number, const void *bytes, size_t length)
{
    const struct hostcall_reply head = {.number = number};
    if (length > ABI_HOST_BYTES_MAX - sizeof(head)) {
        struct error err = {0};
        error_set(&err, ERROR_TOO_LARGE, "the answer has %zu bytes; at most %zu are passed on",
                  length, ABI_HOST_BYTES_MAX - sizeof(head));
        session_refuse(session, &err);
        return;
    }
    send_reply(session, &head, bytes, length);
}

/* Whoever asked may have ended. */
static struct session *take_session(struct question *question)
{
    struct session *session = question->session;
    question_free(question);
    return session;
}

void question_answer(struct question *question, uint64_t number, const void *bytes, size_t length)
{
    struct session *session = take_session(question);
    if (session != NULL) {
        session_answer(session, number, bytes, length);
    }
}

void question_refuse(struct question *question, const struct error *error)
{
    struct session *session = take_session(question);
    if (session != NULL) {
        session_refuse(session, error);
    }
}
