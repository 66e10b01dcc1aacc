/* Messages as events: see message.h. */
#include "service/trigger/message.h"

#include <string.h>
#include <strings.h>

#include "base/error.h"

#include "service/event/event.h"

/* Extensions have names of a-z and 0-9, at most 20 (CloudEvents, 3.1). */
static void add_extensions(struct event *event, const json_t *attributes)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)attributes, name, value)
    {
        char plain[21];
        size_t used = 0;
        struct error ignored = {0};
        for (const char *at = name; *at != '\0' && used < sizeof(plain) - 1; at++) {
            char c = *at >= 'A' && *at <= 'Z' ? (char)(*at - 'A' + 'a') : *at;
            if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
                plain[used++] = c;
            }
        }
        plain[used] = '\0';
        if (used > 0 && event_get(event, plain) == NULL) {
            event_set(event, plain, json_string_value(value), &ignored);
        }
    }
}

void message_to_event(const struct message_event *message, struct event *ret_event)
{
    static const char structured[] = EVENT_TYPE_STRUCTURED;
    struct error err = {0};
    if (message->content_type != NULL &&
        strncasecmp(message->content_type, structured, sizeof(structured) - 1) == 0 &&
        event_read(message->body, message->length, ret_event, &err) == 0) {
        return;
    }
    event_init(ret_event, message->id, message->source, message->type, message->content_type,
               message->body, message->length);
    if (message->subject != NULL && message->subject[0] != '\0') {
        event_set(ret_event, "subject", message->subject, &err);
    }
    if (message->time_ms > 0) {
        event_set_time(ret_event, message->time_ms);
    }
    add_extensions(ret_event, message->attributes);
}
