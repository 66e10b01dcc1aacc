#include "main/node.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/image.h"
#include "engine/store/store.h"
#include "engine/vmm/vmm.h"
#include "engine/wasm/wasm.h"

#include "service/function/function.h"
#include "service/gateway/gateway.h"
#include "service/instance/instance.h"
#include "service/operation/operation.h"
#include "service/telemetry/telemetry.h"

#include "surface/api/api.h"

#include "main/options.h"

#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

struct node {
    struct options options;
    bool is_dev;
    char *folder;
    char name[256];
    char gateway_text[160];
    char api_text[160];
    struct vmm_probe probe;
    enum vmm_isolation isolation;
    uv_signal_t signals[2];
    bool stopping;

    struct loop *loop;
    struct store *store;
    struct image_store *images;
    struct telemetry *telemetry;
    struct wasm *wasm;
    struct instance_service *instances;
    struct operation_service *operations;
    struct function_service *functions;
    struct gateway *gateway;
    struct api *api;
    bool is_running; /* all subsystems have started, none is being stopped */
};

/* ---- Subsystems, in order ---- */

static char *sub_folder(const struct node *node, const char *name)
{
    return memory_format("%s/%s", node->folder, name);
}

static int start_folder(struct node *node, struct error *err)
{
    return file_make_folder(node->folder, 0700, err);
}

/* The log cannot be written any more: say it where people look, and refuse traffic. */
static void on_store_failed(const struct error *error, void *context)
{
    struct node *node = context;
    log_error("store: %s", error->text);
    if (node->api != NULL) {
        api_set_ready(node->api, error->text);
    }
}

static int start_store(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = sub_folder(node, "store");
    struct store_options options = {
        .folder = folder, .on_failed = on_store_failed, .context = node};
    return store_open(node->loop, &options, &node->store, err);
}

static void stop_store(struct node *node)
{
    store_close(node->store);
}

static int start_images(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = sub_folder(node, "images");
    return image_store_open(folder, &node->images, err);
}

static void stop_images(struct node *node)
{
    image_store_close(node->images);
}

static int start_telemetry(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = sub_folder(node, "logs");
    struct telemetry_options options = {.folder = folder,
                                        .bytes_max_per_function = node->options.log_bytes_max};
    return telemetry_open(&options, &node->telemetry, err);
}

static void stop_telemetry(struct node *node)
{
    telemetry_close(node->telemetry);
}

/* Without compilers what is built already still runs: a warning, not an end. */
static int start_wasm(struct node *node, struct error *err)
{
    MEMORY_OWNED char *folder = sub_folder(node, "build");
    struct wasm_options options = {.work_folder = folder, .images = node->images};
    int r = file_make_folder(folder, 0711, err);
    r = r < 0 ? r : wasm_open(&options, &node->wasm, err);
    if (r == 0 && wasm_problem(node->wasm) != NULL) {
        log_warn("functions cannot be built: %s", wasm_problem(node->wasm)->text);
    }
    return r;
}

static void stop_wasm(struct node *node)
{
    wasm_close(node->wasm);
}

static int start_isolation(struct node *node, struct error *err)
{
    vmm_probe(&node->probe);
    const char *wanted = node->options.isolation;
    if (strcmp(wanted, "process") == 0) {
        node->isolation = VMM_ISOLATION_PROCESS;
        snprintf(node->probe.kvm_reason, sizeof(node->probe.kvm_reason), "isolation=process");
        return 0;
    }
    if (node->probe.kvm_usable) {
        node->isolation = VMM_ISOLATION_MICROVM;
        return 0;
    }
    if (strcmp(wanted, "microvm") == 0) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "isolation=microvm, but there is no usable KVM: %s (see `blixard doctor`)",
                         node->probe.kvm_reason);
    }
    node->isolation = VMM_ISOLATION_PROCESS;
    log_warn("no usable KVM (%s): functions run in a process sandbox, a weaker boundary",
             node->probe.kvm_reason);
    return 0;
}

static int start_instances(struct node *node, struct error *err)
{
    struct instance_options options = {
        .isolation = node->isolation,
        .slots_per_runner = (unsigned)node->options.slots_per_runner,
        .runners_max = (unsigned)node->options.runners_max,
        .images = node->images,
        .telemetry = node->telemetry,
    };
    return instance_service_new(node->loop, &options, &node->instances, err);
}

static void stop_instances(struct node *node)
{
    instance_service_free(node->instances);
}

static int start_operations(struct node *node, struct error *err)
{
    return operation_service_new(node->loop, node->store, &node->operations, err);
}

static void stop_operations(struct node *node)
{
    operation_service_free(node->operations);
}

static void greet(const struct node *node);
static void notify(const char *state);

static void on_functions_ready(const struct error *error, void *context)
{
    struct node *node = context;
    if (!node->is_running) {
        return; /* another subsystem could not be started */
    }
    if (error != NULL) {
        log_error("the state cannot be written: %s", error->text);
        api_set_ready(node->api, error->text);
        return;
    }
    api_set_ready(node->api, NULL);
    greet(node);
    notify("READY=1");
}

/* Compiling anew what a cache has lost takes its time: neither people nor systemd give it up. */
static void on_functions_progress(unsigned left, void *context)
{
    struct node *node = context;
    char text[ERROR_TEXT_MAX];
    snprintf(text, sizeof(text), "%u function%s being made ready after a start of this node", left,
             left == 1 ? " is" : "s are");
    if (node->is_running) {
        api_set_ready(node->api, text);
        notify("EXTEND_TIMEOUT_USEC=120000000");
    }
}

static int start_functions(struct node *node, struct error *err)
{
    struct function_options options = {
        .loop = node->loop,
        .store = node->store,
        .images = node->images,
        .wasm = node->wasm,
        .instances = node->instances,
        .operations = node->operations,
        .telemetry = node->telemetry,
        .build_threads = (unsigned)node->options.build_threads,
        .on_ready = on_functions_ready,
        .on_progress = on_functions_progress,
        .context = node,
    };
    return function_service_new(&options, &node->functions, err);
}

static void stop_functions(struct node *node)
{
    function_service_free(node->functions);
}

static int start_gateway(struct node *node, struct error *err)
{
    struct gateway_options options = {
        .address = node->options.gateway_address,
        .threads = 1,
        .body_bytes_max = node->options.body_bytes_max,
        .functions = node->functions,
        .instances = node->instances,
        .telemetry = node->telemetry,
    };
    return gateway_start(&options, &node->gateway, err) < 0 ? error_wrap(err, "gateway_address")
                                                            : 0;
}

static void stop_gateway(struct node *node)
{
    gateway_stop(node->gateway, node->options.drain_timeout_ms);
}

/* HOST of "HOST:PORT" with the port that was really taken. */
static void describe_address(const char *address, uint16_t port, char *ret_text, size_t size)
{
    const char *colon = strrchr(address, ':');
    snprintf(ret_text, size, "%.*s:%u", (int)(colon - address), address, port);
}

static int start_api(struct node *node, struct error *err)
{
    MEMORY_OWNED char *socket = NULL;
    if (node->options.api_socket[0] == '\0') {
        socket = memory_format("%s/api.sock", node->folder);
    } else if (strcmp(node->options.api_socket, "none") != 0) {
        socket = memory_copy_string(node->options.api_socket);
    }
    describe_address(node->options.gateway_address, gateway_port(node->gateway), node->gateway_text,
                     sizeof(node->gateway_text));
    MEMORY_OWNED char *gateway_url = memory_format("http://%s", node->gateway_text);
    function_set_gateway(node->functions, gateway_url);
    struct api_options options = {
        .loop = node->loop,
        .address = node->options.api_address,
        .socket_path = socket,
        .blob_bytes_max = node->options.module_bytes_max,
        .store = node->store,
        .images = node->images,
        .telemetry = node->telemetry,
        .operations = node->operations,
        .instances = node->instances,
        .functions = node->functions,
        .gateway = node->gateway,
        .node_name = node->name,
        .gateway_address = node->gateway_text,
        .data_folder = node->folder,
        .isolation_reason =
            node->isolation == VMM_ISOLATION_MICROVM ? NULL : node->probe.kvm_reason,
    };
    if (api_start(&options, &node->api, err) < 0) {
        return error_wrap(err, "api_address");
    }
    describe_address(node->options.api_address, api_port(node->api), node->api_text,
                     sizeof(node->api_text));
    return 0;
}

static void stop_api(struct node *node)
{
    api_stop(node->api, node->options.drain_timeout_ms);
    node->api = NULL;
}

static const struct subsystem {
    const char *name;
    int (*start)(struct node *node, struct error *err);
    void (*stop)(struct node *node);
} subsystems[] = {
    {"data folder", start_folder, NULL},
    {"store", start_store, stop_store},
    {"images", start_images, stop_images},
    {"telemetry", start_telemetry, stop_telemetry},
    {"wasm", start_wasm, stop_wasm},
    {"isolation", start_isolation, NULL},
    {"instances", start_instances, stop_instances},
    {"operations", start_operations, stop_operations},
    {"functions", start_functions, stop_functions},
    {"gateway", start_gateway, stop_gateway},
    {"api", start_api, stop_api},
};

enum { SUBSYSTEMS = sizeof(subsystems) / sizeof(subsystems[0]) };

/* ---- Running ---- */

static void notify(const char *state)
{
#ifdef HAVE_SYSTEMD
    sd_notify(0, state);
#else
    (void)state;
#endif
}

static void on_signal(uv_signal_t *signal, int number)
{
    struct node *node = signal->data;
    if (node->stopping) {
        log_warn("a second signal: ending at once");
        _exit(128 + number);
    }
    node->stopping = true;
    log_info("stopping (%s)", number == SIGINT ? "interrupt" : "terminate");
    notify("STOPPING=1");
    api_set_ready(node->api, "the node is shutting down");
    loop_stop(node->loop);
}

static void watch_signals(struct node *node)
{
    static const int numbers[2] = {SIGTERM, SIGINT};
    for (int i = 0; i < 2; i++) {
        uv_signal_init(loop_uv(node->loop), &node->signals[i]);
        node->signals[i].data = node;
        uv_signal_start(&node->signals[i], on_signal, numbers[i]);
    }
}

static void unwatch_signals(struct node *node)
{
    for (int i = 0; i < 2; i++) {
        uv_close((uv_handle_t *)&node->signals[i], NULL);
    }
}

static void greet(const struct node *node)
{
    if (!node->is_dev) {
        log_info("node %s is ready: API http://%s, gateway http://%s, isolation %s", node->name,
                 node->api_text, node->gateway_text, vmm_isolation_text(node->isolation));
        return;
    }
    printf("Blixard %s is ready.\n\n"
           "  API        http://%s\n"
           "  functions  http://%s/fn/NAME\n"
           "  isolation  %s%s%s\n"
           "  data       %s\n\n"
           "In another terminal:\n\n"
           "  blixard fn new hello --lang c\n"
           "  blixard fn deploy hello hello\n"
           "  blixard fn invoke hello --data world\n\n"
           "Ctrl-C stops the node.\n",
           BLIXARD_VERSION, node->api_text, node->gateway_text, vmm_isolation_text(node->isolation),
           node->isolation == VMM_ISOLATION_MICROVM ? "" : ": ",
           node->isolation == VMM_ISOLATION_MICROVM ? "" : node->probe.kvm_reason, node->folder);
    fflush(stdout);
}

static int run(struct node *node, struct error *err)
{
    int started = 0;
    int r = 0;
    while (r == 0 && started < SUBSYSTEMS) {
        r = subsystems[started].start(node, err);
        started += r == 0;
    }
    if (r == 0) {
        watch_signals(node);
        node->is_running = true;
        loop_run(node->loop);
        node->is_running = false;
        unwatch_signals(node);
    }
    while (started > 0) {
        started--;
        if (subsystems[started].stop != NULL) {
            subsystems[started].stop(node);
        }
    }
    return r;
}

/* ---- Command line ---- */

static const char default_config[] = "/etc/blixard/blixard.yaml";

static const char usage[] =
    "usage: blixard server [--config FILE] [--check-config] [--OPTION VALUE ...]\n"
    "       blixard dev [--OPTION VALUE ...]\n\n"
    "server runs a node as a daemon; dev runs one in the foreground with data in your state "
    "folder.\n"
    "The configuration file is YAML or JSON with the same names (data_folder: /var/lib/blixard); "
    "server\n"
    "reads /etc/blixard/blixard.yaml when it is there and no other is named.\n\n"
    "options [default]:\n";

static const char examples[] =
    "\nexamples:\n"
    "  blixard dev\n"
    "  blixard dev --isolation process --gateway-address 127.0.0.1:8080\n"
    "  blixard server --config /etc/blixard.yaml --check-config\n";

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

struct command_line {
    bool help;
    bool check;
    bool markdown;
    const char *config;
};

/* Flags override the file, so the file is read first: two walks. */
static int walk(int argc, char **argv, struct options *options, struct command_line *line,
                struct error *err)
{
    for (int i = 1; i < argc; i++) {
        const char *flag = argv[i];
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
            const char *value = equals != NULL ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
            if (value == NULL || (equals == NULL && text_starts_with(value, "--"))) {
                return error_set(err, ERROR_INVALID, "%s needs a value", flag);
            }
            if (strcmp(name, "config") == 0) {
                line->config = value;
            } else if (options != NULL && options_set(options, name, value, err) < 0) {
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
    if (!node->is_dev && line->config == NULL && file_exists(default_config)) {
        line->config = default_config;
    }
    if (r == 0 && line->config != NULL) {
        r = options_read_file(&node->options, line->config, err);
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

static int serve(struct node *node, struct error *err)
{
    settle(node);
    int r = loop_new("main", &node->loop, err);
    if (r == 0) {
        r = run(node, err);
        loop_free(node->loop);
    }
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
        r = serve(&node, &err);
    }
    options_done(&node.options);
    if (r < 0) {
        fprintf(stderr, "blixard %s: %s\n", argv[0], err.text);
        return error_kind_exit(err.kind);
    }
    return 0;
}
