#!/usr/bin/python3
"""Stand-ins for Firecracker and Cloud Hypervisor, written from their published API descriptions.

Run under the name of either, as the program is.  They keep no machine, and are strict about what they are told: a path,
a member or a value that the description does not have is refused, as is an order in the wrong state, a file that is not
there, and a socket that cannot be made.  Every request is noted in PROGRAM.log beside the program, as a JSON line.

What a test wants of the guest it writes into the console (standard input): "poweroff", "panic", "crash".

They have no guest but its agent (engine/agent/protocol.h), behind their vsock, and that knows little: its name and what it
was told to remember.  That is its memory, which is written and read with the rest: as large as the machine's, and empty but
for that.
"""
import json
import math
import os
import pathlib
import socket
import socketserver
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler

PROGRAM = pathlib.Path(sys.argv[0])
NAME = PROGRAM.name
VERSION = {"firecracker": "1.12.1", "cloud-hypervisor": "40.0.0"}[NAME]


class Refused(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status, self.text = status, text


def check(body, where, required, optional=()):
    """Exactly these members: required ones as {name: type}, the others likewise."""
    known = {**required, **dict(optional)}
    if not isinstance(body, dict):
        raise Refused(400, f"{where}: an object is expected")
    for name in body:
        if name not in known:
            raise Refused(400, f"{where}: unknown field `{name}`")
        kind = known[name]
        if kind is int and (isinstance(body[name], bool) or not isinstance(body[name], int)):
            raise Refused(400, f"{where}: {name}: expected an integer")
        if not isinstance(body[name], kind):
            raise Refused(400, f"{where}: {name}: expected {kind}")
    for name in required:
        if name not in body:
            raise Refused(400, f"{where}: missing field `{name}`")


def check_rates(limiter, where):
    """Token buckets, the same in both descriptions."""
    check(limiter, where, {}, {"bandwidth": dict, "ops": dict})
    for bucket in limiter.values():
        check(bucket, where, {"size": int, "refill_time": int}, {"one_time_burst": int})


def readable(path, where):
    if not os.access(path, os.R_OK):
        raise Refused(400, f"{where}: cannot open {path}")


def writable(path, where):
    if not os.access(path, os.R_OK | os.W_OK):
        raise Refused(400, f"{where}: cannot open {path} for writing")


class Guest:
    """Its agent.  `exec remember WORD`, `exec recall`, `exec name`; what else it is asked, it has done."""

    RESET, HELLO, REQUEST, NOTE, ANSWER, DATA, END = 1, 2, 3, 4, 5, 6, 7
    EXEC, PUT, SHUTDOWN = 3, 4, 19
    NONCE, SPOKEN, PROGRAM, HOSTNAME, ERROR_KIND, ARGUMENT, PID, EXIT_CODE = 1, 4, 5, 8, 14, 20, 31, 33
    MEMORY_AT = 4096

    def __init__(self):
        self.memory = {"name": "nobody", "word": "nothing"}
        self.paused = False

    def listen(self, path):
        """A hybrid vsock: whoever connects says to which port."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(path)
        server.listen(4)
        threading.Thread(target=self.accept, args=[server], daemon=True).start()
        return server

    def accept(self, server):
        while True:
            peer, _ = server.accept()
            threading.Thread(target=self.serve, args=[peer], daemon=True).start()

    def serve(self, peer):
        stream = peer.makefile("rwb")
        if stream.readline() != b"CONNECT 1024\n":
            peer.close()
            return
        stream.write(b"OK 1073741824\n")
        stream.flush()
        held, waiting = b"", {}
        while True:
            got = peer.recv(65536)
            if not got:
                return
            *frames, held = (held + got).split(b"\0")
            for frame in frames:
                if frame:
                    self.take(peer, uncob(frame), waiting)

    def take(self, peer, frame, waiting):
        kind, _, operation, number = struct.unpack_from("<BBHI", frame)
        fields = list(fields_of(frame[8:])) if kind in (self.RESET, self.REQUEST) else []
        if kind == self.RESET:
            nonce = dict(fields)[self.NONCE]
            say(peer, self.HELLO, 0, field(self.NONCE, nonce) + field(self.SPOKEN, 1) + field(self.PROGRAM, b"stand-in")
                + field(self.HOSTNAME, self.memory["name"].encode()))
        elif kind == self.REQUEST and operation == self.PUT:
            waiting[number] = True  # its content is to come
        elif kind == self.REQUEST and operation == self.EXEC:
            output = self.run([value.decode() for tag, value in fields if tag == self.ARGUMENT]).encode()
            say(peer, self.NOTE, number, field(self.PID, 42))
            say(peer, self.DATA, number, output, stream=1)
            for stream in (1, 2):
                say(peer, self.END, number, b"", stream=stream)
            say(peer, self.ANSWER, number, field(self.ERROR_KIND, 0) + field(self.EXIT_CODE, 0))
        elif kind == self.REQUEST:
            self.memory["name"] = dict(fields).get(self.HOSTNAME, self.memory["name"].encode()).decode()
            say(peer, self.ANSWER, number, field(self.ERROR_KIND, 0))
            if operation == self.SHUTDOWN:
                leave(0)
        elif kind == self.END and waiting.pop(number, False):
            say(peer, self.ANSWER, number, field(self.ERROR_KIND, 0))

    def run(self, words):
        if words[0] == "remember":
            self.memory["word"] = words[1]
        return {"recall": self.memory["word"], "name": self.memory["name"]}.get(words[0], "") + "\n"

    def save(self, path, size):
        with open(path, "wb") as file:
            file.truncate(size)
            file.seek(self.MEMORY_AT)
            file.write(json.dumps(self.memory).encode() + b"\0")

    def load(self, path, size):
        if os.stat(path).st_size != size:
            raise Refused(400, f"{path} has {os.stat(path).st_size} bytes, and the machine {size}")
        with open(path, "rb") as file:
            file.seek(self.MEMORY_AT)
            self.memory = json.loads(file.read(4096).split(b"\0")[0])


def fields_of(payload):
    while payload:
        tag, length = struct.unpack_from("<HI", payload)
        value = payload[6:6 + length]
        yield tag, struct.unpack("<Q", value)[0] if tag in (1, 2, 3) else value
        payload = payload[6 + length:]


def field(tag, value):
    value = struct.pack("<Q", value) if isinstance(value, int) else value
    return struct.pack("<HI", tag, len(value)) + value


def say(peer, kind, number, payload, stream=0):
    peer.sendall(cob(struct.pack("<BBHI", kind, stream, 0, number) + payload) + b"\0")


def cob(data):
    out = bytearray()
    for part in data.split(b"\0"):
        while len(part) >= 254:
            out += b"\xff" + part[:254]
            part = part[254:]
        out += bytes([len(part) + 1]) + part
    return bytes(out)


def uncob(data):
    out, at = bytearray(), 0
    while at < len(data):
        code = data[at]
        out += data[at + 1:at + code]
        at += code
        if code < 255 and at < len(data):
            out.append(0)
    return bytes(out)


guest = Guest()


class Firecracker:
    """src/firecracker/swagger/firecracker.yaml: paths without a root, 204, {"fault_message": ...}."""

    def __init__(self):
        self.state = "Not started"
        self.parts = {}
        self.vsock = None

    def fault(self, text):
        return {"fault_message": text}

    def pre_boot(self):
        if self.state != "Not started":
            raise Refused(400, "The requested operation is not supported after starting the microVM.")

    def post_boot(self):
        if self.state == "Not started":
            raise Refused(400, "The requested operation is not supported before starting the microVM.")

    def answer(self, method, path, body):
        if (method, path) == ("GET", "/"):
            return {"app_name": "Firecracker", "id": "blixard", "state": self.state, "vmm_version": VERSION}
        if (method, path) == ("GET", "/machine-config"):
            return self.parts.get("/machine-config", {"vcpu_count": 1, "mem_size_mib": 128})
        if method == "PUT":
            return self.put(path, body)
        if (method, path) == ("PATCH", "/vm"):
            self.post_boot()
            check(body, "vm", {"state": str})
            if body["state"] not in ("Paused", "Resumed"):
                raise Refused(400, f"unknown variant `{body['state']}`")
            self.state = "Paused" if body["state"] == "Paused" else "Running"
            return None
        if (method, path) == ("PATCH", "/balloon"):
            self.post_boot()
            check(body, "balloon", {"amount_mib": int})
            return None
        raise Refused(400, f"Invalid request method and/or path: {method} {path}.")

    def put(self, path, body):
        if path == "/boot-source":
            self.pre_boot()
            check(body, path, {"kernel_image_path": str}, {"boot_args": str, "initrd_path": str})
            readable(body["kernel_image_path"], path)
        elif path == "/machine-config":
            self.pre_boot()
            check(body, path, {"mem_size_mib": int, "vcpu_count": int},
                  {"cpu_template": str, "smt": bool, "track_dirty_pages": bool, "huge_pages": str})
            if not 1 <= body["vcpu_count"] <= 32:
                raise Refused(400, "The vCPU number is invalid!")
            if body.get("huge_pages", "None") not in ("None", "2M"):
                raise Refused(400, f"unknown variant `{body['huge_pages']}`")
            if body.get("huge_pages") == "2M" and (body["mem_size_mib"] % 2 or "/balloon" in self.parts):
                raise Refused(400, "The memory size (MiB) is invalid, or there is a balloon beside huge pages.")
        elif path.startswith("/drives/"):
            self.pre_boot()
            check(body, path, {"drive_id": str, "is_root_device": bool},
                  {"partuuid": str, "cache_type": str, "is_read_only": bool, "path_on_host": str, "rate_limiter": dict,
                   "io_engine": str, "socket": str})
            check_rates(body.get("rate_limiter", {}), path)
            if body["drive_id"] != path.removeprefix("/drives/"):
                raise Refused(400, "The id from the path does not match the id from the body!")
            if not os.access(body["path_on_host"], os.R_OK if body["is_read_only"] else os.R_OK | os.W_OK):
                raise Refused(400, f"Unable to open the block device: {body['path_on_host']}")
        elif path.startswith("/network-interfaces/"):
            self.pre_boot()
            check(body, path, {"iface_id": str, "host_dev_name": str},
                  {"guest_mac": str, "mtu": int, "rx_rate_limiter": dict, "tx_rate_limiter": dict})
            if body["iface_id"] != path.removeprefix("/network-interfaces/"):
                raise Refused(400, "The id from the path does not match the id from the body!")
        elif path == "/vsock":
            self.pre_boot()
            check(body, path, {"guest_cid": int, "uds_path": str}, {"vsock_id": str})
            self.vsock = self.vsock or guest.listen(body["uds_path"])
        elif path == "/balloon":
            self.pre_boot()
            check(body, path, {"amount_mib": int, "deflate_on_oom": bool},
                  {"stats_polling_interval_s": int, "free_page_hinting": bool, "free_page_reporting": bool})
            if self.parts.get("/machine-config", {}).get("huge_pages") == "2M":
                raise Refused(400, "Firecracker's huge pages support is incompatible with memory ballooning.")
        elif path == "/entropy":
            self.pre_boot()
            check(body, path, {}, {"rate_limiter": dict})
        elif path == "/actions":
            return self.act(body)
        elif path == "/snapshot/create":
            return self.save(body)
        elif path == "/snapshot/load":
            return self.load(body)
        else:
            raise Refused(400, f"Invalid request method and/or path: PUT {path}.")
        self.parts[path] = body
        return None

    def act(self, body):
        check(body, "/actions", {"action_type": str})
        if body["action_type"] == "InstanceStart":
            self.pre_boot()
            if "/boot-source" not in self.parts:
                raise Refused(400, "Cannot start microvm without kernel configuration.")
            self.state = "Running"
            print("booted", flush=True)
        elif body["action_type"] == "SendCtrlAltDel":
            self.post_boot()
            leave(0)
        elif body["action_type"] != "FlushMetrics":
            raise Refused(400, f"unknown variant `{body['action_type']}`")
        return None

    def memory_bytes(self):
        return self.parts["/machine-config"]["mem_size_mib"] << 20

    def save(self, body):
        check(body, "/snapshot/create", {"mem_file_path": str, "snapshot_path": str}, {"snapshot_type": str})
        if self.state != "Paused":
            raise Refused(400, "Cannot save the microVM: it is not paused")
        if body.get("snapshot_type", "Full") != "Full":
            raise Refused(400, "Diff snapshots are not allowed on uVMs with dirty page tracking disabled.")
        pathlib.Path(body["snapshot_path"]).write_text(json.dumps(self.parts))
        guest.save(body["mem_file_path"], self.memory_bytes())
        return None

    def load(self, body):
        self.pre_boot()
        if self.parts:
            raise Refused(400, "Loading a microVM snapshot not allowed after configuring boot-specific resources.")
        later = {"network_overrides": list} if tuple(map(int, VERSION.split("."))) >= (1, 12) else {}
        check(body, "/snapshot/load", {"snapshot_path": str},
              {"mem_backend": dict, "mem_file_path": str, "resume_vm": bool, "track_dirty_pages": bool,
               "enable_diff_snapshots": bool, **later})
        if ("mem_backend" in body) == ("mem_file_path" in body):
            raise Refused(400, "exactly one of mem_backend and mem_file_path is to be given")
        check(body["mem_backend"], "mem_backend", {"backend_type": str, "backend_path": str})
        if body["mem_backend"]["backend_type"] not in ("File", "Uffd"):
            raise Refused(400, f"unknown variant `{body['mem_backend']['backend_type']}`")
        parts = json.loads(pathlib.Path(body["snapshot_path"]).read_text())
        for override in body.get("network_overrides", []):
            check(override, "network_overrides", {"iface_id": str, "host_dev_name": str})
            path = "/network-interfaces/" + override["iface_id"]
            if path not in parts:
                raise Refused(400, f"Unknown network device: {override['iface_id']}")
            parts[path]["host_dev_name"] = override["host_dev_name"]
        for path, part in parts.items():
            if path.startswith("/drives/"):
                (readable if part.get("is_read_only") else writable)(part["path_on_host"], path)
        guest.load(body["mem_backend"]["backend_path"], parts["/machine-config"]["mem_size_mib"] << 20)
        self.vsock = guest.listen(parts["/vsock"]["uds_path"])
        self.parts = parts
        self.state = "Running" if body.get("resume_vm") else "Paused"
        return None


class CloudHypervisor:
    """vmm/src/api/openapi/cloud-hypervisor.yaml: /api/v1, errors as a JSON array from the outermost to its cause."""

    CONFIG = {"cpus": dict, "memory": dict, "rate_limit_groups": list, "disks": list, "net": list, "rng": dict, "balloon": dict,
              "fs": list, "pmem": list, "serial": dict, "console": dict, "debug_console": dict, "devices": list, "vsock": dict,
              "numa": list, "iommu": bool, "watchdog": bool, "pvpanic": bool, "platform": dict, "landlock_enable": bool}

    def __init__(self):
        self.state = None
        self.config = None
        self.vsock = None

    def fault(self, text):
        return ["Error from API", text]

    def answer(self, method, path, body):
        if not path.startswith("/api/v1/"):
            raise Refused(404, "Not Found")
        verb = path.removeprefix("/api/v1/")
        if (method, verb) == ("GET", "vmm.ping"):
            return {"build_version": f"v{VERSION}", "version": VERSION, "pid": os.getpid(), "features": ["kvm"]}
        if (method, verb) == ("GET", "vm.info"):
            if self.state is None:
                raise Refused(404, "VM is not created")
            return {"config": self.config, "state": self.state}
        if method != "PUT":
            raise Refused(400, "Bad Request")
        return self.put(verb, body)

    def need(self, *states):
        if self.state is None:
            raise Refused(404, "VM is not created")
        if self.state not in states:
            raise Refused(500, f"VM is {self.state}")

    def put(self, verb, body):
        if verb == "vm.create":
            if self.state is not None:
                raise Refused(500, "VM is already created")
            self.create(body)
        elif verb == "vm.boot":
            self.need("Created", "Shutdown")
            self.vsock = guest.listen(self.config["vsock"]["socket"])
            self.state = "Running"
            print("booted", flush=True)
        elif verb in ("vm.pause", "vm.resume"):
            self.need("Running" if verb == "vm.pause" else "Paused")
            self.state = "Paused" if verb == "vm.pause" else "Running"
        elif verb == "vm.reboot":
            self.need("Running")
        elif verb == "vm.power-button":
            self.need("Running")
            leave(0)
        elif verb == "vm.resize":
            self.need("Running", "Paused")
            check(body, verb, {}, {"desired_vcpus": int, "desired_ram": int, "desired_balloon": int})
        elif verb == "vm.snapshot":
            self.need("Paused")
            check(body, verb, {"destination_url": str})
            folder = self.folder(body["destination_url"])
            (folder / "config.json").write_text(json.dumps(self.config))
            (folder / "state.json").write_text("{}")
            guest.save(folder / "memory-ranges", self.memory_bytes())
        elif verb == "vm.restore":
            if self.state is not None:
                raise Refused(404, "VM is already created")
            check(body, verb, {"source_url": str}, {"prefault": bool, "memory_restore_mode": str, "resume": bool})
            folder = self.folder(body["source_url"])
            self.create(json.loads((folder / "config.json").read_text()))
            (folder / "restored").write_text(json.dumps(self.config))  # for tests
            self.state = None
            json.loads((folder / "state.json").read_text())
            for disk in self.config["disks"]:
                (readable if disk.get("readonly") else writable)(disk["path"], "disks")
            guest.load(folder / "memory-ranges", self.memory_bytes())
            self.vsock = guest.listen(self.config["vsock"]["socket"])
            self.state = "Paused"
        else:
            raise Refused(404, "Not Found")
        return None

    def folder(self, url):
        if not url.startswith("file:///"):
            raise Refused(400, f"{url} is no URL of a file")
        return pathlib.Path(url.removeprefix("file://"))

    def memory_bytes(self):
        memory = self.config["memory"]
        return memory["size"] or sum(zone["size"] for zone in memory["zones"])

    def check_numa(self, body):
        """Each vCPU and each zone is of one node."""
        nodes = body.get("numa", [])
        for node in nodes:
            check(node, "numa", {"guest_numa_id": int}, {"cpus": list, "distances": list, "memory_zones": list, "pci_segments": list})
        if nodes:
            zones = [zone["id"] for zone in body["memory"].get("zones", [])]
            for member, all_of_it in (("cpus", list(range(body["cpus"]["boot_vcpus"]))), ("memory_zones", sorted(zones))):
                if sorted(one for node in nodes for one in node[member]) != all_of_it:
                    raise Refused(500, f"Error creating VM: numa: {member} are not each of one node")

    def create(self, body):
        check(body, "vm.create", {"payload": dict}, self.CONFIG)
        check(body["payload"], "payload", {"kernel": str}, {"cmdline": str, "initramfs": str, "firmware": str})
        readable(body["payload"]["kernel"], "payload")
        check(body["cpus"], "cpus", {"boot_vcpus": int, "max_vcpus": int}, {"topology": dict, "kvm_hyperv": bool})
        topology = body["cpus"].get("topology")
        if topology is not None:
            parts = ("threads_per_core", "cores_per_die", "dies_per_package", "packages")
            check(topology, "topology", {}, dict.fromkeys(parts, int))
            if math.prod(topology[part] for part in parts) != body["cpus"]["max_vcpus"]:
                raise Refused(500, "Error creating VM: the topology is not of max_vcpus")
        pages = {"shared": bool, "hugepages": bool, "hugepage_size": int, "prefault": bool, "mergeable": bool}
        memory = body["memory"]
        check(memory, "memory", {"size": int}, {**pages, "zones": list})
        if (memory["size"] == 0) != ("zones" in memory):
            raise Refused(500, "Error creating VM: a total of 0 goes with zones, and with nothing else")
        if "zones" in memory and pages.keys() & memory.keys():
            raise Refused(500, "Error creating VM: pages are each zone's own")
        for zone in memory.get("zones", [memory]):
            if zone is not memory:
                check(zone, "zones", {"id": str, "size": int}, {**pages, "host_numa_node": int})
            page = zone.get("hugepage_size")
            if page is not None and (not zone.get("hugepages") or page & (page - 1) or zone["size"] % page):
                raise Refused(500, "Error creating VM: hugepage_size without hugepages, no power of 2, or no divisor of size")
        self.check_numa(body)
        for disk in body["disks"]:
            check(disk, "disks", {}, {"path": str, "readonly": bool, "direct": bool, "id": str, "serial": str, "image_type": str, "rate_limiter_config": dict})
            check_rates(disk.get("rate_limiter_config", {}), "disks")
            readable(disk["path"], "disks")
        for nic in body["net"]:
            check(nic, "net", {}, {"tap": str, "mac": str, "id": str, "mtu": int})
        check(body["rng"], "rng", {"src": str})
        if "balloon" in body:
            check(body["balloon"], "balloon", {"size": int}, {"deflate_on_oom": bool, "free_page_reporting": bool})
        for device in body.get("devices", []):
            check(device, "devices", {"path": str}, {"iommu": bool, "pci_segment": int, "id": str, "x_nv_gpudirect_clique": int, "x_nv_gpudirect_p2p": bool})
            if not pathlib.Path(device["path"]).is_dir():
                raise Refused(500, f"Error creating VM: no such device: {device['path']}")
        for console in ("serial", "console"):
            check(body[console], console, {"mode": str}, {"file": str, "socket": str})
            if body[console]["mode"] not in ("Off", "Pty", "Tty", "File", "Socket", "Null"):
                raise Refused(400, f"unknown variant `{body[console]['mode']}`")
        check(body["vsock"], "vsock", {"cid": int, "socket": str}, {"iommu": bool, "id": str})
        self.config, self.state = body, "Created"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def serve(self):
        length = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        status, answer = 204, None
        try:
            if "Transfer-Encoding" in self.headers:
                raise Refused(400, "a body in chunks is not understood")
            body = json.loads(raw) if raw else None
            answer = vmm.answer(self.command, self.path, body)
            status = 200 if answer is not None else 204
        except Refused as refused:
            status, answer = refused.status, vmm.fault(refused.text)
        except (ValueError, OSError, KeyError) as error:
            status, answer = 400, vmm.fault(f"{type(error).__name__}: {error}")
        note({"method": self.command, "path": self.path, "body": raw.decode(), "status": status})
        text = json.dumps(answer).encode() if answer is not None else b""
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_PATCH = serve

    def log_message(self, *_):
        pass


def note(request):
    """On standard error, which its monitor keeps the end of, and nowhere else: it may write in no folder but its own."""
    with open(os.path.join(os.path.dirname(api_path), "requests"), "a", encoding="utf-8") as log:
        log.write(json.dumps(request) + "\n")


def leave(status):
    """Once the answer is on its way."""
    threading.Timer(0.2, os._exit, [status]).start()


def read_console():
    for text in sys.stdin:
        word = text.strip()
        if word == "poweroff":
            os._exit(0)
        elif word == "panic":
            print("[    1.0] Kernel panic - not syncing: Attempted to kill init!", flush=True)
            os._exit(0)
        elif word == "crash":
            print("it is out of luck", file=sys.stderr, flush=True)
            os._exit(3)
        else:
            print("echo " + word, flush=True)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def get_request(self):
        request, _ = super().get_request()
        return request, ("unix", 0)


arguments = sys.argv[1:]
if arguments == ["--version"]:
    print(("Firecracker v" if NAME == "firecracker" else "cloud-hypervisor v") + VERSION)
    sys.exit(0)
option = "--api-sock" if NAME == "firecracker" else "--api-socket"
allowed = {option, "--id", "--level"} if NAME == "firecracker" else {option}
options = dict(zip(arguments[::2], arguments[1::2]))
if len(arguments) % 2 or not options.keys() <= allowed or option not in options:
    print(f"error: Found argument '{arguments}' which wasn't expected", file=sys.stderr)
    sys.exit(2)
api_path = options[option].removeprefix("path=")
vmm = Firecracker() if NAME == "firecracker" else CloudHypervisor()
threading.Thread(target=read_console, daemon=True).start()
Server(api_path, Handler).serve_forever()
