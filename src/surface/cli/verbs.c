/* The verbs: the only list of what the command line can do. */
#include <stddef.h>

#include "surface/cli/private.h"

#define FLAGS(...) ((const struct flag[]){__VA_ARGS__, {NULL, 0, NULL, NULL, NULL}})

const struct flag cli_common_flags[] = {
    {"output", 'o', "FORMAT", "table json yaml", "How to print: table, json or yaml."},
    {"addr", 0, "ADDRESS", NULL,
     "The node's API: HOST:PORT or unix:PATH (default BLIXARD_ADDR, else 127.0.0.1:7420)."},
    {"help", 'h', NULL, NULL, "Explain the verb."},
    {NULL, 0, NULL, NULL, NULL},
};

const struct noun cli_nouns[] = {
    {"fn", "functions"},
    {"operation", "long-running changes"},
    {"node", "this node"},
    {"cluster", "the cluster"},
};
const unsigned cli_noun_count = sizeof(cli_nouns) / sizeof(cli_nouns[0]);

/* clang-format off: a table */
const struct verb cli_verbs[] = {
    {"", "dev", "", 0, 0, NULL, "Run a node in the foreground, its data in your state folder.",
     "  blixard dev\n"
     "  blixard dev --isolation process --gateway-address 127.0.0.1:8080\n",
     NULL},
    {"", "server", "", 0, 0, NULL, "Run a node as a daemon.",
     "  blixard server --config /etc/blixard/blixard.yaml\n"
     "  blixard server --config /etc/blixard/blixard.yaml --check-config\n",
     NULL},
    {"", "doctor", "", 0, 0, NULL,
     "Look at this machine: what Blixard can use, what is missing, how to fix it.",
     "  blixard doctor\n"
     "  blixard doctor --output json\n",
     verb_doctor},

    {"fn", "new", "NAME", 1, 1,
     FLAGS({"lang", 'l', "LANGUAGE", "c cpp rust assemblyscript",
            "Language of the project (default c)."}),
     "Write a small project: code, blixard.yaml, README.md and a test event.",
     "  blixard fn new hello --lang rust\n", verb_fn_new},
    {"fn", "build", "[PATH]", 0, 1, NULL,
     "Build the project in a folder (default .) into WebAssembly; prints the module's path.",
     "  blixard fn build hello\n", verb_fn_build},
    {"fn", "deploy", "NAME PATH", 2, 2,
     FLAGS({"memory", 'm', "SIZE", NULL, "Most memory (default 128MiB)."},
           {"timeout", 't', "DURATION", NULL, "Wall-clock limit of a call (default 30s)."},
           {"concurrency", 0, "COUNT", NULL,
            "Calls at once on a node (default: what the node gives)."},
           {"queue", 0, "COUNT", NULL, "Calls that may wait on a node (default 128)."},
           {"env", 'e', "NAME=VALUE", NULL, "An environment variable; may be given several times."},
           {"no-wait", 0, NULL, NULL, "Print the operation's id instead of waiting for its end."}),
     "Deploy a .wasm file, or a project folder that is built first, as a new version.",
     "  blixard fn deploy hello hello\n"
     "  blixard fn deploy resize resize.wasm --memory 256MiB --timeout 10s --env QUALITY=80\n",
     verb_fn_deploy},
    {"fn", "invoke", "NAME [-]", 1, 2,
     FLAGS({"data", 'd', "TEXT", NULL, "The input."},
           {"file", 'f', "FILE", NULL, "The input is this file's content."},
           {"header", 'H', "FIELD", NULL, "A header field of the request: 'Name: value'."},
           {"verbose", 'v', NULL, NULL,
            "Show status, isolation, instance and timings on standard error."}),
     "Call a function and print its answer; with - the input is standard input.",
     "  blixard fn invoke hello --data world\n"
     "  blixard fn invoke hello --verbose - < photo.jpg > small.jpg\n",
     verb_fn_invoke},
    {"fn", "list", "", 0, 0, NULL, "List functions.", "  blixard fn list\n", verb_fn_list},
    {"fn", "get", "NAME", 1, 1, NULL,
     "Show a function: its live version, tier, isolation, limits and cost.",
     "  blixard fn get hello\n"
     "  blixard fn get hello --output yaml\n",
     verb_fn_get},
    {"fn", "versions", "NAME", 1, 1, NULL, "List the versions of a function, newest first.",
     "  blixard fn versions hello\n", verb_fn_versions},
    {"fn", "alias", "NAME ALIAS VERSION", 3, 3, NULL,
     "Point an alias to a version; `live` is what callers get.",
     "  blixard fn alias hello live 1\n", verb_fn_alias},
    {"fn", "logs", "NAME", 1, 1,
     FLAGS({"follow", 'f', NULL, NULL, "Go on with new lines until interrupted."},
           {"tail", 'n', "COUNT", NULL, "Begin with the last COUNT lines (default 100)."}),
     "Show what a function wrote to standard error.",
     "  blixard fn logs hello --tail 20\n"
     "  blixard fn logs hello -f\n",
     verb_fn_logs},
    {"fn", "delete", "NAME [VERSION]", 1, 2, NULL,
     "Delete a function with all its versions and logs, or one version of it.",
     "  blixard fn delete hello\n"
     "  blixard fn delete hello 1\n",
     verb_fn_delete},

    {"operation", "list", "", 0, 0, NULL, "List operations, newest first.",
     "  blixard operation list\n", verb_operation_list},
    {"operation", "get", "ID", 1, 1, NULL, "Show an operation.", "  blixard operation get 0f3c\n",
     verb_operation_get},
    {"operation", "wait", "ID", 1, 1, NULL, "Wait until an operation has ended; fails as it did.",
     "  blixard operation wait 0f3c\n", verb_operation_wait},
    {"operation", "cancel", "ID", 1, 1, NULL, "Cancel an operation.",
     "  blixard operation cancel 0f3c\n", verb_operation_cancel},

    {"node", "show", "", 0, 0, NULL, "Show the node: isolation, store, runners.",
     "  blixard node show\n", verb_node_show},
    {"cluster", "backup", "FILE", 1, 1, NULL,
     "Save the state and all modules as they are now, while the node runs; with - to standard "
     "output.",
     "  blixard cluster backup monday.tar\n"
     "  blixard cluster backup - | ssh elsewhere 'cat > monday.tar'\n",
     verb_cluster_backup},
    {"cluster", "restore", "FILE", 1, 1,
     FLAGS({"data-folder", 0, "FOLDER", NULL,
            "The data folder to make (default /var/lib/blixard); must be empty or not there."}),
     "Make a node's data folder out of a backup; the node is started on it afterwards.",
     "  blixard cluster restore monday.tar\n"
     "  blixard cluster restore monday.tar --data-folder ./data\n",
     verb_cluster_restore},
    {"", "events", "", 0, 0,
     FLAGS({"index", 'i', "INDEX", NULL, "Begin after this index of the state (default: now)."}),
     "Print changes of the state as JSON lines, as they happen.",
     "  blixard events\n"
     "  blixard events --index 0\n",
     verb_events},

    {"", "completion", "SHELL", 1, 1, NULL, "Print the completion script of bash, zsh or fish.",
     "  source <(blixard completion bash)\n"
     "  blixard completion fish > ~/.config/fish/completions/blixard.fish\n",
     verb_completion},
    {"", "man", "", 0, 0, NULL, "Print the manual page (roff).", "  blixard man | man -l -\n",
     verb_man},
    {"", "version", "", 0, 0, NULL, "Print the version.", "  blixard version --output json\n",
     verb_version},
    {"", "help", "[NOUN] [VERB]", 0, 2, NULL, "Explain a verb.", "  blixard help fn deploy\n",
     verb_help},
};
/* clang-format on */
const unsigned cli_verb_count = sizeof(cli_verbs) / sizeof(cli_verbs[0]);
