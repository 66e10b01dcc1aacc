/*
 * Blobs as other nodes and clients read them, whole or from somewhere on (RFC 9110, 14), and which
 * code this node has compiled.  Files are read on another thread, the next piece when the last one
 * has gone.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"

#include "engine/image/image.h"

#include "service/function/function.h"

#include "surface/api/parts.h"

enum { PIECE_BYTES = 1 << 18 };

struct part {
    int fd;
    uint64_t at;
    uint64_t end;
};

static int step(void *context, struct buffer *out, struct error *err)
{
    struct part *part = context;
    uint64_t left = part->end - part->at;
    ssize_t got = 0;
    do {
        got = pread(part->fd, buffer_reserve(out, PIECE_BYTES),
                    left < PIECE_BYTES ? left : PIECE_BYTES, (off_t)part->at);
    } while (got < 0 && errno == EINTR);
    if (got < 0) {
        return error_os(err, errno, "reading it");
    }
    if (got == 0) {
        return error_set(err, ERROR_CORRUPT, "it is shorter than it was");
    }
    out->used += (size_t)got;
    part->at += (uint64_t)got;
    return part->at < part->end ? 1 : 0;
}

static void end_part(void *context)
{
    struct part *part = context;
    close(part->fd);
    free(part);
}

/* "bytes=5-" or "bytes=5-9".  False: anything else, which is as if nothing had been asked. */
static bool take_range(const struct request *request, uint64_t *ret_from, uint64_t *ret_to)
{
    static const char unit[] = "bytes=";
    size_t skip = sizeof(unit) - 1;
    struct text range = http_exchange_field(request->exchange, "Range");
    if (range.length <= skip || memcmp(range.data, unit, skip) != 0) {
        return false;
    }
    range = text_of(range.data + skip, range.length - skip);
    const char *dash = memchr(range.data, '-', range.length);
    if (dash == NULL || dash == range.data) {
        return false;
    }
    size_t before = (size_t)(dash - range.data);
    struct text last = text_of(dash + 1, range.length - before - 1);
    *ret_to = UINT64_MAX;
    return text_parse_u64(text_of(range.data, before), ret_from) &&
        (last.length == 0 || (text_parse_u64(last, ret_to) && *ret_to >= *ret_from));
}

static void send_from(struct request *request, int owned_fd, uint64_t from, uint64_t end)
{
    if (http_exchange_method(request->exchange) == HTTP_HEAD || from == end) {
        close(owned_fd);
        http_exchange_end(request->exchange);
        api_request_end(request);
        return;
    }
    struct part *part = NEW(struct part);
    *part = (struct part){owned_fd, from, end};
    const struct api_pieces pieces = {
        .step = step, .end = end_part, .context = part, .what = "a blob"};
    api_pieces_send(request, &pieces);
}

static void refuse_range(struct request *request, uint64_t size)
{
    MEMORY_OWNED char *text = memory_format("bytes */%" PRIu64, size);
    api_add_fields(request);
    http_exchange_add_field(request->exchange, "Content-Range", text);
    http_exchange_respond(request->exchange, 416, NULL, 0);
    api_request_end(request);
}

void api_blob_get(struct request *request)
{
    struct error err = {0};
    int fd = -1;
    uint64_t size = 0;
    if (image_open(request->api->options.images, request->parameters[0], &fd, &size, &err) < 0) {
        api_answer_error(request, &err);
    } else {
        api_blob_send(request, fd, size);
    }
}

void api_blob_send(struct request *request, int owned_fd, uint64_t size)
{
    int fd = owned_fd;
    uint64_t from = 0;
    uint64_t to = UINT64_MAX;
    bool is_part = take_range(request, &from, &to);
    if (is_part && from >= size) {
        close(fd);
        refuse_range(request, size);
        return;
    }
    from = is_part ? from : 0;
    uint64_t end = is_part && to < size ? to + 1 : size;
    api_add_fields(request);
    http_exchange_add_field(request->exchange, "Content-Type", "application/octet-stream");
    http_exchange_add_field(request->exchange, "Accept-Ranges", "bytes");
    if (is_part) {
        MEMORY_OWNED char *text =
            memory_format("bytes %" PRIu64 "-%" PRIu64 "/%" PRIu64, from, end - 1, size);
        http_exchange_add_field(request->exchange, "Content-Range", text);
    }
    http_exchange_begin(request->exchange, is_part ? 206 : 200, end - from);
    send_from(request, fd, from, end);
}

static void on_image(const struct error *error, struct buffer *json, void *context)
{
    struct request *request = context;
    if (error != NULL) {
        api_answer_error(request, error);
    } else {
        api_answer_json(request, request->status, json);
    }
}

void api_image_get(struct request *request)
{
    function_find_image(request->api->options.functions, request->parameters[0],
                        request->parameters[1], on_image, request);
}
