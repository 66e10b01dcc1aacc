/* The verbs: the only list of what the command line can do. */
#include <stddef.h>

#include "surface/cli/private.h"

#define FLAGS(...) ((const struct flag[]){__VA_ARGS__, {NULL, 0, NULL, NULL, NULL}})

const struct flag cli_common_flags[] = {
    {"output", 'o', "FORMAT", "table json yaml", "How to print: table, json or yaml."},
    {"addr", 0, "ADDRESS", NULL,
     "The node's API: HOST:PORT, unix:PATH or https://HOST:PORT (default BLIXARD_ADDR)."},
    {"context", 0, "NAME", NULL, "The cluster to talk to (default BLIXARD_CONTEXT)."},
    {"token-file", 0, "FILE", NULL,
     "A bearer token to show; - is standard input (default BLIXARD_TOKEN)."},
    {"help", 'h', NULL, NULL, "Explain the verb."},
    {NULL, 0, NULL, NULL, NULL},
};

const struct noun cli_nouns[] = {
    {"fn", "functions"},
    {"trace", "what was done for a request, and how long it took"},
    {"operation", "long-running changes"},
    {"node", "nodes"},
    {"node token", "tokens that nodes join with"},
    {"cluster", "the cluster"},
    {"client", "who is let in from elsewhere"},
    {"context", "which cluster to talk to"},
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
           {"node", 0, "NODE", NULL, "Where to run it (default: any node that can)."},
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
           {"tail", 'n', "COUNT", NULL, "Begin with the last COUNT lines (default 100)."},
           {"trace", 0, "ID", NULL, "Only what was written in this trace."},
           {"node", 0, "NODE", NULL, "Only what was written on this node (default: on any)."}),
     "Show what a function wrote to standard error.",
     "  blixard fn logs hello --tail 20\n"
     "  blixard fn logs hello -f\n",
     verb_fn_logs},
    {"fn", "delete", "NAME [VERSION]", 1, 2, NULL,
     "Delete a function with all its versions and logs, or one version of it.",
     "  blixard fn delete hello\n"
     "  blixard fn delete hello 1\n",
     verb_fn_delete},

    {"trace", "list", "", 0, 0,
     FLAGS({"function", 'f', "NAME", NULL, "Only those of this function."},
           {"errors", 'e', NULL, NULL, "Only those in which something failed."},
           {"slower-than", 0, "DURATION", NULL, "Only those that took at least this long."},
           {"since", 0, "DURATION", NULL, "Only those that began less than this ago."},
           {"count", 'n', "COUNT", NULL, "At most so many, the newest (default 100)."},
           {"node", 0, "NODE", NULL, "Only what this node has (default: all)."}),
     "List the traces that are kept, newest first.",
     "  blixard trace list --function hello --errors\n"
     "  blixard trace list --slower-than 250ms --since 10m\n",
     verb_trace_list},
    {"trace", "show", "ID", 1, 1,
     FLAGS({"node", 0, "NODE", NULL, "Only what this node has (default: all)."}),
     "Show the spans of a trace as a waterfall; the beginning of an id is enough where it is in the list.",
     "  blixard trace show 4bf92f3577b34da6a3ce929d0e0e4736\n"
     "  blixard trace show 4bf92f35 --output json\n",
     verb_trace_show},

    {"operation", "list", "", 0, 0, NULL, "List operations, newest first.",
     "  blixard operation list\n", verb_operation_list},
    {"operation", "get", "ID", 1, 1, NULL, "Show an operation.", "  blixard operation get 0f3c\n",
     verb_operation_get},
    {"operation", "wait", "ID", 1, 1, NULL, "Wait until an operation has ended; fails as it did.",
     "  blixard operation wait 0f3c\n", verb_operation_wait},
    {"operation", "cancel", "ID", 1, 1, NULL, "Cancel an operation.",
     "  blixard operation cancel 0f3c\n", verb_operation_cancel},

    {"node", "list", "", 0, 0, NULL, "List the nodes of the cluster.", "  blixard node list\n",
     verb_node_list},
    {"node", "show", "[NODE]", 0, 1, NULL,
     "Show a node of the cluster; without a name the one that answers: isolation, store, runners.",
     "  blixard node show\n"
     "  blixard node show north\n",
     verb_node_show},
    {"node", "remove", "NODE", 1, 1, NULL,
     "Remove a node from the cluster for good: nobody believes its certificate any more.",
     "  blixard node remove north\n", verb_node_remove},
    {"node", "promote", "NODE", 1, 1,
     FLAGS({"no-wait", 0, NULL, NULL, "Do not wait until it votes."}),
     "Make a worker a server, which votes.", "  blixard node promote north\n", verb_node_promote},
    {"node", "demote", "NODE", 1, 1,
     FLAGS({"no-wait", 0, NULL, NULL, "Do not wait until it has stopped voting."}),
     "Make a server a worker, which follows.", "  blixard node demote north\n", verb_node_demote},
    {"node", "label", "NODE LABEL=VALUE...", 2, WORDS_MAX, NULL,
     "Put labels on a node, or with LABEL- take them off.",
     "  blixard node label north disk=ssd\n"
     "  blixard node label north disk-\n",
     verb_node_label},
    {"node", "domain", "NODE DOMAIN", 2, 2, NULL,
     "Say what a node shares its fate with (a rack, a room): servers are spread over them.",
     "  blixard node domain north rack-2\n", verb_node_domain},
    {"node token", "create", "", 0, 0,
     FLAGS({"role", 0, "ROLE", "server worker",
            "server: may vote, as needed (default); worker: only follows."},
           {"ttl", 0, "DURATION", NULL, "How long it is good (default 3h)."},
           {"uses", 0, "COUNT", NULL, "How many nodes may join with it (default 1)."}),
     "Make a token, and print the command to paste on the machine that is to join.",
     "  blixard node token create\n"
     "  blixard node token create --role worker --uses 20 --ttl 30m\n",
     verb_node_token_create},
    {"node token", "list", "", 0, 0, NULL, "List the join tokens.", "  blixard node token list\n",
     verb_node_token_list},
    {"node token", "revoke", "ID", 1, 1, NULL, "Revoke a join token.",
     "  blixard node token revoke 4f1b03c2a9d7\n", verb_node_token_revoke},

    {"cluster", "init", "", 0, 0,
     FLAGS({"name", 0, "NAME", NULL, "The name of the cluster."},
           {"servers", 0, "COUNT", "1 3 5", "How many nodes are to vote (default 3)."},
           {"address", 0, "ADDRESS", NULL,
            "HOST or HOST:PORT at which the others reach this node (default: found out)."}),
     "Make the node the first of a cluster, which others can join.",
     "  blixard cluster init --name home\n"
     "  blixard cluster init --name home --servers 5 --address 10.0.0.1:7421\n",
     verb_cluster_init},
    {"cluster", "status", "", 0, 0, NULL, "Show the cluster: first what is wrong, then every node.",
     "  blixard cluster status\n", verb_cluster_status},
    {"cluster", "transfer-leadership", "[NODE]", 0, 1, NULL,
     "Let another server lead: the one named, or the one that is furthest.",
     "  blixard cluster transfer-leadership\n"
     "  blixard cluster transfer-leadership north\n",
     verb_cluster_transfer_leadership},
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
    {"cluster", "recover", "", 0, 0,
     FLAGS({"data-folder", 0, "FOLDER", NULL,
            "The data folder of this server (default /var/lib/blixard); it must not run."},
           {"force", 0, NULL, NULL, "Do it; without, it is only said what would be done."},
           {"accept-loss", 0, NULL, NULL,
            "Do it although another node has what this one's log lacks."}),
     "Go on with this server alone when the majority of the servers is gone for good.",
     "  blixard cluster recover\n"
     "  blixard cluster recover --force\n",
     verb_cluster_recover},

    {"client", "create", "NAME", 1, 1,
     FLAGS({"token", 0, NULL, NULL,
            "A token that is shown with each request, in place of a login with a certificate."},
           {"ttl", 0, "DURATION", NULL, "How long it is let in (default 720h)."}),
     "Let a person or a program in from elsewhere; prints what it needs, once.",
     "  blixard client create laptop\n"
     "  blixard client create ci --token --ttl 24h\n",
     verb_client_create},
    {"client", "list", "", 0, 0, NULL, "List the clients.", "  blixard client list\n",
     verb_client_list},
    {"client", "delete", "NAME", 1, 1, NULL, "Let a client in no more.",
     "  blixard client delete laptop\n", verb_client_delete},

    {"", "login", "TOKEN", 1, 1,
     FLAGS({"name", 0, "NAME", NULL, "Name of the context (default: that of the cluster)."}),
     "Log in to a cluster with the token of `client create`; - reads it from standard input.",
     "  blixard login - < token\n"
     "  blixard login blx1.eyJjIjoi... --name work\n",
     verb_login},
    {"", "logout", "[CONTEXT]", 0, 1, NULL,
     "Forget a context, the one in use by default, with its key.", "  blixard logout\n",
     verb_logout},
    {"context", "list", "", 0, 0, NULL, "List the contexts.", "  blixard context list\n",
     verb_context_list},
    {"context", "use", "NAME", 1, 1, NULL,
     "Talk to this cluster from now on; local is the node on this machine.",
     "  blixard context use home\n"
     "  blixard context use local\n",
     verb_context_use},
    {"context", "show", "[NAME]", 0, 1, NULL, "Show a context, the one in use by default.",
     "  blixard context show\n", verb_context_show},
    {"context", "delete", "NAME", 1, 1, NULL, "Delete a context with its key.",
     "  blixard context delete home\n", verb_context_delete},

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
    {"", "help", "[NOUN] [VERB]", 0, 3, NULL, "Explain a verb.", "  blixard help fn deploy\n",
     verb_help},
};
/* clang-format on */
const unsigned cli_verb_count = sizeof(cli_verbs) / sizeof(cli_verbs[0]);
