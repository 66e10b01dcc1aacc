/*
 * States of VMMs with an HTTP API, as one stream: whatever the bytes are, reading ends; and what is
 * taken apart is what was found whole, no larger than what it was taken from.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fd.h"
#include "base/file.h"

#include "engine/hypervisor/bundle.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static const char *const names[] = {"state", "memory", NULL};
static const char *const small[] = {"state", NULL};

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct error err = {0};
    struct stat status;
    uint64_t apart = 0;
    FD_OWNED int whole = memfd_create("whole", MFD_CLOEXEC);
    FD_OWNED int rest = memfd_create("rest", MFD_CLOEXEC);
    FD_OWNED int memory = memfd_create("memory", MFD_CLOEXEC);
    must(file_write_all(whole, bytes, length) == 0 && lseek(whole, 0, SEEK_SET) == 0);
    bool is_whole = bundle_check(whole, names, &err) == 0;
    must(lseek(whole, 0, SEEK_SET) == 0);
    err = (struct error){0};
    bool is_split = bundle_split(whole, names, "memory", rest, memory, &apart, &err) == 0;
    must(is_whole == is_split && is_split == (err.kind == ERROR_NONE));
    if (is_split) {
        must(fstat(memory, &status) == 0 && (uint64_t)status.st_size == apart && apart < length);
        must(lseek(rest, 0, SEEK_SET) == 0 && bundle_check(rest, small, &err) == 0);
    }
    return 0;
}
