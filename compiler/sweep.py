"""A sweep: one spec, many points, a bundle for each; what they have in common is said once.

Points are compiled one after another while the next ones are evaluated, and written as they come into a folder that
becomes visible only when all of them are sound. Knows nothing of Jsonnet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compiler import bundle, emit
from compiler.assemble import planned_bundle
from compiler.compiled import VERSION, Bundle, Sweep
from compiler.errors import Problem, SpecError
from compiler.explain import flatten
from compiler.load import Evaluation, Outline
from compiler.overview import numbers
from compiler.plan import Plan
from compiler.target import Target
from compiler.validate import MAX_PROBLEMS
from runtime.config.base import LABEL, PATTERNS

INDEX = "sweep.json"
_COLUMNS = 10
"""Varying fields that the page shows at most; ``sweep.json`` has them all."""


@dataclass(frozen=True)
class Point:
    """What the overview of the sweep keeps of a compiled point."""

    name: str
    experiment: str
    fields: Mapping[str, Any]
    derived: Mapping[str, Any]
    lock: str


def check_sweep(evaluation: Evaluation, outline: Outline, *, target: Target) -> list[Problem]:
    """Every problem of every point; those that several points share are told once."""
    found = _Problems(outline)
    for _ in _bundles(evaluation, outline, target, found):
        pass
    return found.all()


def compile_sweep(evaluation: Evaluation, outline: Outline, *, target: Target, out: Path | None) -> Sweep:
    """Write the bundles of all points, an index and a page. Raises ``SpecError`` with the problems of all points; then
    nothing was written."""
    name = evaluation.sweep_name(outline)
    folder = out if out is not None else Path("build") / name / target.name
    problems = _Problems(outline)
    points: list[Point] = []
    with bundle.replacing(folder) as fresh:
        for point, plan, compiled in _bundles(evaluation, outline, target, problems):
            if problems.fatal:
                continue  # nothing of it will be kept
            bundle.write_files(fresh / point, compiled.files)
            points.append(_point(point, plan, compiled))
        if problems.fatal:
            raise SpecError(problems.all())
        warnings = problems.all()
        varying = _varying([point.fields for point in points])
        page = _page(name, target.name, points, varying, warnings)
        index = {
            "format": "liverl-sweep-index-1",
            "name": name,
            "target": target.name,
            "varies": varying,
            "points": [
                {
                    "point": point.name,
                    "experiment": point.experiment,
                    "values": {path: point.fields.get(path) for path in varying},
                }
                for point in points
            ],
        }
        files = {"SUMMARY.md": page, INDEX: emit.to_json(index)}
        files[bundle.LOCK] = bundle.sweep_lock_text(
            files,
            points={point.name: point.lock for point in points},
            experiment=name,
            target=target.name,
            entry=outline.entry,
            version=VERSION,
        )
        bundle.write_files(fresh, files)
    return Sweep(name, target.name, tuple(point.name for point in points), tuple(warnings), page, folder)


class _Problems:
    """Problems of all points. The same problem at the same line is one problem, with the number of its points."""

    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._found: dict[Problem, tuple[Problem, int]] = {}
        self.fatal = False

    def add(self, problems: list[Problem], index: int | None = None) -> None:
        for problem in problems:
            self.fatal = self.fatal or problem.severity == "fatal"
            inside = index is not None and not problem.position.startswith("--set ")
            where = (*self._outline.path(index), *problem.path) if index is not None and inside else problem.path
            first, count = self._found.get(problem, (replace(problem, path=where), 0))
            self._found[problem] = (first, count + 1)

    @property
    def flood(self) -> bool:
        """More than anybody reads: what comes after has the same cause."""
        return len(self._found) >= MAX_PROBLEMS

    def all(self) -> list[Problem]:
        rest = [Problem((), "the points after these were not looked at")] if self.flood else []
        return [*self._all(), *rest]

    def _all(self) -> list[Problem]:
        return [
            replace(
                problem,
                fix="; ".join(
                    part
                    for part in (problem.fix, f"the same in {count - 1} more point{'s' if count > 2 else ''}")
                    if part
                ),
            )
            if count > 1
            else problem
            for problem, count in self._found.values()
        ]


def _bundles(
    evaluation: Evaluation, outline: Outline, target: Target, problems: _Problems
) -> Iterator[tuple[str, Plan, Bundle]]:
    name = evaluation.sweep_name(outline)
    problems.add(_outline_problems(outline))
    if problems.fatal:
        return
    for index, found in evaluation.points(outline, range(len(outline.points)), name=name):
        try:
            if isinstance(found, SpecError):
                raise found
            plan, compiled = planned_bundle(found, target=target)
        except SpecError as error:
            problems.add(list(error.problems), index)
            if problems.flood:
                return
        else:
            problems.add(list(compiled.warnings), index)
            yield str(outline.points[index]), plan, compiled


def _outline_problems(outline: Outline) -> list[Problem]:
    """What is wrong with the sweep itself: other fields, names of points that are missing, malformed or used twice."""
    found = [
        Problem((name,), "unknown field beside sweep", "name, sweep", "write it into the points")
        for name in outline.extra
    ]
    seen: dict[str, int] = {}
    for index, point in enumerate(outline.points):
        path = outline.path(index) if outline.keyed else (*outline.path(index), "name")
        if not isinstance(point, str):
            what = "missing" if point is None else f"{json.dumps(point)}: not a string"
            found.append(Problem(path, what, "a name for the point", "add name: '...' to it"))
        elif not re.fullmatch(LABEL[1:-1], point) or len(point) > 63:
            found.append(Problem(path, f"{json.dumps(point, ensure_ascii=False)} is no name for a point",
                                 f"{PATTERNS[LABEL]}; at most 63"))  # fmt: skip
        elif point in seen:
            found.append(
                Problem(path, f'"{point}" is already the name of point {seen[point]}', fix="name every point apart")
            )
        seen.setdefault(str(point), index)
    return [problem.at(outline.positions.display(problem.path)) for problem in found]


def _point(name: str, plan: Plan, compiled: Bundle) -> Point:
    fields, derived = dict(flatten(plan.resolved)), dict(flatten(numbers(plan)))
    return Point(name, compiled.name, fields, derived, compiled.files[bundle.LOCK])


def _varying(points: list[Mapping[str, Any]]) -> list[str]:
    """Paths whose value is not the same everywhere, but for the name."""
    missing = object()
    paths = dict.fromkeys(path for fields in points for path in fields)
    return [
        path
        for path in paths
        if path not in ("name", "experiment")
        and any(fields.get(path, missing) != points[0].get(path, missing) for fields in points[1:])
    ]


def _page(name: str, target: str, points: list[Point], varying: list[str], warnings: list[Problem]) -> str:
    shown = varying[:_COLUMNS]
    follows = _varying([point.derived for point in points])[:_COLUMNS]
    parts = [
        f"# {name}: a sweep of {len(points)} on {target}",
        "Each point is a bundle of its own, in the folder of its name.",
    ]
    if len(varying) > len(shown):
        parts.append(f"{len(varying)} fields vary; the first {len(shown)} are shown, `{INDEX}` has all.")
    parts.append(
        _table(["point", *shown], [[point.name, *(_cell(point.fields, path) for path in shown)] for point in points])
    )
    if follows:
        rows = [[point.name, *(_cell(point.derived, path) for path in follows)] for point in points]
        parts += ["## What follows", _table(["point", *follows], rows)]
    total = sum(point.derived["trajectories_total"] for point in points)
    parts += ["## All points together", _table(["", ""], [["trajectories", f"{total:,}"]])]
    found = [f"- {problem.text}" for problem in warnings]
    parts += ["## Warnings", "\n".join(found) if found else "None."]
    return "\n\n".join(parts) + "\n"


def _cell(fields: Mapping[str, Any], path: str) -> str:
    if path not in fields:
        return "-"
    value = fields[path]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in lines
    )
