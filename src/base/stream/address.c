/* Addresses: "HOST:PORT", "[V6]:PORT", "unix:PATH". */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/stream/stream.h"
#include "base/text.h"

/* A host name as resolvers take it: letters, digits, '-', '_' and '.' (RFC 1123, 2.1). */
static bool is_host_name(const char *host)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    return host[0] != '\0' && host[0] != '-' && host[0] != '.' &&
        host[strspn(host, allowed)] == '\0';
}

static int parse_unix(const char *path, struct stream_address *ret_address, struct error *err)
{
    if (path[0] == '\0' || strlen(path) >= sizeof(ret_address->path)) {
        return error_set(err, ERROR_INVALID,
                         "the socket's path \"%s\" is empty or longer than 107 bytes", path);
    }
    memset(ret_address, 0, sizeof(*ret_address));
    ret_address->is_unix = true;
    snprintf(ret_address->path, sizeof(ret_address->path), "%s", path);
    return 0;
}

/* False when it is a name. */
static bool take_literal(struct stream_address *address)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&address->socket;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&address->socket;
    const char *host = strcmp(address->host, "localhost") == 0 ? "127.0.0.1" : address->host;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(address->port);
        return true;
    }
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(address->port);
        return true;
    }
    return false;
}

int stream_address_parse(const char *address, struct stream_address *ret_address, struct error *err)
{
    if (text_starts_with(address, "unix:")) {
        return parse_unix(address + strlen("unix:"), ret_address, err);
    }
    struct stream_address parsed = {0};
    const char *colon = strrchr(address, ':');
    uint64_t port = 0;
    if (colon == NULL || (size_t)(colon - address) >= sizeof(parsed.host) ||
        !text_parse_u64(text_of(colon + 1, strlen(colon + 1)), &port) || port > UINT16_MAX) {
        return error_set(err, ERROR_INVALID, "\"%s\" is not HOST:PORT nor unix:PATH", address);
    }
    size_t length = (size_t)(colon - address);
    bool is_bracketed = length > 2 && address[0] == '[' && colon[-1] == ']';
    memcpy(parsed.host, address + is_bracketed, length - 2 * is_bracketed);
    parsed.port = (uint16_t)port;
    if (!take_literal(&parsed) && (is_bracketed || !is_host_name(parsed.host))) {
        return error_set(err, ERROR_INVALID, "\"%s\" is neither an IP address nor a host's name",
                         parsed.host);
    }
    *ret_address = parsed;
    return 0;
}

void stream_address_format(const struct sockaddr_storage *socket, char ret_text[64])
{
    char host[INET6_ADDRSTRLEN] = "";
    ret_text[0] = '\0';
    if (socket->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)socket;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        snprintf(ret_text, 64, "%s:%u", host, ntohs(v4->sin_port));
    } else if (socket->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)socket;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        snprintf(ret_text, 64, "[%s]:%u", host, ntohs(v6->sin6_port));
    }
}
