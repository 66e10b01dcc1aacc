/*
 * WASI preview 1 (wasi_snapshot_preview1): standard streams, arguments, environment, clocks,
 * random. There is no file system and there are no sockets: what needs one answers the error a
 * program expects.
 *
 * Addresses are the module's and may be wild: memory beyond its end is not mapped, so a wild access
 * is a trap like any other.  Sums of lengths are taken in 64 bits.
 */
#include <stdbool.h>
#include <string.h>

#include "guest.h"

typedef uint32_t u32;
typedef uint64_t u64;
typedef struct wasi_instance *instance;

/* Error numbers of the interface. */
enum {
    OK = 0,
    EBADF = 8,
    EINVAL = 28,
    EIO = 29,
    ENOSYS = 52,
    ESPIPE = 70,
    ENOTSOCK = 57,
    ENOTCAPABLE = 76,
};

/* As IOV_MAX. */
enum { VECTORS_MAX = 1024 };

#define WASI(name) Z_wasi_snapshot_preview1Z_##name

/* Addresses are 64 bits wide, so that an index past 4 GiB meets the hole and does not wrap. */
static u32 load32(u64 at)
{
    u32 value;
    memcpy(&value, MEMORY + at, sizeof(value));
    return value;
}

static u64 load64(u64 at)
{
    u64 value;
    memcpy(&value, MEMORY + at, sizeof(value));
    return value;
}

static void store32(u32 at, u32 value)
{
    memcpy(MEMORY + at, &value, sizeof(value));
}

static void store64(u32 at, u64 value)
{
    memcpy(MEMORY + at, &value, sizeof(value));
}

/* What the descriptors stand for.  Each request finds the three as they are here. */
enum stream { STREAM_INPUT, STREAM_OUTPUT, STREAM_LOG, STREAM_NONE };

enum { DESCRIPTORS = 3 };

static uint8_t descriptors[DESCRIPTORS] = {STREAM_INPUT, STREAM_OUTPUT, STREAM_LOG};

static enum stream stream_of(u32 fd)
{
    return fd < DESCRIPTORS ? (enum stream)descriptors[fd] : STREAM_NONE;
}

static bool is_stream(u32 fd)
{
    return stream_of(fd) != STREAM_NONE;
}

/* ---- Arguments and environment ---- */

static void store_strings(const char *text, u32 count, u32 length, u32 pointers, u32 bytes)
{
    memcpy(MEMORY + bytes, text, length);
    u32 at = 0;
    for (u32 i = 0; i < count && at < length; i++) {
        store32(pointers + 4 * i, bytes + at);
        while (at < length && text[at] != '\0') {
            at++;
        }
        at++;
    }
}

u32 WASI(args_sizes_get)(instance i, u32 count, u32 length)
{
    (void)i;
    store32(count, BLOCK->arguments_count);
    store32(length, BLOCK->arguments_length);
    return OK;
}

u32 WASI(args_get)(instance i, u32 pointers, u32 bytes)
{
    (void)i;
    store_strings((const char *)BLOCK->text + BLOCK->environment_length, BLOCK->arguments_count,
                  BLOCK->arguments_length, pointers, bytes);
    return OK;
}

u32 WASI(environ_sizes_get)(instance i, u32 count, u32 length)
{
    (void)i;
    store32(count, BLOCK->environment_count);
    store32(length, BLOCK->environment_length);
    return OK;
}

u32 WASI(environ_get)(instance i, u32 pointers, u32 bytes)
{
    (void)i;
    store_strings((const char *)BLOCK->text, BLOCK->environment_count, BLOCK->environment_length,
                  pointers, bytes);
    return OK;
}

/* ---- Clocks and chance ---- */

u32 WASI(clock_time_get)(instance i, u32 id, u64 precision, u32 result)
{
    (void)i;
    (void)precision;
    if (id > 3) {
        return EINVAL;
    }
    store64(result, io_clock_ns(id == 0 ? 0 : 1));
    return OK;
}

u32 WASI(clock_res_get)(instance i, u32 id, u32 result)
{
    (void)i;
    if (id > 3) {
        return EINVAL;
    }
    store64(result, 1);
    return OK;
}

u32 WASI(random_get)(instance i, u32 bytes, u32 length)
{
    (void)i;
    random_fill(MEMORY + bytes, length);
    return OK;
}

/* ---- Streams ---- */

/* Is this list one that can be read or written: its bytes are counted in 32 bits. */
static bool vectors_fit(u32 vectors, u32 count)
{
    u64 total = 0;
    for (u32 k = 0; k < count && count <= VECTORS_MAX; k++) {
        total += load32(vectors + 8ull * k + 4);
    }
    return count <= VECTORS_MAX && total <= UINT32_MAX;
}

u32 WASI(fd_write)(instance i, u32 fd, u32 vectors, u32 count, u32 written)
{
    (void)i;
    enum stream stream = stream_of(fd);
    if (stream != STREAM_OUTPUT && stream != STREAM_LOG) {
        return EBADF;
    }
    if (!vectors_fit(vectors, count)) {
        return EINVAL;
    }
    u32 total = 0;
    for (u32 k = 0; k < count; k++) {
        u32 at = load32(vectors + 8ull * k);
        u32 length = load32(vectors + 8ull * k + 4);
        if (stream == STREAM_OUTPUT) {
            io_write_output(MEMORY + at, length);
        } else {
            io_write_log(MEMORY + at, length);
        }
        total += length;
    }
    store32(written, total);
    return OK;
}

u32 WASI(fd_read)(instance i, u32 fd, u32 vectors, u32 count, u32 read)
{
    (void)i;
    if (stream_of(fd) != STREAM_INPUT) {
        return EBADF;
    }
    if (!vectors_fit(vectors, count)) {
        return EINVAL;
    }
    u32 total = 0;
    for (u32 k = 0; k < count; k++) {
        u32 at = load32(vectors + 8ull * k);
        u32 length = load32(vectors + 8ull * k + 4);
        if (length == 0) {
            continue;
        }
        u32 got = (u32)io_read(MEMORY + at, length);
        total += got;
        if (got < length) {
            break; /* a short read ends it, as with readv(2) */
        }
    }
    store32(read, total);
    return OK;
}

u32 WASI(fd_fdstat_get)(instance i, u32 fd, u32 result)
{
    (void)i;
    enum { CHARACTER_DEVICE = 2, RIGHT_READ = 1 << 1, RIGHT_WRITE = 1 << 6, RIGHT_POLL = 1 << 27 };
    if (!is_stream(fd)) {
        return EBADF;
    }
    memset(MEMORY + result, 0, 24);
    MEMORY[result] = CHARACTER_DEVICE;
    store64(result + 8, RIGHT_POLL | (stream_of(fd) == STREAM_INPUT ? RIGHT_READ : RIGHT_WRITE));
    return OK;
}

u32 WASI(fd_filestat_get)(instance i, u32 fd, u32 result)
{
    (void)i;
    enum { CHARACTER_DEVICE = 2 };
    if (!is_stream(fd)) {
        return EBADF;
    }
    memset(MEMORY + result, 0, 64);
    MEMORY[result + 16] = CHARACTER_DEVICE;
    return OK;
}

u32 WASI(fd_close)(instance i, u32 fd)
{
    (void)i;
    if (!is_stream(fd)) {
        return EBADF;
    }
    descriptors[fd] = STREAM_NONE;
    return OK;
}

/* As dup2(2) and a close of `fd`: `to` is one that was open. */
u32 WASI(fd_renumber)(instance i, u32 fd, u32 to)
{
    (void)i;
    if (!is_stream(fd) || !is_stream(to)) {
        return EBADF;
    }
    enum stream stream = stream_of(fd);
    descriptors[fd] = STREAM_NONE;
    descriptors[to] = (uint8_t)stream;
    return OK;
}

u32 WASI(fd_seek)(instance i, u32 fd, u64 offset, u32 whence, u32 result)
{
    (void)i;
    (void)offset;
    (void)whence;
    (void)result;
    return is_stream(fd) ? ESPIPE : EBADF;
}

u32 WASI(fd_tell)(instance i, u32 fd, u32 result)
{
    (void)i;
    (void)result;
    return is_stream(fd) ? ESPIPE : EBADF;
}

u32 WASI(fd_fdstat_set_flags)(instance i, u32 fd, u32 flags)
{
    (void)i;
    (void)flags;
    return is_stream(fd) ? OK : EBADF;
}

/* ---- Waiting ---- */

/* A subscription: userdata 0, tag 8, clock id 16, timeout 24, precision 32, flags 40; fd 16. */
enum { SUBSCRIPTION_BYTES = 48, TAG_CLOCK = 0, TAG_READ = 1, TAG_WRITE = 2 };

struct event {
    u64 userdata;
    uint16_t error;
    uint8_t tag;
    u64 bytes; /* that can be read or written */
    u64 flags;
};
_Static_assert(sizeof(struct event) == 32, "as the interface lays it out");

/* Kept here until all subscriptions were read: a module may want them in the same place. */
static struct event happened[VECTORS_MAX] LARGE;

static void add_event(u32 number, u64 subscription, u32 error)
{
    uint8_t tag = MEMORY[subscription + 8];
    happened[number] = (struct event){.userdata = load64(subscription),
                                      .error = (uint16_t)error,
                                      .tag = tag,
                                      .bytes = tag != TAG_CLOCK};
}

/* Nanoseconds from now until a clock subscription is due. */
static u64 clock_delay(u64 subscription)
{
    u64 timeout = load64(subscription + 24);
    bool is_absolute = MEMORY[subscription + 40] & 1;
    if (!is_absolute) {
        return timeout;
    }
    u64 now = io_clock_ns(load32(subscription + 16) == 0 ? 0 : 1);
    return timeout > now ? timeout - now : 0;
}

/* What can be read or written: always; what is not open: an error, at once. */
static u32 poll_stream(u64 subscription, u32 tag)
{
    enum stream stream = stream_of(load32(subscription + 16));
    bool fits =
        tag == TAG_READ ? stream == STREAM_INPUT : stream == STREAM_OUTPUT || stream == STREAM_LOG;
    return fits ? OK : EBADF;
}

u32 WASI(poll_oneoff)(instance i, u32 subscriptions, u32 events, u32 count, u32 result)
{
    (void)i;
    u32 ready = 0;
    u64 least = UINT64_MAX;
    if (count == 0 || count > VECTORS_MAX) {
        return EINVAL;
    }
    for (u32 k = 0; k < count; k++) {
        u64 subscription = subscriptions + (u64)SUBSCRIPTION_BYTES * k;
        u32 tag = MEMORY[subscription + 8];
        if (tag > TAG_WRITE) {
            return EINVAL;
        }
        if (tag != TAG_CLOCK) {
            add_event(ready++, subscription, poll_stream(subscription, tag));
        } else if (load32(subscription + 16) > 3) {
            add_event(ready++, subscription, EINVAL);
        } else {
            u64 delay = clock_delay(subscription);
            least = delay < least ? delay : least;
        }
    }
    if (ready == 0) {
        if (least > 0) {
            host_call(ABI_CALL_SLEEP, least, 0, 0);
        }
        for (u32 k = 0; k < count; k++) {
            u64 subscription = subscriptions + (u64)SUBSCRIPTION_BYTES * k;
            if (clock_delay(subscription) <= least) {
                add_event(ready++, subscription, OK);
            }
        }
    }
    memcpy(MEMORY + events, happened, ready * sizeof(happened[0]));
    store32(result, ready);
    return OK;
}

u32 WASI(sched_yield)(instance i)
{
    (void)i;
    return OK;
}

void WASI(proc_exit)(instance i, u32 status)
{
    (void)i;
    guest_exit(status);
}

u32 WASI(proc_raise)(instance i, u32 signal)
{
    (void)i;
    (void)signal;
    return ENOSYS;
}

/* ---- What there is not ---- */

/* On a stream: `answer`; on anything else: EBADF. */
#define ON_STREAM(name, answer, ...)                  \
    u32 WASI(name)(instance i, u32 fd, ##__VA_ARGS__) \
    {                                                 \
        (void)i;                                      \
        return is_stream(fd) ? (answer) : EBADF;      \
    }

#pragma GCC diagnostic ignored "-Wunused-parameter"
ON_STREAM(fd_advise, ESPIPE, u64 offset, u64 length, u32 advice)
ON_STREAM(fd_allocate, ENOTCAPABLE, u64 offset, u64 length)
ON_STREAM(fd_datasync, EINVAL)
ON_STREAM(fd_fdstat_set_rights, ENOTCAPABLE, u64 base, u64 inheriting)
ON_STREAM(fd_filestat_set_size, ENOTCAPABLE, u64 size)
ON_STREAM(fd_filestat_set_times, ENOTCAPABLE, u64 access, u64 change, u32 flags)
ON_STREAM(fd_pread, ESPIPE, u32 vectors, u32 count, u64 offset, u32 read)
ON_STREAM(fd_pwrite, ESPIPE, u32 vectors, u32 count, u64 offset, u32 written)
ON_STREAM(fd_prestat_get, EBADF, u32 result)
ON_STREAM(fd_prestat_dir_name, EBADF, u32 path, u32 length)
ON_STREAM(fd_readdir, ENOTCAPABLE, u32 bytes, u32 length, u64 cookie, u32 used)
ON_STREAM(fd_sync, EINVAL)
ON_STREAM(path_create_directory, ENOTCAPABLE, u32 path, u32 length)
ON_STREAM(path_filestat_get, ENOTCAPABLE, u32 flags, u32 path, u32 length, u32 result)
ON_STREAM(path_filestat_set_times, ENOTCAPABLE, u32 flags, u32 path, u32 length, u64 access,
          u64 change, u32 which)
ON_STREAM(path_link, ENOTCAPABLE, u32 flags, u32 path, u32 length, u32 to, u32 to_path,
          u32 to_length)
ON_STREAM(path_open, ENOTCAPABLE, u32 dirflags, u32 path, u32 length, u32 flags, u64 base,
          u64 inheriting, u32 fdflags, u32 result)
ON_STREAM(path_readlink, ENOTCAPABLE, u32 path, u32 length, u32 bytes, u32 size, u32 used)
ON_STREAM(path_remove_directory, ENOTCAPABLE, u32 path, u32 length)
ON_STREAM(path_rename, ENOTCAPABLE, u32 path, u32 length, u32 to, u32 to_path, u32 to_length)
ON_STREAM(path_unlink_file, ENOTCAPABLE, u32 path, u32 length)
ON_STREAM(sock_accept, ENOTSOCK, u32 flags, u32 result)
ON_STREAM(sock_recv, ENOTSOCK, u32 vectors, u32 count, u32 flags, u32 read, u32 result_flags)
ON_STREAM(sock_send, ENOTSOCK, u32 vectors, u32 count, u32 flags, u32 written)
ON_STREAM(sock_shutdown, ENOTSOCK, u32 how)

u32 WASI(path_symlink)(instance i, u32 from, u32 from_length, u32 fd, u32 to, u32 to_length)
{
    return is_stream(fd) ? ENOTCAPABLE : EBADF;
}

/* ---- AssemblyScript's own imports ---- */

/* abort(message, file, line, column): strings are UTF-16 with their size before them. */
static void log_utf16(u32 string)
{
    if (string == 0) {
        return;
    }
    u32 bytes = load32(string - 4);
    for (u32 at = 0; at + 1 < bytes && at < 512; at += 2) {
        uint8_t low = MEMORY[(u32)(string + at)];
        uint8_t high = MEMORY[(u32)(string + at + 1)];
        uint8_t shown = high == 0 && low >= 0x20 && low < 0x7f ? low : '?';
        io_write_log(&shown, 1);
    }
}

void Z_envZ_abort(instance i, u32 message, u32 file, u32 line, u32 column)
{
    (void)i;
    static const uint8_t prefix[] = "<3>abort: ";
    static const uint8_t at[] = " at ";
    uint8_t number[16] = "\n";
    io_write_log(prefix, sizeof(prefix) - 1);
    log_utf16(message);
    io_write_log(at, sizeof(at) - 1);
    log_utf16(file);
    u32 begin = sizeof(number) - 1;
    number[begin] = '\n';
    do {
        number[--begin] = (uint8_t)('0' + line % 10);
        line /= 10;
    } while (line > 0 && begin > 1);
    number[--begin] = ':';
    io_write_log(number + begin, sizeof(number) - begin);
    guest_trap(ABI_TRAP_ABORT);
}

double Z_envZ_seed(instance i)
{
    (void)i;
    u64 bits;
    random_fill((uint8_t *)&bits, sizeof(bits));
    return (double)(bits >> 11);
}
