/* Networks of machines, and security groups. */
#include "service/network/network.h"

#include "base/json.h"
#include "base/memory.h"

#include "surface/api/parts.h"

static struct network_service *service_of(const struct request *request)
{
    return request->api->options.networks;
}

/* ---- Networks ---- */

void api_network_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = network_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void write_network(struct request *request, const char *name)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = network_write(service_of(request), request->project, name, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_network_get(struct request *request)
{
    write_network(request, request->parameters[0]);
}

/* What was made, by a name that the path does not have. */
struct making {
    struct request *request;
    char *name;
};

static struct making *make(struct request *request, const json_t *body)
{
    struct making *making = NEW(struct making);
    *making = (struct making){request, memory_copy_string(api_body_text(body, "name"))};
    return making;
}

static void on_network_made(const struct error *error, uint64_t index, void *context)
{
    struct making *making = context;
    (void)index;
    if (error != NULL) {
        api_answer_error(making->request, error);
    } else {
        write_network(making->request, making->name);
    }
    free(making->name);
    free(making);
}

static void create_network(struct request *request, const json_t *body)
{
    network_create(service_of(request), request->project, body, on_network_made,
                   make(request, body));
}

void api_network_create(struct request *request)
{
    api_body_read(request, "NetworkCreate", create_network);
}

static void on_network_changed(const struct error *error, uint64_t index, void *context)
{
    struct request *request = context;
    (void)index;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        write_network(request, request->parameters[0]);
    }
}

static void update_network(struct request *request, const json_t *body)
{
    network_update(service_of(request), request->project, request->parameters[0], body,
                   on_network_changed, request);
}

void api_network_update(struct request *request)
{
    api_body_read(request, "NetworkUpdate", update_network);
}

void api_network_delete(struct request *request)
{
    network_delete(service_of(request), request->project, request->parameters[0], api_answer_done,
                   request);
}

/* ---- Security groups ---- */

void api_security_group_list(struct request *request)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = network_group_write_list(service_of(request), request->project, &body, &err);
    api_answer_written(request, r, &body, &err);
}

static void write_group(struct request *request, const char *name)
{
    BUFFER_OWNED struct buffer body = {0};
    struct error err = {0};
    int r = network_group_write(service_of(request), request->project, name, &body, &err);
    api_answer_written(request, r, &body, &err);
}

void api_security_group_get(struct request *request)
{
    write_group(request, request->parameters[0]);
}

static void on_group_made(const struct error *error, uint64_t index, void *context)
{
    struct making *making = context;
    (void)index;
    if (error != NULL) {
        api_answer_error(making->request, error);
    } else {
        write_group(making->request, making->name);
    }
    free(making->name);
    free(making);
}

static void create_group(struct request *request, const json_t *body)
{
    struct making *making = make(request, body);
    network_group_create(service_of(request), request->project, making->name, on_group_made,
                         making);
}

void api_security_group_create(struct request *request)
{
    api_body_read(request, "SecurityGroupCreate", create_group);
}

void api_security_group_delete(struct request *request)
{
    network_group_delete(service_of(request), request->project, request->parameters[0],
                         api_answer_done, request);
}

static void on_rule(const struct error *error, uint64_t index, void *context)
{
    struct request *request = context;
    (void)index;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        write_group(request, request->parameters[0]);
    }
}

static void add_rule(struct request *request, const json_t *body)
{
    network_group_allow(service_of(request), request->project, request->parameters[0], body,
                        on_rule, request);
}

void api_security_rule_add(struct request *request)
{
    api_body_read(request, "SecurityRule", add_rule);
}

void api_security_rule_remove(struct request *request)
{
    static const char *const keys[] = {"direction", "allow", "peer"};
    JSON_OWNED json_t *rule = json_object();
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        char value[API_PARAMETER_SIZE];
        if (http_query_get(http_exchange_query(request->exchange), keys[i], value, sizeof(value))) {
            json_object_set_new(rule, keys[i], json_string(value));
        }
    }
    network_group_revoke(service_of(request), request->project, request->parameters[0], rule,
                         on_rule, request);
}
