/* A filter is a JSON pattern or an expression of CESQL. */
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "service/event/parts.h"

struct event_filter {
    json_t *pattern; /* or */
    struct sql_node *sql;
};

int event_filter_parse(const char *text, struct event_filter **ret_filter, struct error *err)
{
    struct event_filter *filter = NEW(struct event_filter);
    size_t length = strlen(text);
    const char *first = text + strspn(text, " \t\r\n");
    int r = 0;
    if (length > EVENT_FILTER_BYTES_MAX) {
        r = error_set(err, ERROR_TOO_LARGE, "a filter is at most %d bytes", EVENT_FILTER_BYTES_MAX);
    } else if (*first == '{') {
        r = json_read(text, length, &filter->pattern, err);
        r = r < 0 ? error_wrap(err, "filter") : event_pattern_check(filter->pattern, err);
    } else {
        r = sql_parse(text, &filter->sql, err);
    }
    if (r < 0) {
        event_filter_free(filter);
        return r;
    }
    *ret_filter = filter;
    return 0;
}

void event_filter_free(struct event_filter *filter)
{
    if (filter != NULL) {
        json_decref(filter->pattern);
        sql_free(filter->sql);
        free(filter);
    }
}

/*
 * A filter of 16 KiB and an event of 1 MiB are small each, and their product is minutes: of a
 * pattern with '%' at each place of a text, of a list of tests at each item of an array.
 */
static _Thread_local uint64_t left; /* steps, of the match that is under way */

bool filter_spend(uint64_t steps)
{
    left = steps < left ? left - steps : 0;
    return left > 0;
}

bool event_filter_match(const struct event_filter *filter, const json_t *document,
                        struct error *err)
{
    left = EVENT_FILTER_STEPS_MAX;
    bool matches = filter->pattern != NULL ? event_pattern_match(filter->pattern, document)
                                           : sql_match(filter->sql, document);
    if (left == 0) {
        error_set(err, ERROR_TOO_LARGE,
                  "filter: it would take too long with this event: fewer tests, or shorter ones");
    }
    return matches && left > 0;
}
