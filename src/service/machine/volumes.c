/*
 * The volumes of a machine: plugged in when its VMM is there, mounted when its agent is, taken out.
 *
 * Which it has is said by the volumes' rows (service/volume).  A round plugs in all of them, one
 * after the other; what is there already stays.  A machine that starts and lacks one is ended with
 * the reason: its programs would write where the volume should be.  Its initrd mounts them before
 * its init begins (blixard.volume), which is once more looked after when the agent is up: volumes
 * may have come since.
 */
#include "service/machine/volumes.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "engine/store/store.h"

#include "service/machine/capture.h"
#include "service/machine/kept.h"
#include "service/machine/parts.h"
#include "service/volume/volume.h"

struct machine_plugging {
    struct machine *machine;
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    size_t count;
    size_t at;
    bool goes_again; /* one was added meanwhile */
    bool has_failed; /* one that somebody had asked for: its row may still be there */
};

/* Somebody waits for a volume to be plugged in, or taken out. */
struct change {
    struct list_node link; /* in machine->changes once the row is written, or the VMM was told */
    struct machine_service *service;
    struct machine *machine; /* while its VMM or its agent does something for it */
    char *project;
    char *machine_name;
    struct volume_use use;
    char id[VOLUME_ID_SIZE];
    char operation[OPERATION_ID_SIZE];
    bool is_detachment;
    bool is_plugged;
    bool is_forced;
    machine_begun *done;
    void *context;
};

static struct volume_service *volumes_of(const struct machine *machine)
{
    return machine->service->options.volumes;
}

static void free_change(struct change *change)
{
    list_remove(&change->link);
    free(change->project);
    free(change->machine_name);
    free(change);
}

static void end_change(struct change *change, const struct error *error)
{
    struct operation_service *operations = change->service->options.operations;
    if (error != NULL) {
        operation_fail(operations, change->operation, error);
    } else {
        operation_succeed(operations, change->operation, NULL);
    }
    free_change(change);
}

/* ---- Mounting ---- */

struct mounting {
    struct agent *agent;
    struct change *change; /* that waits for it; NULL: nobody does */
    char name[64];
    char path[VOLUME_PATH_MAX + 1];
    bool is_read_only;
};

static void end_mounting(struct mounting *mounting, const struct error *error)
{
    struct error told = {0};
    if (error != NULL && mounting->change != NULL) {
        told = *error;
        error_wrap(&told, "volume %s is attached, and not mounted", mounting->name);
    } else if (error != NULL && error->kind != ERROR_CANCELLED) {
        log_warn("volume %s: %s", mounting->name, error->text);
    }
    if (mounting->change != NULL) {
        end_change(mounting->change, error != NULL ? &told : NULL);
    }
    free(mounting);
}

/* A file system of another kind stays as it is. */
static void on_grown(const struct error *error, const struct agent_result *result, void *context)
{
    struct mounting *mounting = context;
    (void)result;
    if (error != NULL && error->kind != ERROR_CANCELLED) {
        log_info("volume %s: %s", mounting->name, error->text);
    }
    end_mounting(mounting, NULL);
}

/* The volume may have grown while no machine had it. */
static void on_mounted(const struct error *error, const struct agent_result *result, void *context)
{
    struct mounting *mounting = context;
    (void)result;
    if (error != NULL || mounting->is_read_only) {
        end_mounting(mounting, error);
    } else {
        agent_grow(mounting->agent, mounting->path, on_grown, mounting);
    }
}

static void mount_one(struct machine *machine, const char *id, const struct volume_use *use,
                      struct change *change)
{
    char source[64];
    struct mounting *mounting = NEW(struct mounting);
    *mounting = (struct mounting){
        .agent = machine->agent, .change = change, .is_read_only = use->is_read_only};
    snprintf(mounting->name, sizeof(mounting->name), "%s", use->name);
    snprintf(mounting->path, sizeof(mounting->path), "%s", use->path);
    snprintf(source, sizeof(source), "serial:%.20s", id);
    const struct agent_mount mount = {
        .source = source, .path = use->path, .is_read_only = use->is_read_only};
    agent_mount(machine->agent, &mount, on_mounted, mounting);
}

static bool can_mount(const struct machine *machine)
{
    return machine->volumes_on && machine->agent != NULL && agent_is_up(machine->agent);
}

void machine_volumes_mount(struct machine *machine)
{
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    size_t count = can_mount(machine)
        ? volume_of_machine(volumes_of(machine), machine->project, machine->name, volumes)
        : 0;
    for (size_t i = 0; i < count; i++) {
        if (volumes[i].use.path[0] != '\0' && !kept_is_mounted(machine, volumes[i].use.name)) {
            mount_one(machine, volumes[i].id, &volumes[i].use, NULL);
        }
    }
}

/* ---- Plugging in ---- */

static void plug_next(struct machine_plugging *plugging);

static struct change *find_change(struct machine *machine, const char *name)
{
    LIST_EACH(node, &machine->changes)
    {
        struct change *change = LIST_ITEM(node, struct change, link);
        if (strcmp(change->use.name, name) == 0) {
            return change;
        }
    }
    return NULL;
}

/* True: somebody had waited. */
static bool end_plugged(struct machine *machine)
{
    bool has_waited = false;
    LIST_EACH(node, &machine->changes)
    {
        struct change *change = LIST_ITEM(node, struct change, link);
        if (!change->is_plugged) {
            continue;
        }
        has_waited = true;
        list_remove(&change->link);
        if (change->use.path[0] != '\0' && can_mount(machine)) {
            mount_one(machine, change->id, &change->use, change);
        } else {
            end_change(change, NULL);
        }
    }
    return has_waited;
}

static void end_round(struct machine_plugging *plugging)
{
    struct machine *machine = plugging->machine;
    bool goes_again = plugging->goes_again;
    bool has_failed = plugging->has_failed;
    machine->plugging = NULL;
    free(plugging);
    machine->volumes_on = true;
    bool has_waited = end_plugged(machine);
    if (goes_again) {
        machine_volumes_plug(machine);
        return;
    }
    volume_machine_changed(volumes_of(machine), machine->project, machine->name);
    if (!has_waited && !has_failed) { /* else the others were mounted before */
        machine_volumes_mount(machine);
    }
}

static void on_given_back(const struct error *error, uint64_t index, void *context)
{
    struct machine_service *service = context;
    (void)index;
    service->pending--;
    if (error != NULL) {
        log_warn("a volume is still its machine's: %s", error->text);
    }
}

static void give_back(struct machine *machine, const char *name)
{
    struct store_command *command = store_command_new();
    volume_add_detachment(volumes_of(machine), machine->project, machine->name, name, command);
    machine->service->pending++;
    store_propose(machine->service->options.store, command, on_given_back, machine->service);
}

/* Whoever asked for it is told; a machine that was to start with it does not. */
static void fail_one(struct machine_plugging *plugging, const struct error *error)
{
    struct machine *machine = plugging->machine;
    const char *name = plugging->volumes[plugging->at].use.name;
    struct change *change = find_change(machine, name);
    if (change != NULL) {
        plugging->has_failed = true;
        give_back(machine, name);
        end_change(change, error);
        plugging->at++;
        plug_next(plugging);
        return;
    }
    snprintf(machine->volumes_problem, sizeof(machine->volumes_problem), "volume %.63s: %.300s",
             name, error->text);
    log_warn("machine %s: %s", machine->key, machine->volumes_problem);
    hypervisor_kill(machine->vm); /* machine_volumes_gone() follows */
}

static void on_plugged(const struct error *error, void *context)
{
    struct machine_plugging *plugging = context;
    const struct volume_attachment *volume = &plugging->volumes[plugging->at];
    struct change *change = find_change(plugging->machine, volume->use.name);
    if (error != NULL && error->kind == ERROR_UNAVAILABLE) {
        /* The VMM has ended: machine_volumes_gone() follows; or it is spoken to anew, and all of
         * them are plugged in then. */
        plugging->machine->plugging = NULL;
        free(plugging);
        return;
    }
    if (error != NULL) {
        fail_one(plugging, error);
        return;
    }
    if (change != NULL) {
        change->is_plugged = true;
        snprintf(change->id, sizeof(change->id), "%s", volume->id);
    }
    plugging->at++;
    plug_next(plugging);
}

static void plug_next(struct machine_plugging *plugging)
{
    struct machine *machine = plugging->machine;
    struct volume_open open;
    struct error err = {0};
    if (plugging->at == plugging->count) {
        end_round(plugging);
        return;
    }
    const char *name = plugging->volumes[plugging->at].use.name;
    if (volume_open(volumes_of(machine), machine->project, name, &open, &err) < 0) {
        fail_one(plugging, &err);
        return;
    }
    hypervisor_attach_volume(machine->vm, &open.volume, on_plugged, plugging);
    volume_close(&open);
}

void machine_volumes_plug(struct machine *machine)
{
    if (machine->plugging != NULL) {
        machine->plugging->goes_again = true;
        return;
    }
    struct machine_plugging *plugging = NEW(struct machine_plugging);
    plugging->machine = machine;
    plugging->count =
        volume_of_machine(volumes_of(machine), machine->project, machine->name, plugging->volumes);
    machine->plugging = plugging;
    plug_next(plugging);
}

void machine_volumes_settled(struct machine *machine)
{
    volume_machine_changed(volumes_of(machine), machine->project, machine->name);
}

/* The VMM is gone, and will not answer. */
void machine_volumes_gone(struct machine *machine)
{
    struct error error = {0};
    error_set(&error, ERROR_UNAVAILABLE, "machine %s has ended meanwhile", machine->name);
    free(machine->plugging);
    machine->plugging = NULL;
    machine->volumes_on = false;
    while (!list_is_empty(&machine->changes)) {
        struct change *change = LIST_FIRST(&machine->changes, struct change, link);
        /* What was to be plugged in is at its next start; what was to be taken out is not. */
        end_change(change, change->is_detachment ? &error : NULL);
    }
    volume_machine_changed(volumes_of(machine), machine->project, machine->name);
}

/* ---- Before it starts ---- */

bool machine_volumes_are_busy(const struct machine *machine)
{
    return volume_is_busy(volumes_of(machine), machine->project, machine->name);
}

size_t machine_volumes_count(const struct machine *machine)
{
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    return volume_of_machine(volumes_of(machine), machine->project, machine->name, volumes);
}

bool machine_volumes_are_there(const struct machine *machine)
{
    return machine_volumes_count(machine) > 0;
}

int machine_volumes_check(const struct machine *machine, struct error *err)
{
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    size_t count = volume_of_machine(volumes_of(machine), machine->project, machine->name, volumes);
    for (size_t i = 0; i < count; i++) {
        struct volume_open open;
        if (volume_open(volumes_of(machine), machine->project, volumes[i].use.name, &open, err) <
            0) {
            return -(int)err->kind;
        }
        volume_close(&open);
    }
    return 0;
}

/* Those for which there is no room are mounted when the agent is up. */
void machine_volumes_add_words(const struct machine *machine, char *words, size_t size)
{
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    size_t count = volume_of_machine(volumes_of(machine), machine->project, machine->name, volumes);
    for (size_t i = 0; i < count; i++) {
        const struct volume_use *use = &volumes[i].use;
        char word[VOLUME_ID_SIZE + VOLUME_PATH_MAX + 32];
        int length = snprintf(word, sizeof(word), " blixard.volume=%s:%s%s", volumes[i].id,
                              use->path, use->is_read_only ? ":ro" : "");
        if (use->path[0] != '\0' && strlen(words) + (size_t)length < size) {
            strncat(words, word, size - strlen(words) - 1);
        }
    }
}

/* ---- What volumes ask about machines ---- */

static enum volume_machine_state look(const char *project, const char *name,
                                      struct hypervisor_vm **ret_vm, struct agent **ret_agent,
                                      void *context)
{
    struct machine *machine = state_find(context, project, name);
    if (machine == NULL) {
        return VOLUME_MACHINE_OFF;
    }
    bool is_kept = capture_keeps_volumes(machine); /* still already */
    if (machine->volumes_on && capture_holds_still(machine) && !is_kept) {
        return VOLUME_MACHINE_BETWEEN; /* machine_volumes_settled() follows */
    }
    if (machine->volumes_on) {
        bool speaks = !is_kept && machine->agent != NULL && agent_is_up(machine->agent) &&
            machine->state != MACHINE_PAUSED;
        *ret_vm = machine->vm;
        *ret_agent = speaks ? machine->agent : NULL;
        return VOLUME_MACHINE_ON;
    }
    return machine->vm != NULL || machine_state_is_alive(machine->state) ? VOLUME_MACHINE_BETWEEN
                                                                         : VOLUME_MACHINE_OFF;
}

static void on_free(const char *project, const char *name, void *context)
{
    struct machine *machine = state_find(context, project, name);
    if (machine != NULL) {
        machine_step(machine);
    }
}

void machine_volumes_open(struct machine_service *service)
{
    const struct volume_machines machines = {look, on_free, service};
    volume_set_machines(service->options.volumes, &machines);
}

/* ---- Giving and taking, by people ---- */

static void on_taken_out(const struct error *error, uint64_t index, void *context)
{
    struct change *change = context;
    (void)index;
    change->service->pending--;
    end_change(change, error);
}

static void write_detachment(struct change *change)
{
    struct machine_service *service = change->service;
    struct store_command *command = store_command_new();
    volume_add_detachment(service->options.volumes, change->project, change->machine_name,
                          change->use.name, command);
    list_remove(&change->link);
    service->pending++;
    store_propose(service->options.store, command, on_taken_out, change);
}

static void on_unplugged(const struct error *error, void *context)
{
    struct change *change = context;
    if (error != NULL) {
        end_change(change, error);
    } else {
        write_detachment(change);
    }
}

static void unplug(struct change *change)
{
    struct machine *machine = change->machine;
    char ids[HYPERVISOR_LAYERS_MAX][VOLUME_ID_SIZE];
    const char *layers[HYPERVISOR_LAYERS_MAX];
    size_t count = volume_layers(volumes_of(machine), machine->project, change->use.name, ids);
    for (size_t i = 0; i < count; i++) {
        layers[i] = ids[i];
    }
    list_push_back(&machine->changes, &change->link);
    hypervisor_detach_volume(machine->vm, change->id, layers, count, on_unplugged, change);
}

static void on_unmounted(const struct error *error, const struct agent_result *result,
                         void *context)
{
    struct change *change = context;
    struct error told = {0};
    (void)result;
    bool is_mounted = error != NULL && error->kind != ERROR_NOT_FOUND;
    if (error != NULL && error->kind == ERROR_CANCELLED) {
        end_change(change, error);
    } else if (is_mounted && !change->is_forced) {
        error_set(&told, ERROR_CONFLICT,
                  "volume %s is in use at %s: stop what uses it, or take it out with --force "
                  "(%.200s)",
                  change->use.name, change->use.path, error->text);
        end_change(change, &told);
    } else {
        unplug(change);
    }
}

static void take_out(struct change *change)
{
    struct machine *machine = change->machine;
    if (change->use.path[0] != '\0' && can_mount(machine)) {
        agent_unmount(machine->agent, change->use.path, change->is_forced, on_unmounted, change);
    } else {
        unplug(change);
    }
}

/* ---- Asked for ---- */

static struct change *new_change(struct machine *machine, const struct volume_use *use,
                                 machine_begun *done, void *context)
{
    struct change *change = NEW(struct change);
    *change = (struct change){.service = machine->service,
                              .machine = machine,
                              .project = memory_copy_string(machine->project),
                              .machine_name = memory_copy_string(machine->name),
                              .use = *use,
                              .done = done,
                              .context = context};
    return change;
}

static void on_given(const struct error *error, uint64_t index, void *context)
{
    struct change *change = context;
    struct machine_service *service = change->service;
    (void)index;
    service->pending--;
    if (!operation_tell(service->options.operations, change->operation, error, change->done,
                        change->context)) {
        free_change(change);
        return;
    }
    struct machine *machine = state_find(service, change->project, change->machine_name);
    if (machine == NULL || machine->vm == NULL) {
        end_change(change, NULL); /* it is there when the machine starts */
        return;
    }
    change->machine = machine;
    list_push_back(&machine->changes, &change->link);
    if (machine->volumes_on || machine->plugging != NULL) {
        machine_volumes_plug(machine);
    }
}

static void add_operation(struct change *change, const char *kind, struct store_command *command)
{
    MEMORY_OWNED char *resource = memory_format("machines/%s", change->machine_name);
    const struct operation_start start = {
        .kind = kind, .project = change->project, .resource = resource};
    operation_add(change->service->options.operations, command, &start, change->operation);
}

static int find_machine(struct machine_service *service, const char *project, const char *name,
                        struct machine **ret_machine, struct error *err)
{
    MEMORY_OWNED char *node = NULL;
    int r = machine_node(service, project, name, &node, err);
    if (r < 0) {
        return r;
    }
    struct machine *machine = state_find(service, project, name);
    if (machine == NULL) {
        return error_set(err, ERROR_UNAVAILABLE, "machine %s is on node %s", name, node);
    }
    if (machine->desired == MACHINE_DESIRED_DELETED) {
        return error_set(err, ERROR_CONFLICT, "machine %s is being deleted", name);
    }
    *ret_machine = machine;
    return 0;
}

static int check_driver(struct machine_service *service, const char *name, struct error *err)
{
    const struct hypervisor *hypervisor = service->options.hypervisor;
    for (size_t i = 0; i < hypervisor_driver_count(hypervisor); i++) {
        const struct hypervisor_driver_info *info = hypervisor_driver_at(hypervisor, i);
        bool is_it = name[0] != '\0' ? strcmp(name, info->name) == 0 : info->is_usable;
        if (is_it && !info->can_hotplug) {
            return error_set(err, ERROR_UNSUPPORTED,
                             "%s gives machines no volumes: choose another driver (`blixard vm "
                             "drivers`)",
                             info->name);
        }
        if (is_it) {
            break;
        }
    }
    return 0;
}

/* What moves, or is kept or restored, has the volumes that it had when that began. */
static int check_stays(const struct machine *machine, struct error *err)
{
    const char *what = machine->migration != NULL ? "moved"
        : machine->capture != NULL                ? "kept"
        : machine->restore != NULL                ? "restored"
                                                  : NULL;
    return what == NULL
        ? 0
        : error_set(err, ERROR_CONFLICT, "machine %s is being %s: try it again when that has ended",
                    machine->name, what);
}

void machine_volume_attach(struct machine_service *service, const char *project, const char *name,
                           const struct volume_use *use, machine_begun *done, void *context)
{
    struct error err = {0};
    struct machine *machine = NULL;
    unsigned slot = 0;
    struct store_command *command = store_command_new();
    int r = find_machine(service, project, name, &machine, &err);
    r = r < 0 ? r : runner_refuse(machine->config, "be given volumes", &err);
    r = r < 0 ? r : check_stays(machine, &err);
    r = r < 0
        ? r
        : volume_add_attachment(service->options.volumes, project, name, use, &slot, command, &err);
    if (r < 0) {
        store_command_free(command);
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    struct change *change = new_change(machine, use, done, context);
    add_operation(change, "volume.attach", command);
    service->pending++;
    store_propose(service->options.store, command, on_given, change);
}

/* ---- Taken out ---- */

static const struct volume_attachment *find_attachment(const struct volume_attachment *volumes,
                                                       size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(volumes[i].use.name, name) == 0) {
            return &volumes[i];
        }
    }
    return NULL;
}

/* The operation is written; only then is something done. */
static void on_announced(const struct error *error, uint64_t index, void *context)
{
    struct change *change = context;
    struct machine_service *service = change->service;
    struct error refusal = {0};
    (void)index;
    service->pending--;
    if (!operation_tell(service->options.operations, change->operation, error, change->done,
                        change->context)) {
        free_change(change);
        return;
    }
    struct machine *machine = state_find(service, change->project, change->machine_name);
    if (machine != NULL &&
        (machine->plugging != NULL ||
         (!machine->volumes_on && (machine->vm != NULL || machine->is_busy)))) {
        error_set(&refusal, ERROR_CONFLICT, "machine %s is %s: try it again in a moment",
                  change->machine_name, machine_state_text(machine->state));
        end_change(change, &refusal);
    } else if (machine != NULL && machine->volumes_on) {
        change->machine = machine;
        take_out(change);
    } else {
        write_detachment(change);
    }
}

void machine_volume_detach(struct machine_service *service, const char *project, const char *name,
                           const char *volume, bool is_forced, machine_begun *done, void *context)
{
    struct error err = {0};
    struct machine *machine = NULL;
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    int r = find_machine(service, project, name, &machine, &err);
    size_t count = r == 0 ? volume_of_machine(service->options.volumes, project, name, volumes) : 0;
    const struct volume_attachment *found = find_attachment(volumes, count, volume);
    if (r == 0 && found == NULL) {
        r = error_set(&err, ERROR_NOT_FOUND, "machine %s has no volume %.63s", name, volume);
    }
    r = r < 0 ? r : check_stays(machine, &err);
    if (r == 0 && machine_volumes_are_busy(machine)) {
        r = error_set(&err, ERROR_CONFLICT,
                      "something is being done to a volume of machine %s: try it again when that "
                      "has ended",
                      name);
    }
    if (r < 0) {
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    struct change *change = new_change(machine, &found->use, done, context);
    change->is_detachment = true;
    change->is_forced = is_forced;
    snprintf(change->id, sizeof(change->id), "%s", found->id);
    struct store_command *command = store_command_new();
    add_operation(change, "volume.detach", command);
    service->pending++;
    store_propose(service->options.store, command, on_announced, change);
}

/* ---- With the machine ---- */

int machine_volumes_add(struct machine_service *service, const char *project, const char *name,
                        const char *driver, const json_t *texts, struct store_command *command,
                        struct error *err)
{
    size_t index = 0;
    json_t *text = NULL;
    unsigned slot = 0;
    if (json_array_size(texts) > 0 && check_driver(service, driver, err) < 0) {
        return -(int)err->kind;
    }
    json_array_foreach(texts, index, text)
    {
        struct volume_use use;
        int r = volume_use_parse(json_string_value(text), &use, err);
        for (size_t i = 0; r == 0 && i < index; i++) {
            struct volume_use other;
            r = volume_use_parse(json_string_value(json_array_get(texts, i)), &other, err);
            if (r == 0 &&
                (strcmp(other.name, use.name) == 0 ||
                 (use.path[0] != '\0' && strcmp(other.path, use.path) == 0))) {
                r = error_set(err, ERROR_INVALID,
                              "volumes: two have one name, or are mounted at one place: %.150s",
                              json_string_value(text));
            }
        }
        r = r < 0 ? r
                  : volume_add_attachment(service->options.volumes, project, name, &use, &slot,
                                          command, err);
        if (r < 0) {
            return r;
        }
    }
    return 0;
}

void machine_volumes_add_release(struct machine *machine, struct store_command *command)
{
    volume_add_detachment(volumes_of(machine), machine->project, machine->name, NULL, command);
}

void machine_volumes_write(struct machine_service *service, const char *project, const char *name,
                           struct json_writer *writer)
{
    struct volume_attachment volumes[HYPERVISOR_VOLUMES_MAX];
    size_t count = volume_of_machine(service->options.volumes, project, name, volumes);
    if (count == 0) {
        return;
    }
    json_write_key(writer, "volumes");
    json_write_begin_array(writer);
    for (size_t i = 0; i < count; i++) {
        const struct volume_use *use = &volumes[i].use;
        MEMORY_OWNED char *text =
            memory_format("%s%s%s%s", use->name, use->path[0] != '\0' ? ":" : "", use->path,
                          use->is_read_only ? ":ro" : "");
        json_write_string(writer, text);
    }
    json_write_end_array(writer);
}
