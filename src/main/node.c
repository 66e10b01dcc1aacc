/* `blixard server` and `blixard dev`: the command line, the surroundings, and then the daemon. */
#include "main/node.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"

#include "main/daemon.h"

static const char default_config[] = "/etc/blixard/blixard.yaml";

static const char usage[] =
    "usage: blixard server [--config FILE ...] [--check-config] [--join TOKEN] [--OPTION VALUE "
    "...]\n"
    "       blixard dev [--OPTION VALUE ...]\n\n"
    "server runs a node as a daemon; dev runs one in the foreground with data in your state "
    "folder.\n"
    "The configuration file is YAML or JSON with the same names (data_folder: /var/lib/blixard); "
    "server\n"
    "reads /etc/blixard/blixard.yaml when it is there and no other is named.\n"
    "--join takes the token that `blixard node token create` has printed on a node of the cluster; "
    "-\n"
    "reads it from standard input.  A node that has joined before does not need it any more.\n\n"
    "options [default]:\n";

static const char examples[] =
    "\nexamples:\n"
    "  blixard dev\n"
    "  blixard dev --isolation process --gateway-address 127.0.0.1:8080\n"
    "  blixard server --config /etc/blixard.yaml --check-config\n"
    "  ssh first blixard node token create | blixard server --join -\n";

static void print_help(void)
{
    BUFFER_OWNED struct buffer text = {0};
    options_write_help(&text);
    printf("%s%s%s", usage, buffer_string(&text), examples);
}

static char *default_folder(bool is_dev)
{
    const char *state = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    if (!is_dev) {
        return memory_copy_string("/var/lib/blixard");
    }
    if (state != NULL && state[0] == '/') {
        return memory_format("%s/blixard/dev", state);
    }
    return memory_format("%s/.local/state/blixard/dev", home != NULL ? home : "/tmp");
}

enum { CONFIGS_MAX = 16 };

struct command_line {
    bool help;
    bool check;
    bool markdown;
    const char *configs[CONFIGS_MAX];
    size_t config_count;
    char *join; /* a token, or "-" */
};

static void take_token(char *value, struct command_line *line)
{
    if (line->join == NULL) {
        line->join = memory_copy_string(value);
        if (strcmp(value, "-") != 0) {
            memset(value, '.', strlen(value)); /* others read the arguments of a process */
        }
    }
}

/* What is behind a flag.  `options` is NULL in the first walk, and the files are of that one. */
static int take_value(const char *name, char *value, struct options *options,
                      struct command_line *line, struct error *err)
{
    if (strcmp(name, "join") == 0) {
        take_token(value, line);
        return 0;
    }
    if (strcmp(name, "config") != 0) {
        return options != NULL ? options_set(options, name, value, err) : 0;
    }
    if (options == NULL && line->config_count == CONFIGS_MAX) {
        return error_set(err, ERROR_INVALID, "more than %d configuration files", CONFIGS_MAX);
    }
    if (options == NULL) {
        line->configs[line->config_count++] = value;
    }
    return 0;
}

/* Flags override the files, so these are read first: two walks. */
static int walk(int argc, char **argv, struct options *options, struct command_line *line,
                struct error *err)
{
    for (int i = 1; i < argc; i++) {
        char *flag = argv[i];
        if (strcmp(flag, "--help") == 0 || strcmp(flag, "-h") == 0) {
            line->help = true;
        } else if (strcmp(flag, "--check-config") == 0) {
            line->check = true;
        } else if (strcmp(flag, "--options-markdown") == 0) {
            line->markdown = true;
        } else if (!text_starts_with(flag, "--")) {
            return error_set(err, ERROR_INVALID, "unexpected \"%.60s\"; try blixard %s --help",
                             flag, argv[0]);
        } else {
            const char *equals = strchr(flag, '=');
            MEMORY_OWNED char *name = equals != NULL
                ? memory_copy_text(flag + 2, (size_t)(equals - flag) - 2)
                : memory_copy_string(flag + 2);
            char *value = equals != NULL ? flag + (equals - flag) + 1
                : i + 1 < argc           ? argv[++i]
                                         : NULL;
            if (value == NULL || (equals == NULL && text_starts_with(value, "--"))) {
                return error_set(err, ERROR_INVALID, "%s needs a value", flag);
            }
            if (take_value(name, value, options, line, err) < 0) {
                return -(int)err->kind;
            }
        }
    }
    return 0;
}

static int parse(int argc, char **argv, struct node *node, struct command_line *line,
                 struct error *err)
{
    int r = walk(argc, argv, NULL, line, err);
    if (!node->is_dev && line->config_count == 0 && file_exists(default_config)) {
        line->configs[line->config_count++] = default_config;
    }
    for (size_t i = 0; r == 0 && i < line->config_count; i++) {
        r = options_read_file(&node->options, line->configs[i], err);
    }
    return r < 0 ? r : walk(argc, argv, &node->options, line, err);
}

static void settle(struct node *node)
{
    enum log_level level = LOG_LEVEL_INFO;
    log_level_parse(node->options.log_level, &level);
    log_set_level(level);
    node->folder = node->options.data_folder[0] != '\0'
        ? memory_copy_string(node->options.data_folder)
        : default_folder(node->is_dev);
    snprintf(node->name, sizeof(node->name), "%s", node->options.node_name);
    if (node->name[0] == '\0' && gethostname(node->name, sizeof(node->name) - 1) < 0) {
        snprintf(node->name, sizeof(node->name), "node");
    } else if (node->options.node_name[0] == '\0') {
        node->name[strcspn(node->name, ".")] = '\0'; /* of a.example.org the a */
        for (char *at = node->name; *at != '\0'; at++) {
            *at = *at >= 'A' && *at <= 'Z' ? (char)(*at - 'A' + 'a') : *at;
        }
    }
    /* Sockets, images and VMs are descriptors: take what the system allows. */
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    umask(022); /* compilers, under another user, read what is made for them; secrets are 0600 */
}

enum { TOKEN_FILE_MAX = 16384 };

/* What --join says, or the file of the option; blanks around it are a paste's. */
static int read_token(const struct node *node, const char *join, char **ret_token,
                      struct error *err)
{
    const char *path = node->options.join_token_file;
    bool is_given = join != NULL && strcmp(join, "-") != 0;
    if (is_given || (join == NULL && path[0] == '\0')) {
        *ret_token = is_given ? memory_copy_string(join) : NULL;
        return 0;
    }
    bool is_stdin = join != NULL || strcmp(path, "-") == 0;
    struct buffer text = {0};
    if (file_read(is_stdin ? "/dev/stdin" : path, TOKEN_FILE_MAX, &text, err) < 0) {
        buffer_done(&text);
        return error_wrap(err, "reading the join token");
    }
    *ret_token = buffer_take(&text);
    return 0;
}

static int serve(struct node *node, const char *join, struct error *err)
{
    char *token = NULL;
    settle(node);
    int r = read_token(node, join, &token, err);
    node->join_token = token;
    r = r < 0 ? r : loop_new("main", &node->loop, err);
    if (r == 0) {
        r = daemon_run(node, err);
        loop_free(node->loop);
    }
    if (token != NULL) {
        explicit_bzero(token, strlen(token));
    }
    free(token);
    free(node->folder);
    return r;
}

int node_main(int argc, char **argv)
{
    struct node node = {.is_dev = strcmp(argv[0], "dev") == 0};
    struct command_line line = {0};
    struct error err = {0};
    options_init(&node.options);
    int r = parse(argc, argv, &node, &line, &err);
    if (r == 0 && line.help) {
        print_help();
    } else if (r == 0 && line.markdown) {
        BUFFER_OWNED struct buffer text = {0};
        options_write_markdown(&text);
        printf("%s", buffer_string(&text));
    } else if (r == 0 && line.check) {
        printf("the configuration is good\n");
    } else if (r == 0) {
        r = serve(&node, line.join, &err);
    }
    options_done(&node.options);
    free(line.join);
    if (r < 0) {
        fprintf(stderr, "blixard %s: %s\n", argv[0], err.text);
        return error_kind_exit(err.kind);
    }
    return 0;
}
