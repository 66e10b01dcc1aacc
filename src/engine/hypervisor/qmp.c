/* A QMP connection: see qmp.h.  Answers come in the order of the commands. */
#include "engine/hypervisor/qmp.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/json.h"
#include "base/list.h"
#include "base/loop/loop.h"
#include "base/memory.h"

enum { PIECE_BYTES = 16 << 10 };

struct command {
    struct list_node link;
    char *text; /* NULL: sent */
    size_t length;
    size_t sent;
    int fd; /* a copy, or -1 */
    void (*done)(const struct error *error, const json_t *result, void *context);
    void *context;
    void *owned; /* the context as well, or NULL */
};

struct qmp {
    struct loop *loop;
    uv_poll_t poll;
    int fd;
    struct qmp_events events;
    void *context;
    struct buffer in;
    struct list commands; /* without an answer, in order */
    struct loop_timer *greeting;
    bool is_greeted;
    bool is_ready;
    bool is_ended;
    bool is_closed;
};

/* ---- The end ---- */

static void free_command(struct command *command)
{
    fd_close_slot(&command->fd);
    free(command->text);
    free(command->owned);
    free(command);
}

static void on_poll_closed(uv_handle_t *handle)
{
    struct qmp *qmp = handle->data;
    LIST_EACH(node, &qmp->commands)
    {
        struct command *command = LIST_ITEM(node, struct command, link);
        list_remove(node);
        free_command(command);
    }
    fd_close_slot(&qmp->fd);
    buffer_done(&qmp->in);
    free(qmp);
}

void qmp_close(struct qmp *qmp)
{
    if (qmp == NULL || qmp->is_closed) {
        return;
    }
    qmp->is_closed = true;
    loop_timer_free(qmp->greeting);
    uv_close((uv_handle_t *)&qmp->poll, on_poll_closed);
}

static void end(struct qmp *qmp, const struct error *error)
{
    if (qmp->is_ended || qmp->is_closed) {
        return;
    }
    qmp->is_ended = true;
    uv_poll_stop(&qmp->poll);
    loop_timer_stop(qmp->greeting);
    while (!list_is_empty(&qmp->commands) && !qmp->is_closed) {
        struct command *command = LIST_FIRST(&qmp->commands, struct command, link);
        list_remove(&command->link);
        if (command->done != NULL) {
            command->done(error, NULL, command->context);
        }
        free_command(command);
    }
    if (!qmp->is_closed) {
        qmp->events.on_end(error, qmp->context);
    }
}

static void on_no_greeting(void *context)
{
    struct error error = {0};
    error_set(&error, ERROR_TIMEOUT, "the VMM has not greeted within %d s", QMP_GREETING_MS / 1000);
    end(context, &error);
}

/* ---- Out ---- */

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct qmp *qmp)
{
    int events = UV_READABLE;
    LIST_EACH(node, &qmp->commands)
    {
        bool waits = LIST_ITEM(node, struct command, link)->text != NULL;
        events |= waits ? UV_WRITABLE : 0;
    }
    if (!qmp->is_ended && !qmp->is_closed) {
        uv_poll_start(&qmp->poll, events, on_poll);
    }
}

/* The descriptor goes with the first byte.  False: the socket is full, or gone. */
static bool send_command(struct qmp *qmp, struct command *command)
{
    while (command->sent < command->length) {
        ssize_t wrote =
            fd_send(qmp->fd, command->text + command->sent, command->length - command->sent,
                    command->sent == 0 ? command->fd : -1);
        if (wrote < 0) {
            return false; /* what it is that is wrong is seen by reading */
        }
        command->sent += (size_t)wrote;
    }
    free(command->text);
    command->text = NULL;
    fd_close_slot(&command->fd);
    return true;
}

static void flush(struct qmp *qmp)
{
    LIST_EACH(node, &qmp->commands)
    {
        struct command *command = LIST_ITEM(node, struct command, link);
        if (command->text != NULL && !send_command(qmp, command)) {
            return;
        }
    }
}

static struct command *push(struct qmp *qmp, const char *name, json_t *owned_arguments, int fd,
                            void (*done)(const struct error *error, const json_t *result,
                                         void *context),
                            void *context, bool is_first)
{
    struct command *command = NEW(struct command);
    JSON_OWNED json_t *document = json_pack("{s:s}", "execute", name);
    if (owned_arguments != NULL) {
        json_object_set_new(document, "arguments", owned_arguments);
    }
    MEMORY_OWNED char *text = json_dumps(document, JSON_COMPACT);
    command->text = memory_format("%s\n", text != NULL ? text : "{}");
    command->length = strlen(command->text);
    command->fd = fd >= 0 ? dup(fd) : -1;
    command->done = done;
    command->context = context;
    if (is_first) {
        list_push_front(&qmp->commands, &command->link);
    } else {
        list_push_back(&qmp->commands, &command->link);
    }
    return command;
}

/* On the next turn: no answer comes from within the call. */
void qmp_execute(struct qmp *qmp, const char *command, json_t *owned_arguments, int fd,
                 void (*done)(const struct error *error, const json_t *result, void *context),
                 void *context)
{
    push(qmp, command, owned_arguments, fd, done, context, false);
    if (qmp->is_ready) {
        watch(qmp);
    }
}

void qmp_ask(struct qmp *qmp, const char *command, json_t *owned_arguments, int fd,
             void (*done)(const struct error *error, const json_t *result, void *context),
             void *owned_context)
{
    push(qmp, command, owned_arguments, fd, done, owned_context, false)->owned = owned_context;
    if (qmp->is_ready) {
        watch(qmp);
    }
}

/* ---- In ---- */

int qmp_parse(const char *line, size_t length, enum qmp_kind *ret_kind, json_t **ret_message,
              struct error *err)
{
    static const struct {
        const char *key;
        enum qmp_kind kind;
    } kinds[] = {
        {"QMP", QMP_GREETING}, {"event", QMP_EVENT}, {"return", QMP_RESULT}, {"error", QMP_ERROR}};
    JSON_OWNED json_t *message = NULL;
    if (json_read(line, length, &message, err) < 0) {
        err->kind = ERROR_PROTOCOL;
        return error_wrap(err, "what the VMM says");
    }
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        const json_t *value = json_object_get(message, kinds[i].key);
        bool is_good = kinds[i].kind == QMP_EVENT ? json_is_string(value)
            : kinds[i].kind == QMP_RESULT         ? value != NULL
                                                  : json_is_object(value);
        if (is_good) {
            *ret_kind = kinds[i].kind;
            *ret_message = message;
            message = NULL;
            return 0;
        }
    }
    return error_set(err, ERROR_PROTOCOL, "the VMM said what is no QMP");
}

static void on_capabilities(const struct error *error, const json_t *result, void *context)
{
    struct qmp *qmp = context;
    (void)result;
    if (error != NULL) {
        end(qmp, error);
        return;
    }
    loop_timer_stop(qmp->greeting);
}

/* QEMU obeys in the order in which it was told: nothing has to wait for the first answer. */
static void greet(struct qmp *qmp)
{
    if (!qmp->is_greeted) {
        qmp->is_greeted = true;
        push(qmp, "qmp_capabilities", NULL, -1, on_capabilities, qmp, true);
        send_command(qmp, LIST_FIRST(&qmp->commands, struct command, link));
        qmp->is_ready = true;
        qmp->events.on_ready(qmp->context);
    }
}

static void give_error(struct command *command, const json_t *value)
{
    struct error error = {0};
    const char *class = json_string_value(json_object_get(value, "class"));
    const char *text = json_string_value(json_object_get(value, "desc"));
    bool is_unknown = class != NULL && strcmp(class, "CommandNotFound") == 0;
    error_set(&error, is_unknown ? ERROR_UNSUPPORTED : ERROR_CONFLICT, "the VMM: %.400s",
              text != NULL ? text : "it failed");
    command->done(&error, NULL, command->context);
}

static int take_answer(struct qmp *qmp, enum qmp_kind kind, const json_t *message,
                       struct error *err)
{
    struct command *command = LIST_FIRST(&qmp->commands, struct command, link);
    if (command == NULL || command->text != NULL) {
        return error_set(err, ERROR_PROTOCOL, "the VMM answered what nobody had asked");
    }
    list_remove(&command->link);
    if (command->done != NULL && kind == QMP_ERROR) {
        give_error(command, json_object_get(message, "error"));
    } else if (command->done != NULL) {
        command->done(NULL, json_object_get(message, "return"), command->context);
    }
    free_command(command);
    return 0;
}

static int take_line(struct qmp *qmp, const char *line, size_t length, struct error *err)
{
    enum qmp_kind kind = QMP_GREETING;
    JSON_OWNED json_t *message = NULL;
    if (qmp_parse(line, length, &kind, &message, err) < 0) {
        return -(int)err->kind;
    }
    switch (kind) {
    case QMP_GREETING:
        greet(qmp);
        return 0;
    case QMP_EVENT:
        qmp->events.on_event(json_string_value(json_object_get(message, "event")),
                             json_object_get(message, "data"), qmp->context);
        return 0;
    case QMP_RESULT:
    case QMP_ERROR:
        break;
    }
    return take_answer(qmp, kind, message, err);
}

static int take_lines(struct qmp *qmp, struct error *err)
{
    size_t used = 0;
    int r = 0;
    while (r == 0 && !qmp->is_closed && !qmp->is_ended) {
        const char *from = (const char *)qmp->in.data + used;
        const char *stop = qmp->in.used > used ? memchr(from, '\n', qmp->in.used - used) : NULL;
        if (stop == NULL) {
            break;
        }
        size_t length = (size_t)(stop - from);
        used += length + 1;
        r = length > 1 ? take_line(qmp, from, length, err) : 0;
    }
    buffer_consume(&qmp->in, used);
    return r < 0 || qmp->in.used <= QMP_LINE_MAX
        ? r
        : error_set(err, ERROR_PROTOCOL, "the VMM said a line of more than %d bytes", QMP_LINE_MAX);
}

static void read_some(struct qmp *qmp)
{
    struct error error = {0};
    uint8_t *room = buffer_reserve(&qmp->in, PIECE_BYTES);
    ssize_t got = recv(qmp->fd, room, PIECE_BYTES, MSG_DONTWAIT);
    if (got > 0) {
        qmp->in.used += (size_t)got;
        if (take_lines(qmp, &error) < 0) {
            end(qmp, &error);
        }
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        error_set(&error, ERROR_UNAVAILABLE, "the VMM has ended");
        end(qmp, &error);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct qmp *qmp = poll->data;
    if (qmp->is_ready && (events & UV_WRITABLE) != 0) {
        flush(qmp);
    }
    if (status < 0 || (events & UV_READABLE) != 0) {
        read_some(qmp);
    }
    if (qmp->is_ready) {
        watch(qmp);
    }
}

/* ---- Life ---- */

struct qmp *qmp_open(struct loop *loop, int owned_fd, const struct qmp_events *events,
                     void *context)
{
    struct qmp *qmp = NEW(struct qmp);
    qmp->loop = loop;
    qmp->fd = owned_fd;
    qmp->events = *events;
    qmp->context = context;
    list_init(&qmp->commands);
    qmp->greeting = loop_timer_new(loop, on_no_greeting, qmp);
    loop_timer_start(qmp->greeting, QMP_GREETING_MS);
    uv_poll_init(loop_uv(loop), &qmp->poll, owned_fd);
    qmp->poll.data = qmp;
    uv_poll_start(&qmp->poll, UV_READABLE, on_poll);
    return qmp;
}
