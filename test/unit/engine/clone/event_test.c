/* Events of Linux functions, and what their answers become. */
#include "engine/clone/event.h"

#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"

#include "test/lib/test.h"

static const char http[] =
    "REQUEST_METHOD=POST\0SCRIPT_NAME=/fn/web\0REQUEST_URI=/fn/web/a%20b?x=1&x=2&y=%C3%A4+z\0"
    "QUERY_STRING=x=1&x=2&y=%C3%A4+z\0REMOTE_ADDR=10.0.0.9\0SERVER_NAME=web.example\0"
    "HTTP_COOKIE=a=1; b=2\0HTTP_X_ONE=uno\0CONTENT_TYPE=text/plain\0"
    "BLIXARD_REQUEST_ID=r-1\0COLOUR=blue";

static json_t *event_of(const char *environment, size_t length, const void *body,
                        size_t body_length)
{
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    json_t *value = NULL;
    clone_event_write(environment, length, body, body_length, 1000, &out);
    EXPECT(json_read(out.data, out.used, &value, &err) == 0);
    return value;
}

TEST(clone_event, a_request_is_an_event_of_format_2)
{
    JSON_OWNED json_t *event = event_of(http, sizeof(http), "hi", 2);
    EXPECT(strcmp(json_text(event, "version"), "2.0") == 0);
    EXPECT(strcmp(json_text(event, "rawPath"), "/a%20b") == 0);
    EXPECT(strcmp(json_text(event, "body"), "hi") == 0);
    EXPECT(json_is_false(json_object_get(event, "isBase64Encoded")));
    const json_t *query = json_object_get(event, "queryStringParameters");
    EXPECT(strcmp(json_text(query, "x"), "1,2") == 0);
    EXPECT(strcmp(json_text(query, "y"), "\xc3\xa4 z") == 0);
    const json_t *fields = json_object_get(event, "headers");
    EXPECT(strcmp(json_text(fields, "x-one"), "uno") == 0);
    EXPECT(strcmp(json_text(fields, "content-type"), "text/plain") == 0);
    EXPECT(json_object_get(fields, "cookie") == NULL);
    EXPECT(json_array_size(json_object_get(event, "cookies")) == 2);
    const json_t *context = json_object_get(event, "requestContext");
    EXPECT(strcmp(json_text(json_object_get(context, "http"), "method"), "POST") == 0);
    EXPECT(strcmp(json_text(context, "domainPrefix"), "web") == 0);
}

/* Goal: all of a request's values are there, however many.  Method: as many as a head can hold. */
TEST(clone_event, a_query_may_be_one_name_very_often)
{
    enum { TIMES = 16000 };
    BUFFER_OWNED struct buffer environment = {0};
    buffer_append_string(&environment, "REMOTE_ADDR=10.0.0.9");
    buffer_append_byte(&environment, 0);
    buffer_append_string(&environment, "QUERY_STRING=%4=%&a=%ff&=3&b");
    for (int i = 0; i < TIMES; i++) {
        buffer_append_string(&environment, "&a=1");
    }
    JSON_OWNED json_t *event = event_of((const char *)environment.data, environment.used, NULL, 0);
    const json_t *query = json_object_get(event, "queryStringParameters");
    const json_t *often = json_object_get(query, "a");
    EXPECT(json_object_size(query) == 3);
    EXPECT(json_string_length(often) == 2 * TIMES - 1);
    EXPECT(strncmp(json_string_value(often), "1,1,1,", 6) == 0);
    EXPECT_STRING(json_text(query, "%4"), "%");
    EXPECT_STRING(json_text(query, "b"), "");
}

TEST(clone_event, bytes_that_are_no_text_are_base64)
{
    JSON_OWNED json_t *event = event_of(http, sizeof(http), "\xff\0", 2);
    EXPECT(json_is_true(json_object_get(event, "isBase64Encoded")));
    EXPECT(strcmp(json_text(event, "body"), "/wA=") == 0);
}

TEST(clone_event, what_does_not_come_by_http_is_the_event_itself)
{
    static const char trigger[] = "REMOTE_ADDR=trigger";
    static const char api[] = "REMOTE_ADDR=127.0.0.1\0SCRIPT_NAME=/v1/functions/a/invocations";
    JSON_OWNED json_t *object = event_of(trigger, sizeof(trigger), "{\"a\":1}", 7);
    JSON_OWNED json_t *nothing = event_of(api, sizeof(api), "", 0);
    JSON_OWNED json_t *text = event_of(trigger, sizeof(trigger), "a b", 3);
    EXPECT(json_integer_value(json_object_get(object, "a")) == 1);
    EXPECT(json_is_null(nothing));
    EXPECT(strcmp(json_string_value(text), "a b") == 0);
}

static void expect_answer(bool is_http, const char *answer, const char *output)
{
    BUFFER_OWNED struct buffer out = {0};
    clone_event_write_answer(is_http, answer, strlen(answer), &out);
    EXPECT(strcmp(buffer_string(&out), output) == 0);
}

TEST(clone_event, an_answer_says_status_fields_cookies_and_body)
{
    expect_answer(true,
                  "{\"statusCode\":418,\"headers\":{\"X-A\":\"1\",\"Content-Type\":\"text/html\"},"
                  "\"cookies\":[\"a=1\"],\"body\":\"aGk=\",\"isBase64Encoded\":true}",
                  "Status: 418\r\nX-A: 1\r\nContent-Type: text/html\r\nSet-Cookie: a=1\r\n\r\nhi");
    expect_answer(true, "{\"statusCode\":200,\"headers\":{\"A\\r\\nB\":\"1\",\"C\":\"x\\ny\"}}",
                  "Status: 200\r\nContent-Type: application/json\r\n\r\n");
}

TEST(clone_event, any_other_value_is_a_body)
{
    expect_answer(true, "\"hi\"", "Content-Type: application/json\r\n\r\nhi");
    expect_answer(true, "{\"a\":1}", "Content-Type: application/json\r\n\r\n{\"a\":1}");
    expect_answer(false, "{\"statusCode\":200}",
                  "Content-Type: application/json\r\n\r\n{\"statusCode\":200}");
    expect_answer(true, "no json", "Content-Type: text/plain\r\n\r\nno json");
}

TEST(clone_event, an_error_is_its_type_and_message)
{
    char text[40];
    clone_event_error_text("{\"errorType\":\"E\",\"errorMessage\":\"m\"}", 36, text, sizeof(text));
    EXPECT(strcmp(text, "E: m") == 0);
    clone_event_error_text("nonsense", 8, text, sizeof(text));
    EXPECT(strcmp(text, "nonsense") == 0);
}

TEST(clone_event, a_prelude_says_status_and_fields)
{
    static const char begun[] =
        "{\"statusCode\":404,\"headers\":{\"x-a\":\"1\"},\"cookies\":[\"a=b\"]}"
        "\0\0\0\0\0\0\0\0body";
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    size_t taken = 0;
    for (size_t length = 0; length < sizeof(begun) - 5; length++) {
        EXPECT(clone_event_take_prelude(true, begun, length, &out, &taken, &err) == 1);
    }
    EXPECT(clone_event_take_prelude(true, begun, sizeof(begun) - 1, &out, &taken, &err) == 0);
    EXPECT(strcmp(begun + taken, "body") == 0);
    EXPECT(strcmp(buffer_string(&out),
                  "Status: 404\r\nx-a: 1\r\nSet-Cookie: a=b\r\n"
                  "Content-Type: application/octet-stream\r\n\r\n") == 0);
}

TEST(clone_event, a_prelude_without_sense_or_end_is_refused)
{
    static char endless[CLONE_EVENT_PRELUDE_MAX + 1];
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    size_t taken = 0;
    memset(endless, 'x', sizeof(endless));
    EXPECT(clone_event_take_prelude(true, "no\0\0\0\0\0\0\0\0", 10, &out, &taken, &err) ==
           -ERROR_INVALID);
    EXPECT(clone_event_take_prelude(true, endless, sizeof(endless) - 1, &out, &taken, &err) == 1);
    EXPECT(clone_event_take_prelude(true, endless, sizeof(endless), &out, &taken, &err) ==
           -ERROR_TOO_LARGE);
}

TEST(clone_event, a_failure_behind_an_answer_has_its_words)
{
    char text[64];
    static const char full[] = "Oops\0eyJlcnJvclR5cGUiOiJPb3BzIiwiZXJyb3JNZXNzYWdlIjoibm8ifQ==";
    clone_event_failure_text(full, sizeof(full) - 1, text, sizeof(text));
    EXPECT(strcmp(text, "Oops: no") == 0);
    clone_event_failure_text("Oops\0!!!", 8, text, sizeof(text));
    EXPECT(strcmp(text, "Oops") == 0);
    clone_event_failure_text("", 0, text, sizeof(text));
    EXPECT(strcmp(text, "") == 0);
}
