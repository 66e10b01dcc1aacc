/*
 * What Ctrl-C leaves.  A thread waits for the signals, so that whatever tidying needs may be done:
 * nothing else of this program waits for it.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/process.h"

#include "surface/cli/private.h"

enum { PATHS_MAX = 8, PROGRAM_MS = 10000 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t program_ended = PTHREAD_COND_INITIALIZER;
static char *paths[PATHS_MAX]; /* NULL: free */
static char *goes_on;
static bool program_runs;
static volatile bool is_over;

static void set_of_signals(sigset_t *ret_set)
{
    sigemptyset(ret_set);
    sigaddset(ret_set, SIGINT);
    sigaddset(ret_set, SIGTERM);
    sigaddset(ret_set, SIGHUP);
}

/* With the mutex: a program that is told to end gets time for it. */
static void wait_for_program(void)
{
    uint64_t until_ms = clock_real_ms() + PROGRAM_MS;
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                             .tv_nsec = (long)(until_ms % 1000) * 1000000};
    while (program_runs && pthread_cond_timedwait(&program_ended, &mutex, &until) == 0) {
    }
}

__attribute__((noreturn)) static void *end(void *unused)
{
    sigset_t set;
    int signal = 0;
    struct error ignored = {0};
    (void)unused;
    set_of_signals(&set);
    CHECK(sigwait(&set, &signal) == 0);
    __atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
    pthread_mutex_lock(&mutex);
    wait_for_program();
    for (int i = 0; i < PATHS_MAX; i++) {
        if (paths[i] != NULL) {
            file_remove_tree(paths[i], &ignored);
        }
    }
    if (goes_on != NULL) {
        fprintf(stderr, "%sblixard: %s\n", isatty(STDERR_FILENO) ? "\r\033[K" : "", goes_on);
    }
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigaction(signal, &action, NULL);
    raise(signal);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    _exit(128 + signal); /* somebody had it ignored */
}

static void watch(void)
{
    sigset_t set;
    pthread_t thread;
    struct sigaction action;
    set_of_signals(&set);
    if (sigaction(SIGHUP, NULL, &action) == 0 && action.sa_handler == SIG_IGN) {
        sigdelset(&set, SIGHUP); /* nohup(1) */
    }
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (pthread_create(&thread, NULL, end, NULL) != 0) {
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
        return;
    }
    pthread_detach(thread);
}

void interrupt_removes(const char *path)
{
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < PATHS_MAX; i++) {
        if (paths[i] == NULL) {
            paths[i] = memory_copy_string(path);
            break;
        }
    }
    pthread_mutex_unlock(&mutex);
    pthread_once(&once, watch);
}

void interrupt_keeps(const char *path)
{
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < PATHS_MAX; i++) {
        if (paths[i] != NULL && strcmp(paths[i], path) == 0) {
            free(paths[i]);
            paths[i] = NULL;
        }
    }
    pthread_mutex_unlock(&mutex);
}

void interrupt_says(char *owned_text)
{
    pthread_mutex_lock(&mutex);
    free(goes_on);
    goes_on = owned_text;
    pthread_mutex_unlock(&mutex);
    if (owned_text != NULL) {
        pthread_once(&once, watch);
    }
}

int interrupt_run(struct process_options options, struct buffer *output, struct buffer *errors,
                  struct process_result *ret_result, struct error *err)
{
    pthread_once(&once, watch);
    pthread_mutex_lock(&mutex);
    program_runs = true;
    pthread_mutex_unlock(&mutex);
    options.cancel = &is_over;
    int r = process_run(&options, output, errors, ret_result, err);
    pthread_mutex_lock(&mutex);
    program_runs = false;
    pthread_cond_signal(&program_ended);
    pthread_mutex_unlock(&mutex);
    while (__atomic_load_n(&is_over, __ATOMIC_RELAXED)) {
        pause(); /* this program is about to end */
    }
    return r;
}
