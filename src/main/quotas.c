/* Quotas, and who asks them: instances do, which are there first. */
#include "service/instance/instance.h"
#include "service/quota/quota.h"

#include "main/daemon.h"

static uint64_t count_instances(const char *project, void *context)
{
    const struct node *node = context;
    return instance_count(node->instances, project);
}

static void on_quota_changed(void *context)
{
    const struct node *node = context;
    instance_quota_changed(node->instances);
}

static unsigned instances_of(const char *project, void *context)
{
    const struct node *node = context;
    return quota_instances(node->quotas, project);
}

int quotas_start(struct node *node, struct error *err)
{
    (void)err;
    const struct quota_options options = {
        .loop = node->loop,
        .store = node->store,
        .count_instances = count_instances,
        .changed = on_quota_changed,
        .context = node,
    };
    node->quotas = quota_service_new(&options);
    instance_set_quota(node->instances,
                       &(struct instance_quota){.most = instances_of, .context = node});
    return 0;
}

void quotas_stop(struct node *node)
{
    instance_set_quota(node->instances, NULL);
    quota_service_free(node->quotas);
}
