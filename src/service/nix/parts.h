/* Inside service/nix. */
#ifndef SERVICE_NIX_PARTS_H
#define SERVICE_NIX_PARTS_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/list.h"

#include "engine/nix/cache.h"
#include "engine/nix/nix.h"

#include "service/nix/nix.h"
#include "service/operation/operation.h"

struct http_server;
struct secure;
struct loop_timer;

/* The project of the private key, whose name no request can have. */
#define NIX_KEY_PROJECT "_cluster"
enum { NIX_KEY_SCHEMA = 9, NIX_PACKINGS_MAX = 2, NIX_KEYS_MAX = 16384 };

/* ---- packed.c: paths that lie packed in the image store ---- */

struct packed {
    struct list_node link; /* the least recently used first */
    char hash[NIX_HASH_CHARS + 1];
    uint8_t nar_hash[NIX_NAR_HASH_BYTES];
    char blob[HASH_TEXT_SIZE];
    uint64_t bytes;
};

/* ---- metrics.c ---- */

enum nix_asked {
    NIX_ASKED_OTHER,
    NIX_ASKED_INFO,
    NIX_ASKED_NARINFO,
    NIX_ASKED_NAR,
    NIX_ASKED_UPLOAD
};
enum nix_answered { NIX_SERVED, NIX_ABSENT, NIX_REFUSED };
enum { NIX_ASKED_COUNT = 5, NIX_ANSWERED_COUNT = 3 };

struct nix_counts {
    uint64_t requests[NIX_ASKED_COUNT][NIX_ANSWERED_COUNT]; /* of clients */
    uint64_t sent_bytes;
    uint64_t received_bytes;
    uint64_t fetched_paths; /* from other nodes */
    uint64_t fetched_bytes;
    uint64_t distrusted; /* nodes left for what they gave was not what it should be */
};

struct nix_service {
    /* What was asked by nix_service_hurry() ends soon. */
    bool is_hurried;
    struct nix_service_options options; /* its texts are ours */
    struct nix_store store;
    bool has_store;
    bool is_asking;      /* whether there is one by now */
    uint64_t asked_ms;   /* when that was asked last, by the boot clock */
    struct error absent; /* why there was none */
    bool is_over;
    struct list jobs;
    struct list fetches;
    struct list doings; /* operations */

    /* key.c */
    struct nix_key key;
    bool has_key;
    char public_key[512];
    struct list key_waits;
    bool makes_key;
    struct loop_timer *key_timer; /* looks again; NULL: nobody has waited yet */
    uint64_t key_give_up_ms;      /* on the loop's clock */

    /* packed.c */
    char *packed_folder;
    struct list packed;
    uint64_t packed_bytes;
    struct list packings;
    unsigned packing_count; /* that run */

    /* serve.c */
    struct http_server *server;
    struct secure *secure; /* NULL: in the clear */
    struct list servings;
    uint16_t port;
    uint64_t staged; /* names for folders of uploads and fetches */
    struct nix_counts counts;
};

/* ---- service.c: work beside the loop ---- */

struct job {
    struct list_node link;
    struct nix_service *service;
    struct nix_store store;
    volatile bool cancel;
    int (*work)(struct job *job, struct error *err); /* another thread: of its own things only */
    void (*end)(struct job *job, const struct error *error); /* the loop; frees nothing */
    void *context;
    int result;
    struct error error;
};

/* Run it; it ends by itself.  `long_one`: in a thread of its own.  What cannot begin ends so. */
struct job *job_start(struct nix_service *service, bool is_long,
                      int (*work)(struct job *job, struct error *err),
                      void (*end)(struct job *job, const struct error *error), void *context);

char *nix_root_path(const struct nix_service *service, const char *root);
int nix_root_check(const char *root, struct error *err);
/* A new folder of its own below FOLDER/incoming; the caller's text. */
int nix_stage(struct nix_service *service, char **ret_folder, struct error *err);
/* The cluster's public key and the trusted ones, with a blank between; the caller's. */
char *nix_trusted(struct nix_service *service);

/* ---- operate.c ---- */
void nix_operations_end(struct nix_service *service);

/* ---- key.c ---- */
void nix_key_look(struct nix_service *service);
/* `done` when there is one, or cannot be. */
struct key_wait;
struct key_wait *nix_key_wait(struct nix_service *service,
                              void (*done)(const struct error *error, void *context),
                              void *context);
void nix_key_wait_free(struct key_wait *wait); /* before done; accepts NULL */
void nix_key_end(struct nix_service *service);

/* ---- packed.c ---- */
int packed_open(struct nix_service *service, struct error *err);
void packed_close(struct nix_service *service);
/* NULL: it is not packed. */
struct packed *packed_find(struct nix_service *service, const char *hash,
                           const uint8_t nar_hash[NIX_NAR_HASH_BYTES]);
/* It came from elsewhere, and is a blob now. */
void packed_add(struct nix_service *service, const char *hash,
                const uint8_t nar_hash[NIX_NAR_HASH_BYTES], const char *blob, uint64_t bytes);
struct pack_wait;
struct pack_wait *
pack_new(struct nix_service *service, const char *hash, const uint8_t nar_hash[NIX_NAR_HASH_BYTES],
         void (*done)(const struct error *error, const struct packed *packed, void *context),
         void *context);
/* What does not run yet is told CANCELLED. */
void pack_give_up(struct nix_service *service);
void pack_free(struct pack_wait *wait); /* before done; accepts NULL */

/* ---- look.c ---- */
/* Narinfo as it is served: URL, signature of `key`.  Any thread. */
int nix_describe(const struct nix_store *store, const struct nix_key *key, const char *hash,
                 struct nix_narinfo *ret_narinfo, struct error *err);
void nix_set_file(struct nix_narinfo *narinfo, const struct packed *packed);

/* ---- serve.c, upload.c ---- */
int serve_start(struct nix_service *service, struct error *err);
void serve_stop(struct nix_service *service);

struct http_exchange;
struct serving {
    struct list_node link;
    struct nix_service *service;
    struct http_exchange *exchange;
    struct key_wait *key_wait;
    struct pack_wait *pack_wait;
    struct job *job;
    enum nix_asked asked;
    char hash[NIX_HASH_CHARS + 1];
    uint8_t nar_hash[NIX_NAR_HASH_BYTES];
    struct nix_narinfo info;
    struct nix_key key;
    int fd;
    uint64_t at;
    uint64_t end;
    struct buffer piece;
    bool waits_for_client;
    bool is_busy; /* writing: its end comes afterwards */
    bool is_over;
    /* upload.c */
    char *path;   /* what is written */
    char *folder; /* of an import */
    char *keys;
    struct buffer body;
    int fault; /* errno of writing */
};
void serving_end(struct serving *serving); /* answered, or gone */
void serving_error(struct serving *serving, const struct error *error);
void serving_text(struct serving *serving, int status, const char *type, const char *text);
void upload_begin(struct serving *serving, const char *name);
/* Has the NAR of an upload that has no narinfo yet this name? */
bool upload_has(const struct nix_service *service, const char *name);

#endif
