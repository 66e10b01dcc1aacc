/* A network namespace of the test's own: nothing of the host is touched. */
#ifndef TEST_UNIT_ENGINE_NET_WORLD_H
#define TEST_UNIT_ENGINE_NET_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct buffer;

/* Enter it; skips the test where this needs more than we are. */
void world_enter(void);

/* Run a program with the words of `line`, which are parted by single blanks; its exit status.
 * Skips the test when there is no such program. */
int world_run(const char *line);

/* The same; what it said is appended. */
int world_ask(const char *line, struct buffer *output);

/* Does what it says contain this? */
bool world_says(const char *line, const char *part);

/*
 * A machine: a process in a network namespace of its own, which accepts at TCP ports 80 and 81 and
 * says to everyone by which address it sees him.  It ends with the test.
 */
pid_t world_add_machine(void);

/* Give it an eth0 with this MAC, whose other end is `port`, plugged into `bridge` (NULL: nothing).
 */
void world_plug(pid_t machine, const char *mac, const char *port, const char *bridge);

/* Run a program there; 0 is the host. */
int world_run_in(pid_t machine, const char *line);

/* What does it hear, from there (0: the host) and from this address (NULL: any)?  "": nothing
 * within ten seconds. */
const char *world_hear(pid_t machine, const char *source, const char *address, unsigned port);

/* Nothing, within most of a second? */
bool world_hears_nothing(pid_t machine, const char *source, const char *address, unsigned port);

/* Run a function in the machine's network. */
void world_call_in(pid_t machine, void (*call)(void));

/* Send a datagram from there and wait five seconds for an answer; its length, or 0. */
size_t world_exchange(pid_t machine, const char *address, unsigned port, const void *bytes,
                      size_t length, uint8_t *ret_bytes, size_t size);

/* The same over TCP, until `size` bytes have come or it ends. */
size_t world_converse(pid_t machine, const char *address, unsigned port, const void *bytes,
                      size_t length, uint8_t *ret_bytes, size_t size);

/* A socket in that machine's network, the caller's. */
int world_socket(pid_t machine, int type);

/* Does something come within ten seconds, or at least not within most of a second? */
bool world_comes(int fd);
bool world_comes_nothing(int fd);

#endif
