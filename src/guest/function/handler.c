/*
 * The imports of sdk/c/blixard.h (module "blixard_v1").  A request is what a command sees (CGI
 * variables and standard input); a response is what a command prints (CGI head, empty line, body):
 * these functions only make both comfortable, and the head is written before the first body byte.
 * A wild address is a trap, as in wasi.c.
 */
#include <stdbool.h>
#include <string.h>

#include "guest.h"

#pragma GCC diagnostic ignored "-Wunused-parameter"
#define HANDLER(name) Z_blixard_v1Z_##name

typedef uint32_t u32;
typedef uint64_t u64;
typedef struct handler_instance *instance;

static size_t string_length(const char *string)
{
    size_t length = 0;
    while (string[length] != '\0') {
        length++;
    }
    return length;
}

enum { REFUSED = -1, HEAD_MAX = 8192, FIELD_MAX = 4096 };

static char head[HEAD_MAX];
static u32 head_length;
static u32 status = 200;
static bool head_is_begun;
static bool head_is_sent;

/* ---- The request ---- */

u32 HANDLER(request_get)(instance i, u32 name, u32 name_length, u32 value, u32 value_max)
{
    const char *strings = (const char *)BLOCK->text;
    const char *end = strings + BLOCK->environment_length;
    for (const char *at = strings; at < end; at += string_length(at) + 1) {
        u64 size = string_length(at);
        if (size > name_length && at[name_length] == '=' &&
            memcmp(at, MEMORY + name, name_length) == 0) {
            u64 found = size - name_length - 1;
            memcpy(MEMORY + value, at + name_length + 1, found < value_max ? found : value_max);
            return (u32)found;
        }
    }
    return (u32)REFUSED;
}

u32 HANDLER(request_read)(instance i, u32 bytes, u32 length)
{
    if (length > INT32_MAX) {
        return (u32)REFUSED;
    }
    return (u32)io_read(MEMORY + bytes, length);
}

/* ---- The response ---- */

u32 HANDLER(response_status)(instance i, u32 code)
{
    if (head_is_sent || code < 200 || code > 599) {
        return (u32)REFUSED;
    }
    status = code;
    head_is_begun = true;
    return 0;
}

/* RFC 9110, section 5.6.2. */
static bool is_token(const uint8_t *text, u32 length)
{
    for (u32 i = 0; i < length; i++) {
        uint8_t c = text[i];
        bool is_alphanumeric =
            (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!is_alphanumeric && c != '-' && c != '_' && c != '.' && c != '!' && c != '#' &&
            c != '$' && c != '%' && c != '&' && c != '\'' && c != '*' && c != '+' && c != '^' &&
            c != '`' && c != '|' && c != '~') {
            return false;
        }
    }
    return length > 0;
}

static bool is_field_value(const uint8_t *text, u32 length)
{
    for (u32 i = 0; i < length; i++) {
        if ((text[i] < ' ' && text[i] != '\t') || text[i] == 0x7f) {
            return false;
        }
    }
    return true;
}

static void head_append(const void *bytes, u32 length)
{
    memcpy(head + head_length, bytes, length);
    head_length += length;
}

u32 HANDLER(response_header)(instance i, u32 name, u32 name_length, u32 value, u32 value_length)
{
    if (head_is_sent || name_length > FIELD_MAX || value_length > FIELD_MAX ||
        name_length + value_length + 4 > HEAD_MAX - head_length ||
        !is_token(MEMORY + name, name_length) || !is_field_value(MEMORY + value, value_length)) {
        return (u32)REFUSED;
    }
    head_append(MEMORY + name, name_length);
    head_append(": ", 2);
    head_append(MEMORY + value, value_length);
    head_append("\r\n", 2);
    head_is_begun = true;
    return 0;
}

static void send_head(void)
{
    char line[] = "Status: 000\r\n";
    line[8] = (char)('0' + status / 100);
    line[9] = (char)('0' + status / 10 % 10);
    line[10] = (char)('0' + status % 10);
    io_write_output((const uint8_t *)line, sizeof(line) - 1);
    io_write_output((const uint8_t *)head, head_length);
    io_write_output((const uint8_t *)"\r\n", 2);
    head_is_sent = true;
}

u32 HANDLER(response_write)(instance i, u32 bytes, u32 length)
{
    if (!head_is_sent) {
        send_head();
    }
    io_write_output(MEMORY + bytes, length);
    return 0;
}

void handler_end(void)
{
    if (head_is_begun && !head_is_sent) {
        send_head();
    }
}

/* ---- The rest ---- */

/* A line of the log with its level in front, "<3>" and so on: sd-daemon(3). */
void HANDLER(log)(instance i, u32 level, u32 text, u32 length)
{
    char prefix[] = "<6>";
    prefix[1] = (char)('0' + (level <= 7 ? level : 7));
    io_write_log((const uint8_t *)prefix, sizeof(prefix) - 1);
    io_write_log(MEMORY + text, length);
    io_write_log((const uint8_t *)"\n", 1);
}

u64 HANDLER(deadline_ms)(instance i)
{
    u64 now_ns = io_clock_ns(1);
    u64 deadline_ns = BLOCK->deadline_ns;
    return now_ns < deadline_ns ? (deadline_ns - now_ns) / 1000000 : 0;
}
