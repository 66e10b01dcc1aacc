/*
 * A function for the gateway's tests: the path says what to do.
 *
 *   /echo        the input, as it comes            /env         the environment, a line each
 *   /exit/N      end with exit code N, silently    /grumble/N   the same after a word
 *   /trap        divide by zero                    /overrun     read beyond the memory
 *   /spin        until the timeout                 /flood/N     N KiB of output, in pieces
 *   /head/...    the rest of the path and the query as head lines ("a=b&c=d"), then "body"
 *   /remember    fills its memory, old and grown, and prints how much of it was not fresh: 0 bytes
 *   /count       reads the input to its end and prints how many bytes there were
 *   /log         a line of log                     /lie/N       announces N bytes, writes 4
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static char memory_of_requests[65536];

static void echo(void)
{
    static char piece[65536];
    ssize_t length;
    while ((length = read(0, piece, sizeof(piece))) > 0) {
        for (ssize_t at = 0; at < length;) {
            ssize_t wrote = write(1, piece + at, (size_t)(length - at));
            if (wrote <= 0) {
                exit(1);
            }
            at += wrote;
        }
    }
}

static void count(void)
{
    static char piece[65536];
    unsigned long total = 0;
    ssize_t length;
    while ((length = read(0, piece, sizeof(piece))) > 0) {
        total += (unsigned long)length;
    }
    if (length < 0) {
        exit(1);
    }
    printf("%lu\n", total);
}

static void flood(long kib)
{
    static char line[1024];
    memset(line, '.', sizeof(line));
    line[sizeof(line) - 1] = '\n';
    for (long i = 0; i < kib; i++) {
        fwrite(line, 1, sizeof(line), stdout);
        fflush(stdout);
    }
}

static void head(const char *query)
{
    for (; *query != '\0'; query++) {
        switch (*query) {
        case '=':
            fputs(": ", stdout);
            break;
        case '&':
            putchar('\n');
            break;
        case '+':
            putchar(' ');
            break;
        default:
            putchar(*query);
        }
    }
    fputs("\n\nbody", stdout);
}

static void print_environment(void)
{
    for (char **entry = environ; *entry != NULL; entry++) {
        puts(*entry);
    }
}

static void remember(void)
{
    size_t page = __builtin_wasm_memory_grow(0, 16);
    char *grown = page == SIZE_MAX ? NULL : (char *)(page * 65536);
    unsigned seen = 0;
    for (unsigned i = 0; i < sizeof(memory_of_requests); i++) {
        seen += memory_of_requests[i] != 0;
    }
    for (unsigned i = 0; grown != NULL && i < 1 << 20; i++) {
        seen += grown[i] != 0;
    }
    memset(memory_of_requests, 7, sizeof(memory_of_requests));
    if (grown == NULL) {
        exit(8);
    }
    memset(grown, 7, 1 << 20);
    printf("%u\n", seen);
}

static const char *after(const char *path, const char *prefix)
{
    size_t length = strlen(prefix);
    return strncmp(path, prefix, length) == 0 ? path + length : NULL;
}

int main(void)
{
    const char *path = getenv("PATH_INFO");
    const char *query = getenv("QUERY_STRING");
    const char *rest;
    volatile int zero = 0;
    if (path == NULL || query == NULL) {
        return 9;
    }
    if (after(path, "/echo") != NULL) {
        echo();
    } else if (after(path, "/count") != NULL) {
        count();
    } else if (after(path, "/env") != NULL) {
        print_environment();
    } else if ((rest = after(path, "/exit/")) != NULL) {
        return (int)strtol(rest, NULL, 10);
    } else if ((rest = after(path, "/grumble/")) != NULL) {
        puts("hm");
        return (int)strtol(rest, NULL, 10);
    } else if (after(path, "/trap") != NULL) {
        return (int)strlen(path) / zero;
    } else if (after(path, "/overrun") != NULL) {
        return *(volatile char *)(uintptr_t)0xfffffff0u;
    } else if (after(path, "/spin") != NULL) {
        while (zero == 0) {
        }
    } else if ((rest = after(path, "/flood/")) != NULL) {
        flood(strtol(rest, NULL, 10));
    } else if (after(path, "/head") != NULL) {
        head(query);
    } else if (after(path, "/remember") != NULL) {
        remember();
    } else if (after(path, "/log") != NULL) {
        fputs("<4>a line of log\n", stderr);
        puts("ok");
    } else if ((rest = after(path, "/lie/")) != NULL) {
        printf("Status: 200\nContent-Length: %s\n\nbody", rest);
    } else {
        puts("Status: 404\n\nnothing here");
    }
    return 0;
}
