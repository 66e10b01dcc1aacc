/* USB devices of a QEMU that a test plays. */
#include "engine/hypervisor/qemu_usb.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/loop/loop.h"

#include "engine/hypervisor/qmp.h"

#include "test/lib/test.h"

struct scene {
    struct loop *loop;
    struct qmp *qmp;
    struct qemu_usb *usb;
    int vmm; /* our end */
    struct hypervisor_usb_set set;
    enum error_kind answered;
    unsigned answers;
};

static void on_ready(void *context)
{
    (void)context;
}

static void on_event(const char *name, const json_t *data, void *context)
{
    (void)name;
    (void)data;
    (void)context;
}

static void on_end(const struct error *error, void *context)
{
    (void)error;
    (void)context;
}

static void on_done(const struct error *error, void *context)
{
    struct scene *scene = context;
    scene->answered = error != NULL ? error->kind : ERROR_NONE;
    scene->answers++;
    loop_stop(scene->loop);
}

static void say(const struct scene *scene, const char *text)
{
    EXPECT(write(scene->vmm, text, strlen(text)) == (ssize_t)strlen(text));
}

/* So many lines of what it was told, and how many descriptors came along. */
static unsigned hear(const struct scene *scene, unsigned lines, char *ret_text, size_t size)
{
    unsigned fds = 0;
    size_t used = 0;
    while (lines > 0) {
        char control[CMSG_SPACE(sizeof(int))];
        struct iovec part = {ret_text + used, 1};
        struct msghdr message = {.msg_iov = &part,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof(control)};
        uv_run(loop_uv(scene->loop), UV_RUN_NOWAIT);
        ssize_t got = used < size - 1 ? recvmsg(scene->vmm, &message, MSG_CMSG_CLOEXEC) : -1;
        const struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
        if (head != NULL) {
            int fd = -1;
            memcpy(&fd, CMSG_DATA(head), sizeof(fd));
            close(fd);
            fds++;
        }
        lines -= got > 0 && ret_text[used] == '\n';
        used += got > 0;
    }
    ret_text[used] = '\0';
    return fds;
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
    scene->usb = qemu_usb_new(scene->qmp);
    char text[256];
    say(scene, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
    hear(scene, 1, text, sizeof(text));
    say(scene, "{\"return\": {}}\r\n");
}

static void end(struct scene *scene)
{
    qmp_close(scene->qmp);
    qemu_usb_free(scene->usb);
    close(scene->vmm);
    loop_free(scene->loop);
}

/* It is asked what it has, and answers. */
static void set(struct scene *scene, int fd)
{
    char text[512];
    const struct hypervisor_usb devices[] = {{"1-2-7", fd}, {"1-3-9", fd}};
    qemu_usb_set(scene->usb, devices, 2, &scene->set, on_done, scene);
    EXPECT(hear(scene, 1, text, sizeof(text)) == 0);
    EXPECT(strstr(text, "\"qom-list\"") != NULL);
    say(scene,
        "{\"return\": [{\"name\": \"usb\"}, {\"name\": \"host-1-2-7\"}, {\"name\": "
        "\"host-1-2-6\"}, {\"name\": \"volumes\"}]}\r\n");
}

/*
 * Goal: what QEMU has already stays, what it is to have no more goes, the rest comes, by a
 * descriptor; nothing else is touched.  It is told which came.
 * Method: of two devices it has one, under its number of today, and a third one.
 */
TEST(qemu_usb, the_difference_is_plugged_in_and_out)
{
    struct scene scene;
    char text[4096];
    FD_OWNED int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    begin(&scene);
    set(&scene, fd);
    EXPECT(hear(&scene, 4, text, sizeof(text)) == 1);
    say(&scene, "{\"return\": {}}\r\n{\"return\": {}}\r\n{\"return\": {}}\r\n{\"return\": {}}\r\n");
    loop_run(scene.loop);
    EXPECT(scene.answers == 1 && scene.answered == ERROR_NONE);
    EXPECT(scene.set.had == 1 && scene.set.added == 2);
    EXPECT(strstr(text, "\"device_del\"") != NULL && strstr(text, "\"host-1-2-6\"") != NULL);
    EXPECT(strstr(text, "\"add-fd\"") != NULL && strstr(text, "\"host-1-3-9\"") != NULL);
    EXPECT(strstr(text, "/dev/fdset/") != NULL && strstr(text, "\"remove-fd\"") != NULL);
    EXPECT(strstr(text, "\"host-1-2-7\"") == NULL && strstr(text, "volumes") == NULL);
    end(&scene);
}

/*
 * Goal: what QEMU refuses is told, and a VMM that goes ends what was asked, once.
 * Method: its answer to device_add, and no answer but the end of the connection.
 */
TEST(qemu_usb, a_refusal_and_an_end_are_told)
{
    struct scene scene;
    char text[4096];
    FD_OWNED int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    begin(&scene);
    set(&scene, fd);
    EXPECT(hear(&scene, 4, text, sizeof(text)) == 1);
    say(&scene,
        "{\"return\": {}}\r\n{\"return\": {}}\r\n{\"error\": {\"class\": \"GenericError\", "
        "\"desc\": \"failed to open host usb device\"}}\r\n{\"return\": {}}\r\n");
    loop_run(scene.loop);
    EXPECT(scene.answers == 1 && scene.answered == ERROR_CONFLICT);
    EXPECT(scene.set.had == 1 && scene.set.added == 0);
    set(&scene, fd);
    shutdown(scene.vmm, SHUT_RDWR);
    loop_run(scene.loop);
    EXPECT(scene.answers == 2 && scene.answered == ERROR_UNAVAILABLE);
    end(&scene);
}

/* With the sanitizer: nothing is left of what was asked and not answered. */
TEST(qemu_usb, what_is_under_way_goes_with_it)
{
    struct scene scene;
    FD_OWNED int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    begin(&scene);
    set(&scene, fd);
    end(&scene);
    EXPECT(scene.answers == 0);
}
