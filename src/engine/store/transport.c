#include "engine/store/transport.h"

static int transport_init(struct raft_uv_transport *transport, raft_id id, const char *address)
{
    (void)transport;
    (void)id;
    (void)address;
    return 0;
}

static int transport_listen(struct raft_uv_transport *transport, raft_uv_accept_cb accept)
{
    (void)transport;
    (void)accept;
    return 0;
}

static int transport_connect(struct raft_uv_transport *transport, struct raft_uv_connect *request,
                             raft_id id, const char *address, raft_uv_connect_cb done)
{
    (void)transport;
    (void)request;
    (void)id;
    (void)address;
    (void)done;
    return RAFT_NOCONNECTION;
}

static void transport_close(struct raft_uv_transport *transport, raft_uv_transport_close_cb done)
{
    done(transport);
}

void transport_to_nobody(struct raft_uv_transport *ret_transport)
{
    *ret_transport = (struct raft_uv_transport){
        .init = transport_init,
        .listen = transport_listen,
        .connect = transport_connect,
        .close = transport_close,
    };
}
