/*
 * Contexts: which cluster to talk to, and as whom.  In $XDG_CONFIG_HOME/blixard
 * (~/.config/blixard):
 *
 *   current                      name of the context in use; not there: the node on this machine
 *   contexts/NAME/context.json   cluster, cluster_name, authority (fingerprint), client, addresses
 *   contexts/NAME/ca.pem         the authority's certificate, client.pem and client.key: after a
 *                                login with a certificate
 *   contexts/NAME/token          after a login with a bearer token
 *
 * Folders 0700, files 0600.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/cluster/token.h"

#include "surface/cli/private.h"

enum { FILE_MAX = 65536 };

/* ---- Where ---- */

/* NULL: there is no home. */
static char *base_folder(void)
{
    const char *config = getenv("XDG_CONFIG_HOME");
    const char *home = getenv("HOME");
    if (config != NULL && config[0] == '/') {
        return memory_format("%s/blixard", config);
    }
    return home != NULL && home[0] == '/' ? memory_format("%s/.config/blixard", home) : NULL;
}

static int path_of(const char *rest, char **ret_path, struct error *err)
{
    MEMORY_OWNED char *base = base_folder();
    if (base == NULL) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no place for contexts: neither HOME nor XDG_CONFIG_HOME is set");
    }
    *ret_path = memory_format("%s/%s", base, rest);
    return 0;
}

static int folder_of(const char *name, char **ret_path, struct error *err)
{
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID, "\"%.64s\" is no name of a context: a-z, 0-9 and '-'",
                         name);
    }
    MEMORY_OWNED char *rest = memory_format("contexts/%s", name);
    return path_of(rest, ret_path, err);
}

/* ---- Reading ---- */

void context_done(struct context *context)
{
    free(context->name);
    free(context->cluster);
    free(context->cluster_name);
    free(context->fingerprint);
    free(context->client);
    json_decref(context->addresses);
    free(context->authority);
    free(context->certificate);
    free(context->key);
    free(context->token);
    *context = (struct context){0};
}

/* NULL in *ret_text when the file is not there. */
static int read_part(const char *folder, const char *file, char **ret_text, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, file);
    BUFFER_OWNED struct buffer text = {0};
    struct error problem = {0};
    int r = file_read(path, FILE_MAX, &text, &problem);
    if (r == -ERROR_NOT_FOUND) {
        return 0;
    }
    if (r < 0) {
        *err = problem;
        return r;
    }
    buffer_string(&text);
    *ret_text = buffer_take(&text);
    return 0;
}

static char *string_in(const json_t *document, const char *key)
{
    const char *text = json_string_value(json_object_get(document, key));
    return memory_copy_string(text != NULL ? text : "");
}

static int read_facts(const char *text, struct context *context, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    int r = json_read(text, strlen(text), &document, err);
    if (r < 0) {
        return r;
    }
    context->cluster = string_in(document, "cluster");
    context->cluster_name = string_in(document, "cluster_name");
    context->fingerprint = string_in(document, "authority");
    context->client = string_in(document, "client");
    context->addresses = json_incref(json_object_get(document, "addresses"));
    if (json_array_size(context->addresses) == 0) {
        return error_set(err, ERROR_CORRUPT, "it has no addresses");
    }
    return 0;
}

static int read_parts(const char *folder, struct context *context, struct error *err)
{
    static const char facts[] = "context.json";
    MEMORY_OWNED char *text = NULL;
    int r = read_part(folder, facts, &text, err);
    if (r == 0 && text == NULL) {
        return error_set(err, ERROR_CORRUPT, "%s is missing", facts);
    }
    r = r < 0 ? r : read_facts(text, context, err);
    r = r < 0 ? r : read_part(folder, "ca.pem", &context->authority, err);
    r = r < 0 ? r : read_part(folder, "client.pem", &context->certificate, err);
    r = r < 0 ? r : read_part(folder, "client.key", &context->key, err);
    return r < 0 ? r : read_part(folder, "token", &context->token, err);
}

int context_read(const char *name, struct context *ret_context, struct error *err)
{
    MEMORY_OWNED char *folder = NULL;
    struct context context = {0};
    int r = folder_of(name, &folder, err);
    if (r < 0) {
        return r;
    }
    if (!file_exists(folder)) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no context %s: blixard context list shows which there are, "
                         "blixard login makes one",
                         name);
    }
    r = read_parts(folder, &context, err);
    if (r < 0) {
        context_done(&context);
        return error_wrap(err, "context %s (%s)", name, folder);
    }
    context.name = memory_copy_string(name);
    *ret_context = context;
    return 0;
}

/* ---- Writing ---- */

static int write_part(const char *folder, const char *file, const char *text, struct error *err)
{
    if (text == NULL) {
        return 0;
    }
    MEMORY_OWNED char *path = memory_format("%s/%s", folder, file);
    return file_write(path, text, strlen(text), 0600, err);
}

static int write_facts(const char *folder, const struct context *context, struct error *err)
{
    JSON_OWNED json_t *document =
        json_pack("{s:s, s:s, s:s, s:s, s:O}", "cluster", context->cluster, "cluster_name",
                  context->cluster_name, "authority", context->fingerprint, "client",
                  context->client, "addresses", context->addresses);
    char *text = document != NULL ? json_dumps(document, JSON_INDENT(2)) : NULL;
    if (text == NULL) {
        return error_set(err, ERROR_INVALID, "the facts of the context are no UTF-8");
    }
    int r = write_part(folder, "context.json", text, err);
    free(text);
    return r;
}

static int write_parts(const char *folder, const struct context *context, struct error *err)
{
    int r = write_facts(folder, context, err);
    r = r < 0 ? r : write_part(folder, "ca.pem", context->authority, err);
    r = r < 0 ? r : write_part(folder, "client.pem", context->certificate, err);
    r = r < 0 ? r : write_part(folder, "client.key", context->key, err);
    return r < 0 ? r : write_part(folder, "token", context->token, err);
}

/* Beside it first: a context is whole or not there. */
int context_write(const struct context *context, struct error *err)
{
    MEMORY_OWNED char *folder = NULL;
    int r = folder_of(context->name, &folder, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *fresh = memory_format("%s.new", folder);
    r = file_remove_tree(fresh, err);
    r = r < 0 ? r : file_make_folder(fresh, 0700, err);
    r = r < 0 ? r : write_parts(fresh, context, err);
    r = r < 0 ? r : file_remove_tree(folder, err);
    if (r == 0 && rename(fresh, folder) < 0) {
        r = error_os(err, errno, "making %s", folder);
    }
    if (r < 0) {
        struct error ignored = {0};
        file_remove_tree(fresh, &ignored);
    }
    return r;
}

static const char *address_of(const json_t *node)
{
    const char *address = json_string_value(json_object_get(node, "address"));
    return address != NULL && cluster_token_is_address(address) ? address : NULL;
}

static bool is_in(const json_t *addresses, const char *address)
{
    size_t index = 0;
    json_t *other = NULL;
    json_array_foreach(addresses, index, other)
    {
        if (json_is_string(other) && strcmp(json_string_value(other), address) == 0) {
            return true;
        }
    }
    return false;
}

/* The addresses of nodes, those that are known or those that are not. */
static void pick(json_t *out, const json_t *nodes, const json_t *known, bool is_known)
{
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(nodes, index, node)
    {
        const char *address = address_of(node);
        if (address != NULL && is_in(known, address) == is_known && !is_in(out, address) &&
            json_array_size(out) < TARGET_ADDRESSES_MAX) {
            json_array_append_new(out, json_string(address));
        }
    }
}

static void change_addresses(struct context *context, json_t *owned_addresses)
{
    struct error ignored = {0};
    MEMORY_OWNED char *folder = NULL;
    json_decref(context->addresses);
    context->addresses = owned_addresses;
    if (folder_of(context->name, &folder, &ignored) == 0) {
        write_facts(folder, context, &ignored);
    }
}

void context_learn(const char *name, const json_t *nodes)
{
    CONTEXT_OWNED struct context context = {0};
    struct error ignored = {0};
    if (context_read(name, &context, &ignored) < 0) {
        return;
    }
    json_t *addresses = json_array();
    pick(addresses, nodes, context.addresses, true);
    pick(addresses, nodes, context.addresses, false);
    if (json_array_size(addresses) == 0 || json_equal(addresses, context.addresses)) {
        json_decref(addresses);
        return;
    }
    change_addresses(&context, addresses);
}

void context_prefer(const char *name, const char *address)
{
    CONTEXT_OWNED struct context context = {0};
    struct error ignored = {0};
    if (context_read(name, &context, &ignored) < 0 || !is_in(context.addresses, address)) {
        return;
    }
    json_t *addresses = json_array();
    size_t index = 0;
    json_t *other = NULL;
    json_array_append_new(addresses, json_string(address));
    json_array_foreach(context.addresses, index, other)
    {
        if (!json_equal(other, json_array_get(addresses, 0))) {
            json_array_append(addresses, other);
        }
    }
    change_addresses(&context, addresses);
}

int context_remove(const char *name, struct error *err)
{
    struct context context = {0};
    MEMORY_OWNED char *folder = NULL;
    MEMORY_OWNED char *current = context_current();
    int r = folder_of(name, &folder, err);
    if (r == 0 && !file_exists(folder)) {
        r = context_read(name, &context, err); /* says so */
        context_done(&context);
    }
    if (r == 0 && current != NULL && strcmp(current, name) == 0) {
        r = context_use(NULL, err);
    }
    return r < 0 ? r : file_remove_tree(folder, err);
}

/* ---- The one in use ---- */

char *context_current(void)
{
    MEMORY_OWNED char *path = NULL;
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    if (path_of("current", &path, &ignored) < 0 || file_read(path, FILE_MAX, &text, &ignored) < 0) {
        return NULL;
    }
    struct text name = text_of((const char *)text.data, text.used);
    while (name.length > 0 && name.data[name.length - 1] == '\n') {
        name.length--;
    }
    return name.length > 0 ? memory_copy_text(name.data, name.length) : NULL;
}

int context_use(const char *name_or_null, struct error *err)
{
    MEMORY_OWNED char *path = NULL;
    int r = path_of("current", &path, err);
    if (r < 0) {
        return r;
    }
    if (name_or_null == NULL) {
        return unlink(path) == 0 || errno == ENOENT ? 0 : error_os(err, errno, "removing %s", path);
    }
    MEMORY_OWNED char *line = memory_format("%s\n", name_or_null);
    return file_write(path, line, strlen(line), 0600, err);
}

/* ---- All of them ---- */

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static json_t *names_in(DIR *folder)
{
    char *names[CONTEXTS_MAX] = {0};
    size_t count = 0;
    for (struct dirent *entry = readdir(folder); entry != NULL && count < CONTEXTS_MAX;
         entry = readdir(folder)) {
        if (text_is_name(entry->d_name)) {
            names[count++] = memory_copy_string(entry->d_name);
        }
    }
    qsort(names, count, sizeof(names[0]), compare);
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        json_array_append_new(list, json_string(names[i]));
        free(names[i]);
    }
    return list;
}

int context_names(json_t **ret_names, struct error *err)
{
    MEMORY_OWNED char *path = NULL;
    int r = path_of("contexts", &path, err);
    if (r < 0) {
        return r;
    }
    DIR *folder = opendir(path);
    if (folder == NULL && errno != ENOENT) {
        return error_os(err, errno, "reading %s", path);
    }
    *ret_names = folder != NULL ? names_in(folder) : json_array();
    if (folder != NULL) {
        closedir(folder);
    }
    return 0;
}
