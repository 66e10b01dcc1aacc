/* Settings of a function as a deployment gives them. */
#include <string.h>

#include "base/buffer.h"
#include "base/json.h"

#include "service/function/parts.h"

#include "test/lib/test.h"

static int take(const char *text, struct function_config *ret_config, struct error *err)
{
    JSON_OWNED json_t *object = NULL;
    EXPECT(json_read(text, strlen(text), &object, err) == 0);
    return function_config_take(object, ret_config, err);
}

static void expect_refused(const char *text, enum error_kind kind, const char *says)
{
    struct function_config config = {0};
    struct error err = {0};
    EXPECT(take(text, &config, &err) == -(int)kind);
    EXPECT(strstr(err.text, says) != NULL);
}

TEST(function_config, what_is_not_given_has_its_default)
{
    struct function_config config = {0};
    struct error err = {0};
    EXPECT(take("{}", &config, &err) == 0);
    EXPECT(config.timeout_ms == 30000);
    EXPECT(config.queue_max == 128);
    EXPECT(!config.is_sticky);
    EXPECT(config.async.retries == 2);
    EXPECT(config.async.on_failure[0] == '\0');
    function_config_done(&config);
}

/* Method: what the store has is read back, and written again as it was. */
TEST(function_config, what_was_given_comes_back_from_the_store)
{
    struct function_config config = {0};
    struct function_config again = {0};
    struct error err = {0};
    BUFFER_OWNED struct buffer first = {0};
    BUFFER_OWNED struct buffer second = {0};
    EXPECT(take("{\"queue_max\":7,\"recycle_ms\":9,\"reuse\":\"instance\",\"runtime\":\"wasm\","
                "\"environment\":{\"A\":\"b=c\"},\"fetch\":{\"allow\":[\"example.org\"]},"
                "\"async\":{\"retries\":0,\"max_age_ms\":5000,\"dead_letter\":\"lost\"}}",
                &config, &err) == 0);
    EXPECT(strcmp(config.async.on_failure, "queue:lost") == 0);
    struct json_writer writer = json_writer_to(&first);
    json_write_begin_object(&writer);
    config_write(&writer, &config);
    json_write_end_object(&writer);
    EXPECT(config_read(buffer_string(&first), &again, &err) == 0);
    EXPECT(again.queue_max == 7 && again.recycle_ms == 9 && again.is_sticky);
    EXPECT(again.async.retries == 0 && again.async.max_age_ms == 5000);
    writer = json_writer_to(&second);
    json_write_begin_object(&writer);
    config_write(&writer, &again);
    json_write_end_object(&writer);
    EXPECT(strcmp(buffer_string(&first), buffer_string(&second)) == 0);
    function_config_done(&config);
    function_config_done(&again);
}

TEST(function_config, linux_functions_have_lists_of_where_they_fetch)
{
    struct function_config config = {0};
    struct error err = {0};
    EXPECT(take("{\"runtime\":\"linux\",\"linux\":{\"kernel\":\"k\"},\"fetch\":{\"allow\":["
                "\"example.org\"]}}",
                &config, &err) == 0);
    function_config_done(&config);
}

TEST(function_config, what_cannot_be_is_refused_by_name)
{
    expect_refused("{\"runtime\":\"linux\"}", ERROR_INVALID, "needs a machine image");
    expect_refused("{\"runtime\":\"linux\",\"linux\":{\"kernel\":\"k\"},\"memory_bytes\":67108863}",
                   ERROR_INVALID, "at least 64 MiB");
    expect_refused("{\"runtime\":\"java\"}", ERROR_INVALID, "not wasm or linux");
    expect_refused("{\"reuse\":\"both\"}", ERROR_INVALID, "not request or instance");
    expect_refused("{\"queue_max\":4294967296}", ERROR_INVALID, "queue_max");
    expect_refused("{\"instances_min\":5,\"instances_max\":4}", ERROR_INVALID, "instances_min");
    expect_refused("{\"async\":{\"retries\":101}}", ERROR_INVALID, "retries");
    expect_refused("{\"async\":{\"on_success\":\"mail:me\"}}", ERROR_INVALID, "on-success");
    expect_refused("{\"async\":{\"dead_letter\":\"No Name\"}}", ERROR_INVALID, "is no name");
    expect_refused("{\"async\":{\"dead_letter\":\"a\",\"on_failure\":\"queue:b\"}}", ERROR_INVALID,
                   "one of them");
    expect_refused("{\"environment\":{\"A\":\"b\",\"\":\"c\"}}", ERROR_INVALID, "not empty");
}
