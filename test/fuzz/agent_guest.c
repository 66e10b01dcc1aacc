/*
 * What may come to the agent's port, from a host or from the rest of an earlier session.
 *
 * The input is frames, as in agent_protocol: type, operation or stream, id, two bytes of length,
 * the payload; type 0 is bytes as they are.  Operations are stood in for: what they would read of
 * the request is read, nothing is done.  Claims: no byte outside is read, each request that is
 * well-formed is begun or answered, and the link can be freed.
 */
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

#include "guest/agent/private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct shared page;
struct shared *shared = &page;
uint64_t disk_thaw_at_ms;
static uint64_t begun;

static int look(struct agent_reader request, struct error *err)
{
    char text[TEXT_MAX];
    for (int tag = 0; tag < AGENT_TAGS; tag++) {
        begun += request_number(request, (enum agent_tag)tag, 0);
        if (request_text(request, (enum agent_tag)tag, "", text, err) == 0) {
            CHECK(strnlen(text, sizeof(text)) < sizeof(text));
        }
    }
    *err = (struct error){0};
    return 0;
}

#define STAND_IN(name)                                                    \
    int name(struct work *work, struct buffer *answer, struct error *err) \
    {                                                                     \
        (void)answer;                                                     \
        return look(work->request, err);                                  \
    }
STAND_IN(file_put)
STAND_IN(file_get)
STAND_IN(file_stat)
STAND_IN(tar_pack)
STAND_IN(tar_unpack)
STAND_IN(disk_mount)
STAND_IN(disk_unmount)
STAND_IN(disk_grow)
STAND_IN(disk_sync)
STAND_IN(disk_freeze)
STAND_IN(check_service)
STAND_IN(function_begin)
STAND_IN(function_invoke)
STAND_IN(function_tunnel)

uint64_t disk_thaw_now(void)
{
    return 0;
}

int network_set(struct agent_reader request, struct error *err)
{
    return look(request, err);
}

int clock_set(struct agent_reader request, struct error *err)
{
    return look(request, err);
}

int entropy_add(struct agent_reader request, struct error *err)
{
    return look(request, err);
}

int power_begin(struct agent_reader request, struct error *err)
{
    return look(request, err);
}

int info_put(struct buffer *answer, uint64_t nonce, unsigned spoken)
{
    agent_put_number(answer, AGENT_NONCE, nonce);
    agent_put_number(answer, AGENT_SPOKEN, spoken);
    return 0;
}

int metrics_put(struct buffer *answer)
{
    agent_put_number(answer, AGENT_UPTIME_MS, 1);
    return 0;
}

uint64_t now_ms(void)
{
    return 1;
}

int job_begin_work(struct link *link, uint32_t id, unsigned operation, work_run *run,
                   struct agent_reader request, struct error *err)
{
    BUFFER_OWNED struct buffer answer = {0};
    struct work work = {.request = request, .in = -1, .out = -1, .result = -1};
    CHECK(operation < AGENT_OPERATIONS);
    int r = run(&work, &answer, err);
    link_answer(link, id, r < 0 ? err : NULL, &answer);
    return 0;
}

int job_begin_exec(struct link *link, uint32_t id, struct agent_reader request, struct error *err)
{
    look(request, err);
    link_answer(link, id, NULL, NULL);
    return 0;
}

struct job *job_find(struct link *link, uint32_t id)
{
    (void)link;
    (void)id;
    return NULL;
}

void job_take_data(struct job *job, const struct agent_frame *frame)
{
    CHECK(job == NULL && frame == NULL);
}

void job_take_credit(struct job *job, const struct agent_frame *frame)
{
    CHECK(job == NULL && frame == NULL);
}

void job_control(struct job *job, struct agent_reader request)
{
    CHECK(job == NULL && request.left == 0);
}

void job_cancel(struct job *job)
{
    CHECK(job == NULL);
}

void job_abandon(struct job *job)
{
    CHECK(job == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { FRAMES_MAX = 24, READABLE = 1 };
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    struct list links;
    list_init(&links);
    struct link *link = link_new(NULL, ends[0]);
    list_push_back(&links, &link->node);
    for (int i = 0; i < FRAMES_MAX && size >= 5; i++) {
        BUFFER_OWNED struct buffer out = {0};
        const struct agent_frame_head head = {.type = data[0] % (AGENT_FRAME_TYPES + 1),
                                              .operation = data[1] % (AGENT_OPERATIONS + 1),
                                              .id = data[2]};
        size_t length = (size_t)(data[3] | data[4] << 8);
        data += 5;
        size -= 5;
        length = length < size ? length : size;
        if (head.type == 0) {
            buffer_append(&out, data, length);
        } else {
            agent_frame_append(&out, &head, data, length);
        }
        ssize_t sent = send(ends[1], out.data, out.used, MSG_NOSIGNAL);
        (void)sent;
        link_ready(link, READABLE, 1);
        uint8_t bytes[65536];
        while (recv(ends[1], bytes, sizeof(bytes), 0) > 0) {
        }
        data += length;
        size -= length;
    }
    link_free(link);
    close(ends[1]);
    return 0;
}
