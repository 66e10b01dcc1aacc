/*
 * Logins of registries, as `docker login`, `podman login` and `skopeo login` write them:
 *
 *   {"auths": {"registry.example.com": {"auth": BASE64 OF "USER:PASSWORD"}}}
 *
 * (containers-auth.json(5).)  The hub is called https://index.docker.io/v1/ or docker.io there.
 */
#include <string.h>

#include "base/base64.h"
#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/image/oci.h"

#define HUB "registry-1.docker.io"

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
static int take_login(const char *text, char **ret_username, struct buffer *ret_password,
                      struct error *err)
{
    BUFFER_WIPED struct buffer plain = {0};
    buffer_reserve(&plain, strlen(text) + 1);
    bool is_good = base64_read(text, strlen(text), &plain);
    const char *colon = is_good ? memchr(plain.data, ':', plain.used) : NULL;
    if (colon == NULL || memchr(plain.data, '\0', plain.used) != NULL) {
        return error_set(err, ERROR_INVALID, "\"auth\" is no USER:PASSWORD");
    }
    size_t length = (size_t)(colon - (const char *)plain.data);
    *ret_username = memory_copy_text((const char *)plain.data, length);
    buffer_reserve(ret_password, plain.used);
    buffer_append(ret_password, colon + 1, plain.used - length - 1);
    return 0;
}

int oci_read_login(const void *text, size_t length, const char *registry, char **ret_username,
                   struct buffer *ret_password, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    if (json_read(text, length, &document, err) < 0) {
        return error_set(err, ERROR_INVALID,
                         "it is no JSON as `skopeo login --authfile FILE` writes it");
    }
    const char *auth = json_text(find_login(document, registry), "auth");
    if (auth[0] == '\0') {
        return error_set(err, ERROR_NOT_FOUND,
                         "it has no password for %.200s: make one with `skopeo login --authfile "
                         "FILE` (what a credential helper keeps is not read)",
                         registry);
    }
    return take_login(auth, ret_username, ret_password, err);
}
