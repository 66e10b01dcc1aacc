/*
 * What `fn run` calls of a module that is asked what next (engine/vmm/hostcall.h): one export, or
 * those of a script, line by line in one instance.
 *
 *     # how a script looks
 *     invoke add i32:1 2
 *     invoke "a name\20with spaces" null
 *     get counter
 *     in other get counter
 *
 * All modules are instantiated before the first line, in their order; unless that is `instantiate`,
 * or `in other instantiate`: then lines say when, and a module whose instantiation traps is left as
 * it is, and cannot be called.
 *
 * A name or value with blanks, quotes or backslashes stands in quotes; in them \HH is a byte, \"
 * and
 * \\ are themselves.  For each line one line is printed: `ok` and the results, `trap` and its name,
 * or `error` and what is wrong with the line; the instance lives on.
 */
#ifndef SURFACE_CLI_RUN_INVOKE_H
#define SURFACE_CLI_RUN_INVOKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buffer.h"

#include "engine/wasm/exports.h"
#include "engine/wasm/wasm.h"

struct error;

/* What can be called: the module last, before it those that it may import from. */
struct run_modules {
    const char *names[WASM_LINKED_MAX]; /* "" of the last */
    struct wasm_exports exports[WASM_LINKED_MAX];
    size_t count;
};

struct run_invoke {
    const struct run_modules *modules;
    FILE *script;             /* NULL: one call, of `words` */
    const char *const *words; /* the export, then its arguments */
    unsigned word_count;
    bool is_json;
    /* For itself. */
    enum run_step {
        RUN_NOTHING,
        RUN_INSTANTIATION,  /* of the module that is to be next */
        RUN_INITIALIZATION, /* its `_initialize` */
        RUN_CALL,
    } step;                            /* what was asked for last */
    const struct wasm_export *running; /* then */
    size_t instantiated;               /* so many modules are, or cannot be: in their order */
    size_t wanted;                     /* so many have to be before `call` */
    bool is_asked;                     /* by a line, which is answered */
    bool is_dead[WASM_LINKED_MAX];     /* its instantiation trapped */
    struct buffer call;                /* what is called then; empty: nothing */
    bool was_called;                   /* the one call */
    bool is_stepwise;                  /* modules are instantiated by lines */
    uint64_t line;
    uint64_t line_count; /* without empty ones */
    bool is_over;
    struct error *err; /* where the one call, or the instantiation, failed */
    int result;
};

/* Is the one call possible?  Before anything runs.  NOT_FOUND, INVALID. */
int run_invoke_check(const struct run_invoke *invoke, struct error *err);

/* Answer HOSTCALL_NEXT: print how the last one ended, and say what comes next. */
int run_invoke_answer(const void *request, size_t length, struct buffer *reply,
                      struct run_invoke *invoke);

#endif
