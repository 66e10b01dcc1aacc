/* What was learnt, as the state has it, for those who decide and for people; and metrics. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/traffic/parts.h"

/* ---- As JSON in the state: [{"machine": "ID", "rate": 123}, {"node": "n2", ...}] ---- */

static const struct {
    const char *key;    /* in the state */
    const char *prefix; /* of a text of parts.h */
} kinds[] = {
    [TRAFFIC_MACHINE] = {"machine", KIND_MACHINE},
    [TRAFFIC_NODE] = {"node", KIND_NODE},
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

void peers_write(const struct learnt *list, size_t count, struct buffer *out)
{
    struct json_writer writer = json_writer_to(out);
    json_write_begin_array(&writer);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < KINDS; k++) {
            size_t length = strlen(kinds[k].prefix);
            if (strncmp(list[i].peer, kinds[k].prefix, length) == 0) {
                json_write_begin_object(&writer);
                json_write_field_string(&writer, kinds[k].key, list[i].peer + length);
                json_write_field_u64(&writer, "rate", list[i].bytes_per_second);
                json_write_end_object(&writer);
            }
        }
    }
    json_write_end_array(&writer);
}

size_t peers_read(const char *text, struct traffic_peer ret_peers[TRAFFIC_PEERS_MAX])
{
    struct error ignored = {0};
    JSON_OWNED json_t *list = NULL;
    size_t count = 0;
    size_t index = 0;
    json_t *item = NULL;
    if (json_read(text, strlen(text), &list, &ignored) < 0) {
        return 0;
    }
    json_array_foreach(list, index, item)
    {
        for (size_t k = 0; k < KINDS && count < TRAFFIC_PEERS_MAX; k++) {
            const char *id = json_text(item, kinds[k].key);
            if (id[0] != '\0') {
                struct traffic_peer *peer = &ret_peers[count++];
                *peer = (struct traffic_peer){.kind = (enum traffic_kind)k,
                                              .bytes_per_second = json_u64(item, "rate")};
                snprintf(peer->id, sizeof(peer->id), "%s", id);
            }
        }
    }
    return count;
}

/* ---- For those who decide ---- */

struct found {
    struct traffic_peer *peers;
    size_t count;
    uint64_t at_ms; /* the newest */
};

/* What several nodes say of one is added up. */
static bool take_row(sqlite3_stmt *row, void *context)
{
    struct found *found = context;
    struct traffic_peer more[TRAFFIC_PEERS_MAX];
    size_t more_count = peers_read(store_text(row, 0), more);
    uint64_t at_ms = (uint64_t)sqlite3_column_int64(row, 1);
    found->at_ms = at_ms > found->at_ms ? at_ms : found->at_ms;
    for (size_t i = 0; i < more_count; i++) {
        size_t at = 0;
        while (at < found->count &&
               (found->peers[at].kind != more[i].kind ||
                strcmp(found->peers[at].id, more[i].id) != 0)) {
            at++;
        }
        if (at < found->count) {
            found->peers[at].bytes_per_second += more[i].bytes_per_second;
        } else if (found->count < TRAFFIC_PEERS_MAX) {
            found->peers[found->count++] = more[i];
        }
    }
    return true;
}

static int by_rate(const void *a, const void *b)
{
    const struct traffic_peer *x = a;
    const struct traffic_peer *y = b;
    if (x->bytes_per_second != y->bytes_per_second) {
        return x->bytes_per_second > y->bytes_per_second ? -1 : 1;
    }
    return x->kind != y->kind ? (x->kind < y->kind ? -1 : 1) : strcmp(x->id, y->id);
}

static struct found find(struct store *store, const char *sql, const char *key,
                         struct traffic_peer *peers)
{
    struct found found = {.peers = peers};
    struct error err = {0};
    if (traffic_is_known(store) && store_query(store, &err, take_row, &found, sql, "t", key) < 0) {
        log_warn("traffic: what was learnt cannot be read: %s", err.text);
    }
    qsort(peers, found.count, sizeof(*peers), by_rate);
    return found;
}

#define OF_MACHINE  "SELECT peers, at_ms FROM machine_traffic WHERE key = ?"
#define OF_FUNCTION "SELECT peers, at_ms FROM function_traffic WHERE function = ? ORDER BY key"

size_t traffic_of_machine(struct store *store, const char *machine_id,
                          struct traffic_peer ret_peers[TRAFFIC_PEERS_MAX])
{
    return find(store, OF_MACHINE, machine_id, ret_peers).count;
}

size_t traffic_of_function(struct store *store, const char *function,
                           struct traffic_peer ret_peers[TRAFFIC_PEERS_MAX])
{
    return find(store, OF_FUNCTION, function, ret_peers).count;
}

/* ---- For people ---- */

struct place {
    char name[TRAFFIC_PEER_SIZE];
    char project[64];
    char node[64];
};

static bool take_place(sqlite3_stmt *row, void *context)
{
    struct place *place = context;
    snprintf(place->name, sizeof(place->name), "%s", store_text(row, 0));
    snprintf(place->project, sizeof(place->project), "%s", store_text(row, 1));
    snprintf(place->node, sizeof(place->node), "%s", store_text(row, 2));
    return false;
}

/* The name and place that a machine has now; false: it is gone. */
static bool find_place(struct store *store, const char *id, struct place *ret_place)
{
    struct error ignored = {0};
    *ret_place = (struct place){.name = ""};
    store_query(store, &ignored, take_place, ret_place,
                "SELECT name, project, node FROM machine WHERE id = ?", "t", id);
    return ret_place->name[0] != '\0';
}

/* Machines of other projects are not named: their node is. */
static void write_peer(struct store *store, const struct traffic_peer *peer, const char *project,
                       const char *node, struct json_writer *writer)
{
    struct place place = {.name = ""};
    enum traffic_kind kind = peer->kind;
    if (kind == TRAFFIC_MACHINE && !find_place(store, peer->id, &place)) {
        return;
    }
    if (kind == TRAFFIC_MACHINE && strcmp(place.project, project) != 0) {
        kind = TRAFFIC_NODE;
        snprintf(place.name, sizeof(place.name), "%s", place.node);
    } else if (kind == TRAFFIC_NODE) {
        snprintf(place.node, sizeof(place.node), "%.63s", peer->id);
    }
    json_write_begin_object(writer);
    json_write_field_string(writer, "kind", kinds[kind].key);
    json_write_field_string(writer, "name", place.name[0] != '\0' ? place.name : peer->id);
    if (place.node[0] != '\0') {
        json_write_field_string(writer, "node", place.node);
    }
    json_write_field_u64(writer, "bytes_per_second", peer->bytes_per_second);
    if (node != NULL && place.node[0] != '\0') {
        json_write_field_bool(writer, "local", strcmp(place.node, node) == 0);
    }
    json_write_end_object(writer);
}

static void write_all(struct store *store, const struct found *found, const char *project,
                      const char *node, struct json_writer *writer)
{
    json_write_key(writer, "accesses");
    json_write_begin_array(writer);
    for (size_t i = 0; i < found->count; i++) {
        write_peer(store, &found->peers[i], project, node, writer);
    }
    json_write_end_array(writer);
    if (found->at_ms > 0) {
        json_write_field_time_ms(writer, "accesses_at", found->at_ms);
    }
}

void traffic_write_machine(struct store *store, const char *machine_id, const char *project,
                           const char *node, struct json_writer *writer)
{
    struct traffic_peer peers[TRAFFIC_PEERS_MAX];
    struct found found = find(store, OF_MACHINE, machine_id, peers);
    write_all(store, &found, project, node, writer);
}

void traffic_write_function(struct store *store, const char *function, struct json_writer *writer)
{
    struct traffic_peer peers[TRAFFIC_PEERS_MAX];
    struct found found = find(store, OF_FUNCTION, function, peers);
    MEMORY_OWNED char *project = memory_copy_text(function, strcspn(function, "/"));
    write_all(store, &found, project, NULL, writer);
}

/* ---- Metrics ---- */

struct measuring {
    struct traffic_service *service;
    struct buffer *out;
};

/* Is what a peer's text names on this node? */
static bool is_here(struct traffic_service *service, const char *peer)
{
    struct place place;
    const char *self = service->options.node_name;
    size_t length = strlen(KIND_MACHINE);
    if (strncmp(peer, KIND_MACHINE, length) == 0) {
        return find_place(service->options.store, peer + length, &place) &&
            strcmp(place.node, self) == 0;
    }
    length = strlen(KIND_NODE);
    return strncmp(peer, KIND_NODE, length) == 0 && strcmp(peer + length, self) == 0;
}

static void measure_one(const char *subject, void *context)
{
    const struct measuring *measuring = context;
    struct traffic_service *service = measuring->service;
    struct learnt top[TRAFFIC_PEERS_MAX];
    struct place place = {.name = ""};
    uint64_t rates[2] = {0, 0};
    size_t length = strlen(KIND_MACHINE);
    size_t count = learn_top(&service->learner, subject, top, TRAFFIC_PEERS_MAX);
    if (strncmp(subject, KIND_MACHINE, length) != 0 ||
        !find_place(service->options.store, subject + length, &place)) {
        return;
    }
    for (size_t i = 0; i < count; i++) {
        rates[is_here(service, top[i].peer) ? 0 : 1] += top[i].bytes_per_second;
    }
    for (size_t i = 0; i < 2; i++) {
        buffer_append_format(measuring->out,
                             "blixard_machine_traffic_bytes_per_second{project=\"%s\",machine="
                             "\"%s\",peers=\"%s\"} %" PRIu64 "\n",
                             place.project, place.name, i == 0 ? "here" : "elsewhere", rates[i]);
    }
}

void traffic_write_metrics(struct traffic_service *service, bool is_openmetrics, struct buffer *out)
{
    struct measuring measuring = {service, out};
    buffer_append_string(
        out,
        "# HELP blixard_machine_traffic_bytes_per_second What a machine of this node exchanges "
        "with machines and nodes that it talks with most, as learnt, by where they are.\n"
        "# TYPE blixard_machine_traffic_bytes_per_second gauge\n");
    learn_each(&service->learner, measure_one, &measuring);
    buffer_append_format(out,
                         "# HELP blixard_traffic_learnt Machines and functions of this node of "
                         "which it is known with whom they exchange data.\n"
                         "# TYPE blixard_traffic_learnt gauge\n"
                         "blixard_traffic_learnt %zu\n",
                         service->learner.subjects.count);
    buffer_append_format(out,
                         "# HELP blixard_traffic_written%s What was news and went to the state.\n"
                         "# TYPE blixard_traffic_written%s counter\n"
                         "blixard_traffic_written_total %" PRIu64 "\n",
                         is_openmetrics ? "" : "_total", is_openmetrics ? "" : "_total",
                         service->written);
}
