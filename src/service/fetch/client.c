/*
 * Curl on the loop: a multi handle with its connections for each version of a function.
 *
 * Curl says which sockets it waits for and until when, and is called when that has come.  What it
 * calls back (transfer.c) only notes things down: no handle may be taken from it in there.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "service/fetch/private.h"

struct watch {
    uv_poll_t uv;
    struct client *client;
    curl_socket_t fd;
};

/* ---- Curl's wishes ---- */

static void act(struct client *client, curl_socket_t fd, int events)
{
    int running = 0;
    int left = 0;
    curl_multi_socket_action(client->multi, fd, events, &running);
    for (CURLMsg *message; (message = curl_multi_info_read(client->multi, &left)) != NULL;) {
        if (message->msg == CURLMSG_DONE) {
            struct fetch *fetch = NULL;
            CURLcode code = message->data.result; /* the message goes with the handle */
            curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&fetch);
            fetch_on_done(fetch, code);
        }
    }
}

static void on_ready(uv_poll_t *uv, int status, int events)
{
    const struct watch *watch = uv->data;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    flags |= (events & UV_READABLE) != 0 ? CURL_CSELECT_IN : 0;
    flags |= (events & UV_WRITABLE) != 0 ? CURL_CSELECT_OUT : 0;
    act(watch->client, watch->fd, flags);
}

static void on_time(void *context)
{
    act(context, CURL_SOCKET_TIMEOUT, 0);
}

static void on_watch_closed(uv_handle_t *uv)
{
    free(uv->data);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *of_socket)
{
    struct client *client = context;
    struct watch *watch = of_socket;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (watch != NULL) {
            curl_multi_assign(client->multi, fd, NULL);
            uv_poll_stop(&watch->uv);
            uv_close((uv_handle_t *)&watch->uv, on_watch_closed);
        }
        return 0;
    }
    if (watch == NULL) {
        watch = NEW(struct watch);
        watch->client = client;
        watch->fd = fd;
        watch->uv.data = watch;
        int r = uv_poll_init_socket(loop_uv(client->service->loop), &watch->uv, fd);
        if (r < 0) {
            free(watch);
            return -1;
        }
        curl_multi_assign(client->multi, fd, watch);
    }
    int events = what == CURL_POLL_IN ? UV_READABLE
        : what == CURL_POLL_OUT       ? UV_WRITABLE
                                      : UV_READABLE | UV_WRITABLE;
    return uv_poll_start(&watch->uv, events, on_ready) < 0 ? -1 : 0;
}

static int on_timer(CURLM *multi, long delay_ms, void *context)
{
    struct client *client = context;
    (void)multi;
    if (delay_ms < 0) {
        loop_timer_stop(client->timer);
    } else {
        loop_timer_start(client->timer, (uint64_t)delay_ms);
    }
    return 0;
}

/* ---- Life ---- */

/* What does not parse was refused when it was deployed. */
static void take_rules(struct client *client, const struct fetch_request *request)
{
    client->rules = memory_new(FETCH_ALLOW_MAX, sizeof(*client->rules));
    for (size_t at = 0; at < request->allow_length && client->rule_count < FETCH_ALLOW_MAX;) {
        struct error err = {0};
        struct text entry = text_of(request->allow + at, strlen(request->allow + at));
        struct fetch_rule *rule = &client->rules[client->rule_count];
        client->rule_count += fetch_rule_parse(entry, rule, &err) == 0;
        at += entry.length + 1;
    }
}

static struct client *client_new(struct fetch_service *service, const struct fetch_request *request,
                                 char *owned_key)
{
    struct client *client = NEW(struct client);
    client->service = service_ref(service);
    client->key = owned_key;
    client->timer = loop_timer_new(service->loop, on_time, client);
    client->multi = curl_multi_init();
    CHECK(client->multi != NULL);
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
    curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, (long)CLIENT_CONNECTIONS_MAX);
    take_rules(client, request);
    map_set(&service->clients, client->key, client);
    return client;
}

static void client_free(struct client *client)
{
    struct fetch_service *service = client->service;
    CHECK(client->users == 0);
    if (list_contains_node(&client->link)) {
        list_remove(&client->link);
        service->idle_count--;
    }
    map_remove(&service->clients, client->key);
    curl_multi_cleanup(client->multi); /* it stops its watches and its timer */
    loop_timer_free(client->timer);
    free(client->rules);
    free(client->key);
    free(client);
    service_unref(service);
}

/* ---- Kept for a while ---- */

static void sweep(void *context)
{
    struct fetch_service *service = context;
    uint64_t now_ms = loop_now_ms(service->loop);
    LIST_EACH(node, &service->idle_clients)
    {
        struct client *client = LIST_ITEM(node, struct client, link);
        uint64_t idle_ms = now_ms - client->idle_since_ms;
        if (idle_ms < CLIENT_IDLE_MS) {
            loop_timer_start(service->sweep, CLIENT_IDLE_MS - idle_ms);
            return;
        }
        client_free(client);
    }
}

struct client *client_use(struct fetch_service *service, const struct fetch_request *request)
{
    char *key = memory_format("%s/%s/%llu", request->project, request->function,
                              (unsigned long long)request->version);
    struct client *client = map_get(&service->clients, key);
    if (client == NULL) {
        client = client_new(service, request, key);
    } else {
        free(key);
    }
    if (list_contains_node(&client->link)) {
        list_remove(&client->link);
        service->idle_count--;
    }
    client->users++;
    return client;
}

void client_unuse(struct client *client)
{
    struct fetch_service *service = client->service;
    CHECK(client->users > 0);
    client->users--;
    if (client->users > 0) {
        return;
    }
    client->idle_since_ms = loop_now_ms(service->loop);
    list_push_back(&service->idle_clients, &client->link);
    service->idle_count++;
    if (service->sweep == NULL && !service->is_over) {
        service->sweep = loop_timer_new(service->loop, sweep, service);
    }
    if (service->idle_count > CLIENTS_IDLE_MAX) {
        client_free(LIST_FIRST(&service->idle_clients, struct client, link));
    } else if (service->idle_count == 1 && !service->is_over) {
        loop_timer_start(service->sweep, CLIENT_IDLE_MS);
    }
}

void client_free_idle(struct fetch_service *service)
{
    LIST_EACH(node, &service->idle_clients)
    {
        client_free(LIST_ITEM(node, struct client, link));
    }
    loop_timer_free(service->sweep);
    service->sweep = NULL;
}

/* ---- Transfers ---- */

void client_add(struct client *client, CURL *easy)
{
    CURLMcode code = curl_multi_add_handle(client->multi, easy);
    CHECK(code == CURLM_OK);
}

void client_remove(struct client *client, CURL *easy)
{
    CURLMcode code = curl_multi_remove_handle(client->multi, easy);
    CHECK(code == CURLM_OK);
}
