"""Each SDK, by one and the same list of claims: test/guests/sdk/LANGUAGE answers what is asked of it."""
import http.client
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

from node import BUILD, QUICK, Node
from registry import need_registry
from web import Web

PLAIN_ONLY = "the time goes to compilers"

ROOT = pathlib.Path(__file__).resolve().parents[2]
node = None
folder = None
web = None


def setUpModule():
    global node, folder, web
    folder = tempfile.TemporaryDirectory(prefix="blixard-sdk-")
    node = Node(arguments=QUICK)
    value = pathlib.Path(folder.name) / "value"
    value.write_text("very secret")
    for name in ("sdk-token", "sdk-other"):
        node.cli("secret", "set", name, "--from-file", value)
    node.cli("queue", "create", "jobs")
    node.cli("stream", "create", "events")


    web = Web()


def tearDownModule():
    node.stop()
    web.stop()
    folder.cleanup()


class Claims:
    language = None
    source = "sdk"
    needs_npm = False

    @classmethod
    def setUpClass(cls):
        if cls.needs_npm:
            need_registry("the compiler or the engine")
        cls.project = pathlib.Path(folder.name) / cls.__name__.lower()
        shutil.copytree(ROOT / "test" / "guests" / cls.source / cls.language, cls.project)
        cls.prepare()
        cls.name = cls.__name__.lower()
        for name in (cls.name, "other"):
            node.cli("fn", "deploy", name, cls.project, "--allow", "127.0.0.1", "--secret", "TOKEN=sdk-token")

    @classmethod
    def prepare(cls):
        pass

    def ask(self, path, method="GET", body=None, fields=None, name=None):
        host, port = node.gateway.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request(method, f"/fn/{name or self.name}{path}", body, headers=fields or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer
        finally:
            connection.close()

    def lines(self, path, **options):
        status, text, _ = self.ask(path, **options)
        self.assertEqual(status, 200, text + node.cli("fn", "logs", self.name))
        return text.splitlines()

    def test_a_request_is_read_and_answered(self):
        status, text, answer = self.ask("/request?a=b&name=Ada+%C3%A9%26", "PATCH", b"12345", {"X-One": "eins"})
        self.assertEqual((status, answer.getheader("X-Answer")), (201, "yes"))
        self.assertEqual(text.splitlines(), ["PATCH /request a=b&name=Ada+%C3%A9%26", '"Ada é&" true', '"eins" true', "5"])

    def test_facts(self):
        lines = self.lines("/facts", fields={"X-Request-Id": "my-request"})
        self.assertRegex(lines.pop(2), r"^\d+$")
        self.assertEqual(lines, ["default", self.name, "my-request", "55", "true"])

    def test_keys_and_values(self):
        for key in node.cli("kv", "list", "k/", "--output", "json").split('"'):
            if key.startswith("k/"):
                node.cli("kv", "delete", key)
        self.assertEqual(self.lines("/kv"), [
            "none true", "get true", "lost true", "won true", "update x", "update xx", "long 100000",
            "list k/one k/three k/two", "after k/three", "stale false", "delete true false"])

    def test_messages_and_records(self):
        lines = self.lines("/send")
        self.assertRegex(lines[1], r"^record \d+$")
        self.assertEqual([lines[0], lines[2]], ["message true", "nowhere 44 true"])
        message = json.loads(node.cli("queue", "receive", "jobs", "--ack", "--output", "json"))["messages"][0]
        self.assertEqual((message["body"], message["content_type"], message["attributes"]["kind"], message["priority"]),
                         ('{"a":1}', "application/json", 'a "b"', 3))
        records = [record for partition in range(4) for record in json.loads(node.cli(
            "stream", "read", "events", "--partition", partition, "--output", "json"))["records"]]
        self.assertIn(("record", "ada", "c"), [(r["body"], r["key"], r["attributes"]["kind"]) for r in records])

    def test_functions_are_called(self):
        self.assertEqual(self.lines("/call"), ["201 yes", "PUT /request name=a%20b", '"a b" true', '"1" true', "5", "nobody 44"])

    def test_other_servers_are_asked(self):
        self.assertEqual(self.lines(f"/fetch?{web.url}"), [
            "201 eins GET /plain?a=b - -", "201 POST /plain hello mine", "3000000", "not_allowed"])

    def test_secrets_are_those_of_the_configuration(self):
        self.assertEqual(self.lines("/secret"), ["very secret 2"])

    def test_spans(self):
        trace = os.urandom(16).hex()
        self.assertEqual(self.lines("/span", fields={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}), ["done"])
        deadline = time.monotonic() + 10
        spans = {}
        while "outer" not in spans:
            self.assertLess(time.monotonic(), deadline)
            spans = {span["name"]: span for span in node.json(f"/v1/traces/{trace}")["spans"]}
        self.assertEqual(spans["inner"]["parent"], spans["outer"]["id"])

    def test_a_body_goes_out_in_pieces(self):
        host, port = node.gateway.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.putrequest("POST", f"/fn/{self.name}/pieces")
        connection.putheader("Content-Length", str((1 << 17) + 7))
        connection.endheaders()
        connection.send(b"x" * (1 << 17))
        answer = connection.getresponse()  # before the body is whole
        self.assertEqual(answer.read(6), b"first\n")
        connection.send(b"x" * 7)
        self.assertEqual(answer.read(), b"131079\n")
        connection.close()

    def test_a_log_line_has_fields(self):
        self.assertEqual(self.ask("/log")[0], 204)
        self.assertIn(r'careful who=me what="a \"word\""', node.cli("fn", "logs", self.name))

    def test_an_error_is_a_500_and_its_reason_is_in_the_log(self):
        for path, reason in (("/fail", "a reason"), ("/header", "is not a header field")):
            status, text, _ = self.ask(path)
            self.assertEqual((status, text), (500, "the function failed; its log says why\n"))
            self.assertIn(reason, node.cli("fn", "logs", self.name))


class Signed:
    """Of languages whose times may be negative."""

    def test_a_time_to_live_that_is_over_keeps_nothing_for_good(self):
        self.lines("/kv")
        for over in json.loads(node.cli("kv", "list", "over", "-o", "json"))["keys"]:
            self.assertIsNotNone(over["expires_at"])


class Cpp(Claims, Signed, unittest.TestCase):
    language = "cpp"

    def test_the_host_is_not_there_before_the_first_request(self):
        self.assertEqual(self.lines("/early"), ["63"])


class Rust(Claims, unittest.TestCase):
    """With rustc alone."""
    language = "rust"


class RustCargo(Claims, unittest.TestCase):
    """With cargo, by the template's Cargo.toml."""
    language = "rust"

    @classmethod
    def prepare(cls):
        text = (ROOT / "sdk/templates/rust/Cargo.toml").read_text()
        (cls.project / "Cargo.toml").write_text(text.replace("@NAME@", "anything"))


class AssemblyScript(Claims, unittest.TestCase):
    language = "assemblyscript"
    needs_npm = True

    def test_a_value_that_is_not_there_ends_the_function(self):
        self.assertEqual(self.ask("/throw")[0], 502)
        self.assertIn("nowhere", node.cli("fn", "logs", self.name))


class JavaScript(Claims, Signed, unittest.TestCase):
    language = "javascript"
    needs_npm = True

    def test_an_error_is_a_500_and_its_reason_is_in_the_log(self):
        """Here what nobody catches is the engine's: a 502."""
        self.assertEqual(self.ask("/fail")[0], 502)
        self.assertIn("Error: a reason", node.cli("fn", "logs", self.name))

    def test_a_time_with_a_unit_is_refused(self):
        self.assertEqual(self.ask("/units")[0], 502)
        self.assertIn('TypeError: "10m" is no number', node.cli("fn", "logs", self.name))

    def test_a_script_that_cannot_be_loaded_says_why(self):
        project = pathlib.Path(folder.name) / "unloadable"
        project.mkdir()
        (project / "blixard.yaml").write_text("name: unloadable\nlanguage: javascript\n")
        (project / "main.js").write_text('import { nothing } from "blixard";\nexport default () => nothing;\n')
        done = subprocess.run([BUILD / "blixard", "fn", "deploy", "unloadable", project], env=node.env, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 70, done.stderr)
        self.assertRegex(done.stderr, "initialisation failed: .*; it wrote: .*SyntaxError: Could not find export 'nothing'")

    def test_scripts_find_what_the_web_has(self):
        """The script looks for itself: see there."""
        node.cli("fn", "deploy", "web-interfaces", shutil.copytree(ROOT / "test/guests/web", pathlib.Path(folder.name) / "web-interfaces"))
        for _ in range(2):  # the second finds what the first has left in the instance
            status, text, _ = self.ask("/", "POST", b"hello world!", {"Content-Type": "text/plain", "X-Empty": ""}, name="web-interfaces")
            self.assertEqual((status, json.loads(text)), (200, {"tests": 9, "failures": []}))

    def test_fetch_is_the_web_s(self):
        ask = lambda name: self.lines(f"/web/{name}?{web.url}")
        self.assertEqual(ask("json"), ["true", "true", "false", "PUT", "a=b+c", "application/x-www-form-urlencoded;charset=UTF-8"])
        web.go.clear()
        self.assertEqual(ask("together"), ["0", "1", "2", "3"])
        self.assertEqual(ask("redirect"), ["true", "true", "false", "302", "/plain", "redirect"])
        self.assertEqual(ask("many"), [" ".join(map(str, range(20)))])
        self.assertEqual(ask("abort"), ["AbortError", "TimeoutError", "AbortError", "201"])
        self.assertEqual(ask("wrong"), ["invalid", "", "closed", "protocol", "invalid", "closed", "TypeError"])

    def test_a_response_is_passed_on_as_it_comes(self):
        web.go.clear()
        host, port = node.gateway.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("GET", f"/fn/{self.name}/through?{web.url}/pieces")
        answer = connection.getresponse()
        self.assertEqual(answer.read(6), b"first\n")
        web.go.set()
        self.assertEqual(answer.read(), b"second\n")
        connection.close()
        status, text, _ = self.ask(f"/through?{web.url}/plain", "POST", b"body", {"X-Mine": "yes"})
        self.assertEqual((status, text), (201, "POST /plain body yes"))

    def test_the_host_is_not_there_while_the_script_is_loaded(self):
        self.assertEqual(self.lines("/early"), ["EPERM"])


class Cargo(unittest.TestCase):
    """Projects with a Cargo.toml, as cargo allows them."""

    def project(self, name, manifest="", **files):
        project = pathlib.Path(folder.name) / f"cargo-{name}"
        (project / "src/bin").mkdir(parents=True)
        (project / "Cargo.toml").write_text(f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n{manifest}\n[workspace]\n')
        (project / "blixard.yaml").write_text("name: wanted\n")
        (project / "src/main.rs").write_text('fn main() { print!("main") }\n')
        for path, text in files.items():
            (project / path.replace("__", "/")).with_suffix(".rs").write_text(text)
        return project

    def build(self, project, **env):
        return subprocess.run([BUILD / "blixard", "fn", "build", project], env={**node.env, **env}, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def answer(self, project):
        node.cli("fn", "deploy", "cargo", project)
        return node.invoke("cargo")

    def test_of_several_programs_the_one_named_like_the_function_is_meant(self):
        several = self.project("several", src__bin__wanted='fn main() { print!("wanted") }\n')
        self.assertEqual(self.answer(several), "wanted")
        (several / "src/bin/wanted.rs").rename(several / "src/bin/another.rs")
        done = self.build(several)
        self.assertEqual(done.returncode, 64)
        self.assertIn('cargo made 2 programs, and none is named "wanted"', done.stdout)

    def test_what_cargo_runs_while_building_is_no_program_of_it(self):
        project = self.project("scripted", build='fn main() { println!("cargo:rustc-env=MADE=made"); }\n',
                               src__main='fn main() { print!("{}", env!("MADE")) }\n')
        self.assertEqual(self.answer(project), "made")

    def test_a_broken_program_shows_the_compilers_words(self):
        done = self.build(self.project("broken", src__main="fn main() { missing() }\n"))
        self.assertEqual(done.returncode, 64)
        self.assertIn("cannot find function `missing`", done.stdout)
        self.assertIn("building failed: cargo ended with status 101", done.stdout)

    def test_without_cargo_its_package_is_named(self):
        project = self.project("alone")
        tools = pathlib.Path(folder.name) / "tools"
        tools.mkdir()
        (tools / "rustc").write_text('#!/bin/sh\nexec /usr/bin/rustc "$@"\n')
        (tools / "rustc").chmod(0o755)
        done = self.build(project, PATH=str(tools))
        self.assertEqual(done.returncode, 65, done.stdout)
        self.assertIn("apt-get install cargo", done.stdout)


class Headers(unittest.TestCase):
    """blixard.h is C17 and C++17, blixard.hpp C++17 and C++20, without a warning."""

    def check(self, compiler, header, language, standard):
        if shutil.which(compiler) is None:
            self.skipTest(f"{compiler} is missing")
        text = f'#include "{header}"\nBLIXARD_HANDLER {{ blixard_response_text("x"); }}\n'
        done = subprocess.run(
            [compiler, "--target=wasm32-wasi", f"-std={standard}", "-Werror", "-Wall", "-Wextra", "-pedantic", "-Wshadow", "-Wconversion",
             "-Wcast-qual", "-fno-exceptions", "-fsyntax-only", "-I", ROOT / "sdk/c", "-x", language, "-"],
            input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_c17(self):
        self.check("clang-14", "blixard.h", "c", "c17")

    def test_cpp17(self):
        for header in ("blixard.h", "blixard.hpp"):
            for standard in ("c++17", "c++20"):
                self.check("clang++-14", header, "c++", standard)


class Pages(unittest.TestCase):
    """The first program of a language's page is whole."""

    def build(self, page, fence, path, language):
        text = (ROOT / "docs/user-guide/languages" / page).read_text()
        project = pathlib.Path(folder.name) / f"page-{language}"
        (project / path).parent.mkdir(parents=True)
        (project / path).write_text(re.search(rf"^```{fence}\n(.*?)^```", text, re.S | re.M)[1])
        node.cli("fn", "build", project)

    def test_c(self):
        self.build("c.md", "c", "main.c", "c")
        node.cli("fn", "deploy", "page-c", pathlib.Path(folder.name) / "page-c")
        self.assertEqual([node.invoke("page-c") for _ in range(2)], ["1", "2"])

    def test_cpp(self):
        self.build("c.md", "cpp", "main.cpp", "cpp")

    def test_rust(self):
        self.build("rust.md", "rust", "src/main.rs", "rust")

    def test_assemblyscript(self):
        need_registry("the compiler")
        self.build("assemblyscript.md", "ts", "assembly/index.ts", "assemblyscript")

    def test_javascript(self):
        need_registry("the engine")
        self.build("javascript.md", "js", "main.js", "javascript")
        node.cli("queue", "create", "newcomers")
        node.cli("fn", "deploy", "page", pathlib.Path(folder.name) / "page-javascript")
        for count in (1, 2):
            self.assertEqual(json.loads(node.invoke("page")), {"text": "Hello, world!", "count": count})


if __name__ == "__main__":
    unittest.main()
