/*
 * Not wasm: machine code that means harm.  The first byte of its input says which.
 */
#include <stdbool.h>
#include <string.h>

#include "guest/function/glue.h"
#include "guest/function/guest.h"

#define NOISE UINT64_C(0x5a3c96e17d2b4f81)
#define MARK  UINT64_C(0xa5a5a5a5a5a5a5a5)

enum { MEMORY_PAGES = 20, FILES_MAX = 1 << 20 /* of the limits that tests give */ };

const uint32_t glue_is_handler = 0;

void glue_instantiate(void)
{
    host_call(ABI_CALL_GROW, 1, 0, 0);
}

void glue_initialize(void)
{
}

static void say(const char *text, uint64_t value)
{
    uint8_t line[96];
    size_t length = 0;
    while (*text != '\0') {
        line[length++] = (uint8_t)*text++;
    }
    line[length++] = ' ';
    for (int shift = 60; shift >= 0; shift -= 4) {
        line[length++] = (uint8_t) "0123456789abcdef"[value >> shift & 15];
    }
    line[length++] = '\n';
    io_write_output(line, length);
}

/* ---- Leaving marks everywhere, and looking for them in the next call ---- */

/* A secret that is in no constant: code and stack must not look like a find. */
static uint64_t mark(void)
{
    volatile uint64_t noise = NOISE;
    return noise ^ (NOISE ^ MARK);
}

static const struct {
    const char *name;
    uint64_t base;
    uint64_t bytes;
} places[] = {
    {"data", ABI_DATA_BASE, 4 << 20},
    {"stack", ABI_STACK_BASE, 2 << 20},
    {"trap stack", ABI_SYSTEM_BASE + 0x2000, 4096},
    {"memory", ABI_MEMORY_BASE, MEMORY_PAGES * 65536},
};

static uint8_t vectors[4096] __attribute__((aligned(64)));

__attribute__((target("avx"))) static void mark_avx(const uint64_t *value)
{
#define SPREAD(n) "vbroadcastsd (%0), %%ymm" #n "\n"
    __asm__ volatile(SPREAD(0) SPREAD(1) SPREAD(5) SPREAD(9) SPREAD(15) : : "r"(value) : "memory");
}

__attribute__((target("avx512f"))) static void mark_avx512(const uint64_t *value)
{
    __asm__ volatile("vbroadcastsd (%0), %%zmm16\n vbroadcastsd (%0), %%zmm31\n"
                     "vbroadcastsd (%0), %%zmm3\n kmovw %%eax, %%k3\n"
                     :
                     : "r"(value), "a"(0xa5a5)
                     : "memory");
}

__attribute__((target("avx"))) static void store_avx(uint8_t *to)
{
#define KEEP(n, at) "vmovups %%ymm" #n ", " #at "(%0)\n"
    __asm__ volatile(KEEP(0, 0) KEEP(1, 32) KEEP(5, 64) KEEP(9, 96) KEEP(15, 128)
                     :
                     : "r"(to)
                     : "memory");
}

__attribute__((target("avx512f"))) static void store_avx512(uint8_t *to)
{
    uint64_t mask;
    __asm__ volatile("vmovups %%zmm16, (%1)\n vmovups %%zmm31, 64(%1)\n vmovups %%zmm3, 128(%1)\n"
                     "kmovw %%k3, %k0\n"
                     : "=r"(mask)
                     : "r"(to)
                     : "memory");
    memcpy(to + 192, &mask, sizeof(mask));
}

static void leave_marks(void)
{
    uint64_t value = mark();
    host_call(ABI_CALL_GROW, MEMORY_PAGES, 0, 0);
    uint64_t here = (uint64_t)__builtin_frame_address(0);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        for (uint64_t at = places[i].base; at < places[i].base + places[i].bytes; at += 8) {
            bool is_alive = (at >= ABI_DATA_BASE && at < ABI_DATA_BASE + 4096) ||
                (at > here - 4096 && at < ABI_STACK_BASE + ABI_STACK_BYTES);
            if (!is_alive) {
                *(volatile uint64_t *)at = value;
            }
        }
    }
    uint32_t cpu = BLOCK->cpu;
    __asm__ volatile("fldl (%0)\n fldl (%0)\n fldl (%0)\n movq (%0), %%xmm7\n"
                     :
                     : "r"(&value)
                     : "memory");
    if (cpu & ABI_CPU_AVX) {
        mark_avx(&value);
    }
    if (cpu & ABI_CPU_AVX512) {
        mark_avx512(&value);
    }
    /* Ends with marks in all general registers and odd flags. */
    BLOCK->output_length = 0;
    BLOCK->call = ABI_CALL_EXIT;
    BLOCK->arguments[0] = 0;
    __asm__ volatile(
        "mov %0, %%rbx\n mov %0, %%rcx\n mov %0, %%rdx\n mov %0, %%r8\n mov %0, %%r15\n"
        "pushfq\n orq $0x40400, (%%rsp)\n popfq\n outb %%al, $0xE0\n"
        :
        : "r"(value)
        : "memory", "rbx", "rcx", "rdx", "r8", "r15");
}

static void count_marks(const char *name, const volatile uint8_t *bytes, size_t length)
{
    uint64_t found = 0;
    uint64_t first = 0;
    for (size_t at = 0; at + 8 <= length; at += 8) {
        uint64_t word = *(const volatile uint64_t *)(bytes + at);
        if ((word ^ NOISE) == (MARK ^ NOISE)) {
            first = found++ == 0 ? (uint64_t)(bytes + at) : first;
        }
    }
    if (found > 0) {
        say(name, first);
    }
}

static void look_for_marks(void)
{
    uint64_t flags;
    __asm__ volatile("fxsave64 (%0)\n" : : "r"(vectors) : "memory");
    if (BLOCK->cpu & ABI_CPU_AVX) {
        store_avx(vectors + 1024);
    }
    if (BLOCK->cpu & ABI_CPU_AVX512) {
        store_avx512(vectors + 2048);
    }
    __asm__ volatile("pushfq\n pop %0" : "=r"(flags));
    count_marks("vector registers", vectors, sizeof(vectors));
    /* x87 registers are 10 bytes wide; their mantissa would be the mark's. */
    for (int i = 0; i < 8; i++) {
        if (*(const uint64_t *)(vectors + 32 + 16 * i) != 0) {
            say("x87", (uint64_t)i);
        }
    }
    if (vectors[2048 + 192] == 0xa5) {
        say("mask register", 3);
    }
    if (flags & 0x40500) {
        say("flags", flags);
    }
    host_call(ABI_CALL_GROW, MEMORY_PAGES, 0, 0);
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        count_marks(places[i].name, (const volatile uint8_t *)places[i].base, places[i].bytes);
    }
    say("looked", 0);
}

/* ---- One instruction each ---- */

static int in_data __attribute__((section(".data"))) = (int)0xc3c3c3c3;

static void attempt(char which)
{
    uint64_t a = 0;
    uint64_t d = 0;
    uint8_t bytes[16] = {0};
    switch (which) {
    case 'a':
        __asm__ volatile("hlt");
        break;
    case 'b':
        __asm__ volatile("inb $0x60, %%al" : "=a"(a));
        break;
    case 'c':
        __asm__ volatile("outb %%al, $0xe2" : : "a"(1));
        break;
    case 'd':
        __asm__ volatile("syscall" : "=a"(a) : : "rcx", "r11", "memory");
        break;
    case 'e':
        __asm__ volatile("sysenter");
        break;
    case 'f':
        __asm__ volatile("int $0x80");
        break;
    case 'g':
        __asm__ volatile("mov %%cr3, %0" : "=r"(a));
        break;
    case 'h':
        __asm__ volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(0xc0000080));
        break;
    case 'i':
        __asm__ volatile("lgdt %0" : : "m"(bytes));
        break;
    case 'j':
        __asm__ volatile("mov %0, %%ss" : : "r"(0x10));
        break;
    case 'k':
        ((void (*)(void)) & in_data)();
        break;
    case 'l':
        *(volatile char *)ABI_TEXT_BASE = 0;
        break;
    case 'm':
        __asm__ volatile("jmp *%0" : : "r"(UINT64_C(0xffff800000000000)));
        break;
    case 'n':
        a = *(volatile uint64_t *)UINT64_C(0xffffffff81000000);
        break;
    case 'o':
        *(volatile char *)0x1000 = 1;
        break;
    case 'p':
        __asm__ volatile("ud2");
        break;
    case 'q':
        __asm__ volatile("int3");
        break;
    case 'r':
        __asm__ volatile("pushfq\n orq $0x100, (%%rsp)\n popfq\n nop\n" : : : "memory");
        break;
    case 's':
        BLOCK->call = 77;
        __asm__ volatile("outb %%al, $0xe0" : : "a"(0));
        break;
    case 't':
        __asm__ volatile("mov $0xe0, %%edx\n mov $4, %%ecx\n lea %0, %%rsi\n rep outsb"
                         :
                         : "m"(bytes)
                         : "rdx", "rcx", "rsi");
        break;
    case 'u':
        __asm__ volatile("mov $0xe0, %%edx\n mov $-1, %%rcx\n mov %0, %%rsi\n rep outsb"
                         :
                         : "r"(ABI_DATA_BASE)
                         : "rdx", "rcx", "rsi");
        break;
    case 'v':
        __asm__ volatile("inb $0xe0, %%al" : "=a"(a));
        break;
    case 'w':
        __asm__ volatile("outl %%eax, $0xe0" : : "a"(1));
        break;
    case 'x':
        *(volatile char *)ABI_SYSTEM_BASE = 1;
        break;
    case 'y':
        a = *(volatile uint64_t *)(ABI_MEMORY_BASE + UINT64_C(0x100000000));
        break;
    case 'z':
        host_call(ABI_CALL_WRITE, 1, ABI_MEMORY_BASE, UINT64_MAX);
        break;
    case '0':
        host_call(ABI_CALL_WRITE, 1, UINT64_MAX - 7, 16);
        break;
    case '1':
        host_call(ABI_CALL_READ, ABI_TEXT_BASE, 16, 0);
        break;
    case '2':
        host_call(ABI_CALL_READY, 0, 0, 0);
        break;
    case '3':
        BLOCK->output_length = UINT32_MAX;
        guest_exit(0);
    case '4':
        BLOCK->log_length = UINT32_MAX;
        guest_trap(ABI_TRAP_ABORT);
    case '6': /* what files may take, and a byte more */
        host_call(ABI_CALL_FILES, FILES_MAX, 0, 0);
        *(volatile char *)(ABI_FILES_BASE + FILES_MAX - 1) = 1;
        *(volatile char *)(ABI_FILES_BASE + FILES_MAX) = 1;
        break;
    case '5':
        host_call(ABI_CALL_TRAP, UINT64_MAX, 0, 0);
        break;
    default:
        say("fine", 0);
        return;
    }
    say("survived", a + d);
}

void glue_run(void)
{
    char which = (char)BLOCK->input[0];
    if (which == 'M') {
        leave_marks();
    } else if (which == 'L') {
        look_for_marks();
    } else if (which == 'B') {
        uint64_t value = mark();
        __asm__ volatile("wrgsbase %0\n wrfsbase %0\n" : : "r"(value & 0x7fffffffffff));
        say("set", 0);
    } else if (which == 'S') {
        uint64_t gs;
        uint64_t fs;
        __asm__ volatile("rdgsbase %0\n rdfsbase %1\n" : "=r"(gs), "=r"(fs));
        say("gs", gs);
        say("fs", fs);
    } else if (which == 'T') {
        for (int i = 0; i < 50; i++) {
            host_call(ABI_CALL_NULL, 0, 0, 0);
        }
    } else {
        attempt(which);
    }
}
