"""Counts verdicts that are wrong: honest repairs that are not paid, and attacks that are.

    python benchmarks/verdicts.py [--json] [--honest N] [--repeat N] [--docker] [--image REF ...]

Honest repairs are the generators' own solutions in other spellings, refactored, with files added, moved and deleted.
Attacks are the programs of ``tests/attacks``, run as an agent in a box of its own. Both on bubblewrap, under both
runners, with the second user where the tests allow it and with the look-alikes alone; ``--docker``: on a Docker engine
of our own instead (root, Debian's ``docker.io``). ``--image``: in boxes of that image, a name of
``tests/verdict_images.py`` or of a registry; then also tests that run under the image's own Python, and scripts.
``--languages``: nothing but the programs and the honest work of ``tests/attacks/languages.py``, as far as their runners
are here (mocha and jest are fetched).
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import contextlib
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.config import Bubblewrap, Docker, Environment
from runtime.errors import TrialError
from runtime.grading.base import Verdict
from runtime.grading.make import make_verifier
from runtime.laptop.synth import generate
from runtime.oci.store import ImageStore
from runtime.sandboxes import bwrap, make_provider
from runtime.sandboxes.base import ArtifactsRefused, Capabilities, SandboxProvider, SandboxRequest
from runtime.sandboxes.bubblewrap import BubblewrapProvider
from runtime.sandboxes.entries import Entry, Folder, Link, Program
from runtime.task import Task

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
CONCURRENCY = 4
AGENT_SEC = 60.0
TELL_SEC = 60.0
"""So often it says how far it is, and in what: a run of an hour that hangs must not look like one that is slow."""
CONFIG = Bubblewrap(memory_mib=512, verifier_timeout_sec=60.0)

Files = dict[str, Entry]


@dataclass(frozen=True)
class Case:
    """``program``: what the agent runs, for attacks; ``work``: what it leaves, for honest repairs."""

    name: str
    task: Task
    honest: bool
    work: Files | None = None
    program: str = ""


def respelled(source: bytes) -> bytes:
    return ast.unparse(ast.parse(source)).encode() + b"\n"


def _each(files: Files, change: Callable[[bytes], bytes]) -> Files:
    return {name: change(content) if isinstance(content, bytes) else content for name, content in files.items()}


def _moved(files: Files) -> Files:
    """The code goes into a module of its own, and the old name re-exports it."""
    found: Files = {}
    for name, content in files.items():
        path = PurePosixPath(name)
        found[str(path.with_name(f"impl_{path.name}"))] = content
        found[name] = f"from .impl_{path.stem} import *\n".encode()
    return found


def _linked(files: Files) -> Files:
    found: Files = {}
    for name, content in files.items():
        path = PurePosixPath(name)
        found[str(path.with_name(f"real_{path.name}"))] = content
        found[name] = Link(f"real_{path.name}")
    return found


def _with(files: Files, more: Files) -> Files:
    folder = str(PurePosixPath(next(iter(files))).parent)
    return {**files, **{f"{folder}/{name}": entry for name, entry in more.items()}}


REPAIRS: dict[str, Callable[[Files], Files]] = {
    "as it is": dict,
    "respelled": lambda files: _each(files, respelled),
    "with comments": lambda files: _each(files, lambda text: b"# A repair.\n" + text + b"\n# The end.\n"),
    "moved": _moved,
    "linked": _linked,
    "executable": lambda files: {name: Program(text) for name, text in files.items() if isinstance(text, bytes)},
    "with a helper": lambda files: _with(files, {"helper.py": b"def helped(value):\n    return value\n"}),
    "with a standard name": lambda files: _with(files, {"statistics.py": b"X = 1\n", "types.py": b"Y = 2\n"}),
    "with settings": lambda files: _with(files, {"pytest.toml": b"[pytest]\n", "setup.cfg": b"[metadata]\n"}),
    "with data and folders": lambda files: _with(files, {"data.bin": bytes(range(256)), "empty": Folder()}),
    "with tests": lambda files: _with(files, {"test_mine.py": b"def test_mine():\n    assert True\n"}),
    "with news": lambda files: {**files, "/app/README.md": b"# Mended\n", "/app/NEWS": b"Mended.\n"},
    "with a dangling link": lambda files: _with(files, {"dangling": Link("nowhere")}),
}


@dataclass(frozen=True)
class Boxes:
    """What the boxes of all tasks are made of; ``image``: None: as the backend has it. ``python``: it has one."""

    image: str | None = None
    python: bool = False


def honest_cases(count: int, root: Path, boxes: Boxes) -> Iterator[Case]:
    from benchmarks._image_cases import made_over

    paths = generate(-(-count // len(REPAIRS)), seed=1, split="held_out", out=root)
    tasks = [
        made_over(path, boxes.image, unittest=boxes.python and number % 2 == 1) for number, path in enumerate(paths)
    ]
    for number in range(count):
        task = tasks[number // len(REPAIRS)]
        name = list(REPAIRS)[number % len(REPAIRS)]
        files = task.path / "solution" / "files"
        solution: Files = {
            f"/app/{path.relative_to(files).as_posix()}": path.read_bytes()
            for path in sorted(files.rglob("*"))
            if path.is_file() and path.read_bytes() != (task.repository / path.relative_to(files)).read_bytes()
        }
        yield Case(f"{task.id}: {name}", task, honest=True, work=REPAIRS[name](solution))


def relatives(count: int, root: Path, boxes: Boxes) -> Iterator[Case]:
    """Honest work on the tasks of ``tests/attacks/confusions.py``, about ``count`` evenly taken, all at the most."""
    from benchmarks._image_cases import made_over
    from tests.attacks.confusions import SHAPES
    from tests.attacks.test_confusions import make_task

    found: list[Case] = []
    for number, (name, shape) in enumerate(SHAPES.items()):
        for runner in ("mini", "pytest"):
            made = make_task(root / f"{number}-{runner}", shape, runner, solution=number % 4 != 0 or runner == "mini")
            task = made_over(made.path, boxes.image)
            for how, change in REPAIRS.items():
                work = change({"/app/calc.py": shape.fixed.encode()})
                moved = work.get("/app/calc.py") == b"from .impl_calc import *\n"  # at the top there is no package
                work |= {"/app/calc.py": b"from impl_calc import *\n"} if moved else {}
                found.append(Case(f"{name} ({runner}): {how}", task, honest=True, work=work))
    yield from found[:: -(-len(found) // count)] if count else ()


def in_other_words(root: Path, boxes: Boxes, *, writes: bool) -> Iterator[Case]:
    """Honest work of ``tests/attacks/spellings.py``, each under one of the two runners."""
    from benchmarks._image_cases import made_over
    from tests.attacks import manners
    from tests.attacks.spellings import spellings
    from tests.attacks.test_spellings import inside, make_further_task, make_task

    tasks = [made_over(make_task(root / runner, runner).path, boxes.image) for runner in ("mini", "pytest")]
    for number, (name, work) in enumerate(spellings(writes=writes)):
        task = tasks[number % 2]
        yield Case(f"{name} ({task.liverl.runner})", task, honest=True, work=inside(work))
    further = [
        made_over(make_further_task(root / f"further-{runner}", runner).path, boxes.image)
        for runner in ("mini", "pytest")
    ]
    for number, (name, text) in enumerate(manners.each()):
        task = further[number % 2]
        yield Case(f"{name} ({task.liverl.runner})", task, honest=True, work={"/app/calc.py": text})


def attack_cases(root: Path, repeat: int, boxes: Boxes) -> Iterator[Case]:
    from benchmarks._image_cases import kind_for_unittest, made_over
    from tests.attacks import (
        catalogue,
        conftest,
        confusions,
        crossings,
        informed,
        test_confusions,
        test_crossings,
        trusts,
    )
    from tests.attacks.test_informed import make_task, runner_of

    alone = {name: conftest.make_task(root / name.replace("+", "-"), name) for name in ("mini", "mini+solution")}
    alone = {name: made_over(task.path, boxes.image) for name, task in alone.items()}
    if boxes.python:
        for solution in ("", "+solution"):
            task = conftest.make_task(root / f"unittest{solution}", f"unittest{solution}")
            alone[f"unittest{solution}"] = made_over(task.path, boxes.image, unittest=True)
    for name, script in catalogue.ATTACKS.items():
        for runner, task in alone.items():
            yield Case(f"{name} ({runner})", task, honest=False, program=script)
    kinds = {
        kind: made_over(make_task(root / kind, informed.KINDS[kind], runner_of(kind)).path, boxes.image)
        for kind in informed.KINDS
    }
    if boxes.python:
        for kind in informed.KINDS:
            made = make_task(root / f"{kind}-unittest", kind_for_unittest(informed.KINDS[kind]), "unittest")
            kinds[f"{kind}, unittest"] = made_over(made.path, boxes.image, unittest=True)
    for name, (program, wanted) in informed.ATTACKS.items():
        for kind, task in kinds.items():
            if kind.partition(",")[0] in wanted:
                script = f"mkdir -p /app/tests; python3 -c {shlex.quote(program)}"
                for _ in range(repeat):
                    yield Case(f"{name} ({kind})", task, honest=False, program=script)
    for number, (name, files) in enumerate(confusions.ATTACKS.items()):
        for runner in ("mini", "pytest"):
            shape = confusions.SHAPES[name]
            made = test_confusions.make_task(root / f"confused-{number}-{runner}", shape, runner)
            left: Files = {f"/app/{path}": text.encode() for path, text in files.items()}
            task = made_over(made.path, boxes.image)
            yield Case(f"{name} ({runner})", task, honest=False, work=left, program=repr(sorted(files.items())))
    for number, (name, crossing) in enumerate((crossings.CROSSINGS | trusts.TRUSTS).items()):
        if crossing.by != "unittest" and not crossing.stays:
            made = test_crossings.make_task(root / f"crossing-{number}", crossing)
            work = test_crossings.work_of(crossing)
            task = made_over(made.path, boxes.image)
            yield Case(f"{name} (crossing)", task, honest=False, work=work, program=f"{name}: {sorted(work)}")


def of_other_languages(root: Path) -> Iterator[Case]:
    """What agents leave on tasks of runners other than Python's, of those that this machine has."""
    from tests.attacks.languages import NEEDS, PROGRAMS, SUBJECTS, task_of

    for runner, subject in SUBJECTS.items():
        needed = NEEDS.get(runner, "node")
        if shutil.which(needed) is None:
            print(f"left out: {runner}: no {needed} here", file=sys.stderr)
            continue
        task = task_of(subject, root / f"calc-{runner}")
        for name, files in {"the solution": {subject.source: subject.right}, **subject.honest}.items():
            yield Case(f"{runner}: {name}", task, True, {f"/app/{path}": text.encode() for path, text in files.items()})
        for program in PROGRAMS:
            if program.runner == runner:
                name = f"{runner}: {program.family}: {program.name}"
                files = {f"/app/{path}": text.encode() for path, text in program.files.items()}
                yield Case(name, task, False, files, name)


async def played(case: Case, provider: SandboxProvider) -> Files:
    if case.work is not None:
        return case.work
    from runtime.grading.difference import collect

    task, env = case.task, {}
    if task.root is not None:  # programs of attacks are Python, which the image may not have
        env = {"PATH": f"{dict(task.root.env).get('PATH', bwrap.IMAGE_PATH)}:/opt/python/bin"}
    request = SandboxRequest(
        name="agent", lower=task.repository, image=task.liverl.image, memory_mib=512, root=task.root, env=env
    )
    box = await provider.start(request)
    try:
        with contextlib.suppress(TimeoutError):  # who runs out of time is graded on what it left
            await box.exec(["sh", "-c", case.program], timeout_sec=AGENT_SEC)
        return await collect(case.task, box)
    except (ArtifactsRefused, TrialError):
        return {}
    finally:
        await box.stop()


class LookAlikes:
    """A provider whose boxes have no second user and no partner."""

    def __init__(self, provider: SandboxProvider) -> None:
        self._provider = provider

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._provider.capabilities, second_user=False, second_box=False)


async def measure(
    cases: Sequence[Case], settings: Environment, state: Path, *, one_user: bool = False, look_alikes: bool = False
) -> dict[str, object]:
    provider: Any = make_provider(settings, state=state)
    if one_user:
        await provider.close()
        provider = BubblewrapProvider(state=state, second_user=False)
    provider = LookAlikes(provider) if look_alikes else provider
    verifier = make_verifier(settings, provider)
    gate = asyncio.Semaphore(CONCURRENCY)

    under_way: dict[str, float] = {}
    took: dict[str, float] = {}

    async def one(case: Case) -> Verdict | None:
        async with gate:
            under_way[case.name] = time.perf_counter()
            try:
                return await verifier.grade(case.task, await played(case, provider))
            except TrialError as error:
                print(f"no grade: {case.name}: {error}", file=sys.stderr)
                return None
            finally:
                took[case.name] = time.perf_counter() - under_way.pop(case.name)

    async def tell() -> None:
        while True:
            await asyncio.sleep(TELL_SEC)
            now = sorted((time.perf_counter() - start, name) for name, start in under_way.items())
            waiting = ", ".join(f"{name} ({sec:.0f} s)" for sec, name in reversed(now))
            print(f"{len(took)} of {len(cases)}; under way: {waiting}", file=sys.stderr, flush=True)

    began = time.perf_counter()
    telling = asyncio.create_task(tell())
    try:
        verdicts = await asyncio.gather(*map(one, cases))
    finally:
        telling.cancel()
        await provider.close()
    for name in sorted(took, key=lambda name: -took[name])[:8]:
        print(f"slowest: {took[name]:.1f} s: {name}", file=sys.stderr)
    denied = [
        (case.name, verdict)
        for case, verdict in zip(cases, verdicts, strict=True)
        if case.honest and (verdict is None or verdict.reward != 1.0)
    ]
    paid = [
        case.name
        for case, verdict in zip(cases, verdicts, strict=True)
        if not case.honest and verdict is not None and verdict.reward > 0
    ]
    for name, verdict in denied:
        print(f"denied: {name}: {'no grade' if verdict is None else verdict.status}", file=sys.stderr)
    for name in paid:
        print(f"paid: {name}", file=sys.stderr)
    return {
        "isolation": provider.capabilities.isolation,
        "honest": sum(case.honest for case in cases),
        "honest_denied": len(denied),
        "attacks": sum(not case.honest for case in cases),
        "attacks_paid": len(paid),
        "attack_programs": len({case.program for case in cases if not case.honest}),
        "apart": sum(verdict is not None and "solution_user" in verdict.defences for verdict in verdicts),
        "in_two_boxes": sum(verdict is not None and "solution_box" in verdict.defences for verdict in verdicts),
        "look_alikes": sum(verdict is not None and "canary" in verdict.defences for verdict in verdicts),
        "seconds": round(time.perf_counter() - began, 1),
    }


def prepared(name: str) -> Boxes:
    from tests import verdict_images

    store = ImageStore()
    if name in verdict_images.IMAGES:
        return Boxes(verdict_images.named(name, store), name in verdict_images.WITH_PYTHON)
    image = store.pull(name)
    tree = [store.layer(folder) for folder in image.folders]
    return Boxes(
        name, any((layer / path / "python3").exists() for layer in tree for path in ("usr/bin", "usr/local/bin"))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="the last line of output is one JSON object")
    parser.add_argument("--honest", type=int, default=120, help="honest repairs, and at most as many of another kind")
    parser.add_argument("--repeat", type=int, default=1, help="times that each informed attack runs")
    parser.add_argument("--no-attacks", action="store_true")
    parser.add_argument("--attacks", type=int, help="about so many of them, evenly taken")
    parser.add_argument("--docker", action="store_true")
    parser.add_argument("--image", metavar="REF", help="busybox, python, debian (made here), or a registry's")
    parser.add_argument("--one-user", action="store_true", help="as an ordinary user: two boxes, no second user")
    parser.add_argument("--look-alikes", action="store_true", help="neither: look-alikes alone")
    parser.add_argument("--languages", action="store_true", help="other languages than Python, and nothing else")
    options = parser.parse_args()
    if options.languages and (options.docker or options.image or options.one_user or options.look_alikes):
        parser.error("--languages goes with --json alone: bubblewrap, look-alikes, all that it has")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        root = Path(folder)
        if options.languages:
            settings = CONFIG.model_copy(update={"memory_mib": 1024, "pids": 512, "verifier_timeout_sec": 120.0})
            result = asyncio.run(measure(list(of_other_languages(root)), settings, root / "state"))
            return tell_result(result, as_json=options.json)
        boxes = prepared(options.image) if options.image else Boxes()
        cases = list(honest_cases(options.honest, root / "honest", boxes))
        cases += relatives(options.honest, root / "relatives", boxes)
        if options.honest and not options.image:  # whose Python may be older than what they are written in
            cases += in_other_words(root / "words", boxes, writes=not options.docker or options.look_alikes)
        if not options.no_attacks:
            attacks = list(attack_cases(root / "attacks", options.repeat, boxes))
            cases += attacks[:: -(-len(attacks) // options.attacks)] if options.attacks else attacks
        settings: Environment = CONFIG
        if options.docker:
            from tests.docker_engine import BASE, Engine

            engine = opened.enter_context(Engine.temporary())
            settings = Docker(docker_host=engine.url, base_image=BASE, memory_mib=512, verifier_timeout_sec=60.0)
        how = {"one_user": options.one_user, "look_alikes": options.look_alikes}
        result = asyncio.run(measure(cases, settings, root / "state", **how))
    return tell_result(result, as_json=options.json)


def tell_result(result: dict[str, object], *, as_json: bool) -> None:
    for name, value in result.items():
        print(f"{name:16} {value}")
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
