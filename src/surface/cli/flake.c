/*
 * Machines and functions of flakes.  --flake REFERENCE#NAME is a NixOS configuration with
 * microvm.nix, of which a machine is made, or a package that holds NAME.wasm.
 *
 * They are built here, by the Nix of who asks for it, with that one's rights to what it fetches;
 * nodes evaluate nothing.  A runner is in this machine's store: a node that has the same one has
 * it, the others get it by --copy-to, from there by each other.  A module is uploaded as any other.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/process.h"
#include "base/text.h"

#include "engine/nix/nix.h"

#include "surface/cli/private.h"

#define MIB     (UINT64_C(1) << 20)
#define MIB_MAX (UINT64_C(1) << 40)

enum { SAID_BYTES_MAX = 1 << 16, MACS_MAX = 4 };

/* What a configuration says of itself, as far as it says it. */
static const char facts_of[] =
    "m: { mem = m.mem or 0; vcpu = m.vcpu or 0; macs = map (i: i.mac or \"\") (builtins.filter "
    "(i: (i.type or \"tap\") == \"tap\") (m.interfaces or [ ])); }";

/* ---- References ---- */

static bool is_attribute(const char *name)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    size_t length = strlen(name);
    return length > 0 && strspn(name, letters) == length;
}

/* ".#web" is ".#nixosConfigurations.web.config.microvm" + rest; the caller's. */
static int expand(const char *flake, const char *rest, char **ret_installable, struct error *err)
{
    const char *hash = strrchr(flake, '#');
    if (hash == NULL || flake[0] == '-' || !is_attribute(hash + 1)) {
        return error_set(err, ERROR_INVALID,
                         "--flake %.100s is not REFERENCE#NAME, as .#web: a NixOS configuration "
                         "whose name has letters, digits, '_' and '-'",
                         flake);
    }
    *ret_installable =
        memory_format("%.*s#nixosConfigurations.%s.config.microvm%s", (int)(hash - flake),
                      hash == flake ? "" : flake, hash + 1, rest);
    return 0;
}

/* ---- Building ---- */

static int build(const char *flake, const char *folder, char ret_path[NIX_TEXT_SIZE],
                 struct error *err)
{
    MEMORY_OWNED char *installable = NULL;
    NIX_PATHS_OWNED struct nix_paths outputs = {0};
    struct nix_store store;
    int r = expand(flake, ".declaredRunner", &installable, err);
    r = r < 0 ? r : nix_open(&store, err);
    if (r < 0) {
        return r;
    }
    const struct nix_build build = {.installable = installable, .folder = folder};
    r = nix_build(&build, &store, &outputs, NULL, err);
    if (r == 0 && outputs.count != 1) {
        return error_set(err, ERROR_INVALID, "--flake %.100s has %zu outputs, and a runner is one",
                         flake, outputs.count);
    }
    if (r == 0) {
        nix_path_text(&outputs.items[0], store.folder, ret_path);
    }
    return r < 0 ? error_wrap(err, "building %.100s", flake) : 0;
}

/* Nix begins with what it was about: the cause stands behind the last "error: ". */
static const char *last_words(const char *said)
{
    static const char mark[] = "error: ";
    const char *last = said;
    for (const char *at = strstr(said, mark); at != NULL; at = strstr(at + 1, mark)) {
        last = at + sizeof(mark) - 1;
    }
    return last;
}

static int copy_to(const char *url, const char *path, struct error *err)
{
    BUFFER_OWNED struct buffer said = {0};
    struct process_result result = {0};
    const char *const argv[] = {
        "nix", "--extra-experimental-features", "nix-command flakes", "copy", "--to", url, path,
        NULL};
    const struct process_options options = {.argv = argv, .output_max = SAID_BYTES_MAX};
    if (url[0] == '-') {
        return error_set(err, ERROR_INVALID, "--copy-to %.100s is no store", url);
    }
    int r = interrupt_run(options, NULL, &said, &result, err);
    if (r == 0 && result.exit_code != 0) {
        text_make_printable((char *)(uintptr_t)buffer_string(&said), true);
        return error_set(err, ERROR_UNAVAILABLE, "copying %.120s to %.*s: %.300s", path,
                         (int)strcspn(url, "?"), url, last_words(buffer_string(&said)));
    }
    return r;
}

int flake_build(const struct arguments *arguments, const char *flake, const char *folder,
                char **ret_path, struct error *err)
{
    char path[NIX_TEXT_SIZE];
    const char *url = flag_value(arguments, "copy-to");
    int r = build(flake, folder, path, err);
    r = r < 0 || url == NULL ? r : copy_to(url, path, err);
    if (r == 0) {
        *ret_path = memory_copy_string(path);
    }
    return r;
}

/* ---- Functions ---- */

/* "hello" of ".#hello" and of ".#packages.x86_64-linux.hello". */
static const char *name_of(const char *flake)
{
    const char *hash = strrchr(flake, '#');
    const char *dot = hash != NULL ? strrchr(hash, '.') : NULL;
    const char *name = dot != NULL ? dot + 1 : hash != NULL ? hash + 1 : "";
    return is_attribute(name) ? name : "";
}

/* With "--rebuild" Nix builds what is there once more, and compares. */
static int build_package(const char *flake, const char *folder, bool is_twice,
                         const struct nix_store *store, char ret_path[NIX_TEXT_SIZE],
                         struct error *err)
{
    static const char *const again[] = {"--rebuild", NULL};
    NIX_PATHS_OWNED struct nix_paths outputs = {0};
    NIX_PATHS_OWNED struct nix_paths same = {0};
    struct nix_build build = {.installable = flake, .folder = folder};
    int r = nix_build(&build, store, &outputs, NULL, err);
    if (r == 0 && outputs.count != 1) {
        return error_set(err, ERROR_INVALID, "it has %zu outputs, and a function is one",
                         outputs.count);
    }
    build.options = again;
    r = r < 0 || !is_twice ? r : nix_build(&build, store, &same, NULL, err);
    if (r == 0) {
        nix_path_text(&outputs.items[0], store->folder, ret_path);
    }
    return r;
}

int flake_build_function(const char *flake, const char *folder, bool is_twice, char **ret_name,
                         char **ret_module, struct error *err)
{
    char path[NIX_TEXT_SIZE];
    struct nix_store store;
    struct stat status;
    const char *name = name_of(flake);
    if (name[0] == '\0') {
        return error_set(err, ERROR_INVALID, "--flake %.100s is not REFERENCE#PACKAGE, as .#hello",
                         flake);
    }
    int r = nix_open(&store, err);
    r = r < 0 ? r : build_package(flake, folder, is_twice, &store, path, err);
    if (r < 0) {
        return error_wrap(err, "building %.100s", flake);
    }
    bool is_file = stat(path, &status) == 0 && S_ISREG(status.st_mode);
    MEMORY_OWNED char *module =
        is_file ? memory_copy_string(path) : memory_format("%s/%s.wasm", path, name);
    if (stat(module, &status) < 0 || !S_ISREG(status.st_mode)) {
        return error_set(err, ERROR_NOT_FOUND, "%.100s holds no %s.wasm: %s", flake, name, path);
    }
    *ret_name = memory_copy_string(name);
    *ret_module = module;
    module = NULL;
    return 0;
}

/* ---- What a configuration says ---- */

/* Interfaces have the MACs of its configuration, in its order, where nothing else was said. */
static void take_macs(const json_t *macs, json_t *body)
{
    size_t index = 0;
    json_t *network = NULL;
    json_array_foreach(json_object_get(body, "networks"), index, network)
    {
        const char *mac = json_string_value(json_array_get(macs, index));
        if (index < MACS_MAX && mac != NULL && mac[0] != '\0' &&
            json_object_get(network, "mac") == NULL) {
            json_object_set_new(network, "mac", json_string(mac));
        }
    }
}

static int take_facts(const char *flake, json_t *body, struct error *err)
{
    static const char *const options[] = {"--apply", facts_of, NULL};
    BUFFER_OWNED struct buffer text = {0};
    JSON_OWNED json_t *facts = NULL;
    MEMORY_OWNED char *installable = NULL;
    int r = expand(flake, "", &installable, err);
    const struct nix_build build = {.installable = installable, .options = options};
    r = r < 0 ? r : nix_eval(&build, &text, err);
    r = r < 0 ? r : json_read(text.data, text.used, &facts, err);
    if (r < 0) {
        return error_wrap(err, "what %.100s says of its size", flake);
    }
    uint64_t bytes = json_u64(facts, "mem") <= MIB_MAX ? json_u64(facts, "mem") * MIB : 0;
    uint64_t cpus = json_u64(facts, "vcpu");
    if (bytes > 0 && json_object_get(body, "memory_bytes") == NULL) {
        json_object_set_new(body, "memory_bytes", json_integer((json_int_t)bytes));
    }
    if (cpus > 0 && json_object_get(body, "cpus") == NULL) {
        json_object_set_new(body, "cpus", json_integer((json_int_t)cpus));
    }
    take_macs(json_object_get(facts, "macs"), body);
    return 0;
}

int flake_take(const struct arguments *arguments, bool with_facts, json_t *body, struct error *err)
{
    MEMORY_OWNED char *path = NULL;
    const char *flake = flag_value(arguments, "flake");
    if (flake == NULL && flag_value(arguments, "copy-to") != NULL) {
        return error_set(err, ERROR_INVALID, "--copy-to is for --flake");
    }
    if (flake == NULL) {
        return 0;
    }
    if (flag_value(arguments, "runner") != NULL) {
        return error_set(err, ERROR_INVALID, "--runner and --flake exclude each other");
    }
    int r = flake_build(arguments, flake, NULL, &path, err);
    r = r < 0 || !with_facts ? r : take_facts(flake, body, err);
    if (r == 0) {
        json_object_set_new(body, "runner", json_string(path));
        json_object_set_new(body, "flake", json_string(flake));
    }
    return r;
}
