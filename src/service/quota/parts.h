/* What the files of this room share. */
#ifndef SERVICE_QUOTA_PARTS_H
#define SERVICE_QUOTA_PARTS_H

#include <stddef.h>

#include "service/quota/quota.h"

enum quota_resource {
    QUOTA_CPUS,
    QUOTA_MEMORY,
    QUOTA_DISK,
    QUOTA_MACHINES,
    QUOTA_FUNCTIONS,
    QUOTA_DEVICES,
    QUOTA_STORED_COUNT, /* those before it are counted in the state */
    QUOTA_REQUESTS = QUOTA_STORED_COUNT,
    QUOTA_INSTANCES,
    QUOTA_RESOURCE_COUNT,
};

/* "cpus", "memory_bytes", ...: of columns, of QuotaSet, of metrics. */
extern const char *const quota_names[QUOTA_RESOURCE_COUNT];

struct quota_row {
    char project[64];
    bool has[QUOTA_RESOURCE_COUNT];
    uint64_t limits[QUOTA_RESOURCE_COUNT];
    uint64_t used[QUOTA_STORED_COUNT];
};

bool quota_is_kept(struct store *store); /* the state has the table */
/* Those of a project (NULL: of all), by name. */
int quota_rows(struct store *store, const char *project_or_null,
               void (*visit)(const struct quota_row *row, void *context), void *context,
               struct error *err);

/* ---- share.c: what is this node's ---- */

struct quota_shares;
struct quota_shares *shares_new(void);
void shares_free(struct quota_shares *shares);
/* One of `nodes`: all that was before is forgotten but how much of a bucket is left. */
void shares_begin(struct quota_shares *shares);
void shares_put(struct quota_shares *shares, const struct quota_row *row, unsigned nodes);
void shares_end(struct quota_shares *shares);
int shares_take(struct quota_shares *shares, const char *project, uint64_t now_ms,
                struct error *err);
unsigned shares_instances(const struct quota_shares *shares, const char *project);
uint64_t shares_refused(struct quota_shares *shares, const char *project);

#endif
