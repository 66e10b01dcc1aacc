/* A project's blixard.yaml; a folder without one is recognised by its files. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/yaml.h"

#include "surface/cli/private.h"
#include "surface/cli/settings.h"
#include "surface/cli/trigger.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

enum kind {
    IS_NAME,
    IS_LANGUAGE,
    IS_SOURCE,
    IS_FLAKE,
    IS_MAP,
    IS_FETCH,
    IS_ASSETS,
    IS_TRIGGERS,
    IS_ASYNC,
    IS_WORDS,
    IS_PLACEMENT
};

/* Besides what is in spec/settings.def. */
static const struct key {
    const char *name;
    enum kind kind;
    const char *field; /* of the deploy request */
} keys[] = {
    {"name", IS_NAME, NULL},
    {"language", IS_LANGUAGE, NULL},
    {"source", IS_SOURCE, NULL},
    {"flake", IS_FLAKE, "flake"},
    {"assets", IS_ASSETS, NULL},
    {"triggers", IS_TRIGGERS, NULL},
    {"environment", IS_MAP, "environment"},
    {"fetch", IS_FETCH, "fetch"},
    {"secrets", IS_MAP, "secrets"},
    {"async", IS_ASYNC, NULL},
    {"command", IS_WORDS, "command"},
    {"placement", IS_PLACEMENT, "placement"},
};

static const struct {
    const char *language;
    const char *file; /* tells the language of a folder without blixard.yaml */
} languages[] = {
    {"c", "main.c"},           {"cpp", "main.cpp"},
    {"rust", "src/main.rs"},   {"assemblyscript", "assembly/index.ts"},
    {"javascript", "main.js"},
};

void project_done(struct project *project)
{
    free(project->folder);
    free(project->name);
    free(project->language);
    free(project->source);
    json_decref(project->assets);
    json_decref(project->triggers);
    json_decref(project->settings);
    *project = (struct project){0};
}

static const struct key *find_key(const char *name)
{
    for (size_t i = 0; i < COUNT(keys); i++) {
        if (strcmp(keys[i].name, name) == 0) {
            return &keys[i];
        }
    }
    return NULL;
}

static const struct setting *find_setting(const char *name)
{
    for (unsigned i = 0; i < cli_setting_count; i++) {
        if (strcmp(cli_settings[i].key, name) == 0) {
            return &cli_settings[i];
        }
    }
    return NULL;
}

static int unknown_key(const char *name, struct error *err)
{
    MEMORY_OWNED const char **candidates =
        memory_new(COUNT(keys) + cli_setting_count, sizeof(*candidates));
    for (size_t i = 0; i < COUNT(keys); i++) {
        candidates[i] = keys[i].name;
    }
    for (unsigned i = 0; i < cli_setting_count; i++) {
        candidates[COUNT(keys) + i] = cli_settings[i].key;
    }
    const char *near = text_nearest(name, candidates, COUNT(keys) + cli_setting_count);
    return near != NULL
        ? error_set(err, ERROR_INVALID, "unknown key \"%.60s\"; did you mean \"%s\"?", name, near)
        : error_set(err, ERROR_INVALID, "unknown key \"%.60s\"", name);
}

static bool is_language(const char *name)
{
    for (size_t i = 0; i < COUNT(languages); i++) {
        if (strcmp(languages[i].language, name) == 0) {
            return true;
        }
    }
    return false;
}

bool project_has_inside(const char *path)
{
    return path[0] != '/' && path[0] != '\0' && strcmp(path, "..") != 0 &&
        !text_starts_with(path, "../") && strstr(path, "/../") == NULL &&
        !text_ends_with(path, "/..");
}

static int take_text(struct project *project, const struct key *key, const char *text,
                     struct error *err)
{
    if (text == NULL) {
        return error_set(err, ERROR_INVALID, "%s must be a text", key->name);
    }
    if (key->kind == IS_NAME && !text_is_name(text)) {
        return error_set(err, ERROR_INVALID, "name \"%.64s\": a name is a-z, 0-9 and '-'", text);
    }
    if (key->kind == IS_LANGUAGE && !is_language(text) && strcmp(text, "python") != 0) {
        return error_set(err, ERROR_INVALID,
                         "language \"%.40s\" is not c, cpp, rust, assemblyscript or javascript",
                         text);
    }
    if (key->kind == IS_SOURCE && !project_has_inside(text)) {
        return error_set(err, ERROR_INVALID, "source \"%.100s\" is not inside the project", text);
    }
    if (key->kind == IS_FLAKE) {
        json_object_set_new(project->settings, key->field, json_string(text));
        return 0;
    }
    char **place = key->kind == IS_NAME ? &project->name
        : key->kind == IS_LANGUAGE      ? &project->language
                                        : &project->source;
    *place = memory_copy_string(text);
    return 0;
}

static int take_setting(struct project *project, const struct setting *setting, const json_t *value,
                        struct error *err)
{
    MEMORY_OWNED char *number =
        json_is_integer(value) ? memory_format("%lld", (long long)json_integer_value(value)) : NULL;
    return setting_take(setting, setting->key, number != NULL ? number : json_string_value(value),
                        project->settings, err);
}

static int take_async(struct project *project, const json_t *value, struct error *err)
{
    const char *name = NULL;
    json_t *member = NULL;
    int r = json_is_object(value)
        ? 0
        : error_set(err, ERROR_INVALID, "async must hold retries, backoff, max_age, ... lines");
    json_object_foreach((json_t *)(uintptr_t)value, name, member)
    {
        MEMORY_OWNED char *key = memory_format("async.%.60s", name);
        const struct setting *setting = find_setting(key);
        r = r < 0             ? r
            : setting != NULL ? take_setting(project, setting, member, err)
                              : unknown_key(key, err);
    }
    return r;
}

/* Values are texts there: `DEBUG: 1` is as good as `DEBUG: "1"`. */
static int take_map(struct project *project, const struct key *key, const json_t *value,
                    struct error *err)
{
    const char *name = NULL;
    json_t *member = NULL;
    json_t *map = json_object();
    json_object_set_new(project->settings, key->field, map);
    if (!json_is_object(value)) {
        return error_set(err, ERROR_INVALID, "%s must hold NAME: value lines", key->name);
    }
    json_object_foreach((json_t *)(uintptr_t)value, name, member)
    {
        if (json_is_string(member)) {
            json_object_set(map, name, member);
        } else if (json_is_integer(member) || json_is_boolean(member) || json_is_real(member)) {
            char *text = json_dumps(member, JSON_ENCODE_ANY);
            json_object_set_new(map, name, json_string(text));
            free(text);
        } else {
            return error_set(err, ERROR_INVALID, "%s: %.60s must be a text", key->name, name);
        }
    }
    return 0;
}

/* A path or pattern, a list of them, or a map from the guest's paths to them. */
static int take_assets(struct project *project, const json_t *value, struct error *err)
{
    const char *name = NULL;
    json_t *member = NULL;
    size_t i = 0;
    json_decref(project->assets);
    project->assets = json_is_string(value) ? json_pack("[O]", value) : json_deep_copy(value);
    json_array_foreach(project->assets, i, member)
    {
        if (!json_is_string(member)) {
            return error_set(err, ERROR_INVALID, "assets: number %zu must be a path", i + 1);
        }
    }
    json_object_foreach(project->assets, name, member)
    {
        if (!json_is_string(member)) {
            return error_set(err, ERROR_INVALID, "assets: %.100s must be a path", name);
        }
    }
    return json_is_array(project->assets) || json_is_object(project->assets)
        ? 0
        : error_set(err, ERROR_INVALID,
                    "assets must be a list of paths, or hold GUEST-PATH: PATH lines");
}

/* NAME: the lines of a trigger; what they mean is checked by the node. */
static int take_triggers(struct project *project, const json_t *value, struct error *err)
{
    const char *name = NULL;
    json_t *member = NULL;
    if (!json_is_object(value)) {
        return error_set(err, ERROR_INVALID, "triggers must hold NAME: and the trigger's lines");
    }
    json_object_foreach((json_t *)(uintptr_t)value, name, member)
    {
        JSON_OWNED json_t *spec = json_object();
        if (!text_is_name(name)) {
            return error_set(err, ERROR_INVALID, "triggers: \"%.64s\" is no name", name);
        }
        if (trigger_read_document(member, spec, err) < 0) {
            return error_wrap(err, "triggers: %s", name);
        }
    }
    json_decref(project->triggers);
    project->triggers = json_deep_copy(value);
    return 0;
}

/* allow: a list of entries, or one; what they mean is checked by the node. */
static int take_fetch(struct project *project, const struct key *key, const json_t *value,
                      struct error *err)
{
    const char *name = NULL;
    json_t *member = NULL;
    size_t i = 0;
    json_t *allow = json_array();
    json_object_set_new(project->settings, key->field, json_pack("{s:o}", "allow", allow));
    json_object_foreach((json_t *)(uintptr_t)value, name, member)
    {
        if (strcmp(name, "allow") != 0) {
            return error_set(err, ERROR_INVALID, "fetch holds allow, not \"%.60s\"", name);
        }
    }
    const json_t *given = json_object_get(value, "allow");
    if (json_is_string(given)) {
        json_array_append(allow, (json_t *)(uintptr_t)given);
        return 0;
    }
    json_array_foreach(given, i, member)
    {
        if (!json_is_string(member)) {
            return error_set(err, ERROR_INVALID, "fetch.allow: entry %zu must be a text", i + 1);
        }
        json_array_append(allow, member);
    }
    return json_is_array(given)
        ? 0
        : error_set(err, ERROR_INVALID,
                    "fetch must hold allow: and a list of [SCHEME://]HOST[:PORT]");
}

/* A program with its arguments, each a text. */
static int take_command(struct project *project, const struct key *key, const json_t *value,
                        struct error *err)
{
    const json_t *word = NULL;
    size_t i = 0;
    bool is_good = json_array_size(value) > 0;
    json_array_foreach(value, i, word)
    {
        is_good = is_good && json_is_string(word);
    }
    if (!is_good) {
        return error_set(err, ERROR_INVALID,
                         "%s must be a list: the program and its arguments, each a text",
                         key->name);
    }
    json_object_set(project->settings, key->field, (json_t *)(uintptr_t)value);
    return 0;
}

static json_t *take_lines(const json_t *value)
{
    if (json_is_array(value)) {
        return json_deep_copy(value);
    }
    json_t *lines = json_array();
    json_array_append(lines, (json_t *)(uintptr_t)value);
    return lines;
}

/* constraints, affinities, tolerations (each a list, or one), pool, copies. */
static int take_placement(struct project *project, const struct key *key, const json_t *value,
                          struct error *err)
{
    JSON_OWNED json_t *placement = json_object();
    const char *name = NULL;
    json_t *member = NULL;
    json_object_foreach((json_t *)(uintptr_t)value, name, member)
    {
        const char *text = json_string_value(member);
        uint64_t copies = json_is_integer(member) ? (uint64_t)json_integer_value(member) : 0;
        if (strcmp(name, "constraints") == 0 || strcmp(name, "affinities") == 0 ||
            strcmp(name, "tolerations") == 0) {
            json_object_set_new(placement, name, take_lines(member));
        } else if (strcmp(name, "pool") == 0 && text != NULL) {
            json_object_set(placement, name, member);
        } else if (strcmp(name, "copies") == 0 &&
                   (json_is_integer(member) ||
                    (text != NULL && text_parse_u64(text_of(text, strlen(text)), &copies)))) {
            json_object_set_new(placement, name, json_integer((json_int_t)copies));
        } else {
            return error_set(err, ERROR_INVALID,
                             "placement holds constraints, affinities, tolerations, pool and "
                             "copies, not \"%.60s\"",
                             name);
        }
    }
    if (json_object_size(placement) == 0) {
        return error_set(err, ERROR_INVALID, "placement must hold rules: constraints: [zone=a]");
    }
    json_object_set(project->settings, key->field, placement);
    return 0;
}

static int take_key(struct project *project, const char *name, const json_t *value,
                    struct error *err)
{
    const struct key *key = find_key(name);
    const struct setting *setting = strchr(name, '.') == NULL ? find_setting(name) : NULL;
    if (setting != NULL) {
        return take_setting(project, setting, value, err);
    }
    if (key == NULL) {
        return unknown_key(name, err);
    }
    switch (key->kind) {
    case IS_NAME:
    case IS_LANGUAGE:
    case IS_SOURCE:
    case IS_FLAKE:
        return take_text(project, key, json_string_value(value), err);
    case IS_MAP:
        return take_map(project, key, value, err);
    case IS_FETCH:
        return take_fetch(project, key, value, err);
    case IS_ASSETS:
        return take_assets(project, value, err);
    case IS_TRIGGERS:
        return take_triggers(project, value, err);
    case IS_WORDS:
        return take_command(project, key, value, err);
    case IS_PLACEMENT:
        return take_placement(project, key, value, err);
    case IS_ASYNC:
        break;
    }
    return take_async(project, value, err);
}

static int take_file(struct project *project, const char *path, struct error *err)
{
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *document = NULL;
    const char *name = NULL;
    json_t *value = NULL;
    int r = file_read(path, YAML_BYTES_MAX, &text, err);
    if (r < 0) {
        return r;
    }
    if (yaml_read(buffer_string(&text), text.used, &document, err) < 0) {
        return error_wrap(err, "%s", path);
    }
    if (!json_is_object(document) && !json_is_null(document)) {
        return error_set(err, ERROR_INVALID, "%s must hold \"key: value\" lines", path);
    }
    json_object_foreach(document, name, value)
    {
        if (take_key(project, name, value, err) < 0) {
            return error_wrap(err, "%s, line %u", path,
                              yaml_line_of(buffer_string(&text), text.used, name));
        }
    }
    return 0;
}

static int recognise(struct project *project, struct error *err)
{
    for (size_t i = 0; i < COUNT(languages); i++) {
        MEMORY_OWNED char *path = memory_format("%s/%s", project->folder, languages[i].file);
        if (file_exists(path)) {
            project->language = memory_copy_string(languages[i].language);
            return 0;
        }
    }
    return error_set(
        err, ERROR_INVALID,
        "%s is no project: it has neither a blixard.yaml with a language nor a main.c, "
        "main.cpp, src/main.rs, assembly/index.ts or main.js (blixard fn new makes one)",
        project->folder);
}

bool project_is_linux(const struct project *project)
{
    const char *runtime = json_string_value(json_object_get(project->settings, "runtime"));
    return runtime != NULL && strcmp(runtime, "linux") == 0;
}

/* Of "app.handler": app.py is Python, app.js JavaScript; a command may be anything. */
static int recognise_handler(struct project *project, struct error *err)
{
    static const struct {
        const char *end;
        const char *language;
    } ends[] = {
        {".py", "python"}, {".js", "javascript"}, {".mjs", "javascript"}, {".cjs", "javascript"}};
    const char *handler = json_string_value(json_object_get(project->settings, "handler"));
    const char *dot = handler != NULL ? strrchr(handler, '.') : NULL;
    MEMORY_OWNED char *bootstrap = memory_format("%s/bootstrap", project->folder);
    if (handler == NULL || json_object_get(project->settings, "command") != NULL ||
        file_exists(bootstrap)) {
        project->language = memory_copy_string("linux");
        return 0;
    }
    for (size_t i = 0; i < COUNT(ends) && dot != NULL; i++) {
        MEMORY_OWNED char *path =
            memory_format("%s/%.*s%s", project->folder, (int)(dot - handler), handler, ends[i].end);
        if (file_exists(path)) {
            project->language = memory_copy_string(ends[i].language);
            return 0;
        }
    }
    return error_set(err, ERROR_NOT_FOUND,
                     "handler %.80s: %s has no %.*s.py, .js, .mjs or .cjs (a bootstrap of your own "
                     "is named by command)",
                     handler, project->folder, (int)(dot != NULL ? dot - handler : 0), handler);
}

/* What decides how the folder is read. */
static void take_flags(struct project *project, const struct arguments *flags)
{
    static const char *const names[] = {"runtime", "handler"};
    for (size_t i = 0; i < COUNT(names) && flags != NULL; i++) {
        const char *value = flag_value(flags, names[i]);
        if (value != NULL) {
            json_object_set_new(project->settings, names[i], json_string(value));
        }
    }
}

/* Keys of a build have no effect where nothing is built. */
static int check_packed(const struct project *project, struct error *err)
{
    const char *key = project->assets != NULL ? "assets"
        : project->source != NULL             ? "source"
                                              : NULL;
    return key == NULL
        ? 0
        : error_set(err, ERROR_INVALID,
                    "%s has no effect with runtime: linux, whose whole folder is packed: take it "
                    "out of blixard.yaml",
                    key);
}

int project_read(const char *folder, const struct arguments *flags, struct project *ret_project,
                 struct error *err)
{
    char *whole = realpath(folder, NULL);
    if (whole == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "%s does not exist", folder);
    }
    struct project project = {.folder = whole, .settings = json_object()};
    MEMORY_OWNED char *path = memory_format("%s/blixard.yaml", whole);
    int r = file_exists(path) ? take_file(&project, path, err) : 0;
    take_flags(&project, flags);
    r = r == 0 && project_is_linux(&project) ? check_packed(&project, err) : r;
    if (r == 0 && !project_is_linux(&project) &&
        json_object_get(project.settings, "flake") != NULL) {
        r = error_set(err, ERROR_INVALID,
                      "flake is of projects with runtime: linux, whose machine it describes; a "
                      "package with a module is deployed by fn deploy NAME --flake");
    }
    if (r == 0 && project.language != NULL && strcmp(project.language, "python") == 0 &&
        !project_is_linux(&project)) {
        r = error_set(err, ERROR_INVALID,
                      "language python needs runtime: linux, and the image of a machine that has "
                      "python3");
    }
    if (r == 0 && project.language == NULL) {
        r = project_is_linux(&project) ? recognise_handler(&project, err)
                                       : recognise(&project, err);
    }
    if (r < 0) {
        project_done(&project);
        return r;
    }
    if (project.name == NULL) {
        const char *last = strrchr(whole, '/') + 1;
        project.name = memory_copy_string(text_is_name(last) ? last : "function");
    }
    *ret_project = project;
    return 0;
}
