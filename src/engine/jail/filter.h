/* Private to the room: the system call filters. */
#ifndef ENGINE_JAIL_FILTER_H
#define ENGINE_JAIL_FILTER_H

#include "engine/jail/jail.h"

/* Load a filter into the calling thread and those it makes; 0, or -errno. */
int filter_load(enum jail_filter filter);

/* Make the filter of tools, once, before forking: filter_load() then allocates nothing for it,
 * which a child of a process with threads must not do. */
void filter_prepare_tools(void);

#endif
