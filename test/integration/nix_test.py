"""The NixOS module, the flake and what is declared in them, by Nix itself and a stand-in of nixpkgs (test/nix)."""
import base64
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import unittest

from nixos import NIX, Evaluation, Switched, need_nix
from node import BUILD, ROOT, Node
from ports import free_ports
from registry import need_registry
from shows import compile_guest

PLAIN_ONLY = "what is tried are programs beside ours"

BLIXARD = BUILD / "blixard"
SYSTEM = "x86_64-linux"


def setUpModule():
    need_nix()


def golden(case):
    """One text of all that is rendered."""
    parts = [case["units"][name].rstrip() for name in sorted(case["units"])]
    for name in sorted(case["scripts"]):
        for part in ("script", "preStop"):
            if case["scripts"][name][part]:
                parts.append(f"# {name}: {part}\n{case['scripts'][name][part].rstrip()}")
    parts += [f"# /etc/{name}\n{case['files'][name].rstrip()}" for name in sorted(case["files"])]
    parts.append("# host\n" + json.dumps(case["host"], indent=1, sort_keys=True))
    parts += [f"# warning: {text}" for text in case["warnings"]]
    return "\n\n".join(parts) + "\n"


class Module(Evaluation):
    def golden(self, case):
        """As where the store is the usual one."""
        text = golden(case).replace(self.env["NIX_STORE_DIR"], "/nix/store")
        return re.sub(r"(?m)^(Triggers=).*", lambda m: m[1] + " ".join("HASH" for _ in m[0].split()), text)

    def test_every_file_parses(self):
        files = [path for folder in ("nix", "test/nix", "docs/examples") for path in (ROOT / folder).rglob("*.nix")]
        self.assertGreater(len(files), 20)
        self.nix("nix-instantiate", "--parse", ROOT / "flake.nix", *files)

    def test_the_stand_in_of_lib_is_as_it_is_claimed_to_be(self):
        claims = self.value(f"import {NIX}/lib/test.nix")
        self.assertGreater(len(claims), 15)
        self.assertEqual([name for name, holds in claims.items() if holds is not True], [])

    def test_units_and_files_are_the_golden_ones(self):
        for path in sorted((NIX / "cases").glob("*.nix")):
            with self.subTest(path.stem):
                case = self.rendered(path.stem)
                self.assertEqual(case["failed"], [])
                kept = NIX / "golden" / f"{path.stem}.txt"
                if os.environ.get("BLIXARD_WRITE_GOLDEN"):
                    kept.write_text(self.golden(case))
                self.maxDiff = None
                self.assertEqual(self.golden(case), kept.read_text())

    def test_the_daemon_takes_the_configuration_that_is_rendered(self):
        for path in sorted((NIX / "cases").glob("*.nix")):
            config = self.scratch / f"{path.stem}.yaml"
            config.write_text(self.rendered(path.stem)["files"]["blixard/blixard.yaml"])
            done = subprocess.run([BLIXARD, "server", "--config", config, "--check-config"], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=60)
            self.assertEqual((done.returncode, done.stdout), (0, "the configuration is good\n"))

    def test_a_guest_begins_its_agent_when_all_else_is_up(self):
        seen = self.value(f"import {NIX}/eval.nix {{ of = {ROOT}/nix/guest.nix; module = {NIX}/guest.nix; }}")
        self.assertEqual((list(seen["units"]), seen["failed"], seen["host"]["kernelModules"]), (["blixard-agent"], [], ["virtio_console"]))
        unit = seen["units"]["blixard-agent"]
        for line in ("After=multi-user.target", "WantedBy=multi-user.target", "Restart=always", "KillMode=process", "OOMScoreAdjust=-900"):
            self.assertIn(f"\n{line}\n", unit + "\n")
        self.assertRegex(unit, r"(?m)^ExecStart=/\S+-agent/bin/blixard-agent$")

    def test_systemd_knows_every_word_of_the_units(self):
        """Programs are those of this machine; lines of the golden text that are no systemd's are left out."""
        if shutil.which("systemd-analyze") is None:
            self.skipTest("there is no systemd-analyze")
        ours = ("Path=", "Triggers=", "restartIfChanged=", "startAt=", "#")
        for path in sorted((NIX / "cases").glob("*.nix")):
            folder = self.scratch / f"units-{path.stem}"
            folder.mkdir()
            for name, text in self.rendered(path.stem)["units"].items():
                text = re.sub(r"/nix/store/[^/ ]*-blixard/bin/blixard", str(BLIXARD), text).replace("[Service]", "[Service]\nExecStart=/bin/true", name != "blixard")
                text = re.sub(r"/nix/store/[^/ ]*/bin/kill", "/bin/kill", text)
                (folder / f"{name}.service").write_text("\n".join(line for line in text.splitlines() if not line.startswith(ours)))
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", *sorted(folder.iterdir())], text=True, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
            said = [line for line in done.stdout.splitlines() if str(folder) in line or line.startswith("blixard")]
            self.assertEqual(said, [])

    def test_scripts_pass_the_check_that_nixos_may_put_them_through(self):
        """systemd.enableStrictShellChecks."""
        if shutil.which("shellcheck") is None:
            self.skipTest("there is no shellcheck")
        strict = "#!/bin/bash\nset -o errexit\nset -o nounset\nset -o pipefail\n"
        for path in sorted((NIX / "cases").glob("*.nix")):
            for name, parts in self.rendered(path.stem)["scripts"].items():
                for text in filter(None, parts.values()):
                    done = subprocess.run(["shellcheck", "-"], input=strict + text, text=True, stdout=subprocess.PIPE, timeout=60)
                    self.assertEqual((name, done.stdout), (name, ""))

    def test_what_cannot_be_is_refused_with_its_reason(self):
        machine = "machines.m = { image = \"i\"; interfaces = [ \"n\" ]; "
        for words, said in (
                ("cluster.bootstrap = true; cluster.joinTokenFile = \"/run/keys/t\";", "it cannot do both"),
                ("cluster.joinAddresses = [ \"a:1\" ];", "nothing says why this node should be let in"),
                ("cluster.servers = 4;", "an even number of servers"),
                ("cluster.bootstrap = true; role = \"worker\";", "its first server"),
                ("nodeName = \"One\";", "names of nodes are small letters"),
                ("settings.gateway_adress = \"127.0.0.1:1\";", "`settings.gateway_adress` is no option of the daemon; there are"),
                ("gateway.tls.keyFile = \"/run/keys/k\";", "HTTPS needs both"),
                ("cluster.joinTokenFile = \"${builtins.storeDir}/x\";", "is in the Nix store"),
                ("secrets.s.file = \"${builtins.storeDir}/x\";", "`secrets.s.file` is in the Nix store"),
                ("machines.m = { };", "exactly one of `image`, `runner`, `flake` and `config`; it has 0"),
                ("machines.m = { image = \"i\"; runner = \"/nix/store/x\"; };", "exactly one of"),
                (machine + "hypervisor = \"firecracker\"; };", "which is not among `hypervisors`"),
                ("hypervisors = [ \"firecracker\" ]; " + machine + "hypervisor = \"firecracker\"; shares = [ \"/a:/b\" ]; };", "Firecracker has no shares"),
                ("hypervisors = [ \"firecracker\" ]; " + machine + "hypervisor = \"firecracker\"; cpus = 33; };", "Firecracker has no more than 32 cpus"),
                ("user = \"blixard\"; hypervisors = [ \"firecracker\" ];", "a daemon that is root"),
                (machine + "settings.colour = \"red\"; };", "Machine m: there is no `colour'"),
                (machine + "project = \"Shop\"; };", "`Shop' is no name of a project"),
                ("nixStore.tls = { certificateFile = \"/c\"; keyFile = \"/k\"; };", "have no effect without `nixStore.cacheAddress`"),
                ("nixStore.uploadTokenFile = \"/t\";", "have no effect without `nixStore.cacheAddress`"),
                ("gateway.tls.listenAddress = \"0.0.0.0:443\";", "has no effect without `gateway.tls.certificateFile`"),
                ("metrics.scrape = true;", "without the Prometheus of this host"),
                ("nixStore.substitute = \"k:A\";", "only with `nixStore.cacheAddress`"),
                ("machines.m = { runner = \"/nix/store/x\"; health = \"tcp://:80\"; };", "machines.m.health: a machine with a runner has no disk"),
                ("hypervisors = [ \"firecracker\" ]; machines.m.flake.nixosConfigurations.m.config.microvm = { vcpu = 1; mem = 1; hypervisor = \"firecracker\"; shares = [ 1 ]; declaredRunner = \"/nix/store/x\"; };",
                 "`microvm.shares` must be empty"),
                ("functions.f = { };", "exactly one of `source`, `wasm`, `flake` and `runner`; it has 0"),
                ("functions.f = { runner = \"/nix/store/x\"; };", "nothing says what serves calls in it"),
                ("functions.f = { wasm = \"/nix/store/x\"; aliases.a = { }; };", "either a `version` or `weights`"),
                ("functions.f = { wasm = \"/nix/store/x\"; limits.memori = 1; };", "there is no `memori'"),
                ("functions.f = { wasm = \"/nix/store/x\"; routes.r.path = \"/\"; routes.r.cors.origin = \"*\"; };", "Route f-r.cors: there is no `origin'"),
                ("manifests = [ { kind = \"Queu\"; name = \"q\"; } ];", "there is no kind `Queu'"),
                ("networks.n.settings.mtuu = 1;", "Network n: there is no `mtuu'")):
            with self.subTest(words):
                failed = self.rendered(f"{{ networking.hostName = \"one\"; services.blixard = {{ enable = true; {words} }}; }}")["failed"]
                self.assertTrue(any(said in text for text in failed), failed)

    def test_a_value_out_of_its_range_is_refused_when_the_system_is_built(self):
        for words in ("settings.slots_per_runner = 65;", "settings.body_bytes_max = \"much\";", "role = \"leader\";", "resources.reserved.cpuMillis = -1;"):
            with self.subTest(words):
                said = self.nix("nix-instantiate", "--eval", "--strict", "--json", "--expr",
                                f"import {NIX}/eval.nix {{ module = {{ services.blixard = {{ enable = true; {words} }}; }}; }}", code=1)
                self.assertIn("is not of type", said)

    def test_who_filters_packets_is_told_of_bridges_in_his_own_words(self):
        host = "{ networking.hostName = \"one\"; services.blixard.enable = true; networking.%s; }"
        ports = {"allowedTCPPorts": [53], "allowedUDPPorts": [53, 67]}
        for words, bridges, warned in (("nftables.enable = true", {"bx*": ports}, 0), ("nftables.enable = false", {"bx+": ports}, 0),
                                       ("firewall.backend = \"firewalld\"", {}, 1)):
            case = self.rendered(host % words)
            self.assertEqual((case["host"]["interfaces"], len(case["warnings"])), (bridges, warned))

    def test_a_document_without_a_kind_is_named(self):
        said = self.nix("nix-instantiate", "--eval", "--strict", "--json", "--expr",
                        f"import {NIX}/eval.nix {{ module = {{ services.blixard = {{ enable = true; manifests = [ {{ name = \"q\"; }} ]; }}; }}; }}", code=1)
        self.assertRegex(said, r"services\.blixard\.manifests\..*kind")

    def test_the_reference_of_options_is_the_modules(self):
        for tool in ("nix_options", "nix_tables"):
            done = subprocess.run([ROOT / "tools" / tool, "--check"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
            self.assertEqual(done.returncode, 0, done.stdout)


class Built(Evaluation):
    """A function by Nix: a real build in a store of its own, by the compilers of this machine."""

    # In place of the shell, the programs and the archives that nixpkgs would bring.  Nix ends a builder that has closed its output, as programs do
    # before they end: the shell is to be the last.
    EXPRESSION = r"""
        let
          lib = import %(nix)s/lib;
          pkgs = {
            binaryen = "/usr"; nodejs = "/usr";
            fetchurl = { url, hash }: builtins.path { path = %(archives)s + "/${baseNameOf url}"; };
            runCommand = name: environment: script: derivation ({
              inherit name; system = builtins.currentSystem; builder = "/bin/bash"; args = [ "-euc" "${script}\nexit 0" ];
              PATH = "%(path)s"; BLIXARD_NUMBER = "%(number)s";
            } // removeAttrs environment [ "nativeBuildInputs" ]);
          };
        in
        (import %(root)s/nix/function.nix { inherit lib pkgs; blixard = "%(build)s"; })
          { name = "hello"; %(arguments)s }
    """
    C = "src = %s/nix/templates/function-c; packages = [ ];" % ROOT

    def build(self, *words, number=1, arguments=C, archives="/nowhere", code=0):
        text = self.EXPRESSION % {"nix": NIX, "root": ROOT, "build": BUILD, "path": f"{BUILD}:{os.environ['PATH']}", "number": number,
                                  "arguments": arguments, "archives": archives}
        if code != 0:
            return self.nix("nix", "build", "--impure", "--no-link", "--expr", text, *words, code=code)
        return self.nix("nix", "build", "--impure", "--no-link", "--json", "--expr", text, *words)

    def test_the_function_of_a_template_is_built_twice_to_the_same_bytes_and_runs(self):
        built = pathlib.Path(json.loads(self.build())[0]["outputs"]["out"]) / "hello.wasm"
        self.build("--rebuild")  # compares, and fails when anything differs
        other = pathlib.Path(json.loads(self.build(number=2))[0]["outputs"]["out"]) / "hello.wasm"
        self.assertNotEqual(other, built)
        self.assertEqual(other.read_bytes(), built.read_bytes())
        with Node() as node:
            node.deploy("hello", built)
            done = subprocess.run([BLIXARD, "fn", "invoke", "hello", "--data", "Ada"], env=node.env, text=True, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, check=True, timeout=120)
            self.assertIn("Hello, Ada!", done.stdout)

    def test_the_compiler_of_assemblyscript_is_what_npm_has_and_nothing_else(self):
        need_registry("AssemblyScript")
        said = (ROOT / "nix/function.nix").read_text()
        wanted = re.findall(r'\(unpacked "(\S+)" "(\S+)" "sha512-(\S+)"\)', said)
        asked = re.search(r'\.names = \{"assemblyscript@([0-9.]+)", "@assemblyscript/wasi-shim@([0-9.]+)"\}', (ROOT / "src/surface/cli/build_npm.c").read_text())
        versions = {name: version for name, version, _ in wanted}
        for name, version in (("assemblyscript", asked[1]), ("@assemblyscript/wasi-shim", asked[2])):
            self.assertTrue(versions[name].startswith(version + "."), versions)
        with tempfile.TemporaryDirectory(prefix="blixard-npm-") as folder:
            for name, version, digest in wanted:
                packed = subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=folder, text=True, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, check=True, timeout=300).stdout.strip()
                archive = pathlib.Path(folder) / f"{name.split('/')[-1]}-{version}.tgz"
                (pathlib.Path(folder) / packed).rename(archive)
                self.assertEqual(base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode(), digest, name)
            out = self.build(arguments=f"src = {ROOT}/nix/templates/function-assemblyscript;", archives=folder)
        built = pathlib.Path(json.loads(out)[0]["outputs"]["out"]) / "hello.wasm"
        with Node() as node:
            node.deploy("hello", built)
            self.assertIn("\"characters\": 3", node.invoke("hello", b"Ada"))

    def test_nothing_is_built_while_nix_evaluates(self):
        source = f'derivation {{ name = "source"; system = "{SYSTEM}"; builder = "/bin/sh"; args = [ "-c" "{shutil.which("cp")} -r ${{{ROOT}/nix/templates/function-c}} $out" ]; }}'
        no = ("--option", "allow-import-from-derivation", "false")
        self.assertIn("say its `language`", self.build(*no, arguments=f"src = {source};", code=1))
        self.assertIn("scripts of a function in JavaScript", self.build(*no, arguments=f'src = {source}; language = "javascript";', code=1))
        self.build(*no, arguments=f"src = {source}; packages = [ ];")


class Applied(Switched):
    """What is declared, brought to a node by the script of the unit; a second configuration, and what it has no more."""

    def setUp(self):
        self.node = Node()
        self.addCleanup(self.node.stop)
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-applied-")))
        self.module = compile_guest(self.folder)
        (self.folder / "value").write_text("long-and-secret")
        (self.folder / "secret-default-token").write_text("long-and-secret")
        (self.folder / "secret-shop-token").write_text("another")

    def names(self, collection, project="default"):
        return sorted(o["name"] for o in self.node.json(f"/v1/{collection}?project={project}")[collection.replace("-", "_")])

    FUNCTION = """
        functions.hello = { wasm = "%s"; language = "c"; env.GREETING = "%s"; secrets.TOKEN = "token"; limits.memory = "64MiB"; limits.timeout = "5s";
          triggers.nightly = { kind = "cron"; settings.schedule = "0 3 * * *"; }; routes.all = { path = "/hello"; methods = [ "GET" ]; };
          aliases.stable.version = 1; };
        secrets.token.file = "/run/keys/token";
        networks.back.subnet = "10.77.0.0/24";
        storage.volumes.data = { size = "64MiB"; node = null; settings.filesystem = "none"; };
        manifests = [ { kind = "Queue"; name = "orders"; spec.visibility = "45s"; } ];
        preseed.quotas.shop.functions = 3;
    """

    def test_what_is_declared_no_more_is_gone_and_the_rest_changed(self):
        shop = "secrets.other = { project = \"shop\"; file = \"/run/keys/other\"; }; preseed.projects.shop.objects.Stream.log.partitions = 1;"
        (self.folder / "secret-shop-other").write_text("another")
        subprocess.run([BLIXARD, "queue", "create", "by-hand"], env=self.node.env, check=True, stdout=subprocess.DEVNULL, timeout=60)
        self.switch(self.FUNCTION % (self.module, "hi") + shop)
        self.assertEqual(self.node.json("/v1/functions/hello")["version"]["environment"], {"GREETING": "hi"})
        self.assertEqual(self.node.json("/v1/queues/orders")["visibility_ms"], 45000)
        self.assertEqual(self.names("routes"), ["hello-all"])
        self.assertEqual(self.names("streams", "shop"), ["log"])
        self.assertEqual(self.names("secrets", "shop"), ["other"])
        # The same again changes nothing.
        self.assertIn("Done: 0 changed.", self.switch(self.FUNCTION % (self.module, "hi") + shop))
        self.assertEqual(self.node.json("/v1/functions/hello")["version"]["number"], 1)
        # Another value, and no shop: its file is gone, and so is what was in it.
        self.switch(self.FUNCTION % (self.module, "ho"))
        self.assertEqual(self.node.json("/v1/functions/hello")["version"]["environment"], {"GREETING": "ho"})
        self.assertEqual(self.names("streams", "shop"), [])
        # Nothing at all but what was made by hand.
        self.switch("")
        self.assertEqual(self.node.json("/v1/functions")["functions"], [])
        self.assertEqual(self.node.json("/v1/networks")["networks"], [])
        self.assertEqual(self.names("queues"), ["by-hand"])

    def test_what_is_refused_fails_the_unit_and_is_tried_again(self):
        self.switch("manifests = [ { kind = \"Trigger\"; name = \"t\"; spec = { kind = \"cron\"; function = \"none\"; settings.schedule = \"0 3 * * *\"; }; } { kind = \"Stream\"; name = \"log\"; } ];", code=66)
        self.assertEqual(self.names("streams"), ["log"])
        self.switch("")
        self.assertEqual(self.names("streams"), [])


class Hosts(Evaluation):
    """Two hosts that become a cluster: real daemons by the files that are rendered, real scripts of the units."""

    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="blixard-hosts-")))

    def start(self, name, words):
        """A host called so, its daemon started and ready; returns what is rendered."""
        api, port, gateway = free_ports(3)
        case = self.rendered(f"""{{ networking.hostName = "{name}"; services.blixard = {{ enable = true; dataDir = "{self.folder}/{name}-data";
            api.listenAddress = "127.0.0.1:{api}"; raft.listenAddress = "127.0.0.1:{port}"; advertiseAddress = "127.0.0.1:{port}";
            gateway.listenAddress = "127.0.0.1:{gateway}"; {words} }}; }}""")
        self.assertEqual(case["failed"], [])
        (self.folder / f"{name}.yaml").write_text(case["files"]["blixard/blixard.yaml"])
        self.run_daemon(name)
        return case, f"127.0.0.1:{port}"

    def run_daemon(self, name):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(self.folder / f"{name}-notify"))
            notify.settimeout(120)
            with (self.folder / f"{name}.log").open("wb") as log:
                daemon = subprocess.Popen([BLIXARD, "server", "--config", self.folder / f"{name}.yaml"], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                          env={**os.environ, "NOTIFY_SOCKET": str(self.folder / f"{name}-notify")})
            self.addCleanup(daemon.wait)
            self.addCleanup(daemon.terminate)
            self.daemons = {**getattr(self, "daemons", {}), name: daemon}
            while b"READY=1" not in notify.recv(4096):
                pass
        (self.folder / f"{name}-notify").unlink()
        return daemon

    def unit(self, case, name, unit, part="script"):
        """The script of a unit of this host, beside a systemctl that says that the host goes down."""
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "systemctl").write_text("#!/bin/sh\necho stopping\n")
        (programs / "systemctl").chmod(0o755)
        manifests, state = self.folder / f"{name}-manifests", self.folder / f"{name}-state"
        manifests.mkdir(exist_ok=True)
        state.mkdir(exist_ok=True)
        for file, text in case["files"].items():
            if file.startswith("blixard/manifests/"):
                (manifests / pathlib.Path(file).name).write_text(text)
        env = {**os.environ, "PATH": f"{BUILD}:{programs}:{os.environ['PATH']}", "BLIXARD_ADDR": f"unix:{self.folder}/{name}-data/api.sock",
               "BLIXARD_MANIFESTS": str(manifests), "STATE_DIRECTORY": str(state)}
        done = subprocess.run(["bash", "-e", "-c", case["scripts"][unit][part]], env=env, text=True, cwd=self.folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def cli(self, name, *words):
        return subprocess.run([BLIXARD, *words, "--addr", f"unix:{self.folder}/{name}-data/api.sock"], text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, check=True, timeout=120).stdout

    def test_one_begins_a_cluster_and_another_joins_as_it_is_declared(self):
        one, address = self.start("one", "cluster.bootstrap = true; cluster.name = \"home\"; cluster.failureDomain = \"a\"; cluster.labels.disk = \"ssd\";")
        self.assertIn("home", self.unit(one, "one", "blixard-bootstrap"))
        self.assertEqual(self.unit(one, "one", "blixard-bootstrap"), "")  # it is in one
        self.unit(one, "one", "blixard-apply")
        token = self.folder / "token"
        token.write_text(json.loads(self.cli("one", "node", "token", "create", "--output", "json"))["token"])
        two, _ = self.start("two", f"""role = "worker"; cluster.labels.disk = "hdd"; cluster.joinTokenFile = "/run/keys/token";
            cluster.joinAddresses = [ "{address}" ]; settings.join_token_file = "{token}"; manifests = [ {{ kind = "Queue"; name = "orders"; }} ];
            drainOnShutdown = true;""")
        self.unit(two, "two", "blixard-apply")
        nodes = {n["name"]: n for n in json.loads(self.cli("two", "node", "list", "--output", "json"))["nodes"]}
        self.assertEqual({name: (n["wanted_role"], n["labels"]) for name, n in nodes.items()},
                         {"one": ("server", {"disk": "ssd"}), "two": ("worker", {"disk": "hdd"})})
        self.assertEqual(nodes["one"]["failure_domain"], "a")
        self.assertIn("orders", self.cli("one", "queue", "list"))
        # Each prunes what is its own.
        self.unit(one, "one", "blixard-apply")
        self.assertIn("orders", self.cli("one", "queue", "list"))
        # The host goes down, and is back.
        self.unit(two, "two", "blixard-drain", "preStop")
        self.assertIsNotNone(json.loads(self.cli("one", "node", "show", "two", "--output", "json"))["drain"])
        self.unit(two, "two", "blixard-drain")
        self.assertIsNone(json.loads(self.cli("one", "node", "show", "two", "--output", "json")).get("drain"))
        # The token was used once: what systemd has instead of a file that is no more will do.
        self.assertIn("\nSetCredential=join-token:\\n\n", two["units"]["blixard"])
        self.daemons["two"].terminate()
        self.daemons["two"].wait()
        token.write_text("\n")
        self.run_daemon("two")
        self.assertIn("orders", self.cli("two", "queue", "list"))

    def test_the_newest_backups_are_kept(self):
        folder = self.folder / "backup"
        folder.mkdir()
        old = [f"blixard-2020010{day}T000000Z.tar" for day in (1, 2, 3)]
        for name in (*old, "mine.tar"):
            (folder / name).touch()
        case, _ = self.start("one", f"backup = {{ enable = true; keep = 2; directory = \"{folder}\"; }};")
        self.unit(case, "one", "blixard-backup")
        left = sorted(path.name for path in folder.iterdir())
        self.assertEqual((left[0], left[2], len(left)), (old[2], "mine.tar", 3))
        self.assertGreater((folder / left[1]).stat().st_size, 1024)


class Flakes(Evaluation):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if subprocess.run(["git", "rev-parse", "--git-dir"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode != 0:
            raise unittest.SkipTest("this is no git repository, by which the flake is read")
        cls.nixpkgs = cls.scratch / "nixpkgs"
        shutil.copytree(NIX / "nixpkgs", cls.nixpkgs)
        shutil.copytree(NIX / "lib", cls.nixpkgs / "lib")
        shutil.copy(NIX / "nixos.nix", cls.nixpkgs)
        # What is tracked, as it is now: as a flake of a folder, so that a change that is not committed counts, too.
        cls.flake = cls.scratch / "blixard"
        listed = subprocess.run(["git", "ls-files", "-z", "flake.nix", "flake.lock", "nix", "src/LAYERS", "meson.build", "docs/examples"], cwd=ROOT,
                                stdout=subprocess.PIPE, text=True, check=True).stdout.split("\0")
        for name in filter(None, listed):
            target = cls.flake / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)

    def over(self, *names):
        inputs = {"nixpkgs": self.nixpkgs, "blixard": self.flake, "microvm": NIX / "microvm", "fenix": NIX / "fenix", "blixard/nixpkgs": self.nixpkgs}
        return [word for name in names for word in ("--override-input", name, f"path:{inputs[name]}")]

    def attribute(self, flake, path, *names, apply=None):
        words = ["nix", "eval", "--json", f"path:{flake}#{path}", *self.over(*names), "--no-write-lock-file"]
        return json.loads(self.nix(*words, *(["--apply", apply] if apply else [])))

    def test_the_flake_has_what_it_promises(self):
        self.nix("nix", "flake", "check", "--no-build", f"path:{self.flake}", *self.over("nixpkgs"), "--no-write-lock-file")
        names = {
            f"packages.{SYSTEM}": ["agent", "blixard", "default", "runner"], "overlays": ["default"],
            f"devShells.{SYSTEM}": ["default"], "nixosModules": ["agent", "blixard", "default", "function"], f"checks.{SYSTEM}": ["build", "cluster", "module"],
            f"apps.{SYSTEM}": ["blixard", "default"],
            "templates": ["cluster", "function-assemblyscript", "function-c", "function-rust", "machine"],
        }
        for path, wanted in names.items():
            self.assertEqual(self.attribute(self.flake, path, "nixpkgs", apply="builtins.attrNames"), wanted)
        have = self.attribute(self.flake, "lib", "nixpkgs", apply="builtins.attrNames")
        self.assertLessEqual({"mkMachine", "mkFunction", "mkCluster", "mkRunnerManifest"}, set(have))

    def test_all_that_is_written_for_users_is_of_the_nixpkgs_that_it_is_made_with(self):
        said = json.loads((self.flake / "flake.lock").read_text())["nodes"]["nixpkgs"]["original"]["ref"]
        texts = [*(ROOT / "nix/templates").rglob("*.nix"), *(ROOT / "docs").rglob("*.nix"), *(ROOT / "docs").rglob("*.md")]
        named = {ref for path in texts for ref in re.findall(r"NixOS/nixpkgs/([a-z0-9.-]+)", path.read_text())}
        states = {version for path in texts for version in re.findall(r'stateVersion = "([0-9.]+)"', path.read_text())}
        self.assertEqual((named, states), ({said}, {said.removeprefix("nixos-")}))

    def test_its_inputs_are_pinned(self):
        lock = json.loads((self.flake / "flake.lock").read_text())
        inputs = lock["nodes"][lock["root"]]["inputs"]
        said = self.value(f"builtins.attrNames (import {self.flake}/flake.nix).inputs")
        self.assertEqual(sorted(inputs), said)
        for name in inputs.values():
            node = lock["nodes"][name]
            self.assertRegex(node["locked"]["rev"], "^[0-9a-f]{40}$")
            self.assertRegex(node["locked"]["narHash"], "^sha256-[A-Za-z0-9+/]{43}=$")
            wanted = "{owner}/{repo}/{ref}".format(**node["original"])
            self.assertEqual(self.value(f"(import {self.flake}/flake.nix).inputs.{name}.url"), f"github:{wanted}")

    def test_the_nodes_of_the_vm_test_are_configurations(self):
        failed = self.attribute(self.flake, f"checks.{SYSTEM}.cluster.evaluated", "nixpkgs",
                                apply="builtins.mapAttrs (_: n: map (a: a.message) (builtins.filter (a: !a.assertion) n.config.assertions))")
        self.assertEqual(failed, {"one": [], "two": [], "three": []})

    def test_lib_makes_documents_that_a_node_takes(self):
        with tempfile.TemporaryDirectory() as scratch:
            module = compile_guest(pathlib.Path(scratch))
            text = self.attribute(self.flake, "lib", "nixpkgs", apply=f"""l: l.toManifest (
                l.mkFunction {{ name = "hello"; wasm = "{module}"; routes.all.path = "/hello"; }}
                ++ l.mkMachine {{ name = "web"; image = "nginx"; memory = "1GiB"; project = "shop"; }}
                ++ l.mkDocuments {{ config.networks.back.subnet = "10.77.0.0/24"; }})""")
            path = pathlib.Path(scratch) / "all.yaml"
            path.write_text(text)
            with Node() as node:
                done = subprocess.run([BLIXARD, "plan", "-f", path, "--output", "json"], env=node.env, text=True, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
                self.assertEqual(done.returncode, 1, done.stdout)
                actions = {(a["kind"], a["name"]): a["action"] for a in json.loads(done.stdout)["actions"]}
                self.assertEqual(actions, {("Network", "back"): "create", ("Function", "hello"): "create", ("Route", "hello-all"): "create",
                                           ("Machine", "web"): "create"})

    def check(self, flake, *names):
        """As its user does, where nothing may be built for it; what Nix does not know of it is said."""
        done = subprocess.run(["nix", "flake", "check", "--no-build", f"path:{flake}", *self.over(*names), "--no-write-lock-file", "--option",
                               "allow-import-from-derivation", "false"], env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        self.assertEqual((done.returncode, "unknown" in done.stdout), (0, False), done.stdout)

    def test_templates_evaluate(self):
        templates = ROOT / "nix/templates"
        for name, inputs in (("function-c", ("nixpkgs", "blixard")), ("function-rust", ("nixpkgs", "blixard", "fenix")),
                             ("function-assemblyscript", ("nixpkgs", "blixard"))):
            self.check(templates / name, *inputs)
            manifest = f"packages.{SYSTEM}.manifest"
            self.assertIn('"kind":"Function"', self.attribute(templates / name, f"{manifest}.text", *inputs))
            made = self.attribute(templates / name, f"{manifest}.drvPath", *inputs)
            self.assertIn("-hello-function.drv", self.nix("nix-store", "--query", "--references", made), "what it names is built with it")
        self.check(templates / "machine", "nixpkgs", "blixard", "microvm")
        self.check(templates / "cluster", "nixpkgs", "blixard")
        text = self.attribute(templates / "machine", f"packages.{SYSTEM}.manifest.text", "nixpkgs", "blixard", "microvm")
        self.assertIn('"cpus":1,"memory_bytes":536870912,"networks":[{"mac":"02:00:00:00:00:01","network":"lan"}],"runner":"/nix/store/', text)
        self.assertIn('{"kind":"Network","labels":{"managed-by":"flake"},"name":"lan"', text)
        failed = self.attribute(templates / "cluster", "nixosConfigurations", "nixpkgs", "blixard", apply=ASSERTIONS)
        self.assertEqual(failed, {"one": [], "two": [], "three": []})
        settings = self.attribute(templates / "cluster", "nixosConfigurations.two.config.services.blixard.settings.join_addresses", "nixpkgs", "blixard")
        self.assertEqual(settings, "10.0.0.1:7421,10.0.0.3:7421")

    def test_projects_in_templates_are_those_of_fn_new(self):
        for language, files in (("c", ("main.c", "blixard.yaml")), ("rust", ("src/main.rs", "Cargo.toml", "blixard.yaml")),
                                ("assemblyscript", ("assembly/index.ts", "blixard.yaml"))):
            for name in files:
                ours = (ROOT / f"nix/templates/function-{language}" / name).read_text()
                self.assertEqual(ours, (ROOT / "sdk/templates" / language / name).read_text().replace("@NAME@", "hello"))

    def test_examples_evaluate_and_nothing_in_them_is_refused(self):
        examples = sorted((ROOT / "docs/examples").glob("nixos-*/flake.nix"))
        self.assertEqual(len(examples), 3)
        for path in examples:
            with self.subTest(path.parent.name):
                self.check(path.parent, "nixpkgs", "blixard")
                failed = self.attribute(path.parent, "nixosConfigurations", "nixpkgs", "blixard", apply=ASSERTIONS)
                self.assertGreater(len(failed), 0)
                self.assertEqual([text for texts in failed.values() for text in texts], [])
                self.plan(path.parent)

    def plan(self, flake):
        """A node takes all documents of all hosts, and would make each."""
        texts = self.attribute(flake, "nixosConfigurations", "nixpkgs", "blixard", apply="""builtins.mapAttrs (_: n:
            builtins.listToAttrs (map (name: { inherit name; value = n.config.environment.etc.${name}.text; })
              (builtins.filter (name: builtins.substring 0 18 name == "blixard/manifests/") (builtins.attrNames n.config.environment.etc))))""")
        with tempfile.TemporaryDirectory() as scratch, Node() as node:
            for host, files in texts.items():
                for name, text in files.items():
                    lines = [line for line in text.splitlines() if '"kind":"Node"' not in line]  # which are not there
                    (pathlib.Path(scratch) / f"{host}-{pathlib.Path(name).name}").write_text("\n".join(lines))
            done = subprocess.run([BLIXARD, "plan", "-f", scratch, "--output", "json"], env=node.env, text=True, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertGreater(json.loads(done.stdout)["create"], 3)


ASSERTIONS = "builtins.mapAttrs (_: n: map (a: a.message) (builtins.filter (a: !a.assertion) n.config.assertions))"


if __name__ == "__main__":
    unittest.main()
