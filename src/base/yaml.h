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

/*
 * All documents of a text, parted by lines of "---": an array of their values, empty ones left out.
 * *ret_lines is an array of the same length: of each an object that has the line of what stands at
 * a path ("spec.rules[0].allow"), and at "" the line on which the document begins.  Of what is more
 * than YAML_PATH_MAX characters deep, or beyond the first YAML_LINES_MAX places of a text, none is
 * kept.  Fails as yaml_read(), and with LIMIT beyond YAML_DOCUMENTS_MAX.
 */
enum { YAML_DOCUMENTS_MAX = 1000, YAML_LINES_MAX = 20000, YAML_PATH_MAX = 200 };
int yaml_read_all(const char *text, size_t length, json_t **ret_values, json_t **ret_lines,
                  struct error *err);

/* The line (from 1) on which `key` first stands as a key of the outermost mapping; 0: nowhere. */
unsigned yaml_line_of(const char *text, size_t length, const char *key);

#endif
