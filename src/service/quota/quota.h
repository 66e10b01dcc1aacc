/*
 * Quotas: what a project may have at most.
 *
 * What is in the state (CPUs, memory, disk and devices of machines and volumes, machines,
 * functions) is counted there, and the command that adds to it is undone where that would be beyond
 * the limit: so two nodes cannot both let the last one in.  What happens at nodes is shared among
 * them: each lets in its part of the requests per second, and has its part of the instances.
 *
 * A machine counts with what it was made with, whether it runs or not; a volume with what it may
 * hold.  A limit below what there is is taken: nothing ends for it, and nothing is added to what is
 * beyond it.
 *
 * Main loop thread, but for quota_take_request().  Every `done` is called once, later.
 */
#ifndef SERVICE_QUOTA_QUOTA_H
#define SERVICE_QUOTA_QUOTA_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct buffer;
struct error;
struct loop;
struct quota_service;
struct store;
struct store_command;

struct quota_options {
    struct loop *loop;
    struct store *store;
    /* How many instances of a project there are on this node; may be NULL. */
    uint64_t (*count_instances)(const char *project, void *context);
    /* This node's share has changed, of any project; may be NULL. */
    void (*changed)(void *context);
    void *context;
};

struct quota_service *quota_service_new(const struct quota_options *options);
void quota_service_free(struct quota_service *service); /* accepts NULL */

/* ---- Setting ---- */

typedef void quota_done(const struct error *error, uint64_t index, void *context);

/* A body of the type QuotaSet: what it does not say is not limited.  INVALID, UNSUPPORTED (a node
 * of the cluster is too old). */
void quota_set(struct quota_service *service, const char *project, const json_t *body,
               quota_done *done, void *context);
/* The same; what it does not say stays as it is, and what is null is not limited any more. */
void quota_update(struct quota_service *service, const char *project, const json_t *body,
                  quota_done *done, void *context);
/* NOT_FOUND. */
void quota_delete(struct quota_service *service, const char *project, quota_done *done,
                  void *context);
/* As Quota, with what is used; NOT_FOUND. */
int quota_write(struct quota_service *service, const char *project, struct buffer *out,
                struct error *err);
int quota_write_list(struct quota_service *service, struct buffer *out, struct error *err);
/* blixard_project_limit and blixard_project_usage, of projects that have a quota. */
void quota_write_metrics(struct quota_service *service, struct buffer *out);

/* ---- Admission ---- */

/* What a change adds to a project; 0: nothing, and then its limit does not matter. */
struct quota_ask {
    uint64_t cpus;
    uint64_t memory_bytes;
    uint64_t disk_bytes;
    uint64_t machines;
    uint64_t functions;
    uint64_t devices;
};

/*
 * Add the check to a command, behind what changes the rows: it fails with QUOTA_EXCEEDED when the
 * project has more than it may of something that it asks more of.  The text says how much there is,
 * may be and is asked for, as this node knows it now.
 */
void quota_add_check(struct store *store, struct store_command *command, const char *project,
                     const struct quota_ask *ask);

/* A request from outside; QUOTA_EXCEEDED: this node's share of the second is used up.  Any thread.
 */
int quota_take_request(struct quota_service *service, const char *project, uint64_t now_ms,
                       struct error *err);

/* How many instances a project may have on this node; 0: any number. */
unsigned quota_instances(const struct quota_service *service, const char *project);

#endif
