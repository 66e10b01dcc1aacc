#include "base/buffer.h"
#include "base/error.h"
#include "base/loop/loop.h"
#include "base/stream/tls.h"

#include "engine/store/store.h"

#include "service/cluster/caller.h"
#include "service/cluster/token.h"

#include "test/lib/test.h"

#define CLUSTER "00112233445566778899aabbccddeeff"

enum { NOW_MS = 1000000 };

struct scene {
    struct loop *loop;
    struct store *store;
    struct error error;
    char secret[CLUSTER_TOKEN_SECRET_SIZE];
};

static void on_done(const struct error *error, uint64_t index, void *context)
{
    struct scene *scene = context;
    (void)index;
    if (error != NULL) {
        scene->error = *error;
    }
}

static void write_rows(struct scene *scene, struct store_command *command)
{
    store_propose(scene->store, command, on_done, scene);
    store_settle(scene->store);
    EXPECT(scene->error.kind == ERROR_NONE);
}

static void execute(struct scene *scene, const char *sql)
{
    struct store_command *command = store_command_new();
    store_command_add(command, sql, "");
    write_rows(scene, command);
}

/* A cluster with node north (7); client laptop, with the certificate "aa"; client ci, a token. */
static void open_scene(struct scene *scene)
{
    struct error err = {0};
    const struct store_options options = {.folder = test_folder()};
    *scene = (struct scene){0};
    EXPECT(loop_new("test", &scene->loop, &err) == 0);
    EXPECT(store_open(scene->loop, &options, &scene->store, &err) == 0);

    char digest[65];
    cluster_token_make_secret(scene->secret);
    cluster_token_digest(scene->secret, digest);
    struct store_command *command = store_command_new();
    store_command_add(command,
                      "INSERT INTO cluster (key, id, name, servers, ca_certificate, ca_key, "
                      "created_ms, revision) VALUES ('cluster', ?1, 'home', 3, '', x'00', 1, 1)",
                      "t", CLUSTER);
    store_command_add(command,
                      "INSERT INTO node (key, id, address, gateway, role, eligible, "
                      "failure_domain, labels, version, schema, fingerprint, expires_ms, "
                      "joined_ms, revision) VALUES ('north', 7, 'a:1', '', 'server', 1, '', '{}', "
                      "'', 3, '', 0, 1, 1)",
                      "");
    store_command_add(command, "INSERT INTO removed_node VALUES ('8', 'south', 1)", "");
    store_command_add(command,
                      "INSERT INTO client VALUES ('laptop', 'certificate', NULL, 'aa', 1, ?1, 1)",
                      "u", (uint64_t)NOW_MS + 1);
    store_command_add(command, "INSERT INTO client VALUES ('ci', 'token', ?1, NULL, 1, ?2, 1)",
                      "tu", digest, (uint64_t)NOW_MS + 1);
    write_rows(scene, command);
}

static void close_scene(struct scene *scene)
{
    store_close(scene->store);
    loop_free(scene->loop);
}

static int ask(struct scene *scene, const char *identity, const char *fingerprint,
               struct caller *ret_caller, struct error *err)
{
    struct tls_peer peer = {0};
    snprintf(peer.identity, sizeof(peer.identity), "%s", identity);
    snprintf(peer.fingerprint, sizeof(peer.fingerprint), "%s", fingerprint);
    return caller_by_certificate(scene->store, &peer, NOW_MS, ret_caller, err);
}

TEST(cluster_caller, a_node_is_believed_while_it_has_a_row)
{
    struct scene scene;
    struct caller caller;
    struct error err = {0};
    open_scene(&scene);

    EXPECT(ask(&scene, "spiffe://" CLUSTER "/node/7", "bb", &caller, &err) == 0);
    EXPECT(caller.kind == CALLER_NODE && caller.node == 7);
    EXPECT_STRING(caller.name, "north");

    execute(&scene, "DELETE FROM node");
    EXPECT(ask(&scene, "spiffe://" CLUSTER "/node/7", "bb", &caller, &err) == -ERROR_DENIED);
    close_scene(&scene);
}

TEST(cluster_caller, a_node_that_was_removed_is_told_so)
{
    struct scene scene;
    struct caller caller;
    struct error err = {0};
    open_scene(&scene);
    EXPECT(ask(&scene, "spiffe://" CLUSTER "/node/8", "bb", &caller, &err) == -ERROR_DENIED);
    EXPECT(strstr(err.text, "south (8) was removed") != NULL);
    close_scene(&scene);
}

TEST(cluster_caller, other_identities_are_nobody)
{
    static const char *const others[] = {"",
                                         "north",
                                         "spiffe://" CLUSTER,
                                         "spiffe://" CLUSTER "/",
                                         "spiffe://" CLUSTER "/node/",
                                         "spiffe://" CLUSTER "/node/07",
                                         "spiffe://" CLUSTER "/node/7/",
                                         "spiffe://" CLUSTER "/node/9",
                                         "spiffe://" CLUSTER "/nodes/7",
                                         "spiffe://" CLUSTER "0/node/7",
                                         "spiffe://x/node/7",
                                         "spiffe:///node/7"};
    struct scene scene;
    open_scene(&scene);
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        struct caller caller = {0};
        struct error err = {0};
        EXPECT(ask(&scene, others[i], "aa", &caller, &err) == -ERROR_DENIED);
        EXPECT(caller.kind == CALLER_NOBODY);
    }
    execute(&scene, "DELETE FROM cluster");
    struct caller caller = {0};
    struct error err = {0};
    EXPECT(ask(&scene, "spiffe:///node/7", "aa", &caller, &err) == -ERROR_DENIED);
    close_scene(&scene);
}

TEST(cluster_caller, a_client_is_believed_with_its_very_certificate_until_it_ends)
{
    struct scene scene;
    struct caller caller;
    struct error err = {0};
    static const char laptop[] = "spiffe://" CLUSTER "/client/laptop";
    open_scene(&scene);

    EXPECT(ask(&scene, laptop, "aa", &caller, &err) == 0);
    EXPECT(caller.kind == CALLER_CLIENT);
    EXPECT_STRING(caller.name, "laptop");
    EXPECT(ask(&scene, laptop, "ab", &caller, &err) == -ERROR_UNAUTHENTICATED);
    EXPECT(ask(&scene, laptop, "", &caller, &err) == -ERROR_UNAUTHENTICATED);
    EXPECT(ask(&scene, "spiffe://" CLUSTER "/client/ci", "", &caller, &err) ==
           -ERROR_UNAUTHENTICATED);

    execute(&scene, "UPDATE client SET expires_ms = 1000000");
    EXPECT(ask(&scene, laptop, "aa", &caller, &err) == -ERROR_UNAUTHENTICATED);
    execute(&scene, "DELETE FROM client");
    EXPECT(ask(&scene, laptop, "aa", &caller, &err) == -ERROR_UNAUTHENTICATED);
    close_scene(&scene);
}

TEST(cluster_caller, a_secret_is_believed_as_it_is_or_in_a_token_until_it_ends)
{
    struct scene scene;
    struct caller caller = {0};
    struct error err = {0};
    BUFFER_OWNED struct buffer text = {0};
    struct cluster_token token = {.cluster = CLUSTER, .address_count = 1};
    open_scene(&scene);
    memset(token.fingerprint, 'a', 64);
    snprintf(token.addresses[0], sizeof(token.addresses[0]), "a:1");
    snprintf(token.client, sizeof(token.client), "ci");
    memcpy(token.secret, scene.secret, sizeof(token.secret));
    cluster_token_write(&token, &text);

    EXPECT(caller_by_secret(scene.store, scene.secret, NOW_MS, &caller, &err) == 0);
    EXPECT(caller.kind == CALLER_CLIENT);
    EXPECT_STRING(caller.name, "ci");
    EXPECT(caller_by_secret(scene.store, buffer_string(&text), NOW_MS, &caller, &err) == 0);

    char digest[65];
    cluster_token_digest(scene.secret, digest);
    EXPECT(caller_by_secret(scene.store, digest, NOW_MS, &caller, &err) == -ERROR_UNAUTHENTICATED);
    EXPECT(caller_by_secret(scene.store, "", NOW_MS, &caller, &err) == -ERROR_UNAUTHENTICATED);
    EXPECT(caller_by_secret(scene.store, "blx1.x", NOW_MS, &caller, &err) ==
           -ERROR_UNAUTHENTICATED);
    EXPECT(caller_by_secret(scene.store, scene.secret, NOW_MS + 1, &caller, &err) ==
           -ERROR_UNAUTHENTICATED);
    EXPECT(strstr(err.text, scene.secret) == NULL);
    /* The digest of what `login` is to show is no bearer's. */
    execute(&scene, "UPDATE client SET kind = 'certificate' WHERE key = 'ci'");
    EXPECT(caller_by_secret(scene.store, scene.secret, NOW_MS, &caller, &err) ==
           -ERROR_UNAUTHENTICATED);
    close_scene(&scene);
}

TEST(cluster_caller, permissions_are_as_the_door_says)
{
    static const struct {
        const char *permission;
        int of[CALLER_KIND_COUNT]; /* nobody, local, client, node */
    } rows[] = {
        {"public", {0, 0, 0, 0}},
        {"peer", {-ERROR_UNAUTHENTICATED, -ERROR_DENIED, -ERROR_DENIED, 0}},
        {"cluster:admin", {-ERROR_UNAUTHENTICATED, 0, 0, -ERROR_DENIED}},
        {"function:invoke", {-ERROR_UNAUTHENTICATED, 0, 0, 0}},
        {"node:read", {-ERROR_UNAUTHENTICATED, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (unsigned kind = 0; kind < CALLER_KIND_COUNT; kind++) {
            struct caller caller = {.kind = kind};
            struct error err = {0};
            EXPECT(caller_may(&caller, rows[i].permission, &err) == rows[i].of[kind]);
        }
    }
}
