/* Private to the room: the names in a backup. */
#ifndef SERVICE_BACKUP_FORMAT_H
#define SERVICE_BACKUP_FORMAT_H

enum { BACKUP_FORMAT = 1 };

#define BACKUP_MANIFEST "manifest.json"
#define BACKUP_STATE    "state.sqlite"
#define BACKUP_BLOBS    "blobs/"
#define BACKUP_SUMS     "SHA256SUMS"

#endif
