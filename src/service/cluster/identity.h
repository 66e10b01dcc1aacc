/*
 * Who this node is in its cluster: the folder FOLDER/cluster, read before the store opens.
 *
 * - node.json: cluster, name of the cluster, id, name, role, whether it voted and has a log, the
 *   newest schema of the state that it has seen, peers
 * - ca.pem: the authority's certificate
 * - node.pem, node.key: this node's certificate and its key
 * - servers.key: 32 bytes that open the sealed CA key; on servers only
 *
 * All 0600, the folder 0700.  The folder comes to be at once, by a rename; a certificate and its
 * key are exchanged so that after a crash one of two whole pairs is there.  What is in node.json
 * and not known is of another version, and left alone until the file is written again.
 */
#ifndef SERVICE_CLUSTER_IDENTITY_H
#define SERVICE_CLUSTER_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/seal.h"

struct error;

enum {
    CLUSTER_ID_SIZE = 33,
    CLUSTER_NAME_SIZE = 64,
    CLUSTER_ADDRESS_SIZE = 128,
    CLUSTER_PEERS_MAX = 1024, /* nodes of a cluster, too */
};

struct identity_peer {
    uint64_t id;
    char name[CLUSTER_NAME_SIZE];
    char address[CLUSTER_ADDRESS_SIZE];
    bool is_server;
};

struct identity {
    char cluster[CLUSTER_ID_SIZE];
    char cluster_name[CLUSTER_NAME_SIZE];
    uint64_t id;
    char name[CLUSTER_NAME_SIZE];
    bool is_server;  /* what its store is now */
    bool has_voted;  /* under this id: it must not lose its log and vote again */
    bool has_log;    /* a server whose store was there: it must not begin with a new one */
    unsigned schema; /* the newest version of the state that it has seen */
    char *authority;
    char *certificate;
    char *key;
    uint8_t servers_key[SEAL_KEY_SIZE];
    bool has_servers_key;
    struct identity_peer *peers; /* the others, as last seen */
    size_t peer_count;
};

void identity_done(struct identity *identity);

/* NOT_FOUND: there is none; CORRUPT: the folder is damaged (which file). */
int identity_read(const char *folder, struct identity *ret_identity, struct error *err);

/* A new one: the folder must not be there (EXISTS). */
int identity_create(const char *folder, const struct identity *identity, struct error *err);

/* What changes: node.json; the certificate with its key; the servers' key (none: removed). */
int identity_write_facts(const char *folder, const struct identity *identity, struct error *err);
int identity_write_certificate(const char *folder, const struct identity *identity,
                               struct error *err);
int identity_write_servers_key(const char *folder, const struct identity *identity,
                               struct error *err);

/* An init that was not carried through. */
int identity_remove(const char *folder, struct error *err);

/* A name of a node as certificates have it, and back; false when it is none of this cluster. */
void identity_format_uri(const char *cluster, uint64_t id, char *ret_uri, size_t size);
bool identity_parse_uri(const char *cluster, const char *uri, uint64_t *ret_id);

#endif
