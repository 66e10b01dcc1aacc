/*
 * The server's loop.
 *
 * Everything it waits for is collected anew before each poll(2): there are at most a few hundred
 * descriptors, and nothing can be forgotten or left behind that way.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"

#include "guest/agent/private.h"

enum { LINKS_MAX = 8, POLLS_MAX = LINKS_MAX * (1 + AGENT_REQUESTS_MAX * JOB_POLLS) + 4 };
enum { LOOK_FIRST_MS = 10, LOOK_LAST_MS = 1000, TURN_MS = 500 };

struct entry {
    struct link *link;
    struct job *job;
};

struct server {
    const struct serve_options *options;
    struct list links;
    unsigned link_count;
    bool has_port;
    uint64_t look_at_ms; /* for the port, which may be plugged in later */
    uint64_t look_ms;
    char port[64];
    int signals;
    int listeners[2]; /* unix, vsock */
    unsigned told_started;
    unsigned told_ended;
    unsigned told_power;
    struct pollfd polls[POLLS_MAX];
    struct entry entries[POLLS_MAX];
    unsigned count;
};

struct shared *shared;

void shared_make(void)
{
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
}

uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- Where hosts come from ---- */

static void add_link(struct server *server, const char *port, int fd)
{
    struct link *link = link_new(port, fd);
    list_push_back(&server->links, &link->node);
    server->link_count++;
}

/* The port has a device of any number; its name is what the host has given it. */
static void look_for_port(struct server *server)
{
    DIR *folder = opendir("/sys/class/virtio-ports");
    if (folder == NULL) {
        return;
    }
    const struct dirent *entry = NULL;
    while (!server->has_port && (entry = readdir(folder)) != NULL) {
        char path[512];
        char name[128];
        snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
        read_line(path, name, sizeof(name));
        if (strcmp(name, server->options->port_name) == 0 && strlen(entry->d_name) < 32) {
            snprintf(server->port, sizeof(server->port), "/dev/%.32s", entry->d_name);
            server->has_port = true;
            add_link(server, server->port, -1);
        }
    }
    closedir(folder);
}

static int listen_on(int family, const void *address, socklen_t length)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && (bind(fd, address, length) < 0 || listen(fd, 4) < 0)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int listen_on_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    unlink(path);
    int fd = listen_on(AF_UNIX, &address, sizeof(address));
    if (fd < 0) {
        say("listening on %s: %s", path, strerror(errno));
    }
    return fd;
}

static int listen_on_vsock(void)
{
    const struct sockaddr_vm address = {
        .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = AGENT_VSOCK_PORT};
    return listen_on(AF_VSOCK, &address, sizeof(address)); /* where there is no vsock: none */
}

static void take_connection(struct server *server, int listener)
{
    struct sockaddr_vm peer = {0};
    socklen_t length = sizeof(peer);
    bool is_vsock = listener == server->listeners[1];
    int fd = accept4(listener, is_vsock ? (struct sockaddr *)&peer : NULL,
                     is_vsock ? &length : NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) {
        return;
    }
    /* Over vsock anybody inside could connect too: only the host may ask. */
    bool is_host = !is_vsock || peer.svm_cid == VMADDR_CID_HOST;
    if (!is_host || server->link_count >= LINKS_MAX) {
        close(fd);
        return;
    }
    add_link(server, NULL, fd);
}

/* ---- Children, signals, news ---- */

static struct job *find_by_pid(struct server *server, pid_t pid)
{
    LIST_EACH(node, &server->links)
    {
        struct link *link = LIST_ITEM(node, struct link, node);
        LIST_EACH(inner, &link->jobs)
        {
            struct job *job = LIST_ITEM(inner, struct job, node);
            if (job->pid == pid && !job->is_reaped) {
                return job;
            }
        }
    }
    return NULL;
}

static void reap(struct server *server)
{
    int status = 0;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        struct job *job = find_by_pid(server, pid);
        if (job != NULL) {
            job_reaped(job, status);
        }
    }
}

static void take_signals(struct server *server)
{
    struct signalfd_siginfo info;
    while (read(server->signals, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGIO) { /* somebody has come to the port, or gone */
            LIST_EACH(node, &server->links)
            {
                LIST_ITEM(node, struct link, node)->retry_at_ms = 0;
            }
        }
    }
    reap(server);
}

/* False: nobody is there to hear it. */
static bool tell(struct server *server, enum agent_event_kind kind, enum agent_tag tag,
                 uint64_t value)
{
    BUFFER_OWNED struct buffer fields = {0};
    agent_put_number(&fields, AGENT_EVENT_KIND, kind);
    agent_put_number(&fields, tag, value);
    return link_event(&server->links, &fields);
}

static void forget_told(struct server *server)
{
    server->told_started = 0;
    server->told_ended = 0;
    server->told_power = 0;
}

/* What a host that is gone may not have heard, the next one is told. */
static void tell_again(struct server *server)
{
    LIST_EACH(node, &server->links)
    {
        struct link *link = LIST_ITEM(node, struct link, node);
        if (link->has_lost) {
            link->has_lost = false;
            forget_told(server);
        }
    }
}

static bool tell_end(struct server *server, int status)
{
    return WIFSIGNALED(status)
        ? tell(server, AGENT_EVENT_ENTRYPOINT_ENDED, AGENT_SIGNAL, (uint64_t)WTERMSIG(status))
        : tell(server, AGENT_EVENT_ENTRYPOINT_ENDED, AGENT_EXIT_CODE,
               (uint64_t)WEXITSTATUS(status));
}

/* What init has noted in the page since.  It counts as told when somebody was there, and has said
 * that it came: a program may have ended before the host has spoken to the machine at all. */
static void tell_news(struct server *server)
{
    unsigned news = atomic_load(&shared->news);
    int pid = atomic_load(&shared->entry_pid);
    bool has_ended = atomic_load(&shared->entry_ended) != 0;
    unsigned power = atomic_load(&shared->power);
    tell_again(server);
    if (pid != 0 && server->told_started == 0) {
        server->told_started =
            tell(server, AGENT_EVENT_ENTRYPOINT_STARTED, AGENT_PID, (uint64_t)pid);
    }
    if (has_ended && server->told_ended == 0) {
        server->told_ended = tell_end(server, atomic_load(&shared->entry_status));
    }
    if (power != 0 && server->told_power == 0 &&
        tell(server, AGENT_EVENT_POWER, AGENT_POWER, power - 1)) {
        server->told_power = power;
    }
    bool is_out = (pid == 0 || server->told_started != 0) &&
        (!has_ended || server->told_ended != 0) && (power == 0 || server->told_power != 0);
    LIST_EACH(node, &server->links)
    {
        is_out = is_out && LIST_ITEM(node, struct link, node)->unheard == 0;
    }
    if (is_out) {
        atomic_store(&shared->told, news);
    }
}

/* ---- One turn ---- */

static void add_poll(struct server *server, int fd, short events, struct link *link,
                     struct job *job)
{
    CHECK(server->count < POLLS_MAX);
    server->polls[server->count] = (struct pollfd){.fd = fd, .events = events};
    server->entries[server->count] = (struct entry){link, job};
    server->count++;
}

static void sooner(uint64_t *timeout_ms, uint64_t at_ms, uint64_t now)
{
    uint64_t left = at_ms > now ? at_ms - now : 0;
    if (at_ms > 0 && left < *timeout_ms) {
        *timeout_ms = left;
    }
}

static void collect_jobs(struct server *server, struct link *link, uint64_t now,
                         uint64_t *timeout_ms)
{
    LIST_EACH(node, &link->jobs)
    {
        struct job *job = LIST_ITEM(node, struct job, node);
        int fds[JOB_POLLS];
        short events[JOB_POLLS];
        unsigned count = job_wants(job, fds, events);
        for (unsigned i = 0; i < count; i++) {
            add_poll(server, fds[i], events[i], NULL, job);
        }
        if (!job->is_reaped) {
            sooner(timeout_ms, job->deadline_ms, now);
        } else if (job_is_hurried(job)) {
            *timeout_ms = 0;
        }
    }
}

static uint64_t collect(struct server *server, uint64_t now)
{
    uint64_t timeout_ms = TURN_MS;
    server->count = 0;
    add_poll(server, server->signals, POLLIN, NULL, NULL);
    for (int i = 0; i < 2; i++) {
        if (server->listeners[i] >= 0) {
            add_poll(server, server->listeners[i], POLLIN, NULL, NULL);
        }
    }
    LIST_EACH(node, &server->links)
    {
        struct link *link = LIST_ITEM(node, struct link, node);
        short events = link_wants(link, now);
        if (events != 0) {
            add_poll(server, link->fd, events, link, NULL);
        } else if (link->port != NULL) {
            sooner(&timeout_ms, link->retry_at_ms + 1, now);
        }
        collect_jobs(server, link, now, &timeout_ms);
    }
    if (server->options->port_name != NULL && !server->has_port) {
        sooner(&timeout_ms, server->look_at_ms, now);
    }
    sooner(&timeout_ms, disk_thaw_at_ms, now);
    return timeout_ms;
}

static void dispatch(struct server *server)
{
    for (unsigned i = 0; i < server->count; i++) {
        const struct pollfd *poll = &server->polls[i];
        struct entry *entry = &server->entries[i];
        if (entry->job != NULL) {
            job_ready(entry->job, poll->fd, poll->revents);
        }
    }
    take_signals(server);
    uint64_t now = now_ms();
    for (unsigned i = 0; i < server->count; i++) { /* these may end jobs */
        const struct pollfd *poll = &server->polls[i];
        struct entry *entry = &server->entries[i];
        bool is_listener = poll->fd == server->listeners[0] || poll->fd == server->listeners[1];
        if (entry->link != NULL && poll->revents != 0) {
            link_ready(entry->link, poll->revents, now);
        } else if (is_listener && poll->revents != 0) {
            take_connection(server, poll->fd);
        }
    }
}

static void step_links(struct server *server)
{
    uint64_t now = now_ms();
    LIST_EACH(node, &server->links)
    {
        struct link *link = LIST_ITEM(node, struct link, node);
        if (link->fd < 0) {
            link_ready(link, 0, now); /* to be opened */
        }
        LIST_EACH(inner, &link->jobs)
        {
            job_step(LIST_ITEM(inner, struct job, node), now);
        }
        if (link->fd >= 0 && link->out.used > 0 && !link->is_gone) {
            link_ready(link, 0, now);
        }
        if (link->is_gone) {
            if (link->has_lost) {
                forget_told(server);
            }
            link_free(link);
            server->link_count--;
        }
    }
    if (disk_thaw_at_ms != 0 && now >= disk_thaw_at_ms) {
        disk_thaw_at_ms = 0;
        uint64_t count = disk_thaw_now();
        if (count > 0) {
            say("nobody has thawed the disks: thawed %u", (unsigned)count);
        }
    }
}

static int take_on_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    sigaddset(&signals, SIGIO);
    sigaddset(&signals, SIGUSR1); /* news from init */
    sigprocmask(SIG_SETMASK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

int serve(const struct serve_options *options)
{
    static struct server server;
    server.options = options;
    server.look_ms = LOOK_FIRST_MS;
    list_init(&server.links);
    server.signals = take_on_signals();
    server.listeners[0] = options->listen != NULL ? listen_on_unix(options->listen) : -1;
    server.listeners[1] = options->has_vsock ? listen_on_vsock() : -1;
    if (server.signals < 0 || (options->listen != NULL && server.listeners[0] < 0)) {
        return EXIT_FAILURE;
    }
    if (options->port != NULL) {
        add_link(&server, options->port, -1);
    }
    for (;;) {
        if (options->port_name != NULL && !server.has_port && now_ms() >= server.look_at_ms) {
            look_for_port(&server);
            server.look_at_ms = now_ms() + server.look_ms;
            server.look_ms = server.look_ms < LOOK_LAST_MS ? server.look_ms * 2 : LOOK_LAST_MS;
        }
        step_links(&server);
        tell_news(&server);
        step_links(&server); /* what was told goes out now */
        tell_news(&server);
        uint64_t timeout_ms = collect(&server, now_ms());
        poll(server.polls, server.count, (int)timeout_ms);
        dispatch(&server);
    }
}

pid_t serve_begin(const struct serve_options *options)
{
    pid_t pid = fork();
    if (pid != 0) {
        return pid;
    }
    setsid();
    /* Whoever ends everything at a shutdown leaves the machine's door open to the last. */
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
        ssize_t wrote = write(fd, "-1000", 5);
        (void)wrote;
        close(fd);
    }
    _exit(serve(options));
}
