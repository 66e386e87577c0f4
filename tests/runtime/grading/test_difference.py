"""What a repair is: every kind of entry that a repository can hold reaches the verifier, and nothing else does."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePosixPath

import pytest

from runtime.config import Bubblewrap
from runtime.errors import TrialError
from runtime.grading.artifacts import select
from runtime.grading.difference import _known as known_of
from runtime.grading.difference import collect, difference, put
from runtime.grading.make import make_verifier
from runtime.sandboxes.base import SandboxProvider, SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.entries import Entry, Folder, Link, Program, Removed
from runtime.task import Task, load_task

from .conftest import Run

pytestmark = pytest.mark.sandbox

BEFORE = """mkdir -p docs/old empty bin; echo a > docs/a; echo b > docs/old/b; echo c > c; ln -s c link
echo 'echo hi' > bin/run; echo 'echo no' > bin/stop; chmod +x bin/stop"""
CHANGES: dict[str, tuple[str, dict[str, Entry]]] = {
    "a file deleted": ("rm c", {"c": Removed()}),
    "a folder deleted": (
        "rm -r docs",
        {"docs": Removed(), "docs/a": Removed(), "docs/old": Removed(), "docs/old/b": Removed()},
    ),
    "an empty folder deleted": ("rmdir empty", {"empty": Removed()}),
    "an empty folder made": ("mkdir -p new/er", {"new/er": Folder()}),
    "a file renamed": ("mv c d", {"c": Removed(), "d": b"c\n"}),
    "made executable": ("chmod +x bin/run", {"bin/run": Program(b"echo hi\n")}),
    "no more executable": ("chmod -x bin/stop", {"bin/stop": b"echo no\n"}),
    "a link made": ("ln -s docs/a again", {"again": Link("docs/a")}),
    "a link to a folder made": ("ln -s ../docs bin/docs", {"bin/docs": Link("../docs")}),
    "a link in the place of a file": ("mv c d; ln -s d c", {"c": Link("d"), "d": b"c\n"}),
    "a link turned elsewhere": ("ln -sf docs/a link", {"link": Link("docs/a")}),
    "a file in the place of a link": ("rm link; echo l > link", {"link": b"l\n"}),
    "a file in the place of a folder": (
        "rm -r docs; echo d > docs",
        {"docs": b"d\n", "docs/a": Removed(), "docs/old": Removed(), "docs/old/b": Removed()},
    ),
    "a folder in the place of a file": ("rm c; mkdir c; echo x > c/x", {"c": Removed(), "c/x": b"x\n"}),
    "an empty folder in the place of a file": ("rm c; mkdir c", {"c": Folder()}),
    "an odd name": ("echo o > \"$(printf 'o \\377\\nx')\"", {"o \udcff\nx": b"o\n"}),
    "what is no file": ("mkfifo pipe", {}),
    "nothing": ("touch c", {}),
}


@pytest.fixture
def bare(tmp_path: Path, repository: Path) -> Task:
    """A task that a script judges, so that all of its repository is an agent's."""
    import subprocess

    root = tmp_path / "bare"
    (root / "environment" / "repo").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "tests" / "test.sh").write_text("exit 1\n")
    (root / "instruction.md").write_text("Anything.\n")
    (root / "task.toml").write_text("")
    subprocess.run(["sh", "-ec", BEFORE], cwd=root / "environment" / "repo", check=True)
    return load_task(root)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_arrives_as_it_was_made(run: Run, provider: SandboxProvider, bare: Task, name: str) -> None:
    script, expected = CHANGES[name]

    async def main() -> None:
        request = SandboxRequest(name="difference", lower=bare.repository)
        first, second = await provider.start(request), await provider.start(request)
        try:
            done = await first.exec(["sh", "-ec", script], timeout_sec=30)
            assert done.exit_code == 0, done.stderr
            changes = await collect(bare, first)
            assert {path.removeprefix("/app/"): entry for path, entry in changes.items()} == expected
            workdir = PurePosixPath("/app")
            known = known_of(bare.repository, workdir, ["/app"])
            tree = await first.tree(["/app"], max_bytes=64, known=known)  # what is known counts nothing
            assert difference(bare.repository, workdir, tree, ["/app"]) == changes
            selection = select(bare, changes)
            assert selection.problem is None and dict(selection.files) == changes
            await put(second, selection.files)
            assert await collect(bare, second) == changes
        finally:
            await first.stop()
            await second.stop()

    run(main())


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc", "../app2/x", "/", "docs/../../x"])
def test_a_link_out_of_the_tree_is_refused_by_name(bare: Task, target: str) -> None:
    selection = select(bare, {"/app/out": Link(target), "/app/new": b"n"})
    assert set(selection.files) == {"/app/new"} and set(selection.refused) == {"out"}


@pytest.mark.parametrize(
    ("script", "check"),
    [
        ("rm /app/secret.env", "[ ! -e /app/secret.env ]"),
        ("printf '#!/bin/sh\\necho hi\\n' > /app/run.sh; chmod +x /app/run.sh", '[ "$(/app/run.sh)" = hi ]'),
        ("mkdir /app/.git; echo x > /app/.git/HEAD", "[ -f /app/.git/HEAD ]"),
        ("ln -s secret.env /app/current", '[ "$(readlink /app/current)" = secret.env ]'),
    ],
)
def test_such_repairs_are_graded(run: Run, isolated: BubblewrapProvider, bare: Task, script: str, check: str) -> None:
    (bare.repository / "secret.env").write_text("s\n")
    reward = f"if {check}; then r=1; else r=0; fi; echo $r > /logs/verifier/reward.txt\n"
    (bare.tests / "test.sh").write_text(reward)

    async def main() -> tuple[float, float]:
        box = await isolated.start(SandboxRequest(name="agent", lower=bare.repository))
        try:
            await box.exec(shlex.split(f"sh -c {shlex.quote(script)}"), timeout_sec=30)
            changes = await collect(bare, box)
        finally:
            await box.stop()
        verifier = make_verifier(Bubblewrap(), isolated)
        return (await verifier.grade(bare, changes)).reward, (await verifier.grade(bare, {})).reward

    assert run(main()) == (1.0, 0.0)


def test_the_tests_cannot_be_removed(task: Task) -> None:
    gone: dict[str, Entry] = {f"/app/{name}": Removed() for name in ("tests", "tests/test_calc.py", "conftest.py")}
    assert set(select(task, gone).files) == set()


def test_too_many_links_are_refused(run: Run, provider: SandboxProvider, bare: Task) -> None:
    """Each was walked part by part, and none was counted."""
    script = "import os\nfor i in range(21000): os.symlink('a/' * 900 + 'b', f'l{i}')"

    async def main() -> None:
        box = await provider.start(SandboxRequest(name="links", lower=bare.repository))
        try:
            await box.exec(["python3", "-c", script], timeout_sec=60)
            for fetch in (collect(bare, box), box.download([box.workdir if hasattr(box, "workdir") else "/app"])):
                with pytest.raises(TrialError) as caught:
                    await fetch
                assert caught.value.handling.grade, caught.value
        finally:
            await box.stop()

    run(main())
