/* `cluster recover`: on the data folder of a server that does not run. */
#include "service/cluster/recover.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/json.h"
#include "base/loop/loop.h"

#include "surface/cli/private.h"

static json_t *describe(const struct cluster_recovery *recovery, bool is_done)
{
    json_t *nodes = json_array();
    for (size_t i = 0; i < recovery->other_count; i++) {
        const struct cluster_recovery_node *node = &recovery->others[i];
        json_t *object = json_pack("{s:s, s:s, s:s, s:s}", "node", node->name, "address",
                                   node->address, "role", node->is_server ? "server" : "worker",
                                   "state", node->answers ? "answers" : node->problem);
        if (node->answers) {
            json_object_set_new(object, "index", json_integer((json_int_t)node->index));
        }
        json_array_append_new(nodes, object);
    }
    return json_pack("{s:s, s:s, s:I, s:b, s:o}", "cluster", recovery->cluster, "node",
                     recovery->node, "log_end", (json_int_t)recovery->end, "recovered", is_done,
                     "others", nodes);
}

static void print_findings(const struct cluster_recovery *recovery, const json_t *document)
{
    static const struct column columns[] = {
        {"NODE", "node", AS_TEXT},   {"ROLE", "role", AS_TEXT},       {"INDEX", "index", AS_TEXT},
        {"STATE", "state", AS_TEXT}, {"ADDRESS", "address", AS_TEXT},
    };
    printf("The log of %s in cluster %s leads to index %" PRIu64 ".  The other nodes:\n\n",
           recovery->node, recovery->cluster, recovery->end);
    print_table(json_object_get(document, "others"), columns, sizeof(columns) / sizeof(*columns));
}

static int advise(const struct arguments *arguments, const struct cluster_recovery *recovery,
                  struct error *err)
{
    enum output output = OUTPUT_TABLE;
    JSON_OWNED json_t *document = describe(recovery, false);
    int r = output_of(arguments, &output, err);
    if (r < 0) {
        return r;
    }
    if (output != OUTPUT_TABLE) {
        print_document(document, output);
        return 0;
    }
    print_findings(recovery, document);
    printf("\nNothing was changed.  With --force this server goes on alone: what other servers\n"
           "acknowledged and this log lacks is lost, and they are removed from the cluster.\n"
           "Do it only when they will not come back, and on the server whose log is longest.\n");
    return 0;
}

int verb_cluster_recover(const struct arguments *arguments, struct error *err)
{
    const char *folder = flag_value(arguments, "data-folder");
    folder = folder != NULL ? folder : "/var/lib/blixard";
    bool is_forced = flag_value(arguments, "force") != NULL;
    struct cluster_recovery recovery = {0};
    struct loop *loop = NULL;
    int r = loop_new("recover", &loop, err);
    if (r < 0) {
        return r;
    }
    r = cluster_recovery_look(loop, folder, &recovery, err);
    if (r == 0 && flag_value(arguments, "accept-loss") == NULL) {
        r = cluster_recovery_judge(&recovery, err);
    }
    if (r == 0 && is_forced) {
        r = cluster_recovery_carry_out(loop, folder, &recovery, err);
    }
    loop_free(loop);
    if (r < 0 || !is_forced) {
        return r < 0 ? r : advise(arguments, &recovery, err);
    }
    JSON_OWNED json_t *document = describe(&recovery, true);
    return print_done(arguments, document, err,
                      "%s is the only server of %s now, at index %" PRIu64
                      "; start it: blixard server --data-folder %s",
                      recovery.node, recovery.cluster, recovery.end, folder);
}
