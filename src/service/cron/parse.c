/* Texts of schedules. */
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/cron/parts.h"

enum { FIELDS = 6, TEXT_MAX = 256 };
enum { SECOND, MINUTE, HOUR, DAY, MONTH, WEEKDAY };

static const struct field {
    const char *name;
    unsigned least;
    unsigned most;
} fields[FIELDS] = {
    {"second", 0, 59}, {"minute", 0, 59}, {"hour", 0, 23},
    {"day", 1, 31},    {"month", 1, 12},  {"weekday", 0, 7},
};

static const char *const months[] = {"JAN", "FEB", "MAR", "APR", "MAY", "JUN",
                                     "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"};
static const char *const weekdays[] = {"SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"};

static int wrong(struct error *err, unsigned field, struct text item, const char *what)
{
    return error_set(err, ERROR_INVALID, "schedule, %s \"%.*s\": %s", fields[field].name,
                     (int)(item.length < 40 ? item.length : 40), item.data, what);
}

/* A number or a name at the beginning of `item`, which moves on. */
static bool take_value(struct text *item, unsigned field, unsigned *ret_value)
{
    size_t digits = 0;
    while (digits < item->length && item->data[digits] >= '0' && item->data[digits] <= '9') {
        digits++;
    }
    uint64_t value = 0;
    if (digits > 0) {
        if (!text_parse_u64(text_of(item->data, digits), &value) || value > 1000) {
            return false;
        }
        *ret_value = (unsigned)value;
        *item = text_of(item->data + digits, item->length - digits);
        return true;
    }
    const char *const *names = field == MONTH ? months : weekdays;
    unsigned count = field == MONTH ? 12 : field == WEEKDAY ? 7 : 0;
    for (unsigned i = 0; i < count && item->length >= 3; i++) {
        if (strncasecmp(item->data, names[i], 3) == 0) {
            *ret_value = i + (field == MONTH);
            *item = text_of(item->data + 3, item->length - 3);
            return true;
        }
    }
    return false;
}

static bool take_sign(struct text *item, char sign)
{
    bool is_it = item->length > 0 && (item->data[0] == sign || item->data[0] == (sign | 0x20));
    if (is_it) {
        *item = text_of(item->data + 1, item->length - 1);
    }
    return is_it;
}

/* L, L-n, LW and nW of a day; nL and n#k of a weekday.  0: it is none of them; 1: taken. */
static int take_special(struct cron *cron, unsigned field, struct text item, struct error *err)
{
    struct text left = item;
    unsigned value = 0;
    unsigned other = 0;
    if (field == DAY && take_sign(&left, 'L')) {
        if (left.length == 0) {
            cron->before_last |= 1;
            return 1;
        }
        if (text_equal_ignoring_case(left, "W")) {
            cron->last_weekday = true;
            return 1;
        }
        if (take_sign(&left, '-') && take_value(&left, field, &value) && left.length == 0 &&
            value <= 30) {
            cron->before_last |= 1u << value;
            return 1;
        }
        return wrong(err, field, item, "the last day is L, L-3 or LW");
    }
    if (field == WEEKDAY && text_equal_ignoring_case(item, "L")) {
        cron->weekdays |= 1u << 6; /* the last of a week, as Quartz has it */
        return 1;
    }
    if ((field != DAY && field != WEEKDAY) || !take_value(&left, field, &value) ||
        left.length == 0) {
        return 0;
    }
    bool fits = value >= fields[field].least && value <= fields[field].most;
    if (fits && field == DAY && take_sign(&left, 'W') && left.length == 0) {
        cron->nearest_days |= 1u << value;
        return 1;
    }
    if (fits && field == WEEKDAY && take_sign(&left, 'L') && left.length == 0) {
        cron->last_weekdays |= (uint8_t)(1u << value % 7);
        return 1;
    }
    if (field == WEEKDAY && left.length > 0 && left.data[0] == '#') {
        left = text_of(left.data + 1, left.length - 1);
        if (fits && take_value(&left, DAY, &other) && left.length == 0 && other >= 1 &&
            other <= 5) {
            cron->nth[value % 7] |= (uint8_t)(1u << other);
            return 1;
        }
        return wrong(err, field, item, "the third Friday is 5#3; 1 to 5");
    }
    return 0;
}

/*
 * A step that leaves the field is begun anew by the next hour (day, year): who writes every 90
 * minutes as a step of 90 would have it every hour, without a word.
 */
static int check_step(unsigned step, unsigned field, struct text item, struct error *err)
{
    static const char units[] = {[SECOND] = 's', [MINUTE] = 'm', [HOUR] = 'h'};
    const struct field *range = &fields[field];
    unsigned values = field == WEEKDAY ? 7 : range->most - range->least + 1;
    if (step > values && field <= HOUR) {
        return error_set(err, ERROR_INVALID,
                         "schedule, %s \"%.*s\": a step of more than %u is the same as %u; for one "
                         "run every %u %ss write \"@every %u%c\"",
                         range->name, (int)(item.length < 40 ? item.length : 40), item.data, values,
                         values, step, range->name, step, units[field]);
    }
    if (step > values) {
        return error_set(err, ERROR_INVALID,
                         "schedule, %s \"%.*s\": a step is at most %u; for longer intervals write "
                         "\"@every\" with hours, like \"@every 960h\"",
                         range->name, (int)(item.length < 40 ? item.length : 40), item.data,
                         values);
    }
    return 0;
}

/* One of a list: its values as bits. */
static int take_item(const struct cron *cron, struct text item, unsigned field, uint64_t *bits,
                     struct error *err)
{
    const struct field *range = &fields[field];
    struct text left = item;
    unsigned first = range->least;
    unsigned last = field == WEEKDAY ? 6 : range->most;
    unsigned step = 1;
    bool is_any = left.length > 0 && (left.data[0] == '*' || left.data[0] == '?');
    bool is_one = false;
    if (is_any) {
        left = text_of(left.data + 1, left.length - 1);
    } else {
        if (!take_value(&left, field, &first)) {
            return wrong(err, field, item, "a number, a name, a range or * is expected");
        }
        last = first;
        is_one = true;
        if (take_sign(&left, '-')) {
            is_one = false;
            if (!take_value(&left, field, &last)) {
                return wrong(err, field, item, "the range has no end");
            }
        }
    }
    if (take_sign(&left, '/')) {
        if (!take_value(&left, SECOND, &step) || step == 0) {
            return wrong(err, field, item, "a step is a number of at least 1");
        }
        if (cron->is_new && check_step(step, field, item, err) < 0) {
            return -ERROR_INVALID;
        }
        last = is_one ? range->most : last;
    }
    if (left.length > 0) {
        return wrong(err, field, item, "it goes on where its end is expected");
    }
    if (field == WEEKDAY && first > last && last == 0 && first <= 6) {
        last = 7; /* FRI-SUN */
    }
    if (first < range->least || last > range->most) {
        return error_set(err, ERROR_INVALID, "schedule, %s \"%.*s\": it is %u to %u", range->name,
                         (int)(item.length < 40 ? item.length : 40), item.data, range->least,
                         range->most);
    }
    if (first > last) {
        return wrong(err, field, item, "the range ends before it begins");
    }
    for (unsigned value = first; value <= last; value += step) {
        *bits |= 1ull << (field == WEEKDAY ? value % 7 : value);
    }
    return 0;
}

static int take_field(struct cron *cron, unsigned field, struct text text, uint64_t *ret_bits,
                      struct error *err)
{
    uint64_t bits = 0;
    const char *at = text.data;
    const char *end = at + text.length;
    for (;;) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        struct text item = text_of(at, (size_t)((comma != NULL ? comma : end) - at));
        int r = take_special(cron, field, item, err);
        r = r == 0 ? take_item(cron, item, field, &bits, err) : r;
        if (r < 0) {
            return r;
        }
        if (comma == NULL) {
            *ret_bits = bits;
            return 0;
        }
        at = comma + 1;
    }
}

static bool is_free(struct text text)
{
    return text.data[0] == '*' || text.data[0] == '?';
}

static int take_fields(struct cron *cron, const struct text texts[FIELDS], struct error *err)
{
    uint64_t bits[FIELDS] = {0};
    for (unsigned i = 0; i < FIELDS; i++) {
        int r = take_field(cron, i, texts[i], &bits[i], err);
        if (r < 0) {
            return r;
        }
    }
    cron->seconds = bits[SECOND];
    cron->minutes = bits[MINUTE];
    cron->hours = (uint32_t)bits[HOUR];
    cron->days = (uint32_t)bits[DAY];
    cron->months = (uint16_t)bits[MONTH];
    cron->weekdays |= (uint8_t)bits[WEEKDAY];
    cron->any_day = is_free(texts[DAY]);
    cron->any_weekday = is_free(texts[WEEKDAY]);
    return 0;
}

/* What others write otherwise. */
static int check_dialect(const char *text, struct error *err)
{
    if (strncasecmp(text, "CRON_TZ=", 8) == 0 || strncmp(text, "TZ=", 3) == 0) {
        return error_set(err, ERROR_INVALID,
                         "schedule \"%.60s\": the time zone stands beside it, not in it", text);
    }
    return strchr(text, '(') == NULL
        ? 0
        : error_set(err, ERROR_INVALID,
                    "schedule \"%.60s\": rate(5 minutes) is \"@every 5m\" here, cron(0 3 * * ? *) "
                    "\"0 3 * * *\", and at(2027-01-31T09:00:00) \"@at 2027-01-31T09:00:00\"",
                    text);
}

static int parse_fields(struct cron *cron, const char *text, struct error *err)
{
    if (check_dialect(text, err) < 0) {
        return -ERROR_INVALID;
    }
    struct text texts[FIELDS];
    unsigned count = 0;
    for (const char *at = text + strspn(text, " \t"); *at != '\0'; at += strspn(at, " \t")) {
        size_t length = strcspn(at, " \t");
        if (count < FIELDS) {
            texts[count] = text_of(at, length);
        }
        count++;
        at += length;
    }
    if (count != 5 && count != 6) {
        return error_set(err, ERROR_INVALID,
                         "schedule \"%.60s\": 5 fields (minute hour day month weekday) or 6 "
                         "(second first) are expected, not %u; or @hourly, @every 90s, @at TIME",
                         text, count);
    }
    if (count == 5) {
        memmove(&texts[1], &texts[0], 5 * sizeof(texts[0]));
        texts[0] = text_of("0", 1);
    }
    return take_fields(cron, texts, err);
}

static bool parse_moment(const char *text, const struct cron_zone *zone, uint64_t *ret_ms)
{
    bool is_local = false;
    if (!clock_read_ms(text, &is_local, ret_ms)) {
        return false;
    }
    if (is_local) {
        int64_t seconds = cron_moment_of(zone, (int64_t)(*ret_ms / 1000));
        *ret_ms = seconds > 0 ? (uint64_t)seconds * 1000 + *ret_ms % 1000 : 0;
    }
    return *ret_ms > 0;
}

static int parse_named(struct cron *cron, const char *text, struct error *err)
{
    static const struct {
        const char *name;
        const char *fields;
    } names[] = {
        {"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}, {"@monthly", "0 0 1 * *"},
        {"@weekly", "0 0 * * 0"}, {"@daily", "0 0 * * *"},    {"@midnight", "0 0 * * *"},
        {"@hourly", "0 * * * *"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcasecmp(text, names[i].name) == 0) {
            return parse_fields(cron, names[i].fields, err);
        }
    }
    if (strncasecmp(text, "@every ", 7) == 0) {
        bool is_good = text_parse_duration_ms(text + 7, &cron->every_ms) &&
            cron->every_ms >= 1000 && cron->every_ms <= 366ull * 86400 * 1000;
        return is_good
            ? 0
            : error_set(err, ERROR_INVALID,
                        "schedule \"%.60s\": @every takes 1s to 366d, as 90s, 5m, 2h", text);
    }
    if (strncasecmp(text, "@at ", 4) == 0) {
        return parse_moment(text + 4, cron->zone, &cron->at_ms)
            ? 0
            : error_set(err, ERROR_INVALID,
                        "schedule \"%.60s\": @at takes a time as 2027-01-31T09:00:00+01:00, or "
                        "without an offset one of the time zone",
                        text);
    }
    return error_set(err, ERROR_INVALID,
                     "schedule \"%.60s\" is not known: @yearly, @monthly, @weekly, @daily, "
                     "@hourly, @every DURATION, @at TIME, or 5 or 6 fields",
                     text);
}

static int parse(const char *text, const struct cron_zone *zone, bool is_new,
                 struct cron **ret_cron, struct error *err)
{
    if (strlen(text) > TEXT_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "a schedule is at most %d bytes", TEXT_MAX);
    }
    struct cron *cron = NEW(struct cron);
    cron->zone = zone;
    cron->is_new = is_new;
    text += strspn(text, " \t");
    int r = text[0] == '@' ? parse_named(cron, text, err) : parse_fields(cron, text, err);
    if (r < 0) {
        free(cron);
        return r;
    }
    *ret_cron = cron;
    return 0;
}

int cron_parse(const char *text, const struct cron_zone *zone, struct cron **ret_cron,
               struct error *err)
{
    return parse(text, zone, false, ret_cron, err);
}

int cron_check(const char *text, const struct cron_zone *zone, struct error *err)
{
    struct cron *cron = NULL;
    int r = parse(text, zone, true, &cron, err);
    cron_free(cron);
    return r;
}

void cron_free(struct cron *cron)
{
    free(cron);
}
