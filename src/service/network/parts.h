/* What the files of this room share. */
#ifndef SERVICE_NETWORK_PARTS_H
#define SERVICE_NETWORK_PARTS_H

#include <sqlite3.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/list.h"
#include "base/map.h"

#include "engine/net/dns.h"
#include "engine/net/flows.h"
#include "engine/net/net.h"
#include "engine/net/rules.h"

#include "service/network/network.h"

enum {
    NETWORK_SCHEMA = 7,
    NETWORK_SETTINGS_SCHEMA = 8, /* description, dns */
    NETWORK_GROUPS_MAX = 8,      /* of an interface */
    NETWORK_GROUP_RULES_MAX = 128,
    NETWORK_MTU_DEFAULT = 1450, /* a tunnel between nodes takes 50 bytes of 1500 */
    NETWORK_PREFIX_MIN = 8,
    NETWORK_PREFIX_MAX = 29,
    NETWORK_DESCRIPTION_SIZE = 256,
    NETWORK_VNI_MIN = 4096,
    NETWORK_VNI_MAX = (1 << 24) - 1,
};

/* ---- settings.c: what people say, as text.  Pure. ---- */

struct network_range {
    uint32_t address;
    unsigned prefix;
};
static inline uint32_t range_last(const struct network_range *range)
{
    return range->address | ~net_mask(range->prefix);
}

struct network_settings {
    struct network_range subnet; /* prefix 0: to be chosen */
    uint32_t gateway;            /* 0: the first address */
    enum net_mode mode;
    unsigned mtu;
    bool is_peering;
    char dns[NET_DNS_RESOLVERS_SIZE]; /* "9.9.9.9 2620:fe::fe"; "": the nodes' own resolvers */
    char description[NETWORK_DESCRIPTION_SIZE];
};
int settings_parse_network(const json_t *create, struct network_settings *ret_settings,
                           struct error *err);
/* With a subnet: may these be its addresses, this its gateway?  Fills the gateway in. */
int settings_check_subnet(struct network_settings *settings, struct error *err);
const char *settings_mode_text(enum net_mode mode);
bool settings_mode_parse(const char *text, enum net_mode *ret_mode);

/*
 * A subnet of /24 out of 10.64.0.0/10 that overlaps none of `taken`; `skip` of those that would do
 * are left out.  LIMIT: there is none.
 */
int settings_choose_subnet(const struct network_range *taken, size_t count, unsigned skip,
                           struct network_range *ret_range, struct error *err);

enum { RULE_ALLOW_SIZE = 24, RULE_PEER_SIZE = 80 };

/* {"direction": "in", "allow": "tcp/80", "peer": "10.0.0.0/8"}; `allow` is any, icmp, tcp, udp,
 * tcp/PORT or tcp/FIRST-LAST; `peer` (absent or "": anybody) is an address, a range of them or
 * group:NAME. */
struct network_rule {
    bool is_out;
    struct net_rule rule;        /* group: into `peer` */
    char allow[RULE_ALLOW_SIZE]; /* as the state has them: one way to say a thing */
    char peer[RULE_PEER_SIZE];
};
int settings_parse_rule(const char *direction, const char *allow, const char *peer,
                        struct network_rule *ret_rule, struct error *err);

/* ---- plan.c: what this node is to have ---- */

struct plan_segment {
    char key[160]; /* of its network */
    char bridge[NET_NAME_SIZE];
    char vxlan[NET_NAME_SIZE];
    uint8_t mac[NET_MAC_SIZE];
    struct network_range subnet;
    uint32_t gateway;
    enum net_mode mode;
    unsigned zone;
    unsigned mtu;
    uint32_t vni;
    uint32_t *remotes;
    size_t remote_count;
    struct net_vxlan_entry *entries;
    size_t entry_count;
    char dns[NET_DNS_RESOLVERS_SIZE];
    bool has_groups;    /* what its machines send each other is filtered, too */
    struct error error; /* of making it so */
};

struct plan_port {
    char tap[NET_NAME_SIZE];
    char machine[20];
    size_t segment;
    uint8_t mac[NET_MAC_SIZE];
    uint32_t address;
    char groups[NETWORK_GROUPS_MAX * 65 + 2]; /* " web db " */
    char project[64];
    struct error error;
};

struct plan_home { /* where a machine was when the plan was made */
    char machine[20];
    uint64_t node; /* hash of its name */
};

struct plan {
    struct plan_home *homes;
    size_t home_count;
    char owner[NET_OWNER_SIZE];
    bool is_first;     /* since the start: what an earlier daemon left is looked for */
    uint32_t local;    /* this node's address; 0: it has none that others could reach */
    char problem[200]; /* why */
    bool has_others;   /* nodes */
    struct plan_segment *segments;
    size_t segment_count;
    struct plan_port *ports;
    size_t port_count;
    struct net_published *published;
    size_t published_count;
    struct net_group *groups;
    size_t group_count;
    /* By port: what of it goes into engine/net. */
    struct net_rule **ingress;
    size_t *ingress_count;
    struct net_rule **egress;
    size_t *egress_count;
    uint32_t *nodes; /* addresses of all */
    size_t node_count;
    bool counts_flows;
    uint64_t flows_digest; /* of what is counted: before, and after */
    bool are_flows_new;    /* counting began anew, and this is what was counted: */
    struct net_flow *flows;
    size_t flow_count;
    struct error flows_problem; /* nothing is counted, and the rest is good */
    struct error error;         /* of all of it */
};

struct network_service {
    struct network_options options;
    char *node_name;
    char owner[NET_OWNER_SIZE];
    struct store_watch *watch;
    struct cluster_listener *listener;
    struct loop_timer *timer;
    struct list waiting;                 /* struct settling, for a pass that has not begun */
    struct list passing;                 /* for the one that runs */
    struct net_rules_watch *rules_watch; /* NULL: no network was here yet */
    struct list served;                  /* bridges with DHCP and names: serve.c */
    struct list expected;                /* machines of other nodes: come.c */
    struct map flow_marks;               /* "ADDRESS PEER": bytes when it was read last */
    struct buffer flowed;                /* struct network_flow, that nobody has asked for yet */
    uint64_t flow_epoch;                 /* how often counting began anew */
    uint64_t flows_digest;               /* 0: nothing is counted */
    char flows_problem[200];
    unsigned pending;
    struct plan *running; /* a thread has it */
    struct plan *applied; /* as it came out, or NULL */
    struct net_probe probe;
    bool is_probed;
    bool is_dirty;
    bool is_over;
};

/* Read it from the state. */
struct plan *plan_new(struct network_service *service, struct error *err);
void plan_free(struct plan *plan);
void plan_tap_name(const char *machine_id, unsigned nic, char ret_name[NET_NAME_SIZE]);
void plan_gateway_mac(uint32_t vni, uint8_t ret_mac[NET_MAC_SIZE]);

/* ---- apply.c ---- */
/* Make it so; of a pool's thread.  Errors are in the plan. */
void plan_apply(struct plan *plan);

/* ---- flows.c ---- */
void flows_take_plan(struct network_service *service, struct plan *plan);

/* ---- serve.c ---- */
/* Serve on the bridges of this plan and on no others; errors are in its segments. */
void serve_update(struct network_service *service, struct plan *plan);
void serve_end(struct network_service *service);

/* ---- request.c ---- */
/* NOT_FOUND; CONFLICT names the machines that are in it, and says `advice`. */
int network_check_unused(struct network_service *service, const char *key, const char *project,
                         const char *name, const char *advice, struct error *err);

/* ---- come.c ---- */
bool come_is_expected(const struct network_service *service, const char *machine_id);
/* Their ids with spaces around each; the caller's. */
char *come_list(const struct network_service *service);
void come_forget_all(struct network_service *service);

/* ---- network.c ---- */
/* Something has changed: soon. */
void network_reconcile(struct network_service *service);
int network_check_here(struct network_service *service, struct error *err);
int network_check_schema(const struct network_service *service, struct error *err);
/* Answer later. */
void network_answer(struct network_service *service, const struct error *error, network_done *done,
                    void *context);

#endif
