/*
 * What the validator says, in the words of the specification's test-suite (assert_invalid): people
 * look those up, and harnesses compare them.
 */
#include <string.h>

#include "base/error.h"

#include "engine/wasm/private.h"

/* The validator's words contain `said`; the first that fits. */
static const struct {
    const char *said;
    const char *term;
} terms[] = {
    {"function type variable out of range", "unknown type"},
    {"local variable out of range", "unknown local"},
    {"function variable out of range", "unknown function"},
    {"global variable out of range", "unknown global"},
    {"table variable out of range", "unknown table"},
    {"memory variable out of range", "unknown memory"},
    {"load/store memory", "unknown memory"},
    {"no memory to copy data to", "unknown memory"},
    {"elem_segment variable out of range", "unknown elem segment"},
    {"data_segment variable out of range", "unknown data segment"},
    {"invalid depth", "unknown label"},
    {"duplicate export", "duplicate export name"},
    {"must be >= initial", "size minimum must not be greater than maximum"},
    {"max pages", "memory size must be at most 65536 pages (4GiB)"},
    {"initial pages", "memory size must be at most 65536 pages (4GiB)"},
    {"on immutable global", "global is immutable"},
    {"invalid initializer", "constant expression required"},
    {"initializer expression can", "constant expression required"},
    {"is not declared in any elem sections", "undeclared function reference"},
    {"invalid arity in select", "invalid result arity"},
    {"labels have inconsistent types", "type mismatch"},
};

const char *terms_find(const char *words)
{
    for (size_t i = 0; i < sizeof(terms) / sizeof(terms[0]); i++) {
        if (strstr(words, terms[i].said) != NULL) {
            return terms[i].term;
        }
    }
    return NULL;
}
