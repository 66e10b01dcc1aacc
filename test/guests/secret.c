/* A function with secrets: /env?NAME says what a variable is, /get?NAME what the host answers. */
#include <stdio.h>
#include <stdlib.h>

#include "blixard.h"

static int was_there; /* when the snapshot was taken */

__attribute__((constructor)) static void look_early(void)
{
    was_there = getenv("PASSWORD") != NULL;
}

static void get(const char *name)
{
    static char value[70000];
    int32_t length = blixard_secret_get(name, value, sizeof(value));
    if (length < 0) {
        snprintf(value, sizeof(value), "%d %s", (int)length, blixard_error());
        blixard_response_text(value);
    } else {
        blixard_response_write(value, (size_t)length);
    }
}

BLIXARD_HANDLER
{
    static char value[8192];
    char path[64];
    char query[128];
    blixard_request_get("PATH_INFO", path, sizeof(path));
    blixard_request_get("QUERY_STRING", query, sizeof(query));
    if (was_there) {
        blixard_response_text("it was in the snapshot");
    } else if (strcmp(path, "/get") == 0) {
        get(query);
    } else if (blixard_request_get(query, value, sizeof(value)) >= 0) {
        blixard_response_text(value);
    } else {
        blixard_response_text("(none)");
    }
}
