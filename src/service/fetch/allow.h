/*
 * Whom a function may fetch from: the entries of its allow-list.  Pure.
 *
 *     entry     [ "http://" | "https://" ] host [ ":" port ]
 *     host      name | "*." name | "*" | IPv4 | IPv6 or "[" IPv6 "]" | network
 *     network   IPv4 "/" bits | IPv6 "/" bits | "[" IPv6 "/" bits "]"
 *
 * With a scheme it is an origin: that scheme, and its own port where none is said.  Without one it
 * is either scheme; without a port, any.  A name is that name alone; "*.name" is everything below
 * it, not itself; "*" is every name and every public address.
 *
 * A name says nothing about where it leads: addresses that are not public (address.h) are reached
 * only when an entry is that address or a network with it, whether the URL has the address or a
 * name that resolves to it.
 */
#ifndef SERVICE_FETCH_ALLOW_H
#define SERVICE_FETCH_ALLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/fetch/address.h"
#include "service/fetch/url.h"

struct error;

enum { FETCH_NAME_SIZE = 254 };

struct fetch_rule {
    enum { FETCH_RULE_NAME, FETCH_RULE_BELOW, FETCH_RULE_ANY, FETCH_RULE_NETWORK } kind;
    bool has_scheme;
    bool is_https;
    uint16_t port; /* 0: any */
    char name[FETCH_NAME_SIZE];
    struct fetch_network network;
};

/* INVALID, which says what is wrong with it. */
int fetch_rule_parse(struct text entry, struct fetch_rule *ret_rule, struct error *err);

/* May this URL be asked for at all?  Nothing is resolved before. */
bool fetch_rules_have_url(const struct fetch_rule *rules, size_t count,
                          const struct fetch_url *url);

/* And may this be connected to for it? */
bool fetch_rules_have_address(const struct fetch_rule *rules, size_t count,
                              const struct fetch_url *url, const struct fetch_address *address);

#endif
