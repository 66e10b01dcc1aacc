/*
 * Learnt data accesses: who exchanges data with whom, and how much.
 *
 * Each node looks from time to time at what the kernel has counted for its machines (service/
 * network), and at what its functions have exchanged with whom (service/fetch).  Addresses become
 * machines, by their leases and published ports, or nodes; those of nobody here are forgotten.  Of
 * each machine and function a few peers are kept, with a rate that forgets exponentially
 * (learn.h).
 *
 * What was learnt is in the state, so that whoever decides has it, also of a node that is gone
 * (decision 0047).  It is written when it is news: another peer that matters, or twice or half as
 * much as was said; never sooner than TRAFFIC_QUIET_LOOKS looks after the last time, all of a node
 * in one command.  After a start of the daemon it is learnt anew; what is in the state stays until
 * something else was learnt.  Of a machine that does not run the last word stays.
 *
 * What is on every node anyway is no access: the state, queues, streams, keys and values; nor are
 * functions that call functions, whose calls go to the nearest node that has them.
 *
 * Main loop thread.
 */
#ifndef SERVICE_TRAFFIC_TRAFFIC_H
#define SERVICE_TRAFFIC_TRAFFIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cluster;
struct error;
struct fetch_service;
struct json_writer;
struct loop;
struct network_service;
struct store;
struct traffic_service;

enum {
    TRAFFIC_PEERS_MAX = 8, /* that are told of a machine or function, those with the most */
    TRAFFIC_PEER_SIZE = 160,
    TRAFFIC_FIRST_LOOKS = 2,   /* before anything is told, since the start */
    TRAFFIC_QUIET_LOOKS = 5,   /* between two words about the same one */
    TRAFFIC_MEMORY_LOOKS = 10, /* after so many a rate has forgotten two thirds of what was */
};

struct traffic_options {
    struct loop *loop;
    struct store *store;
    struct cluster *cluster;
    struct network_service *networks;
    const char *node_name; /* lent for good */
    uint64_t every_ms;     /* between looks; 0: nothing is learnt */
};

struct traffic_service *traffic_service_new(const struct traffic_options *options);
void traffic_service_free(struct traffic_service *service);

/* Whom functions reach is asked there, from now on; NULL: no more. */
void traffic_set_fetches(struct traffic_service *service, struct fetch_service *fetches);

/* ---- What was learnt, of the state: on any node ---- */

enum traffic_kind { TRAFFIC_MACHINE, TRAFFIC_NODE };

struct traffic_peer {
    enum traffic_kind kind;
    char id[TRAFFIC_PEER_SIZE]; /* id of a machine, name of a node */
    uint64_t bytes_per_second;
};

/* The most first.  None: nothing was learnt. */
size_t traffic_of_machine(struct store *store, const char *machine_id,
                          struct traffic_peer ret_peers[TRAFFIC_PEERS_MAX]);
/* `function`: PROJECT/NAME; of all nodes together. */
size_t traffic_of_function(struct store *store, const char *function,
                           struct traffic_peer ret_peers[TRAFFIC_PEERS_MAX]);

/* Members "accesses", a list of LearntAccess, and "accesses_at", when it was written last; the
 * latter is missing while nothing was learnt. */
void traffic_write_machine(struct store *store, const char *machine_id, const char *project,
                           const char *node, struct json_writer *writer);
void traffic_write_function(struct store *store, const char *function, struct json_writer *writer);

void traffic_write_metrics(struct traffic_service *service, bool is_openmetrics,
                           struct buffer *out);

#endif
