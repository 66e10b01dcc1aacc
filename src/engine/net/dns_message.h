/* Inside engine/net: DNS messages, without any socket. */
#ifndef ENGINE_NET_DNS_MESSAGE_H
#define ENGINE_NET_DNS_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/net/dns.h"

enum {
    DNS_HEADER = 12,
    DNS_MESSAGE_MAX = 4096,
    DNS_ANSWER_MAX = 512, /* of ours: none is longer, so that none is truncated */
};

enum dns_code {
    DNS_OK = 0,
    DNS_FORMAT = 1,
    DNS_FAILED = 2,
    DNS_NO_NAME = 3,
    DNS_NOT_DONE = 4,
    DNS_REFUSED = 5
};
enum { DNS_TYPE_A = 1, DNS_TYPE_PTR = 12, DNS_TYPE_ANY = 255, DNS_CLASS_IN = 1 };

struct dns_question {
    char name[NET_DNS_NAME_SIZE]; /* lower case, without the dot at its end; "." is the root */
    uint16_t type;
    uint16_t class;
    size_t length; /* of the header and the question */
};

/* A query with one question.  False: *ret_code says what to answer; DNS_OK: nothing at all. */
bool dns_read_query(const uint8_t *bytes, size_t length, struct dns_question *ret_question,
                    enum dns_code *ret_code);

/* Is it the answer to this query, as it was sent? */
bool dns_is_answer(const uint8_t *query, const struct dns_question *question, const uint8_t *bytes,
                   size_t length);

enum dns_verdict { DNS_ANSWERED, DNS_PASS_ON };

/* Answer from the table, into ret_bytes (DNS_ANSWER_MAX), or say that it is not for us. */
enum dns_verdict dns_answer(const struct net_dns_options *options, const uint8_t *query,
                            const struct dns_question *question, uint8_t *ret_bytes,
                            size_t *ret_length);

/* An answer without any record: `question_length` bytes of the query are repeated. */
size_t dns_empty_answer(const uint8_t *query, size_t question_length, enum dns_code code,
                        bool is_ours, uint8_t *ret_bytes);

/* The nameservers of resolv.conf(5), at most `max`; 4 bytes or 16, as inet_ntop(3) text. */
size_t dns_read_resolvers(const char *text, char (*ret_addresses)[46], size_t max);

#endif
