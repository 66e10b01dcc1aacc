/* What the files of this room share. */
#ifndef SURFACE_CLI_PRIVATE_H
#define SURFACE_CLI_PRIVATE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/buffer.h"
#include "base/embed.h"
#include "base/error.h"
#include "base/process.h"

enum { FLAGS_MAX = 1024, WORDS_MAX = 4096, FIELDS_MAX = 16 };

/* A verb's arguments after parsing. */
struct arguments {
    const char *words[WORDS_MAX];
    unsigned word_count;
    unsigned words_in_front; /* of `--` */
    struct {
        const char *name; /* without dashes */
        const char *value;
    } flags[FLAGS_MAX];
    unsigned flag_count;
};

/* Value of a flag, or NULL; a switch that is set has the value "". */
const char *flag_value(const struct arguments *arguments, const char *name);

struct flag {
    const char *name;
    char letter;         /* 0: none */
    const char *value;   /* what it takes, for help: "SIZE"; NULL: a switch */
    const char *choices; /* "c cpp rust", or NULL */
    const char *help;
};

/* Is it one of "c cpp rust"? */
bool flag_is_choice(const char *choices, const char *value);

/* What one that is no switch takes, for people: "SIZE", or "c|cpp|rust"; the caller frees it. */
char *flag_takes(const struct flag *flag);

/* A row of verbs.c: from it come parsing, help, completion and the manual page. */
struct verb {
    const char *noun; /* "" for verbs without one; one word or two ("node token") */
    const char *name;
    const char *words; /* "NAME PATH"; one that ends with "..." alone: run for each */
    unsigned words_least;
    unsigned words_most;
    const struct flag *flags; /* ends with a NULL name; NULL: none */
    const char *summary;
    const char *examples; /* lines, each with its newline */
    int (*run)(const struct arguments *arguments, struct error *err); /* NULL: main runs it */
};

extern const struct verb cli_verbs[];
extern const unsigned cli_verb_count;
extern const struct flag cli_common_flags[];

struct noun {
    const char *name;
    const char *summary;
};
extern const struct noun cli_nouns[];
extern const unsigned cli_noun_count;

/* ---- context.c: which cluster, and as whom ---- */

/* The name that means the node on this machine, without a cluster's certificates. */
#define CONTEXT_LOCAL "local"

enum { CONTEXTS_MAX = 256 };

struct context {
    char *name;
    char *cluster;      /* its id */
    char *cluster_name; /* for people */
    char *fingerprint;  /* of its authority */
    char *client;       /* as whom */
    json_t *addresses;  /* HOST:PORT, in the order they are tried */
    char *authority;    /* PEM, with certificate and key; NULL where there is a token */
    char *certificate;
    char *key;
    char *token; /* the bearer's secret, or NULL */
};

void context_done(struct context *context);
#define CONTEXT_OWNED __attribute__((cleanup(context_done)))

int context_read(const char *name, struct context *ret_context, struct error *err);
int context_write(const struct context *context, struct error *err);
int context_remove(const char *name, struct error *err);

/*
 * What a node said of all nodes: their addresses become those of the context, the ones that it has
 * already first.  That a context cannot be written harms nothing.
 */
void context_learn(const char *name, const json_t *nodes);

/* The address that answered when those before it did not: it is asked first from now on. */
void context_prefer(const char *name, const char *address);

/* The one in use: a name the caller frees, or NULL.  context_use(NULL): none. */
char *context_current(void);
int context_use(const char *name_or_null, struct error *err);
int context_names(json_t **ret_names, struct error *err);

/* ---- target.c: where requests go ---- */

enum { TARGET_ADDRESSES_MAX = 16 };

struct tls_context;

struct target {
    char *context;                         /* NULL: none */
    char *name;                            /* for people */
    char *addresses[TARGET_ADDRESSES_MAX]; /* tried in order */
    size_t address_count;
    struct tls_context *tls; /* NULL: in the clear */
    char *authorization;     /* a field, or NULL */
};

/* --addr, --context, --token-file, --project; kept, not copied. */
void target_set_flags(const struct arguments *arguments);

/* A path of the API with the project that it is asked for; the caller frees it. */
char *target_path(const char *path);
int target_find(const struct target **ret_target, struct error *err);

/* The text of a token; "-": standard input. */
int token_read_file(const char *path, char **ret_text, struct error *err);

/* ---- request.c: one call to the node, from beginning to end ---- */

struct answer {
    int status;
    struct buffer body;
    char *server_timing;
    char *instance;
    char *isolation;
    char *request_id;
    uint64_t index; /* of the state; 0: it is not said */
    char *node;     /* who ran it, "" when it is not said */
    /* Pieces as they come instead of in `body`; false: enough, the call is broken off. */
    bool (*on_data)(const void *bytes, size_t length, void *context);
    void *context;
};

void answer_done(struct answer *answer);
#define ANSWER_OWNED __attribute__((cleanup(answer_done)))

/* One call to this target; the others call the one that target_find() says. */
int request_to(const struct target *target, const char *method, const char *path,
               const char *const *fields, const void *body, size_t length, struct answer *answer,
               struct error *err);

/*
 * Fails with UNAVAILABLE (nobody answers: what to do), or with the kind and the text of a problem
 * document when the status is not a success.  `type` may be NULL.
 */
int request(const char *method, const char *target, const char *const *fields, const void *body,
            size_t length, struct answer *answer, struct error *err);

/* A call whose answer is a JSON document. */
int request_json(const char *method, const char *target, const struct buffer *json,
                 json_t **ret_document, struct error *err);

/* The same with a document as its body; INVALID: a text in it is no UTF-8. */
int request_send(const char *method, const char *target, const json_t *body, json_t **ret_document,
                 struct error *err);

/* "/v1/FOLDER/NAME" + rest, the name encoded; the caller's. */
char *request_target(const char *folder, const char *name, const char *rest);

/* Behind the `?` of a target: NAME=VALUE, the value encoded; NULL: nothing. */
void request_add_query(struct buffer *target, const char *name, const char *value_or_null);

/* A problem document as an error of its kind. */
int request_take_problem(const struct answer *answer, struct error *err);

/* The address of a target that answered last, or the first one. */
const char *request_alive(const struct target *target);

/* target_find(), and see to it that request_alive() is a node that answers: for what asks one alone
 * and cannot be repeated at the next. */
int request_reach(const struct target **ret_target, struct error *err);

/* ---- stream.c: answers that go on ---- */

/* An event stream: each event's JSON, as it comes.  Returns when the stream ends. */
int request_events(const char *target, void (*take)(const json_t *event, const char *label),
                   struct error *err);

/* Several event streams at once, each with the name of where it comes from.  Returns when all have
 * ended; what ends one of many is told on standard error. */
struct event_source {
    char *target;
    const char *label;
};
int request_events_of_all(const struct event_source *sources, size_t count,
                          void (*take)(const json_t *event, const char *label), struct error *err);

/* ---- everywhere.c: what each node keeps for itself ---- */

/* Names of the nodes to ask: the one wanted, or all; the caller's to free. */
int everywhere_nodes(const char *wanted_or_null, json_t **ret_names, struct error *err);
/* The rows in the order of qsort(3)'s `compare` of two `json_t *const`; the caller's. */
json_t *rows_sort(const json_t *rows, int (*compare)(const void *a, const void *b));
/* A node that does not answer is told of on standard error, unless it is the only one.  None
 * answers, or one refuses: a failure. */
int everywhere_ask(const json_t *names,
                   int (*ask)(const char *node, void *context, struct error *err), void *context,
                   struct error *err);

/* The same document of each node, all asked at once; who does not answer soon is left out, and
 * named.  Fails where nobody answers.  End it with gathered_done() in any case. */
struct gathered {
    json_t *answers; /* NODE: its document */
    json_t *silent;  /* [{node, reason}] */
};
int gather(const char *node_or_null, const char *path, struct gathered *ret_gathered,
           struct error *err);
void gathered_done(struct gathered *gathered);
#define GATHERED_OWNED __attribute__((cleanup(gathered_done)))
/* A line for each: that it is not counted, and why. */
void gathered_say_silent(const json_t *silent, FILE *file);

/* ---- function_usage.c: what functions do, on all nodes ---- */

/* Where nodes have FunctionUsageLists, of all functions or of one; and those of all nodes. */
void usage_path(const char *name_or_null, struct buffer *out);
int usage_gather(const char *name_or_null, struct gathered *ret_gathered, struct error *err);
/* Of one function, summed: the members of figures_write(), running, waiting, idle, window_ms;
 * `versions` with the same, `nodes` and `silent`.  The caller's, as all of these. */
json_t *usage_of(const struct gathered *gathered, const char *name);
/* A row for each version that an alias points to ("3", "v7=90 v8=10"), called or not; with its
 * weight and share_percent. */
json_t *usage_alias_rows(const json_t *usage, const char *target);
/* "3", or who 0 is; the caller's. */
char *usage_version_name(uint64_t number);
/* Texts for people: p50, p99, run_p50, run_p99, failed. */
void usage_add_texts(json_t *row);
/* Lines beside those of the function, and a table where it has several versions. */
void usage_print(const json_t *usage, const char *live);
/* The recent time, and whose it is. */
void usage_print_window(const json_t *usage);
/* Rows of versions, as a table. */
void usage_print_versions(const json_t *rows);

/* ---- operation.c ---- */

/* When --timeout is over, by clock_monotonic_ms(); UINT64_MAX where it is not given. */
int patience_of(const struct arguments *arguments, uint64_t *ret_end_ms, struct error *err);
/* How long one request may wait: what is left until then, from 1 ms to `most_ms`. */
uint64_t patience_turn_ms(uint64_t end_ms, uint64_t most_ms);

/* Wait for an operation's end, with progress on a terminal; fails as it did.  *ret_operation (may
 * be NULL) is the caller's. */
int operation_wait_for(const char *id, json_t **ret_operation, struct error *err);

/* ---- interrupt.c: what Ctrl-C leaves (SIGINT, SIGTERM, SIGHUP) ---- */

/* A file, or a folder with what is in it, goes with this program; until `keeps`. */
void interrupt_removes(const char *path);
void interrupt_keeps(const char *path);
/* What is said then: that something goes on without this.  Takes `owned_text`; NULL: nothing does.
 */
void interrupt_says(char *owned_text);
/* process_run(), of a program that is told to end, and waited for. */
int interrupt_run(struct process_options options, struct buffer *output, struct buffer *errors,
                  struct process_result *ret_result, struct error *err);

/* ---- download.c: answers as files, with progress on a terminal ---- */
int download_to(const char *target, int fd, const char *name, uint64_t *ret_bytes_or_null,
                struct error *err);
/* Whole or not at all; EXISTS. */
int download_file(const char *target, const char *path, uint64_t *ret_bytes, struct error *err);

/* ---- invocation.c ---- */

/* `fn invoke --async`: have it run later; print its id, or with --wait its answer. */
int invocation_begin(const struct arguments *arguments, const char *target, const char *header,
                     const struct buffer *input, struct error *err);

/* ---- print.c ---- */

enum output { OUTPUT_TABLE, OUTPUT_JSON, OUTPUT_YAML };
int output_of(const struct arguments *arguments, enum output *ret_output, struct error *err);
/* Standard output as far as it is written: 0, or the errno of the first failure. */
int print_flush(void);

void print_document(const json_t *document, enum output output);

struct column {
    const char *title;
    const char *path; /* "version.tier" */
    /* AS_LIMIT, AS_LIMIT_MS: a bound; 0 is "none". */
    enum { AS_TEXT, AS_BYTES, AS_MS, AS_TIME, AS_VCPUS, AS_NUMA, AS_LIMIT, AS_LIMIT_MS } as;
};
void print_table(const json_t *rows, const struct column *columns, unsigned count);

/* What a verb that changes something says: a sentence, or the document in the format asked for. */
int print_done(const struct arguments *arguments, json_t *document, struct error *err,
               const char *format, ...) __attribute__((format(printf, 4, 5)));

/* One "name: value" line per row. */
void print_facts(const json_t *document, const struct column *columns, unsigned count);

/* One more of them, beside the others: what it says is made printable in place. */
void print_fact(const char *name, char *text);

/* The same without those that the document has not: of what has many, and few at a time. */
void print_known_facts(const json_t *document, const struct column *columns, unsigned count);

/* GET a document and print it in the format asked for: as a table the rows in its member `rows`, or
 * (NULL) itself, a line per column. */
int print_target(const struct arguments *arguments, const char *target, const char *rows_or_null,
                 const struct column *columns, unsigned count, struct error *err);

/* ---- top.c: what is used, as rates between two looks ---- */

/* What --sort is: the most of a field first, or (NULL) the order that rows come in. */
struct top_order {
    const char *name;
    const char *field;
};

struct top {
    const char *path;   /* that each node is asked for */
    const char *member; /* of documents */
    /* Of the answers of two looks, {NODE: document}, a row for each thing; the caller's. */
    json_t *(*compare)(const json_t *before, const json_t *now, const void *context);
    const void *context;
    /* Texts of a row for people, added to it; NULL: it has them all. */
    void (*add_texts)(json_t *row);
    const struct column *columns;
    unsigned column_count;
    const struct top_order *orders; /* ends with a NULL name */
};
int top_run(const struct arguments *arguments, const struct top *top, struct error *err);

/* ---- The verbs' rooms ---- */

int verb_fn_new(const struct arguments *arguments, struct error *err);
int verb_fn_init(const struct arguments *arguments, struct error *err);
int verb_fn_build(const struct arguments *arguments, struct error *err);
int verb_fn_run(const struct arguments *arguments, struct error *err);
int verb_fn_optimize(const struct arguments *arguments, struct error *err);
int verb_fn_deploy(const struct arguments *arguments, struct error *err);
int verb_fn_invoke(const struct arguments *arguments, struct error *err);
int verb_fn_top(const struct arguments *arguments, struct error *err);
int verb_fn_list(const struct arguments *arguments, struct error *err);
int verb_fn_get(const struct arguments *arguments, struct error *err);
int verb_fn_forecast(const struct arguments *arguments, struct error *err);
int verb_vm_forecast(const struct arguments *arguments, struct error *err);
int verb_node_forecast(const struct arguments *arguments, struct error *err);
int verb_fn_versions(const struct arguments *arguments, struct error *err);
int verb_fn_logs(const struct arguments *arguments, struct error *err);
int verb_kv_get(const struct arguments *arguments, struct error *err);
int verb_kv_set(const struct arguments *arguments, struct error *err);
int verb_kv_list(const struct arguments *arguments, struct error *err);
int verb_kv_delete(const struct arguments *arguments, struct error *err);
/* placement.c */
/* --constraint and the like, as fields of a MachineCreate or a MachineUpdate; "none": no such. */
void placement_take_rules(const struct arguments *arguments, json_t *body);
void print_accesses(const json_t *document);
int verb_placement_explain(const struct arguments *arguments, struct error *err);
int verb_maintenance_set(const struct arguments *arguments, struct error *err);
int verb_maintenance_list(const struct arguments *arguments, struct error *err);
int verb_maintenance_clear(const struct arguments *arguments, struct error *err);
int verb_placement_list(const struct arguments *arguments, struct error *err);
int verb_placement_reserve(const struct arguments *arguments, struct error *err);
int verb_placement_release(const struct arguments *arguments, struct error *err);
int verb_placement_strategy(const struct arguments *arguments, struct error *err);
int verb_placement_group_create(const struct arguments *arguments, struct error *err);
int verb_placement_group_list(const struct arguments *arguments, struct error *err);
int verb_placement_group_show(const struct arguments *arguments, struct error *err);
int verb_placement_group_delete(const struct arguments *arguments, struct error *err);

/* network.c */
int network_take_flags(const struct arguments *arguments, json_t *body, struct error *err);
int verb_network_create(const struct arguments *arguments, struct error *err);
int verb_network_update(const struct arguments *arguments, struct error *err);
int verb_network_list(const struct arguments *arguments, struct error *err);
int verb_network_show(const struct arguments *arguments, struct error *err);
int verb_network_delete(const struct arguments *arguments, struct error *err);
int verb_security_group_create(const struct arguments *arguments, struct error *err);
int verb_security_group_list(const struct arguments *arguments, struct error *err);
int verb_security_group_show(const struct arguments *arguments, struct error *err);
int verb_security_group_delete(const struct arguments *arguments, struct error *err);
int verb_security_group_allow(const struct arguments *arguments, struct error *err);
int verb_security_group_revoke(const struct arguments *arguments, struct error *err);
int verb_secret_set(const struct arguments *arguments, struct error *err);
int verb_secret_list(const struct arguments *arguments, struct error *err);
int verb_secret_show(const struct arguments *arguments, struct error *err);
int verb_secret_delete(const struct arguments *arguments, struct error *err);
/* The one trace whose id begins so, of those that these nodes list; a whole id is taken as it is.
 */
enum { CLI_TRACE_ID_SIZE = 33 };
int trace_complete_id(const json_t *names, const char *wanted, char ret_id[CLI_TRACE_ID_SIZE],
                      struct error *err);
int verb_trace_list(const struct arguments *arguments, struct error *err);
int verb_trace_show(const struct arguments *arguments, struct error *err);
int verb_invocation_list(const struct arguments *arguments, struct error *err);
int verb_invocation_get(const struct arguments *arguments, struct error *err);
int verb_invocation_wait(const struct arguments *arguments, struct error *err);
int verb_invocation_cancel(const struct arguments *arguments, struct error *err);
int verb_invocation_logs(const struct arguments *arguments, struct error *err);
int verb_invocation_redrive(const struct arguments *arguments, struct error *err);
int verb_fn_alias_set(const struct arguments *arguments, struct error *err);
int verb_fn_alias_get(const struct arguments *arguments, struct error *err);
int verb_fn_alias_list(const struct arguments *arguments, struct error *err);
int verb_fn_alias_history(const struct arguments *arguments, struct error *err);
int verb_fn_alias_delete(const struct arguments *arguments, struct error *err);
int verb_fn_rollback(const struct arguments *arguments, struct error *err);
int verb_fn_prune(const struct arguments *arguments, struct error *err);
int verb_fn_delete(const struct arguments *arguments, struct error *err);
int verb_stream_create(const struct arguments *arguments, struct error *err);
int verb_stream_list(const struct arguments *arguments, struct error *err);
int verb_stream_get(const struct arguments *arguments, struct error *err);
int verb_stream_update(const struct arguments *arguments, struct error *err);
int verb_stream_delete(const struct arguments *arguments, struct error *err);
int verb_stream_append(const struct arguments *arguments, struct error *err);
int verb_stream_read(const struct arguments *arguments, struct error *err);
int verb_stream_checkpoint(const struct arguments *arguments, struct error *err);
int verb_queue_create(const struct arguments *arguments, struct error *err);
int verb_queue_list(const struct arguments *arguments, struct error *err);
int verb_queue_get(const struct arguments *arguments, struct error *err);
int verb_queue_update(const struct arguments *arguments, struct error *err);
int verb_queue_delete(const struct arguments *arguments, struct error *err);
int verb_queue_send(const struct arguments *arguments, struct error *err);
int verb_queue_receive(const struct arguments *arguments, struct error *err);
int verb_queue_ack(const struct arguments *arguments, struct error *err);
int verb_queue_nack(const struct arguments *arguments, struct error *err);
int verb_queue_extend(const struct arguments *arguments, struct error *err);
int verb_queue_purge(const struct arguments *arguments, struct error *err);
int verb_queue_messages(const struct arguments *arguments, struct error *err);
int verb_queue_dead_letters(const struct arguments *arguments, struct error *err);
int verb_queue_redrive(const struct arguments *arguments, struct error *err);
int verb_operation_list(const struct arguments *arguments, struct error *err);
int verb_operation_get(const struct arguments *arguments, struct error *err);
int verb_operation_wait(const struct arguments *arguments, struct error *err);
int verb_operation_cancel(const struct arguments *arguments, struct error *err);
int verb_login(const struct arguments *arguments, struct error *err);
int verb_logout(const struct arguments *arguments, struct error *err);
int verb_context_list(const struct arguments *arguments, struct error *err);
int verb_context_use(const struct arguments *arguments, struct error *err);
int verb_context_show(const struct arguments *arguments, struct error *err);
int verb_context_delete(const struct arguments *arguments, struct error *err);
int verb_node_show(const struct arguments *arguments, struct error *err);
int verb_cluster_init(const struct arguments *arguments, struct error *err);
int verb_cluster_status(const struct arguments *arguments, struct error *err);
int verb_cluster_transfer_leadership(const struct arguments *arguments, struct error *err);
int verb_node_list(const struct arguments *arguments, struct error *err);
int verb_node_remove(const struct arguments *arguments, struct error *err);
int verb_node_promote(const struct arguments *arguments, struct error *err);
int verb_node_demote(const struct arguments *arguments, struct error *err);
int verb_node_label(const struct arguments *arguments, struct error *err);
int verb_node_pool(const struct arguments *arguments, struct error *err);
int verb_node_cordon(const struct arguments *arguments, struct error *err);
int verb_node_uncordon(const struct arguments *arguments, struct error *err);
int verb_cluster_rebalance(const struct arguments *arguments, struct error *err);
int verb_node_drain(const struct arguments *arguments, struct error *err);
int verb_node_restore(const struct arguments *arguments, struct error *err);
int verb_node_taint(const struct arguments *arguments, struct error *err);
int verb_node_domain(const struct arguments *arguments, struct error *err);
int verb_node_token_create(const struct arguments *arguments, struct error *err);
int verb_node_token_list(const struct arguments *arguments, struct error *err);
int verb_node_token_revoke(const struct arguments *arguments, struct error *err);
int verb_client_create(const struct arguments *arguments, struct error *err);
int verb_route_set(const struct arguments *arguments, struct error *err);
int verb_route_list(const struct arguments *arguments, struct error *err);
int verb_route_get(const struct arguments *arguments, struct error *err);
int verb_route_pause(const struct arguments *arguments, struct error *err);
int verb_route_resume(const struct arguments *arguments, struct error *err);
int verb_route_delete(const struct arguments *arguments, struct error *err);

extern const struct flag vm_create_flags[];
/* machine.c: the flags that are given and are fields of a MachineCreate, whatever the verb. */
int machine_take_flags(const struct arguments *arguments, json_t *ret_body, struct error *err);
extern const struct flag vm_set_flags[];
extern const struct flag image_pull_flags[];
int verb_vm_create(const struct arguments *arguments, struct error *err);
int verb_vm_start(const struct arguments *arguments, struct error *err);
int verb_vm_stop(const struct arguments *arguments, struct error *err);
int verb_vm_restart(const struct arguments *arguments, struct error *err);
int verb_vm_pause(const struct arguments *arguments, struct error *err);
int verb_vm_resume(const struct arguments *arguments, struct error *err);
int verb_vm_delete(const struct arguments *arguments, struct error *err);
int verb_vm_list(const struct arguments *arguments, struct error *err);
int verb_vm_show(const struct arguments *arguments, struct error *err);
int verb_vm_drivers(const struct arguments *arguments, struct error *err);
int verb_vm_wait(const struct arguments *arguments, struct error *err);
int verb_vm_exec(const struct arguments *arguments, struct error *err);
int verb_vm_console(const struct arguments *arguments, struct error *err);
int verb_vm_logs(const struct arguments *arguments, struct error *err);
int verb_vm_cp(const struct arguments *arguments, struct error *err);
int verb_vm_snapshot_create(const struct arguments *arguments, struct error *err);
int verb_vm_snapshot_list(const struct arguments *arguments, struct error *err);
int verb_vm_snapshot_show(const struct arguments *arguments, struct error *err);
int verb_vm_snapshot_delete(const struct arguments *arguments, struct error *err);
int verb_vm_migrate(const struct arguments *arguments, struct error *err);
int verb_vm_resize(const struct arguments *arguments, struct error *err);
int verb_vm_top(const struct arguments *arguments, struct error *err);
/*
 * flake.c: build nixosConfigurations.NAME.config.microvm.declaredRunner of REFERENCE#NAME here and
 * copy it to the store that --copy-to names.  flake_take(): of --flake, as members of a Machine;
 * `with_facts`: its size and MACs, too.  flake_build(): relative to `folder` (NULL: here); the path
 * is the caller's.
 */
int flake_take(const struct arguments *arguments, bool with_facts, json_t *body, struct error *err);
int flake_build(const struct arguments *arguments, const char *flake, const char *folder,
                char **ret_path, struct error *err);

/* image_runner.c: the name of the image of what a runner boots, the caller's, and the memory that
 * it says (0: none); `uploads`: it is there then. */
int image_of_runner(const char *runner, bool uploads, char **ret_name, uint64_t *ret_memory_bytes,
                    struct error *err);

/* A package of a flake, relative to `folder` (NULL: here), that holds NAME.wasm; its name and its
 * module's path are the caller's.  `is_twice`: INVALID when a second build differs by a byte. */
int flake_build_function(const char *flake, const char *folder, bool is_twice, char **ret_name,
                         char **ret_module, struct error *err);

int verb_vm_update(const struct arguments *arguments, struct error *err);
int verb_vm_rollback(const struct arguments *arguments, struct error *err);
int verb_vm_rename(const struct arguments *arguments, struct error *err);
int verb_vm_set(const struct arguments *arguments, struct error *err);
int verb_vm_restore(const struct arguments *arguments, struct error *err);
int verb_vm_clone(const struct arguments *arguments, struct error *err);
int verb_vm_events(const struct arguments *arguments, struct error *err);
int verb_vm_export(const struct arguments *arguments, struct error *err);
int verb_vm_import(const struct arguments *arguments, struct error *err);
int verb_image_list(const struct arguments *arguments, struct error *err);
int verb_image_show(const struct arguments *arguments, struct error *err);
int verb_image_delete(const struct arguments *arguments, struct error *err);
int verb_image_import(const struct arguments *arguments, struct error *err);
int verb_image_build(const struct arguments *arguments, struct error *err);
int verb_image_verify(const struct arguments *arguments, struct error *err);
int verb_image_pull(const struct arguments *arguments, struct error *err);
int verb_volume_create(const struct arguments *arguments, struct error *err);
int verb_volume_list(const struct arguments *arguments, struct error *err);
int verb_volume_show(const struct arguments *arguments, struct error *err);
int verb_volume_attach(const struct arguments *arguments, struct error *err);
int verb_volume_detach(const struct arguments *arguments, struct error *err);
int verb_volume_resize(const struct arguments *arguments, struct error *err);
int verb_volume_limit(const struct arguments *arguments, struct error *err);
int verb_volume_clone(const struct arguments *arguments, struct error *err);
int verb_volume_delete(const struct arguments *arguments, struct error *err);
int verb_volume_snapshot_create(const struct arguments *arguments, struct error *err);
int verb_volume_snapshot_list(const struct arguments *arguments, struct error *err);
int verb_volume_snapshot_delete(const struct arguments *arguments, struct error *err);
int verb_volume_snapshot_restore(const struct arguments *arguments, struct error *err);
int verb_client_list(const struct arguments *arguments, struct error *err);
int verb_client_delete(const struct arguments *arguments, struct error *err);
int verb_cluster_backup(const struct arguments *arguments, struct error *err);
int verb_cluster_recover(const struct arguments *arguments, struct error *err);
int verb_cluster_restore(const struct arguments *arguments, struct error *err);
int verb_trigger_create(const struct arguments *arguments, struct error *err);
int verb_trigger_update(const struct arguments *arguments, struct error *err);
int verb_trigger_list(const struct arguments *arguments, struct error *err);
int verb_trigger_get(const struct arguments *arguments, struct error *err);
int verb_trigger_pause(const struct arguments *arguments, struct error *err);
int verb_trigger_resume(const struct arguments *arguments, struct error *err);
int verb_trigger_delete(const struct arguments *arguments, struct error *err);
int verb_trigger_test(const struct arguments *arguments, struct error *err);
int verb_store_list(const struct arguments *arguments, struct error *err);
int verb_store_show(const struct arguments *arguments, struct error *err);
int verb_store_roots(const struct arguments *arguments, struct error *err);
int verb_store_pin(const struct arguments *arguments, struct error *err);
int verb_store_unpin(const struct arguments *arguments, struct error *err);
int verb_store_gc(const struct arguments *arguments, struct error *err);
int verb_store_verify(const struct arguments *arguments, struct error *err);
int verb_store_copy(const struct arguments *arguments, struct error *err);
int verb_store_key(const struct arguments *arguments, struct error *err);
int verb_quota_set(const struct arguments *arguments, struct error *err);
int verb_quota_show(const struct arguments *arguments, struct error *err);
int verb_quota_list(const struct arguments *arguments, struct error *err);
int verb_quota_delete(const struct arguments *arguments, struct error *err);
int verb_plan(const struct arguments *arguments, struct error *err);
int verb_apply(const struct arguments *arguments, struct error *err);
int verb_delete(const struct arguments *arguments, struct error *err);
int verb_export(const struct arguments *arguments, struct error *err);
int verb_events(const struct arguments *arguments, struct error *err);
int verb_doctor(const struct arguments *arguments, struct error *err);
int verb_completion(const struct arguments *arguments, struct error *err);
int verb_version(const struct arguments *arguments, struct error *err);
int verb_man(const struct arguments *arguments, struct error *err);
int verb_help(const struct arguments *arguments, struct error *err);

/* operation.c: of a ThisNode. */
/* What a Node has, and what of it is taken. */
void node_add_use(const json_t *node, json_t *row); /* cpu_use, memory_use, machines */
void node_print_attributes(const json_t *node);
void node_print_runners(const json_t *node);

/* cluster.c: what `node show NODE` shows. */
int cluster_show_node(const struct arguments *arguments, const char *name, struct error *err);

/* ---- project.c, build.c: a project's settings, and its module ---- */

struct project {
    char *folder;
    char *name;
    char *language;
    char *source;
    json_t *assets;   /* a list of paths, a map from guest paths to paths, or NULL */
    json_t *triggers; /* NAME: a trigger, or NULL */
    json_t *settings; /* what goes into the deploy request */
};

/* `flags` of the command line say what runs it before its files do; NULL: there are none. */
int project_read(const char *folder, const struct arguments *flags, struct project *ret_project,
                 struct error *err);
/* Its runtime is linux: it is packed, not built. */
bool project_is_linux(const struct project *project);
void project_done(struct project *project);

/* Is this relative path one inside a project? */
bool project_has_inside(const char *path);

/* assets.c: put the project's assets into the module file; a project without any changes nothing.
 * Fails with NOT_FOUND (a path or pattern that matches nothing), INVALID, LIMIT, OS. */
int project_add_assets(const struct project *project, const char *module, struct error *err);

/* Compile into FOLDER/build/NAME.wasm, telling compilers' messages on standard error; *ret_path is
 * the module's path, the caller's to free. */
int project_build(const struct project *project, char **ret_path, struct error *err);

EMBED_LIST(cli_files); /* templates and the SDK */

#endif
