/*
 * Documents, whatever they are: what is taken is what its kind has, has a line, and is put in an
 * order that has all of it; what is not is refused with a reason.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "service/manifest/parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As if nothing of it were there, and as if all of it were. */
static void decide(const struct manifest *manifest, bool is_there)
{
    struct error err = {0};
    struct action action = {
        .kind = manifest->kind,
        .name = memory_copy_string(manifest->name),
        .project = memory_copy_string(manifest->project),
        .place = memory_copy_string(manifest->place),
        .labels = json_incref(manifest->labels),
        .spec = json_incref(manifest->spec),
        .observed = is_there ? json_deep_copy(manifest->spec) : NULL,
        .rows = json_array(),
    };
    if (action_decide(&action, "cli", &err) == 0) {
        json_decref(calls_of(&action));
    } else {
        CHECK(err.kind == ERROR_INVALID && err.text[0] != '\0');
    }
    action_done(&action);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = {0};
    struct manifest_set set = {.project = (char *)(uintptr_t) "default"};
    MEMORY_OWNED char *text = memory_copy_text((const char *)data, size);
    int r = read_documents(&set, "fuzz", text, &err);
    CHECK(r == 0 || err.text[0] != '\0');
    struct manifest_set *whole = NEW(struct manifest_set);
    *whole = set;
    whole->project = memory_copy_string("default");
    for (size_t i = 0; i < whole->count; i++) {
        CHECK(strchr(whole->items[i].place, ':') != NULL);
        decide(&whole->items[i], false);
        decide(&whole->items[i], true);
    }
    manifest_set_free(whole);
    return 0;
}
