/*
 * Who may speak to the TCP listener: programs on this machine, not web pages.  A page of another
 * site reaches 127.0.0.1 by DNS rebinding (then Host is its name) or by a cross-site request (then
 * Origin is).
 */
#include <string.h>

#include "surface/api/parts.h"

/* Without the port. */
static struct text host_of(struct text authority)
{
    const char *end = authority.length > 0 && authority.data[0] == '['
        ? memchr(authority.data, ']', authority.length)
        : memchr(authority.data, ':', authority.length);
    if (end == NULL) {
        return authority;
    }
    return text_of(authority.data, (size_t)(end - authority.data) + (*end == ']'));
}

static bool is_loopback_name(struct text host)
{
    return text_equal_ignoring_case(host, "localhost") || text_equal(host, "127.0.0.1") ||
        text_equal(host, "[::1]");
}

bool api_address_is_loopback(const char *address)
{
    return is_loopback_name(host_of(text_of(address, strlen(address))));
}

int api_access_check(struct text host, struct text origin, const char *own_host, struct error *err)
{
    struct text name = host.length > 0 ? host_of(host) : host;
    if (!is_loopback_name(name) && (own_host == NULL || !text_equal(name, own_host))) {
        return error_set(err, ERROR_DENIED,
                         "Host is %.*s; this API answers to localhost, 127.0.0.1 and [::1] only",
                         (int)(host.length < 80 ? host.length : 80),
                         host.length > 0 ? host.data : "");
    }
    if (origin.length == 0) {
        return 0;
    }
    static const char scheme[] = "http://";
    size_t skip = sizeof(scheme) - 1;
    if (origin.length == skip + host.length && memcmp(origin.data, scheme, skip) == 0 &&
        memcmp(origin.data + skip, host.data, host.length) == 0) {
        return 0;
    }
    return error_set(err, ERROR_DENIED, "a request of another site's page (Origin) is refused");
}
