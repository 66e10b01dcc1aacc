/*
 * QMP: what QEMU is told and asked by (docs/interop/qmp-spec, qemu-qmp-ref of QEMU 7.2).
 *
 * One connection to the monitor socket of a VMM.  What comes from it is input: a guest may have
 * taken the VMM over.  A line is at most QMP_LINE_MAX bytes; more, or what is no QMP, is the end.
 * Loop thread; no callback comes from inside a call of this door.
 */
#ifndef ENGINE_HYPERVISOR_QMP_H
#define ENGINE_HYPERVISOR_QMP_H

#include <jansson.h>

struct error;
struct loop;
struct qmp;

/* It greets when it has all huge pages of its guest: of a large one that takes minutes. */
enum { QMP_LINE_MAX = 1 << 20, QMP_GREETING_MS = 600000 };

struct qmp_events {
    void (*on_ready)(void *context); /* it has greeted; commands are obeyed */
    void (*on_event)(const char *name, const json_t *data, void *context); /* data may be NULL */
    /* Once, last: UNAVAILABLE (the connection ended), PROTOCOL or TIMEOUT (no greeting).  Commands
     * without an answer fail before it.  The owner still calls qmp_close(). */
    void (*on_end)(const struct error *error, void *context);
};

/* Take a connected, non-blocking socket.  Never fails; the end comes by on_end. */
struct qmp *qmp_open(struct loop *loop, int owned_fd, const struct qmp_events *events,
                     void *context);

/* No callback comes afterwards, of commands neither.  Accepts NULL. */
void qmp_close(struct qmp *qmp);

/*
 * `arguments` (may be NULL) is taken; `fd` (-1: none) goes along (getfd), and stays the caller's.
 * `done` (may be NULL) with what was returned (lent), or with QEMU's words: UNAVAILABLE when the
 * connection ended, otherwise CONFLICT (GenericError: it cannot be done now) or UNSUPPORTED
 * (CommandNotFound).
 */
void qmp_execute(struct qmp *qmp, const char *command, json_t *owned_arguments, int fd,
                 void (*done)(const struct error *error, const json_t *result, void *context),
                 void *context);

/* The same, with a context that is free()d once it was answered, or will not be. */
void qmp_ask(struct qmp *qmp, const char *command, json_t *owned_arguments, int fd,
             void (*done)(const struct error *error, const json_t *result, void *context),
             void *owned_context);

/* ---- Its text, for the fuzzer ---- */

enum qmp_kind { QMP_GREETING, QMP_EVENT, QMP_RESULT, QMP_ERROR };

/* A line as QMP; *ret_message is the caller's.  PROTOCOL. */
int qmp_parse(const char *line, size_t length, enum qmp_kind *ret_kind, json_t **ret_message,
              struct error *err);

#endif
