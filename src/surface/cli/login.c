/* Logging in to a cluster from elsewhere, and the contexts that come of it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/certificate.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/stream/tls.h"
#include "base/text.h"

#include "service/cluster/token.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

/* ---- login ---- */

static void add_address(json_t *addresses, const char *address)
{
    size_t index = 0;
    json_t *known = NULL;
    json_array_foreach(addresses, index, known)
    {
        if (strcmp(json_string_value(known), address) == 0) {
            return;
        }
    }
    if (cluster_token_is_address(address) && json_array_size(addresses) < TARGET_ADDRESSES_MAX) {
        json_array_append_new(addresses, json_string(address));
    }
}

static void begin_context(const struct cluster_token *token, struct context *ret_context)
{
    ret_context->cluster = memory_copy_string(token->cluster);
    ret_context->fingerprint = memory_copy_string(token->fingerprint);
    ret_context->client = memory_copy_string(token->client);
    ret_context->addresses = json_array();
    for (size_t i = 0; i < token->address_count; i++) {
        add_address(ret_context->addresses, token->addresses[i]);
    }
}

/* The token's cluster, known by nothing but the fingerprint of its authority. */
static int reach(const struct cluster_token *token, struct target *ret_target, struct error *err)
{
    const struct tls_context_options options = {.verify = TLS_VERIFY_PIN,
                                                .pin = token->fingerprint};
    struct target target = {0};
    int r = tls_context_new(&options, &target.tls, err);
    if (r < 0) {
        return r;
    }
    enum { TOKEN_ADDRESSES = sizeof(token->addresses) / sizeof(token->addresses[0]) };
    _Static_assert((int)TOKEN_ADDRESSES <= (int)TARGET_ADDRESSES_MAX, "all of them have room");
    target.name = memory_copy_string("the cluster");
    for (size_t i = 0; i < token->address_count && i < TOKEN_ADDRESSES; i++) {
        target.addresses[target.address_count++] = memory_copy_string(token->addresses[i]);
    }
    if (token->is_bearer) {
        target.authorization = memory_format("Authorization: Bearer %s", token->secret);
    }
    *ret_target = target;
    return 0;
}

static void target_done(struct target *target)
{
    free(target->name);
    free(target->authorization);
    for (size_t i = 0; i < target->address_count; i++) {
        free(target->addresses[i]);
    }
    tls_context_unref(target->tls);
    *target = (struct target){0};
}
#define TARGET_OWNED __attribute__((cleanup(target_done)))

static int ask(const struct target *target, const char *method, const char *path,
               const json_t *body, json_t **ret_document, struct error *err)
{
    static const char *const fields[] = {"Content-Type: application/json", NULL};
    ANSWER_OWNED struct answer answer = {0};
    char *text = body != NULL ? json_dumps(body, 0) : NULL;
    int r = request_to(target, method, path, text != NULL ? fields : NULL, text,
                       text != NULL ? strlen(text) : 0, &answer, err);
    free(text);
    return r < 0 ? r : json_read(buffer_string(&answer.body), answer.body.used, ret_document, err);
}

/* That what the cluster sent is ours: its authority, our name. */
static int check(const struct cluster_token *token, const struct context *context,
                 struct error *err)
{
    struct certificate_info authority;
    struct certificate_info own;
    int r = certificate_read(context->authority, &authority, err);
    r = r < 0 ? r : certificate_read(context->certificate, &own, err);
    if (r < 0) {
        return error_wrap(err, "what the cluster sent");
    }
    MEMORY_OWNED char *uri = memory_format("spiffe://%s/client/%s", token->cluster, token->client);
    if (strcmp(authority.fingerprint, token->fingerprint) != 0 || strcmp(own.uri, uri) != 0) {
        return error_set(err, ERROR_PROTOCOL,
                         "the cluster sent a certificate that is not the one the token is for");
    }
    return 0;
}

static int take_certificate(const struct target *target, const struct cluster_token *token,
                            struct context *context, struct error *err)
{
    BUFFER_OWNED struct buffer request = {0};
    BUFFER_OWNED struct buffer key = {0};
    JSON_OWNED json_t *answer = NULL;
    int r = certificate_make_request(&request, &key, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *body = json_pack("{s:s, s:s, s:s}", "client", token->client, "secret",
                                        token->secret, "request", buffer_string(&request));
    r = ask(target, "POST", "/v1/login", body, &answer, err);
    if (r < 0) {
        return r;
    }
    context->cluster_name = memory_copy_string(json_text(answer, "cluster_name"));
    context->authority = memory_copy_string(json_text(answer, "authority"));
    context->certificate = memory_copy_string(json_text(answer, "certificate"));
    buffer_string(&key);
    context->key = buffer_take(&key);
    size_t index = 0;
    json_t *peer = NULL;
    json_array_foreach(json_object_get(answer, "peers"), index, peer)
    {
        add_address(context->addresses, json_text(peer, "address"));
    }
    return check(token, context, err);
}

/* A bearer token has nothing to fetch; that it is good is seen by asking something. */
static int take_secret(const struct target *target, const struct cluster_token *token,
                       struct context *context, struct error *err)
{
    JSON_OWNED json_t *answer = NULL;
    int r = ask(target, "GET", "/v1/cluster", NULL, &answer, err);
    if (r < 0) {
        return r;
    }
    context->cluster_name = memory_copy_string(json_text(answer, "name"));
    context->token = memory_copy_string(token->secret);
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(json_object_get(answer, "nodes"), index, node)
    {
        add_address(context->addresses, json_text(node, "address"));
    }
    return 0;
}

/* Another cluster's context is not written over. */
static int name_context(const char *wanted, struct context *context, struct error *err)
{
    CONTEXT_OWNED struct context old = {0};
    struct error problem = {0};
    const char *name = wanted != NULL ? wanted : context->cluster_name;
    if (strcmp(name, CONTEXT_LOCAL) == 0) {
        return error_set(err, ERROR_INVALID,
                         "\"" CONTEXT_LOCAL "\" means the node on this machine: name the context "
                         "otherwise, with --name");
    }
    int r = context_read(name, &old, &problem);
    if (r < 0 && r != -ERROR_NOT_FOUND && r != -ERROR_CORRUPT) {
        *err = problem;
        return r;
    }
    if (r == 0 && strcmp(old.cluster, context->cluster) != 0) {
        return error_set(err, ERROR_EXISTS,
                         "context %s is one of another cluster: name this one with --name, or "
                         "remove the other: blixard logout %s",
                         name, name);
    }
    context->name = memory_copy_string(name);
    return 0;
}

static int read_token(const char *word, struct cluster_token *ret_token, struct error *err)
{
    MEMORY_OWNED char *text = NULL;
    int r = 0;
    if (strcmp(word, "-") == 0) {
        r = token_read_file("-", &text, err);
    }
    r = r < 0 ? r : cluster_token_read(text != NULL ? text : word, ret_token, err);
    if (r == 0 && ret_token->client[0] == '\0') {
        r = error_set(err, ERROR_INVALID,
                      "this token lets a node join (blixard server --join), not a client log in: "
                      "blixard client create makes one for that");
    }
    return r;
}

static int say_done(const struct arguments *arguments, const struct context *context,
                    struct error *err)
{
    JSON_OWNED json_t *document =
        json_pack("{s:s, s:s, s:s, s:s}", "context", context->name, "cluster",
                  context->cluster_name, "id", context->cluster, "client", context->client);
    return print_done(arguments, document, err,
                      "logged in to %s as %s; context %s is in use (back to this machine: blixard "
                      "context use " CONTEXT_LOCAL ")",
                      context->cluster_name, context->client, context->name);
}

int verb_login(const struct arguments *arguments, struct error *err)
{
    struct cluster_token token = {0};
    CONTEXT_OWNED struct context context = {0};
    TARGET_OWNED struct target target = {0};
    const char *wanted = flag_value(arguments, "name");
    int r = read_token(arguments->words[0], &token, err);
    if (r == 0 && wanted != NULL && !text_is_name(wanted)) {
        r = error_set(err, ERROR_INVALID, "--name %.64s is no name: a-z, 0-9 and '-'", wanted);
    }
    r = r < 0 ? r : reach(&token, &target, err);
    if (r < 0) {
        return r;
    }
    begin_context(&token, &context);
    /* Before the secret is used up: a name that is taken is found out now if it can be. */
    if (wanted != NULL) {
        r = name_context(wanted, &context, err);
    }
    if (r == 0) {
        r = token.is_bearer ? take_secret(&target, &token, &context, err)
                            : take_certificate(&target, &token, &context, err);
    }
    if (r == 0 && wanted == NULL) {
        r = name_context(NULL, &context, err);
    }
    r = r < 0 ? r : context_write(&context, err);
    r = r < 0 ? r : context_use(context.name, err);
    return r < 0 ? r : say_done(arguments, &context, err);
}

/* ---- logout, and contexts ---- */

static int remove_context(const struct arguments *arguments, const char *name, struct error *err)
{
    int r = context_remove(name, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", name);
    return print_done(arguments, document, err, "deleted context %s and its key", name);
}

int verb_logout(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *current = context_current();
    if (arguments->word_count == 0 && current == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "no context is in use: name one");
    }
    return remove_context(arguments, arguments->word_count > 0 ? arguments->words[0] : current,
                          err);
}

int verb_context_delete(const struct arguments *arguments, struct error *err)
{
    return remove_context(arguments, arguments->words[0], err);
}

int verb_context_use(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    CONTEXT_OWNED struct context context = {0};
    bool is_local = strcmp(name, CONTEXT_LOCAL) == 0;
    int r = is_local ? 0 : context_read(name, &context, err);
    r = r < 0 ? r : context_use(is_local ? NULL : name, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "context", name);
    return is_local ? print_done(arguments, document, err, "the node on this machine is in use")
                    : print_done(arguments, document, err, "context %s is in use", name);
}

static json_t *describe(const struct context *context, const char *current)
{
    struct certificate_info info = {0};
    struct error ignored = {0};
    char expires[CLOCK_TEXT_SIZE] = "";
    bool has_certificate = context->certificate != NULL &&
        certificate_read(context->certificate, &info, &ignored) == 0;
    if (has_certificate) {
        clock_format_ms(info.not_after_ms, expires);
    }
    bool in_use = current != NULL && strcmp(current, context->name) == 0;
    return json_pack("{s:s, s:b, s:s, s:s, s:s, s:s, s:s?, s:O}", "name", context->name, "current",
                     in_use, "cluster", context->cluster_name, "id", context->cluster, "client",
                     context->client, "kind", context->token != NULL ? "token" : "certificate",
                     "certificate_expires_at", has_certificate ? expires : NULL, "addresses",
                     context->addresses);
}

static int describe_all(json_t **ret_list, struct error *err)
{
    MEMORY_OWNED char *current = context_current();
    JSON_OWNED json_t *names = NULL;
    int r = context_names(&names, err);
    if (r < 0) {
        return r;
    }
    json_t *list = json_array();
    json_array_append_new(list,
                          json_pack("{s:s, s:b, s:n, s:n, s:[s]}", "name", CONTEXT_LOCAL, "current",
                                    current == NULL, "cluster", "client", "addresses",
                                    "127.0.0.1:7420"));
    size_t index = 0;
    json_t *name = NULL;
    json_array_foreach(names, index, name)
    {
        CONTEXT_OWNED struct context context = {0};
        struct error problem = {0};
        if (context_read(json_string_value(name), &context, &problem) == 0) {
            json_array_append_new(list, describe(&context, current));
        } else {
            fprintf(stderr, "blixard: %s\n", problem.text);
        }
    }
    *ret_list = list;
    return 0;
}

int verb_context_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},
        {"IN USE", "current", AS_TEXT},
        {"CLUSTER", "cluster", AS_TEXT},
        {"CLIENT", "client", AS_TEXT},
        {"CERTIFICATE UNTIL", "certificate_expires_at", AS_TEXT},
    };
    json_t *list = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : describe_all(&list, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:o}", "contexts", list);
    if (output == OUTPUT_TABLE) {
        print_table(list, columns, COUNT(columns));
    } else {
        print_document(document, output);
    }
    return 0;
}

int verb_context_show(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"name", "name", AS_TEXT},
        {"in use", "current", AS_TEXT},
        {"cluster", "cluster", AS_TEXT},
        {"id", "id", AS_TEXT},
        {"client", "client", AS_TEXT},
        {"shows", "kind", AS_TEXT},
        {"until", "certificate_expires_at", AS_TEXT},
        {"addresses", "addresses", AS_TEXT},
    };
    CONTEXT_OWNED struct context context = {0};
    MEMORY_OWNED char *current = context_current();
    const char *name = arguments->word_count > 0 ? arguments->words[0] : current;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    if (r == 0 && name == NULL) {
        r = error_set(err, ERROR_NOT_FOUND,
                      "no context is in use: the node on this machine is (127.0.0.1:7420)");
    }
    r = r < 0 ? r : context_read(name, &context, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = describe(&context, current);
    if (output == OUTPUT_TABLE) {
        print_facts(document, columns, COUNT(columns));
    } else {
        print_document(document, output);
    }
    return 0;
}
