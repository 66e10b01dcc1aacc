#include "base/loop/loop.h"

#include <pthread.h>

#include "base/buffer.h"
#include "base/error.h"

#include "test/lib/test.h"

enum { SENDERS = 4, POSTS = 1000 };

static struct loop *loop;
static int received;

static void receive(void *argument)
{
    (void)argument;
    EXPECT(loop_is_current(loop));
    if (++received == SENDERS * POSTS) {
        loop_stop(loop);
    }
}

static void *send_posts(void *argument)
{
    for (int i = 0; i < POSTS; i++) {
        loop_post(loop, receive, argument);
    }
    return NULL;
}

TEST(loop, runs_every_post_of_every_thread_on_its_own)
{
    struct error err = {0};
    EXPECT(loop_new("test", &loop, &err) == 0);
    pthread_t threads[SENDERS];
    for (int i = 0; i < SENDERS; i++) {
        EXPECT(pthread_create(&threads[i], NULL, send_posts, NULL) == 0);
    }
    loop_run(loop);
    for (int i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
    }
    EXPECT(received == SENDERS * POSTS);
    loop_free(loop);
}

static int seen;
static int links;

static void count_links(void *argument)
{
    (void)argument;
    if (++links < 4) {
        loop_post(loop, count_links, NULL);
    }
}

static void end_here(void *argument)
{
    (void)argument;
    seen = links;
    loop_stop(loop);
}

static void on_due(void *argument)
{
    loop_post(loop, count_links, argument);
    loop_post(loop, count_links, argument);
    loop_post(loop, end_here, argument);
}

/*
 * Goal: what the loop's own thread posts is run in the order of posting, posts of posts too, and
 * the loop sleeps when there are none.
 */
TEST(loop, runs_its_own_posts_in_order_and_then_sleeps)
{
    struct error err = {0};
    seen = links = 0;
    EXPECT(loop_new("test", &loop, &err) == 0);
    struct loop_timer *timer = loop_timer_new(loop, on_due, NULL);
    loop_timer_start(timer, 0);
    loop_run(loop);
    EXPECT(seen == 2 && links >= 2);
    while (links < 4) {
        uv_run(loop_uv(loop), UV_RUN_ONCE);
    }
    uv_run(loop_uv(loop), UV_RUN_NOWAIT);
    EXPECT(uv_backend_timeout(loop_uv(loop)) == -1);
    loop_timer_free(timer);
    loop_free(loop);
}

static void post_again(void *argument)
{
    if (!loop_is_stopping(loop)) {
        loop_post(loop, post_again, argument);
    }
}

static void stop(void *argument)
{
    (void)argument;
    loop_stop(loop);
}

/* Goal: a post that posts itself for ever keeps nobody from his turn. */
TEST(loop, posts_without_end_leave_timers_their_turn)
{
    struct error err = {0};
    EXPECT(loop_new("test", &loop, &err) == 0);
    struct loop_timer *begin = loop_timer_new(loop, post_again, NULL);
    struct loop_timer *end = loop_timer_new(loop, stop, NULL);
    loop_timer_start(begin, 0);
    loop_timer_start(end, 1);
    loop_run(loop);
    loop_timer_free(begin);
    loop_timer_free(end);
    loop_free(loop);
}

/* Goal: what was given back is lent again, to one at a time, and nobody loses what he has in it. */
TEST(loop, lends_big_buffers_and_keeps_what_is_in_them)
{
    struct error err = {0};
    struct buffer one = {0};
    struct buffer other = {0};
    EXPECT(loop_new("test", &loop, &err) == 0);
    buffer_append(&one, "begun", 5);
    loop_lend(loop, &one);
    EXPECT(one.size == LOOP_BUFFER_BYTES && one.used == 5 && memcmp(one.data, "begun", 5) == 0);
    const uint8_t *big = one.data;
    loop_lend(loop, &one); /* it has one */
    loop_lend(loop, &other);
    EXPECT(one.data == big && other.data != big && other.used == 0);
    loop_give_back(loop, &one);
    EXPECT(one.data != big && one.size < LOOP_BUFFER_BYTES);
    EXPECT(one.used == 5 && memcmp(one.data, "begun", 5) == 0);
    buffer_done(&one);
    loop_lend(loop, &one);
    EXPECT(one.data == big && one.used == 0);
    one.used = LOOP_KEPT_BYTES + 1; /* too much to be moved: it stays where it is */
    loop_give_back(loop, &one);
    EXPECT(one.data == big && one.used == LOOP_KEPT_BYTES + 1);
    buffer_reserve(&other, LOOP_BUFFER_BYTES + 1); /* one that has grown is not kept */
    loop_give_back(loop, &other);
    EXPECT(other.data == NULL && other.size == 0);
    buffer_done(&one);
    loop_free(loop);
}
