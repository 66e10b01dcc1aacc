/* Verbs about secrets.  A value comes from a file or standard input and is never printed. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { VALUE_MAX = 1 << 17 }; /* the node says what its limit is */

/* ---- The value ---- */

/* A line, which the terminal does not show. */
static int ask(const char *name, struct buffer *value, struct error *err)
{
    struct termios before;
    if (tcgetattr(STDIN_FILENO, &before) < 0) {
        return error_os(err, errno, "asking for the value");
    }
    struct termios hidden = before;
    hidden.c_lflag &= ~(tcflag_t)ECHO;
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden);
    fprintf(stderr, "Value of %s: ", name); /* behind it: what was typed before is gone */
    ssize_t got = 0;
    do {
        got = read(STDIN_FILENO, buffer_reserve(value, 1), 1);
        value->used += got == 1;
    } while (got == 1 && value->data[value->used - 1] != '\n' && value->used < VALUE_MAX);
    tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
    fputc('\n', stderr);
    return got < 0 ? error_os(err, errno, "asking for the value") : 0;
}

/* What an editor or `echo` puts behind a text. */
static void drop_line_end(struct buffer *value)
{
    value->used -= value->used > 0 && value->data[value->used - 1] == '\n';
    value->used -= value->used > 0 && value->data[value->used - 1] == '\r';
}

static int take_value(const struct arguments *arguments, struct buffer *value, struct error *err)
{
    const char *file = flag_value(arguments, "from-file");
    bool keeps = flag_value(arguments, "keep-newline") != NULL;
    buffer_reserve(value, VALUE_MAX + 1); /* it does not grow: nothing is left behind */
    if (file != NULL && strcmp(file, "-") != 0) {
        return file_read(file, VALUE_MAX, value, err);
    }
    bool is_asked = isatty(STDIN_FILENO) == 1;
    int r = is_asked ? ask(arguments->words[0], value, err)
                     : file_read("/dev/stdin", VALUE_MAX, value, err);
    if (r == 0 && (is_asked || !keeps)) {
        drop_line_end(value);
    }
    return r;
}

/* ---- Verbs ---- */

int verb_secret_set(const struct arguments *arguments, struct error *err)
{
    BUFFER_WIPED struct buffer value = {0};
    JSON_OWNED json_t *document = NULL;
    ANSWER_OWNED struct answer answer = {0};
    MEMORY_OWNED char *target = request_target("secrets", arguments->words[0], "");
    int r = take_value(arguments, &value, err);
    if (r == 0 && value.used == 0) {
        r = error_set(err, ERROR_INVALID,
                      "there is no value: pipe it in (printf %%s ... | blixard secret set %s) or "
                      "name a file with --from-file",
                      arguments->words[0]);
    }
    r = r < 0 ? r : request("PUT", target, NULL, value.data, value.used, &answer, err);
    r = r < 0 ? r : json_read(answer.body.data, answer.body.used, &document, err);
    if (r == 0 && memchr(value.data, 0, value.used) != NULL) {
        fprintf(
            stderr,
            "note: the value has a NUL in it, which no variable can have: calls that are to get "
            "it as one are refused; set it in base64 (base64 FILE | blixard secret set %s)\n",
            arguments->words[0]);
    }
    return r < 0
        ? r
        : print_done(arguments, document, err, "secret %s has version %lld (%lld bytes)",
                     arguments->words[0],
                     (long long)json_integer_value(json_object_get(document, "version")),
                     (long long)json_integer_value(json_object_get(document, "size_bytes")));
}

int verb_secret_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},
        {"VERSION", "version", AS_TEXT},
        {"SIZE", "size_bytes", AS_BYTES},
        {"UPDATED", "updated_at", AS_TEXT},
    };
    enum output output = OUTPUT_TABLE;
    JSON_OWNED json_t *document = NULL;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", "/v1/secrets", NULL, &document, err);
    if (r == 0 && output == OUTPUT_TABLE) {
        print_table(json_object_get(document, "secrets"), columns, COUNT(columns));
    } else if (r == 0) {
        print_document(document, output);
    }
    return r;
}

int verb_secret_show(const struct arguments *arguments, struct error *err)
{
    static const struct column facts[] = {
        {"name", "name", AS_TEXT},          {"version", "version", AS_TEXT},
        {"size", "size_bytes", AS_BYTES},   {"created", "created_at", AS_TEXT},
        {"updated", "updated_at", AS_TEXT},
    };
    enum output output = OUTPUT_TABLE;
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("secrets", arguments->words[0], "");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &document, err);
    if (r < 0 || output != OUTPUT_TABLE) {
        if (r == 0) {
            print_document(document, output);
        }
        return r;
    }
    const json_t *used_by = json_object_get(document, "used_by");
    print_facts(document, facts, COUNT(facts));
    for (size_t i = 0; i < json_array_size(used_by); i++) {
        MEMORY_OWNED char *user = memory_copy_string(json_string_value(json_array_get(used_by, i)));
        print_fact(i == 0 ? "used by" : "", user);
    }
    return r;
}

int verb_secret_delete(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *target = request_target("secrets", arguments->words[0], "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", arguments->words[0]);
    return print_done(arguments, document, err, "deleted secret %s", arguments->words[0]);
}
