/* What becomes of an invocation after an attempt, and what clients may ask for. */
#include <stdio.h>
#include <string.h>

#include "service/invocation/parts.h"

#include "test/lib/test.h"

static struct verdict judge(enum error_kind kind, int status, bool is_untouched, uint64_t attempts,
                            uint64_t deadline_ms, uint64_t random)
{
    struct function_policy policy;
    struct error error = {.kind = kind};
    function_policy_init(&policy);
    return policy_judge(&policy, kind != ERROR_NONE ? &error : NULL, status, is_untouched, attempts,
                        1000, deadline_ms, random);
}

TEST(invocation_policy, an_answer_below_400_is_a_success_and_4xx_is_final)
{
    EXPECT_STRING(judge(ERROR_NONE, 200, false, 1, 100000, 0).state, "succeeded");
    EXPECT_STRING(judge(ERROR_NONE, 399, false, 1, 100000, 0).state, "succeeded");
    EXPECT_STRING(judge(ERROR_NONE, 400, false, 1, 100000, 0).state, "failed");
    EXPECT_STRING(judge(ERROR_NONE, 404, false, 1, 100000, 0).state, "failed");
    EXPECT_STRING(judge(ERROR_NONE, 408, false, 1, 100000, 0).state, "pending");
    EXPECT_STRING(judge(ERROR_NONE, 429, false, 1, 100000, 0).state, "pending");
    EXPECT_STRING(judge(ERROR_NONE, 499, false, 1, 100000, 0).state, "failed");
    EXPECT_STRING(judge(ERROR_NONE, 500, false, 1, 100000, 0).state, "pending");
}

TEST(invocation_policy, retries_are_counted_and_what_nobody_saw_is_not)
{
    EXPECT_STRING(judge(ERROR_TRAP, 0, false, 1, 100000, 0).state, "pending");
    EXPECT_STRING(judge(ERROR_TRAP, 0, false, 2, 100000, 0).state, "pending");
    EXPECT_STRING(judge(ERROR_TRAP, 0, false, 3, 100000, 0).state, "failed");
    struct verdict verdict = judge(ERROR_OVERLOADED, 0, true, 3, 100000, 0);
    EXPECT_STRING(verdict.state, "pending");
    EXPECT(verdict.attempts == 2);
    EXPECT_STRING(judge(ERROR_NOT_FOUND, 0, true, 1, 100000, 0).state, "failed");
}

TEST(invocation_policy, waits_half_to_all_of_a_doubled_time_and_never_beyond_the_age)
{
    EXPECT(judge(ERROR_TRAP, 0, false, 1, 100000, 0).due_ms == 1500);
    EXPECT(judge(ERROR_TRAP, 0, false, 1, 100000, 500).due_ms == 2000);
    EXPECT(judge(ERROR_TRAP, 0, false, 2, 100000, 0).due_ms == 2000);
    EXPECT(judge(ERROR_OVERLOADED, 0, true, 90, UINT64_MAX, 0).due_ms == 151000);
    EXPECT_STRING(judge(ERROR_TRAP, 0, false, 1, 1501, 0).state, "pending");
    EXPECT_STRING(judge(ERROR_TRAP, 0, false, 1, 1500, 0).state, "expired");
}

static bool is_async(const char *prefer, struct function_policy *policy)
{
    struct error err = {0};
    bool result = false;
    function_policy_init(policy);
    EXPECT(invocation_read_preferences(text_of(prefer, strlen(prefer)), policy, &result, &err) ==
           0);
    return result;
}

TEST(invocation_policy, reads_preferences_and_passes_over_those_of_others)
{
    struct function_policy policy;
    EXPECT(is_async("respond-async", &policy));
    EXPECT(is_async("return=minimal, Respond-Async;x=1, wait=10", &policy));
    EXPECT(!is_async("respond-asynchronously, wait=\"respond-async, x\"", &policy));
    EXPECT(!is_async("", &policy));
    EXPECT(is_async("retries=7, backoff=\"2s\", max-age=1h,respond-async,on-failure=function:a",
                    &policy));
    EXPECT(policy.retries == 7 && policy.backoff_ms == 2000 && policy.max_age_ms == 3600000);
    EXPECT_STRING(policy.on_failure, "function:a");
    EXPECT(is_async("handling=\"one hundred and thirty bytes are no reason to refuse what somebody "
                    "else may want to read; they are passed over like the others that are\", "
                    "respond-async",
                    &policy));
}

TEST(invocation_policy, what_cannot_be_read_is_refused_and_still_known_to_be_asynchronous)
{
    struct function_policy policy;
    struct error err = {0};
    bool result = false;
    const char *prefer = "retries=many, respond-async";
    function_policy_init(&policy);
    EXPECT(invocation_read_preferences(text_of(prefer, strlen(prefer)), &policy, &result, &err) ==
           -ERROR_INVALID);
    EXPECT(result);
    char long_one[200] = "on-failure=queue:";
    memset(long_one + strlen(long_one), 'q', 150);
    memset(&err, 0, sizeof(err));
    EXPECT(invocation_read_preferences(text_of(long_one, strlen(long_one)), &policy, &result,
                                       &err) == -ERROR_INVALID);
    memset(&err, 0, sizeof(err));
    snprintf(policy.on_success, sizeof(policy.on_success), "mail:you");
    EXPECT(function_policy_check(&policy, &err) == -ERROR_INVALID);
    snprintf(policy.on_success, sizeof(policy.on_success), "function:a:live");
    memset(&err, 0, sizeof(err));
    EXPECT(function_policy_check(&policy, &err) == 0);
}

/*
 * Goal: no project takes all the room, and those that share it get as much as each other.
 * Method: let projects begin runs in turn until none may any more.
 */
TEST(invocation_policy, a_project_leaves_room_for_others)
{
    unsigned runs[3] = {0};
    unsigned all = 0;
    for (; policy_may_run(runs[0], all); all++) {
        runs[0]++;
    }
    EXPECT(runs[0] == 96);
    for (; policy_may_run(runs[1], all); all++) {
        runs[1]++;
    }
    EXPECT(runs[1] == 24 && !policy_may_run(runs[0], all));
    memset(runs, 0, sizeof(runs));
    for (all = 0; policy_may_run(runs[all % 3], all); all++) {
        runs[all % 3]++;
    }
    EXPECT(runs[0] >= 36 && runs[0] - runs[2] <= 1 && all < INVOCATION_RUNS_MAX);
    EXPECT(policy_may_run(0, INVOCATION_RUNS_MAX - 1) && !policy_may_run(0, INVOCATION_RUNS_MAX));
}
