/* Secrets: sealed, opened by the right key alone, and refused while something names them. */
#include "service/secret/secret.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "test/lib/test.h"

struct scene {
    struct loop *loop;
    struct store *store;
    struct secret_service *secrets;
    struct error error;
    unsigned told;
};

static void open_service(struct scene *scene)
{
    const struct secret_options options = {
        .loop = scene->loop, .store = scene->store, .folder = test_folder()};
    scene->secrets = secret_service_new(&options);
}

static struct scene open_scene(void)
{
    struct scene scene = {0};
    struct error err = {0};
    MEMORY_OWNED char *folder = memory_format("%s/store", test_folder());
    const struct store_options options = {.folder = folder};
    EXPECT(loop_new("test", &scene.loop, &err) == 0);
    EXPECT(store_open(scene.loop, &options, &scene.store, &err) == 0);
    for (unsigned i = store_schema_now(scene.store); i < store_schema_version(); i++) {
        store_upgrade(scene.store, i + 1, NULL, NULL);
        store_settle(scene.store);
    }
    open_service(&scene);
    return scene;
}

static void close_scene(struct scene *scene)
{
    secret_service_free(scene->secrets);
    store_close(scene->store);
    loop_free(scene->loop);
}

static void on_done(const struct error *error, uint64_t index, void *context)
{
    struct scene *scene = context;
    (void)index;
    scene->told++;
    scene->error = error != NULL ? *error : (struct error){0};
}

/* What a write of its own leads to is waited for, too. */
static enum error_kind settle(struct scene *scene, unsigned told)
{
    while (scene->told == told) {
        store_settle(scene->store);
        loop_flush(scene->loop);
    }
    EXPECT(scene->told == told + 1);
    return scene->error.kind;
}

static enum error_kind set(struct scene *scene, const char *name, const char *value)
{
    unsigned told = scene->told;
    secret_set(scene->secrets, "default", name, value, strlen(value), on_done, scene);
    EXPECT(scene->told == told);
    return settle(scene, told);
}

static enum error_kind delete_secret(struct scene *scene, const char *name)
{
    unsigned told = scene->told;
    secret_delete(scene->secrets, "default", name, on_done, scene);
    EXPECT(scene->told == told);
    return settle(scene, told);
}

static enum error_kind run(struct scene *scene, const char *sql)
{
    struct error err = {0};
    struct store_command *command = store_command_new();
    store_command_add(command, sql, "");
    store_write(scene->store, command, &err);
    return err.kind;
}

static enum error_kind read_in(struct scene *scene, const char *project, const char *name,
                               struct buffer *value)
{
    struct error err = {0};
    buffer_wipe(value);
    secret_read(scene->secrets, project, name, value, &err);
    scene->error = err;
    return err.kind;
}

static bool reads(struct scene *scene, const char *name, const char *expected)
{
    BUFFER_WIPED struct buffer value = {0};
    return read_in(scene, "default", name, &value) == ERROR_NONE &&
        strcmp(buffer_string(&value), expected) == 0;
}

TEST(secret, a_value_is_read_as_it_was_set_last)
{
    struct scene scene = open_scene();
    BUFFER_WIPED struct buffer value = {0};
    EXPECT(read_in(&scene, "default", "one", &value) == ERROR_NOT_FOUND);
    EXPECT(strstr(scene.error.text, "blixard secret set one") != NULL);
    EXPECT(set(&scene, "one", "first") == ERROR_NONE);
    EXPECT(set(&scene, "two", "second") == ERROR_NONE);
    EXPECT(reads(&scene, "one", "first") && reads(&scene, "two", "second"));
    EXPECT(set(&scene, "one", "third") == ERROR_NONE);
    EXPECT(reads(&scene, "one", "third"));
    EXPECT(read_in(&scene, "other", "one", &value) == ERROR_NOT_FOUND);
    EXPECT(delete_secret(&scene, "one") == ERROR_NONE);
    EXPECT(read_in(&scene, "default", "one", &value) == ERROR_NOT_FOUND);
    EXPECT(delete_secret(&scene, "one") == ERROR_NOT_FOUND);
    close_scene(&scene);
}

TEST(secret, names_and_values_have_their_bounds)
{
    struct scene scene = open_scene();
    MEMORY_OWNED char *large = memory_new(SECRET_VALUE_MAX + 2, 1);
    memset(large, 'x', SECRET_VALUE_MAX + 1);
    EXPECT(set(&scene, "", "v") == ERROR_INVALID);
    EXPECT(set(&scene, "No", "v") == ERROR_INVALID);
    EXPECT(set(&scene, "a/b", "v") == ERROR_INVALID);
    EXPECT(set(&scene, "empty", "") == ERROR_INVALID);
    EXPECT(set(&scene, "large", large) == ERROR_TOO_LARGE);
    large[SECRET_VALUE_MAX] = '\0';
    EXPECT(set(&scene, "large", large) == ERROR_NONE);
    EXPECT(reads(&scene, "large", large));
    close_scene(&scene);
}

/* Goal: a project at its limit changes what it has, and gets no more. */
TEST(secret, a_project_has_so_many)
{
    struct scene scene = open_scene();
    EXPECT(set(&scene, "first", "v") == ERROR_NONE);
    for (int i = 1; i < SECRET_PROJECT_MAX; i++) {
        char sql[512];
        snprintf(sql, sizeof(sql),
                 "INSERT INTO secret SELECT 'default/n%d', project, 'n%d', sealed, size, version, "
                 "created_ms, updated_ms, revision FROM secret WHERE name = 'first'",
                 i, i);
        EXPECT(run(&scene, sql) == ERROR_NONE);
    }
    EXPECT(set(&scene, "more", "v") == ERROR_LIMIT);
    EXPECT(set(&scene, "first", "w") == ERROR_NONE);
    EXPECT(delete_secret(&scene, "n1") == ERROR_NONE);
    EXPECT(set(&scene, "more", "v") == ERROR_NONE);
    close_scene(&scene);
}

/* Goal: who can write the state cannot make one secret of another, nor change one. */
TEST(secret, a_sealed_value_is_of_its_project_and_name_and_unchanged)
{
    struct scene scene = open_scene();
    BUFFER_WIPED struct buffer value = {0};
    EXPECT(set(&scene, "one", "first") == ERROR_NONE);
    EXPECT(set(&scene, "two", "second") == ERROR_NONE);
    EXPECT(run(&scene,
               "UPDATE secret SET sealed = (SELECT sealed FROM secret WHERE name = 'one') "
               "WHERE name = 'two'") == ERROR_NONE);
    EXPECT(read_in(&scene, "default", "two", &value) == ERROR_CORRUPT);
    EXPECT(run(&scene,
               "INSERT INTO secret SELECT 'other/one', 'other', name, sealed, size, "
               "version, created_ms, updated_ms, revision FROM secret WHERE name = 'one'") ==
           ERROR_NONE);
    EXPECT(read_in(&scene, "other", "one", &value) == ERROR_CORRUPT && value.used == 0);
    EXPECT(run(&scene,
               "UPDATE secret SET sealed = substr(sealed, 1, length(sealed) - 1) "
               "WHERE key = 'default/one'") == ERROR_NONE);
    EXPECT(read_in(&scene, "default", "one", &value) == ERROR_CORRUPT);
    close_scene(&scene);
}

/* ---- The key ---- */

static char *key_path(void)
{
    return memory_format("%s/secrets.key", test_folder());
}

TEST(secret, the_key_is_made_with_the_first_secret_and_stays)
{
    struct scene scene = open_scene();
    MEMORY_OWNED char *path = key_path();
    struct stat status;
    uint8_t key[SECRET_KEY_BYTES];
    struct error err = {0};
    EXPECT(stat(path, &status) < 0);
    EXPECT(secret_give_key(scene.secrets, key, &err) == -ERROR_UNAVAILABLE);
    EXPECT(set(&scene, "one", "first") == ERROR_NONE);
    EXPECT(stat(path, &status) == 0);
    EXPECT((status.st_mode & 07777) == 0600 && status.st_size == SECRET_KEY_BYTES);
    EXPECT(secret_give_key(scene.secrets, key, &err) == 0);
    secret_service_free(scene.secrets);
    open_service(&scene);
    EXPECT(reads(&scene, "one", "first"));
    close_scene(&scene);
}

static void overwrite_key(const void *bytes, size_t length)
{
    struct error err = {0};
    MEMORY_OWNED char *path = key_path();
    EXPECT(file_write(path, bytes, length, 0600, &err) == 0);
}

/* Goal: another key opens nothing, seals nothing, and is not replaced. */
TEST(secret, a_wrong_key_is_told_and_left_alone)
{
    struct scene scene = open_scene();
    BUFFER_WIPED struct buffer value = {0};
    BUFFER_OWNED struct buffer left = {0};
    MEMORY_OWNED char *path = key_path();
    struct error err = {0};
    static const char wrong[SECRET_KEY_BYTES + 1] = "this is not the key of secrets..";
    EXPECT(set(&scene, "one", "first") == ERROR_NONE);
    secret_service_free(scene.secrets);
    for (size_t length = SECRET_KEY_BYTES; length >= SECRET_KEY_BYTES - 1; length--) {
        overwrite_key(wrong, length);
        open_service(&scene);
        EXPECT(read_in(&scene, "default", "one", &value) == ERROR_CORRUPT);
        EXPECT(strstr(scene.error.text, path) != NULL &&
               strstr(scene.error.text, "is not the key of these secrets") != NULL);
        EXPECT(set(&scene, "two", "second") == ERROR_CORRUPT);
        secret_service_free(scene.secrets);
        buffer_clear(&left);
        EXPECT(file_read(path, 100, &left, &err) == 0);
        EXPECT(left.used == length && memcmp(left.data, wrong, length) == 0);
    }
    open_service(&scene);
    close_scene(&scene);
}

TEST(secret, without_its_key_a_state_says_where_it_belongs)
{
    struct scene scene = open_scene();
    BUFFER_WIPED struct buffer value = {0};
    MEMORY_OWNED char *path = key_path();
    MEMORY_OWNED char *kept = memory_format("%s/kept", test_folder());
    EXPECT(set(&scene, "one", "first") == ERROR_NONE);
    secret_service_free(scene.secrets);
    EXPECT(rename(path, kept) == 0);
    open_service(&scene);
    EXPECT(read_in(&scene, "default", "one", &value) == ERROR_UNAVAILABLE);
    EXPECT(strstr(scene.error.text, path) != NULL);
    EXPECT(access(path, F_OK) < 0);
    secret_service_free(scene.secrets);
    EXPECT(rename(kept, path) == 0);
    open_service(&scene);
    EXPECT(reads(&scene, "one", "first"));
    close_scene(&scene);
}

/* Goal: whoever dies between the proof and the file's name finds its key again. */
TEST(secret, a_candidate_that_the_state_proves_is_the_key)
{
    struct scene scene = open_scene();
    MEMORY_OWNED char *path = key_path();
    MEMORY_OWNED char *candidate = memory_format("%s.new", path);
    EXPECT(set(&scene, "one", "first") == ERROR_NONE);
    EXPECT(access(candidate, F_OK) < 0);
    secret_service_free(scene.secrets);
    EXPECT(rename(path, candidate) == 0);
    open_service(&scene);
    EXPECT(reads(&scene, "one", "first"));
    EXPECT(access(path, F_OK) == 0 && access(candidate, F_OK) < 0);
    close_scene(&scene);
}

/* ---- What names it ---- */

TEST(secret, what_names_it_keeps_it)
{
    struct scene scene = open_scene();
    BUFFER_OWNED struct buffer shown = {0};
    struct error err = {0};
    EXPECT(set(&scene, "one", "first") == ERROR_NONE);
    EXPECT(run(&scene, "INSERT INTO project (key, created_ms) VALUES ('default', 1)") ==
           ERROR_NONE);
    EXPECT(run(&scene, "INSERT INTO function VALUES ('default/f', 'default', 'f', 2, 1, 1)") ==
           ERROR_NONE);
    EXPECT(run(&scene,
               "INSERT INTO version (key, function, number, state, module, module_bytes, config, "
               "created_ms, revision) VALUES ('default/f/2', 'default/f', 2, 'ready', 'm', 1, "
               "'{\"secrets\": {\"A\": \"one\"}}', 1, 1)") == ERROR_NONE);
    EXPECT(run(&scene,
               "INSERT INTO trigger_row (key, project, name, kind, function, paused, config, "
               "created_ms, updated_ms, revision) VALUES ('default/t', 'default', 't', 'redis', "
               "'f', 0, '{\"settings\": {\"password_secret\": \"one\"}}', 1, 1, 1)") == ERROR_NONE);
    EXPECT(delete_secret(&scene, "one") == ERROR_CONFLICT);
    EXPECT(strstr(scene.error.text, "used by function f version 2, trigger t;") != NULL);
    EXPECT(secret_write(scene.secrets, "default", "one", &shown, &err) == 0);
    EXPECT(strstr(buffer_string(&shown), "\"used_by\":[\"function f version 2\",\"trigger t\"]") !=
           NULL);
    EXPECT(strstr(buffer_string(&shown), "first") == NULL);
    EXPECT(run(&scene, "DELETE FROM version") == ERROR_NONE);
    EXPECT(delete_secret(&scene, "one") == ERROR_CONFLICT);
    EXPECT(run(&scene, "DELETE FROM trigger_row") == ERROR_NONE);
    EXPECT(delete_secret(&scene, "one") == ERROR_NONE);
    close_scene(&scene);
}

/* The answer comes all the same. */
TEST(secret, what_is_under_way_is_answered_when_the_service_ends)
{
    struct scene scene = open_scene();
    secret_set(scene.secrets, "default", "one", "v", 1, on_done, &scene);
    secret_set(scene.secrets, "default", "two", "v", 1, on_done, &scene);
    close_scene(&scene);
    EXPECT(scene.told == 2);
}
