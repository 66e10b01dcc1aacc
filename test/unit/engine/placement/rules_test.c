#include "engine/placement/rules.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/placement/rule.h"

#include "test/lib/test.h"
#include "test/unit/engine/placement/cluster.h"

static bool holds(const char *op, const char *value, const char *text)
{
    MEMORY_OWNED char *json = memory_format("{\"constraints\": [{\"attribute\": \"label.x\", "
                                            "\"operator\": \"%s\", \"value\": \"%s\"}]}",
                                            op, value);
    struct placement_rules *rules = make_rules(json);
    bool result = rule_holds(&rules->constraints[0], text);
    placement_rules_unref(rules);
    return result;
}

TEST(placement_rules, operators_mean_what_nomad_means)
{
    EXPECT(holds("=", "ssd", "ssd") && !holds("=", "ssd", "hdd") && !holds("=", "ssd", NULL));
    EXPECT(holds("!=", "ssd", "hdd") && !holds("!=", "ssd", "ssd") && holds("!=", "ssd", NULL));
    EXPECT(holds(">", "9", "10") && !holds(">", "9", "9") && holds(">", "9.5", "9.75"));
    EXPECT(holds(">=", "-3", "-3") && holds("<", "-3", "-3.5") && holds("<=", "2", "2.0"));
    EXPECT(!holds(">", "9", NULL) && !holds("<=", "9", NULL));
    EXPECT(holds("<", "b", "a") && holds(">", "10x", "9x")); /* as texts */
    EXPECT(holds("regexp", "^web-", "web-1") && !holds("regexp", "^web-", "db-1"));
    EXPECT(holds("set_contains", "a, c", "a,b,c") && !holds("set_contains", "a,d", "a,b,c"));
    EXPECT(holds("set_contains_any", "d,b", "a,b") && !holds("set_contains_any", "d", "a,b"));
    EXPECT(holds("is_set", "", "x") && !holds("is_set", "", NULL));
    EXPECT(holds("is_not_set", "", NULL) && !holds("is_not_set", "", "x"));
}

TEST(placement_rules, versions_are_ordered_as_semver_has_it)
{
    EXPECT(holds("version", ">= 1.2, < 2", "1.2") && holds("version", ">= 1.2, < 2", "v1.9.9"));
    EXPECT(!holds("version", ">= 1.2, < 2", "2.0.0") && !holds("version", ">= 1.2", "1.10-x y"));
    EXPECT(holds("version", "> 1.9", "1.10"));
    EXPECT(!holds("version", ">= 1.2", "1.2-rc1") && holds("version", "> 1.2-rc1", "1.2"));
    EXPECT(holds("version", "~> 1.2.3", "1.2.9") && !holds("version", "~> 1.2.3", "1.3"));
    EXPECT(holds("version", "1.2", "1.2.0+build7") && !holds("version", "!= 1.2", "1.2.0"));
    EXPECT(!holds("version", ">= 1", "six") && !holds("version", ">= 1", "1.2.") &&
           !holds("version", ">= 1", ""));
}

TEST(placement_rules, contradictions_are_refused_with_the_pair)
{
    static const char *const pairs[][2] = {
        {"label.a = x", "label.a = y"},
        {"label.a = x", "label.a != x"},
        {"label.a is_set", "label.a is_not_set"},
        {"label.a = x", "label.a is_not_set"},
        {"label.a > 5", "label.a < 5"},
        {"label.a > 5", "label.a <= 5"},
        {"label.a >= m", "label.a < m"},
        {"label.a = 3", "label.a > 3"},
        {"label.a = web", "label.a regexp ^db"},
        {"label.a = a,b", "label.a set_contains c"},
        {"label.a version >= 2", "label.a version < 1.5"},
        {"label.a version = 1.5", "label.a version > 1.5"},
        {"label.a regexp x", "label.a is_not_set"},
        {"zone = a", "${node.zone} = b"},
    };
    for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
        for (int turn = 0; turn < 2; turn++) {
            MEMORY_OWNED char *json =
                memory_format("{\"constraints\": [\"label.z is_set\", \"%s\", \"%s\"]}",
                              pairs[i][turn], pairs[i][1 - turn]);
            const char *text = refused_rules(json);
            EXPECT(strstr(text, "contradict") != NULL);
            EXPECT(strstr(text, i == 13 ? "node.zone" : "label.a") != NULL);
        }
    }
    EXPECT(strstr(refused_rules("{\"constraints\": [\"label.a version > 2, < 1\"]}"),
                  "no version is so") != NULL);
    placement_rules_unref(make_rules(
        "{\"constraints\": [\"label.a >= 5\", \"label.a <= 5\", \"label.a != 6\", \"label.b = x\","
        "\"label.b regexp ^x\", \"label.c is_not_set\", \"label.c != x\"]}"));
}

TEST(placement_rules, what_is_no_rule_is_refused)
{
    static const char *const wrong[] = {
        "[]",
        "{\"constraint\": []}",
        "{\"constraints\": {}}",
        "{\"constraints\": [3]}",
        "{\"constraints\": [\"label.a\"]}",
        "{\"constraints\": [\"label.a ~ b\"]}",
        "{\"constraints\": [\"label.a=~b\"]}",
        "{\"constraints\": [\"label.a=>5\"]}",
        "{\"constraints\": [\"=ssd\"]}",
        "{\"constraints\": [\"label.a>\"]}",
        "{\"constraints\": [\"disk = ssd\"]}",
        "{\"constraints\": [\"label. = ssd\"]}",
        "{\"constraints\": [\"${label.a = ssd\"]}",
        "{\"constraints\": [\"label.a regexp (\"]}",
        "{\"constraints\": [\"label.a version x\"]}",
        "{\"constraints\": [\"label.a >\"]}",
        "{\"constraints\": [\"label.a is_set yes\"]}",
        "{\"constraints\": [\"zone distinct_property 0\"]}",
        "{\"constraints\": [\"zone distinct_property -1\"]}",
        "{\"constraints\": [\"label.a = x\\ny\"]}",
        "{\"constraints\": [{\"attribute\": \"label.a\", \"value\": \"x\\ny\"}]}",
        "{\"constraints\": [{\"attribute\": \"label.a\", \"value\": 3}]}",
        "{\"constraints\": [{\"attribute\": \"label.a\", \"weight\": 3}]}",
        "{\"affinities\": [\"label.a = x\"]}",
        "{\"affinities\": [\"101 label.a = x\"]}",
        "{\"affinities\": [\"-101 label.a = x\"]}",
        "{\"affinities\": [\"5 distinct_hosts\"]}",
        "{\"spread\": [\"-5 zone\"]}",
        "{\"spread\": [\"0 zone\"]}",
        "{\"spread\": [\"zone a=60 b=50\"]}",
        "{\"spread\": [\"zone a=101\"]}",
        "{\"spread\": [\"zone a\"]}",
        "{\"spread\": [\"zone\", \"node.zone\"]}",
        "{\"tolerations\": [\"gpu:Never\"]}",
        "{\"tolerations\": [\"gpu:NoSchedule:5\"]}",
        "{\"tolerations\": [{\"value\": \"x\"}]}",
        "{\"pool\": \"a b\"}",
        "{\"pool\": \"a\\nb\"}",
    };
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        EXPECT(refused_rules(wrong[i])[0] != 0);
    }
}

TEST(placement_rules, lines_and_objects_give_the_same_canonical_text)
{
    struct placement_rules *lines =
        make_rules("{\"constraints\": [\"${label.disk} = ssd\", \"distinct_hosts\"],"
                   " \"affinities\": [\"-50 zone = a\"], \"spread\": [\"70 rack r1=60 r2=40\"],"
                   " \"tolerations\": [\"gpu=yes:NoExecute:60\", \"*\"], \"pool\": \"fast\"}");
    struct placement_rules *objects = make_rules(
        "{\"constraints\": [{\"attribute\": \"label.disk\", \"operator\": \"=\", \"value\": "
        "\"ssd\"},"
        "  {\"operator\": \"distinct_hosts\"}],"
        " \"affinities\": [{\"attribute\": \"node.zone\", \"value\": \"a\", \"weight\": -50}],"
        " \"spread\": [{\"attribute\": \"node.rack\", \"weight\": 70, \"targets\": {\"r1\": 60,"
        "  \"r2\": 40}}],"
        " \"tolerations\": [{\"key\": \"gpu\", \"value\": \"yes\", \"effect\": \"NoExecute\","
        "  \"seconds\": 60}, {}], \"pool\": \"fast\"}");
    EXPECT_STRING(placement_rules_text(lines), placement_rules_text(objects));
    /* And read again it is the same. */
    struct placement_rules *again = make_rules(placement_rules_text(lines));
    EXPECT_STRING(placement_rules_text(again), placement_rules_text(lines));
    EXPECT_STRING(placement_rules_pool(lines), "fast");
    placement_rules_unref(lines);
    placement_rules_unref(objects);
    placement_rules_unref(again);
    EXPECT_STRING(placement_rules_text(NULL), "{}");
}

/* Goal: spaces around signs may be left out, and what a value has of signs stays as it is. */
TEST(placement_rules, spaces_around_signs_may_be_left_out)
{
    static const char *const same[][2] = {
        {"zone=a", "zone = a"},
        {"${label.disk}!=ssd", "label.disk != ssd"},
        {"attr.cpus>=8", "attr.cpus >= 8"},
        {"attr.cpus >8", "attr.cpus > 8"},
        {"attr.cpus< 8", "attr.cpus < 8"},
        {"label.a==b", "label.a = b"},
        {"attr.kernel version>= 6.1, < 7", "attr.kernel version >= 6.1, < 7"},
        {"label.a=b=c d", "label.a = b=c d"},
        {"label.a = =", "${label.a} = ="},
        {"label.a regexp ^b=c", "${label.a} regexp ^b=c"},
        {"label.a set_contains b=c,d>e", "${label.a} set_contains b=c,d>e"},
    };
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        char texts[2][256];
        for (size_t k = 0; k < 2; k++) {
            snprintf(texts[k], sizeof(texts[k]), "{\"constraints\": [\"%s\"]}", same[i][k]);
        }
        struct placement_rules *a = make_rules(texts[0]), *b = make_rules(texts[1]);
        EXPECT_STRING(placement_rules_text(a), placement_rules_text(b));
        placement_rules_unref(a);
        placement_rules_unref(b);
    }
    struct placement_rules *value = make_rules("{\"constraints\": [\"label.a regexp ^b=c\"]}");
    EXPECT(strstr(placement_rules_text(value), "\"^b=c\"") != NULL);
    placement_rules_unref(value);
    struct placement_rules *affinity = make_rules("{\"affinities\": [\"-5 zone!=a\"]}");
    EXPECT(strstr(placement_rules_text(affinity), "\"!=\"") != NULL);
    placement_rules_unref(affinity);
}

TEST(placement_rules, taints_are_borne_as_kubernetes_has_it)
{
    struct placement_taint taint;
    struct error err = {0};
    char text[64];
    uint32_t limit_s;
    EXPECT(placement_taint_parse("gpu=yes:NoExecute", &taint, &err) == 0);
    placement_taint_text(&taint, text, sizeof(text));
    EXPECT_STRING(text, "gpu=yes:NoExecute");
    EXPECT(!placement_rules_tolerate(NULL, &taint, &limit_s));

    struct placement_rules *rules =
        make_rules("{\"tolerations\": [\"gpu=yes:NoExecute:60\", \"gpu=yes:NoExecute:30\"]}");
    EXPECT(placement_rules_tolerate(rules, &taint, &limit_s) && limit_s == 30);
    EXPECT(placement_taint_parse("gpu=no:NoExecute", &taint, &err) == 0);
    EXPECT(!placement_rules_tolerate(rules, &taint, NULL));
    EXPECT(placement_taint_parse("gpu=yes:NoSchedule", &taint, &err) == 0);
    EXPECT(!placement_rules_tolerate(rules, &taint, NULL));
    placement_rules_unref(rules);

    rules = make_rules("{\"tolerations\": [\"gpu\"]}");
    EXPECT(placement_rules_tolerate(rules, &taint, &limit_s) && limit_s == UINT32_MAX);
    placement_rules_unref(rules);

    static const char *const wrong[] = {
        "gpu", "gpu:", ":NoSchedule", "a b:NoSchedule", "gpu:Maybe", "gpu=a\nb:NoSchedule"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        EXPECT(placement_taint_parse(wrong[i], &taint, &err) == -ERROR_INVALID);
    }
}
