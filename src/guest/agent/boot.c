/*
 * From the kernel's first program to a machine: what PID 1 does before anybody else is there.
 *
 * What the kernel's command line says:
 *
 *   blixard.root=SOURCE       the root's disk: serial:NAME, tag:NAME (virtiofs) or /dev/NAME.
 *                             Without it the initrd itself is the root.
 *   blixard.rootfs=TYPE       its file system; without it, found out from what is on the disk
 *   blixard.overlay=SOURCE    where the root's changes go: serial:NAME, or tmpfs.  Without it the
 *                             root is written to itself,
 *   blixard.volume=SERIAL:PATH[:ro]  mounted before the init begins; may be given several times
 *   blixard.ro                or, with this, not at all
 *   blixard.init=PATH         the distribution's init; without it: the image's entrypoint if there
 *                             is one, else /sbin/init.  "agent": none, the agent stays alone
 *   blixard.shares=LIST       what virtiofs mounts where: TAG:PATH[:ro],TAG:PATH...
 *   blixard.hostname=NAME
 *   blixard.disks=NAME,...    what serial:NAME stands for, /dev/vda first, where the VMM gives
 *                             disks no serial numbers
 *
 * In the initrd, /etc/blixard/modules names kernel modules, a path in each line with the module's
 * parameters behind it, in the order in which they are loaded.  /etc/blixard/entrypoint, of the
 * initrd or else of the root, is the fields of an EXEC request (protocol.h).
 *
 * Whatever fails: the machine stays up with the agent in it, and says why.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/memory.h"

#include "guest/agent/private.h"

#define SYSROOT  "/run/blixard/root" /* where it is put together */
#define NEW_ROOT "/blixard-root"     /* and where it is when /run goes along too */

#define ROOT_ENTRYPOINT "/etc/blixard/entrypoint"
#define OWN_ENTRYPOINT  "/run/blixard/entrypoint"

static char command_line[TEXT_MAX];

void say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof(line), format, arguments);
    va_end(arguments);
    dprintf(STDERR_FILENO, "blixard: %.*s\n", length, line);
}

const char *boot_option(const char *name)
{
    static char value[TEXT_MAX];
    size_t length = strlen(name);
    for (const char *at = command_line; *at != '\0';) {
        size_t word = strcspn(at, " \t");
        if (word >= length + 8 && strncmp(at, "blixard.", 8) == 0 &&
            strncmp(at + 8, name, length) == 0 && (word == length + 8 || at[length + 8] == '=')) {
            bool has_value = word > length + 8;
            snprintf(value, sizeof(value), "%.*s", has_value ? (int)(word - length - 9) : 0,
                     has_value ? at + length + 9 : "");
            return value;
        }
        at += word;
        at += strspn(at, " \t");
    }
    return NULL;
}

/* ---- The first things ---- */

static void mount_all(void)
{
    static const struct {
        const char *type;
        const char *path;
        unsigned long flags;
        const char *options;
    } rows[] = {
        {"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
        {"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
        {"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL},
        {"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"},
        {"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
        {"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        mkdir(rows[i].path, 0755);
        mount(rows[i].type, rows[i].path, rows[i].type, rows[i].flags, rows[i].options);
    }
    mkdir("/run/blixard", 0700);
    mkdir("/run/lock", 01777);
    static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                           {"/proc/self/fd/0", "/dev/stdin"},
                                           {"/proc/self/fd/1", "/dev/stdout"},
                                           {"/proc/self/fd/2", "/dev/stderr"}};
    for (size_t i = 0; i < 4; i++) {
        int r = symlink(links[i][0], links[i][1]);
        (void)r;
    }
}

/* For a program that is its own init, and its services.  systemd mounts its own. */
static void mount_cgroups(void)
{
    mkdir("/sys/fs/cgroup", 0755);
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

static void open_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);
    if (fd < 0) {
        fd = open("/dev/null", O_RDWR);
    }
    for (int target = 0; target < 3 && fd >= 0; target++) {
        if (fd != target) {
            dup2(fd, target);
        }
    }
    if (fd > 2) {
        close(fd);
    }
}

static void load_module(char *line)
{
    char *parameters = line + strcspn(line, " \t");
    if (*parameters != '\0') {
        *parameters++ = '\0';
        parameters += strspn(parameters, " \t");
    }
    FD_OWNED int fd = open(line, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || (syscall(SYS_finit_module, fd, parameters, 0) < 0 && errno != EEXIST)) {
        say("module %s: %s", line, strerror(errno));
    }
}

static void load_modules(void)
{
    BUFFER_OWNED struct buffer bytes = {0};
    char *rest = NULL;
    read_file("/etc/blixard/modules", &bytes);
    buffer_append_byte(&bytes, 0);
    for (char *line = strtok_r((char *)bytes.data, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        if (line[0] != '#') {
            load_module(line);
        }
    }
}

/* ---- The root ---- */

/* What is mounted now goes along; its place is made where the image lacks it. */
static void carry_over(const char *path)
{
    char target[64];
    snprintf(target, sizeof(target), NEW_ROOT "%s", path);
    mkdir(target, 0755);
    if (mount(path, target, NULL, MS_MOVE, NULL) < 0) {
        say("%s: %s", target, strerror(errno));
    }
}

/* The initrd's files are memory that nobody needs any more.  The running program keeps its own. */
static void forget_initrd(void)
{
    static const char *const folders[] = {"/lib", "/etc", "/usr", "/bin", "/sbin", "/init"};
    struct statfs status;
    struct error error = {0};
    if (statfs("/", &status) == 0 &&
        (status.f_type == RAMFS_MAGIC || status.f_type == TMPFS_MAGIC)) {
        for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
            file_remove_tree(folders[i], &error);
        }
    }
}

static int switch_root(struct error *err)
{
    /* /run holds the place the root is mounted at: it can only follow when that has left. */
    mkdir(NEW_ROOT, 0755);
    if (mount(SYSROOT, NEW_ROOT, NULL, MS_MOVE, NULL) < 0) {
        return fail_os(err, errno, "moving the root");
    }
    return 0;
}

static int enter_root(struct error *err)
{
    static const char *const paths[] = {"/dev", "/proc", "/sys", "/run"};
    int r = switch_root(err);
    for (size_t i = 0; r == 0 && i < sizeof(paths) / sizeof(paths[0]); i++) {
        carry_over(paths[i]);
    }
    if (r < 0) {
        return r;
    }
    forget_initrd();
    if (chdir(NEW_ROOT) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 ||
        chdir("/") < 0) {
        return fail_os(err, errno, "entering the root");
    }
    return 0;
}

/* That of the initrd, which is about to be forgotten, is this machine's own. */
static void keep_entrypoint(void)
{
    BUFFER_OWNED struct buffer bytes = {0};
    struct error error = {0};
    read_file(ROOT_ENTRYPOINT, &bytes);
    if (bytes.used > 0 && file_write(OWN_ENTRYPOINT, bytes.data, bytes.used, 0600, &error) < 0) {
        say("the entrypoint: %s", error.text);
    }
}

const char *entrypoint_path(void)
{
    return file_exists(OWN_ENTRYPOINT) ? OWN_ENTRYPOINT : ROOT_ENTRYPOINT;
}

static int overlay_root(const char *overlay, struct error *err)
{
    mkdir(ROOT_WRITABLE, 0700);
    int r = disk_mount_when_there(overlay, ROOT_WRITABLE, "",
                                  strcmp(overlay, "tmpfs") == 0 ? "mode=0755" : "", false, err);
    if (r < 0) {
        return error_wrap(err, "the root's overlay");
    }
    mkdir(ROOT_WRITABLE "/upper", 0755);
    mkdir(ROOT_WRITABLE "/work", 0700);
    if (mount("overlay", SYSROOT, "overlay", 0,
              "lowerdir=" ROOT_IMAGE ",upperdir=" ROOT_WRITABLE "/upper,workdir=" ROOT_WRITABLE
              "/work") < 0) {
        return fail_os(err, errno, "laying %s over the root", overlay);
    }
    return 0;
}

static int make_root(struct error *err)
{
    const char *found = boot_option("root");
    if (found == NULL) {
        return 0;
    }
    keep_entrypoint();
    MEMORY_OWNED char *source = memory_copy_string(found);
    found = boot_option("rootfs");
    MEMORY_OWNED char *file_system = memory_copy_string(found != NULL ? found : "");
    found = boot_option("overlay");
    MEMORY_OWNED char *overlay = memory_copy_string(found != NULL ? found : "");
    bool is_read_only = overlay[0] != '\0' || boot_option("ro") != NULL;
    const char *path = overlay[0] != '\0' ? ROOT_IMAGE : SYSROOT;
    mkdir(SYSROOT, 0755);
    mkdir(ROOT_IMAGE, 0755);
    int r = disk_mount_when_there(source, path, file_system, "", is_read_only, err);
    if (r < 0) {
        return error_wrap(err, "the root");
    }
    r = overlay[0] != '\0' ? overlay_root(overlay, err) : 0;
    return r < 0 ? r : enter_root(err);
}

/* ---- Volumes ---- */

/* One that does not come was taken out since the machine was started: that is said.  One that
 * cannot be mounted is no place for programs to find empty. */
static int mount_volume(char *text, struct error *err)
{
    char source[TEXT_MAX];
    char *path = strchr(text, ':');
    char *options = path != NULL ? strchr(path + 1, ':') : NULL;
    if (path == NULL || path[1] != '/') {
        return error_set(err, ERROR_INVALID, "blixard.volume=%s is not SERIAL:PATH", text);
    }
    *path++ = '\0';
    if (options != NULL) {
        *options++ = '\0';
    }
    bool is_read_only = options != NULL && strcmp(options, "ro") == 0;
    snprintf(source, sizeof(source), "serial:%s", text);
    int r = file_make_folder(path, 0755, err);
    r = r < 0 ? r : disk_mount_when_there(source, path, "", "", is_read_only, err);
    if (r == -ERROR_NOT_FOUND) {
        say("volume %s: %s", path, err->text);
        return 0;
    }
    return r < 0 ? error_wrap(err, "the volume for %s", path) : 0;
}

static int mount_volumes(struct error *err)
{
    static const char name[] = "blixard.volume=";
    char words[TEXT_MAX];
    char *rest = NULL;
    snprintf(words, sizeof(words), "%s", command_line);
    for (char *word = strtok_r(words, " \t", &rest); word != NULL;
         word = strtok_r(NULL, " \t", &rest)) {
        if (strncmp(word, name, sizeof(name) - 1) == 0) {
            int r = mount_volume(word + sizeof(name) - 1, err);
            if (r < 0) {
                return r;
            }
        }
    }
    return 0;
}

/* ---- Shares ---- */

/* "TAG:PATH[:ro]" */
static int mount_share(char *share, struct error *err)
{
    char source[64];
    char *path = strchr(share, ':');
    if (path == NULL || path[1] != '/') {
        return error_set(err, ERROR_INVALID, "blixard.shares: \"%.100s\" is no TAG:PATH", share);
    }
    *path++ = '\0';
    char *options = strchr(path, ':');
    if (options != NULL) {
        *options++ = '\0';
    }
    snprintf(source, sizeof(source), "tag:%s", share);
    int r = file_make_folder(path, 0755, err);
    r = r < 0 ? r : disk_mount_when_there(source, path, "virtiofs", "", options != NULL, err);
    return r < 0 ? error_wrap(err, "share %.100s", path) : 0;
}

static int mount_shares(struct error *err)
{
    const char *found = boot_option("shares");
    MEMORY_OWNED char *list = memory_copy_string(found != NULL ? found : "");
    char *rest = NULL;
    int r = 0;
    for (char *share = strtok_r(list, ",", &rest); share != NULL && r == 0;
         share = strtok_r(NULL, ",", &rest)) {
        r = mount_share(share, err);
    }
    return r;
}

/* ---- All of it ---- */

static bool is_alone(void)
{
    const char *option = boot_option("init");
    return option != NULL && strcmp(option, "agent") == 0;
}

static const char *find_init(void)
{
    static const char *const paths[] = {"/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd",
                                        "/etc/init", "/bin/init"};
    static char asked[TEXT_MAX];
    const char *option = boot_option("init");
    if (is_alone()) {
        return NULL;
    }
    if (option != NULL && option[0] != '\0') {
        snprintf(asked, sizeof(asked), "%s", option);
        return asked;
    }
    if (file_exists(entrypoint_path())) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        if (access(paths[i], X_OK) == 0) {
            return paths[i];
        }
    }
    return NULL;
}

static void choose(const char *init)
{
    bool has_root = boot_option("root") != NULL;
    if (init != NULL && access(init, X_OK) < 0) {
        atomic_store(&shared->init, AGENT_INIT_RESCUE);
        snprintf(shared->problem, sizeof(shared->problem), "the root has no program %s", init);
    } else if (is_alone()) {
        atomic_store(&shared->init, AGENT_INIT_NONE);
    } else if (init != NULL) {
        atomic_store(&shared->init, AGENT_INIT_OTHER);
    } else if (file_exists(entrypoint_path())) {
        atomic_store(&shared->init, AGENT_INIT_ENTRYPOINT);
    } else if (has_root) {
        atomic_store(&shared->init, AGENT_INIT_RESCUE);
        snprintf(shared->problem, sizeof(shared->problem),
                 "the root has neither an entrypoint nor an init");
    } else {
        atomic_store(&shared->init, AGENT_INIT_NONE);
    }
}

const char *boot(void)
{
    struct error error = {0};
    mount_all();
    open_console();
    read_line("/proc/cmdline", command_line, sizeof(command_line));
    load_modules();
    network_lo_up(&error);
    if (make_root(&error) < 0 || mount_shares(&error) < 0 || mount_volumes(&error) < 0) {
        atomic_store(&shared->init, AGENT_INIT_RESCUE);
        snprintf(shared->problem, sizeof(shared->problem), "%.500s", error.text);
    } else {
        choose(boot_option("root") != NULL || boot_option("init") != NULL ? find_init() : NULL);
    }
    const char *hostname = boot_option("hostname");
    if (hostname != NULL && host_name_set(hostname, &error) < 0) {
        say("%s", error.text);
    }
    if (shared->problem[0] != '\0') {
        say("%s", shared->problem);
    }
    if (atomic_load(&shared->init) == AGENT_INIT_OTHER) {
        return find_init();
    }
    mount_cgroups();
    return NULL;
}
