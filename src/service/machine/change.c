/*
 * Machines that become others: their settings, their memory, their disk.
 *
 * The row says what a machine is to be.  What its VMM began with, where that is something else, is
 * in FOLDER/booted, so that a daemon that finds the VMM again knows it: memory below that is the
 * balloon's, the rest comes with the next start.  FOLDER/grow is there from before a disk grows
 * until the guest has made its file system larger.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/store/store.h"

#include "service/machine/content.h"
#include "service/machine/parts.h"
#include "service/machine/rename.h"

#define MIB    (UINT64_C(1) << 20)
#define BOOTED "booted"
#define GROW   "grow"

enum { BOOTED_BYTES_MAX = 1 << 16 };

/* ---- Decisions ---- */

/* Texts and lists that are empty are as if they were not there. */
static bool is_nothing(const json_t *value)
{
    const char *text = json_string_value(value);
    return value == NULL || json_is_null(value) || (text != NULL && text[0] == '\0') ||
        (json_is_array(value) && json_array_size(value) == 0);
}

static bool is_same(const json_t *a, const json_t *b)
{
    return is_nothing(a) || is_nothing(b) ? is_nothing(a) && is_nothing(b) : json_equal(a, b);
}

static int check_disk(const json_t *config, json_t *changed, struct error *err)
{
    uint64_t old = json_u64(config, "disk_bytes");
    uint64_t bytes = json_u64(changed, "disk_bytes");
    if (bytes > old) {
        bytes += (MIB - bytes % MIB) % MIB;
        json_object_set_new(changed, "disk_bytes", json_integer((json_int_t)bytes));
    }
    char text[TEXT_SIZE_MAX];
    return bytes >= old
        ? 0
        : error_set(err, ERROR_CONFLICT,
                    "the disk has %s and cannot become smaller: what is in it would be lost",
                    text_write_size_exactly(old, text));
}

int change_merge(const json_t *config, const json_t *update, json_t **ret_config, struct error *err)
{
    JSON_OWNED json_t *changed = json_deep_copy(config);
    size_t said = 0;
    for (const struct machine_setting *setting = machine_settings; setting->key != NULL;
         setting++) {
        json_t *value =
            (setting->flags & SETTING_CHANGES) != 0 ? json_object_get(update, setting->key) : NULL;
        said += value != NULL;
        if (value != NULL && is_nothing(value)) {
            json_object_del(changed, setting->key);
        } else if (value != NULL) {
            json_object_set(changed, setting->key, value);
        }
    }
    if (said == 0 && json_object_get(update, "runner_generation") == NULL) {
        return error_set(err, ERROR_INVALID, "say what is to change");
    }
    if (runner_take_update(config, update, changed, err) < 0) {
        return -(int)err->kind;
    }
    if (json_text(changed, "health")[0] == '\0') {
        for (const struct machine_setting *setting = machine_settings; setting->key != NULL;
             setting++) {
            if (strncmp(setting->key, "health_", 7) == 0 &&
                json_object_get(update, setting->key) == NULL) {
                json_object_del(changed, setting->key);
            }
        }
    }
    int r = check_disk(config, changed, err);
    return r < 0 ? r : settings_complete(changed, ret_config, err);
}

/* Huge pages are not given back while it runs. */
static bool has_balloon(const json_t *booted)
{
    return machine_config_page_bytes(booted) == 0;
}

json_t *change_waiting(const json_t *booted, const json_t *config)
{
    json_t *waiting = json_array();
    bool has_networks = json_array_size(json_object_get(config, "networks")) > 0;
    for (const struct machine_setting *setting = machine_settings; setting->key != NULL;
         setting++) {
        const json_t *then = json_object_get(booted, setting->key);
        const json_t *now = json_object_get(config, setting->key);
        bool is_live = strcmp(setting->key, "memory_bytes") == 0
            ? json_integer_value(now) <= json_integer_value(then) && has_balloon(booted)
            : strcmp(setting->key, "publish") == 0 && has_networks; /* rules of the node */
        if ((setting->flags & SETTING_AT_START) != 0 && then != NULL && !is_live &&
            !is_same(then, now)) {
            json_array_append_new(waiting, json_string(setting->key));
        }
    }
    return waiting;
}

/* ---- What a VMM began with ---- */

static bool is_alive(const struct machine *machine)
{
    return machine->vm != NULL && machine_state_is_alive(machine->state);
}

json_t *change_booted_config(const struct machine *machine)
{
    static const char *const keys[] = {"cpus", "memory_bytes", "huge_pages", "runner", "cells"};
    json_t *config = json_deep_copy(machine->config);
    json_object_del(config, "cells"); /* of a state that it was to go on from */
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        json_t *value = json_object_get(machine->booted, keys[i]);
        if (json_is_null(value)) {
            json_object_del(config, keys[i]); /* as remember() keeps what it began without */
        } else if (value != NULL) {
            json_object_set(config, keys[i], value);
        }
    }
    return config;
}

json_t *change_of(const struct machine *machine)
{
    return is_alive(machine) ? change_waiting(machine->booted, machine->config) : json_array();
}

/* With what it has of `config` now, where that is not known to be something else already. */
static json_t *remember(const json_t *booted, const json_t *config)
{
    json_t *all = booted != NULL ? json_deep_copy(booted) : json_object();
    for (const struct machine_setting *setting = machine_settings; setting->key != NULL;
         setting++) {
        json_t *value = json_object_get(config, setting->key);
        if ((setting->flags & SETTING_AT_START) != 0 &&
            json_object_get(all, setting->key) == NULL) {
            json_object_set_new(all, setting->key,
                                value != NULL ? json_incref(value) : json_null());
        }
    }
    return all;
}

void change_recall(struct machine *machine)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/" BOOTED, machine->folder);
    json_decref(machine->booted);
    machine->booted = NULL;
    if (file_exists(path) &&
        (file_read(path, BOOTED_BYTES_MAX, &text, &err) < 0 ||
         json_read(text.data, text.used, &machine->booted, &err) < 0)) {
        log_warn("machine %s: %s", machine->key, err.text);
    }
}

void change_begin(struct machine *machine, json_t *cells)
{
    json_decref(machine->booted);
    machine->booted = cells != NULL ? json_pack("{s:O}", "cells", cells) : NULL;
}

/* ---- Disks ---- */

static int put_mark(const char *folder, struct error *err)
{
    MEMORY_OWNED char *mark = memory_format("%s/" GROW, folder);
    return file_write(mark, "", 0, 0600, err);
}

static bool has_mark(const struct machine *machine)
{
    MEMORY_OWNED char *mark = memory_format("%s/" GROW, machine->folder);
    return file_exists(mark);
}

/* One that has not its size by now, as after a restore, gets it; a raw file here, another by its
 * VMM.  What goes on in the middle knows the size that it had. */
int change_prepare(const char *folder, const json_t *config, bool goes_on, const json_t *cells,
                   struct error *err)
{
    MEMORY_OWNED char *booted = memory_format("%s/" BOOTED, folder);
    MEMORY_OWNED char *raw = memory_format("%s/disk.raw", folder);
    MEMORY_OWNED char *overlay = memory_format("%s/disk.qcow2", folder);
    uint64_t bytes = json_u64(config, "disk_bytes");
    unlink(booted);
    if (cells != NULL) {
        JSON_OWNED json_t *begun = json_pack("{s:O}", "cells", cells);
        MEMORY_OWNED char *text = json_dumps(begun, JSON_COMPACT);
        if (file_write(booted, text, strlen(text), 0600, err) < 0) {
            return -(int)err->kind;
        }
    }
    bool is_raw = !file_exists(overlay);
    uint64_t size = content_disk_size(folder);
    if (size == 0 || size >= bytes) {
        return 0;
    }
    int r = put_mark(folder, err);
    if (r == 0 && is_raw && !goes_on && truncate(raw, (off_t)bytes) < 0) {
        return error_os(err, errno, "growing %s", raw);
    }
    return r;
}

/* By its place in the VMM's list: see describe() of run.c. */
static size_t own_disk(const struct machine *machine)
{
    return json_text(machine->config, "disk")[0] == '\0' &&
            json_text(machine->config, "root")[0] != '\0'
        ? 1
        : 0;
}

/* The agent's affair; a whole distribution does it itself. */
static bool is_grown_by_agent(const struct machine *machine)
{
    return json_text(machine->config, "disk")[0] == '\0';
}

static void take_mark(const struct machine *machine)
{
    MEMORY_OWNED char *mark = memory_format("%s/" GROW, machine->folder);
    unlink(mark);
}

static void on_settled_disk(const struct error *error, void *context)
{
    const struct machine *machine = context;
    if (error == NULL && !is_grown_by_agent(machine)) {
        take_mark(machine);
    } else if (error != NULL && error->kind != ERROR_UNSUPPORTED &&
               error->kind != ERROR_UNAVAILABLE) {
        log_warn("machine %s: growing its disk: %s", machine->key, error->text);
    }
}

static void on_throttled(const struct error *error, void *context)
{
    const struct machine *machine = context;
    if (error != NULL && error->kind != ERROR_UNSUPPORTED && error->kind != ERROR_UNAVAILABLE) {
        log_warn("machine %s: the rate of its disk: %s", machine->key, error->text);
    }
}

static uint64_t begun_with(const struct machine *machine, const char *key)
{
    bool is_other = json_object_get(machine->booted, key) != NULL;
    return json_u64(is_other ? machine->booted : machine->config, key);
}

struct hypervisor_rates change_disk_rates(const struct machine *machine)
{
    return (struct hypervisor_rates){
        .iops = {begun_with(machine, "disk_iops"), begun_with(machine, "disk_read_iops"),
                 begun_with(machine, "disk_write_iops")},
        .bytes = {begun_with(machine, "disk_bandwidth"), begun_with(machine, "disk_read_bandwidth"),
                  begun_with(machine, "disk_write_bandwidth")}};
}

void change_settle_vm(struct machine *machine)
{
    const struct hypervisor_rates rates = change_disk_rates(machine);
    if (hypervisor_rates_are_set(&rates)) {
        hypervisor_throttle_disk(machine->vm, own_disk(machine), &rates, on_throttled, machine);
    }
    if (has_mark(machine)) {
        hypervisor_resize_disk(machine->vm, own_disk(machine),
                               json_u64(machine->config, "disk_bytes"), on_settled_disk, machine);
    }
}

static void on_settled_guest(const struct error *error, const struct agent_result *result,
                             void *context)
{
    const struct machine *machine = context;
    (void)result;
    if (error == NULL) {
        take_mark(machine);
    } else if (error->kind != ERROR_CANCELLED) {
        log_warn("machine %s: growing its file system: %s", machine->key, error->text);
    }
}

static void on_settled_memory(const struct error *error, void *context)
{
    const struct machine *machine = context;
    if (error != NULL && error->kind != ERROR_UNAVAILABLE) {
        log_warn("machine %s: its balloon: %s", machine->key, error->text);
    }
}

/* What the balloon is to leave it. */
uint64_t change_memory(const struct machine *machine)
{
    uint64_t wanted = json_u64(machine->config, "memory_bytes");
    uint64_t had = json_u64(machine->booted, "memory_bytes");
    bool is_as_begun = had > 0 && (had < wanted || !has_balloon(machine->booted));
    return is_as_begun ? had : wanted;
}

void change_settle_guest(struct machine *machine, bool has_gone_on)
{
    if (has_mark(machine) && is_grown_by_agent(machine)) {
        agent_grow_to(machine->agent, "/", json_u64(machine->config, "disk_bytes"),
                      on_settled_guest, machine);
    }
    JSON_OWNED json_t *booted = change_booted_config(machine);
    if (machine->vm != NULL && (has_gone_on || machine->booted != NULL) && has_balloon(booted)) {
        hypervisor_balloon(machine->vm, change_memory(machine), on_settled_memory, machine);
    }
}

/* ---- A change that is asked for ---- */

struct changing {
    struct machine *machine;
    json_t *config;
    json_t *booted; /* NULL: it does not run */
    json_t *waiting;
    char *was; /* the row's text */
    bool grows;
    bool balloons;
    bool is_checked_anew;
    char operation[OPERATION_ID_SIZE];
    struct error error;
    machine_changed *done;
    void *context;
};

static void end(struct changing *changing, const struct error *error)
{
    struct machine *machine = changing->machine;
    struct operation_service *operations = machine->service->options.operations;
    if (changing->operation[0] != '\0' && error != NULL) {
        operation_fail(operations, changing->operation, error);
    } else if (changing->operation[0] != '\0') {
        operation_succeed(operations, changing->operation, NULL);
    }
    json_decref(changing->config);
    json_decref(changing->booted);
    json_decref(changing->waiting);
    free(changing->was);
    free(changing);
    machine->held--;
    machine_unref(machine);
}

/* Its VMM was asked: it answers, or is lost before (change_lose_vm()). */
static void ask_vm(struct changing *changing)
{
    changing->machine->changing = changing;
}

static void answer(struct changing *changing)
{
    changing->machine->changing = NULL;
}

static void on_lost(void *context)
{
    struct changing *changing = context;
    end(changing, &changing->error);
}

void change_lose_vm(struct machine *machine)
{
    struct changing *changing = machine->changing;
    if (changing != NULL) {
        answer(changing);
        error_set(&changing->error, ERROR_UNAVAILABLE,
                  "machine %s ended before it was changed: it is so from its next start on",
                  machine->name);
        loop_post(machine->service->options.loop, on_lost, changing);
    }
}

static void on_balloon(const struct error *error, void *context)
{
    answer(context);
    end(context, error);
}

/* What is under way may have ended the VMM. */
static void set_memory(struct changing *changing)
{
    struct machine *machine = changing->machine;
    if (changing->balloons && is_alive(machine)) {
        ask_vm(changing);
        hypervisor_balloon(machine->vm, change_memory(machine), on_balloon, changing);
    } else {
        end(changing, NULL);
    }
}

static void on_grown(const struct error *error, const struct agent_result *result, void *context)
{
    struct changing *changing = context;
    (void)result;
    if (error != NULL) {
        error_set(&changing->error, error->kind,
                  "the disk has grown, its file system has not: %.300s; it is tried again at the "
                  "next start",
                  error->text);
        end(changing, &changing->error);
        return;
    }
    take_mark(changing->machine);
    set_memory(changing);
}

static void on_resized(const struct error *error, void *context)
{
    struct changing *changing = context;
    struct machine *machine = changing->machine;
    bool can_tell = machine->agent != NULL && agent_is_up(machine->agent);
    answer(changing);
    if (error != NULL && error->kind != ERROR_UNSUPPORTED) {
        end(changing, error);
    } else if (error == NULL && is_grown_by_agent(machine) && can_tell) {
        agent_grow_to(machine->agent, "/", json_u64(changing->config, "disk_bytes"), on_grown,
                      changing);
    } else {
        if (error == NULL && !is_grown_by_agent(machine)) {
            take_mark(machine);
        }
        set_memory(changing);
    }
}

static void go_live(struct changing *changing)
{
    struct machine *machine = changing->machine;
    if (changing->is_checked_anew && machine->agent != NULL && agent_is_up(machine->agent)) {
        health_end(machine);
        health_begin(machine);
        state_publish(machine);
    }
    if (changing->grows && is_alive(machine)) {
        ask_vm(changing);
        hypervisor_resize_disk(machine->vm, own_disk(machine),
                               json_u64(changing->config, "disk_bytes"), on_resized, changing);
    } else {
        set_memory(changing);
    }
}

/* Until it is, the collector could take it: the operation ends afterwards. */
static void on_runner_kept(const struct error *error, void *context)
{
    struct changing *changing = context;
    if (error != NULL) {
        end(changing, error);
    } else {
        go_live(changing);
    }
}

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct changing *changing = context;
    struct machine *machine = changing->machine;
    (void)index;
    machine->is_busy = false;
    machine->service->pending--;
    if (error != NULL) {
        changing->done(error, NULL, NULL, NULL, changing->context);
        operation_drop(machine->service->options.operations, changing->operation);
        changing->operation[0] = '\0';
        end(changing, error);
        return;
    }
    if (changing->booted != NULL && is_alive(machine)) {
        json_decref(machine->booted);
        machine->booted = json_incref(changing->booted);
    }
    changing->done(NULL, machine->name, changing->operation, changing->waiting, changing->context);
    if (machine->is_gone || machine->service->is_over) {
        end(changing, NULL);
        return;
    }
    machine->held++;
    JSON_OWNED json_t *before = json_loads(changing->was, 0, NULL);
    if (!runner_keep(machine, before, changing->config, on_runner_kept, changing)) {
        go_live(changing);
    }
    machine_step(machine);
    machine->held--;
    machine_unref(machine);
}

/* Before the row, so that whatever ends the daemon nothing is forgotten. */
static void keep(void *context)
{
    struct changing *changing = context;
    const char *folder = changing->machine->folder;
    int r = changing->grows && file_exists(folder) ? put_mark(folder, &changing->error) : 0;
    if (r == 0 && changing->booted != NULL) {
        MEMORY_OWNED char *path = memory_format("%s/" BOOTED, folder);
        MEMORY_OWNED char *text = json_dumps(changing->booted, JSON_COMPACT | JSON_SORT_KEYS);
        file_write(path, text, strlen(text), 0600, &changing->error);
    }
}

static void on_kept(void *context)
{
    struct changing *changing = context;
    struct machine *machine = changing->machine;
    struct machine_service *service = machine->service;
    MEMORY_OWNED char *resource = memory_format("machines/%s", machine->name);
    MEMORY_OWNED char *text = json_dumps(changing->config, JSON_COMPACT | JSON_SORT_KEYS);
    const struct operation_start start = {
        .kind = "machine.update", .project = machine->project, .resource = resource};
    JSON_OWNED json_t *was = json_loads(changing->was, 0, NULL);
    struct store_command *command = store_command_new();
    operation_add(service->options.operations, command, &start, changing->operation);
    store_command_add_expecting(
        command, ERROR_CONFLICT, "the machine was changed meanwhile: try again",
        "UPDATE machine SET config = ?, revision = ? WHERE id = ? AND node = ? AND config = ?",
        "trttt", text, machine->id, service->node_name, changing->was);
    events_add_of(machine, command, "vm.changed", "");
    draft_add_claim(service, command, machine->id, changing->config);
    settings_add_quota(service, command, machine->project, was, changing->config);
    if (changing->error.kind == ERROR_NONE) {
        store_propose(service->options.store, command, on_written, changing);
        return;
    }
    store_command_free(command);
    on_written(&changing->error, 0, changing);
}

static int read_row(struct changing *changing, json_t **ret_config, struct error *err)
{
    const struct machine *machine = changing->machine;
    int r = store_query(machine->service->options.store, err, store_take_text, &changing->was,
                        "SELECT config FROM machine WHERE id = ?", "t", machine->id);
    if (r == 0 && changing->was == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "machine %s was deleted meanwhile", machine->name);
    }
    return r < 0 ? r : json_read(changing->was, strlen(changing->was), ret_config, err);
}

int change_check(const struct machine *machine, struct error *err)
{
    if (machine->desired == MACHINE_DESIRED_DELETED) {
        return error_set(err, ERROR_CONFLICT, "machine %s is being deleted", machine->name);
    }
    if (machine->is_busy || machine->capture != NULL || machine->restore != NULL ||
        machine->migration != NULL || machine->plugging != NULL || machine->held > 0 ||
        !list_is_empty(&machine->changes)) {
        return error_set(err, ERROR_CONFLICT,
                         "something else is being done to machine %s (%s): try again in a moment",
                         machine->name, machine_state_text(machine->state));
    }
    return 0;
}

/* Disk and memory change while it runs, or while it does not. */
static int check_moment(const struct machine *machine, struct error *err)
{
    if (machine_state_is_alive(machine->state) && machine->state != MACHINE_RUNNING) {
        return error_set(err, ERROR_CONFLICT, "machine %s is %s: wait until it runs, or stop it",
                         machine->name, machine_state_text(machine->state));
    }
    if (!machine_state_is_alive(machine->state) && machine_run_goes_on(machine)) {
        return error_set(err, ERROR_CONFLICT,
                         "machine %s goes on from the memory of a snapshot at its next start, with "
                         "the size it had then: start it first",
                         machine->name);
    }
    return 0;
}

static bool differ(const json_t *a, const json_t *b, const char *key)
{
    return !is_same(json_object_get(a, key), json_object_get(b, key));
}

static int plan(struct changing *changing, const json_t *update, struct error *err)
{
    struct machine *machine = changing->machine;
    JSON_OWNED json_t *config = NULL;
    int r = read_row(changing, &config, err);
    r = r < 0 ? r : change_merge(config, update, &changing->config, err);
    r = r < 0 ? r : draft_check_pages(machine->service, changing->config, err);
    r = r < 0 ? r : fence_check_change(machine, changing->config, err);
    if (r < 0) {
        return r;
    }
    bool is_ours = !runner_is(config); /* disk and memory */
    changing->grows = is_ours && differ(config, changing->config, "disk_bytes");
    JSON_OWNED json_t *booted = change_booted_config(machine);
    bool is_other_memory = is_ours &&
        (differ(config, changing->config, "memory_bytes") ||
         differ(config, changing->config, "huge_pages"));
    changing->balloons = is_other_memory && has_balloon(booted);
    for (const struct machine_setting *setting = machine_settings; setting->key != NULL;
         setting++) {
        changing->is_checked_anew = changing->is_checked_anew ||
            (strncmp(setting->key, "health", 6) == 0 &&
             differ(config, changing->config, setting->key));
    }
    bool is_resized =
        changing->grows || is_other_memory || differ(config, changing->config, "cpus");
    if (is_resized) {
        r = check_moment(machine, err);
    }
    bool is_other_runner = differ(config, changing->config, "runner");
    if (r == 0 && is_other_runner && runner_can_come(machine->service, changing->config)) {
        return error_set(err, ERROR_NOT_FOUND,
                         "runner: %.200s is not on node %s yet: `blixard store copy PATH --to %s`",
                         json_text(changing->config, "runner"), machine->service->node_name,
                         machine->service->node_name);
    }
    if (r == 0 && is_other_runner) {
        r = runner_settle(machine->service, changing->config, err);
    }
    if (r == 0 && (is_resized || is_other_runner || differ(config, changing->config, "publish"))) {
        r = request_check_change(machine, changing->config, err);
    }
    if (is_alive(machine)) {
        changing->booted = remember(machine->booted, config);
    }
    changing->waiting = change_waiting(changing->booted, changing->config);
    return r;
}

void machine_update(struct machine_service *service, const char *project, const char *name,
                    const json_t *update, machine_changed *done, void *context)
{
    struct error err = {0};
    struct machine *machine = NULL;
    if (unplaced_update(service, project, name, update, done, context)) {
        return;
    }
    int r = request_find(service, project, name, &machine, &err);
    r = r < 0 ? r : change_check(machine, &err);
    if (r == 0 && json_object_get(update, "name") != NULL) {
        rename_machine(machine, update, done, context);
        return;
    }
    struct changing *changing = NEW(struct changing);
    *changing = (struct changing){.machine = machine, .done = done, .context = context};
    r = r < 0 ? r : plan(changing, update, &err);
    if (r < 0) {
        done(&err, NULL, NULL, NULL, context);
        json_decref(changing->config);
        json_decref(changing->booted);
        json_decref(changing->waiting);
        free(changing->was);
        free(changing);
        return;
    }
    machine->is_busy = true;
    machine->held++;
    service->pending++;
    loop_work(service->options.loop, keep, on_kept, changing);
}
