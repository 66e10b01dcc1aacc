/* A cluster of one on loopback, and who comes to it: tokens, names, repeated requests. */
#include <inttypes.h>

#include "base/buffer.h"
#include "base/certificate.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/cluster/cluster.h"
#include "service/cluster/token.h"

#include "test/lib/test.h"

struct scene {
    struct loop *loop;
    struct store *store;
    struct cluster *cluster;
    bool is_answered;
    struct error error;
    json_t *answer;
    const char *domain; /* what joins says; NULL: nothing */
    const char *host;   /* NULL: one by its name */
};

static void on_end(const struct error *error, void *context)
{
    (void)context;
    fprintf(stderr, "the node ended: %s\n", error->text);
    abort();
}

static void on_reply(const struct error *error, struct buffer *answer, void *context)
{
    struct scene *scene = context;
    struct error err = {0};
    scene->is_answered = true;
    scene->error = error != NULL ? *error : (struct error){0};
    if (answer != NULL) {
        EXPECT(json_read(answer->data, answer->used, &scene->answer, &err) == 0);
    }
    uv_stop(loop_uv(scene->loop));
}

static struct cluster_reply reply_of(struct scene *scene)
{
    json_decref(scene->answer);
    scene->answer = NULL;
    scene->is_answered = false;
    return (struct cluster_reply){on_reply, scene};
}

/* The kind of the error, NONE: it went well. */
static enum error_kind wait(struct scene *scene)
{
    while (!scene->is_answered) {
        loop_run(scene->loop);
    }
    return scene->error.kind;
}

static void on_upgraded(const struct error *error, void *context)
{
    struct scene *scene = context;
    EXPECT(error == NULL);
    scene->is_answered = true;
    uv_stop(loop_uv(scene->loop));
}

static void open_scene(struct scene *scene)
{
    struct error err = {0};
    MEMORY_OWNED char *folder = memory_format("%s/cluster", test_folder());
    MEMORY_OWNED char *store = memory_format("%s/store", test_folder());
    *scene = (struct scene){0};
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    const struct cluster_options options = {.loop = scene->loop,
                                            .folder = folder,
                                            .node_name = "first",
                                            .address = "127.0.0.1:0",
                                            .advertise = "",
                                            .failure_domain = "",
                                            .version = "1.0",
                                            .isolation = "process",
                                            .gateway = "127.0.0.1:1",
                                            .certificate_lifetime_ms = 3600000,
                                            .on_end = on_end};
    EXPECT(cluster_open(&options, NULL, &scene->cluster, &err) == 0);
    struct store_options store_options = {.folder = store};
    cluster_fill_store_options(scene->cluster, &store_options);
    EXPECT(store_open(scene->loop, &store_options, &scene->store, &err) == 0);
    cluster_attach(scene->cluster, scene->store);
    store_upgrade(scene->store, store_schema_version(), on_upgraded, scene);
    wait(scene);
    cluster_init(scene->cluster, "home", 0, "127.0.0.1:7421", reply_of(scene));
    EXPECT(wait(scene) == ERROR_NONE);
}

static void close_scene(struct scene *scene)
{
    json_decref(scene->answer);
    cluster_stop(scene->cluster);
    store_close(scene->store);
    cluster_close(scene->cluster);
    loop_free(scene->loop);
}

static struct cluster_token make_token(struct scene *scene, const char *role, uint64_t uses)
{
    struct error err = {0};
    struct cluster_token token;
    cluster_create_token(scene->cluster, role, 0, uses, reply_of(scene));
    EXPECT(wait(scene) == ERROR_NONE);
    const char *text = json_string_value(json_object_get(scene->answer, "token"));
    EXPECT(cluster_token_read(text, &token, &err) == 0);
    return token;
}

static char *make_request(void)
{
    struct error err = {0};
    struct buffer request = {0};
    BUFFER_OWNED struct buffer key = {0};
    EXPECT(certificate_make_request(&request, &key, &err) == 0);
    return buffer_take(&request);
}

static enum error_kind join(struct scene *scene, const struct cluster_token *token,
                            const char *name, const char *request)
{
    MEMORY_OWNED char *address = memory_format("%s:7421", scene->host != NULL ? scene->host : name);
    JSON_OWNED json_t *body =
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i}", "token", token->id, "secret",
                  token->secret, "request", request, "name", name, "address", address, "gateway",
                  "10.0.0.9:7480", "failure_domain", scene->domain != NULL ? scene->domain : "",
                  "version", "1.0", "schema", (int)store_schema_version());
    EXPECT(body != NULL);
    cluster_join(scene->cluster, body, reply_of(scene));
    return wait(scene);
}

static uint64_t count(struct scene *scene, const char *what)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    JSON_OWNED json_t *value = NULL;
    EXPECT(strcmp(what, "nodes") == 0 ? cluster_write_nodes(scene->cluster, &text, &err) == 0
                                      : cluster_write_tokens(scene->cluster, &text, &err) == 0);
    EXPECT(json_read(text.data, text.used, &value, &err) == 0);
    return json_array_size(json_object_get(value, what));
}

TEST(cluster_admit, a_token_lets_in_as_many_as_it_says)
{
    struct scene scene;
    open_scene(&scene);
    struct cluster_token token = make_token(&scene, "worker", 2);
    MEMORY_OWNED char *second = make_request();
    MEMORY_OWNED char *third = make_request();
    MEMORY_OWNED char *fourth = make_request();
    EXPECT(join(&scene, &token, "second", second) == ERROR_NONE);
    EXPECT(join(&scene, &token, "third", third) == ERROR_NONE);
    EXPECT(join(&scene, &token, "fourth", fourth) == ERROR_DENIED);
    EXPECT(strstr(scene.error.text, "used up") != NULL);
    EXPECT(count(&scene, "nodes") == 3);
    close_scene(&scene);
}

/* Two answers are on their way when the first command is not applied yet: one must fail. */
TEST(cluster_admit, of_two_at_once_a_token_for_one_lets_in_one)
{
    struct scene scene;
    struct scene other = {0};
    open_scene(&scene);
    other.loop = scene.loop;
    struct cluster_token token = make_token(&scene, NULL, 1);
    MEMORY_OWNED char *a = make_request();
    MEMORY_OWNED char *b = make_request();
    JSON_OWNED json_t *first =
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i}", "token", token.id, "secret",
                  token.secret, "request", a, "name", "a", "address", "10.0.0.1:1", "gateway", "",
                  "failure_domain", "", "version", "1", "schema", (int)store_schema_version());
    JSON_OWNED json_t *second = json_copy(first);
    json_object_set_new(second, "request", json_string(b));
    json_object_set_new(second, "name", json_string("b"));
    json_object_set_new(second, "address", json_string("10.0.0.2:1"));
    cluster_join(scene.cluster, first, reply_of(&scene));
    cluster_join(scene.cluster, second, reply_of(&other));
    wait(&scene);
    wait(&other);
    EXPECT((scene.error.kind == ERROR_NONE) != (other.error.kind == ERROR_NONE));
    EXPECT(scene.error.kind + other.error.kind == ERROR_DENIED);
    json_decref(other.answer);
    close_scene(&scene);
}

/* Its answer was lost: who asks again with the same request is the same node. */
TEST(cluster_admit, who_asks_again_is_no_second_node)
{
    struct scene scene;
    open_scene(&scene);
    struct cluster_token token = make_token(&scene, NULL, 1);
    MEMORY_OWNED char *request = make_request();
    MEMORY_OWNED char *another = make_request();
    EXPECT(join(&scene, &token, "second", request) == ERROR_NONE);
    MEMORY_OWNED char *id =
        memory_copy_string(json_string_value(json_object_get(scene.answer, "id")));
    EXPECT(join(&scene, &token, "second", request) == ERROR_NONE);
    EXPECT_STRING(json_string_value(json_object_get(scene.answer, "id")), id);
    EXPECT(count(&scene, "nodes") == 2);
    struct cluster_token fresh = make_token(&scene, NULL, 1);
    EXPECT(join(&scene, &fresh, "second", another) == ERROR_EXISTS);
    EXPECT(strstr(scene.error.text, "node remove second") != NULL);
    close_scene(&scene);
}

TEST(cluster_admit, a_wrong_secret_or_a_revoked_token_lets_nobody_in)
{
    struct scene scene;
    open_scene(&scene);
    struct cluster_token token = make_token(&scene, NULL, 1);
    struct cluster_token wrong = token;
    MEMORY_OWNED char *request = make_request();
    wrong.secret[0] = wrong.secret[0] == 'a' ? 'b' : 'a';
    EXPECT(join(&scene, &wrong, "second", request) == ERROR_DENIED);
    EXPECT(count(&scene, "tokens") == 1);
    cluster_delete_token(scene.cluster, token.id, reply_of(&scene));
    EXPECT(wait(&scene) == ERROR_NONE);
    EXPECT(join(&scene, &token, "second", request) == ERROR_DENIED);
    EXPECT(count(&scene, "nodes") == 1);
    close_scene(&scene);
}

TEST(cluster_admit, what_a_newcomer_says_of_itself_is_checked)
{
    struct scene scene;
    open_scene(&scene);
    struct cluster_token token = make_token(&scene, NULL, 4);
    MEMORY_OWNED char *request = make_request();
    EXPECT(join(&scene, &token, "No Name", request) == ERROR_INVALID);
    EXPECT(join(&scene, &token, "first", request) == ERROR_EXISTS);
    EXPECT(join(&scene, &token, "second", "no request") == ERROR_INVALID);
    scene.domain = "\x1b[2J";
    EXPECT(join(&scene, &token, "second", request) == ERROR_INVALID);
    scene.domain = NULL;
    scene.host = "127.0.0.1";
    EXPECT(join(&scene, &token, "second", request) == ERROR_EXISTS);
    EXPECT(strstr(scene.error.text, "--advertise-address") != NULL);
    scene.host = NULL;
    EXPECT(join(&scene, &token, "second", request) == ERROR_NONE);
    EXPECT(count(&scene, "nodes") == 2);
    close_scene(&scene);
}

TEST(cluster_admit, the_only_server_is_neither_removed_nor_demoted)
{
    struct scene scene;
    open_scene(&scene);
    cluster_remove_node(scene.cluster, "first", reply_of(&scene));
    EXPECT(wait(&scene) == ERROR_CONFLICT);
    cluster_update_node(scene.cluster, "first", "worker", NULL, NULL, reply_of(&scene));
    EXPECT(wait(&scene) == ERROR_CONFLICT);
    cluster_remove_node(scene.cluster, "nobody", reply_of(&scene));
    EXPECT(wait(&scene) == ERROR_NOT_FOUND);
    EXPECT(cluster_is_owner(scene.cluster));
    close_scene(&scene);
}

TEST(cluster_admit, a_login_token_gives_one_certificate)
{
    struct scene scene;
    struct error err = {0};
    struct cluster_token token;
    struct certificate_info info;
    open_scene(&scene);
    cluster_create_client(scene.cluster, "laptop", "certificate", 3600000, reply_of(&scene));
    EXPECT(wait(&scene) == ERROR_NONE);
    EXPECT(cluster_token_read(json_string_value(json_object_get(scene.answer, "token")), &token,
                              &err) == 0);
    MEMORY_OWNED char *request = make_request();
    JSON_OWNED json_t *body = json_pack("{s:s,s:s,s:s}", "client", token.client, "secret",
                                        token.secret, "request", request);
    cluster_login(scene.cluster, body, reply_of(&scene));
    EXPECT(wait(&scene) == ERROR_NONE);
    EXPECT(certificate_read(json_string_value(json_object_get(scene.answer, "certificate")), &info,
                            &err) == 0);
    EXPECT(strstr(info.uri, "/client/laptop") != NULL);
    cluster_login(scene.cluster, body, reply_of(&scene));
    EXPECT(wait(&scene) == ERROR_DENIED);
    cluster_create_client(scene.cluster, "laptop", "token", 0, reply_of(&scene));
    EXPECT(wait(&scene) == ERROR_EXISTS);
    close_scene(&scene);
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct scene *scene = context;
    (void)index;
    EXPECT(error == NULL);
    scene->is_answered = true;
    uv_stop(loop_uv(scene->loop));
}

static void write_row(struct scene *scene, const char *sql)
{
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_NOT_FOUND, "no such row", sql, "");
    scene->is_answered = false;
    store_propose(scene->store, command, on_written, scene);
    wait(scene);
}

/* Any node may write rows: a bad one harms who it is about, and not what is said of all. */
TEST(cluster_admit, rows_that_no_node_wrote_of_itself_are_not_believed)
{
    struct scene scene;
    open_scene(&scene);
    struct cluster_token token = make_token(&scene, "worker", 1);
    MEMORY_OWNED char *request = make_request();
    EXPECT(join(&scene, &token, "second", request) == ERROR_NONE);
    write_row(&scene, "UPDATE node SET labels = 'no JSON', address = '::' WHERE key = 'second'");
    EXPECT(count(&scene, "nodes") == 2);
    make_token(&scene, "worker", 1); /* and it can be read */
    write_row(&scene, "UPDATE node SET id = 0 WHERE key = 'second'");
    cluster_label_node(scene.cluster, "second", "a", "b", reply_of(&scene));
    EXPECT(wait(&scene) == ERROR_NOT_FOUND);
    EXPECT(count(&scene, "nodes") == 1);
    close_scene(&scene);
}
