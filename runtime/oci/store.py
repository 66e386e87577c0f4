"""The store of a machine's images: layers by content, images by digest, shared by all runs.

What two processes do at once never corrupts it: everything appears whole by a rename, a layer is unpacked under its own
lock, and what a process uses is held by a lock that ends with it. Against a disk budget the least recently used images
go, never one in use. It does not know what images are used for.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import ImageError, MachineError
from runtime.files import write_whole
from runtime.oci.documents import check_platform, diff_ids_of, document, parsed, table
from runtime.oci.eviction import Listed, NoRoom, dispensable_first, loose_bytes, remove_left
from runtime.oci.layer import BadLayer, unpack
from runtime.oci.manifest import Descriptor, Manifest
from runtime.oci.merged import NoFolder, hides_link, merge
from runtime.oci.reference import DIGEST, HUB, Reference
from runtime.oci.types import FOLDER, NAME_LENGTH, Image

if TYPE_CHECKING:
    from runtime.config.environment import Images
    from runtime.oci.registry import Registry

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
BUILT = "built:"
"""References of images that were made on this machine and are nowhere else begin so."""
RESERVE = 512 << 20
"""Bytes of the disk that stay free, whatever the budget."""
PATIENCE_SEC = 60.0
"""How long the start of a box waits for room on the disk before it fails."""
_LOOK_SEC = 2.0
_FETCHES = 3
_TREE_SEC = 7 * 86400.0
"""Work directories of images stay so long after their tasks were loaded last, whatever is removed."""
_GROWTH = 3
"""How much larger a layer may be unpacked than compressed, to make room ahead."""


@dataclass
class Counts:
    """hits: images that were here; misses: that were fetched; bytes over the line, seconds spent on misses, evicted
    images, and those that were fetched ahead of who wants them."""

    hits: int = 0
    misses: int = 0
    bytes: int = 0
    seconds: float = 0.0
    evicted: int = 0
    ahead: int = 0


def default_store() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liverl" / "oci"


def this_architecture() -> str:
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


class ImageStore:
    """budget: bytes that the store may hold (None: as many as the disk has room for); plaintext: registries that are
    asked without TLS; mirrors: registry -> the one that is asked in its place; coming: digests of the images that will
    be wanted, in that order, as far as somebody knows."""

    def __init__(
        self,
        root: Path | None = None,
        *,
        budget: int | None = None,
        plaintext: Sequence[str] = (),
        mirrors: Mapping[str, str] | None = None,
        coming: Callable[[], Sequence[str]] = tuple,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.root = (
            root or default_store()
        ).resolve()  # a box sees the host below another name, where links lead astray
        self.budget = budget
        self.counts = Counts()
        self.plaintext = frozenset(plaintext)
        hub = dict.fromkeys(("docker.io", "index.docker.io"), HUB)
        self.mirrors = {hub.get(name, name): mirror for name, mirror in (mirrors or {}).items()}
        self._coming = coming
        self._sleep = sleep
        self._held: dict[str, list[int]] = {}  # descriptor of the lock, and how often it is held
        self._holding = threading.Lock()
        self._wanted = 0

    @property
    def busy(self) -> bool:
        """Whether a box of this process waits for an image: whoever fetches ahead should make way."""
        return self._wanted > 0

    @contextlib.contextmanager
    def _wanting(self) -> Iterator[None]:
        with self._holding:
            self._wanted += 1
        try:
            yield
        finally:
            with self._holding:
                self._wanted -= 1

    @classmethod
    def of(cls, settings: Images, *, coming: Callable[[], Sequence[str]] = tuple) -> ImageStore:
        """The machine's store as a run's settings have it."""
        budget = settings.disk_gib << 30 if settings.disk_gib is not None else None
        return cls(budget=budget, plaintext=settings.plaintext_registries, mirrors=settings.mirrors, coming=coming)

    # What is here.

    def layer(self, name: str) -> Path:
        """The folder of a layer. Raises ``ImageError`` for what is no name of one: it may be a stranger's."""
        if not FOLDER.fullmatch(name):
            raise ImageError(f"{name!r} names no layer", fix="liverl images prune, and fetch the image again")
        return self.root / "layers" / name

    def known(self, key: str) -> Image | None:
        """The image that ``key`` (a reference, or the name of a build) was resolved to, if it is here."""
        try:
            digest = json.loads(self._ref(key).read_bytes())["digest"]
            return self.image(digest)
        except (OSError, ValueError, KeyError):
            return None

    def image(self, digest: str) -> Image | None:
        try:
            found = json.loads(self._record(digest).read_bytes())
        except (OSError, ValueError):
            return None
        image = Image(
            found["digest"],
            found["reference"],
            tuple(found["layers"]),
            tuple((name, value) for name, value in found["env"]),
            found["workdir"],
            found["user"],
            found["bytes"],
        )
        return image if all(DIGEST.fullmatch(one) and self._has(one) for one in image.layers) else None

    def _has(self, diff_id: str) -> bool:
        """Whether the layer is here, and not another one under a name that is but a part of the digest."""
        folder = self.layer(_folder(diff_id))
        try:
            record = json.loads(folder.with_name(f"{folder.name}.json").read_bytes())
        except (OSError, ValueError):
            record = {}
        return folder.is_dir() and record.get("diff_id", diff_id) == diff_id

    def images(self) -> list[Listed]:
        """All images, the one used last first."""
        images = [image for path in self.root.glob("images/*.json") if (image := self.image(f"sha256:{path.stem}"))]
        sizes = self._layer_sizes()
        holders: dict[str, int] = {}
        for image in images:
            for name in image.folders:
                holders[name] = holders.get(name, 0) + 1
        listed = []
        for image in images:
            lock = self._lock_of(image.digest)
            with self._try_exclusive(lock) as free:
                own = sum(sizes.get(name, 0) for name in image.folders if holders[name] == 1)
                listed.append(Listed(image, own, lock.stat().st_mtime, not free or image.digest in self._held))
        return sorted(listed, key=lambda one: -one.used)

    def size(self) -> int:
        """Bytes of all layers, each counted once, and of what builds keep for the next one."""
        return sum(self._layer_sizes().values()) + self._kept_by_builds()

    # Getting images.

    def hold(self, image: Image) -> None:
        """Keep an image from being removed, until ``release`` has been called as often, or the store is closed. One
        that was removed meanwhile is fetched again. Raises as ``pull``."""
        with self._holding:
            held = self._held.get(image.digest)
            if held is not None:
                held[1] += 1
                self.counts.hits += 1
                return
        for again in (True, False):
            lock = self._lock_of(image.digest)
            lock.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_SH)
            if self.image(image.digest) is not None and lock.exists() and lock.stat().st_ino == os.fstat(fd).st_ino:
                break
            os.close(fd)
            if not again or image.reference.startswith(BUILT):
                fix = "prepare the tasks again" if again else f"liverl images pull {image.reference}"
                raise ImageError(f"image {image.reference} is not here any more", fix=fix)
            began = time.monotonic()
            with self._wanting():
                self._fetched(parsed(image.reference), patience_sec=PATIENCE_SEC)
            self.counts.misses += 1
            self.counts.seconds += time.monotonic() - began
        os.utime(fd)
        with self._holding:
            self.counts.hits += again
            held = self._held.setdefault(image.digest, [fd, 0])
            held[1] += 1
            if held[0] != fd:
                os.close(fd)

    def release(self, image: Image) -> None:
        with self._holding:
            held = self._held.get(image.digest)
            if held is not None:
                held[1] -= 1
                if held[1] == 0:
                    os.close(self._held.pop(image.digest)[0])

    def close(self) -> None:
        with self._holding:
            while self._held:
                os.close(self._held.popitem()[1][0])

    def pull(self, text: str, *, again: bool = False) -> Image:
        """The image of a reference, fetched if it is not here. again: ask what a tag means today.
        Raises ``ImageError`` for what the registry does not give, ``MachineError`` for a full disk."""
        reference = parsed(text)
        key = str(reference)
        if not again and (image := self.known(key)) is not None:
            self._touched(image.digest)
            self.counts.hits += 1
            return image
        began = time.monotonic()
        image = self._fetched(reference)
        self.counts.misses += 1
        self.counts.seconds += time.monotonic() - began
        self.name(key, image)
        self._touched(image.digest)
        return image

    def name(self, key: str, image: Image) -> None:
        """From now on ``key`` means this image."""
        self._write(self._ref(key), {"key": key, "digest": image.digest})

    def add(self, manifest: Manifest, config: Mapping[str, Any], blobs: Mapping[str, Path], *, reference: str) -> Image:
        """An image whose layers are files of this machine (by digest of the blob). Raises as ``pull``."""
        diff_ids = diff_ids_of(reference, config, manifest)
        with self._pulling():
            for descriptor, diff_id in zip(manifest.layers, diff_ids, strict=True):
                self._unpacked(reference, diff_id, lambda one: blobs[one.digest], descriptor)
            return self._recorded(manifest, config, diff_ids, reference)

    @contextlib.contextmanager
    def building(self) -> Iterator[Path]:
        """The folder where builds keep the images that they stand on; nobody removes it meanwhile."""
        home = self.root / "buildah"
        home.mkdir(parents=True, exist_ok=True)
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            try:
                yield home / "root"
            finally:
                self._write(home / "kept.json", {"bytes": _bytes_below(home / "root")})

    def tree(self, image: Image, inside: str) -> Path:
        """The folder ``inside`` of an image as a folder of this machine, never to be written. Raises ``ImageError``."""
        name = hashlib.sha256(json.dumps([image.layers, inside]).encode()).hexdigest()[:32]
        target = self.root / "trees" / name
        if target.is_dir():
            with contextlib.suppress(OSError):
                os.utime(target.with_name(f"{name}.json"))
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
            try:
                merge([self.layer(one) for one in image.folders], inside, Path(folder) / "tree")
            except NoFolder as why:
                raise ImageError(
                    f"image {image.reference}: {why}", fix="name a plain folder as the work directory"
                ) from why
            with contextlib.suppress(OSError):  # another process was first
                (Path(folder) / "tree").rename(target)
        write_whole(target.with_name(f"{name}.json"), json.dumps({"digest": image.digest}).encode())
        return target

    def ahead(
        self, reference: str, *, sooner: Sequence[str] = (), pace: Callable[[int], None] = lambda _: None
    ) -> bool:
        """Fetch an image that will be wanted, unless that takes room of one that is wanted ``sooner`` (digests), or
        more than there is: whether it is here then. pace: as of ``Registry``. Raises as ``pull`` and pace."""
        image = self.image(parsed(reference).wanted)
        if image is None:
            try:
                self._fetched(parsed(reference), spare=sooner, pace=pace)
            except NoRoom:
                return False
            self.counts.ahead += 1
        return True

    def prune(self, budget: int = 0, *, spare: Sequence[str] | None = None) -> list[Image]:
        """Remove images until the layers take at most ``budget`` bytes; none that is in use. First those go that nobody
        has announced, the least recently used one first, then those that will be wanted last. spare: digests of those
        that stay; with it nothing is removed unless that is enough."""
        removed = []
        with self._exclusive():
            self._sweep()  # what is counted must be there
            if spare is not None and self.size() - loose_bytes(self.images(), spare) > budget:
                return []
            if self.size() > budget and self._kept_by_builds():
                with self._try_exclusive(self.root / "buildah" / "lock") as free:
                    if free:  # what is kept there is fetched again
                        shutil.rmtree(self.root / "buildah" / "root", ignore_errors=True)
                        (self.root / "buildah" / "kept.json").unlink(missing_ok=True)
            for one in dispensable_first(self.images(), self._coming()):
                if self.size() <= budget:
                    break
                if one.image.digest in self._held or one.image.digest in (spare or ()):
                    continue
                with self._try_exclusive(self._lock_of(one.image.digest)) as free:
                    if free:
                        self._forget(one.image)
                        self._sweep()
                        removed.append(one.image)
            self._sweep()
            with self._try_exclusive(self.root / "buildah" / "lock") as free:
                remove_left(self.root, builds=free)
            for path in self.root.glob("trees/*.json"):  # tasks that are loaded now may be played later
                if path.stat().st_mtime < time.time() - _TREE_SEC:
                    shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                    path.unlink(missing_ok=True)
        self.counts.evicted += len(removed)
        return removed

    # How.

    def _fetched(
        self,
        reference: Reference,
        *,
        patience_sec: float = 0.0,
        spare: Sequence[str] | None = None,
        pace: Callable[[int], None] = lambda _: None,
    ) -> Image:
        """patience_sec: how long a store without room is waited for: boxes end, and their images may go then. spare:
        as of ``prune``."""
        from runtime.oci.registry import Registry  # with its client library: most runs fetch nothing

        asked = reference.registry
        host = self.mirrors.get(asked, asked)
        registry = Registry(host, plaintext=host in self.plaintext, sleep=self._sleep, pace=pace)
        try:
            manifest = registry.manifest(reference, architecture=this_architecture())
            pinned = reference.by(manifest.digest)
            if (image := self.image(manifest.digest)) is not None:
                return image
            config = self._config(registry, pinned, manifest)
            check_platform(str(pinned), config, this_architecture())
            diff_ids = diff_ids_of(str(pinned), config, manifest)
            layers = list(dict(zip(diff_ids, manifest.layers, strict=True)).items())
            lacking = (one.size for diff_id, one in layers if not self._has(diff_id))
            wanted = _GROWTH * sum(lacking)
            for waited in range(int(patience_sec / _LOOK_SEC) + 1):
                try:
                    self._room(wanted, spare)
                    break
                except MachineError:
                    if waited == int(patience_sec / _LOOK_SEC):
                        raise
                    self._sleep(_LOOK_SEC)
            blobs = self.root / "blobs"

            def blob(descriptor: Descriptor) -> Path:
                path = blobs / descriptor.digest.removeprefix("sha256:")
                registry.blob(pinned, descriptor, path)
                return path

            with self._pulling(), ThreadPoolExecutor(_FETCHES, thread_name_prefix="layers") as pool:
                blobs.mkdir(parents=True, exist_ok=True)  # not before: whoever removes images removes it too
                done = [
                    pool.submit(self._unpacked, str(pinned), diff_id, blob, descriptor)
                    for diff_id, descriptor in layers
                ]
                for future in done:
                    future.result()
                return self._recorded(manifest, config, diff_ids, str(pinned))
        except OSError as error:
            raise MachineError(
                f"image {reference}: {self.root}: {error}", fix=f"free space below {self.root}"
            ) from error
        finally:
            self.counts.bytes += registry.traffic.bytes
            registry.close()

    def _config(self, registry: Registry, pinned: Reference, manifest: Manifest) -> dict[str, Any]:
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root, prefix=".config-") as folder:
            path = Path(folder) / "config.json"
            registry.blob(pinned, manifest.config, path)
            return document(str(pinned), path)

    def _recorded(
        self, manifest: Manifest, config: Mapping[str, Any], diff_ids: Sequence[str], reference: str
    ) -> Image:
        self._check_links(reference, diff_ids)
        settings = table(reference, config, "config")
        given = settings.get("Env") or []
        plain = isinstance(given, list) and all(
            isinstance(one, str) and "\0" not in one and one[:1] != "=" for one in given
        )
        if not plain or any("\0" in str(settings.get(name)) for name in ("WorkingDir", "User")):
            raise ImageError(f"image {reference}: its configuration cannot be read", fix="build and push it anew")
        env = tuple((name, value) for name, is_set, value in (one.partition("=") for one in given) if is_set)
        layers = tuple(diff_ids)
        sizes = self._layer_sizes()
        image = Image(
            manifest.digest,
            reference,
            layers,
            env,
            str(settings.get("WorkingDir") or ""),
            str(settings.get("User") or ""),
        )
        total = sum(sizes.get(name, 0) for name in image.folders)
        image = Image(**{**vars(image), "bytes": total})
        self._write(self._record(image.digest), asdict(image))
        return image

    def _check_links(self, reference: str, diff_ids: Sequence[str]) -> None:
        """Raises ``ImageError`` where a layer puts files below what is a link of a lower one."""
        folders = [self.layer(_folder(one)) for one in diff_ids]
        for place, folder in enumerate(folders):
            record = json.loads(folder.with_name(f"{folder.name}.json").read_bytes())
            for name in record.get("implied", ()):
                if hides_link(folder, folders[:place], name):
                    raise ImageError(
                        f"image {reference}: layer {place + 1} has files in /{name}, which is a link of a lower layer",
                        fix="build it with an engine, which puts them where the link leads",
                    )

    def _unpacked(
        self, reference: str, diff_id: str, blob: Callable[[Descriptor], Path], descriptor: Descriptor
    ) -> None:
        """Have the layer unpacked, by this process or another. Raises ``ImageError``, ``OSError``."""
        target = self.layer(_folder(diff_id))
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._has(diff_id):
                return
            if target.is_dir():
                why = f"another layer is here under the name of {diff_id}"
                raise ImageError(f"image {reference}: {why}", fix="liverl images prune; one of the two is forged")
            path = blob(descriptor)
            staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".unpack-"))
            try:
                found = unpack(path, staging, look=self._enough)
                if found.diff_id != diff_id:
                    raise BadLayer(f"its content is {found.diff_id[:19]}, and the image says {diff_id[:19]}")
                staging.chmod(0o755)
                said: dict[str, Any] = {"bytes": found.bytes, "entries": found.entries, "diff_id": diff_id}
                said["implied"] = sorted(found.implied)
                self._write(target.with_name(f"{target.name}.json"), said)
                staging.rename(target)
            except BadLayer as why:
                raise ImageError(
                    f"image {reference}: layer {descriptor.digest[:19]}: {why}", fix="build and push it anew"
                ) from why
            finally:
                shutil.rmtree(staging, ignore_errors=True)
                if path.is_relative_to(self.root):
                    path.unlink(missing_ok=True)

    def _room(self, wanted: int, spare: Sequence[str] | None = None) -> None:
        """Make room for ``wanted`` more bytes. Raises ``NoRoom``."""
        self.root.mkdir(parents=True, exist_ok=True)
        if self.budget is not None and self.size() + wanted > self.budget:
            self.prune(max(0, self.budget - wanted), spare=spare)
            if self.size() + wanted > self.budget:
                raise NoRoom(
                    f"{self.root}: {self.size() >> 20} MiB are in use and about {wanted >> 20} MiB more are wanted, of "
                    f"a budget of {self.budget >> 20} MiB",
                    fix="a larger environment.images.disk_gib, or fewer unlike images at once",
                )
        if shutil.disk_usage(self.root).free < wanted + RESERVE:
            self.prune(max(0, self.size() - wanted - RESERVE), spare=spare)
            if spare is not None and shutil.disk_usage(self.root).free < wanted + RESERVE:
                raise NoRoom(f"{self.root}: no room for {wanted >> 20} MiB more", fix="free space on the disk")
        self._enough()

    def _enough(self) -> None:
        if shutil.disk_usage(self.root).free < RESERVE:
            raise NoRoom(f"{self.root}: the disk is full", fix="liverl images prune, or free space on the disk")

    def _forget(self, image: Image) -> None:
        self._record(image.digest).unlink(missing_ok=True)
        self._lock_of(image.digest).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove layers that no image has. Only for who keeps others from fetching."""
        wanted = {
            _folder(layer)
            for path in self.root.glob("images/*.json")
            for layer in json.loads(path.read_bytes())["layers"]
        }
        for path in self.root.glob("layers/*"):
            if path.is_dir() and not path.name.startswith(".") and path.name not in wanted:
                doomed = path.with_name(f".doomed-{path.name}")
                path.rename(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
        for path in self.root.glob("layers/*.json"):  # also of one whose removal, or arrival, was cut short
            if not path.with_suffix("").is_dir():
                path.unlink(missing_ok=True)

    def _kept_by_builds(self) -> int:
        try:
            return int(json.loads((self.root / "buildah" / "kept.json").read_bytes())["bytes"])
        except (OSError, ValueError, KeyError):
            return 0

    def _layer_sizes(self) -> dict[str, int]:
        sizes = {}
        for path in self.root.glob("layers/*.json"):
            with contextlib.suppress(OSError, ValueError):
                sizes[path.stem] = int(json.loads(path.read_bytes())["bytes"])
        return sizes

    def _record(self, digest: str) -> Path:
        return self.root / "images" / f"{digest.removeprefix('sha256:')}.json"

    def _lock_of(self, digest: str) -> Path:
        return self.root / "images" / f"{digest.removeprefix('sha256:')}.lock"

    def _touched(self, digest: str) -> Path:
        lock = self._lock_of(digest)
        lock.touch()
        return lock

    def _ref(self, key: str) -> Path:
        return self.root / "refs" / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.json"

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(content).encode())

    @contextlib.contextmanager
    def _pulling(self) -> Iterator[None]:
        with self._store_lock(fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._store_lock(fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def _store_lock(self, kind: int) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            fcntl.flock(lock, kind)
            yield

    @contextlib.contextmanager
    def _try_exclusive(self, path: Path) -> Iterator[bool]:
        """Whether nobody holds the image that this is the lock of."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(fd)


def _bytes_below(folder: Path) -> int:
    total = 0
    for above, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{above}/{name}").st_blocks * 512
    return total


def _folder(diff_id: str) -> str:
    return diff_id.removeprefix("sha256:")[:NAME_LENGTH]
