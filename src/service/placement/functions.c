/*
 * Which nodes have a function's code: those that its rules allow, in an order that every node finds
 * by itself (what suits better first, then where those are that it was learnt to talk with, then
 * rendezvous), so that nobody has to be told.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "service/placement/parts.h"

struct candidate {
    char name[64];
    double affinity;
    int near; /* tenths of the traffic part: small changes move no copies */
    uint64_t lot;
};

struct choosing {
    const char *version;
    struct candidate *candidates;
    size_t count;
    size_t room;
};

static uint64_t lot_of(const char *version, const char *node)
{
    uint64_t lot = UINT64_C(0xcbf29ce484222325);
    for (const char *at = version; *at != '\0'; at++) {
        lot = (lot ^ (uint8_t)*at) * UINT64_C(0x100000001b3);
    }
    for (const char *at = node; *at != '\0'; at++) {
        lot = (lot ^ (uint8_t)*at) * UINT64_C(0x100000001b3);
    }
    lot ^= lot >> 31; /* names that differ at their ends alone */
    return lot * UINT64_C(0x9e3779b97f4a7c15);
}

static void on_verdict(const struct placement_verdict *verdict, void *context)
{
    struct choosing *choosing = context;
    if (verdict->filter != PLACEMENT_PASSED || choosing->count == choosing->room) {
        return;
    }
    struct candidate *candidate = &choosing->candidates[choosing->count++];
    snprintf(candidate->name, sizeof(candidate->name), "%s", verdict->node_name);
    candidate->affinity = verdict->parts[PLACEMENT_PART_AFFINITY];
    candidate->near = (int)(verdict->parts[PLACEMENT_PART_TRAFFIC] * 10);
    candidate->lot = lot_of(choosing->version, verdict->node_name);
}

static int compare(const void *a, const void *b)
{
    const struct candidate *x = a;
    const struct candidate *y = b;
    if (x->affinity < y->affinity || x->affinity > y->affinity) {
        return x->affinity > y->affinity ? -1 : 1;
    }
    if (x->near != y->near) {
        return x->near > y->near ? -1 : 1;
    }
    return x->lot != y->lot ? (x->lot > y->lot ? -1 : 1) : strcmp(x->name, y->name);
}

static enum placement_function_place judge(const struct placement_service *service,
                                           const struct choosing *choosing, uint64_t copies)
{
    for (size_t i = 0; i < choosing->count; i++) {
        if (strcmp(choosing->candidates[i].name, service->node_name) == 0) {
            return copies == 0 || i < copies ? PLACEMENT_FUNCTION_HERE
                                             : PLACEMENT_FUNCTION_WHEN_CALLED;
        }
    }
    return PLACEMENT_FUNCTION_NOT_HERE;
}

struct talking { /* what the request points into */
    struct traffic_peer peers[TRAFFIC_PEERS_MAX];
    struct placement_talk talks[TRAFFIC_PEERS_MAX];
};

/* `version` is PROJECT/NAME/NUMBER. */
static void take_talks(struct placement_service *service, const char *version,
                       struct talking *talking, struct placement_request *request)
{
    const char *end = strrchr(version, '/');
    MEMORY_OWNED char *function =
        memory_copy_text(version, end != NULL ? (size_t)(end - version) : 0);
    size_t count = traffic_of_function(service->options.store, function, talking->peers);
    asked_talks(talking->peers, count, talking->talks);
    request->talks = talking->talks;
    request->talk_count = count;
}

/* Those that its rules allow by the picture as it is, in no order; the caller frees the list. */
static int find_candidates(struct placement_service *service, json_t *rules,
                           struct choosing *ret_choosing, struct error *err)
{
    struct placement_options options;
    struct placement_request request = {.id = "function"};
    struct talking talking;
    take_talks(service, ret_choosing->version, &talking, &request);
    ret_choosing->room = placement_cluster_node_count(service->cluster);
    ret_choosing->candidates = memory_new(ret_choosing->room + 1, sizeof(struct candidate));
    int r = placement_rules_read(rules, &request.rules, err);
    placement_options_init(&options, PLACEMENT_BALANCED);
    r = r < 0 ? r
              : placement_explain(service->cluster, &request, &options, clock_real_ms(), on_verdict,
                                  ret_choosing, err);
    placement_rules_unref(request.rules);
    return r;
}

enum placement_function_place placement_service_function(struct placement_service *service,
                                                         const char *version, const char *placement)
{
    enum placement_function_place place = PLACEMENT_FUNCTION_HERE;
    JSON_OWNED json_t *rules = NULL;
    struct choosing choosing = {.version = version};
    struct error err = {0};
    picture_update(service);
    int r = json_read(placement, strlen(placement), &rules, &err);
    uint64_t copies = json_u64(rules, "copies");
    json_object_del(rules, "copies");
    if (r == 0 && find_candidates(service, rules, &choosing, &err) == 0) {
        qsort(choosing.candidates, choosing.count, sizeof(struct candidate), compare);
        place = judge(service, &choosing, copies);
    }
    free(choosing.candidates);
    return place;
}

bool placement_service_suits_others(struct placement_service *service, const char *placement)
{
    bool suits = false;
    JSON_OWNED json_t *rules = NULL;
    struct choosing choosing = {.version = ""};
    struct error err = {0};
    picture_update(service);
    int r = json_read(placement, strlen(placement), &rules, &err);
    json_object_del(rules, "copies");
    if (r == 0 && find_candidates(service, rules, &choosing, &err) == 0) {
        for (size_t i = 0; i < choosing.count; i++) {
            suits = suits || strcmp(choosing.candidates[i].name, service->node_name) != 0;
        }
    }
    free(choosing.candidates);
    return suits;
}

int functions_preview(struct placement_service *service, const char *version,
                      const json_t *placement_or_null, struct verdicts *ret_verdicts,
                      char ret_nodes[PLACEMENT_REASON_MAX], struct error *err)
{
    struct choosing choosing = {.version = version};
    struct placement_options options;
    struct placement_request request = {.id = "function"};
    JSON_OWNED json_t *rules =
        placement_or_null != NULL ? json_deep_copy(placement_or_null) : json_object();
    uint64_t copies = json_u64(rules, "copies");
    size_t used = 0;
    struct talking talking;
    take_talks(service, version, &talking, &request);
    json_object_del(rules, "copies");
    ret_nodes[0] = '\0';
    placement_options_init(&options, PLACEMENT_BALANCED);
    int r = find_candidates(service, rules, &choosing, err);
    r = r < 0 ? r : placement_rules_read(rules, &request.rules, err);
    r = r < 0 ? r : verdicts_of(service, &request, &options, ret_verdicts, err);
    qsort(choosing.candidates, choosing.count, sizeof(struct candidate), compare);
    for (size_t i = 0; r == 0 && i < choosing.count && (copies == 0 || i < copies); i++) {
        int written = snprintf(ret_nodes + used, PLACEMENT_REASON_MAX - used, "%s%s",
                               i > 0 ? ", " : "", choosing.candidates[i].name);
        used += written > 0 && used + (size_t)written < PLACEMENT_REASON_MAX ? (size_t)written : 0;
        ret_nodes[used] = '\0';
    }
    placement_rules_unref(request.rules);
    free(choosing.candidates);
    return r;
}
