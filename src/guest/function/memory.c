/*
 * The C library's memory functions, for the runtime and for what wasm2c writes.  Built without
 * -fbuiltin so that none of them is turned into a call of itself.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

void *memcpy(void *to, const void *from, size_t length)
{
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
    return result;
}

void *memset(void *to, int value, size_t length)
{
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(value) : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t length)
{
    uint8_t *target = to;
    const uint8_t *source = from;
    if (target <= source || target >= source + length) {
        return memcpy(to, from, length);
    }
    while (length >= 8) {
        uint64_t word;
        length -= 8;
        __builtin_memcpy(&word, source + length, 8);
        __builtin_memcpy(target + length, &word, 8);
    }
    while (length > 0) {
        length--;
        ((volatile uint8_t *)target)[length] = source[length];
    }
    return to;
}

int memcmp(const void *a, const void *b, size_t length)
{
    const volatile uint8_t *left = a;
    const volatile uint8_t *right = b;
    for (size_t i = 0; i < length; i++) {
        if (left[i] != right[i]) {
            return left[i] - right[i];
        }
    }
    return 0;
}
