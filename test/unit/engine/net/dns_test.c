/* What is answered to questions about names. */
#include <string.h>

#include "engine/net/dns_message.h"

#include "../../../lib/test.h"

static size_t find(const char *name, uint32_t *ret_addresses, void *context)
{
    (void)context;
    if (strcmp(name, "web.blue") == 0) {
        ret_addresses[0] = 0x0a4d0007;
        ret_addresses[1] = 0x0a4d0008;
        return 2;
    }
    if (strcmp(name, "many") == 0) {
        for (size_t i = 0; i < NET_DNS_ADDRESSES_MAX; i++) {
            ret_addresses[i] = 0x0a000000 + (uint32_t)i;
        }
        return NET_DNS_ADDRESSES_MAX;
    }
    return 0;
}

static bool find_name(uint32_t address, char ret_name[NET_DNS_NAME_SIZE], void *context)
{
    (void)context;
    snprintf(ret_name, NET_DNS_NAME_SIZE, "web.blue.vm.internal");
    return address == 0x0a4d0007;
}

static const struct net_dns_options options = {.find = find, .find_name = find_name};

struct query {
    uint8_t bytes[600];
    size_t length;
};

static struct query query_for(const char *name, unsigned type)
{
    static const uint8_t head[12] = {0x12, 0x34, 1, 0, 0, 1};
    struct query query = {.length = sizeof(head)};
    memcpy(query.bytes, head, sizeof(head));
    for (const char *label = name; *label != '\0';) {
        size_t length = strcspn(label, ".");
        query.bytes[query.length++] = (uint8_t)length;
        memcpy(query.bytes + query.length, label, length);
        query.length += length;
        label += length + (label[length] == '.');
    }
    const uint8_t tail[5] = {0, 0, (uint8_t)type, 0, 1};
    memcpy(query.bytes + query.length, tail, sizeof(tail));
    query.length += sizeof(tail);
    return query;
}

struct reply {
    uint8_t bytes[DNS_ANSWER_MAX];
    size_t length;
};

static enum dns_verdict ask(const char *name, unsigned type, struct reply *reply)
{
    struct dns_question question;
    enum dns_code code;
    const struct query query = query_for(name, type);
    EXPECT(dns_read_query(query.bytes, query.length, &question, &code));
    EXPECT(question.length == query.length && question.type == type);
    return dns_answer(&options, query.bytes, &question, reply->bytes, &reply->length);
}

static unsigned code_of(const struct reply *reply)
{
    return reply->bytes[3] & 15;
}

TEST(net_dns, a_machine_is_found_by_its_name)
{
    struct reply reply;
    EXPECT(ask("Web.Blue.VM.internal", DNS_TYPE_A, &reply) == DNS_ANSWERED);
    EXPECT(code_of(&reply) == DNS_OK && (reply.bytes[2] & 0x84) == 0x84);
    EXPECT(memcmp(reply.bytes, "\x12\x34", 2) == 0);
    EXPECT(memcmp(reply.bytes + 4, "\0\1\0\2\0\0\0\0", 8) == 0);
    EXPECT(memcmp(reply.bytes + 13, "Web", 3) == 0); /* as it was asked */
    EXPECT(memcmp(reply.bytes + reply.length - 16, "\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x0a\x4d\0\x08",
                  16) == 0);
    /* It has no IPv6: not the same as that there is no such name. */
    EXPECT(ask("web.blue.vm.internal", 28, &reply) == DNS_ANSWERED);
    EXPECT(code_of(&reply) == DNS_OK && memcmp(reply.bytes + 6, "\0\0", 2) == 0);
    EXPECT(ask("many.vm.internal", DNS_TYPE_A, &reply) == DNS_ANSWERED);
    EXPECT(reply.bytes[7] == NET_DNS_ADDRESSES_MAX && reply.length <= DNS_ANSWER_MAX);
}

TEST(net_dns, what_is_ours_is_never_passed_on)
{
    struct reply reply;
    EXPECT(ask("db.blue.vm.internal", DNS_TYPE_A, &reply) == DNS_ANSWERED);
    EXPECT(code_of(&reply) == DNS_NO_NAME);
    EXPECT(ask("vm.internal", DNS_TYPE_A, &reply) == DNS_ANSWERED && code_of(&reply) == DNS_OK);
    EXPECT(ask("xvm.internal", DNS_TYPE_A, &reply) == DNS_PASS_ON);
    EXPECT(ask("internal", DNS_TYPE_A, &reply) == DNS_PASS_ON);
    EXPECT(ask("example.org", DNS_TYPE_A, &reply) == DNS_PASS_ON);
    EXPECT(ask("", 2, &reply) == DNS_PASS_ON); /* the root */
}

TEST(net_dns, an_address_has_a_name)
{
    struct reply reply;
    EXPECT(ask("7.0.77.10.in-addr.arpa", DNS_TYPE_PTR, &reply) == DNS_ANSWERED);
    EXPECT(reply.bytes[7] == 1);
    EXPECT(memcmp(reply.bytes + reply.length - 22, "\3web\4blue\2vm\10internal", 22) == 0);
    EXPECT(ask("8.0.77.10.in-addr.arpa", DNS_TYPE_PTR, &reply) == DNS_PASS_ON);
    EXPECT(ask("07.0.77.10.in-addr.arpa", DNS_TYPE_PTR, &reply) == DNS_PASS_ON);
}

/* Goal: whatever is sent is read without a step beyond its end, and answered by its kind. */
TEST(net_dns, what_is_no_query_is_told_so_or_nothing)
{
    struct dns_question question;
    enum dns_code code;
    struct query query = query_for("web.blue.vm.internal", DNS_TYPE_A);
    for (size_t length = 0; length < query.length; length++) {
        EXPECT(!dns_read_query(query.bytes, length, &question, &code));
        EXPECT(code == (length < 12 ? DNS_OK : DNS_FORMAT));
    }
    query.bytes[2] |= 0x80;
    EXPECT(!dns_read_query(query.bytes, query.length, &question, &code) && code == DNS_OK);
    query = query_for("a", DNS_TYPE_A);
    query.bytes[2] = 0x28; /* an update */
    EXPECT(!dns_read_query(query.bytes, query.length, &question, &code) && code == DNS_NOT_DONE);
    query = query_for("a", DNS_TYPE_A);
    query.bytes[5] = 2;
    EXPECT(!dns_read_query(query.bytes, query.length, &question, &code) && code == DNS_FORMAT);
    query = query_for("a", DNS_TYPE_A);
    query.bytes[12] = 0xc0; /* points somewhere */
    EXPECT(!dns_read_query(query.bytes, query.length, &question, &code) && code == DNS_FORMAT);
    /* 255 bytes are a name, 256 are none. */
    static const char label[] = "a23456789b123456789c123456789d123456789e123456789f123456789g123";
    char name[300];
    snprintf(name, sizeof(name), "%s.%s.%s.%.61s", label, label, label, label);
    query = query_for(name, DNS_TYPE_A);
    EXPECT(dns_read_query(query.bytes, query.length, &question, &code));
    EXPECT_STRING(question.name, name);
    snprintf(name, sizeof(name), "%s.%s.%s.%.62s", label, label, label, label);
    query = query_for(name, DNS_TYPE_A);
    EXPECT(!dns_read_query(query.bytes, query.length, &question, &code) && code == DNS_FORMAT);
    query = query_for("a", DNS_TYPE_A);
    query.bytes[13] = '.';
    EXPECT(dns_read_query(query.bytes, query.length, &question, &code));
    EXPECT_STRING(question.name, "?");
}

TEST(net_dns, only_the_answer_to_the_question_comes_back)
{
    struct dns_question question;
    enum dns_code code;
    const struct query query = query_for("example.org", DNS_TYPE_A);
    struct query answer = query;
    EXPECT(dns_read_query(query.bytes, query.length, &question, &code));
    EXPECT(!dns_is_answer(query.bytes, &question, answer.bytes, answer.length));
    answer.bytes[2] |= 0x80;
    EXPECT(dns_is_answer(query.bytes, &question, answer.bytes, answer.length));
    EXPECT(!dns_is_answer(query.bytes, &question, answer.bytes, answer.length - 1));
    answer.bytes[1]++;
    EXPECT(!dns_is_answer(query.bytes, &question, answer.bytes, answer.length));
    answer.bytes[1]--;
    answer.bytes[13] ^= 0x20;
    EXPECT(!dns_is_answer(query.bytes, &question, answer.bytes, answer.length));
}

TEST(net_dns, a_closed_network_asks_nobody_else)
{
    struct reply reply;
    struct dns_question question;
    enum dns_code code;
    struct net_dns_options closed = options;
    const struct query query = query_for("example.org", DNS_TYPE_A);
    closed.is_closed = true;
    EXPECT(dns_read_query(query.bytes, query.length, &question, &code));
    EXPECT(dns_answer(&closed, query.bytes, &question, reply.bytes, &reply.length) == DNS_ANSWERED);
    EXPECT(code_of(&reply) == DNS_REFUSED);
}

TEST(net_dns, the_hosts_resolvers_are_read)
{
    char resolvers[3][46];
    static const char text[] = "# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1\n"
                               "nameserver\tfe80::1%eth0\nnameserver 2001:db8::1\n"
                               "nameserver 192.0.2.256\n nameserver 192.0.2.2\n"
                               "nameserver 192.0.2.3";
    EXPECT(dns_read_resolvers(text, resolvers, 3) == 3);
    EXPECT_STRING(resolvers[0], "192.0.2.1");
    EXPECT_STRING(resolvers[1], "2001:db8::1");
    EXPECT_STRING(resolvers[2], "192.0.2.2");
    EXPECT(dns_read_resolvers("", resolvers, 3) == 0);
}
