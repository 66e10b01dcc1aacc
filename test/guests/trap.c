/* Fails in the way its first argument names; without one, prints "fine". */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile int zero = 0;

/* The read behind the call keeps it from becoming a loop. */
__attribute__((noinline)) static int deep(int level)
{
    int below = deep(level + 1 + zero);
    return below + zero;
}

static int wrong_signature(int a, int b)
{
    return a + b;
}

static void forever(const char *bytes, int fd)
{
    for (;;) {
        if (write(fd, bytes, strlen(bytes)) < 0) {
            return;
        }
    }
}

static void memory_traps(const char *what)
{
    if (strcmp(what, "beyond") == 0) {
        volatile uint8_t *end = (uint8_t *)(__builtin_wasm_memory_size(0) * 65536);
        *end = 1;
    }
    if (strcmp(what, "far") == 0) {
        volatile uint8_t *far = (uint8_t *)0xfffffff0u;
        *far = 1;
    }
    if (strcmp(what, "read") == 0) {
        volatile uint64_t *end = (uint64_t *)(__builtin_wasm_memory_size(0) * 65536 - 4);
        zero = (int)*end;
    }
    if (strcmp(what, "stack") == 0) {
        printf("%d", deep(0));
    }
}

static void number_traps(const char *what)
{
    if (strcmp(what, "divide") == 0) {
        volatile int seven = 7;
        printf("%d", seven / zero);
    }
    if (strcmp(what, "overflow") == 0) {
        volatile int least = INT32_MIN;
        volatile int minus = -1;
        printf("%d", least / minus);
    }
    if (strcmp(what, "convert") == 0) {
        volatile double nan = __builtin_nan("");
        int result;
        __asm__ volatile("local.get %1\n i32.trunc_f64_s\n local.set %0" : "=r"(result) : "r"(nan));
        printf("%d", result);
    }
    if (strcmp(what, "unreachable") == 0) {
        __builtin_trap();
    }
    if (strcmp(what, "indirect") == 0) {
        int (*volatile function)(int, int) = wrong_signature;
        printf("%f", ((double (*)(double))function)(1.0));
    }
    if (strcmp(what, "undefined") == 0) {
        void (*volatile function)(void) = (void (*)(void))9999;
        function();
    }
}

int main(int count, char **arguments)
{
    if (count < 2) {
        printf("fine\n");
        return 0;
    }
    const char *what = arguments[1];
    memory_traps(what);
    number_traps(what);
    if (strcmp(what, "loop") == 0) {
        while (zero == 0) {
        }
    }
    if (strcmp(what, "calls") == 0) {
        for (;;) {
            usleep(0);
            if (__builtin_wasm_memory_grow(0, 70000) != (size_t)-1) {
                break;
            }
            (void)!write(2, "", 0);
        }
    }
    if (strcmp(what, "sleep") == 0) {
        struct timespec pause = {3600, 0};
        nanosleep(&pause, NULL);
    }
    if (strcmp(what, "output") == 0) {
        forever("0123456789012345678901234567890123456789012345678901234567890\n", 1);
    }
    if (strcmp(what, "log") == 0) {
        for (int i = 0; i < 1000; i++) {
            fprintf(stderr, "line %d of a very long log\n", i);
        }
    }
    if (strcmp(what, "input") == 0) {
        char byte;
        (void)!read(0, &byte, 1);
    }
    if (strcmp(what, "memory") == 0) {
        size_t pages = 0;
        while (__builtin_wasm_memory_grow(0, 1) != (size_t)-1) {
            pages++;
            /* The last byte is there, and zero. */
            uint8_t *last = (uint8_t *)(__builtin_wasm_memory_size(0) * 65536 - 1);
            if (*last != 0) {
                return 1;
            }
            *last = 0xa5;
        }
        printf("%zu\n", __builtin_wasm_memory_size(0));
        return 0;
    }
    if (strcmp(what, "abort") == 0) {
        abort();
    }
    return 42;
}
