/*
 * What is outside, for a function's machine, which has no network interface.
 *
 * A process beside the function's host, which outlives sessions as that one does.  All addresses
 * are local (one route), all names have an address here (names.h), and it listens on the ports that
 * the function may reach.  So programs connect as they would anywhere, whatever they are written
 * in.  A connection is handed to who takes one for the host (AGENT_FUNCTION_TUNNEL), with the words
 * "NAME:PORT" or "ADDRESS:PORT"; whether it may lead there is decided outside.
 *
 * While the program begins nobody takes any, and connections are closed: what is part of a template
 * would be dead in its clones.  Later they wait in the kernel's queue until somebody takes them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"

#include "guest/agent/names.h"
#include "guest/agent/private.h"

enum { PORTS_MAX = 66, TARGET_SIZE = NAME_SIZE + 8, NAMES_PORT = 53 };

static struct outside {
    int names_fd;
    int door;       /* where takers come */
    int taker;      /* -1: nobody waits for a connection */
    bool has_begun; /* the program: from then on connections wait for a taker */
    int ports[PORTS_MAX];
    size_t port_count;
    struct names names;
} outside;

/* ---- The process ---- */

static void answer_name(void)
{
    uint8_t query[NAMES_ANSWER_MAX];
    uint8_t answer[NAMES_ANSWER_MAX];
    struct sockaddr_in from;
    socklen_t from_length = sizeof(from);
    ssize_t got = recvfrom(outside.names_fd, query, sizeof(query), MSG_DONTWAIT | MSG_TRUNC,
                           (struct sockaddr *)&from, &from_length);
    if (got <= 0 || got > (ssize_t)sizeof(query)) {
        return;
    }
    size_t length = names_answer(&outside.names, query, (size_t)got, answer);
    if (length > 0) {
        sendto(outside.names_fd, answer, length, MSG_DONTWAIT, (struct sockaddr *)&from,
               from_length);
    }
}

static void drop_taker(void)
{
    if (outside.taker >= 0) {
        close(outside.taker);
        outside.taker = -1;
    }
}

static void take_taker(void)
{
    int fd = accept4(outside.door, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) {
        drop_taker(); /* of an earlier session */
        outside.taker = fd;
        outside.has_begun = true;
    }
}

/* To where it wants, in words. */
static bool describe(int fd, char ret_target[TARGET_SIZE])
{
    struct sockaddr_in address;
    socklen_t length = sizeof(address);
    char number[INET_ADDRSTRLEN];
    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0) {
        return false;
    }
    const char *name = names_find(&outside.names, ntohl(address.sin_addr.s_addr));
    if (name == NULL) {
        name = inet_ntop(AF_INET, &address.sin_addr, number, sizeof(number));
    }
    snprintf(ret_target, TARGET_SIZE, "%s:%u", name, (unsigned)ntohs(address.sin_port));
    return true;
}

static void hand_over(int fd, char *target)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = target, .iov_len = strlen(target)};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &fd, sizeof(fd));
    sendmsg(outside.taker, &message, MSG_NOSIGNAL);
    drop_taker();
}

/* Whatever ends us before the other end does breaks the connection off, and is seen to. */
static void end_at_once(int fd, bool is_so)
{
    const struct linger linger = {.l_onoff = is_so, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static void take_connection(int listener)
{
    char target[TARGET_SIZE];
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) {
        end_at_once(fd, true);
    }
    if (fd >= 0 && outside.taker >= 0 && describe(fd, target)) {
        hand_over(fd, target);
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void turn(void)
{
    enum { FIXED = 3 };
    struct pollfd polls[FIXED + PORTS_MAX] = {
        {.fd = outside.names_fd, .events = POLLIN},
        {.fd = outside.door, .events = POLLIN},
        {.fd = outside.taker, .events = POLLIN}, /* it says nothing: it has gone */
    };
    bool takes = outside.taker >= 0 || !outside.has_begun;
    for (size_t i = 0; i < outside.port_count; i++) {
        polls[FIXED + i] = (struct pollfd){.fd = takes ? outside.ports[i] : -1, .events = POLLIN};
    }
    poll(polls, (nfds_t)(FIXED + outside.port_count), -1);
    if (polls[2].revents != 0) {
        drop_taker();
    }
    if (polls[1].revents != 0) { /* before connections: it is why they are not closed */
        take_taker();
    }
    if (polls[0].revents != 0) {
        answer_name();
    }
    for (size_t i = 0; i < outside.port_count; i++) {
        if (polls[FIXED + i].revents != 0 && (outside.taker >= 0 || !outside.has_begun)) {
            take_connection(outside.ports[i]);
        }
    }
}

static _Noreturn void run(void)
{
    setsid();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTERM, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, 0);
    int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2; fd++) {
        dup2(null_fd, fd);
    }
    close(3); /* the request's result */
    for (;;) {
        turn();
    }
}

/* ---- Its beginning, in a child of the server's ---- */

static int listen_port(uint16_t port, struct error *err)
{
    const int one = 1;
    const struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
    FD_OWNED int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    }
    if (fd < 0 || bind(fd, (const struct sockaddr *)&any, sizeof(any)) < 0 || listen(fd, 64) < 0) {
        return fail_os(err, errno, "listening on port %u", port);
    }
    outside.ports[outside.port_count++] = fd_take(&fd);
    return 0;
}

static int listen_names(struct error *err)
{
    const struct sockaddr_in address = {.sin_family = AF_INET,
                                        .sin_port = htons(NAMES_PORT),
                                        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_un door = {.sun_family = AF_UNIX};
    snprintf(door.sun_path, sizeof(door.sun_path), "%s", OUTSIDE_SOCKET);
    outside.names_fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    outside.door = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    outside.taker = -1;
    if (outside.names_fd < 0 || outside.door < 0 ||
        bind(outside.names_fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        bind(outside.door, (const struct sockaddr *)&door, sizeof(door)) < 0 ||
        listen(outside.door, 4) < 0) {
        return fail_os(err, errno, "listening for the function's connections");
    }
    return 0;
}

int outside_begin(struct agent_reader request, struct error *err)
{
    struct agent_field field;
    int r = 0;
    while (r == 0 && agent_next(&request, &field)) {
        uint64_t port = field.tag == AGENT_PORT_NUMBER ? agent_field_number(&field) : 0;
        if (port > 0 && (port > UINT16_MAX || outside.port_count == PORTS_MAX)) {
            r = error_set(err, ERROR_INVALID, "at most %d ports can be reached", PORTS_MAX);
        } else if (port > 0) {
            r = listen_port((uint16_t)port, err);
        }
    }
    if (r < 0 || outside.port_count == 0) {
        return r;
    }
    r = listen_names(err);
    r = r < 0 ? r : network_all_local(err);
    pid_t pid = r == 0 ? fork() : 0;
    if (r == 0 && pid == 0) {
        run();
    }
    if (r == 0 && pid < 0) {
        r = fail_os(err, errno, "making a process");
    }
    close(outside.names_fd);
    close(outside.door);
    for (size_t i = 0; i < outside.port_count; i++) {
        close(outside.ports[i]);
    }
    return r;
}

/* ---- One connection, in a child of the server's ---- */

/* What a taker is given: the connection, and in words where it leads. */
static int receive(int from, char ret_target[TARGET_SIZE])
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec part = {.iov_base = ret_target, .iov_len = TARGET_SIZE - 1};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    int fd = -1;
    ssize_t got;
    do {
        got = recvmsg(from, &message, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    const struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (head != NULL && head->cmsg_type == SCM_RIGHTS) {
        memcpy(&fd, CMSG_DATA(head), sizeof(fd));
        ret_target[got] = '\0';
    }
    return fd;
}

static void pump(int from, int to)
{
    static uint8_t bytes[65536];
    for (;;) {
        ssize_t got = read(from, bytes, sizeof(bytes));
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0 || file_write_all(to, bytes, (size_t)got) < 0) {
            return;
        }
    }
}

static int knock(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", OUTSIDE_SOCKET);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

void outside_note_begun(void)
{
    int fd = knock();
    if (fd >= 0) {
        close(fd);
    }
}

int function_tunnel(struct work *work, struct buffer *answer, struct error *err)
{
    char target[TARGET_SIZE] = "";
    BUFFER_OWNED struct buffer note = {0};
    (void)answer;
    FD_OWNED int door = knock();
    if (door < 0) {
        return fail_os(err, errno, "what is outside");
    }
    FD_OWNED int fd = receive(door, target);
    if (fd < 0) {
        return error_set(err, ERROR_UNAVAILABLE, "what is outside has ended");
    }
    agent_put_text(&note, AGENT_TARGET, target);
    work_note(work, &note);
    pid_t pid = fork();
    if (pid < 0) {
        return fail_os(err, errno, "making a process");
    }
    if (pid == 0) { /* one for each way: both may have to wait */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(work->out);
        close(work->result);
        pump(work->in, fd);
        end_at_once(fd, false);
        shutdown(fd, SHUT_WR);
        _exit(0);
    }
    pump(fd, work->out);
    close(work->out); /* the program has no more to say */
    waitpid(pid, NULL, 0);
    return 0;
}
