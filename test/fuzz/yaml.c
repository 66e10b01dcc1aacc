/*
 * yaml_read(): whatever the bytes, it ends, and what it accepts is bounded and can be written as
 * JSON.
 */
#include "base/yaml.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/error.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static unsigned depth_of(json_t *value)
{
    unsigned deepest = 0;
    const char *key = NULL;
    json_t *part = NULL;
    size_t i = 0;
    json_object_foreach(value, key, part)
    {
        unsigned depth = depth_of(part);
        deepest = depth > deepest ? depth : deepest;
    }
    json_array_foreach(value, i, part)
    {
        unsigned depth = depth_of(part);
        deepest = depth > deepest ? depth : deepest;
    }
    return deepest + 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct error err = {0};
    json_t *value = NULL;
    if (yaml_read((const char *)bytes, length, &value, &err) < 0) {
        must(value == NULL && err.text[0] != '\0');
        must(err.kind == ERROR_INVALID || err.kind == ERROR_TOO_LARGE);
        return 0;
    }
    must(depth_of(value) <= YAML_DEPTH_MAX + 1);
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    must(text != NULL);
    free(text);
    json_decref(value);
    yaml_line_of((const char *)bytes, length, "server");
    return 0;
}
