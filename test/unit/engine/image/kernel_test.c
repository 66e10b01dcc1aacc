/* Kernels and initrds. */
#include <stdint.h>
#include <string.h>

#include "base/buffer.h"
#include "base/error.h"

#include "engine/image/initrd.h"

#include "test/lib/test.h"

TEST(kernel, what_is_no_kernel_is_refused)
{
    uint8_t bytes[4096] = {0};
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    EXPECT(kernel_unpack(bytes, 0, &out, &err) == -ERROR_INVALID);
    EXPECT(kernel_unpack(bytes, sizeof(bytes), &out, &err) == -ERROR_INVALID);
    memcpy(bytes + 0x202, "HdrS", 4);
    bytes[0x206] = 0x0f; /* version 2.15 */
    bytes[0x207] = 0x02;
    EXPECT(kernel_unpack(bytes, sizeof(bytes), &out, &err) == -ERROR_INVALID);
    memset(bytes + 0x248, 0xff, 8); /* the payload is beyond the end */
    EXPECT(kernel_unpack(bytes, sizeof(bytes), &out, &err) == -ERROR_INVALID);
    EXPECT(out.used == 0);
}

TEST(kernel, an_elf_file_is_taken_as_it_is)
{
    uint8_t bytes[128] = {0x7f, 'E', 'L', 'F'};
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    EXPECT(kernel_unpack(bytes, sizeof(bytes), &out, &err) == 0);
    EXPECT(out.used == sizeof(bytes) && memcmp(out.data, bytes, sizeof(bytes)) == 0);
}

TEST(initrd, the_agent_is_its_init_and_two_are_alike)
{
    static const char agent[] = "an agent";
    BUFFER_OWNED struct buffer one = {0};
    BUFFER_OWNED struct buffer two = {0};
    struct error err = {0};
    EXPECT(initrd_add_agent(&one, agent, sizeof(agent), &err) == 0);
    EXPECT(initrd_add_agent(&two, agent, sizeof(agent), &err) == 0);
    EXPECT(one.used == two.used && memcmp(one.data, two.data, one.used) == 0);
    EXPECT(memcmp(one.data, "070701", 6) == 0);
    EXPECT(memmem(one.data, one.used, agent, sizeof(agent)) != NULL);
    EXPECT(one.used % 4 == 0); /* another archive may follow */
}

TEST(initrd, a_folder_without_modules_is_refused)
{
    BUFFER_OWNED struct buffer out = {0};
    struct error err = {0};
    EXPECT(initrd_add_modules(&out, "/nowhere/at/all", &err) == -ERROR_NOT_FOUND);
}
