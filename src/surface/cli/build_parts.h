/* What building modules of several languages shares.  Private to the room. */
#ifndef SURFACE_CLI_BUILD_PARTS_H
#define SURFACE_CLI_BUILD_PARTS_H

#include "surface/cli/private.h"

/* ---- A compiler's command ---- */

struct hash;

enum { COMMAND_ARGUMENTS_MAX = 320 };

struct command {
    const char *argv[COMMAND_ARGUMENTS_MAX];
    size_t count;
};

void command_add(struct command *command, const char *argument);

enum { BUILD_OUTPUT_MAX = 1 << 20, BUILD_TIMEOUT_MS = 30 * 60 * 1000 };

/* What it says goes to standard error, whether it fails or only warns. */
int command_run(struct command *command, const char *folder, struct error *err);

/* UNSUPPORTED: `what` is missing, and which Debian package has it. */
int build_missing(const char *what, const char *package, struct error *err);

/* A clang that can compile for WASI with its libraries; *ret_clang is the caller's. */
int build_find_clang(bool is_cpp, char **ret_clang, struct error *err);

/* One of the files that this program carries, which is there. */
const struct embed_file *build_find_file(const char *name);

/* Write the files that this program carries below `prefix` ("sdk/rust/") into a folder; those that
 * are there as they should be are left alone. */
int build_write_files(const char *prefix, const char *folder, struct error *err);

/* What these files hold, into a hash. */
void build_hash_files(const char *prefix, struct hash *hash);

/* ---- Languages ---- */

int build_rust(const struct project *project, const char *module, struct error *err);

/* Their tools come from npm. */

int build_assemblyscript(const struct project *project, struct error *err);
int build_javascript(const struct project *project, const char *module, struct error *err);

#endif
