/*
 * The content of a machine at one moment, as a folder: what it has written, and, where it ran, its
 * memory.  Snapshots are such folders, clones and restored machines begin from one.
 *
 *   manifest.json        what is below, with digests; written last
 *   initrd               that it was booted with: clones have no use for another one
 *   disk.raw             what it writes over its root; or
 *   disk.qcow2 base.raw  the same, laid over a disk that several machines share; without base.raw,
 *                        over the disk that is its image (a blob), or, of what was cloned or
 *                        restored, over base.qcow2, which is laid over that and shared, too
 *   firmware.fd          the variables of its UEFI
 *   volume-N.raw         what its volume in slot N held, in archives alone
 *   user-data            what cloud-init was given: it may hold passwords
 *   state memory         a template (engine/hypervisor/template.h); of a VMM that lets nobody share
 *                        its memory, state alone
 *
 * Files of such a folder never change.  Others that begin from it share them as hard links, so that
 * it can be deleted at any time.  A machine's own folder has the same names, and below `resume/`
 * what it is to go on from at its next start: state, memory, `volumes` (kept.h), and `origin`, the
 * id of the machine it was made of, until it has an identity of its own.
 *
 * All of this blocks; any thread.
 */
#ifndef SERVICE_MACHINE_CONTENT_H
#define SERVICE_MACHINE_CONTENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct error;

#define CONTENT_MANIFEST "manifest.json"
#define CONTENT_RESUME   "resume"
#define CONTENT_STATE    "state"
#define CONTENT_MEMORY   "memory"
#define CONTENT_WHOLE    "whole" /* a state with memory, before it is stamped */
#define CONTENT_ORIGIN   "origin"
#define CONTENT_BASE     "base.qcow2"
#define CONTENT_FIRMWARE "firmware.fd"
#define CONTENT_USER     "user-data"
#define CONTENT_VOLUMES  "volumes"
/* In a machine's folder: content that it is to take as its own. */
#define CONTENT_INCOMING "incoming"

enum { CONTENT_VOLUMES_MAX = 16 };
enum { CONTENT_FORMAT = 1, CONTENT_FILES_MAX = 16 + CONTENT_VOLUMES_MAX };

/* "volume-N.raw" of a slot; 24 bytes. */
void content_volume_name(unsigned slot, char ret_name[24]);

/* What the guest sees of its own disk in `folder`; 0: there is none. */
uint64_t content_disk_size(const char *folder);

/* Copy a machine's disks; the machine stands still. */
int content_copy_disks(const char *machine_folder, const char *folder, struct error *err);

/*
 * The end of making one: digests, `about` (an object; see content_open()) and everything on disk.
 * *ret_bytes: what it takes there.
 */
int content_seal(const char *folder, const json_t *about, uint64_t *ret_bytes, struct error *err);

/*
 * Read its manifest: NOT_FOUND, CORRUPT (a file is missing, or has another size or, `deep`, another
 * content than it had), UNSUPPORTED (a later format).  *ret_manifest: {"format": 1, "machine_id":
 * "...", "config": {...}, "driver": "qemu", "driver_version": "7.2.22", "created_ms": N, "volumes":
 * [...] (volume_describe_kept()), "files": [{"name", "size_bytes", "digest"}...]}.
 */
int content_open(const char *folder, bool deep, json_t **ret_manifest, struct error *err);
bool content_has_memory(const json_t *manifest);

/* How another machine is to begin from it. */
struct content_use {
    bool with_memory;
    const char
        *origin; /* the machine it was of, whose identity is to be shed; NULL: it is the same */
    uid_t uid;   /* who is to own the disk, as root */
    const json_t *volumes; /* that go with the memory: see kept.h; NULL: none */
    bool has_raw_disks;    /* its VMM takes no other: what would be laid over is copied */
};

/* Lay it out in `folder`, which is made, as a machine's; a manifest of its own says what is there.
 */
int content_lay_out(const char *content, const char *folder, const struct content_use *use,
                    struct error *err);

/*
 * Take FOLDER/incoming as the machine's own, in place of what it has; a crash in the middle is made
 * good by calling it again, which is done before each start.  Nothing is there: success.
 */
int content_take_incoming(const char *machine_folder, struct error *err);

/* Is `name` one that a content may have?  A user may have chosen it. */
bool content_is_file(const char *name);

#endif
