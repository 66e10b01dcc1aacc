/*
 * Who may do what at the API over TLS: a real server with real certificates, clients of each kind.
 */
#include <uv.h>

#include "base/certificate.h"
#include "base/clock.h"
#include "base/http/http.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/cluster/token.h"
#include "service/telemetry/telemetry.h"

#include "surface/api/api.h"

#include "test/unit/base/stream/support.h"

#define PUBLIC_PATH "/v1/openapi.json"
#define READ_PATH   "/metrics"
#define ADMIN_PATH  "/v1/cluster/backup"

struct scene {
    struct loop *loop;
    struct store *store;
    struct telemetry *telemetry;
    struct api *api;
    struct http_server *server;
    struct authority authority;
    struct tls_context *server_tls;
    char address[64];
    char secret[CLUSTER_TOKEN_SECRET_SIZE];
};

/* Node north (7); south (8) was removed; client ci with a token, ann with another certificate. */
static void write_state(struct scene *scene)
{
    char digest[65];
    uint64_t later_ms = clock_real_ms() + 3600000;
    struct store_command *command = store_command_new();
    cluster_token_make_secret(scene->secret);
    cluster_token_digest(scene->secret, digest);
    store_command_add(command,
                      "INSERT INTO cluster (key, id, name, servers, ca_certificate, ca_key, "
                      "created_ms, revision) VALUES ('cluster', 'test', 'home', 3, '', x'00', 1, "
                      "1)",
                      "");
    store_command_add(
        command,
        "INSERT INTO node (key, id, address, gateway, role, eligible, failure_domain, "
        "labels, version, schema, fingerprint, expires_ms, joined_ms, revision) "
        "VALUES ('north', 7, 'a:1', '', 'server', 1, '', '{}', '', "
        "3, '', 0, 1, 1)",
        "");
    store_command_add(command, "INSERT INTO removed_node VALUES ('8', 'south', 1)", "");
    store_command_add(command,
                      "INSERT INTO client VALUES ('ann', 'certificate', NULL, 'aa', 1, ?1, 1)", "u",
                      later_ms);
    store_command_add(command, "INSERT INTO client VALUES ('ci', 'token', ?1, NULL, 1, ?2, 1)",
                      "tu", digest, later_ms);
    store_propose(scene->store, command, NULL, NULL);
    store_settle(scene->store);
}

/* Ann's row gets the certificate that she shows. */
static void let_in(struct scene *scene, const char *fingerprint)
{
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "no ann",
                                "UPDATE client SET fingerprint = ?1 WHERE key = 'ann'", "t",
                                fingerprint);
    store_propose(scene->store, command, NULL, NULL);
    store_settle(scene->store);
}

static void open_scene(struct scene *scene)
{
    struct error err = {0};
    struct holder holder = {0};
    uint16_t port = 0;
    *scene = (struct scene){0};
    MEMORY_OWNED char *socket = memory_format("%s/api.sock", test_folder());
    MEMORY_OWNED char *logs = memory_format("%s/logs", test_folder());
    MEMORY_OWNED char *folder = memory_format("%s/store", test_folder());
    const struct store_options store = {.folder = folder};
    const struct telemetry_options telemetry = {.folder = logs};
    const struct http_server_options server = http_server_defaults();
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    EXPECT(store_open(scene->loop, &store, &scene->store, &err) == 0);
    EXPECT(telemetry_open(&telemetry, &scene->telemetry, &err) == 0);
    const struct api_options api = {.loop = scene->loop,
                                    .socket_path = socket,
                                    .store = scene->store,
                                    .telemetry = scene->telemetry};
    EXPECT(api_start(&api, &scene->api, &err) == 0);
    write_state(scene);

    authority_make(&scene->authority);
    holder_make(&holder, &scene->authority, "node/1", true, true);
    scene->server_tls = context_make(&holder, &scene->authority, TLS_VERIFY_OPTIONAL);
    holder_done(&holder);
    EXPECT(http_server_new(scene->loop, &server, api_handle, scene->api, &scene->server, &err) ==
           0);
    EXPECT(http_server_listen_tls(scene->server, "127.0.0.1:0", scene->server_tls, NULL, NULL, NULL,
                                  &port, &err) == 0);
    snprintf(scene->address, sizeof(scene->address), "127.0.0.1:%u", port);
}

static void close_scene(struct scene *scene)
{
    http_server_free(scene->server);
    api_stop(scene->api, 1000);
    telemetry_close(scene->telemetry);
    store_close(scene->store);
    loop_free(scene->loop);
    tls_context_unref(scene->server_tls);
    authority_done(&scene->authority);
}

/* ---- Asking ---- */

struct answer {
    int status;
    bool ended;
    bool asks; /* has WWW-Authenticate */
    struct buffer body;
};

static void on_head(struct http_call *call, int status, void *context)
{
    struct answer *answer = context;
    answer->status = status;
    answer->asks =
        text_equal(http_call_field(call, "WWW-Authenticate"), "Bearer realm=\"blixard\"");
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct answer *answer = context;
    (void)call;
    buffer_append(&answer->body, bytes, length);
}

static void on_end(struct http_call *call, const struct error *error, void *context)
{
    struct answer *answer = context;
    (void)call;
    EXPECT(error == NULL);
    answer->ended = true;
}

/* The status; `name` NULL: without a certificate.  A problem must have `text` in it. */
static int ask_as(struct scene *scene, struct holder *holder, const char *path, const char *field,
                  const char *text)
{
    static const struct http_call_events events = {on_head, on_data, on_end};
    struct error err = {0};
    struct answer answer = {0};
    struct http_client *client = NULL;
    struct tls_context *tls = context_make(holder, &scene->authority, TLS_VERIFY_REQUIRED);
    const struct http_client_options options = {.tls = tls};
    const char *const fields[] = {field, NULL};
    EXPECT(http_client_new(scene->loop, scene->address, &options, &client, &err) == 0);
    http_client_call(client, "GET", path, fields, NULL, 0, &events, &answer);
    while (!answer.ended) {
        uv_run(loop_uv(scene->loop), UV_RUN_ONCE);
    }
    http_client_free(client);
    tls_context_unref(tls);
    EXPECT(answer.asks == (answer.status == 401));
    if (text != NULL && strstr(buffer_string(&answer.body), text) == NULL) {
        fprintf(stderr, "%s: %s\n", path, buffer_string(&answer.body));
    }
    EXPECT(text == NULL || strstr(buffer_string(&answer.body), text) != NULL);
    buffer_done(&answer.body);
    return answer.status;
}

static int ask(struct scene *scene, const char *name, const char *path, const char *field,
               const char *text)
{
    struct holder holder = {0};
    if (name == NULL) {
        return ask_as(scene, NULL, path, field, text);
    }
    holder_make(&holder, &scene->authority, name, false, true);
    int status = ask_as(scene, &holder, path, field, text);
    holder_done(&holder);
    return status;
}

TEST(api_access, who_shows_nothing_gets_what_is_public)
{
    struct scene scene;
    open_scene(&scene);
    EXPECT(ask(&scene, NULL, PUBLIC_PATH, NULL, NULL) == 200);
    EXPECT(ask(&scene, NULL, READ_PATH, NULL, "unauthenticated") == 401);
    EXPECT(ask(&scene, NULL, ADMIN_PATH, NULL, "unauthenticated") == 401);
    EXPECT(ask(&scene, NULL, "/v1/nothing", NULL, "not_found") == 404);
    close_scene(&scene);
}

TEST(api_access, a_node_reads_and_does_not_administrate)
{
    struct scene scene;
    open_scene(&scene);
    EXPECT(ask(&scene, "node/7", READ_PATH, NULL, NULL) == 200);
    EXPECT(ask(&scene, "node/7", ADMIN_PATH, NULL, "node north may not") == 403);
    EXPECT(ask(&scene, "node/8", READ_PATH, NULL, "south (8) was removed") == 403);
    EXPECT(ask(&scene, "node/9", READ_PATH, NULL, "knows no node") == 403);
    EXPECT(ask(&scene, "node/9", PUBLIC_PATH, NULL, NULL) == 200);
    close_scene(&scene);
}

TEST(api_access, a_client_shows_its_very_certificate)
{
    struct scene scene;
    struct holder ann = {0};
    struct certificate_info info;
    struct error err = {0};
    open_scene(&scene);
    holder_make(&ann, &scene.authority, "client/ann", false, true);
    EXPECT(certificate_read(buffer_string(&ann.certificate), &info, &err) == 0);
    EXPECT(ask_as(&scene, &ann, READ_PATH, NULL, "log in again") == 401);
    let_in(&scene, info.fingerprint);
    EXPECT(ask_as(&scene, &ann, READ_PATH, NULL, NULL) == 200);
    EXPECT(ask(&scene, "client/ann", READ_PATH, NULL, "log in again") == 401);
    EXPECT(ask(&scene, "client/bob", READ_PATH, NULL, "log in again") == 401);
    holder_done(&ann);
    close_scene(&scene);
}

TEST(api_access, a_token_says_who_asks_before_the_certificate_does)
{
    struct scene scene;
    open_scene(&scene);
    MEMORY_OWNED char *good = memory_format("Authorization: Bearer %s", scene.secret);
    MEMORY_OWNED char *lower = memory_format("authorization: bearer  %s ", scene.secret);
    MEMORY_OWNED char *basic = memory_format("Authorization: Basic %s", scene.secret);
    EXPECT(ask(&scene, NULL, READ_PATH, good, NULL) == 200);
    EXPECT(ask(&scene, NULL, READ_PATH, lower, NULL) == 200);
    EXPECT(ask(&scene, NULL, READ_PATH, basic, "who asks?") == 401);
    EXPECT(ask(&scene, NULL, READ_PATH, "Authorization: Bearer ", "who asks?") == 401);
    EXPECT(ask(&scene, NULL, READ_PATH, "Authorization: Bearer x", "not known") == 401);
    EXPECT(ask(&scene, "node/7", READ_PATH, "Authorization: Bearer x", "not known") == 401);
    close_scene(&scene);
}

/* A browser that has a client's certificate shows it for every page. */
TEST(api_access, another_sites_page_is_refused_over_tls_too)
{
    struct scene scene;
    open_scene(&scene);
    MEMORY_OWNED char *own = memory_format("Origin: https://%s", scene.address);
    MEMORY_OWNED char *plain = memory_format("Origin: http://%s", scene.address);
    EXPECT(ask(&scene, "node/7", READ_PATH, own, NULL) == 200);
    EXPECT(ask(&scene, "node/7", READ_PATH, plain, "Origin") == 403);
    EXPECT(ask(&scene, "node/7", READ_PATH, "Origin: https://evil.example", "Origin") == 403);
    EXPECT(ask(&scene, "node/7", PUBLIC_PATH, "Origin: null", "Origin") == 403);
    close_scene(&scene);
}
