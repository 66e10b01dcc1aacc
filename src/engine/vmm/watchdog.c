#include "engine/vmm/watchdog.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"

enum { KICK_SIGNAL = SIGUSR1, LOOK_EVERY_NS = 1000000, IDLE_LOOKS = 50 };

struct watchdog {
    pthread_t thread;
    pthread_mutex_t lock; /* guards timers, stop and asleep's change to true */
    pthread_cond_t wake;
    struct list timers;
    bool stop;
    atomic_bool asleep;
};

static __thread volatile uint8_t *current_exit;

static void on_kick(int signal)
{
    (void)signal;
    if (current_exit != NULL) {
        *current_exit = 1;
    }
}

/* Without SA_RESTART: blocking calls of the thread come back with EINTR. */
static void install_handler(void)
{
    struct sigaction action = {.sa_handler = on_kick};
    int r = sigaction(KICK_SIGNAL, &action, NULL);
    CHECK(r == 0);
}

/* Signal what is late; returns how many calls run. */
static unsigned look(struct watchdog *watchdog, uint64_t now_ns)
{
    unsigned running = 0;
    LIST_EACH(node, &watchdog->timers)
    {
        struct watchdog_timer *timer = LIST_ITEM(node, struct watchdog_timer, link);
        uint64_t deadline_ns = atomic_load(&timer->deadline_ns);
        if (deadline_ns == 0) {
            continue;
        }
        running++;
        if (now_ns >= deadline_ns || atomic_load(&timer->interrupted)) {
            pthread_kill(timer->thread, KICK_SIGNAL);
        }
    }
    return running;
}

static void *watch(void *argument)
{
    struct watchdog *watchdog = argument;
    unsigned idle = 0;
    pthread_setname_np(pthread_self(), "watchdog");
    pthread_mutex_lock(&watchdog->lock);
    while (!watchdog->stop) {
        idle = look(watchdog, clock_monotonic_ns()) > 0 ? 0 : idle + 1;
        if (idle < IDLE_LOOKS) {
            pthread_mutex_unlock(&watchdog->lock);
            struct timespec pause = {.tv_nsec = LOOK_EVERY_NS};
            nanosleep(&pause, NULL);
            pthread_mutex_lock(&watchdog->lock);
            continue;
        }
        atomic_store(&watchdog->asleep, true);
        /* A call that began before it saw `asleep` is seen here. */
        while (!watchdog->stop && atomic_load(&watchdog->asleep) &&
               look(watchdog, clock_monotonic_ns()) == 0) {
            pthread_cond_wait(&watchdog->wake, &watchdog->lock);
        }
        atomic_store(&watchdog->asleep, false);
        idle = 0;
    }
    pthread_mutex_unlock(&watchdog->lock);
    return NULL;
}

int watchdog_new(struct watchdog **ret_watchdog, struct error *err)
{
    install_handler();
    struct watchdog *watchdog = NEW(struct watchdog);
    list_init(&watchdog->timers);
    pthread_mutex_init(&watchdog->lock, NULL);
    pthread_cond_init(&watchdog->wake, NULL);
    int r = pthread_create(&watchdog->thread, NULL, watch, watchdog);
    if (r != 0) {
        free(watchdog);
        return error_os(err, r, "starting the watchdog thread");
    }
    *ret_watchdog = watchdog;
    return 0;
}

void watchdog_free(struct watchdog *watchdog)
{
    pthread_mutex_lock(&watchdog->lock);
    watchdog->stop = true;
    pthread_cond_signal(&watchdog->wake);
    pthread_mutex_unlock(&watchdog->lock);
    pthread_join(watchdog->thread, NULL);
    CHECK(list_is_empty(&watchdog->timers));
    pthread_cond_destroy(&watchdog->wake);
    pthread_mutex_destroy(&watchdog->lock);
    free(watchdog);
}

void watchdog_add(struct watchdog *watchdog, struct watchdog_timer *timer)
{
    timer->thread = pthread_self();
    pthread_mutex_lock(&watchdog->lock);
    list_push_back(&watchdog->timers, &timer->link);
    pthread_mutex_unlock(&watchdog->lock);
}

void watchdog_remove(struct watchdog *watchdog, struct watchdog_timer *timer)
{
    pthread_mutex_lock(&watchdog->lock);
    list_remove(&timer->link);
    pthread_mutex_unlock(&watchdog->lock);
}

static void wake(struct watchdog *watchdog)
{
    pthread_mutex_lock(&watchdog->lock);
    atomic_store(&watchdog->asleep, false);
    pthread_cond_signal(&watchdog->wake);
    pthread_mutex_unlock(&watchdog->lock);
}

void watchdog_begin(struct watchdog *watchdog, struct watchdog_timer *timer, uint64_t deadline_ns,
                    volatile uint8_t *immediate_exit)
{
    CHECK(deadline_ns > 0);
    current_exit = immediate_exit;
    atomic_store(&timer->interrupted, false);
    atomic_store(&timer->deadline_ns, deadline_ns);
    if (atomic_load(&watchdog->asleep)) {
        wake(watchdog);
    }
}

void watchdog_end(struct watchdog_timer *timer)
{
    atomic_store(&timer->deadline_ns, 0);
    current_exit = NULL;
}

void watchdog_interrupt(struct watchdog *watchdog, struct watchdog_timer *timer)
{
    atomic_store(&timer->interrupted, true);
    wake(watchdog);
}
