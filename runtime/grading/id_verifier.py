"""Verdicts from test ids: exactly the expected tests must have passed, by a report that LiveRL's own runner makes.

Where the sandbox has a second user, or can be two, and the task's own solution shows that its tests allow it, the code
under test runs in a process of its own as that user, or in that box (``testkit/apart.py``). Elsewhere it shares a
process with its tests and can forge all that this process says. There the tests run twice, in two fresh sandboxes, and
each time a part of them, drawn anew, is look-alikes that no honest work passes (``canary.py``): who passes one of those
has tampered. That lowers the odds of a forger; it does not shut him out.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from runtime.config import Environment
from runtime.errors import Termination, TrialError
from runtime.grading.artifacts import (
    Selection,
    own_modules,
    own_sources,
    select,
    source_modules,
    test_sources,
    tests_own_modules,
)
from runtime.grading.base import TAMPERED_REWARD, Verdict
from runtime.grading.beyond_values import look_beyond_values
from runtime.grading.canary import Canary, spoil
from runtime.grading.difference import put
from runtime.grading.interplay import Before, Interplay, before
from runtime.grading.named import readable_prose
from runtime.grading.once import Once
from runtime.grading.testkit.places import CONSTANT, DRAWN, drawn, kept_constants, line_of
from runtime.grading.verifier import Apart, Plan, SandboxVerifier, of_the_task, solution_files
from runtime.sandboxes.base import SandboxProvider
from runtime.sandboxes.defences import missing
from runtime.sandboxes.entries import Entry
from runtime.task import Task

NO_SECOND_USER = "no second user"
"""How a box says that it cannot have one (``guest/second.py``)."""

MAX_DRAWS = 8
"""So often the look-alikes of a run are drawn again, where that run or the other one would have none."""
PROOFS_OF_A_PLACE = 3
MAX_PROOFS = 24
"""So often it is asked anew, of each place and of all places of a task, whether the known solution gives objects there
too."""
MAX_SUSPECTS = 8
"""So many look-alikes are tried one by one, to find which of them disturbs a test; of more, all are left out."""


@dataclass
class _Places:
    """Where else than in the first proof a task's known solution gave objects, and how often each was asked for."""

    known: set[str] = field(default_factory=set)
    asked: dict[str, int] = field(default_factory=dict)
    proofs: int = 0


class IdVerifier(SandboxVerifier):
    """For tasks with ``fail_to_pass`` and ``pass_to_pass``."""

    OWN_DEFENCES = ("tests_restored", "host_verdict", "report_nonce")

    def __init__(self, config: Environment, provider: SandboxProvider) -> None:
        super().__init__(config, provider)
        self._canaries: Once[Path, Canary] = Once()
        self._apart: Once[Path, Apart | None] = Once()
        self._found: dict[Path, _Places] = {}
        self._no_second_user: set[str | None] = set()
        self._interplay: defaultdict[Path, Interplay] = defaultdict(Interplay)

    async def close(self) -> None:
        await self._canaries.close()
        await self._apart.close()
        await super().close()

    def _apart_defences(self, task: Task, apart: Apart | None = None) -> tuple[str, ...]:
        a_user = self._provider.capabilities.second_user and not (apart is not None and apart.in_two)
        return ("solution_user" if a_user else "solution_box", "reward_file")

    async def _prepare(self, task: Task, timeout_sec: float) -> tuple[Canary, Apart | None]:
        apart = await self._kept_apart(task, timeout_sec)
        if apart is not None and "canary" not in self._config.required_defences:
            return Canary({}, ()), apart  # nothing that the code under test can do reaches the process that judges
        canary = await self._canary(task, timeout_sec)
        return self._undisturbing(task, canary), apart

    async def _run(self, plan: Plan, selection: Selection) -> Verdict:
        if plan.canary.ids:
            return await self._mixed(plan, selection)
        task, tests = plan.task, test_sources(plan.task)
        report = await self._report(
            task, selection, tests, plan.timeout_sec, stop_first=True, apart=plan.apart, noise=plan.apart is None
        )
        if report.get("ended") == "timeout":
            raise TimeoutError(f"the tests took longer than {plan.timeout_sec:g} s")
        outcomes = read_outcomes(report, task.expected_ids)
        solved = _all_passed(report, outcomes)
        if not solved and plan.apart is not None:
            more = await self._more_places(plan, plan.apart, report.get("refused"))
            if more is not None:
                return await self._run(replace(plan, apart=more), selection)
        raw = dict(report)
        for how, again in self._otherwise(plan, report) if solved else ():
            raw[how] = report = await self._report(task, selection, tests, plan.timeout_sec, stop_first=True, **again)
            if report.get("ended") == "timeout":
                raise TimeoutError(f"the tests took longer than {plan.timeout_sec:g} s")
            outcomes = read_outcomes(report, task.expected_ids)
            if not (solved := _all_passed(report, outcomes)):
                break
        return self._verdict(plan, outcomes, "solved" if solved else "unsolved", raw)

    def _otherwise(self, plan: Plan, report: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """In what other ways the tests must pass that passed with the code under test apart."""
        if plan.apart is None:
            return
        if report.get("changed"):
            # Arguments that the known solution leaves alone: a test may ask after them, or take its answer from them.
            yield "arguments_kept", {"apart": plan.apart, "keep_arguments": True, "noise": False}
        if plan.apart.together:
            # What a test sees in its own process alone: warnings, output, lists that are shared. There are no
            # look-alikes whose text could be told from it, so the tests are as they were compiled for all boxes.
            yield "together", {"noise": False}

    async def _more_places(self, plan: Plan, apart: Apart, refused: object) -> Apart | None:
        """``apart`` with places at which the known solution gives objects too, of those that were ``refused``; None for
        none. Tests that draw what they do may come by a place in one run in many."""
        found = self._found.setdefault(plan.task.path, _Places())
        wanted = {str(place) for place in refused} if isinstance(refused, list) else set()
        if apart.places is None or not wanted or (right := await self._right(plan)) is None:
            return None
        wanted |= {f"{DRAWN}{line_of(place)}" for place in wanted if line_of(place)}
        tests, anywhere = test_sources(plan.task), replace(apart, places=None)
        for _ in range(PROOFS_OF_A_PLACE):
            asked = min(found.asked.get(place, 0) for place in wanted)
            if wanted & found.known or asked >= PROOFS_OF_A_PLACE or found.proofs >= MAX_PROOFS:
                break
            found.proofs += 1
            found.asked |= {place: found.asked.get(place, 0) + 1 for place in wanted}
            report = await self._report(
                plan.task, right, tests, plan.timeout_sec, noise=False, stop_first=True, apart=anywhere
            )
            seen = {str(place) for place in report.get("places", ()) if not str(place).startswith(CONSTANT)}
            found.known |= seen | drawn(seen, {*apart.places, *found.known})
        new = found.known.intersection(wanted).difference(apart.places or ())
        return replace(apart, places=(*(apart.places or ()), *sorted(found.known))) if new else None

    async def _mixed(self, plan: Plan, selection: Selection) -> Verdict:
        """Every test runs once as it is and once as a look-alike, in two runs that are alike to whoever is in them."""
        task, tests, draw = plan.task, test_sources(plan.task), secrets.SystemRandom()
        some = self._spoil(task, tests, plan.canary.ids, share=0.5)
        for _ in range(MAX_DRAWS):  # a run without look-alikes is the text that a forger may know, word for word
            if len(plan.canary.ids) < 2 or 0 < len(some.ids) < len(plan.canary.ids):
                break
            some = self._spoil(task, tests, plan.canary.ids, share=0.5)
        rest = [test_id for test_id in plan.canary.ids if test_id not in some.ids]
        runs = [some, self._spoil(task, tests, rest)]
        draw.shuffle(runs)
        outcomes: dict[str, str] = dict.fromkeys(task.expected_ids, "missing")
        raw: list[dict[str, Any]] = []
        forged: set[str] = set()
        unsolved = False
        for spoiled in runs:
            files = {**tests, **spoiled.files}
            order = draw.sample(task.expected_ids, len(task.expected_ids))
            report = await self._report(
                task, selection, files, plan.timeout_sec, stop_first=False, apart=plan.apart, order=order
            )
            raw.append({**report, "spoiled": list(spoiled.ids)})
            found = read_outcomes(report, tuple(test_id for test_id in task.expected_ids if test_id not in spoiled.ids))
            outcomes.update(found)
            alike = read_outcomes(report, spoiled.ids)
            passed = tuple(test_id for test_id, outcome in alike.items() if outcome == "passed")
            if passed and await self._passes_anyway(plan, files, passed, order):
                return await self._run(self._with_fewer(plan), selection)
            forged |= set(passed)
            unsolved |= any(outcome in ("failed", "error", "skipped") for outcome in found.values())
            if report.get("ended") == "timeout" and not unsolved:
                raise TimeoutError(f"the tests took longer than {plan.timeout_sec:g} s")
            unsolved |= report.get("complete") is not True or any(outcome != "passed" for outcome in found.values())
            if unsolved:
                failed = [test_id for test_id, outcome in found.items() if outcome != "passed"]
                ran = before(failed, spoiled.ids, list(report["tests"]))
                if await self._disturbed(plan, files, found, spoiled.ids, ran, order):
                    return await self._run(self._with_fewer(plan), selection)
                break
            undecided = [test_id for test_id, outcome in alike.items() if outcome in ("missing", "skipped")]
            if undecided and not forged:
                why = f"look-alike tests without an outcome, such as {undecided[0]}"
                raise TrialError(Termination.VERIFIER_CRASHED, why)
        # Wrong work may pass a look-alike. No work passes it and the test that it is made of.
        forged = {test_id for test_id in forged if outcomes[test_id] == "passed"}
        status: Literal["solved", "unsolved", "tampered"] = (
            "tampered" if forged else "unsolved" if unsolved else "solved"
        )
        return self._verdict(plan, outcomes, status, {"runs": raw})

    async def _disturbed(
        self,
        plan: Plan,
        files: Mapping[str, bytes],
        found: Mapping[str, str],
        spoiled: tuple[str, ...],
        failed: Before,
        order: Sequence[str],
    ) -> bool:
        """Whether tests that did not pass after the look-alikes ``spoiled`` do not pass there with the known solution
        either; from then on those look-alikes that may be why are left out. What is known already is not tried again.
        """
        interplay = self._interplay[plan.task.path]
        if not interplay.unknown(failed):
            return False
        if (right := await self._right(plan)) is None:
            return False
        report = await self._tried(plan, right, files, order)
        outcomes = read_outcomes(report, tuple(found))
        known = interplay.barred
        mended = interplay.learn(outcomes, before(outcomes, spoiled, list(report["tests"])))
        disturbed = [test_id for test_id in failed if outcomes[test_id] != "passed"]
        suspects = sorted(interplay.barred - known)
        if disturbed and 1 < len(suspects) <= MAX_SUSPECTS:
            interplay.acquit(await self._innocent(plan, right, suspects, disturbed, order))
        return mended and bool(disturbed)

    async def _innocent(
        self, plan: Plan, right: Selection, suspects: Sequence[str], disturbed: Sequence[str], order: Sequence[str]
    ) -> list[str]:
        """Those look-alikes that, alone, leave the known solution's tests ``disturbed`` alone; none where only several
        together disturb them."""
        tests, innocent = test_sources(plan.task), []
        for test_id in suspects:
            files = {**tests, **self._spoil(plan.task, tests, [test_id]).files}
            report = await self._tried(plan, right, files, order)
            if all(outcome == "passed" for outcome in read_outcomes(report, tuple(disturbed)).values()):
                innocent.append(test_id)
        return innocent if len(innocent) < len(suspects) else []

    async def _passes_anyway(
        self, plan: Plan, files: Mapping[str, bytes], passed: tuple[str, ...], order: Sequence[str]
    ) -> bool:
        """Whether the known solution passes one of the look-alikes ``passed`` in that place too: what another one left
        behind makes it pass, so it accuses nobody, and is left out from then on."""
        if (right := await self._right(plan)) is None:
            return False
        report = await self._tried(plan, right, files, order)
        misleading = [test_id for test_id, outcome in read_outcomes(report, passed).items() if outcome == "passed"]
        self._interplay[plan.task.path].bar(misleading)
        return bool(misleading)

    async def _right(self, plan: Plan) -> Selection | None:
        """The known solution as work to be graded; None where there is none."""
        solution = await self._solution(plan.task)
        return select(plan.task, solution) if solution else None

    async def _tried(
        self, plan: Plan, right: Selection, files: Mapping[str, bytes], order: Sequence[str]
    ) -> dict[str, Any]:
        """A report of ``files`` on the known solution."""
        return await self._report(
            plan.task, right, files, plan.timeout_sec, stop_first=False, apart=plan.apart, order=order
        )

    def _spoil(self, task: Task, tests: Mapping[str, bytes], ids: Sequence[str], *, share: float = 1.0) -> Canary:
        """Look-alikes of the tests ``ids`` among the sources ``tests``, drawn anew."""
        return spoil(tests, ids, secrets.randbits(64), share=share, tried=bool(solution_files(task)))

    def _otherwise_alike(self, task: Task, ids: Sequence[str]) -> bool:
        """Whether there are other look-alikes of tests of which the known solution passes the first."""
        return False

    def _undisturbing(self, task: Task, canary: Canary) -> Canary:
        usable = self._interplay[task.path].usable(canary.ids)
        return replace(canary, ids=usable) if usable else Canary({}, ())

    def _with_fewer(self, plan: Plan) -> Plan:
        """``plan`` without the look-alikes that have turned out to disturb true tests. Raises ``TrialError``."""
        canary = self._undisturbing(plan.task, plan.canary)
        says = self._says_canary(plan.task, canary)
        defences = plan.defences if says else tuple(name for name in plan.defences if name != "canary")
        lacking = missing(self._config.required_defences, defences)
        if lacking:
            raise TrialError(Termination.TASK_INVALID, f"{plan.task.id}: required defences not to be had: {lacking}")
        return replace(plan, canary=canary, defences=defences)

    def _verdict(
        self,
        plan: Plan,
        outcomes: Mapping[str, str],
        status: Literal["solved", "unsolved", "tampered"],
        raw: Mapping[str, Any],
    ) -> Verdict:
        return Verdict(
            reward=1.0 if status == "solved" else TAMPERED_REWARD if status == "tampered" else 0.0,
            status=status,
            outcomes=outcomes,
            defences=plan.defences,
            seconds=time.monotonic() - plan.start,
            raw=json.dumps(raw).encode(),
        )

    async def _report(
        self,
        task: Task,
        selection: Selection,
        tests: Mapping[str, bytes],
        timeout_sec: float,
        *,
        stop_first: bool,
        apart: Apart | None = None,
        noise: bool = True,
        order: Sequence[str] | None = None,
        keep_arguments: bool = False,
    ) -> dict[str, Any]:
        """Run ``tests`` against the work in a fresh sandbox. Raises ``TrialError`` where the runner itself failed.

        apart: the code under test lives in a process of its own, whose user cannot read the tests. order: in which the
        tests run, as far as the runner lets it be chosen; None: drawn. keep_arguments: see ``testkit/apart.py``.
        """
        workdir = task.config.environment.workdir
        noisy = {f"{workdir}/{name}": with_noise(name, text) if noise else text for name, text in tests.items()}
        ids = list(order or secrets.SystemRandom().sample(task.expected_ids, len(task.expected_ids)))
        others = {name: content for name, content in selection.files.items() if name not in noisy}
        in_two = apart is not None and apart.in_two
        sandbox = await self._provider.start(self._request(task, second_user=apart is not None, second_box=in_two))
        try:
            # Who judges owns these files and may not read them: no import and no configuration is taken from there.
            await put(sandbox, others, workdir=workdir, mode=0o044 if apart is not None else 0o644)
            if apart is not None:
                await sandbox.upload(readable_prose(others, own_sources(task)), mode=0o644)
            await sandbox.upload(noisy, mode=0o600 if apart is not None else 0o644)
            report = await sandbox.run_tests(
                task.liverl.runner,
                timeout_sec=timeout_sec,
                ids=ids,
                stop_first=stop_first,
                test_timeout=min(task.liverl.test_timeout_sec, timeout_sec),
                python_path=list(task.liverl.python_path),
                nonce=secrets.token_hex(8),
                modules=list(own_modules(task)),
                kept=list(source_modules(task)),
                **({} if apart is None else {"trusted": apart.trusted, "places": apart.places}),
                **({"keep_arguments": True} if keep_arguments else {}),
            )
        finally:
            await sandbox.stop()
        if report.get("runner_error") is not None:
            why = f"{task.id}: the test runner failed: {str(report['runner_error'])[:300]}"
            raise TrialError(Termination.VERIFIER_CRASHED, why)
        return report

    async def _kept_apart(self, task: Task, timeout_sec: float) -> Apart | None:
        """How the code under test can live in another process than its tests, if it can. Found out once per task with
        its own solution: tests that need more of it than can be asked fail there.
        """
        capabilities, image = self._provider.capabilities, None if task.root is None else task.root.reference

        async def make() -> Apart | None:
            files = solution_files(task)
            in_two = image in self._no_second_user or not capabilities.second_user
            if not files or (in_two and not capabilities.second_box):
                return None
            apart = Apart(tests_own_modules(task), None, in_two=in_two and capabilities.second_user)
            tests, right = test_sources(task), select(task, files)
            try:
                report = await self._report(task, right, tests, timeout_sec, stop_first=True, apart=apart, noise=False)
                outcomes = read_outcomes(report, task.expected_ids)
            except (TrialError, TimeoutError) as error:
                of_the_task(error)
                if NO_SECOND_USER in str(error) and image not in self._no_second_user:
                    self._no_second_user.add(image)  # whose user is not root
                    return await make()
                return None
            if set(outcomes.values()) != {"passed"}:
                return None
            places = tuple(map(str, report.get("places", ())))
            apart = replace(apart, places=tuple(place for place in places if not place.startswith(CONSTANT)))
            idle, before = await self._passed_at(task, {}, timeout_sec, apart)
            apart = replace(apart, places=kept_constants(places, before))
            free = idle.intersection(task.liverl.fail_to_pass)
            if free and not free <= await self._passed(task, {}, timeout_sec, None):
                return None  # what such a test looks at is not where it looks: it would pay for nothing done
            refuses = any(place.endswith(" refuses") for place in places)  # where we do, and not the solution
            if not refuses and not self._look_beyond_values(task):
                return apart
            together = await self._passed(task, files, timeout_sec, None)
            return replace(apart, together=together.issuperset(task.expected_ids))

        return await self._apart.get(task.path, make)

    def _look_beyond_values(self, task: Task) -> bool:
        """Whether its tests may look at what happens in their own process, which a second run then shows."""
        settings = (task.repository / name for name in ("pyproject.toml", "setup.cfg", "tox.ini", "pytest.ini"))
        said = any(path.is_file() and b"filterwarnings" in path.read_bytes() for path in settings)
        helpers = [(task.repository / name).read_bytes() for name in tests_own_modules(task) if "conftest" in name]
        return said or look_beyond_values([*own_sources(task), *helpers], own_modules(task))

    async def _passed(
        self, task: Task, work: Mapping[str, Entry], timeout_sec: float, apart: Apart | None
    ) -> frozenset[str]:
        """The tests that ``work`` passes, of a task about which something is found out."""
        return (await self._passed_at(task, work, timeout_sec, apart))[0]

    async def _passed_at(
        self, task: Task, work: Mapping[str, Entry], timeout_sec: float, apart: Apart | None
    ) -> tuple[frozenset[str], tuple[str, ...]]:
        """The same, and the places that were seen."""
        tests, selection = test_sources(task), select(task, work)
        try:
            report = await self._report(task, selection, tests, timeout_sec, stop_first=False, apart=apart, noise=False)
            outcomes = read_outcomes(report, task.expected_ids)
        except (TrialError, TimeoutError) as error:
            of_the_task(error)
            return frozenset(), ()
        passed = frozenset(test_id for test_id, outcome in outcomes.items() if outcome == "passed")
        return passed, tuple(map(str, report.get("places", ())))

    async def _canary(self, task: Task, timeout_sec: float) -> Canary:
        """What can be spoiled. Tried once per task with its own solution, if it has one: a look-alike that passes all
        the same tells nothing, and its test is left as it is.
        """

        async def make() -> Canary:
            tests, files = test_sources(task), solution_files(task)
            found = self._spoil(task, tests, task.expected_ids)
            if not files or not found.ids:
                return found
            right, sure = select(task, files), []
            while found.ids:
                spoiled = {**tests, **found.files}
                try:
                    report = await self._report(task, right, spoiled, timeout_sec, stop_first=False)
                    outcomes = read_outcomes(report, found.ids)
                except (TrialError, TimeoutError) as error:
                    of_the_task(error)
                    return Canary({}, ())
                sure += [test_id for test_id, outcome in outcomes.items() if outcome in ("failed", "error")]
                unsure = [test_id for test_id in found.ids if test_id not in sure]
                if not unsure or not self._otherwise_alike(task, unsure):
                    break
                found = self._spoil(task, tests, unsure)
            return self._spoil(task, tests, sure)

        return await self._canaries.get(task.path, make)


def _all_passed(report: Mapping[str, Any], outcomes: Mapping[str, str]) -> bool:
    return report.get("complete") is True and all(outcome == "passed" for outcome in outcomes.values())


def with_noise(name: str, source: bytes) -> bytes:
    """Another digest, length and beginning each time, so that what is remembered does not tell real tests from spoiled
    ones."""
    if not name.endswith(".py"):
        return source
    first = b"".join(source.splitlines(keepends=True)[:2])
    before = b"" if b"coding" in first or first.startswith((b"\xef\xbb\xbf", b"#!")) else _comment()
    return before + source + b"\n" + _comment()


def _comment() -> bytes:
    return b"# " + secrets.token_hex(4 + secrets.randbelow(12)).encode() + b"\n"


def read_outcomes(report: Mapping[str, Any], ids: tuple[str, ...]) -> dict[str, str]:
    """Expected id -> outcome, from a report that untrusted code may have written. Raises ``TrialError``."""
    tests = report.get("tests")
    if not isinstance(tests, dict):
        raise TrialError(Termination.VERIFIER_CRASHED, "the report has no tests")
    outcomes = {}
    for test_id in ids:
        entry = tests.get(test_id)
        outcome = entry.get("outcome") if isinstance(entry, dict) else "missing"
        outcomes[test_id] = outcome if outcome in ("passed", "failed", "error", "skipped") else "missing"
    return outcomes
