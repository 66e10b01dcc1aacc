/* See freshness.h. */
#include "service/gateway/freshness.h"

#include <string.h>

#include "base/clock.h"

enum { LIFE_MAX_S = 365 * 24 * 3600 };

/* ---- Directives: name, name=value, name="value, with commas" ---- */

/* The length of the item that `list` begins with, up to its comma. */
static size_t item_length(struct text list)
{
    bool is_quoted = false;
    size_t at = 0;
    for (; at < list.length && (is_quoted || list.data[at] != ','); at++) {
        if (list.data[at] == '"') {
            is_quoted = !is_quoted;
        } else if (is_quoted && list.data[at] == '\\' && at + 1 < list.length) {
            at++;
        }
    }
    return at;
}

static struct text take_item(struct text *list)
{
    size_t length = item_length(*list);
    struct text item = text_trim(text_of(list->data, length));
    size_t skip = length < list->length ? length + 1 : length;
    *list = text_of(list->data + skip, list->length - skip);
    return item;
}

/* Is the directive there?  The first of its name counts; its value is left without quotes. */
static bool find(struct text list, const char *name, struct text *ret_value)
{
    size_t length = strlen(name);
    while (list.length > 0) {
        struct text item = take_item(&list);
        bool is_it = item.length >= length &&
            text_equal_ignoring_case(text_of(item.data, length), name) &&
            (item.length == length || item.data[length] == '=');
        if (!is_it) {
            continue;
        }
        struct text value = item.length > length
            ? text_of(item.data + length + 1, item.length - length - 1)
            : text_of("", 0);
        bool is_quoted =
            value.length >= 2 && value.data[0] == '"' && value.data[value.length - 1] == '"';
        *ret_value = is_quoted ? text_of(value.data + 1, value.length - 2) : value;
        return true;
    }
    return false;
}

static bool has(struct text list, const char *name)
{
    struct text ignored;
    return find(list, name, &ignored);
}

/* Is it there; and its seconds, 0 where they are no number: what cannot be read is stale. */
static bool find_seconds(struct text list, const char *name, uint64_t *ret_s)
{
    struct text value;
    uint64_t seconds = 0;
    if (!find(list, name, &value)) {
        return false;
    }
    *ret_s = text_parse_u64(value, &seconds) ? seconds : 0;
    return true;
}

void freshness_read_wish(struct text cache_control, struct text pragma,
                         struct freshness_wish *ret_wish)
{
    *ret_wish = (struct freshness_wish){.age_max_s = UINT64_MAX};
    ret_wish->is_not_kept = has(cache_control, "no-store");
    ret_wish->is_anew = ret_wish->is_not_kept || has(cache_control, "no-cache") ||
        (cache_control.length == 0 && has(pragma, "no-cache"));
    ret_wish->is_only_if_cached = has(cache_control, "only-if-cached");
    (void)find_seconds(cache_control, "max-age", &ret_wish->age_max_s);
    (void)find_seconds(cache_control, "min-fresh", &ret_wish->left_min_s);
}

/* ---- Lives ---- */

/* What it says itself, a shared cache's word first; false: nothing. */
static bool says_life(const struct freshness_answer *answer, uint64_t now_s, uint64_t *ret_life_s)
{
    uint64_t date_s = now_s;
    uint64_t expires_s = 0;
    if (find_seconds(answer->cache_control, "s-maxage", ret_life_s) ||
        find_seconds(answer->cache_control, "max-age", ret_life_s)) {
        return true;
    }
    if (!clock_read_http_date(answer->expires, &expires_s)) {
        return false;
    }
    (void)clock_read_http_date(answer->date, &date_s);
    *ret_life_s = expires_s > date_s ? expires_s - date_s : 0;
    return true;
}

bool freshness_life(const struct freshness_answer *answer, uint64_t now_s, uint64_t *ret_life_s,
                    uint64_t *ret_age_s)
{
    struct text control = answer->cache_control;
    uint64_t life_s = 0;
    uint64_t age_s = 0;
    bool is_allowed = !answer->is_private || has(control, "public") || has(control, "s-maxage") ||
        has(control, "must-revalidate");
    if (!is_allowed || has(control, "no-store") || has(control, "no-cache") ||
        has(control, "private") || !says_life(answer, now_s, &life_s)) {
        return false;
    }
    (void)text_parse_u64(answer->age, &age_s);
    life_s = life_s < LIFE_MAX_S ? life_s : LIFE_MAX_S;
    *ret_life_s = life_s;
    *ret_age_s = age_s;
    return age_s < life_s;
}

/* ---- What the client has ---- */

static struct text without_weakness(struct text tag)
{
    return tag.length >= 2 && tag.data[0] == 'W' && tag.data[1] == '/'
        ? text_of(tag.data + 2, tag.length - 2)
        : tag;
}

bool freshness_lists_tag(struct text list, struct text tag)
{
    struct text wanted = without_weakness(text_trim(tag));
    if (wanted.length == 0) {
        return false;
    }
    while (list.length > 0) {
        struct text item = without_weakness(take_item(&list));
        if (text_equal(item, "*") ||
            (item.length == wanted.length && memcmp(item.data, wanted.data, item.length) == 0)) {
            return true;
        }
    }
    return false;
}
