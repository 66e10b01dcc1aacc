/* From argv to a verb, and from its error to an exit status. */
#include "surface/cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/version.h"

#include "surface/cli/private.h"

enum {
    CANDIDATES_MAX = 128,
    VERBS_NAMED = 4, /* of many that have a name */
    LEFT = 28,       /* letters of a flag in front of what it does */
};

const char *flag_value(const struct arguments *arguments, const char *name)
{
    for (unsigned i = 0; i < arguments->flag_count; i++) {
        if (strcmp(arguments->flags[i].name, name) == 0) {
            return arguments->flags[i].value;
        }
    }
    return NULL;
}

/* ---- Finding the verb ---- */

static bool is_noun(const char *word)
{
    for (unsigned i = 0; i < cli_noun_count; i++) {
        if (strcmp(cli_nouns[i].name, word) == 0) {
            return true;
        }
    }
    return false;
}

/* The noun that the words begin with, the longer one first; *ret_count: of how many of them. */
static const char *find_noun(const char *const *words, int count, int *ret_count)
{
    static char two[128];
    if (count > 1) {
        snprintf(two, sizeof(two), "%s %s", words[0], words[1]);
        if (is_noun(two)) {
            *ret_count = 2;
            return two;
        }
    }
    *ret_count = count > 0 && is_noun(words[0]) ? 1 : 0;
    return *ret_count == 1 ? words[0] : "";
}

static const struct verb *find_verb(const char *noun, const char *name)
{
    for (unsigned i = 0; i < cli_verb_count; i++) {
        if (strcmp(cli_verbs[i].noun, noun) == 0 && strcmp(cli_verbs[i].name, name) == 0) {
            return &cli_verbs[i];
        }
    }
    return NULL;
}

/* What may follow `noun` ("": nothing yet) to make `other`; NULL: it is no part of that. */
static const char *noun_below(const char *noun, const char *other)
{
    size_t length = strlen(noun);
    if (length == 0) {
        return strchr(other, ' ') == NULL ? other : NULL;
    }
    return strncmp(other, noun, length) == 0 && other[length] == ' ' ? other + length + 1 : NULL;
}

/* `word` is a verb without its noun ("list"): a few that it may be. */
static bool is_verb_of_nouns(const char *word, char *ret_text, size_t size)
{
    size_t used = 0;
    unsigned named = 0;
    ret_text[0] = '\0';
    for (unsigned i = 0; i < cli_verb_count && named < VERBS_NAMED && used < size; i++) {
        const struct verb *verb = &cli_verbs[i];
        if (verb->noun[0] != '\0' && strcmp(verb->name, word) == 0) {
            used += (size_t)snprintf(ret_text + used, size - used, "%s\"%s %s\"",
                                     named++ > 0 ? ", " : "", verb->noun, verb->name);
        }
    }
    return named > 0;
}

/* What other programs of the trade call it; of several meanings the first that there is. */
static const struct {
    const char *said;
    const char *meant;
} said_elsewhere[] = {
    {"add", "create"},    {"describe", "show"}, {"destroy", "delete"}, {"function", "fn"},
    {"get", "show"},      {"info", "get"},      {"info", "show"},      {"inspect", "get"},
    {"inspect", "show"},  {"kill", "stop"},     {"launch", "create"},  {"ls", "list"},
    {"machine", "vm"},    {"machines", "vm"},   {"mv", "rename"},      {"new", "create"},
    {"poweroff", "stop"}, {"ps", "list"},       {"reboot", "restart"}, {"remove", "delete"},
    {"rm", "delete"},     {"shell", "exec"},    {"show", "get"},       {"shutdown", "stop"},
    {"ssh", "exec"},      {"stats", "top"},     {"unpause", "resume"},
};

static const char *find_meant(const char *word, const char *const *candidates, size_t count)
{
    for (size_t i = 0; i < sizeof(said_elsewhere) / sizeof(said_elsewhere[0]); i++) {
        for (size_t j = 0; j < count && strcmp(said_elsewhere[i].said, word) == 0; j++) {
            if (strcmp(said_elsewhere[i].meant, candidates[j]) == 0) {
                return candidates[j];
            }
        }
    }
    return text_nearest(word, candidates, count);
}

/* The verbs of a noun, and the nouns that may stand in their place. */
static int unknown_verb(const char *noun, const char *word, struct error *err)
{
    const char *candidates[CANDIDATES_MAX];
    size_t count = 0;
    for (unsigned i = 0; i < cli_verb_count && count < CANDIDATES_MAX; i++) {
        if (strcmp(cli_verbs[i].noun, noun) == 0) {
            candidates[count++] = cli_verbs[i].name;
        }
    }
    for (unsigned i = 0; i < cli_noun_count && count < CANDIDATES_MAX; i++) {
        const char *below = noun_below(noun, cli_nouns[i].name);
        if (below != NULL) {
            candidates[count++] = below;
        }
    }
    char verbs[128];
    if (noun[0] == '\0' && is_verb_of_nouns(word, verbs, sizeof(verbs))) {
        return error_set(err, ERROR_INVALID, "unknown command \"%.40s\"; did you mean %s?", word,
                         verbs);
    }
    if (noun[0] == '\0' && strcmp(word, "metrics") == 0) {
        return error_set(err, ERROR_INVALID,
                         "metrics are for Prometheus, at /metrics of the API; see blixard fn top "
                         "for functions, blixard vm top for machines, blixard trace list for "
                         "requests");
    }
    const char *space = noun[0] != '\0' ? " " : "";
    const char *near = find_meant(word, candidates, count);
    if (near != NULL) {
        return error_set(err, ERROR_INVALID,
                         "unknown command \"%s%s%.40s\"; did you mean \"%s%s%s\"?", noun, space,
                         word, noun, space, near);
    }
    return error_set(err, ERROR_INVALID, "unknown command \"%s%s%.40s\"; see blixard %s%s--help",
                     noun, space, word, noun, space);
}

/* ---- Flags ---- */

static const struct flag *find_in(const struct flag *flags, const char *name, size_t length,
                                  bool is_letter)
{
    for (; flags != NULL && flags->name != NULL; flags++) {
        bool is_it = is_letter
            ? flags->letter == name[0]
            : strlen(flags->name) == length && strncmp(flags->name, name, length) == 0;
        if (is_it) {
            return flags;
        }
    }
    return NULL;
}

static int unknown_flag(const struct verb *verb, const char *word, struct error *err)
{
    const char *candidates[CANDIDATES_MAX];
    size_t count = 0;
    char name[64];
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(word + 2, "="),
             word[1] == '-' ? word + 2 : "");
    for (const struct flag *flag = verb->flags;
         flag != NULL && flag->name != NULL && count < CANDIDATES_MAX; flag++) {
        candidates[count++] = flag->name;
    }
    for (const struct flag *flag = cli_common_flags; flag->name != NULL && count < CANDIDATES_MAX;
         flag++) {
        candidates[count++] = flag->name;
    }
    const char *near = text_nearest(name, candidates, count);
    const char *space = verb->noun[0] != '\0' ? " " : "";
    const char *hint = verb->words != NULL && strstr(verb->words, "[-- ") != NULL
        ? " (the program's own go behind --)"
        : "";
    if (near != NULL) {
        return error_set(err, ERROR_INVALID, "unknown flag %.60s; did you mean --%s?%s", word, near,
                         hint);
    }
    return error_set(err, ERROR_INVALID, "unknown flag %.60s; see blixard %s%s%s --help%s", word,
                     verb->noun, space, verb->name, hint);
}

bool flag_is_choice(const char *choices, const char *value)
{
    size_t length = strlen(value);
    for (const char *at = choices; *at != '\0'; at += strcspn(at, " "), at += *at == ' ') {
        if (strcspn(at, " ") == length && strncmp(at, value, length) == 0) {
            return true;
        }
    }
    return false;
}

char *flag_takes(const struct flag *flag)
{
    char *text = memory_copy_string(flag->choices != NULL ? flag->choices : flag->value);
    for (char *at = text; *at != '\0'; at++) {
        *at = flag->choices != NULL && *at == ' ' ? '|' : *at;
    }
    return text;
}

/* One flag at argv[*at]: --name, --name=value, --name value, -n, -n value. */
static int take_flag(const struct verb *verb, int argc, char **argv, int *at,
                     struct arguments *arguments, struct error *err)
{
    const char *word = argv[*at];
    bool is_letter = word[1] != '-';
    const char *name = word + (is_letter ? 1 : 2);
    const char *equals = strchr(name, '=');
    size_t length = equals != NULL ? (size_t)(equals - name) : strlen(name);
    const struct flag *flag =
        is_letter && length != 1 ? NULL : find_in(verb->flags, name, length, is_letter);
    if (flag == NULL && !(is_letter && length != 1)) {
        flag = find_in(cli_common_flags, name, length, is_letter);
    }
    if (flag == NULL) {
        return unknown_flag(verb, word, err);
    }
    const char *value = "";
    if (flag->value == NULL && equals != NULL) {
        return error_set(err, ERROR_INVALID, "--%s takes no value", flag->name);
    }
    if (flag->value != NULL && equals != NULL) {
        value = equals + 1;
    } else if (flag->value != NULL && *at + 1 < argc) {
        value = argv[++*at];
    } else if (flag->value != NULL) {
        MEMORY_OWNED char *takes = flag_takes(flag);
        return error_set(err, ERROR_INVALID, "--%s needs a value: --%s %s", flag->name, flag->name,
                         takes);
    }
    if (flag->choices != NULL && !flag_is_choice(flag->choices, value)) {
        return error_set(err, ERROR_INVALID, "--%s %.40s is not one of: %s", flag->name, value,
                         flag->choices);
    }
    if (arguments->flag_count == FLAGS_MAX) {
        return error_set(err, ERROR_INVALID, "more than %d flags", FLAGS_MAX);
    }
    arguments->flags[arguments->flag_count].name = flag->name;
    arguments->flags[arguments->flag_count++].value = value;
    return 0;
}

static bool is_flag(const char *word)
{
    if (word[0] != '-' || word[1] == '\0') {
        return false;
    }
    /* No flag begins with a digit, and these are numbers too. */
    const char *digit = word[1] == '.' ? word + 2 : word + 1;
    return !isdigit((unsigned char)*digit) && strncmp(word, "-inf", 4) != 0 &&
        strncmp(word, "-nan", 4) != 0;
}

static int take_words(const struct verb *verb, int argc, char **argv, int at,
                      struct arguments *arguments, struct error *err)
{
    bool only_words = false;
    for (; at < argc; at++) {
        if (!only_words && strcmp(argv[at], "--") == 0) {
            only_words = true;
        } else if (!only_words && is_flag(argv[at])) {
            int r = take_flag(verb, argc, argv, &at, arguments, err);
            if (r < 0) {
                return r;
            }
        } else if (arguments->word_count == verb->words_most) {
            return error_set(err, ERROR_INVALID,
                             "unexpected \"%.60s\" (it takes at most %u): blixard %s%s%s --help",
                             argv[at], verb->words_most, verb->noun,
                             verb->noun[0] != '\0' ? " " : "", verb->name);
        } else {
            arguments->words[arguments->word_count++] = argv[at];
            arguments->words_in_front += only_words ? 0 : 1;
        }
    }
    return 0;
}

/* ---- Help ---- */

static void print_flags(const struct flag *flags)
{
    for (; flags != NULL && flags->name != NULL; flags++) {
        MEMORY_OWNED char *takes =
            flags->value != NULL ? flag_takes(flags) : memory_copy_string("");
        MEMORY_OWNED char *left = memory_format("%c%c%s --%s %s", flags->letter != 0 ? '-' : ' ',
                                                flags->letter != 0 ? flags->letter : ' ',
                                                flags->letter != 0 ? "," : " ", flags->name, takes);
        /* What is longer than its column has a line of its own. */
        if (strlen(left) > LEFT) {
            printf("  %s\n", left); /* the column is too narrow for it */
            left[0] = '\0';
        }
        printf("  %-*s %s\n", LEFT, left, flags->help);
    }
}

static void print_verb_help(const struct verb *verb)
{
    const char *space = verb->noun[0] != '\0' ? " " : "";
    printf("usage: blixard %s%s%s%s%s [flags]\n\n%s\n", verb->noun, space, verb->name,
           verb->words[0] != '\0' ? " " : "", verb->words, verb->summary);
    printf("\nflags:\n");
    print_flags(verb->flags);
    print_flags(cli_common_flags);
    printf("\nexamples:\n%s", verb->examples);
}

/* A long one has a line for itself, as long flags have. */
static void print_verbs(const char *noun)
{
    for (unsigned i = 0; i < cli_verb_count; i++) {
        if (strcmp(cli_verbs[i].noun, noun) == 0) {
            char left[64];
            snprintf(left, sizeof(left), "%s%s%s %s", noun, noun[0] != '\0' ? " " : "",
                     cli_verbs[i].name, cli_verbs[i].words);
            if (strlen(left) > LEFT) {
                printf("  %s\n", left);
                left[0] = '\0';
            }
            printf("  %-*s %s\n", LEFT, left, cli_verbs[i].summary);
        }
    }
}

static void print_noun_help(const char *noun)
{
    printf("usage: blixard %s VERB [flags]\n\n", noun);
    print_verbs(noun);
    for (unsigned i = 0; i < cli_noun_count; i++) {
        if (noun_below(noun, cli_nouns[i].name) != NULL) {
            print_verbs(cli_nouns[i].name);
        }
    }
    printf("\nblixard %s VERB --help explains a verb.\n", noun);
}

static void print_help(void)
{
    printf("Blixard turns Linux machines into a cloud of microVMs and functions.\n\n"
           "usage: blixard [NOUN] VERB [flags]\n");
    for (unsigned i = 0; i < cli_noun_count; i++) {
        printf("\n%s:\n", cli_nouns[i].summary);
        print_verbs(cli_nouns[i].name);
    }
    printf("\nthe program:\n");
    print_verbs("");
    printf("\nflags of every verb:\n");
    print_flags(cli_common_flags);
    printf(
        "\nblixard NOUN VERB --help explains a verb.  First steps: blixard dev, then in another\n"
        "terminal: blixard fn new hello && blixard fn deploy hello hello && blixard fn invoke "
        "hello\n");
}

int verb_help(const struct arguments *arguments, struct error *err)
{
    if (arguments->word_count == 0) {
        print_help();
        return 0;
    }
    int used = 0;
    const char *noun = find_noun(arguments->words, (int)arguments->word_count, &used);
    if (used == (int)arguments->word_count) {
        print_noun_help(noun);
        return 0;
    }
    const char *name = arguments->words[used];
    const struct verb *verb = find_verb(noun, name);
    if (verb == NULL) {
        return unknown_verb(noun, name, err);
    }
    print_verb_help(verb);
    return 0;
}

int verb_version(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *document = json_pack("{s:s}", "version", blixard_version);
    return print_done(arguments, document, err, "blixard %s", blixard_version);
}

/* ---- Running ---- */

/* "NAME...", not "NAME RECEIPT..." */
static bool is_for_each(const struct verb *verb)
{
    const char *rest = strstr(verb->words, "...");
    return rest != NULL && strcspn(verb->words, " [") == strlen(verb->words);
}

static const struct flag *find_named(const struct flag *flags, const char *name, size_t length)
{
    for (const struct flag *flag = flags; flag != NULL && flag->name != NULL; flag++) {
        size_t same = 0;
        while (same < length && (name[same] == '_' ? '-' : name[same]) == flag->name[same]) {
            same++;
        }
        if (same == length && flag->name[length] == '\0') {
            return flag;
        }
    }
    return NULL;
}

/* As the API calls it, with unit and bound: "queue_max" is --queue, "tmp_bytes_max" --tmp-max. */
static const struct flag *find_measured(const struct flag *flags, const char *name, size_t length)
{
    static const char *const units[] = {"_ms", "_bytes", "_max", "_bytes_max"};
    const struct flag *flag = find_named(flags, name, length);
    size_t bare = 0;
    for (size_t i = 0; flag == NULL && i < sizeof(units) / sizeof(units[0]); i++) {
        size_t unit = strlen(units[i]);
        bool has_unit = length > unit && strncmp(name + length - unit, units[i], unit) == 0;
        bare = has_unit ? length - unit : 0;
        flag = has_unit ? find_named(flags, name, bare) : NULL;
    }
    if (flag == NULL && bare > 0) { /* of bytes, the last one */
        MEMORY_OWNED char *bound = memory_format("%.*s_max", (int)bare, name);
        flag = find_named(flags, bound, strlen(bound));
    }
    return flag;
}

/* Who typed --wait reads of --wait: not of "?wait=", "$.wait" or "wait_ms", as the API calls it. */
static void name_flag(const struct verb *verb, const struct arguments *arguments, struct error *err)
{
    bool is_query = err->text[0] == '?';
    bool is_field = text_starts_with(err->text, "$.");
    const char *name = err->text + (is_query ? 1 : is_field ? 2 : 0);
    size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_");
    const char *rest = name + length;
    bool is_number = memchr(name, '_', length) != NULL && text_starts_with(rest, " is ");
    bool is_name = is_query || is_field || is_number;
    const struct flag *flag = is_name ? find_measured(verb->flags, name, length) : NULL;
    if (flag == NULL || strchr(".[", rest[0]) != NULL || flag_value(arguments, "file") != NULL) {
        return; /* of a file, or deeper: it is called there as the API calls it */
    }
    MEMORY_OWNED char *text = memory_format("--%s%s%s", flag->name, rest[0] == '=' ? " " : "",
                                            rest + (rest[0] == '=' ? 1 : 0));
    snprintf(err->text, sizeof(err->text), "%s", text);
}

static int run_one(const struct verb *verb, const struct arguments *arguments, struct error *err)
{
    int r = verb->run(arguments, err);
    if (r < 0) {
        name_flag(verb, arguments, err);
    }
    return r;
}

/* What fails is told at once, and the others are done all the same. */
static int run_for_each(const struct verb *verb, const struct arguments *arguments,
                        struct error *err)
{
    unsigned failed = 0;
    enum error_kind kind = ERROR_NONE;
    for (unsigned i = 0; i < arguments->word_count; i++) {
        struct arguments one = *arguments;
        struct error error = {0};
        one.words[0] = arguments->words[i];
        one.word_count = 1;
        if (run_one(verb, &one, &error) < 0) {
            fflush(stdout);
            fprintf(stderr, "blixard: %s\n", text_make_printable(error.text, true));
            kind = kind == ERROR_NONE ? error.kind : kind;
            failed++;
        }
    }
    return failed == 0 ? 0 : error_set(err, kind, "%u of %u failed", failed, arguments->word_count);
}

static int run_verb(const struct verb *verb, struct arguments *arguments, struct error *err)
{
    if (flag_value(arguments, "help") != NULL || verb->run == NULL) {
        print_verb_help(verb);
        return 0;
    }
    if (arguments->word_count < verb->words_least) {
        const char *space = verb->noun[0] != '\0' ? " " : "";
        return error_set(err, ERROR_INVALID, "usage: blixard %s%s%s %s (see --help)", verb->noun,
                         space, verb->name, verb->words);
    }
    /* A variable of a script that was not set, most often. */
    unsigned named = is_for_each(verb) ? arguments->word_count : verb->words_least;
    for (unsigned i = 0; i < named; i++) {
        if (arguments->words[i][0] == '\0') {
            return error_set(err, ERROR_INVALID, "a word is empty: blixard %s%s%s %s", verb->noun,
                             verb->noun[0] != '\0' ? " " : "", verb->name, verb->words);
        }
    }
    enum output ignored;
    int r = output_of(arguments, &ignored, err);
    if (r < 0) {
        return r;
    }
    target_set_flags(arguments);
    return is_for_each(verb) && arguments->word_count > 1 ? run_for_each(verb, arguments, err)
                                                          : run_one(verb, arguments, err);
}

/* Common flags may stand before the verb; then [NOUN] VERB. */
static int dispatch(int argc, char **argv, struct error *err)
{
    static const struct verb before = {.noun = "", .name = "help"};
    struct arguments arguments = {0};
    int at = 1;
    for (; at < argc && is_flag(argv[at]); at++) {
        if (strcmp(argv[at], "--version") == 0) {
            return verb_version(&arguments, err);
        }
        int r = take_flag(&before, argc, argv, &at, &arguments, err);
        if (r < 0) {
            return r;
        }
    }
    if (at == argc) {
        print_help();
        return 0;
    }
    int noun_words = 0;
    const char *noun = find_noun((const char *const *)argv + at, argc - at, &noun_words);
    at += noun_words;
    if (at == argc || (noun[0] != '\0' && is_flag(argv[at]))) {
        print_noun_help(noun);
        return 0;
    }
    const struct verb *verb = find_verb(noun, argv[at]);
    if (verb == NULL) {
        return unknown_verb(noun, argv[at], err);
    }
    int r = take_words(verb, argc, argv, at + 1, &arguments, err);
    return r < 0 ? r : run_verb(verb, &arguments, err);
}

enum { OUTPUT_BUFFER = 1 << 18 };

/* A path that somebody typed: what the system says of it is what is said of other words. */
static int exit_status_of(const struct error *error)
{
    switch (error->kind == ERROR_OS ? error->os_errno : 0) {
    case ENOENT:
        return error_kind_exit(ERROR_NOT_FOUND);
    case EISDIR:
    case ENOTDIR:
    case ELOOP:
    case ENAMETOOLONG:
        return error_kind_exit(ERROR_INVALID);
    default:
        return error_kind_exit(error->kind);
    }
}

int cli_main(int argc, char **argv)
{
    struct error err = {0};
    /* All of a help fits: why writing failed is told by the flush that failed. */
    setvbuf(stdout, NULL, _IOFBF, OUTPUT_BUFFER);
    signal(SIGPIPE, SIG_IGN); /* `| head` is an error like others, and a quiet one */
    int r = dispatch(argc, argv, &err);
    int unwritten = print_flush();
    if (unwritten == EPIPE && r == 0) {
        return 0;
    }
    if (unwritten != 0 && r == 0) {
        r = error_os(&err, unwritten, "writing the output");
    }
    if (r < 0) {
        fprintf(stderr, "blixard: %s\n", text_make_printable(err.text, true));
        return exit_status_of(&err);
    }
    return 0;
}
