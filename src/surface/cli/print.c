/* Documents for people: tables, facts, JSON, YAML. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

/* A machine's reason, which says what to do at its end, has room in a cell. */
enum { CELL_MAX = 400, COLUMNS_MAX = 16, FACT_WIDTH = 15 };

int output_of(const struct arguments *arguments, enum output *ret_output, struct error *err)
{
    const char *wanted = flag_value(arguments, "output");
    if (wanted == NULL || strcmp(wanted, "table") == 0) {
        *ret_output = OUTPUT_TABLE;
    } else if (strcmp(wanted, "json") == 0) {
        *ret_output = OUTPUT_JSON;
    } else if (strcmp(wanted, "yaml") == 0) {
        *ret_output = OUTPUT_YAML;
    } else {
        return error_set(err, ERROR_INVALID, "--output %.40s is not table, json or yaml", wanted);
    }
    return 0;
}

static void print_yaml(const json_t *value, unsigned indent, bool in_list)
{
    const char *name = NULL;
    json_t *member = NULL;
    size_t index = 0;
    bool is_first = true;
    if (json_is_object(value) && json_object_size(value) > 0) {
        json_object_foreach((json_t *)(uintptr_t)value, name, member)
        {
            bool nested = (json_is_object(member) && json_object_size(member) > 0) ||
                (json_is_array(member) && json_array_size(member) > 0);
            printf("%*s%s:%s", in_list && is_first ? 0 : (int)indent, "", name,
                   nested ? "\n" : " ");
            print_yaml(member, indent + 2, false);
            is_first = false;
        }
        return;
    }
    if (json_is_array(value) && json_array_size(value) > 0) {
        json_array_foreach(value, index, member)
        {
            printf("%*s- ", (int)indent, "");
            print_yaml(member, indent + 2, true);
        }
        return;
    }
    /* JSON scalars are YAML. */
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    printf("%s\n", text != NULL ? text : "null");
    free(text);
}

int print_flush(void)
{
    static int first = 0;
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout) != 0) && first == 0) {
        first = errno != 0 ? errno : EIO;
    }
    return first;
}

void print_document(const json_t *document, enum output output)
{
    if (output == OUTPUT_YAML) {
        print_yaml(document, 0, false);
        return;
    }
    char *text = json_dumps(document, JSON_INDENT(2) | JSON_ENCODE_ANY);
    printf("%s\n", text != NULL ? text : "null");
    free(text);
}

int print_done(const struct arguments *arguments, json_t *document, struct error *err,
               const char *format, ...)
{
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    if (r == 0 && output != OUTPUT_TABLE) {
        print_document(document, output);
    } else if (r == 0) {
        va_list values;
        va_start(values, format);
        vprintf(format, values);
        va_end(values);
        putchar('\n');
    }
    return r;
}

static const json_t *find(const json_t *document, const char *path)
{
    while (document != NULL && *path != '\0') {
        size_t length = strcspn(path, ".");
        MEMORY_OWNED char *name = memory_copy_text(path, length);
        document = json_object_get(document, name);
        path += length + (path[length] == '.');
    }
    return document;
}

/* Texts, or the names of things, with commas between them. */
static void format_list(const json_t *list, char *ret_text)
{
    size_t index = 0;
    size_t used = 0;
    json_t *item = NULL;
    snprintf(ret_text, CELL_MAX, "-");
    json_array_foreach(list, index, item)
    {
        const json_t *named = json_is_object(item) ? json_object_get(item, "name") : item;
        const char *text = json_string_value(named);
        if (text != NULL && used < CELL_MAX) {
            used += (size_t)snprintf(ret_text + used, CELL_MAX - used, "%s%s",
                                     index > 0 ? ", " : "", text);
        }
    }
}

/* "0 on 2, 1 on 3" */
static void format_vcpus(const json_t *list, char *ret_text)
{
    size_t index = 0;
    size_t used = 0;
    json_t *vcpu = NULL;
    snprintf(ret_text, CELL_MAX, "-");
    json_array_foreach(list, index, vcpu)
    {
        if (used < CELL_MAX) {
            used += (size_t)snprintf(ret_text + used, CELL_MAX - used, "%s%" PRIu64 " on %s",
                                     index > 0 ? ", " : "", json_u64(vcpu, "vcpu"),
                                     json_text(vcpu, "cpus"));
        }
    }
}

/* "vcpus 0,1 with 512 MiB; vcpus 2,3 with 512 MiB" */
static void format_numa(const json_t *list, char *ret_text)
{
    size_t index = 0;
    size_t used = 0;
    json_t *node = NULL;
    snprintf(ret_text, CELL_MAX, "-");
    json_array_foreach(list, index, node)
    {
        if (used < CELL_MAX) {
            used += (size_t)snprintf(ret_text + used, CELL_MAX - used,
                                     "%svcpus %s with %" PRIu64 " MiB", index > 0 ? "; " : "",
                                     json_text(node, "cpus"), json_u64(node, "memory_bytes") >> 20);
        }
    }
}

/* NAME=VALUE, with commas between them. */
static void format_map(const json_t *map, char *ret_text)
{
    const char *name = NULL;
    size_t used = 0;
    json_t *item = NULL;
    snprintf(ret_text, CELL_MAX, "-");
    json_object_foreach((json_t *)(uintptr_t)map, name, item)
    {
        if (json_is_string(item) && used < CELL_MAX) {
            used += (size_t)snprintf(ret_text + used, CELL_MAX - used, "%s%s=%s",
                                     used > 0 ? ", " : "", name, json_string_value(item));
        }
    }
}

static void format_number(const struct column *column, uint64_t number, char *ret_text)
{
    bool is_limit = column->as == AS_LIMIT || column->as == AS_LIMIT_MS;
    if (is_limit && number == 0) {
        snprintf(ret_text, CELL_MAX, "none");
    } else if (column->as == AS_BYTES) {
        text_write_size(number, ret_text);
    } else if (column->as == AS_MS || column->as == AS_LIMIT_MS) {
        text_write_duration_ms(number, ret_text);
    } else if (column->as == AS_TIME) {
        text_write_time_ms(number, ret_text);
    } else {
        snprintf(ret_text, CELL_MAX, "%" PRIu64, number);
    }
}

static void format_cell(const json_t *row, const struct column *column, char *ret_text)
{
    const json_t *value = find(row, column->path);
    if (json_is_integer(value)) {
        format_number(column, (uint64_t)json_integer_value(value), ret_text);
    } else if (json_is_real(value)) {
        snprintf(ret_text, CELL_MAX, "%.15g", json_real_value(value));
    } else if (json_is_string(value)) {
        snprintf(ret_text, CELL_MAX, "%s", json_string_value(value));
    } else if (json_is_boolean(value)) {
        snprintf(ret_text, CELL_MAX, "%s", json_is_true(value) ? "yes" : "no");
    } else if (json_is_array(value) && column->as == AS_VCPUS) {
        format_vcpus(value, ret_text);
    } else if (json_is_array(value) && column->as == AS_NUMA) {
        format_numa(value, ret_text);
    } else if (json_is_array(value)) {
        format_list(value, ret_text);
    } else if (json_is_object(value)) {
        format_map(value, ret_text);
    } else {
        snprintf(ret_text, CELL_MAX, "-");
    }
    for (size_t used = strlen(ret_text); used > 0 && ret_text[used - 1] == '\n';) {
        ret_text[--used] = '\0'; /* the end of an answer's last line is none of the cell's */
    }
    text_make_printable(ret_text, false); /* another node, or a client, may have chosen it */
}

void print_table(const json_t *rows, const struct column *columns, unsigned count)
{
    size_t widths[COLUMNS_MAX] = {0};
    size_t index = 0;
    json_t *row = NULL;
    char cell[CELL_MAX];
    for (unsigned i = 0; i < count; i++) {
        widths[i] = strlen(columns[i].title);
        json_array_foreach(rows, index, row)
        {
            format_cell(row, &columns[i], cell);
            widths[i] = strlen(cell) > widths[i] ? strlen(cell) : widths[i];
        }
    }
    for (unsigned i = 0; i < count; i++) {
        if (i + 1 < count) {
            printf("%-*s  ", (int)widths[i], columns[i].title);
        } else {
            printf("%s\n", columns[i].title);
        }
    }
    json_array_foreach(rows, index, row)
    {
        for (unsigned i = 0; i < count; i++) {
            format_cell(row, &columns[i], cell);
            if (i + 1 < count) {
                printf("%-*s  ", (int)widths[i], cell);
            } else {
                printf("%s\n", cell);
            }
        }
    }
}

void print_fact(const char *name, char *text)
{
    printf("%-*s %s\n", FACT_WIDTH, name, text_make_printable(text, false));
}

void print_facts(const json_t *document, const struct column *columns, unsigned count)
{
    char cell[CELL_MAX];
    int width = FACT_WIDTH;
    for (unsigned i = 0; i < count; i++) {
        int length = (int)strlen(columns[i].title);
        width = length > width ? length : width;
    }
    for (unsigned i = 0; i < count; i++) {
        format_cell(document, &columns[i], cell);
        printf("%-*s %s\n", width, columns[i].title, cell[0] != '\0' ? cell : "-");
    }
}

void print_known_facts(const json_t *document, const struct column *columns, unsigned count)
{
    char cell[CELL_MAX];
    for (unsigned i = 0; i < count; i++) {
        format_cell(document, &columns[i], cell);
        if (cell[0] != '\0' && strcmp(cell, "-") != 0) {
            printf("%-*s %s\n", FACT_WIDTH, columns[i].title, cell);
        }
    }
}

int print_target(const struct arguments *arguments, const char *target, const char *rows_or_null,
                 const struct column *columns, unsigned count, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r == 0 && output != OUTPUT_TABLE) {
        print_document(document, output);
    } else if (r == 0 && rows_or_null != NULL) {
        print_table(json_object_get(document, rows_or_null), columns, count);
    } else if (r == 0) {
        print_facts(document, columns, count);
    }
    return r;
}
