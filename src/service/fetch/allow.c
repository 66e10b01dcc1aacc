/* Entries of allow-lists.  See allow.h. */
#include "service/fetch/allow.h"

#include <string.h>

#include "base/error.h"

static bool take_prefix(struct text *text, const char *prefix)
{
    size_t length = strlen(prefix);
    if (text->length < length || memcmp(text->data, prefix, length) != 0) {
        return false;
    }
    *text = text_of(text->data + length, text->length - length);
    return true;
}

static int refuse(struct text entry, const char *why, struct error *err)
{
    return error_set(err, ERROR_INVALID, "fetch.allow: \"%.*s\" %s",
                     (int)(entry.length < 80 ? entry.length : 80), entry.data, why);
}

/* What stands before the port; *ret_port is empty when there is none. */
static bool split_port(struct text rest, struct text *ret_host, struct text *ret_port,
                       bool *ret_has_port)
{
    const char *first = memchr(rest.data, ':', rest.length);
    const char *last = memrchr(rest.data, ':', rest.length);
    *ret_has_port = false;
    *ret_host = rest;
    if (rest.length > 0 && rest.data[0] == '[') {
        const char *close = memchr(rest.data, ']', rest.length);
        if (close == NULL) {
            return false;
        }
        *ret_host = text_of(rest.data + 1, (size_t)(close - rest.data) - 1);
        struct text behind = text_of(close + 1, rest.length - ret_host->length - 2);
        *ret_has_port = behind.length > 0;
        *ret_port = text_of(behind.data + 1, behind.length > 0 ? behind.length - 1 : 0);
        return (behind.length == 0 || behind.data[0] == ':') &&
            memchr(ret_host->data, ':', ret_host->length) != NULL;
    }
    if (first != NULL && first == last) {
        *ret_has_port = true;
        *ret_host = text_of(rest.data, (size_t)(last - rest.data));
        *ret_port = text_of(last + 1, rest.length - ret_host->length - 1);
    }
    return true;
}

static int take_host(struct text entry, struct text host, struct fetch_rule *rule,
                     struct error *err)
{
    struct text name = host;
    if (fetch_network_parse(host, &rule->network)) {
        rule->kind = FETCH_RULE_NETWORK;
        return 0;
    }
    if (host.length > 0 && memchr(host.data, '/', host.length) != NULL) {
        return refuse(entry,
                      "is neither a network (10.0.0.0/8, no bits behind the prefix) nor a host: "
                      "entries have no paths",
                      err);
    }
    if (text_equal(host, "*")) {
        rule->kind = FETCH_RULE_ANY;
        return 0;
    }
    rule->kind = take_prefix(&name, "*.") ? FETCH_RULE_BELOW : FETCH_RULE_NAME;
    if (!fetch_host_is_name(name, rule->name)) {
        return refuse(entry,
                      "is not [http://|https://]HOST[:PORT]: a name, *.NAME, an address or a "
                      "network (internationalised names as xn--...)",
                      err);
    }
    return 0;
}

int fetch_rule_parse(struct text entry, struct fetch_rule *ret_rule, struct error *err)
{
    struct fetch_rule rule = {.kind = FETCH_RULE_NAME};
    struct text rest = entry;
    struct text host = {0};
    struct text port = {0};
    bool has_port = false;
    uint64_t number = 0;
    if (entry.length == 0 || memchr(entry.data, '\0', entry.length) != NULL) {
        return refuse(entry, "is empty", err);
    }
    rule.is_https = take_prefix(&rest, "https://");
    rule.has_scheme = rule.is_https || take_prefix(&rest, "http://");
    if (memmem(rest.data, rest.length, "://", 3) != NULL) {
        return refuse(entry, "has a scheme that is neither http:// nor https://", err);
    }
    if (!split_port(rest, &host, &port, &has_port)) {
        return refuse(entry, "has brackets that hold no IPv6 address", err);
    }
    if (has_port && (!text_parse_u64(port, &number) || number == 0 || number > 65535)) {
        return refuse(entry, "has a port that is none: 1 to 65535", err);
    }
    if (!has_port && rule.has_scheme) {
        number = rule.is_https ? 443 : 80;
    }
    rule.port = (uint16_t)number;
    int r = take_host(entry, host, &rule, err);
    if (r == 0) {
        *ret_rule = rule;
    }
    return r;
}

static bool fits(const struct fetch_rule *rule, const struct fetch_url *url)
{
    return (!rule->has_scheme || rule->is_https == url->is_https) &&
        (rule->port == 0 || rule->port == url->port);
}

static bool has_name(const struct fetch_rule *rule, const char *host)
{
    size_t length = strlen(host);
    size_t suffix = strlen(rule->name);
    switch (rule->kind) {
    case FETCH_RULE_ANY:
        return true;
    case FETCH_RULE_NAME:
        return strcmp(rule->name, host) == 0;
    case FETCH_RULE_BELOW:
        return length > suffix + 1 && host[length - suffix - 1] == '.' &&
            strcmp(host + length - suffix, rule->name) == 0;
    case FETCH_RULE_NETWORK:
        break;
    }
    return false;
}

bool fetch_rules_have_url(const struct fetch_rule *rules, size_t count, const struct fetch_url *url)
{
    if (url->is_address) {
        bool is_public = fetch_address_special(&url->address) == NULL;
        for (size_t i = 0; i < count; i++) {
            if (is_public && rules[i].kind == FETCH_RULE_ANY && fits(&rules[i], url)) {
                return true;
            }
        }
        for (size_t i = 0; i < count; i++) {
            if (rules[i].kind == FETCH_RULE_NETWORK && fits(&rules[i], url) &&
                fetch_network_has(&rules[i].network, &url->address)) {
                return true;
            }
        }
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        if (fits(&rules[i], url) && has_name(&rules[i], url->host)) {
            return true;
        }
    }
    return false;
}

bool fetch_rules_have_address(const struct fetch_rule *rules, size_t count,
                              const struct fetch_url *url, const struct fetch_address *address)
{
    if (fetch_address_special(address) == NULL) {
        return true;
    }
    for (size_t i = 0; i < count; i++) {
        if (rules[i].kind == FETCH_RULE_NETWORK && fits(&rules[i], url) &&
            fetch_network_has(&rules[i].network, address)) {
            return true;
        }
    }
    return false;
}
