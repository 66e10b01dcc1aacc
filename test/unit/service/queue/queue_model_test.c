/*
 * Goal: whatever is asked, a queue does what a list in memory would do.
 * Method: random commands in virtual time, to a queue with dead letters and to the model; after
 * each, what was received, refused and counted is the same.
 */
#include "test/unit/service/queue/scene.h"

enum { MESSAGES = 400, STEPS = 1500, RECEIVES_MAX = 3, VISIBILITY_MS = 30000 };

struct message {
    uint64_t id;
    int group; /* -1: none */
    unsigned priority;
    uint64_t visible_ms;
    bool is_blocked;
    uint64_t receives;
    char receipt[QUEUE_RECEIPT_SIZE]; /* of the last delivery; "": returned */
    enum { WAITS, DEAD, GONE } state;
};

struct model {
    struct scene scene;
    bool is_fifo;
    uint64_t seed;
    struct message messages[MESSAGES];
    size_t count;
    char old[MESSAGES * 8][QUEUE_RECEIPT_SIZE];
    size_t old_count;
};

static uint64_t roll(struct model *model, uint64_t below)
{
    model->seed = model->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (model->seed >> 33) % below;
}

static bool has_others(const struct model *model, const struct message *message, int state)
{
    for (size_t i = 0; i < model->count; i++) {
        const struct message *other = &model->messages[i];
        if (other != message && (int)other->state == state && other->group == message->group) {
            return true;
        }
    }
    return false;
}

/* The message goes from where it is; the first of those behind it may be taken. */
static void leave(struct model *model, struct message *message)
{
    int state = (int)message->state;
    if (!model->is_fifo || message->is_blocked) {
        return;
    }
    for (size_t i = 0; i < model->count; i++) {
        struct message *other = &model->messages[i];
        if (other != message && (int)other->state == state && other->group == message->group) {
            other->is_blocked = false;
            return;
        }
    }
}

static void die(struct model *model, struct message *message)
{
    leave(model, message);
    message->is_blocked = model->is_fifo && has_others(model, message, DEAD);
    message->state = DEAD;
    message->receipt[0] = '\0';
    message->visible_ms = 0;
}

static void send_one(struct model *model)
{
    static const char *const groups[] = {"a", "b", "c"};
    struct message *message = &model->messages[model->count];
    *message = (struct message){.group = -1};
    struct queue_outgoing outgoing = {.body = "body", .length = 4};
    if (model->is_fifo) {
        message->group = (int)roll(model, 3);
        outgoing.group = groups[message->group];
        message->is_blocked = has_others(model, message, WAITS);
    } else {
        message->priority = outgoing.priority = (unsigned)roll(model, 3);
    }
    if (roll(model, 4) == 0) {
        outgoing.delay_ms = 1 + roll(model, 20000);
        message->visible_ms = scene_now_ms + outgoing.delay_ms;
    }
    EXPECT(scene_send(&model->scene, "work", &outgoing) == ERROR_NONE);
    message->id = model->scene.sent[0].id;
    model->count++;
}

static bool is_before(const struct message *a, const struct message *b)
{
    if (a->priority != b->priority) {
        return a->priority > b->priority;
    }
    return a->visible_ms != b->visible_ms ? a->visible_ms < b->visible_ms : a->id < b->id;
}

/* The next one that may be taken and is not among those that were. */
static struct message *next_of(struct model *model, const bool *is_taken)
{
    struct message *best = NULL;
    for (size_t i = 0; i < model->count; i++) {
        struct message *message = &model->messages[i];
        if (!is_taken[i] && message->state == WAITS && !message->is_blocked &&
            message->visible_ms <= scene_now_ms && (best == NULL || is_before(message, best))) {
            best = message;
        }
    }
    return best;
}

static void receive_some(struct model *model)
{
    size_t max = 1 + roll(model, 5);
    struct message *expected[8];
    size_t count = 0;
    bool goes_on = true;
    while (goes_on) { /* dead ones are put away, and when nothing else was found it looks again */
        bool is_taken[MESSAGES] = {false};
        struct message *dying[8];
        size_t deaths = 0;
        count = 0;
        for (size_t i = 0; i < max; i++) {
            struct message *message = next_of(model, is_taken);
            if (message == NULL) {
                break;
            }
            is_taken[message - model->messages] = true;
            if (message->receives >= RECEIVES_MAX) {
                dying[deaths++] = message;
            } else {
                expected[count++] = message;
            }
        }
        for (size_t i = 0; i < deaths; i++) {
            die(model, dying[i]);
        }
        goes_on = deaths > 0 && count == 0;
    }
    EXPECT(scene_receive(&model->scene, "work", max) == count);
    for (size_t i = 0; i < count; i++) {
        const struct got *got = &model->scene.got[i];
        EXPECT(got->id == expected[i]->id);
        EXPECT(got->receives == expected[i]->receives + 1);
        if (expected[i]->receipt[0] != '\0') {
            memcpy(model->old[model->old_count++], expected[i]->receipt, QUEUE_RECEIPT_SIZE);
        }
        expected[i]->receives++;
        expected[i]->visible_ms = scene_now_ms + VISIBILITY_MS;
        memcpy(expected[i]->receipt, got->receipt, QUEUE_RECEIPT_SIZE);
    }
}

static void settle_one(struct model *model)
{
    struct message *message = model->count > 0 ? &model->messages[roll(model, model->count)] : NULL;
    if (message == NULL || message->receipt[0] == '\0') {
        return;
    }
    char receipt[QUEUE_RECEIPT_SIZE];
    memcpy(receipt, message->receipt, sizeof(receipt));
    uint64_t time_ms = roll(model, 2) * (1 + roll(model, 20000));
    switch (roll(model, 4)) {
    case 0:
        EXPECT(scene_settle(&model->scene, "work", QUEUE_ACK, receipt, 0) == ERROR_NONE);
        leave(model, message);
        message->state = GONE;
        message->receipt[0] = '\0';
        break;
    case 1:
        EXPECT(scene_settle(&model->scene, "work", QUEUE_NACK, receipt, time_ms) == ERROR_NONE);
        message->receipt[0] = '\0';
        message->visible_ms = time_ms > 0 ? scene_now_ms + time_ms : 0;
        if (message->receives >= RECEIVES_MAX) {
            die(model, message);
        }
        break;
    case 2:
        EXPECT(scene_settle(&model->scene, "work", QUEUE_RETURN, receipt, time_ms) == ERROR_NONE);
        message->receipt[0] = '\0';
        message->visible_ms = time_ms > 0 ? scene_now_ms + time_ms : 0;
        message->receives--;
        break;
    default:
        EXPECT(scene_settle(&model->scene, "work", QUEUE_EXTEND, receipt, 1000) == ERROR_NONE);
        message->visible_ms = scene_now_ms + 1000;
        return;
    }
    memcpy(model->old[model->old_count++], receipt, QUEUE_RECEIPT_SIZE);
}

static void settle_late(struct model *model)
{
    if (model->old_count > 0) {
        const char *receipt = model->old[roll(model, model->old_count)];
        enum queue_settling settling = (enum queue_settling)roll(model, 4);
        EXPECT(scene_settle(&model->scene, "work", settling, receipt, 1000) == ERROR_CONFLICT);
    }
}

static void redrive(struct model *model)
{
    uint64_t expected = 0;
    for (size_t i = 0; i < model->count; i++) {
        struct message *message = &model->messages[i];
        if (message->state == DEAD) {
            leave(model, message);
            message->is_blocked = model->is_fifo && has_others(model, message, WAITS);
            message->state = WAITS;
            message->receives = 0;
            expected++;
        }
    }
    queue_redrive(model->scene.service, "default", "work", 0, scene_on_count, &model->scene);
    scene_wait(&model->scene);
    EXPECT(model->scene.error.kind == ERROR_NONE && model->scene.count == expected);
}

static void compare(struct model *model)
{
    uint64_t depth = 0;
    uint64_t in_flight = 0;
    uint64_t dead = 0;
    uint64_t ready = 0;
    for (size_t i = 0; i < model->count; i++) {
        const struct message *message = &model->messages[i];
        bool is_hidden = message->visible_ms > scene_now_ms;
        depth += message->state == WAITS;
        dead += message->state == DEAD;
        in_flight += message->state == WAITS && message->receipt[0] != '\0' && is_hidden;
        ready += message->state == WAITS && !is_hidden && !message->is_blocked;
    }
    struct queue_status status = scene_status(&model->scene, "work");
    EXPECT(status.depth == depth && status.in_flight == in_flight && status.dead == dead);
    EXPECT(status.ready == ready && status.bytes == 4 * depth);
    EXPECT(scene_status(&model->scene, "dead").depth == dead);
}

static void run(bool is_fifo, uint64_t seed)
{
    static struct model model;
    struct queue_settings settings;
    model = (struct model){.is_fifo = is_fifo, .seed = seed};
    scene_open(&model.scene);
    queue_settings_init(&settings);
    settings.is_fifo = is_fifo;
    EXPECT(scene_create(&model.scene, "dead", &settings) == ERROR_NONE);
    settings.dead_letter = "dead";
    settings.receives_max = RECEIVES_MAX;
    EXPECT(scene_create(&model.scene, "work", &settings) == ERROR_NONE);
    for (int step = 0; step < STEPS; step++) {
        uint64_t kind = roll(&model, 100);
        if (kind < 25 && model.count < MESSAGES) {
            send_one(&model);
        } else if (kind < 50) {
            receive_some(&model);
        } else if (kind < 75) {
            settle_one(&model);
        } else if (kind < 85) {
            settle_late(&model);
        } else if (kind < 99) {
            scene_now_ms += roll(&model, 15000);
        } else {
            redrive(&model);
        }
        compare(&model);
    }
    scene_close(&model.scene);
}

TEST(queue_model, a_queue_does_what_a_list_would_do)
{
    run(false, 7);
}

TEST(queue_model, a_queue_does_so_with_other_luck)
{
    run(false, 11);
}

TEST(queue_model, a_fifo_queue_does_what_lists_by_group_would_do)
{
    run(true, 3);
}

TEST(queue_model, a_fifo_queue_does_so_with_other_luck)
{
    run(true, 5);
}
