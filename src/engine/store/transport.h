/* Private to the room: a transport to nobody.  One voter has no peers, and nothing listens. */
#ifndef ENGINE_STORE_TRANSPORT_H
#define ENGINE_STORE_TRANSPORT_H

#include <raft.h>
#include <raft/uv.h>

void transport_to_nobody(struct raft_uv_transport *ret_transport);

#endif
