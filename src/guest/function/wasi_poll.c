/* WASI preview 1: waiting for time and descriptors. */
#include "wasi.h"

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

/* What is left of a file; of a stream nobody knows. */
static u64 count_readable(const struct descriptor *descriptor)
{
    u64 size = 0;
    if (is_stream(descriptor)) {
        return 1;
    }
    return wasi_file_size(descriptor, &size) == WASI_OK && size > descriptor->position
        ? size - descriptor->position
        : 0;
}

static void add_event(u32 number, u64 subscription, u32 error)
{
    uint8_t tag = MEMORY[subscription + 8];
    bool is_readable = tag == TAG_READ && error == WASI_OK;
    happened[number] = (struct event){
        .userdata = load64(subscription),
        .error = (uint16_t)error,
        .tag = tag,
        .bytes = is_readable ? count_readable(descriptor_get(load32(subscription + 16)))
                             : tag == TAG_WRITE && error == WASI_OK};
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
static u32 poll_descriptor(u64 subscription, u32 tag)
{
    struct descriptor *descriptor;
    u32 access = tag == TAG_READ ? WASI_RIGHT_READ : WASI_RIGHT_WRITE;
    u32 error = descriptor_check(load32(subscription + 16), WASI_RIGHT_POLL, &descriptor);
    if (error == WASI_OK && (descriptor->rights & access) == 0) {
        error = WASI_EBADF;
    }
    return error;
}

u32 WASI(poll_oneoff)(instance i, u32 subscriptions, u32 events, u32 count, u32 result)
{
    (void)i;
    u32 ready = 0;
    u64 least = UINT64_MAX;
    if (count == 0 || count > VECTORS_MAX) {
        return WASI_EINVAL;
    }
    for (u32 k = 0; k < count; k++) {
        u64 subscription = subscriptions + (u64)SUBSCRIPTION_BYTES * k;
        u32 tag = MEMORY[subscription + 8];
        if (tag > TAG_WRITE) {
            return WASI_EINVAL;
        }
        if (tag != TAG_CLOCK) {
            add_event(ready++, subscription, poll_descriptor(subscription, tag));
        } else if (load32(subscription + 16) > 3) {
            add_event(ready++, subscription, WASI_EINVAL);
        } else {
            u64 delay = clock_delay(subscription);
            least = delay < least ? delay : least;
        }
    }
    if (ready == 0) {
        if (least >= ABI_SLEEP_FLUSH_NS) {
            io_flush_output(); /* somebody may wait for it */
        }
        if (least > 0) {
            host_call(ABI_CALL_SLEEP, least, 0, 0);
        }
        for (u32 k = 0; k < count; k++) {
            u64 subscription = subscriptions + (u64)SUBSCRIPTION_BYTES * k;
            if (clock_delay(subscription) <= least) {
                add_event(ready++, subscription, WASI_OK);
            }
        }
    }
    memcpy(MEMORY + events, happened, ready * sizeof(happened[0]));
    store32(result, ready);
    return WASI_OK;
}
