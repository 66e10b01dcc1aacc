/* Functions called without an HTTP client. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

#include "service/gateway/invoke.h"

#include "test/lib/test.h"
#include "test/unit/service/faked/fakes.h"

static struct {
    unsigned count;
    struct error error;
    int status;
    char body[128];
    char fields[256];
    char function[128];
    bool is_untouched;
} told;

static void on_done(const struct error *error, const struct gateway_result *result, void *context)
{
    EXPECT(context == &told);
    told.count++;
    told.error = error != NULL ? *error : (struct error){0};
    told.status = result->status;
    told.is_untouched = result->is_untouched;
    snprintf(told.function, sizeof(told.function), "%s", result->function);
    snprintf(told.body, sizeof(told.body), "%.*s", (int)result->body_length,
             result->body_length > 0 ? (const char *)result->body : "");
    told.fields[0] = '\0';
    for (size_t i = 0; i < result->field_count; i++) {
        size_t used = strlen(told.fields);
        snprintf(told.fields + used, sizeof(told.fields) - used, "%.*s=%.*s;",
                 (int)result->fields[i].name.length, result->fields[i].name.data,
                 (int)result->fields[i].value.length, result->fields[i].value.data);
    }
}

static bool is_told(const void *argument)
{
    return told.count >= *(const unsigned *)argument;
}

static void wait_told(unsigned count)
{
    fake_run_until(is_told, &count);
    EXPECT(told.count == count);
}

static const char *const fields[] = {"ce-id: 7", "Content-Type: text/x", "X-Blixard-Hop: 1", NULL};

static struct gateway_invoke *invoke(const char *name)
{
    return gateway_invoke_new(fake_gateway,
                              &(struct gateway_invocation){.project = "default",
                                                           .name = name,
                                                           .path = "/a",
                                                           .query = "b=c",
                                                           .fields = fields,
                                                           .body = "in",
                                                           .body_length = 2,
                                                           .answer_bytes_max = 20,
                                                           .request_id = "r1"},
                              on_done, &told);
}

static void body_here(void)
{
    memset(&told, 0, sizeof(told));
    invoke("hello");
    fake_turn();
    struct runner_call *call = fake_call(0);
    EXPECT_STRING(fake_variable(call, "HTTP_CE_ID"), "7");
    EXPECT_STRING(fake_variable(call, "CONTENT_TYPE"), "text/x");
    EXPECT_STRING(fake_variable(call, "PATH_INFO"), "/a");
    EXPECT_STRING(fake_variable(call, "QUERY_STRING"), "b=c");
    EXPECT_STRING(fake_variable(call, "BLIXARD_REQUEST_ID"), "r1");
    EXPECT(fake_variable(call, "HTTP_X_BLIXARD_HOP") == NULL);
    EXPECT(call->input.used == 2);
    fake_output(call, "Status: 418\nX-Own: 1\n\nte");
    fake_output(call, "a");
    fake_end(call, VMM_END_EXIT, 0, "");
    wait_told(1);
    EXPECT(told.error.kind == ERROR_NONE && told.status == 418);
    EXPECT_STRING(told.body, "tea");
    EXPECT(strstr(told.fields, "X-Own=1;") != NULL);
    EXPECT(strncmp(told.function, "hello:", 6) == 0);

    invoke("hello");
    fake_turn();
    fake_end(fake_call(0), VMM_END_TRAP, 0, "trap: unreachable");
    wait_told(2);
    EXPECT(told.error.kind == ERROR_TRAP && !told.is_untouched && told.status == 0);

    invoke("hello");
    fake_turn();
    char much[18000 + 1];
    memset(much, 'x', sizeof(much) - 1);
    much[sizeof(much) - 1] = '\0';
    fake_output(fake_call(0), much);
    fake_end(fake_call(0), VMM_END_CANCELLED, 0, "");
    wait_told(3);
    EXPECT(told.error.kind == ERROR_TOO_LARGE);
}

TEST(gateway_invoke, gives_the_function_the_call_and_the_caller_its_answer)
{
    fake_world_run(1, 1, body_here);
}

static void body_refused(void)
{
    memset(&told, 0, sizeof(told));
    invoke("nobody");
    EXPECT(told.count == 0); /* never from inside */
    wait_told(1);
    EXPECT(told.error.kind == ERROR_NOT_FOUND && told.is_untouched);
    static const char *const bad[] = {"no colon", NULL};
    gateway_invoke_new(
        fake_gateway,
        &(struct gateway_invocation){.project = "default", .name = "hello", .fields = bad}, on_done,
        &told);
    wait_told(2);
    EXPECT(told.error.kind == ERROR_INVALID);
    gateway_invoke_new(
        fake_gateway,
        &(struct gateway_invocation){.project = "default", .name = "hello", .path = "/a\r\nb"},
        on_done, &told);
    wait_told(3);
    EXPECT(told.error.kind == ERROR_INVALID);
    gateway_invoke_free(invoke("nobody"));
    struct gateway_invoke *running = invoke("hello");
    fake_turn();
    gateway_invoke_free(running);
    EXPECT(fake_call(0)->is_cancelled);
    fake_end(fake_call(0), VMM_END_CANCELLED, 0, "");
    fake_turn();
    EXPECT(told.count == 3);
}

TEST(gateway_invoke, says_later_what_is_wrong_and_nothing_to_who_has_left)
{
    fake_world_run(1, 1, body_refused);
}

static void body_there(void)
{
    memset(&told, 0, sizeof(told));
    fake_has_others = true;
    invoke("away");
    EXPECT_STRING(fake_asked->target, "POST /fn/away/a?b=c");
    EXPECT_STRING(fake_asked->body, "in");
    EXPECT(strstr(fake_asked->fields, "X-Blixard-Function: default/away:7\n") != NULL);
    EXPECT(strstr(fake_asked->fields, "ce-id: 7\n") != NULL);
    fake_asked_answer(404, NULL, false, "there");
    wait_told(1);
    EXPECT(told.error.kind == ERROR_NONE && told.status == 404);
    EXPECT_STRING(told.body, "there");
    EXPECT_STRING(told.fields, "X-There=yes;");
    EXPECT_STRING(told.function, "away:7");

    invoke("away");
    fake_asked_answer(502, "trap", false, "{\"detail\": \"trap: unreachable\"}");
    wait_told(2);
    EXPECT(told.error.kind == ERROR_TRAP && !told.is_untouched);
    EXPECT_STRING(told.error.text, "trap: unreachable");

    invoke("away");
    uint64_t first = fake_asked->request.node;
    fake_asked_answer(503, "unavailable", true, "{}");
    EXPECT(fake_asked != NULL && fake_asked->request.node != first);
    struct error error;
    error_set(&error, ERROR_UNAVAILABLE, "gone");
    fake_asked_fail(&error, false); /* two are enough */
    wait_told(3);
    EXPECT(told.error.kind == ERROR_UNAVAILABLE && told.is_untouched);

    invoke("away");
    fake_asked_fail(&error, true); /* a function may have seen it */
    wait_told(4);
    EXPECT(told.error.kind == ERROR_UNAVAILABLE && !told.is_untouched && fake_asked == NULL);
    gateway_invoke_free(invoke("away"));
    EXPECT(fake_asked == NULL);
    fake_has_others = false;
}

TEST(gateway_invoke, asks_another_node_and_once_more_only_what_nobody_has_seen)
{
    fake_world_run(1, 1, body_there);
}
