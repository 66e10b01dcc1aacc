/*
 * What the daemon and the agent inside a Linux machine say to each other.  Both sides include this
 * header; it needs base alone, because the guest's side is a small static program.
 *
 * Bytes.  One byte stream per machine: the virtio-serial port named AGENT_PORT, or AF_VSOCK port
 * AGENT_VSOCK_PORT where there is vsock.  A frame is encoded with COBS (Cheshire and Baker,
 * "Consistent Overhead Byte Stuffing", 1999), so that it holds no zero, and a zero ends it.  Either
 * side may come in the middle of the other's words (the daemon was restarted, the guest was booted
 * again, the machine is the clone of a snapshot): it is in step at the next zero.  Empty frames
 * mean nothing.  Frames that cannot be decoded, or are longer than AGENT_FRAME_MAX, are dropped.
 *
 * A frame is struct agent_frame_head (8 bytes, integers little-endian), then the payload.  Payloads
 * are *fields* (u16 tag, u32 length, bytes; a number is 8 bytes, a text has no NUL), except that of
 * DATA, which is bytes as they are, and that of CREDIT.  Fields of unknown tags are passed over,
 * unknown operations are answered with UNSUPPORTED: a machine runs for longer than a daemon does,
 * so old agents meet new daemons.
 *
 * Sessions.  The host begins one, with a zero and RESET, which carries a nonce of its choice and
 * the versions it speaks.  The guest forgets everything that was going on (children are killed,
 * what was to be sent is dropped) and says HELLO with the same nonce and the version that is
 * spoken from then on, 0 if there is none.  The host takes what came before that HELLO for the rest
 * of an earlier session.  An agent that has just opened its port says HELLO with nonce 0: a host
 * that sees it, at whatever time, begins a session.
 *
 * Requests.  The host numbers them from 1 upwards within a session.  The guest may send NOTEs, and
 * sends exactly one ANSWER, which is last: ERROR_KIND (0: none), and the operation's fields.  At
 * most AGENT_REQUESTS_MAX are open at a time; one more is answered with LIMIT.  CANCEL breaks a
 * request off: it is answered (CANCELLED, or whatever had become of it).  CONTROL tells an open
 * request something (a signal, a window's size); it has no answer.
 *
 * Events.  The guest says them at any time within a session, about no request.  The host
 * acknowledges each by a CREDIT with id 0: a machine that goes down waits for that, or two seconds.
 *
 * Streams.  A request has up to three: AGENT_STREAM_IN to the guest, _OUT and _ERR from it.  DATA
 * carries at most AGENT_PIECE_MAX bytes, END is behind the last of them.  A sender may have sent
 * AGENT_WINDOW bytes more than the receiver has given back with CREDIT (u32, bytes consumed); one
 * that sends more breaks the protocol: the guest ends the request, the host ends the session.
 * Frames about requests that are not open are ignored: they crossed with the ANSWER.
 */
#ifndef ENGINE_AGENT_PROTOCOL_H
#define ENGINE_AGENT_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/buffer.h"

#define AGENT_PORT "blixard.agent"

enum {
    AGENT_VERSION = 1,
    AGENT_VSOCK_PORT = 1024,
    AGENT_FRAME_MAX = 131072, /* head and payload */
    AGENT_PIECE_MAX = 32768,
    AGENT_WINDOW = 262144,
    AGENT_REQUESTS_MAX = 64,
};

enum agent_frame_type {
    AGENT_RESET = 1, /* host to guest */
    AGENT_HELLO,     /* guest to host */
    AGENT_REQUEST,   /* host to guest; `operation` is an enum agent_operation */
    AGENT_NOTE,      /* guest to host: a request has begun */
    AGENT_ANSWER,    /* guest to host */
    AGENT_DATA,      /* either */
    AGENT_END,       /* either */
    AGENT_CREDIT,    /* either */
    AGENT_CANCEL,    /* host to guest */
    AGENT_CONTROL,   /* host to guest */
    AGENT_EVENT,     /* guest to host, about no request */
    AGENT_FRAME_TYPES,
};

enum agent_stream { AGENT_STREAM_IN, AGENT_STREAM_OUT, AGENT_STREAM_ERR, AGENT_STREAMS };

struct agent_frame_head {
    uint8_t type;
    uint8_t stream;     /* of DATA, END and CREDIT */
    uint16_t operation; /* of REQUEST */
    uint32_t id;        /* of the request; 0: none */
};

/* Operations.  In brackets: the fields of the request, after the arrow those of the answer. */
enum agent_operation {
    AGENT_INFO = 1, /* -> as HELLO */
    AGENT_PING,     /* [BYTES] -> BYTES */
    /*
     * Run a program.  [ARGUMENT..., ENVIRONMENT..., FOLDER, USER_NAME or USER and GROUP, TTY with
     * ROWS and COLUMNS, INPUT (1: there is an IN stream), TIMEOUT_MS].  NOTE: PID.  With TTY, OUT
     * carries both.  CONTROL: SIGNAL; ROWS and COLUMNS.  -> EXIT_CODE, or SIGNAL; TIMED_OUT.
     * The answer waits for the program alone, not for what it has left in the background.
     */
    AGENT_EXEC,
    /* A file from the IN stream: whole or not at all.  [PATH, MODE, USER, GROUP, MTIME_NS, FLAGS]
     * -> SIZE */
    AGENT_PUT,
    /* A file to the OUT stream.  [PATH].  NOTE: as STAT.  -> SIZE */
    AGENT_GET,
    /* A tree from a tar archive (pax or GNU) in the IN stream, below the folder PATH, which is
     * made.  [PATH, USER, GROUP, FLAGS] -> COUNT, SIZE */
    AGENT_UNPACK,
    /* A tree, or one file, as a pax tar archive to the OUT stream, names relative to the folder
     * that holds PATH.  [PATH] -> COUNT, SIZE */
    AGENT_PACK,
    AGENT_STAT,    /* [PATH, FLAGS] -> KIND MODE USER GROUP SIZE MTIME_NS TARGET (of a link) */
    AGENT_METRICS, /* -> see metrics below */
    AGENT_TIME,    /* [TIME_NS] */
    AGENT_RESEED,  /* [BYTES: entropy, at most 4096] */
    /*
     * [HOSTNAME, NAMESERVER..., SEARCH..., HOST... ("ADDRESS NAME..." for /etc/hosts),
     * INTERFACE...].  What is not named is left alone; what is named is as the request says
     * afterwards: other addresses and routes of these interfaces are gone.  Twice is as once.
     */
    AGENT_NETWORK,
    /* [SOURCE, PATH, FILE_SYSTEM ("" or none: found out), OPTIONS, FLAGS].  SOURCE is "serial:S" (a
     * virtio disk), "tag:T" (virtiofs), "tmpfs", or a device's path. */
    AGENT_MOUNT,
    AGENT_UNMOUNT, /* [PATH, FLAGS] */
    /* The file system mounted at PATH takes its whole disk, once that has at least SIZE (none: as
     * it is), or after 5 s.  [PATH, SIZE] -> SIZE */
    AGENT_GROW,
    AGENT_SYNC, /* everything written is on the disks */
    /* As SYNC, and nothing is written until THAW, or TIMEOUT_MS later (at most 10 minutes).
     * [PATH... (none: all disks'), TIMEOUT_MS] -> COUNT of file systems */
    AGENT_FREEZE,
    AGENT_THAW, /* -> COUNT */
    /* [POWER, TIMEOUT_MS].  The answer says that it has begun. */
    AGENT_SHUTDOWN,
    /* Does it serve?  [CHECK_KIND, PORT_NUMBER, ADDRESS (not for LISTEN; none: 127.0.0.1), PATH,
     * TIMEOUT_MS] -> STATUS (of HTTP) */
    AGENT_CHECK,
    /*
     * Begin a function host: it serves the AWS Lambda Runtime API on 127.0.0.1:9001, runs the
     * program (a bootstrap) and outlives the session.  [ARGUMENT..., ENVIRONMENT..., FOLDER,
     * TIMEOUT_MS, PORT_NUMBER... (of FUNCTION_TUNNEL)].  ERR: what the program says meanwhile.  The
     * answer comes when it asks for its first invocation (STATUS 200), or says that it could not
     * start (STATUS 500; OUT: its JSON).
     * -> STATUS.  CONFLICT: there is one already.
     */
    AGENT_FUNCTION_BEGIN,
    /* One invocation, whose payload is the IN stream.  [REQUEST_ID, DEADLINE_MS, TRACE, ARN].  OUT:
     * what the handler answers, or with STATUS 500 its error's JSON; ERR: what it says meanwhile.
     * NOTE: CONTENT_TYPE, before the first of OUT: the answer comes as the handler makes it; an
     * error behind that is BYTES (its type, a NUL, base64 of its JSON).
     * -> STATUS, BYTES.  UNAVAILABLE: the program ended, LIMIT: one runs already. */
    AGENT_FUNCTION_INVOKE,
    /*
     * The next connection that the function's program makes to one of the ports that
     * FUNCTION_BEGIN named (PORT_NUMBER...): the machine has no interface, so all addresses lead
     * here.  Waits for one.  NOTE: TARGET ("NAME:PORT" or "ADDRESS:PORT").  OUT: what it sends, IN:
     * what it gets.  Only one waits at a time: a second one ends the first.
     */
    AGENT_FUNCTION_TUNNEL,
    AGENT_OPERATIONS,
};

enum agent_tag {
    AGENT_NONE,
    /* Sessions */
    AGENT_NONCE,       /* number */
    AGENT_VERSION_MIN, /* number, of RESET */
    AGENT_VERSION_MAX, /* number, of RESET */
    AGENT_SPOKEN,      /* number, of HELLO: the version */
    AGENT_PROGRAM,     /* text: the agent's own version, "0.1.0" */
    AGENT_KERNEL,      /* text: "6.1.0-56-cloud-amd64" */
    AGENT_MACHINE,     /* text: "x86_64" */
    AGENT_HOSTNAME,    /* text */
    AGENT_BOOT_ID,     /* text */
    AGENT_INIT,        /* number: enum agent_init */
    AGENT_PROBLEM,     /* text: why the machine did not come up as it should; for people */
    AGENT_UPTIME_MS,   /* number */
    AGENT_TIME_NS,     /* number: since 1970-01-01 UTC */
    /* Answers */
    AGENT_ERROR_KIND, /* number: enum error_kind */
    AGENT_ERROR_NUMBER,
    AGENT_ERROR_TEXT,
    AGENT_COUNT,
    AGENT_SIZE, /* bytes */
    AGENT_BYTES,
    /* Programs */
    AGENT_ARGUMENT,
    AGENT_ENVIRONMENT, /* "NAME=VALUE" */
    AGENT_FOLDER,
    AGENT_USER_NAME, /* of the guest's /etc/passwd; with its groups */
    AGENT_USER,
    AGENT_GROUP,
    AGENT_TTY,
    AGENT_ROWS,
    AGENT_COLUMNS,
    AGENT_INPUT,
    AGENT_TIMEOUT_MS,
    AGENT_PID,
    AGENT_SIGNAL,
    AGENT_EXIT_CODE,
    AGENT_TIMED_OUT,
    /* Files */
    AGENT_PATH,
    AGENT_TARGET,
    AGENT_MODE,     /* permission bits, 07777 */
    AGENT_KIND,     /* S_IFMT bits: 0100000 is a regular file */
    AGENT_MTIME_NS, /* since 1970 */
    AGENT_FLAGS,    /* AGENT_FLAG_* */
    /* Networks */
    AGENT_NAMESERVER,
    AGENT_SEARCH,
    AGENT_HOST,
    AGENT_INTERFACE, /* fields: MAC, NAME, MTU, ADDRESS..., ROUTE... */
    AGENT_MAC,       /* 6 bytes */
    AGENT_NAME,
    AGENT_MTU,
    AGENT_ADDRESS, /* "10.0.0.5/24", "fd00::5/64" */
    AGENT_ROUTE,   /* "default via 10.0.0.1", "10.1.0.0/16 via 10.0.0.1", "10.2.0.0/16" */
    /* Disks */
    AGENT_SOURCE,
    AGENT_FILE_SYSTEM,
    AGENT_OPTIONS,
    AGENT_POWER, /* enum agent_power */
    /* Checks */
    AGENT_CHECK_KIND, /* enum agent_check_kind */
    AGENT_PORT_NUMBER,
    AGENT_STATUS,
    /* Metrics: numbers are since boot unless it says "now". */
    AGENT_CPU, /* fields: CPU_* in ms; of all CPUs together */
    AGENT_CPU_COUNT,
    AGENT_CPU_USER,
    AGENT_CPU_NICE,
    AGENT_CPU_SYSTEM,
    AGENT_CPU_IDLE,
    AGENT_CPU_IOWAIT,
    AGENT_CPU_IRQ,
    AGENT_CPU_SOFTIRQ,
    AGENT_CPU_STEAL,
    AGENT_MEMORY_TOTAL, /* bytes, now; so are the next five */
    AGENT_MEMORY_FREE,
    AGENT_MEMORY_AVAILABLE,
    AGENT_MEMORY_CACHED,
    AGENT_SWAP_TOTAL,
    AGENT_SWAP_FREE,
    AGENT_LOAD_1, /* thousandths */
    AGENT_LOAD_5,
    AGENT_LOAD_15,
    AGENT_PROCESSES, /* now */
    AGENT_DISK,      /* fields: NAME, SERIAL and what follows */
    AGENT_SERIAL,
    AGENT_READ_BYTES,
    AGENT_READ_OPERATIONS,
    AGENT_WRITE_BYTES,
    AGENT_WRITE_OPERATIONS,
    AGENT_MOUNTED, /* fields: PATH, SOURCE, FILE_SYSTEM, SIZE, SIZE_AVAILABLE, INODES... */
    AGENT_SIZE_AVAILABLE,
    AGENT_INODES,
    AGENT_INODES_AVAILABLE,
    AGENT_LINK, /* fields: NAME, MAC and what follows */
    AGENT_RECEIVED_BYTES,
    AGENT_RECEIVED_PACKETS,
    AGENT_RECEIVED_DROPPED,
    AGENT_SENT_BYTES,
    AGENT_SENT_PACKETS,
    AGENT_SENT_DROPPED,
    /* Events */
    AGENT_EVENT_KIND, /* enum agent_event_kind */
    /* Later than the rest: numbers never change */
    AGENT_NEW_MAC, /* 6 bytes, of INTERFACE: it has that address from now on */
    /* Functions; later than the rest, too */
    AGENT_REQUEST_ID,   /* text */
    AGENT_DEADLINE_MS,  /* number: since 1970 */
    AGENT_TRACE,        /* text: X-Ray's form */
    AGENT_ARN,          /* text */
    AGENT_CONTENT_TYPE, /* text, may be empty */
    AGENT_TAGS,
};

enum agent_init {
    AGENT_INIT_OTHER,      /* the distribution's: systemd, sysvinit, busybox */
    AGENT_INIT_ENTRYPOINT, /* ours, which runs the image's entrypoint */
    AGENT_INIT_RESCUE,     /* ours, and PROBLEM says why nothing else runs */
    AGENT_INIT_NONE,       /* ours, and nothing else was asked for */
    AGENT_INITS,
};

enum {
    AGENT_FLAG_MAKE_FOLDERS = 1, /* PUT, MOUNT: folders that lead to PATH are made */
    AGENT_FLAG_NO_REPLACE = 2,   /* PUT: EXISTS when there is such a file */
    AGENT_FLAG_FOLLOW = 4,       /* STAT: what a symbolic link points at */
    AGENT_FLAG_READ_ONLY = 8,    /* MOUNT */
    AGENT_FLAG_LAZY = 16,        /* UNMOUNT: from sight now, from use when nobody uses it */
    AGENT_FLAG_OWN = 32,         /* UNPACK: to USER and GROUP, not as the archive says */
};

enum agent_power { AGENT_POWER_OFF, AGENT_POWER_REBOOT, AGENT_POWERS };

enum agent_check_kind {
    AGENT_CHECK_LISTEN, /* something listens on the TCP port: looked up, not connected to */
    AGENT_CHECK_TCP,    /* a connection is taken */
    AGENT_CHECK_HTTP,   /* GET PATH is answered with a status from 200 to 399 */
    AGENT_CHECK_KINDS,
};

enum agent_event_kind {
    AGENT_EVENT_ENTRYPOINT_STARTED = 1, /* PID */
    AGENT_EVENT_ENTRYPOINT_ENDED,       /* EXIT_CODE or SIGNAL */
    AGENT_EVENT_POWER,                  /* somebody in the guest has begun it: POWER */
    AGENT_EVENT_KINDS,
};

/* ---- Fields ---- */

static inline void agent_put_head(struct buffer *out, enum agent_tag tag, size_t length)
{
    uint8_t *at = buffer_reserve(out, 6);
    at[0] = (uint8_t)tag;
    at[1] = (uint8_t)((unsigned)tag >> 8);
    for (int i = 0; i < 4; i++) {
        at[2 + i] = (uint8_t)(length >> (8 * i));
    }
    out->used += 6;
}

static inline void agent_put_bytes(struct buffer *out, enum agent_tag tag, const void *bytes,
                                   size_t length)
{
    agent_put_head(out, tag, length);
    buffer_append(out, bytes, length);
}

static inline void agent_put_text(struct buffer *out, enum agent_tag tag, const char *text)
{
    agent_put_bytes(out, tag, text, strlen(text));
}

static inline void agent_put_number(struct buffer *out, enum agent_tag tag, uint64_t value)
{
    agent_put_head(out, tag, 8);
    buffer_append_u64(out, value);
}

/* A field that holds fields: what is put between the two is inside. */
static inline size_t agent_put_begin(struct buffer *out, enum agent_tag tag)
{
    agent_put_head(out, tag, 0);
    return out->used;
}

static inline void agent_put_end(struct buffer *out, size_t begin)
{
    size_t length = out->used - begin;
    for (int i = 0; i < 4; i++) {
        out->data[begin - 4 + (size_t)i] = (uint8_t)(length >> (8 * i));
    }
}

struct agent_field {
    unsigned tag;
    const uint8_t *bytes;
    size_t length;
};

struct agent_reader {
    const uint8_t *at;
    size_t left;
    bool is_bad; /* what came is no row of fields */
};

static inline struct agent_reader agent_reader_of(const void *bytes, size_t length)
{
    return (struct agent_reader){.at = (const uint8_t *)bytes, .left = length};
}

static inline struct agent_reader agent_reader_in(const struct agent_field *field)
{
    return agent_reader_of(field->bytes, field->length);
}

/* The next field, whose bytes are where the reader's are; false at the end, or at nonsense. */
static inline bool agent_next(struct agent_reader *reader, struct agent_field *ret_field)
{
    if (reader->left < 6) {
        reader->is_bad = reader->is_bad || reader->left != 0;
        reader->left = 0;
        return false;
    }
    const uint8_t *at = reader->at;
    size_t length = (size_t)at[2] | (size_t)at[3] << 8 | (size_t)at[4] << 16 | (size_t)at[5] << 24;
    if (length > reader->left - 6) {
        reader->is_bad = true;
        reader->left = 0;
        return false;
    }
    *ret_field = (struct agent_field){(unsigned)at[0] | (unsigned)at[1] << 8, at + 6, length};
    reader->at += 6 + length;
    reader->left -= 6 + length;
    return true;
}

/* A field of another length than 8 is no number, which counts as 0. */
static inline uint64_t agent_field_number(const struct agent_field *field)
{
    uint64_t value = 0;
    for (int i = 0; field->length == 8 && i < 8; i++) {
        value |= (uint64_t)field->bytes[i] << (8 * i);
    }
    return value;
}

/* ---- Frames ---- */

enum { AGENT_HEAD_SIZE = 8, AGENT_CODE_MAX = 255 };

/* Most bytes on the stream between two zeros. */
enum { AGENT_ENCODED_MAX = AGENT_FRAME_MAX + AGENT_FRAME_MAX / 254 + 1 };

/* COBS, over pieces: each block is a code byte (1 + how many bytes follow) and those bytes; behind
 * each block but the last there was a zero, unless the code is 255. */
struct agent_encoder {
    struct buffer *out;
    size_t code; /* where the running block's code goes, in out->data */
};

static inline void agent_encode_begin(struct agent_encoder *encoder, struct buffer *out)
{
    encoder->out = out;
    encoder->code = out->used;
    buffer_append_byte(out, 1);
}

static inline void agent_encode(struct agent_encoder *encoder, const void *bytes, size_t length)
{
    const uint8_t *at = (const uint8_t *)bytes;
    struct buffer *out = encoder->out;
    while (length > 0) {
        size_t room = AGENT_CODE_MAX - (size_t)out->data[encoder->code];
        if (room == 0) {
            encoder->code = out->used;
            buffer_append_byte(out, 1);
            continue;
        }
        size_t run = length < room ? length : room;
        const uint8_t *zero = (const uint8_t *)memchr(at, 0, run);
        run = zero != NULL ? (size_t)(zero - at) : run;
        buffer_append(out, at, run);
        out->data[encoder->code] = (uint8_t)(out->data[encoder->code] + run);
        size_t taken = run;
        if (zero != NULL) {
            taken++;
            encoder->code = out->used;
            buffer_append_byte(out, 1);
        }
        at += taken;
        length -= taken;
    }
}

/* Decode in place; what was there is not zero-free afterwards.  The length, or -1: no COBS. */
static inline ptrdiff_t agent_decode(uint8_t *bytes, size_t length)
{
    size_t from = 0;
    size_t to = 0;
    while (from < length) {
        size_t code = bytes[from++];
        if (code == 0 || code - 1 > length - from) {
            return -1;
        }
        memmove(bytes + to, bytes + from, code - 1);
        to += code - 1;
        from += code - 1;
        if (code < AGENT_CODE_MAX && from < length) {
            bytes[to++] = 0;
        }
    }
    return (ptrdiff_t)to;
}

/* Append a whole frame, ready to be sent.  The payload fits AGENT_FRAME_MAX with the head. */
static inline void agent_frame_append(struct buffer *out, const struct agent_frame_head *head,
                                      const void *payload, size_t length)
{
    const uint8_t bytes[AGENT_HEAD_SIZE] = {head->type,
                                            head->stream,
                                            (uint8_t)head->operation,
                                            (uint8_t)(head->operation >> 8),
                                            (uint8_t)head->id,
                                            (uint8_t)(head->id >> 8),
                                            (uint8_t)(head->id >> 16),
                                            (uint8_t)(head->id >> 24)};
    struct agent_encoder encoder;
    agent_encode_begin(&encoder, out);
    agent_encode(&encoder, bytes, sizeof(bytes));
    agent_encode(&encoder, payload, length);
    buffer_append_byte(out, 0);
}

struct agent_frame {
    struct agent_frame_head head;
    const uint8_t *payload;
    size_t length;
};

/* Takes the stream apart.  A zeroed struct is ready; end it with buffer_done(&held). */
struct agent_receiver {
    struct buffer held; /* of the frame that is not whole yet */
    bool is_lost;       /* it is too long: up to the next zero everything is dropped */
    bool is_given;      /* `held` is the frame that was returned last */
    uint64_t dropped;   /* frames that could not be decoded */
};

static inline void agent_receiver_reset(struct agent_receiver *receiver)
{
    receiver->held.used = 0;
    receiver->is_lost = false;
    receiver->is_given = false;
}

static inline bool agent_frame_parse(uint8_t *bytes, size_t length, struct agent_frame *ret_frame)
{
    ptrdiff_t decoded = agent_decode(bytes, length);
    if (decoded < AGENT_HEAD_SIZE || decoded > AGENT_FRAME_MAX) {
        return false;
    }
    *ret_frame = (struct agent_frame){
        .head = {.type = bytes[0],
                 .stream = bytes[1],
                 .operation = (uint16_t)(bytes[2] | bytes[3] << 8),
                 .id = (uint32_t)bytes[4] | (uint32_t)bytes[5] << 8 | (uint32_t)bytes[6] << 16 |
                     (uint32_t)bytes[7] << 24},
        .payload = bytes + AGENT_HEAD_SIZE,
        .length = (size_t)decoded - AGENT_HEAD_SIZE,
    };
    return ret_frame->head.type != 0 && ret_frame->head.type < AGENT_FRAME_TYPES &&
        ret_frame->head.stream < AGENT_STREAMS;
}

/*
 * Take from *bytes up to the end of the next good frame, which lasts until the next call; false:
 * all was taken, and there is no whole one in it.
 */
static inline bool agent_receive(struct agent_receiver *receiver, const uint8_t **bytes,
                                 size_t *length, struct agent_frame *ret_frame)
{
    if (receiver->is_given) {
        agent_receiver_reset(receiver);
    }
    while (*length > 0) {
        const uint8_t *zero = (const uint8_t *)memchr(*bytes, 0, *length);
        size_t run = zero != NULL ? (size_t)(zero - *bytes) : *length;
        if (!receiver->is_lost && run <= AGENT_ENCODED_MAX - receiver->held.used) {
            buffer_append(&receiver->held, *bytes, run);
        } else {
            receiver->is_lost = true;
        }
        *bytes += run + (zero != NULL ? 1 : 0);
        *length -= run + (zero != NULL ? 1 : 0);
        if (zero == NULL) {
            return false;
        }
        bool is_empty = !receiver->is_lost && receiver->held.used == 0;
        bool is_good = !receiver->is_lost && !is_empty &&
            agent_frame_parse(receiver->held.data, receiver->held.used, ret_frame);
        if (is_good) {
            receiver->is_given = true;
            return true;
        }
        receiver->dropped += !is_empty;
        agent_receiver_reset(receiver);
    }
    return false;
}

/* CREDIT's payload. */
static inline uint32_t agent_credit_read(const struct agent_frame *frame)
{
    const uint8_t *at = frame->payload;
    return frame->length != 4
        ? 0
        : (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

#endif
