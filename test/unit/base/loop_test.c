#include "base/loop/loop.h"

#include <pthread.h>

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
