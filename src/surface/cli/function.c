/* Verbs about functions. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/rootfs.h"

#include "surface/cli/private.h"
#include "surface/cli/settings.h"
#include "surface/cli/trigger.h"

enum { MODULE_MAX = 1 << 30, INPUT_MAX = 1 << 30 };

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

/* Looking at functions does not fail because nobody can say what they do. */
static bool know_usage(const char *name_or_null, struct gathered *ret_gathered)
{
    struct error unknown = {0};
    if (usage_gather(name_or_null, ret_gathered, &unknown) == 0) {
        return true;
    }
    fprintf(stderr, "blixard: what it does is not known: %s\n", unknown.text);
    return false;
}

static void add_usage(json_t *functions)
{
    GATHERED_OWNED struct gathered gathered = {0};
    size_t index = 0;
    json_t *function = NULL;
    if (json_array_size(functions) == 0 || !know_usage(NULL, &gathered)) {
        return;
    }
    json_array_foreach(functions, index, function)
    {
        json_object_set_new(function, "usage", usage_of(&gathered, json_text(function, "name")));
    }
    gathered_say_silent(gathered.silent, stderr);
}

int verb_fn_list(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"NAME", "name", AS_TEXT},
        {"LIVE", "live", AS_TEXT},
        {"STATE", "version.state", AS_TEXT},
        {"LANGUAGE", "version.language", AS_TEXT},
        {"TIER", "version.tier", AS_TEXT},
        {"ISOLATION", "version.isolation", AS_TEXT},
        {"CALLS", "usage.calls", AS_TEXT},
        {"ERRORS", "usage.failed", AS_TEXT},
        {"P99", "usage.p99", AS_TEXT},
        {"RUNNING", "usage.running", AS_TEXT},
        {"URL", "url", AS_TEXT},
    };
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", "/v1/functions", NULL, &document, err);
    if (r < 0) {
        return r;
    }
    json_t *functions = json_object_get(document, "functions");
    add_usage(functions);
    if (output != OUTPUT_TABLE) {
        print_document(document, output);
        return 0;
    }
    size_t index = 0;
    const json_t *function = NULL;
    json_array_foreach(functions, index, function)
    {
        json_t *usage = json_object_get(function, "usage");
        if (usage != NULL) {
            usage_add_texts(usage);
        }
    }
    print_table(functions, columns, COUNT(columns));
    return 0;
}

static void print_function(const json_t *function)
{
    static const struct column columns[] = {
        {"name", "name", AS_TEXT},
        {"url", "url", AS_TEXT},
        {"live", "live", AS_TEXT},
        {"version", "version.number", AS_TEXT},
        {"state", "version.state", AS_TEXT},
        {"error", "version.error", AS_TEXT},
        {"language", "version.language", AS_TEXT},
        {"flake", "version.flake", AS_TEXT},
        {"abi", "version.abi", AS_TEXT},
        {"tier", "version.tier", AS_TEXT},
        {"isolation", "version.isolation", AS_TEXT},
        {"runs on", "version.nodes", AS_TEXT},
        {"wasm", "version.module_bytes", AS_BYTES},
        {"image", "version.image_bytes", AS_BYTES},
        {"snapshot", "version.snapshot_bytes", AS_BYTES},
        {"build", "version.build_ms", AS_TIME},
        {"optimise", "version.optimize_ms", AS_TIME},
        {"runtime", "version.runtime", AS_TEXT},
        {"machine image", "version.linux.image", AS_TEXT},
        {"runner", "version.linux.runner", AS_TEXT},
        {"handler", "version.linux.handler", AS_TEXT},
        {"command", "version.linux.command", AS_TEXT},
        {"memory", "version.memory_bytes", AS_BYTES},
        {"timeout", "version.timeout_ms", AS_MS},
        {"concurrency", "version.concurrency_max", AS_LIMIT},
        {"queue", "version.queue_max", AS_TEXT},
        {"reuse", "version.reuse", AS_TEXT},
        {"instances min", "version.instances_min", AS_TEXT},
        {"instances max", "version.instances_max", AS_LIMIT},
        {"idle", "version.idle_ms", AS_LIMIT_MS},
        {"recycle calls", "version.recycle_requests", AS_LIMIT},
        {"recycle after", "version.recycle_ms", AS_LIMIT_MS},
        {"output max", "version.output_bytes_max", AS_BYTES},
        {"log max", "version.log_bytes_max", AS_BYTES},
        {"tmp max", "version.tmp_bytes_max", AS_BYTES},
        {"environment", "version.environment", AS_TEXT},
        {"secrets", "version.secrets", AS_TEXT},
        {"fetch", "version.fetch.allow", AS_TEXT},
        {"async retries", "version.async.retries", AS_TEXT},
        {"async backoff", "version.async.backoff_ms", AS_MS},
        {"async max age", "version.async.max_age_ms", AS_MS},
        {"async timeout", "version.async.timeout_ms", AS_LIMIT_MS},
        {"async keep", "version.async.keep_ms", AS_MS},
        {"on success", "version.async.on_success", AS_TEXT},
        {"on failure", "version.async.on_failure", AS_TEXT},
        {"lacks", "version.lacks", AS_TEXT},
        {"created", "created_at", AS_TEXT},
    };
    print_facts(function, columns, COUNT(columns));
}

int verb_fn_get(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *function = NULL;
    GATHERED_OWNED struct gathered gathered = {0};
    enum output output = OUTPUT_TABLE;
    const char *name = arguments->words[0];
    MEMORY_OWNED char *target = request_target("functions", name, "");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &function, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *usage = know_usage(name, &gathered) ? usage_of(&gathered, name) : NULL;
    if (output != OUTPUT_TABLE) {
        if (usage != NULL) {
            json_object_set(function, "usage", usage);
        }
        print_document(function, output);
        return 0;
    }
    print_function(function);
    if (usage != NULL) {
        usage_print(usage, json_text(json_object_get(function, "aliases"), "live"));
    }
    return 0;
}

int verb_fn_versions(const struct arguments *arguments, struct error *err)
{
    static const struct column columns[] = {
        {"VERSION", "number", AS_TEXT},     {"STATE", "state", AS_TEXT},
        {"TIER", "tier", AS_TEXT},          {"LANGUAGE", "language", AS_TEXT},
        {"WASM", "module_bytes", AS_BYTES}, {"BUILD", "build_ms", AS_TIME},
        {"CREATED", "created_at", AS_TEXT}, {"ERROR", "error", AS_TEXT},
    };
    MEMORY_OWNED char *target = request_target("functions", arguments->words[0], "/versions");
    return print_target(arguments, target, "versions", columns, COUNT(columns), err);
}

static int parse_version(const char *text, uint64_t *ret_version, struct error *err)
{
    return text_parse_u64(text_of(text, strlen(text)), ret_version)
        ? 0
        : error_set(err, ERROR_INVALID, "\"%.40s\" is not a version's number", text);
}

/* They stay, and call it again when it is there again: whoever did not think of them reads so. */
static void say_triggers_of(const char *name)
{
    JSON_OWNED json_t *document = NULL;
    struct error ignored = {0};
    size_t index = 0;
    const json_t *trigger = NULL;
    if (request_json("GET", "/v1/triggers", NULL, &document, &ignored) < 0) {
        return; /* that it is deleted was said */
    }
    json_array_foreach(json_object_get(document, "triggers"), index, trigger)
    {
        if (strcmp(json_text(trigger, "function"), name) == 0) {
            fprintf(stderr,
                    "trigger %s still is for it: `blixard trigger delete %s`, or deploy it "
                    "again\n",
                    json_text(trigger, "name"), json_text(trigger, "name"));
        }
    }
}

int verb_fn_delete(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    uint64_t version = 0;
    bool one_version = arguments->word_count > 1;
    int r = one_version ? parse_version(arguments->words[1], &version, err) : 0;
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED char *rest = memory_format("/versions/%" PRIu64, version);
    MEMORY_OWNED char *target = request_target("functions", name, one_version ? rest : "");
    r = request_json("DELETE", target, NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "deleted", name);
    if (one_version) {
        json_object_set_new(document, "version", json_integer((json_int_t)version));
        return print_done(arguments, document, err, "deleted version %" PRIu64 " of %s", version,
                          name);
    }
    r = print_done(arguments, document, err, "deleted %s", name);
    say_triggers_of(name);
    return r;
}

/* ---- Invoking ---- */

static bool write_output(const void *bytes, size_t length, void *context)
{
    (void)context;
    return fwrite(bytes, 1, length, stdout) == length || print_flush() == 0;
}

static int read_stdin(struct buffer *input, struct error *err)
{
    for (;;) {
        uint8_t *at = buffer_reserve(input, 65536);
        ssize_t got = read(STDIN_FILENO, at, 65536);
        if (got <= 0) {
            return got < 0 ? error_set(err, ERROR_OS, "reading standard input failed") : 0;
        }
        input->used += (size_t)got;
        if (input->used > INPUT_MAX) {
            return error_set(err, ERROR_TOO_LARGE, "the input is larger than 1 GiB");
        }
    }
}

static int take_input(const struct arguments *arguments, struct buffer *input, struct error *err)
{
    const char *data = flag_value(arguments, "data");
    const char *file = flag_value(arguments, "file");
    bool from_stdin = arguments->word_count > 1 && strcmp(arguments->words[1], "-") == 0;
    if (arguments->word_count > 1 && !from_stdin) {
        return error_set(err, ERROR_INVALID,
                         "unexpected \"%.40s\": input is given by --data, --file or -",
                         arguments->words[1]);
    }
    if ((data != NULL) + (file != NULL) + from_stdin > 1) {
        return error_set(err, ERROR_INVALID, "--data, --file and - exclude each other");
    }
    if (data != NULL) {
        buffer_append_string(input, data);
    } else if (file != NULL) {
        return file_read(file, INPUT_MAX, input, err);
    } else if (from_stdin) {
        return read_stdin(input, err);
    }
    return 0;
}

static void print_verbose(const struct answer *answer)
{
    bool cold = strstr(answer->server_timing, "cold;") != NULL;
    fprintf(stderr,
            "status     %d\nisolation  %s\ninstance   %s (%s)\ntimings    %s (milliseconds)\n"
            "request    %s\n",
            answer->status, answer->isolation, answer->instance, cold ? "cold" : "warm",
            answer->server_timing, answer->request_id);
    if (answer->node[0] != '\0') {
        fprintf(stderr, "node       %s\n", answer->node);
    }
}

/* What is asked of a call that runs later has no effect on one that is waited for. */
static int refuse_preferences(const struct arguments *arguments, struct error *err)
{
    static const char *const names[] = {"wait",       "idempotency-key", "retries",
                                        "backoff",    "max-age",         "keep",
                                        "on-success", "on-failure",      "timeout"};
    for (size_t i = 0; i < COUNT(names); i++) {
        if (flag_value(arguments, names[i]) != NULL) {
            return error_set(err, ERROR_INVALID, "--%s goes with --async", names[i]);
        }
    }
    return 0;
}

/* A status that is the function's own comes with words of its own: its answer, as any other. */
static int take_own_answer(const struct answer *answer, int r, struct error *err)
{
    if (r != -ERROR_PROTOCOL || answer->status < 300) {
        return r;
    }
    if (answer->body.used > 0) {
        write_output(answer->body.data, answer->body.used, NULL);
    }
    if (answer->status < 400) {
        *err = (struct error){0};
        return 0;
    }
    return error_set(err, ERROR_TRAP, "the function answered %d %s", answer->status,
                     http_status_text(answer->status));
}

int verb_fn_invoke(const struct arguments *arguments, struct error *err)
{
    BUFFER_OWNED struct buffer input = {0};
    ANSWER_OWNED struct answer answer = {.on_data = write_output};
    BUFFER_OWNED struct buffer rest = {0};
    const char *node = flag_value(arguments, "node");
    buffer_append_string(&rest, "/invocations");
    request_add_query(&rest, "node", node);
    MEMORY_OWNED char *target =
        request_target("functions", arguments->words[0], buffer_string(&rest));
    const char *header = flag_value(arguments, "header");
    const char *const fields[] = {header, NULL};
    if (header != NULL && (strchr(header, ':') == NULL || strpbrk(header, "\r\n") != NULL)) {
        return error_set(err, ERROR_INVALID, "--header must be 'Name: value'");
    }
    int r = take_input(arguments, &input, err);
    if (r == 0 && flag_value(arguments, "async") != NULL) {
        return node != NULL
            ? error_set(err, ERROR_INVALID, "--async runs on any node; leave --node out")
            : invocation_begin(arguments, target, header, &input, err);
    }
    r = r < 0 ? r : refuse_preferences(arguments, err);
    if (r == 0) {
        r = request("POST", target, fields, input.data, input.used, &answer, err);
        r = take_own_answer(&answer, r, err);
    }
    print_flush();
    if (flag_value(arguments, "verbose") != NULL && answer.status != 0) {
        print_verbose(&answer);
    }
    return r;
}

/* ---- Deploying ---- */

static int upload(const char *path, json_t **ret_blob, struct error *err)
{
    BUFFER_OWNED struct buffer module = {0};
    ANSWER_OWNED struct answer answer = {0};
    const char *const fields[] = {"Content-Type: application/wasm", NULL};
    int r = file_read(path, MODULE_MAX, &module, err);
    if (r == 0) {
        r = request("POST", "/v1/blobs", fields, module.data, module.used, &answer, err);
    }
    return r < 0 ? r : json_read(answer.body.data, answer.body.used, ret_blob, err);
}

/* The flags replace what the file says: what is written where it is deployed is all there is. */
static void add_allow(const struct arguments *arguments, json_t *deploy)
{
    json_t *allow = json_array();
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        if (strcmp(arguments->flags[i].name, "allow") == 0) {
            json_array_append_new(allow, json_string(arguments->flags[i].value));
        }
    }
    if (json_array_size(allow) > 0) {
        json_object_set_new(deploy, "fetch", json_pack("{s:O}", "allow", allow));
    }
    json_decref(allow);
}

/* Flags that may be given several times: over those of the project's file. */
static int add_pairs(const struct arguments *arguments, const char *flag, const char *form,
                     json_t *deploy, const char *key, struct error *err)
{
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        if (strcmp(arguments->flags[i].name, flag) != 0) {
            continue;
        }
        const char *pair = arguments->flags[i].value;
        const char *equals = strchr(pair, '=');
        if (equals == NULL || equals == pair) {
            return error_set(err, ERROR_INVALID, "--%s %.40s is not %s", flag, pair, form);
        }
        json_t *map = json_object_get(deploy, key);
        if (map == NULL) {
            map = json_object();
            json_object_set_new(deploy, key, map);
        }
        MEMORY_OWNED char *name = memory_copy_text(pair, (size_t)(equals - pair));
        json_object_set_new(map, name, json_string(equals + 1));
    }
    return 0;
}

/* Flags of the command line over the settings of the project. */
static int add_flags(const struct arguments *arguments, json_t *deploy, struct error *err)
{
    for (unsigned i = 0; i < cli_setting_count; i++) {
        const struct setting *setting = &cli_settings[i];
        const char *text = flag_value(arguments, setting->flag);
        MEMORY_OWNED char *shown = memory_format("--%s", setting->flag);
        int r = text != NULL ? setting_take(setting, shown, text, deploy, err) : 0;
        if (r < 0) {
            return r;
        }
    }
    add_allow(arguments, deploy);
    int r = add_pairs(arguments, "env", "NAME=value", deploy, "environment", err);
    return r < 0 ? r : add_pairs(arguments, "secret", "NAME=SECRET", deploy, "secrets", err);
}

static int start_deploy(const char *name, const json_t *deploy, json_t **ret_reference,
                        struct error *err)
{
    BUFFER_OWNED struct buffer body = {0};
    MEMORY_OWNED char *target = request_target("functions", name, "/versions");
    char *text = json_dumps(deploy, 0);
    buffer_append_string(&body, text);
    free(text);
    return request_json("POST", target, &body, ret_reference, err);
}

static void say_lacks(const json_t *function)
{
    size_t index = 0;
    const json_t *said = NULL;
    json_array_foreach(json_object_get(json_object_get(function, "version"), "lacks"), index, said)
    {
        fprintf(stderr, "%s\n", json_string_value(said));
    }
}

static int finish_deploy(const struct arguments *arguments, const char *name,
                         const json_t *reference, uint64_t begin_ms, struct error *err)
{
    JSON_OWNED json_t *function = NULL;
    enum output output = OUTPUT_TABLE;
    const char *id = json_string_value(json_object_get(reference, "operation"));
    int r = output_of(arguments, &output, err);
    if (r < 0) {
        return r;
    }
    if (flag_value(arguments, "no-wait") != NULL) {
        return print_done(arguments, (json_t *)(uintptr_t)reference, err, "operation %s", id);
    }
    MEMORY_OWNED char *target = request_target("functions", name, "");
    r = operation_wait_for(id, NULL, err);
    if (r == 0) {
        r = request_json("GET", target, NULL, &function, err);
    }
    if (r < 0) {
        return r;
    }
    say_lacks(function);
    if (output != OUTPUT_TABLE) {
        print_document(function, output);
        return 0;
    }
    const char *url = json_string_value(json_object_get(function, "url"));
    const char *tier =
        json_string_value(json_object_get(json_object_get(function, "version"), "tier"));
    MEMORY_OWNED char *with = tier != NULL && tier[0] != '\0' ? memory_format(" (%s tier)", tier)
                                                              : memory_copy_string("");
    printf("%s version %lld is live after %.1f s%s\n%s\n", name,
           (long long)json_integer_value(json_object_get(reference, "version")),
           (double)(clock_monotonic_ms() - begin_ms) / 1000, with,
           url != NULL ? url : "clients of the gateway reach it by a route (blixard route set)");
    return 0;
}

struct deployment {
    char *name;
    char *module;
    char *folder; /* of a Linux function's project; NULL: it is none */
    bool is_temporary;
    json_t *settings;
    json_t *triggers;
};

static void deployment_done(struct deployment *deployment)
{
    free(deployment->name);
    if (deployment->is_temporary) {
        unlink(deployment->module);
        interrupt_keeps(deployment->module);
    }
    free(deployment->module);
    free(deployment->folder);
    json_decref(deployment->settings);
    json_decref(deployment->triggers);
}

/* The folder as it is, as a tar archive: what runs it has no use for anything else. */
static int pack(const struct project *project, struct deployment *deployment, struct error *err)
{
    const char *folder = getenv("TMPDIR");
    char *path = memory_format("%s/blixard-XXXXXX", folder != NULL ? folder : "/tmp");
    FD_OWNED int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) {
        error_os(err, errno, "making a file in %s", folder != NULL ? folder : "/tmp");
        free(path);
        return -(int)err->kind;
    }
    deployment->module = path;
    deployment->is_temporary = true;
    interrupt_removes(path);
    return rootfs_archive(project->folder, fd, err);
}

/* A package of a flake; its name unless another is said. */
static int prepare_flake(const char *name, const char *flake, const struct arguments *flags,
                         struct deployment *deployment, struct error *err)
{
    MEMORY_OWNED char *own = NULL;
    int r = flake_build_function(flake, NULL, flag_value(flags, "twice") != NULL, &own,
                                 &deployment->module, err);
    if (r == 0 && name == NULL && !text_is_name(own)) {
        return error_set(err, ERROR_INVALID, "%.64s is no name for a function: say one", own);
    }
    if (r == 0) {
        deployment->name = memory_copy_string(name != NULL ? name : own);
        deployment->settings = json_pack("{s:s}", "flake", flake);
    }
    return r;
}

/* A module as it is, or a project that is built first.  `name` NULL: the project's own. */
static int prepare(const char *name, const char *path, const struct arguments *flags,
                   struct deployment *deployment, struct error *err)
{
    struct stat status;
    struct project project;
    if (stat(path, &status) < 0) {
        return error_set(err, ERROR_NOT_FOUND, "%s does not exist", path);
    }
    if (!S_ISDIR(status.st_mode)) {
        deployment->name = memory_copy_string(name);
        deployment->module = memory_copy_string(path);
        deployment->settings = json_object();
        return 0;
    }
    int r = project_read(path, flags, &project, err);
    if (r < 0) {
        return r;
    }
    r = project_is_linux(&project) ? pack(&project, deployment, err)
                                   : project_build(&project, &deployment->module, err);
    if (r == 0) {
        deployment->name = memory_copy_string(name != NULL ? name : project.name);
        deployment->settings = json_incref(project.settings);
        deployment->triggers = json_incref(project.triggers);
        json_object_set_new(deployment->settings, "language", json_string(project.language));
        deployment->folder = project_is_linux(&project) ? memory_copy_string(project.folder) : NULL;
    }
    project_done(&project);
    return r;
}

/* Of its settings, the path of the runner whose guest it runs in, the caller's; NULL: in an
 * image's.  What the command line says is relative to where that is. */
static int find_runner(const struct arguments *arguments, const struct deployment *deployment,
                       char **ret_path, struct error *err)
{
    const char *runner = json_text(deployment->settings, "runner");
    const char *said = flag_value(arguments, "flake");
    if (said != NULL) {
        json_object_set_new(deployment->settings, "flake", json_string(said));
    }
    const char *flake = json_text(deployment->settings, "flake");
    if ((runner[0] != '\0') + (flake[0] != '\0') +
            (json_text(deployment->settings, "image")[0] != '\0') >
        1) {
        return error_set(err, ERROR_INVALID, "image, runner and flake exclude each other");
    }
    if (flake[0] != '\0') {
        const char *folder = said != NULL ? NULL : deployment->folder;
        return flake_build(arguments, flake, folder, ret_path, err);
    }
    bool is_said_here = runner[0] == '/' || flag_value(arguments, "runner") != NULL;
    if (runner[0] != '\0') {
        *ret_path = is_said_here ? memory_copy_string(runner)
                                 : memory_format("%s/%s", deployment->folder, runner);
    }
    return 0;
}

/* A runner's guest is its image, and has the memory that it would have. */
static int take_guest(const struct arguments *arguments, const struct deployment *deployment,
                      struct error *err)
{
    uint64_t memory_bytes = 0;
    MEMORY_OWNED char *path = NULL;
    MEMORY_OWNED char *name = NULL;
    json_t *settings = deployment->settings;
    bool has_flake = arguments->word_count == 2 && flag_value(arguments, "flake") != NULL;
    if (deployment->folder == NULL) {
        return json_object_get(settings, "runner") == NULL && !has_flake
            ? 0
            : error_set(err, ERROR_INVALID,
                        "a runner, or a flake besides a PATH, is of a folder with runtime: linux");
    }
    int r = find_runner(arguments, deployment, &path, err);
    r = r < 0 || path == NULL ? r : image_of_runner(path, true, &name, &memory_bytes, err);
    if (r < 0 || path == NULL) {
        return r;
    }
    json_object_set_new(settings, "image", json_string(name));
    json_object_set_new(settings, "runner", json_string(path));
    if (memory_bytes > 0 && json_object_get(settings, "memory_bytes") == NULL) {
        json_object_set_new(settings, "memory_bytes", json_integer((json_int_t)memory_bytes));
    }
    return 0;
}

static int deploy(const struct arguments *arguments, const struct deployment *deployment,
                  uint64_t begin_ms, struct error *err)
{
    JSON_OWNED json_t *blob = NULL;
    JSON_OWNED json_t *reference = NULL;
    /* No version is live whose triggers could not be. */
    int r = trigger_check_deploy(deployment->triggers, deployment->name, err);
    r = r < 0 ? r : upload(deployment->module, &blob, err);
    if (r < 0) {
        return r;
    }
    json_object_set(deployment->settings, "module", json_object_get(blob, "id"));
    r = start_deploy(deployment->name, deployment->settings, &reference, err);
    r = r < 0 ? r : finish_deploy(arguments, deployment->name, reference, begin_ms, err);
    return r < 0 ? r : trigger_deploy(deployment->triggers, deployment->name, err);
}

int verb_fn_deploy(const struct arguments *arguments, struct error *err)
{
    uint64_t begin_ms = clock_monotonic_ms();
    struct deployment deployment = {0};
    const char *name = arguments->word_count > 0 ? arguments->words[0] : NULL;
    const char *flake = flag_value(arguments, "flake");
    if (arguments->word_count == 2) {
        flake = NULL; /* it is its machine's */
    }
    if (flake == NULL && arguments->word_count == 1) {
        return error_set(err, ERROR_INVALID,
                         "usage: blixard fn deploy NAME PATH (in a project's folder, blixard fn "
                         "deploy alone will do), or blixard fn deploy [NAME] --flake "
                         "REFERENCE#PACKAGE");
    }
    if (flake == NULL && flag_value(arguments, "twice") != NULL) {
        return error_set(err, ERROR_INVALID, "--twice is for --flake");
    }
    if (name != NULL && !text_is_name(name)) {
        return error_set(
            err, ERROR_INVALID,
            "\"%.64s\" is not a name for a function: 1 to 63 of a-z, 0-9 and '-', beginning "
            "with a letter",
            name);
    }
    int r = flake != NULL
        ? prepare_flake(name, flake, arguments, &deployment, err)
        : prepare(name, name != NULL ? arguments->words[1] : ".", arguments, &deployment, err);
    r = r < 0 ? r : add_flags(arguments, deployment.settings, err);
    r = r < 0 ? r : take_guest(arguments, &deployment, err);
    r = r < 0 ? r : deploy(arguments, &deployment, begin_ms, err);
    deployment_done(&deployment);
    return r;
}

int verb_fn_build(const struct arguments *arguments, struct error *err)
{
    struct project project;
    MEMORY_OWNED char *module = NULL;
    int r =
        project_read(arguments->word_count > 0 ? arguments->words[0] : ".", NULL, &project, err);
    if (r < 0) {
        return r;
    }
    r = project_is_linux(&project)
        ? error_set(err, ERROR_INVALID,
                    "a function with runtime: linux is not built: blixard fn deploy packs its "
                    "folder as it is")
        : project_build(&project, &module, err);
    if (r == 0) {
        JSON_OWNED json_t *document = json_pack("{s:s, s:s, s:s}", "name", project.name, "language",
                                                project.language, "module", module);
        r = print_done(arguments, document, err, "%s", module);
    }
    project_done(&project);
    return r;
}
