/* A network namespace for a test: see world.h. */
#include "world.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"
#include "base/process.h"

#include "../../../lib/test.h"

void world_enter(void)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
        SKIP("needs root, for a network namespace");
    }
    world_run("ip link set lo up");
}

int world_ask(const char *line, struct buffer *output)
{
    enum { WORDS_MAX = 48 };
    const char *words[WORDS_MAX + 1] = {0};
    size_t count = 0;
    char *rest = NULL;
    struct error err = {0};
    struct process_result result = {0};
    MEMORY_OWNED char *copy = memory_copy_string(line);
    for (char *word = strtok_r(copy, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest)) {
        EXPECT(count < WORDS_MAX);
        words[count++] = word;
    }
    const struct process_options options = {
        .argv = words, .output_max = 1 << 20, .timeout_ms = 30000};
    int r = process_run(&options, output, NULL, &result, &err);
    if (r == -ERROR_NOT_FOUND) {
        SKIP("needs iproute2 and nftables");
    }
    EXPECT(r == 0);
    return result.exit_code;
}

int world_run(const char *line)
{
    return world_ask(line, NULL);
}

bool world_says(const char *line, const char *part)
{
    BUFFER_OWNED struct buffer said = {0};
    world_ask(line, &said);
    return strstr(buffer_string(&said), part) != NULL;
}

/* ---- Machines ---- */

static int listen_at(uint16_t port)
{
    const struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(bind(fd, (const struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, 16) == 0);
    return fd;
}

static void be_a_machine(int ready)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWNET) < 0) {
        _exit(1);
    }
    struct pollfd fds[2] = {{.fd = listen_at(80), .events = POLLIN},
                            {.fd = listen_at(81), .events = POLLIN}};
    EXPECT(write(ready, "r", 1) == 1);
    for (;;) {
        poll(fds, 2, -1);
        struct sockaddr_in peer;
        socklen_t length = sizeof(peer);
        int at = fds[0].revents != 0 ? fds[0].fd : fds[1].fd;
        FD_OWNED int fd = accept4(at, (struct sockaddr *)&peer, &length, SOCK_CLOEXEC);
        char text[INET_ADDRSTRLEN];
        if (fd >= 0 && inet_ntop(AF_INET, &peer.sin_addr, text, sizeof(text)) != NULL) {
            ssize_t sent = send(fd, text, strlen(text), MSG_NOSIGNAL);
            (void)sent;
        }
    }
}

pid_t world_add_machine(void)
{
    int ready[2];
    char letter = 0;
    EXPECT(pipe2(ready, O_CLOEXEC) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        be_a_machine(ready[1]);
    }
    close(ready[1]);
    EXPECT(read(ready[0], &letter, 1) == 1);
    close(ready[0]);
    return pid;
}

int world_run_in(pid_t machine, const char *line)
{
    MEMORY_OWNED char *whole =
        memory_format("nsenter --net=/proc/%d/ns/net %s", machine != 0 ? machine : getpid(), line);
    return world_run(whole);
}

void world_plug(pid_t machine, const char *mac, const char *port, const char *bridge)
{
    MEMORY_OWNED char *add = memory_format(
        "ip link add %s type veth peer name eth0 address %s netns %d", port, mac, machine);
    MEMORY_OWNED char *plug = memory_format("ip link set %s master %s", port, bridge);
    MEMORY_OWNED char *up = memory_format("ip link set %s up", port);
    EXPECT(world_run(add) == 0);
    MEMORY_OWNED char *hairpin = memory_format("bridge link set dev %s hairpin on", port);
    EXPECT(bridge == NULL || (world_run(plug) == 0 && world_run(hairpin) == 0));
    EXPECT(world_run(up) == 0);
    EXPECT(world_run_in(machine, "ip link set lo up") == 0);
    EXPECT(world_run_in(machine, "ip link set eth0 up") == 0);
}

/* ---- Speaking ---- */

static void enter(pid_t machine)
{
    if (machine != 0) {
        MEMORY_OWNED char *path = memory_format("/proc/%d/ns/net", machine);
        FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
        EXPECT(fd >= 0 && setns(fd, CLONE_NEWNET) == 0);
    }
}

static bool wait_for(int fd, short events, int ms)
{
    struct pollfd one = {.fd = fd, .events = events};
    return poll(&one, 1, ms) == 1;
}

static void hear(int out, const char *source, const char *address, unsigned port, int ms)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in from = {.sin_family = AF_INET};
    char text[64];
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, address, &to.sin_addr);
    if (source != NULL) {
        inet_pton(AF_INET, source, &from.sin_addr);
        EXPECT(bind(fd, (struct sockaddr *)&from, sizeof(from)) == 0);
    }
    int ignored = connect(fd, (struct sockaddr *)&to, sizeof(to));
    (void)ignored;
    if (wait_for(fd, POLLOUT, ms) && wait_for(fd, POLLIN, ms)) {
        ssize_t got = read(fd, text, sizeof(text));
        ssize_t wrote = got > 0 ? write(out, text, (size_t)got) : 0;
        (void)wrote;
    }
}

void world_call_in(pid_t machine, void (*call)(void))
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        enter(machine);
        call();
        _exit(0);
    }
    EXPECT(waitpid(pid, &status, 0) == pid && status == 0);
}

/* In a process of its own: a thread's namespace is not given back. */
static const char *hear_within(pid_t machine, const char *source, const char *address,
                               unsigned port, int ms)
{
    static char text[64];
    int out[2];
    EXPECT(pipe2(out, O_CLOEXEC) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        enter(machine);
        hear(out[1], source, address, port, ms);
        _exit(0);
    }
    close(out[1]);
    ssize_t got = read(out[0], text, sizeof(text) - 1);
    close(out[0]);
    waitpid(pid, NULL, 0);
    text[got > 0 ? got : 0] = '\0';
    return text;
}

static void send_and_take(int out, int type, const struct sockaddr_in *to, const void *bytes,
                          size_t length, size_t size)
{
    uint8_t piece[512];
    size_t used = 0;
    ssize_t got = 0;
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    EXPECT(connect(fd, (const struct sockaddr *)to, sizeof(*to)) == 0);
    EXPECT(send(fd, bytes, length, 0) == (ssize_t)length);
    while (used < size && wait_for(fd, POLLIN, 5000) &&
           (got = recv(fd, piece, sizeof(piece), 0)) > 0) {
        EXPECT(write(out, piece, (size_t)got) == got);
        used = type == SOCK_DGRAM ? size : used + (size_t)got;
    }
}

static size_t exchange(pid_t machine, int type, const struct sockaddr_in *to, const void *bytes,
                       size_t length, uint8_t *ret_bytes, size_t size)
{
    size_t used = 0;
    ssize_t got = 0;
    int out[2];
    EXPECT(pipe2(out, O_CLOEXEC) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        enter(machine);
        send_and_take(out[1], type, to, bytes, length, size);
        _exit(0);
    }
    close(out[1]);
    while (used < size && (got = read(out[0], ret_bytes + used, size - used)) > 0) {
        used += (size_t)got;
    }
    close(out[0]);
    waitpid(pid, NULL, 0);
    return used;
}

size_t world_exchange(pid_t machine, const char *address, unsigned port, const void *bytes,
                      size_t length, uint8_t *ret_bytes, size_t size)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    return exchange(machine, SOCK_DGRAM, &to, bytes, length, ret_bytes, size);
}

size_t world_converse(pid_t machine, const char *address, unsigned port, const void *bytes,
                      size_t length, uint8_t *ret_bytes, size_t size)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, address, &to.sin_addr);
    return exchange(machine, SOCK_STREAM, &to, bytes, length, ret_bytes, size);
}

const char *world_hear(pid_t machine, const char *source, const char *address, unsigned port)
{
    return hear_within(machine, source, address, port, 10000);
}

bool world_hears_nothing(pid_t machine, const char *source, const char *address, unsigned port)
{
    return hear_within(machine, source, address, port, 700)[0] == '\0';
}

int world_socket(pid_t machine, int type)
{
    FD_OWNED int here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    EXPECT(here >= 0);
    enter(machine);
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    EXPECT(setns(here, CLONE_NEWNET) == 0 && fd >= 0);
    return fd;
}

bool world_comes(int fd)
{
    char letter = 0;
    return wait_for(fd, POLLIN, 10000) && read(fd, &letter, 1) == 1;
}

bool world_comes_nothing(int fd)
{
    return !wait_for(fd, POLLIN, 700);
}
