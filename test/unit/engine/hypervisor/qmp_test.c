/* QMP, spoken with a VMM that a test plays. */
#include "engine/hypervisor/qmp.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "test/lib/test.h"

struct scene {
    struct loop *loop;
    struct qmp *qmp;
    int vmm; /* our end */
    bool is_ready;
    char event[64];
    enum error_kind ended;
    enum error_kind answered;
    unsigned answers;
};

static void on_ready(void *context)
{
    struct scene *scene = context;
    scene->is_ready = true;
    loop_stop(scene->loop);
}

static void on_event(const char *name, const json_t *data, void *context)
{
    struct scene *scene = context;
    (void)data;
    snprintf(scene->event, sizeof(scene->event), "%s", name);
    loop_stop(scene->loop);
}

static void on_end(const struct error *error, void *context)
{
    struct scene *scene = context;
    scene->ended = error->kind;
    loop_stop(scene->loop);
}

static void on_answer(const struct error *error, const json_t *result, void *context)
{
    struct scene *scene = context;
    (void)result;
    scene->answered = error != NULL ? error->kind : ERROR_NONE;
    scene->answers++;
    loop_stop(scene->loop);
}

static void on_owned_answer(const struct error *error, const json_t *result, void *context)
{
    on_answer(error, result, *(struct scene **)context);
}

static void say(const struct scene *scene, const char *text)
{
    ssize_t wrote = write(scene->vmm, text, strlen(text));
    (void)wrote;
}

static void begin(struct scene *scene)
{
    static const struct qmp_events events = {on_ready, on_event, on_end};
    int ends[2];
    struct error err = {0};
    *scene = (struct scene){0};
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    scene->vmm = ends[1];
    scene->qmp = qmp_open(scene->loop, ends[0], &events, scene);
}

static void greet(struct scene *scene)
{
    say(scene, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n{\"return\": {}}\r\n");
    loop_run(scene->loop);
    EXPECT(scene->is_ready);
}

static void end(struct scene *scene)
{
    qmp_close(scene->qmp);
    close(scene->vmm);
    loop_free(scene->loop);
}

TEST(qmp, answers_come_in_the_order_of_the_commands)
{
    struct scene scene;
    begin(&scene);
    greet(&scene);
    qmp_execute(scene.qmp, "stop", NULL, -1, on_answer, &scene);
    qmp_execute(scene.qmp, "nothing", NULL, -1, on_answer, &scene);
    say(&scene, "{\"event\": \"STOP\", \"timestamp\": {}}\r\n");
    loop_run(scene.loop);
    EXPECT(strcmp(scene.event, "STOP") == 0);
    say(&scene, "{\"return\": {}}\r\n");
    loop_run(scene.loop);
    EXPECT(scene.answers == 1 && scene.answered == ERROR_NONE);
    say(&scene, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}}\r\n");
    loop_run(scene.loop);
    EXPECT(scene.answers == 2 && scene.answered == ERROR_UNSUPPORTED);
    end(&scene);
}

/* Goal: a start costs one round trip.  Method: the VMM has greeted, and answered nothing. */
TEST(qmp, what_is_asked_first_waits_for_no_answer)
{
    static const char wanted[] = "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"stop\"}\n";
    char told[128] = "";
    size_t used = 0;
    struct scene scene;
    begin(&scene);
    qmp_execute(scene.qmp, "stop", NULL, -1, on_answer, &scene);
    say(&scene, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
    loop_run(scene.loop);
    EXPECT(scene.is_ready && scene.answers == 0);
    while (used < sizeof(wanted) - 1) {
        uv_run(loop_uv(scene.loop), UV_RUN_NOWAIT);
        ssize_t got = read(scene.vmm, told + used, sizeof(told) - 1 - used);
        used += got > 0 ? (size_t)got : 0;
    }
    EXPECT_STRING(told, wanted);
    say(&scene, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n");
    loop_run(scene.loop);
    EXPECT(scene.ended == ERROR_CONFLICT && scene.answers == 1);
    end(&scene);
}

TEST(qmp, a_vmm_that_goes_ends_what_was_asked)
{
    struct scene scene;
    begin(&scene);
    greet(&scene);
    qmp_execute(scene.qmp, "stop", NULL, -1, on_answer, &scene);
    shutdown(scene.vmm, SHUT_RDWR);
    while (scene.ended == ERROR_NONE) {
        loop_run(scene.loop);
    }
    EXPECT(scene.answers == 1 && scene.answered == ERROR_UNAVAILABLE);
    EXPECT(scene.ended == ERROR_UNAVAILABLE);
    end(&scene);
}

/* With the sanitizer: of two contexts that are given away, one answered and one not, none is left.
 */
TEST(qmp, contexts_that_were_given_away_go_with_their_commands)
{
    struct scene scene;
    begin(&scene);
    greet(&scene);
    for (int i = 0; i < 2; i++) {
        struct scene **context = NEW(struct scene *);
        *context = &scene;
        qmp_ask(scene.qmp, "stop", NULL, -1, on_owned_answer, context);
    }
    say(&scene, "{\"event\": \"STOP\", \"timestamp\": {}}\r\n");
    loop_run(scene.loop);
    say(&scene, "{\"return\": {}}\r\n");
    loop_run(scene.loop);
    EXPECT(scene.answers == 1 && scene.answered == ERROR_NONE);
    end(&scene);
    EXPECT(scene.answers == 1);
}

TEST(qmp, what_nobody_asked_for_is_the_end)
{
    static const char *const lines[] = {"{\"return\": {}}\r\n{\"return\": {}}\r\n{\"return\": 1}\n",
                                        "nonsense\n", "{\"event\": 7}\n", "[]\n"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct scene scene;
        begin(&scene);
        greet(&scene);
        say(&scene, lines[i]);
        loop_run(scene.loop);
        EXPECT(scene.ended == ERROR_PROTOCOL);
        end(&scene);
    }
}
