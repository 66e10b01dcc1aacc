/* What a USB device says of itself, and what is asked for. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/memory.h"

#include "engine/device/parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct device_ask ask = {0};
    struct error err = {0};
    struct usb_interfaces found =
        usb_read_descriptors(bytes, length, length > 11 ? bytes[8] | bytes[9] << 8 : 0);
    MEMORY_OWNED char *text = memory_copy_text((const char *)bytes, length);
    MEMORY_OWNED char *class_name = memory_format("usb:%s", found.name);
    if (!usb_is_class(class_name) || (found.is_disk && strcmp(found.name, "other") == 0)) {
        abort();
    }
    if (device_ask_parse(text, &ask, &err) == 0 && ask.count == 0) {
        abort();
    }
    return 0;
}
