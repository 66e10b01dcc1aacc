/*
 * YAML in, as JSON values: for configuration files that people write.  By libyaml.
 *
 * Anchors, aliases and tags are refused (they are how small files become large), depth and size are
 * bounded.  Plain scalars become booleans, integers, numbers or null where JSON has them; quoted
 * ones are strings.  JSON is YAML, so both can be read (but for characters written as two \u).
 */
#ifndef BASE_YAML_H
#define BASE_YAML_H

#include <jansson.h>
#include <stddef.h>

struct error;

enum { YAML_BYTES_MAX = 1 << 20, YAML_DEPTH_MAX = 32 };

/* The caller ends *ret_value with json_decref(); an empty text gives null.  Fails with INVALID,
 * naming line and column, or TOO_LARGE. */
int yaml_read(const char *text, size_t length, json_t **ret_value, struct error *err);

/* The line (from 1) on which `key` first stands as a key of the outermost mapping; 0: nowhere. */
unsigned yaml_line_of(const char *text, size_t length, const char *key);

#endif
