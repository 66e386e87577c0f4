"""Bug injection into a made-up package, with the real probe and the package's real tests."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from runtime.errors import Termination, TrialError, UserError
from runtime.grading.base import Verdict, Verifier
from runtime.sandboxes.base import SandboxProvider
from runtime.task import Task, load_task
from runtime.tasks.generate import package_tasks
from runtime.tasks.generate.combine import broken_files
from runtime.tasks.generate.inject import Injection
from runtime.tasks.generate.package_tasks import generate_package, listed
from runtime.tasks.generate.prober import PROBE, Outcome, Prober, Report, Run
from runtime.tasks.generate.sources import open_repository
from runtime.tasks.generate.split import SHARES, Split, split_of
from runtime.tasks.generate.survey import survey
from tests.runtime.tasks.conftest import PlainProvider


def generate(
    root: Path,
    out: Path,
    provider: PlainProvider,
    *,
    split: Split | None = None,
    limit: int = 3,
    bugs: int = 1,
    verifier: Verifier | None = None,
    said: list[str] | None = None,
) -> Injection:
    return asyncio.run(
        generate_package(
            open_repository(root),
            out=out,
            name="made-up",
            split=split,
            limit=limit,
            per_kind_fraction=0.25,
            seed=3,
            split_seed=0,
            provider=provider,
            verifier=verifier,
            cache=out.parent / "cache",
            workers=2,
            on_progress=(said if said is not None else []).append,
            bugs_per_task=bugs,
        )
    )


@pytest.mark.deep
def test_bugs_are_told_by_the_tests_and_repaired_by_the_solution(
    shop: Path, tmp_path: Path, plain_provider: PlainProvider
) -> None:
    injection = generate(shop, tmp_path / "one", plain_provider)
    found = injection.survey
    assert (found.tests, found.slow) == (10, 1)
    assert found.failing == 2, "the broken test and the skipped one"
    assert not any("slow" in test or "broken" in test for test in found.calls)
    assert found.flaky == 1
    assert len(injection.bugs) == 3
    assert len({bug.mutant.kind for bug in injection.bugs}) == 3, "a quarter of three is one of each kind"
    for path in (tmp_path / "one").iterdir():
        task = load_task(path)
        assert task.liverl.split_key in ("total", "discount", "count_down"), "unused() is called by no test"
        assert task.liverl.fail_to_pass
        assert task.liverl.source_files == ("shop/__init__.py", "shop/loop.py", "shop/price.py")
        assert task.liverl.test_files == ("tests/test_price.py",)
        assert task.liverl.artifacts == ("shop",)
        function = task.liverl.split_key
        assert function not in task.instruction.split("These tests fail")[0] and function not in task.id
        assert outcomes(task.repository, task.liverl.fail_to_pass) == {"failed"}
        solution = path / "solution" / "files"
        for repaired in solution.rglob("*.py"):
            (task.repository / repaired.relative_to(solution)).write_bytes(repaired.read_bytes())
        assert outcomes(task.repository, task.expected_ids) == {"passed"}


@pytest.mark.deep
def test_several_bugs_of_one_task_are_of_different_functions_and_each_must_be_found(
    shop: Path, tmp_path: Path, plain_provider: PlainProvider
) -> None:
    injection = generate(shop, tmp_path / "two", plain_provider, bugs=2, limit=1)
    assert len(injection.bugs) == 1 == len(list((tmp_path / "two").iterdir()))
    for bug in injection.bugs:
        first, second = bug.mutants
        assert first.function != second.function
        task = load_task(tmp_path / "two" / f"shop-source-{bug.digest}")
        assert task.liverl.split_key == "+".join(sorted([first.function.name, second.function.name]))
        assert "2 of its functions do the wrong thing" in task.instruction
        assert outcomes(task.repository, task.liverl.fail_to_pass) == {"failed"}
        for repaired, left in ((first, second), (second, first)):
            for path, content in broken_files(bug.package.files, [left]).items():
                (task.repository / path).write_bytes(content)
            if repaired.function.path != left.function.path:
                (task.repository / repaired.function.path).write_bytes(bug.package.files[repaired.function.path])
            assert "failed" in outcomes(task.repository, task.expected_ids), "one repair is not enough"
        for path in {mutant.function.path for mutant in bug.mutants}:
            (task.repository / path).write_bytes(bug.package.files[path])
        assert outcomes(task.repository, task.expected_ids) == {"passed"}


def outcomes(folder: Path, tests: tuple[str, ...]) -> set[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        *tests,
    ]
    out = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout
    words = {"PASSED": "passed", "FAILED": "failed", "ERROR": "error"}
    return {words[line.split()[0]] for line in out.splitlines() if line.split()[:1] and line.split()[0] in words}


@pytest.mark.deep
def test_the_same_seed_gives_the_same_tasks_of_its_split(
    shop: Path, tmp_path: Path, plain_provider: PlainProvider
) -> None:
    split = split_of("total")
    for name in ("one", "two"):
        injection = generate(shop, tmp_path / name, plain_provider, split=split, limit=1)
        assert {split_of(bug.mutant.function.name) for bug in injection.bugs} == {split}
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("one", "two")
    )
    assert one == two


def test_split_is_stable_and_has_its_shares() -> None:
    assert [split_of(name) for name in ("total", "discount", "count_down")] == [
        split_of(name) for name in ("_Total", "discount_", "COUNT_DOWN")
    ]
    names = [f"name{i}" for i in range(4000)]
    for split, share in SHARES.items():
        assert sum(split_of(name) == split for name in names) / 4000 == pytest.approx(share, abs=0.03)
    assert any(split_of(name) != split_of(name, seed=1) for name in names[:20])


def probe(shop: Path, provider: PlainProvider, *runs: Run) -> list[str | None]:
    async def work() -> list[str | None]:
        prober = Prober(provider, name="t", root=shop, python_path=(), image="", workers=1)
        async with prober:
            return [report.error for report in await prober.run(runs)]

    return asyncio.run(work())


def test_endless_loops_and_dying_tests_end_and_leave_the_next_run_alone(
    shop: Path, plain_provider: PlainProvider
) -> None:
    test = ("tests/test_price.py::test_count_down",)
    endless = {"shop/loop.py": "def count_down(n):\n    while True:\n        pass\n"}
    asleep = {"shop/loop.py": "import time\n\ndef count_down(n):\n    time.sleep(60)\n"}
    dying = {"shop/loop.py": "import os\n\ndef count_down(n):\n    os._exit(0)\n"}
    broken = {"shop/loop.py": "def count_down(n) return\n"}
    errors = probe(
        shop,
        plain_provider,
        Run(test, endless, cpu_sec=0.5),
        Run(test, asleep, wall_sec=1),
        Run(test, dying),
        Run(test, broken),
        Run(test),
    )
    assert errors[:3] == ["timeout", "timeout", "crashed"]
    assert errors[3] is not None and "before any test" in errors[3]
    assert errors[4] is None


def test_folders_without_package_or_tests_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError) as caught:
        open_repository(tmp_path)
    assert len(caught.value.problems) == 2
    with pytest.raises(UserError, match="no such folder"):
        open_repository(tmp_path / "missing")
    subprocess.run(["git", "init", "-q", "--bare", tmp_path / "bare"], check=True)
    with pytest.raises(UserError, match="without its files"):
        open_repository(tmp_path / "bare")


def test_src_layout_and_tests_inside_the_package(tmp_path: Path) -> None:
    for name in ("src/pkg/__init__.py", "src/pkg/tests/test_a.py", "setup.py", "venv/pyvenv.cfg", "venv/lib/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    package = open_repository(tmp_path)
    assert package.python_path == ("src",)
    assert package.source_files == ("src/pkg/__init__.py",)
    assert package.test_files == ("src/pkg/tests/test_a.py",)
    assert "venv/lib/x.py" not in package.files


@pytest.mark.parametrize(
    ("files", "own"),
    [
        (("src/org/calc/__init__.py", "src/org/calc/core.py"), "src/org"),
        (("src/org/calc.py", "src/org/deep/more.py"), "src/org"),
        (("org/calc/__init__.py", "examples/one/__init__.py", "docs/conf.py", "setup.py"), "org"),
        (("pkg/__init__.py", "org/calc/__init__.py"), "pkg"),
    ],
)
def test_namespace_packages(tmp_path: Path, files: tuple[str, ...], own: str) -> None:
    for name in (*files, "tests/unit/__init__.py", "tests/unit/test_a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = open_repository(tmp_path).source_files
    assert found == tuple(sorted(name for name in files if name.startswith(f"{own}/")))


class BusyMachine:
    """A provider whose sandboxes come up at the third try, or never."""

    def __init__(self, *, failures: int) -> None:
        self.failures = failures
        self.started = 0

    async def start(self, request: object) -> object:
        self.started += 1
        if self.started <= self.failures:
            raise TrialError(Termination.ENV_SETUP_FAILED, "the sandbox did not start: TimeoutError()")
        return SimpleNamespace(stop=AsyncMock())


@pytest.mark.parametrize(("failures", "comes_up"), [(0, True), (2, True), (3, False)])
def test_a_sandbox_that_does_not_come_up_is_tried_again(tmp_path: Path, failures: int, comes_up: bool) -> None:
    provider = BusyMachine(failures=failures)

    async def enter() -> None:
        known = cast("SandboxProvider", provider)
        async with Prober(known, name="x", root=tmp_path, python_path=(), image="", workers=1):
            pass

    with nullcontext() if comes_up else pytest.raises(TrialError, match="did not start"):
        asyncio.run(enter())
    assert provider.started == min(failures + 1, 3)


def test_a_list_of_tests_is_short_and_its_ids_whole() -> None:
    assert listed(["a::b"]) == "- `a::b`"
    assert listed([f"t::{n}" for n in range(12)]).splitlines()[-1] == "- and 2 more"
    long = [f"t::{n}[{'x' * 250}]" for n in range(9)]
    assert listed(long).splitlines() == [*(f"- `{test}`" for test in long[:2]), "- and 7 more"]
    assert listed(["y" * 2000]) == f"- `{'y' * 2000}`"


class LosesSome:
    """A verifier that confirms the repair of every task but the first ones."""

    def __init__(self, *, lost: int) -> None:
        self._left = lost
        self._tasks: set[str] = set()

    async def grade(self, task: Task, artifacts: Mapping[str, bytes]) -> Verdict:
        if task.id not in self._tasks:
            self._tasks.add(task.id)
            self._left -= 1
        reward = 1.0 if artifacts and self._left < 0 else 0.0
        return Verdict(reward, "solved" if reward else "unsolved", {}, (), 0.0)

    async def close(self) -> None: ...


@pytest.mark.parametrize(("lost", "limit", "bugs"), [(1, 2, 1), (1, 1, 2)])
@pytest.mark.deep
def test_a_lost_task_is_replaced(
    shop: Path, tmp_path: Path, plain_provider: PlainProvider, lost: int, limit: int, bugs: int
) -> None:
    said: list[str] = []
    injection = generate(
        shop, tmp_path / "out", plain_provider, limit=limit, bugs=bugs, verifier=LosesSome(lost=lost), said=said
    )
    assert (len(injection.bugs), injection.unproven) == (limit, lost)
    assert len(list((tmp_path / "out").iterdir())) == limit
    assert sum("left out: the verifier does not confirm it" in text for text in said) == lost


@pytest.mark.deep
def test_what_stops_a_search_is_said(
    shop: Path, tmp_path: Path, plain_provider: PlainProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_tasks, "MAX_LOST", 0)
    said: list[str] = []
    verifier = LosesSome(lost=10**6)
    injection = generate(shop, tmp_path / "out", plain_provider, limit=1, verifier=verifier, said=said)
    assert injection.bugs == () and injection.unproven > 0
    assert "0 of 1 tasks: the verifier does not confirm" in said[-1]


class Remembering:
    """A probe that counts the surveys that it is asked for."""

    def __init__(self, *depends_on: str) -> None:
        self.depends_on = depends_on
        self.runs = 0

    async def run(self, runs: Sequence[Run], *, hash_seed: int = 0) -> list[Report]:
        self.runs += 1
        return [Report({"t.py::test": Outcome("passed", 0.0, False)}, {}, 0.0, None)]


def test_a_survey_is_kept_under_all_that_it_depends_on(shop: Path, tmp_path: Path) -> None:
    def surveys(*depends_on: str, root: Path = shop) -> bool:
        prober = Remembering(*depends_on)
        asyncio.run(survey(open_repository(root), cast("Prober", prober), cache=tmp_path / "cache", on_progress=print))
        return prober.runs > 0

    assert surveys("pytest==9.2.0", "bubblewrap") and not surveys("pytest==9.2.0", "bubblewrap")
    assert surveys("pytest==9.2.0 roman==5.1", "bubblewrap") and surveys("pytest==9.2.0", "docker")
    (shop / "shop" / "price.py").write_text("def total(prices):\n    return 0\n")
    assert surveys("pytest==9.2.0", "bubblewrap")


def test_what_outcomes_depend_on(tmp_path: Path, plain_provider: PlainProvider) -> None:
    def of(**changes: Any) -> tuple[str, ...]:
        given: dict[str, Any] = {"name": "x", "root": tmp_path, "python_path": (), "image": "pytest==9.2.0"}
        return Prober(cast("SandboxProvider", plain_provider), **{**given, **changes}).depends_on

    assert of() == of(name="y", workers=7)
    assert len({of(), of(image="pytest==9.2.0 roman==5.1"), of(python_path=("src",))}) == 3
    assert sys.version in of() and "none" in of()


@pytest.mark.deep
def test_a_test_that_ends_the_process_takes_no_others_with_it(
    shop: Path, tmp_path: Path, plain_provider: PlainProvider
) -> None:
    (shop / "tests" / "test_abort.py").write_text("import os\n\n\ndef test_abort():\n    os.abort()\n")
    said: list[str] = []
    injection = generate(shop, tmp_path / "out", plain_provider, limit=1, said=said)
    assert injection.survey.tests == 10 and len(injection.bugs) == 1
    assert any("tests/test_abort.py left out" in text and "crashed" in text for text in said)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not count waiting")
def test_waiting_for_a_processor_is_no_time_of_a_test() -> None:
    """Two programs on one processor: each has half of it, and its own clock shows half of the time."""
    program = (
        "import os, runpy, time\nos.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        f"own = runpy.run_path({str(PROBE)!r}, run_name='probe')['own_clock']\n"
        "if os.fork() == 0:\n    end = time.time() + 1.5\n    while time.time() < end: pass\n    os._exit(0)\n"
        "start, clock = own(), time.perf_counter()\nwhile time.process_time() < 0.5: pass\n"
        "print(own() - start, time.perf_counter() - clock)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    own, clock = map(float, done.stdout.split())
    assert own < 0.75 * clock, (own, clock)


@pytest.mark.deep
def test_tests_that_pytest_does_not_find_by_itself(shop: Path, tmp_path: Path, plain_provider: PlainProvider) -> None:
    """Of a name that only says so to people: ``tests.py`` is run when it is named."""
    (shop / "tests" / "test_price.py").rename(shop / "tests.py")
    injection = generate(shop, tmp_path / "out", plain_provider, limit=1)
    assert injection.survey.tests == 10 and len(injection.bugs) == 1
    (path,) = (tmp_path / "out").iterdir()
    assert all(test.startswith("tests.py::") for test in load_task(path).expected_ids)


def test_a_package_whose_tests_are_none_is_said(shop: Path, tmp_path: Path, plain_provider: PlainProvider) -> None:
    (shop / "tests" / "test_price.py").write_text("x = 1\n")
    said: list[str] = []
    assert generate(shop, tmp_path / "out", plain_provider, limit=1, said=said).bugs == ()
    assert said[-1].endswith("0 of 1 tasks: pytest finds no tests in it")
