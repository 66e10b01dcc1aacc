/* The packet filter's library.  Of the room alone; any thread, one at a time: it waits. */
#ifndef ENGINE_NET_NFT_H
#define ENGINE_NET_NFT_H

#include <stdbool.h>

struct error;

/* Have nft(8)'s input done: all of it or nothing.  DENIED, UNSUPPORTED, OS. */
int nft_do(const char *commands, struct error *err);

/* What it says to a command, as text or as JSON; the caller's. */
int nft_ask(const char *command, bool as_json, char **ret_said, struct error *err);

#endif
