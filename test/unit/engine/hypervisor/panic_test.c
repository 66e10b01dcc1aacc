/* What a console's log says of panics, and of which boot. */
#include "engine/hypervisor/panic.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/memory.h"

#include "test/lib/test.h"

static void say(const char *text)
{
    MEMORY_OWNED char *path = memory_format("%s/console.log", test_folder());
    FD_OWNED int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    EXPECT(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

static void turn_over(void)
{
    MEMORY_OWNED char *from = memory_format("%s/console.log", test_folder());
    MEMORY_OWNED char *to = memory_format("%s/console.log.1", test_folder());
    EXPECT(rename(from, to) == 0);
}

static const char memory[] =
    "[    1.2] Kernel panic - not syncing: System is deadlocked on memory\r\n"
    "[    1.2] CPU: 0 PID: 1 Comm: init\r\n"
    "[    1.2] ---[ end Kernel panic - not syncing: System is deadlocked on memory ]---\r\n";

TEST(panic, what_a_kernel_says_last_is_told)
{
    struct panic_mark none = {0};
    char why[PANIC_SIZE];
    EXPECT(!panic_since(test_folder(), &none, why));
    say("Linux version 6.1\r\n");
    EXPECT(!panic_since(test_folder(), &none, why));
    say("Kernel panic - not syncing: VFS: Unable to mount root fs on \x1b[1munknown-block(0,0)\n");
    EXPECT(panic_since(test_folder(), &none, why));
    EXPECT_STRING(why, "VFS: Unable to mount root fs on ?[1munknown-block(0,0)");
    say(memory);
    EXPECT(panic_since(test_folder(), &none, why));
    EXPECT_STRING(why, "System is deadlocked on memory");
    say("Kernel panic - not syncing");
    EXPECT(panic_since(test_folder(), &none, why));
    EXPECT_STRING(why, "");
}

TEST(panic, an_earlier_boot_is_not_this_one)
{
    char why[PANIC_SIZE];
    struct panic_mark before = panic_mark_now(test_folder());
    say(memory);
    struct panic_mark mark = panic_mark_now(test_folder());
    EXPECT(panic_since(test_folder(), &before, why));
    EXPECT(!panic_since(test_folder(), &mark, why));
    say("Linux version 6.1\r\n");
    EXPECT(!panic_since(test_folder(), &mark, why));
    say(memory);
    EXPECT(panic_since(test_folder(), &mark, why));
}

TEST(panic, a_log_that_is_full_makes_place_for_another)
{
    char why[PANIC_SIZE];
    say(memory);
    struct panic_mark mark = panic_mark_now(test_folder());
    turn_over();
    say("Linux version 6.1\r\n");
    EXPECT(!panic_since(test_folder(), &mark, why)); /* what is in the older was before */
    say(memory);
    EXPECT(panic_since(test_folder(), &mark, why));
}

TEST(panic, it_may_stand_in_the_older_log)
{
    char why[PANIC_SIZE];
    say("Linux version 6.1\r\n");
    struct panic_mark mark = panic_mark_now(test_folder());
    say(memory);
    turn_over();
    say("Rebooting.\r\n");
    EXPECT(panic_since(test_folder(), &mark, why));
    EXPECT_STRING(why, "System is deadlocked on memory");
    turn_over(); /* and that is gone */
    EXPECT(!panic_since(test_folder(), &mark, why));
}

TEST(panic, a_long_reason_is_cut)
{
    struct panic_mark none = {0};
    char why[PANIC_SIZE];
    char text[400];
    snprintf(text, sizeof(text), "Kernel panic - not syncing: %0300d\n", 7);
    say(text);
    EXPECT(panic_since(test_folder(), &none, why));
    EXPECT(strlen(why) == PANIC_SIZE - 1);
}
