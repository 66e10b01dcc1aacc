/* Inside engine/net: a UDP socket of one bridge, on the loop. */
#ifndef ENGINE_NET_DATAGRAM_H
#define ENGINE_NET_DATAGRAM_H

#include <stdint.h>
#include <uv.h>

struct error;
struct loop;

/* Bound to the bridge and (0: any) an address and a port; non-blocking, the caller's. */
int datagram_bind(const char *bridge, uint32_t address, uint16_t port, int *ret_fd,
                  struct error *err);

/* Watches a descriptor for something to read. */
struct datagram_watch;
struct datagram_watch *datagram_watch(struct loop *loop, int owned_fd,
                                      void (*readable)(int fd, void *context), void *context);
int datagram_fd(const struct datagram_watch *watch);
/* Closes the descriptor; may be called in `readable`.  Accepts NULL. */
void datagram_unwatch(struct datagram_watch *watch);

#endif
