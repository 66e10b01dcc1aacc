/*
 * Folders of the host in machines: HOST-FOLDER:GUEST-PATH[:ro].
 *
 * Only folders that the node's administrator has named (machine_share_folders), and what is below
 * them, by their real paths: a link that somebody puts into a shared folder leads nowhere.  They
 * are looked at when a machine is made and whenever it is started.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/machine/parts.h"

enum { GUEST_PATH_MAX = 120 };

/* ---- A share ---- */

struct share {
    char *host;
    char *guest;
    bool read_only;
};

static void share_done(struct share *share)
{
    free(share->host);
    free(share->guest);
}

/* It becomes a word of the kernel's command line. */
static bool is_guest_path(const char *path)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-";
    size_t length = strlen(path);
    return path[0] == '/' && length > 1 && length <= GUEST_PATH_MAX &&
        strspn(path, letters) == length && strstr(path, "..") == NULL;
}

static int parse(const char *text, struct share *ret_share, struct error *err)
{
    size_t length = strlen(text);
    bool read_only = text_ends_with(text, ":ro");
    length -= read_only ? 3 : 0;
    const char *colon = memrchr(text, ':', length);
    *ret_share = (struct share){.read_only = read_only};
    if (colon != NULL) {
        ret_share->host = memory_copy_text(text, (size_t)(colon - text));
        ret_share->guest = memory_copy_text(colon + 1, length - (size_t)(colon + 1 - text));
        if (ret_share->host[0] == '/' && is_guest_path(ret_share->guest)) {
            return 0;
        }
    }
    return error_set(err, ERROR_INVALID,
                     "share \"%.100s\" is not HOST-FOLDER:GUEST-PATH[:ro], both absolute, the "
                     "latter of at most %d letters, digits, '/', '.', '_' and '-'",
                     text, GUEST_PATH_MAX);
}

/* "/srv" has "/srv" and "/srv/a", not "/srv2". */
static bool is_within(struct text folder, const char *path)
{
    while (folder.length > 1 && folder.data[folder.length - 1] == '/') {
        folder.length--;
    }
    return folder.length > 0 && folder.data[0] == '/' &&
        strncmp(path, folder.data, folder.length) == 0 &&
        (path[folder.length] == '\0' || path[folder.length] == '/' || folder.length == 1);
}

bool shares_are_allowed(const char *folders, const char *path)
{
    for (const char *at = folders; *at != '\0'; at += strspn(at, ",")) {
        size_t length = strcspn(at, ",");
        if (is_within(text_trim(text_of(at, length)), path)) {
            return true;
        }
        at += length;
    }
    return false;
}

/* Its host's path becomes the real one. */
static int check(const char *folders, struct share *share, struct error *err)
{
    struct stat status;
    char *real = realpath(share->host, NULL);
    if (real == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "share: this node has no folder %.200s",
                         share->host);
    }
    free(share->host);
    share->host = real;
    if (!shares_are_allowed(folders, real)) {
        return error_set(err, ERROR_DENIED,
                         "share: %.200s is not below a folder that this node shares "
                         "(machine_share_folders: %.100s)",
                         real, folders[0] != '\0' ? folders : "none");
    }
    if (stat(real, &status) < 0 || !S_ISDIR(status.st_mode)) {
        return error_set(err, ERROR_INVALID, "share: %.200s is no folder", real);
    }
    return 0;
}

/* ---- For the rest of the room ---- */

const char *shares_folders(const struct machine_service *service)
{
    return service->options.share_folders != NULL ? service->options.share_folders : "";
}

int shares_complete(const char *folders, json_t *config, struct error *err)
{
    json_t *list = json_object_get(config, "shares");
    if (json_array_size(list) > HYPERVISOR_SHARES_MAX) {
        return error_set(err, ERROR_INVALID, "shares: at most %d", HYPERVISOR_SHARES_MAX);
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct share share = {0};
        const char *text = json_string_value(json_array_get(list, i));
        int r = parse(text != NULL ? text : "", &share, err);
        r = r < 0 ? r : check(folders, &share, err);
        if (r == 0) {
            MEMORY_OWNED char *real =
                memory_format("%s:%s%s", share.host, share.guest, share.read_only ? ":ro" : "");
            json_t *value = json_string(real);
            r = value != NULL && json_array_set_new(list, i, value) == 0
                ? 0
                : error_set(err, ERROR_INVALID, "share: a path is no UTF-8");
        }
        share_done(&share);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

/* The word for the agent: blixard.shares=share0:/srv:ro,share1:/data */
int shares_describe(const struct machine *machine, struct shares *ret_shares, struct error *err)
{
    const json_t *list = json_object_get(machine->config, "shares");
    BUFFER_OWNED struct buffer word = {0};
    *ret_shares = (struct shares){0};
    for (size_t i = 0; i < json_array_size(list) && i < HYPERVISOR_SHARES_MAX; i++) {
        struct share share = {0};
        int r = parse(json_string_value(json_array_get(list, i)), &share, err);
        if (r == 0 && !shares_are_allowed(shares_folders(machine->service), share.host)) {
            r = error_set(err, ERROR_DENIED, "share: this node does not share %.200s any more",
                          share.host);
        }
        if (r == 0) {
            snprintf(ret_shares->tags[i], sizeof(ret_shares->tags[i]), "share%zu", i);
            ret_shares->paths[i] = share.host;
            share.host = NULL;
            ret_shares->items[i] = (struct hypervisor_share){ret_shares->paths[i],
                                                             ret_shares->tags[i], share.read_only};
            ret_shares->count++;
            buffer_append_format(&word, "%s%s:%s%s", i == 0 ? "blixard.shares=" : ",",
                                 ret_shares->tags[i], share.guest, share.read_only ? ":ro" : "");
        }
        share_done(&share);
        if (r < 0) {
            shares_done(ret_shares);
            return r;
        }
    }
    ret_shares->word = buffer_take(&word);
    return 0;
}

void shares_done(struct shares *shares)
{
    for (size_t i = 0; i < HYPERVISOR_SHARES_MAX; i++) {
        free(shares->paths[i]);
    }
    free(shares->word);
    *shares = (struct shares){0};
}

int shares_check_here(const struct machine_service *service, const json_t *config,
                      struct error *err)
{
    JSON_OWNED json_t *copy = json_deep_copy(config);
    if (json_array_size(json_object_get(copy, "shares")) == 0 ||
        shares_complete(shares_folders(service), copy, err) == 0) {
        return 0;
    }
    struct error why = *err;
    return error_set(
        err, why.kind,
        "the machine has a folder of its node, and node %s does not: %.240s.  Make the "
        "folder there and name it in machine_share_folders of that node, or choose "
        "another node",
        service->node_name,
        text_starts_with(why.text, "share: ") ? why.text + strlen("share: ") : why.text);
}

int shares_refuse(const json_t *config, const char *what, struct error *err)
{
    const json_t *list = json_object_get(config, "shares");
    const char *first = json_string_value(json_array_get(list, 0));
    return first == NULL
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "a machine with shares (%.200s%s) cannot be %s: what virtiofsd "
                    "knows of a folder of the host is not saved",
                    first, json_array_size(list) > 1 ? " and more" : "", what);
}
