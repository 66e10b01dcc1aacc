/* What a runner's program says of its guest. */
#include "engine/image/guest.h"

#include <stdio.h>
#include <string.h>

#include "base/error.h"

#include "test/lib/test.h"

#define HEAD "#! /nix/store/a-bash/bin/bash\nset -eou pipefail\n"
#define QEMU "exec -a \"microvm@web\" /nix/store/b-qemu/bin/qemu-system-x86_64 -name web "
#define BOOT "-kernel /nix/store/c/bzImage -initrd /nix/store/d/initrd "

static int parse(const char *text, struct guest *guest, struct error *err)
{
    return guest_parse(text, strlen(text), guest, err);
}

/* As microvm.nix writes it: words in single quotes where they need them, the rest as it is. */
TEST(guest, a_program_of_microvm_nix_is_read)
{
    struct guest guest = {0};
    struct error err = {0};
    EXPECT(parse(HEAD "if [ ! -e \"it's here\" ]; then\n  echo \"$0\"\nfi\n\n  " QEMU
                      "-M 'microvm,accel=kvm:tcg,pcie=off' -m 512M -smp 1 -nodefaults " BOOT
                      "-chardev 'stdio,id=stdio,signal=off' -device virtio-rng-device -serial "
                      "chardev:stdio -cpu 'host,+x2apic,-sgx' -append 'console=ttyS0 reboot=t "
                      "init=/nix/store/e/init say='\\''it'\\''' -drive 'id=store,format=raw,"
                      "read-only=on,file=/nix/store/f.erofs,if=none,aio=io_uring' -device "
                      "virtio-blk-device,drive=store -nographic -qmp unix:web.sock,server,nowait\n",
                 &guest, &err) == 0);
    EXPECT(strcmp(guest.kernel, "/nix/store/c/bzImage") == 0);
    EXPECT(strcmp(guest.initrd, "/nix/store/d/initrd") == 0);
    EXPECT(strcmp(guest.words, "console=ttyS0 reboot=t init=/nix/store/e/init say='it'") == 0);
    EXPECT(strcmp(guest.root, "/nix/store/f.erofs") == 0);
    EXPECT(guest.memory_bytes == UINT64_C(512) << 20);
    guest_done(&guest);
}

TEST(guest, a_command_may_go_over_lines_and_needs_no_disk)
{
    struct guest guest = {0};
    struct error err = {0};
    EXPECT(
        parse("exec /x/qemu-system-x86_64 \\\n  -kernel /k -initrd \"/i\" \\\n -append \"a  b\"\n",
              &guest, &err) == 0);
    EXPECT(guest.root == NULL && guest.memory_bytes == 0);
    EXPECT(strcmp(guest.initrd, "/i") == 0 && strcmp(guest.words, "a  b") == 0);
    guest_done(&guest);
}

static bool is_refused(const char *text, enum error_kind kind, const char *said)
{
    struct guest guest = {0};
    struct error err = {0};
    return parse(text, &guest, &err) == -(int)kind && strstr(err.text, said) != NULL;
}

TEST(guest, what_a_function_has_not_is_refused)
{
    static const struct {
        const char *words;
        const char *said;
    } cases[] = {
        {"-drive id=v,file=a.img,if=none", "microvm.volumes"},
        {"-drive id=v,file=/a,read-only=off", "microvm.volumes"},
        {"-drive file=/a,read-only=on -drive file=/b,readonly=on", "two disks"},
        {"-device vhost-user-fs-pci,chardev=fs0", "storeOnDisk"},
        {"-device virtio-9p-pci,fsdev=fs0", "storeOnDisk"},
        {"-device virtio-net-device,netdev=a", "microvm.interfaces"},
        {"-device vfio-pci,host=0000:01:00.0,multifunction=on", "microvm.devices"},
        {"-fw_cfg name=a,file=/b", "secrets"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[512];
        snprintf(text, sizeof(text), QEMU BOOT "%s\n", cases[i].words);
        EXPECT(is_refused(text, ERROR_UNSUPPORTED, cases[i].said));
    }
}

TEST(guest, what_is_no_such_program_is_refused)
{
    EXPECT(is_refused("", ERROR_INVALID, "becomes no qemu"));
    EXPECT(is_refused("exec", ERROR_INVALID, "becomes no qemu"));
    EXPECT(is_refused("exec /x/firecracker --config-file a\n", ERROR_INVALID, "becomes no qemu"));
    EXPECT(is_refused(QEMU "-kernel /k\n", ERROR_INVALID, "-initrd"));
    EXPECT(is_refused(QEMU "-kernel k -initrd /i\n", ERROR_INVALID, "-initrd"));
    EXPECT(is_refused(QEMU "-kernel $kernel -initrd /i\n", ERROR_INVALID, "-initrd"));
    EXPECT(is_refused(QEMU BOOT "-append 'a\nb'\n", ERROR_INVALID, "-append"));
    EXPECT(is_refused(QEMU BOOT "-append 'a\n", ERROR_INVALID, "cannot be read"));
    EXPECT(is_refused(QEMU BOOT "-drive file=a,read-only=on\n", ERROR_INVALID, "absolute"));
}

TEST(guest, images_that_deploys_make_are_known_by_their_names)
{
    EXPECT(guest_image_is_made("runner-0123456789abcdef0123456789abcdef"));
    EXPECT(!guest_image_is_made("runner-0123456789abcdef0123456789abcde"));
    EXPECT(!guest_image_is_made("runner-0123456789abcdef0123456789abcdef0"));
    EXPECT(!guest_image_is_made("runner-0123456789abcdef0123456789abcdeg"));
    EXPECT(!guest_image_is_made("runner-"));
    EXPECT(!guest_image_is_made("guest"));
    EXPECT(!guest_image_is_made(""));
}
