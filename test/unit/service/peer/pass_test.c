/*
 * Exchanges that are passed on: a client calls a front, which passes to node b; all three are on
 * one loop.
 */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#include "test/lib/test.h"
#include "test/unit/service/peer/support.h"

static struct scene scene;
static struct http_server *front;
static struct http_client *client;
static struct http_exchange *front_exchange;

/* What the pass was asked for, and how it ended. */
static struct peer_passing passing;
static struct peer_pass *pass;
static unsigned passes_ended;
static struct error pass_error;
static bool was_untouched;

/* What the client heard. */
static int status;
static struct buffer answer;
static char field[256];
static unsigned calls_ended;
static struct error call_error;

/* What the node heard. */
static struct buffer heard; /* "METHOD PATH?QUERY\nNAME: VALUE\n...\nBODY" */
static struct http_exchange *node_exchange;
static bool node_hung_up;

static void on_front_head(int answered, void *context)
{
    (void)answered;
    http_exchange_add_field(context, "X-Front", "yes");
}

static void on_pass_end(const struct error *error, bool is_untouched, void *context)
{
    struct http_exchange *exchange = context;
    passes_ended++;
    pass = NULL;
    pass_error = error != NULL ? *error : (struct error){0};
    was_untouched = is_untouched;
    if (error != NULL && !http_exchange_has_begun(exchange)) {
        http_exchange_respond_error(exchange, error, NULL);
    }
    http_exchange_unref(exchange);
    scene_wake(&scene);
}

static void on_front(struct http_exchange *exchange, void *context)
{
    static const struct peer_pass_events events = {on_front_head, on_pass_end};
    (void)context;
    front_exchange = exchange;
    pass = peer_pass_new(scene.clients, exchange, &passing, &events, exchange);
}

static void on_head(struct http_call *call, int got, void *context)
{
    (void)context;
    status = got;
    field[0] = '\0';
    for (size_t i = 0; i < http_call_field_count(call); i++) {
        struct text name, value;
        http_call_field_at(call, i, &name, &value);
        if (name.length > 2 && strncasecmp(name.data, "X-", 2) == 0) {
            size_t used = strlen(field);
            snprintf(field + used, sizeof(field) - used, "%.*s=%.*s;", (int)name.length, name.data,
                     (int)value.length, value.data);
        }
    }
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    (void)call;
    (void)context;
    buffer_append(&answer, bytes, length);
}

static void on_call_end(struct http_call *call, const struct error *error, void *context)
{
    (void)call;
    (void)context;
    calls_ended++;
    call_error = error != NULL ? *error : (struct error){0};
    scene_wake(&scene);
}

static const struct http_call_events call_events = {on_head, on_data, on_call_end};

static void begin(void)
{
    struct error err = {0};
    uint16_t port = 0;
    char address[64];
    const struct http_server_options options = http_server_defaults();
    const struct http_client_options client_options = {0};
    scene_open(&scene);
    EXPECT(http_server_new(scene.loop, &options, on_front, NULL, &front, &err) == 0);
    EXPECT(http_server_listen(front, "127.0.0.1:0", &port, &err) == 0);
    snprintf(address, sizeof(address), "127.0.0.1:%u", port);
    EXPECT(http_client_new(scene.loop, address, &client_options, &client, &err) == 0);
    passing = (struct peer_passing){.node = scene.others[0].id, .target = "/passed?q=1"};
}

static void end(void)
{
    http_client_free(client);
    http_server_free(front);
    scene_close(&scene);
    buffer_done(&answer);
    buffer_done(&heard);
}

/* ---- The node: tells what it heard ---- */

static void note_head(struct http_exchange *exchange)
{
    struct text method = http_exchange_method_text(exchange);
    struct text path = http_exchange_path(exchange);
    struct text query = http_exchange_query(exchange);
    buffer_clear(&heard);
    buffer_append_format(&heard, "%.*s %.*s?%.*s\n", (int)method.length, method.data,
                         (int)path.length, path.data, (int)query.length,
                         query.length > 0 ? query.data : "");
    for (size_t i = 0; i < http_exchange_field_count(exchange); i++) {
        struct text name, value;
        http_exchange_field_at(exchange, i, &name, &value);
        buffer_append_format(&heard, "%.*s: %.*s\n", (int)name.length, name.data, (int)value.length,
                             value.data);
    }
}

static void on_node_body(struct buffer *body, const struct error *error, void *context)
{
    struct http_exchange *exchange = context;
    EXPECT(error == NULL);
    if (body->used > 0) {
        buffer_append(&heard, body->data, body->used);
    }
    http_exchange_add_field(exchange, "X-Own", "1");
    http_exchange_add_field(exchange, PEER_FIELD_DEADLINE, "7");
    http_exchange_respond(exchange, 201, body->data, body->used);
    http_exchange_unref(exchange);
}

static void echo(struct http_exchange *exchange, void *context)
{
    (void)context;
    note_head(exchange);
    http_exchange_read_all(exchange, 1 << 22, on_node_body, exchange);
}

TEST(peer_pass, carries_request_and_answer_over)
{
    static const char *const fields[] = {
        "X-Kept: a",        "Connection: X-Hidden",     "X-Hidden: b",
        "x-blixard-hop: 1", "X-Blixard-Function: evil", NULL};
    static const char *const own[] = {"X-Blixard-Function: p/f:1", "X-Blixard-Hop: 1", NULL};
    begin();
    scene.others[0].handler = echo;
    passing.fields = own;
    http_client_call(client, "PUT", "/in", fields, "hello", 5, &call_events, NULL);
    run_until(&scene, &calls_ended, 1);
    run_until(&scene, &passes_ended, 1);
    EXPECT(status == 201 && pass_error.kind == ERROR_NONE && call_error.kind == ERROR_NONE);
    EXPECT_STRING(buffer_string(&answer), "hello");
    EXPECT_STRING(field, "X-Own=1;X-Front=yes;");
    const char *text = buffer_string(&heard);
    EXPECT(strncmp(text, "PUT /passed?q=1\n", 16) == 0);
    EXPECT(strstr(text, "X-Kept: a\n") != NULL && strstr(text, "X-Hidden") == NULL);
    EXPECT(strstr(text, "X-Blixard-Function: p/f:1\n") != NULL && strstr(text, "evil") == NULL);
    EXPECT(strstr(text, "x-blixard-hop") == NULL);
    EXPECT(peer_calls_of(scene.clients, scene.others[0].id) == 0);
    end();
}

TEST(peer_pass, streams_what_is_larger_than_any_buffer)
{
    begin();
    scene.others[0].handler = echo;
    size_t length = 3 << 20;
    uint8_t *body = memory_new(1, length);
    for (size_t i = 0; i < length; i++) {
        body[i] = (uint8_t)(i * 31 + i / 1000);
    }
    http_client_call(client, "POST", "/in", NULL, body, length, &call_events, NULL);
    run_until(&scene, &calls_ended, 1);
    run_until(&scene, &passes_ended, 1);
    EXPECT(status == 201 && answer.used == length && memcmp(answer.data, body, length) == 0);
    free(body);
    end();
}

TEST(peer_pass, leaves_the_request_whole_when_nobody_took_it)
{
    begin();
    other_stop(&scene.others[0]);
    http_client_call(client, "POST", "/in", NULL, "hello", 5, &call_events, NULL);
    run_until(&scene, &calls_ended, 1);
    EXPECT(passes_ended == 1 && was_untouched && pass_error.kind == ERROR_UNAVAILABLE);
    EXPECT(strstr(pass_error.text, "node b") != NULL && status == 503);
    passing.node = 99;
    http_client_call(client, "GET", "/in", NULL, NULL, 0, &call_events, NULL);
    run_until(&scene, &calls_ended, 2);
    EXPECT(passes_ended == 2 && was_untouched);
    end();
}

static void refuse(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_exchange_add_field(exchange, PEER_FIELD_REFUSED, "1");
    http_exchange_respond(exchange, 503, NULL, 0);
    http_exchange_unref(exchange);
}

TEST(peer_pass, can_be_tried_elsewhere_when_the_node_refused)
{
    begin();
    scene.others[0].handler = refuse;
    passing.takes_refusal = true;
    http_client_call(client, "GET", "/in", NULL, NULL, 0, &call_events, NULL);
    run_until(&scene, &calls_ended, 1);
    EXPECT(was_untouched && pass_error.kind == ERROR_UNAVAILABLE);
    passing.takes_refusal = false; /* then it is the answer */
    http_client_call(client, "GET", "/in", NULL, NULL, 0, &call_events, NULL);
    run_until(&scene, &calls_ended, 2);
    run_until(&scene, &passes_ended, 2);
    EXPECT(pass_error.kind == ERROR_NONE && status == 503);
    end();
}

static void on_node_close(void *context)
{
    (void)context;
    node_hung_up = true;
    http_exchange_unref(node_exchange);
    node_exchange = NULL;
    scene_wake(&scene);
}

static void hold(struct http_exchange *exchange, void *context)
{
    (void)context;
    node_exchange = exchange;
    http_exchange_on(exchange, NULL, on_node_close, NULL);
    scene_wake(&scene);
}

static void run_until_held(void)
{
    while (node_exchange == NULL) {
        loop_run(scene.loop);
    }
}

TEST(peer_pass, tells_the_node_when_the_client_goes_away)
{
    begin();
    scene.others[0].handler = hold;
    struct http_call *call =
        http_client_call(client, "GET", "/in", NULL, NULL, 0, &call_events, NULL);
    run_until_held();
    http_call_cancel(call);
    while (!node_hung_up) {
        loop_run(scene.loop);
    }
    run_until(&scene, &passes_ended, 1);
    EXPECT(pass_error.kind == ERROR_CANCELLED && !was_untouched);
    end();
}

TEST(peer_pass, ends_in_time)
{
    begin();
    scene.others[0].handler = hold;
    passing.timeout_ms = 20;
    http_client_call(client, "GET", "/in", NULL, NULL, 0, &call_events, NULL);
    run_until(&scene, &calls_ended, 1);
    EXPECT(pass_error.kind == ERROR_TIMEOUT && !was_untouched && status == 504);
    while (!node_hung_up) {
        loop_run(scene.loop);
    }
    end();
}

static void break_off(struct http_exchange *exchange, void *context)
{
    (void)context;
    http_exchange_begin(exchange, 200, 1000);
    http_exchange_write(exchange, "some", 4);
    http_exchange_abort(exchange);
    http_exchange_unref(exchange);
}

TEST(peer_pass, breaks_off_what_the_node_broke_off)
{
    begin();
    scene.others[0].handler = break_off;
    http_client_call(client, "GET", "/in", NULL, NULL, 0, &call_events, NULL);
    run_until(&scene, &calls_ended, 1);
    run_until(&scene, &passes_ended, 1);
    EXPECT(call_error.kind != ERROR_NONE && pass_error.kind == ERROR_UNAVAILABLE);
    EXPECT(!was_untouched);
    end();
}

/* ---- Calls ---- */

static unsigned told;
static int told_status;
static struct error told_error;

static void on_told(const struct error *error, int got, struct buffer *body, void *context)
{
    (void)context;
    told++;
    told_status = got;
    told_error = error != NULL ? *error : (struct error){0};
    buffer_clear(&answer);
    buffer_append(&answer, body->data, body->used);
    scene_wake(&scene);
}

TEST(peer_call, gets_the_whole_answer_or_why_there_is_none)
{
    struct peer_request request = {.node = 2,
                                   .method = "POST",
                                   .target = "/x",
                                   .body = "abc",
                                   .body_length = 3,
                                   .answer_bytes_max = 3,
                                   .timeout_ms = 10000};
    begin();
    scene.others[0].handler = echo;
    peer_call_new(scene.clients, &request, on_told, NULL);
    run_until(&scene, &told, 1);
    EXPECT(told_status == 201 && told_error.kind == ERROR_NONE);
    EXPECT_STRING(buffer_string(&answer), "abc");
    request.answer_bytes_max = 2;
    peer_call_new(scene.clients, &request, on_told, NULL);
    run_until(&scene, &told, 2);
    EXPECT(told_error.kind == ERROR_TOO_LARGE);
    request.node = 99;
    peer_call_new(scene.clients, &request, on_told, NULL);
    run_until(&scene, &told, 3);
    EXPECT(told_error.kind == ERROR_UNAVAILABLE);
    request.node = 2;
    request.timeout_ms = 20;
    scene.others[0].handler = hold;
    peer_call_new(scene.clients, &request, on_told, NULL);
    run_until(&scene, &told, 4);
    EXPECT(told_error.kind == ERROR_TIMEOUT && strstr(told_error.text, "node b") != NULL);
    while (!node_hung_up) {
        loop_run(scene.loop);
    }
    struct peer_call *left = peer_call_new(scene.clients, &request, on_told, NULL);
    peer_call_free(left);
    EXPECT(told == 4 && peer_calls_of(scene.clients, 2) == 0);
    end();
}
