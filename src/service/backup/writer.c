/* Writing a backup, piece by piece. */
#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/version.h"

#include "engine/image/image.h"
#include "engine/store/store.h"

#include "service/backup/backup.h"
#include "service/backup/format.h"

enum { PIECE_BYTES = 1 << 20 };

struct blob {
    char id[HASH_TEXT_SIZE];
    int fd;
    uint64_t size_bytes;
};

struct backup_writer {
    struct archive *archive;
    struct buffer *out; /* of the running step, or `unread` */
    struct buffer unread;
    uint64_t index;
    uint64_t created_ms;
    struct buffer state;
    struct blob *blobs;
    size_t blob_count;
    struct buffer sums;

    enum { PART_MANIFEST, PART_STATE, PART_BLOBS, PART_SUMS, PART_END } part;
    size_t at;      /* which blob */
    uint64_t taken; /* of this blob or the state */
    struct hash *hash;
};

/* ---- What is to be saved ---- */

struct listing {
    struct backup_writer *writer;
    struct image_store *images;
    struct error *err;
    int status;
};

static bool add_blob(sqlite3_stmt *row, void *context)
{
    struct listing *listing = context;
    struct backup_writer *writer = listing->writer;
    struct blob blob = {.fd = -1};
    snprintf(blob.id, sizeof(blob.id), "%s", (const char *)sqlite3_column_text(row, 0));
    listing->status =
        image_open(listing->images, blob.id, &blob.fd, &blob.size_bytes, listing->err);
    if (listing->status < 0) {
        return false;
    }
    writer->blobs = memory_resize(writer->blobs, (writer->blob_count + 1) * sizeof(struct blob));
    writer->blobs[writer->blob_count++] = blob;
    return true;
}

static int list_blobs(struct backup_writer *writer, struct store *store, struct image_store *images,
                      struct error *err)
{
    struct listing listing = {.writer = writer, .images = images, .err = err};
    int r = store_query(store, err, add_blob, &listing,
                        "SELECT DISTINCT module FROM version ORDER BY module", "");
    r = r < 0 ? r : listing.status;
    if (r == -ERROR_NOT_FOUND) {
        return error_set(err, ERROR_CORRUPT,
                         "a module that the state names is missing on this node: %s", err->text);
    }
    return r;
}

struct looking {
    struct image_store *images;
    void (*visit)(const char *module, void *context);
    void *context;
};

static bool look_at(sqlite3_stmt *row, void *context)
{
    const struct looking *looking = context;
    const char *module = (const char *)sqlite3_column_text(row, 0);
    if (!image_exists(looking->images, module)) {
        looking->visit(module, looking->context);
    }
    return true;
}

int backup_missing_each(struct store *store, struct image_store *images,
                        void (*visit)(const char *module, void *context), void *context,
                        struct error *err)
{
    struct looking looking = {images, visit, context};
    return store_query(store, err, look_at, &looking,
                       "SELECT DISTINCT module FROM version ORDER BY module", "");
}

static la_ssize_t on_bytes(struct archive *archive, void *context, const void *bytes, size_t length)
{
    struct backup_writer *writer = context;
    (void)archive;
    buffer_append(writer->out, bytes, length);
    return (la_ssize_t)length;
}

int backup_writer_new(struct store *store, struct image_store *images,
                      struct backup_writer **ret_writer, struct error *err)
{
    struct backup_writer *writer = NEW(struct backup_writer);
    writer->created_ms = clock_real_ms();
    writer->archive = archive_write_new();
    CHECK(writer->archive != NULL);
    archive_write_set_format_pax_restricted(writer->archive);
    archive_write_set_bytes_per_block(writer->archive, 0);
    writer->out = &writer->unread;
    int opened = archive_write_open(writer->archive, writer, NULL, on_bytes, NULL);
    CHECK(opened == ARCHIVE_OK && writer->unread.used == 0);
    int r = store_dump(store, &writer->state, &writer->index, err);
    r = r < 0 ? r : list_blobs(writer, store, images, err);
    if (r < 0) {
        backup_writer_free(writer);
        return r;
    }
    *ret_writer = writer;
    return 0;
}

void backup_writer_free(struct backup_writer *writer)
{
    char unused[HASH_TEXT_SIZE];
    if (writer == NULL) {
        return;
    }
    writer->out = &writer->unread;
    archive_write_fail(writer->archive); /* nothing more: freeing would close it properly */
    archive_write_free(writer->archive);
    for (size_t i = 0; i < writer->blob_count; i++) {
        close(writer->blobs[i].fd);
    }
    if (writer->hash != NULL) {
        hash_finish(writer->hash, unused);
    }
    free(writer->blobs);
    buffer_done(&writer->state);
    buffer_done(&writer->sums);
    buffer_done(&writer->unread);
    free(writer);
}

/* ---- Pieces ---- */

static void begin_file(struct backup_writer *writer, const char *name, uint64_t size_bytes)
{
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_pathname(entry, name);
    archive_entry_set_size(entry, (la_int64_t)size_bytes);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0600);
    archive_entry_set_mtime(entry, (time_t)(writer->created_ms / 1000), 0);
    int r = archive_write_header(writer->archive, entry);
    CHECK(r == ARCHIVE_OK); /* it goes to memory */
    archive_entry_free(entry);
    writer->hash = hash_new();
    writer->taken = 0;
}

static void add_bytes(struct backup_writer *writer, const void *bytes, size_t length)
{
    la_ssize_t wrote = archive_write_data(writer->archive, bytes, length);
    CHECK(wrote == (la_ssize_t)length);
    hash_add(writer->hash, bytes, length);
    writer->taken += length;
}

static void end_file(struct backup_writer *writer, const char *name)
{
    char digest[HASH_TEXT_SIZE];
    hash_finish(writer->hash, digest);
    writer->hash = NULL;
    writer->taken = 0;
    buffer_append_format(&writer->sums, "%s  %s\n", digest, name);
}

static void write_manifest(struct backup_writer *writer)
{
    BUFFER_OWNED struct buffer text = {0};
    struct json_writer json = json_writer_to(&text);
    json_write_begin_object(&json);
    json_write_field_u64(&json, "format", BACKUP_FORMAT);
    json_write_field_string(&json, "blixard", blixard_version);
    json_write_field_u64(&json, "index", writer->index);
    json_write_field_u64(&json, "blobs", writer->blob_count);
    json_write_field_time_ms(&json, "created_at", writer->created_ms);
    json_write_end_object(&json);
    buffer_append_byte(&text, '\n');
    begin_file(writer, BACKUP_MANIFEST, text.used);
    add_bytes(writer, text.data, text.used);
    end_file(writer, BACKUP_MANIFEST);
}

/* True when the state is over. */
static bool write_state(struct backup_writer *writer)
{
    if (writer->hash == NULL) {
        begin_file(writer, BACKUP_STATE, writer->state.used);
    }
    size_t left = writer->state.used - writer->taken;
    add_bytes(writer, writer->state.data + writer->taken, left < PIECE_BYTES ? left : PIECE_BYTES);
    if (writer->taken < writer->state.used) {
        return false;
    }
    end_file(writer, BACKUP_STATE);
    buffer_done(&writer->state);
    return true;
}

/* 1 when this blob is over. */
static int write_blob(struct backup_writer *writer, const struct blob *blob, struct error *err)
{
    char name[sizeof(BACKUP_BLOBS) + HASH_TEXT_SIZE];
    snprintf(name, sizeof(name), BACKUP_BLOBS "%s", blob->id);
    if (writer->hash == NULL) {
        begin_file(writer, name, blob->size_bytes);
    }
    uint8_t *piece = memory_new(PIECE_BYTES, 1);
    uint64_t left = blob->size_bytes - writer->taken;
    ssize_t got =
        pread(blob->fd, piece, left < PIECE_BYTES ? left : PIECE_BYTES, (off_t)writer->taken);
    int r = 0;
    if (got < 0) {
        r = error_os(err, errno, "reading module %s", blob->id);
    } else if (got == 0 && left > 0) {
        r = error_set(err, ERROR_CORRUPT, "module %s is shorter than it was", blob->id);
    } else {
        add_bytes(writer, piece, (size_t)got);
    }
    free(piece);
    if (r < 0 || writer->taken < blob->size_bytes) {
        return r;
    }
    end_file(writer, name);
    return 1;
}

static void write_sums(struct backup_writer *writer)
{
    BUFFER_OWNED struct buffer sums = writer->sums;
    writer->sums = (struct buffer){0};
    begin_file(writer, BACKUP_SUMS, sums.used);
    add_bytes(writer, sums.data, sums.used);
    end_file(writer, BACKUP_SUMS);
    int r = archive_write_close(writer->archive);
    CHECK(r == ARCHIVE_OK);
}

static int write_part(struct backup_writer *writer, struct error *err)
{
    int r = 0;
    switch (writer->part) {
    case PART_MANIFEST:
        write_manifest(writer);
        writer->part = PART_STATE;
        return 0;
    case PART_STATE:
        writer->part = write_state(writer) ? PART_BLOBS : PART_STATE;
        return 0;
    case PART_BLOBS:
        if (writer->at == writer->blob_count) {
            writer->part = PART_SUMS;
            return 0;
        }
        r = write_blob(writer, &writer->blobs[writer->at], err);
        writer->at += r == 1;
        return r < 0 ? r : 0;
    case PART_SUMS:
        write_sums(writer);
        writer->part = PART_END;
        return 0;
    case PART_END:
        break;
    }
    return 0;
}

int backup_writer_step(struct backup_writer *writer, struct buffer *out, struct error *err)
{
    size_t before = out->used;
    int r = 0;
    writer->out = out;
    while (r == 0 && writer->part != PART_END && out->used - before < PIECE_BYTES) {
        r = write_part(writer, err);
    }
    return r < 0 ? r : writer->part != PART_END;
}
