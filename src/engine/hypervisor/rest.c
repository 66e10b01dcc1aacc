/* HTTP to a VMM: see rest.h. */
#include "engine/hypervisor/rest.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/hypervisor/bundle.h"

enum { LOOK_MS = 5, LOOKS_MAX = 6000, ANSWER_MS_MAX = 600000 };

struct rest {
    struct loop *loop;
    char *folder;
    const struct rest_dialect *dialect;
    struct driver_events events;
    void *context;
    struct http_client *client; /* NULL: its socket is not there yet */
    json_t *plan;
    size_t planned; /* requests of it that were made */
    struct loop_timer *look;
    unsigned looks;
    unsigned pending; /* requests and threads that will come back */
    bool has_spoken;  /* it has answered anything */
    bool has_agent;   /* its vsock was taken over */
    bool is_closed;
};

/* ---- One request ---- */

struct request {
    struct rest *rest;
    struct buffer answer;
    int status;
    bool is_too_long;
    rest_done *done; /* or, NULL, */
    hypervisor_done ordered;
    bool tells; /* that it is paused, or not any more */
    bool is_paused;
    void *context;
};

static void release(struct rest *rest)
{
    if (rest->is_closed && rest->pending == 0) {
        json_decref(rest->plan);
        free(rest->folder);
        free(rest);
    }
}

static void on_head(struct http_call *call, int status, void *context)
{
    struct request *request = context;
    (void)call;
    request->status = status;
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct request *request = context;
    if (request->answer.used + length > REST_ANSWER_MAX) {
        request->is_too_long = true;
        http_call_cancel(call);
    } else {
        buffer_append(&request->answer, bytes, length);
    }
}

static int judge_answer(const struct request *request, const char *fault, struct error *err)
{
    char words[256];
    int status = request->status;
    if (status >= 200 && status < 300) {
        return 0;
    }
    snprintf(words, sizeof(words), "%.250s", fault != NULL ? fault : "it does not say why");
    text_make_printable(words, true);
    bool is_unknown = (status == 404 || status == 405) && fault == NULL;
    return error_set(err, is_unknown ? ERROR_UNSUPPORTED : ERROR_CONFLICT,
                     "the VMM refuses (%d): %s", status, words);
}

/* It is made when the machine is, or its state was read. */
static void adopt_agent(struct rest *rest)
{
    struct error ignored = {0};
    rest->has_agent =
        rest->has_agent || launch_adopt(rest->folder, HYPERVISOR_AGENT_SOCKET, &ignored) == 0;
}

static void tell(const struct request *request, const struct error *error, const json_t *answer)
{
    struct rest *rest = request->rest;
    if (rest->is_closed) {
        return;
    }
    if (request->done != NULL) {
        request->done(error, answer, request->context);
        return;
    }
    if (error == NULL && request->tells) {
        adopt_agent(rest);
        rest->events.on_paused(request->is_paused, rest->context);
    }
    if (!rest->is_closed) {
        request->ordered(error, request->context);
    }
}

static void on_end(struct http_call *call, const struct error *error, void *context)
{
    struct request *request = context;
    struct rest *rest = request->rest;
    struct error err = {0};
    struct error ignored = {0};
    JSON_OWNED json_t *answer = NULL;
    (void)call;
    if (request->is_too_long) {
        error_set(&err, ERROR_PROTOCOL, "the VMM answers without an end");
    } else if (error != NULL) {
        err = *error;
        error_wrap(&err, "the VMM");
    } else {
        if (request->answer.used > 0) {
            json_read(request->answer.data, request->answer.used, &answer, &ignored);
        }
        judge_answer(request, answer != NULL ? rest->dialect->read_fault(answer) : NULL, &err);
    }
    tell(request, err.kind != ERROR_NONE ? &err : NULL, answer);
    buffer_done(&request->answer);
    free(request);
    rest->pending--; /* it may have been closed meanwhile, and is there until here */
    release(rest);
}

static void give(const struct request *made, const char *method, const char *path,
                 json_t *owned_body)
{
    static const struct http_call_events events = {on_head, on_data, on_end};
    static const char *const json_fields[] = {"Content-Type: application/json", NULL};
    MEMORY_OWNED char *text = owned_body != NULL ? json_dumps(owned_body, JSON_COMPACT) : NULL;
    struct request *request = NEW(struct request);
    CHECK(made->rest->client != NULL);
    *request = *made;
    request->rest->pending++;
    http_client_call(request->rest->client, method, path, text != NULL ? json_fields : NULL, text,
                     text != NULL ? strlen(text) : 0, &events, request);
    json_decref(owned_body);
}

void rest_send(struct rest *rest, const char *method, const char *path, json_t *owned_body,
               rest_done *done, void *context)
{
    const struct request request = {.rest = rest, .done = done, .context = context};
    give(&request, method, path, owned_body);
}

void rest_order(struct rest *rest, const char *method, const char *path, json_t *owned_body,
                hypervisor_done done, void *context)
{
    const struct request request = {.rest = rest, .ordered = done, .context = context};
    give(&request, method, path, owned_body);
}

void rest_order_pause(struct rest *rest, bool is_paused, const char *method, const char *path,
                      json_t *owned_body, hypervisor_done done, void *context)
{
    const struct request request = {
        .rest = rest, .ordered = done, .tells = true, .is_paused = is_paused, .context = context};
    give(&request, method, path, owned_body);
}

/* ---- Until it obeys ---- */

static void ask_state(struct rest *rest);

static void lose(struct rest *rest, enum error_kind kind, const char *text)
{
    struct error err = {0};
    error_set(&err, kind, "%s", text);
    rest->events.on_lost(&err, rest->context);
}

static void follow_plan(struct rest *rest);

static void on_planned(const struct error *error, const json_t *answer, void *context)
{
    struct rest *rest = context;
    (void)answer;
    if (error == NULL) {
        follow_plan(rest);
    } else if (error->kind == ERROR_UNAVAILABLE) { /* it has ended: its exit says more */
        rest->events.on_lost(error, rest->context);
    } else {
        lose(rest, error->kind, error->text);
    }
}

static void follow_plan(struct rest *rest)
{
    const json_t *next = json_array_get(rest->plan, rest->planned);
    const char *method = json_string_value(json_array_get(next, 0));
    const char *path = json_string_value(json_array_get(next, 1));
    json_t *body = json_array_get(next, 2);
    if (method == NULL || path == NULL) {
        ask_state(rest);
        return;
    }
    rest->planned++;
    rest_send(rest, method, path, json_is_object(body) ? json_incref(body) : NULL, on_planned,
              rest);
}

static void on_state(int status, const json_t *answer, struct rest *rest)
{
    struct error err = {0};
    enum rest_state state = REST_NOT_STARTED;
    size_t count = json_array_size(rest->plan);
    if (rest->dialect->read_state(status, answer, &state, &err) < 0) {
        lose(rest, err.kind, err.text);
        return;
    }
    bool is_started = state == REST_RUNNING || state == REST_PAUSED;
    if (state == REST_MADE && rest->planned + 1 < count) {
        rest->planned = count - 1; /* somebody else has told it the rest */
    }
    if (!is_started && rest->planned < count) {
        follow_plan(rest);
    } else if (!is_started && rest->planned > 0) {
        lose(rest, ERROR_PROTOCOL, "the VMM has taken every order, and does not run");
    } else {
        adopt_agent(rest);
        rest->events.on_ready(state == REST_RUNNING, rest->context);
    }
}

/* Also a refusal says something: that there is no machine yet. */
static void on_status(const struct error *error, const json_t *answer, void *context)
{
    struct rest *rest = context;
    if (error != NULL && error->kind == ERROR_UNAVAILABLE && !rest->has_spoken &&
        ++rest->looks < LOOKS_MAX) {
        http_client_free(rest->client); /* the socket was there before anybody listened */
        rest->client = NULL;
        loop_timer_start(rest->look, LOOK_MS);
        return;
    }
    rest->has_spoken = true;
    if (error == NULL) {
        on_state(200, answer, rest);
    } else if (error->kind == ERROR_CONFLICT || error->kind == ERROR_UNSUPPORTED) {
        on_state(404, answer, rest);
    } else {
        rest->events.on_lost(error, rest->context);
    }
}

static void ask_state(struct rest *rest)
{
    rest_send(rest, "GET", rest->dialect->status, NULL, on_status, rest);
}

static void connect_to(struct rest *rest)
{
    struct error err = {0};
    const struct http_client_options options = {.answer_timeout_ms = ANSWER_MS_MAX,
                                                .connections_max = 1};
    MEMORY_OWNED char *address = memory_format("unix:%s/" REST_SOCKET, rest->folder);
    if (http_client_new(rest->loop, address, &options, &rest->client, &err) < 0) {
        lose(rest, err.kind, err.text);
    } else {
        ask_state(rest);
    }
}

static void on_look(void *context)
{
    struct rest *rest = context;
    struct error err = {0};
    if (launch_adopt(rest->folder, REST_SOCKET, &err) == 0) {
        connect_to(rest);
    } else if (err.kind == ERROR_NOT_FOUND && ++rest->looks < LOOKS_MAX) {
        loop_timer_start(rest->look, LOOK_MS);
    } else {
        lose(rest, err.kind == ERROR_NOT_FOUND ? ERROR_TIMEOUT : err.kind, err.text);
    }
}

struct rest *rest_open(struct loop *loop, const char *folder, const struct rest_dialect *dialect,
                       const struct driver_events *events, void *context, struct error *err)
{
    json_t *plan = NULL;
    if (launch_read_plan(folder, &plan, err) < 0) {
        return NULL;
    }
    struct rest *rest = NEW(struct rest);
    rest->loop = loop;
    rest->folder = memory_copy_string(folder);
    rest->dialect = dialect;
    rest->events = *events;
    rest->context = context;
    rest->plan = plan;
    rest->look = loop_timer_new(loop, on_look, rest);
    loop_timer_start(rest->look, 0);
    return rest;
}

void rest_close(struct rest *rest)
{
    rest->is_closed = true;
    rest->pending++; /* the client ends its calls while it is freed */
    loop_timer_free(rest->look);
    http_client_free(rest->client);
    rest->pending--;
    release(rest);
}

/* ---- States ---- */

enum packing_kind { PACKING, UNPACKING, FORGETTING };

struct packing {
    struct rest *rest;
    enum packing_kind kind;
    char *scratch;
    const char *const *names;
    int fd;
    rest_prepare *prepare;
    json_t *incoming;
    struct error error;
    hypervisor_done done;
    void *context;
};

static void pack(void *context)
{
    struct packing *packing = context;
    int r = 0;
    switch (packing->kind) {
    case PACKING:
        bundle_write(packing->scratch, packing->names, packing->fd, &packing->error);
        break;
    case UNPACKING:
        r = bundle_read(packing->fd, packing->scratch, packing->names, &packing->error);
        if (r == 0 && packing->prepare != NULL) {
            packing->prepare(packing->scratch, packing->incoming, &packing->error);
        }
        break;
    case FORGETTING:
        bundle_remove(packing->scratch, packing->names);
        break;
    }
}

static void on_packed(void *context)
{
    struct packing *packing = context;
    struct rest *rest = packing->rest;
    fd_close_slot(&packing->fd);
    if (!rest->is_closed && packing->done != NULL) {
        packing->done(packing->error.kind != ERROR_NONE ? &packing->error : NULL, packing->context);
    }
    json_decref(packing->incoming);
    free(packing->scratch);
    free(packing);
    rest->pending--;
    release(rest);
}

static void begin_packing(const struct packing *what)
{
    struct packing *packing = NEW(struct packing);
    *packing = *what;
    packing->scratch = memory_format("%s/" LAUNCH_SCRATCH, what->rest->folder);
    packing->rest->pending++;
    loop_work(packing->rest->loop, pack, on_packed, packing);
}

void rest_pack(struct rest *rest, const char *const *names, int owned_fd, hypervisor_done done,
               void *context)
{
    const struct packing packing = {.rest = rest,
                                    .kind = PACKING,
                                    .names = names,
                                    .fd = owned_fd,
                                    .done = done,
                                    .context = context};
    begin_packing(&packing);
}

void rest_unpack(struct rest *rest, const struct rest_unpacking *unpacking, hypervisor_done done,
                 void *context)
{
    const struct packing packing = {.rest = rest,
                                    .kind = UNPACKING,
                                    .names = unpacking->names,
                                    .fd = unpacking->owned_fd,
                                    .prepare = unpacking->prepare,
                                    .incoming = json_incref(unpacking->incoming),
                                    .done = done,
                                    .context = context};
    begin_packing(&packing);
}

void rest_forget(struct rest *rest, const char *const *names)
{
    const struct packing packing = {.rest = rest, .kind = FORGETTING, .names = names, .fd = -1};
    begin_packing(&packing);
}
