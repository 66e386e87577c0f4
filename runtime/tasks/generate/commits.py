"""A repository's own commits that change code and tests: the trees before and after, read with git.

Reads objects only. Does not know what is made of a commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.tasks.generate import git
from runtime.tasks.generate.sources import Package, is_test, why_left_out

_SEPARATOR = "\x1f"


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
    return git.run(repository, *name, about=revision).decode().strip()


def commits(repository: Path, *, limit: int, revision: str = "HEAD", after: str | None = None) -> Iterator[Commit]:
    """Those of the newest ``limit`` commits of the main line that change both code and tests, newest first.

    ``revision``: where the line ends; ``after``: without the commits that this one contains.

    Raises ``UserError`` for a folder without commits, ``MachineError`` without git.
    """
    form = _SEPARATOR.join(["%H", "%P", "%s", "%b"])
    line = [resolve(repository, revision), *([f"^{resolve(repository, after)}"] if after is not None else [])]
    wanted = ("--first-parent", "--no-merges", f"--max-count={limit}", "-z", f"--format={form}")
    log = git.run(repository, "log", *wanted, *line)
    for entry in log.decode(errors="replace").split("\0"):
        sha, parents, subject, body = entry.split(_SEPARATOR, 3) if _SEPARATOR in entry else ("", "", "", "")
        if len(parents.split()) != 1:
            continue
        names = git.run(repository, "diff-tree", "-r", "-z", "--no-renames", "--name-only", parents, sha.strip())
        commit = Commit(sha.strip(), parents, subject, body.strip(), tuple(git.names(names)))
        if commit.code_files and any(path.endswith(".py") for path in commit.test_files):
            yield commit


def tree(repository: Path, revision: str, into: Path, *, name: str) -> Package:
    """The files of a revision, written below ``into``, but for those that no package has."""
    into.mkdir(parents=True)
    written: list[str] = []
    for path, content in git.files_of(repository, revision):
        if why_left_out(path, size=len(content)) is None:
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            written.append(path)
    return Package(name=name, version=revision[:12], root=into, tracked=tuple(written))
