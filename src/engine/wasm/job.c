/*
 * Running the tools: each in a folder of its own, with limits, and with its refusals told from
 * ours.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/random.h"

#include "engine/jail/jail.h"
#include "engine/wasm/private.h"

enum { ERRORS_MAX = 65536, FILE_BYTES_MAX = 512 << 20, PROCESSES_MAX = 256 };

/* Compilers run as nobody's user when the daemon is root. */
enum { JOB_UID = 1999999999 };

static void tell(const struct job *job, const char *what)
{
    if (job->wasm->on_tool != NULL) {
        job->wasm->on_tool(what);
    }
    if (what != NULL && job->watch != NULL && job->watch->on_tool != NULL) {
        job->watch->on_tool(what, job->watch->context);
    }
}

int job_begin(struct job *job, struct error *err)
{
    char name[17];
    random_hex(name, 16);
    job->folder = memory_format("%s/job-%s", job->wasm->work_folder, name);
    int r = file_make_folder(job->folder, 0700, err);
    if (r == 0 && geteuid() == 0 && chown(job->folder, JOB_UID, JOB_UID) < 0) {
        r = error_os(err, errno, "handing over %s", job->folder);
    }
    return r;
}

void job_end(struct job *job)
{
    tell(job, NULL);
    struct error ignored = {0};
    file_remove_tree(job->folder, &ignored);
    free(job->folder);
    job->folder = NULL;
}

char *job_path(const struct job *job, const char *name)
{
    return memory_format("%s/%s", job->folder, name);
}

/* The first line that says something, at most 200 characters of it. */
static void first_words(struct buffer *errors, char *ret_text, size_t size)
{
    const char *at = buffer_string(errors);
    const char *error_at = strstr(at, "error: ");
    if (error_at != NULL) {
        at = error_at + strlen("error: ");
    }
    at += strspn(at, "\n ");
    size_t length = strcspn(at, "\n");
    snprintf(ret_text, size, "%.*s", (int)(length < 200 ? length : 200), at);
}

/* Of the tool, or of a part of it: gcc tells what ended that. */
static bool took_too_long(const struct process_result *result, const char *said)
{
    return result->exit_code == 128 + SIGXCPU || strstr(said, sigdescr_np(SIGXCPU)) != NULL;
}

static int judge(const struct job *job, const struct process_result *result, struct buffer *errors,
                 const char *what, struct error *err)
{
    char words[256];
    first_words(errors, words, sizeof(words));
    const char *all = buffer_string(errors);
    if (strstr(all, strerrordesc_np(ENOSPC)) != NULL) {
        return error_set(err, ERROR_FULL, "%s: no space left on the disk of the work folder", what);
    }
    if (took_too_long(result, all)) {
        return error_set(err, ERROR_TIMEOUT, "%s took more than the %llu s of CPU that it may have",
                         what, (unsigned long long)job->wasm->cpu_seconds_max);
    }
    bool no_memory = strstr(all, "memory exhausted") != NULL ||
        strstr(all, "out of memory") != NULL || strstr(all, "bad_alloc") != NULL ||
        strstr(all, "Cannot allocate") != NULL ||
        strstr(all, "signal terminated program") != NULL; /* gcc, of its parts */
    if (no_memory || result->exit_code == 128 + SIGKILL || result->exit_code == 128 + SIGXFSZ ||
        result->exit_code == 128 + SIGSEGV) {
        return error_set(err, ERROR_LIMIT, "%s needs more memory or disk than a build may have",
                         what);
    }
    if (words[0] == '\0') {
        snprintf(words, sizeof(words), "the tool ended with status %d", result->exit_code);
    }
    return error_set(err, ERROR_INVALID, "%s failed: %s", what, words);
}

int job_run(struct job *job, const char *what, const char *const *argv, struct error *err)
{
    const struct wasm *wasm = job->wasm;
    const struct jail_mount mounts[] = {
        JAIL_PROGRAM_MOUNTS,
        {"/etc/alternatives", "/etc/alternatives", false, true},
        {wasm->toolchain.folder, wasm->toolchain.folder, false, false},
        {job->folder, job->folder, true, false},
    };
    struct jail_options jail = {
        .mounts = mounts,
        .mount_count = sizeof(mounts) / sizeof(mounts[0]),
        .uid = JOB_UID,
        .gid = JOB_UID,
        .filter = JAIL_FILTER_TOOL,
        .cpu_seconds_max = wasm->cpu_seconds_max,
        .memory_bytes_max = wasm->memory_bytes_max,
        .file_bytes_max = FILE_BYTES_MAX,
        .process_max = PROCESSES_MAX,
    };
    MEMORY_OWNED char *temporary = memory_format("TMPDIR=%s", job->folder);
    /* The gcc that a PATH finds first may be ccache's, which wants a home, and would write to it.
     */
    MEMORY_OWNED char *home = memory_format("HOME=%s", job->folder);
    const char *const environment[] = {
        "PATH=/usr/bin:/bin", "LC_ALL=C", "CCACHE_DISABLE=1", home, temporary, NULL};
    BUFFER_OWNED struct buffer errors = {0};
    struct process_options options = {
        .argv = argv,
        .envp = environment,
        .folder = job->folder,
        .output_max = ERRORS_MAX,
        .timeout_ms = wasm->timeout_ms,
        .cancel = job->watch != NULL ? job->watch->cancelled : NULL,
        .prepare = jail_prepare,
        .prepare_context = &jail,
    };
    struct process_result result;
    tell(job, what);
    int r = process_run(&options, &errors, &errors, &result, err);
    if (r < 0) {
        return r;
    }
    if (result.max_rss_kib > job->max_rss_kib) {
        job->max_rss_kib = result.max_rss_kib;
    }
    if (result.cancelled) {
        return error_set(err, ERROR_CANCELLED, "%s was cancelled", what);
    }
    if (result.timed_out) {
        return error_set(err, ERROR_TIMEOUT, "%s took longer than %llu s", what,
                         (unsigned long long)(wasm->timeout_ms / 1000));
    }
    return result.exit_code == 0 ? 0 : judge(job, &result, &errors, what, err);
}
