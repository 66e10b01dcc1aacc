/* A function that asks its host: the path says what. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "blixard.h"

static int32_t early;
static char early_text[128];

__attribute__((constructor)) static void ask_early(void)
{
    char text[16];
    early = blixard_metadata(BLIXARD_PROJECT, text, sizeof(text));
    snprintf(early_text, sizeof(early_text), "%s", blixard_error());
}

static void say(const char *what, long long number, const char *text)
{
    char line[768];
    snprintf(line, sizeof(line), "%s %lld %s\n", what, number, text);
    blixard_response_text(line);
}

static void facts(void)
{
    for (int fact = BLIXARD_PROJECT; fact <= BLIXARD_TRACEPARENT; fact++) {
        char text[128];
        int32_t length = blixard_metadata((enum blixard_fact)fact, text, sizeof(text));
        say("fact", length, text);
    }
    say("early", early == -EPERM, early_text);
    say("deadline", blixard_deadline_ms() > 0 && blixard_deadline_ms() <= 30000, "");
    say("no such fact", blixard_metadata((enum blixard_fact)99, early_text, 0) == -EINVAL,
        blixard_error());
}

static void call_other(const char *query)
{
    static char buffer[65536];
    char name[64];
    char path[160];
    snprintf(name, sizeof(name), "%s", query);
    char *slash = strchr(name, '/');
    snprintf(path, sizeof(path), "%s", slash != NULL ? query + (slash - name) : "/");
    if (slash != NULL) {
        *slash = 0;
    }
    struct blixard_response response;
    struct blixard_request request = {.method = "PUT",
                                      .fields = "X-One: 1\r\nBlixard-Depth: 0\r\n",
                                      .body = "hello",
                                      .length = 5};
    int32_t length = blixard_invoke(name, path, &request, buffer, sizeof(buffer), &response);
    say("invoke", length < 0 ? length : response.status, blixard_error());
    blixard_response_write(response.body, response.length);
}

static void be_hostile(const char *how)
{
    switch (how[0]) {
    case 'a': /* beyond memory */
        blixard_v1_metadata_(0, (char *)0xfffffff0u, 0xffffffffu);
        break;
    case 'b':
        blixard_v1_kv_get_((const char *)0xfffffff0u, 16, NULL, 0, NULL);
        break;
    case 'c':
        blixard_v1_kv_set_("k", 1, NULL, 0xffffffffu, 0, NULL);
        break;
    case 'd':
        say("huge", blixard_v1_kv_set_("k", 1, early_text, 2 << 20, 0, NULL), blixard_error());
        return;
    case 'e':
        for (;;) {
            blixard_v1_flush_();
        }
    case 'f':
        blixard_v1_log_(6, (const char *)0xfffffff0u, 100, NULL, 0);
        break;
    case 'g':
        say("span", blixard_span_end(-1, NULL), blixard_error());
        for (int i = 0; i < 17; i++) {
            say("span", blixard_span_begin("one"), "");
        }
        say("name", blixard_span_begin(""), blixard_error());
        return;
    case 'h':
        blixard_v1_secret_get_((const char *)0xfffffff0u, 16, NULL, 0);
        break;
    case 'i': /* where there is a value, and no place for it */
        blixard_v1_secret_get_("named", 5, (void *)0xfffffff0u, 0xffffffffu);
        break;
    case 'j':
        say("none", blixard_v1_secret_get_("", 0, NULL, 0), blixard_error());
        say("nul", blixard_v1_secret_get_("na\0ed", 5, NULL, 0), blixard_error());
        say("part", blixard_v1_secret_get_("name", 4, NULL, 0), blixard_error());
        say("length", blixard_v1_secret_get_("named", 5, NULL, 0), "");
        return;
    }
}

static void keep_values(void)
{
    char value[64] = "";
    char list[256];
    uint64_t revision = 0;
    uint64_t next = 0;
    say("none", blixard_kv_get("keys/a", value, sizeof(value), NULL), "");
    memset(value, 0, sizeof(value)); /* after an error it may be anything */
    say("new", blixard_kv_cas("keys/a", "one", 3, 0, 0, &revision), "");
    say("again", blixard_kv_cas("keys/a", "two", 3, 0, 0, NULL), blixard_error());
    say("get", blixard_kv_get("keys/a", value, 2, &next), value);
    say("rest", blixard_reply_read(2, value + 2, 8), value);
    say("same", next == revision && revision > 0, "");
    say("cas", blixard_kv_cas("keys/a", "two", 3, 0, revision, &next),
        next > revision ? "newer" : "");
    say("set", blixard_kv_set("keys/b", "", 0, 60000, NULL), "");
    int32_t length = blixard_kv_list("keys/", NULL, 0, list, sizeof(list));
    size_t position = 0;
    size_t key_length = 0;
    for (const char *key;
         (key = blixard_kv_next(list, (size_t)length, &position, &key_length)) != NULL;) {
        snprintf(value, sizeof(value), "%.*s", (int)key_length, key);
        say("key", (long long)key_length, value);
    }
    say("delete", blixard_kv_delete("keys/a", revision), blixard_error());
    say("delete", blixard_kv_delete("keys/a", next), "");
    say("delete", blixard_kv_delete("keys/b", 0), "");
}

static void send_messages(void)
{
    char id[64];
    uint64_t sequence = 0;
    struct blixard_message message = {
        .body = "body", .length = 4, .content_type = "text/plain", .attributes = "{\"a\":\"b\"}"};
    say("send", blixard_queue_send("jobs", &message, id, sizeof(id)) > 0, "");
    say("nowhere", blixard_queue_send("nowhere", &message, id, sizeof(id)), "");
    message.group = "key";
    say("append", blixard_stream_append("events", &message, &sequence) >= 0, "");
    say("sequence", (long long)sequence, "");
    message.attributes = "[]";
    say("attributes", blixard_stream_append("events", &message, NULL), blixard_error());
}

BLIXARD_HANDLER
{
    char path[64];
    char query[128];
    blixard_request_get("PATH_INFO", path, sizeof(path));
    blixard_request_get("QUERY_STRING", query, sizeof(query));
    if (strcmp(path, "/facts") == 0) {
        facts();
    } else if (strcmp(path, "/echo") == 0) {
        char text[256];
        blixard_request_get("HTTP_BLIXARD_DEPTH", text, sizeof(text));
        say("depth", atoi(text), text);
        say("body", blixard_request_read(text, sizeof(text)), query);
    } else if (strcmp(path, "/invoke") == 0) {
        call_other(query);
    } else if (strcmp(path, "/kv") == 0) {
        keep_values();
    } else if (strcmp(path, "/send") == 0) {
        send_messages();
    } else if (strcmp(path, "/self") == 0) {
        call_other("self/self");
    } else if (strcmp(path, "/slow") == 0) {
        call_other("sleeper");
    } else if (strcmp(path, "/sleep") == 0) {
        sleep(20);
    } else if (strcmp(path, "/hostile") == 0) {
        be_hostile(query);
        say("survived", 0, "");
    } else if (strcmp(path, "/log") == 0) {
        blixard_log_with(BLIXARD_WARNING, "two\nlines", "who", "me", "what", "a \"word\"", "none",
                         "", NULL);
    } else if (strcmp(path, "/stream") == 0) {
        char text[64];
        blixard_response_text("first\n");
        blixard_response_flush();
        int32_t length = blixard_request_read(text, sizeof(text));
        blixard_response_write(text, length > 0 ? (size_t)length : 0);
    } else if (strcmp(path, "/span") == 0) {
        int32_t outer = blixard_span_begin("outer");
        int32_t inner = blixard_span_begin("inner");
        blixard_span_attribute(inner, "color", "green");
        say("end", blixard_span_end(inner, "no luck"), "");
        say("end", blixard_span_end(outer, NULL), "");
    }
}
