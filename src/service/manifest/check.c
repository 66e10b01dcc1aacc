/*
 * What is known of a plan before it is applied: what its objects name and is neither there nor
 * among the documents, and triggers that could not be made so.  Asked of the API, one after the
 * other.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "service/manifest/parts.h"

/* One question about an action. */
struct question {
    size_t action;
    const struct manifest_kind *kind; /* of what it names; NULL: could it be made so? */
    char *name;
    char *path; /* where in its spec */
};

struct checking {
    struct manifest_service *service;
    struct action *actions;
    size_t count;
    struct question *questions;
    size_t question_count;
    size_t at;
    void (*done)(const struct error *error, void *context);
    void *context;
};

/* ---- What is to be asked ---- */

static void add_question(struct checking *checking, size_t action, const struct manifest_kind *kind,
                         const char *name, const char *path)
{
    checking->questions = memory_resize(
        checking->questions, (checking->question_count + 1) * sizeof(*checking->questions));
    checking->questions[checking->question_count++] = (struct question){
        .action = action,
        .kind = kind,
        .name = memory_copy_string(name),
        .path = memory_copy_string(path),
    };
}

/* Among the documents. */
static bool is_planned(const struct checking *checking, const struct manifest_kind *kind,
                       const char *project, const char *name)
{
    for (size_t i = 0; i < checking->count; i++) {
        const struct action *action = &checking->actions[i];
        if (action->kind == kind && action->spec != NULL && action->what != ACTION_MISSING &&
            strcmp(action->project, project) == 0 && strcmp(action->name, name) == 0) {
            return true;
        }
    }
    return false;
}

static void add_named(struct checking *checking, size_t action, const char *kind_name,
                      const char *name, const char *path)
{
    struct error ignored = {0};
    const struct manifest_kind *kind = kind_find(kind_name, &ignored);
    if (kind != NULL && text_is_name(name) &&
        !is_planned(checking, kind, checking->actions[action].project, name)) {
        add_question(checking, action, kind, name, path);
    }
}

/* "queue:NAME", "function:NAME:ALIAS". */
static void add_destination(struct checking *checking, size_t action, const json_t *object,
                            const char *key, const char *path)
{
    static const struct {
        const char *scheme, *kind;
    } schemes[] = {{"queue:", "Queue"}, {"stream:", "Stream"}, {"function:", "Function"}};
    const char *text = json_text(object, key);
    for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        if (text_starts_with(text, schemes[i].scheme)) {
            const char *name = text + strlen(schemes[i].scheme);
            MEMORY_OWNED char *plain = memory_copy_text(name, strcspn(name, ":"));
            add_named(checking, action, schemes[i].kind, plain, path);
        }
    }
}

static void add_of_function(struct checking *checking, size_t index, const json_t *whole)
{
    const json_t *async = json_object_get(whole, "async");
    const char *variable = NULL;
    json_t *secret = NULL;
    json_object_foreach(json_object_get(whole, "secrets"), variable, secret)
    {
        MEMORY_OWNED char *path = memory_format("secrets.%s", variable);
        add_named(checking, index, "Secret", json_string_value(secret), path);
    }
    add_destination(checking, index, async, "on_success", "async.on_success");
    add_destination(checking, index, async, "on_failure", "async.on_failure");
    if (json_text(async, "dead_letter")[0] != '\0') {
        add_named(checking, index, "Queue", json_text(async, "dead_letter"), "async.dead_letter");
    }
}

/* "NAME" or "NAME:ALIAS" of a Trigger or Route. */
static void add_called(struct checking *checking, size_t index, const json_t *whole)
{
    const char *function = json_text(whole, "function");
    MEMORY_OWNED char *name = memory_copy_text(function, strcspn(function, ":"));
    add_named(checking, index, "Function", name, "function");
}

static void add_of(struct checking *checking, size_t index)
{
    const struct action *action = &checking->actions[index];
    bool is_trigger = strcmp(action->kind->name, "Trigger") == 0;
    bool is_function = action->kind->way == WAY_FUNCTION;
    bool is_route = strcmp(action->kind->name, "Route") == 0;
    if (action->spec == NULL || action->what == ACTION_MISSING ||
        !(is_trigger || is_function || is_route)) {
        return;
    }
    JSON_OWNED json_t *whole = calls_whole(action);
    if (is_function) {
        add_of_function(checking, index, whole);
        return;
    }
    add_called(checking, index, whole);
    add_destination(checking, index, whole, "on_success", "on_success");
    add_destination(checking, index, whole, "on_failure", "on_failure");
    if (is_trigger && action->what != ACTION_NONE) {
        add_question(checking, index, NULL, action->name, "");
    }
}

/* ---- Asking ---- */

static void finish(struct checking *checking, const struct error *error)
{
    checking->done(error, checking->context);
    for (size_t i = 0; i < checking->question_count; i++) {
        free(checking->questions[i].name);
        free(checking->questions[i].path);
    }
    free(checking->questions);
    free(checking);
}

static void ask_next(struct checking *checking);

static void note_lack(const struct question *question, struct action *action)
{
    MEMORY_OWNED char *word = memory_copy_string(question->kind->name);
    word[0] = (char)tolower((unsigned char)word[0]);
    MEMORY_OWNED char *said = memory_format("there is no %s %s (%s), nor among the documents", word,
                                            question->name, question->path);
    json_array_append_new(action->lacks, json_string(said));
}

/* That it cannot be told is no hindrance to a plan. */
static void on_answer(int status, const json_t *answer, const struct error *error, void *context)
{
    struct checking *checking = context;
    const struct question *question = &checking->questions[checking->at++];
    struct action *action = &checking->actions[question->action];
    (void)status;
    (void)answer;
    if (question->kind != NULL && error != NULL && error->kind == ERROR_NOT_FOUND) {
        note_lack(question, action);
    }
    if (question->kind == NULL && error != NULL &&
        (error->kind == ERROR_INVALID || error->kind == ERROR_EXISTS ||
         error->kind == ERROR_TOO_LARGE)) {
        struct error err = {0};
        error_set(&err, error->kind, "%s: %s %s: %s", action->place, action->kind->name,
                  action->name, error->text);
        finish(checking, &err);
        return;
    }
    ask_next(checking);
}

static void ask_next(struct checking *checking)
{
    if (checking->at == checking->question_count) {
        finish(checking, NULL);
        return;
    }
    const struct question *question = &checking->questions[checking->at];
    const struct action *action = &checking->actions[question->action];
    if (question->kind != NULL) {
        MEMORY_OWNED char *target = ask_target(question->kind, action->project, question->name);
        ask(checking->service, "GET", target, NULL, on_answer, checking);
        return;
    }
    JSON_OWNED json_t *whole = calls_whole(action);
    MEMORY_OWNED char *target = calls_below(action, "check", NULL);
    ask(checking->service, "POST", target, whole, on_answer, checking);
}

void check_make(struct manifest_service *service, struct action *actions, size_t count,
                void (*done)(const struct error *error, void *context), void *context)
{
    struct checking *checking = NEW(struct checking);
    *checking = (struct checking){
        .service = service, .actions = actions, .count = count, .done = done, .context = context};
    for (size_t i = 0; i < count; i++) {
        actions[i].lacks = json_array();
        add_of(checking, i);
    }
    ask_next(checking);
}
