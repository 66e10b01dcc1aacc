/*
 * store-bench [--json FILE] [--seconds N]: writes per second and their latency at 1, 16
 * and 64 outstanding, through the store's door on the node that leads.  A write replaces 200 bytes
 * of one of 1000 rows; it counts when the store says that it is committed and visible.  The log is
 * on the disk below $TMPDIR, with its fsync.
 *
 * With several nodes each is a process with a loop and a store of its own; they talk through
 * mutual TLS on loopback, as in the product.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/certificate.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/stream/stream.h"
#include "base/stream/tls.h"

#include "engine/store/store.h"

enum { SAMPLES_MAX = 1 << 20, ROWS = 1000, VALUE_BYTES = 200, WARM_UP_MS = 300, NODES_MAX = 5 };

static const unsigned outstandings[] = {1, 16, 64};
enum { OUTSTANDINGS = sizeof(outstandings) / sizeof(outstandings[0]) };

struct figure {
    double writes_per_second;
    double p50_us;
    double p99_us;
    uint64_t refused;
};

struct load {
    struct loop *loop;
    struct store *store;
    struct loop_timer *timer;
    unsigned in_flight;
    bool is_warm;
    bool is_over;
    uint64_t begun_us;
    uint64_t written;
    uint64_t refused;
    uint64_t sequence;
    uint32_t *samples_us;
    size_t sample_count;
};

struct write {
    struct load *load;
    uint64_t begun_us;
};

static void fail(const struct error *err)
{
    fprintf(stderr, "store-bench: %s\n", err->text);
    exit(EXIT_FAILURE);
}

/* ---- Writing ---- */

static void write_one(struct load *load);

static void on_written(const struct error *error, uint64_t index, void *context)
{
    struct write *write = context;
    struct load *load = write->load;
    uint64_t now_us = clock_monotonic_ns() / 1000;
    (void)index;
    load->in_flight--;
    if (error != NULL) {
        load->refused++;
    } else if (load->is_warm) {
        load->written++;
        if (load->sample_count < SAMPLES_MAX) {
            load->samples_us[load->sample_count++] = (uint32_t)(now_us - write->begun_us);
        }
    }
    free(write);
    if (!load->is_over) {
        write_one(load);
    } else if (load->in_flight == 0) {
        loop_stop(load->loop);
    }
}

static void write_one(struct load *load)
{
    char key[32];
    char value[VALUE_BYTES + 1];
    struct write *write = NEW(struct write);
    struct store_command *command = store_command_new();
    snprintf(key, sizeof(key), "bench-%" PRIu64, load->sequence++ % ROWS);
    memset(value, (int)('a' + load->sequence % 26), VALUE_BYTES);
    value[VALUE_BYTES] = '\0';
    store_command_add(
        command,
        "INSERT INTO operation (key, kind, project, resource, state, progress, result, created_ms, "
        "updated_ms) VALUES (?, 'bench', 'default', '', 'succeeded', 0, ?, 0, 0) "
        "ON CONFLICT (key) DO UPDATE SET result = excluded.result",
        "tt", key, value);
    write->load = load;
    write->begun_us = clock_monotonic_ns() / 1000;
    load->in_flight++;
    store_propose(load->store, command, on_written, write);
}

static void on_time(void *context)
{
    struct load *load = context;
    if (load->is_warm) {
        load->is_over = true;
        return;
    }
    load->is_warm = true;
    load->begun_us = clock_monotonic_ns() / 1000;
}

static int compare_samples(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left;
    uint32_t b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static struct figure measure(struct loop *loop, struct store *store, unsigned outstanding,
                             uint64_t measured_ms)
{
    struct load load = {.loop = loop, .store = store};
    load.samples_us = memory_new(SAMPLES_MAX, sizeof(uint32_t));
    load.timer = loop_timer_new(loop, on_time, &load);
    for (unsigned i = 0; i < outstanding; i++) {
        write_one(&load);
    }
    loop_timer_start(load.timer, WARM_UP_MS);
    while (!load.is_warm) {
        uv_run(loop_uv(loop), UV_RUN_ONCE);
    }
    loop_timer_start(load.timer, measured_ms);
    while (!load.is_over || load.in_flight > 0) { /* the store stops the loop for ends of its own */
        loop_run(loop);
    }
    double seconds = (double)(clock_monotonic_ns() / 1000 - load.begun_us) / 1e6;
    qsort(load.samples_us, load.sample_count, sizeof(uint32_t), compare_samples);
    struct figure figure = {
        .writes_per_second = (double)load.written / seconds,
        .refused = load.refused,
    };
    if (load.sample_count > 0) {
        figure.p50_us = load.samples_us[load.sample_count / 2];
        figure.p99_us = load.samples_us[load.sample_count * 99 / 100];
    }
    loop_timer_free(load.timer);
    free(load.samples_us);
    return figure;
}

/* ---- One node ---- */

static void measure_all(struct loop *loop, struct store *store, uint64_t measured_ms,
                        struct figure *ret_figures)
{
    for (size_t i = 0; i < OUTSTANDINGS; i++) {
        ret_figures[i] = measure(loop, store, outstandings[i], measured_ms);
    }
}

static void bench_alone(const char *folder, uint64_t measured_ms, struct figure *ret_figures)
{
    struct error err = {0};
    struct loop *loop = NULL;
    struct store *store = NULL;
    MEMORY_OWNED char *path = memory_format("%s/alone", folder);
    struct store_options options = {.folder = path};
    if (loop_new("store-bench", &loop, &err) < 0 || store_open(loop, &options, &store, &err) < 0) {
        fail(&err);
    }
    measure_all(loop, store, measured_ms, ret_figures);
    store_close(store);
    loop_free(loop);
}

/* ---- Several nodes: a process each ---- */

struct authority {
    struct buffer certificate;
    struct buffer key;
};

/* What the processes see of each other. */
struct shared {
    _Atomic uint16_t ports[NODES_MAX + 1];
    struct figure figures[OUTSTANDINGS];
};

struct peer {
    uint64_t id;
    unsigned nodes;
    struct shared *shared;
    struct loop *loop;
    struct store *store;
    struct tls_context *tls;
    bool was_answered;
};

struct dialing {
    struct peer *peer;
    uint64_t id;
    unsigned lane;
};

static struct tls_context *make_tls(const struct authority *authority, uint64_t id)
{
    struct error err = {0};
    BUFFER_OWNED struct buffer request = {0};
    BUFFER_OWNED struct buffer key = {0};
    BUFFER_OWNED struct buffer certificate = {0};
    struct tls_context *tls = NULL;
    MEMORY_OWNED char *uri = memory_format("spiffe://bench/node/%" PRIu64, id);
    struct certificate_terms terms = {.common_name = "bench",
                                      .uri = uri,
                                      .now_ms = clock_real_ms(),
                                      .lifetime_ms = 86400000,
                                      .is_server = true};
    if (certificate_make_request(&request, &key, &err) < 0 ||
        certificate_sign(buffer_string(&request), (const char *)authority->certificate.data,
                         (const char *)authority->key.data, &terms, &certificate, &err) < 0) {
        fail(&err);
    }
    struct tls_context_options options = {.certificate = buffer_string(&certificate),
                                          .key = buffer_string(&key),
                                          .authority = (const char *)authority->certificate.data,
                                          .verify = TLS_VERIFY_REQUIRED};
    if (tls_context_new(&options, &tls, &err) < 0) {
        fail(&err);
    }
    return tls;
}

static void on_stream(struct stream *owned_stream, void *context)
{
    struct peer *peer = context;
    uint64_t id = 0;
    if (peer->store != NULL &&
        sscanf(stream_peer(owned_stream)->identity, "spiffe://bench/node/%" SCNu64, &id) == 1) {
        store_accept(peer->store, id, owned_stream);
    } else {
        stream_close(owned_stream);
    }
}

static void on_dialed(struct stream *owned_stream, const struct error *error, void *context)
{
    struct dialing *dialing = context;
    (void)error;
    store_dialed(dialing->peer->store, dialing->id, dialing->lane, owned_stream);
    free(dialing);
}

static void dial(uint64_t id, unsigned lane, void *context)
{
    struct peer *peer = context;
    struct dialing *dialing = NEW(struct dialing);
    *dialing = (struct dialing){.peer = peer, .id = id, .lane = lane};
    MEMORY_OWNED char *address = memory_format("127.0.0.1:%u", peer->shared->ports[id]);
    MEMORY_OWNED char *identity = memory_format("spiffe://bench/node/%" PRIu64, id);
    struct stream_dial_options options = {
        .tls = peer->tls, .protocols = STORE_PROTOCOL, .identity = identity};
    stream_dial(peer->loop, address, &options, on_dialed, dialing);
}

static void on_added(const struct error *error, void *context)
{
    struct peer *peer = context;
    if (error != NULL) {
        fail(error);
    }
    peer->was_answered = true;
    loop_stop(peer->loop);
}

/* The first, which leads: takes the others in, then measures. */
static void lead(struct peer *peer, uint64_t measured_ms)
{
    for (uint64_t id = 2; id <= peer->nodes; id++) {
        while (peer->shared->ports[id] == 0) {
            uv_run(loop_uv(peer->loop), UV_RUN_NOWAIT);
        }
        peer->was_answered = false;
        store_add_server(peer->store, id, on_added, peer);
        while (!peer->was_answered) {
            loop_run(peer->loop);
        }
    }
    measure_all(peer->loop, peer->store, measured_ms, peer->shared->figures);
}

static void run_peer(struct peer *peer, const struct authority *authority, const char *folder,
                     uint64_t measured_ms)
{
    struct error err = {0};
    struct stream_listener *listener = NULL;
    uint16_t port = 0;
    MEMORY_OWNED char *path = memory_format("%s/node-%" PRIu64, folder, peer->id);
    struct store_options options = {.folder = path,
                                    .node_id = peer->id,
                                    .joins = peer->id != 1,
                                    .network = {.dial = dial, .context = peer}};
    peer->tls = make_tls(authority, peer->id);
    if (loop_new("store-bench", &peer->loop, &err) < 0 ||
        store_open(peer->loop, &options, &peer->store, &err) < 0 ||
        stream_listen(peer->loop, "127.0.0.1:0", peer->tls, STORE_PROTOCOL, on_stream, peer,
                      &listener, &port, &err) < 0) {
        fail(&err);
    }
    peer->shared->ports[peer->id] = port;
    if (peer->id == 1) {
        if (store_wait(peer->store, 60000, &err) < 0) {
            fail(&err);
        }
        lead(peer, measured_ms);
        _exit(EXIT_SUCCESS); /* what is left of its log is removed with the folder */
    }
    for (;;) {
        loop_run(peer->loop);
    }
}

/* The followers run until their leader has measured. */
static void bench_many(unsigned nodes, const char *folder, uint64_t measured_ms,
                       struct figure *ret_figures)
{
    struct error err = {0};
    struct authority authority = {0};
    pid_t pids[NODES_MAX + 1] = {0};
    struct shared *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED ||
        certificate_make_authority("bench", "spiffe://bench", 1, &authority.certificate,
                                   &authority.key, &err) < 0) {
        fail(&err);
    }
    buffer_string(&authority.certificate);
    buffer_string(&authority.key);
    fflush(stdout);
    for (uint64_t id = 1; id <= nodes; id++) {
        pids[id] = fork();
        if (pids[id] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            struct peer peer = {.id = id, .nodes = nodes, .shared = shared};
            run_peer(&peer, &authority, folder, measured_ms);
        }
    }
    int status = -1;
    waitpid(pids[1], &status, 0);
    for (uint64_t id = 2; id <= nodes; id++) {
        kill(pids[id], SIGKILL);
        waitpid(pids[id], NULL, 0);
    }
    if (status != 0) {
        fprintf(stderr, "store-bench: the leader ended with %d\n", status);
        exit(EXIT_FAILURE);
    }
    memcpy(ret_figures, shared->figures, sizeof(shared->figures));
    munmap(shared, sizeof(*shared));
    buffer_done(&authority.certificate);
    buffer_done(&authority.key);
}

/* ---- What was measured ---- */

static void report(unsigned nodes, const struct figure *figures, struct json_writer *writer)
{
    for (size_t i = 0; i < OUTSTANDINGS; i++) {
        const struct figure *f = &figures[i];
        printf("%5u %12u %12.0f %10.0f %10.0f\n", nodes, outstandings[i], f->writes_per_second,
               f->p50_us, f->p99_us);
        json_write_begin_object(writer);
        json_write_field_u64(writer, "nodes", nodes);
        json_write_field_u64(writer, "outstanding", outstandings[i]);
        json_write_field_double(writer, "writes_per_second", f->writes_per_second);
        json_write_field_double(writer, "p50_us", f->p50_us);
        json_write_field_double(writer, "p99_us", f->p99_us);
        json_write_field_u64(writer, "refused", f->refused);
        json_write_end_object(writer);
    }
}

int main(int argc, char **argv)
{
    struct error err = {0};
    const char *json_path = NULL;
    uint64_t measured_ms = 3000;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--json") == 0) {
            json_path = argv[i + 1];
        } else if (strcmp(argv[i], "--seconds") == 0) {
            measured_ms = strtoull(argv[i + 1], NULL, 10) * 1000;
        }
    }
    const char *temporary = getenv("TMPDIR");
    MEMORY_OWNED char *folder =
        memory_format("%s/blixard-bench-XXXXXX", temporary != NULL ? temporary : "/tmp");
    if (mkdtemp(folder) == NULL) {
        perror("store-bench");
        return EXIT_FAILURE;
    }
    BUFFER_OWNED struct buffer json = {0};
    struct json_writer writer = json_writer_to(&json);
    struct figure figures[OUTSTANDINGS] = {0};
    json_write_begin_array(&writer);
    printf("%5s %12s %12s %10s %10s\n", "nodes", "outstanding", "writes/s", "p50 us", "p99 us");
    bench_many(3, folder, measured_ms, figures); /* first: there is no thread yet to be forked */
    report(3, figures, &writer);
    bench_alone(folder, measured_ms, figures);
    report(1, figures, &writer);
    json_write_end_array(&writer);
    if (json_path != NULL && file_write(json_path, json.data, json.used, 0644, &err) < 0) {
        fail(&err);
    }
    file_remove_tree(folder, &err);
    return EXIT_SUCCESS;
}
