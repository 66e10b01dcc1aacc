#include "base/loop/loop.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

enum { ROUNDS_MAX = 8, SPARES_MAX = 4 };

struct post {
    struct post *next;
    void (*call)(void *argument);
    void *argument;
};

struct loop {
    uv_loop_t uv;
    uv_async_t wake; /* posts of other threads */
    uv_idle_t next;  /* posts of its own: no system call wakes it, it does not sleep meanwhile */
    char name[16];
    pthread_t thread;
    bool has_thread;
    bool is_ending;
    _Atomic(uintptr_t) runner; /* pthread_self() of the running thread, 0 when not running */
    _Atomic bool stopping;
    struct buffer spares[SPARES_MAX]; /* empty */
    size_t spare_count;

    pthread_mutex_t lock; /* guards the two fields below */
    struct post *first;
    struct post **last;
};

static void run_posts(struct loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    struct post *post = loop->first;
    loop->first = NULL;
    loop->last = &loop->first;
    pthread_mutex_unlock(&loop->lock);

    while (post != NULL) {
        struct post *next = post->next;
        post->call(post->argument);
        free(post);
        post = next;
    }
}

static void on_wake(uv_async_t *async)
{
    struct loop *loop = async->data;
    run_posts(loop);
    if (loop->stopping) {
        uv_stop(&loop->uv);
    }
}

static bool has_posts(struct loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    bool has = loop->first != NULL;
    pthread_mutex_unlock(&loop->lock);
    return has;
}

/* What posts of posts want is done in the same turn; others have theirs all the same. */
static void on_next(uv_idle_t *idle)
{
    struct loop *loop = idle->data;
    bool has = true;
    for (int round = 0; round < ROUNDS_MAX && has; round++) {
        run_posts(loop);
        has = has_posts(loop);
    }
    if (!has) {
        uv_idle_stop(idle);
    }
}

int loop_new(const char *name, struct loop **ret_loop, struct error *err)
{
    CHECK(strlen(name) < sizeof(((struct loop *)0)->name));

    struct loop *loop = NEW(struct loop);
    int r = uv_loop_init(&loop->uv);
    if (r < 0) {
        free(loop);
        return error_os(err, -r, "making event loop %s", name);
    }
    r = uv_async_init(&loop->uv, &loop->wake, on_wake);
    if (r < 0) {
        uv_loop_close(&loop->uv);
        free(loop);
        return error_os(err, -r, "making event loop %s", name);
    }
    uv_idle_init(&loop->uv, &loop->next); /* always succeeds */
    loop->wake.data = loop->next.data = loop;
    loop->last = &loop->first;
    pthread_mutex_init(&loop->lock, NULL);
    snprintf(loop->name, sizeof(loop->name), "%s", name);
    *ret_loop = loop;
    return 0;
}

void loop_run(struct loop *loop)
{
    loop->runner = (uintptr_t)pthread_self();
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    loop->runner = 0;
}

static void *thread_main(void *argument)
{
    struct loop *loop = argument;
    pthread_setname_np(pthread_self(), loop->name);
    loop_run(loop);
    return NULL;
}

int loop_start(struct loop *loop, struct error *err)
{
    CHECK(!loop->has_thread);
    int r = pthread_create(&loop->thread, NULL, thread_main, loop);
    if (r != 0) {
        return error_os(err, r, "starting thread %s", loop->name);
    }
    loop->has_thread = true;
    return 0;
}

void loop_join(struct loop *loop)
{
    if (loop->has_thread) {
        pthread_join(loop->thread, NULL);
        loop->has_thread = false;
    }
}

void loop_stop(struct loop *loop)
{
    loop->stopping = true;
    uv_async_send(&loop->wake);
}

bool loop_is_stopping(const struct loop *loop)
{
    return loop->stopping;
}

void loop_free(struct loop *loop)
{
    if (loop == NULL) {
        return;
    }
    CHECK(!loop->has_thread);
    loop->runner = (uintptr_t)pthread_self();
    loop->is_ending = true;
    run_posts(loop);
    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->next, NULL);
    while (uv_run(&loop->uv, UV_RUN_DEFAULT) != 0) {
        /* A stop that was asked for in the last turn ends the first of these. */
    }
    run_posts(loop);
    int r = uv_loop_close(&loop->uv);
    CHECK(r == 0);
    pthread_mutex_destroy(&loop->lock);
    while (loop->spare_count > 0) {
        buffer_done(&loop->spares[--loop->spare_count]);
    }
    free(loop);
}

void loop_post(struct loop *loop, void (*call)(void *argument), void *argument)
{
    struct post *post = NEW(struct post);
    post->call = call;
    post->argument = argument;

    pthread_mutex_lock(&loop->lock);
    bool was_empty = loop->first == NULL;
    *loop->last = post;
    loop->last = &post->next;
    /* Inside the lock: loop_free() cannot close the handle between the two. */
    if (was_empty && loop_is_current(loop) && !loop->is_ending) {
        uv_idle_start(&loop->next, on_next);
    } else if (was_empty) {
        uv_async_send(&loop->wake);
    }
    pthread_mutex_unlock(&loop->lock);
}

bool loop_is_current(const struct loop *loop)
{
    return loop->runner == (uintptr_t)pthread_self();
}

bool loop_is_mine(const struct loop *loop)
{
    return loop->runner == 0 || loop_is_current(loop);
}

uv_loop_t *loop_uv(struct loop *loop)
{
    return &loop->uv;
}

uint64_t loop_now_ms(const struct loop *loop)
{
    return uv_now(&loop->uv);
}

void loop_lend(struct loop *loop, struct buffer *buffer)
{
    struct buffer wide = {0};
    if (buffer->size >= LOOP_BUFFER_BYTES) {
        return;
    }
    if (loop->spare_count > 0) {
        wide = loop->spares[--loop->spare_count];
    } else {
        buffer_reserve(&wide, LOOP_BUFFER_BYTES);
    }
    buffer_append(&wide, buffer->data, buffer->used);
    buffer_done(buffer);
    *buffer = wide;
}

void loop_give_back(struct loop *loop, struct buffer *buffer)
{
    struct buffer kept = {0};
    if (buffer->size < LOOP_BUFFER_BYTES || buffer->used > LOOP_KEPT_BYTES) {
        return;
    }
    buffer_append(&kept, buffer->data, buffer->used);
    if (buffer->size == LOOP_BUFFER_BYTES && loop->spare_count < SPARES_MAX) {
        buffer->used = 0;
        loop->spares[loop->spare_count++] = *buffer;
    } else {
        buffer_done(buffer);
    }
    *buffer = kept;
}

struct loop_timer {
    uv_timer_t uv;
    void (*fire)(void *context);
    void *context;
};

struct flushing {
    struct loop *loop;
    bool is_over;
};

static void on_flushed(void *argument)
{
    struct flushing *flushing = argument;
    flushing->is_over = true;
    uv_stop(&flushing->loop->uv);
}

void loop_flush(struct loop *loop)
{
    struct flushing flushing = {.loop = loop};
    loop_post(loop, on_flushed, &flushing);
    while (!flushing.is_over) {
        loop_run(loop);
    }
}

struct loop_timer *loop_timer_new(struct loop *loop, void (*fire)(void *context), void *context)
{
    struct loop_timer *timer = NEW(struct loop_timer);
    timer->fire = fire;
    timer->context = context;
    int r = uv_timer_init(&loop->uv, &timer->uv);
    CHECK(r == 0);
    timer->uv.data = timer;
    return timer;
}

static void on_timer(uv_timer_t *uv)
{
    struct loop_timer *timer = uv->data;
    timer->fire(timer->context);
}

void loop_timer_start(struct loop_timer *timer, uint64_t delay_ms)
{
    int r = uv_timer_start(&timer->uv, on_timer, delay_ms, 0);
    CHECK(r == 0);
}

void loop_timer_stop(struct loop_timer *timer)
{
    if (timer != NULL) {
        uv_timer_stop(&timer->uv);
    }
}

static void on_timer_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void loop_timer_free(struct loop_timer *timer)
{
    if (timer != NULL) {
        uv_close((uv_handle_t *)&timer->uv, on_timer_closed);
    }
}

struct work {
    uv_work_t uv;
    void (*work)(void *context);
    void (*done)(void *context);
    void *context;
};

static void on_work(uv_work_t *uv)
{
    struct work *work = uv->data;
    work->work(work->context);
}

static void on_work_done(uv_work_t *uv, int status)
{
    struct work *work = uv->data;
    CHECK(status == 0);
    work->done(work->context);
    free(work);
}

void loop_work(struct loop *loop, void (*work)(void *context), void (*done)(void *context),
               void *context)
{
    struct work *item = NEW(struct work);
    item->uv.data = item;
    item->work = work;
    item->done = done;
    item->context = context;
    int r = uv_queue_work(&loop->uv, &item->uv, on_work, on_work_done);
    CHECK(r == 0);
}
