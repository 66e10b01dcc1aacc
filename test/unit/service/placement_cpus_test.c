/* CPUs of machines' own at a node with two sockets. */
#include <string.h>

#include "service/placement/parts.h"

#include "test/lib/test.h"

/* As sysfs has it where a socket's threads are numbered after all cores, and with a node between
 * the two that has memory alone. */
static const char two_sockets[] = "{\"cpus\": 8, \"numa\": ["
                                  "{\"number\": 0, \"cpus\": \"0-1,4-5\", \"memory_bytes\": 1024},"
                                  "{\"number\": 2, \"cpus\": \"\", \"memory_bytes\": 512},"
                                  "{\"number\": 3, \"cpus\": \"2-3,6-7\", \"memory_bytes\": 1024}],"
                                  "\"overcommit\": {\"memory_percent\": 100}}";

static void take(struct placement_service *service, const char *text)
{
    JSON_OWNED json_t *attributes = NULL;
    struct error err = {0};
    EXPECT(json_read(text, strlen(text), &attributes, &err) == 0);
    cpus_take(service, "n", attributes, true);
}

static void done(struct placement_service *service)
{
    free(map_get(&service->cpus, "n"));
    map_done(&service->cpus);
}

static bool are(struct cpus_beside beside, const char *others, const char *nodes)
{
    bool is_it = strcmp(beside.others, others) == 0 && strcmp(beside.nodes, nodes) == 0;
    free(beside.others);
    free(beside.nodes);
    return is_it;
}

/* The engine's numbers 0 to 3 are CPUs 0, 1, 4, 5; then come 2, 3, 6, 7. */
TEST(placement_cpus, what_is_beside_cores_is_of_their_socket)
{
    struct placement_service service = {0};
    bool taken[PLACEMENT_CORES_MAX] = {false};
    static const uint16_t first[] = {0, 1};
    static const uint16_t second[] = {4, 5, 6, 7};
    static const uint16_t both[] = {3, 4};
    take(&service, two_sockets);
    taken[0] = taken[1] = true;
    EXPECT(are(cpus_beside(&service, "n", first, 2, taken), "4,5", "0"));
    EXPECT(are(cpus_beside(&service, "n", both, 2, taken), "2,3,4,5,6,7", "0,3"));
    taken[4] = taken[5] = taken[6] = taken[7] = true; /* nothing is left there: elsewhere */
    EXPECT(are(cpus_beside(&service, "n", second, 4, taken), "4,5", "3"));
    taken[2] = taken[3] = true;
    EXPECT(are(cpus_beside(&service, "n", second, 4, taken), "", "3"));
    done(&service);
}

TEST(placement_cpus, memory_that_is_overcommitted_is_not_bound)
{
    struct placement_service service = {0};
    bool taken[PLACEMENT_CORES_MAX] = {false};
    static const uint16_t cores[] = {0};
    BUFFER_OWNED struct buffer text = {0};
    buffer_append_string(&text, two_sockets);
    char *percent = strstr((char *)(uintptr_t)buffer_string(&text), "100}");
    percent[2] = '1';
    take(&service, buffer_string(&text));
    EXPECT(are(cpus_beside(&service, "n", cores, 1, taken), "0,1,4,5", ""));
    done(&service);
}

/* What the state has of a machine is of a NUMA node for the engine, too, which counts its memory
 * there. */
TEST(placement_cpus, a_grant_of_the_state_knows_its_numa_node)
{
    struct placement_service service = {0};
    uint16_t cores[PLACEMENT_CORES_MAX];
    struct placement_grant grant;
    take(&service, two_sockets);
    cpus_grant(&service, "n", "6,7", 2, cores, &grant);
    EXPECT(grant.numa == 2 && grant.core_count == 2 && cores[0] == 6 && cores[1] == 7);
    cpus_grant(&service, "n", "1,2", 2, cores, &grant);
    EXPECT(grant.numa == -1 && grant.core_count == 2);
    cpus_grant(&service, "n", "8", 1, cores, &grant); /* the node has it no more */
    EXPECT(grant.numa == -1 && grant.core_count == 0);
    done(&service);
}

/* Where sockets have every other CPU, their lists are long. */
TEST(placement_cpus, a_long_list_is_read_to_its_end)
{
    struct placement_service service = {0};
    BUFFER_OWNED struct buffer text = {0};
    uint16_t cores[PLACEMENT_CORES_MAX];
    struct placement_grant grant;
    buffer_append_string(&text, "{\"cpus\": 1024, \"numa\": [");
    for (unsigned numa = 0; numa < 2; numa++) {
        buffer_append_format(&text, "%s{\"number\": %u, \"cpus\": \"", numa > 0 ? "," : "", numa);
        for (unsigned cpu = numa; cpu < 1024; cpu += 2) {
            buffer_append_format(&text, "%s%u", cpu > 1 ? "," : "", cpu);
        }
        buffer_append_string(&text, "\", \"memory_bytes\": 1024}");
    }
    buffer_append_string(&text, "]}");
    take(&service, buffer_string(&text));
    cpus_grant(&service, "n", "1022-1023", 2, cores, &grant);
    EXPECT(grant.core_count == 2 && cores[0] == 511 && cores[1] == 1023 && grant.numa == -1);
    done(&service);
}
