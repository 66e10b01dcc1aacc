#include "service/event/event.h"

#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "test/lib/test.h"

static const char order[] =
    "{\"specversion\":\"1.0\",\"id\":\"a1\",\"source\":\"/shop\",\"type\":\"order.created\","
    "\"region\":\"eu\",\"sequence\":7,\"subject\":\"Euro \\u20ac\","
    "\"data\":{\"total\":120.5,\"items\":[{\"sku\":\"x\"},{\"sku\":\"y\"}],\"tags\":[\"new\","
    "\"vip\"],"
    "\"paid\":true,\"note\":null}}";

static void read_order(struct event *event)
{
    struct error err = {0};
    EXPECT(event_read(order, strlen(order), event, &err) == 0);
}

TEST(event, structured_is_read_and_written_as_it_was)
{
    EVENT_OWNED struct event event = {0};
    EVENT_OWNED struct event again = {0};
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    read_order(&event);
    EXPECT(strcmp(event_get(&event, "type"), "order.created") == 0);
    event_write(&event, &out);
    EXPECT(event_read(out.data, out.used, &again, &err) == 0);
    EXPECT(json_equal(event.attributes, again.attributes));
    EXPECT(event.data.used == again.data.used);
    EXPECT(memcmp(event.data.data, again.data.data, again.data.used) == 0);
}

static void refused(const char *text, const char *says)
{
    EVENT_OWNED struct event event = {0};
    struct error err = {0};
    EXPECT(event_read(text, strlen(text), &event, &err) < 0);
    EXPECT(strstr(err.text, says) != NULL);
    EXPECT(event.attributes == NULL && event.data.data == NULL);
}

TEST(event, what_is_required_is_required)
{
    refused("{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\"}", "\"type\"");
    refused("{\"specversion\":\"1.0\",\"id\":\"\",\"source\":\"/\",\"type\":\"t\"}", "\"id\"");
    refused("{\"specversion\":\"0.3\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\"}", "1.0");
    refused("{\"specversion\":\"1.0\",\"id\":1,\"source\":\"/\",\"type\":\"t\"}", "a string");
    refused("{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\",\"Bad\":\"x\"}",
            "Bad");
    refused("{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\",\"x\":[1]}",
            "integer");
    refused("{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\","
            "\"time\":\"yesterday\"}",
            "RFC 3339");
    refused("{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\",\"data\":1,"
            "\"data_base64\":\"AA==\"}",
            "not both");
    refused("{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\","
            "\"data_base64\":\"A\"}",
            "base64");
    refused("[]", "object");
    refused("{", "line");
}

TEST(event, data_keep_their_kind)
{
    static const char binary[] = "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\","
                                 "\"type\":\"t\",\"datacontenttype\":\"application/octet-stream\","
                                 "\"data_base64\":\"AAH/\"}";
    static const char text[] = "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\","
                               "\"type\":\"t\",\"datacontenttype\":\"text/plain\","
                               "\"data\":\"hi \\\"you\\\"\"}";
    EVENT_OWNED struct event event = {0};
    EVENT_OWNED struct event second = {0};
    struct error err = {0};
    EXPECT(event_read(binary, strlen(binary), &event, &err) == 0);
    EXPECT(event.data.used == 3 && memcmp(event.data.data, "\0\1\xff", 3) == 0);
    JSON_OWNED json_t *document = event_document(&event);
    EXPECT(strcmp(json_string_value(json_object_get(document, "data_base64")), "AAH/") == 0);
    EXPECT(event_read(text, strlen(text), &second, &err) == 0);
    EXPECT(second.data.used == 8 && memcmp(second.data.data, "hi \"you\"", 8) == 0);
}

static void collect(const char *name, const char *value, void *context)
{
    buffer_append_format(context, "%s: %s\n", name, value);
}

static void tell_back(const char *name, const char *value, void *context)
{
    struct error err = {0};
    EXPECT(event_read_field(context, text_of(name, strlen(name)), text_of(value, strlen(value)),
                            &err) == 0);
}

TEST(event, binary_mode_encodes_what_a_field_cannot_hold)
{
    EVENT_OWNED struct event event = {0};
    EVENT_OWNED struct event again = {0};
    BUFFER_OWNED struct buffer fields = {0};
    struct error err = {0};
    read_order(&event);
    event_write_fields(&event, collect, &fields);
    EXPECT(strstr(buffer_string(&fields), "ce-subject: Euro%20%E2%82%AC\n") != NULL);
    EXPECT(strstr(buffer_string(&fields), "ce-sequence: 7\n") != NULL);
    EXPECT(strstr(buffer_string(&fields), "Content-Type: application/json\n") != NULL);
    event_write_fields(&event, tell_back, &again);
    EXPECT(event_read_body(&again, event.data.data, event.data.used, &err) == 0);
    EXPECT(strcmp(event_get(&again, "subject"), "Euro \xe2\x82\xac") == 0);
    EXPECT(strcmp(event_get(&again, "sequence"), "7") == 0);
}

TEST(event, data_without_a_type_are_called_json_only_where_they_are)
{
    static const struct {
        const char *data;
        const char *type;
    } cases[] = {{"{\"a\": 1}", "Content-Type: application/json\n"},
                 {"kept", "Content-Type: application/octet-stream\n"},
                 {"\xff", "Content-Type: application/octet-stream\n"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        EVENT_OWNED struct event event = {0};
        BUFFER_OWNED struct buffer fields = {0};
        event_init(&event, "1", "/s", "t", NULL, cases[i].data, strlen(cases[i].data));
        event_write_fields(&event, collect, &fields);
        EXPECT(strstr(buffer_string(&fields), cases[i].type) != NULL);
    }
}

TEST(event, a_batch_names_the_event_that_is_wrong)
{
    EVENT_OWNED struct event event = {0};
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    struct event *events = NULL;
    size_t count = 0;
    read_order(&event);
    const struct event *both[2] = {&event, &event};
    event_write_batch(both, 2, &out);
    EXPECT(event_read_batch(out.data, out.used, &events, &count, &err) == 0 && count == 2);
    event_done(&events[0]);
    event_done(&events[1]);
    free(events);
    static const char bad[] =
        "[{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/\",\"type\":\"t\"},{}]";
    EXPECT(event_read_batch(bad, strlen(bad), &events, &count, &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "event 2") != NULL && events == NULL);
}

/* ---- Filters ---- */

static bool matches(const char *filter_text)
{
    EVENT_OWNED struct event event = {0};
    struct error err = {0};
    struct event_filter *filter = NULL;
    read_order(&event);
    JSON_OWNED json_t *document = event_document(&event);
    int r = event_filter_parse(filter_text, &filter, &err);
    if (r < 0) {
        printf("%s: %s\n", filter_text, err.text);
    }
    EXPECT(r == 0);
    bool is_match = event_filter_match(filter, document, &err);
    EXPECT(err.kind == ERROR_NONE);
    event_filter_free(filter);
    return is_match;
}

TEST(event, json_patterns_match_as_documented)
{
    static const struct {
        const char *filter;
        bool fits;
    } cases[] = {
        {"{\"type\":[\"order.created\"]}", true},
        {"{\"type\":[\"a\",\"b\"]}", false},
        {"{\"type\":[{\"prefix\":\"order.\"}]}", true},
        {"{\"type\":[{\"suffix\":\".created\"}]}", true},
        {"{\"type\":[{\"suffix\":\".deleted\"}]}", false},
        {"{\"type\":[{\"wildcard\":\"*der.*ted\"}]}", true},
        {"{\"type\":[{\"wildcard\":\"*der.*x\"}]}", false},
        {"{\"type\":[{\"equals-ignore-case\":\"ORDER.Created\"}]}", true},
        {"{\"type\":[{\"anything-but\":[\"x\",\"y\"]}]}", true},
        {"{\"type\":[{\"anything-but\":\"order.created\"}]}", false},
        {"{\"type\":[{\"anything-but\":{\"prefix\":\"order\"}}]}", false},
        {"{\"missing\":[{\"anything-but\":\"x\"}]}", false},
        {"{\"data\":{\"total\":[{\"numeric\":[\">\",100,\"<=\",120.5]}]}}", true},
        {"{\"data\":{\"total\":[{\"numeric\":[\">\",120.5]}]}}", false},
        {"{\"sequence\":[7.0]}", true},
        {"{\"data\":{\"tags\":[\"vip\"]}}", true},
        {"{\"data\":{\"items\":{\"sku\":[\"y\"]}}}", true},
        {"{\"data\":{\"items\":{\"sku\":[\"z\"]}}}", false},
        {"{\"data\":{\"note\":[null]}}", true},
        {"{\"data\":{\"paid\":[true]}}", true},
        {"{\"data\":{\"nothing\":[{\"exists\":false}]}}", true},
        {"{\"nothing\":{\"inner\":[{\"exists\":false}]}}", true},
        {"{\"data\":{\"total\":[{\"exists\":false}]}}", false},
        {"{\"$or\":[{\"type\":[\"x\"]},{\"region\":[\"eu\"]}]}", true},
        {"{\"$or\":[{\"type\":[\"x\"]},{\"region\":[\"us\"]}]}", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (matches(cases[i].filter) != cases[i].fits) {
            printf("%s\n", cases[i].filter);
        }
        EXPECT(matches(cases[i].filter) == cases[i].fits);
    }
}

TEST(event, expressions_match_as_documented)
{
    static const struct {
        const char *filter;
        bool fits;
    } cases[] = {
        {"type = 'order.created'", true},
        {"type != \"order.created\"", false},
        {"type LIKE 'order.%'", true},
        {"type like '%.cre_ted'", true},
        {"type LIKE 'order'", false},
        {"type NOT LIKE 'x%'", true},
        {"subject LIKE 'Euro _'", true},
        {"'50\\%' = '50%'", false},
        {"CONCAT('50', '%') LIKE '50\\%'", true},
        {"region IN ('us', 'eu')", true},
        {"region NOT IN ('us', 'eu')", false},
        {"EXISTS region AND NOT EXISTS nothing", true},
        {"data.total > 100 AND data.total <= 120.5", true},
        {"data.total * 2 = 241", true},
        {"sequence % 4 = 3 AND sequence - 10 = -3", true},
        {"1 + 2 * 3 = 7 AND (1 + 2) * 3 = 9", true},
        {"sequence / 0 = 1", false},
        {"NOT (type = 'x') XOR FALSE", true},
        {"missing = 'x'", false},
        {"NOT missing = 'x'", false},
        {"NOT (missing LIKE 'x' AND TRUE)", false},
        {"FALSE AND missing = 'x' OR TRUE", true},
        {"missing = 'x' OR TRUE", false},
        {"TRUE OR missing = 'x'", true},
        {"FALSE OR missing = 'x'", false},
        {"EXISTS missing AND missing = 'x' OR TRUE", true},
        {"NOT IS_INT(missing)", false},
        {"type NOT IN ('x', missing)", false},
        {"'x' IN ('x', missing)", true},
        {"missing = 'x' XOR TRUE", false},
        {"NOT NOT EXISTS region", true},
        {"5 / 3 = 1 AND -5 / 3 = -1 AND -5 % 3 = -2", true},
        {"data.total / 2 = 60.25", true},
        {"NOT (5 / 0 = 1)", false},
        {"'5' < '10' AND 'b' > 'a' AND type < 'p'", true},
        {"true = 'TRUE'", false},
        {"'TRUE' = true", true},
        {"5 = '05'", false},
        {"'05' = 5", true},
        {"missing <> 'x'", false},
        {"missing NOT IN ('a')", false},
        {"data.paid", true},
        {"data.items.1.sku = 'y'", true},
        {"LENGTH(subject) = 6", true},
        {"UPPER(LEFT(type, 5)) = 'ORDER'", true},
        {"RIGHT(type, 7) = 'created'", true},
        {"SUBSTRING(type, 7) = 'created' AND SUBSTRING(type, -7, 3) = 'cre'", true},
        {"TRIM('  x ') = 'x' AND CONCAT_WS('-', 1, 2) = '1-2'", true},
        {"IS_INT('12') AND NOT IS_INT('x') AND ABS(-3) = 3 AND INT('4') = 4", true},
        {"sequence = '7'", true},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (matches(cases[i].filter) != cases[i].fits) {
            printf("%s\n", cases[i].filter);
        }
        EXPECT(matches(cases[i].filter) == cases[i].fits);
    }
}

static void filter_refused(const char *text, const char *says)
{
    struct error err = {0};
    struct event_filter *filter = NULL;
    EXPECT(event_filter_parse(text, &filter, &err) < 0);
    if (strstr(err.text, says) == NULL) {
        printf("%s: %s\n", text, err.text);
    }
    EXPECT(strstr(err.text, says) != NULL);
}

TEST(event, a_bad_filter_says_where)
{
    filter_refused("", "at 1");
    filter_refused("type = ", "at 8");
    filter_refused("type = 'x", "at 8: the text has no end");
    filter_refused("type LIKE 5", "at 11: LIKE");
    filter_refused("type = 'x' region", "at 12");
    filter_refused("FOO(1) = 2", "at 1: there is no such function");
    filter_refused("LEFT('x') = 2", "number of arguments");
    filter_refused("(type = 'x'", "\")\"");
    filter_refused("type IN 'x'", "IN takes");
    filter_refused("AND", "at 1");
    filter_refused("{\"type\": \"x\"}", "$.type");
    filter_refused("{\"type\": [{\"prefix\": 1}]}", "$.type");
    filter_refused("{\"data\": {\"n\": [{\"numeric\": [\"~\", 1]}]}}", "$.data.n");
    filter_refused("{}", "at least one");
    filter_refused("{\"x\":", "line");
}

/* ---- Templates ---- */

static char *applied(const char *text)
{
    EVENT_OWNED struct event event = {0};
    struct error err = {0};
    struct event_template *template = NULL;
    read_order(&event);
    JSON_OWNED json_t *document = event_document(&event);
    EXPECT(event_template_parse(text, &template, &err) == 0);
    EXPECT(event_template_apply(template, document, &event, &err) == 0);
    event_template_free(template);
    return buffer_take(&event.data);
}

static void becomes(const char *text, const char *expected)
{
    char *result = applied(text);
    if (strcmp(result, expected) != 0) {
        printf("%s\n", result);
    }
    EXPECT(strcmp(result, expected) == 0);
    free(result);
}

TEST(event, templates_keep_types_and_fill_texts)
{
    becomes("{\"sum\": \"$.data.total\", \"first\": \"{{ .data.items[0].sku }}\"}",
            "{\"sum\":120.5,\"first\":\"x\"}");
    becomes("{\"text\": \"{{.type}} #{{ .sequence }} {{ .missing }}!\", \"cost\": \"$$.5\"}",
            "{\"text\":\"order.created #7 !\",\"cost\":\"$.5\"}");
    becomes("$.data['tags']", "[\"new\",\"vip\"]");
    becomes("[\"$.nothing\", 1]", "[null,1]");
    becomes("order {{ .id }} of {{ .data.total }}", "order a1 of 120.5");
}

TEST(event, a_bad_template_is_refused)
{
    static const char *const bad[] = {"{\"a\": \"$.data..x\"}", "{\"a\": \"{{ data }} x\"}",
                                      "x {{ .a", "{\"a\":", "{\"a\": \"$.a[x]\"}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct error err = {0};
        struct event_template *template = NULL;
        EXPECT(event_template_parse(bad[i], &template, &err) == -ERROR_INVALID);
    }
}

/*
 * Goal: no filter and no template stops who asks, whatever the event.
 * Method: each with an event that makes the most of it; without the bounds these are minutes, and
 * gigabytes.
 */
static char *repeated(const char *before, const char *text, size_t count, const char *behind)
{
    struct buffer out = {0};
    buffer_append_string(&out, before);
    for (size_t i = 0; i < count; i++) {
        buffer_append_string(&out, text);
    }
    buffer_append_string(&out, behind);
    return buffer_take(&out);
}

static void event_of(struct event *event, const char *data)
{
    event_init(event, "1", "/s", "t", "application/json", data, strlen(data));
}

static enum error_kind kind_of_match(const char *filter_text, const char *data)
{
    EVENT_OWNED struct event event = {0};
    struct event_filter *filter = NULL;
    struct error err = {0};
    event_of(&event, data);
    JSON_OWNED json_t *document = event_document(&event);
    EXPECT(event_filter_parse(filter_text, &filter, &err) == 0);
    EXPECT(!event_filter_match(filter, document, &err));
    event_filter_free(filter);
    return err.kind;
}

TEST(event, what_a_filter_may_take_is_bounded)
{
    MEMORY_OWNED char *text = repeated("\"", "a", 1000000, "\"");
    MEMORY_OWNED char *list = repeated("[1", ",1", 400000, "]");
    MEMORY_OWNED char *like = repeated("NOT data LIKE '%", "a", 8000, "b'");
    MEMORY_OWNED char *often = repeated("data = 'b'", " OR data = 'b'", 100, "");
    MEMORY_OWNED char *wild = repeated("{\"data\":[{\"wildcard\":\"*", "a", 8000, "b\"}]}");
    MEMORY_OWNED char *tests =
        repeated("{\"data\":[{\"prefix\":\"x\"}", ",{\"prefix\":\"x\"}", 800, "]}");
    EXPECT(kind_of_match(like, text) == ERROR_TOO_LARGE);
    EXPECT(kind_of_match(often, text) == ERROR_TOO_LARGE);
    EXPECT(kind_of_match(wild, text) == ERROR_TOO_LARGE);
    EXPECT(kind_of_match(tests, list) == ERROR_TOO_LARGE);
    EXPECT(kind_of_match("data LIKE '%b%' OR data LIKE '%c'", text) == ERROR_NONE);
    EXPECT(kind_of_match("{\"data\":[{\"prefix\":\"x\"},2]}", list) == ERROR_NONE);
}

static enum error_kind kind_of_template(const char *template_text, const char *data)
{
    EVENT_OWNED struct event event = {0};
    struct event_template *template = NULL;
    struct error err = {0};
    event_of(&event, data);
    JSON_OWNED json_t *document = event_document(&event);
    EXPECT(event_template_parse(template_text, &template, &err) == 0);
    event_template_apply(template, document, &event, &err);
    event_template_free(template);
    return err.kind;
}

TEST(event, what_a_template_makes_is_bounded)
{
    MEMORY_OWNED char *text = repeated("\"", "a", 900000, "\"");
    MEMORY_OWNED char *whole = repeated("[\"$\"", ",\"$\"", 10000, "]");
    MEMORY_OWNED char *parts = repeated("[\"{{.data}} \"", ",\"{{.data}} \"", 3000, "]");
    EXPECT(kind_of_template(whole, text) == ERROR_TOO_LARGE);
    EXPECT(kind_of_template(parts, text) == ERROR_TOO_LARGE);
    EXPECT(kind_of_template("{\"a\":\"{{.data}} \"}", text) == ERROR_NONE);
}
