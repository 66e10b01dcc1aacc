/* Inside engine/hypervisor: what a driver is, and what the files share. */
#ifndef ENGINE_HYPERVISOR_DRIVER_H
#define ENGINE_HYPERVISOR_DRIVER_H

#include <jansson.h>

#include "engine/hypervisor/hypervisor.h"
#include "engine/hypervisor/launch.h"

enum { ORDER_WORDS_MAX = 340 };

/* A command line being made. */
struct order {
    char *words[ORDER_WORDS_MAX + 1];
    size_t word_count;
    const char *sockets[LAUNCH_SOCKETS_MAX + 1];
    size_t socket_count;
    const char *taps[LAUNCH_TAPS_MAX + 1]; /* copies */
    size_t tap_count;
    bool vhost;
    struct launch_mount mounts[LAUNCH_MOUNTS_MAX]; /* paths are copies */
    size_t mount_count;
    const char *devices[LAUNCH_DEVICES_MAX]; /* copies */
    size_t device_count;
    uint64_t locked_bytes_max;                     /* see launch.h */
    bool network;                                  /* of the host */
    bool keeps_files;                              /* see launch.h */
    bool has_scratch;                              /* LAUNCH_SCRATCH */
    struct launch_share shares[LAUNCH_SHARES_MAX]; /* texts are copies */
    size_t share_count;
    char *share_program;
    json_t *plan;                /* what the VMM is told once it listens: see launch.h */
    json_t *incoming;            /* and what has to be known when it reads a state */
    struct launch_runner runner; /* texts are copies; its `state` is NULL where there is none */
};

void order_add(struct order *order, const char *word);
void order_add_format(struct order *order, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* A socket in the machine's folder; returns the fd that the VMM finds it at. */
int order_add_socket(struct order *order, const char *name);
/* A tap; returns the fd that the VMM finds it at. */
int order_add_tap(struct order *order, const char *name);
void order_add_mount(struct order *order, const char *path, bool writable);
/* Which it finds at another place, the same on all nodes. */
void order_add_mount_at(struct order *order, const char *path, const char *at, bool writable);
/* A character device that it opens itself. */
void order_add_device(struct order *order, const char *path);
/* What VFIO's are opened by, below /dev and /sys, and the memory that they need pinned. */
void order_add_passed(struct order *order, const struct hypervisor_spec *spec);
/* A folder of the host; returns the fd that the VMM finds its virtiofsd at. */
int order_add_share(struct order *order, const struct hypervisor_share *share);
void order_done(struct order *order);

/* The machine that a driver serves, as it sees it. */
struct driver_events {
    void (*on_ready)(bool is_running, void *context);
    void (*on_paused)(bool is_paused, void *context);
    void (*on_reboot)(void *context);
    void (*on_ending)(enum hypervisor_end end, void *context); /* what its exit will have been */
    void (*on_lost)(const struct error *error, void *context); /* the connection has ended */
    /* It stands still, or is about to: what it wrote found no room.  on_paused() follows. */
    void (*on_full)(void *context);
};

struct driver {
    const char *name;
    /* Look for the program; blocks. */
    void (*probe)(const struct hypervisor_options *options, struct hypervisor_driver_info *info,
                  char **ret_program);
    int (*check)(const struct hypervisor_driver_info *info, const struct hypervisor_spec *spec,
                 struct error *err);
    void (*make_order)(const struct hypervisor_driver_info *info, const char *program,
                       const struct hypervisor_spec *spec, struct order *order);
    /* How an exit status is to be understood when nothing was told before, and whether the guest's
     * kernel said on its console that it panicked. */
    enum hypervisor_end (*judge)(const struct launch_exit *exit, bool has_panicked);

    void *(*connect)(struct loop *loop, const char *folder, const struct driver_events *events,
                     void *context, struct error *err);
    void (*disconnect)(void *control);
    void (*pause)(void *control, hypervisor_done done, void *context);
    void (*resume)(void *control, hypervisor_done done, void *context);
    /* NULL, as the next ones: it cannot do that. */
    void (*reset)(void *control, hypervisor_done done, void *context);
    void (*power_down)(void *control, hypervisor_done done, void *context);
    void (*balloon)(void *control, uint64_t bytes, hypervisor_done done, void *context);
    void (*resize_disk)(void *control, size_t index, uint64_t bytes, hypervisor_done done,
                        void *context);
    void (*throttle_disk)(void *control, size_t index, const struct hypervisor_rates *rates,
                          hypervisor_done done, void *context);
    void (*save)(void *control, int owned_fd, bool without_memory, hypervisor_done done,
                 void *context);
    void (*load)(void *control, int owned_fd, bool without_memory, hypervisor_done done,
                 void *context);
    /*
     * Make a template's files (template.h) of a whole state that is read from `fd`, of a machine
     * with so much memory; and would one be read?  Without a VMM: those that are told by HTTP write
     * no state without memory.  `memory_fd`: -1 where none is shared (info.can_clone).  Block; any
     * thread.  NULL, both: a VMM that never runs does it.
     */
    int (*stamp)(int fd, uint64_t memory_bytes, int state_fd, int memory_fd, struct error *err);
    int (*try_state)(int state_fd, struct error *err);
    /* All of them where info.can_migrate, else NULL. */
    void (*leave)(void *control, const struct hypervisor_leaving *leaving,
                  const struct hypervisor_leaving_events *events, void *context);
    void (*stay)(void *control, hypervisor_done done, void *context);
    void (*receive)(void *control, const struct hypervisor_moving *disks, size_t disk_count,
                    int disk_listener, int state_fd,
                    const struct hypervisor_receiving_events *events, void *context);
    void (*announce)(void *control);
    /* Where info.can_pass_usb. */
    void (*set_usb)(void *control, const struct hypervisor_usb *devices, size_t count,
                    struct hypervisor_usb_set *ret_set, hypervisor_done done, void *context);
    /* All of them where info.can_hotplug, else NULL. */
    void (*attach_volume)(void *control, const struct hypervisor_volume *volume,
                          hypervisor_done done, void *context);
    void (*detach_volume)(void *control, const char *id, const char *const *layers,
                          size_t layer_count, hypervisor_done done, void *context);
    void (*resize_volume)(void *control, const char *id, uint64_t bytes, hypervisor_done done,
                          void *context);
    void (*throttle_volume)(void *control, const char *id, const struct hypervisor_rates *rates,
                            hypervisor_done done, void *context);
    void (*lay_over)(void *control, const char *id, const char *below,
                     const struct hypervisor_layer *layer, hypervisor_done done, void *context);
};

/* pin.c: so much memory (page_bytes: in huge pages of this size) is free in NUMA nodes ("0,1"), or
 * these are all there are. */
bool pin_has_room(const char *nodes, uint64_t bytes, uint64_t page_bytes);
/* What QEMU's memory backends are told to be of these: the caller's. */
char *pin_memory_words(const char *nodes);
/* And the member by which Cloud Hypervisor's zones are, each of one. */
#define PIN_ZONE_NODE "host_numa_node"

extern const struct driver driver_qemu;
extern const struct driver driver_firecracker;
extern const struct driver driver_cloud_hypervisor;
extern const struct driver driver_runner;

/* A driver and what was found of it. */
struct found {
    const struct driver *driver;
    struct hypervisor_driver_info info;
    char *program;
};

struct hypervisor {
    struct loop *loop;
    char *monitor;
    struct found *found;
    size_t found_count;
};

/* By its name, or (NULL) the first that is usable; NULL: there is none. */
const struct found *hypervisor_find(const struct hypervisor *hypervisor, const char *name);

/* kHz of the time-stamp counter, measured once in 50 ms; 0: it is not constant here. */
uint64_t hypervisor_tsc_khz(void);

#endif
