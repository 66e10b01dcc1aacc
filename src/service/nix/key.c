/*
 * The cluster's key: whose signatures its nodes, and Nix's own clients, believe.
 *
 * Made once, by the node that first needs it.  Its private half is a secret of a project that no
 * request can name; a row of `nix_key` says which, and what the public half is.  Two nodes that
 * make one at the same time: the row that is there first is the one, the other secret goes.
 */
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/nix/parts.h"
#include "service/secret/secret.h"

enum { LOOK_AGAIN_MS = 250 };

struct key_wait {
    struct list_node link;
    struct nix_service *service;
    void (*done)(const struct error *error, void *context);
    void *context;
};

struct making {
    struct nix_service *service;
    struct nix_key key;
    char secret[64];
};

/* ---- What the state says ---- */

struct row {
    char public_key[512];
    char secret[64];
};

static bool take_row(sqlite3_stmt *statement, void *context)
{
    struct row *row = context;
    snprintf(row->public_key, sizeof(row->public_key), "%s", store_text(statement, 0));
    snprintf(row->secret, sizeof(row->secret), "%s", store_text(statement, 1));
    return false;
}

static bool schema_is_there(const struct nix_service *service)
{
    return store_schema_now(service->options.store) >= NIX_KEY_SCHEMA;
}

static int read_row(struct nix_service *service, struct row *ret_row, struct error *err)
{
    return schema_is_there(service) ? store_query(service->options.store, err, take_row, ret_row,
                                                  "SELECT public, secret FROM nix_key", "")
                                    : 0;
}

/* NOT_FOUND: there is none yet. */
static int read_key(struct nix_service *service, struct error *err)
{
    struct row row = {0};
    BUFFER_WIPED struct buffer text = {0};
    int r = read_row(service, &row, err);
    if (r < 0) {
        return r;
    }
    if (row.public_key[0] == '\0') {
        return error_set(err, ERROR_NOT_FOUND, "there is no key of the Nix stores yet");
    }
    snprintf(service->public_key, sizeof(service->public_key), "%s", row.public_key);
    r = secret_read(service->options.secrets, NIX_KEY_PROJECT, row.secret, &text, err);
    r = r < 0 ? r : nix_key_read(buffer_string(&text), &service->key, err);
    service->has_key = r == 0;
    return r;
}

void nix_key_look(struct nix_service *service)
{
    struct error ignored = {0};
    if (!service->has_key) {
        read_key(service, &ignored);
    }
}

const char *nix_public_key(struct nix_service *service)
{
    struct row row = {0};
    struct error ignored = {0};
    if (service->public_key[0] == '\0' && read_row(service, &row, &ignored) == 0) {
        snprintf(service->public_key, sizeof(service->public_key), "%s", row.public_key);
    }
    return service->public_key;
}

/* ---- Making it ---- */

static void tell_all(struct nix_service *service, const struct error *error)
{
    struct list waits;
    list_init(&waits);
    while (!list_is_empty(&service->key_waits)) {
        struct key_wait *wait = LIST_FIRST(&service->key_waits, struct key_wait, link);
        list_remove(&wait->link);
        list_push_back(&waits, &wait->link);
    }
    while (!list_is_empty(&waits)) {
        struct key_wait *wait = LIST_FIRST(&waits, struct key_wait, link);
        list_remove(&wait->link);
        wait->done(error, wait->context);
        free(wait);
    }
}

static void end_making(struct making *making)
{
    explicit_bzero(&making->key, sizeof(making->key));
    free(making);
}

static void on_dropped(const struct error *error, uint64_t index, void *context)
{
    (void)error;
    (void)index;
    (void)context; /* that one is nobody's key; it harms nothing where it stays */
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct making *making = context;
    struct nix_service *service = making->service;
    struct error err = {0};
    (void)index;
    service->makes_key = false;
    if (error != NULL && error->kind == ERROR_EXISTS && !service->is_over) {
        secret_delete(service->options.secrets, NIX_KEY_PROJECT, making->secret, on_dropped, NULL);
    }
    if (error == NULL || error->kind == ERROR_EXISTS) {
        error = read_key(service, &err) < 0 ? &err : NULL;
    }
    if (error == NULL) {
        log_info("nix: what this cluster's nodes have is signed with %s", service->public_key);
    }
    tell_all(service, error);
    end_making(making);
    if (service->is_over) {
        loop_stop(service->options.loop);
    }
}

static void on_secret(const struct error *error, uint64_t index, void *context)
{
    struct making *making = context;
    BUFFER_OWNED struct buffer text = {0};
    if (error != NULL) {
        on_written(error, index, making);
        return;
    }
    nix_key_write_public(&making->key, &text);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_EXISTS, "the cluster has a key of the Nix stores already",
        "INSERT INTO nix_key (key, public, secret, created_ms, revision) SELECT 'cluster', ?1, ?2, "
        "?3, ?4 WHERE NOT EXISTS (SELECT 1 FROM nix_key)",
        "ttur", buffer_string(&text), making->secret, clock_real_ms());
    store_propose(making->service->options.store, command, on_written, making);
}

static void make_key(struct nix_service *service)
{
    char random[9];
    char name[32];
    struct error err = {0};
    BUFFER_WIPED struct buffer text = {0};
    struct making *making = NEW(struct making);
    making->service = service;
    random_hex(random, 8);
    snprintf(name, sizeof(name), "blixard-%s-1", random);
    snprintf(making->secret, sizeof(making->secret), "nix-%s", random);
    service->makes_key = true;
    if (nix_key_make(name, &making->key, &err) < 0) {
        on_written(&err, 0, making);
        return;
    }
    buffer_reserve(&text, 256);
    nix_key_write_secret(&making->key, &text);
    secret_set(service->options.secrets, NIX_KEY_PROJECT, making->secret, text.data, text.used,
               on_secret, making);
}

/* ---- Waiting for it ---- */

static void on_turn(void *context)
{
    struct nix_service *service = context;
    struct error err = {0};
    if (list_is_empty(&service->key_waits) || service->makes_key || service->is_over) {
        return;
    }
    int r = service->has_key ? 0 : read_key(service, &err);
    bool may_come = r == -ERROR_UNAVAILABLE; /* the key of the secrets, to a node that is new */
    if (r == -ERROR_NOT_FOUND && !schema_is_there(service)) {
        may_come = true; /* nodes that have just met have not told each other what they know */
        error_set(
            &err, ERROR_UNSUPPORTED,
            "Nix stores are shared once every node of the cluster has this version of Blixard");
    } else if (r == -ERROR_NOT_FOUND && service->public_key[0] == '\0') {
        make_key(service);
        return;
    }
    if (may_come && !service->is_hurried &&
        loop_now_ms(service->options.loop) < service->key_give_up_ms) {
        loop_timer_start(service->key_timer, LOOK_AGAIN_MS);
        return;
    }
    tell_all(service, r < 0 ? &err : NULL);
}

struct key_wait *nix_key_wait(struct nix_service *service,
                              void (*done)(const struct error *error, void *context), void *context)
{
    struct key_wait *wait = NEW(struct key_wait);
    wait->service = service;
    wait->done = done;
    wait->context = context;
    if (service->key_timer == NULL) {
        service->key_timer = loop_timer_new(service->options.loop, on_turn, service);
    }
    if (list_is_empty(&service->key_waits)) {
        service->key_give_up_ms = loop_now_ms(service->options.loop) + SECRET_WAIT_MS;
    }
    list_push_back(&service->key_waits, &wait->link);
    loop_post(service->options.loop, on_turn, service);
    return wait;
}

void nix_key_wait_free(struct key_wait *wait)
{
    if (wait != NULL) {
        list_remove(&wait->link);
        free(wait);
    }
}

void nix_key_end(struct nix_service *service)
{
    loop_flush(service->options.loop); /* on_turn() that was posted */
    loop_timer_free(service->key_timer);
    while (!list_is_empty(&service->key_waits)) {
        nix_key_wait_free(LIST_FIRST(&service->key_waits, struct key_wait, link));
    }
}
