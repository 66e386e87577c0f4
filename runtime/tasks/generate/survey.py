"""What a pristine package's own tests do: which pass in every run, how long they take, and which functions each one
calls.

Knows no mutants. The result is kept on disk, because it is the same for every split and seed, under all that it
depends on: the package's files, and where and by what its tests are run (``Prober.depends_on``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.tasks.generate.functions import Function
from runtime.tasks.generate.prober import Prober, Run
from runtime.tasks.generate.sources import Package
from runtime.tasks.write import write_whole

SLOW_SEC = 0.5
"""Slower tests are left out: they would set the price of every verdict."""

_VERSION = 1


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


async def survey(package: Package, prober: Prober, *, cache: Path) -> Survey:
    """Run the whole suite twice, under two hash seeds. Slow tests, and tests that do not pass both times, are left out.

    So are tests with drawn inputs (hypothesis): they cannot tell twice the same about a bug.
    """
    depends_on = "\0".join([str(_VERSION), package.digest, *prober.depends_on])
    kept = cache / "surveys" / f"{hashlib.sha256(depends_on.encode()).hexdigest()[:32]}.json"
    if kept.is_file():
        return Survey(**json.loads(kept.read_text()))
    first = (await prober.run([Run(share=True, cpu_sec=600.0, wall_sec=900.0)], hash_seed=1))[0]
    second = (await prober.run([Run(calls=True, cpu_sec=600.0, wall_sec=900.0)], hash_seed=2))[0]
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
        elif min(outcome.seconds, again.seconds) > SLOW_SEC:
            slow += 1
        else:
            calls[test] = sorted({call for call in second.calls.get(test, ()) if call[0] in own})
    found = Survey(calls=calls, tests=len(first.outcomes), failing=failing, flaky=flaky, slow=slow, random=random)
    if first.error is None and second.error is None:
        write_whole(kept, json.dumps(asdict(found)).encode())
    return found
