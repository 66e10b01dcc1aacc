/*
 * The runner's own side: one thread per slot, each with its shell; a control thread for the rest.
 *
 * Order of life: descriptors are inherited, what must be opened is opened, the jail closes, and
 * only then is the first byte of a tenant's touched.
 */
#include "engine/runner/serve.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/jail/jail.h"

enum {
    STACK_BYTES = 256 << 10,
    LOAD_LOG_MAX = 32768,
    ELF_BYTES_MAX = 256 << 20,
    IDLE_MS = 1000,
};

void leave(int status)
{
    _exit(status);
}

ssize_t send_frame(int fd, const struct iovec *parts, size_t count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)parts, .msg_iovlen = count};
    return sendmsg(fd, &message, MSG_NOSIGNAL);
}

/* ---- A slot's call ---- */

bool flush_piece(struct slot *slot, enum frame_type type, const uint8_t *bytes, size_t *length)
{
    struct frame head = {.type = type, .sequence = slot->sequence};
    struct iovec parts[2] = {{&head, sizeof(head)}, {(void *)(uintptr_t)bytes, *length}};
    while (send_frame(slot->fd, parts, 2) < 0) {
        if (errno != EINTR) {
            leave(0);
        }
        if (atomic_load(&slot->cancelled) || type == FRAME_OUTPUT) {
            return false; /* late, or cancelled: the call ends */
        }
    }
    *length = 0;
    return true;
}

static bool on_output(const void *bytes, size_t length, void *context)
{
    struct slot *slot = context;
    uint8_t *output = slot->answer + sizeof(struct frame_end);
    const uint8_t *at = bytes;
    while (length > 0) {
        if (atomic_load(&slot->cancelled)) {
            return false;
        }
        size_t room = PROTOCOL_PIECE - slot->output_length;
        size_t part = length < room ? length : room;
        memcpy(output + slot->output_length, at, part);
        slot->output_length += part;
        at += part;
        length -= part;
        if (slot->output_length == PROTOCOL_PIECE &&
            !flush_piece(slot, FRAME_OUTPUT, output, &slot->output_length)) {
            return false;
        }
    }
    return true;
}

static void on_waits(void *context)
{
    struct slot *slot = context;
    if (slot->output_length > 0) { /* that it cannot be sent is seen when the sleep is over */
        flush_piece(slot, FRAME_OUTPUT, slot->answer + sizeof(struct frame_end),
                    &slot->output_length);
    }
}

static void on_log(const void *bytes, size_t length, void *context)
{
    struct slot *slot = context;
    const uint8_t *at = bytes;
    while (length > 0) {
        size_t room = PROTOCOL_PIECE - slot->log_length;
        size_t part = length < room ? length : room;
        memcpy(slot->log + slot->log_length, at, part);
        slot->log_length += part;
        at += part;
        length -= part;
        if (slot->log_length == PROTOCOL_PIECE &&
            !flush_piece(slot, FRAME_LOG, slot->log, &slot->log_length)) {
            slot->log_length = 0;
        }
    }
}

/* The next INPUT of this call; false when there is none in its time. */
static bool receive_piece(struct slot *slot, uint64_t deadline_ns)
{
    if (serve_host_took(slot)) {
        return true;
    }
    for (;;) {
        ssize_t got = recv(slot->fd, slot->piece, PROTOCOL_FRAME, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            leave(0);
        }
        if (got < 0 && serve_host_is_over(slot, deadline_ns)) {
            return false;
        }
        if (got < 0) {
            serve_host_wait(slot, deadline_ns);
            continue;
        }
        struct frame head;
        if (got < (ssize_t)sizeof(head)) {
            leave(1);
        }
        memcpy(&head, slot->piece, sizeof(head));
        if (head.sequence != slot->sequence || head.type == FRAME_HOST_REPLY) {
            continue;
        }
        if (head.type == FRAME_WAKE) {
            atomic_store(&slot->cancelled, true);
            return false;
        }
        slot->input_ended = head.type == FRAME_INPUT_END;
        slot->piece_used = sizeof(head);
        slot->piece_length = (size_t)got;
        return true;
    }
}

static long on_read(void *bytes, size_t length, uint64_t deadline_ns, void *context)
{
    struct slot *slot = context;
    /* What was written so far may be what the sender waits for. */
    uint8_t *output = slot->answer + sizeof(struct frame_end);
    if (slot->output_length > 0 && !flush_piece(slot, FRAME_OUTPUT, output, &slot->output_length)) {
        return -1;
    }
    while (slot->piece_used == slot->piece_length && !slot->input_ended) {
        if (!receive_piece(slot, deadline_ns) || atomic_load(&slot->cancelled)) {
            return -1;
        }
    }
    size_t left = slot->piece_length - slot->piece_used;
    size_t part = left < length ? left : length;
    memcpy(bytes, slot->piece + slot->piece_used, part);
    slot->piece_used += part;
    return (long)part;
}

/* Make the shell an instance of the call's image; *ret_cold says whether it was not one before. */
static int prepare_shell(struct slot *slot, const char *image_id, bool *ret_cold, struct error *err)
{
    struct server *server = slot->server;
    pthread_mutex_lock(&server->lock);
    struct vmm_image *image = map_get(&server->images, image_id);
    if (image != NULL) {
        vmm_image_ref(image);
    }
    pthread_mutex_unlock(&server->lock);
    if (image == NULL) {
        return error_set(err, ERROR_NOT_FOUND, "the image is not loaded in this runner");
    }
    *ret_cold = slot->image != image;
    if (!*ret_cold) {
        vmm_image_unref(image);
        return 0;
    }
    vmm_image_unref(slot->image);
    slot->image = NULL;
    int r = 0;
    if (slot->shell != NULL && !vmm_shell_fits(slot->shell, image)) {
        vmm_shell_free(slot->shell);
        slot->shell = NULL;
    }
    if (slot->shell == NULL) {
        struct vmm_image_info info;
        vmm_image_info(image, &info);
        r = vmm_shell_new(server->vmm, info.class_bytes, &slot->shell, err);
    }
    if (r == 0) {
        r = vmm_shell_attach(slot->shell, image, err);
    }
    if (r < 0) {
        vmm_image_unref(image);
        return r;
    }
    slot->image = image;
    return 0;
}

static void drop_shell(struct slot *slot)
{
    vmm_shell_free(slot->shell);
    vmm_image_unref(slot->image);
    slot->shell = NULL;
    slot->image = NULL;
}

static void set_running(struct slot *slot, struct vmm_shell *shell)
{
    pthread_mutex_lock(&slot->lock);
    slot->running = shell;
    pthread_mutex_unlock(&slot->lock);
}

static void run_call(struct slot *slot, struct runner_result *result)
{
    const struct frame_invoke *invoke = slot->invoke;
    const uint8_t *behind = slot->received + sizeof(*invoke);
    struct error err = {0};
    uint64_t begin_ns = clock_monotonic_ns();
    if (prepare_shell(slot, invoke->image_id, &result->cold, &err) < 0) {
        result->end = VMM_END_BROKEN;
        snprintf(result->reason, sizeof(result->reason), "%.159s", err.text);
        return;
    }
    result->attach_ns = result->cold ? clock_monotonic_ns() - begin_ns : 0;

    struct vmm_call call = {
        .environment = (const char *)behind,
        .environment_length = invoke->environment_length,
        .input = behind + invoke->environment_length,
        .input_length = invoke->input_length,
        .read = invoke->input_continues ? on_read : NULL,
        .read_context = slot,
        .sink = {.output = on_output, .log = on_log, .waits = on_waits, .context = slot},
        .host = serve_host,
        .host_context = slot,
        .timeout_ms = invoke->timeout_ms,
        .cancelled = &slot->cancelled,
    };
    struct vmm_outcome outcome;
    set_running(slot, slot->shell);
    vmm_shell_run(slot->shell, &call, &outcome);
    set_running(slot, NULL);
    explicit_bzero(slot->received + sizeof(*invoke), invoke->environment_length); /* secrets */
    result->end = outcome.end;
    result->exit_code = outcome.exit_code;
    memcpy(result->reason, outcome.reason, sizeof(result->reason));
    result->run_ns = outcome.run_ns;
    result->exits = outcome.exits;
    result->memory_bytes = outcome.memory_bytes;
    result->output_bytes = outcome.output_bytes;
}

static void send_end(struct slot *slot, const struct runner_result *result)
{
    if (slot->output_length + slot->log_length > PROTOCOL_PIECE) {
        flush_piece(slot, FRAME_LOG, slot->log, &slot->log_length);
    }
    struct frame_end head = {
        .frame = {.type = FRAME_END, .sequence = slot->sequence},
        .result = *result,
        .output_length = (uint32_t)slot->output_length,
        .log_length = (uint32_t)slot->log_length,
    };
    memcpy(slot->answer, &head, sizeof(head));
    struct iovec parts[2] = {{slot->answer, sizeof(head) + slot->output_length},
                             {slot->log, slot->log_length}};
    while (send_frame(slot->fd, parts, 2) < 0) {
        if (errno != EINTR) {
            leave(0);
        }
    }
}

static void begin_call(struct slot *slot)
{
    pthread_mutex_lock(&slot->lock);
    slot->sequence = slot->invoke->frame.sequence;
    atomic_store(&slot->cancelled, slot->cancel_sequence == slot->sequence);
    pthread_mutex_unlock(&slot->lock);
    slot->input_ended = !slot->invoke->input_continues;
    slot->piece_used = slot->piece_length = 0;
    slot->output_length = slot->log_length = 0;
    slot->question_number = 0;
    buffer_done(&slot->early);
}

/* Hold nothing: the image is let go, what it used is washed and given back. */
static void detach(struct slot *slot)
{
    struct error err = {0};
    vmm_image_unref(slot->image);
    slot->image = NULL;
    if (slot->shell != NULL && vmm_shell_attach(slot->shell, NULL, &err) < 0) {
        drop_shell(slot);
    }
}

/* What one call left is for the next one only when it ended as it should. */
static bool keep_memory(const struct slot *slot, const struct runner_result *result)
{
    return slot->invoke->keeps_memory != 0 && result->end == VMM_END_EXIT &&
        result->exit_code == 0 && vmm_shell_keep(slot->shell);
}

static void serve_warm(struct slot *slot)
{
    const struct frame_warm *warm = (const struct frame_warm *)(const void *)slot->received;
    struct error err = {0};
    bool is_cold = false;
    if (warm->image_id[HASH_TEXT_SIZE - 1] != '\0') {
        leave(1);
    }
    if (warm->image_id[0] == '\0') {
        detach(slot);
    } else if (prepare_shell(slot, warm->image_id, &is_cold, &err) < 0) {
        drop_shell(slot); /* the next call will try again, and tell */
    }
}

/* The answer first; the shell is put back afterwards, off the caller's clock. */
static void serve_call(struct slot *slot)
{
    struct runner_result result = {.reset_ns = slot->reset_ns, .reset_pages = slot->reset_pages};
    begin_call(slot);
    run_call(slot, &result);
    send_end(slot, &result);
    pthread_mutex_lock(&slot->lock);
    slot->sequence = 0;
    pthread_mutex_unlock(&slot->lock);

    struct error err = {0};
    if (slot->shell == NULL) {
        return;
    }
    uint64_t begin_ns = clock_monotonic_ns();
    if (result.end != VMM_END_BROKEN && slot->invoke->is_last != 0) {
        detach(slot);
    } else if (result.end != VMM_END_BROKEN && keep_memory(slot, &result)) {
        slot->reset_pages = 0;
    } else if (result.end == VMM_END_BROKEN ||
               vmm_shell_reset(slot->shell, &slot->reset_pages, &err) < 0) {
        drop_shell(slot);
    }
    slot->reset_ns = clock_monotonic_ns() - begin_ns;
}

static bool invoke_is_sound(const struct slot *slot, ssize_t got)
{
    const struct frame_invoke *invoke = slot->invoke;
    return got >= (ssize_t)sizeof(*invoke) && invoke->environment_length <= VMM_ENV_MAX &&
        invoke->input_length <= PROTOCOL_PIECE &&
        (size_t)got == sizeof(*invoke) + invoke->environment_length + invoke->input_length &&
        invoke->image_id[HASH_TEXT_SIZE - 1] == '\0';
}

/* A shell before the first call, so that the first call does not pay for it. */
static void make_first_shell(struct slot *slot)
{
    struct error err = {0};
    if (vmm_shell_new(slot->server->vmm, 0, &slot->shell, &err) < 0) {
        slot->shell = NULL; /* the first call will try again, and tell */
    }
}

/*
 * The next frame of this slot.  When nobody calls for a while the instance shrinks, once, and then
 * waits however long it takes.
 */
static ssize_t receive(struct slot *slot)
{
    ssize_t got = recv(slot->fd, slot->received, PROTOCOL_FRAME, MSG_DONTWAIT);
    if (got >= 0 || errno != EAGAIN) {
        return got;
    }
    struct pollfd polled = {.fd = slot->fd, .events = POLLIN};
    if (slot->image != NULL && slot->is_awake && poll(&polled, 1, IDLE_MS) == 0) {
        struct error err = {0};
        slot->is_awake = false;
        if (vmm_shell_rest(slot->shell, &err) < 0) {
            drop_shell(slot);
        }
    }
    return recv(slot->fd, slot->received, PROTOCOL_FRAME, 0);
}

static void *slot_main(void *argument)
{
    struct slot *slot = argument;
    char name[16];
    snprintf(name, sizeof(name), "slot-%u", slot->index);
    pthread_setname_np(pthread_self(), name);
    if (slot->index == 0) {
        make_first_shell(slot);
    }
    for (;;) {
        ssize_t got = receive(slot);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            leave(0);
        }
        struct frame head = {0};
        memcpy(&head, slot->received, (size_t)got < sizeof(head) ? (size_t)got : sizeof(head));
        if (head.type == FRAME_INPUT || head.type == FRAME_INPUT_END ||
            head.type == FRAME_HOST_REPLY || head.type == FRAME_WAKE) {
            continue; /* of a call that did not read it all */
        }
        if (head.type == FRAME_WARM && got == sizeof(struct frame_warm)) {
            serve_warm(slot);
            slot->is_awake = true;
            continue;
        }
        if (head.type != FRAME_INVOKE || !invoke_is_sound(slot, got)) {
            leave(1);
        }
        serve_call(slot);
        slot->is_awake = true;
    }
}

/* ---- Control ---- */

struct loading {
    struct server *server;
    struct frame_load request;
    int elf_fd;
    struct buffer log;
};

static void on_load_log(const void *bytes, size_t length, void *context)
{
    struct buffer *log = context;
    size_t room = log->used < LOAD_LOG_MAX ? LOAD_LOG_MAX - log->used : 0;
    buffer_append(log, bytes, length < room ? length : room);
}

static int load(struct loading *loading, struct frame_loaded *answer, struct vmm_image **ret_image,
                struct error *err)
{
    struct stat status;
    if (fstat(loading->elf_fd, &status) < 0 || status.st_size <= 0 ||
        status.st_size > ELF_BYTES_MAX) {
        return error_set(err, ERROR_INVALID, "the image's file is empty or too large");
    }
    void *elf = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, loading->elf_fd, 0);
    if (elf == MAP_FAILED) {
        return error_os(err, errno, "mapping the image");
    }
    struct vmm_sink sink = {.log = on_load_log, .context = &loading->log};
    int r = vmm_image_new(loading->server->vmm, elf, (size_t)status.st_size,
                          &loading->request.limits, &sink, ret_image, err);
    munmap(elf, (size_t)status.st_size);
    if (r == 0) {
        vmm_image_info(*ret_image, &answer->info);
    }
    return r;
}

static void *load_main(void *argument)
{
    struct loading *loading = argument;
    struct server *server = loading->server;
    struct frame_loaded answer = {.frame = {.type = FRAME_LOADED}};
    struct vmm_image *image = NULL;
    memcpy(answer.image_id, loading->request.image_id, sizeof(answer.image_id));
    int r = load(loading, &answer, &image, &answer.error);
    answer.log_length = (uint32_t)loading->log.used;

    pthread_mutex_lock(&server->lock);
    if (r == 0) {
        vmm_image_unref(map_set(&server->images, answer.image_id, image));
    }
    struct iovec parts[2] = {{&answer, sizeof(answer)}, {loading->log.data, loading->log.used}};
    while (send_frame(PROTOCOL_CONTROL_FD, parts, 2) < 0 && errno == EINTR) {
    }
    pthread_mutex_unlock(&server->lock);
    close(loading->elf_fd);
    buffer_done(&loading->log);
    free(loading);
    return NULL;
}

static void start_loading(struct server *server, const struct frame_load *request, int elf_fd)
{
    struct loading *loading = NEW(struct loading);
    loading->server = server;
    loading->request = *request;
    loading->elf_fd = elf_fd;
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attributes, load_main, loading) != 0) {
        leave(1);
    }
    pthread_attr_destroy(&attributes);
}

static void unload(struct server *server, const struct frame_unload *request)
{
    pthread_mutex_lock(&server->lock);
    vmm_image_unref(map_remove(&server->images, request->image_id));
    pthread_mutex_unlock(&server->lock);
}

static void cancel(struct server *server, const struct frame_cancel *request)
{
    if (request->slot >= server->slot_count) {
        leave(1);
    }
    struct slot *slot = &server->slots[request->slot];
    pthread_mutex_lock(&slot->lock);
    slot->cancel_sequence = request->frame.sequence;
    if (slot->sequence == request->frame.sequence && slot->sequence != 0) {
        atomic_store(&slot->cancelled, true);
        if (slot->running != NULL) {
            vmm_shell_interrupt(slot->running);
        }
    }
    pthread_mutex_unlock(&slot->lock);
}

/* One control message with the descriptor that came along, or -1. */
static ssize_t receive_control(void *bytes, size_t size, int *ret_fd)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } extra;
    struct iovec part = {bytes, size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = extra.bytes,
                             .msg_controllen = sizeof(extra.bytes)};
    ssize_t got = recvmsg(PROTOCOL_CONTROL_FD, &message, MSG_CMSG_CLOEXEC);
    const struct cmsghdr *head = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    *ret_fd = -1;
    if (head != NULL && head->cmsg_type == SCM_RIGHTS && head->cmsg_len == CMSG_LEN(sizeof(int))) {
        memcpy(ret_fd, CMSG_DATA(head), sizeof(int));
    }
    return got;
}

static void control_main(struct server *server)
{
    union {
        struct frame head;
        struct frame_load load;
        struct frame_unload unload;
        struct frame_cancel cancel;
    } message;
    for (;;) {
        int fd = -1;
        ssize_t got = receive_control(&message, sizeof(message), &fd);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            leave(0); /* the daemon is gone */
        }
        if (got == sizeof(message.load) && message.head.type == FRAME_LOAD && fd >= 0) {
            message.load.image_id[HASH_TEXT_SIZE - 1] = '\0';
            start_loading(server, &message.load, fd);
        } else if (got == sizeof(message.unload) && message.head.type == FRAME_UNLOAD) {
            message.unload.image_id[HASH_TEXT_SIZE - 1] = '\0';
            unload(server, &message.unload);
        } else if (got == sizeof(message.cancel) && message.head.type == FRAME_CANCEL) {
            cancel(server, &message.cancel);
        } else {
            leave(1);
        }
    }
}

/* ---- Start ---- */

static int start_slot(struct server *server, unsigned index)
{
    struct slot *slot = &server->slots[index];
    slot->server = server;
    slot->index = index;
    slot->fd = PROTOCOL_SLOT_FD + (int)index;
    slot->received = memory_new(1, PROTOCOL_FRAME);
    slot->piece = memory_new(1, PROTOCOL_FRAME);
    slot->heard = memory_new(1, PROTOCOL_FRAME);
    slot->answer = memory_new(1, sizeof(struct frame_end) + PROTOCOL_PIECE);
    slot->log = memory_new(1, PROTOCOL_PIECE);
    slot->invoke = (const struct frame_invoke *)slot->received;
    pthread_mutex_init(&slot->lock, NULL);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int r = pthread_create(&slot->thread, &attributes, slot_main, slot);
    pthread_attr_destroy(&attributes);
    return r;
}

static void say_hello(unsigned jail)
{
    struct frame_hello hello = {
        .frame = {.type = FRAME_HELLO},
        .version = PROTOCOL_VERSION,
        .size = sizeof(struct frame_end),
        .jail = jail,
    };
    struct iovec part = {&hello, sizeof(hello)};
    if (send_frame(PROTOCOL_CONTROL_FD, &part, 1) < 0) {
        leave(0);
    }
}

static int fail(const struct error *err)
{
    fprintf(stderr, "blixard-runner: %s\n", err->text);
    return error_kind_exit(err->kind);
}

struct arguments {
    unsigned slots;
    enum vmm_isolation isolation;
    uid_t uid;
    uint64_t memory_bytes_max;
};

/* blixard-runner SLOTS ISOLATION UID MEMORY PROJECT: written by the daemon, for nobody else. */
static bool parse(int argc, char **argv, struct arguments *ret)
{
    uint64_t slots = 0;
    uint64_t uid = 0;
    if (argc != 6 || !text_parse_u64(text_of(argv[1], strlen(argv[1])), &slots) ||
        !text_parse_u64(text_of(argv[3], strlen(argv[3])), &uid) ||
        !text_parse_u64(text_of(argv[4], strlen(argv[4])), &ret->memory_bytes_max) || slots == 0 ||
        slots > RUNNER_SLOTS_MAX || uid > UINT32_MAX) {
        return false;
    }
    bool is_microvm = strcmp(argv[2], "microvm") == 0;
    ret->slots = (unsigned)slots;
    ret->uid = (uid_t)uid;
    ret->isolation = is_microvm ? VMM_ISOLATION_MICROVM : VMM_ISOLATION_PROCESS;
    return is_microvm || strcmp(argv[2], "process") == 0;
}

int runner_serve(int argc, char **argv)
{
    struct arguments arguments = {0};
    struct stat status;
    if (!parse(argc, argv, &arguments) || fstat(PROTOCOL_CONTROL_FD, &status) < 0 ||
        !S_ISSOCK(status.st_mode)) {
        fprintf(stderr, "blixard-runner is started by blixard; there is nothing to do by hand\n");
        return 64;
    }
    struct server *server = NEW(struct server);
    server->slot_count = arguments.slots;
    pthread_mutex_init(&server->lock, NULL);

    bool is_microvm = arguments.isolation == VMM_ISOLATION_MICROVM;
    int pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    struct jail_options jail = {
        .uid = arguments.uid,
        .gid = arguments.uid,
        .filter = is_microvm ? JAIL_FILTER_RUNNER : JAIL_FILTER_RUNNER_FORK,
    };
    unsigned achieved = 0;
    struct error err = {0};
    if (jail_enter(&jail, &achieved, &err) < 0) {
        return fail(&err);
    }
    /* After the change of user, which would undo it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct vmm_options options = {
        .isolation = arguments.isolation,
        .kvm_fd = PROTOCOL_KVM_FD,
        .pagemap_fd = pagemap_fd,
        .shells_max = arguments.slots,
    };
    if (vmm_open(&options, &server->vmm, &err) < 0) {
        return fail(&err);
    }
    say_hello(achieved);
    for (unsigned i = 0; i < arguments.slots; i++) {
        if (start_slot(server, i) != 0) {
            fprintf(stderr, "blixard-runner: no thread for slot %u\n", i);
            return 71;
        }
    }
    control_main(server);
    return 0;
}
