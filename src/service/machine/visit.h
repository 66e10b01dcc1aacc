/* Inside service/machine: a machine that arrives while it runs, as arrive_ready.c (until its VMM is
 * begun) and arrive_live.c (from then on) have it. */
#ifndef SERVICE_MACHINE_VISIT_H
#define SERVICE_MACHINE_VISIT_H

#include "base/buffer.h"

#include "service/machine/arrive.h"

struct peer_fetch;
struct stream;

enum {
    VISIT_DISKS = HYPERVISOR_MOVING_MAX,
    VISIT_STATE = VISIT_DISKS, /* places of streams */
    VISIT_NEWS,
    VISIT_STREAMS
};

struct machine_visit {
    struct list_node link;
    struct machine machine; /* what it is to be; in no list */
    uint64_t from;
    char *node; /* that has it */
    char *vmm;
    uint64_t disk_bytes;
    bool is_saved; /* it comes as a state, in the archive */
    struct arrival_files files;
    size_t fetched; /* of the blobs; then the archive */
    size_t healed;  /* how often one of them was damaged here */
    struct peer_fetch *fetch;
    struct buffer program;
    struct hypervisor_vm *vm;
    struct hypervisor_moving disks[VISIT_DISKS];
    size_t disk_count;
    struct volume_visit *volumes[HYPERVISOR_VOLUMES_MAX]; /* all that it has */
    bool are_written[HYPERVISOR_VOLUMES_MAX];
    size_t volume_count;
    size_t plugged;
    int ends[VISIT_STREAMS]; /* to be taken */
    struct stream *news;
    struct loop_timer *timer;
    struct error error;
    bool is_busy; /* a thread has it */
    bool is_whole;
    bool is_over;
    bool is_kept; /* its VMM and files stay */
    machine_done *done;
    void *context;
};

/* It does not come, or has come: what is left of it goes, once no thread has it. */
void visit_end(struct machine_visit *visit, const struct error *error);
/* That, when a thread had it. */
void visit_close(struct machine_visit *visit);
/* All that does not change is here: begin the VMM that waits for the rest. */
void visit_begin(struct machine_visit *visit);

#endif
