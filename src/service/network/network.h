/*
 * Networks of machines: who is in which one, at what address, and what may reach whom.
 *
 * A network is a range of IPv4 addresses of a project.  A machine that is made in one gets a lease:
 * an address that nobody else has for as long as the machine is there.  The state decides that, on
 * all nodes alike (PRIMARY KEY (network, address)); a lease goes with the row of its machine.
 *
 * Each node makes true what the state says of its own machines (engine/net): a bridge for each
 * network that one of them is in, with the gateway's address and the same MAC on every node; a tap
 * for each of their leases; one description of the packet filter; a tunnel to the other nodes.  It
 * does so again after each change and after a start: what is there already is left alone, so
 * machines notice nothing.
 *
 * Main loop thread.  Every `done` is called once, later.
 */
#ifndef SERVICE_NETWORK_NETWORK_H
#define SERVICE_NETWORK_NETWORK_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct cluster;
struct error;
struct json_writer;
struct loop;
struct network_service;
struct store;
struct store_command;

struct network_options {
    struct loop *loop;
    struct store *store;
    struct cluster *cluster;
    const char *folder; /* the node's: links of this host that were made for it are known by it */
    const char *node_name;
    bool counts_flows; /* network_read_flows() is asked */
};

int network_service_new(const struct network_options *options, struct network_service **ret_service,
                        struct error *err);
/* Bridges, taps and rules stay: machines go on. */
void network_service_free(struct network_service *service);

typedef void network_done(const struct error *error, uint64_t index, void *context);

/* ---- Networks ---- */

/* A body of type NetworkCreate.  INVALID, EXISTS; CONFLICT: its addresses are another network's,
 * or are in use on this host. */
void network_create(struct network_service *service, const char *project, const json_t *create,
                    network_done *done, void *context);
/* A NetworkUpdate.  INVALID, NOT_FOUND; CONFLICT: its range, gateway and MTU stay while machines
 * are in it, which are named, or the new range is taken. */
void network_update(struct network_service *service, const char *project, const char *name,
                    const json_t *update, network_done *done, void *context);
/* CONFLICT names the machines that are in it. */
void network_delete(struct network_service *service, const char *project, const char *name,
                    network_done *done, void *context);
int network_write(struct network_service *service, const char *project, const char *name,
                  struct buffer *out, struct error *err);
int network_write_list(struct network_service *service, const char *project, struct buffer *out,
                       struct error *err);

/* ---- Security groups: what may reach the machines that are in one ---- */

void network_group_create(struct network_service *service, const char *project, const char *name,
                          network_done *done, void *context);
/* CONFLICT: a machine is in it, or a rule names it. */
void network_group_delete(struct network_service *service, const char *project, const char *name,
                          network_done *done, void *context);
/* A SecurityRule; the same again is a success. */
void network_group_allow(struct network_service *service, const char *project, const char *name,
                         const json_t *rule, network_done *done, void *context);
/* NOT_FOUND: there is no such rule. */
void network_group_revoke(struct network_service *service, const char *project, const char *name,
                          const json_t *rule, network_done *done, void *context);
int network_group_write(struct network_service *service, const char *project, const char *name,
                        struct buffer *out, struct error *err);
int network_group_write_list(struct network_service *service, const char *project,
                             struct buffer *out, struct error *err);

/* ---- For machines ---- */

enum { NETWORK_NICS_MAX = 4 };

/* Add to a command that makes a machine: its leases in `nics`, a list of MachineNetwork.  The
 * command fails with LIMIT (no address is free) or CONFLICT (that one is taken).  INVALID,
 * NOT_FOUND, UNSUPPORTED (this node cannot make bridges: why). */
int network_add_leases(struct network_service *service, struct store_command *command,
                       const char *project, const char *machine_id, const json_t *nics,
                       struct error *err);

struct network_nic {
    char network[64]; /* its name */
    char tap[16];
    uint8_t mac[6];
    char mac_text[18];
    char address[24]; /* 10.64.0.2/24 */
    char gateway[16]; /* "": there is no way out */
    char server[16];  /* of names */
    unsigned mtu;
};
/* The MAC that was given, or, when that is "", that of this interface of this machine, which may be
 * gone. */
void network_choose_mac(const char *given, const char *machine_id, unsigned nic,
                        uint8_t ret_mac[6]);
/* The leases of a machine, in order; none: it has the user-mode network. */
int network_nics(struct network_service *service, const char *machine_id,
                 struct network_nic ret_nics[NETWORK_NICS_MAX], size_t *ret_count,
                 struct error *err);

/* What has gone through a tap of this node: its machine sends what it receives. */
struct network_count {
    char tap[16];
    uint64_t receive_bytes;
    uint64_t receive_packets;
    uint64_t send_bytes;
    uint64_t send_packets;
    uint64_t send_dropped;
};
/* Called once, later; the list is given away: network_counts_free(). */
typedef void network_counted(const struct network_count *owned_counts, size_t count, void *context);
void network_count_links(struct network_service *service, network_counted *done, void *context);
void network_counts_free(const struct network_count *counts);

/* What machines of this node have exchanged with addresses of networks and of nodes since this was
 * asked last, as the kernel counted it (engine/net/flows.h).  `done` is called once, later; the
 * list is lent.  One question at a time. */
struct network_flow {
    uint32_t address; /* of the machine; in host byte order */
    uint32_t peer;
    uint64_t bytes;
};
typedef void network_flowed(const struct network_flow *flows, size_t count, void *context);
void network_read_flows(struct network_service *service, network_flowed *done, void *context);

/* When all that a machine of this node needs is there: before it starts. */
typedef void network_settled(const struct error *error, void *context);
void network_settle(struct network_service *service, const char *machine_id, network_settled *done,
                    void *context);

/* A machine of another node is about to come here, running: what it needs is made before its row
 * says that it is here (network_settle() tells when), and kept until network_expect() takes the
 * word back.  As often as one likes.  UNSUPPORTED: this node cannot make networks; nothing is
 * expected.
 */
int network_expect(struct network_service *service, const char *machine_id, bool is_expected,
                   struct error *err);
/* Could a machine with its leases run on this node?  UNSUPPORTED, why not. */
int network_check_machine(struct network_service *service, const char *machine_id,
                          struct error *err);
/* It runs here now: its networks are told so, some times in the next second. */
void network_announce(struct network_service *service, const char *machine_id);

/* Its addresses and interfaces, as members of a Machine. */
void network_write_machine(struct network_service *service, const char *machine_id,
                           struct json_writer *writer);

/* ---- Published ports ---- */

struct network_publish {
    char address[16]; /* of the host; "": all of IPv4 */
    uint16_t host_port;
    uint16_t guest_port;
    bool is_udp;
};
/* "8080:80", "127.0.0.1:8080:80", "5353:53/udp".  INVALID. */
int network_publish_parse(const char *text, struct network_publish *ret_publish, struct error *err);

#endif
