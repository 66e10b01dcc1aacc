/* Inside surface/cli: requests whose frames go both ways while they last. */
#ifndef SURFACE_CLI_DUPLEX_H
#define SURFACE_CLI_DUPLEX_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct error;

struct duplex {
    const char *path; /* with its query */
    bool takes_input; /* standard input goes in as it comes */
    bool is_terminal; /* both are terminals: every key goes in, sizes are told */
    int detach_key;   /* ends it, typed alone; -1: none */
    json_t *end;      /* what the other side said at last, or NULL; the caller's */
    bool was_detached;
};

/* Run it to its end: output to standard output, errors to standard error.  Fails as request() does.
 */
int duplex_run(struct duplex *duplex, struct error *err);

/* The terminal's size; false: standard output is none. */
bool duplex_terminal_size(unsigned *ret_rows, unsigned *ret_columns);

/*
 * Send the file `path` as a body; progress on a terminal.  *ret_document (may be NULL) is the
 * answer.  A file that changes meanwhile fails.
 */
int duplex_upload(const char *method, const char *target, const char *path, json_t **ret_document,
                  struct error *err);

#endif
