/* Brokers: settings, and what passes between their threads and the loop.  See broker.h. */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "service/broker/private.h"

static const struct broker_kind *const kinds[] = {
#ifdef HAVE_HIREDIS
    &broker_redis,
#endif
#ifdef HAVE_NATS
    &broker_nats,
#endif
#ifdef HAVE_RDKAFKA
    &broker_kafka,
#endif
#ifdef HAVE_RABBITMQ
    &broker_amqp,
#endif
#ifdef HAVE_MOSQUITTO
    &broker_mqtt,
#endif
    NULL,
};

static const char *const names[] = {"redis", "nats", "kafka", "amqp", "mqtt"};

static const struct broker_kind *find_kind(const char *name)
{
    for (size_t i = 0; kinds[i] != NULL; i++) {
        if (strcmp(kinds[i]->name, name) == 0) {
            return kinds[i];
        }
    }
    return NULL;
}

bool broker_kind_is_known(const char *kind)
{
    bool is_known = false;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        is_known = is_known || strcmp(names[i], kind) == 0;
    }
    return is_known;
}

bool broker_kind_is_here(const char *kind)
{
    return find_kind(kind) != NULL;
}

/* ---- Settings ---- */

static int bad_url(const char *text, const char *why, struct error *err)
{
    return error_set(err, ERROR_INVALID, "url \"%.100s\": %s", text, why);
}

static bool take(char *place, size_t size, const char *from, size_t length)
{
    if (length >= size) {
        return false;
    }
    memcpy(place, from, length);
    place[length] = '\0';
    return true;
}

/* HOST, HOST:PORT or [ADDRESS]:PORT. */
static int take_authority(const char *text, const char *from, size_t length, struct broker_url *url,
                          struct error *err)
{
    const char *end = from + length;
    const char *bracket = from[0] == '[' ? memchr(from, ']', length) : NULL;
    const char *colon = bracket != NULL
        ? (bracket + 1 < end && bracket[1] == ':' ? bracket + 1 : NULL)
        : memchr(from, ':', length);
    const char *host = bracket != NULL ? from + 1 : from;
    const char *host_end = bracket != NULL ? bracket : colon != NULL ? colon : end;
    uint64_t port = 0;
    if (!take(url->host, sizeof(url->host), host, (size_t)(host_end - host)) ||
        url->host[0] == '\0') {
        return bad_url(text, "it names no host", err);
    }
    if (colon != NULL &&
        (!text_parse_u64(text_of(colon + 1, (size_t)(end - colon - 1)), &port) || port == 0 ||
         port > 65535)) {
        return bad_url(text, "its port is not a number from 1 to 65535", err);
    }
    url->port = (unsigned)port;
    return 0;
}

int broker_url_parse(const char *text, struct broker_url *ret_url, struct error *err)
{
    *ret_url = (struct broker_url){0};
    const char *colon = strchr(text, ':');
    if (colon == NULL ||
        !take(ret_url->scheme, sizeof(ret_url->scheme), text, (size_t)(colon - text))) {
        return bad_url(text, "it is not SCHEME://HOST:PORT", err);
    }
    if (strcmp(ret_url->scheme, "unix") == 0) {
        return colon[1] == '/' &&
                take(ret_url->host, sizeof(ret_url->host), colon + 1, strlen(colon + 1))
            ? 0
            : bad_url(text, "it is not unix:/PATH", err);
    }
    if (!text_starts_with(colon, "://")) {
        return bad_url(text, "it is not SCHEME://HOST:PORT", err);
    }
    const char *authority = colon + 3;
    size_t length = strcspn(authority, "/?#");
    if (memchr(authority, '@', length) != NULL) {
        return bad_url(
            text, "user and password do not stand in it: see username and password_secret", err);
    }
    const char *path = authority + length;
    if (path[0] == '/' && !take(ret_url->path, sizeof(ret_url->path), path + 1, strlen(path + 1))) {
        return bad_url(text, "its path is too long", err);
    }
    /* Several hosts are for a kind that knows them. */
    const char *comma = memchr(authority, ',', length);
    return take_authority(text, authority, comma != NULL ? (size_t)(comma - authority) : length,
                          ret_url, err);
}

static bool is_listed(const char *const *list, const char *word)
{
    for (; *list != NULL; list++) {
        if (strcmp(*list, word) == 0) {
            return true;
        }
    }
    return false;
}

enum { NUMBER_MAX = 24 * 3600 * 1000 };

static int check_keys(const struct broker_kind *kind, const json_t *settings, struct error *err)
{
    const char *key = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)settings, key, value)
    {
        if (strcmp(key, "url") != 0 && strcmp(key, "in_flight") != 0 &&
            !is_listed(kind->keys, key)) {
            size_t count = 0;
            while (kind->keys[count] != NULL) {
                count++;
            }
            const char *near = text_nearest(key, kind->keys, count);
            return error_set(err, ERROR_INVALID, "%s has no setting \"%.40s\"%s%s%s", kind->name,
                             key, near != NULL ? "; did you mean \"" : "", near != NULL ? near : "",
                             near != NULL ? "\"?" : "");
        }
        bool is_number =
            text_ends_with(key, "_ms") || strcmp(key, "qos") == 0 || strcmp(key, "in_flight") == 0;
        bool is_flag = strcmp(key, "retained") == 0;
        bool is_list = strcmp(key, "topics") == 0;
        if (is_number ? !json_is_integer(value) || json_integer_value(value) < 0 ||
                    json_integer_value(value) > NUMBER_MAX
                : is_flag ? !json_is_boolean(value)
                : is_list ? !json_is_array(value) || json_array_size(value) == 0
                          : !json_is_string(value) || json_string_length(value) == 0) {
            return error_set(err, ERROR_INVALID, "%s must be %s", key,
                             is_number     ? "a number, of ms at most a day"
                                 : is_flag ? "true or false"
                                 : is_list ? "a list of names"
                                           : "a text");
        }
    }
    for (size_t i = 0; kind->needed[i] != NULL; i++) {
        if (json_object_get(settings, kind->needed[i]) == NULL) {
            return error_set(err, ERROR_INVALID, "%s needs the setting \"%s\"", kind->name,
                             kind->needed[i]);
        }
    }
    return 0;
}

static int check_start(const json_t *settings, struct error *err)
{
    const char *start = json_string_value(json_object_get(settings, "start"));
    return start == NULL || strcmp(start, "new") == 0 || strcmp(start, "all") == 0
        ? 0
        : error_set(err, ERROR_INVALID, "start must be new or all");
}

static int check_topics(const json_t *settings, struct error *err)
{
    size_t i = 0;
    json_t *topic = NULL;
    json_array_foreach(json_object_get(settings, "topics"), i, topic)
    {
        if (!json_is_string(topic) || json_string_length(topic) == 0 ||
            json_string_length(topic) > 1024) {
            return error_set(err, ERROR_INVALID, "topics must be names");
        }
    }
    return 0;
}

int broker_check(const char *kind_name, const json_t *settings, struct error *err)
{
    struct broker_url url;
    const struct broker_kind *kind = find_kind(kind_name);
    if (kind == NULL) {
        return broker_kind_is_known(kind_name)
            ? error_set(err, ERROR_UNSUPPORTED, "this blixard was built without %s", kind_name)
            : error_set(err, ERROR_INVALID, "\"%.40s\" is no kind of broker", kind_name);
    }
    if (!json_is_object(settings)) {
        return error_set(err, ERROR_INVALID, "the settings of %s must be an object", kind->name);
    }
    const char *text = json_string_value(json_object_get(settings, "url"));
    if (text == NULL) {
        return error_set(err, ERROR_INVALID, "%s needs the setting \"url\"", kind->name);
    }
    int r = broker_url_parse(text, &url, err);
    if (r == 0 && !is_listed(kind->schemes, url.scheme)) {
        r = error_set(err, ERROR_INVALID, "url \"%.100s\": %s speaks %s://%s%s%s", text, kind->name,
                      kind->schemes[0], kind->schemes[1] != NULL ? " and " : "",
                      kind->schemes[1] != NULL ? kind->schemes[1] : "",
                      kind->schemes[1] != NULL ? ":" : "");
    }
    const json_t *said = json_object_get(settings, "in_flight");
    json_int_t in_flight = json_is_integer(said) ? json_integer_value(said) : 1;
    if (r == 0 && (in_flight < 1 || in_flight > BROKER_IN_FLIGHT_MAX)) {
        r = error_set(err, ERROR_INVALID, "in_flight must be from 1 to %d", BROKER_IN_FLIGHT_MAX);
    }
    r = r < 0 ? r : check_keys(kind, settings, err);
    r = r < 0 ? r : check_start(settings, err);
    r = r < 0 ? r : check_topics(settings, err);
    return r < 0 || kind->check == NULL ? r : kind->check(settings, err);
}

const char *broker_text(const struct broker *broker, const char *key, const char *fallback)
{
    const char *text = json_string_value(json_object_get(broker->settings, key));
    return text != NULL ? text : fallback;
}

uint64_t broker_number(const struct broker *broker, const char *key, uint64_t fallback)
{
    const json_t *number = json_object_get(broker->settings, key);
    return json_is_integer(number) ? (uint64_t)json_integer_value(number) : fallback;
}

bool broker_starts_with_all(const struct broker *broker)
{
    return strcmp(broker_text(broker, "start", "new"), "all") == 0;
}

/* ---- Life ---- */

static void unref(struct broker *broker)
{
    if (atomic_fetch_sub(&broker->references, 1) != 1) {
        return;
    }
    while (!list_is_empty(&broker->verdicts)) {
        struct verdict *verdict = LIST_FIRST(&broker->verdicts, struct verdict, link);
        list_remove(&verdict->link);
        free(verdict);
    }
    json_decref(broker->settings);
    pthread_mutex_destroy(&broker->mutex);
    close(broker->wake_fd);
    if (broker->password != NULL) {
        explicit_bzero(broker->password, strlen(broker->password));
    }
    free(broker->name);
    free(broker->username);
    free(broker->password);
    free(broker);
}

/*
 * Threads of this process, whichever broker they are of.  A thread that ends joins the one that
 * ended before it, so who joins the last has seen all of them go, with what libraries kept for each
 * thread.
 */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    unsigned count;    /* that run */
    struct list turns; /* brokers, as they were opened, whose clients have not ended */
    pthread_t last;    /* that ended, when has_last */
    bool has_last;
} threads = {.mutex = PTHREAD_MUTEX_INITIALIZER,
             .ended = PTHREAD_COND_INITIALIZER,
             .turns = {{&threads.turns.head, &threads.turns.head}}};

static int begin_thread(struct broker *broker, void *(*body)(void *))
{
    pthread_t thread;
    pthread_mutex_lock(&threads.mutex);
    int r = -pthread_create(&thread, NULL, body, broker);
    threads.count += r == 0;
    if (r == 0) {
        list_push_back(&threads.turns, &broker->turn);
    }
    pthread_mutex_unlock(&threads.mutex);
    return r;
}

static void end_thread(void)
{
    pthread_mutex_lock(&threads.mutex);
    bool had_last = threads.has_last;
    pthread_t last = threads.last;
    threads.last = pthread_self();
    threads.has_last = true;
    threads.count--;
    pthread_cond_broadcast(&threads.ended);
    pthread_mutex_unlock(&threads.mutex);
    if (had_last) {
        pthread_join(last, NULL);
    }
}

void broker_settle(void)
{
    pthread_mutex_lock(&threads.mutex);
    while (threads.count > 0) {
        pthread_cond_wait(&threads.ended, &threads.mutex);
    }
    bool had_last = threads.has_last;
    pthread_t last = threads.last;
    threads.has_last = false;
    pthread_mutex_unlock(&threads.mutex);
    if (had_last) {
        pthread_join(last, NULL);
    }
#ifdef HAVE_NATS
    broker_nats_end();
#endif
}

static bool is_first_of_name(const struct broker *broker)
{
    const char *url = broker_text(broker, "url", "");
    LIST_EACH(node, &threads.turns)
    {
        const struct broker *other = LIST_ITEM(node, struct broker, turn);
        if (other == broker) {
            return true;
        }
        if (other->kind == broker->kind && strcmp(other->name, broker->name) == 0 &&
            strcmp(broker_text(other, "url", ""), url) == 0) {
            return false;
        }
    }
    return true;
}

/* The client before this one tells the server what was handled as it ends.  Only then is the server
 * asked for what was not. */
static void await_turn(struct broker *broker)
{
    pthread_mutex_lock(&threads.mutex);
    while (!is_first_of_name(broker)) {
        pthread_cond_wait(&threads.ended, &threads.mutex);
    }
    pthread_mutex_unlock(&threads.mutex);
}

static void end_turn(struct broker *broker)
{
    pthread_mutex_lock(&threads.mutex);
    list_remove(&broker->turn);
    pthread_cond_broadcast(&threads.ended);
    pthread_mutex_unlock(&threads.mutex);
}

static void *run(void *argument)
{
    struct broker *broker = argument;
    await_turn(broker);
    broker->kind->run(broker);
    end_turn(broker);
    unref(broker);
    end_thread();
    return NULL;
}

int broker_open(struct loop *loop, const struct broker_options *options,
                const struct broker_events *events, void *context, struct broker **ret_broker,
                struct error *err)
{
    int r = broker_check(options->kind, options->settings, err);
    if (r < 0) {
        return r;
    }
    int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_fd < 0) {
        return error_os(err, errno, "starting a client of a broker");
    }
    struct broker *broker = NEW(struct broker);
    broker->wake_fd = wake_fd;
    broker->kind = find_kind(options->kind);
    broker->loop = loop;
    broker->events = *events;
    broker->context = context;
    broker->settings = json_deep_copy(options->settings);
    broker->name = memory_copy_string(options->name);
    broker->username = options->username != NULL ? memory_copy_string(options->username) : NULL;
    broker->password = options->password != NULL ? memory_copy_string(options->password) : NULL;
    broker->in_flight_max = (unsigned)broker_number(broker, "in_flight", 100);
    broker->references = 2;
    snprintf(broker->status.reason, sizeof(broker->status.reason), "connecting");
    list_init(&broker->verdicts);
    pthread_mutex_init(&broker->mutex, NULL);
    r = begin_thread(broker, run);
    if (r < 0) {
        broker->references = 1;
        unref(broker);
        return error_os(err, -r, "starting a thread for a broker");
    }
    *ret_broker = broker;
    return 0;
}

/* Its counter cannot be full: each wait takes it back to 0. */
static void wake(struct broker *broker)
{
    CHECK(eventfd_write(broker->wake_fd, 1) == 0);
}

void broker_close(struct broker *broker)
{
    if (broker == NULL) {
        return;
    }
    broker->is_closed = true;
    pthread_mutex_lock(&broker->mutex);
    broker->is_stopping = true;
    wake(broker);
    pthread_mutex_unlock(&broker->mutex);
    unref(broker);
}

static void answer(struct broker *broker, uint64_t token, bool is_acknowledged)
{
    struct verdict *verdict = NEW(struct verdict);
    verdict->token = token;
    verdict->is_acknowledged = is_acknowledged;
    pthread_mutex_lock(&broker->mutex);
    list_push_back(&broker->verdicts, &verdict->link);
    wake(broker);
    pthread_mutex_unlock(&broker->mutex);
}

void broker_acknowledge(struct broker *broker, uint64_t token)
{
    answer(broker, token, true);
}

void broker_release(struct broker *broker, uint64_t token)
{
    answer(broker, token, false);
}

static void set_paused(struct broker *broker, bool is_paused)
{
    pthread_mutex_lock(&broker->mutex);
    broker->is_paused = is_paused;
    wake(broker);
    pthread_mutex_unlock(&broker->mutex);
}

void broker_pause(struct broker *broker)
{
    set_paused(broker, true);
}

void broker_resume(struct broker *broker)
{
    set_paused(broker, false);
}

void broker_status(const struct broker *broker, struct broker_status *ret_status)
{
    *ret_status = broker->status;
}

/* ---- The client's thread ---- */

bool broker_is_stopping(struct broker *broker)
{
    pthread_mutex_lock(&broker->mutex);
    bool is_stopping = broker->is_stopping;
    pthread_mutex_unlock(&broker->mutex);
    return is_stopping;
}

static unsigned room(const struct broker *broker)
{
    return broker->is_paused || broker->is_stopping || broker->in_flight >= broker->in_flight_max
        ? 0
        : broker->in_flight_max - broker->in_flight;
}

unsigned broker_room(struct broker *broker)
{
    pthread_mutex_lock(&broker->mutex);
    unsigned count = room(broker);
    pthread_mutex_unlock(&broker->mutex);
    return count;
}

/* Until something has changed since the last wait, or the socket (-1: none) is ready. */
static short wait_changed(struct broker *broker, int socket, short events, uint64_t timeout_ms)
{
    eventfd_t count = 0;
    struct pollfd fds[] = {{.fd = broker->wake_fd, .events = POLLIN},
                           {.fd = socket, .events = events}};
    if (poll(fds, 2, timeout_ms < INT_MAX ? (int)timeout_ms : INT_MAX) <= 0) {
        return 0;
    }
    eventfd_read(broker->wake_fd, &count);
    return fds[1].revents;
}

short broker_wait_socket(struct broker *broker, int socket, short events, uint64_t timeout_ms)
{
    pthread_mutex_lock(&broker->mutex);
    bool waits = !broker->is_stopping && list_is_empty(&broker->verdicts);
    pthread_mutex_unlock(&broker->mutex);
    return waits ? wait_changed(broker, socket, events, timeout_ms) : 0;
}

void broker_wait(struct broker *broker, uint64_t timeout_ms)
{
    broker_wait_socket(broker, -1, 0, timeout_ms);
}

bool broker_next_verdict(struct broker *broker, uint64_t *ret_token, bool *ret_acknowledged)
{
    pthread_mutex_lock(&broker->mutex);
    struct verdict *verdict = LIST_FIRST(&broker->verdicts, struct verdict, link);
    if (verdict != NULL) {
        CHECK(broker->in_flight > 0);
        broker->in_flight--;
        list_remove(&verdict->link);
    }
    pthread_mutex_unlock(&broker->mutex);
    if (verdict == NULL) {
        return false;
    }
    *ret_token = verdict->token;
    *ret_acknowledged = verdict->is_acknowledged;
    free(verdict);
    return true;
}

void broker_back_off(struct broker *broker, uint64_t *delay_ms)
{
    uint8_t chance = 0;
    random_bytes(&chance, sizeof(chance));
    *delay_ms = *delay_ms == 0 ? RETRY_FIRST_MS : *delay_ms * 2;
    *delay_ms = *delay_ms > RETRY_MOST_MS ? RETRY_MOST_MS : *delay_ms;
    uint64_t wait_ms = *delay_ms / 2 + *delay_ms * chance / 512;
    uint64_t now_ms = clock_monotonic_ms();
    uint64_t end_ms = now_ms + wait_ms;
    for (; now_ms < end_ms && !broker_is_stopping(broker); now_ms = clock_monotonic_ms()) {
        wait_changed(broker, -1, 0, end_ms - now_ms);
    }
}

/* ---- To the loop ---- */

struct given {
    struct broker *broker;
    struct broker_message message;
    char *id;
    char *source;
    char *subject;
    char *type;
    json_t *fields;
    void *body;
};

static void on_given(void *argument)
{
    struct given *given = argument;
    struct broker *broker = given->broker;
    if (!broker->is_closed) {
        broker->status.taken++;
        broker->events.on_message(&given->message, broker->context);
    }
    free(given->id);
    free(given->source);
    free(given->subject);
    free(given->type);
    free(given->body);
    json_decref(given->fields);
    free(given);
    unref(broker);
}

static char *copy_of(const char *text)
{
    return text != NULL ? memory_copy_string(text) : NULL;
}

void broker_give(struct broker *broker, const struct broker_message *message, json_t *owned_fields)
{
    struct given *given = NEW(struct given);
    given->broker = broker;
    given->fields = owned_fields;
    atomic_fetch_add(&broker->references, 1);
    given->message = *message;
    if (message->length > BROKER_BODY_BYTES_MAX) {
        given->message.refused_bytes = message->length;
        given->message.length = 0;
    }
    given->message.id = given->id = copy_of(message->id);
    given->message.source = given->source = copy_of(message->source);
    given->message.subject = given->subject = copy_of(message->subject);
    given->message.type = given->type = copy_of(message->type);
    given->message.fields = owned_fields;
    given->body =
        memory_copy_text(message->body != NULL ? message->body : "", given->message.length);
    given->message.body = given->body;
    pthread_mutex_lock(&broker->mutex);
    broker->in_flight++;
    pthread_mutex_unlock(&broker->mutex);
    loop_post(broker->loop, on_given, given);
}

struct noted {
    struct broker *broker;
    bool is_lag;
    uint64_t lag;
    bool is_connected;
    char reason[160];
};

static void on_noted(void *argument)
{
    struct noted *noted = argument;
    struct broker *broker = noted->broker;
    struct broker_status *status = &broker->status;
    if (noted->is_lag) {
        status->knows_lag = true;
        status->lag = noted->lag;
    } else if (!broker->is_closed &&
               (status->is_connected != noted->is_connected ||
                strcmp(status->reason, noted->reason) != 0)) {
        status->is_connected = noted->is_connected;
        memcpy(status->reason, noted->reason, sizeof(status->reason));
        broker->events.on_state(noted->is_connected, status->reason, broker->context);
    }
    free(noted);
    unref(broker);
}

static void note(struct broker *broker, struct noted *owned_noted)
{
    owned_noted->broker = broker;
    atomic_fetch_add(&broker->references, 1);
    loop_post(broker->loop, on_noted, owned_noted);
}

void broker_note_state(struct broker *broker, bool is_connected, const char *format, ...)
{
    struct noted *noted = NEW(struct noted);
    va_list arguments;
    noted->is_connected = is_connected;
    va_start(arguments, format);
    vsnprintf(noted->reason, sizeof(noted->reason), format, arguments);
    va_end(arguments);
    note(broker, noted);
}

void broker_note_unreached(struct broker *broker, const struct broker_url *url, int port,
                           const char *why)
{
    if (port > 0) {
        broker_note_state(broker, false, "connecting to %.100s, port %d: %s", url->host, port, why);
    } else {
        broker_note_state(broker, false, "connecting to %.100s: %s", url->host, why);
    }
}

void broker_note_lag(struct broker *broker, uint64_t lag)
{
    struct noted *noted = NEW(struct noted);
    noted->is_lag = true;
    noted->lag = lag;
    note(broker, noted);
}

void broker_add_field(json_t *fields, const char *name, const void *value, size_t length)
{
    if (name != NULL) {
        json_t *text = json_stringn(value, length); /* NULL unless it is UTF-8 */
        if (text != NULL) {
            json_object_set_new(fields, name, text);
        }
    }
}
