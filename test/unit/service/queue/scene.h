/* A queue service on a store of its own, in virtual time. */
#ifndef TEST_UNIT_SERVICE_QUEUE_SCENE_H
#define TEST_UNIT_SERVICE_QUEUE_SCENE_H

#include "base/error.h"
#include "base/loop/loop.h"

#include "engine/store/store.h"

#include "service/queue/queue.h"

#include "test/lib/test.h"

enum { GOT_MAX = 64 };

struct got {
    uint64_t id;
    char receipt[QUEUE_RECEIPT_SIZE];
    char body[64];
    char group[32];
    char source[32];
    uint64_t receives;
};

struct scene {
    struct loop *loop;
    struct store *store;
    struct queue_service *service;
    bool is_over;
    struct error error; /* of the last call */
    struct error errors[GOT_MAX];
    uint64_t count;
    struct queue_sent sent[GOT_MAX];
    struct got got[GOT_MAX];
    size_t got_count;
};

extern uint64_t scene_now_ms;

void scene_open(struct scene *scene);
void scene_close(struct scene *scene);
void scene_wait(struct scene *scene); /* until the last call was answered */
enum error_kind scene_create(struct scene *scene, const char *name,
                             const struct queue_settings *settings);
enum error_kind scene_send(struct scene *scene, const char *name,
                           const struct queue_outgoing *message);
enum error_kind scene_send_text(struct scene *scene, const char *name, const char *text);
size_t scene_receive(struct scene *scene, const char *name, size_t max);
enum error_kind scene_settle(struct scene *scene, const char *name, enum queue_settling settling,
                             const char *receipt, uint64_t time_ms);
struct queue_status scene_status(struct scene *scene, const char *name);
void scene_on_received(const struct error *error, const struct queue_message *messages,
                       size_t count, void *context);
void scene_on_reply(const struct error *error, void *context);
void scene_on_count(const struct error *error, uint64_t count, void *context);

#endif
