/*
 * Clones: a machine that goes on from another one's memory sheds that one's identity before it
 * counts as running: addresses of its interfaces, machine id, random numbers, clock.  What it was
 * is in FOLDER/resume/origin until then, so that a daemon that comes back in the middle does it
 * again.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"

#include "service/machine/content.h"
#include "service/machine/parts.h"

static char *origin_of(const struct machine *machine)
{
    return memory_format("%s/" CONTENT_RESUME "/" CONTENT_ORIGIN, machine->folder);
}

bool identity_is_borrowed(const struct machine *machine)
{
    MEMORY_OWNED char *origin = origin_of(machine);
    return file_exists(origin);
}

/* What its interfaces have, and are to have. */
struct change {
    struct network_nic nics[NETWORK_NICS_MAX];
    uint8_t mac[6]; /* of the user-mode network */
    struct agent_interface interfaces[NETWORK_NICS_MAX];
    size_t count;
};

static void describe(const struct machine *machine, const char *origin, struct change *change)
{
    struct error ignored = {0};
    const json_t *networks = json_object_get(machine->config, "networks");
    network_nics(machine->service->options.networks, machine->id, change->nics, &change->count,
                 &ignored);
    for (size_t i = 0; i < change->count; i++) {
        const char *was = json_text(json_array_get(networks, i), "was_mac");
        struct agent_interface *interface = &change->interfaces[i];
        network_choose_mac(was, origin, (unsigned)i, interface->mac);
        interface->new_mac = change->nics[i].mac;
    }
    if (change->count == 0) {
        settings_mac_bytes(origin, change->interfaces[0].mac);
        settings_mac_bytes(machine->id, change->mac);
        change->interfaces[0].new_mac = change->mac;
        change->count = 1;
    }
}

struct renewing {
    struct machine *machine;
    void (*done)(struct machine *machine);
};

static void on_renewed(const struct error *error, const struct agent_result *result, void *context)
{
    struct renewing renewing = *(struct renewing *)context;
    struct machine *machine = renewing.machine;
    MEMORY_OWNED char *origin = origin_of(machine);
    (void)result;
    free(context);
    if (error != NULL && (error->kind == ERROR_CANCELLED || error->kind == ERROR_UNAVAILABLE)) {
        return; /* the next session does it, or the machine has ended */
    }
    if (error != NULL && error->kind == ERROR_TIMEOUT) {
        /* Others are not to meet it as what it was, nor wait for it: its next word begins anew. */
        log_warn("machine %s: its agent has fallen silent before it was somebody else: %s",
                 machine->key, error->text);
        if (agent_is_up(machine->agent)) {
            agent_forsake(machine->agent);
        }
        return;
    }
    if (error != NULL) {
        log_warn("machine %s: it keeps a part of the identity of what it was made of: %s",
                 machine->key, error->text);
    }
    unlink(origin);
    renewing.done(machine);
}

void identity_renew(struct machine *machine, void (*done)(struct machine *machine))
{
    BUFFER_OWNED struct buffer was = {0};
    struct error err = {0};
    char machine_id[HASH_TEXT_SIZE];
    struct change change = {0};
    MEMORY_OWNED char *origin = origin_of(machine);
    struct renewing *renewing = NEW(struct renewing);
    *renewing = (struct renewing){machine, done};
    bool is_known = file_read(origin, MACHINE_ID_SIZE, &was, &err) == 0 &&
        strlen(buffer_string(&was)) == MACHINE_ID_SIZE - 1;
    if (is_known) {
        describe(machine, buffer_string(&was), &change);
    }
    const struct agent_network network = {.hostname = json_text(machine->config, "hostname"),
                                          .interfaces = change.interfaces,
                                          .interface_count = change.count};
    hash_bytes(machine->id, strlen(machine->id), machine_id);
    machine_id[32] = '\0';
    agent_renew(machine->agent, machine_id, is_known ? &network : NULL, on_renewed, renewing);
}
