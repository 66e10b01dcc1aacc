#include "base/random.h"

#include <errno.h>
#include <sys/random.h>

#include "base/check.h"

void random_bytes(void *ret_bytes, size_t length)
{
    uint8_t *at = ret_bytes;
    while (length > 0) {
        ssize_t got = getrandom(at, length, 0);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        CHECK(got > 0);
        at += got;
        length -= (size_t)got;
    }
}

uint64_t random_u64(void)
{
    uint64_t value = 0;
    random_bytes(&value, sizeof(value));
    return value;
}

void random_hex(char *ret_text, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    uint8_t bytes[16];
    for (size_t i = 0; i < length; i++) {
        size_t at = i / 2 % sizeof(bytes);
        if (i % (2 * sizeof(bytes)) == 0) { /* a system call for many digits */
            random_bytes(bytes, sizeof(bytes));
        }
        ret_text[i] = digits[i % 2 == 0 ? bytes[at] >> 4 : bytes[at] & 15];
    }
    ret_text[length] = '\0';
}
