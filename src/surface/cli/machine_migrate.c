/* Machines that move to another node. */
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

static int make_body(const struct arguments *arguments, json_t *body, struct error *err)
{
    const char *to = flag_value(arguments, "to");
    const char *timeout = flag_value(arguments, "timeout");
    uint64_t timeout_ms = 0;
    if (timeout != NULL && (!text_parse_duration_ms(timeout, &timeout_ms) || timeout_ms == 0)) {
        return error_set(err, ERROR_INVALID, "--timeout is a time such as 10m, not \"%.40s\"",
                         timeout);
    }
    if (to != NULL) {
        json_object_set_new(body, "to", json_string(to));
    }
    if (timeout != NULL) {
        json_object_set_new(body, "timeout_ms", json_integer((json_int_t)timeout_ms));
    }
    return 0;
}

int verb_vm_migrate(const struct arguments *arguments, struct error *err)
{
    const char *machine = arguments->words[0];
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *reference = NULL;
    JSON_OWNED json_t *document = NULL;
    MEMORY_OWNED char *target = request_target("machines", machine, "/migrate");
    MEMORY_OWNED char *one = request_target("machines", machine, "");
    int r = make_body(arguments, body, err);
    r = r < 0 ? r : request_send("POST", target, body, &reference, err);
    const char *operation = json_string_value(json_object_get(reference, "operation"));
    if (r == 0 && operation == NULL) {
        return error_set(err, ERROR_PROTOCOL, "the answer names no operation");
    }
    if (r == 0 && flag_value(arguments, "no-wait") != NULL) {
        return print_done(arguments, reference, err, "%s", operation);
    }
    r = r < 0 ? r : operation_wait_for(operation, NULL, err);
    r = r < 0 ? r : request_json("GET", one, NULL, &document, err);
    const char *node = json_string_value(json_object_get(document, "node"));
    return r < 0 ? r
                 : print_done(arguments, document, err, "machine %s is on node %s", machine,
                              node != NULL ? node : "?");
}
