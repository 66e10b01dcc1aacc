/* The API as OpenAPI 3.1, made from spec/operations.def and spec/types.def. */
#include <string.h>

#include "base/memory.h"
#include "base/version.h"

#include "service/schema/schema.h"

#include "surface/api/parts.h"

static void write_reference(struct json_writer *writer, const char *type)
{
    MEMORY_OWNED char *reference = memory_format("#/components/schemas/%s", type);
    json_write_begin_object(writer);
    json_write_field_string(writer, "$ref", reference);
    json_write_end_object(writer);
}

static void write_kind(struct json_writer *writer, const struct schema_field *field)
{
    static const char *const types[] = {
        [SCHEMA_STRING] = "string", [SCHEMA_U64] = "integer", [SCHEMA_BOOL] = "boolean",
        [SCHEMA_DOUBLE] = "number", [SCHEMA_TIME] = "string", [SCHEMA_MAP] = "object",
        [SCHEMA_REF] = NULL,        [SCHEMA_LIST] = "array",
    };
    static const char text_items[] = "{\"type\":\"string\"}";
    if (field->is.kind == SCHEMA_REF) {
        write_reference(writer, field->is.of);
        return;
    }
    json_write_begin_object(writer);
    json_write_key(writer, "type");
    if (field->always) {
        json_write_string(writer, types[field->is.kind]);
    } else {
        json_write_begin_array(writer);
        json_write_string(writer, types[field->is.kind]);
        json_write_string(writer, "null");
        json_write_end_array(writer);
    }
    json_write_field_string(writer, "description", field->text);
    if (field->is.kind == SCHEMA_U64) {
        json_write_field_u64(writer, "minimum", 0);
    }
    if (field->is.kind == SCHEMA_TIME) {
        json_write_field_string(writer, "format", "date-time");
    }
    if (field->is.kind == SCHEMA_MAP) {
        json_write_key(writer, "additionalProperties");
        json_write_begin_object(writer);
        json_write_field_string(writer, "type", "string");
        json_write_end_object(writer);
    }
    if (field->is.kind == SCHEMA_LIST) {
        json_write_key(writer, "items");
        if (strcmp(field->is.of, "STRING") == 0) {
            json_write_raw(writer, text_items, sizeof(text_items) - 1);
        } else {
            write_reference(writer, field->is.of);
        }
    }
    json_write_end_object(writer);
}

static void write_type(struct json_writer *writer, const struct schema_field *type)
{
    json_write_key(writer, type->type);
    json_write_begin_object(writer);
    json_write_field_string(writer, "type", "object");
    json_write_field_string(writer, "description", type->text);
    json_write_key(writer, "properties");
    json_write_begin_object(writer);
    for (size_t i = 0; i < schema_count(); i++) {
        const struct schema_field *field = schema_at(i);
        if (field->name != NULL && strcmp(field->type, type->type) == 0) {
            json_write_key(writer, field->name);
            write_kind(writer, field);
        }
    }
    json_write_end_object(writer);
    json_write_key(writer, "required");
    json_write_begin_array(writer);
    for (size_t i = 0; i < schema_count(); i++) {
        const struct schema_field *field = schema_at(i);
        if (field->name != NULL && field->always && strcmp(field->type, type->type) == 0) {
            json_write_string(writer, field->name);
        }
    }
    json_write_end_array(writer);
    json_write_end_object(writer);
}

static void write_problem(struct json_writer *writer)
{
    static const char problem[] =
        "{\"type\":\"object\",\"description\":\"RFC 9457\",\"properties\":{\"type\":{\"type\":"
        "\"string\"},\"title\":{\"type\":\"string\"},\"status\":{\"type\":\"integer\"},\"detail\":{"
        "\"type\":\"string\"},\"code\":{\"type\":\"string\"},\"retryable\":{\"type\":\"boolean\"},"
        "\"instance\":{\"type\":\"string\"}},\"required\":[\"title\",\"status\",\"code\"]}";
    json_write_key(writer, "Problem");
    json_write_raw(writer, problem, sizeof(problem) - 1);
}

/* The media type of a request or reply; NULL: it has none. */
static const char *media_type(const char *name)
{
    static const char *const plain[][2] = {
        {"NONE", NULL},
        {"BYTES", "*/*"},
        {"TEXT", "text/plain"},
        {"WASM", "application/wasm"},
        {"TAR", "application/x-tar"},
        {"EVENTS", "text/event-stream"},
    };
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        if (strcmp(plain[i][0], name) == 0) {
            return plain[i][1];
        }
    }
    return "application/json";
}

static void write_content(struct json_writer *writer, const char *name)
{
    const char *media = media_type(name);
    if (media == NULL) {
        return;
    }
    json_write_key(writer, "content");
    json_write_begin_object(writer);
    json_write_key(writer, media);
    json_write_begin_object(writer);
    if (strcmp(media, "application/json") == 0) {
        json_write_key(writer, "schema");
        write_reference(writer, name);
    }
    json_write_end_object(writer);
    json_write_end_object(writer);
}

/* `text_or_null` is what it means. */
static void write_parameter(struct json_writer *writer, const char *name, const char *in,
                            const char *type, const char *text_or_null)
{
    json_write_begin_object(writer);
    json_write_field_string(writer, "name", name);
    json_write_field_string(writer, "in", in);
    json_write_field_bool(writer, "required", strcmp(in, "path") == 0);
    if (text_or_null != NULL) {
        json_write_field_string(writer, "description", text_or_null);
    }
    json_write_key(writer, "schema");
    json_write_begin_object(writer);
    json_write_field_string(writer, "type", type);
    json_write_end_object(writer);
    json_write_end_object(writer);
}

static void write_parameters(struct json_writer *writer, const struct api_route *route)
{
    json_write_key(writer, "parameters");
    json_write_begin_array(writer);
    for (const char *at = strchr(route->path, '{'); at != NULL; at = strchr(at + 1, '{')) {
        MEMORY_OWNED char *name = memory_copy_text(at + 1, strcspn(at + 1, ".}"));
        write_parameter(writer, name, "path", "string", NULL);
    }
    const struct api_query *query = NULL;
    for (size_t place = 0; (query = api_query_next(route, &place)) != NULL;) {
        const char *type = query->kind == API_QUERY_FLAG ? "boolean"
            : query->kind == API_QUERY_WHOLE             ? "integer"
                                                         : "string";
        if (query->kind != API_QUERY_OTHERS) {
            write_parameter(writer, query->name, "query", type, query->text);
        }
    }
    json_write_end_array(writer);
}

/* "/v1/kv/{key...}" as OpenAPI has it, which has no word for a rest. */
static char *described_path(const char *path)
{
    const char *rest = strstr(path, "...}");
    return rest != NULL ? memory_format("%.*s}", (int)(rest - path), path)
                        : memory_copy_string(path);
}

static void write_operation(struct json_writer *writer, const struct api_route *route)
{
    static const char *const methods[HTTP_METHOD_COUNT] = {[HTTP_GET] = "get",
                                                           [HTTP_POST] = "post",
                                                           [HTTP_PUT] = "put",
                                                           [HTTP_PATCH] = "patch",
                                                           [HTTP_DELETE] = "delete"};
    json_write_key(writer, methods[route->method]);
    json_write_begin_object(writer);
    json_write_field_string(writer, "operationId", route->id);
    json_write_field_string(writer, "summary", route->summary);
    json_write_field_string(writer, "x-permission", route->permission);
    if (strcmp(route->permission, "public") == 0) {
        json_write_key(writer, "security");
        json_write_raw(writer, "[]", 2);
    }
    write_parameters(writer, route);
    if (media_type(route->request) != NULL) {
        json_write_key(writer, "requestBody");
        json_write_begin_object(writer);
        write_content(writer, route->request);
        json_write_end_object(writer);
    }
    json_write_key(writer, "responses");
    json_write_begin_object(writer);
    MEMORY_OWNED char *status = memory_format("%d", route->status);
    json_write_key(writer, status);
    json_write_begin_object(writer);
    json_write_field_string(writer, "description", http_status_text(route->status));
    write_content(writer, route->reply);
    json_write_end_object(writer);
    json_write_key(writer, "default");
    json_write_begin_object(writer);
    json_write_field_string(writer, "$ref", "#/components/responses/Problem");
    json_write_end_object(writer);
    json_write_end_object(writer);
    json_write_end_object(writer);
}

static bool path_is_first(size_t index)
{
    for (size_t i = 0; i < index; i++) {
        if (strcmp(api_route_at(i)->path, api_route_at(index)->path) == 0) {
            return false;
        }
    }
    return true;
}

static void write_paths(struct json_writer *writer)
{
    json_write_key(writer, "paths");
    json_write_begin_object(writer);
    for (size_t i = 0; i < api_route_count(); i++) {
        if (!path_is_first(i)) {
            continue;
        }
        MEMORY_OWNED char *path = described_path(api_route_at(i)->path);
        json_write_key(writer, path);
        json_write_begin_object(writer);
        for (size_t j = i; j < api_route_count(); j++) {
            if (strcmp(api_route_at(j)->path, api_route_at(i)->path) == 0) {
                write_operation(writer, api_route_at(j));
            }
        }
        json_write_end_object(writer);
    }
    json_write_end_object(writer);
}

static void write_info(struct json_writer *writer)
{
    static const char license[] = "{\"name\":\"Apache-2.0\",\"identifier\":\"Apache-2.0\"}";
    static const char servers[] = "[{\"url\":\"/\"}]";
    json_write_key(writer, "info");
    json_write_begin_object(writer);
    json_write_field_string(writer, "title", "Blixard");
    json_write_field_string(writer, "version", blixard_version);
    json_write_key(writer, "license");
    json_write_raw(writer, license, sizeof(license) - 1);
    json_write_end_object(writer);
    json_write_key(writer, "servers");
    json_write_raw(writer, servers, sizeof(servers) - 1);
}

void api_write_openapi(struct buffer *out)
{
    /* Over loopback and the unix socket nothing of it is needed. */
    static const char security[] = "[{\"certificate\":[]},{\"bearer\":[]},{}]";
    static const char schemes[] =
        "{\"certificate\":{\"type\":\"mutualTLS\",\"description\":\"Of a node or a client: "
        "blixard login.\"},\"bearer\":{\"type\":\"http\",\"scheme\":\"bearer\"}}";
    static const char responses[] =
        "{\"Problem\":{\"description\":\"What went wrong, and what to do.\",\"content\":{"
        "\"application/problem+json\":{\"schema\":{\"$ref\":\"#/components/schemas/Problem\"}}}}}";
    struct json_writer writer = json_writer_to(out);
    json_write_begin_object(&writer);
    json_write_field_string(&writer, "openapi", "3.1.0");
    write_info(&writer);
    json_write_key(&writer, "security");
    json_write_raw(&writer, security, sizeof(security) - 1);
    write_paths(&writer);
    json_write_key(&writer, "components");
    json_write_begin_object(&writer);
    json_write_key(&writer, "schemas");
    json_write_begin_object(&writer);
    for (size_t i = 0; i < schema_count(); i++) {
        if (schema_at(i)->name == NULL) {
            write_type(&writer, schema_at(i));
        }
    }
    write_problem(&writer);
    json_write_end_object(&writer);
    json_write_key(&writer, "responses");
    json_write_raw(&writer, responses, sizeof(responses) - 1);
    json_write_key(&writer, "securitySchemes");
    json_write_raw(&writer, schemes, sizeof(schemes) - 1);
    json_write_end_object(&writer);
    json_write_end_object(&writer);
}
