/*
 * Private to the room: what stores say to each other, as bytes.
 *
 * A stream carries frames: u32 length of what follows, u8 kind, body.  Integers are little-endian.
 * The peer is authenticated, and still all it says is checked here: what is malformed is PROTOCOL,
 * and the connection is cut.
 *
 * Who dials says in FRAME_HELLO which versions of this it speaks, and speaks the oldest of them
 * until the other has said, in its own, the newest that both know: so a node of one version of
 * Blixard and one of the next understand each other while a cluster is upgraded.
 *
 * Lane 0 of a dialed connection carries VOTE_*, APPEND_*, TIMEOUT_NOW, FORWARD, READ, TRANSFER and
 * FOLLOW, and what answers them in the other direction.  Lane 1 carries one snapshot after the
 * other (SNAPSHOT, then SNAPSHOT_DATA until it is whole), so that it does not delay heartbeats.
 */
#ifndef ENGINE_STORE_WIRE_H
#define ENGINE_STORE_WIRE_H

#include <raft.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"

struct error;

enum frame_kind {
    FRAME_HELLO = 1, /* first from who dialed: u8 lane, u32 oldest, u32 newest version.  Back: u32
                        version (0: none that both know), u32 oldest, u32 newest */
    FRAME_VOTE,
    FRAME_VOTE_RESULT,
    FRAME_APPEND,
    FRAME_APPEND_RESULT,
    FRAME_TIMEOUT_NOW,
    FRAME_SNAPSHOT,      /* of raft: head, configuration; the data follows in pieces */
    FRAME_SNAPSHOT_DATA, /* also of a followed log: see FRAME_STATE */
    FRAME_FORWARD,       /* to the leader: u64 term, entry */
    FRAME_REFUSED,       /* back: u64 term, u64 sequence: that entry, and later ones, will not be */
    FRAME_READ,          /* to the leader: u64 id */
    FRAME_READ_DONE,     /* back: u64 id, u64 index to wait for; index 0: refused, ask again */
    FRAME_TRANSFER,      /* to the leader: u64 id of the next one, 0: any */
    FRAME_FOLLOW,        /* to a server: u64 index applied, u32 incarnation of the state */
    FRAME_STATE,         /* back: u64 size of a snapshot that follows in SNAPSHOT_DATA */
    FRAME_ENTRY,         /* back: an entry that was applied */
    FRAME_HEAD,          /* back: u64 index applied, u64 leader, u64 term; also as a sign of life */
    FRAME_KIND_COUNT,
};

enum {
    WIRE_OLDEST = 1, /* of a release that may still be in a cluster with this one */
    WIRE_NEWEST = 1,
    FRAME_HEAD_SIZE = 5,
    FRAME_BYTES_MAX = 64 << 20, /* the log between two snapshots is smaller */
    FRAME_PIECE = 256 << 10,
};

/*
 * The next frame of `bytes`: its whole length, 0 when it is not complete yet, or -ERROR_PROTOCOL.
 * On success *ret_kind and the body, lent.
 */
long wire_next(const uint8_t *bytes, size_t length, enum frame_kind *ret_kind,
               const uint8_t **ret_body, size_t *ret_length, struct error *err);

/* Append a frame with this body. */
void wire_put(struct buffer *out, enum frame_kind kind, const void *body, size_t length);

/* Begin a frame whose length is known later; end it with what begin returned. */
size_t wire_begin(struct buffer *out, enum frame_kind kind);
void wire_end(struct buffer *out, size_t begun);

/* The newest version that is in both ranges; 0: none. */
uint32_t wire_common(uint32_t oldest, uint32_t newest);

/* A message of raft but a snapshot, as a frame. */
void wire_put_message(struct buffer *out, const struct raft_message *message);

/* The head of a snapshot; its data follows in FRAME_SNAPSHOT_DATA. */
void wire_put_snapshot(struct buffer *out, const struct raft_install_snapshot *snapshot);

/*
 * What wire_put_message() and wire_put_snapshot() wrote.  Memory inside is raft's (raft_malloc) and
 * is the callee's on success.  A snapshot's data has its length, and base NULL.  PROTOCOL.
 */
int wire_read_message(enum frame_kind kind, const uint8_t *body, size_t length,
                      struct raft_message *ret_message, struct error *err);

/* Give back what a message holds. */
void wire_message_done(struct raft_message *message);

#endif
