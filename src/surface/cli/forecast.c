/* `fn|vm|node forecast`: what was and what is foreseen, as a plot. */
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

enum { COLUMNS = 72, ROWS = 8 };

struct bucket {
    double was; /* below 0: not known */
    double expected;
    double high;
};

static double number_of(const json_t *point, const char *name)
{
    const json_t *value = json_object_get(point, name);
    return json_is_number(value) ? json_number_value(value) : -1;
}

static double greater(double a, double b)
{
    return a > b ? a : b;
}

/* Returns how many columns are used; those of the past come first. */
static size_t fill(const json_t *points, struct bucket buckets[COLUMNS])
{
    size_t count = json_array_size(points);
    size_t columns = count < COLUMNS ? count : COLUMNS;
    for (size_t i = 0; i < columns; i++) {
        buckets[i] = (struct bucket){-1, -1, -1};
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *point = json_array_get(points, i);
        struct bucket *bucket = &buckets[i * columns / count];
        bucket->was = greater(bucket->was, number_of(point, "was"));
        bucket->expected = greater(bucket->expected, number_of(point, "expected"));
        bucket->high = greater(bucket->high, number_of(point, "high"));
    }
    return columns;
}

static char sign_of(const struct bucket *bucket, double from)
{
    if (bucket->was > from) {
        return '#';
    }
    if (bucket->expected > from) {
        return '+';
    }
    return bucket->high > from ? ':' : ' ';
}

static void plot(const json_t *forecast)
{
    struct bucket buckets[COLUMNS];
    const json_t *points = json_object_get(forecast, "points");
    size_t columns = fill(points, buckets);
    double top = 0;
    size_t past = 0;
    for (size_t i = 0; i < columns; i++) {
        top = greater(top, greater(buckets[i].was, buckets[i].high));
        past += buckets[i].was >= 0;
    }
    top = greater(top, 1);
    for (int row = ROWS - 1; row >= 0; row--) {
        char line[COLUMNS + 1];
        for (size_t i = 0; i < columns; i++) {
            line[i] = sign_of(&buckets[i], top * row / ROWS);
        }
        line[columns] = '\0';
        printf("%7.4g |%s\n", top * (row + 1) / ROWS, line);
    }
    printf("%7s +", "0");
    for (size_t i = 0; i < columns; i++) {
        putchar(i == past ? '^' : '-');
    }
    const char *begin = json_text(json_array_get(points, 0), "begin");
    printf("\n%9s%.16s", "", begin);
    if (past > 20) {
        printf("%*s%.16s", (int)past - 16, "", json_text(forecast, "until"));
    }
    printf("\n%9s# was   + expected   : stays below in %.0f %% of the steps\n\n", "",
           100 * number_of(forecast, "quantile"));
}

static void print_words(const json_t *forecast)
{
    const json_t *loss = json_object_get(forecast, "loss");
    bool is_used = json_is_true(json_object_get(forecast, "is_used"));
    bool is_of_calls = strcmp(json_text(forecast, "unit"), "calls at once") == 0;
    double mean = number_of(forecast, "mean");
    double error = number_of(forecast, "error");
    printf("node      %s\n", json_text(forecast, "node"));
    printf("unit      %s, the most in a step of %" PRIu64 " s; %" PRIu64 " steps seen\n",
           json_text(forecast, "unit"), json_u64(forecast, "step_ms") / 1000,
           json_u64(forecast, "steps"));
    printf("next      %.4g\n", number_of(forecast, "next"));
    printf("model     %s; %s\n", json_text(forecast, "model"),
           !is_used          ? "looking ahead is no better than looking back, yet"
               : is_of_calls ? "instances are kept by it"
                             : "better than looking back");
    printf("error     %.4g on average, where %.4g was on average\n", error, mean);
    printf("coverage  %.1f %% of the steps stayed within it (%.0f %% are aimed at)\n",
           100 * number_of(forecast, "coverage"), 100 * number_of(forecast, "quantile"));
    printf("loss      reactive %.4g, seasonal %.4g, regression %.4g\n", number_of(loss, "reactive"),
           number_of(loss, "seasonal"), number_of(loss, "regression"));
}

static int show(const struct arguments *arguments, const char *path, const char *node,
                struct error *err)
{
    BUFFER_OWNED struct buffer target = {0};
    JSON_OWNED json_t *forecast = NULL;
    enum output output = OUTPUT_TABLE;
    const char *hours = flag_value(arguments, "hours");
    buffer_append_string(&target, path);
    request_add_query(&target, "hours", hours != NULL ? hours : "24");
    request_add_query(&target, "node", node);
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", buffer_string(&target), NULL, &forecast, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        print_document(forecast, output);
        return 0;
    }
    plot(forecast);
    print_words(forecast);
    return 0;
}

int verb_fn_forecast(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *path = request_target("functions", arguments->words[0], "/forecast");
    return show(arguments, path, flag_value(arguments, "node"), err);
}

int verb_vm_forecast(const struct arguments *arguments, struct error *err)
{
    MEMORY_OWNED char *path = request_target("machines", arguments->words[0], "/forecast");
    return show(arguments, path, NULL, err);
}

int verb_node_forecast(const struct arguments *arguments, struct error *err)
{
    return show(arguments, "/v1/node/forecast",
                arguments->word_count > 0 ? arguments->words[0] : NULL, err);
}
