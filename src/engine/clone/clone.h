/*
 * Runners whose slots are Linux machines: each a clone of a template, which is a machine that has
 * booted, has unpacked a function's code to /var/task and whose handler has asked for its first
 * invocation (AWS Lambda Runtime API, served by the agent inside).
 *
 * They stand behind the door of engine/runner (struct runner_driver).  An image is the code's tar
 * archive with these settings (JSON, runner_load_with()):
 *
 *   kernel, initrd, root  blobs of the machine's image (initrd and root may be absent)
 *   brings_agent, cmdline  true: that initrd boots it, with these words for the kernel, and what it
 *                         boots begins blixard-agent; else agent and words are ours
 *   command               list: the bootstrap; or
 *   language, handler     "python" or "javascript": a bootstrap of ours, and what it calls
 *   function, version, environment  for the handler's environment
 *   secrets               list of variables that come with each call's environment: before the
 *                         handler has the call, each is the file CLONE_SECRETS/NAME inside
 *   outside               absent: nothing is reached.  {project, allow: list, ports: list}: while
 *                         the handler has a call, connections to these ports are the driver's
 *   keep                  64 hex digits, or absent: the template stays on disk under this name, and
 *                         is found again after a restart of the daemon
 *
 * A call's CGI environment and input become the handler's event, its answer CGI output (event.h).
 * A call that does not keep memory ends its machine, and the next one is begun at once, so that it
 * waits for the next call.  One that fails or is too late ends its machine in any case.
 *
 * VMMs outlive their daemon: those that a daemon left are ended when the next one begins.
 * Main loop thread.
 */
#ifndef ENGINE_CLONE_CLONE_H
#define ENGINE_CLONE_CLONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/runner/runner.h"

#define CLONE_SECRETS "/run/secrets"

struct clone_service;
struct error;
struct hypervisor;
struct image_store;
struct loop;

/*
 * What connects a function's program with what is outside: its machine has no network, and its
 * connections come here (engine/agent, agent_function_tunnel()).  None: nothing is reached.
 */
struct clone_tunnel;

struct clone_outside {
    const char *project;
    const char *function;
    uint64_t version;
    const char *allow; /* "ENTRY\0..." of the settings */
    size_t allow_length;
    const char *trace; /* W3C traceparent of the call; NULL: none */
    uint64_t timeout_ms;
};

struct clone_tunnel_driver {
    /* Connect to `target` ("NAME:PORT", input); NULL: *err says why not. */
    void *(*open)(const struct clone_outside *outside, const char *target,
                  struct clone_tunnel *tunnel, void *context, struct error *err);
    /* Copied; false: more is to wait for clone_tunnel_drained(). */
    bool (*write)(void *connection, const void *bytes, size_t length);
    void (*finish)(void *connection);
    void (*resume)(void *connection); /* clone_tunnel_write() may be called again */
    void (*close)(void *connection);
    void *context;
};

/* For the driver, from inside none of its calls but resume().  False: stop until resumed. */
bool clone_tunnel_write(struct clone_tunnel *tunnel, const void *bytes, size_t length);
void clone_tunnel_drained(struct clone_tunnel *tunnel);
/* The other end has ended (NULL) or failed; close() follows, from inside. */
void clone_tunnel_end(struct clone_tunnel *tunnel, const struct error *error);

struct clone_options {
    struct loop *loop;
    struct hypervisor *hypervisor;
    struct image_store *images;
    const char *folder;                        /* of this alone; made when missing */
    const struct clone_tunnel_driver *tunnels; /* NULL: none; lent for good */
};

int clone_service_new(const struct clone_options *options, struct clone_service **ret_service,
                      struct error *err);
/* After its runners were freed: what they ran is killed, at the latest by the next daemon. */
void clone_service_free(struct clone_service *service);

/* What is kept under the name is not wanted any more: it goes now, or with who uses it. */
void clone_forget(struct clone_service *service, const char *keep);

/* A runner with so many slots; runner_free() ends it.  UNSUPPORTED: no driver here can make
 * templates. */
int clone_runner_start(struct clone_service *service, unsigned slot_count,
                       struct runner **ret_runner, struct error *err);

#endif
