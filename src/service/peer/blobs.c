/*
 * Blobs from other nodes.
 *
 * A job fetches one blob: it asks node after node, and goes on behind what it has.  What comes is
 * written as it comes; opening what an earlier job left, and the end (digest, fsync, rename) are
 * off the loop.  A job that nobody waits for any more goes on: its blob was wanted a moment ago.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/http/http.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/image.h"

#include "service/peer/inside.h"

enum { NODES_MAX = 256 };

struct job {
    struct list_node link; /* in jobs */
    struct peer_blobs *blobs;
    char id[HASH_TEXT_SIZE];
    uint64_t bytes_max;
    struct list waits;
    bool is_running;
    uint64_t nodes[NODES_MAX];
    size_t node_count;
    size_t at; /* which node is asked */

    struct image_writer *writer;
    uint64_t have;
    uint64_t began_with; /* what was there before this node was asked */
    uint64_t skip;       /* of what comes: the node does not know ranges */
    struct peer_client *client;
    struct http_call *call;
    struct loop_timer *timer;
    int status;
    bool is_whole; /* it says that there is no more than we have */
    bool is_again; /* the node was asked once more, from the beginning */
    bool all_said_no;
    struct error error; /* what is told when no node is left */
    int result;         /* of the work off the loop */
    struct error work_error;
};

struct peer_fetch {
    struct list_node link; /* in the job's waits */
    struct peer_blobs *blobs;
    struct loop_timer *timer; /* when it is there already */
    void (*done)(const struct error *error, void *context);
    void *context;
};

struct peer_blobs {
    struct peer_clients *clients;
    struct image_store *images;
    struct list jobs;
    unsigned running;
    unsigned at_work; /* off the loop */
    bool is_closing;
};

static void ask(struct job *job);
static void next_node(struct job *job);

/* ---- Jobs ---- */

static void job_free(struct job *job)
{
    list_remove(&job->link);
    loop_timer_free(job->timer);
    free(job);
}

static void start_waiting(struct peer_blobs *blobs);

/* Everybody is told; new ones may come meanwhile, and begin another job. */
static void job_end(struct job *job, const struct error *error)
{
    struct peer_blobs *blobs = job->blobs;
    list_remove(&job->link);
    CHECK(blobs->running > 0);
    blobs->running--;
    while (!list_is_empty(&job->waits)) {
        struct peer_fetch *fetch = LIST_FIRST(&job->waits, struct peer_fetch, link);
        list_remove(&fetch->link);
        fetch->done(error, fetch->context);
        loop_timer_free(fetch->timer);
        free(fetch);
    }
    job_free(job);
    start_waiting(blobs);
}

static void leave_client(struct job *job)
{
    if (job->client != NULL) {
        peer_client_leave(job->blobs->clients, job->client);
        job->client = NULL;
    }
}

/* What one node had to say; the last one's is told. */
static void blame(struct job *job, const struct error *error)
{
    job->all_said_no = job->all_said_no && error->kind == ERROR_NOT_FOUND;
    if (error->kind != ERROR_NOT_FOUND) {
        log_warn("peer: fetching blob %.16s...: %s", job->id, error->text);
    }
    if (job->error.kind == ERROR_NONE || error->kind != ERROR_NOT_FOUND) {
        job->error = *error;
    }
}

/* ---- Off the loop ---- */

static void open_work(void *context)
{
    struct job *job = context;
    job->result = image_writer_resume(job->blobs->images, job->id, &job->writer, &job->have,
                                      &job->work_error);
}

static void close_work(void *context)
{
    struct job *job = context;
    char id[HASH_TEXT_SIZE];
    job->result = image_writer_finish(job->writer, id, NULL, &job->work_error);
    job->writer = NULL;
}

static bool back_on_loop(struct job *job)
{
    struct peer_blobs *blobs = job->blobs;
    blobs->at_work--;
    if (blobs->is_closing) {
        loop_stop(blobs->clients->loop);
    }
    return !blobs->is_closing;
}

static void on_opened(void *context)
{
    struct job *job = context;
    if (!back_on_loop(job)) {
        return;
    }
    if (job->result < 0) {
        job_end(job, &job->work_error);
    } else {
        ask(job);
    }
}

static void open_writer(struct job *job)
{
    job->blobs->at_work++;
    loop_work(job->blobs->clients->loop, open_work, on_opened, job);
}

static void on_finished(void *context)
{
    struct job *job = context;
    if (!back_on_loop(job)) {
        return;
    }
    if (job->result == 0) {
        leave_client(job);
        job_end(job, NULL);
        return;
    }
    if (job->work_error.kind != ERROR_CORRUPT) {
        leave_client(job);
        job_end(job, &job->work_error);
        return;
    }
    /* What was there before may be what is wrong: the same node again, for all of it. */
    bool is_others = job->began_with > 0 && !job->is_again;
    job->is_again = is_others;
    if (!is_others) {
        struct error err;
        peer_name_error(job->client, &job->work_error, &err);
        blame(job, &err);
        job->at++;
    }
    leave_client(job);
    open_writer(job);
}

static void finish(struct job *job)
{
    job->blobs->at_work++;
    loop_work(job->blobs->clients->loop, close_work, on_finished, job);
}

/* ---- One node ---- */

static int status_error(const struct job *job, struct error *err)
{
    if (job->status == 404) {
        return error_set(err, ERROR_NOT_FOUND, "it has no blob %.16s...", job->id);
    }
    return error_set(err, ERROR_PROTOCOL, "it answered %d", job->status);
}

/* "bytes 5-9/10": where it goes on, and whether that is where we are. */
static bool range_fits(const struct http_call *call, uint64_t have)
{
    struct text range = http_call_field(call, "Content-Range");
    static const char unit[] = "bytes ";
    size_t skip = sizeof(unit) - 1;
    const char *dash = range.length > 0 ? memchr(range.data, '-', range.length) : NULL;
    uint64_t first = 0;
    return dash != NULL && range.length > skip && memcmp(range.data, unit, skip) == 0 &&
        text_parse_u64(text_of(range.data + skip, (size_t)(dash - range.data) - skip), &first) &&
        first == have;
}

static void on_head(struct http_call *call, int status, void *context)
{
    struct job *job = context;
    job->status = status;
    job->skip = 0;
    if (status == 200) {
        job->skip = job->have;
    } else if (status == 206 && !range_fits(call, job->have)) {
        job->status = 0;
    } else if (status == 416 && job->have > 0) {
        job->is_whole = true;
    }
    loop_timer_start(job->timer, PEER_STALL_MS);
}

static void on_data(struct http_call *call, const void *bytes, size_t length, void *context)
{
    struct job *job = context;
    (void)call;
    loop_timer_start(job->timer, PEER_STALL_MS);
    if ((job->status != 200 && job->status != 206) || job->result < 0) {
        return;
    }
    size_t over = length < job->skip ? length : (size_t)job->skip;
    job->skip -= over;
    const uint8_t *at = (const uint8_t *)bytes + over;
    length -= over;
    if (job->have > job->bytes_max || length > job->bytes_max - job->have) {
        job->result = error_set(&job->work_error, ERROR_TOO_LARGE,
                                "it sends more than the %" PRIu64 " bytes that blob %.16s... has",
                                job->bytes_max, job->id);
        loop_timer_start(job->timer, 0);
        return;
    }
    job->result = image_writer_add(job->writer, at, length, &job->work_error);
    if (job->result < 0) {
        loop_timer_start(job->timer, 0);
        return;
    }
    job->have += length;
}

/* What it has sent is of no use: the next one begins anew. */
static void leave_liar(struct job *job)
{
    struct error named;
    peer_name_error(job->client, &job->work_error, &named);
    blame(job, &named);
    leave_client(job);
    image_writer_abort(job->writer);
    job->writer = NULL;
    job->result = 0;
    job->work_error = (struct error){0};
    job->at++;
    next_node(job);
}

static void on_call_end(struct http_call *call, const struct error *error, void *context)
{
    struct job *job = context;
    struct error err = {0};
    (void)call;
    job->call = NULL;
    loop_timer_stop(job->timer);
    if (job->blobs->is_closing) {
        loop_stop(job->blobs->clients->loop);
        return;
    }
    if (job->result == -ERROR_TOO_LARGE) {
        leave_liar(job);
        return;
    }
    if (job->result < 0) { /* our disk */
        image_writer_abort(job->writer);
        job->writer = NULL;
        leave_client(job);
        job_end(job, &job->work_error);
        return;
    }
    if (job->is_whole || (error == NULL && (job->status == 200 || job->status == 206))) {
        finish(job);
        return;
    }
    if (error == NULL) {
        status_error(job, &err);
        error = &err;
    }
    struct error named;
    peer_name_error(job->client, error, &named);
    blame(job, &named);
    leave_client(job);
    job->at++;
    next_node(job);
}

/* Nothing comes any more, or nothing more is wanted. */
static void on_timer(void *context)
{
    struct job *job = context;
    if (job->call != NULL) {
        http_call_cancel(job->call);
    } else {
        next_node(job);
    }
}

static void ask(struct job *job)
{
    static const struct http_call_events events = {on_head, on_data, on_call_end};
    struct error err = {0};
    job->status = 0;
    job->is_whole = false;
    job->began_with = job->have;
    if (job->at >= job->node_count) {
        job->have > 0 ? image_writer_suspend(job->writer) : image_writer_abort(job->writer);
        job->writer = NULL;
        if (job->all_said_no) {
            error_set(&job->error, ERROR_NOT_FOUND, "no node has blob %s", job->id);
        } else if (job->error.kind != ERROR_CORRUPT && job->error.kind != ERROR_TOO_LARGE) {
            job->error.kind = ERROR_UNAVAILABLE;
        }
        job_end(job, &job->error);
        return;
    }
    if (peer_client_enter(job->blobs->clients, job->nodes[job->at], &job->client, &err) < 0) {
        blame(job, &err);
        job->at++;
        next_node(job);
        return;
    }
    char target[sizeof("/v1/blobs/") + HASH_TEXT_SIZE];
    char range[64];
    const char *const fields[] = {range, NULL};
    snprintf(target, sizeof(target), "/v1/blobs/%s", job->id);
    snprintf(range, sizeof(range), "Range: bytes=%" PRIu64 "-", job->have);
    loop_timer_start(job->timer, PEER_STALL_MS);
    job->call = http_client_call(job->client->http, "GET", target, job->have > 0 ? fields : NULL,
                                 NULL, 0, &events, job);
}

static void next_node(struct job *job)
{
    if (job->writer == NULL) {
        open_writer(job);
    } else {
        ask(job);
    }
}

/* ---- Whom to ask ---- */

static void add_node(struct job *job, const struct cluster_view *view, uint64_t id)
{
    const struct cluster_node *node = cluster_view_find(view, id);
    bool is_good = node != NULL && !node->is_self && job->node_count < NODES_MAX;
    for (size_t i = 0; i < job->node_count && is_good; i++) {
        is_good = job->nodes[i] != id;
    }
    if (is_good) {
        job->nodes[job->node_count++] = id;
    }
}

/* The ones that are said to have it, then the nearest; those that seem to be gone come last. */
static void choose_nodes(struct job *job, const uint64_t *first, size_t first_count)
{
    struct cluster_view *view = peer_view(job->blobs->clients);
    for (size_t i = 0; view != NULL && i < first_count; i++) {
        add_node(job, view, first[i]);
    }
    for (int health = 0; view != NULL && health < CLUSTER_HEALTH_COUNT; health++) {
        for (size_t i = 0; i < view->count; i++) {
            if (view->nodes[i].health == (enum cluster_health)health) {
                add_node(job, view, view->nodes[i].id);
            }
        }
    }
    if (view != NULL) {
        cluster_view_unref(view);
    }
}

static void start_waiting(struct peer_blobs *blobs)
{
    LIST_EACH(node, &blobs->jobs)
    {
        struct job *job = LIST_ITEM(node, struct job, link);
        if (!job->is_running && blobs->running < PEER_FETCHES_MAX && !blobs->is_closing) {
            job->is_running = true;
            blobs->running++;
            loop_timer_start(job->timer, 0);
        }
    }
}

static struct job *job_of(struct peer_blobs *blobs, const char *id)
{
    LIST_EACH(node, &blobs->jobs)
    {
        struct job *job = LIST_ITEM(node, struct job, link);
        if (strcmp(job->id, id) == 0) {
            return job;
        }
    }
    return NULL;
}

static struct job *job_new(struct peer_blobs *blobs, const struct peer_wanted *wanted)
{
    struct job *job = NEW(struct job);
    job->blobs = blobs;
    job->all_said_no = true;
    snprintf(job->id, sizeof(job->id), "%s", wanted->id);
    list_init(&job->waits);
    job->timer = loop_timer_new(blobs->clients->loop, on_timer, job);
    choose_nodes(job, wanted->first, wanted->first_count);
    list_push_back(&blobs->jobs, &job->link);
    return job;
}

/* ---- The door ---- */

static void on_there(void *context)
{
    struct peer_fetch *fetch = context;
    loop_timer_free(fetch->timer);
    fetch->done(NULL, fetch->context);
    free(fetch);
}

uint64_t peer_wanted_bytes(const struct peer_wanted *wanted)
{
    return wanted->bytes_max > 0 ? wanted->bytes_max : PEER_BLOB_BYTES_MAX;
}

struct peer_fetch *peer_fetch_new(struct peer_blobs *blobs, const struct peer_wanted *wanted,
                                  void (*done)(const struct error *error, void *context),
                                  void *context)
{
    struct peer_fetch *fetch = NEW(struct peer_fetch);
    fetch->blobs = blobs;
    fetch->done = done;
    fetch->context = context;
    fetch->timer = loop_timer_new(blobs->clients->loop, on_there, fetch);
    if (image_exists(blobs->images, wanted->id)) {
        loop_timer_start(fetch->timer, 0);
        return fetch;
    }
    uint64_t bytes_max = peer_wanted_bytes(wanted);
    struct job *job = job_of(blobs, wanted->id);
    if (job == NULL) {
        job = job_new(blobs, wanted);
    }
    job->bytes_max = job->bytes_max > bytes_max ? job->bytes_max : bytes_max;
    list_push_back(&job->waits, &fetch->link);
    start_waiting(blobs);
    return fetch;
}

void peer_fetch_free(struct peer_fetch *fetch)
{
    if (fetch != NULL) {
        list_remove(&fetch->link);
        loop_timer_free(fetch->timer);
        free(fetch);
    }
}

struct peer_blobs *peer_blobs_new(struct peer_clients *clients, struct image_store *images)
{
    struct peer_blobs *blobs = NEW(struct peer_blobs);
    blobs->clients = clients;
    blobs->images = images;
    list_init(&blobs->jobs);
    return blobs;
}

static bool is_busy(const struct peer_blobs *blobs)
{
    bool busy = blobs->at_work > 0;
    LIST_EACH(node, &blobs->jobs)
    {
        busy |= LIST_ITEM(node, struct job, link)->call != NULL;
    }
    return busy;
}

void peer_blobs_free(struct peer_blobs *blobs)
{
    if (blobs == NULL) {
        return;
    }
    blobs->is_closing = true;
    LIST_EACH(node, &blobs->jobs)
    {
        struct job *job = LIST_ITEM(node, struct job, link);
        CHECK(list_is_empty(&job->waits));
        loop_timer_stop(job->timer);
        if (job->call != NULL) {
            http_call_cancel(job->call);
        }
    }
    while (is_busy(blobs)) {
        loop_run(blobs->clients->loop); /* what comes back stops it */
    }
    LIST_EACH(node, &blobs->jobs)
    {
        struct job *job = LIST_ITEM(node, struct job, link);
        leave_client(job);
        if (job->writer != NULL) {
            image_writer_suspend(job->writer);
        }
        job_free(job);
    }
    free(blobs);
}
