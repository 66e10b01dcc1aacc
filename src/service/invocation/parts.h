/* What the files of service/invocation share. */
#ifndef SERVICE_INVOCATION_PARTS_H
#define SERVICE_INVOCATION_PARTS_H

#include "base/buffer.h"
#include "base/error.h"
#include "base/json.h"
#include "base/list.h"
#include "base/map.h"

#include "engine/store/store.h"

#include "service/function/function.h"
#include "service/invocation/invocation.h"

struct gateway_result;

/* One that this node has claimed, until its end is written. */
struct run {
    struct invocation_service *service;
    char id[INVOCATION_ID_SIZE];
    uint64_t epoch; /* 0: the claim is under way */
    struct gateway_invoke *invoke;
    uint64_t begun_ms; /* real time */
    struct function_policy policy;
    char project[64];
    char name[64];
    uint64_t attempts; /* with this one */
    uint64_t deadline_ms;
    uint64_t size;
    char *request;
    char *history;
    struct buffer body;
};

struct invocation_service {
    struct invocation_options options;
    struct store_watch *watch;
    struct cluster_listener *listener;
    struct map runs; /* id -> struct run */
    unsigned run_count;
    struct list waits;
    struct map notices; /* id -> what a destination is being told */
    unsigned notice_count;
    bool has_more_notices; /* than are told at once */
    struct map held_off;   /* "PROJECT DESTINATION" -> struct held_off: it took none */
    struct store_watch *notice_watch;
    struct loop_timer *timer; /* of the next one that is due */
    struct loop_timer *sweep;
    bool pass_is_posted;
    bool has_backlog; /* there was no room for all */
    size_t turn;      /* where the search for the next project begins */
    bool waits_posted;
    bool is_clearing; /* a command that removes old ones is under way */
    bool is_stopping;
};

/* policy.c */
struct verdict {
    const char *state; /* "succeeded", "failed", "expired", "pending" */
    uint64_t due_ms;
    uint64_t attempts;
};
/* Pure: what becomes of it after an attempt.  `error` NULL: `status` was answered. */
struct verdict policy_judge(const struct function_policy *policy, const struct error *error,
                            int status, bool is_untouched, uint64_t attempts, uint64_t now_ms,
                            uint64_t deadline_ms, uint64_t random);
/* Pure: may a project of so many runs here begin one more, beside `runs` of all?  It has at most
 * three times what is left to others: alone 96 of 128, two of them 54 each. */
bool policy_may_run(unsigned runs_of_project, unsigned runs);
void policy_write(const struct function_policy *policy, struct buffer *out);
void policy_read(const char *json, struct function_policy *ret_policy);

/* run.c */
struct run *run_new(struct invocation_service *service, const char *project, const char *id);
void run_drop(struct run *run);  /* the claim has failed */
void run_start(struct run *run); /* the claim is there */
void run_stop(struct run *run);  /* it is another's, or over */
void run_claim(struct invocation_service *service, const char *project, const char *id,
               uint64_t revision);
/* It is too old to be tried again. */
void run_expire(struct invocation_service *service, const char *id, uint64_t revision);

/* pass.c */
unsigned run_count_of(struct invocation_service *service, const char *project);
void run_pass(struct invocation_service *service);

/* invocation.c */
uint64_t own_node(const struct invocation_service *service);
void pass_soon(struct invocation_service *service);
/* Does the state have a column for it?  Not while nodes of an earlier version are there. */
bool invocation_keeps_destination_error(const struct invocation_service *service);

/* accept.c: a row without an owner, in a command that does other things too.  Of the request:
 * project, function, body, policy; `json` is the rest of it. */
void accept_add(struct store_command *command, const struct invocation_request *request,
                const char *json, uint64_t now_ms);

/* notice.c: into the command that ends an invocation; and the telling. */
void notice_add(struct store_command *command, const char *id, const char *project,
                const char *destination, const char *event, uint64_t now_ms);
void notice_pass(struct invocation_service *service);
void notice_end(struct invocation_service *service);

/* write.c: keys of an object that is open: "body" or "body_base64". */
void write_bytes(struct json_writer *writer, const void *bytes, size_t length);

#endif
