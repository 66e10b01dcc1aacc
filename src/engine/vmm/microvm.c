/*
 * Function VMs on KVM: how one is made.
 *
 * There is no guest kernel: the vCPU starts in long mode at CPL3 and stays there.  Guest-physical
 * memory is one mapping, the *arena*:
 *
 *     0        page tables, descriptor tables, trap stubs     (a constant of the size class)
 *     2 MiB    text, data, stack, linear memory, files        (windows of the size class)
 *
 * The page tables never depend on the function and have their accessed and dirty bits set
 * beforehand: no entry that was present is ever written again, so a shadow MMU never holds a stale
 * copy.  KVM keeps arrays with entries per page it was given: it is given the first FIRST_MEMORY of
 * linear memory, and more, with the page table entries for it, when a function first grows there.
 * Linear memory is bounded by what the host maps: beyond it the arena is PROT_NONE and KVM_RUN
 * fails with EFAULT; beyond the window the guest's own tables end.
 *
 * Calls to the host are `out` to port 0xE0, allowed by the TSS's I/O bitmap; traps run a stub at
 * CPL3 that does `out` to 0xE1.  Intel SDM volume 3: 4.5 (paging), 6.14 (64-bit interrupts), 19.5.2
 * (bitmap).
 */
#include "engine/vmm/microvm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/memory.h"

enum {
    LARGE_PAGE = 2 << 20,
    FIRST_MEMORY = 8 << 20,
    /* Pages of the system area, as guest-physical addresses. */
    AT_PML4 = 0x1000,
    AT_PDPT = 0x2000,
    AT_CODE_DIRECTORY = 0x3000,
    AT_MEMORY_DIRECTORY = 0x4000, /* four pages: 4 GiB */
    AT_SYSTEM_TABLE = 0x8000,
    AT_TABLES = 0x9000, /* GDT, TSS, IDT */
    AT_STUBS = 0xa000,
    /* Inside the tables page. */
    TSS_OFFSET = 0x200,
    IDT_OFFSET = 0x400,
    TSS_LIMIT = 0x88,
    CODE_SELECTOR = 0x33,
    DATA_SELECTOR = 0x2b,
    VECTORS = 32,
};

#define PTE_PRESENT  UINT64_C(0x1)
#define PTE_WRITE    UINT64_C(0x2)
#define PTE_USER     UINT64_C(0x4)
#define PTE_ACCESSED UINT64_C(0x20)
#define PTE_DIRTY    UINT64_C(0x40)
#define PTE_LARGE    UINT64_C(0x80)
#define PTE_NO_EXEC  (UINT64_C(1) << 63)

#define TABLE_ENTRY (PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_ACCESSED | PTE_DIRTY)
#define READ_EXEC   (PTE_PRESENT | PTE_USER | PTE_ACCESSED)
#define READ_WRITE  (TABLE_ENTRY | PTE_NO_EXEC)

static void map_window(uint64_t *directory, uint64_t guest_virtual, uint64_t physical,
                       uint64_t bytes, uint64_t flags)
{
    for (uint64_t at = 0; at < bytes; at += LARGE_PAGE) {
        uint64_t index = (guest_virtual + at) / LARGE_PAGE % 512;
        directory[index] = (physical + at) | flags | PTE_LARGE;
    }
}

/* Bytes `from` to `to` of linear memory, multiples of LARGE_PAGE. */
static void map_memory(const struct microvm_shell *shell, uint64_t from, uint64_t to)
{
    uint64_t *pdpt = (uint64_t *)(shell->arena + AT_PDPT);
    uint64_t physical = shell->offset[WINDOW_MEMORY];
    for (uint64_t at = from; at < to; at += LARGE_PAGE) {
        uint64_t table = AT_MEMORY_DIRECTORY + (at >> 30) * PAGE_BYTES;
        map_window((uint64_t *)(shell->arena + table), ABI_MEMORY_BASE + at, physical + at,
                   LARGE_PAGE, READ_WRITE);
        pdpt[(ABI_MEMORY_BASE + at) >> 30] = table | TABLE_ENTRY;
    }
}

static void write_page_tables(const struct microvm_shell *shell)
{
    uint8_t *arena = shell->arena;
    uint64_t *pml4 = (uint64_t *)(arena + AT_PML4);
    uint64_t *pdpt = (uint64_t *)(arena + AT_PDPT);
    uint64_t *code = (uint64_t *)(arena + AT_CODE_DIRECTORY);
    const uint64_t *bytes = shell->base.class.bytes;

    pml4[0] = AT_PDPT | TABLE_ENTRY;
    pdpt[ABI_TEXT_BASE >> 30] = AT_CODE_DIRECTORY | TABLE_ENTRY;
    map_window(code, ABI_TEXT_BASE, shell->offset[WINDOW_TEXT], bytes[WINDOW_TEXT], READ_EXEC);
    map_window(code, ABI_DATA_BASE, shell->offset[WINDOW_DATA], bytes[WINDOW_DATA], READ_WRITE);
    map_window(code, ABI_STACK_BASE, shell->offset[WINDOW_STACK], bytes[WINDOW_STACK], READ_WRITE);
    code[(ABI_SYSTEM_BASE - ABI_TEXT_BASE) / LARGE_PAGE] = AT_SYSTEM_TABLE | TABLE_ENTRY;
    uint64_t *system = (uint64_t *)(arena + AT_SYSTEM_TABLE);
    system[0] = AT_TABLES | PTE_PRESENT | PTE_USER | PTE_ACCESSED | PTE_NO_EXEC;
    system[1] = AT_STUBS | READ_EXEC;
    system[2] = MICROVM_TRAP_STACK | READ_WRITE;
}

/* An interrupt gate to the stub of `vector`: same privilege, on the trap stack (IST 1). */
static void write_gate(uint64_t *idt, unsigned vector)
{
    uint64_t handler = ABI_SYSTEM_BASE + PAGE_BYTES + vector * UINT64_C(16);
    uint64_t type = 0xee; /* present, DPL 3, 64-bit interrupt gate */
    uint64_t stack = 1;
    idt[2 * vector] = (handler & 0xffff) | (uint64_t)CODE_SELECTOR << 16 | stack << 32 |
        type << 40 | ((handler >> 16) & 0xffff) << 48;
    idt[2 * vector + 1] = handler >> 32;
}

static void write_system_page(const struct microvm_shell *shell)
{
    uint8_t *tables = shell->arena + AT_TABLES;
    uint64_t *gdt = (uint64_t *)tables;
    uint8_t *tss = tables + TSS_OFFSET;
    uint64_t *idt = (uint64_t *)(tables + IDT_OFFSET);
    uint64_t trap_stack_top = ABI_SYSTEM_BASE + 3 * PAGE_BYTES;

    gdt[DATA_SELECTOR >> 3] = UINT64_C(0x00cff3000000ffff);
    gdt[CODE_SELECTOR >> 3] = UINT64_C(0x00affb000000ffff);
    memcpy(tss + 0x24, &trap_stack_top, sizeof(trap_stack_top)); /* IST 1 */
    tss[0x66] = 0x68;                                            /* where the I/O bitmap begins */
    memset(tss + 0x68, 0xff, TSS_LIMIT + 1 - 0x68);
    tss[0x68 + ABI_PORT_CALL / 8] = 0xfc; /* ports 0xE0 and 0xE1, no other */

    for (unsigned vector = 0; vector < VECTORS; vector++) {
        /* mov $vector, %al;  out %al, $0xE1;  jmp . */
        const uint8_t stub[] = {0xb0, (uint8_t)vector, 0xe6, ABI_PORT_TRAP, 0xeb, 0xfe};
        memcpy(shell->arena + AT_STUBS + vector * 16, stub, sizeof(stub));
        write_gate(idt, vector);
    }
}

/* The registers of long mode at CPL3, from what KVM gives a new vCPU. */
static int prepare_sregs(int vcpu_fd, struct kvm_sregs *ret_sregs)
{
    struct kvm_sregs sregs;
    if (ioctl(vcpu_fd, KVM_GET_SREGS, &sregs) < 0) {
        return -1;
    }
    struct kvm_segment code = {.limit = 0xffffffff,
                               .selector = CODE_SELECTOR,
                               .type = 11,
                               .present = 1,
                               .dpl = 3,
                               .s = 1,
                               .l = 1,
                               .g = 1};
    struct kvm_segment data = code;
    data.type = 3;
    data.selector = DATA_SELECTOR;
    data.l = 0;
    data.db = 1;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.ldt = (struct kvm_segment){.unusable = 1};
    sregs.tr = (struct kvm_segment){.base = ABI_SYSTEM_BASE + TSS_OFFSET,
                                    .limit = TSS_LIMIT,
                                    .selector = 0x38,
                                    .type = 11,
                                    .present = 1};
    sregs.gdt = (struct kvm_dtable){.base = ABI_SYSTEM_BASE, .limit = 0x37};
    sregs.idt =
        (struct kvm_dtable){.base = ABI_SYSTEM_BASE + IDT_OFFSET, .limit = VECTORS * 16 - 1};
    sregs.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
    sregs.cr3 = AT_PML4;
    sregs.cr4 = 0x620;  /* OSXMMEXCPT OSFXSR PAE */
    sregs.efer = 0xd00; /* NXE LMA LME; no SCE: `syscall` is illegal */
    *ret_sregs = sregs;
    return 0;
}

/* ---- Arena ---- */

static int give_slot(struct microvm_shell *shell, uint64_t from, uint64_t to)
{
    struct kvm_userspace_memory_region region = {
        .slot = shell->slot_count,
        .guest_phys_addr = from,
        .memory_size = to - from,
        .userspace_addr = (uint64_t)shell->arena + from,
    };
    int r = ioctl(shell->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
    shell->slot_count += r == 0;
    return r;
}

static int make_arena(struct microvm_shell *shell, struct error *err)
{
    uint64_t at = LARGE_PAGE;
    for (int window = 0; window < WINDOW_COUNT; window++) {
        shell->offset[window] = at;
        at += shell->base.class.bytes[window];
    }
    shell->arena_bytes = at;

    /* Everything but linear memory can be reached; NORESERVE: pages come when they are touched. */
    uint8_t *arena = mmap(NULL, at, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED) {
        return error_os(err, errno, "mapping %llu MiB for a function VM",
                        (unsigned long long)(at >> 20));
    }
    shell->arena = arena;
    /* Single pages: a huge page under each window would cost megabytes per idle instance. */
    madvise(arena, at, MADV_NOHUGEPAGE);
    madvise(arena, at, MADV_DONTFORK); /* a fork would protect each page, and cost a fault each */
    if (mprotect(arena, shell->offset[WINDOW_MEMORY], PROT_READ | PROT_WRITE) < 0) {
        return error_os(err, errno, "opening the windows of a function VM");
    }
    uint64_t memory_at = shell->offset[WINDOW_MEMORY];
    uint64_t window = at - memory_at;
    shell->memory_given = window < FIRST_MEMORY ? window : FIRST_MEMORY;
    if (give_slot(shell, 0, memory_at + shell->memory_given) < 0) {
        return error_os(err, errno, "giving a function VM its memory");
    }
    return 0;
}

/* Let KVM and the guest's tables know of at least `bytes` of linear memory, for good. */
static int give_memory(struct microvm_shell *shell, uint64_t bytes)
{
    uint64_t window = shell->base.class.bytes[WINDOW_MEMORY];
    uint64_t before = shell->memory_given;
    uint64_t after = before;
    CHECK(bytes <= window);
    while (after < bytes) {
        after *= 2;
    }
    after = after < window ? after : window;
    uint64_t memory_at = shell->offset[WINDOW_MEMORY];
    if (give_slot(shell, memory_at + before, memory_at + after) < 0) {
        return -1;
    }
    map_memory(shell, before, after);
    shell->memory_given = after;
    return 0;
}

/* Of a window that was given, the guest reaches the first `bytes`; *accessible is how many it did.
 */
static int set_accessible(uint8_t *window, uint64_t *accessible, uint64_t bytes)
{
    uint64_t before = *accessible;
    int r = 0;
    if (bytes > before) {
        r = mprotect(window + before, bytes - before, PROT_READ | PROT_WRITE);
    } else if (bytes < before) {
        r = mprotect(window + bytes, before - bytes, PROT_NONE);
    }
    if (r == 0) {
        *accessible = bytes;
    }
    return r;
}

int microvm_set_memory(struct microvm_shell *shell, uint64_t bytes)
{
    if (bytes > shell->memory_given && give_memory(shell, bytes) < 0) {
        return -1;
    }
    return set_accessible(microvm_window(shell, WINDOW_MEMORY), &shell->memory_accessible, bytes);
}

/* Let KVM and the guest's tables know of at least `bytes` of files' memory, for good. */
static int give_files(struct microvm_shell *shell, uint64_t bytes)
{
    enum { FIRST_FILES = 2 << 20 };
    uint64_t before = shell->files_given;
    uint64_t after = before > 0 ? before : FIRST_FILES;
    uint64_t offset = shell->offset[WINDOW_FILES];
    while (after < bytes) {
        after *= 2;
    }
    CHECK(after <= shell->base.class.bytes[WINDOW_FILES]);
    if (give_slot(shell, offset + before, offset + after) < 0) {
        return -1;
    }
    map_window((uint64_t *)(shell->arena + AT_CODE_DIRECTORY), ABI_FILES_BASE + before,
               offset + before, after - before, READ_WRITE);
    shell->files_given = after;
    return 0;
}

int microvm_set_files(struct microvm_shell *shell, uint64_t bytes, uint64_t bytes_max)
{
    uint64_t most = (bytes_max + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    CHECK(bytes <= most && most <= shell->base.class.bytes[WINDOW_FILES]);
    if (bytes > shell->files_given && give_files(shell, bytes) < 0) {
        return -1;
    }
    return set_accessible(microvm_window(shell, WINDOW_FILES), &shell->files_accessible,
                          shell->files_given < most ? shell->files_given : most);
}

/* ---- vCPU ---- */

static int make_vcpu(struct microvm_shell *shell, struct error *err)
{
    shell->vcpu_fd = ioctl(shell->vm_fd, KVM_CREATE_VCPU, 0);
    if (shell->vcpu_fd < 0) {
        return error_os(err, errno, "making a virtual CPU");
    }
    void *run =
        mmap(NULL, shell->host->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, shell->vcpu_fd, 0);
    if (run == MAP_FAILED) {
        return error_os(err, errno, "mapping a virtual CPU");
    }
    shell->run = run;
    if (shell->host->sregs.cr3 == 0) {
        if (prepare_sregs(shell->vcpu_fd, &shell->host->sregs) < 0) {
            return error_os(err, errno, "reading a virtual CPU's registers");
        }
    }
    if (ioctl(shell->vcpu_fd, KVM_SET_SREGS, &shell->host->sregs) < 0) {
        return error_os(err, errno, "setting a virtual CPU's registers");
    }
    return 0;
}

void microvm_shell_end(struct microvm_shell *shell)
{
    if (list_contains_node(&shell->timer.link)) {
        watchdog_remove(shell->host->watchdog, &shell->timer);
    }
    if (shell->run != NULL) {
        munmap(shell->run, shell->host->run_bytes);
    }
    if (shell->vcpu_fd >= 0) {
        close(shell->vcpu_fd);
    }
    if (shell->vm_fd >= 0) {
        close(shell->vm_fd);
    }
    if (shell->arena != NULL) {
        munmap(shell->arena, shell->arena_bytes);
    }
    free(shell);
}

int microvm_shell_make(struct vmm *vmm, const struct size_class *class,
                       struct microvm_shell **ret_shell, struct error *err)
{
    struct microvm_shell *shell = NEW(struct microvm_shell);
    shell->base.vmm = vmm;
    shell->base.class = *class;
    shell->host = vmm->state;
    shell->vcpu_fd = -1;
    shell->vm_fd = ioctl(shell->host->kvm_fd, KVM_CREATE_VM, 0);
    int r = shell->vm_fd < 0 ? error_os(err, errno, "making a virtual machine") : 0;
    if (r == 0) {
        r = make_arena(shell, err);
    }
    if (r == 0) {
        r = make_vcpu(shell, err);
    }
    if (r < 0) {
        microvm_shell_end(shell);
        return r;
    }
    write_page_tables(shell);
    map_memory(shell, 0, shell->memory_given);
    write_system_page(shell);
    watchdog_add(shell->host->watchdog, &shell->timer);
    *ret_shell = shell;
    return 0;
}

/* ---- First touch ---- */

/*
 * A page the guest touches for the first time costs a fault (tens of microseconds where page tables
 * are shadowed).  So a shell of the pool touches, from inside, what most functions use, before
 * it is anyone's.
 */
struct touch_range {
    uint64_t address;
    uint64_t pages; /* 0 ends the table */
};

/* Runs in the guest: reads rcx pages from rdi on, then writes to those of the table at rsi. */
__asm__(".pushsection .rodata\n"
        "microvm_touch_code:\n"
        "1:  movb (%rdi), %al\n"
        "    addq $4096, %rdi\n"
        "    decq %rcx\n"
        "    jnz 1b\n"
        "2:  movq (%rsi), %rdi\n"
        "    movq 8(%rsi), %rcx\n"
        "    addq $16, %rsi\n"
        "    testq %rcx, %rcx\n"
        "    jz 4f\n"
        "3:  orb $0, (%rdi)\n"
        "    addq $4096, %rdi\n"
        "    decq %rcx\n"
        "    jnz 3b\n"
        "    jmp 2b\n"
        "4:  outb %al, $0xE0\n"
        "microvm_touch_code_end:\n"
        ".popsection\n");
extern const uint8_t microvm_touch_code[];
extern const uint8_t microvm_touch_code_end[];

static void host_touch(struct microvm_shell *shell, uint64_t address, uint64_t pages)
{
    for (int window = 0; window < WINDOW_COUNT; window++) {
        uint64_t offset = address - window_base[window];
        if (address >= window_base[window] && offset < shell->base.class.bytes[window]) {
            madvise(microvm_window(shell, window) + offset, pages * PAGE_BYTES,
                    MADV_POPULATE_WRITE);
        }
    }
}

int microvm_warm_up(struct microvm_shell *shell, struct error *err)
{
    enum { TEXT_PAGES = 16, STACK_PAGES = 2, TABLE_AT = 2048 };
    const uint64_t stack = ABI_STACK_BASE + ABI_STACK_BYTES - STACK_PAGES * PAGE_BYTES;
    const struct touch_range table[] = {
        {ABI_DATA_BASE, 2}, /* head and input of the call block */
        {ABI_DATA_BASE + offsetof(struct abi_block, output), 1},
        {ABI_DATA_BASE + offsetof(struct abi_block, text), 1},
        {ABI_IMAGE_DATA, 2},
        {stack, STACK_PAGES},
        /* A small C program's data, and around the end of its 64 KiB stack. */
        {ABI_MEMORY_BASE, 4},
        {ABI_MEMORY_BASE + UINT64_C(14) * PAGE_BYTES, 8},
        {0, 0},
    };
    uint8_t *text = microvm_window(shell, WINDOW_TEXT);
    const size_t code_bytes =
        (size_t)((uintptr_t)microvm_touch_code_end - (uintptr_t)microvm_touch_code);
    CHECK(code_bytes <= TABLE_AT);

    if (microvm_set_memory(shell, MICROVM_WARM_MEMORY) < 0) {
        return error_os(err, errno, "opening a function VM's memory");
    }
    host_touch(shell, ABI_TEXT_BASE, TEXT_PAGES);
    for (const struct touch_range *range = table; range->pages > 0; range++) {
        host_touch(shell, range->address, range->pages);
    }
    memcpy(text, microvm_touch_code, code_bytes);
    memcpy(text + TABLE_AT, table, sizeof(table));
    shell->run->s.regs.regs = (struct kvm_regs){.rip = ABI_TEXT_BASE,
                                                .rdi = ABI_TEXT_BASE,
                                                .rcx = TEXT_PAGES,
                                                .rsi = ABI_TEXT_BASE + TABLE_AT,
                                                .rflags = 2};
    shell->run->s.regs.sregs = shell->host->sregs;
    shell->run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
    int r = ioctl(shell->vcpu_fd, KVM_RUN, 0);
    memset(text, 0, PAGE_BYTES);
    if (r < 0 || shell->run->exit_reason != KVM_EXIT_IO || shell->run->io.port != ABI_PORT_CALL) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "a first guest program did not run: KVM exit reason %u",
                         shell->run->exit_reason);
    }
    shell->is_warm = true;
    return 0;
}

/* ---- The back end ---- */

/* Does an AVX instruction run in a guest?  Where it does, the runtime has to wipe those registers.
 */
static bool can_run(struct microvm_shell *shell, const uint8_t *code, size_t length)
{
    uint8_t *text = microvm_window(shell, WINDOW_TEXT);
    const uint8_t call[] = {0xe6, ABI_PORT_CALL};
    memcpy(text, code, length);
    memcpy(text + length, call, sizeof(call));
    shell->run->s.regs.regs = (struct kvm_regs){.rip = ABI_TEXT_BASE, .rflags = 2};
    shell->run->s.regs.sregs = shell->host->sregs;
    memset(&shell->run->s.regs.events, 0, sizeof(shell->run->s.regs.events));
    shell->run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    int r = ioctl(shell->vcpu_fd, KVM_RUN, 0);
    return r == 0 && shell->run->exit_reason == KVM_EXIT_IO && shell->run->io.port == ABI_PORT_CALL;
}

static uint32_t find_cpu(struct microvm_shell *shell)
{
    static const uint8_t avx[] = {0xc5, 0xfc, 0x77};                      /* vzeroall */
    static const uint8_t avx512[] = {0x62, 0xa1, 0xfd, 0x40, 0xef, 0xc0}; /* vpxorq zmm16 */
    uint32_t cpu = 0;
    if (can_run(shell, avx, sizeof(avx))) {
        cpu |= ABI_CPU_AVX;
    }
    if (can_run(shell, avx512, sizeof(avx512))) {
        cpu |= ABI_CPU_AVX512;
    }
    return cpu;
}

static int check_extensions(const struct microvm_host *host, struct error *err)
{
    int version = ioctl(host->kvm_fd, KVM_GET_API_VERSION, 0);
    if (version < 0 || host->run_bytes == 0) {
        return error_set(err, ERROR_UNSUPPORTED, "/dev/kvm does not answer as KVM does");
    }
    int sync = ioctl(host->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
    const int wanted = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
    if (version != KVM_API_VERSION || (sync & wanted) != wanted) {
        return error_set(err, ERROR_UNSUPPORTED,
                         "this KVM is too old: Linux 4.17 or later is needed");
    }
    return 0;
}

static void host_free(struct microvm_host *host)
{
    if (host->watchdog != NULL) {
        watchdog_free(host->watchdog);
    }
    if (host->pagemap_fd >= 0) {
        close(host->pagemap_fd);
    }
    if (host->owns_kvm_fd) {
        close(host->kvm_fd);
    }
    free(host);
}

/* One shell, to learn what the CPU lets guests do and that guests run at all. */
static int try_out(struct vmm *vmm, struct error *err)
{
    struct microvm_host *host = vmm->state;
    struct size_class class;
    struct microvm_shell *shell = NULL;
    bool found = class_for(0, 0, 0, &class);
    CHECK(found);
    int r = microvm_shell_make(vmm, &class, &shell, err);
    if (r < 0) {
        return r;
    }
    r = microvm_warm_up(shell, err);
    if (r == 0) {
        host->cpu = find_cpu(shell);
        int khz = ioctl(shell->vcpu_fd, KVM_GET_TSC_KHZ, 0);
        host->tsc_khz = khz > 0 ? (uint64_t)khz : 0;
    }
    microvm_shell_end(shell);
    return r;
}

static int backend_open(struct vmm *vmm, const struct vmm_options *options, struct error *err)
{
    struct microvm_host *host = NEW(struct microvm_host);
    host->owns_kvm_fd = options->kvm_fd < 0;
    host->kvm_fd = options->kvm_fd >= 0 ? options->kvm_fd : open("/dev/kvm", O_RDWR | O_CLOEXEC);
    host->pagemap_fd = -1;
    if (host->kvm_fd < 0) {
        int cause = errno;
        host->owns_kvm_fd = false;
        host_free(host);
        return error_set(err, ERROR_UNSUPPORTED, "/dev/kvm cannot be opened: %s", strerror(cause));
    }
    host->pagemap_fd = options->pagemap_fd > 0 ? options->pagemap_fd
                                               : open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    int run_bytes = ioctl(host->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    host->run_bytes = run_bytes > 0 ? (size_t)run_bytes : 0;
    int r = check_extensions(host, err);
    if (r == 0) {
        r = watchdog_new(&host->watchdog, err);
    }
    if (r < 0) {
        host_free(host);
        return r;
    }
    vmm->state = host;
    r = try_out(vmm, err);
    if (r < 0) {
        host_free(host);
        vmm->state = NULL;
        /* It is there and refuses: to its user the same as if it were not. */
        err->kind =
            err->kind == ERROR_OS || err->kind == ERROR_DENIED ? ERROR_UNSUPPORTED : err->kind;
        return -(int)err->kind;
    }
    return 0;
}

static void backend_close(struct vmm *vmm)
{
    host_free(vmm->state);
}

static int shell_new(struct vmm *vmm, const struct size_class *class, struct vmm_shell **ret_shell,
                     struct error *err)
{
    struct microvm_shell *shell = NULL;
    int r = microvm_shell_make(vmm, class, &shell, err);
    if (r < 0) {
        return r;
    }
    *ret_shell = &shell->base;
    return 0;
}

static void shell_free(struct vmm_shell *base)
{
    microvm_shell_end((struct microvm_shell *)base);
}

static void interrupt(struct vmm_shell *base)
{
    struct microvm_shell *shell = (struct microvm_shell *)base;
    watchdog_interrupt(shell->host->watchdog, &shell->timer);
}

/* ---- Snapshots ---- */

static void load_elf(struct microvm_shell *shell, const struct elf_view *elf)
{
    uint8_t *data = microvm_window(shell, WINDOW_DATA);
    memcpy(microvm_window(shell, WINDOW_TEXT), elf->text, elf->text_bytes);
    if (elf->data_bytes > 0) {
        memcpy(data + (ABI_IMAGE_DATA - ABI_DATA_BASE), elf->data, elf->data_bytes);
    }
}

static int save_registers(struct microvm_shell *shell, struct registers *ret_registers,
                          struct error *err)
{
    /* The `out` is not over until KVM_RUN is entered again; then the registers are behind it. */
    shell->run->immediate_exit = 1;
    int r = ioctl(shell->vcpu_fd, KVM_RUN, 0);
    bool is_behind = r < 0 && errno == EINTR;
    shell->run->immediate_exit = 0;
    struct kvm_regs regs;
    if (!is_behind || ioctl(shell->vcpu_fd, KVM_GET_REGS, &regs) < 0) {
        return error_os(err, errno, "reading the registers of a snapshot");
    }
    _Static_assert(sizeof(regs) == sizeof(*ret_registers), "in the same order");
    memcpy(ret_registers, &regs, sizeof(regs));
    ret_registers->rflags = 2;
    return 0;
}

static void collect(struct microvm_shell *shell, struct vmm_image *image,
                    const struct elf_view *elf)
{
    uint64_t data_at = ABI_IMAGE_DATA - ABI_DATA_BASE;
    microvm_share(image, elf);
    const struct microvm_shared *shared = image->backend;
    image_add_pages(image, WINDOW_TEXT, 0, elf->text,
                    shared != NULL ? shared->offset : elf->text_bytes);
    image_add_pages(image, WINDOW_DATA, data_at, microvm_window(shell, WINDOW_DATA) + data_at,
                    elf->data_end - data_at);
    image_add_pages(image, WINDOW_STACK, 0, microvm_window(shell, WINDOW_STACK), ABI_STACK_BYTES);
    image_add_pages(image, WINDOW_MEMORY, 0, microvm_window(shell, WINDOW_MEMORY),
                    shell->memory_now);
    image_add_pages(image, WINDOW_FILES, 0, microvm_window(shell, WINDOW_FILES),
                    shell->files_accessible);
    image->info.memory_bytes = shell->memory_now;
    image->info.files_bytes = shell->files_accessible;
}

static int initialise(struct microvm_shell *shell, struct vmm_image *image,
                      const struct elf_view *elf, const struct vmm_sink *sink, struct error *err)
{
    struct vmm_call call = {0};
    if (sink != NULL) {
        call.sink = (struct vmm_sink){.log = sink->log, .context = sink->context};
    }
    struct vmm_outcome outcome = {0};
    struct call_state state = {.call = &call,
                               .limits = &image->limits,
                               .outcome = &outcome,
                               .is_building = true,
                               .begins_late = image->vmm->begins_late};
    const struct registers start = {
        .rip = elf->entry, .rsp = ABI_STACK_BASE + ABI_STACK_BYTES - 64, .rflags = 2};

    load_elf(shell, elf);
    shell->base.image = image;
    shell->building = true;
    if (microvm_enter(shell, &start, &state) == MICROVM_READY) {
        struct abi_block *block = (struct abi_block *)microvm_window(shell, WINDOW_DATA);
        int r = save_registers(shell, &image->registers, err);
        if (r < 0) {
            return r;
        }
        image->info.is_handler = block->is_handler != 0;
        image->info.init_ns = outcome.run_ns;
        collect(shell, image, elf);
        return 0;
    }
    switch (outcome.end) {
    case VMM_END_TIMEOUT:
        return error_set(err, ERROR_TIMEOUT,
                         "the function's initialisation took longer than its limit");
    case VMM_END_EXIT:
        return error_set(err, ERROR_TRAP, "the function's initialisation ended with exit status %u",
                         outcome.exit_code);
    case VMM_END_TRAP:
    case VMM_END_OUTPUT:
    case VMM_END_CANCELLED:
    case VMM_END_BROKEN:
        break;
    }
    return error_set(err, ERROR_TRAP, "the function's initialisation failed: %s", outcome.reason);
}

static int snapshot(struct vmm_image *image, const struct elf_view *elf,
                    const struct vmm_sink *sink, struct error *err)
{
    struct microvm_shell *shell = NULL;
    int r = microvm_shell_make(image->vmm, &image->class, &shell, err);
    if (r < 0) {
        return r;
    }
    r = initialise(shell, image, elf, sink, err);
    microvm_shell_end(shell);
    return r;
}

static void run(struct vmm_shell *base, struct call_state *state)
{
    struct microvm_shell *shell = (struct microvm_shell *)base;
    microvm_enter(shell, &base->image->registers, state);
}

const struct backend backend_microvm = {
    .open = backend_open,
    .close = backend_close,
    .snapshot = snapshot,
    .forget = microvm_forget,
    .shell_new = shell_new,
    .shell_free = shell_free,
    .attach = microvm_attach,
    .run = run,
    .reset = microvm_reset,
    .rest = microvm_rest,
    .keep = microvm_keep,
    .interrupt = interrupt,
};
