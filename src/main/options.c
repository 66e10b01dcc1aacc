#include "main/options.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/yaml.h"

enum unit { NO_UNIT, count, milliseconds, bytes };

struct row {
    const char *name;
    size_t offset;
    bool is_text;
    const char *initial_text;
    uint64_t initial;
    uint64_t least;
    uint64_t most;
    enum unit unit;
    const char *text;
};

static const struct row rows[] = {
#define OPTION_TEXT(name, initial, text) \
    {#name, offsetof(struct options, name), true, initial, 0, 0, 0, NO_UNIT, text},
#define OPTION_U64(name, initial, least, most, unit, text) \
    {#name, offsetof(struct options, name), false, NULL, initial, least, most, unit, text},
#include "options.def"
#undef OPTION_TEXT
#undef OPTION_U64
};

enum { ROWS = sizeof(rows) / sizeof(rows[0]), FILE_MAX = 1 << 20 };

static char **text_at(struct options *options, const struct row *row)
{
    return (char **)((char *)options + row->offset);
}

static uint64_t *number_at(struct options *options, const struct row *row)
{
    return (uint64_t *)((char *)options + row->offset);
}

void options_init(struct options *options)
{
    for (int i = 0; i < ROWS; i++) {
        if (rows[i].is_text) {
            *text_at(options, &rows[i]) = memory_copy_string(rows[i].initial_text);
        } else {
            *number_at(options, &rows[i]) = rows[i].initial;
        }
    }
}

void options_done(struct options *options)
{
    for (int i = 0; i < ROWS; i++) {
        if (rows[i].is_text) {
            free(*text_at(options, &rows[i]));
            *text_at(options, &rows[i]) = NULL;
        }
    }
}

static const struct row *find(const char *name)
{
    for (int i = 0; i < ROWS; i++) {
        size_t k = 0;
        while (name[k] != '\0' &&
               (name[k] == rows[i].name[k] || (name[k] == '-' && rows[i].name[k] == '_'))) {
            k++;
        }
        if (name[k] == '\0' && rows[i].name[k] == '\0') {
            return &rows[i];
        }
    }
    return NULL;
}

static int unknown(const char *name, struct error *err)
{
    const char *names[ROWS];
    for (int i = 0; i < ROWS; i++) {
        names[i] = rows[i].name;
    }
    const char *nearest = text_nearest(name, names, ROWS);
    return nearest != NULL
        ? error_set(err, ERROR_INVALID, "there is no option \"%.60s\": did you mean %s?", name,
                    nearest)
        : error_set(err, ERROR_INVALID, "there is no option \"%.60s\"", name);
}

static int set_number(struct options *options, const struct row *row, const char *value,
                      struct error *err)
{
    uint64_t number = 0;
    bool good = false;
    switch (row->unit) {
    case bytes:
        good = text_parse_size(value, &number);
        break;
    case milliseconds:
        /* Without a unit the number is what the option's name says. */
        good = text_parse_u64(text_of(value, strlen(value)), &number) ||
            text_parse_duration_ms(value, &number);
        break;
    case count:
    case NO_UNIT:
        good = text_parse_u64(text_of(value, strlen(value)), &number);
        break;
    }
    if (!good || number < row->least || number > row->most) {
        return error_set(err, ERROR_INVALID, "%s: \"%.60s\" is not from %" PRIu64 " to %" PRIu64,
                         row->name, value, row->least, row->most);
    }
    *number_at(options, row) = number;
    return 0;
}

static int check_text(const struct row *row, const char *value, struct error *err)
{
    enum log_level level = LOG_LEVEL_INFO;
    if (strcmp(row->name, "log_level") == 0 && !log_level_parse(value, &level)) {
        return error_set(err, ERROR_INVALID,
                         "log_level: \"%.60s\" is not error, warn, info or debug", value);
    }
    if (strcmp(row->name, "isolation") == 0 && strcmp(value, "auto") != 0 &&
        strcmp(value, "microvm") != 0 && strcmp(value, "process") != 0) {
        return error_set(err, ERROR_INVALID, "isolation: \"%.60s\" is not auto, microvm or process",
                         value);
    }
    return 0;
}

int options_set(struct options *options, const char *name, const char *value, struct error *err)
{
    const struct row *row = find(name);
    if (row == NULL) {
        return unknown(name, err);
    }
    if (!row->is_text) {
        return set_number(options, row, value, err);
    }
    int r = check_text(row, value, err);
    if (r == 0) {
        free(*text_at(options, row));
        *text_at(options, row) = memory_copy_string(value);
    }
    return r;
}

/* A scalar as the text it was, for options_set(). */
static int set_value(struct options *options, const char *name, const json_t *value,
                     struct error *err)
{
    if (json_is_string(value)) {
        return options_set(options, name, json_string_value(value), err);
    }
    if (json_is_integer(value)) {
        MEMORY_OWNED char *text = memory_format("%lld", (long long)json_integer_value(value));
        return options_set(options, name, text, err);
    }
    return find(name) == NULL
        ? unknown(name, err)
        : error_set(err, ERROR_INVALID, "%s must be a text or a number", name);
}

int options_read_file(struct options *options, const char *path, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *value = NULL;
    int r = file_read(path, FILE_MAX, &text, err);
    if (r == 0) {
        r = yaml_read(buffer_string(&text), text.used, &value, err);
    }
    if (r < 0) {
        return error_wrap(err, "%s", path);
    }
    if (json_is_null(value)) {
        return 0; /* nothing but comments */
    }
    if (!json_is_object(value)) {
        return error_set(err, ERROR_INVALID, "%s must hold \"option: value\" lines", path);
    }
    const char *name = NULL;
    json_t *member = NULL;
    json_object_foreach(value, name, member)
    {
        if (set_value(options, name, member, err) < 0) {
            return error_wrap(err, "%s, line %u", path,
                              yaml_line_of(buffer_string(&text), text.used, name));
        }
    }
    return 0;
}

static void write_initial(const struct row *row, struct buffer *out)
{
    if (row->is_text) {
        buffer_append_string(out, row->initial_text[0] != '\0' ? row->initial_text : "-");
    } else {
        buffer_append_format(out, "%" PRIu64, row->initial);
    }
}

void options_write_help(struct buffer *out)
{
    for (int i = 0; i < ROWS; i++) {
        MEMORY_OWNED char *flag = memory_copy_string(rows[i].name);
        for (char *at = flag; *at != '\0'; at++) {
            *at = *at == '_' ? '-' : *at;
        }
        buffer_append_format(out, "  --%-22s %s", flag, rows[i].text);
        buffer_append_string(out, " [");
        write_initial(&rows[i], out);
        buffer_append_string(out, "]\n");
    }
}

void options_write_markdown(struct buffer *out)
{
    static const char *const units[] = {"text", "", "ms", "bytes"};
    buffer_append_string(out,
                         "| option | default | range | unit | meaning |\n"
                         "|---|---|---|---|---|\n");
    for (int i = 0; i < ROWS; i++) {
        const struct row *row = &rows[i];
        buffer_append_format(out, "| `%s` | ", row->name);
        write_initial(row, out);
        if (row->is_text) {
            buffer_append_string(out, " | ");
        } else {
            buffer_append_format(out, " | %" PRIu64 " to %" PRIu64, row->least, row->most);
        }
        buffer_append_format(out, " | %s | %s |\n", units[row->unit], row->text);
    }
}
