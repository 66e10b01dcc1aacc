/* Verbs about the cluster and its nodes. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/http/http.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "surface/cli/private.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum { ROLE_POLL_MS = 200, ROLE_WAIT_MS = 120000, VOTE_WAIT_MS = 10000 };

/* ---- Nodes as rows for people ---- */

/* "in 29 days", from RFC 3339. */
static char *time_left(const char *until)
{
    struct tm parts = {0};
    if (strptime(until, "%Y-%m-%dT%H:%M:%S", &parts) == NULL) {
        return memory_copy_string("-");
    }
    double hours = ((double)timegm(&parts) - (double)clock_real_ms() / 1000) / 3600;
    if (hours <= 0) {
        return memory_copy_string("ended");
    }
    return hours < 48 ? memory_format("%.0f hours", floor(hours))
                      : memory_format("%.0f days", floor(hours / 24));
}

static bool is_standby(const json_t *node)
{
    return strcmp(json_text(node, "role"), "server") == 0 &&
        json_is_false(json_object_get(node, "votes"));
}

static char *role_of(const json_t *node)
{
    const char *role = json_text(node, "role");
    const char *wanted = json_text(node, "wanted_role");
    if (wanted[0] != '\0' && strcmp(role, wanted) != 0) {
        return memory_format("%s -> %s", role, wanted);
    }
    return memory_copy_string(is_standby(node) ? "standby" : role);
}

static char *clock_of(const json_t *node)
{
    const json_t *offset = json_object_get(node, "clock_offset_ms");
    return json_is_number(offset) ? memory_format("%+.0f ms", json_number_value(offset))
                                  : memory_copy_string("-");
}

static json_t *row_of(const json_t *node)
{
    MEMORY_OWNED char *left = time_left(json_text(node, "certificate_expires_at"));
    MEMORY_OWNED char *role = role_of(node);
    MEMORY_OWNED char *clock = clock_of(node);
    bool leads = json_is_true(json_object_get(node, "leader"));
    bool has_problems = json_array_size(json_object_get(node, "problems")) > 0;
    json_t *row = json_deep_copy(node);
    json_object_set_new(row, "mark", json_string(has_problems ? "!" : leads ? "*" : ""));
    json_object_set_new(row, "role", json_string(role));
    json_object_set_new(row, "leads", json_string(leads ? "leader" : ""));
    json_object_set_new(row, "clock", json_string(clock));
    json_object_set_new(row, "certificate", json_string(left));
    node_add_use(node, row);
    return row;
}

static void print_rows(const json_t *nodes, const struct column *columns, unsigned count)
{
    JSON_OWNED json_t *rows = json_array();
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(nodes, index, node)
    {
        json_array_append_new(rows, row_of(node));
    }
    print_table(rows, columns, count);
}

static void print_nodes(const json_t *nodes)
{
    static const struct column columns[] = {
        {"", "mark", AS_TEXT},
        {"NODE", "name", AS_TEXT},
        {"ROLE", "role", AS_TEXT},
        {"LEADS", "leads", AS_TEXT},
        {"HEALTH", "health", AS_TEXT},
        {"VERSION", "version", AS_TEXT},
        {"LAG", "lag", AS_TEXT},
        {"SEEN", "last_seen_ms", AS_TIME},
        {"CLOCK", "clock", AS_TEXT},
        {"CERTIFICATE", "certificate", AS_TEXT},
        {"DOMAIN", "failure_domain", AS_TEXT},
        {"ADDRESS", "address", AS_TEXT},
    };
    print_rows(nodes, columns, COUNT(columns));
}

static void print_node_list(const json_t *nodes)
{
    static const struct column columns[] = {
        {"", "mark", AS_TEXT},
        {"NODE", "name", AS_TEXT},
        {"ROLE", "role", AS_TEXT},
        {"LEADS", "leads", AS_TEXT},
        {"HEALTH", "health", AS_TEXT},
        {"DUTY", "duty", AS_TEXT},
        {"POOL", "pool", AS_TEXT},
        {"CPU", "cpu_use", AS_TEXT},
        {"MEMORY", "memory_use", AS_TEXT},
        {"VMS", "machines", AS_TEXT},
        {"VERSION", "version", AS_TEXT},
        {"SEEN", "last_seen_ms", AS_TIME},
        {"DOMAIN", "failure_domain", AS_TEXT},
        {"ADDRESS", "address", AS_TEXT},
    };
    print_rows(nodes, columns, COUNT(columns));
}

/* Each with the node it is about; returns how many. */
static size_t print_problems(const json_t *document, const char *name_or_null)
{
    size_t index = 0;
    json_t *problem = NULL;
    json_array_foreach(json_object_get(document, "problems"), index, problem)
    {
        MEMORY_OWNED char *text = memory_copy_string(json_string_value(problem));
        printf("! %s%s%s\n", name_or_null != NULL ? name_or_null : "",
               name_or_null != NULL ? ": " : "", text_make_printable(text, false));
    }
    return index;
}

/* A context knows where all nodes are, those that joined after the login as well. */
static void learn(const json_t *document)
{
    const struct target *target = NULL;
    struct error ignored = {0};
    if (target_find(&target, &ignored) == 0 && target->context != NULL) {
        context_learn(target->context, json_object_get(document, "nodes"));
    }
}

/* ---- The cluster ---- */

static void print_status(const json_t *cluster)
{
    const char *name = json_text(cluster, "name");
    const char *leader = json_text(cluster, "leader");
    const json_t *nodes = json_object_get(cluster, "nodes");
    size_t problems = print_problems(cluster, NULL);
    size_t index = 0;
    json_t *node = NULL;
    json_array_foreach(nodes, index, node)
    {
        problems += print_problems(node, json_text(node, "name"));
    }
    if (problems > 0) {
        putchar('\n');
    }
    if (name[0] == '\0') {
        printf("this node is alone: blixard cluster init --name NAME makes a cluster of it\n");
        return;
    }
    printf("cluster %s: %s, %s%s, %lld of %lld servers, term %lld, index %lld, schema %lld\n\n",
           name, problems == 0 ? "all is well" : "see above",
           leader[0] != '\0' ? "led by " : "no leader", leader,
           (long long)json_integer_value(json_object_get(cluster, "servers")),
           (long long)json_integer_value(json_object_get(cluster, "servers_wanted")),
           (long long)json_integer_value(json_object_get(cluster, "term")),
           (long long)json_integer_value(json_object_get(cluster, "index")),
           (long long)json_integer_value(json_object_get(cluster, "schema")));
    if (json_text(cluster, "store_key")[0] != '\0') {
        printf("Nix stores are signed by %s\n\n", json_text(cluster, "store_key"));
    }
    print_nodes(nodes);
}

int verb_cluster_status(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", "/v1/cluster", NULL, &document, err);
    if (r < 0) {
        return r;
    }
    learn(document);
    if (output == OUTPUT_TABLE) {
        print_status(document);
    } else {
        print_document(document, output);
    }
    return 0;
}

int verb_cluster_init(const struct arguments *arguments, struct error *err)
{
    const char *name = flag_value(arguments, "name");
    const char *servers = flag_value(arguments, "servers");
    const char *address = flag_value(arguments, "address");
    JSON_OWNED json_t *body = json_object();
    JSON_OWNED json_t *cluster = NULL;
    if (name == NULL || !text_is_name(name)) {
        return error_set(err, ERROR_INVALID,
                         "--name gives the cluster its name: 1 to 63 of a-z, 0-9 and '-', "
                         "beginning with a letter");
    }
    json_object_set_new(body, "name", json_string(name));
    if (servers != NULL) {
        json_object_set_new(body, "servers", json_integer(servers[0] - '0'));
    }
    if (address != NULL) {
        json_object_set_new(body, "address", json_string(address));
    }
    int r = request_send("POST", "/v1/cluster", body, &cluster, err);
    if (r < 0) {
        return r;
    }
    return print_done(arguments, cluster, err,
                      "%s is a cluster, this node its first\n"
                      "another node joins with what this prints: blixard node token create",
                      name);
}

int verb_cluster_transfer_leadership(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *cluster = NULL;
    JSON_OWNED json_t *body = json_object();
    if (arguments->word_count > 0) {
        json_object_set_new(body, "node", json_string(arguments->words[0]));
    }
    int r = request_send("PUT", "/v1/cluster/leader", body, &cluster, err);
    return r < 0 ? r
                 : print_done(arguments, cluster, err, "%s leads", json_text(cluster, "leader"));
}

/* ---- Nodes ---- */

int verb_node_list(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *document = NULL;
    enum output output = OUTPUT_TABLE;
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", "/v1/nodes", NULL, &document, err);
    if (r < 0) {
        return r;
    }
    learn(document);
    if (output == OUTPUT_TABLE) {
        print_node_list(json_object_get(document, "nodes"));
    } else {
        print_document(document, output);
    }
    return 0;
}

static void print_labels(const json_t *labels)
{
    const char *name = NULL;
    json_t *value = NULL;
    json_object_foreach((json_t *)(uintptr_t)labels, name, value)
    {
        MEMORY_OWNED char *text = memory_format("%s=%s", name, json_string_value(value));
        print_fact("label", text);
    }
}

/* What the node says of itself, when it answers. */
static void print_own_view(const char *name)
{
    static const struct column columns[] = {
        {"data", "data_folder", AS_TEXT},
        {"functions", "functions", AS_TEXT},
        {"started", "started_at", AS_TEXT},
    };
    BUFFER_OWNED struct buffer target = {0};
    JSON_OWNED json_t *node = NULL;
    struct error problem = {0};
    buffer_append_string(&target, "/v1/node");
    request_add_query(&target, "node", name);
    if (request_json("GET", buffer_string(&target), NULL, &node, &problem) < 0) {
        print_flush();
        fprintf(stderr, "blixard: what %s says of itself is not known: %s\n", name, problem.text);
        return;
    }
    print_facts(node, columns, COUNT(columns));
    node_print_runners(node);
}

int cluster_show_node(const struct arguments *arguments, const char *name, struct error *err)
{
    static const struct column columns[] = {
        {"name", "name", AS_TEXT},
        {"id", "id", AS_TEXT},
        {"role", "role", AS_TEXT},
        {"leads", "leader", AS_TEXT},
        {"health", "health", AS_TEXT},
        {"version", "version", AS_TEXT},
        {"schema", "schema", AS_TEXT},
        {"isolation", "isolation", AS_TEXT},
        {"address", "address", AS_TEXT},
        {"gateway", "gateway", AS_TEXT},
        {"domain", "failure_domain", AS_TEXT},
        {"pool", "pool", AS_TEXT},
        {"duty", "duty", AS_TEXT},
        {"index", "index", AS_TEXT},
        {"lag", "lag", AS_TEXT},
        {"seen", "last_seen_ms", AS_TIME},
        {"clock", "clock", AS_TEXT},
        {"certificate", "certificate_expires_at", AS_TEXT},
        {"joined", "joined_at", AS_TEXT},
    };
    JSON_OWNED json_t *node = NULL;
    enum output output = OUTPUT_TABLE;
    MEMORY_OWNED char *target = request_target("nodes", name, "");
    int r = output_of(arguments, &output, err);
    r = r < 0 ? r : request_json("GET", target, NULL, &node, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        print_document(node, output);
        return 0;
    }
    JSON_OWNED json_t *row = row_of(node);
    if (print_problems(node, NULL) > 0) {
        putchar('\n');
    }
    print_facts(row, columns, COUNT(columns));
    print_labels(json_object_get(node, "labels"));
    node_print_attributes(node);
    print_own_view(name);
    return 0;
}

int verb_node_remove(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    MEMORY_OWNED char *target = request_target("nodes", name, "");
    int r = request_json("DELETE", target, NULL, NULL, err);
    if (r < 0) {
        return r;
    }
    JSON_OWNED json_t *document = json_pack("{s:s}", "removed", name);
    return print_done(arguments, document, err,
                      "removed %s: from now on nobody believes its certificate", name);
}

/*
 * The leader makes it so after it was asked; until then it is not done.  A server that is ready and
 * not needed yet (votes are odd in number) is left as a standby.
 */
static int wait_for_role(const char *name, const char *role, json_t **ret_node, struct error *err)
{
    MEMORY_OWNED char *target = request_target("nodes", name, "");
    uint64_t begin_ms = clock_monotonic_ms();
    const struct timespec pause = {.tv_nsec = ROLE_POLL_MS * 1000000L};
    for (;;) {
        JSON_OWNED json_t *node = NULL;
        int r = request_json("GET", target, NULL, &node, err);
        if (r < 0) {
            return r;
        }
        uint64_t waited_ms = clock_monotonic_ms() - begin_ms;
        if (strcmp(json_text(node, "role"), role) == 0 &&
            (!is_standby(node) || waited_ms > VOTE_WAIT_MS)) {
            *ret_node = json_incref(node);
            return 0;
        }
        if (waited_ms > ROLE_WAIT_MS) {
            const char *problem =
                json_string_value(json_array_get(json_object_get(node, "problems"), 0));
            return error_set(err, ERROR_TIMEOUT,
                             "%s is to be a %s and is still a %s; blixard cluster status shows how "
                             "it goes%s%s",
                             name, role, json_text(node, "role"), problem != NULL ? ": " : "",
                             problem != NULL ? problem : "");
        }
        nanosleep(&pause, NULL);
    }
}

static int change_role(const struct arguments *arguments, const char *role, struct error *err)
{
    const char *name = arguments->words[0];
    MEMORY_OWNED char *target = request_target("nodes", name, "");
    JSON_OWNED json_t *body = json_pack("{s:s}", "role", role);
    JSON_OWNED json_t *asked = NULL;
    JSON_OWNED json_t *node = NULL;
    int r = request_send("PATCH", target, body, &asked, err);
    if (r < 0) {
        return r;
    }
    if (flag_value(arguments, "no-wait") != NULL) {
        return print_done(arguments, asked, err, "%s is to be a %s", name, role);
    }
    r = wait_for_role(name, role, &node, err);
    if (r < 0) {
        return r;
    }
    return is_standby(node)
        ? print_done(arguments, node, err,
                     "%s is a server on standby: it votes when another vote is needed", name)
        : print_done(arguments, node, err, "%s is a %s", name, role);
}

int verb_node_promote(const struct arguments *arguments, struct error *err)
{
    return change_role(arguments, "server", err);
}

int verb_node_demote(const struct arguments *arguments, struct error *err)
{
    return change_role(arguments, "worker", err);
}

int verb_node_domain(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    MEMORY_OWNED char *target = request_target("nodes", name, "");
    JSON_OWNED json_t *body = json_pack("{s:s}", "failure_domain", arguments->words[1]);
    JSON_OWNED json_t *node = NULL;
    int r = request_send("PATCH", target, body, &node, err);
    return r < 0 ? r
                 : print_done(arguments, node, err, "%s is in failure domain %s", name,
                              json_text(node, "failure_domain"));
}

/* ---- Labels: NAME=VALUE puts one on, NAME- takes it off ---- */

static int split_label(const char *word, char **ret_label, const char **ret_value,
                       struct error *err)
{
    const char *equals = strchr(word, '=');
    size_t length = equals != NULL ? (size_t)(equals - word) : strlen(word);
    if (equals == NULL && length > 0 && word[length - 1] == '-') {
        length--;
    } else if (equals == NULL) {
        length = 0;
    }
    if (length == 0) {
        return error_set(err, ERROR_INVALID,
                         "\"%.60s\" is neither LABEL=VALUE (put on) nor LABEL- (take off)", word);
    }
    *ret_label = memory_copy_text(word, length);
    *ret_value = equals != NULL ? equals + 1 : NULL;
    return 0;
}

static int change_label(const char *name, const char *word, struct error *err)
{
    MEMORY_OWNED char *label = NULL;
    const char *value = NULL;
    int r = split_label(word, &label, &value, err);
    if (r < 0) {
        return r;
    }
    BUFFER_OWNED struct buffer rest = {0};
    buffer_append_string(&rest, "/labels/");
    http_percent_encode(&rest, text_of(label, strlen(label)));
    MEMORY_OWNED char *target = request_target("nodes", name, buffer_string(&rest));
    if (value == NULL) {
        return request_json("DELETE", target, NULL, NULL, err);
    }
    JSON_OWNED json_t *body = json_pack("{s:s}", "value", value);
    return request_send("PUT", target, body, NULL, err);
}

int verb_node_label(const struct arguments *arguments, struct error *err)
{
    const char *name = arguments->words[0];
    for (unsigned i = 1; i < arguments->word_count; i++) {
        MEMORY_OWNED char *label = NULL;
        const char *value = NULL;
        int r = split_label(arguments->words[i], &label, &value, err);
        if (r < 0) {
            return r; /* before any is changed */
        }
    }
    for (unsigned i = 1; i < arguments->word_count; i++) {
        int r = change_label(name, arguments->words[i], err);
        if (r < 0) {
            return r;
        }
    }
    JSON_OWNED json_t *node = NULL;
    MEMORY_OWNED char *target = request_target("nodes", name, "");
    int r = request_json("GET", target, NULL, &node, err);
    return r < 0 ? r : print_done(arguments, node, err, "labels of %s are changed", name);
}
