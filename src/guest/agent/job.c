/*
 * Requests that take a while, each with a child: a program, or a fork of the server that does what
 * could block.
 *
 * A job is over when its child was reaped, its messages have come and what it had written until
 * then was sent.  Who else still holds its pipes open (what a program has left in the background)
 * is not waited for: after the child's end, a pipe that has nothing now has nothing more.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/check.h"
#include "base/memory.h"

#include "guest/agent/private.h"

enum { MESSAGE_MAX = AGENT_FRAME_MAX, CREDIT_STEP = AGENT_WINDOW / 4, ROWS = 24, COLUMNS = 80 };

/* What a child says: the first byte of a message, fields behind it. */
enum { SAYS_NOTE = 'N', SAYS_ANSWER = 'A', SAYS_ERROR = 'E' };

struct ends {
    int in[2], out[2], err[2], result[2];
};

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static void close_theirs(struct ends *ends)
{
    close_fd(&ends->in[0]);
    close_fd(&ends->out[1]);
    close_fd(&ends->err[1]);
    close_fd(&ends->result[1]);
}

static void close_ours(struct ends *ends)
{
    close_fd(&ends->in[1]);
    close_fd(&ends->out[0]);
    close_fd(&ends->err[0]);
    close_fd(&ends->result[0]);
}

/* ---- In the child ---- */

static void child_says(int fd, char what, const void *bytes, size_t length)
{
    BUFFER_OWNED struct buffer message = {0};
    buffer_append_byte(&message, (uint8_t)what);
    buffer_append(&message, bytes, length);
    while (send(fd, message.data, message.used, MSG_NOSIGNAL) < 0 && errno == EINTR) {
    }
}

void work_note(struct work *work, const struct buffer *fields)
{
    child_says(work->result, SAYS_NOTE, fields->data, fields->used);
}

static void child_fails(int fd, const struct error *error)
{
    BUFFER_OWNED struct buffer fields = {0};
    agent_put_number(&fields, AGENT_ERROR_KIND, error->kind);
    agent_put_number(&fields, AGENT_ERROR_NUMBER, (uint64_t)error->os_errno);
    agent_put_text(&fields, AGENT_ERROR_TEXT, error->text);
    child_says(fd, SAYS_ERROR, fields.data, fields.used);
}

static void place(int fd, int target)
{
    if (fd == target) {
        fcntl(fd, F_SETFD, 0);
    } else {
        dup2(fd, target);
    }
}

/* The result's socket becomes descriptor 3, and closes when a program is begun. */
static void place_all(struct ends *ends, int in, int out, int err)
{
    enum { RESULT = 3, ABOVE = 16 };
    int result = fcntl(ends->result[1], F_DUPFD_CLOEXEC, ABOVE);
    int ends_now[3] = {fcntl(in, F_DUPFD_CLOEXEC, ABOVE), fcntl(out, F_DUPFD_CLOEXEC, ABOVE),
                       fcntl(err, F_DUPFD_CLOEXEC, ABOVE)};
    for (int i = 0; i < 3; i++) {
        place(ends_now[i], i);
    }
    dup3(result, RESULT, O_CLOEXEC);
    ends->result[1] = RESULT;
    if (syscall(SYS_close_range, RESULT + 1U, ~0U, 0U) < 0) {
        for (int fd = RESULT + 1; fd < 1024; fd++) {
            close(fd);
        }
    }
}

static _Noreturn void child_exec(struct ends *ends, struct agent_reader request, int terminal)
{
    struct error error = {0};
    bool has_terminal = terminal >= 0;
    place_all(ends, has_terminal ? terminal : ends->in[0], has_terminal ? terminal : ends->out[1],
              has_terminal ? terminal : ends->err[1]);
    exec_begin_child();
    exec_become(request, has_terminal, &error);
    child_fails(ends->result[1], &error);
    _exit(127);
}

static _Noreturn void child_work(struct ends *ends, work_run *run, struct agent_reader request)
{
    struct error error = {0};
    BUFFER_OWNED struct buffer answer = {0};
    place_all(ends, ends->in[0], ends->out[1], ends->err[1] >= 0 ? ends->err[1] : STDERR_FILENO);
    exec_begin_child();
    signal(SIGPIPE, SIG_IGN);
    struct work work = {.request = request, .in = 0, .out = 1, .result = ends->result[1]};
    int r = run(&work, &answer, &error);
    if (r < 0) {
        child_fails(ends->result[1], &error);
    } else {
        child_says(ends->result[1], SAYS_ANSWER, answer.data, answer.used);
    }
    buffer_done(&answer);
    _exit(r < 0 ? 1 : 0);
}

/* ---- Beginning ---- */

/* A pipe, of which our end does not block. */
static bool make_pipe(int fds[2], int ours)
{
    if (pipe2(fds, O_CLOEXEC) < 0) {
        fds[0] = fds[1] = -1;
        return false;
    }
    fcntl(fds[ours], F_SETFL, O_NONBLOCK);
    return true;
}

static int make_ends(struct ends *ends, bool has_input, bool has_pipes, struct error *err)
{
    *ends = (struct ends){{-1, -1}, {-1, -1}, {-1, -1}, {-1, -1}};
    bool is_good = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends->result) == 0;
    if (is_good && has_pipes && has_input) {
        is_good = make_pipe(ends->in, 1);
    } else if (is_good && has_pipes) {
        ends->in[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    if (is_good && has_pipes) {
        is_good = make_pipe(ends->out, 0) && make_pipe(ends->err, 0);
    }
    if (is_good) {
        fcntl(ends->result[0], F_SETFL, O_NONBLOCK);
        return 0;
    }
    int number = errno;
    close_ours(ends);
    close_theirs(ends);
    return fail_os(err, number, "making pipes");
}

static struct job *new_job(struct link *link, uint32_t id, unsigned operation, struct ends *ends)
{
    struct job *job = NEW(struct job);
    job->link = link;
    job->id = id;
    job->operation = operation;
    job->terminal = -1;
    job->result_fd = ends->result[0];
    job->flows[AGENT_STREAM_IN].fd = ends->in[1];
    job->flows[AGENT_STREAM_OUT].fd = ends->out[0];
    job->flows[AGENT_STREAM_ERR].fd = ends->err[0];
    for (int i = 0; i < AGENT_STREAMS; i++) {
        job->flows[i].window = AGENT_WINDOW;
        job->flows[i].is_over = job->flows[i].fd < 0;
    }
    list_push_back(&link->jobs, &job->node);
    link->job_count++;
    return job;
}

int job_begin_work(struct link *link, uint32_t id, unsigned operation, work_run *run,
                   struct agent_reader request, struct error *err)
{
    bool has_input = operation == AGENT_PUT || operation == AGENT_UNPACK ||
        operation == AGENT_FUNCTION_INVOKE || operation == AGENT_FUNCTION_TUNNEL;
    bool has_errors = operation == AGENT_FUNCTION_BEGIN || operation == AGENT_FUNCTION_INVOKE;
    struct ends ends;
    int r = make_ends(&ends, has_input, true, err);
    if (r < 0) {
        return r;
    }
    if (!has_errors) { /* what a fork of ours has to say, it says by message */
        close_fd(&ends.err[0]);
        close_fd(&ends.err[1]);
    }
    pid_t pid = fork();
    if (pid == 0) {
        child_work(&ends, run, request);
    }
    int number = errno;
    close_theirs(&ends);
    if (pid < 0) {
        close_ours(&ends);
        return fail_os(err, number, "making a process");
    }
    struct job *job = new_job(link, id, operation, &ends);
    job->pid = pid;
    job->is_forked = true;
    return 0;
}

static int open_terminal(struct agent_reader request, int *ret_master, int *ret_slave,
                         struct error *err)
{
    int zero = 0;
    uint64_t rows = request_number(request, AGENT_ROWS, 0);
    uint64_t columns = request_number(request, AGENT_COLUMNS, 0);
    const struct winsize size = {.ws_row = (unsigned short)(rows != 0 ? rows : ROWS),
                                 .ws_col = (unsigned short)(columns != 0 ? columns : COLUMNS)};
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (master < 0) {
        return fail_os(err, errno, "opening a terminal");
    }
    int slave = -1;
    if (ioctl(master, TIOCSPTLCK, &zero) == 0) {
        slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    }
    if (slave < 0) {
        int number = errno;
        close(master);
        return fail_os(err, number, "opening a terminal");
    }
    ioctl(master, TIOCSWINSZ, &size);
    *ret_master = master;
    *ret_slave = slave;
    return 0;
}

int job_begin_exec(struct link *link, uint32_t id, struct agent_reader request, struct error *err)
{
    bool has_terminal = request_number(request, AGENT_TTY, 0) != 0;
    bool has_input = request_number(request, AGENT_INPUT, 0) != 0;
    uint64_t timeout_ms = request_number(request, AGENT_TIMEOUT_MS, 0);
    int master = -1;
    int slave = -1;
    struct ends ends;
    int r = has_terminal ? open_terminal(request, &master, &slave, err) : 0;
    if (r < 0) {
        return r;
    }
    r = make_ends(&ends, has_input, !has_terminal, err);
    if (r < 0) {
        close_fd(&master);
        close_fd(&slave);
        return r;
    }
    pid_t pid = fork();
    if (pid == 0) {
        child_exec(&ends, request, slave);
    }
    int number = errno;
    close_fd(&slave);
    close_theirs(&ends);
    if (pid < 0) {
        close_fd(&master);
        close_ours(&ends);
        return fail_os(err, number, "making a process");
    }
    if (has_terminal) {
        ends.out[0] = master;
        ends.in[1] = has_input ? fcntl(master, F_DUPFD_CLOEXEC, 3) : -1;
    }
    struct job *job = new_job(link, id, AGENT_EXEC, &ends);
    job->pid = pid;
    job->terminal = master;
    job->deadline_ms = timeout_ms > 0 ? now_ms() + timeout_ms : 0;
    return 0;
}

struct job *job_find(struct link *link, uint32_t id)
{
    LIST_EACH(node, &link->jobs)
    {
        struct job *job = LIST_ITEM(node, struct job, node);
        if (job->id == id) {
            return job;
        }
    }
    return NULL;
}

/* ---- The end ---- */

static void free_job(struct job *job)
{
    close_fd(&job->result_fd);
    for (int i = 0; i < AGENT_STREAMS; i++) {
        close_fd(&job->flows[i].fd);
    }
    list_remove(&job->node);
    job->link->job_count--;
    buffer_done(&job->queue);
    buffer_done(&job->answer);
    free(job);
}

/* Its session, and the group in front of its terminal, which a shell makes another one. */
static void kill_all(const struct job *job, int number)
{
    int front = 0;
    if (job->terminal >= 0 && ioctl(job->terminal, TIOCGPGRP, &front) == 0 && front > 1) {
        kill(-front, number);
    }
    if (!job->is_reaped) {
        kill(-job->pid, number);
        kill(job->pid, number); /* it may not have got as far as its own group */
    }
}

static void drop_streams(struct job *job)
{
    for (int i = 0; i < AGENT_STREAMS; i++) {
        close_fd(&job->flows[i].fd);
        job->flows[i].is_over = true;
    }
    job->terminal = -1;
    buffer_done(&job->queue);
}

void job_cancel(struct job *job)
{
    job->is_cancelled = true;
    kill_all(job, job->is_forked ? SIGTERM : SIGKILL);
    drop_streams(job);
}

/* A fork of ours sees the signal before it sees its pipe end: what came so far is not taken for
 * the whole. */
void job_abandon(struct job *job)
{
    kill_all(job, job->is_forked ? SIGTERM : SIGKILL);
    free_job(job); /* whoever is reaped without a job is nobody's business */
}

void job_reaped(struct job *job, int status)
{
    job->is_reaped = true;
    job->status = status;
}

/* What it has said of itself: everything, or what there is now. */
static void read_messages(struct job *job)
{
    static uint8_t message[MESSAGE_MAX];
    while (job->result_fd >= 0) {
        ssize_t got = recv(job->result_fd, message, sizeof(message), 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0 && errno == EAGAIN) {
            return;
        }
        if (got <= 0) {
            close_fd(&job->result_fd);
            if (!job->is_forked && !job->has_error && !job->is_cancelled) {
                BUFFER_OWNED struct buffer note = {0}; /* closed without a word: the program runs */
                agent_put_number(&note, AGENT_PID, (uint64_t)job->pid);
                link_send(job->link, AGENT_NOTE, AGENT_STREAM_IN, job->id, note.data, note.used);
            }
            return;
        }
        if (message[0] == SAYS_NOTE) {
            link_send(job->link, AGENT_NOTE, AGENT_STREAM_IN, job->id, message + 1,
                      (size_t)got - 1);
        } else {
            job->has_error = message[0] == SAYS_ERROR;
            buffer_clear(&job->answer);
            buffer_append(&job->answer, message + 1, (size_t)got - 1);
        }
    }
}

static void answer(struct job *job)
{
    struct error error = {0};
    BUFFER_OWNED struct buffer fields = {0};
    if (job->is_cancelled) {
        error_set(&error, ERROR_CANCELLED, "cancelled");
        link_answer(job->link, job->id, &error, NULL);
    } else if (job->has_error) {
        link_send(job->link, AGENT_ANSWER, AGENT_STREAM_IN, job->id, job->answer.data,
                  job->answer.used);
    } else if (job->is_forked && !WIFEXITED(job->status)) {
        error_set(&error, ERROR_OS, "the agent's helper died of signal %d", WTERMSIG(job->status));
        link_answer(job->link, job->id, &error, NULL);
    } else if (job->is_forked) {
        link_answer(job->link, job->id, NULL, &job->answer);
    } else {
        if (WIFSIGNALED(job->status)) {
            agent_put_number(&fields, AGENT_SIGNAL, (uint64_t)WTERMSIG(job->status));
        } else {
            agent_put_number(&fields, AGENT_EXIT_CODE, (uint64_t)WEXITSTATUS(job->status));
        }
        agent_put_number(&fields, AGENT_TIMED_OUT, job->is_late);
        link_answer(job->link, job->id, NULL, &fields);
    }
}

/* ---- Streams ---- */

static void end_stream(struct job *job, enum agent_stream stream)
{
    struct flow *flow = &job->flows[stream];
    if (!flow->is_over) {
        flow->is_over = true;
        link_send(job->link, AGENT_END, stream, job->id, NULL, 0);
    }
    close_fd(&flow->fd);
    if (stream == AGENT_STREAM_OUT) {
        job->terminal = -1;
    }
}

static bool may_read(const struct job *job, enum agent_stream stream)
{
    const struct flow *flow = &job->flows[stream];
    return flow->fd >= 0 && flow->window > 0 && !link_is_full(job->link);
}

/* What a fork of ours has said before it wrote is told before. */
static void read_output(struct job *job, enum agent_stream stream)
{
    static uint8_t piece[AGENT_PIECE_MAX];
    struct flow *flow = &job->flows[stream];
    if (!may_read(job, stream)) {
        return;
    }
    size_t most = flow->window < sizeof(piece) ? flow->window : sizeof(piece);
    ssize_t got = read(flow->fd, piece, most);
    if (got > 0) {
        flow->window -= (size_t)got;
        if (job->is_forked) {
            read_messages(job);
        }
        link_send(job->link, AGENT_DATA, stream, job->id, piece, (size_t)got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR) ||
               (errno == EAGAIN && job->is_reaped)) {
        end_stream(job, stream);
    }
}

static void give_credit(struct job *job, size_t wrote)
{
    struct flow *flow = &job->flows[AGENT_STREAM_IN];
    uint8_t bytes[4];
    flow->credit += wrote;
    if (flow->credit < CREDIT_STEP || flow->is_over) {
        return;
    }
    for (int i = 0; i < 4; i++) {
        bytes[i] = (uint8_t)(flow->credit >> (8 * i));
    }
    flow->window += flow->credit;
    flow->credit = 0;
    link_send(job->link, AGENT_CREDIT, AGENT_STREAM_IN, job->id, bytes, sizeof(bytes));
}

/* All was written and no more comes.  A terminal's end of input is a character. */
static void end_input(struct job *job)
{
    struct flow *flow = &job->flows[AGENT_STREAM_IN];
    if (job->terminal >= 0) {
        struct termios settings;
        bool is_known = tcgetattr(job->terminal, &settings) == 0;
        uint8_t end = is_known ? settings.c_cc[VEOF] : 4;
        ssize_t wrote = write(flow->fd, &end, 1);
        (void)wrote;
    }
    close_fd(&flow->fd);
}

static void write_input(struct job *job)
{
    struct flow *flow = &job->flows[AGENT_STREAM_IN];
    while (flow->fd >= 0 && job->queue.used > 0) {
        ssize_t wrote = write(flow->fd, job->queue.data, job->queue.used);
        if (wrote < 0 && errno == EINTR) {
            continue;
        }
        if (wrote < 0 && errno == EAGAIN) {
            return;
        }
        if (wrote < 0) { /* it reads no more */
            buffer_done(&job->queue);
            end_stream(job, AGENT_STREAM_IN);
            return;
        }
        buffer_consume(&job->queue, (size_t)wrote);
        give_credit(job, (size_t)wrote);
    }
    if (flow->fd >= 0 && flow->is_over) {
        end_input(job);
    }
}

void job_take_data(struct job *job, const struct agent_frame *frame)
{
    struct flow *flow = &job->flows[AGENT_STREAM_IN];
    if (frame->head.stream != AGENT_STREAM_IN || flow->is_over) {
        return; /* what was on its way when nobody wanted it any more */
    }
    if (frame->head.type == AGENT_END) {
        flow->is_over = true;
    } else if (frame->length > flow->window) {
        job_cancel(job);
        return;
    } else {
        flow->window -= frame->length;
        buffer_append(&job->queue, frame->payload, frame->length);
    }
    write_input(job);
}

void job_take_credit(struct job *job, const struct agent_frame *frame)
{
    struct flow *flow = &job->flows[frame->head.stream];
    uint64_t credit = agent_credit_read(frame);
    if (frame->head.stream == AGENT_STREAM_IN || credit > AGENT_WINDOW - flow->window) {
        return;
    }
    flow->window += credit;
}

void job_control(struct job *job, struct agent_reader request)
{
    uint64_t number = request_number(request, AGENT_SIGNAL, 0);
    uint64_t rows = request_number(request, AGENT_ROWS, 0);
    int front = 0;
    if (job->is_forked || job->is_reaped) {
        return;
    }
    if (number > 0 && number <= 64) {
        bool has_front =
            job->terminal >= 0 && ioctl(job->terminal, TIOCGPGRP, &front) == 0 && front > 1;
        kill(has_front ? -front : -job->pid, (int)number);
    }
    if (rows > 0 && rows <= UINT16_MAX && job->terminal >= 0) {
        const struct winsize size = {
            .ws_row = (unsigned short)rows,
            .ws_col = (unsigned short)request_number(request, AGENT_COLUMNS, COLUMNS)};
        ioctl(job->terminal, TIOCSWINSZ, &size);
    }
}

/* ---- In the loop ---- */

unsigned job_wants(const struct job *job, int *fds, short *events)
{
    unsigned count = 0;
    if (job->result_fd >= 0) {
        fds[count] = job->result_fd;
        events[count++] = POLLIN;
    }
    const struct flow *in = &job->flows[AGENT_STREAM_IN];
    if (in->fd >= 0 && job->queue.used > 0) {
        fds[count] = in->fd;
        events[count++] = POLLOUT;
    }
    for (int i = AGENT_STREAM_OUT; i < AGENT_STREAMS; i++) {
        if (may_read(job, (enum agent_stream)i)) {
            fds[count] = job->flows[i].fd;
            events[count++] = POLLIN;
        }
    }
    return count;
}

void job_ready(struct job *job, int fd, short events)
{
    if (events == 0 || fd < 0) {
        return;
    }
    if (fd == job->result_fd) {
        read_messages(job);
    } else if (fd == job->flows[AGENT_STREAM_IN].fd) {
        write_input(job);
    }
    for (int i = AGENT_STREAM_OUT; i < AGENT_STREAMS; i++) {
        if (fd == job->flows[i].fd) {
            read_output(job, (enum agent_stream)i);
        }
    }
}

bool job_is_hurried(const struct job *job)
{
    return job->is_reaped && (may_read(job, AGENT_STREAM_OUT) || may_read(job, AGENT_STREAM_ERR));
}

bool job_step(struct job *job, uint64_t now)
{
    if (job->deadline_ms > 0 && now >= job->deadline_ms && !job->is_reaped) {
        job->deadline_ms = 0;
        job->is_late = true;
        kill_all(job, SIGKILL);
    }
    if (!job->is_reaped) {
        return false;
    }
    read_messages(job);
    close_fd(&job->result_fd);
    read_output(job, AGENT_STREAM_OUT);
    read_output(job, AGENT_STREAM_ERR);
    if (job->flows[AGENT_STREAM_OUT].fd >= 0 || job->flows[AGENT_STREAM_ERR].fd >= 0) {
        return false; /* more is there, or the host has to give back some of the window first */
    }
    answer(job);
    free_job(job);
    return true;
}
