/* Inside service/event: what its files share. */
#ifndef SERVICE_EVENT_PARTS_H
#define SERVICE_EVENT_PARTS_H

#include "service/event/event.h"

/* Is it a content type whose data are JSON ("x/json" or "x/y+json")?  NULL: yes,
 * as the JSON event format has it. */
bool event_type_is_json(const char *content_type);

/* The data as JSON, whatever their type; NULL: they are none. */
json_t *event_data_as_json(const struct event *event);

/* An attribute as it came, checked by the kind of its name. */
int event_put(struct event *event, const char *name, json_t *owned_value, struct error *err);
/* Are all required attributes there? */
int event_check(const struct event *event, struct error *err);

/* A scalar as text: strings as they are, numbers and booleans as JSON writes them. */
void event_append_value(struct buffer *out, const json_t *value);

/* ---- filter.c ---- */

/* Of what the match that is under way may take.  False: it has no answer, and is to end. */
bool filter_spend(uint64_t steps);

/* ---- pattern.c ---- */
int event_pattern_check(const json_t *pattern, struct error *err);
bool event_pattern_match(const json_t *pattern, const json_t *document);

/* ---- sql.c ---- */
struct sql_node;
int sql_parse(const char *text, struct sql_node **ret_root, struct error *err);
void sql_free(struct sql_node *node); /* accepts NULL */
bool sql_match(const struct sql_node *root, const json_t *document);

/* ---- sql_value.c: values of CESQL and what can be done with them ---- */

enum sql_kind { SQL_MISSING, SQL_BOOLEAN, SQL_NUMBER, SQL_TEXT };

struct sql_value {
    enum sql_kind kind;
    bool boolean;
    double number;
    char *text; /* owned */
};

void sql_value_done(struct sql_value *value);
struct sql_value sql_value_of(const json_t *value); /* a scalar, else MISSING */
struct sql_value sql_value_text(const char *text, size_t length);
struct sql_value sql_value_number(double number);
struct sql_value sql_value_boolean(bool boolean);
/* Casts of CESQL, 3.2.1 and so on; false: it cannot be cast, and *value is MISSING. */
bool sql_value_to_boolean(struct sql_value *value);
bool sql_value_is_number(const struct sql_value *value, double *ret_number); /* could it be one? */
bool sql_value_to_number(struct sql_value *value);
bool sql_value_to_text(struct sql_value *value);
/* % and _ with \ before them for themselves; what it takes is spent. */
bool sql_like(const char *text, const char *pattern);

enum { SQL_ARGUMENTS_MAX = 16 };
struct sql_function {
    const char *name;
    unsigned least;
    unsigned most;
    struct sql_value (*call)(struct sql_value *values, unsigned count);
};
const struct sql_function *sql_function_find(struct text name);

#endif
