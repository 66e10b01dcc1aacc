/*
 * Schedules and time-zone files: reading ends whatever the bytes, and the next moment of what was
 * read is after the one asked for.  The first byte says which; a schedule is asked in Berlin.
 */
#include "service/cron/cron.h"

#include <stdlib.h>

#include "base/error.h"
#include "base/memory.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static void must(bool holds)
{
    if (!holds) {
        abort();
    }
}

static void ask(const char *text, const struct cron_zone *zone)
{
    struct error err = {0};
    struct cron *cron = NULL;
    uint64_t at_ms = 1774700000000;
    if (cron_parse(text, zone, &cron, &err) < 0) {
        return;
    }
    for (int i = 0; i < 4 && at_ms != 0; i++) {
        uint64_t next_ms = cron_next(cron, at_ms, 1774600000000);
        must(next_ms == 0 || next_ms > at_ms);
        at_ms = next_ms;
    }
    cron_free(cron);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static struct cron_zone *berlin = NULL;
    struct error err = {0};
    if (berlin == NULL) {
        must(cron_zone_open("Europe/Berlin", &berlin, &err) == 0);
    }
    if (length == 0) {
        return 0;
    }
    if (bytes[0] % 2 == 0) {
        MEMORY_OWNED char *text = memory_copy_text((const char *)bytes + 1, length - 1);
        ask(text, berlin);
        return 0;
    }
    struct cron_zone *zone = NULL;
    if (cron_zone_read(bytes + 1, length - 1, &zone, &err) == 0) {
        ask("30 2 * * *", zone);
        ask("30 * * * *", zone);
        cron_zone_free(zone);
    }
    return 0;
}
