"""Real git repositories as images of published sets hold them: later commits in every place where git keeps any."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SECRET = "the-later-repair"
_ENV = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    **{f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    **{f"GIT_{who}_DATE": "2020-01-01T00:00:00+0000" for who in ("AUTHOR", "COMMITTER")},
    "GIT_ALLOW_PROTOCOL": "file",
}


def git(folder: Path, *words: str, check: bool = True) -> str:
    command = ["git", "-c", "init.defaultBranch=main", "-c", "gc.auto=0", *words]
    done = subprocess.run(command, cwd=folder, env=_ENV, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, (words, done.stderr)
    return done.stdout.strip()


def commit(folder: Path, files: Mapping[str, str], message: str) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


@dataclass(frozen=True)
class Clone:
    """The tree of an image: ``root/testbed`` is the clone, at ``base``. ``later``: commits and other objects that
    nobody may find; ``elsewhere``: places of the image besides, that hold some."""

    root: Path
    base: str
    before: str
    later: tuple[str, ...]
    elsewhere: tuple[str, ...]

    @property
    def work(self) -> Path:
        return self.root / "testbed"


def clone(folder: Path, files: Mapping[str, str]) -> Clone:
    """A clone of a repository that goes on after its base commit, with everything that git may keep of that."""
    root, upstream, library = folder / "image", folder / "upstream", folder / "library"
    upstream.mkdir(parents=True)
    library.mkdir()
    git(library, "init", "-q")
    commit(library, {"part.py": "part = 1\n"}, "Part")
    library_later = commit(library, {"part.py": f"part = 2  # {SECRET}\n"}, "Part again")
    git(upstream, "init", "-q")
    before = commit(upstream, {"README": "A thing.\n"}, "First")
    base = commit(upstream, {**files, "link": "x"}, "Base")
    git(upstream, "-c", "protocol.file.allow=always", "submodule", "add", "-q", f"file://{library}", "vendored")
    git(upstream, "reset", "-q", "--hard", base)
    repair = commit(upstream, {"answer.py": f"# {SECRET}\n"}, f"Repair {SECRET}")
    git(upstream, "tag", "-a", "v2", "-m", SECRET)
    tag = git(upstream, "rev-parse", "v2")
    git(upstream, "notes", "add", "-m", f"note {SECRET}", base)
    note = git(upstream, "rev-parse", "refs/notes/commits")
    (root / "opt" / "mirror").mkdir(parents=True)
    git(root / "opt", "clone", "-q", "--mirror", str(upstream), "mirror/objects.git")
    mirror = "/opt/mirror/objects.git"

    work = root / "testbed"
    git(root, "clone", "-q", "--no-local", str(upstream), "testbed")
    git(work, "fetch", "-q", "origin", "refs/notes/*:refs/notes/*")
    (work / "answer.py").write_text(f"stashed {SECRET}\n")
    git(work, "stash")
    stash = git(work, "rev-parse", "refs/stash")
    git(work, "reset", "-q", "--hard", base)  # the reflog knows where it was
    orphan = commit(work, {"extra.py": f"# {SECRET}\n"}, "Nobody's")
    git(work, "reset", "-q", "--hard", base)
    git(work, "worktree", "add", "-q", str(root / "srv" / "tree"), repair)
    git(work, "replace", base, repair)
    git(work, "pack-refs", "--all")
    git(work, "repack", "-q", "-a", "-d")
    (work / ".git" / "objects" / "info" / "alternates").write_text(f"{mirror}/objects\n")
    lfs = work / ".git" / "lfs" / "objects" / "ab" / "cd"
    lfs.mkdir(parents=True)
    (lfs / ("abcd" * 16)).write_text(SECRET)
    for name in ("ORIG_HEAD", "FETCH_HEAD", "MERGE_HEAD"):
        (work / ".git" / name).write_text(f"{repair}\n")
    hook = work / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\necho {SECRET}\n")
    hook.chmod(0o755)
    git(work, "config", "core.fsmonitor", f"touch {folder}/ran; false")
    git(work, "config", "filter.evil.clean", f"touch {folder}/ran; cat")
    git(work / "..", "clone", "-q", str(library), "testbed/vendored")
    (work / ".gitattributes").write_text("*.py filter=evil\n")
    return Clone(root, base, before, (repair, tag, note, stash, orphan, library_later), (mirror, "/srv/tree"))
