"""What a pristine package's own tests do: which pass in every run, how long they take, and which functions each one
calls.

Knows no mutants. The result is kept on disk, because it is the same for every split and seed, under all that it
depends on: the package's files, and where and by what its tests are run (``Prober.depends_on``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runtime.tasks.generate.caps import DEFAULT
from runtime.tasks.generate.functions import Function
from runtime.tasks.generate.prober import Outcome, Prober, Report, Run
from runtime.tasks.generate.sources import Package
from runtime.tasks.write import write_whole

SUITE_CPU_SEC = 600.0
SUITE_WALL_SEC = 900.0
"""Of one run of all tests; what does not come to its end is run file by file."""
_HELPERS = ("conftest.py", "__init__.py")

OnProgress = Callable[[str], None]

_VERSION = 2


@dataclass(frozen=True)
class Survey:
    """``calls``: for each usable test the functions of the package that it calls, as (path, first line). The rest are
    counts."""

    calls: dict[str, list[tuple[str, int]]]
    tests: int
    failing: int
    flaky: int
    slow: int
    random: int

    def covering(self, function: Function) -> list[str]:
        """The tests that call ``function`` (or code inside it), the most specific first."""
        found = [
            test
            for test, calls in self.calls.items()
            if any(path == function.path and function.start <= line <= function.end for path, line in calls)
        ]
        return sorted(found, key=lambda test: (len(self.calls[test]), test))


async def survey(
    package: Package, prober: Prober, *, cache: Path, on_progress: OnProgress, slow_sec: float = DEFAULT.slow_sec
) -> Survey:
    """Run the whole suite twice, under two hash seeds. Slow tests, and tests that do not pass both times, are left out.

    So are tests with drawn inputs (hypothesis): they cannot tell twice the same about a bug.
    """
    depends_on = "\0".join([str(_VERSION), package.digest, repr(slow_sec), *prober.depends_on])
    kept = cache / "surveys" / f"{hashlib.sha256(depends_on.encode()).hexdigest()[:32]}.json"
    if kept.is_file():
        return Survey(**json.loads(kept.read_text()))
    first, broken = await _whole(package, prober, hash_seed=1, calls=False)
    second, broken_again = await _whole(package, prober, hash_seed=2, calls=True)
    broken = {**broken_again, **broken}
    for file, why in broken.items():
        on_progress(f"{package.name}: {file} left out: its tests do not come to their end: {why}")
    own = set(package.source_files)
    calls: dict[str, list[tuple[str, int]]] = {}
    failing = flaky = slow = random = 0
    for test, outcome in first.outcomes.items():
        again = second.outcomes.get(test)
        if again is None or again.result != outcome.result:
            flaky += 1
        elif outcome.result != "passed" or not test.isprintable() or len(test) > 300:
            failing += 1
        elif outcome.random:
            random += 1
        elif min(outcome.seconds, again.seconds) > slow_sec:
            slow += 1
        else:
            calls[test] = sorted({call for call in second.calls.get(test, ()) if call[0] in own})
    found = Survey(calls=calls, tests=len(first.outcomes), failing=failing, flaky=flaky, slow=slow, random=random)
    if "timeout" not in broken.values():  # what a busy machine did not finish may come to its end another time
        write_whole(kept, json.dumps(asdict(found)).encode())
    return found


async def _whole(package: Package, prober: Prober, *, hash_seed: int, calls: bool) -> tuple[Report, dict[str, str]]:
    """One run of the whole suite, and (file -> why) what had to be left out of it. A suite that does not come to its
    end, or in which pytest finds nothing by itself (``tests.py``), is run file by file: one test that ends the process
    takes no others with it."""
    run = Run(share=not calls, calls=calls, cpu_sec=SUITE_CPU_SEC, wall_sec=SUITE_WALL_SEC)
    whole = (await prober.run([run], hash_seed=hash_seed))[0]
    if whole.error is None and whole.outcomes:
        return whole, {}
    files = [path for path in package.test_files if path.endswith(".py") and not path.endswith(_HELPERS)]
    parts = await prober.run([replace(run, tests=(file,), share=False) for file in files], hash_seed=hash_seed)
    outcomes: dict[str, Outcome] = {}
    called: dict[str, tuple[tuple[str, int], ...]] = {}
    broken: dict[str, str] = {}
    for file, part in zip(files, parts, strict=True):
        if part.error is not None:
            broken[file] = part.error
        else:
            outcomes.update(part.outcomes)
            called.update(part.calls)
    return Report(outcomes, called, sum(part.cpu_sec for part in parts), None), broken
