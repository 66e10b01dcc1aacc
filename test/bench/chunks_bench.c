/*
 * What would nodes save that have an older version of a path, if they fetched only the chunks of
 * the new one that they lack?
 *
 *     chunks-bench OLD NEW [AVERAGE_KIB]
 *
 * Both trees are archived as Nix does it (NAR) and cut where their content says so (a gear hash as
 * of FastCDC: Xia et al., USENIX ATC 2016; at least a quarter of the average, at most four times
 * it). A chunk is known if the old archive has the same.  What is missing is compressed chunk by
 * chunk, as it would travel, and compared with the whole new archive, compressed by the same zstd:
 * which is what travels now.
 */
#include <archive.h>
#include <archive_entry.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/map.h"

#include "engine/nix/cache.h"

enum { HASH_AND_PLACE = HASH_TEXT_SIZE - 1 + 16 }; /* what a list of chunks says of each */

static uint64_t gear[256];

static void make_gear(void)
{
    uint64_t state = 42;
    for (size_t i = 0; i < 256; i++) { /* splitmix64 */
        state += UINT64_C(0x9e3779b97f4a7c15);
        uint64_t z = state;
        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        gear[i] = z ^ z >> 31;
    }
}

static size_t next_chunk(const uint8_t *bytes, size_t length, size_t average)
{
    size_t most = length < 4 * average ? length : 4 * average;
    uint64_t mask = (average - 1) << 16; /* bits that many bytes have gone into */
    uint64_t hash = 0;
    for (size_t i = 0; i < most; i++) {
        hash = (hash << 1) + gear[bytes[i]];
        if (i >= average / 4 && (hash & mask) == 0) {
            return i + 1;
        }
    }
    return most;
}

static bool keep(const void *bytes, size_t length, void *context)
{
    buffer_append(context, bytes, length);
    return true;
}

static la_ssize_t count_written(struct archive *out, void *context, const void *bytes,
                                size_t length)
{
    (void)out;
    (void)bytes;
    *(uint64_t *)context += length;
    return (la_ssize_t)length;
}

/* As packed paths are. */
static uint64_t packed_size(const void *bytes, size_t length)
{
    uint64_t written = 0;
    struct archive *out = archive_write_new();
    struct archive_entry *entry = archive_entry_new();
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_pathname(entry, "chunk");
    archive_write_set_format_raw(out);
    archive_write_add_filter_zstd(out);
    archive_write_set_filter_option(out, "zstd", "compression-level", "3");
    archive_write_set_bytes_in_last_block(out, 1);
    if (archive_write_open(out, &written, NULL, count_written, NULL) != ARCHIVE_OK ||
        archive_write_header(out, entry) != ARCHIVE_OK ||
        archive_write_data(out, bytes, length) != (la_ssize_t)length ||
        archive_write_close(out) != ARCHIVE_OK) {
        fprintf(stderr, "%s\n", archive_error_string(out));
        exit(1);
    }
    archive_entry_free(entry);
    archive_write_free(out);
    return written;
}

static void remember(const struct buffer *nar, size_t average, struct map *known)
{
    for (size_t at = 0; at < nar->used;) {
        char hash[HASH_TEXT_SIZE];
        size_t length = next_chunk(nar->data + at, nar->used - at, average);
        hash_bytes(nar->data + at, length, hash);
        map_set(known, hash, known);
        at += length;
    }
}

static void compare(const struct buffer *nar, size_t average, struct map *known)
{
    uint64_t count = 0;
    uint64_t missing = 0;
    uint64_t missing_bytes = 0;
    uint64_t travels = 0;
    for (size_t at = 0; at < nar->used;) {
        char hash[HASH_TEXT_SIZE];
        size_t length = next_chunk(nar->data + at, nar->used - at, average);
        hash_bytes(nar->data + at, length, hash);
        if (map_set(known, hash, known) == NULL) {
            missing++;
            missing_bytes += length;
            travels += packed_size(nar->data + at, length);
        }
        count++;
        at += length;
    }
    travels += count * HASH_AND_PLACE;
    printf("chunks      %" PRIu64 " of %zu KiB on average, %" PRIu64 " missing (%" PRIu64
           " bytes)\ntravels     %" PRIu64 " bytes with the list of chunks\n",
           count, count == 0 ? 0 : nar->used / (count * 1024), missing, missing_bytes, travels);
}

int main(int argc, char **argv)
{
    BUFFER_OWNED struct buffer old = {0};
    BUFFER_OWNED struct buffer new = {0};
    struct map known = {0};
    struct error err = {0};
    size_t average = argc > 3 ? (size_t)strtoul(argv[3], NULL, 10) * 1024 : 64 * 1024;
    if (argc < 3 || average == 0 || (average & (average - 1)) != 0) {
        fprintf(stderr, "chunks-bench OLD NEW [AVERAGE_KIB, a power of two]\n");
        return 64;
    }
    make_gear();
    if (nix_nar_write(argv[1], keep, &old, &err) < 0 ||
        nix_nar_write(argv[2], keep, &new, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    printf("archives    %zu bytes, then %zu\n", old.used, new.used);
    printf("whole       %" PRIu64 " bytes packed travel now\n", packed_size(new.data, new.used));
    uint64_t begun = clock_monotonic_ms();
    remember(&old, average, &known);
    printf("cutting     the old one took %" PRIu64 " ms\n", clock_monotonic_ms() - begun);
    compare(&new, average, &known);
    map_done(&known);
    return 0;
}
