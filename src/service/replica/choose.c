#include "service/replica/choose.h"

#include <string.h>

/* FNV-1a over both names, and the finalizer of MurmurHash3: nobody gains by being chosen. */
static uint64_t rank(const char *blob, const char *node)
{
    uint64_t digest = UINT64_C(0xcbf29ce484222325);
    for (const char *text = blob; *text != '\0'; text++) {
        digest = (digest ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
    }
    for (const char *text = node; *text != '\0'; text++) {
        digest = (digest ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
    }
    digest = (digest ^ (digest >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    digest = (digest ^ (digest >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return digest ^ (digest >> 33);
}

static bool counts(const struct choose_node *node)
{
    return node->may && (node->has || node->is_chosen);
}

static bool has_domain(const struct choose_node *nodes, size_t count, const char *domain)
{
    for (size_t i = 0; i < count; i++) {
        if (counts(&nodes[i]) && strcmp(nodes[i].domain, domain) == 0) {
            return domain[0] != '\0';
        }
    }
    return false;
}

/* NULL: nobody is left. */
static struct choose_node *best_of(struct choose_node *nodes, size_t count, const char *blob)
{
    struct choose_node *best = NULL;
    bool best_is_new = false;
    uint64_t best_rank = 0;
    for (size_t i = 0; i < count; i++) {
        struct choose_node *node = &nodes[i];
        if (!node->may || node->has || node->cannot || node->is_chosen) {
            continue;
        }
        bool is_new = !has_domain(nodes, count, node->domain);
        uint64_t value = rank(blob, node->name);
        bool is_better = best == NULL || (is_new && !best_is_new) ||
            (is_new == best_is_new &&
             (value > best_rank || (value == best_rank && strcmp(node->name, best->name) < 0)));
        if (is_better) {
            best = node;
            best_is_new = is_new;
            best_rank = value;
        }
    }
    return best;
}

void choose(struct choose_node *nodes, size_t count, const char *blob, uint64_t copies)
{
    uint64_t have = 0;
    for (size_t i = 0; i < count; i++) {
        nodes[i].is_chosen = false;
        have += counts(&nodes[i]);
    }
    struct choose_node *node = NULL;
    while (have < copies && (node = best_of(nodes, count, blob)) != NULL) {
        node->is_chosen = true;
        have++;
    }
}
