"""Builds a Dockerfile into the store without a daemon: Debian's ``buildah`` with its chroot isolation, as root.

The instructions of a build are a task author's code, and run on this machine as its root with little between them and
it: an own process tree, mounts of their own with a handful of devices, without network but with leave and without the
capabilities that leave a chroot or make devices. There is no user namespace and no other kernel, so who builds trusts
the author as much as the author of an installed package. It does not know which tasks are built.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from runtime.errors import ImageError, MachineError
from runtime.oci.dockerfile import SECOND_CONTEXT, Buildable, NotBuilt, buildable, stands_on
from runtime.oci.manifest import read_manifest
from runtime.oci.reference import HUB
from runtime.oci.store import BUILT, ImageStore
from runtime.oci.types import Image

INSTALL = "apt-get install -y buildah"
_SAID = 300
_HOME = ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "SSL_CERT_FILE")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_WITHOUT = ("--cap-drop", "CAP_SYS_CHROOT", "--cap-drop", "CAP_MKNOD")
"""A root that may call ``chroot`` can leave one."""
_OWN_DEVICES = """dev=$1; shift
mkdir "$dev"
mount -t tmpfs -o mode=755,nosuid,noexec,size=1m liverl "$dev"
for name in null zero full random urandom; do : > "$dev/$name"; mount --bind "/dev/$name" "$dev/$name"; done
ln -s /proc/self/fd "$dev/fd"
for name in stdin:0 stdout:1 stderr:2; do ln -s "fd/${name#*:}" "$dev/${name%:*}"; done
mkdir "$dev/shm" "$dev/pts" "$dev/mqueue"
mount -t tmpfs -o mode=1777,nosuid,nodev,size=64m liverl "$dev/shm"
mount --rbind "$dev" /dev
exec "$@"
"""


def build(dockerfile: Path, context: Path, *, store: ImageStore, key: str, network: bool, timeout_sec: float) -> Image:
    """The image of a Dockerfile, known to the store as ``key``. Raises ``ImageError`` for a build that fails or cannot
    be made here, ``MachineError`` for a full disk."""
    program = shutil.which("buildah")
    if program is None or os.getuid() != 0:
        why = "the program buildah is not here" if program is None else "buildah's chroot isolation needs root"
        raise ImageError(f"{dockerfile} cannot be built: {why}", fix=INSTALL)
    text = dockerfile.read_text(encoding="utf-8", errors="replace")
    try:
        named, known = stands_on(text), buildable(text)
    except NotBuilt as why:
        raise ImageError(f"{dockerfile}:{why.line}: {why}", fix=why.fix) from why
    store.root.mkdir(parents=True, exist_ok=True)
    with store.building() as root, tempfile.TemporaryDirectory(prefix=".build-", dir=store.root) as folder:
        layout = Path(folder) / "layout"
        places = ["--root", str(root), "--runroot", f"{folder}/run", "--storage-driver", "vfs"]
        unpinned = ["--registries-conf", _registries(Path(folder), store)]
        run = functools.partial(_run, dockerfile=dockerfile, timeout_sec=timeout_sec, temporary=folder)
        for name in named:
            run([program, *places, *unpinned, "pull", "--quiet", "--policy", "missing", name], kept=(*_HOME, *_PROXIES))
        tag = f"localhost/liverl/task:{os.getpid()}-{secrets.token_hex(8)}"  # builds of one machine share the root
        command = [program, *places, *unpinned, "bud", "--isolation", "chroot", "--format", "docker", "--pull-never"]
        command += ["--timestamp", "0", "--layers=false", "--force-rm", *_WITHOUT]
        command += [*_read(dockerfile, text, known, Path(folder)), "--tag", tag, str(context)]
        try:
            run([*_alone(folder, network=network), *command], kept=_PROXIES if network else ())
            run([program, *places, "push", tag, f"oci:{layout}:task"])
        finally:
            with contextlib.suppress(ImageError, MachineError):  # also where there is none
                run([program, *places, "rmi", "--force", tag])
        image = import_layout(layout, store, reference=f"{BUILT}{key}")
    store.name(key, image)
    return image


def _read(dockerfile: Path, text: str, known: Buildable, folder: Path) -> list[str]:
    """What says which Dockerfile is built: the author's, or the same in other words."""
    if known.text == text:
        return ["--file", str(dockerfile)]
    (folder / "Dockerfile").write_text(known.text, encoding="utf-8")
    for path, content in known.files.items():
        (folder / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "files" / path).write_text(content, encoding="utf-8")
        (folder / "files" / path).chmod(0o644)
    said = ["--file", f"{folder}/Dockerfile"]
    own = dockerfile.with_name(f"{dockerfile.name}.dockerignore")
    said += ["--ignorefile", str(own)] if own.is_file() else []
    return [*said, "--build-context", f"{SECOND_CONTEXT}={folder}/files"] if known.files else said


def _alone(folder: str, *, network: bool) -> list[str]:
    """What starts a program among its own processes only, with a ``/dev`` of its own. Chroot isolation shows the
    instructions whatever processes, devices and network buildah itself has."""
    unshare = shutil.which("unshare") or "unshare"
    apart = ["--pid", "--fork", "--kill-child", "--mount-proc", "--ipc", *([] if network else ["--net"])]
    return [unshare, *apart, "sh", "-ec", _OWN_DEVICES, "liverl", f"{folder}/dev"]


def import_layout(layout: Path, store: ImageStore, *, reference: str) -> Image:
    """An OCI layout folder of one image (``oci:`` of skopeo and buildah) into the store."""
    blobs = layout / "blobs" / "sha256"
    index = json.loads((layout / "index.json").read_bytes())
    if len(index["manifests"]) != 1:
        raise ImageError(f"{layout}: holds {len(index['manifests'])} images", fix="give a layout of one image")
    digest = str(index["manifests"][0]["digest"])

    def path(descriptor: str) -> Path:
        return blobs / descriptor.removeprefix("sha256:")

    manifest = read_manifest(reference, digest, json.loads(path(digest).read_bytes()))
    config = json.loads(path(manifest.config.digest).read_bytes())
    files = {one.digest: path(one.digest) for one in manifest.layers}
    return store.add(manifest, config, files, reference=reference)


def _registries(folder: Path, store: ImageStore) -> str:
    """Where images of ``FROM`` come from: as the spec has it for all, whatever this machine's settings say. Names
    without a registry are Docker Hub's, as Docker has it."""
    said = ['unqualified-search-registries = ["docker.io"]', 'short-name-mode = "permissive"']
    for name in sorted({*store.mirrors, *store.plaintext}):
        host = store.mirrors.get(name, name)
        said += ["[[registry]]", f"prefix = {json.dumps('docker.io' if name == HUB else name)}"]
        said += [f"location = {json.dumps(host)}", f"insecure = {json.dumps(host in store.plaintext)}"]
    path = folder / "registries.conf"
    path.write_text("\n".join([*said, ""]))
    return str(path)


def _run(command: list[str], *, dockerfile: Path, timeout_sec: float, temporary: str, kept: Sequence[str] = ()) -> None:
    """kept: the variables that the program gets of ours. Whoever can look into its process sees them."""
    environment = {name: os.environ[name] for name in ("PATH", *kept) if name in os.environ}
    environment |= {"BUILDAH_ISOLATION": "chroot", "TMPDIR": temporary}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_sec,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        why = f"took longer than {timeout_sec:.0f} s (environment.build_timeout_sec)"
        raise ImageError(f"{dockerfile}: the build {why}", fix="a larger build_timeout_sec in task.toml") from error
    if done.returncode:
        said = " / ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])[-_SAID:]
        if "no space left" in said.lower():
            raise MachineError(f"{dockerfile}: the disk is full", fix="liverl images prune")
        hint = (
            "environment.images.build_network: true, if it fetches something" if "RUN" in done.stdout else "see there"
        )
        raise ImageError(f"{dockerfile} cannot be built: {said}", fix=hint)
