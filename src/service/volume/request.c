/* What people ask of volumes: made, changed, deleted; each with an operation. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"

#include "engine/store/store.h"

#include "service/quota/quota.h"
#include "service/secret/secret.h"
#include "service/volume/asking.h"
#include "service/volume/parts.h"

enum { KEY_BYTES = 32 };

/* ---- Asking ---- */

struct refusal {
    struct volume_service *service;
    struct error error;
    volume_begun *done;
    void *context;
};

static void on_refusal(void *argument)
{
    struct refusal *refusal = argument;
    refusal->service->pending--;
    refusal->done(&refusal->error, NULL, refusal->context);
    free(refusal);
}

void volume_refuse(struct volume_service *service, const struct error *error, volume_begun *done,
                   void *context)
{
    struct refusal *refusal = NEW(struct refusal);
    *refusal = (struct refusal){service, *error, done, context};
    service->pending++;
    loop_post(service->options.loop, on_refusal, refusal);
}

struct asking {
    struct volume_service *service;
    char *project;
    char *name;
    char operation[OPERATION_ID_SIZE];
    enum volume_asked asked;
    volume_begun *done;
    void *context;
};

static void free_asking(struct asking *asking)
{
    free(asking->project);
    free(asking->name);
    free(asking);
}

/* The row is there, and volume_load() has seen it; the step that it led to has begun. */
static void on_asked(const struct error *error, uint64_t index, void *context)
{
    struct asking *asking = context;
    struct volume_service *service = asking->service;
    (void)index;
    service->pending--;
    if (!operation_tell(service->options.operations, asking->operation, error, asking->done,
                        asking->context)) {
        free_asking(asking);
        return;
    }
    struct volume *volume = volume_find(service, asking->project, asking->name);
    if (asking->asked == VOLUME_ASKED_WORK && volume != NULL && volume->state != VOLUME_READY &&
        volume->state != VOLUME_FAILED) {
        snprintf(volume->operation, sizeof(volume->operation), "%s", asking->operation);
        volume_step(volume);
    } else {
        operation_succeed(service->options.operations, asking->operation, NULL);
    }
    if (asking->asked == VOLUME_ASKED_REMOVAL) {
        volume_collect(service);
    }
    free_asking(asking);
}

void volume_ask(struct volume_service *service, struct store_command *owned_command,
                const struct volume_question *question, volume_begun *done, void *context)
{
    struct asking *asking = NEW(struct asking);
    *asking = (struct asking){.service = service,
                              .project = memory_copy_string(question->project),
                              .name = memory_copy_string(question->name),
                              .asked = question->asked,
                              .done = done,
                              .context = context};
    MEMORY_OWNED char *resource = memory_format("volumes/%s", question->name);
    const struct operation_start start = {
        .kind = question->kind, .project = question->project, .resource = resource};
    operation_add(service->options.operations, owned_command, &start, asking->operation);
    service->pending++;
    store_propose(service->options.store, owned_command, on_asked, asking);
}

int volume_check_schema(struct volume_service *service, struct error *err)
{
    return volume_schema_is_there(service)
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "some node of the cluster is too old for volumes: upgrade it");
}

/* ---- Making one ---- */

struct creation {
    struct volume_service *service;
    char *project;
    json_t *config;
    char id[VOLUME_ID_SIZE];
    char layer[VOLUME_ID_SIZE];
    char below[VOLUME_ID_SIZE];
    char secret[VOLUME_NAME_SIZE];
    enum volume_format format;
    uint64_t size_bytes;
    volume_begun *done;
    void *context;
};

static void free_creation(struct creation *creation)
{
    json_decref(creation->config);
    free(creation->project);
    free(creation);
}

static void propose_creation(struct creation *creation)
{
    struct volume_service *service = creation->service;
    const char *name = json_text(creation->config, "name");
    struct store_command *command = store_command_new();
    MEMORY_OWNED char *key = memory_format("%s/%s", creation->project, name);
    MEMORY_OWNED char *text = json_dumps(creation->config, JSON_COMPACT | JSON_SORT_KEYS);
    MEMORY_OWNED char *exists = memory_format("there is a volume %s already", name);
    const char *below = creation->below[0] != '\0' ? creation->below : NULL;
    uint64_t now_ms = clock_real_ms();
    store_command_add(command, "INSERT OR IGNORE INTO project (key, created_ms) VALUES (?, ?)",
                      "tu", creation->project, now_ms);
    store_command_add_expecting(
        command, ERROR_EXISTS, exists,
        "INSERT INTO volume (key, project, name, id, node, config, secret, size_bytes, layer, "
        "origin, state, created_ms, revision) SELECT ?1, ?2, ?3, ?4, ?5, ?6, nullif(?7, ''), ?8, "
        "?9, ?10, 'creating', ?11, ?12 WHERE NOT EXISTS (SELECT 1 FROM volume WHERE key = ?1) AND "
        "(?7 = '' OR EXISTS (SELECT 1 FROM secret WHERE project = ?2 AND name = ?7))",
        "tttttttuttur", key, creation->project, name, creation->id, service->node_name, text,
        creation->secret, creation->size_bytes, creation->layer, below, now_ms);
    if (below != NULL) {
        store_command_add_expecting(command, ERROR_CONFLICT, "the snapshot was deleted meanwhile",
                                    "INSERT INTO volume_layer (key, node, format, below, "
                                    "created_ms, revision) SELECT ?, ?, ?, ?, ?, ? WHERE EXISTS "
                                    "(SELECT 1 FROM volume_snapshot WHERE layer = ?4)",
                                    "ttttur", creation->layer, service->node_name,
                                    volume_format_text(creation->format), below, now_ms);
    } else {
        store_command_add(command,
                          "INSERT INTO volume_layer (key, node, format, created_ms, revision) "
                          "VALUES (?, ?, ?, ?, ?)",
                          "tttur", creation->layer, service->node_name,
                          volume_format_text(creation->format), now_ms);
    }
    quota_add_check(service->options.store, command, creation->project,
                    &(struct quota_ask){.disk_bytes = creation->size_bytes});
    const struct volume_question question = {.kind = "volume.create",
                                             .project = creation->project,
                                             .name = name,
                                             .asked = VOLUME_ASKED_WORK};
    volume_ask(service, command, &question, creation->done, creation->context);
    free_creation(creation);
}

static void on_secret(const struct error *error, uint64_t index, void *context)
{
    struct creation *creation = context;
    (void)index;
    creation->service->pending--;
    if (error != NULL) {
        volume_refuse(creation->service, error, creation->done, creation->context);
        free_creation(creation);
        return;
    }
    propose_creation(creation);
}

/* As text, so that other programs can be told it as well. */
static void make_key(struct creation *creation)
{
    char text[2 * KEY_BYTES + 1];
    random_hex(text, 2 * KEY_BYTES);
    snprintf(creation->secret, sizeof(creation->secret), "volume-%s", creation->id);
    json_object_set_new(creation->config, "secret", json_string(creation->secret));
    creation->service->pending++;
    secret_set(creation->service->options.secrets, creation->project, creation->secret, text,
               2 * KEY_BYTES, on_secret, creation);
    explicit_bzero(text, sizeof(text));
}

static int check_secret(struct creation *creation, struct error *err)
{
    BUFFER_OWNED struct buffer key = {0};
    const char *name = json_text(creation->config, "secret");
    snprintf(creation->secret, sizeof(creation->secret), "%.63s", name);
    if (name[0] == '\0') {
        return 0;
    }
    if (json_is_true(json_object_get(creation->config, "encrypt"))) {
        return error_set(err, ERROR_INVALID,
                         "encrypt makes a key: give it, or secret, whose value is one");
    }
    int r = secret_read(creation->service->options.secrets, creation->project, name, &key, err);
    if (r == 0 && key.used > VOLUME_KEY_MAX) {
        r = error_set(err, ERROR_INVALID, "secret %.63s has more than %d bytes", name,
                      VOLUME_KEY_MAX);
    }
    buffer_wipe(&key);
    return r;
}

/* ---- A clone ---- */

struct source {
    char layer[VOLUME_ID_SIZE];
    uint64_t size_bytes;
    bool is_found;
};

static bool take_source(sqlite3_stmt *row, void *context)
{
    struct source *source = context;
    source->is_found = true;
    snprintf(source->layer, sizeof(source->layer), "%s", (const char *)sqlite3_column_text(row, 0));
    source->size_bytes = (uint64_t)sqlite3_column_int64(row, 1);
    return false;
}

static int take_origin(struct creation *creation, struct error *err)
{
    struct volume_service *service = creation->service;
    const char *name = json_text(creation->config, "from_volume");
    const char *snapshot = json_text(creation->config, "from_snapshot");
    struct volume *volume = NULL;
    struct source source = {0};
    struct volume_link chain[VOLUME_LAYERS_MAX];
    size_t count = 0;
    int r = volume_find_ready(service, creation->project, name, &volume, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *key = memory_format("%s/%s/%s", creation->project, name, snapshot);
    r = store_query(service->options.store, err, take_source, &source,
                    "SELECT layer, size_bytes FROM volume_snapshot WHERE key = ? AND state = "
                    "'ready'",
                    "t", key);
    if (r == 0 && !source.is_found) {
        return error_set(err, ERROR_NOT_FOUND,
                         "volume %s has no snapshot \"%.63s\"; see `blixard volume snapshot list "
                         "%s`",
                         name, snapshot, name);
    }
    r = r < 0 ? r : volume_chain(service, source.layer, chain, &count, err);
    if (r == 0 && count + 1 >= VOLUME_LAYERS_MAX) {
        return error_set(err, ERROR_LIMIT,
                         "the snapshot lies on %zu layers, which is as many as there may be",
                         count);
    }
    snprintf(creation->below, sizeof(creation->below), "%s", source.layer);
    snprintf(creation->secret, sizeof(creation->secret), "%s", volume->secret);
    creation->format = VOLUME_QCOW2;
    creation->size_bytes = json_u64(creation->config, "size_bytes");
    if (creation->size_bytes > 0 && creation->size_bytes < source.size_bytes) {
        return error_set(err, ERROR_INVALID,
                         "a clone is at least as large as its snapshot: %" PRIu64 " bytes",
                         source.size_bytes);
    }
    creation->size_bytes = creation->size_bytes > 0 ? creation->size_bytes : source.size_bytes;
    json_object_set_new(creation->config, "format", json_string("qcow2"));
    json_object_set(creation->config, "filesystem", json_object_get(volume->config, "filesystem"));
    if (creation->secret[0] != '\0') {
        json_object_set_new(creation->config, "secret", json_string(creation->secret));
    }
    return r;
}

static int prepare(struct creation *creation, const json_t *create, struct error *err)
{
    int r = volume_check_schema(creation->service, err);
    r = r < 0 ? r : volume_config_complete(create, &creation->config, err);
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *node = NULL;
    struct error missing = {0};
    const char *name = json_text(creation->config, "name");
    if (volume_node(creation->service, creation->project, name, &node, &missing) == 0) {
        return error_set(err, ERROR_EXISTS, "there is a volume %s already", name);
    }
    random_hex(creation->id, VOLUME_ID_SIZE - 1);
    random_hex(creation->layer, VOLUME_ID_SIZE - 1);
    if (json_text(creation->config, "from_volume")[0] != '\0') {
        r = take_origin(creation, err);
    } else {
        creation->format = volume_config_format(creation->config);
        creation->size_bytes = json_u64(creation->config, "size_bytes");
        r = check_secret(creation, err);
    }
    return r < 0 ? r : volume_check_size(creation->service->folder, creation->size_bytes, err);
}

void volume_create(struct volume_service *service, const char *project, const json_t *create,
                   volume_begun *done, void *context)
{
    struct error err = {0};
    struct creation *creation = NEW(struct creation);
    *creation = (struct creation){.service = service,
                                  .project = memory_copy_string(project),
                                  .done = done,
                                  .context = context};
    if (prepare(creation, create, &err) < 0) {
        volume_refuse(service, &err, done, context);
        free_creation(creation);
    } else if (json_is_true(json_object_get(creation->config, "encrypt"))) {
        make_key(creation);
    } else {
        propose_creation(creation);
    }
}

/* ---- Changing one ---- */

static int check_growth(const struct volume *volume, uint64_t size, struct error *err)
{
    if (size < volume->size_bytes) {
        return error_set(err, ERROR_INVALID,
                         "volume %s has %" PRIu64 " bytes and cannot become smaller: what is in it "
                         "would be cut off",
                         volume->name, volume->size_bytes);
    }
    return volume_check_size(volume->service->folder, size, err);
}

static void on_throttled(const struct error *error, void *context)
{
    (void)context;
    if (error != NULL) {
        log_warn("volumes: limits: %s", error->text);
    }
}

static void throttle(struct volume *volume, const json_t *config)
{
    struct hypervisor_vm *vm = NULL;
    struct agent *agent = NULL;
    if (volume_look(volume, &vm, &agent) == VOLUME_MACHINE_ON) {
        const struct hypervisor_rates rates = volume_rates_of(config, "");
        hypervisor_throttle_volume(vm, volume->id, &rates, on_throttled, NULL);
    }
}

static int check_update(struct volume *volume, const json_t *update, json_t **ret_config,
                        struct error *err)
{
    uint64_t size = json_u64(update, "size_bytes");
    JSON_OWNED json_t *config = json_deep_copy(volume->config);
    for (size_t i = 0; i < VOLUME_RATES; i++) {
        json_t *value = json_object_get(update, volume_rate_name(i));
        if (value != NULL) {
            json_object_set(config, volume_rate_name(i), value);
        }
    }
    int r = volume_rates_check(config, "", err);
    r = r < 0 || size == 0 ? r : check_growth(volume, size, err);
    if (r == 0) {
        *ret_config = config;
        config = NULL;
    }
    return r;
}

void volume_update(struct volume_service *service, const char *project, const char *name,
                   const json_t *update, volume_begun *done, void *context)
{
    struct error err = {0};
    struct volume *volume = NULL;
    JSON_OWNED json_t *config = NULL;
    int r = volume_find_ready(service, project, name, &volume, &err);
    r = r < 0 ? r : check_update(volume, update, &config, &err);
    if (r < 0) {
        volume_refuse(service, &err, done, context);
        return;
    }
    uint64_t size = json_u64(update, "size_bytes");
    bool grows = size > volume->size_bytes;
    MEMORY_OWNED char *text = json_dumps(config, JSON_COMPACT | JSON_SORT_KEYS);
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the volume was changed at the same moment: try it again",
        "UPDATE volume SET config = ?, state = ?, next_size = nullif(?, 0), reason = NULL, "
        "revision = ? WHERE key = ? AND id = ? AND state = 'ready'",
        "tturtt", text, grows ? "growing" : "ready", grows ? size : 0, volume->key, volume->id);
    if (grows) {
        quota_add_check(service->options.store, command, project,
                        &(struct quota_ask){.disk_bytes = size - volume->size_bytes});
    }
    throttle(volume, config);
    const struct volume_question question = {.kind = "volume.update",
                                             .project = project,
                                             .name = name,
                                             .asked =
                                                 grows ? VOLUME_ASKED_WORK : VOLUME_ASKED_CHANGE};
    volume_ask(service, command, &question, done, context);
}

/* ---- Deleting one ---- */

int volume_names(struct volume_service *service, struct buffer *ret_names, struct error *err,
                 const char *sql, const char *key)
{
    return store_query(service->options.store, err, volume_add_name, ret_names, sql, "t", key);
}

bool volume_add_name(sqlite3_stmt *row, void *context)
{
    struct buffer *names = context;
    buffer_append_format(names, "%s%s", names->used > 0 ? ", " : "",
                         (const char *)sqlite3_column_text(row, 0));
    return names->used < 300;
}

static int check_deletion(struct volume_service *service, const struct volume *volume,
                          struct error *err)
{
    BUFFER_OWNED struct buffer names = {0};
    if (volume->machine[0] != '\0') {
        return error_set(err, ERROR_CONFLICT,
                         "machine %s has volume %s: detach it first (`blixard volume detach %s`)",
                         volume->machine, volume->name, volume->name);
    }
    int r = volume_names(service, &names, err,
                         "SELECT name FROM volume_snapshot WHERE volume = ? ORDER BY name",
                         volume->key);
    if (r == 0 && names.used > 0) {
        return error_set(err, ERROR_CONFLICT, "volume %s has snapshots: %.300s; delete them first",
                         volume->name, buffer_string(&names));
    }
    return r;
}

void volume_delete(struct volume_service *service, const char *project, const char *name,
                   volume_begun *done, void *context)
{
    struct error err = {0};
    MEMORY_OWNED char *node = NULL;
    int r = volume_node(service, project, name, &node, &err);
    struct volume *volume = volume_find(service, project, name);
    if (r == 0 && volume == NULL) {
        r = error_set(&err, ERROR_UNAVAILABLE, "volume %s is on node %s", name, node);
    }
    if (r == 0 && volume->is_busy) {
        r = error_set(&err, ERROR_CONFLICT, "volume %s is %s: try it again when that has ended",
                      name,
                      volume->state != VOLUME_READY ? volume_state_text(volume->state) : "busy");
    }
    r = r < 0 ? r : check_deletion(service, volume, &err);
    if (r < 0) {
        volume_refuse(service, &err, done, context);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the volume was changed at the same moment: try it again",
        "DELETE FROM volume WHERE key = ?1 AND id = ?2 AND machine IS NULL AND NOT EXISTS (SELECT "
        "1 FROM volume_snapshot WHERE volume = ?1)",
        "tt", volume->key, volume->id);
    /* The key that was made for it ends with the last volume that it opens. */
    if (json_is_true(json_object_get(volume->config, "encrypt"))) {
        store_command_add(command,
                          "DELETE FROM secret WHERE project = ?1 AND name = ?2 AND NOT EXISTS "
                          "(SELECT 1 FROM volume WHERE project = ?1 AND secret = ?2)",
                          "tt", project, volume->secret);
    }
    const struct volume_question question = {
        .kind = "volume.delete", .project = project, .name = name, .asked = VOLUME_ASKED_REMOVAL};
    volume_ask(service, command, &question, done, context);
}
