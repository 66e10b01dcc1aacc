/* Who asks a registry for an image: a name and a password from standard input, or a file of logins
 * (engine/image/login.c). */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

#include "engine/image/oci.h"

#include "surface/cli/image.h"
#include "surface/cli/private.h"

enum { PASSWORD_BYTES_MAX = 64 << 10, FILE_BYTES_MAX = 1 << 20 };

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

static int read_file(const char *path, const char *registry, char **ret_username,
                     struct buffer *ret_password, struct error *err)
{
    BUFFER_WIPED struct buffer text = {0};
    int r = file_read(path, FILE_BYTES_MAX, &text, err);
    r = r < 0 ? r : oci_read_login(text.data, text.used, registry, ret_username, ret_password, err);
    return r < 0 ? error_wrap(err, "--auth-file %.200s", path) : 0;
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
