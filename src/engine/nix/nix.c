/* Nix's own programs: found, asked for their version, and run. */
#include "engine/nix/nix.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/text.h"

enum {
    ARGUMENTS_MAX = 48,
    SAID_MAX = 64 << 10,
    ANSWER_MAX = 16 << 20,
    QUICK_MS = 60 * 1000,
    LAST_WORDS = 400,
};

/* ---- Running ---- */

struct arguments {
    const char *items[ARGUMENTS_MAX + 1];
    size_t count;
};

static void add(struct arguments *all, const char *argument)
{
    CHECK(all->count < ARGUMENTS_MAX);
    all->items[all->count++] = argument;
}

static void add_all(struct arguments *all, const char *const *arguments)
{
    for (; arguments != NULL && *arguments != NULL; arguments++) {
        add(all, *arguments);
    }
}

/* The end of it, which is where an error is, in one line. */
static const char *last_words(struct buffer *said)
{
    char *text = text_make_printable((char *)(uintptr_t)buffer_string(said), true);
    for (char *line = strchr(text, '\n'); line != NULL; line = strchr(line, '\n')) {
        *line = ' ';
    }
    size_t length = strlen(text);
    while (length > 0 && text[length - 1] == ' ') {
        text[--length] = '\0';
    }
    const char *error = strstr(text, "error:");
    for (const char *next = error; next != NULL; next = strstr(next + 1, "error:")) {
        error = next;
    }
    if (error != NULL && strlen(error) > sizeof("error:") + 4) {
        return error;
    }
    return length > LAST_WORDS ? text + length - LAST_WORDS : text;
}

/* What its end means; a program that says that nothing is wrong by another code than 0 is not
 * judged here. */
static int judge(const struct arguments *all, const struct process_result *result,
                 struct buffer *said, struct error *err)
{
    if (result->cancelled) {
        return error_set(err, ERROR_CANCELLED, "%s was given up", all->items[0]);
    }
    if (result->timed_out) {
        return error_set(err, ERROR_TIMEOUT, "%s took too long", all->items[0]);
    }
    if (result->exit_code != 0) {
        const char *words = last_words(said);
        return error_set(err, ERROR_INVALID, "%s: %.450s", all->items[0],
                         words[0] == '\0' ? "it failed without a word" : words);
    }
    return 0;
}

struct run {
    const char *folder;
    uint64_t timeout_ms;
    const volatile bool *cancel;
    struct buffer *output; /* may be NULL */
    struct buffer *said;   /* errors and talk; may be NULL */
    int *exit_code;        /* not NULL: any is good */
};

static int run(const struct arguments *all, const struct run *how, struct error *err)
{
    BUFFER_OWNED struct buffer unread = {0};
    struct buffer *said = how->said == NULL ? &unread : how->said;
    struct process_result result = {0};
    const struct process_options options = {
        .argv = all->items,
        .folder = how->folder,
        .output_max = how->output == NULL ? SAID_MAX : ANSWER_MAX,
        .timeout_ms = how->timeout_ms,
        .cancel = how->cancel,
    };
    int r = process_run(&options, how->output, said, &result, err);
    if (r < 0 && err->kind == ERROR_NOT_FOUND) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "this node has no Nix (%s is not in PATH; Debian: nix-bin)",
                         all->items[0]);
    }
    if (r == 0 && how->exit_code != NULL && !result.cancelled && !result.timed_out) {
        *how->exit_code = result.exit_code;
        return 0;
    }
    return r < 0 ? r : judge(all, &result, said, err);
}

static const char *const nix_features[] = {"--extra-experimental-features", "nix-command flakes",
                                           NULL};

/* ---- Which store ---- */

static int take_folder(const char *variable, const char *otherwise, char ret[NIX_FOLDER_MAX],
                       struct error *err)
{
    const char *text = getenv(variable);
    text = text == NULL || text[0] == '\0' ? otherwise : text;
    size_t length = strlen(text);
    while (length > 1 && text[length - 1] == '/') {
        length--;
    }
    if (text[0] != '/' || length >= NIX_FOLDER_MAX) {
        return error_set(err, ERROR_INVALID, "%s is no absolute path, or too long", variable);
    }
    memcpy(ret, text, length);
    ret[length] = '\0';
    return 0;
}

int nix_open(struct nix_store *ret_store, struct error *err)
{
    struct nix_store store = {0};
    BUFFER_OWNED struct buffer answer = {0};
    struct arguments all = {0};
    add(&all, "nix-store");
    add(&all, "--version");
    const struct run how = {.timeout_ms = QUICK_MS, .output = &answer};
    int r = run(&all, &how, err);
    r = r < 0 ? r : take_folder("NIX_STORE_DIR", "/nix/store", store.folder, err);
    r = r < 0 ? r : take_folder("NIX_STATE_DIR", "/nix/var/nix", store.state, err);
    if (r < 0) {
        return r;
    }
    /* "nix-store (Nix) 2.8.0": what comes last in the first line. */
    const char *line = buffer_string(&answer);
    size_t length = strcspn(line, "\n");
    size_t begin = length;
    while (begin > 0 && line[begin - 1] != ' ') {
        begin--;
    }
    if (length == begin || length - begin >= sizeof(store.version)) {
        return error_set(err, ERROR_INVALID, "nix-store does not say its version");
    }
    memcpy(store.version, line + begin, length - begin);
    text_make_printable(store.version, false);
    *ret_store = store;
    return 0;
}

/* ---- Roots ---- */

static int make_folder_of(const char *link, struct error *err)
{
    MEMORY_OWNED char *folder = memory_copy_string(link);
    char *slash = strrchr(folder, '/');
    CHECK(link[0] == '/' && slash != NULL);
    *slash = '\0';
    return slash == folder ? 0 : file_make_folder(folder, 0700, err);
}

int nix_root_add(const struct nix_store *store, const char *link, const struct nix_path *path,
                 struct error *err)
{
    char text[NIX_TEXT_SIZE];
    bool is_valid = false;
    struct arguments all = {0};
    nix_path_text(path, store->folder, text);
    int r = nix_is_valid(store, path, &is_valid, err);
    if (r == 0 && !is_valid) {
        r = error_set(err, ERROR_NOT_FOUND, "%s is not in the store", text);
    }
    r = r < 0 ? r : make_folder_of(link, err);
    if (r < 0) {
        return r;
    }
    const char *const arguments[] = {"nix-store", "--realise",  text, "--add-root",
                                     link,        "--indirect", NULL};
    add_all(&all, arguments);
    const struct run how = {.timeout_ms = QUICK_MS};
    return run(&all, &how, err);
}

int nix_root_remove(const char *link, struct error *err)
{
    if (unlink(link) < 0 && errno != ENOENT) {
        return error_os(err, errno, "removing the root %s", link);
    }
    return 0;
}

int nix_root_read(const struct nix_store *store, const char *link, struct nix_path *ret_path,
                  struct error *err)
{
    char text[NIX_TEXT_SIZE];
    ssize_t length = readlink(link, text, sizeof(text) - 1);
    if (length < 0 && errno == ENOENT) {
        return error_set(err, ERROR_NOT_FOUND, "there is no root %s", link);
    }
    if (length < 0) {
        return error_os(err, errno, "reading the root %s", link);
    }
    text[length] = '\0';
    return nix_path_parse(text, store->folder, ret_path, err);
}

/* ---- Builds ---- */

static int check_installable(const char *installable, struct error *err)
{
    size_t length = strlen(installable);
    if (length == 0 || length > 4096 || installable[0] == '-' || !text_is_printable(installable)) {
        return error_set(err, ERROR_INVALID,
                         "\"%.80s\" is nothing that Nix can build: FLAKE#NAME, or a store path",
                         installable);
    }
    return 0;
}

static int add_outputs(const json_t *answer, const struct nix_store *store,
                       struct nix_paths *ret_outputs, struct error *err)
{
    size_t i = 0;
    const json_t *built = NULL;
    json_array_foreach(answer, i, built)
    {
        const char *name = NULL;
        const json_t *output = NULL;
        json_object_foreach(json_object_get((json_t *)(uintptr_t)built, "outputs"), name, output)
        {
            const char *text = json_string_value(output);
            struct nix_path path;
            if (text == NULL || nix_path_parse(text, store->folder, &path, err) < 0) {
                return error_set(err, ERROR_PROTOCOL,
                                 "nix build names an output %s that is no path", name);
            }
            nix_paths_add(ret_outputs, &path);
        }
    }
    return ret_outputs->count > 0
        ? 0
        : error_set(err, ERROR_PROTOCOL, "nix build says of no output where it is");
}

static void add_build(struct arguments *all, const char *verb, const struct nix_build *build)
{
    add(all, "nix");
    add(all, verb);
    add_all(all, nix_features);
    add(all, "--json");
    if (!build->may_change_lock) {
        add(all, "--no-update-lock-file");
    }
}

/* Nix says what is not allowed, and not what is to be done. */
static int run_flake(const struct arguments *all, const struct run *how, struct error *err)
{
    int r = run(all, how, err);
    return r < 0 && strstr(err->text, "requires lock file changes") != NULL
        ? error_set(err, err->kind,
                    "flake.lock is missing, or is not of these inputs: nix flake lock")
        : r;
}

int nix_build(const struct nix_build *build, const struct nix_store *store,
              struct nix_paths *ret_outputs, struct buffer *ret_log, struct error *err)
{
    BUFFER_OWNED struct buffer answer = {0};
    JSON_OWNED json_t *json = NULL;
    struct arguments all = {0};
    int r = check_installable(build->installable, err);
    if (r < 0) {
        return r;
    }
    add_build(&all, "build", build);
    add(&all, "--no-link");
    add(&all, "--print-build-logs");
    add_all(&all, build->options);
    add(&all, build->installable);
    const struct run how = {.folder = build->folder,
                            .timeout_ms = build->timeout_ms,
                            .cancel = build->cancel,
                            .output = &answer,
                            .said = ret_log};
    r = run_flake(&all, &how, err);
    r = r < 0 ? r : json_read(answer.data, answer.used, &json, err);
    return r < 0 ? r : add_outputs(json, store, ret_outputs, err);
}

int nix_eval(const struct nix_build *build, struct buffer *ret_json, struct error *err)
{
    struct arguments all = {0};
    int r = check_installable(build->installable, err);
    if (r < 0) {
        return r;
    }
    add_build(&all, "eval", build);
    add_all(&all, build->options);
    add(&all, build->installable);
    const struct run how = {.folder = build->folder,
                            .timeout_ms = build->timeout_ms,
                            .cancel = build->cancel,
                            .output = ret_json};
    return run_flake(&all, &how, err);
}

int nix_realise(const struct nix_store *store, const struct nix_path *path,
                const volatile bool *cancel, struct error *err)
{
    char text[NIX_TEXT_SIZE];
    struct arguments all = {0};
    nix_path_text(path, store->folder, text);
    const char *const arguments[] = {"nix-store", "--realise", text, NULL};
    add_all(&all, arguments);
    const struct run how = {.cancel = cancel};
    return run(&all, &how, err);
}

int nix_import(const struct nix_store *store, const char *cache_folder, const struct nix_path *path,
               bool is_closure, const char *keys, const volatile bool *cancel, struct error *err)
{
    char text[NIX_TEXT_SIZE];
    struct arguments all = {0};
    nix_path_text(path, store->folder, text);
    MEMORY_OWNED char *from = memory_format("file://%s", cache_folder);
    const char *const arguments[] = {"copy", "--from", from, NULL};
    const char *const trust[] = {
        "--option", "require-sigs", "true", "--option", "trusted-public-keys", keys, NULL};
    add(&all, "nix");
    add_all(&all, nix_features);
    add_all(&all, arguments);
    add_all(&all, trust);
    if (!is_closure) {
        add(&all, "--no-recursive");
    }
    add(&all, text);
    const struct run how = {.cancel = cancel};
    return run(&all, &how, err);
}

/* ---- Collecting garbage ---- */

/* "/nix/store/...": one in a line. */
static void read_dead(const struct nix_store *store, struct buffer *answer,
                      struct nix_paths *ret_dead)
{
    for (const char *at = buffer_string(answer); *at != '\0';) {
        size_t length = strcspn(at, "\n");
        MEMORY_OWNED char *line = memory_copy_text(at, length);
        struct error ignored = {0};
        struct nix_path path;
        at += length + (at[length] == '\n' ? 1 : 0);
        if (nix_path_parse(line, store->folder, &path, &ignored) == 0) {
            nix_paths_add(ret_dead, &path);
        }
    }
    nix_paths_sort(ret_dead);
}

struct weighing {
    const struct nix_paths *dead;
    size_t at;
    uint64_t bytes;
    const volatile bool *cancel;
};

/* Both are in the same order. */
static bool weigh(const struct nix_entry *entry, void *context)
{
    struct weighing *weighing = context;
    const struct nix_paths *dead = weighing->dead;
    int order = -1;
    while (weighing->at < dead->count &&
           (order = nix_path_compare(&dead->items[weighing->at], &entry->path)) < 0) {
        weighing->at++;
    }
    if (weighing->at < dead->count && order == 0) {
        weighing->bytes += entry->nar_size_bytes;
        weighing->at++;
    }
    return weighing->at < dead->count && (weighing->cancel == NULL || !*weighing->cancel);
}

/* What would go may be most of a store: it is weighed in one walk. */
static int count_dead(const struct nix_store *store, struct buffer *answer,
                      const volatile bool *cancel, struct nix_gc_result *result, struct error *err)
{
    NIX_PATHS_OWNED struct nix_paths dead = {0};
    read_dead(store, answer, &dead);
    struct weighing weighing = {.dead = &dead, .cancel = cancel};
    int r = dead.count > 0 ? nix_each(store, NULL, weigh, &weighing, err) : 0;
    if (r == 0 && cancel != NULL && *cancel) {
        r = error_set(err, ERROR_CANCELLED, "looking for what nothing keeps was given up");
    }
    result->paths = dead.count;
    result->freed_bytes = weighing.bytes;
    return r;
}

/* "3 store paths deleted, 1.25 MiB freed": people's numbers; Nix gives no others. */
static void read_freed(struct buffer *said, struct nix_gc_result *result)
{
    static const char mark[] = " store paths deleted, ";
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"bytes", 1.0}};
    const char *text = buffer_string(said);
    const char *at = strstr(text, mark);
    if (at == NULL) {
        return;
    }
    const char *digit = at;
    while (digit > text && digit[-1] >= '0' && digit[-1] <= '9') {
        digit--;
    }
    text_parse_u64(text_of(digit, (size_t)(at - digit)), &result->paths);
    char *end = NULL;
    double amount = strtod(at + sizeof(mark) - 1, &end);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strncmp(end + strspn(end, " "), units[i].name, strlen(units[i].name)) == 0 &&
            amount >= 0 && amount < 1e9) {
            result->freed_bytes = (uint64_t)(amount * units[i].bytes);
        }
    }
}

int nix_gc(const struct nix_store *store, const struct nix_gc *gc, struct nix_gc_result *ret_result,
           struct error *err)
{
    BUFFER_OWNED struct buffer answer = {0};
    BUFFER_OWNED struct buffer said = {0};
    struct nix_gc_result result = {0};
    struct arguments all = {0};
    char freed[24];
    add(&all, "nix-store");
    add(&all, "--gc");
    snprintf(freed, sizeof(freed), "%" PRIu64, gc->bytes_max);
    if (gc->is_trial) {
        add(&all, "--print-dead");
    } else if (gc->bytes_max > 0) {
        add(&all, "--max-freed");
        add(&all, freed);
    }
    const struct run how = {.cancel = gc->cancel, .output = &answer, .said = &said};
    int r = run(&all, &how, err);
    if (r < 0) {
        return r;
    }
    if (gc->is_trial) {
        r = count_dead(store, &answer, gc->cancel, &result, err);
    } else {
        buffer_append(&answer, said.data, said.used);
        read_freed(&answer, &result);
    }
    if (r == 0) {
        *ret_result = result;
    }
    return r;
}

/* ---- Verifying ---- */

/* "path '/nix/store/...' was modified! expected hash ..., got ..." and what else names one. */
static void take_wrong(const struct nix_store *store, struct buffer *said, struct buffer *ret_wrong,
                       uint64_t *ret_count)
{
    for (const char *at = buffer_string(said); *at != '\0';) {
        size_t length = strcspn(at, "\n");
        MEMORY_OWNED char *line = memory_copy_text(at, length);
        at += length + (at[length] == '\n' ? 1 : 0);
        bool is_wrong = strstr(line, "modified") != NULL || strstr(line, "disappeared") != NULL;
        char *path = is_wrong ? strstr(line, store->folder) : NULL;
        if (path == NULL) {
            continue;
        }
        path[strcspn(path, "' !,")] = '\0';
        text_make_printable(path, false);
        buffer_append_format(ret_wrong, "%s\n", path);
        ++*ret_count;
    }
}

int nix_verify(const struct nix_store *store, const struct nix_path *only,
               const volatile bool *cancel, struct buffer *ret_wrong, uint64_t *ret_wrong_count,
               struct error *err)
{
    BUFFER_OWNED struct buffer said = {0};
    struct arguments all = {0};
    char text[NIX_TEXT_SIZE];
    uint64_t count = 0;
    int code = 0;
    add(&all, "nix-store");
    if (only == NULL) {
        add(&all, "--verify");
        add(&all, "--check-contents");
    } else {
        nix_path_text(only, store->folder, text);
        add(&all, "--verify-path");
        add(&all, text);
    }
    const struct run how = {.cancel = cancel, .said = &said, .exit_code = &code};
    int r = run(&all, &how, err);
    if (r < 0) {
        return r;
    }
    take_wrong(store, &said, ret_wrong, &count);
    if (code != 0 && count == 0) {
        const struct process_result result = {.exit_code = code};
        return judge(&all, &result, &said, err);
    }
    *ret_wrong_count = count;
    return 0;
}

/* ---- For loops ---- */

struct task {
    struct loop *loop;
    void (*work)(void *context);
    void (*done)(void *context);
    void *context;
    pthread_t thread;
};

static atomic_uint tasks_running;

static void on_end(void *argument)
{
    struct task *task = argument;
    void (*done)(void *context) = task->done;
    void *context = task->context;
    pthread_join(task->thread, NULL);
    free(task);
    atomic_fetch_sub(&tasks_running, 1);
    done(context);
}

static void *run_task(void *argument)
{
    struct task *task = argument;
    task->work(task->context);
    loop_post(task->loop, on_end, task);
    return NULL;
}

int nix_task_new(struct loop *loop, void (*work)(void *context), void (*done)(void *context),
                 void *context, struct error *err)
{
    CHECK(loop_is_mine(loop));
    if (atomic_fetch_add(&tasks_running, 1) >= NIX_TASKS_MAX) {
        atomic_fetch_sub(&tasks_running, 1);
        return error_set(err, ERROR_LIMIT, "%d tasks of Nix are under way on this node",
                         NIX_TASKS_MAX);
    }
    struct task *task = NEW(struct task);
    *task = (struct task){.loop = loop, .work = work, .done = done, .context = context};
    int cause = pthread_create(&task->thread, NULL, run_task, task);
    if (cause != 0) {
        free(task);
        atomic_fetch_sub(&tasks_running, 1);
        return error_os(err, cause, "starting a thread");
    }
    return 0;
}
