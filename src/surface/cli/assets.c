/*
 * A project's `assets`: which files they are, and into the module with them.
 *
 *     assets: [public, "templates/about.html"]     at the same paths in the function
 *     assets: { /www: public }                   at others
 *
 * A folder stands for all that is in it, `*` for names.  Symbolic links are followed inside the
 * project only.
 */
#include "engine/wasm/assets.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

enum { ASSET_BYTES_MAX = 64 << 20, MODULE_BYTES_MAX = 64 << 20, DEPTH_MAX = 32 };

struct packing {
    const struct project *project;
    struct wasm_assets *assets;
};

/* What a path leads to must lie in the project: a link out of it would carry anything along. */
static int check_inside(const struct packing *packing, const char *path, struct error *err)
{
    MEMORY_OWNED char *real = realpath(path, NULL);
    size_t length = strlen(packing->project->folder);
    if (real == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "the asset %s does not exist", path);
    }
    bool is_inside = strncmp(real, packing->project->folder, length) == 0 &&
        (real[length] == '/' || real[length] == '\0');
    return is_inside
        ? 0
        : error_set(err, ERROR_INVALID, "the asset %s leads to %s, which is not inside the project",
                    path, real);
}

static int add_file(struct packing *packing, const char *path, const char *guest_path,
                    struct error *err)
{
    BUFFER_OWNED struct buffer content = {0};
    int r = file_read(path, ASSET_BYTES_MAX, &content, err);
    return r < 0 ? r
                 : wasm_assets_add(packing->assets, guest_path, content.data, content.used, err);
}

static int add_path(struct packing *packing, const char *path, const char *guest_path,
                    unsigned depth, struct error *err);

static int add_folder(struct packing *packing, const char *path, const char *guest_path,
                      unsigned depth, struct error *err)
{
    DIR *folder = opendir(path);
    int r = 0;
    if (folder == NULL) {
        return error_os(err, errno, "reading %s", path);
    }
    if (depth == DEPTH_MAX) {
        r = error_set(err, ERROR_LIMIT, "%s lies deeper than %d folders", path, DEPTH_MAX);
    }
    for (struct dirent *entry = readdir(folder); entry != NULL && r == 0; entry = readdir(folder)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        MEMORY_OWNED char *below = memory_format("%s/%s", path, entry->d_name);
        MEMORY_OWNED char *guest_below = memory_format("%s/%s", guest_path, entry->d_name);
        r = add_path(packing, below, guest_below, depth + 1, err);
    }
    closedir(folder);
    return r;
}

static int add_path(struct packing *packing, const char *path, const char *guest_path,
                    unsigned depth, struct error *err)
{
    struct stat status;
    MEMORY_OWNED char *built = memory_format("%s/build", packing->project->folder);
    if (strcmp(path, built) == 0) {
        return 0; /* the module that is being made, of a project that is an asset as a whole */
    }
    int r = check_inside(packing, path, err);
    if (r < 0) {
        return r;
    }
    if (stat(path, &status) < 0) {
        return error_os(err, errno, "examining the asset %s", path);
    }
    if (S_ISDIR(status.st_mode)) {
        return add_folder(packing, path, guest_path, depth, err);
    }
    return S_ISREG(status.st_mode)
        ? add_file(packing, path, guest_path, err)
        : error_set(err, ERROR_INVALID, "the asset %s is neither a file nor a folder", path);
}

/* Without "./" before it and "/" behind it. */
static char *trimmed(const char *path)
{
    while (text_starts_with(path, "./")) {
        path += 2;
    }
    size_t length = strlen(path);
    while (length > 0 && path[length - 1] == '/') {
        length--;
    }
    return memory_copy_text(path, length);
}

/* A path or pattern, at `guest_path`, or (NULL) where it is in the project. */
static int add_pattern(struct packing *packing, const char *pattern, const char *guest_path,
                       struct error *err)
{
    const char *folder = packing->project->folder;
    MEMORY_OWNED char *relative = trimmed(pattern);
    bool is_whole = strcmp(relative, ".") == 0;
    if (!project_has_inside(relative) && !is_whole) {
        return error_set(err, ERROR_INVALID, "assets: \"%.100s\" is not inside the project",
                         pattern);
    }
    MEMORY_OWNED char *path =
        is_whole ? memory_copy_string(folder) : memory_format("%s/%s", folder, relative);
    if (guest_path != NULL) {
        MEMORY_OWNED char *guest = trimmed(guest_path);
        return add_path(packing, path, guest, 0, err);
    }
    glob_t found = {0};
    int r = 0;
    if (glob(path, GLOB_NOSORT, NULL, &found) != 0) {
        r = error_set(err, ERROR_NOT_FOUND, "assets: nothing in %s is named \"%.100s\"", folder,
                      pattern);
    }
    for (size_t i = 0; i < found.gl_pathc && r == 0; i++) {
        r = add_path(packing, found.gl_pathv[i], found.gl_pathv[i] + strlen(folder), 0, err);
    }
    globfree(&found);
    return r;
}

/* ---- Scripts ---- */

static bool is_script(const char *name)
{
    return text_ends_with(name, ".js") || text_ends_with(name, ".mjs") ||
        text_ends_with(name, ".json");
}

static bool is_left_out(const char *name)
{
    static const char *const names[] = {"node_modules", "build", "package.json",
                                        "package-lock.json"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return name[0] == '.';
}

/* The scripts below a folder, at their paths from it. */
static int add_scripts(struct packing *packing, const char *path, const char *guest_path,
                       unsigned depth, struct error *err)
{
    DIR *folder = opendir(path);
    int r = 0;
    if (folder == NULL) {
        return error_os(err, errno, "reading %s", path);
    }
    if (depth == DEPTH_MAX) {
        r = error_set(err, ERROR_LIMIT, "%s lies deeper than %d folders", path, DEPTH_MAX);
    }
    for (struct dirent *entry = readdir(folder); entry != NULL && r == 0; entry = readdir(folder)) {
        struct stat status;
        MEMORY_OWNED char *below = memory_format("%s/%s", path, entry->d_name);
        MEMORY_OWNED char *guest_below = memory_format("%s/%s", guest_path, entry->d_name);
        if (is_left_out(entry->d_name) || stat(below, &status) < 0 ||
            strcmp(guest_below, "/main.js") == 0) {
            continue;
        }
        if (S_ISDIR(status.st_mode)) {
            r = add_scripts(packing, below, guest_below, depth + 1, err);
        } else if (is_script(entry->d_name)) {
            r = add_path(packing, below, guest_below, 0, err);
        }
    }
    closedir(folder);
    return r;
}

/* Of a project in JavaScript: its source is /main.js, and what that may import lies around it. */
static int add_program(struct packing *packing, struct error *err)
{
    const struct project *project = packing->project;
    MEMORY_OWNED char *main_path = memory_format(
        "%s/%s", project->folder, project->source != NULL ? project->source : "main.js");
    MEMORY_OWNED char *folder =
        memory_copy_text(main_path, (size_t)(strrchr(main_path, '/') - main_path));
    int r = add_path(packing, main_path, "/main.js", 0, err);
    return r < 0 ? r : add_scripts(packing, folder, "", 0, err);
}

static int add_all(struct packing *packing, struct error *err)
{
    const json_t *list = packing->project->assets;
    const char *guest_path = NULL;
    json_t *member = NULL;
    size_t i = 0;
    int r = strcmp(packing->project->language, "javascript") == 0 ? add_program(packing, err) : 0;
    json_array_foreach(list, i, member)
    {
        r = r < 0 ? r : add_pattern(packing, json_string_value(member), NULL, err);
    }
    json_object_foreach((json_t *)(uintptr_t)list, guest_path, member)
    {
        r = r < 0 ? r : add_pattern(packing, json_string_value(member), guest_path, err);
    }
    return r;
}

int project_add_assets(const struct project *project, const char *module, struct error *err)
{
    struct packing packing = {.project = project};
    BUFFER_OWNED struct buffer before = {0};
    BUFFER_OWNED struct buffer after = {0};
    if (project->assets == NULL && strcmp(project->language, "javascript") != 0) {
        return 0;
    }
    packing.assets = wasm_assets_new();
    int r = add_all(&packing, err);
    if (r == 0) {
        r = file_read(module, MODULE_BYTES_MAX, &before, err);
    }
    if (r == 0) {
        r = wasm_assets_attach(packing.assets, before.data, before.used, &after, err);
    }
    if (r == 0) {
        r = file_write(module, after.data, after.used, 0644, err);
    }
    wasm_assets_free(packing.assets);
    return r;
}
