#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"

void *memory_new(size_t count, size_t size_bytes)
{
    void *memory = calloc(count > 0 ? count : 1, size_bytes > 0 ? size_bytes : 1);
    CHECK(memory != NULL);
    return memory;
}

void *memory_try(size_t size_bytes)
{
    return calloc(1, size_bytes > 0 ? size_bytes : 1);
}

void *memory_resize(void *memory, size_t size_bytes)
{
    void *resized = realloc(memory, size_bytes > 0 ? size_bytes : 1);
    CHECK(resized != NULL);
    return resized;
}

char *memory_copy_string(const char *string)
{
    return memory_copy_text(string, strlen(string));
}

char *memory_copy_text(const char *text, size_t length)
{
    char *copy = memory_new(1, length + 1);
    memcpy(copy, text, length);
    return copy;
}

char *memory_format(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = NULL;
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    CHECK(length >= 0);
    return text;
}
