/* Verbs about volumes. */
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/payload.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const struct payload_flag settings[] = {
    {"size", "size_bytes", FLAG_SIZE},
    {"format", "format", FLAG_TEXT},
    {"filesystem", "filesystem", FLAG_TEXT},
    {"encrypted", "secret", FLAG_TEXT},
    {"iops", "iops", FLAG_COUNT},
    {"bandwidth", "bandwidth", FLAG_RATE},
    {"read-iops", "read_iops", FLAG_COUNT},
    {"write-iops", "write_iops", FLAG_COUNT},
    {"read-bandwidth", "read_bandwidth", FLAG_RATE},
    {"write-bandwidth", "write_bandwidth", FLAG_RATE},
};

/* ---- Waiting ---- */

static int wait_for(const json_t *reference, struct error *err)
{
    const char *operation = json_string_value(json_object_get(reference, "operation"));
    return operation != NULL ? operation_wait_for(operation, NULL, err)
                             : error_set(err, ERROR_PROTOCOL, "the answer names no operation");
}

/* Until it is so, unless --no-wait; then the volume as it is. */
static int finish(const struct arguments *arguments, const json_t *reference, const char *name,
                  const char *what, struct error *err)
{
    MEMORY_OWNED char *target = request_target("volumes", name, "");
    JSON_OWNED json_t *volume = NULL;
    if (flag_value(arguments, "no-wait") != NULL) {
        const char *operation = json_string_value(json_object_get(reference, "operation"));
        return print_done(arguments, (json_t *)(uintptr_t)reference, err, "%s",
                          operation != NULL ? operation : "");
    }
    int r = wait_for(reference, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &volume, err);
    return r < 0 ? r : print_done(arguments, volume, err, "volume %s %s", name, what);
}

/* ---- Volumes ---- */

static int create(const struct arguments *arguments, json_t *body, const char *node,
                  struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    BUFFER_OWNED struct buffer target = {0};
    const char *name = json_string_value(json_object_get(body, "name"));
    buffer_append_string(&target, "/v1/volumes");
    request_add_query(&target, "node", node);
    int r = request_send("POST", buffer_string(&target), body, &reference, err);
    return r < 0 ? r : finish(arguments, reference, name, "is there", err);
}

/* "VOLUME@SNAPSHOT", whose node is the clone's. */
static int take_from(const char *from, json_t *body, char **ret_node, struct error *err)
{
    const char *at = strchr(from, '@');
    JSON_OWNED json_t *volume = NULL;
    if (at == NULL || at == from || at[1] == '\0') {
        return error_set(err, ERROR_INVALID,
                         "--from %.80s is not VOLUME@SNAPSHOT; `blixard volume clone` takes the "
                         "snapshot, too",
                         from);
    }
    MEMORY_OWNED char *name = memory_copy_text(from, (size_t)(at - from));
    MEMORY_OWNED char *target = request_target("volumes", name, "");
    int r = request_json("GET", target, NULL, &volume, err);
    const char *node = json_string_value(json_object_get(volume, "node"));
    json_object_set_new(body, "from_volume", json_string(name));
    json_object_set_new(body, "from_snapshot", json_string(at + 1));
    *ret_node = node != NULL ? memory_copy_string(node) : NULL;
    return r;
}

int verb_volume_create(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[0]);
    MEMORY_OWNED char *home = NULL;
    const char *from = flag_value(arguments, "from");
    const char *node = flag_value(arguments, "node");
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    if (flag_value(arguments, "encrypt") != NULL) {
        json_object_set_new(body, "encrypt", json_true());
    }
    if (r == 0 && from != NULL) {
        r = take_from(from, body, &home, err);
    }
    return r < 0 ? r : create(arguments, body, node != NULL ? node : home, err);
}

int verb_volume_clone(const struct arguments *arguments, struct error *err)
{
    const char *source = arguments->words[0];
    const char *given = flag_value(arguments, "snapshot");
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[1]);
    JSON_OWNED json_t *snapshot = NULL;
    JSON_OWNED json_t *reference = NULL;
    MEMORY_OWNED char *home = NULL;
    MEMORY_OWNED char *made = memory_format("for-%.59s", arguments->words[1]);
    MEMORY_OWNED char *from = memory_format("%s@%s", source, given != NULL ? given : made);
    MEMORY_OWNED char *target = request_target("volumes", source, "/snapshots");
    int r = payload_take_flags(arguments, settings, COUNT(settings), body, err);
    if (r == 0 && given == NULL) {
        snapshot = json_pack("{s:s}", "name", made);
        r = request_send("POST", target, snapshot, &reference, err);
        r = r < 0 ? r : wait_for(reference, err);
    }
    r = r < 0 ? r : take_from(from, body, &home, err);
    return r < 0 ? r : create(arguments, body, home, err);
}

static int update(const struct arguments *arguments, const json_t *body, const char *what,
                  struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    MEMORY_OWNED char *target = request_target("volumes", arguments->words[0], "");
    int r = request_send("PATCH", target, body, &reference, err);
    return r < 0 ? r : finish(arguments, reference, arguments->words[0], what, err);
}

int verb_volume_resize(const struct arguments *arguments, struct error *err)
{
    uint64_t bytes = 0;
    if (!text_parse_size(arguments->words[1], &bytes) || bytes == 0 || bytes > INT64_MAX) {
        return error_set(err, ERROR_INVALID, "\"%.40s\" is no size, as in 20GiB",
                         arguments->words[1]);
    }
    JSON_OWNED json_t *body = json_pack("{s:I}", "size_bytes", (json_int_t)bytes);
    return update(arguments, body, "is resized", err);
}

int verb_volume_limit(const struct arguments *arguments, struct error *err)
{
    static const struct payload_flag flags[] = {{"iops", "iops", FLAG_COUNT},
                                                {"bandwidth", "bandwidth", FLAG_RATE},
                                                {"read-iops", "read_iops", FLAG_COUNT},
                                                {"write-iops", "write_iops", FLAG_COUNT},
                                                {"read-bandwidth", "read_bandwidth", FLAG_RATE},
                                                {"write-bandwidth", "write_bandwidth", FLAG_RATE}};
    JSON_OWNED json_t *body = json_object();
    int r = payload_take_flags(arguments, flags, COUNT(flags), body, err);
    if (r == 0 && json_object_size(body) == 0) {
        return error_set(err, ERROR_INVALID,
                         "say what it may: --iops 500, --bandwidth 20MiB/s; 0 is no limit");
    }
    return r < 0 ? r : update(arguments, body, "is limited so", err);
}

int verb_volume_delete(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    JSON_OWNED json_t *gone = json_pack("{s:s}", "deleted", arguments->words[0]);
    MEMORY_OWNED char *target = request_target("volumes", arguments->words[0], "");
    int r = request_json("DELETE", target, NULL, &reference, err);
    r = r < 0 ? r : wait_for(reference, err);
    return r < 0 ? r : print_done(arguments, gone, err, "deleted volume %s", arguments->words[0]);
}

int verb_volume_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},           {"STATE", "state", AS_TEXT},
        {"NODE", "node", AS_TEXT},           {"SIZE", "size_bytes", AS_BYTES},
        {"USED", "used_bytes", AS_BYTES},    {"MACHINE", "machine", AS_TEXT},
        {"PATH", "path", AS_TEXT},           {"ENCRYPTED", "encrypted", AS_TEXT},
        {"SNAPSHOTS", "snapshots", AS_TEXT}, {"REASON", "reason", AS_TEXT},
    };
    return print_target(arguments, "/v1/volumes", "volumes", columns, COUNT(columns), err);
}

int verb_volume_show(const struct arguments *arguments, struct error *err)
{
    static const struct column facts[] = {
        {"name", "name", AS_TEXT},
        {"state", "state", AS_TEXT},
        {"reason", "reason", AS_TEXT},
        {"node", "node", AS_TEXT},
        {"size", "size_bytes", AS_BYTES},
        {"used", "used_bytes", AS_BYTES},
        {"format", "format", AS_TEXT},
        {"file system", "filesystem", AS_TEXT},
        {"clone of", "from", AS_TEXT},
        {"encrypted", "encrypted", AS_TEXT},
        {"key", "secret", AS_TEXT},
        {"iops", "iops", AS_TEXT},
        {"reads/s", "read_iops", AS_TEXT},
        {"writes/s", "write_iops", AS_TEXT},
        {"bytes/s", "bandwidth", AS_BYTES},
        {"bytes/s read", "read_bandwidth", AS_BYTES},
        {"bytes/s written", "write_bandwidth", AS_BYTES},
        {"machine", "machine", AS_TEXT},
        {"mounted at", "path", AS_TEXT},
        {"read only", "read_only", AS_TEXT},
        {"snapshots", "snapshots", AS_TEXT},
        {"created", "created_at", AS_TEXT},
        {"id", "id", AS_TEXT},
    };
    MEMORY_OWNED char *target = request_target("volumes", arguments->words[0], "");
    return print_target(arguments, target, NULL, facts, COUNT(facts), err);
}

/* ---- Of machines ---- */

static char *attachment_target(const char *machine, const char *volume, const char *query)
{
    BUFFER_OWNED struct buffer rest = {0};
    buffer_append_string(&rest, "/volumes/");
    http_percent_encode(&rest, text_of(volume, strlen(volume)));
    buffer_append_string(&rest, query);
    return request_target("machines", machine, buffer_string(&rest));
}

int verb_volume_attach(const struct arguments *arguments, struct error *err)
{
    const char *volume = arguments->words[0];
    const char *path = flag_value(arguments, "path");
    JSON_OWNED json_t *reference = NULL;
    JSON_OWNED json_t *body =
        json_pack("{s:b}", "read_only", flag_value(arguments, "read-only") != NULL);
    MEMORY_OWNED char *target = attachment_target(arguments->words[1], volume, "");
    if (path != NULL) {
        json_object_set_new(body, "path", json_string(path));
    }
    int r = request_send("PUT", target, body, &reference, err);
    return r < 0 ? r : finish(arguments, reference, volume, "is attached", err);
}

int verb_volume_detach(const struct arguments *arguments, struct error *err)
{
    const char *volume = arguments->words[0];
    bool is_forced = flag_value(arguments, "force") != NULL;
    JSON_OWNED json_t *shown = NULL;
    JSON_OWNED json_t *reference = NULL;
    MEMORY_OWNED char *looked = request_target("volumes", volume, "");
    int r = request_json("GET", looked, NULL, &shown, err);
    const char *machine = json_string_value(json_object_get(shown, "machine"));
    if (r == 0 && machine == NULL) {
        return error_set(err, ERROR_CONFLICT, "no machine has volume %s", volume);
    }
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *target = attachment_target(machine, volume, is_forced ? "?force=true" : "");
    r = request_json("DELETE", target, NULL, &reference, err);
    return r < 0 ? r : finish(arguments, reference, volume, "is detached", err);
}

/* ---- Snapshots ---- */

static char *snapshot_target(const char *volume, const char *snapshot, const char *end)
{
    BUFFER_OWNED struct buffer rest = {0};
    buffer_append_string(&rest, "/snapshots/");
    http_percent_encode(&rest, text_of(snapshot, strlen(snapshot)));
    buffer_append_string(&rest, end);
    return request_target("volumes", volume, buffer_string(&rest));
}

int verb_volume_snapshot_create(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *body = json_pack("{s:s}", "name", arguments->words[1]);
    JSON_OWNED json_t *reference = NULL;
    MEMORY_OWNED char *target = request_target("volumes", arguments->words[0], "/snapshots");
    int r = request_send("POST", target, body, &reference, err);
    return r < 0 ? r : finish(arguments, reference, arguments->words[0], "is kept as it is", err);
}

int verb_volume_snapshot_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},          {"STATE", "state", AS_TEXT},
        {"SIZE", "size_bytes", AS_BYTES},   {"CLONES", "clones", AS_TEXT},
        {"CREATED", "created_at", AS_TEXT},
    };
    MEMORY_OWNED char *target = request_target("volumes", arguments->words[0], "/snapshots");
    return print_target(arguments, target, "snapshots", columns, COUNT(columns), err);
}

int verb_volume_snapshot_delete(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    MEMORY_OWNED char *target = snapshot_target(arguments->words[0], arguments->words[1], "");
    int r = request_json("DELETE", target, NULL, &reference, err);
    return r < 0 ? r
                 : finish(arguments, reference, arguments->words[0], "has a snapshot less", err);
}

int verb_volume_snapshot_restore(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    MEMORY_OWNED char *target =
        snapshot_target(arguments->words[0], arguments->words[1], "/restore");
    int r = request_json("POST", target, NULL, &reference, err);
    return r < 0 ? r : finish(arguments, reference, arguments->words[0], "is as it was", err);
}
