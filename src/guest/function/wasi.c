/*
 * WASI preview 1: arguments, environment, clocks, random, the process; sockets, of which there are
 * none; and what AssemblyScript and Emscripten import besides.
 */
#include "wasi.h"

/* ---- Arguments and environment ---- */

static void store_strings(u32 from, u32 count, u32 length, u32 pointers, u32 bytes)
{
    const uint8_t *text = MEMORY + bytes;
    if ((u64)BLOCK->environment_length + BLOCK->arguments_length > ABI_TEXT_BYTES) {
        host_call(ABI_CALL_TEXT, (u64)text, length, from);
    } else {
        memcpy(MEMORY + bytes, (const char *)BLOCK->text + from, length);
    }
    u32 at = 0;
    for (u32 i = 0; i < count && at < length; i++) {
        store32(pointers + 4ull * i, bytes + at);
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
    return WASI_OK;
}

u32 WASI(args_get)(instance i, u32 pointers, u32 bytes)
{
    (void)i;
    store_strings(BLOCK->environment_length, BLOCK->arguments_count, BLOCK->arguments_length,
                  pointers, bytes);
    return WASI_OK;
}

u32 WASI(environ_sizes_get)(instance i, u32 count, u32 length)
{
    (void)i;
    store32(count, BLOCK->environment_count);
    store32(length, BLOCK->environment_length);
    return WASI_OK;
}

u32 WASI(environ_get)(instance i, u32 pointers, u32 bytes)
{
    (void)i;
    store_strings(0, BLOCK->environment_count, BLOCK->environment_length, pointers, bytes);
    return WASI_OK;
}

/* ---- Clocks and chance ---- */

u32 WASI(clock_time_get)(instance i, u32 id, u64 precision, u32 result)
{
    (void)i;
    (void)precision;
    if (id > 3) {
        return WASI_EINVAL;
    }
    store64(result, io_clock_ns(id == 0 ? 0 : 1));
    return WASI_OK;
}

u32 WASI(clock_res_get)(instance i, u32 id, u32 result)
{
    (void)i;
    if (id > 3) {
        return WASI_EINVAL;
    }
    store64(result, 1);
    return WASI_OK;
}

u32 WASI(random_get)(instance i, u32 bytes, u32 length)
{
    (void)i;
    random_fill(MEMORY + bytes, length);
    return WASI_OK;
}

/* ---- The process ---- */

u32 WASI(sched_yield)(instance i)
{
    (void)i;
    return WASI_OK;
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
    return WASI_ENOSYS;
}

/* ---- Sockets: none ---- */

static u32 no_socket(u32 fd)
{
    return descriptor_get(fd) != NULL ? WASI_ENOTSOCK : WASI_EBADF;
}

#define NO_SOCKET(name, ...)                          \
    u32 WASI(name)(instance i, u32 fd, ##__VA_ARGS__) \
    {                                                 \
        (void)i;                                      \
        return no_socket(fd);                         \
    }

#pragma GCC diagnostic ignored "-Wunused-parameter"
NO_SOCKET(sock_accept, u32 flags, u32 result)
NO_SOCKET(sock_recv, u32 vectors, u32 count, u32 flags, u32 read, u32 result_flags)
NO_SOCKET(sock_send, u32 vectors, u32 count, u32 flags, u32 written)
NO_SOCKET(sock_shutdown, u32 how)

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

/* ---- Emscripten's ---- */

/* For who keeps views of the memory, which nobody does here. */
void Z_envZ_emscripten_notify_memory_growth(instance i, u32 memory)
{
    (void)i;
    (void)memory;
}
