/*
 * The daemon's client of agents as a program: `agent-call SOCKET VERB [ARGUMENT...]`, for tests in
 * which a real agent is at the other end.  Standard input (a pipe) and output are the call's
 * streams; what it has brought is on standard error, as "key value" lines.  Exit status: the
 * program's, or 100 and the kind of the error.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/loop/loop.h"

#include "engine/agent/agent.h"

static struct loop *loop;
static struct agent *agent;
static struct agent_call *call;
static char **words;
static int status;
static bool is_ended;
static uv_pipe_t input;
static bool has_input;
static bool waits_for_event;
static const char *then = ""; /* what is done once the program runs */

static void done(const struct error *error, const struct agent_result *result, void *context);

/* ---- Input: as fast as the call takes it ---- */

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buffer)
{
    static char place[65536];
    (void)handle;
    (void)suggested;
    *ret_buffer = uv_buf_init(place, sizeof(place));
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *bytes)
{
    if (got > 0 && !is_ended && !agent_call_write(call, bytes->base, (size_t)got)) {
        uv_read_stop(stream);
    } else if (got < 0 && !is_ended) {
        uv_read_stop(stream);
        agent_call_finish_input(call);
    }
}

static void on_writable(void *context)
{
    (void)context;
    uv_read_start((uv_stream_t *)&input, on_allocate, on_read);
}

static void begin_input(void)
{
    has_input = true;
    CHECK(uv_pipe_init(loop_uv(loop), &input, 0) == 0);
    if (uv_pipe_open(&input, 0) == 0) {
        uv_read_start((uv_stream_t *)&input, on_allocate, on_read);
    } else {
        agent_call_finish_input(call);
    }
}

/* ---- Output ---- */

static void on_started(int pid, void *context)
{
    (void)context;
    fprintf(stderr, "pid %d\n", pid);
    if (strcmp(then, "cancel") == 0) {
        agent_call_cancel(call);
    } else if (strcmp(then, "signal") == 0) {
        agent_call_signal(call, SIGTERM);
    } else if (strcmp(then, "resize") == 0) {
        agent_call_resize(call, 50, 132);
    }
}

static void on_stat(const struct agent_stat *stat, void *context)
{
    (void)context;
    fprintf(stderr, "kind %o\nmode %o\nuser %u\ngroup %u\nsize %llu\nmtime %lld\ntarget %s\n",
            stat->kind, stat->mode, stat->user, stat->group, (unsigned long long)stat->size_bytes,
            (long long)stat->mtime_ns, stat->target);
}

static void on_output(enum agent_stream stream, const void *bytes, size_t length, void *context)
{
    (void)context;
    int fd = stream == AGENT_STREAM_OUT ? STDOUT_FILENO : STDERR_FILENO;
    if (file_write_all(fd, bytes, length) < 0) {
        exit(EXIT_FAILURE);
    }
}

static const struct agent_call_events events = {.on_started = on_started,
                                                .on_stat = on_stat,
                                                .on_output = on_output,
                                                .on_writable = on_writable,
                                                .on_end = done};

static void show_info(const struct agent_info *info)
{
    fprintf(stderr,
            "program %s\nkernel %s\nhostname %s\nboot_id %s\ninit %d\nproblem %s\ntime %lld\n",
            info->program, info->kernel, info->hostname, info->boot_id, (int)info->init,
            info->problem, (long long)info->time_ns);
}

static void show_metrics(const struct agent_metrics *metrics)
{
    fprintf(stderr, "uptime %llu\ncpus %u\nidle %llu\nmemory %llu\navailable %llu\nprocesses %u\n",
            (unsigned long long)metrics->uptime_ms, metrics->cpu_count,
            (unsigned long long)metrics->cpu_ms.idle,
            (unsigned long long)metrics->memory_bytes.total,
            (unsigned long long)metrics->memory_bytes.available, metrics->processes);
    for (unsigned i = 0; i < metrics->disk_count; i++) {
        fprintf(stderr, "disk %s %s %llu\n", metrics->disks[i].name, metrics->disks[i].serial,
                (unsigned long long)metrics->disks[i].size_bytes);
    }
    for (unsigned i = 0; i < metrics->mounted_count; i++) {
        fprintf(stderr, "mounted %s %s %llu\n", metrics->mounted[i].path,
                metrics->mounted[i].file_system,
                (unsigned long long)metrics->mounted[i].size_bytes);
    }
    for (unsigned i = 0; i < metrics->link_count; i++) {
        fprintf(stderr, "link %s %02x:%02x\n", metrics->links[i].name, metrics->links[i].mac[4],
                metrics->links[i].mac[5]);
    }
}

static void done(const struct error *error, const struct agent_result *result, void *context)
{
    (void)context;
    is_ended = true;
    call = NULL;
    if (error != NULL) {
        fprintf(stderr, "error %s: %s\n", error_kind_name(error->kind), error->text);
        status = 100 + (int)error->kind;
    } else {
        if (result->info != NULL) {
            show_info(result->info);
        }
        if (result->stat != NULL) {
            on_stat(result->stat, NULL);
        }
        if (result->metrics != NULL) {
            show_metrics(result->metrics);
        }
        fprintf(stderr, "exit %d\nsignal %d\ntimed_out %d\nbytes %llu\ncount %llu\nhttp %u\n",
                result->exit.exit_code, result->exit.signal, result->exit.timed_out,
                (unsigned long long)result->size_bytes, (unsigned long long)result->count,
                result->http_status);
        status = result->exit.signal != 0 ? 99 : result->exit.exit_code;
    }
    if (!waits_for_event) {
        loop_stop(loop);
    }
}

/* ---- Verbs ---- */

static unsigned long number(const char *text)
{
    return text != NULL ? strtoul(text, NULL, 0) : 0;
}

static void begin_exec(char **arguments)
{
    struct agent_exec exec = {0};
    for (; *arguments != NULL && strcmp(*arguments, "--") != 0; arguments++) {
        if (strcmp(*arguments, "tty") == 0) {
            exec.has_terminal = true;
        } else if (strcmp(*arguments, "input") == 0) {
            exec.has_input = true;
        } else if (strncmp(*arguments, "user=", 5) == 0) {
            exec.user = *arguments + 5;
        } else if (strncmp(*arguments, "folder=", 7) == 0) {
            exec.folder = *arguments + 7;
        } else if (strncmp(*arguments, "timeout=", 8) == 0) {
            exec.timeout_ms = number(*arguments + 8);
        } else if (strncmp(*arguments, "then=", 5) == 0) {
            then = *arguments + 5;
        }
    }
    exec.arguments = (const char *const *)arguments + (*arguments != NULL ? 1 : 0);
    call = agent_exec(agent, &exec, &events, NULL);
    if (exec.has_input) {
        begin_input();
    }
}

/* network MAC NAME ADDRESS ROUTE HOSTNAME NAMESERVER */
static void begin_network(char **at)
{
    const char *addresses[] = {at[2], NULL};
    const char *routes[] = {at[3][0] != '\0' ? at[3] : NULL, NULL};
    const char *servers[] = {at[5], NULL};
    struct agent_interface interface = {
        .name = at[1], .mtu = 1400, .addresses = addresses, .routes = routes};
    unsigned mac[6] = {0};
    CHECK(sscanf(at[0], "%x:%x:%x:%x:%x:%x", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4],
                 &mac[5]) == 6);
    for (int i = 0; i < 6; i++) {
        interface.mac[i] = (uint8_t)mac[i];
    }
    const struct agent_network network = {
        .hostname = at[4], .nameservers = servers, .interfaces = &interface, .interface_count = 1};
    call = agent_network(agent, &network, done, NULL);
}

static void begin_mount(char **at)
{
    const struct agent_mount mount = {.source = at[0], .path = at[1]};
    call = agent_mount(agent, &mount, done, NULL);
}

static void begin_put(char **at)
{
    const struct agent_put put = {.path = at[0],
                                  .mode = (uint32_t)number(at[1]),
                                  .mtime_ns = 1234567890123456789,
                                  .user = (uint32_t)getuid(),
                                  .group = (uint32_t)getgid(),
                                  .makes_folders = true};
    call = agent_put(agent, &put, &events, NULL);
    begin_input();
}

static void begin_check(char **at)
{
    const struct agent_check check = {.kind = strcmp(at[0], "listen") == 0 ? AGENT_CHECK_LISTEN
                                          : strcmp(at[0], "tcp") == 0      ? AGENT_CHECK_TCP
                                                                           : AGENT_CHECK_HTTP,
                                      .port = (uint16_t)number(at[1]),
                                      .path = at[2]};
    call = agent_check(agent, &check, done, NULL);
}

static void begin_call(const char *verb, char **at)
{
    if (strcmp(verb, "exec") == 0) {
        begin_exec(at);
    } else if (strcmp(verb, "network") == 0) {
        begin_network(at);
    } else if (strcmp(verb, "mount") == 0) {
        begin_mount(at);
    } else if (strcmp(verb, "unmount") == 0) {
        call = agent_unmount(agent, at[0], false, done, NULL);
    } else if (strcmp(verb, "put") == 0) {
        begin_put(at);
    } else if (strcmp(verb, "get") == 0) {
        call = agent_get(agent, at[0], &events, NULL);
    } else if (strcmp(verb, "pack") == 0) {
        call = agent_pack(agent, at[0], &events, NULL);
    } else if (strcmp(verb, "unpack") == 0) {
        call = agent_unpack(agent, at[0], false, 0, 0, &events, NULL);
        begin_input();
    } else if (strcmp(verb, "check") == 0) {
        begin_check(at);
    } else if (strcmp(verb, "stat") == 0) {
        call = agent_stat(agent, at[0], false, done, NULL);
    } else if (strcmp(verb, "metrics") == 0) {
        call = agent_metrics(agent, 0, done, NULL);
    } else if (strcmp(verb, "info") == 0) {
        call = agent_info(agent, 0, done, NULL);
    } else if (strcmp(verb, "time") == 0) {
        call = agent_set_time(agent, number(at[0]), done, NULL);
    } else if (strcmp(verb, "reseed") == 0) {
        call = agent_reseed(agent, done, NULL);
    } else if (strcmp(verb, "grow") == 0) {
        call = agent_grow(agent, at[0], done, NULL);
    } else if (strcmp(verb, "sync") == 0) {
        call = agent_sync(agent, 0, done, NULL);
    } else if (strcmp(verb, "freeze") == 0) {
        call = agent_freeze(agent, number(at[0]), done, NULL);
    } else if (strcmp(verb, "thaw") == 0) {
        call = agent_thaw(agent, done, NULL);
    } else if (strcmp(verb, "poweroff") == 0) {
        call = agent_shutdown(agent, AGENT_POWER_OFF, number(at[0]), done, NULL);
    } else if (strcmp(verb, "reboot") == 0) {
        call = agent_shutdown(agent, AGENT_POWER_REBOOT, number(at[0]), done, NULL);
    } else {
        call = agent_ping(agent, 0, done, NULL);
    }
}

static void on_up(const struct agent_info *info, void *context)
{
    (void)info;
    (void)context;
    if (call == NULL && !is_ended) {
        waits_for_event = strcmp(words[2], "events") == 0;
        begin_call(words[2], words + 3);
    }
}

static void on_down(const struct error *error, void *context)
{
    (void)context;
    fprintf(stderr, "down %s: %s\n", error_kind_name(error->kind), error->text);
    if (is_ended || error->kind == ERROR_UNSUPPORTED) {
        loop_stop(loop);
    }
}

static void on_event(const struct agent_event *event, void *context)
{
    (void)context;
    fprintf(stderr, "event %d %d %d %d\n", (int)event->kind, event->exit_code, event->signal,
            (int)event->power);
}

/* No agent is needed: the file for the image, to standard output. */
static int write_entrypoint(char **arguments)
{
    BUFFER_OWNED struct buffer bytes = {0};
    struct error err = {0};
    const struct agent_exec exec = {.arguments = (const char *const *)arguments};
    if (agent_entrypoint_encode(&exec, &bytes, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return EXIT_FAILURE;
    }
    return file_write_all(STDOUT_FILENO, bytes.data, bytes.used) < 0 ? EXIT_FAILURE : 0;
}

int main(int argc, char **argv)
{
    static const struct agent_events told = {on_up, on_down, on_event};
    struct error err = {0};
    if (argc < 3) {
        return 64;
    }
    if (strcmp(argv[2], "entrypoint") == 0) {
        return write_entrypoint(argv + 3);
    }
    words = argv;
    setvbuf(stderr, NULL, _IOLBF, 4096);
    signal(SIGPIPE, SIG_IGN);
    CHECK(loop_new("agent-call", &loop, &err) == 0);
    const struct agent_options options = {.path = argv[1]};
    if (agent_open(loop, &options, &told, NULL, &agent, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 64;
    }
    loop_run(loop);
    agent_close(agent);
    if (has_input) {
        uv_close((uv_handle_t *)&input, NULL);
    }
    loop_free(loop);
    return status;
}
