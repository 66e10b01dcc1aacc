/* Documents, what they would change, and in which order. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"

#include "service/manifest/parts.h"

#include "test/lib/test.h"

/* ---- Documents ---- */

static int read_set(const char *text, struct manifest_set **ret_set, struct error *err)
{
    JSON_OWNED json_t *body =
        json_pack("{s:[{s:s,s:s}]}", "documents", "file", "app.yaml", "text", text);
    return manifest_set_read("default", body, ret_set, err);
}

static struct manifest_set *read_good(const char *text)
{
    struct error err = {0};
    struct manifest_set *set = NULL;
    if (read_set(text, &set, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return set;
}

static void expect_refused(const char *text, const char *words)
{
    struct error err = {0};
    struct manifest_set *set = NULL;
    EXPECT(read_set(text, &set, &err) == -ERROR_INVALID);
    if (strstr(err.text, words) == NULL) {
        fprintf(stderr, "\"%s\" does not say \"%s\"\n", err.text, words);
        abort();
    }
}

TEST(manifest, documents_have_their_kind_name_and_line)
{
    struct manifest_set *set = read_good("kind: Queue\nname: a\n---\n# nothing\n---\n"
                                         "{\"kind\": \"Network\", \"name\": \"b\", \"project\": "
                                         "\"shop\"}\n");
    EXPECT(set->count == 2);
    EXPECT_STRING(set->items[0].kind->name, "Queue");
    EXPECT_STRING(set->items[0].project, "default");
    EXPECT_STRING(set->items[0].place, "app.yaml:1");
    EXPECT_STRING(set->items[1].project, "shop");
    EXPECT_STRING(set->items[1].place, "app.yaml:6");
    EXPECT_STRING(set->owner, "cli");
    manifest_set_free(set);
}

TEST(manifest, what_is_not_known_is_refused_with_its_line_and_the_nearest)
{
    expect_refused("kind: Machine\nname: a\nspec:\n  cpu: 1\n",
                   "app.yaml:4: spec.cpu is not known; did you mean cpus?");
    expect_refused("kind: Machine\nname: a\nspec:\n  memroy: 1GiB\n",
                   "app.yaml:4: spec.memroy is not known; did you mean memory_bytes?");
    expect_refused("kind: Machine\nname: a\nspec:\n  networks:\n  - network: b\n    adress: c\n",
                   "app.yaml:6: spec.networks[0].adress is not known; did you mean address?");
    expect_refused("kind: Route\nname: a\nspec:\n  cors:\n    origin: []\n",
                   "app.yaml:5: spec.cors.origin is not known; did you mean origins?");
    expect_refused("kind: Machin\nname: a\n",
                   "app.yaml:1: there is no kind \"Machin\"; did you "
                   "mean Machine?");
    expect_refused("kind: Queue\nnam: a\n", "app.yaml:2: nam is not known; did you mean name");
    expect_refused("kind: Secret\nname: a\nspec: {value: b}\n", "app.yaml:3: spec.value");
}

TEST(manifest, what_is_wrong_is_refused_with_its_line)
{
    expect_refused("kind: Queue\n", "name is missing");
    expect_refused("name: a\n", "kind is missing");
    expect_refused("kind: Queue\nname: a/b\n", "app.yaml:2: \"a/b\" is no name");
    expect_refused("kind: Alias\nname: live\n", "it is FUNCTION:ALIAS");
    expect_refused("- a\n", "a document is a mapping");
    expect_refused("kind: Queue\nname: a\nspec: 1\n", "app.yaml:3: spec must be a mapping");
    expect_refused("kind: Queue\nname: a\nspec:\n  fifo: maybe\n",
                   "app.yaml:4: spec.fifo must be "
                   "true or false");
    expect_refused("kind: Queue\nname: a\nspec:\n  max_depth: -1\n", "app.yaml:4: spec.max_depth");
    expect_refused("kind: Queue\nname: a\nspec: {name: b}\n", "stands beside spec");
    expect_refused("kind: Function\nname: a\nspec:\n  environment:\n    A: 1\n",
                   "app.yaml:5: spec.environment.A must be a text");
    expect_refused("kind: Queue\nname: a\n---\nkind: Queue\nname: a\n",
                   "app.yaml:4: Queue a stands at app.yaml:1 already");
    expect_refused("kind: Queue\nname: a\nlabels: {a: \"b\\nc\"}\n", "app.yaml:3: labels");
    expect_refused("kind: Queue\nname: a\nproject: A\n", "app.yaml:3: project");
    expect_refused("", "there is no document");
}

TEST(manifest, ten_thousand_labels_are_too_many)
{
    BUFFER_OWNED struct buffer text = {0};
    buffer_append_string(&text, "kind: Queue\nname: a\nlabels:\n");
    for (int i = 0; i < 10000; i++) {
        buffer_append_format(&text, "  l%d: a\n", i);
    }
    expect_refused(buffer_string(&text), "labels: at most 64");
}

TEST(manifest, sizes_and_times_are_texts_with_units_too)
{
    struct manifest_set *set =
        read_good("kind: Machine\nname: a\nspec: {memory: 512MiB, disk_bytes: 1GiB, image: b}\n"
                  "---\nkind: Queue\nname: a\nspec: {visibility: 45s, retention_ms: 2d}\n");
    EXPECT(json_u64(set->items[0].spec, "memory_bytes") == 512 << 20);
    EXPECT(json_u64(set->items[0].spec, "disk_bytes") == 1 << 30);
    EXPECT(json_object_get(set->items[0].spec, "memory") == NULL);
    EXPECT(json_u64(set->items[1].spec, "visibility_ms") == 45000);
    EXPECT(json_u64(set->items[1].spec, "retention_ms") == 172800000);
    manifest_set_free(set);
    expect_refused("kind: Queue\nname: a\nspec: {visibility: long}\n", "spec.visibility");
    expect_refused("kind: Queue\nname: a\nspec: {visibility: 1s, visibility_ms: 1}\n",
                   "spec.visibility is not known");
}

/* ---- One object ---- */

static json_t *json_of(const char *text)
{
    json_t *value = json_loads(text, 0, NULL);
    EXPECT(value != NULL);
    return value;
}

/* A document, what the API answers of the object (NULL: it is not there), and rows of owners. */
static struct action decide(const char *document, const char *answer, const char *rows)
{
    struct error err = {0};
    struct manifest_set *set = read_good(document);
    const struct manifest *manifest = &set->items[0];
    struct action action = {
        .kind = manifest->kind,
        .name = memory_copy_string(manifest->name),
        .project = memory_copy_string(manifest->project),
        .place = memory_copy_string(manifest->place),
        .labels = json_incref(manifest->labels),
        .spec = json_incref(manifest->spec),
        .rows = json_of(rows),
    };
    if (answer != NULL) {
        JSON_OWNED json_t *reply = json_of(answer);
        action.observed = observe_spec(action.kind, action.name, reply);
    }
    manifest_set_free(set);
    EXPECT(action_decide(&action, "cli", &err) == 0);
    return action;
}

static const char queue[] = "{\"name\":\"a\",\"fifo\":false,\"depth\":7,\"visibility_ms\":30000,"
                            "\"max_depth\":100}";

TEST(manifest, only_what_is_asked_for_is_compared)
{
    struct action action =
        decide("{kind: Queue, name: a, spec: {visibility: 30s}}", queue,
               "[{\"owner\":\"cli\",\"labels\":{},\"fields\":{\"visibility_ms\":{\"value\":30000}}}"
               "]");
    EXPECT(action.what == ACTION_NONE && !action.adopts);
    action_done(&action);

    action = decide("{kind: Queue, name: a, spec: {visibility: 31s}}", queue, "[]");
    EXPECT(action.what == ACTION_UPDATE && json_array_size(action.changes) == 1);
    action_done(&action);

    action = decide("{kind: Queue, name: a, spec: {visibility: 30s}}", queue, "[]");
    EXPECT(action.what == ACTION_NONE && action.adopts); /* it is this owner's from now on */
    action_done(&action);
}

TEST(manifest, what_cannot_change_in_place_is_replaced)
{
    struct action action =
        decide("{kind: Queue, name: a, spec: {fifo: true, max_depth: 100}}", queue, "[]");
    EXPECT(action.what == ACTION_REPLACE);
    EXPECT_STRING(json_text(json_array_get(action.changes, 0), "effect"), "replace");
    JSON_OWNED json_t *calls = calls_of(&action);
    EXPECT(json_array_size(calls) == 2);
    EXPECT_STRING(json_text(json_array_get(calls, 0), "method"), "DELETE");
    EXPECT_STRING(json_text(json_array_get(calls, 1), "method"), "POST");
    action_done(&action);
}

TEST(manifest, a_machine_tells_what_waits_for_its_next_start)
{
    struct action action = decide("{kind: Machine, name: a, spec: {cpus: 2}}",
                                  "{\"name\":\"a\",\"image\":\"b\",\"cpus\":1}", "[]");
    EXPECT(action.what == ACTION_UPDATE);
    EXPECT_STRING(json_text(json_array_get(action.changes, 0), "effect"), "restart");
    action_done(&action);
}

/* Goal: a value that a service rounds, or shows to nobody, is no difference for ever after. */
TEST(manifest, what_became_of_a_value_is_no_difference)
{
    static const char document[] = "{kind: Volume, name: a, spec: {size_bytes: 1000, encrypt: "
                                   "true}}";
    static const char rows[] =
        "[{\"owner\":\"cli\",\"labels\":{},\"fields\":{\"size_bytes\":{\"value\":1000,"
        "\"is_settled\":true,\"settled\":4096},\"encrypt\":{\"value\":true,\"is_settled\":true,"
        "\"settled\":null}}}]";
    struct action action = decide(document, "{\"name\":\"a\",\"size_bytes\":4096}", rows);
    EXPECT(action.what == ACTION_NONE && !action.adopts);
    action_done(&action);
    action = decide(document, "{\"name\":\"a\",\"size_bytes\":8192}", rows);
    EXPECT(action.what == ACTION_UPDATE); /* somebody has changed it */
    action_done(&action);
}

TEST(manifest, another_owner_is_asked_only_where_both_want_something_else)
{
    static const char rows[] = "[{\"owner\":\"ci\",\"labels\":{},\"fields\":{\"visibility_ms\":{"
                               "\"value\":30000}}}]";
    struct action action = decide("{kind: Queue, name: a, spec: {visibility: 30s}}", queue, rows);
    EXPECT(json_array_size(action.conflicts) == 0);
    action_done(&action);
    action = decide("{kind: Queue, name: a, spec: {max_depth: 5}}", queue, rows);
    EXPECT(json_array_size(action.conflicts) == 0 && action.what == ACTION_UPDATE);
    action_done(&action);
    action = decide("{kind: Queue, name: a, spec: {visibility: 40s}}", queue, rows);
    EXPECT(json_array_size(action.conflicts) == 1);
    EXPECT_STRING(json_text(json_array_get(action.conflicts, 0), "owner"), "ci");
    action_done(&action);
}

TEST(manifest, a_field_that_nobody_asks_for_any_more_gets_its_default_where_all_is_set)
{
    static const char route[] = "{\"name\":\"a\",\"function\":\"f\",\"path\":\"/\",\"cache\":true,"
                                "\"methods\":[\"GET\"]}";
    struct action action =
        decide("{kind: Route, name: a, spec: {function: f, path: /}}", route,
               "[{\"owner\":\"cli\",\"labels\":{},\"fields\":{\"function\":{\"value\":\"f\"},"
               "\"path\":{\"value\":\"/\"},\"cache\":{\"value\":true}}}]");
    EXPECT(action.what == ACTION_UPDATE && json_array_size(action.changes) == 1);
    JSON_OWNED json_t *calls = calls_of(&action);
    const json_t *body = json_object_get(json_array_get(calls, 0), "body");
    EXPECT(json_object_get(body, "cache") == NULL);
    EXPECT(json_object_get(body, "methods") != NULL); /* somebody else's, by hand */
    action_done(&action);
}

TEST(manifest, a_function_keeps_what_others_have_set)
{
    struct action action =
        decide("{kind: Function, name: a, spec: {environment: {A: \"2\"}}}",
               "{\"name\":\"a\",\"version\":{\"number\":3,\"module\":\"m\",\"memory_bytes\":9,"
               "\"environment\":{\"A\":\"1\",\"B\":\"1\"},\"runtime\":\"wasm\"}}",
               "[]");
    EXPECT(action.what == ACTION_UPDATE);
    JSON_OWNED json_t *calls = calls_of(&action);
    const json_t *body = json_object_get(json_array_get(calls, 0), "body");
    EXPECT_STRING(json_text(json_object_get(body, "environment"), "A"), "2");
    EXPECT_STRING(json_text(json_object_get(body, "environment"), "B"), "1");
    EXPECT_STRING(json_text(body, "module"), "m");
    EXPECT(json_u64(body, "memory_bytes") == 9);
    action_done(&action);
}

TEST(manifest, rules_of_a_group_are_a_set)
{
    struct action action =
        decide("{kind: SecurityGroup, name: a, spec: {rules: [{allow: tcp/80}, {allow: icmp}]}}",
               "{\"name\":\"a\",\"rules\":[{\"direction\":\"in\",\"allow\":\"icmp\",\"peer\":\"\"},"
               "{\"direction\":\"in\",\"allow\":\"udp\",\"peer\":\"\"}]}",
               "[]");
    EXPECT(action.what == ACTION_UPDATE);
    JSON_OWNED json_t *calls = calls_of(&action);
    EXPECT(json_array_size(calls) == 2); /* tcp/80 comes, udp goes, icmp stays */
    EXPECT(strstr(json_text(json_array_get(calls, 1), "target"), "allow=udp") != NULL);
    action_done(&action);
}

TEST(manifest, user_data_is_known_by_its_digest)
{
    struct action action =
        decide("{kind: Machine, name: a, spec: {image: b, user_data: secret}}", NULL, "[]");
    char *changes = json_dumps(action.changes, 0);
    EXPECT(strstr(changes, "sha256:") != NULL && strstr(changes, "\"secret\"") == NULL);
    free(changes);
    action_done(&action);
}

TEST(manifest, what_makes_an_object_must_be_said)
{
    struct error err = {0};
    struct manifest_set *set = read_good("{kind: Route, name: a, spec: {path: /}}");
    struct action action = {
        .kind = set->items[0].kind,
        .place = memory_copy_string("app.yaml:1"),
        .labels = json_object(),
        .spec = json_incref(set->items[0].spec),
        .rows = json_array(),
    };
    EXPECT(action_decide(&action, "cli", &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "spec.function is needed") != NULL);
    action_done(&action);
    manifest_set_free(set);
}

/* ---- Order ---- */

static void expect_order(const char *text, bool goes, const char *names)
{
    struct manifest_set *set = read_good(text);
    struct action actions[8] = {0};
    char got[128] = "";
    for (size_t i = 0; i < set->count; i++) {
        actions[i] = (struct action){
            .kind = set->items[i].kind,
            .name = memory_copy_string(set->items[i].name),
            .project = memory_copy_string("default"),
            .spec = goes ? NULL : json_incref(set->items[i].spec),
            .observed = goes ? json_incref(set->items[i].spec) : NULL,
        };
    }
    order_actions(actions, set->count);
    for (size_t i = 0; i < set->count; i++) {
        size_t used = strlen(got);
        snprintf(got + used, sizeof(got) - used, "%s%s", used > 0 ? " " : "", actions[i].name);
        action_done(&actions[i]);
    }
    EXPECT_STRING(got, names);
    manifest_set_free(set);
}

TEST(manifest, what_is_needed_comes_first_and_goes_last)
{
    static const char text[] = "{kind: Trigger, name: t}\n---\n{kind: Machine, name: m, spec: "
                               "{after: [db]}}\n---\n{kind: Machine, name: db}\n---\n{kind: "
                               "Network, name: n}\n---\n{kind: Queue, name: q, spec: {dead_letter: "
                               "z}}\n---\n{kind: Queue, name: z}\n";
    expect_order(text, false, "n z q db m t");
    expect_order(text, true, "t m db q z n");
    expect_order("{kind: Queue, name: a, spec: {dead_letter: b}}\n---\n{kind: Queue, name: b, "
                 "spec: {dead_letter: a}}\n",
                 false, "b a");
}

/* ---- The table ---- */

/* Every kind's types are there: a word that is none would silently have no fields. */
TEST(manifest, kinds_have_types)
{
    for (size_t i = 0; i < kind_count(); i++) {
        const struct manifest_kind *kind = kind_at(i);
        EXPECT(schema_first(kind->reply) != NULL);
        EXPECT(kind->way == WAY_REFERENCE || schema_first(kind->create) != NULL);
        EXPECT(strcmp(kind->update, "NONE") == 0 || schema_first(kind->update) != NULL);
    }
}
