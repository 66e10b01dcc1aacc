/* See runtime_http.h.  RFC 9112: sections 2 to 7, as far as clients of this API go. */
#include "guest/agent/runtime_http.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/text.h"

#define PREFIX "/2018-06-01/runtime/invocation/"

struct fields {
    bool is_chunked;
    bool has_length;
    uint64_t length;
};

static bool value_is(struct text value, const char *word)
{
    return text_equal_ignoring_case(text_trim(value), word);
}

/* Printable, and short enough; otherwise it is as if it were not there. */
static void copy_value(struct text value, char *ret_text, size_t size)
{
    size_t length = value.length < size ? value.length : 0;
    for (size_t i = 0; i < length; i++) {
        if (value.data[i] < ' ' || value.data[i] > '~') {
            length = 0;
        }
    }
    memcpy(ret_text, value.data, length);
    ret_text[length] = '\0';
}

static bool take_line(struct text line, struct runtime_request *request, struct fields *fields)
{
    const char *colon = memchr(line.data, ':', line.length);
    if (colon == NULL) {
        return false;
    }
    struct text name = text_of(line.data, (size_t)(colon - line.data));
    struct text value = text_trim(text_of(colon + 1, line.length - name.length - 1));
    if (text_equal_ignoring_case(name, "content-length")) {
        uint64_t length = 0;
        bool is_good =
            text_parse_u64(value, &length) && (!fields->has_length || fields->length == length);
        fields->has_length = true;
        fields->length = length;
        return is_good;
    }
    if (text_equal_ignoring_case(name, "transfer-encoding")) {
        fields->is_chunked = true;
        return value_is(value, "chunked");
    }
    if (text_equal_ignoring_case(name, "connection")) {
        request->closes = request->closes || value_is(value, "close");
    } else if (text_equal_ignoring_case(name, "expect")) {
        request->expects_continue = value_is(value, "100-continue");
    } else if (text_equal_ignoring_case(name, "lambda-runtime-function-response-mode")) {
        request->is_streaming = value_is(value, "streaming");
    } else if (text_equal_ignoring_case(name, "content-type")) {
        copy_value(value, request->content_type, sizeof(request->content_type));
    }
    return true;
}

/* "GET /path HTTP/1.1" */
static bool take_first(struct text line, struct runtime_request *request)
{
    const char *space = memchr(line.data, ' ', line.length);
    size_t method = space != NULL ? (size_t)(space - line.data) : 0;
    struct text rest = text_of(line.data + method + 1, line.length - method - (method > 0));
    const char *end = method > 0 ? memchr(rest.data, ' ', rest.length) : NULL;
    size_t path = end != NULL ? (size_t)(end - rest.data) : 0;
    if (path == 0 || path >= sizeof(request->path) || rest.data[0] != '/' ||
        memchr(rest.data, '\0', path) != NULL) {
        return false;
    }
    memcpy(request->path, rest.data, path);
    request->path[path] = '\0';
    struct text version = text_of(end + 1, rest.length - path - 1);
    request->is_post = text_equal(text_of(line.data, method), "POST");
    request->closes = text_equal(version, "HTTP/1.0");
    return (request->is_post || text_equal(text_of(line.data, method), "GET")) &&
        (request->closes || text_equal(version, "HTTP/1.1"));
}

static bool take_head(const char *bytes, size_t length, struct runtime_request *request,
                      struct fields *fields)
{
    bool is_first = true;
    bool is_good = true;
    const char *at = bytes;
    while (is_good && at < bytes + length) {
        const char *end = memchr(at, '\n', (size_t)(bytes + length - at));
        if (end == NULL) {
            return false;
        }
        struct text line = text_of(at, (size_t)(end - at));
        if (line.length > 0 && line.data[line.length - 1] == '\r') {
            line.length--;
        }
        at = end + 1;
        if (line.length > 0) {
            is_good = is_first ? take_first(line, request) : take_line(line, request, fields);
        }
        is_first = false;
    }
    return is_good && !(fields->is_chunked && fields->has_length);
}

static bool hex_digit(uint8_t c, size_t *ret_digit)
{
    const char *digits = "0123456789abcdef";
    const char *at = c != 0 ? strchr(digits, c >= 'A' && c <= 'F' ? c + 32 : c) : NULL;
    *ret_digit = at != NULL ? (size_t)(at - digits) : 0;
    return at != NULL;
}

/* A chunk's size line at `at`: its end, 0 when it is not whole. */
static enum runtime_verdict read_size(const uint8_t *bytes, size_t length, size_t *at,
                                      size_t *ret_size)
{
    const uint8_t *end = memchr(bytes + *at, '\n', length - *at);
    size_t size = 0;
    size_t digit = 0;
    size_t i = *at;
    if (end == NULL) {
        return length - *at > RUNTIME_HEAD_MAX ? RUNTIME_BAD : RUNTIME_MORE;
    }
    for (; i < length && hex_digit(bytes[i], &digit); i++) {
        size = size * 16 + digit;
        if (size > RUNTIME_BODY_MAX) {
            return RUNTIME_TOO_LARGE;
        }
    }
    if (i == *at || (bytes[i] != '\r' && bytes[i] != '\n' && bytes[i] != ';' && bytes[i] != ' ')) {
        return RUNTIME_BAD;
    }
    *at = (size_t)(end - bytes) + 1;
    *ret_size = size;
    return RUNTIME_WHOLE;
}

/* Behind the last chunk: lines up to an empty one. */
static enum runtime_verdict skip_trailer(const uint8_t *bytes, size_t length, size_t *at)
{
    size_t begin = *at;
    for (;;) {
        const uint8_t *end = *at < length ? memchr(bytes + *at, '\n', length - *at) : NULL;
        if (end == NULL) {
            return length - begin > RUNTIME_HEAD_MAX ? RUNTIME_BAD : RUNTIME_MORE;
        }
        size_t line = (size_t)(end - bytes) - *at;
        bool is_empty = line == 0 || (line == 1 && bytes[*at] == '\r');
        *at = (size_t)(end - bytes) + 1;
        if (is_empty) {
            return RUNTIME_WHOLE;
        }
    }
}

/* Once to see that all is there, then once more to move it: what is not whole stays as it is. */
static enum runtime_verdict walk_chunks(uint8_t *bytes, size_t length, bool moves,
                                        struct runtime_request *request)
{
    size_t at = request->head_length;
    size_t to = at;
    for (;;) {
        size_t size = 0;
        enum runtime_verdict verdict = read_size(bytes, length, &at, &size);
        if (verdict == RUNTIME_WHOLE && size == 0) {
            verdict = skip_trailer(bytes, length, &at);
            request->body_length = to - request->head_length;
            request->whole_length = at;
            return verdict;
        }
        if (verdict != RUNTIME_WHOLE) {
            return verdict;
        }
        if (to - request->head_length + size > RUNTIME_BODY_MAX) {
            return RUNTIME_TOO_LARGE;
        }
        if (length - at < size + 2) {
            return RUNTIME_MORE;
        }
        if (moves) {
            memmove(bytes + to, bytes + at, size);
        }
        to += size;
        at += size;
        at += bytes[at] == '\r' ? 2 : 1;
    }
}

static size_t find_end(const uint8_t *bytes, size_t length)
{
    size_t limit = length < RUNTIME_HEAD_MAX ? length : RUNTIME_HEAD_MAX;
    for (size_t i = 1; i < limit; i++) {
        bool is_plain = bytes[i] == '\n' && bytes[i - 1] == '\n';
        bool is_usual = i >= 3 && bytes[i] == '\n' && memcmp(bytes + i - 3, "\r\n\r", 3) == 0;
        if (is_plain || is_usual) {
            return i + 1;
        }
    }
    return 0;
}

enum runtime_verdict runtime_http_read(uint8_t *bytes, size_t length,
                                       struct runtime_request *ret_request)
{
    struct fields fields = {0};
    *ret_request = (struct runtime_request){0};
    size_t head = find_end(bytes, length);
    if (head == 0) {
        return length >= RUNTIME_HEAD_MAX ? RUNTIME_TOO_LARGE : RUNTIME_MORE;
    }
    if (!take_head((const char *)bytes, head, ret_request, &fields)) {
        return RUNTIME_BAD;
    }
    ret_request->head_length = head;
    ret_request->body_at = head;
    ret_request->is_chunked = fields.is_chunked;
    ret_request->body_length = (size_t)fields.length;
    if (ret_request->is_streaming) {
        ret_request->whole_length = head;
        return RUNTIME_WHOLE; /* of the head: the rest is a stream */
    }
    if (fields.is_chunked) {
        enum runtime_verdict verdict = walk_chunks(bytes, length, false, ret_request);
        return verdict == RUNTIME_WHOLE ? walk_chunks(bytes, length, true, ret_request) : verdict;
    }
    if (fields.length > RUNTIME_BODY_MAX) {
        return RUNTIME_TOO_LARGE;
    }
    ret_request->body_length = (size_t)fields.length;
    ret_request->whole_length = head + (size_t)fields.length;
    return length < ret_request->whole_length ? RUNTIME_MORE : RUNTIME_WHOLE;
}

/* ---- Bodies that are passed on as they come ---- */

void runtime_stream_begin(const struct runtime_request *request, struct runtime_stream *ret_stream)
{
    *ret_stream = (struct runtime_stream){
        .state = request->is_chunked ? RUNTIME_SIZE : RUNTIME_DATA,
        .is_chunked = request->is_chunked,
        .left = request->is_chunked ? 0 : request->body_length,
    };
}

/* One line of the trailer; RUNTIME_WHOLE at the empty one. */
static enum runtime_verdict take_trailer(struct runtime_stream *stream, const uint8_t *bytes,
                                         size_t length, size_t *ret_used)
{
    const uint8_t *end = memchr(bytes, '\n', length);
    if (end == NULL) {
        return length > RUNTIME_HEAD_MAX ? RUNTIME_BAD : RUNTIME_MORE;
    }
    struct text line = text_of((const char *)bytes, (size_t)(end - bytes));
    if (line.length > 0 && line.data[line.length - 1] == '\r') {
        line.length--;
    }
    const char *colon = line.length > 0 ? memchr(line.data, ':', line.length) : NULL;
    *ret_used = (size_t)(end - bytes) + 1;
    if (line.length == 0) {
        return RUNTIME_WHOLE;
    }
    if (colon == NULL) {
        return RUNTIME_BAD;
    }
    struct text name = text_of(line.data, (size_t)(colon - line.data));
    struct text value = text_trim(text_of(colon + 1, line.length - name.length - 1));
    if (text_equal_ignoring_case(name, "lambda-runtime-function-error-type")) {
        copy_value(value, stream->error_type, sizeof(stream->error_type));
    } else if (text_equal_ignoring_case(name, "lambda-runtime-function-error-body")) {
        copy_value(value, stream->error_body, sizeof(stream->error_body));
    }
    return RUNTIME_MORE;
}

/* The size line of a chunk, or the line's end behind one. */
static enum runtime_verdict take_between(struct runtime_stream *stream, const uint8_t *bytes,
                                         size_t length, size_t *ret_used)
{
    size_t size = 0;
    size_t at = 0;
    if (stream->state == RUNTIME_DATA_END) {
        const uint8_t *end = memchr(bytes, '\n', length < 2 ? length : 2);
        if (end == NULL) {
            return length >= 2 ? RUNTIME_BAD : RUNTIME_MORE;
        }
        *ret_used = (size_t)(end - bytes) + 1;
        stream->state = RUNTIME_SIZE;
        return *ret_used == 1 || bytes[0] == '\r' ? RUNTIME_MORE : RUNTIME_BAD;
    }
    enum runtime_verdict verdict = read_size(bytes, length, &at, &size);
    if (verdict != RUNTIME_WHOLE) {
        return verdict;
    }
    *ret_used = at;
    stream->left = size;
    stream->state = size == 0 ? RUNTIME_TRAILER : RUNTIME_DATA;
    return RUNTIME_MORE;
}

enum runtime_verdict runtime_stream_take(struct runtime_stream *stream, const uint8_t *bytes,
                                         size_t length, size_t *ret_used, const uint8_t **ret_piece,
                                         size_t *ret_length)
{
    *ret_used = 0;
    *ret_piece = bytes;
    *ret_length = 0;
    if (stream->state == RUNTIME_TRAILER) {
        return length > 0 ? take_trailer(stream, bytes, length, ret_used) : RUNTIME_MORE;
    }
    if (stream->state != RUNTIME_DATA) {
        return length > 0 ? take_between(stream, bytes, length, ret_used) : RUNTIME_MORE;
    }
    size_t taken = length < stream->left ? length : (size_t)stream->left;
    stream->left -= taken;
    *ret_used = taken;
    *ret_length = taken;
    if (stream->left == 0 && stream->is_chunked) {
        stream->state = RUNTIME_DATA_END;
    }
    return stream->left == 0 && !stream->is_chunked ? RUNTIME_WHOLE : RUNTIME_MORE;
}

bool runtime_http_path_id(const char *path, const char *tail, char *ret_id, size_t size)
{
    const char *id = path + sizeof(PREFIX) - 1;
    if (strncmp(path, PREFIX, sizeof(PREFIX) - 1) != 0) {
        return false;
    }
    const char *slash = strchr(id, '/');
    size_t length = slash != NULL ? (size_t)(slash - id) : 0;
    if (length == 0 || length >= size || strcmp(slash + 1, tail) != 0) {
        return false;
    }
    memcpy(ret_id, id, length);
    ret_id[length] = '\0';
    return true;
}
