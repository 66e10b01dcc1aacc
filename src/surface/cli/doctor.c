/* blixard doctor: what this machine has, what it means, how to fix what is missing. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/hypervisor/hypervisor.h"
#include "engine/jail/jail.h"
#include "engine/net/net.h"
#include "engine/nix/nix.h"
#include "engine/vmm/vmm.h"
#include "engine/wasm/wasm.h"

#include "surface/cli/private.h"

enum { SMALL_FILE = 65536 };

enum verdict { GOOD, NOTE, BAD };

/* What Debian's packages are in nixpkgs. */
static const struct {
    const char *debian;
    const char *nix;
} packages_of_nix[] = {
    {"qemu-system-x86", "qemu_kvm"},
    {"qemu-utils", "qemu_kvm"},
    {"ovmf", "qemu_kvm"},
    {"qemu-system-common", "virtiofsd"},
    {"nix-bin", "nix"},
    {"nodejs npm", "nodejs"},
    {"rustc libstd-rust-dev-wasm32", "a rustc with wasm32-wasi, of rust-overlay or fenix"},
    {"clang-14 lld-14 wasi-libc libclang-rt-14-dev-wasm32", "pkgsCross.wasi32.stdenv.cc"},
    {"clang-14 lld-14 wasi-libc libc++-14-dev-wasm32 libc++abi-14-dev-wasm32",
     "pkgsCross.wasi32.stdenv.cc"},
};

/* NixOS has no apt: there the node's programs are those of its configuration. */
static char *on_this_system(const char *fix)
{
    static const char apt[] = "apt-get install ";
    if (!text_starts_with(fix, apt) || !file_exists("/etc/NIXOS")) {
        return memory_copy_string(fix);
    }
    const char *package = &fix[sizeof(apt) - 1];
    for (size_t i = 0; i < sizeof(packages_of_nix) / sizeof(packages_of_nix[0]); i++) {
        if (strcmp(package, packages_of_nix[i].debian) == 0) {
            package = packages_of_nix[i].nix;
            break;
        }
    }
    return memory_format("services.blixard.extraPackages = [ pkgs.NAME ]; of nixpkgs: %s", package);
}

/* `means` and `fix` are "" where there is nothing to say. */
static void find(json_t *findings, const char *name, enum verdict verdict, const char *found,
                 const char *means, const char *fix)
{
    static const char *const verdicts[] = {"ok", "note", "bad"};
    MEMORY_OWNED char *here = on_this_system(fix);
    json_array_append_new(findings,
                          json_pack("{s:s, s:s, s:s, s:s, s:s}", "name", name, "verdict",
                                    verdicts[verdict], "found", found, "means", means, "fix",
                                    here));
}

/* The first line of a small file; "" when it cannot be read. */
static char *first_line(const char *path)
{
    BUFFER_OWNED struct buffer text = {0};
    struct error ignored = {0};
    if (file_read(path, SMALL_FILE, &text, &ignored) < 0) {
        return memory_copy_string("");
    }
    const char *line = buffer_string(&text);
    return memory_copy_text(line, strcspn(line, "\n"));
}

/* ---- The kernel and the machine ---- */

static bool find_kvm(json_t *findings)
{
    struct vmm_probe probe;
    vmm_probe(&probe);
    if (probe.kvm_usable) {
        find(findings, "KVM", GOOD,
             probe.kvm_paravirtual ? "paravirtual, works" : "hardware, works",
             "functions run in microVMs of their own", "");
        return true;
    }
    const char *fix = !probe.kvm_exists
        ? "load kvm_intel or kvm_amd; in a VM, let its host allow nested virtualisation"
        : !probe.kvm_accessible
        ? "join the group of /dev/kvm: usermod -aG kvm $USER, then log in again"
        : "see the kernel's log: dmesg | grep -i kvm";
    find(findings, "KVM", NOTE, probe.kvm_reason,
         "functions run in the process sandbox (isolation: process), which is weaker", fix);
    return false;
}

static void find_kernel(json_t *findings)
{
    struct utsname name;
    struct vmm_probe probe;
    if (uname(&name) == 0) {
        find(findings, "kernel", GOOD, name.release, "", "");
    }
    vmm_probe(&probe);
    find(findings, "PAGEMAP_SCAN", probe.pagemap_scan ? GOOD : NOTE,
         probe.pagemap_scan ? "works" : "missing",
         probe.pagemap_scan ? "resets find the changed pages quickly"
                            : "resets after a request look through more memory",
         probe.pagemap_scan ? "" : "Linux 6.7 or newer has it");
}

static void find_huge_pages(json_t *findings)
{
    MEMORY_OWNED char *value = first_line("/sys/module/kvm/parameters/nx_huge_pages");
    if (value[0] == '\0') {
        find(findings, "nx_huge_pages", GOOD, "not there", "this KVM does not split huge pages",
             "");
    } else if (strcmp(value, "N") == 0 || strcmp(value, "never") == 0) {
        find(findings, "nx_huge_pages", GOOD, value, "making VMs costs no extra thread", "");
    } else {
        find(findings, "nx_huge_pages", NOTE, value,
             "KVM starts a thread per VM, which makes new VMs slower (pooled ones are not)",
             "where all guests are trusted or the CPU is not affected: "
             "echo never > /sys/module/kvm/parameters/nx_huge_pages");
    }
}

static void find_cgroups(json_t *findings)
{
    BUFFER_OWNED struct buffer mounts = {0};
    struct error ignored = {0};
    if (file_read("/proc/mounts", 1 << 20, &mounts, &ignored) < 0) {
        return;
    }
    const char *cgroup = strstr(buffer_string(&mounts), " cgroup2 ");
    if (cgroup == NULL) {
        find(findings, "favordynmods", NOTE, "no cgroup2 is mounted", "", "");
        return;
    }
    MEMORY_OWNED char *line = memory_copy_text(cgroup, strcspn(cgroup, "\n"));
    bool is_on = strstr(line, "favordynmods") != NULL;
    find(findings, "favordynmods", is_on ? GOOD : NOTE, is_on ? "on" : "off",
         is_on ? "" : "starting processes in cgroups waits for the kernel, milliseconds at times",
         is_on ? "" : "mount -o remount,favordynmods /sys/fs/cgroup");
}

static void find_groups(json_t *findings)
{
    char text[96];
    unsigned limits = jail_group_probe(text, sizeof(text));
    bool is_full = (limits & (JAIL_GROUP_CPU | JAIL_GROUP_MEMORY | JAIL_GROUP_PROCESSES)) ==
        (JAIL_GROUP_CPU | JAIL_GROUP_MEMORY | JAIL_GROUP_PROCESSES);
    find(findings, "control groups", is_full ? GOOD : NOTE, text,
         is_full ? "what machines use of CPU, memory and processes is limited"
                 : "machines are limited by nothing else",
         is_full ? "" : "run the node as root where control groups are mounted");
}

static void find_jail(json_t *findings)
{
    char text[160];
    unsigned achieved = jail_probe();
    jail_describe(achieved, text, sizeof(text));
    bool full = achieved == JAIL_FULL;
    find(findings, "jail", full ? GOOD : NOTE, text,
         full ? "runners and compilers are fully confined"
              : "runners and compilers are confined by the rest",
         full ? ""
              : "run the node as root (it gives that up for runners), or allow user namespaces");
}

/* Tried out in a namespace of its own: nothing of this machine changes. */
static void find_networks(json_t *findings)
{
    char fix[320];
    struct net_probe probe;
    net_probe(&probe);
    if (!probe.can_link || !probe.can_tap || !probe.can_rules) {
        find(findings, "networks", NOTE, probe.problem,
             "machines have the user-mode network only: they publish ports and do not meet", "");
        return;
    }
    if (probe.conflict[0] != '\0') {
        snprintf(fix, sizeof(fix),
                 "accept them there, by the names of their bridges: iptables -I FORWARD -i bx+ -j "
                 "ACCEPT; iptables -I FORWARD -o bx+ -j ACCEPT");
        find(findings, "networks", NOTE, probe.conflict,
             "it drops what machines in networks send through this host", fix);
        return;
    }
    find(findings, "networks", probe.problem[0] == '\0' ? GOOD : NOTE,
         probe.problem[0] == '\0' ? "bridges, taps, packet filter, VXLAN" : probe.problem,
         "machines have networks of their own", "");
}

static void find_memory(json_t *findings)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    long page_bytes = sysconf(_SC_PAGESIZE);
    double gib = (double)pages * (double)page_bytes / (1 << 30);
    char text[64];
    snprintf(text, sizeof(text), "%.1f GiB, %ld CPUs", gib, sysconf(_SC_NPROCESSORS_ONLN));
    find(findings, "memory", gib >= 1 ? GOOD : NOTE, text,
         gib >= 1 ? "" : "enough for small functions only: building one takes some hundred MiB",
         "");
}

/* What machines with --huge-pages have; none is no fault. */
static void find_pages_set_aside(json_t *findings)
{
    struct hypervisor_pages of_2m = hypervisor_read_pages(HYPERVISOR_PAGE_2M);
    struct hypervisor_pages of_1g = hypervisor_read_pages(HYPERVISOR_PAGE_1G);
    char text[128];
    bool has_some = of_2m.count > 0 || of_1g.count > 0;
    snprintf(text, sizeof(text),
             "%" PRIu64 " of 2MiB, %" PRIu64 " free; %" PRIu64 " of 1GiB, %" PRIu64 " free",
             of_2m.count, of_2m.free, of_1g.count, of_1g.free);
    find(findings, "huge pages", GOOD, has_some ? text : "none set aside",
         has_some ? "machines can ask for them (vm create --huge-pages)"
                  : "no machine can have its memory of them (vm create --huge-pages)",
         has_some ? ""
                  : "sysctl vm.nr_hugepages=512 sets 1 GiB aside; soon after the start of the "
                    "system, while memory is in one piece");
}

static void find_limits(json_t *findings)
{
    struct rlimit files = {0};
    char text[64];
    getrlimit(RLIMIT_NOFILE, &files);
    bool good = files.rlim_max >= 65536;
    snprintf(text, sizeof(text), "%" PRIu64 " open files", (uint64_t)files.rlim_max);
    find(findings, "limits", good ? GOOD : NOTE, text,
         good ? "" : "connections and VMs together may not be more",
         good ? "" : "raise the hard limit: LimitNOFILE=1048576 in a systemd unit, or ulimit -Hn");
}

static void find_disk(json_t *findings)
{
    struct statvfs status;
    const char *home = getenv("HOME");
    const char *path = geteuid() == 0 && file_exists("/var/lib") ? "/var/lib"
        : home != NULL                                           ? home
                                                                 : "/tmp";
    if (statvfs(path, &status) < 0) {
        return;
    }
    double gib = (double)status.f_bavail * (double)status.f_frsize / (1 << 30);
    char text[256];
    snprintf(text, sizeof(text), "%.1f GiB free at %.160s", gib, path);
    find(findings, "disk", gib >= 1 ? GOOD : NOTE, text,
         gib >= 1 ? "" : "deploying fails when it is full; what is stored stays",
         gib >= 1 ? "" : "free some space");
}

/* ---- Programs ---- */

struct tools {
    json_t *findings;
    bool complete;
};

static void find_tool(const char *tool, const char *path_or_null, const char *package,
                      bool required, void *context)
{
    struct tools *tools = context;
    char fix[160];
    snprintf(fix, sizeof(fix), "apt-get install %s", package);
    if (path_or_null != NULL) {
        find(tools->findings, tool, GOOD, path_or_null, "", "");
    } else if (required) {
        tools->complete = false;
        find(tools->findings, tool, BAD, "missing", "this node cannot take functions", fix);
    } else {
        const char *means = strcmp(tool, "wasm-opt") == 0
            ? "functions are compiled as their compiler wrote them, and may be slower"
            : "the first answer after a deploy comes later";
        find(tools->findings, tool, NOTE, "missing", means, fix);
    }
}

/* Where one of two things that make a language is missing, the package is named. */
static void find_language(json_t *findings, const char *language, const char *program,
                          const char *file, const char *packages)
{
    char means[96];
    char fix[160];
    MEMORY_OWNED char *path = program[0] == '/'
        ? file_exists(program) ? memory_copy_string(program) : NULL
        : file_find_program(program);
    bool good = path != NULL && (file == NULL || file_exists(file));
    snprintf(means, sizeof(means),
             good ? "builds functions in %s" : "no functions in %s can be built here", language);
    snprintf(fix, sizeof(fix), "apt-get install %s", packages);
    find(findings, language, good ? GOOD : NOTE,
         good               ? path
             : path != NULL ? "half there"
                            : "missing",
         means, good ? "" : fix);
}

static bool find_tools(json_t *findings)
{
    struct tools tools = {.findings = findings, .complete = true};
    wasm_tools_each(find_tool, &tools);
    find_language(findings, "C", "clang-14", "/usr/include/wasm32-wasi/stdio.h",
                  "clang-14 lld-14 wasi-libc libclang-rt-14-dev-wasm32");
    find_language(findings, "C++", "clang++-14", "/usr/lib/wasm32-wasi/libc++.a",
                  "clang-14 lld-14 wasi-libc libc++-14-dev-wasm32 libc++abi-14-dev-wasm32");
    find_language(findings, "Rust", "/usr/bin/rustc", "/usr/lib/rustlib/wasm32-wasi/lib",
                  "rustc libstd-rust-dev-wasm32");
    find_language(findings, "AssemblyScript", "node", NULL, "nodejs npm");
    return tools.complete;
}

/* What machines need besides: where they run, and where their images are made. */
static void find_machines(json_t *findings)
{
    static const struct {
        const char *name;
        const char *program;
        const char *there;
        const char *missing;
        const char *package;
    } needs[] = {
        {"machines", "qemu-system-x86_64", "this node can run machines",
         "this node cannot run machines", "qemu-system-x86"},
        {"disks", "mkfs.ext4", "disks of machines can be made", "this node cannot make machines",
         "e2fsprogs"},
        {"volumes", "qemu-img", "this node can have volumes", "this node cannot have volumes",
         "qemu-utils"},
        {"EROFS", "mkfs.erofs", "root archives become images", "root cannot import images here",
         "erofs-utils"},
        {"squashfs", "sqfstar", "root archives become images without root",
         "who is not root cannot import images here", "squashfs-tools"},
        {"Debian", "mmdebstrap", "images of Debian packages can be built",
         "images of Debian packages cannot be built here", "mmdebstrap"},
    };
    for (size_t i = 0; i < sizeof(needs) / sizeof(needs[0]); i++) {
        MEMORY_OWNED char *path = file_find_program(needs[i].program);
        char fix[160];
        snprintf(fix, sizeof(fix), "apt-get install %s", needs[i].package);
        find(findings, needs[i].name, path != NULL ? GOOD : NOTE, path != NULL ? path : "missing",
             path != NULL ? needs[i].there : needs[i].missing, path != NULL ? "" : fix);
    }
}

/* Parts that are no programs of a path, or may be elsewhere. */
static void find_machine_parts(json_t *findings)
{
    char code[PATH_MAX];
    char variables[PATH_MAX];
    struct error err = {0};
    MEMORY_OWNED char *daemon = hypervisor_find_share_daemon();
    bool has_firmware = hypervisor_find_firmware(code, variables, &err) == 0;
    find(findings, "virtiofsd", daemon != NULL ? GOOD : NOTE, daemon != NULL ? daemon : "missing",
         daemon != NULL ? "machines may share folders of this node"
                        : "machines cannot share folders of this node",
         daemon != NULL ? "" : "apt-get install qemu-system-common");
    find(findings, "UEFI", has_firmware ? GOOD : NOTE, has_firmware ? code : "missing",
         has_firmware ? "machines may start from disks by UEFI"
                      : "machines start from kernels, and from disks by BIOS alone",
         has_firmware ? "" : "apt-get install ovmf");
}

/* Everything else works without it. */
static void find_nix(json_t *findings)
{
    struct nix_store store;
    struct error err = {0};
    char text[NIX_FOLDER_MAX + 64];
    static const char without[] =
        "with it, nodes share store paths, serve them to clients of Nix, and build flakes";
    if (nix_open(&store, &err) < 0) {
        bool is_missing = err.kind == ERROR_UNSUPPORTED;
        find(findings, "Nix", NOTE, is_missing ? "missing" : err.text, without,
             is_missing ? "apt-get install nix-bin"
                        : "run the node as root, or as a user whom the store's daemon serves "
                          "(NIX_REMOTE=daemon)");
        return;
    }
    snprintf(text, sizeof(text), "%s, store %s", store.version, store.folder);
    find(findings, "Nix", GOOD, text, "this node shares its store (blixard store list)", "");
}

/* ---- Telling ---- */

static const char *text_in(const json_t *finding, const char *name)
{
    return json_string_value(json_object_get(finding, name));
}

static void print_findings(const json_t *findings, const char *isolation, bool can_run)
{
    size_t index = 0;
    json_t *finding = NULL;
    json_array_foreach(findings, index, finding)
    {
        printf("%-5s %-15s %s", text_in(finding, "verdict"), text_in(finding, "name"),
               text_in(finding, "found"));
        printf(text_in(finding, "means")[0] != '\0' ? ": %s\n" : "%s\n", text_in(finding, "means"));
        if (text_in(finding, "fix")[0] != '\0') {
            printf("%21s to change it: %s\n", "", text_in(finding, "fix"));
        }
    }
    printf("\nisolation: %s\n%s\n", isolation,
           can_run ? "This machine can run functions."
                   : "This machine cannot run functions yet; see what is bad.");
}

int verb_doctor(const struct arguments *arguments, struct error *err)
{
    JSON_OWNED json_t *findings = json_array();
    enum output output = OUTPUT_TABLE;
    bool has_kvm = find_kvm(findings);
    find_kernel(findings);
    find_huge_pages(findings);
    find_cgroups(findings);
    find_jail(findings);
    find_groups(findings);
    find_memory(findings);
    find_pages_set_aside(findings);
    find_limits(findings);
    find_disk(findings);
    bool can_run = find_tools(findings);
    find_machines(findings);
    find_machine_parts(findings);
    find_nix(findings);
    find_networks(findings);
    const char *isolation = has_kvm ? "microvm" : "process";

    int r = output_of(arguments, &output, err);
    if (r == 0 && output == OUTPUT_TABLE) {
        print_findings(findings, isolation, can_run);
    } else if (r == 0) {
        JSON_OWNED json_t *document = json_pack("{s:s, s:b, s:O}", "isolation", isolation,
                                                "can_run_functions", can_run, "findings", findings);
        print_document(document, output);
    }
    return r < 0 || can_run
        ? r
        : error_set(err, ERROR_UNAVAILABLE, "programs that functions need are missing");
}
