#include "base/http/parse.h"

#include <string.h>
#include <strings.h>

#include "base/check.h"

enum { TRAILER_BYTES_MAX = 8192, CHUNK_DIGITS_MAX = 15 };

/* tchar of RFC 9110, 5.6.2. */
static bool is_token_byte(uint8_t c)
{
    static const bool table[256] = {
        ['!'] = true,         ['#'] = true,         ['$'] = true, ['%'] = true,
        ['&'] = true,         ['\''] = true,        ['*'] = true, ['+'] = true,
        ['-'] = true,         ['.'] = true,         ['^'] = true, ['_'] = true,
        ['`'] = true,         ['|'] = true,         ['~'] = true, ['0' ... '9'] = true,
        ['A' ... 'Z'] = true, ['a' ... 'z'] = true,
    };
    return table[c];
}

static bool is_value_byte(uint8_t c)
{
    return c == '\t' || (c >= 0x20 && c != 0x7f);
}

bool parse_is_token(struct text text)
{
    for (size_t i = 0; i < text.length; i++) {
        if (!is_token_byte((uint8_t)text.data[i])) {
            return false;
        }
    }
    return text.length > 0;
}

/* Eight bytes that are certainly no control characters; false does not say that one is. */
static bool is_plain(const char *bytes)
{
    uint64_t word, deleted;
    memcpy(&word, bytes, sizeof(word));
    deleted = word ^ UINT64_C(0x7f7f7f7f7f7f7f7f);
    uint64_t below = (word - UINT64_C(0x2020202020202020)) & ~word;
    deleted = (deleted - UINT64_C(0x0101010101010101)) & ~deleted;
    return ((below | deleted) & UINT64_C(0x8080808080808080)) == 0;
}

bool parse_is_value(struct text text)
{
    size_t plain = 0;
    while (text.length - plain >= sizeof(uint64_t) && is_plain(text.data + plain)) {
        plain += sizeof(uint64_t);
    }
    for (size_t i = plain; i < text.length; i++) {
        if (!is_value_byte((uint8_t)text.data[i])) {
            return false;
        }
    }
    return true;
}

/* Offset behind the empty line that ends a head, or 0. */
static size_t find_end(const uint8_t *bytes, size_t length)
{
    const uint8_t *at = bytes;
    size_t left = length;
    while (left >= 4) {
        const uint8_t *found = memchr(at, '\r', left - 3);
        if (found == NULL) {
            return 0;
        }
        if (memcmp(found, "\r\n\r\n", 4) == 0) {
            return (size_t)(found - bytes) + 4;
        }
        left -= (size_t)(found - at) + 1;
        at = found + 1;
    }
    return 0;
}

/* Is `word` an element of the comma-separated list? */
static bool list_has(struct text list, const char *word)
{
    while (list.length > 0) {
        const char *comma = memchr(list.data, ',', list.length);
        size_t length = comma != NULL ? (size_t)(comma - list.data) : list.length;
        if (text_equal_ignoring_case(text_trim(text_of(list.data, length)), word)) {
            return true;
        }
        size_t used = comma != NULL ? length + 1 : length;
        list.data += used;
        list.length -= used;
    }
    return false;
}

/* The line at *at, which ends in CRLF; moves behind it.  False on a bare CR or LF. */
static bool take_line(const uint8_t **at, const uint8_t *end, struct text *ret_line)
{
    const uint8_t *stop = memchr(*at, '\n', (size_t)(end - *at));
    if (stop == NULL || stop == *at || stop[-1] != '\r') {
        return false;
    }
    *ret_line = text_of((const char *)*at, (size_t)(stop - *at) - 1);
    *at = stop + 1;
    return memchr(ret_line->data, '\r', ret_line->length) == NULL;
}

static int take_framing(struct parse_head *head, struct text name, struct text value)
{
    if (text_equal_ignoring_case(name, "content-length")) {
        uint64_t length = 0;
        if (head->has_length || value.length > 19 || !text_parse_u64(value, &length)) {
            return -400;
        }
        head->has_length = true;
        head->length = length;
    } else if (text_equal_ignoring_case(name, "transfer-encoding")) {
        if (head->is_chunked) {
            return -400;
        }
        if (!text_equal_ignoring_case(value, "chunked")) {
            return -501;
        }
        head->is_chunked = true;
    } else if (text_equal_ignoring_case(name, "connection")) {
        head->wants_close = head->wants_close || list_has(value, "close");
        head->wants_keep_alive = head->wants_keep_alive || list_has(value, "keep-alive");
    } else if (text_equal_ignoring_case(name, "expect")) {
        if (!text_equal_ignoring_case(value, "100-continue")) {
            return -417;
        }
        head->expects_continue = true;
    }
    return 0;
}

int parse_add_field(struct parse_head *head, struct text name, struct text value,
                    size_t field_count_max)
{
    if (!parse_is_token(name) || !parse_is_value(value)) {
        return -400;
    }
    if (head->field_count == field_count_max || head->field_count == PARSE_FIELDS_MAX) {
        return -431;
    }
    head->fields[head->field_count++] = (struct parse_field){name, value};
    return take_framing(head, name, value);
}

static int take_field(struct parse_head *head, struct text line, size_t field_count_max)
{
    const char *colon = memchr(line.data, ':', line.length);
    if (colon == NULL) {
        return -400; /* also obs-fold: a line that begins with a blank */
    }
    struct text name = text_of(line.data, (size_t)(colon - line.data));
    struct text value = text_trim(text_of(colon + 1, line.length - name.length - 1));
    return parse_add_field(head, name, value, field_count_max);
}

static int take_fields(struct parse_head *head, const uint8_t *at, const uint8_t *end,
                       const struct parse_limits *limits)
{
    for (;;) {
        struct text line;
        if (!take_line(&at, end, &line)) {
            return -400;
        }
        if (line.length == 0) {
            break;
        }
        int r = take_field(head, line, limits->field_count_max);
        if (r < 0) {
            return r;
        }
    }
    if (at != end || (head->has_length && head->is_chunked)) {
        return -400;
    }
    return 0;
}

/* "HTTP/1.x" */
static int take_version(struct text text, int *ret_minor)
{
    if (text.length != 8 || memcmp(text.data, "HTTP/", 5) != 0 || text.data[6] != '.' ||
        text.data[5] < '0' || text.data[5] > '9' || text.data[7] < '0' || text.data[7] > '9') {
        return -400;
    }
    if (text.data[5] != '1') {
        return -505;
    }
    *ret_minor = text.data[7] > '0' ? 1 : 0;
    return 0;
}

/* origin-form, absolute-form or asterisk-form (RFC 9112, 3.2); visible ASCII without '#'. */
bool parse_is_target(struct text target, struct text method)
{
    for (size_t i = 0; i < target.length; i++) {
        uint8_t c = (uint8_t)target.data[i];
        if (c <= 0x20 || c >= 0x7f || c == '#') {
            return false;
        }
    }
    if (target.length == 0) {
        return false;
    }
    bool is_star = text_equal(target, "*") && text_equal(method, "OPTIONS");
    bool is_absolute = (target.length > 7 && strncasecmp(target.data, "http://", 7) == 0) ||
        (target.length > 8 && strncasecmp(target.data, "https://", 8) == 0);
    return target.data[0] == '/' || is_star || is_absolute;
}

static int take_request_line(struct parse_head *head, struct text line, size_t target_bytes_max)
{
    const char *first = memchr(line.data, ' ', line.length);
    if (first == NULL) {
        return -400;
    }
    head->method = text_of(line.data, (size_t)(first - line.data));
    size_t left = line.length - head->method.length - 1;
    const char *second = memchr(first + 1, ' ', left);
    if (second == NULL) {
        return -400;
    }
    head->target = text_of(first + 1, (size_t)(second - first) - 1);
    int r = take_version(text_of(second + 1, left - head->target.length - 1), &head->minor);
    if (r < 0) {
        return r;
    }
    if (head->method.length > 32 || !parse_is_token(head->method) ||
        !parse_is_target(head->target, head->method)) {
        return -400;
    }
    return head->target.length > target_bytes_max ? -414 : 0;
}

/* Bytes of uri-host and port (RFC 9110, 7.2; RFC 3986, 3.2.2). */
bool parse_is_host(struct text value)
{
    static const char others[] = "-._~%!$&'()*+,;=:[]";
    for (size_t i = 0; i < value.length; i++) {
        uint8_t c = (uint8_t)value.data[i];
        bool is_plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!is_plain && (c == '\0' || strchr(others, c) == NULL)) {
            return false;
        }
    }
    return true;
}

struct text parse_authority(struct text target)
{
    if (target.length == 0 || target.data[0] == '/' || target.data[0] == '*') {
        return text_of(NULL, 0);
    }
    const char *colon = memchr(target.data, ':', target.length);
    CHECK(colon != NULL);
    const char *start = colon + 3;
    const char *end = target.data + target.length;
    const char *stop = start;
    while (stop < end && *stop != '/' && *stop != '?') {
        stop++;
    }
    return text_of(start, (size_t)(stop - start));
}

/* Two of them, or one that differs from the target's, would have two readers see two hosts. */
static int check_host(const struct parse_head *head)
{
    struct text authority = parse_authority(head->target);
    bool is_absolute = authority.data != NULL;
    unsigned count = 0;
    if (is_absolute && (authority.length == 0 || !parse_is_host(authority))) {
        return -400;
    }
    for (size_t i = 0; i < head->field_count; i++) {
        struct text value = head->fields[i].value;
        if (!text_equal_ignoring_case(head->fields[i].name, "host")) {
            continue;
        }
        count++;
        bool differs = is_absolute &&
            (authority.length != value.length ||
             strncasecmp(authority.data, value.data, value.length) != 0);
        if (!parse_is_host(value) || differs) {
            return -400;
        }
    }
    return count > 1 || (count == 0 && head->minor >= 1) ? -400 : 0;
}

/* Reset all but the array of fields, which is large and overwritten. */
void parse_clear(struct parse_head *head)
{
    head->method = head->target = head->protocol = text_of(NULL, 0);
    head->status = head->minor = 0;
    head->field_count = 0;
    head->has_length = head->is_chunked = head->expects_continue = false;
    head->wants_close = head->wants_keep_alive = false;
    head->length = 0;
}

void parse_copy(const struct parse_head *head, struct parse_head *ret_copy)
{
    CHECK(head->field_count <= PARSE_FIELDS_MAX);
    memcpy(ret_copy, head,
           offsetof(struct parse_head, fields) + head->field_count * sizeof(head->fields[0]));
}

long parse_request(const uint8_t *bytes, size_t length, const struct parse_limits *limits,
                   struct parse_head *ret_head)
{
    size_t skipped = 0;
    /* One empty line before the request is forgiven (RFC 9112, 2.2). */
    if (length >= 2 && bytes[0] == '\r' && bytes[1] == '\n') {
        skipped = 2;
    }
    /* Looked at are the same bytes however many came with them: so is the verdict. */
    const uint8_t *at = bytes + skipped;
    size_t left = length - skipped;
    size_t seen = left < limits->head_bytes_max ? left : limits->head_bytes_max;
    size_t end = find_end(at, seen);
    if (end == 0) {
        if (left <= limits->head_bytes_max) {
            return 0;
        }
        return memchr(at, '\n', seen) == NULL ? -414 : -431;
    }
    const uint8_t *stop = at + end;
    struct text line;
    parse_clear(ret_head);
    if (!take_line(&at, stop, &line)) {
        return -400;
    }
    int r = take_request_line(ret_head, line, limits->target_bytes_max);
    if (r == 0) {
        r = take_fields(ret_head, at, stop, limits);
    }
    if (r == 0) {
        r = check_host(ret_head);
    }
    if (r == 0 && ret_head->is_chunked && ret_head->minor == 0) {
        r = -400; /* HTTP/1.0 has no codings: RFC 9112, 6.1 */
    }
    return r < 0 ? r : (long)(skipped + end);
}

long parse_answer(const uint8_t *bytes, size_t length, const struct parse_limits *limits,
                  struct parse_head *ret_head)
{
    size_t end = find_end(bytes, length < limits->head_bytes_max ? length : limits->head_bytes_max);
    if (end == 0) {
        return length > limits->head_bytes_max ? -431 : 0;
    }
    const uint8_t *at = bytes;
    struct text line;
    parse_clear(ret_head);
    if (!take_line(&at, bytes + end, &line) || line.length < 12 || line.data[8] != ' ' ||
        take_version(text_of(line.data, 8), &ret_head->minor) < 0) {
        return -400;
    }
    uint64_t status = 0;
    if (!text_parse_u64(text_of(line.data + 9, 3), &status) || status < 100 ||
        (line.length > 12 && line.data[12] != ' ') || !parse_is_value(line)) {
        return -400;
    }
    ret_head->status = (int)status;
    int r = take_fields(ret_head, at, bytes + end, limits);
    if (r == 0 && ret_head->is_chunked && ret_head->minor == 0) {
        r = -400;
    }
    return r < 0 ? r : (long)end;
}

struct text parse_find(const struct parse_head *head, const char *name)
{
    for (size_t i = 0; i < head->field_count; i++) {
        if (text_equal_ignoring_case(head->fields[i].name, name)) {
            return head->fields[i].value;
        }
    }
    return text_of(NULL, 0);
}

/* ---- Chunks ---- */

enum chunk_state {
    CHUNK_SIZE,
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_TRAILER_START,
    CHUNK_TRAILER_NAME,
    CHUNK_TRAILER_VALUE,
    CHUNK_TRAILER_LF,
    CHUNK_END_LF,
    CHUNK_DONE,
};

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Extensions mean nothing to us, but have a name each, and quotes that end. */
static int step_extension(struct parse_chunks *chunks, uint8_t c)
{
    uint8_t before = chunks->before;
    chunks->before = chunks->is_quoted && before == '\\' ? 0 : c;
    if (chunks->is_quoted) {
        chunks->is_quoted = c != '"' || before == '\\';
        return is_value_byte(c) ? CHUNK_EXTENSION : -1;
    }
    if (before == ';' && (c == ';' || c == '\r')) {
        return -1;
    }
    chunks->is_quoted = c == '"';
    return c == '\r' ? CHUNK_SIZE_LF : is_value_byte(c) ? CHUNK_EXTENSION : -1;
}

/* The next state for a byte outside the data, or -1. */
static int step(struct parse_chunks *chunks, uint8_t c)
{
    int digit = hex_digit(c);
    switch ((enum chunk_state)chunks->state) {
    case CHUNK_SIZE:
        if (digit >= 0 && chunks->digits < CHUNK_DIGITS_MAX) {
            chunks->left = chunks->left * 16 + (uint64_t)digit;
            chunks->digits++;
            return CHUNK_SIZE;
        }
        if (digit >= 0 || chunks->digits == 0) {
            return -1;
        }
        chunks->before = c;
        return c == '\r' ? CHUNK_SIZE_LF : c == ';' ? CHUNK_EXTENSION : -1;
    case CHUNK_EXTENSION:
        chunks->trailer++;
        return step_extension(chunks, c);
    case CHUNK_SIZE_LF:
        chunks->digits = 0;
        return c != '\n' ? -1 : chunks->left > 0 ? CHUNK_DATA : CHUNK_TRAILER_START;
    case CHUNK_DATA_CR:
        return c == '\r' ? CHUNK_DATA_LF : -1;
    case CHUNK_DATA_LF:
        return c == '\n' ? CHUNK_SIZE : -1;
    case CHUNK_TRAILER_START:
        chunks->trailer++;
        return c == '\r' ? CHUNK_END_LF : is_token_byte(c) ? CHUNK_TRAILER_NAME : -1;
    case CHUNK_TRAILER_NAME:
        chunks->trailer++;
        return c == ':' ? CHUNK_TRAILER_VALUE : is_token_byte(c) ? CHUNK_TRAILER_NAME : -1;
    case CHUNK_TRAILER_VALUE:
        chunks->trailer++;
        return c == '\r' ? CHUNK_TRAILER_LF : is_value_byte(c) ? CHUNK_TRAILER_VALUE : -1;
    case CHUNK_TRAILER_LF:
        return c == '\n' ? CHUNK_TRAILER_START : -1;
    case CHUNK_END_LF:
        return c == '\n' ? CHUNK_DONE : -1;
    case CHUNK_DATA:
    case CHUNK_DONE:
        break;
    }
    return -1;
}

int parse_chunk(struct parse_chunks *chunks, const uint8_t *bytes, size_t length, size_t *ret_used,
                struct text *ret_data)
{
    size_t used = 0;
    *ret_data = text_of(NULL, 0);
    while (used < length && chunks->state != CHUNK_DONE) {
        if (chunks->state == CHUNK_DATA) {
            size_t left = length - used;
            size_t part = chunks->left < left ? (size_t)chunks->left : left;
            *ret_data = text_of((const char *)bytes + used, part);
            chunks->left -= part;
            used += part;
            if (chunks->left == 0) {
                chunks->state = CHUNK_DATA_CR;
            }
            break;
        }
        int next = step(chunks, bytes[used++]);
        if (next < 0 || chunks->trailer > TRAILER_BYTES_MAX) {
            *ret_used = used;
            return -1;
        }
        chunks->state = next;
    }
    *ret_used = used;
    return chunks->state == CHUNK_DONE ? 1 : 0;
}
