/*
 * The key: made once, proven by a row of the state, kept in a file of each node.
 *
 * A node makes it as secrets.key.new, proposes a proof of it, and gives the file its name once the
 * proof is the one that was taken.  So whatever breaks off in between, a secrets.key is never
 * replaced, and a candidate is told by the proof from the key that another node has made meanwhile.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/cluster/cluster.h"
#include "service/secret/private.h"

#define PROOF_CONTEXT "blixard secrets key"
#define PROOF_TEXT    "this is the key of the secrets"

enum { FILE_MAX = 4096, LOOK_AGAIN_MS = 1000 };

bool key_has_others(const struct secret_service *service)
{
    return service->cluster != NULL && cluster_is_member(service->cluster);
}

/* ---- Files ---- */

/* NOT_FOUND; CORRUPT: it is no key. */
static int read_key(const char *path, uint8_t ret_key[SEAL_KEY_SIZE], struct error *err)
{
    BUFFER_WIPED struct buffer bytes = {0};
    int r = file_read(path, FILE_MAX, &bytes, err);
    if (r < 0) {
        return r;
    }
    if (bytes.used != SEAL_KEY_SIZE) {
        return error_set(err, ERROR_CORRUPT, "%s has %zu bytes; a key has %d", path, bytes.used,
                         SEAL_KEY_SIZE);
    }
    memcpy(ret_key, bytes.data, SEAL_KEY_SIZE);
    return 0;
}

static void drop_candidate(const struct secret_service *service)
{
    if (unlink(service->candidate) < 0 && errno != ENOENT) {
        log_warn("secrets: removing %s: %s", service->candidate, strerror(errno));
    }
}

static int keep_key(struct secret_service *service, const uint8_t key[SEAL_KEY_SIZE],
                    struct error *err)
{
    int r = file_write(service->path, key, SEAL_KEY_SIZE, 0600, err);
    if (r == 0) {
        drop_candidate(service);
    }
    return r;
}

/* ---- The proof ---- */

static bool take_proof(sqlite3_stmt *row, void *context)
{
    buffer_append(context, sqlite3_column_blob(row, 0), (size_t)sqlite3_column_bytes(row, 0));
    return false;
}

/* Empty: there is none. */
static int read_proof(struct secret_service *service, struct buffer *ret_proof, struct error *err)
{
    return secret_schema_is_there(service) ? store_query(service->store, err, take_proof, ret_proof,
                                                         "SELECT proof FROM secret_key", "")
                                           : 0;
}

static bool opens(const uint8_t key[SEAL_KEY_SIZE], const struct buffer *proof)
{
    BUFFER_WIPED struct buffer text = {0};
    struct error ignored = {0};
    return seal_open(key, PROOF_CONTEXT, proof->data, proof->used, &text, &ignored) == 0 &&
        strcmp(buffer_string(&text), PROOF_TEXT) == 0;
}

/* ---- Which key it is ---- */

static void set_here(struct secret_service *service, const uint8_t key[SEAL_KEY_SIZE])
{
    if (service->state != KEY_HERE && service->problem[0] != '\0') {
        log_info("secrets: %s is the key of the secrets now", service->path);
    }
    memcpy(service->key, key, SEAL_KEY_SIZE);
    service->state = KEY_HERE;
    service->problem[0] = '\0';
    obtain_stop(service);
    key_tell_holder(service);
}

static void set_absent(struct secret_service *service)
{
    explicit_bzero(service->key, sizeof(service->key));
    if (service->state == KEY_ABSENT) {
        return;
    }
    service->state = KEY_ABSENT;
    snprintf(service->problem, sizeof(service->problem),
             "this node does not have the key of the secrets: put the secrets.key that was kept "
             "with the backup to %s",
             service->path);
    if (key_has_others(service)) {
        snprintf(service->problem, sizeof(service->problem),
                 "this node does not have the key of the secrets yet: it asks the other nodes, and "
                 "looks "
                 "for the file %s",
                 service->path);
    }
    log_info("secrets: %s", service->problem);
}

static void set_wrong(struct secret_service *service, const char *why)
{
    explicit_bzero(service->key, sizeof(service->key));
    bool is_news = service->state != KEY_WRONG;
    service->state = KEY_WRONG;
    snprintf(service->problem, sizeof(service->problem),
             "%.200s is not the key of these secrets (%.100s): put the right one there, or remove "
             "the file, and this node asks the others for it",
             service->path, why);
    if (is_news) {
        log_error("secrets: %s", service->problem);
    }
    obtain_stop(service);
}

/* Nothing was ever sealed: what is on the disk will be the key when there is something. */
static void set_unmade(struct secret_service *service)
{
    explicit_bzero(service->key, sizeof(service->key));
    service->state = KEY_UNMADE;
    service->problem[0] = '\0';
    obtain_stop(service);
}

static void look_at_files(struct secret_service *service, const struct buffer *proof)
{
    uint8_t key[SEAL_KEY_SIZE];
    struct error err = {0};
    int r = read_key(service->path, key, &err);
    if (r == 0 && opens(key, proof)) {
        drop_candidate(service);
        set_here(service, key);
    } else if (r != -ERROR_NOT_FOUND) {
        set_wrong(service, r < 0 ? err.text : "it opens nothing here");
    } else if (read_key(service->candidate, key, &err) == 0 && opens(key, proof) &&
               keep_key(service, key, &err) == 0) {
        set_here(service, key);
    } else {
        set_absent(service);
    }
    explicit_bzero(key, sizeof(key));
}

void key_look(struct secret_service *service)
{
    BUFFER_OWNED struct buffer proof = {0};
    struct error err = {0};
    if (service->makes) {
        return; /* on_made() looks */
    }
    if (read_proof(service, &proof, &err) < 0) {
        log_warn("secrets: reading which key they have: %s", err.text);
        key_later(service, LOOK_AGAIN_MS);
    } else if (proof.used == 0) {
        set_unmade(service);
    } else if (service->state != KEY_HERE || !opens(service->key, &proof)) {
        look_at_files(service, &proof);
    } else {
        key_tell_holder(service);
    }
    if (service->state == KEY_ABSENT || service->state == KEY_WRONG) {
        key_later(service, LOOK_AGAIN_MS);
    }
}

int key_check(const struct secret_service *service, struct error *err)
{
    switch (service->state) {
    case KEY_HERE:
        return 0;
    case KEY_UNMADE:
        return error_set(err, ERROR_UNAVAILABLE, "there is no key of the secrets yet");
    case KEY_ABSENT:
        return error_set(err, ERROR_UNAVAILABLE, "%s", service->problem);
    case KEY_WRONG:
        return error_set(err, ERROR_CORRUPT, "%s", service->problem);
    }
    CHECK_UNREACHABLE();
}

int key_install(struct secret_service *service, const uint8_t key[SEAL_KEY_SIZE], struct error *err)
{
    BUFFER_OWNED struct buffer proof = {0};
    int r = read_proof(service, &proof, err);
    if (r == 0 && !opens(key, &proof)) {
        r = error_set(err, ERROR_PROTOCOL, "what it gave is not the key of these secrets");
    }
    r = r < 0 ? r : keep_key(service, key, err);
    if (r == 0) {
        log_info("secrets: %s has the key of the secrets", service->path);
        set_here(service, key);
    }
    return r;
}

/* ---- Making it ---- */

static void on_made(const struct error *error, uint64_t index, void *context)
{
    struct secret_service *service = context;
    (void)index;
    service->makes = false;
    service->at_work--;
    if (error != NULL && error->kind == ERROR_EXISTS) {
        drop_candidate(service); /* another node was first */
    } else if (error != NULL) {
        log_warn("secrets: their key could not be made: %s", error->text);
    }
    key_look(service);
    secret_go_on(service);
}

/* What is there already, whoever has put it there; or a new one. */
static int take_candidate(struct secret_service *service, uint8_t ret_key[SEAL_KEY_SIZE],
                          struct error *err)
{
    int r = read_key(service->path, ret_key, err);
    if (r != -ERROR_NOT_FOUND) {
        return r;
    }
    r = read_key(service->candidate, ret_key, err);
    if (r == 0) {
        return 0;
    }
    seal_key_make(ret_key);
    *err = (struct error){0};
    return file_write(service->candidate, ret_key, SEAL_KEY_SIZE, 0600, err);
}

void key_make(struct secret_service *service)
{
    uint8_t key[SEAL_KEY_SIZE];
    BUFFER_OWNED struct buffer proof = {0};
    struct error err = {0};
    CHECK(service->state == KEY_UNMADE);
    if (service->makes) {
        return;
    }
    if (take_candidate(service, key, &err) < 0) {
        set_wrong(service, err.text);
        key_later(service, LOOK_AGAIN_MS);
        return;
    }
    seal_close(key, PROOF_CONTEXT, PROOF_TEXT, strlen(PROOF_TEXT), &proof);
    explicit_bzero(key, sizeof(key));
    struct store_command *command = store_command_new();
    store_command_add_expecting(command, ERROR_EXISTS, "the secrets have a key already",
                                "INSERT INTO secret_key (key, proof, created_ms, revision) SELECT "
                                "'secrets', ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM secret_key)",
                                "bur", proof.data, proof.used, clock_real_ms());
    service->makes = true;
    service->at_work++;
    store_propose(service->store, command, on_made, service);
}

/* ---- On which nodes it is ---- */

static uint64_t own_id(struct secret_service *service)
{
    struct cluster_view *view = cluster_view_ref(service->cluster);
    uint64_t id = view->self_id;
    cluster_view_unref(view);
    return id;
}

static void on_holder_written(const struct error *error, uint64_t index, void *context)
{
    struct secret_service *service = context;
    (void)index;
    service->writes_holder = false;
    service->at_work--;
    if (error != NULL) {
        key_later(service, LOOK_AGAIN_MS);
    }
    secret_go_on(service);
}

void key_tell_holder(struct secret_service *service)
{
    char key[24];
    uint64_t count = 0;
    struct error err = {0};
    if (service->is_over || service->writes_holder || service->state != KEY_HERE ||
        !key_has_others(service)) {
        return;
    }
    uint64_t id = own_id(service);
    snprintf(key, sizeof(key), "%" PRIu64, id);
    int r = store_query(service->store, &err, store_take_u64, &count,
                        "SELECT count(*) FROM secret_holder WHERE key = ? AND EXISTS "
                        "(SELECT 1 FROM node WHERE id = ?)",
                        "tu", key, id);
    if (r < 0 || count > 0) {
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add(command, "DELETE FROM secret_holder WHERE node NOT IN (SELECT id FROM node)",
                      "");
    store_command_add_expecting(command, ERROR_CONFLICT, "this node is not in the state yet",
                                "INSERT OR REPLACE INTO secret_holder (key, node, revision) SELECT "
                                "?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM node WHERE id = ?2)",
                                "tur", key, id);
    service->writes_holder = true;
    service->at_work++;
    store_propose(service->store, command, on_holder_written, service);
}

/* As many as the cluster can lose, and one: what is acknowledged stays readable. */
bool key_is_safe(struct secret_service *service, struct error *err)
{
    uint64_t servers = 0;
    uint64_t holders = 0;
    struct error ignored = {0};
    if (!key_has_others(service)) {
        return true;
    }
    store_query(service->store, &ignored, store_take_u64, &servers,
                "SELECT count(*) FROM node WHERE role = 'server'", "");
    store_query(service->store, &ignored, store_take_u64, &holders,
                "SELECT count(*) FROM node WHERE id IN (SELECT node FROM secret_holder)", "");
    uint64_t wanted = servers > 0 ? (servers - 1) / 2 + 1 : 1;
    if (holders >= wanted) {
        return true;
    }
    error_set(err, ERROR_UNAVAILABLE,
              "the key of the secrets is on %" PRIu64 " nodes and must be on %" PRIu64
              ", so that none that is lost takes it along: see that the other nodes run",
              holders, wanted);
    return false;
}
