#include "base/memory.h"

#include "test/lib/test.h"
#include "test/unit/service/faked/fakes.h"

static struct http_exchange *get_running(const char *path, struct runner_call **ret_call)
{
    struct http_exchange *exchange = fake_get(path);
    fake_turn();
    *ret_call = fake_call(0);
    EXPECT(*ret_call != NULL);
    return exchange;
}

static void body_whole(void)
{
    struct runner_call *call;
    struct http_exchange *exchange = get_running("/fn/hello/a/b", &call);
    EXPECT_STRING(fake_variable(call, "SCRIPT_NAME"), "/fn/hello");
    EXPECT_STRING(fake_variable(call, "PATH_INFO"), "/a/b");
    fake_output(call, "Status: 201 Made\nContent-Type: text/x\nX-Own: 1\n\nbo");
    fake_output(call, "dy");
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT(exchange->has_ended && exchange->status == 201 && exchange->length == 4);
    EXPECT(exchange->writes == 0);
    EXPECT_STRING(fake_answer(exchange), "body");
    EXPECT_STRING(fake_field(exchange, "Content-Type"), "text/x");
    EXPECT_STRING(fake_field(exchange, "X-Own"), "1");
    EXPECT_STRING(fake_field(exchange, "X-Blixard-Instance"), "1000-0");
    EXPECT(strlen(fake_field(exchange, "X-Request-Id")) == 32);
    EXPECT(strstr(fake_field(exchange, "Server-Timing"), "run;dur=0.005") != NULL);
    EXPECT_STRING(fake_last_end, "ok");
    http_exchange_unref(exchange);
}

TEST(gateway, answers_in_one_piece_when_the_function_ended)
{
    fake_world_run(1, 1, body_whole);
}

static bool has_begun(const void *argument)
{
    return ((const struct http_exchange *)argument)->has_begun;
}

static void body_stream(void)
{
    struct runner_call *call;
    struct http_exchange *exchange = get_running("/fn/hello", &call);
    fake_output(call, "plain\n");
    EXPECT(!exchange->has_begun);
    fake_run_until(has_begun, exchange);
    EXPECT(exchange->length == UINT64_MAX && exchange->status == 200);
    EXPECT_STRING(fake_field(exchange, "Content-Type"), "text/plain; charset=utf-8");
    exchange->is_slow = true;
    fake_output(call, " and");
    EXPECT(call->is_paused);
    fake_drain(exchange);
    EXPECT(!call->is_paused);
    fake_output(call, " more");
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT(exchange->has_ended);
    EXPECT_STRING(fake_answer(exchange), "plain\n and more");
    http_exchange_unref(exchange);
}

TEST(gateway, streams_what_goes_on_and_holds_back_for_a_slow_client)
{
    fake_world_run(1, 1, body_stream);
}

static void body_big_output(void)
{
    struct runner_call *call;
    struct http_exchange *exchange = get_running("/fn/hello", &call);
    char *text = memory_new(1, 70001);
    memset(text, 'a', 70000);
    fake_output(call, text); /* beyond what is held: at once */
    EXPECT(exchange->has_begun && exchange->body.used == 70000);
    fake_end(call, VMM_END_TRAP, 0, "trap: unreachable");
    EXPECT(exchange->was_aborted && !exchange->has_ended);
    EXPECT(strstr(fake_log, "<3>trap: unreachable") != NULL);
    free(text);
    http_exchange_unref(exchange);
}

TEST(gateway, breaks_off_when_the_function_fails_after_its_answer_began)
{
    fake_world_run(1, 1, body_big_output);
}

struct ending {
    const char *output;
    enum vmm_end end;
    uint32_t exit_code;
    const char *reason;
    int status;
    const char *text; /* in the answer */
    const char *metric;
};

static const struct ending endings[] = {
    {"", VMM_END_EXIT, 0, "", 200, "", "ok"},
    {"", VMM_END_EXIT, 3, "", 502, "exit code 3", "error"},
    {"hm", VMM_END_EXIT, 3, "", 200, "hm", "error"},
    {"hm", VMM_END_TRAP, 0, "trap: division by zero", 502, "trap: division by zero", "trap"},
    {"hm", VMM_END_TIMEOUT, 0, "", 504, "30000 ms", "timeout"},
    {"hm", VMM_END_OUTPUT, 0, "", 502, "output_bytes_max of 1048576 bytes", "output"},
    {"hm", VMM_END_BROKEN, 0, "KVM_RUN failed", 503, "KVM_RUN failed", "broken"},
    {"Status: 99\n\nx", VMM_END_EXIT, 0, "", 502, "Status: 99", "cancelled"},
    {"Status: 404\n\n", VMM_END_EXIT, 0, "", 404, "", "ok"},
    {"Location: /x\n\n", VMM_END_EXIT, 0, "", 302, "", "ok"},
    {"Status: 200\nContent-Length: 3\n\nabc", VMM_END_EXIT, 0, "", 200, "abc", "ok"},
    {"Status: 200\nContent-Length: 4\n\nabc", VMM_END_EXIT, 0, "", 502, "announced 4", "ok"},
    {"Status: 200\nContent-Length: 2\n\nabc", VMM_END_EXIT, 0, "", 502, "announced 2", "ok"},
    {"\xff\xfe", VMM_END_EXIT, 0, "", 200, "\xff\xfe", "ok"},
};

static void body_endings(void)
{
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        const struct ending *ending = &endings[i];
        struct runner_call *call;
        struct http_exchange *exchange = get_running("/fn/hello", &call);
        if (ending->output[0] != '\0') {
            fake_output(call, ending->output);
        }
        if (call->is_cancelled) { /* it was answered for already */
            fake_end(call, VMM_END_CANCELLED, 0, "");
        } else {
            fake_end(call, ending->end, ending->exit_code, ending->reason);
        }
        if (exchange->status != ending->status || !exchange->has_ended ||
            strstr(fake_answer(exchange), ending->text) == NULL) {
            fprintf(stderr, "ending %zu: %d %s\n", i, exchange->status, fake_answer(exchange));
            EXPECT(false);
        }
        EXPECT_STRING(fake_last_end, ending->metric);
        EXPECT(fake_field(exchange, "X-Request-Id")[0] != '\0');
        EXPECT(fake_field(exchange, "Server-Timing")[0] != '\0');
        fake_turn();
        http_exchange_unref(exchange);
    }
}

TEST(gateway, answers_for_every_end_of_a_run)
{
    fake_world_run(1, 1, body_endings);
}

static void body_length_lies(void)
{
    struct runner_call *call;
    struct http_exchange *exchange = get_running("/fn/hello", &call);
    fake_output(call, "Status: 200\nContent-Length: 5\n\nabc");
    fake_run_until(has_begun, exchange);
    EXPECT(exchange->length == 5);
    fake_output(call, "def"); /* one too many */
    EXPECT(exchange->was_aborted && call->is_cancelled);
    EXPECT_STRING(fake_answer(exchange), "abc");
    fake_end(call, VMM_END_CANCELLED, 0, "");
    http_exchange_unref(exchange);

    exchange = get_running("/fn/hello", &call);
    fake_output(call, "Status: 200\nContent-Length: 5\n\nabc");
    fake_run_until(has_begun, exchange);
    fake_end(call, VMM_END_EXIT, 0, ""); /* two too few */
    EXPECT(exchange->was_aborted && !exchange->has_ended);
    http_exchange_unref(exchange);
}

TEST(gateway, breaks_off_an_answer_that_lies_about_its_length)
{
    fake_world_run(1, 1, body_length_lies);
}

static void body_head(void)
{
    struct http_exchange *exchange =
        fake_request(&(struct fake_request){.method = "HEAD", .path = "/fn/hello"});
    fake_turn();
    struct runner_call *call = fake_call(0);
    EXPECT_STRING(fake_variable(call, "REQUEST_METHOD"), "HEAD");
    fake_output(call, "Status: 200\nContent-Length: 1000\n\n");
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT(exchange->has_ended && exchange->length == 1000 && exchange->body.used == 0);
    http_exchange_unref(exchange);
}

TEST(gateway, lets_a_function_announce_a_body_to_head)
{
    fake_world_run(1, 1, body_head);
}

static void body_request_body(void)
{
    struct fake_request request = {
        .method = "POST", .path = "/fn/hello", .has_body = true, .body_length = UINT64_MAX};
    struct http_exchange *exchange = fake_request(&request);
    EXPECT(exchange->body_max == 1 << 20);
    fake_body(exchange, "one ", 4);
    fake_turn();
    EXPECT(fake_call(0) == NULL); /* collected first */
    fake_body(exchange, "two", 3);
    fake_body_end(exchange, NULL);
    fake_turn();
    struct runner_call *call = fake_call(0);
    EXPECT_STRING(buffer_string(&call->input), "one two");
    EXPECT_STRING(fake_variable(call, "CONTENT_LENGTH"), "7");
    EXPECT(call->input_is_whole);
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT(exchange->status == 200);
    http_exchange_unref(exchange);
}

TEST(gateway, collects_a_small_body)
{
    fake_world_run(1, 1, body_request_body);
}

static void body_big_body(void)
{
    struct runner_call *call;
    struct http_exchange *warm = get_running("/fn/hello", &call);
    fake_end(call, VMM_END_EXIT, 0, "");
    http_exchange_unref(warm);

    char *piece = memory_new(1, 65537);
    struct fake_request request = {
        .method = "PUT", .path = "/fn/hello", .has_body = true, .body_length = 65541};
    struct http_exchange *exchange = fake_request(&request);
    fake_body(exchange, piece, 65537);
    call = fake_call(0);
    EXPECT(call != NULL && !call->input_is_whole && call->input.used == 65537);
    EXPECT_STRING(fake_variable(call, "CONTENT_LENGTH"), "65541");
    call->input_is_slow = true;
    fake_body(exchange, "ab", 2);
    EXPECT(exchange->is_paused);
    call->input_is_slow = false;
    call->events.on_writable(call->context);
    EXPECT(!exchange->is_paused);
    fake_body(exchange, "cd", 2);
    fake_body_end(exchange, NULL);
    EXPECT(call->input_is_whole && call->input.used == 65541);
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT(exchange->status == 200);
    http_exchange_unref(exchange);

    /* The function ends first: what still comes goes nowhere, and the call lives until then. */
    exchange = fake_request(&request);
    fake_body(exchange, piece, 65537);
    call = fake_call(0);
    call->input_is_slow = true;
    fake_body(exchange, "ab", 2);
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT(exchange->status == 200 && exchange->has_ended && !exchange->is_paused);
    fake_body(exchange, "cd", 2);
    fake_body_end(exchange, NULL);
    http_exchange_unref(exchange);
    free(piece);
}

TEST(gateway, streams_a_big_body_with_back_pressure)
{
    fake_world_run(1, 1, body_big_body);
}

static void body_bad_body(void)
{
    struct error error;
    struct fake_request request = {
        .method = "PUT", .path = "/fn/hello", .has_body = true, .body_length = UINT64_MAX};
    struct http_exchange *exchange = fake_request(&request);
    fake_body(exchange, "ab", 2);
    error_set(&error, ERROR_TOO_LARGE, "the body is too large");
    fake_body_end(exchange, &error);
    EXPECT(exchange->status == 413 && fake_runner_count == 0);
    http_exchange_unref(exchange);

    request.body_length = (1 << 20) + 1;
    exchange = fake_request(&request);
    EXPECT(exchange->status == 413 && exchange->on_data == NULL);
    http_exchange_unref(exchange);

    struct runner_call *call;
    http_exchange_unref(get_running("/fn/hello", &call));
    fake_end(call, VMM_END_EXIT, 0, "");
    char *piece = memory_new(1, 65537);
    request.body_length = UINT64_MAX;
    exchange = fake_request(&request);
    fake_body(exchange, piece, 65537);
    call = fake_call(0);
    EXPECT(fake_variable(call, "CONTENT_LENGTH") == NULL);
    fake_body_end(exchange, &error);
    EXPECT(call->is_cancelled && exchange->status == 0);
    fake_end(call, VMM_END_CANCELLED, 0, "");
    EXPECT(exchange->status == 413);
    http_exchange_unref(exchange);
    free(piece);
}

TEST(gateway, refuses_a_body_that_is_too_large_before_and_while_it_comes)
{
    fake_world_run(1, 1, body_bad_body);
}

static void body_hang_up(void)
{
    struct runner_call *call;
    struct http_exchange *exchange = get_running("/fn/hello", &call);
    fake_hang_up(exchange);
    EXPECT(call->is_cancelled);
    fake_output(call, "too late");
    fake_end(call, VMM_END_CANCELLED, 0, "");
    EXPECT_STRING(fake_last_end, "cancelled");
    fake_turn();
    EXPECT(exchange->references == 1); /* the gateway let go */
    http_exchange_unref(exchange);

    struct fake_request request = {
        .method = "PUT", .path = "/fn/hello", .has_body = true, .body_length = UINT64_MAX};
    exchange = fake_request(&request);
    fake_body(exchange, "ab", 2);
    fake_hang_up(exchange);
    fake_turn();
    EXPECT(exchange->references == 1 && fake_call(0) == NULL);
    http_exchange_unref(exchange);
}

TEST(gateway, cancels_the_call_of_a_client_that_hangs_up)
{
    fake_world_run(1, 1, body_hang_up);
}

static void body_refusals(void)
{
    struct http_exchange *exchange = fake_get("/fn/nobody/x");
    EXPECT(exchange->status == 404 && fake_field(exchange, "X-Request-Id")[0] != '\0');
    http_exchange_unref(exchange);
    exchange = fake_get("/elsewhere");
    EXPECT(exchange->status == 404);
    http_exchange_unref(exchange);
    exchange = fake_get("/fn/");
    EXPECT(exchange->status == 404);
    http_exchange_unref(exchange);
    exchange = fake_get("/fn/hello/%zz");
    EXPECT(exchange->status == 400);
    http_exchange_unref(exchange);

    struct http_exchange *waiting[6];
    for (unsigned i = 0; i < 6; i++) { /* one runs, four wait: queue_max */
        waiting[i] = fake_get("/fn/hello");
        fake_turn();
    }
    EXPECT(waiting[5]->status == 503 && waiting[5]->error.kind == ERROR_OVERLOADED);
    EXPECT_STRING(fake_last_end, "overloaded");
    for (unsigned i = 0; i < 6; i++) {
        if (i < 5) {
            fake_end(fake_call(0), VMM_END_EXIT, 0, "");
        }
        EXPECT(i == 5 || waiting[i]->status == 200);
        http_exchange_unref(waiting[i]);
    }
}

TEST(gateway, refuses_what_it_cannot_serve)
{
    fake_world_run(1, 1, body_refusals);
}

static void body_death(void)
{
    struct runner_call *call;
    struct http_exchange *exchange = get_running("/fn/hello", &call);
    fake_die(fake_runners[0]);
    EXPECT(exchange->status == 503);
    EXPECT(strstr(fake_answer(exchange), "killed by signal 9") != NULL);
    http_exchange_unref(exchange);
    exchange = get_running("/fn/hello", &call);
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT(exchange->status == 200);
    http_exchange_unref(exchange);
}

TEST(gateway, answers_503_when_the_runner_dies_and_then_works_again)
{
    fake_world_run(1, 1, body_death);
}

static void body_host_and_id(void)
{
    const char *const fields[] = {"Host", "hello.FN.example.org:80", "X-Request-Id", "my-id_1",
                                  NULL};
    struct http_exchange *exchange =
        fake_request(&(struct fake_request){.path = "/fn/x", .query = "q=1", .fields = fields});
    fake_turn();
    struct runner_call *call = fake_call(0);
    EXPECT_STRING(fake_variable(call, "PATH_INFO"), "/fn/x");
    EXPECT_STRING(fake_variable(call, "SCRIPT_NAME"), "");
    EXPECT_STRING(fake_variable(call, "SERVER_NAME"), "hello.FN.example.org");
    EXPECT_STRING(fake_variable(call, "BLIXARD_REQUEST_ID"), "my-id_1");
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT_STRING(fake_field(exchange, "X-Request-Id"), "my-id_1");
    http_exchange_unref(exchange);

    const char *const odd[] = {"Host", "hello.fn.", "X-Request-Id", "a b", NULL};
    exchange = fake_request(&(struct fake_request){.path = "/fn/hello", .fields = odd});
    fake_turn();
    EXPECT(fake_call(0) != NULL);
    EXPECT(strlen(fake_variable(fake_call(0), "BLIXARD_REQUEST_ID")) == 32);
    fake_end(fake_call(0), VMM_END_EXIT, 0, "");
    http_exchange_unref(exchange);
}

TEST(gateway, finds_functions_by_host_and_keeps_harmless_request_ids)
{
    fake_world_run(1, 1, body_host_and_id);
}

static struct http_exchange *left[2];

static void body_leave(void)
{
    struct runner_call *call;
    left[0] = get_running("/fn/hello", &call);
    left[1] = fake_get("/fn/hello");
}

TEST(gateway, stops_with_calls_in_flight)
{
    fake_world_run(1, 1, body_leave);
    EXPECT(left[0]->is_closed && left[1]->is_closed && fake_answers_cancel);
    EXPECT(left[0]->references == 1 && left[1]->references == 1);
    http_exchange_unref(left[0]);
    http_exchange_unref(left[1]);
}

/*
 * Goal: a call that does not end when it is cancelled holds up the stop for a while only, and ends
 * with the instances without harm.
 */
TEST(gateway, stops_although_a_call_does_not_end)
{
    fake_answers_cancel = false;
    fake_world_run(1, 1, body_leave);
    EXPECT(left[0]->is_closed && left[1]->is_closed);
    http_exchange_unref(left[0]);
    http_exchange_unref(left[1]);
}

/* ---- Several loops ---- */

enum { CROSS_CALLS = 40 };

static unsigned cross_done;
static struct http_exchange *cross[CROSS_CALLS];

/* The loop that waits for the last one may be asleep. */
static void cross_is_done(void *argument)
{
    (void)argument;
    cross_done++;
}

static void cross_body(void *argument)
{
    struct http_exchange *exchange = argument;
    if (exchange->has_ended) {
        loop_post(fake_loop, cross_is_done, NULL);
        return;
    }
    if (exchange->on_body_end != NULL && !exchange->is_paused) {
        static const char piece[30000];
        if (exchange->writes < 1000 && exchange->body_max > 60000) {
            exchange->body_max -= 30000;
            fake_body(exchange, piece, sizeof(piece));
        } else {
            fake_body_end(exchange, NULL);
        }
    }
    loop_post(exchange->loop, cross_body, exchange);
}

static struct loop *cross_loop;

static void cross_begin(void *argument)
{
    unsigned i = *(unsigned *)argument;
    struct fake_request request = {
        .method = "PUT", .path = "/fn/hello", .has_body = i % 2 == 0, .body_length = UINT64_MAX};
    cross[i] = fake_request(&request);
    cross[i]->body_max = 210000; /* here: what is left to send */
    loop_post(cross[i]->loop, cross_body, cross[i]);
}

static bool all_crossed(const void *argument)
{
    (void)argument;
    return cross_done == CROSS_CALLS;
}

static void body_threads(void)
{
    static unsigned numbers[CROSS_CALLS];
    fake_echoes = true;
    fake_target.queue_max = CROSS_CALLS;
    for (unsigned i = 0; i < CROSS_CALLS; i++) {
        numbers[i] = i;
        loop_post(cross_loop, cross_begin, &numbers[i]);
    }
    fake_run_until(all_crossed, NULL);
    for (unsigned i = 0; i < CROSS_CALLS; i++) {
        EXPECT(cross[i]->status == 200 && cross[i]->body.used == (i % 2 == 0 ? 150000 : 0));
    }
}

static void find_cross_loop(void)
{
    cross_loop = fake_other_loop();
    body_threads();
}

TEST(gateway, relays_calls_from_another_loop)
{
    fake_world_run(4, 2, find_cross_loop);
    for (unsigned i = 0; i < CROSS_CALLS; i++) {
        http_exchange_unref(cross[i]);
    }
}
