#include "engine/store/command.h"

#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

struct store_command *store_command_new(void)
{
    return NEW(struct store_command);
}

void store_command_free(struct store_command *command)
{
    if (command != NULL) {
        buffer_done(&command->bytes);
        free(command);
    }
}

static void put_bytes(struct buffer *out, const void *bytes, size_t length)
{
    CHECK(length <= UINT32_MAX);
    buffer_append_u32(out, (uint32_t)length);
    buffer_append(out, bytes, length);
}

static void put_double(struct buffer *out, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    buffer_append_u64(out, bits);
}

static void put_parameters(struct buffer *out, const char *types, va_list arguments)
{
    buffer_append_byte(out, (uint8_t)strlen(types));
    for (const char *type = types; *type != '\0'; type++) {
        const char *text = NULL;
        const void *bytes = NULL;
        switch (*type) {
        case 'i':
            buffer_append_byte(out, 'i');
            buffer_append_u64(out, (uint64_t)va_arg(arguments, int64_t));
            break;
        case 'u':
            buffer_append_byte(out, 'i');
            buffer_append_u64(out, va_arg(arguments, uint64_t));
            break;
        case 'd':
            buffer_append_byte(out, 'd');
            put_double(out, va_arg(arguments, double));
            break;
        case 't':
            text = va_arg(arguments, const char *);
            buffer_append_byte(out, text != NULL ? 't' : 'n');
            if (text != NULL) {
                put_bytes(out, text, strlen(text));
            }
            break;
        case 'b':
            bytes = va_arg(arguments, const void *);
            buffer_append_byte(out, 'b');
            put_bytes(out, bytes, va_arg(arguments, size_t));
            break;
        case 'r':
            buffer_append_byte(out, 'r');
            break;
        default:
            CHECK_UNREACHABLE();
        }
    }
}

static void add(struct store_command *command, int kind, const char *text, const char *sql,
                const char *types, va_list arguments)
{
    buffer_append_byte(&command->bytes, (uint8_t)kind);
    put_bytes(&command->bytes, text, strlen(text));
    put_bytes(&command->bytes, sql, strlen(sql));
    put_parameters(&command->bytes, types, arguments);
    command->statements++;
}

void store_command_add(struct store_command *command, const char *sql, const char *types, ...)
{
    va_list arguments;
    va_start(arguments, types);
    add(command, ERROR_NONE, "", sql, types, arguments);
    va_end(arguments);
}

void store_command_add_expecting(struct store_command *command, int kind, const char *text,
                                 const char *sql, const char *types, ...)
{
    CHECK(kind > ERROR_NONE && kind < ERROR_KIND_COUNT && kind != ERROR_CORRUPT);
    va_list arguments;
    va_start(arguments, types);
    add(command, kind, text, sql, types, arguments);
    va_end(arguments);
}

int command_bind(sqlite3_stmt *statement, const char *types, va_list arguments)
{
    int index = 0;
    int r = SQLITE_OK;
    for (const char *type = types; *type != '\0' && r == SQLITE_OK; type++) {
        index++;
        const char *text = NULL;
        const void *bytes = NULL;
        switch (*type) {
        case 'i':
            r = sqlite3_bind_int64(statement, index, va_arg(arguments, int64_t));
            break;
        case 'u':
            r = sqlite3_bind_int64(statement, index, (int64_t)va_arg(arguments, uint64_t));
            break;
        case 'd':
            r = sqlite3_bind_double(statement, index, va_arg(arguments, double));
            break;
        case 't':
            text = va_arg(arguments, const char *);
            r = text == NULL ? sqlite3_bind_null(statement, index)
                             : sqlite3_bind_text(statement, index, text, -1, SQLITE_TRANSIENT);
            break;
        case 'b':
            bytes = va_arg(arguments, const void *);
            r = sqlite3_bind_blob64(statement, index, bytes, va_arg(arguments, size_t),
                                    SQLITE_TRANSIENT);
            break;
        default:
            CHECK_UNREACHABLE();
        }
    }
    return r;
}

const uint8_t *command_read_bytes(struct command_reader *reader, uint32_t length)
{
    if ((size_t)(reader->end - reader->at) < length) {
        reader->is_bad = true;
        reader->at = reader->end;
        return reader->at;
    }
    const uint8_t *at = reader->at;
    reader->at += length;
    return at;
}

uint8_t command_read_u8(struct command_reader *reader)
{
    const uint8_t *at = command_read_bytes(reader, 1);
    return reader->is_bad ? 0 : *at;
}

uint32_t command_read_u32(struct command_reader *reader)
{
    uint32_t value = 0;
    const uint8_t *at = command_read_bytes(reader, sizeof(value));
    if (!reader->is_bad) {
        memcpy(&value, at, sizeof(value));
    }
    return value;
}

uint64_t command_read_u64(struct command_reader *reader)
{
    uint64_t value = 0;
    const uint8_t *at = command_read_bytes(reader, sizeof(value));
    if (!reader->is_bad) {
        memcpy(&value, at, sizeof(value));
    }
    return value;
}

static void skip_parameter(struct command_reader *reader)
{
    uint8_t type = command_read_u8(reader);
    if (type == 'i' || type == 'd') {
        command_read_u64(reader);
    } else if (type == 't' || type == 'b') {
        command_read_bytes(reader, command_read_u32(reader));
    } else if (type != 'r' && type != 'n') {
        reader->is_bad = true;
    }
}

static void skip_statement(struct command_reader *reader)
{
    command_read_u8(reader); /* a kind, perhaps one of a newer Blixard */
    command_read_bytes(reader, command_read_u32(reader));
    command_read_bytes(reader, command_read_u32(reader));
    unsigned count = command_read_u8(reader);
    for (unsigned i = 0; i < count && !reader->is_bad; i++) {
        skip_parameter(reader);
    }
}

bool command_is_whole(const uint8_t *bytes, size_t length)
{
    struct command_reader reader = {.at = bytes, .end = bytes + length};
    uint32_t statements = command_read_u32(&reader);
    for (uint32_t i = 0; i < statements && !reader.is_bad; i++) {
        skip_statement(&reader);
    }
    return !reader.is_bad && statements > 0 && reader.at == reader.end;
}
