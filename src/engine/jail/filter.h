/* Private to the room: the system call filters. */
#ifndef ENGINE_JAIL_FILTER_H
#define ENGINE_JAIL_FILTER_H

#include "engine/jail/jail.h"

/* Load a filter into the calling thread and those it makes; 0, or -errno. */
int filter_load(enum jail_filter filter);

#endif
