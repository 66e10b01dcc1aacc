/*
 * Linux machines: VMMs (QEMU; others by the same table), started, watched and told what to do.
 *
 * A driver is a row of functions (driver.h) and says what it can; what it cannot is refused by
 * hypervisor_check() before anything is made.  A VMM is confined and not a child of the daemon: its
 * monitor (monitor.h) stays beside it, so that the daemon may end and come back, and find it
 * again by its folder (hypervisor_attach()).
 *
 * Main loop thread; no callback comes from inside a call of this door.
 */
#ifndef ENGINE_HYPERVISOR_HYPERVISOR_H
#define ENGINE_HYPERVISOR_HYPERVISOR_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct error;
struct hypervisor;
struct hypervisor_vm;
struct loop;

enum {
    HYPERVISOR_DISKS_MAX = 8,
    HYPERVISOR_NICS_MAX = 4,
    HYPERVISOR_VOLUMES_MAX = 16,
    HYPERVISOR_LAYERS_MAX = 16, /* of a volume, one over the other */
    HYPERVISOR_MOVING_MAX = 1 + HYPERVISOR_VOLUMES_MAX,
    HYPERVISOR_SHARES_MAX = 4,
    HYPERVISOR_FORWARDS_MAX = 16,
    HYPERVISOR_CPUS_MAX = 64,
    HYPERVISOR_NAME_SIZE = 64,
};
#define HYPERVISOR_MEMORY_MIN (UINT64_C(64) << 20)
#define HYPERVISOR_MEMORY_MAX (UINT64_C(1) << 40)
#define HYPERVISOR_PAGE_2M    (UINT64_C(2) << 20)
#define HYPERVISOR_PAGE_1G    (UINT64_C(1) << 30)

/* Sockets in a machine's folder, besides the monitor's: of the guest agent. */
#define HYPERVISOR_AGENT_SOCKET "agent.sock"

/* And the folder that a runner's VMM is in, which is its own: made by the owner of the machine. */
#define HYPERVISOR_RUNNER_STATE "state"

/*
 * Until when what runs in a machine's folder, or is started there, may run (boot clock);
 * HYPERVISOR_NO_LEASE: for as long as it likes.  Its monitor ends it then, with or without a
 * daemon.  hypervisor_has_lease(): false: its monitor is of an older Blixard, and does not know.
 */
#define HYPERVISOR_NO_LEASE UINT64_MAX
int hypervisor_set_lease(const char *folder, uint64_t until_ms, struct error *err);
bool hypervisor_has_lease(const char *folder);

/* ---- Drivers ---- */

struct hypervisor_driver_info {
    const char *name; /* "qemu" */
    bool is_usable;
    char version[64];
    char accelerator[16];    /* "kvm", "tcg" */
    char problem[256];       /* why it is not usable, or why it is slow; "" */
    bool can_snapshot;       /* memory and devices, to a file and back */
    bool can_bind;           /* memory to NUMA nodes by itself, where no control group can */
    bool can_bind_huge;      /* of huge pages, which are all taken before a control group binds */
    bool can_clone;          /* and with a memory that many share: HYPERVISOR_MEMORY_COPY */
    uint64_t page_bytes_max; /* of huge pages that its machines' memory may be of; 0: of none */
    char huge_problem[96];   /* why a state of such a machine is not written; "": it is */
    char clone_problem[160]; /* why a state cannot become another machine's; "": it can */
    bool takes_qcow2;        /* else raw disks alone */
    bool can_migrate;        /* while it runs */
    bool can_hotplug;        /* of volumes */
    bool can_rate_each;      /* a disk's reads and writes, each by itself */
    bool can_share;          /* folders of the host, by virtiofs */
    char share_problem[128]; /* why not */
    bool can_vsock;
    bool has_user_network; /* needs no privilege */
    bool can_limit_cpu;    /* by a control group */
    char limits[96];       /* what control groups can limit here, for people */
    bool has_pc;           /* HYPERVISOR_Q35 */
    bool can_pass_devices; /* of the host's PCI, by VFIO */
    bool can_pass_usb;
    bool has_cells;      /* a guest sees NUMA nodes; with has_pc: in HYPERVISOR_Q35 */
    bool ends_by_reboot; /* a guest's power-off does not end it; its reboot does */
    bool agent_by_vsock; /* its socket is a hybrid vsock's: agent_options.vsock_port */
    bool needs_runner;   /* it runs what spec->runner says, and is never chosen by itself */
};

struct hypervisor_options {
    const char *monitor;    /* path of blixard-monitor; NULL: beside this program, or in libexec */
    bool kvm_boots_linux;   /* /dev/kvm is one that an operating system runs on */
    const char *kvm_reason; /* why not, for people */
    const char *runner_folders; /* with commas: where runners may be; NULL or "": nowhere */
};

/* Looks for the programs; none is no failure.  Blocks for some milliseconds (asks versions). */
struct hypervisor *hypervisor_open(struct loop *loop, const struct hypervisor_options *options);
void hypervisor_close(struct hypervisor *hypervisor); /* no vm is open any more */

size_t hypervisor_driver_count(const struct hypervisor *hypervisor);
const struct hypervisor_driver_info *hypervisor_driver_at(const struct hypervisor *hypervisor,
                                                          size_t index);

/* Has it a driver whose machines can have USB devices? */
bool hypervisor_passes_usb(const struct hypervisor *hypervisor);

/* By its name; NULL, "" or an unknown one: the first that is usable, else the first. */
const struct hypervisor_driver_info *hypervisor_driver_info(const struct hypervisor *hypervisor,
                                                            const char *name);

/* ---- Runners: machines that are programs, as microvm.nix makes them ---- */

enum {
    HYPERVISOR_RUNNER_PATH_SIZE = 512,
    HYPERVISOR_RUNNER_TEXT_SIZE = 96,
    HYPERVISOR_RUNNER_TAG_SIZE = 40,
    HYPERVISOR_RUNNER_DEVICES_MAX = 16,
};

struct hypervisor_runner_share {
    char tag[HYPERVISOR_RUNNER_TAG_SIZE];
    char socket[HYPERVISOR_RUNNER_TEXT_SIZE]; /* where its VMM looks for it, in its folder */
    char source[HYPERVISOR_RUNNER_PATH_SIZE]; /* by its real path */
};

struct hypervisor_runner_macvtap {
    char name[16];
    char mac[18];
    char link[16]; /* of the node, that it is made on */
    char mode[16];
};

struct hypervisor_runner {
    char path[HYPERVISOR_RUNNER_PATH_SIZE];      /* its real one */
    char folder[HYPERVISOR_RUNNER_PATH_SIZE];    /* of runner_folders, that it is below */
    char run[HYPERVISOR_RUNNER_PATH_SIZE];       /* bin/microvm-run, by its real path */
    char shut_down[HYPERVISOR_RUNNER_PATH_SIZE]; /* bin/microvm-shutdown; "": it has none */
    char hypervisor[HYPERVISOR_RUNNER_TEXT_SIZE];
    char taps[HYPERVISOR_NICS_MAX][16];
    size_t tap_count;
    struct hypervisor_runner_macvtap macvtaps[HYPERVISOR_NICS_MAX];
    size_t macvtap_count;
    bool has_queues; /* its VMM opens its taps with several queues */
    struct hypervisor_runner_share shares[HYPERVISOR_SHARES_MAX];
    size_t share_count;
    uint32_t vsock_cid;                              /* 0: none */
    char devices[HYPERVISOR_RUNNER_DEVICES_MAX][13]; /* addresses of PCI, that its VMM passes on */
    size_t device_count;
};

/*
 * What a runner says of itself: a folder below one of `folders` (with commas) with bin/microvm-run
 * and share/microvm.  Whatever is in it may be a symbolic link to another place below that folder
 * of `folders` and to no other, belongs to root (or to this user), and can be written by nobody
 * else.  All of it is input.  Blocks for a moment.  DENIED: it is not below one of them; NOT_FOUND;
 * INVALID names the file; UNSUPPORTED: it wants what is not given here.
 */
int hypervisor_read_runner(const char *folders, const char *path,
                           struct hypervisor_runner *ret_runner, struct error *err);

/* ---- What is to run ---- */

/* What a disk may do in a second; 0: not limited.  Of each kind either reading and writing together
 * is limited, or each by itself (info.can_rate_each). */
struct hypervisor_rate {
    uint64_t both;
    uint64_t reads;
    uint64_t writes;
};
struct hypervisor_rates {
    struct hypervisor_rate iops;
    struct hypervisor_rate bytes;
};
bool hypervisor_rates_are_set(const struct hypervisor_rates *rates);

struct hypervisor_disk {
    const char *path;
    const char *format;            /* "raw" or "qcow2" */
    bool read_only;                /* and may be another machine's at the same time */
    const char *base;              /* of "qcow2": the file that it is laid over, or NULL */
    const char *base_format;       /* of it; NULL: "raw" */
    const char *below;             /* of a base of "qcow2": what that is laid over, or NULL */
    const char *below_format;      /* "raw" or "qcow2", with nothing below it */
    const char *serial;            /* at most 20 characters: what the guest finds it by */
    struct hypervisor_rates rates; /* with a driver that has hypervisor_throttle_disk(): by that */
};

struct hypervisor_forward { /* of the user-mode network */
    const char *address;    /* on the host; "": all of IPv4 */
    uint16_t host_port;
    uint16_t guest_port;
    bool is_udp;
};

struct hypervisor_nic {
    const char *mac;
    const char *tap; /* of net_tap_ensure(), by name; NULL: the user-mode network; "": one that
                        leads nowhere (net_tap_open_spare()) */
    const struct hypervisor_forward *forwards;
    size_t forward_count;
};

struct hypervisor_volume;

struct hypervisor_share {
    const char *path; /* a folder of the host: by its real path, without symbolic links */
    const char *tag;  /* what the guest mounts it by (virtiofs) */
    bool read_only;
};

/* A PCI function of the host that vfio-pci has, by its address, and its IOMMU group. */
enum { HYPERVISOR_DEVICES_MAX = 32, HYPERVISOR_DEVICE_GROUP_SIZE = 12 };
struct hypervisor_device {
    char address[13];
    char group[HYPERVISOR_DEVICE_GROUP_SIZE];
    bool has_rom; /* the guest's firmware has a use for it */
};

/* What it is put together of. */
enum hypervisor_board {
    HYPERVISOR_MICROVM, /* virtio by memory-mapped registers; a kernel is given */
    HYPERVISOR_Q35,     /* a PC with PCI; without a kernel its firmware boots the first disk */
};

enum hypervisor_memory {
    HYPERVISOR_MEMORY_OWN,    /* anonymous */
    HYPERVISOR_MEMORY_SHARED, /* in memory_file, which becomes a template */
    HYPERVISOR_MEMORY_COPY,   /* memory_file is read; what is written stays private */
};

/* A NUMA node that the guest sees. */
enum { HYPERVISOR_CELLS_MAX = 8 };
struct hypervisor_cell {
    char cpus[256]; /* vCPUs, by their numbers: "0,1" */
    uint64_t memory_bytes;
    char host_nodes[64]; /* of this host, that its memory is to be of: "0,1"; "": any */
};

struct hypervisor_spec {
    const char *driver; /* NULL: the first usable one */
    const char *name;   /* for people: in the process list */
    const char *folder; /* of the machine, absolute; the agent's socket is made in it */
    uid_t uid;          /* of the VMM where the daemon is root */
    unsigned cpus;
    unsigned cpu_limit_percent; /* of one CPU, of all that the VMM does; 0: not limited */
    uint64_t memory_bytes;
    uint64_t page_bytes; /* huge pages that it is made of, of a size that the kernel has; 0: none */
    enum hypervisor_memory memory;
    const char *memory_file;
    const char *memory_nodes; /* NUMA nodes that it is to be of: "0,1"; NULL or "": any.  Heeded by
                                 a driver that can bind it where no control group does. */
    const struct hypervisor_cell *cells; /* all of its CPUs and memory; with info.has_cells */
    size_t cell_count;                   /* 0: it sees one node */
    enum hypervisor_board board;
    /* UEFI instead of a BIOS: its code, which is shared, and a copy of its variables of the
     * machine's own (see hypervisor_find_firmware()); NULL: a BIOS. */
    const char *firmware;
    const char *firmware_variables;
    bool is_trial;       /* it never runs, and writes nothing: its variables are only read */
    const char *kernel;  /* ELF with PVH note, or bzImage; NULL: as the first disk says */
    const char *initrd;  /* NULL: none */
    const char *cmdline; /* beyond what the driver needs */
    const struct hypervisor_disk *disks;
    size_t disk_count;
    const struct hypervisor_nic *nics;
    size_t nic_count;
    const struct hypervisor_share *shares; /* a machine that has one is not saved */
    size_t share_count;
    const struct hypervisor_device *devices; /* that it has whole; such a one is not saved either */
    size_t device_count;
    bool has_usb;     /* a controller, and what hypervisor_set_usb() plugs in: the same of it */
    bool is_incoming; /* waits for a state: hypervisor_load() */
    /* With is_incoming: plugged in before the state is read, which is of a machine with them. */
    const struct hypervisor_volume *volumes;
    size_t volume_count;
    /* With is_incoming: the state is read from this file, and it runs on from there: on_started
     * comes then.  NULL: the caller loads. */
    const char *state_file;
    /* Instead of board, kernel, disks and shares: with the driver "runner".  `nics` have the taps
     * of runner->taps, in order.  It may write below FOLDER/HYPERVISOR_RUNNER_STATE alone, no file
     * larger than this (0: any). */
    const struct hypervisor_runner *runner;
    uint64_t runner_file_bytes_max;
    /* The file is renamed to FILE.used before the guest runs: as its disks change from then on, the
     * state must never be read again. */
    bool uses_state_up;
};

/* Can it be run here?  INVALID, UNSUPPORTED with the reason. */
int hypervisor_check(const struct hypervisor *hypervisor, const struct hypervisor_spec *spec,
                     struct error *err);

/* UEFI of this host: code, and the variables that a new machine has.  NOT_FOUND. */
int hypervisor_find_firmware(char ret_code[PATH_MAX], char ret_variables[PATH_MAX],
                             struct error *err);
/* virtiofsd, for shared folders; the caller's, or NULL. */
char *hypervisor_find_share_daemon(void);

/*
 * How a machine whose vCPUs run each on one of `cpus` ("0-1,8-9", in their order) lies in the NUMA
 * nodes of this host (`sys`: "/sys", or a tree of its form): its CPUs and memory; 0: in one, or
 * that is not known.  A machine that goes on from a state keeps the cells that it had:
 * hypervisor_place_cells() says of which nodes they are now.
 */
size_t hypervisor_lay_out(const char *sys, const struct hypervisor_spec *spec, const char *cpus,
                          struct hypervisor_cell ret_cells[HYPERVISOR_CELLS_MAX]);
void hypervisor_place_cells(const char *sys, const char *cpus, struct hypervisor_cell *cells,
                            size_t count);

/* The huge pages of one size that this node has set aside, and that are free now. */
struct hypervisor_pages {
    uint64_t count;
    uint64_t free;
};
struct hypervisor_pages hypervisor_read_pages(uint64_t page_bytes);

/* ---- A running machine ---- */

enum hypervisor_end {
    HYPERVISOR_END_SHUTDOWN, /* the guest powered off */
    HYPERVISOR_END_RESET,    /* it was to end at a reboot, and the guest rebooted */
    HYPERVISOR_END_PANIC,    /* the guest's kernel */
    HYPERVISOR_END_KILLED,   /* by us */
    HYPERVISOR_END_FAILED,   /* the VMM: see text */
};
const char *hypervisor_end_text(enum hypervisor_end end);

struct hypervisor_exit {
    enum hypervisor_end end;
    uint64_t at_ms; /* since 1970 */
    char text[384]; /* for people */
};

struct hypervisor_events {
    /* The VMM obeys; with spec->is_incoming it waits.  Comes once more when its connection was lost
     * and made anew: what it was asked before has failed, and on_paused() says how it stands. */
    void (*on_started)(void *context);
    void (*on_paused)(bool is_paused, void *context);
    void (*on_reboot)(void *context); /* see hypervisor_panic() */
    /* Once, last: it has ended, or could not be started.  The owner still calls hypervisor_free().
     */
    void (*on_exit)(const struct hypervisor_exit *exit, void *context);
};

/* As on_reboot() is called: of what the kernel of the boot that has ended panicked, as its console
 * said ("": it did not say of what); NULL when it did not say so.  What comes late from a monitor
 * that is behind counts as said by the next boot. */
const char *hypervisor_panic(const struct hypervisor_vm *vm);

/* Start it (see hypervisor_check()); the spec is copied as far as it is needed. */
struct hypervisor_vm *hypervisor_start(struct hypervisor *hypervisor,
                                       const struct hypervisor_spec *spec,
                                       const struct hypervisor_events *events, void *context);

/* Find it again by its folder: on_started or on_exit follows. */
struct hypervisor_vm *hypervisor_attach(struct hypervisor *hypervisor, const char *driver,
                                        const char *folder, const struct hypervisor_events *events,
                                        void *context);

/* It goes on; no callback comes afterwards.  Accepts NULL. */
void hypervisor_free(struct hypervisor_vm *vm);

typedef void (*hypervisor_done)(const struct error *error, void *context);

/* It stands still because a disk of the node is full: what it wrote waits, and is written when it
 * is resumed. */
bool hypervisor_is_full(const struct hypervisor_vm *vm);

void hypervisor_pause(struct hypervisor_vm *vm, hypervisor_done done, void *context);
void hypervisor_resume(struct hypervisor_vm *vm, hypervisor_done done, void *context);
void hypervisor_reset(struct hypervisor_vm *vm, hypervisor_done done, void *context);
/* The power button: a guest that listens ends. */
void hypervisor_power_down(struct hypervisor_vm *vm, hypervisor_done done, void *context);
/* At once; on_exit follows. */
void hypervisor_kill(struct hypervisor_vm *vm);
/* The one of that folder, and its monitor, and wait for it; nothing when none runs.  Any thread. */
void hypervisor_end(const char *folder);

/*
 * Write the state to `fd` (taken): memory, unless it is a template's file, and devices; it is
 * paused meanwhile and afterwards.  The disks are the caller's affair.
 */
void hypervisor_save(struct hypervisor_vm *vm, int owned_fd, bool without_memory,
                     hypervisor_done done, void *context);
/* Read it into a machine that waits for it; it is paused then. */
void hypervisor_load(struct hypervisor_vm *vm, int owned_fd, bool without_memory,
                     hypervisor_done done, void *context);

/*
 * A running machine goes to another VMM (info.can_migrate; else UNSUPPORTED), of the same program,
 * version, accelerator and spec, with the same volumes: what it writes on by the NBD protocol, each
 * disk through a connected socket of its own, then its memory and devices through another.  Sockets
 * are taken.
 *
 * hypervisor_receive(): into one that waits (spec->is_incoming without a state_file), with disks of
 * the same sizes, in the same order.  `disk_listener` listens, and serves as many peers as there
 * are disks, which may have connected before.  Its `on_end` with NULL: all is there, and it waits
 * to be resumed.
 *
 * hypervisor_leave(): `on_end` NULL: all is written, and it is paused for good, but for
 * hypervisor_stay().  An error: it runs on here, once hypervisor_stay() is done; FULL: the other
 * one has no room for a disk.
 */
enum hypervisor_leg { HYPERVISOR_LEG_DISK, HYPERVISOR_LEG_MEMORY, HYPERVISOR_LEG_SWITCH };
struct hypervisor_moving {
    char volume[20]; /* its id; "": a disk of the spec */
    size_t disk;     /* by its place in there */
    bool is_layer;   /* what lies below it is at the other one's already: that is not sent */
};
struct hypervisor_leaving {
    struct hypervisor_moving disks[HYPERVISOR_MOVING_MAX];
    size_t disk_count;
    int disk_fds[HYPERVISOR_MOVING_MAX];
    int state_fd;
    uint64_t downtime_ms;
    uint64_t bytes_per_second; /* 0: not limited */
};
struct hypervisor_leaving_events {
    void (*on_progress)(enum hypervisor_leg leg, uint64_t bytes, uint64_t total, void *context);
    hypervisor_done on_end; /* once, last */
};
void hypervisor_leave(struct hypervisor_vm *vm, const struct hypervisor_leaving *leaving,
                      const struct hypervisor_leaving_events *events, void *context);
/* Whatever became of its leaving: none of its callbacks comes any more, and it runs. */
void hypervisor_stay(struct hypervisor_vm *vm, hypervisor_done done, void *context);
struct hypervisor_receiving_events {
    void (*on_waiting)(void *context); /* the other one may begin */
    hypervisor_done on_end;            /* once, last */
};
void hypervisor_receive(struct hypervisor_vm *vm, const struct hypervisor_moving *disks,
                        size_t disk_count, int disk_listener, int state_fd,
                        const struct hypervisor_receiving_events *events, void *context);

/* It has come here from another VMM: its interfaces say so to the switches that they are plugged
 * into (RARP), some times in the next second.  Nothing where a driver does not know that. */
void hypervisor_announce(struct hypervisor_vm *vm);

/* What the memory balloon is to leave the guest. */
void hypervisor_balloon(struct hypervisor_vm *vm, uint64_t bytes, hypervisor_done done,
                        void *context);

/* Make a disk (by its place in the spec) larger while it runs; whole KiB. */
void hypervisor_resize_disk(struct hypervisor_vm *vm, size_t index, uint64_t bytes,
                            hypervisor_done done, void *context);

/* What a disk may do from now on.  UNSUPPORTED: the driver has it from the start, by the spec. */
void hypervisor_throttle_disk(struct hypervisor_vm *vm, size_t index,
                              const struct hypervisor_rates *rates, hypervisor_done done,
                              void *context);

/*
 * USB devices of the host that a running machine has (spec->has_usb; else UNSUPPORTED): these, and
 * no others.  By `name`: one that it has by that name stays as it is, so that a device that was
 * plugged in anew has another one.  Their nodes of usbfs are given as descriptors, which stay the
 * caller's.  One that is refused keeps no other away: an error is the first refusal.  *ret_set:
 * which of them it had before, and has since, a bit each.  One call at a time.
 */
enum { HYPERVISOR_USB_MAX = 14, HYPERVISOR_USB_NAME_SIZE = 40 };
struct hypervisor_usb {
    char name[HYPERVISOR_USB_NAME_SIZE]; /* letters, digits, '-' and '.' */
    int fd;
};
struct hypervisor_usb_set {
    uint32_t had, added;
};
void hypervisor_set_usb(struct hypervisor_vm *vm, const struct hypervisor_usb *devices,
                        size_t count, struct hypervisor_usb_set *ret_set, hypervisor_done done,
                        void *context);

/*
 * Volumes: disks that come and go while it runs (drivers with can_hotplug; else UNSUPPORTED).
 * Their files are given as descriptors, which stay the caller's.  Twice is as once.
 */
struct hypervisor_layer {
    const char *id;     /* hex digits */
    const char *format; /* "raw" or "qcow2" */
    int fd;             /* for reading and writing; -1: it is not written */
    int read_fd;        /* for reading */
    bool is_encrypted;
};

struct hypervisor_volume {
    const char *id;                        /* 16 hex digits: the serial that the guest sees */
    const struct hypervisor_layer *layers; /* the one that is written, then those below it */
    size_t layer_count;  /* 0: an empty disk stands for it, in a VMM that never runs */
    uint64_t size_bytes; /* of that */
    unsigned slot;       /* below HYPERVISOR_VOLUMES_MAX, its own */
    const void *key;     /* of the encrypted ones; NULL: none is */
    size_t key_length;
    struct hypervisor_rates rates;
};
void hypervisor_attach_volume(struct hypervisor_vm *vm, const struct hypervisor_volume *volume,
                              hypervisor_done done, void *context);
/* Whatever the guest does with it; `layers`: the ids of all that it has. */
void hypervisor_detach_volume(struct hypervisor_vm *vm, const char *id, const char *const *layers,
                              size_t layer_count, hypervisor_done done, void *context);
/* File and disk. */
void hypervisor_resize_volume(struct hypervisor_vm *vm, const char *id, uint64_t bytes,
                              hypervisor_done done, void *context);
void hypervisor_throttle_volume(struct hypervisor_vm *vm, const char *id,
                                const struct hypervisor_rates *rates, hypervisor_done done,
                                void *context);
/* From now on what is written goes to `layer`, a qcow2 that lies over layer `below`, which is not
 * written any more. */
void hypervisor_lay_over(struct hypervisor_vm *vm, const char *id, const char *below,
                         const struct hypervisor_layer *layer, hypervisor_done done, void *context);

/* Does a VMM (or its monitor) live in this folder, whoever started it? */
bool hypervisor_is_alive(const char *folder);

/* What it has used, of the operating system; false: it does not run. */
struct hypervisor_usage {
    uint64_t cpu_user_ms;
    uint64_t cpu_system_ms;
    uint64_t memory_bytes; /* resident */
    uint64_t read_bytes;   /* of disks, where this may be read */
    uint64_t write_bytes;
    pid_t pid;
};
bool hypervisor_read_usage(const char *folder, struct hypervisor_usage *ret_usage);

/*
 * Where in its node the VMM of a folder runs.  One with CPUs of its own has them for its vCPUs,
 * each on one of them, in their order; its other threads (disks, networks, the console) run on
 * `others`.  Where the threads of its vCPUs are not known (a runner's program need not name them),
 * all run on `cpus`.
 *
 * Memory is bound to NUMA nodes only where these have as much of it free as the machine may still
 * want: else the kernel would end it for want of memory while other nodes have some.
 */
struct hypervisor_place {
    const char *cpus;      /* "0-3,8" */
    bool is_own;           /* nobody else runs on them */
    const char *others;    /* of one with its own; "": the same ones */
    const char *nodes;     /* NUMA nodes that its memory is to be of; NULL or "": any */
    uint64_t memory_bytes; /* that it may come to have */
    uint64_t page_bytes;   /* of huge pages: it has them all since it began */
};
#define HYPERVISOR_BOUND_ITSELF "bound by its VMM" /* since it began */
struct hypervisor_pinned {
    const char *how;    /* "cpuset" or "affinity", as it could be had; static */
    const char *memory; /* "bound", or why it is not; "": it was not to be; static */
};
/* Blocks for some milliseconds, longer where memory moves: on a thread of the pool.  NOT_FOUND:
 * none runs there; INVALID, OS. */
int hypervisor_pin(const char *folder, const struct hypervisor_place *place,
                   struct hypervisor_pinned *ret_pinned, struct error *err);

/* As the kernel has it now; false: none runs.  Of one with its own CPUs these are its vCPUs'. */
enum { HYPERVISOR_VCPUS_SHOWN = 256 };
struct hypervisor_standing {
    char cpus[256]; /* of its first thread */
    char nodes[64]; /* NUMA nodes that its memory may be of */
    struct {
        unsigned number;
        char cpus[64];
    } vcpus[HYPERVISOR_VCPUS_SHOWN]; /* ascending; those whose threads are known */
    size_t vcpu_count;
};
bool hypervisor_read_standing(const char *folder, struct hypervisor_standing *ret_standing);

/* What its control group says; false: it has none. */
struct hypervisor_limited {
    uint64_t throttled_ms;
    uint64_t memory_bytes; /* with files that the kernel keeps for it */
    uint64_t memory_bytes_max;
};
bool hypervisor_read_limited(const char *folder, struct hypervisor_limited *ret_limited);

/* A console: connected, non-blocking, the caller's; the newest `history` bytes come first. */
int hypervisor_console(const char *folder, size_t history, int *ret_fd, struct error *err);
/* What its console has said, from both logs; at most `max` bytes from the end. */
struct buffer;
int hypervisor_console_log(const char *folder, size_t max, struct buffer *out, struct error *err);

#endif
