"""OCI images for tests, made by hand: layers of tar archives, packed in any way, and a registry of Debian's to push them to."""
import contextlib
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import tarfile
import urllib.error
import urllib.request

from foreign import until

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def layer(*entries):
    """A tar archive.  An entry is (NAME, CONTENT) for a file, (NAME/, None) for a folder, (NAME, "->TARGET") for a symbolic
    link, (NAME, "=TARGET") for a hard link, or a TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            name, content = entry
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                info.linkname = content.lstrip("->=")
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def pack(content, how):
    if how == "gzip":
        return gzip.compress(content, mtime=0)
    if how == "zstd":
        return subprocess.run(["zstd", "-q", "-c"], input=content, stdout=subprocess.PIPE, check=True).stdout
    return content


class Layout:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        (self.folder / "blobs/sha256").mkdir(parents=True)
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.manifests = []

    def blob(self, content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / "blobs/sha256" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def add(self, tag, layers, config, packings=("gzip",), architecture="amd64"):
        """An image of these layers; its manifest's digest."""
        described = []
        for number, content in enumerate(layers):
            how = packings[number % len(packings)]
            described.append(self.blob(pack(content, how), LAYER + (f"+{how}" if how else "")))
        document = {"architecture": architecture, "os": "linux", "config": config,
                    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(c).hexdigest()}" for c in layers]}}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": described,
                    "config": self.blob(json.dumps(document).encode(), "application/vnd.oci.image.config.v1+json")}
        descriptor = self.blob(json.dumps(manifest).encode(), MANIFEST)
        descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
        descriptor["platform"] = {"os": "linux", "architecture": architecture}
        self.manifests.append(descriptor)
        (self.folder / "index.json").write_text(json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests}))
        return descriptor["digest"]


def why_no_registry():
    for program in ("docker-registry", "skopeo"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


@contextlib.contextmanager
def registry(folder, port, tls=None, auth=None, authority=None):
    """Debian's docker-registry at 127.0.0.1:PORT, with these sections of its settings; without `tls` in plain HTTP."""
    folder = pathlib.Path(folder)
    config = folder / "registry.yml"
    settings = {"version": 0.1, "log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": f"{folder}/registry"}},
                "http": {"addr": f"127.0.0.1:{port}", **({"tls": tls} if tls else {})}, **({"auth": auth} if auth else {})}
    config.write_text(json.dumps(settings))  # which is YAML
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
    try:
        trust = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=authority))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), trust)

        def answers():
            assert process.poll() is None, (folder / "registry.log").read_text()
            try:
                opener.open(f"http{'s' if tls else ''}://127.0.0.1:{port}/v2/", timeout=5).close()
                return True
            except urllib.error.HTTPError as refused:
                return refused.code == 401
            except OSError:
                return False
        until(answers)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def push(layout, tag, target):
    """Copy an image of a layout to a registry."""
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:{tag}",
                    f"docker://{target}"], check=True, env={**os.environ, "no_proxy": "*"})
