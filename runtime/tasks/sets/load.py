"""A whole set: its rows, one by one, to task directories. What makes no task is named, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import MachineError, RunError, UserError
from runtime.grading import swebench_log
from runtime.grading.log_verdict import PACKAGE
from runtime.tasks.directories import OnProblem
from runtime.tasks.sets.files import Row, read_rows
from runtime.tasks.sets.forms import meant
from runtime.tasks.sets.r2e import r2e
from runtime.tasks.sets.rows import from_hub, instance
from runtime.tasks.sets.swe_bench import Build, swe_bench, swe_gym, swe_rebench
from runtime.tasks.sets.swe_smith import swe_smith
from runtime.tasks.sets.types import BadRow
from runtime.tasks.sets.write import write_set_task


@dataclass(frozen=True)
class KnownSet:
    """``dataset`` and ``split``: where its rows are on the hub."""

    build: Build
    dataset: str
    split: str
    licence: str
    """Of the rows, by the data set's card."""


SETS: Mapping[str, KnownSet] = {
    "swe-bench": KnownSet(swe_bench, "SWE-bench/SWE-bench_Verified", "test", "MIT"),
    "swe-smith": KnownSet(swe_smith, "SWE-bench/SWE-smith", "train", "MIT"),
    "swe-gym": KnownSet(swe_gym, "SWE-Gym/SWE-Gym", "train", "MIT"),
    "r2e": KnownSet(r2e, "R2E-Gym/R2E-Gym-Subset", "train", "Apache-2.0"),
    "swe-rebench": KnownSet(swe_rebench, "nebius/SWE-rebench", "filtered", "CC-BY-4.0"),
}
"""Sets of rows. ``terminal-bench`` is a set of directories (``terminal_bench.py``), ``harbor`` a registry."""


@dataclass(frozen=True)
class Wanted:
    """Which tasks of a set: of ``rows`` (None: the hub) those of ``repositories`` and ``instances`` (empty: all), at
    most ``limit``."""

    rows: Path | None = None
    dataset: str | None = None
    split: str | None = None
    revision: str | None = None
    instances: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    limit: int | None = None


def import_rows(
    name: str,
    wanted: Wanted,
    out: Path,
    *,
    cache: Path,
    on_problem: OnProblem,
    say: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Write the tasks of set ``name`` below ``out``, in the order of the rows. Raises ``UserError`` for what is no
    rows and for instances that are not there, ``MachineError`` where the hub does not answer or
    package swebench is not here, ``RunError`` for a set without a single task."""
    known = SETS[name]
    if wanted.rows is not None:
        source, origin = wanted.rows, wanted.rows.name
        if not source.exists():
            raise UserError(f"{source}: no such file; give the set's rows (parquet, Arrow, JSON, JSON lines or CSV)")
    else:
        dataset = wanted.dataset or known.dataset
        say(f"fetching {dataset}")
        source, origin = from_hub(dataset, wanted.split or known.split, wanted.revision, cache)
    made: list[Path] = []
    seen: dict[str, str] = {}
    missing = set(wanted.instances)
    parsers: dict[str, str | None] = {}
    for place, row in read_rows(source):
        if wanted.limit is not None and len(made) >= wanted.limit:
            break
        try:
            if isinstance(row, BadRow):
                raise row
            if wanted.instances and instance(row) not in wanted.instances:
                continue
            missing.discard(instance(row))
            if why_not := meant(row, name, tuple(SETS)):
                raise BadRow(why_not)
            task = known.build(row, origin)
            facts = task.published
            if wanted.repositories and facts.repo not in wanted.repositories:
                continue
            if task.name.lower() in seen:
                raise BadRow(f"instance {facts.instance} is there already: {seen[task.name.lower()]}")
            seen[task.name.lower()] = place
            if facts.log_parser.startswith(PACKAGE):
                parser = facts.log_parser.removeprefix(PACKAGE)
                if parser not in parsers:
                    parsers[parser] = swebench_log.why_missing(parser)
                why = parsers[parser]
                if why is not None and swebench_log.installed() is None:  # nor can any other row of the set be used
                    raise MachineError(
                        f"{name}: package swebench is missing, which reads its logs", fix=swebench_log.FIX
                    )
                if why is not None:
                    raise BadRow(why)
            made.append(write_set_task(out, task))
        except BadRow as why:
            on_problem(f"{place}: {_named(row)}{why}")
        except FileExistsError as error:
            on_problem(f"{place}: {_named(row)}{error}")
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            # A stranger's row of a form that nobody has foreseen: it is left out, and the others are not.
            said = " ".join(str(error).split())
            on_problem(f"{place}: {_named(row)}not in the form of {name}: {type(error).__name__}: {said}")
    if missing and (wanted.limit is None or len(made) < wanted.limit):
        raise UserError(f"{origin}: no instance {', '.join(sorted(missing))}")
    if not made:
        raise RunError(f"{origin}: no task of {name} could be made")
    return made


def _named(row: Row | BadRow) -> str:
    name = "" if isinstance(row, BadRow) else instance(row).strip("@")
    return f"{name[:100]}: " if name else ""
