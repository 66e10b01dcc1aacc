"""The command line, verb by verb, as somebody types it."""
import base64
import contextlib
import http.server
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest

PLAIN_ONLY = "the time goes to compilers"

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BLIXARD_BUILD", ROOT / "build")).resolve()
BLIXARD = BUILD / "blixard"
node = None
folder = None

LANGUAGES = {  # what `fn new` writes answers to its test event
    "c": b"Hello, Ada!\n",
    "cpp": b'{"one": 1, "three": 1, "two": 2}\n',
    "rust": b"desserts\n",
    "assemblyscript": b'{"characters": 9, "lines": 2}\n',
    "javascript": b'{"words":6,"longest":"snapshot"}',
}


def setUpModule():
    global node, folder
    from node import QUICK, Node  # test/lib/node.py

    folder = tempfile.TemporaryDirectory(prefix="blixard-cli-")
    node = Node(arguments=QUICK)


def tearDownModule():
    node.stop()
    folder.cleanup()


def run(*arguments, env=None, stdin=b"", cwd=None):
    """(exit status, standard output, standard error)"""
    done = subprocess.run([BLIXARD, *map(str, arguments)], env={**node.env, **(env or {})}, input=stdin,
                          cwd=cwd or folder.name, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    return done.returncode, done.stdout, done.stderr.decode()


@contextlib.contextmanager
def answering(document):
    """A node that answers everything with this: (its address, what it is asked)."""
    asked = []
    body = json.dumps(document).encode()

    class Answering(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield "%s:%d" % server.server_address, asked
        finally:
            server.shutdown()


class Usage(unittest.TestCase):
    def wrong(self, status, words, *arguments, **options):
        got = run(*arguments, **options)
        self.assertEqual(got[0], status, got)
        self.assertIn(words, got[2])
        self.assertEqual(got[1], b"")
        self.assertEqual(got[2].count("\n"), 1, got[2])

    def test_typing_errors_are_named_with_what_was_meant(self):
        self.wrong(64, 'did you mean "fn list"', "fn", "lst")
        self.wrong(64, 'did you mean "doctor"', "docter")
        self.wrong(64, 'unknown command "status"; did you mean "cluster status"?', "status")
        self.wrong(64, 'did you mean "fn list", "fn alias list", "kv list"', "list")
        self.wrong(64, 'did you mean "fn deploy"', "deploy")
        self.wrong(64, 'at /metrics of the API', "metrics")
        self.wrong(64, "did you mean --output", "fn", "list", "--outptu", "json")
        self.wrong(64, "unknown flag -x", "fn", "list", "-x")
        self.wrong(64, "unknown flag --sockt", "--sockt", "/x", "fn", "list")
        self.wrong(64, "unknown flag --verbose; see blixard fn run --help (the program's own go behind --)",
                   "fn", "run", "program.wasm", "--verbose")
        self.wrong(64, 'unknown command "vm ls"; did you mean "vm list"?', "vm", "ls")
        self.wrong(64, 'did you mean "vm top"', "vm", "stats", "web")
        self.wrong(64, 'did you mean "vm exec"', "vm", "ssh", "web")
        self.wrong(64, 'did you mean "volume delete"', "volume", "rm", "data")
        self.wrong(64, 'did you mean "fn get"', "fn", "show", "hello")
        self.wrong(64, 'did you mean "vm show"', "vm", "get", "web")
        self.wrong(64, 'did you mean "vm"', "machine", "list")
        self.wrong(64, 'unexpected "other"', "vm", "create", "web", "other", "--image", "debian-12")
        self.wrong(64, "no number of lines", "vm", "logs", "web", "--tail", "many")
        self.wrong(64, "--tail many is not a number", "vm", "events", "web", "-n", "many")
        self.wrong(64, 'did you mean "node token"', "node", "tokn")
        self.wrong(64, 'did you mean "node token create"', "node", "token", "creat")
        self.wrong(64, "unknown command", "xyzzy")
        self.wrong(64, 'unexpected "b"', "fn", "get", "a", "b")
        self.wrong(64, "usage: blixard fn deploy NAME PATH", "fn", "deploy", "a")
        self.wrong(64, "a word is empty: blixard fn delete NAME [VERSION]", "fn", "delete", "")
        self.wrong(64, "a word is empty: blixard queue delete NAME...", "queue", "delete", "a", "")
        self.wrong(64, "--tail needs a value", "fn", "logs", "a", "--tail")
        self.wrong(64, "takes no value", "fn", "logs", "a", "--follow=yes")
        self.wrong(64, "not one of: table json yaml", "fn", "list", "--output", "xml")
        self.wrong(64, "not one of: c cpp rust assemblyscript javascript", "fn", "new", "a", "--lang", "cobol")

    def test_values_are_checked_before_anything_is_done(self):
        self.wrong(64, "is not a name", "fn", "deploy", "Odd_Name", "x.wasm")
        self.wrong(66, "does not exist", "fn", "deploy", "odd", "x.wasm")
        self.wrong(64, "not a version", "fn", "alias", "set", "a", "live", "one")
        self.wrong(64, "'Name: value'", "fn", "invoke", "a", "--header", "x")
        self.wrong(64, "--index", "events", "--index", "-1")
        self.wrong(64, "--name gives the cluster its name", "cluster", "init")
        self.wrong(64, "--name gives the cluster its name", "cluster", "init", "--name", "My Cluster")
        self.wrong(64, "not one of: 1 3 5", "cluster", "init", "--name", "home", "--servers", "4")
        self.wrong(64, "--ttl soon", "node", "token", "create", "--ttl", "soon")
        self.wrong(64, "--uses 0", "node", "token", "create", "--uses", "0")
        self.wrong(64, "neither LABEL=VALUE", "node", "label", "north", "disk=ssd", "disk")
        self.wrong(64, "is no name", "client", "create", "A B")

    def test_exit_statuses_tell_the_kind(self):
        self.wrong(66, "there is no function nobody", "fn", "get", "nobody")
        self.wrong(66, "there is no operation", "operation", "get", "nothing")
        self.wrong(69, "start one with `blixard dev`", "fn", "list", "--addr", "127.0.0.1:1")
        self.wrong(69, "start one with `blixard dev`", "fn", "list", env={"BLIXARD_ADDR": "unix:/nonexistent"})

    def test_a_node_that_ends_in_the_middle_is_no_port_to_log_in_at(self):
        with socket.socket(socket.AF_UNIX) as listener:
            path = pathlib.Path(folder.name, "ends.sock")
            listener.bind(str(path))
            listener.listen()

            def end():
                one, _ = listener.accept()
                one.recv(4096)
                listener.close()
                path.unlink()
                one.close()

            ending = threading.Thread(target=end)
            ending.start()
            status, _, said = run("fn", "list", "--addr", f"unix:{path}")
            ending.join()
        self.assertEqual(status, 69, said)
        self.assertIn("the node ended before it answered", said)
        self.assertNotIn("login", said)

    def test_who_stops_waiting_is_told_how_to_wait_again(self):
        with socket.create_server(("127.0.0.1", 0)) as node_that_says_nothing:
            address = "%s:%d" % node_that_says_nothing.getsockname()
            waiting = subprocess.Popen([BLIXARD, "invocation", "wait", "0f3c", "--addr", address], stderr=subprocess.PIPE, text=True)
            with node_that_says_nothing.accept()[0] as asked:
                self.assertIn(b"/v1/invocations/0f3c/wait", asked.recv(65536))
                waiting.send_signal(signal.SIGINT)
                said = waiting.communicate(timeout=60)[1]
        self.assertEqual(waiting.returncode, -signal.SIGINT)
        self.assertIn("the invocation goes on: blixard invocation wait 0f3c", said)

    def test_who_waits_may_say_how_long(self):
        """A node whose work goes on is asked for no longer than that, and what is said names the state."""
        with answering({"id": "0f3c", "state": "running"}) as (address, asked):
            for kind in ("operation", "invocation"):
                status, _, errors = run(kind, "wait", "0f3c", "--timeout", "1ms", "--addr", address)
                self.assertEqual((status, f"{kind} 0f3c is still running" in errors), (75, True), errors)
                self.assertEqual(asked.pop(), f"/v1/{kind}s/0f3c/wait?timeout=1ms")
                status, _, errors = run(kind, "wait", "0f3c", "--timeout", "soon", "--addr", address)
                self.assertEqual((status, "--timeout soon is no time" in errors), (64, True), errors)

    def test_a_waterfall_has_room_for_the_names_of_deep_spans(self):
        spans = [{"id": f"{depth:016x}", "parent": f"{depth - 1:016x}" if depth else "", "trace": "0" * 32, "name": "cold start", "node": "n",
                  "start_us": depth, "start_at": "", "duration_ns": 1000, "attributes": {}} for depth in range(6)]
        with answering({"spans": spans}) as (address, _):
            status, out, errors = run("trace", "show", "0" * 32, "--node", "n", "--addr", address)
        self.assertEqual((status, out.decode().count("cold start ")), (0, 6), errors)

    def test_output_that_cannot_be_written_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([BLIXARD, "--help"], stdout=full, stderr=subprocess.PIPE, timeout=60)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"No space left", done.stderr)

    def test_every_verb_has_help_with_examples(self):
        status, text, _ = run("--help")
        self.assertEqual(status, 0)
        verbs = re.findall(r"^  ([a-z]+(?: [a-z-]+)*) ", text.decode(), re.M)
        self.assertGreater(len(verbs), 20)
        for verb in verbs:
            status, help_text, errors = run(*verb.split(), "--help")
            self.assertEqual((status, errors), (0, ""), verb)
            self.assertIn(b"blixard " + verb.encode(), help_text)
            self.assertIn(b"xamples:\n", help_text)
        self.assertIn(b"--rebalance allow|never ", run("vm", "create", "--help")[1])
        self.assertIn(b"rebalance\\fR \\fIallow|never\\fR\n", run("man")[1])

    def test_flags_may_stand_anywhere(self):
        expected = json.loads(run("client", "list", "--output", "json")[1])
        for arguments in (["--output", "json", "client", "list"], ["client", "list", "--output=json"],
                          ["client", "list", "-o", "json"]):
            self.assertEqual(json.loads(run(*arguments)[1]), expected, arguments)


class Contexts(unittest.TestCase):
    """Which cluster to talk to; what a login makes is tested with a cluster."""

    def setUp(self):
        self.home = tempfile.TemporaryDirectory(prefix="blixard-home-")
        self.env = {"HOME": self.home.name, "XDG_CONFIG_HOME": "", "BLIXARD_ADDR": ""}
        self.config = pathlib.Path(self.home.name, ".config", "blixard")

    def tearDown(self):
        self.home.cleanup()

    def run_here(self, *arguments, stdin=b"", **env):
        return run(*arguments, env={**self.env, **env}, stdin=stdin)

    def wrong(self, status, words, *arguments, **options):
        got = self.run_here(*arguments, **options)
        self.assertEqual(got[0], status, got)
        self.assertIn(words, got[2])
        return got

    def make(self, name, address="127.0.0.1:1", **files):
        """A context as a login with a bearer token leaves it."""
        folder = self.config / "contexts" / name
        folder.mkdir(parents=True)
        facts = {"cluster": "0" * 32, "cluster_name": "home", "authority": "a" * 64, "client": "ci",
                 "addresses": [address]}
        for file, text in {"context.json": json.dumps(facts), "token": "b" * 40, **files}.items():
            (folder / file).write_text(text)
        return folder

    def test_the_local_node_is_used_where_there_is_none(self):
        _, text, _ = self.run_here("context", "list", "--output", "json")
        self.assertEqual([(c["name"], c["current"]) for c in json.loads(text)["contexts"]], [("local", True)])
        self.wrong(66, "no context is in use", "context", "show")
        self.wrong(66, "no context is in use", "logout")
        self.wrong(66, "there is no context home", "context", "use", "home")
        self.wrong(64, "no name of a context", "context", "use", "../evil")
        self.assertFalse(self.config.exists())

    def test_one_is_used_until_another_is(self):
        self.make("home")
        self.make("work", "127.0.0.1:2")
        self.assertEqual(self.run_here("context", "use", "work")[0], 0)
        self.wrong(69, "no node of context work answers", "fn", "list")
        self.wrong(69, "no node of context home answers", "fn", "list", "--context", "home")
        self.wrong(69, "no node of context home answers", "fn", "list", BLIXARD_CONTEXT="home")
        self.wrong(69, "no node answers at 127.0.0.1:3", "fn", "list", "--addr", "127.0.0.1:3")
        self.assertEqual(self.run_here("fn", "list", BLIXARD_ADDR=node.env["BLIXARD_ADDR"])[0], 0)
        self.assertIn(b"127.0.0.1:2", self.run_here("context", "show")[1])
        self.assertEqual((self.config / "current").stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.run_here("context", "use", "local")[0], 0)
        self.wrong(66, "no context is in use", "context", "show")

    def test_logging_out_forgets_the_key(self):
        folder = self.make("home")
        self.assertEqual(self.run_here("context", "use", "home")[0], 0)
        self.assertEqual(self.run_here("logout")[0], 0)
        self.assertFalse(folder.exists())
        self.wrong(66, "no context is in use", "context", "show")
        self.wrong(66, "there is no context home", "context", "delete", "home")

    def test_a_damaged_one_is_named_with_its_folder(self):
        self.make("home", **{"context.json": "{"})
        self.wrong(64, f"context home ({self.config}/contexts/home)", "context", "show", "home")
        (self.config / "contexts" / "home" / "context.json").unlink()
        self.wrong(74, "context.json is missing", "context", "show", "home")
        self.assertEqual(self.run_here("context", "list")[0], 0)
        self.assertEqual(self.run_here("context", "delete", "home")[0], 0)

    def token(self, **more):
        fields = {"c": "0" * 32, "f": "a" * 64, "a": ["127.0.0.1:1", "127.0.0.1:2"], "s": "b" * 40, **more}
        text = base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode()
        return "blx1." + text.rstrip("=")

    def test_tokens_are_for_what_they_are_for(self):
        login, bearer, join = self.token(n="ada"), self.token(b="ci"), self.token(t="0123456789ab")
        self.wrong(64, "this is no token", "login", "hello")
        self.wrong(64, "the token is damaged", "login", login[:-5])
        self.wrong(64, "lets a node join", "login", join)
        self.wrong(64, "--name ../x is no name", "login", login, "--name", "../x")
        self.wrong(64, "means the node on this machine", "login", login, "--name", "local")
        self.wrong(64, "one for blixard login", "fn", "list", BLIXARD_TOKEN=login)
        self.wrong(64, "one for blixard server --join", "fn", "list", BLIXARD_TOKEN=join)
        self.wrong(64, "no blanks", "fn", "list", BLIXARD_TOKEN="a\r\nHost: b")
        for arguments, stdin, env in ((("login", "-"), login, {}), (("login", login), "", {}),
                                      (("fn", "list", "--token-file", "-"), bearer + "\n", {}),
                                      (("fn", "list"), "", {"BLIXARD_TOKEN": bearer})):
            got = self.wrong(69, "(2 tried)", *arguments, stdin=stdin.encode(), **env)
            self.assertNotIn("b" * 40, got[2])
        self.assertFalse(self.config.exists())


class Documents(unittest.TestCase):
    def test_formats_hold_the_same(self):
        _, as_json, _ = run("node", "show", "--output", "json")
        _, as_yaml, _ = run("node", "show", "--output", "yaml")
        _, as_table, _ = run("node", "show")
        about = json.loads(as_json)
        self.assertIn(f'isolation: "{about["isolation"]}"\n', as_yaml.decode())
        self.assertRegex(as_table.decode(), rf'(?m)^isolation +{about["isolation"]}$')

    def test_doctor_tells_findings_with_what_to_do(self):
        status, text, _ = run("doctor", "--output", "json")
        about = json.loads(text)
        self.assertEqual(status, 0 if about["can_run_functions"] else 69)
        names = {finding["name"] for finding in about["findings"]}
        self.assertLessEqual({"KVM", "PAGEMAP_SCAN", "favordynmods", "nx_huge_pages", "jail", "memory", "limits", "disk",
                              "wasm2c", "gcc", "C", "C++", "Rust", "AssemblyScript", "machines", "disks"}, names)
        for finding in about["findings"]:
            if finding["verdict"] == "bad":
                self.assertTrue(finding["fix"], finding)

    def test_doctor_names_the_packages_of_missing_programs(self):
        status, text, errors = run("doctor", "--output", "json", env={"PATH": "/nonexistent"})
        about = json.loads(text)
        self.assertEqual((status, about["can_run_functions"]), (69, False), errors)
        fixes = {finding["name"]: finding["fix"] for finding in about["findings"]}
        self.assertEqual(fixes["wasm2c"], "apt-get install wabt")
        self.assertEqual(fixes["machines"], "apt-get install qemu-system-x86")

    def test_doctor_speaks_of_nixpkgs_on_nixos_and_finds_what_qemu_brings(self):
        if os.geteuid() != 0:
            self.skipTest("needs a mount namespace")
        prefix = pathlib.Path(folder.name, "qemu")
        (prefix / "bin").mkdir(parents=True)
        (prefix / "share/qemu").mkdir(parents=True)
        for name in ("edk2-x86_64-code.fd", "edk2-i386-vars.fd"):
            (prefix / "share/qemu" / name).touch()
        shutil.copy("/bin/true", prefix / "bin/real")
        (prefix / "bin/qemu-system-x86_64").symlink_to("real")
        inside = ("mount -t tmpfs none /usr/share && mount -t tmpfs none /etc && touch /etc/NIXOS && "
                  f"PATH={prefix}/bin exec {BLIXARD} doctor --output json")
        done = subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-c", inside], stdout=subprocess.PIPE, timeout=60)
        found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
        self.assertEqual(found["UEFI"]["found"], f"{prefix}/share/qemu/edk2-x86_64-code.fd")
        self.assertEqual(found["volumes"]["fix"], "services.blixard.extraPackages = [ pkgs.NAME ]; of nixpkgs: qemu_kvm")

    def test_several_are_done_one_by_one_and_those_that_fail_are_named(self):
        for name in ("one", "two"):
            self.assertEqual(run("queue", "create", name)[0], 0)
        status, _, said = run("queue", "delete", "one", "nosuch", "two")
        self.assertEqual(status, 66, said)
        self.assertIn("nosuch", said)
        self.assertIn("1 of 3 failed", said)
        left = {queue["name"] for queue in json.loads(run("queue", "list", "--output", "json")[1])["queues"]}
        self.assertTrue(left.isdisjoint({"one", "two"}), left)

    def test_an_image_is_not_made_for_nobody(self):
        """Goal: minutes of making it are not in vain.  Method: no node answers, and the program that would make it is none."""
        status, _, said = run("image", "build", "none", "--addr", "127.0.0.1:1", env={"PATH": folder.name})
        self.assertEqual((status, "no node answers" in said), (69, True), said)

    def test_why_a_build_failed_is_what_apt_said_first(self):
        """Goal: who mistypes a package reads that.  Method: in mmdebstrap's place a program that says what that says, without --quiet alone."""
        with tempfile.TemporaryDirectory(prefix="blixard-cli-") as place:
            program = pathlib.Path(place, "mmdebstrap")
            program.write_text("#!/bin/sh\nexec >&2\ncase \"$*\" in *--quiet*) ;; *) echo 'I: installing'; echo 'E: Unable to locate package nginxx';; esac\n"
                               "echo 'E: setup failed: E: apt-get failed'; echo 'E: mmdebstrap failed to run'; exit 25\n")
            program.chmod(0o755)
            status, _, said = run("image", "build", "none", env={**node.env, "PATH": f"{place}:{os.environ['PATH']}"})
            self.assertEqual(status, 69, said)
            self.assertIn("blixard: mmdebstrap: Unable to locate package nginxx\n", said)

    def test_ctrl_c_leaves_nothing_behind(self):
        """Goal: what a build has begun ends with it.  Method: in mmdebstrap's place a program that says who it is, and tidies up when it is told to end."""
        with tempfile.TemporaryDirectory(prefix="blixard-cli-") as place:
            place = pathlib.Path(place)
            (place / "tmp").mkdir()
            os.mkfifo(place / "begun")
            program = place / "mmdebstrap"
            program.write_text(f"#!/bin/sh\ntrap 'echo tidied > {place}/told; exit 1' TERM\nsleep 1000 & echo $$ $! > {place}/begun\nwait\n")
            program.chmod(0o755)
            env = {**node.env, "PATH": f"{place}:{os.environ['PATH']}", "TMPDIR": str(place / "tmp")}
            with subprocess.Popen([BLIXARD, "image", "build", "none"], env=env, stderr=subprocess.DEVNULL) as build:
                ends = [os.pidfd_open(int(pid)) for pid in (place / "begun").read_text().split()]
                self.assertEqual(len(list((place / "tmp").iterdir())), 1)
                build.send_signal(signal.SIGINT)
                self.assertEqual(build.wait(60), -signal.SIGINT)
            for end in ends:
                self.assertEqual(len(select.select([end], [], [], 60)[0]), 1)
                os.close(end)
            self.assertEqual((place / "told").read_text(), "tidied\n")
            self.assertEqual(list((place / "tmp").iterdir()), [])

    def test_a_path_that_is_wrong_is_an_input_that_is_wrong(self):
        pathlib.Path(folder.name, "plain").touch()
        for status, words in ((66, ("image", "import", "x", "--root", "nosuch.tar")), (64, ("fn", "run", ".")), (64, ("fn", "run", "plain/x.wasm")),
                              (64, ("fn", "run", "a" * 300)), (64, ("fn", "init", ""))):
            got = run(*words)
            self.assertEqual(got[0], status, (words[:3], got[2][-200:]))

    def test_doctor_tells_a_nix_that_does_not_work_from_none(self):
        if shutil.which("nix-store") is None:
            self.skipTest("no nix-store: apt-get install nix-bin")
        _, text, _ = run("doctor", "--output", "json", env={**os.environ, "NIX_STATE_DIR": "/proc/nix"})
        found = {finding["name"]: finding for finding in json.loads(text)["findings"]}["Nix"]
        self.assertIn("/proc/nix", found["found"])
        self.assertNotIn("install", found["fix"])

    def test_completion_scripts_are_scripts(self):
        for shell in ("bash", "zsh", "fish"):
            status, script, _ = run("completion", shell)
            self.assertEqual(status, 0)
            self.assertIn(b"deploy", script)
            if shutil.which(shell):
                subprocess.run([shell, "-n"], input=script, check=True, timeout=60)
        self.assertEqual(run("completion", "csh")[0], 64)

    def test_bash_completes_verbs_and_flags(self):
        _, script, _ = run("completion", "bash")
        ask = script.decode() + """
            complete_it() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _blixard; echo "${COMPREPLY[*]}"; }
            complete_it blixard f; complete_it blixard fn dep; complete_it blixard fn deploy --mem
            complete_it blixard fn new --lang r; complete_it blixard node tok; complete_it blixard node token c
            complete_it blixard node token create --us; complete_it blixard dev --he"""
        done = subprocess.run(["bash", "-c", ask], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
        self.assertEqual(done.stdout.splitlines(), ["fn", "deploy", "--memory", "rust", "token", "create", "--uses", "--help"])

    def test_the_manual_page_is_one(self):
        status, page, _ = run("man")
        self.assertEqual(status, 0)
        for heading in (b".SH NAME", b".SH COMMANDS", b".SH EXIT STATUS", b".SH ENVIRONMENT"):
            self.assertIn(heading, page)
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-man", "-Tascii", "-ww"], input=page, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, timeout=60)
            self.assertEqual(done.stderr, b"")


class Projects(unittest.TestCase):
    def project(self, name, **files):
        path = pathlib.Path(folder.name) / name
        path.mkdir()
        for file, text in files.items():
            (path / file.replace("__", ".")).write_text(text)
        return path

    def refused(self, path, words):
        status, out, errors = run("fn", "build", path)
        self.assertEqual((status, out), (64, b""), errors)
        self.assertIn(words, errors)

    def test_new_projects_build_deploy_and_answer(self):
        for language, answer in LANGUAGES.items():
            if language.endswith("script") and shutil.which("npm") is None:
                continue
            name = f"new-{language}"
            status, _, errors = run("fn", "new", name, "--lang", language)
            self.assertEqual(status, 0, errors)
            status, out, errors = run("fn", "deploy", name, name)
            self.assertEqual(status, 0, errors)
            self.assertIn(b"version 1 is live", out)
            event = pathlib.Path(folder.name) / name / "event.txt"
            self.assertEqual(run("fn", "invoke", name, "--file", event)[1], answer)
            self.assertEqual(run("fn", "invoke", name, "-", stdin=event.read_bytes())[1], answer)
            version = json.loads(run("fn", "get", name, "-o", "json")[1])["version"]
            self.assertEqual(version["language"], language)

    def test_a_new_project_does_not_overwrite(self):
        self.assertEqual(run("fn", "new", "twice")[0], 0)
        status, _, errors = run("fn", "new", "twice")
        self.assertEqual(status, 73)
        self.assertIn("exists already", errors)

    def test_a_folder_becomes_a_project_and_what_is_there_is_left_alone(self):
        path = pathlib.Path(folder.name) / "initiated"
        path.mkdir()
        (path / "notes.txt").write_text("mine")
        status, out, errors = run("fn", "init", cwd=path)
        self.assertEqual((status, out), (0, b"initiated is a project in c; next: blixard fn deploy\n"), errors)
        status, out, errors = run("fn", "deploy", cwd=path)
        self.assertEqual(status, 0, errors)
        self.assertIn(b"initiated version 1 is live", out)
        self.assertEqual(run("fn", "invoke", "initiated", "--data", "you")[1], b"Hello, you!\n")
        (path / "main.c").write_text("changed")
        status, _, errors = run("fn", "init", ".", cwd=path)
        self.assertEqual(status, 73, errors)
        self.assertEqual(((path / "main.c").read_text(), (path / "notes.txt").read_text()), ("changed", "mine"))
        status, out, errors = run("fn", "init", "deep/er", "--template", "javascript", "--name", "other")
        self.assertEqual((status, out), (0, b"other is a project in javascript; next: cd deep/er && blixard fn deploy\n"), errors)
        status, _, errors = run("fn", "init", "Not_a_Name")
        self.assertEqual(status, 64)
        self.assertIn('"Not_a_Name" is not a name', errors)

    def test_settings_are_checked_with_their_line(self):
        self.refused(self.project("p1", blixard__yaml="language: c\n\ntimout: 3s\n"), 'line 3: unknown key "timout"; did you mean "timeout"?')
        self.refused(self.project("p2", blixard__yaml="language: cobol\n"), "cobol")
        self.refused(self.project("p3", blixard__yaml="language: c\nmemory: lots\n"), "memory must be a size")
        self.refused(self.project("p4", blixard__yaml="language: c\nsource: ../x.c\n"), "not inside the project")
        self.refused(self.project("p5", blixard__yaml="language: [c\n"), "blixard.yaml")
        self.refused(self.project("p6"), "is no project")
        self.refused(self.project("p7", blixard__yaml="language: c\n"), "holds no .c files")
        self.refused(self.project("p8", blixard__yaml="- c\n"), "key: value")
        self.refused(self.project("p9", blixard__yaml="language: c\nasync: {retry: 3}\n"), 'unknown key "async.retry"; did you mean "async.retries"?')
        self.refused(self.project("p10", blixard__yaml="language: c\nasync.retries: 3\n"), 'unknown key "async.retries"')
        self.refused(self.project("p11", blixard__yaml="language: c\nreuse: always\n"), 'not one of: request instance')

    def test_settings_are_the_same_in_the_file_by_flags_and_in_the_api(self):
        """All that spec/settings.def has, each with a value that is no default."""
        rows = re.findall(r'^SETTING\("([\w.]+)", "([\w-]+)", .+?, ([A-Z]+), "([\w.]+)", (?:NULL|"([\w ]+)"), "', (ROOT / "spec/settings.def").read_text(), re.M)
        by_file, flags, by_api = [], [], {}
        for number, (key, flag, kind, field, choices) in enumerate(rows, 3):
            if flag in ("runtime", "image", "runner", "handler", "dead-letter"):  # of another runtime; and short for another
                continue
            text, value = {"SIZE": (f"{number}MiB", number << 20), "DURATION": (f"{number}s", number * 1000), "COUNT": (f"{number}",) * 2,
                           "TEXT": (choices.split(" ")[-1] if choices else f"queue:q{number}",) * 2}[kind]
            value = int(value) if kind == "COUNT" else value
            outer, _, inner = field.rpartition(".")
            (by_api.setdefault(outer, {}) if outer else by_api)[inner] = value
            flags += [f"--{flag}", text]
            by_file += ["async:"] if outer and "async:" not in by_file else []
            by_file.append(f"  {key.removeprefix('async.')}: {text}" if outer else f"{key}: {text}")
        path = self.project("everything", main__c='#include "blixard.h"\nBLIXARD_HANDLER { blixard_response_text("x"); }\n', blixard__yaml="\n".join(by_file) + "\n")
        status, _, errors = run("fn", "deploy", "by-file", path)
        self.assertEqual(status, 0, errors)
        module = run("fn", "build", path, "-o", "json")[1]
        module = json.loads(module)["module"]
        status, _, errors = run("fn", "deploy", "by-flags", module, *flags)
        self.assertEqual(status, 0, errors)
        node.deploy("by-api", module, **by_api)
        seen = [node.json(f"/v1/functions/{name}")["version"] for name in ("by-file", "by-flags", "by-api")]
        for name, value in by_api.items():
            for version in seen:
                self.assertEqual((name, version[name]), (name, value))
        shown = run("fn", "get", "by-flags")[1].decode()
        for word in ("async retries", "recycle after", "queue:q", "instance"):
            self.assertIn(word, shown)
        status, _, errors = run("fn", "deploy", "by-flags", module, "--runtime", "linux")
        self.assertEqual(status, 64, errors)
        self.assertIn("needs a machine image", errors)

    def test_a_broken_program_shows_the_compilers_words(self):
        self.refused(self.project("broken", main__c="int main(void) { return missing; }\n"), "use of undeclared identifier")

    def test_settings_reach_the_function_and_flags_go_first(self):
        path = self.project("settings", main__c="int main(void) { return 0; }\n",
                            blixard__yaml="memory: 32MiB\ntimeout: 5s\nqueue: 7\nenvironment:\n  LEVEL: 3\n")
        status, _, errors = run("fn", "deploy", "settings", path, "--timeout", "2s", "--env", "NAME=a=b")
        self.assertEqual(status, 0, errors)
        version = json.loads(run("fn", "get", "settings", "-o", "json")[1])["version"]
        self.assertEqual((version["memory_bytes"], version["timeout_ms"], version["queue_max"]), (32 << 20, 2000, 7))
        self.assertEqual(version["environment"], {"LEVEL": "3", "NAME": "a=b"})

    def test_a_missing_compiler_is_named_with_its_package(self):
        path = self.project("lonely", main__c="int main(void) { return 0; }\n")
        status, _, errors = run("fn", "build", path, env={"PATH": "/nonexistent"})
        self.assertEqual(status, 65)
        self.assertIn("apt-get install clang-14", errors)


class Verbs(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        path = pathlib.Path(folder.name) / "verbs"
        path.mkdir()
        (path / "main.c").write_text(
            '#include <stdio.h>\n#include <stdlib.h>\nint main(void) { int c = getchar(); if (c == \'x\') abort(); '
            'if (c == \'n\') { puts("Status: 404\\n\\nnot here"); return 0; } if (c == \'m\') { puts("Status: 303\\n\\nthere"); return 0; } '
            'fprintf(stderr, "<4>got %d\\n", c); puts("answer"); return 0; }\n')
        cls.path = path
        assert run("fn", "deploy", "verbs", path)[0] == 0

    def test_invoke_shows_what_it_cost_when_asked(self):
        status, out, errors = run("fn", "invoke", "verbs", "--data", "a", "--verbose")
        self.assertEqual((status, out), (0, b"answer\n"))
        for word in ("status     200", "isolation  ", "instance   ", "timings    ", "request    "):
            self.assertIn(word, errors)

    def test_a_failing_function_is_an_exit_status(self):
        status, out, errors = run("fn", "invoke", "verbs", "--data", "x")
        self.assertEqual((status, out), (70, b""))
        self.assertIn("trap: unreachable", errors)

    def test_an_answer_is_printed_whatever_its_status(self):
        status, out, errors = run("fn", "invoke", "verbs", "--data", "n")
        self.assertEqual((status, out, errors), (70, b"not here\n", "blixard: the function answered 404 Not Found\n"))
        self.assertEqual(run("fn", "invoke", "verbs", "--data", "m"), (0, b"there\n", ""))

    def test_flags_without_effect_are_refused(self):
        for flags, said in ((("--retries", "3"), "--retries goes with --async"), (("--wait",), "--wait goes with --async"),
                            (("--data", "a", "--file", "/dev/null"), "exclude each other"), (("--data", "a", "-"), "exclude each other")):
            status, out, errors = run("fn", "invoke", "verbs", *flags)
            self.assertEqual((status, out), (64, b""), errors)
            self.assertIn(said, errors)

    def test_errors_of_the_node_name_flags_as_they_are_typed(self):
        for words, said in ((("queue", "receive", "q", "--max", "1000"), "--max is 1 to 256"),
                            (("trace", "list", "--since", "yesterday"), "--since yesterday is no time"),
                            (("kv", "delete", "a", "b", "--if-revision", "x"), "--if-revision x is no number"),
                            (("stream", "create", "s", "--retention-bytes", "1KiB"), "--retention-bytes is 1 MiB to 64 GiB"),
                            (("fn", "deploy", "verbs", self.path, "--tmp-max", "1GiB"), "--tmp-max is 1 GiB; it must be from 0 bytes to 512 MiB"),
                            (("fn", "deploy", "verbs", self.path, "--queue", "99999"), "--queue is 99999; it must be from 0 to 65536"),
                            (("fn", "deploy", "verbs", self.path, "--timeout", "0"), "--timeout is 0 ms; it must be from 1 ms to 15 min")):
            status, _, errors = run(*words)
            self.assertEqual(status, 64, errors)
            self.assertIn(f"blixard: {said}", errors)

    def test_logs_show_and_follow(self):
        run("fn", "invoke", "verbs", "--data", "a")
        status, out, _ = run("fn", "logs", "verbs", "--tail", "1")
        self.assertEqual(status, 0)
        self.assertRegex(out.decode(), r"^\S+ warn  [0-9a-f]{8} got 97\n$")
        follower = subprocess.Popen([BLIXARD, "fn", "logs", "verbs", "-f", "--tail", "1"], env=node.env,
                                    stdout=subprocess.PIPE, text=True)
        try:
            self.assertIn("got", follower.stdout.readline())
            run("fn", "invoke", "verbs", "--data", "b")
            self.assertIn("got 98", follower.stdout.readline())
            follower.stdout.close()  # as `| head` does: the next line ends it
            run("fn", "invoke", "verbs", "--data", "c")
            self.assertEqual(follower.wait(timeout=60), 0)
        finally:
            follower.kill()
            follower.wait(timeout=60)

    def test_logs_are_followed_from_now_on(self):
        """Goal: --tail 0 shows what comes and nothing of what is there.  Method: lines until the first one comes through; it is none of the first call."""
        run("fn", "invoke", "verbs", "--data", "a")
        follower = subprocess.Popen([BLIXARD, "fn", "logs", "verbs", "-f", "--tail", "0"], env=node.env, stdout=subprocess.PIPE, text=True)
        try:
            while not select.select([follower.stdout], [], [], 0.1)[0]:
                self.assertEqual(run("fn", "invoke", "verbs", "--data", "b")[0], 0)
            self.assertIn("got 98", follower.stdout.readline())
        finally:
            follower.kill()
            follower.wait(timeout=60)

    def test_versions_aliases_and_deletion(self):
        self.assertEqual(run("fn", "deploy", "many", self.path)[0], 0)
        self.assertEqual(run("fn", "deploy", "many", self.path)[0], 0)
        self.assertEqual(len(json.loads(run("fn", "versions", "many", "-o", "json")[1])["versions"]), 2)
        self.assertEqual(run("fn", "alias", "set", "many", "live", "1")[1], b"many:live is version 1\n")
        self.assertEqual(json.loads(run("fn", "get", "many", "-o", "json")[1])["live"], 1)
        status, _, errors = run("fn", "delete", "many", "1")
        self.assertNotEqual(status, 0)
        self.assertIn("alias points to this version", errors)
        self.assertEqual(run("fn", "delete", "many", "2")[1], b"deleted version 2 of many\n")
        run("trigger", "create", "hourly", "--kind", "cron", "--schedule", "@every 1h", "--function", "many")
        status, _, errors = run("trigger", "update", "hourly", "--batch-size", "1")  # which it has
        self.assertEqual((status, "say what to change" in errors), (64, True), errors)
        status, output, errors = run("fn", "delete", "many", "-o", "json")
        self.assertEqual(json.loads(output), {"deleted": "many"})
        self.assertEqual(errors, "trigger hourly still is for it: `blixard trigger delete hourly`, or deploy it again\n")
        run("trigger", "delete", "hourly")
        self.assertEqual(run("fn", "get", "many")[0], 66)

    def test_a_project_has_things_of_its_own(self):
        def said(*arguments, project=None):
            status, out, errors = run(*arguments, env={"BLIXARD_PROJECT": project} if project else None)
            self.assertEqual(status, 0, errors)
            return out.decode()

        self.assertIn("own version 1 is live", said("fn", "deploy", "own", self.path, "--project", "first"))  # nothing else is in it
        said("queue", "create", "orders", "--project", "shop")
        self.assertIn("orders", said("queue", "list", project="shop"))
        self.assertNotIn("orders", said("queue", "list"))
        self.assertNotIn("orders", said("queue", "list", "--project", "default", project="shop"))  # the flag goes first
        said("kv", "set", "who/am", "shop", "--ttl", "1h", project="shop")  # beside what a verb itself puts behind the ?
        self.assertIn("who/am", said("kv", "list", "who", "--project=shop"))
        self.assertNotIn("who/am", said("kv", "list", "who"))
        self.assertIn("blixard route set", said("fn", "deploy", "own", self.path, "--project", "shop"))
        self.assertEqual(said("fn", "invoke", "own", "--data", "a", project="shop"), "answer\n")
        self.assertEqual(run("fn", "invoke", "own", "--data", "a")[0], 66)
        self.assertIn("blixard quota set shop", run("quota", "show", "shop")[2])  # what there is not says how it is made
        self.assertIn("blixard route list", run("route", "get", "nobody")[2])
        status, _, errors = run("queue", "list", "--project", "No")
        self.assertEqual((status, '"No" is no name of a project' in errors), (64, True), errors)

    def test_operations_can_be_waited_for(self):
        status, out, _ = run("fn", "deploy", "later", self.path, "--no-wait", "-o", "json")
        self.assertEqual(status, 0)
        operation = json.loads(out)["operation"]
        status, out, errors = run("operation", "wait", operation, "-o", "json")
        self.assertEqual((status, json.loads(out)["state"]), (0, "succeeded"), errors)
        self.assertIn(operation.encode(), run("operation", "list")[1])
        self.assertRegex(run("operation", "get", operation)[1].decode(), r"(?m)^state +succeeded$")

    def test_a_module_that_is_none_fails_with_the_reason(self):
        path = pathlib.Path(folder.name) / "text.wasm"
        path.write_text("not wasm")
        status, out, errors = run("fn", "deploy", "bad", path)
        self.assertEqual((status, out), (64, b""), errors)
        self.assertIn("not", errors)

    def test_events_begin_where_told(self):
        index = json.loads(run("node", "show", "-o", "json")[1])["store_index"]
        events = subprocess.Popen([BLIXARD, "events", "--index", str(index)], env=node.env, stdout=subprocess.PIPE, text=True)
        try:
            run("fn", "alias", "set", "verbs", "probe", "1")
            event = json.loads(events.stdout.readline())
            while "probe" not in event["key"]:
                event = json.loads(events.stdout.readline())
            self.assertEqual((event["table"], event["change"]), ("alias", "insert"))
            self.assertGreater(event["index"], index)
        finally:
            events.terminate()
            events.stdout.close()
            events.wait(timeout=60)
