/* Private to the room: a file system made of what a jail may see. */
#ifndef ENGINE_JAIL_ROOT_H
#define ENGINE_JAIL_ROOT_H

#include "engine/jail/jail.h"

/*
 * In a mount namespace of one's own: replace the root by an empty one with these mounts in it.  0,
 * or -1 with errno; nothing has changed for the caller when it fails before the root was replaced.
 */
int root_replace(const struct jail_mount *mounts, size_t count);

#endif
