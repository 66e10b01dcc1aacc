#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/memory.h"

#include "test/lib/test.h"

struct outcome {
    struct process_result result;
    struct error err;
    struct buffer output;
    struct buffer errors;
    int status;
};

static void run(struct outcome *outcome, struct process_options options)
{
    options.output_max = options.output_max > 0 ? options.output_max : 1 << 20;
    outcome->status =
        process_run(&options, &outcome->output, &outcome->errors, &outcome->result, &outcome->err);
}

static void done(struct outcome *outcome)
{
    buffer_done(&outcome->output);
    buffer_done(&outcome->errors);
}

static const char *const *shell(const char *script)
{
    static const char *argv[4] = {"sh", "-c", NULL, NULL};
    argv[2] = script;
    return argv;
}

TEST(process, tells_both_outputs_and_the_status)
{
    struct outcome outcome = {0};
    run(&outcome, (struct process_options){.argv = shell("echo out; echo err >&2; exit 7")});
    EXPECT(outcome.status == 0 && outcome.result.exit_code == 7);
    EXPECT(!outcome.result.timed_out && !outcome.result.cancelled);
    EXPECT(outcome.result.max_rss_kib > 0);
    EXPECT_STRING(buffer_string(&outcome.output), "out\n");
    EXPECT_STRING(buffer_string(&outcome.errors), "err\n");
    done(&outcome);
}

TEST(process, tells_the_signal_that_killed_it)
{
    struct outcome outcome = {0};
    run(&outcome, (struct process_options){.argv = shell("kill -SEGV $$")});
    EXPECT(outcome.status == 0 && outcome.result.exit_code == 128 + SIGSEGV);
    done(&outcome);
}

TEST(process, says_when_there_is_no_such_program)
{
    static const char *const missing[] = {"no-such-program-anywhere", NULL};
    static const char *const folder[] = {"/", NULL};
    struct outcome outcome = {0};
    run(&outcome, (struct process_options){.argv = missing});
    EXPECT(outcome.status == -ERROR_NOT_FOUND);
    EXPECT(strstr(outcome.err.text, "no-such-program-anywhere") != NULL);
    run(&outcome, (struct process_options){.argv = folder});
    EXPECT(outcome.status < 0);
    run(&outcome, (struct process_options){.argv = shell("true"), .folder = "/no/such/folder"});
    EXPECT(outcome.status < 0);
    done(&outcome);
}

/* Goal: input and output of more than a pipe holds, at the same time.  Method: tee. */
TEST(process, feeds_and_drains_at_once)
{
    enum { LENGTH = 3 << 20 };
    struct outcome outcome = {0};
    MEMORY_OWNED char *input = memory_new(1, LENGTH);
    for (size_t i = 0; i < LENGTH; i++) {
        input[i] = (char)(i * 7 + (i >> 12));
    }
    run(&outcome,
        (struct process_options){.argv = shell("tee /dev/stderr"),
                                 .input = input,
                                 .input_length = LENGTH,
                                 .output_max = LENGTH});
    EXPECT(outcome.status == 0 && outcome.result.exit_code == 0);
    EXPECT(outcome.output.used == LENGTH && memcmp(outcome.output.data, input, LENGTH) == 0);
    EXPECT(outcome.errors.used == LENGTH && memcmp(outcome.errors.data, input, LENGTH) == 0);
    done(&outcome);
}

TEST(process, drops_output_beyond_the_limit_and_lets_the_program_end)
{
    struct outcome outcome = {0};
    run(&outcome,
        (struct process_options){.argv = shell("head -c 1000000 /dev/zero; exit 3"),
                                 .output_max = 10});
    EXPECT(outcome.result.exit_code == 3 && outcome.output.used == 10);
    done(&outcome);
}

TEST(process, survives_a_program_that_does_not_read)
{
    struct outcome outcome = {0};
    MEMORY_OWNED char *input = memory_new(1, 1 << 20);
    signal(SIGPIPE, SIG_IGN);
    run(&outcome,
        (struct process_options){
            .argv = shell("exec <&-; echo gone"), .input = input, .input_length = 1 << 20});
    EXPECT(outcome.status == 0 && outcome.result.exit_code == 0);
    EXPECT_STRING(buffer_string(&outcome.output), "gone\n");
    done(&outcome);
}

/* The child tells its pid and that of its own child; neither is left. */
static void expect_gone(struct buffer *output)
{
    long pids[2] = {0, 0};
    EXPECT(sscanf(buffer_string(output), "%ld %ld", &pids[0], &pids[1]) == 2);
    for (int i = 0; i < 2; i++) {
        /* Killed is not gone yet; a pidfd can be read when it is (pidfd_open(2)), also of a zombie.
         */
        int fd = (int)syscall(SYS_pidfd_open, (pid_t)pids[i], 0);
        if (fd < 0) {
            EXPECT(errno == ESRCH);
            continue;
        }
        struct pollfd end = {.fd = fd, .events = POLLIN};
        EXPECT(poll(&end, 1, 10000) == 1);
        close(fd);
    }
}

static const char lingers[] = "sleep 1000 & echo $$ $!; wait";

TEST(process, ends_the_whole_group_when_it_takes_too_long)
{
    struct outcome outcome = {0};
    run(&outcome, (struct process_options){.argv = shell(lingers), .timeout_ms = 300});
    EXPECT(outcome.status == 0 && outcome.result.timed_out && !outcome.result.cancelled);
    EXPECT(outcome.result.exit_code == 128 + SIGKILL);
    expect_gone(&outcome.output);
    done(&outcome);
}

TEST(process, ends_the_whole_group_when_cancelled)
{
    struct outcome outcome = {0};
    volatile bool cancel = true;
    run(&outcome, (struct process_options){.argv = shell(lingers), .cancel = &cancel});
    EXPECT(outcome.status == 0 && outcome.result.cancelled && !outcome.result.timed_out);
    done(&outcome);
}

struct canceller {
    const char *begun;
    volatile bool cancel;
};

static void *cancel_once_begun(void *context)
{
    struct canceller *canceller = context;
    char byte = 0;
    int fd = open(canceller->begun, O_RDONLY | O_CLOEXEC);
    EXPECT(read(fd, &byte, 1) == 1); /* a FIFO: until it is written to */
    __atomic_store_n(&canceller->cancel, true, __ATOMIC_RELAXED);
    close(fd);
    return NULL;
}

TEST(process, lets_what_is_cancelled_tidy_up)
{
    MEMORY_OWNED char *begun = memory_format("%s/begun", test_folder());
    MEMORY_OWNED char *script =
        memory_format("trap 'echo tidied; exit 3' TERM; sleep 1000 & echo > %s; wait", begun);
    struct outcome outcome = {0};
    struct canceller canceller = {.begun = begun};
    pthread_t thread;
    EXPECT(mkfifo(begun, 0600) == 0);
    EXPECT(pthread_create(&thread, NULL, cancel_once_begun, &canceller) == 0);
    run(&outcome, (struct process_options){.argv = shell(script), .cancel = &canceller.cancel});
    pthread_join(thread, NULL);
    EXPECT(outcome.status == 0 && outcome.result.cancelled && outcome.result.exit_code == 3);
    done(&outcome);
}

TEST(process, counts_time_of_a_program_that_closed_its_outputs)
{
    struct outcome outcome = {0};
    run(&outcome,
        (struct process_options){.argv = shell("exec >&- 2>&-; sleep 1000"), .timeout_ms = 200});
    EXPECT(outcome.status == 0 && outcome.result.timed_out);
    done(&outcome);
}

static int leave_mark(void *context)
{
    return chdir(context);
}

static int refuse(void *context)
{
    (void)context;
    return 1;
}

/* Goal: a child that stands still before its program is another's work, not the caller's end.
 * Method: the first one waits for ever; a page that both share tells the second. */
static int wait_the_first_time(void *context)
{
    volatile int *tries = context;
    while (++*tries == 1) {
        pause();
    }
    return 0;
}

static int wait_always(void *context)
{
    while (context == NULL) {
        pause();
    }
    return 0;
}

TEST(process, begins_anew_what_stands_still_before_it_begins)
{
    struct outcome outcome = {0};
    int *tries =
        mmap(NULL, sizeof(*tries), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(tries != MAP_FAILED);
    run(&outcome,
        (struct process_options){.argv = shell("echo begun"),
                                 .prepare = wait_the_first_time,
                                 .prepare_context = tries,
                                 .begin_ms = 2000});
    EXPECT(outcome.status == 0);
    EXPECT_STRING(buffer_string(&outcome.output), "begun\n");
    EXPECT(*tries >= 2);
    done(&outcome);
    outcome = (struct outcome){0};
    run(&outcome,
        (struct process_options){.argv = shell("true"), .prepare = wait_always, .begin_ms = 10});
    EXPECT(outcome.status == -ERROR_TIMEOUT);
    done(&outcome);
    munmap(tries, sizeof(*tries));
}

TEST(process, prepares_the_child_and_passes_the_environment_given)
{
    static const char *const environment[] = {"PATH=/usr/bin:/bin", "ONLY=this", NULL};
    struct outcome outcome = {0};
    run(&outcome,
        (struct process_options){.argv = shell("pwd; echo $ONLY $HOME"),
                                 .envp = environment,
                                 .prepare = leave_mark,
                                 .prepare_context = (void *)(uintptr_t) "/usr"});
    EXPECT_STRING(buffer_string(&outcome.output), "/usr\nthis\n");
    run(&outcome, (struct process_options){.argv = shell("true"), .prepare = refuse});
    EXPECT(outcome.status < 0);
    done(&outcome);
}

/* Goal: no descriptor of ours is inherited.  Method: it lists its own. */
TEST(process, inherits_no_descriptor)
{
    struct outcome outcome = {0};
    int kept = dup(STDERR_FILENO); /* without close-on-exec */
    EXPECT(kept >= 3);
    run(&outcome, (struct process_options){.argv = shell("exec ls /proc/self/fd")});
    EXPECT_STRING(buffer_string(&outcome.output), "0\n1\n2\n3\n"); /* 3: the folder itself */
    close(kept);
    done(&outcome);
}
