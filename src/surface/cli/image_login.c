/*
 * Who asks a registry for an image: a name and a password from standard input, or the file that
 * `docker login`, `podman login` and `skopeo login` write:
 *
 *   {"auths": {"registry.example.com": {"auth": BASE64 OF "USER:PASSWORD"}}}
 *
 * (containers-auth.json(5).)  The hub is called https://index.docker.io/v1/ or docker.io there.
 */
#include <stdio.h>
#include <string.h>

#include "base/base64.h"
#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/image/oci.h"

#include "surface/cli/image.h"
#include "surface/cli/private.h"

enum { PASSWORD_BYTES_MAX = 64 << 10, FILE_BYTES_MAX = 1 << 20 };

#define HUB "registry-1.docker.io"

static int read_input(struct buffer *ret_password, struct error *err)
{
    buffer_reserve(ret_password, PASSWORD_BYTES_MAX + 1);
    size_t got = fread(ret_password->data, 1, PASSWORD_BYTES_MAX, stdin);
    while (got > 0 &&
           (ret_password->data[got - 1] == '\n' || ret_password->data[got - 1] == '\r')) {
        got--;
    }
    ret_password->used = got;
    return got > 0 ? 0 : error_set(err, ERROR_INVALID, "there is no password on standard input");
}

static const json_t *find_login(const json_t *document, const char *registry)
{
    static const char *const hubs[] = {"https://index.docker.io/v1/", "docker.io", HUB};
    const json_t *logins = json_object_get(document, "auths");
    const json_t *login = json_object_get(logins, registry);
    for (size_t i = 0; login == NULL && strcmp(registry, HUB) == 0 && i < 3; i++) {
        login = json_object_get(logins, hubs[i]);
    }
    return login;
}

/* "USER:PASSWORD" */
static int take_login(const char *text, const char *path, char **ret_username,
                      struct buffer *ret_password, struct error *err)
{
    BUFFER_WIPED struct buffer plain = {0};
    buffer_reserve(&plain, strlen(text) + 1);
    bool is_good = base64_read(text, strlen(text), &plain);
    const char *colon = is_good ? memchr(plain.data, ':', plain.used) : NULL;
    if (colon == NULL || memchr(plain.data, '\0', plain.used) != NULL) {
        return error_set(err, ERROR_INVALID, "--auth-file %.200s: \"auth\" is no USER:PASSWORD",
                         path);
    }
    size_t length = (size_t)(colon - (const char *)plain.data);
    *ret_username = memory_copy_text((const char *)plain.data, length);
    buffer_reserve(ret_password, plain.used);
    buffer_append(ret_password, colon + 1, plain.used - length - 1);
    return 0;
}

static int read_file(const char *path, const char *registry, char **ret_username,
                     struct buffer *ret_password, struct error *err)
{
    BUFFER_WIPED struct buffer text = {0};
    JSON_OWNED json_t *document = NULL;
    int r = file_read(path, FILE_BYTES_MAX, &text, err);
    r = r < 0 ? r : json_read(text.data, text.used, &document, err);
    if (r < 0) {
        return error_wrap(err, "--auth-file %.200s", path);
    }
    const json_t *login = find_login(document, registry);
    const char *auth = json_text(login, "auth");
    if (auth[0] == '\0') {
        return error_set(err, ERROR_NOT_FOUND,
                         "--auth-file %.200s has no password for %.200s: make one with `skopeo "
                         "login --authfile FILE` (what a credential helper keeps is not read)",
                         path, registry);
    }
    return take_login(auth, path, ret_username, ret_password, err);
}

int image_read_login(const struct arguments *arguments, const char *registry, char **ret_username,
                     struct buffer *ret_password, struct error *err)
{
    const char *name = flag_value(arguments, "username");
    const char *path = flag_value(arguments, "auth-file");
    bool has_password = flag_value(arguments, "password-stdin") != NULL;
    if ((name != NULL) != has_password) {
        return error_set(err, ERROR_INVALID, "--username and --password-stdin go together");
    }
    if (name != NULL && path != NULL) {
        return error_set(err, ERROR_INVALID, "--auth-file or --username, not both");
    }
    if (path != NULL) {
        return read_file(path, registry, ret_username, ret_password, err);
    }
    if (name == NULL) {
        return 0;
    }
    *ret_username = memory_copy_string(name);
    return read_input(ret_password, err);
}
