/* Other nodes, which take what is passed on when the test says so.  See fakes.h. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/memory.h"

#include "service/cluster/cluster.h"
#include "service/function/function.h"

#include "test/lib/test.h"
#include "test/unit/service/faked/fakes.h"

bool function_route_elsewhere(struct function_service *service, const char *project,
                              struct text name, struct function_holders *ret_holders)
{
    (void)service;
    EXPECT(strcmp(project, "default") == 0);
    *ret_holders =
        (struct function_holders){.version = 7, .timeout_ms = 1000, .count = 2, .nodes = {2, 3}};
    return fake_has_others && text_equal(name, "away");
}

bool function_route_others(struct function_service *service, const char *project, struct text name,
                           struct function_holders *ret_holders)
{
    (void)service;
    (void)project;
    (void)name;
    *ret_holders =
        (struct function_holders){.version = 7, .timeout_ms = 1000, .count = 2, .nodes = {2, 3}};
    return fake_has_others;
}

/* ---- Other nodes ---- */

bool fake_is_cordoned;
static struct cluster_events listening;
static void *listening_context;

struct cluster_listener *cluster_listen(struct cluster *cluster,
                                        const struct cluster_events *events, void *context)
{
    listening = *events;
    listening_context = context;
    return (struct cluster_listener *)cluster;
}

void cluster_unlisten(struct cluster_listener *listener)
{
    (void)listener;
    listening = (struct cluster_events){0};
}

void fake_cordon(bool is_cordoned)
{
    fake_is_cordoned = is_cordoned;
    listening.on_view(listening_context);
}

struct peer_pass *fake_pass;
unsigned fake_calls_of[4];
bool fake_has_others;

struct cluster_view *cluster_view_ref(struct cluster *cluster)
{
    (void)cluster;
    struct cluster_view *view = memory_new(1, sizeof(*view) + 3 * sizeof(view->nodes[0]));
    view->self_id = 1;
    view->count = fake_has_others ? 3 : 1;
    for (size_t i = 0; i < view->count; i++) {
        view->nodes[i].id = i + 1;
        view->nodes[i].is_self = i == 0;
        view->nodes[i].duty = i == 0 && fake_is_cordoned ? CLUSTER_CORDONED : CLUSTER_ACTIVE;
        snprintf(view->nodes[i].name, sizeof(view->nodes[i].name), "%c", 'a' + (int)i);
    }
    return view;
}

void cluster_view_unref(struct cluster_view *view)
{
    free(view);
}

struct peer_clients *peer_clients_new(struct loop *loop, struct cluster *cluster)
{
    (void)cluster;
    return (struct peer_clients *)loop;
}

void peer_clients_free(struct peer_clients *clients)
{
    (void)clients;
}

struct cluster_view *peer_view(const struct peer_clients *clients)
{
    (void)clients;
    return cluster_view_ref(NULL);
}

unsigned peer_calls_of(const struct peer_clients *clients, uint64_t node)
{
    (void)clients;
    return fake_calls_of[node];
}

bool peer_field_is_ours(struct text name)
{
    return name.length > 10 && strncasecmp(name.data, "X-Blixard-", 10) == 0 &&
        !text_equal_ignoring_case(name, PEER_FIELD_NODE);
}

static void pass_closed(void *context)
{
    (void)context;
    struct error error;
    error_set(&error, ERROR_CANCELLED, "the client went away");
    fake_pass_end(&error, false);
}

struct peer_pass *peer_pass_new(struct peer_clients *clients, struct http_exchange *exchange,
                                const struct peer_passing *passing,
                                const struct peer_pass_events *events, void *context)
{
    (void)clients;
    EXPECT(fake_pass == NULL);
    fake_pass = NEW(struct peer_pass);
    fake_pass->exchange = exchange;
    fake_pass->node = passing->node;
    fake_pass->timeout_ms = passing->timeout_ms;
    fake_pass->takes_refusal = passing->takes_refusal;
    fake_pass->events = *events;
    fake_pass->context = context;
    snprintf(fake_pass->target, sizeof(fake_pass->target), "%s", passing->target);
    for (size_t i = 0; passing->fields[i] != NULL; i++) {
        size_t used = strlen(fake_pass->fields);
        snprintf(fake_pass->fields + used, sizeof(fake_pass->fields) - used, "%s\n",
                 passing->fields[i]);
    }
    http_exchange_on(exchange, NULL, pass_closed, fake_pass);
    return fake_pass;
}

void peer_pass_cancel(struct peer_pass *pass)
{
    (void)pass;
}

void fake_pass_end(const struct error *error, bool is_untouched)
{
    struct peer_pass pass = *fake_pass;
    free(fake_pass);
    fake_pass = NULL;
    http_exchange_on(pass.exchange, NULL, NULL, NULL);
    pass.events.on_end(error, is_untouched, pass.context);
}

void fake_pass_answer(void)
{
    struct http_exchange *exchange = fake_pass->exchange;
    if (fake_pass->events.on_head != NULL) {
        fake_pass->events.on_head(200, fake_pass->context);
    }
    http_exchange_respond(exchange, 200, "passed", 6);
    fake_pass_end(NULL, false);
}

/* ---- Calls of other nodes ---- */

struct peer_call *fake_asked;

struct http_call {
    const char *failed;
    bool is_refused;
};

struct text http_call_field(const struct http_call *call, const char *name)
{
    const char *value = NULL;
    if (strcmp(name, PEER_FIELD_FAILED) == 0) {
        value = call->failed;
    } else if (strcmp(name, PEER_FIELD_REFUSED) == 0) {
        value = call->is_refused ? "1" : NULL;
    }
    return text_of(value, value != NULL ? strlen(value) : 0);
}

size_t http_call_field_count(const struct http_call *call)
{
    (void)call;
    return 1;
}

void http_call_field_at(const struct http_call *call, size_t index, struct text *ret_name,
                        struct text *ret_value)
{
    (void)call;
    (void)index;
    *ret_name = text_of("X-There", 7);
    *ret_value = text_of("yes", 3);
}

struct peer_call *peer_call_new(struct peer_clients *clients, const struct peer_request *request,
                                void (*done)(const struct error *error, int status,
                                             struct buffer *answer, void *context),
                                void *context)
{
    (void)clients;
    EXPECT(fake_asked == NULL);
    fake_asked = NEW(struct peer_call);
    fake_asked->request = *request;
    fake_asked->done = done;
    fake_asked->context = context;
    snprintf(fake_asked->target, sizeof(fake_asked->target), "%s %s", request->method,
             request->target);
    snprintf(fake_asked->body, sizeof(fake_asked->body), "%.*s", (int)request->body_length,
             (const char *)request->body);
    for (size_t i = 0; request->fields[i] != NULL; i++) {
        size_t used = strlen(fake_asked->fields);
        snprintf(fake_asked->fields + used, sizeof(fake_asked->fields) - used, "%s\n",
                 request->fields[i]);
    }
    return fake_asked;
}

bool peer_call_was_sent(const struct peer_call *call)
{
    return call->was_sent;
}

void peer_call_free(struct peer_call *call)
{
    fake_asked = NULL;
    free(call);
}

static void end_asked(const struct error *error, int status, const char *text)
{
    struct peer_call *call = fake_asked;
    BUFFER_OWNED struct buffer answer = {0};
    buffer_append_string(&answer, text);
    fake_asked = NULL;
    call->done(error, status, &answer, call->context);
    free(call);
}

void fake_asked_answer(int status, const char *failed, bool is_refused, const char *body)
{
    struct http_call http = {failed, is_refused};
    fake_asked->was_sent = true;
    fake_asked->request.on_head(&http, status, fake_asked->context);
    end_asked(NULL, status, body);
}

void fake_asked_fail(const struct error *error, bool was_sent)
{
    fake_asked->was_sent = was_sent;
    end_asked(error, 0, "");
}
