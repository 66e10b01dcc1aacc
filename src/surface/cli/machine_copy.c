/* `vm cp`: files and folders between here and a machine. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/file.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/rootfs.h"

#include "surface/cli/duplex.h"
#include "surface/cli/private.h"

/* NAME:PATH; a path of this machine with a colon is written ./A:B. */
struct place {
    char *name; /* NULL: here */
    const char *path;
};

static struct place place_of(const char *word)
{
    const char *colon = strchr(word, ':');
    const char *slash = strchr(word, '/');
    if (colon == NULL || (slash != NULL && slash < colon)) {
        return (struct place){NULL, word};
    }
    return (struct place){memory_copy_text(word, (size_t)(colon - word)), colon + 1};
}

static void add_target(struct buffer *target, const char *machine, const char *place,
                       const char *query)
{
    MEMORY_OWNED char *path = request_target("machines", machine, "/files/");
    const char *rest = place + (place[0] == '/' ? 1 : 0);
    buffer_append_string(target, path);
    http_percent_encode(target, text_of(rest, strlen(rest)));
    buffer_append_string(target, query);
}

/* "a" of "/tmp/a". */
static const char *last_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

/*
 * Where a copy comes to lie, as of cp(1): in a folder that is there, under its own name.  "a/."
 * means what is in the folder "a", which has no name.
 */
static char *place_of_copy(const char *to, bool is_into, const char *from)
{
    MEMORY_OWNED char *plain = memory_copy_string(from);
    for (size_t end = strlen(plain); end > 1 && plain[end - 1] == '/'; end--) {
        plain[end - 1] = '\0';
    }
    const char *name = last_of(plain);
    bool has_name = name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
    const char *slash = text_ends_with(to, "/") ? "" : "/";
    return is_into && has_name ? memory_format("%s%s%s", to, slash, name) : memory_copy_string(to);
}

static bool is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static char *temporary(const char *beside, int *ret_fd, struct error *err)
{
    char *path = memory_format("%s.blixard-XXXXXX", beside);
    *ret_fd = mkostemp(path, O_CLOEXEC);
    if (*ret_fd < 0) {
        error_os(err, errno, "making a file beside %s", beside);
        free(path);
        return NULL;
    }
    interrupt_removes(path);
    return path;
}

static void remove_temporary(const char *path)
{
    unlink(path);
    interrupt_keeps(path);
}

/* ---- In ---- */

static int put_file(const char *from, const struct place *to, struct error *err)
{
    struct stat status;
    char query[32];
    BUFFER_OWNED struct buffer target = {0};
    if (stat(from, &status) < 0) {
        return errno == ENOENT ? error_set(err, ERROR_NOT_FOUND, "%s does not exist", from)
                               : error_os(err, errno, "%s", from);
    }
    if (S_ISDIR(status.st_mode)) {
        return error_set(err, ERROR_INVALID, "%s is a folder: say --recursive", from);
    }
    MEMORY_OWNED char *place = place_of_copy(to->path, text_ends_with(to->path, "/"), from);
    snprintf(query, sizeof(query), "?mode=%04o", status.st_mode & 07777);
    add_target(&target, to->name, place, query);
    return duplex_upload("PUT", buffer_string(&target), from, NULL, err);
}

/* A pipe has no length, which the request tells first: its bytes become a file. */
static int put_input(const struct place *to, struct error *err)
{
    char piece[16384];
    ssize_t got = 0;
    FD_OWNED int fd = -1;
    BUFFER_OWNED struct buffer target = {0};
    if (text_ends_with(to->path, "/")) {
        return error_set(err, ERROR_INVALID,
                         "standard input has no name: say which file %s:%s is to get", to->name,
                         to->path);
    }
    MEMORY_OWNED char *path = temporary("/tmp/vm-cp", &fd, err);
    if (path == NULL) {
        return -(int)err->kind;
    }
    int r = 0;
    while (r == 0 && (got = read(STDIN_FILENO, piece, sizeof(piece))) > 0) {
        r = file_write_all(fd, piece, (size_t)got) < 0 ? error_os(err, errno, "writing %s", path)
                                                       : 0;
    }
    if (got < 0) {
        r = error_os(err, errno, "reading standard input");
    }
    add_target(&target, to->name, to->path, "?mode=0644");
    r = r < 0 ? r : duplex_upload("PUT", buffer_string(&target), path, NULL, err);
    remove_temporary(path);
    return r;
}

static int put_folder(const char *from, const struct place *to, struct error *err)
{
    FD_OWNED int fd = -1;
    MEMORY_OWNED char *archive = temporary("/tmp/vm-cp", &fd, err);
    BUFFER_OWNED struct buffer target = {0};
    if (archive == NULL) {
        return -(int)err->kind;
    }
    MEMORY_OWNED char *place = place_of_copy(to->path, text_ends_with(to->path, "/"), from);
    add_target(&target, to->name, place, "?tar=true");
    int r = rootfs_archive(from, fd, err);
    r = r < 0 ? r : duplex_upload("PUT", buffer_string(&target), archive, NULL, err);
    remove_temporary(archive);
    return r;
}

/* ---- Out ---- */

static int get_bytes(const struct place *from, const char *query, int fd, const char *name,
                     struct error *err)
{
    BUFFER_OWNED struct buffer target = {0};
    add_target(&target, from->name, from->path, query);
    return download_to(buffer_string(&target), fd, name, NULL, err);
}

static int get_file(const struct place *from, const char *to, struct error *err)
{
    FD_OWNED int fd = -1;
    MEMORY_OWNED char *path = place_of_copy(to, is_folder(to), from->path);
    MEMORY_OWNED char *beside = temporary(path, &fd, err);
    if (beside == NULL) {
        return -(int)err->kind;
    }
    int r = get_bytes(from, "", fd, path, err);
    if (r == 0 && (fchmod(fd, 0644) < 0 || rename(beside, path) < 0)) {
        r = error_os(err, errno, "writing %s", path);
    }
    if (r < 0) {
        remove_temporary(beside);
    }
    interrupt_keeps(beside);
    return r;
}

/* The archive's names begin with the folder's own ("." of "a/."): to a place that is not there it
 * comes under that place's name. */
static int unpack_as(const char *archive, const struct place *from, const char *to,
                     struct error *err)
{
    MEMORY_OWNED char *beside = memory_format("%s.blixard-XXXXXX", to);
    struct error ignored = {0};
    if (mkdtemp(beside) == NULL) {
        return error_os(err, errno, "making a folder beside %s", to);
    }
    interrupt_removes(beside);
    MEMORY_OWNED char *folder = place_of_copy(beside, true, from->path);
    int r = rootfs_unpack(archive, beside, false, err);
    if (r == 0 && rename(folder, to) < 0) {
        r = error_os(err, errno, "writing %s", to);
    }
    file_remove_tree(beside, &ignored);
    interrupt_keeps(beside);
    return r;
}

static int get_folder(const struct place *from, const char *to, struct error *err)
{
    FD_OWNED int fd = -1;
    MEMORY_OWNED char *archive = temporary("/tmp/vm-cp", &fd, err);
    if (archive == NULL) {
        return -(int)err->kind;
    }
    int r = get_bytes(from, "?tar=true", fd, archive, err);
    if (r == 0 && !is_folder(to)) {
        r = unpack_as(archive, from, to, err);
    } else if (r == 0) {
        r = rootfs_unpack(archive, to, false, err);
        r = r < 0 ? error_wrap(err, "%s may have a part of it, which stays", to) : 0;
    }
    remove_temporary(archive);
    return r;
}

int verb_vm_cp(const struct arguments *arguments, struct error *err)
{
    struct place from = place_of(arguments->words[0]);
    struct place to = place_of(arguments->words[1]);
    MEMORY_OWNED char *from_name = from.name;
    MEMORY_OWNED char *to_name = to.name;
    bool is_deep = flag_value(arguments, "recursive") != NULL;
    const char *here = from_name == NULL ? from.path : to.path;
    bool is_stream = strcmp(here, "-") == 0;
    int r = 0;
    if ((from_name == NULL) == (to_name == NULL)) {
        return error_set(
            err, ERROR_INVALID,
            "one of both is in a machine: NAME:PATH, as in `vm cp file web:/srv/file`");
    }
    if ((to_name != NULL ? to.path : from.path)[0] == '\0') {
        return error_set(err, ERROR_INVALID, "where in the machine? NAME:PATH, as in web:/srv/");
    }
    if (is_stream && is_deep) {
        return error_set(err, ERROR_INVALID, "- is one file: --recursive is for folders");
    }
    if (is_stream && to_name == NULL) { /* nothing but the file goes there */
        return get_bytes(&from, "", STDOUT_FILENO, "standard output", err);
    }
    if (is_stream) {
        r = put_input(&to, err);
    } else if (to_name != NULL) {
        r = is_deep ? put_folder(from.path, &to, err) : put_file(from.path, &to, err);
    } else {
        r = is_deep ? get_folder(&from, to.path, err) : get_file(&from, to.path, err);
    }
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document =
        json_pack("{s:s, s:s}", "from", arguments->words[0], "to", arguments->words[1]);
    return print_done(arguments, document, err, "copied %s to %s", arguments->words[0],
                      arguments->words[1]);
}
