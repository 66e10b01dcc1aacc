/*
 * Event loops: libuv, one loop per thread, and values sent between them.
 *
 * Everything a loop owns is touched by its thread alone.  The one exception is loop_post(), which
 * any thread may call; it is how work and answers travel between threads.
 */
#ifndef BASE_LOOP_LOOP_H
#define BASE_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

struct buffer;
struct error;
struct loop;

/* Make a loop; `name` (at most 15 bytes) names its thread.  End it with loop_free(). */
int loop_new(const char *name, struct loop **ret_loop, struct error *err);

/* Run the loop in the calling thread until loop_stop(). */
void loop_run(struct loop *loop);

/* Run the loop in a thread of its own; loop_join() waits for its end. */
int loop_start(struct loop *loop, struct error *err);
void loop_join(struct loop *loop);

/* Any thread.  The loop returns from loop_run() after the callbacks already due. */
void loop_stop(struct loop *loop);

/* Any thread: was it asked to stop?  For who runs it in pieces and waits for something. */
bool loop_is_stopping(const struct loop *loop);

/* Not running any more; runs what closing handles still have to do.  Accepts NULL. */
void loop_free(struct loop *loop);

/*
 * Any thread: run `call(argument)` on the loop's thread, in order of posting per sender.  Never
 * fails.  Calls posted after the loop has ended are run by loop_free().
 */
void loop_post(struct loop *loop, void (*call)(void *argument), void *argument);

/* Is the calling thread the loop's thread? */
bool loop_is_current(const struct loop *loop);

/* May the calling thread touch what the loop owns?  Its own thread, or whoever sets it up. */
bool loop_is_mine(const struct loop *loop);

/*
 * Run the loop until everything that was posted before this call has run: for an end, before what
 * was posted about is freed.  Not from inside the loop.
 */
void loop_flush(struct loop *loop);

/* For rooms that put handles of their own on it (base/http, engine/store, engine/runner). */
uv_loop_t *loop_uv(struct loop *loop);

/* Milliseconds, cached for this turn of the loop; monotonic. */
uint64_t loop_now_ms(const struct loop *loop);

/*
 * Big buffers for what is read and written at once.  A buffer is made LOOP_BUFFER_BYTES large; what
 * is in it stays.  When its use is over it is given back, and the next one who asks has it: what is
 * warm is used again, and who waits holds nothing.  What it holds then (LOOP_KEPT_BYTES at most)
 * moves to memory of its own; with more in it, it stays as it is.  Loop thread only.
 */
enum { LOOP_BUFFER_BYTES = 262144, LOOP_KEPT_BYTES = 16384 };
void loop_lend(struct loop *loop, struct buffer *buffer);
void loop_give_back(struct loop *loop, struct buffer *buffer);

/*
 * A timer of the caller's loop.  One shot: restart it in the callback for a period.
 * loop_timer_free() may be called from the callback; accepts NULL.
 */
struct loop_timer;
struct loop_timer *loop_timer_new(struct loop *loop, void (*fire)(void *context), void *context);
void loop_timer_start(struct loop_timer *timer, uint64_t delay_ms);
/* Both accept NULL. */
void loop_timer_stop(struct loop_timer *timer);
void loop_timer_free(struct loop_timer *timer);

/*
 * Run `work(context)` on a thread of libuv's pool, then `done(context)` on this loop.  For work
 * that blocks: files, hashing, fork.  Loop thread only.
 */
void loop_work(struct loop *loop, void (*work)(void *context), void (*done)(void *context),
               void *context);

#endif
