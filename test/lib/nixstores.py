"""Nix stores for tests, each its own, all at one place: paths of the one can go to the other.

    stores = Stores(folder)
    one = stores.new("one")
    path = one.build("hello", text="hi", below="lib")       # a path that refers to another
    one.run("nix-store", "-q", "--references", path)
    node = Node(env=one.env, ...)                           # sees it only if started by one.wrap

A store's name is part of its paths, so all stores must be at one place.  What runs in a store (`wrap`) has it mounted there, in a
mount namespace of its own.
"""
import pathlib
import shutil
import subprocess
import unittest

CONF = "build-users-group =\nsubstituters =\nsandbox = false\nexperimental-features = nix-command flakes\nconnect-timeout = 10\n"
EXPRESSION = """
let make = { name, text, below ? null }: derivation {
      inherit name text below; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
      args = [ "-c" "mkdir $out; echo \\"$text $below\\" > $out/text; for i in 1 2 3 4 5 6 7 8 9; do seq 5000 > $out/numbers$i; done" ]; };
in make { name = "%(name)s"; text = "%(text)s"; below = make { name = "below-%(name)s"; text = "%(text)s"; }; }
"""
ENTER = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


def need():
    """Nix, and mount namespaces."""
    if shutil.which("nix") is None:
        raise unittest.SkipTest("needs Nix")
    if subprocess.run(["unshare", "--mount", "true"], stderr=subprocess.DEVNULL).returncode != 0:
        raise unittest.SkipTest("needs mount namespaces")


class Stores:
    def __init__(self, folder):
        need()
        self.folder = pathlib.Path(folder)
        self.place = self.folder / "nix"
        self.place.mkdir()
        etc = self.folder / "etc"
        etc.mkdir()
        (etc / "nix.conf").write_text(CONF)

    def new(self, name):
        return Store(self, name)


class Store:
    def __init__(self, stores, name):
        self.place = stores.place
        self.own = stores.folder / name
        (self.own / "home").mkdir(parents=True)
        self.env = {"NIX_STORE_DIR": str(self.place / "store"), "NIX_STATE_DIR": str(self.place / "var"),
                    "NIX_LOG_DIR": str(self.place / "log"), "NIX_CONF_DIR": str(stores.folder / "etc"),
                    "XDG_CACHE_HOME": str(self.own / "cache"), "NO_PROXY": "*", "no_proxy": "*"}
        self.wrap = ["env", *(f"{name}={value}" for name, value in self.env.items()), "unshare", "--mount", "--propagation", "private",
                     "sh", "-c", ENTER, "sh", str(self.own), str(self.place)]

    def run(self, *command, check=True, host=None, env=None):
        """A command in it (of a host of hosts.py): what it prints; else (not check) its end."""
        whole = [*self.wrap, *map(str, command)]
        done = subprocess.run(host.command(*whole) if host else whole, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=120)
        if check and done.returncode != 0:
            raise RuntimeError(f"{command}: {done.returncode}: {done.stderr}")
        return done.stdout.strip() if check else done

    def build(self, name, text="some text"):
        """A folder NAME that refers to another, below-NAME; nothing keeps either."""
        source = self.own / f"{name}.nix"
        source.write_text(EXPRESSION % {"name": name, "text": text})
        return self.run("nix-build", "--no-out-link", source)

    def real(self, path):
        """Where it lies, for who is not inside."""
        return self.own / pathlib.Path(path).relative_to(self.place)

    def has(self, path):
        return self.run("nix-store", "--check-validity", path, check=False).returncode == 0

    def content(self, path):
        """Of a path, as Nix hashes it."""
        return self.run("nix-hash", "--type", "sha256", "--base32", path)
