/* A function that fetches: the path says how, the body or the query what. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "blixard.h"

static char buffer[1 << 20];
static char early_text[160];

__attribute__((constructor)) static void fetch_early(void)
{
    struct blixard_response response;
    blixard_fetch("http://127.0.0.1:1/", NULL, buffer, sizeof(buffer), &response);
    snprintf(early_text, sizeof(early_text), "%s", blixard_error());
}

static void say(const char *what, long long number, const char *text)
{
    char line[2048];
    snprintf(line, sizeof(line), "%s %lld %s\n", what, number, text);
    blixard_response_text(line);
}

/* How many bytes follow, and their sum; what went wrong, when it did. */
static void drain(int32_t which, unsigned long long *total, unsigned long long *sum)
{
    static uint8_t piece[65536];
    int32_t got = 0;
    while (which > 0 && (got = blixard_fetch_read(which, piece, sizeof(piece))) > 0) {
        *total += (unsigned long long)got;
        for (int32_t i = 0; i < got; i++) {
            *sum += piece[i];
        }
    }
    if (got < 0) {
        say("broken", got, blixard_error());
    }
}

/*
 * The request's body: method, URL, how, timeout, each a line; fields up to an empty line; the body
 * to send.  Answers: "status N", the fields, an empty line, the body's size and sum, and its
 * beginning.
 */
static void do_request(void)
{
    static char text[1 << 18];
    char *parts[4];
    size_t used = 0;
    int32_t got;
    while (used < sizeof(text) - 1 &&
           (got = blixard_request_read(text + used, sizeof(text) - 1 - used)) > 0) {
        used += (size_t)got;
    }
    char *at = text;
    for (int i = 0; i < 4; i++) {
        parts[i] = at;
        at = strchr(at, '\n');
        *at++ = 0;
    }
    char fields[8192] = "";
    char *body = at + 1;
    if (at[0] != '\n') {
        char *end = strstr(at, "\n\n");
        memcpy(fields, at, (size_t)(end - at) + 1);
        fields[end - at + 1] = 0;
        body = end + 2;
    }
    struct blixard_response response;
    struct blixard_request request = {.method = parts[0][0] != 0 ? parts[0] : NULL,
                                      .fields = fields,
                                      .body = body,
                                      .length = used - (size_t)(body - text),
                                      .timeout_ms = (uint32_t)atoi(parts[3]),
                                      .how = (uint32_t)atoi(parts[2])};
    int32_t length = blixard_fetch(parts[1], &request, buffer, sizeof(buffer), &response);
    if (length < 0) {
        say("error", length, blixard_error());
        return;
    }
    unsigned long long total = response.length;
    unsigned long long sum = 0;
    for (size_t i = 0; i < response.length; i++) {
        sum += response.body[i];
    }
    say("status", response.status, "");
    blixard_response_write(response.fields, response.fields_length);
    blixard_response_text("\n");
    drain(response.rest, &total, &sum);
    say("body", (long long)total, "");
    say("sum", (long long)sum, "");
    blixard_response_write(response.body, response.length < 4096 ? response.length : 4096);
}

/* Pieces go out as they come. */
static void stream(const char *url)
{
    static char piece[4096];
    struct blixard_response response;
    struct blixard_request request = {.how = BLIXARD_FETCH_HEAD};
    int32_t got = blixard_fetch(url, &request, buffer, sizeof(buffer), &response);
    say("status", got < 0 ? got : response.status, got < 0 ? blixard_error() : "");
    blixard_response_write(response.body, response.length);
    blixard_response_flush();
    while (response.rest > 0 &&
           (got = blixard_fetch_read(response.rest, piece, sizeof(piece))) > 0) {
        blixard_response_write(piece, (size_t)got);
        blixard_response_flush();
    }
    say("end", got, got < 0 ? blixard_error() : "");
}

/* Three at once, taken as they come: URL with 0, 1, 2 behind it. */
static void together(const char *url)
{
    int32_t numbers[3];
    char each[512];
    for (int i = 0; i < 3; i++) {
        snprintf(each, sizeof(each), "%s%d", url, i);
        if (i == 2) {
            say("nothing yet", blixard_fetch_wait(0, 1), "");
        }
        numbers[i] = blixard_fetch_begin(each, NULL);
        say("begun", numbers[i] > 0, "");
    }
    for (int left = 3; left > 0; left--) {
        int32_t which = blixard_fetch_wait(0, 20000);
        struct blixard_response response;
        blixard_fetch_take(which, buffer, sizeof(buffer), &response);
        snprintf(each, sizeof(each), "%.*s", (int)response.length, (const char *)response.body);
        say("came", which > 0 ? which - numbers[0] : which, each);
    }
}

static void be_hostile(const char *how, const char *url)
{
    struct blixard_response response;
    uint32_t rest = 0;
    switch (how[0]) {
    case 'a':
        blixard_v1_fetch_("GET", 3, (const char *)0xfffffff0u, 64, NULL, 0, NULL, 0, 0, 0, NULL, 0,
                          NULL);
        break;
    case 'b':
        blixard_v1_fetch_("GET", 3, url, strlen(url), NULL, 0, NULL, 0, 0, 0, (void *)0xfffffff0u,
                          4096, NULL);
        break;
    case 'c':
        blixard_v1_fetch_("GET", 3, url, strlen(url), NULL, 0, NULL, 0, 0, 0, buffer,
                          sizeof(buffer), (uint32_t *)0xfffffffeu);
        break;
    case 'd':
        say("how",
            blixard_v1_fetch_("GET", 3, url, strlen(url), NULL, 0, NULL, 0, 0, 99, NULL, 0, NULL),
            blixard_error());
        say("read", blixard_fetch_read(1, buffer, 10), blixard_error());
        say("read", blixard_fetch_read(-1, buffer, 10), blixard_error());
        say("take", blixard_fetch_take(0, buffer, 10, &response), blixard_error());
        say("wait", blixard_fetch_wait(17, 0), blixard_error());
        say("wait", blixard_fetch_wait(0, 0), "");
        say("close", blixard_fetch_close(3), blixard_error());
        break;
    case 'e': /* begun, and left there */
        for (int i = 0; i < 17; i++) {
            int32_t which = blixard_fetch_begin(url, NULL);
            if (which < 0) {
                say("begun", which, blixard_error());
            }
        }
        say("early read", blixard_fetch_read(1, buffer, 10), blixard_error());
        break;
    case 'f': /* a NUL in a URL, and one in a field */
        say("url",
            blixard_v1_fetch_("GET", 3, "http://a\0b/", 11, NULL, 0, NULL, 0, 0, 0, NULL, 0, NULL),
            blixard_error());
        say("field",
            blixard_v1_fetch_("GET", 3, url, strlen(url), "A: b\0c\r\n", 8, NULL, 0, 0, 0, NULL, 0,
                              NULL),
            blixard_error());
        say("huge",
            blixard_v1_fetch_("PUT", 3, url, strlen(url), NULL, 0, buffer, sizeof(buffer), 0, 0,
                              NULL, 0, &rest),
            blixard_error());
        break;
    }
}

BLIXARD_HANDLER
{
    char path[64];
    char query[1024];
    blixard_request_get("PATH_INFO", path, sizeof(path));
    blixard_request_get("QUERY_STRING", query, sizeof(query));
    if (strcmp(path, "/do") == 0) {
        do_request();
    } else if (strcmp(path, "/stream") == 0) {
        stream(query);
    } else if (strcmp(path, "/together") == 0) {
        together(query);
    } else if (strncmp(path, "/hostile/", 9) == 0) {
        be_hostile(path + 9, query);
        say("survived", 0, "");
    } else if (strcmp(path, "/early") == 0) {
        blixard_response_text(early_text);
    }
}
