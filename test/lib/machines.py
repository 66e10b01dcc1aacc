"""What tests of machines share: a small root, the kernel for it, and the end of what a test leaves behind."""
import contextlib
import glob
import gzip
import io
import os
import pathlib
import signal
import subprocess
import tarfile

import microvm

# A disk whose boot sector does cli, hlt, hlt again: no guest is lighter.
BLANK = b"\xfa\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512)
DEAF = ("--machine-stop-ms", "500")  # it does not hear the power button: for nodes whose machines are all such ones
PATIENT = ("--machine-stop-ms", "300000")  # an emulated guest on a busy machine goes down late
BUSYBOX = pathlib.Path("/bin/busybox")
TOOLS = "sort ping wget nslookup nc udhcpc sh cat echo httpd ls poweroff reboot mkdir true false uname ip mount df kill id seq head dd init sleep test".split()
DISK_MODULES = ("virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_console virtio_blk failover "
                "net_failover virtio_net virtio_balloon virtio-rng cdrom isofs button evdev").split()
SYSLINUX = ("SERIAL 0 115200\nDEFAULT linux\nLABEL linux\n KERNEL vmlinuz\n"
            " APPEND initrd=initrd console=ttyS0 quiet panic=-1 cryptomgr.notests mitigations=off\n")
INITTAB = b"::sysinit:/bin/true\n::shutdown:/bin/true\n::ctrlaltdel:/bin/true\n"


def bootstrap(answer="--post-file /tmp/event", first="", each=""):
    """The program of a function in a Linux machine: it answers each event with it, or with what `answer` has wget send.

    `first` is done before the first event, `each` with each ($id, the $count-th).
    """
    return f"""#!/bin/sh
api=http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime
count=0
{first}
while true; do
    wget -q -S -O /tmp/event $api/invocation/next 2>/tmp/head
    id=$(sed -n 's/.*Lambda-Runtime-Aws-Request-Id: *//p' /tmp/head | tr -d '\\r')
    count=$((count + 1))
    {each}
    wget -q -O - {answer} $api/invocation/$id/response
done
"""


def root_archive(more=None):
    """A small distribution: busybox as init and as everything else.  `more`: files besides, by their path."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        def folder(name):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)

        def file(name, content, mode=0o644):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))

        def link(name, target):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)

        for name in "bin sbin etc proc sys dev run tmp root srv".split():
            folder(name)
        file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for tool in TOOLS:
            link(("sbin/" if tool in ("init", "poweroff", "reboot") else "bin/") + tool, "/bin/busybox")
        for name, content in (more or {}).items():
            file(name, content)
        file("etc/inittab", INITTAB)
        file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        file("srv/index.html", b"hello from a machine\n")
    return out.getvalue()


def root_with(*programs):
    """As root_archive(), uncompressed, with programs of this machine ("/usr/bin/python3", "/usr/bin/node") and what they need."""
    out = io.BytesIO(gzip.decompress(root_archive()))
    with tarfile.open(fileobj=out, mode="a") as archive:
        added = set(archive.getnames())

        def add(path):
            name = str(path).lstrip("/")
            if name not in added:
                added.add(name)
                archive.add(os.path.realpath(path), name)

        def add_with_libraries(program):
            add(program)
            shown = subprocess.run(["ldd", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
            for word in shown.split():
                if word.startswith("/"):
                    add(word.rstrip(":"))

        for program in programs:
            add_with_libraries(program)
            if "python3" in program:
                modules = pathlib.Path("/usr/lib") / pathlib.Path(os.path.realpath(program)).name
                for path in sorted(modules.rglob("*")):
                    if path.is_file() and not {"test", "idlelib", "dist-packages", "pydoc_data"} & set(path.parts) and path.suffix != ".a":
                        (add_with_libraries if path.suffix == ".so" else add)(path)
    return out.getvalue()


def why_not():
    if not BUSYBOX.exists():
        return "busybox-static is not installed"
    return microvm.reason()


def runs(pid):
    """A process that has ended and was not collected yet, by whoever adopted it, does not run."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def memory_binding(show):
    """Of the machine that show() shows: its node tells it where to run, and finds how its memory is bound, a moment after it has begun."""
    return next(said for said in (show().get("memory_binding") for _ in range(300)) if said)


@contextlib.contextmanager
def machines_of(*folders):
    """Machines, and clones that functions wait in, outlive their nodes, whose data folders these are: what a test leaves behind is ended by its monitor."""
    try:
        yield
    finally:
        for lock in [lock for folder in folders for lock in glob.glob(f"{folder}/[cm]*s/*/lock")]:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pathlib.Path(lock).read_text().split()[0]), signal.SIGTERM)


def kernel_flags():
    """For `image import`: Debian's kernel, as microvm.py has unpacked it."""
    unpacked = microvm.KERNEL_FOLDER / "root"
    return ["--kernel", glob.glob(str(unpacked / "boot/vmlinuz-*"))[0],
            "--modules", glob.glob(str(unpacked / "lib/modules/*"))[0]]


def boot_disk(folder):
    """A FAT file system with SYSLINUX, Debian's kernel and the agent as init."""
    disk = folder / "disk.raw"
    busybox = BUSYBOX.read_bytes()
    (folder / "initrd").write_bytes(microvm.initrd({f"/bin/{tool}": busybox for tool in ("sh", "mount", "cat", "mkdir", "dd", "uname", "head")},
                                                   DISK_MODULES))
    (folder / "syslinux.cfg").write_text(SYSLINUX)
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mformat", "-i", disk, "-F", "::"], check=True)
    for source, target in ((kernel_flags()[1], "vmlinuz"), (folder / "initrd", "initrd"),
                           (folder / "syslinux.cfg", "syslinux.cfg")):
        subprocess.run(["mcopy", "-i", disk, source, f"::{target}"], check=True)
    subprocess.run(["syslinux", "--install", disk], check=True)
    subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", disk, folder / "disk.qcow2"], check=True)
    return folder / "disk.qcow2"


def efi_disk(folder):
    """A FAT file system: its firmware's shell starts Debian's kernel, which is an EFI program itself."""
    disk = folder / "efi.raw"
    busybox = BUSYBOX.read_bytes()
    (folder / "initrd").write_bytes(microvm.initrd({f"/bin/{tool}": busybox for tool in ("sh", "cat", "dd", "head", "mkdir", "mount", "printf", "uname")}, DISK_MODULES + ["efivarfs"]))
    (folder / "startup.nsh").write_text("fs0:\nvmlinuz.efi initrd=initrd console=ttyS0 quiet panic=-1 cryptomgr.notests\n")
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mformat", "-i", disk, "-F", "::"], check=True)
    for source, target in ((kernel_flags()[1], "vmlinuz.efi"), (folder / "initrd", "initrd"),
                           (folder / "startup.nsh", "startup.nsh")):
        subprocess.run(["mcopy", "-i", disk, source, f"::{target}"], check=True)
    return disk
