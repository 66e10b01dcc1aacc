/* The CLI and the daemon in one program: two verbs run a node, the others talk to one. */
#include <string.h>

#include "surface/cli/cli.h"

#include "main/node.h"

int main(int argc, char **argv)
{
    if (argc > 1 && (strcmp(argv[1], "server") == 0 || strcmp(argv[1], "dev") == 0)) {
        return node_main(argc - 1, argv + 1);
    }
    return cli_main(argc, argv);
}
