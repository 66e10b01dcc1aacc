/* Inside engine/hypervisor: a virtiofsd for each folder of the host that a guest sees. */
#ifndef ENGINE_HYPERVISOR_SHARE_H
#define ENGINE_HYPERVISOR_SHARE_H

#include <sys/types.h>

#include "engine/hypervisor/launch.h"

/* Its path, the caller's; NULL: there is none. */
char *share_find_program(void);

/*
 * In the monitor, as root: start one.  *ret_end is for the VMM, connected; `words` gets what it
 * says. It dies with the monitor.  That the folder is not there it says itself, by ending.
 */
int share_start(const char *program, const struct launch_share *share, int folder,
                const char *folder_path, int words, int *ret_end, pid_t *ret_pid,
                struct error *err);

/* The same, for a VMM that connects by itself, to share->socket in its runner's folder; `uid` is
 * its user. */
int share_start_at(const char *program, const struct launch_share *share,
                   const struct launch_runner *runner, uid_t uid, const char *folder_path,
                   int words, pid_t *ret_pid, struct error *err);

#endif
