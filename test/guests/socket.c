/* A function that speaks WebSocket: it answers messages, and does what some of them say. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "blixard.h"

static char message[(1 << 20) + 1];

static void say(const char *text)
{
    blixard_websocket_send(BLIXARD_TEXT, text, strlen(text));
}

static void note(const char *value)
{
    blixard_kv_set("socket", value, strlen(value), 0, NULL);
}

static void flood(void)
{
    memset(message, 'x', sizeof(message));
    while (blixard_websocket_send(BLIXARD_BINARY, message, 1 << 20) == 0) {
    }
}

/* False: that was all. */
static int obey(const char *text)
{
    if (strcmp(text, "close") == 0) {
        blixard_websocket_close(4001, "as you say");
    } else if (strcmp(text, "end") == 0) {
        return 0;
    } else if (strcmp(text, "trap") == 0) {
        __builtin_trap();
    } else if (strcmp(text, "garbage") == 0) {
        fputs("Content-Type: text/plain\r\n\r\nhello", stdout);
        fflush(stdout);
    } else if (strcmp(text, "latin") == 0) {
        say("\xe4");
    } else if (strcmp(text, "flood") == 0) {
        flood();
    } else if (strcmp(text, "deaf") == 0) {
        sleep(300);
    } else if (strcmp(text, "protocol") == 0) {
        char protocol[64] = "";
        blixard_request_get("BLIXARD_WEBSOCKET_PROTOCOL", protocol, sizeof(protocol));
        say(protocol);
    } else if (strcmp(text, "who") == 0) {
        char path[128] = "";
        char flag[8] = "";
        blixard_request_get("PATH_INFO", path, sizeof(path));
        blixard_request_get("BLIXARD_WEBSOCKET", flag, sizeof(flag));
        strcat(path, flag);
        say(path);
    } else {
        say(text);
    }
    return 1;
}

BLIXARD_HANDLER
{
    int kind = 0;
    int32_t length = blixard_websocket_receive(message, sizeof(message) - 1, &kind);
    while (length >= 0) {
        size_t kept = (size_t)length < sizeof(message) - 1 ? (size_t)length : sizeof(message) - 1;
        message[kept] = '\0';
        if (kind == BLIXARD_CLOSE) {
            char text[200];
            unsigned code = length >= 2 ? (uint8_t)message[0] | (uint8_t)message[1] << 8 : 1005;
            snprintf(text, sizeof(text), "closed %u %s", code, length > 2 ? message + 2 : "");
            note(text);
        } else if (kind == BLIXARD_BINARY) {
            blixard_websocket_send(BLIXARD_BINARY, message, kept);
        } else if (!obey(message)) {
            return;
        }
        length = blixard_websocket_receive(message, sizeof(message) - 1, &kind);
    }
}
