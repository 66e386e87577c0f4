"""The files that the boxes of a task start with: what ``environment/`` and its Dockerfile say, as folders of this host.

``environment/`` is Docker's build context and not the work directory, so only what a Dockerfile copies is shown, and
where it says so. A view that is no folder as it is gets made below the cache, under the digest of all that is in it.
Does not know how boxes are made.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import shutil
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.errors import ImageError
from runtime.oci.store import ImageStore
from runtime.oci.types import Image
from runtime.task_format.dockerfile import Recipe, read_recipe
from runtime.task_format.published import Published
from runtime.task_format.repository import BUG, Unclean, cleaned
from runtime.task_format.task_image import ImageSource, NoImage, built, image_source

DEFAULT = "/app"
_VERSION = 2
"""Part of the cache key: raise it when the same files would give another folder."""

_TAKEN = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/logs", "/proc", "/run", "/sbin"),
    *("/solution", "/sys", "/tests", "/usr", "/opt/agent", "/opt/image", "/opt/liverl", "/opt/python", "/opt/task"),
)
"""Where boxes have files of their own, or a task's scripts look for theirs."""
_OURS = (
    *("/dev", "/logs", "/opt/agent", "/opt/image", "/opt/liverl", "/opt/python", "/opt/task", "/proc", "/solution"),
    *("/sys", "/tests"),
)
"""The same, where the box is made of an image."""


@dataclass(frozen=True)
class WorkDirectory:
    """``lower``: the pristine work directory, never written; ``elsewhere``: (host path, path inside) of what else boxes
    show, read-only; ``env``: variables of every command; ``problems``: why this is not what the task asks for.
    ``image``: what the task's boxes are made of, in place of the backend's own; ``source``: where that is to be had,
    also while it is not here yet.
    """

    lower: Path
    path: str = DEFAULT
    elsewhere: tuple[tuple[Path, str], ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    image: Image | None = None
    source: ImageSource | None = None
    hidden: tuple[str, ...] = ()
    """Files and folders of the image that boxes must not show; ``elsewhere`` covers them with nothing."""


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "liverl" / "work-directories"


def work_directory(
    task: Path,
    *,
    path: str | None,
    ours: bool,
    docker_image: str | None = None,
    image: str | None = None,
    cache: Path | None = None,
    store: ImageStore | None = None,
    published: Published | None = None,
) -> WorkDirectory:
    """What the boxes of the task at ``task`` start with.

    path: the work directory that ``task.toml`` names. ours: LiveRL's generators wrote the task, so ``task.toml`` says
    all that its Dockerfile does, and the work directory is ``environment/repo``, unless an image is named.
    docker_image: the image that ``task.toml`` names. published: of a task of a published set, whose image is that and
    whose repository is cut at its base commit. image: the digest of what that, or the Dockerfile, has become.
    """
    environment = task / "environment"
    repository, dockerfile = environment / "repo", environment / "Dockerfile"
    if published is not None and published.image:
        try:
            source = image_source(environment, published.image)
        except NoImage as why:
            return WorkDirectory(environment, path or DEFAULT, problems=why.problems)
        assert source is not None
        made = _of_image(replace(source, loose=None), path, environment, cache or default_cache(), store, image)
        return _cut(made, published, environment / BUG, cache or default_cache(), store)
    try:  # also of ours: they name none, so somebody has put it there
        source = image_source(environment, docker_image)
    except NoImage as why:
        return WorkDirectory(environment, path or DEFAULT, problems=why.problems)
    if source is not None:
        return _of_image(source, path, environment, cache or default_cache(), store, image)
    if path is not None and (wrong := _wrong(path)):  # of boxes without an image of their own
        return WorkDirectory(environment, path, problems=(f'task.toml: environment.workdir = "{path}" {wrong}',))
    if repository.is_dir() and (ours or not dockerfile.exists()):
        return WorkDirectory(repository, path or DEFAULT)
    if not dockerfile.exists():
        return WorkDirectory(environment, path or DEFAULT)
    recipe = read_recipe(dockerfile, context=environment)
    chosen = path or recipe.workdir or DEFAULT
    problems = list(recipe.problems)
    if path is None and recipe.workdir is None and DEFAULT not in recipe.folders:
        problems.append("environment/Dockerfile: no WORKDIR, and task.toml has no environment.workdir")
    if chosen == "/":
        problems.append("environment/Dockerfile: the work directory is /; name a folder in environment.workdir")
    roots = _outermost(root for root in recipe.roots if not _below(root, chosen))
    for root in roots:
        if _below(chosen, root):
            problems.append(f"environment/Dockerfile: copies to {root}, around the work directory {chosen}")
        elif root in ("/", "/opt") or any(_below(root, taken) or _below(taken, root) for taken in _TAKEN):
            problems.append(f"environment/Dockerfile: copies to {root}, where boxes have files of their own")
    if problems:  # its files alone are not what the task asks for: the Dockerfile must be built
        source = built(dockerfile, environment)
        return _of_image(source, path, environment, cache or default_cache(), store, image)
    whole = _whole(recipe, chosen, environment)
    if whole is not None and not roots:
        return WorkDirectory(whole, chosen, env=recipe.env)
    home = _made(recipe, chosen, cache or default_cache())
    elsewhere = tuple((home / "elsewhere" / root.lstrip("/"), root) for root in roots)
    return WorkDirectory(home / "work", chosen, elsewhere, recipe.env)


def _of_image(
    source: ImageSource,
    path: str | None,
    environment: Path,
    cache: Path,
    store: ImageStore | None,
    digest: str | None,
) -> WorkDirectory:
    store = store or ImageStore()
    image = store.known(source.key) if digest is None else store.image(digest)
    if image is None:
        return WorkDirectory(environment, path or DEFAULT, source=source)
    chosen = posixpath.normpath(path or image.workdir or "/")
    named = "task.toml: environment.workdir" if path is not None else f"image {image.reference}: WORKDIR"
    problems = []
    if not chosen.startswith("/") or chosen.startswith("//") or chosen == "/":
        problems.append(f'{named} = "{chosen}": name the folder of the work in environment.workdir')
    elif any(_below(chosen, taken) or _below(taken, chosen) for taken in _OURS):
        problems.append(f'{named} = "{chosen}": boxes have files of their own there')
    if not image.root_user:
        problems.append(f"image {image.reference}: USER {image.user}: boxes know root only")
    if problems:
        return WorkDirectory(environment, chosen, problems=tuple(problems), image=image, source=source)
    try:
        lower = store.tree(image, chosen)
    except ImageError as error:
        return WorkDirectory(environment, chosen, problems=(str(error),), image=image, source=source)
    if source.loose is not None:
        lower = _with_loose(lower, source.loose, cache)
    return WorkDirectory(lower, chosen, image=image, source=source)


def _cut(made: WorkDirectory, published: Published, bug: Path, cache: Path, store: ImageStore | None) -> WorkDirectory:
    if made.image is None or made.problems:
        return made
    layers = [(store or ImageStore()).layer(name) for name in made.image.folders]
    try:
        found = cleaned(made.lower, made.path, layers, published, bug, cache)
    except Unclean as why:
        return replace(made, problems=(f"task.toml: {published.image}: {why}",))
    nothing = cache / "nothing"
    (nothing / "folder").mkdir(parents=True, exist_ok=True)
    (nothing / "file").touch()
    covered = []
    for place in found.hidden:
        there = [layer / place.lstrip("/") for layer in layers if os.path.lexists(layer / place.lstrip("/"))]
        if there:
            covered.append((nothing / ("folder" if there[-1].is_dir() else "file"), place))
    hidden = tuple(place for _, place in covered)
    around = [place for place in hidden if any(_below(taken, place) for taken in (made.path, *_OURS))]
    if around:
        return replace(
            made, problems=(f"task.toml: {published.image}: to hide {around[0]} would hide what boxes need",)
        )
    return replace(made, lower=found.work, elsewhere=(*made.elsewhere, *covered), hidden=hidden)


def _with_loose(lower: Path, loose: Path, cache: Path) -> Path:
    """The work directory of an image with a task's own files put into it, as Harbor does for a task without
    Dockerfile."""
    digest = hashlib.sha256(f"{_VERSION}\0{lower}\0".encode())
    for path in sorted(loose.rglob("*")):
        digest.update(os.fsencode(path.relative_to(loose)) + b"\0")
        if path.is_symlink():
            digest.update(b"link\0" + os.fsencode(path.readlink()) + b"\0")
        elif path.is_file():
            digest.update(b"%o\0" % _mode(path) + hashlib.sha256(path.read_bytes()).digest())
    home = cache / digest.hexdigest()[:32]
    if not home.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=cache))
        try:
            made = staging / "work"
            shutil.copytree(lower, made, symlinks=True)
            _put_into(made, loose)
            with contextlib.suppress(OSError):  # another process was first
                made.rename(home)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return home


def _put_into(made: Path, loose: Path) -> None:
    """The files and links of ``loose``, over what is in ``made``: a link that the image has there is replaced, and
    never followed out of it."""
    for path in sorted(loose.rglob("*")):  # a folder before what is in it
        target = made / path.relative_to(loose)
        folder = path.is_dir() and not path.is_symlink()
        there = target.lstat().st_mode if os.path.lexists(target) else None
        if there is not None and stat.S_ISDIR(there):
            if folder:
                continue
            shutil.rmtree(target)
        elif there is not None:
            target.unlink()
        if folder:
            target.mkdir()
        elif path.is_symlink():
            target.symlink_to(path.readlink())
        elif path.is_file():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(target, flags, 0o600), "wb") as stream:
                stream.write(path.read_bytes())
                os.fchmod(stream.fileno(), _mode(path))


def _wrong(path: str) -> str:
    """Why a box cannot have its work directory there; empty where it can."""
    if not path.startswith("/") or path.startswith("//") or posixpath.normpath(path) != path.rstrip("/"):
        return "is no whole path; name a folder such as /app"
    if any(_below(taken, path) for taken in _TAKEN):
        return "hides files that boxes have there; name a folder of the task's own, such as /app"
    return ""


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _outermost(paths: Iterable[str]) -> list[str]:
    found: list[str] = []
    for path in sorted(paths):
        if not found or not any(_below(path, other) for other in found):
            found.append(path)
    return found


def _whole(recipe: Recipe, workdir: str, environment: Path) -> Path | None:
    """The folder that is the work directory as it is, if one ``COPY`` of a whole folder makes all of it."""
    inside = {path: source for path, source in recipe.files.items() if _below(path, workdir)}
    if not inside:
        return None
    path, source = next(iter(inside.items()))
    depth = posixpath.relpath(path, workdir).count("/") + 1
    folder = Path(*source.parts[:-depth])
    if not folder.is_relative_to(environment) or not folder.is_dir():
        return None
    there = {posixpath.join(workdir, found.relative_to(folder).as_posix()): found for found in folder.rglob("*")}
    files = {path: found for path, found in there.items() if found.is_symlink() or not found.is_dir()}
    folders = {path for path in recipe.folders if _below(path, workdir) and path != workdir}
    return folder if files == inside and set(there) - set(files) == folders else None


def _made(recipe: Recipe, workdir: str, cache: Path) -> Path:
    """A folder with ``work`` and ``elsewhere``, made once per content; several processes may ask at once."""
    digest = hashlib.sha256(f"{_VERSION}\0{workdir}\0".encode())
    for folder in sorted(recipe.folders):
        digest.update(b"folder\0" + os.fsencode(folder) + b"\0")
    for path, source in sorted(recipe.files.items()):
        if source.is_symlink():
            what = b"link\0" + os.fsencode(source.readlink())
        else:
            what = b"file %o\0" % _mode(source) + hashlib.sha256(source.read_bytes()).digest()
        digest.update(os.fsencode(path) + b"\0" + what + b"\0")
    home = cache / digest.hexdigest()[:32]
    if home.is_dir():
        return home
    cache.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=cache))
    try:
        _fill(recipe, workdir, staging)
        staging.chmod(0o755)
        try:
            staging.rename(home)
        except OSError:
            if not home.is_dir():  # another process was first
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return home


def _fill(recipe: Recipe, workdir: str, staging: Path) -> None:
    def place(path: str) -> Path:
        if _below(path, workdir):
            return staging / "work" / posixpath.relpath(path, workdir)
        return staging / "elsewhere" / path.lstrip("/")

    (staging / "work").mkdir()
    for folder in recipe.folders:
        place(folder).mkdir(parents=True, exist_ok=True)
    for path, source in recipe.files.items():
        target = place(path)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        else:
            shutil.copyfile(source, target)
            target.chmod(_mode(source))


def _mode(path: Path) -> int:
    return 0o755 if path.stat().st_mode & 0o100 else 0o644
