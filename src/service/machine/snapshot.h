/* Inside service/machine: the rows of snapshots, and where their files are. */
#ifndef SERVICE_MACHINE_SNAPSHOT_H
#define SERVICE_MACHINE_SNAPSHOT_H

#include "service/machine/parts.h"

enum { SNAPSHOT_SCHEMA = 7, SNAPSHOTS_MAX = 64 }; /* of a machine */

struct snapshot {
    char id[MACHINE_ID_SIZE];
    char machine_id[MACHINE_ID_SIZE];
    bool is_ready;
    bool has_memory;
};

/* NOT_FOUND; CONFLICT: it is still being made. */
int snapshot_find(struct machine_service *service, const struct machine *machine, const char *name,
                  struct snapshot *ret_snapshot, struct error *err);

/* Do all nodes of the cluster know snapshots? */
bool snapshot_is_known(struct machine_service *service);

/* The caller's. */
char *snapshot_folder(const struct machine_service *service, const char *machine_id,
                      const char *id);
/* Of all of a machine. */
char *snapshot_folder_all(const struct machine_service *service, const char *machine_id);

/* Those of a machine go with it. */
void snapshot_add_forget(struct machine_service *service, struct store_command *command,
                         const char *machine_id);

/* How the snapshots of its volumes are called. */
enum { VOLUME_KEPT_SIZE = 40 };
void snapshot_name_volumes(const char *id, char ret_name[VOLUME_KEPT_SIZE]);

/* What was being made when the node ended is not there. */
void snapshot_recover(struct machine_service *service);

#endif
