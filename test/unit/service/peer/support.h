/* Other nodes as the test wants them: HTTP servers in the clear, and a cluster that names them. */
#ifndef TEST_UNIT_SERVICE_PEER_SUPPORT_H
#define TEST_UNIT_SERVICE_PEER_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/hash.h"
#include "base/http/http.h"
#include "base/loop/loop.h"

#include "service/peer/peer.h"

enum { OTHERS_MAX = 3 };

/* What a node does with GET /v1/blobs/{id}, and how often it was asked. */
struct other {
    uint64_t id;
    struct http_server *server;
    char address[64];
    const uint8_t *blob; /* NULL: it has none */
    size_t blob_length;
    size_t break_at; /* close after so many bytes of an answer; 0: never */
    bool knows_no_range;
    bool holds; /* answers are kept back */
    struct http_exchange *held;
    unsigned requests;
    char last_range[64];
    /* Anything but blobs. */
    http_handler handler;
};

struct scene {
    struct loop *loop;
    struct image_store *images;
    struct peer_clients *clients;
    struct peer_blobs *blobs;
    struct other others[OTHERS_MAX];
};

void scene_open(struct scene *scene);
void scene_close(struct scene *scene);

/* Nobody listens there any more. */
void other_stop(struct other *other);

void run_until(struct scene *scene, const unsigned *counter, unsigned wanted);
/* The loop may be looked at again. */
void scene_wake(struct scene *scene);

#endif
