#include "service/telemetry/telemetry.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/loop/loop.h"
#include "base/memory.h"

#include "service/telemetry/trace.h"

#include "test/lib/test.h"

struct seen {
    unsigned count;
    uint64_t first;
    uint64_t last;
    struct buffer text; /* "LEVEL REQUEST TEXT\n" each */
};

static void on_line(const struct telemetry_line *line, void *context)
{
    struct seen *seen = context;
    seen->first = seen->count == 0 ? line->sequence : seen->first;
    EXPECT(seen->count == 0 || line->sequence > seen->last);
    seen->last = line->sequence;
    seen->count++;
    buffer_append_string(&seen->text, log_level_text(line->level));
    buffer_append_string(&seen->text, " ");
    buffer_append_string(&seen->text, line->request_id);
    buffer_append_string(&seen->text, " ");
    buffer_append(&seen->text, line->text, line->text_length);
    buffer_append_string(&seen->text, "\n");
}

static struct telemetry *open_it(uint64_t bytes_max)
{
    struct telemetry *telemetry = NULL;
    struct error err = {0};
    struct telemetry_options options = {.folder = test_folder(),
                                        .bytes_max_per_function = bytes_max};
    EXPECT(telemetry_open(&options, &telemetry, &err) == 0);
    return telemetry;
}

static struct seen read_all(struct telemetry *telemetry, uint64_t after, size_t lines_max)
{
    struct seen seen = {0};
    struct error err = {0};
    EXPECT(telemetry_read(telemetry, "p", "f", after, lines_max, NULL, on_line, &seen, &err) == 0);
    return seen;
}

static void say(struct telemetry *telemetry, const char *text)
{
    telemetry_log(telemetry, "p", "f", 3, "r1", NULL, text, strlen(text));
}

TEST(telemetry, cuts_lines_and_takes_their_level)
{
    struct telemetry *telemetry = open_it(0);
    say(telemetry, "plain\n<3>bad\n<7>detail\n\n<9>odd\n<4>");
    say(telemetry, "no end");
    struct seen seen = read_all(telemetry, 0, 100);
    EXPECT_STRING(buffer_string(&seen.text),
                  "info r1 plain\nerror r1 bad\ndebug r1 detail\ninfo r1 <9>odd\nwarn r1 \n"
                  "info r1 no end\n");
    buffer_done(&seen.text);
    telemetry_close(telemetry);
}

/* Goal: what a guest writes cannot break the file it is kept in. */
TEST(telemetry, keeps_any_bytes_on_one_line)
{
    static const char odd[] = "a\0b\"c\\d\x80\xff\r\x1b[31m";
    struct telemetry *telemetry = open_it(0);
    telemetry_log(telemetry, "p", "f", 1, "r", NULL, odd, sizeof(odd) - 1);
    say(telemetry, "next");
    struct seen seen = read_all(telemetry, 0, 100);
    EXPECT(seen.count == 2);
    EXPECT(strstr(buffer_string(&seen.text), "info r1 next\n") != NULL);
    buffer_done(&seen.text);
    telemetry_close(telemetry);
}

TEST(telemetry, finds_what_was_said_in_a_trace)
{
    struct telemetry *telemetry = open_it(0);
    struct error err = {0};
    struct trace_context trace =
        trace_parent_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    telemetry_log(telemetry, "p", "f", 1, "r1", &trace, "in it", 5);
    telemetry_log(telemetry, "p", "f", 1, "r2", NULL, "in none", 7);
    struct seen seen = {0};
    EXPECT(telemetry_read(telemetry, "p", "f", 0, 10, "0af7651916cd43dd8448eb211c80319c", on_line,
                          &seen, &err) == 0);
    EXPECT_STRING(buffer_string(&seen.text), "info r1 in it\n");
    buffer_done(&seen.text);
    telemetry_close(telemetry);
}

TEST(telemetry, cuts_lines_that_are_too_long)
{
    enum { LENGTH = 3 * 8192 + 5 };
    struct telemetry *telemetry = open_it(0);
    MEMORY_OWNED char *text = memory_new(1, LENGTH + 1);
    memset(text, 'x', LENGTH);
    say(telemetry, text);
    struct seen seen = read_all(telemetry, 0, 100);
    EXPECT(seen.count == 4);
    buffer_done(&seen.text);
    telemetry_close(telemetry);
}

TEST(telemetry, gives_the_newest_lines_after_a_sequence)
{
    struct telemetry *telemetry = open_it(0);
    for (int i = 1; i <= 20; i++) {
        char text[32];
        snprintf(text, sizeof(text), "line %d", i);
        say(telemetry, text);
    }
    struct seen seen = read_all(telemetry, 0, 5);
    EXPECT(seen.count == 5 && seen.first == 16 && seen.last == 20);
    buffer_done(&seen.text);
    seen = read_all(telemetry, 18, 5);
    EXPECT(seen.count == 2 && seen.first == 19);
    buffer_done(&seen.text);
    seen = read_all(telemetry, 20, 5);
    EXPECT(seen.count == 0);
    buffer_done(&seen.text);
    telemetry_close(telemetry);
}

/* Goal: sequences go on over restarts, also when the last line was torn by a crash. */
TEST(telemetry, goes_on_where_a_life_before_ended)
{
    struct telemetry *telemetry = open_it(0);
    say(telemetry, "one\ntwo");
    telemetry_close(telemetry);
    MEMORY_OWNED char *path = memory_format("%s/p/f/1.log", test_folder());
    int fd = open(path, O_WRONLY | O_APPEND);
    EXPECT(fd >= 0 && write(fd, "{\"sequence\":3,\"te", 17) == 17);
    close(fd);
    telemetry = open_it(0);
    say(telemetry, "three");
    struct seen seen = read_all(telemetry, 0, 100);
    EXPECT(seen.count == 3 && seen.last == 3);
    EXPECT_STRING(buffer_string(&seen.text), "info r1 one\ninfo r1 two\ninfo r1 three\n");
    buffer_done(&seen.text);
    telemetry_close(telemetry);
}

static uint64_t folder_bytes(const char *path)
{
    uint64_t bytes = 0;
    DIR *list = opendir(path);
    EXPECT(list != NULL);
    for (struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
        struct stat status;
        MEMORY_OWNED char *file = memory_format("%s/%s", path, entry->d_name);
        if (stat(file, &status) == 0 && S_ISREG(status.st_mode)) {
            bytes += (uint64_t)status.st_size;
        }
    }
    closedir(list);
    return bytes;
}

TEST(telemetry, keeps_no_more_than_its_bound_of_the_newest)
{
    enum { BOUND = 64 << 10, LINES = 5000 };
    struct telemetry *telemetry = open_it(BOUND);
    for (int i = 0; i < LINES; i++) {
        say(telemetry, "something that is said again and again, and nobody wants to keep for ever");
    }
    struct seen seen = read_all(telemetry, 0, LINES);
    MEMORY_OWNED char *folder = memory_format("%s/p/f", test_folder());
    EXPECT(seen.last == LINES);
    EXPECT(seen.count > 100 && seen.count < LINES / 2);
    EXPECT(seen.last - seen.first + 1 == seen.count); /* no hole in what is kept */
    EXPECT(folder_bytes(folder) <= BOUND + (BOUND / 4));
    buffer_done(&seen.text);
    telemetry_close(telemetry);
}

TEST(telemetry, removes_what_a_function_said)
{
    struct telemetry *telemetry = open_it(0);
    struct error err = {0};
    say(telemetry, "old");
    telemetry_log(telemetry, "p", "other", 1, "r", NULL, "stays", 5);
    EXPECT(telemetry_remove(telemetry, "p", "f", &err) == 0);
    struct seen seen = read_all(telemetry, 0, 10);
    EXPECT(seen.count == 0);
    buffer_done(&seen.text);
    say(telemetry, "of a call that was still under way");
    telemetry_expect(telemetry, "p", "f");
    say(telemetry, "new");
    seen = read_all(telemetry, 0, 10);
    EXPECT(seen.count == 1 && seen.last == 1);
    buffer_done(&seen.text);
    struct seen other = {0};
    EXPECT(telemetry_read(telemetry, "p", "other", 0, 10, NULL, on_line, &other, &err) == 0);
    EXPECT(other.count == 1);
    buffer_done(&other.text);
    telemetry_close(telemetry);
}

/*
 * Goal: what a full disk does not take is counted, and the lines before and behind are whole.
 * Method: files may not become larger than a few bytes more than the first line.
 */
TEST(telemetry, a_full_disk_tears_no_line)
{
    struct telemetry *telemetry = open_it(0);
    struct rlimit before;
    char long_line[4096];
    memset(long_line, 'x', sizeof(long_line));
    say(telemetry, "first");
    struct seen seen = read_all(telemetry, 0, 10);
    buffer_done(&seen.text);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    const struct rlimit small = {.rlim_cur = 1024, .rlim_max = before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    for (int i = 0; i < 2; i++) { /* the second has a note before it, which has room */
        telemetry_log(telemetry, "p", "f", 3, "r1", NULL, long_line, sizeof(long_line));
        seen = read_all(telemetry, 0, 10);
        buffer_done(&seen.text);
    }
    setrlimit(RLIMIT_FSIZE, &before);
    say(telemetry, "last");
    seen = read_all(telemetry, 0, 10);
    EXPECT_STRING(buffer_string(&seen.text),
                  "info r1 first\n"
                  "warn r1 1 pieces of log were dropped: the disk was full or too slow\n"
                  "warn r1 1 pieces of log were dropped: the disk was full or too slow\n"
                  "info r1 last\n");
    buffer_done(&seen.text);
    telemetry_close(telemetry);
}

/* ---- Following ---- */

struct watcher {
    struct loop *loop;
    unsigned told;
};

static void on_change(void *context)
{
    struct watcher *watcher = context;
    watcher->told++;
    loop_stop(watcher->loop);
}

TEST(telemetry, tells_followers_of_their_function_alone)
{
    struct telemetry *telemetry = open_it(0);
    struct error err = {0};
    struct watcher mine = {0};
    struct watcher others = {0};
    EXPECT(loop_new("test", &mine.loop, &err) == 0);
    others.loop = mine.loop;
    struct telemetry_follow *follow =
        telemetry_follow_new(telemetry, "p", "f", mine.loop, on_change, &mine);
    struct telemetry_follow *other =
        telemetry_follow_new(telemetry, "p", "ff", mine.loop, on_change, &others);
    say(telemetry, "hear");
    loop_run(mine.loop);
    EXPECT(mine.told == 1 && others.told == 0);
    say(telemetry, "again"); /* perhaps posted when it is freed: nobody is told any more */
    struct seen seen = read_all(telemetry, 0, 10);
    EXPECT(seen.count == 2);
    buffer_done(&seen.text);
    telemetry_follow_free(follow);
    telemetry_follow_free(other);
    loop_free(mine.loop);
    EXPECT(mine.told == 1 && others.told == 0);
    telemetry_close(telemetry);
}

/* ---- Metrics ---- */

static bool has_line(const char *text, const char *line)
{
    MEMORY_OWNED char *whole = memory_format("\n%s\n", line);
    return strstr(text, whole) != NULL;
}

static void count(struct telemetry *telemetry, const char *function, const char *end,
                  uint64_t duration_ns, const struct trace_context *trace)
{
    telemetry_call(telemetry,
                   &(struct telemetry_call){.project = "p",
                                            .function = function,
                                            .end = end,
                                            .duration_ns = duration_ns,
                                            .has_run = true,
                                            .is_cold = true,
                                            .trace = trace});
}

TEST(telemetry, metrics_count)
{
    struct telemetry *telemetry = open_it(0);
    BUFFER_OWNED struct buffer out = {0};
    telemetry_add(telemetry, TELEMETRY_COMPILES, 2);
    telemetry_add(telemetry, TELEMETRY_COMPILES, 3);
    telemetry_set(telemetry, TELEMETRY_INSTANCES, 7);
    telemetry_set(telemetry, TELEMETRY_INSTANCES, 4);
    count(telemetry, "f", "ok", 1000, NULL);
    count(telemetry, "f", "trap", 2000000000, NULL);
    telemetry_write_metrics(telemetry, TELEMETRY_PROMETHEUS, &out);
    const char *text = buffer_string(&out);
    EXPECT(strstr(text, "\nblixard_compiles_total 5\n") != NULL);
    EXPECT(strstr(text, "\nblixard_instances 4\n") != NULL);
    EXPECT(strstr(text, "# TYPE blixard_instances gauge\n") != NULL);
    EXPECT(strstr(text, "# TYPE blixard_compiles_total counter\n") != NULL);
    EXPECT(has_line(
        text,
        "faas_invocations_total{blixard_project=\"p\",faas_name=\"f\",faas_trigger=\"http\"} 1"));
    EXPECT(has_line(
        text, "faas_errors_total{blixard_project=\"p\",faas_name=\"f\",error_type=\"trap\"} 1"));
    EXPECT(has_line(text,
                    "faas_invoke_duration_seconds_bucket{blixard_project=\"p\",faas_name=\"f\",le="
                    "\"+Inf\"} 2"));
    EXPECT(has_line(text,
                    "blixard_function_duration_seconds_bucket{blixard_project=\"p\",faas_name="
                    "\"f\",le=\"0.0001\"} 1"));
    EXPECT(has_line(text, "# TYPE faas_errors_total counter"));
    EXPECT(strstr(text, "# EOF") == NULL && strstr(text, "trace_id") == NULL);
    telemetry_close(telemetry);
}

TEST(telemetry, openmetrics_have_exemplars_of_sampled_calls)
{
    struct telemetry *telemetry = open_it(0);
    BUFFER_OWNED struct buffer out = {0};
    struct trace_context trace =
        trace_parent_of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    struct trace_context unsampled =
        trace_parent_of("00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
    count(telemetry, "f", "ok", 1500000, &trace);
    count(telemetry, "f", "ok", 1500000000, &unsampled);
    telemetry_write_metrics(telemetry, TELEMETRY_OPENMETRICS, &out);
    telemetry_write_end(TELEMETRY_OPENMETRICS, &out);
    const char *text = buffer_string(&out);
    EXPECT(strstr(text,
                  "le=\"0.0025\"} 1 # {trace_id=\"0af7651916cd43dd8448eb211c80319c\"} 0.0015 ") !=
           NULL);
    EXPECT(strstr(text, "1af7651916cd43dd8448eb211c80319c") == NULL);
    EXPECT(has_line(text, "# TYPE faas_errors counter"));
    EXPECT_STRING(text + strlen(text) - 6, "# EOF\n");
    telemetry_close(telemetry);
}

/* Goal: neither functions that come and go nor kinds of errors make /metrics grow for ever. */
TEST(telemetry, labels_are_bounded)
{
    struct telemetry *telemetry = open_it(0);
    struct error err = {0};
    BUFFER_OWNED struct buffer out = {0};
    char name[32];
    for (int i = 0; i < 1100; i++) {
        snprintf(name, sizeof(name), "f%d", i);
        count(telemetry, name, "ok", 1, NULL);
        count(telemetry, "often", "ok", 1, NULL);
    }
    for (int i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "kind%d", i);
        count(telemetry, "often", name, 1, NULL);
    }
    EXPECT(telemetry_remove(telemetry, "p", "f1099", &err) == 0);
    count(telemetry, "f1099", "ok", 1, NULL); /* that was under way */
    telemetry_write_metrics(telemetry, TELEMETRY_PROMETHEUS, &out);
    const char *text = buffer_string(&out);
    unsigned functions = 0;
    unsigned errors = 0;
    for (const char *at = text; (at = strstr(at, "faas_timeouts_total{")) != NULL; at++) {
        functions++;
    }
    for (const char *at = text; (at = strstr(at, "error_type=")) != NULL; at++) {
        errors++;
    }
    EXPECT(functions == 999 && errors == 25);
    EXPECT(strstr(text, "\"f1099\"") == NULL && strstr(text, "\"f0\"") == NULL);
    EXPECT(has_line(
        text,
        "faas_errors_total{blixard_project=\"p\",faas_name=\"often\",error_type=\"other\"} 76"));
    telemetry_expect(telemetry, "p", "f1099");
    count(telemetry, "f1099", "ok", 1, NULL);
    buffer_clear(&out);
    telemetry_write_metrics(telemetry, TELEMETRY_PROMETHEUS, &out);
    EXPECT(strstr(buffer_string(&out), "\"f1099\"") != NULL);
    telemetry_close(telemetry);
}

static void note_log(const char *project, const char *function, void *context)
{
    struct seen *seen = context;
    seen->count++;
    EXPECT_STRING(project, "p");
    EXPECT(strcmp(function, "f") == 0 || strcmp(function, "g") == 0);
}

TEST(telemetry, names_the_functions_that_there_are_logs_of)
{
    struct telemetry *telemetry = open_it(0);
    struct error err = {0};
    struct seen seen = {0};
    telemetry_each_log(telemetry, note_log, &seen);
    EXPECT(seen.count == 0);
    say(telemetry, "one");
    telemetry_log(telemetry, "p", "g", 1, "r1", NULL, "two", 3);
    struct seen lines = read_all(telemetry, 0, 100); /* both are written */
    buffer_done(&lines.text);
    telemetry_each_log(telemetry, note_log, &seen);
    EXPECT(seen.count == 2);
    EXPECT(telemetry_remove(telemetry, "p", "g", &err) == 0);
    telemetry_each_log(telemetry, note_log, &seen);
    EXPECT(seen.count == 3);
    telemetry_close(telemetry);
}
