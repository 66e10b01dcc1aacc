/* Answers that are kept: see cache.h. */
#include "service/gateway/cache.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/http/http.h"
#include "base/map.h"
#include "base/memory.h"

#include "service/gateway/freshness.h"
#include "service/gateway/lane.h"

enum { ENTRY_OVERHEAD = 256, KEY_MAX = 8192, VARIANTS_MAX = 8 };

/* One answer: to requests whose fields named by `vary` were these. */
struct entry {
    struct list_node link; /* in the order of use, the last used first */
    struct entry *next;    /* of the same key */
    char *key;
    char *maker;       /* who answered: versions of route and function */
    char *vary;        /* names, as the answer had them; or NULL */
    char *vary_values; /* of the request */
    int status;
    uint64_t stored_ms;
    uint64_t age_s; /* that it had already then */
    uint64_t until_ms;
    size_t field_count;
    char **names;
    char **values;
    char *type; /* where the function named none; or NULL */
    uint8_t *body;
    size_t length;
    size_t size; /* all of it */
};

struct response_cache {
    pthread_mutex_t mutex;
    struct map entries; /* by key, a list */
    struct list used;
    uint64_t bytes;
    uint64_t bytes_max;
    struct cache_counters counters;
};

struct response_cache *cache_new(uint64_t bytes_max)
{
    struct response_cache *cache = NEW(struct response_cache);
    pthread_mutex_init(&cache->mutex, NULL);
    list_init(&cache->used);
    cache->bytes_max = bytes_max;
    return cache;
}

/* ---- Entries: under the lock ---- */

static void entry_free(struct entry *entry)
{
    for (size_t i = 0; i < entry->field_count; i++) {
        free(entry->names[i]);
        free(entry->values[i]);
    }
    free(entry->names);
    free(entry->values);
    free(entry->key);
    free(entry->maker);
    free(entry->vary);
    free(entry->vary_values);
    free(entry->type);
    free(entry->body);
    free(entry);
}

static void drop(struct response_cache *cache, struct entry *entry)
{
    struct entry *first = map_get(&cache->entries, entry->key);
    if (first == entry && entry->next == NULL) {
        map_remove(&cache->entries, entry->key);
    } else if (first == entry) {
        map_set(&cache->entries, entry->key, entry->next);
    } else {
        while (first->next != entry) {
            first = first->next;
        }
        first->next = entry->next;
    }
    list_remove(&entry->link);
    cache->bytes -= entry->size;
    cache->counters.entries--;
    entry_free(entry);
}

void cache_free(struct response_cache *cache)
{
    if (cache == NULL) {
        return;
    }
    while (!list_is_empty(&cache->used)) {
        drop(cache, LIST_FIRST(&cache->used, struct entry, link));
    }
    map_done(&cache->entries);
    pthread_mutex_destroy(&cache->mutex);
    free(cache);
}

/* ---- Keys ---- */

static struct text whole(const char *string)
{
    return text_of(string, strlen(string));
}

/* What is asked for: host, path and query.  One URI has one list of entries, so that what changes
 * it can make all of them old. */
static bool key_of(const struct call *call, char ret_key[KEY_MAX])
{
    struct text host = http_exchange_field(call->exchange, "Host");
    struct text path = http_exchange_path(call->exchange);
    struct text query = http_exchange_query(call->exchange);
    int length = snprintf(ret_key, KEY_MAX, "%.*s %.*s?%.*s", (int)host.length,
                          host.length > 0 ? host.data : "", (int)path.length, path.data,
                          (int)query.length, query.length > 0 ? query.data : "");
    return length > 0 && length < KEY_MAX;
}

static char *maker_of(const struct call *call)
{
    return memory_format("%s/%s %" PRIu64 " %" PRIu64, call->route->project, call->route->name,
                         call->route->revision, call->target->version);
}

/* All fields of a name in the request, as one list (RFC 9110, 5.3). */
static char *asked(const struct call *call, const char *name)
{
    BUFFER_OWNED struct buffer all = {0};
    size_t count = http_exchange_field_count(call->exchange);
    for (size_t i = 0; i < count; i++) {
        struct text other, value;
        http_exchange_field_at(call->exchange, i, &other, &value);
        if (text_equal_ignoring_case(other, name)) {
            buffer_append_string(&all, all.used > 0 ? ", " : "");
            buffer_append(&all, value.data, value.length);
        }
    }
    buffer_string(&all);
    return buffer_take(&all);
}

/* The same of the answer. */
static char *answered(const struct call *call, const char *name)
{
    BUFFER_OWNED struct buffer all = {0};
    for (size_t i = 0; call->head_state == HEAD_FOUND && i < call->head.field_count; i++) {
        if (text_equal_ignoring_case(call->head.fields[i].name, name)) {
            buffer_append_string(&all, all.used > 0 ? ", " : "");
            buffer_append(&all, call->head.fields[i].value.data, call->head.fields[i].value.length);
        }
    }
    buffer_string(&all);
    return buffer_take(&all);
}

/* The request's values of the fields that a Vary names, each with its end. */
static char *vary_values(const struct call *call, const char *vary)
{
    BUFFER_OWNED struct buffer values = {0};
    struct text left = whole(vary);
    while (left.length > 0) {
        const char *comma = memchr(left.data, ',', left.length);
        size_t length = comma != NULL ? (size_t)(comma - left.data) : left.length;
        struct text trimmed = text_trim(text_of(left.data, length));
        MEMORY_OWNED char *name = memory_copy_text(trimmed.data, trimmed.length);
        MEMORY_OWNED char *value = asked(call, name);
        buffer_append_string(&values, value);
        buffer_append_byte(&values, '\n');
        size_t skip = comma != NULL ? length + 1 : length;
        left = text_of(left.data + skip, left.length - skip);
    }
    buffer_string(&values);
    return buffer_take(&values);
}

static bool fits(const struct call *call, const char *maker, const struct entry *entry)
{
    if (strcmp(maker, entry->maker) != 0) {
        return false;
    }
    if (entry->vary == NULL) {
        return true;
    }
    MEMORY_OWNED char *values = vary_values(call, entry->vary);
    return strcmp(values, entry->vary_values) == 0;
}

static void read_wish(const struct call *call, struct freshness_wish *ret_wish)
{
    MEMORY_OWNED char *control = asked(call, "Cache-Control");
    MEMORY_OWNED char *pragma = asked(call, "Pragma");
    freshness_read_wish(whole(control), whole(pragma), ret_wish);
}

/* ---- Answering ---- */

static struct text field_of(const struct entry *entry, const char *name)
{
    for (size_t i = 0; i < entry->field_count; i++) {
        if (text_equal_ignoring_case(whole(entry->names[i]), name)) {
            return whole(entry->values[i]);
        }
    }
    return text_of("", 0);
}

/* If-None-Match, and only where there is none, If-Modified-Since (RFC 9110, 13.2.2). */
static bool is_known_to_client(const struct call *call, const struct entry *entry)
{
    MEMORY_OWNED char *tags = asked(call, "If-None-Match");
    uint64_t since_s = 0;
    uint64_t modified_s = 0;
    if (tags[0] != '\0') {
        return freshness_lists_tag(whole(tags), field_of(entry, "ETag"));
    }
    return clock_read_http_date(http_exchange_field(call->exchange, "If-Modified-Since"),
                                &since_s) &&
        clock_read_http_date(field_of(entry, "Last-Modified"), &modified_s) &&
        modified_s <= since_s;
}

static uint64_t age_of(const struct entry *entry, uint64_t now_ms)
{
    return entry->age_s + (now_ms - entry->stored_ms) / 1000;
}

static void respond(struct call *call, const struct entry *entry, uint64_t now_ms)
{
    static const char content[] = "Content-";
    char age[24];
    bool is_known = entry->status == 200 && is_known_to_client(call, entry);
    for (size_t i = 0; i < entry->field_count; i++) {
        /* What is about a body is not said where none is sent. */
        if (!is_known || strncasecmp(entry->names[i], content, sizeof(content) - 1) != 0 ||
            strcasecmp(entry->names[i], "Content-Location") == 0) {
            http_exchange_add_field(call->exchange, entry->names[i], entry->values[i]);
        }
    }
    if (entry->type != NULL && !is_known) {
        http_exchange_add_field(call->exchange, "Content-Type", entry->type);
    }
    snprintf(age, sizeof(age), "%" PRIu64, age_of(entry, now_ms));
    http_exchange_add_field(call->exchange, "Age", age);
    http_exchange_add_field(call->exchange, "X-Blixard-Cache", "hit");
    traced_note_status(call, is_known ? 304 : entry->status);
    call->is_answering = false;
    if (is_known) {
        http_exchange_respond(call->exchange, 304, NULL, 0);
    } else {
        http_exchange_respond(call->exchange, entry->status, entry->body, entry->length);
    }
}

/* The first one that is fresh, for this request, and as fresh as it wishes.  Under the lock. */
static struct entry *find(struct response_cache *cache, const struct call *call, const char *key,
                          const struct freshness_wish *wish, uint64_t now_ms)
{
    MEMORY_OWNED char *maker = maker_of(call);
    struct entry *entry = map_get(&cache->entries, key);
    for (; entry != NULL; entry = entry->next) {
        bool is_fresh = entry->until_ms > now_ms &&
            (entry->until_ms - now_ms) / 1000 >= wish->left_min_s &&
            age_of(entry, now_ms) <= wish->age_max_s && wish->age_max_s > 0;
        if (is_fresh && fits(call, maker, entry)) {
            return entry;
        }
    }
    return NULL;
}

bool cache_answer(struct response_cache *cache, struct call *call)
{
    char key[KEY_MAX];
    struct freshness_wish wish;
    enum http_method method = http_exchange_method(call->exchange);
    if ((method != HTTP_GET && method != HTTP_HEAD) || !key_of(call, key)) {
        return false;
    }
    read_wish(call, &wish);
    uint64_t now_ms = clock_monotonic_ms();
    pthread_mutex_lock(&cache->mutex);
    struct entry *entry = wish.is_anew ? NULL : find(cache, call, key, &wish, now_ms);
    if (entry != NULL) {
        answer_own_fields(call);
        respond(call, entry, now_ms);
        list_remove(&entry->link);
        list_push_front(&cache->used, &entry->link);
        cache->counters.hits++;
    } else if (!wish.is_anew) {
        cache->counters.misses++;
    }
    pthread_mutex_unlock(&cache->mutex);
    if (entry == NULL && wish.is_only_if_cached) {
        struct error err;
        error_set(&err, ERROR_TIMEOUT,
                  "nothing is kept that answers this request, and it asked for nothing else "
                  "(Cache-Control: only-if-cached)");
        answer_error(call, &err, NULL);
        return true;
    }
    return entry != NULL;
}

/* ---- Keeping ---- */

/* May it be kept, and how long; and how old it is already. */
static bool life_of(const struct call *call, int status, uint64_t *ret_life_s, uint64_t *ret_age_s)
{
    bool is_kind = status == 200 || status == 203 || status == 204 || status == 301 ||
        status == 404 || status == 410;
    struct freshness_wish wish;
    read_wish(call, &wish);
    if (!is_kind || http_exchange_method(call->exchange) != HTTP_GET || wish.is_not_kept) {
        return false;
    }
    MEMORY_OWNED char *control = answered(call, "Cache-Control");
    MEMORY_OWNED char *expires = answered(call, "Expires");
    MEMORY_OWNED char *date = answered(call, "Date");
    MEMORY_OWNED char *age = answered(call, "Age");
    MEMORY_OWNED char *cookies = answered(call, "Set-Cookie");
    const struct freshness_answer answer = {
        .cache_control = whole(control),
        .expires = whole(expires),
        .date = whole(date),
        .age = whole(age),
        .is_private = http_exchange_field(call->exchange, "Authorization").data != NULL ||
            call->caller.subject[0] != '\0',
    };
    return cookies[0] == '\0' &&
        freshness_life(&answer, clock_real_ms() / 1000, ret_life_s, ret_age_s);
}

static struct entry *entry_new(struct call *call, const char *key, int status, struct text body)
{
    struct entry *entry = NEW(struct entry);
    MEMORY_OWNED char *vary = answered(call, "Vary");
    bool has_head = call->head_state == HEAD_FOUND;
    entry->key = memory_copy_string(key);
    entry->maker = maker_of(call);
    entry->status = status;
    entry->stored_ms = clock_monotonic_ms();
    entry->names = memory_new(call->head.field_count + 1, sizeof(char *));
    entry->values = memory_new(call->head.field_count + 1, sizeof(char *));
    entry->size = ENTRY_OVERHEAD + strlen(key) + body.length;
    for (size_t i = 0; has_head && i < call->head.field_count; i++) {
        const struct cgi_field *field = &call->head.fields[i];
        if (peer_field_is_ours(field->name) || routed_is_cors(call->route, field->name) ||
            text_equal_ignoring_case(field->name, PEER_FIELD_NODE) ||
            text_equal_ignoring_case(field->name, "Age")) {
            continue;
        }
        entry->names[entry->field_count] = memory_copy_text(field->name.data, field->name.length);
        entry->values[entry->field_count++] =
            memory_copy_text(field->value.data, field->value.length);
        entry->size += field->name.length + field->value.length + 32;
    }
    if (vary[0] != '\0') {
        entry->vary = memory_copy_string(vary);
        entry->vary_values = vary_values(call, entry->vary);
        entry->size += strlen(vary) + strlen(entry->vary_values);
    }
    if (body.length > 0 && !(has_head && call->head.has_content_type)) {
        entry->type = memory_copy_string(cgi_guess_type(body.data, body.length, true));
    }
    entry->body = (uint8_t *)memory_copy_text(body.length > 0 ? body.data : "", body.length);
    entry->length = body.length;
    return entry;
}

void cache_keep(struct response_cache *cache, struct call *call, int status, struct text body)
{
    char key[KEY_MAX];
    uint64_t life_s = 0;
    uint64_t age_s = 0;
    MEMORY_OWNED char *vary = answered(call, "Vary");
    if (call->target == NULL || !key_of(call, key) || strchr(vary, '*') != NULL ||
        !life_of(call, status, &life_s, &age_s)) {
        return;
    }
    struct entry *entry = entry_new(call, key, status, body);
    entry->age_s = age_s;
    entry->until_ms = entry->stored_ms + (life_s - age_s) * 1000;
    if (entry->size > cache->bytes_max / 4) {
        entry_free(entry);
        return;
    }
    pthread_mutex_lock(&cache->mutex);
    unsigned variants = 0;
    struct entry *next = NULL;
    for (struct entry *other = map_get(&cache->entries, key); other != NULL; other = next) {
        next = other->next;
        bool is_same = strcmp(other->maker, entry->maker) == 0 &&
            (other->vary == NULL) == (entry->vary == NULL) &&
            (entry->vary == NULL || strcmp(other->vary_values, entry->vary_values) == 0);
        if (is_same || ++variants >= VARIANTS_MAX) {
            drop(cache, other);
        }
    }
    while (cache->bytes + entry->size > cache->bytes_max) {
        drop(cache, LIST_ITEM(cache->used.head.previous, struct entry, link));
    }
    entry->next = map_get(&cache->entries, key);
    map_set(&cache->entries, key, entry);
    list_push_front(&cache->used, &entry->link);
    cache->bytes += entry->size;
    cache->counters.entries++;
    pthread_mutex_unlock(&cache->mutex);
}

void cache_forget(struct response_cache *cache, const struct call *call, int status)
{
    char key[KEY_MAX];
    enum http_method method = http_exchange_method(call->exchange);
    if (method == HTTP_GET || method == HTTP_HEAD || method == HTTP_OPTIONS || status < 200 ||
        status >= 400 || !key_of(call, key)) {
        return;
    }
    pthread_mutex_lock(&cache->mutex);
    struct entry *entry = NULL;
    while ((entry = map_get(&cache->entries, key)) != NULL) {
        drop(cache, entry);
    }
    pthread_mutex_unlock(&cache->mutex);
}

void cache_counters(struct response_cache *cache, struct cache_counters *ret_counters)
{
    pthread_mutex_lock(&cache->mutex);
    *ret_counters = cache->counters;
    ret_counters->bytes = cache->bytes;
    pthread_mutex_unlock(&cache->mutex);
}
