/* A store of the test's own, by the real Nix: NIX_STORE_DIR and the like. */
#include "engine/nix/nix.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/loop/loop.h"
#include "base/memory.h"
#include "base/process.h"

#include "engine/nix/cache.h"

#include "test/lib/test.h"

static const char conf[] = "build-users-group =\nsubstituters =\nsandbox = false\n"
                           "experimental-features = nix-command flakes\n";
static const char flake[] =
    "{ outputs = { self }: let\n"
    "  make = name: text: derivation { inherit name text; system = builtins.currentSystem or "
    "\"x86_64-linux\"; builder = \"/bin/sh\";\n"
    "    args = [ \"-c\" \"echo $text > $out\" ]; };\n"
    "in { below = make \"below\" \"1\";\n"
    "     above = make \"above\" \"${make \"below\" \"1\"}\";\n"
    "     broken = derivation { name = \"broken\"; system = \"x86_64-linux\"; builder = "
    "\"/bin/sh\"; args = [ \"-c\" \"echo these are my last words; exit 3\" ]; };\n"
    "     slow = derivation { name = \"slow\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; "
    "args = [ \"-c\" \"while :; do :; done\" ]; }; }; }\n";

static void set_folder(const char *variable, const char *name)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", test_folder(), name);
    setenv(variable, path, 1);
}

static void write_text(const char *name, const char *text)
{
    struct error err = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", test_folder(), name);
    EXPECT(file_write(path, text, strlen(text), 0644, &err) == 0);
}

static void open_store(struct nix_store *store)
{
    struct error err = {0};
    MEMORY_OWNED char *program = file_find_program("nix");
    if (program == NULL) {
        SKIP("needs Nix");
    }
    MEMORY_OWNED char *etc = memory_format("%s/etc", test_folder());
    MEMORY_OWNED char *source = memory_format("%s/flake", test_folder());
    EXPECT(file_make_folder(etc, 0755, &err) == 0 && file_make_folder(source, 0755, &err) == 0);
    write_text("etc/nix.conf", conf);
    write_text("flake/flake.nix", flake);
    set_folder("NIX_STORE_DIR", "store");
    set_folder("NIX_STATE_DIR", "state");
    set_folder("NIX_LOG_DIR", "log");
    set_folder("NIX_CONF_DIR", "etc");
    set_folder("HOME", "home");
    unsetenv("NIX_REMOTE");
    EXPECT(nix_open(store, &err) == 0);
}

static int build(const struct nix_store *store, const char *name, struct nix_paths *ret,
                 struct buffer *log, const volatile bool *cancel, struct error *err)
{
    MEMORY_OWNED char *installable = memory_format("path:%s/flake#%s", test_folder(), name);
    const struct nix_build what = {
        .installable = installable, .may_change_lock = true, .cancel = cancel};
    return nix_build(&what, store, ret, log, err);
}

static bool in(const struct nix_paths *paths, const struct nix_path *path)
{
    for (size_t i = 0; i < paths->count; i++) {
        if (nix_path_compare(&paths->items[i], path) == 0) {
            return true;
        }
    }
    return false;
}

static bool count_entry(const struct nix_entry *entry, void *context)
{
    (void)entry;
    ++*(size_t *)context;
    return true;
}

static bool add_size(const struct nix_entry *entry, void *context)
{
    *(uint64_t *)context += entry->nar_size_bytes;
    return true;
}

TEST(nix, builds_a_flake_and_knows_its_closure)
{
    struct error err = {0};
    struct nix_store store;
    NIX_PATHS_OWNED struct nix_paths outputs = {0};
    NIX_PATHS_OWNED struct nix_paths below = {0};
    NIX_PATHS_OWNED struct nix_paths closure = {0};
    NIX_INFO_OWNED struct nix_info info = {0};
    uint64_t bytes = 0;
    bool valid = false;
    open_store(&store);
    struct nix_store nowhere = store;
    snprintf(nowhere.state, sizeof(nowhere.state), "%s/nowhere", test_folder());
    EXPECT(nix_is_valid(&nowhere, &(struct nix_path){"0c2x5dl6nrnhvxkdmamfb9nq9xqbjqk0", "a"},
                        &valid, &err) == -ERROR_UNAVAILABLE);
    err = (struct error){0};
    if (build(&store, "above", &outputs, NULL, NULL, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    EXPECT(outputs.count == 1 && err.kind == ERROR_NONE);
    EXPECT(build(&store, "below", &below, NULL, NULL, &err) == 0 && below.count == 1);
    EXPECT(nix_is_valid(&store, &outputs.items[0], &valid, &err) == 0 && valid);
    EXPECT(nix_closure(&store, &outputs.items[0], &closure, &bytes, &err) == 0);
    EXPECT(closure.count == 2 && in(&closure, &outputs.items[0]) && in(&closure, &below.items[0]));
    EXPECT(nix_info_of(&store, outputs.items[0].hash, &info, &err) == 0);
    EXPECT(info.references.count == 1 && bytes > info.nar_size_bytes);
    size_t count = 0;
    EXPECT(nix_each(&store, NULL, count_entry, &count, &err) == 0 && count >= 4);
    EXPECT(nix_each(&store, "z", count_entry, &count, &err) == 0);
    NIX_INFO_OWNED struct nix_info none = {0};
    EXPECT(nix_info_of(&store, "00000000000000000000000000000000", &none, &err) ==
           -ERROR_NOT_FOUND);
}

TEST(nix, says_why_a_build_failed_and_ends_one_that_is_cancelled)
{
    struct error err = {0};
    struct nix_store store;
    NIX_PATHS_OWNED struct nix_paths outputs = {0};
    BUFFER_OWNED struct buffer log = {0};
    volatile bool cancel = true;
    open_store(&store);
    EXPECT(build(&store, "broken", &outputs, &log, NULL, &err) == -ERROR_INVALID);
    EXPECT(strpbrk(err.text, "?\n") == NULL); /* in one line, and all of it can be read */
    EXPECT(strstr(buffer_string(&log), "these are my last words") != NULL);
    EXPECT(build(&store, "slow", &outputs, NULL, &cancel, &err) == -ERROR_CANCELLED);
    const struct nix_build option = {.installable = "--help"};
    EXPECT(nix_build(&option, &store, &outputs, NULL, &err) == -ERROR_INVALID);
    EXPECT(outputs.count == 0);
}

TEST(nix, collects_what_no_root_keeps)
{
    struct error err = {0};
    struct nix_store store;
    NIX_PATHS_OWNED struct nix_paths kept = {0};
    struct nix_path read;
    struct nix_gc_result result = {0};
    bool valid = false;
    open_store(&store);
    MEMORY_OWNED char *link = memory_format("%s/roots/one", test_folder());
    EXPECT(build(&store, "above", &kept, NULL, NULL, &err) == 0);
    EXPECT(nix_root_add(&store, link, &kept.items[0], &err) == 0);
    EXPECT(nix_root_add(&store, link, &kept.items[0], &err) == 0);
    EXPECT(nix_root_read(&store, link, &read, &err) == 0 &&
           nix_path_compare(&read, &kept.items[0]) == 0);
    EXPECT(nix_gc(&store, &(struct nix_gc){0}, &result, &err) == 0);
    EXPECT(nix_is_valid(&store, &kept.items[0], &valid, &err) == 0 && valid);
    EXPECT(nix_root_remove(link, &err) == 0 && nix_root_remove(link, &err) == 0);
    uint64_t bytes = 0;
    EXPECT(nix_each(&store, NULL, add_size, &bytes, &err) == 0);
    EXPECT(nix_gc(&store, &(struct nix_gc){.is_trial = true}, &result, &err) == 0);
    EXPECT(result.paths >= 2 && result.freed_bytes == bytes);
    EXPECT(nix_gc(&store, &(struct nix_gc){0}, &result, &err) == 0 && result.paths >= 2);
    EXPECT(nix_is_valid(&store, &kept.items[0], &valid, &err) == 0 && !valid);
    EXPECT(nix_root_add(&store, link, &kept.items[0], &err) == -ERROR_NOT_FOUND);
}

static bool hash_piece(const void *bytes, size_t length, void *context)
{
    hash_add(context, bytes, length);
    return true;
}

static void add_path(const struct nix_store *store, const char *name, struct nix_path *ret)
{
    struct error err = {0};
    struct process_result result = {0};
    BUFFER_OWNED struct buffer out = {0};
    MEMORY_OWNED char *path = memory_format("%s/%s", test_folder(), name);
    const char *const argv[] = {"nix-store", "--add", path, NULL};
    const struct process_options options = {.argv = argv, .output_max = 4096};
    EXPECT(process_run(&options, &out, NULL, &result, &err) == 0 && result.exit_code == 0);
    out.used--;
    EXPECT(nix_path_parse(buffer_string(&out), store->folder, ret, &err) == 0);
}

static void make_tree(void)
{
    struct error err = {0};
    MEMORY_OWNED char *folder = memory_format("%s/tree/b", test_folder());
    EXPECT(file_make_folder(folder, 0755, &err) == 0);
    write_text("tree/b/empty", "");
    write_text("tree/a", "123456789");
    write_text("tree/B", "12345678");
    MEMORY_OWNED char *program = memory_format("%s/tree/a", test_folder());
    MEMORY_OWNED char *link = memory_format("%s/tree/link", test_folder());
    EXPECT(chmod(program, 0755) == 0 && symlink("b/empty", link) == 0);
}

TEST(nix, has_the_same_archive_of_a_tree_as_nix)
{
    struct error err = {0};
    struct nix_store store;
    struct nix_path path;
    NIX_INFO_OWNED struct nix_info info = {0};
    char expected[HASH_TEXT_SIZE];
    char text[HASH_TEXT_SIZE];
    open_store(&store);
    make_tree();
    add_path(&store, "tree", &path);
    EXPECT(nix_info_of(&store, path.hash, &info, &err) == 0);
    for (size_t i = 0; i < NIX_NAR_HASH_BYTES; i++) {
        snprintf(expected + 2 * i, 3, "%02x", info.nar_hash[i]);
    }
    MEMORY_OWNED char *tree = memory_format("%s/tree", test_folder());
    struct hash *hash = hash_new();
    EXPECT(nix_nar_write(tree, hash_piece, hash, &err) == 0);
    hash_finish(hash, text);
    EXPECT_STRING(text, expected);
}

struct packed {
    int fd;
    uint64_t bytes;
    struct hash *hash;
};

static bool take_packed(const void *bytes, size_t length, void *context)
{
    struct packed *packed = context;
    hash_add(packed->hash, bytes, length);
    packed->bytes += length;
    return file_write_all(packed->fd, bytes, length) == 0;
}

static int pack_to(const struct nix_store *store, const struct nix_info *info, const char *name,
                   struct nix_narinfo *ret, struct error *err)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", test_folder(), name);
    FD_OWNED int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    struct packed packed = {fd, 0, hash_new()};
    char text[sizeof("sha256:") + HASH_TEXT_SIZE] = "sha256:";
    int r = nix_nar_pack(store, info, take_packed, &packed, NULL, err);
    hash_finish(packed.hash, text + strlen(text));
    EXPECT(nix_sha256_read(text, strlen(text), ret->file_hash));
    ret->file_size_bytes = packed.bytes;
    return r < 0 ? r : nix_nar_check(fd, info, NULL, err);
}

/*
 * Goal: what is packed and signed here Nix takes; what was changed it does not, nor do we.
 * Method: a folder that is a cache, imported into a second store.
 */
TEST(nix, imports_what_is_packed_here_and_signed)
{
    struct error err = {0};
    struct nix_store store;
    struct nix_path path;
    struct nix_key key;
    bool valid = false;
    NIX_NARINFO_OWNED struct nix_narinfo info = {0};
    BUFFER_OWNED struct buffer text = {0};
    BUFFER_OWNED struct buffer public = {0};
    BUFFER_OWNED struct buffer signature = {0};
    open_store(&store);
    make_tree();
    add_path(&store, "tree", &path);
    MEMORY_OWNED char *cache = memory_format("%s/cache", test_folder());
    EXPECT(file_make_folder(cache, 0755, &err) == 0);
    EXPECT(nix_info_of(&store, path.hash, &info.info, &err) == 0);
    EXPECT(pack_to(&store, &info.info, "cache/x.nar.zst", &info, &err) == 0);
    info.has_file_hash = true;
    free(info.info.content_address); /* or its name alone would prove it */
    info.info.content_address = memory_copy_string("");
    EXPECT(nix_key_make("test-1", &key, &err) == 0);
    nix_key_write_public(&key, &public);
    EXPECT(nix_sign(&key, &info.info, store.folder, &signature, &err) == 0);
    free(info.info.signatures);
    info.info.signatures = buffer_take(&signature);
    snprintf(info.url, sizeof(info.url), "x.nar.zst");
    snprintf(info.compression, sizeof(info.compression), "zstd");
    nix_narinfo_write(&info, store.folder, &text);
    MEMORY_OWNED char *name = memory_format("cache/%s.narinfo", path.hash);
    MEMORY_OWNED char *about = memory_format("StoreDir: %s\n", store.folder);
    write_text(name, buffer_string(&text));
    write_text("cache/nix-cache-info", about);

    EXPECT(nix_gc(&store, &(struct nix_gc){0}, &(struct nix_gc_result){0}, &err) == 0);
    EXPECT(nix_import(&store, cache, &path, true, "", NULL, &err) == -ERROR_INVALID);
    EXPECT(strstr(err.text, "signature") != NULL);
    err = (struct error){0};
    EXPECT(nix_import(&store, cache, &path, true, buffer_string(&public), NULL, &err) == 0);
    EXPECT(nix_is_valid(&store, &path, &valid, &err) == 0 && valid);

    /* And what lies in the store is no more what it was. */
    MEMORY_OWNED char *file = memory_format("%s/%s-%s/a", store.folder, path.hash, path.name);
    uint64_t wrong = 0;
    BUFFER_OWNED struct buffer names = {0};
    EXPECT(nix_verify(&store, NULL, NULL, &names, &wrong, &err) == 0 && wrong == 0);
    EXPECT(chmod(file, 0644) == 0);
    FD_OWNED int fd = open(file, O_WRONLY | O_CLOEXEC);
    EXPECT(fd >= 0 && write(fd, "X", 1) == 1);
    EXPECT(pack_to(&store, &info.info, "bad", &info, &err) == -ERROR_CORRUPT);
    EXPECT(nix_verify(&store, NULL, NULL, &names, &wrong, &err) == 0 && wrong == 1);
    EXPECT(nix_verify(&store, &path, NULL, &names, &wrong, &err) == 0 && wrong == 1);
    EXPECT(strstr(buffer_string(&names), path.hash) != NULL);
}

struct changing {
    int fd; /* of the database */
    size_t count;
};

/* Somebody writes to it while it is read: it is read again. */
static bool change_and_count(const struct nix_entry *entry, void *context)
{
    struct changing *changing = context;
    char first = 0;
    (void)entry;
    if (changing->count++ == 0) {
        EXPECT(pread(changing->fd, &first, 1, 0) == 1 && pwrite(changing->fd, &first, 1, 0) == 1);
    }
    return true;
}

/* 0: it is read as nobody, who may write nothing beside the database; each path once. */
static int read_as_nobody(const struct nix_store *store, const char *hash)
{
    struct error err = {0};
    NIX_INFO_OWNED struct nix_info info = {0};
    MEMORY_OWNED char *database = memory_format("%s/db/db.sqlite", store->state);
    struct changing changing = {.fd = open(database, O_RDWR | O_CLOEXEC)};
    if (changing.fd < 0 || setgid(65534) < 0 || setuid(65534) < 0) {
        return 2;
    }
    size_t count = 0;
    int r = nix_info_of(store, hash, &info, &err);
    r = r < 0 ? r : nix_each(store, NULL, count_entry, &count, &err);
    r = r < 0 ? r : nix_each(store, NULL, change_and_count, &changing, &err);
    if (r < 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    return r == 0 && info.references.count == 1 && changing.count == count ? 0 : 1;
}

TEST(nix, reads_a_database_beside_which_it_may_not_write)
{
    struct error err = {0};
    struct nix_store store;
    NIX_PATHS_OWNED struct nix_paths outputs = {0};
    int status = 0;
    if (getuid() != 0) {
        SKIP("needs root");
    }
    open_store(&store);
    EXPECT(build(&store, "above", &outputs, NULL, NULL, &err) == 0);
    EXPECT(chmod(test_folder(), 0755) == 0);
    MEMORY_OWNED char *wal = memory_format("%s/db/db.sqlite-wal", store.state);
    EXPECT(!file_exists(wal));
    pid_t child = fork();
    if (child == 0) {
        _exit(read_as_nobody(&store, outputs.items[0].hash));
    }
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
}

struct asked {
    struct loop *loop;
    bool on_thread;
};

static void do_work(void *context)
{
    struct asked *asked = context;
    asked->on_thread = !loop_is_current(asked->loop);
}

static void on_done(void *context)
{
    struct asked *asked = context;
    loop_stop(asked->loop);
}

TEST(nix, works_beside_the_loop_that_asks)
{
    struct error err = {0};
    struct asked asked = {0};
    EXPECT(loop_new("nix", &asked.loop, &err) == 0);
    EXPECT(nix_task_new(asked.loop, do_work, on_done, &asked, &err) == 0);
    loop_run(asked.loop);
    EXPECT(asked.on_thread);
    loop_free(asked.loop);
}
