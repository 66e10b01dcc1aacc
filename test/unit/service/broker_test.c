/* Settings of brokers, as people write them. */
#include "service/broker/broker.h"

#include <string.h>

#include "base/error.h"
#include "base/json.h"

#include "test/lib/test.h"

/* Checked, and what is said of it. */
static bool is_good(const char *kind, const char *settings, const char *words)
{
    struct error err = {0};
    JSON_OWNED json_t *document = NULL;
    EXPECT(json_read(settings, strlen(settings), &document, &err) == 0);
    int r = broker_check(kind, document, &err);
    EXPECT(words == NULL || strstr(err.text, words) != NULL);
    return r == 0;
}

static bool refuses(const char *settings, const char *words)
{
    return !is_good("redis", settings, words);
}

TEST(broker, what_a_stream_needs_is_enough)
{
    if (!broker_kind_is_here("redis")) {
        return;
    }
    EXPECT(is_good("redis", "{\"url\": \"redis://127.0.0.1:6379/2\", \"stream\": \"s\"}", NULL));
    EXPECT(is_good("redis", "{\"url\": \"redis://[::1]:6379\", \"stream\": \"s\"}", NULL));
    EXPECT(is_good("redis", "{\"url\": \"unix:/run/redis.sock\", \"stream\": \"s\"}", NULL));
}

TEST(broker, wrong_settings_are_named)
{
    if (!broker_kind_is_here("redis")) {
        return;
    }
    EXPECT(refuses("{}", "needs the setting \"url\""));
    EXPECT(refuses("[]", "must be an object"));
    EXPECT(refuses("{\"url\": \"redis://h\"}", "needs the setting \"stream\""));
    EXPECT(refuses("{\"url\": \"redis://h\", \"strem\": \"s\"}", "did you mean \"stream\"?"));
    EXPECT(refuses("{\"url\": \"redis://h\", \"stream\": 3}", "stream must be a text"));
    EXPECT(refuses("{\"url\": \"redis://h\", \"stream\": \"s\", \"start\": \"old\"}",
                   "start must be new or all"));
    EXPECT(refuses("{\"url\": \"redis://h\", \"stream\": \"s\", \"in_flight\": 1000000}",
                   "in_flight must be"));
    EXPECT(refuses("{\"url\": \"redis://h\", \"stream\": \"s\", \"in_flight\": 0}",
                   "in_flight must be"));
    EXPECT(refuses(
        "{\"url\": \"redis://h\", \"stream\": \"s\", \"claim_after_ms\": 9223372036854775807}",
        "claim_after_ms must be"));
    EXPECT(refuses("{\"url\": \"redis://h\", \"stream\": \"s\", \"claim_after_ms\": -1}",
                   "claim_after_ms must be a number"));
}

TEST(broker, wrong_addresses_are_named)
{
    if (!broker_kind_is_here("redis")) {
        return;
    }
    EXPECT(refuses("{\"url\": \"redis://u:p@h\", \"stream\": \"s\"}", "password_secret"));
    EXPECT(refuses("{\"url\": \"http://h\", \"stream\": \"s\"}", "redis speaks redis://"));
    EXPECT(refuses("{\"url\": \"redis://h:0\", \"stream\": \"s\"}", "its port"));
    EXPECT(refuses("{\"url\": \"redis://h:65536\", \"stream\": \"s\"}", "its port"));
    EXPECT(refuses("{\"url\": \"redis://:1\", \"stream\": \"s\"}", "names no host"));
    EXPECT(refuses("{\"url\": \"redis:h\", \"stream\": \"s\"}", "SCHEME://HOST"));
    EXPECT(refuses("{\"url\": \"unix:run\", \"stream\": \"s\"}", "unix:/PATH"));
    EXPECT(refuses("{\"url\": \"\", \"stream\": \"s\"}", "SCHEME://HOST"));
}

TEST(broker, kinds_that_there_are_not_are_refused)
{
    EXPECT(!is_good("pigeon", "{}", "no kind of broker"));
    EXPECT(!broker_kind_is_known("pigeon") && broker_kind_is_known("mqtt"));
}

TEST(broker, topics_of_mqtt_are_filters)
{
    if (!broker_kind_is_here("mqtt")) {
        return;
    }
    EXPECT(is_good("mqtt", "{\"url\": \"mqtts://h\", \"topics\": [\"a/+/b/#\"]}", NULL));
    EXPECT(!is_good("mqtt", "{\"url\": \"mqtt://h\", \"topics\": [\"a/#/b\"]}", "no topic filter"));
    EXPECT(!is_good("mqtt", "{\"url\": \"mqtt://h\", \"topics\": []}", "a list of names"));
    EXPECT(!is_good("mqtt", "{\"url\": \"mqtt://h\", \"topics\": [\"a\"], \"qos\": 3}",
                    "qos must be"));
    EXPECT(!is_good("mqtt", "{\"url\": \"mqtt://h\", \"topics\": [\"a\"], \"shared\": \"a/b\"}",
                    "shared"));
}
