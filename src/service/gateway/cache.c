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

#include "service/gateway/lane.h"

enum { LIFE_MAX_S = 365 * 24 * 3600, ENTRY_OVERHEAD = 256, KEY_MAX = 8192, VARIANTS_MAX = 8 };

/* One answer: to requests whose fields named by `vary` were these. */
struct entry {
    struct list_node link; /* in the order of use, the last used first */
    struct entry *next;    /* of the same key */
    char *key;
    char *vary;        /* names, as the answer had them; or NULL */
    char *vary_values; /* of the request */
    int status;
    uint64_t stored_ms;
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

/* Host, path and query of a call, with what makes an answer old: versions of route and function. */
static bool key_of(const struct call *call, char ret_key[KEY_MAX])
{
    struct text host = http_exchange_field(call->exchange, "Host");
    struct text path = http_exchange_path(call->exchange);
    struct text query = http_exchange_query(call->exchange);
    int length = snprintf(ret_key, KEY_MAX, "%s/%s %" PRIu64 " %" PRIu64 " %.*s %.*s?%.*s",
                          call->route->project, call->route->name, call->route->revision,
                          call->target->version, (int)host.length, host.length > 0 ? host.data : "",
                          (int)path.length, path.data, (int)query.length,
                          query.length > 0 ? query.data : "");
    return length > 0 && length < KEY_MAX;
}

/* The request's values of the fields that a Vary names, each with its end. */
static char *vary_values(const struct call *call, const char *vary)
{
    BUFFER_OWNED struct buffer values = {0};
    struct text left = text_of(vary, strlen(vary));
    while (left.length > 0) {
        const char *comma = memchr(left.data, ',', left.length);
        size_t length = comma != NULL ? (size_t)(comma - left.data) : left.length;
        struct text name = text_trim(text_of(left.data, length));
        MEMORY_OWNED char *field = memory_copy_text(name.data, name.length);
        struct text value = http_exchange_field(call->exchange, field);
        buffer_append(&values, value.data != NULL ? value.data : "", value.length);
        buffer_append_byte(&values, '\n');
        size_t skip = comma != NULL ? length + 1 : length;
        left = text_of(left.data + skip, left.length - skip);
    }
    buffer_string(&values);
    return buffer_take(&values);
}

static bool fits(const struct call *call, const struct entry *entry)
{
    if (entry->vary == NULL) {
        return true;
    }
    MEMORY_OWNED char *values = vary_values(call, entry->vary);
    return strcmp(values, entry->vary_values) == 0;
}

/* ---- Cache-Control (RFC 9111, 5.2) ---- */

/* Is the directive there; and its number, if it has one. */
static bool directive(struct text list, const char *name, uint64_t *ret_value)
{
    size_t name_length = strlen(name);
    while (list.length > 0) {
        const char *comma = memchr(list.data, ',', list.length);
        size_t length = comma != NULL ? (size_t)(comma - list.data) : list.length;
        struct text part = text_trim(text_of(list.data, length));
        if (part.length >= name_length &&
            text_equal_ignoring_case(text_of(part.data, name_length), name) &&
            (part.length == name_length || part.data[name_length] == '=')) {
            struct text value = part.length > name_length
                ? text_of(part.data + name_length + 1, part.length - name_length - 1)
                : text_of("", 0);
            return ret_value == NULL || text_parse_u64(value, ret_value);
        }
        size_t skip = comma != NULL ? length + 1 : length;
        list = text_of(list.data + skip, list.length - skip);
    }
    return false;
}

static struct text head_field(const struct call *call, const char *name)
{
    for (size_t i = 0; call->head_state == HEAD_FOUND && i < call->head.field_count; i++) {
        if (text_equal_ignoring_case(call->head.fields[i].name, name)) {
            return call->head.fields[i].value;
        }
    }
    return text_of("", 0);
}

/* Seconds that the answer may be kept; 0: not at all. */
static uint64_t life_of(const struct call *call, int status)
{
    struct text control = head_field(call, "Cache-Control");
    bool is_private = http_exchange_field(call->exchange, "Authorization").data != NULL ||
        call->caller.subject[0] != '\0';
    uint64_t life_s = 0;
    bool is_kind = status == 200 || status == 203 || status == 204 || status == 301 ||
        status == 404 || status == 410;
    if (!is_kind || http_exchange_method(call->exchange) != HTTP_GET ||
        directive(control, "no-store", NULL) || directive(control, "no-cache", NULL) ||
        directive(control, "private", NULL) || head_field(call, "Set-Cookie").length > 0) {
        return 0;
    }
    bool is_shared = directive(control, "s-maxage", &life_s);
    if (!is_shared && !directive(control, "max-age", &life_s)) {
        return 0;
    }
    if (is_private && !is_shared && !directive(control, "public", NULL)) {
        return 0;
    }
    return life_s < LIFE_MAX_S ? life_s : LIFE_MAX_S;
}

/* ---- Answering ---- */

/* If-None-Match (RFC 9110, 13.1.2): weak comparison. */
static bool is_known_to_client(const struct call *call, const struct entry *entry)
{
    struct text asked = http_exchange_field(call->exchange, "If-None-Match");
    const char *tag = NULL;
    for (size_t i = 0; i < entry->field_count; i++) {
        tag = text_equal_ignoring_case(text_of(entry->names[i], strlen(entry->names[i])), "ETag")
            ? entry->values[i]
            : tag;
    }
    if (tag == NULL || asked.length == 0) {
        return false;
    }
    tag += strncmp(tag, "W/", 2) == 0 ? 2 : 0;
    return text_equal_ignoring_case(asked, "*") ||
        memmem(asked.data, asked.length, tag, strlen(tag)) != NULL;
}

static void respond(struct call *call, const struct entry *entry, uint64_t now_ms)
{
    char age[24];
    for (size_t i = 0; i < entry->field_count; i++) {
        http_exchange_add_field(call->exchange, entry->names[i], entry->values[i]);
    }
    if (entry->type != NULL) {
        http_exchange_add_field(call->exchange, "Content-Type", entry->type);
    }
    snprintf(age, sizeof(age), "%" PRIu64, (now_ms - entry->stored_ms) / 1000);
    http_exchange_add_field(call->exchange, "Age", age);
    http_exchange_add_field(call->exchange, "X-Blixard-Cache", "hit");
    bool is_known = entry->status == 200 && is_known_to_client(call, entry);
    traced_note_status(call, is_known ? 304 : entry->status);
    call->is_answering = false;
    if (is_known) {
        http_exchange_respond(call->exchange, 304, NULL, 0);
    } else {
        http_exchange_respond(call->exchange, entry->status, entry->body, entry->length);
    }
}

bool cache_answer(struct response_cache *cache, struct call *call)
{
    char key[KEY_MAX];
    enum http_method method = http_exchange_method(call->exchange);
    struct text control = http_exchange_field(call->exchange, "Cache-Control");
    if ((method != HTTP_GET && method != HTTP_HEAD) || !key_of(call, key) ||
        directive(control, "no-cache", NULL) || directive(control, "no-store", NULL)) {
        return false;
    }
    uint64_t now_ms = clock_monotonic_ms();
    pthread_mutex_lock(&cache->mutex);
    struct entry *entry = map_get(&cache->entries, key);
    while (entry != NULL && !(entry->until_ms > now_ms && fits(call, entry))) {
        entry = entry->next;
    }
    if (entry != NULL) {
        answer_own_fields(call);
        respond(call, entry, now_ms);
        list_remove(&entry->link);
        list_push_front(&cache->used, &entry->link);
        cache->counters.hits++;
    } else {
        cache->counters.misses++;
    }
    pthread_mutex_unlock(&cache->mutex);
    return entry != NULL;
}

/* ---- Keeping ---- */

static struct entry *entry_new(struct call *call, const char *key, int status, struct text body,
                               uint64_t life_s)
{
    struct entry *entry = NEW(struct entry);
    struct text vary = head_field(call, "Vary");
    bool has_head = call->head_state == HEAD_FOUND;
    entry->key = memory_copy_string(key);
    entry->status = status;
    entry->stored_ms = clock_monotonic_ms();
    entry->until_ms = entry->stored_ms + life_s * 1000;
    entry->names = memory_new(call->head.field_count + 1, sizeof(char *));
    entry->values = memory_new(call->head.field_count + 1, sizeof(char *));
    entry->size = ENTRY_OVERHEAD + strlen(key) + body.length;
    for (size_t i = 0; has_head && i < call->head.field_count; i++) {
        const struct cgi_field *field = &call->head.fields[i];
        if (peer_field_is_ours(field->name) || routed_is_cors(call->route, field->name) ||
            text_equal_ignoring_case(field->name, PEER_FIELD_NODE)) {
            continue;
        }
        entry->names[entry->field_count] = memory_copy_text(field->name.data, field->name.length);
        entry->values[entry->field_count++] =
            memory_copy_text(field->value.data, field->value.length);
        entry->size += field->name.length + field->value.length + 32;
    }
    if (vary.length > 0) {
        entry->vary = memory_copy_text(vary.data, vary.length);
        entry->vary_values = vary_values(call, entry->vary);
        entry->size += vary.length + strlen(entry->vary_values);
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
    uint64_t life_s = life_of(call, status);
    struct text vary = head_field(call, "Vary");
    if (life_s == 0 || call->target == NULL || !key_of(call, key) ||
        (vary.length > 0 && memchr(vary.data, '*', vary.length) != NULL)) {
        return;
    }
    struct entry *entry = entry_new(call, key, status, body, life_s);
    if (entry->size > cache->bytes_max / 4) {
        entry_free(entry);
        return;
    }
    pthread_mutex_lock(&cache->mutex);
    unsigned variants = 0;
    struct entry *next = NULL;
    for (struct entry *other = map_get(&cache->entries, key); other != NULL; other = next) {
        next = other->next;
        bool is_same = (other->vary == NULL) == (entry->vary == NULL) &&
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

void cache_counters(struct response_cache *cache, struct cache_counters *ret_counters)
{
    pthread_mutex_lock(&cache->mutex);
    *ret_counters = cache->counters;
    ret_counters->bytes = cache->bytes;
    pthread_mutex_unlock(&cache->mutex);
}
