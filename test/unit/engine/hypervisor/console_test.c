/* A console between a VMM and clients that a test plays. */
#include "engine/hypervisor/console.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"

#include "test/lib/test.h"

struct scene {
    struct console console;
    struct sockaddr_un address;
    socklen_t length;
    int folder;
    int vmm; /* the VMM's end */
};

static int new_socket(void)
{
    return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* The name is the kernel's to choose (autobind, unix(7)). */
static void begin(struct scene *scene)
{
    int ends[2];
    int listener = new_socket();
    *scene = (struct scene){.address = {.sun_family = AF_UNIX}, .length = sizeof(scene->address)};
    EXPECT(bind(listener, (struct sockaddr *)&scene->address, sizeof(sa_family_t)) == 0);
    EXPECT(getsockname(listener, (struct sockaddr *)&scene->address, &scene->length) == 0);
    EXPECT(listen(listener, 4) == 0);
    EXPECT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    scene->folder = open(test_folder(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    scene->vmm = ends[1];
    console_init(&scene->console, scene->folder, listener, ends[0]);
}

static void end(struct scene *scene)
{
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        if (scene->console.clients[i].fd >= 0) {
            close(scene->console.clients[i].fd);
        }
    }
    close(scene->console.log_fd);
    close(scene->console.listener);
    close(scene->console.vmm);
    close(scene->vmm);
    close(scene->folder);
}

/* What is there already: nothing is waited for. */
static int turn(struct scene *scene)
{
    struct pollfd fds[CONSOLE_FDS];
    size_t count = console_prepare(&scene->console, fds);
    int ready = poll(fds, (nfds_t)count, 0);
    errno = EAGAIN; /* as an earlier call may have left it */
    console_serve(&scene->console, fds, count);
    return ready;
}

static int come(struct scene *scene, const char *line)
{
    int client = new_socket();
    EXPECT(connect(client, (struct sockaddr *)&scene->address, scene->length) == 0);
    EXPECT(write(client, line, strlen(line)) == (ssize_t)strlen(line));
    EXPECT(turn(scene) == 1); /* it is let in, */
    turn(scene);              /* and heard */
    return client;
}

static size_t count_clients(const struct scene *scene)
{
    size_t count = 0;
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        count += scene->console.clients[i].fd >= 0;
    }
    return count;
}

/* One that goes in the middle of its line is forgotten: else poll(2) would tell of it for ever. */
TEST(console, who_goes_before_its_line_ends_is_forgotten)
{
    struct scene scene;
    begin(&scene);
    int client = come(&scene, "att");
    EXPECT(count_clients(&scene) == 1);
    close(client);
    turn(&scene);
    EXPECT(count_clients(&scene) == 0);
    EXPECT(turn(&scene) == 0);
    end(&scene);
}

/* A daemon that comes back watches, however many are attached: else it would take the machine for
 * dead. */
TEST(console, who_watches_finds_room)
{
    struct scene scene;
    int clients[CONSOLE_CLIENTS_MAX];
    begin(&scene);
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        clients[i] = come(&scene, "attach 0\n");
    }
    EXPECT(count_clients(&scene) == CONSOLE_ATTACHED_MAX);
    int watching = come(&scene, "watch\n");
    EXPECT(count_clients(&scene) == CONSOLE_ATTACHED_MAX + 1);
    for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++) {
        close(clients[i]);
    }
    close(watching);
    end(&scene);
}

/*
 * Goal: two may type at once; who finds no room waits, and is not thrown out.
 * Method: the first one types as much as there is room for, in the same turn as the second.
 */
TEST(console, who_finds_no_room_for_what_it_types_stays)
{
    static char much[2 * CONSOLE_INPUT_BYTES];
    struct scene scene;
    begin(&scene);
    int first = come(&scene, "attach 0\n");
    int second = come(&scene, "attach 0\n");
    memset(much, 'a', sizeof(much));
    EXPECT(write(first, much, CONSOLE_INPUT_BYTES) == CONSOLE_INPUT_BYTES);
    EXPECT(write(second, "b", 1) == 1);
    turn(&scene);
    EXPECT(count_clients(&scene) == 2);
    turn(&scene);
    size_t typed = 0;
    ssize_t got = 0;
    while ((got = read(scene.vmm, much, sizeof(much))) > 0) {
        typed += (size_t)got;
        EXPECT(got == 0 || typed <= CONSOLE_INPUT_BYTES || much[got - 1] == 'b');
    }
    EXPECT(typed == CONSOLE_INPUT_BYTES + 1);
    /* The VMM does not read: who goes then does not keep its place. */
    while (write(scene.console.vmm, much, sizeof(much)) > 0) {
    }
    EXPECT(write(first, much, sizeof(much)) == (ssize_t)sizeof(much));
    turn(&scene);
    turn(&scene);
    close(first);
    turn(&scene);
    EXPECT(count_clients(&scene) == 1);
    close(second);
    end(&scene);
}

static off_t size_of(const struct scene *scene, const char *name)
{
    struct stat status;
    return fstatat(scene->folder, name, &status, 0) == 0 ? status.st_size : -1;
}

static void say(struct scene *scene, const char *bytes, size_t length)
{
    EXPECT(write(scene->vmm, bytes, length) == (ssize_t)length);
    turn(scene);
}

/* A log that cannot be made, as on a full disk, is made later; a flood fills two of them at most.
 */
TEST(console, its_log_is_made_when_it_can_be_and_is_bounded)
{
    static char much[8 << 10];
    struct scene scene;
    FD_OWNED int folder = open(test_folder(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    EXPECT(mkdirat(folder, "console.log", 0700) == 0); /* it is in the way */
    begin(&scene);
    say(&scene, "lost", 4);
    EXPECT(unlinkat(folder, "console.log", AT_REMOVEDIR) == 0);
    say(&scene, "kept!", 5);
    EXPECT(size_of(&scene, "console.log") == 5);
    memset(much, 'x', sizeof(much));
    for (size_t i = 0; i < 3 * CONSOLE_LOG_BYTES / sizeof(much); i++) {
        say(&scene, much, sizeof(much));
    }
    EXPECT(size_of(&scene, "console.log.1") > CONSOLE_LOG_BYTES - (off_t)sizeof(much));
    EXPECT(size_of(&scene, "console.log.1") <= CONSOLE_LOG_BYTES);
    EXPECT(size_of(&scene, "console.log") <= CONSOLE_LOG_BYTES);
    end(&scene);
}
