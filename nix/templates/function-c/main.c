/*
 * hello: greets who is in the query (?name=...) or the body.
 *
 * What runs here starts from the same memory at every request; nothing a request changes is seen by
 * the next one.
 */
#include <stdio.h>

#include "blixard.h"

/* The value of `name` in a query such as "a=1&name=Ada"; as it is, not decoded. */
static void take_parameter(const char *query, const char *name, char *value, size_t size)
{
    size_t length = strlen(name);
    while (*query != '\0') {
        if (strncmp(query, name, length) == 0 && query[length] == '=') {
            snprintf(value, size, "%.*s", (int)strcspn(query + length + 1, "&"),
                     query + length + 1);
            return;
        }
        query += strcspn(query, "&");
        query += *query == '&';
    }
}

BLIXARD_HANDLER
{
    char query[1024] = "";
    char name[256] = "";
    blixard_request_get("QUERY_STRING", query, sizeof(query));
    take_parameter(query, "name", name, sizeof(name));
    if (name[0] == '\0') {
        int32_t length = blixard_request_read(name, sizeof(name) - 1);
        name[length > 0 ? length : 0] = '\0';
    }

    blixard_log(BLIXARD_INFO, "somebody is greeted"); /* see: blixard fn logs hello */
    blixard_response_header("Content-Type", "text/plain; charset=utf-8");
    blixard_response_text("Hello, ");
    blixard_response_text(name[0] != '\0' ? name : "world");
    blixard_response_text("!\n");
}
