/* Rules of security groups and published ports: any text. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/memory.h"

#include "service/network/parts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = {0};
    struct network_rule rule;
    struct network_rule again;
    struct network_publish publish;
    MEMORY_OWNED char *text = memory_copy_text((const char *)data, size);
    char *peer = strchr(text, '\n');
    network_publish_parse(text, &publish, &err);
    if (peer != NULL) {
        *peer++ = '\0';
    }
    if (settings_parse_rule("", text, peer != NULL ? peer : "", &rule, &err) == 0) {
        /* What is kept is understood, and stays as it is. */
        CHECK(settings_parse_rule("in", rule.allow, rule.peer, &again, &err) == 0);
        CHECK(strcmp(rule.allow, again.allow) == 0 && strcmp(rule.peer, again.peer) == 0);
    }
    return 0;
}
