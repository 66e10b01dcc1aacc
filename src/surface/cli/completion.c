/* Completion scripts and the manual page, from the table of verbs. */
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/version.h"

#include "surface/cli/private.h"

/* ---- bash ---- */

static void print_names(const char *noun)
{
    for (unsigned i = 0; i < cli_verb_count; i++) {
        if (strcmp(cli_verbs[i].noun, noun) == 0) {
            printf("%s ", cli_verbs[i].name);
        }
    }
}

/* The words of a noun after `noun` ("": all of one word), for example "token" after "node". */
static const char *below(const char *noun, const char *other)
{
    size_t length = strlen(noun);
    if (length == 0) {
        return strchr(other, ' ') == NULL ? other : NULL;
    }
    return strncmp(other, noun, length) == 0 && other[length] == ' ' ? other + length + 1 : NULL;
}

static void print_nouns(const char *noun)
{
    for (unsigned i = 0; i < cli_noun_count; i++) {
        const char *word = below(noun, cli_nouns[i].name);
        if (word != NULL) {
            printf("%s ", word);
        }
    }
}

static bool has_two_words(const char *noun)
{
    return strchr(noun, ' ') != NULL;
}

/* The cases of nouns with one word, or with two. */
static void print_cases_bash(bool two)
{
    for (unsigned i = 0; i < cli_noun_count; i++) {
        if (has_two_words(cli_nouns[i].name) == two) {
            printf("        '%s') words='", cli_nouns[i].name);
            print_names(cli_nouns[i].name);
            print_nouns(cli_nouns[i].name);
            printf("';;\n");
        }
    }
}

static void print_flag_names(const struct flag *flags)
{
    for (; flags != NULL && flags->name != NULL; flags++) {
        printf("--%s ", flags->name);
    }
}

/* What follows a flag that has choices. */
static void print_choices_bash(const struct flag *flags)
{
    for (; flags != NULL && flags->name != NULL; flags++) {
        if (flags->choices != NULL) {
            printf("        --%s) COMPREPLY=($(compgen -W '%s' -- \"$word\")); return;;\n",
                   flags->name, flags->choices);
        }
    }
}

static void print_bash(void)
{
    printf("# bash completion of blixard; source it, or put it into\n"
           "# ~/.local/share/bash-completion/completions/blixard\n"
           "_blixard()\n{\n"
           "    local word=\"${COMP_WORDS[COMP_CWORD]}\" before=\"${COMP_WORDS[COMP_CWORD-1]}\" "
           "words=\n"
           "    case \"$before\" in\n");
    print_choices_bash(cli_common_flags);
    for (unsigned i = 0; i < cli_verb_count; i++) {
        print_choices_bash(cli_verbs[i].flags);
    }
    printf("    esac\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n        words='");
    print_nouns("");
    print_names("");
    printf("'\n    elif [ \"$COMP_CWORD\" -eq 3 ]; then\n"
           "        case \"${COMP_WORDS[1]} ${COMP_WORDS[2]}\" in\n");
    print_cases_bash(true);
    printf("        esac\n"
           "    elif [ \"$COMP_CWORD\" -eq 2 ]; then\n        case \"${COMP_WORDS[1]}\" in\n");
    print_cases_bash(false);
    printf("        completion) words='bash zsh fish';;\n        esac\n    fi\n"
           "    if [ \"${word#-}\" != \"$word\" ]; then\n"
           "        case \"${COMP_WORDS[1]} ${COMP_WORDS[2]} ${COMP_WORDS[3]} \" in\n");
    for (unsigned i = 0; i < cli_verb_count; i++) {
        const struct verb *verb = &cli_verbs[i];
        printf("        '%s%s%s '*) words='", verb->noun, verb->noun[0] != '\0' ? " " : "",
               verb->name);
        print_flag_names(verb->flags);
        print_flag_names(cli_common_flags);
        printf("';;\n");
    }
    printf("        esac\n    fi\n"
           "    COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
           "    if [ -z \"$words\" ]; then COMPREPLY=($(compgen -f -- \"$word\")); fi\n"
           "}\n"
           "complete -o filenames -F _blixard blixard\n");
}

/* ---- zsh ---- */

/* In single quotes, with the colons that zsh's lists separate by escaped. */
static void print_quoted(const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '\'') {
            printf("'\\''");
        } else if (*text == ':') {
            printf("\\:");
        } else {
            putchar(*text);
        }
    }
}

static void print_list_zsh(const char *noun)
{
    for (unsigned i = 0; i < cli_verb_count; i++) {
        if (strcmp(cli_verbs[i].noun, noun) == 0) {
            printf(" '%s:", cli_verbs[i].name);
            print_quoted(cli_verbs[i].summary);
            putchar('\'');
        }
    }
}

static void print_flags_zsh(const struct flag *flags)
{
    for (; flags != NULL && flags->name != NULL; flags++) {
        printf(" '--%s:", flags->name);
        print_quoted(flags->help);
        putchar('\'');
    }
}

static void print_nouns_zsh(const char *noun)
{
    for (unsigned i = 0; i < cli_noun_count; i++) {
        const char *word = below(noun, cli_nouns[i].name);
        if (word != NULL) {
            printf(" '%s:%s'", word, cli_nouns[i].summary);
        }
    }
}

static void print_cases_zsh(bool two)
{
    for (unsigned i = 0; i < cli_noun_count; i++) {
        if (has_two_words(cli_nouns[i].name) == two) {
            printf("        '%s') list=(", cli_nouns[i].name);
            print_list_zsh(cli_nouns[i].name);
            print_nouns_zsh(cli_nouns[i].name);
            printf(" );;\n");
        }
    }
}

static void print_zsh(void)
{
    printf("#compdef blixard\n"
           "# zsh completion of blixard; put it as _blixard into a folder of $fpath\n"
           "_blixard()\n{\n    local -a list\n"
           "    if [[ $words[CURRENT] == -* ]]; then\n"
           "        case \"$words[2] $words[3] $words[4] \" in\n");
    for (unsigned i = 0; i < cli_verb_count; i++) {
        const struct verb *verb = &cli_verbs[i];
        printf("        '%s%s%s '*) list=(", verb->noun, verb->noun[0] != '\0' ? " " : "",
               verb->name);
        print_flags_zsh(verb->flags);
        print_flags_zsh(cli_common_flags);
        printf(" );;\n");
    }
    printf("        esac\n    elif (( CURRENT == 2 )); then\n        list=(");
    print_nouns_zsh("");
    print_list_zsh("");
    printf(" )\n    elif (( CURRENT == 4 )); then\n        case \"$words[2] $words[3]\" in\n");
    print_cases_zsh(true);
    printf("        esac\n    elif (( CURRENT == 3 )); then\n        case $words[2] in\n");
    print_cases_zsh(false);
    printf("        completion) list=(bash zsh fish);;\n        esac\n    fi\n"
           "    if (( $#list )); then _describe blixard list; else _files; fi\n"
           "}\n"
           "if [[ $funcstack[1] == _blixard ]]; then _blixard \"$@\"; else compdef _blixard "
           "blixard; fi\n");
}

/* ---- fish ---- */

static void print_flags_fish(const struct flag *flags, const char *condition)
{
    for (; flags != NULL && flags->name != NULL; flags++) {
        printf("complete -c blixard -n '%s' -l %s", condition, flags->name);
        if (flags->letter != 0) {
            printf(" -s %c", flags->letter);
        }
        if (flags->choices != NULL) {
            printf(" -x -a '%s'", flags->choices);
        } else if (flags->value != NULL) {
            printf(" -r");
        }
        printf(" -d \"%s\"\n", flags->help);
    }
}

/* What must stand before: the words of a noun, and nothing after them. */
static void format_after(const char *noun, char *ret_condition, size_t size)
{
    const char *space = strchr(noun, ' ');
    if (noun[0] == '\0') {
        snprintf(ret_condition, size, "__fish_use_subcommand");
    } else if (space == NULL) {
        snprintf(ret_condition, size,
                 "__fish_seen_subcommand_from %s; and test (count (commandline -opc)) -eq 2", noun);
    } else {
        snprintf(ret_condition, size,
                 "__fish_seen_subcommand_from %.*s; and __fish_seen_subcommand_from %s; and test "
                 "(count (commandline -opc)) -eq 3",
                 (int)(space - noun), noun, space + 1);
    }
}

static void format_within(const struct verb *verb, char *ret_condition, size_t size)
{
    const char *space = strchr(verb->noun, ' ');
    if (verb->noun[0] == '\0') {
        snprintf(ret_condition, size, "__fish_seen_subcommand_from %s", verb->name);
    } else if (space == NULL) {
        snprintf(ret_condition, size,
                 "__fish_seen_subcommand_from %s; and __fish_seen_subcommand_from %s", verb->noun,
                 verb->name);
    } else {
        snprintf(ret_condition, size,
                 "__fish_seen_subcommand_from %.*s; and __fish_seen_subcommand_from %s; and "
                 "__fish_seen_subcommand_from %s",
                 (int)(space - verb->noun), verb->noun, space + 1, verb->name);
    }
}

static void print_noun_fish(const struct noun *noun)
{
    char condition[256];
    const char *space = strchr(noun->name, ' ');
    MEMORY_OWNED char *before =
        memory_copy_text(noun->name, space != NULL ? (size_t)(space - noun->name) : 0);
    format_after(before, condition, sizeof(condition));
    printf("complete -c blixard -f -n '%s' -a %s -d '%s'\n", condition,
           space != NULL ? space + 1 : noun->name, noun->summary);
}

static void print_fish(void)
{
    char condition[256];
    printf("# fish completion of blixard; put it into ~/.config/fish/completions/blixard.fish\n");
    for (unsigned i = 0; i < cli_noun_count; i++) {
        print_noun_fish(&cli_nouns[i]);
    }
    for (unsigned i = 0; i < cli_verb_count; i++) {
        const struct verb *verb = &cli_verbs[i];
        format_after(verb->noun, condition, sizeof(condition));
        printf("complete -c blixard -f -n '%s' -a %s -d \"%s\"\n", condition, verb->name,
               verb->summary);
        format_within(verb, condition, sizeof(condition));
        print_flags_fish(verb->flags, condition);
    }
    print_flags_fish(cli_common_flags, "true");
    printf(
        "complete -c blixard -f -n '__fish_seen_subcommand_from completion' -a 'bash zsh fish'\n");
}

int verb_completion(const struct arguments *arguments, struct error *err)
{
    static const struct {
        const char *shell;
        void (*print)(void);
    } shells[] = {{"bash", print_bash}, {"zsh", print_zsh}, {"fish", print_fish}};
    for (size_t i = 0; i < sizeof(shells) / sizeof(shells[0]); i++) {
        if (strcmp(shells[i].shell, arguments->words[0]) == 0) {
            shells[i].print();
            return 0;
        }
    }
    return error_set(err, ERROR_INVALID, "\"%.40s\" is not one of: bash, zsh, fish",
                     arguments->words[0]);
}

/* ---- The manual page, man(7) ---- */

/* Text whose dashes are dashes of the keyboard and whose leading dot is no request. */
static void print_roff(const char *text)
{
    bool at_begin = true;
    for (; *text != '\0'; text++) {
        if (at_begin && (*text == '.' || *text == '\'')) {
            printf("\\&");
        }
        if (*text == '-') {
            printf("\\-");
        } else if (*text == '\\') {
            printf("\\e");
        } else {
            putchar(*text);
        }
        at_begin = *text == '\n';
    }
}

static void print_flags_roff(const struct flag *flags)
{
    for (; flags != NULL && flags->name != NULL; flags++) {
        printf(".TP\n\\fB");
        if (flags->letter != 0) {
            printf("\\-%c\\fR, \\fB", flags->letter);
        }
        printf("\\-\\-");
        print_roff(flags->name);
        printf("\\fR");
        if (flags->value != NULL) {
            MEMORY_OWNED char *takes = flag_takes(flags);
            printf(" \\fI%s\\fR", takes);
        }
        putchar('\n');
        print_roff(flags->help);
        putchar('\n');
    }
}

static void print_verb_roff(const struct verb *verb)
{
    printf(".SS ");
    print_roff("blixard ");
    printf("%s%s%s", verb->noun, verb->noun[0] != '\0' ? " " : "", verb->name);
    printf("%s%s\n", verb->words[0] != '\0' ? " " : "", verb->words);
    print_roff(verb->summary);
    putchar('\n');
    print_flags_roff(verb->flags);
    printf(".PP\n.EX\n");
    print_roff(verb->examples);
    printf(".EE\n");
}

/* The kinds of error that end with this status; several share one. */
static void print_kinds_of(int status)
{
    const char *before = ".TP\n";
    for (int kind = ERROR_NONE + 1; kind < ERROR_KIND_COUNT; kind++) {
        if (error_kind_exit((enum error_kind)kind) != status) {
            continue;
        }
        fputs(before, stdout);
        if (before[0] == '.') {
            printf("%d\n", status);
        }
        fputs(error_kind_text((enum error_kind)kind), stdout);
        before = ", ";
    }
    if (before[0] != '.') {
        putchar('\n');
    }
}

static void print_exit_statuses(void)
{
    printf(".SH EXIT STATUS\n.TP\n0\nsuccess\n");
    for (int status = 1; status < 128; status++) {
        print_kinds_of(status);
    }
}

int verb_man(const struct arguments *arguments, struct error *err)
{
    (void)arguments;
    (void)err;
    printf(".TH BLIXARD 1 \"\" \"Blixard %s\" \"User Commands\"\n"
           ".SH NAME\nblixard \\- a cloud of microVMs and functions on Linux machines\n"
           ".SH SYNOPSIS\n.B blixard\n[\\fINOUN\\fR] \\fIVERB\\fR [\\fIflags\\fR]\n"
           ".SH DESCRIPTION\nBlixard runs functions (WebAssembly compiled ahead of time), each "
           "request in a\n"
           "microVM of its own.\n.B blixard dev\nand\n.B blixard server\n"
           "run a node; the other verbs are clients of its API.\n.SH COMMANDS\n",
           blixard_version);
    for (unsigned i = 0; i < cli_verb_count; i++) {
        print_verb_roff(&cli_verbs[i]);
    }
    printf(".SH OPTIONS\nThese go with every verb.\n");
    print_flags_roff(cli_common_flags);
    print_exit_statuses();
    printf(".SH ENVIRONMENT\n.TP\n.B BLIXARD_ADDR\nWhere the node's API is, when \\-\\-addr is not "
           "given.\n"
           ".TP\n.B BLIXARD_CONTEXT\nThe context to use, when \\-\\-context is not given.\n"
           ".TP\n.B BLIXARD_TOKEN\nA bearer token, when \\-\\-token-file is not given.\n"
           ".TP\n.B WASI_SYSROOT\nWhere the WASI C library is, when it is not Debian's.\n"
           ".SH FILES\n.TP\n.I ~/.config/blixard/contexts\nContexts: clusters that were logged in "
           "to, with their keys\n.TP\n.I ~/.local/state/blixard/dev\nData of\n.B blixard dev\n"
           ".TP\n.I /var/lib/blixard\nData of\n.B blixard server\n"
           ".TP\n.I ~/.cache/blixard\nAssemblyScript and the JavaScript engine, made from what npm "
           "has when "
           "first needed\n");
    return 0;
}
