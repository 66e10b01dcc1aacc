/*
 * The daemon's options: defaults, then the configuration file, then flags; each value checked
 * against spec/options.def when it is set.
 */
#ifndef MAIN_OPTIONS_H
#define MAIN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

struct buffer;
struct error;

struct options {
#define OPTION_TEXT(name, initial, text)                   char *name;
#define OPTION_U64(name, initial, least, most, unit, text) uint64_t name;
#include "options.def"
#undef OPTION_TEXT
#undef OPTION_U64
};

void options_init(struct options *options);
void options_done(struct options *options);

/* Set one by its name (with '-' or '_'), from text: sizes and durations take units.  Fails with
 * INVALID, naming the nearest option or the range. */
int options_set(struct options *options, const char *name, const char *value, struct error *err);

/* Read a configuration file, YAML or JSON: an object of options.  Errors name the line. */
int options_read_file(struct options *options, const char *path, struct error *err);

/* Flags and their texts, for --help; as a Markdown table, for the documentation. */
void options_write_help(struct buffer *out);
void options_write_markdown(struct buffer *out);

#endif
