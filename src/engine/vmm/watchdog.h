/*
 * Wall-clock limits without a system call per call: a thread that looks at the running calls every
 * millisecond, and sleeps when none runs.
 *
 * A call that is late, or was interrupted, gets a signal on its thread, again and again until it
 * has noticed: the signal handler sets immediate_exit, so that neither KVM_RUN nor a blocking
 * system call is entered or stays.
 */
#ifndef ENGINE_VMM_WATCHDOG_H
#define ENGINE_VMM_WATCHDOG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

struct error;
struct watchdog;

/* One per shell; the shell's thread owns it but for `interrupted`. */
struct watchdog_timer {
    struct list_node link;
    pthread_t thread;
    _Atomic uint64_t deadline_ns; /* monotonic; 0: no call runs */
    atomic_bool interrupted;
};

int watchdog_new(struct watchdog **ret_watchdog, struct error *err);
void watchdog_free(struct watchdog *watchdog);

/* The calling thread's shell comes and goes. */
void watchdog_add(struct watchdog *watchdog, struct watchdog_timer *timer);
void watchdog_remove(struct watchdog *watchdog, struct watchdog_timer *timer);

/* Around a call, on its thread. `immediate_exit` is the byte the signal handler sets. */
void watchdog_begin(struct watchdog *watchdog, struct watchdog_timer *timer, uint64_t deadline_ns,
                    volatile uint8_t *immediate_exit);
void watchdog_end(struct watchdog_timer *timer);

/* Any thread. */
void watchdog_interrupt(struct watchdog *watchdog, struct watchdog_timer *timer);

#endif
