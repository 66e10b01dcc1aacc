/*
 * Folders of the host in a guest: a virtiofsd beside the VMM, for each of them.  See share.h.
 *
 * virtiofsd confines itself (namespaces, a root that is the folder, a filter, few capabilities) and
 * needs root for it.  The folder is found without following any symbolic link, and bound to a place
 * in a namespace of its own, read-only where it is to be: what a guest writes in it cannot lead the
 * next one elsewhere.
 */
#include "engine/hypervisor/share.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/jail/jail.h"

enum { LISTENER_FD = 3 };

static _Noreturn void give_up(const char *what, const char *path)
{
    dprintf(STDERR_FILENO, "sharing %s: %s: %s\n", path, what, strerrordesc_np(errno));
    _exit(127);
}

/* ---- In the child ---- */

/* The folder, whatever its name comes to mean afterwards. */
static int open_folder(const char *path)
{
    const struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
                                 .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    return (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
}

static void bind_folder(const struct launch_share *share, const char *place)
{
    char source[32];
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
        give_up("taking a mount namespace", share->path);
    }
    int fd = open_folder(share->path); /* of this namespace: another one's is not bound */
    if (fd < 0) {
        give_up("opening it, without symbolic links", share->path);
    }
    snprintf(source, sizeof(source), "/proc/self/fd/%d", fd);
    if (mount(source, place, NULL, MS_BIND, NULL) < 0) {
        give_up("binding it", share->path);
    }
    if (share->read_only &&
        mount(NULL, place, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) <
            0) {
        give_up("making it read-only", share->path);
    }
}

static _Noreturn void become_daemon(const char *program, const struct launch_share *share,
                                    const char *place, int listener, int words)
{
    static const struct jail_group_limits none = {0};
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t signals;
    sigemptyset(&signals);
    MEMORY_OWNED char *options =
        memory_format("source=%s,cache=auto,sandbox=namespace,log_level=err", place);
    char *const argv[] = {(char *)(uintptr_t)program, (char *)(uintptr_t) "--fd=3",
                          (char *)(uintptr_t) "-o", options, NULL};
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
        dup2(words, STDERR_FILENO) < 0 || dup2(listener, LISTENER_FD) < 0 ||
        sigprocmask(SIG_SETMASK, &signals, NULL) < 0) {
        give_up("arranging what it has open", share->path);
    }
    fcntl(LISTENER_FD, F_SETFD, 0); /* where it was this number before */
    bind_folder(share, place);
    jail_group_enter(share->group, &none);
    close_range(LISTENER_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) {
        give_up("tying it to its monitor", share->path);
    }
    execv(program, argv);
    give_up(program, share->path);
}

/* ---- In the monitor ---- */

/* Connected before anybody accepts: the VMM is given the one end, virtiofsd the listener. */
static int make_pair(int folder, const char *name, int *ret_listener, int *ret_end,
                     struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", folder, name);
    FD_OWNED int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    FD_OWNED int end = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlinkat(folder, name, 0);
    if (listener < 0 || end < 0 ||
        bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(listener, 1) < 0 || connect(end, (struct sockaddr *)&address, sizeof(address)) < 0) {
        return error_os(err, errno, "making the socket of a share");
    }
    unlinkat(folder, name, 0); /* nobody else is to connect */
    *ret_listener = fd_take(&listener);
    *ret_end = fd_take(&end);
    return 0;
}

/* A virtiofsd that serves whoever connects to `listener`. */
static int start_daemon(const char *program, const struct launch_share *share,
                        const char *folder_path, int listener, int words, pid_t *ret_pid,
                        struct error *err)
{
    MEMORY_OWNED char *place = memory_format("%s/%s", folder_path, share->tag);
    if (mkdir(place, 0700) < 0 && errno != EEXIST) {
        return error_os(err, errno, "making %s", place);
    }
    pid_t pid = fork();
    if (pid < 0) {
        return error_os(err, errno, "starting %s", program);
    }
    if (pid == 0) {
        become_daemon(program, share, place, listener, words);
    }
    *ret_pid = pid;
    return 0;
}

int share_start(const char *program, const struct launch_share *share, int folder,
                const char *folder_path, int words, int *ret_end, pid_t *ret_pid, struct error *err)
{
    FD_OWNED int listener = -1;
    FD_OWNED int end = -1;
    MEMORY_OWNED char *name = memory_format("%s.sock", share->tag);
    int r = make_pair(folder, name, &listener, &end, err);
    r = r < 0 ? r : start_daemon(program, share, folder_path, listener, words, ret_pid, err);
    if (r == 0) {
        *ret_end = fd_take(&end);
    }
    return r;
}

/* Its folder is the VMM's: what lies there may have been made by it. */
static int listen_at(const struct launch_share *share, const struct launch_runner *runner,
                     uid_t uid, int *ret_listener, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    FD_OWNED int folder = open(runner->state, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    FD_OWNED int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", folder,
                          share->socket);
    if (folder < 0 || listener < 0) {
        return error_os(err, errno, "making the socket of a share");
    }
    if ((size_t)length >= sizeof(address.sun_path)) {
        return error_set(err, ERROR_INVALID, "the socket's name %s is too long", share->socket);
    }
    unlinkat(folder, share->socket, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(listener, 1) < 0) {
        return error_os(err, errno, "listening at %s", share->socket);
    }
    if (uid != 0 && fchownat(folder, share->socket, uid, (gid_t)uid, AT_SYMLINK_NOFOLLOW) < 0) {
        return error_os(err, errno, "giving %s to the VMM", share->socket);
    }
    *ret_listener = fd_take(&listener);
    return 0;
}

int share_start_at(const char *program, const struct launch_share *share,
                   const struct launch_runner *runner, uid_t uid, const char *folder_path,
                   int words, pid_t *ret_pid, struct error *err)
{
    FD_OWNED int listener = -1;
    int r = listen_at(share, runner, uid, &listener, err);
    return r < 0 ? r : start_daemon(program, share, folder_path, listener, words, ret_pid, err);
}

char *share_find_program(void)
{
    static const char *const places[] = {"/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd",
                                         "/usr/lib/virtiofsd"};
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if (access(places[i], X_OK) == 0) {
            return memory_copy_string(places[i]);
        }
    }
    return file_find_program("virtiofsd");
}
