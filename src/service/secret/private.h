/* Inside service/secret. */
#ifndef SERVICE_SECRET_PRIVATE_H
#define SERVICE_SECRET_PRIVATE_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/list.h"
#include "base/seal.h"

#include "engine/store/store.h"

#include "service/secret/secret.h"

/* The schema that has the tables: before all nodes know it there are no secrets. */
enum { SECRET_SCHEMA = 5, SECRET_ROW_SIZE = 160 /* PROJECT/NAME */ };

enum key_state {
    KEY_UNMADE, /* nothing was ever sealed */
    KEY_HERE,
    KEY_ABSENT, /* it was made, and is not on this node */
    KEY_WRONG,  /* what is on this node is another one */
};

struct secret_service {
    struct loop *loop;
    struct store *store;
    struct cluster *cluster;
    struct peer_clients *peers;
    char *path;      /* FOLDER/secrets.key */
    char *candidate; /* FOLDER/secrets.key.new: made, and not proven yet */
    struct store_watch *key_watch;
    struct store_watch *holder_watch;
    struct cluster_listener *listener;
    struct loop_timer *timer; /* looks at all of it again */
    uint64_t due_ms;          /* when, on the loop's clock; 0: it does not run */
    unsigned at_work;         /* proposals and posts under way */
    bool is_over;

    /* key.c */
    enum key_state state;
    uint8_t key[SEAL_KEY_SIZE];   /* while it is HERE */
    char problem[ERROR_TEXT_MAX]; /* of ABSENT and WRONG */
    bool makes;                   /* a proof is proposed */
    bool writes_holder;

    /* obtain.c */
    struct peer_call *ask;
    size_t asked;        /* nodes of the view, in this round */
    uint64_t round_ms;   /* when the next one begins; monotonic */
    char asked_name[64]; /* who is asked */

    struct list waiting; /* secret.c: values that wait for the key */
};

bool secret_schema_is_there(const struct secret_service *service);

/* ---- secret.c ---- */

/* The key or its holders have changed: go on with what waits for them. */
void secret_go_on(struct secret_service *service);

/* ---- key.c ---- */

/* Which key is it, by the state and the files? */
void key_look(struct secret_service *service);
/* Make it, if that is not under way; UNMADE. */
void key_make(struct secret_service *service);
/* It was fetched: keep it.  PROTOCOL: it is another one; or what the disk says. */
int key_install(struct secret_service *service, const uint8_t key[SEAL_KEY_SIZE],
                struct error *err);
/* Say that it is here, in the state. */
void key_tell_holder(struct secret_service *service);
/* Is it on enough nodes? */
bool key_is_safe(struct secret_service *service, struct error *err);
/* Why it cannot be used here; HERE: 0. */
int key_check(const struct secret_service *service, struct error *err);
/* True: there may be other nodes. */
bool key_has_others(const struct secret_service *service);
/* Look again soon. */
void key_later(struct secret_service *service, uint64_t after_ms);

/* ---- obtain.c ---- */

/* ABSENT: ask the next node, if it is time. */
void obtain_step(struct secret_service *service);
void obtain_stop(struct secret_service *service);

/* ---- use.c ---- */

enum { SECRET_USES_MAX = 100 };

/* What names a secret, and the newest revisions of all that was looked at.  secret_uses_done(). */
struct secret_uses {
    json_t *names; /* "function hello version 3", ...: the first SECRET_USES_MAX */
    uint64_t newest_version;
    uint64_t newest_trigger;
};
int secret_find_uses(struct secret_service *service, const char *project, const char *name,
                     struct secret_uses *ret_uses, struct error *err);
/* CONFLICT, with some of the names. */
/* CONFLICT: a volume was encrypted with it. */
int secret_check_no_key(struct secret_service *service, const char *project, const char *name,
                        struct error *err);
bool secret_can_be_key(const struct secret_service *service);
int secret_refuse_used(const struct secret_uses *uses, const char *name, struct error *err);
void secret_uses_done(struct secret_uses *uses);

#endif
