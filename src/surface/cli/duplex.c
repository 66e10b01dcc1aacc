/*
 * Frames both ways: see duplex.h, and surface/api/machine_streams.c for what they are.
 *
 * Standard input is read when the connection can take it: a terminal or a pipe by polling, a file
 * at once.  A sign of life goes out when nothing else does.
 */
#include "surface/cli/duplex.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "surface/cli/private.h"

enum { FRAME_HEAD = 5, FRAME_MAX = 1 << 20, PIECE_BYTES = 16 << 10, LIFE_MS = 10000 };
enum { INPUT, INPUT_END, TERMINAL_SIZE, SIGNAL, NOTHING };
enum { OUTPUT = 1, ERRORS, END };

struct running {
    struct duplex *duplex;
    struct loop *loop;
    struct http_call *call;
    struct answer answer; /* of one that is refused */
    struct error error;
    struct buffer held;
    uv_poll_t input;
    uv_signal_t resized;
    struct loop_timer *life;
    bool polls; /* standard input can be waited for */
    bool is_polling;
    bool is_over;
    bool has_begun;
};

/* ---- The terminal ---- */

bool duplex_terminal_size(unsigned *ret_rows, unsigned *ret_columns)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0) {
        return false;
    }
    *ret_rows = size.ws_row;
    *ret_columns = size.ws_col;
    return true;
}

static struct termios terminal_before;
static bool terminal_is_raw;

static void restore_terminal(void)
{
    if (terminal_is_raw) {
        tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal_before);
        terminal_is_raw = false;
    }
}

static void make_terminal_raw(void)
{
    if (tcgetattr(STDIN_FILENO, &terminal_before) == 0) {
        struct termios raw = terminal_before;
        cfmakeraw(&raw);
        terminal_is_raw = tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
        atexit(restore_terminal);
    }
}

/* ---- Out ---- */

static bool send_frame(struct running *running, int kind, const void *bytes, size_t length)
{
    const uint8_t head[FRAME_HEAD] = {(uint8_t)kind, (uint8_t)(length >> 24),
                                      (uint8_t)(length >> 16), (uint8_t)(length >> 8),
                                      (uint8_t)length};
    bool has_room = http_call_write(running->call, head, sizeof(head));
    return length == 0 ? has_room : http_call_write(running->call, bytes, length);
}

static void on_input(uv_poll_t *poll, int status, int events);

static void listen_to_input(struct running *running, bool listens)
{
    if (running->polls && running->is_polling != listens) {
        running->is_polling = listens;
        if (listens) {
            uv_poll_start(&running->input, UV_READABLE, on_input);
        } else {
            uv_poll_stop(&running->input);
        }
    }
}

static void detach(struct running *running)
{
    running->duplex->was_detached = true;
    running->is_over = true;
    http_call_cancel(running->call);
}

/* False: there is no more of it, or no room for it.  Who types fast, or twice, has the key in the
 * middle of what is read. */
static bool read_input(struct running *running)
{
    char piece[PIECE_BYTES];
    ssize_t got = read(STDIN_FILENO, piece, sizeof(piece));
    int key = running->duplex->detach_key;
    const char *leave = got > 0 && key >= 0 ? memchr(piece, key, (size_t)got) : NULL;
    if (leave != NULL) {
        if (leave > piece) {
            send_frame(running, INPUT, piece, (size_t)(leave - piece));
        }
        detach(running);
        return false;
    }
    if (got > 0) {
        bool has_room = send_frame(running, INPUT, piece, (size_t)got);
        listen_to_input(running, has_room);
        return has_room;
    }
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        send_frame(running, INPUT_END, NULL, 0);
        listen_to_input(running, false);
        running->duplex->takes_input = false;
    }
    return false;
}

static void on_input(uv_poll_t *poll, int status, int events)
{
    struct running *running = poll->data;
    (void)status;
    (void)events;
    if (!running->is_over) {
        read_input(running);
    }
}

static void on_writable(struct http_call *call, void *context)
{
    struct running *running = context;
    (void)call;
    if (!running->duplex->takes_input || running->is_over) {
        return;
    }
    if (running->polls) {
        listen_to_input(running, true);
    } else {
        while (!running->is_over && read_input(running)) {
        }
    }
}

static void tell_size(struct running *running)
{
    unsigned rows = 0;
    unsigned columns = 0;
    if (!running->is_over && duplex_terminal_size(&rows, &columns)) {
        const uint8_t bytes[4] = {(uint8_t)(rows >> 8), (uint8_t)rows, (uint8_t)(columns >> 8),
                                  (uint8_t)columns};
        send_frame(running, TERMINAL_SIZE, bytes, sizeof(bytes));
    }
}

static void on_resized(uv_signal_t *signal, int number)
{
    (void)number;
    tell_size(signal->data);
}

static void on_life(void *context)
{
    struct running *running = context;
    if (!running->is_over) {
        send_frame(running, NOTHING, NULL, 0);
        loop_timer_start(running->life, LIFE_MS);
    }
}

/* ---- In ---- */

static void take_frame(struct running *running, int kind, const uint8_t *bytes, size_t length)
{
    struct error ignored = {0};
    if (kind == OUTPUT || kind == ERRORS) {
        file_write_all(kind == OUTPUT ? STDOUT_FILENO : STDERR_FILENO, bytes, length);
    } else if (kind == END && running->duplex->end == NULL) {
        json_read(bytes, length, &running->duplex->end, &ignored);
    }
}

static void on_head(struct http_call *call, int status, void *context)
{
    struct running *running = context;
    (void)call;
    running->answer.status = status;
    running->has_begun = status < 300;
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct running *running = context;
    (void)call;
    if (!running->has_begun) {
        buffer_append(&running->answer.body, bytes, length);
        return;
    }
    struct buffer *held = &running->held;
    buffer_append(held, bytes, length);
    while (held->used >= FRAME_HEAD) {
        const uint8_t *at = held->data;
        size_t size =
            (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | (size_t)at[4];
        if (size > FRAME_MAX || held->used < FRAME_HEAD + size) {
            break;
        }
        take_frame(running, at[0], at + FRAME_HEAD, size);
        buffer_consume(held, FRAME_HEAD + size);
    }
}

static void on_end(struct http_call *call, const struct error *error, void *context)
{
    struct running *running = context;
    (void)call;
    running->is_over = true;
    if (error != NULL && !running->duplex->was_detached && running->duplex->end == NULL) {
        running->error = *error;
    }
    loop_stop(running->loop);
}

/* ---- Running ---- */

static void on_closed(uv_handle_t *handle)
{
    (void)handle;
}

static void begin(struct running *running, struct http_client *client, const char *const *fields)
{
    static const struct http_call_events events = {on_head, on_data, on_end};
    struct stat status;
    running->polls = running->duplex->takes_input && fstat(STDIN_FILENO, &status) == 0 &&
        !S_ISREG(status.st_mode) &&
        uv_poll_init(loop_uv(running->loop), &running->input, STDIN_FILENO) == 0;
    running->input.data = running;
    uv_signal_init(loop_uv(running->loop), &running->resized);
    running->resized.data = running;
    running->life = loop_timer_new(running->loop, on_life, running);
    MEMORY_OWNED char *path = target_path(running->duplex->path);
    running->call = http_client_call_streaming(client, "POST", path, fields, UINT64_MAX,
                                               on_writable, &events, running);
    loop_timer_start(running->life, LIFE_MS);
    if (running->duplex->is_terminal) {
        make_terminal_raw();
        uv_signal_start(&running->resized, on_resized, SIGWINCH);
        tell_size(running);
    } else if (!running->duplex->takes_input) {
        send_frame(running, INPUT_END, NULL, 0);
    }
}

static void end(struct running *running)
{
    restore_terminal();
    loop_timer_free(running->life);
    uv_close((uv_handle_t *)&running->resized, on_closed);
    if (running->polls) {
        uv_close((uv_handle_t *)&running->input, on_closed);
    }
}

int duplex_run(struct duplex *duplex, struct error *err)
{
    const struct target *target = NULL;
    struct http_client *client = NULL;
    struct running running = {.duplex = duplex};
    int r = request_reach(&target, err);
    r = r < 0 ? r : loop_new("cli", &running.loop, err);
    if (r < 0) {
        return r;
    }
    const struct http_client_options options = {.tls = target->tls};
    const char *const fields[] = {target->authorization, NULL};
    r = http_client_new(running.loop, request_alive(target), &options, &client, err);
    if (r == 0) {
        begin(&running, client, fields);
        loop_run(running.loop);
        end(&running);
        http_client_free(client);
    }
    loop_free(running.loop);
    if (r == 0 && running.error.kind != ERROR_NONE) {
        *err = running.error;
        r = -(int)err->kind;
    } else if (r == 0 && running.answer.status >= 300) {
        r = request_take_problem(&running.answer, err);
    }
    answer_done(&running.answer);
    buffer_done(&running.held);
    return r;
}

/* ---- Files ---- */

struct upload {
    struct loop *loop;
    struct answer answer;
    struct error error;
    int fd;
    uint64_t size;
    uint64_t sent;
    bool is_over;
};

static void show(const struct upload *upload)
{
    if (isatty(STDERR_FILENO) && upload->size > 0) {
        fprintf(stderr, "\r\033[K%3" PRIu64 "%% of %" PRIu64 " MiB uploaded",
                upload->sent * 100 / upload->size, upload->size >> 20);
    }
}

static void on_upload_writable(struct http_call *call, void *context)
{
    struct upload *upload = context;
    uint8_t piece[PIECE_BYTES];
    bool has_room = true;
    while (has_room && upload->sent < upload->size) {
        ssize_t got = read(upload->fd, piece, sizeof(piece));
        if (got <= 0 || (uint64_t)got > upload->size - upload->sent) {
            error_set(&upload->error, ERROR_CONFLICT, "the file has changed while it was read");
            http_call_cancel(call);
            return;
        }
        upload->sent += (uint64_t)got;
        has_room = http_call_write(call, piece, (size_t)got);
    }
    show(upload);
    if (upload->sent == upload->size && !upload->is_over) {
        upload->is_over = true;
        http_call_finish(call);
    }
}

static void on_upload_head(struct http_call *call, int status, void *context)
{
    struct upload *upload = context;
    (void)call;
    upload->answer.status = status;
}

static void on_upload_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct upload *upload = context;
    (void)call;
    buffer_append(&upload->answer.body, bytes, length);
}

static void on_upload_end(struct http_call *call, const struct error *error, void *context)
{
    struct upload *upload = context;
    (void)call;
    if (error != NULL && upload->error.kind == ERROR_NONE && upload->answer.status == 0) {
        upload->error = *error;
    }
    loop_stop(upload->loop);
}

static int send_upload(struct upload *upload, const char *method, const char *path,
                       struct error *err)
{
    static const struct http_call_events events = {on_upload_head, on_upload_data, on_upload_end};
    const struct target *target = NULL;
    struct http_client *client = NULL;
    int r = request_reach(&target, err);
    r = r < 0 ? r : loop_new("cli", &upload->loop, err);
    if (r < 0) {
        return r;
    }
    const struct http_client_options options = {.tls = target->tls};
    const char *const fields[] = {"Content-Type: application/octet-stream", target->authorization,
                                  NULL};
    r = http_client_new(upload->loop, request_alive(target), &options, &client, err);
    if (r == 0) {
        MEMORY_OWNED char *full = target_path(path);
        http_client_call_streaming(client, method, full, fields, upload->size, on_upload_writable,
                                   &events, upload);
        loop_run(upload->loop);
        http_client_free(client);
    }
    loop_free(upload->loop);
    return r;
}

int duplex_upload(const char *method, const char *target, const char *path, json_t **ret_document,
                  struct error *err)
{
    struct stat status;
    struct upload upload = {.fd = open(path, O_RDONLY | O_CLOEXEC)};
    FD_OWNED int fd = upload.fd;
    if (fd < 0 && errno == ENOENT) {
        return error_set(err, ERROR_NOT_FOUND, "%s does not exist", path);
    }
    if (fd < 0 || fstat(fd, &status) < 0) {
        return error_os(err, errno, "%s", path);
    }
    if (!S_ISREG(status.st_mode)) {
        return error_set(err, ERROR_INVALID, "%s is no file", path);
    }
    upload.size = (uint64_t)status.st_size;
    int r = send_upload(&upload, method, target, err);
    if (isatty(STDERR_FILENO)) {
        fputs("\r\033[K", stderr);
    }
    if (r == 0 && upload.error.kind != ERROR_NONE) {
        *err = upload.error;
        r = -(int)err->kind;
    } else if (r == 0 && upload.answer.status >= 300) {
        r = request_take_problem(&upload.answer, err);
    } else if (r == 0 && ret_document != NULL) {
        r = json_read(upload.answer.body.data, upload.answer.body.used, ret_document, err);
    }
    answer_done(&upload.answer);
    return r;
}
