/* What the host asks for: which of it is done at once, and which by a child. */
#include <errno.h>
#include <linux/random.h>
#include <stdarg.h>
#include <stdio.h>

#include "guest/agent/private.h"

enum { THAW_AGAIN_MS = 1000 };

/* ---- Reading requests ---- */

bool request_copy(const struct agent_field *field, char *ret_text, size_t size)
{
    bool fits = field->length < size;
    if (!fits || (field->length > 0 && memchr(field->bytes, 0, field->length) != NULL)) {
        return false;
    }
    memcpy(ret_text, field->bytes, field->length);
    ret_text[field->length] = '\0';
    return true;
}

static bool find(struct agent_reader request, enum agent_tag tag, struct agent_field *ret_field)
{
    while (agent_next(&request, ret_field)) {
        if (ret_field->tag == (unsigned)tag) {
            return true;
        }
    }
    return false;
}

int request_text(struct agent_reader request, enum agent_tag tag, const char *otherwise,
                 char ret_text[TEXT_MAX], struct error *err)
{
    struct agent_field field;
    if (!find(request, tag, &field)) {
        if (otherwise == NULL) {
            return error_set(err, ERROR_INVALID, "the request lacks field %d", (int)tag);
        }
        snprintf(ret_text, TEXT_MAX, "%s", otherwise);
        return 0;
    }
    if (!request_copy(&field, ret_text, TEXT_MAX)) {
        return error_set(err, ERROR_INVALID, "field %d is no text of at most %d bytes", (int)tag,
                         TEXT_MAX - 1);
    }
    return 0;
}

uint64_t request_number(struct agent_reader request, enum agent_tag tag, uint64_t otherwise)
{
    struct agent_field field;
    return find(request, tag, &field) ? agent_field_number(&field) : otherwise;
}

static enum error_kind kind_of(int number)
{
    static const struct {
        int number;
        enum error_kind kind;
    } rows[] = {
        {ENOENT, ERROR_NOT_FOUND},
        {ENOTDIR, ERROR_NOT_FOUND},
        {ENODEV, ERROR_NOT_FOUND},
        {ENXIO, ERROR_NOT_FOUND},
        {EEXIST, ERROR_EXISTS},
        {EINVAL, ERROR_INVALID},
        {ENAMETOOLONG, ERROR_INVALID},
        {EISDIR, ERROR_INVALID},
        {ELOOP, ERROR_INVALID},
        {ENOEXEC, ERROR_INVALID},
        {EOPNOTSUPP, ERROR_UNSUPPORTED},
        {ENOSYS, ERROR_UNSUPPORTED},
        {ENOTTY, ERROR_UNSUPPORTED},
        {EBUSY, ERROR_CONFLICT},
        {EROFS, ERROR_DENIED},
        {ETIMEDOUT, ERROR_TIMEOUT},
        {ECONNREFUSED, ERROR_UNAVAILABLE},
        {EHOSTUNREACH, ERROR_UNAVAILABLE},
        {ENETUNREACH, ERROR_UNAVAILABLE},
        {ECONNRESET, ERROR_UNAVAILABLE},
        {EFBIG, ERROR_TOO_LARGE},
        {E2BIG, ERROR_TOO_LARGE},
        {EMFILE, ERROR_LIMIT},
        {EAGAIN, ERROR_LIMIT},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].number == number) {
            return rows[i].kind;
        }
    }
    return ERROR_OS;
}

int fail_plain(struct error *err, int os_errno)
{
    fail_os(err, os_errno, "it");
    snprintf(err->text, sizeof(err->text), "%s", strerror(os_errno));
    return -(int)err->kind;
}

int fail_os(struct error *err, int os_errno, const char *format, ...)
{
    char text[ERROR_TEXT_MAX / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    error_os(err, os_errno, "%s", text);
    if (err->kind == ERROR_OS) {
        err->kind = kind_of(os_errno);
    }
    return -(int)err->kind;
}

/* ---- Dispatch ---- */

static int answer_info(struct agent_reader request, struct buffer *answer, struct error *err)
{
    (void)request;
    (void)err;
    return info_put(answer, 0, AGENT_VERSION);
}

static int answer_ping(struct agent_reader request, struct buffer *answer, struct error *err)
{
    enum { ECHO_MAX = 4096 };
    struct agent_field field;
    if (!find(request, AGENT_BYTES, &field)) {
        return 0;
    }
    if (field.length > ECHO_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "at most %d bytes are echoed", ECHO_MAX);
    }
    agent_put_bytes(answer, AGENT_BYTES, field.bytes, field.length);
    return 0;
}

static int answer_metrics(struct agent_reader request, struct buffer *answer, struct error *err)
{
    (void)request;
    (void)err;
    return metrics_put(answer);
}

static int answer_time(struct agent_reader request, struct buffer *answer, struct error *err)
{
    (void)answer;
    return clock_set(request, err);
}

static int answer_reseed(struct agent_reader request, struct buffer *answer, struct error *err)
{
    (void)answer;
    return entropy_add(request, err);
}

static int answer_network(struct agent_reader request, struct buffer *answer, struct error *err)
{
    (void)answer;
    return network_set(request, err);
}

static int answer_shutdown(struct agent_reader request, struct buffer *answer, struct error *err)
{
    (void)answer;
    return power_begin(request, err);
}

/* At once: a freeze that is asked for next must find it done. */
static int answer_thaw(struct agent_reader request, struct buffer *answer, struct error *err)
{
    (void)request;
    (void)err;
    agent_put_number(answer, AGENT_COUNT, disk_thaw_now());
    return 0;
}

/* Exactly one of the two, but for EXEC. */
static const struct {
    int (*now)(struct agent_reader request, struct buffer *answer, struct error *err);
    work_run *later;
} operations[AGENT_OPERATIONS] = {
    [AGENT_INFO] = {.now = answer_info},
    [AGENT_PING] = {.now = answer_ping},
    [AGENT_TIME] = {.now = answer_time},
    [AGENT_RESEED] = {.now = answer_reseed},
    [AGENT_NETWORK] = {.now = answer_network},
    [AGENT_SHUTDOWN] = {.now = answer_shutdown},
    [AGENT_METRICS] = {.now = answer_metrics},
    [AGENT_PUT] = {.later = file_put},
    [AGENT_GET] = {.later = file_get},
    [AGENT_STAT] = {.later = file_stat},
    [AGENT_PACK] = {.later = tar_pack},
    [AGENT_UNPACK] = {.later = tar_unpack},
    [AGENT_MOUNT] = {.later = disk_mount},
    [AGENT_UNMOUNT] = {.later = disk_unmount},
    [AGENT_GROW] = {.later = disk_grow},
    [AGENT_SYNC] = {.later = disk_sync},
    [AGENT_FREEZE] = {.later = disk_freeze},
    [AGENT_THAW] = {.now = answer_thaw},
    [AGENT_CHECK] = {.later = check_service},
    [AGENT_FUNCTION_BEGIN] = {.later = function_begin},
    [AGENT_FUNCTION_INVOKE] = {.later = function_invoke},
    [AGENT_FUNCTION_TUNNEL] = {.later = function_tunnel},
};

static bool is_well_formed(struct agent_reader request)
{
    struct agent_field field;
    while (agent_next(&request, &field)) {
    }
    return !request.is_bad;
}

void request_begin(struct link *link, const struct agent_frame *frame)
{
    struct agent_reader request = agent_reader_of(frame->payload, frame->length);
    unsigned operation = frame->head.operation;
    BUFFER_OWNED struct buffer answer = {0};
    struct error error = {0};
    int r = 0;
    bool is_known = operation < AGENT_OPERATIONS &&
        (operation == AGENT_EXEC || operations[operation].now != NULL ||
         operations[operation].later != NULL);
    if (!is_known) {
        r = error_set(&error, ERROR_UNSUPPORTED, "the agent does not know operation %u", operation);
    } else if (!is_well_formed(request)) {
        r = error_set(&error, ERROR_PROTOCOL, "the request makes no sense");
    } else if (job_find(link, frame->head.id) != NULL) {
        return; /* its answer would be taken for the other one's */
    } else if (operations[operation].now != NULL) {
        r = operations[operation].now(request, &answer, &error);
        link_answer(link, frame->head.id, r < 0 ? &error : NULL, &answer);
        /* One that nobody waits for any more may still come, also of an earlier session. */
        if (operation == AGENT_THAW && disk_thaw_at_ms != 0) {
            disk_thaw_at_ms = now_ms() + THAW_AGAIN_MS;
        }
        return;
    } else if (link->job_count >= AGENT_REQUESTS_MAX) {
        r = error_set(&error, ERROR_LIMIT, "%d requests run already", AGENT_REQUESTS_MAX);
    } else if (operation == AGENT_EXEC) {
        r = job_begin_exec(link, frame->head.id, request, &error);
    } else {
        r = job_begin_work(link, frame->head.id, operation, operations[operation].later, request,
                           &error);
    }
    if (operation == AGENT_FREEZE && r == 0) {
        enum { FREEZE_MAX_MS = 600000 };
        uint64_t wanted_ms = request_number(request, AGENT_TIMEOUT_MS, FREEZE_MAX_MS);
        disk_thaw_at_ms = now_ms() + (wanted_ms < FREEZE_MAX_MS ? wanted_ms : FREEZE_MAX_MS);
    }
    if (r < 0) {
        link_answer(link, frame->head.id, &error, NULL);
    }
}
