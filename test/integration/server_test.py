"""`blixard server` from its configuration to its end, and a node whose surroundings fail it."""
import json
import os
import pathlib
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()
BLIXARD = BUILD / "blixard"

SLOW = """
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(void)
{
    puts("begun"); fflush(stdout);
    char c; long input = 0; while (read(0, &c, 1) == 1) { input += c == 's'; }
    for (time_t end = time(NULL) + (input > 0 ? 2 : 0); time(NULL) < end;) { }
    puts("ended");
    return 0;
}
"""


def compile_c(folder, name, source):
    path = pathlib.Path(folder) / f"{name}.c"
    path.write_text(source)
    module = path.with_suffix(".wasm")
    subprocess.run(["clang-14", "--target=wasm32-wasi", "-O1", "-o", module, path], check=True)
    return module


class Scratch(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="blixard-server-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def file(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return path

    def server(self, *arguments, **options):
        """One that is to end by itself: (exit status, all it said)."""
        done = subprocess.run([BLIXARD, "server", *map(str, arguments)], stdin=subprocess.DEVNULL, timeout=60, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        return done.returncode, done.stdout


class Configuration(Scratch):
    def refused(self, words, *arguments):
        status, said = self.server(*arguments, "--check-config")
        self.assertEqual(status, 64, said)
        self.assertIn(words, said)

    def test_yaml_and_json_are_taken(self):
        for name, text in (("c.yaml", "data_folder: /srv/x\nbody_bytes_max: 1MiB\ndrain_timeout_ms: 5s\n"),
                           ("c.json", '{"data_folder": "/srv/x", "slots_per_runner": 4}'), ("e.yaml", "# nothing\n")):
            self.assertEqual(self.server("--config", self.file(name, text), "--check-config"),
                             (0, "the configuration is good\n"))

    def test_mistakes_are_named_with_their_line(self):
        config = self.file("a.yaml", "log_level: info\n\ngateway_adress: 127.0.0.1:1\n")
        self.refused("line 3", "--config", config)
        self.refused("gateway_address", "--config", config)
        self.refused("slots_per_runner", "--config", self.file("b.yaml", "slots_per_runner: 65\n"))
        self.refused("log_level", "--config", self.file("c.yaml", "log_level: loud\n"))
        self.refused("isolation", "--isolation", "maybe")
        self.refused("d.yaml: line", "--config", self.file("d.yaml", "log_level: info\n  - x: [\n"))
        self.refused("text or a number", "--config", self.file("e.yaml", "log_level: [info]\n"))
        self.refused("needs a value", "--data-folder")
        self.refused("unexpected", "somewhere")

    def test_of_several_files_the_later_one_goes_before(self):
        first = self.file("first.yaml", "log_level: info\nslots_per_runner: 65\n")
        second = self.file("second.yaml", "slots_per_runner: 4\n")
        self.refused("first.yaml, line 2", "--config", second, "--config", first)
        first.write_text("log_level: loud\n")
        self.refused("first.yaml, line 1", "--config", first, "--config", second)
        first.write_text(f"data_folder: {self.folder}/one\napi_address: nowhere\n")
        second.write_text("api_address: elsewhere\n")
        status, said = self.server("--config", first, "--config", second)
        self.assertNotEqual(status, 0)
        self.assertIn("elsewhere", said)
        self.refused("more than 16", *["--config", second] * 17)

    def test_a_file_that_is_not_there_is_an_error(self):
        status, said = self.server("--config", self.folder / "none.yaml")
        self.assertEqual(status, 66)
        self.assertIn("none.yaml", said)

    def test_the_table_of_options_in_the_documentation_is_this_programs(self):
        table = subprocess.run([BLIXARD, "server", "--options-markdown"], stdout=subprocess.PIPE, text=True, check=True,
                               timeout=60).stdout
        self.assertIn(table, (ROOT / "docs/administrator-guide/options.md").read_text())


class Start(Scratch):
    def test_a_second_daemon_on_one_folder_is_told_who_has_it(self):
        from node import Node

        with Node() as node:
            status, said = self.server("--data-folder", node.folder, "--api-address", "127.0.0.1:0",
                                       "--gateway-address", "127.0.0.1:0")
            self.assertNotEqual(status, 0)
            self.assertIn(str(node.process.pid), said)
            self.assertEqual(node.get("/healthz").strip(), "ok")

    def test_a_port_in_use_names_the_option(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            for flag in ("--api-address", "--gateway-address"):
                other = "--gateway-address" if flag == "--api-address" else "--api-address"
                status, said = self.server("--data-folder", self.folder / "data", flag, address, other, "127.0.0.1:0")
                self.assertEqual(status, 73, said)
                self.assertIn(address, said)
                self.assertIn(flag[2:].replace("-", "_").split("_")[0], said)

    def test_a_folder_that_cannot_be_written_is_an_error(self):
        status, said = self.server("--data-folder", "/proc/blixard", "--api-address", "127.0.0.1:0",
                                   "--gateway-address", "127.0.0.1:0")
        self.assertNotEqual(status, 0)
        self.assertIn("/proc/blixard", said)

    def test_systemd_is_told_that_the_loop_goes_round(self):
        path = self.folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(path))
            notify.settimeout(60)
            process = subprocess.Popen([BLIXARD, "server", "--data-folder", self.folder / "data", "--api-address",
                                        "127.0.0.1:0", "--gateway-address", "127.0.0.1:0"],
                                       env={**os.environ, "NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"},
                                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                while b"READY=1" not in notify.recv(4096):
                    pass
                for _ in range(3):
                    self.assertEqual(notify.recv(4096), b"WATCHDOG=1")
                # It stands still: nothing is told any more.
                process.send_signal(signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED)
                notify.setblocking(False)
                with self.assertRaises(BlockingIOError):
                    while True:
                        notify.recv(4096)
                notify.settimeout(1)
                with self.assertRaises(TimeoutError):
                    notify.recv(4096)
            finally:
                process.kill()
                process.wait()

    def test_who_is_asked_to_be_let_in_can_be_said_besides_the_token(self):
        import base64

        from cluster import Cluster

        with Cluster(1, "join-addresses", here=True) as cluster:
            cluster.form()
            one, two = cluster[0], cluster.add()
            words = json.loads(base64.urlsafe_b64decode(cluster.token().removeprefix("blx1.") + "==="))
            words["a"] = ["127.0.0.1:1"]  # where nobody is
            token = base64.urlsafe_b64encode(json.dumps(words, separators=(",", ":")).encode()).decode().rstrip("=")
            path = self.file("token", f"blx1.{token}\n")
            two.start("--join-token-file", path, "--join-addresses", "127.0.0.1")
            self.assertEqual(two.wait(), 64)
            self.assertIn('join_addresses: "127.0.0.1" is no HOST:PORT', two.said())
            two.start("--join-token-file", path, "--join-addresses", f"127.0.0.1:2, {one.address}").wait_ready()
            self.assertEqual(len(one.call("GET", "/v1/nodes")["nodes"]), 2)

    def test_systemd_is_told_when_it_is_ready_and_when_it_stops(self):
        path = self.folder / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(path))
            notify.settimeout(60)
            process = subprocess.Popen([BLIXARD, "server", "--data-folder", self.folder / "data", "--api-address",
                                        "127.0.0.1:0", "--gateway-address", "127.0.0.1:0"],
                                       env={**os.environ, "NOTIFY_SOCKET": str(path)}, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                self.assertIn(b"READY=1", notify.recv(4096))
                api = self.folder / "data" / "api.sock"
                self.assertEqual(stat.S_IMODE(api.stat().st_mode), 0o600)
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(str(api))
                    client.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                    self.assertTrue(client.recv(4096).startswith(b"HTTP/1.1 200 "))
                process.send_signal(signal.SIGTERM)
                self.assertIn(b"STOPPING=1", notify.recv(4096))
                self.assertEqual(process.wait(timeout=60), 0)
            finally:
                process.kill()
                process.wait()


class End(Scratch):
    def test_requests_in_flight_are_answered_before_the_end(self):
        from node import Node

        node = Node()
        try:
            node.deploy("slow", compile_c(self.folder, "slow", SLOW))
            host, port = node.gateway.split(":")
            with socket.create_connection((host, int(port)), timeout=60) as client:
                client.sendall(b"POST /fn/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\ns")
                answer = client.makefile("rb")
                self.assertTrue(answer.readline().startswith(b"HTTP/1.1 200 "))  # it runs
                stopping = threading.Thread(target=node.process.send_signal, args=[signal.SIGTERM])
                stopping.start()
                stopping.join()
                while True:  # until nobody new is let in
                    try:
                        socket.create_connection((host, int(port)), timeout=60).close()
                    except ConnectionError:
                        break
                self.assertIn(b"ended", answer.read())
            self.assertEqual(node.process.wait(timeout=60), 0)
        finally:
            node.stop()

    def test_without_compilers_deploys_say_what_to_install_and_the_rest_goes_on(self):
        from node import Node

        module = compile_c(self.folder, "slow", SLOW)
        other = compile_c(self.folder, "other", SLOW.replace("ended", "done"))
        data = self.folder / "data"
        with Node(data) as node:
            node.deploy("before", module)
        with Node(data, env={"PATH": "/nonexistent"}) as node:
            self.assertEqual(node.invoke("before"), "begun\nended\n")
            node.deploy("copy", module)  # it is compiled
            ended = node.wait(node.begin_deploy("after", other)["operation"])
            self.assertEqual((ended["state"], ended["error_code"]), ("failed", "unsupported"))
            self.assertIn("install the package wabt", ended["error"])
        with Node(data) as node:
            node.deploy("after", other)
            self.assertEqual(node.invoke("after"), "begun\ndone\n")

    def test_the_mask_of_a_service_manager_does_not_keep_files_from_compilers(self):
        from node import Node

        module = compile_c(self.folder, "slow", SLOW)
        before = os.umask(0o077)
        try:
            node = Node(self.folder / "data")
        finally:
            os.umask(before)
        try:
            node.deploy("masked", module)
            self.assertEqual(node.invoke("masked"), "begun\nended\n")
        finally:
            node.stop()

    def test_a_daemon_killed_while_it_builds_leaves_nothing_half(self):
        from node import Node

        module = compile_c(self.folder, "slow", SLOW)
        data = self.folder / "data"
        node = Node(data)
        begun = node.begin_deploy("half", module)
        node.kill()
        node = Node(data)
        try:
            ended = node.wait(begun["operation"])
            self.assertIn(ended["state"], ("succeeded", "failed", "cancelled"))
            node.deploy("half", module)
            self.assertEqual(node.invoke("half", b"x"), "begun\nended\n")
        finally:
            node.stop()


@unittest.skipIf(os.geteuid() != 0 or shutil.which("unshare") is None, "needs root, to mount a small disk")
class FullDisk(Scratch):
    def test_it_is_said_and_nothing_acknowledged_is_lost(self):
        """The node's folder on a disk of 24 MiB of its own mount namespace, filled up by us and emptied again."""
        from node import Node

        module = compile_c(self.folder, "slow", SLOW)
        disk = self.folder / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", disk], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", disk], check=False)
        node = Node(disk / "data")
        try:
            node.deploy("first", module)
            ballast = disk / "ballast"
            with ballast.open("wb", buffering=0) as file:
                try:
                    while file.write(b"x" * 65536):
                        pass
                except OSError:
                    pass
            status, body, _ = node.request("POST", "/v1/blobs", module.read_bytes() + b"\0\x05\x04junk")
            self.assertEqual(status, 507, body)
            self.assertEqual(node.invoke("first", b"x"), "begun\nended\n")  # it goes on answering
        finally:
            ballast.unlink()
            node.stop()
        node = Node(disk / "data")
        try:
            while node.request("POST", "/v1/functions/first/invocations", b"x")[0] == 503:
                pass  # it is being made ready
            self.assertEqual(node.invoke("first", b"x"), "begun\nended\n")
            node.deploy("second", module)
        finally:
            node.stop()


class Install(Scratch):
    def test_what_is_installed_works(self):
        env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        done = subprocess.run(["meson", "install", "-C", BUILD, "--no-rebuild"], env={**env, "DESTDIR": str(self.folder)},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout)
        installed = {path.name: path for path in self.folder.rglob("*") if path.is_file()}
        for name in ("blixard", "blixard-runner", "blixard.1", "blixard.bash", "_blixard", "blixard.fish",
                     "blixard.service"):
            self.assertIn(name, installed)
        unit = installed["blixard.service"].read_text()
        self.assertNotIn("@", unit)
        self.assertEqual(installed["blixard-runner"].parent.parent.name, "libexec")
        said = subprocess.run([installed["blixard"], "version"], stdout=subprocess.PIPE, text=True, timeout=60).stdout
        self.assertRegex(said, r"^blixard \d+\.\d+\.\d+\n$")
