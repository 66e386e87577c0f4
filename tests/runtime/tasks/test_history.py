"""Tasks out of a made-up repository's commits, measured and proven in real sandboxes."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from liverl import cli_tasks
from runtime.config import Bubblewrap, HistorySource, TaskSet
from runtime.errors import RunError, UserError
from runtime.sandboxes import bwrap
from runtime.task import load_task
from runtime.tasks.generate.commits import commits, resolve
from runtime.tasks.generate.history_tasks import GeneratedHistory, generate_history
from runtime.tasks.graders import graders
from runtime.tasks.prepare import prepare
from runtime.tasks.verify import verify

IMAGE = f"pytest=={pytest.__version__}"
NEEDS_SANDBOX = pytest.mark.skipif(bwrap.why_impossible() is not None, reason=str(bwrap.why_impossible()))

CALC = "def add(a, b):\n    return a + b\n"
TEST = "from shop.calc import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"
HISTORY: list[tuple[str, dict[str, str | None]]] = [
    ("Import", {"shop/__init__.py": "", "shop/calc.py": CALC, "tests/test_calc.py": TEST, "README.md": "A shop.\n"}),
    (
        "Add subtraction\n\nPrices go down, too.",
        {
            "shop/calc.py": CALC + "\n\ndef subtract(a, b):\n    return a - b\n",
            "tests/test_calc.py": TEST.replace("import add", "import add, subtract")
            + "\n\ndef test_subtract():\n    assert subtract(3, 1) == 2\n",
            "README.md": "A shop that subtracts.\n",
        },
    ),
    ("Reword", {"README.md": "A small shop.\n"}),
    (
        "Only tests",
        {"tests/test_more.py": "from shop.calc import add\n\n\ndef test_zero():\n    assert add(0, 0) == 0\n"},
    ),
    (
        "Tidy up, tests too",
        {
            "shop/calc.py": "def add(a, b):\n    return b + a\n\n\ndef subtract(a, b):\n    return a - b\n",
            "tests/test_more.py": "from shop.calc import add\n\n\ndef test_none():\n    assert add(0, 0) == 0\n",
        },
    ),
    (
        "Move",
        {
            "shop/calc.py": None,
            "shop/sums.py": "def add(a, b):\n    return b + a\n",
            "tests/test_calc.py": TEST.replace("calc", "sums"),
            "tests/test_more.py": None,
        },
    ),
    (
        "Tax, in a module of its own",
        {
            "shop/tax.py": "def tax(price):\n    return price * 19 // 100\n",
            "tests/test_tax.py": "from shop.tax import tax\n\n\ndef test_tax():\n    assert tax(200) == 38\n",
        },
    ),
]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "The Shop"
    root.mkdir()

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@localhost"]
        subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)

    git("init", "-q")
    for message, files in HISTORY:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                path.unlink()
            else:
                path.write_text(text)
        git("add", "-A")
        git("commit", "-q", "-m", message)
    # What a hostile repository would have git run.
    (root / ".git" / "hooks" / "post-checkout").write_text(f"#!/bin/sh\ntouch '{tmp_path}/hooked'\n")
    (root / ".git" / "hooks" / "post-checkout").chmod(0o755)
    return root


def make(repository: Path, out: Path, *, limit: int = 10) -> GeneratedHistory:
    async def work() -> GeneratedHistory:
        async with graders(Bubblewrap(), state=out.parent / "state") as (provider, verifier):
            made = await generate_history(
                repository,
                out=out,
                name="commits",
                limit=limit,
                max_commits=50,
                provider=provider,
                verifier=verifier,
                image=IMAGE,
                workers=2,
                on_progress=lambda text: None,
            )
            tasks = [load_task(path) for path in made.tasks]
            report = await verify(tasks, provider=provider, verifier=verifier, concurrency=2, memory_mib=1024)
            assert report.ok, report.to_json()
            return made

    return asyncio.run(work())


@pytest.mark.sandbox
@pytest.mark.network
@NEEDS_SANDBOX
def test_commits_become_proven_tasks(repository: Path, tmp_path: Path) -> None:
    made = make(repository, tmp_path / "tasks")
    assert made.commits == 4
    assert made.left_out == {
        "it removes code, which a repair that only adds and replaces files cannot do": 1,
        "its tests pass before it too": 1,
    }
    tax, subtract = (load_task(path) for path in made.tasks)
    assert (
        tax.id.startswith("the-shop-")
        and tax.liverl.family == "commit"
        and tax.liverl.split_key.startswith(tax.id.removeprefix("the-shop-"))
    )
    assert tax.liverl.fail_to_pass == ("tests/test_tax.py::test_tax",) and tax.liverl.pass_to_pass == ()
    assert not (tax.repository / "shop" / "tax.py").exists() and tax.liverl.artifacts == ("shop",)
    assert set(subtract.liverl.fail_to_pass) == {"tests/test_calc.py::test_add", "tests/test_calc.py::test_subtract"}
    assert "> Add subtraction\n>\n> Prices go down, too.\n" in subtract.instruction
    assert (subtract.repository / "README.md").read_text() == "A shop that subtracts.\n", "no part of the repair"
    assert (subtract.repository / "shop" / "calc.py").read_text() == CALC
    assert not (tmp_path / "hooked").exists()


@pytest.mark.sandbox
@pytest.mark.network
@NEEDS_SANDBOX
def test_no_more_than_asked_for_newest_first(repository: Path, tmp_path: Path) -> None:
    made = make(repository, tmp_path / "tasks", limit=1)
    (task,) = (load_task(path) for path in made.tasks)
    assert task.liverl.fail_to_pass == ("tests/test_tax.py::test_tax",) and made.commits == 1


def test_commits_that_change_code_and_tests(repository: Path) -> None:
    found = list(commits(repository, limit=50))
    assert [one.subject for one in found] == [
        "Tax, in a module of its own",
        "Move",
        "Tidy up, tests too",
        "Add subtraction",
    ]
    assert found[-1].body == "Prices go down, too." and "README.md" in found[-1].changed
    assert [one.subject for one in commits(repository, limit=2)] == ["Tax, in a module of its own", "Move"]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    app = typer.Typer()
    cli_tasks.register(app)

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["tasks", "generate", str(tmp_path), "-o", str(tmp_path / "out"), *arguments])
        assert isinstance(result.exception, UserError)
        return str(result.exception)

    assert "leave out --bugs" in call("--from-history", "--bugs", "2")
    assert "give the folder of a git repository" in call("--from-history", "--sandbox", "process")


def test_a_range_of_commits(repository: Path) -> None:
    subjects = [one.subject for one in commits(repository, limit=50, revision="HEAD~1", after="HEAD~3")]
    assert subjects == ["Move", "Tidy up, tests too"]
    for revision in ("nowhere", "--all"):
        with pytest.raises(UserError, match=rf"git rev-parse {revision}: .*commit, tag or branch"):
            list(commits(repository, limit=50, revision=revision))


@pytest.mark.sandbox
@pytest.mark.network
@NEEDS_SANDBOX
def test_as_a_source_of_a_spec_kept_by_commit(repository: Path, tmp_path: Path) -> None:
    def prepared(**changes: object) -> list[str]:
        source = HistorySource.model_validate({"repository": str(repository), "count": 5, "max_commits": 50, **changes})
        problems: list[str] = []
        tasks = prepare(TaskSet(name="commits", source=source), cache=tmp_path / "cache", on_problem=problems.append)
        assert problems == [] and {task.liverl.source for task in tasks} <= {"commits"}
        return [task.instruction.splitlines()[2] for task in tasks]

    def commit(name: str) -> str:
        return resolve(repository, name)

    both = {"> Add subtraction", "> Tax, in a module of its own"}
    assert set(prepared()) == both
    assert prepared(after=commit("HEAD~5")) == ["> Tax, in a module of its own"]
    assert prepared(revision=commit("HEAD~5")) == ["> Add subtraction"]
    kept = tmp_path / "cache" / "tasks"
    before = sorted(path.name for path in kept.iterdir() if path.is_dir())
    subprocess.run(["git", "tag", "v1"], cwd=repository, check=True)
    assert set(prepared(revision="v1")) == both, "the same commit by another name"
    assert sorted(path.name for path in kept.iterdir() if path.is_dir()) == before and len(before) == 3
    with pytest.raises(RunError, match="1 because its tests pass before it too"):
        prepared(revision=commit("HEAD~2"), after=commit("HEAD~3"))
