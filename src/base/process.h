/*
 * Running other programs: argv in, output and status out, no shell anywhere.
 */
#ifndef BASE_PROCESS_H
#define BASE_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct error;

struct process_options {
    const char *const *argv; /* NULL-terminated; argv[0] is looked up in PATH */
    const char *const *envp; /* NULL-terminated; NULL means the caller's environment */
    const char *folder;      /* working folder, or NULL */
    const void *input;       /* fed to standard input; NULL means /dev/null */
    size_t input_length;
    const char *input_path;      /* or: standard input is this file */
    size_t output_max;           /* output beyond this is read and dropped */
    uint64_t timeout_ms;         /* 0: none.  The whole process group is killed. */
    const volatile bool *cancel; /* looked at ten times a second: true ends it with SIGTERM, and
                                  * kills what is left of it after 5 s.  May be NULL. */
    /* Runs in the child between fork and exec; nonzero: give up.  What locks may stand still there
     * for ever (another thread of the caller's held it at the fork): after `begin_ms` (0: 20 s) a
     * child without input is ended, and another is made, twice. */
    int (*prepare)(void *context);
    void *prepare_context;
    uint64_t begin_ms;
};

struct process_result {
    int exit_code; /* exit status, or 128 + signal */
    bool timed_out;
    bool cancelled;
    uint64_t max_rss_kib;
    uint64_t wall_ms;
};

/*
 * Run to the end; blocks, so never on a loop thread.  Output and error text are appended to the
 * buffers (either may be NULL).  Returns 0 when the program ran, whatever its exit code; fails with
 * NOT_FOUND (no such program), TIMEOUT (it could not be begun) or OS.  With input, the caller's
 * process ignores SIGPIPE.
 */
int process_run(const struct process_options *options, struct buffer *output, struct buffer *errors,
                struct process_result *ret_result, struct error *err);

#endif
