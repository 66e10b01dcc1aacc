/*
 * Paths that lie packed, so that many can have what was compressed once.
 *
 * A packed NAR is a blob of the image store, where other nodes fetch it; FOLDER/packed has a file
 * HASH-NARHASH for each, with "BLOB BYTES\n", whose time is when it was last asked for.  Beyond
 * packed_bytes_max what was asked for least recently goes.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"

#include "engine/image/image.h"

#include "service/nix/parts.h"

enum { NAME_CHARS = NIX_HASH_CHARS + 1 + NIX_HASH_TEXT_SIZE - 1, LINE_MAX_BYTES = 128 };

/* ---- Entries ---- */

static char *path_of(const struct nix_service *service, const struct packed *packed)
{
    char nar[NIX_HASH_TEXT_SIZE];
    nix_base32_write(packed->nar_hash, nar);
    return memory_format("%s/%s-%s", service->packed_folder, packed->hash, nar);
}

/* Two paths may have one content. */
static bool blob_is_used(const struct nix_service *service, const char *blob)
{
    LIST_EACH(node, &service->packed)
    {
        if (strcmp(LIST_ITEM(node, struct packed, link)->blob, blob) == 0) {
            return true;
        }
    }
    return false;
}

static void drop(struct nix_service *service, struct packed *packed)
{
    MEMORY_OWNED char *path = path_of(service, packed);
    struct error ignored = {0};
    list_remove(&packed->link);
    service->packed_bytes -= packed->bytes;
    if (!blob_is_used(service, packed->blob)) {
        image_remove(service->options.images, packed->blob, &ignored);
    }
    unlink(path);
    free(packed);
}

/* The last one stays: somebody is about to read it. */
static void keep_within(struct nix_service *service)
{
    while (service->packed_bytes > service->options.packed_bytes_max &&
           service->packed.head.next != service->packed.head.previous) {
        drop(service, LIST_FIRST(&service->packed, struct packed, link));
    }
}

struct packed *packed_find(struct nix_service *service, const char *hash,
                           const uint8_t nar_hash[NIX_NAR_HASH_BYTES])
{
    LIST_EACH(node, &service->packed)
    {
        struct packed *packed = LIST_ITEM(node, struct packed, link);
        if (strcmp(packed->hash, hash) != 0 ||
            memcmp(packed->nar_hash, nar_hash, NIX_NAR_HASH_BYTES) != 0) {
            continue;
        }
        if (!image_exists(service->options.images, packed->blob)) {
            drop(service, packed);
            return NULL;
        }
        MEMORY_OWNED char *path = path_of(service, packed);
        list_remove(&packed->link);
        list_push_back(&service->packed, &packed->link);
        utimensat(AT_FDCWD, path, NULL, 0);
        return packed;
    }
    return NULL;
}

void packed_add(struct nix_service *service, const char *hash,
                const uint8_t nar_hash[NIX_NAR_HASH_BYTES], const char *blob, uint64_t bytes)
{
    char line[LINE_MAX_BYTES];
    struct error err = {0};
    if (packed_find(service, hash, nar_hash) != NULL) {
        return;
    }
    struct packed *packed = NEW(struct packed);
    snprintf(packed->hash, sizeof(packed->hash), "%s", hash);
    memcpy(packed->nar_hash, nar_hash, sizeof(packed->nar_hash));
    snprintf(packed->blob, sizeof(packed->blob), "%s", blob);
    packed->bytes = bytes;
    MEMORY_OWNED char *path = path_of(service, packed);
    int length = snprintf(line, sizeof(line), "%s %" PRIu64 "\n", blob, bytes);
    if (file_write(path, line, (size_t)length, 0600, &err) < 0) {
        log_warn("nix: %s", err.text); /* it is packed again after a start */
    }
    list_push_back(&service->packed, &packed->link);
    service->packed_bytes += bytes;
    keep_within(service);
}

/* ---- At the start ---- */

struct found {
    struct packed *packed;
    struct timespec used;
};

static struct packed *read_entry(const struct nix_service *service, const char *name)
{
    MEMORY_OWNED char *path = memory_format("%s/%s", service->packed_folder, name);
    BUFFER_OWNED struct buffer line = {0};
    char nar[sizeof("sha256:") + NIX_HASH_TEXT_SIZE];
    struct error ignored = {0};
    struct packed packed = {0};
    bool good = strlen(name) == NAME_CHARS && nix_hash_is_good(name, NIX_HASH_CHARS) &&
        file_read(path, LINE_MAX_BYTES, &line, &ignored) == 0;
    snprintf(nar, sizeof(nar), "sha256:%s", good ? name + NIX_HASH_CHARS + 1 : "");
    good = good && nix_sha256_read(nar, strlen(nar), packed.nar_hash) &&
        line.used > HASH_TEXT_SIZE + 1 && line.data[HASH_TEXT_SIZE - 1] == ' ' &&
        text_parse_u64(
               text_of((const char *)line.data + HASH_TEXT_SIZE, line.used - HASH_TEXT_SIZE - 1),
               &packed.bytes);
    if (good) {
        memcpy(packed.hash, name, NIX_HASH_CHARS);
        memcpy(packed.blob, line.data, HASH_TEXT_SIZE - 1);
        good = image_id_is_good(packed.blob) && image_exists(service->options.images, packed.blob);
    }
    if (!good) {
        unlink(path);
        return NULL;
    }
    struct packed *own = NEW(struct packed);
    *own = packed;
    return own;
}

static int compare_used(const void *a, const void *b)
{
    const struct timespec *x = &((const struct found *)a)->used;
    const struct timespec *y = &((const struct found *)b)->used;
    return x->tv_sec != y->tv_sec  ? (x->tv_sec < y->tv_sec ? -1 : 1)
        : x->tv_nsec != y->tv_nsec ? (x->tv_nsec < y->tv_nsec ? -1 : 1)
                                   : 0;
}

int packed_open(struct nix_service *service, struct error *err)
{
    struct found *all = NULL;
    size_t count = 0;
    service->packed_folder = memory_format("%s/packed", service->options.folder);
    int r = file_make_folder(service->packed_folder, 0700, err);
    DIR *folder = r < 0 ? NULL : opendir(service->packed_folder);
    if (r == 0 && folder == NULL) {
        r = error_os(err, errno, "reading %s", service->packed_folder);
    }
    for (struct dirent *entry = folder == NULL ? NULL : readdir(folder); entry != NULL;
         entry = readdir(folder)) {
        struct stat status;
        if (entry->d_name[0] == '.' || fstatat(dirfd(folder), entry->d_name, &status, 0) < 0) {
            continue;
        }
        struct packed *packed = read_entry(service, entry->d_name);
        if (packed != NULL) {
            all = memory_resize(all, (count + 1) * sizeof(*all));
            all[count++] = (struct found){packed, status.st_mtim};
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    if (count > 1) {
        qsort(all, count, sizeof(*all), compare_used);
    }
    for (size_t i = 0; i < count; i++) {
        list_push_back(&service->packed, &all[i].packed->link);
        service->packed_bytes += all[i].packed->bytes;
    }
    free(all);
    if (r == 0) {
        keep_within(service);
    }
    return r;
}

void packed_close(struct nix_service *service)
{
    while (!list_is_empty(&service->packed)) {
        struct packed *packed = LIST_FIRST(&service->packed, struct packed, link);
        list_remove(&packed->link);
        free(packed);
    }
}

/* ---- Packing ---- */

struct packing {
    struct list_node link;
    struct nix_service *service;
    struct list waits;
    bool is_running;
    char hash[NIX_HASH_CHARS + 1];
    uint8_t nar_hash[NIX_NAR_HASH_BYTES];
    struct image_writer *writer; /* of the thread that packs */
    struct error write_error;
    char blob[HASH_TEXT_SIZE];
    uint64_t bytes;
};

struct pack_wait {
    struct list_node link;
    void (*done)(const struct error *error, const struct packed *packed, void *context);
    void *context;
};

static bool write_piece(const void *bytes, size_t length, void *context)
{
    struct packing *packing = context;
    return image_writer_add(packing->writer, bytes, length, &packing->write_error) == 0;
}

static int pack_work(struct job *job, struct error *err)
{
    struct packing *packing = job->context;
    NIX_INFO_OWNED struct nix_info info = {0};
    int r = nix_info_of(&job->store, packing->hash, &info, err);
    if (r == 0 && memcmp(info.nar_hash, packing->nar_hash, sizeof(info.nar_hash)) != 0) {
        r = error_set(err, ERROR_NOT_FOUND, "%s has another content now", packing->hash);
    }
    r = r < 0 ? r : image_writer_new(job->service->options.images, &packing->writer, err);
    if (r < 0) {
        return r;
    }
    r = nix_nar_pack(&job->store, &info, write_piece, packing, &job->cancel, err);
    if (r < 0) {
        image_writer_abort(packing->writer);
        if (packing->write_error.kind != ERROR_NONE) {
            *err = packing->write_error;
        }
        return -(int)err->kind;
    }
    return image_writer_finish(packing->writer, packing->blob, &packing->bytes, err);
}

static void tell(struct packing *packing, const struct error *error, const struct packed *packed)
{
    while (!list_is_empty(&packing->waits)) {
        struct pack_wait *wait = LIST_FIRST(&packing->waits, struct pack_wait, link);
        list_remove(&wait->link);
        wait->done(error, packed, wait->context);
        free(wait);
    }
}

static void start_next(struct nix_service *service);

static void on_packed(struct job *job, const struct error *error)
{
    struct packing *packing = job->context;
    struct nix_service *service = packing->service;
    struct packed *packed = NULL;
    struct error gone = {0};
    service->packing_count--;
    list_remove(&packing->link);
    if (error == NULL) {
        packed_add(service, packing->hash, packing->nar_hash, packing->blob, packing->bytes);
        packed = packed_find(service, packing->hash, packing->nar_hash);
        if (packed == NULL) {
            error_set(&gone, ERROR_OS, "what was packed just now is gone");
            error = &gone;
        }
    }
    tell(packing, error, packed);
    free(packing);
    start_next(service);
}

void pack_give_up(struct nix_service *service)
{
    struct error err;
    error_set(&err, ERROR_CANCELLED, "the node ends");
    LIST_EACH(node, &service->packings)
    {
        struct packing *packing = LIST_ITEM(node, struct packing, link);
        if (!packing->is_running) {
            list_remove(&packing->link);
            tell(packing, &err, NULL);
            free(packing);
        }
    }
}

/* What nobody waits for any more is not packed. */
static void start_next(struct nix_service *service)
{
    LIST_EACH(node, &service->packings)
    {
        struct packing *packing = LIST_ITEM(node, struct packing, link);
        if (!packing->is_running && list_is_empty(&packing->waits)) {
            list_remove(&packing->link);
            free(packing);
        } else if (!packing->is_running && service->packing_count < NIX_PACKINGS_MAX &&
                   !service->is_over) {
            packing->is_running = true;
            service->packing_count++;
            job_start(service, true, pack_work, on_packed, packing);
        }
    }
}

struct pack_wait *
pack_new(struct nix_service *service, const char *hash, const uint8_t nar_hash[NIX_NAR_HASH_BYTES],
         void (*done)(const struct error *error, const struct packed *packed, void *context),
         void *context)
{
    struct packing *found = NULL;
    struct pack_wait *wait = NEW(struct pack_wait);
    wait->done = done;
    wait->context = context;
    LIST_EACH(node, &service->packings)
    {
        struct packing *packing = LIST_ITEM(node, struct packing, link);
        if (strcmp(packing->hash, hash) == 0 &&
            memcmp(packing->nar_hash, nar_hash, NIX_NAR_HASH_BYTES) == 0) {
            found = packing;
        }
    }
    if (found == NULL) {
        found = NEW(struct packing);
        found->service = service;
        list_init(&found->waits);
        snprintf(found->hash, sizeof(found->hash), "%s", hash);
        memcpy(found->nar_hash, nar_hash, sizeof(found->nar_hash));
        list_push_back(&service->packings, &found->link);
    }
    list_push_back(&found->waits, &wait->link);
    start_next(service);
    return wait;
}

void pack_free(struct pack_wait *wait)
{
    if (wait != NULL) {
        list_remove(&wait->link);
        free(wait);
    }
}
