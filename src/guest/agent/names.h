/*
 * Names of a guest without a network: a small DNS server's answers (RFC 1035).  Pure; what comes is
 * input of whatever runs in the guest, and bounded.
 */
#ifndef GUEST_AGENT_NAMES_H
#define GUEST_AGENT_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NAMES_MAX = 1024,
    NAME_SIZE = 254,
    NAMES_FIRST = 0xc6120000U, /* 198.18.0.0/15 is nobody's (RFC 2544) */
    NAMES_ANSWER_MAX = 512,
};

/* Names that were asked for, each with an address of its own: the Nth has NAMES_FIRST + N + 1. */
struct names {
    size_t count;
    char all[NAMES_MAX][NAME_SIZE]; /* lower case, no dot at the end */
};

/*
 * The answer to a query, at most NAMES_ANSWER_MAX bytes; 0: it is none that is answered.  Each name
 * has an IPv4 address and nothing else; one beyond NAMES_MAX is a failure of the server's.
 */
size_t names_answer(struct names *names, const uint8_t *query, size_t length, uint8_t *ret_answer);

/* The name with this address, in host byte order; NULL: none has it. */
const char *names_find(const struct names *names, uint32_t address);

#endif
