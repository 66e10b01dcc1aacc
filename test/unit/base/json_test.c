#include "base/json.h"

#include "base/buffer.h"
#include "base/error.h"

#include "test/lib/test.h"

TEST(json, writes_text_that_its_reader_accepts_whatever_the_bytes)
{
    BUFFER_OWNED struct buffer out = {0};
    struct json_writer writer = json_writer_to(&out);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "quote\"", "a\n\x01\\");
    json_write_key(&writer, "bad");
    json_write_text(&writer, "x\xff\xc3\xa9\xe2\x82y", 7);
    json_write_field_u64(&writer, "n", UINT64_C(9007199254740993));
    json_write_field_bool(&writer, "b", false);
    json_write_field_string(&writer, "none", NULL);
    json_write_end_object(&writer);

    JSON_OWNED json_t *value = NULL;
    struct error err = {0};
    EXPECT(json_read(out.data, out.used, &value, &err) == 0);
    EXPECT_STRING(json_string_value(json_object_get(value, "quote\"")), "a\n\x01\\");
    EXPECT_STRING(json_string_value(json_object_get(value, "bad")),
                  "x\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd\xef\xbf\xbdy");
    EXPECT(json_integer_value(json_object_get(value, "n")) == INT64_C(9007199254740993));
    EXPECT(json_is_null(json_object_get(value, "none")));
}

TEST(json, refuses_duplicate_keys_and_names_the_place)
{
    JSON_OWNED json_t *value = NULL;
    struct error err = {0};
    EXPECT(json_read("{\"a\":1,\n\"a\":2}", 15, &value, &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "line 2") != NULL);
    EXPECT(value == NULL);
}

TEST(json, members_that_are_absent_or_something_else_are_empty)
{
    JSON_OWNED json_t *object = json_pack("{s:s, s:i, s:i}", "text", "a", "number", 7, "below", -1);
    EXPECT_STRING(json_text(object, "text"), "a");
    EXPECT_STRING(json_text(object, "number"), "");
    EXPECT_STRING(json_text(object, "absent"), "");
    EXPECT_STRING(json_text(NULL, "text"), "");
    EXPECT(json_u64(object, "number") == 7);
    EXPECT(json_u64(object, "below") == 0);
    EXPECT(json_u64(object, "text") == 0);
    EXPECT(json_u64(object, "absent") == 0);
}
