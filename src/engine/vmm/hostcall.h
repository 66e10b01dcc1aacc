/*
 * The language of ABI_CALL_HOST: what a function asks of who runs it, and what it is answered.
 *
 *     request   u32 operation, u32 count, u32 length[count], then the parts, one behind the other
 *     reply     i32 status, u32 zero, u64 number, then bytes
 *
 * Integers are little-endian.  status is 0 or one of HOSTCALL_E..., negative; the bytes are then a
 * sentence for people.  A part that is a number has 8 bytes.  Both ends check; the guest's requests
 * are input to the host.
 *
 * Operations below HOSTCALL_FILES are the daemon's; those from it on are of `blixard fn run`.
 */
#ifndef ENGINE_VMM_HOSTCALL_H
#define ENGINE_VMM_HOSTCALL_H

#ifndef __ASSEMBLER__
#include <stdint.h>

enum {
    HOSTCALL_PARTS_MAX = 16,
    HOSTCALL_REPLY_HEAD = 16, /* bytes before the reply's own */
};

struct hostcall_reply {
    int32_t status;
    uint32_t zero;
    uint64_t number;
};

_Static_assert(sizeof(struct hostcall_reply) == HOSTCALL_REPLY_HEAD, "as it travels");

/* HOSTCALL(name, parts): n a number, b bytes; what comes back is said in service/host. */
#define HOSTCALL_TABLE(HOSTCALL)                                                                \
    HOSTCALL(FLUSH, "")              /* nothing: what was written so far has gone on */         \
    HOSTCALL(METADATA, "n")          /* which fact -> its text */                               \
    HOSTCALL(KV_GET, "b")            /* key -> value; number: its revision */                   \
    HOSTCALL(KV_SET, "bbn")          /* key, value, lifetime in ms (0: for good) -> revision */ \
    HOSTCALL(KV_CAS, "bbnn")         /* key, value, lifetime, revision it has (0: none) */      \
    HOSTCALL(KV_DELETE, "bn")        /* key, revision it has (0: any) */                        \
    HOSTCALL(KV_LIST, "bbn")         /* prefix, after, most -> keys, each u32 length, bytes */  \
    HOSTCALL(QUEUE_SEND, "bbbbbnn")  /* queue, body, content type, attributes (JSON), group, */ \
                                     /* delay in ms, priority -> id */                          \
    HOSTCALL(STREAM_APPEND, "bbbbb") /* stream, key, body, content type, attributes (JSON) */   \
                                     /* -> number: sequence; bytes: u32 partition */            \
    HOSTCALL(INVOKE, "bbbbbn")       /* function, method, path, fields, body, timeout */        \
                                     /* -> response */                                          \
    HOSTCALL(SPAN_BEGIN, "b")        /* name -> number: which */                                \
    HOSTCALL(SPAN_ATTRIBUTE, "nbb")  /* which, key, value */                                    \
    HOSTCALL(SPAN_END, "nb")         /* which, why it failed or nothing */                      \
    HOSTCALL(FETCH, "bbbbnn")        /* method, URL, fields, body, timeout, how -> response, */ \
                                     /* number: which one has the rest of its body, or 0 */     \
    HOSTCALL(FETCH_WAIT, "nn")       /* which of them, ms -> number: one that can be taken  */  \
                                     /* or read; 0: none in that time */                        \
    HOSTCALL(FETCH_TAKE, "n")        /* which was begun with LATER -> as FETCH */               \
    HOSTCALL(FETCH_READ, "nn")       /* which, most -> more of its body; nothing: its end */    \
    HOSTCALL(FETCH_CLOSE, "n")       /* which */                                                \
    HOSTCALL(SECRET_GET, "b")        /* name, which the configuration names -> value */

enum hostcall {
    HOSTCALL_NONE,
#define HOSTCALL(name, parts) HOSTCALL_##name,
    HOSTCALL_TABLE(HOSTCALL)
#undef HOSTCALL
        HOSTCALL_COUNT,
    HOSTCALL_FILES = 256,
};

/* A response: u32 status, u32 length of the fields, the fields ("Name: value\r\n" each), the body.
 */

/* A FETCH_WAIT names a set: bit N - 1 is the fetch N, 0 is all of them.  How a FETCH is meant: */
enum hostcall_fetch {
    HOSTCALL_FETCH_HEAD = 1,   /* answer when the head is there, with what there is of the body */
    HOSTCALL_FETCH_LATER = 2,  /* answer now, with its number, to be taken later */
    HOSTCALL_FETCH_MANUAL = 4, /* redirects are responses */
    HOSTCALL_FETCH_NO_REDIRECT = 8, /* redirects are errors */
    HOSTCALL_FETCH_ALL = 15,
};

enum hostcall_fact {
    HOSTCALL_FACT_PROJECT,
    HOSTCALL_FACT_FUNCTION,
    HOSTCALL_FACT_VERSION,
    HOSTCALL_FACT_REQUEST_ID,
    HOSTCALL_FACT_TRACEPARENT,
    HOSTCALL_FACT_COUNT,
};

/* The numbers of wasi_snapshot_preview1, negative: a program's own errno.h knows them. */
enum hostcall_error {
    HOSTCALL_EACCES = -2,     /* not allowed */
    HOSTCALL_EAGAIN = -6,     /* busy now, or not reachable: try again */
    HOSTCALL_EBADF = -8,      /* no such span */
    HOSTCALL_EBUSY = -10,     /* it has another revision by now */
    HOSTCALL_ECANCELED = -11, /* the node is stopping */
    HOSTCALL_EDQUOT = -19,    /* a limit is reached */
    HOSTCALL_EEXIST = -20,    /* it exists */
    HOSTCALL_EINVAL = -28,    /* an argument that cannot be */
    HOSTCALL_EIO = -29,       /* something failed here */
    HOSTCALL_EMSGSIZE = -35,  /* too large */
    HOSTCALL_ENOENT = -44,    /* there is none */
    HOSTCALL_ENOSPC = -51,    /* no space left */
    HOSTCALL_ENOSYS = -52,    /* nobody answers here */
    HOSTCALL_ENOTSUP = -58,   /* not supported */
    HOSTCALL_EPERM = -63,     /* not during initialisation */
    HOSTCALL_EPROTO = -65,    /* the other end said nonsense */
    HOSTCALL_ETIMEDOUT = -73, /* it took too long */
};

/*
 * What a module of which anything may be called (`blixard fn run --invoke`) asks: what next?  One
 * part: how the last one ended, struct hostcall_ended, and its results.  number: enum
 * hostcall_next; bytes: u64 which export, then its arguments (behind the numbers of all exports are
 * those of the modules: to instantiate one).  Values are 8 bytes each.
 */
enum { HOSTCALL_NEXT = 512 };

enum hostcall_next { HOSTCALL_NEXT_END, HOSTCALL_NEXT_CALL };

enum hostcall_how {
    HOSTCALL_BEGUN, /* nothing was called yet */
    HOSTCALL_RETURNED,
    HOSTCALL_TRAPPED,
};

struct hostcall_ended {
    uint32_t how;  /* enum hostcall_how */
    uint32_t trap; /* enum abi_trap */
};
#endif

#endif
