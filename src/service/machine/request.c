/* What people ask for: machines made, started, stopped, deleted; each with an operation. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/random.h"
#include "base/text.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/machine/devices.h"
#include "service/machine/parts.h"
#include "service/machine/volumes.h"
#include "service/volume/volume.h"

/* ---- Looking up ---- */

int machine_node(struct machine_service *service, const char *project, const char *name,
                 char **ret_node, struct error *err)
{
    char *node = NULL;
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = store_query(service->options.store, err, store_take_text, &node,
                        "SELECT node FROM machine WHERE key = ?", "t", key);
    if (r == 0 && node == NULL) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no machine %.64s in project %s; see `blixard vm list`", name,
                         project);
    }
    *ret_node = node;
    return r;
}

int request_find(struct machine_service *service, const char *project, const char *name,
                 struct machine **ret_machine, struct error *err)
{
    MEMORY_OWNED char *node = NULL;
    int r = machine_node(service, project, name, &node, err);
    if (r < 0) {
        return r;
    }
    *ret_machine = state_find(service, project, name);
    if (*ret_machine == NULL && node[0] == '\0') {
        return error_set(err, ERROR_CONFLICT,
                         "machine %s waits for room: see `blixard placement explain %s`", name,
                         name);
    }
    return *ret_machine != NULL
        ? 0
        : error_set(err, ERROR_UNAVAILABLE, "machine %s is on node %s", name, node);
}

int machine_agent(struct machine_service *service, const char *project, const char *name,
                  struct agent **ret_agent, struct error *err)
{
    struct machine *machine = NULL;
    int r = request_find(service, project, name, &machine, err);
    if (r < 0) {
        return r;
    }
    if (runner_is(machine->config)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "machine %s has a runner, and no agent: its console and its network lead "
                         "into it",
                         name);
    }
    if (machine->state != MACHINE_RUNNING) {
        return error_set(err, ERROR_CONFLICT, "machine %s is %s, not running", name,
                         machine_state_text(machine->state));
    }
    if (machine->agent == NULL || !agent_is_up(machine->agent)) {
        return error_set(err, ERROR_UNAVAILABLE, "the agent in machine %s does not answer", name);
    }
    *ret_agent = machine->agent;
    return 0;
}

int machine_folder(struct machine_service *service, const char *project, const char *name,
                   char **ret_folder, struct error *err)
{
    struct machine *machine = NULL;
    int r = request_find(service, project, name, &machine, err);
    if (r == 0) {
        *ret_folder = memory_copy_string(machine->folder);
    }
    return r;
}

/* ---- Asking ---- */

struct asking {
    struct machine_service *service;
    char id[MACHINE_ID_SIZE]; /* it may be called otherwise by then */
    char operation[OPERATION_ID_SIZE];
    bool restarts;
    bool kills;
    bool deletes;
    uint64_t stop_ms;
    machine_begun *done;
    void *context;
};

/* Whatever failed may be tried again when somebody asks for it. */
static void forgive(struct machine *machine)
{
    machine->failures = 0;
    if (machine->state == MACHINE_FAILED) {
        machine->state = MACHINE_CREATING; /* preparing leaves what is there as it is */
        machine->reason[0] = '\0';
    } else if (machine->state == MACHINE_BACKOFF) {
        machine->state = MACHINE_STOPPED;
    }
}

/* It was there when that was written, and is not any more. */
static void end_without(const struct asking *asking)
{
    struct operation_service *operations = asking->service->options.operations;
    struct error error = {0};
    if (asking->deletes) {
        operation_succeed(operations, asking->operation, NULL);
    } else {
        error_set(&error, ERROR_CONFLICT, "the machine was deleted, or is another node's by now");
        operation_fail(operations, asking->operation, &error);
    }
}

/* The row is there, and state_load() has seen it. */
static void on_asked(const struct error *error, uint64_t index, void *context)
{
    struct asking *asking = context;
    struct machine_service *service = asking->service;
    (void)index;
    service->pending--;
    if (!operation_tell(service->options.operations, asking->operation, error, asking->done,
                        asking->context)) {
        free(asking);
        return;
    }
    struct machine *machine = state_find_id(service, asking->id);
    if (machine == NULL) {
        end_without(asking);
    } else {
        if (!machine->is_busy) {
            forgive(machine);
        }
        machine->is_restarting = asking->restarts && machine_state_is_alive(machine->state);
        machine_run_take_patience(machine, asking->stop_ms);
        machine_take_operation(machine, asking->operation);
        if (asking->kills && machine->vm != NULL) {
            machine_run_kill(machine);
        }
        machine_step(machine);
    }
    free(asking);
}

static void propose(struct store_command *command, const char *kind, const char *project,
                    const char *name, const struct asking *wanted)
{
    struct asking *asking = NEW(struct asking);
    struct machine_service *service = wanted->service;
    *asking = *wanted;
    MEMORY_OWNED char *resource = memory_format("machines/%s", name);
    const struct operation_start start = {.kind = kind, .project = project, .resource = resource};
    operation_add(service->options.operations, command, &start, asking->operation);
    service->pending++;
    store_propose(service->options.store, command, on_asked, asking);
}

/* ---- Making one ---- */

/* What brings its own boot loader needs a PC, and room for what it has. */
static int fit_image(const json_t *image, json_t *config, struct error *err)
{
    bool has_disk = json_text(image, "disk")[0] != '\0';
    uint64_t least = json_u64(image, "disk_size_bytes");
    const char *firmware = json_text(image, "firmware");
    if (json_text(config, "machine_type")[0] == '\0') {
        json_object_set_new(config, "machine_type", json_string(has_disk ? "q35" : "microvm"));
    }
    if (!has_disk) {
        return json_text(config, "firmware")[0] == '\0'
            ? 0
            : error_set(err, ERROR_INVALID,
                        "firmware is for images of disks: this one is a kernel and a root");
    }
    if (json_text(config, "cmdline")[0] != '\0') {
        return error_set(err, ERROR_INVALID,
                         "the image is a disk whose own boot loader has its kernel's words: "
                         "cmdline has no effect");
    }
    if (json_text(config, "firmware")[0] == '\0') {
        json_object_set_new(config, "firmware",
                            json_string(firmware[0] != '\0' ? firmware : "bios"));
    }
    if (least > json_u64(config, "disk_bytes")) {
        char text[TEXT_SIZE_MAX];
        uint64_t mib = UINT64_C(1) << 20;
        return error_set(err, ERROR_INVALID,
                         "disk_bytes: the image is a disk of %s, a machine's is as large at least",
                         text_write_size_exactly((least + mib - 1) / mib * mib, text));
    }
    return 0;
}

int request_take_image(struct machine_service *service, const char *project, json_t *config,
                       struct error *err)
{
    static const char *const keys[] = {"kernel",      "initrd",          "root",
                                       "root_format", "cmdline",         "disk",
                                       "disk_format", "disk_size_bytes", "without_agent"};
    MEMORY_OWNED char *text = NULL;
    JSON_OWNED json_t *image = NULL;
    const char *name = json_text(config, "image");
    if (runner_is(config)) {
        return 0;
    }
    if (name[0] == '\0') {
        return error_set(err, ERROR_INVALID, "image or runner: a machine starts from one of them");
    }
    MEMORY_OWNED char *key = memory_format("%s/%s", project, name);
    int r = store_query(service->options.store, err, store_take_text, &text,
                        "SELECT config FROM machine_image WHERE key = ?", "t", key);
    if (r == 0 && text == NULL) {
        return error_set(err, ERROR_NOT_FOUND,
                         "there is no image \"%.64s\" in project %s; see `blixard image list`, or "
                         "make one with `blixard image build`",
                         name, project);
    }
    r = r < 0 ? r : json_read(text, strlen(text), &image, err);
    if (r == 0 && json_is_true(json_object_get(image, "brings_agent"))) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "image %.64s is what a runner boots, for functions: a machine runs the "
                         "runner itself (vm create --runner or --flake)",
                         name);
    }
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]) && r == 0; i++) {
        json_t *value = json_object_get(image, keys[i]);
        if (value != NULL) {
            json_object_set(config, keys[i], value);
        }
    }
    if (r == 0 && json_object_get(image, "size_bytes") != NULL) {
        json_object_set(config, "image_bytes", json_object_get(image, "size_bytes"));
    }
    r = r < 0 ? r : program_merge(image, config, err);
    return r < 0 ? r : fit_image(image, config, err);
}

/* Does one of these ports lead into the same place as `mine`, at `address`? */
static bool takes_port(const json_t *published, const struct hypervisor_forward *mine,
                       const char *address)
{
    size_t index = 0;
    json_t *value = NULL;
    json_array_foreach(published, index, value)
    {
        struct hypervisor_forward theirs;
        char place[64];
        struct error ignored = {0};
        if (settings_parse_publish(json_string_value(value), &theirs, place, &ignored) == 0 &&
            mine->host_port == theirs.host_port && mine->is_udp == theirs.is_udp &&
            (address[0] == '\0' || place[0] == '\0' || strcmp(address, place) == 0)) {
            return true;
        }
    }
    return false;
}

/* Two machines of a node cannot have one port of it: one that was taken from a machine is its
 * VMM's until that is started again. */
static int check_ports(const struct machine_service *service, const struct machine *own_or_null,
                       const json_t *config, struct error *err)
{
    size_t index = 0;
    json_t *value = NULL;
    json_array_foreach(json_object_get(config, "publish"), index, value)
    {
        struct hypervisor_forward mine;
        char address[64];
        if (settings_parse_publish(json_string_value(value), &mine, address, err) < 0) {
            return -(int)err->kind;
        }
        LIST_EACH(node, &service->machines)
        {
            const struct machine *other = LIST_ITEM(node, struct machine, link);
            if (!other->is_gone && other != own_or_null &&
                (takes_port(json_object_get(other->config, "publish"), &mine, address) ||
                 (machine_state_is_alive(other->state) &&
                  takes_port(json_object_get(other->booted, "publish"), &mine, address)))) {
                return error_set(err, ERROR_CONFLICT,
                                 "port %u of node %s is published by machine %s already",
                                 mine.host_port, service->node_name, other->name);
            }
        }
    }
    return 0;
}

/* What the driver would refuse is refused now.  The paths are of files that are still to come. */
static int check_driver(const struct machine_service *service, const json_t *config,
                        struct error *err)
{
    const char *driver = json_text(config, "driver");
    const struct hypervisor_nic nic = {
        .mac = "02:00:00:00:00:00",
        .tap = json_array_size(json_object_get(config, "networks")) > 0 ? "tap" : NULL};
    char code[PATH_MAX];
    char variables[PATH_MAX];
    bool has_disk = json_text(config, "disk")[0] != '\0';
    if (strcmp(json_text(config, "firmware"), "uefi") == 0 &&
        hypervisor_find_firmware(code, variables, err) < 0) {
        return -(int)err->kind;
    }
    const struct hypervisor_disk disk = {.path = "/disk",
                                         .format = "raw",
                                         .serial = "data",
                                         .rates = volume_rates_of(config, "disk_")};
    const struct hypervisor_device device = {.address = "0000:00:00.0", .group = "0"};
    const struct hypervisor_share any = {.path = "/share", .tag = "share0"};
    const struct hypervisor_spec spec = {
        .driver = driver[0] != '\0' ? driver : NULL,
        .name = json_text(config, "name"),
        .folder = service->folder,
        .cpus = (unsigned)json_u64(config, "cpus"),
        .cpu_limit_percent = (unsigned)json_u64(config, "cpu_limit_percent"),
        .memory_bytes = json_u64(config, "memory_bytes"),
        .page_bytes = machine_config_page_bytes(config),
        .board = settings_board(config),
        .kernel = has_disk ? NULL : "/kernel",
        .cmdline = json_text(config, "cmdline"),
        .disks = &disk,
        .disk_count = 1,
        .nics = &nic,
        .nic_count = 1,
        .devices = &device,
        .device_count = devices_are_wanted(config) ? 1 : 0,
        .has_usb = devices_want_usb(config),
        .shares = &any,
        .share_count = json_array_size(json_object_get(config, "shares")) > 0 ? 1 : 0,
    };
    return hypervisor_check(service->options.hypervisor, &spec, err);
}

int request_check_fit(const struct machine_service *service, const json_t *config,
                      struct error *err)
{
    int r =
        runner_is(config) ? runner_check(service, config, err) : check_driver(service, config, err);
    return r < 0 ? r : check_ports(service, NULL, config, err);
}

int request_check_change(const struct machine *machine, const json_t *config, struct error *err)
{
    int r = runner_is(config) ? runner_check(machine->service, config, err)
                              : check_driver(machine->service, config, err);
    return r < 0 ? r : check_ports(machine->service, machine, config, err);
}

struct creating {
    struct machine_service *service;
    char *project;
    json_t *config;
    char id[MACHINE_ID_SIZE];
    char *user_data; /* or NULL */
    struct error error;
    machine_begun *done;
    void *context;
};

int request_check_free(struct machine_service *service, const char *project, const char *name,
                       struct error *err)
{
    MEMORY_OWNED char *node = NULL;
    struct error ignored = {0};
    return machine_node(service, project, name, &node, &ignored) < 0
        ? 0
        : error_set(err, ERROR_EXISTS, "there is a machine %s already", name);
}

static void keep_user_data(void *context)
{
    struct creating *creating = context;
    seed_keep(creating->service, creating->id, creating->user_data, &creating->error);
}

static void free_creating(struct creating *creating)
{
    seed_wipe(&creating->user_data);
    json_decref(creating->config);
    free(creating->project);
    free(creating);
}

static void refuse_creating(void *context)
{
    struct creating *creating = context;
    creating->service->pending--;
    creating->done(&creating->error, NULL, creating->context);
    free_creating(creating);
}

static void propose_machine(struct creating *creating)
{
    struct machine_service *service = creating->service;
    struct store_command *command = store_command_new();
    const char *name = json_text(creating->config, "name");
    int r = machine_volumes_add(
        service, creating->project, name, json_text(creating->config, "driver"),
        json_object_get(creating->config, "volumes"), command, &creating->error);
    json_object_del(creating->config, "volumes"); /* rows of their own say so from now on */
    draft_add_row(service, command, creating->project, creating->id, creating->config,
                  service->node_name);
    draft_add_claim(service, command, creating->id, creating->config);
    draft_add_check(service, command, creating->project, creating->id, creating->config);
    machine_add_devices(service, command, creating->id, creating->config, service->node_name);
    r = r < 0
        ? r
        : network_add_leases(service->options.networks, command, creating->project, creating->id,
                             json_object_get(creating->config, "networks"), &creating->error);
    if (r < 0) {
        store_command_free(command);
        service->pending++;
        loop_post(service->options.loop, refuse_creating, creating);
        return;
    }
    settings_add_quota(service, command, creating->project, NULL, creating->config);
    struct asking asking = {.service = service,
                            .stop_ms = MACHINE_STOP_MS_NODE,
                            .done = creating->done,
                            .context = creating->context};
    snprintf(asking.id, sizeof(asking.id), "%s", creating->id);
    propose(command, "machine.create", creating->project, name, &asking);
    free_creating(creating);
}

static void on_user_data_kept(void *context)
{
    struct creating *creating = context;
    creating->service->pending--;
    if (creating->error.kind == ERROR_NONE) {
        propose_machine(creating);
        return;
    }
    creating->done(&creating->error, NULL, creating->context);
    free_creating(creating);
}

void machine_create(struct machine_service *service, const char *project, const json_t *create,
                    machine_begun *done, void *context)
{
    struct error err = {0};
    JSON_OWNED json_t *config = NULL;
    char *user_data = NULL;
    int r = settings_complete(create, &config, &err);
    r = r < 0 ? r : draft_check_pages(service, config, &err);
    r = r < 0 ? r : seed_take_settings(config, &user_data, &err);
    r = r < 0 ? r : request_take_image(service, project, config, &err);
    r = r < 0 ? r : runner_settle(service, config, &err);
    r = r < 0 ? r : after_check(service, project, config, &err);
    r = r < 0 ? r : shares_complete(shares_folders(service), config, &err);
    r = r < 0 ? r : request_check_fit(service, config, &err);
    r = r < 0 ? r : devices_check(service, config, "", service->node_name, &err);
    r = r < 0 ? r : request_check_free(service, project, json_text(config, "name"), &err);
    if (r < 0) {
        seed_wipe(&user_data);
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    struct creating *creating = NEW(struct creating);
    *creating = (struct creating){.service = service,
                                  .project = memory_copy_string(project),
                                  .config = json_incref(config),
                                  .user_data = user_data,
                                  .done = done,
                                  .context = context};
    random_hex(creating->id, MACHINE_ID_SIZE - 1);
    if (user_data == NULL) {
        propose_machine(creating);
        return;
    }
    service->pending++;
    loop_work(service->options.loop, keep_user_data, on_user_data_kept, creating);
}

/* ---- Doing something to one ---- */

static const struct act {
    const char *name;
    const char *kind;
    enum machine_desired desired;
    bool needs_life; /* is refused where no VMM runs */
    bool restarts;
    bool kills;
} acts[] = {
    {"start", "machine.start", MACHINE_DESIRED_RUNNING, false, false, false},
    {"stop", "machine.stop", MACHINE_DESIRED_STOPPED, false, false, false},
    {"kill", "machine.kill", MACHINE_DESIRED_STOPPED, false, false, true},
    {"restart", "machine.restart", MACHINE_DESIRED_RUNNING, false, true, false},
    {"pause", "machine.pause", MACHINE_DESIRED_PAUSED, true, false, false},
    {"resume", "machine.resume", MACHINE_DESIRED_RUNNING, true, false, false},
    {"delete", "machine.delete", MACHINE_DESIRED_DELETED, false, false, true},
};

static const struct act *find_act(const char *name)
{
    for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
        if (strcmp(acts[i].name, name) == 0) {
            return &acts[i];
        }
    }
    return NULL;
}

static int check_patience(const char *action, uint64_t stop_ms, struct error *err)
{
    if (stop_ms == MACHINE_STOP_MS_NODE) {
        return 0;
    }
    if (strcmp(action, "stop") != 0 && strcmp(action, "restart") != 0) {
        return error_set(err, ERROR_INVALID, "timeout: is of stop and restart, not of %.32s",
                         action);
    }
    return stop_ms <= MACHINE_STOP_MS_MAX
        ? 0
        : error_set(err, ERROR_INVALID, "timeout: is a day (24h) at most");
}

static int check_act(const struct act *act, const char *action, const struct machine *machine,
                     struct error *err)
{
    if (act == NULL) {
        return error_set(err, ERROR_INVALID,
                         "\"%.32s\" is none of start, stop, kill, restart, pause, resume", action);
    }
    if (machine->desired == MACHINE_DESIRED_DELETED && act->desired != MACHINE_DESIRED_DELETED) {
        return error_set(err, ERROR_CONFLICT, "machine %s is being deleted", machine->name);
    }
    if (strcmp(act->name, "pause") == 0 && runner_refuse(machine->config, "be paused", err) < 0) {
        return -(int)err->kind;
    }
    if (act->needs_life && machine->state != MACHINE_RUNNING && machine->state != MACHINE_PAUSED) {
        return error_set(err, ERROR_CONFLICT, "machine %s is %s: there is nothing to %s",
                         machine->name, machine_state_text(machine->state), act->name);
    }
    return 0;
}

void machine_act(struct machine_service *service, const char *project, const char *name,
                 const char *action, uint64_t stop_ms, machine_begun *done, void *context)
{
    struct error err = {0};
    struct machine *machine = NULL;
    const struct act *act = find_act(action);
    int r = act != NULL ? check_patience(action, stop_ms, &err) : 0;
    if (r == 0 && act != NULL && unplaced_act(service, project, name, action, done, context)) {
        return;
    }
    r = r < 0 ? r : request_find(service, project, name, &machine, &err);
    r = r < 0 ? r : check_act(act, action, machine, &err);
    if (r < 0) {
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    struct store_command *command = store_command_new();
    store_command_add_expecting(
        command, ERROR_NOT_FOUND, "the machine was deleted meanwhile",
        "UPDATE machine SET desired = ?, revision = ? WHERE id = ? AND node = ?", "trtt",
        machine_desired_text(act->desired), machine->id, service->node_name);
    if (draft_is_known(service)) { /* whoever was displaced does not wait any more */
        store_command_add(command,
                          "UPDATE machine SET pending_ms = NULL, pending_reason = NULL WHERE id = "
                          "? AND pending_ms IS NOT NULL",
                          "t", machine->id);
    }
    if (act->desired == MACHINE_DESIRED_RUNNING) { /* one that was displaced has none */
        machine_add_devices(service, command, machine->id, machine->config, service->node_name);
    }
    struct asking asking = {.service = service,
                            .restarts = act->restarts,
                            .kills = act->kills,
                            .deletes = act->desired == MACHINE_DESIRED_DELETED,
                            .stop_ms = stop_ms,
                            .done = done,
                            .context = context};
    snprintf(asking.id, sizeof(asking.id), "%s", machine->id);
    propose(command, act->kind, project, name, &asking);
}
