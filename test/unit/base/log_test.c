#include "base/log.h"

#include <unistd.h>

#include "test/lib/test.h"

/* What `write` puts on standard error, in logfmt. */
static void capture(char *ret_text, size_t size, const char *text)
{
    int ends[2];
    EXPECT(pipe(ends) == 0);
    unsetenv("JOURNAL_STREAM");
    int kept = dup(STDERR_FILENO);
    EXPECT(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
    log_warn("%s", text);
    EXPECT(dup2(kept, STDERR_FILENO) == STDERR_FILENO);
    close(ends[1]);
    ssize_t got = read(ends[0], ret_text, size - 1);
    EXPECT(got >= 0);
    ret_text[got] = '\0';
}

TEST(log, a_line_cannot_be_forged_by_its_text)
{
    char line[512];
    capture(line, sizeof(line), "a\nlevel=error msg=\"b\"\x1b[31m");
    EXPECT(strchr(line, '\n') == line + strlen(line) - 1);
    EXPECT(strstr(line, "level=warn msg=\"a\\x0alevel=error msg=\\\"b\\\"\\x1b[31m\"\n") != NULL);
}

TEST(log, levels_above_the_threshold_are_dropped)
{
    char line[512];
    log_set_level(LOG_LEVEL_ERROR);
    capture(line, sizeof(line), "unseen");
    EXPECT_STRING(line, "");
    enum log_level level = LOG_LEVEL_ERROR;
    EXPECT(log_level_parse("debug", &level) && level == LOG_LEVEL_DEBUG);
    EXPECT(!log_level_parse("loud", &level));
}
