"""Machines for the agent's tests: Debian's kernel under QEMU's microvm, with the agent as init.

    machine = Machine(folder, files={"/etc/x": b"..."}, command_line="blixard.hostname=web")
    machine.socket        # of the agent's port
    machine.wait()        # QEMU's exit status
    machine.stop()

reason() says what is missing to run any, or None.  The kernel comes from the Debian package, which is
not installed for it, only unpacked, once per build folder.
"""
import fcntl
import functools
import glob
import io
import os
import pathlib
import shutil
import stat
import struct
import subprocess
import time

import node

QEMU = "qemu-system-x86_64"
KERNEL_FOLDER = node.BUILD / "kernel"
AGENT = node.BUILD / "src" / "guest" / "agent" / "blixard-agent"
# In the order in which they need each other; ext4 is built in.
MODULES = ("virtio_ring virtio virtio_mmio virtio_console virtio_blk failover net_failover virtio_net virtio-rng "
           "overlay libcrc32c erofs button evdev").split()


def unpack_vmlinux(image):
    """The uncompressed kernel inside a bzImage (boot protocol 2.08: payload_offset, payload_length)."""
    setup = (image[0x1f1] or 4) * 512 + 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup + offset:setup + offset + length]
    for magic, tool in ((b"\x02\x21\x4c\x18", ["lz4", "-dc", "-"]), (b"\xfd7zXZ\0", ["xz", "-dc"])):
        if payload.startswith(magic):
            return subprocess.run(tool, input=payload[:-4], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    raise RuntimeError("the kernel is compressed in a way that is not known here")


@functools.lru_cache(maxsize=None)
def reason():
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed"
    if shutil.which("lz4") is None or shutil.which("dpkg-deb") is None:
        return "lz4 or dpkg-deb is not installed"
    if not AGENT.exists():
        return "the agent was not built"
    KERNEL_FOLDER.mkdir(parents=True, exist_ok=True)
    with open(KERNEL_FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test files beside this one fetch it, too
        return None if (KERNEL_FOLDER / "vmlinux").exists() else fetch_kernel()


def fetch_kernel():
    """Unpack Debian's kernel for clouds; why that cannot be done, or None."""
    shown = subprocess.run(["apt-cache", "depends", "linux-image-cloud-amd64"], stdout=subprocess.PIPE, text=True).stdout
    names = [line.split()[-1] for line in shown.splitlines() if "Depends: linux-image-" in line]
    if not names:
        return "apt knows no linux-image-cloud-amd64"
    got = subprocess.run(["apt-get", "download", names[0]], cwd=KERNEL_FOLDER, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    packages = glob.glob(str(KERNEL_FOLDER / "linux-image-*.deb"))
    if got.returncode != 0 or not packages:
        return f"{names[0]} cannot be downloaded"
    subprocess.run(["dpkg-deb", "-x", packages[0], KERNEL_FOLDER / "root"], check=True)
    image = pathlib.Path(glob.glob(str(KERNEL_FOLDER / "root/boot/vmlinuz-*"))[0]).read_bytes()
    partial = KERNEL_FOLDER / "vmlinux.partial"
    partial.write_bytes(unpack_vmlinux(image))
    partial.rename(KERNEL_FOLDER / "vmlinux")
    return None


class Cpio:
    """An uncompressed initrd ("newc", which the kernel's Documentation/driver-api/early-userspace has)."""

    def __init__(self):
        self.out = io.BytesIO()
        self.inode = 1

    def add(self, name, mode, content=b"", device=(0, 0)):
        encoded = name.lstrip("/").encode() + b"\0"
        fields = (self.inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        self.inode += 1
        self.out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        self.out.write(b"\0" * (-(110 + len(encoded)) % 4))
        self.out.write(content + b"\0" * (-len(content) % 4))

    def folder(self, name):
        self.add(name, stat.S_IFDIR | 0o755)

    def file(self, name, content, mode=0o644):
        self.add(name, stat.S_IFREG | mode, content)

    def done(self):
        self.add("TRAILER!!!", 0)
        return self.out.getvalue()


def initrd(files=(), modules=MODULES):
    """The agent as /init, the modules, and what else is given ({path: bytes}, run by their owner)."""
    archive = Cpio()
    for folder in ("dev", "proc", "sys", "run", "etc", "etc/blixard", "lib", "lib/modules", "bin", "tmp", "root"):
        archive.folder(folder)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.file("init", AGENT.read_bytes(), 0o755)
    names = []
    for module in modules:
        found = glob.glob(str(KERNEL_FOLDER / f"root/lib/modules/*/**/{module}.ko"), recursive=True)
        if found:
            names.append(f"/lib/modules/{module}.ko")
            archive.file(names[-1], pathlib.Path(found[0]).read_bytes())
    archive.file("etc/blixard/modules", ("# in this order\n" + "\n".join(names) + "\n").encode())
    for name, content in dict(files).items():
        archive.file(name, content, 0o755)
    return archive.done()


@functools.lru_cache(maxsize=None)
def tsc_khz():
    """Under TCG the guest sees the host's time stamp counter; without this the kernel may hang measuring it."""
    with open("/proc/cpuinfo") as info:
        mhz = [float(line.split(":")[1]) for line in info if line.startswith("cpu MHz")]
    return int(mhz[0] * 1000) if mhz else 2000000


class Machine:
    def __init__(self, folder, files=(), command_line="", arguments=(), memory=256):
        self.folder = pathlib.Path(folder)
        self.socket = self.folder / "agent"
        self.console = self.folder / "console"
        image = self.folder / "initrd"
        image.write_bytes(initrd(files))
        append = ("console=ttyS0 reboot=t panic=-1 quiet initcall_blacklist=cmos_init,i8042_init edd=off nokaslr "
                  "mitigations=off cryptomgr.notests lsm= apparmor=0 audit=0 no_timer_check tsc=reliable "
                  f"tsc_early_khz={tsc_khz()} {command_line}")
        self.process = subprocess.Popen(
            [QEMU, "-M", "microvm,x-option-roms=off,rtc=on,acpi=on,isa-serial=on", "-accel", "tcg", "-cpu", "qemu64",
             "-m", str(memory), "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
             "-global", "virtio-mmio.force-legacy=off", "-kernel", KERNEL_FOLDER / "vmlinux", "-initrd", image,
             "-append", append, "-serial", f"file:{self.console}",
             "-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off",
             "-chardev", f"socket,id=ag,path={self.socket},server=on,wait=off",
             "-device", "virtio-serial-device,id=vs0",
             "-device", "virtserialport,bus=vs0.0,chardev=ag,name=blixard.agent", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def said(self):
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def until_said(self, text):
        while text not in self.said():
            try:
                self.process.wait(timeout=0.05)
            except subprocess.TimeoutExpired:
                continue
            raise RuntimeError(f"it has ended without {text!r}: {self.said()}")

    def wait(self, timeout=60):
        return self.process.wait(timeout=timeout)

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
