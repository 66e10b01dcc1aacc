/*
 * Becoming a program.
 *
 * Users and groups are read from /etc/passwd and /etc/group by hand: a static program has no
 * name service switch, and the image's files are what its owner sees.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/text.h"

#include "guest/agent/private.h"

enum { GROUPS_MAX = 64, COLUMNS_MAX = 8, LIST_MAX = 16384 };

struct user {
    uid_t uid;
    gid_t gid;
    gid_t groups[GROUPS_MAX];
    int group_count;
    char name[256];
    char home[TEXT_MAX];
};

void exec_begin_child(void)
{
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < 65; number++) {
        signal(number, SIG_DFL);
    }
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    umask(022);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* the server may fall; nobody would know of this child */
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) { /* the server is spared when memory runs out, its children are not */
        ssize_t wrote = write(fd, "0", 1);
        (void)wrote;
        close(fd);
    }
}

/* Cut a line at its colons; how many columns there are. */
static int split(char *line, char *columns[COLUMNS_MAX])
{
    int count = 0;
    columns[count++] = line;
    for (char *at = line; *at != '\0' && count < COLUMNS_MAX; at++) {
        if (*at == ':') {
            *at = '\0';
            columns[count++] = at + 1;
        }
    }
    return count;
}

static bool parse_id(const char *text, unsigned *ret_id)
{
    uint64_t value = 0;
    if (!text_parse_u64(text_of(text, strlen(text)), &value) || value > UINT32_MAX - 1) {
        return false;
    }
    *ret_id = (unsigned)value;
    return true;
}

/* By name, or by number where `name` is NULL. */
static bool find_user(const char *name, struct user *user)
{
    BUFFER_OWNED struct buffer bytes = {0};
    char *columns[COLUMNS_MAX];
    char *rest = NULL;
    read_file("/etc/passwd", &bytes);
    buffer_append_byte(&bytes, 0);
    for (char *line = strtok_r((char *)bytes.data, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        unsigned uid = 0;
        unsigned gid = 0;
        if (split(line, columns) < 6 || !parse_id(columns[2], &uid) ||
            !parse_id(columns[3], &gid)) {
            continue;
        }
        if (name != NULL ? strcmp(columns[0], name) == 0 : uid == user->uid) {
            user->gid = name != NULL ? gid : user->gid;
            user->uid = uid;
            snprintf(user->name, sizeof(user->name), "%s", columns[0]);
            snprintf(user->home, sizeof(user->home), "%s", columns[5]);
            return true;
        }
    }
    return false;
}

static bool is_member(char *members, const char *name)
{
    char *rest = NULL;
    bool is_one = false;
    for (char *at = strtok_r(members, ",", &rest); at != NULL; at = strtok_r(NULL, ",", &rest)) {
        is_one = is_one || strcmp(at, name) == 0;
    }
    return is_one;
}

static void find_groups(struct user *user)
{
    BUFFER_OWNED struct buffer bytes = {0};
    char *columns[COLUMNS_MAX];
    char *rest = NULL;
    user->groups[user->group_count++] = user->gid;
    if (user->name[0] == '\0') {
        return;
    }
    read_file("/etc/group", &bytes);
    buffer_append_byte(&bytes, 0);
    for (char *line = strtok_r((char *)bytes.data, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        unsigned gid = 0;
        if (split(line, columns) >= 4 && parse_id(columns[2], &gid) && gid != user->gid &&
            user->group_count < GROUPS_MAX && is_member(columns[3], user->name)) {
            user->groups[user->group_count++] = gid;
        }
    }
}

static int choose_user(struct agent_reader request, struct user *user, struct error *err)
{
    char name[TEXT_MAX];
    int r = request_text(request, AGENT_USER_NAME, "", name, err);
    if (r < 0) {
        return r;
    }
    user->uid = (uid_t)request_number(request, AGENT_USER, 0);
    user->gid = (gid_t)request_number(request, AGENT_GROUP, user->uid);
    bool is_known = find_user(name[0] != '\0' ? name : NULL, user);
    if (!is_known && strcmp(name, "root") == 0) {
        is_known = true; /* an image without /etc/passwd has one all the same */
    }
    if (!is_known && name[0] != '\0') {
        return error_set(err, ERROR_NOT_FOUND, "there is no user \"%s\" in /etc/passwd", name);
    }
    if (user->home[0] == '\0') {
        snprintf(user->home, sizeof(user->home), "%s", user->uid == 0 ? "/root" : "/");
    }
    find_groups(user);
    return 0;
}

static int become_user(const struct user *user, struct error *err)
{
    if (user->uid == geteuid() && user->gid == getegid()) {
        return 0;
    }
    if (setgroups((size_t)user->group_count, user->groups) < 0 ||
        setresgid(user->gid, user->gid, user->gid) < 0 ||
        setresuid(user->uid, user->uid, user->uid) < 0) {
        return fail_os(err, errno, "becoming user %u", (unsigned)user->uid);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* the change of user has taken it away */
    return 0;
}

/* All fields of a tag as a NULL-terminated list, in memory that the program's end frees. */
static char **list_of(struct agent_reader request, enum agent_tag tag, size_t spare)
{
    char **list = memory_new(LIST_MAX + spare + 1, sizeof(char *));
    size_t count = 0;
    struct agent_field field;
    while (agent_next(&request, &field) && count < LIST_MAX) {
        bool is_text = field.length == 0 || memchr(field.bytes, 0, field.length) == NULL;
        if (field.tag == tag && is_text) {
            list[count++] = memory_copy_text((const char *)field.bytes, field.length);
        }
    }
    return list;
}

static bool has_variable(char **environment, const char *name)
{
    size_t length = strlen(name);
    for (; *environment != NULL; environment++) {
        if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=') {
            return true;
        }
    }
    return false;
}

static void add_variable(char **environment, const char *name, const char *value)
{
    size_t count = 0;
    while (environment[count] != NULL) {
        count++;
    }
    if (!has_variable(environment, name)) {
        environment[count] = memory_format("%s=%s", name, value);
    }
}

static char **environment_of(struct agent_reader request, const struct user *user,
                             bool has_terminal)
{
    enum { ADDED = 5 };
    char **environment = list_of(request, AGENT_ENVIRONMENT, ADDED);
    add_variable(environment, "PATH",
                 "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    add_variable(environment, "HOME", user->home);
    if (user->name[0] != '\0') {
        add_variable(environment, "USER", user->name);
    }
    if (has_terminal) {
        add_variable(environment, "TERM", "xterm-256color");
    }
    return environment;
}

static int enter_folder(struct agent_reader request, const struct user *user, struct error *err)
{
    char folder[TEXT_MAX];
    int r = request_text(request, AGENT_FOLDER, "", folder, err);
    if (r < 0) {
        return r;
    }
    if (folder[0] != '\0') {
        return chdir(folder) == 0 ? 0 : fail_os(err, errno, "entering %s", folder);
    }
    if (chdir(user->home) < 0 && chdir("/") < 0) {
        return fail_os(err, errno, "entering /");
    }
    return 0;
}

int exec_become(struct agent_reader request, bool has_terminal, struct error *err)
{
    struct user user = {0};
    char **arguments = list_of(request, AGENT_ARGUMENT, 0);
    if (arguments[0] == NULL || arguments[0][0] == '\0') {
        return error_set(err, ERROR_INVALID, "no program is named");
    }
    int r = choose_user(request, &user, err);
    if (r < 0) {
        return r;
    }
    if (has_terminal) {
        ioctl(STDIN_FILENO, TIOCSCTTY, 0);
        /* Else it could not be opened by name; root's need not be given away. */
        int given = fchown(STDIN_FILENO, user.uid, (gid_t)-1);
        (void)given;
    }
    r = become_user(&user, err);
    if (r == 0) {
        r = enter_folder(request, &user, err);
    }
    if (r < 0) {
        return r;
    }
    environ = environment_of(request, &user, has_terminal);
    execvp(arguments[0], arguments);
    if (errno == ENOENT) {
        return error_set(err, ERROR_NOT_FOUND, "there is no program \"%s\"", arguments[0]);
    }
    return fail_os(err, errno, "starting %s", arguments[0]);
}
