/* The jailed process that owns function VMs; started by the daemon, never by hand. */
#include "engine/runner/runner.h"

int main(int argc, char **argv)
{
    return runner_serve(argc, argv);
}
