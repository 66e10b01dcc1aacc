/*
 * Rules of placement: JSON, lines, taints, and what they then are held against.
 *
 * The input's first byte says what the rest is.  Claims: no byte outside is read; what is refused
 * is called INVALID or LIMIT; what is accepted has a canonical text that is accepted again and is
 * the same; matching ends, whatever the text.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/placement/placement.h"
#include "engine/placement/rule.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void hold(const struct placement_rules *rules, const char *text)
{
    for (size_t i = 0; i < rules->constraint_count; i++) {
        if (!rule_is_distinct(rules->constraints[i].op)) {
            rule_holds(&rules->constraints[i], text);
            rule_holds(&rules->constraints[i], NULL);
        }
    }
    for (size_t i = 0; i < rules->affinity_count; i++) {
        rule_holds(&rules->affinities[i], text);
    }
}

static void read_value(const json_t *value, const char *text)
{
    struct placement_rules *rules = NULL, *again = NULL;
    struct error err = {0};
    int r = placement_rules_read(value, &rules, &err);
    CHECK(r == 0 || r == -ERROR_INVALID || r == -ERROR_LIMIT);
    if (r < 0) {
        return;
    }
    hold(rules, text);
    const char *canonical = placement_rules_text(rules);
    json_t *parsed = NULL;
    CHECK(json_read(canonical, strlen(canonical), &parsed, &err) == 0);
    CHECK(placement_rules_read(parsed, &again, &err) == 0);
    CHECK(strcmp(placement_rules_text(again), canonical) == 0);
    json_decref(parsed);
    placement_rules_unref(again);
    placement_rules_unref(rules);
}

static void read_line(const char *kind, const char *list, const char *line)
{
    struct error err = {0};
    json_t *object = NULL;
    int r = placement_rule_parse(kind, line, &object, &err);
    CHECK(r == 0 || r == -ERROR_INVALID);
    if (r == 0) {
        json_t *rules = json_object(), *array = json_array();
        json_array_append_new(array, object);
        json_object_set_new(rules, list, array);
        read_value(rules, line);
        json_decref(rules);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const kinds[][2] = {{"constraint", "constraints"},
                                           {"affinity", "affinities"},
                                           {"spread", "spread"},
                                           {"toleration", "tolerations"}};
    struct error err = {0};
    if (size == 0) {
        return 0;
    }
    char *text = memory_copy_text((const char *)data + 1, size - 1);
    size_t which = data[0] % 6;
    if (which < 4) {
        read_line(kinds[which][0], kinds[which][1], text);
    } else if (which == 4) {
        struct placement_taint taint;
        int r = placement_taint_parse(text, &taint, &err);
        CHECK(r == 0 || r == -ERROR_INVALID);
    } else {
        json_t *value = NULL;
        if (json_read(text, strlen(text), &value, &err) == 0) {
            read_value(value, text);
            json_decref(value);
        }
    }
    free(text);
    return 0;
}
