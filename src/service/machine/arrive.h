/* Inside service/machine: what arrive.c (stopped machines) and arrive_live.c (running ones) share:
 * the files of a machine that arrives. */
#ifndef SERVICE_MACHINE_ARRIVE_H
#define SERVICE_MACHINE_ARRIVE_H

#include "service/machine/parts.h"
#include "service/volume/volume.h"

/* What comes, and where to; arrival_files_init() on the loop. */
struct arrival_files {
    struct machine_service *service;
    char id[MACHINE_ID_SIZE];
    char operation[OPERATION_ID_SIZE]; /* of the node that has it; "": it is of an older version */
    char *blob;                        /* the archive; "": there is none */
    uint64_t blob_bytes;               /* as the node says that has it */
    uint64_t bytes;                    /* on its disk, of all that is in it */
    char *unpacked;
    char *place;
    char *place_snapshots;
    json_t *snapshots; /* name: id */
    json_t *manifest;  /* of the archive, once it was unpacked */
    struct volume_file *layers;
    size_t layer_count;
};
int arrival_files_init(struct arrival_files *files, struct machine_service *service,
                       const char *key, const char *id, const json_t *body, struct error *err);
void arrival_files_done(struct arrival_files *files);

/* UNSUPPORTED: it goes on from what `vmm` has written, and this node has another. */
int arrival_check_vmm(const struct machine_service *service, const json_t *config, const char *vmm,
                      struct error *err);
/* FULL: there is no room for the archive and what is in it. */
int arrival_check_room(const struct arrival_files *files, struct error *err);

/* The next ones block. */

/* Nothing of it is here from earlier, and what comes is known as such.  One that runs may be whole
 * at any moment from now on; another one is with arrival_seal(). */
int arrival_begin(const struct arrival_files *files, bool is_running, struct error *err);
/* Unpack the archive; what is in it besides its content, put in place. */
int arrival_unpack(struct arrival_files *files, struct error *err);
int arrival_place(const struct arrival_files *files, struct error *err);
/* The image that its whole disk is laid over, if it is one, is somewhere else here. */
int arrival_rebase(const struct arrival_files *files, const json_t *config, struct error *err);
/* It is here, and on disk: from now on it may be the only copy. */
int arrival_seal(const struct arrival_files *files, struct error *err);
/* It does not come: whatever of it is here goes. */
void arrival_remove(const struct machine_service *service, const char *id);
/* It is this node's, and its files are no longer arriving. */
void arrival_adopt(const struct machine_service *service, const char *id);

/* It is whole, and waits: it goes when its operation ends without it, whoever tells or does not. */
void arrival_watch(struct machine_service *service, const char *id, const char *operation);
/* At the start: see arrive_files.c. */
void arrival_sweep(struct machine_service *service);
void arrival_sweep_end(struct machine_service *service);

#endif
