/*
 * The test frame.  A test is a claim:
 *
 *     TEST(store_log, refuses_a_torn_tail) { EXPECT(...); }
 *
 * Each test runs in a process of its own, with a limit of 60 seconds, so that a crash is one
 * failure. SKIP("reason") ends a test that needs what this machine lacks; skips are counted and
 * shown.
 */
#ifndef TEST_LIB_TEST_H
#define TEST_LIB_TEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test {
    const char *suite;
    const char *name;
    void (*run)(void);
    struct test *next;
};

void test_register(struct test *test);
void test_skip(const char *reason) __attribute__((noreturn));

/* A fresh folder for this test, removed when it ends. */
const char *test_folder(void);

#define TEST(suite_name, test_name)                                                           \
    static void suite_name##__##test_name(void);                                              \
    __attribute__((constructor)) static void suite_name##__##test_name##_register(void)       \
    {                                                                                         \
        static struct test test = {#suite_name, #test_name, suite_name##__##test_name, NULL}; \
        test_register(&test);                                                                 \
    }                                                                                         \
    static void suite_name##__##test_name(void)

#define EXPECT(condition)                                                            \
    do {                                                                             \
        if (!(condition)) {                                                          \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                 \
        }                                                                            \
    } while (0)

#define EXPECT_STRING(actual, expected)                                                            \
    do {                                                                                           \
        const char *actual_ = (actual), *expected_ = (expected);                                   \
        if (actual_ == NULL || strcmp(actual_, expected_) != 0) {                                  \
            fprintf(stderr, "%s:%d: expected \"%s\", got \"%s\"\n", __FILE__, __LINE__, expected_, \
                    actual_ != NULL ? actual_ : "(null)");                                         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define SKIP(reason) test_skip(reason)

#endif
