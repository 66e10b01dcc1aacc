/* Inside service/volume: what a request comes to. */
#ifndef SERVICE_VOLUME_ASKING_H
#define SERVICE_VOLUME_ASKING_H

#include "service/volume/parts.h"

enum volume_asked {
    VOLUME_ASKED_CHANGE,  /* it is so when it is written */
    VOLUME_ASKED_WORK,    /* the row says what is to be done */
    VOLUME_ASKED_REMOVAL, /* files are to go */
};

struct volume_question {
    const char *kind; /* of the operation */
    const char *project;
    const char *name;
    enum volume_asked asked;
};

/* Propose it with an operation, and answer. */
void volume_ask(struct volume_service *service, struct store_command *owned_command,
                const struct volume_question *question, volume_begun *done, void *context);
void volume_refuse(struct volume_service *service, const struct error *error, volume_begun *done,
                   void *context);
/* May it have a snapshot of that name? */
int volume_snapshot_check(struct volume_service *service, const struct volume *volume,
                          const char *snapshot, struct error *err);
/* That it gets one. */
void volume_add_snapshot(struct store_command *command, const struct volume *volume,
                         const char *snapshot);
/* Its next layer, over `below`. */
void volume_add_layer(struct store_command *command, const struct volume *volume, const char *layer,
                      const char *below, const char *state, uint64_t size_bytes);
int volume_check_schema(struct volume_service *service, struct error *err);

/* Names that a query with one parameter finds, "a, b". */
int volume_names(struct volume_service *service, struct buffer *ret_names, struct error *err,
                 const char *sql, const char *key);
bool volume_add_name(sqlite3_stmt *row, void *context);

#endif
