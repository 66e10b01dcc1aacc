#include "engine/hypervisor/panic.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/memory.h"
#include "base/text.h"

enum { TAIL_BYTES = 64 << 10 };

static const char words[] = "Kernel panic - not syncing";

struct panic_mark panic_mark_now(const char *folder)
{
    struct stat found;
    MEMORY_OWNED char *path = memory_format("%s/console.log", folder);
    if (stat(path, &found) < 0) {
        return (struct panic_mark){0};
    }
    return (struct panic_mark){(uint64_t)found.st_ino, (uint64_t)found.st_size};
}

/* The last bytes of a log, from the mark on where it is in this one; how many. */
static size_t read_tail(const char *path, const struct panic_mark *mark, bool is_current,
                        char *ret_bytes)
{
    struct stat found;
    FD_OWNED int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &found) < 0) {
        return 0;
    }
    bool is_marked = mark->inode == (uint64_t)found.st_ino;
    if (!is_marked && !is_current && mark->inode != 0) {
        return 0; /* of long ago */
    }
    off_t from = is_marked ? (off_t)mark->bytes : 0;
    if (found.st_size - from > TAIL_BYTES) {
        from = found.st_size - TAIL_BYTES;
    }
    ssize_t length = found.st_size > from ? pread(fd, ret_bytes, TAIL_BYTES, from) : 0;
    return length > 0 ? (size_t)length : 0;
}

/* Behind the last time that it is said: it is said again at the end of what the kernel shows. */
static bool take_why(const char *bytes, size_t length, char ret_why[PANIC_SIZE])
{
    const char *found = NULL;
    const char *end = bytes + length;
    for (const char *at = bytes; (at = memmem(at, (size_t)(end - at), words, sizeof(words) - 1));) {
        at += sizeof(words) - 1;
        found = at;
    }
    if (found == NULL) {
        return false;
    }
    const char *stop = found;
    while (stop < end && *stop != '\n' && *stop != '\r' && *stop != '\0') {
        stop++;
    }
    struct text why = text_trim(text_of(found, (size_t)(stop - found)));
    static const char closing[] = " ]---";
    if (why.length >= sizeof(closing) - 1 &&
        memcmp(why.data + why.length - (sizeof(closing) - 1), closing, sizeof(closing) - 1) == 0) {
        why.length -= sizeof(closing) - 1;
    }
    if (why.length > 0 && why.data[0] == ':') {
        why = text_trim(text_of(why.data + 1, why.length - 1));
    }
    snprintf(ret_why, PANIC_SIZE, "%.*s", (int)(why.length < PANIC_SIZE ? why.length : PANIC_SIZE),
             why.length > 0 ? why.data : "");
    text_make_printable(ret_why, false);
    return true;
}

bool panic_since(const char *folder, const struct panic_mark *mark, char ret_why[PANIC_SIZE])
{
    MEMORY_OWNED char *current = memory_format("%s/console.log", folder);
    MEMORY_OWNED char *older = memory_format("%s/console.log.1", folder);
    MEMORY_OWNED char *bytes = memory_new(TAIL_BYTES, 1);
    ret_why[0] = '\0';
    return take_why(bytes, read_tail(current, mark, true, bytes), ret_why) ||
        take_why(bytes, read_tail(older, mark, false, bytes), ret_why);
}
