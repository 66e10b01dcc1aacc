/*
 * Regular expressions that cannot explode.
 *
 * Patterns come from users and are matched by the leader, so a match takes time linear in the text
 * (a set of states is walked, as in Thompson's construction; nothing is tried twice), and a pattern
 * takes bounded memory: {m,n} is written out, and refused where that is too long.
 *
 *   a|b  ab  a* a+ a? a{2} a{2,} a{2,4}  (a)  .  [a-z_] [^a-z]  ^ $  \. \d \D \w \W \s \S
 *
 * It works on bytes, finds a match anywhere (anchor it with ^ and $), and captures nothing.
 * libc's regcomp() is not used: it follows the locale, its time and memory are not bounded, and
 * two of a cluster's nodes may have different ones.
 * Source: Thompson, "Regular Expression Search Algorithm", CACM 11(6), 1968.
 */
#ifndef ENGINE_PLACEMENT_REGEXP_H
#define ENGINE_PLACEMENT_REGEXP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct error;
struct regexp;

enum {
    REGEXP_PATTERN_MAX = 256,
    REGEXP_STEPS_MAX = 1024,
    REGEXP_DEPTH_MAX = 16, /* of parentheses */
};

/* INVALID, saying what and where; LIMIT.  The caller ends it with regexp_free(). */
int regexp_new(const char *pattern, struct regexp **ret_regexp, struct error *err);
void regexp_free(struct regexp *regexp); /* accepts NULL */

bool regexp_matches(const struct regexp *regexp, const char *text);

#endif
