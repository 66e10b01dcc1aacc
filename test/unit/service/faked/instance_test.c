#include "base/memory.h"

#include "test/lib/test.h"
#include "test/unit/service/faked/fakes.h"

/* What a caller of the instances saw. */
struct seen {
    struct instance_call *call;
    struct buffer output;
    unsigned ends, writables;
    bool has_error;
    struct error error;
    struct instance_result result;
};

static void on_output(const void *bytes, size_t length, void *context)
{
    struct seen *seen = context;
    EXPECT(seen->ends == 0);
    buffer_append(&seen->output, bytes, length);
}

static void on_writable(void *context)
{
    ((struct seen *)context)->writables++;
}

static void on_end(const struct error *error, const struct instance_result *result, void *context)
{
    struct seen *seen = context;
    seen->ends++;
    seen->has_error = error != NULL;
    if (error != NULL) {
        seen->error = *error;
    }
    seen->result = *result;
}

static const struct instance_events events = {on_output, on_writable, on_end};

static bool begin(struct seen *seen, const char *input, bool continues)
{
    struct instance_invocation invocation = {
        .target = &fake_target,
        .request_id = "request-1",
        .environment = "A=1\0B=2",
        .environment_length = 8,
        .input = input,
        .input_length = strlen(input),
        .input_continues = continues,
    };
    *seen = (struct seen){0};
    seen->call = instance_invoke(fake_instances, &invocation, &events, seen, &seen->error);
    return seen->call != NULL;
}

/* A runner is there and has the image. */
static void warm_up(void)
{
    struct seen seen;
    EXPECT(begin(&seen, "", false));
    fake_turn();
    fake_end(fake_call(0), VMM_END_EXIT, 0, "");
    EXPECT(seen.ends == 1);
}

static void body_warm(void)
{
    warm_up();
    struct seen seen;
    EXPECT(begin(&seen, "in", false));
    struct runner_call *call = fake_call(0);
    EXPECT(call != NULL); /* at once: no post, no wait */
    EXPECT_STRING(buffer_string(&call->input), "in");
    EXPECT(call->input_is_whole);
    EXPECT_STRING(fake_variable(call, "B"), "2");
    fake_output(call, "out");
    fake_end(call, VMM_END_EXIT, 7, "");
    EXPECT(seen.ends == 1 && !seen.has_error && seen.result.run.exit_code == 7);
    EXPECT_STRING(buffer_string(&seen.output), "out");
    EXPECT_STRING(seen.result.instance, "1000-0");
    EXPECT(strstr(fake_log, "hello init starting\n") != NULL);
    buffer_done(&seen.output);
}

TEST(instance, runs_a_warm_call_at_once)
{
    fake_world_run(2, 0, body_warm);
}

static void body_waiting(void)
{
    warm_up();
    struct seen first, second;
    EXPECT(begin(&first, "", false));
    char input[8] = "ab";
    EXPECT(begin(&second, input, true));
    memset(input, 'x', sizeof(input)); /* it was only lent */
    EXPECT(!instance_call_write(second.call, "cd", 2));
    instance_call_pause(second.call);
    uint64_t queue_ns;
    char name[INSTANCE_NAME_SIZE];
    EXPECT(!instance_call_place(second.call, &queue_ns, name));
    fake_end(fake_call(0), VMM_END_EXIT, 0, "");

    struct runner_call *call = fake_call(0);
    EXPECT(call != NULL && second.writables == 1 && call->is_paused);
    EXPECT_STRING(buffer_string(&call->input), "abcd");
    EXPECT(instance_call_place(second.call, &queue_ns, name) && strcmp(name, "1000-0") == 0);
    EXPECT(instance_call_write(second.call, "ef", 2));
    instance_call_finish_input(second.call);
    EXPECT_STRING(buffer_string(&call->input), "abcdef");
    EXPECT(call->input_is_whole);
    instance_call_resume(second.call);
    fake_end(call, VMM_END_EXIT, 0, "");
    EXPECT(first.ends == 1 && second.ends == 1);
}

TEST(instance, keeps_what_a_waiting_call_was_given)
{
    fake_world_run(1, 0, body_waiting);
}

static void body_death(void)
{
    warm_up();
    struct seen running, waiting;
    EXPECT(begin(&running, "1", false));
    EXPECT(begin(&waiting, "2", false));
    fake_die(fake_runners[0]);
    EXPECT(running.ends == 1 && running.has_error);
    EXPECT(running.error.kind == ERROR_UNAVAILABLE);
    EXPECT_STRING(running.error.text, "the runner died: killed by signal 9");
    EXPECT(waiting.ends == 0 && fake_runner_count == 2);
    fake_turn();
    EXPECT_STRING(buffer_string(&fake_call(0)->input), "2");
    fake_end(fake_call(0), VMM_END_EXIT, 0, "");
    EXPECT(waiting.ends == 1 && !waiting.has_error);
    EXPECT_STRING(waiting.result.instance, "1001-0");
}

TEST(instance, gives_waiting_calls_of_a_dead_runner_to_the_next)
{
    fake_world_run(1, 0, body_death);
}

static void body_death_while_loading(void)
{
    fake_holds_loads = true;
    struct seen seen;
    EXPECT(begin(&seen, "", false));
    fake_die(fake_runners[0]);
    EXPECT(seen.ends == 0 && fake_runner_count == 2);
    fake_loaded(fake_runners[1], NULL);
    fake_end(fake_call(0), VMM_END_EXIT, 0, "");
    EXPECT(seen.ends == 1 && !seen.has_error);
}

TEST(instance, loads_again_what_was_loading_when_the_runner_died)
{
    fake_world_run(1, 0, body_death_while_loading);
}

static void body_failures(void)
{
    struct seen seen;
    struct error error;
    fake_holds_loads = true;
    EXPECT(begin(&seen, "", false));
    error_set(&error, ERROR_TRAP, "trap: unreachable");
    fake_loaded(fake_runners[0], &error);
    EXPECT(seen.ends == 0); /* never from inside */
    fake_turn();
    EXPECT(seen.ends == 1 && seen.has_error && seen.error.kind == ERROR_TRAP);

    snprintf(fake_target.image_id, sizeof(fake_target.image_id), "missing");
    EXPECT(begin(&seen, "", false));
    EXPECT(seen.ends == 0);
    fake_turn();
    EXPECT(seen.ends == 1 && seen.error.kind == ERROR_NOT_FOUND);
}

TEST(instance, tells_why_an_image_did_not_load)
{
    fake_world_run(1, 0, body_failures);
}

/* A runner that is this process does not go with a machine. */
static void body_machine(void)
{
    struct seen seen;
    struct error error;
    fake_holds_loads = true;
    fake_target.linux_settings = memory_copy_string("{}");
    for (unsigned round = 0; round < 2; round++) { /* what comes later tries again */
        EXPECT(begin(&seen, "", false));
        fake_turn();
        EXPECT(fake_runners[round]->loads == 1);
        error_set(&error, ERROR_UNAVAILABLE, "the function's machine has ended");
        fake_loaded(fake_runners[round], &error);
        fake_turn();
        EXPECT(seen.ends == 1 && seen.has_error && seen.error.kind == ERROR_UNAVAILABLE);
    }
    free(fake_target.linux_settings);
    fake_target.linux_settings = NULL;
}

TEST(instance, tells_why_a_machine_was_not_made)
{
    fake_world_run(1, 0, body_machine);
}

static void body_no_runner(void)
{
    struct seen seen;
    fake_start_problem = "no program blixard-runner";
    EXPECT(begin(&seen, "", false));
    fake_turn();
    EXPECT(seen.ends == 1 && seen.error.kind == ERROR_NOT_FOUND);
    EXPECT(!begin(&seen, "", false));
    EXPECT(seen.error.kind == ERROR_OVERLOADED);
    EXPECT(strstr(seen.error.text, "no program blixard-runner") != NULL);
}

TEST(instance, says_why_there_is_no_runner)
{
    fake_world_run(1, 0, body_no_runner);
}

static void body_cancel(void)
{
    warm_up();
    struct seen running, waiting;
    EXPECT(begin(&running, "", false));
    EXPECT(begin(&waiting, "", false));
    instance_call_cancel(waiting.call);
    instance_call_cancel(waiting.call);
    EXPECT(!instance_call_write(waiting.call, "x", 1));
    EXPECT(waiting.ends == 0);
    fake_turn();
    EXPECT(waiting.ends == 1 && waiting.error.kind == ERROR_CANCELLED);
    instance_call_cancel(running.call);
    EXPECT(fake_call(0)->is_cancelled && running.ends == 0);
    fake_end(fake_call(0), VMM_END_CANCELLED, 0, "");
    EXPECT(running.ends == 1 && running.result.run.end == VMM_END_CANCELLED);
}

TEST(instance, cancels_calls_that_wait_and_calls_that_run)
{
    fake_world_run(1, 0, body_cancel);
}

static void body_wait_timeout(void)
{
    warm_up();
    fake_target.limits.timeout_ms = 30000;
    struct seen running, waiting;
    EXPECT(begin(&running, "", false));
    struct instance_invocation brief = {.target = &fake_target, .request_id = "r", .timeout_ms = 5};
    waiting = (struct seen){0};
    waiting.call = instance_invoke(fake_instances, &brief, &events, &waiting, &waiting.error);
    EXPECT(waiting.call != NULL);
    while (waiting.ends == 0) {
        uv_run(loop_uv(fake_loop), UV_RUN_ONCE);
    }
    EXPECT(waiting.has_error && waiting.error.kind == ERROR_TIMEOUT && running.ends == 0);
    fake_end(fake_call(0), VMM_END_EXIT, 0, "");
}

TEST(instance, ends_a_call_that_waited_longer_than_its_timeout)
{
    fake_world_run(1, 0, body_wait_timeout);
}

static struct seen left_running, left_waiting, left_failing;

static void body_leave(void)
{
    warm_up();
    EXPECT(begin(&left_running, "", false));
    EXPECT(begin(&left_waiting, "", false));
    EXPECT(begin(&left_failing, "", false));
    instance_call_cancel(left_failing.call); /* its end is posted, and the loop stops */
}

TEST(instance, ends_every_call_when_it_is_freed)
{
    fake_world_run(1, 0, body_leave);
    EXPECT(left_running.ends == 1 && left_running.error.kind == ERROR_CANCELLED);
    EXPECT(left_waiting.ends == 1 && left_waiting.error.kind == ERROR_CANCELLED);
    EXPECT(left_failing.ends == 1 && left_failing.error.kind == ERROR_CANCELLED);
}

static unsigned prepared, described;
static struct error prepare_error;

static void on_prepared(const struct error *error, const struct vmm_image_info *info, void *context)
{
    (void)context;
    prepared++;
    if (error != NULL) {
        prepare_error = *error;
    } else {
        EXPECT(info->text_bytes == 4096);
    }
}

static void on_described(const char *json, void *context)
{
    (void)context;
    EXPECT_STRING(json,
                  "[{\"pid\":1000,\"project\":\"default\",\"isolation\":\"process\",\"jail\":"
                  "\"full\",\"slots\":2,\"busy\":1,\"images\":1}]");
    described++;
}

static void body_prepare(void)
{
    instance_prepare(fake_instances, &fake_target, fake_loop, on_prepared, NULL);
    fake_turn();
    EXPECT(prepared == 1 && prepare_error.kind == ERROR_NONE && fake_runners[0]->loads == 1);
    struct seen seen;
    EXPECT(begin(&seen, "", false));
    EXPECT(fake_call(0) != NULL && fake_runners[0]->loads == 1);
    instance_describe(fake_instances, fake_loop, on_described, NULL);
    fake_turn();
    EXPECT(described == 1);

    instance_forget(fake_instances, &fake_target);
    fake_turn();
    EXPECT(fake_runners[0]->unloads == 0); /* still running it */
    fake_end(fake_call(0), VMM_END_EXIT, 0, "");
    EXPECT(fake_runners[0]->unloads == 1);
    fake_turn();
    EXPECT(fake_runners[0]->is_freed); /* the project has no function left */

    fake_holds_loads = true;
    instance_prepare(fake_instances, &fake_target, fake_loop, on_prepared, NULL);
    fake_turn();
    struct error error;
    error_set(&error, ERROR_TIMEOUT, "initialisation took too long");
    fake_loaded(fake_runners[1], &error);
    fake_turn();
    EXPECT(prepared == 2 && prepare_error.kind == ERROR_TIMEOUT);
}

TEST(instance, prepares_describes_and_forgets)
{
    fake_world_run(2, 0, body_prepare);
}

static unsigned counted;

/* Versions 3 and 4 of hello have the same code, other and another project do not. */
static void on_census(const struct instance_census *census, size_t count, void *context)
{
    (void)context;
    EXPECT(count == 4);
    EXPECT(census[0].running == 1 && census[0].idle == 1 && census[0].same_as == 0);
    EXPECT(census[1].running == 0 && census[1].idle == 1 && census[1].same_as == 0);
    EXPECT(census[2].running == 0 && census[2].idle == 1 && census[2].same_as == 2);
    EXPECT(census[3].running == 0 && census[3].idle == 0 && census[3].same_as == 3);
    counted++;
}

static void body_census(void)
{
    struct seen seen[2];
    EXPECT(begin(&seen[0], "", false));
    fake_turn();
    EXPECT(begin(&seen[1], "", false));
    fake_end(fake_call(0), VMM_END_EXIT, 0, "");
    struct instance_target others[3] = {fake_target, fake_target, fake_target};
    struct instance_target *targets[] = {&fake_target, &others[0], &others[1], &others[2]};
    others[0].version = 4;
    memcpy(others[1].function, "other", 6);
    memcpy(others[2].project, "elsewhere", 10);
    memcpy(others[2].function, "other", 6);
    const unsigned references = others[0].references;
    instance_take_census(fake_instances, targets, 4, fake_loop, on_census, NULL);
    fake_turn();
    EXPECT(counted == 1);
    for (int i = 0; i < 3; i++) {
        EXPECT(others[i].references == references); /* given back */
    }
    fake_end(fake_call(1), VMM_END_EXIT, 0, "");
}

TEST(instance, counts_how_it_stands_with_each_version)
{
    fake_world_run(2, 0, body_census);
}
