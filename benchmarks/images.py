"""Images of tasks: unpacking against tar, starting a box and running commands in it against Docker, and what the cache
keeps against the best that could be kept.

    python benchmarks/images.py [--json] [--mib 1000] [--layers 12]

One run makes an image of static files (Debian's busybox-static), unpacks it, starts boxes of it, and lets the machine's
Docker engine, where there is one, do the same with the same layers. ``start_ms``: from the request to the end of the
first command. Ratios are of this run: load on the machine touches both sides.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.oci.manifest import Descriptor, Manifest
from runtime.oci.store import ImageStore
from runtime.oci.types import Image
from runtime.sandboxes.base import SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider

STARTS = 20
ACTIONS = (10, 50, 150)
TASKS, IMAGES, BUDGET = 1000, 100, 30
FILE = 64 << 10


def make_layers(folder: Path, *, mib: int, layers: int) -> list[Path]:
    """Plain tar files: the first with a shell, all with files of random content."""
    noise = os.urandom(1 << 20)
    made = []
    for number in range(layers):
        path = folder / f"layer{number}.tar"
        with tarfile.open(path, "w") as archive:
            if number == 0:
                archive.add("/bin/busybox", "bin/busybox")
                for name in ("sh", "true", "cat"):
                    link = tarfile.TarInfo(f"bin/{name}")
                    link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                    archive.addfile(link)
            for count in range((mib << 20) // layers // FILE):
                entry = tarfile.TarInfo(f"data/{number}/{count % 50}/{count}")
                entry.size, at = FILE, count * 997 % (len(noise) - FILE)
                archive.addfile(entry, io.BytesIO(noise[at : at + FILE]))
        made.append(path)
    return made


def add(store: ImageStore, layers: Sequence[Path], name: str) -> Image:
    digests = ["sha256:" + hashlib.sha256(path.read_bytes()).hexdigest() for path in layers]
    described = [Descriptor(digest, path.stat().st_size) for digest, path in zip(digests, layers, strict=True)]
    manifest = Manifest("sha256:" + hashlib.sha256(name.encode()).hexdigest(), described[0], tuple(described))
    config: dict[str, Any] = {"rootfs": {"diff_ids": digests}, "config": {"Env": ["PATH=/bin"], "WorkingDir": "/data"}}
    return store.add(manifest, config, dict(zip(digests, layers, strict=True)), reference=f"built:{name}")


def unpacking(folder: Path, layers: Sequence[Path], store: ImageStore) -> tuple[Image, dict[str, float]]:
    total = sum(path.stat().st_size for path in layers)
    began = time.monotonic()
    for number, path in enumerate(layers):
        target = folder / "tar" / str(number)
        target.mkdir(parents=True)
        subprocess.run(["tar", "-xf", path, "-C", target], check=True)
    by_tar = time.monotonic() - began
    shutil.rmtree(folder / "tar")
    began = time.monotonic()
    image = add(store, layers, "bench")  # with the digest of every byte, which tar does not look at
    ours = time.monotonic() - began
    return image, {"unpack_gb_s": total / ours / 1e9, "unpack_over_tar": ours / by_tar}


async def boxes(image: Image, store: ImageStore, state: Path) -> dict[str, float]:
    provider = BubblewrapProvider(state=state, nested=True, store=store)
    request = SandboxRequest(name="bench", lower=store.tree(image, "/data/0/0"), workdir="/data/0/0", root=image)
    starts, found = [], {}
    try:
        for _ in range(STARTS + 1):
            began = time.monotonic()
            box = await provider.start(request)
            await box.exec(["true"], timeout_sec=30)
            starts.append(time.monotonic() - began)
            await box.stop()
        for count in ACTIONS:
            box = await provider.start(request)
            began, used = time.monotonic(), _cpu_sec(box)
            for _ in range(count):
                await box.exec(["sh", "-c", "cat /bin/busybox >/dev/null"], timeout_sec=30)
            found[f"action_ms_{count}"] = (time.monotonic() - began) / count * 1000
            found["action_cpu_ms"] = (_cpu_sec(box) - used) / count * 1000
            await box.stop()
    finally:
        await provider.close()
    return {"start_ms": statistics.median(starts[1:]) * 1000, "action_ms": found["action_ms_50"], **found}


def _cpu_sec(box: Any) -> float:
    """Of this process, of the box's first one and of the commands that it has waited for."""
    fields = Path(f"/proc/{box._channel.pid}/stat").read_text().rpartition(")")[2].split()
    return time.process_time() + sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def docker(folder: Path, layers: Sequence[Path]) -> dict[str, float]:
    """The same image in a Docker engine of our own; empty where none can be started."""
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests know how to get an engine
    from tests.docker_engine import Engine

    try:
        with Engine.temporary() as engine:
            os.environ["DOCKER_HOST"] = engine.url
            return _docker(folder, layers)
    except pytest.skip.Exception as why:
        print(f"without Docker: {why}")
        return {}


def _docker(folder: Path, layers: Sequence[Path]) -> dict[str, float]:
    tag = f"liverl-bench-{os.getpid()}"
    text = ["FROM scratch", *(f"ADD {path.name} /" for path in layers), 'ENV PATH="/bin"']
    (folder / "Dockerfile").write_text("\n".join(text) + "\n")
    subprocess.run(["docker", "build", "-q", "-t", tag, str(folder)], check=True, capture_output=True)
    try:
        starts = []
        for _ in range(6):
            began = time.monotonic()
            subprocess.run(["docker", "run", "--rm", "--network", "none", tag, "true"], check=True, capture_output=True)
            starts.append(time.monotonic() - began)
        options = ["--rm", "-d", "--network", "none"]
        done = subprocess.run(
            ["docker", "run", *options, tag, "cat", "/dev/zero"], check=True, capture_output=True, text=True
        )
        name = done.stdout.strip()
        began = time.monotonic()
        for _ in range(10):
            command = ["docker", "exec", name, "sh", "-c", "cat /bin/busybox >/dev/null"]
            subprocess.run(command, check=True, capture_output=True)
        action = (time.monotonic() - began) / 10 * 1000
        subprocess.run(["docker", "kill", name], check=True, capture_output=True)
        return {"docker_start_ms": statistics.median(starts[1:]) * 1000, "docker_action_ms": action}
    finally:
        subprocess.run(["docker", "rmi", "-f", tag], capture_output=True, check=False)


def order() -> list[int]:
    """Which image each of the tasks wants: some sets are large, so some images are wanted often."""
    draw = random.Random(0)
    return [min(IMAGES - 1, int(draw.expovariate(1 / 30))) for _ in range(TASKS)]


def best_hits(wanted: Sequence[int], room: int) -> int:
    """Belady: what is wanted again last goes first."""
    later: dict[int, list[int]] = {}
    for place, image in enumerate(wanted):
        later.setdefault(image, []).append(place)
    kept: set[int] = set()
    hits = 0
    for place, image in enumerate(wanted):
        later[image].pop(0)
        hits += image in kept
        if image not in kept and len(kept) == room:
            kept.remove(max(kept, key=lambda one: (later[one] or [TASKS])[0]))
        kept.add(image)
        assert place >= 0
    return hits


def cache(folder: Path) -> dict[str, float]:
    """The tasks in their order through the store, with room for some of the images."""
    files = []
    for number in range(IMAGES):
        path = folder / f"small{number}.tar"
        with tarfile.open(path, "w") as archive:
            entry = tarfile.TarInfo(f"file{number}")
            entry.size = 1024
            archive.addfile(entry, io.BytesIO(os.urandom(1024)))
        files.append(path)
    best = best_hits(order(), BUDGET)
    blind, told = (_hits(folder / name, files, told=name == "told") for name in ("blind", "told"))
    return {
        "hit_rate": told / TASKS,
        "belady_hit_rate": best / TASKS,
        "hit_over_belady": told / best,
        "hit_rate_lru": blind / TASKS,
    }


def _hits(root: Path, files: Sequence[Path], *, told: bool) -> int:
    """told: the store knows which images will be wanted, as in a run it does of its sampler's order."""
    coming: list[str] = []
    store = ImageStore(root, coming=lambda: coming)
    hits = 0
    for place, number in enumerate(order()):
        if told:
            coming[:] = ["sha256:" + hashlib.sha256(f"image{one}".encode()).hexdigest() for one in order()[place:]]
        image = store.known(f"image{number}")
        hits += image is not None
        if image is None:
            store.prune((BUDGET - 1) * 1024)
            image = add(store, [files[number]], f"image{number}")
            store.name(f"image{number}", image)
        lock = store.root / "images" / f"{image.digest.removeprefix('sha256:')}.lock"
        lock.touch()
        os.utime(lock, (place, place))  # used in this order, whatever the clock's grain
    return hits


def measure(*, mib: int, layers: int) -> Iterator[tuple[str, float]]:
    with tempfile.TemporaryDirectory(prefix="liverl-images-") as name:
        folder = Path(name)
        (folder / "context").mkdir()
        made = make_layers(folder / "context", mib=mib, layers=layers)
        store = ImageStore(folder / "store")
        image, found = unpacking(folder, made, store)
        found |= {"store_over_sum": store.size() / sum(path.stat().st_size for path in made)}
        found |= asyncio.run(boxes(image, store, folder / "state"))
        found |= docker(folder / "context", made)
        if "docker_start_ms" in found:
            found["docker_ratio"] = found["docker_start_ms"] / found["start_ms"]
            found["docker_action_ratio"] = found["docker_action_ms"] / found["action_ms"]
        found |= cache(folder)
        yield from found.items()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--mib", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    found = dict(measure(mib=options.mib, layers=options.layers))
    for key, value in found.items():
        print(f"{key:<22}{value:10.3f}")
    if options.json:
        print(json.dumps({key: round(value, 4) for key, value in found.items()}))


if __name__ == "__main__":
    main()
