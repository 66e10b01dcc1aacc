/*
 * Where a function image begins: instantiate, initialise, be snapshotted, run.
 *
 * Every call resumes right behind the READY call.  Text cannot be written, so what stands there
 * always runs first: it wipes the floating-point and vector registers an earlier call may have
 * left.
 */
#include "glue.h"
#include "guest.h"

void guest_main(void);

/* The stack pointer is set by the host; the frame chain ends here. */
__asm__(".section .text.guest_start, \"ax\", @progbits\n"
        ".globl guest_start\n"
        "guest_start:\n"
        "    xor %ebp, %ebp\n"
        "    call guest_main\n"
        "    ud2\n"
        ".text\n");

void guest_trap(enum abi_trap trap)
{
    if (BLOCK->recovery != 0) {
        invoke_trapped(trap);
    }
    for (;;) {
        host_call(ABI_CALL_TRAP, trap, 0, 0);
    }
}

void guest_exit(uint32_t status)
{
    for (;;) {
        host_call(ABI_CALL_EXIT, status, 0, 0);
    }
}

__attribute__((target("avx"))) static void wipe_avx(void)
{
    __asm__ volatile("vzeroall" : : : "memory");
}

#define WIPE_HIGH(n) "vpxorq %%zmm" #n ", %%zmm" #n ", %%zmm" #n "\n"

__attribute__((target("avx512f"))) static void wipe_avx512(void)
{
    __asm__ volatile(
        WIPE_HIGH(16) WIPE_HIGH(17) WIPE_HIGH(18) WIPE_HIGH(19) WIPE_HIGH(20) WIPE_HIGH(21)
            WIPE_HIGH(22) WIPE_HIGH(23) WIPE_HIGH(24) WIPE_HIGH(25) WIPE_HIGH(26) WIPE_HIGH(27)
                WIPE_HIGH(28) WIPE_HIGH(29) WIPE_HIGH(30) WIPE_HIGH(
                    31) "kxorw %%k0, %%k0, %%k0\n kxorw %%k1, %%k1, %%k1\n kxorw %%k2, %%k2, %%k2\n"
                        "kxorw %%k3, %%k3, %%k3\n kxorw %%k4, %%k4, %%k4\n kxorw %%k5, %%k5, %%k5\n"
                        "kxorw %%k6, %%k6, %%k6\n kxorw %%k7, %%k7, %%k7\n"
        :
        :
        : "memory");
}

#define WIPE_LOW(n) "pxor %%xmm" #n ", %%xmm" #n "\n"

static void wipe_registers(void)
{
    uint32_t control = 0x1f80;
    /* fninit leaves the values in the x87 stack; eight loads of zero overwrite them. */
    __asm__ volatile("fninit\n fldz\n fldz\n fldz\n fldz\n fldz\n fldz\n fldz\n fldz\n fninit\n"
                     "ldmxcsr %0\n" WIPE_LOW(0) WIPE_LOW(1) WIPE_LOW(2) WIPE_LOW(3) WIPE_LOW(4)
                         WIPE_LOW(5) WIPE_LOW(6) WIPE_LOW(7) WIPE_LOW(8) WIPE_LOW(9) WIPE_LOW(10)
                             WIPE_LOW(11) WIPE_LOW(12) WIPE_LOW(13) WIPE_LOW(14) WIPE_LOW(15)
                     :
                     : "m"(control)
                     : "memory");
    if (BLOCK->cpu & ABI_CPU_AVX) {
        wipe_avx();
    }
    if (BLOCK->cpu & ABI_CPU_AVX512) {
        wipe_avx512();
    }
}

static void instantiate(void)
{
    glue_instantiate();
    types_forget();
    glue_initialize();
}

__attribute__((used)) void guest_main(void)
{
    io_begin();
    random_begin();
    wasi_begin();
    bool begins_late = BLOCK->begins_late != 0;
    if (!glue_is_exports && !begins_late) {
        instantiate();
    }
    BLOCK->is_handler = glue_is_handler;
    host_call(ABI_CALL_READY, 0, 0, 0);
    wipe_registers();
    io_begin();
    random_begin();
    wasi_begin_call(begins_late);
    if (glue_is_exports) {
        invoke_main();
    }
    if (begins_late) {
        instantiate();
    }
    glue_run();
    guest_exit(0);
}
