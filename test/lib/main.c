/*
 * Runs the tests: `unit-tests [PREFIX...]`.  One line per test on standard output,
 *
 *     ok SUITE.NAME | not ok SUITE.NAME | skip SUITE.NAME: REASON
 *
 * and a closing line that counts them.
 */
#include <signal.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"

#include "test/lib/test.h"

enum { EXIT_SKIP = 77, LIMIT_SECONDS = 240 };

static struct test *first;
static struct test **last = &first;
static char folder[64];
static int skip_pipe[2];

void test_register(struct test *test)
{
    *last = test;
    last = &test->next;
}

void test_skip(const char *reason)
{
    ssize_t wrote = write(skip_pipe[1], reason, strlen(reason));
    (void)wrote;
    _exit(EXIT_SKIP);
}

const char *test_folder(void)
{
    return folder;
}

static int run_in_child(const struct test *test)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(LIMIT_SECONDS);
        test->run();
        exit(EXIT_SUCCESS); /* not _exit: the leak checker runs at exit */
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return status;
}

static int run_with_folder(const struct test *test)
{
    snprintf(folder, sizeof(folder), "/tmp/blixard-test-XXXXXX");
    if (mkdtemp(folder) == NULL) {
        perror("mkdtemp");
        exit(EXIT_FAILURE);
    }
    int status = run_in_child(test);
    struct error err = {0};
    file_remove_tree(folder, &err);
    return status;
}

static bool is_wanted(const char *name, int prefix_count, char **prefixes)
{
    bool wanted = prefix_count == 0;
    for (int i = 0; i < prefix_count && !wanted; i++) {
        wanted = strncmp(name, prefixes[i], strlen(prefixes[i])) == 0;
    }
    return wanted;
}

int main(int argc, char **argv)
{
    int passed = 0;
    int failed = 0;
    int skipped = 0;

    for (const struct test *test = first; test != NULL; test = test->next) {
        char full[256];
        snprintf(full, sizeof(full), "%s.%s", test->suite, test->name);
        if (!is_wanted(full, argc - 1, argv + 1)) {
            continue;
        }
        if (pipe(skip_pipe) < 0) {
            return EXIT_FAILURE;
        }
        int status = run_with_folder(test);
        close(skip_pipe[1]);
        char reason[256] = "";
        ssize_t got = read(skip_pipe[0], reason, sizeof(reason) - 1);
        (void)got;
        close(skip_pipe[0]);
        if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIP) {
            printf("skip %s: %s\n", full, reason);
            skipped++;
        } else if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
            printf("ok %s\n", full);
            passed++;
        } else {
            printf("not ok %s\n", full);
            failed++;
        }
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed == 0 && passed + skipped > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
