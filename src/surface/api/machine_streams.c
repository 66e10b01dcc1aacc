/*
 * Programs in machines, and their consoles: frames go both ways while the request lasts.
 *
 * A frame is a byte for its kind, four for its length (big endian), and its content.  From the
 * client: 0 input, 1 the end of input, 2 a size of the terminal (rows, columns: two bytes each), 3
 * a signal (a byte), 4 nothing, a sign of life.  To the client: 1 output, 2 errors, 3 the end, as
 * JSON.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/memory.h"

#include "engine/agent/agent.h"
#include "engine/hypervisor/hypervisor.h"

#include "service/machine/machine.h"

#include "surface/api/parts.h"

enum { FRAME_HEAD = 5, FRAME_MAX = 64 << 10, ARGUMENTS_MAX = 256, QUERY_MAX = 64 << 10 };
enum { HISTORY_DEFAULT = 4096, PIECE_BYTES = 16 << 10 };

enum to_machine { INPUT, INPUT_END, TERMINAL_SIZE, SIGNAL, NOTHING };
enum to_client { OUTPUT = 1, ERRORS, END };

/* ---- Frames ---- */

struct frames {
    struct buffer held;
};

/* The next whole frame in what has come, or false; *ret_bad: no frame is so long. */
static bool next_frame(struct frames *frames, uint8_t *ret_kind, const uint8_t **ret_bytes,
                       size_t *ret_length, bool *ret_bad)
{
    const uint8_t *at = frames->held.data;
    if (frames->held.used < FRAME_HEAD) {
        return false;
    }
    size_t length = (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | (size_t)at[4];
    if (length > FRAME_MAX) {
        *ret_bad = true;
        return false;
    }
    if (frames->held.used < FRAME_HEAD + length) {
        return false;
    }
    *ret_kind = at[0];
    *ret_bytes = at + FRAME_HEAD;
    *ret_length = length;
    return true;
}

static bool send_frame(struct http_exchange *exchange, enum to_client kind, const void *bytes,
                       size_t length)
{
    const uint8_t head[FRAME_HEAD] = {(uint8_t)kind, (uint8_t)(length >> 24),
                                      (uint8_t)(length >> 16), (uint8_t)(length >> 8),
                                      (uint8_t)length};
    http_exchange_ref(exchange); /* the first write may find that the client is gone */
    http_exchange_write(exchange, head, sizeof(head));
    bool has_room = http_exchange_write(exchange, bytes, length);
    http_exchange_unref(exchange);
    return has_room;
}

static void begin_frames(struct request *request)
{
    api_add_fields(request);
    http_exchange_add_field(request->exchange, "Content-Type", "application/vnd.blixard.frames");
    http_exchange_begin(request->exchange, request->status, UINT64_MAX);
}

/* ---- Programs ---- */

struct exec {
    struct request *request;
    struct agent_call *call;
    struct frames frames;
    bool has_begun;
    bool takes_input;   /* the program; until it has been told of its end */
    bool input_is_over; /* the request's body */
    bool is_answering;  /* which ends input that has not come whole, at once */
};

static void release_exec(struct exec *exec)
{
    if (exec->call == NULL && exec->input_is_over && !exec->is_answering) {
        buffer_done(&exec->frames.held);
        free(exec);
    }
}

static void on_exec_started(int pid, void *context)
{
    struct exec *exec = context;
    (void)pid;
    exec->has_begun = true;
    begin_frames(exec->request);
}

static void on_exec_output(enum agent_stream stream, const void *bytes, size_t length,
                           void *context)
{
    struct exec *exec = context;
    if (!send_frame(exec->request->exchange, stream == AGENT_STREAM_ERR ? ERRORS : OUTPUT, bytes,
                    length)) {
        agent_call_pause(exec->call);
    }
}

static void on_exec_drain(void *context)
{
    struct exec *exec = context;
    if (exec->call != NULL) {
        agent_call_resume(exec->call);
    }
}

static void on_exec_close(void *context)
{
    struct exec *exec = context;
    if (exec->call != NULL) {
        agent_call_cancel(exec->call);
    }
}

static void send_end(struct http_exchange *exchange, const struct error *error,
                     const struct agent_result *result)
{
    BUFFER_OWNED struct buffer text = {0};
    struct json_writer writer = json_writer_to(&text);
    json_write_begin_object(&writer);
    if (error != NULL) {
        json_write_field_string(&writer, "error", error->text);
        json_write_field_string(&writer, "code", error_kind_name(error->kind));
    } else {
        const struct agent_exit *exit = &result->exit;
        json_write_key(&writer, "exit_code");
        json_write_i64(&writer, exit->exit_code);
        json_write_field_u64(&writer, "signal", (uint64_t)exit->signal);
        json_write_field_bool(&writer, "timed_out", exit->timed_out);
    }
    json_write_end_object(&writer);
    send_frame(exchange, END, text.data, text.used);
    http_exchange_end(exchange);
}

static void on_exec_end(const struct error *error, const struct agent_result *result, void *context)
{
    struct exec *exec = context;
    struct request *request = exec->request;
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    exec->call = NULL;
    exec->is_answering = true;
    if (error == NULL && !exec->has_begun) {
        begin_frames(request); /* it was cancelled before it began, or the agent did not say so */
    }
    if (error == NULL || exec->has_begun) {
        send_end(request->exchange, error, result);
        api_request_end(request);
    } else {
        api_answer_error(request, error);
    }
    exec->is_answering = false;
    release_exec(exec);
}

static void on_exec_writable(void *context)
{
    struct exec *exec = context;
    http_exchange_resume(exec->request->exchange);
}

static void finish_input(struct exec *exec)
{
    if (exec->takes_input) {
        exec->takes_input = false;
        agent_call_finish_input(exec->call);
    }
}

/* What the program does not take is dropped. */
static void take_exec_frame(struct exec *exec, uint8_t kind, const uint8_t *bytes, size_t length)
{
    switch ((enum to_machine)kind) {
    case INPUT:
        if (exec->takes_input && !agent_call_write(exec->call, bytes, length)) {
            http_exchange_pause(exec->request->exchange);
        }
        break;
    case INPUT_END:
        finish_input(exec);
        break;
    case TERMINAL_SIZE:
        if (length == 4) {
            agent_call_resize(exec->call, (unsigned)(bytes[0] << 8 | bytes[1]),
                              (unsigned)(bytes[2] << 8 | bytes[3]));
        }
        break;
    case SIGNAL:
        if (length == 1 && bytes[0] > 0 && bytes[0] < NSIG) {
            agent_call_signal(exec->call, bytes[0]);
        }
        break;
    case NOTHING:
        break;
    }
}

static void on_exec_data(const void *bytes, size_t length, void *context)
{
    struct exec *exec = context;
    uint8_t kind = 0;
    const uint8_t *content = NULL;
    size_t size = 0;
    bool is_bad = false;
    buffer_append(&exec->frames.held, bytes, length);
    while (exec->call != NULL && next_frame(&exec->frames, &kind, &content, &size, &is_bad)) {
        take_exec_frame(exec, kind, content, size);
        buffer_consume(&exec->frames.held, FRAME_HEAD + size);
    }
    if (is_bad && exec->call != NULL) {
        buffer_clear(&exec->frames.held);
        agent_call_cancel(exec->call);
    }
}

/* The client has said all that it had to say; the program goes on. */
static void on_exec_input_end(const struct error *error, void *context)
{
    struct exec *exec = context;
    exec->input_is_over = true;
    if (exec->call != NULL && error != NULL) {
        agent_call_cancel(exec->call);
    } else if (exec->call != NULL) {
        finish_input(exec);
    }
    release_exec(exec);
}

static void on_exec_stop(struct request *request)
{
    on_exec_close(request->state);
}

static int read_spec(struct request *request, json_t **ret_spec, struct error *err)
{
    MEMORY_OWNED char *text = memory_new(1, QUERY_MAX);
    if (!http_query_get(http_exchange_query(request->exchange), "exec", text, QUERY_MAX)) {
        return error_set(err, ERROR_INVALID, "?exec= is missing: a MachineExec as JSON");
    }
    int r = json_read(text, strlen(text), ret_spec, err);
    r = r < 0 ? r : api_type_check(*ret_spec, "MachineExec", err);
    size_t count = json_array_size(json_object_get(*ret_spec, "arguments"));
    size_t variables = json_array_size(json_object_get(*ret_spec, "environment"));
    return r < 0 || (count > 0 && count < ARGUMENTS_MAX && variables < ARGUMENTS_MAX)
        ? r
        : error_set(err, ERROR_INVALID, "$.arguments has 1 to %d texts, $.environment at most that",
                    ARGUMENTS_MAX - 1);
}

static void take_texts(const json_t *list, const char **ret_texts)
{
    size_t count = json_array_size(list);
    for (size_t i = 0; i < count; i++) {
        ret_texts[i] = json_string_value(json_array_get(list, i));
    }
    ret_texts[count] = NULL;
}

static void run(struct request *request, struct agent *agent, const json_t *spec)
{
    static const struct agent_call_events events = {.on_started = on_exec_started,
                                                    .on_output = on_exec_output,
                                                    .on_writable = on_exec_writable,
                                                    .on_end = on_exec_end};
    const char *arguments[ARGUMENTS_MAX];
    const char *environment[ARGUMENTS_MAX];
    struct exec *exec = NEW(struct exec);
    const json_t *variables = json_object_get(spec, "environment");
    take_texts(json_object_get(spec, "arguments"), arguments);
    take_texts(variables, environment);
    exec->request = request;
    bool has_terminal = json_is_true(json_object_get(spec, "terminal"));
    exec->takes_input = json_is_true(json_object_get(spec, "input")) || has_terminal;
    const struct agent_exec order = {
        .arguments = arguments,
        .environment = json_array_size(variables) > 0 ? environment : NULL,
        .folder = api_body_text(spec, "folder"),
        .user = api_body_text(spec, "user"),
        .has_input = exec->takes_input,
        .has_terminal = has_terminal,
        .rows = (unsigned)json_integer_value(json_object_get(spec, "rows")),
        .columns = (unsigned)json_integer_value(json_object_get(spec, "columns")),
        .timeout_ms = (uint64_t)json_integer_value(json_object_get(spec, "timeout_ms")),
    };
    exec->call = agent_exec(agent, &order, &events, exec);
    request->state = exec;
    request->stop = on_exec_stop;
    http_exchange_on(request->exchange, on_exec_drain, on_exec_close, exec);
    http_exchange_set_body_max(request->exchange, UINT64_MAX);
    http_exchange_read(request->exchange, on_exec_data, on_exec_input_end, exec);
}

static void begin_exec(struct request *request)
{
    struct error err = {0};
    struct agent *agent = NULL;
    JSON_OWNED json_t *spec = NULL;
    int r = read_spec(request, &spec, &err);
    r = r < 0 ? r
              : machine_agent(request->api->options.machines, request->project,
                              request->parameters[0], &agent, &err);
    if (r < 0) {
        api_answer_error(request, &err);
    } else {
        run(request, agent, spec);
    }
}

void api_machine_exec(struct request *request)
{
    if (!api_machine_is_elsewhere(request)) {
        api_machine_with_agent(request, begin_exec);
    }
}

/* ---- Consoles ---- */

struct console {
    struct request *request;
    struct frames frames;
    uv_poll_t poll;
    int fd;
    bool is_framed; /* or a log that is followed */
    bool is_paused;
    bool is_over;       /* the answer has ended */
    bool input_is_over; /* or there is none */
    bool poll_is_closed;
};

static void free_console(struct console *console)
{
    if (console->is_over && console->input_is_over && console->poll_is_closed) {
        fd_close_slot(&console->fd);
        buffer_done(&console->frames.held);
        free(console);
    }
}

static void on_console_closed(uv_handle_t *handle)
{
    struct console *console = handle->data;
    console->poll_is_closed = true;
    free_console(console);
}

static void end_console(struct console *console)
{
    struct request *request = console->request;
    if (console->is_over) {
        return;
    }
    console->is_over = true;
    http_exchange_on(request->exchange, NULL, NULL, NULL);
    request->stop = NULL;
    if (console->is_framed) {
        send_frame(request->exchange, END, "{}", 2);
    }
    http_exchange_end(request->exchange);
    api_request_end(request);
    uv_close((uv_handle_t *)&console->poll, on_console_closed);
}

static void on_console_readable(uv_poll_t *poll, int status, int events)
{
    struct console *console = poll->data;
    struct http_exchange *exchange = console->request->exchange;
    char piece[PIECE_BYTES];
    (void)events;
    ssize_t got = status < 0 ? 0 : recv(console->fd, piece, sizeof(piece), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (got <= 0) {
        end_console(console);
        return;
    }
    bool has_room = console->is_framed ? send_frame(exchange, OUTPUT, piece, (size_t)got)
                                       : http_exchange_write(exchange, piece, (size_t)got);
    if (!has_room) {
        uv_poll_stop(&console->poll);
        console->is_paused = true;
    }
}

static void on_console_drain(void *context)
{
    struct console *console = context;
    if (console->is_paused) {
        console->is_paused = false;
        uv_poll_start(&console->poll, UV_READABLE, on_console_readable);
    }
}

static void on_console_stop(struct request *request)
{
    end_console(request->state);
}

static void on_console_close(void *context)
{
    end_console(context);
}

/* A console takes little at once: what is too much is dropped, as a terminal line would. */
static void on_console_data(const void *bytes, size_t length, void *context)
{
    struct console *console = context;
    uint8_t kind = 0;
    const uint8_t *content = NULL;
    size_t size = 0;
    bool is_bad = false;
    if (console->is_over) {
        return;
    }
    buffer_append(&console->frames.held, bytes, length);
    while (next_frame(&console->frames, &kind, &content, &size, &is_bad)) {
        if (kind == INPUT && size > 0) {
            send(console->fd, content, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        }
        buffer_consume(&console->frames.held, FRAME_HEAD + size);
    }
    if (is_bad) {
        end_console(console);
    }
}

static void on_console_input_end(const struct error *error, void *context)
{
    struct console *console = context;
    console->input_is_over = true;
    if (error != NULL) {
        end_console(console);
    }
    free_console(console);
}

static struct console *attach(struct request *request, size_t history, bool is_framed,
                              struct error *err)
{
    int fd = -1;
    MEMORY_OWNED char *folder = NULL;
    int r = machine_folder(request->api->options.machines, request->project, request->parameters[0],
                           &folder, err);
    r = r < 0 ? r : hypervisor_console(folder, history, &fd, err);
    if (r < 0) {
        return NULL;
    }
    struct console *console = NEW(struct console);
    *console = (struct console){.request = request, .fd = fd, .is_framed = is_framed};
    request->state = console;
    request->stop = on_console_stop;
    http_exchange_on(request->exchange, on_console_drain, on_console_close, console);
    uv_poll_init(loop_uv(request->api->options.loop), &console->poll, fd);
    console->poll.data = console;
    uv_poll_start(&console->poll, UV_READABLE, on_console_readable);
    return console;
}

void api_machine_console(struct request *request)
{
    struct error err = {0};
    if (api_machine_is_elsewhere(request)) {
        return;
    }
    uint64_t history = api_query_u64(request, "history", HISTORY_DEFAULT);
    struct console *console = attach(request, history, true, &err);
    if (console == NULL) {
        api_answer_error(request, &err);
        return;
    }
    /* A client that is gone by now ends the request with the first word to it. */
    struct http_exchange *exchange = http_exchange_ref(request->exchange);
    begin_frames(request);
    http_exchange_set_body_max(exchange, UINT64_MAX);
    http_exchange_read(exchange, on_console_data, on_console_input_end, console);
    http_exchange_unref(exchange);
}

/* ---- Logs ---- */

/* Attached before anything is written: who is gone by then is noticed, and the request has ended.
 */
static void follow(struct request *request, struct buffer *log)
{
    struct error ignored = {0};
    struct http_exchange *exchange = http_exchange_ref(request->exchange);
    struct console *console = attach(request, 0, false, &ignored);
    if (console != NULL) {
        console->input_is_over = true;
    }
    api_add_fields(request);
    http_exchange_add_field(exchange, "Content-Type", "text/plain; charset=utf-8");
    http_exchange_begin(exchange, request->status, UINT64_MAX);
    http_exchange_write(exchange, log->data, log->used);
    if (console == NULL) { /* it does not run: there is no more */
        http_exchange_end(exchange);
        api_request_end(request);
    }
    http_exchange_unref(exchange);
}

/* Only the last `lines` of it stay; what has no end yet is one of them. */
static void keep_last_lines(struct buffer *log, uint64_t lines)
{
    size_t at = log->used;
    for (; at > 0 && lines > 0; at--) {
        bool ends_one = at < log->used && log->data[at - 1] == '\n';
        if (ends_one && --lines == 0) {
            break;
        }
    }
    memmove(log->data, log->data + at, log->used - at);
    log->used -= at;
}

void api_machine_log(struct request *request)
{
    struct error err = {0};
    MEMORY_OWNED char *folder = NULL;
    BUFFER_OWNED struct buffer log = {0};
    if (api_machine_is_elsewhere(request)) {
        return;
    }
    uint64_t tail = api_query_u64(request, "tail", FRAME_MAX);
    uint64_t lines = api_query_u64(request, "lines", UINT64_MAX);
    int r = machine_folder(request->api->options.machines, request->project, request->parameters[0],
                           &folder, &err);
    r = r < 0 ? r : hypervisor_console_log(folder, (size_t)tail, &log, &err);
    if (r == 0 && log.used > 0) {
        keep_last_lines(&log, lines);
    }
    if (r < 0) {
        api_answer_error(request, &err);
    } else if (api_query_flag(request, "follow", false)) {
        follow(request, &log);
    } else {
        api_add_fields(request);
        http_exchange_add_field(request->exchange, "Content-Type", "text/plain; charset=utf-8");
        http_exchange_respond(request->exchange, request->status, log.data, log.used);
        api_request_end(request);
    }
}
