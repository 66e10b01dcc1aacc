/*
 * How short memory is: what the kernel says of stalls (PSI) and of what is left, of the machine and
 * of the control groups that the daemon is in, judged purely.
 */
#ifndef SERVICE_INSTANCE_PRESSURE_H
#define SERVICE_INSTANCE_PRESSURE_H

#include "service/instance/pool.h"

struct pressure_facts {
    uint64_t total_bytes;
    uint64_t available_bytes;
    uint64_t stalled_permille; /* PSI, "some", of the last 10 s */
};

/* HIGH: less than a twentieth is left.  SOME: less than a tenth, or a fifth of the time somebody
 * waited for memory while less than a quarter is left. */
enum pool_pressure pressure_judge(const struct pressure_facts *facts);

/* The tightest limit of the groups that `own` names (as /proc/self/cgroup has it) and of those
 * above them, below `mounts` (/sys/fs/cgroup); of both versions.  What the kernel gives back when
 * it is asked (inactive files) is not used. */
void pressure_read_groups(const char *mounts, const char *own, struct pressure_facts *facts);

/* What the files under /proc say; what cannot be read is as if there were no pressure. */
void pressure_read(struct pressure_facts *ret_facts);

#endif
