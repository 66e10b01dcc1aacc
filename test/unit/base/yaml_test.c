#include "base/yaml.h"

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"

#include "test/lib/test.h"

static json_t *read_good(const char *text)
{
    json_t *value = NULL;
    struct error err = {0};
    EXPECT(yaml_read(text, strlen(text), &value, &err) == 0);
    return value;
}

static void expect_same(const char *yaml, const char *json)
{
    JSON_OWNED json_t *value = read_good(yaml);
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_SORT_KEYS);
    EXPECT_STRING(text, json);
    free(text);
}

static void expect_refused(const char *yaml, size_t length, enum error_kind kind, const char *words)
{
    json_t *value = NULL;
    struct error err = {0};
    EXPECT(yaml_read(yaml, length, &value, &err) == -(int)kind);
    if (strstr(err.text, words) == NULL) {
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", err.text, words);
        abort();
    }
}

static void expect_invalid(const char *yaml, const char *words)
{
    expect_refused(yaml, strlen(yaml), ERROR_INVALID, words);
}

TEST(yaml, scalars_become_what_json_has_for_them)
{
    expect_same("a: 1\nb: -2\nc: 1.5\nd: true\ne: null\nf: text\n",
                "{\"a\":1,\"b\":-2,\"c\":1.5,\"d\":true,\"e\":null,\"f\":\"text\"}");
    expect_same("a: \"1\"\nb: 'true'\nc: 30s\nd: 128MiB\n",
                "{\"a\":\"1\",\"b\":\"true\",\"c\":\"30s\",\"d\":\"128MiB\"}");
    expect_same("- 1\n- [a, b]\n- {x: y}\n", "[1,[\"a\",\"b\"],{\"x\":\"y\"}]");
    expect_same("a:\nb: ~\nc: ''\n", "{\"a\":null,\"b\":null,\"c\":\"\"}");
    expect_same("a: |\n  x\n  y\nb: >-\n  x\n  y\n", "{\"a\":\"x\\ny\\n\",\"b\":\"x y\"}");
    expect_same("--- \na: http://x:7/y # z\n...\n", "{\"a\":\"http://x:7/y\"}");
}

TEST(yaml, json_is_read_too)
{
    expect_same("{\"json\": [1, true, null]}", "{\"json\":[1,true,null]}");
    expect_same("{\"a\":{\"b\":[-1,2.5e3,\"\"]},\n\t\"c\":\"x:y\"\n}\n",
                "{\"a\":{\"b\":[-1,2500.0,\"\"]},\"c\":\"x:y\"}");
    expect_same("{\"a\": \"\\/\\t\\u00e9\"}", "{\"a\":\"/\\t\xc3\xa9\"}");
}

TEST(yaml, a_text_without_content_is_null)
{
    expect_same("", "null");
    expect_same("\n \n", "null");
    expect_same("# a comment\n\n# another", "null");
}

TEST(yaml, what_makes_small_files_large_is_refused)
{
    expect_invalid("a: &x 1\nb: *x\n", "line");
    expect_invalid("a: !!str 1\n", "tags");
    expect_invalid("a: !!map {}\n", "tags");
    expect_invalid("a: &x [1]\n", "anchors");
    expect_invalid("*a : 1\n", "anchors");
    expect_invalid("&a a: 1\n", "anchors");
    expect_invalid("[a]: 1\n", "key");
}

TEST(yaml, mistakes_are_named_with_their_place)
{
    expect_invalid("a: 1\nb: [1\n", "line");
    expect_invalid("a: 1\na: 2\n", "line 2: a key stands twice");
    expect_invalid("a: 1\n---\nb: 2\n", "line 2: a second document");
    expect_invalid("a: 1\n\tb: 2\n", "line 2");
}

TEST(yaml, size_and_depth_are_bounded)
{
    char deep[128];
    memset(deep, '[', sizeof(deep));
    expect_refused(deep, YAML_DEPTH_MAX + 8, ERROR_INVALID, "");
    char *large = calloc(1, YAML_BYTES_MAX + 1);
    memset(large, ' ', YAML_BYTES_MAX + 1);
    expect_refused(large, YAML_BYTES_MAX + 1, ERROR_TOO_LARGE, "larger");
    free(large);
}

TEST(yaml, keys_of_the_outermost_mapping_have_lines)
{
    static const char text[] = "a: 1\n\n  b: 2\n\"c\": 3\n";
    EXPECT(yaml_line_of(text, strlen(text), "a") == 1);
    EXPECT(yaml_line_of(text, strlen(text), "c") == 4);
    EXPECT(yaml_line_of(text, strlen(text), "z") == 0);
}

TEST(yaml, bytes_that_are_no_text_are_refused_with_their_line)
{
    static const char *const texts[] = {"%\xde", "a: 1\nb: \xff\n", "a: \xc3"};
    static const char *const words[] = {"line 1:", "line 2:", "line 1:"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        json_t *value = NULL;
        struct error err = {0};
        EXPECT(yaml_read(texts[i], strlen(texts[i]), &value, &err) == -ERROR_INVALID);
        EXPECT(strstr(err.text, words[i]) != NULL && strstr(err.text, "UTF-8") != NULL);
    }
}

/* ---- Several documents ---- */

TEST(yaml, documents_of_one_text_have_the_lines_of_their_places)
{
    static const char text[] =
        "a: 1\nb:\n  - c: 2\n    d: 3\n---\n---\n# only this\n---\nz: {y: 1}\n";
    JSON_OWNED json_t *values = NULL;
    JSON_OWNED json_t *lines = NULL;
    struct error err = {0};
    EXPECT(yaml_read_all(text, strlen(text), &values, &lines, &err) == 0);
    EXPECT(json_array_size(values) == 2 && json_array_size(lines) == 2);
    const json_t *first = json_array_get(lines, 0);
    EXPECT(json_u64(first, "") == 1 && json_u64(first, "b") == 2);
    EXPECT(json_u64(first, "b[0].d") == 4);
    EXPECT(json_u64(json_array_get(lines, 1), "z.y") == 9);
}

TEST(yaml, documents_have_their_limits)
{
    BUFFER_OWNED struct buffer text = {0};
    json_t *values = NULL;
    json_t *lines = NULL;
    struct error err = {0};
    for (int i = 0; i <= YAML_DOCUMENTS_MAX; i++) {
        buffer_append_string(&text, "--- 1\n");
    }
    EXPECT(yaml_read_all(buffer_string(&text), text.used, &values, &lines, &err) == -ERROR_LIMIT);
    EXPECT(values == NULL && lines == NULL);
    EXPECT(yaml_read_all("a: [", 4, &values, &lines, &err) == -ERROR_INVALID);
}

/* A key beyond the longest place that is noted, and all below it, have no line of their own. */
TEST(yaml, places_are_noted_only_so_deep)
{
    char text[YAML_PATH_MAX + 32];
    JSON_OWNED json_t *values = NULL;
    JSON_OWNED json_t *lines = NULL;
    struct error err = {0};
    memset(text, 'k', YAML_PATH_MAX);
    snprintf(text + YAML_PATH_MAX, 32, ":\n  below: 1\nnext: 2\n");
    EXPECT(yaml_read_all(text, strlen(text), &values, &lines, &err) == 0);
    EXPECT(json_object_size(json_array_get(lines, 0)) == 3); /* the whole, the key, next */
    EXPECT(json_u64(json_array_get(lines, 0), "next") == 3);
}
