"""A repository's own commits that change code and tests: the trees before and after, read with git.

Reads objects only: no hook, filter or configuration of the repository runs. Does not know what is made of a commit.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import MachineError, UserError
from runtime.tasks.generate.sources import Package, is_test

_GIT = (
    *("git", "-c", "safe.directory=*", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"),
    *("-c", "core.quotePath=false", "--no-replace-objects", "--no-pager"),
)
_SEPARATOR = "\x1f"
_LIMIT_SEC = 300.0


@dataclass(frozen=True)
class Commit:
    """One commit with one parent. ``changed``: paths of the files that differ, deleted ones included."""

    sha: str
    parent: str
    subject: str
    body: str
    changed: tuple[str, ...]

    @property
    def test_files(self) -> tuple[str, ...]:
        return tuple(path for path in self.changed if is_test(path))

    @property
    def code_files(self) -> tuple[str, ...]:
        return tuple(path for path in self.changed if path.endswith(".py") and not is_test(path))


def resolve(repository: Path, revision: str) -> str:
    """The commit id of a revision. Raises ``UserError`` where there is none, ``MachineError`` without git."""
    name = ("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    return _git(repository, *name, about=revision).decode().strip()


def commits(repository: Path, *, limit: int, revision: str = "HEAD", after: str | None = None) -> Iterator[Commit]:
    """Those of the newest ``limit`` commits of the main line that change both code and tests, newest first.

    ``revision``: where the line ends; ``after``: without the commits that this one contains.

    Raises ``UserError`` for a folder without commits, ``MachineError`` without git.
    """
    form = _SEPARATOR.join(["%H", "%P", "%s", "%b"])
    line = [resolve(repository, revision), *([f"^{resolve(repository, after)}"] if after is not None else [])]
    wanted = ("--first-parent", "--no-merges", f"--max-count={limit}", "-z", f"--format={form}")
    log = _git(repository, "log", *wanted, *line)
    for entry in log.decode(errors="replace").split("\0"):
        sha, parents, subject, body = entry.split(_SEPARATOR, 3) if _SEPARATOR in entry else ("", "", "", "")
        if len(parents.split()) != 1:
            continue
        names = _git(repository, "diff-tree", "-r", "-z", "--no-renames", "--name-only", parents, sha)
        changed = tuple(name for name in names.decode(errors="replace").split("\0") if name)
        commit = Commit(sha.strip(), parents, subject, body.strip(), changed)
        if commit.code_files and any(path.endswith(".py") for path in commit.test_files):
            yield commit


def tree(repository: Path, revision: str, into: Path, *, name: str) -> Package:
    """The files of a revision, unpacked below ``into``. Links are left out, as of any package."""
    archive = _git(repository, "-c", "tar.umask=0022", "archive", "--format=tar", revision)
    into.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isreg() or member.isdir():
                tar.extract(member, into, filter="data")
    return Package(name=name, version=revision[:12], root=into)


def _git(repository: Path, *arguments: str, about: str = "") -> bytes:
    command = [*_GIT, "-C", str(repository), *arguments]
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=_LIMIT_SEC, check=False)
    except FileNotFoundError as error:
        raise MachineError("git is missing", fix="apt-get install -y git") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{repository}: git {arguments[0]} took longer than {_LIMIT_SEC:.0f} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        what = f" {about}" if about else ""
        raise UserError(
            f"{repository}: git {arguments[0]}{what}: {said[0]}; give the folder of a git repository with commits"
            + (", and a commit, tag or branch of it" if about else "")
        )
    return done.stdout
