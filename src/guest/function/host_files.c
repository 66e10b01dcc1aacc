/* Asking the host about its folders: only where `blixard fn run` gave some. */
#include "engine/vmm/hostfiles.h"

#include "glue.h"
#include "wasi.h"

enum { NAMES_MAX = 16, NAME_SIZE = 256, STATUS_SIZE_AT = 32 };

static char names[NAMES_MAX][NAME_SIZE] LARGE;

static unsigned numbers_of(u32 operation)
{
    static const uint8_t counts[] = {
#define HOSTFILES(name, numbers) numbers,
        HOSTFILES_TABLE(HOSTFILES)
#undef HOSTFILES
    };
    return counts[operation - HOSTCALL_FILES];
}

u32 host_ask(const struct host_question *question, u64 *ret_number)
{
    struct hostcall_reply reply = {.status = HOSTCALL_EIO};
    u32 parts = question->texts[1] != NULL ? 3 : question->texts[0] != NULL ? 2 : 1;
    u32 head[5] = {question->operation, parts, 8 * numbers_of(question->operation),
                   question->lengths[0], question->lengths[1]};
    struct abi_host host = {.send_count = 1 + parts, .receive_count = 2};
    host.send[0] = (struct abi_part){(u64)head, 8 + 4ull * parts};
    host.send[1] = (struct abi_part){(u64)question->numbers, head[2]};
    for (u32 i = 0; i + 1 < parts; i++) {
        guest_touch(question->texts[i], question->lengths[i]);
        host.send[2 + i] = (struct abi_part){(u64)question->texts[i], question->lengths[i]};
    }
    guest_touch(question->room, question->size);
    host.receive[0] = (struct abi_part){(u64)&reply, sizeof(reply)};
    host.receive[1] = (struct abi_part){(u64)question->room, question->size};
    if ((int64_t)host_call(ABI_CALL_HOST, (u64)&host, 0, 0) < (int64_t)sizeof(reply)) {
        return WASI_EIO;
    }
    /* The host wrote it behind the compiler's back. */
    const volatile struct hostcall_reply *said = &reply;
    if (ret_number != NULL) {
        *ret_number = said->number;
    }
    return said->status < 0 ? (u32)-said->status : WASI_OK;
}

u32 host_read(const struct descriptor *descriptor, u64 offset, void *bytes, u32 length,
              u32 *ret_count)
{
    u32 done = 0;
    u32 error = WASI_OK;
    while (done < length && error == WASI_OK) {
        u32 part = length - done < HOSTFILES_BYTES_MAX ? length - done : HOSTFILES_BYTES_MAX;
        u64 got = 0;
        const struct host_question question = {.operation = HOSTFILES_READ,
                                               .numbers = {descriptor->node, offset + done, part},
                                               .room = (uint8_t *)bytes + done,
                                               .size = part};
        error = host_ask(&question, &got);
        done += error == WASI_OK && got <= part ? (u32)got : 0;
        if (got < part) {
            break;
        }
    }
    *ret_count = done;
    return done > 0 ? WASI_OK : error;
}

u32 host_write(const struct descriptor *descriptor, u64 offset, u32 flags, const void *bytes,
               u32 length, u32 *ret_count)
{
    u32 done = 0;
    u32 error = WASI_OK;
    while (done < length && error == WASI_OK) {
        u32 part = length - done < HOSTFILES_BYTES_MAX ? length - done : HOSTFILES_BYTES_MAX;
        u64 put = 0;
        const struct host_question question = {.operation = HOSTFILES_WRITE,
                                               .numbers = {descriptor->node, offset + done, flags},
                                               .texts = {(const uint8_t *)bytes + done},
                                               .lengths = {part}};
        error = host_ask(&question, &put);
        done += error == WASI_OK && put <= part ? (u32)put : 0;
        if (put < part) {
            break;
        }
    }
    *ret_count = done;
    return done > 0 ? WASI_OK : error;
}

u32 host_size(const struct descriptor *descriptor, u64 *ret_size)
{
    uint8_t status[64];
    const struct host_question question = {.operation = HOSTFILES_STATUS,
                                           .numbers = {descriptor->node},
                                           .room = status,
                                           .size = sizeof(status)};
    u32 error = host_ask(&question, NULL);
    __asm__ volatile("" : : "r"(status) : "memory");
    memcpy(ret_size, status + STATUS_SIZE_AT, sizeof(*ret_size));
    return error;
}

void files_host_close(uint32_t handle)
{
    const struct host_question question = {.operation = HOSTFILES_CLOSE, .numbers = {handle}};
    host_ask(&question, NULL);
}

void wasi_begin_call(bool begins_late)
{
    u32 count = BLOCK->folder_count;
    if (BLOCK->folders_hidden != 0) {
        descriptors_hide(BLOCK->folders_hidden);
    }
    if (BLOCK->streams_piped != 0) {
        descriptors_pipe(BLOCK->streams_piped);
    }
    /* Who was initialised before has seen where they are. */
    bool is_first = count > 0 && (begins_late || glue_is_handler == 0) && glue_is_exports == 0;
    struct descriptor own[DESCRIPTORS_OWN];
    if (is_first) {
        descriptors_set_aside(own);
    }
    for (u32 i = 0; i < count && i < NAMES_MAX; i++) {
        u64 handle = 0;
        const struct host_question question = {.operation = HOSTFILES_PREOPEN,
                                               .numbers = {i},
                                               .room = names[i],
                                               .size = NAME_SIZE - 1};
        if (host_ask(&question, &handle) == WASI_OK) {
            descriptor_add_preopen((u32)handle, names[i]);
        }
    }
    if (is_first) {
        descriptors_put_behind(own);
    }
}
