/* A network namespace for a test: see world.h. */
#include "world.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/process.h"

#include "../../../lib/test.h"

void world_enter(void)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0) {
        SKIP("needs root, for a network namespace");
    }
    world_run("ip link set lo up");
}

int world_ask(const char *line, struct buffer *output)
{
    enum { WORDS_MAX = 48 };
    const char *words[WORDS_MAX + 1] = {0};
    size_t count = 0;
    char *rest = NULL;
    struct error err = {0};
    struct process_result result = {0};
    MEMORY_OWNED char *copy = memory_copy_string(line);
    for (char *word = strtok_r(copy, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest)) {
        EXPECT(count < WORDS_MAX);
        words[count++] = word;
    }
    const struct process_options options = {
        .argv = words, .output_max = 1 << 20, .timeout_ms = 30000};
    int r = process_run(&options, output, NULL, &result, &err);
    if (r == -ERROR_NOT_FOUND) {
        SKIP("needs iproute2 and nftables");
    }
    EXPECT(r == 0);
    return result.exit_code;
}

int world_run(const char *line)
{
    return world_ask(line, NULL);
}

bool world_says(const char *line, const char *part)
{
    BUFFER_OWNED struct buffer said = {0};
    world_ask(line, &said);
    return strstr(buffer_string(&said), part) != NULL;
}
