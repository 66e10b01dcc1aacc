/*
 * What each node keeps for itself (logs, traces, figures): all nodes are asked, by way of the one
 * that the command talks to.
 */
#include <stdio.h>
#include <string.h>

#include "base/http/http.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

enum { NODES_MAX = 1024, PATIENCE_MS = 3000 };

json_t *rows_sort(const json_t *rows, int (*compare)(const void *a, const void *b))
{
    size_t count = json_array_size(rows);
    json_t **sorted = memory_new(count + 1, sizeof(json_t *));
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) {
        sorted[i] = json_array_get(rows, i);
    }
    qsort(sorted, count, sizeof(json_t *), compare);
    for (size_t i = 0; i < count; i++) {
        json_array_append(array, sorted[i]);
    }
    free(sorted);
    return array;
}

/* As /v1/nodes has them; the one that is wanted, by its name alone. */
static int choose_nodes(const char *wanted_or_null, json_t **ret_nodes, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    if (wanted_or_null != NULL) {
        *ret_nodes = json_pack("[{s:s}]", "name", wanted_or_null);
        return 0;
    }
    int r = request_json("GET", "/v1/nodes", NULL, &document, err);
    if (r == 0) {
        *ret_nodes = json_incref(json_object_get(document, "nodes"));
    }
    return r;
}

int everywhere_nodes(const char *wanted_or_null, json_t **ret_names, struct error *err)
{
    JSON_OWNED json_t *nodes = NULL;
    int r = choose_nodes(wanted_or_null, &nodes, err);
    if (r < 0) {
        return r;
    }
    json_t *names = json_array();
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(nodes, index, node)
    {
        const char *name = json_string_value(json_object_get(node, "name"));
        if (index < NODES_MAX && name != NULL) {
            json_array_append_new(names, json_string(name));
        }
    }
    *ret_names = names;
    return 0;
}

int everywhere_ask(const json_t *names,
                   int (*ask)(const char *node, void *context, struct error *err), void *context,
                   struct error *err)
{
    size_t answered = 0;
    size_t index = 0;
    json_t *name = NULL;
    struct error last = {0};
    json_array_foreach(names, index, name)
    {
        struct error problem = {0};
        int r = ask(json_string_value(name), context, &problem);
        answered += r == 0;
        if (r < 0 && error_kind_retry(problem.kind) && json_array_size(names) > 1) {
            MEMORY_OWNED char *who = memory_format("node %s", json_string_value(name));
            bool is_named = text_starts_with(problem.text, who);
            fprintf(stderr, "blixard: %s%s%s\n", is_named ? "" : who, is_named ? "" : ": ",
                    problem.text);
        } else if (r < 0) {
            *err = problem;
            return r;
        }
        last = r < 0 ? problem : last;
    }
    if (answered == 0 && last.kind != ERROR_NONE) {
        *err = last;
        return -(int)err->kind;
    }
    return 0;
}

/* ---- All at once ---- */

struct gathering {
    struct loop *loop;
    size_t left;
    bool is_over;
};

struct member {
    struct gathering *gathering;
    const char *node;
    struct answer answer;
    struct error error;
    bool has_ended;
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
    buffer_append(&member->answer.body, bytes, length);
}

static void on_end(struct http_call *call, const struct error *error, void *context)
{
    struct member *member = context;
    struct gathering *gathering = member->gathering;
    (void)call;
    if (gathering->is_over) {
        return;
    }
    member->has_ended = true;
    if (error != NULL) {
        member->error = *error;
    } else if (member->answer.status >= 300) {
        request_take_problem(&member->answer, &member->error);
    }
    if (--gathering->left == 0) {
        loop_stop(gathering->loop);
    }
}

static void on_patience_over(void *context)
{
    const struct gathering *gathering = context;
    loop_stop(gathering->loop);
}

/* Until all have answered, or for so long as one is worth waiting for. */
static int ask_all(const char *path, struct member *members, size_t count, struct error *err)
{
    static const struct http_call_events events = {on_head, on_data, on_end};
    const struct target *target = NULL;
    struct gathering gathering = {.left = count};
    struct http_client *client = NULL;
    int r = request_reach(&target, err);
    r = r < 0 ? r : loop_new("cli", &gathering.loop, err);
    if (r < 0) {
        return r;
    }
    const struct http_client_options options = {.tls = target->tls, .connections_max = count};
    const char *const fields[] = {target->authorization, NULL};
    struct loop_timer *timer = loop_timer_new(gathering.loop, on_patience_over, &gathering);
    r = http_client_new(gathering.loop, request_alive(target), &options, &client, err);
    if (r == 0) {
        for (size_t i = 0; i < count; i++) {
            BUFFER_OWNED struct buffer asked = {0};
            buffer_append_string(&asked, path);
            request_add_query(&asked, "node", members[i].node);
            MEMORY_OWNED char *whole = target_path(buffer_string(&asked));
            members[i].gathering = &gathering;
            http_client_call(client, "GET", whole, fields, NULL, 0, &events, &members[i]);
        }
        loop_timer_start(timer, PATIENCE_MS);
        loop_run(gathering.loop);
        gathering.is_over = true;
        http_client_free(client);
    }
    loop_timer_free(timer);
    loop_free(gathering.loop);
    return r;
}

static void add_silent(struct gathered *gathered, const char *node, const char *reason)
{
    MEMORY_OWNED char *who = memory_format("node %s ", node);
    const char *own = text_starts_with(reason, who) ? reason + strlen(who) : reason;
    json_array_append_new(gathered->silent, json_pack("{s:s, s:s}", "node", node, "reason", own));
}

static void take_member(struct member *member, struct gathered *gathered, struct error *last)
{
    json_t *document = NULL;
    struct error *error = &member->error;
    if (!member->has_ended) {
        error_set(error, ERROR_TIMEOUT, "node %.80s did not answer within %d s", member->node,
                  PATIENCE_MS / 1000);
    }
    if (error->kind == ERROR_NONE) {
        json_read(buffer_string(&member->answer.body), member->answer.body.used, &document, error);
    }
    if (error->kind != ERROR_NONE) {
        add_silent(gathered, member->node, error->text);
        *last = *error;
    } else {
        json_object_set_new(gathered->answers, member->node, document);
    }
}

int gather(const char *node_or_null, const char *path, struct gathered *ret_gathered,
           struct error *err)
{
    JSON_OWNED json_t *nodes = NULL;
    struct error last = {0};
    *ret_gathered = (struct gathered){json_object(), json_array()};
    int r = choose_nodes(node_or_null, &nodes, err);
    if (r < 0) {
        return r;
    }
    struct member *members = memory_new(json_array_size(nodes) + 1, sizeof(*members));
    size_t count = 0;
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(nodes, index, node)
    {
        const char *name = json_text(node, "name");
        if (strcmp(json_text(node, "health"), "lost") == 0) { /* that would be waited for */
            add_silent(ret_gathered, name, "is lost");
        } else if (count < NODES_MAX) {
            members[count++].node = name;
        }
    }
    r = count > 0 ? ask_all(path, members, count, err) : 0;
    for (size_t i = 0; i < count; i++) {
        if (r == 0) {
            take_member(&members[i], ret_gathered, &last);
        }
        answer_done(&members[i].answer);
    }
    free(members);
    if (r == 0 && json_object_size(ret_gathered->answers) == 0 && last.kind != ERROR_NONE) {
        *err = last;
        return -(int)err->kind;
    }
    return r;
}

void gathered_done(struct gathered *gathered)
{
    json_decref(gathered->answers);
    json_decref(gathered->silent);
    *gathered = (struct gathered){0};
}

void gathered_say_silent(const json_t *silent, FILE *file)
{
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(silent, index, node)
    {
        MEMORY_OWNED char *text =
            memory_format("%s: %s", json_text(node, "node"), json_text(node, "reason"));
        fprintf(file, "%snot counted: %s\n", file == stderr ? "blixard: " : "",
                text_make_printable(text, false));
    }
}
