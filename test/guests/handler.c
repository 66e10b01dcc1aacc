/* A handler made with the SDK: greets, and counts what should never count. */
#include <stdio.h>

#include "blixard.h"

static int calls;
static int initialised;

__attribute__((constructor)) static void construct(void)
{
    initialised = 1;
}

BLIXARD_HANDLER
{
    char path[32];
    char body[64];
    int32_t length = blixard_request_get("PATH_INFO", path, sizeof(path));
    size_t got = blixard_request_read(body, sizeof(body));
    if (length < 0) {
        blixard_response_status(404);
        blixard_response_text("no path");
        return;
    }
    calls++;
    blixard_response_status(201);
    blixard_response_header("Content-Type", "text/plain");
    char text[160];
    snprintf(text, sizeof(text), "path %s (%d), body %.*s, call %d, initialised %d", path,
             (int)length, (int)got, body, calls, initialised);
    blixard_response_text(text);
    blixard_log(BLIXARD_WARNING, "greeted");
}
