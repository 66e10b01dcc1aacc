"""Runners as microvm.nix makes them: a folder with a program that becomes QEMU, and what it says of itself.

    runner = make(folder / "one", "first", taps=["vm-a"])

Its guest says "guest FIRST is up" on its console, then waits for its power button.
"""
import pathlib
import shutil
import threading
import time

import machines
import microvm

INIT = b"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read module; do case $module in /*) insmod $module 2>/dev/null;; esac; done </etc/blixard/modules
for word in $(cat /proc/cmdline); do case $word in
    name=*) name=${word#name=};;
    address=*) ip link set eth0 up; ip addr add ${word#address=} dev eth0; (while :; do nc -l -p 80 -e /bin/echo hello; done) &;;
    share=*) mount -t virtiofs ${word#share=} /mnt; cat /mnt/said;;
esac; done
[ -b /dev/vda ] && echo "guest $name has written $(dd if=/dev/vda bs=16 count=1 2>/dev/null)" && echo "by $name" | dd of=/dev/vda conv=notrunc 2>/dev/null
echo "guest $name is up"
dd if=/dev/input/event0 of=/dev/null bs=24 count=1 2>/dev/null
echo "guest $name goes down"
poweroff -f
"""
# The guest of a function: it is up when it has begun its agent, whose bootstrap is on its store's disk.
FUNCTION_INIT = b"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /var/task /store
while read module; do case $module in /*) insmod $module 2>/dev/null;; esac; done </etc/blixard/modules
mount -t erofs -o ro /dev/vda /store || echo no store
for word in $(cat /proc/cmdline); do case $word in colour=*) echo ${word#colour=} >/run/colour;; esac; done
cat /proc/sys/kernel/random/uuid >/run/begun
[ -e /bin/blixard-agent ] && /bin/blixard-agent &
while :; do wait; sleep 1000; done
"""
FUNCTION_BOOTSTRAP = machines.bootstrap("""--post-data "{\\"begun\\":\\"$(cat /run/begun)\\",\\"colour\\":\\"$(cat /run/colour)\\",\\"count\\":$count}\" """)
SHUT_DOWN = """#!/usr/bin/python3
import socket
vm = socket.socket(socket.AF_UNIX)
vm.connect("vm.sock")
lines = vm.makefile("rw")
lines.readline()
for command in ("qmp_capabilities", "system_powerdown"):
    lines.write('{"execute": "%s"}\\n' % command)
    lines.flush()
    lines.readline()
lines.read()
"""
TOOLS = "sh mount insmod cat ip nc echo dd poweroff mkdir ls".split()
FUNCTION_TOOLS = "sh mount insmod cat mkdir wget sed tr sleep".split()
APPEND = ("console=ttyS0 reboot=t panic=-1 quiet initcall_blacklist=cmos_init,i8042_init edd=off nokaslr mitigations=off "
          "cryptomgr.notests lsm= apparmor=0 audit=0 no_timer_check tsc=reliable")


WAIT_S = 300  # for a guest that is emulated on a busy machine


def until(what, holds):
    """Nothing tells what a guest says: it is asked again and again."""
    end = time.monotonic() + WAIT_S
    while not (found := holds()):
        if time.monotonic() > end:
            raise AssertionError(what)
        threading.Event().wait(0.2)
    return found


def guest(folder, init=INIT, tools=TOOLS, files=()):
    """Kernel and initrd; two paths."""
    busybox = machines.BUSYBOX.read_bytes()
    files = {f"/bin/{tool}": busybox for tool in tools} | dict(files)
    archive = microvm.initrd(files, microvm.MODULES + ["fuse", "virtiofs"])
    folder.mkdir(exist_ok=True)
    (folder / "initrd").write_bytes(archive)
    own = microvm.Cpio()
    own.folder("mnt")
    own.file("init", init, 0o755)
    with (folder / "initrd").open("ab") as file:  # the last one of a name is the one that is there
        file.write(own.done())
    shutil.copy(microvm.KERNEL_FOLDER / "vmlinux", folder / "vmlinux")
    return folder / "vmlinux", folder / "initrd"


def run_text(kernel, initrd, name, taps=(), shares=(), mac="02:00:00:00:00:01", address=None, volume=False, shell="/bin/sh",
             store=None, words=(), options=(), memory=128, macvtaps=()):
    words = [f"name={name}", f"tsc_early_khz={microvm.tsc_khz()}", *words]
    words += [f"address={address}"] if address else []
    words += [f"share={tag}" for tag, _, _ in shares]
    parts = [f"exec {shutil.which(microvm.QEMU)} -M microvm,x-option-roms=off,rtc=on,acpi=on,isa-serial=on,pcie=off",
             f"-accel tcg -cpu qemu64 -m {memory} -nodefaults -no-user-config -nographic -no-reboot",
             "-global virtio-mmio.force-legacy=off -chardev stdio,id=out,signal=off -serial chardev:out",
             "-qmp unix:vm.sock,server=on,wait=off", f"-kernel {kernel} -initrd {initrd}",
             f"-append '{APPEND} {' '.join(words)}'"]
    for i, tap in enumerate(taps):
        parts.append(f"-netdev tap,id=net{i},ifname={tap},script=no,downscript=no -device virtio-net-device,netdev=net{i},mac={mac}")
    opened = ""
    for i, (tap, _, _, _) in enumerate(macvtaps):
        opened += f"exec {3 + i}<>/dev/tap$(cat /sys/class/net/{tap}/ifindex)\n"
        parts.append(f"-netdev tap,id=macvtap{i},fd={3 + i} -device virtio-net-device,netdev=macvtap{i},mac={mac}")
    if shares:
        parts.append(f"-object memory-backend-memfd,id=mem,size={memory}M,share=on -machine memory-backend=mem")
    for i, (tag, socket, _) in enumerate(shares):
        parts.append(f"-chardev socket,id=fs{i},path={socket} -device vhost-user-fs-device,chardev=fs{i},tag={tag}")
    before = "[ -e disk.img ] || truncate -s 1M disk.img\n" if volume else ""
    parts += ["-drive id=vol,format=raw,file=disk.img,if=none -device virtio-blk-device,drive=vol"] if volume else []
    if store:
        parts.append(f"-drive 'id=store,format=raw,read-only=on,file={store},if=none' -device virtio-blk-device,drive=store")
    parts += options
    return f"#!{shell}\nset -e\n{before}{opened}" + " \\\n  ".join(parts) + "\n"


def write(path, text, mode=0o444):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def make(path, kernel, initrd, name, taps=(), shares=(), has_shutdown=True, **more):
    """A runner at `path`; shares: [(tag, socket, source)]."""
    path = pathlib.Path(path)
    write(path / "bin/microvm-run", run_text(kernel, initrd, name, taps, shares, **more), 0o555)
    if has_shutdown:
        write(path / "bin/microvm-shutdown", SHUT_DOWN, 0o555)
    write(path / "share/microvm/hypervisor", "qemu\n")
    write(path / "share/microvm/tap-flags", "vnet_hdr\n")
    if taps:
        write(path / "share/microvm/tap-interfaces", "".join(f"{tap}\n" for tap in taps))
    if more.get("macvtaps"):
        write(path / "share/microvm/macvtap-interfaces", "".join(" ".join(macvtap) + "\n" for macvtap in more["macvtaps"]))
    for tag, socket, source in shares:
        write(path / f"share/microvm/virtiofs/{tag}/socket", f"{socket}\n")
        write(path / f"share/microvm/virtiofs/{tag}/source", f"{source}\n")
    return path
