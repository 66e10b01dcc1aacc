/* The verbs: the only list of what the command line can do. */
#include <stddef.h>

#include "surface/cli/private.h"

#define QUEUE_SETTINGS                                                                            \
    {"visibility", 0, "DURATION", NULL, "How long a received message is hidden (default 30s)."},  \
        {"retention", 0, "DURATION", NULL, "How long a message is kept (default 4d)."},           \
        {"delay", 0, "DURATION", NULL, "How long a new message is hidden (default 0s)."},         \
        {"dedup-window", 0, "DURATION", NULL, "How long a dedup id is remembered (default 5m)."}, \
        {"max-depth", 0, "COUNT", NULL, "Messages at most (default 100000); beyond: refused."},   \
        {"max-bytes", 0, "SIZE", NULL, "Bytes at most (default 256MiB); beyond: refused."},       \
        {"max-receives", 0, "COUNT", NULL, "Deliveries before a message is a dead letter."},      \
    {                                                                                             \
        "dead-letter", 0, "QUEUE", NULL, "The queue that dead letters go to."                     \
    }

/* What `trigger create` and `trigger update` share. */
#define TRIGGER_SETTINGS                                                                           \
    {"function", 'f', "FUNCTION", NULL, "NAME or NAME:ALIAS."},                                    \
        {"schedule", 's', "SCHEDULE", NULL,                                                        \
         "Of cron: \"0 3 * * *\", \"@every 90s\", \"@at TIME\"."},                                 \
        {"timezone", 0, "ZONE", NULL, "Of cron: Europe/Berlin, ... (default UTC)."},               \
        {"jitter", 0, "DURATION", NULL, "Of cron: begin up to so long after the slot."},           \
        {"misfire", 0, "POLICY", "once skip all", "Of cron: what to do about missed slots."},      \
        {"overlap", 0, "POLICY", "allow forbid replace", "Of cron: while a run goes on."},         \
        {"set", 0, "KEY=VALUE", NULL, "A setting of the kind; may be given several times."},       \
        {"filter", 0, "FILTER", NULL, "JSON pattern or CESQL, or @FILE: which events."},           \
        {"transform", 0, "TEMPLATE", NULL, "Template, or @FILE, of the event's new data."},        \
        {"path", 'p', "PATH", NULL, "Path of the request; of http, which: /users/{id}."},          \
        {"batch-size", 0, "COUNT", NULL, "Most events of one call (default 1)."},                  \
        {"batch-window", 0, "DURATION", NULL, "How long a batch may fill."},                       \
        {"concurrency", 0, "COUNT", NULL, "Most calls at once (default 10)."},                     \
        {"retries", 0, "COUNT", NULL, "How often to try again (default 3)."},                      \
        {"retry-delay", 0, "DURATION", NULL, "Before the first retry (default 1s); it doubles."},  \
        {"retry-delay-max", 0, "DURATION", NULL, "Longest delay (default 60s)."},                  \
        {"max-age", 0, "DURATION", NULL, "Give up what fails after so long."},                     \
        {"timeout", 't', "DURATION", NULL, "Limit of a call (default: the function's)."},          \
        {"bisect", 0, NULL, NULL, "Halve a batch that fails."},                                    \
        {"on-success", 0, "WHERE", NULL, "function:NAME, queue:NAME or stream:NAME for answers."}, \
    {                                                                                              \
        "on-failure", 0, "WHERE", NULL, "The same for events that were given up."                  \
    }

/* Of kind http, and of routes, which are the same. */
#define ROUTE_SETTINGS                                                                             \
    {"method", 'm', "LIST", NULL, "Of http: GET,POST (default: any)."},                            \
        {"host", 0, "LIST", NULL, "Of http: api.example.org,*.example.net (default: any)."},       \
        {"auth", 0, "KIND", "none token mtls",                                                     \
         "Of http: who may call; token: a client's bearer token; mtls: a certificate."},           \
        {"client-ca", 0, "FILE", NULL,                                                             \
         "For mtls: the certificates that a client's must lead to."},                              \
        {"cors", 0, "ORIGINS", NULL, "https://app.example.org,... or *: sites that may call."},    \
        {"rate-limit", 0, "LIMIT", NULL, "RATE[:BURST[:client|:route]], requests per second."},    \
        {"body-max", 0, "SIZE", NULL, "Largest body."},                                            \
        {"cache", 0, NULL, NULL, "Keep answers whose Cache-Control allows it."},                   \
        {"websocket", 0, NULL, NULL, "For WebSocket; --body-max is that of a message."},           \
        {"subprotocol", 0, "LIST", NULL, "Of WebSocket: chat.v2,chat.v1,... that may be chosen."}, \
    {                                                                                              \
        "stream", 0, NULL, NULL, "Run when the head is there; the body is read as it comes."       \
    }

#define NO_WAIT                                                                              \
    {                                                                                        \
        "no-wait", 0, NULL, NULL, "Print the operation's id instead of waiting for its end." \
    }

/* What verbs that show rates again and again share. */
#define TOP_FLAGS                                                                        \
    {"once", 0, NULL, NULL, "Once, over a second, as where the output is no terminal."}, \
    {                                                                                    \
        "interval", 0, "DURATION", NULL,                                                 \
            "How long between two looks (default 2s; with --once 1s)."                   \
    }

#define FLAGS(...) ((const struct flag[]){__VA_ARGS__, {NULL, 0, NULL, NULL, NULL}})

static const struct flag deploy_flags[] = {
    {"flake", 0, "REFERENCE#PACKAGE", NULL,
     "Build it here by Nix instead: a package of a flake that holds PACKAGE.wasm, as .#hello; with "
     "PATH and the runtime linux: a NixOS configuration with microvm.nix, its machine."},
    {"twice", 0, NULL, NULL,
     "With --flake: build it once more, and deploy nothing when that differs by a byte."},
#define SETTING(key, flag, letter, kind, field, choices, text) \
    {flag, letter, SETTING_IS_##kind, choices, text},
#define SETTING_IS_SIZE     "SIZE"
#define SETTING_IS_DURATION "DURATION"
#define SETTING_IS_COUNT    "COUNT"
#define SETTING_IS_TEXT     "WHAT"
#include "settings.def"
#undef SETTING
    {"env", 'e', "NAME=VALUE", NULL, "An environment variable; may be given several times."},
    {"allow", 0, "HOST[:PORT]", NULL,
     "Whom it may fetch from: a name, *.NAME, an address or a network, with http:// or "
     "https:// in front for that alone; may be given several times."},
    {"secret", 's', "NAME=SECRET", NULL,
     "An environment variable whose value is this secret; may be given several times."},
    {"no-wait", 0, NULL, NULL, "Print the operation's id instead of waiting for its end."},
    {NULL, 0, NULL, NULL, NULL},
};

const struct flag cli_common_flags[] = {
    {"output", 'o', "FORMAT", "table json yaml", "How to print (default table)."},
    {"addr", 0, "ADDRESS", NULL,
     "The node's API: HOST:PORT, unix:PATH or https://HOST:PORT (default BLIXARD_ADDR)."},
    {"context", 0, "NAME", NULL, "The cluster to talk to (default BLIXARD_CONTEXT)."},
    {"project", 0, "NAME", NULL, "Whose things are meant (default BLIXARD_PROJECT, or default)."},
    {"token-file", 0, "FILE", NULL,
     "A bearer token to show; - is standard input (default BLIXARD_TOKEN)."},
    {"help", 'h', NULL, NULL, "Explain the verb."},
    {NULL, 0, NULL, NULL, NULL},
};

const struct noun cli_nouns[] = {
    {"fn", "functions"},
    {"trigger", "what calls functions besides people"},
    {"route", "which requests at the gateway call which function"},
    {"kv", "keys and values, for functions and people"},
    {"secret", "values that only functions and triggers see"},
    {"trace", "what was done for a request, and how long it took"},
    {"queue", "queues of messages"},
    {"stream", "streams of records"},
    {"fn alias", "which versions callers get"},
    {"invocation", "calls that were accepted and run later"},
    {"vm", "machines: long-lived Linux microVMs"},
    {"vm snapshot", "what machines were at a moment"},
    {"image", "what machines start from"},
    {"volume", "disks that machines are given"},
    {"volume snapshot", "what volumes held at one moment"},
    {"network", "networks of machines"},
    {"security-group", "what may reach the machines that are in one"},
    {"placement", "where machines run, and why"},
    {"placement-group", "machines that are kept apart, or together"},
    {"quota", "what projects may have at most"},
    {"store", "Nix stores of the nodes"},
    {"operation", "long-running changes"},
    {"node", "nodes"},
    {"node token", "tokens that nodes join with"},
    {"node maintenance", "windows in which nodes are maintained"},
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
     FLAGS({"lang", 'l', "LANGUAGE", "c cpp rust assemblyscript javascript",
            "Language of the project (default c)."}),
     "Write a small project: code, blixard.yaml, README.md and a test event.",
     "  blixard fn new hello --lang rust\n", verb_fn_new},
    {"fn", "init", "[PATH]", 0, 1,
     FLAGS({"template", 0, "TEMPLATE", "c cpp rust assemblyscript javascript",
            "What to begin with (default c)."},
           {"name", 0, "NAME", NULL, "Its name (default: the folder's)."}),
     "Make a folder (default .) a project, as fn new does; what is there already is left alone.",
     "  mkdir hello && cd hello && blixard fn init --template rust && blixard fn deploy\n"
     "  blixard fn init --template assemblyscript services/hello\n",
     verb_fn_init},
    {"fn", "build", "[PATH]", 0, 1, NULL,
     "Build the project in a folder (default .) into WebAssembly; prints the module's path.",
     "  blixard fn build hello\n", verb_fn_build},
    {"fn", "run", "FILE [-- ARGUMENT...]", 1, WORDS_MAX,
     FLAGS(
         {"invoke", 0, "EXPORT", NULL,
          "Call this export with the arguments instead of running the program; prints its "
          "results."},
         {"script", 0, "FILE", NULL,
          "Call what its lines say (invoke NAME VALUE..., get NAME), in one instance; - is "
          "standard input."},
         {"preload", 0, "NAME=FILE", NULL,
          "With --invoke or --script: a module that the ones after it may import from as NAME; may "
          "be given several times."},
         {"dir", 0, "HOST[::GUEST][:ro|:rw]", NULL,
          "A folder of this machine for the module; may be given several times."},
         {"env", 'e', "NAME=VALUE", NULL, "An environment variable; may be given several times."},
         {"secret", 's', "NAME=FILE", NULL,
          "An environment variable whose value is this file's content; may be given several "
          "times."},
         {"stdin", 0, "FILE", NULL, "Standard input is this file."},
         {"memory", 'm', "SIZE", NULL, "Most memory (default 4GiB)."},
         {"timeout", 't', "DURATION", NULL, "Wall-clock limit (default 1h)."},
         {"tier", 0, "TIER", "fast optimized",
          "How it is compiled (default: optimized where it is already, else fast)."},
         {"isolation", 0, "HOW", "microvm process", "What it runs in (default: the better one)."}),
     "Run a .wasm module once, here, without a node; its exit status is the command's, 70 after a "
     "trap.",
     "  blixard fn run program.wasm\n"
     "  blixard fn run --dir .::/work:ro program.wasm -- --verbose /work/input\n"
     "  blixard fn run math.wasm --invoke add 2 -3\n"
     "  printf 'invoke div 1 0\\nget count\\n' | blixard fn run math.wasm --script -\n",
     verb_fn_run},
    {"fn", "optimize", "NAME|FILE", 1, 1,
     FLAGS(
         {"data", 'd', "TEXT", NULL, "The input of the calls that are timed."},
         {"file", 'f', "FILE", NULL, "The input is this file's content."},
         {"calls", 0, "COUNT", NULL, "How many calls in each tier (default 50)."},
         {"env", 'e', "NAME=VALUE", NULL,
          "An environment variable of the calls; may be given several times."},
         {"isolation", 0, "HOW", "microvm process", "What they run in (default: the better one)."}),
     "Show what becomes of a function, or of a .wasm file, on its way to code, and how much faster "
     "it "
     "runs; compiles and calls it here.",
     "  blixard fn optimize hello --data world\n"
     "  blixard fn optimize build/resize.wasm --file photo.jpg --calls 200\n",
     verb_fn_optimize},
    {"fn", "deploy", "[NAME [PATH]]", 0, 2, deploy_flags,
     "Deploy a .wasm file, or a project folder that is built first, as a new version; without NAME "
     "and PATH, the project in this folder.",
     "  blixard fn deploy hello hello\n"
     "  blixard fn deploy resize resize.wasm --memory 256MiB --timeout 10s --env QUALITY=80\n"
     "  blixard fn deploy orders orders --secret DB_PASSWORD=db-password\n"
     "  blixard fn deploy --flake .#hello --twice\n",
     verb_fn_deploy},
    {"fn", "invoke", "NAME [-]", 1, 2,
     FLAGS({"data", 'd', "TEXT", NULL, "The input."},
           {"file", 'f', "FILE", NULL, "The input is this file's content."},
           {"header", 'H', "FIELD", NULL, "A header field of the request: 'Name: value'."},
           {"node", 0, "NODE", NULL, "Where to run it (default: any node that can)."},
           {"verbose", 'v', NULL, NULL,
            "Show status, isolation, instance and timings on standard error."},
           {"async", 0, NULL, NULL,
            "Accept it durably and run it later: prints the invocation's id."},
           {"wait", 0, NULL, NULL, "With --async: wait for its end and print its answer."},
           {"timeout", 't', "DURATION", NULL, "With --wait: how long at most."},
           {"idempotency-key", 0, "KEY", NULL,
            "With --async: the same key and input again is the same invocation."},
           {"retries", 0, "COUNT", NULL, "With --async: attempts after the first (default 2)."},
           {"backoff", 0, "DURATION", NULL,
            "With --async: before the first retry (default 1s), doubled for each."},
           {"max-age", 0, "DURATION", NULL, "With --async: given up after this (default 6h)."},
           {"keep", 0, "DURATION", NULL, "With --async: how long its result is kept (24h)."},
           {"on-success", 0, "DESTINATION", NULL,
            "With --async: function:, queue: or stream:NAME gets the result."},
           {"on-failure", 0, "DESTINATION", NULL,
            "With --async: the same, told when it has failed."}),
     "Call a function and print its answer; with - the input is standard input.",
     "  blixard fn invoke hello --data world\n"
     "  blixard fn invoke hello --verbose - < photo.jpg > small.jpg\n"
     "  blixard fn invoke mail --async --idempotency-key order-17 --file order.json\n",
     verb_fn_invoke},
    {"fn", "list", "", 0, 0, NULL,
     "List functions, with calls and errors of the last five minutes.", "  blixard fn list\n",
     verb_fn_list},
    {"fn", "get", "NAME", 1, 1, NULL,
     "Show a function: its live version, tier, isolation, limits and cost; and what it did in the "
     "last five minutes and does now, on all nodes.",
     "  blixard fn get hello\n"
     "  blixard fn get hello --output yaml\n",
     verb_fn_get},
    {"fn", "top", "[NAME]", 0, 1,
     FLAGS(TOP_FLAGS,
           {"sort", 0, "FIELD", "name calls errors cold p50 p99 running waiting idle memory",
            "The most first (default: by name)."},
           {"node", 0, "NODE", NULL, "What they do on one node (default: on all, summed)."}),
     "Show what functions do, or the versions of one, again and again; q ends it.",
     "  blixard fn top --sort calls\n"
     "  blixard fn top hello --interval 500ms\n"
     "  blixard fn top --once --output json\n",
     verb_fn_top},
    {"fn", "versions", "NAME", 1, 1, NULL, "List the versions of a function, newest first.",
     "  blixard fn versions hello\n", verb_fn_versions},
    {"fn", "forecast", "NAME", 1, 1,
     FLAGS({"hours", 0, "N", NULL, "Default 24: so far back and ahead, at most 168."},
           {"node", 0, "NODE", NULL,
            "Whose forecast; the node's that is asked when it is left out."}),
     "Show what calls of a function are foreseen, and how good such forecasts were.",
     "  blixard fn forecast hello\n"
     "  blixard fn forecast hello --hours 2 --output json\n",
     verb_fn_forecast},
    {"fn alias", "set", "NAME ALIAS VERSION[=WEIGHT]...", 3, 10,
     FLAGS({"sticky", 0, "WHAT", NULL,
            "header:NAME or cookie:NAME: requests with the same value get the same version."}),
     "Point an alias to a version, or to several with weights; `live` is what callers get.",
     "  blixard fn alias set hello live 1\n"
     "  blixard fn alias set hello live v7=90 v8=10 --sticky header:X-User\n",
     verb_fn_alias_set},
    {"fn alias", "get", "NAME [ALIAS]", 1, 2, NULL,
     "Show the versions that an alias (default live) points to side by side: calls, errors and "
     "durations of the last five minutes, on all nodes.",
     "  blixard fn alias get hello\n"
     "  blixard fn alias get hello beta --output json\n",
     verb_fn_alias_get},
    {"fn alias", "list", "NAME", 1, 1, NULL, "List the aliases of a function.",
     "  blixard fn alias list hello\n", verb_fn_alias_list},
    {"fn alias", "history", "NAME [ALIAS]", 1, 2, NULL,
     "Show where an alias (default live) points and has pointed, newest first.",
     "  blixard fn alias history hello\n", verb_fn_alias_history},
    {"fn alias", "delete", "NAME ALIAS", 2, 2, NULL, "Delete an alias; not `live`.",
     "  blixard fn alias delete hello stable\n", verb_fn_alias_delete},
    {"fn", "rollback", "NAME [ALIAS]", 1, 2, NULL,
     "Point an alias (default live) to where it pointed before, at once.",
     "  blixard fn rollback hello\n", verb_fn_rollback},
    {"fn", "prune", "NAME", 1, 1,
     FLAGS({"keep", 0, "COUNT", NULL, "The newest to keep (default 10)."}),
     "Delete old versions to which no alias points.", "  blixard fn prune hello --keep 5\n",
     verb_fn_prune},
    {"fn", "logs", "NAME", 1, 1,
     FLAGS({"follow", 'f', NULL, NULL, "Go on with new lines until interrupted."},
           {"tail", 'n', "COUNT", NULL, "Begin with the last COUNT lines (default 100)."},
           {"trace", 0, "ID", NULL,
            "Only what was written in this trace; a beginning of its id as `trace show` takes it."},
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

    {"kv", "get", "KEY", 1, 1,
     FLAGS({"linearizable", 0, NULL, NULL, "See what any node has acknowledged before; slower."}),
     "Print a value as it is; with --output json also what is known of it.",
     "  blixard kv get config/theme\n"
     "  blixard kv get config/theme --output json\n",
     verb_kv_get},
    {"kv", "set", "KEY [VALUE]", 1, 2,
     FLAGS({"file", 'f', "FILE", NULL, "The value is this file's content; - is standard input."},
           {"ttl", 0, "DURATION", NULL, "It is gone after this time (default: never)."},
           {"if-revision", 0, "REVISION", NULL, "Only if the key is at this revision."},
           {"if-absent", 0, NULL, NULL, "Only if there is no such key."}),
     "Write a value, from the command line, a file or (VALUE is -) standard input.",
     "  blixard kv set config/theme dark\n"
     "  blixard kv set lock/nightly me --if-absent --ttl 10m\n"
     "  blixard kv set images/logo --file logo.png\n",
     verb_kv_set},
    {"kv", "list", "[PREFIX]", 0, 1,
     FLAGS({"after", 0, "KEY", NULL, "Begin behind this key."},
           {"limit", 'n', "COUNT", NULL, "At most so many (default: all)."}),
     "List the keys that begin with a text, in order.", "  blixard kv list config/\n",
     verb_kv_list},
    {"kv", "delete", "KEY...", 1, WORDS_MAX,
     FLAGS({"if-revision", 0, "REVISION", NULL, "Only if the key is at this revision."}),
     "Delete a key.", "  blixard kv delete config/theme\n", verb_kv_delete},

#include "secret_verbs.def"

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
     "Show the spans of a trace as a waterfall; the beginning of an id is enough where it is in "
     "the list.",
     "  blixard trace show 4bf92f3577b34da6a3ce929d0e0e4736\n"
     "  blixard trace show 4bf92f35 --output json\n",
     verb_trace_show},

    {"queue", "create", "NAME", 1, 1,
     FLAGS({"fifo", 0, NULL, NULL, "Groups in order, one message of each in flight."},
           QUEUE_SETTINGS),
     "Make a queue.",
     "  blixard queue create orders\n"
     "  blixard queue create orders --visibility 2m --dead-letter orders-dead --max-receives 3\n"
     "  blixard queue create payments --fifo\n",
     verb_queue_create},
    {"queue", "list", "", 0, 0, NULL, "List queues, with how they are doing.",
     "  blixard queue list\n", verb_queue_list},
    {"queue", "get", "NAME", 1, 1, NULL, "Show a queue: settings, depth, in flight, oldest, dead.",
     "  blixard queue get orders\n", verb_queue_get},
    {"queue", "update", "NAME", 1, 1, FLAGS(QUEUE_SETTINGS), "Change settings of a queue.",
     "  blixard queue update orders --visibility 5m\n"
     "  blixard queue update orders --dead-letter ''\n",
     verb_queue_update},
    {"queue", "delete", "NAME...", 1, WORDS_MAX, NULL, "Delete a queue with its messages.",
     "  blixard queue delete orders\n", verb_queue_delete},
    {"queue", "send", "NAME [-]", 1, 2,
     FLAGS({"data", 'd', "TEXT", NULL, "The message."},
           {"file", 'f', "FILE", NULL, "The message is this file's content, at most 256 KiB."},
           {"lines", 0, NULL, NULL, "Each line of the input is a message."},
           {"content-type", 0, "TYPE", NULL, "Its media type (default application/octet-stream)."},
           {"attribute", 'a', "NAME=VALUE", NULL,
            "A text that goes with it; may be given several times."},
           {"group", 'g', "GROUP", NULL, "Of a FIFO queue: what keeps its order."},
           {"dedup", 0, "ID", NULL, "Taken once within the queue's window."},
           {"delay", 0, "DURATION", NULL, "Hidden for so long, at most 15m."},
           {"priority", 'p', "0-9", NULL, "Higher first (default 0)."}),
     "Send a message; with - it is standard input.  Prints its id once it is committed.",
     "  blixard queue send orders --data '{\"id\":7}' --content-type application/json\n"
     "  blixard queue send payments --group alice --dedup order-7 - < order.json\n"
     "  seq 1000 | blixard queue send orders --lines -\n",
     verb_queue_send},
    {"queue", "receive", "NAME", 1, 1,
     FLAGS({"max", 'n', "COUNT", NULL, "Messages at most (default 1, at most 256)."},
           {"wait", 'w', "DURATION", NULL,
            "Wait for the first one, at most 20s (default: not at all)."},
           {"visibility", 0, "DURATION", NULL, "Hide them for so long (default: the queue's)."},
           {"ack", 0, NULL, NULL, "Acknowledge them at once, before they are printed."}),
     "Take messages, with the receipts that settle them.",
     "  blixard queue receive orders --wait 20s\n"
     "  blixard queue receive orders --max 10 --output json\n",
     verb_queue_receive},
    {"queue", "ack", "NAME RECEIPT...", 2, WORDS_MAX, NULL,
     "Acknowledge messages: they are done with.", "  blixard queue ack orders 43008-52\n",
     verb_queue_ack},
    {"queue", "nack", "NAME RECEIPT...", 2, WORDS_MAX,
     FLAGS({"delay", 0, "DURATION", NULL, "Visible after so long (default: at once)."}),
     "Give messages back.", "  blixard queue nack orders 43008-52 --delay 1m\n", verb_queue_nack},
    {"queue", "extend", "NAME RECEIPT...", 2, WORDS_MAX,
     FLAGS({"visibility", 0, "DURATION", NULL, "Hidden for so long from now on (default 30s)."}),
     "Keep messages hidden for longer.", "  blixard queue extend orders 43008-52 --visibility 5m\n",
     verb_queue_extend},
    {"queue", "purge", "NAME", 1, 1, NULL, "Remove all messages of a queue.",
     "  blixard queue purge orders\n", verb_queue_purge},
    {"queue", "messages", "NAME", 1, 1,
     FLAGS({"limit", 'n', "COUNT", NULL, "How many (default 20, at most 256)."}),
     "Look at the messages of a queue without taking them, oldest first.",
     "  blixard queue messages orders\n", verb_queue_messages},
    {"queue", "dead-letters", "NAME", 1, 1,
     FLAGS({"limit", 'n', "COUNT", NULL, "How many (default 20, at most 256)."}),
     "Look at the dead letters of a queue.", "  blixard queue dead-letters orders\n",
     verb_queue_dead_letters},
    {"queue", "redrive", "NAME", 1, 1,
     FLAGS({"max", 'n', "COUNT", NULL, "How many (default: all)."}),
     "Bring the dead letters of a queue back into it.", "  blixard queue redrive orders\n",
     verb_queue_redrive},

    {"stream", "create", "NAME", 1, 1,
     FLAGS({"partitions", 0, "COUNT", NULL, "1 to 64 (default 4), for good."},
           {"retention", 0, "DURATION", NULL, "How long a record is kept (default 24h)."},
           {"retention-bytes", 0, "SIZE", NULL, "How much is kept (default 64MiB)."}),
     "Make a stream.",
     "  blixard stream create clicks --partitions 8 --retention 7d --retention-bytes 1GiB\n",
     verb_stream_create},
    {"stream", "list", "", 0, 0, NULL, "List streams.", "  blixard stream list\n",
     verb_stream_list},
    {"stream", "get", "NAME", 1, 1, NULL,
     "Show a stream: its partitions, and its groups with their lag.",
     "  blixard stream get clicks\n", verb_stream_get},
    {"stream", "update", "NAME", 1, 1,
     FLAGS({"retention", 0, "DURATION", NULL, "How long a record is kept."},
           {"retention-bytes", 0, "SIZE", NULL, "How much is kept."}),
     "Change how long and how much a stream keeps.",
     "  blixard stream update clicks --retention 14d\n", verb_stream_update},
    {"stream", "delete", "NAME...", 1, WORDS_MAX, NULL, "Delete a stream with its records.",
     "  blixard stream delete clicks\n", verb_stream_delete},
    {"stream", "append", "NAME [-]", 1, 2,
     FLAGS({"data", 'd', "TEXT", NULL, "The record."},
           {"file", 'f', "FILE", NULL, "The record is this file's content, at most 256 KiB."},
           {"lines", 0, NULL, NULL, "Each line of the input is a record."},
           {"key", 'k', "KEY", NULL, "Records of one key are in order (default: any partition)."},
           {"content-type", 0, "TYPE", NULL, "Its media type (default application/octet-stream)."},
           {"attribute", 'a', "NAME=VALUE", NULL,
            "A text that goes with it; may be given several times."}),
     "Append a record; with - it is standard input.  Prints its place once it is committed.",
     "  blixard stream append clicks --key alice --data '{\"page\":\"/\"}'\n"
     "  tail -1000 access.log | blixard stream append clicks --lines -\n",
     verb_stream_append},
    {"stream", "read", "NAME", 1, 1,
     FLAGS({"partition", 'p', "NUMBER", NULL, "This partition alone (default: all)."},
           {"from", 0, "START", NULL,
            "TRIM_HORIZON (default), LATEST, a time, how long ago (10m), or a partition's "
            "sequence; or the cursor of --output json."},
           {"limit", 'n', "COUNT", NULL, "How many (default: all there are)."},
           {"follow", 'f', NULL, NULL, "Go on with what comes."},
           {"wait", 'w', "DURATION", NULL,
            "Wait for the first one, at most 20s (default: not at all)."},
           {"raw", 0, NULL, NULL, "The contents alone, one a line."}),
     "Read the records of a stream, the oldest first.",
     "  blixard stream read clicks --follow --from LATEST\n"
     "  blixard stream read clicks --partition 2 --from 41\n"
     "  blixard stream read clicks --from 2026-01-31T12:00:00Z --output json\n",
     verb_stream_read},
    {"stream", "checkpoint", "NAME GROUP", 2, 2,
     FLAGS({"partition", 'p', "NUMBER", NULL, "Which partition (default 0)."},
           {"sequence", 0, "SEQUENCE", NULL,
            "The last one that the group is done with; without it: show."},
           {"expected", 0, "SEQUENCE", NULL,
            "What the checkpoint is now (default 0: none); else it is refused."},
           {"forget", 0, NULL, NULL, "Forget the group and its checkpoints."}),
     "Show how far a group is, or set its checkpoint in a partition.",
     "  blixard stream checkpoint clicks billing\n"
     "  blixard stream checkpoint clicks billing --partition 2 --sequence 41 --expected 37\n",
     verb_stream_checkpoint},
    {"invocation", "list", "[FUNCTION]", 0, 1,
     FLAGS({"state", 0, "STATE", "pending running succeeded failed cancelled expired",
            "Only those in this state."},
           {"dead", 0, NULL, NULL, "Only dead letters: what has failed or expired."},
           {"count", 'n', "COUNT", NULL, "At most so many (default 100)."}),
     "List asynchronous invocations, newest first.",
     "  blixard invocation list\n"
     "  blixard invocation list mail --dead\n",
     verb_invocation_list},
    {"invocation", "get", "ID", 1, 1, NULL, "Show an invocation: its state, attempts and answer.",
     "  blixard invocation get 0f3c\n", verb_invocation_get},
    {"invocation", "wait", "ID", 1, 1,
     FLAGS({"timeout", 't', "DURATION", NULL, "How long at most (default: for ever)."}),
     "Wait until an invocation has ended and print its answer; fails as it did.",
     "  blixard invocation wait 0f3c --timeout 30s\n", verb_invocation_wait},
    {"invocation", "cancel", "ID", 1, 1, NULL,
     "Cancel an invocation; an attempt under way is broken off.",
     "  blixard invocation cancel 0f3c\n", verb_invocation_cancel},
    {"invocation", "logs", "ID", 1, 1, NULL,
     "Show what the function wrote to standard error in each attempt that has ended.",
     "  blixard invocation logs 0f3c\n", verb_invocation_logs},
    {"invocation", "redrive", "[ID]", 0, 1,
     FLAGS({"function", 0, "NAME", NULL, "All dead letters of this function."}),
     "Try what has failed or expired once more.",
     "  blixard invocation redrive 0f3c\n"
     "  blixard invocation redrive --function mail\n",
     verb_invocation_redrive},

#include "machine_verbs.def"
#include "network_verbs.def"
#include "placement_verbs.def"

    {"image", "list", "", 0, 0, NULL, "List the images of machines.", "  blixard image list\n",
     verb_image_list},
    {"image", "show", "NAME", 1, 1, NULL, "Show an image.", "  blixard image show debian-12\n",
     verb_image_show},
    {"image", "delete", "NAME...", 1, WORDS_MAX, NULL,
     "Delete an image that no machine was made from.", "  blixard image delete debian-12\n",
     verb_image_delete},
    {"image", "verify", "[NAME]", 0, 1,
     FLAGS({"node", 'n', "NODE", NULL, "What this node has (default: the one that answers)."},
           {"repair", 0, NULL, NULL, "Fetch what is damaged anew from a node that has it whole."},
           {"no-wait", 0, NULL, NULL, "Do not wait for the operation."}),
     "Read what a node has of an image, or of all, again; damage is named, and put aside.",
     "  blixard image verify\n"
     "  blixard image verify debian-12 --node n2 --repair\n",
     verb_image_verify},
    {"image", "import", "NAME", 1, 1,
     FLAGS(
         {"root", 'r', "FILE", NULL,
          "The root: a tar archive (packed or not), or a file system image."},
         {"kernel", 'k', "FILE", NULL, "The kernel (default: /boot/vmlinuz-* of the archive)."},
         {"modules", 0, "FOLDER", NULL, "Its lib/modules/VERSION (default: that of the archive)."},
         {"oci", 0, "PATH[:TAG]", NULL,
          "An OCI layout, a folder or an archive of one, or what `docker save` wrote."},
         {"kernel-image", 0, "IMAGE", NULL,
          "With --oci: an image whose kernel it gets (default linux, made when it is missing)."},
         {"cmdline", 0, "WORDS", NULL, "Words for the kernel."},
         {"disk", 'd', "FILE", NULL,
          "In their place a whole disk that boots by itself: qcow2 or raw, packed or not."},
         {"firmware", 0, "FIRMWARE", "bios uefi", "What that disk is booted by (default bios)."},
         {"no-agent", 0, NULL, NULL, "It has neither an agent nor cloud-init: wait for none."},
         {"runner", 0, "PATH", NULL,
          "In their place what a runner of microvm.nix boots, with the agent in it: of functions."},
         {"flake", 'f', "REFERENCE#NAME", NULL,
          "Build that runner here: nixosConfigurations.NAME of a flake."}),
     "Make an image of files of this machine.",
     "  blixard image import debian-12 --root root.tar\n"
     "  blixard image import web --oci ./layout:latest\n"
     "  blixard image import tiny --kernel /boot/vmlinuz-6.1.0-56-cloud-amd64 \\\n"
     "    --modules /lib/modules/6.1.0-56-cloud-amd64\n"
     "  blixard image import debian-12-cloud --disk debian-12-genericcloud-amd64.qcow2\n",
     verb_image_import},
    {"image", "build", "NAME", 1, 1,
     FLAGS({"suite", 0, "SUITE", NULL, "Release of Debian (default bookworm)."},
           {"include", 0, "PACKAGES", NULL, "More packages, with commas between."},
           {"mirror", 0, "URL", NULL, "Where packages come from (default: as mmdebstrap has it)."},
           {"customize", 0, "FOLDER", NULL, "Files that are put over the root."}),
     "Make an image of Debian packages, by mmdebstrap on this machine.",
     "  blixard image build debian-12\n"
     "  blixard image build web --include nginx-light,curl --customize ./files\n",
     verb_image_build},
    {"image", "pull", "REFERENCE", 1, 1, image_pull_flags,
     "Make an image of one in an OCI registry.",
     "  blixard image pull nginx:1.27\n"
     "  blixard image pull docker://registry.example.com/team/app:3 --username ci --password-stdin "
     "<password\n"
     "  blixard image pull registry.example.com/team/app:3 --credentials registry-logins\n"
     "  blixard image pull localhost:5000/web --insecure --name web\n",
     verb_image_pull},

    {"operation", "list", "", 0, 0, NULL, "List operations, newest first.",
     "  blixard operation list\n", verb_operation_list},
    {"operation", "get", "ID", 1, 1, NULL, "Show an operation.", "  blixard operation get 0f3c\n",
     verb_operation_get},
    {"operation", "wait", "ID", 1, 1,
     FLAGS({"timeout", 't', "DURATION", NULL, "How long at most (default: for ever)."}),
     "Wait until an operation has ended; fails as it did.",
     "  blixard operation wait 0f3c --timeout 5m\n", verb_operation_wait},
    {"operation", "cancel", "ID", 1, 1, NULL, "Cancel an operation.",
     "  blixard operation cancel 0f3c\n", verb_operation_cancel},

    {"node", "list", "", 0, 0, NULL, "List the nodes of the cluster.", "  blixard node list\n",
     verb_node_list},
    {"node", "show", "[NODE]", 0, 1, NULL,
     "Show a node of the cluster; without a name the one that answers: isolation, store, runners.",
     "  blixard node show\n"
     "  blixard node show north\n",
     verb_node_show},
    {"node", "forecast", "[NODE]", 0, 1,
     FLAGS({"hours", 0, "N", NULL, "Default 24: so far back and ahead, at most 168."}),
     "Show what cores a node used and is foreseen to use; placement likes busy ones less.",
     "  blixard node forecast\n"
     "  blixard node forecast north --hours 168\n",
     verb_node_forecast},
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
#include "node_verbs.def"
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

    {"trigger", "create", "[NAME]", 0, 1,
     FLAGS(
         {"kind", 'k', "KIND", NULL, "http, cron, queue, stream, mqtt, redis, nats, kafka, amqp."},
         TRIGGER_SETTINGS, ROUTE_SETTINGS,
         {"file", 0, "FILE", NULL, "The same as YAML; - is standard input."},
         {"paused", 0, NULL, NULL, "Do not begin yet."}),
     "Make a trigger: events that call a function.",
     "  blixard trigger create nightly --function report --schedule '0 3 * * *' --timezone "
     "Europe/Berlin\n"
     "  blixard trigger create orders --kind queue --set queue=orders -f ship --batch-size 10\n"
     "  blixard trigger create users --kind http -f users --path '/users/{id}' --method GET,PUT\n"
     "  blixard trigger create --file trigger.yaml\n",
     verb_trigger_create},
    {"trigger", "update", "NAME", 1, 1,
     FLAGS(TRIGGER_SETTINGS, ROUTE_SETTINGS,
           {"file", 0, "FILE", NULL, "The same as YAML; - is standard input."}),
     "Change a trigger; what is not given stays.",
     "  blixard trigger update nightly --schedule '0 4 * * *'\n", verb_trigger_update},
    {"trigger", "list", "", 0, 0, NULL, "List the triggers.", "  blixard trigger list\n",
     verb_trigger_list},
    {"trigger", "get", "NAME", 1, 1, NULL, "Show a trigger: settings, counters, the last error.",
     "  blixard trigger get nightly\n", verb_trigger_get},
    {"trigger", "pause", "NAME...", 1, WORDS_MAX, NULL,
     "Take no more events; slots meanwhile are passed over.", "  blixard trigger pause nightly\n",
     verb_trigger_pause},
    {"trigger", "resume", "NAME...", 1, WORDS_MAX, NULL, "Take events again.",
     "  blixard trigger resume nightly\n", verb_trigger_resume},
    {"trigger", "delete", "NAME...", 1, WORDS_MAX, NULL, "Delete a trigger.",
     "  blixard trigger delete nightly\n", verb_trigger_delete},
    {"trigger", "test", "NAME", 1, 1,
     FLAGS({"event", 'e', "FILE", NULL, "A CloudEvent as JSON; - is standard input."},
           {"path", 'p', "PATH", NULL, "Of http: the request's, where the route has parameters."},
           {"no-deliver", 0, NULL, NULL, "End before the function."}),
     "Send one event through filter, transform and delivery, and show each stage.",
     "  blixard trigger test nightly --event event.json\n", verb_trigger_test},

    {"route", "set", "NAME", 1, 1,
     FLAGS(
         {"function", 'f', "FUNCTION", NULL, "NAME, NAME:ALIAS or NAME:VERSION."},
         {"path", 'p', "PATH", NULL, "/users/{id}, or /files/{path...}; {id} is PATH_PARAM_ID."},
         ROUTE_SETTINGS,
         {"filter", 0, "FILTER", NULL, "JSON pattern or CESQL, or @FILE, of the request's head."},
         {"concurrency", 0, "COUNT", NULL, "Most calls at once, at each node (default: any)."},
         {"timeout", 't', "DURATION", NULL, "Limit of a call (default: the function's)."},
         {"paused", 0, NULL, NULL, "Do not begin yet."},
         {"file", 0, "FILE", NULL, "Settings as YAML; - is standard input.  Flags go before it."}),
     "Make a route, or replace it: requests at the gateway that fit it call the function.",
     "  blixard route set users --function users --path /users/{id} --method GET,PUT\n"
     "  blixard route set api -f api -p /v1/{rest...} --host api.example.org --rate-limit 10:20\n",
     verb_route_set},
    {"route", "list", "", 0, 0, NULL, "List the routes.", "  blixard route list\n",
     verb_route_list},
    {"route", "get", "NAME", 1, 1, NULL, "Show a route.", "  blixard route get users\n",
     verb_route_get},
    {"route", "pause", "NAME...", 1, WORDS_MAX, NULL, "Answer the requests of a route with 503.",
     "  blixard route pause users\n", verb_route_pause},
    {"route", "resume", "NAME...", 1, WORDS_MAX, NULL, "Serve a route again.",
     "  blixard route resume users\n", verb_route_resume},
    {"route", "delete", "NAME...", 1, WORDS_MAX, NULL, "Delete a route.",
     "  blixard route delete users\n", verb_route_delete},

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

#include "maintenance_verbs.def"
#include "manifest_verbs.def"
#include "quota_verbs.def"
#include "store_verbs.def"

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
