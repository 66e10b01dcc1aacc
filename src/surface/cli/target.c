/* Where requests go, and what they show: flags before environment before the context in use. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/stream/tls.h"
#include "base/text.h"

#include "service/cluster/token.h"

#include "surface/cli/private.h"

static const char default_address[] = "127.0.0.1:7420";

static struct {
    const char *address;
    const char *context;
    const char *token_file;
    const char *project;
} flags;

void target_set_flags(const struct arguments *arguments)
{
    flags.address = flag_value(arguments, "addr");
    flags.context = flag_value(arguments, "context");
    flags.token_file = flag_value(arguments, "token-file");
    flags.project = flag_value(arguments, "project");
}

static const char *from_environment(const char *name)
{
    const char *value = getenv(name);
    return value != NULL && value[0] != '\0' ? value : NULL;
}

char *target_path(const char *path)
{
    BUFFER_OWNED struct buffer text = {0};
    const char *project =
        flags.project != NULL ? flags.project : from_environment("BLIXARD_PROJECT");
    buffer_append_string(&text, path);
    if (text_starts_with(path, "/v1/")) {
        request_add_query(&text, "project", project);
    }
    return buffer_take(&text);
}

/* ---- A token of --token-file or BLIXARD_TOKEN ---- */

struct given_token {
    char *text; /* the secret; NULL: none was given */
    struct cluster_token parsed;
    bool is_parsed; /* it says as well where the cluster is */
};

int token_read_file(const char *path, char **ret_text, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    int r = file_read(strcmp(path, "-") == 0 ? "/dev/stdin" : path, CLUSTER_TOKEN_TEXT_MAX + 2,
                      &text, err);
    if (r < 0) {
        return error_wrap(err, "the token");
    }
    struct text trimmed = text_of((const char *)text.data, text.used);
    while (trimmed.length > 0 && strchr(" \t\r\n", trimmed.data[trimmed.length - 1]) != NULL) {
        trimmed.length--;
    }
    *ret_text = memory_copy_text(trimmed.data, trimmed.length);
    return 0;
}

static int take_token(struct given_token *ret_token, struct error *err)
{
    const char *variable = from_environment("BLIXARD_TOKEN");
    if (flags.token_file != NULL) {
        int r = token_read_file(flags.token_file, &ret_token->text, err);
        if (r < 0) {
            return r;
        }
    } else if (variable != NULL) {
        ret_token->text = memory_copy_string(variable);
    }
    if (ret_token->text == NULL) {
        return 0;
    }
    /* It becomes a header field. */
    for (const char *at = ret_token->text; *at != '\0'; at++) {
        if (*at <= ' ' || *at > '~') {
            return error_set(err, ERROR_INVALID, "a token has no blanks and visible ASCII only");
        }
    }
    if (!text_starts_with(ret_token->text, CLUSTER_TOKEN_PREFIX)) {
        return 0;
    }
    int r = cluster_token_read(ret_token->text, &ret_token->parsed, err);
    if (r == 0 && !ret_token->parsed.is_bearer) {
        r = error_set(err, ERROR_INVALID, "this token is one for %s, not one to show",
                      ret_token->parsed.client[0] != '\0' ? "blixard login"
                                                          : "blixard server --join");
    }
    if (r < 0) {
        return r;
    }
    ret_token->is_parsed = true;
    return 0;
}

/* ---- Making a target ---- */

static void add_address(struct target *target, const char *address)
{
    if (target->address_count < TARGET_ADDRESSES_MAX) {
        target->addresses[target->address_count++] = memory_copy_string(address);
    }
}

static void set_secret(struct target *target, const char *secret)
{
    target->authorization = memory_format("Authorization: Bearer %s", secret);
}

static int of_token(struct target *target, const struct cluster_token *token, struct error *err)
{
    const struct tls_context_options options = {.verify = TLS_VERIFY_PIN,
                                                .pin = token->fingerprint};
    target->name = memory_format("the cluster of the token for %s", token->client);
    for (size_t i = 0; i < token->address_count; i++) {
        add_address(target, token->addresses[i]);
    }
    set_secret(target, token->secret);
    return tls_context_new(&options, &target->tls, err);
}

/* `secret_or_null`: shown in place of what the context has. */
static int of_context(struct target *target, const char *name, const char *secret_or_null,
                      struct error *err)
{
    CONTEXT_OWNED struct context context = {0};
    int r = context_read(name, &context, err);
    if (r < 0) {
        return r;
    }
    const char *secret = secret_or_null != NULL ? secret_or_null : context.token;
    struct tls_context_options options = {.authority = context.authority,
                                          .verify = TLS_VERIFY_REQUIRED};
    if (context.authority == NULL) {
        options.verify = TLS_VERIFY_PIN;
        options.pin = context.fingerprint;
    }
    if (secret == NULL) {
        options.certificate = context.certificate;
        options.key = context.key;
    } else {
        set_secret(target, secret);
    }
    target->name = memory_format("context %s", name);
    target->context = memory_copy_string(name);
    size_t index = 0;
    json_t *address = NULL;
    json_array_foreach(context.addresses, index, address)
    {
        if (json_is_string(address)) {
            add_address(target, json_string_value(address));
        }
    }
    r = tls_context_new(&options, &target->tls, err);
    return r < 0 ? error_wrap(err, "context %s", name) : 0;
}

static void of_address(struct target *target, const char *address)
{
    static const char scheme[] = "http://";
    add_address(target, text_starts_with(address, scheme) ? address + strlen(scheme) : address);
    target->name = memory_copy_string(target->addresses[0]);
}

/* With TLS at this one address, as whom the token or the context says. */
static int of_secure_address(struct target *target, const char *address,
                             const struct given_token *token, const char *context,
                             struct error *err)
{
    if (!token->is_parsed && context == NULL) {
        return error_set(err, ERROR_INVALID,
                         "https://%.128s: a context (blixard login) or a token says which cluster "
                         "that must be",
                         address);
    }
    int r = token->is_parsed ? of_token(target, &token->parsed, err)
                             : of_context(target, context, token->text, err);
    if (r < 0) {
        return r;
    }
    for (size_t i = 0; i < target->address_count; i++) {
        free(target->addresses[i]);
    }
    target->address_count = 0;
    add_address(target, address);
    return 0;
}

static int choose(struct target *target, struct error *err)
{
    static const char secure[] = "https://";
    struct given_token token = {0};
    const char *address = flags.address;
    const char *context = flags.context;
    if (address == NULL && context == NULL) {
        address = from_environment("BLIXARD_ADDR");
    }
    context = context != NULL ? context : from_environment("BLIXARD_CONTEXT");
    if (address != NULL && !text_starts_with(address, secure)) {
        of_address(target, address); /* nothing secret goes there */
        return 0;
    }
    int r = take_token(&token, err);
    MEMORY_OWNED char *text = token.text;
    (void)text; /* only freed */
    MEMORY_OWNED char *current = context_current();
    if (r < 0) {
        return r;
    }
    if (context == NULL && !token.is_parsed) {
        context = current;
    }
    if (context != NULL && strcmp(context, CONTEXT_LOCAL) == 0) {
        context = NULL;
    }
    if (address != NULL) {
        return of_secure_address(target, address + strlen(secure), &token, context, err);
    }
    if (context != NULL) {
        return of_context(target, context, token.is_parsed ? token.parsed.secret : token.text, err);
    }
    if (token.is_parsed && flags.context == NULL) {
        return of_token(target, &token.parsed, err);
    }
    of_address(target, default_address);
    return 0;
}

int target_find(const struct target **ret_target, struct error *err)
{
    static struct target target; /* one command has one */
    if (target.address_count == 0) {
        int r = choose(&target, err);
        if (r < 0) {
            target.address_count = 0;
            return r;
        }
    }
    *ret_target = &target;
    return 0;
}
