/*
 * Machines whose node has no room for what they write.  Their VMM holds the write back and stands
 * still (werror=enospc), so that the guest sees no error, which would cost it its file system; it
 * goes on when somebody has made room.
 */
#include <sys/statvfs.h>

#include "base/log.h"

#include "service/machine/parts.h"

#define ROOM_BYTES (UINT64_C(64) << 20)

bool full_note(struct machine *machine)
{
    if (machine->vm == NULL || !hypervisor_is_full(machine->vm) ||
        (machine->state != MACHINE_RUNNING && machine->state != MACHINE_STARTING)) {
        return false;
    }
    log_error("machine %s: the node's disk is full; it stands still until there is room",
              machine->key);
    machine_set_state(machine, MACHINE_PAUSED,
                      "the node's disk is full: it goes on by itself when there is room, and has "
                      "lost nothing");
    return true;
}

/* Where its disk is: so much that it is worth trying. */
bool full_has_room(const struct machine *machine)
{
    struct statvfs status;
    return statvfs(machine->folder, &status) < 0 ||
        (uint64_t)status.f_bavail * status.f_frsize >= ROOM_BYTES;
}
