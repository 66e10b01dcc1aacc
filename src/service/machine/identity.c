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

static void parse_mac(const char *id, uint8_t ret_mac[6])
{
    char text[18];
    unsigned bytes[6] = {0};
    settings_mac(id, text);
    sscanf(text, "%x:%x:%x:%x:%x:%x", &bytes[0], &bytes[1], &bytes[2], &bytes[3], &bytes[4],
           &bytes[5]);
    for (int i = 0; i < 6; i++) {
        ret_mac[i] = (uint8_t)bytes[i];
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
    uint8_t new_mac[6];
    struct agent_interface interface = {.new_mac = new_mac};
    const struct agent_network network = {.interfaces = &interface, .interface_count = 1};
    MEMORY_OWNED char *origin = origin_of(machine);
    struct renewing *renewing = NEW(struct renewing);
    *renewing = (struct renewing){machine, done};
    bool is_known = file_read(origin, MACHINE_ID_SIZE, &was, &err) == 0 &&
        strlen(buffer_string(&was)) == MACHINE_ID_SIZE - 1;
    if (is_known) {
        parse_mac(buffer_string(&was), interface.mac);
        parse_mac(machine->id, new_mac);
    }
    hash_bytes(machine->id, strlen(machine->id), machine_id);
    machine_id[32] = '\0';
    agent_renew(machine->agent, machine_id, is_known ? &network : NULL, on_renewed, renewing);
}
