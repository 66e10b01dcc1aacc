/*
 * Ties: what is exchanged with whom, and where those are.
 *
 * The traffic part of a score is the share that would stay at the node, of what is exchanged with
 * anybody whose place is known; and it is worth less where that is little: nobody is held by a
 * neighbour to whom he says a few bytes a second.  At RATE_HALF the whole of it is worth a half.
 */
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/map.h"
#include "base/memory.h"

#include "engine/placement/parts.h"

#define RATE_HALF (1024.0 * 1024) /* bytes a second */

static const struct node *find_node(const struct placement_cluster *cluster,
                                    const struct placement_talk *talk)
{
    const struct allocation *with = allocation_find(cluster, talk->with);
    if (talk->with == NULL) {
        return talk->node != NULL ? node_by_id(cluster, talk->node) : NULL;
    }
    return with != NULL ? with->node : NULL;
}

size_t ties_find(const struct placement_cluster *cluster, const struct placement_request *request,
                 struct tie ret_ties[PLACEMENT_TALKS_MAX], double *ret_rate)
{
    size_t count = 0;
    CHECK(request->talk_count <= PLACEMENT_TALKS_MAX);
    *ret_rate = 0;
    for (size_t i = 0; i < request->talk_count; i++) {
        const struct placement_talk *talk = &request->talks[i];
        const struct node *node = find_node(cluster, talk);
        bool is_itself = talk->with != NULL && strcmp(talk->with, request->id) == 0;
        if (node == NULL || is_itself || talk->bytes_per_second == 0) {
            continue;
        }
        size_t at = 0;
        while (at < count && ret_ties[at].node != node) {
            at++;
        }
        if (at == count) {
            ret_ties[count++] = (struct tie){.node = node};
        }
        ret_ties[at].rate += (double)talk->bytes_per_second;
        *ret_rate += (double)talk->bytes_per_second;
    }
    return count;
}

double ties_score(const struct tie *ties, size_t count, double rate, const struct node *node)
{
    for (size_t i = 0; i < count; i++) {
        if (ties[i].node == node) {
            return ties[i].rate / (rate + RATE_HALF);
        }
    }
    return 0;
}

/* ---- Copies ---- */

static char *copy_or_null(const char *text)
{
    return text != NULL ? memory_copy_string(text) : NULL;
}

void talks_copy(struct placement_request *to, const struct placement_talk *talks, size_t count)
{
    CHECK(count <= PLACEMENT_TALKS_MAX);
    struct placement_talk *copy = count > 0 ? memory_new(count, sizeof(*copy)) : NULL;
    for (size_t i = 0; i < count; i++) {
        copy[i] = (struct placement_talk){.with = copy_or_null(talks[i].with),
                                          .node = copy_or_null(talks[i].node),
                                          .bytes_per_second = talks[i].bytes_per_second};
    }
    to->talks = copy;
    to->talk_count = count;
}

void talks_done(struct placement_request *request)
{
    for (size_t i = 0; i < request->talk_count; i++) {
        free((void *)(uintptr_t)request->talks[i].with);
        free((void *)(uintptr_t)request->talks[i].node);
    }
    free((void *)(uintptr_t)request->talks);
    request->talks = NULL;
    request->talk_count = 0;
}

int placement_cluster_set_talks(struct placement_cluster *cluster, const char *id,
                                const struct placement_talk *talks, size_t count, struct error *err)
{
    struct allocation *allocation = allocation_find(cluster, id);
    if (allocation == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "allocation %s", id);
    }
    if (count > PLACEMENT_TALKS_MAX) {
        return error_set(err, ERROR_LIMIT, "allocation %s: at most %d others that it talks with",
                         id, PLACEMENT_TALKS_MAX);
    }
    talks_done(&allocation->request);
    talks_copy(&allocation->request, talks, count);
    return 0;
}
