"""A work directory whose git repository knows nothing that came after a task's base commit.

Images of published sets hold clones: later commits lie in packs, and reflog, tags, remotes, stashes, notes, LFS,
worktrees, submodules and alternates name them. Nothing of such a repository is kept. A new one is made beside it, of
the objects that the base commit reaches, and of no setting, hook or name of the old. Git reads objects here and
nothing else: it never sees the stranger's configuration or attributes, and never a folder as a work tree but to apply
a patch. What other repositories an image holds, is named, for boxes to hide.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runtime.files import write_whole
from runtime.oci.merged import merge
from runtime.task_format.published import Published

_VERSION = 2
"""Part of the cache key: raise it when the same image would give another folder."""
BUG = "bug.patch"
"""In ``environment/``: what breaks the image's repository."""
_GIT_SEC = 1800.0
_SMALL = 64 << 20
"""Bytes of a file of git's own that is read here; refs of a large mirror are some MiB."""
_BUNDLES = (b"# v2 git bundle", b"# v3 git bundle", b"PACK\0\0\0")
"""How files begin that hold a repository's objects, by whatever name (``gitformat-bundle``, ``gitformat-pack``)."""
_HASH = re.compile(r"[0-9a-f]{40}")
_WHO = "liverl <liverl@localhost> 1000000000 +0000"
_MESSAGE = "The repository as the task has it"


class Unclean(Exception):
    """Why no such repository can be made."""


@dataclass(frozen=True)
class Cleaned:
    """``work``: the work directory, never to be written; ``hidden``: folders of the image that boxes must not show."""

    work: Path
    hidden: tuple[str, ...]


def cleaned(work: Path, workdir: str, layers: Sequence[Path], published: Published, bug: Path, cache: Path) -> Cleaned:
    """``work`` (the folder ``workdir`` of an image) with a new repository, made once per content; several processes may
    ask at once. layers: of the image, the lowest first. bug: a patch that is applied first, if it is there. Raises
    ``Unclean``, ``OSError``."""
    broken = bug.read_bytes() if bug.is_file() else b""
    said = [_VERSION, str(work), workdir, published.base_commit, published.history, list(published.hidden)]
    home = cache / hashlib.sha256(json.dumps(said).encode() + b"\0" + broken).hexdigest()[:32]
    note = home / "cleaned.json"
    if not note.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=cache))
        try:
            hidden = _make(work, workdir, layers, published, broken, staging)
            write_whole(staging / "cleaned.json", json.dumps(hidden).encode())
            staging.chmod(0o755)
            try:
                staging.rename(home)
            except OSError:
                if not note.is_file():  # another process was first
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Cleaned(home / "work", tuple(json.loads(note.read_bytes())))


def _make(
    work: Path, workdir: str, layers: Sequence[Path], published: Published, broken: bytes, staging: Path
) -> list[str]:
    if shutil.which("git") is None:
        raise Unclean("git is not here, and the repository's history must be cut: sudo apt-get install -y git")
    made = staging / "work"
    merge([work], "/", made)  # hard links: what is changed below is replaced, never written
    common, ours, objects, elsewhere = _repository(work, workdir, layers)
    for entry in _git_entries(made):
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    hidden = {*elsewhere, *(path for path in published.hidden if not _below(path, workdir))}
    for path in (made / PurePosixPath(path).relative_to(workdir) for path in published.hidden if _below(path, workdir)):
        if any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(made)):
            raise Unclean(f"{published.set} hides {path.relative_to(made)}, which lies behind a link")
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    base = published.base_commit or _head(common, ours)
    git = _Git(staging / "new.git")
    git.borrow(objects)
    if git.run("cat-file", "-t", base, check=False).strip() != b"commit":
        raise Unclean(f"the image's repository has no commit {base}")
    _remove_stores(made, {os.fsdecode(name) for name in git.run("ls-tree", "-rz", "--name-only", base).split(b"\0")})
    known = [line for line in _text(common / "shallow").split() if _HASH.fullmatch(line)]
    if known:
        (git.folder / "shallow").write_text("".join(f"{line}\n" for line in known))
    patched: set[bytes] = set()
    if broken:
        patch = staging / "patch"
        patch.write_bytes(broken)
        git.run("apply", "--whitespace=nowarn", str(patch.resolve()), work=made)
        counted = git.run("apply", "--numstat", "-z", str(patch.resolve()), work=made)
        patched = {line.split(b"\t", 2)[2] for line in filter(None, counted.split(b"\0"))}
        patch.unlink()
    tree = git.tree_of(made, base, also=patched)
    head = base
    if published.history == "none":
        head = git.commit(tree, ())
    elif tree != git.text("rev-parse", f"{base}^{{tree}}"):
        head = git.commit(tree, (base,))
    git.own(head)
    (git.folder / "description").unlink(missing_ok=True)
    git.folder.rename(made / ".git")
    return sorted(_outermost(hidden))


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _outermost(paths: Iterable[str]) -> list[str]:
    found: list[str] = []
    for path in sorted(paths):
        if not any(_below(path, other) for other in found):
            found.append(path)
    return found


def _git_entries(root: Path) -> list[Path]:
    """Every ``.git`` below: the repository's own, and those of repositories in it."""
    found = []
    for folder, folders, files in os.walk(root):
        found += [Path(folder) / name for name in (*folders, *files) if name.lower() == ".git"]
        folders[:] = [name for name in folders if name.lower() != ".git"]
    return found


def _remove_stores(made: Path, tracked: set[str]) -> None:
    """Remove repositories, folders of objects, bundles and packs that the base commit does not have: whoever left them
    there may have left what came later."""
    folders_tracked = {str(parent) for name in tracked if name for parent in PurePosixPath(name).parents}
    for folder, folders, files in os.walk(made):
        inside = Path(folder).relative_to(made)
        for name in list(folders):
            place = Path(folder) / name
            if str(inside / name) not in folders_tracked and not place.is_symlink() and _is_store(place):
                shutil.rmtree(place)
                folders.remove(name)
        for name in files:
            if str(inside / name) not in tracked and _is_bundle(Path(folder) / name):
                (Path(folder) / name).unlink()


def _is_store(folder: Path) -> bool:
    bare = (folder / "objects").is_dir() and (folder / "refs").is_dir() and (folder / "HEAD").is_file()
    return bare or (folder.name == "objects" and (folder / "pack").is_dir() and (folder / "info").is_dir())


def _is_bundle(path: Path) -> bool:
    if not stat.S_ISREG(path.lstat().st_mode):
        return False
    with path.open("rb") as file:
        return file.read(15).startswith(_BUNDLES)


# The old repository: where its objects are, and which others there are.


def _repository(work: Path, workdir: str, layers: Sequence[Path]) -> tuple[Path, Path, list[Path], set[str]]:
    """Folder of the old repository, that of this work tree's ``HEAD``, all folders of objects, and the places of the
    image, outside of the work directory, that hold repositories or other work trees."""
    elsewhere: set[str] = set()
    places: list[Path] = []
    for layer in layers:
        for folder, folders, files in os.walk(layer):
            inside = "/" + Path(folder).relative_to(layer).as_posix().removeprefix(".")
            if _below(inside, workdir) or inside in ("/proc", "/sys"):
                folders[:] = []
                continue
            bundles = (name for name in files if name.endswith((".bundle", ".gitbundle", ".pack")))
            elsewhere |= {f"{inside.rstrip('/')}/{name}" for name in bundles if _is_bundle(Path(folder) / name)}
            if {"objects", "refs"} <= set(folders) and "HEAD" in files:
                elsewhere.add(inside)
                places.append(Path(folder))
                folders[:] = []
            elif ".git" in files and "gitdir:" in _text(Path(folder) / ".git") and inside != "/":
                elsewhere.add(inside)
                folders[:] = []
            elif {"pack", "info"} <= set(folders) and Path(folder).name == "objects":
                elsewhere.add(inside)  # objects alone, that alternates name
                places.append(Path(folder).parent)
                folders[:] = []
    own = work / ".git"
    common = ours = own
    roots = [root.resolve() for root in (work, *layers)]
    if own.is_symlink() or not own.is_dir():
        named = _text(own).partition("gitdir:")[2].strip()
        inside = os.path.normpath(f"{workdir}/{named}" if named and not named.startswith("/") else named or "/")
        found = [place for layer in layers if (place := layer / inside.lstrip("/")).is_dir()]
        if not named or not found:
            raise Unclean(f"{workdir} is no git repository")
        ours = common = found[-1]
        if further := _text(ours / "commondir").strip():
            common = Path(os.path.normpath(ours / further))
    if not all(_inside(place, roots) for place in (ours, common, common / "objects")):
        raise Unclean(f"{workdir}/.git leads out of the image")
    folders_of_objects = [place / "objects" for place in (common, *places)]
    return common, ours, [place for place in folders_of_objects if _inside(place, roots)], elsewhere


def _inside(place: Path, roots: Sequence[Path]) -> bool:
    """Whether links in the stranger's files leave ``place`` in what was unpacked: on this host they would be followed
    to repositories of the host."""
    return any(place.resolve().is_relative_to(root) for root in roots)


def _text(path: Path) -> str:
    """Of a small file; empty for what is none, links among them."""
    try:
        status = path.lstat()
    except OSError:
        return ""
    if not stat.S_ISREG(status.st_mode) or status.st_size > _SMALL:
        return ""
    return path.read_text(errors="replace")


def _head(common: Path, ours: Path) -> str:
    text = _text(ours / "HEAD").strip()
    name = text.removeprefix("ref:").strip()
    if name != text and ".." not in name:
        text = _text(common / name).strip() if _inside(common / name, [common.resolve()]) else ""
        lines = (line.split() for line in _text(common / "packed-refs").splitlines())
        text = text or next((words[0] for words in lines if words[1:] == [name]), "")
    if not _HASH.fullmatch(text):
        raise Unclean("the image's repository has no HEAD")
    return text


class _Git:
    """A new repository, without settings of the host, of the user or of the stranger's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": "/nonexistent",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_DIR": str(folder),
            "LC_ALL": "C",
        }
        self.run("init", "-q", "--template=", "--initial-branch=main", str(folder))
        self.run("config", "core.bare", "false")
        self.run("config", "gc.auto", "0")
        (folder / "objects" / "pack").mkdir(parents=True, exist_ok=True)

    def run(self, *words: str, work: Path | None = None, stdin: bytes = b"", check: bool = True) -> bytes:
        env = self._env | ({"GIT_WORK_TREE": str(work)} if work is not None else {})
        try:
            done = subprocess.run(
                ["git", *words], cwd=work, env=env, input=stdin, capture_output=True, timeout=_GIT_SEC, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Unclean(f"git {words[0]} took more than {_GIT_SEC:.0f} s") from error
        if check and done.returncode:
            raise Unclean(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()[-300:]}")
        return done.stdout

    def text(self, *words: str, stdin: bytes = b"") -> str:
        return self.run(*words, stdin=stdin).decode().strip()

    def borrow(self, folders: Sequence[Path]) -> None:
        """Take the objects of others over as links, and nothing of what else their folders say (alternates)."""
        for folder in folders:
            for place in ("pack", *(f"{byte:02x}" for byte in range(256))):
                source = folder / place
                if source.is_symlink() or not source.is_dir():
                    continue
                (self.folder / "objects" / place).mkdir(exist_ok=True)
                for entry in source.iterdir():
                    if place == "pack" and entry.suffix not in (".pack", ".idx"):
                        continue
                    target = self.folder / "objects" / place / entry.name
                    if stat.S_ISREG(entry.lstat().st_mode) and not target.exists():
                        try:
                            os.link(entry, target)
                        except OSError:  # another file system
                            shutil.copyfile(entry, target)

    def tree_of(self, work: Path, base: str, *, also: set[bytes]) -> str:
        """The tree of what git tracks at ``base`` as ``work`` has it, read file by file and by nobody's rules."""
        listed = self.run("ls-tree", "-r", "-z", base).split(b"\0")
        known: dict[bytes, tuple[bytes, bytes]] = {}
        for line in filter(None, listed):
            facts, _, name = line.partition(b"\t")
            mode, _, sha = facts.split(b" ")
            known[name] = (mode, sha)
        entries = []
        for name in sorted({*known, *also}):
            mode, sha = known.get(name, (b"100644", b""))
            if mode == b"160000":
                entries.append(b"%s %s\t%s" % (mode, sha, name))
                continue
            found = self._file(work, name)
            if found is None:
                continue
            kind, content = found
            if mode == b"100755" and kind == b"100644":  # images are unpacked with rights of their own
                kind = mode
            digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest().encode()
            if digest != sha:
                self.run("hash-object", "-w", "--stdin", stdin=content)
            entries.append(b"%s %s\t%s" % (kind, digest, name))
        self.run("update-index", "-z", "--index-info", stdin=b"".join(entry + b"\0" for entry in entries))
        return self.text("write-tree")

    @staticmethod
    def _file(work: Path, name: bytes) -> tuple[bytes, bytes] | None:
        path = work / os.fsdecode(name)
        try:
            if any(parent.is_symlink() for parent in path.parents if parent != work and parent.is_relative_to(work)):
                return None
            status = path.lstat()
        except OSError:
            return None
        if stat.S_ISLNK(status.st_mode):
            return b"120000", os.fsencode(path.readlink())
        if stat.S_ISREG(status.st_mode):
            return (b"100755" if status.st_mode & 0o100 else b"100644"), path.read_bytes()
        return None

    def commit(self, tree: str, parents: Sequence[str]) -> str:
        lines = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {_WHO}", f"committer {_WHO}"]
        text = "\n".join([*lines, "", _MESSAGE, ""]).encode()
        return self.text("hash-object", "-w", "-t", "commit", "--stdin", stdin=text)

    def own(self, head: str) -> None:
        """Keep what ``head`` reaches, in one pack, and nothing else; ``main`` is its name."""
        reached = self.run("rev-list", "--objects", head)
        place = self.folder / "objects.new"
        (place / "pack").mkdir(parents=True)
        (place / "info").mkdir()
        self.run("pack-objects", "-q", str(place.resolve() / "pack" / "pack"), stdin=reached)
        shutil.rmtree(self.folder / "objects")
        place.rename(self.folder / "objects")
        (self.folder / "refs" / "heads").mkdir(parents=True, exist_ok=True)
        (self.folder / "refs" / "heads" / "main").write_text(f"{head}\n")
        (self.folder / "HEAD").write_text("ref: refs/heads/main\n")
