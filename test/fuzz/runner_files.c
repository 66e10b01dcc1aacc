/* The texts that a runner of machines brings: taps, macvtaps, flags, an address, lines. */
#include <string.h>

#include "base/check.h"
#include "base/error.h"

#include "engine/hypervisor/hypervisor.h"
#include "engine/hypervisor/runner.h"
#include "engine/net/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct hypervisor_runner runner;
    struct error err = {0};
    char line[HYPERVISOR_RUNNER_TEXT_SIZE];
    const char *text = (const char *)data;
    if (runner_parse_taps(text, size, &runner, &err) == 0) {
        CHECK(runner.tap_count <= HYPERVISOR_NICS_MAX);
        for (size_t i = 0; i < runner.tap_count; i++) {
            CHECK(net_name_is_valid(runner.taps[i]));
        }
    }
    if (runner_parse_macvtaps(text, size, &runner, &err) == 0) {
        CHECK(runner.macvtap_count <= HYPERVISOR_NICS_MAX);
        for (size_t i = 0; i < runner.macvtap_count; i++) {
            CHECK(net_macvtap_mode_is_valid(runner.macvtaps[i].mode));
        }
    }
    if (runner_parse_cid(text, size, &runner, &err) == 0) {
        CHECK(runner.vsock_cid == 0 || runner.vsock_cid >= 3);
    }
    if (runner_parse_line(text, size, "it", line, sizeof(line), &err) == 0) {
        CHECK(line[0] != '\0' && strpbrk(line, "\n \"\\") == NULL);
    }
    runner_has_queues(text, size);
    return 0;
}
