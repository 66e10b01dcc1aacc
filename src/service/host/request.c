/* Requests as functions send them: see engine/vmm/hostcall.h. */
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "base/memory.h"

#include "service/host/private.h"

static const struct {
    const char *name;
    const char *parts;
} operations[HOSTCALL_COUNT] = {
#define HOSTCALL(name, parts) [HOSTCALL_##name] = {#name, parts},
    HOSTCALL_TABLE(HOSTCALL)
#undef HOSTCALL
};

const char *host_operation_name(enum hostcall operation)
{
    CHECK(operation < HOSTCALL_COUNT);
    return operations[operation].name;
}

static uint32_t load32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

static int take_parts(const uint8_t *at, size_t left, struct host_request *request,
                      const uint8_t *lengths, struct error *err)
{
    const char *kinds = operations[request->operation].parts;
    for (size_t i = 0; i < request->count; i++) {
        uint32_t length = load32(lengths + i * 4);
        if (length > left) {
            return error_set(err, ERROR_INVALID, "part %zu of the request goes beyond its end", i);
        }
        request->parts[i] = text_of((const char *)at, length);
        if (kinds[i] == 'n') {
            if (length != sizeof(request->numbers[i])) {
                return error_set(err, ERROR_INVALID, "part %zu of the request is no number", i);
            }
            memcpy(&request->numbers[i], at, length);
        }
        at += length;
        left -= length;
    }
    return left == 0 ? 0 : error_set(err, ERROR_INVALID, "the request has bytes left over");
}

int host_request_read(const void *bytes, size_t length, struct host_request *ret_request,
                      struct error *err)
{
    enum { HEAD = 8 };
    const uint8_t *at = bytes;
    struct host_request request = {0};
    if (length < HEAD) {
        return error_set(err, ERROR_INVALID, "the request is too short");
    }
    uint32_t operation = load32(at);
    uint32_t count = load32(at + 4);
    if (operation == HOSTCALL_NONE || operation >= HOSTCALL_COUNT) {
        return error_set(err, ERROR_UNSUPPORTED, "there is no operation %" PRIu32, operation);
    }
    request.operation = (enum hostcall)operation;
    request.count = count;
    if (count != strlen(operations[operation].parts) || count > HOSTCALL_PARTS_MAX ||
        length - HEAD < (size_t)count * 4) {
        return error_set(err, ERROR_INVALID, "the request has a wrong number of parts");
    }
    size_t head = HEAD + (size_t)count * 4;
    int r = take_parts(at + head, length - head, &request, at + HEAD, err);
    if (r == 0) {
        *ret_request = request;
    }
    return r;
}

int host_request_string(const struct host_request *request, size_t part, size_t max,
                        const char *what, char **ret_string, struct error *err)
{
    CHECK(part < request->count);
    struct text text = request->parts[part];
    if (text.length > max) {
        return error_set(err, ERROR_INVALID, "the %s is longer than %zu bytes", what, max);
    }
    if (text.length > 0 && memchr(text.data, '\0', text.length) != NULL) {
        return error_set(err, ERROR_INVALID, "the %s has a NUL in it", what);
    }
    char *string = memory_new(text.length + 1, 1);
    if (text.length > 0) {
        memcpy(string, text.data, text.length);
    }
    *ret_string = string;
    return 0;
}
