/*
 * Requests to elsewhere: by service/fetch, for as long as the call lasts.
 *
 * A call has some under way and waits for at most one thing: the head or all of one (take), more of
 * a body (read), or any that has something (wait).  What it waits for is looked at whenever one of
 * them says that it has changed.
 */
#include <inttypes.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/vmm/abi.h"

#include "service/fetch/fetch.h"
#include "service/host/private.h"

_Static_assert(HOST_FETCHES_MAX == 16 && HOST_FIELD_BYTES_MAX == 32768, "as sentences say");

struct one {
    struct session *session;
    struct fetch *fetch; /* NULL: free */
    bool wants_head;
    bool is_taken;
};

enum wish { WISH_NOTHING, WISH_TAKE, WISH_READ, WISH_ANY };

struct host_fetches {
    struct one all[HOST_FETCHES_MAX];
    enum wish wish;
    uint64_t among; /* bit I: all[I] */
    size_t most;
    struct loop_timer *timer; /* of WISH_ANY, once there was one */
};

/* ---- What there is ---- */

static bool can_be_taken(const struct one *one)
{
    return fetch_is_over(one->fetch) ||
        (fetch_status(one->fetch) > 0 && (one->wants_head || fetch_is_full(one->fetch)));
}

static bool can_be_read(const struct one *one)
{
    return fetch_is_over(one->fetch) || fetch_waiting(one->fetch) > 0;
}

static bool is_ready(const struct one *one)
{
    return one->fetch != NULL && (one->is_taken ? can_be_read(one) : can_be_taken(one));
}

static void close_one(struct one *one)
{
    fetch_free(one->fetch);
    one->fetch = NULL;
}

static uint64_t number_of(const struct host_fetches *fetches, const struct one *one)
{
    return (uint64_t)(one - fetches->all) + 1;
}

/* ---- Answers ---- */

static void answer_failure(struct session *session, struct one *one)
{
    struct error error = *fetch_error(one->fetch);
    close_one(one);
    session_refuse(session, &error);
}

static void answer_response(struct session *session, struct one *one)
{
    BUFFER_OWNED struct buffer answer = {0};
    const struct fetch *fetch = one->fetch;
    struct text fields = fetch_fields(fetch);
    bool has_failed = fetch_error(fetch) != NULL;
    if (has_failed && !(one->wants_head && fetch_status(fetch) > 0)) {
        answer_failure(session, one);
        return;
    }
    one->is_taken = true;
    buffer_append_u32(&answer, (uint32_t)fetch_status(fetch));
    buffer_append_u32(&answer, (uint32_t)fields.length);
    if (fields.length > 0) {
        buffer_append(&answer, fields.data, fields.length);
    }
    fetch_take(one->fetch, ABI_HOST_BYTES_MAX - HOSTCALL_REPLY_HEAD - answer.used, &answer);
    bool is_whole = fetch_is_over(fetch) && fetch_waiting(fetch) == 0 && !has_failed;
    uint64_t number = is_whole ? 0 : number_of(session->fetches, one);
    if (is_whole) {
        close_one(one);
    }
    session_answer(session, number, answer.data, answer.used);
}

static void answer_more(struct session *session, struct one *one, size_t most)
{
    BUFFER_OWNED struct buffer answer = {0};
    uint64_t number = number_of(session->fetches, one);
    if (fetch_waiting(one->fetch) == 0 && fetch_error(one->fetch) != NULL) {
        answer_failure(session, one);
        return;
    }
    fetch_take(one->fetch, most, &answer);
    if (answer.used == 0) {
        close_one(one);
        number = 0;
    }
    session_answer(session, number, answer.data, answer.used);
}

/* ---- Waiting ---- */

/* Is what the call waits for there? */
static void look(struct session *session)
{
    struct host_fetches *fetches = session->fetches;
    enum wish wish = fetches->wish;
    for (size_t i = 0; wish != WISH_NOTHING && i < HOST_FETCHES_MAX; i++) {
        struct one *one = &fetches->all[i];
        if ((fetches->among >> i & 1) == 0 || !is_ready(one)) {
            continue;
        }
        fetches->wish = WISH_NOTHING;
        if (fetches->timer != NULL) {
            loop_timer_stop(fetches->timer);
        }
        if (wish == WISH_TAKE) {
            answer_response(session, one);
        } else if (wish == WISH_READ) {
            answer_more(session, one, fetches->most);
        } else {
            session_answer(session, number_of(fetches, one), NULL, 0);
        }
        return;
    }
}

static void wait_for(struct session *session, enum wish wish, uint64_t among, size_t most)
{
    struct host_fetches *fetches = session->fetches;
    CHECK(fetches->wish == WISH_NOTHING);
    fetches->wish = wish;
    fetches->among = among;
    fetches->most = most;
    look(session);
}

static void on_change(void *context)
{
    const struct one *one = context;
    look(one->session);
}

static void on_time(void *context)
{
    struct session *session = context;
    session->fetches->wish = WISH_NOTHING;
    session_answer(session, 0, NULL, 0);
}

/* ---- Questions ---- */

static struct one *find_free(struct session *session)
{
    if (session->fetches == NULL) {
        session->fetches = NEW(struct host_fetches);
    }
    for (size_t i = 0; i < HOST_FETCHES_MAX; i++) {
        if (session->fetches->all[i].fetch == NULL) {
            return &session->fetches->all[i];
        }
    }
    return NULL;
}

/* The one that a number names; NULL: there is none, which was answered. */
static struct one *find_named(struct session *session, uint64_t number)
{
    struct error err = {0};
    struct one *one = session->fetches != NULL && number >= 1 && number <= HOST_FETCHES_MAX
        ? &session->fetches->all[number - 1]
        : NULL;
    if (one != NULL && one->fetch != NULL) {
        return one;
    }
    error_set(&err, ERROR_NOT_FOUND, "invalid: there is no fetch %" PRIu64 " under way", number);
    session_refuse(session, &err);
    return NULL;
}

static uint64_t bit_of(const struct session *session, const struct one *one)
{
    return UINT64_C(1) << (one - session->fetches->all);
}

static int begin(struct session *session, const struct host_request *request, struct one *one,
                 struct error *err)
{
    enum { METHOD, URL, FIELDS, BODY, TIMEOUT, HOW };
    uint64_t left_ms = session_left_ms(session);
    uint64_t wanted_ms = request->numbers[TIMEOUT];
    uint64_t how = request->numbers[HOW];
    const struct instance_target *target = session->target;
    const struct fetch_request wanted = {
        .project = target->project,
        .function = target->function,
        .version = target->version,
        .allow = target->fetch_allow,
        .allow_length = target->fetch_allow_length,
        .method = request->parts[METHOD],
        .url = request->parts[URL],
        .fields = request->parts[FIELDS],
        .body = request->parts[BODY],
        .timeout_ms = wanted_ms > 0 && wanted_ms < left_ms ? wanted_ms : left_ms,
        .redirects = (how & HOSTCALL_FETCH_MANUAL) != 0 ? FETCH_MANUAL
            : (how & HOSTCALL_FETCH_NO_REDIRECT) != 0   ? FETCH_NO_REDIRECT
                                                        : FETCH_FOLLOW,
        .trace = session_trace(session),
    };
    struct fetch *fetch = fetch_new(session->service->fetches, &wanted, on_change, one, err);
    if (fetch == NULL) {
        return -(int)err->kind;
    }
    *one = (struct one){
        .session = session, .fetch = fetch, .wants_head = (how & HOSTCALL_FETCH_HEAD) != 0};
    return 0;
}

void host_fetch(struct session *session, const struct host_request *request)
{
    enum { FIELDS = 2, HOW = 5 };
    struct error err = {0};
    uint64_t how = request->numbers[HOW];
    struct fetch_service *service = session->service->fetches;
    struct one *one = find_free(session);
    int r = 0;
    if (how > HOSTCALL_FETCH_ALL) {
        r = fetch_refuse(service, FETCH_INVALID, "there is no such way to fetch", &err);
    } else if (request->parts[FIELDS].length > HOST_FIELD_BYTES_MAX) {
        r = fetch_refuse(service, FETCH_INVALID, "the fields have more than 32 KiB", &err);
    } else if (one == NULL) {
        r = fetch_refuse(service, FETCH_BUSY, "16 fetches are under way: read or close some", &err);
        err.kind = ERROR_LIMIT; /* this call's own: to try again does not help */
    } else {
        r = begin(session, request, one, &err);
    }
    if (r < 0) {
        session_refuse(session, &err);
    } else if ((how & HOSTCALL_FETCH_LATER) != 0) {
        session_answer(session, number_of(session->fetches, one), NULL, 0);
    } else {
        wait_for(session, WISH_TAKE, bit_of(session, one), 0);
    }
}

void host_fetch_wait(struct session *session, const struct host_request *request)
{
    uint64_t among = request->numbers[0];
    uint64_t most_ms = request->numbers[1];
    uint64_t left_ms = session_left_ms(session);
    for (uint64_t rest = among; rest != 0; rest &= rest - 1) {
        if (find_named(session, (uint64_t)__builtin_ctzll(rest) + 1) == NULL) {
            return;
        }
    }
    find_free(session); /* there is room for what it waits for, though nothing may ever come */
    struct host_fetches *fetches = session->fetches;
    if (fetches->timer == NULL) {
        fetches->timer = loop_timer_new(session->service->loop, on_time, session);
    }
    loop_timer_start(fetches->timer, most_ms < left_ms ? most_ms : left_ms);
    wait_for(session, WISH_ANY, among > 0 ? among : UINT64_MAX, 0);
}

void host_fetch_take(struct session *session, const struct host_request *request)
{
    struct error err = {0};
    const struct one *one = find_named(session, request->numbers[0]);
    if (one != NULL && one->is_taken) {
        error_set(&err, ERROR_CONFLICT, "invalid: this response was taken: read on");
        session_refuse(session, &err);
    } else if (one != NULL) {
        wait_for(session, WISH_TAKE, bit_of(session, one), 0);
    }
}

void host_fetch_read(struct session *session, const struct host_request *request)
{
    struct error err = {0};
    uint64_t most = request->numbers[1];
    const struct one *one = find_named(session, request->numbers[0]);
    size_t room = ABI_HOST_BYTES_MAX - HOSTCALL_REPLY_HEAD;
    if (one != NULL && (!one->is_taken || most == 0)) {
        error_set(&err, ERROR_INVALID, "invalid: %s",
                  most == 0 ? "nothing can be read into no room" : "take its response first");
        session_refuse(session, &err);
    } else if (one != NULL) {
        wait_for(session, WISH_READ, bit_of(session, one), most < room ? (size_t)most : room);
    }
}

void host_fetch_close(struct session *session, const struct host_request *request)
{
    struct one *one = find_named(session, request->numbers[0]);
    if (one != NULL) {
        close_one(one);
        session_answer(session, 0, NULL, 0);
    }
}

void host_fetches_close(struct session *session)
{
    struct host_fetches *fetches = session->fetches;
    for (size_t i = 0; fetches != NULL && i < HOST_FETCHES_MAX; i++) {
        if (fetches->all[i].fetch != NULL) {
            close_one(&fetches->all[i]);
        }
    }
    if (fetches != NULL) {
        loop_timer_free(fetches->timer);
    }
    free(fetches);
    session->fetches = NULL;
}
