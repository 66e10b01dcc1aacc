#include <pthread.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "service/telemetry/telemetry.h"
#include "service/telemetry/trace.h"

#include "test/lib/test.h"

/* ---- Contexts ---- */

static const char given[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

static bool reads(const char *text)
{
    struct trace_context context;
    bool is_read = trace_read_parent(text_of(text, strlen(text)), &context);
    EXPECT(is_read == trace_context_is_set(&context));
    return is_read;
}

TEST(trace, a_traceparent_comes_out_as_it_went_in)
{
    char text[TRACE_PARENT_SIZE];
    char id[TRACE_ID_SIZE];
    struct trace_context context = trace_parent_of(given);
    trace_write_parent(&context, text);
    trace_write_id(&context, id);
    EXPECT_STRING(text, given);
    EXPECT_STRING(id, "0af7651916cd43dd8448eb211c80319c");
}

/* The cases of the specification's own test suite (w3c/trace-context, test/test.py). */
TEST(trace, malformed_traceparents_are_none)
{
    EXPECT(reads(given));
    EXPECT(reads("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    EXPECT(reads("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes"));
    EXPECT(!reads("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what"));
    EXPECT(!reads("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    EXPECT(!reads("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what"));
    EXPECT(!reads("00-00000000000000000000000000000000-b7ad6b7169203331-01"));
    EXPECT(!reads("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"));
    EXPECT(!reads("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    EXPECT(!reads("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"));
    EXPECT(!reads("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-.0"));
    EXPECT(!reads("00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    EXPECT(!reads(".0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    EXPECT(!reads(""));
}

TEST(trace, unknown_flags_are_not_passed_on)
{
    struct trace_context context =
        trace_parent_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff");
    EXPECT(context.flags == TRACE_SAMPLED);
}

/* ---- Keeping ---- */

static struct telemetry *open_it(uint64_t per_second, uint64_t percent, uint64_t traces_max)
{
    struct telemetry *telemetry = NULL;
    struct error err = {0};
    struct telemetry_options options = {.folder = test_folder(),
                                        .node_name = "n",
                                        .traces_max = traces_max,
                                        .traces_per_second = per_second,
                                        .trace_sample_percent = percent};
    EXPECT(telemetry_open(&options, &telemetry, &err) == 0);
    return telemetry;
}

static json_t *list_of(struct telemetry *telemetry, const struct trace_filter *filter)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    json_t *list = NULL;
    trace_write_list(telemetry, filter, &text);
    EXPECT(json_read(text.data, text.used, &list, &err) == 0);
    return list;
}

static size_t count(struct telemetry *telemetry)
{
    JSON_OWNED json_t *list = list_of(telemetry, &(struct trace_filter){.count_max = 100000});
    return json_array_size(list);
}

static json_t *spans_of(struct telemetry *telemetry, const struct trace_context *context)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    json_t *list = NULL;
    trace_write_spans(telemetry, NULL, context->trace, &text);
    EXPECT(json_read(text.data, text.used, &list, &err) == 0);
    return list;
}

static void one(struct telemetry *telemetry, const char *name, struct trace_context parent,
                bool fails, struct trace_context *ret_context)
{
    struct trace_span span;
    trace_begin(telemetry, &span, &(struct trace_start){.name = name, .parent = parent});
    if (fails) {
        trace_fail(&span, "trap", "it broke");
    }
    if (ret_context != NULL) {
        *ret_context = span.context;
    }
    trace_end(telemetry, &span);
}

static const struct trace_context none;

TEST(trace, what_is_sampled_is_kept_with_all_it_was_told)
{
    struct telemetry *telemetry = open_it(1000, 0, 0);
    struct trace_span span;
    trace_begin(
        telemetry, &span,
        &(struct trace_start){.name = "GET /x", .kind = TRACE_SERVER, .state = text_of("a=1", 3)});
    trace_text(&span, "faas.name", "hello");
    trace_text(&span, "blixard.project", "default");
    trace_number(&span, "http.response.status_code", 200);
    trace_flag(&span, "faas.coldstart", true);
    trace_event(&span, "first byte");
    struct trace_context context = span.context;
    EXPECT(context.flags == TRACE_SAMPLED);
    trace_end(telemetry, &span);
    JSON_OWNED json_t *spans = spans_of(telemetry, &context);
    EXPECT(json_array_size(spans) == 1);
    const json_t *only = json_array_get(spans, 0);
    const json_t *attributes = json_object_get(only, "attributes");
    EXPECT_STRING(json_string_value(json_object_get(only, "name")), "GET /x");
    EXPECT_STRING(json_string_value(json_object_get(only, "kind")), "server");
    EXPECT_STRING(json_string_value(json_object_get(attributes, "faas.coldstart")), "true");
    EXPECT_STRING(json_string_value(json_object_get(attributes, "http.response.status_code")),
                  "200");
    EXPECT(json_array_size(json_object_get(only, "events")) == 1);
    EXPECT(json_object_get(only, "parent") == NULL);
    JSON_OWNED json_t *mine = list_of(telemetry, &(struct trace_filter){.function = "hello"});
    JSON_OWNED json_t *other = list_of(telemetry, &(struct trace_filter){.function = "other"});
    EXPECT(json_array_size(mine) == 1 && json_array_size(other) == 0);
    telemetry_close(telemetry);
}

/*
 * Goal: a span that nobody sampled is kept when a later one of its trace fails, and one after that,
 * too; another trace's is not.
 */
TEST(trace, an_error_keeps_the_whole_trace)
{
    struct telemetry *telemetry = open_it(0, 0, 0);
    struct trace_context root;
    struct trace_context fine;
    one(telemetry, "fine", none, false, &fine);
    one(telemetry, "below", fine, false, NULL);
    one(telemetry, "root", none, false, &root);
    one(telemetry, "child", root, false, NULL);
    EXPECT(count(telemetry) == 0);
    one(telemetry, "failed", root, true, NULL);
    one(telemetry, "late", root, false, NULL);
    EXPECT(count(telemetry) == 1);
    JSON_OWNED json_t *spans = spans_of(telemetry, &root);
    EXPECT(json_array_size(spans) == 3); /* the root itself was over before, and had no parent */
    JSON_OWNED json_t *errors = list_of(telemetry, &(struct trace_filter){.errors_only = true});
    EXPECT(json_array_size(errors) == 1);
    telemetry_close(telemetry);
}

/* The root ends last, and says what went wrong; by then there is no room for it. */
TEST(trace, an_error_keeps_a_trace_that_is_full)
{
    enum { SPANS_MAX = 1024 };
    struct telemetry *telemetry = open_it(0, 0, 0);
    struct trace_context root =
        trace_parent_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    for (unsigned i = 0; i < SPANS_MAX; i++) {
        one(telemetry, "child", root, false, NULL);
        if (i % 100 == 0) {
            EXPECT(count(telemetry) == 0); /* and they are out of the thread's buffer */
        }
    }
    one(telemetry, "failed", root, true, NULL);
    JSON_OWNED json_t *spans = spans_of(telemetry, &root);
    EXPECT(json_array_size(spans) == SPANS_MAX);
    EXPECT(count(telemetry) == 1);
    telemetry_close(telemetry);
}

TEST(trace, what_was_slow_is_kept)
{
    struct telemetry *telemetry = open_it(0, 0, 0);
    struct trace_span span;
    uint64_t now_ns = clock_monotonic_ns();
    trace_begin(telemetry, &span, &(struct trace_start){.name = "quick", .start_ns = now_ns});
    EXPECT(!trace_is_wanted(telemetry, &span));
    trace_end_at(telemetry, &span, now_ns + 999999999);
    EXPECT(count(telemetry) == 0);
    trace_begin(telemetry, &span, &(struct trace_start){.name = "slow", .start_ns = now_ns});
    trace_end_at(telemetry, &span, now_ns + 1000000000);
    EXPECT(count(telemetry) == 1);
    JSON_OWNED json_t *slow =
        list_of(telemetry, &(struct trace_filter){.slower_than_ns = 1000000000});
    JSON_OWNED json_t *slower =
        list_of(telemetry, &(struct trace_filter){.slower_than_ns = 1000000001});
    EXPECT(json_array_size(slow) == 1 && json_array_size(slower) == 0);
    telemetry_close(telemetry);
}

TEST(trace, the_head_samples_the_first_of_a_second_and_a_share)
{
    enum { PER_SECOND = 5, MANY = 20000 };
    struct telemetry *telemetry = open_it(PER_SECOND, 10, 0);
    unsigned sampled = 0;
    for (int i = 0; i < MANY; i++) {
        struct trace_span span;
        trace_begin(telemetry, &span, &(struct trace_start){.name = "x"});
        EXPECT(i >= PER_SECOND || span.context.flags == TRACE_SAMPLED);
        sampled += span.context.flags;
        trace_drop(&span);
    }
    EXPECT(sampled > MANY / 15 && sampled < MANY / 7);
    /* The verdict of a caller counts, either way. */
    struct trace_span span;
    trace_begin(telemetry, &span,
                &(struct trace_start){.name = "x", .parent = trace_parent_of(given)});
    EXPECT(span.context.flags == TRACE_SAMPLED);
    trace_drop(&span);
    telemetry_close(telemetry);
}

TEST(trace, the_store_is_bounded_and_keeps_the_newest)
{
    struct telemetry *telemetry = open_it(0, 100, 10);
    struct trace_context first;
    struct trace_context last = none;
    one(telemetry, "first", none, false, &first);
    for (int i = 0; i < 30; i++) {
        one(telemetry, "x", none, false, &last);
    }
    EXPECT(count(telemetry) == 10);
    JSON_OWNED json_t *gone = spans_of(telemetry, &first);
    JSON_OWNED json_t *kept = spans_of(telemetry, &last);
    EXPECT(json_array_size(gone) == 0 && json_array_size(kept) == 1);
    telemetry_close(telemetry);
}

/* Goal: a span that is told too much says how much is missing, and nothing is written over. */
TEST(trace, what_has_no_room_is_counted)
{
    struct telemetry *telemetry = open_it(0, 100, 0);
    struct trace_span span;
    char text[600];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    trace_begin(telemetry, &span, &(struct trace_start){.name = text});
    static const char *const keys[] = {"a", "b", "c", "d", "e"};
    for (int i = 0; i < 5; i++) {
        trace_text(&span, keys[i], text);
    }
    struct trace_context context = span.context;
    trace_end(telemetry, &span);
    JSON_OWNED json_t *spans = spans_of(telemetry, &context);
    const json_t *only = json_array_get(spans, 0);
    EXPECT(json_integer_value(json_object_get(only, "dropped")) == 2);
    EXPECT(strlen(json_string_value(json_object_get(only, "name"))) == TRACE_NAME_MAX);
    telemetry_close(telemetry);
}

TEST(trace, of_attributes_with_one_key_the_last_counts)
{
    struct telemetry *telemetry = open_it(0, 100, 0);
    struct trace_span span;
    trace_begin(telemetry, &span, &(struct trace_start){.name = "x"});
    trace_text(&span, "key", "first");
    trace_number(&span, "other", -1);
    trace_number(&span, "key", 2);
    struct trace_context context = span.context;
    trace_end(telemetry, &span);
    JSON_OWNED json_t *spans = spans_of(telemetry, &context);
    const json_t *attributes = json_object_get(json_array_get(spans, 0), "attributes");
    EXPECT_STRING(json_string_value(json_object_get(attributes, "key")), "2");
    EXPECT_STRING(json_string_value(json_object_get(attributes, "other")), "-1");
    telemetry_close(telemetry);
}

/* ---- Threads ---- */

enum { THREADS = 4, SPANS = 5000 };

static void *write_many(void *argument)
{
    struct telemetry *telemetry = argument;
    for (int i = 0; i < SPANS; i++) {
        one(telemetry, "x", none, false, NULL);
    }
    return NULL;
}

/* Goal: records of several threads come whole, also around the end of a buffer, and a buffer that
 * a thread has left serves the next. */
TEST(trace, threads_write_beside_each_other)
{
    struct telemetry *telemetry = open_it(0, 100, THREADS * SPANS * 2);
    pthread_t threads[THREADS];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < THREADS; i++) {
            EXPECT(pthread_create(&threads[i], NULL, write_many, telemetry) == 0);
        }
        for (int i = 0; i < THREADS; i++) {
            EXPECT(pthread_join(threads[i], NULL) == 0);
        }
    }
    size_t kept = count(telemetry);
    EXPECT(kept > SPANS && kept <= (size_t)THREADS * SPANS * 2);
    telemetry_close(telemetry);
}
