/* Machines as files. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/duplex.h"
#include "surface/cli/private.h"

int verb_vm_export(const struct arguments *arguments, struct error *err)
{
    const char *machine = arguments->words[0];
    const char *path = arguments->words[1];
    MEMORY_OWNED char *tail =
        memory_format("/export?snapshots=%s&volumes=%s",
                      flag_value(arguments, "snapshots") != NULL ? "true" : "false",
                      flag_value(arguments, "volumes") != NULL ? "true" : "false");
    MEMORY_OWNED char *target = request_target("machines", machine, tail);
    if (strcmp(path, "-") == 0) {
        if (isatty(STDOUT_FILENO)) {
            return error_set(err, ERROR_INVALID, "standard output is a terminal: name a file");
        }
        return download_to(target, STDOUT_FILENO, "standard output", NULL, err);
    }
    uint64_t bytes = 0;
    int r = download_file(target, path, &bytes, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s, s:I}", "file", path, "bytes", (json_int_t)bytes);
    return print_done(arguments, document, err, "machine %s is exported to %s (%" PRIu64 " bytes)",
                      machine, path, bytes);
}

static char *with_node(const struct arguments *arguments, const char *path)
{
    BUFFER_OWNED struct buffer target = {0};
    buffer_append_string(&target, path);
    request_add_query(&target, "node", flag_value(arguments, "node"));
    return buffer_take(&target);
}

static int begin_import(const struct arguments *arguments, json_t **ret_reference,
                        struct error *err)
{
    JSON_OWNED json_t *blob = NULL;
    JSON_OWNED json_t *body = json_object();
    const char *name = flag_value(arguments, "name");
    MEMORY_OWNED char *upload = with_node(arguments, "/v1/images/blobs");
    MEMORY_OWNED char *target = with_node(arguments, "/v1/machine-imports");
    int r = duplex_upload("POST", upload, arguments->words[0], &blob, err);
    if (r < 0) {
        return r;
    }
    json_object_set(body, "blob", json_object_get(blob, "id"));
    if (name != NULL) {
        json_object_set_new(body, "name", json_string(name));
    }
    return request_send("POST", target, body, ret_reference, err);
}

int verb_vm_import(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *reference = NULL;
    JSON_OWNED json_t *operation = NULL;
    int r = begin_import(arguments, &reference, err);
    const char *id = json_string_value(json_object_get(reference, "operation"));
    if (r == 0 && id == NULL) {
        return error_set(err, ERROR_PROTOCOL, "the answer names no operation");
    }
    if (r == 0 && flag_value(arguments, "no-wait") != NULL) {
        return print_done(arguments, reference, err, "%s", id);
    }
    r = r < 0 ? r : operation_wait_for(id, &operation, err);
    if (r < 0) {
        return r;
    }
    json_t *result = json_object_get(operation, "result");
    const char *name = json_string_value(json_object_get(result, "name"));
    return print_done(arguments, result != NULL ? result : operation, err,
                      "machine %s is imported; `blixard vm start %s` starts it",
                      name != NULL ? name : "?", name != NULL ? name : "NAME");
}
