/*
 * The console of a machine, inside the monitor: output is kept (the newest CONSOLE_RING_BYTES in
 * memory, more in a log on disk) and goes to whoever is attached; what they type goes in.
 *
 * A client connects to the unix socket and sends one line: "attach N\n" gets the newest N bytes of
 * what was, then all that comes, and may write; "watch\n" gets nothing but the end, when the VMM
 * has ended and its exit was written down; "shut-down\n" nothing either, and its monitor asks the
 * guest to end, where it can.  The guest is never slowed down: a client that does not
 * read loses the oldest.  One thread; poll(2).
 */
#ifndef ENGINE_HYPERVISOR_CONSOLE_H
#define ENGINE_HYPERVISOR_CONSOLE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CONSOLE_RING_BYTES = 64 << 10,
    CONSOLE_LOG_BYTES = 1 << 20,
    CONSOLE_CLIENTS_MAX = 16,
    CONSOLE_ATTACHED_MAX = 12, /* of them: there is room for who watches */
    CONSOLE_INPUT_BYTES = 4096,
    CONSOLE_LINE_MAX = 32,
    CONSOLE_FDS = CONSOLE_CLIENTS_MAX + 2,
};

struct console_client {
    int fd;        /* -1: free */
    bool attached; /* or watching, or (line) not known yet */
    bool knows;
    char line[CONSOLE_LINE_MAX];
    size_t line_length;
    uint64_t at; /* of the output: what it gets next */
};

struct console {
    int log_folder; /* fd */
    int log_fd;     /* -1: it cannot be written */
    uint64_t log_bytes;
    int listener;
    int vmm; /* the VMM's standard input and output; -1 when it has closed them */
    char ring[CONSOLE_RING_BYTES];
    uint64_t total; /* bytes that ever came; the ring has the last of them */
    char input[CONSOLE_INPUT_BYTES];
    size_t input_length;  /* that the VMM has not taken */
    bool wants_shut_down; /* somebody said so; whoever obeys takes it back */
    struct console_client clients[CONSOLE_CLIENTS_MAX];
};

/* `listener` and `vmm`: non-blocking, taken; `folder`: fd of where the logs are, lent. */
void console_init(struct console *console, int folder, int owned_listener, int owned_vmm);

/* What to wait for: fills at most CONSOLE_FDS and returns how many. */
size_t console_prepare(struct console *console, struct pollfd *ret_fds);
/* What has come, after poll(). */
void console_serve(struct console *console, const struct pollfd *fds, size_t count);

/* The VMM is gone: take what is left of its output, give it to those who are attached. */
void console_drain(struct console *console);

#endif
