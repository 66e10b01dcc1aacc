/* One event through a trigger's stages, told one by one; nothing is counted. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"

#include "service/gateway/invoke.h"
#include "service/trigger/parts.h"

enum { SHOWN_BYTES_MAX = 64 << 10 };

struct trigger_test {
    struct list_node link;
    struct trigger_service *service;
    struct trigger_config config;
    char project[64];
    struct event event;
    struct gateway_invoke *invoke;
    struct loop_timer *timer;
    struct error error;
    json_t *document;
    void (*done)(const struct error *error, struct buffer *document, void *context);
    void *context;
};

void trigger_test_free(struct trigger_test *test)
{
    list_remove(&test->link);
    gateway_invoke_free(test->invoke);
    loop_timer_free(test->timer);
    event_done(&test->event);
    trigger_config_done(&test->config);
    json_decref(test->document);
    free(test);
}

static void test_end(void *context)
{
    struct trigger_test *test = context;
    BUFFER_OWNED struct buffer out = {0};
    char *text = test->document != NULL ? json_dumps(test->document, JSON_COMPACT) : NULL;
    buffer_append_string(&out, text != NULL ? text : "{}");
    free(text);
    test->done(test->error.kind != ERROR_NONE ? &test->error : NULL, &out, test->context);
    trigger_test_free(test);
}

static void end_later(struct trigger_test *test)
{
    test->timer = loop_timer_new(test->service->options.loop, test_end, test);
    loop_timer_start(test->timer, 0);
}

static void on_answered(const struct error *error, const struct gateway_result *result,
                        void *context)
{
    struct trigger_test *test = context;
    const struct event *events[1] = {&test->event};
    struct error reason = error != NULL ? *error : (struct error){0};
    bool is_good = error == NULL && result->status >= 200 && result->status <= 299;
    JSON_OWNED json_t *failures =
        is_good ? delivery_failures(&test->config, events, 1, result, &reason) : NULL;
    if (delivery_has_failed(failures, &test->event) && reason.kind == ERROR_NONE) {
        error_set(&reason, ERROR_TRAP, DELIVERY_LISTED);
    }
    test->invoke = NULL;
    json_object_set_new(test->document, "delivered",
                        json_boolean(is_good && reason.kind == ERROR_NONE));
    if (reason.kind != ERROR_NONE) {
        json_object_set_new(test->document, "error", json_string(reason.text));
    }
    if (error == NULL) {
        BUFFER_OWNED struct buffer body = {0};
        struct json_writer writer = json_writer_to(&body);
        size_t length =
            result->body_length < SHOWN_BYTES_MAX ? result->body_length : SHOWN_BYTES_MAX;
        json_write_text(&writer, result->body != NULL ? result->body : "", length);
        json_error_t ignored;
        json_object_set_new(
            test->document, "answer",
            json_loadb((const char *)body.data, body.used, JSON_DECODE_ANY, &ignored));
        json_object_set_new(test->document, "status", json_integer(result->status));
        json_object_set_new(test->document, "function", json_string(result->function));
        json_object_set_new(test->document, "request_id", json_string(result->request_id));
    }
    test_end(test);
}

struct found {
    char *config;
};

static bool take_config(sqlite3_stmt *row, void *context)
{
    ((struct found *)context)->config =
        memory_copy_string((const char *)sqlite3_column_text(row, 0));
    return false;
}

static int read_trigger(struct trigger_test *test, const char *name, struct error *err)
{
    struct found found = {0};
    json_t *document = NULL;
    MEMORY_OWNED char *key = memory_format("%s/%s", test->project, name);
    int r = store_query(test->service->options.store, err, take_config, &found,
                        "SELECT config FROM trigger_row WHERE key = ?", "t", key);
    if (r == 0 && found.config == NULL) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no trigger %.63s; blixard trigger list shows which there are",
                         name);
    }
    r = r < 0 ? r : json_read(found.config, strlen(found.config), &document, err);
    r = r < 0 ? r : trigger_config_read(document, &test->config, err);
    json_decref(document);
    free(found.config);
    return r;
}

/* Filter and transform; false: it ends here. */
static bool run_stages(struct trigger_test *test)
{
    JSON_OWNED json_t *document = event_document(&test->event);
    struct error err = {0};
    bool matches =
        test->config.filter == NULL || event_filter_match(test->config.filter, document, &err);
    json_object_set(test->document, "event", document);
    json_object_set_new(test->document, "matches", json_boolean(matches));
    if (err.kind != ERROR_NONE) {
        json_object_set_new(test->document, "error", json_string(err.text));
    }
    if (!matches) {
        return false;
    }
    if (test->config.transform != NULL) {
        if (event_template_apply(test->config.transform, document, &test->event, &err) < 0) {
            json_object_set_new(test->document, "error", json_string(err.text));
            return false;
        }
        json_object_set_new(test->document, "transformed", event_document(&test->event));
    }
    return true;
}

struct trigger_test *
trigger_test_new(struct trigger_service *service, const char *project, const char *name,
                 const json_t *spec, struct event *event, bool delivers,
                 void (*done)(const struct error *error, struct buffer *document, void *context),
                 void *context)
{
    struct trigger_test *test = NEW(struct trigger_test);
    test->service = service;
    test->event = *event;
    *event = (struct event){0};
    test->document = json_object();
    test->done = done;
    test->context = context;
    snprintf(test->project, sizeof(test->project), "%s", project);
    list_push_back(&service->tests, &test->link);
    int r = spec != NULL ? trigger_config_read(spec, &test->config, &test->error)
                         : read_trigger(test, name, &test->error);
    if (r < 0 || !run_stages(test) || !delivers) {
        end_later(test);
        return test;
    }
    const struct event *events[1] = {&test->event};
    const struct delivery_from from = {project, name, &test->config};
    test->invoke = delivery_send(service, &from, events, 1, on_answered, test);
    return test;
}
