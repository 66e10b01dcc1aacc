/* Lines of a VMM, and kernels that somebody gives us. */
#include "engine/hypervisor/qmp.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/error.h"

#include "engine/image/initrd.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    enum qmp_kind kind = QMP_GREETING;
    json_t *message = NULL;
    BUFFER_OWNED struct buffer kernel = {0};
    struct error err = {0};
    char version[64];
    if (qmp_parse((const char *)bytes, length, &kind, &message, &err) == 0) {
        if (kind == QMP_EVENT && !json_is_string(json_object_get(message, "event"))) {
            abort();
        }
        json_decref(message);
    }
    if (kernel_unpack(bytes, length, &kernel, &err) < 0 && kernel.used > UINT32_MAX) {
        abort();
    }
    kernel_version(bytes, length, version, sizeof(version));
    return 0;
}
