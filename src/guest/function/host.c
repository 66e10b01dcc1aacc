/*
 * blixard_v1: what functions import to ask who runs them (engine/vmm/hostcall.h).
 *
 * Addresses are the module's and may be wild: what is not the module's memory is a trap.  Results
 * are lengths or numbers, or negative: an error, of which error_message() has the text.  A result
 * that is longer than its buffer is cut off there; reply_read() has the rest until the next
 * question.
 */
#include <stdbool.h>
#include <string.h>

#include "engine/vmm/hostcall.h"

#include "guest.h"

typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef struct blixard_instance *instance;

#define HOST(name) Z_blixard_v1Z_##name

/* ---- Questions ---- */

struct question {
    struct abi_host host;
    u32 operation;
    u32 count;
    u32 lengths[HOSTCALL_PARTS_MAX];
    u64 numbers[HOSTCALL_PARTS_MAX];
};

static struct hostcall_reply last; /* the head of the last reply */
static u32 last_length;            /* of what is behind it */
static const char *own_message;    /* of an error that never reached the host */

static void begin(struct question *question, enum hostcall operation)
{
    question->operation = (u32)operation;
    question->count = 0;
}

static void put_bytes(struct question *question, const void *bytes, u64 length)
{
    question->lengths[question->count] = (u32)length;
    question->host.send[1 + question->count] = (struct abi_part){(u64)bytes, length};
    question->count++;
}

static void put(struct question *question, u32 at, u32 length)
{
    put_bytes(question, MEMORY + (u64)at, length);
}

static void put_number(struct question *question, u64 number)
{
    u64 *kept = &question->numbers[question->count];
    *kept = number;
    put_bytes(question, kept, sizeof(*kept));
}

static i32 fail(i32 status, const char *message)
{
    last = (struct hostcall_reply){.status = status};
    last_length = 0;
    own_message = message;
    return status;
}

/* The length of the reply, of which what fits is at `at`; or an error. */
static i32 ask(struct question *question, u32 at, u32 size)
{
    struct abi_host *host = &question->host;
    own_message = NULL;
    host->send_count = 1 + question->count;
    host->send[0] = (struct abi_part){(u64)&question->operation, 8 + 4 * (u64)question->count};
    host->receive_count = size > 0 ? 2 : 1;
    host->receive[0] = (struct abi_part){(u64)&last, sizeof(last)};
    host->receive[1] = (struct abi_part){(u64)(MEMORY + (u64)at), size};
    int64_t length = (int64_t)host_call(ABI_CALL_HOST, (u64)host, 0, 0);
    if (length == ABI_HOST_EARLY) {
        return fail(HOSTCALL_EPERM,
                    "the host can be asked once a request is there, not during initialisation");
    }
    if (length == ABI_HOST_TOO_LARGE) {
        return fail(HOSTCALL_EMSGSIZE, "a request or a reply of more than 1 MiB");
    }
    if (length < (int64_t)sizeof(last)) {
        return fail(HOSTCALL_ENOSYS, "nobody answers where this function runs");
    }
    last_length = (u32)((u64)length - sizeof(last));
    if (last.status != 0) {
        return last.status < 0 ? last.status : HOSTCALL_EPROTO;
    }
    return (i32)last_length;
}

/* The same for a reply that is a number; `at` 0: it is not wanted. */
static i32 ask_number(struct question *question, u32 at)
{
    i32 result = ask(question, 0, 0);
    if (result >= 0 && at != 0) {
        memcpy(MEMORY + (u64)at, &last.number, sizeof(last.number));
    }
    return result < 0 ? result : 0;
}

u32 HOST(reply_read)(instance i, u32 from, u32 at, u32 size)
{
    (void)i;
    return (u32)host_call(ABI_CALL_HOST_MORE, (u64)(MEMORY + (u64)at), size,
                          sizeof(last) + (u64)from);
}

u32 HOST(error_message)(instance i, u32 at, u32 size)
{
    if (own_message != NULL) {
        u32 length = 0;
        while (own_message[length] != '\0') {
            length++;
        }
        memcpy(MEMORY + (u64)at, own_message, length < size ? length : size);
        return length;
    }
    if (last.status == 0) {
        return 0;
    }
    HOST(reply_read)(i, 0, at, size);
    return last_length;
}

u32 HOST(flush)(instance i)
{
    (void)i;
    struct question question;
    io_flush_output();
    begin(&question, HOSTCALL_FLUSH);
    return (u32)ask(&question, 0, 0);
}

/* ---- Log: a line of standard error, by itself; fields are `key=value` as in logfmt ---- */

static bool is_plain(u32 at, u32 length)
{
    for (u32 k = 0; k < length; k++) {
        uint8_t byte = MEMORY[(u64)at + k];
        if (byte <= ' ' || byte == '"' || byte == '=' || byte == '\\' || byte == 0x7f) {
            return false;
        }
    }
    return length > 0;
}

static void write_byte(uint8_t byte)
{
    io_write_log(&byte, 1);
}

/* One line stays one line. */
static void write_text(u32 at, u32 length, bool is_quoted)
{
    for (u32 k = 0; k < length; k++) {
        uint8_t byte = MEMORY[(u64)at + k];
        if (byte == '\n' || (is_quoted && (byte == '"' || byte == '\\'))) {
            write_byte('\\');
            byte = byte == '\n' ? 'n' : byte;
        }
        write_byte(byte < ' ' && byte != '\t' ? ' ' : byte);
    }
}

static u32 length_to_nul(u32 at, u32 left)
{
    u32 length = 0;
    while (length < left && MEMORY[(u64)at + length] != 0) {
        length++;
    }
    return length;
}

/* `fields`: name, NUL, value, NUL, again and again. */
static void write_fields(u32 at, u32 left)
{
    while (left > 0) {
        u32 name = length_to_nul(at, left);
        u32 after = name < left ? name + 1 : name;
        u32 value = length_to_nul(at + after, left - after);
        u32 used = after + value < left ? after + value + 1 : left;
        write_byte(' ');
        write_text(at, name, false);
        write_byte('=');
        bool is_quoted = !is_plain(at + after, value);
        if (is_quoted) {
            write_byte('"');
        }
        write_text(at + after, value, is_quoted);
        if (is_quoted) {
            write_byte('"');
        }
        at += used;
        left -= used;
    }
}

u32 HOST(log)(instance i, u32 level, u32 text, u32 length, u32 fields, u32 fields_length)
{
    (void)i;
    enum { LINE_MAX = 65536 };
    if (level > 7) {
        return (u32)fail(HOSTCALL_EINVAL, "a level is 0 (emergency) to 7 (debug)");
    }
    if (length > LINE_MAX || fields_length > LINE_MAX) {
        return (u32)fail(HOSTCALL_EMSGSIZE, "a line of the log has at most 64 KiB");
    }
    write_byte('<');
    write_byte((uint8_t)('0' + level));
    write_byte('>');
    write_text(text, length, false);
    write_fields(fields, fields_length);
    write_byte('\n');
    return 0;
}

/* ---- The call itself ---- */

u64 HOST(deadline_ms)(instance i)
{
    (void)i;
    u64 now_ns = io_clock_ns(1);
    u64 deadline_ns = BLOCK->deadline_ns;
    return deadline_ns > now_ns ? (deadline_ns - now_ns) / 1000000 : 0;
}

u32 HOST(metadata)(instance i, u32 which, u32 at, u32 size)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_METADATA);
    put_number(&question, which);
    return (u32)ask(&question, at, size);
}

u32 HOST(span_begin)(instance i, u32 name, u32 length)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_SPAN_BEGIN);
    put(&question, name, length);
    i32 result = ask(&question, 0, 0);
    return result < 0 ? (u32)result : (u32)last.number;
}

u32 HOST(span_attribute)(instance i, u32 span, u32 name, u32 name_length, u32 value,
                         u32 value_length)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_SPAN_ATTRIBUTE);
    put_number(&question, span);
    put(&question, name, name_length);
    put(&question, value, value_length);
    return (u32)ask_number(&question, 0);
}

u32 HOST(span_end)(instance i, u32 span, u32 failure, u32 length)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_SPAN_END);
    put_number(&question, span);
    put(&question, failure, length);
    return (u32)ask_number(&question, 0);
}

/* ---- Keys and values ---- */

u32 HOST(kv_get)(instance i, u32 key, u32 key_length, u32 at, u32 size, u32 revision)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_KV_GET);
    put(&question, key, key_length);
    i32 result = ask(&question, at, size);
    if (result >= 0 && revision != 0) {
        memcpy(MEMORY + (u64)revision, &last.number, sizeof(last.number));
    }
    return (u32)result;
}

u32 HOST(kv_set)(instance i, u32 key, u32 key_length, u32 value, u32 length, u64 ttl_ms,
                 u32 revision)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_KV_SET);
    put(&question, key, key_length);
    put(&question, value, length);
    put_number(&question, ttl_ms);
    return (u32)ask_number(&question, revision);
}

u32 HOST(kv_cas)(instance i, u32 key, u32 key_length, u32 value, u32 length, u64 ttl_ms,
                 u64 expected, u32 revision)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_KV_CAS);
    put(&question, key, key_length);
    put(&question, value, length);
    put_number(&question, ttl_ms);
    put_number(&question, expected);
    return (u32)ask_number(&question, revision);
}

u32 HOST(kv_delete)(instance i, u32 key, u32 key_length, u64 expected)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_KV_DELETE);
    put(&question, key, key_length);
    put_number(&question, expected);
    return (u32)ask_number(&question, 0);
}

u32 HOST(kv_list)(instance i, u32 prefix, u32 prefix_length, u32 after, u32 after_length, u32 max,
                  u32 at, u32 size)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_KV_LIST);
    put(&question, prefix, prefix_length);
    put(&question, after, after_length);
    put_number(&question, max);
    return (u32)ask(&question, at, size);
}

/* ---- Secrets ---- */

u32 HOST(secret_get)(instance i, u32 name, u32 name_length, u32 at, u32 size)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_SECRET_GET);
    put(&question, name, name_length);
    return (u32)ask(&question, at, size);
}

/* ---- Others ---- */

u32 HOST(invoke)(instance i, u32 name, u32 name_length, u32 method, u32 method_length, u32 path,
                 u32 path_length, u32 fields, u32 fields_length, u32 body, u32 length,
                 u32 timeout_ms, u32 at, u32 size)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_INVOKE);
    put(&question, name, name_length);
    put(&question, method, method_length);
    put(&question, path, path_length);
    put(&question, fields, fields_length);
    put(&question, body, length);
    put_number(&question, timeout_ms);
    return (u32)ask(&question, at, size);
}

/* ---- Elsewhere ---- */

/* The number of the reply, where it is wanted. */
static u32 give_number(i32 result, u32 at)
{
    u32 number = (u32)last.number;
    if (result >= 0 && at != 0) {
        memcpy(MEMORY + (u64)at, &number, sizeof(number));
    }
    return (u32)result;
}

/* The length of the response, or, when it is for later, its number. */
u32 HOST(fetch)(instance i, u32 method, u32 method_length, u32 url, u32 url_length, u32 fields,
                u32 fields_length, u32 body, u32 length, u32 timeout_ms, u32 how, u32 at, u32 size,
                u32 which)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_FETCH);
    put(&question, method, method_length);
    put(&question, url, url_length);
    put(&question, fields, fields_length);
    put(&question, body, length);
    put_number(&question, timeout_ms);
    put_number(&question, how);
    i32 result = ask(&question, at, size);
    return result >= 0 && (how & HOSTCALL_FETCH_LATER) != 0 ? (u32)last.number
                                                            : give_number(result, which);
}

u32 HOST(fetch_wait)(instance i, u32 among, u32 most_ms)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_FETCH_WAIT);
    put_number(&question, among);
    put_number(&question, most_ms);
    i32 result = ask(&question, 0, 0);
    return result < 0 ? (u32)result : (u32)last.number;
}

u32 HOST(fetch_take)(instance i, u32 which, u32 at, u32 size, u32 rest)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_FETCH_TAKE);
    put_number(&question, which);
    return give_number(ask(&question, at, size), rest);
}

/* No more is asked for than there is room: nothing is left for reply_read(). */
u32 HOST(fetch_read)(instance i, u32 which, u32 at, u32 size)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_FETCH_READ);
    put_number(&question, which);
    put_number(&question, size);
    return (u32)ask(&question, at, size);
}

u32 HOST(fetch_close)(instance i, u32 which)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_FETCH_CLOSE);
    put_number(&question, which);
    return (u32)ask(&question, 0, 0);
}

u32 HOST(queue_send)(instance i, u32 queue, u32 queue_length, u32 body, u32 length, u32 type,
                     u32 type_length, u32 attributes, u32 attributes_length, u32 group,
                     u32 group_length, u64 delay_ms, u32 priority, u32 at, u32 size)
{
    (void)i;
    struct question question;
    begin(&question, HOSTCALL_QUEUE_SEND);
    put(&question, queue, queue_length);
    put(&question, body, length);
    put(&question, type, type_length);
    put(&question, attributes, attributes_length);
    put(&question, group, group_length);
    put_number(&question, delay_ms);
    put_number(&question, priority);
    return (u32)ask(&question, at, size);
}

/* The partition; the sequence goes to where it is wanted. */
u32 HOST(stream_append)(instance i, u32 stream, u32 stream_length, u32 key, u32 key_length,
                        u32 body, u32 length, u32 type, u32 type_length, u32 attributes,
                        u32 attributes_length, u32 sequence)
{
    (void)i;
    struct question question;
    u32 partition = 0;
    begin(&question, HOSTCALL_STREAM_APPEND);
    put(&question, stream, stream_length);
    put(&question, key, key_length);
    put(&question, body, length);
    put(&question, type, type_length);
    put(&question, attributes, attributes_length);
    i32 result = ask_number(&question, sequence);
    if (result < 0) {
        return (u32)result;
    }
    host_call(ABI_CALL_HOST_MORE, (u64)&partition, sizeof(partition), sizeof(last));
    return partition;
}
