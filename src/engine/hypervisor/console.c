/* A console with memory: see console.h. */
#include "engine/hypervisor/console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/text.h"

enum { PIECE_BYTES = 16 << 10 };

static const char log_name[] = "console.log";
static const char old_log_name[] = "console.log.1";

/* ---- The log ---- */

static void open_log(struct console *console)
{
    console->log_fd = openat(console->log_folder, log_name,
                             O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    off_t end = console->log_fd >= 0 ? lseek(console->log_fd, 0, SEEK_END) : 0;
    console->log_bytes = end > 0 ? (uint64_t)end : 0;
}

/* A full disk costs lines of the log, and nothing else: there may be room for a new file later. */
static void write_log(struct console *console, const char *bytes, size_t length)
{
    if (console->log_bytes + length > CONSOLE_LOG_BYTES && console->log_fd >= 0) {
        fd_close_slot(&console->log_fd);
        renameat(console->log_folder, log_name, console->log_folder, old_log_name);
    }
    if (console->log_fd < 0) {
        open_log(console);
    }
    if (console->log_fd >= 0 && file_write_all(console->log_fd, bytes, length) == 0) {
        console->log_bytes += length;
    }
}

/* ---- Output ---- */

static void keep(struct console *console, const char *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        size_t at = (size_t)(console->total % CONSOLE_RING_BYTES);
        size_t piece =
            length - done < CONSOLE_RING_BYTES - at ? length - done : CONSOLE_RING_BYTES - at;
        memcpy(console->ring + at, bytes + done, piece);
        console->total += piece;
        done += piece;
    }
}

static uint64_t oldest(const struct console *console)
{
    return console->total > CONSOLE_RING_BYTES ? console->total - CONSOLE_RING_BYTES : 0;
}

/* One piece; false: the VMM has no more for now. */
static bool take_output(struct console *console)
{
    char piece[PIECE_BYTES];
    ssize_t got = console->vmm >= 0 ? read(console->vmm, piece, sizeof(piece)) : 0;
    if (got > 0) {
        keep(console, piece, (size_t)got);
        write_log(console, piece, (size_t)got);
        return true;
    }
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        fd_close_slot(&console->vmm);
    }
    return false;
}

/* ---- Clients ---- */

static void drop(struct console_client *client)
{
    fd_close_slot(&client->fd);
    *client = (struct console_client){.fd = -1};
}

static void give(struct console *console, struct console_client *client)
{
    if (client->at < oldest(console)) {
        client->at = oldest(console);
    }
    while (client->at < console->total) {
        size_t at = (size_t)(client->at % CONSOLE_RING_BYTES);
        uint64_t left = console->total - client->at;
        size_t piece = left < CONSOLE_RING_BYTES - at ? (size_t)left : CONSOLE_RING_BYTES - at;
        ssize_t wrote = send(client->fd, console->ring + at, piece, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (wrote < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                drop(client);
            }
            return;
        }
        client->at += (uint64_t)wrote;
    }
}

static bool takes_another(const struct console *console)
{
    size_t attached = 0;
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        attached += console->clients[i].attached ? 1 : 0;
    }
    return attached < CONSOLE_ATTACHED_MAX;
}

/* "attach N", "watch" or "shut-down". */
static bool obey(struct console *console, struct console_client *client)
{
    static const char attach[] = "attach ";
    size_t skip = sizeof(attach) - 1;
    uint64_t wanted = 0;
    struct text line = text_of(client->line, client->line_length);
    client->knows = true;
    if (text_equal(line, "watch")) {
        return true;
    }
    if (text_equal(line, "shut-down")) {
        console->wants_shut_down = true;
        return true;
    }
    if (line.length <= skip || memcmp(line.data, attach, skip) != 0 ||
        !text_parse_u64(text_of(line.data + skip, line.length - skip), &wanted) ||
        !takes_another(console)) {
        return false;
    }
    uint64_t kept = console->total - oldest(console);
    client->at = console->total - (wanted < kept ? wanted : kept);
    client->attached = true;
    return true;
}

/* Of what is before the line's end nothing is input. */
static bool read_line(struct console *console, struct console_client *client)
{
    char byte = 0;
    ssize_t got = 0;
    while ((got = recv(client->fd, &byte, 1, MSG_DONTWAIT)) == 1) {
        if (byte == '\n') {
            return obey(console, client);
        }
        if (client->line_length == sizeof(client->line)) {
            return false;
        }
        client->line[client->line_length++] = byte;
    }
    return got < 0 && (errno == EAGAIN || errno == EINTR);
}

static bool read_input(struct console *console, struct console_client *client)
{
    char nothing[64];
    bool takes = client->attached;
    size_t room = takes ? sizeof(console->input) - console->input_length : sizeof(nothing);
    ssize_t got = recv(client->fd, takes ? console->input + console->input_length : nothing, room,
                       MSG_DONTWAIT);
    if (got > 0 && takes) {
        console->input_length += (size_t)got;
    }
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

/* Where there is no room, because somebody else has just typed or the VMM does not read, what is
 * there waits; of who has gone it is lost. */
static void hear(struct console *console, struct console_client *client, short what)
{
    bool is_gone = (what & (POLLHUP | POLLERR)) != 0;
    bool has_room = console->input_length < sizeof(console->input);
    bool good = !client->knows          ? read_line(console, client)
        : client->attached && !has_room ? !is_gone
                                        : read_input(console, client);
    if (!good) {
        drop(client);
    }
}

static void welcome(struct console *console)
{
    int fd = accept4(console->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX && fd >= 0; i++) {
        if (console->clients[i].fd < 0) {
            console->clients[i].fd = fd_take(&fd);
        }
    }
    fd_close_slot(&fd);
}

static void pass_input(struct console *console)
{
    if (console->vmm < 0) {
        console->input_length = 0;
        return;
    }
    ssize_t wrote = write(console->vmm, console->input, console->input_length);
    if (wrote > 0) {
        console->input_length -= (size_t)wrote;
        memmove(console->input, console->input + wrote, console->input_length);
    }
}

/* ---- Turns ---- */

void console_init(struct console *console, int folder, int owned_listener, int owned_vmm)
{
    *console = (struct console){
        .log_folder = folder, .listener = owned_listener, .vmm = owned_vmm, .log_fd = -1};
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        console->clients[i].fd = -1;
    }
    open_log(console);
}

size_t console_prepare(struct console *console, struct pollfd *ret_fds)
{
    bool has_room = console->input_length < sizeof(console->input);
    short wants_input = console->input_length > 0 ? POLLOUT : 0;
    ret_fds[0] = (struct pollfd){.fd = console->listener, .events = POLLIN};
    ret_fds[1] = (struct pollfd){.fd = console->vmm, .events = (short)(POLLIN | wants_input)};
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        const struct console_client *client = &console->clients[i];
        bool hears = !client->attached || has_room;
        bool gives = client->attached && client->at < console->total;
        ret_fds[2 + i] = (struct pollfd){
            .fd = client->fd, .events = (short)((hears ? POLLIN : 0) | (gives ? POLLOUT : 0))};
    }
    return CONSOLE_FDS;
}

void console_serve(struct console *console, const struct pollfd *fds, size_t count)
{
    CHECK(count == CONSOLE_FDS);
    if (fds[0].revents != 0) {
        welcome(console);
    }
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        struct console_client *client = &console->clients[i];
        bool was_there = client->fd >= 0 && client->fd == fds[2 + i].fd;
        if (was_there && (fds[2 + i].revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
            hear(console, client, fds[2 + i].revents);
        }
    }
    if (console->input_length > 0) {
        pass_input(console);
    }
    if ((fds[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
        take_output(console);
    }
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        if (console->clients[i].attached) {
            give(console, &console->clients[i]);
        }
    }
}

void console_drain(struct console *console)
{
    while (take_output(console)) {
    }
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        if (console->clients[i].attached) {
            give(console, &console->clients[i]);
        }
    }
}
