/*
 * Are they up?  Asks all the URLs of the variable SITES at once, and answers as JSON with the
 * status and the time of each, in the order in which they answered.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "blixard.h"

enum { SITES_MAX = 16, PATIENCE_MS = 5000 };

struct site {
    const char *url;
    int32_t number; /* of its fetch; 0: it has answered */
};

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* As a string of JSON; what would need escapes is left out. */
static void write_quoted(const char *text)
{
    blixard_response_text("\"");
    for (; *text != 0; text++) {
        if ((unsigned char)*text >= ' ' && *text != '"' && *text != '\\') {
            blixard_response_write(text, 1);
        }
    }
    blixard_response_text("\"");
}

static int reported; /* of this request */

/* status < 0: it has not answered, and blixard_error() says why. */
static void report(const char *url, int status, long long took_ms)
{
    char text[96];
    blixard_response_text(reported++ == 0 ? "[" : ",\n ");
    blixard_response_text("{\"url\":");
    write_quoted(url);
    if (status < 0) {
        blixard_response_text(",\"error\":");
        write_quoted(blixard_error());
    } else {
        snprintf(text, sizeof(text), ",\"status\":%d", status);
        blixard_response_text(text);
    }
    snprintf(text, sizeof(text), ",\"ms\":%lld}", took_ms);
    blixard_response_text(text);
}

/* How many are under way. */
static int begin_all(char *list, struct site *sites)
{
    const struct blixard_request request = {
        .method = "HEAD", .timeout_ms = PATIENCE_MS, .how = BLIXARD_FETCH_HEAD};
    int count = 0;
    for (char *url = strtok(list, " \n"); url != NULL && count < SITES_MAX;
         url = strtok(NULL, " \n")) {
        sites[count] = (struct site){url, blixard_fetch_begin(url, &request)};
        if (sites[count].number < 0) {
            report(url, -1, 0);
        } else {
            count++;
        }
    }
    return count;
}

BLIXARD_HANDLER
{
    static char list[4096];
    static char buffer[65536];
    struct site sites[SITES_MAX];
    long long begin = now_ms();
    reported = 0;
    blixard_response_header("Content-Type", "application/json");
    blixard_request_get("SITES", list, sizeof(list));
    int count = begin_all(list, sites);
    for (int left = count; left > 0; left--) {
        struct blixard_response response;
        int32_t number = blixard_fetch_wait(0, 2 * PATIENCE_MS); /* the next one that answers */
        for (int i = 0; i < count; i++) {
            if (sites[i].number == number) {
                int32_t length = blixard_fetch_take(number, buffer, sizeof(buffer), &response);
                report(sites[i].url, length < 0 ? -1 : response.status, now_ms() - begin);
                if (response.rest > 0) {
                    blixard_fetch_close(response.rest);
                }
                sites[i].number = 0;
            }
        }
    }
    blixard_response_text("]\n");
}
