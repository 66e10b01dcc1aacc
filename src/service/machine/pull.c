/*
 * Images from registries with a password that the node knows and who asks does not: their layers
 * come to FOLDER/pulled/OPERATION, a store of blobs, from where they are fetched by who asked.
 *
 * The password is in the memory of one pull and nowhere else.  What nobody has fetched goes after
 * an hour, with the next pull, and at a start.
 */
#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/fd.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "engine/image/image.h"
#include "engine/image/oci.h"
#include "engine/store/store.h"

#include "service/machine/parts.h"

enum { PULLS_MAX = 4, KEPT_S = 3600, AUTHORITY_BYTES_MAX = 256 << 10 };
#define OWNER "project"

struct pull {
    struct list_node link;
    struct machine_service *service;
    char *project;
    struct oci_reference reference;
    char *username;
    struct buffer password;
    char *mirror;    /* or NULL */
    char *authority; /* PEM, or NULL */
    atomic_bool is_cancelled;
    char *folder;
    json_t *result;
    struct error error;
    char operation[OPERATION_ID_SIZE];
    machine_begun *done;
    void *context;
};

static char *place_of(const struct machine_service *service, const char *id)
{
    return memory_format("%s/pulled/%s", service->folder, id);
}

static void free_pull(struct pull *pull)
{
    list_remove(&pull->link);
    pull->service->pending--;
    buffer_wipe(&pull->password);
    json_decref(pull->result);
    free(pull->project);
    free(pull->username);
    free(pull->mirror);
    free(pull->authority);
    free(pull->folder);
    free(pull);
}

/* ---- On a thread ---- */

static void sweep_old(const struct machine_service *service)
{
    MEMORY_OWNED char *above = memory_format("%s/pulled", service->folder);
    DIR *folder = opendir(above);
    const struct dirent *entry = NULL;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        struct stat status;
        struct error ignored = {0};
        MEMORY_OWNED char *one = memory_format("%s/%s", above, entry->d_name);
        if (entry->d_name[0] != '.' && stat(one, &status) == 0 &&
            (uint64_t)status.st_mtime + KEPT_S < clock_real_ms() / 1000) {
            file_remove_tree(one, &ignored);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
}

/* libcurl reads certificates from a file. */
static int open_authority(const char *text, int *ret_fd, struct error *err)
{
    FD_OWNED int fd = memfd_create("authority", MFD_CLOEXEC);
    if (fd < 0 || file_write_all(fd, text, strlen(text)) < 0) {
        return error_os(err, errno, "keeping certificates");
    }
    *ret_fd = fd_take(&fd);
    return 0;
}

static json_t *describe(const struct oci_image *image)
{
    json_t *layers = json_array();
    for (size_t i = 0; i < image->layer_count; i++) {
        json_array_append_new(layers, json_string(strrchr(image->layers[i], '/') + 1));
    }
    return json_pack("{s:s, s:s, s:o}", "digest", image->digest, "config", image->config_id,
                     "layers", layers);
}

static int fetch(struct pull *pull, struct image_store *store, struct error *err)
{
    OCI_IMAGE_OWNED struct oci_image image = {0};
    FD_OWNED int authority = -1;
    char path[32] = "";
    int r = pull->authority != NULL ? open_authority(pull->authority, &authority, err) : 0;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", authority);
    const struct oci_registry_options options = {.username = pull->username,
                                                 .password = buffer_string(&pull->password),
                                                 .mirror = pull->mirror,
                                                 .authority = authority >= 0 ? path : NULL,
                                                 .is_cancelled = &pull->is_cancelled};
    r = r < 0 ? r : oci_pull(&pull->reference, &options, store, &image, err);
    if (r == 0) {
        pull->result = describe(&image);
    }
    return r;
}

static void work(void *context)
{
    struct pull *pull = context;
    struct error *err = &pull->error;
    struct error ignored = {0};
    struct image_store *store = NULL;
    MEMORY_OWNED char *above = memory_format("%s/pulled", pull->service->folder);
    MEMORY_OWNED char *owner = memory_format("%s/" OWNER, pull->folder);
    sweep_old(pull->service);
    int r = file_make_folder(above, 0700, err);
    r = r < 0 ? r : file_make_folder(pull->folder, 0700, err);
    r = r < 0 ? r : file_write(owner, pull->project, strlen(pull->project), 0600, err);
    r = r < 0 ? r : image_store_open(pull->folder, &store, err);
    r = r < 0 ? r : fetch(pull, store, err);
    image_store_close(store);
    if (r < 0) {
        file_remove_tree(pull->folder, &ignored);
    }
}

/* ---- Asking ---- */

static void on_pulled(void *context)
{
    struct pull *pull = context;
    struct operation_service *operations = pull->service->options.operations;
    operation_on_cancel(operations, pull->operation, NULL, NULL);
    if (pull->error.kind != ERROR_NONE) {
        log_warn("pulling %s/%s: %s", pull->reference.registry, pull->reference.repository,
                 pull->error.text);
        operation_fail(operations, pull->operation, &pull->error);
    } else {
        MEMORY_OWNED char *result = json_dumps(pull->result, JSON_COMPACT);
        operation_succeed(operations, pull->operation, result);
    }
    free_pull(pull);
}

static void cancel(void *context)
{
    struct pull *pull = context;
    atomic_store(&pull->is_cancelled, true);
}

static void on_begun(const struct error *error, uint64_t index, void *context)
{
    struct pull *pull = context;
    struct operation_service *operations = pull->service->options.operations;
    (void)index;
    if (!operation_tell(operations, pull->operation, error, pull->done, pull->context)) {
        free_pull(pull);
        return;
    }
    operation_on_cancel(operations, pull->operation, cancel, pull);
    operation_progress(operations, pull->operation, 1, "fetching its layers");
    loop_work(pull->service->options.loop, work, on_pulled, pull);
}

static unsigned count_pulls(const struct machine_service *service)
{
    unsigned count = 0;
    LIST_EACH(node, &service->pulls)
    {
        count++;
    }
    return count;
}

static int check(struct machine_service *service, const struct machine_pull *what,
                 struct oci_reference *ret_reference, char **ret_username,
                 struct buffer *ret_password, struct error *err)
{
    if (count_pulls(service) >= PULLS_MAX) {
        return error_set(err, ERROR_LIMIT, "%d images are being pulled here already", PULLS_MAX);
    }
    if (strlen(what->authority) > AUTHORITY_BYTES_MAX) {
        return error_set(err, ERROR_TOO_LARGE, "the certificates are too many");
    }
    int r = oci_parse_reference(what->reference, ret_reference, err);
    if (r == 0 &&
        oci_read_login(what->logins, what->logins_length, ret_reference->registry, ret_username,
                       ret_password, err) < 0) {
        r = error_wrap(err, "secret %.64s", what->secret);
    }
    return r;
}

void machine_pull_begin(struct machine_service *service, const char *project,
                        const struct machine_pull *what, machine_begun *done, void *context)
{
    struct error err = {0};
    struct oci_reference reference = {0};
    char *username = NULL;
    BUFFER_WIPED struct buffer password = {0};
    if (check(service, what, &reference, &username, &password, &err) < 0) {
        machine_answer(service, &err, done, NULL, context);
        return;
    }
    struct pull *pull = NEW(struct pull);
    *pull = (struct pull){
        .service = service,
        .project = memory_copy_string(project),
        .reference = reference,
        .username = username,
        .password = password,
        .mirror = what->mirror[0] != '\0' ? memory_copy_string(what->mirror) : NULL,
        .authority = what->authority[0] != '\0' ? memory_copy_string(what->authority) : NULL,
        .done = done,
        .context = context};
    password = (struct buffer){0};
    list_push_back(&service->pulls, &pull->link);
    service->pending++;
    MEMORY_OWNED char *resource = memory_format("pulls/%.200s", reference.repository);
    const struct operation_start start = {
        .kind = "image.pull", .project = project, .resource = resource};
    struct store_command *command = store_command_new();
    operation_add(service->options.operations, command, &start, pull->operation);
    pull->folder = place_of(service, pull->operation);
    store_propose(service->options.store, command, on_begun, pull);
}

void pulls_abandon(struct machine_service *service)
{
    LIST_EACH(node, &service->pulls)
    {
        cancel(LIST_ITEM(node, struct pull, link));
    }
}

void pulls_sweep(struct machine_service *service)
{
    struct error ignored = {0};
    MEMORY_OWNED char *above = memory_format("%s/pulled", service->folder);
    file_remove_tree(above, &ignored);
}

/* ---- What has come ---- */

static bool is_operation(const char *id)
{
    size_t length = strlen(id);
    return length > 0 && length < OPERATION_ID_SIZE && strspn(id, "0123456789abcdef") == length;
}

static int check_owner(const char *folder, const char *project, const char *id, struct error *err)
{
    BUFFER_OWNED struct buffer owner = {0};
    struct error ignored = {0};
    MEMORY_OWNED char *path = memory_format("%s/" OWNER, folder);
    bool is_his = is_operation(id) && file_read(path, 256, &owner, &ignored) == 0 &&
        strcmp(buffer_string(&owner), project) == 0;
    return is_his ? 0
                  : error_set(err, ERROR_NOT_FOUND,
                              "nothing that was pulled by %.64s is here (any "
                              "more)",
                              id);
}

int machine_pulled_open(const struct machine_service *service, const char *project, const char *id,
                        const char *blob, int *ret_fd, uint64_t *ret_size, struct error *err)
{
    struct image_store *store = NULL;
    MEMORY_OWNED char *folder = place_of(service, id);
    int r = check_owner(folder, project, id, err);
    if (r == 0 && !image_id_is_good(blob)) {
        r = error_set(err, ERROR_INVALID, "an id of a blob has 64 hex digits");
    }
    r = r < 0 ? r : image_store_open_shared(folder, &store, err);
    r = r < 0 ? r : image_open(store, blob, ret_fd, ret_size, err);
    image_store_close(store);
    return r;
}

struct forgetting {
    struct machine_service *service;
    char *folder;
    struct error error;
    machine_done *done;
    void *context;
};

static void forget(void *context)
{
    struct forgetting *forgetting = context;
    file_remove_tree(forgetting->folder, &forgetting->error);
}

static void on_forgotten(void *context)
{
    struct forgetting *forgetting = context;
    forgetting->service->pending--;
    forgetting->done(forgetting->error.kind != ERROR_NONE ? &forgetting->error : NULL, 0,
                     forgetting->context);
    free(forgetting->folder);
    free(forgetting);
}

void machine_pulled_delete(struct machine_service *service, const char *project, const char *id,
                           machine_done *done, void *context)
{
    struct error err = {0};
    char *folder = place_of(service, id);
    if (check_owner(folder, project, id, &err) < 0) {
        free(folder);
        machine_answer(service, &err, NULL, done, context);
        return;
    }
    struct forgetting *forgetting = NEW(struct forgetting);
    *forgetting =
        (struct forgetting){.service = service, .folder = folder, .done = done, .context = context};
    service->pending++;
    loop_work(service->options.loop, forget, on_forgotten, forgetting);
}
