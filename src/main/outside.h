/* What Linux functions reach outside of their machines: by service/fetch, by its lists. */
#ifndef MAIN_OUTSIDE_H
#define MAIN_OUTSIDE_H

#include "engine/clone/clone.h"

struct fetch_service;

/* `*place` is where the service is, once it is. */
struct clone_tunnel_driver outside_driver(struct fetch_service **place);

#endif
