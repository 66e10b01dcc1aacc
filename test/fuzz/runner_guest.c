/* The program of a runner, whose guest becomes an image. */
#include <string.h>

#include "base/check.h"
#include "base/error.h"

#include "engine/image/guest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct guest guest = {0};
    struct error err = {0};
    if (guest_parse((const char *)data, size, &guest, &err) == 0) {
        CHECK(guest.kernel[0] == '/' && guest.initrd[0] == '/');
        CHECK(strlen(guest.words) <= GUEST_WORDS_MAX);
        CHECK(guest.root == NULL || guest.root[0] == '/');
    }
    guest_done(&guest);
    return 0;
}
