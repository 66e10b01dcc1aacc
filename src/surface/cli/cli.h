/* The command line: a client of the API for every verb but `server` and `dev`, which main runs. */
#ifndef SURFACE_CLI_CLI_H
#define SURFACE_CLI_CLI_H

/* Returns the exit status: 0, or that of the error's kind (spec/errors.def). */
int cli_main(int argc, char **argv);

#endif
