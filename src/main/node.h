/* One node: the daemon's subsystems, started in order and stopped in reverse. */
#ifndef MAIN_NODE_H
#define MAIN_NODE_H

/* `blixard server ...` and `blixard dev ...`; argv[0] is the verb.  Returns the exit status. */
int node_main(int argc, char **argv);

#endif
