"""Verified bugs of one package: mutants in a drawn order, kept when the package's own tests tell them from the
original.

A mutant is kept when some of the tests that call its function fail with it and pass without it, twice, under two hash
seeds. At most ``Caps.tests`` of those tests are looked at, the most specific first (the fewest functions called); the
ones that fail become the task's fail-to-pass ids, the others its pass-to-pass ids. Does not write tasks.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from runtime.tasks.generate.caps import DEFAULT, Caps
from runtime.tasks.generate.functions import Function, functions_of
from runtime.tasks.generate.mutate import Mutant, mutants_of
from runtime.tasks.generate.prober import Prober, Report, Run
from runtime.tasks.generate.sources import Package
from runtime.tasks.generate.split import Split, split_of
from runtime.tasks.generate.survey import OnProgress, Survey

BATCH = 48
"""Mutants between two looks at the caps, at most; about twice as many as tasks are still wanted, at the end."""


@dataclass(frozen=True)
class Bug:
    """A verified mutant of ``package`` and the tests that tell; ``others``: further ones in the same task, each of
    another function."""

    package: Package
    mutant: Mutant
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    others: tuple[Mutant, ...] = ()

    @property
    def mutants(self) -> tuple[Mutant, ...]:
        return (self.mutant, *self.others)

    @property
    def digest(self) -> str:
        parts = (f"{one.function.path}\0{one.function.start}\0{one.segment}" for one in self.mutants)
        key = "\0".join([self.package.digest, *parts])
        return hashlib.sha256(key.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Injection:
    """What came out of one package: the bugs, and what was tried on the way."""

    bugs: tuple[Bug, ...]
    survey: Survey
    functions: int
    """Functions of the split that some usable test calls."""
    mutants: int
    tried: int
    survived: int
    timeouts: int
    unstable: int
    unproven: int
    """Tasks that the verifier did not grade as expected; their bugs are not in ``bugs``."""


class Search:
    """Bugs of one package, found as many at a time as are wanted, until its mutants are used up.

    The same arguments and requests give the same bugs: mutants are drawn from ``seed``, decided in order, and limited
    by processor time.
    """

    def __init__(
        self,
        package: Package,
        prober: Prober,
        found: Survey,
        *,
        split: Split | None,
        limit: int,
        per_kind_fraction: float,
        seed: int,
        split_seed: int,
        on_progress: OnProgress,
        caps: Caps = DEFAULT,
    ) -> None:
        """split: only functions of it (None: all). limit, per_kind_fraction: at most so many bugs, and at most this
        part of them of one kind, at any time."""
        self._package = package
        self._prober = prober
        self._survey = found
        self._limit = limit
        self._on_progress = on_progress
        texts = {path: package.text(path) for path in package.source_files}
        for path in (path for path, text in texts.items() if text is None):
            on_progress(f"{package.name}: {path} is not in UTF-8; nothing in it is changed")
        functions = [
            (function, text)
            for path, text in texts.items()
            if text is not None
            for function in functions_of(path, text)
            if split is None or split_of(function.name, seed=split_seed) == split
        ]
        self._covering = {function: tuple(found.covering(function)[: caps.tests]) for function, _ in functions}
        self._covering = {function: tests for function, tests in self._covering.items() if tests}
        mutants = [
            mutant
            for function, text in functions
            if function in self._covering
            for mutant in mutants_of(function, text)
        ]
        self._mutants = len(mutants)
        self._queue = _drawn(mutants, random.Random(f"{seed}/{package.name}/{split}"))
        self._choice = _Choice(
            limit=limit, per_kind=max(1, math.floor(per_kind_fraction * limit)), per_function=caps.per_function
        )
        self._base: dict[tuple[str, ...], Report] = {}
        self._counts: Counter[str] = Counter()

    async def find(self, count: int) -> list[Bug]:
        """At most ``count`` further bugs; fewer only when the mutants, or what the caps allow, are used up."""
        bugs: list[Bug] = []
        while len(bugs) < count:
            batch = self._choice.next_batch(self._queue, size=min(BATCH, 2 * (count - len(bugs)) + 2))
            if not batch:
                break
            for bug in await _verify(self._package, self._prober, batch, self._covering, self._base, self._counts):
                if len(bugs) < count and self._choice.accept(bug.mutant):
                    bugs.append(bug)
            tried = self._counts["tried"]
            self._on_progress(f"{self._package.name}: {len(bugs)} of {count} bugs after {tried} mutants")
        return bugs

    def give_back(self, mutants: Iterable[Mutant]) -> None:
        """Make room under the caps: bugs that were found, and whose task was lost."""
        for mutant in mutants:
            self._choice.give_back(mutant)

    @property
    def why_no_more(self) -> str:
        tried = self._counts["tried"]
        if not self._survey.tests:
            return "pytest finds no tests in it"
        if not self._survey.calls:
            return f"none of its {self._survey.tests} tests is usable"
        if not self._mutants:
            return "no function that a usable test calls can be changed"
        if tried < self._mutants:
            return f"{self._mutants - tried} of {self._mutants} mutants are left, of kinds or functions with enough"
        return f"its {self._mutants} mutants are used up"

    def injection(self, bugs: Sequence[Bug], *, unproven: int) -> Injection:
        return Injection(
            bugs=tuple(bugs),
            survey=self._survey,
            functions=len(self._covering),
            mutants=self._mutants,
            tried=self._counts["tried"],
            survived=self._counts["survived"],
            timeouts=self._counts["timeout"],
            unstable=self._counts["unstable"],
            unproven=unproven,
        )


def _drawn(mutants: list[Mutant], rng: random.Random) -> Iterator[Mutant]:
    """All mutants, the kinds taking turns, each kind in random order: frequent kinds do not crowd out rare ones."""
    kinds: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        kinds.setdefault(mutant.kind, []).append(mutant)
    for kind in sorted(kinds):
        rng.shuffle(kinds[kind])
    while kinds:
        for kind in sorted(kinds):
            yield kinds[kind].pop()
            if not kinds[kind]:
                del kinds[kind]


class _Choice:
    """The caps: in all, per kind, and per function."""

    def __init__(self, *, limit: int, per_kind: int, per_function: int) -> None:
        self._limit = limit
        self._per_function = per_function
        self._per_kind = per_kind
        self._kinds: Counter[str] = Counter()
        self._functions: Counter[Function] = Counter()

    def _open(self, mutant: Mutant) -> bool:
        return self._kinds[mutant.kind] < self._per_kind and self._functions[mutant.function] < self._per_function

    def next_batch(self, queue: Iterator[Mutant], *, size: int) -> list[Mutant]:
        batch: list[Mutant] = []
        for mutant in queue:
            if self._open(mutant):
                batch.append(mutant)
                if len(batch) == size:
                    break
        return batch

    def give_back(self, mutant: Mutant) -> None:
        self._kinds[mutant.kind] -= 1
        self._functions[mutant.function] -= 1

    def accept(self, mutant: Mutant) -> bool:
        if not self._open(mutant) or self._kinds.total() >= self._limit:
            return False
        self._kinds[mutant.kind] += 1
        self._functions[mutant.function] += 1
        return True


async def _verify(
    package: Package,
    prober: Prober,
    batch: list[Mutant],
    covering: dict[Function, tuple[str, ...]],
    base: dict[tuple[str, ...], Report],
    counts: Counter[str],
) -> list[Bug]:
    """The bugs among a batch, in its order."""
    # What passes in the whole suite may need an earlier test: without the bug the chosen tests must pass by themselves.
    new = list(dict.fromkeys(covering[m.function] for m in batch if covering[m.function] not in base))
    base.update(zip(new, await prober.run([Run(tests=tests) for tests in new]), strict=True))
    runs: list[tuple[Mutant, Run]] = []
    for mutant in batch:
        pristine = base[covering[mutant.function]]
        tests = pristine.passed(covering[mutant.function])
        if tests and pristine.error is None:
            path = mutant.function.path
            cpu_sec = 0.3 + 2 * pristine.cpu_sec
            files = {path: mutant.apply(package.files[path].decode())}
            runs.append((mutant, Run(tests=tests, files=files, cpu_sec=cpu_sec, wall_sec=8 * cpu_sec)))
    counts["tried"] += len(runs)
    suspects: list[tuple[Mutant, Run, Report]] = []
    for (mutant, run), report in zip(runs, await prober.run([run for _, run in runs], hash_seed=3), strict=True):
        if report.error is not None:
            counts["timeout" if report.error == "timeout" else "crashed"] += 1
        elif not report.failed(run.tests):
            counts["survived"] += 1
        else:
            suspects.append((mutant, run, report))
    bugs: list[Bug] = []
    confirmations = await prober.run([run for _, run, _ in suspects], hash_seed=4)
    for (mutant, run, report), again in zip(suspects, confirmations, strict=True):
        failed, passed = report.failed(run.tests), report.passed(run.tests)
        if failed != again.failed(run.tests) or len(failed) + len(passed) != len(run.tests):
            counts["unstable"] += 1
            continue
        bugs.append(Bug(package, mutant, fail_to_pass=failed, pass_to_pass=passed))
    return bugs
