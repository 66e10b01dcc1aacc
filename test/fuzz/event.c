/*
 * Events, filters and templates: whatever the bytes, reading ends; what is read is written and read
 * again as the same; what was parsed can be evaluated.  The first byte chooses what is read.
 */
#include "service/event/event.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void sample(struct event *event)
{
    static const char data[] = "{\"a\":[1,{\"b\":\"x\"}],\"n\":2.5}";
    event_init(event, "1", "/s", "t.x", "application/json", data, sizeof(data) - 1);
}

static void read_one(const uint8_t *bytes, size_t length)
{
    EVENT_OWNED struct event event = {0};
    EVENT_OWNED struct event again = {0};
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    if (event_read(bytes, length, &event, &err) < 0) {
        must(event.attributes == NULL && err.text[0] != '\0');
        return;
    }
    event_write(&event, &out);
    must(event_read(out.data, out.used, &again, &err) == 0);
    must(json_equal(event.attributes, again.attributes));
    must(event.data.used == again.data.used);
}

static void keep_field(const char *name, const char *value, void *context)
{
    struct error err = {0};
    must(event_read_field(context, text_of(name, strlen(name)), text_of(value, strlen(value)),
                          &err) == 0);
}

/* Lines "name:value". */
static void read_fields(const char *text)
{
    EVENT_OWNED struct event event = {0};
    EVENT_OWNED struct event again = {0};
    struct error err = {0};
    while (*text != '\0') {
        size_t line = strcspn(text, "\n");
        const char *colon = memchr(text, ':', line);
        if (colon != NULL &&
            event_read_field(&event, text_of(text, (size_t)(colon - text)),
                             text_of(colon + 1, line - (size_t)(colon - text) - 1), &err) < 0) {
            return;
        }
        text += line + (text[line] != '\0');
    }
    if (event_read_body(&event, "x", 1, &err) == 0) {
        event_write_fields(&event, keep_field, &again);
        must(strcmp(event_get(&event, "id"), event_get(&again, "id")) == 0);
    }
}

static void parse(const char *text, bool is_filter)
{
    EVENT_OWNED struct event event = {0};
    struct error err = {0};
    struct event_filter *filter = NULL;
    struct event_template *template = NULL;
    sample(&event);
    JSON_OWNED json_t *document = event_document(&event);
    if (is_filter && event_filter_parse(text, &filter, &err) == 0) {
        event_filter_match(filter, document, &err);
        event_filter_free(filter);
    } else if (!is_filter && event_template_parse(text, &template, &err) == 0) {
        event_template_apply(template, document, &event, &err);
        event_template_free(template);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    if (length == 0) {
        return 0;
    }
    MEMORY_OWNED char *text = memory_copy_text((const char *)bytes + 1, length - 1);
    struct event *events = NULL;
    size_t count = 0;
    struct error err = {0};
    switch (bytes[0] % 5) {
    case 0:
        read_one(bytes + 1, length - 1);
        break;
    case 1:
        read_fields(text);
        break;
    case 2:
        parse(text, true);
        break;
    case 3:
        parse(text, false);
        break;
    default:
        if (event_read_batch(bytes + 1, length - 1, &events, &count, &err) == 0) {
            for (size_t i = 0; i < count; i++) {
                event_done(&events[i]);
            }
            free(events);
        }
        break;
    }
    return 0;
}
