/* The head of an uploaded disk: reading ends whatever the bytes, and what is taken names no other
 * file of the host. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#include "engine/image/disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static bool is_zero(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] != 0) {
            return false;
        }
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    enum { BACKING = 8, BACKING_BYTES = 8, CRYPT = 32, CRYPT_BYTES = 4 };
    struct disk_image image = {0};
    struct error err = {0};
    if (disk_image_parse(bytes, length, length, &image, &err) < 0) {
        return 0;
    }
    bool is_qcow2 = length >= 4 && memcmp(bytes, "QFI\xfb", 4) == 0;
    bool is_alone = !is_qcow2 ||
        (is_zero(bytes + BACKING, BACKING_BYTES) && is_zero(bytes + CRYPT, CRYPT_BYTES));
    if (!is_alone || image.size_bytes == 0 || (strcmp(image.format, "qcow2") == 0) != is_qcow2) {
        abort();
    }
    return 0;
}
