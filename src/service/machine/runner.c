/*
 * Machines that are programs of Nix (microvm.nix): a runner instead of an image.
 *
 * The settings have the runner that the machine is to have, by its real path, and those that it had
 * before, each with a number: a new one is the next number, and going back is choosing an older
 * one. What its VMM began with is in `booted`, as of every setting (change.c); the row tells it to
 * all nodes.
 *
 * It has no disk of ours and no agent: FOLDER/state is its own, where its program makes what it
 * needs.  What needs either is refused, with the reason.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/devices.h"
#include "service/machine/parts.h"
#include "service/nix/nix.h"

#define MIB             (UINT64_C(1) << 20)
#define MEMORY_DEFAULT  (512 * MIB) /* microvm.nix's */
#define KEY_GENERATIONS "runner_generations"
#define KEY_GENERATION  "runner_generation"

enum { GENERATIONS_MAX = 10, FLAKE_LENGTH_MAX = 512 };

bool runner_is(const json_t *config)
{
    return json_text(config, "runner")[0] != '\0';
}

/* ---- Settings ---- */

static int check_path(const char *path, struct error *err)
{
    size_t length = strlen(path);
    bool is_good = path[0] == '/' && length < HYPERVISOR_RUNNER_PATH_SIZE;
    for (size_t i = 0; i < length && is_good; i++) {
        is_good = path[i] > ' ' && path[i] < 0x7f && path[i] != '"' && path[i] != '\\';
    }
    return is_good ? 0
                   : error_set(err, ERROR_INVALID,
                               "runner is an absolute path of at most %d letters without spaces",
                               HYPERVISOR_RUNNER_PATH_SIZE - 1);
}

static bool is_said(const json_t *config, const char *key)
{
    const json_t *value = json_object_get(config, key);
    return value != NULL && !json_is_null(value) &&
        !(json_is_string(value) && json_string_length(value) == 0) &&
        !(json_is_array(value) && json_array_size(value) == 0);
}

/* What its runner says itself, or what needs a disk or an agent of ours. */
static int refuse_settings(const json_t *config, struct error *err)
{
    const char *driver = json_text(config, "driver");
    for (const struct machine_setting *setting = machine_settings; setting->key != NULL;
         setting++) {
        bool is_runners = (setting->flags & SETTING_RUNNERS) != 0;
        if ((is_runners || (setting->flags & SETTING_OURS) != 0) && is_said(config, setting->key)) {
            return error_set(err, ERROR_INVALID,
                             is_runners ? "%s: a machine with a runner has what that says itself"
                                        : "%s: a machine with a runner has no disk and no agent of "
                                          "Blixard's",
                             setting->key);
        }
    }
    if (is_said(config, "publish") && !is_said(config, "networks")) {
        return error_set(err, ERROR_INVALID,
                         "publish: a runner publishes ports of its user-mode network itself; in a "
                         "network (--network) it is the node that does");
    }
    return driver[0] == '\0' || strcmp(driver, "runner") == 0
        ? 0
        : error_set(err, ERROR_INVALID, "driver: what runs it is its runner's affair");
}

static json_t *new_generation(uint64_t number, const char *path)
{
    return json_pack("{s:I, s:s, s:I}", "generation", (json_int_t)number, "runner", path,
                     "created_ms", (json_int_t)clock_real_ms());
}

static void set_generation(json_t *config, uint64_t number)
{
    json_object_set_new(config, KEY_GENERATION, json_integer((json_int_t)number));
}

int runner_complete(json_t *config, struct error *err)
{
    const char *path = json_text(config, "runner");
    bool is_new = json_object_get(config, KEY_GENERATIONS) == NULL;
    if (!runner_is(config)) {
        const char *flake = json_text(config, "flake");
        return flake[0] == '\0' ? 0
                                : error_set(err, ERROR_INVALID,
                                            "flake: it is built by the command line, which says "
                                            "what came of it as runner");
    }
    int r = check_path(path, err);
    r = r < 0 ? r : refuse_settings(config, err);
    if (r == 0 && strlen(json_text(config, "flake")) > FLAKE_LENGTH_MAX) {
        r = error_set(err, ERROR_INVALID, "flake is at most %d letters", FLAKE_LENGTH_MAX);
    }
    if (r == 0 && is_new && is_said(config, "hostname")) {
        r = error_set(err, ERROR_INVALID, "hostname: a runner's guest has its own");
    }
    if (r < 0) {
        return r;
    }
    if (json_u64(config, "memory_bytes") == 0) {
        json_object_set_new(config, "memory_bytes", json_integer((json_int_t)MEMORY_DEFAULT));
    }
    json_object_set_new(config, "driver", json_string("runner"));
    json_object_set_new(config, "without_agent", json_true());
    if (is_new) {
        json_object_set_new(config, KEY_GENERATIONS, json_pack("[o]", new_generation(1, path)));
        set_generation(config, 1);
    }
    return 0;
}

/* ---- Generations ---- */

static uint64_t number_of(const json_t *generation)
{
    return json_u64(generation, "generation");
}

/* The oldest go, but for the one that it has. */
static void add_generation(json_t *config, const char *path)
{
    json_t *list = json_object_get(config, KEY_GENERATIONS);
    size_t count = json_array_size(list);
    uint64_t now = json_u64(config, KEY_GENERATION);
    uint64_t next = number_of(json_array_get(list, count - 1)) + 1;
    for (size_t i = 0; count >= GENERATIONS_MAX && i < count;) {
        if (number_of(json_array_get(list, i)) != now) {
            json_array_remove(list, i);
            count--;
        } else {
            i++;
        }
    }
    json_array_append_new(list, new_generation(next, path));
    set_generation(config, next);
}

/* 0: the one before what it has. */
static int choose_generation(json_t *config, uint64_t wanted, struct error *err)
{
    const json_t *list = json_object_get(config, KEY_GENERATIONS);
    uint64_t now = json_u64(config, KEY_GENERATION);
    const json_t *found = NULL;
    size_t index = 0;
    json_t *generation = NULL;
    json_array_foreach(list, index, generation)
    {
        uint64_t number = number_of(generation);
        if (wanted > 0 ? number == wanted : number < now) { /* they are in order */
            found = generation;
        }
    }
    if (found == NULL && wanted == 0) {
        return error_set(err, ERROR_CONFLICT, "generation %llu is the oldest that is kept",
                         (unsigned long long)now);
    }
    if (found == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "there is no generation %llu: `vm show` lists them",
                         (unsigned long long)wanted);
    }
    json_object_set_new(config, "runner", json_string(json_text(found, "runner")));
    json_object_del(config, "flake"); /* it was built of something else */
    set_generation(config, number_of(found));
    return 0;
}

int runner_take_update(const json_t *config, const json_t *update, json_t *changed,
                       struct error *err)
{
    const json_t *generation = json_object_get(update, KEY_GENERATION);
    const char *path = json_text(update, "runner");
    if (json_object_get(update, "runner") == NULL && generation == NULL &&
        json_object_get(update, "flake") == NULL) {
        return 0;
    }
    if (!runner_is(config)) {
        return error_set(err, ERROR_INVALID, "runner: the machine was made from an image");
    }
    if (generation != NULL && (path[0] != '\0' || json_object_get(update, "flake") != NULL)) {
        return error_set(err, ERROR_INVALID, "a runner and a generation exclude each other");
    }
    if (generation != NULL) {
        return choose_generation(changed, (uint64_t)json_integer_value(generation), err);
    }
    if (path[0] == '\0') {
        return error_set(err, ERROR_INVALID, "runner: a machine with a runner has one");
    }
    if (strcmp(path, json_text(config, "runner")) != 0) {
        add_generation(changed, path);
    }
    return 0;
}

/* ---- At its node ---- */

static const char *folders_of(const struct machine_service *service)
{
    return service->options.runner_folders != NULL ? service->options.runner_folders : "";
}

static int check_shares(const struct machine_service *service,
                        const struct hypervisor_runner *runner, struct error *err)
{
    for (size_t i = 0; i < runner->share_count; i++) {
        const char *source = runner->shares[i].source;
        MEMORY_OWNED char *all =
            memory_format("/nix/store,%s,%s", runner->folder, shares_folders(service));
        if (!shares_are_allowed(all, source)) {
            return error_set(err, ERROR_DENIED,
                             "its share %s: %.200s is not below a folder that this node shares "
                             "(machine_share_folders)",
                             runner->shares[i].tag, source);
        }
    }
    return 0;
}

static bool has_link(const char *list, const char *link)
{
    size_t length = strlen(link);
    for (const char *at = list; at != NULL && *at != '\0';) {
        size_t word = strcspn(at, ",");
        if (word == length && strncmp(at, link, length) == 0) {
            return true;
        }
        at += word + (at[word] == ',');
    }
    return false;
}

/* What goes by a macvtap no rule of the node's sees. */
static int check_macvtaps(const struct machine_service *service,
                          const struct hypervisor_runner *runner, struct error *err)
{
    const char *links = service->options.macvtap_links;
    for (size_t i = 0; i < runner->macvtap_count; i++) {
        if (!has_link(links, runner->macvtaps[i].link)) {
            return error_set(err, ERROR_DENIED,
                             "its macvtap %s is on %s, which is no link that this node gives to "
                             "machines (machine_macvtap_links): past its packet filter they are in "
                             "the network of that link. An interface of type tap is in a network "
                             "of Blixard's",
                             runner->macvtaps[i].name, runner->macvtaps[i].link);
        }
    }
    return 0;
}

int runner_read(const struct machine_service *service, const json_t *config,
                struct hypervisor_runner *ret_runner, struct error *err)
{
    int r =
        hypervisor_read_runner(folders_of(service), json_text(config, "runner"), ret_runner, err);
    r = r < 0 ? r : check_macvtaps(service, ret_runner, err);
    return r < 0 ? r : check_shares(service, ret_runner, err);
}

int runner_check(const struct machine_service *service, const json_t *config, struct error *err)
{
    struct hypervisor_runner runner;
    struct hypervisor_nic taps[HYPERVISOR_NICS_MAX];
    struct hypervisor_device devices[MACHINE_DEVICES_MAX];
    size_t count = json_array_size(json_object_get(config, "networks"));
    for (size_t i = 0; i < HYPERVISOR_NICS_MAX; i++) {
        taps[i] = (struct hypervisor_nic){.mac = "02:00:00:00:00:00", .tap = "tap"};
    }
    struct hypervisor_spec spec = boot_spec(config, json_text(config, "name"), service->folder);
    spec.driver = "runner";
    spec.nics = taps;
    spec.nic_count = count;
    spec.runner = &runner;
    spec.devices = devices;
    spec.device_count = devices_named(config, devices);
    if (runner_can_come(service, config)) {
        return 0;
    }
    int r = runner_read(service, config, &runner, err);
    return r < 0 ? r : hypervisor_check(service->options.hypervisor, &spec, err);
}

/* A profile's symbolic link leads elsewhere tomorrow: what counts is where it leads now. */
static void take_real_path(json_t *config, const char *path)
{
    const json_t *list = json_object_get(config, KEY_GENERATIONS);
    uint64_t now = json_u64(config, KEY_GENERATION);
    size_t index = 0;
    json_t *generation = NULL;
    json_object_set_new(config, "runner", json_string(path));
    json_array_foreach(list, index, generation)
    {
        if (number_of(generation) == now) {
            json_object_set_new(generation, "runner", json_string(path));
        }
    }
}

int runner_settle(const struct machine_service *service, json_t *config, struct error *err)
{
    struct hypervisor_runner runner;
    if (!runner_is(config) || runner_can_come(service, config)) {
        return 0;
    }
    int r = runner_read(service, config, &runner, err);
    if (r == 0) {
        take_real_path(config, runner.path);
    }
    return r;
}

static bool take_any(sqlite3_stmt *row, void *context)
{
    (void)row;
    *(bool *)context = true;
    return false;
}

int machine_runner_check(const struct machine_service *service, const json_t *config,
                         struct error *err)
{
    struct hypervisor_runner runner;
    bool may_run = false;
    if (!runner_is(config)) {
        return 0;
    }
    int r = store_query(service->options.store, err, take_any, &may_run,
                        "SELECT 1 FROM node n WHERE n.attributes -> '$.drivers' IS NULL OR EXISTS "
                        "(SELECT 1 FROM json_each(n.attributes, '$.drivers') d WHERE d.value ->> "
                        "'$.name' = 'runner') LIMIT 1",
                        "");
    if (r < 0 || may_run) {
        return r;
    }
    r = runner_can_come(service, config) ? 0 : runner_read(service, config, &runner, err);
    return r < 0 ? r
                 : error_set(err, ERROR_DENIED,
                             "runner: no node runs machines from runners: machine_runner_folders "
                             "of one of them has to name a folder (on NixOS: /nix/store)");
}

const char *runner_booted(const struct machine *machine)
{
    const char *booted = json_text(machine->booted, "runner");
    if (!runner_is(machine->config) || !machine_state_is_alive(machine->state)) {
        return "";
    }
    return booted[0] != '\0' ? booted : json_text(machine->config, "runner");
}

int runner_prepare(const struct machine *machine, struct error *err)
{
    MEMORY_OWNED char *state = memory_format("%s/" HYPERVISOR_RUNNER_STATE, machine->folder);
    if (mkdir(state, 0700) < 0 && errno != EEXIST) {
        return error_os(err, errno, "making %s", state);
    }
    return disk_give(machine, state, err);
}

struct hypervisor_vm *runner_boot(struct machine *machine, const struct hypervisor_events *events,
                                  struct error *err)
{
    struct hypervisor_runner runner;
    struct nics nics;
    struct machine_devices devices;
    const json_t *config = machine->config;
    struct hypervisor *hypervisor = machine->service->options.hypervisor;
    if (runner_read(machine->service, config, &runner, err) < 0 ||
        nics_describe(machine, &nics, err) < 0 || devices_describe(machine, &devices, err) < 0) {
        return NULL;
    }
    struct hypervisor_spec spec = boot_spec(config, machine->key, machine->folder);
    spec.driver = "runner";
    spec.uid = disk_uid(machine);
    spec.nics = nics.list;
    spec.nic_count = nics.count;
    spec.runner = &runner;
    spec.devices = devices.list;
    spec.device_count = devices.count;
    spec.runner_file_bytes_max = json_u64(config, "disk_bytes");
    return hypervisor_check(hypervisor, &spec, err) == 0
        ? hypervisor_start(hypervisor, &spec, events, machine)
        : NULL;
}

/* ---- Paths of a Nix store: had, and kept from its collector ---- */

static bool is_in_store(const struct machine_service *service, const char *path)
{
    struct nix_store store;
    struct nix_path parsed;
    struct error ignored = {0};
    return service->options.nix != NULL &&
        nix_service_store(service->options.nix, &store, &ignored) == 0 &&
        nix_path_parse(path, store.folder, &parsed, &ignored) == 0;
}

bool runner_can_come(const struct machine_service *service, const json_t *config)
{
    const char *path = json_text(config, "runner");
    return runner_is(config) && !file_exists(path) && is_in_store(service, path);
}

static char *root_name(const struct machine *machine, uint64_t generation)
{
    return memory_format("machine-%s-%llu", machine->id, (unsigned long long)generation);
}

bool runner_fetch(struct machine *machine, void (*done)(const struct error *error, void *context))
{
    struct machine_service *service = machine->service;
    const char *path = json_text(machine->config, "runner");
    if (!runner_is(machine->config) || !is_in_store(service, path)) {
        return false;
    }
    MEMORY_OWNED char *root = root_name(machine, json_u64(machine->config, KEY_GENERATION));
    const struct nix_wish wish = {.path = path, .root = root};
    machine->runner_fetch = nix_fetch_new(service->options.nix, &wish, done, machine);
    return true;
}

static bool has_generation(const json_t *config, uint64_t wanted)
{
    size_t index = 0;
    json_t *generation = NULL;
    json_array_foreach(json_object_get(config, KEY_GENERATIONS), index, generation)
    {
        if (number_of(generation) == wanted) {
            return true;
        }
    }
    return false;
}

/* Those of `config` that are not in `other`. */
static void release_beyond(const struct machine *machine, const json_t *config, const json_t *other)
{
    size_t index = 0;
    json_t *generation = NULL;
    struct error err = {0};
    json_array_foreach(json_object_get(config, KEY_GENERATIONS), index, generation)
    {
        MEMORY_OWNED char *root = root_name(machine, number_of(generation));
        if (!has_generation(other, number_of(generation)) &&
            is_in_store(machine->service, json_text(generation, "runner")) &&
            nix_release(machine->service->options.nix, root, &err) < 0) {
            log_warn("machine %s: %s", machine->key, err.text);
        }
    }
}

bool runner_keep(const struct machine *machine, const json_t *before, const json_t *config,
                 void (*done)(const struct error *error, void *context), void *context)
{
    const char *path = json_text(config, "runner");
    uint64_t generation = json_u64(config, KEY_GENERATION);
    MEMORY_OWNED char *root = root_name(machine, generation);
    release_beyond(machine, before, config);
    bool is_new = runner_is(config) && !has_generation(before, generation) &&
        is_in_store(machine->service, path);
    if (is_new) {
        nix_keep(machine->service->options.nix, root, path, done, context);
    }
    return is_new;
}

void runner_let_go(const struct machine *machine)
{
    release_beyond(machine, machine->config, NULL);
}

/* ---- What it cannot ---- */

int runner_refuse(const json_t *config, const char *what, struct error *err)
{
    return !runner_is(config)
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "a machine with a runner cannot %s: what it is made of is its runner's affair",
                    what);
}
