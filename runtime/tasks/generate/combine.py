"""Several verified bugs in one task: bugs of different functions, broken together and measured together.

What each bug breaks alone may hide what another breaks, so the tests are run again, twice, with all of them in place.
Does not write tasks.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from runtime.tasks.generate.functions import Function
from runtime.tasks.generate.inject import Bug
from runtime.tasks.generate.mutate import Mutant
from runtime.tasks.generate.prober import Prober, Run

_CPU_SEC = 60.0


def groups_of(bugs: Sequence[Bug], size: int, *, seed: int) -> list[list[Bug]]:
    """Each bug at most once, ``size`` bugs of different functions per group; what does not fill a group is left."""
    rng = random.Random(f"{seed}/groups")
    by_function: dict[Function, list[Bug]] = {}
    for bug in rng.sample(list(bugs), len(bugs)):
        by_function.setdefault(bug.mutant.function, []).append(bug)
    groups: list[list[Bug]] = []
    while len(by_function) >= size:
        # Those with most bugs left first: so the most groups come about.
        fullest = sorted(by_function, key=lambda function: -len(by_function[function]))[:size]
        groups.append([by_function[function].pop() for function in fullest])
        by_function = {function: left for function, left in by_function.items() if left}
    return groups


async def combine(bugs: Sequence[Bug], prober: Prober, *, size: int, limit: int, seed: int) -> list[Bug]:
    """At most ``limit`` bugs of ``size`` mutants each, whose outcomes are the same twice under two hash seeds.

    A group is kept only when every one of its mutants, repaired last, still has a test that fails: each must be found.
    That holds because a test that fails with one mutant alone is among the task's tests.
    """
    groups = groups_of(bugs, size, seed=seed)
    runs = []
    for group in groups:
        package = group[0].package
        tests = tuple(dict.fromkeys(test for bug in group for test in (*bug.fail_to_pass, *bug.pass_to_pass)))
        files = {
            path: broken.decode() for path, broken in broken_files(package.files, (bug.mutant for bug in group)).items()
        }
        runs.append(Run(tests=tests, files=files, cpu_sec=_CPU_SEC, wall_sec=4 * _CPU_SEC))
    combined: list[Bug] = []
    once, twice = await prober.run(runs, hash_seed=3), await prober.run(runs, hash_seed=4)
    for group, run, report, again in zip(groups, runs, once, twice, strict=True):
        failed, passed = report.failed(run.tests), report.passed(run.tests)
        complete = report.error is None and len(failed) + len(passed) == len(run.tests)
        if not complete or not failed or failed != again.failed(run.tests):
            continue
        first, *others = (bug.mutant for bug in group)
        combined.append(Bug(group[0].package, first, failed, passed, others=tuple(others)))
    return combined[:limit]


def broken_files(files: dict[str, bytes], mutants: Iterable[Mutant]) -> dict[str, bytes]:
    """The files that ``mutants`` of different functions change, by path, with all of them in place."""
    texts: dict[str, str] = {}
    # From the last line to the first: a mutant changes no line above its function.
    for mutant in sorted(mutants, key=lambda mutant: -mutant.function.start):
        path = mutant.function.path
        texts[path] = mutant.apply(texts.get(path) or files[path].decode())
    return {path: text.encode() for path, text in sorted(texts.items())}
