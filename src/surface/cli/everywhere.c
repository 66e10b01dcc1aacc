/*
 * What each node keeps for itself (logs, traces): all nodes are asked, by way of the one that the
 * command talks to.
 */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

enum { NODES_MAX = 1024 };

json_t *rows_sort(const json_t *rows, int (*compare)(const void *a, const void *b))
{
    size_t count = json_array_size(rows);
    json_t **sorted = memory_new(count + 1, sizeof(json_t *));
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        sorted[i] = json_array_get(rows, i);
    }
    qsort(sorted, count, sizeof(json_t *), compare);
    for (size_t i = 0; i < count; i++) {
        json_array_append(array, sorted[i]);
    }
    free(sorted);
    return array;
}

int everywhere_nodes(const char *wanted_or_null, json_t **ret_names, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    if (wanted_or_null != NULL) {
        *ret_names = json_pack("[s]", wanted_or_null);
        return 0;
    }
    int r = request_json("GET", "/v1/nodes", NULL, &document, err);
    if (r < 0) {
        return r;
    }
    json_t *names = json_array();
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(json_object_get(document, "nodes"), index, node)
    {
        const char *name = json_string_value(json_object_get(node, "name"));
        if (index < NODES_MAX && name != NULL) {
            json_array_append_new(names, json_string(name));
        }
    }
    *ret_names = names;
    return 0;
}

int everywhere_ask(const json_t *names,
                   int (*ask)(const char *node, void *context, struct error *err), void *context,
                   struct error *err)
{
    size_t answered = 0;
    size_t index = 0;
    json_t *name = NULL;
    struct error last = {0};
    json_array_foreach(names, index, name)
    {
        struct error problem = {0};
        int r = ask(json_string_value(name), context, &problem);
        answered += r == 0;
        if (r < 0 && error_kind_retry(problem.kind) && json_array_size(names) > 1) {
            MEMORY_OWNED char *who = memory_format("node %s", json_string_value(name));
            bool is_named = text_starts_with(problem.text, who);
            fprintf(stderr, "blixard: %s%s%s\n", is_named ? "" : who, is_named ? "" : ": ",
                    problem.text);
        } else if (r < 0) {
            *err = problem;
            return r;
        }
        last = r < 0 ? problem : last;
    }
    if (answered == 0 && last.kind != ERROR_NONE) {
        *err = last;
        return -(int)err->kind;
    }
    return 0;
}
