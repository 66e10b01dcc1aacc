/*
 * A DNS query, as any machine may send it, and what the host's resolver makes of it.
 *
 * Claims: no byte outside is read; a name ends; what is answered fits, and repeats the question; a
 * query is no answer to itself.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#include "engine/net/dns_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t find(const char *name, uint32_t *ret_addresses, void *context)
{
    (void)context;
    memset(ret_addresses, 10, NET_DNS_ADDRESSES_MAX * sizeof(*ret_addresses));
    return strlen(name) % (NET_DNS_ADDRESSES_MAX + 1);
}

static bool find_name(uint32_t address, char ret_name[NET_DNS_NAME_SIZE], void *context)
{
    (void)context;
    memset(ret_name, 'a', NET_DNS_NAME_SIZE - 1);
    ret_name[NET_DNS_NAME_SIZE - 1] = '\0';
    for (uint32_t i = address % 64 + 1; i < NET_DNS_NAME_SIZE - 1; i += address % 64 + 2) {
        ret_name[i] = '.';
    }
    return true;
}

static void read_resolvers(const uint8_t *data, size_t size)
{
    char resolvers[3][46];
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';
    size_t count = dns_read_resolvers(text, resolvers, 3);
    CHECK(count <= 3);
    for (size_t i = 0; i < count; i++) {
        CHECK(memchr(resolvers[i], 0, sizeof(resolvers[i])) != NULL);
    }
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct net_dns_options options = {.find = find, .find_name = find_name};
    struct dns_question question;
    enum dns_code code;
    uint8_t bytes[DNS_ANSWER_MAX];
    size_t length = 0;
    uint8_t *copy = malloc(size + (size == 0));
    memcpy(copy, data, size);
    if (dns_read_query(copy, size, &question, &code)) {
        CHECK(memchr(question.name, 0, sizeof(question.name)) != NULL);
        CHECK(!dns_is_answer(copy, &question, copy, size));
        if (dns_answer(&options, copy, &question, bytes, &length) == DNS_ANSWERED) {
            CHECK(length >= question.length && length <= sizeof(bytes));
            CHECK(dns_is_answer(copy, &question, bytes, length));
        }
    }
    free(copy);
    read_resolvers(data, size);
    return 0;
}
