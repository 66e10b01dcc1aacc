/*
 * A DHCP request, as any machine may send it.
 *
 * Claims: no byte outside is read; an answer fits, ends, and goes to all or to the machine that the
 * table has.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#include "engine/net/dhcp_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool find(const uint8_t mac[NET_MAC_SIZE], struct net_lease *ret_lease, void *context)
{
    (void)context;
    *ret_lease = (struct net_lease){
        .address = 0x0a4d0007, .prefix = 24, .router = 0x0a4d0001, .dns = 0x0a4d0001, .mtu = 1450};
    memset(ret_lease->hostname, 'h', sizeof(ret_lease->hostname)); /* the longest, without an end */
    memset(ret_lease->domain, 'd', sizeof(ret_lease->domain));
    return mac[0] != 0xff;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct net_dhcp_options options = {.bridge = "bx0", .address = 0x0a4d0001, .find = find};
    struct dhcp_answer answer;
    uint8_t *copy = malloc(size + (size == 0)); /* exactly as long: what is behind is noticed */
    memcpy(copy, data, size);
    if (dhcp_answer(&options, copy, size, &answer)) {
        CHECK(answer.length >= 300 && answer.length <= sizeof(answer.bytes));
        CHECK(memchr(answer.bytes + 240, 255, answer.length - 240) != NULL);
        CHECK(answer.to == UINT32_MAX || answer.to == 0x0a4d0007);
        CHECK_IMPLIES(answer.needs_entry, answer.to == 0x0a4d0007);
    }
    free(copy);
    return 0;
}
