/* The process beside the VMM of a machine; started by the daemon, never by hand. */
#include "engine/hypervisor/monitor.h"

int main(int argc, char **argv)
{
    return monitor_main(argc, argv);
}
