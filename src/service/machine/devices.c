/*
 * Devices that machines have whole, on PCI and on USB: which ones a machine gets, and whose they
 * are.
 *
 * A device is a machine's by a row of the state (machine_device), whose key is the device's: no two
 * can have one.  The row is made by the command that puts the machine at the node; it goes with the
 * machine, or when that is put at another node.  One that is stopped keeps its devices, as it does
 * its disk.
 *
 * Which devices a node has is in its attributes, and for this node in sysfs.
 */
#include "service/machine/devices.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/json.h"
#include "base/memory.h"

#include "engine/device/device.h"
#include "engine/store/store.h"

#include "service/machine/parts.h"

enum { SCHEMA_WITH_DEVICES = 12, CANDIDATES_MAX = 32 };

/* ---- What is asked for ---- */

static const json_t *asks_of(const json_t *config)
{
    return json_object_get(config, "devices");
}

bool devices_are_wanted(const json_t *config)
{
    return json_array_size(asks_of(config)) > 0;
}

/* As it was taken when the machine was asked for; false: it is none. */
static bool read_ask(const json_t *text, struct device_ask *ret_ask)
{
    struct error ignored = {0};
    *ret_ask = (struct device_ask){0};
    return device_ask_parse(json_string_value(text), ret_ask, &ignored) == 0;
}

uint64_t devices_count(const json_t *config)
{
    uint64_t count = 0;
    size_t index = 0;
    json_t *text = NULL;
    json_array_foreach(asks_of(config), index, text)
    {
        struct device_ask ask;
        read_ask(text, &ask);
        count += ask.count; /* of what a later release knows, too */
    }
    return count;
}

bool devices_want_usb(const json_t *config)
{
    bool wants = false;
    size_t index = 0;
    json_t *text = NULL;
    json_array_foreach(asks_of(config), index, text)
    {
        wants = wants || device_is_usb(json_string_value(text));
    }
    return wants;
}

/* QEMU's microvm has no PCI, which the USB controller is on, too. */
static int settle_board(json_t *config, struct error *err)
{
    const char *driver = json_text(config, "driver");
    const char *type = json_text(config, "machine_type");
    bool is_qemu = driver[0] == '\0' || strcmp(driver, "qemu") == 0;
    if (!is_qemu && devices_want_usb(config)) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "devices: %.40s has no USB, and passes none of it through; qemu does",
                         driver);
    }
    if (strcmp(driver, "firecracker") == 0) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "devices: firecracker passes none through; qemu and cloud-hypervisor do");
    }
    if (is_qemu && strcmp(type, "microvm") == 0) {
        return error_set(err, ERROR_INVALID,
                         "devices are on PCI, which a microvm has not: machine_type q35");
    }
    if (is_qemu) {
        json_object_set_new(config, "machine_type", json_string("q35"));
    }
    return 0;
}

int devices_complete(json_t *config, struct error *err)
{
    size_t index = 0;
    size_t count = 0;
    size_t usb_count = 0;
    json_t *text = NULL;
    if (!devices_are_wanted(config)) {
        json_object_del(config, "devices");
        return 0;
    }
    json_array_foreach(asks_of(config), index, text)
    {
        struct device_ask ask = {0};
        if (device_ask_parse(json_string_value(text), &ask, err) < 0) {
            return -(int)err->kind;
        }
        count += ask.count;
        usb_count += device_is_usb(ask.what) ? ask.count : 0;
        if (runner_is(config) && (ask.kind != DEVICE_ASK_ADDRESS || device_is_usb(ask.what))) {
            return error_set(err, ERROR_INVALID,
                             "device %.40s: a runner's command line has addresses of PCI "
                             "(0000:01:00.0), which the machine asks for",
                             json_string_value(text));
        }
    }
    if (count > MACHINE_DEVICES_MAX || usb_count > HYPERVISOR_USB_MAX) {
        return error_set(err, ERROR_INVALID, "devices: at most %d, of these %d on USB",
                         MACHINE_DEVICES_MAX, HYPERVISOR_USB_MAX);
    }
    return runner_is(config) ? 0 : settle_board(config, err);
}

int devices_refuse(const json_t *config, const char *what, struct error *err)
{
    return !devices_are_wanted(config)
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "a machine with devices (%.100s%s) cannot be %s: what is in a device is not "
                    "saved",
                    json_string_value(json_array_get(asks_of(config), 0)),
                    json_array_size(asks_of(config)) > 1 ? " and more" : "", what);
}

bool devices_are_known(const struct machine_service *service)
{
    return store_schema_now(service->options.store) >= SCHEMA_WITH_DEVICES;
}

int devices_check_known(const struct machine_service *service, const json_t *config,
                        struct error *err)
{
    return !devices_are_wanted(config) || devices_are_known(service)
        ? 0
        : error_set(err, ERROR_UNSUPPORTED,
                    "devices: nodes of an older Blixard are in the cluster, which cannot give any");
}

/* ---- What a node has that is free ---- */

struct offer {
    char address[DEVICE_ADDRESS_SIZE];
    char class_name[DEVICE_NAME_SIZE];
    char model[DEVICE_MODEL_SIZE];
    bool is_taken;
};

struct offers {
    struct offer list[DEVICE_LIST_MAX];
    size_t count;
};

static void add_offer(struct offers *offers, const char *address, const char *class_name,
                      const char *model)
{
    if (offers->count < DEVICE_LIST_MAX) {
        struct offer *offer = &offers->list[offers->count++];
        snprintf(offer->address, sizeof(offer->address), "%s", address);
        snprintf(offer->class_name, sizeof(offer->class_name), "%s", class_name);
        snprintf(offer->model, sizeof(offer->model), "%s", model);
    }
}

const char *devices_offered(const struct machine_service *service)
{
    return service->options.devices != NULL ? service->options.devices : "none";
}

static void take_own(const struct machine_service *service, struct offers *offers)
{
    MEMORY_OWNED struct device *devices = memory_new(DEVICE_LIST_MAX, sizeof(*devices));
    size_t count = device_list("/sys", devices_offered(service), devices);
    bool has_usb = hypervisor_passes_usb(service->options.hypervisor);
    for (size_t i = 0; i < count; i++) {
        if (devices[i].problem[0] == '\0' && (has_usb || !device_is_usb(devices[i].address))) {
            add_offer(offers, devices[i].address, devices[i].class_name, devices[i].model);
        }
    }
}

static bool take_offer(sqlite3_stmt *row, void *context)
{
    add_offer(context, store_text(row, 0), store_text(row, 1), store_text(row, 2));
    return true;
}

static bool take_taken(sqlite3_stmt *row, void *context)
{
    struct offers *offers = context;
    for (size_t i = 0; i < offers->count; i++) {
        struct offer *offer = &offers->list[i];
        offer->is_taken = offer->is_taken || strcmp(offer->address, store_text(row, 0)) == 0;
    }
    return true;
}

/* What a machine has there itself is free for it. */
static int read_offers(const struct machine_service *service, const char *node, const char *id,
                       struct offers *offers, struct error *err)
{
    int r = 0;
    if (strcmp(node, service->node_name) == 0) {
        take_own(service, offers);
    } else {
        r = store_query(service->options.store, err, take_offer, offers,
                        "SELECT d.value ->> '$.address', d.value ->> '$.class', d.value ->> "
                        "'$.model' FROM node n, json_each(n.attributes, '$.passthrough') d WHERE "
                        "n.key = ? AND d.value ->> '$.problem' = '' ORDER BY 1",
                        "t", node);
    }
    return r < 0 ? r
                 : store_query(service->options.store, err, take_taken, offers,
                               "SELECT address FROM machine_device WHERE node = ? AND machine <> ?",
                               "tt", node, id);
}

static void forget_owners(struct offers *offers)
{
    for (size_t i = 0; i < offers->count; i++) {
        offers->list[i].is_taken = false;
    }
}

/* ---- Choosing ---- */

/* For each ask what may be taken for it, one address beside the other: the log takes the first that
 * is nobody's by then. */
#define ADDRESS_WIDTH "24" /* with a blank at the end */
struct choice {
    struct {
        char *addresses;
        unsigned count;
    } asks[MACHINE_DEVICES_MAX];
    size_t count;
};

static void choice_done(struct choice *choice)
{
    for (size_t i = 0; i < choice->count; i++) {
        free(choice->asks[i].addresses);
    }
}

static bool takes(const struct device_ask *ask, const struct offer *offer)
{
    return device_ask_takes(ask, offer->class_name, offer->model, offer->address);
}

/* Several of a class are of one model, as placement counts them: the first with enough of them. */
static const char *find_model(const struct device_ask *ask, const struct offers *offers)
{
    for (size_t i = 0; i < offers->count; i++) {
        const char *model = offers->list[i].model;
        size_t count = 0;
        for (size_t k = 0; k < offers->count; k++) {
            const struct offer *offer = &offers->list[k];
            count += !offer->is_taken && takes(ask, offer) && strcmp(offer->model, model) == 0;
        }
        if (count >= ask->count) {
            return model;
        }
    }
    return NULL;
}

static int choose_ask(const struct device_ask *ask, const char *text, const char *node,
                      struct offers *offers, struct choice *choice, struct error *err)
{
    BUFFER_OWNED struct buffer addresses = {0};
    unsigned found = 0;
    const char *model = find_model(ask, offers);
    if (model == NULL) {
        return error_set(err, ERROR_CONFLICT,
                         "node %.64s has no free device %.60s: see `blixard node show %.64s`", node,
                         text, node);
    }
    for (size_t i = 0; i < offers->count && found < CANDIDATES_MAX; i++) {
        struct offer *offer = &offers->list[i];
        if (!offer->is_taken && takes(ask, offer) && strcmp(offer->model, model) == 0) {
            buffer_append_format(&addresses, "%-" ADDRESS_WIDTH "s", offer->address);
            offer->is_taken = found++ < ask->count;
        }
    }
    CHECK(choice->count < MACHINE_DEVICES_MAX);
    choice->asks[choice->count].addresses = memory_copy_string(buffer_string(&addresses));
    choice->asks[choice->count++].count = ask->count;
    return 0;
}

/* Those that name an address first, then models: what takes any takes what they leave. */
static int choose(const json_t *config, const char *node, struct offers *offers,
                  struct choice *choice, struct error *err)
{
    static const enum device_ask_kind order[] = {DEVICE_ASK_ADDRESS, DEVICE_ASK_MODEL,
                                                 DEVICE_ASK_CLASS};
    for (size_t kind = 0; kind < sizeof(order) / sizeof(order[0]); kind++) {
        size_t index = 0;
        json_t *text = NULL;
        json_array_foreach(asks_of(config), index, text)
        {
            struct device_ask ask = {0};
            int r = device_ask_parse(json_string_value(text), &ask, err);
            if (r == 0 && ask.kind == order[kind]) {
                r = choose_ask(&ask, json_string_value(text), node, offers, choice, err);
            }
            if (r < 0) {
                return r;
            }
        }
    }
    return 0;
}

int devices_check(const struct machine_service *service, const json_t *config, const char *id,
                  const char *node, struct error *err)
{
    struct choice choice = {0};
    if (!devices_are_wanted(config)) {
        return 0;
    }
    MEMORY_OWNED struct offers *offers = NEW(struct offers);
    int r = devices_check_known(service, config, err);
    r = r < 0 ? r : read_offers(service, node, id, offers, err);
    r = r < 0 ? r : choose(config, node, offers, &choice, err);
    choice_done(&choice);
    return r;
}

/* What JSON functions would take apart, in a command: each address is filled up to one length. */
#define CANDIDATES                                                                                 \
    "(0), (1), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11), (12), (13), (14), (15), (16), " \
    "(17), (18), (19), (20), (21), (22), (23), (24), (25), (26), (27), (28), (29), (30), (31)"

static void add_one(struct store_command *command, const char *id, const char *node,
                    const char *addresses)
{
    MEMORY_OWNED char *beaten =
        memory_format("devices of node %.64s are another machine's by now", node);
    store_command_add_expecting(
        command, ERROR_CONFLICT, beaten,
        "WITH number (i) AS (VALUES " CANDIDATES
        "), part (i, text) AS (SELECT i, substr(?1, " ADDRESS_WIDTH " * i + 1, " ADDRESS_WIDTH
        ") FROM number WHERE " ADDRESS_WIDTH " * i < "
        "length(?1)), one (i, address) AS (SELECT i, substr(text, 1, instr(text, ' ') - 1) FROM "
        "part) "
        "INSERT INTO machine_device (key, machine, node, address, revision) SELECT ?3 || '/' || "
        "address, ?2, ?3, address, ?4 FROM one WHERE NOT EXISTS (SELECT 1 FROM machine_device d "
        "WHERE d.key = ?3 || '/' || one.address) ORDER BY i LIMIT 1",
        "tttr", addresses, id, node);
}

static bool has_devices(const struct machine_service *service, const char *id, const char *node)
{
    bool has = false;
    struct error ignored = {0};
    store_query(service->options.store, &ignored, store_take_any, &has,
                "SELECT 1 FROM machine_device WHERE machine = ? AND node = ?", "tt", id, node);
    return has;
}

void machine_add_devices(const struct machine_service *service, struct store_command *command,
                         const char *id, const json_t *config, const char *node)
{
    struct choice choice = {0};
    struct error err = {0};
    if (!devices_are_wanted(config) || !devices_are_known(service) ||
        has_devices(service, id, node)) {
        return;
    }
    MEMORY_OWNED struct offers *offers = NEW(struct offers);
    int r = read_offers(service, node, id, offers, &err);
    r = r < 0 ? r : choose(config, node, offers, &choice, &err);
    if (r < 0) { /* whom this very command displaces may have them */
        choice_done(&choice);
        forget_owners(offers);
        choice = (struct choice){0};
        err = (struct error){0};
        r = choose(config, node, offers, &choice, &err);
    }
    store_command_add(command, "DELETE FROM machine_device WHERE machine = ?", "t", id);
    if (r < 0) { /* whoever decided so knew the node as it was */
        store_command_add_expecting(command, ERROR_CONFLICT, err.text,
                                    "UPDATE machine SET revision = revision WHERE 0", "");
    }
    for (size_t i = 0; i < choice.count && r == 0; i++) {
        for (unsigned k = 0; k < choice.asks[i].count; k++) {
            add_one(command, id, node, choice.asks[i].addresses);
        }
    }
    choice_done(&choice);
}

/* ---- At its start ---- */

static bool take_address(sqlite3_stmt *row, void *context)
{
    struct machine_devices *devices = context;
    if (devices->own_count < MACHINE_DEVICES_MAX) {
        snprintf(devices->own[devices->own_count++], DEVICE_ADDRESS_SIZE, "%s", store_text(row, 0));
    }
    return true;
}

static int add_function(struct machine_devices *devices, const char *address,
                        const struct device *device, struct error *err)
{
    if (devices->count == HYPERVISOR_DEVICES_MAX) {
        return error_set(err, ERROR_LIMIT,
                         "its devices have more than %d functions, with what their IOMMU groups "
                         "bring",
                         HYPERVISOR_DEVICES_MAX);
    }
    struct hypervisor_device *function = &devices->list[devices->count++];
    snprintf(function->address, sizeof(function->address), "%s", address);
    snprintf(function->group, sizeof(function->group), "%s", device->group);
    function->has_rom = strcmp(device->class_name, "gpu") == 0;
    return 0;
}

static int find_one(struct machine_devices *devices, const char *address, const struct device *all,
                    size_t count, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        const struct device *device = &all[i];
        if (strcmp(device->address, address) != 0) {
            continue;
        }
        if (device->problem[0] != '\0') {
            return error_set(err, ERROR_UNAVAILABLE, "its device %s cannot be given: %s", address,
                             device->problem);
        }
        int r = add_function(devices, address, device, err);
        for (size_t k = 0; k < device->together_count && r == 0; k++) {
            r = add_function(devices, device->together[k], device, err);
        }
        return r;
    }
    return error_set(err, ERROR_UNAVAILABLE, "its device %s is not in this node any more", address);
}

int devices_describe(const struct machine *machine, struct machine_devices *ret_devices,
                     struct error *err)
{
    const struct machine_service *service = machine->service;
    *ret_devices = (struct machine_devices){0};
    if (!devices_are_wanted(machine->config)) {
        return 0;
    }
    int r = devices_check_known(service, machine->config, err);
    r = r < 0 ? r
              : store_query(service->options.store, err, take_address, ret_devices,
                            "SELECT address FROM machine_device WHERE machine = ? AND node = ? "
                            "ORDER BY address",
                            "tt", machine->id, service->node_name);
    if (r == 0 && ret_devices->own_count == 0) {
        r = error_set(err, ERROR_UNAVAILABLE, "no device of this node is its own");
    }
    if (r < 0) {
        return r;
    }
    MEMORY_OWNED struct device *all = memory_new(DEVICE_LIST_MAX, sizeof(*all));
    size_t count = device_list("/sys", devices_offered(service), all);
    for (size_t i = 0; i < ret_devices->own_count && r == 0; i++) {
        if (device_is_usb(ret_devices->own[i])) {
            continue; /* usb.c plugs it in, now or when it is there */
        }
        r = find_one(ret_devices, ret_devices->own[i], all, count, err);
    }
    return r;
}

size_t devices_named(const json_t *config, struct hypervisor_device *ret_devices)
{
    size_t index = 0;
    size_t count = 0;
    json_t *text = NULL;
    json_array_foreach(asks_of(config), index, text)
    {
        struct device_ask ask;
        if (read_ask(text, &ask) && count < MACHINE_DEVICES_MAX) {
            struct hypervisor_device *device = &ret_devices[count++];
            *device = (struct hypervisor_device){.group = "0"};
            snprintf(device->address, sizeof(device->address), "%.12s", ask.what);
        }
    }
    return count;
}

/* ---- Shown ---- */

bool devices_fit(const json_t *config, const char *class_name, const char *model,
                 const char *address)
{
    bool does = false;
    size_t index = 0;
    json_t *text = NULL;
    json_array_foreach(asks_of(config), index, text)
    {
        struct device_ask ask;
        does = does || (read_ask(text, &ask) && device_ask_takes(&ask, class_name, model, address));
    }
    return does;
}

struct owned {
    char list[MACHINE_DEVICES_MAX][DEVICE_ADDRESS_SIZE];
    size_t count;
    char *node;
    json_t *config;
};

static bool take_owned(sqlite3_stmt *row, void *context)
{
    struct owned *owned = context;
    struct error ignored = {0};
    if (owned->node == NULL) {
        owned->node = memory_copy_string(store_text(row, 1));
        json_read(store_text(row, 2), strlen(store_text(row, 2)), &owned->config, &ignored);
    }
    if (owned->count < MACHINE_DEVICES_MAX) {
        snprintf(owned->list[owned->count++], DEVICE_ADDRESS_SIZE, "%s", store_text(row, 0));
    }
    return true;
}

/* What its node has at an address may be nothing, or another device than it is to have. */
static bool is_offered(const struct offers *offers, const json_t *config, const char *address)
{
    bool is = false;
    for (size_t i = 0; i < offers->count; i++) {
        const struct offer *offer = &offers->list[i];
        is = is ||
            (strcmp(offer->address, address) == 0 &&
             devices_fit(config, offer->class_name, offer->model, address));
    }
    return is;
}

void devices_write(const struct machine_service *service, const char *id,
                   struct json_writer *writer)
{
    struct owned owned = {0};
    struct error ignored = {0};
    if (!devices_are_known(service)) {
        return;
    }
    store_query(service->options.store, &ignored, take_owned, &owned,
                "SELECT d.address, d.node, m.config FROM machine_device d JOIN machine m ON m.id = "
                "d.machine WHERE d.machine = ? ORDER BY d.address",
                "t", id);
    MEMORY_OWNED struct offers *offers = NEW(struct offers);
    if (owned.count > 0) {
        read_offers(service, owned.node, id, offers, &ignored);
    }
    for (size_t list = 0; list < 2; list++) {
        json_write_key(writer, list == 0 ? "has_devices" : "missing_devices");
        json_write_begin_array(writer);
        for (size_t i = 0; i < owned.count; i++) {
            if (list == 0 || !is_offered(offers, owned.config, owned.list[i])) {
                json_write_string(writer, owned.list[i]);
            }
        }
        json_write_end_array(writer);
    }
    free(owned.node);
    json_decref(owned.config);
}
