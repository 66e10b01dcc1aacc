/* Event streams (WHATWG HTML, 9.2): one, or several at once. */
#include <stdio.h>
#include <string.h>

#include "base/http/http.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "surface/cli/private.h"

/* ---- Events in bytes ---- */

struct stream {
    struct buffer rest;
    void (*take)(const json_t *event, const char *label);
    const char *label;
};

/* "data: {...}" lines, whatever pieces they come in. */
static bool take_events(const void *bytes, size_t length, void *context)
{
    struct stream *stream = context;
    struct buffer *rest = &stream->rest;
    buffer_append(rest, bytes, length);
    uint8_t *stop = NULL;
    while (rest->used > 0 && (stop = memchr(rest->data, '\n', rest->used)) != NULL) {
        size_t used = (size_t)(stop - rest->data) + 1;
        JSON_OWNED json_t *event = NULL;
        struct error ignored = {0};
        if (used > 7 && memcmp(rest->data, "data: ", 6) == 0 &&
            json_read(rest->data + 6, used - 7, &event, &ignored) == 0) {
            stream->take(event, stream->label);
        }
        buffer_consume(rest, used);
    }
    return print_flush() == 0; /* nobody reads any more: `| head` */
}

int request_events(const char *target, void (*take)(const json_t *event, const char *label),
                   struct error *err)
{
    struct stream stream = {.take = take};
    ANSWER_OWNED struct answer answer = {.on_data = take_events, .context = &stream};
    int r = request("GET", target, NULL, NULL, 0, &answer, err);
    buffer_done(&stream.rest);
    return r;
}

/* ---- Several ---- */

struct crowd {
    struct loop *loop;
    size_t left;
    size_t count;
    bool is_over;
    struct error error; /* of the last that failed */
};

struct member {
    struct crowd *crowd;
    struct stream stream;
    struct answer answer; /* of one that is refused */
};

static void on_head(struct http_call *call, int status, void *context)
{
    struct member *member = context;
    (void)call;
    member->answer.status = status;
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct member *member = context;
    (void)call;
    if (member->answer.status >= 300) {
        buffer_append(&member->answer.body, bytes, length);
    } else if (!member->crowd->is_over && !take_events(bytes, length, &member->stream)) {
        member->crowd->is_over = true;
        loop_stop(member->crowd->loop);
    }
}

static void on_end(struct http_call *call, const struct error *error, void *context)
{
    struct member *member = context;
    struct crowd *crowd = member->crowd;
    struct error problem = {0};
    (void)call;
    if (error != NULL) {
        problem = *error;
    } else if (member->answer.status >= 300) {
        request_take_problem(&member->answer, &problem);
    }
    if (crowd->is_over) {
        return;
    }
    if (problem.kind != ERROR_NONE) {
        crowd->error = problem;
    }
    if (crowd->count > 1) {
        fprintf(stderr, "blixard: node %s: %s\n", member->stream.label,
                problem.kind != ERROR_NONE ? problem.text : "the stream has ended");
    }
    crowd->left--;
    if (crowd->left == 0) {
        crowd->is_over = true;
        loop_stop(crowd->loop);
    }
}

static void begin(struct http_client *client, const struct target *target,
                  const struct event_source *sources, struct member *members, struct crowd *crowd,
                  void (*take)(const json_t *event, const char *label))
{
    static const struct http_call_events events = {on_head, on_data, on_end};
    const char *const fields[] = {target->authorization, NULL};
    for (size_t i = 0; i < crowd->count; i++) {
        members[i] =
            (struct member){.crowd = crowd, .stream = {.take = take, .label = sources[i].label}};
        MEMORY_OWNED char *path = target_path(sources[i].target);
        http_client_call(client, "GET", path, fields, NULL, 0, &events, &members[i]);
    }
}

int request_events_of_all(const struct event_source *sources, size_t count,
                          void (*take)(const json_t *event, const char *label), struct error *err)
{
    const struct target *target = NULL;
    struct crowd crowd = {.left = count, .count = count};
    struct http_client *client = NULL;
    int r = request_reach(&target, err);
    r = r < 0 ? r : loop_new("cli", &crowd.loop, err);
    if (r < 0) {
        return r;
    }
    const struct http_client_options options = {.tls = target->tls, .connections_max = count};
    struct member *members = memory_new(count + 1, sizeof(struct member));
    r = http_client_new(crowd.loop, request_alive(target), &options, &client, err);
    if (r == 0 && count > 0) {
        begin(client, target, sources, members, &crowd, take);
        loop_run(crowd.loop);
        crowd.is_over = true;
        http_client_free(client);
    }
    loop_free(crowd.loop);
    for (size_t i = 0; i < count; i++) {
        buffer_done(&members[i].stream.rest);
        answer_done(&members[i].answer);
    }
    free(members);
    if (r == 0 && count > 0 && crowd.error.kind != ERROR_NONE && crowd.left == 0) {
        *err = crowd.error;
        r = -(int)err->kind;
    }
    return r;
}
