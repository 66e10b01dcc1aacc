/* Verbs about who is let in: tokens that nodes join with, and clients. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static int list(const struct arguments *arguments, const char *target, const char *member,
                const struct column *columns, unsigned count, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r < 0) {
        return r;
    }
    if (output == OUTPUT_TABLE) {
        print_table(json_object_get(document, member), columns, count);
    } else {
        print_document(document, output);
    }
    return 0;
}

static int remove_one(const char *prefix, const char *name, struct error *err)
{
    BUFFER_OWNED struct buffer target = {0};
    buffer_append_string(&target, prefix);
    http_percent_encode(&target, text_of(name, strlen(name)));
    return request_json("DELETE", buffer_string(&target), NULL, NULL, err);
}

/* A time to live as the API takes it, checked here for a message that names the flag. */
static int add_ttl(const struct arguments *arguments, json_t *body, struct error *err)
{
    const char *ttl = flag_value(arguments, "ttl");
    uint64_t ms = 0;
    if (ttl == NULL) {
        return 0;
    }
    if (!text_parse_duration_ms(ttl, &ms) || ms == 0) {
        return error_set(err, ERROR_INVALID, "--ttl %.40s: expected something like 3h", ttl);
    }
    json_object_set_new(body, "ttl", json_string(ttl));
    return 0;
}

/* ---- Join tokens ---- */

static int add_uses(const struct arguments *arguments, json_t *body, struct error *err)
{
    const char *uses = flag_value(arguments, "uses");
    uint64_t count = 0;
    if (uses == NULL) {
        return 0;
    }
    if (!text_parse_u64(text_of(uses, strlen(uses)), &count) || count == 0 || count > 1000) {
        return error_set(err, ERROR_INVALID, "--uses %.40s is no number from 1 to 1000", uses);
    }
    json_object_set_new(body, "uses", json_integer((json_int_t)count));
    return 0;
}

int verb_node_token_create(const struct arguments *arguments, struct error *err)
{
    const char *role = flag_value(arguments, "role");
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *token = NULL;
    enum output output = OUTPUT_TABLE;
    if (role != NULL) {
        json_object_set_new(body, "role", json_string(role));
    }
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : add_ttl(arguments, body, err);
    r = r < 0 ? r : add_uses(arguments, body, err);
    r = r < 0 ? r : request_send("POST", "/v1/tokens", body, &token, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        print_document(token, output);
        return 0;
    }
    /* What is pasted alone on standard output. */
    fprintf(stderr, "On the machine that is to join, until %s (%lld use%s, id %s):\n",
            json_text(token, "expires_at"),
            (long long)json_integer_value(json_object_get(token, "uses")),
            json_integer_value(json_object_get(token, "uses")) == 1 ? "" : "s",
            json_text(token, "id"));
    printf("blixard server --join %s\n", json_text(token, "token"));
    return 0;
}

int verb_node_token_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"ID", "id", AS_TEXT},
        {"ROLE", "role", AS_TEXT},
        {"USES LEFT", "uses", AS_TEXT},
        {"UNTIL", "expires_at", AS_TEXT},
    };
    return list(arguments, "/v1/tokens", "tokens", columns, COUNT(columns), err);
}

int verb_node_token_revoke(const struct arguments *arguments, struct error *err)
{
    const char *id = arguments->words[0];
    int r = remove_one("/v1/tokens/", id, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "revoked", id);
    return print_done(arguments, document, err, "revoked token %s", id);
}

/* ---- Clients ---- */

int verb_client_create(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    bool is_token = flag_value(arguments, "token") != NULL;
    JSON_OWNED json_t *client = NULL;
    JSON_OWNED json_t *body =
        json_pack("{s:s, s:s}", "name", name, "kind", is_token ? "token" : "certificate");
    enum output output = OUTPUT_TABLE;
    if (!text_is_name(name)) {
        return error_set(err, ERROR_INVALID, "\"%.64s\" is no name: a-z, 0-9 and '-'", name);
    }
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : add_ttl(arguments, body, err);
    r = r < 0 ? r : request_send("POST", "/v1/clients", body, &client, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        print_document(client, output);
        return 0;
    }
    if (is_token) {
        fprintf(stderr,
                "Until %s the token is shown with each request: BLIXARD_TOKEN, --token-file, or "
                "Authorization: Bearer\n",
                json_text(client, "expires_at"));
        printf("%s\n", json_text(client, "token"));
    } else {
        fprintf(stderr, "On the machine of %s, once, until %s:\n", name,
                json_text(client, "expires_at"));
        printf("blixard login %s\n", json_text(client, "token"));
    }
    return 0;
}

int verb_client_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},
        {"KIND", "kind", AS_TEXT},
        {"LOGGED IN", "logged_in", AS_TEXT},
        {"UNTIL", "expires_at", AS_TEXT},
    };
    return list(arguments, "/v1/clients", "clients", columns, COUNT(columns), err);
}

int verb_client_delete(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    int r = remove_one("/v1/clients/", name, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", name);
    return print_done(arguments, document, err, "deleted client %s: it is let in no more", name);
}
