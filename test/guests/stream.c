/* A function that answers piece by piece, and reads what is sent to it the same way. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "blixard.h"

/* Until somebody has set the key "go" to `wanted` or more. */
static void await_go(int wanted)
{
    char value[16] = "0";
    int32_t length = blixard_kv_get("go", value, sizeof(value) - 1, NULL);
    while (length < 0 || atoi(value) < wanted) {
        usleep(20000);
        length = blixard_kv_get("go", value, sizeof(value) - 1, NULL);
        value[length > 0 && length < 16 ? length : 0] = '\0';
    }
}

static void events(int count)
{
    blixard_response_header("Content-Type", "text/event-stream");
    blixard_response_header("Cache-Control", "no-cache");
    blixard_response_flush();
    for (int i = 1; i <= count; i++) {
        char text[64];
        await_go(i);
        snprintf(text, sizeof(text), "id: %d\ndata: event %d\n\n", i, i);
        blixard_response_text(text);
        blixard_response_flush();
    }
}

static void flood(long blocks)
{
    static char block[65536];
    memset(block, 'x', sizeof(block));
    blixard_response_header("Content-Type", "application/octet-stream");
    for (long i = 0; i < blocks; i++) {
        if (i % 128 == 0) { /* each 8 MiB */
            char text[16];
            int length = snprintf(text, sizeof(text), "%ld", i / 16);
            blixard_kv_set("sent", text, (size_t)length, 0, NULL);
        }
        if (blixard_response_write(block, sizeof(block)) < 0) {
            return;
        }
    }
}

/* Each piece of the body as it comes, in brackets. */
static void pieces(void)
{
    char text[4096];
    blixard_response_text("begun\n");
    blixard_response_flush();
    int32_t length = blixard_request_read(text, sizeof(text));
    while (length > 0) {
        blixard_response_text("[");
        blixard_response_write(text, (size_t)length);
        blixard_response_text("]\n");
        blixard_response_flush();
        length = blixard_request_read(text, sizeof(text));
    }
    blixard_response_text(length == 0 ? "ended\n" : "failed\n");
}

static void count(void)
{
    static char text[65536];
    char answer[64];
    long long bytes = 0;
    int32_t length = blixard_request_read(text, sizeof(text));
    while (length > 0) {
        bytes += length;
        length = blixard_request_read(text, sizeof(text));
    }
    snprintf(answer, sizeof(answer), "%lld", bytes);
    blixard_response_text(answer);
}

BLIXARD_HANDLER
{
    char path[64] = "";
    char query[64] = "";
    blixard_request_get("PATH_INFO", path, sizeof(path));
    blixard_request_get("QUERY_STRING", query, sizeof(query));
    const char *what = strrchr(path, '/') != NULL ? strrchr(path, '/') : "";
    if (strcmp(what, "/events") == 0) {
        events(atoi(query));
    } else if (strcmp(what, "/flood") == 0) {
        flood(atol(query));
    } else if (strcmp(what, "/sleeps") == 0) {
        blixard_response_text("before\n");
        sleep(300);
    } else if (strcmp(what, "/pieces") == 0) {
        pieces();
    } else if (strcmp(what, "/count") == 0) {
        count();
    } else if (strcmp(what, "/breaks") == 0) {
        blixard_response_text("half\n");
        blixard_response_flush();
        await_go(1);
        __builtin_trap();
    }
}
